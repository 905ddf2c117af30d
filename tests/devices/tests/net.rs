//! TCP/IP over a virtual function of the emulated device. The other end of the cable is in the test: another stack, which
//! checks every checksum, or frames made by hand.

use device::Registers;
use device_tests::network::{INSIDE_IP, Network, OUTSIDE_IP, Streams, tcp_socket, udp_socket};
use device_tests::nic::{OUTSIDE, frame, mac};
use igbvf::MacAddress;
use net::smoltcp::phy::ChecksumCapabilities;
use net::smoltcp::socket::{tcp, udp};
use net::smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, EthernetFrame,
    EthernetProtocol, Icmpv4Packet, Icmpv4Repr, IpAddress, IpEndpoint, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr,
    UdpPacket, UdpRepr,
};
use net::{Address, Drops, Mode, Next};

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const BROADCAST: MacAddress = MacAddress([0xff; 6]);

/// An IPv4 packet with all its checksums.
fn packet(from: Ipv4Address, to: Ipv4Address, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let repr =
        Ipv4Repr { src_addr: from, dst_addr: to, next_header: protocol, payload_len: payload.len(), hop_limit: 64 };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &ChecksumCapabilities::default());
    bytes.extend(payload);
    bytes
}

/// An IPv4 packet of UDP with all its checksums.
fn udp_packet(from: IpEndpoint, to: IpEndpoint, payload: &[u8]) -> Vec<u8> {
    let repr = UdpRepr { src_port: from.port, dst_port: to.port };
    let mut bytes = vec![0; repr.header_len() + payload.len()];
    let sums = ChecksumCapabilities::default();
    let place = &mut UdpPacket::new_unchecked(&mut bytes[..]);
    repr.emit(place, &from.addr, &to.addr, payload.len(), |place| place.copy_from_slice(payload), &sums);
    let (IpAddress::Ipv4(from), IpAddress::Ipv4(to)) = (from.addr, to.addr);
    packet(from, to, IpProtocol::Udp, &bytes)
}

/// The next frame outside that `wanted` makes something of.
fn next<T>(network: &mut Network, what: &str, wanted: impl Fn(&[u8]) -> Option<T>) -> T {
    let machine = network.bench.machine.clone();
    machine.wait(what, || {
        network.inside.poll(machine.now_ns());
        wanted(&network.bench.look_outside()?)
    })
}

/// The ARP packet in a frame.
fn arp_of(frame: &[u8]) -> Option<(EthernetAddress, ArpRepr)> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let arp = (ethernet.ethertype() == EthernetProtocol::Arp).then(|| ethernet.payload())?;
    Some((ethernet.dst_addr(), ArpRepr::parse(&ArpPacket::new_checked(arp).ok()?).ok()?))
}

/// The request by which somebody asks for an address, or says where it is, if it is the own one.
fn request(from: MacAddress, own: Ipv4Address, target: Ipv4Address) -> ArpRepr {
    ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(from.0),
        source_protocol_addr: own,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    }
}

/// The stack outside says this to everybody by ARP.
fn say(network: &Network, repr: ArpRepr) {
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut ArpPacket::new_unchecked(&mut bytes[..]));
    network.bench.send_from_outside(&frame(BROADCAST, OUTSIDE, ARP, &bytes));
}

/// Starts with a given address, which it has told.
fn start(mode: Mode) -> Network {
    let mut network = Network::start_static(mode);
    let said = next(&mut network, "it says where it is", arp_of);
    assert_eq!(said, (EthernetAddress::BROADCAST, request(mac(0), INSIDE_IP, INSIDE_IP)));
    network
}

