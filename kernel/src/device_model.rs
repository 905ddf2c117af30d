//! Functions of devices for the host: what the machines of tests and checkers share. Hardware that does at once what it is
//! told, and remembers it.

extern crate std;

use crate::function::{Bar, FunctionFacts, MAX_FUNCTIONS};
use crate::kernel::Message;
use crate::machine::{Devices, Machine};
use crate::types::{FunctionId, Hpa, Ticks, VmId};
use cap_spec::abi::FaultRecord;
use std::collections::BTreeMap;
use std::vec::Vec;

/// Ticks of a reset.
pub const RESET_TICKS: u64 = 3_000;
/// The first of the two bits of a double word of configuration space at offset [`WRITABLE`] that holders may write.
pub const WRITABLE_BITS: u32 = 0xff00;
/// Offset of the only double word of configuration space that holders may write.
pub const WRITABLE: u16 = 0x40;
/// A physical function with two virtual ones, four messages and two BARs.
pub const PHYSICAL: FunctionId = FunctionId::new(0);
/// A function behind an IOMMU that has failed, with one message and no BAR.
pub const QUARANTINED: FunctionId = FunctionId::new(1);
/// A function without virtual ones, with two messages and two BARs.
pub const PLAIN: FunctionId = FunctionId::new(2);
/// The first virtual function, of [`PHYSICAL`].
pub const FIRST_VF: FunctionId = FunctionId::new(4);
/// How many virtual functions [`PHYSICAL`] can have.
pub const VFS: u16 = 2;
/// Where the BARs of function 0 begin; those of the others follow at this distance.
const BARS: u64 = 0xfe00_0000;
const APART: u64 = 0x10_0000;

/// What the devices have been told.
#[derive(Clone, Debug, Default)]
pub struct DeviceModel {
    /// The domain that each attached function's DMA reaches.
    pub attached: BTreeMap<FunctionId, VmId>,
    /// Virtual functions that are enabled.
    pub enabled: BTreeMap<FunctionId, u16>,
    /// The message that raises a route.
    pub messages: BTreeMap<u16, Message>,
    /// When each function was reset last.
    pub resets: BTreeMap<FunctionId, Ticks>,
    /// Functions that were reset and not revived.
    pub in_reset: Vec<FunctionId>,
    /// What the next read of configuration space returns.
    pub input: u32,
    /// Writes to configuration space: function, offset, value.
    pub writes: Vec<(FunctionId, u16, u32)>,
    /// Records that were not taken, oldest first, as of units with room for all.
    pub faults_recorded: Vec<(Option<FunctionId>, FaultRecord)>,
    /// Fault events are held back.
    pub holds_fault_events: bool,
    /// The IOMMU does not answer.
    pub is_stuck: bool,
    /// It did not answer when it was told something.
    pub has_failed: bool,
    /// What was done that must not be.
    pub faults: Vec<&'static str>,
}

impl DeviceModel {
    /// What is fixed about a function.
    pub fn facts(function: FunctionId) -> FunctionFacts {
        let identity = 0x02_0000_10c9_8086 | u64::from(function.get()) << 48;
        let facts = FunctionFacts { identity, requester: requester(function), ..FunctionFacts::default() };
        match function {
            PHYSICAL => FunctionFacts { messages: 4, vfs: VFS, first_vf: FIRST_VF, ..facts },
            QUARANTINED => FunctionFacts { messages: 1, quarantined: true, ..facts },
            PLAIN => FunctionFacts { messages: 2, ..facts },
            vf if vf.get().wrapping_sub(FIRST_VF.get()) < VFS => FunctionFacts { messages: 2, ..facts },
            _ => FunctionFacts::default(),
        }
    }

    /// A BAR of a function.
    pub fn bar(function: FunctionId, bar: u8) -> Bar {
        let base = Hpa::new(BARS + u64::from(function.get()) * APART + u64::from(bar) * 0x1_0000);
        match (Self::facts(function).messages, bar) {
            (2.., 0) => Bar { base, pages: 4, withheld: [(0, 0); 2] },
            (2.., 3) => Bar { base, pages: 3, withheld: [(0, 1), (2, 1)] },
            _ => Bar::default(),
        }
    }

    fn expect(&mut self, holds: bool, what: &'static str) {
        if !holds {
            self.faults.push(what);
        }
    }
}

/// The requester id of a function.
pub fn requester(function: FunctionId) -> u16 {
    0x100 + function.get()
}

/// A machine whose functions are a [`DeviceModel`].
pub trait HasDevices: Machine {
    /// The functions.
    fn devices(&self) -> &DeviceModel;
    /// The functions, to change them.
    fn devices_mut(&mut self) -> &mut DeviceModel;
}

