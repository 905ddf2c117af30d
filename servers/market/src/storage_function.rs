//! A function of the NVMe controller with its domain and its memory, as the market keeps it for the storage server.

use crate::machine::{Invoke, Machine, Slot};
use crate::memory::{MemoryError, PAGE_BITS};
use crate::root::Root;
use crate::sold_rate::SoldRate;
use alloc::vec::Vec;
use cap_spec::abi::{Error, ObjectType, Rights};
use proto::storage::{SERVER_IO_BASE, page};

/// log2 bytes of the block for a function's domain, tables and memory.
pub const FUNCTION_BITS: u8 = 16;
/// The BAR with registers and doorbells.
const REGISTERS_BAR: u8 = 0;
const PAGE: u64 = 1 << PAGE_BITS;
const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);

/// Longest wait, as a power of two of seconds.
const LONGEST_WAIT: u32 = 6;

/// How often a namespace could not be made ready for a holder, of late, and when that is tried again. A holder can keep its
/// function from answering, and the server waits a second for that each time: so one that does it again and again is tried ever
/// more seldom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    failures: u32,
    /// When the last one was.
    failed_at: u64,
    not_before: u64,
}

impl Tries {
    /// It failed. The first time costs nothing; then one second, three, seven and so on, of so many ticks each. Only time makes
    /// up for it, one failure in as long as the longest wait: who lets every other try succeed holds others up as well.
    pub fn failed(&mut self, now: u64, second: u64) {
        let longest = second.saturating_mul(1 << LONGEST_WAIT).max(1);
        let faded = u32::try_from(now.saturating_sub(self.failed_at) / longest).unwrap_or(u32::MAX);
        let failures = self.failures.saturating_sub(faded);
        let seconds = (1u64 << failures.min(LONGEST_WAIT)) - 1;
        (self.failed_at, self.not_before) = (now, now.saturating_add(second.saturating_mul(seconds)));
        self.failures = failures.saturating_add(1).min(LONGEST_WAIT + 1);
    }

    /// True if it is not to be tried yet.
    #[must_use]
    pub fn must_wait(&self, now: u64) -> bool {
        now < self.not_before
    }
}

/// A function with its domain and memory.
#[derive(Debug)]
pub struct Function {
    /// The function.
    pub function: Slot,
    /// What it reaches.
    pub domain: Slot,
    /// Frames of the pages of memory, from [`page::SUBMISSION`] on.
    pub memory: Vec<Slot>,
    /// Frames of the registers and of the doorbells; none before the function could be looked at for the first time.
    pub registers: Option<[Slot; 2]>,
    /// How often the IOMMU has stopped it since it has that holder.
    pub stopped: u64,
    /// Reads and writes per second that its holder may do.
    pub limit: SoldRate,
    /// Whether the server has not been told of that holder.
    pub is_new: bool,
    /// How that holder's namespaces came to nothing.
    pub tries: Tries,
}

impl Function {
    /// Makes the domain of a function, and memory in it up to page `end`.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn new<M: Machine>(root: &mut Root<M>, function: Slot, end: u64) -> Result<Function, MemoryError> {
        let block = root.take(FUNCTION_BITS)?;
        let block = root.memory.slot(block);
        let domain = root.make(block, ObjectType::IommuDomain, 0)?;
        for level in [2, 1] {
            let table = root.make(block, ObjectType::PageTable, 0)?;
            root.machine.map_io_table(table, domain, SERVER_IO_BASE, level)?;
        }
        let mut memory = Vec::new();
        for number in page::SUBMISSION..end {
            let frame = root.make(block, ObjectType::Frame, PAGE_BITS)?;
            memory.push(frame);
            let copy = root.slot()?;
            root.machine.copy(copy, frame, READ_WRITE)?;
            let rights = match number {
                page::SUBMISSION | page::IO_SUBMISSION => Rights::READ,
                _ => READ_WRITE,
            };
            root.machine.map_io(copy, domain, SERVER_IO_BASE + number * PAGE, rights)?;
        }
        Ok(Function {
            function,
            domain,
            memory,
            registers: None,
            stopped: 0,
            limit: SoldRate::nothing(),
            is_new: true,
            tries: Tries::default(),
        })
    }

    /// Lets the function reach its domain, if it does not already.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn attach<M: Machine>(&self, root: &mut Root<M>) -> Result<(), MemoryError> {
        match root.machine.attach_function(self.function, self.domain) {
            Err(fault) if fault.error != Error::InUse => Err(fault.into()),
            _ => Ok(()),
        }
    }

    /// False if the function is not there yet.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn find_registers<M: Machine>(&mut self, root: &mut Root<M>) -> Result<bool, MemoryError> {
        if self.registers.is_some() {
            return Ok(true);
        }
        let first = root.memory.slots.take(page::REGISTER_PAGES as u16).ok_or(MemoryError::NoSlots)?;
        let frames = [first, Slot::nested(first.node(), first.index() + 1)];
        match root.machine.bar_frames(self.function, REGISTERS_BAR, page::REGISTERS, first, page::REGISTER_PAGES as u16)
        {
            Ok(()) => self.registers = Some(frames),
            Err(fault) => {
                frames.into_iter().for_each(|slot| root.memory.slots.give(slot));
                if fault.error != Error::Busy {
                    return Err(fault.into());
                }
            }
        }
        Ok(self.registers.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::Tries;

    #[test]
    fn only_time_makes_up_for_a_failure() {
        let (mut tries, mut now) = (Tries::default(), 1_000);
        let waits = [0, 1, 3, 7, 15, 31, 63, 63].map(|_| {
            tries.failed(now, 10);
            let from = now;
            while tries.must_wait(now) {
                now += 1;
            }
            (now - from) / 10
        });
        assert_eq!(waits, [0, 1, 3, 7, 15, 31, 63, 63]);
        // Three of them fade in three times the longest wait.
        now += 3 * 640;
        tries.failed(now, 10);
        assert!(tries.must_wait(now + 69) && !tries.must_wait(now + 310));
        tries.failed(u64::MAX, u64::MAX);
        assert!(!tries.must_wait(u64::MAX));
    }
}
