//! Records what memcached answers: `record PORT FILE...` sends the requests of each file to the memcached there and
//! writes its answers into the file. `record new SEED COUNT` prints a file of random requests.
//!
//! The answers contain CAS unique values, so every file needs a memcached that was just started, for instance:
//! `memcached -l 127.0.0.1 -p 22122 -U 0 & cargo run -p kv-engine --example record 22122 FILE`.

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use std::{env, fs, io, thread};

use common::golden::{Step, parse, print};
use common::random::Random;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_millis(100);

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["new", seed, count] => {
            let mut random = Random(seed.parse().map_err(io::Error::other)?);
            let commands = (0..count.parse().map_err(io::Error::other)?).map(|_| random.command());
            let exchange = |command| Step::Exchange { request: lines(command), answer: Vec::new(), closed: false };
            let steps: Vec<Step> =
                commands.map(exchange).flat_map(|step| [step, Step::Comment(String::new())]).collect();
            print!("{}", print(&steps));
            Ok(())
        }
        [port, ref files @ ..] if !files.is_empty() => files.iter().try_for_each(|file| record(port, file)),
        _ => Err(io::Error::other("record PORT FILE..., or record new SEED COUNT")),
    }
}

fn lines(command: Vec<u8>) -> Vec<Vec<u8>> {
    command.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

fn connect(port: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port.parse().map_err(io::Error::other)?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn record(port: &str, file: &str) -> io::Result<()> {
    let mut steps = parse(&fs::read_to_string(file)?);
    let mut stream = connect(port)?;
    for step in &mut steps {
        match step {
            Step::Comment(_) => {}
            Step::Wait(seconds) => thread::sleep(Duration::from_secs(*seconds)),
            Step::Exchange { request, answer, closed } => {
                stream.write_all(&request.concat())?;
                (*answer, *closed) = read_answer(&mut stream)?;
                if *closed {
                    stream = connect(port)?;
                }
            }
        }
    }
    fs::write(file, print(&steps))
}

/// Reads until nothing comes any more. Says if the connection was closed.
fn read_answer(stream: &mut TcpStream) -> io::Result<(Vec<u8>, bool)> {
    let (mut answer, mut buffer) = (Vec::new(), [0; 65536]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok((answer, true)),
            Ok(length) => answer.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok((answer, false)),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok((answer, true)),
            Err(error) => return Err(error),
        }
    }
}
