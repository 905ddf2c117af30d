//! What a control block is told before an entry, and what is learnt of it after an exit: decisions alone, without
//! hardware. The core loop runs these lines, and so does the host test `kernel/tests/entry.rs`, unchanged.
//!
//! What is guaranteed: an entry has the number that the kernel chose, and the flush if one is due; only an entry that was
//! executed counts as a flush; no block is believed to be clean where it was written; an event whose delivery an exit cut
//! off is injected at the next entry, once; no entry has an interrupt shadow that holds an NMI back for more than the
//! instruction that made it.

use super::vmcb::{Clean, Control, EVENT_EXCEPTION, EVENT_TYPE, EVENT_VALID, FLUSH_ALL, REFUSED, Vmcb};
use kernel::asid;
use kernel::protocol::pending::Pending;

/// Type of an event: software interrupt. It is executed again, not injected.
const EVENT_SOFTWARE: u64 = 4 << 8;

/// The flush that an entry carries, until the kernel is told that the entry was executed.
#[derive(Debug, Default)]
pub struct Carried(Option<asid::Entry>);

impl Carried {
    /// True if the next entry flushes, or the last one did and nobody was told.
    #[inline(always)]
    pub const fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// The guest was left: what the kernel is to be told.
    #[inline(always)]
    pub const fn take(&mut self) -> Option<asid::Entry> {
        self.0.take()
    }
}

/// Writes the address-space number and the flush for the next entry.
#[inline(always)]
pub fn address_space(control: &mut Control, carried: &mut Carried, entry: asid::Entry) {
    if control.guest_asid != entry.asid {
        control.guest_asid = entry.asid;
        control.clean.remove(Clean::ASID);
    }
    if entry.flush_all {
        control.tlb_control = FLUSH_ALL;
        carried.0 = Some(entry);
    }
}

/// What every exit but a hypercall may leave behind: a flush that was carried out, and an event that was cut off. True if
/// the guest is owed something since. `clean` is all that the processor may take as unchanged.
#[inline(always)]
pub fn left(control: &mut Control, carried: &mut Carried, pending: &mut Pending, clean: Clean) -> bool {
    control.clean = clean;
    control.tlb_control = 0;
    if control.exit_code as u32 == REFUSED {
        // The state is checked before TLB_CONTROL is carried out (AMD64 manual, volume 3, VMRUN): nothing was flushed, so
        // that the flush is still due; and what the processor remembers of the block is unknown.
        carried.0 = None;
        control.clean = Clean::empty();
    }
    let mut event = control.exit_int_info;
    if event & EVENT_VALID == 0 {
        return false;
    }
    // INT3 and INTO are told as exceptions, but are executed again as well: nothing else raises these two.
    let breakpoint = event & EVENT_TYPE == EVENT_EXCEPTION && matches!(event as u8, 3 | 4);
    if event & EVENT_TYPE == EVENT_SOFTWARE || breakpoint {
        control.exit_int_info = 0;
        return false;
    }
    if event as u8 >= 32 {
        // An external interrupt, whatever type an emulator wrote.
        event &= !EVENT_TYPE;
        control.exit_int_info = event;
    }
    pending.left(event);
    true
}

/// Bytes of VMMCALL.
const VMMCALL_LENGTH: u64 = 3;

/// Goes past a hypercall, which ends the interrupt shadow that may have been over it.
#[inline(always)]
pub fn skip_call(vmcb: &mut Vmcb) {
    vmcb.save.rip = vmcb.save.rip.wrapping_add(VMMCALL_LENGTH);
    end_shadow(&mut vmcb.control);
}

/// Ends an interrupt shadow. It may hold back NMIs, too (AMD64 manual, volume 2, 15.5.1 and 15.21.5): instructions that are
/// left and entered again below one would never be interrupted.
#[inline(always)]
pub fn end_shadow(control: &mut Control) {
    control.interrupt_shadow = 0;
}

/// Injects an event at the next entry; as every delivery it ends an interrupt shadow.
#[inline]
pub fn inject(control: &mut Control, event: u64) {
    control.event_inj = event;
    end_shadow(control);
}

/// Injects what was cut off, if anything was.
#[inline]
pub fn inject_cut_off(control: &mut Control, pending: &mut Pending) {
    let event = pending.take_cut_off();
    if event != 0 {
        inject(control, event);
    }
}

/// Injects a vector as an external interrupt, whatever the interrupt flag says.
#[inline]
pub fn inject_upcall(control: &mut Control, vector: u8) {
    inject(control, EVENT_VALID | vector as u64);
}
