//! What a core does for ever: decide, enter a guest or halt, look why it is back.
//!
//! The order is `kernel::protocol`'s: registers are saved, the core says that it is out, an NMI is taken, the lock is
//! taken, the exit is worked on, the schedule decides, the core says where it goes, the lock is released, it goes.

use super::emulate::Guest;
use super::entry::{self, Carried};
use super::exit::{self, Exit};
use super::state::{self, Saved, guest_of};
use super::switch::{self, Loaded};
use super::vmcb::{EVENT_VALID, Vmcb};
use crate::arch::core_area::Core;
use crate::arch::cpu::rdtsc;
use crate::arch::lock::Lock;
use crate::arch::{apic, interrupts};
use crate::storage::Booted;
use crate::{panic, routes, tracing};
use cap_spec::abi::{ExitKind, Label, StopReason, handler_page, stats_page};
use core::sync::atomic::Ordering;
use kernel::epitaph::EventKind;
use kernel::machine::{Machine, SharedPage};
use kernel::protocol::{Entering, Holding, Outside};
use kernel::trace::{Kind, Returned};
use kernel::types::{CoreId, Gpa, Ticks, VcpuId};
use kernel::{Decision, FaultAction, Outcome};

/// Bits of a nested fault's first exit information that the ABI tells: present, write, user, fetch.
const ACCESS_BITS: u64 = 0b1_0111;

/// A core at work.
struct Running {
    core: &'static Core,
    id: CoreId,
    booted: Booted,
    loaded: Loaded,
    /// The flush that the last entry carried.
    carried: Carried,
    /// What the core does next, where that was decided in passing.
    decided: Option<Decision>,
    /// Labels beyond `ChannelWait` that do not go the shortest way, as that does not: none, or all if they are traced.
    apart: u64,
}

/// What a hypercall leads to.
enum Called {
    /// It is done.
    Done,
    /// The core decides what it does next.
    Decide,
    /// The lock is given up first.
    Preempted,
}

/// What has become of a hypercall that was to hand the core over.
enum Handed {
    /// Nothing has happened.
    Not,
    /// The core has decided what it does next.
    Decided,
    /// The core holds this Vcpu's state and enters it.
    Switched(VcpuId),
}

/// Why a core no longer stays with its guest.
enum Stayed {
    /// Something else must be decided.
    Decide(Lock, Holding),
    /// So that the lock is given up first.
    GaveUp(Outside),
    /// This Vcpu was left with this exit code.
    Left(VcpuId, u32, Entering),
}

/// Runs guests on this core for ever. SVM is on, GIF is 0, and the kernel is configured.
pub fn run(core: &'static Core, booted: Booted) -> ! {
    let loaded = Loaded::new(booted.processor.constants.xcr0);
    let apart = if tracing::is_on() { u64::MAX } else { 0 };
    let mut running =
        Running { core, id: core.id(), booted, loaded, carried: Carried::default(), decided: None, apart };
    let mut outside = Outside::started();
    panic::record(EventKind::Started, 0, 0);
    loop {
        let (mut kernel, holding) = running.take_lock(outside);
        kernel.on_deadline(running.id);
        outside = running.go(kernel, holding);
    }
}

impl Running {
    #[inline(always)]
    fn take_lock(&self, outside: Outside) -> (Lock, Holding) {
        let mut kernel = Lock::take();
        kernel.machine.held_since = rdtsc() as u32;
        (kernel, outside.locked())
    }

    #[inline(always)]
    fn release_lock(&self, mut kernel: Lock) {
        let held = (rdtsc() as u32).wrapping_sub(kernel.machine.held_since);
        if held > kernel.machine.longest_hold {
            note_hold(&mut kernel, held);
        }
    }

