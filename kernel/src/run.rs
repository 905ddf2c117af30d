//! What the back end calls: a hypercall, the next decision of a core, a fault, a stop.
//!
//! The back end holds the kernel lock around each of these and between [`Kernel::schedule`] and the entry. The order of
//! an exit: save the guest's general registers; let the core's `in_guest` mark go; take the lock; the call that the exit
//! asks for; [`Kernel::schedule`]; enter what it says.

use crate::asid;
use crate::cap::Cap;
use crate::decode::{Call, Invocation};
use crate::destroy::{Step, Work};
use crate::invoke::Progress;
use crate::kernel::Kernel;
use crate::machine::{Machine, SharedPage};
use crate::types::{CoreId, Gpa, Ticks, VcpuId};
use crate::vcpu::{Run, Vcpu};
use cap_spec::abi::{ExitKind, Fault, Status, StopReason, handler_page, info_page, stats_page};

/// Light steps of a Delete or Revoke that are done before the lock is given up, however many wait for it. A tenant that
/// makes capabilities while its memory is taken cannot keep up with that.
const MIN_STEPS: u32 = 8;
/// Ticks after which the lock is given up even if nobody waits for it: what bounds the time that a core which comes a
/// moment later must wait.
const MAX_HOLD: u64 = 13_000;

const _: () = assert!(ExitKind::Invoke as usize == 0, "counted at the start of the counters of exits");

/// What became of a hypercall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The instruction pointer moves past the hypercall; `rax` is the status, `rsi` and `rdx` are the results.
    Done {
        /// For `rax`.
        status: Status,
        /// For `rsi` and `rdx`.
        results: [u64; 2],
    },
    /// The instruction pointer moves past the hypercall; the other registers are written when the Vcpu wakes
    /// ([`Machine::set_results`]).
    Blocked,
    /// The Vcpu repeats the hypercall; give the lock up before.
    Preempted,
    /// The Vcpu has destroyed itself. Nothing of it may be touched.
    Gone,
}

/// What a core does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whose state the core must save into its object before it does anything else: it held it until now.
    pub save: Option<VcpuId>,
    /// Who runs; `None`: the core halts until it is kicked or `until` has passed.
    pub run: Option<VcpuId>,
    /// The core does not hold the state of `run` yet: load it.
    pub load: bool,
    /// When the core must decide again at the latest, [`crate::sched::NEVER`] for no such time. If it has passed
    /// already, give the lock up and decide again.
    pub until: Ticks,
    /// The address-space number to enter with.
    pub entry: asid::Entry,
}

/// What a nested page fault leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultAction {
    /// Inject this vector as an external interrupt, whatever the interrupt flag says.
    Inject(u8),
    /// The Vcpu cannot be told: write its registers into the handler page and call [`Kernel::stop_by_itself`].
    Stop,
}

impl<M: Machine> Kernel<M> {
    /// A hypercall of the Vcpu that is current on `core`, counted as an exit. Call [`Kernel::schedule`] afterwards, or if
    /// it is done and [`Kernel::stays`], enter again at once.
    #[inline]
    pub fn handle_call(&mut self, core: CoreId, call: &Call) -> Outcome {
        self.active = core;
        let invoker = self.core(core).current;
        if !invoker.is_some() {
            // Stopped or destroyed by another core while this one waited for the lock.
            return if self.core(core).loaded.is_some() { Outcome::Preempted } else { Outcome::Gone };
        }
        self.count_call(invoker, call.label);
        let decoded = self.decode(invoker, call);
        self.carry_out(core, invoker, decoded)
    }

    /// The first part of [`Kernel::handle_call`], for a back end that lends the call's registers to [`Kernel::decode`]
    /// where they lie: counts the hypercall as an exit and by its label.
    #[inline]
    pub fn count_call(&mut self, invoker: VcpuId, label: u64) {
        let vm = self.machine.vcpu(invoker).vm;
        self.bump(SharedPage::Stats(vm), stats_page::EXITS);
        self.bump(SharedPage::GlobalStats, stats_page::EXITS);
        self.count_invocation(vm, label);
    }

