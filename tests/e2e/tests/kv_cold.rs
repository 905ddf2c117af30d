//! `kv` with a namespace: values leave memory that a rival pays more for, and are right and complete all the same; what a
//! controller that was lost takes along is missed, and never wrong; nor is what goes with a namespace that is revoked.

use e2e::memcached::Client;
use e2e::{Change, Machine};
use proto::host::{Command, End, Record};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// A tenant that serves, and one that wants the same pages, but at first not for much.
const SCENARIO: &str = r#"
    title = "kv, a namespace and a rival"
    limit = "1000 s"
    [machine]
    cores = 2
    memory = "256 MiB"
    [page]
    supply = 96
    [[app]]
    name = "kv"
    nic = true
    storage = "8 MiB"
    port = 11211
    budget = 1
    valuation = 1e-9
    core = 1
    base_cpu = 50
    base_pages = 2048
    args = ["items=20"]
    [[app]]
    name = "cache"
    input = "@sources"
    budget = 1
    valuation = 1e-14
    core = 0
    base_cpu = 10
    args = ["passes=1000000"]
"#;
/// One more that has a namespace, and checks it all the time.
const NEIGHBOUR: &str = r#"
    [[app]]
    name = "bench"
    image = "blkbench"
    storage = "1 MiB"
    budget = 1
    core = 0
    base_cpu = 20
    base_pages = 96
    args = ["role=keep", "for=1000000"]
"#;
/// One more `kv`, which nobody asks; one namespace that is large enough, and functions for both.
const OTHER: &str = r#"
    [[app]]
    name = "other"
    image = "kv"
    nic = true
    storage = "8 MiB"
    base_storage = 0
    budget = 1
    valuation = 1e-14
    core = 0
    base_cpu = 10
    base_pages = 1024
    [storage]
    namespaces = ["8 MiB", "1 MiB"]
    supply = 8
    interval = "500 ms"
"#;
const KV: usize = 0;
const CACHE: u16 = 1;
const BENCH: usize = 2;
const OTHER_KV: u16 = 2;
/// Keys: their values take three times what the base has, and fit into all pages.
const KEYS: u64 = 300;
/// Rounds of pages in which it pays, between two looks, and looks at most.
const ROUNDS: usize = 5;
const MOST_LOOKS: usize = 20;
/// Requests on their way at once.
const AT_ONCE: usize = 30;

/// What is stored under a key: some 600 bytes on average, of a few values two pages and more.
fn value(key: u64) -> Vec<u8> {
    let length = if key.is_multiple_of(100) { 9_000 } else { 300 + key * 37 % 500 };
    (0..length).map(|at| (key.wrapping_mul(31) + at) as u8).collect()
}

fn store_all(client: &mut Client) {
    for keys in (0..KEYS).collect::<Vec<u64>>().chunks(AT_ONCE) {
        for (key, value) in keys.iter().map(|key| (key, value(*key))) {
            let line = format!("set key{key} 0 0 {}\r\n", value.len());
            client.say(&[line.as_bytes(), &value, b"\r\n"].concat());
        }
        keys.iter().for_each(|_| assert_eq!(client.line(), "STORED\r\n"));
    }
}

/// Asks for all keys, in an order of its own, some at once. Returns how many there are; each is right.
fn ask_all(clients: &mut [Client], step: u64) -> u64 {
    let order: Vec<u64> = (0..KEYS).map(|at| at * step % KEYS).collect();
    let mut found = 0;
    for (keys, at) in order.chunks(AT_ONCE).zip(0..) {
        let count = clients.len();
        let client = &mut clients[at % count];
        keys.iter().for_each(|key| client.say(format!("get key{key}\r\n").as_bytes()));
        for key in keys {
            if let Some(answer) = client.value(&format!("key{key}")) {
                assert!(answer == value(*key), "key{key} is what was stored");
                found += 1;
            }
        }
    }
    found
}

/// Waits until the pages that `kv` holds beyond its base satisfy this.
fn wait_pages(machine: &mut Machine, what: &str, wanted: impl Fn(u32) -> bool) {
    let is_so = |record: &Record| matches!(record, Record::Round { good: 0, holdings, .. } if wanted(holdings[KV]));
    machine.wait_record(is_so).unwrap_or_else(|error| panic!("{what}: {error:#}"));
}

