//! The state of the abstract machine.
//!
//! Objects and slots are named by the physical address of their first byte. That is no detail of an implementation:
//! objects are made of memory that somebody holds, and "two objects never share a byte" is one of the invariants.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::dying::Dying;
use crate::abi::{FaultRecord, IO_ADDRESS_BITS, ObjectType, PAGE_BITS, Rights, SLOT_BITS};

macro_rules! id {
    ($(#[$doc:meta] $name:ident),* $(,)?) => { $(
        #[$doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);
    )* };
}

id! {
    /// A capability slot: the address of its first byte.
    SlotId,
    /// A CNode object.
    CNodeId,
    /// A table of nested page tables: a `PageTable`, or the root of a VM.
    TableId,
    /// An address space: a `Vm` object, or an `IommuDomain`.
    VmId,
    /// A `Vcpu` object.
    VcpuId,
    /// A `Channel` object.
    ChannelId,
}

impl SlotId {
    /// The slot `offset` slots behind this one.
    pub fn behind(self, offset: u64) -> SlotId {
        SlotId(self.0 + (offset << SLOT_BITS))
    }
}

impl CNodeId {
    /// Slot `index` of this CNode.
    pub fn slot(self, index: u64) -> SlotId {
        SlotId(self.0 + (index << SLOT_BITS))
    }
}

impl VmId {
    /// The root of its tables: the second page of the object.
    pub fn root(self) -> TableId {
        TableId(self.0 + (1 << PAGE_BITS))
    }

    /// Its statistics page: the third.
    pub fn stats_page(self) -> u64 {
        self.0 + (2 << PAGE_BITS)
    }
}

impl VcpuId {
    /// Its info page: the third page of the object.
    pub fn info_page(self) -> u64 {
        self.0 + (2 << PAGE_BITS)
    }

    /// Its handler page: the fourth.
    pub fn handler_page(self) -> u64 {
        self.0 + (3 << PAGE_BITS)
    }
}

/// A part of a domain's I/O addresses, aligned to its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// First address.
    pub first: u64,
    /// log2 of its bytes.
    pub bits: u8,
}

impl Window {
    /// All of a domain.
    pub const WHOLE: Window = Window { first: 0, bits: IO_ADDRESS_BITS };

    /// First address behind it.
    pub fn end(self) -> u64 {
        self.first + (1 << self.bits)
    }

    /// True if these addresses lie in it.
    pub fn holds(self, first: u64, bytes: u64) -> bool {
        first >= self.first && first <= self.end() && bytes <= self.end() - first
    }
}

/// A piece of physical memory, aligned to its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// First byte.
    pub base: u64,
    /// log2 of its bytes.
    pub bits: u8,
}

impl Extent {
    /// Number of bytes.
    pub fn bytes(self) -> u64 {
        1 << self.bits
    }

    /// True if the address lies inside.
    pub fn holds(self, address: u64) -> bool {
        address >= self.base && address - self.base < self.bytes()
    }

    /// True if no byte is in both.
    pub fn is_apart_from(self, other: Extent) -> bool {
        self.base + self.bytes() <= other.base || other.base + other.bytes() <= self.base
    }
}

/// Where a frame is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mapping {
    /// The address space.
    pub vm: VmId,
    /// Guest-physical address of the frame's first byte.
    pub gpa: u64,
    /// READ, WRITE, EXECUTE.
    pub rights: Rights,
}

/// Where a page table has been put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TablePlace {
    /// The address space.
    pub vm: VmId,
    /// First guest-physical address that it covers.
    pub gpa: u64,
    /// 1 to 3; the root of a VM is level 4.
    pub level: u8,
}

/// The vector and Vcpu of an interrupt route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Who takes it.
    pub vcpu: VcpuId,
    /// As which vector.
    pub vector: u8,
}

/// An entry of the MSI-X table of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Message {
    /// The function.
    pub function: u16,
    /// The entry.
    pub entry: u16,
}

