//! The root VM: its memory, its address space, its capabilities, its `BootInfo`; and its restart.
//!
//! Its objects lie outside every Untyped, so nothing it does can take them from it. The boot module stays untouched: the
//! image is copied out of it at each start, the archive is mapped from where the boot loader put it.

use super::physical::{Tables, Taken};
use crate::arch::guests::Processor;
use crate::{Nonkernel, panic, tracing};
use cap_spec::abi::{
    BOOT_INFO_MAGIC, IMAGE_BASE, INFO_PAGE, PAGE_BITS, ROOT_ARCHIVE, ROOT_ARCHIVE_BYTES, ROOT_BOOT_INFO, Rights,
    SLOT_BITS, STATS_PAGE, VCPU_BITS, VERSION, VM_BITS, boot_info, slots,
};
use core::sync::atomic::{AtomicU64, Ordering};
use heapless::Vec;
use kernel::cap::Cap;
use kernel::epitaph::EventKind;
use kernel::firmware::PhysicalMemory;
use kernel::firmware::command_line::{Options, ROOT_PERIOD_US};
use kernel::firmware::memory_map::{MemoryMap, Region, untypeds};
use kernel::firmware::module::{HEADER_BYTES, Module};
use kernel::function::MAX_FUNCTIONS;
use kernel::machine::Machine;
use kernel::nested::{Entry, entry_index};
use kernel::sched::CAPACITY;
use kernel::trace::Kind;
use kernel::types::{CoreId, FunctionId, Gpa, Hpa, SlotId, Ticks, VcpuId, VmId};
use kernel::vcpu::Run;

/// log2 of the slots of the root CNode.
const CNODE_BITS: u8 = 12;
/// Slot of the root VM's own reservation.
const OWN_TIME: u16 = 8;
const PAGE: u64 = 4096;
const LARGE: u64 = 0x20_0000;
/// How often the root VM has been started again.
static RESTARTS: AtomicU64 = AtomicU64::new(0);
/// Bytes of the root VM's memory that are as at its start already, while it is being put back. Changed under the lock.
static RESTORED: AtomicU64 = AtomicU64::new(0);
/// Bytes that are put back in one hold of the lock: about a thousand instructions.
const RESTORE_STEP: u64 = 8 << 10;
/// Where the root VM's parts are.
#[derive(Clone, Copy, Debug)]
pub struct Root {
    /// Its Vcpu.
    pub vcpu: VcpuId,
    image: Region,
    memory: Taken,
    boot_info: Taken,
    entry: u64,
    cr3: u64,
}

/// What boot knows when it makes the root VM.
pub struct Plan<'a> {
    /// RAM that is left.
    pub memory: &'a mut MemoryMap,
    /// Where the module lies.
    pub module_base: u64,
    /// What its header says.
    pub module: Module,
    /// The kernel command line.
    pub command_line: &'a [u8],
    /// What the kernel took from it.
    pub options: Options,
    /// Interrupt routes: pins of the IOAPIC, and where functions are handed out those for their messages.
    pub routes: u32,
    /// The first of those.
    pub first_message_route: u16,
    /// Frequency of the TSC in Hz.
    pub tsc_hz: u64,
}

