//! A machine for the kernel library: memory that is an array, and hardware that does nothing but remember.
//!
//! Memory is as hostile as real memory: slots, words and headers overlay each other, so what a guest wrote into a frame
//! is there when the frame's memory becomes something else, unless the kernel scrubbed it. An access to a header that no
//! retype has made panics.

use std::collections::BTreeMap;
use std::rc::Rc;

use cap_spec::abi::{PAGE_BITS, Register, Rights, SLOT_BITS, info_page};
use cap_spec::machine::{Output, initial_registers};
use kernel::cap::Cap;
use kernel::channel::Channel;
use kernel::device_model::{DeviceModel, HasDevices};
use kernel::machine::{Machine, SharedPage};
use kernel::nested::EntryFormat;
use kernel::slot::Slot;
use kernel::types::{ChannelId, CoreId, Hpa, SlotId, Ticks, VcpuId, VmId};
use kernel::vcpu::Vcpu;
use kernel::vm::Vm;

/// First byte of the memory.
pub const BASE: u64 = 0x10_0000;

/// What a guest writes into the words of its frames: as a table entry, present and leading to the memory's start.
const SCRIBBLE: u64 = BASE | 0xfff;

/// Slots of a page.
const PAGE_SLOTS: usize = 1 << (PAGE_BITS - SLOT_BITS);
/// Words of a page.
pub const PAGE_WORDS: usize = 512;

/// A page, read as slots and as words. Pages are shared until they are written, so that a machine is copied cheaply.
#[derive(Clone)]
struct Page {
    slots: [Slot; PAGE_SLOTS],
    words: [u64; PAGE_WORDS],
}

impl Page {
    fn is_clean(&self) -> bool {
        self.words.iter().all(|word| *word == 0) && self.slots.iter().all(Slot::is_empty)
    }
}

/// The machine.
#[derive(Clone)]
pub struct Host {
    pages: Vec<Rc<Page>>,
    clean: Rc<Page>,
    scribbled: Rc<Page>,
    vms: BTreeMap<VmId, Vm>,
    vcpus: BTreeMap<VcpuId, Vcpu>,
    channels: BTreeMap<ChannelId, Channel>,
    registers: BTreeMap<VcpuId, [u64; 21]>,
    /// Where each interrupt route goes.
    pub routes: BTreeMap<u16, (CoreId, u8)>,
    /// The time-stamp counter.
    pub now: u64,
    /// What the next read of a port returns.
    pub port_input: u32,
    /// The functions of devices.
    pub devices: DeviceModel,
    /// What was done to the world.
    pub outputs: Vec<Output>,
    /// Sleepers whose results the kernel has set, with the events.
    pub woken: Vec<(VcpuId, u64)>,
    /// A seeded bug: what should become zero stays as it is.
    pub forgets_to_zero: bool,
    /// Somebody waits for the kernel lock, always.
    pub must_yield: bool,
}

impl Host {
    /// This many bytes of clean memory from [`BASE`] on, quiet hardware.
    pub fn new(bytes: u64) -> Host {
        let clean = Rc::new(Page { slots: [Slot::EMPTY; PAGE_SLOTS], words: [0; PAGE_WORDS] });
        let machine = Slot::of(Cap::Machine, Rights::all(), true);
        Host {
            pages: vec![clean.clone(); (bytes >> PAGE_BITS) as usize],
            clean,
            scribbled: Rc::new(Page { slots: [machine; PAGE_SLOTS], words: [SCRIBBLE; PAGE_WORDS] }),
            vms: BTreeMap::new(),
            vcpus: BTreeMap::new(),
            channels: BTreeMap::new(),
            registers: BTreeMap::new(),
            routes: BTreeMap::new(),
            now: 0,
            port_input: 0,
            devices: DeviceModel::default(),
            outputs: Vec::new(),
            woken: Vec::new(),
            forgets_to_zero: false,
            must_yield: false,
        }
    }

    /// Index of the page of an address.
    fn page_index(&self, address: u64) -> usize {
        let index = address.checked_sub(BASE).map(|offset| (offset >> PAGE_BITS) as usize);
        index.filter(|index| *index < self.pages.len()).unwrap_or_else(|| panic!("{address:#x} is no memory"))
    }

    fn word(&self, address: u64) -> u64 {
        self.pages[self.page_index(address)].words[word_in_page(address)]
    }

    fn word_mut(&mut self, address: u64) -> &mut u64 {
        let index = self.page_index(address);
        &mut Rc::make_mut(&mut self.pages[index]).words[word_in_page(address)]
    }

    fn shared_address(page: SharedPage, offset: usize) -> u64 {
        let page = match page {
            SharedPage::Info(vcpu) => vcpu.info_page(),
            SharedPage::Handler(vcpu) => vcpu.handler_page(),
            SharedPage::Stats(vm) => vm.stats_page(),
            SharedPage::GlobalStats => Hpa::new(STATISTICS_PAGE),
        };
        assert!(offset < 1 << PAGE_BITS, "offset {offset:#x} of a page");
        page.get() + offset as u64
    }

    /// True if every byte of this memory reads as zero, whatever it is read as.
    pub fn is_clean(&self, base: u64, bytes: u64) -> bool {
        if bytes < 1 << PAGE_BITS {
            let slots =
                (base..base + bytes).step_by(1 << SLOT_BITS).all(|at| self.slot(Hpa::new(at).to_slot()).is_empty());
            return slots && (base..base + bytes).step_by(8).all(|at| self.word(at) == 0);
        }
        let first = self.page_index(base);
        let pages = &self.pages[first..first + (bytes >> PAGE_BITS) as usize];
        pages.iter().all(|page| Rc::ptr_eq(page, &self.clean) || page.is_clean())
    }

