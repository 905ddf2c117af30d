//! The role `serve`: echoes datagrams, and takes a stream and checks it.

use crate::content;
use crate::cost::{Cost, measure};
use alloc::vec;
use app_net::Network;
use app_net::smoltcp::iface::{SocketHandle, SocketSet};
use app_net::smoltcp::socket::tcp::{Socket, SocketBuffer};
use userlib::{App, Error, clock, println};

/// UDP port of the echo (RFC 862).
pub const ECHO: u16 = 7;
/// TCP port of the stream, of which nothing comes back but how much of it was right (as RFC 863 but for that).
pub const STREAM: u16 = 9;
/// Bytes of the buffer for a stream, and of the number that comes back.
const BUFFER_BYTES: usize = 32 << 10;
const NUMBER_BYTES: usize = 8;
/// Milliseconds that it runs for, if it is not told.
const RUN_MS: u64 = 1_000;
/// Microseconds without anything after which it gives the core up until there is more.
const BUSY_US: u64 = 2_000;

/// The stream that comes.
struct Sink {
    socket: SocketHandle,
    received: u64,
    right: u64,
    /// Streams that have ended.
    ended: u64,
}

impl Sink {
    fn new(sockets: &mut SocketSet<'static>) -> Sink {
        let socket = Socket::new(SocketBuffer::new(vec![0; BUFFER_BYTES]), SocketBuffer::new(vec![0; NUMBER_BYTES]));
        Sink { socket: sockets.add(socket), received: 0, right: 0, ended: 0 }
    }

    /// Takes what has come; at the end of a stream says how much was right, and listens for the next one. Returns the bytes
    /// taken.
    fn serve(&mut self, sockets: &mut SocketSet<'static>) -> u64 {
        let socket = sockets.get_mut::<Socket>(self.socket);
        if !socket.is_open() {
            self.ended += u64::from(self.received > 0);
            // A closed socket can listen on a port that is not 0.
            let _ = socket.listen(STREAM);
            (self.received, self.right) = (0, 0);
        }
        let before = self.received;
        while socket.can_recv() {
            // It can, so there is no error.
            let _ = socket.recv(|bytes| {
                // What follows a wrong byte is not right either.
                if self.right == self.received {
                    self.right += content::right(self.received, bytes) as u64;
                }
                self.received += bytes.len() as u64;
                (bytes.len(), ())
            });
        }
        // The other side has said all.
        if !socket.may_recv() && socket.may_send() {
            // There is room, as nothing was sent before.
            let _ = socket.send_slice(&self.right.to_le_bytes());
            socket.close();
        }
        self.received - before
    }
}

/// The role.
///
/// # Errors
/// When there is no virtual function, an argument is wrong, or the market is gone.
pub fn run(app: &mut App) -> Result<(), Error> {
    let end = app.clock().in_us(1_000 * app.number("for", RUN_MS));
    let busy = app.clock().ticks_of_us(BUSY_US);
    let seed = app.start().seed;
    let mut network = Network::new(app, seed)?;
    let mut sink = Sink::new(network.sockets());
    let (mut echoed, mut taken) = (0u64, 0u64);
    let (mut datagrams, mut stream) = (Cost::default(), Cost::default());
    let streams = app.number("streams", u64::MAX);
    while clock::now() < end && sink.ended < streams {
        while network.event(app)?.is_some() {}
        let before = echoed;
        let ((next, bytes), spent) = measure(|| {
            let next = network.poll_and_answer(ECHO, |asked, place| {
                place.get_mut(..asked.len())?.copy_from_slice(asked);
                echoed += 1;
                Some(asked.len())
            });
            (next, sink.serve(network.sockets()))
        });
        taken += bytes;
        if echoed > before {
            datagrams.turn(spent, echoed - before)
        } else {
            stream.turn(spent, bytes)
        }
        if bytes > 0 {
            continue;
        }
        let (has_come, spent) = measure(|| network.watch(app, next, (clock::now() + busy).min(end)));
        stream.wait(spent);
        if !has_come? {
            app.work_done(echoed, 0);
            network.rest(app, next, end)?;
        }
    }
    let Cost { mut exits, mut interrupts, .. } = stream;
    exits.add(datagrams.exits);
    interrupts += datagrams.interrupts;
    println!(
        "{echoed} datagrams echoed, {} instructions each; {taken} bytes of streams taken, {} instructions a KiB; \
         {} exits, {} preemptions, {interrupts} interrupts",
        datagrams.each(),
        stream.each_kib(),
        exits.own,
        exits.preemptions
    );
    Ok(())
}
