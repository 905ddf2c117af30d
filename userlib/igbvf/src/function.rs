//! A VF as a whole: reset through the mailbox, its address, requests to the PF, and its interrupts.
//!
//! One request is under way at a time. [`Function::poll`] is called again until it tells of an event, on an interrupt
//! of the mailbox's vector or every so often.

use crate::message::{self, ACCEPTED, MacAddress, Message, Request, WORDS};
use crate::registers as reg;
use device::Registers;

/// Nanoseconds that the PF has to finish its own reset, and to answer a request.
pub const ANSWER_LIMIT_NS: u64 = 1_000_000_000;
/// Vectors of a VF.
pub const VECTORS: u8 = 3;

/// Why a request came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Another one is under way.
    Busy,
    /// The function has not been reset, or that failed: [`Function::reset`] first.
    NotReady,
    /// The PF did not answer in time.
    TimedOut,
    /// The PF gave no address to this function, or one that no station can have.
    NoAddress,
}

/// What [`Function::poll`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The reset is done; this is the function's address.
    Ready(MacAddress),
    /// The PF answered the request.
    Answered {
        /// Whether it did what was asked.
        accepted: bool,
    },
    /// The PF sent a message that answers nothing: the link may have changed.
    Notified,
    /// The PF is being reset; the queues are dead. [`Function::reset`] is next.
    Lost,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing is under way.
    Idle,
    /// The function was reset; the PF is not ready yet.
    AwaitPf { deadline_ns: u64 },
    /// The mailbox buffer is the PF's for the moment.
    AwaitBuffer { request: Request, deadline_ns: u64 },
    /// The message was sent.
    AwaitAnswer { request: Request, first: u32, deadline_ns: u64 },
}

/// A VF.
#[derive(Debug)]
pub struct Function<R> {
    registers: R,
    state: State,
    /// Bits of the mailbox register that reading clears, until they are looked at.
    seen: u32,
    mac: Option<MacAddress>,
}

impl<R: Registers> Function<R> {
    /// Takes a function, and resets it as [`Function::reset`] does.
    pub fn new(registers: R, now_ns: u64) -> Function<R> {
        let mut function = Function { registers, state: State::Idle, seen: 0, mac: None };
        function.reset(now_ns);
        function
    }

    /// Resets the function. Its queues stop; [`Event::Ready`] says when they can be set up.
    pub fn reset(&mut self, now_ns: u64) {
        self.mac = None;
        self.seen = 0;
        self.registers.write32(reg::VTCTRL, reg::VTCTRL_RST);
        self.state = State::AwaitPf { deadline_ns: now_ns.saturating_add(ANSWER_LIMIT_NS) };
    }

    /// The function's address, once the reset is done.
    #[must_use]
    pub fn mac(&self) -> Option<MacAddress> {
        self.mac
    }

    /// True while the cable has a link.
    #[must_use]
    pub fn link_is_up(&self) -> bool {
        self.registers.read32(reg::STATUS) & reg::STATUS_LU != 0
    }

    /// Asks something of the PF; [`Event::Answered`] has the answer.
    ///
    /// # Errors
    /// [`Error::NotReady`] before the reset is done, [`Error::Busy`] while another request is under way.
    pub fn request(&mut self, request: Request, now_ns: u64) -> Result<(), Error> {
        match (self.state, self.mac) {
            (State::Idle, None) => Err(Error::NotReady),
            (State::Idle, Some(_)) => {
                self.state = State::AwaitBuffer { request, deadline_ns: now_ns.saturating_add(ANSWER_LIMIT_NS) };
                Ok(())
            }
            _ => Err(Error::Busy),
        }
    }

    /// Goes on with whatever is under way, by one look at the mailbox.
    ///
    /// # Errors
    /// [`Error::TimedOut`] ends the request; after [`Error::NoAddress`], too, only a reset helps.
    pub fn poll(&mut self, now_ns: u64) -> Result<Option<Event>, Error> {
        let mailbox = self.registers.read32(reg::V2PMAILBOX);
        self.seen |= mailbox & reg::V2P_PFSTS;
        let resetting = mailbox & reg::V2P_RSTI != 0;
        let timed_out = |deadline_ns: u64| if now_ns < deadline_ns { Ok(None) } else { Err(Error::TimedOut) };
        let outcome = match self.state {
            State::AwaitPf { deadline_ns } if resetting => timed_out(deadline_ns),
            State::AwaitPf { deadline_ns } => {
                self.send(Request::Reset, deadline_ns).map_or_else(timed_out, |()| Ok(None))
            }
            _ if resetting => {
                self.state = State::Idle;
                let was_usable = self.mac.take().is_some();
                Ok(was_usable.then_some(Event::Lost))
            }
            State::Idle => Ok(self.incoming().map(|_| Event::Notified)),
            State::AwaitBuffer { request, deadline_ns } => {
                self.send(request, deadline_ns).map_or_else(timed_out, |()| Ok(None))
            }
            State::AwaitAnswer { request, first, deadline_ns } => match self.incoming() {
                Some(message) if message::answers(&message, first) => self.answered(request, &message).map(Some),
                Some(_) => Ok(Some(Event::Notified)),
                None => timed_out(deadline_ns),
            },
        };
        if outcome.is_err() {
            self.state = State::Idle;
        }
        outcome
    }

