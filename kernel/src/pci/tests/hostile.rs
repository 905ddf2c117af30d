//! Configuration spaces that make no sense: random ones, those of the emulator with random changes, and devices that say
//! something else each time. Whatever they say: accesses are bounded, nothing that can be handed out overlaps anything,
//! registers are as they were, and no virtual function is where somebody else is.

use super::fake::Space;
use super::*;
use crate::pci::registers::*;
use crate::pci::{Function, Kind, MAX_FUNCTIONS, control, filter, vfs};
use crate::testing::Random;
use crate::types::Hpa;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::RefCell;

/// Accesses to a function at most: two lists of capabilities, and a fixed number for the rest.
const ACCESSES: u64 = 48 + 960 + 200;
/// Accesses to find out that there is no more.
const SEARCH: u64 = 65_536;

/// Random dwords, with something of a header: a vendor, and lists to walk along.
fn random_space(random: &mut Random) -> Space {
    let mut space = Space::empty();
    for index in 0..space.words.len() {
        // Zeros and ones too, and bits that can mostly be written or mostly not.
        let word = |random: &mut Random| match random.below(4) {
            0 => 0,
            1 => u32::MAX << random.below(32),
            _ => random.next() as u32,
        };
        (space.words[index], space.writable[index]) = (word(random), word(random));
    }
    space.words[0] = random.next() as u32 & !1;
    space.words[3] = random.next() as u32 & 0xff83_ffff;
    space.words[6] = random.next() as u32 & 0x0307_0703;
    // Memory in a small part of the addresses, so that it often overlaps somebody else's.
    for index in 4..10 {
        if random.below(3) != 0 {
            space.writable[index] = u32::MAX << random.within(8, 18);
            let address = 0xe000_0000 + random.below(1 << 22) as u32;
            space.words[index] = (address & space.writable[index]) | (random.below(2) as u32 * 8);
        }
    }
    // Capabilities that the kernel knows, one after the other and with random contents.
    if random.below(4) != 0 {
        space.words[1] |= 0x10_0000;
        space.words[13] = 0x40;
        for at in (0x40..0x100).step_by(0x10) {
            let id = [0x05, 0x10, 0x11, 0x14, 0x01][random.below(5) as usize];
            space.words[at / 4] = random.next() as u32 & 0xffff_0000 | (at as u32 + 0x10) << 8 & 0xff00 | id;
        }
        for at in (0x100..0x1000).step_by(0x40) {
            let id = [0x0d, 0x0f, 0x10, 0x13, 0x1b, 0x0e][random.below(6) as usize];
            space.words[at / 4] = (at as u32 + 0x40) << 20 | 1 << 16 | id;
        }
    }
    space
}

/// A machine of random functions on a few buses.
fn random_machine(random: &mut Random) -> Fake {
    let mut fake = Fake::default();
    for _ in 0..random.within(1, 12) {
        let at = Bdf::new(random.below(4) as u8, random.below(3) as u8, 0);
        let space = random_space(random);
        fake.put(at, space);
    }
    fake
}

/// The emulator's machine with some dwords, or bits that can be written, changed.
fn changed_machine(random: &mut Random) -> Fake {
    let mut fake = machine();
    let places: Vec<Bdf> = fake.spaces.keys().copied().collect();
    for _ in 0..random.within(1, 12) {
        let at = places[random.below(places.len() as u64) as usize];
        let space = fake.spaces.get_mut(&at).unwrap();
        let interesting: Vec<usize> = (0..space.words.len()).filter(|&index| space.words[index] != 0).collect();
        let index = match random.below(3) {
            0 => random.below(0x40) as usize,
            _ => interesting[random.below(interesting.len() as u64) as usize],
        };
        let bit = 1 << random.below(32);
        match random.below(4) {
            0 => space.words[index] = random.next() as u32,
            1 => space.words[index] ^= bit,
            2 => space.writable[index] ^= bit,
            _ => {
                // What another function has there.
                let word = fake.spaces[&places[random.below(places.len() as u64) as usize]].words[index];
                fake.spaces.get_mut(&at).unwrap().words[index] = word;
            }
        }
    }
    fake
}

/// What can be handed out, of everybody: disjoint, page by page, from each other and from the platform.
fn nothing_overlaps(functions: &Functions) {
    let all: Vec<_> =
        functions.iter().flat_map(|function| function.memory().map(move |memory| (function, memory))).collect();
    for (index, (function, memory)) in all.iter().enumerate() {
        let region = memory.region;
        assert!(region.bytes() != 0 && region.start.is_multiple_of(4096) && region.end.is_multiple_of(4096));
        assert!(!PLATFORM.iter().any(|platform| platform.overlaps(region)), "{}: {region:x?}", function.at);
        for (other, theirs) in &all[index + 1..] {
            assert!(
                other.at == function.at && region.bytes().min(theirs.region.bytes()) == 4096
                    || !region.overlaps(theirs.region),
                "{} {region:x?} and {} {:x?}",
                function.at,
                other.at,
                theirs.region
            );
        }
        for bridge in functions.path(function).expect("its way is known") {
            assert!(functions.get(bridge).unwrap().bridge().unwrap().windows.contain(region));
        }
        // Where the table is, by the capability's words alone.
        if let Some(msix) = function.msix {
            for place in [msix.table, msix.pending] {
                let start = function.bars[usize::from(place.bar)].unwrap().region.start + u64::from(place.offset);
                for page in [start, start + u64::from(place.bytes) - 1] {
                    assert!(all.iter().all(|(_, memory)| !memory.gives(Hpa::new(page))), "{}", function.at);
                }
            }
        }
        let command = function.at;
        assert!(function.kind != Kind::Other, "{command}");
    }
}

