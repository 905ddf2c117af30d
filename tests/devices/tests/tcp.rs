//! Segments of TCP that somebody forges who sees all of a connection: sequence numbers within its window, any flags, options and
//! lengths, data over its data. That connection gets what he likes, or breaks; the stack and its other connections don't.

use device_tests::forged::{FORGERY, Random, forge, goes_to};
use device_tests::network::{Network, Streams, byte, tcp_socket};
use net::Mode;
use net::smoltcp::iface::SocketHandle;
use net::smoltcp::socket::tcp;
use std::cell::RefCell;
use std::rc::Rc;

/// The port whose connections are forged upon, and the one that is left alone.
const FORGED: u16 = 81;
const LEFT_ALONE: u16 = 80;

/// Looks without anything after which a connection counts as broken.
const STILL: u32 = 50;

/// Connections to the port that is forged upon, one after the other: a new one when the last one is broken.
struct Victims {
    inside: SocketHandle,
    outside: SocketHandle,
    port: u16,
    /// Looks since anything came in at either end.
    still: u32,
    /// How many were broken, and bytes that came in and were not sent.
    broken: u32,
    taken: u64,
}

impl Victims {
    fn new(network: &mut Network) -> Victims {
        let inside = network.inside.sockets().add(tcp_socket());
        network.socket_inside::<tcp::Socket>(inside).listen(FORGED).unwrap();
        Victims { inside, outside: network.connect(FORGED, 20_000), port: 20_000, still: 0, broken: 0, taken: 0 }
    }

    /// Sends and receives what can be, and begins anew when an end has given up, or both have lost each other: no time passes
    /// here after which either would send again.
    fn go_on(&mut self, network: &mut Network) {
        let inside = network.inside.sockets().get_mut::<tcp::Socket>(self.inside);
        let outside = network.sockets.get_mut::<tcp::Socket>(self.outside);
        self.still += 1;
        if inside.can_recv() {
            self.still = 0;
            let all = |bytes: &mut [u8]| (bytes.len(), bytes.iter().filter(|&&byte| byte == FORGERY).count());
            self.taken += inside.recv(all).unwrap() as u64;
        }
        if outside.can_recv() {
            self.still = 0;
            outside.recv(|bytes| (bytes.len(), ())).unwrap();
        }
        for socket in [&mut *inside, &mut *outside] {
            if socket.can_send() && socket.send_queue() < 2000 {
                socket.send_slice(&[7; 700]).unwrap();
            }
        }
        use tcp::State::{Established, Listen, SynReceived, SynSent};
        let goes = [inside.state(), outside.state()]
            .map(|state| matches!(state, Listen | SynSent | SynReceived | Established));
        if goes != [true; 2] || self.still > STILL {
            self.begin_again(network);
        }
    }

    fn begin_again(&mut self, network: &mut Network) {
        self.broken += 1;
        self.port += 1;
        self.still = 0;
        network.inside.sockets().remove(self.inside);
        network.sockets.remove(self.outside);
        self.inside = network.inside.sockets().add(tcp_socket());
        network.socket_inside::<tcp::Socket>(self.inside).listen(FORGED).unwrap();
        self.outside = network.connect(FORGED, self.port);
    }
}

#[test]
fn segments_forged_into_a_connection_break_no_other_one() {
    const FORGERIES: usize = 2000;
    let mut network = Network::start_static(Mode::Polled);
    let mut streams = Streams::connect(&mut network, LEFT_ALONE, 50_000);
    let mut victims = Victims::new(&mut network);
    let forged = Rc::new(RefCell::new(0));
    let (count, mut random) = (forged.clone(), Box::new(device::fake::random(11)) as Random);
    network.forger = Some(Box::new(move |frame| {
        if !goes_to(frame, FORGED) {
            return Vec::new();
        }
        let forgeries: Vec<Vec<u8>> = (0..random(3)).map(|_| forge(frame, &mut random)).collect();
        *count.borrow_mut() += forgeries.len();
        forgeries
    }));
    let mut still = 0;
    network.run("both streams", |network| {
        victims.go_on(network);
        let is_over = *forged.borrow() >= FORGERIES;
        still += 1;
        if still > STILL {
            // The cable has lost something, as it may; it is sent again in time.
            network.bench.machine.step(20_000_000);
        }
        let up_to = if is_over { 0 } else { usize::MAX };
        if streams.go_on(network, up_to) {
            still = 0;
        }
        (is_over && streams.received == [streams.sent[1], streams.sent[0]]).then_some(())
    });
    let (sent, forged) = (streams.sent, forged.borrow());
    println!("{sent:?} bytes, {forged} forged, {} broken, {} bytes taken", victims.broken, victims.taken);
    assert!(victims.broken > 50 && victims.taken > 20_000, "they must come into the connection");
    // Nobody forges any more: who comes there is served as ever.
    network.forger = None;
    victims.begin_again(&mut network);
    let request: Vec<u8> = (0..1000).map(byte).collect();
    let (mut asked, mut came) = (false, Vec::new());
    network.run("a connection as good as the first", |network| {
        let outside = network.socket::<tcp::Socket>(victims.outside);
        if outside.can_send() && !asked {
            outside.send_slice(&request).unwrap();
            asked = true;
        }
        let inside = network.socket_inside::<tcp::Socket>(victims.inside);
        if inside.can_recv() {
            inside.recv(|bytes| (bytes.len(), came.extend_from_slice(bytes))).unwrap();
        }
        (came.len() >= request.len()).then_some(())
    });
    assert_eq!(came, request);
    assert_eq!(network.inside.port().faults(), 0);
}