/// Tells the stack inside who has the address outside, as ARP would.
fn introduce(network: &mut Network) {
    say(network, request(OUTSIDE, OUTSIDE_IP, INSIDE_IP));
    let inside = EthernetAddress(mac(0).0);
    next(network, "the answer of ARP", |bytes| match arp_of(bytes)? {
        (
            _,
            ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Reply, source_hardware_addr, source_protocol_addr, ..
            },
        ) => {
            assert_eq!((source_hardware_addr, source_protocol_addr), (inside, INSIDE_IP));
            Some(())
        }
        _ => None,
    });
}

#[test]
fn it_says_where_it_is_when_it_comes_and_when_it_is_elsewhere() {
    let mut network = start(Mode::Polled);
    network.inside.set_mac(mac(7));
    let said = next(&mut network, "it says where it is", arp_of);
    assert_eq!(said, (EthernetAddress::BROADCAST, request(mac(7), INSIDE_IP, INSIDE_IP)));
}

/// Its question was asked before there was anybody who could answer, and is not asked again before a second is over.
#[test]
fn who_was_asked_for_in_vain_is_talked_to_as_soon_as_it_says_where_it_is() {
    let mut network = start(Mode::Polled);
    let socket = network.inside.sockets().add(udp_socket(7));
    let outside = IpEndpoint::new(OUTSIDE_IP.into(), 9);
    network.socket_inside::<udp::Socket>(socket).send_slice(b"here", outside).unwrap();
    let machine = network.bench.machine.clone();
    let now_ns = machine.now_ns();
    let asked = machine.wait("its question", || {
        network.inside.poll(now_ns);
        match arp_of(&network.bench.look_outside()?)?.1 {
            ArpRepr::EthernetIpv4 { target_protocol_addr, .. } => Some(target_protocol_addr),
            _ => None,
        }
    });
    assert_eq!(asked, OUTSIDE_IP);
    say(&network, request(OUTSIDE, OUTSIDE_IP, OUTSIDE_IP));
    // At the same time still, for the stack.
    let sent = machine.wait("the datagram", || {
        network.inside.poll(now_ns);
        network.bench.look_outside()
    });
    assert!(sent.windows(4).any(|bytes| bytes == b"here"), "{sent:?}");
}

#[test]
fn it_says_who_it_is_and_answers_echoes() {
    let mut network = start(Mode::Polled);
    introduce(&mut network);
    let sums = ChecksumCapabilities::default();
    let data = [0xa5; 1001];
    let repr = Icmpv4Repr::EchoRequest { ident: 7, seq_no: 9, data: &data };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes[..]), &sums);
    let ping = packet(OUTSIDE_IP, INSIDE_IP, IpProtocol::Icmp, &bytes);
    network.bench.send_from_outside(&frame(mac(0), OUTSIDE, IPV4, &ping));
    next(&mut network, "the answer of ICMP", |bytes| {
        let ip = Ipv4Packet::new_checked(&bytes[14..]).ok()?;
        assert!(ip.verify_checksum(), "the device has filled in the checksum of the header");
        let icmp = Icmpv4Packet::new_checked(ip.payload()).ok()?;
        match Icmpv4Repr::parse(&icmp, &sums).ok()? {
            Icmpv4Repr::EchoReply { ident: 7, seq_no: 9, data: back } => {
                assert_eq!(back, data);
                Some(())
            }
            _ => None,
        }
    });
    assert_eq!(network.inside.port().drops(), Drops::default());
}

#[test]
fn datagrams_come_back() {
    let mut network = start(Mode::Polled);
    let inside = network.inside.sockets().add(udp_socket(7));
    let outside = network.sockets.add(udp_socket(4000));
    for bytes in [0, 1, 17, 18, 1000, 1472] {
        let sent: Vec<u8> = (0..bytes).map(|n| n as u8).collect();
        let to = IpEndpoint::new(INSIDE_IP.into(), 7);
        network.socket::<udp::Socket>(outside).send_slice(&sent, to).expect("there is room");
        let back = network.run("the datagram", |network| {
            let echo = network.socket_inside::<udp::Socket>(inside);
            if let Ok((payload, from)) = echo.recv() {
                let payload = payload.to_vec();
                echo.send_slice(&payload, from).expect("there is room");
            }
            network.socket::<udp::Socket>(outside).recv().ok().map(|(payload, _)| payload.to_vec())
        });
        assert_eq!(back, sent);
    }
    assert_eq!(network.inside.port().drops(), Drops::default());
}

