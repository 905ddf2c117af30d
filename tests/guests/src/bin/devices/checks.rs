//! The checks, each by itself.

use crate::station::{Bench, PAGES, Station, frame};
use crate::{Check, refused};
use alloc::format;
use cap_spec::abi::{ROOT_BOOT_INFO, boot_info};
use device::{Clock, DmaMemory};
use guests::config_space::{is_endpoint, try_everything};
use guests::function::{BOTH as READ_WRITE, until_ready};
use guests::root::{exits, word};
use userlib::cap::{Cap, Error, Fault, Frame, Rights, Slot, own};

/// Offsets in configuration space: ID, Command, BAR 0.
const ID: u16 = 0;
const COMMAND: u16 = 4;
const BAR0: u16 = 0x10;

/// Error of a refused call.
fn error<T>(result: Result<T, Fault>) -> Option<Error> {
    result.err().map(|fault| fault.error)
}

/// A holder reads what its function is, sees no address of the machine, and writes nothing that concerns others.
pub fn configuration_space_is_filtered(bench: &mut Bench) -> Check {
    let read = refused("configuration space is read");
    let vf = bench.stations[0].function;
    let (physical, virtual_id) = (bench.physical.read_config(ID).map_err(&read)?, vf.read_config(ID).map_err(&read)?);
    if (physical, virtual_id) != (0x10c9_8086, 0x10ca_8086) {
        return Err(format!("identities are {physical:#x} and {virtual_id:#x}"));
    }
    for function in [bench.physical, vf] {
        let bar = function.read_config(BAR0).map_err(&read)?;
        if bar & !0xf != 0 {
            return Err(format!("BAR 0 tells {bar:#x}"));
        }
        if error(function.write_config(BAR0, 0xfff0_0000)) != Some(Error::Forbidden) {
            return Err("BAR 0 can be written".into());
        }
        let before = function.read_config(COMMAND).map_err(&read)?;
        function.write_config(COMMAND, before & 0xffff ^ 0x6).map_err(refused("Status is written"))?;
        let after = function.read_config(COMMAND).map_err(&read)?;
        if (before ^ after) & 0xffff != 0 {
            return Err(format!("Command was {before:#x} and is {after:#x}"));
        }
    }
    // A bridge, which has windows, is nobody's.
    let info = |offset| word(ROOT_BOOT_INFO, offset) as u16;
    let first = info(boot_info::FIRST_FUNCTION);
    for index in first..first + info(boot_info::FUNCTIONS) {
        if !is_endpoint(Slot::root(index).cap()).map_err(&read)? {
            return Err(format!("function {index} is a bridge"));
        }
    }
    for (function, has_vfs) in [(bench.physical, true), (vf, false)] {
        let tried = try_everything(function).map_err(&read)?;
        if tried.attempts < 3 * 1000 || tried.msix == 0 || (tried.sriov != 0) != has_vfs || !tried.wrong.is_empty() {
            return Err(format!("every register was tried: {tried:x?}"));
        }
    }
    // The MSI-X table of a virtual function is in its BAR 3.
    if error(vf.bar(3, 0, bench.root.slot(), 1)) != Some(Error::Forbidden) {
        return Err("the page of the MSI-X table is handed out".into());
    }
    // The registers are where they were.
    goes_on(bench, 10)
}

/// Frames from one function to the other: by DMA through two domains, with an interrupt through the own IDT each, and no
/// exit for any of it.
pub fn a_frame_goes_by_dma_and_interrupt_with_no_exit(bench: &mut Bench) -> Check {
    // The first of each costs nothing else either; but what is counted is what goes on.
    for number in 0..3 {
        exchange(bench, number)?;
    }
    let (before, interrupts) = (exits(), bench.interrupts(1));
    for number in 3..13 {
        exchange(bench, number)?;
    }
    let (exits, interrupts) = (exits() - before, bench.interrupts(1) - interrupts);
    if exits != 0 || interrupts < 10 {
        return Err(format!("{exits} exits and {interrupts} interrupts for 10 frames"));
    }
    Ok(())
}

fn exchange(bench: &mut Bench, number: u8) -> Check {
    let payload = [number; 20];
    if !bench.send(0, &payload) {
        return Err(format!("no interrupt for frame {number}; {}", bench.stations[1].tell()));
    }
    match bench.stations[1].take() {
        Some(bytes) if bytes == frame(1, 0, &payload) => Ok(()),
        other => Err(format!("frame {number} arrived as {other:x?}")),
    }
}

/// The second of two messages comes late, as the device holds it back; the VM waits meanwhile, and its device wakes it.
pub fn a_device_wakes_a_waiting_vm(bench: &mut Bench) -> Check {
    const DELAY_US: u32 = 5_000;
    let station = &bench.stations[1];
    station.driver.set_interrupt_delay_us(0, DELAY_US);
    exchange(bench, 20)?;
    let before = bench.interrupts(1);
    bench.stations[0].send(&frame(1, 0, &[21; 20]));
    let start = userlib::clock::now();
    let ms = bench.root.tsc_hz / 1000;
    let waited = own::VCPU.wait(1 << 63, start + 100 * ms).map_err(refused("it waits"))?;
    let took = (userlib::clock::now() - start) / ms;
    core::hint::spin_loop();
    bench.stations[1].driver.set_interrupt_delay_us(0, 0);
    let interrupts = bench.interrupts(1) - before;
    if waited != 0 || took >= 50 || interrupts == 0 {
        return Err(format!("it waited for {took} ms, got events {waited:#x} and {interrupts} interrupts"));
    }
    match bench.stations[1].take() {
        Some(bytes) if bytes == frame(1, 0, &[21; 20]) => Ok(()),
        other => Err(format!("the frame arrived as {other:x?}")),
    }
}

