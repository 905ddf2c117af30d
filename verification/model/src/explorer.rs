//! A question for stateright: its Explorer, which shows states and steps in a browser, and its own search, which the tests
//! compare with ours.
//!
//! States that have one description are one for stateright, too, as it knows states by their hash.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{SocketAddr, TcpListener};

use anyhow::Context;
use stateright::{Checker, Model, Property};

use crate::machine::{Machine, Step, Violation, fingerprint};
use crate::question::Kind;
use crate::story;
use crate::subject::{Event, OWN, Situation, Subject};

/// Where the Explorer is served, unless it is said.
pub const ADDRESS: &str = "127.0.0.1:3000";

/// A state, as stateright sees it.
#[derive(Clone)]
pub struct Seen {
    situation: Situation,
    fingerprint: u128,
    /// What the step to it has broken, or what is wrong with it.
    violation: Option<Violation>,
    shown: Vec<String>,
}

impl PartialEq for Seen {
    fn eq(&self, other: &Seen) -> bool {
        self.fingerprint == other.fingerprint && self.violation == other.violation
    }
}

impl Hash for Seen {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fingerprint.hash(state);
        self.violation.hash(state);
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.shown {
            writeln!(f, "{line}")?;
        }
        match &self.violation {
            Some(violation) => writeln!(f, "{}: {}", violation.claim, violation.what),
            None => Ok(()),
        }
    }
}

/// A step, as stateright sees it: an event in a state, and which of the states that it may lead to.
#[derive(Clone, PartialEq)]
pub struct Move {
    event: Event,
    alternative: usize,
    shown: String,
}

impl fmt::Debug for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// A question for stateright.
#[derive(Clone, Debug)]
pub struct Explored {
    subject: Subject,
    name: &'static str,
    /// False: states and steps are not told in words, which the search has no use for.
    shows: bool,
}

impl Explored {
    /// A question for stateright.
    pub fn new(subject: Subject, shows: bool) -> Explored {
        // stateright wants names that last; there is one a run.
        let text = subject.question.claim.as_ref().map_or_else(
            || subject.question.checks.iter().map(|property| property.name()).collect::<Vec<_>>().join(", "),
            |claim| claim.shown(),
        );
        Explored { subject, name: text.leak(), shows }
    }

    fn seen(&self, situation: Situation, violation: Option<Violation>) -> Seen {
        let fingerprint = fingerprint(&self.subject, &situation, &mut Vec::new());
        let violation = violation.or_else(|| self.subject.wrong(&situation));
        let shown = if self.shows { story::tell_state(&self.subject, &situation) } else { Vec::new() };
        Seen { situation, fingerprint, violation, shown }
    }

    /// Different states, by stateright's own breadth-first search; and whether something is wrong with one.
    pub fn count(self) -> (usize, bool) {
        let name = self.name;
        let checker = self.checker().spawn_bfs().join();
        (checker.unique_state_count(), checker.discovery(name).is_some())
    }
}

impl Model for Explored {
    type State = Seen;
    type Action = Move;

    fn init_states(&self) -> Vec<Seen> {
        vec![self.seen(self.subject.start(), None)]
    }

    fn actions(&self, state: &Seen, actions: &mut Vec<Move>) {
        let mut events = Vec::new();
        self.subject.events(&state.situation, &mut events);
        for event in events {
            let mut next = Vec::new();
            self.subject.next(&state.situation, &event, &mut next);
            let words = || story::tell_event(&self.subject, &state.situation, &event);
            let shown = if self.shows { words() } else { String::new() };
            actions.extend((0..next.len()).map(|alternative| Move {
                event: event.clone(),
                alternative,
                shown: shown.clone(),
            }));
        }
    }

    fn next_state(&self, last: &Seen, action: Move) -> Option<Seen> {
        let mut next = Vec::new();
        let done = self.subject.next(&last.situation, &action.event, &mut next);
        let after = next.into_iter().nth(action.alternative)?;
        let step = Step { before: &last.situation, event: &action.event, done, after: &after };
        let violation = self.subject.violation(step);
        Some(self.seen(after, violation))
    }

    fn properties(&self) -> Vec<Property<Explored>> {
        let is_reachability = self.subject.question.claim.as_ref().is_some_and(|claim| claim.kind == Kind::Reachable);
        if is_reachability {
            return vec![Property::sometimes(self.name, |_, seen: &Seen| {
                seen.violation.as_ref().is_some_and(|violation| violation.claim == OWN)
            })];
        }
        vec![Property::always(self.name, |_, seen: &Seen| seen.violation.is_none())]
    }

    fn format_action(&self, action: &Move) -> String {
        action.shown.clone()
    }

    fn format_step(&self, last: &Seen, action: Move) -> Option<String> {
        Some(story::tell_result(&self.subject, &last.situation, &action.event))
    }
}

/// Serves the Explorer until the process is ended.
///
/// # Errors
/// If nothing can be served at the address.
pub fn serve(subject: Subject, address: &str, say: &mut dyn FnMut(String)) -> anyhow::Result<()> {
    let help = "write an address such as 127.0.0.1:3000";
    let address: SocketAddr = address.parse().with_context(|| format!("`{address}` is no address: {help}"))?;
    // The Explorer would panic.
    let free = TcpListener::bind(address).with_context(|| format!("nothing can be served at {address}: {help}"))?;
    let address = free.local_addr()?;
    drop(free);
    say(format!("open http://{address}/ in a browser; Ctrl-C ends it"));
    Explored::new(subject, true).checker().serve(address);
    Ok(())
}