#[test]
fn requests_are_answered_where_they_lie_and_all_else_is_the_stacks() {
    let mut network = start(Mode::Polled);
    network.echo = Some(7);
    let inside = network.inside.sockets().add(udp_socket(8));
    let outside = network.sockets.add(udp_socket(4000));
    // Both kinds at once, the one that needs a socket between two that don't.
    for bytes in [0, 1, 18, 19, 1000, 1472] {
        let sent: Vec<u8> = (0..bytes).map(|n| n as u8).collect();
        for port in [7, 8, 7] {
            let to = IpEndpoint::new(INSIDE_IP.into(), port);
            network.socket::<udp::Socket>(outside).send_slice(&sent, to).expect("there is room");
        }
        let mut back = [0; 2];
        network.run("the datagrams", |network| {
            let echo = network.socket_inside::<udp::Socket>(inside);
            if let Ok((payload, from)) = echo.recv() {
                let payload = payload.to_vec();
                echo.send_slice(&payload, from).expect("there is room");
            }
            while let Ok((payload, from)) = network.socket::<udp::Socket>(outside).recv() {
                assert_eq!(payload, sent);
                back[usize::from(from.endpoint.port - 7)] += 1;
            }
            (back == [2, 1]).then_some(())
        });
    }
    assert_eq!(network.inside.port().drops(), Drops::default());
}

#[test]
fn a_stream_of_a_mebibyte_goes_each_way_at_once() {
    const BYTES: usize = 1 << 20;
    let mut network = start(Mode::Polled);
    let mut streams = Streams::connect(&mut network, 80, 50_000);
    network.run("both streams", |network| {
        streams.go_on(network, BYTES);
        (streams.received == [BYTES; 2]).then_some(())
    });
    network.socket::<tcp::Socket>(streams.outside).close();
    network.run("the end of the stream", |network| {
        let socket = network.socket_inside::<tcp::Socket>(streams.inside);
        if socket.state() == tcp::State::CloseWait {
            socket.close();
        }
        (socket.state() == tcp::State::Closed).then_some(())
    });
    assert_eq!((network.inside.port().drops(), network.inside.port().faults()), (Drops::default(), 0));
}

