//! VMs that can be exchanged: by what each state of a question can be described as well.
//!
//! A question says which names it calls interchangeable: rows of names, of which each row can take the place of any other,
//! name for name. That is sound if the question is the same after each such exchange, so this is checked here of its parts: the
//! state at the start, what each VM may do, the variables and the property. From there on everything that can happen is
//! symmetric, as `step` knows VMs by their addresses alone, and treats these by equality (see [`crate::canonical`]).

use std::collections::{BTreeMap, HashMap};

use crate::canonical::{Swap, describe};
use crate::question::{Action, Choice, Claim, Condition, Pattern, Question, Wanted};
use crate::world::Thing;

/// Most rows: the exchanges of six are 720.
const MOST_ROWS: usize = 5;

/// One exchange of names.
struct Exchange {
    parties: Vec<usize>,
    things: Vec<usize>,
    variables: Vec<usize>,
}

/// The exchanges that rows of interchangeable names allow, the one that changes nothing left out.
///
/// # Errors
/// What is not the same after an exchange.
pub fn swaps(question: &Question, rows: &[Vec<String>]) -> Result<Vec<Swap>, String> {
    let width = rows.first().map_or(0, Vec::len);
    if width == 0 || rows.iter().any(|row| row.len() != width) {
        return Err("rows of interchangeable names have as many names each".into());
    }
    if rows.len() > MOST_ROWS {
        return Err(format!("at most {MOST_ROWS} rows can be interchangeable"));
    }
    let mut found = Vec::new();
    for order in permutations(rows.len()).into_iter().skip(1) {
        let names: HashMap<&str, &str> = rows
            .iter()
            .zip(&order)
            .flat_map(|(row, to)| row.iter().map(String::as_str).zip(rows[*to].iter().map(String::as_str)))
            .collect();
        found.push(swap(question, &exchange(question, &names)?)?);
    }
    Ok(found)
}

/// All orders of so many, the usual one first.
fn permutations(count: usize) -> Vec<Vec<usize>> {
    let Some(last) = count.checked_sub(1) else { return vec![Vec::new()] };
    let mut all: Vec<Vec<usize>> = Vec::new();
    for shorter in permutations(last) {
        for place in (0..count).rev() {
            let mut order = shorter.clone();
            order.insert(place, last);
            all.push(order);
        }
    }
    all
}

fn exchange(question: &Question, names: &HashMap<&str, &str>) -> Result<Exchange, String> {
    let crate::question::Names { parties, things, variables } = &question.names;
    let variables: Vec<String> = variables.iter().map(|(name, _)| name.clone()).collect();
    let of_kind = |known: &[String]| -> Result<Vec<usize>, String> {
        let to = |name: &String| {
            let to = names.get(name.as_str()).copied().unwrap_or(name);
            known.iter().position(|known| known == to).ok_or(format!("`{name}` and `{to}` are of different kinds"))
        };
        known.iter().map(to).collect()
    };
    if let Some(unknown) =
        names.keys().find(|name| ![parties, things, &variables].into_iter().flatten().any(|known| known == **name))
    {
        return Err(format!("there is no VM, capability or variable `{unknown}`"));
    }
    Ok(Exchange { parties: of_kind(parties)?, things: of_kind(things)?, variables: of_kind(&variables)? })
}

/// Checks that a question is the same after an exchange.
fn swap(question: &Question, exchange: &Exchange) -> Result<Swap, String> {
    let parties = question.parties();
    let mut slots = BTreeMap::new();
    for (party, to) in parties.iter().zip(&exchange.parties) {
        let to = &parties[*to];
        if party.slots != to.slots {
            return Err(format!("{} and {} have different numbers of slots", party.name, to.name));
        }
        slots.extend((0..3).map(|offset| (party.boot_slot + offset, to.boot_slot + offset)));
    }
    // By index of the memory among the things.
    let memory: Vec<usize> = (0..)
        .zip(&question.things)
        .filter(|(_, thing)| matches!(thing, Thing::Memory(..)))
        .map(|(index, _)| index)
        .collect();
    let named = memory.iter().map(|thing| memory.iter().position(|other| *other == exchange.things[*thing]));
    let named = named.collect::<Option<Vec<usize>>>().ok_or("memory is exchanged for something else")?;
    if (0..).zip(&exchange.things).any(|(thing, to)| !memory.contains(&thing) && thing != *to) {
        return Err("only VMs, memory, channels and variables can be exchanged".into());
    }
    for ((name, values), to) in question.names.variables.iter().zip(&exchange.variables) {
        if *values != question.names.variables[*to].1 {
            return Err(format!("variable {name} has other values than the one that it is exchanged for"));
        }
    }
    let swap = Swap { slots, named, variables: exchange.variables.clone() };
    let (mut before, mut after) = (Vec::new(), Vec::new());
    describe(&question.world.state, &question.naming, None, &mut before);
    describe(&question.world.state, &question.naming, Some(&swap), &mut after);
    if before != after {
        return Err("the state at the start is not the same after an exchange".into());
    }
    let sorted = |mut actions: Vec<String>| {
        actions.sort_unstable();
        actions
    };
    let usual = sorted(question.actions.iter().map(|action| exchange.identity(question).action(action)).collect());
    if usual != sorted(question.actions.iter().map(|action| exchange.action(action)).collect()) {
        return Err("what the VMs may do is not the same after an exchange".into());
    }
    if let Some(claim) = &question.claim
        && exchange.identity(question).claim(claim) != exchange.claim(claim)
    {
        return Err("the property is not the same after an exchange".into());
    }
    Ok(swap)
}

