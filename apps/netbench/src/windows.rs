//! What was heard from each sender in each of the windows that time is cut into.

use crate::frame::Mac;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Bytes that a frame has on the cable besides those that are sent: its checksum. It counts against a limit.
const CHECKSUM_BYTES: u64 = 4;

/// Bits by sender and window.
#[derive(Debug, Default)]
pub struct Windows {
    bits: BTreeMap<Mac, Vec<u64>>,
}

impl Windows {
    /// Most windows that are told apart; what comes later counts as in the last one.
    pub const MOST: usize = 256;

    /// A frame was heard in this window.
    pub fn heard(&mut self, frame: &[u8], window: usize) {
        let Some(&sender) = frame.get(6..12).and_then(|sender| sender.first_chunk()) else { return };
        let (bits, window) = (self.bits.entry(sender).or_default(), window.min(Self::MOST - 1));
        if bits.len() <= window {
            bits.resize(window + 1, 0);
        }
        bits[window] += 8 * (frame.len() as u64 + CHECKSUM_BYTES);
    }

    /// The senders in the order of their addresses, each with its bits, window by window.
    pub fn senders(&self) -> impl Iterator<Item = (&Mac, &[u64])> {
        self.bits.iter().map(|(sender, bits)| (sender, bits.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::build;

    #[test]
    fn frames_are_counted_by_sender_and_window() {
        let (a, b, own) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 3]);
        let mut windows = Windows::default();
        windows.heard(&build(own, b, 1), 2);
        windows.heard(&build(own, a, 1), 0);
        windows.heard(&build(own, a, 2)[..60], 0);
        windows.heard(&[0; 11], 0);
        let frame = 8 * (crate::frame::BYTES as u64 + 4);
        let found: Vec<(Mac, Vec<u64>)> = windows.senders().map(|(sender, bits)| (*sender, bits.into())).collect();
        assert_eq!(found, [(a, [frame + 512].into()), (b, [0, 0, frame].into())]);
        windows.heard(&build(own, b, 1), usize::MAX);
        assert_eq!(windows.senders().map(|(_, bits)| bits.len()).max(), Some(Windows::MOST));
    }
}
