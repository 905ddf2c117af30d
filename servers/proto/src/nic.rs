//! Between the market server and the network server, which drives the physical function (PF) of the Intel 82576 whose
//! virtual functions (VFs) the market leases.
//!
//! Either side checks what the other says: the network server what it is to configure, the market which VF is meant.

use serde::{Deserialize, Serialize};

/// VFs of the device (Intel 82576EB Gigabit Ethernet Controller Datasheet, revision 2.61, 1.3: eight).
pub const MAX_VFS: usize = 8;
/// Interrupt messages of a VF, and the routes that its holder gets (datasheet, 7.3.1: three vectors).
pub const VF_MESSAGES: u16 = 3;
/// Free pages that an application's base must have for its VF: the memory that the VF reaches, the domain with alignment,
/// and tables.
pub const BASE_PAGES: u32 = 32;
/// In the network server's root CNode: the lease of the PF.
pub const PHYSICAL_SLOT: u16 = 8;

/// The good that is what VFs may send.
pub const BANDWIDTH_GOOD: &str = "bandwidth";
/// The good that is VFs: a unit is one, and an application has one at most.
pub const VF_GOOD: &str = "vf.nic";
/// Bits per second of one unit of it: 1 Mb/s.
pub const UNIT_BITS_PER_S: u64 = 1_000_000;
/// Units that the cable carries (datasheet, 1.3: 1 Gb/s).
pub const CABLE_UNITS: u32 = 1_000;
/// Units that are not for sale: limits are meant to be kept to within 5 % over 100 ms, so that all together may be 5 %
/// above theirs.
pub const KEPT_UNITS: u32 = 50;

/// What a VF may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Its address, which it sends with and gets frames for; of one station.
    pub mac: [u8; 6],
    /// The VLAN (1 to 4094) that it is in without seeing the tags; `None`: untagged frames.
    pub vlan: Option<u16>,
    /// Most bits per second that it may send, frames with their checksums; 0: nothing; `None`: no limit.
    pub limit_bits_per_s: Option<u64>,
}

/// What the holder of an address has sent and received by its functions, as the device counts it; octets are those of frames
/// with header, VLAN tag and checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Frames sent.
    pub sent_frames: u64,
    /// Octets sent.
    pub sent_octets: u64,
    /// Frames received.
    pub received_frames: u64,
    /// Octets received.
    pub received_octets: u64,
    /// Those of the frames received that were for a group.
    pub received_multicasts: u64,
    /// Frames for it that the device dropped, as no buffer was there for them.
    pub dropped_frames: u64,
    /// Frames of it that the device dropped, as their address or VLAN was not its own; at most, as the device counts those of
    /// all functions together.
    pub forged_frames: u64,
}

impl Counts {
    /// The counts of two times together.
    #[must_use]
    pub fn plus(self, other: Counts) -> Counts {
        self.with(other, u64::saturating_add)
    }

    /// What has come since an earlier time.
    #[must_use]
    pub fn since(self, earlier: Counts) -> Counts {
        self.with(earlier, u64::saturating_sub)
    }

    /// True if these can be the counts of a later time.
    #[must_use]
    pub fn is_later(self, earlier: Counts) -> bool {
        self.with(earlier, u64::min) == earlier
    }

    /// This of each count and the same one of another.
    fn with(self, other: Counts, of: fn(u64, u64) -> u64) -> Counts {
        Counts {
            sent_frames: of(self.sent_frames, other.sent_frames),
            sent_octets: of(self.sent_octets, other.sent_octets),
            received_frames: of(self.received_frames, other.received_frames),
            received_octets: of(self.received_octets, other.received_octets),
            received_multicasts: of(self.received_multicasts, other.received_multicasts),
            dropped_frames: of(self.dropped_frames, other.dropped_frames),
            forged_frames: of(self.forged_frames, other.forged_frames),
        }
    }
}

/// To the network server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToNic {
    /// VF `vf` has a new holder: these are its settings from the holder's reset on.
    Configure {
        /// Which VF, below [`MAX_VFS`].
        vf: u8,
        /// What it may do.
        settings: Settings,
    },
    /// VF `vf` has no holder: nothing is sent or received by it.
    Close {
        /// Which VF, below [`MAX_VFS`].
        vf: u8,
    },
    /// VF `vf` has another limit from a moment on; what it is set to before that moment replaces it.
    Limit {
        /// Which VF, below [`MAX_VFS`]; one without a holder is left as it is.
        vf: u8,
        /// As [`Settings::limit_bits_per_s`].
        bits_per_s: u64,
        /// From when on it holds, in nanoseconds of the time-stamp counter; at once if that has passed.
        from_ns: u64,
    },
    /// Say what everybody has sent and received up to now, and then [`FromNic::Counted`].
    Count,
    /// Panic, so that a test sees what follows.
    Crash,
}

/// From the network server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromNic {
    /// The device is set up.
    Ready,
    /// The device does not work: its PHY does not answer.
    Failed,
    /// The cable has a link, or none.
    Link {
        /// Whether frames come through.
        up: bool,
    },
    /// The holder of a VF has finished its reset: it sends and receives.
    VfReady {
        /// Which.
        vf: u8,
    },
    /// A VF was reset; it neither sends nor receives.
    VfReset {
        /// Which.
        vf: u8,
    },
    /// VFs have sent frames with an address or a VLAN that is not theirs. The device dropped the frames.
    Forged {
        /// Which, a bit each.
        vfs: u8,
        /// Such frames since the device was reset, of all VFs; wraps.
        frames: u64,
    },
    /// The holder of a VF asked the device's mailbox for what it may not have.
    Refused {
        /// Which.
        vf: u8,
    },
    /// What a VF may send has changed: this is in force now.
    InForce {
        /// Which.
        vf: u8,
        /// As [`Settings::limit_bits_per_s`]; 0 also for a VF that was closed.
        bits_per_s: Option<u64>,
    },
    /// The market's settings for a VF are impossible, or another VF has the address; the VF stays closed.
    Impossible {
        /// Which.
        vf: u8,
    },
    /// What the holder of an address has sent and received since the server was started, by all functions that it has had.
    Counters {
        /// The address.
        mac: [u8; 6],
        /// How much.
        counts: Counts,
    },
    /// All was said that [`ToNic::Count`] asked for.
    Counted,
}
