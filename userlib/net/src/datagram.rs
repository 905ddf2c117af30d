//! Datagrams that are answered where they lie: a request is read in the buffer that the device wrote, and its answer
//! written into the buffer that the device will read, with no socket between them and no copy.
//!
//! Only what needs nothing of a stack is taken: a datagram of UDP, in one frame, with a plain IPv4 header, from somebody
//! who can be answered. All else is the stack's. The answer goes to the Ethernet address that the request came from,
//! which is the sender's or that of who leads to it.
//!
//! Source: RFC 768 (UDP), RFC 791, 3.1 (IPv4); RFC 1122, 3.2.1.3 (addresses that nobody sends from).

use crate::checksum::pseudo_header_sum;
use igbvf::MacAddress;
use igbvf::offload::{Network, Offload, Transport};
use smoltcp::wire::{Ipv4Address, Ipv4Cidr};

const ETHERNET_BYTES: usize = 14;
const IP_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
/// Headers in front of the payload.
pub const HEADER_BYTES: usize = ETHERNET_BYTES + IP_BYTES + UDP_BYTES;

const IPV4: [u8; 2] = [0x08, 0x00];
/// Version 4, header of five words.
const PLAIN: u8 = 0x45;
/// More fragments, or an offset.
const FRAGMENT: u16 = 0x3fff;
const DO_NOT_FRAGMENT: u16 = 0x4000;
const HOPS: u8 = 64;
const UDP: u8 = 17;

/// What the device computes into an answer.
pub const OFFLOAD: Option<Offload> =
    Offload::checksums(ETHERNET_BYTES as u8, Network::Ipv4(IP_BYTES as u8), Some(Transport::Udp));

/// Where requests go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// The own Ethernet address.
    pub mac: MacAddress,
    /// The own address, and the network that it is in.
    pub address: Ipv4Cidr,
    /// The UDP port.
    pub port: u16,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    mac: [u8; 6],
    address: Ipv4Address,
    port: u16,
    /// What it says.
    pub payload: &'a [u8],
}

