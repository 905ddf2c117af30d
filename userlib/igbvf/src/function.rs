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
/// Longest interrupt delay, in microseconds.
pub const MOST_INTERRUPT_DELAY_US: u32 = reg::VTEITR_MAX_US;

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
                Some(_) if now_ns < deadline_ns => Ok(Some(Event::Notified)),
                _ => timed_out(deadline_ns),
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

    /// Says which vectors receiving and sending (of either queue) and the mailbox raise, each below [`VECTORS`], and has
    /// each cause cleared as its message is sent. Nothing is enabled yet.
    pub fn route_interrupts(&self, receive: u8, transmit: u8, mailbox: u8) {
        let entry = |vector: u8| reg::VTIVAR_VALID | u32::from(vector.min(VECTORS - 1));
        let pair = entry(receive) | entry(transmit) << 8;
        self.registers.write32(reg::VTIVAR, pair | pair << 16);
        self.registers.write32(reg::VTIVAR_MISC, entry(mailbox));
        self.registers.write32(reg::VTEIAC, (1 << VECTORS) - 1);
    }

    /// Lets at most one message of a vector pass in so many microseconds, at most [`MOST_INTERRUPT_DELAY_US`]; 0 lets all pass. This is the
    /// batching delay of interrupts; it may be changed at any time.
    pub fn set_interrupt_delay_us(&self, vector: u8, delay_us: u32) {
        crate::moderation::set_delay_us(&self.registers, vector, delay_us);
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

#[cfg(test)]
mod tests {
    use super::*;
    use device::fake::{FakeRegisters, random};

    #[test]
    fn requests_before_the_reset_is_done_and_two_at_a_time_are_refused() {
        let registers = FakeRegisters::default();
        let mut function = Function::new(&registers, 0);
        assert_eq!(function.request(Request::Reset, 0), Err(Error::Busy));
        assert_eq!(function.poll(0), Ok(None));
        let reset = message::answer(1, true, Some(MacAddress([2, 0, 0, 0, 0, 1])));
        for (offset, word) in (reg::VMBMEM..).step_by(4).zip(reset) {
            registers.set(offset, word);
        }
        registers.set(reg::V2PMAILBOX, reg::V2P_PFSTS | reg::V2P_VFU);
        assert_eq!(function.poll(0), Ok(Some(Event::Ready(MacAddress([2, 0, 0, 0, 0, 1])))));
        assert_eq!(function.request(Request::SetMaxFrame(9000), 0), Ok(()));
        assert_eq!(function.request(Request::SetMaxFrame(9000), 0), Err(Error::Busy));
        registers.set(reg::V2PMAILBOX, 0);
        assert_eq!(function.poll(ANSWER_LIMIT_NS - 1), Ok(None), "the buffer is the PF's");
        assert_eq!(function.poll(ANSWER_LIMIT_NS), Err(Error::TimedOut));
        assert_eq!(function.request(Request::SetMaxFrame(9000), 0), Ok(()), "it may be asked again");
    }

    #[test]
    fn an_address_that_no_station_can_have_is_none() {
        for (accepted, mac) in [(true, [0xff; 6]), (true, [0; 6]), (false, [2, 0, 0, 0, 0, 1])] {
            let registers = FakeRegisters::default();
            let mut function = Function::new(&registers, 0);
            registers.set(reg::V2PMAILBOX, reg::V2P_VFU);
            assert_eq!(function.poll(0), Ok(None));
            let answer = message::answer(1, accepted, Some(MacAddress(mac)));
            for (offset, word) in (reg::VMBMEM..).step_by(4).zip(answer) {
                registers.set(offset, word);
            }
            registers.set(reg::V2PMAILBOX, reg::V2P_PFSTS);
            assert_eq!(function.poll(0), Err(Error::NoAddress));
            assert_eq!((function.mac(), function.request(Request::Reset, 0)), (None, Err(Error::NotReady)));
        }
    }

    #[test]
    fn whatever_the_pf_says_each_request_ends_in_time() {
        let mut ready = 0;
        for seed in 1..200 {
            let registers = FakeRegisters::default();
            let mut words = random(seed);
            registers.set_rule(move |offset| {
                let (any, seldom, kind) = (words(1 << 32) as u32, words(20) == 0, 1 + words(6) as u32);
                Some(match (offset, seldom, any & 1) {
                    (reg::V2PMAILBOX, false, _) => any & !reg::V2P_RSTI,
                    (_, false, 0) => kind | ACCEPTED,
                    _ => any,
                })
            });
            let mut function = Function::new(&registers, 0);
            let mut random = random(!seed);
            let (mut now_ns, mut since_ns) = (0, 0);
            for _ in 0..500 {
                now_ns += random(50_000_000);
                let outcome = function.poll(now_ns);
                ready += u32::from(matches!(outcome, Ok(Some(Event::Ready(mac))) if mac.is_station()));
                if matches!(function.state, State::Idle) {
                    since_ns = now_ns;
                    if function.request(Request::SetMac(MacAddress([2; 6])), now_ns).is_err() {
                        function.reset(now_ns);
                    }
                } else {
                    assert!(now_ns - since_ns <= ANSWER_LIMIT_NS + 50_000_000, "it waits for ever");
                }
            }
        }
        assert!(ready > 100, "the test must see some: {ready}");
    }
}
