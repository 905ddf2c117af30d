//! `cargo xtask run --serve` as a user meets it: it says where clients find what is served, in their time, until Ctrl-C.
//! Clients get the answers that README.md shows.

use e2e::memcached::Client;
use e2e::program::{file, left, one_at_a_time, signal, text, xtask};
use e2e::xtask::paths;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

#[test]
fn a_run_serves_ordinary_clients_until_it_is_interrupted() {
    let _one = one_at_a_time();
    // A port that is taken, by this test if by nobody else: another one is offered.
    let _taken = TcpListener::bind("127.0.0.1:11211");
    let path = file(
        "serve.toml",
        b"limit = \"1 s\"\n[machine]\ncores = 1\nmemory = \"128 MiB\"\n[[app]]\nname = \"store\"\nimage = \"kv\"\n\
         nic = true\nport = 11211\nbudget = 2e-5\nvaluation = 1e-9\nbase_cpu = 40\nbase_pages = 4096\n         ",
    );
    let (run, port, says) = serving(Some(&path), "store", "serving at 10.0.2.101");
    assert!(port != 11211 && says.ends_with("(port 11211 is not free)"), "{says}");
    let ping = Command::new("memcping").arg(format!("--servers=127.0.0.1:{port}")).output();
    let ping = ping.expect("libmemcached-tools are installed");
    assert!(ping.status.success(), "{}", text(&ping.stderr));
    shows_what_readme_shows(port);
    // Its time is the client's: what is to last for four seconds and some is gone after them, and not at once. By then it would
    // have nothing left to pay its base with, but for an income.
    let mut client = Client::connect(port);
    let began = Instant::now();
    assert_eq!(client.ask(b"set k 0 5 1\r\nx\r\n"), "STORED\r\n");
    assert_eq!(client.get("k").as_deref(), Some(&b"x"[..]));
    while client.get("k").is_some() {}
    assert!(began.elapsed().as_millis() >= 3_900, "{:?}", began.elapsed());
    ends_well(run);
}

/// What README tells of the run that needs no argument: clients of the host talk to `gold`, beside those of the machine itself.
#[test]
fn the_run_that_needs_no_argument_serves_what_readme_shows() {
    let _one = one_at_a_time();
    let (run, port, _) = serving(None, "gold", "[gold] serving at 10.0.2.104");
    shows_what_readme_shows(port);
    ends_well(run);
}

/// Starts a run that serves until it is interrupted, and waits for this server. Returns its port, and what was said of that.
fn serving(scenario: Option<&Path>, name: &str, serves: &str) -> (Child, u16, String) {
    let mut run = xtask();
    run.args(["run", "--serve", "--plain"]).args(scenario).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut run = run.spawn().expect("it starts");
    let mut lines = BufReader::new(run.stdout.take().expect("it is piped")).lines().map(|line| line.expect("text"));
    let mut line_with = |what: &str| {
        let line = lines.find(|line| line.contains(what));
        line.unwrap_or_else(|| panic!("it ended before `{what}`"))
    };
    let says = line_with(&format!("{name} serves TCP at 127.0.0.1:"));
    let port =
        says.split(['(', ':']).nth(1).and_then(|port| port.trim().split(' ').next()?.parse().ok()).expect("a port");
    line_with(serves);
    // Whoever prints must not be held up.
    thread::spawn(move || lines.for_each(drop));
    (run, port, says)
}

/// Interrupts a run, which has been good.
fn ends_well(run: Child) {
    signal(run.id(), "INT");
    let output = run.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let result: Value = serde_json::from_slice(&left("result.json")).expect("result.json is JSON");
    assert_eq!((&result["status"], &result["totals"]["agree"]), (&"ok".into(), &true.into()));
}

/// Gives a shell the commands that README shows, for this port, and compares what they print.
fn shows_what_readme_shows(port: u16) {
    /// What the shell prints behind each command.
    const END: &str = "(end of command)";
    let readme = fs::read_to_string(paths::root().join("README.md")).expect("README.md is there");
    let (_, after) = readme.split_once("```console\n").expect("README shows a session");
    let (session, _) = after.split_once("```").expect("the session ends");
    let mut commands: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in session.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command, Vec::new())),
            (None, Some((_, shown))) => shown.push(line),
            (None, None) => panic!("`{line}` is the answer to nothing"),
        }
    }
    assert!(commands.len() >= 4, "{commands:?}");
    let mut shell = Command::new("bash").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("bash");
    let mut input = shell.stdin.take().expect("it is piped");
    for (command, _) in &commands {
        assert!(command.contains("11211") || command.contains("&3"), "{command}");
        writeln!(input, "{}; echo '{END}'", command.replace("11211", &port.to_string())).expect("it reads");
    }
    drop(input);
    let output = shell.wait_with_output().expect("it ends");
    let said = text(&output.stdout);
    let mut said = said.split(END);
    for (command, shown) in commands {
        let said: Vec<&str> = said.next().unwrap_or_default().trim().lines().map(str::trim).collect();
        assert_eq!(said, shown, "{command}");
    }
}
