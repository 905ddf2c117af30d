//! What the market needs of the machine below it, as one small trait, and the invocations it makes, by name.
//!
//! The server proper is written against [`Machine`] alone. `main.rs` implements it with real invocations and shared
//! pages; the tests implement it with a model of the kernel's capabilities and with simulated tenants.

use alloc::vec::Vec;
use cap_spec::abi::{CptrParts, Fault, Label, ObjectType, Rights, slots};

/// A slot of the root VM's CSpace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    node: u16,
    index: u16,
}

impl Slot {
    /// A slot of the root CNode.
    pub const fn root(index: u16) -> Slot {
        Slot { node: 0, index }
    }

    /// Slot `index` of the CNode whose capability is in slot `node` of the root CNode.
    pub const fn nested(node: u16, index: u16) -> Slot {
        Slot { node, index }
    }

    /// The CNode that the slot is in, as a capability.
    pub const fn holder(self) -> Slot {
        Slot::root(if self.node == 0 { slots::CNODE } else { self.node })
    }

    /// Its index in that CNode.
    pub const fn index(self) -> u16 {
        self.index
    }

    /// The slot of the root CNode that holds the second level, 0 for the root CNode itself.
    pub const fn node(self) -> u16 {
        self.node
    }

    /// As an argument of `invoke`.
    pub const fn raw(self) -> u64 {
        CptrParts { node: self.node, index: self.index }.to_raw()
    }
}

/// Who is at the other end of a ring: an application by its index in the plan, or a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Application of this index.
    App(u16),
    /// The console server.
    Console,
    /// The network server.
    Nic,
    /// The storage server.
    Storage,
}

/// The ring has no room for the message now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Whether the other side of a ring has announced that it sleeps until it is signalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// It will find what was done by itself.
    Awake,
    /// It must be signalled.
    Asleep,
}

/// What was found in a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// Nothing.
    Nothing,
    /// The bytes of a message, which may be anything; and whether the sender sleeps until there is room.
    Message(Vec<u8>, Attention),
    /// The peer has broken the rules of the ring, which is of no use any more.
    Damaged,
}

/// The machine as the market sees it.
pub trait Machine {
    /// One invocation of the kernel.
    ///
    /// # Errors
    /// What the kernel answers; the invocation then changed nothing.
    fn invoke(&mut self, label: Label, capability: Slot, arguments: [u64; 5]) -> Result<[u64; 2], Fault>;
    /// The time-stamp counter.
    fn now(&self) -> u64;
    /// Gives the program's allocator further memory, which is mapped at `gpa` and used for nothing else.
    fn add_heap(&mut self, gpa: u64, bytes: u64);
    /// Writes into memory that is mapped at this guest-physical address of the root VM.
    fn write(&mut self, gpa: u64, bytes: &[u8]);
    /// Writes one aligned word, as a single store.
    fn write_word(&mut self, gpa: u64, word: u64);
    /// Reads one aligned word, as a single load. 0 if its page is not there any more: a tenant can destroy its own VM,
    /// and the pages that the kernel writes for it go with it.
    fn read_word(&self, gpa: u64) -> u64;
    /// From now on the rings to and from this peer are the pages mapped at these addresses of the root VM.
    fn open_rings(&mut self, peer: Peer, from_peer: u64, to_peer: u64);
    /// The rings of this peer are not touched any more.
    fn close_rings(&mut self, peer: Peer);
    /// Puts a message into the ring to a peer; says whether the peer has to be signalled.
    ///
    /// # Errors
    /// [`Full`] if it does not fit now, or never will because the peer has damaged the ring.
    fn send(&mut self, peer: Peer, message: &[u8]) -> Result<Attention, Full>;
    /// Takes the next message out of the ring from a peer.
    fn receive(&mut self, peer: Peer) -> Received;
}

/// What a slot holds, as `CNode.Identify` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Type of the capability.
    pub object: ObjectType,
    /// Size as `Retype` takes it.
    pub bits: u8,
    /// Something was derived from it.
    pub has_children: bool,
    /// Mapped or bound.
    pub in_use: bool,
    /// The second result: bytes left of an Untyped, budget of a CpuTime, slots of a CNode.
    pub detail: u64,
}

/// What `PciFunction.GetInfo` is asked for: the function, not one of its BARs.
const FUNCTION: u64 = 6;

/// What a function of a device is and has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionInfo {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Class code: base class in bits 16 to 23, subclass, programming interface.
    pub class: u32,
    /// Virtual functions that it can have.
    pub vfs: u16,
    /// Its requester id.
    pub requester: u16,
}

/// The invocations that the market makes, by name. Errors are the kernel's.
pub trait Invoke: Machine {
    /// Makes `count` objects in consecutive slots from `first` on.
    ///
    /// # Errors
    /// As `Untyped.Retype`.
    fn retype(
        &mut self,
        untyped: Slot,
        object: ObjectType,
        size_bits: u8,
        first: Slot,
        count: u16,
    ) -> Result<(), Fault> {
        let (cnode, index) = (first.holder().raw(), u64::from(first.index()));
        let arguments = [object as u64, u64::from(size_bits), cnode, index, u64::from(count)];
        self.invoke(Label::UntypedRetype, untyped, arguments).map(drop)
    }

