//! Checksums: which of them the device computes into a frame that is sent, and whether a frame that came in is to be
//! believed.
//!
//! The stack is told that IPv4, TCP and UDP need no checksums of it, so this is the only place that looks at them.
//! Fragments of IPv4 packets are not put together: they are refused, as their transport has no checksum of its own.

use igbvf::offload::{Network, Offload, Transport};
use igbvf::receive::Checksum;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket};

/// Bytes of an Ethernet header without a tag.
const ETHERNET_BYTES: u8 = 14;
/// Where a transport has its checksum (RFC 9293, 3.1; RFC 768).
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// What the stack computes and checks itself: that of ICMP.
pub fn capabilities() -> ChecksumCapabilities {
    let mut capabilities = ChecksumCapabilities::ignored();
    capabilities.icmpv4 = smoltcp::phy::Checksum::Both;
    capabilities
}

/// What the device is to compute into a frame that the stack made. Where it computes the checksum of a transport, the sum
/// of the pseudo-header is put in the place (82576 datasheet, 7.2.5.2).
pub fn prepare(frame: &mut [u8]) -> Offload {
    let offload = EthernetFrame::new_checked(frame).ok().and_then(|mut ethernet| {
        if ethernet.ethertype() != EthernetProtocol::Ipv4 {
            return None;
        }
        let mut packet = Ipv4Packet::new_checked(ethernet.payload_mut()).ok()?;
        let header_bytes = packet.header_len();
        let (transport, place) = match packet.next_header() {
            IpProtocol::Tcp => (Some(Transport::Tcp), TCP_CHECKSUM),
            IpProtocol::Udp => (Some(Transport::Udp), UDP_CHECKSUM),
            _ => (None, 0),
        };
        if transport.is_some() {
            let payload_bytes = packet.total_len().wrapping_sub(header_bytes.into());
            let sum = pseudo_header_sum(&packet, payload_bytes);
            let field = packet.payload_mut().get_mut(place..place + 2)?;
            field.copy_from_slice(&sum.to_be_bytes());
        }
        Offload::checksums(ETHERNET_BYTES, Network::Ipv4(header_bytes), transport)
    });
    offload.unwrap_or(Offload::NONE)
}

/// The sum of the words of the pseudo-header (RFC 9293, 3.1), folded, not complemented.
fn pseudo_header_sum<T: AsRef<[u8]>>(packet: &Ipv4Packet<T>, payload_bytes: u16) -> u16 {
    let words = [packet.src_addr(), packet.dst_addr()].into_iter().flat_map(|address| {
        let [a, b, c, d] = address.octets();
        [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
    });
    let rest = u32::from(u8::from(packet.next_header())) + u32::from(payload_bytes);
    let sum = words.fold(rest, |sum, word| sum + u32::from(word));
    // Six words: folding twice leaves no carry.
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}

/// True if a frame is to be believed, given what the device says of its checksums.
pub fn is_good(frame: &[u8], ip: Checksum, transport: Checksum) -> bool {
    let Ok(ethernet) = EthernetFrame::new_checked(frame) else { return false };
    if ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return true;
    }
    let Ok(packet) = Ipv4Packet::new_checked(ethernet.payload()) else { return false };
    if packet.more_frags() || packet.frag_offset() != 0 {
        return false;
    }
    let ip_is_good = match ip {
        Checksum::Good => true,
        Checksum::Bad => false,
        Checksum::Unknown => packet.verify_checksum(),
    };
    let (from, to) = (IpAddress::Ipv4(packet.src_addr()), IpAddress::Ipv4(packet.dst_addr()));
    let transport_is_good = match (transport, packet.next_header()) {
        (Checksum::Good, _) => true,
        (Checksum::Bad, _) => false,
        (Checksum::Unknown, IpProtocol::Tcp) => {
            TcpPacket::new_checked(packet.payload()).is_ok_and(|segment| segment.verify_checksum(&from, &to))
        }
        (Checksum::Unknown, IpProtocol::Udp) => {
            UdpPacket::new_checked(packet.payload()).is_ok_and(|datagram| datagram.verify_checksum(&from, &to))
        }
        (Checksum::Unknown, _) => true,
    };
    ip_is_good && transport_is_good
}
