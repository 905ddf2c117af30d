//! The programs on the host: what their inputs, assumptions, assertions and observations are when they are executed and not
//! translated. So the translator can be held against the compiler: both must come to the same.

use kernel_harness::Program;
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
use std::panic::{catch_unwind, set_hook, take_hook};
use std::sync::Once;

/// What a run has told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Values of the inputs, by number.
    pub inputs: FxHashMap<u32, u64>,
    /// What was assumed, in order.
    pub assumed: Vec<bool>,
    /// Assertions: number, whether it holds, how many assumptions came before.
    pub asserted: Vec<(u32, bool)>,
    /// Observations: number and value.
    pub observed: Vec<(u32, u64)>,
    /// It has panicked.
    pub has_panicked: bool,
}

thread_local! {
    static RUN: RefCell<Run> = RefCell::default();
    static IS_RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// Sees to it that the panics of programs, of which there are many, are not told: they are in the [`Run`].
static QUIET: Once = Once::new();

/// Runs a program with these inputs; those that are not given are 0.
pub fn run(program: &Program, inputs: FxHashMap<u32, u64>) -> Run {
    QUIET.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |panic| {
            if !IS_RUNNING.get() {
                usual(panic);
            }
        }));
    });
    RUN.set(Run { inputs, ..Run::default() });
    IS_RUNNING.set(true);
    let has_panicked = catch_unwind(program.run).is_err();
    IS_RUNNING.set(false);
    let run = RUN.take();
    Run { has_panicked, ..run }
}

#[unsafe(no_mangle)]
extern "C" fn symbolic_input(number: u32) -> u64 {
    RUN.with_borrow(|run| run.inputs.get(&number).copied().unwrap_or(0))
}

#[unsafe(no_mangle)]
extern "C" fn symbolic_assume(holds: bool) {
    RUN.with_borrow_mut(|run| run.assumed.push(holds));
}

#[unsafe(no_mangle)]
extern "C" fn symbolic_assert(number: u32, holds: bool) {
    RUN.with_borrow_mut(|run| run.asserted.push((number, holds)));
}

#[unsafe(no_mangle)]
extern "C" fn symbolic_observe(number: u32, value: u64) {
    RUN.with_borrow_mut(|run| run.observed.push((number, value)));
}
