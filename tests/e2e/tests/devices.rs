//! Functions of devices, handed out behind an IOMMU: the root image `devices` drives them by itself and checks what it sees.

use e2e::boot;
use e2e::xtask::bench::NETWORK;
use e2e::xtask::boot::Guest;

fn guest(arguments: &[&str]) -> Guest {
    Guest { memory_mib: 256, extra: arguments.iter().map(|&text| text.into()).collect(), ..Guest::new("devices") }
}

#[test]
fn virtual_functions_are_driven_by_their_holders_and_kept_apart() {
    // The whole core, so that what interrupts it is counted alone.
    let run = boot(&Guest { command_line: "root_budget_us=10000".into(), ..guest(NETWORK) });
    assert!(run.console_has("PCI 01:00.0 8086:10c9, 8 VFs"), "{:?}", run.console);
    run.expect_good();
    for check in [
        "configuration_space_is_filtered",
        "a_frame_goes_by_dma_and_interrupt_with_no_exit",
        "a_device_wakes_a_waiting_vm",
        "what_is_sent_from_outside_the_domain_is_stopped",
        "what_is_received_outside_the_domain_is_stopped",
        "what_is_stopped_is_told_to_whom_it_concerns",
        "a_storm_of_faults_costs_one_nmi_in_a_millisecond",
        "forged_messages_raise_nothing_but_what_their_entry_says",
        "a_message_in_compatibility_format_is_survived",
        "pages_of_messages_and_of_others_are_not_handed_out",
        "memory_that_is_taken_back_is_out_of_reach",
        "a_lease_that_is_revoked_is_a_function_anew",
    ] {
        assert!(run.console_has(&format!("devices {check}: ok")), "{check}: {:?}", run.console);
    }
    // The emulator lets messages in compatibility format pass: each comes once (CAVEATS.md).
    let line = "devices: stray vectors: 1, exits for a stray NMI: 1";
    assert!(run.console.iter().any(|said| said.ends_with(line)), "{:?}", run.console);
}

/// A function that never ceases to interrupt costs who shares the core with its VM at most one NMI for each wait of that.
#[test]
fn a_storm_of_interrupts_costs_a_neighbour_one_nmi_in_a_wait() {
    let run = boot(&Guest { command_line: "root_budget_us=3000 storm=interrupts".into(), ..guest(NETWORK) });
    run.expect_good();
    let check = "a_storm_of_interrupts_costs_a_neighbour_one_nmi_in_a_wait";
    assert!(run.console_has(&format!("devices {check}: ok")), "{:?}", run.console);
}

/// Nor does the emulator hold an INIT back while the kernel has GIF = 0: one that a function forges is the end of the
/// machine, with nothing more said (CAVEATS.md).
#[test]
fn an_init_that_the_emulator_lets_pass_resets_the_core() {
    let run = boot(&Guest { command_line: "root_budget_us=10000 forge=init".into(), ..guest(NETWORK) });
    assert!(run.failure.is_some(), "the core was not reset: CAVEATS.md says more than is so");
    let last = run.console.last().expect("a line");
    assert!(last.ends_with("devices: an INIT is forged"), "{:?}", run.console);
}

/// Environment variable: how many owners the functions have, one after the other; 1,000 if it is not set.
const OWNERS: &str = "NONKERNEL_OWNERS";

/// Sold, used, taken back under DMA, and sold again: nothing of a former owner reaches the next.
#[test]
fn nothing_of_a_former_owner_reaches_the_next() {
    let owners = std::env::var(OWNERS).map_or(1_000, |text| text.parse().expect("a number of owners"));
    // A machine is to end in time on a busy host, too.
    for first in (0..owners).step_by(500) {
        let count = (owners - first).min(500);
        let command_line = format!("root_budget_us=9000 cycles={count}");
        let run = boot(&Guest { image: "resale".into(), cores: 2, command_line, ..guest(NETWORK) });
        run.expect_good();
        assert!(run.console_has(&format!("resale: {count} owners, ")), "{:?}", run.console);
    }
}

/// Without an IOMMU there is nobody who would keep a function's DMA inside: nothing is handed out, and the log says so.
#[test]
fn without_an_iommu_no_function_is_handed_out() {
    let run = boot(&Guest { command_line: "expect=none".into(), ..guest(&NETWORK[2..]) });
    run.expect_good();
    assert!(run.console_has("no PCI function can be handed out"), "{:?}", run.console);
    assert!(run.console_has("devices: 0 functions"), "{:?}", run.console);
}
