//! `kv` as an application of the market, as clients on the host see it: it is served by its own virtual function while its
//! pages are bought, taken and bought again, and while its function is reset, or lost and bought again.

use e2e::memcached::{Checker, Client};
use e2e::{Change, Machine};
use proto::host::{Command, Record};
use std::process::Command as Program;
use std::sync::{Mutex, PoisonError};

/// A tenant that serves, and one that wants the same pages, but at first not for much.
const SCENARIO: &str = r#"
    title = "kv and a rival"
    limit = "1000 s"
    [machine]
    cores = 2
    memory = "256 MiB"
    [page]
    supply = 96
    [[app]]
    name = "kv"
    nic = true
    port = 11211
    budget = 1
    valuation = 1e-9
    core = 1
    base_cpu = 50
    base_pages = 2048
    args = ["items=24"]
    [[app]]
    name = "cache"
    input = "@sources"
    budget = 1
    valuation = 1e-14
    core = 0
    base_cpu = 10
    args = ["passes=1000000"]
"#;
const KV: usize = 0;
const CACHE: u16 = 1;
/// Keys of the client, and bytes of a value: more than the base holds, and fewer than all pages do.
const KEYS: u64 = 800;
const VALUE_BYTES: usize = 500;

/// What is stored under a key.
fn value(key: u64) -> Vec<u8> {
    (0..VALUE_BYTES as u64).map(|at| (key.wrapping_mul(31) + at) as u8).collect()
}

/// Takes the answer to a request for this key. True if it is there; then it is what was stored.
fn is_right(client: &mut Client, key: u64) -> bool {
    let found = client.value(&format!("key{key}"));
    if let Some(found) = &found {
        assert!(*found == value(key), "key{key} is what was stored");
    }
    found.is_some()
}

/// Clients that others wrote find the protocol complete (Debian's libmemcached-tools).
fn clients_of_others(port: u16) {
    let run = |program: &str, arguments: &[&str]| {
        let output = Program::new(program).args(arguments).output().expect("libmemcached-tools are installed");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{program} {arguments:?}\n{text}");
        text
    };
    run("memcping", &[&format!("--servers=127.0.0.1:{port}")]);
    let text = run("memccapable", &["-a", "-h", "127.0.0.1", "-p", &port.to_string()]);
    assert!(text.contains("All tests passed"), "{text}");
}

/// Waits until the pages that `kv` holds beyond its base satisfy this.
fn wait_pages(machine: &mut Machine, what: &str, wanted: impl Fn(u32) -> bool) -> u32 {
    let is_so = |record: &Record| matches!(record, Record::Round { good: 0, holdings, .. } if wanted(holdings[KV]));
    match machine.wait_record(is_so).unwrap_or_else(|error| panic!("{what}: {error:#}")) {
        Record::Round { holdings, .. } => holdings[KV],
        _ => unreachable!("only rounds are waited for"),
    }
}

/// Boots a scenario and waits until `kv` serves; returns its port on the host. One at a time: a port that was found free is
/// not taken before the emulator runs.
fn start(text: &str) -> (Machine, u16) {
    static STARTING: Mutex<()> = Mutex::new(());
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let scenario = e2e::scenario(text, &Change::none()).expect("a scenario");
    let (mut machine, ports) = Machine::start_serving(&scenario).expect("a machine");
    machine.wait_line("serving at 10.0.2.101, port 11211").expect("it serves");
    (machine, ports[0])
}

#[test]
fn clients_are_served_while_pages_and_the_function_are_taken_and_come_again() {
    pages_and_the_function_are_taken(SCENARIO);
}

/// The same by one that never gives its core up: it hears of the market all the same, in time.
#[test]
fn one_that_halts_on_its_core_gives_pages_up_in_time_and_goes_on() {
    pages_and_the_function_are_taken(&SCENARIO.replace("\"items=24\"", "\"items=24\", \"rest=halt\""));
}

fn pages_and_the_function_are_taken(scenario: &str) {
    let (mut machine, port) = start(scenario);
    clients_of_others(port);
    let checker = Checker::start(port, KEYS, VALUE_BYTES);
    // What clients ask for is worth pages.
    wait_pages(&mut machine, "pages are bought", |pages| pages >= 60);
    // They are worth more to somebody else.
    machine.send(&Command::Valuation { app: CACHE, ppm: 1_000_000_000_000 }).expect("sent");
    wait_pages(&mut machine, "pages are lost", |pages| pages <= 10);
    machine.send(&Command::CrashNic).expect("sent");
    machine.wait_line("[kv] the function was reset and is up again").expect("it comes up again");
    machine.send(&Command::Valuation { app: CACHE, ppm: 1 }).expect("sent");
    wait_pages(&mut machine, "pages are bought again", |pages| pages >= 60);
    let hits = checker.hits();
    machine.wait_record(|record| matches!(record, Record::Hits { app: 0, .. })).expect("it reports");
    while checker.hits() == hits {
        machine.wait_record(|record| matches!(record, Record::Round { .. })).expect("the same connection goes on");
    }
    let misses = checker.misses();
    checker.end();
    machine.stop();
    // The rival took what it won by notice and by no force: nothing was lost that had not been given up.
    assert!(misses > KEYS, "what was given up was missed");
}

