//! The administration of an NVMe controller and the queue pairs of applications, against the emulated controller.

use device::{DmaMemory, IoAddress, PAGE_BYTES, Registers};
use device_tests::nvme::{Application, Bench, NAMESPACE_BYTES, admin_memory, pages};
use nvme_admin::{Controller, Error, QueueRequest};
use nvme_queue::{PrpLists, Transfer};
use std::collections::BTreeMap;

/// A page of bytes that no other number has.
fn pattern(number: u64) -> Vec<u8> {
    (0..PAGE_BYTES / 8)
        .flat_map(|word| (number << 32 | word).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect()
}

/// Blocks of a page.
fn page_blocks(application: &Application) -> u64 {
    PAGE_BYTES >> application.namespace.block_shift
}

#[test]
fn controllers_and_namespaces_say_what_they_are() {
    let mut bench = Bench::start();
    let identity = bench.admin.identity().unwrap();
    assert!(identity.max_transfer_bytes >= 4096 && identity.namespaces >= 3, "{identity:?}");
    let first = bench.admin.secondary(0).unwrap().unwrap();
    assert!(first.online && first.vf == 1 && first.queues == 3 && first.vectors == 2, "{first:?}");
    assert_eq!(bench.admin.secondary(2), Ok(None));
    assert_eq!(bench.admin.next_namespace(0), Ok(Some(3)), "the others are the VFs'");
    let namespace = bench.admin.namespace(3).unwrap();
    assert_eq!(namespace.blocks << namespace.block_shift, NAMESPACE_BYTES);
    assert_eq!(bench.admin.namespace(1), Err(Error::Nonsense));
    assert!(matches!(bench.admin.namespace(77), Err(Error::Nonsense | Error::Refused(_))));
}

#[test]
fn two_functions_write_and_read_each_its_own_namespace() {
    let bench = Bench::start();
    let mut applications = [bench.application(0, None), bench.application(1, None)];
    for (application, id) in applications.iter_mut().zip([1, 2]) {
        assert_eq!(application.namespace.id, id);
        let memory = bench.machine.memory(1);
        let data = Transfer::in_pages(&pages(&memory, 1), 0, 4096).unwrap();
        memory.write(0, &pattern(u64::from(id)));
        let block = 5 * page_blocks(application);
        assert!(application.execute(&application.namespace.writes(&data).unwrap().at(block).unwrap()).is_success());
        assert!(application.execute(&application.namespace.flush()).is_success());
    }
    for (application, id) in applications.iter_mut().zip([1u64, 2]) {
        let memory = bench.machine.memory(1);
        let data = Transfer::in_pages(&pages(&memory, 1), 0, 4096).unwrap();
        let block = 5 * page_blocks(application);
        assert!(application.execute(&application.namespace.reads(&data).unwrap().at(block).unwrap()).is_success());
        assert_eq!(memory.read(0, 4096), pattern(id));
        assert_eq!(application.queue.faults(), 0);
        // The medium has it, and has it in the one place only.
        let medium = std::fs::read(bench.machine.folder().join(format!("d{id}"))).unwrap();
        assert_eq!(medium[5 * 4096..6 * 4096], pattern(id));
        assert!(medium[..5 * 4096].iter().chain(&medium[6 * 4096..]).all(|&byte| byte == 0));
    }
}

#[test]
fn a_function_does_not_reach_the_namespace_of_another() {
    let bench = Bench::start();
    let mut one = bench.application(0, None);
    let memory = bench.machine.memory(1);
    let data = Transfer::in_pages(&pages(&memory, 1), 0, 4096).unwrap();
    for id in [2, 3, 4, u32::MAX] {
        let others = nvme_queue::Namespace { id, ..one.namespace };
        assert!(!one.execute(&others.reads(&data).unwrap().at(0).unwrap()).is_success(), "namespace {id}");
    }
}

#[test]
fn thirty_two_at_a_time_end_in_any_order_with_their_own_data() {
    let bench = Bench::start();
    let mut application = bench.application(0, None);
    let memory = bench.machine.memory(32);
    let all = pages(&memory, 32);
    let blocks = page_blocks(&application);
    let transfer = |n: u64| Transfer::in_pages(&all[n as usize..=n as usize], 0, 4096).unwrap();
    // Three times around the ring.
    for round in 0..6u64 {
        let reads = round % 2 == 1;
        for n in 0..32 {
            // Read in the opposite order.
            let place = if reads { 31 - n } else { n };
            if !reads {
                memory.write(n * PAGE_BYTES, &pattern(round * 32 + place));
            }
            let (namespace, data) = (application.namespace, transfer(n));
            let block = (100 + place) * blocks;
            let access = if reads { namespace.reads(&data) } else { namespace.writes(&data) };
            application.queue.submit(&access.unwrap().at(block).unwrap(), n).expect("there is room");
        }
        assert_eq!(application.queue.under_way(), 32);
        application.queue.ring();
        let mut ended = BTreeMap::new();
        while ended.len() < 32 {
            let done = application.wait();
            assert!(done.status.is_success() && ended.insert(done.token, ()).is_none());
        }
        assert_eq!((application.queue.completed(), application.queue.under_way()), (None, 0));
        if reads {
            for n in 0..32 {
                assert_eq!(memory.read(n * PAGE_BYTES, 4096), pattern((round - 1) * 32 + 31 - n));
            }
        }
    }
    assert_eq!(application.queue.faults(), 0);
}

#[test]
fn many_scattered_pages_are_one_transfer() {
    let bench = Bench::start();
    let mut application = bench.application(0, None);
    let lists = PrpLists::new(bench.machine.memory(1), 64).unwrap();
    let memory = bench.machine.memory(40);
    // Every second page, backwards.
    let scattered: Vec<IoAddress> = pages(&memory, 40).into_iter().rev().step_by(2).collect();
    for n in 0..20 {
        memory.write((39 - 2 * n) * PAGE_BYTES, &pattern(n));
    }
    // From the middle of the first page on, to the end of the last.
    let bytes = 20 * 4096 - 2048;
    let out = lists.transfer(7, &scattered, 2048, bytes).unwrap();
    assert!(application.execute(&application.namespace.writes(&out).unwrap().at(16).unwrap()).is_success());
    let back_memory = bench.machine.memory(20);
    let back = lists.transfer(0, &pages(&back_memory, 20)[..20], 0, bytes).unwrap();
    assert!(application.execute(&application.namespace.reads(&back).unwrap().at(16).unwrap()).is_success());
    let wanted: Vec<u8> = (0..20).flat_map(pattern).skip(2048).collect();
    assert_eq!(back_memory.read(0, bytes as usize), wanted);
    let medium = std::fs::read(bench.machine.folder().join("d1")).unwrap();
    let at = 16 << application.namespace.block_shift;
    assert_eq!(medium[at..at + bytes as usize], wanted);
}

#[test]
fn each_batch_of_ends_is_an_interrupt() {
    let bench = Bench::start();
    let messages = bench.vfs[0].catch_messages();
    let mut application = bench.application(0, Some(1));
    let memory = bench.machine.memory(1);
    let data = Transfer::in_pages(&pages(&memory, 1), 0, 4096).unwrap();
    for _ in 0..3 {
        let command = application.namespace.reads(&data).unwrap().at(0).unwrap();
        application.queue.submit(&command, 0).unwrap();
        application.queue.ring();
        bench.machine.wait("the interrupt", || messages.take(1).then_some(()));
        assert!(application.queue.completed().is_some() && application.queue.completed().is_none());
    }
}

#[test]
fn after_the_hand_over_the_admin_doorbell_does_nothing_but_waste_time() {
    let mut bench = Bench::start();
    let mut application = bench.application(0, None);
    let before: Vec<u64> = (0..512).map(|word| application.kept.data.load(word)).collect();
    // What an attacker would have done: attach everything to oneself, delete queues, read memory.
    for tail in (0..64).chain([7, 3, 63, 64, 65, 255, 256, 65535]) {
        application.doorbells.write32(0, tail);
        application.doorbells.write32(4, tail);
    }
    let memory = bench.machine.memory(1);
    let data = Transfer::in_pages(&pages(&memory, 1), 0, 4096).unwrap();
    assert!(
        application.execute(&application.namespace.reads(&data).unwrap().at(0).unwrap()).is_success(),
        "it harmed its queues"
    );
    let after: Vec<u64> = (0..512).map(|word| application.kept.data.load(word)).collect();
    assert_eq!(before, after, "the page of data was written");
    // All that the ring held ended, or was refused, without effect: namespaces are where they were.
    assert_eq!(bench.admin.next_namespace(0), Ok(Some(3)));
    let mut other = bench.application(1, None);
    assert_eq!(other.namespace.id, 2);
    assert!(other.execute(&other.namespace.reads(&data).unwrap().at(0).unwrap()).is_success());
    let commands: Vec<u64> = (0..512).map(|word| application.kept.submission.load(word)).collect();
    assert!(commands.chunks(8).all(|command| command[0] as u8 == 0x0a && command[3..5] == [0, 0]), "Get Features");
}

#[test]
fn a_function_that_was_taken_back_serves_the_next_owner() {
    let mut bench = Bench::start();
    let mut first = bench.application(0, None);
    let memory = bench.machine.memory(1);
    let data = Transfer::in_pages(&pages(&memory, 1), 0, 4096).unwrap();
    assert!(first.execute(&first.namespace.reads(&data).unwrap().at(0).unwrap()).is_success());
    let secondary = bench.admin.secondary(0).unwrap().unwrap();
    bench.vfs[0].reset();
    bench.admin.set_offline(secondary.controller).unwrap();
    bench.admin.detach(1, secondary.controller).unwrap();
    // The last owner rings on.
    let command = first.namespace.reads(&data).unwrap().at(0).unwrap();
    first.queue.submit(&command, 0).unwrap();
    first.queue.ring();
    assert_eq!(first.queue.completed(), None);
    let offline = bench.admin.secondary(0).unwrap().unwrap();
    assert!(!offline.online && offline.queues == 0 && offline.vectors == 0, "{offline:?}");

    bench.admin.assign(secondary.controller, nvme_admin::Resource::Vectors, 2).unwrap();
    bench.admin.assign(secondary.controller, nvme_admin::Resource::Queues, 3).unwrap();
    bench.admin.set_online(secondary.controller).unwrap();
    let own = bench.admin.identity().unwrap().controller;
    bench.admin.detach(3, own).unwrap();
    bench.admin.attach(3, secondary.controller).unwrap();
    let mut second = bench.application(0, None);
    assert_eq!(second.namespace.id, 3);
    assert!(second.execute(&second.namespace.reads(&data).unwrap().at(0).unwrap()).is_success());
    assert_eq!(first.queue.completed(), None);
}

#[test]
fn queues_that_the_controller_cannot_have_are_refused_and_leave_nothing() {
    let bench = Bench::start();
    let mut admin = bench.vf(0);
    let (submission, completion) = (bench.machine.memory(1).io_address(), bench.machine.memory(1).io_address());
    let good = QueueRequest { number: 1, entries: 64, submission, completion, vector: None };
    for bad in [
        QueueRequest { number: 0, ..good },
        QueueRequest { entries: 1, ..good },
        QueueRequest { entries: 4097, ..good },
        QueueRequest { submission: submission + 64, ..good },
    ] {
        assert_eq!(admin.create_queues(&bad), Err(Error::Arguments));
    }
    assert!(matches!(admin.create_queues(&QueueRequest { number: 9, ..good }), Err(Error::Refused(_))));
    assert!(matches!(admin.create_queues(&QueueRequest { vector: Some(9), ..good }), Err(Error::Refused(_))));
    for _ in 0..3 {
        admin.create_queues(&good).unwrap();
        assert!(matches!(admin.create_queues(&good), Err(Error::Refused(_))));
        admin.delete_queues(1).unwrap();
    }
    assert!(matches!(admin.delete_queues(1), Err(Error::Refused(_))));
}

#[test]
fn a_missing_controller_is_not_waited_for_for_ever() {
    let bench = Bench::start();
    let nothing = bench.vfs[0].bar(0, 0);
    let absent = Controller::enable(nothing, admin_memory(&bench.machine), bench.machine.clone());
    assert!(matches!(absent, Err(Error::Unfit)));
}

#[test]
fn a_controller_is_adopted_without_a_reset_and_queues_of_functions_live_on() {
    let mut bench = Bench::start();
    let mut application = bench.application(0, None);
    let memory = bench.machine.memory(1);
    let data = Transfer::in_pages(&pages(&memory, 1), 0, 4096).unwrap();
    let command = application.namespace.reads(&data).unwrap().at(0).unwrap();
    assert!(application.execute(&command).is_success());
    let own = bench.admin.identity().unwrap().controller;
    // At every place of the ring, also after it has turned.
    for _ in 0..140 {
        let adopted = Controller::adopt(bench.registers.clone(), bench.memory.clone(), bench.machine.clone());
        bench.admin = adopted.expect("it is as it was left");
        assert_eq!(bench.admin.identity().unwrap().controller, own);
        assert!(application.execute(&command).is_success(), "its queues are gone");
    }
    // Memory that is not the controller's, and a controller that is off.
    let other = Controller::adopt(bench.registers.clone(), admin_memory(&bench.machine), bench.machine.clone());
    assert_eq!(other.err(), Some(Error::NotReady));
    bench.registers.write32(0x14, 0);
    let off = Controller::adopt(bench.registers.clone(), bench.memory.clone(), bench.machine.clone());
    assert_eq!(off.err(), Some(Error::NotReady));
}

#[test]
fn namespaces_are_found_whoever_has_them_and_made_zero() {
    let mut bench = Bench::start();
    let ids: Vec<u32> = std::iter::successors(bench.admin.next_allocated_namespace(0).unwrap(), |&last| {
        bench.admin.next_allocated_namespace(last).unwrap()
    })
    .collect();
    assert_eq!(ids, [1, 2, 3]);
    let first = bench.admin.secondary(0).unwrap().unwrap().controller;
    assert_eq!(bench.admin.attached_controller(1), Ok(Some(first)));
    let space = bench.admin.allocated_namespace(1).unwrap();
    assert_eq!(space.blocks << space.block_shift, NAMESPACE_BYTES);
    let mut application = bench.application(0, None);
    let memory = bench.machine.memory(1);
    let data = Transfer::in_pages(&pages(&memory, 1), 0, 4096).unwrap();
    memory.write(0, &pattern(1));
    for block in [0, 8, 16] {
        assert!(application.execute(&application.namespace.writes(&data).unwrap().at(block).unwrap()).is_success());
    }
    assert!(application.execute(&application.namespace.zeroes(8, 8).unwrap()).is_success());
    for (block, expected) in [(0, pattern(1)), (8, vec![0; 4096]), (16, pattern(1))] {
        assert!(application.execute(&application.namespace.reads(&data).unwrap().at(block).unwrap()).is_success());
        assert_eq!(memory.read(0, 4096), expected, "block {block}");
    }
}

/// What a limit of operations is made of: the PF counts them in a namespace that it shares with a VF, and closes and opens
/// that one's.
#[test]
fn the_physical_function_counts_what_a_function_does_and_closes_and_opens_its_namespace() {
    let mut bench = Bench::start();
    let mut application = bench.application(0, None);
    let memory = bench.machine.memory(1);
    let data = Transfer::in_pages(&pages(&memory, 1), 0, 4096).unwrap();
    assert!(matches!(bench.admin.operations(1), Err(Error::Refused(_))), "it is not attached to it");
    let [own, other] =
        [bench.admin.identity().unwrap().controller, bench.admin.secondary(0).unwrap().unwrap().controller];
    bench.admin.attach(1, own).unwrap();
    let before = bench.admin.operations(1).unwrap();
    let read = application.namespace.reads(&data).unwrap().at(0).unwrap();
    let write = application.namespace.writes(&data).unwrap().at(0).unwrap();
    for command in [read, write, read] {
        assert!(application.execute(&command).is_success());
    }
    assert_eq!(bench.admin.operations(1).unwrap() - before, 3);
    for round in 1..4 {
        // What is under way meanwhile ends, well or not.
        application.queue.submit(&write, 7).unwrap();
        application.queue.ring();
        bench.admin.detach(1, other).unwrap();
        assert_eq!(application.wait().token, 7);
        let counted = bench.admin.operations(1).unwrap();
        for command in [read, write, application.namespace.flush()] {
            assert!(application.execute(&command).is_of_no_namespace());
        }
        assert_eq!(bench.admin.operations(1).unwrap(), counted, "what is refused is not counted");
        assert_eq!((bench.admin.is_attached(1, own), bench.admin.is_attached(1, other)), (Ok(true), Ok(false)));
        // The emulated controller looks at the PF when another one is to have a namespace.
        bench.admin.detach(1, own).unwrap();
        bench.admin.attach(1, other).unwrap();
        bench.admin.attach(1, own).unwrap();
        assert_eq!((bench.admin.is_attached(1, own), bench.admin.is_attached(1, other)), (Ok(true), Ok(true)));
        assert!(application.execute(&read).is_success(), "round {round}");
        assert_eq!(bench.admin.operations(1).unwrap(), counted + 1);
    }
    assert_eq!(application.queue.faults(), 0);
}
