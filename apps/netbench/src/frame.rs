//! The frames: addresses, a type, a number, and a pattern.

/// Bytes of a frame.
pub const BYTES: usize = 256;
/// Bytes of a question for an address.
const ARP_BYTES: usize = 42;
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

/// The question who has an IPv4 address, asked by a station that has none itself (RFC 5227, 2.1.1).
pub fn who_has(address: [u8; 4], own: Mac) -> [u8; ARP_BYTES] {
    let mut frame = [0; ARP_BYTES];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&own);
    frame[12..22].copy_from_slice(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&own);
    frame[38..42].copy_from_slice(&address);
    frame
}

/// True if this is the answer to such a question.
pub fn has(frame: &[u8], address: [u8; 4], own: Mac) -> bool {
    frame.get(..6) == Some(&own)
        && frame.get(12..22) == Some(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2])
        && frame.get(28..32) == Some(&address)
        && frame.get(32..38) == Some(&own)
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
    fn an_answer_answers_its_question_only() {
        let wanted = [10, 0, 2, 2];
        let asked = who_has(wanted, A);
        assert!(!has(&asked, wanted, A), "a question is no answer");
        let mut answer = asked;
        answer[..6].copy_from_slice(&A);
        answer[6..12].copy_from_slice(&B);
        answer[21] = 2;
        answer[22..28].copy_from_slice(&B);
        answer[28..32].copy_from_slice(&wanted);
        answer[32..38].copy_from_slice(&A);
        assert!(has(&answer, wanted, A) && !has(&answer, wanted, B) && !has(&answer, [10, 0, 2, 3], A));
        assert!(!has(&answer[..37], wanted, A));
    }

    #[test]
    fn addresses_are_read_as_they_are_written() {
        assert_eq!(parse("02:6e:6b:00:00:01"), Some([2, 0x6e, 0x6b, 0, 0, 1]));
        for wrong in ["", "02", "02:6e:6b:00:00", "02:6e:6b:00:00:01:00", "02:6e:6b:00:00:100", "x:0:0:0:0:0"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
