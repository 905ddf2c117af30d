//! Words and numbers of command lines, read as memcached reads them.
//!
//! memcached reads numbers with C's `strtol` family: leading white space and a sign are accepted, a number ends at white
//! space or NUL, and what is too large for 32 bits loses its upper bits (util.c, `safe_strtol` and the like).

/// Digits of the largest number.
pub(crate) const MOST_DIGITS: usize = 20;

/// Words that are told apart in a line; the rest is left (proto_text.c, `MAX_TOKENS`).
pub(crate) const MOST_WORDS: usize = 23;

/// The words of a line, at most [`MOST_WORDS`].
#[derive(Debug)]
pub(crate) struct Words<'a>(heapless::Vec<&'a [u8], MOST_WORDS>);

impl<'a> Words<'a> {
    /// The first word of a line, and those that follow it, split at spaces.
    pub fn new((first, rest): (&'a [u8], &'a [u8])) -> Words<'a> {
        let mut words = heapless::Vec::new();
        let (mut word, mut rest) = (first, rest);
        while !word.is_empty() && words.push(word).is_ok() {
            (word, rest) = next_word(rest);
        }
        Words(words)
    }

    /// Number of words.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The word with this number; empty if there is none.
    pub fn get(&self, number: usize) -> &'a [u8] {
        self.0.get(number).copied().unwrap_or_default()
    }

    /// The last word, or an empty one.
    pub fn last(&self) -> &'a [u8] {
        self.0.last().copied().unwrap_or_default()
    }

    /// The words from this number on.
    pub fn from(&self, number: usize) -> &[&'a [u8]] {
        self.0.get(number..).unwrap_or_default()
    }
}

/// The next word and what follows it. The word is empty if there is none. A NUL ends the line, as for memcached lines are
/// C strings.
pub(crate) fn next_word(line: &[u8]) -> (&[u8], &[u8]) {
    let mut line = line;
    while let [b' ', rest @ ..] = line {
        line = rest;
    }
    let ends = |byte: &u8| matches!(byte, b' ' | 0);
    let (word, rest) = line.split_at(line.iter().position(ends).unwrap_or(line.len()));
    if rest.first() == Some(&0) { (word, &rest[rest.len()..]) } else { (word, rest) }
}

/// True if there is a next word.
pub(crate) fn has_word(line: &[u8]) -> bool {
    line.iter().find(|byte| **byte != b' ').is_some_and(|byte| *byte != 0)
}

/// What C's `isspace` accepts.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Digits of a number that fits into 64 bits whatever they are.
const SAFE_DIGITS: usize = 19;

/// A number that is nothing but digits, and not too many of them.
fn plain(text: &[u8]) -> Option<u64> {
    let digit = |byte: &u8| Some(byte.wrapping_sub(b'0')).filter(|digit| *digit < 10);
    let is_short = !text.is_empty() && text.len() <= SAFE_DIGITS;
    if !is_short {
        return None;
    }
    text.iter().try_fold(0u64, |value, byte| Some(value.wrapping_mul(10).wrapping_add(digit(byte)?.into())))
}

/// Reads sign and digits. `None` if there are none, too many for 64 bits, or something else behind them.
fn number(text: &[u8]) -> Option<(bool, u64)> {
    // Nearly all are so.
    if let Some(value) = plain(text) {
        return Some((false, value));
    }
    let start = text.iter().position(|byte| !is_space(*byte))?;
    let mut rest = &text[start..];
    let negative = rest.first() == Some(&b'-');
    if negative || rest.first() == Some(&b'+') {
        rest = &rest[1..];
    }
    let mut value = 0u64;
    let mut digits = 0;
    for byte in rest {
        if !byte.is_ascii_digit() {
            break;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
        digits += 1;
    }
    let ends = rest.get(digits).is_none_or(|byte| is_space(*byte) || *byte == 0);
    (digits > 0 && ends).then_some((negative, value))
}

/// An unsigned number of 64 bits.
pub(crate) fn unsigned(text: &[u8]) -> Option<u64> {
    let (negative, value) = number(text)?;
    let value = if negative { value.wrapping_neg() } else { value };
    // A negative number is refused unless it has wrapped around to a small one.
    (!negative || value <= i64::MAX as u64).then_some(value)
}

/// The lower 32 bits of an unsigned number of 64 bits.
pub(crate) fn unsigned32(text: &[u8]) -> Option<u32> {
    unsigned(text).map(|value| value as u32)
}

/// The lower 32 bits of a signed number of 64 bits.
pub(crate) fn signed32(text: &[u8]) -> Option<i32> {
    let (negative, magnitude) = number(text)?;
    let value = if negative { magnitude.wrapping_neg() } else { magnitude };
    (magnitude <= i64::MAX as u64 + u64::from(negative)).then_some(value as i32)
}

/// Digits of a number in decimal.
pub(crate) fn count_digits(value: u64) -> usize {
    value.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// Writes the last digits of a number in decimal, as many as there is place.
pub(crate) fn write_digits(mut value: u64, place: &mut [u8]) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Writes a number in decimal and gives its digits.
pub(crate) fn digits(value: u64, buffer: &mut [u8; MOST_DIGITS]) -> &[u8] {
    let digits = &mut buffer[..count_digits(value)];
    write_digits(value, digits);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn numbers_are_read_as_c_does() {
        assert_eq!(unsigned(b"0"), Some(0));
        assert_eq!(unsigned(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(unsigned(b"18446744073709551616"), None);
        assert_eq!(unsigned(b" \t+5\rx"), Some(5));
        assert_eq!(unsigned(b"5\0x"), Some(5));
        for bad in [&b""[..], b" ", b"-", b"x", b"5x", b"-1", b"--1", b"+ 1"] {
            assert_eq!(unsigned(bad), None, "{bad:?}");
        }
        assert_eq!(unsigned(b"-18446744073709551615"), Some(1));
        assert_eq!(unsigned32(b"4294967297"), Some(1));
        assert_eq!(signed32(b"-1"), Some(-1));
        assert_eq!(signed32(b"4294967295"), Some(-1));
        assert_eq!(signed32(b"9223372036854775807"), Some(-1));
        assert_eq!(signed32(b"9223372036854775808"), None);
        assert_eq!(signed32(b"-9223372036854775808"), Some(0));
    }

    #[test]
    fn numbers_are_written() {
        for value in [0, 9, 10, 1234567890, u64::MAX] {
            assert_eq!(digits(value, &mut [0; MOST_DIGITS]), value.to_string().as_bytes());
        }
    }

    #[test]
    fn words_are_separated_by_spaces_only() {
        let words = Words::new(next_word(b"  get  a\tb c "));
        assert_eq!(words.from(0), [&b"get"[..], b"a\tb", b"c"]);
        for line in [&b""[..], b"  ", b" a", b"\0a", b" \0", b"\t"] {
            assert_eq!(has_word(line), !next_word(line).0.is_empty(), "{line:?}");
        }
        assert_eq!((words.count(), words.last(), words.get(9)), (3, &b"c"[..], &b""[..]));
        assert_eq!(Words::new(next_word(&[b'a', b' '].repeat(40))).count(), MOST_WORDS);
    }
}
