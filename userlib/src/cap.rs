//! Typed capabilities: a [`Cap<T>`] names an object of type `T`, and has the invocations of that type only.
//!
//! What does not fit does not compile. Mapping a frame:
//! ```no_run
//! use userlib::cap::{Cap, Frame, Rights, Slot, Vm};
//! let frame: Cap<Frame> = Slot::root(20).cap();
//! let vm: Cap<Vm> = Slot::root(2).cap();
//! frame.map(vm, 0x5000_0000, Rights::READ | Rights::WRITE)?;
//! # Ok::<(), userlib::cap::Fault>(())
//! ```
//! A channel is no frame:
//! ```compile_fail,E0599
//! use userlib::cap::{Cap, Channel, Rights, Slot, Vm};
//! let channel: Cap<Channel> = Slot::root(20).cap();
//! let vm: Cap<Vm> = Slot::root(2).cap();
//! let _ = channel.map(vm, 0x5000_0000, Rights::READ | Rights::WRITE);
//! ```
//! Nor is an `Untyped` an address space:
//! ```compile_fail,E0308
//! use userlib::cap::{Cap, Frame, Rights, Slot, Untyped};
//! let frame: Cap<Frame> = Slot::root(20).cap();
//! let base: Cap<Untyped> = Slot::root(4).cap();
//! let _ = frame.map(base, 0x5000_0000, Rights::READ);
//! ```
//!
//! The type says what the holder means; the kernel checks what the slot holds. A method's documentation names the label
//! of cap-spec, where arguments, rights and errors stand.

use core::fmt;
use core::marker::PhantomData;

use cap_spec::abi::{CptrParts, slots};
pub use cap_spec::abi::{Error, Fault, Label, ObjectType, Register, Rights};

use crate::invoke::invoke;

/// A type of kernel object. Implemented by the markers of this module only.
pub trait Object: private::Sealed {
    /// Its number in the ABI.
    const TYPE: ObjectType;
}

mod private {
    pub trait Sealed {}
}

