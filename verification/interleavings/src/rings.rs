//! The message ring between two VMs (`userlib/src/ring.rs`): the code as it is, over memory under loom. A mistake is memory
//! that forgets an ordering which the ring asks for, as a ring that does not ask would have it.

use crate::{Mistake, Run, every_order};
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;
use std::sync::Arc;
use userlib::ring::{Consumer, DATA, Producer, RingError, Wake};
use userlib::shared::Words;

/// The ring as it is.
pub const RUNS: [Run; 3] = [
    ("two messages through a ring that wraps", || every_order(|| in_order(Forgets::Nothing)), 30),
    ("a consumer that goes to sleep", || every_order(|| consumer_sleeps(Forgets::Nothing)), 10),
    ("a producer that goes to sleep", || every_order(|| producer_sleeps(Forgets::Nothing)), 10),
];

/// With mistakes.
pub const MISTAKES: [Mistake; 4] = [
    ("a message published without release", || every_order(|| in_order(Forgets::Release))),
    ("a position read without acquire", || every_order(|| in_order(Forgets::Acquire))),
    ("a consumer announces its sleep without a fence", || every_order(|| consumer_sleeps(Forgets::Fence))),
    ("a producer announces its sleep without a fence", || every_order(|| producer_sleeps(Forgets::Fence))),
];

/// An ordering that the memory forgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forgets {
    /// None.
    Nothing,
    /// What was written before a position is published is seen with it.
    Release,
    /// Who sees a position sees what was written before it.
    Acquire,
    /// Stores before a fence are seen by loads after it.
    Fence,
}

#[derive(Clone)]
struct Memory {
    words: Arc<Vec<AtomicU64>>,
    forgets: Forgets,
}

impl Memory {
    /// An empty ring with room for so many words.
    fn ring(words: usize, forgets: Forgets) -> Memory {
        Memory { words: Arc::new((0..DATA + words).map(|_| AtomicU64::new(0)).collect()), forgets }
    }

    fn order(&self, asked: Ordering) -> Ordering {
        match (asked, self.forgets) {
            (Ordering::Release, Forgets::Release) | (Ordering::Acquire, Forgets::Acquire) => Ordering::Relaxed,
            _ => asked,
        }
    }
}

impl Words for Memory {
    fn len(&self) -> usize {
        self.words.len()
    }
    fn load(&self, index: usize, order: Ordering) -> u64 {
        self.words[index].load(self.order(order))
    }
    fn store(&self, index: usize, value: u64, order: Ordering) {
        self.words[index].store(value, self.order(order));
    }
    fn swap(&self, index: usize, value: u64) -> u64 {
        self.words[index].swap(value, Ordering::SeqCst)
    }
    fn fence(&self) {
        if self.forgets != Forgets::Fence {
            fence(Ordering::SeqCst);
        }
    }
}

/// A message is seen whole and in its turn, also where the ring wraps.
fn in_order(forgets: Forgets) {
    let memory = Memory::ring(2, forgets);
    let mut consumer = Consumer::new(memory.clone());
    let sender = thread::spawn(move || {
        let mut producer = Producer::new(memory);
        assert!(producer.send(&[1, 2, 3, 4, 5, 6, 7]).is_ok());
        let second = producer.send(&[8]);
        assert!(matches!(second, Ok(_) | Err(RingError::Full)));
        second.is_ok()
    });
    let mut received = Vec::new();
    let mut buffer = [0; 16];
    for _ in 0..2 {
        if let Some((length, _)) = consumer.receive(&mut buffer).expect("an honest peer") {
            received.push(buffer[..length].to_vec());
        }
    }
    let second = sender.join().unwrap();
    while let Some((length, _)) = consumer.receive(&mut buffer).expect("an honest peer") {
        received.push(buffer[..length].to_vec());
    }
    assert_eq!(received[0], [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(received.len(), 1 + usize::from(second));
    assert!(!second || received[1] == [8]);
}

/// A consumer that announces its sleep either sees the message or is woken.
fn consumer_sleeps(forgets: Forgets) {
    let memory = Memory::ring(2, forgets);
    let mut consumer = Consumer::new(memory.clone());
    let sender = thread::spawn(move || Producer::new(memory).send(&[1]));
    let sleeps = consumer.announce_sleep().expect("an honest peer");
    let wake = sender.join().unwrap().expect("there is room");
    assert!(!sleeps || wake == Wake::Peer, "asleep for ever");
}

/// A producer that waits for room either finds it or is woken.
fn producer_sleeps(forgets: Forgets) {
    let memory = Memory::ring(1, forgets);
    let mut producer = Producer::new(memory.clone());
    assert_eq!(producer.send(&[1]), Ok(Wake::Nobody));
    let receiver = thread::spawn(move || {
        let mut buffer = [0; 8];
        Consumer::new(memory).receive(&mut buffer)
    });
    let sleeps = producer.announce_sleep(1).expect("an honest peer");
    let (_, wake) = receiver.join().unwrap().expect("an honest peer").expect("one message");
    assert!(!sleeps || wake == Wake::Peer, "asleep for ever");
}
