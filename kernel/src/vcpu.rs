//! The header of a `Vcpu` object, and what is legal in its registers.
//!
//! A `Vcpu` is 16 KiB: page 0 begins with this header (the back end's saved state follows from byte
//! [`BACK_END_OFFSET`] on), page 1 is the back end's control block, page 2 the info page, page 3 the handler page.

use crate::cap::Cap;
use crate::channel::Handled;
use crate::decode::{Invocation, Invoked};
use crate::kernel::{Kernel, News};
use crate::launch::{Check, Mark};
use crate::machine::{Machine, SharedPage};
use crate::sched::{NEVER, ReservationId, Waker};
use crate::types::{CoreId, EndId, Hpa, SlotId, Ticks, VcpuId, VmId};
use cap_spec::abi::{Error, Fault, Label, ObjectType, Register, Rights, info_page};

/// Where the back end's part of page 0 begins.
pub const BACK_END_OFFSET: usize = 1024;

/// What a Vcpu is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Run {
    /// It does not run until it is started.
    Stopped = 0,
    /// It runs whenever its CPU time lets it.
    Runnable = 1,
    /// It sleeps in Wait.
    Blocked = 2,
}

/// A virtual processor.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Vcpu {
    /// The VM that it runs in.
    pub vm: VmId,
    /// The next Vcpu of that VM.
    pub next: VcpuId,
    /// The previous Vcpu of that VM.
    pub prev: VcpuId,
    /// The slot of the reservation that it is bound to.
    pub time: SlotId,
    /// The end whose peer is told when it stops by itself; that end names this Vcpu in `handled`.
    pub handler: EndId,
    /// The first of the channel ends at which it receives.
    pub receives: EndId,
    /// Core of its reservation.
    pub core: CoreId,
    /// What it is doing.
    pub run: Run,
    /// Vector for nested page faults, 0 for none.
    pub fault_vector: u8,
    /// Vector for events while it runs, 0 for none.
    pub event_vector: u8,
    /// An event came while it did not wait and it has an event vector: the back end injects the vector at the next
    /// entry that can take it, and clears this.
    pub event_pending: bool,
    /// Counted in the VM's `foreign`.
    pub foreign: bool,
    /// Its reservation was resized and the info page has not been told all of it.
    pub resized: bool,
    /// How many interrupt routes are bound to it.
    pub routes: u16,
    /// Its reservation in the core's schedule.
    pub reservation: Option<ReservationId>,
    /// While blocked: the events that wake it.
    pub wait_mask: u64,
    /// The launch that it is checking.
    pub check: Check,
    /// Whose check of a launch counts on what VM it is in.
    pub mark: Mark,
}

const _: () = assert!(size_of::<Vcpu>() <= BACK_END_OFFSET);

impl Vcpu {
    /// A Vcpu that has just been made.
    pub const NEW: Vcpu = Vcpu {
        vm: VmId::NONE,
        next: VcpuId::NONE,
        prev: VcpuId::NONE,
        time: SlotId::NONE,
        handler: EndId::NONE,
        receives: EndId::NONE,
        core: CoreId::new(0),
        run: Run::Stopped,
        fault_vector: 0,
        event_vector: 0,
        event_pending: false,
        foreign: false,
        resized: false,
        routes: 0,
        reservation: None,
        wait_mask: 0,
        check: Check::NONE,
        mark: Mark::NONE,
    };
}

impl VcpuId {
    /// The Vcpu whose first byte is at this address.
    #[inline]
    pub const fn at(address: Hpa) -> VcpuId {
        VcpuId::new((address.get() >> cap_spec::abi::PAGE_BITS) as u32)
    }
}

/// Bits of RFLAGS that a Vcpu may be started with: the arithmetic flags, TF, IF, DF, IOPL, NT, RF, AC, ID and the
/// fixed bit 1. VM, VIF and VIP belong to modes that no guest of this kernel is in.
const RFLAGS_ALLOWED: u64 = 0x0025_7fd7;

/// The value with which a register may be set, given as argument `number`.
///
/// # Errors
/// `OutOfRange` or `Misaligned` for a value that the register cannot hold.
#[inline]
pub const fn check_register(register: Register, value: u64, number: u8) -> Result<u64, Fault> {
    match register {
        Register::Rip | Register::FsBase | Register::GsBase => {
            if is_canonical(value) {
                Ok(value)
            } else {
                Err(Fault::new(Error::OutOfRange, number))
            }
        }
        Register::Rflags => {
            if value & !RFLAGS_ALLOWED == 0 {
                Ok(value | 2)
            } else {
                Err(Fault::new(Error::OutOfRange, number))
            }
        }
        Register::Cr3 => {
            if value >> 48 != 0 {
                Err(Fault::new(Error::OutOfRange, number))
            } else if value & 0xfff != 0 {
                Err(Fault::new(Error::Misaligned, number))
            } else {
                Ok(value)
            }
        }
        _ => Ok(value),
    }
}