macro_rules! objects {
    ($($(#[$doc:meta])* $name:ident)*) => {
        $($(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {}
        impl private::Sealed for $name {}
        impl Object for $name {
            const TYPE: ObjectType = ObjectType::$name;
        })*
    };
}

objects! {
    /// Memory that can be retyped.
    Untyped
    /// A table of capability slots.
    CNode
    /// Memory that can be mapped.
    Frame
    /// One level of a nested page table.
    PageTable
    /// An address space with its CSpace.
    Vm
    /// A virtual processor.
    Vcpu
    /// A budget per period on one core.
    CpuTime
    /// An end of a two-ended connection.
    Channel
    /// A range of interrupt routes.
    Irq
    /// A range of I/O ports.
    IoPort
    /// The machine as a whole.
    Machine
    /// A window of the I/O addresses of a domain.
    IommuDomain
    /// A function of a device.
    PciFunction
}

/// A place for a capability: a slot of the own root CNode, or of a CNode whose capability lies in the root CNode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    node: u16,
    index: u16,
}

impl Slot {
    /// A slot of the own root CNode.
    pub const fn root(index: u16) -> Slot {
        Slot { node: 0, index }
    }

    /// A slot of the CNode whose capability lies in slot `node` of the own root CNode.
    pub const fn in_node(node: u16, index: u16) -> Slot {
        Slot { node, index }
    }

    /// Its number within its CNode.
    pub const fn index(self) -> u16 {
        self.index
    }

    /// The slot `count` places further on in the same CNode.
    pub const fn after(self, count: u16) -> Slot {
        Slot { node: self.node, index: self.index + count }
    }

    /// The CNode that it is a slot of.
    pub const fn cnode(self) -> Cap<CNode> {
        Cap::new(if self.node == 0 { Slot::root(slots::CNODE) } else { Slot::root(self.node) })
    }

    /// The capability in it, which the caller says is to a `T`.
    pub const fn cap<T: Object>(self) -> Cap<T> {
        Cap::new(self)
    }

    /// The capability pointer.
    pub const fn cptr(self) -> u64 {
        CptrParts { node: self.node, index: self.index }.to_raw()
    }

    pub(crate) const fn number(self) -> u64 {
        self.index as u64
    }

    /// What the slot holds. `CNode.Identify`.
    pub fn identify(self) -> Result<Identity, Fault> {
        let (what, amount) = invoke(self.cnode().cptr(), Label::CNodeIdentify, [self.number(), 0, 0, 0, 0])?;
        Ok(Identity {
            object: ObjectType::from_number(what & 0xff).unwrap_or(ObjectType::Null),
            size_bits: (what >> 8) as u8,
            rights: Rights::from_bits_truncate((what >> 16) as u8),
            has_children: what >> 24 & 1 != 0,
            in_use: what >> 25 & 1 != 0,
            amount,
        })
    }

    /// Removes the capability. `CNode.Delete`.
    pub fn delete(self) -> Result<(), Fault> {
        invoke(self.cnode().cptr(), Label::CNodeDelete, [self.number(), 0, 0, 0, 0]).map(drop)
    }

    /// Removes all descendants of the capability; an `Untyped` is scrubbed then. `CNode.Revoke`.
    pub fn revoke(self) -> Result<(), Fault> {
        invoke(self.cnode().cptr(), Label::CNodeRevoke, [self.number(), 0, 0, 0, 0]).map(drop)
    }

    /// Puts a child of `source` here, with at most its rights. `CNode.Copy`.
    pub fn copy<T: Object>(self, source: Cap<T>, rights: Rights) -> Result<Cap<T>, Fault> {
        let args = [self.number(), source.cptr(), u64::from(rights.bits()), 0, 0];
        invoke(self.cnode().cptr(), Label::CNodeCopy, args).map(|_| self.cap())
    }

    /// Puts a child of `source` here; for an original channel `badge` chooses the end, else it is 0. `CNode.Mint`.
    pub fn mint<T: Object>(self, source: Cap<T>, rights: Rights, badge: u64) -> Result<Cap<T>, Fault> {
        let args = [self.number(), source.cptr(), u64::from(rights.bits()), badge, 0];
        invoke(self.cnode().cptr(), Label::CNodeMint, args).map(|_| self.cap())
    }

    /// Moves a capability here. `CNode.Move`.
    pub fn move_from<T: Object>(self, source: Cap<T>) -> Result<Cap<T>, Fault> {
        invoke(self.cnode().cptr(), Label::CNodeMove, [self.number(), source.cptr(), 0, 0, 0]).map(|_| self.cap())
    }
}

/// What `CNode.Identify` tells about a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Type of the object.
    pub object: ObjectType,
    /// Size as `Retype` takes it.
    pub size_bits: u8,
    /// Rights of the capability.
    pub rights: Rights,
    /// True if capabilities are derived from it.
    pub has_children: bool,
    /// True if it is mapped or bound.
    pub in_use: bool,
    /// Untyped: bytes left; CpuTime: budget in ticks; CNode: slots; Irq, IoPort: first | count << 32.
    pub amount: u64,
}

/// A capability to a `T`, by the slot that it lies in.
pub struct Cap<T: Object> {
    slot: Slot,
    object: PhantomData<fn() -> T>,
}

impl<T: Object> Clone for Cap<T> {
    fn clone(&self) -> Cap<T> {
        *self
    }
}
impl<T: Object> Copy for Cap<T> {}
impl<T: Object> PartialEq for Cap<T> {
    fn eq(&self, other: &Cap<T>) -> bool {
        self.slot == other.slot
    }
}
impl<T: Object> Eq for Cap<T> {}
impl<T: Object> fmt::Debug for Cap<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}@{}:{}", T::TYPE, self.slot.node, self.slot.index)
    }
}

impl<T: Object> Cap<T> {
    /// The capability in a slot.
    pub const fn new(slot: Slot) -> Cap<T> {
        Cap { slot, object: PhantomData }
    }

    /// Where it lies.
    pub const fn slot(self) -> Slot {
        self.slot
    }

    /// The capability pointer.
    pub const fn cptr(self) -> u64 {
        self.slot.cptr()
    }

    /// Does nothing. `Nop`.
    pub fn nop(self) -> Result<(), Fault> {
        self.call(Label::Nop, [0; 5])
    }

    /// Removes the capability. `CNode.Delete`.
    pub fn delete(self) -> Result<(), Fault> {
        self.slot.delete()
    }

    /// Removes all that was derived from it. `CNode.Revoke`.
    pub fn revoke(self) -> Result<(), Fault> {
        self.slot.revoke()
    }

    #[inline(always)]
    pub(crate) fn call(self, label: Label, args: [u64; 5]) -> Result<(), Fault> {
        invoke(self.cptr(), label, args).map(drop)
    }
}

/// The capabilities with which every launched VM starts.
pub mod own {
    use super::{CNode, Cap, Channel, Slot, Untyped, Vcpu, Vm, slots};

