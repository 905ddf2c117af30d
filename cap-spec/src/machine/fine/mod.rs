//! The fine machine: the abstract machine with hardware that remembers, and with operations that others interrupt.
//!
//! [`step`](super::step) does an invocation as a whole, and what it withdraws is out of reach at once. Here the same
//! invocations are done as the kernel does them: in small steps, under one lock, while cores go on running guests and
//! devices go on with their DMA, through translations that they remember.
//!
//! Entry points: [`Fine::new`] puts a [`State`] on hardware that remembers nothing; [`step`] takes one [`Event`], is
//! defined for every machine and every event, and says what came of it ([`Answer`]); [`check`] is what is true of every
//! machine that it leads to; [`run`] does an invocation that nobody interrupts. Machines and events are plain values that
//! can be compared, ordered and hashed.
//!
//! # The lock
//! An invocation begins with [`Event::Invoke`], which takes the lock. If something that hardware remembers is stale
//! then, the lock is *held* until every core concerned, and the IOMMU, has forgotten it ([`Event::FlushCore`],
//! [`Event::FlushIommu`]); [`Event::Continue`] goes on. Nobody else invokes meanwhile, and no core enters a guest, but
//! those that run one go on, and so do devices. An invocation is answered, and a slot is erased, only after the flush.
//!
//! Delete and Revoke are sequences of steps (module `destroy`). Between two of them the lock may be given up
//! ([`Event::Preempt`]): then anything may happen, and the invoker repeats the call, or does not. Launch gives it up after
//! each of its steps, and is repeated.
//!
//! If the IOMMU does not say in time that it has forgotten, it has failed ([`Event::TimeOut`], module `quarantine`).
//!
//! # What it refines
//! An invocation that nobody interrupts leaves the state that `step` gives, and is answered the same: the tests in
//! `verification/specification` hold it to that.

mod bounds;
mod bytes;
mod destroy;
mod hardware;
mod invariants;
mod launch;
mod quarantine;

pub use bounds::{STEP_CHANGES, changes, remaining};
pub use bytes::Bytes;
pub use destroy::{Destroy, SCAN, SCRUB, STOPPED_AT_ONCE};
pub use hardware::{Cached, Dma, Flush, Hardware, core_of, may_run, route_of};
pub use invariants::{FineBroken, check, check_revoked};
pub use launch::{Check, STEP as LAUNCH_STEP};
pub use quarantine::Quarantine;

use alloc::collections::{BTreeMap, BTreeSet};

use super::invariants::extent_of;
use super::lookup::Invoked;
use super::state::{Cap, Extent, SlotId, State, VcpuId};
use super::{Call, Outcome, carry_out, cnode, expire, look_up, report};
use crate::abi::{Fault, FaultRecord, Label, Rights};
use destroy::Progress;
use quarantine::withdrawn;

/// The abstract machine on hardware.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fine {
    /// Capabilities and objects.
    pub state: State,
    /// What hardware remembers.
    pub hardware: Hardware,
    /// Memory that may hold something.
    pub dirt: Bytes,
    /// Launches that are being checked, by who repeats them.
    pub checks: BTreeMap<VcpuId, Check>,
    /// The invocation that holds the lock.
    pub hold: Option<Hold>,
    /// Whether the IOMMU has failed, and what it may go on reaching then.
    pub quarantine: Quarantine,
}

/// An invocation that holds the lock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hold {
    /// Who invoked.
    pub by: VcpuId,
    /// What is still to be done.
    pub work: Work,
    /// What must be flushed before.
    pub flush: Flush,
    /// What was in reach of functions, and has been withdrawn since the last flush.
    pub withdrawn: BTreeSet<Extent>,
}

