//! What becomes of items when memory is scarce, and what it is worth.

mod common;

use common::random::Random;
use common::{HeapStore, START, feed, store};
use kv_engine::check::check;
use kv_engine::{Connection, PageNumber, Time};

struct Client {
    store: HeapStore,
    connection: Connection,
}

impl Client {
    fn new(pages: usize) -> Client {
        let mut store = store(pages);
        let connection = Connection::new(&mut store);
        Client { store, connection }
    }

    fn ask(&mut self, request: &[u8]) -> Vec<u8> {
        feed(&mut self.store, &mut self.connection, START, &[request], usize::MAX).0
    }

    fn set(&mut self, key: &str, size: usize) {
        let request = [format!("set {key} 0 0 {size}\r\n").as_bytes(), &vec![b'v'; size], b"\r\n"].concat();
        assert_eq!(self.ask(&request), b"STORED\r\n");
    }

    fn has(&mut self, key: &str) -> bool {
        self.ask(format!("mg {key} u\r\n").as_bytes()) == b"HD\r\n"
    }

    fn use_it(&mut self, key: &str) {
        self.ask(format!("mg {key}\r\n").as_bytes());
    }
}

#[test]
fn what_was_not_used_for_longest_is_evicted() {
    // 32 chunks of 128 bytes a page.
    let mut client = Client::new(4);
    (0..128).for_each(|number| client.set(&format!("key{number}"), 120));
    assert_eq!(client.store.totals().evictions, 0);
    client.use_it("key0");
    (128..140).for_each(|number| client.set(&format!("key{number}"), 120));
    assert_eq!(client.store.totals().evictions, 12);
    assert!(client.has("key0") && (1..=12).all(|number| !client.has(&format!("key{number}"))) && client.has("key13"));
}

#[test]
fn pages_go_to_the_sizes_that_are_used() {
    let mut client = Client::new(16);
    (0..2000).for_each(|number| client.set(&format!("small{number}"), 100));
    for round in 0..40 {
        (0..10).for_each(|number| client.set(&format!("large{number}"), 3000 + round));
    }
    assert!((0..10).all(|number| client.has(&format!("large{number}"))));
    assert_eq!(check(&client.store), Ok(()));
}

#[test]
fn a_page_that_is_given_back_costs_the_coldest_and_moves_the_hot() {
    let mut client = Client::new(4);
    (0..128).for_each(|number| client.set(&format!("key{number}"), 120));
    // The last page has the youngest; then the first is used.
    (0..32).for_each(|number| client.use_it(&format!("key{number}")));
    let given = client.store.give_back(PageNumber(0)).expect("the page was lent");
    assert_eq!(client.store.pages_lent(), 3);
    assert_eq!(given.evicted, 32);
    assert_eq!(check(&client.store), Ok(()));
    let left: Vec<u32> = (0..128).filter(|number| client.has(&format!("key{number}"))).collect();
    // Whatever page it was, the 32 that were not used for longest went.
    assert_eq!(left, (0..32).chain(64..128).collect::<Vec<_>>());
}

#[test]
fn pages_with_room_elsewhere_cost_nothing() {
    let mut client = Client::new(20);
    (0..100).for_each(|number| client.set(&format!("key{number}"), 120));
    client.set("big", 30_000);
    for page in 0..6 {
        assert_eq!(client.store.give_back(PageNumber(page)).expect("lent").evicted, 0);
        assert_eq!(check(&client.store), Ok(()));
    }
    assert!((0..100).all(|number| client.has(&format!("key{number}"))));
    assert_eq!(client.ask(b"get big\r\n").len(), 30_000 + "VALUE big 0 30000\r\n\r\nEND\r\n".len());
}

#[test]
fn the_cheapest_page_is_a_free_one_or_that_of_the_oldest() {
    let mut client = Client::new(3);
    assert!(client.store.cheapest_page().is_some());
    client.set("old", 4000);
    client.set("young", 4000);
    let free = client.store.cheapest_page().expect("a page");
    assert_eq!(client.store.give_back(free), Some(kv_engine::Given::default()));
    // Enough accesses to be told apart.
    (0..200).for_each(|_| client.use_it("young"));
    let cheapest = client.store.cheapest_page().expect("a page");
    client.store.give_back(cheapest);
    assert!(client.has("young") && !client.has("old"));
}

