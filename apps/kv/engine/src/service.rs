//! What `stats` tells of the server around the store, and of its clients. The server says it; the engine only tells it.

use alloc::vec::Vec;
use core::net::SocketAddrV4;

use crate::time::Second;

/// The server around the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// TCP and UDP port; 0 is none.
    pub tcp_port: u16,
    /// UDP port; 0 is none.
    pub udp_port: u16,
    /// Clients that may be connected at once; 0 is any number.
    pub most_connections: u64,
    /// Clients that may come between two looks at the network.
    pub backlog: u64,
    /// Steps that a client gets in a row.
    pub steps: u64,
    /// Buffers for what comes from clients and goes to them, and their bytes; of these, bytes that no client uses.
    pub buffers: u64,
    /// See `buffers`.
    pub buffer_bytes: u64,
    /// See `buffers`.
    pub buffer_bytes_free: u64,
    /// True if another client could connect.
    pub accepts: bool,
    /// How often none could connect any more, and microseconds in which none could.
    pub refusals: u64,
    /// See `refusals`.
    pub refused_us: u64,
    /// Clients that were sent away, as they were silent for long and all places were taken.
    pub idle_kicks: u64,
    /// How often a client had more to do than it gets in a row.
    pub yields: u64,
}

impl Default for Service {
    fn default() -> Service {
        Service {
            tcp_port: 0,
            udp_port: 0,
            most_connections: 0,
            backlog: 0,
            steps: 0,
            buffers: 0,
            buffer_bytes: 0,
            buffer_bytes_free: 0,
            accepts: true,
            refusals: 0,
            refused_us: 0,
            idle_kicks: 0,
            yields: 0,
        }
    }
}

impl Service {
    /// Begins to count anew.
    pub(crate) fn reset(&mut self) {
        (self.refusals, self.refused_us, self.idle_kicks, self.yields) = (0, 0, 0, 0);
    }
}

/// Both ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client's.
    pub client: SocketAddrV4,
    /// The server's.
    pub server: SocketAddrV4,
}

/// What a connection does, in memcached's words (protocol.txt, "Connection statistics").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Activity {
    #[default]
    Read,
    Waiting,
    Parse,
    Nread,
    Swallow,
    Mwrite,
    IoQueue,
    Closing,
}

impl Activity {
    pub fn name(self) -> &'static str {
        match self {
            Activity::Read => "conn_read",
            Activity::Waiting => "conn_waiting",
            Activity::Parse => "conn_parse_cmd",
            Activity::Nread => "conn_nread",
            Activity::Swallow => "conn_swallow",
            Activity::Mwrite => "conn_mwrite",
            Activity::IoQueue => "conn_io_queue",
            Activity::Closing => "conn_closing",
        }
    }
}

/// A client that is connected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// `None` if the caller did not say.
    pub ends: Option<Ends>,
    pub activity: Activity,
    /// When something last came from it.
    pub heard: Second,
}

/// The place of a client among [`Clients`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u32);

/// All clients, each at a place that it keeps.
#[derive(Debug, Default)]
pub(crate) struct Clients(Vec<Option<Client>>);

impl Clients {
    pub fn add(&mut self, client: Client) -> Place {
        let free = self.0.iter().position(Option::is_none).unwrap_or(self.0.len());
        match self.0.get_mut(free) {
            Some(place) => *place = Some(client),
            None => self.0.push(Some(client)),
        }
        Place(free as u32)
    }

    pub fn remove(&mut self, place: Place) {
        if let Some(client) = self.0.get_mut(place.0 as usize) {
            *client = None;
        }
    }

    pub fn get_mut(&mut self, place: Place) -> Option<&mut Client> {
        self.0.get_mut(place.0 as usize)?.as_mut()
    }

    /// Places, taken or not.
    pub fn places(&self) -> usize {
        self.0.len()
    }

    /// The client at the place with this number.
    pub fn at(&self, place: usize) -> Option<&Client> {
        self.0.get(place)?.as_ref()
    }
}
