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

/// Every reservation with a period of at most `longest` ticks.
fn reservations(longest: u64) -> Vec<Reservation> {
    let of = |period: u64| (1..=period).map(move |budget| Reservation { budget, period });
    (1..=longest).flat_map(of).collect()
}

/// Every set of `count` of these, each as often as it likes, in their order.
fn sets(of: &[Reservation], count: usize, set: &mut Vec<Reservation>, each: &mut dyn FnMut(&[Reservation])) {
    if count == 0 {
        return each(set);
    }
    for (at, reservation) in of.iter().enumerate() {
        set.push(*reservation);
        sets(&of[at..], count - 1, set, each);
        set.pop();
    }
}

/// Runs a set in every phase, until the schedule repeats itself. How many phases there are.
fn run_in_every_phase(config: &Config, set: &[Reservation]) -> Result<u64, Missed> {
    let phases: u64 = set.iter().map(|reservation| reservation.period).product();
    let longest = set.iter().map(|reservation| reservation.period).max().unwrap_or(0);
    let again = set.iter().fold(1, |all, reservation| lcm(all, reservation.period));
    for mut number in 0..phases {
        let with_phase = |reservation: &Reservation| {
            let phase = number % reservation.period;
            number /= reservation.period;
            (*reservation, phase)
        };
        let phased: Vec<(Reservation, u64)> = set.iter().map(with_phase).collect();
        // From the longest phase on, what is left at a tick repeats after the common multiple of the periods.
        run(config, &phased, longest + 2 * again + 1)?;
    }
    Ok(phases)
}

fn lcm(one: u64, other: u64) -> u64 {
    let (mut a, mut b) = (one, other);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    one / a * other
}

/// Figures of the exhaustive check: ticks of a switch, reservations of a set, and the longest period.
const SMALL_CORES: [(u64, usize, u64); 6] = [(0, 1, 16), (0, 2, 16), (0, 3, 8), (0, 4, 6), (1, 2, 20), (1, 3, 12)];

#[test]
fn every_small_core_that_is_admitted_is_delivered() {
    let (mut admitted, mut full, mut schedules) = (0_u64, 0_u64, 0_u64);
    // That more is not delivered shows that the schedule can tell.
    let mut missed = 0_u64;
    for (switch_ticks, count, longest) in SMALL_CORES {
        let config = Config { switch_ticks, capacity: 1 << 32, ..after_boot().config };
        sets(&reservations(longest), count, &mut Vec::new(), &mut |set| {
            let sum: u64 = set.iter().map(|reservation| share(&config, *reservation)).sum();
            // A core that is oversold by a whole share is looked at in its first phase alone.
            if sum > config.capacity {
                let phased: Vec<(Reservation, u64)> = set.iter().map(|reservation| (*reservation, 0)).collect();
                missed += u64::from(run(&config, &phased, 1_000).is_err());
                return;
            }
            admitted += 1;
            full += u64::from(sum == config.capacity);
            match run_in_every_phase(&config, set) {
                Ok(phases) => schedules += phases,
                Err(Missed { which, at, left }) => panic!("{set:?}: reservation {which} lacks {left} ticks at {at}"),
            }
        });
    }
    println!("{admitted} admitted cores, {full} of them full, {schedules} schedules; {missed} others miss");
    assert!(full > 100 && missed > 1_000, "{full} full cores, {missed} that miss");
    let figures = SMALL_CORES
        .map(|(switch, count, longest)| format!("{count} of periods up to {longest} (switch: {switch} ticks)"))
        .join(", ");
    Established {
        check: "specification-delivery-small-cores".into(),
        property: Property::TimeDelivered.name().into(),
        tier: Tier::ExhaustiveToABound,
        tool: "simulated EDF".into(),
        bound: format!(
            "every admitted core of reservations in whole ticks, {figures}: {admitted} cores, in every phase of the periods \
             ({schedules} schedules), until the schedule repeats"
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
