//! Functions of devices: what they are is [`DeviceModel`]'s, what they do is as nasty as hardware may be. They send requests
//! (`iommu`) and messages (`signals`) as long as they are bus masters, and come out of a reset late.
//!
//! What the kernel tells them is carried out as `kernel::assignment` does it: in the same order, with
//! others' steps between. When the IOMMU does not answer, every function is cut off at the bridges.

use crate::bug::Bug;
use crate::hardware::Hardware;
use crate::iommu::RECORDS;
use crate::lines::FIRST_ROUTE;
use crate::machine::FakeMachine;
use crate::memory::PAGE;
use cap_spec::abi::FaultRecord;
use kernel::Message;
use kernel::device_model::{DeviceModel, FIRST_VF, PHYSICAL, PLAIN, VFS, WRITABLE, WRITABLE_BITS};
use kernel::function::{Bar, FunctionFacts};
use kernel::machine::Devices;
use kernel::types::{FunctionId, Hpa, Ticks, VmId};

/// Ticks of a reset.
pub const RESET_TICKS: u64 = 60;
/// The functions that do something.
pub const FUNCTIONS: [FunctionId; 4] = [PHYSICAL, PLAIN, FIRST_VF, FunctionId::new(FIRST_VF.get() + 1)];

/// What a function is able to do.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// It is there: a virtual one is while it is enabled.
    is_enabled: bool,
    /// Memory and messages are in its reach.
    is_master: bool,
    /// Until when it is in a reset; 0: in none, and what it needs has been put back.
    reset_until: u64,
}

/// The functions.
#[derive(Debug)]
pub struct Functions {
    states: [State; FUNCTIONS.len()],
    /// Messages that they have sent.
    pub messages: u64,
    /// Detachments.
    pub detached: u64,
}

impl Default for Functions {
    fn default() -> Functions {
        let states = FUNCTIONS.map(|function| State { is_enabled: !is_virtual(function), ..State::default() });
        Functions { states, messages: 0, detached: 0 }
    }
}

impl Functions {
    /// Those that are bus masters.
    pub(crate) fn masters(&self) -> impl Iterator<Item = FunctionId> {
        FUNCTIONS.into_iter().zip(&self.states).filter(|(_, state)| state.is_master).map(|(function, _)| function)
    }

    /// True if a function sends requests and messages.
    pub(crate) fn is_master(&self, function: FunctionId) -> bool {
        self.masters().any(|master| master == function)
    }

    fn state(&mut self, function: FunctionId) -> Option<&mut State> {
        self.states.get_mut(FUNCTIONS.iter().position(|other| *other == function)?)
    }
}

fn is_virtual(function: FunctionId) -> bool {
    function.get().wrapping_sub(FIRST_VF.get()) < VFS
}

/// True for a page of the registers of a function that may be handed out.
pub(crate) fn has_registers(page: u64) -> bool {
    FUNCTIONS.into_iter().flat_map(|function| (0..6).map(move |bar| DeviceModel::bar(function, bar))).any(|bar| {
        let offset = page.wrapping_sub(bar.base.get() / PAGE);
        let holds = |(first, count): (u32, u32)| offset.wrapping_sub(first.into()) < count.into();
        holds((0, bar.pages)) && !bar.withheld.into_iter().any(holds)
    })
}

impl Hardware {
    /// A function becomes a bus master, or stops being one.
    fn set_master(&mut self, function: FunctionId, on: bool) {
        if let Some(state) = self.functions.state(function) {
            state.is_master = on;
        }
    }

    /// Notes what the kernel does and must not.
    fn expect(&mut self, holds: bool, function: FunctionId, what: &str) {
        if !holds {
            self.violate(format!("{function:?} {what}"));
        }
    }

    fn is_usable(&mut self, function: FunctionId) -> bool {
        self.functions.state(function).is_some_and(|state| state.is_enabled && state.reset_until == 0)
    }

    /// True if the unit has carried something out. If not, every function is cut off, for good.
    pub(crate) fn has_completed(&mut self, done: bool) -> bool {
        if self.bug == Some(Bug::IgnoredTimeOut) {
            return true;
        }
        if !done && !self.iommu.is_cut {
            self.say(|| String::from("the IOMMU does not answer: all functions are cut off"));
            FUNCTIONS.into_iter().for_each(|function| self.silence(function));
            self.cut_off_dma();
        }
        done
    }

    /// A function is no bus master any more, and its messages have arrived.
    fn silence(&mut self, function: FunctionId) {
        self.set_master(function, false);
        self.end_messages(function);
    }

    fn detach(&mut self, active: usize, function: FunctionId) {
        self.functions.detached += 1;
        if self.bug == Some(Bug::ResaleUnderDma) {
            self.iommu.attached.remove(&function);
            return;
        }
        if self.bug != Some(Bug::BusMasterLeftOn) {
            self.silence(function);
        }
        self.read_back(function);
        let done = self.clear_context(active, function);
        if self.has_completed(done) {
            self.iommu.attached.remove(&function);
        }
    }
}

