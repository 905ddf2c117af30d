//! Attacks by invocations: random ones, structures that make destruction hard, and work that holds the kernel.
//!
//! Slots from [`SCRATCH`] on are used freely; an attack may well destroy its own VM, which is a good end too.

use cap_spec::abi::{Error, Label, ObjectType, Rights, Status};
use cap_spec::spec::ArgKind;
use userlib::cap::{CNode, Cap, Frame, Slot, Untyped, own};
use userlib::invoke::raw;

/// First slot that the attacks use.
pub const SCRATCH: u16 = 64;

/// A deterministic source of numbers (splitmix64).
#[derive(Clone, Copy, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.word() % bound
    }

    /// A number that is likely to be near something: a small one, a power of two and its neighbours, an address, or
    /// any.
    pub(crate) fn interesting(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(16),
            1 => self.below(128),
            2 => (1u64 << self.below(64)).wrapping_add(self.below(3)).wrapping_sub(1),
            3 => self.below(1 << 20) << 12,
            4 => self.below(8) << 16 | self.below(64),
            _ => self.word(),
        }
    }
}

/// What random invocations came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Invocations {
    /// Made.
    pub made: u64,
    /// Of these, carried out.
    pub carried_out: u64,
    /// Answered with a status that is no status.
    pub nonsense: u64,
}

/// Random capabilities, labels and arguments, half of them such that each argument is of the kind that the ABI wants.
/// What would end this VM at once (deleting its own image, stopping its own Vcpu, waiting for ever) is left out, so that
/// all of them are made. `end` is the first slot that the attacker must leave alone.
pub fn random_invocations(seed: u64, count: u64, end: u16) -> Invocations {
    let mut random = Random(seed);
    let mut tally = Invocations::default();
    while tally.made < count {
        if tally.made % REFILL == 0 {
            refill();
        }
        let label = if random.below(16) == 0 { random.interesting() } else { random.below(Label::COUNT as u64) };
        let mut cptr = if random.below(4) == 0 { random.interesting() } else { random.below(u64::from(SCRATCH) + 32) };
        let mut args = [0; 5];
        for arg in &mut args {
            *arg = random.interesting();
        }
        if let Some(label) = Label::from_number(label)
            && random.below(2) == 0
        {
            let spec = label.spec();
            cptr = likely_slot(&mut random, spec.label.object());
            for (arg, kind) in args.iter_mut().zip(spec.args) {
                *arg = likely(&mut random, kind.kind).unwrap_or(*arg);
            }
        }
        if is_suicide(label, cptr, &args, end) {
            continue;
        }
        let (status, ..) = raw(cptr, label, args);
        tally.made += 1;
        if status == 0 {
            tally.carried_out += 1;
        } else if Error::from_number(status as u8).is_none() || status >> 32 != 0 {
            tally.nonsense += 1;
        }
    }
    tally
}

/// After so many invocations the attacker makes itself new objects to play with.
const REFILL: u64 = 2_000;
/// The block that the objects come from, and the slots that they are made in.
const WORK: u16 = SCRATCH;
const KINDS: [(ObjectType, u64); 8] = [
    (ObjectType::Untyped, 14),
    (ObjectType::CNode, 6),
    (ObjectType::Frame, 12),
    (ObjectType::PageTable, 0),
    (ObjectType::Vm, 0),
    (ObjectType::Vcpu, 0),
    (ObjectType::Channel, 0),
    (ObjectType::IommuDomain, 0),
];
/// Objects of each kind.
const EACH: u16 = 2;
/// Slots that random capabilities go into.
const PLAYGROUND: u64 = 24;

/// Empties the playground and makes [`EACH`] objects of every kind again, from a block that is revoked for it.
fn refill() {
    let work: Cap<Untyped> = Slot::root(WORK).cap();
    if work.revoke().is_err() {
        let _ = own::BASE.retype::<Untyped>(18, Slot::root(WORK));
    }
    for offset in 1..=u64::from(EACH) * KINDS.len() as u64 + PLAYGROUND {
        let _ = Slot::root(SCRATCH + offset as u16).delete();
    }
    for (number, (kind, bits)) in KINDS.into_iter().enumerate() {
        let first = u64::from(SCRATCH) + 1 + number as u64 * u64::from(EACH);
        let args = [kind as u64, bits, own::CNODE.cptr(), first, u64::from(EACH)];
        let _ = raw(work.cptr(), Label::UntypedRetype as u64, args);
    }
}

