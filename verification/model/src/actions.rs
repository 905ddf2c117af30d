//! The invocations that a VM may make in a state: every argument that its patterns allow.
//!
//! Where an argument may be anything, it is anything that it could sensibly be: each capability of the right type that the
//! VM holds, each full slot, an empty slot of each CNode, and for numbers [the usual ones](usual). A VM works with
//! the slots that its question gives it, and its capabilities for itself, which lie in other slots, are neither copied nor
//! removed.

use cap_spec::abi::{CptrParts, Label, ObjectType, Rights, SLOT_BITS};
use cap_spec::machine::{CNodeId, Call, Cap, SlotId, State};
use cap_spec::spec::{ArgKind, ArgSpec};

use crate::question::{Choice, Pattern, Question, Which, label_name};
use crate::world::{FIRST_WORKING, Party, Thing, World};

/// What a number is where a pattern does not say it. `None`: a pattern must say it.
fn usual(label: Label, arg: &ArgSpec) -> Option<&'static [u64]> {
    Some(match arg.name {
        "rights" if matches!(label, Label::FrameMap | Label::FrameMapIo) => &[1],
        "rights" => &[31],
        "move" => &[0, 1],
        "count" if matches!(label, Label::IrqSplit | Label::IoPortSplit) => return None,
        "count" | "level" | "mask" | "bits" | "width" => &[1],
        "vector" => &[32],
        "what" => &[6],
        "type" | "first" | "budget" | "period" | "port" => return None,
        _ => &[0],
    })
}

/// The size of an object, where a pattern does not say it: the smallest.
fn usual_size(object: u64) -> &'static [u64] {
    match ObjectType::from_number(object) {
        Some(ObjectType::Untyped | ObjectType::Frame) => &[12],
        Some(ObjectType::CNode) => &[6],
        _ => &[0],
    }
}

/// Checks that a pattern says all that it must.
///
/// # Errors
/// What is missing, and what to write.
pub fn check(pattern: &Pattern) -> Result<(), (String, String)> {
    for (arg, choice) in pattern.label.spec().args.iter().zip(&pattern.args) {
        if arg.kind == ArgKind::Number && *choice == Choice::Any && usual(pattern.label, arg).is_none() {
            let what = format!("{} must say which `{}`", label_name(pattern.label), arg.name);
            return Err((what, format!("write {} = ..., {}", arg.name, arg.doc)));
        }
    }
    Ok(())
}

/// What a VM can name.
pub struct View {
    /// Every full slot that it reaches, with the pointer by which it does.
    pub slots: Vec<(u64, SlotId)>,
}

impl View {
    /// What a VM can name in a state.
    pub fn of(state: &State, root: CNodeId) -> View {
        let mut view = View { slots: Vec::new() };
        view.add(state, root, 0);
        for (cptr, slot) in view.slots.clone() {
            let found = &state.slots[&slot];
            if let (Cap::CNode { id, .. }, true) = (&found.cap, found.rights.contains(Rights::READ))
                && *id != root
            {
                view.add(state, *id, cptr as u16);
            }
        }
        view
    }

    fn add(&mut self, state: &State, cnode: CNodeId, node: u16) {
        let Some(bits) = state.cnodes.get(&cnode) else { return };
        for slot in state.slots.range(cnode.slot(1)..cnode.slot(1 << bits)).map(|(id, _)| *id) {
            let index = ((slot.0 - cnode.0) >> SLOT_BITS) as u16;
            self.slots.push((CptrParts { node, index }.to_raw(), slot));
        }
    }
}

/// The invocations of one pattern while they are put together.
struct Calls<'a> {
    question: &'a Question,
    state: &'a State,
    view: &'a View,
    pattern: &'a Pattern,
    call: Call,
    /// Of the invoked capability and each argument so far, the CNode that it names.
    cnodes: [Option<CNodeId>; 6],
    found: &'a mut dyn FnMut(Call),
}

/// Every invocation that fits a pattern.
pub fn calls(question: &Question, state: &State, view: &View, pattern: &Pattern, found: &mut dyn FnMut(Call)) {
    let label = pattern.label;
    let call = Call { cptr: 0, label: label as u64, args: [0; 5] };
    let mut calls = Calls { question, state, view, pattern, call, cnodes: [None; 6], found };
    for &(cptr, slot) in &view.slots {
        let cap = &state.slots[&slot].cap;
        let is_type = label.object() == ObjectType::Null || cap.object_type() == label.object();
        if is_type && fits(question, state, &pattern.on, slot) {
            calls.call.cptr = cptr;
            calls.cnodes[0] = cnode_of(cap);
            if label == Label::VcpuLaunch {
                calls.launch(cap);
            } else {
                calls.argument(1);
            }
        }
    }
}

