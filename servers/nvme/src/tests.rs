//! The server without a controller that works: what is asked of it is refused, and it says so. What it does with one is tried
//! on the emulated device, by `tests/e2e/tests/storage.rs`.

use super::*;
use crate::fake::{FakeFunction, Subsystem};
use device::fake::{FakeClock, FakeMemory, FakeRegisters};
use std::boxed::Box;
use std::vec::Vec;

fn page() -> &'static FakeMemory {
    Box::leak(Box::new(FakeMemory::new(512)))
}

fn function(registers: &FakeRegisters) -> Function<&FakeRegisters, &'static FakeMemory> {
    Function { registers, memory: AdminMemory { submission: page(), completion: page(), data: page() } }
}

type Fake<'a> = Server<&'a FakeRegisters, &'static FakeMemory, &'a FakeClock>;

fn server<'a>(registers: &'a FakeRegisters, clock: &'a FakeClock) -> Fake<'a> {
    let io = IoMemory { submission: page(), completion: page(), buffer: page() };
    Server::new(function(registers), io, [function(registers)].into(), clock)
}

fn reports(server: &mut Fake<'_>) -> Vec<FromStorage> {
    core::iter::from_fn(|| server.next_report()).collect()
}

#[test]
fn nothing_is_promised_without_a_controller_that_works() {
    let (registers, clock) = (FakeRegisters::default(), FakeClock::default());
    let mut server = server(&registers, &clock);
    server.take(ToStorage::Prepare { vf: 0, is_new: true, bytes: 4096, per_s: None });
    server.take(ToStorage::Release { vf: 0 });
    let refused = [FromStorage::Impossible { vf: 0 }, FromStorage::Unreleased { vf: 0 }];
    assert_eq!(reports(&mut server), refused, "it has not begun");
    server.take(ToStorage::Begin);
    assert_eq!(reports(&mut server), [FromStorage::Failed]);
    server.take(ToStorage::Prepare { vf: 0, is_new: true, bytes: 4096, per_s: None });
    assert_eq!(reports(&mut server), [FromStorage::Impossible { vf: 0 }]);
}

#[test]
fn holders_hear_that_their_queues_are_gone_if_the_controller_was_not_left_as_it_should_be() {
    let (registers, clock) = (FakeRegisters::default(), FakeClock::default());
    let mut server = server(&registers, &clock);
    server.take(ToStorage::Keep { vf: 0, namespace: 1, per_s: None });
    server.take(ToStorage::Keep { vf: 0, namespace: 2, per_s: None });
    server.take(ToStorage::Keep { vf: 1, namespace: 2, per_s: None });
    assert_eq!(reports(&mut server), [0, 1].map(|vf| FromStorage::Impossible { vf }), "one holder each");
    server.take(ToStorage::Begin);
    assert_eq!(reports(&mut server), [FromStorage::Lost, FromStorage::Failed]);
}

const BLOCKS: usize = 256;
/// Bytes of a namespace of so many blocks, and commands that erase it: it is attached, zeroed, flushed, read in pieces of 8 KiB.
const BYTES: u64 = 512 * BLOCKS as u64;
const STEPS: usize = 3 + BLOCKS / 16 + 1;

type Working<'a> = Server<&'static FakeFunction, &'static FakeMemory, &'a FakeClock>;

/// With a controller that works and has begun.
fn working<'a>(disks: usize, clock: &'a FakeClock) -> (&'static Subsystem, Working<'a>) {
    let (subsystem, functions) = fake::functions(&[BLOCKS].repeat(disks));
    let vfs = functions[1..].iter().map(|function| function.mapped()).collect();
    let mut server = Server::new(functions[0].mapped(), functions[0].io(), vfs, clock);
    server.take(ToStorage::Begin);
    assert_eq!(said(&mut server), [FromStorage::Ready { namespaces: disks as u32 }]);
    (subsystem, server)
}

fn said(server: &mut Working<'_>) -> Vec<FromStorage> {
    core::iter::from_fn(|| server.next_report()).collect()
}

