//! Registers and memory for unit tests: registers hold what was written, memory is an array.

use device::{DmaMemory, IoAddress, Registers};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Registers that hold what was written last.
#[derive(Debug, Default)]
pub(crate) struct FakeRegisters {
    values: RefCell<BTreeMap<u32, u32>>,
    writes: RefCell<Vec<(u32, u32)>>,
    never_enables: Cell<bool>,
}

impl FakeRegisters {
    /// How many writes there were.
    pub(crate) fn writes(&self) -> usize {
        self.writes.borrow().len()
    }

    /// The last of them.
    pub(crate) fn last_write(&self) -> (u32, u32) {
        *self.writes.borrow().last().expect("there was one")
    }

    /// From now on, reading gives 0.
    pub(crate) fn never_enables(&self) {
        self.never_enables.set(true);
    }
}

impl Registers for FakeRegisters {
    fn read32(&self, offset: u32) -> u32 {
        if self.never_enables.get() { 0 } else { self.values.borrow().get(&offset).copied().unwrap_or(0) }
    }

    fn write32(&self, offset: u32, value: u32) {
        self.values.borrow_mut().insert(offset, value);
        self.writes.borrow_mut().push((offset, value));
    }
}

/// Memory that a test writes as the device would.
#[derive(Debug)]
pub(crate) struct FakeMemory(Vec<Cell<u64>>);

impl FakeMemory {
    pub(crate) fn new(words: usize) -> FakeMemory {
        FakeMemory(vec![Cell::new(0); words])
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

/// Numbers below the argument, the same ones for the same seed (Knuth's MMIX).
pub(crate) fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 32
    };
    move |below| (next() << 32 | next()) % below
}
