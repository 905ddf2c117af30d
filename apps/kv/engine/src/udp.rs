//! Requests in single datagrams (protocol.txt, "UDP protocol").
//!
//! A datagram begins with 8 bytes: request number, sequence number, number of datagrams, and 16 reserved bits, all with
//! the most significant byte first. An answer takes as many datagrams as it needs, each with the request's number.

use alloc::vec::Vec;

use crate::cold::{Cold, Ticket};
use crate::connection::{Connection, Next};
use crate::output::Output;
use crate::pages::Pages;
use crate::store::Store;
use crate::time::Time;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 8;
/// Bytes of a datagram of an answer at most, with its header (memcached.h, `UDP_MAX_PAYLOAD_SIZE`).
pub const MOST_DATAGRAM_BYTES: usize = 1400;
/// Bytes of an answer at most, in all of its datagrams without their headers: a large value and a little more.
pub const MOST_ANSWER_BYTES: usize = crate::MOST_VALUE_BYTES + 64 * 1024;

/// Bytes of a datagram that are the answer's.
const PAYLOAD: usize = MOST_DATAGRAM_BYTES - HEADER_BYTES;

/// An answer that is gathered.
#[derive(Debug)]
struct Answer(Vec<u8>);

impl Output for Answer {
    fn room(&self) -> usize {
        MOST_ANSWER_BYTES - self.0.len()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

/// A request and its answer. [`Exchange::close`] must be called when it ends.
#[derive(Debug)]
pub struct Exchange {
    connection: Connection,
    number: [u8; 2],
    /// What is not done with yet.
    request: Vec<u8>,
    answer: Answer,
}

impl Exchange {
    /// Takes a request in. `None` if it is none.
    pub fn new(datagram: &[u8]) -> Option<Exchange> {
        let (header, request) = datagram.split_first_chunk::<HEADER_BYTES>()?;
        let mut exchange = Exchange {
            connection: Connection::for_datagram(),
            number: [header[0], header[1]],
            request: Vec::new(),
            answer: Answer(Vec::new()),
        };
        if header[4..6] == [0, 1] {
            exchange.request = request.to_vec();
        } else {
            exchange.answer.write(b"SERVER_ERROR multi-packet request not supported\r\n");
        }
        Some(exchange)
    }

    /// Executes the request. `None` if it is done; else call again when this value was delivered. A request that is
    /// incomplete gets no answer to its last command.
    pub fn proceed<P: Pages, C: Cold>(&mut self, store: &mut Store<P, C>, now: Time) -> Option<Ticket> {
        let progress = self.connection.receive(store, now, &self.request, &mut self.answer);
        match progress.next {
            Next::Cold(ticket) => {
                self.request.drain(..progress.consumed);
                Some(ticket)
            }
            Next::Room => {
                self.answer.0.clear();
                self.answer.write(b"SERVER_ERROR out of memory writing get response\r\n");
                None
            }
            Next::Input | Next::Close => None,
        }
    }

    /// The datagrams of the answer so far: headers and what follows them.
    pub fn datagrams(&self) -> impl Iterator<Item = ([u8; HEADER_BYTES], &[u8])> {
        let total = self.answer.0.len().div_ceil(PAYLOAD) as u16;
        let [high, low] = self.number;
        self.answer.0.chunks(PAYLOAD).zip(0u16..).map(move |(payload, sequence)| {
            let ([s0, s1], [t0, t1]) = (sequence.to_be_bytes(), total.to_be_bytes());
            ([high, low, s0, s1, t0, t1, 0, 0], payload)
        })
    }

    /// Ends the exchange.
    pub fn close<P: Pages, C: Cold>(self, store: &mut Store<P, C>) {
        self.connection.close(store);
    }
}

const _: () = assert!(MOST_ANSWER_BYTES.div_ceil(PAYLOAD) <= u16::MAX as usize);
