//! The small world of a question: a state of the abstract machine that its VMs, capabilities and channels are set up in.
//!
//! VMs are as they are after they were launched: a `Vm`, a `Vcpu` that runs, and a root CNode, whose originals lie in a
//! *boot* CNode that no VM reaches. Everything else is made by invocations of the specification, by a VM that only sets
//! up: so the world of a question is a state that the machine can reach.

use std::collections::{BTreeMap, BTreeSet};

use cap_spec::abi::{CptrParts, Fault, Label, ObjectType, Rights, SLOT_BITS};
use cap_spec::machine::invariants::extent_of;
use cap_spec::machine::{
    self as spec, CNodeId, Call, Cap, Config, Extent, FunctionFacts, Reservation, Run, Slot, SlotId, State, Vcpu,
    VcpuId, Vm, VmId,
};

/// Slot of a VM's root CNode that holds its own CNode, as userlib has it.
pub const OWN_CNODE: u64 = 1;
/// Slot of its own Vm, if it is given.
pub const OWN_VM: u64 = 2;
/// Slot of its own Vcpu, if it is given.
pub const OWN_VCPU: u64 = 3;
/// The first slot of a root CNode that a VM works with.
pub const FIRST_WORKING: u64 = 16;
/// Ticks of a switch, and bounds of reservations, in the small figures of questions.
const TICKS: (u64, u64, u64, u64) = (10, 100, 1_000_000, 10);
/// log2 slots of the boot CNode.
const BOOT_BITS: u8 = 10;
/// The boot CNode, and the objects of the VM that sets up.
const BOOT: CNodeId = CNodeId(0x10_0000);
/// Objects of VM `n`, boot's being number 0, lie at `VMS + n * VM_BYTES`: Vm, Vcpu, CNode.
const VMS: u64 = 0x100_0000;
const VM_BYTES: u64 = 0x10_0000;
/// log2 slots of a root CNode, the smallest.
const ROOT_BITS: u8 = 6;
/// All RAM.
const MEMORY: Extent = Extent { base: 0x1_0000_0000, bits: 32 };
/// BARs of function `n` lie at `BARS + n * BAR_BYTES`.
const BARS: u64 = 0x10_0000_0000;
const BAR_BYTES: u64 = 0x10_0000;
/// Interrupt routes, and the first that messages raise.
const ROUTES: u32 = 64;
/// The first interrupt route that messages of functions raise.
pub const FIRST_MESSAGE_ROUTE: u16 = 32;
/// The page of global statistics.
const STATISTICS: u64 = 0xf_f000;

/// Slots of the boot CNode.
mod place {
    pub const CNODE: u64 = 1;
    /// The Vm and the Vcpu of the VM that sets up.
    pub const VM: u64 = 2;
    pub const MEMORY: u64 = 4;
    pub const ROUTES: u64 = 5;
    pub const PORTS: u64 = 6;
    pub const MACHINE: u64 = 7;
    pub const CPU_TIME: u64 = 8;
    pub const FUNCTIONS: u64 = 24;
    /// Three for each VM: Vm, Vcpu, CNode.
    pub const VMS: u64 = 64;
    /// What set-up needs once.
    pub const SCRATCH: u64 = 256;
}

/// A function of a device.
#[derive(Clone, Copy, Debug, Default)]
pub struct FunctionOf {
    /// Entries of its MSI-X table.
    pub messages: u16,
    /// Virtual functions that it can have.
    pub vfs: u16,
    /// Pages of BAR 0.
    pub pages: u32,
}

/// What a question has a name for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thing {
    /// Memory, or an object in memory.
    Memory(ObjectType, Extent),
    /// CPU time of a core.
    Core(u8),
    /// Interrupt routes: first and number.
    Routes(u16, u32),
    /// Ports: first and number.
    Ports(u16, u32),
    /// A function of a device.
    Function(u16),
    /// The machine.
    Machine,
}

impl Thing {
    /// True if a capability is for this, or for a part of it, or for something of which it is a part.
    pub fn concerns(&self, cap: &Cap) -> bool {
        match (self, cap) {
            (Thing::Memory(_, extent), cap) => extent_of(cap).is_some_and(|other| !other.is_apart_from(*extent)),
            (Thing::Core(core), Cap::CpuTime { core: other, .. }) => core == other,
            (Thing::Routes(first, count), Cap::Irq { first: other, count: others, .. })
            | (Thing::Ports(first, count), Cap::IoPort { first: other, count: others }) => {
                u32::from(*first) < u32::from(*other) + others && u32::from(*other) < u32::from(*first) + count
            }
            (Thing::Function(function), Cap::PciFunction { function: other, .. }) => function == other,
            (Thing::Machine, Cap::Machine) => true,
            _ => false,
        }
    }
}

