//! A root VM that dies twice, by a triple fault and by a nested fault without an upcall, and finds itself as the kernel
//! promises: the image and its memory as at the first start, its CSpace as it left it, a count in `BootInfo`. A child VM
//! runs through all of it and must have its CPU time.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use cap_spec::abi::{Error, ROOT_BOOT_INFO, Rights, boot_info};
use core::sync::atomic::{AtomicU64, Ordering};
use guests::children::{self, at};
use guests::instructions::triple_fault;
use guests::memory::fault_without_upcall;
use guests::root::{Root, WINDOW, tsc, word};
use proto::host::Record;
use userlib::cap::{Fault, Frame, Slot, own};

userlib::entry!(main);

/// Slot in which the page that is shared with the child survives, far above those that a start uses.
const KEPT: u16 = 4000;
/// Where a later start sees it: the last page of the window, whose table survives too.
const SEEN: u64 = WINDOW + 511 * 4096;
/// A word of the image that every start changes.
static INITIALISED: AtomicU64 = AtomicU64::new(7);
/// A word of the memory behind the image, likewise.
static ZERO: AtomicU64 = AtomicU64::new(0);

fn main() -> ! {
    let restarts = word(ROOT_BOOT_INFO, boot_info::RESTARTS);
    let outcome = if restarts == 0 { begin().map_err(|fault| format!("{fault:?}")) } else { look(restarts) };
    match (restarts, outcome) {
        (0, Ok(())) => triple_fault(),
        (1, Ok(())) => fault_without_upcall(),
        (_, outcome) => finish(restarts, outcome.err().unwrap_or_default()),
    }
}

/// The first start: a child that watches its CPU time on the last core, and a capability that must survive.
fn begin() -> Result<(), Fault> {
    let mut root = Root::new()?;
    let (page, address) = root.shared_page()?;
    let period = root.tsc_hz / 100;
    let core = (root.cores - 1) as u16;
    let child = root.child(children::periods(), 1, &[page], core, period * 3 / 10, period)?;
    for (offset, value) in [(at::PERIOD, period), (at::BUDGET, period * 3 / 10), (at::GAP, period / 50)] {
        // SAFETY: the page is mapped there, and nobody refers to it.
        unsafe { core::ptr::with_exposed_provenance_mut::<u64>(address as usize + offset).write_volatile(value) };
    }
    Slot::root(KEPT).copy(page, Rights::READ)?;
    root.launch(&child)?;
    spoil();
    sleep(root.tsc_hz / 20);
    Ok(())
}

fn spoil() {
    INITIALISED.store(99, Ordering::Relaxed);
    ZERO.store(99, Ordering::Relaxed);
}

fn sleep(ticks: u64) {
    let _ = own::VCPU.wait(1 << 63, tsc() + ticks);
}

/// A later start: memory is as at the first one, the capability is where it was, and the child has gone on.
fn look(restarts: u64) -> Result<(), String> {
    let fresh = (INITIALISED.load(Ordering::Relaxed), ZERO.load(Ordering::Relaxed));
    if fresh != (7, 0) {
        return Err(format!("start {restarts} finds {fresh:?} in its memory"));
    }
    spoil();
    let frame = Slot::root(KEPT).cap::<Frame>();
    match frame.map(own::VM, SEEN, Rights::READ) {
        // The start before has mapped it already.
        Ok(()) | Err(Fault { error: Error::InUse, .. }) => {}
        Err(fault) => return Err(format!("start {restarts}: the kept capability: {fault:?}")),
    }
    let tsc_hz = word(ROOT_BOOT_INFO, boot_info::TSC_HZ);
    let before = word(SEEN, at::PERIODS);
    sleep(tsc_hz / 10);
    let (periods, short) = (word(SEEN, at::PERIODS), word(SEEN, at::SHORT));
    if before < 3 * restarts || periods < before + 9 {
        return Err(format!("start {restarts}: the child has seen {before} periods, then {periods}"));
    }
    if short > tsc_hz / 50_000 {
        return Err(format!("start {restarts}: the child came up {short} ticks short"));
    }
    Ok(())
}

/// Takes everything back that an earlier start left, so that there are slots to report with, and reports.
fn finish(restarts: u64, mut reason: String) -> ! {
    for index in word(ROOT_BOOT_INFO, boot_info::FIRST_FREE) as u16..=KEPT {
        match Slot::root(index).delete() {
            Ok(()) | Err(Fault { error: Error::SlotEmpty, .. }) => {}
            Err(fault) => reason = format!("slot {index} is not given back: {fault:?}; {reason}"),
        }
    }
    let root = Root::new().unwrap_or_else(|fault| panic!("no root: {fault:?}"));
    root.text(&format!("restart: {restarts} restarts, {}\n", if reason.is_empty() { "ok" } else { &reason }));
    let good = reason.is_empty();
    root.record(&Record::End { t: 0, status: u8::from(!good), reason });
    root.exit(if good { 0x10 } else { 0x11 })
}
