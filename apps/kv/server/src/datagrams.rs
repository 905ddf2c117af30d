//! Requests in datagrams: one at a time, and its answer in as many datagrams as the socket takes by and by. The next
//! request waits in the socket meanwhile.

use kv_engine::udp::Exchange;
use kv_engine::{Cold, Pages, Store, Time};
use smoltcp::socket::udp;

/// Steps in a row: each takes a request in, or hands one datagram of an answer over.
const MOST_STEPS: usize = 32;

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
pub struct Datagrams(Option<Current>);

impl Datagrams {
    /// Lets the request ask again for the value that it waits for.
    pub fn value_came(&mut self) {
        if let Some(current) = &mut self.0
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
        let steps = (0..MOST_STEPS).take_while(|_| self.step(store, now, socket)).count();
        let is_answering = matches!(self.0, Some(Current { stage: Stage::Answer(_), .. }));
        steps == MOST_STEPS || steps > 0 && is_answering
    }

    fn step<P: Pages, C: Cold>(&mut self, store: &mut Store<P, C>, now: Time, socket: &mut udp::Socket<'_>) -> bool {
        let Some(current) = &mut self.0 else {
            let Ok((datagram, from)) = socket.recv() else { return false };
            let exchange = Exchange::new(store, datagram);
            self.0 = exchange.map(|exchange| Current { exchange, from, stage: Stage::Execute });
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
        if let Some(current) = self.0.take() {
            current.exchange.close(store);
        }
    }
}
