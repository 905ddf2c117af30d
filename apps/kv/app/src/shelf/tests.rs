//! The tier on a disk that ends commands in any order, fails them, and brings what was never written.

use super::*;
use alloc::collections::BTreeMap;
use proptest::prelude::*;

/// A page of memory, and its number.
type Buffer = Vec<u8>;

#[derive(Debug, Default)]
struct Fake {
    pages: Vec<Vec<u8>>,
    spare: Vec<Buffer>,
    under_way: Vec<(bool, u64, Buffer, u64)>,
    /// What the next commands do instead of succeeding.
    fails: bool,
    lies: bool,
    /// Which of those under way ends next.
    draw: u64,
    holds: bool,
}

impl Fake {
    fn new(pages: usize) -> Fake {
        Fake {
            pages: alloc::vec![alloc::vec![0; PAGE_BYTES]; pages],
            spare: alloc::vec![alloc::vec![0; PAGE_BYTES]; 64],
            ..Fake::default()
        }
    }
}

impl Disk for Fake {
    type Buffer = Buffer;

    fn pages(&self) -> u64 {
        self.pages.len() as u64
    }

    fn buffer(&mut self) -> Option<Buffer> {
        self.spare.pop()
    }

    fn give(&mut self, buffer: Buffer) {
        self.spare.push(buffer);
    }

    fn fill(&mut self, buffer: &mut Buffer, offset: usize, bytes: &[u8]) {
        buffer[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn copy_out(&self, buffer: &Buffer, offset: usize, length: usize, to: &mut Vec<u8>) {
        to.extend_from_slice(&buffer[offset..offset + length]);
    }

    fn begin(&mut self, writes: bool, page: u64, buffer: Buffer, token: u64) -> Result<(), Buffer> {
        assert!((page as usize) < self.pages.len() && self.under_way.len() < 63);
        let is_written = self.under_way.iter().any(|other| other.1 == page && other.0);
        assert!(!is_written, "a page that is being written is not touched otherwise");
        self.under_way.push((writes, page, buffer, token));
        Ok(())
    }

    fn ring(&mut self) {}

    fn ended(&mut self) -> Option<(u64, Option<Buffer>, bool)> {
        if self.holds || self.under_way.is_empty() {
            return None;
        }
        self.draw = self.draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = (self.draw >> 33) as usize % self.under_way.len();
        let (writes, page, mut buffer, token) = self.under_way.swap_remove(at);
        let page = &mut self.pages[page as usize];
        match (writes, self.lies) {
            (_, _) if self.fails => {}
            (true, _) => page.copy_from_slice(&buffer),
            (false, false) => buffer.copy_from_slice(page),
            (false, true) => buffer.iter_mut().zip(page).for_each(|(byte, stored)| *byte = *stored ^ 1),
        }
        Some((token, Some(buffer), !self.fails))
    }
}

fn bytes(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + seed * 13 + at / 251) as u8).collect()
}

fn put(shelf: &mut Shelf<Fake>, value: &[u8]) -> Option<Ticket> {
    shelf.write(value.len(), value.chunks(700))
}

/// Everything that can end, ends.
fn settle(shelf: &mut Shelf<Fake>) -> Vec<(Ended, Vec<u8>)> {
    let mut found = Vec::new();
    let mut value = Vec::new();
    for now in 1..10 {
        shelf.turn(now);
        while let Some(ended) = shelf.ended(&mut value) {
            found.push((ended, value.clone()));
        }
    }
    found
}

fn shelf(pages: usize) -> Shelf<Fake> {
    let mut shelf = Shelf::new(&[3; 16]);
    assert_eq!((shelf.room(), put(&mut shelf, b"nowhere")), (0, None));
    shelf.open(Fake::new(pages), usize::MAX);
    shelf
}

#[test]
fn small_values_share_pages_and_pages_are_used_again() {
    let mut shelf = shelf(4);
    let values: Vec<Vec<u8>> = (0..32).map(|seed| bytes(500, seed)).collect();
    let tickets: Vec<Ticket> = values.iter().map(|value| put(&mut shelf, value).expect("there is room")).collect();
    assert_eq!(shelf.usage(), (4, 4));
    assert_eq!((put(&mut shelf, &bytes(500, 0)), shelf.room()), (None, 0));
    for (ticket, value) in tickets.iter().zip(&values) {
        assert!(shelf.read(*ticket));
        assert_eq!(settle(&mut shelf), [(Ended { ticket: *ticket, succeeded: true }, value.clone())]);
    }
    tickets.iter().for_each(|ticket| shelf.release(*ticket));
    settle(&mut shelf);
    assert_eq!(shelf.usage(), (0, 4));
    let again = put(&mut shelf, &values[0]).expect("there is room again");
    assert!(!tickets.contains(&again));
}

#[test]
fn a_value_of_many_pages_comes_back_whole() {
    let mut shelf = shelf(64);
    let largest = bytes(MOST_PAGES * PAGE_BYTES, 1);
    let ticket = put(&mut shelf, &largest).expect("it fits");
    assert_eq!(put(&mut shelf, &bytes(MOST_PAGES * PAGE_BYTES + 1, 1)), None);
    // It is asked for before it is written.
    assert!(shelf.read(ticket));
    assert_eq!(settle(&mut shelf), [(Ended { ticket, succeeded: true }, largest)]);
    assert!(shelf.read_ticks().is_some());
}

