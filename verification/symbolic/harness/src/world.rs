//! A machine so small that all of its states can be looked at: `N` slots, and `V` VMs with one Vcpu each.
//!
//! Slots, VMs and Vcpus are numbered from 1. What this machine does not have panics when it is reached: that it is not reached is one of
//! the things that are proved.

use cap_spec::abi::{FaultRecord, ObjectType, Register, Rights};
use kernel::cap::{Cap, Mapping};
use kernel::channel::Channel;
use kernel::function::{Bar, FunctionFacts};
use kernel::machine::{Devices, Machine, SharedPage};
use kernel::nested::EntryFormat;
use kernel::slot::Slot;
use kernel::types::{ChannelId, CoreId, FunctionId, Hpa, SlotId, Ticks, VcpuId, VmId};
use kernel::vcpu::Vcpu;
use kernel::vm::Vm;
use kernel::{Kernel, Message};

use crate::input::input;

/// The kernel's library over a world.
pub type Small<const N: usize, const V: usize = 0> = Kernel<World<N, V>>;

/// `N` slots, and `V` VMs.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct World<const N: usize, const V: usize = 0> {
    /// Slots 1 to N.
    pub slots: [Slot; N],
    /// VMs 1 to V.
    pub vms: [Vm; V],
    /// Vcpus 1 to V.
    pub vcpus: [Vcpu; V],
}

/// Inputs of one slot.
const FIELDS: u32 = 16;

impl<const N: usize, const V: usize> World<N, V> {
    /// Nothing in the slots, and VMs and Vcpus that are as Retype makes them.
    pub const fn new() -> World<N, V> {
        let vm = Vm::new(Hpa::new(0), 0, EntryFormat::Npt);
        World { slots: [Slot::EMPTY; N], vms: [vm; V], vcpus: [Vcpu::NEW; V] }
    }

    /// Fills the slots with anything of these kinds: each state that the types allow is one of these. No launch is being
    /// checked.
    pub fn fill(&mut self, kinds: Kinds) {
        for number in 0..N as u32 {
            let word = |field: u32| input(number * FIELDS + field);
            let links = [word(1), word(2)];
            let flags = word(3);
            self.slots[number as usize] = Slot {
                cap: any_cap(kinds, word(0), [word(4), word(5), word(6), word(7)]),
                first_child: SlotId::new(links[0] as u32),
                last_child: SlotId::new((links[0] >> 32) as u32),
                next: SlotId::new(links[1] as u32),
                prev: SlotId::new((links[1] >> 32) as u32),
                rights: Rights::from_bits_truncate(flags as u8),
                depth: (flags >> 8) as u8,
                original: flags & 1 << 16 != 0,
                boot: flags & 1 << 17 != 0,
                first: flags & 1 << 18 != 0,
                last: flags & 1 << 19 != 0,
                ..Slot::EMPTY
            };
        }
    }
}

impl<const N: usize, const V: usize> Default for World<N, V> {
    fn default() -> World<N, V> {
        World::new()
    }
}

/// Kinds of capability that a world has, one bit each: those that a program leaves out need not be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds(u32);

impl Kinds {
    /// All.
    pub const ALL: Kinds = Kinds(u32::MAX);

    /// These.
    pub const fn of(kinds: &[ObjectType]) -> Kinds {
        let (mut bits, mut at) = (0, 0);
        while at < kinds.len() {
            bits |= 1 << kinds[at] as u32;
            at += 1;
        }
        Kinds(bits)
    }

    const fn has(self, kind: ObjectType) -> bool {
        self.0 & 1 << kind as u32 != 0
    }
}

/// Any capability of these kinds that names nothing of which there is a record elsewhere: no frame is mapped, no time bound, no
/// CNode a CSpace, no Untyped a base, and nothing is being destroyed.
fn any_cap(kinds: Kinds, head: u64, words: [u64; 4]) -> Cap {
    let small = (head >> 8) as u8;
    let flag = head & 1 << 16 != 0;
    let other_flag = head & 1 << 17 != 0;
    let id = (head >> 32) as u32;
    let base = Hpa::new(words[0]);
    match head as u8 {
        1 if kinds.has(ObjectType::Untyped) => {
            Cap::Untyped { bits: small, device: flag, vm: VmId::NONE, base, watermark: words[1] }
        }
        2 if kinds.has(ObjectType::CNode) => Cap::CNode { bits: small, vm: VmId::NONE, base: SlotId::new(id) },
        3 if kinds.has(ObjectType::Frame) => {
            Cap::Frame { bits: small, device: flag, kernel_page: other_flag, base, mapping: Mapping::NONE }
        }
        4 if kinds.has(ObjectType::PageTable) => Cap::PageTable { base, mapping: Mapping::NONE },
        5 if kinds.has(ObjectType::Vm) => Cap::Vm { id: VmId::new(id) },
        6 if kinds.has(ObjectType::Vcpu) => Cap::Vcpu { id: VcpuId::new(id) },
        7 if kinds.has(ObjectType::CpuTime) => {
            let [budget, period, free_from, allocated] = words;
            Cap::CpuTime { core: CoreId::new(small), vcpu: VcpuId::NONE, budget, period, free_from, allocated }
        }
        8 if kinds.has(ObjectType::Channel) => Cap::Channel { end: small, id: ChannelId::new(id) },
        9 if kinds.has(ObjectType::Irq) => Cap::Irq { first: (head >> 16) as u16, count: id },
        10 if kinds.has(ObjectType::IoPort) => Cap::IoPort { first: (head >> 16) as u16, count: id },
        11 if kinds.has(ObjectType::Machine) => Cap::Machine,
        12 if kinds.has(ObjectType::IommuDomain) => {
            Cap::IommuDomain { bits: small, id: VmId::new(id), first: words[0] }
        }
        13 if kinds.has(ObjectType::PciFunction) => {
            Cap::PciFunction { lease: small, function: FunctionId::new((head >> 16) as u16) }
        }
        _ => Cap::Null,
    }
}

