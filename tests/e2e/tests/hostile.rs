//! Hostile applications: each test runs one attack beside a victim on the same core. The victim must keep its pages,
//! its results and its CPU time; the attack ends in clear errors or in the attacker's own end; the totals of the whole
//! run agree. What the attacks and the victim do is in `tests/guests`.
//!
//! What this can't show: QEMU's translator hides a forgotten flush on the same core (the fake machine shows it), never
//! raises #AC, and does not know INVLPGB, TLBSYNC, MCOMMIT, MONITORX, MWAITX and RDPRU.

use cap_spec::abi::StopReason;
use e2e::{Change, Finished, run};
use proto::host::End;

/// How an attacker ends.
enum Attacker {
    /// By itself, and every attempt was answered rightly.
    Succeeds,
    /// Stopped, for this reason.
    IsStopped(StopReason),
    /// One of both: processors refuse the value at once, QEMU's translator takes it and refuses the next entry.
    SucceedsOrIsStopped(StopReason),
    /// By what it does to its own VM, which the market sees.
    EndsAs(End),
    /// It never does: it runs, or hangs, until the run is over.
    GoesOn,
}

/// Runs an attack with these arguments beside a victim that makes `rounds` rounds of work (a quarter of a millisecond
/// of CPU time each; both have three tenths of their core).
///
/// With one core everybody is on it, market and console servers too, and the victim can see by itself what CPU time it
/// has: under the instruction clock another core's instructions would look like time that it was away. So one core is
/// the rule, and attacks on other cores are made again on two.
fn attack(cores: u16, arguments: &[&str], rounds: u32, attacker: Attacker) -> Finished {
    let run = run_beside_victim(cores, arguments, rounds);
    let said = run.app("attacker").lines.join("\n");
    let attacker = match (attacker, run.end("attacker")) {
        (Attacker::SucceedsOrIsStopped(reason), End::Fault { .. }) => Attacker::IsStopped(reason),
        (Attacker::SucceedsOrIsStopped(_), _) => Attacker::Succeeds,
        (attacker, _) => attacker,
    };
    match attacker {
        Attacker::Succeeds => {
            assert_eq!(run.end("attacker"), &End::Exit { status: 0 }, "{said}");
            assert!(said.contains(" 0 wrong"), "{said}");
        }
        Attacker::IsStopped(wanted) => match run.end("attacker") {
            End::Fault { reason, registers, .. } => {
                assert_eq!(*reason, wanted as u8, "{said}");
                assert!(!registers.is_empty(), "a stopped VM is reported with its registers");
            }
            end => panic!("the attacker ended with {end:?}, not stopped for {wanted:?}\n{said}"),
        },
        Attacker::SucceedsOrIsStopped(_) => unreachable!("resolved above"),
        Attacker::EndsAs(wanted) => assert_eq!(run.end("attacker"), &wanted, "{said}"),
        Attacker::GoesOn => assert_eq!(run.end("attacker"), &End::RunOver, "{said}"),
    }
    run
}

/// As [`attack`], whatever becomes of the attacker.
fn run_beside_victim(cores: u16, arguments: &[&str], rounds: u32) -> Finished {
    let arguments: Vec<String> = arguments.iter().map(|argument| format!("{argument:?}")).collect();
    let text = format!(
        r#"
        title = "{name} and its victim"
        limit = "20 s"
        [machine]
        cores = {cores}
        memory = "128 MiB"
        [operator]
        common_pool_percent = 0
        [[app]]
        name = "victim"
        args = ["{rounds}", "{cores}"]
        budget = 1
        core = {core}
        base_cpu = 30
        base_pages = 64
        [[app]]
        name = "attacker"
        image = "hostile"
        args = [{arguments}]
        budget = 1
        core = {core}
        base_cpu = 30
        base_pages = 256
        awaited = false
        "#,
        name = arguments[0].trim_matches('"'),
        core = cores - 1,
        arguments = arguments.join(", "),
    );
    let run = run(&text, &Change::none());
    check(&run);
    run
}

/// The victim and the whole are as they were.
fn check(run: &Finished) {
    run.expect_good();
    let said = run.app("victim").lines.join("\n");
    assert_eq!(run.end("victim"), &End::Exit { status: 0 }, "{said}");
    assert_eq!(run.state.restarts, 0, "the market server was restarted");
    run.expect_shares();
}

/// The smallest holding has its share beside a neighbour that takes all that it can get, when its period may be stretched
/// over the interval.
#[test]
fn hostile_spin_beside_the_smallest_holding() {
    let text = r#"
        title = "a unit of CPU time beside a spinner"
        limit = "20 s"
        [machine]
        cores = 1
        memory = "128 MiB"
        [cpu]
        interval = "80 ms"
        [[app]]
        name = "victim"
        args = ["8", "1"]
        budget = 1
        base_cpu = 1
        base_pages = 64
        [[app]]
        name = "attacker"
        image = "hostile"
        args = ["spin"]
        budget = 1
        base_cpu = 30
        awaited = false
        "#;
    let run = run(text, &Change::none());
    check(&run);
    assert_eq!(run.end("attacker"), &End::RunOver, "it spins to the end");
}

