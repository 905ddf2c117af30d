//! A model of the machine for tests: the kernel's capabilities as far as the market uses them, rings without limits of
//! memory, and a clock that the test moves.
//!
//! It answers the invocations that the market makes by their specification: retyping moves a watermark, an Untyped that
//! was not scrubbed refuses to be retyped, revocation removes descendants and scrubs, CPU time is admitted against what
//! the core has. Whatever else the market might ask is a panic, so that a test notices.

mod nvme;

use crate::machine::{Attention, Full, Machine, Peer, Received, Slot};
use crate::root::{HANDLER_PAGE, TENANT_STRIDE, TENANT_WINDOW};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use cap_spec::abi::{
    BOOT_INFO_MAGIC, Error, Fault, FaultRecord, Label, ObjectType, ROOT_BOOT_INFO, boot_info, handler_page, slots,
};

/// Ticks per second of the model.
pub const HZ: u64 = 1_000_000_000;
/// What two switches per period cost in the model's admission.
const SWITCHES: u64 = 4_000;
/// Ticks for which a function is busy after its reset.
pub const RESET_TICKS: u64 = HZ / 10;
/// What an Intel 82576 says that it is.
const INTEL_82576: u64 = 0x10c9_8086;
/// Slot of the physical function, if there is one.
const PHYSICAL: u16 = 4000;
/// What an NVMe controller says that it is, in the upper half, and the slot of its physical function, if there is one.
const NVME: u64 = 0x01_0802 << 32;
const NVME_PHYSICAL: u16 = PHYSICAL + 1;
/// The first interrupt route for messages, and how many routes there are.
const MESSAGE_ROUTES: [u64; 2] = [24, 128];
/// Messages that a ring holds.
const RING: usize = 64;
/// A place that a capability can be in: a CNode by its number, and an index.
pub type Place = (u32, u16);

#[derive(Clone, Debug)]
struct Cap {
    object: ObjectType,
    bits: u8,
    parent: Option<Place>,
    /// Untyped: watermark. CpuTime: budget. CNode: its number. PciFunction: until when it is busy. Irq: the first route.
    value: u64,
    /// CpuTime: period. PciFunction: virtual functions that it can have, [`LEASE`] for a lease.
    period: u64,
    in_use: bool,
    /// Untyped: retyped before it was scrubbed for the first time is an error.
    dirty: bool,
}

/// The model.
pub struct Model {
    caps: BTreeMap<Place, Cap>,
    /// CNodes by their number; the root CNode is 0.
    next_cnode: u32,
    words: BTreeMap<u64, u64>,
    /// The clock.
    pub now: u64,
    /// Messages from the market by peer.
    pub sent: BTreeMap<Peer, VecDeque<Vec<u8>>>,
    /// Messages to the market.
    pub incoming: BTreeMap<Peer, VecDeque<Vec<u8>>>,
    open: BTreeMap<Peer, ()>,
    /// The lease in flight by the channel's slot.
    flight: BTreeMap<Place, Place>,
    /// Signals so far by the channel's slot.
    signals: BTreeMap<Place, u64>,
    /// Leases that tenants accepted, as places in a CNode of the tests.
    pub accepted: u64,
    /// Untypeds of the extent of their parent, such as leases are, that can still be made; `None`: any number.
    pub leases_left: Option<u32>,
    /// Revocations leave what was derived.
    pub keeps_children: bool,
    /// A revocation of an Untyped that something was made of keeps its first page back: an IOMMU has failed.
    pub keeps_back: bool,
    /// Invocations that were made.
    pub invocations: u64,
    /// A peer that does not read: its ring is full.
    pub deaf: Option<Peer>,
    /// Pages scrubbed so far.
    pub scrubbed: u64,
    /// What the IOMMU has stopped.
    pub faults: VecDeque<FaultRecord>,
    /// How many that were whenever an Untyped was deleted that had children.
    pub cuts: Vec<u64>,
}

/// CNodes that stand for the tenants' own slots, and for those of channels.
const TENANTS: u32 = u32::MAX;
const FLIGHT: u32 = u32::MAX - 1;

/// Says of the capability to a function that it is a lease.
const LEASE: u64 = u64::MAX;