    /// Puts a message into the buffer, or gives the deadline back if the buffer is the PF's.
    fn send(&mut self, request: Request, deadline_ns: u64) -> Result<(), u64> {
        self.registers.write32(reg::V2PMAILBOX, reg::V2P_VFU);
        let mailbox = self.registers.read32(reg::V2PMAILBOX);
        if mailbox & reg::V2P_VFU == 0 {
            self.seen |= mailbox & reg::V2P_PFSTS;
            return Err(deadline_ns);
        }
        // What the PF said before this request does not answer it.
        self.seen = 0;
        let message = request.encode();
        for (offset, word) in (reg::VMBMEM..).step_by(4).zip(message) {
            self.registers.write32(offset, word);
        }
        self.registers.write32(reg::V2PMAILBOX, reg::V2P_REQ);
        let [first, ..] = message;
        self.state = State::AwaitAnswer { request, first, deadline_ns };
        Ok(())
    }

    /// A message from the PF, if there is one.
    fn incoming(&mut self) -> Option<Message> {
        if self.seen & reg::V2P_PFSTS == 0 {
            return None;
        }
        self.seen = 0;
        let mut message = [0; WORDS];
        for (word, offset) in message.iter_mut().zip((reg::VMBMEM..).step_by(4)) {
            *word = self.registers.read32(offset);
        }
        self.registers.write32(reg::V2PMAILBOX, reg::V2P_ACK);
        Some(message)
    }

    fn answered(&mut self, request: Request, message: &Message) -> Result<Event, Error> {
        self.state = State::Idle;
        let [first, low, high, ..] = *message;
        let accepted = first & ACCEPTED != 0;
        match request {
            Request::Reset => {
                let mac = MacAddress::from_words([low, high]);
                if !accepted || !mac.is_station() {
                    return Err(Error::NoAddress);
                }
                self.mac = Some(mac);
                return Ok(Event::Ready(mac));
            }
            Request::SetMac(mac) if accepted => self.mac = Some(mac),
            _ => {}
        }
        Ok(Event::Answered { accepted })
    }

    /// Says which vectors the causes of queue pair 0 and the mailbox raise, each below [`VECTORS`], and has each cause
    /// cleared as its message is sent. Nothing is enabled yet.
    pub fn route_interrupts(&self, receive: u8, transmit: u8, mailbox: u8) {
        let entry = |vector: u8| reg::VTIVAR_VALID | u32::from(vector.min(VECTORS - 1));
        self.registers.write32(reg::VTIVAR, entry(receive) | entry(transmit) << 8);
        self.registers.write32(reg::VTIVAR_MISC, entry(mailbox));
        self.registers.write32(reg::VTEIAC, (1 << VECTORS) - 1);
    }

    /// Lets at most one message of a vector pass in so many microseconds, at most 8191; 0 lets all pass. This is the
    /// batching delay of interrupts; it may be changed at any time.
    pub fn set_interrupt_delay_us(&self, vector: u8, delay_us: u32) {
        let interval = delay_us.min(reg::VTEITR_MAX_US) << 2;
        self.registers.write32(reg::vteitr(vector.min(VECTORS - 1)), interval | reg::VTEITR_CNT_IGNR);
    }

    /// Octets and frames, received and sent, as the device counts them; each wraps at 2^32.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            received_frames: self.registers.read32(reg::VFGPRC),
            received_octets: self.registers.read32(reg::VFGORC),
            sent_frames: self.registers.read32(reg::VFGPTC),
            sent_octets: self.registers.read32(reg::VFGOTC),
        }
    }
}

/// What the device counts for a VF; all wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames received.
    pub received_frames: u32,
    /// Octets received.
    pub received_octets: u32,
    /// Frames sent.
    pub sent_frames: u32,
    /// Octets sent.
    pub sent_octets: u32,
}
