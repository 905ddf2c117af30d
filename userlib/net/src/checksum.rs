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
const IPV4: [u8; 2] = [0x08, 0x00];
/// Bytes of an IPv4 header without options, and where it ends in a frame.
const IP_BYTES: usize = 20;
const IP_END: usize = ETHERNET_BYTES as usize + IP_BYTES;
const TCP: u8 = 6;
const UDP: u8 = 17;
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
#[inline]
pub fn prepare(frame: &mut [u8]) -> Offload {
    prepare_ipv4(frame).unwrap_or(Offload::NONE)
}

#[inline]
fn prepare_ipv4(frame: &mut [u8]) -> Option<Offload> {
    let (head, rest) = frame.split_first_chunk_mut::<IP_END>()?;
    if head[12..14] != IPV4 {
        return None;
    }
    let header_bytes = (head[14] & 0xf) * 4;
    let (transport, place) = match head[23] {
        TCP => (Transport::Tcp, TCP_CHECKSUM),
        UDP => (Transport::Udp, UDP_CHECKSUM),
        _ => return Offload::checksums(ETHERNET_BYTES, Network::Ipv4(header_bytes), None),
    };
    let payload_bytes = u16::from_be_bytes([head[16], head[17]]).wrapping_sub(header_bytes.into());
    let (from, to) = ([head[26], head[27], head[28], head[29]], [head[30], head[31], head[32], head[33]]);
    let sum = pseudo_header_sum(from, to, head[23], payload_bytes);
    let place = usize::from(header_bytes).checked_sub(IP_BYTES)? + place;
    rest.get_mut(place..place + 2)?.copy_from_slice(&sum.to_be_bytes());
    Offload::checksums(ETHERNET_BYTES, Network::Ipv4(header_bytes), Some(transport))
}

/// The sum of the words of the pseudo-header (RFC 9293, 3.1), folded, not complemented.
#[inline]
pub(crate) fn pseudo_header_sum(from: [u8; 4], to: [u8; 4], protocol: u8, payload_bytes: u16) -> u16 {
    let (from, to) = (u32::from_be_bytes(from), u32::from_be_bytes(to));
    let rest = u32::from(protocol) + u32::from(payload_bytes);
    let sum = (from >> 16) + (from & 0xffff) + (to >> 16) + (to & 0xffff) + rest;
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
