//! The server over a cable in memory: clients on the host's side have a stack of the same kind.

use std::collections::VecDeque;
use std::format;
use std::vec;
use std::vec::Vec;

use kv_engine::{HeapPages, NoCold, PageNumber, Store, Time};
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, IpEndpoint};

use crate::{Server, Settings};

const SERVER: IpAddress = IpAddress::v4(10, 0, 0, 1);
const CLIENT: IpAddress = IpAddress::v4(10, 0, 0, 2);
const PORT: u16 = 11211;
const START: Time = Time::from_seconds(1_700_000_000);

/// One end of the cable: frames that come, and frames that go.
#[derive(Default)]
struct End {
    comes: VecDeque<Vec<u8>>,
    goes: VecDeque<Vec<u8>>,
    /// How many frames find room at a time, if there is a limit.
    room: Option<usize>,
}

struct Arrived(Vec<u8>);
struct Leaving<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Arrived {
    fn consume<T, F: FnOnce(&[u8]) -> T>(self, look: F) -> T {
        look(&self.0)
    }
}

impl TxToken for Leaving<'_> {
    fn consume<T, F: FnOnce(&mut [u8]) -> T>(self, bytes: usize, fill: F) -> T {
        let mut frame = vec![0; bytes];
        let result = fill(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for End {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
        self.comes.pop_front().map(|frame| (Arrived(frame), Leaving(&mut self.goes)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        self.room.is_none_or(|room| self.goes.len() < room).then_some(Leaving(&mut self.goes))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

struct Host {
    end: End,
    interface: Interface,
    sockets: SocketSet<'static>,
}

impl Host {
    fn new(address: IpAddress, number: u8) -> Host {
        let mut end = End::default();
        let mac = EthernetAddress([2, 0, 0, 0, 0, number]);
        let mut interface = Interface::new(Config::new(mac.into()), &mut end, Instant::ZERO);
        interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(address, 24)).unwrap());
        Host { end, interface, sockets: SocketSet::new(Vec::new()) }
    }
}

struct World {
    now: Instant,
    here: Host,
    there: Host,
    server: Server<HeapPages, NoCold>,
    next_port: u16,
}

impl World {
    fn new(settings: Settings) -> World {
        let mut here = Host::new(SERVER, 1);
        let mut store = Store::new(HeapPages::new(1024), NoCold, &[7; 16], START);
        (0..1024).for_each(|page| assert!(store.add_page(PageNumber(page))));
        let server = Server::new(store, &mut here.sockets, settings);
        World { now: Instant::ZERO, here, there: Host::new(CLIENT, 2), server, next_port: 20_000 }
    }

    /// A millisecond.
    fn go_on(&mut self) {
        self.pass(Duration::from_millis(1));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        let World { here, there, server, .. } = self;
        let now = Time::from_micros(START.micros() + self.now.total_micros() as u64);
        // Of new connections one at a time, as the stack does for a server that has one socket to listen with.
        while here.interface.poll_ingress_single(self.now, &mut here.end, &mut here.sockets)
            != PollIngressSingleResult::None
        {
            server.serve(&mut here.sockets, now);
        }
        there.interface.poll(self.now, &mut there.end, &mut there.sockets);
        server.serve(&mut here.sockets, now);
        here.interface.poll(self.now, &mut here.end, &mut here.sockets);
        there.end.comes.append(&mut here.end.goes);
        here.end.comes.append(&mut there.end.goes);
    }

    fn connect(&mut self) -> SocketHandle {
        self.connect_with(4096)
    }

    /// Connects a client that has buffers of so many bytes.
    fn connect_with(&mut self, bytes: usize) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; bytes]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        self.next_port += 1;
        socket.connect(self.there.interface.context(), IpEndpoint::new(SERVER, PORT), self.next_port).unwrap();
        self.there.sockets.add(socket)
    }

    fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.there.sockets.get_mut(handle)
    }

    /// Says all this, and hears until the answer ends with `end`.
    fn talk(&mut self, handle: SocketHandle, said: &[u8], end: &[u8]) -> Vec<u8> {
        let (mut at, mut heard) = (0, Vec::new());
        for _ in 0..20_000 {
            let socket = self.socket(handle);
            if socket.can_send() && at < said.len() {
                at += socket.send_slice(&said[at..]).unwrap();
            }
            if socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), heard.extend_from_slice(bytes))).unwrap();
            }
            if at == said.len() && heard.ends_with(end) {
                return heard;
            }
            self.go_on();
        }
        panic!("no answer but {:?}", std::string::String::from_utf8_lossy(&heard[heard.len().saturating_sub(200)..]));
    }
}

