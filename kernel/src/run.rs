//! What the back end calls: a hypercall, the next decision of a core, a fault, a stop.
//!
//! The back end holds the kernel lock around each of these and between [`Kernel::schedule`] and the entry. The order of
//! an exit: save the guest's general registers; let the core's `in_guest` mark go; take the lock; the call that the exit
//! asks for; [`Kernel::schedule`]; enter what it says.

use crate::asid;
use crate::cap::Cap;
use crate::channel::End;
use crate::decode::{Call, Invocation};
use crate::destroy::{Step, Work};
use crate::invoke::Progress;
use crate::kernel::{Core, Kernel, News};
use crate::machine::{Machine, SharedPage};
use crate::sched::HandOver;
use crate::stats::add_to;
use crate::types::{CoreId, Gpa, Ticks, VcpuId, VmId};
use crate::vcpu::{Run, Vcpu};
use crate::vm::MAX_CORES;
use cap_spec::abi::{ExitKind, Fault, Label, Rights, Status, StopReason, handler_page, info_page, stats_page};

/// Light steps of a Delete or Revoke that are done before the lock is given up, however many wait for it. A tenant that
/// makes capabilities while its memory is taken cannot keep up with that.
const MIN_STEPS: u32 = 8;
/// Ticks after which the lock is given up even if nobody waits for it: what bounds the time that a core which comes a
/// moment later must wait.
const MAX_HOLD: u64 = 10_000;

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
    /// As `Blocked`; and this is what the core does next, without [`Kernel::schedule`].
    HandedOver(Decision),
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
        if call.label == Label::ChannelWait as u64 {
            let now = self.machine.now();
            if let Some(decision) = self.hand_over(core, invoker, call, now) {
                return Outcome::HandedOver(decision);
            }
        }
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
                Progress::Again => Outcome::Preempted,
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
            Outcome::Done { status: Status::OK, results: [work.kept_back, 0] }
        } else {
            Outcome::Gone
        }
    }

    /// True if nothing has happened since the last decision of `core`: it may enter the same Vcpu with the same number
    /// again.
    #[inline]
    pub fn stays(&self, core: CoreId) -> bool {
        self.core(core).news.is_empty()
    }

    /// If nothing has happened since the last decision of `core` but that the tables of the Vcpu that runs there have lost
    /// something: the number with which it may be entered again.
    #[inline]
    pub fn renumber(&mut self, core: CoreId) -> Option<asid::Entry> {
        let &Core { news, current, .. } = self.core(core);
        if news != News::RENUMBER || !current.is_some() {
            return None;
        }
        self.core_mut(core).news = News::empty();
        Some(self.enter_number(core, current))
    }

    /// What `core` does next. Cheap if nothing has happened since the last decision.
    #[inline]
    pub fn schedule(&mut self, core: CoreId) -> Decision {
        self.active = core;
        self.core_mut(core).news.remove(News::RENUMBER);
        let state = self.core(core);
        let before = state.loaded;
        let mut run = state.current;
        if state.news.contains(News::DECIDE) || !run.is_some() {
            run = self.decide(core);
        }
        let mut save = None;
        if run != before && before.is_some() {
            // A core that idles keeps its state if it may; as it may idle for long, what it has used is told now.
            self.write_used(core, before);
            if run.is_some() || self.must_let_go(before) {
                save = Some(before);
                self.core_mut(core).loaded = VcpuId::NONE;
            }
        }
        let until = self.core(core).until;
        if !run.is_some() {
            return Decision { save, run: None, load: false, until, entry: asid::Entry { asid: 0, flush_all: false } };
        }
        let load = run != before;
        if load {
            self.core_mut(core).loaded = run;
            let vm = self.machine.vcpu(run).vm;
            count_switch(&mut self.machine, vm);
        }
        Decision { save, run: Some(run), load, until, entry: self.enter_number(core, run) }
    }

    /// A hypercall of the current Vcpu of a core that hands the core over: `SignalWait` without a deadline, to a Vcpu
    /// that sleeps on the same core for one of these events. It does what [`Kernel::handle_call`] and then
    /// [`Kernel::schedule`] would do, at once. `now` was read since the guest was left. `None` if it is not as simple as
    /// that; then nothing has happened.
    #[inline(always)]
    pub fn hand_over(&mut self, core: CoreId, invoker: VcpuId, call: &Call, now: Ticks) -> Option<Decision> {
        let root = self.cspace_of(invoker)?;
        let slot = self.slot(self.look_up(root, call.cap)?.slot);
        let Cap::Channel { end, id } = slot.cap else { return None };
        let &[mask, deadline, ..] = &call.args;
        if !slot.rights.contains(Rights::WRITE) || mask == 0 || deadline != 0 {
            return None;
        }
        let &End { receiver: to, bits, .. } = self.machine.channel(id).end(end ^ 3);
        if !to.is_some() {
            return None;
        }
        let index = core.get() as usize & (MAX_CORES - 1);
        let state = &mut self.cores[index];
        let machine = &mut self.machine;
        let &Vcpu { run, wait_mask, core: home, reservation: taker, resized, routes, vm: next_vm, .. } =
            machine.vcpu(to);
        let &Vcpu { vm, reservation: giver, .. } = machine.vcpu(invoker);
        let (giver, taker, awaited) = (giver?, taker?, bits & wait_mask);
        if run != Run::Blocked || home != core || awaited == 0 || resized || !state.news.is_empty() {
            return None;
        }
        // Its routes have to be opened.
        if routes != 0 {
            return None;
        }
        if machine.shared_word(SharedPage::Info(invoker), info_page::EVENTS) & mask != 0 {
            return None;
        }
        let HandOver { until, used } = state.schedule.hand_over(giver, taker, now)?;
        self.active = core;
        let until = Ticks::new(until.get());
        state.current = to;
        state.loaded = to;
        state.until = until;
        let header = machine.vcpu_mut(invoker);
        header.run = Run::Blocked;
        header.wait_mask = mask;
        machine.vcpu_mut(to).run = Run::Runnable;
        let mut events = awaited;
        if awaited != bits || machine.shared_word(SharedPage::Info(to), info_page::EVENTS) != 0 {
            machine.or_events(to, bits);
            events = machine.take_events(to, wait_mask);
        }
        machine.set_results(to, [events, 0]);
        tell_used(machine, invoker, vm, used);
        count_switch(machine, next_vm);
        let header = machine.vm_mut(next_vm);
        let entry = state.asids.enter(&mut header.tags[index], header.tlb_generation);
        Some(Decision { save: Some(invoker), run: Some(to), load: true, until, entry })
    }

    /// The address-space number with which a core enters a Vcpu's VM.
    #[inline(always)]
    fn enter_number(&mut self, core: CoreId, run: VcpuId) -> asid::Entry {
        let index = core.get() as usize & (MAX_CORES - 1);
        let vm = self.machine.vcpu(run).vm;
        let header = self.machine.vm_mut(vm);
        let generation = header.tlb_generation;
        self.cores[index].asids.enter(&mut header.tags[index], generation)
    }

    /// Decides anew who runs on a core.
    fn decide(&mut self, core: CoreId) -> VcpuId {
        let now = self.look_at_held_faults(core);
        let state = self.core_mut(core);
        let decision = state.schedule.decide(now);
        let run = decision.run.map_or(VcpuId::NONE, |(_, vcpu)| vcpu);
        state.until = decision.until;
        state.current = run;
        // Events are left: whoever comes next decides again.
        state.news.set(News::DECIDE, decision.until <= now);
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
        let used = self.core_mut(core).schedule.take_used(id).get();
        tell_used(&mut self.machine, vcpu, vm, used);
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

    /// The core left its guest or its halt because of an NMI, at `at`: what follows is charged to its cause, and the core
    /// decides again.
    #[inline]
    pub fn on_nmi(&mut self, core: CoreId, at: Ticks) {
        self.active = core;
        let state = self.core_mut(core);
        state.schedule.pause(at);
        state.news.insert(News::DECIDE);
    }

    /// The instant that the last decision named has passed, or the core was kicked: it decides again.
    #[inline]
    pub fn on_deadline(&mut self, core: CoreId) {
        self.active = core;
        self.core_mut(core).news.insert(News::DECIDE);
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

    /// The vector by which a Vcpu that is about to be entered is to be told of events, if one is pending: it gets it now.
    #[inline(always)]
    pub fn take_event_vector(&mut self, vcpu: VcpuId) -> Option<u8> {
        let header = self.machine.vcpu_mut(vcpu);
        if !header.event_pending {
            return None;
        }
        header.event_pending = false;
        Some(header.event_vector)
    }

    /// An interrupt may have come for a Vcpu that is out: if it waits, it wakes with what events there are. True if it
    /// has been woken.
    pub fn wake_by_interrupt(&mut self, vcpu: VcpuId) -> bool {
        self.wake_sleeper(vcpu, true)
    }

    /// The NMI that a core has taken may have been an interrupt for this Vcpu, which is out.
    pub fn interrupt_by_nmi(&mut self, vcpu: VcpuId) {
        let &Vcpu { core, reservation, .. } = self.machine.vcpu(vcpu);
        if let Some(reservation) = reservation {
            self.core_mut(core).schedule.blame_after(reservation);
        }
        self.wake_by_interrupt(vcpu);
    }

    /// Between a decision of `core` and the entry, taking the interrupts of a Vcpu out of it took so many ticks: they are
    /// that one's, and nobody's if it is no more. `woken`: one of them has woken it.
    #[cold]
    pub fn unloaded(&mut self, core: CoreId, vcpu: Option<VcpuId>, ticks: Ticks, woken: bool) {
        let left = vcpu.and_then(|vcpu| {
            let header = self.machine.vcpu(vcpu);
            header.reservation.filter(|_| header.core == core)
        });
        let again = woken && !self.stays(core);
        self.core_mut(core).schedule.unloaded(left, ticks, again);
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
        self.tell_handler(end, false);
    }
}

/// Counts that a core has turned to a VM.
#[inline]
fn count_switch(machine: &mut impl Machine, vm: VmId) {
    add_to(machine, SharedPage::Stats(vm), stats_page::SWITCHES, 1);
    add_to(machine, SharedPage::GlobalStats, stats_page::SWITCHES, 1);
}

/// Adds to the time that a Vcpu has been current. What its info page said before is its own to change.
#[inline]
fn tell_used(machine: &mut impl Machine, vcpu: VcpuId, vm: VmId, used: u64) {
    add_to(machine, SharedPage::Info(vcpu), info_page::USED_TICKS, used);
    if vm.is_some() {
        add_to(machine, SharedPage::Stats(vm), stats_page::USED_TICKS, used);
    }
    add_to(machine, SharedPage::GlobalStats, stats_page::USED_TICKS, used);
}
