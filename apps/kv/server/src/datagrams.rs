//! Requests in datagrams: one at a time, and its answer in as many datagrams as the socket takes by and by. The next
//! request waits in the socket meanwhile. An answer to an address that nobody has is given up after [`PATIENCE_US`], with all
//! that waits behind it.

use kv_engine::udp::Exchange;
use kv_engine::{Cold, Pages, Store, Time};
use smoltcp::socket::udp;

/// Steps in a row: each takes a request in, or hands one datagram of an answer over.
const MOST_STEPS: usize = 32;

/// Microseconds for which the first datagram of an answer may wait in the socket: whom it is for has said by then who it is.
const PATIENCE_US: u64 = 500_000;

/// The request that is being answered.
#[derive(Debug)]
struct Current {
    exchange: Exchange,
    from: udp::UdpMetadata,
    stage: Stage,
}

impl Current {
    /// Sends the datagram of the answer before which there are so many. False if there is none.
    fn send(&self, sent: usize, socket: &mut udp::Socket<'_>) -> Result<bool, udp::SendError> {
        let Some((header, payload)) = self.exchange.datagrams().nth(sent) else { return Ok(false) };
        let place = socket.send(header.len() + payload.len(), self.from)?;
        let (start, end) = place.split_at_mut(header.len());
        start.copy_from_slice(&header);
        end.copy_from_slice(payload);
        Ok(true)
    }
}

/// False for ports that no client sends from: another server's of this kind, and those of services of the system (RFC 6335, 6).
/// Told under such an address, an answer would be answered, and that answer, too, for ever.
fn is_client(port: u16, own: u16) -> bool {
    port != own && port >= 1024
}

#[derive(Debug)]
enum Stage {
    /// It is to be executed, or to go on.
    Execute,
    /// It waits for a value of the second tier.
    AwaitValue,
    /// So many datagrams of its answer are sent.
    Answer(usize),
}

/// All requests.
#[derive(Debug, Default)]
pub struct Datagrams {
    current: Option<Current>,
    /// Bytes of answers that were left in the socket when this was served last.
    left: usize,
    /// When something last went out, or nothing was there.
    moved: Time,
}

impl Datagrams {
    /// Lets the request ask again for the value that it waits for.
    pub fn value_came(&mut self) {
        if let Some(current) = &mut self.current
            && matches!(current.stage, Stage::AwaitValue)
        {
            current.stage = Stage::Execute;
        }
    }

    /// Does what can be done now. True if there may be more as soon as the socket has sent something.
    pub fn serve<P: Pages, C: Cold>(
        &mut self,
        store: &mut Store<P, C>,
        now: Time,
        socket: &mut udp::Socket<'_>,
    ) -> bool {
        self.give_up(store, now, socket);
        let steps = (0..MOST_STEPS).take_while(|_| self.step(store, now, socket)).count();
        self.left = socket.send_queue();
        let is_answering = matches!(self.current, Some(Current { stage: Stage::Answer(_), .. }));
        steps == MOST_STEPS || steps > 0 && is_answering
    }

    /// Empties a socket out of which nothing goes: the answer that is first there would keep all others back.
    fn give_up<P: Pages, C: Cold>(&mut self, store: &mut Store<P, C>, now: Time, socket: &mut udp::Socket<'_>) {
        let queued = socket.send_queue();
        if queued == 0 || queued < self.left {
            self.moved = now;
        } else if now.micros().saturating_sub(self.moved.micros()) >= PATIENCE_US {
            let endpoint = socket.endpoint();
            socket.close();
            // It was bound to it before.
            let _ = socket.bind(endpoint);
            self.end(store);
            self.moved = now;
        }
    }

    fn step<P: Pages, C: Cold>(&mut self, store: &mut Store<P, C>, now: Time, socket: &mut udp::Socket<'_>) -> bool {
        let Some(current) = &mut self.current else {
            let own_port = socket.endpoint().port;
            let Ok((datagram, from)) = socket.recv() else { return false };
            if is_client(from.endpoint.port, own_port) {
                let exchange = Exchange::new(datagram);
                self.current = exchange.map(|exchange| Current { exchange, from, stage: Stage::Execute });
            }
            return true;
        };
        match current.stage {
            Stage::AwaitValue => return false,
            Stage::Execute => {
                let waits = current.exchange.proceed(store, now).is_some();
                current.stage = if waits { Stage::AwaitValue } else { Stage::Answer(0) };
            }
            Stage::Answer(sent) => match current.send(sent, socket) {
                Ok(true) => current.stage = Stage::Answer(sent + 1),
                Err(udp::SendError::BufferFull) => return false,
                // All is sent; or it goes to an address that can't be, where nobody waits for it.
                Ok(false) | Err(udp::SendError::Unaddressable) => self.end(store),
            },
        }
        true
    }

    fn end<P: Pages, C: Cold>(&mut self, store: &mut Store<P, C>) {
        if let Some(current) = self.current.take() {
            current.exchange.close(store);
        }
    }
}
