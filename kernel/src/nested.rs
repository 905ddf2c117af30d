//! Entries of nested page tables and of IOMMU tables: pure encoding and decoding.
//!
//! A tree has four levels of 512 entries (of an IOMMU domain, three or four). An entry is empty, names the table of the next level, or maps memory (a
//! *leaf*: 4 KiB at level 1, 2 MiB at level 2, 1 GiB at level 3). An entry of one format never reads as something else
//! than what was encoded.

use crate::types::{Gpa, Hpa};
use cap_spec::abi::Rights;

/// The level of the root table of a domain.
pub const IO_ROOT_LEVEL: u8 = 3;
/// The level of a VM's root table.
pub const ROOT_LEVEL: u8 = 4;
/// log2 of the bytes of guest-physical address space that a tree covers.
pub const GPA_BITS: u32 = 48;

/// Address bits of an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bit that makes an entry of level 2 or 3 a leaf, in both formats.
const LARGE: u64 = 1 << 7;

/// AMD nested paging: entries of ordinary long-mode tables (APM 2, 5.3 and 15.25).
mod npt {
    pub const PRESENT: u64 = 1 << 0;
    pub const WRITE: u64 = 1 << 1;
    /// Guest accesses count as user accesses.
    pub const USER: u64 = 1 << 2;
    pub const UNCACHED: u64 = 1 << 3 | 1 << 4;
    pub const NO_EXECUTE: u64 = 1 << 63;
}

/// Intel extended page tables (SDM 3C, 29.3.2).
mod ept {
    pub const READ: u64 = 1 << 0;
    pub const WRITE: u64 = 1 << 1;
    pub const EXECUTE: u64 = 1 << 2;
    pub const WRITE_BACK: u64 = 6 << 3;
    pub const ALL: u64 = READ | WRITE | EXECUTE;
}

/// Intel VT-d second-stage tables (VT-d specification, 9.8). Snooping (bit 11) stays off: it is reserved where a unit
/// cannot force it, and the devices of this kernel snoop by themselves.
mod vtd {
    pub const READ: u64 = 1 << 0;
    pub const WRITE: u64 = 1 << 1;
    pub const ALL: u64 = READ | WRITE;
}

/// Whose tables they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryFormat {
    /// AMD nested page tables.
    Npt,
    /// Intel extended page tables.
    Ept,
    /// Intel VT-d second-stage tables of an IOMMU domain.
    Vtd,
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing.
    Empty,
    /// The table of the next level.
    Table(Hpa),
    /// Memory.
    Leaf(Hpa),
}

impl EntryFormat {
    /// An entry that names the table of the next level; what it restricts is nothing.
    #[inline]
    pub const fn table(self, table: Hpa) -> u64 {
        let address = table.get() & ADDRESS;
        match self {
            EntryFormat::Npt => address | npt::PRESENT | npt::WRITE | npt::USER,
            EntryFormat::Ept => address | ept::ALL,
            EntryFormat::Vtd => address | vtd::ALL,
        }
    }

    /// An entry that maps memory with these rights (READ included, but for VT-d) at a level (1 to 3). Device memory is
    /// uncached; an IOMMU has no say in that, nor in execution.
    #[inline]
    pub const fn leaf(self, base: Hpa, rights: Rights, level: u8, device: bool) -> u64 {
        let mut entry = base.get() & ADDRESS;
        if level > 1 {
            entry |= LARGE;
        }
        match self {
            EntryFormat::Npt => {
                entry |= npt::PRESENT | npt::USER;
                if rights.contains(Rights::WRITE) {
                    entry |= npt::WRITE;
                }
                if !rights.contains(Rights::EXECUTE) {
                    entry |= npt::NO_EXECUTE;
                }
                if device {
                    entry |= npt::UNCACHED;
                }
            }
            EntryFormat::Ept => {
                entry |= ept::READ;
                if rights.contains(Rights::WRITE) {
                    entry |= ept::WRITE;
                }
                if rights.contains(Rights::EXECUTE) {
                    entry |= ept::EXECUTE;
                }
                if !device {
                    entry |= ept::WRITE_BACK;
                }
            }
            EntryFormat::Vtd => {
                if rights.contains(Rights::READ) {
                    entry |= vtd::READ;
                }
                if rights.contains(Rights::WRITE) {
                    entry |= vtd::WRITE;
                }
            }
        }
        entry
    }

