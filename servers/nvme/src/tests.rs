//! The server without a controller that works: what is asked of it is refused, and it says so. What it does with one is tried
//! on the emulated device, by `tests/e2e/tests/storage.rs`.

use super::*;
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
    server.take(ToStorage::Prepare { vf: 0, bytes: 4096, per_s: None });
    server.take(ToStorage::Release { vf: 0 });
    assert_eq!(reports(&mut server), [FromStorage::Impossible { vf: 0 }], "it has not begun");
    server.take(ToStorage::Begin);
    assert_eq!(reports(&mut server), [FromStorage::Failed]);
    server.take(ToStorage::Prepare { vf: 0, bytes: 4096, per_s: None });
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