impl Model {
    /// Adds an Intel 82576 with so many virtual functions.
    pub fn add_nic(&mut self, vfs: u64) {
        self.add_function(PHYSICAL, vfs);
    }

    fn add_function(&mut self, slot: u16, vfs: u64) {
        let cap = self.function(None, vfs);
        self.caps.insert((0, slot), Cap { value: 0, ..cap });
        for (offset, value) in [
            (boot_info::FIRST_FUNCTION, u64::from(PHYSICAL)),
            (boot_info::FUNCTIONS, u64::from(slot - PHYSICAL + 1)),
            (boot_info::FIRST_MESSAGE_ROUTE, MESSAGE_ROUTES[0]),
            (boot_info::ROUTES, MESSAGE_ROUTES[1]),
            (boot_info::SLOTS, u64::from(PHYSICAL)),
        ] {
            self.words.insert(ROOT_BOOT_INFO + offset as u64, value);
        }
    }

    /// A function that has just been reset.
    fn function(&self, parent: Option<Place>, period: u64) -> Cap {
        let value = self.now + RESET_TICKS;
        Cap { object: ObjectType::PciFunction, bits: 0, parent, value, period, in_use: false, dirty: false }
    }

    /// Leases of virtual functions that exist.
    pub fn leased_vfs(&self) -> usize {
        let of_vf = |cap: &Cap| cap.parent.is_some_and(|parent| parent != (0, PHYSICAL));
        self.caps.values().filter(|cap| cap.object == ObjectType::PciFunction && of_vf(cap)).count()
    }

    /// The requester ids of the virtual functions that are leased.
    pub fn leased_requesters(&self) -> Vec<u16> {
        let leases = self.caps.values().filter(|cap| cap.object == ObjectType::PciFunction);
        leases.filter_map(|cap| cap.parent.filter(|parent| *parent != (0, PHYSICAL))).map(|parent| parent.1).collect()
    }

    /// A machine with these cores and boot Untypeds.
    pub fn new(cores: u64, untypeds: &[u8]) -> Model {
        let mut model = Model {
            caps: BTreeMap::new(),
            next_cnode: 1,
            words: BTreeMap::new(),
            now: 50_000_000,
            sent: BTreeMap::new(),
            incoming: BTreeMap::new(),
            open: BTreeMap::new(),
            flight: BTreeMap::new(),
            leases_left: None,
            keeps_children: false,
            keeps_back: false,
            signals: BTreeMap::new(),
            faults: VecDeque::new(),
            accepted: 0,
            invocations: 0,
            deaf: None,
            scrubbed: 0,
            cuts: Vec::new(),
        };
        let first_untyped = u64::from(slots::FREE) + cores;
        let boot = |object, bits, value, period, dirty| Cap {
            object,
            bits,
            parent: None,
            value,
            period,
            in_use: false,
            dirty,
        };
        for (slot, object) in [
            (slots::CNODE, ObjectType::CNode),
            (slots::VM, ObjectType::Vm),
            (slots::VCPU, ObjectType::Vcpu),
            (slots::MARKET, ObjectType::Machine),
            (slots::CONSOLE, ObjectType::IoPort),
            (slots::IRQ, ObjectType::Irq),
        ] {
            model.caps.insert((0, slot), boot(object, 0, 0, 0, false));
        }
        for core in 0..cores {
            // Core 0 has the market's own reservation.
            let sellable = HZ / 1000 * if core == 0 { 85 } else { 95 } / 10;
            let cap = boot(ObjectType::CpuTime, 0, sellable, HZ / 100, false);
            model.caps.insert((0, slots::FREE + core as u16), cap);
        }
        let info = |offset: usize| ROOT_BOOT_INFO + offset as u64;
        for (at, bits) in untypeds.iter().enumerate() {
            let slot = first_untyped as u16 + at as u16;
            // Memory found at boot holds anything.
            model.caps.insert((0, slot), boot(ObjectType::Untyped, *bits, 1 << bits, 0, true));
            let word = info(boot_info::UNTYPED_BITS + (at & !7));
            *model.words.entry(word).or_default() |= u64::from(*bits) << (8 * (at & 7));
        }
        for (offset, value) in [
            (boot_info::MAGIC, BOOT_INFO_MAGIC),
            (boot_info::ABI_VERSION, u64::from(cap_spec::abi::VERSION)),
            (boot_info::TSC_HZ, HZ),
            (boot_info::CORES, cores),
            (boot_info::FIRST_CPU_TIME, u64::from(slots::FREE)),
            (boot_info::FIRST_UNTYPED, first_untyped),
            (boot_info::UNTYPEDS, untypeds.len() as u64),
            (boot_info::FIRST_FREE, first_untyped + untypeds.len() as u64),
            (boot_info::SLOTS, 4096),
        ] {
            model.words.insert(info(offset), value);
        }
        model
    }

