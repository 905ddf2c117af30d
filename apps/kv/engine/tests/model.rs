//! Random commands against a simple model; pages come and go between them.
//!
//! The model knows every item that may be there. As memory is scarce the store may forget items, but what it answers is
//! never wrong: a hit has the value and the flags that were stored last, and nothing that was deleted, flushed or has
//! expired comes back.

mod common;

use std::collections::BTreeMap;

use common::random::Random;
use common::{HeapStore, START, feed};
use kv_engine::check::check;
use kv_engine::{Connection, HeapPages, NoCold, PageNumber, Store, Time};
use proptest::prelude::*;

const PAGES: u32 = 40;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    flags: u32,
    value: Vec<u8>,
    expires: Option<u64>,
}

struct World {
    store: HeapStore,
    connection: Connection,
    model: BTreeMap<String, Item>,
    lent: Vec<u32>,
    second: u64,
    /// Nothing was ever taken, and there is room for all: then nothing may be forgotten.
    forgets: bool,
    random: Random,
}

impl World {
    fn new(seed: u64, pages: u32, forgets: bool) -> World {
        let mut store = Store::new(HeapPages::new(PAGES as usize), NoCold, &[3; 16], START);
        let lent: Vec<u32> = (0..pages).collect();
        lent.iter().for_each(|page| assert!(store.add_page(PageNumber(*page))));
        let connection = Connection::new(&mut store);
        World { store, connection, model: BTreeMap::new(), lent, second: 0, forgets, random: Random(seed) }
    }

    fn ask(&mut self, request: &[u8]) -> Vec<u8> {
        let now = Time::from_seconds(START.seconds() + self.second);
        feed(&mut self.store, &mut self.connection, now, &[request], usize::MAX).0
    }

    fn live(&self, key: &str) -> Option<&Item> {
        self.model.get(key).filter(|item| item.expires.is_none_or(|at| self.second < at))
    }

    /// A value's size: mostly small, now and then of several pages.
    fn value(&mut self) -> Vec<u8> {
        let size = match self.random.below(20) {
            0 => self.random.below(30_000),
            1..=4 => self.random.below(5_000),
            _ => self.random.below(150),
        };
        let byte = b'a' + self.random.below(26) as u8;
        vec![byte; size as usize]
    }

    fn step(&mut self) {
        let key = format!("key{}", self.random.below(60));
        match self.random.below(100) {
            0..35 => self.get(&key),
            35..65 => self.update(&key),
            65..72 => {
                let answer = self.ask(format!("delete {key}\r\n").as_bytes());
                let was = self.model.remove(&key).filter(|item| item.expires.is_none_or(|at| self.second < at));
                self.expect(was.is_some(), answer == b"DELETED\r\n", &key);
            }
            72..76 => {
                let answer = self.ask(format!("touch {key} 5\r\n").as_bytes());
                let second = self.second;
                let found = answer == b"TOUCHED\r\n";
                self.expect(self.live(&key).is_some(), found, &key);
                match self.model.get_mut(&key) {
                    Some(item) if found => item.expires = Some(second + 5),
                    _ => drop(self.model.remove(&key)),
                }
            }
            76..80 => self.increase(&key),
            80..84 => self.second += self.random.below(4),
            84 => {
                self.ask(b"flush_all\r\n");
                self.model.clear();
            }
            85..88 => self.store.crawl(Time::from_seconds(START.seconds() + self.second), 20),
            _ if !self.forgets => {}
            88..92 => {
                let page = self.random.below(PAGES.into()) as u32;
                if self.store.add_page(PageNumber(page)) {
                    self.lent.push(page);
                }
            }
            92..95 => self.take(false),
            95..97 => self.take(true),
            _ => {
                if let Some(page) = self.store.cheapest_page() {
                    assert!(self.store.give_back(page).is_some());
                    self.lent.retain(|other| *other != page.0);
                }
            }
        }
    }

    fn take(&mut self, is_gone: bool) {
        if self.lent.is_empty() {
            return;
        }
        let at = self.random.below(self.lent.len() as u64) as usize;
        let page = PageNumber(self.lent.swap_remove(at));
        if is_gone {
            kv_engine::Pages::page_mut(self.store.memory_mut(), page).fill(0xee);
            self.store.lost(page);
        } else {
            assert!(self.store.give_back(page).is_some());
            kv_engine::Pages::page_mut(self.store.memory_mut(), page).fill(0xee);
        }
        assert!(self.store.give_back(page).is_none());
    }

