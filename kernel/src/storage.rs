//! The machine below the capability core: physical memory as object storage, and the hardware half of [`Machine`].
//!
//! This is the one module that turns object ids into references. It is sound because the core passes only ids that it
//! took from live capabilities, because an object's memory is reached through its id alone (guests can't reach it: it is
//! retyped, and its pages that guests may read or write are touched here word by word), and because a [`Hardware`] exists
//! once, inside the kernel lock: whoever borrows from it has the lock.

use crate::arch::ecam::Ecam;
use crate::arch::hpet::Hpet;
use crate::arch::ioapic::IoApic;
use crate::arch::lock::Lock;
use crate::arch::msix_table::MsixTables;
use crate::arch::remapping::Units;
use crate::arch::{apic, core_area, cpu, guests};
use crate::boot::root::Root;
use crate::tracing;
use cap_spec::abi::{FaultRecord, Register};
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::channel::{self, Channel};
use kernel::function::{Bar, FunctionFacts};
use kernel::iommu::{Delivery, Iommu, Requester, Signal, nmi_entry, pin_entry, redirection};
use kernel::machine::{self, Machine, SharedPage};
use kernel::protocol::deadlines::{Alarm, Deadlines};
use kernel::protocol::pins::Pins;
use kernel::slot::Slot;
use kernel::trace::Kind;
use kernel::types::{ChannelId, CoreId, FunctionId, Hpa, SlotId, Ticks, VcpuId, VmId};
use kernel::vcpu::Vcpu;
use kernel::vm::{MAX_CORES, Vm};
use kernel::{MAX_ROUTES, Message};

/// 2^32: the unit of the fixed-point ratios.
const ONE: u128 = 1 << 32;

/// Devices that the kernel drives itself.
#[derive(Clone, Copy, Debug)]
pub struct Devices {
    /// The clock and the alarm.
    pub hpet: Hpet,
    /// Pin at which the alarm comes in.
    pub hpet_pin: u8,
    /// The first IOAPIC.
    pub io_apic: IoApic,
    /// Source id of its messages, where they go through the interrupt remapping table.
    pub io_apic_source: Option<Requester>,
    /// HPET counts per TSC tick, in 2^-32.
    pub counts_per_tick: u64,
}

/// The functions, and what they are reached through.
pub type Assignment = kernel::assignment::Assignment<Ecam, MsixTables, Units>;

/// The IOMMUs, on, and what the kernel itself has behind them.
#[derive(Debug)]
pub struct Remapping {
    /// The units.
    pub units: Iommu<Units>,
    /// Source id of the IOAPIC's messages.
    pub io_apic: Requester,
}

/// What every core needs to run guests, fixed at boot.
#[derive(Clone, Copy)]
pub struct Booted {
    /// What the back end knows of the processor.
    pub processor: guests::Processor,
    /// The root VM.
    pub root: Root,
}

/// Physical memory and devices.
pub struct Hardware {
    /// Start of this hold of the kernel lock: half of the counter is enough for a hold, and shorter to read.
    pub held_since: u32,
    /// Longest hold of the kernel lock so far, in ticks.
    pub longest_hold: u32,
    /// What the interrupt pins do.
    pub pins: Pins,
    /// The PCI functions, and the IOMMUs in front of them where they are on.
    pub assignment: Assignment,
    devices: Option<Devices>,
    /// The messages that raise routes.
    messages: [Option<Message>; MAX_ROUTES],
    deadlines: Deadlines,
    /// When the alarm comes, by its own clock.
    alarm: u64,
    /// What each core decided to be back at.
    until: [u64; MAX_CORES],
    statistics_page: Hpa,
}

impl Hardware {
    /// Before the devices are known.
    pub const fn new() -> Hardware {
        Hardware {
            held_since: 0,
            longest_hold: 0,
            pins: Pins::new(),
            assignment: Assignment::new(),
            messages: [None; MAX_ROUTES],
            devices: None,
            deadlines: Deadlines::new(MAX_CORES),
            alarm: 0,
            until: [u64::MAX; MAX_CORES],
            statistics_page: Hpa::new(0),
        }
    }

