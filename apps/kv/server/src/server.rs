//! All clients: who listens, who is served, who is gone.
//!
//! A socket of the stack takes one client, so that some always listen: as one is taken, another is made, up to the most
//! that there may be. The socket of a client that is gone is kept until TCP has ended, and then removed.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::net::SocketAddrV4;

use kv_engine::{Cold, Ends, Pages, Service, Store, Ticket, Time};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Duration;
use smoltcp::wire::{IpAddress, IpEndpoint};

use crate::datagrams::Datagrams;
use crate::session::{COPIED, MOST_STEPS, Outcome, Session};

/// Datagrams that the UDP socket holds in each direction, and their bytes.
const DATAGRAMS: usize = 32;
const DATAGRAM_BYTES: usize = 48 << 10;

/// What a server is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// TCP and UDP port, not 0; memcached's is 11211.
    pub port: u16,
    /// Clients at once, with those whose connection is being opened or has not ended yet.
    pub most_clients: usize,
    /// Sockets that listen at once, at least 1: so many clients may come between two calls of [`Server::serve`]; more are
    /// refused. One is enough for a network that takes in one new connection at a time; each costs a look at every frame.
    pub backlog: usize,
    /// Connections that are being opened at once, at least 1. Beyond that the oldest one is given up: so those who only knock
    /// keep nobody out for long (RFC 4987, 3.3).
    pub most_opening: usize,
    /// Bytes of each client's receive buffer, at least 2048 for the sake of speed.
    pub receive_bytes: usize,
    /// Bytes of each client's transmit buffer, at least 2048.
    pub transmit_bytes: usize,
    /// Seconds of silence after which a client is asked for a sign of life; it has as long again to give one, or to close its
    /// side when it was told the end. One that was silent for so long makes place for another, when all are taken.
    pub silence_s: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            port: 11211,
            most_clients: 360,
            backlog: 1,
            most_opening: 64,
            receive_bytes: 8 << 10,
            transmit_bytes: 16 << 10,
            silence_s: 60,
        }
    }
}

/// The server.
#[derive(Debug)]
pub struct Server<P, C> {
    store: Store<P, C>,
    settings: Settings,
    listening: Vec<SocketHandle>,
    sessions: Vec<Session>,
    /// Sockets whose client is gone for the engine, and not yet for TCP, and when they are given up.
    ending: Vec<(SocketHandle, Time)>,
    udp: SocketHandle,
    datagrams: Datagrams,
    /// Since when nobody listens, as all places are taken.
    full_since: Option<Time>,
    /// For copies of all sessions: to clear one for each step would be more work than to fill it.
    copy: Box<[u8; COPIED]>,
}

impl<P: Pages, C: Cold> Server<P, C> {
    /// A server of this store, which listens from now on.
    pub fn new(mut store: Store<P, C>, sockets: &mut SocketSet<'static>, settings: Settings) -> Server<P, C> {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; DATAGRAMS], vec![0; DATAGRAM_BYTES]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        let bound = socket.bind(settings.port);
        debug_assert!(bound.is_ok(), "a new socket can be bound to a port that is not 0");
        *store.service_mut() = Service {
            tcp_port: settings.port,
            udp_port: settings.port,
            most_connections: settings.most_clients as u64,
            backlog: settings.backlog as u64,
            steps: MOST_STEPS as u64,
            ..Service::default()
        };
        let mut server = Server {
            store,
            settings,
            listening: Vec::new(),
            sessions: Vec::new(),
            ending: Vec::new(),
            udp: sockets.add(socket),
            datagrams: Datagrams::default(),
            full_since: None,
            copy: Box::new([0; COPIED]),
        };
        (0..settings.backlog).all(|_| server.listen_once(sockets));
        server
    }

    /// The store, for its pages and its second tier.
    pub fn store(&mut self) -> &mut Store<P, C> {
        &mut self.store
    }

    /// Clients that are connected.
    pub fn clients(&self) -> usize {
        self.sessions.len()
    }

