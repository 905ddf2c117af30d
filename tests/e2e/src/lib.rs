//! Whole machines for tests: boot a scenario or a guest, watch it, and look at what it left.
//!
//! A test either runs a machine to its end ([`run`], [`boot`]) or holds a [`Machine`] and waits for what it expects.
//! Every wait has a limit of wall time; a machine that is dropped is ended. The kernel and the images are built once
//! per test program, or were built before by `cargo xtask test`.
//!
//! ```ignore
//! let run = e2e::run("tiny", &e2e::Change::set("app.digest.budget=0.5"));
//! assert_eq!(run.failure, None);
//! assert_eq!(run.file("digest", "digest.txt"), expected);
//! ```

pub use xtask::monitor;

use anyhow::{Context, Result, bail};
use proto::host::{Command, End, Record};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use xtask::boot::Guest;
use xtask::build::{self, Built};
use xtask::emulator::{Acceleration, Config, Loader};
use xtask::run_state::{AppState, Phase, RunState};
use xtask::scenario::{self, Overrides, Scenario};
use xtask::session::{Seen, Session};
use xtask::{network, paths, run as runner, setup, test};

pub use inputs::{file_for_a_run, random_numbers, text_for_a_run, trace_for_a_run};
pub use xtask;

pub mod inputs;
pub mod memcached;
pub mod program;
pub mod rounds;
pub mod station;

/// Where clients of a machine's servers find them: ports that nobody else has, as machines that are started at the same time
/// would choose the same ones.
fn forwards(scenario: &Scenario) -> Result<Vec<network::Forward>> {
    let mut forwards = network::forwards(scenario)?;
    for forward in &mut forwards {
        forward.port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    }
    Ok(forwards)
}

/// Wall time after which a machine counts as hung.
pub const TIMEOUT: Duration = Duration::from_secs(240);

/// A period of a VM may come up short by this many microseconds.
const SHORT_MICROS: u64 = 20;

/// How a line of the kernel's log begins (nobody else's does: the console server puts names before all lines), and the
/// last of them.
const KERNELS_LINE: &str = "kernel: ";
const KERNELS_LAST_LINE: &str = "kernel: root VM starts";

/// Changes to a scenario, as the command line makes them.
#[derive(Clone, Debug, Default)]
pub struct Change(pub Overrides);

impl Change {
    /// None.
    pub fn none() -> Change {
        Change::default()
    }

    /// `--set KEY=VALUE`.
    pub fn set(argument: &str) -> Change {
        Change::default().and_set(argument)
    }

    /// A further `--set KEY=VALUE`.
    #[must_use]
    pub fn and_set(mut self, argument: &str) -> Change {
        self.0.sets.push(argument.into());
        self
    }

    /// `--event T=KEY`.
    #[must_use]
    pub fn event(mut self, argument: &str) -> Change {
        self.0.events.push(argument.into());
        self
    }

    /// `--input APP=FILE`.
    #[must_use]
    pub fn input(mut self, app: &str, file: &Path) -> Change {
        self.0.inputs.push(format!("{app}={}", file.display()));
        self
    }

    /// `--seed N`.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Change {
        self.0.seed = Some(seed);
        self
    }
}

/// A machine under test.
pub struct Machine {
    session: Session,
    /// Every record so far, in order.
    pub records: Vec<Record>,
    folder: PathBuf,
    timeout: Duration,
}

/// What a machine left.
pub struct Finished {
    /// What its records told.
    pub state: RunState,
    /// Every record.
    pub records: Vec<Record>,
    /// Console lines.
    pub console: Vec<String>,
    /// Why the run was not good, if it wasn't; with the console's last lines.
    pub failure: Option<String>,
}

impl Finished {
    /// An application.
    ///
    /// # Panics
    /// When the scenario has none of this name.
    pub fn app(&self, name: &str) -> &AppState {
        let app = self.state.apps.iter().find(|app| app.name == name);
        app.unwrap_or_else(|| panic!("the scenario has no application {name}"))
    }

    /// How an application ended.
    ///
    /// # Panics
    /// When it didn't.
    pub fn end(&self, name: &str) -> &End {
        match &self.app(name).phase {
            Phase::Ended(end) => end,
            phase => panic!("{name} did not end but is {phase:?}; {:?}", self.failure),
        }
    }

    /// The contents of an output file.
    ///
    /// # Panics
    /// When the application didn't write it whole.
    pub fn file(&self, app: &str, name: &str) -> &[u8] {
        let files = &self.app(app).files;
        match files.iter().find(|file| file.name == name && file.sha256.is_some()) {
            Some(file) => &file.data,
            None => {
                let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
                panic!("{app} wrote no whole file {name}, but {names:?}; {:?}", self.failure)
            }
        }
    }