/// Memory becomes worth more to somebody else, so that values go to the namespace.
fn make_memory_dear(machine: &mut Machine) {
    machine.send(&Command::Valuation { app: CACHE, ppm: 1_000_000_000_000 }).expect("sent");
    wait_pages(machine, "pages are lost", |pages| pages == 0);
}

/// Asks without a pause until the console has had these lines. Returns how many keys were found in each round: all answers are
/// right, or misses.
fn ask_until(machine: &mut Machine, clients: &mut [Client], lines: &[&str]) -> Vec<u64> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut found = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                found.push(ask_all(clients, 7));
            }
            // Once more: what was lost while the last ones were on their way is missed now.
            found.push(ask_all(clients, 7));
            found
        });
        let seen: Vec<_> = lines.iter().map(|line| machine.wait_line(line)).collect();
        is_over.store(true, Ordering::Relaxed);
        seen.into_iter().for_each(|line| drop(line.expect("it goes as it should")));
        asking.join().expect("each answer is right, or a miss")
    })
}

/// Everything is stored anew, and is read from the namespace again.
fn expect_as_before(machine: &mut Machine, clients: &mut [Client]) {
    let before = clients[0].statistics()["cold_reads"];
    store_all(&mut clients[0]);
    // While there was no namespace, pages were worth more to it: it may have some for another moment.
    let is_as_before = (0..10).any(|_| {
        wait_pages(machine, "pages are lost again", |pages| pages == 0);
        assert_eq!(ask_all(clients, 11), KEYS, "it goes on as before");
        clients[0].statistics()["cold_reads"] > before
    });
    assert!(is_as_before, "nothing is read from the new namespace");
}

#[test]
fn values_of_pages_that_are_taken_are_on_the_namespace_and_what_is_lost_with_it_is_missed() {
    let scenario = e2e::scenario(SCENARIO, &Change::none()).expect("a scenario");
    let (mut machine, ports) = Machine::start_serving(&scenario).expect("a machine");
    machine.wait_line("serving at 10.0.2.101, port 11211").expect("it serves");
    let mut clients = [(); 2].map(|()| Client::connect(ports[0]));
    store_all(&mut clients[0]);
    assert_eq!(ask_all(&mut clients, 7), KEYS, "what does not fit is on the namespace");
    make_memory_dear(&mut machine);
    let before = clients[0].statistics();
    for step in [7, 11] {
        assert_eq!(ask_all(&mut clients, step), KEYS, "nothing is missed");
    }
    let after = clients[0].statistics();
    let of = |name: &str| after[name];
    assert!(of("cold_reads") > before["cold_reads"] + KEYS, "most have to be read");
    assert_eq!([of("get_misses"), of("evictions"), of("items_lost"), of("cold_failures")], [0; 4]);
    // The namespace is lost with its queues, and comes again, empty.
    machine.send(&Command::FailStorage).expect("sent");
    machine.wait_line("[kv] there are new queues").expect("new queues");
    let left = ask_all(&mut clients, 7);
    assert!(left < KEYS, "{left} were in memory");
    expect_as_before(&mut machine, &mut clients);
    machine.stop();
}

/// The namespace is revoked, and another one given, while clients ask without a pause; the controller and the other tenant's
/// namespace stay as they are.
#[test]
fn what_is_asked_for_while_the_namespace_is_revoked_is_right_or_missed_and_the_neighbour_goes_on() {
    let scenario = e2e::scenario(&format!("{SCENARIO}{NEIGHBOUR}"), &Change::none()).expect("a scenario");
    let (mut machine, ports) = Machine::start_serving(&scenario).expect("a machine");
    machine.wait_line("serving at 10.0.2.101, port 11211").expect("it serves");
    let mut clients = [(); 2].map(|()| Client::connect(ports[0]));
    store_all(&mut clients[0]);
    make_memory_dear(&mut machine);
    assert_eq!(ask_all(&mut clients, 7), KEYS, "what does not fit is on the namespace");
    let work = machine.state().apps[BENCH].done;
    machine.send(&Command::RevokeStorage { app: KV as u16 }).expect("sent");
    let found = ask_until(&mut machine, &mut clients, &["the namespace of kv is taken", "[kv] there are new queues"]);
    assert!(found.iter().any(|&found| found < KEYS), "what was there is gone: {found:?}");
    let of = clients[0].statistics();
    assert!(of["cold_failures"] > 0 || of["get_misses"] > 0, "{of:?}");
    expect_as_before(&mut machine, &mut clients);
    let run = machine.stop();
    let zero = run.console.iter().filter(|line| line.contains("[bench] 256 pages are zero")).count();
    assert_eq!((zero, run.end("bench")), (1, &End::RunOver), "it has kept its namespace");
    assert!(run.app("bench").done > work, "and used it");
}

