//! The keys that are asked for, one after the other.
//!
//! An input that begins with the line `# trace` is a trace: every further line is a key. Any other input is text, and
//! its words are the keys: runs of letters, digits and underscores.

/// First line of a trace.
const MARK: &[u8] = b"# trace\n";

/// The keys of an input, in order. A key is the hash of its text.
#[derive(Clone, Debug)]
pub struct Trace<'a> {
    rest: &'a [u8],
    is_in_key: fn(u8) -> bool,
}

impl<'a> Trace<'a> {
    /// The keys of this input.
    pub fn new(input: &'a [u8]) -> Trace<'a> {
        match input.strip_prefix(MARK) {
            Some(rest) => Trace { rest, is_in_key: |byte| byte != b'\n' },
            None => Trace { rest: input, is_in_key: |byte| byte.is_ascii_alphanumeric() || byte == b'_' },
        }
    }
}

impl<'a> Trace<'a> {
    /// The keys of so many passes. The seed says with which one they begin; after the last one comes the first.
    pub fn passes(self, passes: u64, seed: u64) -> impl Iterator<Item = u64> + use<'a> {
        let once = self.clone().count() as u64;
        let begin = crate::object::mix(seed).checked_rem(once).unwrap_or(0);
        self.cycle().skip(begin as usize).take(once.saturating_mul(passes) as usize)
    }
}

impl Iterator for Trace<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let start = self.rest.iter().position(|&byte| (self.is_in_key)(byte))?;
        let rest = &self.rest[start..];
        let length = rest.iter().position(|&byte| !(self.is_in_key)(byte)).unwrap_or(rest.len());
        let (key, rest) = rest.split_at(length);
        self.rest = rest;
        Some(hash(key))
    }
}

/// FNV-1a, 64 bits, and a last mixing step so that every bit is good for sampling.
fn hash(text: &[u8]) -> u64 {
    let hash = text
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    crate::object::mix(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn words_of_text_and_lines_of_a_trace_are_keys() {
        let words: Vec<u64> = Trace::new(b"let a_1 = b; let(a_1)").collect();
        assert_eq!(words.len(), 5);
        assert_eq!((words[0], words[1]), (words[3], words[4]));
        let lines: Vec<u64> = Trace::new(b"# trace\nblock 7\n\nblock 8\nblock 7").collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], lines[2]);
        assert_eq!(lines[0], hash(b"block 7"));
        assert_eq!(Trace::new(b" \n").count(), 0);
    }

    #[test]
    fn the_seed_says_where_the_passes_begin() {
        let trace = Trace::new(b"a b c d e f g");
        let keys: Vec<u64> = trace.clone().collect();
        let begins: Vec<usize> = (0..20)
            .map(|seed| {
                let passes: Vec<u64> = trace.clone().passes(2, seed).collect();
                let begin = keys.iter().position(|key| *key == passes[0]).expect("a key of the trace");
                let expected: Vec<u64> = (0..2 * keys.len()).map(|at| keys[(begin + at) % keys.len()]).collect();
                assert_eq!(passes, expected);
                begin
            })
            .collect();
        assert!(begins.iter().any(|begin| *begin != begins[0]), "{begins:?}");
        assert_eq!(Trace::new(b" \n").passes(3, 1).count(), 0);
    }
}
