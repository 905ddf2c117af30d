//! A root VM without a market: holds every capability, makes child VMs from a few instructions, and reports by itself.
//!
//! Probes and the bench are root images of their own, so that nothing but the kernel is between them and the machine.

use alloc::string::String;
use alloc::vec::Vec;
use cap_spec::abi::{Error, INFO_PAGE, ROOT_BOOT_INFO, Rights, STATS_PAGE, boot_info, slots, stats_page};
use proto::host::Record;
use userlib::cap::{
    CNode, Cap, Channel, CpuTime, Fault, Frame, IoPort, PageTable, PortWidth, Slot, Untyped, Vcpu, Vm, own,
};

/// Where the root VM maps pages of children while it fills them. Its own tables for it are made at the start.
pub const WINDOW: u64 = 0x8000_0000;
/// Guest-physical layout of a child: top page table, its one lower level, code, then data pages.
pub const CHILD_TOP: u64 = 0x1000;
const CHILD_LOWER: u64 = 0x2000;
/// Where a child's code starts.
pub const CHILD_CODE: u64 = 0x3000;
/// First of the pages that root and child share in the ring window, where foreign writable memory is allowed.
pub const SHARED: u64 = cap_spec::abi::MARKET_RING;
/// Bits of the base region of a child.
pub const CHILD_BITS: u8 = 17;
/// Slots of a child's root CNode, log2.
const CHILD_CNODE_BITS: u8 = 6;
/// Slot of a child in which it finds its end of the channel to the root VM.
pub const CHILD_CHANNEL: u16 = slots::MARKET;
/// Slots from here on in a child's CNode hold its frames and tables.
const CHILD_FRAMES: u16 = 16;

/// Where [`Root::add_heap`] has its memory: a GiB of its own, in pages of 2 MiB.
const HEAP: u64 = 0xc000_0000;
const LARGE_BITS: u8 = 21;

const COM1: u16 = 0x3f8;
const COM2: u16 = 0x2f8;
const DEBUG_EXIT: u16 = 0xf4;

/// The root VM's hold on the machine.
pub struct Root {
    /// Frequency of the TSC.
    pub tsc_hz: u64,
    /// Cores.
    pub cores: u64,
    next_slot: u16,
    next_window: u64,
    /// Boot Untypeds that have been taken.
    taken: Vec<u16>,
    memory: Option<Cap<Untyped>>,
    /// Channels come from memory of their own, so that they don't spoil the alignment of larger objects.
    channels: Cap<Untyped>,
}

/// A child VM that has been made and not yet launched, or that runs.
pub struct Child {
    /// The block that it was made from: its parent Untyped, which revokes it.
    pub block: Cap<Untyped>,
    /// Its Vcpu, in the root VM's CSpace until launch.
    pub vcpu: Cap<Vcpu>,
    /// Its address space, in its own CSpace.
    pub vm: Cap<Vm>,
    /// Its root CNode, in the root VM's CSpace until launch.
    pub cnode: Cap<CNode>,
    /// Its CPU time, which the root VM keeps.
    pub time: Cap<CpuTime>,
    /// The root VM's end of the channel.
    pub channel: Cap<Channel>,
}

/// Reads a word of a page that the kernel writes.
pub fn word(page: u64, offset: usize) -> u64 {
    // SAFETY: the pages named by cap-spec are mapped for as long as the VM lives; the word may change at any time.
    unsafe { core::ptr::with_exposed_provenance::<u64>(page as usize + offset).read_volatile() }
}

/// Writes a word of a page that is shared with a child.
pub fn set_word(page: u64, offset: usize, value: u64) {
    // SAFETY: the page is mapped there, and nobody refers to it.
    unsafe { core::ptr::with_exposed_provenance_mut::<u64>(page as usize + offset).write_volatile(value) };
}