/// What is fixed about a function of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionFacts {
    /// Of each BAR, the address of its first byte and how many pages it has.
    pub bars: [(u64, u32); 6],
    /// Pages that are never handed out: BAR and page.
    pub withheld: BTreeSet<(u8, u32)>,
    /// Entries of its MSI-X table.
    pub messages: u16,
    /// Virtual functions that it can have; they have the numbers from `first_vf` on.
    pub vfs: u16,
    /// Number of the first of them.
    pub first_vf: u16,
    /// Vendor, device and class.
    pub identity: u64,
    /// Its requester id.
    pub requester: u16,
    /// Bits of each double word of configuration space that its holder may write.
    pub writable: BTreeMap<u16, u32>,
    /// Ticks until it has come out of a reset, or its virtual functions are enabled or disabled.
    pub reset_ticks: u64,
    /// The IOMMU in front of it has failed.
    pub quarantined: bool,
}

/// A function for which there is a capability.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Function {
    /// The domain that its DMA reaches.
    pub domain: Option<VmId>,
    /// How many leases of it there are, each of the one before.
    pub leases: u8,
    /// How many of its virtual functions have capabilities.
    pub vfs: u16,
    /// TSC value before which it is busy.
    pub ready_at: u64,
}

/// What a reservation promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reservation {
    /// Ticks in every period.
    pub budget: u64,
    /// Length of a period in ticks.
    pub period: u64,
}

/// The period that a Vcpu's core counts for it at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    /// TSC value at which it ends.
    pub end: u64,
    /// Its length in ticks: the reservation's, or an earlier one until a change takes effect.
    pub length: u64,
    /// TSC value at which its share is free if the Vcpu is taken off it: the end, and later if it has overrun.
    pub free: u64,
}

/// What a slot holds, and what is kept with the capability and not with an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cap {
    /// Memory that can be retyped: the first `watermark` bytes are taken.
    Untyped {
        /// The memory.
        extent: Extent,
        /// Registers of a device, not RAM.
        device: bool,
        /// Bytes from its start that have been given out since the last Revoke.
        watermark: u64,
    },
    /// A table of slots.
    CNode {
        /// The object.
        id: CNodeId,
        /// log2 of its slots.
        slot_bits: u8,
    },
    /// Memory that can be mapped.
    Frame {
        /// The memory.
        extent: Extent,
        /// Registers of a device, not RAM.
        device: bool,
        /// True for a page of a Vm, Vcpu or of the kernel, which the kernel writes.
        kernel_page: bool,
        /// Where this capability maps it.
        mapping: Option<Mapping>,
    },
    /// One level of nested page tables.
    PageTable {
        /// The object.
        id: TableId,
        /// Where it was put.
        place: Option<TablePlace>,
    },
    /// An address space.
    Vm(VmId),
    /// A virtual processor.
    Vcpu(VcpuId),
    /// CPU time of a core.
    CpuTime {
        /// The core.
        core: u8,
        /// What it promises, children included.
        reservation: Reservation,
        /// TSC value before which some of it may still be promised to others: who takes it over starts then.
        free_from: u64,
        /// Who uses it.
        vcpu: Option<VcpuId>,
    },
    /// An end of a channel.
    Channel {
        /// The object.
        id: ChannelId,
        /// 1 or 2.
        end: u8,
    },
    /// A range of interrupt routes.
    Irq {
        /// First route.
        first: u16,
        /// How many.
        count: u32,
        /// Where it goes (of a range of one).
        route: Option<Route>,
        /// The message that raises it (of a range of one).
        message: Option<Message>,
    },
    /// A range of ports.
    IoPort {
        /// First port.
        first: u16,
        /// How many.
        count: u32,
    },
    /// The machine.
    Machine,
    /// A window of a domain.
    IommuDomain {
        /// The object.
        id: VmId,
        /// What the capability speaks for.
        window: Window,
    },
    /// A function of a device.
    PciFunction {
        /// Its number.
        function: u16,
        /// How many leases lie between this capability and the function's first.
        lease: u8,
    },
}