    /// Hands a value of the second tier over; see [`Store::deliver`]. Who waits for one asks again.
    pub fn deliver<'a>(&mut self, now: Time, ticket: Ticket, value: Option<impl Iterator<Item = &'a [u8]>>) {
        self.store.deliver(now, ticket, value);
        self.sessions.iter_mut().for_each(Session::value_came);
        self.datagrams.value_came();
    }

    /// Does what the sockets have for it. Then the network is to be polled, and this called again if that finds anything, or
    /// if this returns true; else the caller may sleep, and polls and calls again when it wakes.
    pub fn serve(&mut self, sockets: &mut SocketSet<'static>, now: Time) -> bool {
        let mut free = self.accept(sockets, now);
        let mut goes_on = self.datagrams.serve(&mut self.store, now, sockets.get_mut(self.udp));
        let mut at = 0;
        while let Some(session) = self.sessions.get_mut(at) {
            let outcome = session.serve(&mut self.store, now, sockets.get_mut(session.socket), &mut self.copy);
            goes_on |= outcome == Outcome::GoesOn;
            if outcome == Outcome::Over {
                let session = self.sessions.swap_remove(at);
                self.ending.push((session.socket, self.gives_up(now)));
                session.close(&mut self.store);
            } else {
                at += 1;
            }
        }
        if !self.ending.is_empty() {
            self.ending.retain(|&(handle, gives_up)| {
                let socket = sockets.get_mut::<tcp::Socket>(handle);
                // One that does not close its side stays as long as it likes, for TCP.
                if now >= gives_up {
                    socket.abort();
                }
                let has_ended = socket.state() == tcp::State::Closed;
                if has_ended {
                    sockets.remove(handle);
                }
                !has_ended
            });
            self.note_buffers();
        }
        while free < self.settings.backlog && self.listen_once(sockets) {
            free += 1;
        }
        if free == 0 {
            self.make_place(sockets, now);
        }
        if (free == 0) != self.full_since.is_some() {
            self.note_full(free == 0, now);
        }
        goes_on
    }

    /// Tells that nobody listens any more, or that somebody does again.
    fn note_full(&mut self, is_full: bool, now: Time) {
        let since = core::mem::replace(&mut self.full_since, is_full.then_some(now));
        let service = self.store.service_mut();
        service.accepts = !is_full;
        service.refusals += u64::from(is_full);
        service.refused_us += since.map_or(0, |since| now.micros().saturating_sub(since.micros()));
    }

    /// Tells which buffers there are.
    fn note_buffers(&mut self) {
        let each = (self.settings.receive_bytes + self.settings.transmit_bytes) as u64;
        let free = self.listening.len() as u64;
        let sockets = free + (self.sessions.len() + self.ending.len()) as u64;
        let service = self.store.service_mut();
        service.buffers = 2 * sockets;
        (service.buffer_bytes, service.buffer_bytes_free) = (each * sockets, each * free);
    }

    /// When all places are taken: ends the session that has been silent for the longest time, if that is long. Those who
    /// only hold places so keep nobody out for ever.
    fn make_place(&mut self, sockets: &mut SocketSet<'static>, now: Time) {
        let sessions = self.sessions.iter().enumerate();
        let Some((at, silent)) = sessions.min_by_key(|(_, session)| session.heard) else { return };
        if now >= later(silent.heard, self.settings.silence_s) {
            let session = self.sessions.swap_remove(at);
            sockets.get_mut::<tcp::Socket>(session.socket).abort();
            self.ending.push((session.socket, now));
            self.store.service_mut().idle_kicks += 1;
            session.close(&mut self.store);
        }
    }

    /// Takes those who have connected. Returns how many sockets still listen.
    fn accept(&mut self, sockets: &mut SocketSet<'static>, now: Time) -> usize {
        let gives_up = self.gives_up(now);
        let (store, sessions, ending) = (&mut self.store, &mut self.sessions, &mut self.ending);
        let (mut free, mut opening) = (0, 0);
        let before = self.listening.len();
        self.listening.retain(|&handle| match sockets.get::<tcp::Socket>(handle).state() {
            tcp::State::Listen => {
                free += 1;
                true
            }
            tcp::State::SynReceived => {
                opening += 1;
                true
            }
            tcp::State::Established | tcp::State::CloseWait => {
                let ends = ends(sockets.get::<tcp::Socket>(handle));
                sessions.push(Session::new(ends, store, handle, now));
                false
            }
            // It came to nothing.
            _ => {
                ending.push((handle, gives_up));
                false
            }
        });
        if opening > self.settings.most_opening {
            self.give_up_oldest(sockets);
        }
        if self.listening.len() != before {
            self.note_buffers();
        }
        free
    }

    /// When a socket that ends now is given up.
    fn gives_up(&self, now: Time) -> Time {
        later(now, 2 * self.settings.silence_s)
    }

    /// Gives up the connection that has been being opened for the longest time.
    fn give_up_oldest(&mut self, sockets: &mut SocketSet<'static>) {
        let is_opening = |handle: &SocketHandle| sockets.get::<tcp::Socket>(*handle).state() == tcp::State::SynReceived;
        if let Some(oldest) = self.listening.iter().position(is_opening) {
            sockets.remove(self.listening.remove(oldest));
        }
    }

    /// Lets one more socket listen. False if there are as many as there may be.
    fn listen_once(&mut self, sockets: &mut SocketSet<'static>) -> bool {
        let in_use = self.listening.len() + self.sessions.len() + self.ending.len();
        if in_use >= self.settings.most_clients {
            return false;
        }
        let buffer = |bytes| tcp::SocketBuffer::new(vec![0; bytes]);
        let mut socket = tcp::Socket::new(buffer(self.settings.receive_bytes), buffer(self.settings.transmit_bytes));
        // Answers are whole when they are handed over: waiting for more would only delay them.
        socket.set_nagle_enabled(false);
        socket.set_congestion_control(tcp::CongestionControl::Reno);
        socket.set_keep_alive(Some(Duration::from_secs(self.settings.silence_s)));
        socket.set_timeout(Some(Duration::from_secs(2 * self.settings.silence_s)));
        let listens = socket.listen(self.settings.port);
        debug_assert!(listens.is_ok(), "a new socket can listen on a port that is not 0");
        self.listening.push(sockets.add(socket));
        self.note_buffers();
        true
    }
}

/// Both ends of a connection.
fn ends(socket: &tcp::Socket<'_>) -> Option<Ends> {
    let address = |IpEndpoint { addr: IpAddress::Ipv4(address), port }| SocketAddrV4::new(address, port);
    Some(Ends { client: address(socket.remote_endpoint()?), server: address(socket.local_endpoint()?) })
}

/// So many seconds after a time.
fn later(time: Time, seconds: u64) -> Time {
    Time::from_micros(time.micros().saturating_add(seconds.saturating_mul(1_000_000)))
}
