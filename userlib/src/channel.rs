//! A connection: two rings and the capability that wakes the other side.
//!
//! The pages of the rings may be the other side's. When it takes them away, or breaks the rules of the rings, the
//! connection is [`Gone`](ChannelError::PeerGone) or [`Corrupt`](ChannelError::Corrupt) for good, and nothing else
//! happens.

use core::sync::atomic::{AtomicU64, Ordering};

use cap_spec::abi::{CONSOLE_RING, MARKET_RING};
use proto::MAX_MESSAGE;
use proto::start::RING_STRIDE;
use serde::{Serialize, de::DeserializeOwned};

use crate::cap::{Cap, Channel, Fault, own};
use crate::clock;
use crate::events;
use crate::ring::{Consumer, Producer, RingError, Wake};
use crate::shared::SharedMemory;

/// Bytes of each of the two rings.
const RING_BYTES: u64 = RING_STRIDE / 2;
/// End of the window of addresses in which ring pages lie; it starts at [`MARKET_RING`].
const WINDOW_END: u64 = 0x14_0000;

/// Ring pages that were taken away, one bit each.
static LOST: AtomicU64 = AtomicU64::new(0);

/// True if an address lies in the window of ring pages.
pub(crate) fn is_ring_page(gpa: u64) -> bool {
    (MARKET_RING..WINDOW_END).contains(&gpa)
}

/// Notes that a ring page was taken away. Called when its use has faulted.
#[cfg(any(target_os = "none", test))]
pub(crate) fn page_lost(gpa: u64) {
    LOST.fetch_or(page_bit(gpa), Ordering::Release);
}

const fn page_bit(gpa: u64) -> u64 {
    1 << ((gpa - MARKET_RING) / 4096)
}

const _: () = assert!((WINDOW_END - MARKET_RING) / 4096 <= 64, "one bit per ring page");

/// Why a connection did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelError {
    /// No room in the ring now.
    Full,
    /// The message is longer than [`proto::MAX_MESSAGE`].
    TooLong,
    /// The other side broke the rules, or sent what is no message.
    Corrupt,
    /// The other side has ended, or has taken the ring away.
    PeerGone,
}

impl From<RingError> for ChannelError {
    fn from(error: RingError) -> ChannelError {
        match error {
            RingError::Full => ChannelError::Full,
            RingError::TooLong => ChannelError::TooLong,
            RingError::Corrupt => ChannelError::Corrupt,
        }
    }
}

/// One side of a connection.
#[derive(Debug)]
pub struct Endpoint {
    out: Producer<SharedMemory>,
    input: Consumer<SharedMemory>,
    channel: Cap<Channel>,
    /// Bits of the two pages in [`LOST`].
    pages: u64,
    buffer: [u8; MAX_MESSAGE],
}

impl Endpoint {
    /// The application's side of its connection to the market server. Make it once.
    pub fn to_market() -> Endpoint {
        Endpoint::new(MARKET_RING, MARKET_RING + RING_BYTES, own::MARKET)
    }

    /// The application's side of its connection to the console server. Make it once.
    pub fn to_console() -> Endpoint {
        Endpoint::new(CONSOLE_RING, CONSOLE_RING + RING_BYTES, own::CONSOLE)
    }

    /// A server's side of its connection to client `client` (below [`proto::start::MAX_CLIENTS`]), whose two ring pages
    /// it has mapped from `MARKET_RING + client * RING_STRIDE` on. Make it once per client, when the pages are mapped.
    pub fn to_client(client: usize, channel: Cap<Channel>) -> Endpoint {
        assert!(client < proto::start::MAX_CLIENTS);
        let base = MARKET_RING + client as u64 * RING_STRIDE;
        Endpoint::new(base + RING_BYTES, base, channel)
    }

    /// The side whose messages leave at `out` and arrive at `input`, both pages of the ring window.
    pub fn new(out: u64, input: u64, channel: Cap<Channel>) -> Endpoint {
        assert!(is_ring_page(out) && is_ring_page(input));
        // SAFETY: the window is kept for ring pages, no Rust object is ever there; a page that is taken away is replaced
        // (`arch::upcall`).
        let [out_memory, in_memory] = [out, input].map(|page| unsafe { SharedMemory::new(page, RING_BYTES as usize) });
        Endpoint::over(out_memory, in_memory, channel, page_bit(out) | page_bit(input))
    }

    /// The side over any two rings; `pages` are their bits in [`LOST`].
    pub(crate) fn over(out: SharedMemory, input: SharedMemory, channel: Cap<Channel>, pages: u64) -> Endpoint {
        let buffer = [0; MAX_MESSAGE];
        Endpoint { out: Producer::new(out), input: Consumer::new(input), channel, pages, buffer }
    }

    /// Sends bytes; wakes the other side if it sleeps.
    #[inline]
    pub fn send_bytes(&mut self, message: &[u8]) -> Result<(), ChannelError> {
        if message.len() > MAX_MESSAGE {
            return Err(ChannelError::TooLong);
        }
        let sent = self.out.send(message);
        self.check_pages()?;
        self.wake(sent?)
    }

