//! One emulated machine: starts QEMU, takes console lines and records from it, sends commands to it, and always ends
//! it. A [`Machine`] that is dropped leaves no process and no file behind.
//!
//! COM1 is the process's standard output and input: console text comes out, command frames go in. COM2 is a socket on
//! which the machine sends records.

use crate::{process, setup};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::host::{Command as HostCommand, Record};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The machine. Without SATA and SMBus the firmware needs 5.6 million instructions, with them 15.8.
const MACHINE: &str = "q35,sata=off,smbus=off";
/// Port of QEMU's `isa-debug-exit`; a value `v` written there ends the emulator with status `2 v + 1`.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;

/// How guest instructions are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Acceleration {
    /// QEMU's translator with the instruction clock: slow, and the same in every run.
    #[value(name = "clock")]
    InstructionClock,
    /// The instruction clock, which is kept from running ahead of the host's ([`crate::pace`]): for clients outside of a
    /// machine whose CPU time is sold exactly, however slowly it is translated.
    #[value(name = "paced")]
    PacedClock,
    /// QEMU's translator in one thread and with the real clock: for clients outside, to whom time passes as to them.
    #[value(name = "real")]
    RealClock,
    /// QEMU's translator with one thread per core and the real clock: for real races.
    Threads,
    /// The host's own SVM.
    Kvm,
}

impl Acceleration {
    /// KVM if the host really offers SVM to a guest hypervisor, else the instruction clock; and one line that says why.
    pub fn choose() -> (Acceleration, String) {
        Acceleration::choose_on(&Host::look())
    }

    /// For a machine that clients on the host talk to: time passes as to them. And one line that says why.
    pub fn for_clients() -> (Acceleration, String) {
        match Acceleration::choose() {
            (Acceleration::Kvm, why) => (Acceleration::Kvm, why),
            _ => (
                Acceleration::PacedClock,
                "acceleration: none (TCG); virtual time is counted in instructions, and waits for the host's clock, as \
                 clients on the host are served"
                    .into(),
            ),
        }
    }

    /// As [`Acceleration::choose`], on a host of which this is known.
    fn choose_on(host: &Host) -> (Acceleration, String) {
        match host.nested_svm() {
            Ok(()) => (Acceleration::Kvm, "acceleration: KVM (this host offers nested SVM)".into()),
            Err(reason) => (
                Acceleration::InstructionClock,
                format!(
                    "acceleration: none (TCG), as {reason}; QEMU translates every guest instruction, which is 10 to 50 \
                     times slower than hardware, and virtual time is counted in instructions, so runs on one core hardly differ"
                ),
            ),
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Acceleration::InstructionClock | Acceleration::PacedClock => {
                &["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]
            }
            Acceleration::RealClock => &["-accel", "tcg,thread=single"],
            Acceleration::Threads => &["-accel", "tcg,thread=multi"],
            Acceleration::Kvm => &["-accel", "kvm"],
        }
    }

    /// The kernel command line for it: with the instruction clock, several cores take turns at events that the kernel must
    /// make. One alone does without: they cost the emulator half its time.
    pub fn command_line(self, line: &str, cores: u16) -> String {
        match self {
            Acceleration::InstructionClock | Acceleration::PacedClock if cores > 1 => format!("pace=pit {line}"),
            _ => line.into(),
        }
    }

    fn cpu(self) -> &'static str {
        match self {
            // Without the random instructions two runs are the same even when a guest asks for randomness.
            Acceleration::InstructionClock
            | Acceleration::PacedClock
            | Acceleration::RealClock
            | Acceleration::Threads => "max,-rdrand,-rdseed",
            Acceleration::Kvm => "host",
        }
    }
}

/// What the choice of the acceleration depends on.
struct Host {
    /// `/proc/cpuinfo`.
    cpuinfo: String,
    /// Parameter `nested` of KVM's module for SVM; empty where that isn't loaded.
    nested: String,
    /// Whether `/dev/kvm` can be opened, or why not.
    kvm: Result<(), String>,
}

