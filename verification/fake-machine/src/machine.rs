//! The [`Machine`] that the kernel library runs on: memory and hardware of the simulation, seen from the core that
//! holds the lock. At every store of the kernel the other cores' guests may go on.

use crate::hardware::{Guest, Hardware};
use crate::lines::{Delivery, FIRST_ROUTE, ROUTES};
use crate::memory::PAGE;
use cap_spec::abi::Register;
use kernel::channel::Channel;
use kernel::machine::{Machine, SharedPage};
use kernel::protocol::pending::Pending;
use kernel::slot::Slot;
use kernel::types::{ChannelId, CoreId, Hpa, SlotId, Ticks, VcpuId, VmId};
use kernel::vcpu::Vcpu;
use kernel::vm::Vm;
use std::collections::BTreeMap;

/// Page of the global statistics.
pub const STATISTICS: Hpa = Hpa::new(PAGE);

/// The simulated machine.
#[derive(Debug)]
pub struct FakeMachine(pub Hardware);

impl FakeMachine {
    pub(crate) fn active(&self) -> usize {
        self.0.holder.unwrap_or(0)
    }

    /// A store of the kernel: the others go on meanwhile.
    fn stored(&mut self) {
        if self.0.in_step {
            let active = self.active();
            self.0.run_beside(active);
        }
    }

    fn shared(page: SharedPage) -> u64 {
        match page {
            SharedPage::Info(vcpu) => vcpu.info_page().get(),
            SharedPage::Handler(vcpu) => vcpu.handler_page().get(),
            SharedPage::Stats(vm) => vm.stats_page().get(),
            SharedPage::GlobalStats => STATISTICS.get(),
        }
    }
}

impl Machine for FakeMachine {
    fn slot(&self, id: SlotId) -> &Slot {
        self.0.memory.slot(id)
    }

    fn slot_mut(&mut self, id: SlotId) -> &mut Slot {
        self.stored();
        self.0.memory.slot_mut(id)
    }

    fn vm(&self, id: VmId) -> &Vm {
        self.0.memory.vm(id)
    }

    fn vm_mut(&mut self, id: VmId) -> &mut Vm {
        self.stored();
        self.0.memory.vm_mut(id)
    }

    fn vcpu(&self, id: VcpuId) -> &Vcpu {
        self.0.memory.vcpu(id)
    }

    fn vcpu_mut(&mut self, id: VcpuId) -> &mut Vcpu {
        self.stored();
        self.0.memory.vcpu_mut(id)
    }

    fn channel(&self, id: ChannelId) -> &Channel {
        self.0.memory.channel(id)
    }

    fn channel_mut(&mut self, id: ChannelId) -> &mut Channel {
        self.0.memory.channel_mut(id)
    }

    fn table_entry(&self, table: Hpa, index: usize) -> u64 {
        self.0.memory.word(table.get() + index as u64 * 8)
    }

    fn set_table_entry(&mut self, table: Hpa, index: usize, entry: u64) {
        self.0.memory.set_entry(table, index, entry);
        self.stored();
    }

    fn zero(&mut self, base: Hpa, bytes: u64) {
        self.0.memory.zero(base, bytes);
        self.0.iommu.scrubbed(base, bytes);
        self.stored();
    }

    fn shared_word(&self, page: SharedPage, offset: usize) -> u64 {
        self.0.memory.word(Self::shared(page) + offset as u64)
    }

    fn set_shared_word(&mut self, page: SharedPage, offset: usize, value: u64) {
        self.0.memory.set_word(Self::shared(page) + offset as u64, value);
    }

    fn or_events(&mut self, vcpu: VcpuId, bits: u64) -> u64 {
        let at = vcpu.info_page().get();
        let before = self.0.memory.word(at);
        self.0.memory.set_word(at, before | bits);
        before
    }

    fn take_events(&mut self, vcpu: VcpuId, mask: u64) -> u64 {
        let at = vcpu.info_page().get();
        let before = self.0.memory.word(at);
        self.0.memory.set_word(at, before & !mask);
        before & mask
    }

    fn now(&self) -> Ticks {
        Ticks::new(self.0.clock())
    }

    fn expel(&mut self, core: CoreId) {
        let active = self.active();
        self.0.expel(active, core.get() as usize);
    }

    fn kick(&mut self, core: CoreId) {
        self.0.call(core.get() as usize);
    }

    fn must_yield(&self) -> bool {
        !self.0.queue.is_empty() || self.0.cores[self.active()].until <= self.0.present()
    }

    fn init_vcpu(&mut self, vcpu: VcpuId, _root: Hpa) {
        let guest = Guest {
            registers: [0; 21],
            open: false,
            halted: false,
            pending: Pending::NONE,
            upcall: 0,
            repeated: None,
            owed: BTreeMap::new(),
            untold: 0,
            moments: 0,
        };
        self.0.guests.insert(vcpu, guest);
    }

    fn set_register(&mut self, vcpu: VcpuId, register: Register, value: u64) {
        if let Some(guest) = self.0.guests.get_mut(&vcpu) {
            guest.registers[register as usize] = value;
        }
    }

    fn set_results(&mut self, vcpu: VcpuId, results: [u64; 2]) {
        if let Some(guest) = self.0.guests.get_mut(&vcpu) {
            [guest.registers[Register::Rsi as usize], guest.registers[Register::Rdx as usize]] = results;
        }
    }

    fn register(&self, vcpu: VcpuId, register: Register) -> u64 {
        self.0.guests.get(&vcpu).map_or(0, |guest| guest.registers[register as usize])
    }

    fn route_irq(&mut self, route: u16, target: Option<(CoreId, u8)>, held: bool) {
        let line = usize::from(route.wrapping_sub(FIRST_ROUTE));
        if line < ROUTES {
            let delivery = target.map(|(core, vector)| Delivery { core: usize::from(core.get()), vector });
            self.0.route(self.active(), line, delivery, held);
        }
    }

    fn port_in(&mut self, port: u16, width: u8) -> u32 {
        (port as u32) & (u32::MAX >> (32 - 8 * width as u32))
    }

    fn port_out(&mut self, _port: u16, _width: u8, _value: u32) {}

    fn reset(&mut self) {
        self.0.say(|| String::from("reset"));
    }
}
