//! The specification of slots and their derivation, as `cap_spec::machine` has it, over arrays: what a solver can look at
//! whole.
//!
//! A slot has a parent here, and no list of children: how the kernel finds them is its own business. The order of siblings
//! is nobody's. Each rule names the one of `cap_spec::machine` that it says again; `tests/specification.rs` takes the same
//! steps by both and compares.

use cap_spec::abi::{ObjectType, PAGE_BITS, Rights, SLOT_BITS};
use kernel::cap::{Cap, Mapping};
use kernel::slot::Slot;
use kernel::types::{Hpa, SlotId, VmId};

use crate::world::World;

/// A slot, seen from outside.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// What it holds.
    pub cap: Cap,
    /// What the capability allows.
    pub rights: Rights,
    /// The slot that it was derived from: none for a boot capability.
    pub parent: SlotId,
    /// Steps from a boot capability when it was made.
    pub depth: u8,
    /// The object lives as long as it.
    pub original: bool,
    /// Made at boot.
    pub boot: bool,
}

impl Record {
    /// An empty slot.
    pub const EMPTY: Record = Record {
        cap: Cap::Null,
        rights: Rights::empty(),
        parent: SlotId::NONE,
        depth: 0,
        original: false,
        boot: false,
    };

    /// True if it holds something.
    pub const fn is_full(&self) -> bool {
        !matches!(self.cap, Cap::Null)
    }
}

/// All slots, seen from outside.
#[derive(Clone, Copy, Debug)]
pub struct State<const N: usize> {
    /// Slots 1 to N.
    pub slots: [Record; N],
}

/// The number of a slot in an array; N or more if it is none.
fn place(id: SlotId) -> usize {
    (id.get() as usize).wrapping_sub(1)
}

/// Where a link of a slot leads, if that is a full slot of this world: without a panic, as links may be anything until it is
/// known that they are not.
fn linked<const N: usize, const V: usize>(world: &World<N, V>, id: SlotId) -> Option<&Slot> {
    world.slots.get(place(id)).filter(|slot| !slot.is_empty())
}

/// Of each slot, how far the walk along the links to the next younger sibling has come: to the youngest, if the list is one.
/// Each round doubles the steps, so that after log2 N of them every list of N slots has been walked.
fn youngest<const N: usize, const V: usize>(world: &World<N, V>) -> [usize; N] {
    let mut reached = [0; N];
    for (at, slot) in world.slots.iter().enumerate() {
        reached[at] = if slot.first || slot.boot { at } else { place(slot.prev).min(N - 1) };
    }
    let mut steps = 1;
    while steps < N - 1 {
        let before = reached;
        for at in reached.iter_mut() {
            *at = before[*at];
        }
        steps *= 2;
    }
    reached
}

/// What the specification sees of a world.
pub fn view<const N: usize, const V: usize>(world: &World<N, V>) -> State<N> {
    let youngest = youngest(world);
    let mut state = State { slots: [Record::EMPTY; N] };
    for ((slot, record), youngest) in world.slots.iter().zip(&mut state.slots).zip(youngest) {
        if !slot.is_empty() {
            let parent = if slot.boot { SlotId::NONE } else { world.slots[youngest].prev };
            let &Slot { cap, rights, depth, original, boot, .. } = slot;
            *record = Record { cap, rights, parent, depth, original, boot };
        }
    }
    state
}