impl Host {
    /// This host.
    fn look() -> Host {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let kvm = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
        Host {
            cpuinfo: text("/proc/cpuinfo"),
            nested: text("/sys/module/kvm_amd/parameters/nested"),
            kvm: kvm.map(|_| ()).map_err(|error| error.to_string()),
        }
    }

    /// Why KVM can't run a hypervisor here, if it can't.
    fn nested_svm(&self) -> Result<(), String> {
        let mut flags = self.cpuinfo.lines().filter(|line| line.starts_with("flags"));
        let has = |line: &str, wanted: &str| line.split_whitespace().any(|flag| flag == wanted);
        if !flags.any(|line| has(line, "svm") && has(line, "npt")) {
            return Err("this host's processor shows no SVM with nested paging".into());
        }
        if !matches!(self.nested.trim(), "1" | "Y") {
            return Err("KVM does not nest on this host".into());
        }
        self.kvm.clone().map_err(|error| format!("/dev/kvm cannot be opened ({error})"))
    }
}

/// Who loads the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Loader {
    /// QEMU itself, by PVH.
    #[default]
    Emulator,
    /// GRUB from this disc, by Multiboot2; firmware is the BIOS, or this file.
    Disc {
        /// The disc, which has kernel, module and command line.
        image: PathBuf,
        /// UEFI firmware.
        uefi: Option<PathBuf>,
    },
}

/// What machine to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who loads the kernel.
    pub loader: Loader,
    /// Kernel ELF file.
    pub kernel: PathBuf,
    /// Boot module file, if any.
    pub module: Option<PathBuf>,
    /// Kernel command line.
    pub command_line: String,
    /// Cores.
    pub cores: u16,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// How instructions are executed.
    pub acceleration: Acceleration,
    /// Further arguments for QEMU.
    pub extra: Vec<String>,
}

/// What comes from a machine.
#[derive(Debug)]
pub enum Output {
    /// A line of the console, without its end.
    Line(String),
    /// A record.
    Record(Record),
    /// The machine is off: the emulator has ended.
    Off(ExitStatus),
}

enum Piece {
    Line(String),
    Record(Record),
    ConsoleEnd,
    RecordsEnd,
}

/// A running machine.
pub struct Machine {
    child: Child,
    input: Option<ChildStdin>,
    pieces: Receiver<Piece>,
    threads: Vec<JoinHandle<()>>,
    open_streams: u8,
    stop: Arc<AtomicBool>,
    damaged: Arc<AtomicU64>,
    folder: PathBuf,
    off: Option<ExitStatus>,
}

static MACHINES: AtomicU64 = AtomicU64::new(0);

/// An empty folder for the sockets of this process's machine with this number. Sockets have short paths only, so it isn't in
/// the target folder. What lies there is of a process that had the same number and was killed.
fn socket_folder(number: u64) -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("nonkernel-{}-{number}", std::process::id()));
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