    /// Takes the devices over. The alarm's pin delivers NMIs to the boot core from here on.
    pub fn configure(&mut self, devices: Devices, statistics_page: Hpa) {
        self.devices = Some(devices);
        self.statistics_page = statistics_page;
        self.aim_alarm(CoreId::new(0));
        devices.hpet.route(devices.hpet_pin);
    }

    /// Masks a route; returns when that holds, so that what came before has arrived.
    pub fn mask(&mut self, route: u8) {
        let Some(devices) = self.devices else { return };
        if route < devices.io_apic.pins {
            devices.io_apic.mask(route);
        } else if let Some(message) = self.message(route) {
            self.assignment.block(route.into(), message);
        }
    }

    /// The message that raises a route.
    fn message(&self, route: u8) -> Option<Message> {
        *self.messages.get(usize::from(route))?
    }

    /// Makes sure that this core gets an NMI by `until` (`u64::MAX`: none is needed), and returns the time after the
    /// alarm was set; 0 if it did not have to be touched. An alarm that is set already, and comes earlier, is left alone:
    /// it costs one NMI, and most decisions in a row end later than the one before. If it has passed meanwhile, its NMI is
    /// pending and ends the entry; it is taken off the list when that is looked at.
    #[inline]
    pub fn set_deadline(&mut self, core: CoreId, until: u64) -> u64 {
        let set = &mut self.until[usize::from(core.get()) % MAX_CORES];
        if *set <= until {
            return 0;
        }
        *set = until;
        self.program(core, until)
    }

    #[cold]
    fn program(&mut self, core: CoreId, until: u64) -> u64 {
        let alarm = self.deadlines.set(core, until);
        self.carry_out(alarm, None)
    }

    /// Sets the alarm and calls every core whose deadline passed meanwhile, but one that decides anew in any case; returns
    /// the time after that.
    #[inline(always)]
    fn carry_out(&mut self, mut alarm: Option<Alarm>, decides: Option<CoreId>) -> u64 {
        loop {
            if let Some(alarm) = alarm
                && alarm.at != u64::MAX
            {
                self.set_alarm(alarm);
            }
            let now = cpu::rdtsc();
            let Some(due) = self.deadlines.passed(now) else { return now };
            self.until[usize::from(due.get()) % MAX_CORES] = u64::MAX;
            if Some(due) != decides {
                self.kick(due);
            }
            alarm = self.deadlines.earliest();
        }
    }

    #[inline(never)]
    fn set_alarm(&mut self, alarm: Alarm) {
        let Some(devices) = self.devices else { return };
        self.aim_alarm(alarm.core);
        let ticks = alarm.at.saturating_sub(cpu::rdtsc());
        let counts = (u128::from(ticks) * u128::from(devices.counts_per_tick)).div_ceil(ONE);
        self.alarm = devices.hpet.set_alarm(u64::try_from(counts).unwrap_or(u64::MAX));
        if devices.hpet.has_passed(self.alarm) {
            self.kick(alarm.core);
        }
    }

    /// Points the alarm at a core. A core whose APIC id does not fit in the entry is called by the boot core instead.
    fn aim_alarm(&mut self, core: CoreId) {
        let Some(devices) = self.devices else { return };
        if !self.deliver(devices.hpet_pin, core, None) {
            self.deliver(devices.hpet_pin, CoreId::new(0), None);
        }
    }

    /// Lets a route deliver to a core: the vector that it is bound to, or an NMI. False if the core cannot be named, which
    /// leaves the route as it was. With remapping the entries of pins are ready, and the pin names another one: no unit has to
    /// forget anything when a core is switched. Who sends messages may name any entry of its own at any time: of these the
    /// entry is changed.
    #[inline]
    pub fn deliver(&mut self, pin: u8, core: CoreId, vector: Option<u8>) -> bool {
        let Some(devices) = self.devices else { return false };
        if pin >= devices.io_apic.pins {
            return self.deliver_message(pin, core, vector);
        }
        let words = match (devices.io_apic_source, vector) {
            (None, _) => IoApic::direct(core_area::core(core).apic_id.load(Ordering::Relaxed), vector),
            (Some(_), None) => Some(redirection(nmi_entry(core))),
            (Some(_), Some(_)) => Some(redirection(pin_entry(pin))),
        };
        words.inspect(|&words| devices.io_apic.route(pin, words)).is_some()
    }

