//! The state of the kernel that is in no object, and what boot gives out of it.
//!
//! One [`Kernel`] exists; whoever has `&mut` to it holds the kernel lock.

use crate::asid;
use crate::cap::Cap;
use crate::fault::Faults;
use crate::function::{Function, MAX_FUNCTIONS};
use crate::machine::Machine;
use crate::nested::EntryFormat;
use crate::quarantine::Quarantine;
use crate::sched::{Limits, NEVER, Schedule};
use crate::slot::Slot;
use crate::types::{CoreId, FunctionId, Hpa, SlotId, Ticks, VcpuId, VmId};
use crate::vcpu::Vcpu;
use crate::vm::{MAX_CORES, Vm};
use cap_spec::abi::{Register, Rights};
use core::mem::offset_of;

/// Interrupt routes that the kernel knows: pins of IOAPICs, numbered globally, then those that messages of functions raise.
pub const MAX_ROUTES: usize = 128;

/// What the kernel must know of the machine before it starts.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Cores in use, 1 to [`MAX_CORES`].
    pub cores: usize,
    /// Frequency of the TSC in Hz.
    pub tsc_hz: u64,
    /// Ticks that one switch between two Vcpus takes at most, the wait for the lock included.
    pub switch: Ticks,
    /// From where on the periods of reservations count.
    pub epoch: Ticks,
    /// Address-space numbers that a core has, the host's included.
    pub asids: u32,
    /// How entries of nested page tables are written.
    pub format: EntryFormat,
    /// The global statistics page.
    pub statistics_page: Hpa,
    /// Routes that are never handed out beside 0 and 2: bit per route (the HPET's).
    pub forbidden_routes: u128,
    /// The first route that messages of functions raise; those before are pins.
    pub first_message_route: u16,
}

bitflags::bitflags! {
    /// Why a core may not go on as it decided last.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct News: u8 {
        /// Something has happened that the last decision did not know.
        const DECIDE = 1;
        /// The tables of the current Vcpu's VM have lost something: it enters with a new number.
        const RENUMBER = 2;
        /// A call is being worked on that must be told to the trace when it is done.
        const TRACED = 4;
    }
}

/// What the kernel knows of one core.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    pub(crate) schedule: Schedule,
    pub(crate) asids: asid::Allocator,
    /// The Vcpu that runs here, or is about to.
    pub(crate) current: VcpuId,
    /// The Vcpu whose extended state this core still holds.
    pub(crate) loaded: VcpuId,
    /// What has happened since the last decision.
    pub(crate) news: News,
    /// When the last decision ends.
    pub(crate) until: Ticks,
    /// The worst shortfall that the statistics page has been told.
    pub(crate) shortfall: u64,
}

/// An entry of the MSI-X table of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The function.
    pub function: FunctionId,
    /// The entry.
    pub entry: u16,
}

/// Who takes an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The Vcpu; none while the route is masked.
    pub vcpu: VcpuId,
    /// As which vector.
    pub vector: u8,
    /// What raises it, where that is no pin.
    pub message: Option<Message>,
}

impl Route {
    pub(crate) const NONE: Route = Route { vcpu: VcpuId::NONE, vector: 0, message: None };
}

/// The capability core over a machine.
///
/// The machine comes last, so that the rest is where it is whatever the machine is: a checker outside reads it as a kernel
/// without one.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Kernel<M> {
    pub(crate) cores: [Core; MAX_CORES],
    pub(crate) core_count: usize,
    /// The core that holds the lock and runs these lines.
    pub(crate) active: CoreId,
    pub(crate) limits: Limits,
    pub(crate) format: EntryFormat,
    pub(crate) routes: [Route; MAX_ROUTES],
    pub(crate) forbidden_routes: u128,
    pub(crate) first_message_route: u16,
    pub(crate) functions: [Function; MAX_FUNCTIONS],
    pub(crate) statistics_page: Hpa,
    pub(crate) tsc_hz: u64,
    /// What all functions were stopped from.
    pub(crate) faults: Faults,
    /// What an IOMMU that has failed may reach.
    pub(crate) quarantine: Quarantine,
    /// Until when events of the IOMMU are held back; [`NEVER`]: they are not.
    pub(crate) faults_held_until: Ticks,
    /// Looks in a row, up to the last one, at which the IOMMU had stopped something.
    pub(crate) fault_looks: u8,
    /// Storage and hardware.
    pub machine: M,
}