    /// Decides, goes, and works on exits, until something must be decided anew with the lock given up.
    fn go(&mut self, mut kernel: Lock, mut holding: Holding) -> Outside {
        let (id, gate) = (self.id, &self.core.gate);
        loop {
            let decision = self.decided.take().unwrap_or_else(|| kernel.schedule(id));
            if decision.load || decision.save.is_some() {
                tracing::record(Kind::Loaded, decision.run.map_or(0, |vcpu| vcpu.address().get()), 0);
            }
            if let Some(before) = decision.save {
                self.save(&mut kernel, before);
            }
            let until = decision.until.get();
            let Some(mut vcpu) = decision.run else { return self.halt(kernel, holding, until) };
            if decision.load {
                self.load(&mut kernel, vcpu);
            }
            if (decision.load && kernel.machine.vcpu(vcpu).routes != 0) || kernel.machine.pins.are_fresh(id) {
                routes::open(&mut kernel, id, vcpu);
            }
            if !kernel.stays(id) {
                // Draining interrupts woke somebody, or events are left.
                self.release_lock(kernel);
                return holding.gave_up();
            }
            // SAFETY: the decision, or the exit, says that it is current on this core.
            let (saved, vmcb) = unsafe { guest_of(vcpu) };
            if let Some(vector) = kernel.take_event_vector(vcpu) {
                saved.raise(vector);
            }
            if saved.owed {
                pay(saved, vmcb);
            }
            entry::address_space(&mut vmcb.control, &mut self.carried, decision.entry);
            let now = kernel.machine.set_deadline(self.id, until);
            let mut entering = match holding.enter(gate, until, now) {
                Ok(entering) => entering,
                Err(holding) => {
                    self.release_lock(kernel);
                    return holding.gave_up();
                }
            };
            self.release_lock(kernel);
            let exit;
            if self.carried.is_some() {
                // SAFETY: as in `stay`. A hypercall that comes with a flush is repeated, once the flush is noted.
                unsafe { switch::enter(saved) };
                exit = Exit::decode(vmcb.control.exit_code);
            } else {
                match self.stay(vcpu, entering) {
                    Stayed::Decide(lock, held) => {
                        (kernel, holding) = (lock, held);
                        continue;
                    }
                    Stayed::GaveUp(outside) => return outside,
                    Stayed::Left(last, code, left) => {
                        vcpu = last;
                        exit = Exit::decode(u64::from(code));
                        entering = left;
                    }
                }
            }
            // SAFETY: the decision, or the exit, says that it is current on this core.
            let (saved, vmcb) = unsafe { guest_of(vcpu) };
            // All that the exit leaves in the Vcpu is written before the core says that it is out: from then on, and until
            // this core has the lock, the Vcpu may be destroyed and its memory be somebody else's.
            if entry::left(&mut vmcb.control, &mut self.carried, &mut saved.pending, self.booted.processor.clean) {
                saved.owe();
            }
            let call = exit == Exit::Vmmcall && vmcb.save.cpl == 0;
            let kind = match exit {
                Exit::Nmi => ExitKind::Nmi,
                Exit::NestedFault => ExitKind::NestedFault,
                _ if call => ExitKind::Invoke,
                _ => self.settle(exit, saved, vmcb),
            };
            // Whatever the guest was left for, an NMI that is pending is taken here: what is injected may be left for the
            // same again before the processor comes to the NMI, and so without end.
            let at = rdtsc();
            let pending = entering.left_by_nmi(&self.core.gate);
            interrupts::take_nmi();
            let called = self.core.nmi.swap(false, Ordering::Relaxed) || exit == Exit::Nmi;
            (kernel, holding) = self.take_lock(pending.taken());
            self.note_flush(&mut kernel);
            if !call {
                kernel.count_exit(self.id, kind);
                self.unsettled(&mut kernel, exit, vcpu);
            }
            if called {
                kernel.on_nmi(self.id, Ticks::new(at));
                kernel.machine.look_at_deadlines(Some(id));
                kernel.look_at_faults(id);
                routes::after_nmi(&mut kernel, id);
            }
        }
    }

