//! How runs end that do not end well: an application's fault, a kernel that panics or refuses the machine, a time-out,
//! an interrupt. Each is an error with its reason and the console's last lines, never a hang, and leaves what was
//! written so far, and no process.

use e2e::program::{children, file, folder, is_there, left, one_at_a_time, output, signal, text, xtask};
use e2e::xtask::{process, report, setup};
use e2e::{Change, run};
use proto::host::End;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Instant;

/// A scenario with one application that never ends. On its second core nothing runs.
const SPINNER: &str = r#"
title = "it never ends"
limit = "60 s"
[machine]
cores = 2
memory = "128 MiB"
[[app]]
name = "spinner"
image = "hostile"
args = ["spin"]
budget = 1
core = 0
"#;
/// What its console says when it has begun.
const BEGUN: &str = "hostile: spin begins";

/// The program's own words on standard error, which come after those of the build.
fn own(error: &str) -> &str {
    &error[error.find("error: ").unwrap_or_else(|| panic!("no error in {error}"))..]
}

/// `result.json` of the last run.
fn result() -> Value {
    serde_json::from_slice(&left("result.json")).expect("result.json is JSON")
}

/// A run that has begun, and that is ended with the test.
struct Begun {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    errors: Option<JoinHandle<String>>,
}

impl Begun {
    /// Runs the spinner until it spins.
    fn spinner(program: &mut Command, arguments: &[&str]) -> Begun {
        let scenario = file("spinner.toml", SPINNER.as_bytes());
        let program = program.args(["run", "--plain"]).args(arguments).arg(scenario);
        let mut child = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut stderr = child.stderr.take().expect("it is piped");
        let errors = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            text(&bytes)
        });
        let mut begun = Begun { child, lines, errors: Some(errors) };
        let mut seen = String::new();
        while !seen.contains(BEGUN) {
            let read = begun.lines.read_line(&mut seen).expect("text");
            assert!(
                read > 0,
                "the application never started: {seen}\n{}",
                begun.errors.take().unwrap().join().unwrap()
            );
        }
        begun
    }

    /// The emulator's process.
    fn emulator(&self) -> u32 {
        let children = children(self.child.id());
        assert_eq!(children.len(), 1, "one emulator runs");
        children[0]
    }

    /// Waits until it ends: its status, and the rest of its standard output and all of its standard error.
    fn end(mut self) -> (Option<i32>, String, String) {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).expect("text");
        let errors = self.errors.take().expect("it is taken here only").join().expect("text");
        let status = self.child.wait().expect("it ends");
        let sockets = std::env::temp_dir().join(format!("nonkernel-{}-0", self.child.id()));
        assert!(!sockets.exists(), "{} is left", sockets.display());
        (status.code(), rest, errors)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // Harmless when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program, with an emulator that is given further arguments: a script of the emulator's name, first in `PATH`.
fn xtask_with(name: &str, arguments: &str) -> Command {
    let real = setup::ensure().expect("an emulator").qemu;
    let folder = folder(name);
    let real = real.display();
    let script = format!("[ \"$1\" = --version ] && exec {real} --version\nexec {real} \"$@\" {arguments}");
    process::script(&folder.join("qemu-system-x86_64"), &script);
    let mut command = xtask();
    let path = std::env::var("PATH").expect("there is a PATH");
    command.env("PATH", format!("{}:{path}", folder.display()));
    command
}

/// An application that stops at a fault makes the run fail, with the reason and the registers.
#[test]
fn faulting_application_is_reported_with_registers() {
    let _one = one_at_a_time();
    let scenario = file("faulting.toml", SPINNER.replace("\"spin\"", "\"fault-in-upcall\"").as_bytes());
    let output = output(xtask().args(["run", "--plain"]).arg(&scenario));
    let (said, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("spinner") && error.contains("the console's last lines:"), "{error}");
    let result = result();
    let end = &result["apps"][0]["end"];
    assert_eq!((&result["status"], &end["kind"]), (&"failed".into(), &"fault".into()), "{result}");
    let rip = end["registers"]["rip"].as_str().expect("the registers are reported");
    assert!(rip.starts_with("0x2"), "{end}");
    assert!(said.contains(&format!("at rip {rip}")), "{said}");
    // The market says why in words, once, without a dump.
    let reason = "spinner was stopped by the kernel: access to memory that it does not have";
    assert!(said.lines().any(|line| line.ends_with(reason)), "{said}");
    // All registers are shown, as they are in the result.
    let registers = end["registers"].as_object().expect("an object");
    assert_eq!(registers.len(), 25, "{registers:?}");
    for (name, value) in registers {
        let value = u64::from_str_radix(&value.as_str().expect("text")[2..], 16).expect("a number");
        assert!(said.contains(&format!("{name} {value:016x}")), "{name} {value:#x} in {said}");
    }
}

