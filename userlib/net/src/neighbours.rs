//! Who is where on the Ethernet: the stack is told by what address a frame came before it reads the frame, so that it never
//! has to ask (ARP) for somebody whom it answers.
//!
//! The stack asks for one address in a second, whoever wants it: were it to ask for those who knock, then one who knocks
//! under an address that nobody has would keep it from asking for anybody else. What a frame says is worth as much as what
//! ARP says (RFC 826): whoever is on the Ethernet can say either. The last word counts, so a lie about a host lasts until that
//! host's next frame.
//!
//! Frames from those whom nothing leads back to are not shown to the stack: it would keep an answer to one, and with it all
//! that its socket has to say to others.
//!
//! Who comes says where it is (RFC 5227, 2.3), as it was asked for in vain before it was there, or elsewhere: the stack, which
//! asks again after a second only, is told that, too.
//!
//! The stack has room for as many hosts as there are places here, one for each value of an address's last byte: in a network
//! of up to that many nobody displaces anybody.

use alloc::boxed::Box;
use alloc::vec;
use smoltcp::time::Instant;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Ipv4Address,
    Ipv4Cidr,
};

/// Hosts that are remembered.
const PLACES: usize = 256;
/// Microseconds after which the stack is told again: before it forgets a silent host, which is after 60 s.
const FRESH_US: i64 = 30_000_000;

const ETHERNET_BYTES: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
const ARP_BYTES: usize = 28;
/// Where in a frame an ARP packet has its sender's and its target's network addresses.
const ARP_SENDER: usize = ETHERNET_BYTES + 14;
const ARP_TARGET: usize = ETHERNET_BYTES + 24;

/// Where a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    address: [u8; 4],
    mac: [u8; 6],
}

#[derive(Clone, Copy, Debug)]
struct Told {
    place: Place,
    until_us: i64,
}

/// The own place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own {
    pub(crate) address: Ipv4Cidr,
    pub(crate) mac: EthernetAddress,
    /// Whether somebody leads to other networks.
    pub(crate) has_gateway: bool,
}

/// What is to be done before the stack sees a frame.
#[derive(Debug)]
pub(crate) enum Heard {
    /// It is to see this first.
    Introduction(Introduction),
    /// It is not to see the frame.
    Nobody,
}

/// What the stack was told.
#[derive(Debug)]
pub(crate) struct Neighbours {
    told: Box<[Told]>,
}

impl Neighbours {
    pub(crate) fn new() -> Neighbours {
        let nothing = Told { place: Place { address: [0; 4], mac: [0; 6] }, until_us: i64::MIN };
        Neighbours { told: vec![nothing; PLACES].into() }
    }

    /// To be called when the stack has forgotten all.
    pub(crate) fn forget(&mut self) {
        *self = Neighbours::new();
    }

    /// What is to be done before the stack sees this frame, if anything. Once that is done there is nothing any more.
    #[inline]
    pub(crate) fn hear(&mut self, now: Instant, frame: &[u8], own: &Own) -> Option<Heard> {
        let head = frame.first_chunk::<{ ETHERNET_BYTES + 20 }>()?;
        if head[12..14] == IPV4 {
            return self.hear_from(now, *head[26..].first_chunk()?, head, own);
        }
        if head[12..14] == ARP {
            let sender = *head[ARP_SENDER..].first_chunk()?;
            let target = frame.get(ARP_TARGET..ARP_TARGET + 4)?;
            // What is said to everybody the stack does not follow. All others hear oneself, too.
            if sender == target {
                let is_own = sender == own.address.address().octets();
                return if is_own { None } else { self.hear_from(now, sender, head, own) };
            }
            // All else it does; whoever is spoken for in it is introduced again by the next frame.
            self.told[usize::from(sender[3])].until_us = i64::MIN;
        }
        None
    }