    #[inline(never)]
    fn deliver_message(&mut self, route: u8, core: CoreId, vector: Option<u8>) -> bool {
        let Some(message) = self.message(route) else { return false };
        let apic_id = core_area::core(core).apic_id.load(Ordering::Relaxed);
        self.assignment.deliver(route.into(), message, apic_id, vector.map_or(Signal::Nmi, Signal::Vector))
    }

    /// Makes the entries of a route, which is masked, ready for what it is bound to. False if the units fail: then it has to
    /// stay masked, as nobody knows what it would raise.
    fn prepare(&mut self, pin: u8, target: Option<(CoreId, u8)>) -> bool {
        let target = target.map(|(core, vector)| (core_area::core(core).apic_id.load(Ordering::Relaxed), vector));
        if self.message(pin).is_some() {
            // It says what it raises when it is opened or parked.
            return true;
        }
        let Some(source) = self.devices.and_then(|devices| devices.io_apic_source) else { return true };
        let delivery = target.map(|(apic_id, vector)| Delivery { apic_id, signal: Signal::Vector(vector), source });
        self.assignment.set_own_interrupt(pin_entry(pin), delivery)
    }

    /// An NMI was taken: calls every core whose deadline has passed, but one that decides anew in any case, and sets the
    /// alarm anew.
    #[inline(always)]
    pub fn look_at_deadlines(&mut self, decides: Option<CoreId>) {
        let now = self.carry_out(None, decides);
        if let Some(alarm) = self.deadlines.again(now)
            && self.devices.is_some_and(|devices| devices.hpet.has_passed(self.alarm))
        {
            self.set_again(alarm, decides);
        }
    }

    #[cold]
    fn set_again(&mut self, alarm: Alarm, decides: Option<CoreId>) {
        self.carry_out(Some(alarm), decides);
    }

    #[inline(always)]
    fn word(&self, page: SharedPage, offset: usize) -> *mut u64 {
        let page = match page {
            SharedPage::Info(vcpu) => vcpu.info_page(),
            SharedPage::Handler(vcpu) => vcpu.handler_page(),
            SharedPage::Stats(vm) => vm.stats_page(),
            SharedPage::GlobalStats => self.statistics_page,
        };
        (page.get() + (offset as u64 & 0xff8)) as *mut u64
    }

    #[inline(always)]
    fn events(&self, vcpu: VcpuId) -> &AtomicU64 {
        let word = self.word(SharedPage::Info(vcpu), cap_spec::abi::info_page::EVENTS);
        // SAFETY: an aligned word of a page that belongs to the Vcpu object; the guest changes it at any time, which an
        // atomic may bear.
        unsafe { AtomicU64::from_ptr(word) }
    }
}

/// A guest may have changed its event word meanwhile.
#[inline(always)]
fn found_events(vcpu: VcpuId, word: u64) {
    tracing::record(Kind::Events, vcpu.address().get(), word);
}

/// The two accessors of an object's header, which lies at an offset in the object.
macro_rules! objects {
    ($($read:ident $write:ident: $id:ident => $object:ident at $offset:expr;)*) => {$(
        #[inline(always)]
        fn $read(&self, id: $id) -> &$object {
            // SAFETY: see the module; all-zero bytes are a valid header of each kind.
            unsafe { &*(id.address().plus($offset).get() as *const $object) }
        }

        #[inline(always)]
        fn $write(&mut self, id: $id) -> &mut $object {
            // SAFETY: as for the other.
            unsafe { &mut *(id.address().plus($offset).get() as *mut $object) }
        }
    )*};
}

impl machine::Devices for Hardware {
    fn function(&self, function: FunctionId) -> FunctionFacts {
        self.assignment.facts(function)
    }

    fn bar(&self, function: FunctionId, bar: u8) -> Bar {
        self.assignment.bar(function, bar)
    }

    fn iommu_has_failed(&self) -> bool {
        self.assignment.has_failed()
    }

    fn filter_config(&self, function: FunctionId, offset: u16, value: u32) -> Option<u32> {
        self.assignment.filter_config(function, offset, value)
    }

    fn read_config(&mut self, function: FunctionId, offset: u16) -> u32 {
        self.assignment.read_config(function, offset)
    }

