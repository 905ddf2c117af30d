//! How much of each core's CPU time bases can have: what kernel and servers reserve on it, and what the kernel's admission
//! says of the rest. The figures and the sums are their own.

use kernel::firmware::command_line::{ROOT_BUDGET_US, ROOT_PERIOD_US};
use kernel::sched::{Limits, SWITCH_US, Share};
use kernel::types::Ticks;
use market_mechanism::types::UNITS_PER_CORE;
use market_server::clock::Clock;
use market_server::console_link::{CONSOLE_CORE, console_reservation};
use market_server::nic_link::{NIC_CORE, nic_reservation};
use market_server::storage_link::{STORAGE_CORE, storage_reservation};

/// The clock that this is reckoned with, the instruction clock's. Another one rounds by less than what any two sums of
/// bases differ by.
const HZ: u64 = 1_000_000_000;
/// The core of the root VM.
const BOOT_CORE: u8 = 0;

/// Which servers of devices there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Servers {
    /// The network server.
    pub nic: bool,
    /// The storage server.
    pub storage: bool,
    /// It limits how often somebody reads and writes.
    pub limits: bool,
}

/// What is promised of a core.
#[derive(Clone, Copy, Debug)]
pub struct CoreTime {
    given: Share,
    limits: Limits,
}

impl CoreTime {
    /// A core on which the servers alone have theirs.
    pub fn new(core: u8, servers: Servers) -> CoreTime {
        let micros = HZ / 1_000_000;
        let mut time = CoreTime { given: Share::ZERO, limits: Limits::new(HZ, Ticks::new(SWITCH_US * micros)) };
        if core == BOOT_CORE {
            time.given = time.with((ROOT_BUDGET_US * micros, ROOT_PERIOD_US * micros));
        }
        if core == CONSOLE_CORE {
            time.given = time.with(console_reservation(HZ));
        }
        if servers.nic && core == NIC_CORE {
            time.given = time.with(nic_reservation(HZ));
        }
        if servers.storage && core == STORAGE_CORE {
            time.given = time.with(storage_reservation(HZ));
        }
        time
    }

    /// Promises a base of so many units where a round sells `interval_ms`. Returns the largest that there is room for; if
    /// the wanted one is larger, nothing is promised.
    pub fn promise(&mut self, units: u32, interval_ms: u32) -> u32 {
        let clock = Clock { tsc_hz: HZ, epoch: 0 };
        let with = |units| self.with(clock.reservation(units, interval_ms));
        let has_room = |units: &u32| Share::WHOLE.has_room(Share::ZERO, with(*units));
        let most = (1..=UNITS_PER_CORE).take_while(has_room).last().unwrap_or(0);
        if units <= most {
            self.given = with(units);
        }
        most
    }

    /// What is promised with one more reservation of this budget and period.
    fn with(&self, (budget, period): (u64, u64)) -> Share {
        self.given.plus(self.limits.share(Ticks::new(budget), Ticks::new(period)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn most(core: u8, before: &[u32], interval_ms: u32) -> u32 {
        let mut time = CoreTime::new(core, Servers::default());
        for &units in before {
            assert!(time.promise(units, interval_ms) >= units, "{before:?}");
        }
        time.promise(UNITS_PER_CORE, interval_ms)
    }

    #[test]
    fn a_core_has_what_reserve_servers_and_switches_leave() {
        // 95 less 10.2 for the root VM, 6.4 for the console server, 0.2 for each base.
        assert_eq!(most(0, &[], 10), 78);
        assert_eq!(most(0, &[78], 10), 0);
        // It would come to the whole rest, and shares are rounded up.
        assert_eq!(most(0, &[40], 10), 37);
        assert_eq!(most(0, &[20, 20], 10), 37);
        assert_eq!(most(1, &[], 10), 94);
        assert_eq!(most(1, &[10; 8], 10), 13);
    }

    #[test]
    fn small_bases_cost_less_where_the_interval_lets_them_have_long_periods() {
        assert_eq!(most(1, &[1; 20], 10), 70);
        assert_eq!(most(1, &[1; 20], 80), 74);
    }

    #[test]
    fn the_whole_core_is_nobodys_base() {
        assert_eq!(
            CoreTime::new(7, Servers { nic: true, storage: true, limits: false }).promise(UNITS_PER_CORE, 10),
            94
        );
    }
}
