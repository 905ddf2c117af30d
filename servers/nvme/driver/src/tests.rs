//! Administration of a controller that says anything: every call ends, in bounded time, with an answer.

use crate::controller::{AdminMemory, Controller, Error};
use crate::registers as reg;
use crate::{QueueRequest, Resource};
use device::fake::{FakeClock, FakeMemory, FakeRegisters, random};
use device::{Clock, DmaMemory, IoAddress, Registers};
use std::cell::RefCell;

/// Memory for as long as the test program runs, so that a controller's rule can write it.
fn page() -> &'static FakeMemory {
    Box::leak(Box::new(FakeMemory::new(512)))
}

fn memory() -> AdminMemory<&'static FakeMemory> {
    AdminMemory { submission: page(), completion: page(), data: page() }
}

#[test]
fn whatever_a_controller_says_each_call_ends() {
    let (mut enabled, mut done) = (0, 0);
    for seed in 1..200 {
        let mut random = random(seed);
        let registers = FakeRegisters::default();
        let memory = memory();
        let (submission, completion, data) = (memory.submission, memory.completion, memory.data);
        let mut head = 0u32;
        registers.set_rule(move |offset| {
            if offset != reg::CSTS {
                return (offset != reg::CAP_HIGH).then(|| random(1 << 32) as u32);
            }
            // Each look at the status, it may write something anywhere, or a completion that could be right.
            match random(4) {
                0 => [completion, data][random(2) as usize].store(random(600) as usize, random(u64::MAX)),
                1 => {
                    let identifier = submission.load(8 * (head as usize % 64)) >> 16 & 0xffff;
                    let phase = u64::from(head & 64 == 0);
                    let status = if random(3) == 0 { random(1 << 15) << 49 } else { 0 };
                    let read = u64::from((head + 1) % 64);
                    let word = read | identifier << 32 | phase << 48 | status;
                    completion.store(2 * (head as usize % 64) + 1, word);
                    head += 1;
                }
                _ => {}
            }
            Some(random(1 << 32) as u32 & if random(30) == 0 { 3 } else { 1 })
        });
        let clock = FakeClock::default();
        let Ok(mut controller) = Controller::enable(&registers, memory, clock) else { continue };
        enabled += 1;
        done += u32::from(controller.identity().is_ok());
        done += u32::from(controller.namespace(1).is_ok());
        done += u32::from(controller.next_namespace(0).is_ok());
        for place in [0, 1, 126, 127, usize::MAX] {
            done += u32::from(controller.secondary(place).is_ok());
        }
        done += u32::from(controller.assign(1, Resource::Queues, 2).is_ok());
        done += u32::from(controller.attach(1, 1).is_ok());
        let (submission, completion) = (IoAddress(0x1000), IoAddress(0x2000));
        let request = QueueRequest { number: 1, entries: 64, submission, completion, vector: Some(0) };
        done += u32::from(controller.create_queues(&request).is_ok());
        controller.hand_over();
    }
    assert!(enabled > 20 && done > 20, "the test must see some: {enabled}, {done}");
}

#[test]
fn a_completion_queue_without_its_submission_queue_is_deleted() {
    let registers = FakeRegisters::default();
    let memory = memory();
    let (submission, completion) = (memory.submission, memory.completion);
    let seen: &'static RefCell<Vec<u8>> = Box::leak(Box::default());
    let mut looks = 0;
    registers.set_rule(move |offset| match offset {
        reg::CAP => Some(u32::MAX),
        reg::CSTS => {
            looks += 1;
            let head = seen.borrow().len();
            let command = submission.load(8 * head);
            if looks > 2 && command != 0 {
                // Of the commands of this test, the second one is refused: Create I/O Submission Queue.
                let status = u64::from(head == 1);
                let read = head as u64 + 1;
                let word = read | (command >> 16 & 0xffff) << 32 | 1 << 48 | status << 49;
                completion.store(2 * head + 1, word);
                seen.borrow_mut().push(command as u8);
            }
            Some(u32::from(looks > 1))
        }
        _ => None,
    });
    let mut controller = Controller::enable(&registers, memory, FakeClock::default()).unwrap();
    let (submission, completion) = (IoAddress(0x1000), IoAddress(0x2000));
    let request = QueueRequest { number: 1, entries: 64, submission, completion, vector: Some(0) };
    assert!(matches!(controller.create_queues(&request), Err(Error::Refused(_))));
    assert_eq!(*seen.borrow(), [0x05, 0x01, 0x04], "made, refused, deleted");
}

