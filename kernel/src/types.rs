//! The kinds of number that must not mix: addresses, slots, objects, cores, ticks.

/// Declares a newtype over an integer with its constructor and accessor.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
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
    };
}

number! {
    /// A host-physical address.
    Hpa(u64)
}
number! {
    /// A guest-physical address.
    Gpa(u64)
}
number! {
    /// A capability slot: its host-physical address divided by 64. 0 is no slot.
    SlotId(u32)
}
number! {
    /// A `Vm` object: the host-physical page number of its first byte. 0 is no VM.
    VmId(u32)
}
number! {
    /// A `Vcpu` object: the host-physical page number of its first byte. 0 is no Vcpu.
    VcpuId(u32)
}
number! {
    /// A `Channel` object: its host-physical address divided by 64. 0 is no channel.
    ChannelId(u32)
}
number! {
    /// A core, numbered from 0 in the order of the MADT.
    CoreId(u8)
}
number! {
    /// Ticks of the time-stamp counter; a time or a span.
    Ticks(u64)
}