    /// The last part: does what was decoded for the Vcpu that is current on `core`.
    #[inline]
    pub fn carry_out(&mut self, core: CoreId, invoker: VcpuId, decoded: Result<Invocation, Fault>) -> Outcome {
        self.active = core;
        match decoded {
            Err(fault) => {
                let vm = self.machine.vcpu(invoker).vm;
                self.count_refusal(vm, fault);
                Outcome::Done { status: Status::refused(fault), results: [0, 0] }
            }
            Ok(Invocation::Nothing) => Outcome::Done { status: Status::OK, results: [0, 0] },
            Ok(invocation) => match self.invoke(invoker, invocation) {
                Progress::Done(results) => Outcome::Done { status: Status::OK, results },
                Progress::Blocked => Outcome::Blocked,
                Progress::Long(work) => self.run_long(core, work),
            },
        }
    }

    /// Does steps of a Delete or Revoke until it is done or others want the lock.
    #[inline]
    fn run_long(&mut self, core: CoreId, mut work: Work) -> Outcome {
        let start = self.machine.now().get();
        let mut steps = 0u32;
        // The bound of this loop is the work that exists; the bound between two looks at the clock is MIN_STEPS light steps
        // or one heavy one.
        loop {
            match self.destroy_step(&mut work) {
                Step::Done => break,
                Step::Light => steps = steps.wrapping_add(1),
                Step::Heavy => steps = MIN_STEPS,
            }
            if steps >= MIN_STEPS {
                steps = 0;
                let held = self.machine.now().get().wrapping_sub(start);
                if held > MAX_HOLD || self.machine.must_yield() {
                    return if self.core(core).loaded.is_some() { Outcome::Preempted } else { Outcome::Gone };
                }
            }
        }
        if self.core(core).loaded.is_some() {
            Outcome::Done { status: Status::OK, results: [0, 0] }
        } else {
            Outcome::Gone
        }
    }

    /// True if nothing has happened since the last decision of `core`: it may enter the same Vcpu with the same number
    /// again.
    #[inline]
    pub fn stays(&self, core: CoreId) -> bool {
        let state = self.core(core);
        !state.disturbed && !state.renumber
    }

    /// What `core` does next. Cheap if nothing has happened since the last decision.
    #[inline]
    pub fn schedule(&mut self, core: CoreId) -> Decision {
        self.active = core;
        self.core_mut(core).renumber = false;
        let state = self.core(core);
        let (mut save, mut load, before) = (None, false, state.loaded);
        let mut run = state.current;
        if state.disturbed || !run.is_some() {
            run = self.decide(core);
        }
        if run != before {
            if before.is_some() && (run.is_some() || self.must_let_go(before)) {
                save = Some(before);
                self.core_mut(core).loaded = VcpuId::NONE;
                self.write_used(core, before);
            } else if before.is_some() {
                // The core idles and keeps its state: it may idle for long, so what it has used is told now.
                self.write_used(core, before);
            }
            if run.is_some() {
                self.core_mut(core).loaded = run;
                load = true;
                let vm = self.machine.vcpu(run).vm;
                self.bump(SharedPage::Stats(vm), stats_page::SWITCHES);
                self.bump(SharedPage::GlobalStats, stats_page::SWITCHES);
            }
        }
        let until = self.core(core).until;
        if !run.is_some() {
            return Decision { save, run: None, load, until, entry: asid::Entry { asid: 0, flush_all: false } };
        }
        let vm = self.machine.vcpu(run).vm;
        let header = self.machine.vm_mut(vm);
        let generation = header.tlb_generation;
        let mut entry = asid::Entry { asid: 0, flush_all: false };
        if let Some(tag) = header.tags.get_mut(core.get() as usize) {
            entry = self.cores[core.get() as usize & (crate::vm::MAX_CORES - 1)].asids.enter(tag, generation);
        }
        Decision { save, run: Some(run), load, until, entry }
    }

