//! Memory as it comes and goes: leased blocks, accepted, mapped, used and given back.
//!
//! A lease is an `Untyped` that arrives through the channel to the market. The pager retypes it to frames and maps them
//! from [`LEASE_BASE`] on, with page tables and CNodes made from the own base. It does no I/O but invocations; who pays,
//! and what to give up when, is the market client's and the application's business.
//!
//! Leased memory can go away in the middle of an access. It is therefore used in one of two ways:
//! - by [`Pager::read`] and [`Pager::write`], which copy and answer [`Gone`] when the memory went away meanwhile;
//! - lent to the heap with [`Pager::lend_to_heap`]. Then it must be taken back from the heap in time (the notice is one
//!   whole interval); a program whose heap is taken away by force is stopped at its next use.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use cap_spec::abi::PAGE_BITS;
use proto::start::LEASE_BASE;

use crate::cap::{Cap, Channel, Error, Fault, Frame, Object, PageTable, Rights, Slot, Untyped, Vm};
use crate::heap::{self, Piece};
use crate::slots::{MAX_RUN, Slots};

/// log2 bytes of the largest lease, which is also the large frame.
pub const LARGE_BITS: u8 = 21;
/// log2 bytes of the window of addresses for blocks in small frames, and of the one behind it for large frames. They
/// are apart, because a page table once made for small frames stays where it is.
const WINDOW_BITS: u8 = 30;

/// The memory is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// Why a lease could not be put to use. It has been dropped; the market should be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagerError {
    /// No addresses are left, or the size is none that is leased.
    NoAddresses,
    /// The kernel refused; mostly because the base is used up.
    Kernel(Fault),
}

impl From<Fault> for PagerError {
    fn from(fault: Fault) -> PagerError {
        PagerError::Kernel(fault)
    }
}

/// A block that was leased.
#[derive(Debug)]
struct Block {
    bits: u8,
    gpa: u64,
    untyped: Cap<Untyped>,
    /// Runs of slots with frames: first slot and count.
    frames: Vec<(Slot, u16)>,
    heap: Option<Piece>,
}

/// The leased memory of a VM.
#[derive(Debug)]
pub struct Pager {
    slots: Slots,
    small: Addresses,
    large: Addresses,
    /// By lease number.
    blocks: BTreeMap<u32, Block>,
    base: Cap<Untyped>,
    vm: Cap<Vm>,
}

impl Pager {
    /// Keeps books of leases for `vm`; tables and CNodes come from `base`, capabilities go into `slots`.
    pub fn new(slots: Slots, base: Cap<Untyped>, vm: Cap<Vm>) -> Pager {
        Pager {
            slots,
            small: Addresses::new(LEASE_BASE, WINDOW_BITS),
            large: Addresses::new(LEASE_BASE + (1 << WINDOW_BITS), WINDOW_BITS),
            blocks: BTreeMap::new(),
            base,
            vm,
        }
    }

    /// Accepts the block of 2^`bits` bytes that is in flight in `channel` as lease number `lease`, and maps it.
    pub fn accept(&mut self, channel: Cap<Channel>, lease: u32, bits: u8) -> Result<(), PagerError> {
        if !(PAGE_BITS..=LARGE_BITS).contains(&bits) {
            return Err(PagerError::NoAddresses);
        }
        let slot = self.slots.take_or_grow(1, self.base)?;
        let untyped = match channel.accept::<Untyped>(slot) {
            Ok(untyped) => untyped,
            Err(fault) => {
                self.slots.give(slot, 1);
                return Err(fault.into());
            }
        };
        let Some(gpa) = self.addresses(bits).take(bits) else {
            self.drop_untyped(untyped);
            return Err(PagerError::NoAddresses);
        };
        let mut block = Block { bits, gpa, untyped, frames: Vec::new(), heap: None };
        let mapped = self.map(&mut block);
        match mapped {
            Ok(()) => {
                // A number that is used twice is the market's mistake; the older block is let go of.
                if let Some(older) = self.blocks.insert(lease, block) {
                    self.forget(older);
                }
                Ok(())
            }
            Err(fault) => {
                self.forget(block);
                Err(fault.into())
            }
        }
    }

