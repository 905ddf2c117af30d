//! Registers, memory and time for tests of drivers on the host: registers hold what was written, memory is an array that
//! a test writes as a device would, and time goes on when somebody looks or waits.

use crate::{Clock, DmaMemory, IoAddress, Registers};
use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::vec::Vec;

/// Registers that hold what was written last, or what a rule says.
#[derive(Default)]
pub struct FakeRegisters {
    values: RefCell<BTreeMap<u32, u32>>,
    writes: RefCell<Vec<(u32, u32)>>,
    rule: RefCell<Option<Rule>>,
}

/// What reading a register gives, if it is not what was written last.
type Rule = Box<dyn FnMut(u32) -> Option<u32>>;

impl std::fmt::Debug for FakeRegisters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeRegisters").field("values", &self.values).finish_non_exhaustive()
    }
}

impl FakeRegisters {
    /// All writes so far, in order: offset and value.
    pub fn writes(&self) -> Vec<(u32, u32)> {
        self.writes.borrow().clone()
    }

    /// Lets a register have a value, as a device would.
    pub fn set(&self, offset: u32, value: u32) {
        self.values.borrow_mut().insert(offset, value);
    }

    /// Lets a rule say what reading gives, where it gives something.
    pub fn set_rule(&self, rule: impl FnMut(u32) -> Option<u32> + 'static) {
        *self.rule.borrow_mut() = Some(Box::new(rule));
    }
}

impl Registers for FakeRegisters {
    fn read32(&self, offset: u32) -> u32 {
        let ruled = self.rule.borrow_mut().as_mut().and_then(|rule| rule(offset));
        ruled.unwrap_or_else(|| self.values.borrow().get(&offset).copied().unwrap_or(0))
    }

    fn write32(&self, offset: u32, value: u32) {
        self.set(offset, value);
        self.writes.borrow_mut().push((offset, value));
    }
}

/// Memory that a test reads and writes as the device would.
#[derive(Debug)]
pub struct FakeMemory(Vec<Cell<u64>>);

impl FakeMemory {
    /// So many zero words.
    #[must_use]
    pub fn new(words: usize) -> FakeMemory {
        FakeMemory((0..words).map(|_| Cell::new(0)).collect())
    }
}

impl DmaMemory for FakeMemory {
    fn io_address(&self) -> IoAddress {
        IoAddress(0x1_0000_0000)
    }

    fn words(&self) -> usize {
        self.0.len()
    }

    fn load(&self, word: usize) -> u64 {
        self.0.get(word).map_or(0, Cell::get)
    }

    fn store(&self, word: usize, value: u64) {
        if let Some(cell) = self.0.get(word) {
            cell.set(value);
        }
    }
}

/// A clock on which a look takes a microsecond and a pause a millisecond.
#[derive(Debug, Default)]
pub struct FakeClock(Cell<u64>);

impl Clock for FakeClock {
    fn now_ns(&self) -> u64 {
        self.0.set(self.0.get() + 1_000);
        self.0.get()
    }

    fn pause(&self) {
        self.0.set(self.0.get() + 1_000_000);
    }
}

/// Numbers below the argument, the same ones for the same seed (Knuth's MMIX).
pub fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 32
    };
    move |below| (next() << 32 | next()) % below
}