#[test]
fn an_address_is_learnt_from_a_server() {
    let mut network = Network::start(Address::Dhcp, Mode::Polled);
    assert_eq!(network.inside.address(), None);
    let given = Ipv4Address::new(10, 0, 0, 77);
    for (asked, answered) in
        [(DhcpMessageType::Discover, DhcpMessageType::Offer), (DhcpMessageType::Request, DhcpMessageType::Ack)]
    {
        let transaction = next(&mut network, "a request of DHCP", |bytes| {
            let ip = Ipv4Packet::new_checked(&bytes[14..]).ok()?;
            let udp = UdpPacket::new_checked(ip.payload()).ok()?;
            assert!(udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
            let dhcp = DhcpPacket::new_checked(udp.payload()).ok()?;
            let repr = DhcpRepr::parse(&dhcp).ok()?;
            (repr.message_type == asked).then_some(repr.transaction_id)
        });
        let repr = DhcpRepr {
            message_type: answered,
            transaction_id: transaction,
            secs: 0,
            client_hardware_address: EthernetAddress(mac(0).0),
            client_ip: Ipv4Address::UNSPECIFIED,
            your_ip: given,
            server_ip: OUTSIDE_IP,
            router: Some(OUTSIDE_IP),
            subnet_mask: Some(Ipv4Address::new(255, 255, 255, 0)),
            relay_agent_ip: Ipv4Address::UNSPECIFIED,
            broadcast: false,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(OUTSIDE_IP),
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: Some(600),
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut DhcpPacket::new_unchecked(&mut bytes[..])).unwrap();
        let (from, to) = (IpEndpoint::new(OUTSIDE_IP.into(), 67), IpEndpoint::new(given.into(), 68));
        network.bench.send_from_outside(&frame(mac(0), OUTSIDE, IPV4, &udp_packet(from, to, &bytes)));
    }
    let address = network.run("the address", |network| network.inside.address());
    assert_eq!(address, given);
}

/// The datagram that the socket inside gets when this packet comes, followed by one that is good.
fn what_is_taken(network: &mut Network, packet: &[u8]) -> bool {
    let socket = network.inside.sockets().iter().map(|(handle, _)| handle).next().expect("there is one");
    let ends = (IpEndpoint::new(OUTSIDE_IP.into(), 9), IpEndpoint::new(INSIDE_IP.into(), 7));
    for packet in [packet, &udp_packet(ends.0, ends.1, b"the last one")] {
        network.bench.send_from_outside(&frame(mac(0), OUTSIDE, IPV4, packet));
    }
    let mut took = false;
    let machine = network.bench.machine.clone();
    machine.wait("the last datagram", || {
        network.inside.poll(machine.now_ns());
        while let Ok((payload, _)) = network.socket_inside::<udp::Socket>(socket).recv() {
            if payload == b"the last one" {
                return Some(());
            }
            took = true;
        }
        None
    });
    took
}

#[test]
fn wrong_checksums_and_fragments_are_dropped_and_counted() {
    let mut network = start(Mode::Polled);
    network.inside.sockets().add(udp_socket(7));
    let good = udp_packet(
        IpEndpoint::new(OUTSIDE_IP.into(), 9),
        IpEndpoint::new(INSIDE_IP.into(), 7),
        b"twenty bytes and more",
    );
    let changed = |change: fn(&mut [u8])| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    assert!(what_is_taken(&mut network, &good));
    let no_checksum = changed(|bytes| bytes[26..28].fill(0));
    assert!(what_is_taken(&mut network, &no_checksum), "a sender may leave the checksum of UDP out");
    assert_eq!(network.inside.port().drops().received, 0);
    let wrong = [
        changed(|bytes| bytes[40] ^= 1),
        changed(|bytes| bytes[8] ^= 1),
        changed(|bytes| {
            // More fragments follow.
            bytes[6] |= 0x20;
            Ipv4Packet::new_unchecked(bytes).fill_checksum();
        }),
        changed(|bytes| {
            // Not the first fragment.
            bytes[7] |= 1;
            Ipv4Packet::new_unchecked(bytes).fill_checksum();
        }),
    ];
    for (dropped, packet) in (1..).zip(&wrong) {
        assert!(!what_is_taken(&mut network, packet), "{dropped}");
        assert_eq!(network.inside.port().drops().received, dropped);
    }
}

#[test]
fn three_hundred_connections_are_open_at_once() {
    const COUNT: u16 = 300;
    let mut network = start(Mode::Polled);
    let mut inside = Vec::new();
    let mut outside = Vec::new();
    for n in 0..COUNT {
        let mut listener = tcp::Socket::new(tcp::SocketBuffer::new(vec![0; 512]), tcp::SocketBuffer::new(vec![0; 512]));
        listener.listen(80).unwrap();
        inside.push(network.inside.sockets().add(listener));
        outside.push(network.connect(80, 20_000 + n));
        network.go_on();
    }
    network.run("all connections", |network| {
        let all = outside.iter().all(|&handle| network.sockets.get::<tcp::Socket>(handle).may_send());
        all.then_some(())
    });
    for (n, &handle) in (0u16..).zip(&outside) {
        network.socket::<tcp::Socket>(handle).send_slice(&n.to_be_bytes()).unwrap();
        // One by one: the emulator's end of the cable does not recover from more than its ring holds.
        network.go_on();
    }
    let mut answers = 0;
    network.run("all answers", |network| {
        for &handle in &inside {
            let socket = network.inside.sockets().get_mut::<tcp::Socket>(handle);
            let mut bytes = [0; 2];
            if socket.recv_queue() >= 2 && socket.recv_slice(&mut bytes) == Ok(2) {
                socket.send_slice(&(!u16::from_be_bytes(bytes)).to_be_bytes()).unwrap();
            }
        }
        for (n, &handle) in (0u16..).zip(&outside) {
            let socket = network.sockets.get_mut::<tcp::Socket>(handle);
            let mut bytes = [0; 2];
            if socket.recv_queue() >= 2 && socket.recv_slice(&mut bytes) == Ok(2) {
                assert_eq!(u16::from_be_bytes(bytes), !n);
                answers += 1;
            }
        }
        (answers == COUNT).then_some(())
    });
}

#[test]
fn frames_that_make_no_sense_harm_nothing() {
    let mut network = start(Mode::Polled);
    network.inside.sockets().add(udp_socket(7));
    let mut listener = tcp_socket();
    listener.listen(80).unwrap();
    network.inside.sockets().add(listener);
    introduce(&mut network);
    let mut random = device::fake::random(4);
    let ends = (IpEndpoint::new(OUTSIDE_IP.into(), 9), IpEndpoint::new(INSIDE_IP.into(), 7));
    let udp = udp_packet(ends.0, ends.1, &[7; 200]);
    let syn = packet(
        OUTSIDE_IP,
        INSIDE_IP,
        IpProtocol::Tcp,
        &[0, 9, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 9, 9, 0, 0, 0, 0],
    );
    let machine = network.bench.machine.clone();
    for n in 0..3000 {
        let mut bytes = frame(mac(0), OUTSIDE, IPV4, if n % 2 == 0 { &udp } else { &syn });
        for _ in 0..1 + random(4) {
            let place = 12 + random(bytes.len() as u64 - 12) as usize;
            bytes[place] = random(256) as u8;
        }
        if n % 3 == 0 {
            // So that what is behind the checksum of the header is looked at.
            Ipv4Packet::new_unchecked(&mut bytes[14..34]).fill_checksum_of_least();
        }
        if n % 5 == 0 {
            bytes.truncate(14 + random(40) as usize);
        }
        network.bench.send_from_outside(&bytes);
        if n % 16 == 15 {
            network.inside.poll(machine.now_ns());
            while network.bench.look_outside().is_some() {}
        }
    }
    while network.inside.poll(machine.now_ns()) == Next::Look && network.inside.port().drops().received < 100 {}
    assert!(network.inside.port().drops().received > 100, "the test must see some");
    while network.bench.look_outside().is_some() {}
    assert!(what_is_taken(&mut network, &udp));
    assert_eq!(network.inside.port().faults(), 0);
}

trait LeastHeader {
    fn fill_checksum_of_least(&mut self);
}

impl LeastHeader for Ipv4Packet<&mut [u8]> {
    /// Fills in the checksum as of a header of the least length, whatever length stands there.
    fn fill_checksum_of_least(&mut self) {
        self.set_header_len(20);
        self.fill_checksum();
    }
}

#[test]
fn it_sleeps_when_there_is_nothing_and_is_woken_by_a_frame() {
    let mut network = start(Mode::Adaptive { idle_looks: 3 });
    let messages = network.bench.vfs[0].catch_messages();
    let machine = network.bench.machine.clone();
    let socket = network.inside.sockets().add(udp_socket(7));
    let looks = |network: &mut Network| (1..100).find(|_| network.inside.poll(machine.now_ns()) != Next::Look).unwrap();
    // The emulated device sends a function its own broadcasts back.
    machine.wait("its own word", || messages.take(0).then_some(()));
    network.inside.interrupted();
    assert!((3..8).contains(&looks(&mut network)));
    assert_eq!(network.inside.poll(machine.now_ns()), Next::Sleep(None), "no timer is due");
    let _ = messages.take(0);
    let ends = (IpEndpoint::new(OUTSIDE_IP.into(), 9), IpEndpoint::new(INSIDE_IP.into(), 7));
    let bytes = frame(mac(0), OUTSIDE, IPV4, &udp_packet(ends.0, ends.1, b"wake"));
    network.bench.send_from_outside(&bytes);
    machine.wait("the interrupt", || messages.take(0).then_some(()));
    network.inside.interrupted();
    assert_eq!(network.inside.poll(machine.now_ns()), Next::Look);
    assert_eq!(network.socket_inside::<udp::Socket>(socket).recv().unwrap().0, b"wake");
    // Masked while it looks; what comes as it falls asleep wakes it.
    network.bench.send_from_outside(&bytes);
    assert!(!messages.take(0));
    looks(&mut network);
    assert!(network.socket_inside::<udp::Socket>(socket).can_recv());
    // A timer that is due is told: somebody is asked for by ARP, and asked for again.
    network
        .socket_inside::<udp::Socket>(socket)
        .send_slice(b"?", IpEndpoint::new(Ipv4Address::new(10, 0, 0, 200).into(), 9))
        .unwrap();
    let due_ns = machine.wait("a timer", || match network.inside.poll(machine.now_ns()) {
        Next::Sleep(due_ns) => due_ns,
        Next::Look => None,
    });
    assert!(due_ns > machine.now_ns() && due_ns < machine.now_ns() + 2_000_000_000);
}

/// Transmission was closed when the device was told of a frame: nobody answers, so nobody wakes who waits.
#[test]
fn what_was_not_sent_while_transmission_was_closed_goes_out_afterwards() {
    let mut network = start(Mode::Interrupt);
    introduce(&mut network);
    let machine = network.bench.machine.clone();
    let socket = network.inside.sockets().add(udp_socket(7));
    let limit = |network: &mut Network, limit| {
        let now_ns = machine.now_ns();
        assert!(network.bench.nic.set_limit(0, limit, now_ns));
        network.bench.nic.read_counters(now_ns);
    };
    limit(&mut network, Some(0));
    let outside = IpEndpoint::new(OUTSIDE_IP.into(), 9);
    network.socket_inside::<udp::Socket>(socket).send_slice(b"late", outside).unwrap();
    let mut due_ns = machine.now_ns();
    for _ in 0..5 {
        let now_ns = due_ns;
        due_ns = machine.wait("all is done that can be", || match network.inside.poll(now_ns) {
            Next::Sleep(due_ns) => Some(due_ns.expect("it wants to look again")),
            Next::Look => None,
        });
        assert!((now_ns..=now_ns + 2_000_000).contains(&due_ns), "{due_ns} at {now_ns}");
        assert_eq!(network.bench.look_outside(), None, "nothing goes out meanwhile");
    }
    limit(&mut network, None);
    let mut now_ns = due_ns;
    let sent = machine.wait("the frame", || {
        if let Next::Sleep(Some(due_ns)) = network.inside.poll(now_ns) {
            now_ns = due_ns;
        }
        network.bench.look_outside()
    });
    assert!(sent.windows(4).any(|bytes| bytes == b"late"), "{sent:?}");
    machine.wait("the ring is empty", || (network.inside.poll(now_ns) == Next::Sleep(None)).then_some(()));
}

#[test]
fn all_buffers_come_back_from_a_function_that_was_reset() {
    let mut network = start(Mode::Polled);
    introduce(&mut network);
    network.bench.vf(0).write32(0, 1 << 26);
    network.bench.vfs[0].reset();
    let Network { inside, .. } = network;
    assert_eq!(inside.into_port().dismantle().len(), 63 + 31);
}
