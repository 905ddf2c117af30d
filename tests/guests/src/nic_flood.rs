//! Attacks of a tenant by the virtual function that it has: interrupts without end, and requests without end to the server
//! that has the physical function.

use crate::capabilities::{Random, SCRATCH};
use crate::instructions::Tally;
use core::sync::atomic::{AtomicU64, Ordering};
use device::Registers;
use igbvf::registers::{
    V2P_REQ, V2P_VFU, V2PMAILBOX, VMBMEM, VTEIAC, VTEIMS, VTEITR_CNT_IGNR, VTIVAR, VTIVAR_VALID, vteitr,
};
use proto::start::{LEASE_BASE, NIC_IRQ_SLOT, NIC_SLOT};
use userlib::arch::{TrapFrame, enable_interrupts, end_of_interrupt, set_handler};
use userlib::cap::{Cap, Fault, Irq, PageTable, PciFunction, Rights, Slot, own};
use userlib::clock;
use userlib::dma::MappedRegisters;

/// Extended Interrupt Cause Set: raises a vector of the function (82576 datasheet, 8.26.2.2).
const VTEICS: u32 = 0x1520;
/// Vector of the function's message.
const VECTOR: u8 = 0x51;
/// Microseconds that the function holds an interrupt back after another one, so that it comes while its VM waits.
const DELAY_US: u32 = 30;
/// Microseconds that a wait takes if no interrupt comes.
const WAIT_US: u64 = 500;
/// Words of a message in the mailbox.
const WORDS: u32 = 16;

/// An event that nobody signals.
const NOTHING: u64 = 1 << 63;

/// How often the vector came.
static CAME: AtomicU64 = AtomicU64::new(0);

fn came(_: &mut TrapFrame) {
    CAME.fetch_add(1, Ordering::Relaxed);
    end_of_interrupt();
}

fn registers() -> Result<MappedRegisters, Fault> {
    let slot = |offset: u16| Slot::root(SCRATCH + offset);
    for (offset, level) in [(0, 2), (1, 1)] {
        own::BASE.retype::<PageTable>(0, slot(offset))?.map(own::VM, LEASE_BASE, level)?;
    }
    let function: Cap<PciFunction> = Slot::root(NIC_SLOT).cap();
    let pages = function.bar_pages(0)?;
    let both = Rights::READ | Rights::WRITE;
    function.bar(0, 0, slot(2), pages)?.map_row(own::VM, LEASE_BASE, both, pages - 1)?;
    // SAFETY: the registers have just been mapped there, and nothing else is.
    Ok(unsafe { MappedRegisters::new(LEASE_BASE, pages as u32 * 4096) })
}

/// Has the function interrupt for so many microseconds, in and out of waits. Wrong: no interrupt came, or none into a wait.
pub fn interrupts(ticks_of_us: impl Fn(u64) -> u64, us: u64) -> Result<Tally, Fault> {
    let registers = registers()?;
    set_handler(VECTOR, Some(came));
    enable_interrupts();
    let irq: Cap<Irq> = Slot::root(NIC_IRQ_SLOT).cap();
    irq.bind(own::VCPU, VECTOR)?;
    Slot::root(NIC_SLOT).cap::<PciFunction>().bind_msix(0, irq)?;
    registers.write32(VTIVAR, VTIVAR_VALID);
    registers.write32(VTEIAC, 1);
    registers.write32(VTEIMS, 1);
    registers.write32(vteitr(0), DELAY_US << 2 | VTEITR_CNT_IGNR);
    let end = clock::now() + ticks_of_us(us);
    let (mut attempts, mut woken) = (0, 0);
    while clock::now() < end {
        // One comes at once, and the next one later.
        registers.write32(VTEICS, 1);
        registers.write32(VTEICS, 1);
        let deadline = clock::now() + ticks_of_us(WAIT_US);
        own::VCPU.wait(NOTHING, deadline)?;
        woken += u64::from(clock::now() < deadline);
        attempts += 1;
    }
    let came = CAME.load(Ordering::Relaxed);
    userlib::println!("hostile: {came} interrupts, {woken} of {attempts} waits ended by one");
    Ok(Tally { attempts, wrong: u64::from(came == 0 || woken == 0) })
}

/// Puts messages into the function's mailbox for so many microseconds, without waiting for an answer. Wrong: the buffer was
/// never its own.
pub fn mailbox(ticks_of_us: impl Fn(u64) -> u64, us: u64, seed: u64) -> Result<Tally, Fault> {
    let registers = registers()?;
    let mut random = Random(seed);
    let end = clock::now() + ticks_of_us(us);
    let (mut attempts, mut sent) = (0, 0);
    while clock::now() < end {
        attempts += 1;
        registers.write32(V2PMAILBOX, V2P_VFU);
        if registers.read32(V2PMAILBOX) & V2P_VFU == 0 {
            continue;
        }
        // The first word says what is asked for: one of those that there are, or anything.
        let first = if random.below(4) == 0 { random.word() } else { random.below(8) };
        registers.write32(VMBMEM, first as u32);
        for word in 1..WORDS {
            registers.write32(VMBMEM + word * 4, random.word() as u32);
        }
        registers.write32(V2PMAILBOX, V2P_REQ);
        sent += 1;
    }
    userlib::println!("hostile: {sent} messages");
    Ok(Tally { attempts, wrong: u64::from(sent == 0) })
}