impl Machine {
    /// Starts the emulator.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(tools: &setup::Tools, config: &Config) -> Result<Machine> {
        let folder = socket_folder(MACHINES.fetch_add(1, Ordering::Relaxed))?;
        Machine::start_in(tools, config, &folder).inspect_err(|_| {
            let _ = fs::remove_dir_all(&folder);
        })
    }

    fn start_in(tools: &setup::Tools, config: &Config, folder: &Path) -> Result<Machine> {
        let socket = folder.join("com2");
        let listener = UnixListener::bind(&socket).with_context(|| format!("cannot bind {}", socket.display()))?;
        listener.set_nonblocking(true)?;
        let mut command = command(tools, config, &socket);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", tools.qemu.display()))?;
        let (sender, pieces) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let damaged = Arc::new(AtomicU64::new(0));
        let input = child.stdin.take();
        let mut threads = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            let lines = sender.clone();
            threads.push(std::thread::spawn(move || read_lines(stdout, "", &lines, Piece::ConsoleEnd)));
        }
        if let Some(stderr) = child.stderr.take() {
            let lines = sender.clone();
            threads.push(std::thread::spawn(move || read_lines(stderr, "qemu: ", &lines, Piece::ConsoleEnd)));
        }
        let (stopped, counter) = (stop.clone(), damaged.clone());
        let firmware_speaks = config.loader != Loader::Emulator;
        threads.push(std::thread::spawn(move || {
            if let Some(stream) = accept(&listener, &stopped) {
                read_records(stream, &sender, &counter, firmware_speaks);
            }
            let _ = sender.send(Piece::RecordsEnd);
        }));
        let folder = folder.to_path_buf();
        Ok(Machine { child, input, pieces, threads, open_streams: 3, stop, damaged, folder, off: None })
    }

    /// The next thing that comes from the machine, or `None` at the deadline. After [`Output::Off`], always that.
    ///
    /// # Errors
    /// When the emulator's end can't be learnt.
    pub fn next(&mut self, deadline: Instant) -> Result<Option<Output>> {
        loop {
            if let Some(status) = self.off {
                return Ok(Some(Output::Off(status)));
            }
            if self.open_streams == 1 {
                // Console and standard error are closed, so the process is gone or going; what is left is in the
                // socket, whose reader ends when the emulator's side closes, or now if it never connected.
                self.stop.store(true, Ordering::Relaxed);
            }
            if self.open_streams == 0 {
                self.off = Some(self.child.wait().context("cannot wait for the emulator")?);
                continue;
            }
            match self.pieces.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Piece::Line(line)) => return Ok(Some(Output::Line(line))),
                Ok(Piece::Record(record)) => return Ok(Some(Output::Record(record))),
                Ok(Piece::ConsoleEnd | Piece::RecordsEnd) => self.open_streams -= 1,
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => self.open_streams = 0,
            }
        }
    }

    /// Sends a command to the market server.
    ///
    /// # Errors
    /// When the machine is off.
    pub fn send(&mut self, command: &HostCommand) -> Result<()> {
        let Some(frame) = proto::frame::encode(command) else { bail!("the command is too long for a frame") };
        let Some(input) = self.input.as_mut() else { bail!("the machine is off") };
        input.write_all(&frame).and_then(|()| input.flush()).context("cannot send to the machine")
    }

    /// Stops the emulator for so long.
    pub fn pause(&self, time: Duration) {
        let Ok(id) = i32::try_from(self.child.id()) else { return };
        let signal = |signal| kill(Pid::from_raw(id), signal);
        // Refused only when it has just ended.
        if self.off.is_none() && signal(Signal::SIGSTOP).is_ok() {
            std::thread::sleep(time);
            let _ = signal(Signal::SIGCONT);
        }
    }

    /// Bytes and frames of the record line that were damaged; 0 in a good run.
    pub fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Ends the emulator now. Harmless when it has ended.
    pub fn stop(&mut self) {
        self.input = None;
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.child.kill();
        if let Ok(status) = self.child.wait() {
            self.off = Some(status);
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The emulator's command line as one would type it, with the console on the terminal and records thrown away.
pub fn typed(tools: &setup::Tools, config: &Config) -> String {
    let mut command = Command::new(&tools.qemu);
    add_arguments(&mut command, config, "null,id=com2");
    process::typed(&command)
}

fn command(tools: &setup::Tools, config: &Config, socket: &Path) -> Command {
    let mut command = process::bound(&tools.qemu);
    add_arguments(&mut command, config, &format!("socket,id=com2,path={}", socket.display()));
    command
}

fn add_arguments(command: &mut Command, config: &Config, com2: &str) {
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    // A clock that starts at the same time in each run.
    command.args(["-rtc", "base=2026-01-01,clock=vm"]);
    command.args(["-machine", MACHINE]).args(["-cpu", config.acceleration.cpu()]);
    command.args(config.acceleration.arguments());
    command.args(["-smp", &config.cores.to_string()]).args(["-m", &format!("{}M", config.memory_mib)]);
    command.args(["-chardev", "stdio,id=com1,signal=off", "-serial", "chardev:com1"]);
    command.args(["-chardev", com2, "-serial", "chardev:com2"]);
    command.args(["-device", &format!("isa-debug-exit,iobase={DEBUG_EXIT_PORT:#x},iosize=0x04")]);
    // The IOMMU, if there is one, must be the first device behind the bus.
    command.args(&config.extra);
    match &config.loader {
        Loader::Emulator => {
            command.arg("-kernel").arg(&config.kernel);
            if let Some(module) = &config.module {
                command.arg("-initrd").arg(module);
            }
            command.args(["-append", &config.acceleration.command_line(&config.command_line, config.cores)]);
        }
        Loader::Disc { image, uefi } => {
            if let Some(firmware) = uefi {
                command.arg("-bios").arg(firmware);
            }
            let drive = format!("if=none,id=disc,media=cdrom,readonly=on,format=raw,file={}", image.display());
            // By its name, as there may be other root buses.
            command.args(["-device", "virtio-scsi-pci,bus=pcie.0", "-drive", &drive]);
            command.args(["-device", "scsi-cd,drive=disc,bootindex=0"]);
        }
    }
}

/// Waits until the emulator connects or `stop` is set.
fn accept(listener: &UnixListener, stop: &AtomicBool) -> Option<UnixStream> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => return stream.set_nonblocking(false).ok().map(|()| stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if stop.load(Ordering::Relaxed) {
                    return None;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(_) => return None,
        }
    }
}

fn read_lines(mut stream: impl Read, prefix: &str, sender: &Sender<Piece>, end: Piece) {
    let mut line: Vec<u8> = Vec::new();
    let mut buffer = [0u8; 4096];
    let send = |line: &mut Vec<u8>| {
        let text = printable(line);
        line.clear();
        sender.send(Piece::Line(format!("{prefix}{text}"))).is_ok()
    };
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 {
            break;
        }
        for &byte in &buffer[..count] {
            // A line that never ends is shown in parts.
            if (byte == b'\n' || line.len() >= 4096) && !send(&mut line) {
                return;
            }
            if byte != b'\n' && byte != b'\r' {
                line.push(byte);
            }
        }
    }
    if !line.is_empty() {
        send(&mut line);
    }
    let _ = sender.send(end);
}

