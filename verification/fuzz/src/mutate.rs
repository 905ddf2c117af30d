//! Mutations of inputs from a seed: the same inputs each time, without coverage to guide them.

use crate::MAX_INPUT;
use lockstep::random::Random;

/// Numbers at which readers of lengths and addresses tend to break.
const EDGES: [u64; 12] = [0, 1, 7, 0x7f, 0xff, 0xfff, 0x1000, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 63, u64::MAX];
/// Most changes of one input.
const CHANGES: usize = 6;

/// An input out of one that is kept, and pieces of another.
pub fn mutated(input: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(CHANGES) {
        change(&mut bytes, other, random);
    }
    bytes.truncate(MAX_INPUT);
    bytes
}

fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    if bytes.is_empty() {
        bytes.push(random.bits() as u8);
        return;
    }
    let at = random.below(bytes.len());
    let length = 1 + random.below(bytes.len() - at).min(random.below(32));
    match random.below(8) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.bits() as u8,
        2 => bytes[at] = bytes[at].wrapping_add(random.below(9) as u8).wrapping_sub(4),
        3 => {
            let width = [1, 2, 4, 8][random.below(4)];
            let edge = EDGES[random.below(EDGES.len())].wrapping_add(random.below(3) as u64).wrapping_sub(1);
            bytes.iter_mut().skip(at).zip(&edge.to_le_bytes()[..width]).for_each(|(byte, &new)| *byte = new);
        }
        4 => drop(bytes.drain(at..at + length)),
        5 => {
            let piece = bytes[at..at + length].to_vec();
            bytes.splice(at..at, piece);
        }
        6 if !other.is_empty() => {
            let from = random.below(other.len());
            let piece = other[from..].iter().take(length);
            bytes.splice(at..at, piece.copied());
        }
        _ => {
            let from = random.below(bytes.len());
            let piece: Vec<u8> = bytes[from..].iter().take(length).copied().collect();
            bytes.iter_mut().skip(at).zip(piece).for_each(|(byte, new)| *byte = new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_inputs_and_they_differ() {
        let inputs = |seed| {
            let mut random = Random::new(seed);
            (0..200).map(|_| mutated(b"some input", b"another", &mut random)).collect::<Vec<_>>()
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
        assert!(inputs(1).iter().all(|input| input.len() <= MAX_INPUT));
        assert!(inputs(1).iter().filter(|input| *input != b"some input").count() > 150);
    }

    #[test]
    fn an_empty_input_grows() {
        let mut random = Random::new(3);
        assert!((0..50).any(|_| mutated(b"", b"", &mut random).len() > 1));
    }
}
