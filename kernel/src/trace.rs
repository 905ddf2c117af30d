//! What a traced kernel tells a checker outside of the machine: every call with its answer, and what else the
//! specification must know to follow it (`verification/conform` does).
//!
//! Guarantees: a record is written under the kernel lock, and its number counts the records of all cores, so that the
//! rings together are one sequence without a gap. No record is dropped: a ring that is full stops the machine until the
//! checker has taken what all rings hold, and so does [`Trace::ask`], where the checker is to look at the whole of memory.
//! A guest reaches none of this, and a kernel that was not asked to trace never writes it.

#[cfg(any(test, feature = "host"))]
extern crate std;

use crate::types::CoreId;
use crate::vm::MAX_CORES;
use core::sync::atomic::{AtomicU64, Ordering};
use strum::FromRepr;

/// Words of a record: its number; core, and kind in the second byte; TSC; then what the kind says.
pub const WORDS: usize = 12;
/// Details of a record.
pub const DETAILS: usize = WORDS - 3;
/// Records in a ring.
pub const RECORDS: usize = 512;
/// A symbol of this name in the kernel is its [`Trace`].
pub const SYMBOL: &str = "TRACE";
/// The port whose device stops the emulator (QEMU's `pvpanic`), and what is written there.
pub const STOP_PORT: (u16, u32) = (0x505, 1);

/// What a record tells. In brackets the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRepr)]
#[repr(u8)]
pub enum Kind {
    /// The root VM starts, for the first time or once more [its Vcpu, entry].
    RootStarted = 1,
    /// A call begins [invoker, capability pointer, label, arguments 1 to 5].
    Call = 2,
    /// The call that began last ends [a [`Returned`], status, results].
    Return = 3,
    /// A sleeper wakes [Vcpu, result: the events].
    Woken = 4,
    /// An event word, as the kernel found it [Vcpu, word].
    Events = 5,
    /// A core holds the state of another Vcpu from here on, or of none [Vcpu].
    Loaded = 6,
    /// A Vcpu stops by itself [Vcpu, reason].
    Stopped = 7,
    /// The IOMMU has stopped something [function or !0, the record's words].
    Fault = 8,
    /// From when on the share of a Vcpu's reservation is free that it leaves, or shrinks [Vcpu, TSC].
    Freed = 9,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRepr)]
#[repr(u8)]
pub enum Returned {
    /// With this status and these results.
    Done = 0,
    /// The invoker sleeps.
    Blocked = 1,
    /// The invoker repeats it.
    Preempted = 2,
    /// The invoker is gone.
    Gone = 3,
}

/// The records of a core that the checker has not taken yet.
#[derive(Debug)]
#[repr(C)]
struct Ring {
    filled: AtomicU64,
    records: [[AtomicU64; WORDS]; RECORDS],
}

/// What the checker finds in memory.
#[derive(Debug)]
#[repr(C)]
pub struct Trace {
    /// Where the kernel's state is; 0 while nothing is traced.
    kernel: AtomicU64,
    /// [`crate::kernel::LAYOUT`] of this kernel.
    layout: AtomicU64,
    /// Records so far, of all cores.
    sequence: AtomicU64,
    /// How often the checker has been asked.
    asked: AtomicU64,
    /// How often it has answered.
    answered: AtomicU64,
    rings: [Ring; MAX_CORES],
}

impl Trace {
    /// Nothing is traced.
    pub const fn off() -> Trace {
        let rings = [const {
            let records = [const { [const { AtomicU64::new(0) }; WORDS] }; RECORDS];
            Ring { filled: AtomicU64::new(0), records }
        }; MAX_CORES];
        Trace {
            kernel: AtomicU64::new(0),
            layout: AtomicU64::new(0),
            sequence: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            rings,
        }
    }

    /// From here on there are records, by the kernel whose state is at this address.
    pub fn turn_on(&self, kernel: u64, layout: u64) {
        self.layout.store(layout, Ordering::Relaxed);
        self.kernel.store(kernel, Ordering::Release);
    }

    /// True if there are records.
    #[inline(always)]
    pub fn is_on(&self) -> bool {
        self.kernel.load(Ordering::Relaxed) != 0
    }

    /// Writes a record. True if the ring is full: the checker must be asked before the next one. The caller has the lock.
    pub fn record(&self, core: CoreId, kind: Kind, tsc: u64, details: &[u64]) -> bool {
        let number = self.sequence.fetch_add(1, Ordering::Relaxed);
        let ring = &self.rings[core.get() as usize % MAX_CORES];
        let filled = ring.filled.load(Ordering::Relaxed) as usize % RECORDS;
        let head = [number, core.get() as u64 | (kind as u64) << 8, tsc];
        let words = head.into_iter().chain(details.iter().copied()).chain(core::iter::repeat(0));
        for (word, value) in ring.records[filled].iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
        ring.filled.store(filled as u64 + 1, Ordering::Release);
        filled + 1 == RECORDS
    }

    /// Asks the checker, which takes all records; what it answers with is [`Trace::is_answered`]. The caller has the lock.
    pub fn ask(&self) {
        self.asked.fetch_add(1, Ordering::Release);
    }

    /// True when the checker has answered.
    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Acquire) == self.asked.load(Ordering::Relaxed)
    }

    /// For the checker: where the kernel's state is, and its layout.
    #[cfg(any(test, feature = "host"))]
    pub fn kernel(&self) -> (u64, u64) {
        (self.kernel.load(Ordering::Acquire), self.layout.load(Ordering::Relaxed))
    }

    /// For the checker: takes the records of all cores, in their order.
    #[cfg(any(test, feature = "host"))]
    pub fn take(&self) -> std::vec::Vec<[u64; WORDS]> {
        let mut taken = std::vec::Vec::new();
        for ring in &self.rings {
            let filled = ring.filled.swap(0, Ordering::AcqRel) as usize;
            let words = ring.records.iter().take(filled);
            taken.extend(words.map(|record| core::array::from_fn(|word| record[word].load(Ordering::Relaxed))));
        }
        taken.sort_unstable_by_key(|record: &[u64; WORDS]| record[0]);
        taken
    }

    /// For the checker: the kernel may go on.
    #[cfg(any(test, feature = "host"))]
    pub fn answer(&self) {
        self.answered.store(self.asked.load(Ordering::Acquire), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_all_cores_are_one_sequence_and_a_full_ring_says_so() {
        let trace = std::boxed::Box::new(Trace::off());
        assert!(!trace.is_on());
        trace.turn_on(0x1000, 7);
        assert!(trace.is_on() && trace.kernel() == (0x1000, 7));
        for number in 0..2 * RECORDS as u64 {
            let full = trace.record(CoreId::new((number % 2) as u8), Kind::Loaded, 9, &[number, 5]);
            assert_eq!(full, number >= 2 * RECORDS as u64 - 2);
        }
        trace.ask();
        assert!(!trace.is_answered());
        let taken = trace.take();
        trace.answer();
        assert!(trace.is_answered());
        assert_eq!(taken.len(), 2 * RECORDS);
        for (number, record) in (0..).zip(taken) {
            assert_eq!(record[..6], [number, (number % 2) | (6 << 8), 9, number, 5, 0]);
        }
        assert!(trace.take().is_empty());
    }
}
