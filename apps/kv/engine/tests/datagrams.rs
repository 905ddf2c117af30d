//! Requests over UDP.

mod common;

use common::{HeapStore, START, store};
use kv_engine::udp::{Exchange, HEADER_BYTES, MOST_DATAGRAM_BYTES};
use proptest::prelude::*;

/// The datagrams that answer a request with number 0x1234.
fn ask(store: &mut HeapStore, request: &[u8]) -> Vec<Vec<u8>> {
    let datagram = [&[0x12, 0x34, 0, 0, 0, 1, 0, 0][..], request].concat();
    let mut exchange = Exchange::new(&datagram).expect("a request");
    assert_eq!(exchange.proceed(store, START), None);
    let datagrams = exchange.datagrams().map(|(header, payload)| [&header[..], payload].concat()).collect();
    exchange.close(store);
    datagrams
}

#[test]
fn a_short_answer_is_one_datagram() {
    let mut store = store(8);
    let answer = ask(&mut store, b"set a 1 0 2\r\nhi\r\nget a\r\n");
    assert_eq!(answer, [b"\x12\x34\0\0\0\x01\0\0STORED\r\nVALUE a 1 2\r\nhi\r\nEND\r\n".to_vec()]);
}

#[test]
fn a_long_answer_is_split() {
    let mut store = store(600);
    let value: Vec<u8> = (0..1_000_000u32).map(|at| (at * 3 / 2) as u8).collect();
    // As large as a request may be, the value is put together.
    ask(&mut store, b"set a 0 0 0\r\n\r\n");
    for part in value.chunks(50_000) {
        let request = [b"append a 0 0 50000\r\n", part, b"\r\n"].concat();
        assert_eq!(ask(&mut store, &request)[0][HEADER_BYTES..], *b"STORED\r\n");
    }
    let datagrams = ask(&mut store, b"get a\r\n");
    let total = datagrams.len();
    assert_eq!(total, (1_000_000usize + 28).div_ceil(1392));
    let mut answer = Vec::new();
    for (number, datagram) in datagrams.iter().enumerate() {
        assert!(datagram.len() == MOST_DATAGRAM_BYTES || number + 1 == total);
        let (header, payload) = datagram.split_at(HEADER_BYTES);
        let [n0, n1] = (number as u16).to_be_bytes();
        let [t0, t1] = (total as u16).to_be_bytes();
        assert_eq!(header, [0x12, 0x34, n0, n1, t0, t1, 0, 0]);
        answer.extend_from_slice(payload);
    }
    assert!(answer == [b"VALUE a 0 1000000\r\n", &value[..], b"\r\nEND\r\n"].concat());
}

#[test]
fn an_answer_that_is_too_long_is_refused() {
    let mut store = store(600);
    ask(&mut store, b"set a 0 0 0\r\n\r\n");
    (0..20).for_each(|_| drop(ask(&mut store, &[&b"append a 0 0 50000\r\n"[..], &[b'x'; 50_000], b"\r\n"].concat())));
    let answer = ask(&mut store, b"get a a a\r\n");
    assert_eq!(answer[0][HEADER_BYTES..], *b"SERVER_ERROR out of memory writing get response\r\n");
    assert_eq!(kv_engine::check::check(&store), Ok(()));
}

#[test]
fn requests_of_several_datagrams_are_refused() {
    let mut store = store(8);
    let exchange = Exchange::new(b"\0\x01\0\0\0\x02\0\0get a\r\n").expect("a request");
    let answer: Vec<&[u8]> = exchange.datagrams().map(|(_, payload)| payload).collect();
    assert_eq!(answer, [b"SERVER_ERROR multi-packet request not supported\r\n"]);
    exchange.close(&mut store);
    assert!(Exchange::new(b"1234567").is_none());
}

#[test]
fn what_is_incomplete_leaves_nothing() {
    let mut store = store(8);
    assert!(ask(&mut store, b"get a").is_empty());
    assert!(ask(&mut store, b"set a 0 0 10\r\nxyz").is_empty());
    assert_eq!((store.items(), store.bytes(), store.pages_free()), (0, 0, 8));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_datagram(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut store = store(16);
        if let Some(mut exchange) = Exchange::new(&bytes) {
            exchange.proceed(&mut store, START);
            exchange.close(&mut store);
        }
        prop_assert_eq!(kv_engine::check::check(&store), Ok(()));
    }
}
