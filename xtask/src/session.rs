//! A machine under observation: its output is logged, its records are collected, and its end is judged.
//!
//! `cargo xtask run`, the bench and the end-to-end tests all drive a [`Session`]; they differ in what they show.

use crate::emulator::{Config, Machine, Output};
use crate::run_state::RunState;
use crate::setup::Tools;
use anyhow::{Context, Result};
use proto::host::{Command, Record};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// Console lines that an error message repeats.
const LAST_LINES: usize = 20;
/// How long a machine has for going off after its last record.
const OFF_GRACE: Duration = Duration::from_secs(10);
/// How the kernel's epitaph starts on the console.
pub const EPITAPH: &str = "nonkernel: EPITAPH";
/// The status with which QEMU ends when the value 0x10 was written to its exit port.
const GOOD_STATUS: i32 = (0x10 << 1) | 1;

/// What [`Session::next`] saw; records are in the state already.
#[derive(Debug)]
pub enum Seen {
    /// A console line.
    Line(String),
    /// A record.
    Record(Record),
    /// The machine is off.
    Off,
    /// Nothing until the deadline.
    Nothing,
}

/// A running machine with everything it has told.
pub struct Session {
    machine: Machine,
    /// What its records told.
    pub state: RunState,
    /// Its console, line by line.
    pub console: Vec<String>,
    log: Option<BufWriter<File>>,
    started: Instant,
    last_record: Option<Instant>,
    status: Option<ExitStatus>,
}

impl Session {
    /// Starts a machine. The console is also written to `log`, if given.
    ///
    /// # Errors
    /// When the emulator can't be started or the log can't be written.
    pub fn start(tools: &Tools, config: &Config, state: RunState, log: Option<&Path>) -> Result<Session> {
        let log = match log {
            Some(path) => {
                let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
                Some(BufWriter::new(file))
            }
            None => None,
        };
        let machine = Machine::start(tools, config)?;
        let console = Vec::new();
        Ok(Session { machine, state, console, log, started: Instant::now(), last_record: None, status: None })
    }

    /// The next thing that happens, at most until `deadline`.
    ///
    /// # Errors
    /// When the emulator's end can't be learnt.
    pub fn next(&mut self, deadline: Instant) -> Result<Seen> {
        if self.status.is_some() {
            return Ok(Seen::Off);
        }
        match self.machine.next(deadline)? {
            None => Ok(Seen::Nothing),
            Some(Output::Line(line)) => {
                if let Some(log) = self.log.as_mut() {
                    let _ = writeln!(log, "{line}").and_then(|()| log.flush());
                }
                self.console.push(line.clone());
                Ok(Seen::Line(line))
            }
            Some(Output::Record(record)) => {
                self.state.apply(&record);
                if matches!(record, Record::End { .. }) {
                    self.last_record = Some(Instant::now());
                }
                Ok(Seen::Record(record))
            }
            Some(Output::Off(status)) => {
                self.status = Some(status);
                Ok(Seen::Off)
            }
        }
    }

    /// Sends a command to the market server.
    ///
    /// # Errors
    /// When the machine is off.
    pub fn send(&mut self, command: &Command) -> Result<()> {
        self.machine.send(command)
    }

    /// Wall time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// True when the machine sent its last record and still isn't off long after.
    pub fn is_stuck(&self) -> bool {
        self.status.is_none() && self.last_record.is_some_and(|last| last.elapsed() > OFF_GRACE)
    }

    /// Ends the emulator now.
    pub fn stop(&mut self) {
        self.machine.stop();
    }

    /// The kernel's epitaph and what follows it, if the kernel panicked.
    pub fn epitaph(&self) -> Option<&[String]> {
        let start = self.console.iter().position(|line| line.contains(EPITAPH))?;
        Some(&self.console[start..])
    }

    /// Why the run wasn't good, if it wasn't. Call it when the machine is off.
    pub fn failure(&self) -> Option<String> {
        if self.epitaph().is_some() {
            return Some("the kernel panicked".into());
        }
        let failure = self.state.failure();
        let odd = self.status.filter(|status| status.code() != Some(GOOD_STATUS));
        match (failure, odd) {
            (Some(failure), Some(status)) if self.state.end.is_none() => {
                Some(format!("{failure} (the emulator: {status})"))
            }
            (Some(failure), _) => Some(failure),
            (None, Some(status)) => Some(format!("the emulator ended with {status}, not with its good status")),
            (None, None) if self.machine.damaged() > 0 => {
                Some(format!("{} bytes of the record line were damaged", self.machine.damaged()))
            }
            (None, None) => None,
        }
    }

    /// The console's last lines, or the whole epitaph, for an error message.
    pub fn last_lines(&self) -> String {
        let lines = self.epitaph().unwrap_or(&self.console);
        let first = if self.epitaph().is_some() { 0 } else { lines.len().saturating_sub(LAST_LINES) };
        if lines.is_empty() {
            return "the console is empty".into();
        }
        let shown: String = lines[first..].iter().map(|line| format!("\n  {line}")).collect();
        format!("the console's last lines:{shown}")
    }
}
