//! The clients in their VM: one connection to each server, and one loop.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use app_net::Network;
use app_net::smoltcp::iface::SocketHandle;
use app_net::smoltcp::socket::tcp;
use app_net::smoltcp::wire::Ipv4Address;
use userlib::{App, Error, clock, println};

use crate::TICK_US;
use crate::answers::Answers;
use crate::keys::{self, Keys};

/// The port of the servers.
const PORT: u16 = 11211;
/// The first port of connections; each has its own, a new one each time.
const FIRST_PORT: u16 = 49_152;
/// Bytes of the buffers of a connection: the requests of a tick, with what was missing, and their answers.
const BUFFER_BYTES: usize = 32 << 10;

/// A connection to a server.
struct Client {
    server: Ipv4Address,
    socket: SocketHandle,
    keys: Keys,
    answers: Answers,
    /// Keys to be stored.
    missing: Vec<u64>,
    connections: u16,
}

/// What the load is like.
struct Load {
    many: u64,
    few: u64,
    turn_us: u64,
    value_bytes: usize,
}

impl Load {
    /// Requests of a server in the tick at this time of the run.
    fn requests(&self, server: usize, now_us: u64) -> u64 {
        let whose_turn = (now_us / self.turn_us.max(1)) as usize % 2;
        if whose_turn == server { self.many } else { self.few }
    }
}

/// The application.
///
/// # Errors
/// When it has no virtual function, an argument is wrong, or an answer was.
pub fn run(app: &mut App) -> Result<(), Error> {
    let seed = app.start().seed;
    let load = Load {
        many: app.number("many", 60),
        few: app.number("few", 6),
        turn_us: 1_000 * app.number("turn", 1_000),
        value_bytes: app.number("bytes", 480) as usize,
    };
    let (key_count, end_us) = (app.number("keys", 1_000), 1_000 * app.number("for", 3_000));
    let servers: Vec<Ipv4Address> =
        app.arg("servers").unwrap_or_default().split(',').filter_map(|text| text.parse().ok()).collect();
    if servers.len() != 2 {
        return Err(Error::failed("`servers` must be two addresses, as 10.0.2.101,10.0.2.102"));
    }
    let mut network = Network::new(app, seed)?;
    let mut clients: Vec<Client> = Vec::new();
    for (number, server) in (0..).zip(servers) {
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER_BYTES]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        clients.push(Client {
            server,
            socket: network.sockets().add(socket),
            keys: Keys::new(seed + number, key_count),
            answers: Answers::new(load.value_bytes),
            missing: Vec::new(),
            connections: number as u16,
        });
    }
    let mut next_us = 0;
    let now_us = |app: &App| app.clock().us_at(clock::now());
    while now_us(app) < end_us {
        while network.event(app)?.is_some() {}
        let next = network.poll();
        let mut has_moved = false;
        for client in &mut clients {
            has_moved |= client.receive(&mut network);
        }
        let now = now_us(app);
        // What is sent without a link is sent again after a second.
        if now >= next_us && network.link_is_up() {
            next_us = (now / TICK_US + 1) * TICK_US;
            for (number, client) in clients.iter_mut().enumerate() {
                client.send(&mut network, load.requests(number, now), load.value_bytes);
            }
            let hits: u64 = clients.iter().map(|client| client.answers.tally.hits).sum();
            app.work_done(hits, 0);
            has_moved = true;
        }
        if !has_moved {
            let deadline = app.clock().in_us(next_us.saturating_sub(now).max(TICK_US / 10));
            network.rest(app, next, deadline)?;
        }
    }
    finish(app, &clients)
}

/// Says how it went. An error if an answer was wrong, or there were none.
fn finish(app: &mut App, clients: &[Client]) -> Result<(), Error> {
    let (mut hits, mut wrong) = (0, 0);
    for client in clients {
        let tally = client.answers.tally;
        println!("{}: {} hits, {} misses, {} wrong answers", client.server, tally.hits, tally.misses, tally.wrong);
        (hits, wrong) = (hits + tally.hits, wrong + tally.wrong);
        if tally.hits + tally.misses == 0 {
            return Err(Error::failed(format!("{} did not answer", client.server)));
        }
    }
    app.work_done(hits, hits);
    if wrong > 0 { Err(Error::failed(format!("{wrong} answers were wrong"))) } else { Ok(()) }
}

impl Client {
    /// Takes in what was answered. True if there was anything.
    fn receive(&mut self, network: &mut Network) -> bool {
        let socket = network.sockets().get_mut::<tcp::Socket>(self.socket);
        let (answers, missing) = (&mut self.answers, &mut self.missing);
        let received = socket.recv(|bytes| {
            answers.take(bytes, missing);
            (bytes.len(), !bytes.is_empty())
        });
        received.unwrap_or(false)
    }

    /// Sends so many requests, if the last ones were answered, and stores what was missing. Connects first, if need be.
    fn send(&mut self, network: &mut Network, requests: u64, value_bytes: usize) {
        let (interface, sockets) = network.interface();
        let socket = sockets.get_mut::<tcp::Socket>(self.socket);
        if !socket.is_open() {
            self.answers.forget();
            // Ports of the two servers' connections differ, as both step by two.
            self.connections = self.connections.wrapping_add(2) % 16_384;
            // Refused only without an own address yet: then it is tried again.
            let _ = socket.connect(interface.context(), (self.server, PORT), FIRST_PORT + self.connections);
        }
        if !socket.may_send() || self.answers.waiting() > 0 {
            return;
        }
        let mut room = socket.send_capacity() - socket.send_queue();
        let mut say = |socket: &mut tcp::Socket<'_>, bytes: &[u8]| {
            let fits = bytes.len() <= room;
            if fits {
                room -= bytes.len();
                // There is room, and the connection can send.
                let _ = socket.send_slice(bytes);
            }
            fits
        };
        for key in self.missing.drain(..) {
            let mut line = format!("set {} 0 0 {value_bytes} noreply\r\n", keys::name(key)).into_bytes();
            line.extend(keys::value(key, value_bytes));
            line.extend(b"\r\n");
            // What does not fit is missed again.
            say(socket, &line);
        }
        for _ in 0..requests {
            let key = self.keys.next_key();
            if !say(socket, format!("get {}\r\n", keys::name(key)).as_bytes()) {
                break;
            }
            self.answers.ask(key);
        }
    }
}
