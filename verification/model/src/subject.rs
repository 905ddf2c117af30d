//! A question as a machine to explore: the executable specification, the question's protocol, and whether its property is
//! asked at present.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cap_spec::abi::Fault;
use cap_spec::machine::{self as spec, Call, Outcome, State, VcpuId};

use crate::actions::{self, View};
use crate::canonical::{Swap, describe};
use crate::checks::Checks;
use crate::conditions::{self, Moment};
use crate::machine::{Machine, Step, Violation};
use crate::mistakes::Mistake;
use crate::question::{Action, Claim, Kind, Question};

/// The name of a question's own property in answers.
pub const OWN: &str = "property";

/// Everything that decides what can happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Situation {
    /// The abstract machine.
    pub state: State,
    /// The values of the variables.
    pub variables: Vec<u8>,
    /// True while the property is asked.
    pub armed: bool,
}

/// Something that a VM does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The number of the action.
    pub action: usize,
    /// The invocation; none for a step of the protocol alone.
    pub call: Option<Call>,
}

/// A question to explore.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The question.
    pub question: Question,
    /// A mistake in the machine, to see that it is found.
    pub mistake: Option<Mistake>,
    checks: Checks,
    /// Which actions have ever been done.
    done: Arc<Vec<AtomicBool>>,
}

/// What an invocation has led to.
pub struct Performed {
    /// What the invoker was told.
    pub result: Result<Outcome, Fault>,
    /// The states that it may have led to. Of one that was refused, the state if it is another.
    pub states: Vec<State>,
}

impl Subject {
    /// A question to explore.
    pub fn new(question: Question, mistake: Option<Mistake>) -> Subject {
        let checks = Checks::of(&question);
        let done = Arc::new(question.actions.iter().map(|_| AtomicBool::new(false)).collect());
        Subject { question, mistake, checks, done }
    }

    /// The actions that have never been done, however often they were tried: of an exhaustive search, a question that says
    /// less than it seems to.
    pub fn never_done(&self) -> impl Iterator<Item = &Action> {
        let actions = || self.question.actions.iter().zip(self.done.iter());
        let is_done = |done: &AtomicBool| done.load(Ordering::Relaxed);
        // Where VMs are exchanged, what one does is done by all of them.
        let is_exchanged = !self.question.swaps.is_empty();
        let same = move |left: &Action, right: &Action| {
            let label = |action: &Action| action.pattern.as_ref().map(|pattern| pattern.label);
            is_exchanged && left.name == right.name && label(left) == label(right)
        };
        let stands_for = move |action: &Action| actions().any(|(other, done)| is_done(done) && same(action, other));
        actions().filter(move |(action, done)| !is_done(done) && !stands_for(action)).map(|(action, _)| action)
    }

    /// An invocation by the VM of an action.
    pub fn perform(&self, before: &State, action: usize, call: Call) -> Performed {
        let vcpu = self.vcpu(action);
        let mut state = before.clone();
        let result = match self.mistake {
            None => spec::step(&mut state, vcpu, call),
            Some(mistake) => mistake.step(&mut state, vcpu, call),
        };
        settle(&mut state);
        let states = match result {
            Ok(_) => alternatives(state),
            Err(_) if state == *before => Vec::new(),
            Err(_) => vec![state],
        };
        Performed { result, states }
    }

    fn vcpu(&self, action: usize) -> VcpuId {
        self.question.parties()[self.question.actions[action].party].vcpu
    }

    /// The situation after a step to a state.
    fn arrive(&self, before: &Situation, event: &Event, done: bool, state: State) -> Situation {
        let action = &self.question.actions[event.action];
        let mut variables = before.variables.clone();
        for (variable, value) in if done { &action.then } else { &action.otherwise } {
            variables[*variable] = *value as u8;
        }
        let mut after = Situation { state, variables, armed: before.armed };
        if let Some(claim) = &self.question.claim {
            after.armed = self.is_armed(claim, &after, Some(self.step(&before.state, event, done)));
        }
        after
    }

    /// Whether the property is asked in a situation; `armed` says whether it was before.
    fn is_armed(&self, claim: &Claim, situation: &Situation, step: Option<conditions::Step<'_>>) -> bool {
        let moment = self.moment(situation, step);
        let is = |condition: &Option<_>| condition.as_ref().is_some_and(|condition| moment.is(condition));
        is(&claim.after) || situation.armed && !is(&claim.unless)
    }

    fn step<'a>(&self, before: &'a State, event: &Event, done: bool) -> conditions::Step<'a> {
        let party = self.question.actions[event.action].party;
        conditions::Step { before, party, call: event.call, refused: !done }
    }

    fn moment<'a>(&'a self, situation: &'a Situation, step: Option<conditions::Step<'a>>) -> Moment<'a> {
        Moment { question: &self.question, state: &situation.state, variables: &situation.variables, step }
    }

    /// True if the question's own property is asked of steps, not of states.
    fn is_about_steps(&self) -> bool {
        self.question.claim.as_ref().is_some_and(|claim| claim.condition.is_about_steps())
    }

    /// Whether the question's own property is broken, or for `reachable`, whether an example is found.
    fn own(&self, situation: &Situation, step: Option<conditions::Step<'_>>) -> Option<Violation> {
        let claim = self.question.claim.as_ref().filter(|_| situation.armed)?;
        let is = self.moment(situation, step).is(&claim.condition);
        let what = match (claim.kind, is) {
            (Kind::Never, true) => format!("it is so: {}", claim.text),
            (Kind::Always, false) => format!("it is not so: {}", claim.text),
            (Kind::Reachable, true) => format!("it is reached: {}", claim.text),
            _ => return None,
        };
        Some(Violation { claim: OWN.into(), what })
    }
}

