//! What the hardware-free kernel needs of the machine: one trait, implemented by the kernel binary (`arch/`), by the
//! host's tests and by the fake machine.
//!
//! The storage half reaches objects in memory that was retyped for them; the core only ever passes ids that it took
//! from live capabilities. The hardware half must *complete* before it returns.

use crate::function::{Bar, FunctionFacts};
use crate::kernel::Message;
use crate::types::{CoreId, FunctionId, Hpa, SlotId, Ticks, VcpuId, VmId};
use cap_spec::abi::{FaultRecord, Register};

/// One word of a page that the kernel shares with a guest. See `cap_spec::abi::{info_page, handler_page, stats_page}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedPage {
    /// The info page of a Vcpu.
    Info(VcpuId),
    /// The handler page of a Vcpu.
    Handler(VcpuId),
    /// The statistics page of a VM.
    Stats(VmId),
    /// The global statistics page.
    GlobalStats,
}

/// Functions of PCI Express devices, and the IOMMU in front of them. As of all hardware: what is said here to have happened
/// has *completed* when the method returns.
pub trait Devices {
    /// What is fixed about a function. For one that does not exist, nothing.
    fn function(&self, function: FunctionId) -> FunctionFacts;
    /// A BAR (0 to 5) of a function.
    fn bar(&self, function: FunctionId, bar: u8) -> Bar;
    /// What is written into a double word of configuration space if the holder of a function writes `value`; `None` if it
    /// may not.
    fn filter_config(&self, function: FunctionId, offset: u16, value: u32) -> Option<u32>;
    /// Reads a double word of configuration space, with nothing in it that the holder may not know.
    fn read_config(&mut self, function: FunctionId, offset: u16) -> u32;
    /// Writes a double word of configuration space, as [`Devices::filter_config`] says.
    fn write_config(&mut self, function: FunctionId, offset: u16, value: u32);
    /// An entry of a table of a domain was written: from now on the IOMMU sees it, though it may have cached another.
    fn publish_table_entry(&mut self, table: Hpa, index: usize);
    /// A table of a domain, all of it, is as the IOMMU shall see it: comes before an entry that leads to it.
    fn publish_table(&mut self, table: Hpa);
    /// Lets a function be a bus master whose DMA is translated by the tables of a domain.
    fn attach_function(&mut self, function: FunctionId, domain: VmId);
    /// Ends the bus mastering of an attached function. When this returns its DMA has arrived, reaches nothing any more, and
    /// the IOMMU has cached nothing for it. Where that cannot be had, because the IOMMU does not answer in time, every
    /// function behind it has been cut off at the bridges instead, and is quarantined.
    fn detach_function(&mut self, function: FunctionId);
    /// Makes the IOMMU forget what it has cached of the tables for an attached function, and waits until it has; with the
    /// same way out as [`Devices::detach_function`].
    fn flush_function(&mut self, function: FunctionId);
    /// True once the IOMMU has not carried something out: nobody knows any more, ever, what it has cached and what it still
    /// carries out of what it was asked before. No function is a bus master then, and none becomes one.
    fn iommu_has_failed(&self) -> bool;
    /// Begins the reset of a function; returns how long it takes.
    fn reset_function(&mut self, function: FunctionId) -> Ticks;
    /// The time of a reset has passed, or that since it was enabled as a virtual function: puts back what the function needs to
    /// be usable. Nothing if it is, else how long to wait before it is tried again.
    fn revive_function(&mut self, function: FunctionId) -> Option<Ticks>;
    /// Enables the first `count` virtual functions of a function; returns how long it takes before they can be revived.
    fn enable_vfs(&mut self, function: FunctionId, count: u16) -> Ticks;
    /// Disables its virtual functions; returns how long that takes.
    fn disable_vfs(&mut self, function: FunctionId) -> Ticks;
    /// Takes the record of something that the IOMMU has stopped, and says whose it was, if that is a function that is handed
    /// out.
    fn take_fault(&mut self) -> Option<(Option<FunctionId>, FaultRecord)>;
    /// How many records must be taken so that all that there are now are among them.
    fn most_faults(&self) -> usize;
    /// How often the IOMMU had no room for a record.
    fn faults_lost(&self) -> u32;
    /// Holds back, or no longer, the NMI that comes to the first core when the IOMMU stops something: what has come meanwhile
    /// and was not taken raises it then.
    fn hold_fault_events(&mut self, held: bool);
    /// Lets a message raise a route, which is masked until [`Machine::route_irq`] says where it goes.
    fn bind_message(&mut self, route: u16, message: Message);
    /// Masks the message of a route, and waits until none is in flight and the IOMMU has forgotten the route.
    fn unbind_message(&mut self, route: u16, message: Message);
}

