//! `cargo xtask` from end to end: what `--json` prints, what is refused, what
//! `--help` names, and that nothing is set up twice. What the default scenario leaves is in `default.rs`, and how runs end
//! that do not end well in `ending.rs`.

use e2e::program::{file, folder, left, one_at_a_time, output, signal, text, xtask};
use e2e::xtask::emulator::Acceleration;
use e2e::xtask::scenario::Refused;
use e2e::xtask::{paths, process, run as runner};
use e2e::{Change, Machine, run, scenario};
use proto::host::End;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, Stdio};

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
    for (wrong, line, reason) in [
        ("[machine]\ncores = 9\n[[app]]\nname = \"digest\"\nbudget = 1\n", 2, "cores"),
        ("[cpu]\ninterval = \"15 ms\"\n[[app]]\nname = \"digest\"\nbudget = 1\n", 2, "multiple of 10 ms"),
        ("[page]\ninterval = \"0 s\"\n[[app]]\nname = \"digest\"\nbudget = 1\n", 2, "multiple of 1 ms"),
        ("[[app]]\nname = \"digest\"\nbudget = = 1\n", 3, ""),
        ("[[event]]\nat = \"1 s\"\ndo = \"explode\"\n[[app]]\nname = \"digest\"\nbudget = 1\n", 3, "known are: shock"),
    ] {
        let error = scenario(wrong, &Change::none()).expect_err(wrong).to_string();
        assert!(error.contains(&format!("in-the-test.toml:{line}: ")) && error.contains(reason), "{error}");
    }
    for (change, place, reason) in [
        (Change::set("app.digest.budget=-2"), "--set app.digest.budget=-2: ", "negative"),
        (Change::set("app.nobody.budget=2"), "--set app.nobody.budget=2: ", "there is: digest"),
        (Change::set("app.digest.colour=2"), "--set app.digest.colour=2: ", "unknown key `colour`"),
        (Change::set("sky=blue"), "--set sky=blue: ", "unknown key `sky`"),
        (Change::set("nonsense"), "--set nonsense: ", "must be KEY=VALUE"),
        (Change::set("machine.memory=lots"), "--set machine.memory=lots: ", "no size"),
        (Change::set("app.digest.base_pages=1000000"), "--set app.digest.base_pages=1000000: ", "base memory"),
        (Change::none().event("1s=kill:nobody"), "--event 1s=kill:nobody: ", "there are: digest"),
        (Change::none().event("1s=explode"), "--event 1s=explode: ", "known are: shock"),
        (Change::none().event("900s=kill:digest"), "--event 900s=kill:digest: ", "limit"),
        (Change::none().event("kill:digest"), "--event kill:digest: ", "must be T=KEY"),
        (Change::none().input("nobody", "x".as_ref()), "--input nobody=x: ", "there are: digest"),
        (Change::none().input("digest", "no-such-file".as_ref()), "--input digest=no-such-file: ", "cannot be read"),
    ] {
        let error = scenario(app, &change).expect_err(reason).to_string();
        assert!(error.starts_with(place) && error.contains(reason), "{error}");
    }
    let path = file("wrong.toml", b"[[app]]\nname = \"nothing\"\nbudget = 1\n");
    let output = output(xtask().arg("run").arg(&path));
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("wrong.toml:2: "), "{}", text(&output.stderr));
    assert!(!text(&output.stdout).contains("machine:"), "it was booted");
}

