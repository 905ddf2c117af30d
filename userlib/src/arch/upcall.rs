//! Fault upcalls: what happens when memory is used that is not there any more.
//!
//! A nested page fault comes as an injected vector, once; while the busy word is set a further one stops the VM. Three
//! kinds of memory can go away while the image goes on:
//! - a ring page: a page of zeros takes its place and the connection is noted as lost;
//! - leased memory used through [`crate::pager`]'s copies: the copy ends early and says so;
//! - anything else is the image's own mistake, or the loss of what it can't live without: it is told and stopped.

use core::sync::atomic::{AtomicU64, Ordering};

use cap_spec::abi::info_page;

use super::traps::is_repeated;
use super::{TrapFrame, set_handler, start};
use crate::cap::own;
use crate::events::info;
use crate::shared::Words;

/// Vector of fault upcalls.
pub const FAULT_VECTOR: u8 = 0xf0;

/// Asks the kernel for upcalls. Called once, at start-up.
pub fn install() {
    set_handler(FAULT_VECTOR, Some(on_fault));
    // Refused only where nobody has given this VM its own Vcpu; then a fault stops it at once.
    let _ = own::VCPU.set_upcall(FAULT_VECTOR, 0);
}

/// The kernel's count of upcalls when the last one was taken.
static TAKEN: AtomicU64 = AtomicU64::new(0);

fn on_fault(frame: &mut TrapFrame) {
    // Interrupts can be spurious, upcalls too: one that tells of nothing new is borne. What one in the middle of another
    // tells of is the other's to handle, at the place that it has interrupted.
    if is_repeated(frame) {
        return;
    }
    let count = info().load(info_page::FAULT_COUNT / 8, Ordering::Relaxed);
    if TAKEN.swap(count, Ordering::Relaxed) == count {
        return;
    }
    let gpa = info().load(info_page::FAULT_GPA / 8, Ordering::Relaxed);
    if crate::channel::is_ring_page(gpa) {
        crate::channel::page_lost(gpa);
        start::replace_low_page(gpa & !0xfff);
    } else if let Some(resume) = super::copy::resume_after_fault(frame.rip) {
        frame.rip = resume;
    } else {
        let access = info().load(info_page::FAULT_ACCESS / 8, Ordering::Relaxed);
        // The busy word stays set, so that the same access, made again, stops the VM with this fault as the reason.
        crate::end::lost_memory(frame, gpa, access);
    }
    info().store(info_page::UPCALL_BUSY / 8, 0, Ordering::Release);
}
