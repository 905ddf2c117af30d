//! What the default scenario of `cargo xtask run` promises: what it leaves, prints and shows, and that memory, bandwidth and
//! hits follow load and price.

use cache::sizes::{Report, simulate};
use cache::trace::Trace;
use e2e::program::{file, left, one_at_a_time, output, text, xtask};
use e2e::xtask::sources;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::ops::Range;
use std::process::Command;

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
    let said = text(&output.stdout);
    says_where_clients_find_the_servers(&said);
    assert!(said.contains("[   1.200 s] event: shock:cache:120:800 ms"), "{said}");

    let result: Value = serde_json::from_slice(&left("result.json")).expect("result.json is JSON");
    assert_eq!(result["status"], "ok");
    assert_eq!(result["totals"]["agree"], true);
    assert_eq!(result["totals"]["mismatches"], 0);
    assert!(result["totals"]["intervals"].as_u64() > Some(10));
    takes_less_than_a_minute(&result);
    shows_what_the_result_holds(&said, &result);
    shock_shows_in_the_price(&result);
    let servers = Servers(&result);
    clients_are_served_from_the_start(&servers);
    memory_and_hits_follow_load_and_price(&servers);
    bandwidth_follows_load_and_price(&servers);

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
    // What an application is given as its seed is the run's, and its number in the scenario.
    let cache = result["apps"].as_array().expect("applications").iter().position(|app| app["name"] == "cache");
    let seed = result["seed"].as_u64().expect("a seed") + cache.expect("cache") as u64;
    let keys = Trace::new(&input).passes(report.accesses / once, seed);
    assert_eq!(simulate(keys, &report.sizes), report.hits, "the host has other hits with the same sizes");
}

/// Where clients on the host find the two servers: each has a port of its own.
fn says_where_clients_find_the_servers(said: &str) {
    let port = |name: &str| {
        let start = format!("{name} serves TCP at 127.0.0.1:");
        let rest = said.lines().find_map(|line| line.strip_prefix(&start));
        let port = rest.and_then(|rest| rest.split(' ').next()?.parse::<u16>().ok());
        port.filter(|port| *port > 0).unwrap_or_else(|| panic!("no `{start}PORT` in {said}"))
    };
    assert_ne!(port("gold"), port("bronze"));
}

/// A user waits less than a minute for the default scenario. Seconds say little where tests run side by side, on whatever
/// machine. But the emulator counts instructions: its clock goes on by a nanosecond with each of any core, and QEMU
/// does some 150 million of them in a second. So 8 s of the machine's own clock are less than a minute.
fn takes_less_than_a_minute(result: &Value) {
    let ended =
        result["apps"].as_array().expect("applications").iter().filter_map(|app| app["ended_ms"].as_u64()).max();
    assert!(ended < Some(8_000), "the last application ended at {ended:?} ms of the machine's clock");
}

/// The shock of the default scenario (1.2 to 2 s, of who runs on core 1) makes that core dear while it lasts.
fn shock_shows_in_the_price(result: &Value) {
    let goods = result["goods"].as_array().expect("goods");
    let rounds =
        goods.iter().find(|good| good["name"] == "cpu.1").expect("core 1")["rounds"].as_array().expect("rounds");
    let dearest = |from: u64, to: u64| {
        let clearing = |round: &Value| round["clearing"].as_u64().expect("an integer");
        let within = rounds.iter().filter(|round| (from..to).contains(&round["t_ms"].as_u64().expect("a time")));
        within.map(clearing).max().expect("rounds in that time")
    };
    let (before, while_it_lasts, after) = (dearest(400, 1_150), dearest(1_300, 2_000), dearest(2_300, 3_000));
    assert!(while_it_lasts > 2 * before.max(after), "{before} {while_it_lasts} {after}");
}

/// The two servers of the default scenario, as the result tells of them.
struct Servers<'a>(&'a Value);

