//! Functions of devices in the root VM: found, their registers mapped, and memory that they and the VM reach.

use crate::root::{Root, word};
use cap_spec::abi::{Error, ROOT_BOOT_INFO, boot_info, slots};
use device::{Clock, IoAddress};
use userlib::cap::{Cap, Fault, Frame, IommuDomain, Irq, PageTable, PciFunction, Rights, Slot, own};
use userlib::dma::{MappedMemory, MappedRegisters, TscClock};

/// Bytes of [`shared_memory`], log2: one page of 2 MiB.
const MEMORY_BITS: u8 = 21;
/// What the VM may do with registers, and both with memory.
pub const BOTH: Rights = Rights::READ.union(Rights::WRITE);

/// The first physical function with this vendor and device ID that the kernel hands out.
pub fn find(vendor: u16, device: u16) -> Option<Cap<PciFunction>> {
    let info = |offset| word(ROOT_BOOT_INFO, offset) as u16;
    let first = info(boot_info::FIRST_FUNCTION);
    let mut functions = (first..first + info(boot_info::FUNCTIONS)).map(|index| Slot::root(index).cap::<PciFunction>());
    functions.find(|function| matches!(function.info(), Ok(info) if (info.vendor, info.device) == (vendor, device)))
}

/// Waits until a function has come out of its reset.
pub fn until_ready(function: Cap<PciFunction>, clock: &TscClock) -> Result<(), Fault> {
    loop {
        match function.info() {
            Err(Fault { error: Error::Busy, .. }) => clock.pause(),
            other => return other.map(drop),
        }
    }
}

/// Maps all of BAR 0 of a function.
pub fn map_registers(root: &mut Root, function: Cap<PciFunction>) -> Result<MappedRegisters, Fault> {
    let pages = function.bar_pages(0)?;
    map_pages(root, function, 0, pages)
}

/// Maps pages of BAR 0 of a function.
pub fn map_pages(root: &mut Root, function: Cap<PciFunction>, from: u64, pages: u64) -> Result<MappedRegisters, Fault> {
    let (first, window) = (root.slots(pages as u16), root.window(pages));
    function.bar(0, from, first, pages)?.map_row(own::VM, window, BOTH, pages - 1)?;
    // SAFETY: the registers have just been mapped there, and stay for as long as the root VM uses the function.
    Ok(unsafe { MappedRegisters::new(window, pages as u32 * 4096) })
}

/// 2 MiB that the VM and the functions of a domain reach at the same address: where no memory of the VM is, and no other
/// table of the domain's.
pub fn shared_memory(root: &mut Root, domain: Cap<IommuDomain>, at: u64) -> Result<MappedMemory, Fault> {
    root.make::<PageTable>(0)?.map(own::VM, at, 2)?;
    root.make::<PageTable>(0)?.map_io(domain, at, 2)?;
    let frame = root.make::<Frame>(MEMORY_BITS)?;
    root.slot().copy(frame, BOTH)?.map_io(domain, at, BOTH, 0)?;
    frame.map(own::VM, at, BOTH)?;
    // SAFETY: the frame has just been mapped there, and nothing else uses it.
    Ok(unsafe { MappedMemory::new(at, IoAddress(at), 1 << MEMORY_BITS) })
}

/// The route of messages with this number, from 0 on.
pub fn message_route(root: &mut Root, number: u16) -> Result<Cap<Irq>, Fault> {
    let irqs: Cap<Irq> = Slot::root(slots::IRQ).cap();
    irqs.split(word(ROOT_BOOT_INFO, boot_info::FIRST_MESSAGE_ROUTE) + u64::from(number), 1, root.slot())
}
