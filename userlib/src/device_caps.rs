//! The invocations of functions of devices and of the domains that their DMA reaches: more of [`crate::cap`].

use crate::cap::{
    CNode, Cap, Channel, Fault, Frame, IommuDomain, Irq, Label, Machine, PageTable, PciFunction, Rights, Slot,
};
use crate::invoke::invoke;
use cap_spec::abi::FaultRecord;

/// What a function is and has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionInfo {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Class code: base class in bits 16 to 23, subclass, programming interface.
    pub class: u32,
    /// Entries of its MSI-X table.
    pub messages: u16,
    /// Virtual functions that it can have.
    pub vfs: u16,
    /// Its requester id, by which a [`FaultRecord`] names it.
    pub requester: u16,
}

/// What was stopped: the oldest record that nobody has taken yet, and how many were lost so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The record, if there is one.
    pub record: Option<FaultRecord>,
    /// Records that there was no room for, since the domain was made or the machine was started.
    pub lost: u32,
}

macro_rules! tells_faults {
    ($object:ident, $handler:ident, $take:ident, $whose:literal) => {
        impl Cap<$object> {
            #[doc = concat!("Names who is told when the IOMMU has stopped ", $whose, ": the receiver at the other end of the channel, which tells of nothing else. `", stringify!($object), ".SetHandler`.")]
            pub fn set_handler(self, channel: Cap<Channel>) -> Result<(), Fault> {
                self.call(Label::$handler, [channel.cptr(), 0, 0, 0, 0])
            }

            #[doc = concat!("Takes the oldest record of what was stopped, of ", $whose, ". `", stringify!($object), ".GetFault`.")]
            pub fn take_fault(self) -> Result<Taken, Fault> {
                let (what, who) = invoke(self.cptr(), Label::$take, [0; 5])?;
                Ok(Taken { record: FaultRecord::from_words([what, who]), lost: (who >> 32) as u32 })
            }
        }
    };
}

tells_faults!(IommuDomain, IommuDomainSetHandler, IommuDomainGetFault, "a function that is attached to the domain");
tells_faults!(Machine, MachineSetHandler, MachineGetFault, "any function");

impl Cap<Frame> {
    /// Lets the functions of a domain reach it at an I/O address, and `more` (at most 63) frames of its size from the slots
    /// behind it, one behind the other and under one table. `Frame.MapIo`.
    pub fn map_io(self, domain: Cap<IommuDomain>, address: u64, rights: Rights, more: u64) -> Result<(), Fault> {
        self.call(Label::FrameMapIo, [domain.cptr(), address, u64::from(rights.bits()), more, 0])
    }
}

impl Cap<PageTable> {
    /// Puts it into the tree of a domain, as a table of level 1 or 2. `PageTable.MapIo`.
    pub fn map_io(self, domain: Cap<IommuDomain>, address: u64, level: u8) -> Result<(), Fault> {
        self.call(Label::PageTableMapIo, [domain.cptr(), address, u64::from(level), 0, 0])
    }
}

impl Slot {
    /// Puts a capability here that speaks for a part of the I/O addresses of a domain only: 2^`bits` bytes (12 to 39) from
    /// `first` on, which is aligned to that. `CNode.Mint`.
    pub fn window(
        self,
        source: Cap<IommuDomain>,
        rights: Rights,
        first: u64,
        bits: u8,
    ) -> Result<Cap<IommuDomain>, Fault> {
        self.mint(source, rights, first + u64::from(bits))
    }
}

impl Cap<PciFunction> {
    /// What it is and has. `PciFunction.GetInfo`.
    pub fn info(self) -> Result<FunctionInfo, Fault> {
        let (identity, counts) = invoke(self.cptr(), Label::PciFunctionGetInfo, [6, 0, 0, 0, 0])?;
        Ok(FunctionInfo {
            vendor: identity as u16,
            device: (identity >> 16) as u16,
            class: (identity >> 32) as u32,
            messages: counts as u16,
            vfs: (counts >> 16) as u16,
            requester: (counts >> 32) as u16,
        })
    }

    /// How many pages a BAR (0 to 5) has; 0: there is no such BAR. `PciFunction.GetInfo`.
    pub fn bar_pages(self, bar: u8) -> Result<u64, Fault> {
        invoke(self.cptr(), Label::PciFunctionGetInfo, [bar.into(), 0, 0, 0, 0]).map(|(pages, _)| pages)
    }

    /// Capabilities to `count` (1 to 64) pages of a BAR, into consecutive slots. `PciFunction.GetBar`.
    pub fn bar(self, bar: u8, page: u64, first: Slot, count: u64) -> Result<Cap<Frame>, Fault> {
        let cnode: Cap<CNode> = first.cnode();
        let args = [bar.into(), page, cnode.cptr(), first.number(), count];
        self.call(Label::PciFunctionGetBar, args).map(|()| first.cap())
    }

    /// A child that speaks for the same function. `PciFunction.Lease`.
    pub fn lease(self, to: Slot) -> Result<Cap<PciFunction>, Fault> {
        self.call(Label::PciFunctionLease, [to.cnode().cptr(), to.number(), 0, 0, 0]).map(|()| to.cap())
    }

    /// Makes `count` virtual functions, into consecutive slots. `PciFunction.EnableVfs`.
    pub fn enable_vfs(self, count: u16, first: Slot) -> Result<(), Fault> {
        self.call(Label::PciFunctionEnableVfs, [count.into(), first.cnode().cptr(), first.number(), 0, 0])
    }

    /// A double word of configuration space. `PciFunction.ReadConfig`.
    pub fn read_config(self, offset: u16) -> Result<u32, Fault> {
        let read = invoke(self.cptr(), Label::PciFunctionReadConfig, [offset.into(), 0, 0, 0, 0]);
        read.map(|(value, _)| value as u32)
    }

    /// Writes those bits of a double word of configuration space that it may. `PciFunction.WriteConfig`.
    pub fn write_config(self, offset: u16, value: u32) -> Result<(), Fault> {
        self.call(Label::PciFunctionWriteConfig, [offset.into(), value.into(), 0, 0, 0])
    }

    /// Makes it a bus master whose DMA reaches a domain. `PciFunction.Attach`.
    pub fn attach(self, domain: Cap<IommuDomain>) -> Result<(), Fault> {
        self.call(Label::PciFunctionAttach, [domain.cptr(), 0, 0, 0, 0])
    }

    /// Ends its bus mastering. `PciFunction.Detach`.
    pub fn detach(self) -> Result<(), Fault> {
        self.call(Label::PciFunctionDetach, [0; 5])
    }

    /// Lets a message raise an interrupt route. `PciFunction.BindMsix`.
    pub fn bind_msix(self, entry: u16, irq: Cap<Irq>) -> Result<(), Fault> {
        self.call(Label::PciFunctionBindMsix, [entry.into(), irq.cptr(), 0, 0, 0])
    }

    /// Masks a message for good. `PciFunction.UnbindMsix`.
    pub fn unbind_msix(self, entry: u16) -> Result<(), Fault> {
        self.call(Label::PciFunctionUnbindMsix, [entry.into(), 0, 0, 0, 0])
    }

    /// Detaches it, unbinds its messages, and resets it; it is `Busy` until that is over. `PciFunction.Reset`.
    pub fn reset(self) -> Result<(), Fault> {
        self.call(Label::PciFunctionReset, [0; 5])
    }
}
