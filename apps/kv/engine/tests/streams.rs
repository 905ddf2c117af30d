//! Whatever bytes come in whatever pieces, with whatever room for answers: the answers are those of one piece.

mod common;

use common::random::Random;
use common::{START, Sink, feed, store};
use kv_engine::check::check;
use kv_engine::{Connection, LEAST_ROOM, Next};
use proptest::prelude::*;

/// Answers to bytes given in pieces that end at these places. The rest is given up.
fn answers(bytes: &[u8], ends: &[usize], room: usize) -> (Vec<u8>, bool) {
    let mut store = store(64);
    let mut connection = Connection::new(&mut store);
    let mut ends: Vec<usize> = ends.iter().map(|end| end % (bytes.len() + 1)).chain([0, bytes.len()]).collect();
    ends.sort_unstable();
    let pieces: Vec<&[u8]> = ends.windows(2).map(|window| &bytes[window[0]..window[1]]).collect();
    let result = feed(&mut store, &mut connection, START, &pieces, room);
    assert!(connection.buffer_bytes() <= 8192, "{} bytes", connection.buffer_bytes());
    assert_eq!(check(&store), Ok(()));
    connection.close(&mut store);
    assert_eq!(check(&store), Ok(()));
    // How many bytes were read and written when `stats` is asked depends on the pieces.
    let lines = result.0.split_inclusive(|byte| *byte == b'\n');
    let kept = lines.filter(|line| !line.starts_with(b"STAT bytes_"));
    (kept.collect::<Vec<_>>().concat(), result.1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..3000), ends in prop::collection::vec(any::<usize>(), 0..6)) {
        prop_assert_eq!(answers(&bytes, &[], usize::MAX), answers(&bytes, &ends, 1500));
    }

    #[test]
    fn bytes_that_resemble_commands(
        bytes in "((get|gets|set|mg|ms|md|ma|me|incr|gat|cas|append|stats) |a|b|k|v|1|9| |0|\\r\\n|\\n|noreply|\\r|\\x00){0,400}",
        ends in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let bytes = bytes.as_bytes();
        prop_assert_eq!(answers(bytes, &[], usize::MAX), answers(bytes, &ends, LEAST_ROOM));
    }

    #[test]
    fn commands(seed in any::<u64>(), count in 1..80usize, ends in prop::collection::vec(any::<usize>(), 0..60)) {
        let mut random = Random(seed);
        let bytes: Vec<u8> = (0..count).flat_map(|_| random.command()).collect();
        prop_assert_eq!(answers(&bytes, &[], usize::MAX), answers(&bytes, &ends, LEAST_ROOM));
    }

    #[test]
    fn long_lines(
        words in prop::collection::vec("[ab ]{1,260}", 0..60),
        command in prop::sample::select(vec!["get", " gets", "gat 0", "mg", "x"]),
        ends in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let bytes = format!("set a 0 0 3\r\nxyz\r\n{command} {}\r\nmn\r\n", words.join(" ")).into_bytes();
        prop_assert_eq!(answers(&bytes, &[], usize::MAX), answers(&bytes, &ends, LEAST_ROOM));
    }
}

/// The boundary between lines that are kept and lines that are too long, byte by byte.
#[test]
fn lines_are_too_long_wherever_they_are_cut() {
    for length in 2040..2056 {
        for command in ["get ", "x"] {
            let mut bytes = command.as_bytes().to_vec();
            bytes.resize(length, b' ');
            bytes.extend(b"\r\nmn\r\n");
            let whole = answers(&bytes, &[], usize::MAX);
            assert_eq!(whole.1, command == "x" && length + 1 > 2048, "{length}");
            for cut in [1, 2000, 2047, 2048, 2049, 2050, length, length + 1, length + 2] {
                assert_eq!(answers(&bytes, &[cut], LEAST_ROOM), whole, "{command} {length} {cut}");
            }
        }
    }
}

#[test]
fn a_line_of_many_keys_needs_no_memory() {
    let mut store = store(8);
    let mut connection = Connection::new(&mut store);
    feed(&mut store, &mut connection, START, &[b"set a 0 0 1\r\nx\r\n"], usize::MAX);
    let mut sink = Sink::new();
    assert_eq!(connection.receive(&mut store, START, b"get", &mut sink).next, Next::Input);
    for _ in 0..100_000 {
        assert_eq!(connection.receive(&mut store, START, b" a nope", &mut sink).next, Next::Input);
    }
    connection.receive(&mut store, START, b"\r\nmn\r\n", &mut sink);
    let expected = [b"VALUE a 0 1\r\nx\r\n".repeat(100_000), b"END\r\nMN\r\n".to_vec()].concat();
    assert!(sink.bytes == expected);
    assert!(connection.buffer_bytes() <= 8192, "{}", connection.buffer_bytes());
    connection.close(&mut store);
}