    /// The same of a frame that comes from this address.
    #[inline]
    fn hear_from(
        &mut self,
        now: Instant,
        address: [u8; 4],
        head: &[u8; ETHERNET_BYTES + 20],
        own: &Own,
    ) -> Option<Heard> {
        let told = &self.told[usize::from(address[3])];
        let is_known =
            address == told.place.address && head[6..12] == told.place.mac && now.total_micros() < told.until_us;
        if is_known { None } else { self.hear_new(now, address, head, own) }
    }

    /// The same of a frame from somebody who is not known.
    #[cold]
    fn hear_new(
        &mut self,
        now: Instant,
        address: [u8; 4],
        head: &[u8; ETHERNET_BYTES + 20],
        own: &Own,
    ) -> Option<Heard> {
        let mac = *head[6..].first_chunk()?;
        let (host, source) = (Ipv4Address::from(address), EthernetAddress(mac));
        if !own.address.contains_addr(&host) {
            return (!own.has_gateway).then_some(Heard::Nobody);
        }
        let is_host = host != own.address.address()
            && own.address.broadcast() != Some(host)
            && own.address.network().address() != host
            && source.is_unicast();
        if !is_host {
            return Some(Heard::Nobody);
        }
        let until_us = now.total_micros().saturating_add(FRESH_US);
        self.told[usize::from(address[3])] = Told { place: Place { address, mac }, until_us };
        Some(Heard::Introduction(introduction(host, source, own)))
    }
}

/// A frame with an ARP packet for IPv4 over Ethernet.
pub(crate) type Introduction = [u8; ETHERNET_BYTES + ARP_BYTES];

pub(crate) const NO_INTRODUCTION: Introduction = [0; ETHERNET_BYTES + ARP_BYTES];

/// The frame by which a host would answer if it was asked where it is.
fn introduction(host: Ipv4Address, source: EthernetAddress, own: &Own) -> Introduction {
    arp(
        own.mac,
        ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: source,
            source_protocol_addr: host,
            target_hardware_addr: own.mac,
            target_protocol_addr: own.address.address(),
        },
    )
}

/// The frame that tells everybody the own place (RFC 5227, 2.3).
pub(crate) fn announcement(own: &Own) -> Introduction {
    let address = own.address.address();
    arp(
        EthernetAddress::BROADCAST,
        ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: own.mac,
            source_protocol_addr: address,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: address,
        },
    )
}

