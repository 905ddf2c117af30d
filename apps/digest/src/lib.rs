//! `digest`: SHA-256 and line, word and byte counts of its input before a deadline, bought as needed.
//!
//! It wants CPU time and nothing else. How much it bids for follows from what is left to do, how fast it goes, and how
//! long the deadline is away ([`userlib::market::TargetDeadline`]); a KiB done is worth the application's valuation.
//! The result, `digest.txt`, has two lines: the one that `sha256sum` prints and the one that `wc` prints (with
//! `LC_ALL=C`).
//!
//! Arguments: `name=NAME`, the file name in both lines (`-`); `passes=N`, how often the input is read (1): each pass
//! must give the same digest, as when a store is verified.
#![no_std]

extern crate alloc;

mod buy;
mod counts;

pub use buy::{Job, Speed};
pub use counts::Counts;

use core::fmt::{self, Write};

use sha2::{Digest as _, Sha256};
use userlib::clock::CpuTimer;
use userlib::console::File;
use userlib::market::{Credits, Price};
use userlib::{App, Error, println};

/// Bytes between two looks at the market. Few enough to be done within one period's budget, so that most pieces are not
/// interrupted and the time they take is CPU time.
const PIECE: usize = 1024;
/// Progress is reported this often.
const REPORTS: usize = 50;
/// Bytes that are a unit of work.
const UNIT: u64 = 1024;

/// Digest and counts of some bytes.
#[derive(Clone, Debug, Default)]
pub struct Digest {
    hash: Sha256,
    counts: Counts,
}

/// A digest that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Result {
    /// SHA-256.
    pub sha256: [u8; 32],
    /// Counts.
    pub counts: Counts,
}

impl Digest {
    /// Takes in further bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.counts.update(bytes);
    }

    /// The digest of all bytes that were taken in.
    pub fn finish(self) -> Result {
        Result { sha256: self.hash.finalize().into(), counts: self.counts }
    }
}

impl Result {
    /// The two lines, for a file of this name.
    pub fn write(&self, name: &str, out: &mut impl Write) -> fmt::Result {
        for byte in self.sha256 {
            write!(out, "{byte:02x}")?;
        }
        writeln!(out, "  {name}")?;
        self.counts.write(name, out)
    }
}

/// The application.
pub fn run(app: &mut App) -> core::result::Result<(), Error> {
    let input = app.input();
    let passes = app.number("passes", 1).max(1);
    let total = (input.len() as u64).saturating_mul(passes);
    let mut job = Job::new(total, app.deadline());
    let mut results = (0..passes).map(|_| pass(app, input, &mut job));
    let first = results.next().ok_or_else(|| Error::failed("no pass"))??;
    for other in results {
        if other? != first {
            return Err(Error::failed("the input has changed between two passes"));
        }
    }
    let cpu = app.cpu_good();
    app.market().bid(cpu, &userlib::market::Offer::NONE)?;
    app.work_done(total / UNIT, total / UNIT);
    let mut file = File::create("digest.txt");
    let name = app.arg("name").unwrap_or("-");
    // Writing to an output file does not fail.
    let _ = first.write(name, &mut file);
    file.close();
    let now = userlib::clock::now();
    match app.deadline() {
        Some(deadline) if now > deadline => {
            println!("late by {} us", app.clock().us_of_ticks(now - deadline));
        }
        Some(deadline) => println!("in time, with {} us to spare", app.clock().us_of_ticks(deadline - now)),
        None => println!("done after {} us", app.clock().us_at(now)),
    }
    Ok(())
}

/// Reads the input once.
fn pass(app: &mut App, input: &[u8], job: &mut Job) -> core::result::Result<Result, Error> {
    let mut digest = Digest::default();
    let report_every = (input.len() / REPORTS).max(PIECE);
    let mut next_report = report_every;
    let mut done = 0;
    for piece in input.chunks(PIECE) {
        bid(app, job)?;
        let timer = CpuTimer::start();
        digest.update(piece);
        job.did(piece.len() as u64, timer.undisturbed());
        done += piece.len();
        if done >= next_report {
            app.work_done(job.done() / UNIT, job.total() / UNIT);
            next_report += report_every;
        }
    }
    Ok(digest.finish())
}

/// Takes in what happened in the market, and bids for what is left to do. Once in a round; the first time at once.
fn bid(app: &mut App, job: &mut Job) -> core::result::Result<(), Error> {
    let good = app.cpu_good();
    // What happened shows in board and holding; nothing else needs an answer here: CPU time shrinks by itself.
    while app.poll()?.is_some() {}
    let Some(line) = app.market().line(good) else {
        return Ok(());
    };
    if !job.is_due(line.round.0) {
        return Ok(());
    }
    let deadline = app.deadline().map(|deadline| app.interval_before(good, deadline));
    let price = mean(app.market().history(good).rev().take(32).map(|round| round.clearing), line.clearing);
    let unit_ticks = app.interval_ticks(good) / u64::from(userlib::market::UNITS_PER_CORE);
    let per_byte = Credits(i128::from(app.value_of_work().0));
    let offer = job.offer(&line, &app.market().holding(good), unit_ticks, per_byte, price, deadline);
    Ok(app.market().bid(good, &offer)?)
}

/// The mean price, or `otherwise` if there is none.
fn mean(prices: impl Iterator<Item = Price>, otherwise: Price) -> Price {
    let (sum, count) = prices.fold((0u128, 0u128), |(sum, count), price| (sum + u128::from(price.0), count + 1));
    sum.checked_div(count).and_then(|mean| u64::try_from(mean).ok()).map_or(otherwise, Price)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use alloc::string::String;

    fn lines(bytes: &[u8]) -> String {
        let mut digest = Digest::default();
        for piece in bytes.chunks(3) {
            digest.update(piece);
        }
        let mut text = String::new();
        digest.finish().write("x", &mut text).unwrap();
        text
    }

    /// What the tools themselves say.
    #[test]
    fn both_lines_are_those_of_the_tools() {
        let binary: alloc::vec::Vec<u8> = (0..=255).cycle().take(5000).collect();
        let inputs: [&[u8]; 5] = [b"", b"one\n", b"a b\ncd", b"\x01 \xc3\xa4 b\0c\x0bd\r\n\n  e", &binary];
        for (at, input) in inputs.into_iter().enumerate() {
            let folder = std::env::temp_dir().join(std::format!("digest-test-{}-{at}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("x"), input).unwrap();
            let tool = |name: &str| {
                let output = std::process::Command::new(name).arg("x").current_dir(&folder).env("LC_ALL", "C").output();
                String::from_utf8(output.expect("the tool runs").stdout).unwrap()
            };
            assert_eq!(lines(input), tool("sha256sum") + &tool("wc"), "input {at}");
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }

    #[test]
    fn a_mean_of_nothing_is_the_price_now() {
        assert_eq!(mean([].into_iter(), Price(7)), Price(7));
        assert_eq!(mean([Price(2), Price(5)].into_iter(), Price(7)), Price(3));
    }
}