    /// Sends a message; wakes the other side if it sleeps.
    pub fn send<T: Serialize + ?Sized>(&mut self, message: &T) -> Result<(), ChannelError> {
        let mut bytes = [0; MAX_MESSAGE];
        let bytes = postcard::to_slice(message, &mut bytes).map_err(|_| ChannelError::TooLong)?;
        self.send_bytes(bytes)
    }

    /// Sends a message that the other side finds when it looks for another reason: it is not woken, so this is no exit.
    pub fn leave<T: Serialize + ?Sized>(&mut self, message: &T) -> Result<(), ChannelError> {
        let mut bytes = [0; MAX_MESSAGE];
        let bytes = postcard::to_slice(message, &mut bytes).map_err(|_| ChannelError::TooLong)?;
        let left = self.out.leave(bytes);
        self.check_pages()?;
        Ok(left?)
    }

    /// The next bytes that have arrived, if any.
    #[inline]
    pub fn receive_bytes(&mut self) -> Result<Option<&[u8]>, ChannelError> {
        let received = self.input.receive(&mut self.buffer);
        self.check_pages()?;
        let Some((length, wake)) = received? else {
            return Ok(None);
        };
        // A signal to a peer that has ended in the meantime does not make its last words unsaid.
        match self.wake(wake) {
            Ok(()) | Err(ChannelError::PeerGone) => Ok(Some(&self.buffer[..length])),
            Err(error) => Err(error),
        }
    }

    /// The next message that has arrived, if any.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ChannelError> {
        match self.receive_bytes()? {
            Some(bytes) => postcard::from_bytes(bytes).map(Some).map_err(|_| ChannelError::Corrupt),
            None => Ok(None),
        }
    }

    /// Announces that this side is going to wait for a message. False if one has arrived already: then don't wait.
    pub fn announce_sleep(&mut self) -> Result<bool, ChannelError> {
        let sleeps = self.input.announce_sleep();
        self.check_pages()?;
        Ok(sleeps?)
    }

    /// Takes the announcement back, after the wait.
    pub fn awake(&mut self) {
        self.input.awake();
    }

    /// Gives the core up until a message has arrived, one of `events` (the event bits of this connection among them)
    /// has happened, or the TSC has reached `deadline` (0: never). Returns the events that were taken.
    pub fn wait(&mut self, events: u64, deadline: u64) -> Result<u64, ChannelError> {
        self.wait_unless(events, deadline, || false)
    }

    /// As [`Endpoint::wait`], with [`events::wait_unless`].
    pub fn wait_unless(
        &mut self,
        events: u64,
        deadline: u64,
        happened: impl Fn() -> bool,
    ) -> Result<u64, ChannelError> {
        if !self.announce_sleep()? {
            return Ok(0);
        }
        let taken = events::wait_unless(events, deadline, happened);
        self.awake();
        taken.map_err(|_| ChannelError::PeerGone)
    }

    /// Sends a message, and waits for room as long as there is none, until the TSC has reached `deadline` (0: for
    /// ever). `events` are the event bits of this connection.
    pub fn send_waiting<T: Serialize + ?Sized>(
        &mut self,
        message: &T,
        events: u64,
        deadline: u64,
    ) -> Result<(), ChannelError> {
        let mut bytes = [0; MAX_MESSAGE];
        let bytes = postcard::to_slice(message, &mut bytes).map_err(|_| ChannelError::TooLong)?;
        loop {
            match self.send_bytes(bytes) {
                Err(ChannelError::Full) => {}
                other => return other,
            }
            self.wake_for_left()?;
            let sleeps = self.out.announce_sleep(bytes.len());
            self.check_pages()?;
            if sleeps? {
                let taken = events::wait(events, deadline);
                self.out.awake();
                if taken.map_err(|_| ChannelError::PeerGone)? == 0 && is_over(deadline) {
                    return Err(ChannelError::Full);
                }
            }
        }
    }

    /// Waits until the other side has taken every message, or until the TSC has reached `deadline` (0: for ever).
    /// `events` are the event bits of this connection.
    pub fn wait_until_taken(&mut self, events: u64, deadline: u64) -> Result<(), ChannelError> {
        self.wake_for_left()?;
        loop {
            // Room for the longest message is room for everything.
            let sleeps = self.out.announce_sleep(self.out.longest());
            self.check_pages()?;
            if !sleeps? {
                return Ok(());
            }
            let taken = events::wait(events, deadline);
            self.out.awake();
            if taken.map_err(|_| ChannelError::PeerGone)? == 0 && is_over(deadline) {
                return Err(ChannelError::Full);
            }
        }
    }

    /// The capability of this side.
    pub fn channel(&self) -> Cap<Channel> {
        self.channel
    }

    /// Wakes the other side if it sleeps over what was left for it.
    fn wake_for_left(&mut self) -> Result<(), ChannelError> {
        let wake = self.out.wake();
        self.check_pages()?;
        self.wake(wake)
    }

    #[inline]
    fn wake(&self, wake: Wake) -> Result<(), ChannelError> {
        match wake {
            Wake::Nobody => Ok(()),
            // Whatever the kernel says against it, there is nobody to wake any more.
            Wake::Peer => self.channel.signal().map_err(|_: Fault| ChannelError::PeerGone),
        }
    }

    #[inline]
    fn check_pages(&self) -> Result<(), ChannelError> {
        if LOST.load(Ordering::Acquire) & self.pages != 0 { Err(ChannelError::PeerGone) } else { Ok(()) }
    }
}

