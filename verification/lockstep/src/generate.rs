//! Random steps that are nearly valid: an invocation is chosen by what the invoker holds, and now and then spoiled.

use cap_spec::abi::{CptrParts, FaultRecord, IO_ADDRESS_BITS, Label, ObjectType, Rights, Stopped};
use cap_spec::machine::{CNodeId, Call, Cap, Entry, Message, Run, Slot, SlotId, State, VcpuId, VmId, in_flight_slot};
use cap_spec::spec::{ArgKind, LABELS, LabelSpec};

use crate::observe::MAPPABLE;
use crate::random::Random;
use crate::script::Step;
use crate::system::{CORES, FUNCTION_NUMBERS, ROOT_VCPU, System};

/// How often each label is chosen, relative to each other; labels that are not here: 4.
const WEIGHTS: &[(Label, usize)] = &[
    (Label::Nop, 1),
    (Label::UntypedRetype, 30),
    (Label::CNodeCopy, 12),
    (Label::CNodeMint, 8),
    (Label::CNodeMove, 16),
    (Label::CNodeDelete, 12),
    (Label::CNodeRevoke, 5),
    (Label::FrameMap, 14),
    (Label::FrameUnmap, 5),
    (Label::PageTableMap, 14),
    (Label::PageTableUnmap, 3),
    (Label::VcpuStart, 8),
    (Label::VcpuBindTime, 8),
    (Label::VcpuAttach, 8),
    (Label::VcpuLaunch, 8),
    (Label::VcpuWait, 3),
    (Label::ChannelWait, 8),
    (Label::CpuTimeSplit, 8),
    (Label::ChannelGrant, 8),
    (Label::ChannelAccept, 8),
    (Label::MachineReset, 1),
    (Label::VcpuStop, 2),
    (Label::FrameMapIo, 10),
    (Label::PageTableMapIo, 10),
    (Label::PciFunctionAttach, 8),
    (Label::PciFunctionEnableVfs, 6),
    (Label::PciFunctionLease, 3),
    (Label::PciFunctionUnbindMsix, 8),
    (Label::PciFunctionReset, 1),
];

/// Guest-physical addresses near which things are mapped.
const REGIONS: [u64; 7] = [0, 0x11_0000, 0x20_0000, 0x4000_0000, 0x80_0000_0000, (1 << 48) - 0x4000_0000, 1 << 48];
/// I/O addresses near which things are mapped. The last is out of range, one is where interrupts are written.
const IO_REGIONS: [u64; 6] = [0, 0x20_0000, 0x4000_0000, 0xfee0_0000 - 0x3000, (1 << 39) - 0x4000_0000, 1 << 39];
/// Numbers that are legal or illegal in many places.
const ODDITIES: [u64; 12] = [0, 1, 2, 7, 31, 63, 64, 0xffff, 1 << 16, 1 << 32, 1 << 47, u64::MAX];
/// Slots from 1 up to this are preferred, so that they fill up.
const BUSY_SLOTS: u64 = 100;

/// What a Vcpu can name.
struct View {
    caps: Vec<(u64, SlotId)>,
    /// The type of each of `caps`.
    types: Vec<ObjectType>,
    cnodes: Vec<(u64, CNodeId)>,
}

impl View {
    fn of(state: &State, vcpu: VcpuId) -> Option<View> {
        let root = state.vms[&state.vcpus.get(&vcpu)?.vm?].cspace?;
        let mut view = View { caps: Vec::new(), types: Vec::new(), cnodes: Vec::new() };
        view.add(state, root, 0);
        for (cptr, cnode) in view.cnodes.clone() {
            if let Some(CptrParts { node: 0, index }) = CptrParts::from_raw(cptr) {
                view.add(state, cnode, index);
            }
        }
        Some(view)
    }