/// Well-formedness of slots: the invariant of `derivation`, as a program without branches.
///
/// Siblings name each other, the ends of a list and the parent name each other, every list has an end, and a child is deeper
/// than its parent. So following the parents ends, within [`kernel::slot::MAX_DEPTH`] steps, at a boot capability.
pub fn is_well_formed<const N: usize, const V: usize>(world: &World<N, V>) -> bool {
    let youngest = youngest(world);
    let mut holds = true;
    for ((slot, number), youngest) in world.slots.iter().zip(1..).zip(youngest) {
        let id = SlotId::new(number);
        let has_child = slot.first_child.is_some();
        let first_child = linked(world, slot.first_child);
        let last_child = linked(world, slot.last_child);
        let children = (has_child == slot.last_child.is_some())
            & (!has_child | first_child.is_some_and(|child| !child.boot & child.first & (child.prev == id)))
            & (!has_child | last_child.is_some_and(|child| !child.boot & child.last & (child.next == id)));
        let boot = !slot.prev.is_some() & !slot.next.is_some() & !slot.first & !slot.last & (slot.depth == 0);
        let younger = linked(world, slot.prev).is_some_and(|other| {
            (slot.first & (other.first_child == id)) | (!slot.first & !other.boot & !other.last & (other.next == id))
        });
        let elder = linked(world, slot.next).is_some_and(|other| {
            (slot.last & (other.last_child == id)) | (!slot.last & !other.boot & !other.first & (other.prev == id))
        });
        let end = &world.slots[youngest];
        let above = linked(world, end.prev);
        let has_parent = end.first
            & (!slot.last | (slot.next == end.prev))
            & above.is_some_and(|parent| parent.depth < slot.depth)
            & (slot.depth < kernel::slot::MAX_DEPTH);
        let links = (slot.boot & boot) | (!slot.boot & younger & elder & has_parent);
        // What has one owner is never a copy.
        let kind = slot.original | !slot.cap.object_type().is_unique();
        holds &= slot.is_empty() | (children & links & kind);
    }
    holds
}

impl<const N: usize> State<N> {
    /// The slot with this id.
    pub fn get(&self, id: SlotId) -> Record {
        self.slots[place(id)]
    }

    /// Another record for the slot with this id. (Written at places that are known, of which one is chosen: a formula is
    /// smaller so than with a place that may be any.)
    fn put(&mut self, id: SlotId, record: Record) {
        for (own, number) in self.slots.iter_mut().zip(1..) {
            if SlotId::new(number) == id {
                *own = record;
            }
        }
    }

    /// True for the id of a slot of this world.
    pub fn has(&self, id: SlotId) -> bool {
        place(id) < N
    }

    /// True if something is derived from this slot.
    pub fn has_children(&self, id: SlotId) -> bool {
        self.slots.iter().fold(false, |found, slot| found | (slot.is_full() & (slot.parent == id)))
    }

    /// True if the second slot is derived from the first, directly or not.
    pub fn is_below(&self, above: SlotId, id: SlotId) -> bool {
        let (mut at, mut found) = (id, false);
        for _ in 1..N {
            let record = if self.has(at) { self.get(at) } else { Record::EMPTY };
            at = record.parent;
            found |= record.is_full() & (at == above);
        }
        found
    }

    /// `derivation::derive` of the specification: Copy, Mint, and a copying Grant.
    pub fn derive(&mut self, from: SlotId, to: SlotId, mask: Rights, cap: Cap) {
        let source = self.get(from);
        let (rights, depth) = (source.rights.intersection(mask), source.depth.wrapping_add(1));
        self.put(to, Record { cap, rights, parent: from, depth, original: false, boot: false });
    }

    /// An original below a parent, as Retype and Split make it.
    pub fn make(&mut self, parent: SlotId, to: SlotId, cap: Cap, rights: Rights) {
        let depth = self.get(parent).depth.wrapping_add(1);
        self.put(to, Record { cap, rights, parent, depth, original: true, boot: false });
    }

    /// `untyped::retype` of the specification, of what is made in slots alone: a row of originals with every right, and the
    /// watermark behind them.
    pub fn retype(&mut self, untyped: SlotId, object: ObjectType, bits: u8, to: SlotId, count: u32, offset: u64) {
        let Cap::Untyped { base, device, bits: own, vm, .. } = self.get(untyped).cap else { return };
        let size = 1u64 << bits;
        let watermark = offset.wrapping_add(size.wrapping_mul(count.into()));
        self.set_cap(untyped, Cap::Untyped { bits: own, device, vm, base, watermark });
        for number in 0..N as u32 {
            if number < count {
                let start = base.plus(offset).plus(size.wrapping_mul(number.into()));
                self.make(untyped, to.plus(number), made(object, start, bits, device), Rights::all());
            }
        }
    }

    /// Another capability in the same slot.
    pub fn set_cap(&mut self, slot: SlotId, cap: Cap) {
        for (own, number) in self.slots.iter_mut().zip(1..) {
            if SlotId::new(number) == slot {
                own.cap = cap;
            }
        }
    }