/// Bytes that are different everywhere.
fn value(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at ^ at >> 8 ^ at >> 13) as u8).collect()
}

#[test]
fn values_of_every_size_come_back() {
    let mut world = World::new(Settings::default());
    let client = world.connect();
    for bytes in [0, 1, 1000, 1024, 2047, 2048, 8192, 16384, 100_000, 1_000_000] {
        let value = value(bytes);
        let set = [format!("set k 5 0 {bytes}\r\n").as_bytes(), &value, b"\r\nget k\r\n"].concat();
        let heard = world.talk(client, &set, b"\r\nEND\r\n");
        let expected = [format!("STORED\r\nVALUE k 5 {bytes}\r\n").as_bytes(), &value, b"\r\nEND\r\n"].concat();
        assert!(heard == expected, "{bytes}");
    }
}

#[test]
fn answers_to_many_commands_at_once_come_in_order() {
    let mut world = World::new(Settings { transmit_bytes: 2048, ..Settings::default() });
    let client = world.connect();
    world.talk(client, &[b"set k 0 0 300\r\n", &value(300)[..], b"\r\n"].concat(), b"STORED\r\n");
    let (mut said, mut expected) = (Vec::new(), Vec::new());
    for n in 0..2000 {
        said.extend(format!("mg k{} v O{n}\r\n", if n % 3 == 0 { "" } else { "x" }).as_bytes());
        match n % 3 {
            0 => expected.extend([format!("VA 300 O{n}\r\n").as_bytes(), &value(300), b"\r\n"].concat()),
            _ => expected.extend(format!("EN O{n}\r\n").as_bytes()),
        }
    }
    said.extend(b"mn\r\n");
    expected.extend(b"MN\r\n");
    assert!(world.talk(client, &said, b"MN\r\n") == expected);
}

#[test]
fn a_client_that_reads_nothing_is_not_read_from_and_stops_nobody() {
    let mut world = World::new(Settings::default());
    let (slow, other) = (world.connect(), world.connect());
    world.talk(slow, &[b"set k 0 0 9000\r\n", &value(9000)[..], b"\r\n"].concat(), b"STORED\r\n");
    for _ in 0..500 {
        let socket = world.socket(slow);
        if socket.can_send() {
            socket.send_slice(b"get k\r\n").unwrap();
        }
        world.go_on();
    }
    let waiting = world.socket(slow).send_queue();
    assert!(world.talk(other, b"get nothing\r\n", b"END\r\n") == b"END\r\n");
    assert!(world.server.store().counters().bytes_written < 40_000, "answers are made when they can be sent");
    // It reads at last, and everything it asked for is there.
    let heard = world.talk(slow, b"mn\r\n", b"MN\r\n");
    assert!(heard.len() > 9000 && (heard.len() - 4).is_multiple_of(9000 + 16 + 7), "{waiting} {}", heard.len());
}