/// Storage and hardware below the capability core.
pub trait Machine: Devices {
    // ---- storage -------------------------------------------------------------------------------------------------

    /// The slot with this id.
    fn slot(&self, id: SlotId) -> &crate::slot::Slot;
    /// The slot with this id, to change it.
    fn slot_mut(&mut self, id: SlotId) -> &mut crate::slot::Slot;
    /// The header of a VM.
    fn vm(&self, id: VmId) -> &crate::vm::Vm;
    /// The header of a VM, to change it.
    fn vm_mut(&mut self, id: VmId) -> &mut crate::vm::Vm;
    /// The header of a Vcpu.
    fn vcpu(&self, id: VcpuId) -> &crate::vcpu::Vcpu;
    /// The header of a Vcpu, to change it.
    fn vcpu_mut(&mut self, id: VcpuId) -> &mut crate::vcpu::Vcpu;
    /// The two ends of a channel.
    fn channel(&self, id: crate::types::ChannelId) -> &crate::channel::Channel;
    /// The two ends of a channel, to change them.
    fn channel_mut(&mut self, id: crate::types::ChannelId) -> &mut crate::channel::Channel;
    /// Entry `index` (0..512) of the nested page table at `table`.
    fn table_entry(&self, table: Hpa, index: usize) -> u64;
    /// Writes entry `index` (0..512) of the nested page table at `table`, as one 64-bit store.
    fn set_table_entry(&mut self, table: Hpa, index: usize, entry: u64);
    /// Fills `bytes` bytes (a multiple of 64) from `base` with zero.
    fn zero(&mut self, base: Hpa, bytes: u64);
    /// Reads the word at a byte offset of a shared page (once, by value).
    fn shared_word(&self, page: SharedPage, offset: usize) -> u64;
    /// Writes the word at a byte offset of a shared page.
    fn set_shared_word(&mut self, page: SharedPage, offset: usize, value: u64);
    /// Atomically ORs `bits` into the event word of a Vcpu's info page; returns the word before.
    fn or_events(&mut self, vcpu: VcpuId, bits: u64) -> u64;
    /// Atomically takes the masked bits out of the event word; returns those that were set.
    fn take_events(&mut self, vcpu: VcpuId, mask: u64) -> u64;

    // ---- hardware ------------------------------------------------------------------------------------------------

    /// The time-stamp counter.
    fn now(&self) -> Ticks;
    /// Makes `core` leave guest mode and returns when it has (at once if it is not in guest mode). The kernel lock is
    /// held, so it cannot enter again before the caller is done.
    fn expel(&mut self, core: CoreId);
    /// Makes `core` run its scheduler soon (it leaves the guest or its idle halt); does not wait.
    fn kick(&mut self, core: CoreId);
    /// True when another core waits for the kernel lock, or this core's deadline has passed: long operations yield.
    fn must_yield(&self) -> bool;
    /// Puts the machine's part of a Vcpu into its initial state (64-bit mode, interrupts off), nested root at `root`.
    fn init_vcpu(&mut self, vcpu: VcpuId, root: Hpa);
    /// Sets a register of a Vcpu whose state no core holds; `value` has been checked by [`crate::vcpu::check_register`].
    fn set_register(&mut self, vcpu: VcpuId, register: Register, value: u64);
    /// Puts results into the registers of a Vcpu that sleeps in Wait: `rax` 0, `rsi` and `rdx` the results. Its
    /// instruction pointer is past the hypercall already. A core may still hold its extended state, but not these.
    fn set_results(&mut self, vcpu: VcpuId, results: [u64; 2]);
    /// For a trace: a sleeper wakes with these events.
    fn trace_woken(&mut self, _: VcpuId, _: u64) {}
    /// For a trace: from when on the share of a Vcpu's reservation is free that it leaves, or shrinks.
    fn trace_freed(&mut self, _: VcpuId, _: Ticks) {}
    /// Reads a register of a Vcpu whose state no core holds.
    fn register(&self, vcpu: VcpuId, register: Register) -> u64;
    /// Routes interrupt `route` to `core` as `vector`, or masks it (`None`), and waits until it holds. `held`: that core
    /// holds the state of the Vcpu that takes it, so that the core has to look at this before it goes on. Otherwise it stays
    /// masked, and may have fired, until that Vcpu runs.
    fn route_irq(&mut self, route: u16, target: Option<(CoreId, u8)>, held: bool);
    /// Reads a port of the machine.
    fn port_in(&mut self, port: u16, width: u8) -> u32;
    /// Writes a port of the machine.
    fn port_out(&mut self, port: u16, width: u8, value: u32);
    /// Resets the machine; returns only in tests.
    fn reset(&mut self);
}
