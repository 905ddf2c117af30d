//! Tests of the rings: order and contents, and peers that break every rule. Every interleaving of both sides is in
//! `verification/interleavings`.

use std::collections::VecDeque;
use std::rc::Rc;
use std::vec::Vec;

use core::cell::RefCell;
use proptest::prelude::*;

use super::*;

/// Memory of one thread, which the test can also write.
#[derive(Clone, Debug)]
struct Cells(Rc<RefCell<Vec<u64>>>);

impl Cells {
    fn new(words: usize) -> Cells {
        Cells(Rc::new(RefCell::new(std::vec![0; words])))
    }
}

impl Words for Cells {
    fn len(&self) -> usize {
        self.0.borrow().len()
    }
    fn load(&self, index: usize, _: Ordering) -> u64 {
        self.0.borrow()[index]
    }
    fn store(&self, index: usize, value: u64, _: Ordering) {
        self.0.borrow_mut()[index] = value;
    }
    fn swap(&self, index: usize, value: u64) -> u64 {
        core::mem::replace(&mut self.0.borrow_mut()[index], value)
    }
    fn fence(&self) {}
}

#[test]
fn an_empty_ring_gives_nothing_and_a_full_one_takes_nothing() {
    let memory = Cells::new(DATA + 4);
    let mut producer = Producer::new(memory.clone());
    let mut consumer = Consumer::new(memory);
    let mut buffer = [0; 64];
    assert_eq!(consumer.receive(&mut buffer), Ok(None));
    assert_eq!(producer.longest(), 30);
    assert_eq!(producer.send(&[7; 31]), Err(RingError::TooLong));
    for at in 0..4u8 {
        assert_eq!(producer.send(&[at; 6]), Ok(Wake::Nobody));
    }
    assert_eq!(producer.send(&[]), Err(RingError::Full));
    for at in 0..4u8 {
        assert_eq!(consumer.receive(&mut buffer), Ok(Some((6, Wake::Nobody))));
        assert_eq!(buffer[..6], [at; 6]);
    }
    assert_eq!(consumer.receive(&mut buffer), Ok(None));
    assert_eq!(producer.send(&[9; 30]), Ok(Wake::Nobody));
}

#[test]
fn a_sleeper_is_woken_once_and_nobody_else_ever() {
    let memory = Cells::new(DATA + 2);
    let mut producer = Producer::new(memory.clone());
    let mut consumer = Consumer::new(memory);
    let mut buffer = [0; 16];
    assert_eq!(consumer.announce_sleep(), Ok(true));
    assert_eq!(producer.send(&[1]), Ok(Wake::Peer));
    assert_eq!(producer.send(&[2]), Ok(Wake::Nobody));
    assert_eq!(consumer.announce_sleep(), Ok(false));
    assert_eq!(producer.announce_sleep(6), Ok(true));
    assert_eq!(consumer.receive(&mut buffer), Ok(Some((1, Wake::Peer))));
    assert_eq!(consumer.receive(&mut buffer), Ok(Some((1, Wake::Nobody))));
    assert_eq!(producer.announce_sleep(6), Ok(false));
}

proptest! {
    #[test]
    fn messages_arrive_whole_and_in_order(
        words in 1usize..40,
        steps in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..80)), 1..200),
    ) {
        let memory = Cells::new(DATA + words);
        let mut producer = Producer::new(memory.clone());
        let mut consumer = Consumer::new(memory);
        let mut expected = VecDeque::new();
        let mut used = 0;
        for step in steps {
            match step {
                Some(message) => {
                    let fits = used + words_of(message.len()) <= words as u64;
                    match producer.send(&message) {
                        Ok(Wake::Nobody) => {
                            prop_assert!(fits);
                            used += words_of(message.len());
                            expected.push_back(message);
                        }
                        Err(RingError::TooLong) => prop_assert!(message.len() > words * 8 - LENGTH_BYTES),
                        Err(RingError::Full) => prop_assert!(!fits),
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                None => {
                    let mut buffer = [0; 80];
                    let received = consumer.receive(&mut buffer).unwrap().map(|(length, _)| buffer[..length].to_vec());
                    prop_assert_eq!(&received, &expected.pop_front());
                    used -= received.map_or(0, |message| words_of(message.len()));
                }
            }
        }
    }

    /// Whatever a peer writes, whenever: messages of at most the agreed length, or `Corrupt` for good.
    #[test]
    fn a_hostile_peer_gets_no_further_than_corrupt(
        words in 1usize..20,
        steps in prop::collection::vec(
            (any::<bool>(), 0usize..40, prop_oneof![Just(0), Just(u64::MAX), 0u64..64, any::<u64>()]), 1..100),
    ) {
        let memory = Cells::new(DATA + words);
        let mut producer = Producer::new(memory.clone());
        let mut consumer = Consumer::new(memory.clone());
        let (mut send_broken, mut receive_broken) = (false, false);
        let mut buffer = [0; 24];
        for (send, at, value) in steps {
            memory.store(at % memory.len(), value, Ordering::Relaxed);
            if send {
                let result = producer.send(&buffer[..at.min(24)]);
                prop_assert!(!send_broken || result.is_err());
                send_broken |= result == Err(RingError::Corrupt);
                if send_broken {
                    prop_assert!(matches!(producer.announce_sleep(1), Err(RingError::Corrupt)));
                }
            } else {
                match consumer.receive(&mut buffer) {
                    Ok(Some((length, _))) => prop_assert!(!receive_broken && length <= buffer.len()),
                    Ok(None) => prop_assert!(!receive_broken),
                    Err(error) => {
                        prop_assert_eq!(error, RingError::Corrupt);
                        receive_broken = true;
                    }
                }
            }
        }
    }
}

/// Found by fuzzing: a message that fits by what was believed before is refused, too.
#[test]
fn a_short_message_is_refused_by_a_ring_that_a_longer_one_found_corrupt() {
    let memory = Cells::new(DATA + 4);
    let mut producer = Producer::new(memory.clone());
    assert!(producer.send(&[0; 14]).is_ok());
    memory.store(HEAD, 1 << 20, Ordering::Relaxed);
    assert_eq!(producer.send(&[0; 22]), Err(RingError::Corrupt));
    assert_eq!(producer.send(&[0; 1]), Err(RingError::Corrupt));
    assert_eq!(producer.leave(&[]), Err(RingError::Corrupt));
}
