//! The world in which both machines begin: memory, functions, routes and the root VM.

use super::{kernel_slot, kernel_vcpu};
use crate::host::{BASE, Host, STATISTICS_PAGE};
use cap_spec::abi::Rights;
use cap_spec::machine::{
    self as spec, CNodeId, Cap, Config, Extent, FunctionFacts, Reservation, Run, Slot, State, Vcpu, VcpuId, Vm, VmId,
};
use kernel::cap::Cap as KernelCap;
use kernel::device_model::{self, DeviceModel};
use kernel::nested::EntryFormat;
use kernel::{Kernel, types as k};
use std::collections::BTreeSet;

/// Slots of the root VM's CNode, which has 128.
pub mod place {
    use cap_spec::abi::slots;
    /// The root CNode.
    pub const CNODE: u64 = slots::CNODE as u64;
    /// The root VM.
    pub const VM: u64 = slots::VM as u64;
    /// Its Vcpu.
    pub const VCPU: u64 = slots::VCPU as u64;
    /// The machine.
    pub const MACHINE: u64 = slots::MARKET as u64;
    /// All ports.
    pub const PORTS: u64 = slots::CONSOLE as u64;
    /// Routes 0 to 31; those from 24 on are raised by messages.
    pub const ROUTES: u64 = slots::IRQ as u64;
    /// CPU time of core 0; that of core 1 follows.
    pub const CPU_TIME: u64 = 8;
    /// 512 KiB that are clean.
    pub const CLEAN: u64 = 10;
    /// 1 MiB, mostly, that has not been scrubbed yet.
    pub const DIRTY: u64 = 11;
    /// 2 GiB of device registers.
    pub const DEVICE: u64 = 12;
    /// The root VM's own CPU time: half of core 0.
    pub const OWN_TIME: u64 = 13;
    /// A physical function.
    pub const FUNCTION: u64 = 14;
    /// A function behind an IOMMU that has failed.
    pub const QUARANTINED: u64 = 15;
    /// A function without virtual ones.
    pub const PLAIN: u64 = 16;
}

/// log2 of the slots of the root CNode.
pub(super) const ROOT_BITS: u8 = 7;
/// The root CNode.
pub(super) const ROOT_CNODE: CNodeId = CNodeId(BASE);
/// The root VM.
pub const ROOT_VM: VmId = VmId(BASE + 0x8000);
/// The root VM's Vcpu.
pub const ROOT_VCPU: VcpuId = VcpuId(BASE + 0xc000);
/// Memory that is given out: base and log2 of its size.
pub(super) const CLEAN: Extent = Extent { base: BASE + 0x8_0000, bits: 19 };
pub(super) const DIRTY_BASE: u64 = BASE + 0x10_0000;
pub(super) const DEVICE: Extent = Extent { base: 0x80_0000_0000, bits: 31 };
/// Ticks per second: a period is 1,000 ticks at least, a budget 50.
pub(super) const TSC_HZ: u64 = 1_000_000;
/// Ticks of one switch.
pub(super) const SWITCH: u64 = 10;
/// Cores.
pub const CORES: u8 = 2;
/// Interrupt routes.
pub(super) const ROUTES: u32 = 32;
/// The first interrupt route that messages raise.
pub const FIRST_MESSAGE_ROUTE: u16 = 24;
/// Functions that boot gives, and where their capabilities are.
pub(super) const FUNCTIONS: [(u64, k::FunctionId); 3] = [
    (place::FUNCTION, device_model::PHYSICAL),
    (place::QUARANTINED, device_model::QUARANTINED),
    (place::PLAIN, device_model::PLAIN),
];
/// Numbers of functions, those that do not exist included.
pub const FUNCTION_NUMBERS: usize = 6;
/// Where the root VM is started.
pub(super) const ENTRY: u64 = 0x20_0000;

/// The memory that has not been scrubbed yet.
pub(super) fn dirty(bits: u8) -> Extent {
    Extent { base: DIRTY_BASE, bits }
}