#[test]
fn three_hundred_clients_are_served_at_once_and_no_more_than_allowed() {
    let mut world = World::new(Settings { most_clients: 310, ..Settings::default() });
    let clients: Vec<SocketHandle> = (0..300)
        .map(|_| {
            world.go_on();
            world.connect()
        })
        .collect();
    for (n, &client) in clients.iter().enumerate() {
        let heard = world.talk(client, format!("set k{n} 0 0 1\r\nx\r\n").as_bytes(), b"\r\n");
        assert_eq!(heard, b"STORED\r\n");
    }
    assert_eq!((world.server.clients(), world.server.store().items()), (300, 300));
    let more: Vec<SocketHandle> = (0..20).map(|_| world.connect()).collect();
    (0..100).for_each(|_| world.go_on());
    let open = more.iter().filter(|&&client| world.there.sockets.get::<tcp::Socket>(client).may_send()).count();
    assert_eq!(open, 10);
    // Who goes makes room.
    for &client in &clients {
        world.talk(client, b"quit\r\n", b"");
        world.socket(client).close();
    }
    (0..100).for_each(|_| world.go_on());
    world.pass(Duration::from_secs(20));
    (0..10).for_each(|_| world.go_on());
    let late = world.connect();
    assert_eq!(world.talk(late, b"get k7\r\n", b"END\r\n"), b"VALUE k7 0 1\r\nx\r\nEND\r\n");
}

#[test]
fn a_client_that_has_said_all_gets_its_answers_and_the_end() {
    let mut world = World::new(Settings::default());
    let client = world.connect();
    world.talk(client, b"set k 0 0 3\r\nabc\r\nget k\r\n", b"");
    world.socket(client).close();
    let heard = world.talk(client, b"", b"END\r\n");
    assert_eq!(heard, b"STORED\r\nVALUE k 0 3\r\nabc\r\nEND\r\n");
    (0..10).for_each(|_| world.go_on());
    assert!(!world.socket(client).may_recv());
    assert_eq!(world.server.clients(), 0);
}

#[test]
fn clients_that_vanish_are_dropped() {
    let mut world = World::new(Settings { silence_s: 10, ..Settings::default() });
    let (gone, reset, kept) = (world.connect(), world.connect(), world.connect());
    for client in [gone, reset, kept] {
        world.talk(client, b"set k 0 0 100\r\nabc", b"");
    }
    (0..10).for_each(|_| world.go_on());
    assert_eq!(world.server.clients(), 3);
    world.socket(reset).abort();
    (0..10).for_each(|_| world.go_on());
    assert_eq!(world.server.clients(), 2);
    world.there.sockets.remove(gone);
    // Whoever is asked answers, or resets what it no longer knows.
    for _ in 0..100 {
        world.pass(Duration::from_millis(500));
    }
    assert_eq!(world.server.clients(), 1);
    // All are silent.
    for _ in 0..100 {
        world.there.end.comes.clear();
        world.here.end.comes.clear();
        world.pass(Duration::from_millis(500));
    }
    assert_eq!(world.server.clients(), 0);
}