    /// The own root CNode.
    pub const CNODE: Cap<CNode> = Cap::new(Slot::root(slots::CNODE));
    /// The own address space.
    pub const VM: Cap<Vm> = Cap::new(Slot::root(slots::VM));
    /// The own first Vcpu.
    pub const VCPU: Cap<Vcpu> = Cap::new(Slot::root(slots::VCPU));
    /// The own base.
    pub const BASE: Cap<Untyped> = Cap::new(Slot::root(slots::BASE));
    /// The own end of the channel to the market server.
    pub const MARKET: Cap<Channel> = Cap::new(Slot::root(slots::MARKET));
    /// The own end of the channel to the console server.
    pub const CONSOLE: Cap<Channel> = Cap::new(Slot::root(slots::CONSOLE));
}

impl Cap<Untyped> {
    /// Makes one object. `size_bits` as in cap-spec, 0 for types of one size. `Untyped.Retype`.
    pub fn retype<T: Object>(self, size_bits: u8, to: Slot) -> Result<Cap<T>, Fault> {
        self.retype_many::<T>(size_bits, to, 1).map(|()| to.cap())
    }

    /// Makes `count` (1 to 64) objects, into consecutive slots. `Untyped.Retype`.
    pub fn retype_many<T: Object>(self, size_bits: u8, first: Slot, count: u16) -> Result<(), Fault> {
        let args = [T::TYPE as u64, u64::from(size_bits), first.cnode().cptr(), first.number(), u64::from(count)];
        self.call(Label::UntypedRetype, args)
    }
}

impl Cap<Frame> {
    /// Maps it. `Frame.Map`.
    pub fn map(self, vm: Cap<Vm>, gpa: u64, rights: Rights) -> Result<(), Fault> {
        self.map_row(vm, gpa, rights, 0)
    }

    /// Maps it, and `more` (at most 63) frames of its size from the slots behind it, one behind the other and under one
    /// table. `Frame.Map`.
    pub fn map_row(self, vm: Cap<Vm>, gpa: u64, rights: Rights, more: u64) -> Result<(), Fault> {
        self.call(Label::FrameMap, [vm.cptr(), gpa, u64::from(rights.bits()), more, 0])
    }

    /// Takes its mapping back. `Frame.Unmap`.
    pub fn unmap(self) -> Result<(), Fault> {
        self.unmap_row(0)
    }

    /// Takes its mapping back, and those of the `more` (at most 63) frames in the slots behind it. `Frame.Unmap`.
    pub fn unmap_row(self, more: u64) -> Result<(), Fault> {
        self.call(Label::FrameUnmap, [more, 0, 0, 0, 0])
    }
}

impl Cap<PageTable> {
    /// Puts it into the tree of an address space. `PageTable.Map`.
    pub fn map(self, vm: Cap<Vm>, gpa: u64, level: u8) -> Result<(), Fault> {
        self.call(Label::PageTableMap, [vm.cptr(), gpa, u64::from(level), 0, 0])
    }

    /// Takes it out of the tree. `PageTable.Unmap`.
    pub fn unmap(self) -> Result<(), Fault> {
        self.call(Label::PageTableUnmap, [0; 5])
    }
}

impl Cap<Vm> {
    /// Gives the VM its CSpace. `Vm.SetCSpace`.
    pub fn set_cspace(self, root: Cap<CNode>) -> Result<(), Fault> {
        self.call(Label::VmSetCSpace, [root.cptr(), 0, 0, 0, 0])
    }

    /// Derives a capability to its statistics page. `Vm.GetPage`.
    pub fn statistics_page(self, to: Slot) -> Result<Cap<Frame>, Fault> {
        self.call(Label::VmGetPage, [to.cnode().cptr(), to.number(), 0, 0, 0]).map(|()| to.cap())
    }
}

/// The pages of a Vcpu that the kernel writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum VcpuPage {
    /// The info page: events and faults.
    Info = 0,
    /// The handler page: why it stopped.
    Handler = 1,
}

impl Cap<Vcpu> {
    /// Makes it a virtual processor of the VM, which begins at `rip` with these page tables and this stack. `Vcpu.Attach`.
    pub fn attach(self, vm: Cap<Vm>, rip: u64, cr3: u64, rsp: u64) -> Result<(), Fault> {
        self.call(Label::VcpuAttach, [vm.cptr(), rip, cr3, rsp, 0])
    }

