//! The live display: `cargo xtask run` on a pseudo-terminal, read as a user reads the screen and driven by keys.
//!
//! Nothing waits for time: a key is pressed when the screen shows what it needs, and the test goes on when the screen
//! shows what it did.

use e2e::program::{self, children, file, is_there, one_at_a_time, path};
use e2e::xtask::paths;
use pty_process::Size;
use pty_process::blocking::{Command, Pty, open};
use serde_json::Value;
use std::io::{Read, Write};
use std::process::Child;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

const ROWS: u16 = 50;
const COLUMNS: u16 = 160;
/// Samples over which the victim's line must be flat.
const FLAT: usize = 5;

/// Two applications that never end compete for one core; a third can be started beside them.
const RIVALS: &str = r#"
title = "two rivals"
limit = "60 s"
[machine]
cores = 1
memory = "128 MiB"
[cpu]
reserve = 0.02
supply = 40
[[app]]
name = "left"
image = "digest"
input = "@sources"
args = ["passes=1000000"]
budget = 1
valuation = 8e-9
base_cpu = 5
[[app]]
name = "right"
image = "digest"
input = "@sources"
args = ["passes=1000000"]
budget = 1
valuation = 4e-9
base_cpu = 5
[[app]]
name = "bully"
image = "hostile"
args = ["spin"]
budget = 1
base_cpu = 10
starts = false
"#;

/// A run on a terminal, which is ended with the test.
struct Terminal {
    child: Child,
    pty: Arc<Pty>,
    /// What the program writes; closed when the program has closed its side.
    output: Receiver<Vec<u8>>,
    screen: vt100::Parser,
    limit: Instant,
}

/// An application's row of the display.
#[derive(Debug, PartialEq)]
struct Row {
    pages: u32,
    /// Units of CPU time that it has bought, those of its base included.
    bought: u32,
    /// Per cent of the core that it had.
    had: f64,
    balance: f64,
    paid: f64,
    progress: String,
    selected: bool,
}

impl Terminal {
    fn run(scenario: &str) -> Terminal {
        let scenario = file("on-a-terminal.toml", scenario.as_bytes());
        let (pty, side) = open().expect("a pseudo-terminal");
        pty.resize(Size::new(ROWS, COLUMNS)).expect("it takes a size");
        let command = Command::new(path()).arg("run").arg(scenario).current_dir(paths::root()).env("TERM", "xterm");
        let child = command.spawn(side).expect("the program starts");
        let pty = Arc::new(pty);
        let (sender, output) = channel();
        let reader = pty.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = (&*reader).read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let limit = Instant::now() + e2e::TIMEOUT;
        Terminal { child, pty, output, screen: vt100::Parser::new(ROWS, COLUMNS, 1000), limit }
    }