    /// What an entry of a table of this level (1 to 4) says.
    #[inline]
    pub const fn decode(self, entry: u64, level: u8) -> Entry {
        let present = match self {
            EntryFormat::Npt => entry & npt::PRESENT != 0,
            // A device's entry has no bit for execution, which is 0 then.
            EntryFormat::Ept | EntryFormat::Vtd => entry & ept::ALL != 0,
        };
        if !present {
            Entry::Empty
        } else if level == 1 || (level < ROOT_LEVEL && entry & LARGE != 0) {
            Entry::Leaf(Hpa::new(entry & ADDRESS))
        } else {
            Entry::Table(Hpa::new(entry & ADDRESS))
        }
    }

    /// The rights of a leaf, for checkers.
    #[cfg(any(test, feature = "host"))]
    pub const fn rights(self, entry: u64) -> Rights {
        let (read, write, execute) = match self {
            EntryFormat::Npt => (entry & npt::PRESENT != 0, entry & npt::WRITE != 0, entry & npt::NO_EXECUTE == 0),
            EntryFormat::Ept => (entry & ept::READ != 0, entry & ept::WRITE != 0, entry & ept::EXECUTE != 0),
            EntryFormat::Vtd => (entry & vtd::READ != 0, entry & vtd::WRITE != 0, false),
        };
        let mut rights = Rights::empty();
        if read {
            rights = rights.union(Rights::READ);
        }
        if write {
            rights = rights.union(Rights::WRITE);
        }
        if execute {
            rights = rights.union(Rights::EXECUTE);
        }
        rights
    }
}

/// log2 of the bytes that one entry of a table of this level covers.
#[inline]
pub const fn entry_bits(level: u8) -> u32 {
    3u32.wrapping_add(9u32.wrapping_mul(level as u32))
}

/// Which entry of a table of this level (1 to 4) an address selects.
#[inline]
pub const fn entry_index(gpa: Gpa, level: u8) -> usize {
    (gpa.get().wrapping_shr(entry_bits(level)) & 511) as usize
}

/// The level of the table that holds the leaf of a frame of this size (12, 21 or 30 bits).
#[inline]
pub const fn leaf_level(bits: u8) -> u8 {
    match bits {
        30 => 3,
        21 => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_what_is_decoded() {
        let base = Hpa::new(0x1234_4000_0000);
        for format in [EntryFormat::Npt, EntryFormat::Ept, EntryFormat::Vtd] {
            assert_eq!(format.decode(0, 1), Entry::Empty);
            for level in 2..=ROOT_LEVEL {
                assert_eq!(format.decode(format.table(base), level), Entry::Table(base));
            }
            for level in 1..ROOT_LEVEL {
                for bits in 0..8u8 {
                    let rights = Rights::from_bits_truncate(bits) | Rights::READ;
                    for device in [false, true] {
                        let entry = format.leaf(base, rights, level, device);
                        assert_eq!(format.decode(entry, level), Entry::Leaf(base));
                        let told =
                            if format == EntryFormat::Vtd { Rights::READ | Rights::WRITE } else { Rights::all() };
                        assert_eq!(format.rights(entry), rights & told);
                    }
                }
            }
        }
    }

    #[test]
    fn entries_have_the_manuals_bits() {
        let base = Hpa::new(0x20_0000);
        assert_eq!(EntryFormat::Npt.table(base), 0x20_0007);
        assert_eq!(EntryFormat::Npt.leaf(base, Rights::READ, 2, false), 1 << 63 | 0x20_0085);
        assert_eq!(EntryFormat::Npt.leaf(base, Rights::READ | Rights::EXECUTE, 1, true), 0x20_001d);
        assert_eq!(EntryFormat::Ept.table(base), 0x20_0007);
        assert_eq!(EntryFormat::Ept.leaf(base, Rights::READ | Rights::WRITE, 2, false), 0x20_00b3);
        assert_eq!(EntryFormat::Vtd.table(base), 0x20_0003);
        assert_eq!(EntryFormat::Vtd.leaf(base, Rights::READ | Rights::EXECUTE, 2, true), 0x20_0081);
        assert_eq!(EntryFormat::Vtd.leaf(base, Rights::WRITE, 1, false), 0x20_0002);
    }

    #[test]
    fn an_address_selects_one_entry_a_level() {
        let gpa = Gpa::new(1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 5);
        assert_eq!([4, 3, 2, 1].map(|level| entry_index(gpa, level)), [1, 2, 3, 4]);
        assert_eq!([12, 21, 30].map(leaf_level), [1, 2, 3]);
    }
}
