//! What each VF has sent and received. The device counts in 32 bits that wrap and that no reset of a VF clears; here they
//! are added up in 64. At 1 Gb/s octets wrap after 34 s, so they are to be read more often than that. Two counts are cleared
//! by reading instead: what was dropped for want of descriptors, and what was forged, which the device counts for all VFs
//! together.

use crate::VFS;
use crate::registers as reg;
use device::Registers;

/// What a VF has sent and received since its driver began, over resets of the device. Octets are those of frames with header and checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames received.
    pub received_frames: u64,
    /// Octets received.
    pub received_octets: u64,
    /// Frames of groups received.
    pub received_multicasts: u64,
    /// Frames sent.
    pub sent_frames: u64,
    /// Octets sent.
    pub sent_octets: u64,
    /// Frames that were not received, as there was no descriptor for them.
    pub dropped_frames: u64,
    /// Frames with a forged address or VLAN that were not sent; those of others, too, that forged some between the same two
    /// looks.
    pub forged_frames: u64,
}

/// The sums of one VF, and what the device's registers said last.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub counters: Counters,
    last: [u32; 5],
}

impl Sums {
    /// Goes on with registers that a reset of the device has cleared.
    pub fn restart(&mut self) {
        self.last = [0; 5];
    }

    /// Adds what came since the last time. Returns the octets sent since then.
    pub fn read(&mut self, registers: &impl Registers, vf: usize) -> u32 {
        let now = [reg::pvfgprc(vf), reg::pvfgorc(vf), reg::pvfmprc(vf), reg::pvfgptc(vf), reg::pvfgotc(vf)]
            .map(|register| registers.read32(register));
        let mut new = [0; 5];
        for ((new, now), last) in new.iter_mut().zip(now).zip(self.last) {
            *new = now.wrapping_sub(last);
        }
        self.last = now;
        let [received_frames, received_octets, received_multicasts, sent_frames, sent_octets] = new;
        let sum = &mut self.counters;
        for (sum, new) in [
            (&mut sum.received_frames, received_frames),
            (&mut sum.received_octets, received_octets),
            (&mut sum.received_multicasts, received_multicasts),
            (&mut sum.sent_frames, sent_frames),
            (&mut sum.sent_octets, sent_octets),
        ] {
            *sum = sum.wrapping_add(u64::from(new));
        }
        for queue in [vf, vf + VFS] {
            let dropped = registers.read32(reg::rqdpc(queue)) & reg::RQDPC_FRAMES;
            sum.dropped_frames = sum.dropped_frames.wrapping_add(u64::from(dropped));
        }
        sent_octets
    }

    /// The VF is one of those that have forged so many frames.
    pub fn forged(&mut self, frames: u32) {
        self.counters.forged_frames = self.counters.forged_frames.wrapping_add(u64::from(frames));
    }
}
