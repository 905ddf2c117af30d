//! Statistics are those of memcached 1.6.18, under its names (`tests/names/`), or `docs/kv.md` says why they are left out;
//! and they tell what was done.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use common::{Client, START, feed, store};
use kv_engine::{Connection, Ends, Retrievals, Time, Usage};

/// Groups, what asks for them, and where the name of a statistic stands in a word: behind how many colons.
const GROUPS: [(&str, &str, usize); 5] = [
    ("general", "stats", 0),
    ("settings", "stats settings", 0),
    ("items", "stats items", 2),
    ("slabs", "stats slabs", 1),
    ("conns", "stats conns", 1),
];

/// Beginnings of the names of what commands count.
const KINDS: [&str; 10] = ["cmd", "get", "delete", "incr", "decr", "cas", "touch", "store", "total", "expired"];

impl Client {
    fn new(pages: usize) -> Client {
        let mut store = store(pages);
        let end = |text: &str| text.parse().expect("an address");
        let ends = Ends { client: end("10.0.2.2:40000"), server: end("10.0.2.101:11211") };
        let connection = Connection::between(Some(ends), &mut store);
        Client { store, connection, second: 0 }
    }

    fn set(&mut self, key: &str, bytes: usize) {
        let value = "x".repeat(bytes);
        assert_eq!(self.ask(&format!("set {key} 0 0 {bytes}\r\n{value}")), "STORED\r\n");
    }

    /// The statistics of a group.
    fn stats(&mut self, request: &str) -> BTreeMap<String, String> {
        let answer = self.ask(request);
        let lines = answer.strip_suffix("END\r\n").expect("an end").lines();
        let pair = |line: &str| {
            let (name, value) = line.strip_prefix("STAT ")?.split_once(' ')?;
            Some((name.to_owned(), value.to_owned()))
        };
        lines.map(|line| pair(line).unwrap_or_else(|| panic!("{line}"))).collect()
    }

    /// Asserts that the group has these values.
    fn expect(&mut self, request: &str, values: &[(&str, u64)]) {
        let stats = self.stats(request);
        for (name, value) in values {
            assert_eq!(stats.get(*name), Some(&value.to_string()), "{name} in {stats:#?}");
        }
    }
}

