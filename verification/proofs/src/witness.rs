//! What an operation's parameters were in a step of the executable specification: read off the call, and off what is
//! different afterwards.

use crate::abstraction::{Elements, Object, object_of};
use crate::operation::Operation;
use crate::structure::{Structure, Table};
use crate::term::Sort;
use cap_spec::abi::{CptrParts, Label, Rights};
use cap_spec::machine::{CNodeId, Call, Cap, Message, SlotId, State, VcpuId, in_flight_slot};

/// A step: an invocation that was not refused.
pub struct Step<'a> {
    /// The state before.
    pub before: &'a State,
    /// The state afterwards.
    pub after: &'a State,
    /// Who invoked.
    pub invoker: VcpuId,
    /// What.
    pub call: Call,
    /// The label of that.
    pub label: Label,
}

/// The slot of `cnode` with this index.
fn slot_of(state: &State, cnode: CNodeId, index: u64) -> Option<SlotId> {
    (index < 1 << state.cnodes.get(&cnode)?).then(|| cnode.slot(index))
}

/// The slot that a capability pointer names, with this root CNode.
fn find(state: &State, root: CNodeId, cptr: u64) -> Option<SlotId> {
    let CptrParts { node, index } = CptrParts::from_raw(cptr)?;
    let mut cnode = root;
    if node != 0 {
        let second = state.slots.get(&slot_of(state, root, node.into())?)?;
        match second.cap {
            Cap::CNode { id, .. } if second.rights.contains(Rights::READ) => cnode = id,
            _ => return None,
        }
    }
    slot_of(state, cnode, index.into()).filter(|slot| state.slots.contains_key(slot))
}