impl Plan<'_> {
    /// Makes the root VM and everything it gets, not started yet. Takes all memory.
    pub fn carry_out(mut self, kernel: &mut Nonkernel) -> Root {
        let module = self.module;
        let bytes = module.memory_bytes;
        let memory = Taken::from(self.memory, bytes, LARGE, 0).expect("no memory for the root VM's image");
        let cnode = Taken::clean(self.memory, CNODE_BITS + SLOT_BITS).base().to_slot();
        let vm = VmId::at(Taken::clean(self.memory, VM_BITS).base());
        let vcpu = VcpuId::at(Taken::clean(self.memory, VCPU_BITS).base());
        let boot_info = Taken::clean(self.memory, PAGE_BITS);
        kernel.make_root(cnode, CNODE_BITS, vm, vcpu);

        let read = Rights::READ;
        let write = read.union(Rights::WRITE);
        let all = write.union(Rights::EXECUTE);
        for offset in (0..bytes).step_by(LARGE as usize) {
            self.map(kernel, vm, IMAGE_BASE + offset, memory.base().get() + offset, all, 2);
        }
        self.map(kernel, vm, INFO_PAGE, vcpu.info_page().get(), write, 1);
        self.map(kernel, vm, STATS_PAGE, vm.stats_page().get(), read, 1);
        self.map(kernel, vm, ROOT_BOOT_INFO, boot_info.base().get(), read, 1);
        let archive = self.module_base + module.archive_offset;
        assert!(module.archive_bytes <= ROOT_ARCHIVE_BYTES, "the archive is larger than its window");
        for offset in (0..module.archive_bytes).step_by(PAGE as usize) {
            self.map(kernel, vm, ROOT_ARCHIVE + offset, archive + offset, read, 1);
        }

        let slot = |index: u16| cnode.plus(u32::from(index));
        kernel.give(slot(slots::MARKET), Cap::Machine);
        kernel.give(slot(slots::CONSOLE), Cap::IoPort { first: 0, count: 0x1_0000 });
        kernel.give(slot(slots::IRQ), Cap::Irq { first: 0, count: self.routes });
        let cores = kernel.core_count() as u16;
        for core in 0..cores {
            kernel.give_cpu_time(slot(slots::FREE + core), CoreId::new(core as u8));
        }
        let per_us = self.tsc_hz / 1_000_000;
        let period = Ticks::new(ROOT_PERIOD_US * per_us);
        let budget = Ticks::new(self.options.root_budget_us * per_us);
        kernel.split_at_boot(slot(slots::FREE), slot(OWN_TIME), budget, period);
        kernel.bind_root(vcpu, slot(OWN_TIME));

        let first_function = slots::FREE + cores;
        let functions: Vec<FunctionId, MAX_FUNCTIONS> = kernel.machine.assignment.physical().collect();
        for (place, &function) in (first_function..).zip(&functions) {
            kernel.give(slot(place), Cap::PciFunction { lease: 0, function });
        }
        let first_untyped = first_function + functions.len() as u16;
        let untypeds = self.give_memory(kernel, cnode.plus(u32::from(first_untyped)), boot_info);
        let ten_ms = Ticks::new(self.tsc_hz / 100);
        let sellable = kernel.limits().budget_within(CAPACITY, ten_ms);
        let words = [
            (boot_info::ABI_VERSION, u64::from(VERSION)),
            (boot_info::MAGIC, BOOT_INFO_MAGIC),
            (boot_info::TSC_HZ, self.tsc_hz),
            (boot_info::CORES, u64::from(cores)),
            (boot_info::FIRST_CPU_TIME, u64::from(slots::FREE)),
            (boot_info::FIRST_UNTYPED, u64::from(first_untyped)),
            (boot_info::UNTYPEDS, untypeds as u64),
            (boot_info::FIRST_FREE, u64::from(first_untyped) + untypeds as u64),
            (boot_info::SLOTS, 1 << CNODE_BITS),
            (boot_info::ARCHIVE_BYTES, module.archive_bytes),
            (boot_info::MEMORY_BYTES, bytes),
            (boot_info::ROOT_BUDGET, budget.get()),
            (boot_info::ROOT_PERIOD, period.get()),
            (boot_info::SELLABLE_PER_10MS, sellable.get()),
            (boot_info::FIRST_FUNCTION, u64::from(first_function)),
            (boot_info::FUNCTIONS, functions.len() as u64),
            (boot_info::FIRST_MESSAGE_ROUTE, u64::from(self.first_message_route)),
            (boot_info::ROUTES, u64::from(self.routes)),
        ];
        for (offset, value) in words {
            // SAFETY: boot alone writes it, and no guest runs yet.
            unsafe { boot_info.put(offset, &value.to_le_bytes()) };
        }
        // SAFETY: as before.
        unsafe { boot_info.put(boot_info::COMMAND_LINE, self.command_line) };
        log::info!("root VM: {} MiB, archive {} KiB, {} Untypeds", bytes >> 20, module.archive_bytes >> 10, untypeds);
        log::info!(
            "core time: {} us of 10 ms sellable, root VM {} of {} us",
            sellable.get() / per_us,
            budget.get() / per_us,
            ROOT_PERIOD_US
        );
        let image_start = self.module_base + HEADER_BYTES;
        Root {
            vcpu,
            image: Region { start: image_start, end: image_start + module.image_bytes },
            memory,
            boot_info,
            entry: module.entry,
            cr3: module.cr3,
        }
    }

    /// Gives all memory that is left, as dirty Untypeds in ascending order; returns how many.
    fn give_memory(&mut self, kernel: &mut Nonkernel, first: SlotId, boot_info: Taken) -> usize {
        let mut count = 0;
        for (base, bits) in untypeds(self.memory) {
            kernel.give_untyped(first.plus(count as u32), Hpa::new(base), bits, false);
            // SAFETY: boot alone writes it, and no guest runs yet.
            unsafe { boot_info.put(boot_info::UNTYPED_BITS + count, &[bits]) };
            count += 1;
        }
        count
    }

    /// Maps memory into the root VM at a level, with the tables that this takes.
    fn map(&mut self, kernel: &mut Nonkernel, vm: VmId, gpa: u64, base: u64, rights: Rights, level: u8) {
        let (format, gpa) = (Processor::FORMAT, Gpa::new(gpa));
        let mut table = vm.root();
        for at in (level + 1..=4).rev() {
            let index = entry_index(gpa, at);
            table = match format.decode(kernel.machine.table_entry(table, index), at) {
                Entry::Table(next) => next,
                _ => {
                    let next = Taken::clean(self.memory, PAGE_BITS).base();
                    kernel.machine.set_table_entry(table, index, format.table(next));
                    next
                }
            };
        }
        let entry = format.leaf(Hpa::new(base), rights, level, false);
        kernel.machine.set_table_entry(table, entry_index(gpa, level), entry);
    }
}

