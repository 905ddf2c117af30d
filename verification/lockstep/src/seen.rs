//! The lock-step kernel and its devices, as the abstraction function sees them.

use std::collections::{BTreeMap, BTreeSet};

use cap_spec::abi::info_page;
use cap_spec::machine::{Cap, Message, State, VmId};
use kernel::channel::Channel;
use kernel::fault::Faults;
use kernel::machine::{Machine, SharedPage};
use kernel::slot::Slot;
use kernel::types as k;
use kernel::vcpu::Vcpu;
use kernel::vm::Vm;
use kernel::{Kernel, Message as KernelMessage, Route};

use crate::host::Host;
use crate::observe::{Defect, Seen};

impl Seen for Kernel<Host> {
    fn slot(&self, id: k::SlotId) -> Slot {
        *self.machine.slot(id)
    }

    fn vm(&self, id: k::VmId) -> Vm {
        *self.machine.vm(id)
    }

    fn vcpu(&self, id: k::VcpuId) -> Vcpu {
        *self.machine.vcpu(id)
    }

    fn channel(&self, id: k::ChannelId) -> Channel {
        *self.machine.channel(id)
    }

    fn table(&self, table: u64) -> [u64; 512] {
        *self.machine.table(table)
    }

    fn events(&self, vcpu: k::VcpuId) -> u64 {
        self.machine.shared_word(SharedPage::Info(vcpu), info_page::EVENTS)
    }

    fn registers(&self, vcpu: k::VcpuId) -> [u64; 21] {
        self.machine.registers(vcpu)
    }

    fn route(&self, route: u16) -> Option<Route> {
        Kernel::route(self, route)
    }

    fn message(&self, route: u16) -> Option<KernelMessage> {
        Kernel::message(self, route)
    }

    fn function_state(&self, function: k::FunctionId) -> (k::VmId, u8, u16, k::Ticks) {
        Kernel::function_state(self, function)
    }

    fn faults(&self) -> Faults {
        *Kernel::faults(self)
    }
}

fn vm_id(id: k::VmId) -> VmId {
    VmId(id.address().get())
}

/// What the devices were told is what the kernel's records say.
///
/// # Errors
/// What differs.
pub fn check_devices(kernel: &Kernel<Host>, state: &State) -> Result<(), Defect> {
    let model = &kernel.machine.devices;
    if let Some(fault) = model.faults.first() {
        return Err(fault.to_string());
    }
    let attached: BTreeMap<u16, VmId> = model.attached.iter().map(|(id, vm)| (id.get(), vm_id(*vm))).collect();
    let recorded: BTreeMap<u16, VmId> =
        state.functions.iter().filter_map(|(id, function)| Some((*id, function.domain?))).collect();
    if attached != recorded {
        return Err(format!("the functions {attached:x?} are attached, the records say {recorded:x?}"));
    }
    let has_vfs: BTreeSet<u16> = model.enabled.keys().map(|id| id.get()).collect();
    let counted: BTreeSet<u16> =
        state.functions.iter().filter(|(_, function)| function.vfs != 0).map(|(id, _)| *id).collect();
    if has_vfs != counted {
        return Err(format!("virtual functions of {has_vfs:?} are enabled, of {counted:?} are recorded"));
    }
    let messages: BTreeMap<u16, Message> = model
        .messages
        .iter()
        .map(|(route, message)| (*route, Message { function: message.function.get(), entry: message.entry }))
        .collect();
    let mut bound = BTreeMap::new();
    for slot in state.slots.values() {
        if let Cap::Irq { first, route, message, .. } = slot.cap {
            bound.extend(message.map(|message| (first, message)));
            // A route that is no pin is delivered while it has a Vcpu and a message.
            let delivered = route.is_some() && (first < state.config.first_message_route || message.is_some());
            let is_single = matches!(slot.cap, Cap::Irq { count: 1, .. });
            if is_single && delivered != kernel.machine.routes.contains_key(&first) && route.is_some() {
                return Err(format!("route {first} is delivered: {}", !delivered));
            }
        }
    }
    if messages != bound {
        return Err(format!("the messages {messages:?} are bound, the records say {bound:?}"));
    }
    Ok(())
}
