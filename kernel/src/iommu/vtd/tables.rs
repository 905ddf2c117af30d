//! Entries that a VT-d unit reads (Intel VT-d specification, chapter 9; interrupt messages 5.1; invalidation descriptors
//! 6.5.2): pure encoding. An entry is a low and a high word.

use super::super::{Delivery, DomainNumber, Message, Requester, Signal};
use crate::types::Hpa;

/// Low word of root, context and interrupt remapping entries: the entry is present.
pub const PRESENT: u64 = 1 << 0;
/// Address bits of root and context entries.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Root entry (9.1) of a bus: where its context table is.
pub const fn root_entry(context_table: Hpa) -> [u64; 2] {
    [context_table.get() & ADDRESS | PRESENT, 0]
}

/// Context entry (9.3) of a function: translation type 0, so that only untranslated requests pass, and these through the
/// domain's tables: no device caches translations (ATS), and none passes untranslated. Faults are recorded. `levels` is 3
/// or 4; address width 1 is 39 bits, 2 is 48.
pub const fn context_entry(domain: DomainNumber, root: Hpa, levels: u8) -> [u64; 2] {
    let width = if levels == 3 { 1 } else { 2 };
    [root.get() & ADDRESS | PRESENT, (domain.get() as u64) << 8 | width]
}

/// The domain that a context entry's high word names.
pub const fn domain_of(high: u64) -> DomainNumber {
    DomainNumber::new((high >> 8) as u16)
}

/// Interrupt remapping entry (9.10): physical destination, no redirection hint, edge-triggered, and source validation of
/// all 16 bits of the source id (SVT 1, SQ 0).
/// One that raises nothing is not present, and its faults are not recorded (FPD).
pub const fn interrupt_entry(delivery: Delivery) -> [u64; 2] {
    /// Of the low word: Fault Processing Disable.
    const UNRECORDED: u64 = 1 << 1;
    let (mode, vector) = match delivery.signal {
        Signal::Vector(vector) => (0, vector),
        Signal::Nmi => (4, 0),
        Signal::Nothing => return [UNRECORDED, 0],
    };
    let low = (delivery.apic_id as u64) << 32 | (vector as u64) << 16 | mode << 5 | PRESENT;
    [low, 1 << 18 | delivery.source.get() as u64]
}

/// What a function writes to name an entry, in remappable format without subhandle (5.1.2.2): index bits 14:0 at 19:5,
/// index bit 15 at 2, format bit 4.
pub const fn message(entry: u16) -> Message {
    let low = (entry as u64 & 0x7fff) << 5 | (entry as u64 >> 15) << 2;
    Message { address: 0xfee0_0000 | low | 1 << 4, data: 0 }
}

/// The two words of a redirection entry of an IOAPIC that names an entry, in remappable format, edge-triggered and not
/// masked (5.1.5.1): index bits 14:0 at 63:49, index bit 15 at 11, format bit 48.
pub const fn redirection(entry: u16) -> [u32; 2] {
    [(entry as u32 >> 15) << 11, (entry as u32 & 0x7fff) << 17 | 1 << 16]
}

/// What a unit is told to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forget {
    /// Every context entry.
    Contexts,
    /// The context entry of a function, which named this domain.
    Context(DomainNumber, Requester),
    /// Every translation.
    Translations,
    /// Those of a domain.
    Domain(DomainNumber),
    /// Those of 2^`order` pages of a domain, from an I/O address on that is aligned to that.
    Pages {
        /// The domain.
        domain: DomainNumber,
        /// First I/O address.
        address: u64,
        /// log2 of the pages.
        order: u8,
    },
    /// Every interrupt remapping entry.
    Interrupts,
    /// One of them.
    Interrupt(u16),
}

