//! The roles, in a VM: those that send frames are here.

use crate::frame::{BYTES, Mac, build, is_ours, parse, turn};
use crate::malformed::{self, MOST_BYTES, Target};
use app_net::smoltcp::wire::Ipv4Address;
use userlib::draw::Draw;
use userlib::market::{Event, FixedBid, Price, Quantity};
use userlib::nic::{BUFFER_BYTES, Nic, SendError};
use userlib::{App, Error, clock, println};

/// Frames of `malform`, if it is not told, and the port that they are for.
const FRAMES: u64 = 1_000;
const KV_PORT: u16 = 11211;
/// Milliseconds that it runs for, if it is not told.
const RUN_MS: u64 = 1_000;
/// Microseconds after which `flood` tries again when it may not send.
const FULL_US: u64 = 100;
/// Bytes of a frame of `flood`, if it is not told.
const FLOOD_BYTES: u64 = 1024;
/// Microseconds after which a frame counts as lost.
const LOST_US: u64 = 20_000;

/// The application.
///
/// # Errors
/// When it has no virtual function, or its role is none.
pub fn run(app: &mut App) -> Result<(), Error> {
    match app.arg("role") {
        Some("serve") => crate::serve::run(app),
        Some("ask") => crate::ask::run(app),
        Some("stray") => crate::stray::run(app),
        Some("hold") => {
            let end = app.clock().in_us(1_000 * app.number("for", RUN_MS));
            crate::hold::run(app, end)
        }
        _ => frames(app),
    }
}

/// Roles that send frames.
fn frames(app: &mut App) -> Result<(), Error> {
    let mut nic = app.nic()?;
    let end = app.clock().in_us(1_000 * app.number("for", RUN_MS));
    while !nic.link_is_up() && clock::now() < end {
        app.sleep_until(app.clock().in_us(1_000));
    }
    println!("link up, address {:02x?}", nic.mac());
    match app.arg("role") {
        Some("echo") => echo(app, &mut nic, end),
        Some("listen") => listen(app, &mut nic, end),
        Some(role @ ("ping" | "flood" | "malform")) => {
            let peer = app.arg("peer").and_then(parse).ok_or(Error::failed("`peer` must be an Ethernet address"))?;
            match role {
                "ping" => ping(app, &mut nic, peer, end),
                "flood" => flood(app, &mut nic, peer, end),
                _ => malform(app, &mut nic, peer, end),
            }
        }
        _ => Err(Error::failed(
            "`role` must be `serve`, `ask`, `echo`, `ping`, `listen`, `flood`, `malform`, `stray` or `hold`",
        )),
    }
}

fn echo(app: &mut App, nic: &mut Nic, end: u64) -> Result<(), Error> {
    let (mut frame, mut echoed) = ([0; BUFFER_BYTES], 0);
    let own = nic.mac();
    while clock::now() < end {
        while let Some(length) = nic.receive(&mut frame) {
            if turn(&mut frame[..length], own) && nic.send(&frame[..length]).is_ok() {
                echoed += 1;
            }
        }
        rest(app, nic, end)?;
        app.work_done(echoed, 0);
    }
    println!("{echoed} frames echoed");
    Ok(())
}

fn ping(app: &mut App, nic: &mut Nic, peer: Mac, end: u64) -> Result<(), Error> {
    let (mut back, mut lost, mut wrong) = (0u64, 0u64, 0u64);
    let mut frame = [0; BUFFER_BYTES];
    let own = nic.mac();
    let mut number = 0;
    while clock::now() < end {
        number += 1;
        let sent = nic.send(&build(peer, own, number)).is_ok();
        let expected = build(own, peer, number);
        let deadline = app.clock().in_us(LOST_US).min(end);
        let mut answered = false;
        while sent && !answered && clock::now() < deadline {
            match nic.receive(&mut frame) {
                Some(length) if frame[..length] == expected => answered = true,
                // One that counted as lost comes late.
                Some(length) if length == BYTES && is_ours(&frame) => wrong += u64::from(frame[..12] != expected[..12]),
                Some(_) => {}
                None => drop(rest(app, nic, deadline)?),
            }
        }
        if answered {
            back += 1;
        } else {
            lost += 1;
        }
        if number % 64 == 0 {
            app.work_done(back, 0);
        }
    }
    app.work_done(back, 0);
    println!("{back} frames came back, {lost} did not, {wrong} were somebody else's, {} faults", nic.faults());
    Ok(())
}

