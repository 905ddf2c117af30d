//! A machine under observation: its output is logged, its records are collected, and its end is judged.
//!
//! `cargo xtask run`, the bench and the end-to-end tests all drive a [`Session`]; they differ in what they show.

use crate::emulator::{Acceleration, Config, Machine, Output};
use crate::epitaph::{Epitaph, Event, events_from_line};
use crate::pace::Pace;
use crate::run_state::{History, RunState};
use crate::setup::Tools;
use anyhow::{Context, Result};
use kernel::epitaph::{EPITAPH_MARK, EVENTS_MARK, EventKind};
use proto::host::{Command, Record, TOLD_TO_END};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// Console lines that an error message repeats.
const LAST_LINES: usize = 20;
/// How long a machine has for going off after its last record.
const OFF_GRACE: Duration = Duration::from_secs(10);
/// Events of each core that an error message repeats.
const LAST_EVENTS: usize = 8;
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
    pub console: History<String>,
    log: Option<BufWriter<File>>,
    started: Instant,
    last_record: Option<Instant>,
    status: Option<ExitStatus>,
    /// If the machine's clock is kept from running ahead of the host's.
    pace: Option<Pace>,
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
        let pace = (config.acceleration == Acceleration::PacedClock).then(Pace::default);
        let (console, started) = (History::default(), Instant::now());
        Ok(Session { machine, state, console, log, started, last_record: None, status: None, pace })
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
                let now = Instant::now();
                if let Some(pause) = self.pace.as_mut().and_then(|pace| pace.pause(now, self.state.now)) {
                    self.machine.pause(pause);
                }
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

    /// True if the machine ended in good order and nothing is wrong but that it was told to end.
    pub fn ended_when_told(&self) -> bool {
        let off = self.status.is_some_and(|status| status.code().is_some_and(|code| code & 1 == 1));
        let agree = self.state.verified.as_ref().is_none_or(|verified| verified.agree());
        let is_good = matches!(self.state.end, Some((0 | TOLD_TO_END, _)));
        off && agree && is_good && self.state.violations.is_empty() && self.epitaph().is_none()
    }

    /// The kernel's epitaph, if it panicked. Only the kernel writes at the start of a line: what the console server
    /// prints for others stands behind their names.
    pub fn epitaph(&self) -> Option<Epitaph> {
        self.console.iter().find_map(|line| Epitaph::from_line(line))
    }

    /// Why the run wasn't good, if it wasn't. Call it when the machine is off.
    pub fn failure(&self) -> Option<String> {
        if let Some(epitaph) = self.epitaph() {
            return Some(format!("the kernel panicked on core {} at {}", epitaph.core, epitaph.message));
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

    /// The console's last lines, and after a panic the last events of each core, for an error message.
    pub fn last_lines(&self) -> String {
        let marked = |line: &&String| line.starts_with(EPITAPH_MARK) || line.starts_with(EVENTS_MARK);
        let lines: Vec<&String> = self.console.iter().filter(|line| !marked(line)).collect();
        if lines.is_empty() {
            return "the console is empty".into();
        }
        let mut text = String::from("the console's last lines:");
        for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
            text += &format!("\n  {line}");
        }
        if self.epitaph().is_some() {
            self.console.iter().filter_map(|line| events_from_line(line)).for_each(|(core, events)| {
                text += &last_events(core, &events);
            });
        }
        text
    }
}

/// A core's last events, one on a line.
fn last_events(core: u64, events: &[Event]) -> String {
    let mut text = format!("\nthe last events of core {core}:");
    for event in &events[events.len().saturating_sub(LAST_EVENTS)..] {
        let (detail, detail2) = (event.detail, event.detail2);
        let what = match event.kind {
            EventKind::Started => "started".into(),
            EventKind::Exit => format!("exit {detail:#x}, information {detail2:#x}"),
            EventKind::Stopped => format!("Vcpu {detail} stopped by itself, reason {detail2}"),
            EventKind::RootRestarted => format!("the root VM was started again ({detail} times)"),
        };
        text += &format!("\n  tick {}: {what}", event.tsc);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session with a shell script as its emulator.
    fn session(script: &str, name: &str) -> Session {
        let folder = std::env::temp_dir().join(format!("nonkernel-session-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let qemu = folder.join("emulator");
        crate::process::script(&qemu, script);
        let config = Config {
            loader: crate::emulator::Loader::Emulator,
            kernel: "none".into(),
            module: None,
            command_line: String::new(),
            cores: 1,
            memory_mib: 64,
            acceleration: Acceleration::InstructionClock,
            extra: Vec::new(),
        };
        let mut session = Session::start(
            &Tools { qemu, qemu_version: String::new(), compiler: crate::setup::Compiler::Own },
            &config,
            RunState::bare(),
            None,
        )
        .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !matches!(session.next(deadline).unwrap(), Seen::Off | Seen::Nothing) {}
        let _ = std::fs::remove_dir_all(&folder);
        session
    }

    #[test]
    fn a_run_that_was_told_to_end_hides_nothing_else() {
        let mut told = session("exit 35", "told");
        for (status, is_good) in [(0, true), (TOLD_TO_END, true), (1, false)] {
            told.state.end = Some((status, "the run was stopped by a command; store stopped at a fault".into()));
            assert_eq!(told.ended_when_told(), is_good, "{status}");
        }
        told.state.end = None;
        assert!(!told.ended_when_told());
    }

    #[test]
    fn a_panic_is_decoded_and_an_imitated_one_is_not() {
        let epitaph = format!("{EPITAPH_MARK} 1 7 kernel/src/x.rs:42: no");
        let real = session(&format!("echo 'kernel: boots'; echo '{epitaph}'; exit 85"), "real");
        assert!(real.failure().unwrap().contains("panicked on core 1 at kernel/src/x.rs:42"), "{:?}", real.failure());
        assert!(real.last_lines().contains("kernel: boots") && !real.last_lines().contains(EPITAPH_MARK));
        let imitated = session(&format!("echo 'app: {epitaph}'; exit 33"), "imitated");
        assert!(!imitated.failure().unwrap().contains("panicked"));
    }

    #[test]
    fn an_emulator_that_complains_is_quoted() {
        let failed = session("echo 'no such machine' >&2; exit 1", "complains");
        let failure = failed.failure().unwrap();
        assert!(failure.contains("without its last record") && failure.contains("exit status: 1"), "{failure}");
        assert!(failed.last_lines().contains("qemu: no such machine"));
    }
}