impl Devices for FakeMachine {
    fn function(&self, function: FunctionId) -> FunctionFacts {
        let facts = DeviceModel::facts(function);
        FunctionFacts { quarantined: facts.quarantined || self.0.iommu.is_cut, ..facts }
    }

    fn bar(&self, function: FunctionId, bar: u8) -> Bar {
        DeviceModel::bar(function, bar)
    }

    fn filter_config(&self, _: FunctionId, offset: u16, value: u32) -> Option<u32> {
        (offset == WRITABLE).then_some(value & WRITABLE_BITS)
    }

    fn read_config(&mut self, function: FunctionId, _: u16) -> u32 {
        if FUNCTIONS.contains(&function) {
            let usable = self.0.is_usable(function);
            self.0.expect(usable, function, "is read while it is in a reset");
        }
        0
    }

    fn write_config(&mut self, _: FunctionId, _: u16, _: u32) {}

    fn publish_table_entry(&mut self, _: Hpa, _: usize) {}

    fn publish_table(&mut self, _: Hpa) {}

    fn attach_function(&mut self, function: FunctionId, domain: VmId) {
        let active = self.active();
        let usable = self.0.is_usable(function);
        self.0.expect(usable, function, "is attached while it is in a reset");
        let attached = self.0.iommu.attached.contains_key(&function);
        self.0.expect(!attached, function, "is attached twice");
        let done = self.0.set_context(active, function, domain);
        if self.0.has_completed(done) {
            self.0.set_master(function, true);
        }
    }

    fn detach_function(&mut self, function: FunctionId) {
        let active = self.active();
        self.0.detach(active, function);
    }

    fn flush_function(&mut self, function: FunctionId) {
        let active = self.active();
        let done = self.0.flush_translations(active, function);
        self.0.has_completed(done);
    }

    fn iommu_has_failed(&self) -> bool {
        self.0.iommu.is_cut && self.0.bug != Some(Bug::ForgottenQuarantine)
    }

    fn reset_function(&mut self, function: FunctionId) -> Ticks {
        let attached = self.0.iommu.attached.contains_key(&function);
        self.0.expect(!attached, function, "is reset while it is attached");
        let bound = self.0.lines.iter().any(|line| line.message.is_some_and(|message| message.function == function));
        self.0.expect(!bound, function, "is reset while its messages raise a route");
        let until = self.0.present() + RESET_TICKS;
        let survives = self.0.bug == Some(Bug::ResaleUnderDma);
        if let Some(state) = self.0.functions.state(function) {
            state.is_master &= survives;
            state.reset_until = until;
        }
        Ticks::new(RESET_TICKS)
    }

    fn revive_function(&mut self, function: FunctionId) -> Option<Ticks> {
        let now = self.0.present();
        let late = self.0.random.one_in(8);
        let state = self.0.functions.state(function)?;
        let early = now < state.reset_until;
        if !late {
            state.reset_until = 0;
        }
        self.0.expect(!early, function, "is revived before its reset is over");
        late.then_some(Ticks::new(RESET_TICKS / 4))
    }

    fn enable_vfs(&mut self, _: FunctionId, count: u16) -> Ticks {
        let until = self.0.present() + RESET_TICKS;
        for vf in (0..count).map(|index| FunctionId::new(FIRST_VF.get() + index)) {
            if let Some(state) = self.0.functions.state(vf) {
                let before = std::mem::replace(state, State { is_enabled: true, is_master: false, reset_until: until });
                self.0.expect(!before.is_enabled, vf, "is enabled twice");
            }
        }
        Ticks::new(RESET_TICKS)
    }

    fn disable_vfs(&mut self, _: FunctionId) -> Ticks {
        for vf in FUNCTIONS.into_iter().filter(|function| is_virtual(*function)) {
            let attached = self.0.iommu.attached.contains_key(&vf);
            self.0.expect(!attached, vf, "is disabled while it is attached");
            if let Some(state) = self.0.functions.state(vf) {
                *state = State::default();
            }
        }
        Ticks::new(RESET_TICKS)
    }

    fn take_fault(&mut self) -> Option<(Option<FunctionId>, FaultRecord)> {
        self.0.take_fault()
    }

    fn most_faults(&self) -> usize {
        if self.0.bug == Some(Bug::FaultsLeft) { 0 } else { RECORDS }
    }

    fn faults_lost(&self) -> u32 {
        self.0.iommu.lost
    }

    fn hold_fault_events(&mut self, held: bool) {
        self.0.hold_fault_events(held);
    }

    fn bind_message(&mut self, route: u16, message: Message) {
        let usable = self.0.is_usable(message.function) || !FUNCTIONS.contains(&message.function);
        self.0.expect(usable, message.function, "gets a message while it is in a reset");
        if let Some(line) = self.0.lines.get_mut(usize::from(route.wrapping_sub(FIRST_ROUTE))) {
            line.message = Some(message);
        }
    }

    fn unbind_message(&mut self, route: u16, _: Message) {
        let active = self.active();
        let line = usize::from(route.wrapping_sub(FIRST_ROUTE));
        if line < self.0.lines.len() {
            self.0.mask(line);
            self.0.prepare(active, line, None);
            self.0.lines[line].message = None;
        }
    }
}