    /// Fails the test with the reason and the console's last lines unless the run was good, and the kernel silent once
    /// the first serial port was somebody else's: its last line is the one that says that the root VM starts.
    ///
    /// # Panics
    /// When it wasn't.
    pub fn expect_good(&self) -> &Finished {
        if let Some(failure) = &self.failure {
            panic!("{failure}");
        }
        let mut lines = self.console.iter();
        assert!(lines.any(|line| line.starts_with(KERNELS_LAST_LINE)), "the kernel did not log its start");
        assert_eq!(
            lines.find(|line| line.starts_with(KERNELS_LINE)),
            None,
            "the kernel wrote to a port that it has sold"
        );
        self
    }

    /// Fails the test unless the books agree and every VM had its share in each of its periods.
    ///
    /// # Panics
    /// When one hadn't.
    pub fn expect_shares(&self) -> &Finished {
        let verified = self.state.verified.as_ref().expect("nothing was verified");
        assert!(verified.agree() && verified.intervals > 0, "{verified:?}");
        let most = self.state.tsc_hz / 1_000_000 * SHORT_MICROS;
        assert!(verified.worst_shortfall <= most, "a period came up {} ticks short", verified.worst_shortfall);
        self
    }

    /// The numbers in the first console line with this text, in their order.
    ///
    /// # Panics
    /// When there is no such line, or it has another count of numbers.
    pub fn numbers<const N: usize>(&self, text: &str) -> [u64; N] {
        let line = self.console.iter().find(|line| line.contains(text));
        let line = line.unwrap_or_else(|| panic!("no line has `{text}`: {:#?}", self.console));
        let words: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        words.try_into().unwrap_or_else(|words| panic!("{line}: {words:?}"))
    }

    /// True if a console line contains this.
    pub fn console_has(&self, text: &str) -> bool {
        self.console.iter().any(|line| line.contains(text))
    }
}

/// Builds what is needed, once per test program and program name; nothing when `cargo xtask test` has built.
///
/// # Errors
/// When the set-up or a build fails.
pub fn built(programs: &[&str]) -> Result<Built> {
    if std::env::var_os(test::BUILT).is_some() {
        return build::built_before();
    }
    // Cargo would wait for its own lock anyway, with a line of output for each wait.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    build::build(programs)
}

/// Reads a scenario of `scenarios/` by its name, or one that a test brings as text (with a line end in it).
///
/// # Errors
/// Everything that is wrong with it.
pub fn scenario(name_or_text: &str, change: &Change) -> Result<Scenario> {
    let images = runner::application_images()?;
    if name_or_text.contains('\n') {
        let file = paths::scenarios().join("in-the-test.toml");
        return Ok(scenario::parse(&file, name_or_text, &change.0, &images)?);
    }
    let file = runner::scenario_file(Some(Path::new(name_or_text)))?;
    Ok(scenario::load(&file, &change.0, &images)?)
}

impl Machine {
    /// Boots a scenario (see [`scenario`]).
    ///
    /// # Errors
    /// When it is refused, a build fails, or the emulator can't be started.
    pub fn start(name_or_text: &str, change: &Change) -> Result<Machine> {
        Machine::start_with(&scenario(name_or_text, change)?, Acceleration::InstructionClock)
    }

    /// Boots a scenario that was read, with this acceleration.
    ///
    /// # Errors
    /// As [`Machine::start`].
    pub fn start_with(scenario: &Scenario, acceleration: Acceleration) -> Result<Machine> {
        Machine::start_as(scenario, acceleration, &[], |_| {})
    }

    /// Boots a scenario that was read, for a [`monitor::Monitor`] at these sockets that says when it begins.
    ///
    /// # Errors
    /// As [`Machine::start`].
    pub fn start_observed(scenario: &Scenario, sockets: &monitor::Sockets) -> Result<Machine> {
        Machine::start_as(scenario, Acceleration::InstructionClock, &[], |config| {
            config.extra.extend(sockets.arguments())
        })
    }

    /// Boots a scenario that was read on a machine with these devices, as the emulator is told, and not those that it needs.
    ///
    /// # Errors
    /// As [`Machine::start`].
    pub fn start_with_devices(scenario: &Scenario, devices: Vec<String>) -> Result<Machine> {
        Machine::start_as(scenario, Acceleration::InstructionClock, &[], |config| config.extra = devices)
    }

