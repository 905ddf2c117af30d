//! The DMAR table: VT-d units, which functions each is responsible for, under which source id IOAPICs and HPETs send, and
//! what firmware has reserved for devices of its own (Intel VT-d specification, chapter 8).
//!
//! The table is untrusted. What does not fit, in bounds or in number, makes it [`Dmar::garbled`]: then nobody can say which
//! unit stands before a function, and the kernel leaves every unit off.

use super::acpi::{MAX_UNITS, each};
use super::field;
use super::memory_map::Region;
use heapless::Vec;

/// Scopes that are remembered, of all units and reserved regions together.
const MAX_SCOPES: usize = 96;
/// Regions reserved for devices that are remembered.
const MAX_RESERVED: usize = 16;
/// Steps from a root bus to a device that a scope may take.
const MAX_PATH: usize = 6;
/// Bytes before the first structure.
const HEADER: usize = 48;

/// A remapping hardware unit (8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Physical address of its registers.
    pub base: u64,
    /// PCI segment of the functions that it stands before.
    pub segment: u16,
    /// It stands before every function of the segment that no other unit's scope names.
    pub includes_all: bool,
}

/// Whom a scope belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The unit of this number.
    Unit(u8),
    /// A reserved region of a segment.
    Reserved(u16),
}

/// What a scope names (8.3.1, table 8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A function.
    Endpoint,
    /// A bridge and everything behind it.
    Hierarchy,
    /// An IOAPIC.
    IoApic,
    /// A block of timers.
    Hpet,
}

/// A device scope: a start bus and the way from there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scope {
    owner: Owner,
    kind: Kind,
    /// Number of an IOAPIC (as in the MADT) or of an HPET (as in its table).
    id: u8,
    bus: u8,
    /// Device * 8 + function of each step; never empty. Its length in one byte, as all of this is on the boot stack.
    path: Vec<u8, MAX_PATH, u8>,
}

/// What the table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dmar {
    /// The units, in the order of the table.
    pub units: Vec<Unit, MAX_UNITS>,
    /// Memory that firmware's devices use by DMA (8.4).
    pub reserved: Vec<Region, MAX_RESERVED>,
    /// The platform supports interrupt remapping (8.1, flag INTR_REMAP).
    pub interrupt_remapping: bool,
    /// Firmware asks that x2APIC mode is not used (8.1, flag X2APIC_OPT_OUT).
    pub x2apic_opt_out: bool,
    /// Something in it did not fit: it is not to be relied on.
    pub garbled: bool,
    scopes: Vec<Scope, MAX_SCOPES>,
}

/// The buses behind a bridge, by the requester id of the bridge: secondary and subordinate bus. `None` if that function is
/// no bridge.
pub trait Bridges: Fn(u16) -> Option<(u8, u8)> {}
impl<F: Fn(u16) -> Option<(u8, u8)>> Bridges for F {}

impl Dmar {
    /// Reads a whole table, which starts with its header.
    pub(super) fn read(&mut self, table: &[u8]) {
        let Some(flags) = field::<u8>(table, 37) else { return };
        self.interrupt_remapping = flags & 1 != 0;
        self.x2apic_opt_out = flags & 2 != 0;
        let word_length = |entry: &[u8]| field::<u16>(entry, 2).map(usize::from);
        let whole = each(table, HEADER, word_length, |entry| {
            let fits = match field::<u16>(entry, 0) {
                Some(0) => self.unit(entry),
                Some(1) => self.reserved(entry),
                _ => Some(()),
            };
            self.garbled |= fits.is_none();
            fits
        });
        self.garbled |= !whole;
    }

    /// Structure of type 0, DRHD: flags at 4, segment at 6, register base at 8, scopes from 16 on.
    fn unit(&mut self, entry: &[u8]) -> Option<()> {
        let number = self.units.len() as u8;
        let includes_all = field::<u8>(entry, 4)? & 1 != 0;
        let unit = Unit { base: field(entry, 8)?, segment: field(entry, 6)?, includes_all };
        self.units.push(unit).ok()?;
        self.scopes(entry, 16, Owner::Unit(number))
    }

