//! A capability slot: 64 bytes with a capability and its place in the derivation forest.
//!
//! All-zero memory is an array of empty slots, so that a CNode made of clean memory needs no initialisation.
//!
//! The forest is a threaded tree: a capability names its youngest and its eldest child; siblings form a list from the
//! youngest to the eldest, and where that list ends, on either side, the link names the *parent*. So every change of the
//! forest touches a fixed number of slots, however many children there are: a capability moves, and a copy's children
//! pass to its parent, in one step. `derivation` is the only module that writes the links.

use crate::cap::Cap;
use crate::launch::Mark;
use crate::types::SlotId;
use cap_spec::abi::{Rights, SLOT_BITS};

/// Depth of derivation: no capability lies this many steps below a boot capability, so that a walk from a capability
/// to a leaf below it has this bound.
pub const MAX_DEPTH: u8 = 32;

/// One slot.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Slot {
    /// What it holds.
    pub cap: Cap,
    /// The youngest capability derived from it.
    pub first_child: SlotId,
    /// The eldest capability derived from it.
    pub last_child: SlotId,
    /// The next elder sibling; of the eldest, the parent.
    pub next: SlotId,
    /// The next younger sibling; of the youngest, the parent.
    pub prev: SlotId,
    /// What the capability allows.
    pub rights: Rights,
    /// Steps from a boot capability when it was made; never less than the steps today.
    pub depth: u8,
    /// The object lives as long as this capability (made by boot, Retype or Split).
    pub original: bool,
    /// Made at boot: it was derived from nothing, and is never deleted nor moved.
    pub boot: bool,
    /// The youngest of its parent's children.
    pub first: bool,
    /// The eldest of its parent's children.
    pub last: bool,
    /// Whose check of a launch has passed it.
    pub mark: Mark,
}

const _: () = assert!(size_of::<Slot>() == 1 << SLOT_BITS, "the ABI fixes the size of a slot");
const _: () = assert!(size_of::<Cap>() <= 40, "what is left beside links and rights");

impl Slot {
    /// An empty slot.
    pub const EMPTY: Slot = Slot {
        cap: Cap::Null,
        first_child: SlotId::NONE,
        last_child: SlotId::NONE,
        next: SlotId::NONE,
        prev: SlotId::NONE,
        rights: Rights::empty(),
        depth: 0,
        original: false,
        boot: false,
        first: false,
        last: false,
        mark: Mark::NONE,
    };

    /// A slot of this capability that is in no forest yet; [`crate::derivation`] links it.
    #[inline]
    pub const fn of(cap: Cap, rights: Rights, original: bool) -> Slot {
        Slot { cap, rights, original, ..Slot::EMPTY }
    }

    /// True if it holds nothing.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        matches!(self.cap, Cap::Null)
    }

    /// True if something is derived from it.
    #[inline]
    pub const fn has_children(&self) -> bool {
        self.first_child.is_some()
    }
}
