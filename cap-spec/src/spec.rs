//! Every invocation as data: arguments, results, possible errors and meaning. The kernel has no use for this; the
//! documentation, the lock-step generator and the tests of every (label, error) come from it.

use crate::abi::{Error, Label, ObjectType, Rights};

/// What an argument of an invocation is. The kind implies the errors that checking it can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgKind {
    /// A number; its range is in the argument's text. Error: `OutOfRange`.
    Number,
    /// A capability of this type in the invoker's CSpace with at least these rights.
    /// Errors: `InvalidCapability`, `WrongType`, `MissingRight`.
    Capability(ObjectType, Rights),
    /// A capability of any type in the invoker's CSpace. Error: `InvalidCapability`.
    AnyCapability,
    /// The index of an empty slot in the CNode that is the argument before (or the invoked CNode).
    /// Errors: `OutOfRange`, `SlotOccupied`.
    EmptySlot,
    /// The index of a full slot of the invoked CNode. Errors: `OutOfRange`, `SlotEmpty`.
    FullSlot,
}

/// One argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgSpec {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: ArgKind,
    /// Its meaning, unit and range.
    pub doc: &'static str,
}

impl ArgKind {
    /// The errors that checking such an argument can give, in the order in which they are looked for.
    pub const fn errors(self) -> &'static [Error] {
        match self {
            ArgKind::Number => &[Error::OutOfRange],
            ArgKind::Capability(_, rights) if rights.is_empty() => &[Error::InvalidCapability, Error::WrongType],
            ArgKind::Capability(..) => &[Error::InvalidCapability, Error::WrongType, Error::MissingRight],
            ArgKind::AnyCapability => &[Error::InvalidCapability],
            ArgKind::EmptySlot => &[Error::OutOfRange, Error::SlotOccupied],
            ArgKind::FullSlot => &[Error::OutOfRange, Error::SlotEmpty],
        }
    }
}

/// One invocation.
#[derive(Clone, Copy, Debug)]
pub struct LabelSpec {
    /// Its number and identifier; type and rights of the invoked capability are the label's own.
    pub label: Label,
    /// Name within the object, as documents write it.
    pub name: &'static str,
    /// The arguments, at most five.
    pub args: &'static [ArgSpec],
    /// Meaning of the two results, empty where there is none.
    pub results: &'static [&'static str],
    /// Errors beyond those that the kinds of the arguments imply, in the order in which they are looked for.
    pub errors: &'static [Error],
    /// What it does.
    pub doc: &'static str,
}

impl LabelSpec {
    /// True if this invocation can be refused with `error`: because of the invoked capability, an argument or the state.
    pub fn can_fail_with(&self, error: Error) -> bool {
        let of_invoked = match error {
            Error::InvalidCapability => true,
            // `Nop` is for every type.
            Error::InvalidLabel => self.label.object() as u8 != ObjectType::Null as u8,
            Error::MissingRight => !self.label.rights().is_empty(),
            _ => false,
        };
        of_invoked || self.errors.contains(&error) || self.args.iter().any(|arg| arg.kind.errors().contains(&error))
    }
}

const fn num(name: &'static str, doc: &'static str) -> ArgSpec {
    ArgSpec { name, kind: ArgKind::Number, doc }
}
const fn cap(name: &'static str, ty: ObjectType, rights: Rights, doc: &'static str) -> ArgSpec {
    ArgSpec { name, kind: ArgKind::Capability(ty, rights), doc }
}
const fn any(name: &'static str, doc: &'static str) -> ArgSpec {
    ArgSpec { name, kind: ArgKind::AnyCapability, doc }
}
const fn empty(name: &'static str) -> ArgSpec {
    ArgSpec { name, kind: ArgKind::EmptySlot, doc: "an empty slot" }
}
const fn full(name: &'static str) -> ArgSpec {
    ArgSpec { name, kind: ArgKind::FullSlot, doc: "a full slot" }
}

const NONE: Rights = Rights::empty();
const R: Rights = Rights::READ;
const W: Rights = Rights::WRITE;
const MORE: ArgSpec = num("more", "0..=63 further Frames, in the slots behind the invoked one");
const CONTROL: Rights = Rights::CONTROL;
const DEST: ArgSpec = cap("cnode", ObjectType::CNode, W, "the CNode that takes the new capability");