    /// `derivation::relocate` of the specification: Move, Accept, and a moving Grant.
    pub fn relocate(&mut self, from: SlotId, to: SlotId, mask: Rights) {
        let moved = self.get(from);
        self.put(from, Record::EMPTY);
        self.put(to, Record { rights: moved.rights.intersection(mask), ..moved });
        self.hand_on(from, to);
    }

    /// `derivation::remove` of the specification, of one capability: its children become its parent's.
    pub fn remove(&mut self, slot: SlotId) {
        let parent = self.get(slot).parent;
        self.put(slot, Record::EMPTY);
        self.hand_on(slot, parent);
    }

    /// What `derivation::remove` and `remove_descendants` of the specification do to one capability from which nothing is
    /// derived: it goes, and if it was an Untyped that was all of its parent's memory, the parent is as clean as it was. (That
    /// it is the only child is what the specification has from memory that never overlaps.)
    pub fn take_leaf(&mut self, slot: SlotId) {
        let Record { cap, parent, .. } = self.get(slot);
        let is_only = self.is_only_child(slot);
        for (record, number) in self.slots.iter_mut().zip(1..) {
            if SlotId::new(number) == slot {
                *record = Record::EMPTY;
            }
            if let Cap::Untyped { bits: whole, base: start, watermark: above, .. } = &mut record.cap
                && let Cap::Untyped { bits, base, watermark, .. } = cap
                && (SlotId::new(number) == parent) & (*whole == bits) & (*start == base) & is_only
            {
                *above = watermark;
            }
        }
    }

    /// True if nothing else is derived from what this slot was derived from.
    fn is_only_child(&self, slot: SlotId) -> bool {
        let parent = self.get(slot).parent;
        let is_child = |other: &Record| other.is_full() & (other.parent == parent);
        self.slots.iter().fold(0u32, |children, other| children.wrapping_add(is_child(other).into())) == 1
    }

    /// The children of one slot become those of another.
    fn hand_on(&mut self, from: SlotId, to: SlotId) {
        for slot in &mut self.slots {
            if slot.is_full() & (slot.parent == from) {
                slot.parent = to;
            }
        }
    }
}

/// True if two slots are the same, seen from outside.
pub fn is_same(one: &Record, other: &Record) -> bool {
    let links = (one.parent == other.parent) & (one.depth == other.depth);
    let flags = (one.rights == other.rights) & (one.original == other.original) & (one.boot == other.boot);
    (one.cap == other.cap) & links & flags
}

/// The capability to an object that Retype has just made in slots alone.
fn made(object: ObjectType, base: Hpa, bits: u8, device: bool) -> Cap {
    match object {
        ObjectType::Untyped => Cap::Untyped { bits, device, vm: VmId::NONE, base, watermark: 0 },
        ObjectType::CNode => Cap::CNode { bits: bits.wrapping_sub(SLOT_BITS), vm: VmId::NONE, base: base.to_slot() },
        ObjectType::Frame => Cap::Frame { bits, device, kernel_page: false, base, mapping: Mapping::NONE },
        _ => Cap::PageTable { base, mapping: Mapping::NONE },
    }
}

/// `cnode::copied` and what `cnode::mint` of the specification chooses: the same object, mapped and used nowhere, of a
/// channel the chosen end, of a domain the chosen window.
pub fn copied(cap: Cap, badge: u64) -> Cap {
    match cap {
        Cap::Frame { bits, device, kernel_page, base, .. } => {
            Cap::Frame { bits, device, kernel_page, base, mapping: Mapping::NONE }
        }
        Cap::CNode { bits, base, .. } => Cap::CNode { bits, vm: VmId::NONE, base },
        Cap::Channel { id, .. } if badge != 0 => Cap::Channel { end: badge as u8, id },
        Cap::IommuDomain { id, .. } if badge != 0 => {
            let offset = badge & ((1 << PAGE_BITS) - 1);
            Cap::IommuDomain { id, bits: offset as u8, first: badge.wrapping_sub(offset) }
        }
        other => other,
    }
}
