//! What is worked on under the lock: a call, a Vcpu that stops, something that the IOMMU has stopped. What it finds and
//! whom it wakes is collected until it ends; then the abstract machine takes it as one step.

use std::collections::BTreeMap;

use cap_spec::abi::{Error, Fault, FaultRecord, Label};
use cap_spec::machine::{self as spec, Call, Cap, Outcome, Period, VcpuId};

use super::Replay;
use super::between::Between;
use crate::record::{Entry, label_name};

/// What has begun.
#[derive(Clone, Copy, Debug)]
enum Work {
    Call(VcpuId, Call),
    Stopped(VcpuId),
    Fault(Option<u16>, FaultRecord),
}

/// Something that has begun.
#[derive(Debug)]
pub(super) struct Open {
    work: Work,
    core: u8,
    /// When it began.
    tsc: u64,
    /// Who has woken, with which events, and when.
    pub(super) woken: Vec<(VcpuId, u64, u64)>,
    /// Event words as they were found first.
    pub(super) events: BTreeMap<VcpuId, u64>,
    /// When shares are free.
    pub(super) freed: BTreeMap<VcpuId, u64>,
}

impl Open {
    fn of(entry: Entry, work: Work) -> Open {
        let (woken, events, freed) = Default::default();
        Open { work, core: entry.core, tsc: entry.tsc, woken, events, freed }
    }

    pub(super) fn call(entry: Entry, invoker: VcpuId, call: Call) -> Open {
        Open::of(entry, Work::Call(invoker, call))
    }

    pub(super) fn stopped(entry: Entry, vcpu: VcpuId) -> Open {
        Open::of(entry, Work::Stopped(vcpu))
    }

    pub(super) fn fault(entry: Entry, function: Option<u16>, record: FaultRecord) -> Open {
        Open::of(entry, Work::Fault(function, record))
    }

    pub(super) fn is_call(&self) -> bool {
        matches!(self.work, Work::Call(..))
    }
}

/// The label of a call.
fn label(call: Call) -> Option<Label> {
    Label::from_number(call.label)
}

/// True for what takes capabilities away.
fn takes(call: Call) -> bool {
    matches!(label(call), Some(Label::CNodeDelete | Label::CNodeRevoke))
}