impl<'a> Request<'a> {
    /// The request that a frame with right checksums is; `None` if it is none for this service. One from the service's own
    /// port number is none: two services would answer each other for ever.
    #[inline]
    pub fn parse(frame: &'a [u8], service: &Service) -> Option<Request<'a>> {
        let (head, rest) = frame.split_first_chunk::<HEADER_BYTES>()?;
        let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let address = |at: usize| Ipv4Address::new(head[at], head[at + 1], head[at + 2], head[at + 3]);
        let is_ours = head[..6] == service.mac.0
            && head[12..14] == IPV4
            && head[14] == PLAIN
            && word(20) & FRAGMENT == 0
            && head[23] == UDP
            && address(30) == service.address.address()
            && word(36) == service.port;
        let (from, port) = (address(26), word(34));
        if !is_ours || port == 0 || port == service.port || !can_be_answered(from, service) {
            return None;
        }
        let (ip_bytes, udp_bytes) = (usize::from(word(16)), usize::from(word(38)));
        if ip_bytes > frame.len() - ETHERNET_BYTES || udp_bytes + IP_BYTES > ip_bytes {
            return None;
        }
        let payload = rest.get(..udp_bytes.checked_sub(UDP_BYTES)?)?;
        Some(Request { mac: [head[6], head[7], head[8], head[9], head[10], head[11]], address: from, port, payload })
    }

    /// Writes the frame with the answer, and returns its length; `None` if there is no answer. `answer` gets the request and
    /// the place for an answer, and returns its length.
    #[inline]
    pub fn answer(
        &self,
        frame: &mut [u8],
        service: &Service,
        answer: &mut impl FnMut(&[u8], &mut [u8]) -> Option<usize>,
    ) -> Option<usize> {
        let (head, place) = frame.split_first_chunk_mut::<HEADER_BYTES>()?;
        let bytes = answer(self.payload, place)?.min(place.len());
        let own = service.address.address();
        let udp_bytes = (UDP_BYTES + bytes) as u16;
        head[..6].copy_from_slice(&self.mac);
        head[6..12].copy_from_slice(&service.mac.0);
        head[12..14].copy_from_slice(&IPV4);
        head[14..16].copy_from_slice(&[PLAIN, 0]);
        head[16..18].copy_from_slice(&(IP_BYTES as u16 + udp_bytes).to_be_bytes());
        head[18..20].copy_from_slice(&[0; 2]);
        head[20..22].copy_from_slice(&DO_NOT_FRAGMENT.to_be_bytes());
        head[22..26].copy_from_slice(&[HOPS, UDP, 0, 0]);
        head[26..30].copy_from_slice(&own.octets());
        head[30..34].copy_from_slice(&self.address.octets());
        head[34..36].copy_from_slice(&service.port.to_be_bytes());
        head[36..38].copy_from_slice(&self.port.to_be_bytes());
        head[38..40].copy_from_slice(&udp_bytes.to_be_bytes());
        let sum = pseudo_header_sum(own.octets(), self.address.octets(), UDP, udp_bytes);
        head[40..42].copy_from_slice(&sum.to_be_bytes());
        Some(HEADER_BYTES + bytes)
    }
}

/// True if an address is that of one host, to which an answer may go.
fn can_be_answered(address: Ipv4Address, service: &Service) -> bool {
    let is_none = address.is_unspecified() || address.is_broadcast() || address.is_multicast();
    !is_none && service.address.broadcast() != Some(address) && address != service.address.address()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{
        EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket,
        UdpRepr,
    };

    const CLIENT: Ipv4Address = Ipv4Address::new(10, 0, 0, 9);
    const CLIENT_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 9]);

    fn service() -> Service {
        let address = Ipv4Cidr::new(Ipv4Address::new(10, 0, 0, 1), 24);
        Service { mac: MacAddress([2, 0, 0, 0, 0, 1]), address, port: 7 }
    }

    /// A frame as the stack makes them, padded to the least that Ethernet has.
    fn frame(from: Ipv4Address, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        let Service { mac, address, .. } = service();
        let sums = ChecksumCapabilities::default();
        let udp = UdpRepr { src_port: ports.0, dst_port: ports.1 };
        let ip = Ipv4Repr {
            src_addr: from,
            dst_addr: address.address(),
            next_header: IpProtocol::Udp,
            payload_len: UDP_BYTES + payload.len(),
            hop_limit: 64,
        };
        let ethernet =
            EthernetRepr { src_addr: CLIENT_MAC, dst_addr: EthernetAddress(mac.0), ethertype: EthernetProtocol::Ipv4 };
        let mut bytes = vec![0; (HEADER_BYTES + payload.len()).max(60)];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
        ethernet.emit(&mut frame);
        let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
        ip.emit(&mut packet, &sums);
        let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
        let fill = |place: &mut [u8]| place.copy_from_slice(payload);
        udp.emit(&mut datagram, &from.into(), &ip.dst_addr.into(), payload.len(), fill, &sums);
        bytes
    }

    #[test]
    fn a_request_is_answered_to_whom_it_came_from() {
        let bytes = frame(CLIENT, (4000, 7), b"ping");
        let request = Request::parse(&bytes, &service()).unwrap();
        assert_eq!(request.payload, b"ping");
        let mut place = [0xee; 100];
        let mut answer = |asked: &[u8], place: &mut [u8]| {
            place[..asked.len()].copy_from_slice(asked);
            place[asked.len()] = b'!';
            Some(asked.len() + 1)
        };
        let length = request.answer(&mut place, &service(), &mut answer).unwrap();
        assert_eq!(length, HEADER_BYTES + 5);
        let ethernet = EthernetFrame::new_checked(&place[..length]).unwrap();
        let addresses = (ethernet.src_addr(), ethernet.dst_addr());
        assert_eq!(addresses, (EthernetAddress(service().mac.0), CLIENT_MAC));
        let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
        assert_eq!((ip.src_addr(), ip.dst_addr()), (service().address.address(), CLIENT));
        assert_eq!((ip.total_len(), ip.header_len(), ip.next_header()), (33, 20, IpProtocol::Udp));
        let udp = UdpPacket::new_checked(ip.payload()).unwrap();
        assert_eq!((udp.src_port(), udp.dst_port(), udp.payload()), (7, 4000, &b"ping!"[..]));
        // The device adds the rest to what stands in the field: then the checksum is right.
        let words = [7, 4000, 13, 0x7069, 0x6e67, 0x2100];
        let sum = words.iter().fold(u32::from(udp.checksum()), |sum, word| sum + word);
        let mut full = place[34..length].to_vec();
        full[6..8].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
        let full = UdpPacket::new_checked(&full[..]).unwrap();
        assert!(full.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
        assert_eq!(request.answer(&mut place, &service(), &mut |_, _| None), None);
        assert_eq!(request.answer(&mut place, &service(), &mut |_, _| Some(usize::MAX)), Some(100));
        assert_eq!(request.answer(&mut place[..41], &service(), &mut answer), None);
    }

    #[test]
    fn what_is_no_request_is_left_alone() {
        let good = frame(CLIENT, (4000, 7), b"ping");
        assert!(Request::parse(&good, &service()).is_some());
        // Addresses, type, version and header length, fragments, protocol, destination, port, lengths.
        for (at, value) in
            [(0, 1), (12, 9), (14, 0x46), (20, 0x20), (21, 1), (23, 6), (33, 2), (37, 8), (38, 1), (39, 7)]
        {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(Request::parse(&bad, &service()), None, "byte {at}");
        }
        for length in [0, 41, 45] {
            assert_eq!(Request::parse(&good[..length], &service()), None, "{length} bytes");
        }
        let own = service().address.address();
        for from in [[0, 0, 0, 0], [255; 4], [10, 0, 0, 255], [224, 0, 0, 1], own.octets()] {
            assert_eq!(Request::parse(&frame(Ipv4Address::from(from), (4000, 7), b"x"), &service()), None, "{from:?}");
        }
        for ports in [(0, 7), (7, 7), (4000, 8)] {
            assert_eq!(Request::parse(&frame(CLIENT, ports, b"x"), &service()), None, "{ports:?}");
        }
    }
}
