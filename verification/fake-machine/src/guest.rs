//! What guests ask the kernel for: invocations that mostly make sense, drawn from what their CSpace holds, and garbage.
//!
//! The table of the ABI says what arguments a label takes, so that every label is asked for with arguments of the right
//! kind; a share of them is then spoiled.

use crate::iommu::IO_PAGES;
use crate::lines::{FIRST_ROUTE, ROUTES};
use crate::machine::FakeMachine;
use crate::random::Random;
use crate::setup::ROOT_VCPU;
use cap_spec::abi::{CptrParts, Label, ObjectType};
use cap_spec::spec::{ArgKind, LABELS, LabelSpec};
use kernel::cap::Cap;
use kernel::machine::Machine;
use kernel::types::{SlotId, VcpuId, VmId};
use kernel::vcpu::Run;
use kernel::{Call, Kernel};

/// Guest-physical pages that guests touch and map, in two regions that need tables of their own.
pub const PAGES: [u64; 10] =
    [0x20_0000, 0x20_1000, 0x20_2000, 0x20_3000, 0x20_4000, 0x20_5000, 0x40_0000, 0x40_1000, 0x40_2000, 0x8000_0000];

/// The first slot that guests use as they like; what is below they lose rarely, so that they go on living.
const FREE: u16 = 16;

/// Labels that guests ask for more often than for others: what withdraws memory, and what sleeps and wakes.
const FAVOURITES: [Label; 16] = [
    Label::FrameMap,
    Label::FrameMap,
    Label::FrameUnmap,
    Label::FrameUnmap,
    Label::PageTableMap,
    Label::PageTableUnmap,
    Label::UntypedRetype,
    Label::UntypedRetype,
    Label::CNodeRevoke,
    Label::CNodeRevoke,
    Label::CNodeDelete,
    Label::VcpuSignal,
    Label::VcpuWait,
    Label::ChannelSignal,
    Label::ChannelWait,
    Label::ChannelWait,
];

/// Labels of functions, and of what they reach.
const OF_DEVICES: [Label; 16] = [
    Label::FrameMapIo,
    Label::FrameMapIo,
    Label::FrameMapIo,
    Label::FrameMapIo,
    Label::FrameUnmap,
    Label::FrameUnmap,
    Label::PageTableMapIo,
    Label::PciFunctionAttach,
    Label::PciFunctionAttach,
    Label::PciFunctionDetach,
    Label::PciFunctionReset,
    Label::PciFunctionLease,
    Label::PciFunctionBindMsix,
    Label::PciFunctionBindMsix,
    Label::PciFunctionUnbindMsix,
    Label::IrqBind,
];

/// What a CSpace holds.
struct Holdings {
    full: Vec<(u16, ObjectType)>,
    empty: Vec<u16>,
}

impl Holdings {
    fn of(kernel: &Kernel<FakeMachine>, vcpu: VcpuId) -> Holdings {
        let mut holdings = Holdings { full: Vec::new(), empty: Vec::new() };
        let vm = kernel.machine.vcpu(vcpu).vm;
        if !vm.is_some() {
            return holdings;
        }
        let vm = kernel.machine.vm(vm);
        if vm.cspace == SlotId::NONE {
            return holdings;
        }
        for index in 1..vm.cspace_slots.min(48) {
            let slot = kernel.machine.slot(vm.cspace.plus(index));
            if slot.is_empty() {
                holdings.empty.push(index as u16);
            } else {
                holdings.full.push((index as u16, slot.cap.object_type()));
            }
        }
        holdings
    }

    /// A capability of this type, else any number.
    fn of_type(&self, wanted: ObjectType, random: &mut Random) -> u64 {
        let fitting: Vec<u16> =
            self.full.iter().filter(|(_, object)| *object == wanted).map(|(index, _)| *index).collect();
        match random.pick(&fitting) {
            Some(&index) => cptr(index),
            None => cptr(random.below(64) as u16),
        }
    }

    /// A frame that is mapped, or that is not; else any number.
    fn frame(&self, kernel: &Kernel<FakeMachine>, vcpu: VcpuId, mapped: bool, random: &mut Random) -> u64 {
        let root = cspace(kernel, kernel.machine.vcpu(vcpu).vm);
        let fits = |index: u16| {
            let slot = root.map(|root| kernel.machine.slot(root.plus(index.into())));
            slot.is_some_and(|slot| matches!(slot.cap, Cap::Frame { .. }) && slot.cap.mapping().is_some() == mapped)
        };
        let fitting: Vec<u16> = self.full.iter().map(|(index, _)| *index).filter(|index| fits(*index)).collect();
        random.pick(&fitting).map_or_else(|| cptr(random.below(64) as u16), |index| cptr(*index))
    }

