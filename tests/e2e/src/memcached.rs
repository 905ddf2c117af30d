//! A client of memcached's text protocol, for tests that look at every answer.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
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
