//! Configuration spaces of devices that say anything, and something else the next time.

use crate::bytes::Bytes;
use crate::{Checked, Target, ensure};
use kernel::firmware::memory_map::Region;
use kernel::pci::registers::{BAR0, COMMAND};
use kernel::pci::{Bdf, ConfigAccess, Functions, Kind, control, filter, vfs};
use std::cell::{Cell, RefCell};

/// Three root functions, of which the first may be a bridge, and two behind it.
const PLACES: [Bdf; 5] =
    [Bdf::new(0, 1, 0), Bdf::new(0, 2, 0), Bdf::new(0, 3, 0), Bdf::new(1, 0, 0), Bdf::new(1, 0, 1)];
const WORDS: usize = 1024;
const PLATFORM: [Region; 2] =
    [Region { start: 0, end: 0x8000_0000 }, Region { start: 0xfec0_0000, end: 0x1_0000_0000 }];
/// Accesses to look at 3 buses, and at each function, virtual ones among them, some thousand times.
const ACCESSES: u64 = 3 * 256 + 64 * 4_000;

/// Records of 10 bytes: function; what is changed; offset; value; how it is changed. See [`Space`].
pub const CONFIGURATION: Target = Target {
    name: "pci",
    about: "Configuration spaces: nothing that is handed out overlaps anything, registers are left as they were, looking ends.",
    check: |input| configuration(input, &PLATFORM),
    twin: |input| configuration(input, &PLATFORM[1..]),
    seeds,
    inputs: 15_000,
};

/// A function's configuration space.
#[derive(Clone)]
struct Space {
    words: [u32; WORDS],
    /// Bits that can be written.
    writable: [u32; WORDS],
    /// Bits that are others each time they are read.
    restless: [u32; WORDS],
}

impl Space {
    /// A function with a list of capabilities, and one 32-bit BAR of 64 KiB and one 64-bit BAR of 16 KiB.
    fn new(number: u32, class: u32) -> Space {
        let mut space = Space { words: [0; WORDS], writable: [0; WORDS], restless: [0; WORDS] };
        space.words[0] = 0x10c9_8086;
        (space.words[1], space.writable[1]) = (0x10_0006, 0x547);
        space.words[2] = class << 8;
        let base = 0xe000_0000 + number * 0x10_0000;
        (space.words[4], space.writable[4]) = (base, 0xffff_0000);
        (space.words[6], space.writable[6]) = ((base + 0x2_0000) | 0xc, 0xffff_c000);
        space.writable[7] = u32::MAX;
        space.words[13] = 0x40;
        // MSI-X with 4 messages in the second BAR, PCI Express with resets, SR-IOV with 4 virtual functions.
        space.words[16] = 0x3_6011;
        (space.words[17], space.words[18]) = (2, 0x2002);
        space.words[24] = 0x0002_0010;
        space.words[25] = 1 << 28;
        space.writable[26] = 0xffff;
        space.words[64] = 0x1_0010;
        space.words[67] = 0x0004_0004;
        (space.words[66], space.writable[66]) = (0, 0x1f);
        (space.words[68], space.writable[68]) = (0, 0xffff);
        space.words[69] = 0x0001_0080;
        space.words[71] = 0x553;
        (space.words[72], space.writable[72]) = (1, u32::MAX);
        (space.words[73], space.writable[73]) = (0xc, 0xffff_c000);
        space.writable[74] = u32::MAX;
        space
    }

    fn bridge() -> Space {
        let mut space = Space::new(0, 0x06_0400);
        space.words[3] = 0x01_0000;
        (space.words[4], space.writable[4]) = (0, 0);
        space.words[6] = 0x0002_0100;
        (space.words[8], space.writable[8]) = (0xe7f0_e000, 0xfff0_fff0);
        (space.words[9], space.writable[9]) = (0x0001_fff1, 0xfff0_fff0);
        space.words[64] = 0;
        space
    }
}

struct Segment {
    spaces: [Space; PLACES.len()],
    accesses: Cell<u64>,
    noise: Cell<u32>,
    /// The first access that is none.
    fault: RefCell<Option<String>>,
}

impl Segment {
    fn of(input: &[u8]) -> Segment {
        let ends = [1, 2, 3, 4].map(|number| Space::new(number, 0x02_0000));
        let [a, b, c, d] = ends;
        let spaces = [Space::bridge(), a, b, c, d];
        let mut segment = Segment { spaces, accesses: Cell::new(0), noise: Cell::new(1), fault: RefCell::new(None) };
        let mut bytes = Bytes::new(input);
        while let (Some(place), Some(how), Some(offset), Some(value)) =
            (bytes.byte(), bytes.byte(), bytes.half(), bytes.word())
        {
            let space = &mut segment.spaces[usize::from(place) % PLACES.len()];
            let index = usize::from(offset) % WORDS;
            match how % 4 {
                0 => space.words[index] = value,
                1 => space.words[index] ^= value,
                2 => space.writable[index] = value,
                _ => space.restless[index] = value,
            }
        }
        segment
    }

    fn at(&self, function: Bdf) -> Option<usize> {
        PLACES.iter().position(|&place| place == function)
    }

    fn count(&self, offset: u16, width: u16) {
        self.accesses.set(self.accesses.get() + 1);
        if offset >= 4096 || !offset.is_multiple_of(width) {
            self.fault.borrow_mut().get_or_insert_with(|| format!("access of {width} bytes at {offset:#x}"));
        }
    }

    fn change(&mut self, function: Bdf, offset: u16, value: u32, mask: u32) {
        let Some(place) = self.at(function) else { return };
        let (space, index) = (&mut self.spaces[place], usize::from(offset / 4) % WORDS);
        let writable = space.writable[index] & mask;
        space.words[index] = space.words[index] & !writable | value & writable;
    }

