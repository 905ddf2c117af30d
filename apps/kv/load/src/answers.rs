//! The answers of one server to `get` of one key each, in the order of the requests.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec::Vec;

use crate::keys;

/// What a server has answered so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Values that were the right ones.
    pub hits: u64,
    /// Keys that the server did not have.
    pub misses: u64,
    /// Answers that were neither, after which nothing that the server says is understood any more.
    pub wrong: u64,
}

/// Takes answers in as they arrive, in pieces of any size.
#[derive(Debug)]
pub struct Answers {
    value_bytes: usize,
    /// Keys that were asked for and are not answered.
    asked: VecDeque<u64>,
    /// The beginning of the next answer.
    received: Vec<u8>,
    /// What was answered.
    pub tally: Tally,
}

impl Answers {
    /// Nothing asked yet; values have so many bytes.
    pub fn new(value_bytes: usize) -> Answers {
        Answers { value_bytes, asked: VecDeque::new(), received: Vec::new(), tally: Tally::default() }
    }

    /// A key was asked for.
    pub fn ask(&mut self, key: u64) {
        self.asked.push_back(key);
    }

    /// Requests that are not answered.
    pub fn waiting(&self) -> usize {
        self.asked.len()
    }

    /// Forgets what was asked, as when the connection is gone.
    pub fn forget(&mut self) {
        self.asked.clear();
        self.received.clear();
    }

    /// Takes bytes in. Keys that the server does not have are added to `missing`.
    pub fn take(&mut self, bytes: &[u8], missing: &mut Vec<u64>) {
        self.received.extend_from_slice(bytes);
        let mut done = 0;
        while let Some(rest) = self.received.get(done..).filter(|rest| !rest.is_empty()) {
            const MISS: &[u8] = b"END\r\n";
            let hit = self.asked.front().map(|&key| (key, expected(key, self.value_bytes)));
            let (key, length) = match hit {
                Some((key, _)) if rest.starts_with(MISS) => {
                    self.tally.misses += 1;
                    missing.push(key);
                    (key, MISS.len())
                }
                Some((key, hit)) if rest.starts_with(&hit) => {
                    self.tally.hits += 1;
                    (key, hit.len())
                }
                // It may become either.
                Some((_, hit)) if hit.starts_with(rest) || MISS.starts_with(rest) => break,
                _ => {
                    self.tally.wrong += 1;
                    return self.forget();
                }
            };
            debug_assert_eq!(self.asked.front(), Some(&key));
            self.asked.pop_front();
            done += length;
        }
        self.received.drain(..done);
    }
}

/// The answer to a request for a key that the server has.
fn expected(key: u64, value_bytes: usize) -> Vec<u8> {
    let mut answer = format!("VALUE {} 0 {value_bytes}\r\n", keys::name(key)).into_bytes();
    answer.extend(keys::value(key, value_bytes));
    answer.extend(b"\r\nEND\r\n");
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn answers_are_understood_however_they_are_cut() {
        let mut text = expected(5, 40);
        text.extend(b"END\r\n");
        text.extend(expected(7, 40));
        for piece in 1..text.len() {
            let mut answers = Answers::new(40);
            [5, 6, 7].iter().for_each(|&key| answers.ask(key));
            let mut missing = Vec::new();
            text.chunks(piece).for_each(|bytes| answers.take(bytes, &mut missing));
            assert_eq!((answers.tally, answers.waiting()), (Tally { hits: 2, misses: 1, wrong: 0 }, 0));
            assert_eq!(missing, vec![6]);
        }
    }

    #[test]
    fn whatever_is_not_right_is_wrong() {
        let right = expected(5, 40);
        for at in 0..right.len() {
            let mut text = right.clone();
            text[at] ^= 1;
            let mut answers = Answers::new(40);
            answers.ask(5);
            answers.take(&text, &mut Vec::new());
            assert_eq!((answers.tally.hits, answers.tally.wrong), (0, 1), "byte {at}");
        }
        let mut answers = Answers::new(40);
        answers.take(b"END\r\n", &mut Vec::new());
        assert_eq!(answers.tally.wrong, 1, "nobody asked");
        answers.ask(6);
        answers.take(&right, &mut Vec::new());
        assert_eq!(answers.tally.wrong, 2, "another key");
    }
}
