//! The fine machine to explore: hardware that remembers, and Delete and Revoke in steps between which anything may happen.
//!
//! A question with `[hardware]` is asked of this machine: what its VMs may invoke, which addresses they and their
//! functions reach for, and every interleaving of all of that with what hardware remembers and forgets is followed. Each
//! state is checked by the specification's [`check`], and whenever a Revoke has been answered, by [`check_revoked`]: after
//! it nothing that hardware remembers is left.
//!
//! States are not merged: what hardware remembers has few symmetries, and the worlds are small.

use std::hash::Hash;

use cap_spec::abi::{Label, Rights};
use cap_spec::machine::fine::{self, Answer, Bytes, Event, Fine, check, check_revoked, core_of, may_run};
use cap_spec::machine::{SlotId, VcpuId, named_slot};
use cap_spec::properties::Property;

use crate::actions::{View, calls};
use crate::canonical::Collect;
use crate::machine::{Machine, Step, Violation};
use crate::question::{Hardware, Question};
use crate::story;

/// The properties that are checked at every step.
pub const CHECKED: [Property; 6] = [
    Property::WellFormed,
    Property::NoAuthorityFromNothing,
    Property::NoOverlap,
    Property::EntriesBacked,
    Property::CleanBeforeReuse,
    Property::RevokeComplete,
];

/// A rule that is wrong: what the machine forgets to wait for, or to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// Cores are not waited for.
    Cores,
    /// The IOMMU is not waited for.
    Iommu,
    /// What is given out again is not made zero.
    Scrub,
    /// What an IOMMU that has failed may go on reaching is not kept back.
    Quarantine,
}

/// A question, on hardware.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The question.
    pub question: Question,
    /// The mistake in the machine, if it has one.
    pub forgets: Option<Forgotten>,
    /// The IOMMU may fail.
    fails: bool,
    /// What hardware does by itself.
    events: Vec<Event>,
}

/// A state, and the Revoke that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Moment {
    /// The machine.
    pub fine: Fine,
    /// The slot of a Revoke that holds the lock, or has just been answered.
    pub revoking: Option<SlotId>,
}

impl Scenario {
    /// A question, on hardware.
    pub fn new(question: Question, forgets: Option<Forgotten>) -> Scenario {
        let mut events = vec![Event::Continue, Event::Preempt];
        let state = &question.world.state;
        let fails = question.hardware.as_ref().is_some_and(|hardware| hardware.fails);
        if let Some(Hardware { accesses, dma, interrupts, .. }) = &question.hardware {
            for (vcpu, core) in
                question.parties().iter().filter_map(|party| Some((party.vcpu, core_of(state, party.vcpu)?)))
            {
                events.extend([Event::Enter(vcpu), Event::Leave(core)]);
                events.extend(accesses.iter().map(|gpa| Event::Access(core, *gpa, Rights::WRITE)));
            }
            for function in state.functions.keys() {
                events.extend(dma.iter().map(|address| Event::BeginDma(*function, *address, true)));
            }
            events.extend(interrupts.iter().map(|route| Event::Interrupt(*route)));
        }
        Scenario { question, forgets, fails, events }
    }

    /// What the mistake forgets of a step: everybody whom it forgets has been waited for.
    fn forget(&self, before: &Moment, event: &Event, fine: &mut Fine) {
        match (self.forgets, &mut fine.hold) {
            (Some(Forgotten::Cores), Some(hold)) => hold.flush.cores.clear(),
            (Some(Forgotten::Iommu), Some(hold)) => hold.flush.iommu = false,
            (Some(Forgotten::Scrub), _) if *event == Event::Continue => fine.dirt = before.fine.dirt.clone(),
            (Some(Forgotten::Quarantine), _) => fine.quarantine.kept = Bytes::new(),
            _ => {}
        }
    }

    /// What VMs may invoke.
    fn invocations(&self, fine: &Fine, events: &mut Vec<Event>) {
        for (party, actor) in self.question.parties().iter().enumerate() {
            if may_run(&fine.state, actor.vcpu).is_none() {
                continue;
            }
            let view = View::of(&fine.state, actor.root);
            let of_party = self.question.actions.iter().filter(|action| action.party == party);
            for pattern in of_party.filter_map(|action| action.pattern.as_ref()) {
                calls(&self.question, &fine.state, &view, pattern, &mut |call| {
                    events.push(Event::Invoke(actor.vcpu, call));
                });
            }
        }
    }

