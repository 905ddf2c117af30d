//! What an application's arguments say of its address, and of how it drives its function and rests.

use core::fmt;

use net::smoltcp::wire::{Ipv4Address, Ipv4Cidr};
use net::{Address, MOST_INTERRUPT_DELAY_US, Mode};

/// The argument that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong(&'static str);

impl fmt::Display for Wrong {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0)
    }
}

/// The address that `address` tells: `A.B.C.D/BITS`, with who leads to other networks in `gateway`, if anybody; by DHCP if
/// there is none, or it is `dhcp`.
///
/// # Errors
/// What of it is no address.
pub fn address(address: Option<&str>, gateway: Option<&str>) -> Result<Address, Wrong> {
    let Some(text) = address.filter(|text| *text != "dhcp") else { return Ok(Address::Dhcp) };
    let wrong = Wrong("`address` must be dhcp or like 10.0.2.101/24");
    let (host, bits) = text.split_once('/').ok_or(wrong)?;
    let bits: u8 = bits.parse().ok().filter(|bits| *bits <= 32).ok_or(wrong)?;
    let address = Ipv4Cidr::new(host.parse::<Ipv4Address>().map_err(|_| wrong)?, bits);
    let gateway = gateway.map(|text| text.parse().map_err(|_| Wrong("`gateway` must be like 10.0.2.2"))).transpose()?;
    Ok(Address::Static { address, gateway })
}

/// How a function is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Driving {
    /// How frames are learnt of.
    pub mode: Mode,
    /// At most one interrupt comes in so many microseconds; 0: all come.
    pub interrupt_delay_us: u32,
    /// The device is told of so many frames at once at most.
    pub send_batch: u32,
}

impl Default for Driving {
    fn default() -> Driving {
        Driving { mode: Mode::Interrupt, interrupt_delay_us: 0, send_batch: u32::MAX }
    }
}

/// The driving that `mode` (`interrupt`, `poll` or `adaptive`), `delay` (microseconds) and `batch` (frames) tell; what is not
/// told is as by default: by interrupts, without delay, and the device is told when there is no more to send.
///
/// # Errors
/// Which of them makes no sense.
pub fn driving(mode: Option<&str>, delay: Option<&str>, batch: Option<&str>) -> Result<Driving, Wrong> {
    const _: () = assert!(MOST_INTERRUPT_DELAY_US == 8191, "the text says so");
    let usual = Driving::default();
    let mode = mode
        .map_or(Ok(usual.mode), |text| text.parse().map_err(|_| Wrong("`mode` must be interrupt, poll or adaptive")))?;
    let interrupt_delay_us = delay.map_or(Some(usual.interrupt_delay_us), |text| {
        text.parse().ok().filter(|delay| *delay <= MOST_INTERRUPT_DELAY_US)
    });
    let send_batch = batch.map_or(Some(usual.send_batch), |text| text.parse().ok().filter(|batch| *batch > 0));
    Ok(Driving {
        mode,
        interrupt_delay_us: interrupt_delay_us.ok_or(Wrong("`delay` must be microseconds, at most 8191"))?,
        send_batch: send_batch.ok_or(Wrong("`batch` must be a number of frames, at least 1"))?,
    })
}

/// What an application does with its core while it has nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rest {
    /// It gives the core up, which is an exit each time; what is not used is not charged.
    #[default]
    Wait,
    /// It halts on the core, which stays its own and is charged: no exit. It hears of the market once in a period.
    Halt,
}

/// The rest that `rest` tells: `wait`, which it is without, or `halt`.
///
/// # Errors
/// When it is neither.
pub fn rest(rest: Option<&str>) -> Result<Rest, Wrong> {
    match rest {
        None | Some("wait") => Ok(Rest::Wait),
        Some("halt") => Ok(Rest::Halt),
        Some(_) => Err(Wrong("`rest` must be wait or halt")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_told_of_driving_and_rest_is_as_usual() {
        assert_eq!(driving(None, None, None), Ok(Driving::default()));
        assert_eq!(
            (rest(None), rest(Some("wait")), rest(Some("halt"))),
            (Ok(Rest::Wait), Ok(Rest::Wait), Ok(Rest::Halt))
        );
        let told = driving(Some("adaptive"), Some("8191"), Some("1"));
        assert_eq!(told, Ok(Driving { mode: Mode::ADAPTIVE, interrupt_delay_us: 8191, send_batch: 1 }));
        assert_eq!(driving(Some("poll"), None, None).map(|told| told.mode), Ok(Mode::Polled));
        assert_eq!(driving(None, Some("0"), None), driving(Some("interrupt"), None, None));
    }

    #[test]
    fn nonsense_about_driving_and_rest_is_refused_by_its_name() {
        let wrong = |told: Result<Driving, Wrong>| alloc::format!("{}", told.unwrap_err());
        for mode in ["", "polled", "Adaptive", "1"] {
            assert!(wrong(driving(Some(mode), None, None)).starts_with("`mode`"), "{mode}");
        }
        for delay in ["", "-1", "8192", "10us", "1.5", "99999999999"] {
            assert!(wrong(driving(None, Some(delay), None)).starts_with("`delay`"), "{delay}");
        }
        for batch in ["", "0", "-1", "all", "4294967296"] {
            assert!(wrong(driving(None, None, Some(batch))).starts_with("`batch`"), "{batch}");
        }
        for text in ["", "sleep", "HALT"] {
            assert!(rest(Some(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_are_read_and_everything_else_is_refused() {
        assert_eq!(address(None, None), Ok(Address::Dhcp));
        assert_eq!(address(Some("dhcp"), Some("10.0.2.2")), Ok(Address::Dhcp));
        let expected = Address::Static {
            address: Ipv4Cidr::new(Ipv4Address::new(10, 0, 2, 101), 24),
            gateway: Some(Ipv4Address::new(10, 0, 2, 2)),
        };
        assert_eq!(address(Some("10.0.2.101/24"), Some("10.0.2.2")), Ok(expected));
        for wrong in ["", "10.0.2.101", "10.0.2.101/33", "10.0.2/24", "10.0.2.256/24", "x/24"] {
            assert!(address(Some(wrong), None).is_err(), "{wrong}");
        }
        assert!(address(Some("10.0.2.1/24"), Some("there")).is_err());
    }
}
