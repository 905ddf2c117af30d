//! Untyped: memory, and the only way to make objects.
//!
//! * An Untyped is an extent of 2^n bytes, aligned to its size, with a *watermark*: what lies below has been given out
//!   since the last Revoke, what lies above is free and zero.
//! * **Retype** makes 1 to 64 objects of one type and size at the watermark, each at its natural alignment, and puts the
//!   original capability of each, with every right, into consecutive slots. The watermark moves past the last one.
//!   Alignment gaps are lost until Revoke.
//! * Boot Untypeds start with the watermark at their end: they must be revoked (scrubbed) before they can be used.
//! * Device memory can be made into Untyped and Frame only; it is never scrubbed.
//! * Arguments: type must be one that is made from Untyped; size one that this type has; `count` objects must fit into
//!   the CNode from `index` on (`OutOfRange`, 5) and all their slots be empty (`SlotOccupied`, 5; the first: 4).
//! * State: `NotEnoughMemory`; `DeviceMemory` (names the type); `TooDeep`.

use super::Outcome;
use super::derivation::{Kind, check_depth, derive};
use super::lookup::{Invoked, cnode_of, slot_of};
use super::state::{CNodeId, Cap, ChannelId, Extent, Faults, Run, State, TableId, Vcpu, VcpuId, Vm, VmId, Window};
use super::vcpu::initial_registers;
use crate::abi::{Error, Fault, ObjectType, Rights};

/// `Untyped.Retype`.
pub(super) fn retype(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let Cap::Untyped { extent, device, watermark } = state.slots[&call.slot].cap else {
        unreachable!("the label was checked against the type")
    };
    let object_type = ObjectType::from_number(call.arg(1))
        .filter(|object_type| object_type.is_made_from_untyped())
        .ok_or(Fault::new(Error::OutOfRange, 1))?;
    let bits = object_type.object_bits(call.arg(2)).ok_or(Fault::new(Error::OutOfRange, 2))?;
    call.destination(state, 3)?;
    let cnode = cnode_of(state, call.capability(state, 3, ObjectType::CNode, Rights::WRITE)?);
    let first = call.arg(4);
    let count = call.in_range(5, 1..=64)?;
    slot_of(state, cnode, first + count - 1).ok_or(Fault::new(Error::OutOfRange, 5))?;
    if (first + 1..first + count).any(|index| state.slots.contains_key(&cnode.slot(index))) {
        return Err(Fault::new(Error::SlotOccupied, 5));
    }

    let size = 1u64 << bits;
    let start = watermark.next_multiple_of(size);
    let end = start + count * size;
    if end > extent.bytes() {
        return Err(Fault::new(Error::NotEnoughMemory, 0));
    }
    if device && !matches!(object_type, ObjectType::Untyped | ObjectType::Frame) {
        return Err(Fault::new(Error::DeviceMemory, 1));
    }
    check_depth(state, call.slot, 0)?;

    for number in 0..count {
        let made = Extent { base: extent.base + start + number * size, bits };
        let cap = make(state, object_type, made, device, extent);
        derive(state, call.slot, cnode.slot(first + number), cap, Rights::all(), Kind::Original);
    }
    if let Some(Cap::Untyped { watermark, .. }) = state.slots.get_mut(&call.slot).map(|slot| &mut slot.cap) {
        *watermark = end;
    }
    Ok(Outcome::NOTHING)
}

/// Makes one object in its memory, which lies in the Untyped `region`.
fn make(state: &mut State, object_type: ObjectType, extent: Extent, device: bool, region: Extent) -> Cap {
    match object_type {
        ObjectType::Untyped => Cap::Untyped { extent, device, watermark: 0 },
        ObjectType::Frame => Cap::Frame { extent, device, kernel_page: false, mapping: None },
        ObjectType::CNode => {
            let slot_bits = extent.bits - crate::abi::SLOT_BITS;
            state.cnodes.insert(CNodeId(extent.base), slot_bits);
            Cap::CNode { id: CNodeId(extent.base), slot_bits }
        }
        ObjectType::PageTable => {
            state.tables.insert(TableId(extent.base), Default::default());
            Cap::PageTable { id: TableId(extent.base), place: None }
        }
        ObjectType::Vm => {
            let id = VmId(extent.base);
            state.vms.insert(id, Vm { cspace: None, region, launched: false });
            state.tables.insert(id.root(), Default::default());
            Cap::Vm(id)
        }
        ObjectType::Vcpu => {
            let id = VcpuId(extent.base);
            state.vcpus.insert(
                id,
                Vcpu {
                    vm: None,
                    run: Run::Stopped,
                    events: 0,
                    registers: initial_registers(),
                    upcall: [0, 0],
                    handler: None,
                },
            );
            Cap::Vcpu(id)
        }
        ObjectType::Channel => {
            state.channels.insert(ChannelId(extent.base), [None, None]);
            Cap::Channel { id: ChannelId(extent.base), end: 1 }
        }
        ObjectType::IommuDomain => {
            let id = VmId(extent.base);
            state.domains.insert(id, Faults::default());
            state.tables.insert(id.root(), Default::default());
            Cap::IommuDomain { id, window: Window::WHOLE }
        }
        ObjectType::Null
        | ObjectType::CpuTime
        | ObjectType::Irq
        | ObjectType::IoPort
        | ObjectType::Machine
        | ObjectType::PciFunction => {
            unreachable!("only types that are made from Untyped pass the first check")
        }
    }
}
