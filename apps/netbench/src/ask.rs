//! The role `ask`: sends datagrams that come back, and a stream, and checks both.

use crate::content;
use crate::cost::{Cost, measure};
use crate::serve::{ECHO, STREAM};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use app_net::smoltcp::iface::SocketHandle;
use app_net::smoltcp::socket::{tcp, udp};
use app_net::smoltcp::wire::Ipv4Address;
use app_net::{Driving, Network, Next};
use userlib::{App, Error, clock, println};

/// How many datagrams are under way at once, in turn.
const OUTSTANDING: [usize; 2] = [1, 16];
/// Datagrams of each kind, and KiB of the stream, if it is not told.
const OPERATIONS: u64 = 1_000;
const KIB: u64 = 256;
/// Own ports.
const DATAGRAM_PORT: u16 = 4000;
const STREAM_PORT: u16 = 50_000;
/// Bytes of the buffer for the stream.
const BUFFER_BYTES: usize = 32 << 10;
/// Microseconds between two that are sent before the peer is there.
const AGAIN_US: u64 = 20_000;
/// Microseconds after which a datagram counts as lost: many periods of CPU time, as whoever uses its budget up answers in the
/// next one.
const LOST_US: u64 = 1_000_000;
/// Seconds after which the peer counts as gone.
const PATIENCE_S: u64 = 3;

/// The role.
///
/// # Errors
/// When there is no virtual function, an argument is wrong, the peer does not answer, or something comes back that was not
/// sent.
pub fn run(app: &mut App) -> Result<(), Error> {
    let peer = app.arg("peer").and_then(|text| text.parse().ok()).ok_or(Error::failed("`peer` must be an address"))?;
    let (operations, kib) = (app.number("operations", OPERATIONS), app.number("kib", KIB));
    let turns = turns(app.arg("turns"))?;
    let seed = app.start().seed;
    let mut network = Network::new(app, seed)?;
    let mut asking = Asking::new(&mut network, peer);
    asking.find(app, &mut network)?;
    let mut done = 0;
    for outstanding in OUTSTANDING {
        done += asking.run(app, &mut network, outstanding, operations)?;
        app.work_done(done, 0);
    }
    for turn in turns {
        network.set_mode(turn.mode);
        network.set_interrupt_delay_us(turn.interrupt_delay_us);
        println!("driven anew: {:?}, delay of {} us", turn.mode, turn.interrupt_delay_us);
        done += asking.run(app, &mut network, OUTSTANDING[1], operations)?;
    }
    stream(app, &mut network, peer, kib << 10)?;
    app.work_done(done + kib, 0);
    Ok(())
}

/// How the function is to be driven from turn to turn: `turns=MODE:MICROSECONDS,MODE:MICROSECONDS`.
fn turns(text: Option<&str>) -> Result<Vec<Driving>, Error> {
    let turns = text.into_iter().flat_map(|text| text.split(',')).map(|turn| {
        let (mode, delay) = turn.split_once(':').unwrap_or((turn, "0"));
        app_net::driving(Some(mode), Some(delay), None).map_err(|wrong| Error::failed(format!("turns: {wrong}")))
    });
    turns.collect()
}

/// Datagrams that come back.
struct Asking {
    socket: SocketHandle,
    peer: Ipv4Address,
    /// The number of the next one, and of those that have not come back.
    next: u64,
    waiting: Vec<u64>,
    right: u64,
    wrong: u64,
}