    /// Decides anew who runs on a core.
    fn decide(&mut self, core: CoreId) -> VcpuId {
        let now = self.machine.now();
        let state = self.core_mut(core);
        let decision = state.schedule.decide(now);
        let run = decision.run.map_or(VcpuId::NONE, |(_, vcpu)| vcpu);
        state.until = decision.until;
        state.current = run;
        // Events are left: whoever comes next decides again.
        state.disturbed = decision.until <= now;
        let shortfall = state.schedule.worst_shortfall().get();
        if shortfall != state.shortfall {
            state.shortfall = shortfall;
            let worst = self.machine.shared_word(SharedPage::GlobalStats, stats_page::WORST_SHORTFALL).max(shortfall);
            self.machine.set_shared_word(SharedPage::GlobalStats, stats_page::WORST_SHORTFALL, worst);
        }
        if run.is_some() {
            let &Vcpu { run: doing, resized, .. } = self.machine.vcpu(run);
            // A sleeper whose deadline has passed wakes with what there is.
            if doing == Run::Blocked {
                self.complete_wait(run);
            }
            if resized {
                self.tell_reservation(core, run);
            }
        }
        run
    }

    /// True if somebody may be waiting for the state of a Vcpu that a core holds while it idles, or if a device may: what
    /// wakes it must then be an NMI.
    fn must_let_go(&self, vcpu: VcpuId) -> bool {
        let header = self.machine.vcpu(vcpu);
        header.run == Run::Stopped || !header.time.is_some() || header.routes != 0
    }

    /// Tells a Vcpu that is switched away from, and the statistics, how long it has been current.
    #[inline]
    fn write_used(&mut self, core: CoreId, vcpu: VcpuId) {
        let &Vcpu { vm, reservation, .. } = self.machine.vcpu(vcpu);
        let Some(id) = reservation else { return };
        let used = self.core(core).schedule.used(id).get();
        let header = self.machine.vcpu_mut(vcpu);
        let more = used.wrapping_sub(header.used_told);
        header.used_told = used;
        header.used_before = header.used_before.wrapping_add(more);
        let total = header.used_before;
        self.machine.set_shared_word(SharedPage::Info(vcpu), info_page::USED_TICKS, total);
        if vm.is_some() {
            self.add_to(SharedPage::Stats(vm), stats_page::USED_TICKS, more);
        }
        self.add_to(SharedPage::GlobalStats, stats_page::USED_TICKS, more);
    }

    /// Tells a Vcpu whose reservation was resized what holds now, until what was asked for holds.
    #[cold]
    fn tell_reservation(&mut self, core: CoreId, vcpu: VcpuId) {
        let Some(id) = self.machine.vcpu(vcpu).reservation else { return };
        let Some(now) = self.core(core).schedule.reservation(id) else { return };
        let page = SharedPage::Info(vcpu);
        self.machine.set_shared_word(page, info_page::BUDGET_TICKS, now.budget.get());
        self.machine.set_shared_word(page, info_page::PERIOD_TICKS, now.period.get());
        let time = self.machine.vcpu(vcpu).time;
        if let Cap::CpuTime { budget, period, .. } = self.slot(time).cap {
            self.machine.vcpu_mut(vcpu).resized = budget != now.budget.get() || period != now.period.get();
        }
    }

    /// The entry that [`Kernel::schedule`] decided on last was really executed.
    #[inline]
    pub fn entered(&mut self, core: CoreId, entry: asid::Entry) {
        self.core_mut(core).asids.entered(entry);
    }

    /// The core left its guest or its halt because of an NMI, at `at`: what follows is not charged to the guest, and the
    /// core decides again.
    #[inline]
    pub fn on_nmi(&mut self, core: CoreId, at: Ticks) {
        self.active = core;
        let state = self.core_mut(core);
        state.schedule.pause(at);
        state.disturbed = true;
    }

    /// The instant that the last decision named has passed, or the core was kicked: it decides again.
    #[inline]
    pub fn on_deadline(&mut self, core: CoreId) {
        self.active = core;
        self.core_mut(core).disturbed = true;
    }

