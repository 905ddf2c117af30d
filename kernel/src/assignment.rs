//! Functions that are handed out: what joins PCI Express ([`crate::pci`]) and the IOMMU ([`crate::iommu`]), free of hardware.
//!
//! Guarantees: without IOMMU units that are on, nothing is handed out. A function that is not attached is no bus master and
//! blocked; its messages raise what they are bound to, from this function only, and nothing else. What an operation of the
//! units was for, and could not be completed, is cut off for good: every bridge is then no bus master any more, which its
//! answer to a read shows, so that no request of any function reaches memory or an interrupt controller.
//!
//! Which functions: physical ones that are endpoints with a function-level reset, alone in their device, below ports of the
//! root complex or of a switch that keep what is below them apart (ACS); without memory that firmware
//! reserved for them. And their virtual functions.

#[cfg(test)]
mod tests;

use crate::function::{Bar, FunctionFacts, MAX_FUNCTIONS};
use crate::iommu::{
    self, Bus, Completed, Delivery, DomainNumber, FIRST_MESSAGE, Failure, FaultRecord, Iommu, Requester, Signal,
};
use crate::kernel::{MAX_ROUTES, Message};
use crate::pci::express::DeviceType;
use crate::pci::function::{Above, Kind};
use crate::pci::msix::{self, Messages, TableAccess};
use crate::pci::{Bdf, ConfigAccess, Function, Functions, control, filter, vfs};
use crate::types::{FunctionId, Hpa, Ticks, VmId};
use cap_spec::abi::PAGE_BITS;
use heapless::Vec;

/// Microseconds that a function has to end the requests that it made, before it is blocked with them under way.
const DRAIN_US: u64 = 100;
/// Microseconds before a function that does not answer after its reset is asked again.
const AGAIN_US: u32 = 10_000;
/// ACS Control of a port: source validation, so that no function speaks for another, and everything is redirected upwards.
const KEPT_APART: u16 = 0b1_1101;

/// One function of the table of those that are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handed {
    /// A physical one, with as many virtual ones, from this number on.
    Physical { at: Bdf, vfs: u16, first_vf: u16 },
    /// A virtual one of this physical one.
    Virtual { physical: Bdf, index: u16 },
}

/// What the functions are reached through.
pub struct Access<C, T, B> {
    /// Configuration space.
    pub config: C,
    /// MSI-X tables.
    pub tables: T,
    /// The IOMMU.
    pub iommu: Iommu<B>,
}

/// The functions, and who may have them.
pub struct Assignment<C, T, B> {
    /// All that were found.
    pub functions: Functions,
    access: Option<Access<C, T, B>>,
    handed: Vec<Handed, MAX_FUNCTIONS>,
    has_failed: bool,
    ticks_per_us: u64,
}

impl<C, T, B> Assignment<C, T, B> {
    /// Before any function was found.
    pub const fn new() -> Self {
        Assignment { functions: Functions::new(), access: None, handed: Vec::new(), has_failed: false, ticks_per_us: 1 }
    }
}

impl<C, T, B> Default for Assignment<C, T, B> {
    fn default() -> Self {
        Assignment::new()
    }
}

