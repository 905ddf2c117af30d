//! `cargo xtask run` from end to end: what the default scenario leaves, what is refused, and what ends a run.

use cache::sizes::{Report, simulate};
use cache::trace::Trace;
use e2e::xtask::{build, paths, report, sources};
use e2e::{Change, run, scenario};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// All runs of the program write to one folder, so there is one at a time.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The program of `cargo xtask`.
fn xtask() -> Command {
    let status = build::cargo().args(["build", "--quiet", "--package", "xtask"]).status().expect("cargo runs");
    assert!(status.success(), "xtask does not build");
    let mut command = Command::new(paths::target().join("debug/xtask"));
    command.current_dir(paths::root()).stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> Output {
    command.output().expect("xtask starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A file below the run's folder.
fn left(name: &str) -> Vec<u8> {
    let path = paths::run_folder().join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file that a test hands to the program.
fn file(name: &str, contents: &[u8]) -> PathBuf {
    let folder = paths::target().join("e2e");
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    let path = folder.join(name);
    std::fs::write(&path, contents).expect("as above");
    path
}

/// A scenario with one application that never ends.
const SPINNER: &str = r#"
title = "it never ends"
limit = "60 s"
[machine]
cores = 1
memory = "128 MiB"
[[app]]
name = "spinner"
image = "hostile"
args = ["spin"]
budget = 1
core = 0
"#;

/// Everything that the default scenario promises, on the input that it was really given.
#[test]
fn default_scenario_leaves_what_the_host_computes() {
    let _one = one_at_a_time();
    let input = sources::archive().expect("the sources can be read");
    let path = file("sources.tar", &input);
    let mut command = xtask();
    command.args(["run", "--plain"]);
    for app in ["digest", "compress", "cache"] {
        command.args(["--input", &format!("{app}={}", path.display())]);
    }
    let output = output(&mut command);
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));

    let result: Value = serde_json::from_slice(&left("result.json")).expect("result.json is JSON");
    assert_eq!(result["status"], "ok");
    assert_eq!(result["totals"]["agree"], true);
    assert_eq!(result["totals"]["mismatches"], 0);
    assert!(result["totals"]["intervals"].as_u64() > Some(10));
    assert!(text(&output.stdout).contains("0 mismatches"), "{}", text(&output.stdout));

    let said = text(&left("digest/digest.txt"));
    let hash: String = Sha256::digest(&input).iter().map(|byte| format!("{byte:02x}")).collect();
    let count = |option: &str| {
        let output = Command::new("wc").arg(option).arg(&path).env("LC_ALL", "C").output().expect("wc runs");
        text(&output.stdout).split_whitespace().next().unwrap_or_default().to_string()
    };
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words[0], hash, "{said}");
    let counts = [count("-l"), count("-w"), count("-c")];
    assert!(words.windows(3).any(|three| three == counts), "{said}: wc says {counts:?}");

    let mut unpacked = Vec::new();
    flate2::read::MultiGzDecoder::new(&*left("compress/output.gz"))
        .read_to_end(&mut unpacked)
        .expect("compress wrote gzip");
    assert!(unpacked == input, "what the host decompresses is not the input");

    let report = Report::parse(&text(&left("cache/cache.txt"))).expect("cache wrote its report");
    let once = Trace::new(&input).count() as u64;
    assert!(once > 0 && report.accesses.is_multiple_of(once), "{} accesses of {once}", report.accesses);
    let keys = (0..report.accesses / once).flat_map(|_| Trace::new(&input));
    assert_eq!(simulate(keys, &report.sizes), report.hits, "the host has other hits with the same sizes");
}

/// A scenario that is wrong is refused before anything is built or booted, with the line and the reason.
#[test]
fn wrong_scenarios_are_refused_with_line_and_reason() {
    let app = "[[app]]\nname = \"digest\"\nbudget = 1\n";
    for (wrong, line, reason) in [
        ("[[app]]\nname = \"nothing\"\nbudget = 1\n", 2, "unknown application `nothing`"),
        ("[[app]]\nname = \"digest\"\nbudget = -1\n", 3, "budget"),
        ("[[app]]\nname = \"digest\"\nbudget = 1\ninput = \"no-such-file\"\n", 4, "no-such-file"),
        ("[[app]]\nname = \"digest\"\nbudget = 1\nbase_pages = 1000000\n", 4, "base memory"),
        ("[[app]]\nname = \"digest\"\nbudget = 1\ncore = 7\n", 4, "2 cores"),
        ("[[app]]\nname = \"digest\"\nbudget = 1\ncolour = 3\n", 4, "colour"),
        ("[[app]]\nname = \"digest\"\n", 1, "budget"),
    ] {
        let error = scenario(wrong, &Change::none()).expect_err(wrong).to_string();
        assert!(error.contains(&format!("in-the-test.toml:{line}: ")) && error.contains(reason), "{error}");
    }
    for (change, reason) in [
        (Change::set("app.digest.budget=-2"), "budget"),
        (Change::set("app.nobody.budget=2"), "nobody"),
        (Change::none().event("1s=kill:nobody"), "nobody"),
        (Change::none().event("1s=explode"), "explode"),
        (Change::none().event("900s=kill:digest"), "limit"),
    ] {
        let error = scenario(app, &change).expect_err(reason).to_string();
        assert!(error.contains("--") && error.contains(reason), "{error}");
    }
    let path = file("wrong.toml", b"[[app]]\nname = \"nothing\"\nbudget = 1\n");
    let output = output(xtask().arg("run").arg(&path));
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("wrong.toml:2: "), "{}", text(&output.stderr));
    assert!(!text(&output.stdout).contains("machine:"), "it was booted");
}

