//! A controller with virtual functions for tests: it does what it is told at once, as far as the server needs it, and refuses
//! what a test wants it to refuse.

use crate::{Function, IoMemory};
use device::fake::FakeMemory;
use device::{DmaMemory, Registers};
use nvme_admin::AdminMemory;
use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::vec::Vec;

/// Registers (Base Specification, 3.1.3).
const CONFIGURATION: u32 = 0x14;
const STATUS: u32 = 0x1c;
const DOORBELLS: u32 = 0x1000;
/// "Invalid Field in Command", as it is in a completion.
const INVALID_FIELD: u64 = 2;
const BLOCK_SHIFT: u64 = 9;

/// A namespace: for each block, whether something else than zeroes is in it.
#[derive(Debug)]
pub struct Disk {
    pub is_written: Vec<bool>,
    pub operations: u64,
    pub attached: BTreeSet<u16>,
}

/// What the functions have in common.
#[derive(Debug)]
pub struct Subsystem {
    /// Number 1 comes first.
    pub disks: RefCell<Vec<Disk>>,
    /// The operation code and the namespace of admin commands that are refused.
    pub refuses: Cell<Option<(u8, u32)>>,
    /// No VF can be taken offline.
    pub refuses_offline: Cell<bool>,
    /// VFs that were taken offline last, rather than brought online, by their controller numbers.
    pub offline: RefCell<BTreeSet<u16>>,
    /// A controller that ends no command any more after so many, and whether it then reports a fatal error.
    pub stuck: Cell<Option<(u16, usize, bool)>>,
    vfs: u64,
}

/// A function: controller 0 is the physical one.
#[derive(Debug)]
pub struct FakeFunction {
    subsystem: &'static Subsystem,
    number: u16,
    is_on: Cell<bool>,
    memory: AdminMemory<&'static FakeMemory>,
    io: IoMemory<&'static FakeMemory>,
    /// Commands done in the admin queue and in the other one.
    done: [Cell<usize>; 2],
}

fn memory(pages: usize) -> &'static FakeMemory {
    Box::leak(Box::new(FakeMemory::new(512 * pages)))
}

/// A controller whose disks, all written, have so many blocks each; with one VF more than disks.
pub fn functions(disks: &[usize]) -> (&'static Subsystem, Vec<&'static FakeFunction>) {
    let disk = |&blocks: &usize| Disk { is_written: [true].repeat(blocks), operations: 0, attached: BTreeSet::new() };
    let disks: Vec<Disk> = disks.iter().map(disk).collect();
    let vfs = disks.len() as u64 + 1;
    let subsystem: &Subsystem = Box::leak(Box::new(Subsystem {
        disks: disks.into(),
        refuses: Cell::new(None),
        refuses_offline: Cell::new(false),
        offline: RefCell::default(),
        stuck: Cell::new(None),
        vfs,
    }));
    let function = |number| -> &'static FakeFunction {
        let memory_ = AdminMemory { submission: memory(1), completion: memory(1), data: memory(1) };
        let io = IoMemory { submission: memory(1), completion: memory(1), buffer: memory(2) };
        let done = Default::default();
        Box::leak(Box::new(FakeFunction { subsystem, number, is_on: Cell::new(false), memory: memory_, io, done }))
    };
    (subsystem, (0..=vfs as u16).map(function).collect())
}

impl FakeFunction {
    /// As the server gets it.
    pub fn mapped(&'static self) -> Function<&'static FakeFunction, &'static FakeMemory> {
        Function { registers: self, memory: self.memory }
    }

