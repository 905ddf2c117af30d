//! Lists of capabilities (PCI Local Bus Specification, 6.7; PCI Express Base Specification, 7.6): bounded walks, and where
//! the capabilities lie that the kernel knows.
//!
//! A walk ends at an offset that is out of range, and at one that it has seen. A capability that does not fit before the
//! end of its space does not count. If there are two of a kind, the first counts.

use super::registers::{CAPABILITIES, CAPABILITIES_LIST, EXTENDED, HEADER_END, STATUS};
use super::{Bdf, CONFIG_BYTES, ConfigAccess};

/// What the kernel looks for: id, and bytes that the capability must have.
struct Wanted {
    id: u16,
    bytes: u16,
}

const MSI: Wanted = Wanted { id: 0x05, bytes: 0xc };
const EXPRESS: Wanted = Wanted { id: 0x10, bytes: 0x14 };
const MSIX: Wanted = Wanted { id: 0x11, bytes: 0xc };
const ENHANCED_ALLOCATION: Wanted = Wanted { id: 0x14, bytes: 4 };
const ACS: Wanted = Wanted { id: 0x0d, bytes: 8 };
const ARI: Wanted = Wanted { id: 0x0e, bytes: 8 };
const ATS: Wanted = Wanted { id: 0x0f, bytes: 8 };
const SRIOV: Wanted = Wanted { id: 0x10, bytes: 0x40 };
const PAGE_REQUEST: Wanted = Wanted { id: 0x13, bytes: 0x10 };
const PASID: Wanted = Wanted { id: 0x1b, bytes: 8 };

/// Of Message Control of MSI: 64 bits of address; messages can be masked one by one.
const MSI_WIDE: u16 = 1 << 7;
const MSI_MASKS: u16 = 1 << 8;

/// A capability of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Its id: of 8 bits in the standard list, of 16 in the extended one.
    pub id: u16,
    /// Its offset, a multiple of 4.
    pub at: u16,
}

/// A walk along one of a function's two lists.
pub struct Capabilities<'a, C> {
    config: &'a C,
    function: Bdf,
    next: u16,
    extended: bool,
    /// One bit for each dword at which the walk has been.
    seen: [u64; CONFIG_BYTES as usize / 4 / 64],
}

/// Walks along the standard list.
pub fn standard<C: ConfigAccess>(config: &C, function: Bdf) -> Capabilities<'_, C> {
    let any = config.read_half(function, STATUS) & CAPABILITIES_LIST != 0;
    let next = if any { config.read_byte(function, CAPABILITIES).into() } else { 0 };
    Capabilities { config, function, next, extended: false, seen: [0; _] }
}

/// Walks along the extended list. Only functions with the PCI Express capability have one.
pub fn extended<C: ConfigAccess>(config: &C, function: Bdf) -> Capabilities<'_, C> {
    Capabilities { config, function, next: EXTENDED, extended: true, seen: [0; _] }
}

impl<C: ConfigAccess> Iterator for Capabilities<'_, C> {
    type Item = Capability;

    fn next(&mut self) -> Option<Capability> {
        // The two lowest bits of a pointer are reserved and must be masked.
        let at = self.next & !3;
        let range = if self.extended { EXTENDED..CONFIG_BYTES } else { HEADER_END..EXTENDED };
        let (word, bit) = (self.seen.get_mut(usize::from(at / 4 / 64))?, 1 << (at / 4 % 64));
        if !range.contains(&at) || *word & bit != 0 {
            return None;
        }
        *word |= bit;
        let head = self.config.read(self.function, at);
        // An empty list of extended capabilities begins with zeros; ones are no answer.
        if head == 0 || head == u32::MAX {
            self.next = 0;
            return None;
        }
        let (id, next) =
            if self.extended { (head as u16, (head >> 20) as u16) } else { (head as u16 & 0xff, head as u16 >> 8) };
        self.next = next;
        Some(Capability { id, at })
    }
}

/// Offsets of the capabilities that the kernel knows; 0 where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// PCI Express.
    pub express: u16,
    /// MSI.
    pub msi: u16,
    /// Bytes of the capability of MSI, which depend on the width of its address and on whether messages can be masked.
    pub msi_bytes: u16,
    /// MSI-X.
    pub msix: u16,
    /// Enhanced Allocation: addresses that are fixed, and told here and in no base address register.
    pub enhanced_allocation: u16,
    /// Access Control Services.
    pub acs: u16,
    /// Alternative Routing-ID Interpretation.
    pub ari: u16,
    /// Address Translation Services.
    pub ats: u16,
    /// Single Root I/O Virtualization.
    pub sriov: u16,
    /// Page Request Interface.
    pub page_request: u16,
    /// Process Address Space ID.
    pub pasid: u16,
}

impl Offsets {
    /// Looks along both lists.
    pub fn find(config: &impl ConfigAccess, function: Bdf) -> Offsets {
        let mut found = Offsets::default();
        let note = |place: &mut u16, wanted: Wanted, Capability { id, at }, end: u16| {
            if *place == 0 && id == wanted.id && at.saturating_add(wanted.bytes) <= end {
                *place = at;
            }
        };
        for capability in standard(config, function) {
            note(&mut found.msi, MSI, capability, EXTENDED);
            note(&mut found.express, EXPRESS, capability, EXTENDED);
            note(&mut found.msix, MSIX, capability, EXTENDED);
            note(&mut found.enhanced_allocation, ENHANCED_ALLOCATION, capability, EXTENDED);
        }
        if found.msi != 0 {
            found.msi_bytes = match config.read_half(function, found.msi + 2) & (MSI_WIDE | MSI_MASKS) {
                0 => 0x0c,
                MSI_WIDE => 0x10,
                MSI_MASKS => 0x14,
                _ => 0x18,
            };
        }
        if found.express == 0 {
            return found;
        }
        for capability in extended(config, function) {
            note(&mut found.acs, ACS, capability, CONFIG_BYTES);
            note(&mut found.ari, ARI, capability, CONFIG_BYTES);
            note(&mut found.ats, ATS, capability, CONFIG_BYTES);
            note(&mut found.sriov, SRIOV, capability, CONFIG_BYTES);
            note(&mut found.page_request, PAGE_REQUEST, capability, CONFIG_BYTES);
            note(&mut found.pasid, PASID, capability, CONFIG_BYTES);
        }
        found
    }
}
