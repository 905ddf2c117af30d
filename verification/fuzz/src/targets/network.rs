//! What comes over the network device: frames of others, and a function's messages to its physical one.

use crate::{Checked, Target, ensure};
use igbvf::message::{MacAddress, Request as Mailbox};
use igbvf::receive::Checksum;
use net::checksum;
use net::datagram::{Request, Service};
use smoltcp::wire::{EthernetAddress, EthernetFrame, Ipv4Address, Ipv4Cidr, Ipv4Packet, UdpPacket};

const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PORT: u16 = 7;
/// Bytes before the payload of a datagram.
const HEADERS: usize = 14 + 20 + 8;

/// A frame.
pub const DATAGRAMS: Target = Target {
    name: "datagrams",
    about: "Requests in datagrams, answered in place, against another parser; checksums of what is sent.",
    check: |frame| datagram(frame, |_, request| request),
    twin: |frame| {
        datagram(frame, |frame, mut request| {
            // The padding is taken for payload.
            request.payload = &frame[HEADERS..];
            request
        })
    },
    seeds: frame_seeds,
    inputs: 40_000,
};

/// The words of a message.
pub const MAILBOX: Target = Target {
    name: "mailbox",
    about: "Messages of virtual functions: what is understood can be said again, and is understood as the same.",
    check: |input| mailbox(input, 0),
    twin: |input| mailbox(input, 1 << 16),
    seeds: mailbox_seeds,
    inputs: 40_000,
};

fn service() -> Service {
    let address = Ipv4Cidr::new(Ipv4Address::new(10, 0, 0, 1), 24);
    Service { mac: MacAddress(OWN_MAC), address, port: PORT }
}

fn datagram<'a>(frame: &'a [u8], seen: impl Fn(&'a [u8], Request<'a>) -> Request<'a>) -> Checked {
    let mut sent = frame.to_vec();
    checksum::prepare(&mut sent);
    ensure(sent.len() == frame.len(), || "a frame has another length".into())?;
    let is_good = checksum::is_good(frame, Checksum::Unknown, Checksum::Unknown);
    let Some(request) = Request::parse(frame, &service()) else { return Ok(()) };
    let request = seen(frame, request);
    ensure(request.payload.len() <= frame.len() - HEADERS, || "more payload than frame".into())?;
    let mut answer = [0; 256];
    let bytes = request.answer(&mut answer, &service(), &mut |request, place| {
        let bytes = request.len().min(place.len());
        place[..bytes].copy_from_slice(&request[..bytes]);
        Some(bytes)
    });
    let bytes = bytes.ok_or("no room for an answer")?;
    if !is_good {
        return Ok(());
    }
    // What has its sums right is a datagram to others, too, and the answer goes back to where it came from.
    let (payload, from, _) = parsed(frame)?;
    ensure(payload == request.payload, || format!("{:?} instead of {payload:?}", request.payload))?;
    let (echo, _, to) = parsed(&answer[..bytes])?;
    ensure(payload.starts_with(echo) && from == to, || format!("{echo:?} to {to:?} for {payload:?} from {from:?}"))
}

/// One end of a conversation.
type Place = (EthernetAddress, Ipv4Address, u16);

/// Payload, sender and receiver of a datagram, by another parser.
fn parsed(frame: &[u8]) -> Result<(&[u8], Place, Place), String> {
    let no = |error| format!("no datagram to others: {error:?}");
    let ethernet = EthernetFrame::new_checked(frame).map_err(no)?;
    let packet = Ipv4Packet::new_checked(ethernet.payload()).map_err(no)?;
    let datagram = UdpPacket::new_checked(packet.payload()).map_err(no)?;
    Ok((
        datagram.payload(),
        (ethernet.src_addr(), packet.src_addr(), datagram.src_port()),
        (ethernet.dst_addr(), packet.dst_addr(), datagram.dst_port()),
    ))
}

fn mailbox(input: &[u8], disturbed: u32) -> Checked {
    let mut message = igbvf::message::Message::default();
    for (word, bytes) in message.iter_mut().zip(input.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    let request = Mailbox::decode(&message);
    if let Mailbox::SetMulticast(multicast) = &request {
        ensure(multicast.hashes().len() <= 30, || "more groups than a message has room for".into())?;
    }
    let mut said = request.encode();
    said[1] ^= disturbed;
    let again = Mailbox::decode(&said);
    ensure(again == request, || format!("{request:?} is understood as {again:?}"))
}

fn frame_seeds() -> Vec<Vec<u8>> {
    let frame = |payload: &[u8], padding: usize| {
        let udp = 8 + payload.len() as u16;
        let mut frame = [OWN_MAC, [2, 0, 0, 0, 0, 9]].concat();
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((20 + udp).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 9, 10, 0, 0, 1]);
        frame.extend(4000u16.to_be_bytes());
        frame.extend(PORT.to_be_bytes());
        frame.extend(udp.to_be_bytes());
        // No checksum of the datagram.
        frame.extend([0, 0]);
        frame.extend(payload);
        frame.resize(frame.len() + padding, 0xaa);
        Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
        frame
    };
    vec![frame(b"gets key\r\n", 0), frame(b"x", 17), frame(b"", 18)]
}

fn mailbox_seeds() -> Vec<Vec<u8>> {
    (1..7u32)
        .map(|kind| [kind, 0x0302_0102, 0x0504, 7].map(u32::to_le_bytes).concat())
        .chain([vec![3, 0, 30, 0, 1, 2]])
        .collect()
}