/// The kernel as boot leaves it, and its boot capabilities.
pub(super) fn boot_kernel(dirty_bits: u8) -> (Kernel<Host>, Vec<k::SlotId>) {
    let dirty = dirty(dirty_bits);
    let mut kernel = Kernel::new(Host::new(dirty.base + dirty.bytes() - BASE));
    kernel.configure(&kernel::Config {
        cores: CORES.into(),
        tsc_hz: TSC_HZ,
        switch: k::Ticks::new(SWITCH),
        epoch: k::Ticks::new(0),
        asids: 16,
        format: EntryFormat::Npt,
        statistics_page: k::Hpa::new(STATISTICS_PAGE),
        forbidden_routes: 1 << 20,
        first_message_route: FIRST_MESSAGE_ROUTE,
    });
    let vm = k::VmId::at(k::Hpa::new(ROOT_VM.0));
    kernel.make_root(kernel_slot(0), ROOT_BITS, vm, kernel_vcpu(ROOT_VCPU));
    kernel.give(kernel_slot(place::MACHINE), KernelCap::Machine);
    kernel.give(kernel_slot(place::PORTS), KernelCap::IoPort { first: 0, count: 1 << 16 });
    kernel.give(kernel_slot(place::ROUTES), KernelCap::Irq { first: 0, count: ROUTES });
    for (place, function) in FUNCTIONS {
        kernel.give(kernel_slot(place), KernelCap::PciFunction { lease: 0, function });
    }
    for core in 0..CORES {
        kernel.give_cpu_time(kernel_slot(place::CPU_TIME + u64::from(core)), k::CoreId::new(core));
    }
    kernel.give_untyped(kernel_slot(place::CLEAN), k::Hpa::new(CLEAN.base), CLEAN.bits, false);
    if let KernelCap::Untyped { watermark, .. } =
        &mut kernel::machine::Machine::slot_mut(&mut kernel.machine, kernel_slot(place::CLEAN)).cap
    {
        *watermark = 0;
    }
    kernel.machine.scribble(dirty.base, dirty.bytes());
    kernel.give_untyped(kernel_slot(place::DIRTY), k::Hpa::new(dirty.base), dirty.bits, false);
    kernel.give_untyped(kernel_slot(place::DEVICE), k::Hpa::new(DEVICE.base), DEVICE.bits, true);
    kernel.split_at_boot(
        kernel_slot(place::CPU_TIME),
        kernel_slot(place::OWN_TIME),
        k::Ticks::new(500),
        k::Ticks::new(1_000),
    );
    kernel.bind_root(kernel_vcpu(ROOT_VCPU), kernel_slot(place::OWN_TIME));
    kernel.start_root(kernel_vcpu(ROOT_VCPU), ENTRY, 0);
    let boot = [
        place::CNODE,
        place::VM,
        place::VCPU,
        place::MACHINE,
        place::PORTS,
        place::ROUTES,
        place::CPU_TIME,
        place::CPU_TIME + 1,
        place::CLEAN,
        place::DIRTY,
        place::DEVICE,
        place::FUNCTION,
        place::QUARANTINED,
        place::PLAIN,
    ];
    (kernel, boot.map(kernel_slot).to_vec())
}

/// What is fixed about a function, as the abstract machine is told.
pub(super) fn function_facts(function: k::FunctionId) -> FunctionFacts {
    let facts = DeviceModel::facts(function);
    let bars = [0, 1, 2, 3, 4, 5].map(|bar| DeviceModel::bar(function, bar));
    let withheld = (0..)
        .zip(&bars)
        .flat_map(|(bar, record)| {
            let pages = record.withheld.into_iter().flat_map(|(first, count)| first..first + count);
            pages.map(move |page| (bar, page))
        })
        .collect();
    FunctionFacts {
        bars: bars.map(|bar| (bar.base.get(), bar.pages)),
        withheld,
        messages: facts.messages,
        vfs: facts.vfs,
        first_vf: facts.first_vf.get(),
        identity: facts.identity,
        requester: facts.requester,
        writable: [(device_model::WRITABLE, device_model::WRITABLE_BITS)].into(),
        reset_ticks: device_model::RESET_TICKS,
        quarantined: facts.quarantined,
    }
}