impl Cap {
    /// The type by which the ABI knows it.
    pub fn object_type(&self) -> ObjectType {
        match self {
            Cap::Untyped { .. } => ObjectType::Untyped,
            Cap::CNode { .. } => ObjectType::CNode,
            Cap::Frame { .. } => ObjectType::Frame,
            Cap::PageTable { .. } => ObjectType::PageTable,
            Cap::Vm(_) => ObjectType::Vm,
            Cap::Vcpu(_) => ObjectType::Vcpu,
            Cap::CpuTime { .. } => ObjectType::CpuTime,
            Cap::Channel { .. } => ObjectType::Channel,
            Cap::Irq { .. } => ObjectType::Irq,
            Cap::IoPort { .. } => ObjectType::IoPort,
            Cap::Machine => ObjectType::Machine,
            Cap::IommuDomain { .. } => ObjectType::IommuDomain,
            Cap::PciFunction { .. } => ObjectType::PciFunction,
        }
    }
}

/// A full slot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// The capability.
    pub cap: Cap,
    /// What it allows.
    pub rights: Rights,
    /// What it was derived from; `None` for a boot capability.
    pub parent: Option<SlotId>,
    /// Steps of derivation from a boot capability when it was made.
    pub depth: u8,
    /// True if the object lives as long as this capability.
    pub original: bool,
}

/// An entry of a nested page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// The next level.
    Table(TableId),
    /// Memory.
    Leaf {
        /// What is mapped.
        extent: Extent,
        /// READ, WRITE, EXECUTE.
        rights: Rights,
    },
}

/// An address space.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vm {
    /// Its root CNode.
    pub cspace: Option<CNodeId>,
    /// The Untyped that it was made from.
    pub region: Extent,
    /// True from its first start on.
    pub launched: bool,
}

/// What a Vcpu is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Run {
    /// It does not run until it is started.
    Stopped,
    /// It runs whenever its CPU time lets it.
    Runnable,
    /// It sleeps in Wait.
    Blocked {
        /// Events that wake it.
        mask: u64,
        /// TSC value that wakes it, 0 for none.
        deadline: u64,
    },
}

/// A virtual processor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vcpu {
    /// The VM that it runs in.
    pub vm: Option<VmId>,
    /// What it is doing.
    pub run: Run,
    /// Its event word.
    pub events: u64,
    /// Its registers, in the order of [`crate::abi::Register`].
    pub registers: [u64; 21],
    /// Vectors for fault and event upcalls, 0 for none.
    pub upcall: [u8; 2],
    /// The end whose peer is told when it stops by itself.
    pub handler: Option<(ChannelId, u8)>,
}

/// What was stopped, and who is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Faults {
    /// The end whose peer is told.
    pub handler: Option<(ChannelId, u8)>,
    /// The records that were not taken, oldest first.
    pub kept: Vec<FaultRecord>,
    /// How many there was no room for.
    pub lost: u32,
}

/// Who receives at an end of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receiver {
    /// The Vcpu.
    pub vcpu: VcpuId,
    /// The events that a signal sets.
    pub bits: u64,
}

/// What the machine was asked to do to the world outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Output {
    /// A value was written to a port.
    Port {
        /// The port.
        port: u16,
        /// Bytes.
        width: u8,
        /// The value.
        value: u32,
    },
    /// The machine was reset.
    Reset,
    /// A double word of configuration space was written.
    Config {
        /// The function.
        function: u16,
        /// Offset of the double word.
        offset: u16,
        /// The value: of the bits that its holder may write.
        value: u32,
    },
}

/// What the specification leaves to the machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Config {
    /// Shortest period of a reservation, in ticks.
    pub min_period: u64,
    /// Longest period.
    pub max_period: u64,
    /// Smallest budget.
    pub min_budget: u64,
    /// Ticks reserved for one switch; every period pays for two.
    pub switch_ticks: u64,
    /// Share of a core that can be promised, in 2^-32.
    pub capacity: u64,
    /// Interrupt routes that are never handed out.
    pub forbidden_routes: BTreeSet<u16>,
    /// Ranges of ports that are never handed out: first and last.
    pub forbidden_ports: Vec<(u16, u16)>,
    /// The page of global statistics.
    pub statistics_page: u64,
    /// The first interrupt route that messages of functions raise; those before are pins.
    pub first_message_route: u16,
    /// The functions of devices, those that are not enabled included.
    pub functions: Vec<FunctionFacts>,
}

