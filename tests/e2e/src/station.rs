//! A host on the machine's Ethernet, with frames made one by one: for what the emulator's own network does not let through, such
//! as answers in datagrams, and segments that are forged into a connection.

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Time;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpCidr,
    IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// Its own addresses.
const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 0x99]);
const ADDRESS: Ipv4Address = Ipv4Address::new(10, 0, 2, 99);
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

    /// A stack of TCP at the station's end of the cable; `forger` makes what somebody sends who sees a frame of it, before that
    /// one. It has the cable to itself.
    #[must_use]
    pub fn host(&self, forger: Forger) -> Host<'_> {
        let mut config = Config::new(MAC.into());
        config.random_seed = 1;
        let mut cable = Cable { station: self, forger };
        let mut interface = Interface::new(config, &mut cable, Time::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(ADDRESS.into(), 24)).expect("there is room");
        });
        Host { cable, interface, started: Instant::now(), sockets: SocketSet::new(Vec::new()), port: FIRST_PORT }
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
        let sums = ChecksumCapabilities::default();
        let udp = UdpRepr { src_port: ports.0, dst_port: ports.1 };
        let ip = Ipv4Repr {
            src_addr: ADDRESS,
            dst_addr: to.1.into(),
            next_header: IpProtocol::Udp,
            payload_len: udp.header_len() + payload.len(),
            hop_limit: 64,
        };
        let ethernet =
            EthernetRepr { src_addr: MAC, dst_addr: EthernetAddress(to.0), ethertype: EthernetProtocol::Ipv4 };
        let mut frame = vec![0; ethernet.buffer_len() + ip.buffer_len() + ip.payload_len];
        let mut whole = EthernetFrame::new_unchecked(&mut frame[..]);
        ethernet.emit(&mut whole);
        let mut packet = Ipv4Packet::new_unchecked(whole.payload_mut());
        ip.emit(&mut packet, &sums);
        let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
        let (from, to) = (ip.src_addr.into(), ip.dst_addr.into());
        udp.emit(&mut datagram, &from, &to, payload.len(), |place| place.copy_from_slice(payload), &sums);
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
            let Ok(frame) = EthernetFrame::new_checked(&frame[..length]) else { continue };
            match frame.ethertype() {
                EthernetProtocol::Arp => self.tell(frame.payload()),
                EthernetProtocol::Ipv4 if frame.dst_addr() == MAC => {
                    let packet = Ipv4Packet::new_checked(frame.payload());
                    let Some(packet) = packet.ok().filter(|packet| packet.next_header() == IpProtocol::Udp) else {
                        continue;
                    };
                    if let Ok(datagram) = UdpPacket::new_checked(packet.payload())
                        && datagram.dst_port() == port
                    {
                        return datagram.payload().to_vec();
                    }
                }
                _ => {}
            }
        }
    }

    /// Says who it is, if that is what somebody asks.
    fn tell(&self, question: &[u8]) {
        let question = ArpPacket::new_checked(question).and_then(|packet| ArpRepr::parse(&packet));
        let Ok(ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr: ADDRESS,
            ..
        }) = question
        else {
            return;
        };
        let answer = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: MAC,
            source_protocol_addr: ADDRESS,
            target_hardware_addr: source_hardware_addr,
            target_protocol_addr: source_protocol_addr,
        };
        let ethernet = EthernetRepr { src_addr: MAC, dst_addr: source_hardware_addr, ethertype: EthernetProtocol::Arp };
        let mut frame = vec![0; ethernet.buffer_len() + answer.buffer_len()];
        let mut whole = EthernetFrame::new_unchecked(&mut frame[..]);
        ethernet.emit(&mut whole);
        answer.emit(&mut ArpPacket::new_unchecked(whole.payload_mut()));
        self.send(&frame);
    }
}

/// Frames that somebody sends when he sees this one.
pub type Forger = Box<dyn FnMut(&[u8]) -> Vec<Vec<u8>>>;

/// How long a [`Host`] may be at work.
const HOST_PATIENCE: Duration = Duration::from_secs(300);

/// The port of a [`Host`]'s first connection; the next ones follow.
pub const FIRST_PORT: u16 = 49_152;

/// A host with connections of TCP.
#[allow(missing_debug_implementations)]
pub struct Host<'a> {
    cable: Cable<'a>,
    interface: Interface,
    started: Instant,
    sockets: SocketSet<'static>,
    /// Of the next connection.
    port: u16,
}

impl Host<'_> {
    /// Begins a connection.
    ///
    /// # Panics
    /// When there is no port left.
    pub fn connect(&mut self, to: (Ipv4Address, u16)) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 4096]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.connect(self.interface.context(), to, self.port).expect("a connection begins");
        self.port += 1;
        self.sockets.add(socket)
    }

    /// A connection.
    pub fn socket(&mut self, connection: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(connection)
    }

    /// Breaks a connection off.
    pub fn give_up(&mut self, connection: SocketHandle) {
        self.socket(connection).abort();
        self.poll();
        self.sockets.remove(connection);
    }

    /// Takes what has come in and sends what can be sent; waits for a moment if there is nothing.
    ///
    /// # Panics
    /// When all of it has taken too long.
    pub fn go_on(&mut self) {
        assert!(self.started.elapsed() < HOST_PATIENCE, "the machine does not do what is waited for");
        if self.poll() == PollResult::None {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn poll(&mut self) -> PollResult {
        let now = Time::from_micros(self.started.elapsed().as_micros() as i64);
        self.interface.poll(now, &mut self.cable, &mut self.sockets)
    }
}

/// The station's end of the cable, as the stack wants it.
struct Cable<'a> {
    station: &'a Station,
    forger: Forger,
}

/// What has come, or may be sent.
struct Came(Vec<u8>);
struct Sends<'a, 'b>(&'b mut Cable<'a>);

impl<'a> Device for Cable<'a> {
    type RxToken<'b>
        = Came
    where
        Self: 'b;
    type TxToken<'b>
        = Sends<'a, 'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Time) -> Option<(Came, Sends<'a, '_>)> {
        let mut frame = vec![0; 2048];
        let cable = &self.station.cable;
        cable.set_nonblocking(true).expect("a socket can be set up");
        let came = cable.recv(&mut frame);
        cable.set_nonblocking(false).expect("a socket can be set up");
        frame.truncate(came.ok()?);
        Some((Came(frame), Sends(self)))
    }

    fn transmit(&mut self, _: Time) -> Option<Sends<'a, '_>> {
        Some(Sends(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

impl RxToken for Came {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, look: F) -> R {
        look(&self.0)
    }
}

impl TxToken for Sends<'_, '_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        for forged in (self.0.forger)(&frame) {
            self.0.station.send(&forged);
        }
        self.0.station.send(&frame);
        result
    }
}

impl Default for Station {
    fn default() -> Station {
        Station::new()
    }
}