impl Forget {
    /// The descriptor (6.5.2). One of the IOTLB makes the unit wait for DMA in flight.
    pub const fn descriptor(self) -> [u64; 2] {
        const CONTEXT: u64 = 1;
        const IOTLB: u64 = 2;
        const INTERRUPT: u64 = 4;
        // Writes and reads, 6.5.2.
        const DRAIN: u64 = 0b11 << 6;
        const fn granularity(number: u64) -> u64 {
            number << 4
        }
        const fn tag(domain: DomainNumber) -> u64 {
            (domain.get() as u64) << 16
        }
        match self {
            Forget::Contexts => [CONTEXT | granularity(1), 0],
            Forget::Context(domain, function) => {
                [CONTEXT | granularity(3) | tag(domain) | (function.get() as u64) << 32, 0]
            }
            Forget::Translations => [IOTLB | DRAIN | granularity(1), 0],
            Forget::Domain(domain) => [IOTLB | DRAIN | granularity(2) | tag(domain), 0],
            // The invalidation hint (bit 6) stays 0: entries of every level are forgotten, not only leaves.
            Forget::Pages { domain, address, order } => {
                [IOTLB | DRAIN | granularity(3) | tag(domain), address & !0xfff | order as u64]
            }
            Forget::Interrupts => [INTERRUPT, 0],
            Forget::Interrupt(entry) => [INTERRUPT | granularity(1) | (entry as u64) << 32, 0],
        }
    }
}

/// Descriptor that makes the unit write `serial` to an address, aligned to 4 bytes, when everything before it is done
/// (6.5.2, invalidation wait): status write, and nothing later starts before (fence).
pub const fn wait(serial: u32, status: Hpa) -> [u64; 2] {
    [(serial as u64) << 32 | 1 << 6 | 1 << 5 | 5, status.get()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: DomainNumber = DomainNumber::new(0x1234);
    const FUNCTION: Requester = Requester::new(0xabcd);

    #[test]
    fn entries_have_the_manuals_bits() {
        let table = Hpa::new(0x12_3456_7000);
        assert_eq!(root_entry(table), [0x12_3456_7001, 0]);
        assert_eq!(context_entry(DOMAIN, table, 3), [0x12_3456_7001, 0x12_3401]);
        assert_eq!(context_entry(DOMAIN, table, 4), [0x12_3456_7001, 0x12_3402]);
        assert_eq!(domain_of(0x12_3402), DOMAIN);
        let vector = Delivery { apic_id: 0x1_0203, signal: Signal::Vector(0x51), source: FUNCTION };
        assert_eq!(interrupt_entry(vector), [0x1_0203_0051_0001, 0x4_abcd]);
        let nmi = Delivery { signal: Signal::Nmi, ..vector };
        assert_eq!(interrupt_entry(nmi), [0x1_0203_0000_0081, 0x4_abcd]);
    }

    #[test]
    fn messages_have_the_manuals_bits() {
        assert_eq!(message(0x3), Message { address: 0xfee0_0070, data: 0 });
        assert_eq!(message(0x8000), Message { address: 0xfee0_0014, data: 0 });
        assert_eq!(redirection(3), [0, 0x7_0000]);
        assert_eq!(redirection(0x8001), [0x800, 0x3_0000]);
    }

    #[test]
    fn descriptors_have_the_manuals_bits() {
        for (forget, descriptor) in [
            (Forget::Contexts, [0x11, 0]),
            (Forget::Context(DOMAIN, FUNCTION), [0xabcd_1234_0031, 0]),
            (Forget::Translations, [0xd2, 0]),
            (Forget::Domain(DOMAIN), [0x1234_00e2, 0]),
            (Forget::Pages { domain: DOMAIN, address: 0x5_4321_8fff, order: 3 }, [0x1234_00f2, 0x5_4321_8003]),
            (Forget::Interrupts, [0x4, 0]),
            (Forget::Interrupt(0x123), [0x123_0000_0014, 0]),
        ] {
            assert_eq!(forget.descriptor(), descriptor, "{forget:?}");
        }
        assert_eq!(wait(7, Hpa::new(0x1040)), [0x7_0000_0065, 0x1040]);
    }
}