/// One read can begin whatever is being written, so that who waits for one does not wait for ever.
#[test]
fn writes_leave_buffers_for_reading() {
    let mut shelf = shelf(1000);
    let first = put(&mut shelf, &bytes(MOST_PAGES * PAGE_BYTES, 9)).expect("it fits");
    while put(&mut shelf, &bytes(PAGE_BYTES, 2)).is_some() {}
    assert!(shelf.read(first));
    assert_eq!(settle(&mut shelf).len(), 1);
}

#[test]
fn what_fails_or_was_never_written_is_told_as_such() {
    let mut shelf = shelf(64);
    let mut ask = |fails_to_write: bool, fails: bool, lies: bool| {
        let ticket = put(&mut shelf, &bytes(5000, 4)).expect("it fits");
        shelf.disk.as_mut().expect("a disk").fails = fails_to_write;
        settle(&mut shelf);
        let disk = shelf.disk.as_mut().expect("a disk");
        (disk.fails, disk.lies) = (fails, lies);
        assert!(shelf.read(ticket));
        let succeeded: Vec<bool> = settle(&mut shelf).iter().map(|(ended, _)| ended.succeeded).collect();
        let disk = shelf.disk.as_mut().expect("a disk");
        (disk.fails, disk.lies) = (false, false);
        shelf.release(ticket);
        succeeded
    };
    assert_eq!(ask(false, false, false), [true]);
    assert_eq!(ask(true, false, false), [false]);
    assert_eq!(ask(false, true, false), [false]);
    assert_eq!(ask(false, false, true), [false]);
    assert_eq!(ask(false, false, false), [true]);
    // Two pages that can't be written are given up.
    assert_eq!(shelf.usage(), (2, 64));
}

#[test]
fn what_is_under_way_fails_when_the_queues_are_gone_and_new_ones_work() {
    let mut shelf = shelf(64);
    let [read, kept] = [1, 2].map(|seed| put(&mut shelf, &bytes(3000, seed)).expect("it fits"));
    settle(&mut shelf);
    shelf.disk.as_mut().expect("a disk").holds = true;
    assert!(shelf.read(read));
    shelf.turn(1);
    let mut disk = shelf.lose().expect("a disk");
    assert_eq!((shelf.room(), shelf.lose().is_none()), (0, true));
    // As the driver does.
    let under_way = core::mem::take(&mut disk.under_way);
    disk.spare.extend(under_way.into_iter().map(|(_, _, buffer, _)| buffer));
    assert_eq!(disk.spare.len(), 64);
    disk.holds = false;
    assert!(shelf.read(kept));
    let told: Vec<Ended> = settle(&mut shelf).into_iter().map(|(ended, _)| ended).collect();
    assert_eq!(told, [read, kept].map(|ticket| Ended { ticket, succeeded: false }));
    shelf.open(disk, 8);
    let ticket = put(&mut shelf, &bytes(3000, 3)).expect("it fits");
    [read, kept].iter().for_each(|ticket| shelf.release(*ticket));
    assert_eq!(shelf.usage(), (1, 8));
    assert!(shelf.read(ticket));
    assert_eq!(settle(&mut shelf), [(Ended { ticket, succeeded: true }, bytes(3000, 3))]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is written, asked for and released while commands end in any order: what comes is what was written, each
    /// question is answered once, and no page and no buffer is lost.
    #[test]
    fn what_comes_is_what_was_written(steps in prop::collection::vec((0u8..8, 0usize..20_000), 1..300)) {
        let mut shelf = shelf(96);
        let mut kept: BTreeMap<Ticket, Vec<u8>> = BTreeMap::new();
        let mut asked: BTreeMap<Ticket, Option<Vec<u8>>> = BTreeMap::new();
        let mut value = Vec::new();
        for (at, (what, number)) in steps.into_iter().enumerate() {
            let nth = kept.keys().nth(number % kept.len().max(1)).copied();
            match (what, nth) {
                (0..=2, _) => {
                    let length = if number % 3 == 0 { number } else { number % 900 };
                    let new = bytes(length, at);
                    let room = shelf.room();
                    match put(&mut shelf, &new) {
                        Some(ticket) => prop_assert!(kept.insert(ticket, new).is_none() && !asked.contains_key(&ticket)),
                        None => prop_assert!(room < length.max(1) + PAGE_BYTES),
                    }
                }
                (3, Some(ticket)) => {
                    shelf.release(ticket);
                    kept.remove(&ticket);
                    asked.entry(ticket).and_modify(|expected| *expected = None);
                }
                (4 | 5, Some(ticket)) if !asked.contains_key(&ticket) && shelf.read(ticket) => {
                    asked.insert(ticket, Some(kept[&ticket].clone()));
                }
                (6, _) => shelf.disk.as_mut().expect("a disk").holds = number % 3 == 0,
                _ => shelf.turn(at as u64 + 1),
            }
            while let Some(ended) = shelf.ended(&mut value) {
                let expected = asked.remove(&ended.ticket).expect("it was asked for");
                // Of a value that was released meanwhile nobody looks at the bytes.
                if let Some(expected) = expected {
                    prop_assert!(ended.succeeded && value == expected);
                }
            }
        }
        shelf.disk.as_mut().expect("a disk").holds = false;
        settle(&mut shelf).iter().for_each(|(ended, _)| { asked.remove(&ended.ticket); });
        prop_assert!(asked.is_empty());
        kept.keys().for_each(|ticket| shelf.release(*ticket));
        settle(&mut shelf);
        let open = usize::from(shelf.open.is_some());
        prop_assert_eq!((shelf.usage(), shelf.buffers.len()), ((open, 96), MOST_BUFFERS - open));
    }
}