/// Bases and inputs that the machine has no room for are refused before the boot, whatever takes the room: the blocks are
/// powers of two, of at most 64 MiB on this machine, and image, tables and slots are part of a base.
#[test]
fn bases_without_room_are_refused_with_line_and_reason() {
    let app = |name: &str, pages: u32| {
        format!("[[app]]\nname = \"{name}\"\nimage = \"lines\"\nbudget = 1\nbase_pages = {pages}\n")
    };
    let many: String = (0..15).map(|number| app(&format!("lines-{number}"), 5000)).collect();
    for (wrong, line, reason) in [
        (app("lines", 20_000), 5, "takes a block of 128 MiB, and the largest that there is has 64 MiB"),
        (many, 75, "no room for `lines-14`: its base of "),
    ] {
        let error = Machine::start(&wrong, &Change::none()).err().expect(reason).to_string();
        assert!(error.contains(&format!("in-the-test.toml:{line}: ")) && error.contains(reason), "{error}");
    }
    let path = file("large.toml", app("lines", 20_000).as_bytes());
    let _one = one_at_a_time();
    let before = e2e::xtask::paths::run_folder().join("of-an-earlier-run");
    std::fs::create_dir_all(before.parent().expect("a folder")).expect("the target folder can be written");
    std::fs::write(&before, "kept").expect("as above");
    let output = output(xtask().arg("run").arg(&path));
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("large.toml:5: a machine of 512 MiB has no room"),
        "{}",
        text(&output.stderr)
    );
    assert!(before.exists(), "a run that is refused leaves the results of the one before");
}

/// The fullest machine that is not refused boots, and everybody gets its base.
#[test]
fn fullest_machine_that_is_accepted_boots() {
    let full = |apps: usize| {
        let app = |number| format!("[[app]]\nname = \"a{number}\"\nimage = \"lines\"\nbudget = 1\nbase_pages = 1500\n");
        let apps: String = (0..apps).map(app).collect();
        format!("limit = \"20 s\"\n[machine]\ncores = 1\nmemory = \"128 MiB\"\n{apps}")
    };
    let refused = (1..=15).find(|&apps| {
        let scenario = scenario(&full(apps), &Change::none()).expect("nothing else is wrong with it");
        let built = e2e::built(&["market-server", "console-server", "lines"]).expect("it can be built");
        let config = runner::config(&scenario, &built, Acceleration::InstructionClock, &folder("full"), &[]);
        config.is_err_and(|error| error.is::<Refused>())
    });
    let apps = refused.expect("15 bases of 8 MiB do not fit into 128 MiB") - 1;
    assert!(apps >= 10, "only {apps} bases of 8 MiB are accepted");
    let run = run(&full(apps), &Change::none());
    run.expect_good();
    for app in 0..apps {
        assert_eq!(run.end(&format!("a{app}")), &End::Exit { status: 0 });
    }
}

/// The fullest cores that are not refused boot, and everybody gets its base; a unit more is refused with its line.
#[test]
fn fullest_cores_that_are_accepted_boot() {
    let with = |interval: &str, bases: &[(u8, u32)]| {
        let app = |(number, (core, units)): (usize, &(u8, u32))| {
            format!("[[app]]\nname = \"a{number}\"\nimage = \"lines\"\nbudget = 1\ncore = {core}\nbase_cpu = {units}\n")
        };
        let apps: String = bases.iter().enumerate().map(app).collect();
        format!("limit = \"20 s\"\n[cpu]\ninterval = \"{interval}\"\n{apps}")
    };
    for (interval, before) in [("10 ms", &[][..]), ("10 ms", &[20, 20]), ("80 ms", &[1, 1, 1, 2, 3])] {
        let mut bases = Vec::new();
        for core in 0..2 {
            bases.extend(before.iter().map(|&units| (core, units)));
            // The largest that there is room for.
            bases.push((core, 1));
            let place = bases.len() - 1;
            let refusal = loop {
                match scenario(&with(interval, &bases), &Change::none()) {
                    Ok(_) => bases[place].1 += 1,
                    Err(error) => break error.to_string(),
                }
            };
            let line = 3 + 6 * bases.len();
            bases[place].1 -= 1;
            let reason = format!("core {core} has {} units of CPU time left for this base", bases[place].1);
            assert!(refusal.contains(&format!("in-the-test.toml:{line}: {reason}")), "{refusal}");
        }
        let run = run(&with(interval, &bases), &Change::none());
        run.expect_good();
        for app in 0..bases.len() {
            assert_eq!(run.end(&format!("a{app}")), &End::Exit { status: 0 }, "{bases:?}");
        }
    }
}

/// A name that is no scenario is refused like a wrong one, and what there is is listed.
#[test]
fn unknown_scenario_is_refused_with_what_there_is() {
    let output = output(xtask().args(["run", "no-such-scenario"]));
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert_eq!(error, "error: no-such-scenario: there is no such scenario; there are: batch, default, hostile, tiny\n");
}

