//! The root VM's own memory: objects that the market keeps, and its windows into frames.

use crate::machine::{Invoke, Machine, Slot};
use crate::memory::{BlockId, LARGE_BITS, Memory, MemoryError, PAGE_BITS};
use cap_spec::abi::{Error, ObjectType, Rights, slots};

/// Where the market maps frames to fill them, in its own address space.
pub const COPY_WINDOW: u64 = 0x8000_0000;
/// The same for frames of 2 MiB: a table of 4 KiB pages would be in their way.
pub const LARGE_COPY_WINDOW: u64 = 0x8020_0000;
/// Where the pages shared with tenant i are mapped, from `TENANT_WINDOW + i * TENANT_STRIDE` on: ring from it, ring to
/// it, its handler page, its statistics page.
pub const TENANT_WINDOW: u64 = 0x9000_0000;
/// See [`TENANT_WINDOW`].
pub const TENANT_STRIDE: u64 = 0x4000;
/// Offset of the handler page.
pub const HANDLER_PAGE: u64 = 0x2000;
/// Offset of the statistics page.
pub const STATS_PAGE: u64 = 0x3000;
/// Where the rings to and from the console server, the price board and the global statistics page are mapped.
pub const SERVER_WINDOW: u64 = 0xa000_0000;
/// Further memory for the market's own allocator.
pub const HEAP_WINDOW: u64 = 0xc000_0000;
/// The price board.
pub const BOARD_PAGE: u64 = SERVER_WINDOW + 0x2000;
/// The global statistics page.
pub const GLOBAL_STATS_PAGE: u64 = SERVER_WINDOW + 0x3000;

/// log2 bytes of the Untypeds from which objects are made that live as long as the market.
pub(crate) const OWN_BITS: u8 = 16;
/// Levels of page tables that a mapping can lack.
const LEVELS: u8 = 3;

/// The machine and the market's memory on it.
#[derive(Debug)]
pub struct Root<M> {
    /// The machine.
    pub machine: M,
    /// Its memory and the CSpace.
    pub memory: Memory,
    own: Option<BlockId>,
}

impl<M: Machine> Root<M> {
    /// Nothing is taken from the memory yet.
    pub fn new(machine: M, memory: Memory) -> Root<M> {
        Root { machine, memory, own: None }
    }

    /// A block of 2^`bits` bytes.
    ///
    /// # Errors
    /// As [`Memory::take`].
    pub fn take(&mut self, bits: u8) -> Result<BlockId, MemoryError> {
        self.memory.take(&mut self.machine, bits)
    }

    /// Takes a block back, with all that was made of it.
    ///
    /// # Errors
    /// As [`Memory::give`].
    pub fn give(&mut self, block: BlockId) -> Result<(), MemoryError> {
        self.memory.give(&mut self.machine, block)
    }

    /// An empty slot.
    ///
    /// # Errors
    /// [`MemoryError::NoSlots`].
    pub fn slot(&mut self) -> Result<Slot, MemoryError> {
        self.memory.slots.take(1).ok_or(MemoryError::NoSlots)
    }

    /// Removes a capability and gives its slot back.
    ///
    /// # Errors
    /// The kernel's; an empty slot is none.
    pub fn drop_slot(&mut self, slot: Slot) -> Result<(), MemoryError> {
        match self.machine.delete(slot) {
            Err(fault) if fault.error != Error::SlotEmpty => return Err(fault.into()),
            _ => self.memory.slots.give(slot),
        }
        Ok(())
    }

    /// Makes one object of an Untyped in a slot of the market's.
    ///
    /// # Errors
    /// The kernel's, or [`MemoryError::NoSlots`].
    pub fn make(&mut self, untyped: Slot, object: ObjectType, size_bits: u8) -> Result<Slot, MemoryError> {
        let slot = self.slot()?;
        match self.machine.retype(untyped, object, size_bits, slot, 1) {
            Ok(()) => Ok(slot),
            Err(fault) => {
                self.memory.slots.give(slot);
                Err(fault.into())
            }
        }
    }

    /// Makes an object that lives as long as the market. `size_bits` is 12 for a frame, else 0.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn make_own(&mut self, object: ObjectType, size_bits: u8) -> Result<Slot, MemoryError> {
        if let Some(block) = self.own {
            match self.make(self.memory.slot(block), object, size_bits) {
                Err(MemoryError::Kernel(fault)) if fault.error == Error::NotEnoughMemory => {}
                made => return made,
            }
        }
        let block = self.take(OWN_BITS)?;
        self.own = Some(block);
        self.make(self.memory.slot(block), object, size_bits)
    }

    /// Maps a frame into the market's own address space, with the page tables that it takes.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn map(&mut self, frame: Slot, gpa: u64, rights: Rights) -> Result<(), MemoryError> {
        let vm = Slot::root(slots::VM);
        for _ in 0..=LEVELS {
            match self.machine.map_frame(frame, vm, gpa, rights) {
                Err(fault) if fault.error == Error::NoPageTable => {
                    let table = self.make_own(ObjectType::PageTable, 0)?;
                    self.machine.map_table(table, vm, gpa, fault.detail)?;
                }
                done => return done.map_err(MemoryError::from),
            }
        }
        self.machine.map_frame(frame, vm, gpa, rights).map_err(MemoryError::from)
    }

    /// Makes a frame of 4 KiB that lives as long as the market and maps it at `gpa`.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn own_page(&mut self, gpa: u64) -> Result<Slot, MemoryError> {
        let frame = self.make_own(ObjectType::Frame, PAGE_BITS)?;
        self.map(frame, gpa, Rights::READ | Rights::WRITE)?;
        Ok(frame)
    }

    /// Gives the allocator a block of 2 MiB more.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn add_heap(&mut self) -> Result<(), MemoryError> {
        let block = self.take(LARGE_BITS)?;
        let frame = self.make(self.memory.slot(block), ObjectType::Frame, LARGE_BITS)?;
        self.map(frame, HEAP_WINDOW, Rights::READ | Rights::WRITE)?;
        self.machine.add_heap(HEAP_WINDOW, 1 << LARGE_BITS);
        Ok(())
    }

    /// Copies `bytes` to the start of a frame of 2^`bits` bytes (12 or 21) that is mapped nowhere.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn fill(&mut self, frame: Slot, bits: u8, bytes: &[u8]) -> Result<(), MemoryError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let window = if bits == LARGE_BITS { LARGE_COPY_WINDOW } else { COPY_WINDOW };
        self.map(frame, window, Rights::READ | Rights::WRITE)?;
        self.machine.write(window, bytes);
        self.machine.unmap_frame(frame).map_err(MemoryError::from)
    }
}