/// Reports up to the time when nothing is to be erased.
fn after_erasing(server: &mut Working<'_>) -> Vec<FromStorage> {
    while server.due_ns() == 0 {
        server.poll();
    }
    server.poll();
    said(server)
}

fn prepared(reports: &[FromStorage]) -> Vec<(u8, u32)> {
    let prepared = |report: &FromStorage| match report {
        FromStorage::Prepared { vf, space } => Some((*vf, space.namespace)),
        _ => None,
    };
    reports.iter().filter_map(prepared).collect()
}

#[test]
fn limits_are_heard_and_in_force_while_a_namespace_is_erased() {
    let clock = FakeClock::default();
    let (subsystem, mut server) = working(2, &clock);
    for vf in [0, 1] {
        server.take(ToStorage::Prepare { vf, is_new: true, bytes: BYTES, per_s: Some(1_000) });
    }
    assert_eq!(prepared(&after_erasing(&mut server)), [(0, 1), (1, 2)]);
    subsystem.disks.borrow_mut()[0].is_written.fill(true);
    server.take(ToStorage::Release { vf: 0 });
    for per_s in 1..10 {
        server.take(ToStorage::Limit { vf: 1, per_s, from_ns: 0 });
        server.poll();
        assert!(said(&mut server).contains(&FromStorage::InForce { vf: 1, per_s: Some(per_s) }));
        assert!(subsystem.disks.borrow()[0].attached.contains(&0) && server.due_ns() == 0, "it is being erased");
    }
    assert_eq!(after_erasing(&mut server), [FromStorage::Released { vf: 0 }]);
    assert!(subsystem.disks.borrow()[0].is_written.iter().all(|is_written| !is_written));
    assert!(subsystem.disks.borrow()[0].attached.is_empty());
}

/// Who gives a namespace back and buys it again owes what it has done beyond its limit; the next holder does not.
#[test]
fn what_is_owed_outlives_a_time_without_a_namespace_but_not_the_holder() {
    let clock = FakeClock::default();
    let (subsystem, mut server) = working(1, &clock);
    let prepare = |is_new| ToStorage::Prepare { vf: 0, is_new, bytes: BYTES, per_s: Some(1_000) };
    let is_open = || subsystem.disks.borrow()[0].attached.contains(&1);
    server.take(prepare(true));
    assert_eq!(prepared(&after_erasing(&mut server)), [(0, 1)]);
    assert!(is_open());
    // An hour's worth, just before it is given back.
    subsystem.disks.borrow_mut()[0].operations += 3_600_000;
    for (is_new, opens) in [(false, false), (false, false), (true, true)] {
        server.take(ToStorage::Release { vf: 0 });
        assert!(after_erasing(&mut server).contains(&FromStorage::Released { vf: 0 }));
        server.take(prepare(is_new));
        assert_eq!(prepared(&said(&mut server)), [(0, 1)]);
        assert_eq!(is_open(), opens, "a new holder: {is_new}");
    }
}

#[test]
fn each_of_several_is_lent_only_after_its_erasing_has_ended() {
    let clock = FakeClock::default();
    let (subsystem, mut server) = working(2, &clock);
    for vf in [0, 1, 2] {
        server.take(ToStorage::Prepare { vf, is_new: true, bytes: BYTES, per_s: None });
    }
    for step in 1..STEPS {
        server.poll();
        assert_eq!(said(&mut server), [], "{step}");
    }
    server.poll();
    assert_eq!(prepared(&said(&mut server)), [(0, 1)]);
    assert_eq!(prepared(&after_erasing(&mut server)), [(1, 2)]);
    for disk in subsystem.disks.borrow_mut().iter_mut() {
        disk.is_written.fill(true);
    }
    // Both are given back at once; who waits gets the first of them, and asks twice.
    server.take(ToStorage::Release { vf: 1 });
    server.take(ToStorage::Release { vf: 0 });
    server.take(ToStorage::Release { vf: 0 });
    let mut reports = Vec::new();
    while server.due_ns() == 0 {
        server.poll();
        for report in said(&mut server) {
            if let FromStorage::Prepared { space, .. } = report {
                let disks = subsystem.disks.borrow();
                let disk = &disks[space.namespace as usize - 1];
                assert!(disk.attached.iter().eq(&[3]) && disk.is_written.iter().all(|is_written| !is_written));
            }
            reports.push(report);
        }
    }
    assert_eq!(prepared(&reports), [(2, 1)]);
    let released = |vf| reports.iter().filter(|report| **report == FromStorage::Released { vf }).count();
    assert_eq!([released(0), released(1)], [1, 1]);
}

