//! Delivery: what admission is for. A core runs, of all reservations that have something left of the budget of their
//! present period, the one whose period ends first (EDF). Every period costs its reservation two switches besides, one to
//! it and one away from it, unless it has the whole core.
//!
//! Admission keeps the shares of a core's reservations ([`share`](super::share)) within the core. Then no budget is left
//! at the end of a period, in whatever phase the periods are (Liu and Layland, 1973): [`run`] is that schedule, tick by
//! tick, so that it can be tried.

use alloc::vec::Vec;

use super::state::{Cap, Config, Reservation, State};

/// A reservation did not get its budget in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Missed {
    /// Which: its place among those of the core.
    pub which: usize,
    /// Ticks at which the period ended.
    pub at: u64,
    /// Ticks that were left of it.
    pub left: u64,
}

/// The reservations in use of a core.
pub fn promised(state: &State, core: u8) -> Vec<Reservation> {
    let in_use = |cap: &Cap| match *cap {
        Cap::CpuTime { core: of, reservation, vcpu: Some(_), .. } if of == core => Some(reservation),
        _ => None,
    };
    state.slots.values().filter_map(|slot| in_use(&slot.cap)).collect()
}

/// Ticks of its core that a reservation needs in each period.
fn needs(config: &Config, of: Reservation) -> u64 {
    if of.budget >= of.period { of.period } else { of.budget + 2 * config.switch_ticks }
}

/// Runs one core for `ticks`. Every reservation uses all it may from its phase on: ticks until its first period begins.
///
/// # Errors
/// The first reservation that does not get its budget.
pub fn run(config: &Config, reservations: &[(Reservation, u64)], ticks: u64) -> Result<(), Missed> {
    let mut left: Vec<u64> = reservations.iter().map(|_| 0).collect();
    let mut begins: Vec<u64> = reservations.iter().map(|(_, phase)| *phase).collect();
    let mut now = 0;
    while now < ticks {
        for (which, (reservation, _)) in reservations.iter().enumerate() {
            if begins[which] != now {
                continue;
            }
            if left[which] != 0 {
                return Err(Missed { which, at: now, left: left[which] });
            }
            left[which] = needs(config, *reservation);
            begins[which] = now + reservation.period;
        }
        let next = begins.iter().copied().min().unwrap_or(ticks).min(ticks);
        // Who has something left is in a period, which ends where its next begins.
        match (0..left.len()).filter(|which| left[*which] != 0).min_by_key(|which| begins[*which]) {
            Some(which) => {
                let ran = left[which].min(next - now);
                left[which] -= ran;
                now += ran;
            }
            None => now = next,
        }
    }
    Ok(())
}