    /// Retypes a block to frames and maps them.
    fn map(&mut self, block: &mut Block) -> Result<(), Fault> {
        let frame_bits = if block.bits == LARGE_BITS { LARGE_BITS } else { PAGE_BITS };
        let mut left = 1u16 << (block.bits - frame_bits);
        let mut gpa = block.gpa;
        while left > 0 {
            let count = left.min(MAX_RUN);
            let first = self.slots.take_or_grow(count, self.base)?;
            block.frames.push((first, count));
            block.untyped.retype_many::<Frame>(frame_bits, first, count)?;
            for at in 0..count {
                self.map_frame(first.after(at).cap(), gpa)?;
                gpa += 1 << frame_bits;
            }
            left -= count;
        }
        Ok(())
    }

    /// Maps a frame, with the page tables that are missing.
    fn map_frame(&mut self, frame: Cap<Frame>, gpa: u64) -> Result<(), Fault> {
        loop {
            match frame.map(self.vm, gpa, Rights::READ | Rights::WRITE) {
                // Each pass puts in one of at most three missing levels.
                Err(fault) if fault.error == Error::NoPageTable => {
                    let slot = self.slots.take_or_grow(1, self.base)?;
                    let table = self.base.retype::<PageTable>(0, slot);
                    let placed = table.and_then(|table| table.map(self.vm, gpa, fault.detail as u8));
                    if let Err(fault) = placed {
                        // If the table was made, it goes; if not, the slot is empty and there is nothing to refuse.
                        let _ = slot.delete();
                        self.slots.give(slot, 1);
                        return Err(fault);
                    }
                }
                done => return done,
            }
        }
    }

    /// Maps `pages` pages of the base, for as long as the VM lives, and returns their address. They stay mapped in part
    /// if the base does not have as many.
    pub fn map_base(&mut self, pages: u32) -> Result<u64, PagerError> {
        let bits = PAGE_BITS + pages.max(1).next_power_of_two().ilog2() as u8;
        let gpa = if bits <= WINDOW_BITS { self.small.take(bits) } else { None };
        let gpa = gpa.ok_or(PagerError::NoAddresses)?;
        let mut done = 0;
        while done < pages {
            let count = (pages - done).min(u32::from(MAX_RUN)) as u16;
            let first = self.slots.take_or_grow(count, self.base)?;
            self.base.retype_many::<Frame>(PAGE_BITS, first, count)?;
            self.map_row(first, count, gpa + (u64::from(done) << PAGE_BITS))?;
            done += u32::from(count);
        }
        Ok(gpa)
    }

    /// Scrubs a lease and lets go of it, so that the market can sell it on at once. False if there is no such lease or
    /// the heap still uses it.
    pub fn release(&mut self, lease: u32) -> bool {
        if !self.take_from_heap(lease) {
            return false;
        }
        let Some(block) = self.blocks.remove(&lease) else {
            return false;
        };
        self.forget(block);
        true
    }

    /// Takes note that a lease was taken by force. True if the heap used it: then the program can't go on for long.
    pub fn taken(&mut self, lease: u32) -> bool {
        let Some(mut block) = self.blocks.remove(&lease) else {
            return false;
        };
        let in_heap = block.heap.take().is_some();
        self.forget(block);
        in_heap
    }

    /// Lends a lease to the heap. False if there is no such lease or the heap has it already.
    pub fn lend_to_heap(&mut self, lease: u32) -> bool {
        let Some(block) = self.blocks.get_mut(&lease) else {
            return false;
        };
        if block.heap.is_none() {
            // SAFETY: the block is mapped, and nothing else uses its addresses while the heap has it: `read` and `write`
            // refuse, `release` takes it back first. Memory that is taken by force faults and stops the program.
            block.heap = unsafe { heap::claim(block.gpa as *mut u8, 1 << block.bits) };
            return block.heap.is_some();
        }
        false
    }