    /// What a guest could do to a frame: fill it with what would be dangerous as a table or as slots.
    pub fn scribble(&mut self, base: u64, bytes: u64) {
        let first = self.page_index(base);
        self.pages[first..first + (bytes >> PAGE_BITS) as usize].fill(self.scribbled.clone());
    }

    /// The entries of a table.
    pub fn table(&self, table: u64) -> &[u64; PAGE_WORDS] {
        &self.pages[self.page_index(table)].words
    }

    /// The registers of a Vcpu that was attached at least once.
    pub fn registers(&self, vcpu: VcpuId) -> [u64; 21] {
        self.registers.get(&vcpu).copied().unwrap_or(initial_registers())
    }
}

/// The page of global statistics.
pub const STATISTICS_PAGE: u64 = BASE + 0x1_0000;

/// Index of a word in its page.
fn word_in_page(address: u64) -> usize {
    (address >> 3) as usize % PAGE_WORDS
}

/// Index of a slot in its page.
fn slot_in_page(address: u64) -> usize {
    (address >> SLOT_BITS) as usize % PAGE_SLOTS
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
        let address = id.address().get();
        &self.pages[self.page_index(address)].slots[slot_in_page(address)]
    }

    fn slot_mut(&mut self, id: SlotId) -> &mut Slot {
        let address = id.address().get();
        let index = self.page_index(address);
        &mut Rc::make_mut(&mut self.pages[index]).slots[slot_in_page(address)]
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
        assert!(index < 512);
        self.word(table.get() + 8 * index as u64)
    }

    fn set_table_entry(&mut self, table: Hpa, index: usize, entry: u64) {
        assert!(index < 512);
        *self.word_mut(table.get() + 8 * index as u64) = entry;
    }

    fn zero(&mut self, base: Hpa, bytes: u64) {
        if self.forgets_to_zero {
            return;
        }
        let start = base.get();
        if bytes.is_multiple_of(1 << PAGE_BITS) && start.is_multiple_of(1 << PAGE_BITS) {
            let first = self.page_index(start);
            self.pages[first..first + (bytes >> PAGE_BITS) as usize].fill(self.clean.clone());
        } else {
            for at in (start..start + bytes).step_by(8) {
                *self.word_mut(at) = 0;
            }
            for at in (start..start + bytes).step_by(1 << SLOT_BITS) {
                *self.slot_mut(Hpa::new(at).to_slot()) = Slot::EMPTY;
            }
        }
        let is_apart = |address: Hpa| !(start..start + bytes).contains(&address.get());
        self.vms.retain(|id, _| is_apart(id.address()));
        self.vcpus.retain(|id, _| is_apart(id.address()));
        self.channels.retain(|id, _| is_apart(id.address()));
        self.registers.retain(|id, _| is_apart(id.address()));
    }

    fn shared_word(&self, page: SharedPage, offset: usize) -> u64 {
        self.word(Self::shared_address(page, offset))
    }

    fn set_shared_word(&mut self, page: SharedPage, offset: usize, value: u64) {
        *self.word_mut(Self::shared_address(page, offset)) = value;
    }

    fn or_events(&mut self, vcpu: VcpuId, bits: u64) -> u64 {
        let word = self.word_mut(Self::shared_address(SharedPage::Info(vcpu), info_page::EVENTS));
        let before = *word;
        *word |= bits;
        before
    }

    fn take_events(&mut self, vcpu: VcpuId, mask: u64) -> u64 {
        let word = self.word_mut(Self::shared_address(SharedPage::Info(vcpu), info_page::EVENTS));
        let taken = *word & mask;
        *word &= !mask;
        taken
    }

    fn now(&self) -> Ticks {
        Ticks::new(self.now)
    }

    fn expel(&mut self, _: CoreId) {}

    fn kick(&mut self, _: CoreId) {}

    fn must_yield(&self) -> bool {
        self.must_yield
    }

    fn init_vcpu(&mut self, vcpu: VcpuId, _: Hpa) {
        self.registers.insert(vcpu, initial_registers());
    }

    fn set_register(&mut self, vcpu: VcpuId, register: Register, value: u64) {
        self.registers.entry(vcpu).or_insert(initial_registers())[register as usize] = value;
    }

    fn set_results(&mut self, vcpu: VcpuId, results: [u64; 2]) {
        self.woken.push((vcpu, results[0]));
    }

    fn register(&self, vcpu: VcpuId, register: Register) -> u64 {
        self.registers(vcpu)[register as usize]
    }

    fn route_irq(&mut self, route: u16, target: Option<(CoreId, u8)>, _: bool) {
        match target {
            Some(target) => self.routes.insert(route, target),
            None => self.routes.remove(&route),
        };
    }

    fn port_in(&mut self, _: u16, width: u8) -> u32 {
        self.port_input & (u32::MAX >> (32 - 8 * u32::from(width)))
    }

    fn port_out(&mut self, port: u16, width: u8, value: u32) {
        self.outputs.push(Output::Port { port, width, value });
    }

    fn reset(&mut self) {
        self.outputs.push(Output::Reset);
    }
}
