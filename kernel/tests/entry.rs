//! The decisions of an entry and an exit on the host: the two files of the back end that hold them, unchanged.
#![allow(dead_code, missing_docs)]

#[path = "../src/arch/svm/entry.rs"]
mod entry;
#[path = "../src/arch/svm/vmcb.rs"]
mod vmcb;

use entry::{Carried, address_space, inject, inject_cut_off, inject_upcall, left, skip_call};
use kernel::asid::{Allocator, Entry, Tag};
use kernel::protocol::pending::Pending;
use vmcb::{Clean, Control, EVENT_ERROR, EVENT_EXCEPTION, EVENT_VALID, FLUSH_ALL, REFUSED, Vmcb};

/// A block that has been entered with this number, and has not changed since.
fn entered(asid: u32) -> Control {
    Control { guest_asid: asid, clean: Clean::all(), ..Control::default() }
}

#[test]
fn a_new_number_is_no_longer_clean_and_nothing_else_is_written() {
    let (mut control, mut carried) = (entered(5), Carried::default());
    address_space(&mut control, &mut carried, Entry { asid: 5, flush_all: false });
    assert_eq!(control.clean, Clean::all(), "the number is the same");
    address_space(&mut control, &mut carried, Entry { asid: 6, flush_all: false });
    assert_eq!((control.guest_asid, control.clean), (6, Clean::all().difference(Clean::ASID)));
    assert_eq!(control.tlb_control, 0);
    assert!(!carried.is_some());
}

#[test]
fn a_flush_goes_with_one_entry_and_is_told_once() {
    let (mut control, mut carried) = (entered(5), Carried::default());
    let flush = Entry { asid: 1, flush_all: true };
    address_space(&mut control, &mut carried, flush);
    assert_eq!(control.tlb_control, FLUSH_ALL);
    assert!(!left(&mut control, &mut carried, &mut Pending::default(), Clean::all()));
    assert_eq!(control.tlb_control, 0, "the next entry flushes nothing");
    assert_eq!((carried.take(), carried.take()), (Some(flush), None));
}

#[test]
fn an_entry_that_is_given_up_keeps_its_flush() {
    let (mut control, mut carried) = (entered(5), Carried::default());
    let (mut numbers, mut tag) = (Allocator::new(16), Tag::NONE);
    // The core decides, and decides anew before it enters: the flush is still due, and the block still asks for it.
    for _ in 0..2 {
        let next = numbers.enter(&mut tag, 0);
        assert!(next.flush_all);
        address_space(&mut control, &mut carried, next);
    }
    assert_eq!(control.tlb_control, FLUSH_ALL);
    left(&mut control, &mut carried, &mut Pending::default(), Clean::all());
    numbers.entered(carried.take().expect("the flush was carried out"));
    assert!(!numbers.enter(&mut tag, 0).flush_all);
}

#[test]
fn numbers_that_ran_out_are_used_again_with_a_flush_only() {
    let mut numbers = Allocator::new(4);
    let mut blocks: Vec<(Control, Tag)> = (0..6).map(|_| (Control::default(), Tag::NONE)).collect();
    let mut used = Vec::new();
    for (control, tag) in &mut blocks {
        let mut carried = Carried::default();
        address_space(control, &mut carried, numbers.enter(tag, 0));
        if control.tlb_control == FLUSH_ALL {
            used.clear();
        }
        assert!(!used.contains(&control.guest_asid), "{} is in use", control.guest_asid);
        used.push(control.guest_asid);
        left(control, &mut carried, &mut Pending::default(), Clean::all());
        if let Some(entry) = carried.take() {
            numbers.entered(entry);
        }
    }
}

/// What is injected at the next entry after an exit during the delivery of this event.
fn injected_after(event: u64) -> u64 {
    let (mut control, mut pending) = (entered(5), Pending::NONE);
    control.exit_int_info = event;
    let owed = left(&mut control, &mut Carried::default(), &mut pending, Clean::all());
    assert_eq!(owed, pending.is_delivering());
    inject_cut_off(&mut control, &mut pending);
    let injected = std::mem::take(&mut control.event_inj);
    inject_cut_off(&mut control, &mut pending);
    assert_eq!(control.event_inj, 0, "once");
    injected
}