/// A slot that is likely to hold an object of this type.
fn likely_slot(random: &mut Random, kind: ObjectType) -> u64 {
    let made = KINDS.iter().position(|&(known, _)| known == kind);
    let own_slot = match kind {
        ObjectType::CNode => Some(own::CNODE.cptr()),
        ObjectType::Vm => Some(own::VM.cptr()),
        ObjectType::Vcpu => Some(own::VCPU.cptr()),
        ObjectType::Channel => Some([own::MARKET.cptr(), own::CONSOLE.cptr()][random.below(2) as usize]),
        _ => None,
    };
    match (random.below(4), made, own_slot) {
        (0, _, Some(slot)) => slot,
        (1, ..) => u64::from(SCRATCH) + 1 + random.below(u64::from(EACH) * KINDS.len() as u64 + PLAYGROUND),
        (_, Some(number), _) => {
            u64::from(SCRATCH) + 1 + number as u64 * u64::from(EACH) + random.below(u64::from(EACH))
        }
        (_, None, Some(slot)) => slot,
        _ => random.below(u64::from(SCRATCH)),
    }
}

/// A value that is likely to be right for an argument of this kind; `None` for any number.
fn likely(random: &mut Random, kind: ArgKind) -> Option<u64> {
    let objects = u64::from(EACH) * KINDS.len() as u64;
    match kind {
        ArgKind::Number => None,
        ArgKind::Capability(kind, _) => Some(likely_slot(random, kind)),
        ArgKind::AnyCapability => Some(u64::from(SCRATCH) + 1 + random.below(objects + PLAYGROUND)),
        ArgKind::EmptySlot => Some(u64::from(SCRATCH) + 1 + objects + random.below(PLAYGROUND)),
        ArgKind::FullSlot => Some(u64::from(SCRATCH) + 1 + random.below(objects + PLAYGROUND)),
    }
}

/// True for what would take the attacker's own image, or let it wait without end.
fn is_suicide(label: u64, cptr: u64, args: &[u64; 5], end: u16) -> bool {
    let Some(label) = Label::from_number(label) else { return false };
    let names_own = |slot: u64| !(u64::from(WORK) + 1..u64::from(end)).contains(&(slot & 0xffff));
    match label {
        Label::CNodeDelete | Label::CNodeRevoke => names_own(args[0]),
        Label::CNodeMove => names_own(args[1]),
        Label::ChannelGrant => names_own(args[0]),
        Label::VcpuStop | Label::VcpuWait | Label::ChannelWait | Label::VcpuUnbindTime => true,
        // What it makes of its base is never given back.
        Label::UntypedRetype => names_own(cptr) && cptr != u64::from(WORK),
        Label::FrameUnmap | Label::PageTableUnmap => names_own(cptr),
        _ => false,
    }
}

/// CNodes in CNodes, a cycle, and a CNode that holds its own original; then everything is revoked. Returns how many of
/// these ended otherwise than they must (0 is right).
pub fn cnodes_in_cnodes() -> u64 {
    let mut wrong = 0;
    let work: Cap<Untyped> = match own::BASE.retype::<Untyped>(16, Slot::root(SCRATCH)) {
        Ok(work) => work,
        Err(_) => return 1,
    };
    let [first, second, third] = [1, 2, 3].map(|offset| Slot::root(SCRATCH + offset));
    for (slot, bits) in [(first, 6), (second, 6), (third, 6)] {
        wrong += u64::from(work.retype::<CNode>(bits, slot).is_err());
    }
    // The third into the second, the second into the first, then a copy of the first into the third.
    let into = |holder: u16, index: u16, source: Slot, label: Label| {
        let (status, ..) = raw(
            Slot::root(SCRATCH + holder).cptr(),
            label as u64,
            [u64::from(index), source.cptr(), u64::from(Rights::all().bits()), 0, 0],
        );
        u64::from(status != Status::OK.0)
    };
    wrong += into(3, 5, first, Label::CNodeCopy);
    wrong += into(2, 5, third, Label::CNodeMove);
    wrong += into(1, 5, second, Label::CNodeMove);
    // The first CNode's own original into itself: from now on nobody but the Untyped reaches it.
    wrong += into(1, 6, first, Label::CNodeMove);
    wrong += u64::from(work.revoke().is_err());
    wrong += u64::from(work.retype::<CNode>(6, first).is_err());
    wrong += u64::from(work.delete().is_err());
    wrong
}

