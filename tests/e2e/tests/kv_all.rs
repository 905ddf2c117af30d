//! `kv` that buys all that it has beyond its base: pages, its virtual function and its namespace with its queues. Rivals take
//! all three from it, one while the others are gone, and it buys them again, under a client that checks all the time.

use e2e::memcached::{Checker, Client};
use e2e::{Change, Machine};
use proto::host::{Command, End, Record};

/// A tenant that serves, and one rival for each good; their bids reach nothing at first. CPU time is not sold: the rival for pages
/// would buy all of it.
const SCENARIO: &str = r#"
    title = "kv and a rival for each good"
    limit = "1000 s"
    [machine]
    cores = 2
    memory = "256 MiB"
    [page]
    supply = 96
    [cpu]
    supply = 0
    [vf]
    supply = 1
    interval = "200 ms"
    [storage]
    namespaces = ["2 MiB", "1 MiB"]
    supply = 2
    interval = "200 ms"
    [[app]]
    name = "kv"
    nic = true
    base_vf = 0
    storage = "2 MiB"
    base_storage = 0
    port = 11211
    budget = 1
    valuation = 1e-9
    core = 1
    base_cpu = 20
    base_pages = 2048
    args = ["items=20", "hits=10000"]
    [[app]]
    name = "memory"
    image = "cache"
    input = "@sources"
    budget = 1
    valuation = 1e-14
    base_cpu = 40
    awaited = false
    args = ["passes=1000000"]
    [[app]]
    name = "function"
    image = "netbench"
    nic = true
    base_vf = 0
    budget = 1
    valuation = 1e-14
    base_cpu = 10
    awaited = false
    args = ["role=hold", "for=1000000"]
    [[app]]
    name = "namespace"
    image = "kv"
    nic = true
    storage = "2 MiB"
    base_storage = 0
    budget = 1
    valuation = 1e-14
    base_cpu = 10
    base_pages = 1024
    awaited = false
"#;
const KV: u16 = 0;
/// Keys of the client, and bytes of a value: more than base and all pages hold, so that some are always on the namespace.
const KEYS: u64 = 1000;
const VALUE_BYTES: usize = 500;
/// Answers by which it is known to serve, and hits in a row after which nothing counts as missing.
const SERVED: u64 = 500;
const ALL_THERE: u64 = 2 * KEYS;
/// Rounds without an answer by which it is known not to.
const SILENT_ROUNDS: usize = 60;

/// Something that it buys.
struct Good {
    name: &'static str,
    /// What it has of it when it is cheap, at least.
    plenty: u32,
    /// Who wants it, too, and millionths of its valuation with which it pays more.
    rival: u16,
    dear: u64,
    /// What is said when it is lost, and when it is there again.
    lost: &'static [&'static str],
    back: &'static [&'static str],
}

const PAGES: Good = Good { name: "page", plenty: 60, rival: 1, dear: 1_000_000_000_000_000, lost: &[], back: &[] };
const FUNCTION: Good = Good {
    name: "vf.nic",
    plenty: 1,
    rival: 2,
    dear: 10_000_000_000_000_000,
    lost: &["[kv] the function was lost to who paid more for it", "[function] a function has come"],
    back: &["[kv] another function is up"],
};
const NAMESPACE: Good = Good {
    name: "storage",
    plenty: 2,
    rival: 3,
    dear: 1_000_000_000_000_000,
    lost: &["the namespace of kv is taken", "[namespace] there are new queues"],
    back: &["[kv] there are new queues"],
};

/// What `kv` holds of a good beyond its base.
fn held(machine: &Machine, good: &Good) -> u32 {
    let state = machine.state();
    let at = state.goods.iter().position(|found| found.name == good.name).expect("it is sold");
    state.apps[usize::from(KV)].holdings[at]
}

/// Goes on from round to round until it is so.
fn wait_until(machine: &mut Machine, what: &str, mut is_so: impl FnMut(&Machine) -> bool) {
    while !is_so(machine) {
        let round = machine.wait_record(|record| matches!(record, Record::Round { .. }));
        round.unwrap_or_else(|error| panic!("{what}: {error:#}"));
    }
}

/// The machine, and who asks.
struct Served {
    machine: Machine,
    checker: Checker,
    /// Asks for statistics, by a connection that lasts as long.
    observer: Client,
}

impl Served {
    /// A rival's bids become higher than any of `kv`, until the rival has the good.
    fn lose(&mut self, good: &Good) {
        self.value(good, good.dear, good.lost, |held| held == 0);
    }

    /// They become lower, until `kv` has bought it again.
    fn regain(&mut self, good: &Good) {
        self.value(good, 1, good.back, |held| held >= good.plenty);
    }