#[test]
fn a_command_that_does_not_end_is_given_up() {
    let registers = FakeRegisters::default();
    // Ready when it is to be, and nothing else.
    let mut looks = 0;
    registers.set_rule(move |offset| {
        (offset == reg::CSTS).then(|| {
            looks += 1;
            u32::from(looks > 1)
        })
    });
    let clock = FakeClock::default();
    let mut controller = Controller::enable(&registers, memory(), &clock).unwrap();
    let start_ns = clock.now_ns();
    assert_eq!(controller.identity(), Err(Error::TimedOut));
    let waited_ns = clock.now_ns() - start_ns;
    assert!((10_000_000_000..11_000_000_000).contains(&waited_ns), "{waited_ns}");
}

/// It takes half of the time for each command, and would end all of them.
#[test]
fn who_is_slow_on_purpose_has_one_time_for_all_commands() {
    let registers = FakeRegisters::default();
    let memory = memory();
    let (submission, completion) = (memory.submission, memory.completion);
    let (mut looks, mut done) = (0u32, 0usize);
    registers.set_rule(move |offset| {
        (offset == reg::CSTS).then(|| {
            looks += 1;
            if looks > 2 && looks % 30 == 0 {
                let word = (done as u64 + 1) | (submission.load(8 * done) >> 16 & 0xffff) << 32 | 1 << 48;
                completion.store(2 * done + 1, word);
                done += 1;
            }
            u32::from(looks > 1)
        })
    });
    let clock = FakeClock::default();
    let mut controller = Controller::enable_within(&registers, memory, &clock, 1_000_000_000).unwrap();
    let ended = (0..60).take_while(|_| controller.identity().is_ok()).count();
    assert!((1..10).contains(&ended), "{ended}");
    assert_eq!(controller.identity(), Err(Error::TimedOut));
    assert!((1_000_000_000..1_050_000_000).contains(&clock.now_ns()), "{}", clock.now_ns());
}

#[test]
fn a_controller_that_does_not_become_ready_is_given_up_after_its_own_time() {
    let registers = FakeRegisters::default();
    registers.set(reg::CAP, 4 << reg::CAP_TO_SHIFT);
    let clock = FakeClock::default();
    assert_eq!(Controller::enable(&registers, memory(), &clock).err(), Some(Error::NotReady));
    assert!((2_000_000_000..2_100_000_000).contains(&clock.now_ns()));
}

#[test]
fn a_handed_over_ring_holds_harmless_commands_only() {
    let registers = FakeRegisters::default();
    let mut looks = 0;
    registers.set_rule(move |offset| {
        (offset == reg::CSTS).then(|| {
            looks += 1;
            u32::from(looks > 1)
        })
    });
    let controller = Controller::enable(&registers, memory(), FakeClock::default()).unwrap();
    assert_eq!(registers.read32(reg::AQA), 63 | 63 << 16, "the ring is the whole page");
    let (_, memory) = controller.hand_over();
    for entry in 0..64 {
        let command: Vec<u64> = (8 * entry..8 * entry + 8).map(|word| memory.submission.load(word)).collect();
        assert_eq!(command, [(entry as u64) << 16 | 0x0a, 0, 0, 0, 0, 1, 0, 0], "Get Features, of arbitration");
    }
}