/// True for an address whose bits 47 to 63 are equal.
#[inline]
const fn is_canonical(address: u64) -> bool {
    let top = (address as i64) >> 47;
    top == 0 || top == -1
}

impl<M: Machine> Kernel<M> {
    /// Every label of Vcpu.
    #[inline]
    pub(crate) fn decode_vcpu(&self, label: Label, call: &Invoked, vcpu: VcpuId) -> Result<Invocation, Fault> {
        let header = self.machine.vcpu(vcpu);
        match label {
            Label::VcpuWait => {
                let mask = call.number(1, 1, u64::MAX)?;
                if vcpu != call.invoker {
                    return Err(Fault::new(Error::Forbidden, 0));
                }
                let &[_, deadline, ..] = call.args;
                Ok(Invocation::Wait { signal: VcpuId::NONE, bits: 0, mask, deadline })
            }
            Label::VcpuSignal => {
                let bits = call.number(1, 1, u64::MAX)?;
                self.check_attached(vcpu)?;
                Ok(Invocation::Signal { vcpu, bits })
            }
            Label::VcpuAttach => {
                let vm = self.vm_argument(call, 1)?;
                let &[_, rip, cr3, rsp, _] = call.args;
                let rip = check_register(Register::Rip, rip, 2)?;
                let cr3 = check_register(Register::Cr3, cr3, 3)?;
                if header.vm.is_some() {
                    return Err(Fault::new(Error::InUse, 0));
                }
                Ok(Invocation::Attach { vcpu, vm, rip, cr3, rsp })
            }
            Label::VcpuSetRegister => {
                let register = register_argument(call)?;
                let &[_, value, ..] = call.args;
                let value = check_register(register, value, 2)?;
                self.check_registers(vcpu)?;
                Ok(Invocation::SetRegister { vcpu, register, value })
            }
            Label::VcpuGetRegister => {
                let register = register_argument(call)?;
                self.check_registers(vcpu)?;
                Ok(Invocation::Answer([self.machine.register(vcpu, register), 0]))
            }
            Label::VcpuBindTime => self.decode_bind_time(call, vcpu),
            Label::VcpuUnbindTime => {
                if !header.time.is_some() {
                    return Err(Fault::new(Error::NotConfigured, 0));
                }
                self.check_stopped(vcpu)?;
                Ok(Invocation::UnbindTime(vcpu))
            }
            Label::VcpuSetUpcall => {
                let fault = vector_argument(call, 1)?;
                let event = vector_argument(call, 2)?;
                self.check_attached(vcpu)?;
                Ok(Invocation::SetUpcall { vcpu, fault, event })
            }
            Label::VcpuSetHandler => {
                let (channel, end) = self.end_argument(call, 1, Rights::empty())?;
                self.check_attached(vcpu)?;
                if self.machine.vm(header.vm).launched {
                    return Err(Fault::new(Error::WrongPhase, 0));
                }
                Ok(Invocation::SetHandler { of: Handled::Vcpu(vcpu), end: EndId::of(channel, end) })
            }
            Label::VcpuLaunch => self.decode_launch(call, vcpu),
            Label::VcpuStart => {
                let vm = self.check_configured(vcpu)?;
                if !self.machine.vm(vm).launched || self.machine.vm(vm).dying {
                    return Err(Fault::new(Error::WrongPhase, 0));
                }
                self.check_stopped(vcpu)?;
                Ok(Invocation::Start(vcpu))
            }
            Label::VcpuStop => {
                self.check_attached(vcpu)?;
                Ok(Invocation::Stop(vcpu))
            }
            _ => {
                let (page, rights) = match call.number(1, 0, 1)? {
                    0 => (vcpu.info_page(), Rights::READ.union(Rights::WRITE)),
                    _ => (vcpu.handler_page(), Rights::READ),
                };
                self.decode_page(call, 2, page, rights)
            }
        }
    }

    /// `Vcpu.BindTime`.
    fn decode_bind_time(&self, call: &Invoked, vcpu: VcpuId) -> Result<Invocation, Fault> {
        let &[cptr, ..] = call.args;
        let time = self.any(call.root, cptr, 1)?.slot;
        let slot = self.capability(call.root, cptr, 1, ObjectType::CpuTime, Rights::empty())?;
        let Cap::CpuTime { core, vcpu: bound, .. } = slot.cap else { return Err(Fault::new(Error::WrongType, 1)) };
        let header = self.machine.vcpu(vcpu);
        if header.time.is_some() {
            return Err(Fault::new(Error::InUse, 0));
        }
        if bound.is_some() || slot.has_children() {
            return Err(Fault::new(Error::InUse, 1));
        }
        self.check_attached(vcpu)?;
        self.check_stopped(vcpu)?;
        if self.holder(vcpu).is_some_and(|holder| holder != core) {
            return Err(Fault::new(Error::Busy, 0));
        }
        Ok(Invocation::BindTime { vcpu, time })
    }

