//! What a capability names, and what is kept with the capability and not with the object.
//!
//! Every record that names an object is exact: it is linked from the object, and whoever destroys the object clears it
//! first. So no record is ever stale, and no memory that a guest may own since is read to find that out.

use crate::types::{ChannelId, CoreId, FunctionId, Gpa, Hpa, SlotId, VcpuId, VmId};
use cap_spec::abi::{ObjectType, Rights};

/// Where a Frame or PageTable capability is mapped: a member of the VM's list of mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Mapping {
    /// The address space, of a VM or of a domain; none: not mapped.
    pub vm: VmId,
    /// The next mapping of this address space.
    pub next: SlotId,
    /// The previous mapping of this address space.
    pub prev: SlotId,
    /// READ, WRITE, EXECUTE of a frame.
    pub rights: Rights,
    /// Level of a table (1 to 3); 0 for a frame.
    pub level: u8,
    /// Counted in the VM's `foreign`.
    pub foreign: bool,
    /// First address that it covers.
    pub gpa: Gpa,
}

impl Mapping {
    /// Not mapped.
    pub const NONE: Mapping = Mapping {
        vm: VmId::NONE,
        next: SlotId::NONE,
        prev: SlotId::NONE,
        rights: Rights::empty(),
        level: 0,
        foreign: false,
        gpa: Gpa::new(0),
    };
}

/// A CNode or Channel that is being destroyed: no lookup finds it, and its slots are emptied from the last to the first.
///
/// All zombies that one operation has made form a circle. See `destroy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Zombie {
    /// The object's slot that is kept for its zombie.
    pub home: SlotId,
    /// The first of the object's slots that are emptied.
    pub first: SlotId,
    /// How many slots from `first` on may still be full.
    pub remaining: u32,
    /// The next zombie of the circle.
    pub next: SlotId,
    /// The previous zombie of the circle.
    pub prev: SlotId,
    /// log2 of the object's bytes.
    pub bits: u8,
}

/// A capability. The discriminant 0 is an empty slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cap {
    /// Nothing.
    Null = 0,
    /// Memory that can be retyped. Its bytes from `watermark` on are zero (RAM).
    Untyped {
        /// log2 of its bytes.
        bits: u8,
        /// Registers of a device: never written by the kernel.
        device: bool,
        /// The launched VM whose base this is; none for every other Untyped.
        vm: VmId,
        /// First byte, aligned to the size.
        base: Hpa,
        /// Bytes from the start that have been given out since they were last clean.
        watermark: u64,
    } = 1,
    /// A table of slots.
    CNode {
        /// log2 of its slots.
        bits: u8,
        /// In the original: the VM whose CSpace begins here, if any.
        vm: VmId,
        /// Slot 0, which is the kernel's.
        base: SlotId,
    } = 2,
    /// Memory that can be mapped.
    Frame {
        /// log2 of its bytes: 12, 21 or 30.
        bits: u8,
        /// Registers of a device.
        device: bool,
        /// A page of a Vm, a Vcpu or of the kernel, which the kernel writes.
        kernel_page: bool,
        /// First byte.
        base: Hpa,
        /// Where it is mapped.
        mapping: Mapping,
    } = 3,
    /// One level of a nested page table.
    PageTable {
        /// First byte.
        base: Hpa,
        /// Where it has been put.
        mapping: Mapping,
    } = 4,
    /// An address space.
    Vm {
        /// The object.
        id: VmId,
    } = 5,
    /// A virtual processor.
    Vcpu {
        /// The object.
        id: VcpuId,
    } = 6,
    /// CPU time of a core.
    CpuTime {
        /// The core.
        core: CoreId,
        /// Who uses it; none while it is idle or split.
        vcpu: VcpuId,
        /// Ticks per period.
        budget: u64,
        /// Ticks.
        period: u64,
        /// The instant from which all of it is free: what was given back may be promised for a period that runs until
        /// then.
        free_from: u64,
        /// Share of the children in 2^-32 of the core.
        allocated: u64,
    } = 7,
    /// An end of a channel.
    Channel {
        /// 1 or 2.
        end: u8,
        /// The object.
        id: ChannelId,
    } = 8,
    /// A range of interrupt routes. What a route is bound to stands in the kernel's table of routes.
    Irq {
        /// First route.
        first: u16,
        /// How many.
        count: u32,
    } = 9,
    /// A range of ports.
    IoPort {
        /// First port.
        first: u16,
        /// How many.
        count: u32,
    } = 10,
    /// The machine as a whole.
    Machine = 11,
    /// A CNode or Channel that is being destroyed.
    Zombie(Zombie) = 12,
    /// An Untyped that is being destroyed although a zombie still lies in its memory. It cannot be used any more.
    Doomed {
        /// log2 of its bytes.
        bits: u8,
        /// First byte.
        base: Hpa,
    } = 13,
    /// A window of the I/O addresses of a domain.
    IommuDomain {
        /// log2 of the window's bytes.
        bits: u8,
        /// The object.
        id: VmId,
        /// First address of the window.
        first: u64,
    } = 14,
    /// A function of a device. Who uses it stands in the kernel's table of functions.
    PciFunction {
        /// How many leases lie between this capability and the function's first.
        lease: u8,
        /// Its number.
        function: FunctionId,
    } = 15,
}