    /// Who runs on a core, or is about to; `None` if it idles or its Vcpu was stopped or destroyed meanwhile.
    #[inline]
    pub fn current(&self, core: CoreId) -> Option<VcpuId> {
        let current = self.core(core).current;
        if current.is_some() { Some(current) } else { None }
    }

    /// True if this Vcpu (not none) is the current one of a core.
    #[inline]
    pub fn is_current(&self, core: CoreId, vcpu: VcpuId) -> bool {
        self.core(core).current == vcpu
    }

    /// The vector by which the current Vcpu of a core is to be told of events, if one is pending.
    #[inline]
    pub fn pending_event_vector(&self, core: CoreId) -> Option<u8> {
        let vcpu = self.current(core)?;
        let header = self.machine.vcpu(vcpu);
        if header.event_pending { Some(header.event_vector) } else { None }
    }

    /// The event vector of the current Vcpu of a core was injected.
    #[inline]
    pub fn event_vector_injected(&mut self, core: CoreId) {
        if let Some(vcpu) = self.current(core) {
            self.machine.vcpu_mut(vcpu).event_pending = false;
        }
    }

    /// An interrupt may have come for a Vcpu that is out: if it waits, it wakes with what events there are.
    pub fn wake_by_interrupt(&mut self, vcpu: VcpuId) {
        if self.machine.vcpu(vcpu).run == Run::Blocked {
            let now = self.machine.now();
            self.complete_wait(vcpu);
            self.wake_vcpu(vcpu, now);
        }
    }

    /// The core that a Vcpu runs on.
    pub fn vcpu_core(&self, vcpu: VcpuId) -> CoreId {
        self.machine.vcpu(vcpu).core
    }

    /// A nested page fault of the current Vcpu of a core. `access` is as in [`info_page::FAULT_ACCESS`]; `delivering`:
    /// it happened while an interrupt or exception was delivered.
    #[inline]
    pub fn nested_fault(&mut self, core: CoreId, gpa: Gpa, access: u64, delivering: bool) -> FaultAction {
        self.active = core;
        let Some(vcpu) = self.current(core) else { return FaultAction::Stop };
        let &Vcpu { vm, fault_vector, .. } = self.machine.vcpu(vcpu);
        let page = SharedPage::Info(vcpu);
        if fault_vector == 0 || delivering || self.machine.shared_word(page, info_page::UPCALL_BUSY) != 0 {
            return FaultAction::Stop;
        }
        self.machine.set_shared_word(page, info_page::UPCALL_BUSY, 1);
        self.machine.set_shared_word(page, info_page::FAULT_GPA, gpa.get());
        self.machine.set_shared_word(page, info_page::FAULT_ACCESS, access);
        self.bump(page, info_page::FAULT_COUNT);
        self.bump(SharedPage::Stats(vm), stats_page::UPCALLS);
        self.bump(SharedPage::GlobalStats, stats_page::UPCALLS);
        FaultAction::Inject(fault_vector)
    }

    /// The current Vcpu of a core stops by itself; its handler is told. The back end has written the registers into the
    /// handler page, and calls [`Kernel::schedule`] next.
    pub fn stop_by_itself(&mut self, core: CoreId, reason: StopReason, detail: u64, detail2: u64) {
        self.active = core;
        let Some(vcpu) = self.current(core) else { return };
        self.stop_vcpu(vcpu);
        let page = SharedPage::Handler(vcpu);
        self.machine.set_shared_word(page, handler_page::REASON, reason as u64);
        self.machine.set_shared_word(page, handler_page::DETAIL, detail);
        self.machine.set_shared_word(page, handler_page::DETAIL2, detail2);
        self.bump(page, handler_page::COUNT);
        let end = self.machine.vcpu(vcpu).handler;
        if end.is_some()
            && let Ok((receiver, bits)) = self.receiver(end.peer())
        {
            self.signal(receiver, bits);
        }
    }
}