    /// Adds the slots of a CNode that is reached through slot `node` of the root CNode.
    fn add(&mut self, state: &State, cnode: CNodeId, node: u16) {
        let Some(bits) = state.cnodes.get(&cnode) else { return };
        for (id, slot) in state.slots.range(cnode.slot(1)..cnode.slot(1 << bits)) {
            let index = ((id.0 - cnode.0) >> cap_spec::abi::SLOT_BITS) as u16;
            let cptr = CptrParts { node, index }.to_raw();
            self.caps.push((cptr, *id));
            self.types.push(slot.cap.object_type());
            if let Cap::CNode { id, .. } = slot.cap {
                self.cnodes.push((cptr, id));
            }
        }
    }

    /// A capability of this type for argument `number` of a label: mostly one with which the call can succeed.
    fn pick(
        &self,
        state: &State,
        random: &mut Random,
        object_type: ObjectType,
        label: Label,
        number: u8,
    ) -> Option<(u64, SlotId)> {
        let needed = match number {
            0 => label.rights(),
            _ => match label.spec().args[usize::from(number) - 1].kind {
                ArgKind::Capability(_, rights) => rights,
                _ => Rights::empty(),
            },
        };
        let fitting: Vec<(u64, SlotId)> = self
            .caps
            .iter()
            .zip(&self.types)
            .filter(|(_, found)| object_type == ObjectType::Null || **found == object_type)
            .map(|(cap, _)| *cap)
            .collect();
        let good: Vec<(u64, SlotId)> = fitting
            .iter()
            .filter(|(_, slot)| state.slots[slot].rights.contains(needed) && is_promising(state, *slot, label, number))
            .copied()
            .collect();
        let choice = if random.one_in(12) { None } else { random.pick(&good) };
        choice.or_else(|| random.pick(&fitting)).or_else(|| random.pick(&self.caps))
    }

    /// An index of a CNode that is full, or empty, as wanted; mostly.
    fn index(&self, state: &State, random: &mut Random, cnode: Option<(CNodeId, u8)>, full: bool) -> u64 {
        let Some((cnode, bits)) = cnode else { return 1 + random.below(BUSY_SLOTS as usize) as u64 };
        let end = BUSY_SLOTS.min((1 << bits) - 1) as usize;
        let mut index = 0;
        for _ in 0..8 {
            index = 1 + random.below(end) as u64;
            if state.slots.contains_key(&cnode.slot(index)) == full {
                break;
            }
        }
        index
    }
}