    /// Checks that a Vcpu has a VM.
    #[inline]
    pub(crate) fn check_attached(&self, vcpu: VcpuId) -> Result<(), Fault> {
        if self.machine.vcpu(vcpu).vm.is_some() { Ok(()) } else { Err(Fault::new(Error::NotConfigured, 0)) }
    }

    /// Checks that a Vcpu has a VM, the VM a CSpace, and the Vcpu CPU time; returns the VM.
    pub(crate) fn check_configured(&self, vcpu: VcpuId) -> Result<VmId, Fault> {
        let header = self.machine.vcpu(vcpu);
        if header.vm.is_some() && self.machine.vm(header.vm).cspace.is_some() && header.time.is_some() {
            Ok(header.vm)
        } else {
            Err(Fault::new(Error::NotConfigured, 0))
        }
    }

    /// Checks that a Vcpu is stopped.
    fn check_stopped(&self, vcpu: VcpuId) -> Result<(), Fault> {
        if self.machine.vcpu(vcpu).run == Run::Stopped { Ok(()) } else { Err(Fault::new(Error::Running, 0)) }
    }

    /// Checks that the registers of a Vcpu are at hand.
    fn check_registers(&self, vcpu: VcpuId) -> Result<(), Fault> {
        self.check_attached(vcpu)?;
        self.check_stopped(vcpu)?;
        if self.holder(vcpu).is_some() { Err(Fault::new(Error::Busy, 0)) } else { Ok(()) }
    }

    /// The core that holds a Vcpu's extended state, if any.
    pub(crate) fn holder(&self, vcpu: VcpuId) -> Option<CoreId> {
        (0..self.core_count as u8).map(CoreId::new).find(|&core| self.core(core).loaded == vcpu)
    }

    // ---- what invoke does ----------------------------------------------------------------------------------------

    /// Makes a stopped, configured Vcpu runnable.
    pub(crate) fn start_vcpu(&mut self, vcpu: VcpuId) {
        let now = self.machine.now();
        self.machine.vcpu_mut(vcpu).run = Run::Runnable;
        self.wake_vcpu(vcpu, now, false);
    }

    /// Tells the schedule that a Vcpu may run. `by_interrupt`: because of an NMI that its own core has taken.
    #[inline]
    pub(crate) fn wake_vcpu(&mut self, vcpu: VcpuId, now: Ticks, by_interrupt: bool) {
        let &Vcpu { core, reservation, .. } = self.machine.vcpu(vcpu);
        let by = match by_interrupt {
            true => Waker::Interrupt,
            false if core != self.active => Waker::OtherCore,
            false => Waker::Neighbour,
        };
        if let Some(reservation) = reservation
            && self.core_mut(core).schedule.wake(reservation, now, by)
        {
            self.disturb_by(core, reservation);
        }
    }

    /// Makes a core decide anew; if that takes an NMI, what follows is charged to this reservation.
    #[inline]
    fn disturb_by(&mut self, core: CoreId, culprit: ReservationId) {
        if core != self.active {
            self.core_mut(core).schedule.blame(culprit);
        }
        self.disturb(core);
    }

    /// Makes a core decide anew before it enters a guest again.
    #[inline]
    pub(crate) fn disturb(&mut self, core: CoreId) {
        self.core_mut(core).news.insert(News::DECIDE);
        if core != self.active {
            self.machine.kick(core);
        }
    }

    /// Takes a Vcpu off its core and out of the ready ones: it stops, or sleeps until `wake_at`.
    #[inline]
    pub(crate) fn block_vcpu(&mut self, vcpu: VcpuId, run: Run, wake_at: Ticks, now: Ticks) {
        let &Vcpu { core, reservation, .. } = self.machine.vcpu(vcpu);
        if let Some(reservation) = reservation {
            if self.core(core).current == vcpu {
                if core != self.active {
                    self.machine.expel(core);
                }
                self.core_mut(core).current = VcpuId::NONE;
                self.disturb_by(core, reservation);
            }
            self.core_mut(core).schedule.block(reservation, wake_at, now);
        }
        self.machine.vcpu_mut(vcpu).run = run;
    }

