//! What the functions of an application's own have in common, whatever they are: memory that both reach, and interrupts.
//!
//! Interrupts only leave a note that one has come. There is one note for all devices: who sleeps here is woken by any, and
//! looks after all of its devices before it sleeps again.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use device::IoAddress;

use crate::app::App;
use crate::arch::{self, TrapFrame};
use crate::cap::{Cap, Frame, IommuDomain, PageTable, Rights, own};
use crate::clock;
use crate::dma::MappedMemory;
use crate::error::Error;
use crate::market;
use crate::pager::Pager;

const BOTH: Rights = Rights::READ.union(Rights::WRITE);

/// A device has interrupted since this was looked at.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// When a driver has something to do though no device interrupts, by the TSC; 0: never. Who sleeps is woken then.
static REMINDER: AtomicU64 = AtomicU64::new(0);

/// From when on a driver is to be woken.
pub(crate) fn remind(at: Option<u64>) {
    REMINDER.store(at.map_or(0, |at| at.max(1)), Ordering::Relaxed);
}

/// The deadline (0: never) or the reminder, whichever comes first.
fn earlier(deadline: u64) -> u64 {
    match (deadline, REMINDER.load(Ordering::Relaxed)) {
        (0, other) | (other, 0) => other,
        (one, other) => one.min(other),
    }
}

fn interrupted(_: &mut TrapFrame) {
    INTERRUPTED.store(true, Ordering::Relaxed);
    arch::end_of_interrupt();
}

/// Has this vector's interrupts noted.
pub(crate) fn take_vector(vector: u8) {
    arch::set_handler(vector, Some(interrupted));
}

impl App {
    /// As [`App::wait`], but any device of the application's own ends the wait, too.
    ///
    /// # Errors
    /// When the market is gone.
    pub fn wait_for_devices(&mut self, deadline: u64) -> Result<Option<market::Event>, Error> {
        wait(self, deadline)
    }
}

/// Gives the core up until a device has interrupted, if none has since the last call, something has happened in the market,
/// which is returned, or the TSC has reached `deadline` (0: never).
///
/// # Errors
/// When the market is gone.
pub(crate) fn wait(app: &mut App, deadline: u64) -> Result<Option<market::Event>, Error> {
    let event = app.market().wait_unless(earlier(deadline), || INTERRUPTED.load(Ordering::Relaxed))?;
    app.note(&event);
    if !arch::interrupts_enabled() {
        // Takes what ended the sleep; the instruction after the enabling one is still without.
        arch::enable_interrupts();
        core::hint::spin_loop();
        arch::disable_interrupts();
    }
    INTERRUPTED.store(false, Ordering::Relaxed);
    Ok(event)
}

/// Keeps the core, with interrupts, until a device has interrupted, if none has since the last call, or the TSC has reached
/// `end`. To set the timer of a core that is shared would be an exit, and who halts is charged like who does not.
fn spin_until(end: u64) {
    let enabled = arch::interrupts_enabled();
    arch::enable_interrupts();
    while !INTERRUPTED.load(Ordering::Relaxed) && clock::now() < end {
        core::hint::spin_loop();
    }
    if !enabled {
        arch::disable_interrupts();
    }
}

/// Halts on the core, which stays this VM's and is charged, until a device has interrupted, if none has since the last call,
/// or anybody else has, or a driver is to be woken. No exit.
pub(crate) fn halt() {
    let reminder = earlier(0);
    if reminder != 0 {
        spin_until(reminder);
        INTERRUPTED.store(false, Ordering::Relaxed);
        return;
    }
    let enabled = arch::interrupts_enabled();
    arch::disable_interrupts();
    if !INTERRUPTED.load(Ordering::Relaxed) {
        arch::halt();
    }
    INTERRUPTED.store(false, Ordering::Relaxed);
    if enabled {
        arch::enable_interrupts();
    }
}

/// Halts likewise, again and again until a device has interrupted or the TSC has reached `deadline` (0: never), or a driver is
/// to be woken. True if one has interrupted. No exit.
pub(crate) fn watch(deadline: u64) -> bool {
    let first = earlier(deadline);
    if first != deadline {
        spin_until(first);
        return INTERRUPTED.swap(false, Ordering::Relaxed);
    }
    let enabled = arch::interrupts_enabled();
    arch::disable_interrupts();
    while !INTERRUPTED.load(Ordering::Relaxed) && (deadline == 0 || clock::now() < deadline) {
        arch::halt();
    }
    if enabled {
        arch::enable_interrupts();
    }
    INTERRUPTED.swap(false, Ordering::Relaxed)
}

/// Makes the tables of a function's domain for the I/O addresses around this one.
pub(crate) fn make_tables(pager: &mut Pager, domain: Cap<IommuDomain>, io: u64) -> Result<(), Error> {
    for level in [2, 1] {
        pager.make::<PageTable>()?.map_io(domain, io, level)?;
    }
    Ok(())
}

/// Maps pages (1 to 64) of the base for the VM, and for the function from this I/O address on.
pub(crate) fn map_both(
    pager: &mut Pager,
    domain: Cap<IommuDomain>,
    io: u64,
    pages: u16,
) -> Result<MappedMemory, Error> {
    let frames = pager.take_slots(pages)?;
    own::BASE.retype_many::<Frame>(cap_spec::abi::PAGE_BITS, frames, pages)?;
    let gpa = pager.map_frames(frames, pages)?;
    // A capability is mapped in one place: the function has copies.
    let copies = pager.take_slots(pages)?;
    for page in 0..pages {
        copies.after(page).copy(frames.after(page).cap::<Frame>(), BOTH)?;
    }
    copies.cap::<Frame>().map_io(domain, io, BOTH, u64::from(pages).saturating_sub(1))?;
    // SAFETY: it has just been mapped, for this alone, and stays as long as the VM.
    Ok(unsafe { MappedMemory::new(gpa, IoAddress(io), usize::from(pages) * 4096) })
}
