//! The machine at boot, and the VMs that a run begins with: the root VM on core 0, one tenant on cores 0 and 1, one on
//! cores 1 and 2, with memory, tables, CPU time, channels, interrupts and a virtual function of their own. All of it is made by invocations
//! of the root VM, as a market server would.

use crate::core_loop::invoke_wholly;
use crate::devices::RESET_TICKS;
use crate::hardware::{EVENT, UPCALL};
use crate::iommu::IO_PAGES;
use crate::lines::{FIRST_MESSAGE_ROUTE, FIRST_ROUTE};
use crate::machine::{FakeMachine, STATISTICS};
use crate::memory::PAGE;
use cap_spec::abi::{CptrParts, Fault, Label, ObjectType, slots};
use kernel::cap::Cap;
use kernel::device_model::{PHYSICAL, PLAIN};
use kernel::types::{CoreId, Hpa, SlotId, Ticks, VcpuId, VmId};
use kernel::{Call, Config, Kernel};

/// Cores of the machine.
pub const CORES: usize = 3;
/// Pages of memory.
pub const PAGES: usize = 256;
/// Ticks a second: a period is at least 1,000 ticks, a budget at least 50.
pub const HZ: u64 = 1_000_000;
/// Ticks of a switch, as admission counts them.
pub const SWITCH: u64 = 10;

const ROOT_CNODE_BITS: u8 = 7;
/// Slot 0 of the root VM's CNode, in page 4, and its slots.
pub const ROOT_CNODE: (SlotId, u32) = (SlotId::new(4 * 64), 1 << ROOT_CNODE_BITS);
/// The root VM's Vcpu.
pub const ROOT_VCPU: VcpuId = VcpuId::new(16);
const ROOT_VM: VmId = VmId::new(12);

/// Slots of the root VM, beyond those that its random guest uses.
mod root {
    pub const CHURN: u16 = 16;
    pub const CPU: u16 = 64;
    pub const OWN: u16 = 70;
    /// Within reach of the random guest: now and then it takes all of a tenant's memory back.
    pub const TENANT: u16 = 32;
    pub const TABLES: u16 = 76;
    pub const WORK: u16 = 80;
    /// Functions and what they reach, within reach as well.
    pub const PHYSICAL: u16 = 34;
    pub const PLAIN: u16 = 35;
    pub const VF: u16 = 36;
    pub const DOMAIN: u16 = 38;
    pub const IO_TABLES: u16 = 41;
}

/// Where the pages of each boot Untyped begin, and log2 of its bytes.
const BOOT_MEMORY: [(u16, u64, u8); 4] =
    [(root::OWN, 192, 17), (root::TENANT, 64, 18), (root::TENANT + 1, 128, 18), (root::CHURN, 224, 17)];

/// Boots the machine and makes the first VMs. `asids` numbers a core.
pub fn boot(machine: FakeMachine, asids: u32) -> Box<Kernel<FakeMachine>> {
    let mut kernel = Box::new(Kernel::new(machine));
    kernel.configure(&Config {
        cores: CORES,
        tsc_hz: HZ,
        switch: Ticks::new(SWITCH),
        epoch: Ticks::new(0),
        asids,
        format: crate::hardware::FORMAT,
        statistics_page: STATISTICS,
        forbidden_routes: 0,
        first_message_route: FIRST_MESSAGE_ROUTE,
    });
    let (cnode, _) = ROOT_CNODE;
    kernel.make_root(cnode, ROOT_CNODE_BITS, ROOT_VM, ROOT_VCPU);
    let slot = |index: u16| SlotId::new(cnode.get() + index as u32);
    kernel.give(slot(slots::MARKET), Cap::Machine);
    kernel.give(slot(slots::CONSOLE), Cap::IoPort { first: 0x3f8, count: 8 });
    kernel.give(slot(slots::IRQ), Cap::Irq { first: FIRST_ROUTE, count: 8 });
    kernel.give(slot(root::PHYSICAL), Cap::PciFunction { lease: 0, function: PHYSICAL });
    kernel.give(slot(root::PLAIN), Cap::PciFunction { lease: 0, function: PLAIN });
    for core in 0..CORES as u8 {
        kernel.give_cpu_time(slot(root::CPU + core as u16), CoreId::new(core));
    }
    for (index, page, bits) in BOOT_MEMORY {
        kernel.give_untyped(slot(index), Hpa::new(page * PAGE), bits, false);
    }
    let root_time = slot(root::CPU + CORES as u16);
    kernel.split_at_boot(slot(root::CPU), root_time, Ticks::new(440), Ticks::new(1_000));
    kernel.bind_root(ROOT_VCPU, root_time);
    kernel.start_root(ROOT_VCPU, 0x20_0000, 0x20_1000);
    let mut setup = Setup { kernel };
    setup.root_memory();
    setup.invoke(root::PHYSICAL, Label::PciFunctionEnableVfs, &[2, cptr(slots::CNODE), root::VF as u64]);
    setup.kernel.machine.0.pass(2 * RESET_TICKS);
    setup.function(2, root::OWN, root::PLAIN);
    setup.tenant(0, [0, 1]);
    setup.tenant(1, [1, 2]);
    setup.invoke(slots::VCPU, Label::VcpuSetUpcall, &[UPCALL as u64, EVENT as u64]);
    setup.kernel
}

