//! Brings a function up and does not wait for ever: a PF may be silent, or not know of the function's holder yet.

use crate::function::{Error, Event, Function};
use crate::message::MacAddress;
use device::{Clock, Registers};

/// Resets a function, again whenever the PF does not let it through, and waits for its address. From `until_ns` on no register
/// is touched any more, as the function may be somebody else's then.
///
/// # Errors
/// [`Error::TimedOut`] then.
pub fn bring_up<R: Registers>(
    registers: R,
    clock: &impl Clock,
    until_ns: u64,
) -> Result<(Function<R>, MacAddress), Error> {
    let in_time = || Some(clock.now_ns()).filter(|now_ns| *now_ns < until_ns).ok_or(Error::TimedOut);
    let mut function = Function::new(registers, in_time()?);
    loop {
        let outcome = function.poll(in_time()?);
        if let Ok(Some(Event::Ready(mac))) = outcome {
            return Ok((function, mac));
        }
        clock.pause();
        if outcome.is_err() {
            function.reset(in_time()?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::answer;
    use crate::registers as reg;
    use core::cell::Cell;
    use device::fake::FakeRegisters;

    /// Time that goes on in pauses only, by a millisecond each.
    #[derive(Default)]
    struct Pauses(Cell<u64>);

    impl Clock for Pauses {
        fn now_ns(&self) -> u64 {
            self.0.get()
        }

        fn pause(&self) {
            self.0.set(self.0.get() + 1_000_000);
        }
    }

    /// Registers that must not be touched any more at a time.
    struct Lost<'a>(&'a FakeRegisters, &'a Pauses, u64);

    impl Registers for Lost<'_> {
        fn read32(&self, offset: u32) -> u32 {
            assert!(self.1.now_ns() < self.2, "a register of somebody else's is read");
            self.0.read32(offset)
        }

        fn write32(&self, offset: u32, value: u32) {
            assert!(self.1.now_ns() < self.2, "a register of somebody else's is written");
            self.0.write32(offset, value);
        }
    }

    #[test]
    fn a_silent_pf_is_given_up_in_time_and_no_register_is_touched_after() {
        // In a reset, with a buffer that the PF keeps, and with a message that is never answered.
        for mailbox in [reg::V2P_RSTI, 0, reg::V2P_VFU] {
            for until_ns in [0, 1, 300_000_000, 3_000_000_000] {
                let (registers, clock) = (FakeRegisters::default(), Pauses::default());
                registers.set_rule(move |offset| (offset == reg::V2PMAILBOX).then_some(mailbox));
                let outcome = bring_up(Lost(&registers, &clock, until_ns), &clock, until_ns);
                assert_eq!(outcome.err(), Some(Error::TimedOut), "{mailbox:#x}");
                assert!(clock.now_ns() <= until_ns.next_multiple_of(1_000_000), "no later than that");
            }
        }
    }

    #[test]
    fn who_is_refused_at_first_comes_up_later() {
        let (registers, clock) = (FakeRegisters::default(), Pauses::default());
        let mac = MacAddress([2, 0, 0, 0, 0, 1]);
        let mut looks = 0;
        let answers = [answer(1, false, None), answer(1, true, Some(mac))];
        registers.set_rule(move |offset| match offset {
            reg::V2PMAILBOX => {
                looks += 1;
                // Its buffer is there, and an answer is.
                Some(reg::V2P_VFU | reg::V2P_PFSTS)
            }
            _ => {
                let word = offset.checked_sub(reg::VMBMEM)? as usize / 4;
                answers[usize::from(looks > 10)].get(word).copied()
            }
        });
        let (function, address) = bring_up(&registers, &clock, 1_000_000_000).expect("it comes up");
        assert_eq!((address, function.mac()), (mac, Some(mac)));
        assert!(clock.now_ns() > 1_000_000, "not at once");
    }
}