    fn place(&self, raw: u64) -> Place {
        let (node, index) = ((raw >> 16) as u16, raw as u16);
        if node == 0 {
            return (0, index);
        }
        let cnode = self.caps.get(&(0, node)).filter(|cap| cap.object == ObjectType::CNode);
        let cnode = cnode.unwrap_or_else(|| panic!("slot {node} holds no CNode"));
        (cnode.value as u32, index)
    }

    fn cnode(&self, raw: u64) -> u32 {
        let cap = &self.caps[&self.place(raw)];
        assert_eq!(cap.object, ObjectType::CNode);
        cap.value as u32
    }

    fn children(&self, place: Place) -> Vec<Place> {
        self.caps.iter().filter(|(_, cap)| cap.parent == Some(place)).map(|(place, _)| *place).collect()
    }

    /// Removes a capability with its descendants.
    fn remove(&mut self, place: Place) {
        for child in self.children(place) {
            self.remove(child);
        }
        if let Some(cap) = self.caps.remove(&place) {
            if cap.object == ObjectType::CNode {
                let inside: Vec<Place> =
                    self.caps.keys().filter(|(node, _)| *node == cap.value as u32).copied().collect();
                inside.into_iter().for_each(|place| self.remove(place));
            }
            self.flight.retain(|_, lease| *lease != place);
            // A lease that goes is a reset of the function, unless that has virtual ones.
            if cap.object == ObjectType::PciFunction
                && cap.period == LEASE
                && let Some(function) = cap.parent.and_then(|parent| self.caps.get_mut(&parent))
                && function.period == 0
            {
                function.value = self.now + RESET_TICKS;
            }
            // A child of the same extent leaves its watermark to its parent.
            if let Some(parent) = cap.parent.and_then(|parent| self.caps.get_mut(&parent))
                && parent.object == ObjectType::Untyped
                && (cap.object, cap.bits) == (ObjectType::Untyped, parent.bits)
            {
                parent.value = cap.value;
            }
        }
    }

    fn move_cap(&mut self, from: Place, to: Place) {
        let cap = self.caps.remove(&from).expect("nothing to move");
        assert!(!self.caps.contains_key(&to), "the slot is occupied");
        for child in self.caps.values_mut().filter(|child| child.parent == Some(from)) {
            child.parent = Some(to);
        }
        self.caps.insert(to, cap);
    }

    fn insert(&mut self, to: Place, cap: Cap) -> Result<(), Fault> {
        if self.caps.contains_key(&to) {
            return Err(Fault::new(Error::SlotOccupied, 1));
        }
        self.caps.insert(to, cap);
        Ok(())
    }

    fn retype(&mut self, place: Place, arguments: [u64; 5]) -> Result<(), Fault> {
        let [object, bits, cnode, index, count] = arguments;
        let object = ObjectType::from_number(object).unwrap();
        let size = 1u64 << object.object_bits(bits).expect("a size that exists");
        let node = self.cnode(cnode);
        let untyped = self.caps[&place].clone();
        if let Some(left) = &mut self.leases_left
            && (object, bits) == (ObjectType::Untyped, u64::from(untyped.bits))
        {
            *left = left.checked_sub(1).ok_or(Fault::new(Error::NotEnoughMemory, 0))?;
        }
        assert!(!untyped.dirty, "retyped without a scrub");
        assert_eq!(untyped.object, ObjectType::Untyped);
        let mut mark = untyped.value.next_multiple_of(size);
        if mark + size * count > 1 << untyped.bits {
            return Err(Fault::new(Error::NotEnoughMemory, 0));
        }
        for at in 0..count {
            let value = if object == ObjectType::CNode {
                self.next_cnode += 1;
                u64::from(self.next_cnode)
            } else {
                0
            };
            let cap =
                Cap { object, bits: bits as u8, parent: Some(place), value, period: 0, in_use: false, dirty: false };
            self.insert((node, (index + at) as u16), cap)?;
            mark += size;
        }
        self.caps.get_mut(&place).unwrap().value = mark;
        Ok(())
    }

