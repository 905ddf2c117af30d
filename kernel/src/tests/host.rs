//! The machine of the tests: typed arrays instead of memory, hardware that remembers what it was told.
//!
//! Slots, words and headers overlay each other, so that memory which was not scrubbed is seen as dirty. A header that
//! nobody made cannot be read.

use crate::channel::Channel;
use crate::device_model::{DeviceModel, HasDevices};
use crate::machine::{Machine, SharedPage};
use crate::nested::EntryFormat;
use crate::slot::Slot;
use crate::types::{ChannelId, CoreId, Hpa, SlotId, Ticks, VcpuId, VmId};
use crate::vcpu::Vcpu;
use crate::vm::Vm;
use cap_spec::abi::{Register, SLOT_BITS};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

/// First byte of memory.
pub(super) const BASE: u64 = 0x40_0000;
/// Bytes of memory.
pub(super) const BYTES: u64 = 0x90_0000;
/// The page of global statistics: the last.
pub(super) const STATISTICS: u64 = BASE + BYTES - 0x1000;

/// The machine.
#[derive(Debug)]
pub(super) struct Host {
    slots: Vec<Slot>,
    words: Vec<u64>,
    /// Pages that were written to since they were last zeroed as a whole.
    touched: Vec<bool>,
    vms: BTreeMap<VmId, Vm>,
    vcpus: BTreeMap<VcpuId, Vcpu>,
    channels: BTreeMap<ChannelId, Channel>,
    registers: BTreeMap<VcpuId, [u64; 21]>,
    /// What sleepers were given when they woke.
    pub(super) results: Vec<(VcpuId, [u64; 2])>,
    pub(super) routes: BTreeMap<u16, (CoreId, u8)>,
    pub(super) now: u64,
    /// Ticks that a look at the clock takes.
    pub(super) look_ticks: u64,
    looks: Cell<u64>,
    pub(super) port_input: u32,
    pub(super) outputs: Vec<(u16, u8, u32)>,
    pub(super) expelled: Vec<CoreId>,
    pub(super) kicked: Vec<CoreId>,
    pub(super) resets: u32,
    pub(super) devices: DeviceModel,
    /// How often `must_yield` is denied before it is granted once; `None`: always denied.
    pub(super) patience: Cell<Option<u32>>,
}

impl Host {
    pub(super) fn new() -> Host {
        Host {
            slots: vec![Slot::EMPTY; (BYTES >> SLOT_BITS) as usize],
            words: vec![0; (BYTES / 8) as usize],
            touched: vec![false; (BYTES >> 12) as usize],
            vms: BTreeMap::new(),
            vcpus: BTreeMap::new(),
            channels: BTreeMap::new(),
            registers: BTreeMap::new(),
            results: Vec::new(),
            routes: BTreeMap::new(),
            now: 1_000_000,
            look_ticks: 0,
            looks: Cell::new(0),
            port_input: 0,
            outputs: Vec::new(),
            expelled: Vec::new(),
            kicked: Vec::new(),
            resets: 0,
            devices: DeviceModel::default(),
            patience: Cell::new(None),
        }
    }

    fn slot_index(id: SlotId) -> usize {
        let address = id.address().get();
        assert!((BASE..BASE + BYTES).contains(&address), "no slot at {address:#x}");
        ((address - BASE) >> SLOT_BITS) as usize
    }

    fn word_index(address: u64) -> usize {
        assert!((BASE..BASE + BYTES).contains(&address), "no word at {address:#x}");
        ((address - BASE) / 8) as usize
    }

    fn touch(&mut self, address: u64, bytes: u64) {
        let first = (address - BASE) >> 12;
        let last = (address + bytes - 1 - BASE) >> 12;
        self.touched[first as usize..=last as usize].fill(true);
    }

    fn word_of(page: SharedPage, offset: usize) -> usize {
        let page = match page {
            SharedPage::Info(vcpu) => vcpu.info_page(),
            SharedPage::Handler(vcpu) => vcpu.handler_page(),
            SharedPage::Stats(vm) => vm.stats_page(),
            SharedPage::GlobalStats => Hpa::new(STATISTICS),
        };
        Self::word_index(page.get() + offset as u64)
    }

    /// Memory as a guest may leave it.
    pub(super) fn scribble(&mut self, base: Hpa, bytes: u64) {
        let word = Self::word_index(base.get());
        self.touch(base.get(), bytes);
        self.words[word..word + (bytes / 8) as usize].fill(0xdead_beef);
    }

    pub(super) fn is_clean(&self, base: Hpa, bytes: u64) -> bool {
        if bytes == 0 {
            return true;
        }
        let apart = |address: Hpa| address.get() < base.get() || address.get() >= base.get() + bytes;
        let mut at = base.get();
        while at < base.get() + bytes {
            let end = ((at | 0xfff) + 1).min(base.get() + bytes);
            if self.touched[((at - BASE) >> 12) as usize] {
                let (word, slot) = (Self::word_index(at), Self::slot_index(Hpa::new(at).to_slot()));
                let words = &self.words[word..word + ((end - at) / 8) as usize];
                let slots = &self.slots[slot..slot + ((end - at) >> SLOT_BITS) as usize];
                if words.iter().any(|word| *word != 0) || !slots.iter().all(Slot::is_empty) {
                    return false;
                }
            }
            at = end;
        }
        self.vms.keys().all(|id| apart(id.address()))
            && self.vcpus.keys().all(|id| apart(id.address()))
            && self.channels.keys().all(|id| apart(id.address()))
    }
}