#[test]
fn an_event_that_was_cut_off_is_injected_again() {
    let page_fault = EVENT_VALID | EVENT_EXCEPTION | EVENT_ERROR | 14 | 2 << 32;
    assert_eq!(injected_after(page_fault), page_fault, "with its error code");
    assert_eq!(injected_after(EVENT_VALID | 0x50), EVENT_VALID | 0x50);
    assert_eq!(injected_after(0x50), 0, "it was not valid");
}

#[test]
fn an_interrupt_is_an_external_one_whatever_type_was_written() {
    assert_eq!(injected_after(EVENT_VALID | EVENT_EXCEPTION | 0x50), EVENT_VALID | 0x50);
}

#[test]
fn instructions_that_raise_an_event_are_executed_again_and_not_injected() {
    let software = 4 << 8;
    for event in [EVENT_VALID | software | 0x80, EVENT_VALID | EVENT_EXCEPTION | 3, EVENT_VALID | EVENT_EXCEPTION | 4] {
        assert_eq!(injected_after(event), 0, "{event:#x}");
        let mut control = Control { exit_int_info: event, ..entered(5) };
        left(&mut control, &mut Carried::default(), &mut Pending::default(), Clean::all());
        assert_eq!(control.exit_int_info, 0, "a fault then is no fault during delivery");
    }
}

#[test]
fn what_the_processor_may_take_as_unchanged_is_what_it_supports() {
    let mut control = entered(5);
    left(&mut control, &mut Carried::default(), &mut Pending::default(), Clean::empty());
    assert_eq!(control.clean, Clean::empty());
}

#[test]
fn an_upcall_is_an_external_interrupt() {
    let mut control = entered(5);
    inject_upcall(&mut control, 0x50);
    assert_eq!(control.event_inj, EVENT_VALID | 0x50);
}

#[test]
fn no_entry_after_a_hypercall_or_with_an_event_has_an_interrupt_shadow() {
    let shadowed = || Control { interrupt_shadow: 1, ..entered(5) };
    // SAFETY: a control block is plain numbers, for which zero is a value.
    let mut vmcb: Box<Vmcb> = unsafe { Box::new(std::mem::zeroed()) };
    vmcb.control.interrupt_shadow = 1;
    vmcb.save.rip = 0x1000;
    skip_call(&mut vmcb);
    assert_eq!((vmcb.save.rip, vmcb.control.interrupt_shadow), (0x1003, 0));
    let mut pending = Pending::NONE;
    pending.left(EVENT_VALID | 0x50);
    for deliver in [
        &mut |control: &mut Control| inject(control, EVENT_VALID | EVENT_EXCEPTION | 1),
        &mut |control: &mut Control| inject_upcall(control, 0x50),
        &mut |control: &mut Control| inject_cut_off(control, &mut pending),
    ] as [&mut dyn FnMut(&mut Control); 3]
    {
        let mut control = shadowed();
        deliver(&mut control);
        assert!(control.event_inj & EVENT_VALID != 0);
        assert_eq!(control.interrupt_shadow, 0);
    }
}

/// VMRUN checks the guest's state before it carries out TLB_CONTROL. A guest whose state it refuses, and which had the
/// first number after they ran out, must not make the kernel believe that nothing is cached under the others.
#[test]
fn an_entry_that_was_refused_has_flushed_nothing() {
    let (mut control, mut carried) = (entered(5), Carried::default());
    let (mut numbers, mut refused, mut next) = (Allocator::new(16), Tag::NONE, Tag::NONE);
    address_space(&mut control, &mut carried, numbers.enter(&mut refused, 0));
    control.exit_code = u64::from(REFUSED);
    assert!(!left(&mut control, &mut carried, &mut Pending::default(), Clean::all()));
    assert_eq!(control.clean, Clean::empty(), "what the processor remembers of the block is not known");
    assert_eq!((control.tlb_control, carried.take()), (0, None), "there is nothing to tell");
    // Whoever enters next on this core flushes.
    let mut control = entered(7);
    let entry = numbers.enter(&mut next, 0);
    address_space(&mut control, &mut carried, entry);
    assert_eq!(control.tlb_control, FLUSH_ALL);
    left(&mut control, &mut carried, &mut Pending::default(), Clean::all());
    numbers.entered(carried.take().expect("this one was carried out"));
    assert!(!numbers.enter(&mut next, 0).flush_all);
}