    /// What of a core's time is promised, in ticks per 10 ms, without one of the reservations.
    fn promised(&self, parent: Place, without: Option<Place>) -> u64 {
        let children = self.children(parent).into_iter().filter(|child| Some(*child) != without);
        children.map(|child| share(self.caps[&child].value, self.caps[&child].period)).sum()
    }

    fn derive(&mut self, source: Place, to: Place) -> Result<(), Fault> {
        let mut cap = self.caps.get(&source).cloned().ok_or(Fault::new(Error::InvalidCapability, 2))?;
        cap.parent = Some(source);
        cap.in_use = false;
        self.insert(to, cap)
    }

    /// The tenant accepts the lease that is in flight to it: true if there was one.
    pub fn accept(&mut self, channel: Slot) -> bool {
        let channel = self.place(channel.raw());
        let Some(lease) = self.flight.remove(&channel) else { return false };
        self.accepted += 1;
        self.move_cap(lease, (TENANTS, self.accepted as u16));
        true
    }

    /// A tenant writes to all of a lease that it has accepted, and makes frames of it.
    pub fn use_accepted(&mut self) {
        for ((node, _), cap) in &mut self.caps {
            if *node == TENANTS {
                cap.value = 1 << cap.bits;
            }
        }
    }

    /// A capability is gone that nobody deleted.
    pub fn forget(&mut self, slot: Slot) {
        let place = self.place(slot.raw());
        self.remove(place);
    }

    /// Signals that the market has sent through a channel.
    pub fn signals(&self, channel: Slot) -> u64 {
        self.signals.get(&self.place(channel.raw())).copied().unwrap_or(0)
    }

    /// The tenant deletes a lease that it has accepted; `number` counts from 1.
    pub fn delete_accepted(&mut self, number: u16) {
        self.remove((TENANTS, number));
    }

    /// The kernel stops the first Vcpu of an application.
    pub fn stop(&mut self, app: usize, reason: u64) {
        let page = TENANT_WINDOW + app as u64 * TENANT_STRIDE + HANDLER_PAGE;
        self.words.insert(page + handler_page::REASON as u64, reason);
        self.words.insert(page + handler_page::COUNT as u64, 1);
    }

    /// Sets a word of memory that is mapped at an address of the root VM.
    pub fn set_word(&mut self, gpa: u64, word: u64) {
        self.words.insert(gpa, word);
    }

    /// Budget and period of a reservation.
    pub fn reservation(&self, slot: Slot) -> (u64, u64) {
        let cap = &self.caps[&self.place(slot.raw())];
        (cap.value, cap.period)
    }

    /// All capabilities but those that exist from the boot on.
    pub fn derived(&self) -> usize {
        self.caps.values().filter(|cap| cap.parent.is_some()).count()
    }
}

/// A reservation's share of its core, in ticks per 10 ms.
fn share(budget: u64, period: u64) -> u64 {
    (budget + SWITCHES) * (HZ / 100) / period.max(1)
}

