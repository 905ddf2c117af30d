//! One client over TCP: the engine's connection and its socket.

use kv_engine::{Cold, Connection, Ends, LEAST_ROOM, Next, Output, Pages, Store, Time};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;

/// Steps that a client gets in a row: each takes in or answers as much as is contiguous in a socket's buffer.
pub const MOST_STEPS: usize = 8;

/// Bytes that are copied: command lines on their way in, or answers on their way out.
pub const COPIED: usize = 2 * LEAST_ROOM;

/// An output into a slice.
struct Slice<'a> {
    place: &'a mut [u8],
    written: usize,
}

impl<'a> Slice<'a> {
    fn new(place: &'a mut [u8]) -> Slice<'a> {
        Slice { place, written: 0 }
    }
}

impl Output for Slice<'_> {
    fn room(&self) -> usize {
        self.place.len() - self.written
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(place) = self.place.get_mut(self.written..self.written + bytes.len()) {
            place.copy_from_slice(bytes);
            self.written += bytes.len();
        }
    }
}

/// How far a session came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It waits for its client.
    Waits,
    /// It may go on at once.
    GoesOn,
    /// It is over, and its socket is closed or going to be.
    Over,
}

/// A client.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    /// Its socket.
    pub socket: SocketHandle,
    /// What the engine waited for when it was last called.
    next: Next,
    /// When it was last called for something, or the client came.
    pub heard: Time,
}

impl Session {
    /// A client that has connected.
    pub fn new<P: Pages, C: Cold>(
        ends: Option<Ends>,
        store: &mut Store<P, C>,
        socket: SocketHandle,
        now: Time,
    ) -> Session {
        Session { connection: Connection::between(ends, store), socket, next: Next::Input, heard: now }
    }

    /// Lets it ask again for the value that it waits for.
    pub fn value_came(&mut self) {
        if let Next::Cold(_) = self.next {
            self.next = Next::Room;
        }
    }

    /// Ends the engine's side.
    pub fn close<P: Pages, C: Cold>(self, store: &mut Store<P, C>) {
        self.connection.close(store);
    }

    /// Does what can be done now. `copy` is a place for copies, of any content.
    pub fn serve<P: Pages, C: Cold>(
        &mut self,
        store: &mut Store<P, C>,
        now: Time,
        socket: &mut tcp::Socket<'_>,
        copy: &mut [u8; COPIED],
    ) -> Outcome {
        for _ in 0..MOST_STEPS {
            // Gone: reset, given up, or closed by both.
            if !socket.may_send() {
                socket.abort();
                return Outcome::Over;
            }
            match self.next {
                Next::Cold(_) => return Outcome::Waits,
                Next::Input if !socket.can_recv() && socket.may_recv() => return Outcome::Waits,
                // The client has said all, and has been answered; or it is to go.
                Next::Input if !socket.can_recv() => return close(socket),
                Next::Close => return close(socket),
                Next::Input | Next::Room => {}
            }
            if socket.send_capacity() - socket.send_queue() < LEAST_ROOM {
                return Outcome::Waits;
            }
            self.heard = now;
            self.next = self.step(store, now, socket, copy);
        }
        store.service_mut().yields += 1;
        Outcome::GoesOn
    }

    /// One call of the engine.
    fn step<P: Pages, C: Cold>(
        &mut self,
        store: &mut Store<P, C>,
        now: Time,
        socket: &mut tcp::Socket<'_>,
        copy: &mut [u8; COPIED],
    ) -> Next {
        let connection = &mut self.connection;
        if connection.awaits_value() {
            let room = (socket.send_capacity() - socket.send_queue()).min(COPIED);
            let mut output = Slice::new(copy.get_mut(..room).unwrap_or_default());
            let received = socket.recv(|input| {
                let progress = connection.receive(store, now, input, &mut output);
                (progress.consumed, progress.next)
            });
            let written = output.written;
            send(socket, copy.get(..written).unwrap_or_default());
            return received.unwrap_or(Next::Input);
        }
        let copied = socket.peek_slice(copy).unwrap_or_default();
        let input = copy.get(..copied).unwrap_or_default();
        let sent = socket.send(|place| {
            if place.len() < LEAST_ROOM {
                return (0, None);
            }
            let mut output = Slice::new(place);
            let progress = connection.receive(store, now, input, &mut output);
            (output.written, Some(progress))
        });
        let progress = match sent {
            Ok(Some(progress)) => progress,
            // Little room up to the end of the buffer, and more at its beginning.
            Ok(None) | Err(_) => {
                let mut answer = [0; LEAST_ROOM];
                let mut output = Slice::new(&mut answer);
                let progress = connection.receive(store, now, input, &mut output);
                let written = output.written;
                send(socket, answer.get(..written).unwrap_or_default());
                progress
            }
        };
        discard(socket, progress.consumed);
        progress.next
    }
}

/// Drops what the engine has consumed of a copy: it is as much as there is, or less, and may wrap around once.
fn discard(socket: &mut tcp::Socket<'_>, bytes: usize) {
    let mut left = bytes;
    for _ in 0..2 {
        let dropped = socket.recv(|place| {
            let now = left.min(place.len());
            (now, now)
        });
        left -= dropped.unwrap_or_default();
        if left == 0 {
            return;
        }
    }
}

/// Ends a session; what was answered still goes out.
fn close(socket: &mut tcp::Socket<'_>) -> Outcome {
    socket.close();
    Outcome::Over
}

/// Sends what the socket has room for.
fn send(socket: &mut tcp::Socket<'_>, bytes: &[u8]) {
    let sent = socket.send_slice(bytes);
    debug_assert!(sent.is_err() || sent == Ok(bytes.len()));
}
