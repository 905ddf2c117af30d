//! The probe: what only whole machines show, checked by a root image of its own (`tests/guests/src/bin/probe.rs`) with
//! nothing but the kernel under it. One machine runs all checks; each is a test here.

use e2e::{Finished, boot, xtask::boot::Guest};
use std::sync::OnceLock;

/// Runs the probe on `cores` cores.
fn probe(cores: u16) -> Finished {
    boot(&Guest { cores, ..Guest::new("probe") })
}

/// The run on two cores.
fn two_cores() -> &'static Finished {
    static RUN: OnceLock<Finished> = OnceLock::new();
    RUN.get_or_init(|| probe(2))
}

/// What the probe said about one of its checks.
fn expect(run: &Finished, check: &str) {
    let line = run.console.iter().find(|line| line.contains(&format!("probe {check}: ")));
    match line {
        Some(line) if line.ends_with(": ok") => {}
        Some(line) => panic!("{line}"),
        None => panic!("the probe said nothing about {check}; {:?}", run.failure),
    }
}

macro_rules! checks {
    ($($(#[$doc:meta])* $test:ident = $check:ident;)*) => {
        $($(#[$doc])* #[test] fn $test() { expect(two_cores(), stringify!($check)); })*

        const CHECKS: &[&str] = &[$(stringify!($check)),*];
    };
}

checks! {
    /// Everything that is switched keeps its value while another VM has values of its own.
    state_of_two_vms_is_switched = two_vms_keep_their_registers;
    /// 30 % beside a neighbour that spins, in every 100 ms, and no period more than 20 us short.
    cpu_time_is_delivered_every_period = cpu_time_is_delivered;
    /// `cli; spin` is taken back by NMI, and killed.
    spinning_vm_is_taken_back = spinner_is_taken_back;
    /// A page that is revoked while another core reads it.
    shootdown_reaches_a_running_core = shootdown_reaches_a_running_core;
    /// The same capabilities mapped, unmapped, copied and deleted from two cores against each other.
    hostile_races_of_two_cores = races_of_two_cores;
    /// A modified market can neither keep a hand in a tenant nor reach it once it runs.
    hostile_market = hostile_market;
    /// A stopped VM's handler gets the reason and the registers.
    stopped_vm_is_reported_to_its_handler = stopped_vm_is_reported;
}

#[test]
fn probe_ends_well_on_two_cores_and_says_nothing_else() {
    let run = two_cores();
    run.expect_good();
    let said = run.console.iter().filter(|line| line.contains("probe ")).count();
    assert_eq!(said, CHECKS.len(), "{:?}", run.console);
}

#[test]
fn probe_ends_well_on_one_core() {
    let run = probe(1);
    run.expect_good();
    for check in CHECKS {
        expect(&run, check);
    }
}