impl Machine for Model {
    fn invoke(&mut self, label: Label, capability: Slot, arguments: [u64; 5]) -> Result<[u64; 2], Fault> {
        self.invocations += 1;
        self.now += 300;
        let place = self.place(capability.raw());
        let invoked = self.caps.get(&place).cloned();
        let invoked = invoked.ok_or(Fault::new(Error::InvalidCapability, 0))?;
        assert!(label.object() == ObjectType::Null || label.object() == invoked.object, "{label:?}");
        let [first, second, ..] = arguments;
        match label {
            Label::UntypedRetype => self.retype(place, arguments)?,
            Label::CNodeRevoke | Label::CNodeDelete | Label::CNodeIdentify => {
                let target = (invoked.value as u32, first as u16);
                let held = self.caps.get(&target).cloned().ok_or(Fault::new(Error::SlotEmpty, 1))?;
                match label {
                    Label::CNodeDelete => {
                        if held.object == ObjectType::Untyped && !self.children(target).is_empty() {
                            self.cuts.push(self.scrubbed);
                        }
                        self.remove(target);
                    }
                    Label::CNodeRevoke if self.keeps_children => {}
                    Label::CNodeRevoke => {
                        for child in self.children(target) {
                            self.remove(child);
                        }
                        if let Some(cap) = self.caps.get_mut(&target).filter(|cap| cap.object == ObjectType::Untyped) {
                            self.scrubbed += cap.value >> 12;
                            cap.value = if self.keeps_back { cap.value.min(1 << 12) } else { 0 };
                            cap.dirty = false;
                            return Ok([cap.value, 0]);
                        }
                    }
                    _ => {
                        let has_children = !self.children(target).is_empty();
                        let word = held.object as u64
                            | u64::from(held.bits) << 8
                            | u64::from(has_children) << 24
                            | u64::from(held.in_use) << 25;
                        let detail = match held.object {
                            ObjectType::Untyped => (1 << held.bits) - held.value,
                            _ => held.value,
                        };
                        return Ok([word, detail]);
                    }
                }
            }
            Label::CNodeCopy | Label::CNodeMint => {
                let source = self.place(second);
                self.derive(source, (invoked.value as u32, first as u16))?;
            }
            Label::CNodeMove => {
                let source = self.place(second);
                // A CNode may be moved into itself.
                self.move_cap(source, (invoked.value as u32, first as u16));
            }
            Label::VmGetPage | Label::MachineGetPage => {
                let to = (self.cnode(first), second as u16);
                self.derive(place, to)?;
                self.caps.get_mut(&to).unwrap().object = ObjectType::Frame;
            }
            Label::VcpuGetPage => {
                let to = (self.cnode(second), arguments[2] as u16);
                self.derive(place, to)?;
                self.caps.get_mut(&to).unwrap().object = ObjectType::Frame;
            }
            Label::VcpuBindTime => {
                let time = self.place(first);
                self.caps.get_mut(&time).unwrap().in_use = true;
            }
            Label::CpuTimeSplit => {
                let (room, to) =
                    (share(invoked.value, invoked.period), (self.cnode(arguments[2]), arguments[3] as u16));
                if self.promised(place, None) + share(first, second) > room {
                    return Err(Fault::new(Error::NotAdmitted, 0));
                }
                let cap = Cap {
                    object: ObjectType::CpuTime,
                    bits: 0,
                    parent: Some(place),
                    value: first,
                    period: second,
                    in_use: false,
                    dirty: false,
                };
                self.insert(to, cap)?;
            }
            Label::CpuTimeResize => {
                let parent = invoked.parent.unwrap();
                let room = share(self.caps[&parent].value, self.caps[&parent].period);
                if self.promised(parent, Some(place)) + share(first, second) > room {
                    return Err(Fault::new(Error::NotAdmitted, 0));
                }
                let cap = self.caps.get_mut(&place).unwrap();
                (cap.value, cap.period) = (first, second);
            }
            Label::ChannelGrant => {
                if self.flight.contains_key(&place) {
                    return Err(Fault::new(Error::ChannelFull, 0));
                }
                let (from, to) = (self.place(first), (FLIGHT, self.invocations as u16));
                self.move_cap(from, to);
                self.flight.insert(place, to);
            }
            Label::ChannelSignal => *self.signals.entry(place).or_default() += 1,
            Label::PciFunctionGetInfo if self.now < invoked.value => return Err(Fault::new(Error::Busy, 0)),
            Label::PciFunctionGetInfo => {
                let is_nvme = place == (0, NVME_PHYSICAL) || invoked.parent == Some((0, NVME_PHYSICAL));
                let identity = if is_nvme { NVME } else { INTEL_82576 };
                return Ok([identity, invoked.period << 16 | u64::from(place.1) << 32]);
            }
            Label::PciFunctionGetBar if self.now < invoked.value => return Err(Fault::new(Error::Busy, 0)),
            Label::PciFunctionGetBar => {
                for at in 0..arguments[4] {
                    let to = (self.cnode(arguments[2]), (arguments[3] + at) as u16);
                    self.derive(place, to)?;
                    self.caps.get_mut(&to).unwrap().object = ObjectType::Frame;
                }
            }
            Label::PciFunctionReset => self.caps.get_mut(&place).unwrap().value = self.now + RESET_TICKS,
            Label::MachineGetFault => return Ok(self.faults.pop_front().map_or([0; 2], FaultRecord::to_words)),
            Label::PciFunctionEnableVfs => {
                for at in 0..first {
                    let to = (self.cnode(second), (arguments[2] + at) as u16);
                    self.insert(to, self.function(Some(place), 0))?;
                }
            }
            Label::PciFunctionLease => {
                if self.children(place).iter().any(|child| self.caps[child].period == LEASE) {
                    return Err(Fault::new(Error::InUse, 0));
                }
                let to = (self.cnode(first), second as u16);
                self.insert(to, Cap { value: invoked.value, ..self.function(Some(place), LEASE) })?;
            }
            Label::IrqSplit => {
                if self.children(place).iter().any(|child| self.caps[child].value == first) {
                    return Err(Fault::new(Error::InUse, 0));
                }
                let to = (self.cnode(arguments[2]), arguments[3] as u16);
                self.derive(place, to)?;
                self.caps.get_mut(&to).unwrap().value = first;
            }
            Label::IoPortSplit => {
                let to = (self.cnode(arguments[2]), arguments[3] as u16);
                self.derive(place, to)?;
            }
            Label::VcpuLaunch => {
                // The kernel finds base and root CNode in the VM's own CSpace; the model moves the Vcpu out of sight.
                let to = (TENANTS - 2, self.invocations as u16);
                self.move_cap(place, to);
            }
            Label::FrameMap
            | Label::FrameMapIo
            | Label::PageTableMapIo
            | Label::PciFunctionAttach
            | Label::PciFunctionBindMsix
            | Label::FrameUnmap
            | Label::PageTableMap
            | Label::VmSetCSpace
            | Label::VcpuAttach
            | Label::VcpuSetRegister
            | Label::VcpuSetHandler
            | Label::MachineSetHandler
            | Label::ChannelBind
            | Label::IoPortIn
            | Label::IoPortOut
            | Label::IoPortOutBytes
            | Label::MachineReset => {
                let bytes_ready = 0x20;
                return Ok([bytes_ready, 0]);
            }
            other => panic!("the market does not invoke {other:?}"),
        }
        Ok([0, 0])
    }