/// One function, which `kv` buys and a rival wants, too; whose bids reach nothing at first.
const ONE_FUNCTION: &str = r#"
    title = "kv and a rival for its function"
    limit = "1000 s"
    [machine]
    cores = 1
    memory = "256 MiB"
    [vf]
    supply = 1
    interval = "300 ms"
    [[app]]
    name = "kv"
    nic = true
    base_vf = 0
    port = 11211
    budget = 1
    valuation = 1e-9
    base_cpu = 30
    base_pages = 2048
    args = ["items=64", "hits=10000"]
    [[app]]
    name = "rival"
    image = "netbench"
    nic = true
    base_vf = 0
    budget = 1
    valuation = 1e-7
    base_cpu = 10
    awaited = false
    args = ["role=hold", "for=1000000"]
"#;
const RIVAL: u16 = 1;
/// Keys of the client that stores once.
const KEPT: u64 = 100;

#[test]
fn items_and_connections_outlast_the_function_that_they_came_by() {
    let (mut machine, port) = start(ONE_FUNCTION);
    let mut client = Client::connect(port);
    for key in 0..KEPT {
        let line = format!("set key{key} 0 0 {VALUE_BYTES}\r\n");
        client.say(&[line.as_bytes(), &value(key), b"\r\n"].concat());
    }
    assert!((0..KEPT).all(|_| client.line() == "STORED\r\n"));
    machine.send(&Command::Valuation { app: RIVAL, ppm: 1_000_000_000 }).expect("sent");
    machine.wait_line("[rival] a function has come").expect("it is taken from kv");
    // What is asked meanwhile arrives when there is a function again.
    (0..KEPT).for_each(|key| client.say(format!("get key{key}\r\n").as_bytes()));
    let mut another = Client::connect(port);
    another.say(b"get key7\r\n");
    machine.send(&Command::Valuation { app: RIVAL, ppm: 1 }).expect("sent");
    machine.wait_line("[kv] another function is up").expect("kv buys it again");
    assert!((0..KEPT).all(|key| is_right(&mut client, key)), "all items are there, by the same connection");
    assert!(is_right(&mut another, 7), "and by one that was opened meanwhile");
    let mut third = Client::connect(port);
    third.say(b"get key9\r\n");
    assert!(is_right(&mut third, 9), "and by a new one");
    let run = machine.stop();
    let totals = run.state.verified.as_ref().expect("totals");
    assert_eq!(totals.mismatches, 0, "{totals:?}");
    assert!(run.console_has("[kv] the function was lost to who paid more for it"), "{:#?}", run.console);
    assert_eq!(e2e::rounds::holders_of_one(e2e::rounds::good(&run.state, "vf.nic")), [KV, RIVAL.into(), KV]);
    let answers = run.console.iter().find_map(|line| line.strip_prefix("[rival] ")?.split_once(" answers, and"));
    let answers: u64 = answers.expect("it let go").0.parse().expect("a number");
    assert!(answers > 20, "the rival was answered by the same kind of function: {answers}");
}

/// `kv` alone, with pages of its own for the largest value.
const ALONE: &str = r#"
    title = "kv with large values"
    limit = "1000 s"
    [machine]
    cores = 1
    memory = "256 MiB"
    [[app]]
    name = "kv"
    nic = true
    port = 11211
    budget = 1
    valuation = 1e-9
    base_cpu = 50
    base_pages = 4096
    args = ["items=320", "pages=0"]
"#;

/// Bytes of the largest value: with its key and memcached's header it is an item of 1 MiB.
const LARGEST: usize = (1 << 20) - 64;

/// What `pymemcache` (PyPI) stores is there, values of a million bytes among it, and larger ones.
#[test]
fn a_client_in_python_and_values_of_a_mebibyte_are_served() {
    let (machine, port) = start(ALONE);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../apps/kv/engine/tests/pymemcache_client.py");
    let output = Program::new("/usr/bin/python3").args(["-B", script, &port.to_string()]).output();
    let output = output.expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut client = Client::connect(port);
    let largest: Vec<u8> = (0..LARGEST).map(|at| (at / 7) as u8).collect();
    client.say(&[format!("set largest 0 0 {LARGEST}\r\n").as_bytes(), &largest, b"\r\n"].concat());
    assert_eq!(client.line(), "STORED\r\n");
    assert!(client.get("largest") == Some(largest), "the largest value comes back");
    assert_eq!(client.ask(b"set k 0 0 1048577\r\n"), "SERVER_ERROR object too large for cache\r\n");
    machine.stop();
}