    /// Structure of type 1, RMRR: segment at 6, first and last byte at 8 and 16, scopes from 24 on.
    fn reserved(&mut self, entry: &[u8]) -> Option<()> {
        let (segment, start, last) = (field(entry, 6)?, field(entry, 8)?, field::<u64>(entry, 16)?);
        self.reserved.push(Region { start, end: last.checked_add(1).filter(|&end| end > start)? }).ok()?;
        self.scopes(entry, 24, Owner::Reserved(segment))
    }

    /// Scopes: type at 0, length at 1, enumeration id at 4, start bus at 5, the path from 6 on. Types beyond those that are
    /// known name no PCI function.
    fn scopes(&mut self, entry: &[u8], from: usize, owner: Owner) -> Option<()> {
        let mut fits = true;
        let byte_length = |scope: &[u8]| field::<u8>(scope, 1).map(usize::from);
        let whole = each(entry, from, byte_length, |scope| {
            let kind = match field::<u8>(scope, 0)? {
                1 => Kind::Endpoint,
                2 => Kind::Hierarchy,
                3 => Kind::IoApic,
                4 => Kind::Hpet,
                _ => return Some(()),
            };
            let read = Scope::read(scope, owner, kind).and_then(|scope| self.scopes.push(scope).ok());
            fits &= read.is_some();
            read
        });
        (whole && fits).then_some(())
    }

    /// The source id under which an IOAPIC or HPET of this number sends its messages, and the number of the unit that
    /// remaps them; `None` if the table does not name it, or not by its place on a bus.
    pub fn source(&self, kind: Kind, id: u8) -> Option<(u16, usize)> {
        self.scopes.iter().find_map(|scope| match (scope.owner, &scope.path[..]) {
            (Owner::Unit(unit), &[place]) if scope.kind == kind && scope.id == id => {
                Some((u16::from(scope.bus) << 8 | u16::from(place), usize::from(unit)))
            }
            _ => None,
        })
    }

    /// The number of the unit that stands before a function; `None` if none does, so that its DMA cannot be confined.
    pub fn unit_of(&self, segment: u16, requester: u16, bridges: &impl Bridges) -> Option<usize> {
        let in_segment = |unit: usize| self.units.get(unit).is_some_and(|unit| unit.segment == segment);
        let named = self.scopes.iter().find_map(|scope| match scope.owner {
            Owner::Unit(unit) if in_segment(unit.into()) && scope.names(requester, bridges) == Some(true) => {
                Some(usize::from(unit))
            }
            _ => None,
        });
        named.or_else(|| self.units.iter().position(|unit| unit.includes_all && unit.segment == segment))
    }

    /// True if firmware has reserved memory for a function's DMA: it is never handed out. Also true where the table names
    /// one that cannot be found.
    pub fn is_reserved(&self, segment: u16, requester: u16, bridges: &impl Bridges) -> bool {
        self.scopes
            .iter()
            .any(|scope| scope.owner == Owner::Reserved(segment) && scope.names(requester, bridges) != Some(false))
    }
}

impl Scope {
    fn read(scope: &[u8], owner: Owner, kind: Kind) -> Option<Scope> {
        let (id, bus, steps) = (field(scope, 4)?, field(scope, 5)?, scope.get(6..)?);
        let mut path = Vec::new();
        for step in steps.chunks_exact(2) {
            let &[device @ 0..32, function @ 0..8] = step else { return None };
            path.push(device << 3 | function).ok()?;
        }
        (!path.is_empty() && steps.len().is_multiple_of(2)).then_some(Scope { owner, kind, id, bus, path })
    }