/// True if the state of what is in the slot does not speak against the call.
fn is_promising(state: &State, id: SlotId, label: Label, number: u8) -> bool {
    let slot = &state.slots[&id];
    match (label, number, &slot.cap) {
        (Label::UntypedRetype, 0, Cap::Untyped { extent, device, watermark }) => !device && *watermark < extent.bytes(),
        (Label::FrameMap, 0, Cap::Frame { mapping, .. }) => mapping.is_none(),
        (Label::FrameMapIo, 0, Cap::Frame { mapping, device, kernel_page, .. }) => {
            mapping.is_none() && !device && !kernel_page
        }
        (Label::FrameUnmap, 0, Cap::Frame { mapping, .. }) => mapping.is_some(),
        (Label::PageTableMap | Label::PageTableMapIo, 0, Cap::PageTable { place, .. }) => place.is_none(),
        (Label::PageTableUnmap, 0, Cap::PageTable { place, .. }) => place.is_some(),
        (Label::VmSetCSpace, 0, Cap::Vm(vm)) => state.vms[vm].cspace.is_none(),
        (Label::VmSetCSpace, 1, Cap::CNode { .. }) => slot.original && slot.parent.is_some(),
        (Label::VcpuAttach, 0, Cap::Vcpu(vcpu)) => state.vcpus[vcpu].vm.is_none(),
        (Label::VcpuBindTime, 0, Cap::Vcpu(vcpu)) => state.vcpus[vcpu].vm.is_some() && state.time_of(*vcpu).is_none(),
        (Label::VcpuBindTime, 1, Cap::CpuTime { vcpu, .. }) => vcpu.is_none() && !state.has_children(id),
        (
            Label::VcpuSetRegister | Label::VcpuGetRegister | Label::VcpuStart | Label::VcpuUnbindTime,
            0,
            Cap::Vcpu(vcpu),
        ) => state.vcpus[vcpu].run == Run::Stopped,
        (Label::VcpuStop | Label::VcpuWait, 0, Cap::Vcpu(vcpu)) => {
            state.vcpus[vcpu].run == Run::Runnable && (*vcpu != ROOT_VCPU || label == Label::VcpuWait)
        }
        (Label::CpuTimeSplit, 0, Cap::CpuTime { vcpu, .. }) => vcpu.is_none(),
        (Label::CpuTimeResize, 0, _) => slot.parent.is_some() && !state.has_children(id),
        (Label::ChannelAccept, 0, Cap::Channel { id, end }) => state.slots.contains_key(&in_flight_slot(*id, *end)),
        (Label::ChannelGrant, 0, Cap::Channel { id, end }) => !state.slots.contains_key(&in_flight_slot(*id, 3 - *end)),
        (Label::ChannelBind, 0, Cap::Channel { id, end }) => state.channels[id][usize::from(*end) - 1].is_none(),
        (Label::IrqBind, 0, Cap::Irq { count, route, .. }) => *count == 1 && route.is_none(),
        (Label::IrqBind, 1, Cap::Vcpu(vcpu)) => state.time_of(*vcpu).is_some(),
        (Label::IrqUnbind, 0, Cap::Irq { route, .. }) => route.is_some(),
        (Label::PciFunctionBindMsix, 2, Cap::Irq { first, count, message, .. }) => {
            *count == 1 && message.is_none() && *first >= state.config.first_message_route
        }
        (Label::PciFunctionEnableVfs, 0, Cap::PciFunction { function, lease }) => {
            let record = &state.functions[function];
            state.config.functions[usize::from(*function)].vfs != 0 && record.vfs == 0 && record.leases == *lease
        }
        (
            Label::PciFunctionLease
            | Label::PciFunctionGetBar
            | Label::PciFunctionAttach
            | Label::PciFunctionBindMsix
            | Label::PciFunctionReset,
            0,
            Cap::PciFunction { function, lease },
        ) => {
            let record = &state.functions[function];
            record.leases == *lease && record.ready_at <= state.now
        }
        (Label::PciFunctionUnbindMsix, 0, Cap::PciFunction { function, lease }) => {
            state.functions[function].leases == *lease && !bound_entries(state, *function).is_empty()
        }
        (Label::CNodeCopy | Label::CNodeMint, 2, cap) => !cap.object_type().is_unique(),
        (Label::CNodeMove, 2, _) | (Label::ChannelGrant, 1, _) => slot.parent.is_some(),
        _ => true,
    }
}

/// The entries of a function's table whose messages raise a route.
fn bound_entries(state: &State, of: u16) -> Vec<u16> {
    let entry = |slot: &Slot| match slot.cap {
        Cap::Irq { message: Some(Message { function, entry }), .. } if function == of => Some(entry),
        _ => None,
    };
    state.slots.values().filter_map(entry).collect()
}

/// The next step from here; `None` if nobody will ever run again.
pub fn step(system: &System, random: &mut Random) -> Option<Step> {
    let state = &system.spec;
    match random.below(60) {
        0 => return Some(Step::Input(random.bits() as u32)),
        1 | 2 => return Some(Step::Advance(1 + random.below(300) as u64)),
        3 => return Some(Step::Advance(1 + random.below(2_000) as u64)),
        4..=8 => return Some(Step::Decide(random.below(CORES.into()) as u8)),
        9 => return Some(fault(state, random)),
        _ => {}
    }
    let running: Vec<(u8, VcpuId)> =
        (0..CORES).filter_map(|core| system.current(core).map(|vcpu| (core, vcpu))).collect();
    let Some((core, invoker)) = random.pick(&running) else {
        state.time_of(ROOT_VCPU)?;
        let is_up = state.vcpus[&ROOT_VCPU].run == Run::Runnable;
        return Some(if is_up || random.one_in(2) { Step::Advance(300) } else { Step::Restart });
    };
    Some(Step::Invoke(core, call(state, invoker, random)))
}

