//! Clients that others wrote, against the engine as a server on the host.
//!
//! These tests need Debian's `libmemcached-tools`, and `python3-pymemcache`; they fail without.

mod common;

use std::process::Command;

use common::server;
use kv_engine::{HeapPages, NoCold, PageNumber, Store};

/// A server on any port, and the port.
fn start() -> u16 {
    let mut store = Store::new(HeapPages::new(4096), NoCold, &[1; 16], server::now());
    (0..4096).for_each(|page| assert!(store.add_page(PageNumber(page))));
    server::start(store, 0).expect("a port").port()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("libmemcached-tools and python3 are installed");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}\n{text}");
    text
}

#[test]
fn memccapable_finds_the_text_protocol_complete() {
    let text = run("memccapable", &["-a", "-h", "127.0.0.1", "-p", &start().to_string()]);
    assert!(text.contains("All tests passed"), "{text}");
}

#[test]
fn memcping_is_answered() {
    run("memcping", &[&format!("--servers=127.0.0.1:{}", start())]);
}

#[test]
fn pymemcache_finds_what_it_stored() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pymemcache_client.py");
    run("/usr/bin/python3", &["-B", script, &start().to_string()]);
}
