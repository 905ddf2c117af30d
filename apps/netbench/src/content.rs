//! What datagrams and streams hold: bytes that follow from where they are, so that each is known to be the right one.

/// Bytes of a datagram.
pub const DATAGRAM_BYTES: usize = 64;
const NUMBER_BYTES: usize = 8;

/// The byte at a place of a stream. It repeats after 2^24 bytes, and nothing shorter does.
#[must_use]
pub const fn byte(at: u64) -> u8 {
    (at ^ (at >> 8).wrapping_mul(7) ^ (at >> 16).wrapping_mul(13)) as u8
}

/// The payload of the datagram with this number.
#[must_use]
pub fn datagram(number: u64) -> [u8; DATAGRAM_BYTES] {
    let mut bytes = [0; DATAGRAM_BYTES];
    let (head, rest) = bytes.split_at_mut(NUMBER_BYTES);
    head.copy_from_slice(&number.to_le_bytes());
    // All bits of the number have a say (Fibonacci hashing).
    for (at, place) in (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40..).zip(rest) {
        *place = byte(at);
    }
    bytes
}

/// The number of a datagram, if each of its bytes is what it must be.
#[must_use]
pub fn number(payload: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(*payload.first_chunk()?);
    (*payload == datagram(number)).then_some(number)
}

/// Writes a piece of a stream that begins at `from`.
pub fn fill(from: u64, place: &mut [u8]) {
    for (at, place) in (from..).zip(place) {
        *place = byte(at);
    }
}

/// How many bytes of a piece of a stream that begins at `from` are right, up to the first that is not.
#[must_use]
pub fn right(from: u64, piece: &[u8]) -> usize {
    (from..).zip(piece).take_while(|(at, found)| byte(*at) == **found).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_recognised_and_no_other_is() {
        let good = datagram(0x0102_0304);
        assert_eq!(number(&good), Some(0x0102_0304));
        for at in 0..good.len() {
            let mut bad = good;
            bad[at] ^= 0x10;
            assert_eq!(number(&bad), None, "byte {at}");
        }
        assert_eq!((number(&good[..63]), number(&[])), (None, None));
    }

    #[test]
    fn a_piece_of_a_stream_is_right_at_its_own_place_only() {
        let mut piece = [0; 1500];
        fill(70_000, &mut piece);
        assert_eq!(right(70_000, &piece), 1500);
        for other in [70_001, 70_256, 70_000 - 65_536, 4_464] {
            assert!(right(other, &piece) < 100, "{other}");
        }
        piece[700] ^= 1;
        assert_eq!(right(70_000, &piece), 700);
    }
}