    /// True if it names a function, or a bridge that leads to it. `None` if a step of its path is no bridge.
    fn names(&self, requester: u16, bridges: &impl Bridges) -> Option<bool> {
        let (&last, steps) = self.path.split_last()?;
        let mut bus = self.bus;
        for &step in steps {
            (bus, _) = bridges(u16::from(bus) << 8 | u16::from(step))?;
        }
        let place = u16::from(bus) << 8 | u16::from(last);
        match self.kind {
            Kind::Endpoint => Some(place == requester),
            Kind::Hierarchy => {
                let (secondary, subordinate) = bridges(place)?;
                let [behind, _] = requester.to_be_bytes();
                Some(place == requester || (secondary..=subordinate).contains(&behind))
            }
            Kind::IoApic | Kind::Hpet => Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate alloc;
    use super::super::tests::random;
    use super::*;
    use alloc::vec::Vec;

    fn scope(kind: u8, id: u8, bus: u8, path: &[u8]) -> Vec<u8> {
        let mut scope = alloc::vec![kind, 6 + path.len() as u8, 0, 0, id, bus];
        scope.extend_from_slice(path);
        scope
    }

    fn structure(kind: u16, head: &[u8], scopes: &[Vec<u8>]) -> Vec<u8> {
        let body = [head, &scopes.concat()].concat();
        let length = 4 + body.len() as u16;
        [&kind.to_le_bytes()[..], &length.to_le_bytes(), &body].concat()
    }

    fn drhd(flags: u8, segment: u16, base: u64, scopes: &[Vec<u8>]) -> Vec<u8> {
        structure(0, &[&[flags, 0][..], &segment.to_le_bytes(), &base.to_le_bytes()].concat(), scopes)
    }

    fn rmrr(segment: u16, start: u64, last: u64, scopes: &[Vec<u8>]) -> Vec<u8> {
        let words = [start.to_le_bytes(), last.to_le_bytes()].concat();
        structure(1, &[&[0, 0][..], &segment.to_le_bytes(), &words].concat(), scopes)
    }

    fn table(flags: u8, structures: &[Vec<u8>]) -> Vec<u8> {
        let mut table = alloc::vec![0; HEADER];
        table[37] = flags;
        table.extend_from_slice(&structures.concat());
        table
    }

    fn read(table: &[u8]) -> Dmar {
        let mut dmar = Dmar::default();
        dmar.read(table);
        dmar
    }

    /// A bridge at 00:01.0 to buses 1 to 3, one behind it at 01:02.0 to bus 2.
    fn bridges(place: u16) -> Option<(u8, u8)> {
        match place {
            0x0008 => Some((1, 3)),
            0x0110 => Some((2, 2)),
            _ => None,
        }
    }

    fn sample() -> Vec<u8> {
        table(
            1,
            &[
                drhd(0, 0, 0xfed9_0000, &[scope(1, 0, 0, &[2, 0]), scope(2, 0, 0, &[1, 0, 2, 0])]),
                drhd(1, 0, 0xfed9_1000, &[scope(3, 7, 0xff, &[0, 0]), scope(4, 0, 0xf0, &[31, 7])]),
                rmrr(0, 0x7000_0000, 0x7000_ffff, &[scope(1, 0, 0, &[0x1d, 0])]),
                structure(4, &[0; 8], &[]),
            ],
        )
    }

    #[test]
    fn units_scopes_and_reserved_regions_are_read() {
        let dmar = read(&sample());
        assert!(dmar.interrupt_remapping && !dmar.x2apic_opt_out && !dmar.garbled);
        assert_eq!(dmar.units[0], Unit { base: 0xfed9_0000, segment: 0, includes_all: false });
        assert_eq!(dmar.units[1], Unit { base: 0xfed9_1000, segment: 0, includes_all: true });
        assert_eq!(dmar.reserved, [Region { start: 0x7000_0000, end: 0x7001_0000 }]);
        assert_eq!(dmar.source(Kind::IoApic, 7), Some((0xff00, 1)));
        assert_eq!(dmar.source(Kind::Hpet, 0), Some((0xf0ff, 1)));
        assert_eq!(dmar.source(Kind::IoApic, 0), None);
        assert!(read(&table(3, &[])).x2apic_opt_out);
    }

    #[test]
    fn a_function_has_the_unit_whose_scope_names_it_or_the_one_that_includes_all() {
        let dmar = read(&sample());
        for (requester, unit) in [(0x0010, 0), (0x0110, 0), (0x0200, 0), (0x02ff, 0), (0x0100, 1), (0x0300, 1)] {
            assert_eq!(dmar.unit_of(0, requester, &bridges), Some(unit), "{requester:#x}");
        }
        assert_eq!(dmar.unit_of(1, 0x0010, &bridges), None, "another segment");
        let alone = read(&table(1, &[drhd(0, 0, 0xfed9_0000, &[scope(1, 0, 0, &[2, 0])])]));
        assert_eq!(alone.unit_of(0, 0x0018, &bridges), None);
    }

    #[test]
    fn reserved_functions_are_known_and_one_that_is_not_found_reserves_all() {
        let dmar = read(&sample());
        assert!(dmar.is_reserved(0, 0x00e8, &bridges) && !dmar.is_reserved(0, 0x00f0, &bridges));
        assert!(!dmar.is_reserved(1, 0x00e8, &bridges));
        let lost = read(&table(1, &[rmrr(0, 0x1000, 0x1fff, &[scope(1, 0, 0, &[9, 0, 1, 0])])]));
        assert!(!lost.garbled && lost.is_reserved(0, 0x00f0, &bridges));
    }

    #[test]
    fn what_does_not_fit_makes_the_table_garbled() {
        let unit = |scopes: &[Vec<u8>]| drhd(1, 0, 0xfed9_0000, scopes);
        let mut short = unit(&[scope(1, 0, 0, &[2, 0])]);
        short[17] = 200;
        let far = [1, 0].repeat(MAX_PATH + 1);
        for (what, structures) in [
            ("a scope that runs off", alloc::vec![short]),
            ("a scope without a path", alloc::vec![unit(&[scope(1, 0, 0, &[])])]),
            ("half a step", alloc::vec![unit(&[scope(1, 0, 0, &[2])])]),
            ("a device of too high a number", alloc::vec![unit(&[scope(1, 0, 0, &[32, 0])])]),
            ("a path that is too long", alloc::vec![unit(&[scope(1, 0, 0, &far)])]),
            ("too many scopes", alloc::vec![unit(&alloc::vec![scope(1, 0, 0, &[2, 0]); MAX_SCOPES + 1])]),
            ("too many units", alloc::vec![unit(&[]); MAX_UNITS + 1]),
            ("too many regions", alloc::vec![rmrr(0, 0x1000, 0x1fff, &[]); MAX_RESERVED + 1]),
            ("a region that ends before it starts", alloc::vec![rmrr(0, 0x2000, 0x1fff, &[])]),
            ("a region that never ends", alloc::vec![rmrr(0, 0x2000, u64::MAX, &[])]),
            ("half a unit", alloc::vec![alloc::vec![0, 0, 8, 0, 1, 0, 0, 0]]),
            ("a structure that runs off", alloc::vec![alloc::vec![0, 0, 99, 0]]),
            ("bytes behind the last structure", alloc::vec![unit(&[]), alloc::vec![0]]),
        ] {
            assert!(read(&table(1, &structures)).garbled, "{what}");
        }
    }

    #[test]
    fn garbled_tables_are_survived() {
        let mut state = 5;
        for _ in 0..50_000 {
            let mut table = sample();
            for _ in 0..1 + random(&mut state) % 6 {
                let at = random(&mut state) as usize % table.len();
                table[at] = random(&mut state) as u8;
            }
            table.truncate(table.len() - random(&mut state) as usize % 40);
            let dmar = read(&table);
            for requester in [0, 0x10, 0x200, 0xffff] {
                let _ = (dmar.unit_of(0, requester, &bridges), dmar.is_reserved(0, requester, &bridges));
            }
        }
    }
}
