//! Vm: an address space with its CSpace.
//!
//! * A Vm remembers the extent of the Untyped that it was made from: its *region*. What that means, chapter `launch`
//!   says.
//! * **SetCSpace** gives it its root CNode, which must be named by its original capability (`WrongType`, 1) with READ
//!   and WRITE. `WrongPhase`: the VM has a CSpace or has been launched (0), or the CNode is another VM's (1). A CNode that
//!   is destroyed leaves the VM without CSpace.
//! * **GetPage** derives a read-only Frame capability to the statistics page.

use super::Outcome;
use super::derivation::{Kind, check_depth, derive};
use super::lookup::{Invoked, cnode_of};
use super::state::{Cap, Extent, State, VmId};
use crate::abi::{Error, Fault, ObjectType, PAGE_BITS, Rights};

/// The VM that an invoked Vm capability names.
fn vm_of(state: &State, call: &Invoked) -> VmId {
    match state.slots[&call.slot].cap {
        Cap::Vm(id) => id,
        _ => unreachable!("the label was checked against the type"),
    }
}

/// `Vm.SetCSpace`.
pub(super) fn set_cspace(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let vm = vm_of(state, &call);
    let root = call.capability(state, 1, ObjectType::CNode, Rights::READ | Rights::WRITE)?;
    if !state.slots[&root].original {
        return Err(Fault::new(Error::WrongType, 1));
    }
    let root = cnode_of(state, root);

    if state.vms[&vm].cspace.is_some() || state.vms[&vm].launched {
        return Err(Fault::new(Error::WrongPhase, 0));
    }
    if state.vms.values().any(|other| other.cspace == Some(root)) {
        return Err(Fault::new(Error::WrongPhase, 1));
    }

    if let Some(vm) = state.vms.get_mut(&vm) {
        vm.cspace = Some(root);
    }
    Ok(Outcome::NOTHING)
}

/// `Vm.GetPage`.
pub(super) fn get_page(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let page = vm_of(state, &call).stats_page();
    derive_page(state, call, 1, page, Rights::READ)
}

/// Derives a Frame capability to a page that the kernel writes, into the slot that arguments `number` and `number + 1`
/// name, with those of `rights` that the invoked capability has.
pub(super) fn derive_page(
    state: &mut State,
    call: Invoked,
    number: u8,
    page: u64,
    rights: Rights,
) -> Result<Outcome, Fault> {
    let destination = call.destination(state, number)?;
    check_depth(state, call.slot, 0)?;
    let extent = Extent { base: page, bits: PAGE_BITS };
    let cap = Cap::Frame { extent, device: false, kernel_page: true, mapping: None };
    let rights = rights & state.slots[&call.slot].rights;
    derive(state, call.slot, destination, cap, rights, Kind::Copy);
    Ok(Outcome::NOTHING)
}