    /// The registers of addresses of a function that says the same each time.
    fn addresses(&self, place: usize) -> Option<[u32; 6]> {
        let space = &self.spaces[place];
        let first = usize::from(BAR0 / 4);
        let is_steady = space.restless == [0; WORDS];
        is_steady.then(|| std::array::from_fn(|number| space.words[first + number]))
    }
}

impl ConfigAccess for Segment {
    fn read(&self, function: Bdf, offset: u16) -> u32 {
        self.count(offset, 4);
        let Some(place) = self.at(function) else { return u32::MAX };
        let (space, index) = (&self.spaces[place], usize::from(offset / 4) % WORDS);
        self.noise.set(self.noise.get().wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f));
        space.words[index] ^ self.noise.get() & space.restless[index]
    }

    fn write(&mut self, function: Bdf, offset: u16, value: u32) {
        self.count(offset, 4);
        self.change(function, offset, value, u32::MAX);
    }

    fn write_half(&mut self, function: Bdf, offset: u16, value: u16) {
        self.count(offset, 2);
        let shift = (offset & 2) * 8;
        self.change(function, offset & !3, u32::from(value) << shift, 0xffff << shift);
    }
}

/// What can be handed out overlaps nothing of the platform and of others.
fn nothing_overlaps(functions: &Functions) -> Checked {
    let all: Vec<_> = functions
        .iter()
        .flat_map(|function| function.memory().map(move |memory| (function.at, memory.region)))
        .collect();
    for (number, &(at, region)) in all.iter().enumerate() {
        let is_whole = region.bytes() != 0 && region.start.is_multiple_of(4096) && region.end.is_multiple_of(4096);
        ensure(is_whole, || format!("{at} {region:x?} is not in whole pages"))?;
        let shared = PLATFORM.iter().find(|platform| platform.overlaps(region));
        ensure(shared.is_none(), || format!("{at} {region:x?} is of the platform: {shared:x?}"))?;
        // Two registers of one function may share a page.
        let other = all[number + 1..].iter().find(|(other, theirs)| *other != at && theirs.overlaps(region));
        ensure(other.is_none(), || format!("{at} {region:x?} overlaps {other:x?}"))?;
    }
    Ok(())
}

fn configuration(input: &[u8], platform: &[Region]) -> Checked {
    let mut segment = Segment::of(input);
    let before: [_; PLACES.len()] = std::array::from_fn(|place| segment.addresses(place));
    let mut functions = Box::new(Functions::new());
    functions.enumerate(&mut segment, 0..=2, platform.iter().copied());
    nothing_overlaps(&functions)?;
    for (place, before) in before.iter().enumerate() {
        let after = segment.addresses(place);
        ensure(after == *before, || format!("{}: {before:x?} became {after:x?}", PLACES[place]))?;
    }
    let found: Vec<Bdf> = functions.iter().map(|function| function.at).collect();
    for at in found {
        let Some(function) = functions.get(at).copied() else { continue };
        for offset in (0..4096).step_by(4) {
            filter::read(&function, offset, 0x1234_5678);
            let written = filter::write(&function, offset, 0, u32::MAX);
            let may = offset == COMMAND || function.offsets.express != 0 && offset == function.offsets.express + 8;
            ensure(written.is_none() || may, || format!("{at}: its holder may write {offset:#x}"))?;
        }
        for number in [0, 1, 2047, u16::MAX] {
            let entry = function.msix.and_then(|msix| msix.entry(&function.bars, number)).map(|entry| entry.get());
            let is_own = |entry| function.memory().any(|memory| memory.region.contains(Region::of(entry, 16)));
            ensure(entry.is_none_or(is_own), || format!("{at}: message {number} at {entry:x?}"))?;
        }
        if let Some(count) = function.sriov.map(|sriov| sriov.max.min(8))
            && let Ok(plan) = vfs::plan(&functions, at, count)
            && vfs::enable(&mut functions, &mut segment, &plan).is_some()
        {
            let started: Vec<Bdf> =
                (0..count).filter_map(|index| vfs::start(&mut functions, &mut segment, at, index)).collect();
            nothing_overlaps(&functions)?;
            let is_virtual = |at: &Bdf| functions.get(*at).is_some_and(|one| matches!(one.kind, Kind::Virtual(_)));
            ensure(started.iter().all(is_virtual), || format!("{at}: {started:?}"))?;
            ensure(vfs::disable(&mut functions, &mut segment, at).is_some(), || format!("{at}: not disabled"))?;
        }
        let _ = control::reset(&mut segment, &function);
        let _ = control::restore(&mut segment, &function);
    }
    nothing_overlaps(&functions)?;
    let accesses = segment.accesses.get();
    ensure(accesses <= ACCESSES, || format!("{accesses} accesses"))?;
    segment.fault.into_inner().map_or(Ok(()), Err)
}

fn seeds() -> Vec<Vec<u8>> {
    let record = |place: u8, how: u8, index: u16, value: u32| {
        [&[place, how][..], &index.to_le_bytes(), &value.to_le_bytes()].concat()
    };
    vec![
        Vec::new(),
        // A second function; memory where the platform's is; memory of another function.
        record(3, 0, 3, 0x80_0000),
        record(1, 0, 4, 0x1000_0000),
        record(1, 0, 4, 0xe020_0000),
        [record(2, 3, 4, 0x00ff_0000), record(1, 2, 4, 0xffff_f000)].concat(),
        // Lists that lead round, a table that lies elsewhere, more virtual functions than there is room for.
        [record(1, 0, 16, 0x3_4011), record(1, 1, 17, 0x10_0003)].concat(),
        [record(1, 0, 67, 0xffff_ffff), record(1, 0, 69, 0)].concat(),
    ]
}