impl Asking {
    fn new(network: &mut Network, peer: Ipv4Address) -> Asking {
        const AT_ONCE: usize = 2 * OUTSTANDING[1];
        let buffer = || {
            let bytes = AT_ONCE * content::DATAGRAM_BYTES;
            udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; AT_ONCE], vec![0; bytes])
        };
        let mut socket = udp::Socket::new(buffer(), buffer());
        // A new socket can be bound to a port that is not 0.
        let _ = socket.bind(DATAGRAM_PORT);
        Asking { socket: network.sockets().add(socket), peer, next: 0, waiting: Vec::new(), right: 0, wrong: 0 }
    }

    /// Takes what came back, and sends until so many are under way or there is none to be sent. Returns how many came back.
    fn turn(&mut self, network: &mut Network, outstanding: usize, end: u64) -> u64 {
        let socket = network.sockets().get_mut::<udp::Socket>(self.socket);
        let before = self.right;
        while let Ok((payload, _)) = socket.recv() {
            match content::number(payload) {
                // One that counted as lost may come late.
                Some(number) => {
                    let at = self.waiting.iter().position(|waiting| *waiting == number);
                    self.right += u64::from(at.map(|at| self.waiting.swap_remove(at)).is_some());
                }
                None => self.wrong += 1,
            }
        }
        while self.waiting.len() < outstanding && self.next < end {
            if socket.send_slice(&content::datagram(self.next), (self.peer, ECHO)).is_err() {
                break;
            }
            self.waiting.push(self.next);
            self.next += 1;
        }
        self.right - before
    }

    /// Sends single ones until the first comes back.
    fn find(&mut self, app: &mut App, network: &mut Network) -> Result<(), Error> {
        let deadline = app.clock().in_us(1_000_000 * PATIENCE_S);
        while clock::now() < deadline {
            let again = app.clock().in_us(AGAIN_US);
            self.waiting.clear();
            while clock::now() < again {
                let next = network.poll();
                if self.turn(network, 1, self.next + 1) > 0 {
                    // What went out behind it comes back unasked.
                    self.waiting.clear();
                    return Ok(());
                }
                network.rest(app, next, again)?;
            }
        }
        Err(Error::failed("the peer does not answer"))
    }

    /// So many datagrams, some at once. Returns how many came back.
    fn run(&mut self, app: &mut App, network: &mut Network, outstanding: usize, operations: u64) -> Result<u64, Error> {
        let (end, mut lost, mut cost) = (self.next + operations, 0, Cost::default());
        (self.right, self.wrong) = (0, 0);
        let (mut deadline, began_ns) = (app.clock().in_us(LOST_US), network.now_ns());
        while self.next < end || !self.waiting.is_empty() {
            let sent = self.next;
            let ((next, back), spent) = measure(|| (network.poll(), self.turn(network, outstanding, end)));
            cost.turn(spent, back);
            if self.next > sent || back > 0 {
                deadline = app.clock().in_us(LOST_US);
                continue;
            }
            let (has_come, spent) = measure(|| network.watch(app, next, deadline));
            cost.wait(spent);
            // Who polls is told to look on, always.
            if (!has_come? || next == Next::Look) && clock::now() >= deadline {
                lost += self.waiting.len();
                self.waiting.clear();
            }
        }
        println!(
            "{outstanding} at once: {} datagrams came back right, {lost} did not, {} were wrong; {} instructions each, \
             {} exits, {} preemptions, {} interrupts in {} us",
            self.right,
            self.wrong,
            cost.each(),
            cost.exits.own,
            cost.exits.preemptions,
            cost.interrupts,
            (network.now_ns() - began_ns) / 1_000
        );
        if self.wrong > 0 { Err(Error::failed("what came back was not what was sent")) } else { Ok(self.right) }
    }
}

/// Sends a stream of so many bytes, and hears how many were right.
fn stream(app: &mut App, network: &mut Network, peer: Ipv4Address, bytes: u64) -> Result<(), Error> {
    let buffer = |bytes| tcp::SocketBuffer::new(vec![0; bytes]);
    let mut socket = tcp::Socket::new(buffer(64), buffer(BUFFER_BYTES));
    socket.set_nagle_enabled(false);
    let (interface, sockets) = network.interface();
    let connects = socket.connect(interface.context(), (peer, STREAM), STREAM_PORT);
    connects.map_err(|_| Error::failed("there is no address to connect from"))?;
    let handle = sockets.add(socket);
    let (mut sent, mut right, mut cost) = (0, None, Cost::default());
    let deadline = app.clock().in_us(1_000_000 * PATIENCE_S);
    while right.is_none() {
        if clock::now() >= deadline {
            return Err(Error::failed("the stream does not end"));
        }
        let ((next, moved), spent) = measure(|| {
            let next = network.poll();
            let socket = network.sockets().get_mut::<tcp::Socket>(handle);
            let before = sent;
            while sent < bytes && socket.can_send() {
                // It can, so there is no error.
                let _ = socket.send(|place| {
                    let now = place.len().min((bytes - sent) as usize);
                    let place = place.get_mut(..now).unwrap_or_default();
                    content::fill(sent, place);
                    sent += now as u64;
                    (now, ())
                });
            }
            if sent == bytes && before < sent {
                socket.close();
            }
            let mut number = [0; 8];
            if socket.peek_slice(&mut number) == Ok(number.len()) {
                right = Some(u64::from_le_bytes(number));
            }
            (next, sent - before)
        });
        cost.turn(spent, moved);
        if moved == 0 && right.is_none() {
            let (has_come, spent) = measure(|| network.watch(app, next, deadline));
            cost.wait(spent);
            has_come?;
        }
    }
    network.sockets().remove(handle);
    println!(
        "stream: {} of {bytes} bytes were right, {} instructions a KiB, {} exits, {} preemptions",
        right.unwrap_or_default(),
        cost.each_kib(),
        cost.exits.own,
        cost.exits.preemptions
    );
    if right == Some(bytes) { Ok(()) } else { Err(Error::failed("the stream did not arrive as it was sent")) }
}