#[test]
fn a_value_that_can_not_fit_is_refused_and_nothing_old_is_left() {
    let mut client = Client::new(4);
    client.set("a", 100);
    let request = [&b"set a 0 0 20000\r\n"[..], &[b'v'; 20000], b"\r\nmn\r\n"].concat();
    assert_eq!(client.ask(&request), b"SERVER_ERROR out of memory storing object\r\nMN\r\n");
    assert!(!client.has("a"));
    client.set("a", 12_000);
    client.set("b", 12_000);
    assert!(!client.has("a") && client.has("b"));
    // Without any page nothing is kept, and everything is answered.
    (0..4).for_each(|page| assert!(client.store.give_back(PageNumber(page)).is_some()));
    assert_eq!(client.ask(b"set c 0 0 1\r\nx\r\nget c\r\n"), b"SERVER_ERROR out of memory storing object\r\nEND\r\n");
    assert_eq!(check(&client.store), Ok(()));
}

/// A value of which a page is withdrawn while it comes is refused; an answer of which a page is withdrawn ends the
/// connection, as it can't be completed.
#[test]
fn pages_that_are_lost_in_the_middle_of_a_value() {
    let mut client = Client::new(8);
    client.set("a", 10);
    let first = [&b"set a 0 0 9000\r\n"[..], &[b'v'; 8000]].concat();
    assert_eq!(client.ask(&first), b"");
    for page in 0..8 {
        client.store.lost(PageNumber(page));
        client.store.add_page(PageNumber(page));
    }
    assert_eq!(client.ask(&[b'v'; 1000]), b"");
    assert_eq!(client.ask(b"\r\nmg a\r\n"), b"SERVER_ERROR out of memory storing object\r\nEN\r\n");
    client.set("big", 20_000);
    let mut slow = Connection::new(&mut client.store);
    let mut sink = common::Sink { bytes: Vec::new(), room: 8000 };
    slow.receive(&mut client.store, START, b"get big\r\n", &mut sink);
    (0..8).for_each(|page| client.store.lost(PageNumber(page)));
    sink.room = 8000;
    let progress = slow.receive(&mut client.store, START, b"", &mut sink);
    assert_eq!(progress.next, kv_engine::Next::Close);
    slow.close(&mut client.store);
    assert_eq!(check(&client.store), Ok(()));
}

/// What moves under an answer is still sent right.
#[test]
fn a_value_moves_while_it_is_sent() {
    let mut client = Client::new(20);
    let value: Vec<u8> = (0..30_000u32).map(|at| (at * 7 / 3) as u8).collect();
    client.ask(&[&b"set big 0 0 30000\r\n"[..], &value, b"\r\n"].concat());
    let mut slow = Connection::new(&mut client.store);
    let mut sink = common::Sink { bytes: Vec::new(), room: 1024 };
    slow.receive(&mut client.store, START, b"get big\r\n", &mut sink);
    for page in 0..20 {
        client.store.give_back(PageNumber(page));
        client.store.add_page(PageNumber(page));
        sink.room = 1024;
        slow.receive(&mut client.store, START, b"", &mut sink);
    }
    while sink.room < 1024 {
        sink.room = 1024;
        slow.receive(&mut client.store, START, b"", &mut sink);
    }
    assert!(sink.bytes == [&b"VALUE big 0 30000\r\n"[..], &value, b"\r\nEND\r\n"].concat());
    slow.close(&mut client.store);
}