struct Setup {
    kernel: Box<Kernel<FakeMachine>>,
}

impl Setup {
    /// An invocation that must succeed, on a slot of the root CNode.
    fn invoke(&mut self, cap: u16, label: Label, args: &[u64]) {
        if let Err(fault) = self.try_invoke(cap, label, args) {
            panic!("set-up: {label:?} {args:x?} on slot {cap}: {fault:?}");
        }
    }

    fn try_invoke(&mut self, cap: u16, label: Label, args: &[u64]) -> Result<(), Fault> {
        let mut all = [0; 5];
        all[..args.len()].copy_from_slice(args);
        invoke_wholly(&mut self.kernel, &Call { cap: cptr(cap), label: label as u64, args: all })
    }

    /// Makes objects of an Untyped into consecutive slots.
    fn make(&mut self, untyped: u16, object: ObjectType, bits: u64, index: u16, count: u64) {
        self.invoke(untyped, Label::UntypedRetype, &[object as u64, bits, cptr(slots::CNODE), index as u64, count]);
    }

    /// Puts three tables and frames into a VM.
    fn map(&mut self, vm: u16, tables: u16, frames: u16, count: u16) {
        let regions = [(3, 0x20_0000), (2, 0x20_0000), (1, 0x20_0000), (1, 0x40_0000)];
        for (table, (level, gpa)) in (tables..).zip(regions) {
            self.invoke(table, Label::PageTableMap, &[cptr(vm), gpa, level]);
        }
        for (frame, &gpa) in (frames..frames + count).zip(&crate::guest::PAGES) {
            self.invoke(frame, Label::FrameMap, &[cptr(vm), gpa, 7]);
        }
    }

    fn root_memory(&mut self) {
        for (index, ..) in BOOT_MEMORY {
            self.invoke(slots::CNODE, Label::CNodeRevoke, &[index as u64]);
        }
        self.make(root::OWN, ObjectType::PageTable, 0, root::TABLES, 4);
        self.make(root::OWN, ObjectType::Frame, 12, 17, 4);
        self.map(slots::VM, root::TABLES, 17, 3);
        // Two channels between the tenants.
        self.make(root::OWN, ObjectType::Channel, 0, 21, 2);
        self.make(root::CHURN, ObjectType::Frame, 12, 24, 3);
    }

    /// Attaches a function to a domain of its own, in memory of an Untyped, with its first message and a page for DMA.
    fn function(&mut self, number: u16, untyped: u16, function: u16) {
        const ROUTE: u16 = root::WORK + 20;
        let (domain, tables) = (root::DOMAIN + number, root::IO_TABLES + 2 * number);
        self.make(untyped, ObjectType::IommuDomain, 0, domain, 1);
        self.make(untyped, ObjectType::PageTable, 0, tables, 2);
        for (table, level) in [(tables, 2), (tables + 1, 1)] {
            self.invoke(table, Label::PageTableMapIo, &[cptr(domain), 0, level]);
        }
        self.invoke(24 + number, Label::FrameMapIo, &[cptr(domain), IO_PAGES[0], 3]);
        self.revived(function, Label::PciFunctionAttach, &[cptr(domain)]);
        let route = u64::from(FIRST_MESSAGE_ROUTE + number);
        self.invoke(slots::IRQ, Label::IrqSplit, &[route, 1, cptr(slots::CNODE), (ROUTE + number).into()]);
        self.invoke(function, Label::PciFunctionBindMsix, &[0, cptr(ROUTE + number)]);
    }

    /// An invocation of a function that may have to be waited for.
    fn revived(&mut self, function: u16, label: Label, args: &[u64]) {
        for _ in 0..20 {
            if self.try_invoke(function, label, args).is_ok() {
                return;
            }
            self.kernel.machine.0.pass(RESET_TICKS);
        }
        self.invoke(function, label, args);
    }