fn file(path: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names that `docs/kv.md` says are left out of a group.
fn left_out(group: &str) -> BTreeSet<String> {
    let text = file("../../../docs/kv.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix(&format!("| {group} | ")).map(str::to_owned));
    let names = rows.flat_map(|row| {
        let (names, why) = row.split_once(" | ").expect("a reason");
        assert!(why.len() > 10, "{row}");
        names.split(", ").map(|name| name.trim_matches('`').to_owned()).collect::<Vec<_>>()
    });
    names.collect()
}

/// The names that `docs/kv.md` says `stats` tells besides.
fn told_besides() -> BTreeSet<String> {
    let text = file("../../../docs/kv.md");
    let paragraph = text.lines().find_map(|line| line.strip_prefix("`stats` tells besides: ")).expect("a paragraph");
    let names = paragraph.split('`').skip(1).step_by(2);
    // What `stats reset` does is said there, too; names have no spaces.
    names.filter(|name| !name.contains(' ')).map(str::to_owned).collect()
}

#[test]
fn what_only_this_store_tells_is_told_behind_all_and_documented() {
    let mut client = Client::new(64);
    client.store.set_usage(|| Usage { own_exits: 1, preemptions: 20, device_interrupts: 300, memory_worth: 900 });
    let names = file("tests/names/general.txt");
    let own: BTreeSet<String> = client
        .stats("stats")
        .into_keys()
        .filter(|name| !names.lines().any(|of_memcached| of_memcached == name))
        .collect();
    assert_eq!(own, told_besides());
}

#[test]
fn what_the_vm_has_cost_is_told_where_there_is_one_and_reset_leaves_it() {
    let mut client = Client::new(64);
    assert!(!client.ask("stats").contains("own_exits"));
    client.store.set_usage(|| Usage { own_exits: 1, preemptions: 20, device_interrupts: 300, memory_worth: 900 });
    assert_eq!(client.ask("stats reset"), "RESET\r\n");
    let told =
        "STAT own_exits 1\r\nSTAT preemptions 20\r\nSTAT device_interrupts 300\r\nSTAT memory_worth 900\r\nEND\r\n";
    assert!(client.ask("stats").ends_with(told));
}

#[test]
fn every_statistic_of_memcached_is_told_or_said_to_be_left_out() {
    let mut client = Client::new(64);
    client.set("a:b", 10);
    let service = client.store.service_mut();
    (service.tcp_port, service.udp_port) = (11211, 11211);
    for (group, request, colons) in GROUPS {
        let told: BTreeSet<String> = client
            .stats(request)
            .into_keys()
            .map(|name| name.splitn(colons + 1, ':').last().expect("a name").to_owned())
            .collect();
        let names = file(&format!("tests/names/{group}.txt"));
        let names: BTreeSet<String> = names.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
        let left_out = left_out(group);
        let missing: Vec<_> = names.iter().filter(|name| !told.contains(*name) && !left_out.contains(*name)).collect();
        assert!(missing.is_empty(), "{group}: {missing:?} are neither told nor left out");
        let both: Vec<_> = left_out.iter().filter(|name| told.contains(*name) || !names.contains(*name)).collect();
        assert!(both.is_empty(), "{group}: {both:?} are told, or unknown to memcached");
    }
}

/// Each command is given to a store that has `x:1` with the value `x`, then `h:1` with 5, and no `m:1`.
#[test]
fn commands_are_counted_as_memcached_counts_them() {
    let text = file("tests/names/counted.txt");
    let mut commands = 0;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (command, counted) = line.split_once(" | ").unwrap_or_else(|| panic!("{line}"));
        let mut client = Client::new(64);
        ["set x:1 0 0 1\r\nx", "set h:1 0 0 1\r\n5"].iter().for_each(|command| drop(client.ask(command)));
        let before = client.stats("stats");
        client.ask(&command.replace("\\r\\n", "\r\n"));
        let after = client.stats("stats");
        let is_of_a_kind = |name: &str| KINDS.contains(&name.split('_').next().unwrap_or(name));
        let number = |stats: &BTreeMap<String, String>, name: &str| stats[name].parse::<u64>().expect("a number");
        let grown = after.keys().filter(|name| is_of_a_kind(name) && *name != "cmd_meta");
        let grown: Vec<&str> =
            grown.filter(|name| number(&after, name) > number(&before, name)).map(String::as_str).collect();
        let counted: Vec<&str> = counted.split(' ').filter(|name| *name != "-").collect();
        assert_eq!(grown, counted, "{command}");
        commands += 1;
    }
    assert!(commands > 40, "{commands} commands");
}

#[test]
fn what_classes_did_is_counted_by_class_and_in_sum() {
    let mut client = Client::new(64);
    client.set("a", 10);
    client.set("n", 1);
    client.set("large", 1000);
    client.ask("get a large nope");
    client.ask("gat 0 large");
    client.ask("touch a 0");
    client.ask("set n 0 0 1\r\n5");
    client.ask("incr n 1");
    client.ask("decr n 1");
    client.ask("cas a 0 0 1 99\r\nx");
    client.ask("delete a");
    client.second = 7;
    // Classes of 64 and of 1024 bytes.
    client.expect("stats slabs", &[("1:get_hits", 1), ("1:cmd_set", 4), ("1:incr_hits", 1), ("1:decr_hits", 1)]);
    client
        .expect("stats slabs", &[("1:cas_badval", 1), ("1:delete_hits", 1), ("1:touch_hits", 1), ("1:used_chunks", 1)]);
    client.expect(
        "stats slabs",
        &[("16:get_hits", 1), ("16:touch_hits", 1), ("16:total_chunks", 4), ("active_slabs", 2)],
    );
    client.expect(
        "stats items",
        &[("items:1:number", 1), ("items:1:mem_requested", 2), ("items:16:mem_requested", 1005)],
    );
    client.expect("stats items", &[("items:16:age", 7), ("items:16:evicted", 0)]);
    client.expect("stats", &[("get_hits", 2), ("get_misses", 1), ("cmd_set", 5), ("touch_hits", 2), ("curr_items", 2)]);
    client
        .expect("stats", &[("cas_badval", 1), ("delete_hits", 1), ("incr_hits", 1), ("decr_hits", 1), ("bytes", 1007)]);
    // What pages are bid for is not what clients can have begin anew.
    assert_eq!(client.store.retrievals(), Retrievals { hits: 3, misses: 1, cold_reads: 0 });
    assert_eq!(client.ask("stats reset"), "RESET\r\n");
    assert_eq!(client.store.retrievals(), Retrievals { hits: 3, misses: 1, cold_reads: 0 });
    client.expect("stats", &[("get_hits", 0), ("cmd_set", 0), ("curr_items", 2), ("bytes", 1007)]);
    client.expect("stats slabs", &[("16:get_hits", 0), ("16:used_chunks", 1)]);
}

#[test]
fn evictions_and_moves_are_counted() {
    let mut client = Client::new(2);
    // Two pages of four.
    (0..8).for_each(|number| client.set(&format!("k{number}"), 1000));
    client.second = 5;
    client.set("k8", 1000);
    client.expect(
        "stats items",
        &[("items:16:evicted", 1), ("items:16:evicted_nonzero", 0), ("items:16:evicted_time", 5)],
    );
    client.expect("stats items", &[("items:16:evicted_unfetched", 1), ("items:16:direct_reclaims", 1)]);
    // A page goes back: what is in it moves at the cost of what was not used for longer, or is evicted.
    client.ask("delete k1");
    let page = client.store.cheapest_page().expect("a page");
    let given = client.store.give_back(page).expect("it was lent");
    let counters = *client.store.counters();
    assert_eq!(counters.slab_reassign_rescues, u64::from(given.moved));
    assert_eq!(counters.slab_reassign_evictions_nomem, u64::from(given.evicted));
    assert!(given.evicted > 0 && counters.slabs_moved == 1, "{given:?} {counters:?}");
    let evictions = 1 + u64::from(given.evicted);
    client.expect("stats", &[("evictions", evictions), ("slabs_moved", 1), ("slab_global_page_pool", 0)]);
    // What is too large for all pages.
    assert_eq!(
        client.ask(&format!("set big 0 0 9000\r\n{}", "x".repeat(9000))),
        "SERVER_ERROR out of memory storing object\r\n"
    );
    client.expect("stats", &[("store_no_memory", 1)]);
}

#[test]
fn prefixes_are_counted_while_detail_is_on() {
    let mut client = Client::new(64);
    client.set("off:1", 1);
    assert_eq!(client.ask("stats detail"), "CLIENT_ERROR usage: stats detail on|off|dump\r\n");
    assert_eq!(client.ask("stats detail on"), "OK\r\n");
    client.set("a:1", 1);
    client.set("a:2", 1);
    client.ask("get a:1 a:3 b:1 plain");
    // As in memcached, meta commands are not counted.
    client.ask("mg a:2 v");
    client.ask("delete a:1");
    client.ask("delete b:1:2");
    client.expect("stats settings", &[]);
    assert_eq!(client.stats("stats settings")["detail_enabled"], "yes");
    let dump = "PREFIX a get 2 hit 1 set 2 del 1\r\nPREFIX b get 1 hit 0 set 0 del 1\r\nEND\r\n";
    assert_eq!(client.ask("stats detail dump"), dump);
    assert_eq!(client.ask("stats detail off"), "OK\r\n");
    client.set("a:9", 1);
    assert_eq!(client.ask("stats detail dump"), dump);
    client.ask("stats reset");
    assert_eq!(client.ask("stats detail dump"), "END\r\n");
}

#[test]
fn sizes_are_told_while_they_are_tracked() {
    let mut client = Client::new(64);
    assert_eq!(client.ask("stats sizes"), "STAT sizes_status disabled\r\nEND\r\n");
    client.set("before", 20);
    assert_eq!(client.ask("stats sizes_enable"), "STAT sizes_status enabled\r\n");
    assert_eq!(client.stats("stats settings")["track_sizes"], "yes");
    for (key, bytes) in [("a", 10), ("b", 31), ("c", 32), ("d", 5000), ("e", 5000)] {
        client.set(key, bytes);
    }
    assert_eq!(client.ask("stats sizes"), "STAT 32 2\r\nSTAT 64 1\r\nSTAT 5024 2\r\nEND\r\n");
    client.ask("delete d");
    client.ask("delete before");
    client.set("a", 100);
    assert_eq!(client.ask("stats sizes"), "STAT 32 1\r\nSTAT 64 1\r\nSTAT 128 1\r\nSTAT 5024 1\r\nEND\r\n");
    // What an old histogram counted is nothing to a new one, however many there were.
    for _ in 0..600 {
        assert_eq!(client.ask("stats sizes_disable"), "STAT sizes_status disabled\r\n");
        client.ask("stats sizes_enable");
    }
    client.ask("delete a");
    client.set("f", 1);
    assert_eq!(client.ask("stats sizes"), "STAT 32 1\r\nEND\r\n");
}

#[test]
fn connections_are_told_with_their_ends_and_what_they_do() {
    let mut client = Client::new(64);
    let service = client.store.service_mut();
    (service.tcp_port, service.udp_port) = (11211, 11211);
    let mut other = Connection::new(&mut client.store);
    let now = Time::from_seconds(START.seconds());
    feed(&mut client.store, &mut other, now, &[b"set a 0 0 5\r\nab"], 4096);
    client.second = 3;
    let answer = "STAT 0:addr tcp:0.0.0.0:11211\r\nSTAT 0:state conn_listening\r\nSTAT 0:secs_since_last_cmd 3\r\n\
                  STAT 1:UDP UDP\r\nSTAT 1:addr udp:0.0.0.0:11211\r\nSTAT 1:state conn_read\r\n\
                  STAT 1:secs_since_last_cmd 3\r\n\
                  STAT 2:addr tcp:10.0.2.2:40000\r\nSTAT 2:listen_addr tcp:10.0.2.101:11211\r\n\
                  STAT 2:state conn_parse_cmd\r\nSTAT 2:secs_since_last_cmd 0\r\n\
                  STAT 3:state conn_nread\r\nSTAT 3:secs_since_last_cmd 3\r\nEND\r\n";
    assert_eq!(client.ask("stats conns"), answer);
    client.expect("stats", &[("curr_connections", 2), ("total_connections", 2)]);
    other.close(&mut client.store);
    client.expect("stats", &[("curr_connections", 1), ("total_connections", 2)]);
    assert!(!client.ask("stats conns").contains("STAT 3:"));
}