/// Takes what a step leaves for others, and forgets the depth that slots record.
fn settle(state: &mut State) {
    state.outputs.clear();
    state.completions.clear();
    let slots: Vec<_> = state.slots.iter().map(|(id, slot)| (*id, slot.parent, slot.depth)).collect();
    for (id, mut parent, recorded) in slots {
        let mut depth = 0;
        while let Some(above) = parent.and_then(|parent| state.slots.get(&parent))
            && depth < spec::MAX_DEPTH
        {
            depth += 1;
            parent = above.parent;
        }
        if depth != recorded
            && let Some(slot) = state.slots.get_mut(&id)
        {
            slot.depth = depth;
        }
    }
}

/// The states that a step leaves the kernel a choice of: one for each watermark that it may choose.
fn alternatives(mut state: State) -> Vec<State> {
    let choices = std::mem::take(&mut state.choices);
    let mut states = vec![state];
    for (slot, values) in choices {
        let with = |state: State| {
            values.clone().into_iter().map(move |value| {
                let mut state = state.clone();
                if let Some(spec::Cap::Untyped { watermark, .. }) = state.slots.get_mut(&slot).map(|slot| &mut slot.cap)
                {
                    *watermark = value;
                }
                state
            })
        };
        states = states.into_iter().flat_map(with).collect();
    }
    states
}

impl Machine for Subject {
    type State = Situation;
    type Event = Event;

    fn start(&self) -> Situation {
        let mut state = self.question.world.state.clone();
        settle(&mut state);
        let variables = vec![0; self.question.names.variables.len()];
        let mut situation = Situation { state, variables, armed: false };
        if let Some(claim) = &self.question.claim {
            situation.armed = claim.after.is_none();
            situation.armed = self.is_armed(claim, &situation, None);
        }
        situation
    }

    fn events(&self, situation: &Situation, events: &mut Vec<Event>) {
        let state = &situation.state;
        let mut views: Vec<Option<View>> = Vec::new();
        for party in self.question.parties() {
            let runs = state.vcpus.get(&party.vcpu).is_some_and(|vcpu| vcpu.run == spec::Run::Runnable);
            views.push(runs.then(|| View::of(state, party.root)));
        }
        for (number, action) in self.question.actions.iter().enumerate() {
            let Some(view) = &views[action.party] else { continue };
            if action.when.as_ref().is_some_and(|when| !self.moment(situation, None).is(when)) {
                continue;
            }
            match &action.pattern {
                None => events.push(Event { action: number, call: None }),
                Some(pattern) => actions::calls(&self.question, state, view, pattern, &mut |call| {
                    events.push(Event { action: number, call: Some(call) });
                }),
            }
        }
    }

    fn next(&self, situation: &Situation, event: &Event, next: &mut Vec<Situation>) -> bool {
        let Some(call) = event.call else {
            self.done[event.action].store(true, Ordering::Relaxed);
            next.push(self.arrive(situation, event, true, situation.state.clone()));
            return true;
        };
        let performed = self.perform(&situation.state, event.action, call);
        let done = performed.result.is_ok();
        if done {
            self.done[event.action].store(true, Ordering::Relaxed);
        }
        let states = performed.states.into_iter();
        next.extend(states.map(|state| self.arrive(situation, event, done, state)));
        if !done && next.is_empty() {
            let after = self.arrive(situation, event, false, situation.state.clone());
            if after != *situation {
                next.push(after);
            }
        }
        done
    }

    fn describe(&self, situation: &Situation, description: &mut Vec<u8>) {
        let Question { naming, swaps, .. } = &self.question;
        let tell = |swap: Option<&Swap>, description: &mut Vec<u8>| {
            description.push(situation.armed.into());
            match swap {
                None => description.extend(&situation.variables),
                Some(swap) => {
                    let mut variables = situation.variables.clone();
                    for (value, to) in situation.variables.iter().zip(&swap.variables) {
                        variables[*to] = *value;
                    }
                    description.extend(variables);
                }
            }
            describe(&situation.state, naming, swap, description);
        };
        tell(None, description);
        let mut other = Vec::new();
        for swap in swaps {
            other.clear();
            tell(Some(swap), &mut other);
            if other < *description {
                description.clone_from(&other);
            }
        }
    }

    fn violation(&self, step: Step<'_, Subject>) -> Option<Violation> {
        let Step { before, event, done, after } = step;
        let seen = self.step(&before.state, event, done);
        let broken = self.checks.of_step(&self.question, &seen, &after.state);
        broken.or_else(|| if self.is_about_steps() { self.own(after, Some(seen)) } else { None })
    }

    fn wrong(&self, situation: &Situation) -> Option<Violation> {
        let broken = self.checks.of_state(&self.question, &situation.state);
        broken.or_else(|| if self.is_about_steps() { None } else { self.own(situation, None) })
    }
}