    fn any(&self, random: &mut Random) -> u16 {
        random.pick(&self.full).map_or(0, |(index, _)| *index)
    }

    fn any_empty(&self, random: &mut Random) -> u16 {
        random.pick(&self.empty).copied().unwrap_or(0)
    }

    /// A slot to delete or revoke: rarely one that the guest lives by.
    fn any_expendable(&self, random: &mut Random) -> u16 {
        let free: Vec<u16> = self.full.iter().map(|(index, _)| *index).filter(|index| *index >= FREE).collect();
        match random.pick(&free) {
            Some(&index) if !random.one_in(200) => index,
            _ if random.one_in(20) => self.any(random),
            _ => FREE,
        }
    }
}

const fn cptr(index: u16) -> u64 {
    CptrParts { node: 0, index }.to_raw()
}

/// A call of a guest.
pub fn call(kernel: &Kernel<FakeMachine>, vcpu: VcpuId, now: u64, random: &mut Random) -> Call {
    if random.one_in(24) {
        return garbage(random);
    }
    let holdings = Holdings::of(kernel, vcpu);
    let label = match random.below(8) {
        0 | 1 => LABELS[random.below(LABELS.len() as u64) as usize].label,
        2 | 3 => *random.pick(&OF_DEVICES).unwrap_or(&Label::Nop),
        _ => *random.pick(&FAVOURITES).unwrap_or(&Label::Nop),
    };
    let spec = label.spec();
    let cap = match spec.label.object() {
        ObjectType::Null => cptr(holdings.any(random)),
        ObjectType::Frame if matches!(label, Label::FrameMapIo | Label::FrameUnmap) => {
            holdings.frame(kernel, vcpu, label == Label::FrameUnmap, random)
        }
        object => holdings.of_type(object, random),
    };
    let mut args = [0; 5];
    for (number, argument) in spec.args.iter().enumerate() {
        args[number] = match argument.kind {
            ArgKind::Number => number_for(spec, number, now, random),
            ArgKind::Capability(object, _) => holdings.of_type(object, random),
            ArgKind::AnyCapability => cptr(holdings.any(random)),
            ArgKind::EmptySlot => holdings.any_empty(random) as u64,
            ArgKind::FullSlot => holdings.any_expendable(random) as u64,
        };
    }
    if matches!(label, Label::VcpuWait | Label::ChannelWait) && vcpu == ROOT_VCPU {
        // Somebody must stay awake to wake the others.
        args[1] = now + random.below(2_000);
    }
    if label == Label::UntypedRetype {
        retype_arguments(&mut args, random);
    }
    if random.one_in(32) {
        args[random.below(5) as usize] = odd_number(random);
    }
    Call { cap, label: label as u64, args }
}

/// A size that fits the type.
fn retype_arguments(args: &mut [u64; 5], random: &mut Random) {
    let (object, bits) = match random.below(13) {
        0..=4 => (ObjectType::Frame, 12),
        5 | 6 => (ObjectType::PageTable, 0),
        7 => (ObjectType::CNode, 6),
        8 => (ObjectType::Untyped, 12 + random.below(4)),
        9 => (ObjectType::Channel, 0),
        10 => (ObjectType::Vcpu, 0),
        11 => (ObjectType::IommuDomain, 0),
        _ => (ObjectType::Vm, 0),
    };
    (args[0], args[1], args[4]) = (object as u64, bits, 1 + random.below(3));
}

