//! What the holders of VFs have sent and received: the device counts by VF, whoever has it; here it is by holder, whatever VFs
//! it has had one after the other.

use alloc::collections::BTreeMap;
use igb::Counters;
use proto::nic::{Counts, MAX_VFS};

/// A station's address, by which the market names a holder.
type Mac = [u8; 6];

/// The holder of a VF.
#[derive(Clone, Copy, Debug)]
struct Holder {
    mac: Mac,
    /// What the VF had counted when this holder got it.
    begun: Counts,
    /// What was told of the holder last, of all of its VFs.
    told: Counts,
}

/// All holders.
#[derive(Debug, Default)]
pub struct Holders {
    now: [Option<Holder>; MAX_VFS],
    /// What holders have counted by VFs that they have no more. There are as many as the market names.
    past: BTreeMap<Mac, Counts>,
}

impl Holders {
    /// A VF, which has counted so much, has another holder from now on. Returns what the last one has counted in
    /// all, if that was not told before.
    pub fn change(&mut self, vf: usize, mac: Option<Mac>, counters: &Counters) -> Option<(Mac, Counts)> {
        let all = counts(counters);
        let slot = self.now.get_mut(vf)?;
        let begins = mac.map(|mac| Holder { mac, begun: all, told: Counts::default() });
        let Holder { mac, begun, told } = core::mem::replace(slot, begins)?;
        let past = self.past.entry(mac).or_default();
        *past = past.plus(all.since(begun));
        (*past != told).then_some((mac, *past))
    }

    /// What the holder of a VF, which has counted so much, has counted in all, if that was not told before.
    pub fn news(&mut self, vf: usize, counters: &Counters) -> Option<(Mac, Counts)> {
        let holder = self.now.get_mut(vf)?.as_mut()?;
        let past = self.past.get(&holder.mac).copied().unwrap_or_default();
        let all = past.plus(counts(counters).since(holder.begun));
        let is_new = core::mem::replace(&mut holder.told, all) != all;
        is_new.then_some((holder.mac, all))
    }
}

/// The driver's counters as the market is told them.
fn counts(counters: &Counters) -> Counts {
    Counts {
        sent_frames: counters.sent_frames,
        sent_octets: counters.sent_octets,
        received_frames: counters.received_frames,
        received_octets: counters.received_octets,
        received_multicasts: counters.received_multicasts,
        dropped_frames: counters.dropped_frames,
        forged_frames: counters.forged_frames,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Mac = [2, 0, 0, 0, 0, 1];
    const TWO: Mac = [2, 0, 0, 0, 0, 2];

    fn sent(frames: u64) -> Counters {
        Counters { sent_frames: frames, forged_frames: 2 * frames, ..Counters::default() }
    }

    fn told(mac: Mac, frames: u64) -> Option<(Mac, Counts)> {
        Some((mac, Counts { sent_frames: frames, forged_frames: 2 * frames, ..Counts::default() }))
    }

    #[test]
    fn counts_are_the_holders_and_follow_it_from_function_to_function() {
        let mut holders = Holders::default();
        assert_eq!(holders.change(0, Some(ONE), &sent(5)), None);
        assert_eq!(holders.news(0, &sent(5)), None, "what others have sent by it before");
        assert_eq!(holders.news(0, &sent(9)), told(ONE, 4));
        assert_eq!(holders.news(0, &sent(9)), None, "it was told");
        assert_eq!(holders.change(0, Some(TWO), &sent(10)), told(ONE, 5));
        assert_eq!(holders.change(3, Some(ONE), &sent(100)), None);
        assert_eq!(holders.news(3, &sent(101)), told(ONE, 6));
        assert_eq!(holders.news(0, &sent(17)), told(TWO, 7));
        assert_eq!(holders.change(3, None, &sent(101)), None, "it was told");
        assert_eq!((holders.news(3, &sent(200)), holders.change(3, None, &sent(200))), (None, None));
        assert_eq!(holders.change(MAX_VFS, Some(ONE), &sent(1)), None);
    }
}
