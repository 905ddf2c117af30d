//! The abstract machine: what every invocation does, written to be read, and executable.
//!
//! [`State`] is all there is: capability slots with their derivation, objects, page tables, bindings, run states.
//! [`step`] is one invocation: it either refuses with a [`Fault`] and changes nothing, or it happens as a whole. The
//! kernel's preemptible operations (Delete, Revoke, Launch) refine one atomic step of this machine. There is a chapter for each
//! object, which opens with its rules in words; the lock-step test holds the kernel to them, answer by answer.
//!
//! # Order of checks
//! Which error a bad invocation gets is part of the interface. The checks are made in this order, the first that fails
//! answers:
//! 1. The invoked capability is found in the invoker's CSpace (`InvalidCapability`).
//! 2. The label exists and belongs to its type (`InvalidLabel`).
//! 3. It has the rights that the label needs (`MissingRight`).
//! 4. The arguments 1 to 5 in order, each wholly before the next: a number's range (`OutOfRange`), then its alignment
//!    (`Misaligned`); a capability's existence (`InvalidCapability`), type (`WrongType`), rights (`MissingRight`); a
//!    slot's range (`OutOfRange`), then whether it is empty (`SlotOccupied`) or full (`SlotEmpty`). Arguments that a
//!    label does not have are ignored.
//! 5. The state, in the order in which [`LABELS`](crate::spec::LABELS) lists the errors.
//!
//! A fault names the argument that is to blame; where the state is to blame it names the invoked capability (0), unless
//! the chapter says otherwise. Three labels depart from the order, and their chapters say why: `Vcpu.Launch`, `Irq.Bind`
//! and `Channel.Grant` by move.

mod address_space;
pub mod authority;
mod channel;
mod cnode;
mod cpu_time;
mod derivation;
mod dying;
pub mod edf;
mod faults;
pub mod fine;
mod frame;
pub mod interference;
pub mod invariants;
mod iommu_domain;
mod ioport;
mod irq;
mod launch;
mod lookup;
mod machine_object;
mod page_table;
mod pci_function;
mod state;
mod untyped;
mod vcpu;
mod vm;

pub use address_space::mappings;
pub use channel::in_flight_slot;
pub use cpu_time::share;
pub use dying::{Dying, Zombie, home};
pub use faults::report;
pub use ioport::NEVER_HANDED_OUT;
pub use launch::{RING_WINDOW, foreign_parts};
pub use state::*;
pub use vcpu::{expire, initial_registers, interrupt, start_root, stop_by_itself};

use crate::abi::{Error, Fault, Label, ObjectType};
use lookup::Invoked;

/// Depth of derivation: no capability lies this many steps below a boot capability.
pub const MAX_DEPTH: u8 = 32;
/// Vcpus that may be bound to the time of one core.
pub const MAX_RESERVATIONS: usize = 128;
/// Parts that an `Irq` or an `IoPort` range may be split into directly.
pub const MAX_SPLITS: usize = 64;

/// One invocation as the registers hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    /// Capability pointer of the invoked capability (`rdi`).
    pub cptr: u64,
    /// Label (`rax`).
    pub label: u64,
    /// Arguments 1 to 5 (`rsi`, `rdx`, `r10`, `r8`, `r9`).
    pub args: [u64; 5],
}

/// What an invocation that was not refused gives its invoker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It is done, with these results.
    Done([u64; 2]),
    /// The invoker sleeps; [`State::completions`] or [`expire`] will tell its results.
    Blocked,
}

impl Outcome {
    /// Done, with nothing to say.
    pub const NOTHING: Outcome = Outcome::Done([0, 0]);
}

/// The slot of the capability that is invoked, if there is one.
pub fn invoked_slot(state: &State, invoker: VcpuId, call: Call) -> Option<SlotId> {
    lookup::in_cspace_of_vcpu(state, invoker, call.cptr, 0).ok()
}

/// The full slot that argument 1 of a call names in the invoked CNode: what Delete and Revoke are about.
pub fn named_slot(state: &State, invoker: VcpuId, call: Call) -> Option<SlotId> {
    let invoked = invoked_slot(state, invoker, call)?;
    match state.slots[&invoked].cap {
        Cap::CNode { .. } => lookup::full_slot(state, invoked, call.args[0], 1).ok(),
        _ => None,
    }
}

/// One invocation by `invoker`, which must be able to run.
///
/// # Errors
/// The fault of the first check that fails; then `state` is as it was.
pub fn step(state: &mut State, invoker: VcpuId, call: Call) -> Result<Outcome, Fault> {
    let (label, invoked) = look_up(state, invoker, call)?;
    carry_out(state, label, invoked)
}