impl<M: HasDevices> Devices for M {
    fn function(&self, function: FunctionId) -> FunctionFacts {
        assert!(usize::from(function.get()) < MAX_FUNCTIONS, "{function:?} does not exist");
        let facts = DeviceModel::facts(function);
        FunctionFacts { quarantined: facts.quarantined || self.iommu_has_failed(), ..facts }
    }

    fn bar(&self, function: FunctionId, bar: u8) -> Bar {
        DeviceModel::bar(function, bar)
    }

    fn filter_config(&self, _: FunctionId, offset: u16, value: u32) -> Option<u32> {
        (offset == WRITABLE).then_some(value & WRITABLE_BITS)
    }

    fn read_config(&mut self, function: FunctionId, _: u16) -> u32 {
        let model = self.devices_mut();
        model.expect(!model.in_reset.contains(&function), "configuration space of a function in a reset is read");
        model.input
    }

    fn write_config(&mut self, function: FunctionId, offset: u16, value: u32) {
        self.devices_mut().writes.push((function, offset, value));
    }

    fn publish_table_entry(&mut self, _: Hpa, _: usize) {}

    fn publish_table(&mut self, _: Hpa) {}

    fn attach_function(&mut self, function: FunctionId, domain: VmId) {
        let model = self.devices_mut();
        model.expect(!model.in_reset.contains(&function), "a function in a reset is attached");
        let before = model.attached.insert(function, domain);
        model.expect(before.is_none(), "an attached function is attached");
        model.has_failed |= model.is_stuck;
    }

    fn detach_function(&mut self, function: FunctionId) {
        let model = self.devices_mut();
        let before = model.attached.remove(&function);
        model.expect(before.is_some(), "a function is detached that is not attached");
        model.has_failed |= model.is_stuck;
    }

    fn flush_function(&mut self, function: FunctionId) {
        let model = self.devices_mut();
        model.expect(model.attached.contains_key(&function), "a function is flushed that is not attached");
        model.has_failed |= model.is_stuck;
    }

    fn iommu_has_failed(&self) -> bool {
        self.devices().has_failed
    }

    fn reset_function(&mut self, function: FunctionId) -> Ticks {
        let now = self.now();
        let model = self.devices_mut();
        model.expect(!model.attached.contains_key(&function), "an attached function is reset");
        model.resets.insert(function, now);
        model.in_reset.push(function);
        Ticks::new(RESET_TICKS)
    }

    fn revive_function(&mut self, function: FunctionId) -> Option<Ticks> {
        let now = self.now();
        let model = self.devices_mut();
        let since = model.resets.get(&function).map_or(0, |at| now.get().saturating_sub(at.get()));
        model.expect(since >= RESET_TICKS, "a function is revived before its reset is over");
        model.in_reset.retain(|other| *other != function);
        None
    }

    fn enable_vfs(&mut self, function: FunctionId, count: u16) -> Ticks {
        let now = self.now();
        let model = self.devices_mut();
        model.in_reset.retain(|other| other.get().wrapping_sub(FIRST_VF.get()) >= VFS);
        let before = model.enabled.insert(function, count);
        model.expect(before.is_none(), "virtual functions are enabled twice");
        let vfs = (0..count).map(|index| FunctionId::new(FIRST_VF.get() + index));
        for vf in vfs {
            model.in_reset.push(vf);
            model.resets.insert(vf, now);
        }
        Ticks::new(RESET_TICKS)
    }

    fn disable_vfs(&mut self, function: FunctionId) -> Ticks {
        let model = self.devices_mut();
        let before = model.enabled.remove(&function);
        model.expect(before.is_some(), "virtual functions are disabled that are not enabled");
        let alone = model.attached.keys().all(|other| other.get().wrapping_sub(FIRST_VF.get()) >= VFS);
        model.expect(alone, "an attached virtual function is disabled");
        Ticks::new(RESET_TICKS)
    }

    fn take_fault(&mut self) -> Option<(Option<FunctionId>, FaultRecord)> {
        let recorded = &mut self.devices_mut().faults_recorded;
        (!recorded.is_empty()).then(|| recorded.remove(0))
    }

    fn most_faults(&self) -> usize {
        self.devices().faults_recorded.len()
    }

    fn faults_lost(&self) -> u32 {
        0
    }

    fn hold_fault_events(&mut self, held: bool) {
        let model = self.devices_mut();
        model.expect(model.holds_fault_events != held || held, "fault events are let through that are not held");
        model.holds_fault_events = held;
    }

    fn bind_message(&mut self, route: u16, message: Message) {
        let model = self.devices_mut();
        model.expect(!model.in_reset.contains(&message.function), "a message of a function in a reset is bound");
        let before = model.messages.insert(route, message);
        model.expect(before.is_none(), "a route is raised by two messages");
    }

    fn unbind_message(&mut self, route: u16, message: Message) {
        let model = self.devices_mut();
        let before = model.messages.remove(&route);
        model.expect(before == Some(message), "a message is unbound that does not raise the route");
    }
}