/// A part of a machine that this world does not have.
macro_rules! without {
    ($($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {$(
        fn $name(&self, $($argument: $type),*) $(-> $result)? {
            $(let _ = $argument;)*
            panic!("not in this world")
        }
    )*};
    (mut $($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {$(
        fn $name(&mut self, $($argument: $type),*) $(-> $result)? {
            $(let _ = $argument;)*
            panic!("not in this world")
        }
    )*};
}

impl<const N: usize, const V: usize> Devices for World<N, V> {
    without! {
        function(function: FunctionId) -> FunctionFacts;
        bar(function: FunctionId, bar: u8) -> Bar;
        iommu_has_failed() -> bool;
        filter_config(function: FunctionId, offset: u16, value: u32) -> Option<u32>;
        most_faults() -> usize;
        faults_lost() -> u32;
    }
    without! {mut
        read_config(function: FunctionId, offset: u16) -> u32;
        write_config(function: FunctionId, offset: u16, value: u32);
        publish_table_entry(table: Hpa, index: usize);
        publish_table(table: Hpa);
        attach_function(function: FunctionId, domain: VmId);
        detach_function(function: FunctionId);
        flush_function(function: FunctionId);
        reset_function(function: FunctionId) -> Ticks;
        revive_function(function: FunctionId) -> Option<Ticks>;
        enable_vfs(function: FunctionId, count: u16) -> Ticks;
        disable_vfs(function: FunctionId) -> Ticks;
        take_fault() -> Option<(Option<FunctionId>, FaultRecord)>;
        hold_fault_events(held: bool);
        bind_message(route: u16, message: Message);
        unbind_message(route: u16, message: Message);
    }
}

impl<const N: usize, const V: usize> Machine for World<N, V> {
    fn slot(&self, id: SlotId) -> &Slot {
        &self.slots[(id.get() as usize).wrapping_sub(1)]
    }

    fn slot_mut(&mut self, id: SlotId) -> &mut Slot {
        &mut self.slots[(id.get() as usize).wrapping_sub(1)]
    }

    fn vm(&self, id: VmId) -> &Vm {
        &self.vms[(id.get() as usize).wrapping_sub(1)]
    }

    fn vm_mut(&mut self, id: VmId) -> &mut Vm {
        &mut self.vms[(id.get() as usize).wrapping_sub(1)]
    }

    fn vcpu(&self, id: VcpuId) -> &Vcpu {
        &self.vcpus[(id.get() as usize).wrapping_sub(1)]
    }

    fn vcpu_mut(&mut self, id: VcpuId) -> &mut Vcpu {
        &mut self.vcpus[(id.get() as usize).wrapping_sub(1)]
    }

    without! {
        channel(id: ChannelId) -> &Channel;
        table_entry(table: Hpa, index: usize) -> u64;
        shared_word(page: SharedPage, offset: usize) -> u64;
        now() -> Ticks;
        must_yield() -> bool;
        register(vcpu: VcpuId, register: Register) -> u64;
    }
    without! {mut
        channel_mut(id: ChannelId) -> &mut Channel;
        set_table_entry(table: Hpa, index: usize, entry: u64);
        zero(base: Hpa, bytes: u64);
        set_shared_word(page: SharedPage, offset: usize, value: u64);
        or_events(vcpu: VcpuId, bits: u64) -> u64;
        take_events(vcpu: VcpuId, mask: u64) -> u64;
        expel(core: CoreId);
        kick(core: CoreId);
        init_vcpu(vcpu: VcpuId, root: Hpa);
        set_register(vcpu: VcpuId, register: Register, value: u64);
        set_results(vcpu: VcpuId, results: [u64; 2]);
        route_irq(route: u16, target: Option<(CoreId, u8)>, held: bool);
        port_in(port: u16, width: u8) -> u32;
        port_out(port: u16, width: u8, value: u32);
        reset();
    }
}