#[test]
fn expired_items_are_collected_by_the_crawler() {
    let mut client = Client::new(8);
    for number in 0..100 {
        client.ask(format!("set key{number} 0 {} 1\r\nx\r\n", if number < 60 { 5 } else { 0 }).as_bytes());
    }
    client.store.crawl(Time::from_seconds(START.seconds() + 10), 50);
    assert!((50..80).contains(&client.store.items()), "{}", client.store.items());
    client.store.crawl(Time::from_seconds(START.seconds() + 10), 50);
    assert_eq!((client.store.items(), client.store.totals().crawler_reclaimed), (40, 60));
}

/// After as many flushes as generations can be told apart, nothing old comes back.
#[test]
fn flushes_without_number() {
    let mut client = Client::new(2);
    client.set("a", 1);
    for _ in 0..65536 {
        client.ask(b"flush_all noreply\r\n");
    }
    assert!(!client.has("a"));
    client.set("b", 1);
    assert!(client.has("b"));
    assert_eq!(check(&client.store), Ok(()));
}

/// What the store says about other sizes is what a store of that size has.
#[test]
fn hits_by_pages_are_those_of_stores_of_that_size() {
    const ACCESSES: u64 = 30_000;
    let run = |pages: usize| {
        let mut client = Client::new(pages);
        let mut random = Random(1);
        let mut hits = 0u64;
        for _ in 0..ACCESSES {
            let key = format!("key{}", random.below(3000) * random.below(3000) / 3000);
            if client.ask(format!("get {key}\r\n").as_bytes()) == b"END\r\n" {
                client.set(&key, 100);
            } else {
                hits += 1;
            }
        }
        (hits, client.store)
    };
    let (_, store) = run(16);
    let estimates: Vec<(u32, u64)> = store.hits_by_pages(ACCESSES).collect();
    for pages in [8, 16, 32, 64] {
        let (hits, _) = run(pages);
        let estimate = estimates.iter().find(|point| point.0 == pages as u32).expect("a point").1;
        assert!(hits.abs_diff(estimate) < ACCESSES / 12, "{pages} pages: {hits} hits, {estimate} estimated");
    }
}

#[test]
fn tables_grow_with_the_pages_and_the_items() {
    let empty = Client::new(0).store.table_bytes();
    assert!(empty < 4096, "{empty}");
    let mut client = Client::new(64);
    (0..10_000).for_each(|number| client.set(&format!("key{number}"), 40));
    // At most 64 items a page.
    assert!(client.store.table_bytes() < 64 * 64 * 2 * 80, "{}", client.store.table_bytes());
}

/// Room for a joined value is made by taking what is oldest, which may be the part that was sent: it came long ago, and its
/// last byte only now.
#[test]
fn what_was_sent_is_taken_to_make_room_for_the_whole() {
    let mut refused = 0;
    for (pages, length, mode, number) in
        (2..5).flat_map(|pages| [0, 1, 40].map(|length| (pages, length))).flat_map(|(pages, length)| {
            ["MA", "MP"]
                .into_iter()
                .flat_map(move |mode| (0..80).step_by(4).map(move |number| (pages, length, mode, number)))
        })
    {
        let mut client = Client::new(pages);
        client.set("k", 3000);
        let mut slow = Connection::new(&mut client.store);
        let mut sink = common::Sink { bytes: Vec::new(), room: 8000 };
        let sent = [format!("ms k {length} {mode} s k\r\n").as_bytes(), &vec![b'v'; length]].concat();
        slow.receive(&mut client.store, START, &sent, &mut sink);
        (0..number).for_each(|number| client.set(&format!("s{number:03}"), 20));
        client.use_it("k");
        slow.receive(&mut client.store, START, b"\r\n", &mut sink);
        let answers = [
            format!("HD s{} kk", 3000 + length),
            format!("NS s{length} kk"),
            "SERVER_ERROR out of memory storing object".into(),
        ];
        let said = String::from_utf8(sink.bytes.clone()).expect("text");
        let which = answers.iter().position(|answer| said == format!("{answer}\r\n"));
        refused += usize::from(which.unwrap_or_else(|| panic!("{said}")) == 2);
        slow.close(&mut client.store);
        assert_eq!(check(&client.store), Ok(()));
    }
    assert!(refused > 0, "it was never taken");
}
