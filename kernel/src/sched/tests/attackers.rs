//! Attackers beside a victim on one core, with what hardware and kernel cost: nobody comes up short by more than what is
//! promised.

use super::*;

/// What the code below takes the hardware and the kernel to cost: from an NMI to the decision, from the decision to the
/// first instruction of the guest.
const NMI: u64 = 900;
const ENTRY: u64 = 300;
/// As on the machine.
const REAL: Limits = Limits::new(HZ, Ticks::new(10_000));

/// What attackers do to a core from outside, or by its alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    /// Another core starts and stops the attacker.
    StartAndStop,
    /// The same, taking its time off it and giving it back in between.
    StartAndUnbind,
    /// The attacker spins and lets itself be called.
    Call,
    /// The attacker sleeps for a moment, again and again.
    Storm,
    /// The attacker waits, and another core signals it.
    Signal,
    /// The attacker waits, and an interrupt that is requested from the core wakes it before it is out.
    Pending,
    /// The attacker waits for a moment, and another core signals it before that is over: its alarm interrupts in vain.
    Early,
    /// Two attackers: the first one spins until the alarm of the other one has interrupted it, and makes room for it; that
    /// one wakes the first one and waits for a moment.
    Alternate,
}

/// The most that a victim, who has all of a core that an attacker's part of every millisecond leaves, comes up short in a
/// period by its own count of ticks in the guest. Taking the attacker's state out of the core takes `drain` ticks.
fn victim_under(attack: Attack, every: u64, drain: u64) -> u64 {
    const PERIOD: u64 = 10 * MS;
    let (part, length) = match attack {
        Attack::StartAndStop | Attack::StartAndUnbind | Attack::Call => (MS / 20, MS),
        Attack::Storm => (MS / 10, MS),
        Attack::Signal | Attack::Pending | Attack::Early => (MS * 45 / 100, MS),
        Attack::Alternate => (MS * 40 / 100, MS),
    };
    let mut core = idle(&REAL);
    let mut free = ticks(0);
    let bind =
        |core: &mut Schedule, free, now| core.bind(vcpu(1), ticks(part), ticks(length), free, ticks(now)).unwrap();
    let mut attacker = bind(&mut core, free, 0);
    let accomplice = (attack == Attack::Alternate)
        .then(|| core.bind(vcpu(3), ticks(MS * 16 / 100), ticks(length), ticks(0), ticks(0)).unwrap());
    let shares = accomplice.map_or(Share::ZERO, |_| REAL.share(ticks(MS * 16 / 100), ticks(length)));
    let shares = shares.plus(REAL.share(ticks(part), ticks(length)));
    let budget = REAL.budget_within(CAPACITY.minus(shares), ticks(PERIOD)).get();
    let victim = core.bind(vcpu(2), ticks(budget), ticks(PERIOD), ticks(0), ticks(0)).unwrap();
    core.wake(victim, ticks(0), Waker::Neighbour);
    core.wake(attacker, ticks(0), Waker::Neighbour);
    if let Some(accomplice) = accomplice {
        core.wake(accomplice, ticks(0), Waker::Neighbour);
    }
    let (mut awake, mut step) = (true, every);
    let mut nmi = None;
    // Where the core is: in the kernel until it decides, or in a guest until its alarm, which stays when a decision ends
    // later.
    let (mut decides, mut entered, mut armed) = (Some(0), 0, u64::MAX);
    let (mut received, mut period, mut worst) = (0, 0, 0);
    // When the alarm of one that is awake interrupts.
    let mut in_vain = 0;
    // Whose state the core holds.
    let mut loaded = None;
    while period < 20 {
        let next = step.min(decides.unwrap_or(armed.max(entered)));
        let runs = core.current().filter(|_| decides.is_none()).map(|(id, _)| id);
        // Leaves the guest at `next`.
        let mut called = false;
        if next == step {
            step += every;
            let is_current = core.current().is_some_and(|(id, _)| id == attacker);
            match attack {
                Attack::Call => called = is_current,
                Attack::Storm | Attack::Signal | Attack::Pending | Attack::Early if runs == Some(attacker) => {
                    if next >= entered + 200 && next > in_vain {
                        let wake_at = match attack {
                            Attack::Storm => ticks(next + 3_000),
                            // Just after the signal that comes with the next step has brought it back.
                            Attack::Early => ticks(next + every + 1_500),
                            _ => NEVER,
                        };
                        if attack == Attack::Early {
                            in_vain = wake_at.get();
                        }
                        core.block(attacker, wake_at, ticks(next));
                        decides = Some(next + 150);
                    }
                }
                Attack::Alternate => {
                    if let Some(accomplice) = accomplice
                        && runs.is_some()
                        && next >= entered + 200
                    {
                        if runs == Some(accomplice) {
                            core.wake(attacker, ticks(next), Waker::Neighbour);
                            core.block(accomplice, ticks(next + 2_000), ticks(next));
                            decides = Some(next + 150);
                        } else if runs == Some(attacker) && core.reservation(accomplice).unwrap().runnable {
                            core.block(attacker, NEVER, ticks(next));
                            decides = Some(next + 150);
                        }
                    }
                }
                Attack::Storm | Attack::Pending => {}
                Attack::Signal | Attack::Early => called = core.wake(attacker, ticks(next), Waker::OtherCore),
                Attack::StartAndStop | Attack::StartAndUnbind if awake => {
                    called = is_current;
                    core.block(attacker, NEVER, ticks(next));
                    if attack == Attack::StartAndUnbind {
                        free = core.unbind(attacker, ticks(next)).max(free);
                        attacker = bind(&mut core, free, next);
                    }
                    awake = false;
                }
                Attack::StartAndStop | Attack::StartAndUnbind => {
                    called = core.wake(attacker, ticks(next), Waker::OtherCore);
                    awake = true;
                }
            }
            if called {
                core.blame(attacker);
            }
        } else if decides.is_some() {
            if let Some(at) = nmi.take() {
                core.pause(ticks(at));
                if armed <= next {
                    armed = u64::MAX;
                }
            }
            let decision = core.decide(ticks(next));
            let runs = decision.run.map(|(_, vcpu)| vcpu);
            let leaves = loaded == Some(vcpu(1)) && runs == Some(vcpu(2));
            loaded = runs.or(loaded);
            let now = if leaves { next + drain } else { next };
            decides = (decision.until.get() <= now).then_some(now + 50);
            if leaves {
                let woken = attack == Attack::Pending && core.wake(attacker, ticks(now), Waker::Interrupt);
                core.unloaded(
                    Some(attacker).filter(|_| awake || attack != Attack::StartAndUnbind),
                    ticks(drain),
                    woken,
                );
                if woken {
                    (loaded, decides) = (None, Some(now + 100));
                }
            }
            entered = now + ENTRY;
            armed = armed.min(decision.until.get());
        } else {
            called = true;
        }
        if called && decides.is_none() {
            nmi = Some(next);
            decides = Some(next + NMI);
        }
        if runs == Some(victim) && decides.is_some() {
            received += next.saturating_sub(entered);
        }
        if next / PERIOD > period {
            worst = worst.max(budget.saturating_sub(received));
            (period, received) = (next / PERIOD, 0);
        }
    }
    worst
}

#[test]
fn attackers_take_no_time_from_others() {
    use Attack::{Alternate, Call, Early, Pending, Signal, StartAndStop, StartAndUnbind, Storm};
    for attack in [StartAndStop, StartAndUnbind, Call, Storm, Signal, Pending, Early, Alternate] {
        for every in [50, 350, 700, 1_100, 2_900] {
            // The least, and all that an interrupt controller can hold.
            for drain in [0, 6_500] {
                let short = victim_under(attack, every, drain);
                assert!(short <= 20_000, "{attack:?} every {every} ticks, {drain} to take out: {short} short");
            }
        }
    }
}
