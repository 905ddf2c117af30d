//! Messages that a function forges by writing to where interrupts are raised, and pages through which it would change its own.
//!
//! A transmit queue writes its head, four bytes, to an address that its owner names: so its owner has it write where it likes.

use crate::faults::{MACHINE, forget};
use crate::station::{Bench, FIRST_VECTOR, frame};
use crate::{Check, refused};
use alloc::format;
use cap_spec::abi::Stopped;
use core::sync::atomic::{AtomicU64, Ordering};
use device::{DmaMemory, Registers};
use guests::root::exits;
use igbvf::TransmitQueue;
use igbvf::registers::{DBAL, DCTL, DCTL_ENABLE, DH, DLEN, DT, TDWBAH, TDWBAL, TDWBAL_ENABLE, transmit_queue};
use userlib::arch::{TrapFrame, disable_interrupts, enable_interrupts, end_of_interrupt, set_handler};
use userlib::cap::own;

/// Where writes of devices are interrupt requests (Intel SDM volume 3, 11.11.1).
const MESSAGES: u32 = 0xfee0_0000;
/// Of such an address: the request names an entry of the remapping table (Intel VT-d, 5.1.2.2).
const REMAPPABLE: u32 = 1 << 4;
const INDEX_SHIFT: u32 = 5;
/// Entries that are tried: more than the kernel uses.
const INDICES: u32 = 512;
/// The requester id that the emulator tells of messages that it has not made itself.
const UNKNOWN: u16 = 0xffff;
/// Nobody's station.
const NOBODY: u16 = 9;
/// What messages in compatibility format ask for: a vector that nothing is bound to, an NMI, and an INIT.
const VECTOR: u8 = FIRST_VECTOR + 9;
const NMI: u16 = 4 << 8 | 1;
const INIT: u16 = 5 << 8 | 1;
/// Vectors of exceptions that can be forged (see [`forge_compatible`]).
const EXCEPTIONS: [u16; 4] = [1, 9, 17, 25];
/// Bytes of a ring whose head may be any of them.
const RING_BYTES: u32 = 0x8000;

/// How often [`VECTOR`] came.
static CAME: AtomicU64 = AtomicU64::new(0);

fn came(_: &mut TrapFrame) {
    CAME.fetch_add(1, Ordering::Relaxed);
    end_of_interrupt();
}

/// Has station 0 write four bytes to an address of its own choice.
fn forge(bench: &mut Bench, address: u32) {
    let station = &mut bench.stations[0];
    let (low, high) = (transmit_queue(0) + TDWBAL, transmit_queue(0) + TDWBAH);
    station.registers.write32(high, 0);
    station.registers.write32(low, address | TDWBAL_ENABLE);
    station.send(&frame(NOBODY, 0, &[]));
    // The next one's head is told where the driver looks, behind its ring of 8 descriptors, and it goes on.
    station.registers.write32(low, (station.io_base + 4096 + 8 * 16) as u32 | TDWBAL_ENABLE);
    station.send(&frame(NOBODY, 0, &[]));
    (0..100).for_each(|_| core::hint::spin_loop());
}

/// Whatever entry a function names: one that nobody uses raises nothing, and the machine's holder is told. The emulator does
/// not know who wrote a message by DMA, so that it cannot check whose the entry is: of an entry in use comes what that one
/// says, once, and nothing else: the kernel's own costs an exit, a station's its own vector, which drivers bear.
pub fn forged_messages_raise_nothing_but_what_their_entry_says(bench: &mut Bench) -> Check {
    let (mut of_kernel, mut of_stations) = (0, [0; 2]);
    for index in 0..INDICES {
        forget(bench).map_err(refused("nothing is left"))?;
        let (exits_before, before) = (exits(), [0, 1].map(|station| bench.interrupts(station)));
        forge(bench, MESSAGES | REMAPPABLE | index << INDEX_SHIFT);
        let exits = exits() - exits_before;
        let raised = [0, 1].map(|station: usize| bench.interrupts(station) - before[station]);
        let told = MACHINE.take_fault().map_err(refused("what was stopped is asked for"))?.record;
        match (raised, exits, told.map(|record| (record.requester, record.stopped))) {
            ([0, 0], 1, Some((UNKNOWN, Stopped::Interrupt(stopped)))) if u32::from(stopped) == index => {}
            ([0, 0], 1, None) => of_kernel += 1,
            ([1, 0], 0, None) => of_stations[0] += 1,
            ([0, 1], 0, None) => of_stations[1] += 1,
            what => return Err(format!("entry {index}: interrupts, exits and what is told: {what:x?}")),
        }
    }
    // One of the kernel's for each core, and one of each station.
    if (of_kernel, of_stations) != (1, [1, 1]) {
        return Err(format!("{of_kernel} entries raised an NMI, {of_stations:?} the stations' vectors"));
    }
    crate::checks::goes_on(bench, 34)
}