/// What an invocation that holds the lock has still to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// Nothing but to give this answer.
    Answer(Result<Outcome, Fault>),
    /// More steps of a Delete or Revoke.
    Destroy(Destroy),
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// A Vcpu invokes, for the first time or again; it leaves its guest.
    Invoke(VcpuId, Call),
    /// The invocation that holds the lock goes on.
    Continue,
    /// It gives the lock up; its invoker is to repeat the call.
    Preempt,
    /// A core enters the guest of a Vcpu whose CPU time is the core's.
    Enter(VcpuId),
    /// A core leaves its guest.
    Leave(u8),
    /// What runs on a core reads, writes or fetches (one of READ, WRITE, EXECUTE) at a guest-physical address.
    Access(u8, u64, Rights),
    /// A core forgets something.
    Forget(u8, Cached),
    /// A core has left its guest, and forgets what is stale.
    FlushCore(u8),
    /// A function begins to read, or to write, at an I/O address.
    BeginDma(u16, u64, bool),
    /// A read or write lands.
    EndDma(Dma),
    /// The IOMMU forgets something that it remembers for a function.
    ForgetIo(u16, Cached),
    /// The IOMMU forgets what is stale, after all that was under way through it has landed.
    FlushIommu,
    /// It does not say in time that it has.
    TimeOut,
    /// Something raises an interrupt route.
    Interrupt(u16),
    /// The IOMMU has stopped a function, or something that is none of those handed out.
    Stopped(Option<u16>, FaultRecord),
    /// Time passes.
    Tick(u64),
    /// A core finds that the deadline of a sleeper has passed.
    Expire(VcpuId),
}

/// What came of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// An invocation is over, with this answer.
    Answered(VcpuId, Result<Outcome, Fault>),
    /// An invocation is over, and has destroyed its invoker.
    Gone(VcpuId),
    /// The lock is held: something is to be flushed, or more steps are to be done.
    Holds,
    /// The lock was given up; the invoker is to repeat the call.
    Again(VcpuId),
    /// It happened.
    Happened,
    /// An access, DMA or interrupt that reached nothing.
    Stopped,
    /// It waits for the lock, or for a flush; nothing happened.
    Waits,
    /// It cannot happen here; nothing happened.
    Impossible,
}

impl Fine {
    /// A state on hardware that remembers nothing: all objects are dirty, and all memory that was given out, but what
    /// lies at or above the watermark of an Untyped.
    pub fn new(state: State) -> Fine {
        let mut dirt = Bytes::new();
        let untypeds = || {
            state.slots.values().filter_map(|slot| match slot.cap {
                Cap::Untyped { extent, device: false, watermark } => Some((extent, watermark)),
                _ => None,
            })
        };
        for (extent, watermark) in untypeds() {
            dirt.add(extent.base, watermark);
        }
        for (extent, watermark) in untypeds() {
            dirt.clear(extent.base + watermark, extent.bytes() - watermark);
        }
        for slot in state.slots.values() {
            mark_object(&mut dirt, &slot.cap);
        }
        Fine {
            state,
            hardware: Hardware::default(),
            dirt,
            checks: BTreeMap::new(),
            hold: None,
            quarantine: Quarantine::default(),
        }
    }

    /// Asks who must forget something before the invocation goes on, or ends with its answer if nobody must. `before` is
    /// the state before the step, if [`Fine::to_compare`] has kept it.
    fn hold(&mut self, by: VcpuId, work: Work, before: Option<&State>) -> Answer {
        let mut flush = self.hardware.stale(&self.state);
        let mut withdrawn = before.map(|before| withdrawn(before, &self.state)).unwrap_or_default();
        if self.quarantine.has_failed {
            flush.iommu = false;
            self.quarantine.keep(&withdrawn);
            withdrawn.clear();
        }
        if let (Work::Answer(answer), true) = (work, flush.is_complete()) {
            self.hold = None;
            return self.answer(by, answer);
        }
        self.hold = Some(Hold { by, work, flush, withdrawn });
        Answer::Holds
    }

    fn answer(&self, by: VcpuId, answer: Result<Outcome, Fault>) -> Answer {
        let is_there = self.state.vcpus.get(&by).is_some_and(|vcpu| vcpu.vm.is_some());
        if is_there { Answer::Answered(by, answer) } else { Answer::Gone(by) }
    }

    /// Makes every check of a launch begin again that has passed something which has changed.
    fn look_at_checks(&mut self, before: Option<State>) {
        let Some(before) = before else { return };
        let after = &self.state;
        for check in self.checks.values_mut().filter(|check| check.is_touched(&before, after)) {
            check.passed.clear();
        }
        self.checks.retain(|vcpu, _| after.vcpus.contains_key(vcpu));
    }

    /// The state as it is, if a check of a launch or the quarantine must hear of changes.
    fn to_compare(&self) -> Option<State> {
        (!self.checks.is_empty() || !self.state.domains.is_empty()).then(|| self.state.clone())
    }

