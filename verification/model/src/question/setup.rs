//! Sets the world of a question up.

use std::collections::BTreeMap;

use cap_spec::abi::{Fault, Label, ObjectType, Rights};
use cap_spec::machine::invariants::{self, extent_of};
use cap_spec::machine::{Cap, Reservation, SlotId};
use toml::Spanned;

use super::file::{Capability, Channel, File};
use super::pattern::{Names, rights, type_name};
use super::tokens::Tokens;
use super::wrong::{Source, Wrong, choice};
use crate::world::{FunctionOf, Thing, World};

/// The types of which a question can have capabilities at the start.
const TYPES: [ObjectType; 13] = [
    ObjectType::Untyped,
    ObjectType::CNode,
    ObjectType::Frame,
    ObjectType::PageTable,
    ObjectType::Vm,
    ObjectType::Vcpu,
    ObjectType::Channel,
    ObjectType::IommuDomain,
    ObjectType::CpuTime,
    ObjectType::Irq,
    ObjectType::IoPort,
    ObjectType::PciFunction,
    ObjectType::Machine,
];

/// What is being set up.
struct Setup<'a> {
    source: &'a Source,
    names: Names,
    world: World,
    /// Of each thing that has been made: where its capability is, and what it is.
    made: BTreeMap<String, (SlotId, Thing)>,
}

/// Makes VMs, capabilities and channels.
///
/// # Errors
/// A name that does not exist, an invocation that is refused, too few slots.
pub fn build(source: &Source, file: &File) -> Result<(World, Names, Vec<Thing>), Wrong> {
    let functions: Vec<FunctionOf> = file
        .machine
        .functions
        .iter()
        .map(|function| FunctionOf { messages: function.messages, vfs: function.vfs, pages: function.pages })
        .collect();
    let names = Names {
        parties: file.vm.keys().cloned().collect(),
        things: file.capability.keys().chain(file.channel.keys()).cloned().collect(),
        variables: file.variables.iter().map(|(name, values)| (name.clone(), values.clone())).collect(),
    };
    if let Some((name, _)) = names.variables.iter().find(|(_, values)| values.is_empty()) {
        return Err(
            source.whole(format!("variable `{name}` has no values"), "the first is what it is at the start".into())
        );
    }
    let mut setup = Setup { source, names, world: World::new(file.machine.cores, &functions), made: BTreeMap::new() };
    for (name, vm) in &file.vm {
        let slots = *vm.slots.get_ref();
        if !(1..=40).contains(&slots) {
            return Err(source.at(&vm.slots.span(), "a VM works with 1 to 40 slots", ""));
        }
        let added = setup.world.add_vm(name, slots, vm.itself, vm.tables);
        added.map_err(|fault| refused(source, &vm.slots.span(), "this VM", fault))?;
    }
    for (name, channel) in &file.channel {
        setup.channel(name, channel)?;
    }
    // What is copied, or made of an Untyped, comes after that.
    let mut left: Vec<(&String, &Spanned<Capability>)> = file.capability.iter().collect();
    while !left.is_empty() {
        let before = left.len();
        let mut later = Vec::new();
        for (name, capability) in left {
            let needs = [&capability.get_ref().copy_of, &capability.get_ref().from];
            let is_ready = needs.into_iter().flatten().all(|needed| setup.made.contains_key(needed.get_ref()));
            if is_ready {
                setup.capability(name, capability)?;
            } else {
                later.push((name, capability));
            }
        }
        if later.len() == before {
            let capability = later[0].1;
            let needed = [&capability.get_ref().copy_of, &capability.get_ref().from];
            let missing = needed.into_iter().flatten().find(|needed| !setup.made.contains_key(needed.get_ref()));
            let (name, span) =
                missing.map_or((String::new(), capability.span()), |name| (name.get_ref().clone(), name.span()));
            let help = format!("write {}", choice(file.capability.keys().filter(|known| *known != later[0].0)));
            return Err(source.at(&span, format!("there is no capability `{name}` of which it could be"), help));
        }
        left = later;
    }
    setup.world.retire();
    if let Err(broken) = invariants::check(&setup.world.state) {
        return Err(source.whole(format!("the world at the start is not well-formed: {broken:?}"), String::new()));
    }
    let things = setup.names.things.iter().map(|name| setup.made[name].1).collect();
    Ok((setup.world, setup.names, things))
}

