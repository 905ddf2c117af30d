//! The probe: what only whole machines show, checked by a root image of its own (`tests/guests/src/bin/probe.rs`) with
//! nothing but the kernel under it. One machine runs all checks; each is a test here.

use e2e::xtask::{boot::Guest, emulator::Acceleration};
use e2e::{Finished, Machine, boot};
use std::sync::OnceLock;
use std::time::Duration;

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
    /// General registers keep their values while another VM has values of its own.
    general_registers_are_switched = general_registers_are_switched;
    /// As above: YMM0 to YMM15.
    vector_registers_are_switched = vector_registers_are_switched;
    /// As above: the x87 stack, its control word, MXCSR.
    control_words_are_switched = control_words_are_switched;
    /// As above: PKRU.
    protection_keys_are_switched = protection_keys_are_switched;
    /// As above: XCR0.
    extended_control_is_switched = extended_control_is_switched;
    /// As above: DR0 to DR3, DR6, DR7.
    debug_registers_are_switched = debug_registers_are_switched;
    /// As above: TSC_AUX.
    tsc_aux_is_switched = tsc_aux_is_switched;
    /// As above: CR8, the physical task priority.
    task_priority_is_switched = task_priority_is_switched;
    /// As above: what VMLOAD and VMSAVE move, CR2 and the tables.
    hidden_state_is_switched = hidden_state_is_switched;
    /// One-shot timers: what is left goes on, an expiry while out is pending, each comes once.
    timers_are_switched = timers_are_switched;
    /// A VM that ends no interrupt does not block its neighbour's.
    interrupts_in_service_block_nobody_else = interrupts_in_service_block_nobody_else;
    /// Requested interrupts are neither lost nor given to the neighbour.
    requested_interrupts_are_kept = requested_interrupts_are_kept;
    /// What a VM leaves in a core by dying there is not what the next one finds.
    dead_vms_state_reaches_nobody = dead_vms_state_reaches_nobody;
    /// An event whose delivery an exit cut off is injected again.
    cut_off_events_are_injected_again = cut_off_events_are_injected_again;
    /// 30 % beside neighbours that spin, storm and hold the lock: no period 20 us short, no 100 ms 1 %.
    cpu_time_is_delivered_every_period = cpu_time_is_delivered;
    /// 30 % of an idle core: in no period 20 us more than that, either.
    cpu_time_is_no_more_than_the_budget = budget_is_also_the_most;
    /// A VM that owns its whole core gets no timer NMI.
    vm_that_owns_its_core_gets_no_ticks = whole_core_is_tickless;
    /// A VM that owns its whole core halts and is woken by its timer without an exit.
    halted_vm_that_owns_its_core_wakes_with_no_exit = halted_whole_core_wakes_with_no_exit;
    /// A core that nobody wants executes no instructions.
    idle_cores_execute_nothing = idle_cores_execute_nothing;
    /// Statistics pages, per VM and global, against what was done.
    statistics_count_what_is_done = statistics_count_what_is_done;
    /// `cli; spin` is taken back by NMI, and killed.
    spinning_vm_is_taken_back = spinner_is_taken_back;
    /// A page that is revoked while another core reads it.
    shootdown_reaches_a_running_core = shootdown_reaches_a_running_core;
    /// Reserved and dangerous bits of CR0, CR4 and EFER, each by a VM of its own.
    hostile_control_registers_one_by_one = control_registers_one_by_one;
    /// CR3 loaded with what is not the VM's own: the VM ends, for a nested fault there.
    hostile_top_page_tables_anywhere = top_page_tables_anywhere;
    /// The same capabilities used in every way from two cores against each other: answers, balance, what comes back.
    hostile_races_of_two_cores = races_of_two_cores;
    /// Random invocations of two and more Vcpus on two cores: as above.
    hostile_random_races_of_two_cores = random_races_of_two_cores;
    /// A modified market can neither keep a hand in a tenant nor reach it once it runs, nor read what it leaves.
    hostile_market = hostile_market;
    /// Routes, ports and CPU time are split up and bound until they are refused.
    hostile_exhausts_routes_ports_and_time = exhaustion_ends_in_refusals;
    /// A ring whose memory its peer revokes under it.
    hostile_peer_revokes_the_rings_memory = ring_goes_under_its_user;
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

/// The races once more on a machine whose cores are threads of the host, so that they really happen at the same time. Not
/// the same in every run: nothing here depends on how long anything takes, and every answer and end is one that is right
/// in any order. Nor does it end for the time that it takes on a host that others have, too: ten times what it takes alone
/// has been seen.
#[test]
fn hostile_races_for_real() {
    const PATIENCE: Duration = Duration::from_secs(900);
    let command_line = "check=races_for_real".to_string();
    let guest = Guest { cores: 2, acceleration: Acceleration::Threads, command_line, ..Guest::new("probe") };
    let machine = Machine::start_guest(&guest).expect("a machine");
    let run = machine.timeout(PATIENCE).finish().expect("it ends");
    expect(&run, "races_for_real");
    run.expect_good();
}