    /// The IOMMU does not say in time that it has forgotten. True if it was asked to.
    fn time_out(&mut self) -> bool {
        let Some(hold) = self.hold.as_mut().filter(|hold| hold.flush.iommu) else { return false };
        hold.flush.iommu = false;
        self.quarantine.has_failed = true;
        self.quarantine.keep(&core::mem::take(&mut hold.withdrawn));
        true
    }
}

/// An object of this kind is written by kernel or hardware from the start.
fn mark_object(dirt: &mut Bytes, cap: &Cap) {
    if let (Some(extent), false) = (extent_of(cap), matches!(cap, Cap::Untyped { .. } | Cap::Frame { .. })) {
        dirt.add(extent.base, extent.bytes());
    }
}

/// One event.
pub fn step(fine: &mut Fine, event: Event) -> Answer {
    let happened = |it: bool| if it { Answer::Happened } else { Answer::Impossible };
    let reached = |it: bool| if it { Answer::Happened } else { Answer::Stopped };
    let Fine { state, hardware, dirt, hold, .. } = fine;
    match event {
        Event::Invoke(vcpu, call) => invoke(fine, vcpu, call),
        Event::Continue => go_on(fine),
        Event::Preempt => preempt(fine),
        Event::Enter(_) if hold.is_some() => Answer::Waits,
        Event::Enter(vcpu) => match may_run(state, vcpu) {
            Some(core) => {
                hardware.running.insert(core, vcpu);
                Answer::Happened
            }
            None => Answer::Impossible,
        },
        Event::Leave(core) => happened(hardware.running.remove(&core).is_some()),
        Event::TimeOut => happened(fine.time_out()),
        Event::BeginDma(..) if fine.quarantine.has_failed => Answer::Stopped,
        Event::Interrupt(route) if fine.quarantine.has_failed => {
            let is_pin = route < state.config.first_message_route;
            reached(is_pin && route_of(state, route).is_some())
        }
        Event::Access(core, gpa, wanted) => reached(hardware.access(state, dirt, core, gpa, wanted)),
        Event::Forget(core, cached) => happened(hardware.tlb.remove(&(core, cached))),
        Event::FlushCore(core) => {
            let is_asked = hold.as_mut().is_some_and(|hold| hold.flush.cores.remove(&core));
            if is_asked {
                hardware.flush_core(state, core);
            }
            happened(is_asked)
        }
        Event::BeginDma(function, address, is_write) => {
            reached(hardware.begin_dma(state, dirt, function, address, is_write))
        }
        Event::EndDma(dma) => happened(hardware.end_dma(dirt, &dma)),
        Event::ForgetIo(function, cached) => happened(hardware.iotlb.remove(&(function, cached))),
        Event::FlushIommu => {
            let is_asked = hold.as_mut().is_some_and(|hold| core::mem::take(&mut hold.flush.iommu));
            if is_asked {
                hardware.flush_iommu(state, dirt);
            }
            happened(is_asked)
        }
        Event::Interrupt(route) => reached(hardware.interrupt(state, route)),
        Event::Stopped(..) | Event::Expire(_) if hold.is_some() => Answer::Waits,
        Event::Stopped(function, record) => {
            report(state, function, record);
            Answer::Happened
        }
        Event::Tick(ticks) => {
            state.now = state.now.saturating_add(ticks);
            Answer::Happened
        }
        Event::Expire(vcpu) => happened(expire(state, vcpu).is_some()),
    }
}

/// An invocation begins, or is repeated.
fn invoke(fine: &mut Fine, invoker: VcpuId, call: Call) -> Answer {
    if fine.hold.is_some() {
        return Answer::Waits;
    }
    let Some(core) = may_run(&fine.state, invoker) else { return Answer::Impossible };
    fine.hardware.running.remove(&core);
    let found = look_up(&fine.state, invoker, call);
    let before = fine.to_compare();
    let work = match found {
        Err(fault) => Ok(Work::Answer(Err(fault))),
        Ok((Label::CNodeDelete, invoked)) => begin(&fine.state, invoked, cnode::to_delete, Destroy::delete),
        Ok((Label::CNodeRevoke, invoked)) => begin(&fine.state, invoked, cnode::to_revoke, Destroy::revoke),
        Ok((Label::VcpuLaunch, invoked)) => {
            let mut check = fine.checks.remove(&invoker);
            let answer = launch::step(&mut fine.state, invoked, &mut check);
            fine.checks.extend(check.map(|check| (invoker, check)));
            answer.map(Work::Answer).ok_or(Answer::Again(invoker))
        }
        Ok((label, invoked)) => Ok(Work::Answer(other(fine, label, invoked))),
    };
    let answer = match work {
        Ok(Work::Destroy(destroy)) => destroy_step(fine, invoker, destroy, before.as_ref()),
        Ok(work) => fine.hold(invoker, work, before.as_ref()),
        Err(again) => again,
    };
    fine.look_at_checks(before);
    answer
}

