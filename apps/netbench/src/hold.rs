//! The role `hold`: a virtual function that comes and goes by its price.

use crate::frame::{has, who_has};
use userlib::market::{Event, FixedBid, Price, Quantity};
use userlib::nic::{BUFFER_BYTES, Nic};
use userlib::{App, Error, clock, println};

/// The gateway of the emulator's network.
const GATEWAY: [u8; 4] = [10, 0, 2, 2];
/// Microseconds between two questions.
const ASK_US: u64 = 5_000;

/// Holds a function whenever it wins one, until `end`.
///
/// # Errors
/// When functions are not sold, or the market or a function does not answer.
pub fn run(app: &mut App, end: u64) -> Result<(), Error> {
    let good = app.vf_good().ok_or(Error::failed("virtual functions are not sold"))?;
    bid(app, good)?;
    let (mut nic, mut answers, mut next_ask): (Option<Nic>, u64, u64) = (None, 0, 0);
    while clock::now() < end {
        // An interval after the notice it is gone.
        let use_ends = app.vf_use_ends().unwrap_or(end).min(end);
        if clock::now() >= use_ends && nic.take().is_some() {
            println!("{answers} answers, and it is let go of");
            answers = 0;
        }
        let event = if let Some(nic) = nic.as_mut() {
            nic.look_after(app)?;
            answers += count_answers(nic);
            if clock::now() >= next_ask {
                // If there is no room, there are questions enough.
                let _ = nic.send(&who_has(GATEWAY, nic.mac()));
                next_ask = app.clock().in_us(ASK_US);
            }
            nic.wait(app, next_ask.min(use_ends))?
        } else {
            app.wait(end)?
        };
        match event {
            // One that comes so late that it goes at once is left alone.
            Some(Event::VfLeased) if app.vf_use_ends().is_none_or(|ends| clock::now() < ends) => {
                nic = bring_up(app)?;
            }
            Some(Event::Notice(notice)) if notice.good == good => println!("notice after {answers} answers"),
            Some(Event::VfTaken) => println!("the function is gone"),
            Some(Event::Valuation { .. }) => bid(app, good)?,
            Some(Event::NicReset) => nic.as_mut().map_or(Ok(()), |nic| nic.reset(app))?,
            _ => {}
        }
    }
    println!("{answers} answers at the end");
    Ok(())
}

/// The function, unless the network server does not let it through in time.
fn bring_up(app: &mut App) -> Result<Option<Nic>, Error> {
    match app.nic() {
        Ok(nic) => {
            println!("a function has come");
            Ok(Some(nic))
        }
        Err(Error::NoFunction) => Ok(None),
        Err(error) => Err(error),
    }
}

fn bid(app: &mut App, good: u16) -> Result<(), Error> {
    let bid = FixedBid { units: Quantity(1), value: app.value_of_work(), keep: Price::ZERO };
    Ok(app.market().bid_by(good, &bid)?)
}

/// Takes what has come in, and counts the answers.
fn count_answers(nic: &mut Nic) -> u64 {
    let (own, mut frame, mut answers) = (nic.mac(), [0; BUFFER_BYTES], 0);
    while let Some(length) = nic.receive(&mut frame) {
        answers += u64::from(has(&frame[..length], GATEWAY, own));
    }
    answers
}