/// The abstract machine as boot leaves it, with 2^`dirty_bits` bytes of memory that has not been scrubbed.
pub fn boot_spec(dirty_bits: u8) -> State {
    let dirty = dirty(dirty_bits);
    let config = Config {
        min_period: TSC_HZ / 1_000,
        max_period: TSC_HZ,
        min_budget: TSC_HZ / 20_000,
        switch_ticks: SWITCH,
        // All but 5 %, rounded up.
        capacity: (1 << 32) - (1u64 << 32).div_ceil(20),
        forbidden_routes: BTreeSet::from([0, 2, 20]),
        forbidden_ports: spec::NEVER_HANDED_OUT.to_vec(),
        statistics_page: STATISTICS_PAGE,
        first_message_route: FIRST_MESSAGE_ROUTE,
        functions: (0..FUNCTION_NUMBERS as u16).map(|number| function_facts(k::FunctionId::new(number))).collect(),
    };
    let mut state = State::new(config);
    let whole_core = Reservation { budget: TSC_HZ, period: TSC_HZ };
    let time = |core| Cap::CpuTime { core, reservation: whole_core, free_from: 0, vcpu: None };
    let given = [
        (place::CNODE, Cap::CNode { id: ROOT_CNODE, slot_bits: ROOT_BITS }),
        (place::VM, Cap::Vm(ROOT_VM)),
        (place::VCPU, Cap::Vcpu(ROOT_VCPU)),
        (place::MACHINE, Cap::Machine),
        (place::PORTS, Cap::IoPort { first: 0, count: 1 << 16 }),
        (place::ROUTES, Cap::Irq { first: 0, count: ROUTES, route: None, message: None }),
        (place::CPU_TIME, time(0)),
        (place::CPU_TIME + 1, time(1)),
        (place::CLEAN, Cap::Untyped { extent: CLEAN, device: false, watermark: 0 }),
        (place::DIRTY, Cap::Untyped { extent: dirty, device: false, watermark: dirty.bytes() }),
        (place::DEVICE, Cap::Untyped { extent: DEVICE, device: true, watermark: 0 }),
        (place::FUNCTION, Cap::PciFunction { function: FUNCTIONS[0].1.get(), lease: 0 }),
        (place::QUARANTINED, Cap::PciFunction { function: FUNCTIONS[1].1.get(), lease: 0 }),
        (place::PLAIN, Cap::PciFunction { function: FUNCTIONS[2].1.get(), lease: 0 }),
    ];
    for (_, function) in FUNCTIONS {
        state.functions.insert(function.get(), Default::default());
    }
    for (index, cap) in given {
        let slot = Slot { cap, rights: Rights::all(), parent: None, depth: 0, original: true };
        state.slots.insert(ROOT_CNODE.slot(index), slot);
    }
    let own_time = Slot {
        cap: Cap::CpuTime {
            core: 0,
            reservation: Reservation { budget: 500, period: 1_000 },
            free_from: 0,
            vcpu: Some(ROOT_VCPU),
        },
        rights: Rights::all(),
        parent: Some(ROOT_CNODE.slot(place::CPU_TIME)),
        depth: 1,
        original: true,
    };
    state.slots.insert(ROOT_CNODE.slot(place::OWN_TIME), own_time);
    state.cnodes.insert(ROOT_CNODE, ROOT_BITS);
    let region = Extent { base: 0, bits: 0 };
    state.vms.insert(ROOT_VM, Vm { cspace: Some(ROOT_CNODE), region, launched: true });
    state.tables.insert(ROOT_VM.root(), Default::default());
    let root = Vcpu {
        vm: Some(ROOT_VM),
        run: Run::Stopped,
        events: 0,
        registers: spec::initial_registers(),
        upcall: [0, 0],
        handler: None,
    };
    state.vcpus.insert(ROOT_VCPU, root);
    spec::start_root(&mut state, ROOT_VCPU, ENTRY);
    state
}