/// Kinds of `--json` and the keys of each, as `docs/result.md` tells them.
fn documented_kinds(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let (_, section) = page.split_once("## `--json`").expect("a section");
    let section = section.split("\n## ").next().expect("its text");
    let words = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_string).collect::<BTreeSet<String>>();
    let rows = section.lines().filter_map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        let kind = cells[0].trim().strip_prefix('`')?.strip_suffix('`').filter(|kind| *kind != "kind")?;
        let mut keys = words(cells.last()?);
        keys.remove("result.json");
        keys.insert("kind".into());
        Some((kind.to_string(), keys))
    });
    rows.collect()
}

/// Every key of an object, at any depth; where keys are names (of applications, goods, registers), their values only.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    const MAPS_OF_NAMES: [&str; 3] = ["holdings", "exits", "registers"];
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                found.insert(key.clone());
                if !MAPS_OF_NAMES.contains(&key.as_str()) {
                    keys(value, found);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
        _ => {}
    }
}

/// `--json`: nothing but objects, one a line, of kinds and with keys that are documented; the last is the result.
#[test]
fn json_lines_are_objects_as_documented() {
    let _one = one_at_a_time();
    let page = std::fs::read_to_string(paths::root().join("docs/result.md")).expect("the page is there");
    let documented = documented_kinds(&page);
    let output = output(xtask().args(["run", "tiny", "--json", "--seed", "3"]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut seen = BTreeSet::new();
    let mut last = Value::Null;
    for line in text(&output.stdout).lines() {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        if seen.is_empty() {
            assert_eq!(
                (&object["kind"], &object["goods"]["page"]["reserve"]),
                (&"terms".into(), &264.into()),
                "{line}"
            );
        }
        let kind = object["kind"].as_str().unwrap_or_else(|| panic!("no kind: {line}")).to_string();
        let expected = documented.get(&kind).unwrap_or_else(|| panic!("`{kind}` is not documented: {line}"));
        let found: BTreeSet<String> = object.as_object().expect("it has a kind").keys().cloned().collect();
        assert_eq!(&found, expected, "{line}");
        seen.insert(kind);
        last = object;
    }
    // Only `cargo xtask bench` makes rows of a bench, only `kv` tells of hits, and only who has a network function has frames
    // counted: no application here is or has one.
    let elsewhere = |kind: &&String| ["bench", "hits", "network"].contains(&kind.as_str());
    let possible: BTreeSet<String> = documented.keys().filter(|kind| !elsewhere(kind)).cloned().collect();
    assert_eq!(seen, possible);
    assert_eq!(last["kind"], "result");
    let result: Value = serde_json::from_slice(&left("result.json")).expect("result.json is JSON");
    assert_eq!((&last["result"], &result["seed"]), (&result, &3.into()));
    let mut in_result = BTreeSet::new();
    keys(&result, &mut in_result);
    for key in in_result {
        let documented = page.contains(&format!("`{key}`")) || page.contains(&format!("`{key}[]`"));
        assert!(documented, "`{key}` of result.json is not documented");
    }
}

/// Whoever reads the output may stop reading (`| head`): the run goes on, leaves its results, and ends with its own status.
#[test]
fn closed_pipe_stops_no_run() {
    let _one = one_at_a_time();
    for (format, event, status, told) in
        [("--json", "50ms=kill:digest", 0, "ok"), ("--plain", "50ms=crash", 1, "failed")]
    {
        let mut command = xtask();
        command.args(["run", "tiny", format, "--event", event]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut first = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut first).expect("text");
        assert!(!first.is_empty(), "it has printed nothing yet");
        // The one who reads its errors has gone too in the second round, as after `2>&1 | head`.
        let mut errors = child.stderr.take().filter(|_| status == 0);
        let mut error = String::new();
        errors.as_mut().map(|errors| errors.read_to_string(&mut error)).transpose().expect("text");
        assert_eq!(child.wait().expect("it ends").code(), Some(status), "{format}: {error}");
        assert!(!error.contains("panicked"), "{error}");
        let result: Value = serde_json::from_slice(&left("result.json")).expect("result.json is JSON");
        assert_eq!(result["status"], told, "{result}");
    }
}

/// An event whose time never comes is named at the end and in the result; one that happened is not, and what the killed
/// application had done is shown as in the result.
#[test]
fn events_after_the_end_are_named() {
    let _one = one_at_a_time();
    let events = ["--event", "19 s=value+:digest", "--event", "50ms=kill:digest"];
    for format in ["--plain", "--json"] {
        let output = output(xtask().args(["run", "tiny", format]).args(events));
        let (said, error) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{error}");
        let told = if format == "--json" { &error } else { &said };
        let named: Vec<&str> = told.lines().filter(|line| line.contains(" did not happen: ")).collect();
        assert_eq!(named.len(), 1, "{told}");
        assert!(named[0].starts_with("event 19s=value+:digest did not happen: the run ended at 0.0"), "{}", named[0]);
        let result: Value = serde_json::from_slice(&left("result.json")).expect("result.json is JSON");
        assert_eq!(result["missed_events"], serde_json::json!(["19s=value+:digest"]));
        let work = result["apps"][0]["work"].as_u64().expect("a number");
        let objects = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let shown = objects.filter(|object| object["kind"] == "ended").any(|ended| ended["work"] == work)
            || said.lines().any(|line| line.ends_with(&format!(" digest: killed; work {work}")));
        assert!(work > 0 && shown, "{work}: {said}");
    }
}

/// A run that finds another one in its folder says so, leaves the other's files alone, and waits for its turn or for Ctrl-C.
#[test]
fn second_run_waits_for_its_turn() {
    let _one = one_at_a_time();
    let other = File::create(paths::run_lock()).expect("the target folder can be written");
    other.lock().expect("the file system has locks");
    let mark = paths::run_folder().join("of-the-other-run");
    std::fs::create_dir_all(paths::run_folder()).expect("the target folder can be written");
    std::fs::write(&mark, "kept").expect("as above");
    let wait = || {
        let mut command = xtask();
        command.args(["run", "tiny", "--event", "50ms=kill:digest"]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut errors = BufReader::new(child.stderr.take().expect("piped"));
        let mut error = String::new();
        while !error.contains("another run uses target/run: waiting for it (") {
            assert!(errors.read_line(&mut error).expect("text") > 0, "it does not wait: {error}");
        }
        (child, errors, error)
    };
    let end = |(mut child, mut errors, mut error): (Child, BufReader<ChildStderr>, String)| {
        errors.read_to_string(&mut error).expect("text");
        (child.wait().expect("it ends").code(), error)
    };
    let interrupted = wait();
    signal(interrupted.0.id(), "INT");
    let (status, error) = end(interrupted);
    assert_eq!(status, Some(130), "{error}");
    assert!(error.ends_with("\nerror: interrupted before the boot\n"), "{error}");
    let waiting = wait();
    assert!(mark.exists(), "the other run's files are gone");
    drop(other);
    let (status, error) = end(waiting);
    assert_eq!(status, Some(0), "{error}");
    assert!(!mark.exists(), "its own files are there");
    let result: Value = serde_json::from_slice(&left("result.json")).expect("result.json is JSON");
    assert_eq!(result["status"], "ok");
}

/// The words of `--help` that are options, each of which has a line of its own that says what it does.
fn options(help: &str) -> BTreeSet<String> {
    let lines = help.lines().filter(|line| line.starts_with("  "));
    let names = lines.flat_map(|line| {
        let words = line.split_whitespace().take_while(|word| word.starts_with('-'));
        words.map(|word| word.trim_end_matches([',', '.']).to_string()).collect::<Vec<_>>()
    });
    names.filter(|name| name.starts_with("--")).collect()
}

/// `--help` works on every command, without any set-up, and names every option; what is mistyped is answered with what
/// to type.
#[test]
fn help_names_every_command_and_option() {
    let scenario = ["--input", "--set", "--seed", "--event"];
    let run = [&scenario[..], &["--json", "--plain", "--serve", "--timeout"]].concat();
    let image = [&scenario[..], &["--out"]].concat();
    let boot = ["--cores", "--memory", "--command-line", "--with", "--accel", "--timeout"];
    let commands: [(&[&str], &[&str], &[&str]); 17] = [
        (&["setup"], &[], &[]),
        (&["build"], &["[PROGRAM]"], &[]),
        (&["image"], &["[SCENARIO]"], &image),
        (&["run"], &["[SCENARIO]"], &run),
        (&["test"], &["[FILTER]"], &["--host-only"]),
        (&["verify"], &["[CHECK]"], &["--full", "--list", "--write", "--page", "--seeded-bugs"]),
        (&["bench"], &["[MACHINE]"], &["--json", "--update"]),
        (&["tcb"], &[], &["--json", "--files", "--since"]),
        (&["new"], &["<NAME>"], &[]),
        (&["market"], &["clear", "check", "bench"], &[]),
        (&["market", "clear"], &["<FILE>"], &["--json"]),
        (&["market", "check"], &[], &["--full"]),
        (&["market", "bench"], &[], &[]),
        (&["abi"], &[], &[]),
        (&["conform"], &["[SCENARIO|GUEST]"], &["--full", "--mistakes", "--cores", "--accel"]),
        (&["boot"], &["<IMAGE>"], &boot),
        (&[], &["Usage: cargo xtask <COMMAND>"], &[]),
    ];
    let help = |words: &[&str]| {
        // No PATH: neither the set-up nor a build could be begun.
        let output = output(xtask().env("PATH", "").args(words));
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    for (command, arguments, expected) in commands {
        let shown = help(&[command, &["--help"]].concat());
        let expected: BTreeSet<String> = expected.iter().copied().chain(["--help"]).map(str::to_string).collect();
        assert_eq!(options(&shown), expected, "{command:?}: {shown}");
        for argument in arguments {
            assert!(shown.contains(argument), "{command:?}: {argument} is not in {shown}");
        }
        assert!(shown.lines().next().is_some_and(|line| line.len() > 20), "{command:?} says what it does: {shown}");
    }
    let listed = help(&["--help"]);
    let (_, listed) = listed.split_once("Commands:\n").expect("a list of commands");
    let listed: Vec<&str> = listed.lines().map_while(|line| line.split_whitespace().next()).collect();
    let mut known: Vec<&str> = commands.iter().filter_map(|(command, ..)| command.first().copied()).collect();
    known.dedup();
    // What this one takes its own program says.
    let market = known.iter().position(|command| *command == "market").expect("it is above");
    known.insert(market + 1, "model");
    known.push("help");
    assert_eq!(listed, known);

    for (typed, told) in [
        (&["run", "--sed", "3"][..], "a similar argument exists: '--seed'"),
        (&["rum"], "a similar subcommand exists: 'run'"),
        (&["run", "--colour"], "unexpected argument '--colour' found"),
        (&["run", "--seed"], "'--seed <SEED>'"),
        (&["run", "--seed", "x"], "invalid value 'x' for '--seed <SEED>'"),
        (&["run", "--json", "--plain"], "cannot be used with"),
        (&["new"], "<NAME>"),
    ] {
        let output = output(xtask().env("PATH", "").args(typed));
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{typed:?}: {error}");
        assert!(error.contains(told), "{typed:?}: {error}");
        assert!(error.contains("Usage: ") || error.contains("try '--help'"), "{typed:?}: {error}");
    }
}

/// What is there is not set up again: no installer is called, and nothing is said.
#[test]
fn nothing_is_set_up_twice() {
    let _one = one_at_a_time();
    let scenario = file("refused.toml", b"title = 1\n");
    let run = |path: &str| {
        let output = output(xtask().arg("run").arg(&scenario).env("PATH", path));
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    let path = std::env::var("PATH").expect("there is a PATH");
    run(&path);
    let folder = folder("installers");
    let calls = folder.join("calls");
    let _ = std::fs::remove_file(&calls);
    for name in ["apt-get", "rustup"] {
        let script = format!("echo {name} >> {}", calls.display());
        process::script(&folder.join(name), &script);
    }
    let (said, error) = run(&format!("{}:{path}", folder.display()));
    assert!(!calls.exists(), "{}", text(&std::fs::read(&calls).unwrap_or_default()));
    assert!(said.is_empty() && !error.contains("set-up"), "{said}{error}");
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