    fn write_config(&mut self, function: FunctionId, offset: u16, value: u32) {
        self.assignment.write_config(function, offset, value);
    }

    fn publish_table_entry(&mut self, table: Hpa, index: usize) {
        self.assignment.publish(table.plus(index as u64 * 8));
    }

    fn publish_table(&mut self, table: Hpa) {
        self.assignment.publish_table(table);
    }

    fn attach_function(&mut self, function: FunctionId, domain: VmId) {
        self.assignment.attach(function, domain);
    }

    fn detach_function(&mut self, function: FunctionId) {
        self.assignment.detach(function);
    }

    fn flush_function(&mut self, function: FunctionId) {
        self.assignment.flush(function);
    }

    fn reset_function(&mut self, function: FunctionId) -> Ticks {
        self.assignment.reset(function)
    }

    fn revive_function(&mut self, function: FunctionId) -> Option<Ticks> {
        self.assignment.revive(function)
    }

    fn enable_vfs(&mut self, function: FunctionId, count: u16) -> Ticks {
        self.assignment.enable_vfs(function, count)
    }

    fn disable_vfs(&mut self, function: FunctionId) -> Ticks {
        self.assignment.disable_vfs(function)
    }

    fn take_fault(&mut self) -> Option<(Option<FunctionId>, FaultRecord)> {
        let taken = self.assignment.take_fault();
        if let Some((function, record)) = taken {
            let [what, who] = record.to_words();
            if tracing::is_on() {
                tracing::write(Kind::Fault, &[function.map_or(u64::MAX, |function| function.get().into()), what, who]);
            }
        }
        taken
    }

    fn most_faults(&self) -> usize {
        self.assignment.most_faults()
    }

    fn faults_lost(&self) -> u32 {
        self.assignment.faults_lost()
    }

    fn hold_fault_events(&mut self, held: bool) {
        self.assignment.hold_fault_events(held);
    }

    fn bind_message(&mut self, route: u16, message: Message) {
        let is_first = !self.messages.iter().flatten().any(|other| other.function == message.function);
        if let Some(entry) = self.messages.get_mut(usize::from(route)) {
            *entry = Some(message);
            self.assignment.bind(route, message, is_first);
        }
    }

    fn unbind_message(&mut self, route: u16, message: Message) {
        self.assignment.unbind(route, message);
        if let Some(entry) = self.messages.get_mut(usize::from(route)) {
            *entry = None;
        }
    }
}

impl Machine for Hardware {
    objects! {
        slot slot_mut: SlotId => Slot at 0;
        vm vm_mut: VmId => Vm at 0;
        vcpu vcpu_mut: VcpuId => Vcpu at 0;
        channel channel_mut: ChannelId => Channel at channel::HEADER_OFFSET;
    }

    #[inline]
    fn table_entry(&self, table: Hpa, index: usize) -> u64 {
        // SAFETY: a live table of 512 entries, which the processor may change (accessed, dirty): hence volatile.
        unsafe { ((table.get() + (index as u64 & 511) * 8) as *const u64).read_volatile() }
    }

    #[inline]
    fn set_table_entry(&mut self, table: Hpa, index: usize, entry: u64) {
        // SAFETY: as for `table_entry`.
        unsafe { ((table.get() + (index as u64 & 511) * 8) as *mut u64).write_volatile(entry) };
    }

    fn zero(&mut self, base: Hpa, bytes: u64) {
        // SAFETY: the core zeroes memory only while it is nobody's: flushed, and in no live object.
        unsafe {
            core::arch::asm!("rep stosq", inout("rdi") base.get() => _, inout("rcx") bytes / 8 => _, in("rax") 0,
                options(nostack, preserves_flags));
        }
    }

    #[inline]
    fn shared_word(&self, page: SharedPage, offset: usize) -> u64 {
        // SAFETY: a word of a page that belongs to a live object; a guest may change it: hence volatile, and once.
        unsafe { self.word(page, offset).read_volatile() }
    }

    #[inline]
    fn set_shared_word(&mut self, page: SharedPage, offset: usize, value: u64) {
        // SAFETY: as for `shared_word`.
        unsafe { self.word(page, offset).write_volatile(value) };
    }