/// A status that is not 0 is reported, and the run is not good.
#[test]
fn exit_status_is_reported() {
    // A victim that gets too few pages to begin with.
    let change = Change::set("app.spinner.image=victim").and_set("app.spinner.args=[1, 1]");
    let run = run(SPINNER, &change.and_set("app.spinner.base_pages=4"));
    let End::Exit { status } = *run.end("spinner") else { panic!("{:?}", run.end("spinner")) };
    assert_ne!(status, 0);
    let failure = run.failure.as_deref().expect("an awaited application failed");
    assert!(failure.contains("spinner"), "{failure}");
    let result = report::json::result(&run.state, "test", 1, 0.0, Some(failure));
    assert_eq!(result["apps"][0]["end"]["kind"], "exit");
    assert_eq!(result["apps"][0]["end"]["status"], status);
    let shown = report::closing(&run.state);
    assert!(shown.contains(&format!("exit status {status}")), "{shown}");
}

/// A kernel that panics at boot, as it cannot use what it finds: an error with the decoded epitaph.
#[test]
fn unusable_machines_are_refused_by_the_kernel() {
    let _one = one_at_a_time();
    let scenario = file("spinner.toml", SPINNER.as_bytes());
    let damaged = file("damaged.module", &[0x5a; 8192]);
    for (name, arguments, reason) in [
        ("no-svm", "-cpu max,-svm", ": the processor has no SVM"),
        ("no-x2apic", "-cpu max,-x2apic", ": the CPU has no x2APIC"),
        ("no-mcfg", "-machine pc", ": no MCFG table for segment 0: PCI functions"),
        ("damaged", &format!("-initrd {}", damaged.display()), ": boot module: "),
    ] {
        let output = output(xtask_with(name, arguments).args(["run", "--plain"]).arg(&scenario));
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        let first = own(&error).lines().next().expect("it is not empty");
        assert!(first.starts_with("error: the kernel panicked on core 0 at kernel/src/boot/"), "{first}");
        assert!(first.contains(reason), "{first}");
        assert!(error.contains("the console's last lines:\n  kernel: nonkernel "), "{error}");
        assert!(!error.contains("@EPITAPH"), "it is decoded: {error}");
        let result = result();
        assert_eq!(result["status"], "failed");
        assert!(result["failure"].as_str().is_some_and(|failure| failure.contains(reason)), "{result}");
        assert!(text(&left("console.log")).contains("@EPITAPH "), "the log is kept as it came");
    }
}

/// A machine check in the middle of a run: the kernel panics, and says so with its last events.
#[test]
fn kernel_that_panics_ends_the_run_with_its_epitaph() {
    let _one = one_at_a_time();
    let monitor = std::env::temp_dir().join(format!("nonkernel-monitor-{}", std::process::id()));
    let mut program = xtask_with("monitored", &format!("-monitor unix:{},server=on,wait=off", monitor.display()));
    let begun = Begun::spinner(&mut program, &[]);
    // An uncorrected error on core 1, which waits in the kernel for something to do.
    monitor_command(&monitor, "mce 1 9 0xbd00000000000134 0x4 0x0 0x8c");
    let (status, _, error) = begun.end();
    let _ = std::fs::remove_file(&monitor);
    assert_eq!(status, Some(1), "{error}");
    let first = own(&error).lines().next().expect("it is not empty");
    assert!(first.starts_with("error: the kernel panicked on core 1 at kernel/src/arch/interrupts.rs:"), "{error}");
    assert!(first.contains("exception 18 "), "{first}");
    assert!(error.contains("the console's last lines:\n") && error.contains(BEGUN), "{error}");
    assert!(error.contains("the last events of core 0:") && error.contains("the last events of core 1:"), "{error}");
    assert_eq!(result()["status"], "failed");
}