#[test]
fn a_value_is_sent_in_pieces_as_there_is_room_and_survives_its_replacement() {
    let mut store = store(600);
    let value: Vec<u8> = (0..1 << 20).map(|at: u32| (at * 7 / 5) as u8).collect();
    let mut connection = Connection::new(&mut store);
    let set = [&b"set big 0 0 1048576\r\n"[..], &value, b"\r\n"].concat();
    let pieces: Vec<&[u8]> = set.chunks(1460).collect();
    assert_eq!(feed(&mut store, &mut connection, START, &pieces, LEAST_ROOM).0, b"STORED\r\n");
    let mut slow = Connection::new(&mut store);
    let mut sink = Sink { bytes: Vec::new(), room: LEAST_ROOM };
    assert_eq!(slow.receive(&mut store, START, b"get big nope big\r\nmn\r\n", &mut sink).next, Next::Room);
    assert_eq!(feed(&mut store, &mut connection, START, &[b"set big 0 0 1\r\nx\r\n"], 2000).0, b"STORED\r\n");
    assert_eq!(check(&store), Ok(()));
    while slow.receive(&mut store, START, b"", &mut sink).next == Next::Room {
        sink.room = LEAST_ROOM;
    }
    sink.room = LEAST_ROOM;
    slow.receive(&mut store, START, b"mn\r\n", &mut sink);
    let expected = [&b"VALUE big 0 1048576\r\n"[..], &value, b"\r\nVALUE big 0 1\r\nx\r\nEND\r\nMN\r\n"].concat();
    assert!(sink.bytes == expected, "{} bytes", sink.bytes.len());
    assert_eq!(check(&store), Ok(()));
    assert_eq!(store.pages_lent() - store.pages_free(), 1);
    connection.close(&mut store);
    slow.close(&mut store);
}

/// What is not stored is skipped to its last byte, or its bytes would be executed.
#[test]
fn a_value_above_the_limit_is_refused_and_skipped() {
    let mut store = store(600);
    let mut connection = Connection::new(&mut store);
    let length = (1 << 20) + 1;
    let value: Vec<u8> = b"\r\nmn\r\n".iter().copied().cycle().take(length).collect();
    let refusal = "SERVER_ERROR object too large for cache\r\n";
    let cases = [
        (format!("set big 0 0 {length}"), refusal),
        (format!("set big 0 0 {length} noreply"), ""),
        (format!("ms big {length}"), refusal),
        (format!("ms big {length} MA N0 q k O1"), refusal),
    ];
    for (line, refusal) in cases {
        let whole = [line.as_bytes(), b"\r\n", &value, b"\r\nmn\r\n"].concat();
        for size in [97, 1460, whole.len() - 7, whole.len() - 6, whole.len() - 5, whole.len()] {
            assert_eq!(feed(&mut store, &mut connection, START, &[b"set big 0 0 1\r\nx\r\n"], 2000).0, b"STORED\r\n");
            let pieces: Vec<&[u8]> = whole.chunks(size).collect();
            let (answer, is_closed) = feed(&mut store, &mut connection, START, &pieces, LEAST_ROOM);
            assert!(answer == format!("{refusal}MN\r\n").as_bytes(), "{line} {size}: {} bytes", answer.len());
            assert!(!is_closed && connection.is_idle(), "{line} {size}");
            // Nothing old is left under the key.
            assert_eq!(feed(&mut store, &mut connection, START, &[b"mg big\r\n"], 2000).0, b"EN\r\n");
            assert_eq!(check(&store), Ok(()));
        }
    }
    assert_eq!((store.items(), store.pages_free()), (0, 600));
    connection.close(&mut store);
}

/// A client that announces much and goes away leaves nothing behind.
#[test]
fn a_connection_that_ends_in_a_value_leaves_nothing() {
    let mut store = store(300);
    for _ in 0..3 {
        let mut connection = Connection::new(&mut store);
        let part = [b"set big 0 0 1000000\r\n".to_vec(), vec![b'x'; 500_000]].concat();
        feed(&mut store, &mut connection, START, &[&part], usize::MAX);
        assert!(store.pages_free() < 200);
        connection.close(&mut store);
        assert_eq!((store.pages_free(), store.items(), store.bytes()), (300, 0, 0));
        assert_eq!(check(&store), Ok(()));
    }
}