impl Servers<'_> {
    fn rounds(&self, good: &str) -> &Vec<Value> {
        let good = self.0["goods"].as_array().expect("goods").iter().find(|one| one["name"] == good).expect("the good");
        good["rounds"].as_array().expect("rounds")
    }

    /// Units of a good above its base that an application held at that time.
    fn held(&self, good: &str, name: &str, t: u64) -> u64 {
        let before = self.rounds(good).iter().take_while(|round| time(&round["t_ms"]) <= t);
        before.last().map_or(0, |round| round["holdings"][name].as_u64().unwrap_or(0))
    }

    /// The same, in the mean.
    fn holding(&self, good: &str, name: &str, within: Range<u64>) -> f64 {
        mean(&within.step_by(100).map(|t| self.held(good, name, t) as f64).collect::<Vec<_>>())
    }

    /// The hit ratio of an application from time to time.
    fn ratios(&self, name: &str, within: &Range<u64>) -> Vec<(u64, f64)> {
        let app = self.0["apps"].as_array().expect("applications").iter().find(|app| app["name"] == name);
        let pairs = app.unwrap_or_else(|| panic!("no {name}"))["hit_ratio"].as_array().expect("ratios").iter();
        let pairs = pairs.map(|pair| (time(&pair[0]), pair[1].as_f64().expect("a ratio")));
        pairs.filter(|(t, _)| within.contains(t)).collect()
    }
}

fn time(value: &Value) -> u64 {
    value.as_u64().expect("a time")
}

fn mean(of: &[f64]) -> f64 {
    of.iter().sum::<f64>() / of.len().max(1) as f64
}

/// All three functions come up at the same time: the clients' requests reach a server that was not there when they asked where
/// it is.
fn clients_are_served_from_the_start(servers: &Servers) {
    let first = servers.ratios("gold", &(0..3_400)).first().map(|(t, _)| *t);
    assert!(first < Some(500), "gold had its first request before {first:?} ms");
}

/// While a server has requests it holds pages as far as they are worth their price to it, more where a hit is worth more; with
/// pages it has hits, and without it has few. When its clients are gone, so is its demand. The clients have checked every
/// answer, else they had failed.
fn memory_and_hits_follow_load_and_price(servers: &Servers) {
    const UNDER_LOAD: Range<u64> = 1_000..3_400;
    let holding = |name: &str| servers.holding("page", name, UNDER_LOAD);
    assert!(holding("gold") > 2.0 * holding("bronze"), "{} and {}", holding("gold"), holding("bronze"));
    let hits = |name: &str| mean(&servers.ratios(name, &UNDER_LOAD).iter().map(|ratio| ratio.1).collect::<Vec<_>>());
    assert!(hits("gold") > 1.3 * hits("bronze"), "{} and {}", hits("gold"), hits("bronze"));
    // With many pages, and with few, whichever of them has those: the one whose turn it is not may keep them.
    let ratios_with = |many: bool| -> Vec<f64> {
        let ratios = ["gold", "bronze"].into_iter().flat_map(|name| {
            let pairs = servers.ratios(name, &UNDER_LOAD).into_iter();
            pairs.filter(move |(t, _)| (servers.held("page", name, t.saturating_sub(100)) >= 30) == many)
        });
        ratios.map(|pair| pair.1).collect()
    };
    let [many, few] = [true, false].map(ratios_with);
    assert!(many.len() >= 3 && few.len() >= 3, "{many:?} {few:?}");
    assert!(mean(&many) > mean(&few) + 0.15, "{many:?} {few:?}");
    // After the last request.
    let rounds = servers.rounds("page");
    let last = rounds.last().map(|round| time(&round["t_ms"])).expect("rounds");
    for name in ["gold", "bronze"] {
        let most = rounds.iter().map(|round| round["holdings"][name].as_u64().unwrap_or(0)).max();
        let held = servers.held("page", name, last);
        assert!(Some(held) < most && most >= Some(30), "{name} held {most:?}, and {last} ms later still {held}");
    }
}

/// Bandwidth goes to the server whose turn it is, as far as its base does not carry what it answers, and is dear when there is
/// not enough of it; when the clients are gone nobody buys any.
fn bandwidth_follows_load_and_price(servers: &Servers) {
    // The end of the turn of `bronze`, and of the second one of `gold`: each has bought, and has its items in memory by then.
    for (busy, other, turn) in [("bronze", "gold", 1_800..2_100), ("gold", "bronze", 2_400..3_000)] {
        let [more, less] = [busy, other].map(|name| servers.holding("bandwidth", name, turn.clone()));
        assert!(more > 2.0 + 2.0 * less, "{turn:?}: {busy} has {more} Mb/s, {other} has {less}");
    }
    let rounds = servers.rounds("bandwidth");
    let price = |round: &Value| time(&round["clearing"]);
    let dearest = rounds.iter().map(price).max().expect("rounds");
    let last = rounds.last().expect("rounds");
    assert!(dearest > 3 * price(last), "{dearest}, and {} at last", price(last));
    assert_eq!(["gold", "bronze"].map(|name| servers.held("bandwidth", name, time(&last["t_ms"]))), [0, 0]);
}