    /// Enters a guest, and again as long as there is nothing but hypercalls and nested faults after which it goes on, or
    /// hands the core over. Nothing of a Vcpu is touched before the lock is held and it is known to be current still.
    #[inline(never)]
    fn stay(&mut self, mut vcpu: VcpuId, mut entering: Entering) -> Stayed {
        // Kept, as the guest leaves nothing in registers.
        let (id, gate, apart) = (self.id, &self.core.gate, self.apart);
        loop {
            // SAFETY: it is current on this core.
            let (saved, vmcb) = unsafe { guest_of(vcpu) };
            // SAFETY: the state is loaded, the control block is the kernel's own work, and nothing else uses it until the
            // guest is left.
            unsafe { switch::enter(saved) };
            let code = vmcb.control.exit_code as u32;
            let (mut kernel, holding) = if code == exit::VMMCALL && vmcb.save.cpl == 0 {
                let (mut kernel, holding) = self.back(entering);
                if !kernel.is_current(id, vcpu) {
                    return Stayed::Decide(kernel, holding);
                }
                let label = vmcb.save.rax;
                saved.registers.call.label = label;
                let is_usual = label.wrapping_sub(Label::ChannelWait as u64) > apart
                    || tracing::call(&mut kernel, id, vcpu, &saved.registers.call);
                if is_usual {
                    kernel.count_call(vcpu, label);
                } else {
                    kernel.count_call(vcpu, Label::ChannelWait as u64);
                    match self.hand_over(&mut kernel, id, vcpu) {
                        Handed::Switched(to) => match holding.enter(gate, u64::MAX, 0) {
                            // So short a hold of the lock is never the longest: it is not measured.
                            Ok(entered) => {
                                (vcpu, entering) = (to, entered);
                                continue;
                            }
                            Err(holding) => return Stayed::GaveUp(holding.gave_up()),
                        },
                        Handed::Decided => return Stayed::Decide(kernel, holding),
                        Handed::Not => {}
                    }
                }
                match self.call(&mut kernel, id, vcpu) {
                    Called::Done => (kernel, holding),
                    Called::Decide => return Stayed::Decide(kernel, holding),
                    Called::Preempted => {
                        // Whoever waits for the lock has it first.
                        self.release_lock(kernel);
                        let (kernel, holding) = self.take_lock(holding.gave_up());
                        if !kernel.is_current(id, vcpu) {
                            return Stayed::Decide(kernel, holding);
                        }
                        // SAFETY: it is current on this core, and the lock is held.
                        entry::end_shadow(&mut unsafe { guest_of(vcpu) }.1.control);
                        (kernel, holding)
                    }
                }
            } else if code == exit::NESTED_FAULT && vmcb.control.exit_int_info & EVENT_VALID == 0 {
                let (mut kernel, holding) = self.back(entering);
                if !kernel.is_current(id, vcpu) {
                    return Stayed::Decide(kernel, holding);
                }
                kernel.count_exit(id, ExitKind::NestedFault);
                self.nested_fault(&mut kernel, vcpu);
                (kernel, holding)
            } else {
                return Stayed::Left(vcpu, code, entering);
            };
            let goes_on = kernel.stays(id) || tracing::is_on() && self.is_only_traced(&mut kernel, vcpu);
            if !goes_on {
                // An unmap of its own, mostly.
                match kernel.renumber(id) {
                    Some(entry) if !entry.flush_all => {
                        // SAFETY: it is current on this core.
                        let control = &mut unsafe { guest_of(vcpu) }.1.control;
                        entry::address_space(control, &mut self.carried, entry);
                    }
                    _ => return Stayed::Decide(kernel, holding),
                }
            }
            entering = match holding.enter(gate, u64::MAX, 0) {
                Ok(entering) => entering,
                Err(holding) => {
                    self.release_lock(kernel);
                    return Stayed::GaveUp(holding.gave_up());
                }
            };
            self.release_lock(kernel);
        }
    }

    /// The guest was left, not by an NMI: says so, and takes the lock.
    #[inline(always)]
    fn back(&mut self, entering: Entering) -> (Lock, Holding) {
        self.take_lock(entering.left(&self.core.gate))
    }