/// Types a command to the emulator's monitor.
fn monitor_command(monitor: &Path, command: &str) {
    let mut stream = UnixStream::connect(monitor).expect("the emulator listens");
    writeln!(stream, "{command}").expect("it takes a command");
    // The prompt comes again when the command is done, or the emulator ends before.
    let mut reply = Vec::new();
    let mut byte = [0];
    while reply.windows(7).filter(|seven| seven == b"(qemu) ").count() < 2 {
        match stream.read(&mut byte) {
            Ok(1) => reply.push(byte[0]),
            _ => break,
        }
    }
}

/// A run that is not over in time is an error with the reason and the console's last lines, never a hang; neither is it
/// when the emulator itself stands still.
#[test]
fn time_out_is_an_error_with_the_last_lines() {
    let _one = one_at_a_time();
    for stopped in [false, true] {
        let begun = Begun::spinner(&mut xtask(), &["--timeout", "6"]);
        let emulator = begun.emulator();
        if stopped {
            signal(emulator, "STOP");
        }
        let (status, _, error) = begun.end();
        assert_eq!(status, Some(1), "{error}");
        assert!(error.contains("timed out after 6 s") && error.contains("the console's last lines:"), "{error}");
        assert!(error.contains(BEGUN), "{error}");
        assert!(!is_there(emulator), "process {emulator} is left");
        assert_eq!(result()["failure"], "timed out after 6 s (--timeout sets another limit)");
    }
}

/// Ctrl-C ends the emulator in good order: no process and no socket is left, and what was written so far is there.
#[test]
fn interrupt_stops_the_emulator() {
    let _one = one_at_a_time();
    let begun = Begun::spinner(&mut xtask(), &[]);
    let emulator = begun.emulator();
    signal(begun.child.id(), "INT");
    let (status, said, error) = begun.end();
    assert_eq!(status, Some(130), "{said}{error}");
    assert!(!is_there(emulator), "process {emulator} is left");
    assert!(said.contains("interrupted: ending the run in good order"), "{said}");
    assert!(own(&error).starts_with("error: interrupted; "), "{error}");
    let log = text(&left("console.log"));
    assert!(log.contains(BEGUN));
    // What it tells of so short a run is no nonsense.
    let share = log.lines().find_map(|line| line.split_once(" rounds, ")?.1.split_once(" % of core 0"));
    assert!(share.is_none_or(|(share, _)| share.parse::<f64>().is_ok_and(|share| share <= 100.0)), "{log}");
    let result = result();
    assert_eq!(result["status"], "failed");
    // In good order: the market server itself took everything back and sent its totals.
    assert_eq!((&result["apps"][0]["end"]["kind"], &result["totals"]["agree"]), (&"run_over".into(), &true.into()));
}

/// A second Ctrl-C does not wait for a machine that does not answer.
#[test]
fn second_interrupt_ends_a_machine_that_stands_still() {
    let _one = one_at_a_time();
    let mut begun = Begun::spinner(&mut xtask(), &[]);
    let emulator = begun.emulator();
    signal(emulator, "STOP");
    signal(begun.child.id(), "INT");
    let mut said = String::new();
    while !said.contains("interrupted: ending the run in good order") {
        assert!(begun.lines.read_line(&mut said).expect("text") > 0, "{said}");
    }
    signal(begun.child.id(), "INT");
    let (status, _, error) = begun.end();
    assert_eq!(status, Some(130), "{error}");
    assert!(error.contains("the console's last lines:\n"), "{error}");
    assert_eq!(own(&error).trim_end(), "error: interrupted", "the reason comes last");
    assert!(!is_there(emulator), "process {emulator} is left");
    assert!(text(&left("console.log")).contains(BEGUN));
    assert_eq!(result()["apps"][0]["end"]["kind"], "running");
}

/// Killed outright, the program takes the emulator with it.
#[test]
fn emulator_does_not_outlive_the_program() {
    let _one = one_at_a_time();
    let begun = Begun::spinner(&mut xtask(), &[]);
    let emulator = begun.emulator();
    let sockets = std::env::temp_dir().join(format!("nonkernel-{}-0", begun.child.id()));
    signal(begun.child.id(), "KILL");
    drop(begun);
    // Whoever adopts it may take a moment to notice that it has ended; as a zombie it runs no more.
    let state = || std::fs::read_to_string(format!("/proc/{emulator}/stat")).unwrap_or_default();
    let limit = Instant::now() + e2e::TIMEOUT;
    while !state().is_empty() && !state().contains(") Z ") {
        assert!(Instant::now() < limit, "process {emulator} is left: {}", state());
        std::thread::yield_now();
    }
    let _ = std::fs::remove_dir_all(sockets);
}
