//! Files of requests and the answers that memcached gave.
//!
//! Lines: `> ` a request, `< ` its answer, `~ ` seconds to wait, `! ` the connection was closed; `#` begins a comment.
//! Consecutive lines of requests are sent at once, up to the answer. Bytes that can't be printed are escaped as in Rust.

use std::fmt::Write;

/// A step of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Comment(String),
    Wait(u64),
    Exchange { request: Vec<Vec<u8>>, answer: Vec<u8>, closed: bool },
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next() {
                Some(b'r') => b'\r',
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'x') => {
                    let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16)).expect("a digit");
                    (digit() * 16 + digit()) as u8
                }
                Some(other) => other,
                None => panic!("an escape without end"),
            },
            _ => byte,
        });
    }
    bytes
}

fn escape(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Reads a file.
pub fn parse(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix('#') {
            steps.push(Step::Comment(comment.to_owned()));
        } else if let Some(seconds) = line.strip_prefix("~ ") {
            steps.push(Step::Wait(seconds.parse().expect("seconds")));
        } else if let Some(text) = line.strip_prefix("> ") {
            match steps.last_mut() {
                Some(Step::Exchange { request, answer, closed: false }) if answer.is_empty() => {
                    request.push(unescape(text));
                }
                _ => steps.push(Step::Exchange { request: vec![unescape(text)], answer: Vec::new(), closed: false }),
            }
        } else if let Some(Step::Exchange { answer, closed, .. }) = steps.last_mut() {
            match line.strip_prefix("< ") {
                Some(text) => answer.extend(unescape(text)),
                None if line.starts_with('!') => *closed = true,
                None => assert!(line.is_empty(), "{line}"),
            }
        }
    }
    steps
}

/// Writes a file.
pub fn print(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        match step {
            Step::Comment(comment) => writeln!(text, "#{comment}"),
            Step::Wait(seconds) => writeln!(text, "~ {seconds}"),
            Step::Exchange { request, answer, closed } => {
                request.iter().for_each(|line| writeln!(text, "> {}", escape(line)).expect("a string"));
                for line in answer.split_inclusive(|byte| *byte == b'\n') {
                    writeln!(text, "< {}", escape(line)).expect("a string");
                }
                writeln!(text, "{}", if *closed { "!" } else { "" })
            }
        }
        .expect("a string takes everything");
    }
    text
}

/// What numbers begin with that may differ.
const HIDDEN: [&[u8]; 6] = [b"cls=", b"size=", b"exp=-", b"la=", b"t", b"l"];

/// Takes out what may differ: classes and sizes that `me` tells, and times left, as memcached's own time went on while it
/// was asked.
pub fn mask(answer: &[u8]) -> Vec<u8> {
    let mut masked = Vec::new();
    for line in answer.split_inclusive(|byte| *byte == b'\n') {
        let has_flags = [&b"ME "[..], b"HD ", b"VA "].iter().any(|start| line.starts_with(start));
        for (number, word) in line.split_inclusive(|byte| *byte == b' ').enumerate() {
            let differs = |start: &[u8]| {
                word.strip_prefix(start).is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit))
            };
            let hide = HIDDEN.iter().find(|start| differs(start));
            match hide.filter(|_| has_flags && number > 0 && word != b"exp=-1 ") {
                Some(start) => {
                    masked.extend_from_slice(start);
                    masked.extend(word.iter().filter(|byte| byte.is_ascii_whitespace()));
                }
                None => masked.extend_from_slice(word),
            }
        }
    }
    masked
}