/// Has station 0 write this, of which one less is a multiple of 8, as a message in compatibility format to the first
/// core: fixed interrupts have their vector there, others their delivery mode above it (Intel SDM volume 3, 11.11.2).
fn forge_compatible(bench: &mut Bench, data: u16) -> Check {
    let station = &mut bench.stations[0];
    let (registers, ring) = (station.registers, station.memory.from_page(1));
    let anew = || TransmitQueue::new(registers, ring, 0).map_err(|error| format!("the ring: {error:?}"));
    station.transmit = anew()?;
    station.send(&frame(NOBODY, 0, &[]));
    // The descriptor of that frame becomes the last one before `data` in a ring that begins long before this memory: so
    // the head that is told is `data`.
    let base = ring.io_address().0 - 16 * u64::from(data - 1);
    let set_up = [
        (DCTL, 0),
        (DBAL, base as u32),
        (DLEN, RING_BYTES),
        (DH, u32::from(data - 1)),
        (DT, u32::from(data - 1)),
        (TDWBAH, 0),
        (TDWBAL, MESSAGES | TDWBAL_ENABLE),
        (DCTL, DCTL_ENABLE),
        (DT, u32::from(data)),
    ];
    set_up.into_iter().for_each(|(register, value)| registers.write32(transmit_queue(0) + register, value));
    (0..1000).for_each(|_| core::hint::spin_loop());
    station.transmit = anew()?;
    Ok(())
}

/// Messages in compatibility format, which the emulator lets pass though the unit is told to block them: a stray vector
/// or an NMI, which costs an exit, is all that comes of one, and everything goes on; vectors of exceptions are no exceptions of
/// the kernel. Lines say whether they came.
pub fn a_message_in_compatibility_format_is_survived(bench: &mut Bench) -> Check {
    set_handler(VECTOR, Some(came));
    forge_compatible(bench, u16::from(VECTOR))?;
    let before = exits();
    forge_compatible(bench, NMI)?;
    let exits = exits() - before;
    let vectors = CAME.load(Ordering::Relaxed);
    // Vectors of exceptions: the VM does not take them, and waits, so that it is the kernel which does.
    disable_interrupts();
    for vector in EXCEPTIONS {
        forge_compatible(bench, vector)?;
        let deadline = userlib::clock::now() + bench.root.tsc_hz / 1000;
        own::VCPU.wait(1 << 63, deadline).map_err(refused("it waits"))?;
    }
    enable_interrupts();
    bench.root.text(&format!("devices: stray vectors: {vectors}, exits for a stray NMI: {exits}\n"));
    crate::checks::goes_on(bench, 35)
}

/// The same with an INIT.
pub fn an_init_in_compatibility_format(bench: &mut Bench) -> Check {
    bench.root.text("devices: an INIT is forged\n");
    forge_compatible(bench, INIT)?;
    crate::checks::goes_on(bench, 36)?;
    bench.root.text("devices: it goes on after an INIT\n");
    Ok(())
}

/// No page with a message table is handed out, of no function, nor one behind the end of a BAR, where the next function's
/// registers may be.
pub fn pages_of_messages_and_of_others_are_not_handed_out(bench: &mut Bench) -> Check {
    for function in [bench.physical, bench.stations[0].function] {
        for bar in 0..6 {
            let pages = function.bar_pages(bar).map_err(refused("a BAR is asked for"))?;
            let slot = bench.root.slot();
            if function.bar(bar, pages, slot, 1).is_ok() || function.bar(bar, pages.saturating_sub(1), slot, 2).is_ok()
            {
                return Err(format!("a page behind BAR {bar} is handed out"));
            }
            // The table and the pending bits of the 82576: BAR 3, from 0 and from 0x2000 on.
            if bar == 3 && [0, 2].iter().any(|&page| function.bar(bar, page, slot, 1).is_ok()) {
                return Err("a page of the MSI-X table is handed out".into());
            }
        }
    }
    Ok(())
}