/// A Delete or Revoke of the slot that the call names.
fn begin(
    state: &State,
    invoked: Invoked,
    slot: impl Fn(&State, Invoked) -> Result<SlotId, Fault>,
    destroy: impl Fn(SlotId) -> Destroy,
) -> Result<Work, Answer> {
    Ok(match slot(state, invoked) {
        Ok(slot) => Work::Destroy(destroy(slot)),
        Err(fault) => Work::Answer(Err(fault)),
    })
}

/// An invocation that is done in one step; what it made is dirty from then on.
fn other(fine: &mut Fine, label: Label, invoked: Invoked) -> Result<Outcome, Fault> {
    let failed = fine.quarantine.has_failed.then(|| fine.state.clone());
    let answer = carry_out(&mut fine.state, label, invoked)?;
    if let Some(before) = failed
        && let Some(fault) = fine.quarantine.refusal(&before, &fine.state)
    {
        fine.state = before;
        return Err(fault);
    }
    if label == Label::UntypedRetype {
        for (_, made) in fine.state.children(invoked.slot) {
            mark_object(&mut fine.dirt, &made.cap);
        }
    }
    Ok(answer)
}

/// One step of a Delete or Revoke.
fn destroy_step(fine: &mut Fine, by: VcpuId, mut destroy: Destroy, before: Option<&State>) -> Answer {
    let work = match destroy.step(&mut fine.state, &mut fine.dirt, &fine.quarantine) {
        Progress::Done { kept } => Work::Answer(Ok(Outcome::Done([kept, 0]))),
        Progress::More => Work::Destroy(destroy),
    };
    fine.hold(by, work, before)
}

/// The invocation that holds the lock goes on.
fn go_on(fine: &mut Fine) -> Answer {
    let Some(Hold { by, work, flush, .. }) = fine.hold.clone() else { return Answer::Impossible };
    if !flush.is_complete() {
        return Answer::Waits;
    }
    let before = fine.to_compare();
    let answer = match work {
        Work::Answer(_) => fine.hold(by, work, None),
        Work::Destroy(destroy) => destroy_step(fine, by, destroy, before.as_ref()),
    };
    fine.look_at_checks(before);
    answer
}

/// The invocation that holds the lock gives it up, if it is between two steps.
fn preempt(fine: &mut Fine) -> Answer {
    match &fine.hold {
        Some(Hold { by, work: Work::Destroy(Destroy { erasing: None, .. }), flush, .. }) if flush.is_complete() => {
            let by = *by;
            fine.hold = None;
            let is_there = fine.state.vcpus.get(&by).is_some_and(|vcpu| vcpu.vm.is_some());
            if is_there { Answer::Again(by) } else { Answer::Gone(by) }
        }
        Some(_) => Answer::Waits,
        None => Answer::Impossible,
    }
}

/// An invocation that nobody interrupts, with the flushes that it waits for, and how many steps it took. The first
/// answer that is not to hold the lock or to repeat the call.
pub fn run(fine: &mut Fine, invoker: VcpuId, call: Call) -> (Answer, usize) {
    let mut event = Event::Invoke(invoker, call);
    let mut steps = 0;
    loop {
        steps += 1;
        match step(fine, event) {
            Answer::Holds => event = Event::Continue,
            Answer::Again(_) => event = Event::Invoke(invoker, call),
            answer => return (answer, steps),
        }
        flush(fine);
    }
}

/// Everybody who must forget something does.
pub fn flush(fine: &mut Fine) {
    let Some(Hold { flush, .. }) = fine.hold.clone() else { return };
    for core in flush.cores {
        step(fine, Event::FlushCore(core));
    }
    if flush.iommu {
        step(fine, Event::FlushIommu);
    }
}