    /// Makes, fills and launches a VM with a Vcpu on each of two cores.
    fn tenant(&mut self, number: u16, cores: [u16; 2]) {
        const SUB: u16 = root::WORK;
        const VM: u16 = root::WORK + 1;
        const VCPU: u16 = root::WORK + 2;
        const CNODE: u16 = root::WORK + 4;
        const TABLE: u16 = root::WORK + 5;
        const FRAME: u16 = root::WORK + 11;
        const BASE: u16 = root::WORK + 16;
        const END: u16 = root::WORK + 17;
        const SPARE_END: u16 = root::WORK + 18;
        const ROUTE: u16 = root::WORK + 19;
        const MESSAGE: u16 = root::WORK + 20;
        const LEASE: u16 = root::WORK + 23;
        const DOMAIN: u16 = root::WORK + 24;
        self.make(root::TENANT + number, ObjectType::Untyped, 17, BASE, 1);
        self.make(BASE, ObjectType::Untyped, 15, SUB, 1);
        self.make(BASE, ObjectType::Vm, 0, VM, 1);
        self.make(BASE, ObjectType::Vcpu, 0, VCPU, 2);
        self.make(BASE, ObjectType::CNode, 6, CNODE, 1);
        self.make(BASE, ObjectType::PageTable, 0, TABLE, 6);
        self.make(BASE, ObjectType::Frame, 12, FRAME, 5);
        self.invoke(VM, Label::VmSetCSpace, &[cptr(CNODE)]);
        for (vcpu, core) in (VCPU..).zip(cores) {
            self.invoke(vcpu, Label::VcpuAttach, &[cptr(VM)]);
            // The CPU time stays with the root VM, which resizes it and takes it away now and then.
            let budget = if core == 2 { 900 } else { 440 };
            let time = 10 + number * 2 + vcpu - VCPU;
            self.invoke(root::CPU + core, Label::CpuTimeSplit, &[budget, 1_000, cptr(slots::CNODE), time as u64]);
            self.invoke(vcpu, Label::VcpuBindTime, &[cptr(time)]);
            self.invoke(vcpu, Label::VcpuSetUpcall, &[UPCALL as u64, EVENT as u64]);
        }
        self.map(VM, TABLE, FRAME, 4);
        let route = FIRST_ROUTE as u64 + number as u64;
        self.invoke(slots::IRQ, Label::IrqSplit, &[route, 1, cptr(slots::CNODE), ROUTE as u64]);
        self.invoke(ROUTE, Label::IrqBind, &[cptr(VCPU + number), 48 + number as u64]);
        self.invoke(root::VF + number, Label::PciFunctionLease, &[cptr(slots::CNODE), LEASE.into()]);
        self.function(number, root::TENANT + number, LEASE);
        self.invoke(MESSAGE + number, Label::IrqBind, &[cptr(VCPU + number), 50 + number as u64]);
        self.invoke(slots::CNODE, Label::CNodeCopy, &[DOMAIN.into(), cptr(root::DOMAIN + number), 31]);
        let end = 1 + number as u64;
        self.invoke(slots::CNODE, Label::CNodeMint, &[END as u64, cptr(21), 31, end]);
        self.invoke(END, Label::ChannelBind, &[cptr(VCPU), 1]);
        self.invoke(slots::CNODE, Label::CNodeMint, &[SPARE_END as u64, cptr(22), 31, 1 + number as u64]);
        // Its two receivers share core 1.
        self.invoke(SPARE_END, Label::ChannelBind, &[cptr(VCPU + 1 - number), 2]);
        let kept = [
            (VM, slots::VM),
            (VCPU + 1, 8),
            (BASE, slots::BASE),
            (END, slots::MARKET),
            (SPARE_END, slots::CONSOLE),
            (ROUTE, slots::IRQ),
            (MESSAGE + number, 9),
            (LEASE, 10),
            (DOMAIN, 11),
            (SUB, 16),
        ];
        let tables = (TABLE..TABLE + 6).zip(17..);
        let frames = (FRAME..FRAME + 5).zip(24..);
        for (from, to) in kept.into_iter().chain(tables).chain(frames).chain([(CNODE, slots::CNODE)]) {
            self.invoke(CNODE, Label::CNodeMove, &[to as u64, cptr(from)]);
        }
        self.invoke(VCPU, Label::VcpuLaunch, &[cptr(slots::BASE), slots::VCPU as u64]);
    }
}

/// A slot of the root CNode as a capability pointer.
const fn cptr(index: u16) -> u64 {
    CptrParts { node: 0, index }.to_raw()
}
