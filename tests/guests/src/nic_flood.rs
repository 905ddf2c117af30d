//! Attacks of a tenant by the virtual function that it has: interrupts without end, requests without end to the server
//! that has the physical function, and anything into every register.

use crate::capabilities::{Random, SCRATCH};
use crate::config_space;
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
/// Bytes of a page.
const PAGE: u32 = 4096;
pub(crate) const BOTH: Rights = Rights::READ.union(Rights::WRITE);
/// Words of a message in the mailbox.
const WORDS: u32 = 16;

/// BARs that a function can have.
const BARS: u8 = 6;
/// Registers of the physical function where a virtual one has none of its own (82576 datasheet, 8.10, 8.12, 8.14, 8.26): RCTL,
/// TCTL, VFLRE, VFRE, VFTE, QDE, DTXSWC and VMVIR. VT_CTL, RAL and RAH are beyond all that it maps.
const OF_PHYSICAL: [u32; 8] = [0x100, 0x400, 0xc88, 0xc8c, 0xc90, 0x2408, 0x3500, 0x3700];

/// An event that nobody signals.
const NOTHING: u64 = 1 << 63;

/// How often the vector came.
static CAME: AtomicU64 = AtomicU64::new(0);

fn came(_: &mut TrapFrame) {
    CAME.fetch_add(1, Ordering::Relaxed);
    end_of_interrupt();
}

/// What is mapped of a function's BARs, page after page.
struct Mapped {
    registers: MappedRegisters,
    bytes: u32,
    /// Pages that are not to be had, such as the one with the table of messages.
    withheld: u32,
    /// Pages behind a BAR's end that were to be had.
    beyond: u64,
}

/// Maps all that is to be had of the first BARs of the function.
fn map(bars: u8) -> Result<Mapped, Fault> {
    let function: Cap<PciFunction> = Slot::root(NIC_SLOT).cap();
    for (slot, level) in [(SCRATCH, 2), (SCRATCH + 1, 1)] {
        own::BASE.retype::<PageTable>(0, Slot::root(slot))?.map(own::VM, LEASE_BASE, level)?;
    }
    let (mut mapped, mut withheld, mut beyond) = (0u16, 0, 0);
    for bar in 0..bars {
        let pages = function.bar_pages(bar)?;
        for page in 0..=pages {
            let Ok(frame) = function.bar(bar, page, Slot::root(SCRATCH + 2 + mapped), 1) else {
                withheld += u32::from(page < pages);
                continue;
            };
            frame.map(own::VM, LEASE_BASE + u64::from(mapped) * u64::from(PAGE), BOTH)?;
            mapped += 1;
            beyond += u64::from(page == pages);
        }
    }
    let bytes = u32::from(mapped) * PAGE;
    // SAFETY: they have just been mapped there, and nothing else is.
    let registers = unsafe { MappedRegisters::new(LEASE_BASE, bytes) };
    Ok(Mapped { registers, bytes, withheld, beyond })
}

/// Maps its registers alone.
pub(crate) fn map_registers() -> Result<MappedRegisters, Fault> {
    map(1).map(|mapped| mapped.registers)
}

/// Has the function interrupt for so many microseconds, in and out of waits. Wrong: no interrupt came, or none into a wait.
pub fn interrupts(ticks_of_us: impl Fn(u64) -> u64, us: u64) -> Result<Tally, Fault> {
    let registers = map_registers()?;
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
    let registers = map_registers()?;
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

/// Writes anything to every register of its configuration space, then of all that the function's BARs map, over and
/// over for so many microseconds. Wrong: configuration space took what it must not, a page behind a BAR's end was to be
/// had, or a register of the physical function took what was written.
pub fn every_register(ticks_of_us: impl Fn(u64) -> u64, us: u64, seed: u64) -> Result<Tally, Fault> {
    let tried = config_space::try_everything(Slot::root(NIC_SLOT).cap())?;
    userlib::println!("hostile: {} configuration writes, wrong: {:x?}", tried.attempts, tried.wrong);
    let Mapped { registers, bytes, withheld, beyond } = map(BARS)?;
    let mut random = Random(seed);
    let end = clock::now() + ticks_of_us(us);
    let (mut rounds, mut wrong) = (0, beyond + tried.wrong.len() as u64);
    while clock::now() < end {
        (0..bytes).step_by(4).for_each(|offset| registers.write32(offset, random.word() as u32));
        for offset in OF_PHYSICAL {
            let value = random.word() as u32;
            registers.write32(offset, value);
            wrong += u64::from(registers.read32(offset) == value);
        }
        rounds += 1;
    }
    userlib::println!("hostile: {rounds} rounds over {} pages, {withheld} were withheld", bytes / PAGE);
    Ok(Tally { attempts: tried.attempts + rounds * u64::from(bytes / 4), wrong })
}
