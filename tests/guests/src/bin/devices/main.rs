//! A root image that drives an 82576 and its virtual functions by itself, one check after the other, and reports each on a
//! line of its own: `devices NAME: ok` or `devices NAME: FAILED: why`. It shows what the kernel hands out and what it
//! keeps apart: registers, DMA, interrupts.
#![no_std]
#![no_main]

extern crate alloc;

mod checks;
mod faults;
mod flood;
mod forged;
mod outside;
mod station;

use alloc::format;
use alloc::string::String;
use cap_spec::abi::{ROOT_BOOT_INFO, boot_info};
use guests::root::{Root, option, word};
use proto::host::Record;
use station::Bench;
use userlib::cap::Fault;

userlib::entry!(main);

/// What went wrong in a check.
type Check = Result<(), String>;

/// A check by its name.
type Named = (&'static str, fn(&mut Bench<'_>) -> Check);

/// The checks, in the order in which they leave the devices as the next one wants them.
const CHECKS: &[Named] = &[
    ("configuration_space_is_filtered", checks::configuration_space_is_filtered),
    ("a_frame_goes_by_dma_and_interrupt_with_no_exit", checks::a_frame_goes_by_dma_and_interrupt_with_no_exit),
    ("a_device_wakes_a_waiting_vm", checks::a_device_wakes_a_waiting_vm),
    ("what_is_sent_from_outside_the_domain_is_stopped", outside::what_is_sent_from_outside_the_domain_is_stopped),
    ("what_is_received_outside_the_domain_is_stopped", outside::what_is_received_outside_the_domain_is_stopped),
    ("what_is_stopped_is_told_to_whom_it_concerns", faults::what_is_stopped_is_told_to_whom_it_concerns),
    ("a_storm_of_faults_costs_one_nmi_in_a_millisecond", faults::a_storm_of_faults_costs_one_nmi_in_a_millisecond),
    (
        "forged_messages_raise_nothing_but_what_their_entry_says",
        forged::forged_messages_raise_nothing_but_what_their_entry_says,
    ),
    ("a_message_in_compatibility_format_is_survived", forged::a_message_in_compatibility_format_is_survived),
    ("pages_of_messages_and_of_others_are_not_handed_out", forged::pages_of_messages_and_of_others_are_not_handed_out),
    ("memory_that_is_taken_back_is_out_of_reach", checks::memory_that_is_taken_back_is_out_of_reach),
    ("a_lease_that_is_revoked_is_a_function_anew", checks::a_lease_that_is_revoked_is_a_function_anew),
];

/// The one for a root VM that has only a part of the core.
const STORM: &[Named] = &[(
    "a_storm_of_interrupts_costs_a_neighbour_one_nmi_in_a_wait",
    flood::a_storm_of_interrupts_costs_a_neighbour_one_nmi_in_a_wait,
)];

fn main() -> ! {
    let mut root = Root::new().unwrap_or_else(|fault| panic!("no root: {fault:?}"));
    let reason = run(&mut root).err().unwrap_or_default();
    root.record(&Record::End { t: 0, status: u8::from(!reason.is_empty()), reason: reason.clone() });
    root.exit(if reason.is_empty() { 0x10 } else { 0x11 })
}

fn run(root: &mut Root) -> Check {
    let count = word(ROOT_BOOT_INFO, boot_info::FUNCTIONS) as u16;
    root.text(&format!("devices: {count} functions\n"));
    if option("expect") == "none" {
        return if count == 0 { Ok(()) } else { Err(format!("{count} functions are handed out")) };
    }
    let nic = guests::card::find().ok_or("there is no 82576")?;
    let mut bench = Bench::new(root, nic).map_err(refused("the functions are set up"))?;
    faults::name_handlers(&mut bench).map_err(refused("the handlers are named"))?;
    if option("forge") == "init" {
        return forged::an_init_in_compatibility_format(&mut bench);
    }
    let checks: &[Named] = if option("storm") == "interrupts" { STORM } else { CHECKS };
    let mut failed = 0;
    for (name, check) in checks {
        let result = check(&mut bench);
        let line = match &result {
            Ok(()) => format!("devices {name}: ok\n"),
            Err(why) => format!("devices {name}: FAILED: {why}\n"),
        };
        bench.root.text(&line);
        failed += u32::from(result.is_err());
    }
    if failed == 0 { Ok(()) } else { Err(format!("{failed} checks failed")) }
}

/// A refused invocation as the reason for which something is not so.
fn refused(what: &'static str) -> impl Fn(Fault) -> String {
    move |fault| format!("{what}: {fault:?}")
}
