//! Registers of configuration space by their offsets, and their bits, with the names of the specifications.

/// Vendor ID in the low half, Device ID in the high one.
pub const ID: u16 = 0x00;
/// Vendor ID that a read of an absent function, and of a virtual one, gives.
pub const NO_VENDOR: u16 = 0xffff;
/// Command, 16 bits.
pub const COMMAND: u16 = 0x04;
/// Of Command: the function answers at I/O ports.
pub const IO_DECODE: u16 = 1;
/// Of Command: the function answers at memory addresses.
pub const MEMORY_DECODE: u16 = 1 << 1;
/// Of Command: the function sends requests (reads and writes of memory, MSI); a bridge hands them on upwards.
pub const BUS_MASTER: u16 = 1 << 2;
/// Of Command: the function sends no INTx.
pub const INTX_DISABLE: u16 = 1 << 10;
/// Status, 16 bits.
pub const STATUS: u16 = 0x06;
/// Of Status: there is a list of capabilities.
pub const CAPABILITIES_LIST: u16 = 1 << 4;
/// Of Status: errors that were seen; a 1 clears.
pub const STATUS_ERRORS: u16 = 0xf900;
/// Revision in the low byte, class code above it.
pub const CLASS: u16 = 0x08;
/// Class code, without its programming interface: the way from the processor to PCI.
pub const HOST_BRIDGE: u32 = 0x0600;
/// Header type, 8 bits.
pub const HEADER_TYPE: u16 = 0x0e;
/// Of the header type: the device has more functions than this one.
pub const MULTI_FUNCTION: u8 = 1 << 7;
/// First base address register.
pub const BAR0: u16 = 0x10;
/// Expansion ROM base address, of headers of type 0.
pub const ROM: u16 = 0x30;
/// The same of headers of type 1.
pub const BRIDGE_ROM: u16 = 0x38;
/// Of the expansion ROM base address: the ROM answers.
pub const ROM_ENABLE: u32 = 1;
/// Primary, secondary and subordinate bus number, one byte each; headers of type 1.
pub const BUS_NUMBERS: u16 = 0x18;
/// Memory Base in the low half, Memory Limit in the high one: bits 31 to 20 of the addresses in bits 15 to 4.
pub const MEMORY_WINDOW: u16 = 0x20;
/// The same of the window of prefetchable memory, with the type (1: 64 bits) in bits 3 to 0.
pub const PREFETCHABLE_WINDOW: u16 = 0x24;
/// Bits 63 to 32 of the base of the window of prefetchable memory.
pub const PREFETCHABLE_BASE_UPPER: u16 = 0x28;
/// Bits 63 to 32 of its limit.
pub const PREFETCHABLE_LIMIT_UPPER: u16 = 0x2c;
/// Offset of the first capability, 8 bits.
pub const CAPABILITIES: u16 = 0x34;
/// Where the registers that are the same in every function end, and capabilities may begin.
pub const HEADER_END: u16 = 0x40;
/// Where extended configuration space begins, and the list of extended capabilities with it.
pub const EXTENDED: u16 = 0x100;
