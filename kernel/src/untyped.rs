//! Untyped: memory, and the only way to make objects.
//!
//! Invariants: every object that was made of an Untyped lies below its watermark; bytes of RAM from the watermark on are
//! zero. So Retype takes memory at the watermark without touching what it does not initialise, and Revoke, which alone
//! lowers the watermark, scrubs from the top down and lowers it some pages at a time: between two steps both invariants hold.
//! It does not go below memory in quarantine (see `quarantine`).

use crate::cap::{Cap, Mapping};
use crate::channel::Channel;
use crate::cspace::slots_of;
use crate::decode::{Invocation, Invoked};
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::slot::Slot;
use crate::types::{ChannelId, Hpa, SlotId, VcpuId, VmId};
use crate::vcpu::Vcpu;
use crate::vm::Vm;
use cap_spec::abi::{Error, Fault, IO_ADDRESS_BITS, ObjectType, PAGE_BITS, Rights, SLOT_BITS};

/// Objects that one Retype makes at most.
pub const MAX_RETYPE: u64 = 64;
/// Bytes that one step of a scrub clears at most.
const SCRUB_BYTES: u64 = 16 << PAGE_BITS;

impl<M: Machine> Kernel<M> {
    /// `Untyped.Retype`.
    pub(crate) fn decode_retype(
        &self,
        call: &Invoked,
        bits: u8,
        device: bool,
        watermark: u64,
    ) -> Result<Invocation, Fault> {
        let &[object, size_bits, cnode, index, _] = call.args;
        let (object, object_bits) = if object == ObjectType::Frame as u64 && size_bits == PAGE_BITS as u64 {
            // What is made most.
            (ObjectType::Frame, PAGE_BITS)
        } else {
            decode_object(object, size_bits)?
        };
        let (base, slots) = self.destination_node(call.root, cnode, 3)?;
        let to = self.empty_slot(base, slots, index, 4)?;
        let count = call.number(5, 1, MAX_RETYPE)?;
        // index < slots <= 2^16, so neither sum can overflow.
        if index.wrapping_add(count) > slots as u64 {
            return Err(Fault::new(Error::OutOfRange, 5));
        }
        for offset in 1..count as u32 {
            if !self.slot(to.plus(offset)).is_empty() {
                return Err(Fault::new(Error::SlotOccupied, 5));
            }
        }
        // Sizes are at most 2^47 and count at most 2^6: no overflow in 64 bits.
        let size = 1u64.wrapping_shl(object_bits as u32);
        let offset = watermark.wrapping_add(size - 1) & !(size - 1);
        let end = offset.wrapping_add(size.wrapping_mul(count));
        if end > 1u64.wrapping_shl(bits as u32) {
            return Err(Fault::new(Error::NotEnoughMemory, 0));
        }
        if device && !matches!(object, ObjectType::Untyped | ObjectType::Frame) {
            return Err(Fault::new(Error::DeviceMemory, 1));
        }
        if self.is_too_deep(call.id) {
            return Err(Fault::new(Error::TooDeep, 0));
        }
        Ok(Invocation::Retype { untyped: call.id, object, bits: object_bits, to, count: count as u32, offset })
    }

    /// Makes the objects, and a row of children: the last made is the youngest.
    #[inline]
    pub(crate) fn retype(
        &mut self,
        untyped: SlotId,
        object: ObjectType,
        bits: u8,
        to: SlotId,
        count: u32,
        offset: u64,
    ) {
        self.changes(untyped);
        let size = 1u64.wrapping_shl(bits as u32);
        let parent = self.slot_mut(untyped);
        let Cap::Untyped { bits: region_bits, device, base: region, ref mut watermark, .. } = parent.cap else {
            return;
        };
        *watermark = offset.wrapping_add(size.wrapping_mul(count as u64));
        let elder = parent.first_child;
        let depth = parent.depth.saturating_add(1);
        let youngest = to.plus(count.wrapping_sub(1));
        parent.first_child = youngest;
        if elder.is_some() {
            let elder = self.slot_mut(elder);
            elder.prev = to;
            elder.first = false;
        } else {
            parent.last_child = to;
        }
        let base = region.plus(offset);
        // What is made by the dozen has a loop of its own.
        if matches!(object, ObjectType::Frame) {
            self.make_row(to, count, depth, base, size, |_, base| Cap::Frame {
                bits,
                device,
                kernel_page: false,
                base,
                mapping: Mapping::NONE,
            });
        } else {
            self.make_row(to, count, depth, base, size, |kernel, base| {
                kernel.make(object, base, bits, device, region, region_bits)
            });
        }
        let first = self.slot_mut(youngest);
        first.prev = untyped;
        first.first = true;
        let last = self.slot_mut(to);
        last.next = if elder.is_some() { elder } else { untyped };
        last.last = !elder.is_some();
    }

