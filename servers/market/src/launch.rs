//! Making a VM: its base, its objects, its image, its address space and its CSpace, up to its first instruction.
//!
//! Everything that belongs to the VM is made inside its base and ends up in its own CSpace, so that the kernel's check
//! at `Vcpu.Launch` holds and the market keeps nothing that reads a running tenant: of the base the parent block, of the
//! VM the read-only handler and statistics pages, besides channels and read-only pages that the market owns.

use crate::archive::{Image, LARGE_IMAGE};
use crate::machine::{Invoke, Machine, Slot};
use crate::memory::{BlockId, LARGE_BITS, MemoryError, PAGE_BITS};
use crate::root::Root;
use alloc::vec::Vec;
use cap_spec::abi::{self, Error, IMAGE_BASE, ObjectType, Rights, SLOT_BITS, VCPU_BITS, VM_BITS, slots};

/// log2 slots of the smallest root CNode.
const MIN_CNODE_BITS: u8 = 10;
/// log2 slots of the largest.
const MAX_CNODE_BITS: u8 = 16;
/// Slots beyond those for the image and one per page of the base.
const SPARE_SLOTS: u64 = 256;
/// Page tables of a VM besides those below its image in 4 KiB frames and its input: levels 3, 2, and level 1 of the
/// first 2 MiB, where the kernel's pages, the board and the rings lie.
const FIXED_TABLES: u64 = 3;
const PAGE: u64 = 1 << PAGE_BITS;
const LARGE: u64 = 1 << LARGE_BITS;
/// A page that the VM may read and write.
const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);
/// The image: code and data are together.
const ALL_ACCESS: Rights = Rights::READ.union(Rights::WRITE).union(Rights::EXECUTE);

/// What a VM's base consists of, in the order in which it is made: descending size, so that no room is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// log2 bytes of the base.
    pub bits: u8,
    /// log2 slots of the root CNode.
    pub cnode_bits: u8,
    /// Image frames of 2 MiB.
    pub large_frames: u64,
    /// Image frames of 4 KiB.
    pub small_frames: u64,
    /// Page tables.
    pub tables: u64,
    /// Pages left for the VM to retype.
    pub free_pages: u64,
    /// Pages of all that together.
    pub pages: u64,
}

impl Layout {
    /// The layout for an image, free pages and bytes of input.
    pub fn new(image: &Image<'_>, free_pages: u64, input_bytes: u64) -> Layout {
        let large = image.memory_bytes >= LARGE_IMAGE;
        let large_frames = if large { image.memory_bytes.div_ceil(LARGE) } else { 0 };
        let small_frames = if large { 0 } else { image.memory_bytes / PAGE };
        // Level 2 tables cover 1 GiB; the input lies in the first one, as the image does.
        let rest_of_input = input_bytes % LARGE;
        let small_input = rest_of_input > 0 && rest_of_input < LARGE_IMAGE;
        let tables = FIXED_TABLES + u64::from(!large) + u64::from(small_input);
        let wanted = u64::from(slots::FREE) + small_frames + large_frames + tables + free_pages + SPARE_SLOTS;
        let cnode_bits = (wanted.next_power_of_two().ilog2() as u8).clamp(MIN_CNODE_BITS, MAX_CNODE_BITS);
        let objects = (1 << (cnode_bits + SLOT_BITS)) + (1 << VM_BITS) + (1 << VCPU_BITS);
        let bytes = large_frames * LARGE + objects + (small_frames + tables + free_pages) * PAGE;
        let bits = bytes.next_power_of_two().ilog2() as u8;
        Layout { bits, cnode_bits, large_frames, small_frames, tables, free_pages, pages: bytes / PAGE }
    }
}

/// Blocks for the input: as many frames of 2 MiB as are filled half or more, the rest in frames of 4 KiB.
pub fn input_frames(bytes: u64) -> Vec<u8> {
    let mut frames = Vec::new();
    let mut left = bytes;
    while left >= LARGE_IMAGE {
        frames.push(LARGE_BITS);
        left = left.saturating_sub(LARGE);
    }
    frames.resize(frames.len() + left.div_ceil(PAGE) as usize, PAGE_BITS);
    frames
}

/// Pages of the frames that [`input_frames`] names.
pub fn input_pages(bytes: u64) -> u64 {
    input_frames(bytes).iter().map(|bits| 1 << (bits - PAGE_BITS)).sum()
}