/// The first three checks: the invoked capability, the label, its rights.
fn look_up(state: &State, invoker: VcpuId, call: Call) -> Result<(Label, Invoked), Fault> {
    let slot = lookup::in_cspace_of_vcpu(state, invoker, call.cptr, 0)?;
    let label = Label::from_number(call.label).ok_or(Fault::new(Error::InvalidLabel, 0))?;
    let found = &state.slots[&slot];
    if label.object() != ObjectType::Null && found.cap.object_type() != label.object() {
        return Err(Fault::new(Error::InvalidLabel, 0));
    }
    if !found.rights.contains(label.rights()) {
        return Err(Fault::new(Error::MissingRight, 0));
    }
    Ok((label, Invoked { invoker, slot, args: call.args }))
}

/// The other checks, and what the label does.
fn carry_out(state: &mut State, label: Label, invoked: Invoked) -> Result<Outcome, Fault> {
    match label {
        Label::Nop => Ok(Outcome::NOTHING),
        Label::UntypedRetype => untyped::retype(state, invoked),
        Label::CNodeCopy => cnode::copy(state, invoked),
        Label::CNodeMint => cnode::mint(state, invoked),
        Label::CNodeMove => cnode::move_(state, invoked),
        Label::CNodeDelete => cnode::delete(state, invoked),
        Label::CNodeRevoke => cnode::revoke(state, invoked),
        Label::CNodeIdentify => cnode::identify(state, invoked),
        Label::FrameMap => frame::map(state, invoked),
        Label::FrameUnmap => frame::unmap(state, invoked),
        Label::PageTableMap => page_table::map(state, invoked),
        Label::PageTableUnmap => page_table::unmap(state, invoked),
        Label::VmSetCSpace => vm::set_cspace(state, invoked),
        Label::VmGetPage => vm::get_page(state, invoked),
        Label::VcpuAttach => vcpu::attach(state, invoked),
        Label::VcpuSetRegister => vcpu::set_register(state, invoked),
        Label::VcpuGetRegister => vcpu::get_register(state, invoked),
        Label::VcpuBindTime => vcpu::bind_time(state, invoked),
        Label::VcpuUnbindTime => vcpu::unbind_time(state, invoked),
        Label::VcpuSetUpcall => vcpu::set_upcall(state, invoked),
        Label::VcpuSetHandler => vcpu::set_handler(state, invoked),
        Label::VcpuLaunch => launch::launch(state, invoked),
        Label::VcpuStart => vcpu::start(state, invoked),
        Label::VcpuStop => vcpu::stop(state, invoked),
        Label::VcpuGetPage => vcpu::get_page(state, invoked),
        Label::VcpuSignal => vcpu::signal(state, invoked),
        Label::VcpuWait => vcpu::wait(state, invoked),
        Label::CpuTimeSplit => cpu_time::split(state, invoked),
        Label::CpuTimeResize => cpu_time::resize(state, invoked),
        Label::ChannelBind => channel::bind(state, invoked),
        Label::ChannelSignal => channel::signal(state, invoked),
        Label::ChannelWait => channel::signal_wait(state, invoked),
        Label::ChannelGrant => channel::grant(state, invoked),
        Label::ChannelAccept => channel::accept(state, invoked),
        Label::IrqSplit => irq::split(state, invoked),
        Label::IrqBind => irq::bind(state, invoked),
        Label::IrqUnbind => irq::unbind(state, invoked),
        Label::IoPortSplit => ioport::split(state, invoked),
        Label::IoPortIn => ioport::read(state, invoked),
        Label::IoPortOut => ioport::write(state, invoked),
        Label::IoPortOutBytes => ioport::write_bytes(state, invoked),
        Label::MachineReset => machine_object::reset(state, invoked),
        Label::MachineGetPage => machine_object::get_page(state, invoked),
        Label::FrameMapIo => iommu_domain::map_frame(state, invoked),
        Label::PageTableMapIo => iommu_domain::map_table(state, invoked),
        Label::PciFunctionLease => pci_function::lease(state, invoked),
        Label::PciFunctionEnableVfs => pci_function::enable_vfs(state, invoked),
        Label::PciFunctionGetBar => pci_function::get_bar(state, invoked),
        Label::PciFunctionGetInfo => pci_function::get_info(state, invoked),
        Label::PciFunctionReadConfig => pci_function::read_config(state, invoked),
        Label::PciFunctionWriteConfig => pci_function::write_config(state, invoked),
        Label::PciFunctionAttach => pci_function::attach(state, invoked),
        Label::PciFunctionDetach => pci_function::detach(state, invoked),
        Label::PciFunctionBindMsix => pci_function::bind_msix(state, invoked),
        Label::PciFunctionUnbindMsix => pci_function::unbind_msix(state, invoked),
        Label::PciFunctionReset => pci_function::reset(state, invoked),
        Label::IommuDomainSetHandler | Label::MachineSetHandler => faults::set_handler(state, invoked),
        Label::IommuDomainGetFault | Label::MachineGetFault => faults::get_fault(state, invoked),
    }
}