/// An invocation by `invoker`, chosen by what it holds.
pub fn call(state: &State, invoker: VcpuId, random: &mut Random) -> Call {
    let Some(view) = View::of(state, invoker) else { return Call { cptr: 1, label: 0, args: [0; 5] } };
    let label = choose_label(random, &view);
    invocation(state, random, &view, label)
}

/// The IOMMU stops something: mostly a function that is attached.
fn fault(state: &State, random: &mut Random) -> Step {
    let attached: Vec<u16> =
        state.functions.iter().filter(|(_, function)| function.domain.is_some()).map(|(number, _)| *number).collect();
    let any = random.below(FUNCTION_NUMBERS + 1) as u16;
    let number = random.pick(&attached).filter(|_| !random.one_in(6)).unwrap_or(any);
    let stopped = match random.below(3) {
        0 => Stopped::Read(io_address(random)),
        1 => Stopped::Write(io_address(random)),
        _ => Stopped::Interrupt(random.bits() as u16),
    };
    let record = FaultRecord { requester: 0x100 + number, stopped, reason: random.bits() as u8 };
    Step::Fault(number, record.to_words())
}

/// A label, preferably one for which there is a capability.
fn choose_label(random: &mut Random, view: &View) -> Label {
    let weight = |label: Label| WEIGHTS.iter().find(|(other, _)| *other == label).map_or(4, |(_, weight)| *weight);
    let usable =
        |spec: &&LabelSpec| spec.label.object() == ObjectType::Null || view.types.contains(&spec.label.object());
    let usable: Vec<Label> = LABELS.iter().filter(usable).map(|spec| spec.label).collect();
    let total: usize = usable.iter().map(|label| weight(*label)).sum();
    let mut at = random.below(total.max(1));
    for label in usable {
        if at < weight(label) {
            return label;
        }
        at -= weight(label);
    }
    Label::Nop
}

/// An invocation with mostly sensible arguments.
fn invocation(state: &State, random: &mut Random, view: &View, label: Label) -> Call {
    let spec = label.spec();
    let (cptr, slot) = match view.pick(state, random, spec.label.object(), label, 0) {
        Some(found) => found,
        None => return Call { cptr: 1, label: label as u64, args: [0; 5] },
    };
    // What a DEST argument named last, or the invoked CNode.
    let mut cnode = match state.slots[&slot].cap {
        Cap::CNode { id, slot_bits } => Some((id, slot_bits)),
        _ => None,
    };
    let mut args = [0; 5];
    for (at, arg) in spec.args.iter().enumerate() {
        args[at] = match arg.kind {
            ArgKind::Number => number(state, random, view, label, at as u8 + 1, &args, slot),
            ArgKind::Capability(ObjectType::CNode, _) => {
                match view.pick(state, random, ObjectType::CNode, label, at as u8 + 1) {
                    Some((cptr, slot)) => {
                        if let Cap::CNode { id, slot_bits } = state.slots[&slot].cap {
                            cnode = Some((id, slot_bits));
                        }
                        cptr
                    }
                    None => 1,
                }
            }
            ArgKind::Capability(object_type, _) => {
                view.pick(state, random, object_type, label, at as u8 + 1).map_or(1, |(cptr, _)| cptr)
            }
            ArgKind::AnyCapability => random.pick(&view.caps).map_or(1, |(cptr, _)| cptr),
            ArgKind::EmptySlot => view.index(state, random, cnode, false),
            ArgKind::FullSlot => view.index(state, random, cnode, true),
        };
    }
    if label == Label::VcpuLaunch {
        args = launch_arguments(state, random, slot);
    }
    let mut call = Call { cptr, label: label as u64, args };
    if random.one_in(12) {
        spoil(random, view, &mut call);
    }
    call
}

