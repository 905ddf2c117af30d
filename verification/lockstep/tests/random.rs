//! Random sequences of near-valid steps.

use lockstep::campaign::{self, Report};
use lockstep::script;

/// Steps of every run, on both cores of a small machine within a minute.
const STEPS: usize = 1_000_000;
/// The seed of the first sequence, unless `LOCKSTEP_SEED` says otherwise.
const SEED: u64 = 1;
/// Sequences are at most this far apart in seeds from those of another thread.
const APART: u64 = 1 << 32;

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn a_million_random_steps_agree() {
    let seed = from_environment("LOCKSTEP_SEED").unwrap_or(SEED);
    let steps = from_environment("LOCKSTEP_STEPS").unwrap_or(STEPS);
    let started = std::time::Instant::now();
    let threads =
        [0, 1].map(|number| std::thread::spawn(move || campaign::run(seed + number * APART, steps / 2, None)));
    let mut report = Report::default();
    for thread in threads {
        match thread.join().expect("a campaign does not panic") {
            Ok(part) => report.add(part),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("seed {seed}: {} steps in {:.1?}", report.steps, started.elapsed());
    println!("done: {:?}", report.done);
    println!("refused most: {:?}", &report.seen.counts()[..10]);
    assert_eq!(report.seen.unknown(), [], "errors that the ABI does not know of these labels");
    let never_done: Vec<_> = cap_spec::spec::LABELS
        .iter()
        .map(|spec| spec.label)
        .filter(|label| report.done.get(label).copied().unwrap_or(0) < steps / 100_000)
        .collect();
    assert_eq!(never_done, [], "labels that succeeded too rarely to say that they were tried");
}

#[test]
fn replay() {
    let Some(path) = std::env::var_os("LOCKSTEP_REPLAY") else { return };
    let text = std::fs::read_to_string(path).expect("the file can be read");
    let steps = script::parse(&text).expect("the file holds steps");
    if let Err((length, divergence)) = campaign::replay(&steps, None) {
        panic!("after {length} steps: {divergence}");
    }
}

#[test]
fn steps_survive_being_printed() {
    let steps = script::launched_tenant(1);
    assert_eq!(script::parse(&script::print(&steps)), Ok(steps));
}