impl Step<'_> {
    fn root(&self) -> Option<CNodeId> {
        self.before.vms.get(&self.before.vcpus.get(&self.invoker)?.vm?)?.cspace
    }

    /// The slot that argument `number` names; 0 is the invoked capability.
    fn argument(&self, number: usize) -> Option<SlotId> {
        let cptr = if number == 0 { self.call.cptr } else { self.call.args[number - 1] };
        find(self.before, self.root()?, cptr)
    }

    fn cap(&self, slot: SlotId) -> &Cap {
        &self.before.slots[&slot].cap
    }

    /// The object that the capability in a slot names.
    fn named(&self, slot: Option<SlotId>) -> Option<Object> {
        object_of(self.cap(slot?))
    }

    /// The operation that this step is one of.
    pub fn name(&self) -> Option<&'static str> {
        let is_move = self.label == Label::ChannelGrant && self.call.args[2] == 1;
        let is_it = |operation: &&Operation| operation.labels.contains(&self.label);
        let operations = crate::operations::operations();
        match self.label {
            Label::ChannelGrant => Some(if is_move { "grant-move" } else { "grant-child" }),
            _ => operations.iter().find(is_it).map(|operation| operation.name),
        }
    }

    /// The slot that the operation is about, the second capability, and the argument that names the CNode into which it puts
    /// something.
    fn slots(&self, operation: &str) -> (Option<SlotId>, Option<SlotId>, Option<usize>) {
        let invoked = self.argument(0);
        match self.label {
            Label::UntypedRetype
            | Label::CpuTimeSplit
            | Label::IrqSplit
            | Label::IoPortSplit
            | Label::PciFunctionGetBar => (invoked, None, Some(3)),
            Label::CNodeCopy | Label::CNodeMint | Label::CNodeMove => (self.argument(2), None, Some(0)),
            Label::CNodeDelete | Label::CNodeRevoke => {
                (cap_spec::machine::named_slot(self.before, self.invoker, self.call), invoked, None)
            }
            Label::VcpuGetPage | Label::PciFunctionEnableVfs => (invoked, None, Some(2)),
            Label::VmGetPage | Label::MachineGetPage | Label::PciFunctionLease => (invoked, None, Some(1)),
            Label::ChannelGrant => (self.argument(1), invoked, None),
            Label::ChannelAccept => {
                let source = match self.cap(invoked.unwrap_or(SlotId(0))) {
                    Cap::Channel { id, end } => Some(in_flight_slot(*id, *end)),
                    _ => None,
                };
                (source, invoked, Some(1))
            }
            Label::PciFunctionBindMsix => (invoked, self.argument(2), None),
            _ if operation == "launch" => (invoked, None, None),
            _ => (invoked, self.argument(1), None),
        }
    }

    /// Writes the parameters of the operation into the structure before.
    ///
    /// # Errors
    /// A parameter that nothing in the step stands for.
    pub fn parameters(
        &self,
        operation: &Operation,
        elements: &Elements,
        before: &mut Structure,
        after: &Structure,
    ) -> Result<(), String> {
        let (target, second, into) = self.slots(operation.name);
        let destination = into.and_then(|number| self.argument(number));
        let filled: Vec<SlotId> =
            self.after.slots.keys().filter(|slot| !self.before.slots.contains_key(slot)).copied().collect();
        let message = match (self.label, target.map(|slot| self.cap(slot))) {
            (Label::PciFunctionBindMsix | Label::PciFunctionUnbindMsix, Some(Cap::PciFunction { function, .. })) => {
                Some(Message { function: *function, entry: self.call.args[0] as u16 })
            }
            _ => None,
        };
        let slot = |slot: Option<SlotId>| slot.and_then(|slot| elements.slots.get(&slot)).map(|at| *at as i64);
        let object = |object: Option<Object>| object.and_then(|object| elements.object(object)).map(|at| at as i64);
        let target_object = self.named(target);
        let vm = match target_object {
            Some(Object::Vcpu(id)) => self.before.vcpus[&id].vm,
            _ => None,
        };
        for constant in &operation.constants {
            let value = match constant.name.as_str() {
                "i" => object(self.root().map(Object::CNode)),
                "s" => slot(target),
                "u" => slot(second),
                "t" => slot(destination),
                "d" => slot(filled.first().copied()),
                "p" => slot(target.and_then(|slot| self.before.slots[&slot].parent)),
                "n" if operation.name.starts_with("grant") => object(self.named(second)),
                "n" if into.is_some() => object(self.named(destination)),
                "n" if matches!(self.label, Label::CNodeDelete | Label::CNodeRevoke) => object(self.named(second)),
                // The CNode in which the invoked Frame lies.
                "n" => slot(target)
                    .and_then(|at| before.tables["within"].after(at as usize).iter().next())
                    .map(|at| at as i64),
                "o1" if operation.name == "bind-route" => object(self.named(second)),
                "o" | "o1" => object(target_object),
                "j" => object(vm.map(Object::Vm)),
                "q" if operation.name == "launch" => {
                    object(vm.and_then(|vm| self.before.vms[&vm].cspace).map(Object::CNode))
                }
                "q" | "q1" => object(self.named(second)),
                "c1" => Some(self.call.args[0] as i64 - 1),
                "g" => slot(filled.first().copied().or(target)).map(|at| after.numbers["share"][at as usize]),
                "m1" => message
                    .and_then(|message| elements.messages.get(&(message.function, message.entry)))
                    .map(|at| *at as i64),
                "z" => message.and_then(|message| {
                    let is_it = |cap: &Cap| matches!(cap, Cap::Irq { message: found, .. } if *found == Some(message));
                    slot(self.before.slots.iter().find(|(_, slot)| is_it(&slot.cap)).map(|(id, _)| *id))
                }),
                other => return Err(format!("{} has a constant {other} that no step tells", operation.name)),
            };
            let value = value.ok_or_else(|| format!("nothing is {} of {}", constant.name, operation.name))?;
            before.constants.insert(constant.name.clone(), value);
        }
        for head in &operation.relations {
            let sorts: Vec<Sort> = head.places.iter().map(|place| place.sort).collect();
            let table = self.relation(operation, &head.name, &sorts, before, after)?;
            before.tables.insert(head.name.clone(), table);
        }
        for head in &operation.functions {
            let less = before.numbers["sold"]
                .iter()
                .zip(&after.numbers["sold"])
                .enumerate()
                .map(|(at, (old, new))| if after.tables["full"].has(&[at]) { old - new } else { 0 });
            let less = less.collect();
            before.numbers.insert(head.name.clone(), less);
        }
        Ok(())
    }

    /// A relation that was chosen: mostly what a relation of the state has more, or less, afterwards.
    fn relation(
        &self,
        operation: &Operation,
        name: &str,
        sorts: &[Sort],
        before: &Structure,
        after: &Structure,
    ) -> Result<Table, String> {
        let tuples = |structure: &Structure, relation: &str| -> Vec<Vec<usize>> {
            let table = &structure.tables[relation];
            match sorts {
                [_] => table.after(0).iter().map(|one| vec![one]).collect(),
                _ => (0..table.rows()).flat_map(|row| table.after(row).iter().map(move |one| vec![row, one])).collect(),
            }
        };
        let more = |relation: &str| -> Vec<Vec<usize>> {
            tuples(after, relation).into_iter().filter(|tuple| !before.tables[relation].has(tuple)).collect()
        };
        let less = |relation: &str| -> Vec<Vec<usize>> {
            tuples(before, relation).into_iter().filter(|tuple| !after.tables[relation].has(tuple)).collect()
        };
        let constant = |name: &str| before.constants.get(name).map(|at| *at as usize).unwrap_or_default();
        let is_full = |tuple: &Vec<usize>| after.tables["full"].has(&tuple[..1]);
        // What the one new slot has.
        let of_new = |relation: &str| -> Vec<Vec<usize>> {
            let new = before.constants.get("d").map(|at| *at as usize);
            let new = new.or_else(|| after.tables["full"].after(0).but(before.tables["full"].after(0)).iter().next());
            new.into_iter().flat_map(|slot| after.tables[relation].after(slot).iter().map(|one| vec![one])).collect()
        };
        let gone = || before.tables["full"].after(0).but(after.tables["full"].after(0));
        let found = match name {
            "new" => more("full"),
            "fresh" => more("lives"),
            "made" => more("names"),
            "piece" if sorts.len() == 1 => of_new("covers"),
            "piece" | "page" => more("covers"),
            "opened" => more("window"),
            "chosen" if sorts == [Sort::Window] => of_new("window"),
            "chosen" => after.tables["tells"].after(constant("o1")).iter().map(|one| vec![one]).collect(),
            "mask" => of_new("right"),
            "inside" => more("within"),
            "spent" => {
                let (old, new) = (&before.tables["used"], &after.tables["used"]);
                new.after(constant("s")).but(old.after(constant("s"))).iter().map(|one| vec![one]).collect()
            }
            "row" => {
                let (from, to) = if operation.name == "map-frames" { (before, after) } else { (after, before) };
                let mapped = |structure: &Structure, slot: usize| !structure.tables["mapped"].after(slot).is_empty();
                let is_changed = |slot: &usize| mapped(to, *slot) && !mapped(from, *slot);
                (0..before.size(Sort::Slot)).filter(is_changed).map(|one| vec![one]).collect()
            }
            "revived" => {
                let new = more("entry");
                let was_mapped = |tuple: &Vec<usize>| !before.tables["mapped"].after(tuple[0]).is_empty();
                new.into_iter().filter(was_mapped).collect()
            }
            "wanted" => {
                let rights =
                    (0..before.size(Sort::Slot)).filter(|slot| before.tables["maprights"].after(*slot).is_empty());
                let rights = rights.fold(Default::default(), |all: crate::structure::Set, slot| {
                    all.or(after.tables["maprights"].after(slot))
                });
                rights.iter().map(|one| vec![one]).collect()
            }
            "gone" => less("full"),
            "dead" => less("lives"),
            "freed" => {
                let is_target = |tuple: &Vec<usize>| operation.name == "revoke" && tuple[0] == constant("s");
                less("used").into_iter().filter(|tuple| is_full(tuple) && !is_target(tuple)).collect()
            }
            // What lost its entry, or the record for which it could have one.
            "cleared" => {
                let loses = |slot: &usize| {
                    ["mapped", "routed", "raised"].iter().any(|relation| {
                        let (old, new) = (before.tables[*relation].after(*slot), after.tables[*relation].after(*slot));
                        !old.but(new).is_empty()
                    })
                };
                let lost = (0..before.size(Sort::Slot)).filter(loses).map(|one| vec![one]);
                lost.chain(less("entry")).collect()
            }
            "idle" => {
                let bound = &before.tables["bound"];
                let is_less =
                    |slot: &usize| !bound.after(*slot).is_empty() && after.tables["bound"].after(*slot).is_empty();
                let idle = (0..bound.rows()).filter(is_less).flat_map(|slot| bound.after(slot).iter());
                idle.map(|one| vec![one]).collect()
            }
            "quiet" => {
                let functions = before.tables["isfunction"].after(0);
                let named = gone().iter().flat_map(|slot| before.tables["names"].after(slot).and(functions).iter());
                named.map(|one| vec![one]).collect()
            }
            "ended" => less("vfs"),
            "untold" => {
                let (old, new) = (&before.tables["tells"], &after.tables["tells"]);
                let is_less = |one: &usize| *one != constant("o1") && !old.after(*one).but(new.after(*one)).is_empty();
                (0..old.rows()).filter(is_less).map(|one| vec![one]).collect()
            }
            other => return Err(format!("{} has a relation {other} that no step tells", operation.name)),
        };
        let mut table = before.empty(sorts);
        found.iter().for_each(|tuple| table.insert(tuple));
        Ok(table)
    }
}
