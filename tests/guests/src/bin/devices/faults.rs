//! What the IOMMU stops, as the holders of domains and of the machine are told it.

use crate::station::{Bench, IO_BASES, PAGES, frame};
use crate::{Check, refused};
use alloc::format;
use cap_spec::abi::{FaultRecord, Stopped, slots};
use device::{Clock, IoAddress};
use guests::root::exits;
use userlib::cap::{Cap, Channel, Fault, Machine, Rights, Slot, own};

/// Events of the handlers: of the stations' domains, and of the machine.
const OF_STATIONS: [u64; 2] = [1 << 40, 1 << 41];
const OF_MACHINE: u64 = 1 << 42;
const ALL: u64 = OF_STATIONS[0] | OF_STATIONS[1] | OF_MACHINE;
/// The virtual functions of the adapter at 01:00.0: first offset 0x80, stride 2.
const REQUESTERS: [u16; 2] = [0x180, 0x182];
/// A page that no domain maps.
const NOWHERE: u64 = 0x7654_3000;

/// The machine's capability, which tells of every fault.
pub const MACHINE: Cap<Machine> = Slot::root(slots::MARKET).cap();

/// A new channel, the other end of which is the root VM's, for this event.
fn channel(bench: &mut Bench, event: u64) -> Result<Cap<Channel>, Fault> {
    let channel = bench.root.make::<Channel>(0)?;
    bench.root.slot().mint(channel, Rights::all(), 2)?.bind(own::VCPU, event)?;
    Ok(channel)
}

/// Everybody names a handler.
pub fn name_handlers(bench: &mut Bench) -> Result<(), Fault> {
    for (station, event) in OF_STATIONS.into_iter().enumerate() {
        let channel = channel(bench, event)?;
        bench.stations[station].domain.set_handler(channel)?;
    }
    let channel = channel(bench, OF_MACHINE)?;
    MACHINE.set_handler(channel)
}

/// Forgets what was told so far; afterwards nothing is held back any more, which it is for 64 ms at most.
pub fn forget(bench: &Bench) -> Result<(), Fault> {
    let ms = bench.root.tsc_hz / 1000;
    while own::VCPU.wait(ALL, userlib::clock::now() + 70 * ms)? != 0 {}
    for station in &bench.stations {
        while station.domain.take_fault()?.record.is_some() {}
    }
    while MACHINE.take_fault()?.record.is_some() {}
    Ok(())
}

/// What was forgotten before this, and this alone, has been stopped of a station: at any address of this page.
pub fn is_stopped(bench: &Bench, station: usize, wanted: Stopped) -> Check {
    is_told(bench, station, |stopped| stopped == wanted)
}

/// One fault of a station has come: its holder and the machine's are told of it, alike, and the other one is not.
fn is_told(bench: &Bench, station: usize, is_right: impl Fn(Stopped) -> bool) -> Check {
    let asked = refused("what was stopped is asked for");
    let mut events = 0;
    while events & OF_MACHINE == 0 {
        let end = userlib::clock::now() + bench.root.tsc_hz / 100;
        match own::VCPU.wait(ALL, end).map_err(&asked)? {
            0 => return Err(format!("nobody is told; events {events:#x}")),
            more => events |= more,
        }
    }
    if events != OF_STATIONS[station] | OF_MACHINE {
        return Err(format!("events {events:#x} for a fault of station {station}"));
    }
    let told = bench.stations[station].domain.take_fault().map_err(&asked)?.record;
    match told {
        Some(FaultRecord { requester, stopped, .. }) if requester == REQUESTERS[station] && is_right(stopped) => {}
        _ => return Err(format!("station {station} is told {told:x?}")),
    }
    let other = bench.stations[station ^ 1].domain.take_fault().map_err(&asked)?;
    let all = MACHINE.take_fault().map_err(&asked)?.record;
    if other.record.is_some() || all != told {
        return Err(format!("the other holder is told {other:x?}, the machine's {all:x?}"));
    }
    Ok(())
}

/// A read and a write that the unit stops, each by the function of one holder.
pub fn what_is_stopped_is_told_to_whom_it_concerns(bench: &mut Bench) -> Check {
    let told = refused("the handlers are named");
    let ids = [0, 1].map(|station| bench.stations[station].function.info().map(|info| info.requester));
    if ids != REQUESTERS.map(Ok) {
        return Err(format!("the functions are {ids:x?}"));
    }
    forget(bench).map_err(&told)?;
    bench.stations[0].send_from(IoAddress(NOWHERE), 64);
    is_told(bench, 0, |stopped| stopped == Stopped::Read(NOWHERE))?;
    forget(bench).map_err(&told)?;
    // A frame for which the other one has no buffer that it could write.
    crate::checks::take_from_device(&bench.stations[1]).map_err(&told)?;
    bench.stations[0].send(&frame(1, 0, &[31; 20]));
    is_told(
        bench,
        1,
        |stopped| matches!(stopped, Stopped::Write(page) if (IO_BASES[1]..IO_BASES[1] + PAGES * 4096).contains(&page)),
    )?;
    crate::checks::give_to_device(&bench.stations[1]).map_err(&told)?;
    crate::checks::goes_on(bench, 32)
}

/// Faults without end interrupt the core once in a millisecond at most, and ever more rarely.
pub fn a_storm_of_faults_costs_one_nmi_in_a_millisecond(bench: &mut Bench) -> Check {
    const MS: u64 = 10;
    forget(bench).map_err(refused("nothing is left"))?;
    let (before, start) = (exits(), bench.clock.now_ns());
    let mut sent = 0;
    while bench.clock.now_ns() < start + MS * 1_000_000 {
        bench.stations[0].send_from(IoAddress(NOWHERE + sent % 16 * 4096), 64);
        sent += 1;
        let pause = bench.clock.now_ns() + 20_000;
        while bench.clock.now_ns() < pause {
            core::hint::spin_loop();
        }
    }
    let exits = exits() - before;
    let told = MACHINE.take_fault().map_err(refused("what was stopped is asked for"))?.record.is_some();
    forget(bench).map_err(refused("nothing is left"))?;
    if sent < 100 || !told || exits > 6 {
        return Err(format!("{exits} exits for {sent} faults in {MS} ms, told: {told}"));
    }
    crate::checks::goes_on(bench, 33)
}