/// What a kernel and a checker that reads its memory from outside must agree in: where things are, in one number.
pub const LAYOUT: u64 = {
    let places = [
        offset_of!(Kernel<()>, machine),
        offset_of!(Kernel<()>, routes),
        offset_of!(Kernel<()>, functions),
        offset_of!(Kernel<()>, faults),
        offset_of!(Kernel<()>, statistics_page),
        size_of::<Core>(),
        offset_of!(Core, schedule),
        offset_of!(Core, current),
        offset_of!(Core, loaded),
        size_of::<Route>(),
        offset_of!(Route, message),
        size_of::<Function>(),
        offset_of!(Function, domain),
        offset_of!(Function, ready_at),
        size_of::<Faults>(),
        offset_of!(Faults, handler),
        size_of::<Vm>(),
        offset_of!(Vm, faults),
        size_of::<Vcpu>(),
        offset_of!(Vcpu, reservation),
        size_of::<Slot>(),
        offset_of!(Slot, boot),
    ];
    let mut number = 0u64;
    let mut at = 0;
    while at < places.len() {
        number = number.wrapping_mul(0x100_0000_01b3) ^ places[at] as u64;
        at += 1;
    }
    number
};

impl<M> Kernel<M> {
    /// The bounds on reservations.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Who takes an interrupt route, for the back end, which masks the routes of a Vcpu that is switched out.
    pub fn route(&self, route: u16) -> Option<Route> {
        self.routes.get(route as usize).copied().filter(|route| route.vcpu.is_some())
    }

    /// What raises an interrupt route, if it is no pin and bound to a message.
    pub fn message(&self, route: u16) -> Option<Message> {
        self.routes.get(route as usize)?.message
    }

    /// How many cores are in use.
    pub fn core_count(&self) -> usize {
        self.core_count
    }

    /// What a kernel knows of its machine from boot on, for those who look at it from outside.
    #[cfg(any(test, feature = "host"))]
    pub fn known(&self) -> Config {
        Config {
            cores: self.core_count,
            tsc_hz: self.tsc_hz,
            switch: self.limits.switch(),
            epoch: Ticks::new(0),
            asids: 0,
            format: self.format,
            statistics_page: self.statistics_page,
            forbidden_routes: self.forbidden_routes,
            first_message_route: self.first_message_route,
        }
    }
}

impl<M: Machine> Kernel<M> {
    /// A kernel that knows nothing of its machine yet; [`Kernel::configure`] must come before everything else. Apart
    /// from that so that a static can hold it.
    pub const fn new(machine: M) -> Kernel<M> {
        const CORE: Core = Core {
            schedule: Schedule::NEW,
            asids: asid::Allocator::new(0),
            current: VcpuId::NONE,
            loaded: VcpuId::NONE,
            news: News::DECIDE,
            until: Ticks::new(0),
            shortfall: 0,
        };
        Kernel {
            cores: [CORE; MAX_CORES],
            core_count: 1,
            active: CoreId::new(0),
            limits: Limits::new(1, Ticks::new(0)),
            format: EntryFormat::Npt,
            routes: [Route::NONE; MAX_ROUTES],
            forbidden_routes: 0b101,
            first_message_route: MAX_ROUTES as u16,
            functions: [Function::NEW; MAX_FUNCTIONS],
            statistics_page: Hpa::new(0),
            tsc_hz: 1,
            faults: Faults::NONE,
            quarantine: Quarantine::EMPTY,
            faults_held_until: NEVER,
            fault_looks: 0,
            machine,
        }
    }

    /// Tells the kernel what machine it runs on. Nothing has been made yet.
    pub fn configure(&mut self, config: &Config) {
        self.core_count = config.cores.clamp(1, MAX_CORES);
        self.limits = Limits::new(config.tsc_hz, config.switch);
        self.format = config.format;
        self.statistics_page = config.statistics_page;
        self.forbidden_routes = config.forbidden_routes | 0b101;
        self.first_message_route = config.first_message_route;
        self.tsc_hz = config.tsc_hz;
        for core in &mut self.cores {
            core.schedule.configure(config.epoch, &self.limits);
            core.asids = asid::Allocator::new(config.asids);
        }
    }

    /// How the reservation of a Vcpu stands on its core, for those who look at the kernel from outside.
    #[cfg(any(test, feature = "host"))]
    pub fn reservation_of(&self, vcpu: VcpuId) -> Option<crate::sched::Reservation> {
        let &Vcpu { core, reservation, .. } = self.machine.vcpu(vcpu);
        self.core(core).schedule.reservation(reservation?)
    }

    /// When the share of a Vcpu's reservation would be free if the Vcpu were taken off it now, for the same.
    #[cfg(any(test, feature = "host"))]
    pub fn free_from_of(&self, vcpu: VcpuId) -> Option<Ticks> {
        let &Vcpu { core, reservation, .. } = self.machine.vcpu(vcpu);
        Some(self.core(core).schedule.clone().unbind(reservation?, self.machine.now()))
    }

