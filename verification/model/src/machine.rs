//! What can be explored: a machine with states, events, and claims about both.
//!
//! The search, the Explorer and the reports know a machine by this alone, so that the abstract machine, the same with a
//! mistake in it, and finer machines are explored by the same code.

use std::fmt::Debug;
use std::hash::Hash;

/// A claim that a step has broken.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Violation {
    /// The claim: the name of a property, or the question's own.
    pub claim: String,
    /// What is wrong.
    pub what: String,
}

/// A machine to explore.
pub trait Machine {
    /// Everything that decides what can happen from now on.
    type State: Clone + Eq + Hash + Debug + Send + Sync;
    /// Something that may happen.
    type Event: Clone + PartialEq + Debug + Send + Sync;

    /// Where it begins.
    fn start(&self) -> Self::State;

    /// All that may happen in a state, refusals included.
    fn events(&self, state: &Self::State, events: &mut Vec<Self::Event>);

    /// The states that an event may lead to, several where the specification leaves a choice. False if it is refused;
    /// then there may be a state all the same, for who did it may draw a conclusion.
    fn next(&self, state: &Self::State, event: &Self::Event, next: &mut Vec<Self::State>) -> bool;

    /// Writes a description of the state that determines what can happen from it, up to names. States with the same
    /// description are explored once.
    fn describe(&self, state: &Self::State, description: &mut Vec<u8>);

    /// What a step has broken; `done` is what [`Machine::next`] has said of it.
    fn violation(&self, step: Step<'_, Self>) -> Option<Violation>;

    /// What is wrong with a state, however it was reached. Asked once for each state.
    fn wrong(&self, state: &Self::State) -> Option<Violation>;
}

/// A step of a machine.
#[derive(Debug)]
pub struct Step<'a, M: Machine + ?Sized> {
    /// The state before.
    pub before: &'a M::State,
    /// What has happened.
    pub event: &'a M::Event,
    /// False if it was refused.
    pub done: bool,
    /// The state after.
    pub after: &'a M::State,
}

/// 128 bits of a description: two different ones have the same with a probability of 2^-128 a pair.
pub fn fingerprint<M: Machine>(machine: &M, state: &M::State, scratch: &mut Vec<u8>) -> u128 {
    scratch.clear();
    machine.describe(state, scratch);
    xxhash_rust::xxh3::xxh3_128(scratch)
}