/// Everything there is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    /// What the machine is like.
    pub config: Config,
    /// The full slots.
    pub slots: BTreeMap<SlotId, Slot>,
    /// The CNodes, with log2 of their slots. Slot 0 of each is the kernel's.
    pub cnodes: BTreeMap<CNodeId, u8>,
    /// The tables, roots of VMs included, with their entries.
    pub tables: BTreeMap<TableId, BTreeMap<u16, Entry>>,
    /// The address spaces.
    pub vms: BTreeMap<VmId, Vm>,
    /// The virtual processors.
    pub vcpus: BTreeMap<VcpuId, Vcpu>,
    /// The domains, with what their functions were stopped from.
    pub domains: BTreeMap<VmId, Faults>,
    /// What all functions were stopped from.
    pub faults: Faults,
    /// The functions for which there are capabilities.
    pub functions: BTreeMap<u16, Function>,
    /// The channels, with the receivers of ends 1 and 2.
    pub channels: BTreeMap<ChannelId, [Option<Receiver>; 2]>,
    /// What is half destroyed: nothing, unless Delete and Revoke are done in steps.
    pub dying: Dying,
    /// Watermarks that the rules leave to the kernel, with the values that it may choose; emptied by who observed them.
    pub choices: BTreeMap<SlotId, BTreeSet<u64>>,
    /// The present period of every Vcpu that has CPU time (its core's doing).
    pub periods: BTreeMap<VcpuId, Period>,
    /// Vcpus whose state a core still holds, with that core (its doing).
    pub holders: BTreeMap<VcpuId, u8>,
    /// The time-stamp counter (the world's doing).
    pub now: u64,
    /// What the next read of a port or of configuration space returns (the world's doing).
    pub port_input: u32,
    /// What was done to the world, in order.
    pub outputs: Vec<Output>,
    /// Sleepers that were signalled and woke, with the events that their Wait returns; emptied by who told them.
    pub completions: Vec<(VcpuId, u64)>,
}

impl State {
    /// Nothing at all.
    pub fn new(config: Config) -> State {
        State {
            config,
            slots: BTreeMap::new(),
            cnodes: BTreeMap::new(),
            tables: BTreeMap::new(),
            vms: BTreeMap::new(),
            vcpus: BTreeMap::new(),
            domains: BTreeMap::new(),
            faults: Faults::default(),
            functions: BTreeMap::new(),
            channels: BTreeMap::new(),
            dying: Dying::default(),
            choices: BTreeMap::new(),
            periods: BTreeMap::new(),
            holders: BTreeMap::new(),
            now: 0,
            port_input: 0,
            outputs: Vec::new(),
            completions: Vec::new(),
        }
    }

    /// The slots derived from this one directly.
    pub fn children(&self, slot: SlotId) -> impl Iterator<Item = (SlotId, &Slot)> {
        self.slots.iter().filter(move |(_, s)| s.parent == Some(slot)).map(|(id, s)| (*id, s))
    }

    /// True if something is derived from this slot.
    pub fn has_children(&self, slot: SlotId) -> bool {
        self.children(slot).next().is_some()
    }

    /// Every slot derived from this one, directly or not.
    pub fn descendants(&self, slot: SlotId) -> BTreeSet<SlotId> {
        let mut found = BTreeSet::new();
        let mut open = alloc::vec![slot];
        while let Some(next) = open.pop() {
            for (child, _) in self.children(next) {
                if found.insert(child) {
                    open.push(child);
                }
            }
        }
        found
    }

    /// The reservation that a Vcpu is bound to: its slot.
    pub fn time_of(&self, vcpu: VcpuId) -> Option<SlotId> {
        self.slots
            .iter()
            .find(|(_, slot)| matches!(slot.cap, Cap::CpuTime { vcpu: Some(bound), .. } if bound == vcpu))
            .map(|(id, _)| *id)
    }

    /// How many interrupt routes a Vcpu takes.
    pub fn routes_of(&self, vcpu: VcpuId) -> usize {
        let takes = |slot: &&Slot| matches!(slot.cap, Cap::Irq { route: Some(route), .. } if route.vcpu == vcpu);
        self.slots.values().filter(takes).count()
    }
}