    /// Sets a register while it is stopped. `Vcpu.SetRegister`.
    pub fn set_register(self, register: Register, value: u64) -> Result<(), Fault> {
        self.call(Label::VcpuSetRegister, [register as u64, value, 0, 0, 0])
    }

    /// Reads a register while it is stopped. `Vcpu.GetRegister`.
    pub fn register(self, register: Register) -> Result<u64, Fault> {
        invoke(self.cptr(), Label::VcpuGetRegister, [register as u64, 0, 0, 0, 0]).map(|(value, _)| value)
    }

    /// Gives it CPU time. `Vcpu.BindTime`.
    pub fn bind_time(self, time: Cap<CpuTime>) -> Result<(), Fault> {
        self.call(Label::VcpuBindTime, [time.cptr(), 0, 0, 0, 0])
    }

    /// Takes its CPU time off it. `Vcpu.UnbindTime`.
    pub fn unbind_time(self) -> Result<(), Fault> {
        self.call(Label::VcpuUnbindTime, [0; 5])
    }

    /// Chooses the vectors of fault and event upcalls, 0 for none. `Vcpu.SetUpcall`.
    pub fn set_upcall(self, fault: u8, event: u8) -> Result<(), Fault> {
        self.call(Label::VcpuSetUpcall, [u64::from(fault), u64::from(event), 0, 0, 0])
    }

    /// Names who is told when it stops by itself. `Vcpu.SetHandler`.
    pub fn set_handler(self, channel: Cap<Channel>) -> Result<(), Fault> {
        self.call(Label::VcpuSetHandler, [channel.cptr(), 0, 0, 0, 0])
    }

    /// Launches its VM: moves this capability into slot `index` of the VM's root CNode and starts it.
    /// `base` is a slot of the *VM's* root CNode. `Vcpu.Launch`.
    pub fn launch(self, base: u16, index: u16) -> Result<(), Fault> {
        self.call(Label::VcpuLaunch, [u64::from(base), u64::from(index), 0, 0, 0])
    }

    /// Starts it. `Vcpu.Start`.
    pub fn start(self) -> Result<(), Fault> {
        self.call(Label::VcpuStart, [0; 5])
    }

    /// Stops it. `Vcpu.Stop`.
    pub fn stop(self) -> Result<(), Fault> {
        self.call(Label::VcpuStop, [0; 5])
    }

    /// Derives a capability to one of its pages. `Vcpu.GetPage`.
    pub fn page(self, page: VcpuPage, to: Slot) -> Result<Cap<Frame>, Fault> {
        self.call(Label::VcpuGetPage, [page as u64, to.cnode().cptr(), to.number(), 0, 0]).map(|()| to.cap())
    }

    /// Sets bits in its event word. `Vcpu.Signal`.
    pub fn signal(self, bits: u64) -> Result<(), Fault> {
        self.call(Label::VcpuSignal, [bits, 0, 0, 0, 0])
    }

    /// Gives the core up until one of these events, or until the TSC has reached `deadline` (0: never); returns the
    /// events, which are cleared. On the own Vcpu only. `Vcpu.Wait`.
    pub fn wait(self, mask: u64, deadline: u64) -> Result<u64, Fault> {
        invoke(self.cptr(), Label::VcpuWait, [mask, deadline, 0, 0, 0]).map(|(events, _)| events)
    }
}

impl Cap<CpuTime> {
    /// Makes a child reservation. `CpuTime.Split`.
    pub fn split(self, budget_ticks: u64, period_ticks: u64, to: Slot) -> Result<Cap<CpuTime>, Fault> {
        let args = [budget_ticks, period_ticks, to.cnode().cptr(), to.number(), 0];
        self.call(Label::CpuTimeSplit, args).map(|()| to.cap())
    }

    /// Changes a reservation. `CpuTime.Resize`.
    pub fn resize(self, budget_ticks: u64, period_ticks: u64) -> Result<(), Fault> {
        self.call(Label::CpuTimeResize, [budget_ticks, period_ticks, 0, 0, 0])
    }
}

impl Cap<Channel> {
    /// Chooses the receiver of this end, and the bits that a signal sets. `Channel.Bind`.
    pub fn bind(self, vcpu: Cap<Vcpu>, bits: u64) -> Result<(), Fault> {
        self.call(Label::ChannelBind, [vcpu.cptr(), bits, 0, 0, 0])
    }

    /// Wakes the receiver of the other end. `Channel.Signal`.
    #[inline]
    pub fn signal(self) -> Result<(), Fault> {
        self.call(Label::ChannelSignal, [0; 5])
    }