/// True if the capability in a slot is one of those that a pattern allows.
pub fn fits(question: &Question, state: &State, choice: &Choice, slot: SlotId) -> bool {
    let Choice::Things(things) = choice else { return true };
    let Some(found) = state.slots.get(&slot) else { return false };
    things.iter().any(|wanted| {
        let thing = &question.things[wanted.thing];
        thing.concerns(&found.cap)
            && match wanted.which {
                Which::Any => true,
                Which::First => !is_derived(state, thing, slot),
                Which::Derived => is_derived(state, thing, slot),
            }
    })
}

/// True if a capability for a thing was derived from another for it, those of boot and set-up left out.
fn is_derived(state: &State, thing: &Thing, slot: SlotId) -> bool {
    let above = |slot: SlotId| state.slots.get(&slot).and_then(|slot| slot.parent);
    let mut parent = above(slot);
    while let Some(slot) = parent.filter(|slot| !World::is_hidden(*slot)) {
        if state.slots.get(&slot).is_some_and(|slot| thing.concerns(&slot.cap)) {
            return true;
        }
        parent = above(slot);
    }
    false
}

fn cnode_of(cap: &Cap) -> Option<CNodeId> {
    match cap {
        Cap::CNode { id, .. } => Some(*id),
        _ => None,
    }
}

/// The slots of a CNode that events use.
pub fn working(question: &Question, cnode: CNodeId) -> std::ops::Range<u64> {
    match question.parties().iter().find(|party| party.root == cnode) {
        Some(Party { slots, .. }) => FIRST_WORKING..FIRST_WORKING + slots,
        None => 1..1 + question.cnode_slots,
    }
}

/// True for a slot of a root CNode that holds what a VM has of itself.
fn is_own(cptr: u64) -> bool {
    cptr < FIRST_WORKING
}

impl Calls<'_> {
    /// Launch names its base, and the slot for the Vcpu, in the CSpace of the VM that is launched.
    fn launch(&mut self, cap: &Cap) {
        let Cap::Vcpu(vcpu) = cap else { return };
        let vm = self.state.vcpus.get(vcpu).and_then(|vcpu| vcpu.vm);
        let Some(root) = vm.and_then(|vm| self.state.vms.get(&vm)?.cspace) else { return };
        let range = working(self.question, root);
        let free = range.into_iter().find(|index| !self.state.slots.contains_key(&root.slot(*index)));
        let Some(free) = free else { return };
        for (base, slot) in View::of(self.state, root).slots {
            if matches!(self.state.slots[&slot].cap, Cap::Untyped { .. }) {
                self.call.args[..2].copy_from_slice(&[base, free]);
                (self.found)(self.call);
            }
        }
    }

    /// Every value of argument `number`, and of those behind it.
    fn argument(&mut self, number: usize) {
        let Some(arg) = self.pattern.label.spec().args.get(number - 1) else {
            (self.found)(self.call);
            return;
        };
        let (question, state, view) = (self.question, self.state, self.view);
        let choice = &self.pattern.args[number - 1];
        match arg.kind {
            ArgKind::Number => {
                let values = match choice {
                    Choice::Numbers(numbers) => numbers.as_slice(),
                    _ if arg.name == "size_bits" => usual_size(self.call.args[0]),
                    _ => usual(self.pattern.label, arg).unwrap_or_default(),
                };
                for value in values {
                    self.go_on(number, *value, None);
                }
            }
            ArgKind::Capability(object, _) => {
                for &(cptr, slot) in &view.slots {
                    let cap = &state.slots[&slot].cap;
                    if cap.object_type() == object && fits(question, state, choice, slot) {
                        self.go_on(number, cptr, cnode_of(cap));
                    }
                }
            }
            ArgKind::AnyCapability => {
                for &(cptr, slot) in &view.slots {
                    let cap = &state.slots[&slot].cap;
                    if !is_own(cptr) && fits(question, state, choice, slot) {
                        self.go_on(number, cptr, cnode_of(cap));
                    }
                }
            }
            ArgKind::EmptySlot | ArgKind::FullSlot => {
                // The CNode is the argument before, if that is one, or the invoked one.
                let Some(cnode) = self.cnodes[number - 1].or(self.cnodes[0]) else { return };
                let Some(bits) = state.cnodes.get(&cnode) else { return };
                let range = working(question, cnode);
                let end = range.end.min(1 << bits);
                for index in range.start..end {
                    let found = state.slots.get(&cnode.slot(index));
                    match (arg.kind, found) {
                        (ArgKind::FullSlot, Some(_)) if fits(question, state, choice, cnode.slot(index)) => {
                            self.go_on(number, index, None);
                        }
                        (ArgKind::EmptySlot, None) => {
                            self.go_on(number, index, None);
                            // Any other empty slot is this one by another name.
                            if question.naming.merges && question.naming.renames_slots {
                                return;
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    fn go_on(&mut self, number: usize, value: u64, cnode: Option<CNodeId>) {
        self.call.args[number - 1] = value;
        self.cnodes[number] = cnode;
        self.argument(number + 1);
        self.cnodes[number] = None;
    }
}