/// A VM that is being made. Its objects are in slots of the market's until [`Builder::launch`].
#[derive(Debug)]
pub struct Builder {
    base: Slot,
    cnode: Slot,
    vm: Slot,
    vcpu: Slot,
    /// The next slot from the end of the CNode that takes a frame or a table.
    top: u16,
    layout: Layout,
}

impl Builder {
    /// Makes base, root CNode, Vm and Vcpu in `block`, and the image in its frames.
    ///
    /// # Errors
    /// [`MemoryError`]; what was made goes away with the block.
    pub fn new<M: Machine>(
        root: &mut Root<M>,
        block: BlockId,
        layout: Layout,
        image: &Image<'_>,
    ) -> Result<Builder, MemoryError> {
        let base = root.make(root.memory.slot(block), ObjectType::Untyped, layout.bits)?;
        // The frames come first in the base, but their slots are in the CNode, which needs its own place: it is made
        // after the large frames, whose capabilities wait in slots of the market's.
        let mut large = Vec::new();
        for _ in 0..layout.large_frames {
            large.push(root.make(base, ObjectType::Frame, LARGE_BITS)?);
        }
        let cnode = root.memory.slots.take_root().ok_or(MemoryError::NoSlots)?;
        root.machine.retype(base, ObjectType::CNode, layout.cnode_bits, cnode, 1)?;
        let vm = root.make(base, ObjectType::Vm, 0)?;
        let vcpu = root.make(base, ObjectType::Vcpu, 0)?;
        let top = ((1u32 << layout.cnode_bits) - 1) as u16;
        let mut builder = Builder { base, cnode, vm, vcpu, top, layout };
        root.machine.invoke(abi::Label::VmSetCSpace, vm, [cnode.raw(), 0, 0, 0, 0])?;
        root.machine.invoke(abi::Label::VcpuAttach, vcpu, [vm.raw(), image.entry, image.cr3, 0, 0])?;
        let mut gpa = IMAGE_BASE;
        for frame in large {
            let slot = builder.next_slot();
            root.machine.move_to(slot, frame)?;
            root.memory.slots.give(frame);
            builder.place(root, slot, gpa, image, LARGE)?;
            gpa += LARGE;
        }
        for _ in 0..layout.small_frames {
            let slot = builder.next_slot();
            root.machine.retype(base, ObjectType::Frame, PAGE_BITS, slot, 1)?;
            builder.place(root, slot, gpa, image, PAGE)?;
            gpa += PAGE;
        }
        Ok(builder)
    }

    /// The VM's Vcpu, to bind things to it.
    pub fn vcpu(&self) -> Slot {
        self.vcpu
    }

    /// The VM, to map things into it.
    pub fn vm(&self) -> Slot {
        self.vm
    }

    /// First guest-physical address after the image that is not mapped.
    pub fn image_end(&self) -> u64 {
        IMAGE_BASE + self.layout.large_frames * LARGE + self.layout.small_frames * PAGE
    }

    /// A slot of the VM's root CNode.
    pub fn slot(&self, index: u16) -> Slot {
        Slot::nested(self.cnode.index(), index)
    }

    /// Slots from `slots::FREE` up to this one are empty. Call it when all mappings are made.
    pub fn free_slots_end(&self) -> u16 {
        self.top + 1
    }

    /// Copies one frame's part of the image and maps it.
    fn place<M: Machine>(
        &mut self,
        root: &mut Root<M>,
        frame: Slot,
        gpa: u64,
        image: &Image<'_>,
        size: u64,
    ) -> Result<(), MemoryError> {
        let length = image.bytes.len();
        let start = ((gpa - IMAGE_BASE) as usize).min(length);
        let end = ((gpa - IMAGE_BASE + size) as usize).min(length);
        root.fill(frame, size.ilog2() as u8, &image.bytes[start..end])?;
        self.map(root, frame, gpa, ALL_ACCESS)
    }