/// What `stats` tells of clients and of the server, with a buffer of each kind for each socket.
#[test]
fn statistics_tell_of_clients_and_buffers() {
    let mut world = World::new(Settings { most_clients: 2, ..Settings::default() });
    let client = world.connect();
    let ask = |world: &mut World, request: &[u8], values: &[&str]| {
        let heard = world.talk(client, request, b"END\r\n");
        let heard = std::string::String::from_utf8(heard).unwrap();
        values.iter().for_each(|value| assert!(heard.contains(&format!("STAT {value}\r\n")), "{value} in {heard}"));
    };
    let bytes = 24 << 10;
    ask(&mut world, b"stats settings\r\n", &["maxconns 2", "tcpport 11211", "udpport 11211", "tcp_backlog 1"]);
    let buffers =
        ["read_buf_count 4", &format!("read_buf_bytes {}", 2 * bytes), &format!("read_buf_bytes_free {bytes}")];
    ask(&mut world, b"stats\r\n", &buffers);
    ask(
        &mut world,
        b"stats\r\n",
        &["max_connections 2", "curr_connections 1", "accepting_conns 1", "listen_disabled_num 0"],
    );
    ask(
        &mut world,
        b"stats conns\r\n",
        &[
            "0:addr tcp:0.0.0.0:11211",
            "1:addr udp:0.0.0.0:11211",
            "2:addr tcp:10.0.0.2:20001",
            "2:listen_addr tcp:10.0.0.1:11211",
            "2:state conn_parse_cmd",
        ],
    );
    // The last place is taken for a second.
    let other = world.connect();
    (0..20).for_each(|_| world.go_on());
    ask(
        &mut world,
        b"stats\r\n",
        &["curr_connections 2", "accepting_conns 0", "listen_disabled_num 1", "read_buf_bytes_free 0"],
    );
    world.pass(Duration::from_secs(1));
    world.socket(other).abort();
    (0..20).for_each(|_| world.go_on());
    ask(
        &mut world,
        b"stats\r\n",
        &["curr_connections 1", "accepting_conns 1", "listen_disabled_num 1", "idle_kicks 0"],
    );
    let refused_us = world.server.store().service_mut().refused_us;
    assert!((1_000_000..1_100_000).contains(&refused_us), "{refused_us}");
    ask(&mut world, b"stats reset\r\nstats\r\n", &["listen_disabled_num 0", "curr_connections 1"]);
}

/// One who asks much at once has its turns, and yields to others in between.
#[test]
fn who_yields_is_counted() {
    const BYTES: usize = 64 << 10;
    let mut world = World::new(Settings { receive_bytes: BYTES, ..Settings::default() });
    let client = world.connect_with(BYTES);
    let said = b"mg nope\r\n".repeat(3 * BYTES / 9);
    let mut at = 0;
    for _ in 0..500 {
        let socket = world.socket(client);
        if socket.can_send() {
            at += socket.send_slice(&said[at..]).unwrap();
        }
        world.go_on();
    }
    world.talk(client, &[&said[at..], b"mn\r\n"].concat(), b"MN\r\n");
    assert!(world.server.store().service_mut().yields > 0);
}

/// Those who only hold places, told that it is over or not, lose them to others by and by.
#[test]
fn clients_that_do_nothing_make_place_for_others() {
    let mut world = World::new(Settings { most_clients: 8, silence_s: 10, ..Settings::default() });
    let holders: Vec<SocketHandle> = (0..8)
        .map(|_| {
            world.go_on();
            world.connect()
        })
        .collect();
    (0..20).for_each(|_| world.go_on());
    let busy = holders[7];
    for &client in &holders[..4] {
        // Its side stays open.
        world.talk(client, b"quit\r\n", b"");
    }
    let is_served = |world: &mut World| {
        let client = world.connect();
        (0..20).for_each(|_| world.go_on());
        let is_open = world.socket(client).may_send();
        world.there.sockets.remove(client);
        is_open
    };
    assert!(!is_served(&mut world), "all places are taken");
    let pass = |world: &mut World, seconds: u64| {
        for _ in 0..2 * seconds {
            world.pass(Duration::from_millis(500));
            assert_eq!(world.talk(busy, b"get k\r\n", b"END\r\n"), b"END\r\n");
        }
    };
    pass(&mut world, 5);
    assert!(!is_served(&mut world), "nobody was silent for long");
    pass(&mut world, 20);
    assert!(is_served(&mut world), "one that was told the end, or was silent, has gone");
    assert!(world.server.store().service_mut().idle_kicks > 0);
}

/// What answers requests itself is told nothing: the answer would be its request.
#[test]
fn another_server_is_not_answered() {
    let mut world = World::new(Settings::default());
    for (port, is_answered) in [(PORT, false), (7, false), (4000, true)] {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 2_000]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        socket.send_slice(b"\x12\x34\0\0\0\x01\0\0x\r\n", IpEndpoint::new(SERVER, PORT)).unwrap();
        let handle = world.there.sockets.add(socket);
        (0..20).for_each(|_| world.go_on());
        assert_eq!(world.there.sockets.get_mut::<udp::Socket>(handle).can_recv(), is_answered, "port {port}");
    }
}