    /// Fills a row of slots with originals that are each other's siblings. The ends still want their outer links.
    #[inline(always)]
    fn make_row(
        &mut self,
        to: SlotId,
        count: u32,
        depth: u8,
        base: Hpa,
        size: u64,
        make: impl Fn(&mut Self, Hpa) -> Cap,
    ) {
        let mut base = base;
        for number in 0..count {
            let slot = to.plus(number);
            let (next, prev) = (SlotId::new(slot.get().wrapping_sub(1)), slot.plus(1));
            let cap = make(self, base);
            *self.slot_mut(slot) = Slot { next, prev, depth, ..Slot::of(cap, Rights::all(), true) };
            base = base.plus(size);
        }
    }

    /// Makes one object in clean memory of the Untyped `region`.
    #[inline]
    fn make(&mut self, object: ObjectType, base: Hpa, bits: u8, device: bool, region: Hpa, region_bits: u8) -> Cap {
        match object {
            ObjectType::Untyped => Cap::Untyped { bits, device, vm: VmId::NONE, base, watermark: 0 },
            ObjectType::Frame => Cap::Frame { bits, device, kernel_page: false, base, mapping: Mapping::NONE },
            ObjectType::CNode => {
                Cap::CNode { bits: bits.wrapping_sub(SLOT_BITS), vm: VmId::NONE, base: base.to_slot() }
            }
            ObjectType::PageTable => Cap::PageTable { base, mapping: Mapping::NONE },
            ObjectType::Vm => {
                let id = VmId::at(base);
                *self.machine.vm_mut(id) = Vm::new(region, region_bits, self.format);
                Cap::Vm { id }
            }
            ObjectType::IommuDomain => {
                let id = VmId::at(base);
                self.make_domain(id);
                Cap::IommuDomain { bits: IO_ADDRESS_BITS, id, first: 0 }
            }
            ObjectType::Vcpu => {
                let id = VcpuId::at(base);
                *self.machine.vcpu_mut(id) = Vcpu::NEW;
                Cap::Vcpu { id }
            }
            ObjectType::Channel => {
                let id = ChannelId::at(base);
                *self.machine.channel_mut(id) = Channel::NEW;
                Cap::Channel { end: 1, id }
            }
            ObjectType::Null
            | ObjectType::CpuTime
            | ObjectType::Irq
            | ObjectType::IoPort
            | ObjectType::Machine
            | ObjectType::PciFunction => Cap::Null,
        }
    }

    /// One step of the scrub of an Untyped without children: some pages from its watermark down, to what is in quarantine.
    /// Once it is there, the bytes below: 0, unless an IOMMU has failed.
    #[inline]
    pub(crate) fn scrub_step(&mut self, slot: SlotId) -> Option<u64> {
        let Cap::Untyped { device, base, watermark: top, .. } = self.slot(slot).cap else { return Some(0) };
        // Down to a multiple of what is cleared at once: the next step clears as much as it may.
        let kept = if device { 0 } else { self.quarantine.kept_of(base, top) };
        let bottom = if device { 0 } else { (top.saturating_sub(1) & !(SCRUB_BYTES - 1)).max(kept) };
        if let Cap::Untyped { watermark, .. } = &mut self.slot_mut(slot).cap {
            *watermark = bottom;
        }
        if !device && bottom < top {
            self.machine.zero(base.plus(bottom), top.wrapping_sub(bottom));
        }
        (bottom == kept).then_some(kept)
    }
}

/// Arguments 1 and 2 of Retype: what is made, and log2 of the bytes of one.
fn decode_object(object: u64, size_bits: u64) -> Result<(ObjectType, u8), Fault> {
    let object = match ObjectType::from_number(object) {
        Some(object) if object.is_made_from_untyped() => object,
        _ => return Err(Fault::new(Error::OutOfRange, 1)),
    };
    let bits = object.object_bits(size_bits).ok_or(Fault::new(Error::OutOfRange, 2))?;
    Ok((object, bits))
}

/// Bytes that an Untyped of this size has.
#[inline]
pub(crate) const fn bytes_of(bits: u8) -> u64 {
    1u64.wrapping_shl(bits as u32)
}

/// What Identify tells beside the type: `size_bits`, "mapped or bound" without routes and functions, and
/// the detail.
#[inline]
pub(crate) fn identity(cap: &Cap) -> (u8, bool, u64) {
    match *cap {
        Cap::Untyped { bits, watermark, .. } => (bits, false, bytes_of(bits).wrapping_sub(watermark)),
        Cap::CNode { bits, .. } => (bits, false, slots_of(bits) as u64),
        Cap::Frame { bits, mapping, .. } => (bits, mapping.vm.is_some(), 0),
        Cap::PageTable { mapping, .. } => (0, mapping.vm.is_some(), 0),
        Cap::CpuTime { vcpu, budget, .. } => (0, vcpu.is_some(), budget),
        Cap::Irq { first, count } | Cap::IoPort { first, count } => (0, false, first as u64 | (count as u64) << 32),
        Cap::IommuDomain { bits, .. } => (bits, false, 0),
        Cap::Null
        | Cap::Vm { .. }
        | Cap::Vcpu { .. }
        | Cap::Channel { .. }
        | Cap::Machine
        | Cap::PciFunction { .. }
        | Cap::Zombie(_)
        | Cap::Doomed { .. } => (0, false, 0),
    }
}
