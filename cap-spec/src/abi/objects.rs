//! Object types, rights, sizes and capability pointers.

use bitflags::bitflags;
use strum::FromRepr;

/// log2 of the bytes of a capability slot.
pub const SLOT_BITS: u8 = 6;
/// log2 of the bytes of a page, the smallest `Frame` and the smallest `Untyped`.
pub const PAGE_BITS: u8 = 12;
/// log2 of the bytes of a `Vm`: header, nested root table, statistics page, one page kept for the back end.
pub const VM_BITS: u8 = 14;
/// log2 of the bytes of a `Vcpu`: header with extended state, control block, info page, handler page.
pub const VCPU_BITS: u8 = 14;
/// log2 of the bytes of an `IommuDomain`: header, root table, two pages kept for the back end.
pub const DOMAIN_BITS: u8 = 14;
/// log2 of the bytes of I/O address space that a domain has.
pub const IO_ADDRESS_BITS: u8 = 39;
/// Interrupt routes that a Vcpu takes at most. Its core turns each of them, with the IOMMU where a message raises it, when
/// the Vcpu comes and goes: that is time which the neighbours' reservations have to allow for.
pub const VCPU_ROUTES: u16 = 8;
/// log2 of the bytes of a `Channel`: two slots for capabilities in flight, two ends.
pub const CHANNEL_BITS: u8 = 8;

/// What a capability names. The numbers are the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromRepr)]
#[repr(u8)]
pub enum ObjectType {
    /// Nothing: an empty slot.
    Null = 0,
    /// Memory that can be retyped.
    Untyped = 1,
    /// A table of capability slots. Slot 0 of every CNode is the kernel's.
    CNode = 2,
    /// Memory that can be mapped.
    Frame = 3,
    /// One level of a nested page table.
    PageTable = 4,
    /// An address space with its CSpace.
    Vm = 5,
    /// A virtual processor.
    Vcpu = 6,
    /// A budget per period on one core.
    CpuTime = 7,
    /// A two-ended connection.
    Channel = 8,
    /// A range of interrupt routes.
    Irq = 9,
    /// A range of I/O ports.
    IoPort = 10,
    /// The machine as a whole: reset, global statistics.
    Machine = 11,
    /// An address space of devices; the capability speaks for a window of it.
    IommuDomain = 12,
    /// A function of a PCI Express device, physical or virtual.
    PciFunction = 13,
}

impl ObjectType {
    /// The type with this number.
    pub const fn from_number(number: u64) -> Option<ObjectType> {
        if number > u8::MAX as u64 { None } else { ObjectType::from_repr(number as u8) }
    }

    /// True for the types that `Copy`, `Mint` and a copying `Grant` refuse: their extent has one owner.
    /// A part is handed on by `Retype` or `Split`, the whole by `Move`. A `PageTable` is in one tree at a time: shared
    /// by two address spaces, it would show frames in one of them that an unmap does not flush.
    pub const fn is_unique(self) -> bool {
        use ObjectType::*;
        matches!(self, Untyped | PageTable | CpuTime | Irq | IoPort | PciFunction)
    }

    /// True if `Untyped.Retype` makes this type.
    pub const fn is_made_from_untyped(self) -> bool {
        use ObjectType::*;
        matches!(self, Untyped | CNode | Frame | PageTable | Vm | Vcpu | Channel | IommuDomain)
    }

    /// log2 of the bytes that one object takes when retyped with `size_bits`, or `None` if that size does not exist.
    ///
    /// `size_bits` means: log2 bytes for `Untyped` (12 to 47) and `Frame` (12, 21 or 30); log2 slots for `CNode`
    /// (6 to 16); must be 0 for the types of one size.
    pub const fn object_bits(self, size_bits: u64) -> Option<u8> {
        match (self, size_bits) {
            (ObjectType::Untyped, 12..=47) | (ObjectType::Frame, 12 | 21 | 30) => Some(size_bits as u8),
            (ObjectType::CNode, 6..=16) => Some(size_bits as u8 + SLOT_BITS),
            (ObjectType::PageTable, 0) => Some(PAGE_BITS),
            (ObjectType::Vm, 0) => Some(VM_BITS),
            (ObjectType::Vcpu, 0) => Some(VCPU_BITS),
            (ObjectType::Channel, 0) => Some(CHANNEL_BITS),
            (ObjectType::IommuDomain, 0) => Some(DOMAIN_BITS),
            _ => None,
        }
    }
}

bitflags! {
    /// What a capability allows its holder. A derived capability never has a right that its source lacks.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    pub struct Rights: u8 {
        /// Frame: load. CNode: take capabilities out (as a source). Channel: Accept. Vcpu: read registers.
        const READ = 1;
        /// Frame: store. CNode: change slots. Channel: Signal. Vm, IommuDomain: map. Vcpu: control.
        const WRITE = 2;
        /// Frame: fetch instructions.
        const EXECUTE = 4;
        /// Channel: Grant.
        const GRANT = 8;
        /// CpuTime: Resize. Channel: choose an end by Mint, and Bind a receiver. IommuDomain: attach functions, and be
        /// told what they were stopped from. Machine: be told that of all functions.
        const CONTROL = 16;
    }
}

/// A capability pointer taken apart: the CSpace has two levels and no guards.
///
/// With `node == 0`, `index` is a slot of the VM's root CNode. Otherwise slot `node` of the root CNode must hold a
/// CNode capability with READ, and `index` is a slot of that CNode. Slot 0 of a CNode is never addressable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CptrParts {
    /// Slot of the root CNode that holds the second level, or 0 for the root CNode itself.
    pub node: u16,
    /// Slot within that CNode.
    pub index: u16,
}

impl CptrParts {
    /// Takes a capability pointer apart; `None` if it does not fit in 32 bits.
    pub const fn from_raw(raw: u64) -> Option<CptrParts> {
        if raw > u32::MAX as u64 {
            return None;
        }
        Some(CptrParts { node: (raw >> 16) as u16, index: raw as u16 })
    }

    /// The capability pointer as an argument of `invoke`.
    pub const fn to_raw(self) -> u64 {
        (self.node as u64) << 16 | self.index as u64
    }
}
