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
        Ok(Function { function, domain, memory, registers: None, stopped: 0, limit: SoldRate::nothing(), is_new: true })
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