/// A number that an argument may well have.
fn number_for(spec: &LabelSpec, number: usize, now: u64, random: &mut Random) -> u64 {
    match (spec.label, number) {
        (Label::FrameMap | Label::PageTableMap, 1) => *random.pick(&PAGES).unwrap_or(&0),
        (Label::FrameMapIo | Label::PageTableMapIo, 1) => *random.pick(&IO_PAGES).unwrap_or(&0),
        (Label::FrameMapIo, 2) => 1 + random.below(3),
        (Label::FrameMapIo, 3) => random.below(2),
        (Label::PageTableMapIo, 2) => 1 + random.below(2),
        (Label::PciFunctionEnableVfs, 0) => 1 + random.below(2),
        (Label::PciFunctionBindMsix | Label::PciFunctionUnbindMsix, 0) => random.below(2),
        (Label::PciFunctionReadConfig | Label::PciFunctionWriteConfig, 0) => 0x40,
        (Label::FrameMap, 2) => [1, 3, 7][random.below(3) as usize],
        (Label::FrameMap, 3) | (Label::FrameUnmap, 0) => [0, 0, 0, 1, 2][random.below(5) as usize],
        (Label::PageTableMap, 2) => 1 + random.below(3),
        (Label::CpuTimeSplit | Label::CpuTimeResize, 0) => 50 + random.below(400),
        (Label::CpuTimeSplit | Label::CpuTimeResize, 1) => 1_000 * (1 + random.below(4)),
        (Label::VcpuWait | Label::ChannelWait, 0) => [0xff, 0xff, 3, 1 << random.below(8)][random.below(4) as usize],
        (Label::VcpuWait | Label::ChannelWait, 1) => {
            if random.one_in(2) {
                0
            } else {
                now + random.below(2_000)
            }
        }
        (Label::VcpuSignal | Label::ChannelBind, _) => 1 << random.below(8),
        (Label::VcpuSetUpcall, _) | (Label::IrqBind, 1) => 32 + random.below(8),
        (Label::IrqSplit, 0) => FIRST_ROUTE as u64 + random.below(ROUTES as u64),
        (Label::IrqSplit, 1) => 1,
        (Label::CNodeCopy | Label::CNodeMint, 2) => 31,
        (Label::VcpuSetRegister | Label::VcpuGetRegister, 0) => random.below(21),
        _ => random.below(4),
    }
}

/// A number that hardly anything has.
fn odd_number(random: &mut Random) -> u64 {
    match random.below(5) {
        0 => random.bits(),
        1 => u64::MAX,
        2 => 1 << random.below(64),
        3 => random.below(1 << 20) << 12,
        _ => random.below(80),
    }
}

fn garbage(random: &mut Random) -> Call {
    let label = if random.one_in(2) { random.below(LABELS.len() as u64 + 2) } else { random.bits() };
    let mut number = || if random.one_in(2) { random.below(64) } else { odd_number(random) };
    Call { cap: number(), label, args: [number(), number(), number(), number(), number()] }
}

/// A capability pointer to a stopped Vcpu of the same VM that has CPU time, if the guest has one.
pub fn stopped_sibling(kernel: &Kernel<FakeMachine>, vcpu: VcpuId) -> Option<u16> {
    let vm = kernel.machine.vcpu(vcpu).vm;
    let root = cspace(kernel, vm)?;
    (1..FREE).find(|index| match kernel.machine.slot(root.plus(*index as u32)).cap {
        Cap::Vcpu { id } => {
            let other = kernel.machine.vcpu(id);
            other.vm == vm && other.run == Run::Stopped && other.time.is_some()
        }
        _ => false,
    })
}

fn cspace(kernel: &Kernel<FakeMachine>, vm: VmId) -> Option<SlotId> {
    let root = vm.is_some().then(|| kernel.machine.vm(vm).cspace)?;
    root.is_some().then_some(root)
}

/// Slot 0 of the CNode that a capability pointer of a VM names.
pub fn cnode_base(kernel: &Kernel<FakeMachine>, vm: VmId, cptr: u64) -> Option<SlotId> {
    let parts = CptrParts::from_raw(cptr)?;
    let mut base = cspace(kernel, vm)?;
    if parts.node != 0 {
        base = cnode_in(kernel, base.plus(parts.node as u32))?;
    }
    cnode_in(kernel, base.plus(parts.index as u32))
}

fn cnode_in(kernel: &Kernel<FakeMachine>, slot: SlotId) -> Option<SlotId> {
    match kernel.machine.slot(slot).cap {
        Cap::CNode { base, .. } => Some(base),
        _ => None,
    }
}

/// True for a Vcpu that receives at an end of a channel whose other receiver is on the same core.
pub fn shares_channel(kernel: &Kernel<FakeMachine>, vcpu: VcpuId) -> bool {
    let end = kernel.machine.vcpu(vcpu).receives;
    if !end.is_some() {
        return false;
    }
    let peer = kernel.machine.channel(end.channel()).end(end.peer().end()).receiver;
    peer.is_some() && peer != vcpu && kernel.machine.vcpu(peer).core == kernel.machine.vcpu(vcpu).core
}