/// Revokes the attacker's own base: its VM, CNode and image go. Nothing returns from here.
pub fn revoke_own_base() -> ! {
    loop {
        let _ = own::BASE.revoke();
    }
}

/// Stops its own Vcpu.
pub fn stop_itself() -> ! {
    loop {
        let _ = own::VCPU.stop();
    }
}

/// Deletes its own CNode and goes on running with nothing.
pub fn delete_own_cnode() -> ! {
    let _ = own::CNODE.delete();
    loop {
        let _ = raw(1, 0, [0; 5]);
    }
}

/// Retypes and revokes in a loop, as large as possible, to hold the kernel.
pub fn hold_the_kernel(rounds: u64) -> u64 {
    let mut wrong = 0;
    let Ok(work) = own::BASE.retype::<Untyped>(18, Slot::root(SCRATCH)) else { return 1 };
    for _ in 0..rounds {
        wrong += u64::from(work.retype_many::<Frame>(12, Slot::root(SCRATCH + 1), 60).is_err());
        wrong += u64::from(work.revoke().is_err());
    }
    wrong + u64::from(work.delete().is_err())
}

/// Makes objects of every kind until there is no memory, no slot or no room, and reservations, routes and ports until
/// they are refused. Returns how often a refusal was not one of those that exhaustion has.
pub fn exhaust() -> u64 {
    let mut wrong = 0;
    let kinds = [
        (ObjectType::Untyped, 12),
        (ObjectType::CNode, 6),
        (ObjectType::Frame, 12),
        (ObjectType::PageTable, 0),
        (ObjectType::Vm, 0),
        (ObjectType::Vcpu, 0),
        (ObjectType::Channel, 0),
    ];
    let Ok(work) = own::BASE.retype::<Untyped>(16, Slot::root(SCRATCH)) else { return 1 };
    for (kind, bits) in kinds {
        let mut index = SCRATCH + 1;
        loop {
            let args = [kind as u64, bits, own::CNODE.cptr(), u64::from(index), 1];
            match Status(raw(work.cptr(), Label::UntypedRetype as u64, args).0).to_result() {
                Ok(()) => index += 1,
                Err(fault) => {
                    let expected = [Error::NotEnoughMemory, Error::OutOfRange, Error::SlotOccupied];
                    wrong += u64::from(!expected.contains(&fault.error));
                    break;
                }
            }
        }
        wrong += u64::from(work.revoke().is_err());
    }
    // Copies of one capability until the slots are gone or the derivation is too deep.
    let mut index = SCRATCH + 1;
    wrong += u64::from(work.retype::<Frame>(12, Slot::root(index)).is_err());
    loop {
        let args = [u64::from(index) + 1, u64::from(index), u64::from(Rights::all().bits()), 0, 0];
        match Status(raw(own::CNODE.cptr(), Label::CNodeCopy as u64, args).0).to_result() {
            Ok(()) => index += 1,
            Err(fault) => {
                wrong += u64::from(!matches!(fault.error, Error::TooDeep | Error::OutOfRange | Error::SlotOccupied));
                break;
            }
        }
    }
    wrong + u64::from(work.revoke().is_err()) + u64::from(work.delete().is_err())
}

/// Signals both servers as fast as it can.
pub fn flood_with_signals(count: u64) -> u64 {
    let mut wrong = 0;
    for _ in 0..count {
        wrong += u64::from(own::MARKET.signal().is_err());
        wrong += u64::from(own::CONSOLE.signal().is_err());
    }
    wrong
}

/// Deletes every capability that it has, from the top: its image, tables and stack go under it. Nothing returns.
pub fn delete_everything() -> ! {
    let slots = own::CNODE.slot().identify().map_or(1 << 16, |node| node.amount);
    for index in (1..slots.min(1 << 16)).rev() {
        let _ = Slot::root(index as u16).delete();
    }
    loop {
        let _ = raw(1, 0, [0; 5]);
    }
}