    /// See [`FakeFunction::mapped`].
    pub fn io(&self) -> IoMemory<&'static FakeMemory> {
        self.io.clone()
    }

    /// Does what is in a ring of 64 entries up to `tail`.
    fn run(&self, queue: usize, tail: usize) {
        let rings = [(self.memory.submission, self.memory.completion), (self.io.submission, self.io.completion)];
        let (submission, completion) = rings[queue];
        let done = &self.done[queue];
        while done.get() % 64 != tail && self.is_stuck(done.get()).is_none() {
            let at = done.get();
            let entry = core::array::from_fn(|word| submission.load(8 * (at % 64) + word));
            let status = if queue == 0 { self.administer(entry) } else { self.transfer(entry) };
            let status = if status.is_some() { 0 } else { INVALID_FIELD };
            done.set(at + 1);
            let phase = u64::from(at & 64 == 0);
            let read = (at as u64 + 1) % 64;
            let word = read | (entry[0] >> 16 & 0xffff) << 32 | phase << 48 | status << 49;
            completion.store(2 * (at % 64) + 1, word | (queue as u64) << 16);
        }
    }

    /// Once it ends no command any more, after so many: whether that is a fatal error.
    fn is_stuck(&self, done: usize) -> Option<bool> {
        let (number, commands, is_fatal) = self.subsystem.stuck.get()?;
        (number == self.number && done >= commands).then_some(is_fatal)
    }

    fn administer(&self, entry: [u64; 8]) -> Option<()> {
        let (opcode, namespace, detail) = (entry[0] as u8, (entry[0] >> 32) as u32, entry[5]);
        if self.subsystem.refuses.get() == Some((opcode, namespace)) {
            return None;
        }
        let mut disks = self.subsystem.disks.borrow_mut();
        let data = self.memory.data;
        let disk = disks.get_mut((namespace as usize).wrapping_sub(1));
        match opcode {
            // Get Log Page.
            0x02 => {
                let disk = disk.filter(|disk| disk.attached.contains(&self.number))?;
                (0..64).for_each(|word| data.store(word, 0));
                data.store(8, disk.operations);
            }
            0x06 => {
                (0..512).for_each(|word| data.store(word, 0));
                return self.identify(detail, namespace, &disks);
            }
            // Namespace Attachment.
            0x15 => {
                let (disk, controller) = (disk?, (data.load(0) >> 16) as u16);
                let is_changed =
                    if detail & 1 == 0 { disk.attached.insert(controller) } else { disk.attached.remove(&controller) };
                return is_changed.then_some(());
            }
            // Virtualization Management: offline, online.
            0x1c => {
                let controller = (detail >> 16) as u16;
                match detail & 0xf {
                    7 if self.subsystem.refuses_offline.get() => return None,
                    7 => drop(self.subsystem.offline.borrow_mut().insert(controller)),
                    9 => drop(self.subsystem.offline.borrow_mut().remove(&controller)),
                    _ => {}
                }
            }
            _ => {}
        }
        Some(())
    }

    fn identify(&self, detail: u64, namespace: u32, disks: &[Disk]) -> Option<()> {
        let data = self.memory.data;
        let disk = disks.get((namespace as usize).wrapping_sub(1));
        let is_own = |disk: &&Disk| disk.attached.contains(&self.number);
        match detail as u8 {
            0x01 => data.store(9, u64::from(self.number) << 48),
            structure @ (0x00 | 0x11) => {
                if let Some(disk) = disk.filter(|disk| structure == 0x11 || is_own(disk)) {
                    data.store(0, disk.is_written.len() as u64);
                    data.store(16, BLOCK_SHIFT << 16);
                }
            }
            structure @ (0x02 | 0x10) => {
                let mut behind = (1..).zip(disks).skip(namespace as usize);
                let next = behind.find(|(_, disk)| structure == 0x10 || is_own(disk));
                data.store(0, next.map_or(0, |(id, _)| id));
            }
            0x12 => {
                let first = disk?.attached.range((detail >> 16) as u16..).next();
                data.store(0, first.map_or(0, |&number| 1 | u64::from(number) << 16));
            }
            0x15 => {
                data.store(0, self.subsystem.vfs);
                (1..=self.subsystem.vfs).for_each(|number| data.store(4 * number as usize, number));
            }
            _ => return None,
        }
        Some(())
    }

    fn transfer(&self, entry: [u64; 8]) -> Option<()> {
        let mut disks = self.subsystem.disks.borrow_mut();
        let disk = disks.get_mut(((entry[0] >> 32) as usize).wrapping_sub(1))?;
        let first = entry[5] as usize;
        let blocks = disk.is_written.get_mut(first..first + 1 + (entry[6] & 0xffff) as usize)?;
        if !disk.attached.contains(&self.number) {
            return None;
        }
        match entry[0] as u8 {
            // Flush.
            0x00 => {}
            // Read.
            0x02 => {
                let words = 1 << BLOCK_SHIFT >> 3;
                for (word, is_written) in (0..).step_by(words).zip(blocks) {
                    (word..word + words).for_each(|word| self.io.buffer.store(word, u64::from(*is_written)));
                }
            }
            // Write Zeroes.
            0x08 => blocks.fill(false),
            _ => return None,
        }
        Some(())
    }
}

impl Registers for FakeFunction {
    fn read32(&self, offset: u32) -> u32 {
        match offset {
            // Rings of up to 64 entries.
            0 => 63,
            STATUS => {
                let is_fatal = self.is_stuck(self.done[0].get()) == Some(true);
                u32::from(self.is_on.get()) | u32::from(self.is_on.get() && is_fatal) << 1
            }
            _ => 0,
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        match offset {
            CONFIGURATION => {
                self.is_on.set(value & 1 != 0);
                self.done.iter().for_each(|done| done.set(0));
            }
            DOORBELLS => self.run(0, value as usize),
            _ if offset == DOORBELLS + 8 && self.number == 0 => self.run(1, value as usize),
            _ => {}
        }
    }
}