/// Pages of the buffers that frames are received into.
const BUFFERS: core::ops::Range<u64> = 2..6;

/// Takes the buffers out of the reach of a station's function.
pub fn take_from_device(station: &Station) -> Result<(), Fault> {
    BUFFERS.into_iter().try_for_each(|page| station.frames.after((PAGES + page) as u16).delete())
}

/// Gives them back.
pub fn give_to_device(station: &Station) -> Result<(), Fault> {
    BUFFERS.into_iter().try_for_each(|page| {
        let copy = station.frames.after((PAGES + page) as u16);
        copy.copy(station.frames.after(page as u16).cap::<Frame>(), Rights::all())?.map_io(
            station.domain,
            station.io_base + page * 4096,
            READ_WRITE,
            0,
        )
    })
}

/// The second station forgets what it has received, and frames come through.
pub fn goes_on(bench: &mut Bench, number: u8) -> Check {
    drain(&mut bench.stations[1]);
    exchange(bench, number)
}

fn drain(station: &mut Station) {
    while station.take().is_some() {}
}

/// The device's capability to a page goes while buffers in it wait for frames: those that come then are not written, though
/// the unit has the translation cached; the VM still sees the page.
pub fn memory_that_is_taken_back_is_out_of_reach(bench: &mut Bench) -> Check {
    // All buffers are in four pages: each has been written to, so that its translation is cached.
    for number in 0..8 {
        exchange(bench, 40 + number)?;
    }
    let station = &bench.stations[1];
    let kept: [u64; 2048] = core::array::from_fn(|index| station.memory.load(1024 + index));
    take_from_device(station).map_err(refused("the pages are taken from the device"))?;
    for number in 0..4 {
        bench.send(0, &[60 + number; 20]);
    }
    let station = &mut bench.stations[1];
    if let Some(word) = (0..2048).find(|&index| station.memory.load(1024 + index) != kept[index]) {
        return Err(format!("word {word} was written after its page was taken back"));
    }
    // It gets the pages back, and goes on.
    give_to_device(station).map_err(refused("the pages are given back"))?;
    drain(station);
    exchange(bench, 70)
}

/// A lease is revoked while its function runs: nothing comes from it any more, its registers are gone, it is busy for the
/// time of its reset, and then somebody else's from the beginning.
pub fn a_lease_that_is_revoked_is_a_function_anew(bench: &mut Bench) -> Check {
    let vf: Cap<_> = bench.stations[1].function;
    let parent = vf.slot();
    // What the first holder made of the function itself goes with its reset.
    vf.reset().map_err(refused("the function is reset"))?;
    if error(vf.attach(bench.stations[1].domain)) != Some(Error::Busy) {
        return Err("a function in its reset is attached".into());
    }
    until_ready(vf, &bench.clock).map_err(refused("it comes out of its reset"))?;
    if error(vf.lease(bench.root.slot())) != Some(Error::InUse) {
        return Err("it is leased though its registers are mapped".into());
    }
    parent.revoke().map_err(refused("its registers are given back"))?;
    let lease = vf.lease(bench.root.slot()).map_err(refused("it is leased"))?;
    if error(vf.attach(bench.stations[1].domain)) != Some(Error::InUse) {
        return Err("what was leased is the parent's".into());
    }
    bench.stations[1].irq.unbind().map_err(refused("the route is unbound"))?;
    bench.stations[1].irq.slot().delete().map_err(refused("the route is given back"))?;
    let Bench { root, nic, clock, .. } = bench;
    let mut second = Station::new(root, nic, clock, 1, lease).map_err(refused("the lease is used"))?;
    core::mem::swap(&mut second, &mut bench.stations[1]);
    exchange(bench, 80)?;
    let before = bench.interrupts(1);
    let words: [u64; 4096] = core::array::from_fn(|index| bench.stations[1].memory.load(index));
    parent.revoke().map_err(refused("the lease is revoked"))?;
    if error(lease.info()) != Some(Error::InvalidCapability) {
        return Err("the lease is still there".into());
    }
    for number in 0..4 {
        bench.stations[0].send(&frame(1, 0, &[90 + number; 20]));
        bench.clock.pause();
    }
    if bench.interrupts(1) != before {
        return Err("an interrupt came after the revocation".into());
    }
    if (0..4096).any(|index| bench.stations[1].memory.load(index) != words[index]) {
        return Err("memory was written after the revocation".into());
    }
    if error(vf.lease(bench.root.slot()).and_then(|lease| lease.info())) != Some(Error::Busy) {
        return Err("the function can be used at once".into());
    }
    Ok(())
}
