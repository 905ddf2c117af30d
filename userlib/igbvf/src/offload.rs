//! What the device computes into frames that are sent: checksums and VLAN tags.
//!
//! An [`Offload`] is worked out once per flow and then costs a frame nothing; the device is told again only when it
//! changes from one frame to the next.
//!
//! Source: datasheet, 7.2.2.2 (context descriptor), 7.2.2.3 (data descriptor), 7.2.5 (checksum offload).

const CONTEXT: u64 = 0x2 << 20;
const EXTENSION: u64 = 1 << 29;
const TUCMD_IPV4: u64 = 1 << 10;
const TUCMD_TCP: u64 = 1 << 11;
const MAC_LENGTH_SHIFT: u32 = 9;
const TAG_SHIFT: u32 = 16;

const COMMAND_VLAN: u32 = 1 << 30;
const OPTION_IP_CHECKSUM: u32 = 1 << 8;
const OPTION_L4_CHECKSUM: u32 = 1 << 9;

/// The network header of a frame whose checksum the device is to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// IPv4, header of so many bytes (20 to 60, a multiple of 4): the device fills in the header's checksum.
    Ipv4(u8),
    /// IPv6, header with extensions of so many bytes (40 to 511), which has no checksum.
    Ipv6(u16),
}

/// The transport whose checksum the device is to compute. Its field must hold the sum over the pseudo-header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What the device computes into a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The context descriptor; zero if the frame needs none.
    pub(crate) context: [u64; 2],
    /// What every data descriptor says besides, in its command and its options.
    pub(crate) command: u32,
    pub(crate) options: u32,
}

impl Offload {
    /// Nothing: the frame goes out as it is, with the Ethernet checksum.
    pub const NONE: Offload = Offload { context: [0; 2], command: 0, options: 0 };

    /// Checksums of frames with an Ethernet header of `ethernet_bytes` (14, or 18 with a VLAN tag in the frame; at most
    /// 127), then this network header, then this transport if any. `None` if a length is out of range.
    #[must_use]
    pub const fn checksums(ethernet_bytes: u8, network: Network, transport: Option<Transport>) -> Option<Offload> {
        let (ip_bytes, ip_type, mut options) = match network {
            Network::Ipv4(bytes) if bytes >= 20 && bytes <= 60 && bytes % 4 == 0 => {
                (bytes as u64, TUCMD_IPV4, OPTION_IP_CHECKSUM)
            }
            Network::Ipv6(bytes) if bytes >= 40 && bytes <= 511 => (bytes as u64, 0, 0),
            _ => return None,
        };
        if ethernet_bytes < 14 || ethernet_bytes > 127 {
            return None;
        }
        let l4_type = match transport {
            Some(Transport::Tcp) => TUCMD_TCP,
            Some(Transport::Udp) | None => 0,
        };
        if transport.is_some() {
            options |= OPTION_L4_CHECKSUM;
        }
        let lengths = ip_bytes | (ethernet_bytes as u64) << MAC_LENGTH_SHIFT;
        Some(Offload { context: [lengths, CONTEXT | EXTENSION | ip_type | l4_type], command: 0, options })
    }

    /// The same, and a VLAN tag (priority and number) put into the frame.
    #[must_use]
    pub const fn with_vlan_tag(mut self, tag: u16) -> Offload {
        self.context[0] = self.context[0] & !(0xffff << TAG_SHIFT) | (tag as u64) << TAG_SHIFT;
        self.context[1] |= CONTEXT | EXTENSION;
        self.command |= COMMAND_VLAN;
        self
    }

    /// True if the frame needs a context.
    #[inline(always)]
    pub(crate) const fn needs_context(&self) -> bool {
        self.context[1] != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_impossible_length_are_refused() {
        let udp = Some(Transport::Udp);
        for bytes in [0, 19, 22, 64] {
            assert_eq!(Offload::checksums(14, Network::Ipv4(bytes), udp), None);
        }
        for bytes in [39, 512] {
            assert_eq!(Offload::checksums(14, Network::Ipv6(bytes), udp), None);
        }
        assert_eq!(Offload::checksums(13, Network::Ipv4(20), udp), None);
        assert_eq!(Offload::checksums(128, Network::Ipv4(20), udp), None);
    }

    #[test]
    fn a_context_has_the_layout_of_the_datasheet() {
        let tcp = Offload::checksums(14, Network::Ipv4(20), Some(Transport::Tcp)).unwrap().with_vlan_tag(0xe005);
        assert_eq!(tcp.context, [0xe005 << 16 | 14 << 9 | 20, 0x2020_0000 | 1 << 10 | 1 << 11]);
        assert_eq!((tcp.command, tcp.options), (1 << 30, 3 << 8));
        let udp6 = Offload::checksums(18, Network::Ipv6(40), Some(Transport::Udp)).unwrap();
        assert_eq!((udp6.context, udp6.options), ([18 << 9 | 40, 0x2020_0000], 2 << 8));
        assert!(!Offload::NONE.needs_context() && Offload::NONE.with_vlan_tag(1).needs_context());
    }
}
