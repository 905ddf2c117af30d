//! A host on the machine's Ethernet, with frames made by hand: for what the emulator's own network does not let through, such
//! as answers in datagrams.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

const ETHERNET_BYTES: usize = 14;
const HEADER_BYTES: usize = ETHERNET_BYTES + 20 + 8;
const IPV4: [u8; 2] = [8, 0];
const ARP: [u8; 2] = [8, 6];
const UDP: u8 = 17;
/// Its own addresses.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x99];
const ADDRESS: [u8; 4] = [10, 0, 2, 99];
/// How long a frame may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A host, whose cable is a socket that the emulator has the other end of.
#[derive(Debug)]
pub struct Station {
    cable: UdpSocket,
    theirs: u16,
}

impl Station {
    /// A new one, on a cable that leads nowhere yet.
    ///
    /// # Panics
    /// When the host has no port left.
    #[must_use]
    pub fn new() -> Station {
        let cable = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        cable.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        // The emulator takes a port that was free a moment ago.
        let other = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let theirs = other.local_addr().expect("an address").port();
        Station { cable, theirs }
    }

    /// What the emulator is told for its end, a network device with this name.
    ///
    /// # Panics
    /// When the socket has no address.
    #[must_use]
    pub fn netdev(&self, name: &str) -> String {
        format!(
            "dgram,id={name},local.type=inet,local.host=127.0.0.1,local.port={},\
             remote.type=inet,remote.host=127.0.0.1,remote.port={}",
            self.theirs,
            self.cable.local_addr().expect("an address").port()
        )
    }

    /// Sends a frame.
    ///
    /// # Panics
    /// When the host refuses.
    pub fn send(&self, frame: &[u8]) {
        self.cable.send_to(frame, ("127.0.0.1", self.theirs)).expect("it is sent");
    }

    /// Forgets what has come, others' frames among it: when the socket is full of these, an answer finds no room there.
    fn forget(&self) {
        self.cable.set_nonblocking(true).expect("a socket can be set up");
        while self.cable.recv(&mut [0; 2048]).is_ok() {}
        self.cable.set_nonblocking(false).expect("a socket can be set up");
    }

    /// Sends a datagram to a host of the Ethernet.
    ///
    /// # Panics
    /// When the host refuses.
    pub fn send_datagram(&self, to: ([u8; 6], [u8; 4]), ports: (u16, u16), payload: &[u8]) {
        self.forget();
        let udp_bytes = (8 + payload.len()) as u16;
        let mut frame = [&to.0[..], &MAC, &IPV4, &[0x45, 0]].concat();
        frame.extend((20 + udp_bytes).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
        frame.extend([ADDRESS, to.1].concat());
        let sum = checksum(0, &frame[ETHERNET_BYTES..]);
        frame[ETHERNET_BYTES + 10..][..2].copy_from_slice(&sum.to_be_bytes());
        frame.extend([ports.0, ports.1, udp_bytes, 0].map(u16::to_be_bytes).concat());
        frame.extend(payload);
        // The pseudo-header (RFC 768): addresses, protocol and length.
        let pseudo = words(&frame[26..34]) + u32::from(UDP) + u32::from(udp_bytes);
        let sum = checksum(pseudo, &frame[ETHERNET_BYTES + 20..]);
        frame[ETHERNET_BYTES + 26..][..2].copy_from_slice(&sum.to_be_bytes());
        self.send(&frame);
    }

    /// The payload of the next datagram to this port of its own. Says who it is to those who ask meanwhile (ARP, RFC 826).
    ///
    /// # Panics
    /// When none comes.
    #[must_use]
    pub fn datagram(&self, port: u16) -> Vec<u8> {
        let mut frame = [0; 2048];
        // Others' frames come, too, without end.
        let ends = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < ends, "no datagram comes for port {port}");
            let length = self.cable.recv(&mut frame).expect("a frame comes");
            let frame = &frame[..length];
            if length >= 42 && frame[12..14] == ARP && frame[20..22] == [0, 1] && frame[38..42] == ADDRESS {
                let head = [&frame[6..12], &MAC, &ARP, &[0, 1, 8, 0, 6, 4, 0, 2]].concat();
                self.send(&[&head, &MAC[..], &ADDRESS, &frame[22..32]].concat());
            }
            let is_ours = length >= HEADER_BYTES
                && frame[..6] == MAC
                && frame[12..14] == IPV4
                && frame[23] == UDP
                && frame[36..38] == port.to_be_bytes();
            if is_ours {
                let bytes = usize::from(u16::from_be_bytes([frame[38], frame[39]])) - 8;
                return frame[HEADER_BYTES..HEADER_BYTES + bytes].to_vec();
            }
        }
    }
}

impl Default for Station {
    fn default() -> Station {
        Station::new()
    }
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