/// Who asks under an address that nobody has cannot be answered; others behind it are.
#[test]
fn a_datagram_from_nobody_stops_nobody() {
    let mut world = World::new(Settings::default());
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 2_000]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(4000).unwrap();
    let handle = world.there.sockets.add(socket);
    let nobody = IpAddress::v4(10, 0, 0, 99);
    let is_answered = |world: &mut World, from: Option<IpAddress>| {
        let to = udp::UdpMetadata { local_address: from, ..IpEndpoint::new(SERVER, PORT).into() };
        let socket = world.there.sockets.get_mut::<udp::Socket>(handle);
        socket.send_slice(b"\x12\x34\0\0\0\x01\0\0get k\r\n", to).unwrap();
        (0..10).any(|_| {
            world.go_on();
            world.there.sockets.get_mut::<udp::Socket>(handle).recv().is_ok()
        })
    };
    assert!(is_answered(&mut world, None));
    assert!(!is_answered(&mut world, Some(nobody)));
    let tries = (1..50).find(|_| {
        world.pass(Duration::from_millis(100));
        is_answered(&mut world, None)
    });
    assert!(tries.is_some_and(|tries| tries < 20), "{tries:?}");
}

/// A socket that always has something to send, as it is filled again whenever something has gone out, is not stuck.
#[test]
fn long_answers_one_after_the_other_are_whole() {
    let mut world = World::new(Settings::default());
    let client = world.connect();
    let stored = value(900_000);
    world.talk(client, &[b"set k 0 0 900000\r\n", &stored[..], b"\r\n"].concat(), b"STORED\r\n");
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 256], vec![0; 300_000]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(4000).unwrap();
    let handle = world.there.sockets.add(socket);
    world.here.end.room = Some(1);
    let (mut next, mut whole) = (0u16, 0);
    for ms in 0..2_000 {
        let socket = world.there.sockets.get_mut::<udp::Socket>(handle);
        if ms % 2 == 0 {
            socket.send_slice(b"\x12\x34\0\0\0\x01\0\0get k\r\n", IpEndpoint::new(SERVER, PORT)).unwrap();
        }
        while let Ok((datagram, _)) = socket.recv() {
            let [number, total] = [2, 4].map(|at| u16::from_be_bytes([datagram[at], datagram[at + 1]]));
            assert_eq!(number, next, "at {ms} ms");
            next = (number + 1) % total;
            whole += u32::from(next == 0);
        }
        world.go_on();
    }
    assert!(whole > 1, "{whole} answers");
}

#[test]
fn datagrams_are_answered_in_as_many_as_it_takes() {
    let mut world = World::new(Settings::default());
    let client = world.connect();
    let stored = value(200_000);
    world.talk(client, &[b"set k 0 0 200000\r\n", &stored[..], b"\r\n"].concat(), b"STORED\r\n");
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 256], vec![0; 300_000]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(4000).unwrap();
    let handle = world.there.sockets.add(socket);
    let request = b"\x12\x34\0\0\0\x01\0\0get k\r\n";
    for datagram in [&b"short"[..], request] {
        let socket = world.there.sockets.get_mut::<udp::Socket>(handle);
        socket.send_slice(datagram, IpEndpoint::new(SERVER, PORT)).unwrap();
    }
    let (mut answer, mut count) = (Vec::new(), 0u16);
    for _ in 0..500 {
        world.go_on();
        while let Ok((datagram, _)) = world.there.sockets.get_mut::<udp::Socket>(handle).recv() {
            let expected = [&[0x12, 0x34][..], &count.to_be_bytes()].concat();
            assert_eq!(datagram[..4], expected);
            answer.extend_from_slice(&datagram[8..]);
            count += 1;
        }
    }
    assert!(answer == [b"VALUE k 0 200000\r\n", &stored[..], b"\r\nEND\r\n"].concat());
}