fn arp(dst_addr: EthernetAddress, packet: ArpRepr) -> Introduction {
    let ArpRepr::EthernetIpv4 { source_hardware_addr: src_addr, .. } = packet else { return NO_INTRODUCTION };
    let mut bytes = NO_INTRODUCTION;
    let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
    EthernetRepr { src_addr, dst_addr, ethertype: EthernetProtocol::Arp }.emit(&mut frame);
    packet.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Own = Own { address: Ipv4Cidr::new(Ipv4Address::new(10, 0, 0, 1), 24), mac: mac(1), has_gateway: false };

    const fn mac(last: u8) -> EthernetAddress {
        EthernetAddress([2, 0, 0, 0, 0, last])
    }

    fn frame(kind: [u8; 2], address: [u8; 4], mac: u8) -> [u8; 60] {
        let mut frame = [0; 60];
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, mac]);
        frame[12..14].copy_from_slice(&kind);
        let at = if kind == ARP { 28 } else { 26 };
        frame[at..at + 4].copy_from_slice(&address);
        frame
    }

    /// Who is introduced by a frame at this second.
    fn heard(neighbours: &mut Neighbours, second: i64, frame: &[u8]) -> Option<(Ipv4Address, EthernetAddress)> {
        let heard = neighbours.hear(Instant::from_secs(second), frame, &OWN)?;
        let Heard::Introduction(bytes) = heard else { panic!("{heard:?}") };
        let frame = EthernetFrame::new_checked(&bytes).unwrap();
        assert_eq!((frame.dst_addr(), frame.ethertype()), (OWN.mac, EthernetProtocol::Arp));
        let answer = ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).unwrap()).unwrap();
        let ArpRepr::EthernetIpv4 { source_hardware_addr, source_protocol_addr, target_protocol_addr, .. } = answer
        else {
            panic!("{answer:?}")
        };
        assert_eq!(target_protocol_addr, OWN.address.address());
        Some((source_protocol_addr, source_hardware_addr))
    }

    #[test]
    fn a_host_is_introduced_once_in_a_while_and_when_it_has_moved() {
        let mut neighbours = Neighbours::new();
        let host = Ipv4Address::new(10, 0, 0, 9);
        let place = |mac| Some((host, EthernetAddress([2, 0, 0, 0, 0, mac])));
        let from = |mac| frame(IPV4, host.octets(), mac);
        assert_eq!(heard(&mut neighbours, 0, &from(9)), place(9));
        assert_eq!(heard(&mut neighbours, 29, &from(9)), None);
        assert_eq!(heard(&mut neighbours, 30, &from(9)), place(9));
        assert_eq!(heard(&mut neighbours, 31, &from(8)), place(8));
        assert_eq!(heard(&mut neighbours, 32, &from(8)), None);
        // Somebody says where it is: its own next frame says so again. Another's does not.
        assert_eq!(heard(&mut neighbours, 33, &frame(ARP, [10, 0, 0, 7], 7)), None);
        assert_eq!(heard(&mut neighbours, 33, &from(8)), None);
        assert_eq!(heard(&mut neighbours, 33, &frame(ARP, host.octets(), 7)), None);
        assert_eq!(heard(&mut neighbours, 33, &from(8)), place(8));
        neighbours.forget();
        assert_eq!(heard(&mut neighbours, 33, &from(8)), place(8));
    }

    #[test]
    fn who_says_to_everybody_where_it_is_is_introduced() {
        let place = |last| Own { address: Ipv4Cidr::new(Ipv4Address::new(10, 0, 0, last), 24), mac: mac(last), ..OWN };
        let mut neighbours = Neighbours::new();
        for last in [9, 8] {
            let said = heard(&mut neighbours, 0, &announcement(&place(last)));
            assert_eq!(said, Some((Ipv4Address::new(10, 0, 0, last), mac(last))));
            assert_eq!(heard(&mut neighbours, 0, &announcement(&place(last))), None, "once");
        }
        let moved = heard(&mut neighbours, 0, &announcement(&Own { mac: mac(7), ..place(9) }));
        assert_eq!(moved, Some((Ipv4Address::new(10, 0, 0, 9), mac(7))));
        // It is the own one, or somebody is asked for.
        assert!(neighbours.hear(Instant::ZERO, &announcement(&OWN), &OWN).is_none());
        let mut question = announcement(&place(9));
        question[ARP_TARGET + 3] = 7;
        assert_eq!(heard(&mut neighbours, 0, &question), None);
        assert_eq!(heard(&mut neighbours, 0, &announcement(&place(9))[..41]), None);
    }

    #[test]
    fn who_cannot_be_answered_is_nobody() {
        let mut neighbours = Neighbours::new();
        let mut is_nobody = |frame: &[u8], own| {
            let heard = neighbours.hear(Instant::ZERO, frame, own);
            assert!(!matches!(heard, Some(Heard::Introduction(_))));
            heard.is_some()
        };
        for address in [[10, 0, 0, 1], [10, 0, 0, 0], [10, 0, 0, 255]] {
            assert!(is_nobody(&frame(IPV4, address, 9), &OWN), "{address:?}");
        }
        let leads_out = Own { has_gateway: true, ..OWN };
        for address in [[10, 0, 1, 9], [0; 4], [255; 4], [224, 0, 0, 9]] {
            assert!(is_nobody(&frame(IPV4, address, 9), &OWN), "{address:?}");
            // The stack knows which of them are none.
            assert!(!is_nobody(&frame(IPV4, address, 9), &leads_out), "{address:?}");
        }
        let good = frame(IPV4, [10, 0, 0, 9], 9);
        let mut from_many = good;
        from_many[6] = 3;
        assert!(is_nobody(&from_many, &OWN));
        assert!(!is_nobody(&good[..33], &OWN));
        assert!(heard(&mut neighbours, 0, &good).is_some());
    }
}
