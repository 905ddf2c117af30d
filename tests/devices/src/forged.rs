//! Segments of TCP as somebody forges them who sees a connection: copies of its own, of which something is another.

use net::smoltcp::wire::{Ipv4Packet, TcpPacket};

/// Numbers below what it is called with.
pub type Random = Box<dyn FnMut(u64) -> u64>;

/// Where headers begin in a frame, and the least length of one with both.
const IP: usize = 14;
const TCP: usize = IP + 20;
const LEAST: usize = TCP + 20;

/// True if the frame is a segment that goes to this port.
#[must_use]
pub fn goes_to(frame: &[u8], port: u16) -> bool {
    frame.len() >= LEAST
        && frame[12..14] == [8, 0]
        && frame[IP + 9] == 6
        && frame[TCP + 2..TCP + 4] == port.to_be_bytes()
}

/// True if a segment (see [`goes_to`]) is of a connection from this port.
#[must_use]
pub fn comes_from(frame: &[u8], port: u16) -> bool {
    TcpPacket::new_unchecked(&frame[TCP..]).src_port() == port
}

/// True if a segment (see [`goes_to`]) begins a connection.
#[must_use]
pub fn begins(frame: &[u8]) -> bool {
    TcpPacket::new_unchecked(&frame[TCP..]).syn()
}

/// A copy of a segment (see [`goes_to`]), with something else about it.
///
/// # Panics
/// When the frame is none.
#[must_use]
pub fn forge(frame: &[u8], random: &mut Random) -> Vec<u8> {
    let total = usize::from(u16::from_be_bytes([frame[IP + 2], frame[IP + 3]]));
    let mut bytes = frame[..IP + total].to_vec();
    for _ in 0..1 + random(3) {
        change(&mut bytes, random);
    }
    let mut ip = Ipv4Packet::new_unchecked(&mut bytes[IP..]);
    ip.set_total_len(match random(8) {
        // It says that it is of another length.
        0 => random(1500) as u16,
        _ => ip.as_ref().len() as u16,
    });
    ip.fill_checksum();
    if random(16) != 0 {
        let (from, to) = (ip.src_addr(), ip.dst_addr());
        TcpPacket::new_unchecked(&mut bytes[TCP..]).fill_checksum(&from.into(), &to.into());
    }
    if random(16) == 0 {
        bytes.truncate(IP + random(60) as usize);
    }
    // The least length of Ethernet.
    bytes.resize(bytes.len().max(60), 0);
    bytes
}

/// Changes one thing.
fn change(bytes: &mut Vec<u8>, random: &mut Random) {
    let add = |bytes: &mut [u8], at: usize, by: u32| {
        let field = bytes[at..at + 4].first_chunk_mut().expect("four bytes");
        *field = u32::from_be_bytes(*field).wrapping_add(by).to_be_bytes();
    };
    let near = |random: &mut Random| match random(5) {
        0 => random(1 << 32) as u32,
        1 => 1 << random(32),
        2 => (random(1 << 15) as u32).wrapping_neg(),
        _ => random(1 << 15) as u32,
    };
    match random(9) {
        // Sequence and acknowledgement numbers.
        0 => add(bytes, TCP + 4, near(random)),
        1 => add(bytes, TCP + 8, near(random)),
        // Flags, mostly those that mean something.
        2 => bytes[TCP + 13] = (random(256) & [0xff, 0x1f, 0x1f, 0x1f][random(4) as usize]) as u8,
        3 => bytes[TCP + 13] ^= 1 << random(8),
        // Length of the header, window, urgent pointer.
        4 => bytes[TCP + 12] = random(256) as u8,
        5 => bytes[TCP + 14..TCP + 16].copy_from_slice(&(random(1 << 16) as u16).to_be_bytes()),
        6 => bytes[TCP + 18..TCP + 20].copy_from_slice(&(random(1 << 16) as u16).to_be_bytes()),
        // Options: of the kinds that there are, of any length.
        7 => {
            let words = 1 + random(10) as usize;
            bytes.truncate(LEAST);
            for _ in 0..words * 4 {
                bytes.push((random(256) & [0xff, 0x0f, 0x0f][random(3) as usize]) as u8);
            }
            bytes[TCP + 12] = (5 + words as u8) << 4;
        }
        // Data that are not the connection's.
        _ => {
            bytes.truncate(LEAST);
            bytes[TCP + 12] = 5 << 4;
            bytes.extend((0..random(1400)).map(|_| FORGERY));
        }
    }
}

/// What forged data consist of.
pub const FORGERY: u8 = 0xf0;
