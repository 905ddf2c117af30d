//! Where answers go.

use crate::text::{self, MOST_DIGITS};

/// Room that every output must have now and then, in bytes: no line of an answer is longer, and a command begins only when
/// there is so much. Values may be larger; they go out in pieces.
pub const LEAST_ROOM: usize = 1024;

/// What takes the bytes of answers, such as the transmit buffer of a TCP socket.
///
/// Values are handed over as slices of the store's pages, so that the only copy is the one that the output makes.
pub trait Output {
    /// Bytes that it takes now.
    fn room(&self) -> usize;

    /// Takes bytes: never more than `room`.
    fn write(&mut self, bytes: &[u8]);
}

/// An output that counts what goes through.
#[derive(Debug)]
pub(crate) struct Counted<'a, O> {
    pub output: &'a mut O,
    pub written: u64,
}

impl<O: Output> Output for Counted<'_, O> {
    #[inline]
    fn room(&self) -> usize {
        self.output.room()
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        self.written += bytes.len() as u64;
        self.output.write(bytes);
    }
}

/// Bytes that are gathered before they are handed over: a line with a key of usual length.
const GATHERED: usize = 128;

/// Writes one line, in few pieces. `end` must be called.
#[derive(Debug)]
pub(crate) struct Line<'a, O> {
    output: &'a mut O,
    gathered: [u8; GATHERED],
    length: usize,
}

impl<'a, O: Output> Line<'a, O> {
    #[inline]
    pub fn new(output: &'a mut O) -> Line<'a, O> {
        Line { output, gathered: [0; GATHERED], length: 0 }
    }

    #[inline]
    pub fn text(&mut self, text: &[u8]) {
        if text.len() > GATHERED - self.length {
            self.flush();
        }
        match self.gathered.get_mut(self.length..self.length + text.len()) {
            Some(place) => {
                place.copy_from_slice(text);
                self.length += text.len();
            }
            None => self.output.write(text),
        }
    }

    /// One character.
    #[inline]
    pub fn letter(&mut self, letter: u8) {
        if self.length == GATHERED {
            self.flush();
        }
        if let Some(place) = self.gathered.get_mut(self.length) {
            *place = letter;
            self.length += 1;
        }
    }

    #[inline]
    pub fn number(&mut self, value: u64) {
        if GATHERED - self.length < MOST_DIGITS {
            self.flush();
        }
        let length = text::count_digits(value);
        if let Some(place) = self.gathered.get_mut(self.length..self.length + length) {
            text::write_digits(value, place);
            self.length += length;
        }
    }

    /// A space, a letter and a number, as meta commands return what was asked for.
    pub fn flag(&mut self, letter: u8, value: u64) {
        self.letter(b' ');
        self.letter(letter);
        self.number(value);
    }

    /// Ends the line.
    #[inline]
    pub fn end(mut self) {
        self.letter(b'\r');
        self.letter(b'\n');
        self.flush();
    }

    fn flush(&mut self) {
        if self.length > 0 {
            self.output.write(&self.gathered[..self.length]);
            self.length = 0;
        }
    }
}

/// Writes a line of fixed text, which includes its end.
pub(crate) fn say(output: &mut impl Output, text: &[u8]) {
    output.write(text);
}
