//! Values that go to a second tier and come back.

mod common;

use std::collections::BTreeMap;

use common::random::Random;
use common::{START, Sink};
use kv_engine::check::check;
use kv_engine::{Cold, Connection, HeapPages, Next, PageNumber, Store, Ticket};
use proptest::prelude::*;

/// A tier that keeps values in a map, and answers when the test wants.
#[derive(Debug, Default)]
struct Shelf {
    values: BTreeMap<Ticket, Vec<u8>>,
    last: u64,
    reads: Vec<Ticket>,
    room: usize,
}

impl Cold for Shelf {
    fn room(&self) -> usize {
        self.room.saturating_sub(self.values.len()).saturating_mul(4096)
    }

    fn write<'a>(&mut self, length: usize, parts: impl Iterator<Item = &'a [u8]>) -> Option<Ticket> {
        if self.values.len() >= self.room {
            return None;
        }
        self.last += 1;
        let value = parts.collect::<Vec<_>>().concat();
        assert_eq!(value.len(), length);
        self.values.insert(Ticket(self.last), value);
        Some(Ticket(self.last))
    }

    fn read(&mut self, ticket: Ticket) -> bool {
        assert!(self.values.contains_key(&ticket) && !self.reads.contains(&ticket));
        self.reads.push(ticket);
        true
    }

    fn release(&mut self, ticket: Ticket) {
        assert!(self.values.remove(&ticket).is_some(), "released twice");
        self.reads.retain(|other| *other != ticket);
    }
}

struct World {
    store: Store<HeapPages, Shelf>,
    connection: Connection,
}

impl World {
    fn new(pages: u32) -> World {
        let shelf = Shelf { room: usize::MAX, ..Shelf::default() };
        let mut store = Store::new(HeapPages::new(pages as usize), shelf, &[9; 16], START);
        (0..pages).for_each(|page| assert!(store.add_page(PageNumber(page))));
        let connection = Connection::new(&mut store);
        World { store, connection }
    }

    /// Delivers what is being read.
    fn deliver(&mut self, succeeds: bool) -> usize {
        let reads = self.store.cold_mut().reads.clone();
        for ticket in &reads {
            let value = self.store.cold_mut().values.get(ticket).cloned().expect("it is kept");
            self.store.deliver(START, *ticket, succeeds.then(|| value.chunks(512)));
            assert_eq!(check(&self.store), Ok(()));
        }
        reads.len()
    }

    /// Asks, and delivers whatever is waited for.
    fn ask(&mut self, request: &[u8]) -> Vec<u8> {
        let mut sink = Sink::new();
        let mut rest = request;
        for _ in 0..1000 {
            let progress = self.connection.receive(&mut self.store, START, rest, &mut sink);
            rest = &rest[progress.consumed..];
            assert_eq!(check(&self.store), Ok(()));
            match progress.next {
                Next::Input => return sink.bytes,
                Next::Cold(_) => assert!(self.deliver(true) > 0, "nothing is read"),
                other => panic!("{other:?}"),
            }
        }
        panic!("it goes on for ever");
    }