    /// Removes every descendant; an Untyped is scrubbed. Returns how many of its bytes the kernel keeps back, as an IOMMU
    /// that has failed may reach them.
    ///
    /// # Errors
    /// As `CNode.Revoke`.
    fn revoke(&mut self, slot: Slot) -> Result<u64, Fault> {
        self.invoke(Label::CNodeRevoke, slot.holder(), [slot.index().into(), 0, 0, 0, 0]).map(|[kept, _]| kept)
    }

    /// Removes a capability.
    ///
    /// # Errors
    /// As `CNode.Delete`.
    fn delete(&mut self, slot: Slot) -> Result<(), Fault> {
        self.invoke(Label::CNodeDelete, slot.holder(), [slot.index().into(), 0, 0, 0, 0]).map(drop)
    }

    /// What a slot holds.
    ///
    /// # Errors
    /// As `CNode.Identify`: an empty slot is an error.
    fn identify(&mut self, slot: Slot) -> Result<Identity, Fault> {
        let [word, detail] = self.invoke(Label::CNodeIdentify, slot.holder(), [slot.index().into(), 0, 0, 0, 0])?;
        Ok(Identity {
            object: ObjectType::from_number(word & 0xff).unwrap_or(ObjectType::Null),
            bits: (word >> 8) as u8,
            has_children: word & 1 << 24 != 0,
            in_use: word & 1 << 25 != 0,
            detail,
        })
    }

    /// Makes a child of `source` in `to` with at most these rights.
    ///
    /// # Errors
    /// As `CNode.Copy`.
    fn copy(&mut self, to: Slot, source: Slot, rights: Rights) -> Result<(), Fault> {
        let arguments = [to.index().into(), source.raw(), rights.bits().into(), 0, 0];
        self.invoke(Label::CNodeCopy, to.holder(), arguments).map(drop)
    }

    /// Makes a capability to end `end` (1 or 2) of the channel whose original is `source`.
    ///
    /// # Errors
    /// As `CNode.Mint`.
    fn mint_end(&mut self, to: Slot, source: Slot, rights: Rights, end: u8) -> Result<(), Fault> {
        let arguments = [to.index().into(), source.raw(), rights.bits().into(), end.into(), 0];
        self.invoke(Label::CNodeMint, to.holder(), arguments).map(drop)
    }

    /// Moves a capability.
    ///
    /// # Errors
    /// As `CNode.Move`.
    fn move_to(&mut self, to: Slot, source: Slot) -> Result<(), Fault> {
        self.invoke(Label::CNodeMove, to.holder(), [to.index().into(), source.raw(), 0, 0, 0]).map(drop)
    }

    /// Maps a frame.
    ///
    /// # Errors
    /// As `Frame.Map`.
    fn map_frame(&mut self, frame: Slot, vm: Slot, gpa: u64, rights: Rights) -> Result<(), Fault> {
        self.invoke(Label::FrameMap, frame, [vm.raw(), gpa, rights.bits().into(), 0, 0]).map(drop)
    }

    /// Unmaps a frame.
    ///
    /// # Errors
    /// As `Frame.Unmap`.
    fn unmap_frame(&mut self, frame: Slot) -> Result<(), Fault> {
        self.invoke(Label::FrameUnmap, frame, [0; 5]).map(drop)
    }

    /// Puts a page table into a VM's tree.
    ///
    /// # Errors
    /// As `PageTable.Map`.
    fn map_table(&mut self, table: Slot, vm: Slot, gpa: u64, level: u16) -> Result<(), Fault> {
        self.invoke(Label::PageTableMap, table, [vm.raw(), gpa, level.into(), 0, 0]).map(drop)
    }

    /// Binds a channel's end to a receiver.
    ///
    /// # Errors
    /// As `Channel.Bind`.
    fn bind_channel(&mut self, end: Slot, vcpu: Slot, bits: u64) -> Result<(), Fault> {
        self.invoke(Label::ChannelBind, end, [vcpu.raw(), bits, 0, 0, 0]).map(drop)
    }

    /// Signals the other end.
    ///
    /// # Errors
    /// As `Channel.Signal`.
    fn signal(&mut self, end: Slot) -> Result<(), Fault> {
        self.invoke(Label::ChannelSignal, end, [0; 5]).map(drop)
    }

    /// Moves a capability into a channel for the other end to accept.
    ///
    /// # Errors
    /// As `Channel.Grant`.
    fn grant_moving(&mut self, end: Slot, source: Slot) -> Result<(), Fault> {
        let rights = Rights::all().bits().into();
        self.invoke(Label::ChannelGrant, end, [source.raw(), rights, 1, 0, 0]).map(drop)
    }

    /// Makes a child of an interrupt range that owns one route.
    ///
    /// # Errors
    /// As `Irq.Split`.
    fn split_irq(&mut self, irqs: Slot, route: u64, to: Slot) -> Result<(), Fault> {
        let arguments = [route, 1, to.holder().raw(), to.index().into(), 0];
        self.invoke(Label::IrqSplit, irqs, arguments).map(drop)
    }