impl Root {
    /// Starts the root VM for the first time, with its memory as in the boot image and everything else zero.
    pub fn start(&self, kernel: &mut Nonkernel) {
        while !self.restore() {}
        self.set_off(kernel);
    }

    /// For a core that has nothing else to do: if the root VM has stopped, goes a step further to starting it again, with
    /// its CSpace as it is. True if there was something to do, and the core must look again. Idle time is never sold out,
    /// so that no neighbour on the boot core loses any; the other cores do not take part, as a call of their VMs would
    /// wait for the lock once for each core that does.
    pub fn has_stopped(&self, kernel: &mut Nonkernel, core: CoreId) -> bool {
        if kernel.machine.vcpu(self.vcpu).run != Run::Stopped {
            // Somebody with a capability to it has started it half-way: the next time all is put back.
            RESTORED.store(0, Ordering::Relaxed);
            return false;
        }
        if core != CoreId::new(0) {
            return false;
        }
        if self.restore() {
            let restarts = self.note_restart();
            panic::record(EventKind::RootRestarted, restarts as u32, 0);
            self.set_off(kernel);
        }
        true
    }

    fn set_off(&self, kernel: &mut Nonkernel) {
        tracing::record(Kind::RootStarted, self.vcpu.address().get(), self.entry);
        kernel.start_root(self.vcpu, self.entry, self.cr3);
        tracing::look();
    }

    /// Puts the next part of the root VM's memory back to what it was at its start; true with the last one.
    fn restore(&self) -> bool {
        let image = Tables.read(self.image.start, self.image.bytes() as usize);
        let image = image.expect("the boot module was checked to hold the image");
        let from = RESTORED.load(Ordering::Relaxed);
        let to = self.memory.bytes().min(from + RESTORE_STEP);
        let rest = image.get(from as usize..).unwrap_or_default();
        // SAFETY: it is the root VM's memory and holds no object; the root VM has stopped, and the lock is held.
        unsafe { self.memory.fill(from..to, rest) };
        let done = to == self.memory.bytes();
        RESTORED.store(if done { 0 } else { to }, Ordering::Relaxed);
        done
    }

    /// Notes in `BootInfo` that the root VM is started for the first time, at this TSC.
    pub fn note_first_start(&self, tsc: u64) {
        // SAFETY: the root VM can only read the page, and does not run yet.
        unsafe { self.boot_info.put(boot_info::TSC_AT_START, &tsc.to_le_bytes()) };
    }

    /// Notes in `BootInfo` that the root VM is started once more; returns how often it has been now.
    fn note_restart(&self) -> u64 {
        let restarts = RESTARTS.fetch_add(1, Ordering::Relaxed) + 1;
        // SAFETY: the root VM can only read the page, and has stopped; the lock is held.
        unsafe { self.boot_info.put(boot_info::RESTARTS, &restarts.to_le_bytes()) };
        restarts
    }
}