/// Connections that are open at once.
const CONNECTIONS: u64 = 256;

/// How many clients there may be follows from the base.
#[test]
fn a_tenant_with_a_large_base_serves_256_connections_at_once() {
    let (machine, port) = start(&ALONE.replace("base_pages = 4096", "base_pages = 12288"));
    let clients = (0..CONNECTIONS).map(|key| {
        let mut client = Client::connect(port);
        client.say(&[format!("set of{key} 0 0 {VALUE_BYTES}\r\n").as_bytes(), &value(key), b"\r\n"].concat());
        assert_eq!(client.line(), "STORED\r\n");
        client
    });
    let mut clients: Vec<Client> = clients.collect();
    for (client, key) in clients.iter_mut().zip((0..CONNECTIONS).rev()) {
        assert!(client.get(&format!("of{key}")) == Some(value(key)), "what another connection has stored");
    }
    assert_eq!(clients[0].statistics()["curr_connections"], CONNECTIONS);
    machine.stop();
}

/// Requests of one client, each of which is answered before the next one is sent, and rounds of bids between the two halves of
/// them.
const REQUESTS: u64 = 400;
const ROUNDS: usize = 5;

/// What it costs a tenant with half a core to serve so many requests, by what it does while it has nothing to do: own exits,
/// preemptions, interrupts of its function.
fn cost_of_serving(rest: &str) -> [u64; 3] {
    let scenario = ALONE.replace("\"pages=0\"", &format!("\"pages=0\", \"rest={rest}\""));
    let (mut machine, port) = start(&scenario);
    let mut client = Client::connect(port);
    let names = ["own_exits", "preemptions", "device_interrupts", "cmd_get", "cmd_set"];
    let counts = |client: &mut Client| {
        let statistics = client.statistics();
        names.map(|name| statistics[name])
    };
    let before = counts(&mut client);
    for half in 0..2 {
        for key in 0..REQUESTS / 4 {
            let line = format!("set key{key} 0 0 {VALUE_BYTES}\r\n");
            client.say(&[line.as_bytes(), &value(key + half), b"\r\n"].concat());
            assert_eq!(client.line(), "STORED\r\n");
            assert!(client.get(&format!("key{key}")) == Some(value(key + half)));
        }
        for _ in 0..ROUNDS {
            machine.wait_record(|record| matches!(record, Record::Hits { app: 0, .. })).expect("it reports");
        }
    }
    let after = counts(&mut client);
    let [exits, preemptions, interrupts, gets, sets] = core::array::from_fn(|at| after[at] - before[at]);
    assert_eq!((gets, sets), (REQUESTS / 2, REQUESTS / 2));
    println!("rest={rest}: {exits} own exits, {preemptions} preemptions, {interrupts} interrupts, {REQUESTS} requests");
    machine.stop();
    [exits, preemptions, interrupts]
}

#[test]
fn a_tenant_that_halts_serves_requests_and_reports_without_one_exit_of_its_own() {
    let [exits, preemptions, interrupts] = cost_of_serving("halt");
    assert_eq!(exits, 0);
    assert!(preemptions > 0, "its share of the core is a half, so that the core is taken from it");
    assert!(interrupts > REQUESTS / 2, "it is told of what comes by its function: {interrupts}");
    // What is counted is there to be counted: who gives its core up has an exit each time.
    let [exits, ..] = cost_of_serving("wait");
    assert!(exits > REQUESTS / 2, "{exits}");
}

/// What an application has chosen stays so when its function is reset.
#[test]
fn a_tenant_that_polls_is_not_interrupted_nor_is_it_after_a_reset() {
    let (mut machine, port) = start(&ALONE.replace("\"pages=0\"", "\"pages=0\", \"mode=poll\""));
    let mut client = Client::connect(port);
    let mut serves = |text: &str| {
        client.say(format!("set key 0 0 {}\r\n{text}\r\n", text.len()).as_bytes());
        assert_eq!(client.line(), "STORED\r\n");
        assert!(client.get("key") == Some(text.into()));
        assert_eq!(client.statistics()["device_interrupts"], 0);
    };
    serves("before");
    machine.send(&Command::CrashNic).expect("sent");
    machine.wait_line("[kv] the function was reset and is up again").expect("it comes up again");
    serves("afterwards");
    machine.stop();
}
