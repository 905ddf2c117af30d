//! Registers of a VF, as its BAR 0 shows them (datasheet, section 8.26, "Virtual Function Device registers").

/// Device control.
pub const VTCTRL: u32 = 0x0000;
/// VTCTRL: reset this function.
pub const VTCTRL_RST: u32 = 1 << 26;
/// Device status.
pub const STATUS: u32 = 0x0008;
/// STATUS: link up.
pub const STATUS_LU: u32 = 1 << 1;

/// Extended interrupt mask: set and read.
pub const VTEIMS: u32 = 0x1524;
/// Extended interrupt mask: clear.
pub const VTEIMC: u32 = 0x1528;
/// Extended interrupt causes that are cleared when their message is sent.
pub const VTEIAC: u32 = 0x152c;
/// Extended interrupt causes; writing ones clears.
pub const VTEICR: u32 = 0x1580;
/// Interrupt throttle of a vector: bits 14:2 are the least distance of two messages in microseconds.
#[must_use]
pub const fn vteitr(vector: u8) -> u32 {
    0x1680 + 4 * vector as u32
}
/// Largest interval that VTEITR holds, in microseconds.
pub const VTEITR_MAX_US: u32 = 0x1fff;
/// VTEITR: leave the running counter alone.
pub const VTEITR_CNT_IGNR: u32 = 1 << 31;
/// Vectors of the queues' causes: receive 0, transmit 0, receive 1, transmit 1, a byte each.
pub const VTIVAR: u32 = 0x1700;
/// Vector of the mailbox.
pub const VTIVAR_MISC: u32 = 0x1740;
/// VTIVAR: the byte names a vector.
pub const VTIVAR_VALID: u32 = 0x80;

/// Mailbox control.
pub const V2PMAILBOX: u32 = 0x0c40;
/// V2PMAILBOX: a message is there for the PF.
pub const V2P_REQ: u32 = 1 << 0;
/// V2PMAILBOX: the PF's message was read.
pub const V2P_ACK: u32 = 1 << 1;
/// V2PMAILBOX: the buffer is the VF's.
pub const V2P_VFU: u32 = 1 << 2;
/// V2PMAILBOX: the PF has written a message; cleared by reading.
pub const V2P_PFSTS: u32 = 1 << 4;
/// V2PMAILBOX: the PF is being reset.
pub const V2P_RSTI: u32 = 1 << 6;
/// Mailbox buffer: 16 words.
pub const VMBMEM: u32 = 0x0800;

/// Good frames received.
pub const VFGPRC: u32 = 0x0f10;
/// Good frames sent.
pub const VFGPTC: u32 = 0x0f14;
/// Good octets received.
pub const VFGORC: u32 = 0x0f18;
/// Good octets sent.
pub const VFGOTC: u32 = 0x0f34;

/// First register of a receive queue; the following are relative to it.
#[must_use]
pub const fn receive_queue(queue: u8) -> u32 {
    0x2800 + 0x100 * queue as u32
}
/// First register of a transmit queue.
#[must_use]
pub const fn transmit_queue(queue: u8) -> u32 {
    0x3800 + 0x100 * queue as u32
}
/// Of a queue: ring base, low half.
pub const DBAL: u32 = 0x00;
/// Of a queue: ring base, high half.
pub const DBAH: u32 = 0x04;
/// Of a queue: ring length in bytes, a multiple of 128.
pub const DLEN: u32 = 0x08;
/// Of a receive queue: buffer sizes and descriptor type.
pub const SRRCTL: u32 = 0x0c;
/// Of a queue: head, the device's position.
pub const DH: u32 = 0x10;
/// Of a queue: tail, the driver's position.
pub const DT: u32 = 0x18;
/// Of a queue: control.
pub const DCTL: u32 = 0x28;
/// Of a transmit queue: where the head is written to, low half; bit 0 enables it.
pub const TDWBAL: u32 = 0x38;
/// Of a transmit queue: where the head is written to, high half.
pub const TDWBAH: u32 = 0x3c;

/// DCTL: the queue is enabled.
pub const DCTL_ENABLE: u32 = 1 << 25;
/// SRRCTL: unit of the buffer size, in bits 6:0.
pub const SRRCTL_BUFFER_UNIT: u32 = 1024;
/// SRRCTL: largest buffer size in units.
pub const SRRCTL_BUFFER_MAX: u32 = 0x7f;
/// SRRCTL: advanced descriptors, one buffer each.
pub const SRRCTL_ADVANCED: u32 = 1 << 25;
/// SRRCTL: with no descriptor left, drop frames rather than fill the device's memory.
pub const SRRCTL_DROP: u32 = 1 << 31;
/// TDWBAL: write the head back, instead of a status in the descriptor.
pub const TDWBAL_ENABLE: u32 = 1;
