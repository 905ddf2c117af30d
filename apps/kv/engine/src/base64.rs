//! Keys in base64, for the meta commands' flag `b`.
//!
//! As in memcached's base64.c, characters outside of the alphabet are skipped.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Marks a character that is not of the alphabet.
const NONE: u8 = 0x80;

static VALUES: [u8; 256] = {
    let mut table = [NONE; 256];
    let mut value = 0;
    while value < ALPHABET.len() {
        table[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    // Padding counts as a character with the value 0.
    table[b'=' as usize] = 0;
    table
};

/// Decodes into `output`, which must be as large as three quarters of the text, and says how many bytes there are.
/// `None` if the text is no base64 or empty.
pub(crate) fn decode(text: &[u8], output: &mut [u8]) -> Option<usize> {
    let is_known = |byte: &&u8| VALUES[usize::from(**byte)] != NONE;
    let count = text.iter().filter(is_known).count();
    if count == 0 || !count.is_multiple_of(4) {
        return None;
    }
    let (mut group, mut filled, mut padding, mut length) = (0u32, 0, 0, 0);
    for byte in text.iter().filter(is_known) {
        group = group << 6 | u32::from(VALUES[usize::from(*byte)]);
        filled += 1;
        padding += usize::from(*byte == b'=');
        if filled == 4 {
            for byte in &group.to_be_bytes()[1..] {
                *output.get_mut(length)? = *byte;
                length += 1;
            }
            if padding > 2 {
                return None;
            }
            if padding > 0 {
                return Some(length - padding);
            }
            (group, filled) = (0, 0);
        }
    }
    Some(length)
}

/// Encodes, four characters at a time.
pub(crate) fn encode(bytes: &[u8], mut output: impl FnMut(&[u8])) {
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        let mut characters = [b'='; 4];
        for (at, character) in characters.iter_mut().enumerate().take(group.len() + 1) {
            *character = ALPHABET[(word >> (18 - 6 * at) & 63) as usize];
        }
        output(&characters);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn encoded(bytes: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        encode(bytes, |characters| text.extend_from_slice(characters));
        text
    }

    fn decoded(text: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = [0; 300];
        decode(text, &mut bytes).map(|length| bytes[..length].to_vec())
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        // RFC 4648, section 10.
        for (bytes, text) in [(&b"f"[..], &b"Zg=="[..]), (b"fo", b"Zm8="), (b"foo", b"Zm9v"), (b"foobar", b"Zm9vYmFy")]
        {
            assert_eq!(encoded(bytes), text);
            assert_eq!(decoded(text).as_deref(), Some(bytes));
        }
        let all: Vec<u8> = (0..=187).map(|byte: u8| byte.wrapping_mul(91)).collect();
        assert_eq!(decoded(&encoded(&all)), Some(all));
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        for text in [&b""[..], b"Z", b"Zm9", b"!!!!", b"===="] {
            assert_eq!(decoded(text), None, "{text:?}");
        }
        assert_eq!(decoded(b"Zm!9v").as_deref(), Some(&b"foo"[..]));
    }
}
