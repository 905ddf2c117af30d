//! The kernel lock and the cores' gates: the kernel's code (`build.rs` says how it gets here), the models over it, and the
//! same over copies with one mistake each.

use crate::{Mistake, Run, every_order};

/// The code as it is.
pub const RUNS: [Run; 4] = [
    ("2 cores at the lock, twice each", || every_order(|| as_it_is::one_at_a_time(2, 2)), 500),
    ("2 cores at the lock, three times each", || every_order(|| as_it_is::one_at_a_time(2, 3)), 1_000),
    ("a frame taken from a guest on another core", || every_order(as_it_is::expelled_before_reuse), 10),
    ("a core called while it goes to halt", || every_order(as_it_is::no_call_is_lost), 10),
];

/// With mistakes.
pub const MISTAKES: [Mistake; 6] = [
    ("a turn that ends without release", || every_order(|| end_relaxed::one_at_a_time(2, 1))),
    ("a turn that is taken without acquire", || every_order(|| come_relaxed::one_at_a_time(2, 1))),
    ("two in one turn", || every_order(|| queue_torn::one_at_a_time(2, 1))),
    ("a guest left without release", || every_order(left_relaxed::expelled_before_reuse)),
    ("an acknowledgement read without acquire", || every_order(acknowledged_relaxed::expelled_before_reuse)),
    ("a call that is not noted", || every_order(call_forgotten::no_call_is_lost)),
];

/// The kernel's code from a file of `build.rs`, and the models over it.
macro_rules! models {
    ($name:ident) => {
        #[allow(dead_code, missing_docs, reason = "the kernel's code, of which the models use a part")]
        mod $name {
            include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".rs"));

            use gate::{Gate, Outside};
            use loom::cell::Cell;
            use loom::sync::Arc;
            use loom::sync::atomic::{AtomicBool, Ordering};
            use loom::thread;
            use turns::Turns;

            /// The kernel's state, which its lock guards.
            #[derive(Default)]
            struct Machine {
                turns: Turns,
                gate: Gate,
                /// Counted under the lock.
                count: Cell<u32>,
                /// Something has happened for the core, told under the lock.
                event: Cell<bool>,
                /// The frame was taken from the guest, told under the lock.
                withdrawn: Cell<bool>,
                /// What a guest writes while it runs, and whoever has its memory next.
                frame: Cell<u32>,
                /// An NMI has come.
                nmi: AtomicBool,
            }

            impl Machine {
                fn locked<T>(&self, work: impl FnOnce() -> T) -> T {
                    let turn = self.turns.queue();
                    while !self.turns.has_come(&turn) {
                        thread::yield_now();
                    }
                    let result = work();
                    self.turns.end();
                    result
                }
            }

            /// Cores count under the lock, each so often. With three, loom lets two of them look in turns for ever.
            pub fn one_at_a_time(cores: u32, times: u32) {
                let machine = Arc::new(Machine::default());
                let count = move |machine: &Machine| {
                    (0..times).for_each(|_| machine.locked(|| machine.count.set(machine.count.get() + 1)));
                };
                let others: Vec<_> = (1..cores)
                    .map(|_| {
                        let machine = machine.clone();
                        thread::spawn(move || count(&machine))
                    })
                    .collect();
                count(&machine);
                others.into_iter().for_each(|other| other.join().unwrap());
                assert_eq!(machine.count.get(), cores * times, "a turn was lost");
            }

            /// A core takes a frame from a guest that another one enters or runs, and uses it: the guest is out by then.
            pub fn expelled_before_reuse() {
                let machine = Arc::new(Machine::default());
                let core = machine.clone();
                let guest = thread::spawn(move || {
                    let entering = core.locked(|| {
                        let holding = Outside::started().locked();
                        if core.withdrawn.get() { None } else { holding.enter(&core.gate, u64::MAX, 0).ok() }
                    });
                    if let Some(entering) = entering {
                        core.frame.set(1);
                        let _ = entering.left(&core.gate);
                    }
                });
                machine.locked(|| {
                    machine.withdrawn.set(true);
                    let _ = machine.gate.call();
                    while machine.gate.is_in_guest() {
                        thread::yield_now();
                    }
                    machine.frame.set(2);
                });
                guest.join().unwrap();
                assert_eq!(machine.frame.get(), 2, "the guest wrote into what others have");
            }

            /// A core decides to halt in one hold of the lock and goes in another; what happens meanwhile wakes it.
            pub fn no_call_is_lost() {
                let machine = Arc::new(Machine::default());
                let core = machine.clone();
                let idle = thread::spawn(move || {
                    let mut outside = Outside::started();
                    loop {
                        if core.locked(|| core.event.get()) {
                            return;
                        }
                        let halting = core.locked(|| outside.locked().halt(&core.gate, u64::MAX, 0));
                        match halting {
                            Ok(halting) => {
                                while !core.nmi.load(Ordering::Acquire) {
                                    thread::yield_now();
                                }
                                outside = halting.left(&core.gate);
                            }
                            Err(holding) => outside = holding.gave_up(),
                        }
                    }
                });
                machine.locked(|| {
                    machine.event.set(true);
                    if machine.gate.call() {
                        machine.nmi.store(true, Ordering::Release);
                    }
                });
                idle.join().unwrap();
            }
        }
    };
}

models!(as_it_is);
models!(end_relaxed);
models!(come_relaxed);
models!(queue_torn);
models!(left_relaxed);
models!(acknowledged_relaxed);
models!(call_forgotten);