/// What the registers of addresses say, and the command register without what is turned off.
fn registers(fake: &Fake) -> Vec<(Bdf, Vec<u32>)> {
    let of = |space: &Space| {
        let mut words = space.words[usize::from(BAR0 / 4)..usize::from(CAPABILITIES / 4)].to_vec();
        // The ROM's enable bit is turned off.
        words[usize::from((ROM - BAR0) / 4)] &= !ROM_ENABLE;
        words.push(space.word(COMMAND) & 0xfbfa);
        words
    };
    fake.spaces.iter().map(|(&at, space)| (at, of(space))).collect()
}

/// Finds, plans, enables, starts, resets and disables, and looks at everything in between.
fn all_of(fake: &mut Fake, functions: &mut Functions, random: &mut Random) {
    fake.accesses.set(0);
    functions.enumerate(fake, 0..=255, PLATFORM);
    let count = functions.iter().count() as u64;
    assert!(fake.accesses.get() <= SEARCH + count * ACCESSES, "{} accesses", fake.accesses.get());
    nothing_overlaps(functions);
    let all: Vec<Bdf> = functions.iter().map(|function| function.at).collect();
    for at in all {
        let function = *functions.get(at).unwrap();
        for _ in 0..20 {
            let (offset, value) = (random.below(4200) as u16, random.next() as u32);
            filter::read(&function, offset, value);
            let allowed = (offset == COMMAND || offset == function.offsets.express + 8) && offset != 8;
            assert!(filter::write(&function, offset, 0, value).is_none() || allowed);
            assert!(filter::write(&function, offset, u32::MAX, value).is_none(), "nobody knows what it says");
        }
        if let Some(msix) = function.msix {
            for number in [0, msix.entries - 1, msix.entries, u16::MAX] {
                let entry = msix.entry(&function.bars, number);
                assert!(entry.is_none() || number < msix.entries);
                let is_its_own = |entry: crate::types::Hpa| {
                    function.memory().any(|memory| memory.region.contains(Region::of(entry.get(), 16)))
                };
                assert!(entry.is_none_or(is_its_own), "the kernel would write to what was refused");
            }
        }
        let Some(sriov) = function.sriov else { continue };
        let wanted = match random.below(3) {
            0 => random.next() as u16,
            _ => random.within(1, 8) as u16,
        };
        let Ok(plan) = vfs::plan(functions, at, wanted) else { continue };
        for index in 0..wanted {
            let id = sriov.routing_id(at, index).unwrap();
            assert!(functions.get(id).is_none());
        }
        for (bridge, window) in &plan.windows {
            let before = functions.get(*bridge).unwrap().bridge().unwrap().windows.memory;
            assert!(window.contains(before) || before.bytes() == 0);
        }
        if vfs::enable(functions, fake, &plan).is_some() {
            let started: Vec<Bdf> = (0..wanted).filter_map(|index| vfs::start(functions, fake, at, index)).collect();
            nothing_overlaps(functions);
            for at in started {
                let function = *functions.get(at).unwrap();
                let _ = control::reset(fake, &function);
                let _ = control::restore(fake, &function);
            }
            if random.below(2) == 0 {
                assert!(vfs::disable(functions, fake, at).is_some());
            }
        }
        nothing_overlaps(functions);
    }
    assert!(functions.iter().count() <= MAX_FUNCTIONS);
}

#[test]
fn random_configuration_spaces() {
    let mut functions = Box::new(Functions::new());
    let mut found = 0;
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let mut fake = random_machine(&mut random);
        all_of(&mut fake, &mut functions, &mut random);
        found += functions.iter().flat_map(Function::memory).count();
    }
    assert!(found > 50, "{found} pieces of memory: nothing was tested");
}

#[test]
fn configuration_spaces_of_the_emulator_with_changes() {
    let mut functions = Box::new(Functions::new());
    let (mut memory, mut virtual_functions) = (0, 0);
    for seed in 0..2000 {
        let mut random = Random::new(seed);
        let mut fake = changed_machine(&mut random);
        all_of(&mut fake, &mut functions, &mut random);
        memory += functions.iter().flat_map(Function::memory).count();
        virtual_functions += functions.iter().filter(|function| matches!(function.kind, Kind::Virtual(_))).count();
    }
    assert!(
        memory > 5000 && virtual_functions > 1000,
        "{memory} pieces of memory, {virtual_functions} virtual functions"
    );
}

#[test]
fn registers_are_as_they_were_after_measuring() {
    let mut functions = Box::new(Functions::new());
    for seed in 0..1000 {
        let mut random = Random::new(seed);
        let mut fake = if seed % 2 == 0 { random_machine(&mut random) } else { changed_machine(&mut random) };
        // Capabilities may lie upon each other, and have other registers of their own: here, nothing but the header.
        for space in fake.spaces.values_mut() {
            space.words[1] &= !0x10_0000;
        }
        let before = registers(&fake);
        functions.enumerate(&mut fake, 0..=255, PLATFORM);
        assert_eq!(registers(&fake), before, "seed {seed}");
    }
}

#[test]
fn devices_that_say_something_else_each_time() {
    let mut functions = Box::new(Functions::new());
    for seed in 0..1000 {
        let mut random = Random::new(seed);
        let mut fake = changed_machine(&mut random);
        let mut lies = Random::new(!seed);
        let often = random.within(2, 200);
        // The devices lie, the bridges and the platform do not.
        fake.liar = Some(RefCell::new(Box::new(move |at: Bdf, _| {
            (at.bus() != 0 && lies.below(often) == 0).then(|| lies.next() as u32)
        })));
        all_of(&mut fake, &mut functions, &mut random);
    }
}