    /// For a trace: the call of the current Vcpu of a core begins (true), or ends. True if one was being worked on.
    pub fn trace_call(&mut self, core: CoreId, begins: bool) -> bool {
        let news = &mut self.core_mut(core).news;
        let before = news.contains(News::TRACED);
        news.set(News::TRACED, begins);
        before
    }

    /// The state of a core. Core ids come from the back end and from CpuTime capabilities, both below `core_count`.
    #[inline]
    pub(crate) fn core(&self, core: CoreId) -> &Core {
        &self.cores[core.get() as usize & (MAX_CORES - 1)]
    }

    /// The state of a core, to change it.
    #[inline]
    pub(crate) fn core_mut(&mut self, core: CoreId) -> &mut Core {
        &mut self.cores[core.get() as usize & (MAX_CORES - 1)]
    }

    // ---- boot ----------------------------------------------------------------------------------------------------

    /// Puts a boot capability with all rights into an empty slot: an original that is never deleted nor moved.
    pub fn give(&mut self, slot: SlotId, cap: Cap) {
        *self.machine.slot_mut(slot) = Slot { boot: true, ..Slot::of(cap, Rights::all(), true) };
    }

    /// Gives memory. `dirty`: it must be revoked (scrubbed) before the first Retype. `base` is aligned to its size.
    pub fn give_untyped(&mut self, slot: SlotId, base: Hpa, bits: u8, device: bool) {
        let watermark = if device { 0 } else { 1u64.checked_shl(bits as u32).unwrap_or(0) };
        self.give(slot, Cap::Untyped { bits, device, vm: VmId::NONE, base, watermark });
    }

    /// Gives a whole core.
    pub fn give_cpu_time(&mut self, slot: SlotId, core: CoreId) {
        let period = self.limits.max_period().get();
        self.give(slot, Cap::CpuTime { core, vcpu: VcpuId::NONE, budget: period, period, free_from: 0, allocated: 0 });
    }

    /// Makes the root VM out of clean memory: a root CNode of `1 << bits` slots from `cnode` on, a VM and a Vcpu, with
    /// capabilities to them in the slots that the ABI names, attached, and launched by fiat but not started.
    pub fn make_root(&mut self, cnode: SlotId, bits: u8, vm: VmId, vcpu: VcpuId) {
        use cap_spec::abi::slots;
        *self.machine.vm_mut(vm) = Vm::new(Hpa::new(0), 0, self.format);
        *self.machine.vcpu_mut(vcpu) = Vcpu::NEW;
        let original = cnode.plus(slots::CNODE as u32);
        self.give(original, Cap::CNode { bits, vm, base: cnode });
        self.give(cnode.plus(slots::VM as u32), Cap::Vm { id: vm });
        self.give(cnode.plus(slots::VCPU as u32), Cap::Vcpu { id: vcpu });
        let header = self.machine.vm_mut(vm);
        header.cspace = cnode;
        header.cspace_slots = 1u32.checked_shl(bits as u32).unwrap_or(0);
        header.cspace_original = original;
        header.launched = true;
        self.attach(vcpu, vm);
    }

    /// Binds the root VM's Vcpu to a reservation that boot has made with [`Kernel::split_at_boot`]. Among equal deadlines it
    /// is first: who sells the time of the others acts when an interval begins, not when the others have had theirs.
    pub fn bind_root(&mut self, vcpu: VcpuId, time: SlotId) {
        self.bind_time(vcpu, time);
        let &Vcpu { core, reservation, .. } = self.machine.vcpu(vcpu);
        if let Some(reservation) = reservation {
            self.core_mut(core).schedule.favour(reservation);
        }
    }

    /// Splits a reservation off a core's at boot, into an empty slot. The caller keeps to the limits.
    pub fn split_at_boot(&mut self, parent: SlotId, slot: SlotId, budget: Ticks, period: Ticks) {
        self.split_time(parent, slot, budget.get(), period.get());
    }

    /// Starts the root VM's Vcpu, or starts it again after it stopped, at `entry` with a top page table. Every other
    /// register is as after Attach.
    pub fn start_root(&mut self, vcpu: VcpuId, entry: u64, cr3: u64) {
        let root = self.machine.vcpu(vcpu).vm.root();
        self.expel_for_good(vcpu);
        self.machine.init_vcpu(vcpu, root);
        self.machine.set_register(vcpu, Register::Rip, entry);
        self.machine.set_register(vcpu, Register::Cr3, cr3);
        self.forget_upcalls(vcpu);
        self.start_vcpu(vcpu);
    }
}
