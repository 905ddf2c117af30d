//! What tests and examples share.
#![allow(dead_code, reason = "each test and example uses a part of it")]

pub mod golden;
pub mod random;
pub mod server;

use kv_engine::{Connection, HeapPages, LEAST_ROOM, Next, NoCold, Output, PageNumber, Store, Time};

/// When tests begin.
pub const START: Time = Time::from_seconds(1_700_000_000);

pub type HeapStore = Store<HeapPages, NoCold>;

/// A store with so many pages on the heap.
pub fn store(pages: usize) -> HeapStore {
    let mut store = Store::new(HeapPages::new(pages), NoCold, &[7; 16], START);
    (0..pages as u32).for_each(|page| assert!(store.add_page(PageNumber(page))));
    store
}

/// A client, and the store that it asks.
pub struct Client {
    pub store: HeapStore,
    pub connection: Connection,
    /// Seconds since [`START`].
    pub second: u64,
}

impl Client {
    /// The answer to a request, which lacks only its last line's end.
    pub fn ask(&mut self, request: &str) -> String {
        let now = Time::from_seconds(START.seconds() + self.second);
        let request = format!("{request}\r\n");
        let (answer, _) = feed(&mut self.store, &mut self.connection, now, &[request.as_bytes()], 4096);
        assert_eq!(kv_engine::check::check(&self.store), Ok(()), "{request}");
        String::from_utf8(answer).expect("text")
    }
}

/// An output of limited room, which is emptied when it is full.
#[derive(Debug)]
pub struct Sink {
    pub bytes: Vec<u8>,
    pub room: usize,
}

impl Sink {
    pub fn new() -> Sink {
        Sink { bytes: Vec::new(), room: usize::MAX }
    }
}

impl Output for Sink {
    fn room(&self) -> usize {
        self.room
    }

    fn write(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room, "more than there is room for");
        self.room -= if self.room == usize::MAX { 0 } else { bytes.len() };
        self.bytes.extend_from_slice(bytes);
    }
}

/// Gives a connection input, piece by piece, with an output of this room, and takes all answers. Says if it is closed.
pub fn feed(
    store: &mut HeapStore,
    connection: &mut Connection,
    now: Time,
    pieces: &[&[u8]],
    room: usize,
) -> (Vec<u8>, bool) {
    let mut sink = Sink { bytes: Vec::new(), room };
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let progress = connection.receive(store, now, rest, &mut sink);
            rest = &rest[progress.consumed..];
            match progress.next {
                Next::Input => {
                    assert!(rest.is_empty(), "input is left");
                    break;
                }
                Next::Room => {
                    assert!(sink.room < LEAST_ROOM);
                    sink.room = room;
                }
                Next::Cold(_) => panic!("there is no second tier"),
                Next::Close => return (sink.bytes, true),
            }
        }
    }
    (sink.bytes, false)
}