    /// Signal, then wait, as one invocation. `Channel.SignalWait`.
    #[inline]
    pub fn signal_wait(self, mask: u64, deadline: u64) -> Result<u64, Fault> {
        invoke(self.cptr(), Label::ChannelWait, [mask, deadline, 0, 0, 0]).map(|(events, _)| events)
    }

    /// Hands a child of `source` over. `Channel.Grant`.
    pub fn grant<T: Object>(self, source: Cap<T>, rights: Rights) -> Result<(), Fault> {
        self.call(Label::ChannelGrant, [source.cptr(), u64::from(rights.bits()), 0, 0, 0])
    }

    /// Hands `source` itself over. `Channel.Grant`.
    pub fn grant_move<T: Object>(self, source: Cap<T>, rights: Rights) -> Result<(), Fault> {
        self.call(Label::ChannelGrant, [source.cptr(), u64::from(rights.bits()), 1, 0, 0])
    }

    /// Takes what is in flight. The caller says what it expects; [`Slot::identify`] tells. `Channel.Accept`.
    pub fn accept<T: Object>(self, to: Slot) -> Result<Cap<T>, Fault> {
        self.call(Label::ChannelAccept, [to.cnode().cptr(), to.number(), 0, 0, 0]).map(|()| to.cap())
    }
}

impl Cap<Irq> {
    /// Makes a child that owns routes `first..first + count`. `Irq.Split`.
    pub fn split(self, first: u64, count: u64, to: Slot) -> Result<Cap<Irq>, Fault> {
        self.call(Label::IrqSplit, [first, count, to.cnode().cptr(), to.number(), 0]).map(|()| to.cap())
    }

    /// Routes the interrupt to a Vcpu as a vector of 32 to 255. `Irq.Bind`.
    pub fn bind(self, vcpu: Cap<Vcpu>, vector: u8) -> Result<(), Fault> {
        self.call(Label::IrqBind, [vcpu.cptr(), u64::from(vector), 0, 0, 0])
    }

    /// Masks the route. `Irq.Unbind`.
    pub fn unbind(self) -> Result<(), Fault> {
        self.call(Label::IrqUnbind, [0; 5])
    }
}

/// How wide a port is read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PortWidth {
    /// 1 byte.
    Byte = 1,
    /// 2 bytes.
    Word = 2,
    /// 4 bytes.
    Double = 4,
}

impl Cap<IoPort> {
    /// Makes a child that owns ports `first..first + count`. `IoPort.Split`.
    pub fn split(self, first: u16, count: u32, to: Slot) -> Result<Cap<IoPort>, Fault> {
        let args = [u64::from(first), u64::from(count), to.cnode().cptr(), to.number(), 0];
        self.call(Label::IoPortSplit, args).map(|()| to.cap())
    }

    /// Reads a port. `IoPort.In`.
    pub fn input(self, port: u16, width: PortWidth) -> Result<u32, Fault> {
        invoke(self.cptr(), Label::IoPortIn, [u64::from(port), width as u64, 0, 0, 0]).map(|(value, _)| value as u32)
    }

    /// Writes a port. `IoPort.Out`.
    pub fn output(self, port: u16, width: PortWidth, value: u32) -> Result<(), Fault> {
        self.call(Label::IoPortOut, [u64::from(port), width as u64, u64::from(value), 0, 0])
    }

    /// Writes up to 16 bytes to one port, one after the other; more than that are left out. Returns how many were
    /// written. `IoPort.OutBytes`.
    pub fn output_bytes(self, port: u16, bytes: &[u8]) -> Result<usize, Fault> {
        let count = bytes.len().min(16);
        if count == 0 {
            return Ok(0);
        }
        let mut padded = [0; 16];
        padded[..count].copy_from_slice(&bytes[..count]);
        let words = u128::from_le_bytes(padded);
        let args = [u64::from(port), count as u64, words as u64, (words >> 64) as u64, 0];
        self.call(Label::IoPortOutBytes, args).map(|()| count)
    }
}

impl Cap<Machine> {
    /// Resets the machine. `Machine.Reset`.
    pub fn reset(self) -> Result<(), Fault> {
        self.call(Label::MachineReset, [0; 5])
    }

    /// Derives a capability to the global statistics page. `Machine.GetPage`.
    pub fn statistics_page(self, to: Slot) -> Result<Cap<Frame>, Fault> {
        self.call(Label::MachineGetPage, [to.cnode().cptr(), to.number(), 0, 0, 0]).map(|()| to.cap())
    }
}