#[test]
fn what_is_refused_for_one_holder_is_tried_again_and_keeps_no_other_from_its_limit() {
    // Get Log Page, and Namespace Attachment.
    for opcode in [0x02, 0x15] {
        let clock = FakeClock::default();
        let (subsystem, mut server) = working(2, &clock);
        for vf in [0, 1] {
            server.take(ToStorage::Prepare { vf, is_new: true, bytes: BYTES, per_s: Some(1_000) });
        }
        assert_eq!(prepared(&after_erasing(&mut server)), [(0, 1), (1, 2)]);
        let is_open = |disk: usize| subsystem.disks.borrow()[disk].attached.contains(&(disk as u16 + 1));
        subsystem.disks.borrow_mut().iter_mut().for_each(|disk| disk.operations += 1_000);
        subsystem.refuses.set(Some((opcode, 1)));
        (0..5).for_each(|_| clock.pause());
        server.poll();
        assert_eq!([is_open(0), is_open(1)], [true, false]);
        assert!(server.due_ns() > clock.now_ns(), "it sleeps before it tries again");
        subsystem.refuses.set(None);
        (0..5).for_each(|_| clock.pause());
        server.poll();
        assert_eq!([is_open(0), is_open(1)], [false, false]);
        assert_eq!(said(&mut server), [], "the controller works");
    }
}

/// Its holder has the doorbells, and can keep a VF from answering, at any command.
#[test]
fn a_vf_that_does_not_answer_while_it_is_prepared_ends_nothing_for_others() {
    for (commands, is_fatal) in (0..7).flat_map(|commands| [(commands, false), (commands, true)]) {
        let clock = FakeClock::default();
        let (subsystem, mut server) = working(2, &clock);
        for vf in [0, 1] {
            server.take(ToStorage::Prepare { vf, is_new: true, bytes: BYTES, per_s: Some(1_000) });
        }
        assert_eq!(prepared(&after_erasing(&mut server)), [(0, 1), (1, 2)]);
        server.take(ToStorage::Release { vf: 0 });
        assert!(after_erasing(&mut server).contains(&FromStorage::Released { vf: 0 }));
        subsystem.stuck.set(Some((1, commands, is_fatal)));
        subsystem.disks.borrow_mut()[1].operations += 100_000;
        let start_ns = clock.now_ns();
        server.take(ToStorage::Prepare { vf: 0, is_new: true, bytes: BYTES, per_s: None });
        assert_eq!(said(&mut server), [FromStorage::Impossible { vf: 0 }], "{commands}, {is_fatal}");
        let waited_ns = clock.now_ns() - start_ns;
        assert!(waited_ns < admin::VF_LIMIT_NS + 100_000_000, "{waited_ns}");
        // If there was time the neighbour has been closed meanwhile.
        assert_eq!(subsystem.disks.borrow()[1].attached.contains(&2), is_fatal);
        assert!(subsystem.offline.borrow().contains(&1));
        subsystem.stuck.set(None);
        server.take(ToStorage::Prepare { vf: 0, is_new: true, bytes: BYTES, per_s: None });
        assert_eq!(prepared(&after_erasing(&mut server)), [(0, 1)], "{commands}, {is_fatal}");
    }
}

/// What the PF itself does not do while a VF is waited for is the end, as ever.
#[test]
fn a_pf_that_does_not_answer_while_a_vf_is_prepared_has_failed() {
    let clock = FakeClock::default();
    let (subsystem, mut server) = working(2, &clock);
    server.take(ToStorage::Prepare { vf: 0, is_new: true, bytes: BYTES, per_s: None });
    subsystem.stuck.set(Some((0, 0, false)));
    assert_eq!(after_erasing(&mut server), [FromStorage::Failed]);
    server.take(ToStorage::Prepare { vf: 0, is_new: true, bytes: BYTES, per_s: None });
    assert_eq!(said(&mut server), [FromStorage::Impossible { vf: 0 }]);
}

