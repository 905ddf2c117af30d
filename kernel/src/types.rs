//! The kinds of number that must not mix: addresses, slots, objects, cores, ticks.

use cap_spec::abi::{PAGE_BITS, SLOT_BITS, VCPU_BITS};

/// Declares newtypes over integers with constructor and accessor.
macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident($inner:ty))*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name($inner);

        impl $name {
            /// Wraps a number that the caller knows to be of this kind.
            pub const fn new(value: $inner) -> $name {
                $name(value)
            }

            /// The number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }
    )*};
}

/// Declares that numbers name something unless they are 0, and, with `>> bits`, that they are the host-physical address
/// of its first byte shifted.
macro_rules! names {
    ($($name:ident $(>> $bits:expr)?;)*) => {$(
        impl $name {
            /// Names nothing.
            pub const NONE: $name = $name(0);

            /// True if this names something.
            #[inline]
            pub const fn is_some(self) -> bool {
                self.0 != 0
            }

            $(/// First byte of the object.
            #[inline]
            pub const fn address(self) -> Hpa {
                Hpa((self.0 as u64) << $bits)
            })?
        }
    )*};
}

numbers! {
    /// A host-physical address.
    Hpa(u64)
    /// A guest-physical address.
    Gpa(u64)
    /// A capability slot: its host-physical address divided by 64. 0 is no slot.
    SlotId(u32)
    /// A `Vm` object, or an `IommuDomain`, which is an address space too: the host-physical page number of its first
    /// byte. 0 is neither.
    VmId(u32)
    /// A `Vcpu` object: the host-physical page number of its first byte. 0 is no Vcpu.
    VcpuId(u32)
    /// A `Channel` object: its host-physical address divided by 64. 0 is no channel.
    ChannelId(u32)
    /// A function of a PCI Express device, by its place in the kernel's table.
    FunctionId(u16)
    /// A core, numbered from 0 in the order of the MADT.
    CoreId(u8)
    /// Ticks of the time-stamp counter; a time or a span.
    Ticks(u64)
    /// One end of a channel: its [`ChannelId`], whose low two bits are 0, plus 1 or 2. 0 is no end.
    EndId(u32)
}

names! {
    SlotId >> SLOT_BITS;
    VmId >> PAGE_BITS;
    VcpuId >> PAGE_BITS;
    ChannelId >> SLOT_BITS;
    EndId;
}

impl Hpa {
    /// The address `bytes` further on (modulo 2^64, which no address of RAM reaches).
    #[inline]
    pub const fn plus(self, bytes: u64) -> Hpa {
        Hpa(self.0.wrapping_add(bytes))
    }

    /// The slot that starts at this address.
    #[inline]
    pub const fn to_slot(self) -> SlotId {
        SlotId((self.0 >> SLOT_BITS) as u32)
    }
}

impl SlotId {
    /// The slot `index` slots further on.
    #[inline]
    pub const fn plus(self, index: u32) -> SlotId {
        SlotId(self.0.wrapping_add(index))
    }
}

impl VmId {
    /// The root of its nested page tables, of a domain its table of level 3: page 1 of the object.
    #[inline]
    pub const fn root(self) -> Hpa {
        self.address().plus(1 << PAGE_BITS)
    }

    /// Of a domain, a table of level 4 whose first entry is the root: page 3 of the object.
    #[inline]
    pub const fn top(self) -> Hpa {
        self.address().plus(3 << PAGE_BITS)
    }

    /// Its statistics page: page 2 of the object.
    #[inline]
    pub const fn stats_page(self) -> Hpa {
        self.address().plus(2 << PAGE_BITS)
    }
}

impl VcpuId {
    /// Its info page: page 2 of the object.
    #[inline]
    pub const fn info_page(self) -> Hpa {
        self.address().plus(2 << PAGE_BITS)
    }

    /// Its handler page: page 3 of the object.
    #[inline]
    pub const fn handler_page(self) -> Hpa {
        self.address().plus(3 << PAGE_BITS)
    }

    /// True if this page that the kernel writes is the handler page of a Vcpu: these objects are aligned to their size,
    /// and no other has a page 3 that is given out.
    #[inline]
    pub const fn is_handler_page(page: Hpa) -> bool {
        page.get() & ((1 << VCPU_BITS) - 1) == 3 << PAGE_BITS
    }
}

impl ChannelId {
    /// The slot of the capability in flight towards an end (1 or 2).
    #[inline]
    pub const fn in_flight(self, end: u8) -> SlotId {
        SlotId(self.0.wrapping_add((end & 2) as u32 >> 1))
    }
}

impl EndId {
    /// End 1 or 2 of a channel.
    #[inline]
    pub const fn of(channel: ChannelId, end: u8) -> EndId {
        EndId((channel.get() & !3) | (end & 3) as u32)
    }

    /// Its channel.
    #[inline]
    pub const fn channel(self) -> ChannelId {
        ChannelId(self.0 & !3)
    }

    /// 1 or 2.
    #[inline]
    pub const fn end(self) -> u8 {
        (self.0 & 3) as u8
    }

    /// The other end of the channel.
    #[inline]
    pub const fn peer(self) -> EndId {
        EndId(self.0 ^ 3)
    }
}
