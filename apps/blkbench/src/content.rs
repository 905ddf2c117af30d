//! What pages hold: words that follow from the page's number, its version and the word's place.

/// Pages with versions: how often each was written.
pub const ZERO: u32 = 0;

/// The word at a place of a page. A page of version [`ZERO`] was never written, and holds zeroes.
#[inline]
fn word(page: u64, version: u32, place: u64) -> u64 {
    if version == ZERO {
        return 0;
    }
    let seed = page << 32 ^ u64::from(version) << 9 ^ place;
    // Multiplication by an odd number loses nothing; the shift brings high bits down.
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

/// Writes what a page is to hold.
pub fn fill(bytes: &mut [u8], page: u64, version: u32) {
    for (place, piece) in (0..).zip(bytes.as_chunks_mut::<8>().0) {
        *piece = word(page, version, place).to_le_bytes();
    }
}

/// True if a page holds what it must.
#[must_use]
pub fn holds(bytes: &[u8], page: u64, version: u32) -> bool {
    (0..).zip(bytes.as_chunks::<8>().0).all(|(place, piece)| *piece == word(page, version, place).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_told_from_every_other_one_and_version() {
        let mut page = [0xff; 4096];
        fill(&mut page, 7, 3);
        assert!(holds(&page, 7, 3));
        for (number, version) in [(7, 2), (7, 4), (6, 3), (8, 3), (7, ZERO)] {
            assert!(!holds(&page, number, version), "{number} {version}");
        }
        for at in [0, 1, 2047, 4095] {
            page[at] ^= 1;
            assert!(!holds(&page, 7, 3), "byte {at}");
            page[at] ^= 1;
        }
        fill(&mut page, 7, ZERO);
        assert!(page.iter().all(|&byte| byte == 0) && holds(&page, 9, ZERO));
    }
}
