//! Messages: frames on a serial line, and what is in them, in rings and on start-up pages.

use crate::{Checked, Target, ensure};
use proto::console::{FromConsole, ToConsole};
use proto::frame::{self, Reader, crc32};
use proto::host::{Command, Record};
use proto::market::{FromMarket, Request};
use proto::nic::{FromNic, ToNic};
use proto::plan::Plan;
use proto::start::Start;
use proto::storage::{FromStorage, ToStorage};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A stream of bytes. Bit 0 of the first one: sums of frames are made right.
pub const FRAMES: Target = Target {
    name: "frames",
    about: "Frames of commands on a serial line: what is taken has its sum right, whatever the pieces in which it comes.",
    check: |input| frames(input, Reader::push),
    twin: |input| {
        frames(input, |reader, piece| {
            // A reader that forgets the half of a frame that it has.
            *reader = Reader::new();
            reader.push(piece);
        })
    },
    seeds: frame_seeds,
    inputs: 20_000,
};

/// The kind of message, and its bytes.
pub const MESSAGES: Target = Target {
    name: "messages",
    about: "Every kind of message: what is decoded is encoded in as many bytes or fewer, and decoded as the same again.",
    check: |input| messages(input, |encoded| encoded),
    twin: |input| {
        messages(input, |mut encoded| {
            encoded.pop();
            encoded
        })
    },
    seeds: message_seeds,
    inputs: 40_000,
};

/// All commands that a reader takes out of pieces of a stream.
fn taken(stream: &[u8], piece: usize, push: impl Fn(&mut Reader, &[u8])) -> Vec<Command> {
    let mut reader = Reader::new();
    let mut found = Vec::new();
    for piece in stream.chunks(piece) {
        push(&mut reader, piece);
        found.extend(std::iter::from_fn(|| reader.next_message::<Command>()));
    }
    found
}

fn frames(input: &[u8], push: impl Fn(&mut Reader, &[u8])) -> Checked {
    let Some((&flags, stream)) = input.split_first() else { return Ok(()) };
    let mut stream = stream.to_vec();
    if flags & 1 != 0 {
        make_sums_right(&mut stream);
    }
    let whole = taken(&stream, stream.len().max(1), Reader::push);
    let pieces = 1 + usize::from(flags >> 1 & 31);
    let found = taken(&stream, pieces, push);
    ensure(found == whole, || format!("in pieces of {pieces}: {found:?}, in one: {whole:?}"))?;
    let frames = payloads(&stream).filter(|payload| has_right_sum(&stream, payload)).count();
    ensure(whole.len() <= frames, || format!("{} messages out of {frames} frames with a right sum", whole.len()))
}

/// Where payloads would be: behind each magic whose length is in the stream.
fn payloads(stream: &[u8]) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..stream.len()).filter_map(|at| {
        let head = stream.get(at..at + frame::HEADER).filter(|head| head.starts_with(&frame::MAGIC))?;
        let length = u32::from_le_bytes(head[2..].try_into().ok()?) as usize;
        let start = at + frame::HEADER;
        let end = start.checked_add(length).filter(|end| end + frame::TRAILER <= stream.len())?;
        Some(start..end)
    })
}

fn has_right_sum(stream: &[u8], payload: &std::ops::Range<usize>) -> bool {
    stream[payload.end..].starts_with(&crc32(&stream[payload.clone()]).to_le_bytes())
}

fn make_sums_right(stream: &mut [u8]) {
    let found: Vec<_> = payloads(stream).collect();
    for payload in found {
        let sum = crc32(&stream[payload.clone()]).to_le_bytes();
        stream[payload.end..payload.end + frame::TRAILER].copy_from_slice(&sum);
    }
}

fn round<T: Serialize + DeserializeOwned>(bytes: &[u8], sent: impl Fn(Vec<u8>) -> Vec<u8>) -> Checked {
    let Ok((message, rest)) = postcard::take_from_bytes::<T>(bytes) else { return Ok(()) };
    let used = bytes.len() - rest.len();
    let encode = |message: &T| postcard::to_allocvec(message).map_err(|error| format!("not encoded again: {error}"));
    let encoded = encode(&message)?;
    ensure(encoded.len() <= used, || format!("{} bytes out of {used}", encoded.len()))?;
    let again: T =
        postcard::from_bytes(&sent(encoded.clone())).map_err(|error| format!("not decoded again: {error}"))?;
    ensure(encode(&again)? == encoded, || "decoded as something else".into())
}

fn messages(input: &[u8], sent: impl Fn(Vec<u8>) -> Vec<u8>) -> Checked {
    let Some((&kind, bytes)) = input.split_first() else { return Ok(()) };
    match kind % 12 {
        0 => round::<Command>(bytes, sent),
        1 => round::<Record>(bytes, sent),
        2 => round::<ToConsole>(bytes, sent),
        3 => round::<FromConsole>(bytes, sent),
        4 => round::<Request>(bytes, sent),
        5 => round::<FromMarket>(bytes, sent),
        6 => round::<ToNic>(bytes, sent),
        7 => round::<FromNic>(bytes, sent),
        8 => round::<ToStorage>(bytes, sent),
        9 => round::<FromStorage>(bytes, sent),
        10 => round::<Plan>(bytes, sent),
        _ => round::<Start>(bytes, sent),
    }
}

fn frame_seeds() -> Vec<Vec<u8>> {
    let commands = [Command::Kill { app: 7 }, Command::Valuation { app: 3, ppm: 2_000_000 }];
    let frames = commands.iter().filter_map(frame::encode).collect::<Vec<_>>().concat();
    vec![[&[8][..], &frames].concat(), [&[9][..], b"NKxN", &frames].concat()]
}

/// Short inputs of every kind and variant: enough to be decoded where numbers are small.
fn message_seeds() -> Vec<Vec<u8>> {
    let input = |kind: u8, variant: u8| [&[kind, variant][..], &[1; 60]].concat();
    (0..12).flat_map(|kind| (0..6).map(move |variant| input(kind, variant * 3))).collect()
}
