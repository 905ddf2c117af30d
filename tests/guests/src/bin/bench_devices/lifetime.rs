//! Rows of a virtual function's life: leased and used, taken back, leased again; and of what DMA reaches.

use crate::pair::Pair;
use crate::refused;
use alloc::format;
use alloc::string::String;
use device::Clock;
use guests::card;
use guests::function::{BOTH, until_ready};
use guests::measure::{Counted, IoCost, Meter, RUNS, tell_figure, tell_io, tell_longest_hold};
use guests::root::{Root, tsc};
use net::smoltcp::phy::{Device, RxToken, TxToken};
use net::smoltcp::time::Instant;
use userlib::cap::{Cap, Fault, Frame, IommuDomain, PageTable, PciFunction, Untyped};

/// The function that comes and goes.
const NUMBER: u16 = 2;
/// Leases that are measured.
const LEASES: usize = 4;
/// Where frames are mapped for a device.
const IO: u64 = 0x4000_0000;
/// EtherType for experiments (IEEE 802).
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];
/// Most frames of others that come first.
const OTHERS: usize = 16;

/// All rows.
pub fn measure(root: &mut Root, pair: &mut Pair) -> Result<(), String> {
    domains(root, pair).map_err(refused("frames are mapped for a device"))?;
    leases(root, pair)?;
    let taken = take_much(root, pair.card.capability(NUMBER));
    taken.and_then(|()| tell_longest_hold(root, "virtual functions")).map_err(refused("much is taken from a function"))
}

/// A whole table of frames is mapped for a function: then everything goes at once.
fn take_much(root: &mut Root, function: Cap<PciFunction>) -> Result<(), Fault> {
    const ROWS: u64 = 8;
    let mark = root.mark();
    let memory: Cap<Untyped> = root.make(22)?;
    let domain: Cap<IommuDomain> = memory.retype(0, root.slot())?;
    for level in [2, 1] {
        let table: Cap<PageTable> = memory.retype(0, root.slot())?;
        table.map_io(domain, IO, level)?;
    }
    function.attach(domain)?;
    for row in 0..ROWS {
        let frames = root.slots(64);
        memory.retype_many::<Frame>(12, frames, 64)?;
        frames.cap::<Frame>().map_io(domain, IO + (row << 18), BOTH, 63)?;
    }
    memory.revoke()?;
    root.return_to(mark)
}

/// Frames of a domain that a function is attached to: what is unmapped is flushed, and the IOMMU waited for.
fn domains(root: &mut Root, pair: &Pair) -> Result<(), Fault> {
    let function = pair.card.capability(NUMBER);
    let domain: Cap<IommuDomain> = root.make(0)?;
    for level in [2, 1] {
        root.make::<PageTable>(0)?.map_io(domain, IO, level)?;
    }
    until_ready(function, &pair.clock)?;
    function.attach(domain)?;
    let first = root.slots(64);
    for page in 0..64 {
        let frame = root.make::<Frame>(12)?;
        first.after(page).move_from(frame)?;
    }
    let mut meter = Meter::new(|| card::interrupts(NUMBER));
    for count in [1, 64] {
        let frames: Cap<Frame> = first.cap();
        let worst = IoCost { ticks: u64::MAX, ..IoCost::default() };
        let (mut mapped, mut unmapped) = (worst, worst);
        for _ in 0..RUNS {
            meter.start();
            frames.map_io(domain, IO, BOTH, count - 1)?;
            meter.stop();
            mapped = mapped.min(meter.take());
            meter.start();
            frames.unmap_row(count - 1)?;
            meter.stop();
            unmapped = unmapped.min(meter.take());
        }
        for (what, cost) in [("map", mapped), ("unmap", unmapped)] {
            let each = if count == 1 { "1 frame" } else { "64 frames, each" };
            let per_row = IoCost { exits: cost.exits * count, ..cost };
            tell_io(root, &format!("IOMMU {what} of {each}"), count, per_row);
        }
    }
    function.detach()
}

fn leases(root: &mut Root, pair: &mut Pair) -> Result<(), String> {
    let worst = IoCost { ticks: u64::MAX, ..IoCost::default() };
    let (mut bought, mut revoked, mut ready) = (worst, worst, u64::MAX);
    let mut meter = Meter::new(|| card::interrupts(NUMBER));
    let parent = pair.card.capability(NUMBER);
    until_ready(parent, &pair.clock).map_err(refused("the function is ready"))?;
    for lease in 0..LEASES as u8 {
        let mark = root.mark();
        meter.start();
        let function = parent.lease(root.slot()).map_err(refused("the function is leased"))?;
        let mut vf = pair.card.function(root, NUMBER, function, Counted).map_err(refused("the function is set up"))?;
        let now = Instant::from_micros((pair.clock.now_ns() / 1000) as i64);
        let to = vf.port.transmit(now).ok_or("there is no room for a frame")?;
        to.consume(64, |frame| {
            frame.fill(lease);
            frame[..6].copy_from_slice(&card::mac(1).0);
            frame[6..12].copy_from_slice(&vf.mac.0);
            frame[12..14].copy_from_slice(&EXPERIMENT);
        });
        vf.port.flush();
        meter.stop();
        bought = bought.min(meter.take());
        let arrived = (0..OTHERS).any(|_| match pair.client().port().receive(now) {
            Some((frame, _)) => {
                frame.consume(|frame| frame[6..] == [&vf.mac.0[..], &EXPERIMENT, &[lease; 50]].concat())
            }
            None => false,
        });
        if !arrived {
            return Err("the first frame did not arrive".into());
        }
        let start = tsc();
        meter.start();
        parent.revoke().map_err(refused("the lease is revoked"))?;
        meter.stop();
        revoked = revoked.min(meter.take());
        until_ready(parent, &pair.clock).map_err(refused("the function is ready again"))?;
        ready = ready.min((tsc() - start) / (root.tsc_hz / 1_000_000));
        root.return_to(mark).map_err(refused("what the lease had is given back"))?;
    }
    tell_io(root, "virtual function: buy to first packet", 1, bought);
    tell_io(root, "virtual function: revoke", 1, revoked);
    // It is asked again and again meanwhile: that says nothing.
    tell_figure(root, "virtual function: revoke to reusable, in microseconds", ready);
    Ok(())
}