/// An application that stops at a fault makes the run fail, with the reason and the registers.
#[test]
fn faulting_application_is_reported_with_registers() {
    let run = run(&SPINNER.replace("\"spin\"", "\"fault-in-upcall\""), &Change::none());
    let failure = run.failure.as_deref().expect("an awaited application faulted");
    assert!(failure.contains("spinner"), "{failure}");
    let result = report::json::result(&run.state, "test", 1, 0.0, Some(failure));
    let end = &result["apps"][0]["end"];
    assert_eq!(end["kind"], "fault");
    assert!(end["registers"]["rip"].as_str().is_some_and(|rip| rip.starts_with("0x2")), "{end}");
    assert_eq!(result["status"], "failed");
}

/// A run that is not over in time is an error with the reason and the console's last lines, never a hang.
#[test]
fn time_out_is_an_error_with_the_last_lines() {
    let _one = one_at_a_time();
    let path = file("spinner.toml", SPINNER.as_bytes());
    let output = output(xtask().args(["run", "--plain", "--timeout", "4"]).arg(&path));
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("timed out after 4 s") && error.contains("the console's last lines:"), "{error}");
    assert!(error.contains("hostile: spin begins"), "{error}");
}

/// Ctrl-C ends the emulator in good order: no process and no socket is left.
#[test]
fn interrupt_stops_the_emulator() {
    let _one = one_at_a_time();
    let path = file("interrupted.toml", SPINNER.as_bytes());
    let mut child = xtask()
        .args(["run", "--plain"])
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("xtask starts");
    let id = child.id().to_string();
    let stdout = child.stdout.take().expect("it is piped");
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("hostile: spin begins")), "the application never started");
    let emulators = children(&id);
    assert!(!emulators.is_empty(), "no emulator is there to be stopped");
    let signalled = Command::new("kill").args(["-INT", &id]).status().expect("kill runs");
    assert!(signalled.success());
    let rest: Vec<String> = lines.collect();
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(130), "{rest:?}");
    for emulator in emulators {
        assert!(!PathBuf::from(format!("/proc/{emulator}")).exists(), "process {emulator} is left");
    }
    let sockets = std::env::temp_dir().join(format!("nonkernel-{id}-0"));
    assert!(!sockets.exists(), "{} is left", sockets.display());
}

/// The processes that any thread of a process has started.
fn children(id: &str) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(str::to_string).collect::<Vec<_>>()).collect()
}

#[test]
fn a_market_is_cleared_from_standard_input_and_a_wrong_one_is_refused() {
    let folder = paths::root().join("servers/market/mechanism/examples");
    let example = std::fs::read_to_string(folder.join("pages.json")).expect("the example");
    let clear = |round: &str| {
        let mut command = xtask();
        command.args(["market", "clear", "-", "--json"]).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("xtask starts");
        child.stdin.take().expect("piped").write_all(round.as_bytes()).expect("it reads all");
        child.wait_with_output().expect("xtask ends")
    };
    let answered = clear(&example);
    assert!(answered.status.success(), "{}", text(&answered.stderr));
    let expected = std::fs::read(folder.join("pages.answer.json")).expect("its answer");
    assert_eq!(text(&answered.stdout), text(&expected));
    let refused = clear(&example.replacen("\"quantity\": 200", "\"quantity\": 0", 1));
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(text(&refused.stdout), "");
    let reason = "standard input cannot be cleared: bids[0]: segments: segment 0: quantity is 0";
    assert!(text(&refused.stderr).contains(reason), "{}", text(&refused.stderr));
}
