//! The flags of meta commands: letters, some with a token behind them.

use crate::base64;
use crate::entries::Marks;
use crate::store::MOST_KEY_BYTES;
use crate::text::{self, Words};
use crate::time::{Clock, Second};

/// Bytes of an opaque token at most, with its letter (proto_text.c, `MFLAG_MAX_OPAQUE_LENGTH`).
pub(crate) const MOST_OPAQUE: usize = 32;

pub(super) const OPAQUE_TOO_LONG: &[u8] = b"CLIENT_ERROR opaque token too long\r\n";
const BAD_TOKEN: &[u8] = b"CLIENT_ERROR bad token in command line format\r\n";

/// Room for a key that is decoded from base64.
pub(super) struct KeyBuffer([u8; MOST_KEY_BYTES]);

impl KeyBuffer {
    pub fn new() -> KeyBuffer {
        KeyBuffer([0; MOST_KEY_BYTES])
    }

    pub fn decode(&mut self, text: &[u8]) -> Option<&[u8]> {
        let length = self.fill(text)?;
        self.0.get(..length)
    }

    /// Decodes a key, which is not empty, and gives its length.
    fn fill(&mut self, text: &[u8]) -> Option<usize> {
        base64::decode(text, &mut self.0).filter(|length| *length > 0)
    }
}

/// What the flags of a command say. The letters are told in protocol.txt; those without a field here are asked for in
/// the order of the line.
#[derive(Debug)]
pub(super) struct Flags<'a> {
    words: &'a [&'a [u8]],
    /// `b`
    pub binary: bool,
    /// `N`
    pub vivify: Option<Second>,
    /// `T`
    pub ttl: Option<Second>,
    /// `R`
    pub recache: Option<Second>,
    /// `v`
    pub value: bool,
    /// `u`
    pub no_update: bool,
    /// `q`
    pub quiet: bool,
    /// `x`
    pub no_value: bool,
    /// `I`
    pub stale: bool,
    /// `F`
    pub client_flags: u32,
    /// `C`
    pub cas: Option<u64>,
    /// `E`
    pub explicit: Option<u64>,
    /// `M`
    pub mode: Option<u8>,
    /// `J`
    pub initial: u64,
    /// `D`
    pub delta: Option<u64>,
}

impl<'a> Flags<'a> {
    /// Reads the flags from word `first` on, and the key, which is the word 1.
    ///
    /// # Errors
    /// The line that says what is wrong. When several flags are wrong it is the last one, as in memcached.
    pub fn read(
        words: &'a Words,
        first: usize,
        clock: &Clock,
        buffer: &'a mut KeyBuffer,
    ) -> Result<(Flags<'a>, &'a [u8]), &'static [u8]> {
        let mut flags = Flags {
            words: words.from(first),
            binary: false,
            vivify: None,
            ttl: None,
            recache: None,
            value: false,
            no_update: false,
            quiet: false,
            no_value: false,
            stale: false,
            client_flags: 0,
            cas: None,
            explicit: None,
            mode: None,
            initial: 0,
            delta: None,
        };
        let mut decoded = None;
        let mut seen = 0u128;
        let mut error = None;
        for word in flags.words {
            let Some((&letter, token)) = word.split_first() else { continue };
            if letter >= 127 || seen >> letter & 1 == 1 {
                return Err(b"CLIENT_ERROR duplicate flag\r\n");
            }
            seen |= 1 << letter;
            let second = || text::signed32(token).map(|exptime| clock.expiry(exptime)).ok_or(BAD_TOKEN);
            let number = |error| text::unsigned(token).ok_or(error);
            let result = match letter {
                b'b' => {
                    flags.binary = true;
                    decoded = buffer.fill(words.get(1));
                    decoded.map(|_| ()).ok_or(&b"CLIENT_ERROR error decoding key\r\n"[..])
                }
                b'N' => second().map(|second| flags.vivify = Some(second)),
                b'T' => second().map(|second| flags.ttl = Some(second)),
                b'R' => second().map(|second| flags.recache = Some(second)),
                b'v' => {
                    flags.value = true;
                    Ok(())
                }
                b'u' => {
                    flags.no_update = true;
                    Ok(())
                }
                b'q' => {
                    flags.quiet = true;
                    Ok(())
                }
                b'x' => {
                    flags.no_value = true;
                    Ok(())
                }
                b'I' => {
                    flags.stale = true;
                    Ok(())
                }
                b'F' => text::unsigned32(token)
                    .map(|value| flags.client_flags = value)
                    .ok_or(error.unwrap_or(super::BAD_FORMAT)),
                b'C' => number(BAD_TOKEN).map(|cas| flags.cas = Some(cas)),
                // As in memcached, 0 is none.
                b'E' => number(BAD_TOKEN).map(|cas| flags.explicit = Some(cas).filter(|cas| *cas != 0)),
                b'J' => number(b"CLIENT_ERROR invalid numeric initial value\r\n").map(|value| flags.initial = value),
                b'D' => number(b"CLIENT_ERROR invalid numeric delta value\r\n").map(|value| flags.delta = Some(value)),
                b'M' => match token {
                    [mode] => {
                        flags.mode = Some(*mode);
                        Ok(())
                    }
                    _ => Err(&b"CLIENT_ERROR incorrect length for M token\r\n"[..]),
                },
                b'l' | b'O' | b'P' | b'L' | b'k' | b's' | b't' | b'c' | b'f' | b'h' => Ok(()),
                _ => return Err(b"CLIENT_ERROR invalid flag\r\n"),
            };
            error = result.err().or(error);
        }
        match error {
            Some(error) => Err(error),
            None => Ok((flags, decoded.and_then(|length| buffer.0.get(..length)).unwrap_or(words.get(1)))),
        }
    }

    /// The flags, in the order of the line. None is empty.
    pub fn words(&self) -> impl Iterator<Item = &'a [u8]> {
        self.words.iter().copied().filter(|word| !word.is_empty())
    }

    /// What an item is marked with that is made under the key.
    pub fn key_marks(&self) -> Marks {
        if self.binary { Marks::BINARY } else { Marks::default() }
    }

    pub fn opaque_is_too_long(&self) -> bool {
        self.words().any(|flag| flag[0] == b'O' && flag.len() > MOST_OPAQUE)
    }
}
