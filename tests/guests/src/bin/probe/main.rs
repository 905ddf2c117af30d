//! The probe: a root image that checks what only whole machines show, one check after the other, and reports each on a
//! line of its own: `probe NAME: ok` or `probe NAME: FAILED: why`. With `check=NAME` on the kernel command line, that one
//! alone; some are made only so, as they want a machine whose cores run side by side.
#![no_std]
#![no_main]

extern crate alloc;

mod counters;
mod exhaustion;
mod isolation;
mod keeping;
mod market;
mod racing;
mod registers;
mod switching;
mod time;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use cap_spec::abi::slots;
use guests::interrupted;
use guests::root::{Child, Root, option, set_word, tsc, word};
use guests::switched::{self, at};
use proto::host::Record;
use userlib::cap::{Cap, CpuTime, Fault, Slot, Untyped, Vcpu, own};

userlib::entry!(main);

/// What went wrong in a check.
type Check = Result<(), String>;

/// A check by its name.
type Named = (&'static str, fn(&mut Root) -> Check);

const CHECKS: &[Named] = &[
    ("general_registers_are_switched", |root| switching::row(root, switched::general_registers())),
    ("vector_registers_are_switched", |root| switching::row(root, switched::vector_registers())),
    ("control_words_are_switched", |root| switching::row(root, switched::control_words())),
    ("protection_keys_are_switched", |root| switching::row(root, switched::protection_keys())),
    ("extended_control_is_switched", |root| switching::row(root, switched::extended_control())),
    ("debug_registers_are_switched", |root| switching::row(root, switched::debug_registers())),
    ("tsc_aux_is_switched", |root| switching::row(root, switched::tsc_aux())),
    ("task_priority_is_switched", |root| switching::row(root, switched::task_priority())),
    ("hidden_state_is_switched", |root| switching::row(root, switched::hidden_state())),
    ("timers_are_switched", switching::timers_are_switched),
    ("interrupts_in_service_block_nobody_else", switching::interrupts_in_service_block_nobody_else),
    ("requested_interrupts_are_kept", switching::requested_interrupts_are_kept),
    ("dead_vms_state_reaches_nobody", switching::dead_vms_state_reaches_nobody),
    ("cut_off_events_are_injected_again", switching::cut_off_events_are_injected_again),
    ("cpu_time_is_delivered", time::cpu_time_is_delivered),
    ("budget_is_also_the_most", time::budget_is_also_the_most),
    ("whole_core_is_tickless", time::whole_core_is_tickless),
    ("halted_whole_core_wakes_with_no_exit", time::halted_whole_core_wakes_with_no_exit),
    ("idle_cores_execute_nothing", time::idle_cores_execute_nothing),
    ("statistics_count_what_is_done", counters::statistics_count_what_is_done),
    ("spinner_is_taken_back", isolation::spinner_is_taken_back),
    ("shootdown_reaches_a_running_core", isolation::shootdown_reaches_a_running_core),
    ("control_registers_one_by_one", |root| time::beside_a_victim(root, registers::control_registers_one_by_one)),
    ("top_page_tables_anywhere", |root| time::beside_a_victim(root, registers::top_page_tables_anywhere)),
    ("races_of_two_cores", |root| time::beside_a_victim(root, racing::races_of_two_cores)),
    ("random_races_of_two_cores", |root| time::beside_a_victim(root, racing::random_races_of_two_cores)),
    ("hostile_market", |root| time::beside_a_victim(root, market::hostile_market)),
    ("exhaustion_ends_in_refusals", |root| time::beside_a_victim(root, exhaustion::exhaustion_ends_in_refusals)),
    ("ring_goes_under_its_user", |root| time::beside_a_victim(root, isolation::ring_goes_under_its_user)),
    ("stopped_vm_is_reported", isolation::stopped_vm_is_reported),
];

/// Checks that are made only when they are asked for.
const ON_DEMAND: &[Named] = &[("races_for_real", racing::races_for_real)];

fn main() -> ! {
    let mut root = Root::new().unwrap_or_else(|fault| panic!("no root: {fault:?}"));
    let mut failed = 0;
    let only = option("check");
    let asked_for = ON_DEMAND.iter().filter(|(name, _)| *name == only);
    for (name, check) in CHECKS.iter().filter(|(name, _)| only.is_empty() || *name == only).chain(asked_for) {
        let mark = root.mark();
        match check(&mut root) {
            Ok(()) => root.text(&format!("probe {name}: ok\n")),
            Err(why) => {
                failed += 1;
                // What it leaves does not spoil the next one.
                let _ = root.return_to(mark);
                root.text(&format!("probe {name}: FAILED: {why}\n"));
            }
        }
    }
    let reason = if failed == 0 { String::new() } else { format!("{failed} checks failed") };
    root.record(&Record::End { t: 0, status: u8::from(failed != 0), reason });
    root.exit(if failed == 0 { 0x10 } else { 0x11 })
}

/// Ticks of a span in microseconds.
fn micros(root: &Root, micros: u64) -> u64 {
    root.tsc_hz * micros / 1_000_000
}

/// Sleeps without an event.
fn sleep(root: &Root, micros_to_sleep: u64) {
    let _ = own::VCPU.wait(1 << 63, tsc() + micros(root, micros_to_sleep));
}

fn told(what: &'static str) -> impl Fn(Fault) -> String {
    move |fault| format!("{what}: {fault:?}")
}

/// Takes everything of a child back, so that the next check has its time.
fn end(child: &Child) -> Check {
    child.time.delete().map_err(told("time"))?;
    child.block.revoke().map_err(told("block"))
}

/// Code for a child, and what its shared page says to it.
type Setup<'a> = (&'a [u8], &'a [(usize, u64)]);

/// Children side by side on the last core, each with a page of its own that the root VM sees, for a quarter of the time.
fn side_by_side(root: &mut Root, setups: &[Setup<'_>]) -> Result<(Vec<Child>, Vec<u64>), String> {
    let (mut children, mut pages) = (Vec::new(), Vec::new());
    let core = last_core(root);
    let (budget, period) = (micros(root, 500), micros(root, PERIOD_MICROS));
    for &(code, words) in setups {
        let (page, address) = root.shared_page().map_err(told("page"))?;
        words.iter().for_each(|&(offset, value)| set_word(address, offset, value));
        let child = root.child(code, 2, &[page], core, budget, period).map_err(told("child"))?;
        root.launch(&child).map_err(told("launch"))?;
        children.push(child);
        pages.push(address);
    }
    Ok((children, pages))
}

/// Period of the children of [`side_by_side`].
const PERIOD_MICROS: u64 = 2_000;

/// The root VM's neighbours are on another core if there is one.
fn last_core(root: &Root) -> u16 {
    (root.cores - 1) as u16
}

/// A child has made at least so many rounds and found nothing wrong.
fn expect_rounds(page: u64, least: u64) -> Check {
    let (rounds, wrong) = (word(page, at::ROUNDS), word(page, at::WRONG));
    if wrong != 0 {
        return Err(format!("comparison {wrong} failed after {rounds} rounds"));
    }
    if rounds < least { Err(format!("only {rounds} rounds")) } else { Ok(()) }
}

/// Makes a second Vcpu of a child that starts at the same code, on core 0.
fn second_vcpu(root: &mut Root, child: &Child, budget: u64, period: u64) -> Result<(Cap<Vcpu>, Cap<CpuTime>), String> {
    let node = child.cnode.slot().index();
    let base: Cap<Untyped> = Slot::in_node(node, slots::BASE).cap();
    let second: Cap<Vcpu> =
        base.retype(0, Slot::in_node(node, interrupted::SECOND_VCPU_SLOT)).map_err(told("second Vcpu"))?;
    let code = guests::root::CHILD_CODE;
    second.attach(child.vm, code, 0x1000, code + 0x1800).map_err(told("attach"))?;
    let time: Cap<CpuTime> = root.core_time(0).split(budget, period, root.slot()).map_err(told("time"))?;
    second.bind_time(time).map_err(told("bind"))?;
    Ok((second, time))
}