macro_rules! specs {
    ($($label:ident . $name:literal :
       args [$($arg:expr),*] results [$($result:literal),*] errors [$($error:ident),*] $doc:literal)*) => {
        /// Every invocation, in the order of its number.
        pub const LABELS: &[LabelSpec] = &[$(LabelSpec {
            label: Label::$label,
            name: $name,
            args: &[$($arg),*],
            results: &[$($result),*],
            errors: &[$(Error::$error),*],
            doc: $doc,
        }),*];
    };
}

specs! {
    Nop."Nop": args [] results [] errors []
    "Does nothing; succeeds on any capability. What entering the kernel costs."

    UntypedRetype."Retype": args [num("type", "number of an ObjectType that is made from Untyped"),
          num("size_bits", "log2 bytes (Untyped 12..=47, Frame 12, 21, 30), log2 slots (CNode 6..=16), else 0"),
          DEST, empty("index"), num("count", "1..=64 objects, into consecutive slots from index")]
    results [] errors [NotEnoughMemory, DeviceMemory, TooDeep]
    "Makes objects at the watermark, each at its natural alignment, and the original capability of each, a child of the Untyped."

    CNodeCopy."Copy": args [empty("index"), any("source", "what to copy"), num("rights", "mask of rights to keep")]
    results [] errors [NotCopyable, TooDeep]
    "Makes a child of the source with at most its rights; a Frame's copy is unmapped."

    CNodeMint."Mint": args [empty("index"), any("source", "what to copy"), num("rights", "mask of rights to keep"),
          num("badge", "for a Channel with CONTROL: the end, 1 or 2; for an IommuDomain: a window, its first address + log2 of its bytes (12..=39), aligned to that and within the source's; 0 for every other type")]
    results [] errors [NotCopyable, TooDeep]
    "Copy, and for a Channel choice of the end, for an IommuDomain of the window, that the new capability speaks for."

    CNodeMove."Move": args [empty("index"), any("source", "what to move; its slot must be in a CNode reached with WRITE")]
    results [] errors [MissingRight, InUse]
    "Moves a capability with its place in the derivation."

    CNodeDelete."Delete": args [full("index")] results [] errors [InUse]
    "Removes a capability. An original goes with its descendants and its object; the children of a copy become its parent's."

    CNodeRevoke."Revoke": args [full("index")]
    results ["Untyped: bytes at its start that stay out of use, as an IOMMU that has failed may reach them; else 0"] errors []
    "Removes every descendant. An Untyped is then scrubbed and its watermark returns to 0: it can be retyped anew."

    CNodeIdentify."Identify": args [full("index")]
    results ["type | size_bits << 8 | rights << 16 | has children << 24 | mapped or bound << 25",
             "Untyped: bytes left; CpuTime: budget in ticks; CNode: slots; Irq, IoPort: first | count << 32; else 0"]
    errors []
    "Says what a slot holds. No address of the machine is told."

    FrameMap."Map": args [cap("vm", ObjectType::Vm, W, "the address space"), num("gpa", "guest-physical address, aligned to the frame"),
          num("rights", "READ, WRITE, EXECUTE wanted; must include READ and be within the capability's"), MORE]
    results [] errors [Misaligned, WrongType, MissingRight, InUse, NoPageTable, AddressOccupied]
    "Maps the frame, and further ones of its size behind it under the same table. One mapping per capability."

    FrameUnmap."Unmap": args [MORE] results [] errors [WrongType, NotMapped]
    "Takes the mapping back, and those of further frames, which are mapped in the same address space; when it returns nobody can reach a frame by it."

    PageTableMap."Map": args [cap("vm", ObjectType::Vm, W, "the address space"), num("gpa", "any address that the table shall cover"),
          num("level", "1 maps 4 KiB pages, 2 holds tables of level 1 or 2 MiB pages, 3 holds tables of level 2 or 1 GiB pages")]
    results [] errors [InUse, NoPageTable, AddressOccupied]
    "Puts a table into the tree; the level above must be there."

    PageTableUnmap."Unmap": args [] results [] errors [NotMapped]
    "Takes the table out of the tree and empties it."

    VmSetCSpace."SetCSpace": args [cap("root", ObjectType::CNode, R.union(W), "the root CNode; must be an original")]
    results [] errors [WrongPhase]
    "Gives the VM its CSpace, once, before it is launched."

    VmGetPage."GetPage": args [DEST, empty("index")] results [] errors [TooDeep]
    "Derives a read-only Frame capability to the VM's statistics page."

    VcpuAttach."Attach": args [cap("vm", ObjectType::Vm, W, "the VM that it will run in"),
          num("rip", "where it begins; must be legal for that register"), num("cr3", "must be legal for that register"),
          num("rsp", "any")]
    results [] errors [Misaligned, InUse]
    "Makes it a virtual processor of the VM, in 64-bit mode, paging on, interrupts off, stopped, without upcalls; the other registers are zero."

    VcpuSetRegister."SetRegister": args [num("register", "number of a Register"), num("value", "must be legal for that register")]
    results [] errors [Misaligned, NotConfigured, Running, Busy]
    "Sets a register of a stopped Vcpu."

    VcpuGetRegister."GetRegister": args [num("register", "number of a Register")]
    results ["value"] errors [NotConfigured, Running, Busy]
    "Reads a register of a stopped Vcpu."

    VcpuBindTime."BindTime": args [cap("time", ObjectType::CpuTime, NONE, "a reservation that is neither bound nor split")]
    results [] errors [InUse, NotConfigured, Running, Busy]
    "Gives it CPU time: it runs on that core, for that budget in every period."

    VcpuUnbindTime."UnbindTime": args [] results [] errors [NotConfigured, Running]
    "Takes its CPU time off a stopped Vcpu."

    VcpuSetUpcall."SetUpcall": args [num("fault", "vector 32..=255 for nested page faults, 0 for none"),
          num("event", "vector 32..=255 for events while it runs, 0 for none")]
    results [] errors [NotConfigured]
    "Chooses the vectors by which the kernel tells the VM of faults and events."

    VcpuSetHandler."SetHandler": args [cap("channel", ObjectType::Channel, NONE, "an end; the kernel signals its peer when the Vcpu stops by itself")]
    results [] errors [NotConfigured, WrongPhase]
    "Names who is told when an exit can't be settled: the receiver of the channel's other end."

    VcpuLaunch."Launch": args [cap("base", ObjectType::Untyped, NONE, "the VM's base, which lies in the VM's own CSpace; named in the *VM's* CSpace"),
          empty("index")]
    results [] errors [NotConfigured, NotConfined, WrongPhase]
    "Starts a VM for the first time: checks that it is confined to its base, moves the invoked capability into slot `index` of its root CNode, and starts it."

    VcpuStart."Start": args [] results [] errors [NotConfigured, WrongPhase, Running]
    "Starts a stopped Vcpu of a launched VM."

    VcpuStop."Stop": args [] results [] errors [NotConfigured]
    "Stops it; when it returns no core runs it."

    VcpuGetPage."GetPage": args [num("page", "0 the info page (READ, and WRITE if the capability has it), 1 the handler page (READ)"), DEST, empty("index")]
    results [] errors [TooDeep]
    "Derives a Frame capability to a page that the kernel writes."

    VcpuSignal."Signal": args [num("bits", "event bits, not 0")] results [] errors [NotConfigured]
    "Sets bits in its event word and wakes it: an inter-processor interrupt between Vcpus of a VM."

    VcpuWait."Wait": args [num("mask", "event bits to wait for, not 0"), num("deadline", "TSC value at which to return anyway, 0 for never")]
    results ["events taken"] errors [Forbidden]
    "On the invoker's own Vcpu: takes the masked events, giving the core up until there are some."

    CpuTimeSplit."Split": args [num("budget", "ticks per period"), num("period", "ticks; at most 128 times the budget and two switches"), DEST, empty("index")]
    results [] errors [InUse, NotAdmitted, TooDeep]
    "Makes a child reservation; the parent can't use what the child has."

    CpuTimeResize."Resize": args [num("budget", "ticks per period"), num("period", "ticks; at most 128 times the budget and two switches")]
    results [] errors [InUse, NotAdmitted]
    "Changes a reservation from its next period on, taking from and giving to its parent. What it gives back can be sold from its next period boundary on."

    ChannelBind."Bind": args [cap("vcpu", ObjectType::Vcpu, W, "who receives at this end"), num("bits", "event bits that a signal sets")]
    results [] errors [InUse]
    "Chooses the receiver of this end."

    ChannelSignal."Signal": args [] results [] errors [NoReceiver]
    "Sets the other end's bits in its receiver's event word and wakes it."

    ChannelWait."SignalWait": args [num("mask", "event bits to wait for, not 0"), num("deadline", "TSC value at which to return anyway, 0 for never")]
    results ["events taken"] errors [NoReceiver]
    "Signal, then Wait, as one invocation."

    ChannelGrant."Grant": args [any("source", "what to hand over"), num("rights", "mask of rights to keep"), num("move", "0 derive a child, 1 move")]
    results [] errors [MissingRight, ChannelFull, InUse, NotCopyable, TooDeep]
    "Puts a capability into the channel, for the other end to accept."

    ChannelAccept."Accept": args [DEST, empty("index")] results [] errors [ChannelEmpty]
    "Takes the capability that is in flight towards this end."

    IrqSplit."Split": args [num("first", "a route within the range"), num("count", "1 or more routes within the range"), DEST, empty("index")]
    results [] errors [InUse, TooDeep]
    "Makes a child that owns part of the routes; the parent can't use them while the child lives."

    IrqBind."Bind": args [cap("vcpu", ObjectType::Vcpu, W, "who takes the interrupt; must have CPU time"), num("vector", "32..=255")]
    results [] errors [InUse, NotConfigured, Forbidden]
    "Routes the interrupt (of a range of one) to a Vcpu on its core, as that vector, with no exit while it runs. A Vcpu takes 8 at most. Wakes it if it sleeps."

    IrqUnbind."Unbind": args [] results [] errors [NotMapped]
    "Masks the route and takes it off its Vcpu."

    IoPortSplit."Split": args [num("first", "a port within the range"), num("count", "1 or more ports within the range"), DEST, empty("index")]
    results [] errors [InUse, Forbidden, TooDeep]
    "Makes a child that owns part of the ports; the parent can't use them while the child lives."

    IoPortIn."In": args [num("port", "within the range"), num("width", "1, 2 or 4 bytes")]
    results ["value"] errors [InUse, Forbidden]
    "Reads a port."

    IoPortOut."Out": args [num("port", "within the range"), num("width", "1, 2 or 4 bytes"), num("value", "fits the width")]
    results [] errors [InUse, Forbidden]
    "Writes a port."

    IoPortOutBytes."OutBytes": args [num("port", "within the range"), num("count", "1..=16 bytes"), num("low", "bytes 0 to 7"), num("high", "bytes 8 to 15")]
    results [] errors [InUse, Forbidden]
    "Writes several bytes to one port, one after the other: fills a UART's FIFO with one invocation."

    MachineReset."Reset": args [] results [] errors []
    "Resets the machine."

    MachineGetPage."GetPage": args [DEST, empty("index")] results [] errors [TooDeep]
    "Derives a read-only Frame capability to the global statistics page."

    FrameMapIo."MapIo": args [cap("domain", ObjectType::IommuDomain, W, "the domain"), num("address", "I/O address, aligned to the frame, within the capability's window"),
          num("rights", "READ, WRITE wanted, at least one; must be within the capability's"), MORE]
    results [] errors [Misaligned, WrongType, MissingRight, DeviceMemory, Forbidden, InUse, NoPageTable, AddressOccupied]
    "Lets the functions of a domain reach the frame, and further ones of its size behind it under the same table, by DMA. Frame.Unmap takes it back."

    PageTableMapIo."MapIo": args [cap("domain", ObjectType::IommuDomain, W, "the domain"), num("address", "any address that the table shall cover; what it covers lies within the capability's window"),
          num("level", "1 maps 4 KiB pages, 2 holds tables of level 1 or 2 MiB pages")]
    results [] errors [InUse, NoPageTable, AddressOccupied]
    "Puts a table into the tree of a domain; the level above must be there."

    PciFunctionLease."Lease": args [DEST, empty("index")] results [] errors [InUse, TooDeep]
    "Makes a child that speaks for the same function; the parent can't use the function while the child lives. It must be detached, without messages bound, and without Frames of its registers."

    PciFunctionEnableVfs."EnableVfs": args [num("count", "1..=64 and at most what the device has"), DEST, empty("index")]
    results [] errors [SlotOccupied, InUse, Busy, TooDeep]
    "Makes all its virtual functions at once: capabilities, its children, in consecutive slots from index. When the last of them is gone they are disabled."

    PciFunctionGetBar."GetBar": args [num("bar", "0..=5"), num("page", "a 4 KiB page of it"), DEST, empty("index"), num("count", "1..=64 consecutive pages")]
    results [] errors [SlotOccupied, Forbidden, InUse, Busy, TooDeep]
    "Derives Frame capabilities to pages of device registers. Pages with MSI-X tables or pending bits are never handed out."

    PciFunctionGetInfo."GetInfo": args [num("what", "0..=5 a BAR, 6 the function")]
    results ["BAR: its pages. Function: vendor | device << 16 | class << 32", "BAR: 0. Function: MSI-X entries | virtual functions that it can have << 16 | requester id << 32"]
    errors [Busy]
    "Says what the function has. No address of the machine is told."

    PciFunctionReadConfig."ReadConfig": args [num("offset", "0..=4092, a multiple of 4")] results ["value"] errors [Misaligned, InUse, Busy]
    "Reads a double word of configuration space; addresses of the machine read as 0."

    PciFunctionWriteConfig."WriteConfig": args [num("offset", "0..=4092, a multiple of 4"), num("value", "32 bits")]
    results [] errors [Misaligned, InUse, Busy, Forbidden]
    "Writes those bits of a double word of configuration space that concern nobody else."

    PciFunctionAttach."Attach": args [cap("domain", ObjectType::IommuDomain, CONTROL, "the domain")]
    results [] errors [InUse, Forbidden, Busy]
    "Makes the function a bus master whose DMA reaches what is mapped in the domain, and nothing else."

    PciFunctionDetach."Detach": args [] results [] errors [NotMapped]
    "Ends its bus mastering; when it returns its DMA reaches nothing."

    PciFunctionBindMsix."BindMsix": args [num("entry", "of its MSI-X table"), cap("irq", ObjectType::Irq, NONE, "a range of one")]
    results [] errors [OutOfRange, InUse, Forbidden, Busy]
    "Lets a message of the function raise the interrupt route. Wakes the Vcpu that takes the route if it sleeps."

    PciFunctionUnbindMsix."UnbindMsix": args [num("entry", "of its MSI-X table")] results [] errors [NotMapped]
    "Masks the message for good."

    PciFunctionReset."Reset": args [] results [] errors [InUse, Busy]
    "Detaches it, unbinds its messages, and resets it (FLR); Busy answers until it has come out of the reset."

    IommuDomainSetHandler."SetHandler": args [cap("channel", ObjectType::Channel, W, "an end that tells of nothing else, and whose peer the kernel signals when the IOMMU has stopped a function of the domain; or 0: nobody is told")]
    results [] errors [InUse, Forbidden]
    "By a capability for the whole domain. Names who is told of DMA and interrupt messages that were stopped."

    IommuDomainGetFault."GetFault": args []
    results ["what: 0 no record, 1 a read, 2 a write, 3 an interrupt message | reason << 2 | I/O address of the page, or entry << 12",
             "requester id | records lost so far << 32"]
    errors [Forbidden]
    "By a capability for the whole domain. Takes the oldest of the records of what functions of the domain were stopped from. 8 are kept, and later ones are lost, until they are taken."

    MachineSetHandler."SetHandler": args [cap("channel", ObjectType::Channel, W, "an end that tells of nothing else, and whose peer the kernel signals when the IOMMU has stopped any function; or 0: nobody is told")]
    results [] errors [InUse]
    "Names who is told of DMA and interrupt messages that were stopped, whoever has the function; those of functions that have no domain are told to nobody else."

    MachineGetFault."GetFault": args []
    results ["as IommuDomain.GetFault", "requester id | records lost so far << 32, by the IOMMU itself, too"]
    errors []
    "Takes the oldest of the records of what any function was stopped from. 8 are kept, and later ones are lost, until they are taken."
}

const _: () = {
    assert!(LABELS.len() == Label::COUNT, "every label is specified");
    let mut number = 0;
    while number < LABELS.len() {
        assert!(LABELS[number].label as usize == number, "in the order of the numbers");
        number += 1;
    }
};

impl Label {
    /// What is specified of this label.
    pub const fn spec(self) -> &'static LabelSpec {
        &LABELS[self as usize]
    }
}