    fn now(&self) -> u64 {
        self.now
    }

    fn add_heap(&mut self, _gpa: u64, _bytes: u64) {}

    fn write(&mut self, _gpa: u64, bytes: &[u8]) {
        self.now += bytes.len() as u64 / 8;
    }

    fn write_word(&mut self, gpa: u64, word: u64) {
        self.words.insert(gpa, word);
    }

    fn read_word(&self, gpa: u64) -> u64 {
        self.words.get(&gpa).copied().unwrap_or(0)
    }

    fn open_rings(&mut self, peer: Peer, _from_peer: u64, _to_peer: u64) {
        self.open.insert(peer, ());
    }

    fn close_rings(&mut self, peer: Peer) {
        self.open.remove(&peer);
    }

    fn send(&mut self, peer: Peer, message: &[u8]) -> Result<Attention, Full> {
        let ring = self.sent.entry(peer).or_default();
        if !self.open.contains_key(&peer) || self.deaf == Some(peer) || peer != Peer::Console && ring.len() >= RING {
            return Err(Full);
        }
        ring.push_back(message.to_vec());
        Ok(Attention::Asleep)
    }

    fn receive(&mut self, peer: Peer) -> Received {
        if !self.open.contains_key(&peer) {
            return Received::Nothing;
        }
        let message = self.incoming.entry(peer).or_default().pop_front();
        message.map_or(Received::Nothing, |bytes| Received::Message(bytes, Attention::Awake))
    }
}
