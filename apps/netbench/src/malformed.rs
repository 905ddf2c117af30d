//! Frames that are almost right: of ARP, IPv4, UDP and TCP, with bytes changed, cut short, and with checksums that are right
//! all the same in half of them, so that they get as far as they can. They follow from a seed.

use crate::frame::Mac;
use userlib::draw::Draw;

/// Bytes of a frame at most.
pub const MOST_BYTES: usize = TCP_AT + 20 + MOST_PAYLOAD;
const MOST_PAYLOAD: usize = 200;
/// Where headers begin, and where checksums are in them (RFC 791, 768, 9293).
const IP_AT: usize = 14;
const TCP_AT: usize = IP_AT + 20;
const IP_SUM: usize = IP_AT + 10;
const UDP_SUM: usize = TCP_AT + 6;
const TCP_SUM: usize = TCP_AT + 16;
const UDP: u8 = 17;
const TCP: u8 = 6;
/// What requests to a memcached begin with.
const WORDS: [&[u8]; 6] =
    [b"get ", b"set k 0 0 4294967295\r\n", b"\0\x01\0\0\0\x01\0\0get k\r\n", b"\0\x01\0\0\0\x02\0\0", b"mg ", b"\r\n"];

/// Whom frames are for.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its address.
    pub address: [u8; 4],
    /// Its TCP and UDP port.
    pub port: u16,
}

/// Makes the next frame from `own`, and returns its length. The Ethernet addresses are always right: else it would not arrive.
pub fn build(draw: &mut Draw, own: (Mac, [u8; 4]), to: &Target, frame: &mut [u8; MOST_BYTES]) -> usize {
    let mut byte = {
        let mut bytes = Draw(draw.below(1 << 31));
        move || bytes.below(256) as u8
    };
    frame.fill_with(&mut byte);
    frame[..6].copy_from_slice(&to.mac);
    frame[6..12].copy_from_slice(&own.0);
    let mut length = match draw.below(8) {
        0 => arp(draw, own, to, frame),
        // Whatever it is.
        1 => IP_AT + draw.below((MOST_BYTES - IP_AT) as u64) as usize,
        2 | 3 => ipv4(draw, UDP, own.1, to, frame),
        _ => ipv4(draw, TCP, own.1, to, frame),
    };
    for _ in 0..draw.below(4) {
        frame[12 + draw.below((length - 12) as u64) as usize] = byte();
    }
    if draw.below(2) == 0 {
        mend(frame, length);
    }
    if draw.below(4) == 0 {
        length = IP_AT + draw.below((length - IP_AT + 1) as u64) as usize;
    }
    length
}

fn arp(draw: &mut Draw, own: (Mac, [u8; 4]), to: &Target, frame: &mut [u8; MOST_BYTES]) -> usize {
    frame[12..20].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4]);
    frame[20..22].copy_from_slice(&[0, 1 + draw.below(3) as u8]);
    frame[22..28].copy_from_slice(&own.0);
    frame[28..32].copy_from_slice(&own.1);
    frame[38..42].copy_from_slice(&to.address);
    42
}

