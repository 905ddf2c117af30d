//! A client of memcached's text protocol, for tests that look at every answer, and one that asks all the time.

use crate::random_numbers;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client on the host.
pub struct Client(BufReader<TcpStream>);

impl Client {
    /// Connects to a port of the loopback address.
    ///
    /// # Panics
    /// When nobody listens there; all other methods do when the connection breaks or an answer makes no sense.
    pub fn connect(port: u16) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the emulator listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_nodelay(true).expect("it can be set");
        Client(BufReader::new(stream))
    }

    /// Sends bytes.
    pub fn say(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("the connection is there");
    }

    /// The next line of an answer, with its end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("an answer comes");
        line
    }

    /// Sends bytes and takes a line.
    pub fn ask(&mut self, bytes: &[u8]) -> String {
        self.say(bytes);
        self.line()
    }

    /// What is stored, if anything is.
    pub fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        self.say(format!("get {key}\r\n").as_bytes());
        self.value(key)
    }

    /// The numbers among the general statistics, by their names.
    pub fn statistics(&mut self) -> BTreeMap<String, u64> {
        self.say(b"stats\r\n");
        let mut found = BTreeMap::new();
        loop {
            let line = self.line();
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["STAT", name, value] => drop(value.parse().map(|value| found.insert(name.to_string(), value))),
                _ => return found,
            }
        }
    }

    /// The answer to a `get` of this key alone.
    pub fn value(&mut self, key: &str) -> Option<Vec<u8>> {
        let line = self.line();
        if line == "END\r\n" {
            return None;
        }
        let bytes = line.trim_end().strip_prefix(&format!("VALUE {key} 0 "));
        let bytes = bytes.unwrap_or_else(|| panic!("{line}")).parse().expect("a length");
        let mut value = vec![0; bytes];
        self.0.read_exact(&mut value).expect("the value comes");
        assert_eq!((self.line(), self.line()), ("\r\n".into(), "END\r\n".into()));
        Some(value)
    }
}

/// Requests of a [`Checker`] that are on their way at once.
const AT_ONCE: usize = 32;

/// What a [`Checker`] has seen.
#[derive(Default)]
struct Tally {
    hits: AtomicU64,
    misses: AtomicU64,
    is_over: AtomicBool,
}

/// A client that asks for keys at random, without a pause, by one connection, and stores what is missing, and some that are
/// not. Each answer is what was stored last under its key, or a miss.
pub struct Checker {
    tally: Arc<Tally>,
    thread: JoinHandle<()>,
}

impl Checker {
    /// Begins to ask for so many keys, whose values have so many bytes.
    pub fn start(port: u16, keys: u64, bytes: usize) -> Checker {
        let tally = Arc::new(Tally::default());
        let for_client = tally.clone();
        Checker { tally, thread: thread::spawn(move || ask_all_the_time(port, keys, bytes, &for_client)) }
    }

    /// Answers with a value so far.
    ///
    /// # Panics
    /// When it does not ask any more, as an answer was wrong, or did not come.
    pub fn hits(&self) -> u64 {
        assert!(!self.thread.is_finished(), "an answer was wrong, or none came");
        self.tally.hits.load(Ordering::Relaxed)
    }

    /// Answers without one so far.
    pub fn misses(&self) -> u64 {
        self.tally.misses.load(Ordering::Relaxed)
    }

    /// Asks no more.
    ///
    /// # Panics
    /// When an answer was wrong, or did not come.
    pub fn end(self) {
        self.tally.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("every answer was right");
    }
}

fn ask_all_the_time(port: u16, keys: u64, bytes: usize, tally: &Tally) {
    let mut client = Client::connect(port);
    let mut random = random_numbers(7);
    // How often each was stored: that is in its value, so that an old one is wrong.
    let mut stored = vec![0; keys as usize];
    while !tally.is_over.load(Ordering::Relaxed) {
        let asked: Vec<u64> = (0..AT_ONCE).map(|_| random(keys)).collect();
        asked.iter().for_each(|key| client.say(format!("get key{key}\r\n").as_bytes()));
        let mut to_store = vec![random(keys)];
        for key in asked {
            match client.value(&format!("key{key}")) {
                Some(found) => assert!(found == value(key, stored[key as usize], bytes), "key{key} is what was stored"),
                None => to_store.push(key),
            }
        }
        let misses = to_store.len() - 1;
        tally.hits.fetch_add((AT_ONCE - misses) as u64, Ordering::Relaxed);
        tally.misses.fetch_add(misses as u64, Ordering::Relaxed);
        for key in to_store {
            stored[key as usize] += 1;
            let line = format!("set key{key} 0 0 {bytes} noreply\r\n");
            client.say(&[line.as_bytes(), &value(key, stored[key as usize], bytes), b"\r\n"].concat());
        }
    }
}

/// What a [`Checker`] stores under a key when it does so for this time; no other key and no other time has the same.
fn value(key: u64, time: u64, bytes: usize) -> Vec<u8> {
    let text = format!("{key}.{time} ").into_bytes();
    text.into_iter().cycle().zip(0..bytes).map(|(letter, at)| letter.wrapping_add(at as u8)).collect()
}
