//! Delivery: whatever the rules admit on a core, EDF delivers, in whatever phase the periods are.

use cap_spec::machine::edf::{Missed, promised, run};
use cap_spec::machine::{Config, Reservation, share, step};
use cap_spec::properties::Property;
use claims::{Established, Tier};
use lockstep::generate;
use lockstep::random::Random;
use specification::world::{after_boot, forget_outputs, runnable, two_tenants};

/// Sets of reservations that are made up.
const SETS: u64 = 3_000;
/// Runs of invocations.
const SEEDS: u64 = 40;
/// Invocations of a run.
const LENGTH: usize = 200;

/// Reservations at random that together fill a core as far as `fits` lets them.
fn fill(config: &Config, random: &mut Random, fits: impl Fn(&[Reservation]) -> bool) -> Vec<Reservation> {
    let mut set: Vec<Reservation> = Vec::new();
    for _ in 0..40 {
        let period = config.min_period + random.below(20_000) as u64;
        let budget = config.min_budget + random.below((period / 3) as usize) as u64;
        set.push(Reservation { budget, period });
        if !fits(&set) {
            set.pop();
        }
    }
    set
}

/// The sum of the shares is within the capacity of a core.
fn is_admitted(config: &Config, set: &[Reservation]) -> bool {
    set.iter().map(|reservation| share(config, *reservation)).sum::<u64>() <= config.capacity
}

/// Gives each a phase at random, and runs them.
fn run_phased(config: &Config, random: &mut Random, set: &[Reservation]) -> Result<(), Missed> {
    let phased: Vec<(Reservation, u64)> =
        set.iter().map(|reservation| (*reservation, random.below(reservation.period as usize) as u64)).collect();
    run(config, &phased, 400_000)
}

#[test]
fn what_is_admitted_is_delivered() {
    let config = after_boot().config;
    let mut random = Random::new(1);
    let (mut reservations, mut fullest) = (0, 0);
    for _ in 0..SETS {
        let set = fill(&config, &mut random, |set| is_admitted(&config, set));
        fullest = fullest.max(set.iter().map(|reservation| share(&config, *reservation)).sum());
        reservations += set.len();
        assert_eq!(run_phased(&config, &mut random, &set), Ok(()), "{set:?}");
    }
    assert!(fullest > config.capacity / 100 * 99, "no core was full: {fullest:#x} of {:#x}", config.capacity);

    let mut in_use = 0;
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let mut state = two_tenants(true);
        for _ in 0..LENGTH {
            let Some(invoker) = random.pick(&runnable(&state)) else { break };
            let call = generate::call(&state, invoker, &mut random);
            let _ = step(&mut state, invoker, call);
            forget_outputs(&mut state);
        }
        for core in [0, 1] {
            let set = promised(&state, core);
            in_use += set.len();
            assert_eq!(run_phased(&state.config, &mut random, &set), Ok(()), "seed {seed}: {set:?}");
        }
    }
    println!("{SETS} sets of {reservations} reservations, {in_use} in use after {SEEDS} runs");
    assert!(in_use > 40);
    Established {
        check: "specification-delivery".into(),
        property: Property::TimeDelivered.name().into(),
        tier: Tier::Tested,
        tool: "simulated EDF".into(),
        bound: format!(
            "{SETS} full cores with {reservations} reservations, {SEEDS} runs of invocations, 400000 ticks each"
        ),
        of: "specification: admission".into(),
    }
    .tell();
}

#[test]
fn admission_without_the_switches_is_found_out() {
    let config = after_boot().config;
    let free = Config { switch_ticks: 0, capacity: 1 << 32, ..config.clone() };
    let mut random = Random::new(2);
    let missed = (0..100).find_map(|_| {
        let set = fill(&free, &mut random, |set| is_admitted(&free, set));
        run_phased(&config, &mut random, &set).err()
    });
    assert!(missed.is_some(), "a core that is sold without its switches was delivered");
}