    /// A hypercall of the current Vcpu, by the general way.
    #[inline(always)]
    fn call(&mut self, kernel: &mut Lock, id: CoreId, vcpu: VcpuId) -> Called {
        // SAFETY: it is current on this core, and the lock is held.
        let registers = &unsafe { guest_of(vcpu) }.0.registers;
        let decoded = kernel.decode(vcpu, &registers.call);
        match kernel.carry_out(id, vcpu, decoded) {
            Outcome::Done { status, results } => {
                // SAFETY: it is alive, this core holds its state, and the lock is held.
                let (saved, vmcb) = unsafe { guest_of(vcpu) };
                vmcb.save.rax = status.0;
                saved.registers.set_results(results);
                entry::skip_call(vmcb);
                Called::Done
            }
            Outcome::Blocked => {
                tracing::returned(kernel, id, Returned::Blocked);
                // SAFETY: as above.
                entry::skip_call(unsafe { guest_of(vcpu) }.1);
                Called::Decide
            }
            Outcome::HandedOver(decision) => {
                self.decided = Some(decision);
                Called::Decide
            }
            Outcome::Gone => {
                tracing::returned(kernel, id, Returned::Gone);
                Called::Decide
            }
            Outcome::Preempted => {
                tracing::returned(kernel, id, Returned::Preempted);
                Called::Preempted
            }
        }
    }

    /// The call of the current Vcpu is done, or it had a nested fault. True if that is in the trace now, and nothing else has
    /// happened.
    #[cold]
    #[inline(never)]
    fn is_only_traced(&self, kernel: &mut Lock, vcpu: VcpuId) -> bool {
        // SAFETY: it is current on this core, and the lock is held.
        let (saved, vmcb) = unsafe { guest_of(vcpu) };
        let [first, second, ..] = saved.registers.call.args;
        tracing::done(kernel, self.id, vmcb.save.rax, [first, second]);
        kernel.stays(self.id)
    }

    /// A `SignalWait` of the current Vcpu, which may hand the core over to another at once.
    #[inline(always)]
    fn hand_over(&mut self, kernel: &mut Lock, id: CoreId, from: VcpuId) -> Handed {
        // SAFETY: it is current on this core, or the kernel has just made it so, with the lock held.
        let (saved, vmcb) = unsafe { guest_of(from) };
        let now = Ticks::new(rdtsc());
        let Some(decision) = kernel.hand_over(id, from, &saved.registers.call, now) else { return Handed::Not };
        entry::skip_call(vmcb);
        let Decision { run: Some(to), .. } = decision else { return Handed::Not };
        let plain = !kernel.machine.vcpu(to).event_pending && !decision.entry.flush_all;
        // SAFETY: it is current on this core, or the kernel has just made it so, with the lock held.
        let (next, next_block) = unsafe { guest_of(to) };
        if !plain
            || kernel.machine.pins.are_fresh(id)
            || !self.loaded.swap(saved, next, next_block, &self.booted.processor.constants)
        {
            self.decided = Some(decision);
            return Handed::Decided;
        }
        entry::address_space(&mut next_block.control, &mut self.carried, decision.entry);
        // If the instant has passed already, this core was called, which it notices before it enters.
        kernel.machine.set_deadline(id, decision.until.get());
        Handed::Switched(to)
    }

    /// Takes a Vcpu's state out of this core.
    #[inline]
    fn save(&mut self, kernel: &mut Lock, vcpu: VcpuId) {
        // SAFETY: this core holds its state and the lock.
        let (saved, vmcb) = unsafe { guest_of(vcpu) };
        self.loaded.unload(saved, vmcb, &self.booted.processor.constants);
        if saved.interrupts || kernel.machine.vcpu(vcpu).routes != 0 {
            self.save_interrupts(kernel, vcpu);
        }
    }

    /// Takes a Vcpu's interrupts out of this core. How long that takes is its own doing, and so charged to it.
    #[cold]
    fn save_interrupts(&mut self, kernel: &mut Lock, vcpu: VcpuId) {
        let start = rdtsc();
        let mut woken = kernel.machine.vcpu(vcpu).routes != 0 && routes::park(kernel, self.id, vcpu);
        // SAFETY: as in `save`.
        let saved = unsafe { guest_of(vcpu).0 };
        switch::take_interrupts(saved, self.core);
        // One that came before it slept wakes it.
        woken |= saved.owed && kernel.wake_by_interrupt(vcpu);
        let looked = self.look_after_window(kernel);
        kernel.unloaded(self.id, Some(vcpu), Ticks::new(rdtsc().wrapping_sub(start).saturating_sub(looked)), woken);
    }

