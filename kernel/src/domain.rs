//! IommuDomain: what the DMA of functions reaches. An address space (see `address_space`) without processors.
//!
//! Invariants: only RAM that is nobody's kernel page is mapped; nothing is mapped where interrupts are written; a
//! capability maps within its window. A domain counts the functions attached to it. Its root is a table of level 3, so that
//! it has 2^39 bytes of addresses; units that walk four levels begin at a table above ([`VmId::top`]).

use crate::address_space::ENTRIES;
use crate::cap::Cap;
use crate::decode::{Invocation, Invoked};
use crate::iommu::FORMAT;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::nested::{entry_bits, entry_index, leaf_level};
use crate::types::{Gpa, VmId};
use crate::untyped::bytes_of;
use crate::vm::Vm;
use cap_spec::abi::{Error, Fault, ObjectType, Rights};
use core::ops::Range;

/// Writes to these addresses are messages of interrupts (Intel VT-d, 3.15: Handling Requests to Interrupt Address Range).
const INTERRUPT_ADDRESSES: Range<u64> = 0xfee0_0000..0xfef0_0000;

/// Addresses of a domain that a capability speaks for.
#[derive(Clone, Copy)]
struct Window {
    domain: VmId,
    first: u64,
    bytes: u64,
}

impl Window {
    /// True if these addresses lie in it. Neither sum of what is below 2^40 can overflow.
    fn holds(self, first: u64, bytes: u64) -> bool {
        let offset = first.wrapping_sub(self.first);
        offset < self.bytes && bytes <= self.bytes.wrapping_sub(offset)
    }
}

impl<M: Machine> Kernel<M> {
    /// `Frame.MapIo`.
    #[inline(never)]
    pub(crate) fn decode_map_frame_io(&self, call: &Invoked, bits: u8, mapped_in: VmId) -> Result<Invocation, Fault> {
        let window = self.window_argument(call)?;
        let size = bytes_of(bits);
        let &[_, address, _, more, _] = call.args;
        if !window.holds(address, size) {
            return Err(Fault::new(Error::OutOfRange, 2));
        }
        if address & size.wrapping_sub(1) != 0 {
            return Err(Fault::new(Error::Misaligned, 2));
        }
        let rights = call.rights(3, Rights::READ.union(Rights::WRITE))?;
        if rights.is_empty() {
            return Err(Fault::new(Error::OutOfRange, 3));
        }
        if !call.slot.rights.contains(rights) {
            return Err(Fault::new(Error::MissingRight, 3));
        }
        self.check_more(call, 4)?;
        let (level, gpa) = (leaf_level(bits), Gpa::new(address));
        let index = entry_index(gpa, level);
        let bytes = more.wrapping_add(1).wrapping_mul(size);
        if more > (ENTRIES - 1).wrapping_sub(index) as u64 || !window.holds(address, bytes) {
            return Err(Fault::new(Error::OutOfRange, 4));
        }
        check_kind(&call.slot.cap, 0)?;
        if address < INTERRUPT_ADDRESSES.end && INTERRUPT_ADDRESSES.start < address.wrapping_add(bytes) {
            return Err(Fault::new(Error::Forbidden, 2));
        }
        if mapped_in.is_some() {
            return Err(Fault::new(Error::InUse, 0));
        }
        let table = self.free_entry::<true>(window.domain, gpa, level)?;
        let more = more as u32;
        for offset in 1..=more {
            let id = call.id.plus(offset);
            let further = self.slot(id);
            self.check_further(further, bits, rights)?;
            check_kind(&further.cap, 4)?;
            let entry = self.machine.table_entry(table, index.wrapping_add(offset as usize));
            self.check_unmapped(id, FORMAT.decode(entry, level))?;
        }
        Ok(Invocation::MapFrameIo { slot: call.id, domain: window.domain, gpa, rights, table, more })
    }

    /// `PageTable.MapIo`.
    #[inline(never)]
    pub(crate) fn decode_map_table_io(&self, call: &Invoked, mapped_in: VmId) -> Result<Invocation, Fault> {
        let window = self.window_argument(call)?;
        let &[_, address, ..] = call.args;
        if !window.holds(address, 1) {
            return Err(Fault::new(Error::OutOfRange, 2));
        }
        let level = call.number(3, 1, 2)? as u8;
        let above = level.wrapping_add(1);
        let size = bytes_of(entry_bits(above) as u8);
        let gpa = Gpa::new(address & !size.wrapping_sub(1));
        if !window.holds(gpa.get(), size) {
            return Err(Fault::new(Error::OutOfRange, 2));
        }
        if mapped_in.is_some() {
            return Err(Fault::new(Error::InUse, 0));
        }
        let table = self.free_entry::<true>(window.domain, gpa, above)?;
        Ok(Invocation::MapTableIo { slot: call.id, domain: window.domain, gpa, level, table })
    }

    /// Argument 1: a domain with WRITE.
    fn window_argument(&self, call: &Invoked) -> Result<Window, Fault> {
        let &[cptr, ..] = call.args;
        match self.capability(call.root, cptr, 1, ObjectType::IommuDomain, Rights::WRITE)?.cap {
            // What is not in reach of an IOMMU that has failed never will be.
            Cap::IommuDomain { id, .. } if self.machine.vm(id).dissolving || self.machine.iommu_has_failed() => {
                Err(Fault::new(Error::InvalidCapability, 1))
            }
            Cap::IommuDomain { bits, id, first } => Ok(Window { domain: id, first, bytes: bytes_of(bits) }),
            _ => Err(Fault::new(Error::WrongType, 1)),
        }
    }

    /// Makes a domain in clean memory.
    #[cold]
    pub(crate) fn make_domain(&mut self, id: VmId) {
        *self.machine.vm_mut(id) = Vm::domain();
        self.machine.set_table_entry(id.top(), 0, FORMAT.table(id.root()));
        self.machine.publish_table(id.root());
        self.machine.publish_table(id.top());
    }
}

/// Checks that DMA may reach what a Frame names, by its kind.
fn check_kind(cap: &Cap, number: u8) -> Result<(), Fault> {
    match cap {
        Cap::Frame { device: true, .. } => Err(Fault::new(Error::DeviceMemory, number)),
        Cap::Frame { kernel_page: true, .. } => Err(Fault::new(Error::Forbidden, number)),
        _ => Ok(()),
    }
}
