//! What the functions of an application's own have in common, whatever they are: memory that both reach, and interrupts.
//!
//! Interrupts are only counted. There is one count for all devices: who sleeps here is woken by any, and looks after all of its
//! devices before it sleeps again.

use core::sync::atomic::{AtomicU64, Ordering};

use device::IoAddress;

use crate::app::App;
use crate::arch::{self, TrapFrame};
use crate::cap::{Cap, Frame, IommuDomain, PageTable, Rights, own};
use crate::clock;
use crate::dma::MappedMemory;
use crate::error::Error;
use crate::pager::Pager;
use crate::{events, market};

const BOTH: Rights = Rights::READ.union(Rights::WRITE);

/// Interrupts of devices so far; wraps.
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);

/// Those that were looked at.
static SEEN: AtomicU64 = AtomicU64::new(0);

/// Interrupts of the own devices that were taken so far.
pub(crate) fn interrupts() -> u64 {
    INTERRUPTS.load(Ordering::Relaxed)
}

/// Whether a device has interrupted since this was looked at.
fn has_interrupted() -> bool {
    interrupts() != SEEN.load(Ordering::Relaxed)
}

/// The same; then it is looked at.
fn look() -> bool {
    let now = interrupts();
    SEEN.swap(now, Ordering::Relaxed) != now
}

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
    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
    arch::end_of_interrupt();
}

/// Has this vector's interrupts counted.
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

    /// As [`App::wait_for_devices`], but halts on the core, which stays this VM's and is charged. What happens in the market is
    /// heard of when the core was taken and comes again, which is once in a period; the deadline is seen a period late at most.
    /// It may also end for nothing. No exit unless a lease has arrived.
    ///
    /// # Errors
    /// When the market is gone.
    pub fn halt_for_devices(&mut self, deadline: u64) -> Result<Option<market::Event>, Error> {
        let event = self.poll()?;
        if event.is_some() {
            return Ok(event);
        }
        halt_before(deadline);
        Ok(self.poll()?)
    }
}

/// Gives the core up until a device has interrupted, if none has since the last call, something has happened in the market,
/// which is returned, or the TSC has reached `deadline` (0: never).
///
/// # Errors
/// When the market is gone.
pub(crate) fn wait(app: &mut App, deadline: u64) -> Result<Option<market::Event>, Error> {
    let event = app.market().wait_unless(earlier(deadline), has_interrupted)?;
    app.note(&event);
    if !arch::interrupts_enabled() {
        // Takes what ended the sleep; the instruction after the enabling one is still without.
        arch::enable_interrupts();
        core::hint::spin_loop();
        arch::disable_interrupts();
    }
    look();
    Ok(event)
}

/// Keeps the core, with interrupts, until a device has interrupted, if none has since the last call, or the TSC has reached
/// `end`. To set the timer of a core that is shared would be an exit, and who halts is charged like who does not.
fn spin_until(end: u64) {
    let enabled = arch::interrupts_enabled();
    arch::enable_interrupts();
    while !has_interrupted() && clock::now() < end {
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
        look();
    } else {
        halt_once();
    }
}

/// Halts likewise, but not past `deadline` (0: never), and for no longer than until the core was taken and comes again, or for
/// a period. What ends a halt for sure, without an exit, is the end of the budget; where that comes too late, or never, as the
/// whole core is this VM's, it looks at the clock instead.
fn halt_before(deadline: u64) {
    let share = events::cpu_share();
    let period_ends = clock::now().saturating_add(share.period_ticks);
    let deadline = earlier(deadline);
    let is_far = deadline == 0 || deadline > period_ends;
    if is_far && share.budget_ticks < share.period_ticks {
        halt_once();
    } else {
        spin_until(if is_far { period_ends } else { deadline });
        look();
    }
}

/// Halts until anything interrupts, unless a device has since the last look.
fn halt_once() {
    let enabled = arch::interrupts_enabled();
    arch::disable_interrupts();
    if !has_interrupted() {
        arch::halt();
    }
    look();
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
        return look();
    }
    let enabled = arch::interrupts_enabled();
    arch::disable_interrupts();
    while !has_interrupted() && (deadline == 0 || clock::now() < deadline) {
        arch::halt();
    }
    if enabled {
        arch::enable_interrupts();
    }
    look()
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
