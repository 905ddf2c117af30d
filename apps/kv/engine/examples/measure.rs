//! Work for counting instructions: `measure get|set|pipeline COUNT` does so many operations on 100-byte values of 10,000
//! keys. Run it with two counts under `valgrind --tool=callgrind`; the difference is the operations' own.

#[path = "../tests/common/mod.rs"]
mod common;

use std::{env, io};

use common::{START, store};
use kv_engine::{Connection, Output};

/// Takes everything, as a transmit buffer would.
struct Buffer {
    bytes: [u8; 1 << 14],
    length: usize,
}

impl Output for Buffer {
    fn room(&self) -> usize {
        self.bytes.len() - self.length
    }

    fn write(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [what, count] = &arguments[..] else { return Err(io::Error::other("measure get|set|pipeline COUNT")) };
    let count: usize = count.parse().map_err(io::Error::other)?;
    let mut store = store(1000);
    let mut connection = Connection::new(&mut store);
    let mut output = Buffer { bytes: [0; 1 << 14], length: 0 };
    let value = "v".repeat(100);
    let sets: Vec<String> = (0..10_000).map(|key| format!("set key:{key:08} 0 0 100\r\n{value}\r\n")).collect();
    let gets: Vec<String> = (0..10_000).map(|key| format!("get key:{key:08}\r\n")).collect();
    let pipelines: Vec<String> = gets.chunks(32).map(|gets| gets.concat()).collect();
    for set in &sets {
        connection.receive(&mut store, START, set.as_bytes(), &mut output);
        output.length = 0;
    }
    let requests = match what.as_str() {
        "get" => &gets,
        "set" => &sets,
        _ => &pipelines,
    };
    for request in requests.iter().cycle().take(count) {
        connection.receive(&mut store, START, request.as_bytes(), &mut output);
        output.length = 0;
    }
    println!("{} bytes written", store.counters().bytes_written);
    connection.close(&mut store);
    Ok(())
}