    /// Brings a Vcpu's state into this core.
    #[inline]
    fn load(&mut self, kernel: &mut Lock, vcpu: VcpuId) {
        if self.loaded.is_live() {
            // Its owner was destroyed, or taken off its VM, while this core held the state. Its routes may live on: none of
            // them stays open towards this core.
            let start = rdtsc();
            routes::close(kernel, self.id);
            self.loaded.discard(self.core, &self.booted.processor.constants);
            let looked = self.look_after_window(kernel);
            kernel.unloaded(self.id, None, Ticks::new(rdtsc().wrapping_sub(start).saturating_sub(looked)), false);
        }
        // SAFETY: the decision has made it current on this core, and the lock is held.
        let (saved, vmcb) = unsafe { guest_of(vcpu) };
        self.loaded.load(saved, vmcb, &self.booted.processor.constants);
    }

    /// Draining interrupts opened the NMI window too: what came in then has lost its voice. Returns the ticks of it that are
    /// nobody's, and are not charged to anybody already.
    #[inline]
    fn look_after_window(&mut self, kernel: &mut Lock) -> u64 {
        if !self.core.nmi.load(Ordering::Relaxed) {
            return 0;
        }
        self.core.nmi.store(false, Ordering::Relaxed);
        kernel.machine.look_at_deadlines(None);
        let looked = kernel.look_at_faults(self.id);
        routes::after_nmi(kernel, self.id);
        looked.get()
    }

    /// Halts until an NMI comes.
    fn halt(&mut self, mut kernel: Lock, holding: Holding, until: u64) -> Outside {
        if kernel.machine.pins.are_fresh(self.id) {
            // Whoever they were bound to is out by now.
            kernel.machine.pins.looked(self.id);
        }
        if !kernel.stays(self.id) || self.booted.root.has_stopped(&mut kernel, self.id) {
            self.release_lock(kernel);
            return holding.gave_up();
        }
        let now = kernel.machine.set_deadline(self.id, until);
        let halting = match holding.halt(&self.core.gate, until, now) {
            Ok(halting) => halting,
            Err(holding) => {
                self.release_lock(kernel);
                return holding.gave_up();
            }
        };
        self.release_lock(kernel);
        interrupts::idle();
        self.core.nmi.store(false, Ordering::Relaxed);
        let at = rdtsc();
        let (mut kernel, holding) = self.take_lock(halting.left(&self.core.gate));
        kernel.on_nmi(self.id, Ticks::new(at));
        kernel.machine.look_at_deadlines(Some(self.id));
        kernel.look_at_faults(self.id);
        routes::after_nmi(&mut kernel, self.id);
        self.release_lock(kernel);
        holding.gave_up()
    }

    /// Tells the kernel that a flush was carried out.
    #[inline(always)]
    fn note_flush(&mut self, kernel: &mut Lock) {
        if let Some(entry) = self.carried.take() {
            kernel.entered(self.id, entry);
        }
    }

    /// Settles what needs nothing but the Vcpu, without the lock.
    #[cold]
    fn settle(&mut self, exit: Exit, saved: &mut Saved, vmcb: &mut Vmcb) -> ExitKind {
        let (constants, features) = (&self.booted.processor.constants, &self.booted.processor.features);
        panic::record(EventKind::Exit, vmcb.control.exit_code as u32, vmcb.control.exit_info1);
        let mut guest = Guest { saved, vmcb, loaded: &mut self.loaded, constants, features };
        match exit {
            Exit::Cpuid => guest.cpuid(),
            Exit::Msr => guest.msr(),
            Exit::Xsetbv => guest.xsetbv(),
            Exit::DebugRegister => guest.debug_registers(),
            Exit::Port => guest.protection(),
            // It is the machine's, whoever was running.
            Exit::Exception(MACHINE_CHECK) => panic!("machine check in a guest"),
            Exit::Exception(vector) => guest.reflect(vector),
            Exit::Instruction(_) | Exit::Vmmcall => guest.undefined(),
            Exit::NestedFault | Exit::Shutdown | Exit::Invalid | Exit::Init | Exit::Nmi | Exit::Other(_) => {}
        }
        match exit {
            Exit::Cpuid => ExitKind::Cpuid,
            Exit::Msr => ExitKind::Msr,
            Exit::Xsetbv => ExitKind::Xsetbv,
            Exit::DebugRegister => ExitKind::Register,
            Exit::Port => ExitKind::Port,
            Exit::Exception(_) => ExitKind::Exception,
            Exit::Instruction(_) | Exit::Vmmcall => ExitKind::Instruction,
            Exit::NestedFault => ExitKind::NestedFault,
            Exit::Shutdown => ExitKind::Shutdown,
            Exit::Invalid => ExitKind::Invalid,
            Exit::Init | Exit::Nmi | Exit::Other(_) => ExitKind::Other,
        }
    }

