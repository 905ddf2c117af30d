//! Registers of the PF (datasheet, section 8, "Programming Interface").

pub const CTRL: u32 = 0x0000;
/// CTRL: set link up.
pub const CTRL_SLU: u32 = 1 << 6;
/// CTRL: force speed; force duplex. The PHY negotiates both.
pub const CTRL_FORCE: u32 = 1 << 11 | 1 << 12;
/// CTRL: reset, with all VFs; clears itself.
pub const CTRL_RST: u32 = 1 << 26;
pub const STATUS: u32 = 0x0008;
/// STATUS: link up.
pub const STATUS_LU: u32 = 1 << 1;
/// STATUS: speed of the link, in two bits: 10 Mb/s, 100 Mb/s, or 1,000 Mb/s for both others; valid while it is up.
pub const STATUS_SPEED_SHIFT: u32 = 6;
pub const CTRL_EXT: u32 = 0x0018;
/// CTRL_EXT: tells the VFs that the PF's reset is done.
pub const CTRL_EXT_PFRSTD: u32 = 1 << 14;

/// Access to the PHY's registers.
pub const MDIC: u32 = 0x0020;
pub const MDIC_REGISTER_SHIFT: u32 = 16;
pub const MDIC_PHY_1: u32 = 1 << 21;
pub const MDIC_WRITE: u32 = 1 << 26;
pub const MDIC_READY: u32 = 1 << 28;
pub const MDIC_ERROR: u32 = 1 << 30;
/// The PHY's control register (IEEE 802.3, 22.2.4.1).
pub const PHY_CONTROL: u32 = 0;
/// PHY control: negotiate, anew, full duplex, 1000 Mb/s offered.
pub const PHY_CONTROL_NEGOTIATE: u32 = 1 << 12 | 1 << 9 | 1 << 8 | 1 << 6;

// These three by their older addresses, the only ones that the emulated device knows (datasheet, 8.1.2, "Alias").
pub const ICR: u32 = 0x00c0;
pub const IMS: u32 = 0x00d0;
pub const IMC: u32 = 0x00d8;
/// ICR, IMS: the link changed.
pub const CAUSE_LINK: u32 = 1 << 2;
/// ICR, IMS: a VF wrote its mailbox, or was reset.
pub const CAUSE_MAILBOX: u32 = 1 << 8;
pub const GPIE: u32 = 0x1514;
/// GPIE: causes have vectors of their own; reading ICR clears it.
pub const GPIE_MSIX: u32 = 1 << 4 | 1 << 0;
/// GPIE: the pending bits of MSI-X are kept.
pub const GPIE_PBA: u32 = 1 << 31;
pub const EIMS: u32 = 0x1524;
pub const EIMC: u32 = 0x1528;
pub const EIAC: u32 = 0x152c;
/// Vectors of queues `n` and `n + 8`, which are the ones of VF `n`.
pub const fn ivar(vf: usize) -> u32 {
    0x1700 + 4 * vf as u32
}
pub const IVAR_MISC: u32 = 0x1740;
/// IVAR_MISC: all other causes have vector 0.
pub const IVAR_MISC_OTHER_0: u32 = 0x80 << 8;

pub const RCTL: u32 = 0x0100;
/// RCTL: receive; long frames (each pool has a limit of its own); VLAN filter; strip the Ethernet checksum.
pub const RCTL_ON: u32 = 1 << 1 | 1 << 5 | 1 << 18 | 1 << 26;
pub const TCTL: u32 = 0x0400;
/// TCTL: send; pad short frames.
pub const TCTL_ON: u32 = 1 << 1 | 1 << 3;
pub const RXDCTL: u32 = 0xc028;
pub const TXDCTL: u32 = 0xe028;
/// Distance of the registers of two queues.
pub const QUEUE_STRIDE: u32 = 0x40;
pub const QUEUES: u32 = 16;

/// Multicast hash table: 4096 bits.
pub const MTA: u32 = 0x5200;
/// VLAN filter table: 4096 bits.
pub const VFTA: u32 = 0x5600;
/// VLANs with their pools: 32 entries.
pub const fn vlvf(entry: usize) -> u32 {
    0x5d00 + 4 * entry as u32
}
pub const VLVF_POOL_SHIFT: u32 = 12;
pub const VLVF_ENABLE: u32 = 1 << 31;
/// Receive addresses, low halves, of entries 0 to 15.
pub const fn ral(entry: usize) -> u32 {
    0x5400 + 8 * entry as u32
}
/// Receive addresses, high halves.
pub const fn rah(entry: usize) -> u32 {
    ral(entry) + 4
}
pub const RAH_POOL_SHIFT: u32 = 18;
pub const RAH_VALID: u32 = 1 << 31;
/// The entries of [`ral`].
pub const RECEIVE_ADDRESSES: usize = 16;