/// A VM of a question.
#[derive(Clone, Debug)]
pub struct Party {
    /// Its name.
    pub name: String,
    /// Its address space.
    pub vm: VmId,
    /// Who invokes.
    pub vcpu: VcpuId,
    /// The root of its CSpace.
    pub root: CNodeId,
    /// Slots of the root CNode that it works with, from [`FIRST_WORKING`] on.
    pub slots: u64,
    /// The slot of the boot CNode at which its originals begin.
    pub boot_slot: u64,
}

/// A world while it is set up.
#[derive(Clone, Debug)]
pub struct World {
    /// The state so far.
    pub state: State,
    /// The VMs.
    pub parties: Vec<Party>,
    scratch: u64,
}

impl World {
    /// The machine as boot leaves it.
    pub fn new(cores: u8, functions: &[FunctionOf]) -> World {
        let (switch_ticks, min_period, max_period, min_budget) = TICKS;
        let mut first_vf = functions.len() as u16;
        let mut facts = Vec::new();
        let mut vfs = Vec::new();
        for (number, function) in (0..).zip(functions) {
            let bar = |number: u16, pages| {
                let mut bars = [(0, 0); 6];
                bars[0] = (BARS + u64::from(number) * BAR_BYTES, pages);
                bars
            };
            facts.push(FunctionFacts {
                bars: bar(number, function.pages),
                messages: function.messages,
                vfs: function.vfs,
                first_vf,
                requester: number,
                ..FunctionFacts::default()
            });
            for vf in first_vf..first_vf + function.vfs {
                let bars = bar(vf, function.pages);
                vfs.push(FunctionFacts {
                    bars,
                    messages: function.messages,
                    requester: vf,
                    ..FunctionFacts::default()
                });
            }
            first_vf += function.vfs;
        }
        facts.extend(vfs);
        let mut state = State::new(Config {
            min_period,
            max_period,
            min_budget,
            switch_ticks,
            // Nine tenths of a core.
            capacity: (1 << 32) / 10 * 9,
            forbidden_routes: BTreeSet::new(),
            forbidden_ports: Vec::new(),
            statistics_page: STATISTICS,
            first_message_route: FIRST_MESSAGE_ROUTE,
            functions: facts,
        });
        state.cnodes.insert(BOOT, BOOT_BITS);
        let whole = Reservation { budget: 1_000, period: 1_000 };
        let mut given = vec![
            (place::CNODE, Cap::CNode { id: BOOT, slot_bits: BOOT_BITS }),
            (place::MEMORY, Cap::Untyped { extent: MEMORY, device: false, watermark: 0 }),
            (place::ROUTES, Cap::Irq { first: 0, count: ROUTES, route: None, message: None }),
            (place::PORTS, Cap::IoPort { first: 0, count: 1 << 16 }),
            (place::MACHINE, Cap::Machine),
        ];
        for core in 0..cores {
            let cap = Cap::CpuTime { core, reservation: whole, free_from: 0, vcpu: None };
            given.push((place::CPU_TIME + u64::from(core), cap));
        }
        for function in 0..functions.len() as u16 {
            given.push((place::FUNCTIONS + u64::from(function), Cap::PciFunction { function, lease: 0 }));
            state.functions.insert(function, Default::default());
        }
        let mut world = World { state, parties: Vec::new(), scratch: place::SCRATCH };
        for (index, cap) in given {
            world.give(index, cap);
        }
        world.make_vm(0, Some(BOOT), place::VM);
        world
    }

    /// A boot capability.
    fn give(&mut self, index: u64, cap: Cap) {
        let slot = Slot { cap, rights: Rights::all(), parent: None, depth: 0, original: true };
        self.state.slots.insert(BOOT.slot(index), slot);
    }

    /// Objects and boot capabilities of a VM that runs; its Vm's slot, behind which its Vcpu's and its CNode's are.
    fn make_vm(&mut self, number: u64, cspace: Option<CNodeId>, slot: u64) -> (VmId, VcpuId, CNodeId) {
        let base = VMS + number * VM_BYTES;
        let (vm, vcpu, own) = (VmId(base), VcpuId(base + 0x4000), CNodeId(base + 0x8000));
        let root = cspace.unwrap_or(own);
        let region = Extent { base, bits: 20 };
        self.state.vms.insert(vm, Vm { cspace: Some(root), region, launched: true });
        self.state.tables.insert(vm.root(), BTreeMap::new());
        let running = Vcpu {
            vm: Some(vm),
            run: Run::Runnable,
            events: 0,
            registers: spec::initial_registers(),
            upcall: [0, 0],
            handler: None,
        };
        self.state.vcpus.insert(vcpu, running);
        self.give(slot, Cap::Vm(vm));
        self.give(slot + 1, Cap::Vcpu(vcpu));
        if cspace.is_none() {
            self.state.cnodes.insert(own, ROOT_BITS);
            self.give(slot + 2, Cap::CNode { id: own, slot_bits: ROOT_BITS });
        }
        (vm, vcpu, root)
    }

