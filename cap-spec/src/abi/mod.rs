//! The application binary interface, version [`VERSION`].
//!
//! A guest executes VMMCALL (AMD) or VMCALL (Intel) at CPL 0 with
//! `rax` = label, `rdi` = capability pointer, `rsi rdx r10 r8 r9` = arguments 1 to 5.
//! On return `rax` = [`Status`], `rsi` and `rdx` = results; every other register is as it was.
//! The kernel reads registers only: no invocation makes it read guest memory.

mod errors;
mod fault_record;
mod labels;
mod layout;
mod objects;

pub use errors::{Error, Fault, Status};
pub use fault_record::{FAULTS_KEPT, FaultRecord, Stopped};
pub use labels::Label;
pub use layout::*;
pub use objects::{
    CHANNEL_BITS, CptrParts, DOMAIN_BITS, IO_ADDRESS_BITS, ObjectType, PAGE_BITS, Rights, SLOT_BITS, VCPU_BITS,
    VCPU_ROUTES, VM_BITS,
};

/// Version of this interface; `BootInfo` and every info page carry it.
pub const VERSION: u32 = 2;