fn listen(app: &mut App, nic: &mut Nic, end: u64) -> Result<(), Error> {
    let (mut frame, mut heard) = ([0; BUFFER_BYTES], 0);
    while clock::now() < end {
        while let Some(length) = nic.receive(&mut frame) {
            heard += u64::from(is_ours(&frame[..length]));
        }
        rest(app, nic, end)?;
    }
    app.work_done(heard, 0);
    println!("{heard} frames heard");
    Ok(())
}

fn flood(app: &mut App, nic: &mut Nic, peer: Mac, end: u64) -> Result<(), Error> {
    let mut frame = [0x5a; BUFFER_BYTES];
    frame[..BYTES].copy_from_slice(&build(peer, nic.mac(), 0));
    let bytes = (app.number("bytes", FLOOD_BYTES) as usize).clamp(BYTES, BUFFER_BYTES);
    let frame = &frame[..bytes];
    let want = Quantity(app.number("want", 0) as u32);
    bid(app, want)?;
    let mut sent = 0;
    println!("sends from {} us of the run on", app.clock().us_at(clock::now()));
    while clock::now() < end {
        match nic.send(frame) {
            Ok(()) => sent += 1,
            Err(SendError::Full) => match rest(app, nic, app.clock().in_us(FULL_US).min(end))? {
                Some(Event::Valuation { .. }) => bid(app, want)?,
                _ => app.work_done(sent, 0),
            },
            Err(SendError::Length) => return Err(Error::failed("a frame that is too long")),
        }
    }
    println!("{sent} frames sent");
    Ok(())
}

fn malform(app: &mut App, nic: &mut Nic, peer: Mac, end: u64) -> Result<(), Error> {
    let address =
        |name| app.arg(name).and_then(|text| text.parse::<Ipv4Address>().ok()).map(|address| address.octets());
    let addresses = (address("from"), address("target"));
    let (Some(from), Some(address)) = addresses else { return Err(Error::failed("`from` and `target` are addresses")) };
    let target = Target { mac: peer, address, port: KV_PORT };
    let (mut draw, frames) = (Draw(app.number("seed", 1)), app.number("frames", FRAMES));
    let (mut frame, mut sent) = ([0; MOST_BYTES], 0);
    while sent < frames && clock::now() < end {
        let length = malformed::build(&mut draw, (nic.mac(), from), &target, &mut frame);
        // None is lost for want of room.
        while nic.send(&frame[..length]).is_err() && clock::now() < end {
            rest(app, nic, app.clock().in_us(FULL_US).min(end))?;
        }
        sent += 1;
        // As others, it takes in what comes, and does nothing with it.
        while nic.receive(&mut []).is_some() {}
    }
    app.work_done(sent, frames);
    println!("{sent} malformed frames sent");
    Ok(())
}

/// Bids for bandwidth, if any is wanted, what a unit of work is worth.
fn bid(app: &mut App, units: Quantity) -> Result<(), Error> {
    let Some(good) = app.bandwidth_good().filter(|_| units > Quantity::ZERO) else { return Ok(()) };
    let bid = FixedBid { units, value: app.value_of_work(), keep: Price::ZERO };
    Ok(app.market().bid_by(good, &bid)?)
}

/// Waits for a frame or for the market, of which it tells, and looks what the physical function says.
fn rest(app: &mut App, nic: &mut Nic, deadline: u64) -> Result<Option<Event>, Error> {
    let event = nic.wait(app, deadline)?;
    if event == Some(Event::NicReset) {
        nic.reset(app)?;
    }
    if event == Some(Event::NicReset) || nic.look_after(app)? {
        println!("the function was reset and is up again");
    }
    Ok(event)
}