/// Console text as it may be shown on a terminal: what a guest prints can't control it.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Firmware and boot loader may have written to the port before the kernel: then what comes before the first record is
/// no damage.
fn read_records(mut stream: impl Read, sender: &Sender<Piece>, damaged: &AtomicU64, firmware_speaks: bool) {
    let mut reader = proto::frame::Reader::new();
    let mut buffer = [0u8; 65536];
    let mut before = if firmware_speaks { None } else { Some(0) };
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 {
            break;
        }
        reader.push(&buffer[..count]);
        while let Some(record) = reader.next_message::<Record>() {
            before.get_or_insert(reader.damaged());
            if sender.send(Piece::Record(record)).is_err() {
                return;
            }
        }
        damaged.store(reader.damaged() - before.unwrap_or(reader.damaged()), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_in_nobodys_way() {
        let folder = socket_folder(u64::MAX).unwrap();
        fs::write(folder.join("com2"), "").unwrap();
        assert_eq!(socket_folder(u64::MAX).unwrap(), folder);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_a_guest_prints_cannot_control_the_terminal() {
        assert_eq!(printable(b"a\x1b[2Jb\tc"), "a\u{fffd}[2Jb\tc");
    }

    #[test]
    fn kvm_is_chosen_only_where_it_really_offers_svm() {
        const AMD: &str = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu sse2 svm npt nrip_save\n";
        let host = |cpuinfo: &str, nested: &str, kvm: Result<(), &str>| Host {
            cpuinfo: cpuinfo.into(),
            nested: nested.into(),
            kvm: kvm.map_err(str::to_string),
        };
        for nested in ["1\n", "Y\n"] {
            let (chosen, line) = Acceleration::choose_on(&host(AMD, nested, Ok(())));
            assert_eq!((chosen, line.as_str()), (Acceleration::Kvm, "acceleration: KVM (this host offers nested SVM)"));
        }
        let intel = AMD.replace("svm npt", "vmx ept");
        let without_nested_paging = AMD.replace(" npt", "");
        // A word that merely begins like the flag is another flag, and what is no line of flags does not count.
        let similar = AMD.replace(" svm", " svm_lock") + "model name\t: svm npt\n";
        for (host, reason) in [
            (host("", "1", Ok(())), "as this host's processor shows no SVM with nested paging;"),
            (host(&intel, "1", Ok(())), "as this host's processor shows no SVM with nested paging;"),
            (host(&without_nested_paging, "1", Ok(())), "as this host's processor shows no SVM with nested paging;"),
            (host(&similar, "1", Ok(())), "as this host's processor shows no SVM with nested paging;"),
            (host(AMD, "0\n", Ok(())), "as KVM does not nest on this host;"),
            (host(AMD, "", Ok(())), "as KVM does not nest on this host;"),
            (host(AMD, "1", Err("Permission denied")), "as /dev/kvm cannot be opened (Permission denied);"),
        ] {
            let (chosen, line) = Acceleration::choose_on(&host);
            assert_eq!(chosen, Acceleration::InstructionClock, "{line}");
            assert!(line.starts_with("acceleration: none (TCG), ") && line.contains(reason), "{line}");
            assert!(line.contains("10 to 50 times slower"), "{line}");
        }
    }

    #[test]
    fn each_acceleration_is_asked_of_the_emulator() {
        let on = |cores: u16, acceleration: Acceleration| {
            let (kernel, extra) = ("none".into(), Vec::new());
            let (module, command_line) = (None, String::new());
            let loader = Loader::Emulator;
            let config = Config { kernel, module, command_line, cores, memory_mib: 64, acceleration, extra, loader };
            let tools = setup::Tools { qemu: "q".into(), qemu_version: "".into(), compiler: setup::Compiler::Own };
            typed(&tools, &config)
        };
        let arguments = |acceleration| on(2, acceleration);
        assert!(arguments(Acceleration::Kvm).contains(" -cpu host -accel kvm "));
        let clocked = arguments(Acceleration::InstructionClock);
        assert!(clocked.contains(" -accel tcg,thread=single -icount shift=0,sleep=off "), "{clocked}");
        assert!(clocked.contains("pace=pit"), "{clocked}");
        let alone = on(1, Acceleration::InstructionClock);
        assert!(!alone.contains("pace"), "{alone}");
        let threaded = arguments(Acceleration::Threads);
        assert!(threaded.contains(" -accel tcg,thread=multi ") && !threaded.contains("icount"), "{threaded}");
        assert!(!threaded.contains("pace"), "{threaded}");
        let real = arguments(Acceleration::RealClock);
        assert!(real.contains(" -accel tcg,thread=single ") && !real.contains("icount"), "{real}");
    }

    #[test]
    fn what_firmware_wrote_before_the_first_record_is_no_damage() {
        let record = proto::frame::encode(&Record::End { t: 0, status: 0, reason: String::new() }).unwrap();
        let stream = [&b"BdsDxe: loading\r\n"[..], &record].concat();
        for (firmware_speaks, harmless) in [(true, true), (false, false)] {
            let (sender, pieces) = channel();
            let damaged = AtomicU64::new(0);
            read_records(&stream[..], &sender, &damaged, firmware_speaks);
            assert!(matches!(pieces.try_recv(), Ok(Piece::Record(Record::End { .. }))));
            assert_eq!(damaged.load(Ordering::Relaxed) == 0, harmless);
        }
        let (sender, _pieces) = channel();
        let damaged = AtomicU64::new(0);
        read_records(&[&record[..], &record[..record.len() - 3], &record].concat()[..], &sender, &damaged, true);
        assert_ne!(damaged.load(Ordering::Relaxed), 0, "after the first record it is damage whoever speaks");
    }

    #[test]
    fn an_emulator_that_fails_at_once_is_an_end_and_not_a_hang() {
        let Some(qemu) = process::find("false") else { return };
        let tools = setup::Tools { qemu, qemu_version: String::new(), compiler: setup::Compiler::Own };
        let config = Config {
            loader: Loader::Emulator,
            kernel: "none".into(),
            module: None,
            command_line: String::new(),
            cores: 1,
            memory_mib: 64,
            acceleration: Acceleration::InstructionClock,
            extra: Vec::new(),
        };
        let mut machine = Machine::start(&tools, &config).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        match machine.next(deadline).unwrap() {
            Some(Output::Off(status)) => assert!(!status.success()),
            other => panic!("{other:?}"),
        }
    }
}