/// The base in the VM's own CSpace, and an empty slot of its root CNode.
fn launch_arguments(state: &State, random: &mut Random, slot: SlotId) -> [u64; 5] {
    let Cap::Vcpu(vcpu) = state.slots[&slot].cap else { return [0; 5] };
    let Some(view) = View::of(state, vcpu) else { return [4, 3, 0, 0, 0] };
    let base = view.pick(state, random, ObjectType::Untyped, Label::VcpuLaunch, 1).map_or(4, |(cptr, _)| cptr);
    [base, 1 + random.below(BUSY_SLOTS as usize) as u64, 0, 0, 0]
}

/// Changes one register of a call.
fn spoil(random: &mut Random, view: &View, call: &mut Call) {
    let value = match random.below(4) {
        0 => random.bits(),
        1 => random.pick(&view.caps).map_or(0, |(cptr, _)| cptr),
        _ => ODDITIES[random.below(ODDITIES.len())],
    };
    match random.below(12) {
        0 => call.cptr = value,
        1 => call.label = random.below(LABELS.len() + 2) as u64,
        2..=4 => call.args[random.below(5)] ^= 1 << random.below(64),
        _ => call.args[random.below(5)] = value,
    }
}

/// A guest-physical address.
fn gpa(random: &mut Random) -> u64 {
    // The last region is out of range.
    let regions = if random.one_in(20) { REGIONS.len() } else { REGIONS.len() - 1 };
    let near = REGIONS[random.below(regions)];
    near + 0x1000 * random.below(6) as u64
}

/// The level of the first table that is missing on the way to `gpa`, 0 if none is.
fn missing_level(state: &State, vm: VmId, gpa: u64) -> u8 {
    let mut table = vm.root();
    let levels: &[u8] = if state.domains.contains_key(&vm) { &[3, 2] } else { &[4, 3, 2] };
    for &above in levels {
        let index = (gpa >> (12 + 9 * (above - 1)) & 0x1ff) as u16;
        match state.tables[&table].get(&index) {
            Some(Entry::Table(next)) => table = *next,
            _ => return above - 1,
        }
    }
    0
}

/// An address at which a table of `level` is there (0: none is needed), if a few tries find one.
fn gpa_with_table(state: &State, random: &mut Random, vm: Option<VmId>, level: u8) -> u64 {
    let mut found = gpa(random);
    for _ in 0..8 {
        if vm.is_none_or(|vm| found < 1 << 48 && missing_level(state, vm, found) < level) {
            break;
        }
        found = gpa(random);
    }
    found
}

/// The address space that argument 1 named.
fn vm_argument(state: &State, view: &View, cptr: u64) -> Option<VmId> {
    let (_, slot) = view.caps.iter().find(|(other, _)| *other == cptr)?;
    match state.slots[slot].cap {
        Cap::Vm(vm) | Cap::IommuDomain { id: vm, .. } => Some(vm),
        _ => None,
    }
}

/// What the capability that a pointer names is.
fn source_of<'a>(state: &'a State, view: &View, cptr: u64) -> Option<&'a Cap> {
    let (_, slot) = view.caps.iter().find(|(other, _)| *other == cptr)?;
    Some(&state.slots[slot].cap)
}

/// An I/O address.
fn io_address(random: &mut Random) -> u64 {
    let regions = if random.one_in(20) { IO_REGIONS.len() } else { IO_REGIONS.len() - 1 };
    let near = IO_REGIONS[random.below(regions)];
    near + 0x1000 * random.below(6) as u64
}

/// An I/O address at which a table of `level` is there (0: none is needed), if a few tries find one.
fn io_address_with_table(state: &State, random: &mut Random, domain: Option<VmId>, level: u8) -> u64 {
    let mut found = io_address(random);
    for _ in 0..8 {
        let fits = |domain| found < 1 << IO_ADDRESS_BITS && missing_level(state, domain, found) < level;
        if domain.is_none_or(fits) {
            break;
        }
        found = io_address(random);
    }
    found
}