impl<C: ConfigAccess, T: TableAccess, B: Bus> Assignment<C, T, B> {
    /// The IOMMU is on: chooses the functions that may be handed out. `is_confined`: a unit stands in front of it, and firmware
    /// uses no memory by its DMA.
    /// `mapped_end`: the kernel reaches MSI-X tables below this address.
    pub fn start(
        &mut self,
        access: Access<C, T, B>,
        is_confined: impl Fn(Bdf) -> bool,
        mapped_end: u64,
        ticks_per_us: u64,
    ) {
        let limits = access.iommu.limits();
        self.ticks_per_us = ticks_per_us;
        let has_numbers = usize::from(limits.domains) > MAX_FUNCTIONS;
        // Units that remember what was not mapped, or do not know large pages, would need more of whoever maps; those that have
        // no height of tables in common reach no domain.
        let is_plain =
            limits.leaf_level >= 3 && !limits.remembers_absence && (limits.three_levels || limits.four_levels);
        if has_numbers && is_plain && self.functions.left_out() == 0 {
            for function in self.functions.iter() {
                let reaches = access.iommu.reaches(Requester::new(function.at.id()));
                let is_mapped = function.bars.iter().flatten().all(|bar| bar.region.end <= mapped_end);
                if !reaches || !is_mapped || !is_confined(function.at) || !self.is_apart(&access.config, function) {
                    continue;
                }
                let first_vf = self.handed.len() as u16 + 1;
                let room = (MAX_FUNCTIONS - usize::from(first_vf).min(MAX_FUNCTIONS)) as u16;
                let most = function.sriov.as_ref().map_or(0, |sriov| sriov.max.min(room));
                // As many as there are addresses for.
                let vfs = (1..=most).rev().find(|&count| vfs::plan(&self.functions, function.at, count).is_ok());
                let vfs = vfs.unwrap_or(0);
                if self.handed.push(Handed::Physical { at: function.at, vfs, first_vf }).is_err() {
                    break;
                }
                for index in 0..vfs {
                    let _ = self.handed.push(Handed::Virtual { physical: function.at, index });
                }
            }
        }
        self.access = Some(access);
    }

    /// True if nothing but the IOMMU stands between a function and others, and it can be reset for the next holder.
    fn is_apart(&self, config: &C, function: &Function) -> bool {
        let is_endpoint = function.kind == Kind::Endpoint
            && function.express.is_some_and(|express| {
                express.flr && matches!(express.device_type, DeviceType::Endpoint | DeviceType::LegacyEndpoint)
            });
        let is_alone = self.functions.iter().filter(|other| other.at.bus() == function.at.bus()).count() == 1;
        let Above::Bridge(_) = function.above else { return false };
        let Some(path) = self.functions.path(function) else { return false };
        let are_ports = path.iter().all(|&bridge| {
            let Some(bridge) = self.functions.get(bridge) else { return false };
            match bridge.express.map(|express| express.device_type) {
                Some(DeviceType::UpstreamPort) => true,
                Some(DeviceType::RootPort | DeviceType::DownstreamPort) => {
                    control::access_control(config, bridge) & KEPT_APART == KEPT_APART
                }
                _ => false,
            }
        });
        is_endpoint && is_alone && are_ports
    }