    /// Takes a lease back from the heap if nothing is allocated in it. True if the heap does not have it (any more).
    pub fn take_from_heap(&mut self, lease: u32) -> bool {
        let Some(block) = self.blocks.get_mut(&lease) else {
            return false;
        };
        match block.heap.take().map(heap::take_back) {
            None | Some(Ok(())) => true,
            Some(Err(piece)) => {
                block.heap = Some(piece);
                false
            }
        }
    }

    /// Maps `count` (1 to 64) frames of 4 KiB in consecutive slots, for as long as the VM lives, and returns their address.
    pub fn map_frames(&mut self, first: Slot, count: u16) -> Result<u64, PagerError> {
        let bits = PAGE_BITS + count.max(1).next_power_of_two().ilog2() as u8;
        let gpa = self.small.take(bits).ok_or(PagerError::NoAddresses)?;
        self.map_row(first, count, gpa)?;
        Ok(gpa)
    }

    /// As [`Pager::map_frames`], at an address which that has returned for as many frames that are gone.
    pub fn map_frames_at(&mut self, first: Slot, count: u16, gpa: u64) -> Result<(), PagerError> {
        Ok(self.map_row(first, count, gpa)?)
    }

    fn map_row(&mut self, first: Slot, count: u16, gpa: u64) -> Result<(), Fault> {
        (0..count).try_for_each(|at| self.map_frame(first.after(at).cap(), gpa + (u64::from(at) << PAGE_BITS)))
    }

    /// `count` (1 to 64) consecutive empty slots, for as long as the VM lives.
    pub fn take_slots(&mut self, count: u16) -> Result<Slot, PagerError> {
        Ok(self.slots.take_or_grow(count, self.base)?)
    }

    /// Makes an object of a fixed size from the base, for as long as the VM lives.
    pub fn make<T: Object>(&mut self) -> Result<Cap<T>, PagerError> {
        let slot = self.take_slots(1)?;
        Ok(self.base.retype(0, slot)?)
    }

    /// Gives the heap pages of the base for good. False if the base does not have them.
    pub fn heap_from_base(&mut self, pages: u32) -> bool {
        let Ok(gpa) = self.map_base(pages) else {
            return false;
        };
        // SAFETY: the pages have just been mapped, for the heap alone, and stay.
        unsafe { heap::claim(gpa as *mut u8, (pages as usize) << PAGE_BITS) }.is_some()
    }

    /// Copies bytes into a lease.
    pub fn write(&self, lease: u32, offset: u64, bytes: &[u8]) -> Result<(), Gone> {
        let gpa = self.range(lease, offset, bytes.len())?;
        // SAFETY: the range lies within a block of the lease window, which no Rust object uses as it is not the heap's.
        unsafe { copy(gpa, bytes.as_ptr() as u64, bytes.len()) }
    }

    /// Copies bytes out of a lease.
    pub fn read(&self, lease: u32, offset: u64, bytes: &mut [u8]) -> Result<(), Gone> {
        let gpa = self.range(lease, offset, bytes.len())?;
        // SAFETY: as above; the target is the caller's.
        unsafe { copy(bytes.as_mut_ptr() as u64, gpa, bytes.len()) }
    }