    fn value(&mut self, good: &Good, ppm: u64, lines: &[&str], wanted: impl Fn(u32) -> bool) {
        let before = self.machine.console().len();
        self.machine.send(&Command::Valuation { app: good.rival, ppm }).expect("sent");
        wait_until(&mut self.machine, &format!("{} at {ppm} ppm for the rival", good.name), |machine| {
            let said = &machine.console()[before..];
            wanted(held(machine, good)) && lines.iter().all(|line| said.iter().any(|said| said.contains(line)))
        });
    }

    /// The client gets answers.
    fn expect_answers(&mut self) {
        let answers = || self.checker.hits() + self.checker.misses();
        let before = answers();
        wait_until(&mut self.machine, "there are answers", |_| answers() >= before + SERVED);
    }

    /// Some of what the client gets is read from the namespace.
    fn expect_cold_reads(&mut self) {
        let before = self.observer.statistics()["cold_reads"];
        while self.observer.statistics()["cold_reads"] == before {
            self.expect_answers();
        }
    }

    /// Nothing of what was stored is missing, once it was stored again.
    fn expect_hits_only(&mut self) {
        let seen = || (self.checker.hits(), self.checker.misses());
        let (mut hits, mut misses) = seen();
        wait_until(&mut self.machine, "all is there", |_| {
            let now = seen();
            if now.1 != misses {
                (hits, misses) = now;
            }
            now.0 >= hits + ALL_THERE
        });
    }

    /// All three are gone together, and stay so while the client waits.
    fn expect_silence(&mut self) {
        let mut answers = Vec::new();
        wait_until(&mut self.machine, "no answer comes without a function", |machine| {
            let left = [PAGES, FUNCTION, NAMESPACE].map(|good| held(machine, &good));
            assert_eq!(left, [0; 3], "pages, functions and MiB");
            answers.push(self.checker.hits() + self.checker.misses());
            // Some that left before the loss may arrive in the first rounds.
            let last = &answers[answers.len().saturating_sub(SILENT_ROUNDS)..];
            last.len() == SILENT_ROUNDS && last.iter().all(|count| *count == last[0])
        });
    }
}

/// Twice, in different orders: the first time it serves until the last of the three is gone, and then from a namespace without
/// pages; the second time pages and namespace go and come while no client reaches it.
#[test]
fn it_goes_on_while_pages_function_and_namespace_are_lost_together_and_bought_again() {
    let scenario = e2e::scenario(SCENARIO, &Change::none()).expect("a scenario");
    let (mut machine, ports) = Machine::start_serving(&scenario).expect("a machine");
    machine.wait_line("[kv] serving at 10.0.2.101, port 11211").expect("it buys a function and serves");
    let (checker, observer) = (Checker::start(ports[0], KEYS, VALUE_BYTES), Client::connect(ports[0]));
    let mut served = Served { machine, checker, observer };
    wait_until(&mut served.machine, "it buys pages and a namespace", |machine| {
        [PAGES, NAMESPACE].iter().all(|good| held(machine, good) >= good.plenty)
    });
    served.expect_hits_only();
    served.expect_cold_reads();

    served.lose(&PAGES);
    served.expect_cold_reads();
    served.lose(&NAMESPACE);
    served.expect_answers();
    served.lose(&FUNCTION);
    served.expect_silence();
    served.regain(&NAMESPACE);
    served.regain(&FUNCTION);
    served.expect_cold_reads();
    served.regain(&PAGES);
    served.expect_hits_only();
    served.expect_cold_reads();

    served.lose(&FUNCTION);
    served.lose(&NAMESPACE);
    served.lose(&PAGES);
    served.expect_silence();
    served.regain(&PAGES);
    served.regain(&NAMESPACE);
    served.regain(&FUNCTION);
    served.expect_hits_only();
    served.expect_cold_reads();

    let statistics = served.observer.statistics();
    assert_eq!(statistics["items_lost"], 0, "pages were given up in time, and none was taken by force");
    assert!(statistics["pages_given_back"] >= 2 * u64::from(PAGES.plenty), "{statistics:?}");
    let misses = served.checker.misses();
    served.checker.end();
    assert!(misses > KEYS, "what was lost was missed");
    // It serves until it is ended, and nothing else is awaited.
    served.machine.send(&Command::Kill { app: KV }).expect("sent");
    let run = served.machine.finish().expect("a run");
    run.expect_good().expect_shares();
    assert_eq!(run.end("kv"), &End::Killed);
    let [kv, rival] = [KV, FUNCTION.rival].map(usize::from);
    assert_eq!(e2e::rounds::holders_of_one(e2e::rounds::good(&run.state, "vf.nic")), [kv, rival, kv, rival, kv]);
}
