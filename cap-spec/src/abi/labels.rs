//! The operations of `invoke`: their numbers, and what the kernel checks of every one before it looks at arguments. What
//! each takes and means, and how it can fail, is [`crate::spec`].

use super::objects::{ObjectType, Rights};

const NONE: Rights = Rights::empty();
const READ: Rights = Rights::READ;
const WRITE: Rights = Rights::WRITE;
const GRANT: Rights = Rights::GRANT;
const CONTROL: Rights = Rights::CONTROL;

macro_rules! labels {
    ($($number:literal $label:ident of $object:ident needs $rights:ident),* $(,)?) => {
        /// The operations of `invoke`. The numbers are the ABI.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Label { $(#[doc = concat!("An invocation of ", stringify!($object), ".")] $label = $number),* }

        /// By label: the type that the invoked capability must have (`Null`: any), and the rights.
        const NEEDS: [(ObjectType, Rights); Label::COUNT] = [$((ObjectType::$object, $rights)),*];

        impl Label {
            /// How many labels there are.
            pub const COUNT: usize = [$($number),*].len();

            /// The label with this number.
            pub const fn from_number(number: u64) -> Option<Label> {
                match number { $($number => Some(Label::$label),)* _ => None }
            }

            /// The type that the invoked capability must have; `Null` means any type.
            #[inline]
            pub const fn object(self) -> ObjectType {
                NEEDS[self as usize].0
            }

            /// Rights that the invoked capability must have.
            #[inline]
            pub const fn rights(self) -> Rights {
                NEEDS[self as usize].1
            }
        }
    };
}

labels! {
    0 Nop of Null needs NONE,
    1 UntypedRetype of Untyped needs NONE,
    2 CNodeCopy of CNode needs WRITE,
    3 CNodeMint of CNode needs WRITE,
    4 CNodeMove of CNode needs WRITE,
    5 CNodeDelete of CNode needs WRITE,
    6 CNodeRevoke of CNode needs WRITE,
    7 CNodeIdentify of CNode needs READ,
    8 FrameMap of Frame needs NONE,
    9 FrameUnmap of Frame needs NONE,
    10 PageTableMap of PageTable needs NONE,
    11 PageTableUnmap of PageTable needs NONE,
    12 VmSetCSpace of Vm needs WRITE,
    13 VmGetPage of Vm needs READ,
    14 VcpuAttach of Vcpu needs WRITE,
    15 VcpuSetRegister of Vcpu needs WRITE,
    16 VcpuGetRegister of Vcpu needs READ,
    17 VcpuBindTime of Vcpu needs WRITE,
    18 VcpuUnbindTime of Vcpu needs WRITE,
    19 VcpuSetUpcall of Vcpu needs WRITE,
    20 VcpuSetHandler of Vcpu needs WRITE,
    21 VcpuLaunch of Vcpu needs WRITE,
    22 VcpuStart of Vcpu needs WRITE,
    23 VcpuStop of Vcpu needs WRITE,
    24 VcpuGetPage of Vcpu needs READ,
    25 VcpuSignal of Vcpu needs WRITE,
    26 VcpuWait of Vcpu needs WRITE,
    27 CpuTimeSplit of CpuTime needs NONE,
    28 CpuTimeResize of CpuTime needs CONTROL,
    29 ChannelBind of Channel needs CONTROL,
    30 ChannelSignal of Channel needs WRITE,
    31 ChannelWait of Channel needs WRITE,
    32 ChannelGrant of Channel needs GRANT,
    33 ChannelAccept of Channel needs READ,
    34 IrqSplit of Irq needs NONE,
    35 IrqBind of Irq needs NONE,
    36 IrqUnbind of Irq needs NONE,
    37 IoPortSplit of IoPort needs NONE,
    38 IoPortIn of IoPort needs READ,
    39 IoPortOut of IoPort needs WRITE,
    40 IoPortOutBytes of IoPort needs WRITE,
    41 MachineReset of Machine needs WRITE,
    42 MachineGetPage of Machine needs READ,
    43 FrameMapIo of Frame needs NONE,
    44 PageTableMapIo of PageTable needs NONE,
    45 PciFunctionLease of PciFunction needs NONE,
    46 PciFunctionEnableVfs of PciFunction needs NONE,
    47 PciFunctionGetBar of PciFunction needs NONE,
    48 PciFunctionGetInfo of PciFunction needs NONE,
    49 PciFunctionReadConfig of PciFunction needs NONE,
    50 PciFunctionWriteConfig of PciFunction needs NONE,
    51 PciFunctionAttach of PciFunction needs NONE,
    52 PciFunctionDetach of PciFunction needs NONE,
    53 PciFunctionBindMsix of PciFunction needs NONE,
    54 PciFunctionUnbindMsix of PciFunction needs NONE,
    55 PciFunctionReset of PciFunction needs NONE,
    56 IommuDomainSetHandler of IommuDomain needs CONTROL,
    57 IommuDomainGetFault of IommuDomain needs CONTROL,
    58 MachineSetHandler of Machine needs CONTROL,
    59 MachineGetFault of Machine needs CONTROL,
}