impl Replay {
    /// What has begun and has no record of its end has ended: a Vcpu has stopped, or a fault was told.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        let Some(open) = self.open.take() else { return Ok(()) };
        self.find(&open);
        match open.work {
            Work::Call(_, call) => return Err(format!("{} has begun and has no end", label_name(call.label))),
            Work::Stopped(vcpu) => {
                spec::stop_by_itself(&mut self.spec, vcpu);
                self.statistics.stopped += 1;
            }
            Work::Fault(function, record) => {
                spec::report(&mut self.spec, function, record);
                self.statistics.faults += 1;
            }
        }
        self.wake(&open)
    }

    /// As [`Replay::settle`], of the last record of all: a call may have ended the machine.
    pub(super) fn settle_last(&mut self) -> Result<(), String> {
        let Some(Open { work: Work::Call(invoker, call), tsc, .. }) = self.open else { return self.settle() };
        self.open = None;
        self.spec.now = tsc;
        match (label(call), spec::step(&mut self.spec, invoker, call)) {
            (Some(Label::IoPortOut | Label::IoPortOutBytes | Label::MachineReset), Ok(_)) => Ok(()),
            _ => Err(format!("the trace ends within {}", label_name(call.label))),
        }
    }

    /// What it found that is not the abstract machine's doing.
    fn find(&mut self, open: &Open) {
        for (vcpu, word) in &open.events {
            self.found_events(*vcpu, *word);
        }
        for (vcpu, from) in &open.freed {
            self.spec.periods.insert(*vcpu, Period { end: *from, length: 1, free: *from });
        }
    }

    /// Whoever had to wake has woken, and whoever else has woken could.
    fn wake(&mut self, open: &Open) -> Result<(), String> {
        self.spec.periods.clear();
        let mut missed = std::mem::take(&mut self.spec.completions);
        for (vcpu, events, at) in &open.woken {
            match missed.iter().position(|completion| completion == &(*vcpu, *events)) {
                Some(at) => {
                    missed.remove(at);
                    self.statistics.woken[0] += 1;
                }
                // In between a call and the next there is no record if nobody calls: a deadline may have passed.
                None if !open.is_call() => self.wakes_by_itself(*at, *vcpu, *events)?,
                None => return Err(format!("Vcpu {:#x} wakes with events {events:#x}, and must not", vcpu.0)),
            }
        }
        match missed.first() {
            None => Ok(()),
            Some((vcpu, events)) => Err(format!("Vcpu {:#x} must wake with events {events:#x}, and does not", vcpu.0)),
        }
    }

    /// The call that has begun on this core.
    fn begun(&mut self, entry: Entry) -> Result<(Open, VcpuId, Call), String> {
        match self.open.take() {
            Some(open) => match open.work {
                Work::Call(invoker, call) if open.core == entry.core => Ok((open, invoker, call)),
                _ => Err("a call ends that has not begun on its core".into()),
            },
            None => Err("a call ends that has not begun".into()),
        }
    }

    /// A call has come to an end.
    pub(super) fn returned(&mut self, entry: Entry, reply: Result<Outcome, Fault>) -> Result<(), String> {
        let (open, invoker, call) = self.begun(entry)?;
        if self.spec.holders.get(&invoker) != Some(&entry.core) {
            return Err(format!("Vcpu {:#x} calls on a core that does not hold it", invoker.0));
        }
        self.find(&open);
        self.hand_over(&open, invoker, call, reply);
        // The clock is read once, at some time between begin and end: each answer but "not yet" is right as soon as it can
        // be, and that one as long as it can be.
        let not_yet = matches!(reply, Ok(Outcome::Blocked) | Err(Fault { error: Error::Busy, .. }));
        self.spec.now = if not_yet || !open.freed.is_empty() { open.tsc } else { entry.tsc };
        self.give_input(call, reply);
        let expected = spec::step(&mut self.spec, invoker, call);
        let expected = self.know_register(invoker, call, expected, reply);
        if expected != reply {
            return Err(format!(
                "{}: the specification says {expected:x?}, the kernel {reply:x?}",
                label_name(call.label)
            ));
        }
        self.wake(&open)?;
        self.forget_holders();
        self.half_done.remove(&invoker);
        self.count(call, reply);
        Ok(())
    }

    /// Who hands a core over to a sleeper whose word is empty looks at neither word closely.
    fn hand_over(&mut self, open: &Open, invoker: VcpuId, call: Call, reply: Result<Outcome, Fault>) {
        if label(call) == Some(Label::ChannelWait)
            && reply == Ok(Outcome::Blocked)
            && !open.events.contains_key(&invoker)
        {
            if let Some(vcpu) = self.spec.vcpus.get_mut(&invoker) {
                vcpu.events &= !call.args[0];
            }
            for (vcpu, ..) in open.woken.iter().filter(|(vcpu, ..)| !open.events.contains_key(vcpu)) {
                self.found_events(*vcpu, 0);
            }
        }
    }

    /// What the world gave.
    fn give_input(&mut self, call: Call, reply: Result<Outcome, Fault>) {
        if let (Some(Label::IoPortIn | Label::PciFunctionReadConfig), Ok(Outcome::Done([value, _]))) =
            (label(call), reply)
        {
            self.spec.port_input = value as u32;
        }
    }

    /// A register of a Vcpu that has run is what it is.
    fn know_register(
        &mut self,
        invoker: VcpuId,
        call: Call,
        expected: Result<Outcome, Fault>,
        reply: Result<Outcome, Fault>,
    ) -> Result<Outcome, Fault> {
        let slot = spec::invoked_slot(&self.spec, invoker, call).and_then(|slot| self.spec.slots.get(&slot));
        let Some(Cap::Vcpu(vcpu)) = slot.map(|slot| &slot.cap) else { return expected };
        let vcpu = *vcpu;
        match (label(call), expected, reply) {
            (Some(Label::VcpuAttach), Ok(_), _) => {
                self.ran.remove(&vcpu);
            }
            (Some(Label::VcpuGetRegister), Ok(_), Ok(Outcome::Done([value, 0]))) if self.ran.contains(&vcpu) => {
                if let Some(register) =
                    self.spec.vcpus.get_mut(&vcpu).and_then(|vcpu| vcpu.registers.get_mut(call.args[0] as usize))
                {
                    *register = value;
                }
                return reply;
            }
            _ => {}
        }
        expected
    }

    /// Cores forget the state of Vcpus that were destroyed or lost their VM.
    fn forget_holders(&mut self) {
        let vcpus = &self.spec.vcpus;
        self.spec.holders.retain(|vcpu, _| vcpus.get(vcpu).is_some_and(|vcpu| vcpu.vm.is_some()));
    }

    fn count(&mut self, call: Call, reply: Result<Outcome, Fault>) {
        let statistics = &mut self.statistics;
        match label(call) {
            None => statistics.unknown += 1,
            Some(_) if matches!(reply, Err(Fault { error: Error::InvalidCapability, argument: 0, .. })) => {
                statistics.unknown += 1;
            }
            Some(label) => {
                *statistics.calls.entry(label).or_default() += 1;
                match reply {
                    Ok(_) => statistics.taken += u64::from(takes(call)),
                    Err(fault) => *statistics.refused.entry((label, fault.error)).or_default() += 1,
                }
            }
        }
    }

    /// A call was given up half-way: how far, the memory says.
    pub(super) fn was_left(&mut self, entry: Entry, gone: bool) -> Result<(), String> {
        let (open, invoker, call) = self.begun(entry)?;
        self.find(&open);
        self.spec.now = open.tsc;
        let before = self.spec.clone();
        let mut after = before.clone();
        let expected = spec::step(&mut after, invoker, call);
        match label(call) {
            Some(Label::CNodeDelete | Label::CNodeRevoke) => {
                expected.map_err(|fault| format!("the specification refuses with {fault:?}, the kernel has begun"))?;
            }
            // It has looked at a part of what is to be launched, and changed nothing.
            Some(Label::VcpuLaunch) if !gone => after = before.clone(),
            _ => return Err(format!("{} cannot be preempted", label_name(call.label))),
        }
        let has_invoker = |state: &spec::State| state.vcpus.get(&invoker).is_some_and(|vcpu| vcpu.vm.is_some());
        if gone && has_invoker(&after) {
            return Err("the invoker is gone, and must not be".into());
        }
        if gone {
            self.statistics.gone += 1;
        } else {
            self.statistics.preempted += 1;
        }
        if takes(call) {
            self.half_done.insert(invoker);
        }
        self.spec.completions.clear();
        self.spec.periods.clear();
        after.completions.clear();
        after.periods.clear();
        after.outputs.clear();
        self.left = Some(Between { before, after });
        Ok(())
    }
}
