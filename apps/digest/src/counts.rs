//! Lines, words and bytes as `wc` of the GNU core utilities counts them in the C locale.

use core::fmt::{self, Write};

/// Counts of the bytes so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Line ends.
    pub lines: u64,
    /// Runs with at least one printable character, between white space.
    pub words: u64,
    /// Bytes.
    pub bytes: u64,
    /// True if the last byte that was white space or printable was printable.
    in_word: bool,
}

impl Counts {
    /// Takes in further bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        for &byte in bytes {
            match byte {
                b'\n' => {
                    self.lines += 1;
                    self.in_word = false;
                }
                // The other white space of the C locale; 0x0b is the vertical tab, 0x0c the form feed.
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => self.in_word = false,
                0x21..=0x7e => {
                    self.words += u64::from(!self.in_word);
                    self.in_word = true;
                }
                // What is neither printable nor white space begins no word and ends none.
                _ => {}
            }
        }
    }

    /// The line that `wc` prints for a file of this name: columns as wide as the largest number.
    pub fn write(&self, name: &str, out: &mut impl Write) -> fmt::Result {
        let width = self.bytes.checked_ilog10().unwrap_or(0) as usize + 1;
        writeln!(out, "{:width$} {:width$} {:width$} {name}", self.lines, self.words, self.bytes)
    }
}
