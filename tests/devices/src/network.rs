//! A machine whose virtual function is under a TCP/IP stack, and another such stack at the other end of the cable, which
//! computes and checks every checksum itself.

use crate::LIMIT;
use crate::function::Bar;
use crate::machine::{Machine, Memory};
use crate::nic::{Bench, OUTSIDE, mac};
use device::{DmaBuffer, DmaMemory, IoAddress};
use igb::Settings;
use net::port::BUFFER_BYTES;
use net::smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use net::smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use net::smoltcp::socket::{AnySocket, tcp, udp};
use net::smoltcp::time::Instant;
use net::smoltcp::wire::{EthernetAddress, IpCidr, IpEndpoint, Ipv4Address, Ipv4Cidr};
use net::{Address, Mode, Port, Stack};

/// Descriptors of each ring.
const DESCRIPTORS: usize = 64;
/// Address of the stack inside.
pub const INSIDE_IP: Ipv4Address = Ipv4Address::new(10, 0, 0, 2);
/// Address of the stack outside.
pub const OUTSIDE_IP: Ipv4Address = Ipv4Address::new(10, 0, 0, 1);

/// A buffer in the machine's memory.
#[derive(Debug)]
pub struct MachineBuffer(Memory);

impl DmaBuffer for MachineBuffer {
    fn io_address(&self) -> IoAddress {
        self.0.io_address()
    }

    fn capacity(&self) -> usize {
        BUFFER_BYTES.into()
    }

    fn read<T>(&self, bytes: usize, look: impl FnOnce(&[u8]) -> T) -> T {
        look(&self.0.read(0, bytes.min(self.capacity())))
    }

    fn write<T>(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut copy = vec![0xee; bytes.min(self.capacity())];
        let result = fill(&mut copy);
        self.0.write(0, &copy);
        result
    }
}

/// The stack inside.
pub type Inside = Stack<Bar, Memory, MachineBuffer, DESCRIPTORS>;

/// Frames that somebody sends when he sees this one of the stack outside; they come before it.
pub type Forger = Box<dyn FnMut(&[u8]) -> Vec<Vec<u8>>>;

/// Both ends.
pub struct Network {
    /// The machine; VF 0 is under the stack.
    pub bench: Bench,
    /// The VF.
    pub function: igbvf::Function<Bar>,
    /// The stack on it.
    pub inside: Inside,
    outside: Interface,
    /// The sockets outside.
    pub sockets: SocketSet<'static>,
    /// Somebody who has the cable, too.
    pub forger: Option<Forger>,
    /// A UDP port at which the stack inside echoes without a socket.
    pub echo: Option<u16>,
}

impl Network {
    /// Starts it all; outside there is a stack with [`OUTSIDE_IP`].
    ///
    /// # Panics
    /// When it can't.
    #[must_use]
    pub fn start(address: Address, mode: Mode) -> Network {
        let mut bench = Bench::start(&[Settings::with_mac(mac(0))]);
        let registers = bench.vf(0);
        let machine = bench.machine.clone();
        let mut function = igbvf::Function::new(registers.clone(), machine.now_ns());
        let ready = bench.drive(&mut function);
        assert!(matches!(ready, Ok(igbvf::Event::Ready(_))), "{ready:?}");
        function.route_interrupts(0, 1, 2);
        let buffers = |count| (0..count).map(|_| MachineBuffer(machine.memory(1)));
        let port = Port::new(registers.clone(), machine.memory(1), machine.memory(1), buffers(63), buffers(31))
            .expect("the queues start");
        let settings = net::Settings { mac: mac(0), address, vector: 0, mode, seed: 1 };
        let inside = Stack::new(port, registers, &settings, machine.now_ns());
        let mut config = Config::new(EthernetAddress(OUTSIDE.0).into());
        config.random_seed = 2;
        let mut outside = Interface::new(config, &mut Cable(&bench, &mut None), now(&machine));
        outside.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(OUTSIDE_IP.into(), 24)).expect("there is room");
        });
        Network { bench, function, inside, outside, sockets: SocketSet::new(Vec::new()), forger: None, echo: None }
    }

    /// With a given address.
    #[must_use]
    pub fn start_static(mode: Mode) -> Network {
        Network::start(Address::Static { address: Ipv4Cidr::new(INSIDE_IP, 24), gateway: None }, mode)
    }

    /// Lets both stacks go on until `ask` has an answer.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn run<T>(&mut self, what: &str, mut ask: impl FnMut(&mut Network) -> Option<T>) -> T {
        let start = std::time::Instant::now();
        loop {
            if let Some(answer) = ask(self) {
                return answer;
            }
            assert!(start.elapsed() < 3 * LIMIT, "waited too long for {what}");
            self.go_on();
        }
    }

    /// Lets both stacks go on once.
    pub fn go_on(&mut self) {
        let now_ns = self.bench.machine.now_ns();
        match self.echo {
            Some(port) => self.inside.poll_and_answer(now_ns, port, |asked, place| {
                place.get_mut(..asked.len())?.copy_from_slice(asked);
                Some(asked.len())
            }),
            None => self.inside.poll(now_ns),
        };
        let time = now(&self.bench.machine);
        // More than once would be a flood when many sockets send.
        let cable = &mut Cable(&self.bench, &mut self.forger);
        let polled = self.outside.poll(time, cable, &mut self.sockets);
        if polled == PollResult::None {
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
    }

    /// A TCP socket outside that connects to a port inside.
    ///
    /// # Panics
    /// When the port is 0.
    pub fn connect(&mut self, port: u16, from: u16) -> SocketHandle {
        let mut socket = tcp_socket();
        let to = IpEndpoint::new(INSIDE_IP.into(), port);
        socket.connect(self.outside.context(), to, from).expect("it can be tried");
        self.sockets.add(socket)
    }

    /// A socket outside.
    pub fn socket<S: AnySocket<'static>>(&mut self, handle: SocketHandle) -> &mut S {
        self.sockets.get_mut(handle)
    }

    /// A socket inside.
    pub fn socket_inside<S: AnySocket<'static>>(&mut self, handle: SocketHandle) -> &mut S {
        self.inside.sockets().get_mut(handle)
    }
}