    /// The physical functions that are handed out.
    pub fn physical(&self) -> impl Iterator<Item = FunctionId> + '_ {
        let numbered = (0..).zip(&self.handed);
        numbered.filter(|(_, handed)| matches!(handed, Handed::Physical { .. })).map(|(id, _)| FunctionId::new(id))
    }

    /// Where a function is, for those who tell of it.
    pub fn place(&self, function: FunctionId) -> Option<Bdf> {
        match *self.handed.get(usize::from(function.get()))? {
            Handed::Physical { at, .. } => Some(at),
            Handed::Virtual { physical, index } => {
                let sriov = self.functions.get(physical)?.sriov.as_ref()?;
                sriov.enabled.filter(|enabled| index < enabled.count)?;
                sriov.routing_id(physical, index)
            }
        }
    }

    /// The record of a function; none for a virtual one that is not enabled or has not been revived.
    fn record(&self, function: FunctionId) -> Option<&Function> {
        self.functions.get(self.place(function)?)
    }

    /// The units, for the interrupts of the kernel itself.
    pub fn iommu(&mut self) -> Option<&mut Iommu<B>> {
        self.access.as_mut().map(|access| &mut access.iommu)
    }

    // ---- what holders ask for ------------------------------------------------------------------------------------

    /// See [`crate::machine::Devices::function`].
    pub fn facts(&self, function: FunctionId) -> FunctionFacts {
        let Some(handed) = self.handed.get(usize::from(function.get())) else { return FunctionFacts::default() };
        let (vfs, first_vf) = match *handed {
            Handed::Physical { vfs, first_vf, .. } => (vfs, first_vf),
            Handed::Virtual { .. } => (0, 0),
        };
        let mut facts = FunctionFacts {
            vfs,
            first_vf: FunctionId::new(first_vf),
            quarantined: self.has_failed,
            ..FunctionFacts::default()
        };
        if let Some(record) = self.record(function) {
            let usable = record.msix.filter(|msix| msix.entry(&record.bars, 0).is_some());
            facts.messages = usable.map_or(0, |msix| msix.entries);
            facts.requester = record.at.id();
            facts.identity =
                u64::from(record.vendor) | u64::from(record.device) << 16 | u64::from(record.class & 0xff_ffff) << 32;
        }
        facts
    }

    /// See [`crate::machine::Devices::bar`].
    pub fn bar(&self, function: FunctionId, bar: u8) -> Bar {
        let memory = self.record(function).and_then(|record| record.memory().find(|memory| memory.bar == bar));
        let Some(memory) = memory else { return Bar::default() };
        let withheld = memory.withheld.map(|withheld| {
            let start = withheld.start.clamp(memory.region.start, memory.region.end);
            let end = withheld.end.clamp(start, memory.region.end);
            let page = start.wrapping_sub(memory.region.start) >> PAGE_BITS;
            (page as u32, (end.wrapping_sub(start) >> PAGE_BITS) as u32)
        });
        let pages = (memory.region.bytes() >> PAGE_BITS).min(u32::MAX.into()) as u32;
        Bar { base: Hpa::new(memory.region.start), pages, withheld }
    }

    /// See [`crate::machine::Devices::filter_config`].
    pub fn filter_config(&self, function: FunctionId, offset: u16, value: u32) -> Option<u32> {
        let record = self.record(function)?;
        filter::write(record, offset, self.access.as_ref()?.config.read(record.at, offset), value)
    }

    /// See [`crate::machine::Devices::read_config`].
    pub fn read_config(&mut self, function: FunctionId, offset: u16) -> u32 {
        let (Some(record), Some(access)) = (self.record(function), &self.access) else { return u32::MAX };
        filter::read(record, offset, access.config.read(record.at, offset))
    }

    /// See [`crate::machine::Devices::write_config`].
    pub fn write_config(&mut self, function: FunctionId, offset: u16, value: u32) {
        if let (Some(at), Some(access)) = (self.place(function), &mut self.access) {
            access.config.write(at, offset, value);
        }
    }

    /// See [`crate::machine::Devices::publish_table_entry`].
    pub fn publish(&mut self, entry: Hpa) {
        if let Some(iommu) = self.iommu() {
            iommu.publish(entry, 8);
        }
    }

    /// See [`crate::machine::Devices::publish_table`].
    pub fn publish_table(&mut self, table: Hpa) {
        if let Some(iommu) = self.iommu() {
            iommu.publish(table, 1 << PAGE_BITS);
        }
    }

    /// See [`crate::machine::Devices::attach_function`].
    pub fn attach(&mut self, function: FunctionId, domain: VmId) {
        let (Some(at), Some(access)) = (self.place(function), &mut self.access) else { return };
        let (root, levels) = if access.iommu.limits().three_levels { (domain.root(), 3) } else { (domain.top(), 4) };
        let done = access.iommu.attach(Requester::new(at.id()), number_of(function), root, levels);
        if !self.has_completed(done) {
            return;
        }
        let Some(access) = &mut self.access else { return };
        let is_open = self
            .functions
            .get(at)
            .is_some_and(|record| control::open_path(&self.functions, &mut access.config, record));
        // A function that does not become a bus master does no harm; that is its holder's concern.
        let _ = is_open && control::bus_master(&mut access.config, at, true);
    }

    /// See [`crate::machine::Devices::detach_function`].
    pub fn detach(&mut self, function: FunctionId) {
        let (Some(at), Some(access)) = (self.place(function), &mut self.access) else { return };
        let is_quiet = control::bus_master(&mut access.config, at, false);
        if let Some(record) = self.functions.get(at).filter(|_| is_quiet) {
            let from = access.iommu.now().get();
            while control::is_pending(&access.config, record)
                && access.iommu.now().get().wrapping_sub(from) < DRAIN_US.wrapping_mul(self.ticks_per_us)
            {
                core::hint::spin_loop();
            }
        }
        let done = access.iommu.detach(Requester::new(at.id()));
        self.has_completed(done);
    }

    /// See [`crate::machine::Devices::flush_function`].
    pub fn flush(&mut self, function: FunctionId) {
        let Some(iommu) = self.iommu() else { return };
        let done = iommu.flush_domain(number_of(function));
        self.has_completed(done);
    }

    /// See [`crate::machine::Devices::iommu_has_failed`].
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// See [`crate::machine::Devices::take_fault`].
    pub fn take_fault(&mut self) -> Option<(Option<FunctionId>, FaultRecord)> {
        let record = self.iommu()?.take_fault()?;
        Some((self.function_at(record.requester), record))
    }

    /// The function with a requester id, if it is handed out.
    fn function_at(&self, requester: u16) -> Option<FunctionId> {
        self.handed.iter().zip(0..).find_map(|(handed, number)| {
            let &Handed::Physical { at, vfs, first_vf } = handed else { return None };
            if at.id() == requester {
                return Some(FunctionId::new(number));
            }
            let sriov = self.functions.get(at).filter(|_| vfs != 0)?.sriov.as_ref()?;
            let enabled = sriov.enabled.as_ref()?.count.min(vfs);
            let index =
                (0..enabled).find(|&index| sriov.routing_id(at, index).is_some_and(|vf| vf.id() == requester))?;
            Some(FunctionId::new(first_vf.wrapping_add(index)))
        })
    }

    /// See [`crate::machine::Devices::most_faults`].
    pub fn most_faults(&self) -> usize {
        self.access.as_ref().map_or(0, |access| access.iommu.most_faults())
    }

    /// See [`crate::machine::Devices::faults_lost`].
    pub fn faults_lost(&self) -> u32 {
        self.access.as_ref().map_or(0, |access| access.iommu.overflows())
    }

    /// See [`crate::machine::Devices::hold_fault_events`].
    pub fn hold_fault_events(&mut self, held: bool) {
        if let Some(iommu) = self.iommu() {
            iommu.hold_fault_events(held);
        }
    }

    /// True if units have carried something out. If not, every function is cut off, for good.
    fn has_completed(&mut self, done: Result<Completed, Failure>) -> bool {
        let failed = done.is_err();
        if failed && !core::mem::replace(&mut self.has_failed, true) {
            let Some(access) = &mut self.access else { return false };
            for function in self.functions.iter().filter(|function| function.bridge().is_some()) {
                // One that does not let itself be told so is no bridge that keeps to the specification; its functions are
                // told themselves, below.
                let _ = control::bus_master(&mut access.config, function.at, false);
            }
            for function in self.functions.iter().filter(|function| function.bridge().is_none()) {
                let _ = control::bus_master(&mut access.config, function.at, false);
            }
        }
        !failed
    }

    /// See [`crate::machine::Devices::reset_function`].
    pub fn reset(&mut self, function: FunctionId) -> Ticks {
        let (Some(at), Some(access)) = (self.place(function), &mut self.access) else { return Ticks::new(0) };
        let takes = self.functions.get(at).and_then(|record| control::reset(&mut access.config, record));
        self.ticks(takes.unwrap_or(0))
    }

    /// See [`crate::machine::Devices::revive_function`].
    pub fn revive(&mut self, function: FunctionId) -> Option<Ticks> {
        let (Some(at), Some(access)) = (self.place(function), &mut self.access) else { return None };
        let is_back = match (self.functions.get(at), self.handed.get(usize::from(function.get()))) {
            (Some(record), _) => control::restore(&mut access.config, record),
            (None, Some(&Handed::Virtual { physical, index })) => {
                vfs::start(&mut self.functions, &mut access.config, physical, index).is_some()
            }
            _ => true,
        };
        if is_back { None } else { Some(self.ticks(AGAIN_US)) }
    }

    /// See [`crate::machine::Devices::enable_vfs`].
    pub fn enable_vfs(&mut self, function: FunctionId, count: u16) -> Ticks {
        let (Some(at), Some(access)) = (self.place(function), &mut self.access) else { return Ticks::new(0) };
        let plan = vfs::plan(&self.functions, at, count).ok();
        let takes = plan.and_then(|plan| vfs::enable(&mut self.functions, &mut access.config, &plan));
        self.ticks(takes.unwrap_or(0))
    }

    /// See [`crate::machine::Devices::disable_vfs`].
    pub fn disable_vfs(&mut self, function: FunctionId) -> Ticks {
        let (Some(at), Some(access)) = (self.place(function), &mut self.access) else { return Ticks::new(0) };
        let takes = vfs::disable(&mut self.functions, &mut access.config, at);
        self.ticks(takes.unwrap_or(0))
    }

    fn ticks(&self, us: u32) -> Ticks {
        Ticks::new(u64::from(us).wrapping_mul(self.ticks_per_us))
    }

    // ---- messages ------------------------------------------------------------------------------------------------

    /// Where the entry of a message's table is.
    fn entry(&self, message: Message) -> Option<Hpa> {
        let record = self.record(message.function)?;
        record.msix.as_ref()?.entry(&record.bars, message.entry)
    }

    /// Binds a message to a route, which raises nothing until [`Assignment::deliver`] says what. `is_first`: no other of the
    /// function is bound; then those entries of its table that nobody bound are masked, and it may send.
    pub fn bind(&mut self, route: u16, message: Message, is_first: bool) {
        if !self.block(route, message) {
            return;
        }
        let Some(record) = self.record(message.function) else { return };
        let (at, Some(msix), bars) = (record.at, record.msix, record.bars) else { return };
        let Some(access) = &mut self.access else { return };
        if is_first {
            let _ = msix.try_set(&mut access.config, at, Messages::Masked);
            for number in 0..msix.entries {
                if let Some(entry) = msix.entry(&bars, number) {
                    msix::write_entry(&mut access.tables, entry, None);
                }
            }
            let _ = msix.try_set(&mut access.config, at, Messages::Unmasked);
        }
        if let Some(entry) = msix.entry(&bars, message.entry) {
            let iommu::Message { address, data } = iommu::message(entry_of(route));
            msix::write_entry(&mut access.tables, entry, Some(msix::Message { address, data }));
        }
    }

    /// Says what a bound message raises from now on: a vector of the core with this id, or an NMI. It is the unit's entry that
    /// changes, and not the message: a function can write any message by DMA, also one that it was told before, and what the
    /// entry says holds for all of them. False if the unit has failed: then nothing is raised.
    pub fn deliver(&mut self, route: u16, message: Message, apic_id: u32, signal: Signal) -> bool {
        let Some(source) = self.place(message.function).map(|at| Requester::new(at.id())) else { return false };
        if self.has_failed {
            return false;
        }
        let Some(iommu) = self.iommu() else { return false };
        let done = iommu.set_interrupt(entry_of(route), Some(Delivery { apic_id, signal, source }));
        self.has_completed(done)
    }

    /// Lets a bound message raise nothing. When this returns none is in flight.
    pub fn block(&mut self, route: u16, message: Message) -> bool {
        self.deliver(route, message, 0, Signal::Nothing)
    }

    /// Masks a message for good: its route raises nothing, whoever names it.
    pub fn unbind(&mut self, route: u16, message: Message) {
        // The answer to the read of the table comes after the messages that were sent before.
        if let (Some(entry), Some(access)) = (self.entry(message), &mut self.access) {
            msix::write_entry(&mut access.tables, entry, None);
        }
        if let Some(iommu) = self.iommu() {
            let done = iommu.set_interrupt(entry_of(route), None);
            self.has_completed(done);
        }
    }

    /// The kernel's own use of an entry of the units. False if they have failed.
    pub fn set_own_interrupt(&mut self, entry: u16, delivery: Option<Delivery>) -> bool {
        match self.iommu() {
            Some(iommu) => {
                let done = iommu.set_interrupt(entry, delivery);
                self.has_completed(done)
            }
            None => false,
        }
    }
}

/// The number by which units tag what they cache for a function: each has its own, so that what is cached for one that is
/// detached can be dropped, whoever shares its domain.
fn number_of(function: FunctionId) -> DomainNumber {
    DomainNumber::new(function.get().wrapping_add(1))
}

/// The entry of the interrupt remapping table of a route.
fn entry_of(route: u16) -> u16 {
    FIRST_MESSAGE.wrapping_add(route % MAX_ROUTES as u16)
}