/// What is printed around a run: which machine and why so, prices on the way, and at the end the table of applications,
/// holdings and prices over time, and one line of totals.
fn shows_what_the_result_holds(said: &str, result: &Value) {
    let line = |start: &str| {
        let line = said.lines().find(|line| line.trim_start().starts_with(start));
        line.unwrap_or_else(|| panic!("no line `{start}` in {said}"))
    };
    line("acceleration: ");
    assert!(line("machine: ").starts_with("machine: 2 cores, 512 MiB; scenario "), "{said}");
    assert!(line("terms: ").starts_with("terms: page reserve 264 fee 0 penalty 264 base 529, cpu.0 cpu.1 "), "{said}");
    assert!(said.lines().any(|line| line.contains("prices: page ") && line.contains(" cr")), "{said}");
    let of_gold = said.lines().filter(|line| line.contains("prices: ")).filter_map(|line| line.split(", gold ").nth(1));
    let follows = |part: &str| ["pages", "Mb/s", "hits"].iter().all(|word| part.split(' ').any(|one| one == *word));
    let shown = of_gold.filter_map(|rest| rest.split(',').next()).filter(|part| follows(part)).count();
    assert!(shown >= 2, "memory, bandwidth and hits of a server are shown as it runs: {said}");
    let (_, closing) = said.split_once("\napplication ").expect("a table of applications");
    let (header, closing) = closing.split_once('\n').expect("it has rows");
    for column in ["work", "paid", "work/credit", "page-s", "cpu-s", "exits"] {
        assert!(header.split_whitespace().any(|word| word == column), "{column} is not in {header}");
    }
    let apps = result["apps"].as_array().expect("applications");
    let ended: Vec<&Value> = apps.iter().filter(|app| app["end"]["kind"] == "exit").collect();
    assert_eq!(ended.len(), 4, "{closing}");
    for app in ended {
        let name = app["name"].as_str().expect("a name");
        let row = closing.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {closing}"));
        let cells: Vec<&str> = row.split_whitespace().collect();
        let number = |cell: &str| cell.replace(',', "").parse::<f64>().unwrap_or_else(|_| panic!("{cell} in {row}"));
        let paid: f64 = app["paid"].as_str().expect("an amount").parse().expect("a number");
        let exits: f64 = app["exits"].as_object().expect("by kind").values().filter_map(Value::as_f64).sum();
        assert_eq!(cells[1], "done", "{row}");
        assert_eq!(number(cells[2]), app["work"].as_f64().expect("a number"), "{row}");
        assert!((number(cells[3]) - paid).abs() < 1e-9 && paid > 0.0, "{row}");
        assert!((number(cells[4]) / (number(cells[2]) / paid) - 1.0).abs() < 0.01, "{row}");
        assert!((number(cells[5]) - app["page_ms"].as_f64().expect("a number") / 1000.0).abs() < 0.1, "{row}");
        assert_eq!(number(cells.last().expect("cells")), exits, "{row}");
        let core = format!("cpu.{}", app["core"]);
        for good in ["page", core.as_str()] {
            let held = |line: &str| line.split_whitespace().take(2).eq([name, good]) && line.contains(" most ");
            assert!(closing.lines().any(held), "{name} held no {good} over time: {closing}");
        }
    }
    for good in ["page: clearing price in credits/GiB-hour", "cpu.0: clearing price in credits/core-hour"] {
        assert!(closing.contains(good), "{good} is not in {closing}");
    }
    let totals: Vec<&str> = closing.lines().filter(|line| line.starts_with("verified: ")).collect();
    assert!(matches!(totals[..], [line] if line.contains(" intervals, 0 mismatches; ")), "{closing}");
    assert!(text(&left("prices.svg")).contains("<svg"));
    assert!(text(&left("console.log")).contains("kernel: nonkernel "));
}