    /// Boots a scenario that was read for clients on the host; returns the ports that lead to what it serves, in the
    /// scenario's order.
    ///
    /// # Errors
    /// As [`Machine::start`].
    pub fn start_serving(scenario: &Scenario) -> Result<(Machine, Vec<u16>)> {
        let forwards = forwards(scenario)?;
        let machine = Machine::start_as(scenario, Acceleration::PacedClock, &forwards, |_| {})?;
        Ok((machine, forwards.iter().map(|forward| forward.port).collect()))
    }

    /// The same, with a station on the Ethernet beside the emulator's network.
    ///
    /// # Errors
    /// As [`Machine::start`].
    pub fn start_serving_beside(scenario: &Scenario, station: &station::Station) -> Result<(Machine, Vec<u16>)> {
        let forwards = forwards(scenario)?;
        // A hub joins the device's cable, the emulator's network and the station's.
        let mut devices = network::devices("hubport,id=n0,hubid=0");
        let others = [network::user(&forwards).replace("id=n0", "id=user"), station.netdev("station")];
        for (name, netdev) in ["user", "station"].into_iter().zip(others) {
            devices.extend(["-netdev".into(), netdev]);
            devices.extend(["-netdev".into(), format!("hubport,id={name}-port,hubid=0,netdev={name}")]);
        }
        let machine =
            Machine::start_as(scenario, Acceleration::PacedClock, &forwards, |config| config.extra = devices)?;
        Ok((machine, forwards.iter().map(|forward| forward.port).collect()))
    }

    /// Boots a scenario that was read, with nothing but a station on the Ethernet.
    ///
    /// # Errors
    /// As [`Machine::start`].
    pub fn start_serving_only(scenario: &Scenario, station: &station::Station) -> Result<Machine> {
        let devices = network::devices(&station.netdev("n0"));
        Machine::start_as(scenario, Acceleration::PacedClock, &[], |config| config.extra = devices)
    }

    /// Boots a scenario that was read, on a machine with a further device.
    ///
    /// # Errors
    /// As [`Machine::start`].
    pub fn start_with_device(scenario: &Scenario, device: &str) -> Result<Machine> {
        Machine::start_as(scenario, Acceleration::InstructionClock, &[], |config| {
            config.extra.extend(["-device".into(), device.into()]);
        })
    }

    /// Boots a scenario from a disc that has it, by BIOS, GRUB and Multiboot2.
    ///
    /// # Errors
    /// As [`Machine::start`].
    pub fn start_from_disc(scenario: &Scenario, disc: &Path) -> Result<Machine> {
        Machine::start_as(scenario, Acceleration::InstructionClock, &[], |config| {
            config.loader = Loader::Disc { image: disc.to_path_buf(), uefi: None };
        })
    }

    fn start_as(
        scenario: &Scenario,
        acceleration: Acceleration,
        forwards: &[network::Forward],
        change: impl FnOnce(&mut Config),
    ) -> Result<Machine> {
        let tools = setup::ensure()?;
        let built = built(&runner::programs(scenario))?;
        let folder = own_folder()?;
        let mut config = runner::config(scenario, &built, acceleration, &folder, forwards)?;
        change(&mut config);
        Machine::of(Session::start(&tools, &config, RunState::new(scenario), None)?, folder)
    }

    /// Boots a guest as the root VM, without market.
    ///
    /// # Errors
    /// As [`Machine::start`].
    pub fn start_guest(guest: &Guest) -> Result<Machine> {
        let tools = setup::ensure()?;
        let mut programs = vec![guest.image.as_str()];
        programs.extend(guest.images.iter().map(String::as_str));
        let built = built(&programs)?;
        let folder = own_folder()?;
        let config = guest.config(&built, &folder.join("boot.module"))?;
        Machine::of(Session::start(&tools, &config, RunState::bare(), None)?, folder)
    }

    fn of(session: Session, folder: PathBuf) -> Result<Machine> {
        Ok(Machine { session, records: Vec::new(), folder, timeout: TIMEOUT })
    }