impl HasDevices for Host {
    fn devices(&self) -> &DeviceModel {
        &self.devices
    }

    fn devices_mut(&mut self) -> &mut DeviceModel {
        &mut self.devices
    }
}

impl Machine for Host {
    fn slot(&self, id: SlotId) -> &Slot {
        &self.slots[Self::slot_index(id)]
    }

    fn slot_mut(&mut self, id: SlotId) -> &mut Slot {
        self.touch(id.address().get(), 64);
        &mut self.slots[Self::slot_index(id)]
    }

    fn vm(&self, id: VmId) -> &Vm {
        &self.vms[&id]
    }

    fn vm_mut(&mut self, id: VmId) -> &mut Vm {
        self.vms.entry(id).or_insert(Vm::new(Hpa::new(0), 0, EntryFormat::Npt))
    }

    fn vcpu(&self, id: VcpuId) -> &Vcpu {
        &self.vcpus[&id]
    }

    fn vcpu_mut(&mut self, id: VcpuId) -> &mut Vcpu {
        self.vcpus.entry(id).or_insert(Vcpu::NEW)
    }

    fn channel(&self, id: ChannelId) -> &Channel {
        &self.channels[&id]
    }

    fn channel_mut(&mut self, id: ChannelId) -> &mut Channel {
        self.channels.entry(id).or_insert(Channel::NEW)
    }

    fn table_entry(&self, table: Hpa, index: usize) -> u64 {
        self.words[Self::word_index(table.get()) + index]
    }

    fn set_table_entry(&mut self, table: Hpa, index: usize, entry: u64) {
        self.touch(table.get(), 4096);
        self.words[Self::word_index(table.get()) + index] = entry;
    }

    fn zero(&mut self, base: Hpa, bytes: u64) {
        let (start, end) = (base.get(), base.get() + bytes);
        let word = Self::word_index(start);
        self.words[word..word + (bytes / 8) as usize].fill(0);
        let slot = Self::slot_index(base.to_slot());
        self.slots[slot..slot + (bytes >> SLOT_BITS) as usize].fill(Slot::EMPTY);
        if bytes == 4096 {
            self.touched[((start - BASE) >> 12) as usize] = false;
        }
        let apart = |address: Hpa| !(start..end).contains(&address.get());
        self.vms.retain(|id, _| apart(id.address()));
        self.vcpus.retain(|id, _| apart(id.address()));
        self.channels.retain(|id, _| apart(id.address()));
    }

    fn shared_word(&self, page: SharedPage, offset: usize) -> u64 {
        self.words[Self::word_of(page, offset)]
    }

    fn set_shared_word(&mut self, page: SharedPage, offset: usize, value: u64) {
        let word = Self::word_of(page, offset);
        self.touch(BASE + 8 * word as u64, 8);
        self.words[word] = value;
    }

    fn or_events(&mut self, vcpu: VcpuId, bits: u64) -> u64 {
        let word = Self::word_of(SharedPage::Info(vcpu), 0);
        self.touch(BASE + 8 * word as u64, 8);
        let word = &mut self.words[word];
        core::mem::replace(word, *word | bits)
    }

    fn take_events(&mut self, vcpu: VcpuId, mask: u64) -> u64 {
        let word = &mut self.words[Self::word_of(SharedPage::Info(vcpu), 0)];
        core::mem::replace(word, *word & !mask) & mask
    }

    fn now(&self) -> Ticks {
        self.looks.set(self.looks.get() + self.look_ticks);
        Ticks::new(self.now + self.looks.get())
    }

    fn expel(&mut self, core: CoreId) {
        self.expelled.push(core);
    }

    fn kick(&mut self, core: CoreId) {
        self.kicked.push(core);
    }

    fn must_yield(&self) -> bool {
        match self.patience.get() {
            None => false,
            Some(0) => true,
            Some(left) => {
                self.patience.set(Some(left - 1));
                false
            }
        }
    }

    fn init_vcpu(&mut self, vcpu: VcpuId, _: Hpa) {
        self.registers.insert(vcpu, [0; 21]);
    }

    fn set_register(&mut self, vcpu: VcpuId, register: Register, value: u64) {
        self.registers.entry(vcpu).or_insert([0; 21])[register as usize] = value;
    }

    fn set_results(&mut self, vcpu: VcpuId, results: [u64; 2]) {
        self.results.push((vcpu, results));
    }

    fn register(&self, vcpu: VcpuId, register: Register) -> u64 {
        self.registers.get(&vcpu).map_or(0, |registers| registers[register as usize])
    }

    fn route_irq(&mut self, route: u16, target: Option<(CoreId, u8)>, held: bool) {
        self.kicked.extend(target.filter(|_| held).map(|(core, _)| core));
        match target {
            Some(target) => self.routes.insert(route, target),
            None => self.routes.remove(&route),
        };
    }

    fn port_in(&mut self, _: u16, _: u8) -> u32 {
        self.port_input
    }

    fn port_out(&mut self, port: u16, width: u8, value: u32) {
        self.outputs.push((port, width, value));
    }

    fn reset(&mut self) {
        self.resets += 1;
    }
}