pub const MRQC: u32 = 0x5818;
/// MRQC: queues are assigned by pool.
pub const MRQC_VMDQ: u32 = 3;
pub const VT_CTL: u32 = 0x581c;
/// VT_CTL: frames for nobody go to nobody; frames for several are replicated.
pub const VT_CTL_ON: u32 = 1 << 29 | 1 << 30;
pub const VFLRE: u32 = 0x0c88;
pub const VFRE: u32 = 0x0c8c;
pub const VFTE: u32 = 0x0c90;
/// Queues that drop frames when they have no descriptor, rather than fill the device's memory.
pub const QDE: u32 = 0x2408;
pub const QDE_ALL: u32 = 0xffff;
pub const DTXSWC: u32 = 0x3500;
/// DTXSWC: check the source address, and the VLAN, of all pools; switch frames between VFs.
pub const DTXSWC_ON: u32 = 0xff | 0xff << 8 | 1 << 31;
/// VFs whose frames were dropped by those checks; cleared by reading.
pub const WVBR: u32 = 0x3554;
/// Frames dropped by those checks; cleared by reading.
pub const SSVPC: u32 = 0x41a0;
/// The transmit queue that RTTBCNRC is about.
pub const RTTDQSEL: u32 = 0x3604;
/// How far rate limiters make up for a time in which a queue sent less: 10:0, in KiB.
pub const RTTBCNRM: u32 = 0x3690;
/// RTTBCNRM: as much as the longest frames need, of 9,728 bytes.
pub const RTTBCNRM_LONG: u32 = 0x14;
/// The rate limiter of a transmit queue. Below its switch is the rate factor, the link's speed by the queue's: 14 bits, and
/// 14 bits behind the binary point.
pub const RTTBCNRC: u32 = 0x36b0;
pub const RTTBCNRC_ON: u32 = 1 << 31;
pub const RTTBCNRC_POINT: u32 = 14;
pub const RTTBCNRC_FACTOR: u32 = (1 << 28) - 1;
/// VLAN that the device puts into a VF's frames.
pub const fn vmvir(vf: usize) -> u32 {
    0x3700 + 4 * vf as u32
}
/// VMVIR: put this VLAN in, always.
pub const VMVIR_ALWAYS: u32 = 1 << 30;
pub const fn vmolr(vf: usize) -> u32 {
    0x5ad0 + 4 * vf as u32
}
/// VMOLR: the limit in bits 13:0 counts.
pub const VMOLR_LONG: u32 = 1 << 16;
pub const VMOLR_UNTAGGED: u32 = 1 << 24;
pub const VMOLR_MULTICAST: u32 = 1 << 25;
pub const VMOLR_BROADCAST: u32 = 1 << 27;
pub const VMOLR_STRIP_VLAN: u32 = 1 << 30;
pub const VMOLR_STRIP_CRC: u32 = 1 << 31;

pub const MBVFICR: u32 = 0x0c80;
/// MBVFICR: a VF sent a message. Acknowledgements are in the upper half.
pub const MBVFICR_REQUESTS: u32 = 0xff;
pub const fn p2vmailbox(vf: usize) -> u32 {
    0x0c00 + 4 * vf as u32
}
/// P2VMAILBOX: a message is there for the VF.
pub const P2V_STS: u32 = 1 << 0;
/// P2VMAILBOX: the VF's message was read.
pub const P2V_ACK: u32 = 1 << 1;
/// P2VMAILBOX: the buffer is the PF's.
pub const P2V_PFU: u32 = 1 << 3;
/// P2VMAILBOX: take the buffer from a VF that keeps it.
pub const P2V_RVFU: u32 = 1 << 4;
pub const fn vmbmem(vf: usize) -> u32 {
    0x0800 + 64 * vf as u32
}

/// Frames that a receive queue has dropped for want of descriptors, in bits 11:0; cleared by reading.
pub const fn rqdpc(queue: usize) -> u32 {
    0xc030 + QUEUE_STRIDE * queue as u32
}
pub const RQDPC_FRAMES: u32 = 0xfff;
/// First of the registers of a VF that count.
const fn pvf(vf: usize) -> u32 {
    0x10000 + 0x100 * vf as u32
}
pub const fn pvfgprc(vf: usize) -> u32 {
    pvf(vf) + 0x10
}
pub const fn pvfgptc(vf: usize) -> u32 {
    pvf(vf) + 0x14
}
pub const fn pvfgorc(vf: usize) -> u32 {
    pvf(vf) + 0x18
}
pub const fn pvfgotc(vf: usize) -> u32 {
    pvf(vf) + 0x34
}
pub const fn pvfmprc(vf: usize) -> u32 {
    pvf(vf) + 0x3c
}
