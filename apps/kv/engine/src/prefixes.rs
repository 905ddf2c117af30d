//! Commands by the beginnings of keys, up to the delimiter, which `stats detail` counts while it is on.
//!
//! Any client may turn it on and send keys of any kind, so that there is room for a number of prefixes and for their bytes.
//! What comes first is counted until `stats reset`, what does not fit is left out.

use alloc::vec::Vec;

/// What ends a prefix. Keys without it are not counted.
pub(crate) const DELIMITER: u8 = b':';

/// Prefixes at most, and bytes of them.
const MOST_PREFIXES: usize = 256;
const MOST_BYTES: usize = 8 << 10;

/// A prefix and its commands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub get: u64,
    pub hit: u64,
    pub set: u64,
    pub del: u64,
}

#[derive(Debug)]
struct Prefix {
    start: u16,
    length: u8,
    counts: Counts,
}

/// All prefixes, in the order of their bytes.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    /// True while commands are counted.
    pub is_on: bool,
    /// Prefixes one after the other, as they came.
    bytes: Vec<u8>,
    prefixes: Vec<Prefix>,
}

const _: () = assert!(MOST_BYTES <= u16::MAX as usize && crate::MOST_KEY_BYTES <= u8::MAX as usize);

impl Prefixes {
    pub fn clear(&mut self) {
        *self = Prefixes { is_on: self.is_on, ..Prefixes::default() };
    }

    /// The prefix with this number, in their order.
    pub fn get(&self, number: usize) -> Option<(&[u8], Counts)> {
        let prefix = self.prefixes.get(number)?;
        Some((self.text(prefix), prefix.counts))
    }

    fn text(&self, prefix: &Prefix) -> &[u8] {
        let start = usize::from(prefix.start);
        self.bytes.get(start..start + usize::from(prefix.length)).unwrap_or_default()
    }

    /// Counts a command about this key, if that is to be done.
    #[inline]
    pub fn note(&mut self, key: &[u8], count: impl FnOnce(&mut Counts)) {
        if self.is_on
            && let Some(counts) = self.counts_of(key)
        {
            count(counts);
        }
    }

    #[cold]
    fn counts_of(&mut self, key: &[u8]) -> Option<&mut Counts> {
        let length = memchr::memchr(DELIMITER, key)?;
        Some(&mut self.of(&key[..length])?.counts)
    }

    /// The place of a prefix, which is made if there is room.
    fn of(&mut self, text: &[u8]) -> Option<&mut Prefix> {
        let at = match self.prefixes.binary_search_by(|prefix| self.text(prefix).cmp(text)) {
            Ok(at) => at,
            Err(at) => {
                if self.prefixes.len() >= MOST_PREFIXES || self.bytes.len() + text.len() > MOST_BYTES {
                    return None;
                }
                let prefix =
                    Prefix { start: self.bytes.len() as u16, length: text.len() as u8, counts: Counts::default() };
                self.bytes.extend_from_slice(text);
                self.prefixes.insert(at, prefix);
                at
            }
        };
        self.prefixes.get_mut(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn prefixes_are_counted_in_bounded_memory() {
        let mut prefixes = Prefixes::default();
        prefixes.note(b"off:", |counts| counts.get += 1);
        assert!(prefixes.get(0).is_none());
        prefixes.is_on = true;
        for number in 0..100_000 {
            prefixes.note(format!("{number:0100}:x").as_bytes(), |counts| counts.set += 1);
        }
        assert!(prefixes.bytes.len() > MOST_BYTES - 100 && prefixes.bytes.len() <= MOST_BYTES);
        prefixes.clear();
        for number in 0..100_000 {
            prefixes.note(format!("{}:x", number % 500).as_bytes(), |counts| counts.set += 1);
        }
        assert_eq!(prefixes.prefixes.len(), MOST_PREFIXES);
        let all = (0..).map_while(|number| prefixes.get(number));
        assert!(all.clone().all(|(_, counts)| counts.set == 200) && all.clone().is_sorted_by_key(|(text, _)| text));
        assert!(all.take(256).any(|(text, _)| text == b"0"));
    }
}