/// Two holders with a limit, of which the first one's is refused with these operation codes for good; with what it does until
/// the first one is given up.
fn refused_for_good(opcode: u8, clock: &FakeClock) -> (&'static Subsystem, Working<'_>) {
    let (subsystem, mut server) = working(2, clock);
    for vf in [0, 1] {
        server.take(ToStorage::Prepare { vf, is_new: true, bytes: BYTES, per_s: Some(1_000) });
    }
    assert_eq!(prepared(&after_erasing(&mut server)), [(0, 1), (1, 2)]);
    subsystem.disks.borrow_mut().iter_mut().for_each(|disk| disk.operations += 1_000);
    subsystem.refuses.set(Some((opcode, 1)));
    (subsystem, server)
}

/// Polls whenever that is due. Returns what is reported at first, and how often it was polled.
fn poll_to_report(server: &mut Working<'_>, clock: &FakeClock) -> (Vec<FromStorage>, u32) {
    for polls in 1..1_000 {
        while clock.now_ns() < server.due_ns() {
            clock.pause();
        }
        server.poll();
        let reports = said(server);
        if !reports.is_empty() {
            return (reports, polls);
        }
    }
    panic!("nothing is reported");
}

#[test]
fn who_cannot_be_counted_is_taken_offline_and_its_namespace_is_erased_when_it_is_released() {
    // Get Log Page, and Namespace Attachment.
    for opcode in [0x02, 0x15] {
        let clock = FakeClock::default();
        let (subsystem, mut server) = refused_for_good(opcode, &clock);
        let (reports, polls) = poll_to_report(&mut server, &clock);
        assert_eq!(reports, [FromStorage::Uncounted { vf: 0 }, FromStorage::InForce { vf: 0, per_s: None }]);
        assert!(polls >= limits::MOST_REFUSALS, "{polls}");
        assert!(subsystem.offline.borrow().iter().eq(&[1, 3]), "it, and one that has no holder");
        subsystem.refuses.set(None);
        server.take(ToStorage::Release { vf: 0 });
        server.take(ToStorage::Prepare { vf: 0, is_new: true, bytes: BYTES, per_s: Some(1_000) });
        assert_eq!(said(&mut server), [FromStorage::Impossible { vf: 0 }], "not before it is erased");
        assert_eq!(after_erasing(&mut server), [FromStorage::Released { vf: 0 }]);
        server.take(ToStorage::Prepare { vf: 0, is_new: true, bytes: BYTES, per_s: Some(1_000) });
        assert_eq!(prepared(&said(&mut server)), [(0, 1)]);
        assert!(subsystem.offline.borrow().iter().eq(&[3]));
    }
}

/// Refusals that end in between are forgotten.
#[test]
fn who_is_refused_now_and_then_goes_on() {
    let clock = FakeClock::default();
    let (subsystem, mut server) = refused_for_good(0x02, &clock);
    said(&mut server);
    for look in 0..10 * limits::MOST_REFUSALS {
        let refuses = look % limits::MOST_REFUSALS != 0;
        subsystem.refuses.set(refuses.then_some((0x02, 1)));
        while clock.now_ns() < server.due_ns() {
            clock.pause();
        }
        server.poll();
    }
    assert_eq!(said(&mut server), []);
}

/// The controller is switched off, so that the server, when it is started again, resets it.
#[test]
#[should_panic(expected = "can neither be counted nor ended")]
fn who_can_be_neither_counted_nor_ended_ends_all() {
    let clock = FakeClock::default();
    let (subsystem, mut server) = refused_for_good(0x02, &clock);
    for _ in 1..limits::MOST_REFUSALS {
        (0..100).for_each(|_| clock.pause());
        server.poll();
    }
    assert_eq!(said(&mut server), []);
    subsystem.refuses_offline.set(true);
    poll_to_report(&mut server, &clock);
}