fn ipv4(draw: &mut Draw, protocol: u8, own: [u8; 4], to: &Target, frame: &mut [u8; MOST_BYTES]) -> usize {
    let header = if protocol == UDP { 8 } else { 20 };
    let payload = draw.below(MOST_PAYLOAD as u64 + 1) as usize;
    let length = TCP_AT + header + payload;
    let ip_bytes = (length - IP_AT) as u16;
    frame[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    frame[16..18].copy_from_slice(&ip_bytes.to_be_bytes());
    frame[20..22].copy_from_slice(&[0x40, 0]);
    frame[22..24].copy_from_slice(&[64, protocol]);
    frame[26..30].copy_from_slice(&own);
    frame[30..34].copy_from_slice(&to.address);
    frame[36..38].copy_from_slice(&to.port.to_be_bytes());
    if protocol == UDP {
        frame[38..40].copy_from_slice(&(ip_bytes - 20).to_be_bytes());
    } else {
        // Header of five words, or of more than there are bytes; flags and all else as they come.
        frame[46] = if draw.below(2) == 0 { 0x50 } else { frame[46] };
    }
    let words = WORDS[draw.below(WORDS.len() as u64) as usize];
    let place = &mut frame[TCP_AT + header..length];
    let bytes = words.len().min(place.len());
    place[..bytes].copy_from_slice(&words[..bytes]);
    length
}

/// Makes the checksums right, if it is a packet of IPv4 with a plain header.
fn mend(frame: &mut [u8; MOST_BYTES], length: usize) {
    if frame[12..15] != [8, 0, 0x45] || length < TCP_AT + 20 {
        return;
    }
    frame[IP_SUM..IP_SUM + 2].fill(0);
    let sum = checksum(0, &frame[IP_AT..TCP_AT]);
    frame[IP_SUM..IP_SUM + 2].copy_from_slice(&sum.to_be_bytes());
    let at = match frame[23] {
        UDP => UDP_SUM,
        TCP => TCP_SUM,
        _ => return,
    };
    frame[at..at + 2].fill(0);
    let segment = length - TCP_AT;
    let pseudo = words(&frame[26..34]) + u32::from(frame[23]) + segment as u32;
    let sum = checksum(pseudo, &frame[TCP_AT..length]);
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn words(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    bytes.chunks(2).map(word).sum()
}

/// The checksum of the Internet (RFC 1071) of bytes and what is added to them.
fn checksum(more: u32, bytes: &[u8]) -> u16 {
    let sum = words(bytes) + more;
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum + (sum >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use app_net::smoltcp::wire::{ArpPacket, EthernetFrame, Ipv4Packet, TcpPacket, UdpPacket};

    const OWN: (Mac, [u8; 4]) = ([2, 0, 0, 0, 0, 1], [10, 0, 0, 1]);
    const TO: Target = Target { mac: [2, 0, 0, 0, 0, 2], address: [10, 0, 0, 2], port: 11211 };

    #[test]
    fn some_get_far_and_others_do_not() {
        let mut draw = Draw(1);
        let mut frame = [0; MOST_BYTES];
        let (mut arps, mut tcps, mut udps, mut opening, mut wrong) = (0, 0, 0, 0, 0);
        for _ in 0..2_000 {
            let length = build(&mut draw, OWN, &TO, &mut frame);
            assert!((IP_AT..=MOST_BYTES).contains(&length), "{length}");
            assert_eq!((&frame[..6], &frame[6..12]), (&TO.mac[..], &OWN.0[..]));
            let ethernet = EthernetFrame::new_checked(&frame[..length]).unwrap();
            let payload = ethernet.payload();
            if frame[12..14] == [8, 6] {
                arps += u32::from(ArpPacket::new_checked(payload).is_ok());
                continue;
            }
            let Some(ip) = Ipv4Packet::new_checked(payload).ok().filter(Ipv4Packet::verify_checksum) else {
                wrong += 1;
                continue;
            };
            let (from, to) = (ip.src_addr().into(), ip.dst_addr().into());
            match frame[23] {
                TCP => {
                    let segment = TcpPacket::new_checked(ip.payload()).ok();
                    let good = segment.filter(|segment| segment.verify_checksum(&from, &to));
                    opening += u32::from(good.as_ref().is_some_and(|segment| segment.syn() && !segment.ack()));
                    tcps += u32::from(good.is_some());
                }
                UDP => {
                    let datagram = UdpPacket::new_checked(ip.payload()).ok();
                    udps += u32::from(datagram.is_some_and(|datagram| datagram.verify_checksum(&from, &to)));
                }
                _ => {}
            }
        }
        let counts = [arps, tcps, udps, opening, wrong];
        assert!(counts.iter().all(|count| *count > 50), "{counts:?}");
    }

    #[test]
    fn a_seed_makes_the_same_frames() {
        let frames = |seed| {
            let (mut draw, mut frame) = (Draw(seed), [0; MOST_BYTES]);
            core::array::from_fn::<_, 9, _>(|_| (build(&mut draw, OWN, &TO, &mut frame), frame))
        };
        assert!(frames(7) == frames(7) && frames(7) != frames(8));
    }
}