    /// Maps a frame into the VM, with the page tables that it takes, which come from the base.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn map<M: Machine>(
        &mut self,
        root: &mut Root<M>,
        frame: Slot,
        gpa: u64,
        rights: Rights,
    ) -> Result<(), MemoryError> {
        loop {
            match root.machine.map_frame(frame, self.vm, gpa, rights) {
                // Each pass puts in one of at most three missing levels.
                Err(fault) if fault.error == Error::NoPageTable => {
                    let table = self.next_slot();
                    root.machine.retype(self.base, ObjectType::PageTable, 0, table, 1)?;
                    root.machine.map_table(table, self.vm, gpa, fault.detail)?;
                }
                done => return done.map_err(MemoryError::from),
            }
        }
    }

    /// Maps the pages that the kernel writes: info page and the VM's own statistics page. Returns the market's
    /// capabilities to the handler page and to the statistics page.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn map_kernel_pages<M: Machine>(&mut self, root: &mut Root<M>) -> Result<(Slot, Slot), MemoryError> {
        let info = self.next_slot();
        get_page(root, abi::Label::VcpuGetPage, self.vcpu, Some(0), info)?;
        self.map(root, info, abi::INFO_PAGE, READ_WRITE)?;
        let stats = self.next_slot();
        get_page(root, abi::Label::VmGetPage, self.vm, None, stats)?;
        self.map(root, stats, abi::STATS_PAGE, Rights::READ)?;
        let handler = root.slot()?;
        get_page(root, abi::Label::VcpuGetPage, self.vcpu, Some(1), handler)?;
        let market_stats = root.slot()?;
        get_page(root, abi::Label::VmGetPage, self.vm, None, market_stats)?;
        Ok((handler, market_stats))
    }

    /// Makes the two pages of rings of `side`, and maps them at `at` for the market and, by copies, at
    /// [`abi::MARKET_RING`] for the VM. The slots that this takes join `slots`, also when it fails half-way.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn share_rings<M: Machine>(
        &mut self,
        root: &mut Root<M>,
        side: Slot,
        at: u64,
        slots: &mut Vec<Slot>,
    ) -> Result<(), MemoryError> {
        for page in [0, PAGE] {
            let frame = root.make(side, ObjectType::Frame, PAGE_BITS)?;
            slots.push(frame);
            root.map(frame, at + page, READ_WRITE)?;
            let copy = root.slot()?;
            slots.push(copy);
            root.machine.copy(copy, frame, READ_WRITE)?;
            self.map(root, copy, abi::MARKET_RING + page, READ_WRITE)?;
        }
        Ok(())
    }

    /// Gives the VM its Vm, base and CNode, and starts it. Before, the rest of the base beyond its free pages is used
    /// up, so that nobody has more than its base promises.
    ///
    /// # Errors
    /// [`MemoryError`]; what was made goes away with the block.
    pub fn launch<M: Machine>(self, root: &mut Root<M>) -> Result<(), MemoryError> {
        self.use_up(root)?;
        root.machine.move_to(self.slot(slots::VM), self.vm)?;
        root.machine.move_to(self.slot(slots::BASE), self.base)?;
        let index = u64::from(slots::VCPU);
        // The kernel names both arguments in the VM's CSpace, whose CNode is still reached through the market's slot
        // until here; it goes last, as nothing can be moved by the market afterwards.
        root.machine.move_to(self.slot(slots::CNODE), self.cnode)?;
        let base = Slot::root(slots::BASE).raw();
        root.machine.invoke(abi::Label::VcpuLaunch, self.vcpu, [base, index, 0, 0, 0])?;
        for slot in [self.vm, self.base, self.cnode, self.vcpu] {
            root.memory.slots.give(slot);
        }
        Ok(())
    }

    /// Retypes and deletes untypeds until only the free pages are left: a watermark does not go down by deletion.
    fn use_up<M: Machine>(&self, root: &mut Root<M>) -> Result<(), MemoryError> {
        let size = 1u64 << self.layout.bits;
        let end = size - self.layout.free_pages * PAGE;
        let scratch = root.slot()?;
        let mut mark = size - root.machine.identify(self.base)?.detail;
        while mark < end {
            // The largest power of two that fits and is aligned here; the watermark is a multiple of 256 at least.
            let aligned = mark.next_multiple_of(PAGE);
            if aligned >= end {
                break;
            }
            let bits = aligned.trailing_zeros().min((end - aligned).ilog2()) as u8;
            root.machine.retype(self.base, ObjectType::Untyped, bits, scratch, 1)?;
            root.machine.delete(scratch)?;
            mark = aligned + (1 << bits);
        }
        root.memory.slots.give(scratch);
        Ok(())
    }

    fn next_slot(&mut self) -> Slot {
        let slot = self.slot(self.top);
        self.top -= 1;
        slot
    }
}

/// Derives a page that the kernel writes.
fn get_page<M: Machine>(
    root: &mut Root<M>,
    label: abi::Label,
    object: Slot,
    page: Option<u64>,
    to: Slot,
) -> Result<(), MemoryError> {
    let (cnode, index) = (to.holder().raw(), u64::from(to.index()));
    let arguments = match page {
        Some(page) => [page, cnode, index, 0, 0],
        None => [cnode, index, 0, 0, 0],
    };
    root.machine.invoke(label, object, arguments).map(drop).map_err(MemoryError::from)
}
