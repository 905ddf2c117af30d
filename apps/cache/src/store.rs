//! The cache itself: the rule, and the leased pages in which the objects are.
//!
//! One object per page and one page per lease, so that a page can go at any time and nothing has to be moved. What a page
//! held that was taken by force, and the rule would have kept, is made anew in another one.

use alloc::vec::Vec;

use userlib::pager::Pager;

use crate::object::{self, BYTES};
use crate::sizes::{Access, Report, Rule};

/// A cache in leased pages, and its report.
#[derive(Debug, Default)]
pub struct Store {
    rule: Rule<u32>,
    /// Leases without an object.
    empty: Vec<u32>,
    report: Report,
    /// Objects in the cache that were not what they should have been. There is no reason for any.
    damaged: u64,
}

impl Store {
    /// An empty cache without pages.
    pub fn new() -> Store {
        Store::default()
    }

    /// Gets the object of a key, from the cache or by making it. True if it was there.
    pub fn get(&mut self, key: u64, pager: &Pager, object: &mut [u8; BYTES]) -> bool {
        self.report.accesses += 1;
        let place = match self.rule.access(key) {
            Access::Hit(lease) => {
                self.report.hits += 1;
                // A page that has just been taken by force reads as gone; the market's message about it follows.
                if pager.read(lease, 0, object).is_err() {
                    object::make(key, object);
                } else if !object::is_of(key, object) {
                    self.damaged += 1;
                    object::make(key, object);
                }
                return true;
            }
            Access::Reuse(lease) => Some(lease),
            Access::Room => {
                let lease = self.empty.pop();
                if let Some(lease) = lease {
                    self.rule.insert(key, lease);
                }
                lease
            }
            Access::None => None,
        };
        object::make(key, object);
        if let Some(lease) = place {
            // If it is gone, the next hit notices.
            let _ = pager.write(lease, 0, object);
        }
        false
    }

    /// A page has arrived.
    pub fn add(&mut self, lease: u32) {
        self.empty.push(lease);
        self.resize(self.rule.capacity() + 1);
    }

    /// Gives `pages` pages up, those of the objects that were not used for longest. Returns their leases.
    pub fn shrink(&mut self, pages: usize) -> Vec<u32> {
        self.resize(self.rule.capacity().saturating_sub(pages));
        let keep = self.empty.len().saturating_sub(pages);
        self.empty.split_off(keep)
    }

    /// Pages were taken by force.
    pub fn taken(&mut self, leases: &[u32], pager: &Pager) {
        let ours = |lease: &u32| self.empty.contains(lease) || self.rule.has(*lease);
        let lost = leases.iter().filter(|lease| ours(lease)).count();
        self.empty.retain(|lease| !leases.contains(lease));
        self.resize(self.rule.capacity().saturating_sub(lost));
        self.empty.retain(|lease| !leases.contains(lease));
        let mut object = [0; BYTES];
        for (key, place) in self.rule.places() {
            if leases.contains(place)
                && let Some(lease) = self.empty.pop()
            {
                object::make(key, &mut object);
                let _ = pager.write(lease, 0, &object);
                *place = lease;
            }
        }
    }

    /// Pages in all.
    pub fn pages(&self) -> usize {
        self.rule.capacity()
    }

    /// Sizes, accesses and hits so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Objects in the cache that were damaged.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    fn resize(&mut self, pages: usize) {
        self.rule.resize(pages, |lease| self.empty.push(lease));
        self.report.size(self.report.accesses, pages as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::mix;
    use crate::sizes::simulate;
    use proptest::prelude::*;
    use userlib::cap::own;
    use userlib::slots::Slots;

    /// On the host leased memory always reads as gone, which the cache survives: its decisions are the same.
    fn pager() -> Pager {
        Pager::new(Slots::new(64), own::BASE, own::VM)
    }

    proptest! {
        /// Whatever happens to its pages, the cache has the hits of a simulation with the same sizes, and no page is
        /// lost or used twice.
        #[test]
        fn hits_equal_a_simulation_given_the_same_sizes(
            steps in prop::collection::vec((0u64..40, 0u8..20, 0usize..4), 1..600),
        ) {
            let pager = pager();
            let mut store = Store::new();
            let mut object = [0; BYTES];
            let mut held: Vec<u32> = Vec::new();
            let mut next = 0;
            for &(key, what, count) in &steps {
                match what {
                    0..=2 => {
                        store.add(next);
                        held.push(next);
                        next += 1;
                    }
                    3 => {
                        let gone = store.shrink(count);
                        prop_assert_eq!(gone.len(), count.min(held.len()));
                        held.retain(|lease| !gone.contains(lease));
                    }
                    4 => {
                        // By force: any that are held, and one that never was.
                        let mut taken: Vec<u32> = held.iter().copied().step_by(3).take(count).collect();
                        held.retain(|lease| !taken.contains(lease));
                        taken.push(1_000_000);
                        store.taken(&taken, &pager);
                    }
                    _ => {}
                }
                prop_assert_eq!(store.pages(), held.len());
                store.get(mix(key), &pager, &mut object);
                prop_assert!(object::is_of(mix(key), &object));
                let mut places: Vec<u32> = store.empty.clone();
                places.extend(store.rule.places().map(|(_, place)| *place));
                places.sort_unstable();
                let mut expected = held.clone();
                expected.sort_unstable();
                prop_assert_eq!(places, expected);
            }
            let keys = steps.iter().map(|&(key, ..)| mix(key));
            prop_assert_eq!(simulate(keys, &store.report().sizes), store.report().hits);
        }
    }
}