    /// An event in words.
    pub fn tell(&self, before: &Moment, event: &Event) -> String {
        let name = |vcpu: &VcpuId| {
            let party = self.question.parties().iter().find(|party| party.vcpu == *vcpu);
            party.map_or_else(String::new, |party| party.name.clone())
        };
        match event {
            Event::Invoke(vcpu, call) => {
                let party = self.question.parties().iter().position(|party| party.vcpu == *vcpu);
                party.map_or_else(String::new, |party| {
                    story::tell_call(&self.question, &before.fine.state, party, *call)
                })
            }
            Event::Continue => "the invocation that holds the lock goes on".into(),
            Event::Preempt => "the invocation that holds the lock gives it up".into(),
            Event::Enter(vcpu) => format!("a core enters {}", name(vcpu)),
            Event::Access(core, gpa, _) => format!("what runs on core {core} writes at {gpa:#x}"),
            Event::BeginDma(function, address, _) => format!("function {function} begins to write at {address:#x}"),
            Event::EndDma(dma) => format!("a write of function {} lands", dma.function),
            Event::FlushCore(core) => format!("core {core} forgets what is stale"),
            Event::FlushIommu => "the IOMMU forgets what is stale".into(),
            Event::TimeOut => {
                "the IOMMU does not say in time that it has forgotten what is stale: it has failed".into()
            }
            other => format!("{other:?}"),
        }
    }
}

impl Machine for Scenario {
    type State = Moment;
    type Event = Event;

    fn start(&self) -> Moment {
        Moment { fine: Fine::new(self.question.world.state.clone()), revoking: None }
    }

    fn events(&self, moment: &Moment, events: &mut Vec<Event>) {
        let Fine { hardware, hold, .. } = &moment.fine;
        if hold.is_none() {
            self.invocations(&moment.fine, events);
        }
        events.extend(&self.events);
        events.extend(hardware.dma.iter().map(|dma| Event::EndDma(*dma)));
        events.extend(hardware.tlb.iter().map(|(core, cached)| Event::Forget(*core, *cached)));
        events.extend(hardware.iotlb.iter().map(|(function, cached)| Event::ForgetIo(*function, *cached)));
        if let Some(hold) = hold {
            events.extend(hold.flush.cores.iter().map(|core| Event::FlushCore(*core)));
            events.extend(hold.flush.iommu.then_some(Event::FlushIommu));
            events.extend((hold.flush.iommu && self.fails).then_some(Event::TimeOut));
        }
    }

    fn next(&self, moment: &Moment, event: &Event, next: &mut Vec<Moment>) -> bool {
        let mut after = moment.clone();
        after.revoking = moment.revoking.filter(|_| moment.fine.hold.is_some());
        if let Event::Invoke(vcpu, call) = event {
            let is_revoke = call.label == Label::CNodeRevoke as u64;
            after.revoking = named_slot(&moment.fine.state, *vcpu, *call).filter(|_| is_revoke);
        }
        let answer = fine::step(&mut after.fine, *event);
        self.forget(moment, event, &mut after.fine);
        // Others take these.
        after.fine.state.completions.clear();
        after.fine.state.outputs.clear();
        match answer {
            Answer::Waits | Answer::Impossible => return false,
            Answer::Answered(_, Err(_)) | Answer::Gone(_) | Answer::Again(_) => after.revoking = None,
            _ => {}
        }
        next.push(after);
        !matches!(answer, Answer::Answered(_, Err(_)))
    }

    fn describe(&self, moment: &Moment, description: &mut Vec<u8>) {
        moment.hash(&mut Collect(description));
    }

    fn violation(&self, step: Step<'_, Scenario>) -> Option<Violation> {
        // The step that has answered a Revoke: the lock is free again, and the Revoke is still remembered.
        let slot = step.after.revoking.filter(|_| step.done && step.after.fine.hold.is_none())?;
        let broken = check_revoked(&step.after.fine, slot).err()?;
        Some(Violation { claim: broken.property().name().into(), what: format!("{broken:?}") })
    }

    fn wrong(&self, moment: &Moment) -> Option<Violation> {
        let broken = check(&moment.fine).err()?;
        Some(Violation { claim: broken.property().name().into(), what: format!("{broken:?}") })
    }
}
