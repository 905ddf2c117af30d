//! The answers are those of memcached 1.6.18, byte by byte, as `examples/record.rs` recorded them.

mod common;

use std::fs;
use std::path::Path;

use common::golden::{Step, mask, parse};
use common::{START, feed, store};
use kv_engine::{Connection, Time};

#[test]
fn answers_are_those_of_memcached() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut exchanges = 0;
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a file");
        let mut store = store(512);
        let mut now = START;
        let mut connection = Connection::new(&mut store);
        let mut last = Vec::new();
        for step in parse(&text) {
            match step {
                Step::Comment(_) => {}
                Step::Wait(seconds) => now = Time::from_seconds(now.seconds() + seconds),
                Step::Exchange { request, answer, closed } => {
                    let request = request.concat();
                    let (got, is_closed) = feed(&mut store, &mut connection, now, &[&request], usize::MAX);
                    let (got, answer) = (mask(&got), mask(&answer));
                    assert!(
                        got == answer && is_closed == closed,
                        "{}\nbefore: {}\nrequest: {}\nmemcached: {} {closed}\nkv: {} {is_closed}",
                        path.display(),
                        last_of(&last),
                        request.escape_ascii(),
                        answer.escape_ascii(),
                        got.escape_ascii()
                    );
                    last = request;
                    if is_closed {
                        connection.close(&mut store);
                        connection = Connection::new(&mut store);
                    }
                    exchanges += 1;
                }
            }
        }
        connection.close(&mut store);
        assert_eq!(kv_engine::check::check(&store), Ok(()));
    }
    assert!(exchanges > 100, "{exchanges} exchanges");
}

fn last_of(request: &[u8]) -> String {
    request.escape_ascii().to_string()
}
