//! The objects behind the keys: a page each, made from the key. Making one stands for fetching it.

/// Bytes of an object: one page.
pub const BYTES: usize = 4096;
/// Words of an object.
const WORDS: usize = BYTES / 8;

/// The finaliser of SplitMix64: a bijection that spreads every bit.
pub fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

fn word(key: u64, at: usize) -> u64 {
    mix(key.wrapping_add((at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// Makes the object of a key.
pub fn make(key: u64, object: &mut [u8; BYTES]) {
    for (at, bytes) in object.chunks_exact_mut(8).enumerate() {
        bytes.copy_from_slice(&word(key, at).to_le_bytes());
    }
}

/// True if this looks like the object of the key: its ends and its middle are compared.
pub fn is_of(key: u64, object: &[u8; BYTES]) -> bool {
    [0, WORDS / 2, WORDS - 1].into_iter().all(|at| object[at * 8..at * 8 + 8] == word(key, at).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_that_of_its_key_only() {
        let mut object = [0; BYTES];
        make(7, &mut object);
        assert!(is_of(7, &object) && !is_of(8, &object));
        object[BYTES - 1] ^= 1;
        assert!(!is_of(7, &object));
    }
}
