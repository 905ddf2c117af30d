//! What an IOMMU has stopped, as `IommuDomain.GetFault` and `Machine.GetFault` tell it: two words.
//!
//! Word 0: what it was in bits 0 to 1 (0: there is no record, 1 a read, 2 a write, 3 an interrupt message), the reason in
//! bits 2 to 9, and the page's I/O address in bits 12 to 63, or from bit 12 on the number of the interrupt entry. Word 1: the
//! requester id in bits 0 to 15, and in bits 32 to 63 how many records were lost so far.

/// Records that are kept until they are taken, of each domain and of the machine; those that come when there are so many are
/// counted as lost.
pub const FAULTS_KEPT: usize = 8;

/// What a unit has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stopped {
    /// A read, or an atomic operation, of the page at this I/O address.
    Read(u64),
    /// A write to the page at this I/O address.
    Write(u64),
    /// A message that named this entry.
    Interrupt(u16),
}

/// What a unit tells about something that it stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FaultRecord {
    /// Who did it: the requester id (PCI Express, 2.2.6.2: bus, device and function in 8, 5 and 3 bits).
    pub requester: u16,
    /// What it was.
    pub stopped: Stopped,
    /// Why, in the vendor's numbers (Intel VT-d, 7.1.3: Fault Reasons).
    pub reason: u8,
}

impl FaultRecord {
    /// The words by which it is told, with none lost.
    pub const fn to_words(self) -> [u64; 2] {
        let (kind, address) = match self.stopped {
            Stopped::Read(address) => (1, address),
            Stopped::Write(address) => (2, address),
            Stopped::Interrupt(entry) => (3, (entry as u64) << 12),
        };
        [address & !0xfff | (self.reason as u64) << 2 | kind, self.requester as u64]
    }

    /// What two words tell; nothing where there is no record.
    pub const fn from_words([what, who]: [u64; 2]) -> Option<FaultRecord> {
        let address = what & !0xfff;
        let stopped = match what & 3 {
            0 => return None,
            1 => Stopped::Read(address),
            2 => Stopped::Write(address),
            _ => Stopped::Interrupt((address >> 12) as u16),
        };
        Some(FaultRecord { requester: who as u16, stopped, reason: (what >> 2) as u8 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_tell_the_record() {
        let stopped = [Stopped::Read(0), Stopped::Write(0xffff_ffff_ffff_f000), Stopped::Interrupt(0xffff)];
        for stopped in stopped {
            let record = FaultRecord { requester: 0xffff, stopped, reason: 0xff };
            let [what, who] = record.to_words();
            assert_eq!(FaultRecord::from_words([what, who | 7 << 32]), Some(record));
        }
        assert_eq!(FaultRecord::from_words([0, 3 << 32]), None);
    }
}