/// The namespace is bought, lost to another `kv` that pays more for it, and bought again, while clients ask without a pause.
#[test]
fn a_namespace_that_is_bought_and_lost_by_price_and_bought_again() {
    let bought = SCENARIO.replace("storage = \"8 MiB\"", "storage = \"8 MiB\"\n    base_storage = 0");
    let scenario = e2e::scenario(&format!("{bought}{OTHER}"), &Change::none()).expect("a scenario");
    let (mut machine, ports) = Machine::start_serving(&scenario).expect("a machine");
    machine.wait_line("[kv] serving at 10.0.2.101, port 11211").expect("it serves");
    machine.wait_line("[kv] there are new queues").expect("it buys a namespace");
    let mut clients = [(); 2].map(|()| Client::connect(ports[0]));
    store_all(&mut clients[0]);
    make_memory_dear(&mut machine);
    assert_eq!(ask_all(&mut clients, 7), KEYS, "what does not fit is on the namespace");
    machine.send(&Command::Valuation { app: OTHER_KV, ppm: 1_000_000_000_000_000 }).expect("sent");
    // What was read back into memory before the loss is found after it; what was not is missed.
    ask_until(&mut machine, &mut clients, &["the namespace of kv is taken", "[other] there are new queues"]);
    let reads = clients[0].statistics()["cold_reads"];
    ask_all(&mut clients, 11);
    assert_eq!(clients[0].statistics()["cold_reads"], reads, "there is nothing to read from");
    machine.send(&Command::Valuation { app: OTHER_KV, ppm: 1 }).expect("sent");
    machine.wait_line("[kv] there are new queues").expect("it buys one again");
    expect_as_before(&mut machine, &mut clients);
    machine.stop();
}

/// `kv` without the rival, with fewer pages than it could use: it pays for them from round to round, and never gives its core up.
fn paying() -> String {
    let (kv, _) = SCENARIO.split_once("    [[app]]\n    name = \"cache\"").expect("it is there");
    kv.replace("supply = 96", "supply = 24").replace("[\"items=20\"]", "[\"items=20\", \"rest=halt\"]")
}

#[test]
fn it_serves_from_pages_and_namespace_that_it_pays_for_without_an_exit_of_its_own() {
    let scenario = e2e::scenario(&paying(), &Change::none()).expect("a scenario");
    let (mut machine, ports) = Machine::start_serving(&scenario).expect("a machine");
    machine.wait_line("serving at 10.0.2.101, port 11211").expect("it serves");
    let mut clients = [(); 2].map(|()| Client::connect(ports[0]));
    assert_eq!(clients[0].statistics()["memory_worth"], 1000, "nothing was read from there yet");
    store_all(&mut clients[0]);
    // Pages that come are taken up with some exits; what it holds already, and pays for, costs none.
    let (mut steady, mut before_that) = (0, 0);
    for step in [7, 11].into_iter().cycle().take(MOST_LOOKS) {
        let held = machine.state().apps[KV].holdings[0];
        let before = clients[0].statistics();
        assert_eq!(ask_all(&mut clients, step), KEYS, "nothing is missed");
        let mut stays = held > 0 && held == core::mem::replace(&mut before_that, held);
        for _ in 0..ROUNDS {
            wait_pages(&mut machine, "the next round", |_| true);
            stays &= machine.state().apps[KV].holdings[0] == held;
        }
        let after = clients[0].statistics();
        let [exits, reads, interrupts, hits] =
            ["own_exits", "cold_reads", "device_interrupts", "get_hits"].map(|name| after[name] - before[name]);
        println!("{held} pages: {hits} hits, {reads} reads, {interrupts} interrupts, {exits} own exits");
        assert_eq!(hits, KEYS);
        if stays {
            assert_eq!(exits, 0);
            assert!(reads > KEYS / 10 && interrupts > KEYS / 10, "{reads} reads, {interrupts} interrupts");
            steady += 1;
        }
        if steady == 3 {
            break;
        }
    }
    assert_eq!(steady, 3, "what it holds changes all the time");
    // Memory is traded for reading: its bids take a hit in memory for what reading would cost, and no more.
    let worth = clients[0].statistics()["memory_worth"];
    assert!((1..1000).contains(&worth), "{worth}");
    machine.stop();
}