    /// An invocation by the VM that sets up.
    fn invoke(&mut self, label: Label, cptr: u64, args: &[u64]) -> Result<(), Fault> {
        let mut call = Call { cptr, label: label as u64, args: [0; 5] };
        call.args[..args.len()].copy_from_slice(args);
        spec::step(&mut self.state, VcpuId(VMS + 0x4000), call).map(drop)
    }

    /// An empty slot of the boot CNode.
    fn scratch(&mut self) -> u64 {
        self.scratch += 1;
        self.scratch - 1
    }

    /// A further VM, with a capability for its own CNode and, if wanted, for itself.
    ///
    /// # Errors
    /// A refused invocation.
    pub fn add_vm(&mut self, name: &str, slots: u64, is_given_itself: bool, tables: bool) -> Result<usize, Fault> {
        let number = self.parties.len() as u64 + 1;
        let boot_slot = place::VMS + 3 * (number - 1);
        let (vm, vcpu, root) = self.make_vm(number, None, boot_slot);
        let own = boot_slot + 2;
        self.invoke(Label::CNodeCopy, own, &[OWN_CNODE, own, 31])?;
        if is_given_itself {
            self.invoke(Label::CNodeCopy, own, &[OWN_VM, boot_slot, 31])?;
            self.invoke(Label::CNodeCopy, own, &[OWN_VCPU, boot_slot + 1, 31])?;
        }
        if tables {
            for level in [3, 2, 1] {
                let table = self.scratch();
                self.make(ObjectType::PageTable, 0, place::MEMORY, place::CNODE, table)?;
                self.invoke(Label::PageTableMap, table, &[boot_slot, 0, level])?;
            }
        }
        self.parties.push(Party { name: name.into(), vm, vcpu, root, slots, boot_slot });
        Ok(self.parties.len() - 1)
    }

    fn make(&mut self, object: ObjectType, bits: u64, untyped: u64, cnode: u64, index: u64) -> Result<(), Fault> {
        self.invoke(Label::UntypedRetype, untyped, &[object as u64, bits, cnode, index, 1])
    }

    /// The boot slot of a VM's root CNode, through which set-up reaches it.
    fn node_of(&self, party: usize) -> u64 {
        self.parties[party].boot_slot + 2
    }

    /// A pointer to a slot for the VM that sets up.
    fn pointer(&self, slot: SlotId) -> u64 {
        if World::is_hidden(slot) {
            return (slot.0 - BOOT.0) >> SLOT_BITS;
        }
        let (party, index) = (0..self.parties.len())
            .map(|party| (party, slot.0.wrapping_sub(self.parties[party].root.0) >> SLOT_BITS))
            .find(|(_, index)| *index < 1 << ROOT_BITS)
            .expect("set-up puts capabilities into root CNodes");
        CptrParts { node: self.node_of(party) as u16, index: index as u16 }.to_raw()
    }

    /// The first empty slot that a VM works with.
    ///
    /// # Errors
    /// When it has none.
    pub fn free_slot(&self, party: usize) -> Option<SlotId> {
        let Party { root, slots, .. } = &self.parties[party];
        (FIRST_WORKING..FIRST_WORKING + slots)
            .map(|index| root.slot(index))
            .find(|slot| !self.state.slots.contains_key(slot))
    }

    /// The CNode and index of a slot, as arguments of an invocation.
    fn destination(&self, slot: SlotId) -> (u64, u64) {
        let pointer = self.pointer(slot);
        match CptrParts::from_raw(pointer) {
            Some(CptrParts { node, index }) if node != 0 => (node.into(), index.into()),
            _ => (place::CNODE, pointer),
        }
    }

    /// Makes an object of the Untyped in `from`, or of the machine's memory.
    ///
    /// # Errors
    /// A refused invocation.
    pub fn make_object(
        &mut self,
        object: ObjectType,
        bits: u64,
        from: Option<SlotId>,
        to: SlotId,
    ) -> Result<(), Fault> {
        let untyped = from.map_or(place::MEMORY, |slot| self.pointer(slot));
        let (cnode, index) = self.destination(to);
        self.make(object, bits, untyped, cnode, index)
    }

    /// A slot that no VM reaches, for originals that none of them has.
    pub fn hidden_slot(&mut self) -> SlotId {
        BOOT.slot(self.scratch())
    }