/// A TCP socket with buffers of 16 KiB.
#[must_use]
pub fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 16 << 10]);
    tcp::Socket::new(buffer(), buffer())
}

/// A UDP socket with buffers for 16 datagrams.
///
/// # Panics
/// When the port is 0.
#[must_use]
pub fn udp_socket(port: u16) -> udp::Socket<'static> {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 16 << 10]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(port).expect("the port is not 0");
    socket
}

/// What a stream has at a place, so that a byte that is missing, changed or there twice is seen.
#[must_use]
pub fn byte(place: usize) -> u8 {
    (place ^ place >> 8 ^ place >> 13) as u8
}

/// A connection with a stream of [`byte`]s each way at once: the end inside has index 0, the one outside 1.
pub struct Streams {
    /// Its socket inside.
    pub inside: SocketHandle,
    /// Its socket outside.
    pub outside: SocketHandle,
    /// Bytes that each end has sent.
    pub sent: [usize; 2],
    /// Bytes that each end has received.
    pub received: [usize; 2],
}

impl Streams {
    /// Connects to a port inside.
    ///
    /// # Panics
    /// When one of the ports is 0.
    pub fn connect(network: &mut Network, port: u16, from: u16) -> Streams {
        let inside = network.inside.sockets().add(tcp_socket());
        network.socket_inside::<tcp::Socket>(inside).listen(port).expect("the port is not 0");
        Streams { inside, outside: network.connect(port, from), sent: [0; 2], received: [0; 2] }
    }

    /// Each end sends what it can, up to so many bytes in all, and takes what has come; whether something has.
    ///
    /// # Panics
    /// When a byte is not the one that was sent.
    pub fn go_on(&mut self, network: &mut Network, up_to: usize) -> bool {
        let before = self.received;
        let ends =
            [network.inside.sockets().get_mut::<tcp::Socket>(self.inside), network.sockets.get_mut(self.outside)];
        for (end, socket) in ends.into_iter().enumerate() {
            let left = up_to.saturating_sub(self.sent[end]);
            if socket.can_send() && left > 0 {
                let more = socket.send(|place| {
                    let count = place.len().min(left);
                    place[..count].iter_mut().zip(self.sent[end]..).for_each(|(place, at)| *place = byte(at));
                    (count, count)
                });
                self.sent[end] += more.expect("it can send");
            }
            if socket.can_recv() {
                let more = socket.recv(|bytes| {
                    assert!(bytes.iter().zip(self.received[end]..).all(|(&got, at)| got == byte(at)));
                    (bytes.len(), bytes.len())
                });
                self.received[end] += more.expect("it can receive");
            }
        }
        self.received != before
    }
}

fn now(machine: &Machine) -> Instant {
    Instant::from_micros((machine.now_ns() / 1000) as i64)
}

/// The end of the cable.
struct Cable<'a>(&'a Bench, &'a mut Option<Forger>);

struct Arrived(Vec<u8>);

struct Leaving<'a>(&'a Bench, &'a mut Option<Forger>);

impl RxToken for Arrived {
    fn consume<T, F: FnOnce(&[u8]) -> T>(self, look: F) -> T {
        look(&self.0)
    }
}

impl TxToken for Leaving<'_> {
    fn consume<T, F: FnOnce(&mut [u8]) -> T>(self, bytes: usize, fill: F) -> T {
        // As a real adapter does, up to the least length of Ethernet.
        let mut frame = vec![0; bytes.max(60)];
        let result = fill(&mut frame[..bytes]);
        for forged in self.1.as_mut().map(|forger| forger(&frame)).unwrap_or_default() {
            self.0.offer_from_outside(&forged);
        }
        self.0.offer_from_outside(&frame);
        result
    }
}

impl Device for Cable<'_> {
    type RxToken<'a>
        = Arrived
    where
        Self: 'a;
    type TxToken<'a>
        = Leaving<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
        self.0.look_outside().map(|frame| (Arrived(frame), Leaving(self.0, self.1)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(self.0, self.1))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = net::port::MOST_FRAME_BYTES;
        capabilities
    }
}
