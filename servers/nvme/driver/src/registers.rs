//! Registers of a controller (Base Specification, 3.1.3).

/// Capabilities, low half.
pub const CAP: u32 = 0x00;
/// Capabilities, high half.
pub const CAP_HIGH: u32 = 0x04;
/// CAP: most entries of a queue, less one.
pub const CAP_MQES: u32 = 0xffff;
/// CAP: unit of 500 ms that a change of readiness takes at most.
pub const CAP_TO_SHIFT: u32 = 24;
/// CAP, high half: doorbells are `4 << DSTRD` bytes apart.
pub const CAP_HIGH_DSTRD: u32 = 0xf;
/// CAP, high half: pages are at least `4096 << MPSMIN` bytes.
pub const CAP_HIGH_MPSMIN_SHIFT: u32 = 16;
/// Controller configuration.
pub const CC: u32 = 0x14;
/// CC: enabled; entries of I/O queues are 64 and 16 bytes; pages are 4096 bytes.
pub const CC_ON: u32 = 1 | 6 << 16 | 4 << 20;
/// Controller status.
pub const CSTS: u32 = 0x1c;
pub const CSTS_RDY: u32 = 1 << 0;
/// CSTS: fatal.
pub const CSTS_CFS: u32 = 1 << 1;
/// Entries of the admin queues, less one: submission in bits 11:0, completion in bits 27:16.
pub const AQA: u32 = 0x24;
/// Address of the admin submission queue; the high half follows.
pub const ASQ: u32 = 0x28;
/// Address of the admin completion queue; the high half follows.
pub const ACQ: u32 = 0x30;
/// The first doorbell.
pub const DOORBELLS: u32 = 0x1000;