/// One of these.
fn one_of(random: &mut Random, from: &[u64]) -> u64 {
    from[random.below(from.len())]
}

/// A sensible number for argument `number`; `args` are those before it.
fn number(
    state: &State,
    random: &mut Random,
    view: &View,
    label: Label,
    number: u8,
    args: &[u64; 5],
    slot: SlotId,
) -> u64 {
    match (label, number) {
        (Label::UntypedRetype, 1) => {
            let kinds = [1, 1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 5, 6, 6, 8, 8, 12];
            one_of(random, &kinds)
        }
        (Label::UntypedRetype, 2) => match ObjectType::from_number(args[0]) {
            Some(ObjectType::Untyped) => one_of(random, &[12, 13, 14, 15, 16, 17, 18, 19, 20]),
            Some(ObjectType::Frame) => one_of(random, &[12, 12, 12, 12, 12, 21, 30]),
            Some(ObjectType::CNode) => one_of(random, &[6, 6, 6, 7]),
            _ => 0,
        },
        (Label::UntypedRetype, 5) => {
            if random.one_in(30) {
                64
            } else {
                one_of(random, &[1, 1, 1, 1, 2, 3, 4])
            }
        }
        (Label::CNodeCopy | Label::CNodeMint, 3) | (Label::ChannelGrant, 2) => match random.below(5) {
            0 => random.below(32) as u64,
            _ => 31,
        },
        (Label::CNodeMint, 4) => match source_of(state, view, args[1]) {
            Some(Cap::IommuDomain { window, .. }) => {
                let bits = (window.bits - random.below(3) as u8).max(11);
                let parts = 1 << (window.bits.saturating_sub(bits));
                window.first + ((random.below(parts) as u64) << bits) + u64::from(bits)
            }
            _ => one_of(random, &[0, 0, 0, 1, 2]),
        },
        (Label::ChannelGrant, 3) => random.below(2) as u64,
        (Label::FrameMap, 2) => match state.slots[&slot].cap {
            Cap::Frame { extent, .. } => {
                let vm = vm_argument(state, view, args[0]);
                gpa_with_table(state, random, vm, 1 + (extent.bits - 12) / 9) & !(extent.bytes() - 1)
            }
            _ => gpa(random),
        },
        (Label::FrameMap, 3) => match random.below(4) {
            0 => one_of(random, &[1, 3, 5, 7]),
            _ => u64::from((state.slots[&slot].rights & MAPPABLE).bits()),
        },
        (Label::FrameMap, 4) | (Label::FrameUnmap, 1) => one_of(random, &[0, 0, 0, 0, 1, 1, 2, 3, 63, 64]),
        (Label::PageTableMap, 2) => gpa(random),
        (Label::FrameMapIo, 2) => match state.slots[&slot].cap {
            Cap::Frame { extent, .. } => {
                let domain = vm_argument(state, view, args[0]);
                io_address_with_table(state, random, domain, 1 + (extent.bits - 12) / 9) & !(extent.bytes() - 1)
            }
            _ => io_address(random),
        },
        (Label::FrameMapIo, 3) => match random.below(4) {
            0 => one_of(random, &[0, 1, 2, 3, 4]),
            _ => u64::from((state.slots[&slot].rights & (Rights::READ | Rights::WRITE)).bits()),
        },
        (Label::FrameMapIo, 4) => one_of(random, &[0, 0, 0, 0, 1, 1, 2, 3, 63, 64]),
        (Label::PageTableMapIo, 2) => io_address(random),
        (Label::PageTableMapIo, 3) => match vm_argument(state, view, args[0]) {
            Some(domain) if args[1] < 1 << IO_ADDRESS_BITS && !random.one_in(4) => {
                missing_level(state, domain, args[1]).max(1).into()
            }
            _ => 1 + random.below(2) as u64,
        },
        (Label::PciFunctionEnableVfs, 1) => one_of(random, &[1, 2, 2, 3]),
        (Label::PciFunctionGetBar, 1) => one_of(random, &[0, 0, 3, 3, 5]),
        (Label::PciFunctionGetBar, 2) => random.below(5) as u64,
        (Label::PciFunctionGetBar, 5) => one_of(random, &[1, 1, 2, 3]),
        (Label::PciFunctionGetInfo, 1) => random.below(8) as u64,
        (Label::PciFunctionReadConfig | Label::PciFunctionWriteConfig, 1) => one_of(random, &[0, 4, 0x40, 0x40, 0x42]),
        (Label::PciFunctionWriteConfig, 2) => u64::from(random.bits() as u32),
        (Label::PciFunctionUnbindMsix, 1) => {
            let bound = match state.slots[&slot].cap {
                Cap::PciFunction { function, .. } => bound_entries(state, function),
                _ => Vec::new(),
            };
            random.pick(&bound).filter(|_| !random.one_in(8)).map_or_else(|| random.below(4) as u64, u64::from)
        }
        (Label::PciFunctionBindMsix, 1) => random.below(4) as u64,
        (Label::PageTableMap, 3) => match vm_argument(state, view, args[0]) {
            Some(vm) if args[1] < 1 << 48 && !random.one_in(4) => missing_level(state, vm, args[1]).max(1).into(),
            _ => 1 + random.below(3) as u64,
        },
        (Label::VcpuSetRegister | Label::VcpuGetRegister, 1) => random.below(22) as u64,
        (Label::VcpuAttach, 2) => one_of(random, &[0, 0x1000, 1 << 47, u64::MAX << 47]),
        (Label::VcpuAttach, 3) => one_of(random, &[0, 0x1000, 0x1001, 1 << 48]),
        (Label::VcpuSetRegister, 2) => one_of(random, &[0, 2, 0x202, 0x1000, 0x1001, 1 << 47, u64::MAX << 47, 1 << 48]),
        (Label::VcpuSetUpcall, _) => one_of(random, &[0, 31, 32, 64, 255, 256]),
        (Label::VcpuGetPage, 1) => random.below(2) as u64,
        (Label::VcpuSignal, 1) | (Label::ChannelBind, 2) | (Label::VcpuWait | Label::ChannelWait, 1) => {
            1 << random.below(4)
        }
        (Label::VcpuWait | Label::ChannelWait, 2) => match random.below(3) {
            0 => 0,
            1 => state.now.saturating_sub(random.below(100) as u64),
            _ => state.now + random.below(5_000) as u64,
        },
        (Label::CpuTimeSplit | Label::CpuTimeResize, 1) => {
            one_of(random, &[49, 50, 100, 500, 900, 1_000, 5_000, 7_792, 7_793, 9_000, 100_000, 1_000_000])
        }
        (Label::CpuTimeSplit | Label::CpuTimeResize, 2) => {
            one_of(random, &[999, 1_000, 2_000, 10_000, 100_000, 1_000_000, 1_000_001]).max(args[0])
        }
        (Label::IrqSplit, 1) => random.below(32) as u64,
        (Label::IrqSplit, 2) => 1 + random.below(2) as u64,
        (Label::IrqBind, 2) => one_of(random, &[31, 32, 48, 255]),
        (Label::IoPortSplit | Label::IoPortIn | Label::IoPortOut | Label::IoPortOutBytes, 1) => {
            one_of(random, &[0, 0x1f, 0x60, 0x61, 0x3f7, 0x3f8, 0x3ff, 0xcf8, 0xffff])
        }
        (Label::IoPortSplit, 2) => one_of(random, &[1, 2, 8, 0x400]),
        (Label::IoPortIn | Label::IoPortOut, 2) => one_of(random, &[1, 1, 2, 3, 4]),
        (Label::IoPortOut, 3) => one_of(random, &[0, 0x55, 0xff, 0x100, 0xffff_ffff]),
        (Label::IoPortOutBytes, 2) => random.below(18) as u64,
        _ => random.bits(),
    }
}