/// Names a test for each attack.
macro_rules! attacks {
    ($($(#[$doc:meta])* $name:ident: $cores:literal, $arguments:expr, $rounds:expr, $attacker:expr;)*) => {
        $($(#[$doc])* #[test] fn $name() { attack($cores, &$arguments, $rounds, $attacker); })*
    };
}

use Attacker::{EndsAs, GoesOn, IsStopped, Succeeds, SucceedsOrIsStopped};

attacks! {
    /// SVM's own instructions.
    hostile_svm_instructions: 1, ["svm"], 200, Succeeds;
    /// INVD, WBINVD, MONITOR, MWAIT, RDPMC, RDPRU, XSETBV, MOV CR8, task switches.
    hostile_caches_and_counters: 1, ["caches"], 200, Succeeds;
    /// Reserved and dangerous bits of CR0 and CR4.
    hostile_control_registers: 1, ["control-registers"], 200, SucceedsOrIsStopped(StopReason::InvalidState);
    /// Reserved and dangerous bits of EFER.
    hostile_extended_features: 1, ["extended-features"], 200, Succeeds;
    /// Breakpoints on everything, general detect.
    hostile_debug_registers: 1, ["debug-registers"], 200, Succeeds;
    /// Every MSR, read and written.
    hostile_every_msr: 1, ["msrs"], 1200, Succeeds;
    /// Every port, read and written.
    hostile_every_port: 1, ["ports"], 1500, Succeeds;
    /// INIT, SIPI, NMI, SMI and fixed interrupts to everybody.
    hostile_interrupt_commands: 1, ["interrupt-commands"], 200, Succeeds;
    /// As above, with somebody else on the other core.
    hostile_interrupt_commands_to_another_core: 2, ["interrupt-commands"], 200, Succeeds;
    /// `cli`, then a loop without end.
    hostile_spin_with_interrupts_off: 1, ["spin"], 200, GoesOn;
    /// `cli; hlt`.
    hostile_halt_with_interrupts_off: 1, ["halt"], 200, GoesOn;
    /// Timer interrupts that are never ended.
    hostile_interrupt_never_ended: 1, ["endless-interrupt"], 200, GoesOn;
    /// An exception with an empty IDT.
    hostile_triple_fault: 1, ["triple-fault"], 200, IsStopped(StopReason::Shutdown);
    /// #DB after every instruction.
    hostile_debug_exception_storm: 1, ["debug-storm"], 200, GoesOn;
    /// #DB within the delivery of #DB.
    hostile_debug_exception_in_its_delivery: 1, ["debug-storm-in-delivery"], 200, GoesOn;
    /// #AC and #GP from CPL 3 without end.
    hostile_alignment_check_storm: 1, ["alignment-storm"], 200, GoesOn;
    /// #UD without end.
    hostile_invalid_opcode_storm: 1, ["invalid-opcode-storm"], 200, GoesOn;
    /// A fault that nobody handles.
    hostile_fault_without_upcall: 1, ["no-upcall"], 200, IsStopped(StopReason::NestedFault);
    /// A fault while the upcall of another one is busy.
    hostile_fault_during_upcall: 1, ["fault-in-upcall"], 200, IsStopped(StopReason::NestedFault);
    /// An upcall whose descriptor table is not there.
    hostile_fault_in_delivery: 1, ["fault-in-delivery"], 200, IsStopped(StopReason::NestedFault);
    /// An upcall whose stack is not there.
    hostile_upcall_without_stack: 1, ["upcall-without-stack"], 200, IsStopped(StopReason::NestedFault);
    /// Random capabilities, labels and arguments.
    hostile_random_invocations_1: 1, ["random", "70000", "1"], 700, Succeeds;
    /// As above, with another seed.
    hostile_random_invocations_2: 1, ["random", "70000", "2"], 700, Succeeds;
    /// As above, with another seed.
    hostile_random_invocations_3: 1, ["random", "70000", "3"], 700, Succeeds;
    /// As above, with the market on another core.
    hostile_random_invocations_on_two_cores: 2, ["random", "70000", "4"], 700, Succeeds;
    /// CNodes in CNodes, cycles, a CNode that holds its own original.
    hostile_cnodes_in_cnodes: 1, ["cnodes"], 200, Succeeds;
    /// A VM that revokes what it is made of.
    hostile_revokes_its_own_base: 1, ["revoke-base"], 600, EndsAs(End::Stopped);
    /// The same right after it has slept, so that it looks as if it slept on.
    hostile_sleeps_and_revokes_its_own_base: 1, ["sleep-and-revoke"], 600, EndsAs(End::Stopped);
    /// A VM that stops itself.
    hostile_stops_itself: 1, ["stop"], 600, EndsAs(End::Stopped);
    /// A VM that deletes its own CSpace: the frames of its image go with it.
    hostile_deletes_its_own_cnode: 1, ["delete-cnode"], 200, IsStopped(StopReason::NestedFault);
    /// A VM that deletes every capability of its own, its image among them.
    hostile_deletes_everything: 1, ["delete-everything"], 200, IsStopped(StopReason::NestedFault);
    /// Retype and revoke in a loop.
    hostile_retypes_and_revokes: 1, ["hold", "100"], 600, Succeeds;
    /// Every kind of object until memory, slots and depth are used up.
    hostile_exhausts_everything: 1, ["exhaust"], 300, Succeeds;
    /// Signals to both servers, as fast as possible.
    hostile_flood_of_signals: 1, ["signals", "5000"], 400, Succeeds;
    /// As above, from another core.
    hostile_flood_of_signals_from_another_core: 2, ["signals", "5000"], 400, Succeeds;
    /// Requests of every kind with random contents, bids among them.
    hostile_flood_of_requests: 1, ["requests", "300"], 1000, Succeeds;
    /// Capabilities granted to both servers, which is refused, and through a channel of its own.
    hostile_flood_of_grants: 1, ["grants", "1500"], 400, Succeeds;
    /// As above, from another core.
    hostile_flood_of_grants_from_another_core: 2, ["grants", "1500"], 400, Succeeds;
    /// Requests to the console server of every kind, in any order, those of the market among them.
    hostile_flood_of_console_requests: 1, ["console-requests", "1000"], 2000, Succeeds;
    /// Leases that are asked for and never accepted.
    hostile_never_accepts: 1, ["never-accept"], 800, Succeeds;
    /// Leases that are used after their release.
    hostile_uses_pages_after_release: 1, ["released"], 800, Succeeds;
    /// Leases that are used until they are taken by force, and afterwards.
    hostile_ignores_every_notice: 1, ["notices"], 1000, Succeeds;
}

/// Nested faults that the attacker made, each of which was told by an upcall that named the right page.
fn nested_faults(run: &Finished) -> u64 {
    let lines = &run.app("attacker").lines;
    let faults = lines.iter().find_map(|line| line.strip_prefix("hostile: ")?.strip_suffix(" nested faults"));
    faults.and_then(|faults| faults.parse().ok()).unwrap_or_else(|| panic!("it did not count its faults: {lines:?}"))
}

/// Accesses outside of its memory and to read-only pages, with upcalls.
#[test]
fn hostile_access_outside() {
    let run = attack(1, &["outside"], 200, Succeeds);
    // Two for each of 14 addresses that nobody has, one for each of 3 read-only pages.
    assert_eq!(nested_faults(&run), 31);
}

/// Guest page tables that point anywhere: to devices, to others' memory and the kernel's, to leases that are gone.
#[test]
fn hostile_page_tables() {
    let run = attack(1, &["page-tables", "300"], 800, Succeeds);
    // Twelve for each frame that is not its own, which three quarters of 300 are.
    let faults = nested_faults(&run);
    assert!(faults > 2_000, "only {faults} accesses reached nested paging");
}

/// Lines as fast as the console server takes them: all arrive, whole and in order, and the victim's among them.
#[test]
fn hostile_flood_of_output() {
    const LINES: usize = 1_000;
    let run = attack(1, &["output", "1000"], 2_000, Succeeds);
    let lines = &run.app("attacker").lines;
    let flood: Vec<&String> = lines.iter().filter(|line| line.starts_with("flood ")).collect();
    assert_eq!(flood.len(), LINES);
    for (number, line) in flood.into_iter().enumerate() {
        assert!(
            line.starts_with(&format!("flood {number} of {LINES}: ")) && line.ends_with("one of very many"),
            "{line}"
        );
    }
}

/// A mistyped attack is no attack that failed: the attacker says what there is, and its end is no success.
#[test]
fn hostile_unknown() {
    let text = "[[app]]\nname = \"attacker\"\nimage = \"hostile\"\nargs = [\"nosuch\"]\nbudget = 1\n";
    let run = run(text, &Change::none());
    assert_eq!(run.end("attacker"), &End::Exit { status: 3 });
    let lines = &run.app("attacker").lines;
    assert_eq!(lines[0], "hostile: unknown attack \"nosuch\"; there are:");
    let listed: Vec<&str> = lines[1..].iter().flat_map(|line| line["hostile: ".len()..].split(", ")).collect();
    assert!(listed.contains(&"random") && listed.contains(&"spin") && listed.len() == 45, "{listed:?}");
}

#[test]
fn hostile_scenario_that_is_shipped_ends_well() {
    let run = run("hostile", &Change::none());
    run.expect_good();
    assert_eq!(run.end("victim"), &End::Exit { status: 0 });
    assert_eq!(run.end("hostile"), &End::RunOver, "it spins to the end");
}

/// A ring whose indices and lengths change under the console server: the attacker's connection may break, nobody
/// else's does. (That the victim's report arrives whole is part of every test here.)
#[test]
fn hostile_console_ring() {
    let run = run_beside_victim(2, &["console-ring", "1000"], 400);
    assert_eq!(run.end("attacker"), &End::Exit { status: 0 });
}

/// As above, under the market server.
#[test]
fn hostile_market_ring() {
    let run = run_beside_victim(2, &["market-ring", "1000"], 400);
    let end = run.end("attacker");
    assert!(matches!(end, End::RunOver | End::Killed), "{end:?}");
}

/// An attack by a virtual function beside a victim, two tenants that exchange frames through functions of the
/// same device, and a third one that gets its function meanwhile.
fn attack_by_function(arguments: &str) -> Finished {
    let text = format!(
        r#"
        title = "a virtual function that floods"
        limit = "20 s"
        [machine]
        cores = 1
        memory = "128 MiB"
        [[app]]
        name = "victim"
        args = ["100", "1"]
        budget = 1
        base_cpu = 15
        base_pages = 64
        [[app]]
        name = "attacker"
        image = "hostile"
        nic = true
        args = [{arguments}]
        budget = 1
        base_cpu = 20
        base_pages = 256
        [[app]]
        name = "echo"
        image = "netbench"
        nic = true
        budget = 1
        base_cpu = 10
        args = ["role=echo", "for=900"]
        [[app]]
        name = "ping"
        image = "netbench"
        nic = true
        budget = 1
        base_cpu = 10
        args = ["role=ping", "peer=02:6e:6b:00:00:03", "for=600"]
        [[app]]
        name = "third"
        image = "netbench"
        nic = true
        budget = 1
        base_cpu = 10
        starts = false
        awaited = true
        args = ["role=listen", "for=100"]
        [[event]]
        at = "100 ms"
        do = "start:third"
        "#
    );
    let run = run(&text, &Change::none());
    check(&run);
    for app in ["attacker", "echo", "ping", "third"] {
        assert_eq!(run.end(app), &End::Exit { status: 0 }, "{app}: {:?}", run.app(app).lines);
    }
    let said = run.app("attacker").lines.join("\n");
    assert!(said.contains(" 0 wrong"), "{said}");
    let came = run.app("ping").lines.join("\n");
    let frames = came.lines().find(|line| line.contains("frames came back")).unwrap_or_else(|| panic!("{came}"));
    let numbers: Vec<u32> = frames.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // The last one may be under way when time is up.
    let [back, lost @ (0 | 1), 0, 0] = numbers[..] else { panic!("{frames}") };
    assert!(back > 1_000, "{back} came back, {lost} did not");
    run
}

/// A function that interrupts in and out of the waits of its VM.
#[test]
fn hostile_flood_of_interrupts_by_a_virtual_function() {
    attack_by_function(r#""nic-interrupts", "200000""#);
}

/// A function whose mailbox is full of whatever there is.
#[test]
fn hostile_flood_of_a_mailbox() {
    attack_by_function(r#""nic-mailbox", "200000", "7""#);
}

/// A function that writes anything to every register that it reaches, those of the physical function among them.
#[test]
fn hostile_writes_to_every_register_of_a_virtual_function() {
    let run = attack_by_function(r#""nic-registers", "200000", "5""#);
    let said = run.app("attacker").lines.join("\n");
    // Three writes to each dword of configuration space but the two that take some, and those that are misplaced.
    assert!(said.contains("hostile: 3079 configuration writes, wrong: []"), "{said}");
    let counts = said.lines().find(|line| line.ends_with("were withheld")).unwrap_or_else(|| panic!("{said}"));
    let counts: Vec<u32> = counts.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // The registers, and of the BAR with the table of messages what is neither that nor its pending bits.
    let [rounds, 6, 2] = counts[..] else { panic!("{said}") };
    assert!(rounds > 2, "{said}");
}

/// A function that sends from and receives into what is not its own, beside a neighbour that sends frames back.
#[test]
fn hostile_dma_by_a_virtual_function() {
    let run = attack_by_function(r#""nic-dma", "3""#);
    assert!(run.console_has("the IOMMU stopped a write at I/O address 0x3ffff000 by the function of attacker"));
    let said = run.app("attacker").lines.join("\n");
    assert!(said.contains("hostile: nic-dma: 49 attempts, 0 wrong"), "{said}");
}