impl Cap {
    /// The type by which the ABI knows it; what is being destroyed has none.
    #[inline]
    pub const fn object_type(&self) -> ObjectType {
        match self {
            Cap::Null | Cap::Zombie(_) | Cap::Doomed { .. } => ObjectType::Null,
            Cap::Untyped { .. } => ObjectType::Untyped,
            Cap::CNode { .. } => ObjectType::CNode,
            Cap::Frame { .. } => ObjectType::Frame,
            Cap::PageTable { .. } => ObjectType::PageTable,
            Cap::Vm { .. } => ObjectType::Vm,
            Cap::Vcpu { .. } => ObjectType::Vcpu,
            Cap::CpuTime { .. } => ObjectType::CpuTime,
            Cap::Channel { .. } => ObjectType::Channel,
            Cap::Irq { .. } => ObjectType::Irq,
            Cap::IoPort { .. } => ObjectType::IoPort,
            Cap::Machine => ObjectType::Machine,
            Cap::IommuDomain { .. } => ObjectType::IommuDomain,
            Cap::PciFunction { .. } => ObjectType::PciFunction,
        }
    }

    /// First byte of the memory that it names; 0 if it names none, or something that is being destroyed.
    pub const fn memory(&self) -> Hpa {
        match *self {
            Cap::Untyped { base, .. } | Cap::Frame { base, .. } | Cap::PageTable { base, .. } => base,
            Cap::CNode { base, .. } => base.address(),
            Cap::Vm { id } | Cap::IommuDomain { id, .. } => id.address(),
            Cap::Vcpu { id } => id.address(),
            Cap::Channel { id, .. } => id.address(),
            Cap::Null
            | Cap::CpuTime { .. }
            | Cap::Irq { .. }
            | Cap::IoPort { .. }
            | Cap::Machine
            | Cap::Zombie(_)
            | Cap::Doomed { .. }
            | Cap::PciFunction { .. } => Hpa::new(0),
        }
    }

    /// The mapping record of a Frame or PageTable, if it is mapped.
    #[inline]
    pub const fn mapping(&self) -> Option<&Mapping> {
        match self {
            Cap::Frame { mapping, .. } | Cap::PageTable { mapping, .. } if mapping.vm.is_some() => Some(mapping),
            _ => None,
        }
    }

    /// The mapping record of a Frame or PageTable, to change it.
    #[inline]
    pub fn mapping_mut(&mut self) -> Option<&mut Mapping> {
        match self {
            Cap::Frame { mapping, .. } | Cap::PageTable { mapping, .. } => Some(mapping),
            _ => None,
        }
    }
}