    #[inline]
    fn or_events(&mut self, vcpu: VcpuId, bits: u64) -> u64 {
        let before = self.events(vcpu).fetch_or(bits, Ordering::AcqRel);
        found_events(vcpu, before);
        before
    }

    #[inline]
    fn take_events(&mut self, vcpu: VcpuId, mask: u64) -> u64 {
        let before = self.events(vcpu).fetch_and(!mask, Ordering::AcqRel);
        found_events(vcpu, before);
        before & mask
    }

    #[inline(always)]
    fn now(&self) -> Ticks {
        Ticks::new(cpu::rdtsc())
    }

    fn expel(&mut self, core: CoreId) {
        let own = core_area::this();
        let other = core_area::core(core);
        if core::ptr::eq(own, other) || !other.gate.is_in_guest() {
            return;
        }
        apic::send_nmi(other.apic_id.load(Ordering::Relaxed));
        while other.gate.is_in_guest() {
            core::hint::spin_loop();
        }
    }

    fn kick(&mut self, core: CoreId) {
        let core = core_area::core(core);
        if core.gate.call() {
            apic::send_nmi(core.apic_id.load(Ordering::Relaxed));
        }
    }

    #[inline]
    fn must_yield(&self) -> bool {
        let own = usize::from(core_area::this().id().get()) % MAX_CORES;
        Lock::is_contended() || cpu::rdtsc() >= self.until[own]
    }

    fn init_vcpu(&mut self, vcpu: VcpuId, root: Hpa) {
        // SAFETY: the core initialises Vcpus that no core runs, under the lock; see the module.
        unsafe { guests::init_vcpu(vcpu, root) };
    }

    fn set_register(&mut self, vcpu: VcpuId, register: Register, value: u64) {
        // SAFETY: no core runs it, and the lock is held; see the module.
        unsafe { guests::set_register(vcpu, register, value) };
    }

    #[inline(always)]
    fn set_results(&mut self, vcpu: VcpuId, results: [u64; 2]) {
        // SAFETY: no core runs it, and the lock is held; see the module.
        unsafe { guests::set_results(vcpu, results) };
    }

    #[inline(always)]
    fn trace_woken(&mut self, vcpu: VcpuId, events: u64) {
        tracing::record(Kind::Woken, vcpu.address().get(), events);
    }

    #[inline(always)]
    fn trace_freed(&mut self, vcpu: VcpuId, at: Ticks) {
        tracing::record(Kind::Freed, vcpu.address().get(), at.get());
    }

    fn register(&self, vcpu: VcpuId, register: Register) -> u64 {
        // SAFETY: no core runs it, and the lock is held; see the module.
        unsafe { guests::register(vcpu, register) }
    }

    fn route_irq(&mut self, route: u16, target: Option<(CoreId, u8)>, held: bool) {
        let (Some(devices), Ok(pin)) = (self.devices, u8::try_from(route)) else { return };
        if pin == devices.hpet_pin || pin >= devices.io_apic.pins && self.message(pin).is_none() {
            return;
        }
        self.mask(pin);
        self.pins.unbind(pin);
        let ready = self.prepare(pin, target);
        let Some((core, _)) = target.filter(|_| ready) else { return };
        // What a message would have raised before it had a Vcpu is gone, where a pin is only masked now.
        let misses_nothing = core == core_area::this().id() && pin < devices.io_apic.pins;
        self.pins.bind(pin, core, held, misses_nothing);
        if held {
            // Whether it is opened or parked depends on what its core does: the core finds out before it goes on.
            self.kick(core);
        }
    }

    fn port_in(&mut self, port: u16, width: u8) -> u32 {
        // SAFETY: whoever holds the port's capability may; ports that reach memory (PCI configuration, DMA controllers)
        // are never handed out.
        unsafe { cpu::port_in(port, width) }
    }

    fn port_out(&mut self, port: u16, width: u8, value: u32) {
        // SAFETY: as for `port_in`.
        unsafe { cpu::port_out(port, width, value) };
    }

    fn reset(&mut self) {
        // SAFETY: ports of the machine's own reset: chipset first, then keyboard controller. Nothing comes after.
        unsafe {
            cpu::port_out(0xcf9, 1, 0x02);
            cpu::port_out(0xcf9, 1, 0x06);
            cpu::port_out(0x64, 1, 0xfe);
        }
    }
}
