//! The frames: addresses, a type, a number, and a pattern.

/// Bytes of a frame.
pub const BYTES: usize = 256;
/// For experiments (IEEE 802, local experimental Ethertype 1).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
const NUMBER_AT: usize = 14;
const PATTERN_AT: usize = 22;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The frame with this number.
pub fn build(to: Mac, from: Mac, number: u64) -> [u8; BYTES] {
    let mut frame = [0; BYTES];
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    frame[12..14].copy_from_slice(&ETHERTYPE);
    frame[NUMBER_AT..PATTERN_AT].copy_from_slice(&number.to_le_bytes());
    for (at, byte) in frame.iter_mut().enumerate().skip(PATTERN_AT) {
        *byte = (number as u8).wrapping_mul(31).wrapping_add(at as u8);
    }
    frame
}

/// Turns a frame round, so that it goes back to its sender from `own`. False, and nothing changes, if it is none of ours or
/// not for `own`.
pub fn turn(frame: &mut [u8], own: Mac) -> bool {
    if !is_ours(frame) || frame.get(..6) != Some(&own) {
        return false;
    }
    let Some((to, rest)) = frame.split_first_chunk_mut::<6>() else { return false };
    let Some((from, _)) = rest.split_first_chunk_mut::<6>() else { return false };
    (*to, *from) = (*from, own);
    true
}

/// True if the frame has our type.
pub fn is_ours(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&ETHERTYPE)
}

/// Reads an address as people write it.
pub fn parse(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];

    #[test]
    fn what_is_turned_is_the_same_frame_from_the_other_side() {
        let mut frame = build(B, A, 77);
        assert!(!turn(&mut frame, A));
        assert!(turn(&mut frame, B));
        assert_eq!(frame, build(A, B, 77));
        assert_ne!(frame, build(A, B, 78));
        assert!(!turn(&mut frame[..13], A));
        frame[13] = 0;
        assert!(!turn(&mut frame, A));
    }

    #[test]
    fn addresses_are_read_as_they_are_written() {
        assert_eq!(parse("02:6e:6b:00:00:01"), Some([2, 0x6e, 0x6b, 0, 0, 1]));
        for wrong in ["", "02", "02:6e:6b:00:00", "02:6e:6b:00:00:01:00", "02:6e:6b:00:00:100", "x:0:0:0:0:0"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
