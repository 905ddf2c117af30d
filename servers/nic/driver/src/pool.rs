//! What one VF may do: its settings, and what it has asked for within them.

use igbvf::MacAddress;
use igbvf::message::{MAX_VLAN, Multicast};

/// Bytes of the largest frame that any VF may receive, with header and checksum (datasheet, 8.10.3).
pub const MAX_FRAME_BYTES: u32 = 9728;
/// Bytes of the largest frame of ordinary Ethernet, with header, VLAN tag and checksum.
pub const STANDARD_FRAME_BYTES: u32 = 1522;

/// The VLANs of a VF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vlans {
    /// None: it sends and receives untagged frames.
    #[default]
    None,
    /// One, of which it knows nothing: the device puts the tag in and takes it out.
    Port(u16),
    /// Those that it asks for, beside untagged frames; it handles the tags itself.
    Chosen,
}

/// What one VF may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its address.
    pub mac: MacAddress,
    /// Whether it may take another one. Two VFs never have the same.
    pub may_change_mac: bool,
    /// Its VLANs.
    pub vlans: Vlans,
    /// Bytes of the largest frame that it may ask to receive, up to [`MAX_FRAME_BYTES`].
    pub max_frame_bytes: u32,
    /// Most bits per second that it may send, in frames with their checksums; 0: nothing; `None` is no limit.
    pub limit_bits_per_s: Option<u64>,
}

impl Settings {
    /// An ordinary VF with this address: one MAC, no VLAN, standard frames, no limit.
    #[must_use]
    pub const fn with_mac(mac: MacAddress) -> Settings {
        Settings {
            mac,
            may_change_mac: false,
            vlans: Vlans::None,
            max_frame_bytes: STANDARD_FRAME_BYTES,
            limit_bits_per_s: None,
        }
    }

    /// True if the device can do that.
    #[must_use]
    pub fn are_possible(&self) -> bool {
        let vlan = match self.vlans {
            Vlans::None | Vlans::Chosen => true,
            Vlans::Port(vlan) => vlan != 0 && vlan < MAX_VLAN,
        };
        let frame = (STANDARD_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&self.max_frame_bytes);
        self.mac.is_station() && vlan && frame
    }
}

/// A VF's share of the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    pub settings: Settings,
    /// The address that it has now.
    pub mac: MacAddress,
    pub multicast: Multicast,
    /// Bytes of the largest frame that it receives now.
    pub frame_bytes: u32,
    /// It has finished its reset handshake, so it may send and receive.
    pub ready: bool,
}

impl Pool {
    pub const fn new(settings: Settings) -> Pool {
        let frame_bytes = STANDARD_FRAME_BYTES;
        Pool { settings, mac: settings.mac, multicast: Multicast::NONE, frame_bytes, ready: false }
    }
}