    /// Copies a capability; `badge` is what Mint takes.
    ///
    /// # Errors
    /// A refused invocation.
    pub fn copy(&mut self, from: SlotId, to: SlotId, rights: Rights, badge: u64) -> Result<(), Fault> {
        let ((cnode, index), source) = (self.destination(to), self.pointer(from));
        self.invoke(Label::CNodeMint, cnode, &[index, source, rights.bits().into(), badge])
    }

    /// Splits CPU time of a core off.
    ///
    /// # Errors
    /// A refused invocation.
    pub fn split_time(&mut self, core: u8, reservation: Reservation, to: SlotId) -> Result<(), Fault> {
        let (cnode, index) = self.destination(to);
        let from = place::CPU_TIME + u64::from(core);
        self.invoke(Label::CpuTimeSplit, from, &[reservation.budget, reservation.period, cnode, index])
    }

    /// Splits interrupt routes or ports off.
    ///
    /// # Errors
    /// A refused invocation.
    pub fn split_range(&mut self, label: Label, first: u16, count: u32, to: SlotId) -> Result<(), Fault> {
        let (cnode, index) = self.destination(to);
        let from = if label == Label::IrqSplit { place::ROUTES } else { place::PORTS };
        self.invoke(label, from, &[first.into(), count.into(), cnode, index])
    }

    /// Leases a function.
    ///
    /// # Errors
    /// A refused invocation.
    pub fn lease_function(&mut self, function: u16, to: SlotId) -> Result<(), Fault> {
        let (cnode, index) = self.destination(to);
        self.invoke(Label::PciFunctionLease, place::FUNCTIONS + u64::from(function), &[cnode, index])
    }

    /// Copies the capability for the machine.
    ///
    /// # Errors
    /// A refused invocation.
    pub fn give_machine(&mut self, to: SlotId, rights: Rights) -> Result<(), Fault> {
        self.copy(BOOT.slot(place::MACHINE), to, rights, 0)
    }

    /// Puts page tables under the first addresses of a domain, so that frames can be mapped there.
    ///
    /// # Errors
    /// A refused invocation.
    pub fn add_io_tables(&mut self, domain: SlotId) -> Result<(), Fault> {
        let domain = self.pointer(domain);
        for level in [2, 1] {
            let table = self.scratch();
            self.make(ObjectType::PageTable, 0, place::MEMORY, place::CNODE, table)?;
            self.invoke(Label::PageTableMapIo, table, &[domain, 0, level])?;
        }
        Ok(())
    }

    /// Maps a frame into a VM.
    ///
    /// # Errors
    /// A refused invocation.
    pub fn map(&mut self, frame: SlotId, party: usize, gpa: u64, rights: Rights) -> Result<(), Fault> {
        let vm = self.parties[party].boot_slot;
        let frame = self.pointer(frame);
        self.invoke(Label::FrameMap, frame, &[vm, gpa, rights.bits().into(), 0])
    }

    /// Binds a reservation to the Vcpu of a VM, which goes on running.
    ///
    /// # Errors
    /// A refused invocation.
    pub fn bind_time(&mut self, time: SlotId, party: usize) -> Result<(), Fault> {
        let vcpu = self.parties[party].boot_slot + 1;
        let time = self.pointer(time);
        self.invoke(Label::VcpuStop, vcpu, &[])?;
        self.invoke(Label::VcpuBindTime, vcpu, &[time])?;
        self.invoke(Label::VcpuStart, vcpu, &[])
    }

    /// Makes the Vcpu of a VM the receiver of the channel's end that a capability speaks for.
    ///
    /// # Errors
    /// A refused invocation.
    pub fn bind_receiver(&mut self, end: SlotId, party: usize, bits: u64) -> Result<(), Fault> {
        let vcpu = self.parties[party].boot_slot + 1;
        let end = self.pointer(end);
        self.invoke(Label::ChannelBind, end, &[vcpu, bits])
    }

    /// Takes the VM that sets up away: from here on, nobody reaches the boot CNode.
    pub fn retire(&mut self) {
        let (vm, vcpu) = (VmId(VMS), VcpuId(VMS + 0x4000));
        self.state.vms.remove(&vm);
        self.state.vcpus.remove(&vcpu);
        self.state.tables.remove(&vm.root());
        self.state.slots.remove(&BOOT.slot(place::VM));
        self.state.slots.remove(&BOOT.slot(place::VM + 1));
    }

    /// The first slot of the boot CNode that holds what set-up has left, and nobody reaches.
    pub fn first_hidden() -> u64 {
        place::SCRATCH
    }

    /// True for a slot that no VM reaches: of the boot CNode.
    pub fn is_hidden(slot: SlotId) -> bool {
        slot >= BOOT.slot(0) && slot < BOOT.slot(1 << BOOT_BITS)
    }

    /// The CNode of the boot capabilities.
    pub fn boot() -> CNodeId {
        BOOT
    }
}