    /// Stops a Vcpu; its registers can be had as soon as the core that holds them has let go.
    pub(crate) fn stop_vcpu(&mut self, vcpu: VcpuId) {
        let now = self.machine.now();
        self.block_vcpu(vcpu, Run::Stopped, NEVER, now);
        if let Some(core) = self.holder(vcpu) {
            self.disturb(core);
        }
    }

    /// What runs on a Vcpu from now on has asked for no upcall yet, and no fault is its own.
    pub(crate) fn forget_upcalls(&mut self, vcpu: VcpuId) {
        let header = self.machine.vcpu_mut(vcpu);
        header.fault_vector = 0;
        header.event_vector = 0;
        header.event_pending = false;
        self.machine.set_shared_word(SharedPage::Info(vcpu), info_page::UPCALL_BUSY, 0);
    }

    /// Sets events of a Vcpu. It wakes if it waits for one of them; else, if it asked for a vector, it gets that when it runs.
    /// While it runs, it is interrupted by events only that are not in its word yet: whoever repeats one costs it nothing.
    #[inline]
    pub(crate) fn signal(&mut self, vcpu: VcpuId, bits: u64) {
        self.signal_by(vcpu, bits, false);
    }

    /// As [`Kernel::signal`]. `by_interrupt`: an NMI of the core at work is the cause, so that who sleeps there and is woken
    /// pays for whom that interrupts.
    #[inline]
    pub(crate) fn signal_by(&mut self, vcpu: VcpuId, bits: u64, by_interrupt: bool) {
        let before = self.machine.or_events(vcpu, bits);
        let &Vcpu { run, wait_mask, event_vector, core, reservation, .. } = self.machine.vcpu(vcpu);
        if run == Run::Blocked && (before | bits) & wait_mask != 0 {
            let now = self.machine.now();
            self.complete_wait(vcpu);
            self.wake_vcpu(vcpu, now, by_interrupt && core == self.active);
        } else if event_vector != 0 {
            let runs = self.core(core).current == vcpu;
            if runs && bits & !before == 0 {
                return;
            }
            self.machine.vcpu_mut(vcpu).event_pending = true;
            if runs && let Some(reservation) = reservation {
                self.disturb_by(core, reservation);
            }
        }
    }

    /// Wakes a Vcpu, if it waits, with what events there are; true if it has been woken. `by_interrupt` is as in
    /// [`Kernel::wake_vcpu`].
    pub(crate) fn wake_sleeper(&mut self, vcpu: VcpuId, by_interrupt: bool) -> bool {
        let sleeps = self.machine.vcpu(vcpu).run == Run::Blocked;
        if sleeps {
            let now = self.machine.now();
            self.complete_wait(vcpu);
            self.wake_vcpu(vcpu, now, by_interrupt);
        }
        sleeps
    }

    /// Ends the sleep of a blocked Vcpu: takes the events that it waits for and puts them into its registers.
    #[inline]
    pub(crate) fn complete_wait(&mut self, vcpu: VcpuId) {
        let mask = self.machine.vcpu(vcpu).wait_mask;
        let events = self.machine.take_events(vcpu, mask);
        self.machine.vcpu_mut(vcpu).run = Run::Runnable;
        self.machine.set_results(vcpu, [events, 0]);
        self.machine.trace_woken(vcpu, events);
    }

    /// Writes what the info page says of the Vcpu's reservation and of the machine.
    pub(crate) fn write_info(&mut self, vcpu: VcpuId) {
        let &Vcpu { core, time, .. } = self.machine.vcpu(vcpu);
        let (budget, period) = match time.is_some().then(|| self.slot(time).cap) {
            Some(Cap::CpuTime { budget, period, .. }) => (budget, period),
            _ => (0, 0),
        };
        let page = SharedPage::Info(vcpu);
        let hz = self.tsc_hz;
        self.machine.set_shared_word(page, info_page::TSC_HZ, hz);
        self.machine.set_shared_word(page, info_page::ABI_VERSION, cap_spec::abi::VERSION as u64);
        self.machine.set_shared_word(page, info_page::BUDGET_TICKS, budget);
        self.machine.set_shared_word(page, info_page::PERIOD_TICKS, period);
        self.machine.set_shared_word(page, info_page::CORE, core.get() as u64);
    }
}

/// Argument 1 as a register.
fn register_argument(call: &Invoked) -> Result<Register, Fault> {
    let &[number, ..] = call.args;
    Register::from_number(number).ok_or(Fault::new(Error::OutOfRange, 1))
}

/// An argument as a vector, or 0 for none.
fn vector_argument(call: &Invoked, number: u8) -> Result<u8, Fault> {
    match call.number(number, 0, 255)? {
        1..32 => Err(Fault::new(Error::OutOfRange, number)),
        vector => Ok(vector as u8),
    }
}
