//! A booted world: two cores, a root VM whose Vcpu runs on core 0, some Untypeds.

use super::host::{BASE, Host, STATISTICS};
use crate::cap::Cap;
use crate::check::invariants;
use crate::decode::Call;
use crate::kernel::{Config, Kernel};
use crate::nested::EntryFormat;
use crate::run::Outcome;
use crate::slot::Slot;
use crate::types::{CoreId, Hpa, SlotId, Ticks, VcpuId, VmId};
use cap_spec::abi::{Error, Fault, Label, ObjectType, Rights, Status};
use std::boxed::Box;
use std::string::String;

/// log2 of the slots of the root CNode.
pub(super) const ROOT_BITS: u8 = 10;
/// Slots of the root CNode.
pub(super) const ROOT_SLOTS: u32 = 1 << ROOT_BITS;
/// Slots of the root VM's capabilities.
pub(super) const CNODE: u64 = 1;
pub(super) const VM: u64 = 2;
pub(super) const VCPU: u64 = 3;
pub(super) const MACHINE: u64 = 5;
pub(super) const PORTS: u64 = 6;
pub(super) const IRQS: u64 = 7;
/// Boot Untypeds: 4 MiB clean after [`World::new`], 64 KiB dirty, 1 MiB of a device.
pub(super) const MEMORY: u64 = 8;
pub(super) const DIRTY: u64 = 9;
pub(super) const DEVICE: u64 = 10;
/// CPU time of cores 0 and 1.
pub(super) const TIME: [u64; 2] = [11, 12];
/// The root VM's own reservation.
pub(super) const OWN_TIME: u64 = 13;
/// The first free slot.
pub(super) const FREE: u64 = 16;
/// All rights.
pub(super) const ALL: u64 = 0x1f;
/// Ticks in a millisecond of the test machine.
pub(super) const MS: u64 = 1_000_000;
/// First byte of the Untyped `MEMORY`.
pub(super) const MEMORY_BASE: u64 = BASE + 0x40_0000;

/// The kernel on its machine.
pub(super) struct World {
    pub(super) kernel: Box<Kernel<Host>>,
    pub(super) root: SlotId,
    pub(super) vcpu: VcpuId,
}

impl World {
    pub(super) fn new() -> World {
        let mut kernel = Box::new(Kernel::new(Host::new()));
        kernel.configure(&Config {
            cores: 2,
            tsc_hz: 1000 * MS,
            switch: Ticks::new(5000),
            epoch: Ticks::new(0),
            asids: 16,
            format: EntryFormat::Npt,
            statistics_page: Hpa::new(STATISTICS),
            forbidden_routes: 1 << 8,
            first_message_route: 24,
        });
        let root = Hpa::new(BASE).to_slot();
        let vm = VmId::at(Hpa::new(BASE + 0x10_0000));
        let vcpu = VcpuId::at(Hpa::new(BASE + 0x10_4000));
        kernel.make_root(root, ROOT_BITS, vm, vcpu);
        let slot = |index: u64| root.plus(index as u32);
        kernel.give(slot(MACHINE), Cap::Machine);
        kernel.give(slot(PORTS), Cap::IoPort { first: 0, count: 0x1_0000 });
        kernel.give(slot(IRQS), Cap::Irq { first: 0, count: 24 });
        kernel.give_untyped(slot(MEMORY), Hpa::new(MEMORY_BASE), 22, false);
        kernel.give_untyped(slot(DIRTY), Hpa::new(BASE + 0x11_0000), 16, false);
        kernel.give_untyped(slot(DEVICE), Hpa::new(0xf000_0000), 20, true);
        kernel.give_cpu_time(slot(TIME[0]), CoreId::new(0));
        kernel.give_cpu_time(slot(TIME[1]), CoreId::new(1));
        kernel.split_at_boot(slot(TIME[0]), slot(OWN_TIME), Ticks::new(2 * MS), Ticks::new(10 * MS));
        kernel.machine.scribble(Hpa::new(BASE + 0x11_0000), 0x1_0000);
        kernel.bind_root(vcpu, slot(OWN_TIME));
        kernel.start_root(vcpu, 0x20_0000, 0x1000);
        let mut world = World { kernel, root, vcpu };
        world.kernel.schedule(CoreId::new(0));
        world.check();
        world.ok(Label::CNodeRevoke, CNODE, [MEMORY, 0, 0, 0, 0]);
        world
    }

    /// The invariants hold.
    pub(super) fn check(&self) {
        let faults = self.faults();
        assert!(faults.is_empty(), "{faults:#?}");
    }