/// An invocation of the set-up was refused.
fn refused(source: &Source, span: &std::ops::Range<usize>, what: &str, fault: Fault) -> Wrong {
    let help = format!(
        "the specification refuses an invocation that would do it: {:?}, argument {}",
        fault.error, fault.argument
    );
    source.at(span, format!("{what} cannot be set up"), help)
}

/// What Mint takes, so that the copy speaks for the same.
fn badge_of(cap: &Cap) -> u64 {
    match cap {
        Cap::Channel { end, .. } => (*end).into(),
        Cap::IommuDomain { window, .. } => window.first | u64::from(window.bits),
        _ => 0,
    }
}

impl Setup<'_> {
    fn party(&self, name: &Spanned<String>) -> Result<usize, Wrong> {
        self.names.party(name.get_ref()).ok_or_else(|| {
            let help = format!("write {}", choice(&self.names.parties));
            self.source.at(&name.span(), format!("there is no VM `{}`", name.get_ref()), help)
        })
    }

    fn free_slot(&self, party: usize, span: &std::ops::Range<usize>) -> Result<SlotId, Wrong> {
        let vm = &self.world.parties[party];
        self.world.free_slot(party).ok_or_else(|| {
            let help = format!("write slots = {} or more in [vm.{}]", vm.slots + 1, vm.name);
            self.source.at(span, format!("VM {} has no slot left for it", vm.name), help)
        })
    }

    fn rights(&self, text: Option<&Spanned<String>>) -> Result<Rights, Wrong> {
        let Some(text) = text else { return Ok(Rights::all()) };
        let mut tokens = Tokens::of(self.source.text(text))?;
        let found = rights(&mut tokens)?;
        tokens.end()?;
        Ok(found)
    }

    fn capability(&mut self, name: &str, capability: &Spanned<Capability>) -> Result<(), Wrong> {
        let span = capability.span();
        let Capability { object, copy_of, holder, .. } = capability.get_ref();
        let holder = holder.as_ref().map(|name| self.party(name)).transpose()?;
        let slot = match holder {
            Some(party) => self.free_slot(party, &span)?,
            None => self.world.hidden_slot(),
        };
        let rights = self.rights(capability.get_ref().rights.as_ref())?;
        match (object, copy_of) {
            (None, Some(of)) => {
                let (from, thing) = self.made[of.get_ref()];
                let copied = self.world.copy(from, slot, rights, badge_of(&self.world.state.slots[&from].cap));
                copied.map_err(|fault| refused(self.source, &of.span(), "this copy", fault))?;
                self.made.insert(name.into(), (slot, thing));
            }
            (Some(object), None) => {
                let known = TYPES.into_iter().find(|known| type_name(*known) == *object.get_ref());
                let known = known.ok_or_else(|| {
                    let what = format!("there is no type `{}`", object.get_ref());
                    self.source.at(&object.span(), what, format!("write {}", choice(TYPES.map(type_name))))
                })?;
                let thing = self.object(known, capability.get_ref(), slot, rights);
                let thing = thing.map_err(|fault| refused(self.source, &span, "this capability", fault))?;
                self.made.insert(name.into(), (slot, thing));
            }
            _ => {
                let help = "write either type = \"Frame\" or copy_of = \"...\"";
                return Err(self.source.at(&span, "neither an object nor a copy, or both", help));
            }
        }
        self.use_it(capability.get_ref(), slot, holder).map_err(|fault| refused(self.source, &span, "its use", fault))
    }

    /// Makes an object, or takes a part of what boot has.
    fn object(&mut self, object: ObjectType, of: &Capability, slot: SlotId, rights: Rights) -> Result<Thing, Fault> {
        let Capability { core, budget, period, first, count, function, .. } = *of;
        match object {
            ObjectType::CpuTime => {
                self.world.split_time(core, Reservation { budget, period }, slot).map(|()| Thing::Core(core))
            }
            ObjectType::Irq => {
                self.world.split_range(Label::IrqSplit, first, count, slot).map(|()| Thing::Routes(first, count))
            }
            ObjectType::IoPort => {
                self.world.split_range(Label::IoPortSplit, first, count, slot).map(|()| Thing::Ports(first, count))
            }
            ObjectType::PciFunction => self.world.lease_function(function, slot).map(|()| Thing::Function(function)),
            ObjectType::Machine => self.world.give_machine(slot, rights).map(|()| Thing::Machine),
            _ => {
                let bits = match object {
                    ObjectType::Untyped | ObjectType::Frame => of.size_bits.unwrap_or(12),
                    ObjectType::CNode => of.size_bits.unwrap_or(6),
                    _ => 0,
                };
                let from = of.from.as_ref().map(|name| self.made[name.get_ref()].0);
                // An original has every right. Of fewer rights a copy is given, and the original is kept.
                let is_original = rights == Rights::all();
                let original = if is_original { slot } else { self.world.hidden_slot() };
                self.world.make_object(object, bits, from, original)?;
                if !is_original {
                    self.world.copy(original, slot, rights, badge_of(&self.world.state.slots[&original].cap))?;
                }
                let extent = extent_of(&self.world.state.slots[&slot].cap).expect("an object in memory has an extent");
                Ok(Thing::Memory(object, extent))
            }
        }
    }

    /// What a capability is used for at the start.
    fn use_it(&mut self, of: &Capability, slot: SlotId, holder: Option<usize>) -> Result<(), Fault> {
        if of.tables {
            self.world.add_io_tables(slot)?;
        }
        if let (Some(gpa), Some(party)) = (of.mapped_at, holder) {
            let rights = self.world.state.slots[&slot].rights & (Rights::READ | Rights::WRITE | Rights::EXECUTE);
            self.world.map(slot, party, gpa, rights)?;
        }
        if let (true, Some(party)) = (of.bound, holder) {
            self.world.bind_time(slot, party)?;
        }
        Ok(())
    }

    fn channel(&mut self, name: &str, channel: &Channel) -> Result<(), Wrong> {
        let span = channel.between.span();
        let original = self.world.hidden_slot();
        let made = self.world.make_object(ObjectType::Channel, 0, None, original);
        made.map_err(|fault| refused(self.source, &span, "this channel", fault))?;
        for (index, holder) in channel.between.get_ref().iter().enumerate() {
            let party = self.names.party(holder).ok_or_else(|| {
                let help = format!("write {}", choice(&self.names.parties));
                self.source.at(&span, format!("there is no VM `{holder}`"), help)
            })?;
            let rights = self.rights(channel.rights.as_ref().map(|rights| &rights[index]))?;
            let slot = self.free_slot(party, &span)?;
            let badge = index as u64 + 1;
            let mut given = self.world.copy(original, slot, rights, badge);
            if channel.signals {
                given = given.and_then(|()| {
                    let binder = self.world.hidden_slot();
                    self.world.copy(original, binder, Rights::all(), badge)?;
                    self.world.bind_receiver(binder, party, 1)
                });
            }
            given.map_err(|fault| refused(self.source, &span, "this channel", fault))?;
        }
        let extent = extent_of(&self.world.state.slots[&original].cap).expect("a channel lies in memory");
        self.made.insert(name.into(), (original, Thing::Memory(ObjectType::Channel, extent)));
        Ok(())
    }
}
