//! Sizes of chunks: what a page is divided into.
//!
//! A page belongs to one class at a time. Sizes are as large as the number of chunks in a page allows, in multiples of 8
//! bytes, so that little of a page is left over.

use crate::pages::PAGE_BYTES;

/// A size class: the index into [`SIZES`].
pub(crate) type Class = u8;

/// Bytes of a chunk by class.
pub(crate) const SIZES: [u16; 19] =
    [64, 80, 96, 112, 128, 160, 192, 240, 288, 336, 408, 512, 584, 680, 816, 1024, 1360, 2048, PAGE_BYTES as u16];

/// Number of classes.
pub(crate) const CLASSES: usize = SIZES.len();

/// The class whose only chunk is the whole page.
pub(crate) const WHOLE: Class = CLASSES as Class - 1;

/// Chunks of a page at most: one bit each in a word.
pub(crate) const MOST_CHUNKS: usize = 64;

/// Bytes between the sizes that the table tells apart.
const STEP: usize = 8;

/// The smallest class that holds so many steps.
static BY_STEPS: [Class; PAGE_BYTES / STEP + 1] = {
    let mut table = [0; PAGE_BYTES / STEP + 1];
    let mut steps = 0;
    let mut class = 0;
    while steps < table.len() {
        while (SIZES[class] as usize) < steps * STEP {
            class += 1;
        }
        table[steps] = class as Class;
        steps += 1;
    }
    table
};

const _: () = assert!(PAGE_BYTES / SIZES[0] as usize <= MOST_CHUNKS);

/// The class for so many bytes; more than a page count as a page.
pub(crate) fn class_of(bytes: usize) -> Class {
    BY_STEPS[bytes.div_ceil(STEP).min(PAGE_BYTES / STEP)]
}

/// Bytes of a chunk of this class.
pub(crate) fn size(class: Class) -> usize {
    usize::from(SIZES[usize::from(class)])
}

/// Chunks of a page of this class.
pub(crate) fn chunks_per_page(class: Class) -> usize {
    PAGE_BYTES / size(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_class_that_fits_is_taken() {
        for bytes in 0..=PAGE_BYTES {
            let class = class_of(bytes);
            assert!(size(class) >= bytes);
            assert!(class == 0 || size(class - 1) < bytes, "{bytes}");
        }
        assert_eq!(class_of(PAGE_BYTES), WHOLE);
        assert_eq!(class_of(1 << 20), WHOLE);
    }

    #[test]
    fn sizes_leave_little_of_a_page() {
        for class in 0..CLASSES as Class {
            assert!(size(class).is_multiple_of(STEP));
            assert!(PAGE_BYTES - chunks_per_page(class) * size(class) < PAGE_BYTES / 16, "{class}");
        }
    }
}