/// True if the TSC has reached a deadline (0: none). Who waits is woken for nothing, too: by the market, and, if it has an
/// interrupt route, by every NMI of its core.
fn is_over(deadline: u64) -> bool {
    deadline != 0 && clock::now() >= deadline
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cap::{Error, Label, Slot};
    use crate::invoke::fake;
    use std::cell::Cell;
    use std::rc::Rc;
    use std::string::String;

    /// Two connected sides; `pages` is the bit by which the first one's pages are known to be lost.
    pub(crate) fn pair(pages: u64) -> (Endpoint, Endpoint) {
        let rings: &'static mut [[u64; 512]; 2] = std::boxed::Box::leak(std::boxed::Box::new([[0; 512]; 2]));
        let bases = rings.each_mut().map(|ring| ring.as_mut_ptr() as u64);
        // SAFETY: leaked, and used through these views only.
        let ring = |at: usize| unsafe { SharedMemory::new(bases[at], 4096) };
        let side = |out, input, slot, pages| Endpoint::over(ring(out), ring(input), Slot::root(slot).cap(), pages);
        (side(0, 1, 20, pages), side(1, 0, 21, 0))
    }

    #[test]
    fn messages_go_both_ways_and_only_sleepers_are_signalled() {
        let signals = Rc::new(Cell::new(0));
        let count = signals.clone();
        fake::install(move |_, label, _| {
            assert_eq!(label, Label::ChannelSignal);
            count.set(count.get() + 1);
            Ok((0, 0))
        });
        let (mut left, mut right) = pair(0);
        left.send("to the right").unwrap();
        assert_eq!(right.receive::<String>(), Ok(Some("to the right".into())));
        assert_eq!(right.receive::<String>(), Ok(None));
        assert_eq!(signals.get(), 0);
        assert_eq!(left.announce_sleep(), Ok(true));
        right.send(&(1u8, 2u64)).unwrap();
        assert_eq!(signals.get(), 1);
        assert_eq!(left.receive(), Ok(Some((1u8, 2u64))));
        assert_eq!(left.send_bytes(&[0; MAX_MESSAGE + 1]), Err(ChannelError::TooLong));
        left.send_bytes(&[0xff; 3]).unwrap();
        assert_eq!(right.receive::<String>(), Err(ChannelError::Corrupt));
    }

    #[test]
    fn what_is_left_wakes_nobody_until_somebody_waits_for_its_being_taken() {
        let signals = Rc::new(Cell::new(0));
        let count = signals.clone();
        fake::install(move |_, label, _| {
            count.set(count.get() + usize::from(label == Label::ChannelSignal));
            Ok((0, 0))
        });
        let (mut left, mut right) = pair(0);
        assert_eq!(right.announce_sleep(), Ok(true));
        left.leave("a figure").unwrap();
        assert_eq!(signals.get(), 0);
        left.send("a line").unwrap();
        assert_eq!(signals.get(), 1, "one is woken for both");
        assert_eq!(right.receive::<String>(), Ok(Some("a figure".into())));
        assert_eq!(right.receive::<String>(), Ok(Some("a line".into())));
        assert_eq!(right.announce_sleep(), Ok(true));
        left.leave("another").unwrap();
        assert_eq!(left.wait_until_taken(1, 1), Err(ChannelError::Full), "it was not taken in time");
        assert_eq!(signals.get(), 2, "but whoever should take it was woken");
        assert_eq!(right.receive::<String>(), Ok(Some("another".into())));
    }

    #[test]
    fn an_ended_peer_is_gone_and_its_last_words_are_heard() {
        fake::install(|_, _, _| Err(Fault::new(Error::NoReceiver, 0)));
        let (mut left, mut right) = pair(0);
        right.announce_sleep().unwrap();
        assert_eq!(left.send("x"), Err(ChannelError::PeerGone));
        assert_eq!(right.receive::<String>(), Ok(Some("x".into())));
    }

    #[test]
    fn a_lost_page_ends_the_connection_that_uses_it_and_no_other() {
        let page = WINDOW_END - 4096;
        assert!(is_ring_page(page) && !is_ring_page(WINDOW_END) && is_ring_page(MARKET_RING));
        let (mut left, mut right) = pair(page_bit(page));
        left.send("before").unwrap();
        page_lost(page);
        assert_eq!(left.send("after"), Err(ChannelError::PeerGone));
        assert_eq!(left.receive::<String>(), Err(ChannelError::PeerGone));
        assert_eq!(left.announce_sleep(), Err(ChannelError::PeerGone));
        assert_eq!(right.receive::<String>(), Ok(Some("before".into())));
    }
}
