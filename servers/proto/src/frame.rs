//! Frames on a serial line: `N` `K`, length (u32, little-endian), payload, CRC-32 of the payload.
//!
//! A reader resynchronises at the next magic after any damage; a frame longer than [`crate::MAX_MESSAGE`] is damage.

use alloc::vec::Vec;
use serde::{Serialize, de::DeserializeOwned};

/// First bytes of a frame.
pub const MAGIC: [u8; 2] = *b"NK";
/// Bytes before the payload.
pub const HEADER: usize = 6;
/// Bytes after the payload.
pub const TRAILER: usize = 4;

/// CRC-32 (IEEE 802.3, reflected).
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| (crc >> 8) ^ CRC_TABLE[((crc ^ byte as u32) & 0xff) as usize])
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xedb8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
};

/// A message as a frame. `None` if it is longer than [`crate::MAX_MESSAGE`].
pub fn encode<T: Serialize>(message: &T) -> Option<Vec<u8>> {
    let payload = postcard::to_allocvec(message).ok()?;
    if payload.len() > crate::MAX_MESSAGE {
        return None;
    }
    let mut frame = Vec::with_capacity(HEADER + payload.len() + TRAILER);
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    frame.extend_from_slice(&payload);
    frame.extend_from_slice(&crc32(&payload).to_le_bytes());
    Some(frame)
}

/// Takes frames out of a stream of bytes that arrives in pieces.
#[derive(Default, Debug)]
pub struct Reader {
    buffer: Vec<u8>,
    damaged: u64,
}

impl Reader {
    /// A reader at the start of a stream.
    pub fn new() -> Reader {
        Reader::default()
    }

    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Frames or bytes that were skipped because they were damaged.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// The next whole message, if there is one.
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Option<T> {
        loop {
            let start = self.buffer.windows(MAGIC.len()).position(|pair| pair == MAGIC);
            let Some(start) = start else {
                // A last byte may be the first half of a magic.
                let keep = usize::from(self.buffer.last() == Some(&MAGIC[0]));
                let skipped = self.buffer.len() - keep;
                self.damaged += skipped as u64;
                self.buffer.drain(..skipped);
                return None;
            };
            if start > 0 {
                self.damaged += start as u64;
                self.buffer.drain(..start);
            }
            let length: [u8; 4] = self.buffer.get(2..HEADER)?.try_into().ok()?;
            let length = u32::from_le_bytes(length) as usize;
            if length > crate::MAX_MESSAGE {
                self.damaged += 1;
                self.buffer.drain(..1);
                continue;
            }
            let frame = self.buffer.get(..HEADER + length + TRAILER)?;
            let (payload, crc) = frame[HEADER..].split_at(length);
            let message = if crc == crc32(payload).to_le_bytes() { postcard::from_bytes(payload).ok() } else { None };
            match message {
                Some(message) => {
                    self.buffer.drain(..HEADER + length + TRAILER);
                    return Some(message);
                }
                None => {
                    self.damaged += 1;
                    self.buffer.drain(..1);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Command;

    #[test]
    fn crc_of_the_check_string() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_frame_survives_pieces_and_damage_before_it() {
        let command = Command::Valuation { app: 3, ppm: 2_000_000 };
        let frame = encode(&command).unwrap();
        let mut reader = Reader::new();
        reader.push(b"xxN");
        reader.push(b"K\xff\xff\xff\xff");
        assert_eq!(reader.next_message::<Command>(), None);
        for byte in &frame {
            reader.push(&[*byte]);
        }
        assert_eq!(reader.next_message(), Some(command));
        assert!(reader.damaged() > 0);
        assert_eq!(reader.next_message::<Command>(), None);
    }

    #[test]
    fn a_flipped_bit_is_never_a_message() {
        let frame = encode(&Command::Kill { app: 7 }).unwrap();
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut reader = Reader::new();
            reader.push(&bad);
            assert_eq!(reader.next_message::<Command>(), None, "bit {bit}");
        }
    }
}
