//! The line protocol of QEMU's device test server.

use crate::LIMIT;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

/// The connection; answers come in the order of commands.
#[derive(Debug)]
pub(crate) struct Qtest {
    stream: BufReader<UnixStream>,
}

impl Qtest {
    pub fn new(stream: UnixStream) -> Qtest {
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout can be set");
        Qtest { stream: BufReader::new(stream) }
    }

    /// Sends a command and returns what comes behind `OK`.
    ///
    /// # Panics
    /// When the emulator is gone or does not like the command.
    pub fn command(&mut self, command: &str) -> String {
        let stream = self.stream.get_mut();
        stream.write_all(format!("{command}\n").as_bytes()).expect("the emulator is there");
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("the emulator answers");
        let answer = line.trim_end().strip_prefix("OK").unwrap_or_else(|| panic!("{command}: {line}"));
        answer.trim_start().to_string()
    }
}