/// The time-stamp counter.
#[inline(always)]
pub fn tsc() -> u64 {
    // SAFETY: RDTSC is open to guests.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Exits of the own VM so far, of every kind.
pub fn exits() -> u64 {
    (0..32).map(|kind| word(STATS_PAGE, stats_page::EXITS + kind * 8)).sum()
}

/// What the data pages of a child are copied from: a page of the root VM's image.
const DATA: u64 = cap_spec::abi::IMAGE_BASE;

/// Copies a page by words: an instruction each, where a copy by bytes would count eight times as many.
fn copy_page(from: u64, to: &mut [u8]) {
    assert!(to.len() == 4096);
    // SAFETY: the source is a mapped page of the own image, which nobody writes, and the destination is borrowed.
    unsafe {
        core::arch::asm!("rep movsq", inout("rsi") from => _, inout("rdi") to.as_mut_ptr() => _, inout("rcx") 512usize => _,
            options(nostack, preserves_flags));
    }
}

/// What stands behind `key=` on the kernel command line, up to the next blank; empty if nothing does.
pub fn option(key: &str) -> String {
    const BYTES: usize = 512;
    let words = (0..BYTES / 8).map(|index| word(ROOT_BOOT_INFO, boot_info::COMMAND_LINE + index * 8));
    let line: Vec<u8> = words.flat_map(u64::to_le_bytes).take_while(|&byte| byte != 0).collect();
    let line = String::from_utf8_lossy(&line);
    let value = line.split_whitespace().find_map(|text| text.strip_prefix(key)?.strip_prefix('='));
    String::from(value.unwrap_or_default())
}

impl Root {
    /// Reads `BootInfo` and makes the tables for the window.
    pub fn new() -> Result<Root, Fault> {
        let info = |offset| word(ROOT_BOOT_INFO, offset);
        let mut root = Root {
            tsc_hz: info(boot_info::TSC_HZ),
            cores: info(boot_info::CORES),
            next_slot: info(boot_info::FIRST_FREE) as u16,
            next_window: WINDOW,
            taken: Vec::new(),
            memory: None,
            channels: Slot::root(slots::RESERVED).cap(),
        };
        root.channels = root.make(22)?;
        for level in [2, 1] {
            let table = root.make::<PageTable>(0)?;
            table.map(own::VM, WINDOW, level)?;
        }
        Ok(root)
    }

    /// A slot that is free.
    pub fn slot(&mut self) -> Slot {
        self.next_slot += 1;
        Slot::root(self.next_slot - 1)
    }

    /// What [`Root::slot`] gives next.
    pub fn mark(&self) -> u16 {
        self.next_slot
    }

    /// Deletes what is in the slots given out since `mark`, originals excepted of objects that have moved on, and gives
    /// them out again.
    pub fn return_to(&mut self, mark: u16) -> Result<(), Fault> {
        for index in mark..self.next_slot {
            match Slot::root(index).delete() {
                Ok(()) | Err(Fault { error: Error::SlotEmpty, .. }) => {}
                Err(fault) => return Err(fault),
            }
        }
        self.next_slot = mark;
        Ok(())
    }

    /// `count` consecutive free slots.
    pub fn slots(&mut self, count: u16) -> Slot {
        self.next_slot += count;
        Slot::root(self.next_slot - count)
    }

    /// The CPU time of a core, whole.
    pub fn core_time(&self, core: u16) -> Cap<CpuTime> {
        Slot::root(word(ROOT_BOOT_INFO, boot_info::FIRST_CPU_TIME) as u16 + core).cap()
    }

    /// Makes an object from the root VM's memory.
    pub fn make<T: userlib::cap::Object>(&mut self, size_bits: u8) -> Result<Cap<T>, Fault> {
        let to = self.slot();
        loop {
            let memory = match self.memory {
                Some(memory) => memory,
                None => self.next_memory()?,
            };
            match memory.retype(size_bits, to) {
                Err(Fault { error: Error::NotEnoughMemory, .. }) => self.memory = None,
                other => return other,
            }
        }
    }

    /// The smallest boot Untyped of at least 1 MiB that is left, scrubbed.
    fn next_memory(&mut self) -> Result<Cap<Untyped>, Fault> {
        let (first, count) =
            (word(ROOT_BOOT_INFO, boot_info::FIRST_UNTYPED) as u16, word(ROOT_BOOT_INFO, boot_info::UNTYPEDS) as u16);
        let bits = |index: u16| {
            word(ROOT_BOOT_INFO, boot_info::UNTYPED_BITS + usize::from(index) / 8 * 8) >> (index % 8 * 8) & 0xff
        };
        let left = (0..count).filter(|index| bits(*index) >= 20 && !self.taken.contains(index));
        let index = left.min_by_key(|&index| bits(index)).ok_or(Fault::new(Error::NotEnoughMemory, 0))?;
        self.taken.push(index);
        let memory: Cap<Untyped> = Slot::root(first + index).cap();
        memory.revoke()?;
        self.memory = Some(memory);
        Ok(memory)
    }

    /// Adds so many pages of 2 MiB to the heap, at most 512; once.
    pub fn add_heap(&mut self, pages: u64) -> Result<(), Fault> {
        self.make::<PageTable>(0)?.map(own::VM, HEAP, 2)?;
        for page in 0..pages {
            let frame = self.make::<Frame>(LARGE_BITS)?;
            frame.map(own::VM, HEAP + (page << LARGE_BITS), Rights::READ | Rights::WRITE)?;
        }
        // SAFETY: the frames have just been mapped there, and nothing else names them.
        unsafe { userlib::heap::claim(HEAP as *mut u8, (pages << LARGE_BITS) as usize) };
        Ok(())
    }

    /// Addresses in the window for `pages` pages.
    pub fn window(&mut self, pages: u64) -> u64 {
        self.next_window += pages * 4096;
        self.next_window - pages * 4096
    }

    /// Gives the addresses of [`Root::window`] back: nothing is mapped there any more from `to` on.
    pub fn reset_window(&mut self, to: u64) {
        self.next_window = to;
    }

    /// A page that the root VM sees, to be shared with children at [`SHARED`]. Returns capability and address.
    pub fn shared_page(&mut self) -> Result<(Cap<Frame>, u64), Fault> {
        let frame = self.make::<Frame>(12)?;
        let address = self.window(1);
        frame.map(own::VM, address, Rights::READ | Rights::WRITE)?;
        Ok((frame, address))
    }

    /// Makes a child VM from a block of its own: tables, `code` at [`CHILD_CODE`] followed by `extra_pages` pages, info
    /// page, shared pages at [`SHARED`], and `budget` of every `period` ticks on a core. Not launched.
    pub fn child(
        &mut self,
        code: &[u8],
        extra_pages: u16,
        shared: &[Cap<Frame>],
        core: u16,
        budget: u64,
        period: u64,
    ) -> Result<Child, Fault> {
        let block = self.make::<Untyped>(CHILD_BITS)?;
        let time = self.core_time(core).split(budget, period, self.slot())?;
        self.child_from(block, time, code, extra_pages, shared)
    }

    /// As [`Root::child`], from a block and a reservation that exist.
    pub fn child_from(
        &mut self,
        block: Cap<Untyped>,
        time: Cap<CpuTime>,
        code: &[u8],
        extra_pages: u16,
        shared: &[Cap<Frame>],
    ) -> Result<Child, Fault> {
        self.child_in(block, CHILD_BITS, time, code, extra_pages, shared)
    }

    /// As [`Root::child_from`], with a base of another size.
    pub fn child_in(
        &mut self,
        block: Cap<Untyped>,
        bits: u8,
        time: Cap<CpuTime>,
        code: &[u8],
        extra_pages: u16,
        shared: &[Cap<Frame>],
    ) -> Result<Child, Fault> {
        let all = Rights::READ | Rights::WRITE | Rights::EXECUTE;
        let base: Cap<Untyped> = block.retype(bits, self.slot())?;
        let cnode: Cap<CNode> = base.retype(CHILD_CNODE_BITS, self.slot())?;
        let node = cnode.slot().index();
        let inside = |index: u16| Slot::in_node(node, index);
        let vm: Cap<Vm> = base.retype(0, inside(slots::VM))?;
        let vcpu: Cap<Vcpu> = base.retype(0, self.slot())?;
        vm.set_cspace(cnode)?;
        vcpu.attach(vm, CHILD_CODE, CHILD_TOP, CHILD_CODE + 4096 * (1 + u64::from(extra_pages)))?;
        // Tables for the first 2 MiB: the levels 3, 2 and 1.
        base.retype_many::<PageTable>(0, inside(CHILD_FRAMES), 3)?;
        for (offset, level) in [(0, 3), (1, 2), (2, 1)] {
            inside(CHILD_FRAMES + offset).cap::<PageTable>().map(vm, 0, level)?;
        }
        let pages = 3 + extra_pages;
        let frames = CHILD_FRAMES + 3;
        base.retype_many::<Frame>(12, inside(frames), pages)?;
        let (row, more) = (inside(frames).cap::<Frame>(), u64::from(pages - 1));
        let scratch = self.window(u64::from(pages));
        row.map_row(own::VM, scratch, Rights::READ | Rights::WRITE, more)?;
        for page in 0..pages {
            // SAFETY: the pages have just been mapped there, writable, and nothing else lives in the window.
            let bytes =
                unsafe { core::slice::from_raw_parts_mut((scratch as *mut u8).add(usize::from(page) * 4096), 4096) };
            match page {
                0 => bytes[..8].copy_from_slice(&(CHILD_LOWER | 3).to_le_bytes()),
                // The first GiB as one page.
                1 => bytes[..8].copy_from_slice(&0x83u64.to_le_bytes()),
                2 => bytes[..code.len()].copy_from_slice(code),
                _ => copy_page(DATA, bytes),
            }
        }
        row.unmap_row(more)?;
        row.map_row(vm, CHILD_TOP, all, more)?;
        self.next_window = scratch;
        vcpu.page(userlib::cap::VcpuPage::Info, inside(12))?.map(vm, INFO_PAGE, Rights::READ | Rights::WRITE)?;
        for (index, &page) in shared.iter().enumerate() {
            let copy = self.slot().copy(page, Rights::READ | Rights::WRITE)?;
            copy.map(vm, SHARED + index as u64 * 4096, Rights::READ | Rights::WRITE)?;
        }
        // The original speaks for end 1.
        let ours: Cap<Channel> = self.channels.retype(0, self.slot())?;
        inside(CHILD_CHANNEL).mint(ours, Rights::all(), 2)?;
        ours.bind(own::VCPU, 1)?;
        let theirs: Cap<Channel> = inside(CHILD_CHANNEL).cap();
        theirs.bind(vcpu, 1)?;
        vcpu.bind_time(time)?;
        inside(slots::BASE).move_from(base)?;
        Ok(Child { block, vcpu, vm, cnode, time, channel: ours })
    }

    /// A block that was revoked is whole and without children, and all of it, made into frames anew, is zero: says what
    /// is not so, if anything.
    pub fn is_clean(&mut self, block: Cap<Untyped>, bits: u8) -> Result<Result<(), &'static str>, Fault> {
        const ROW: u64 = 32;
        let found = block.slot().identify()?;
        if found.size_bits != bits || found.amount != 1 << bits || found.has_children {
            return Ok(Err("the block is not whole"));
        }
        let (mark, pages) = (self.mark(), 1u64 << (bits - 12));
        let row = pages.min(ROW);
        let (first, window) = (self.slots(row as u16), self.window(row));
        let mut clean = true;
        for _ in 0..pages / row {
            block.retype_many::<Frame>(12, first, row as u16)?;
            first.cap::<Frame>().map_row(own::VM, window, Rights::READ, row - 1)?;
            clean &= (0..row * 512).all(|index| word(window, index as usize * 8) == 0);
            // The frames stay, so that the next row is of other memory; their capabilities make room.
            for page in 0..row as u16 {
                first.after(page).delete()?;
            }
        }
        self.reset_window(window);
        let used_up = block.retype::<Frame>(12, first).is_err_and(|fault| fault.error == Error::NotEnoughMemory);
        block.revoke()?;
        self.return_to(mark)?;
        Ok(match (clean, used_up) {
            (true, true) => Ok(()),
            (false, _) => Err("the block is not clean"),
            (_, false) => Err("the block is larger than it was"),
        })
    }

    /// Launches a child: its VM, CNode and Vcpu move into its own CSpace.
    pub fn launch(&mut self, child: &Child) -> Result<(), Fault> {
        let node = child.cnode.slot().index();
        Slot::in_node(node, slots::CNODE).move_from(child.cnode)?;
        child.vcpu.launch(slots::BASE, slots::VCPU)
    }

    /// Shows text on the first serial port.
    pub fn text(&self, text: &str) {
        self.put(COM1, text.as_bytes());
    }

    /// Sends a record to the host over the second serial port.
    pub fn record(&self, record: &Record) {
        let frame: Vec<u8> = proto::frame::encode(record).unwrap_or_default();
        self.put(COM2, &frame);
    }

    fn put(&self, port: u16, bytes: &[u8]) {
        let ports: Cap<IoPort> = Slot::root(slots::CONSOLE).cap();
        for piece in bytes.chunks(16) {
            // Line status register, bit 5: the transmitter's FIFO is empty.
            while ports.input(port + 5, PortWidth::Byte).is_ok_and(|status| status & 0x20 == 0) {}
            let _ = ports.output_bytes(port, piece);
        }
    }

    /// Ends the run with this value at the debug-exit port, when both serial ports have sent all that they were given.
    pub fn exit(&self, value: u8) -> ! {
        let ports: Cap<IoPort> = Slot::root(slots::CONSOLE).cap();
        for port in [COM1, COM2] {
            // Line status register, bit 6: the transmitter is empty.
            while ports.input(port + 5, PortWidth::Byte).is_ok_and(|status| status & 0x40 == 0) {}
        }
        loop {
            let _ = ports.output(DEBUG_EXIT, PortWidth::Byte, u32::from(value));
        }
    }
}