impl Exchange {
    /// The exchange that changes nothing, for the form in which things are compared.
    fn identity(&self, question: &Question) -> Exchange {
        Exchange {
            parties: (0..question.names.parties.len()).collect(),
            things: (0..question.names.things.len()).collect(),
            variables: (0..self.variables.len()).collect(),
        }
    }

    /// An action after the exchange, as a text to compare. What it is called does not matter.
    fn action(&self, action: &Action) -> String {
        let Action { party, name: _, when, pattern, then, otherwise } = action;
        let set = |values: &[(usize, usize)]| -> Vec<(usize, usize)> {
            let mut set: Vec<_> = values.iter().map(|(variable, value)| (self.variables[*variable], *value)).collect();
            set.sort_unstable();
            set
        };
        let when = when.as_ref().map(|when| self.condition(when));
        let pattern = pattern.as_ref().map(|pattern| self.pattern(pattern));
        format!("{} {when:?} {pattern:?} {:?} {:?}", self.parties[*party], set(then), set(otherwise))
    }

    fn claim(&self, claim: &Claim) -> String {
        let Claim { kind, condition, text: _, after, unless } = claim;
        let optional = |condition: &Option<Condition>| condition.as_ref().map(|condition| self.condition(condition));
        format!("{kind:?} {} {:?} {:?}", self.condition(condition), optional(after), optional(unless))
    }

    fn pattern(&self, pattern: &Pattern) -> Pattern {
        let choice = |choice: &Choice| match choice {
            Choice::Things(things) => {
                let exchanged = things.iter().map(|wanted| Wanted { thing: self.things[wanted.thing], ..*wanted });
                let mut things: Vec<Wanted> = exchanged.collect();
                things.sort_unstable();
                Choice::Things(things)
            }
            other => other.clone(),
        };
        Pattern { label: pattern.label, on: choice(&pattern.on), args: pattern.args.each_ref().map(choice) }
    }

    /// A condition after the exchange, with the parts of `and` and `or` in one order.
    fn condition(&self, condition: &Condition) -> String {
        let sorted = |parts: &[Condition]| {
            let mut parts: Vec<String> = parts.iter().map(|part| self.condition(part)).collect();
            parts.sort_unstable();
            parts
        };
        let (party, thing) = (|party: &usize| self.parties[*party], |thing: &usize| self.things[*thing]);
        match condition {
            Condition::And(parts) => format!("and {:?}", sorted(parts)),
            Condition::Or(parts) => format!("or {:?}", sorted(parts)),
            Condition::Not(part) => format!("not ({})", self.condition(part)),
            Condition::Holds(p, t, rights) => format!("{:?}", Condition::Holds(party(p), thing(t), *rights)),
            Condition::Maps(p, t, rights) => format!("{:?}", Condition::Maps(party(p), thing(t), *rights)),
            Condition::Can(p, right, t) => format!("{:?}", Condition::Can(party(p), *right, thing(t))),
            Condition::Uses(p, t) => format!("{:?}", Condition::Uses(party(p), thing(t))),
            Condition::Takes(p, t) => format!("{:?}", Condition::Takes(party(p), thing(t))),
            Condition::Runs(p, t) => format!("{:?}", Condition::Runs(party(p), thing(t))),
            Condition::Reaches(f, t, rights) => format!("{:?}", Condition::Reaches(thing(f), thing(t), *rights)),
            Condition::Interrupts(f, p) => format!("{:?}", Condition::Interrupts(thing(f), party(p))),
            Condition::Exists(t) => format!("{:?}", Condition::Exists(thing(t))),
            Condition::Launched(t) => format!("{:?}", Condition::Launched(thing(t))),
            Condition::Timed(t) => format!("{:?}", Condition::Timed(thing(t))),
            Condition::Is(variable, value) => format!("{:?}", Condition::Is(self.variables[*variable], *value)),
            Condition::Step(p, pattern, done) => {
                format!("{:?}", Condition::Step(party(p), Box::new(self.pattern(pattern)), *done))
            }
        }
    }
}