    fn set(&mut self, key: &str, value: &[u8]) {
        let request = [format!("set {key} 3 0 {}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat();
        assert_eq!(self.ask(&request), b"STORED\r\n");
    }
}

#[test]
fn the_coldest_values_move_and_come_back_when_they_are_asked_for() {
    let mut world = World::new(64);
    let value = |number: usize| vec![b'a' + number as u8; 1000 + 700 * number];
    for number in 0..20 {
        world.set(&format!("key{number}"), &value(number));
        // Ages of items of different sizes are told apart in steps of 64 accesses.
        world.ask(&format!("mg key{number}\r\n").repeat(64).into_bytes());
    }
    let used = world.store.pages_lent() - world.store.pages_free();
    assert_eq!(world.store.spill(START, 10, 500), 10);
    assert_eq!((world.store.cold_mut().values.len(), world.store.items()), (10, 20));
    assert!(used - (world.store.pages_lent() - world.store.pages_free()) > 8);
    assert_eq!(check(&world.store), Ok(()));
    // What needs no value waits for nothing.
    assert_eq!(
        world.ask(b"mg key0 s f t\r\ntouch key0 0\r\ndelete key1\r\n"),
        b"HD s1000 f3 t-1\r\nTOUCHED\r\nDELETED\r\n"
    );
    assert_eq!(world.store.counters().cold_reads, 0);
    assert_eq!(world.store.cold_mut().values.len(), 9);
    let keys: String = (0..20).map(|number| format!(" key{number}")).collect();
    let expected: Vec<Vec<u8>> = (0..20)
        .filter(|number| *number != 1)
        .map(|number| {
            let value = value(number);
            [format!("VALUE key{number} 3 {}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat()
        })
        .collect();
    assert!(world.ask(format!("get{keys}\r\n").as_bytes()) == [expected.concat(), b"END\r\n".to_vec()].concat());
    assert_eq!((world.store.counters().cold_reads, world.store.cold_mut().values.len()), (9, 0));
    // What namespaces are bid for is not what clients can have begin anew.
    assert_eq!(world.ask(b"stats reset\r\n"), b"RESET\r\n");
    assert_eq!((world.store.counters().cold_reads, world.store.retrievals().cold_reads), (0, 9));
}

/// A connection waits for its value in order; others go on.
#[test]
fn a_connection_waits_and_others_go_on() {
    let mut world = World::new(16);
    world.set("a", b"cold");
    assert_eq!(world.store.spill(START, 1, 1), 1);
    world.set("b", b"warm");
    let mut sink = Sink::new();
    let mut waiting = Connection::new(&mut world.store);
    let input = b"get b a b\r\nmn\r\n";
    let progress = waiting.receive(&mut world.store, START, input, &mut sink);
    let Next::Cold(ticket) = progress.next else { panic!("{progress:?}") };
    assert_eq!(progress.consumed, 11);
    assert_eq!(world.ask(b"get b\r\n"), b"VALUE b 3 4\r\nwarm\r\nEND\r\n");
    assert_eq!(waiting.receive(&mut world.store, START, b"", &mut sink).next, Next::Cold(ticket));
    assert_eq!(world.store.loading().collect::<Vec<_>>(), [ticket]);
    world.deliver(true);
    waiting.receive(&mut world.store, START, &input[11..], &mut sink);
    let b = &b"VALUE b 3 4\r\nwarm\r\n"[..];
    assert_eq!(sink.bytes, [b, b"VALUE a 3 4\r\ncold\r\n", b, b"END\r\nMN\r\n"].concat());
    waiting.close(&mut world.store);
}

#[test]
fn a_value_that_can_not_be_read_is_a_miss() {
    let mut world = World::new(16);
    world.set("a", b"cold");
    world.store.spill(START, 1, 1);
    let mut sink = Sink::new();
    let progress = world.connection.receive(&mut world.store, START, b"get a\r\n", &mut sink);
    assert!(matches!(progress.next, Next::Cold(_)));
    world.deliver(false);
    assert_eq!(world.ask(b""), b"END\r\n");
    assert_eq!((world.store.items(), world.store.counters().cold_failures), (0, 1));
    assert!(world.store.cold_mut().values.is_empty());
}

#[test]
fn commands_that_change_a_cold_value_wait_for_it() {
    let mut world = World::new(16);
    for (request, answer, value) in [
        ("append a 0 0 1\r\n7\r\n", "STORED\r\n", "417"),
        ("prepend a 0 0 1\r\n7\r\n", "STORED\r\n", "741"),
        ("incr a 1\r\n", "42\r\n", "42"),
        ("ma a MD v\r\n", "VA 2\r\n40\r\n", "40"),
        ("ms a 1 MA\r\n0\r\n", "HD\r\n", "410"),
        ("ms a 2 MP N0 s\r\n-1\r\n", "HD s4\r\n", "-141"),
    ] {
        world.set("a", b"41");
        assert_eq!(world.store.spill(START, 1, 1), 1);
        assert_eq!(world.ask(request.as_bytes()), answer.as_bytes());
        assert_eq!(world.ask(b"mg a v\r\n"), format!("VA {}\r\n{value}\r\n", value.len()).as_bytes());
    }
    world.set("a", b"41");
    world.store.spill(START, 1, 1);
    assert_eq!(world.ask(b"mg a v f\r\n"), b"VA 2 f3\r\n41\r\n");
}

#[test]
fn a_cold_value_that_is_not_wanted_is_not_read() {
    let mut world = World::new(16);
    world.set("a", b"cold");
    assert_eq!(world.store.spill(START, 1, 1), 1);
    assert_eq!(world.ask(b"md a x\r\nmg a c s\r\n"), b"HD\r\nHD c1 s0\r\n");
    assert_eq!((world.store.counters().cold_reads, world.store.cold_mut().values.len()), (0, 0));
}

#[test]
fn a_full_tier_takes_no_more() {
    let mut world = World::new(16);
    world.store.cold_mut().room = 2;
    (0..5).for_each(|number| world.set(&format!("key{number}"), b"value"));
    assert_eq!(world.store.spill(START, 5, 1), 2);
    assert_eq!(world.store.spill(START, 5, 1), 0);
    world.ask(b"delete key0\r\ndelete key1\r\n");
    assert_eq!(world.store.spill(START, 5, 1), 2);
}

/// Far more values than there is memory for: with a tier that takes them, and memory for keys, none is lost, whether values
/// come, are asked for in any order, or pages are taken.
#[test]
fn nothing_is_evicted_while_the_tier_has_room_and_keys_fit() {
    let mut world = World::new(24);
    let value = |number: u64| vec![b'a' + (number % 26) as u8; 300 + (number * 37 % 900) as usize];
    (0..300).for_each(|number| world.set(&format!("key{number}"), &value(number)));
    let mut random = Random(5);
    let mut taken = 0;
    for round in 0..3000u64 {
        let number = random.below(300);
        let expected = [format!("VA {}\r\n", value(number).len()).as_bytes(), &value(number), b"\r\n"].concat();
        assert!(world.ask(format!("mg key{number} v\r\n").as_bytes()) == expected, "{round}");
        if round.is_multiple_of(250) && taken < 8 {
            assert!(world.store.make_room(START, 2), "{round}");
            let page = world.store.cheapest_page().expect("a page");
            world.store.give_back(page);
            taken += 1;
        }
        assert_eq!(check(&world.store), Ok(()));
    }
    let counters = world.store.counters();
    assert_eq!((world.store.totals().evictions, counters.cold_failures), (0, 0));
    assert!(counters.cold_reads > 1000 && taken == 8, "{counters:?}");
}

/// What the tier does not take, as it is small or still coming, stays where it is or moves.
#[test]
fn making_room_costs_nothing_that_the_tier_does_not_take() {
    let mut world = World::new(32);
    (0..200).for_each(|number| world.set(&format!("small{number}"), b"value"));
    (0..20).for_each(|number| world.set(&format!("large{number}"), &[b'y'; 2500]));
    let mut sink = Sink::new();
    let mut slow = Connection::new(&mut world.store);
    let begun = [&b"set slow 0 0 9000\r\n"[..], &[b'z'; 5000]].concat();
    assert_eq!(slow.receive(&mut world.store, START, &begun, &mut sink).consumed, begun.len());
    (0..5).for_each(|_| drop(world.ask(&b"mn\r\nmg large7\r\n".repeat(64))));
    assert!(world.store.make_room(START, 20));
    assert_eq!(check(&world.store), Ok(()));
    assert!(!world.store.make_room(START, 32), "the small ones take some");
    assert_eq!(check(&world.store), Ok(()));
    slow.receive(&mut world.store, START, &[&[b'z'; 4000][..], b"\r\n"].concat(), &mut sink);
    assert_eq!(sink.bytes, b"STORED\r\n");
    slow.close(&mut world.store);
    let misses: Vec<u32> = (0..200).filter(|n| world.ask(format!("mg small{n}\r\n").as_bytes()) != b"HD\r\n").collect();
    assert_eq!((misses, world.store.totals().evictions), (vec![], 0));
    assert!(world.ask(b"mg slow v\r\n").ends_with(b"zz\r\n"));
}

/// Where there is no memory even for all keys, those go that were not used for longest.
#[test]
fn keys_are_evicted_when_there_is_no_memory_for_them() {
    let mut world = World::new(8);
    (0..2000).for_each(|number| world.set(&format!("key{number}"), &[b'x'; 400]));
    let answers: Vec<usize> =
        (0..2000).filter(|number| world.ask(format!("mg key{number} v\r\n").as_bytes()) != b"EN\r\n").collect();
    assert_eq!(check(&world.store), Ok(()));
    assert!(answers.len() > 200 && answers[0] > 1000, "{} from {} on", answers.len(), answers[0]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// With a tier that takes everything, and memory for the keys, only what is evicted for want of memory is forgotten;
    /// what is found is right.
    #[test]
    fn values_are_right_wherever_they_are(seed in any::<u64>(), pages in 8..40u32) {
        let mut world = World::new(pages);
        let mut random = Random(seed);
        let mut model = BTreeMap::new();
        for _ in 0..300 {
            let key = format!("key{}", random.below(30));
            match random.below(10) {
                0..4 => {
                    let size = if random.below(8) == 0 { random.below(12_000) } else { random.below(200) };
                    let value = vec![b'a' + random.below(26) as u8; size as usize];
                    world.set(&key, &value);
                    model.insert(key, value);
                }
                4..7 => {
                    let answer = world.ask(format!("mg {key} v\r\n").as_bytes());
                    if answer != b"EN\r\n" {
                        let value = &model[&key];
                        let expected = [format!("VA {}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat();
                        prop_assert!(answer == expected, "another value");
                    }
                }
                7 => {
                    world.ask(format!("delete {key}\r\n").as_bytes());
                    model.remove(&key);
                }
                8 => {
                    world.store.spill(START, random.below(6) as usize, random.below(100) as usize);
                }
                _ => {
                    let page = PageNumber(random.below(pages.into()) as u32);
                    if random.below(2) == 0 {
                        world.store.give_back(page);
                    } else {
                        world.store.lost(page);
                    }
                    world.store.add_page(page);
                }
            }
            prop_assert_eq!(check(&world.store), Ok(()));
        }
        world.ask(b"flush_all\r\n");
        world.store.crawl(START, 10_000);
        prop_assert_eq!(world.store.cold_mut().values.len(), 0);
    }
}