    pub(super) fn faults(&self) -> std::vec::Vec<String> {
        invariants(&self.kernel, self.root, ROOT_SLOTS, |host: &Host, base, bytes| {
            base.get() >= 0xf000_0000 || host.is_clean(base, bytes)
        })
    }

    /// One hypercall of the Vcpu that runs on a core, repeated while it is preempted.
    pub(super) fn call_on(&mut self, core: u8, label: Label, cap: u64, args: [u64; 5]) -> Outcome {
        let core = CoreId::new(core);
        let call = Call { cap, label: label as u64, args };
        for _ in 0..100_000 {
            let outcome = self.kernel.handle_call(core, &call);
            self.kernel.schedule(core);
            if outcome != Outcome::Preempted {
                return outcome;
            }
        }
        panic!("{label:?} does not come to an end");
    }

    /// One hypercall of the root VM, to its end; the invariants hold afterwards.
    pub(super) fn call(&mut self, label: Label, cap: u64, args: [u64; 5]) -> Result<[u64; 2], Fault> {
        let outcome = self.call_on(0, label, cap, args);
        self.check();
        match outcome {
            Outcome::Done { status: Status::OK, results } => Ok(results),
            Outcome::Done { status, .. } => Err(status.to_result().unwrap_err()),
            other => panic!("{label:?} gave {other:?}"),
        }
    }

    /// A hypercall that succeeds.
    pub(super) fn ok(&mut self, label: Label, cap: u64, args: [u64; 5]) -> [u64; 2] {
        match self.call(label, cap, args) {
            Ok(results) => results,
            Err(fault) => panic!("{label:?} of {cap:#x} with {args:x?} gave {fault:?}"),
        }
    }

    /// A hypercall that is refused.
    pub(super) fn refused(&mut self, label: Label, cap: u64, args: [u64; 5], error: Error, argument: u8) {
        let fault = self.call(label, cap, args).expect_err("it succeeded");
        assert_eq!((fault.error, fault.argument), (error, argument), "{label:?} of {cap:#x} with {args:x?}");
    }

    /// Makes objects out of an Untyped, into consecutive slots of the root CNode.
    pub(super) fn retype(&mut self, untyped: u64, object: ObjectType, size: u64, to: u64, count: u64) {
        self.ok(Label::UntypedRetype, untyped, [object as u64, size, CNODE, to, count]);
    }

    /// What slot `index` of the root CNode holds.
    pub(super) fn slot(&self, index: u64) -> &Slot {
        self.kernel.slot(self.root.plus(index as u32))
    }

    /// Slot `index` of the CNode whose capability is in slot `node` of the root CNode.
    pub(super) fn inner(&self, node: u64, index: u32) -> &Slot {
        let Cap::CNode { base, .. } = self.slot(node).cap else { panic!("{node} holds no CNode") };
        self.kernel.slot(base.plus(index))
    }

    pub(super) fn delete(&mut self, index: u64) {
        self.ok(Label::CNodeDelete, CNODE, [index, 0, 0, 0, 0]);
    }

    pub(super) fn revoke(&mut self, index: u64) {
        self.ok(Label::CNodeRevoke, CNODE, [index, 0, 0, 0, 0]);
    }

    /// Copies within the root CNode.
    pub(super) fn copy(&mut self, from: u64, to: u64) {
        self.ok(Label::CNodeCopy, CNODE, [to, from, ALL, 0, 0]);
    }

    /// Moves into slot `index` of the CNode whose capability is in slot `node`.
    pub(super) fn move_into(&mut self, from: u64, node: u64, index: u64) {
        self.ok(Label::CNodeMove, node, [index, from, 0, 0, 0]);
    }

    pub(super) fn vm_id(&self, index: u64) -> VmId {
        match self.slot(index).cap {
            Cap::Vm { id } => id,
            other => panic!("{index} holds {other:?}"),
        }
    }

    pub(super) fn vcpu_id(&self, index: u64) -> VcpuId {
        match self.slot(index).cap {
            Cap::Vcpu { id } => id,
            other => panic!("{index} holds {other:?}"),
        }
    }

    pub(super) fn watermark(&self, index: u64) -> u64 {
        match self.slot(index).cap {
            Cap::Untyped { watermark, .. } => watermark,
            other => panic!("{index} holds {other:?}"),
        }
    }
}

/// READ, WRITE as arguments.
pub(super) const RW: u64 = Rights::READ.union(Rights::WRITE).bits() as u64;
