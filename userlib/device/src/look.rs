//! How a driver learns of what its device has done: by interrupts, by looking all the time, or by whichever suits the load.
//! The application chooses, and may choose anew at any time.
//!
//! Who looks while there is work and sleeps otherwise sleeps only when several looks in a row have found nothing. Nothing
//! here touches a device: what is to be masked meanwhile is the driver's.

use core::fmt;
use core::str::FromStr;

/// How what the device has done is learnt of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By interrupts only.
    Interrupt,
    /// By looking, always.
    Polled,
    /// By looking while there is work, else by an interrupt.
    Adaptive {
        /// Looks that find nothing, in a row, after which to sleep.
        idle_looks: u32,
    },
}

impl Mode {
    /// Adaptive, with looks enough for an answer of a device or a neighbour that is busy with it: some 10,000 instructions of
    /// a network stack.
    pub const ADAPTIVE: Mode = Mode::Adaptive { idle_looks: 32 };
}

impl fmt::Display for Mode {
    /// As [`Mode::from_str`] reads it.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Mode::Interrupt => "interrupt",
            Mode::Polled => "poll",
            Mode::Adaptive { .. } => "adaptive",
        })
    }
}

/// What is no mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMode;

impl fmt::Display for NoMode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("`mode` must be interrupt, poll or adaptive")
    }
}

impl FromStr for Mode {
    type Err = NoMode;

    /// As an application's argument `mode` names it.
    fn from_str(text: &str) -> Result<Mode, NoMode> {
        match text {
            "interrupt" => Ok(Mode::Interrupt),
            "poll" => Ok(Mode::Polled),
            "adaptive" => Ok(Mode::ADAPTIVE),
            _ => Err(NoMode),
        }
    }
}

/// What to do after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Look again.
    Look,
    /// Wait for an interrupt; one comes if something is there already.
    Sleep,
}

/// A mode, and the looks that have found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looks {
    mode: Mode,
    idle: u32,
}

impl Looks {
    /// None yet.
    #[must_use]
    pub const fn new(mode: Mode) -> Looks {
        Looks { mode, idle: 0 }
    }

    /// The mode.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// An interrupt has come, so that there is work.
    #[inline]
    pub fn interrupted(&mut self) {
        self.idle = 0;
    }

    /// To be called after a look, with whether it found anything.
    #[inline]
    pub fn looked(&mut self, found: bool) -> Next {
        let looks_on = match self.mode {
            Mode::Interrupt => found,
            Mode::Polled => true,
            Mode::Adaptive { idle_looks } => {
                self.idle = if found { 0 } else { self.idle.saturating_add(1) };
                self.idle < idle_looks
            }
        };
        if looks_on { Next::Look } else { Next::Sleep }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_names_and_nothing_else_is_one() {
        let modes = [("interrupt", Mode::Interrupt), ("poll", Mode::Polled), ("adaptive", Mode::ADAPTIVE)];
        for (name, mode) in modes {
            assert_eq!((name.parse(), std::format!("{mode}").as_str()), (Ok(mode), name));
        }
        for wrong in ["", "polled", "Poll", "adaptive ", "0"] {
            assert_eq!(wrong.parse::<Mode>(), Err(NoMode), "{wrong}");
        }
    }

    #[test]
    fn each_mode_sleeps_when_it_should() {
        let mut interrupt = Looks::new(Mode::Interrupt);
        assert_eq!([true, false, true].map(|found| interrupt.looked(found)), [Next::Look, Next::Sleep, Next::Look]);
        let mut polled = Looks::new(Mode::Polled);
        assert!((0..1000).all(|_| polled.looked(false) == Next::Look));
        let mut adaptive = Looks::new(Mode::Adaptive { idle_looks: 3 });
        let mut sleeps_after = |found: &[bool]| found.iter().position(|found| adaptive.looked(*found) == Next::Sleep);
        assert_eq!(sleeps_after(&[false, false, true, false, false, false]), Some(5), "work begins the count anew");
        assert_eq!(sleeps_after(&[false, true, false, false]), Some(0), "and it sleeps on until there is some");
        adaptive.interrupted();
        assert_eq!([false; 3].map(|found| adaptive.looked(found)), [Next::Look, Next::Look, Next::Sleep]);
    }
}