    /// Another limit of wall time than [`TIMEOUT`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Machine {
        self.timeout = timeout;
        self
    }

    /// What its records told so far.
    pub fn state(&self) -> &RunState {
        &self.session.state
    }

    /// Console lines so far.
    pub fn console(&self) -> &[String] {
        &self.session.console
    }

    /// Sends a command to the market server.
    ///
    /// # Errors
    /// When the machine is off.
    pub fn send(&mut self, command: &Command) -> Result<()> {
        self.session.send(command)
    }

    /// Goes on until a record satisfies `wanted`, and returns it.
    ///
    /// # Errors
    /// When the machine goes off or the time is up before; the message has the console's last lines.
    pub fn wait_record(&mut self, wanted: impl Fn(&Record) -> bool) -> Result<Record> {
        loop {
            match self.step()? {
                Seen::Record(record) if wanted(&record) => return Ok(record),
                Seen::Off => bail!("the machine went off before\n{}", self.session.last_lines()),
                _ => {}
            }
        }
    }

    /// Goes on until a console line contains `text`, and returns the line.
    ///
    /// # Errors
    /// As [`Machine::wait_record`].
    pub fn wait_line(&mut self, text: &str) -> Result<String> {
        loop {
            match self.step()? {
                Seen::Line(line) if line.contains(text) => return Ok(line),
                Seen::Off => bail!("the machine went off before `{text}`\n{}", self.session.last_lines()),
                _ => {}
            }
        }
    }

    fn step(&mut self) -> Result<Seen> {
        if self.session.elapsed() > self.timeout {
            self.session.stop();
            bail!("timed out after {} s\n{}", self.timeout.as_secs(), self.session.last_lines());
        }
        let seen = self.session.next(Instant::now() + Duration::from_millis(100))?;
        if let Seen::Record(record) = &seen {
            self.records.push(record.clone());
        }
        Ok(seen)
    }

    /// Ends the run from outside, goes on to the end, and sees that the market's books agree with what was delivered.
    ///
    /// # Panics
    /// When that fails, or the books do not agree.
    pub fn stop(mut self) -> Finished {
        self.send(&Command::Stop).expect("the market is told to stop");
        let run = self.finish().expect("a run");
        let totals = run.state.verified.as_ref().expect("totals");
        assert!(totals.agree(), "{totals:?}");
        run
    }

    /// Goes on to the end.
    ///
    /// # Errors
    /// When the emulator's end can't be learnt; a run that isn't good is no error but [`Finished::failure`].
    pub fn finish(mut self) -> Result<Finished> {
        let mut failure = None;
        loop {
            match self.step() {
                Ok(Seen::Off) => break,
                Ok(_) if self.session.is_stuck() => {
                    self.session.stop();
                    failure = Some("the machine sent its last record and did not go off".to_string());
                    break;
                }
                Ok(_) => {}
                Err(error) => {
                    failure = Some(format!("{error:#}"));
                    break;
                }
            }
        }
        let failure = failure.or_else(|| {
            let failure = self.session.failure()?;
            Some(format!("{failure}\n{}", self.session.last_lines()))
        });
        Ok(Finished {
            state: self.session.state.clone(),
            records: std::mem::take(&mut self.records),
            console: self.session.console.to_vec(),
            failure,
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.session.stop();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A folder for one machine's boot module.
fn own_folder() -> Result<PathBuf> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = paths::target().join("e2e").join(format!("{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Runs a scenario (see [`scenario`]) to its end.
///
/// # Panics
/// When it can't be started; how it ended is in the result.
pub fn run(name_or_text: &str, change: &Change) -> Finished {
    let finished = Machine::start(name_or_text, change).and_then(Machine::finish);
    finished.unwrap_or_else(|error| panic!("{error:#}"))
}

/// Boots a guest as the root VM and runs it to its end.
///
/// # Panics
/// As [`run`].
pub fn boot(guest: &Guest) -> Finished {
    let finished = Machine::start_guest(guest).and_then(Machine::finish);
    finished.unwrap_or_else(|error| panic!("{error:#}"))
}

/// A scenario of one application and a rival of the same image, on one core, so that every time that is named is the
/// application's own. The rival values pages ten times as much, is started by an event, and is given the argument `rival`.
pub struct Rivalry<'a> {
    /// The application's name, and its image.
    pub name: &'a str,
    /// See above.
    pub image: &'a str,
    /// What follows in the application's table: arguments, income and the like.
    pub more: &'a str,
    /// Pages for sale.
    pub pages: u32,
    /// What follows in the table of pages.
    pub pricing: &'a str,
    /// Whether the run waits for the rival's end, rather than for the application's.
    pub waits_for_rival: bool,
}

impl Rivalry<'_> {
    /// The scenario's text.
    pub fn scenario(&self) -> String {
        let Rivalry { name, image, more, pages, pricing, waits_for_rival } = self;
        format!(
            r#"
title = "an application and a rival"
limit = "5 s"
[machine]
cores = 1
memory = "128 MiB"
[page]
supply = {pages}
{pricing}
[[app]]
name = "{name}"
image = "{image}"
budget = 1
valuation = 1e-12
base_cpu = 30
base_pages = 64
awaited = {awaits}
{more}
[[app]]
name = "rival"
image = "{image}"
args = ["rival"]
budget = 1
valuation = 1e-11
base_cpu = 10
base_pages = 64
starts = false
awaited = {waits_for_rival}
"#,
            awaits = !waits_for_rival
        )
    }
}