    /// Every lease: number and log2 bytes, in the order of the numbers.
    pub fn leases(&self) -> impl Iterator<Item = (u32, u8)> + '_ {
        self.blocks.iter().map(|(&lease, block)| (lease, block.bits))
    }

    /// log2 bytes of a lease.
    pub fn bits(&self, lease: u32) -> Option<u8> {
        self.blocks.get(&lease).map(|block| block.bits)
    }

    /// Where a lease is mapped.
    pub fn address(&self, lease: u32) -> Option<u64> {
        self.blocks.get(&lease).map(|block| block.gpa)
    }

    /// Pages of 4 KiB in all leases.
    pub fn pages(&self) -> u64 {
        self.blocks.values().map(|block| 1 << (block.bits - PAGE_BITS)).sum()
    }

    /// The empty slots, for other uses.
    pub fn slots(&mut self) -> &mut Slots {
        &mut self.slots
    }

    /// Address of a range of a lease that the heap does not have.
    fn range(&self, lease: u32, offset: u64, length: usize) -> Result<u64, Gone> {
        let block = self.blocks.get(&lease).ok_or(Gone)?;
        let end = offset.checked_add(length as u64).ok_or(Gone)?;
        if block.heap.is_some() || end > 1 << block.bits {
            return Err(Gone);
        }
        Ok(block.gpa + offset)
    }

    fn addresses(&mut self, bits: u8) -> &mut Addresses {
        if bits == LARGE_BITS { &mut self.large } else { &mut self.small }
    }

    /// Takes a block out of the books, and out of the CSpace if it is still there.
    fn forget(&mut self, block: Block) {
        self.drop_untyped(block.untyped);
        for (first, count) in block.frames {
            self.slots.give(first, count);
        }
        self.addresses(block.bits).give(block.gpa, block.bits);
    }

    /// Scrubs an `Untyped` and removes the capability. What is refused has been taken away already.
    fn drop_untyped(&mut self, untyped: Cap<Untyped>) {
        let _ = untyped.revoke();
        let _ = untyped.delete();
        self.slots.give(untyped.slot(), 1);
    }
}

/// Copies between own and leased memory.
///
/// # Safety
/// As for `arch::copy`.
#[cfg(target_os = "none")]
unsafe fn copy(to: u64, from: u64, bytes: usize) -> Result<(), Gone> {
    // SAFETY: as the caller says.
    if unsafe { crate::arch::copy(to, from, bytes as u64) } { Ok(()) } else { Err(Gone) }
}

/// On the host there is no leased memory.
#[cfg(not(target_os = "none"))]
unsafe fn copy(_to: u64, _from: u64, _bytes: usize) -> Result<(), Gone> {
    Err(Gone)
}

/// A window of addresses, handed out in aligned blocks of a power of two (a buddy system).
#[derive(Debug)]
struct Addresses {
    base: u64,
    bits: u8,
    /// Free blocks by log2 bytes, from the page on.
    free: Vec<BTreeSet<u64>>,
}

impl Addresses {
    fn new(base: u64, bits: u8) -> Addresses {
        let mut free: Vec<BTreeSet<u64>> = (PAGE_BITS..=bits).map(|_| BTreeSet::new()).collect();
        free[usize::from(bits - PAGE_BITS)].insert(base);
        Addresses { base, bits, free }
    }

    fn list(&mut self, bits: u8) -> &mut BTreeSet<u64> {
        &mut self.free[usize::from(bits - PAGE_BITS)]
    }

    /// Takes the lowest block of the smallest size that is large enough, so that few page tables are needed.
    fn take(&mut self, bits: u8) -> Option<u64> {
        let mut size = (bits..=self.bits).find(|&size| !self.list(size).is_empty())?;
        let address = self.list(size).pop_first()?;
        while size > bits {
            size -= 1;
            self.list(size).insert(address + (1 << size));
        }
        Some(address)
    }

    fn give(&mut self, mut address: u64, mut bits: u8) {
        while bits < self.bits {
            let buddy = self.base + ((address - self.base) ^ 1 << bits);
            if !self.list(bits).remove(&buddy) {
                break;
            }
            address = address.min(buddy);
            bits += 1;
        }
        self.list(bits).insert(address);
    }
}

#[cfg(test)]
mod tests;