    /// What needs the kernel: nested faults, and exits that end the guest.
    #[inline]
    fn unsettled(&mut self, kernel: &mut Lock, exit: Exit, vcpu: VcpuId) {
        if kernel.current(self.id) != Some(vcpu) {
            return;
        }
        // SAFETY: it is current on this core, and the lock is held.
        let control = &unsafe { guest_of(vcpu) }.1.control;
        let (code, info1) = (control.exit_code, control.exit_info1);
        match exit {
            Exit::NestedFault => self.nested_fault(kernel, vcpu),
            Exit::Shutdown => self.stop(kernel, vcpu, StopReason::Shutdown, 0, 0),
            Exit::Invalid => self.stop(kernel, vcpu, StopReason::InvalidState, code, 0),
            Exit::Other(_) => self.stop(kernel, vcpu, StopReason::Instruction, code, info1),
            _ => {}
        }
    }

    /// A nested fault of the current Vcpu: it is told by an upcall, or stops.
    #[inline(never)]
    fn nested_fault(&mut self, kernel: &mut Lock, vcpu: VcpuId) {
        // SAFETY: it is current on this core, and the lock is held.
        let (saved, vmcb) = unsafe { guest_of(vcpu) };
        let delivering = saved.pending.is_delivering();
        let (access, gpa) = (vmcb.control.exit_info1 & ACCESS_BITS, vmcb.control.exit_info2);
        match kernel.nested_fault(self.id, Gpa::new(gpa), access, delivering) {
            FaultAction::Inject(vector) => {
                // SAFETY: it is current on this core, and the lock is held.
                let control = &mut unsafe { guest_of(vcpu) }.1.control;
                entry::inject_upcall(control, vector);
            }
            FaultAction::Stop => self.stop(kernel, vcpu, StopReason::NestedFault, gpa, access),
        }
    }

    /// The current Vcpu stops by itself: its registers go into the handler page.
    #[cold]
    fn stop(&mut self, kernel: &mut Lock, vcpu: VcpuId, reason: StopReason, detail: u64, detail2: u64) {
        panic::record(EventKind::Stopped, vcpu.get(), reason as u64);
        // SAFETY: it is current on this core, and the lock is held.
        let (saved, vmcb) = unsafe { guest_of(vcpu) };
        // FS and GS base are in the core; so that the page tells them, they are brought out first.
        switch::save_hidden(saved);
        let words = state::handler_words(saved, vmcb);
        for (index, word) in words.into_iter().enumerate() {
            kernel.machine.set_shared_word(SharedPage::Handler(vcpu), handler_page::REGISTERS + index * 8, word);
        }
        tracing::record(Kind::Stopped, vcpu.address().get(), reason as u64);
        kernel.stop_by_itself(self.id, reason, detail, detail2);
    }
}

/// Vector of the machine-check exception.
const MACHINE_CHECK: u8 = 18;

/// Gives a guest what it is owed: vectors through the core's APIC, an event that was cut off by injection.
#[cold]
fn pay(saved: &mut Saved, vmcb: &mut Vmcb) {
    saved.owed = false;
    for (word, base) in saved.pending.take_vectors().into_iter().zip([0u8, 64, 128, 192]) {
        let mut left = word;
        while left != 0 {
            apic::self_ipi(base + left.trailing_zeros() as u8);
            left &= left - 1;
        }
    }
    entry::inject_cut_off(&mut vmcb.control, &mut saved.pending);
}

#[cold]
fn note_hold(kernel: &mut Lock, held: u32) {
    kernel.machine.longest_hold = held;
    kernel.machine.set_shared_word(SharedPage::GlobalStats, stats_page::LONGEST_HOLD, u64::from(held));
}