    /// What a function is (vendor, device, class) and has (messages, virtual functions), as `PciFunction.GetInfo` tells it.
    ///
    /// # Errors
    /// As `PciFunction.GetInfo`.
    fn function_info(&mut self, function: Slot) -> Result<FunctionInfo, Fault> {
        let [identity, counts] = self.invoke(Label::PciFunctionGetInfo, function, [FUNCTION, 0, 0, 0, 0])?;
        let (vendor, device, class) = (identity as u16, (identity >> 16) as u16, (identity >> 32) as u32);
        Ok(FunctionInfo { vendor, device, class, vfs: (counts >> 16) as u16, requester: (counts >> 32) as u16 })
    }

    /// Makes a lease of a function.
    ///
    /// # Errors
    /// As `PciFunction.Lease`.
    fn lease_function(&mut self, function: Slot, to: Slot) -> Result<(), Fault> {
        self.invoke(Label::PciFunctionLease, function, [to.holder().raw(), to.index().into(), 0, 0, 0]).map(drop)
    }

    /// Derives frames of pages of a BAR, into consecutive slots from `first` on.
    ///
    /// # Errors
    /// As `PciFunction.GetBar`.
    fn bar_frames(&mut self, function: Slot, bar: u8, page: u64, first: Slot, count: u16) -> Result<(), Fault> {
        let arguments = [bar.into(), page, first.holder().raw(), first.index().into(), count.into()];
        self.invoke(Label::PciFunctionGetBar, function, arguments).map(drop)
    }

    /// Lets a function's DMA reach a domain.
    ///
    /// # Errors
    /// As `PciFunction.Attach`.
    fn attach_function(&mut self, function: Slot, domain: Slot) -> Result<(), Fault> {
        self.invoke(Label::PciFunctionAttach, function, [domain.raw(), 0, 0, 0, 0]).map(drop)
    }

    /// Detaches a function, unbinds its messages, and resets it.
    ///
    /// # Errors
    /// As `PciFunction.Reset`.
    fn reset_function(&mut self, function: Slot) -> Result<(), Fault> {
        self.invoke(Label::PciFunctionReset, function, [0; 5]).map(drop)
    }

    /// Lets a message of a function raise a route.
    ///
    /// # Errors
    /// As `PciFunction.BindMsix`.
    fn bind_message(&mut self, function: Slot, entry: u16, irq: Slot) -> Result<(), Fault> {
        self.invoke(Label::PciFunctionBindMsix, function, [entry.into(), irq.raw(), 0, 0, 0]).map(drop)
    }

    /// Lets the functions of a domain reach a frame.
    ///
    /// # Errors
    /// As `Frame.MapIo`.
    fn map_io(&mut self, frame: Slot, domain: Slot, address: u64, rights: Rights) -> Result<(), Fault> {
        self.invoke(Label::FrameMapIo, frame, [domain.raw(), address, rights.bits().into(), 0, 0]).map(drop)
    }

    /// Puts a page table into a domain's tree.
    ///
    /// # Errors
    /// As `PageTable.MapIo`.
    fn map_io_table(&mut self, table: Slot, domain: Slot, address: u64, level: u64) -> Result<(), Fault> {
        self.invoke(Label::PageTableMapIo, table, [domain.raw(), address, level, 0, 0]).map(drop)
    }

    /// Makes a capability that maps frames into a window of a domain, 2^`bits` bytes from `first` on, and does nothing else.
    ///
    /// # Errors
    /// As `CNode.Mint`.
    fn mint_window(&mut self, to: Slot, domain: Slot, first: u64, bits: u8) -> Result<(), Fault> {
        let arguments = [to.index().into(), domain.raw(), Rights::WRITE.bits().into(), first + u64::from(bits), 0];
        self.invoke(Label::CNodeMint, to.holder(), arguments).map(drop)
    }

    /// Makes virtual functions, in consecutive slots from `first` on.
    ///
    /// # Errors
    /// As `PciFunction.EnableVfs`.
    fn enable_vfs(&mut self, function: Slot, count: u16, first: Slot) -> Result<(), Fault> {
        let arguments = [count.into(), first.holder().raw(), first.index().into(), 0, 0];
        self.invoke(Label::PciFunctionEnableVfs, function, arguments).map(drop)
    }

    /// Makes a child reservation of a core's time.
    ///
    /// # Errors
    /// As `CpuTime.Split`.
    fn split_time(&mut self, parent: Slot, budget: u64, period: u64, to: Slot) -> Result<(), Fault> {
        let arguments = [budget, period, to.holder().raw(), to.index().into(), 0];
        self.invoke(Label::CpuTimeSplit, parent, arguments).map(drop)
    }

    /// Changes a reservation from its next period on.
    ///
    /// # Errors
    /// As `CpuTime.Resize`.
    fn resize_time(&mut self, time: Slot, budget: u64, period: u64) -> Result<(), Fault> {
        self.invoke(Label::CpuTimeResize, time, [budget, period, 0, 0, 0]).map(drop)
    }
}

impl<M: Machine + ?Sized> Invoke for M {}