    /// What the model has, and what the store found.
    fn expect(&self, is_there: bool, found: bool, key: &str) {
        assert!(is_there || !found, "{key} came back");
        assert!(self.forgets || found == is_there, "{key} was forgotten");
    }

    fn get(&mut self, key: &str) {
        let answer = self.ask(format!("get {key}\r\n").as_bytes());
        let live = self.live(key).cloned();
        self.expect(live.is_some(), answer != b"END\r\n", key);
        match live {
            Some(item) if answer != b"END\r\n" => {
                let header = format!("VALUE {key} {} {}\r\n", item.flags, item.value.len());
                let expected = [header.as_bytes(), &item.value, b"\r\nEND\r\n"].concat();
                assert!(answer == expected, "{key} has another value");
            }
            _ => drop(self.model.remove(key)),
        }
    }

    fn update(&mut self, key: &str) {
        let value = self.value();
        let name = self.random.pick(&["set", "set", "set", "add", "replace", "append", "prepend"]);
        let flags = self.random.below(1000) as u32;
        let expiry = self.random.pick(&[0, 0, 0, 3]);
        let request = format!("{name} {key} {flags} {expiry} {}\r\n", value.len());
        let answer = self.ask(&[request.as_bytes(), &value, b"\r\n"].concat());
        let old = self.live(key).cloned();
        let fresh = Item { flags, value: value.clone(), expires: (expiry > 0).then(|| self.second + expiry) };
        match (&answer[..], name) {
            (b"STORED\r\n", "append" | "prepend") => {
                let old = old.expect("something to append to");
                let value = if name == "append" { [old.value, value] } else { [value, old.value] }.concat();
                self.model.insert(key.to_owned(), Item { value, ..old });
            }
            (b"STORED\r\n", _) => {
                assert!(name != "replace" || old.is_some(), "{key} came back");
                // An `add` that succeeds has forgotten the old one.
                assert!(name != "add" || old.is_none() || self.forgets);
                self.model.insert(key.to_owned(), fresh);
            }
            (b"NOT_STORED\r\n", "add") => assert!(old.is_some(), "{key} came back"),
            (b"NOT_STORED\r\n", _) => {
                assert!(name != "set" && (old.is_none() || self.forgets), "{name} {key}");
                self.model.remove(key);
            }
            (b"SERVER_ERROR out of memory storing object\r\n", _) => {
                assert!(self.forgets);
                if name == "set" {
                    self.model.remove(key);
                }
            }
            _ => panic!("{name}: {}", answer.escape_ascii()),
        }
    }

    fn increase(&mut self, key: &str) {
        let is_there = self.live(key).is_some();
        let answer = self.ask(format!("incr {key} 1\r\n").as_bytes());
        // Values of the model are letters, or empty.
        self.expect(is_there, answer.starts_with(b"CLIENT_ERROR"), key);
        if !is_there {
            assert_eq!(answer, b"NOT_FOUND\r\n");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_never_lies_while_pages_come_and_go(seed in any::<u64>(), pages in 0..PAGES, steps in 1..400usize) {
        let mut world = World::new(seed, pages, true);
        for _ in 0..steps {
            world.step();
            prop_assert_eq!(check(&world.store), Ok(()));
        }
        world.connection.close(&mut world.store);
        for page in 0..PAGES {
            world.store.give_back(PageNumber(page));
        }
        prop_assert_eq!(check(&world.store), Ok(()));
        prop_assert_eq!((world.store.items(), world.store.bytes(), world.store.pages_lent()), (0, 0, 0));
    }
}

/// With room for everything nothing is forgotten.
#[test]
fn with_enough_pages_nothing_is_forgotten() {
    for seed in 0..20 {
        let mut world = World::new(seed, 0, false);
        world.store = Store::new(HeapPages::new(4000), NoCold, &[3; 16], START);
        (0..4000).for_each(|page| assert!(world.store.add_page(PageNumber(page))));
        world.connection = Connection::new(&mut world.store);
        for _ in 0..1000 {
            // Appended values stay below the limit.
            if world.random.below(200) == 0 {
                world.ask(b"flush_all\r\n");
                world.model.clear();
            }
            world.step();
        }
        assert_eq!(check(&world.store), Ok(()));
    }
}
