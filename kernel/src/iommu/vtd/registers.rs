//! Registers of a VT-d unit, under their names in the Intel VT-d specification, chapter 11: offsets, bits, and what its
//! capabilities allow.

/// Bytes of registers that a unit may have: fixed ones, and fault records at most 16 * 0x3ff further on.
pub const REGISTER_BYTES: u32 = 0x8000;

/// Capabilities.
pub const CAP: u32 = 0x08;
/// Extended capabilities.
pub const ECAP: u32 = 0x10;
/// Global command.
pub const GCMD: u32 = 0x18;
/// Global status.
pub const GSTS: u32 = 0x1c;
/// Root table address.
pub const RTADDR: u32 = 0x20;
/// Fault status.
pub const FSTS: u32 = 0x34;
/// Fault event control.
pub const FECTL: u32 = 0x38;
/// Fault event data.
pub const FEDATA: u32 = 0x3c;
/// Fault event address.
pub const FEADDR: u32 = 0x40;
/// Fault event upper address.
pub const FEUADDR: u32 = 0x44;
/// Protected memory enable.
pub const PMEN: u32 = 0x64;
/// Invalidation queue tail.
pub const IQT: u32 = 0x88;
/// Invalidation queue address.
pub const IQA: u32 = 0x90;
/// Interrupt remapping table address.
pub const IRTA: u32 = 0xb8;

/// Translation.
pub const TRANSLATION: u32 = 1 << 31;
/// In GCMD: take the root table over. In GSTS: it has been.
pub const ROOT_TABLE: u32 = 1 << 30;
/// Queued invalidation.
pub const QUEUE: u32 = 1 << 26;
/// Interrupt remapping.
pub const REMAPPING: u32 = 1 << 25;
/// In GCMD: take the interrupt remapping table over. In GSTS: it has been.
pub const REMAPPING_TABLE: u32 = 1 << 24;
/// Compatibility-format interrupts pass by.
pub const COMPATIBILITY: u32 = 1 << 23;
/// Bits of GSTS that are written back to GCMD so that nothing else changes: all but those of one-shot commands.
pub const KEPT: u32 = 0x96ff_ffff;

/// FSTS: faults were lost.
pub const OVERFLOW: u32 = 1 << 0;
/// FSTS: a fault record is there.
pub const RECORD: u32 = 1 << 1;
/// FSTS: the unit has found fault with its queue, and has stopped there.
pub const QUEUE_ERROR: u32 = 1 << 4;
/// FSTS: a completion that nobody asked for, or one that did not come. Both are of caches of translations in devices, of which no
/// function is told to have one: whatever says so is none of the queue's.
pub const STRAY_COMPLETION: u32 = 0b11 << 5;
/// FSTS: every bit that is cleared by writing it.
pub const FSTS_CLEAR: u32 = OVERFLOW | 0b111 << 2 | QUEUE_ERROR | STRAY_COMPLETION;
/// FECTL: the message is held back.
pub const EVENT_MASKED: u32 = 1 << 31;
/// PMEN: protected memory is on; its status.
pub const PROTECTED: u32 = 1 << 31 | 1 << 0;
/// IRTA: 32-bit APIC ids in the entries.
pub const EXTENDED_INTERRUPTS: u64 = 1 << 11;

/// Fault record, high word: there is one.
pub const FAULT: u64 = 1 << 63;
/// Fault record, high word: a read or an atomic operation.
pub const FAULT_READ: u64 = 1 << 62;
/// Smallest reason of faults of interrupt remapping (chapter 7); those of DMA are below.
pub const FIRST_INTERRUPT_REASON: u8 = 0x20;
/// Last reason of faults of interrupt remapping.
pub const LAST_INTERRUPT_REASON: u8 = 0x2f;

/// What the kernel needs of a unit and the unit has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Queued invalidation.
    QueuedInvalidation,
    /// Interrupt remapping.
    InterruptRemapping,
    /// Extended interrupt mode: destinations with x2APIC ids.
    ExtendedInterrupts,
    /// Second-level translation of 39 or 48 bits.
    Translation,
    /// Writes reach it only after a flush of its write buffer, which is not implemented: no unit with extended interrupt mode
    /// is known to need that.
    WriteBuffer,
    /// Draining: that what was under way has reached memory when an invalidation is complete (6.5.4). Units of major version 2
    /// and later always do, and say so.
    Draining,
}

/// What a unit can do, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Number of the highest domain.
    pub domains: u16,
    /// 39 bits, in three levels.
    pub three_levels: bool,
    /// 48 bits, in four levels.
    pub four_levels: bool,
    /// Highest level with leaves.
    pub leaf_level: u8,
    /// It caches what is not present, too (caching mode, 6.1).
    pub remembers_absence: bool,
    /// It looks into the processors' caches when it reads tables.
    pub coherent: bool,
    /// It invalidates single pages; then log2 of the largest number of pages at once.
    pub page_selective: Option<u8>,
    /// It has protected memory regions.
    pub protects_memory: bool,
    /// Offset of the first fault record.
    pub fault_records: u32,
    /// How many fault records there are: 1 to 256.
    pub fault_record_count: u32,
}

impl Capabilities {
    /// Decodes CAP and ECAP.
    ///
    /// # Errors
    /// What is missing first.
    pub const fn decode(cap: u64, ecap: u64) -> Result<Capabilities, Missing> {
        const fn bit(word: u64, number: u32) -> bool {
            word >> number & 1 != 0
        }
        const fn bits(word: u64, from: u32, count: u32) -> u32 {
            (word >> from & ((1 << count) - 1)) as u32
        }
        let (three_levels, four_levels) = (bit(cap, 9), bit(cap, 10));
        if !bit(ecap, 1) {
            return Err(Missing::QueuedInvalidation);
        }
        if !bit(ecap, 3) {
            return Err(Missing::InterruptRemapping);
        }
        if !bit(ecap, 4) {
            return Err(Missing::ExtendedInterrupts);
        }
        if !three_levels && !four_levels {
            return Err(Missing::Translation);
        }
        if bit(cap, 4) {
            return Err(Missing::WriteBuffer);
        }
        if !bit(cap, 54) || !bit(cap, 55) {
            return Err(Missing::Draining);
        }
        // 2^(4 + 2n) domains; n = 7 is reserved. Number 0 is never used: in caching mode it tags what is not present.
        let domains = match bits(cap, 0, 3) {
            count @ 0..=5 => (1u16 << (4 + 2 * count)) - 1,
            _ => u16::MAX,
        };
        let leaf_level = match (bit(cap, 34), bit(cap, 35)) {
            (true, true) => 3,
            (true, false) => 2,
            _ => 1,
        };
        Ok(Capabilities {
            domains,
            three_levels,
            four_levels,
            leaf_level,
            remembers_absence: bit(cap, 7),
            coherent: bit(ecap, 0),
            page_selective: if bit(cap, 39) { Some(bits(cap, 48, 6) as u8) } else { None },
            protects_memory: bit(cap, 5) || bit(cap, 6),
            fault_records: bits(cap, 24, 10) * 16,
            fault_record_count: bits(cap, 40, 8) + 1,
        })
    }
}

const _: () = assert!(0x3ff * 16 + 256 * 16 <= REGISTER_BYTES, "every fault record lies within the registers");