    /// Takes in what the program writes until the screen is as wanted.
    fn wait<T>(&mut self, wanted: &str, check: impl Fn(&Terminal) -> Option<T>) -> T {
        loop {
            if let Some(found) = check(self) {
                return found;
            }
            let left = self.limit.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.screen.process(&bytes),
                Err(error) => panic!("never: {wanted} ({error}); the screen:\n{}", self.text()),
            }
        }
    }

    /// Takes in the rest until the program has closed the terminal.
    fn wait_end(&mut self) -> Option<i32> {
        while let Ok(bytes) = self.output.recv_timeout(self.limit.saturating_duration_since(Instant::now())) {
            self.screen.process(&bytes);
        }
        self.child.wait().expect("it ends").code()
    }

    fn press(&mut self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    fn text(&self) -> String {
        self.screen.screen().contents()
    }

    fn shows(&self, text: &str) -> bool {
        self.text().contains(text)
    }

    /// Number and cells of the line of a table whose first word is this; cells are what two blanks or borders separate.
    fn line(&self, first: &str) -> Option<(u16, Vec<String>)> {
        self.screen.screen().rows(0, COLUMNS).zip(0..).find_map(|(line, number)| {
            let inner = line.strip_prefix('│')?.split('│').next()?.to_string();
            let cells = inner.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
            let cells: Vec<String> = cells.map(str::to_string).collect();
            (cells.first().map(String::as_str) == Some(first)).then_some((number, cells))
        })
    }

    /// An application's row.
    fn app(&self, number: u32, name: &str) -> Option<Row> {
        let (line, cells) = self.line(&format!("{number} {name}"))?;
        let [_, pages, bought, had, balance, paid, progress @ ..] = cells.as_slice() else { return None };
        Some(Row {
            pages: pages.parse().ok()?,
            bought: bought.strip_suffix(" of cpu.0")?.parse().ok()?,
            had: had.strip_suffix(" %")?.parse().ok()?,
            balance: balance.parse().ok()?,
            paid: paid.parse().ok()?,
            progress: progress.join(" "),
            selected: self.screen.screen().cell(line, 2)?.inverse(),
        })
    }

    /// Clearing price and unit of a good.
    fn price(&self, good: &str) -> Option<(f64, String)> {
        let (_, cells) = self.line(good)?;
        Some((cells.get(1)?.parse().ok()?, cells.last()?.clone()))
    }

    /// The selected application's share line: its title, and its heights in eighths of a line of the screen.
    fn share_line(&self) -> Option<(String, Vec<usize>)> {
        const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let lines: Vec<String> = self.screen.screen().rows(0, COLUMNS).collect();
        let at = lines.iter().position(|line| line.contains("CPU time that "))?;
        let title = lines[at].trim_matches(['┌', '┐', '─']).to_string();
        let heights =
            |line: &str| -> Vec<usize> { line.chars().filter_map(|c| BARS.iter().position(|bar| *bar == c)).collect() };
        let (upper, lower) = (heights(lines.get(at + 1)?), heights(lines.get(at + 2)?));
        let mut both: Vec<usize> = upper.iter().zip(&lower).map(|(upper, lower)| upper + lower).collect();
        while both.last() == Some(&0) {
            both.pop();
        }
        Some((title, both))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Harmless when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The values of an array of pairs in `result.json`.
fn pairs(value: &Value) -> Vec<(f64, f64)> {
    let pair = |pair: &Value| Some((pair[0].as_f64()?, pair[1].as_f64()?));
    value.as_array().expect("pairs").iter().filter_map(pair).collect()
}

/// Everything that is shown, and every key, in one run.
#[test]
fn display_shows_the_market_and_its_keys_change_it() {
    let _one = one_at_a_time();
    let mut terminal = Terminal::run(RIVALS);

    // Prices in credits per core-hour and GiB-hour, who holds what, balances, progress.
    let dearer = |terminal: &Terminal| {
        let (left, right) = (terminal.app(1, "left")?, terminal.app(2, "right")?);
        let works = left.progress.ends_with('%');
        (left.bought > right.bought && left.paid > 0.0 && works).then_some((left, right))
    };
    let (left, right) = terminal.wait("left, to whom work is worth more, buys more", dearer);
    let (price, unit) = terminal.price("cpu.0").expect("CPU time has a price");
    assert!(price >= 0.02 && unit == "credits/core-hour", "{price} {unit}");
    let (price, unit) = terminal.price("page").expect("memory has a price");
    assert!(price >= 0.0 && unit == "credits/GiB-hour", "{price} {unit}");
    assert!(left.bought + right.bought <= 50 && left.balance < 1.0 && left.balance + left.paid <= 1.0, "{left:?}");
    assert!(left.progress.ends_with('%') && left.progress.contains('░'), "{left:?}");
    assert!(left.selected && !right.selected);
    let bully = terminal.app(3, "bully").expect("it is shown");
    assert!(bully.progress == "not started" && bully.had == 0.0 && !bully.selected, "{bully:?}");

    // Arrows select, down and up and around.
    terminal.press("\x1b[B");
    terminal.wait("right is selected", |terminal| terminal.app(2, "right").filter(|row| row.selected));
    terminal.press("\x1b[A\x1b[A");
    terminal.wait("bully is selected", |terminal| terminal.app(3, "bully").filter(|row| row.selected));
    terminal.press("2");
    terminal.wait("right is selected again", |terminal| terminal.app(2, "right").filter(|row| row.selected));

    // + until right outbids left; - until it does not.
    terminal.press("++++");
    terminal.wait("the valuation of right is told", |terminal| {
        terminal.shows("you: the valuation of right is now x 5.06").then_some(())
    });
    let other = |terminal: &Terminal| {
        Some(terminal.app(2, "right")?.bought > terminal.app(1, "left")?.bought).filter(|more| *more)
    };
    terminal.wait("right buys more", other);
    terminal.press("----");
    terminal.wait("left buys more again", dearer);

    // h: a hostile neighbour starts beside the flat line of its victim's share.
    terminal.press("h");
    terminal.wait("the bully has its own share", |terminal| terminal.app(3, "bully").filter(|row| row.had > 8.0));
    let (title, watched) = terminal.share_line().expect("a line");
    assert!(title.starts_with("CPU time that left has had, share of core 0 (full height: "), "{title}");
    let (_, line) = terminal.wait("the line goes on", |terminal| {
        terminal.share_line().filter(|(_, line)| line.len() >= watched.len() + FLAT)
    });
    let flat = &line[line.len() - FLAT..];
    assert!(flat.iter().max() <= flat.iter().min().map(|least| least + 1).as_ref(), "{line:?}");
    let victim = terminal.app(1, "left").expect("it is shown");
    assert!(victim.selected && victim.had >= f64::from(victim.bought) - 1.0, "{victim:?}");
    terminal.press("h");
    terminal.wait("there is only one", |terminal| {
        terminal.shows("there is no application left that could be started").then_some(())
    });

    // s: a demand shock moves the price.
    terminal.press("2");
    terminal
        .wait("right is selected for the third time", |terminal| terminal.app(2, "right").filter(|row| row.selected));
    let (before, _) = terminal.price("cpu.0").expect("a price");
    terminal.press("s");
    terminal.wait("the price rises", |terminal| terminal.price("cpu.0").filter(|(price, _)| *price > 1.2 * before));
    assert!(terminal.shows("you: demand shock: right x 4 for 5000 ms"));

    // k kills the selected one.
    terminal.press("k");
    terminal.wait("right is killed", |terminal| terminal.app(2, "right").filter(|row| row.progress == "killed"));

    // q ends in good order: the terminal is given back, the tables are printed, nothing is left running.
    let emulators = children(terminal.child.id());
    assert_eq!(emulators.len(), 1, "one emulator runs");
    assert!(terminal.screen.screen().alternate_screen());
    terminal.press("q");
    assert_eq!(terminal.wait_end(), Some(0), "{}", terminal.text());
    assert!(!is_there(emulators[0]), "process {} is left", emulators[0]);
    let screen = terminal.screen.screen();
    assert!(!screen.alternate_screen() && !screen.hide_cursor(), "the terminal is as it was");
    assert!(terminal.shows("0 mismatches") && terminal.shows("results in target/run"), "{}", terminal.text());

    let result: Value = serde_json::from_slice(&program::left("result.json")).expect("result.json is JSON");
    assert_eq!((&result["status"], &result["totals"]["agree"]), (&"ok".into(), &true.into()));
    let ends: Vec<&str> = (0..3).filter_map(|app| result["apps"][app]["end"]["kind"].as_str()).collect();
    assert_eq!(ends, ["run_over", "killed", "run_over"]);
    // While the neighbour spun, its victim never had less than its base.
    let started = result["apps"][2]["started_ms"].as_f64().expect("it was started");
    let shares = pairs(&result["apps"][0]["cpu_share"]);
    let beside: Vec<f64> = shares.iter().filter(|(t, _)| *t > started + 200.0).map(|(_, share)| *share).collect();
    assert!(beside.len() >= 3, "{shares:?}");
    assert!(beside.iter().all(|share| *share >= 0.049), "{beside:?}");
}

/// In raw mode Ctrl-C is a key, and yet an interrupt: it ends the machine, says so, and the status tells.
#[test]
fn interrupt_on_the_terminal_is_an_interrupt() {
    let _one = one_at_a_time();
    let mut terminal = Terminal::run(RIVALS);
    terminal.wait("it runs", |terminal| terminal.app(1, "left").filter(|row| row.had > 0.0));
    let emulators = children(terminal.child.id());
    terminal.press("\x03");
    assert_eq!(terminal.wait_end(), Some(130), "{}", terminal.text());
    assert!(terminal.shows("error: interrupted; what it had done is reported"), "{}", terminal.text());
    assert!(!terminal.screen.screen().alternate_screen());
    assert!(emulators.len() == 1 && !is_there(emulators[0]), "{emulators:?}");
    let result: Value = serde_json::from_slice(&program::left("result.json")).expect("result.json is JSON");
    assert_eq!(result["failure"], "interrupted; what it had done is reported");
}
