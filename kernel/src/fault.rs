//! What the IOMMU has stopped: DMA and interrupt messages of functions, and who is told.
//!
//! Guarantees: a record is kept for the machine, and for the domain that the function was attached to when it was stopped, as
//! the records that there are then are taken before a function gets or loses a domain; nobody else learns of it. Of either
//! [`FAULTS_KEPT`] records are kept until they are taken; more are lost, and counted. Whoever was named is signalled.
//!
//! An event of the IOMMU costs the first core an NMI. At most [`AT_ONCE`] records are taken at a time; when there was one,
//! events are held back, and the core looks again after [`HELD_US`], and each time that it finds one after twice as long, at
//! most [`DOUBLED`] times: so a storm costs it an NMI in that time. When nothing has come meanwhile, events are let through
//! again. A look is nobody's time but the reserve's, unless it was in vain.

use crate::channel::Handled;
use crate::decode::{Invocation, Invoked};
use crate::kernel::{Kernel, News};
use crate::machine::Machine;
use crate::sched::NEVER;
use crate::types::{CoreId, EndId, FunctionId, Ticks, VmId};
use cap_spec::abi::{Error, FAULTS_KEPT, Fault, FaultRecord, IO_ADDRESS_BITS, Label, Rights};

/// The core that events of the IOMMU come to.
const CORE: CoreId = CoreId::new(0);
/// Records that one look takes at most: the lock is held meanwhile, and each takes three accesses to registers.
const AT_ONCE: usize = 2;
/// Microseconds from the first look at which something had been stopped to the next.
const HELD_US: u64 = 1_000;
/// How often that is doubled while something is being stopped: up to 64 ms.
const DOUBLED: u8 = 6;

/// What was stopped, of one domain or of the machine, and who is told.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// The end whose peer is told; that end names this in `handled`.
    pub(crate) handler: EndId,
    /// How many records are kept.
    count: u8,
    /// The records, oldest first, as they are told.
    kept: [[u64; 2]; FAULTS_KEPT],
    /// How many there was no room for.
    lost: u32,
}

impl Faults {
    /// Nothing, and nobody is told.
    pub(crate) const NONE: Faults = Faults { handler: EndId::NONE, count: 0, kept: [[0; 2]; FAULTS_KEPT], lost: 0 };

    /// Keeps a record, if there is room.
    fn push(&mut self, record: FaultRecord) {
        match self.kept.get_mut(self.count as usize) {
            Some(free) => {
                *free = record.to_words();
                self.count = self.count.wrapping_add(1);
            }
            None => self.lost = self.lost.saturating_add(1),
        }
    }

    /// Takes the oldest record: as it is told, zero if there is none.
    fn take(&mut self) -> [u64; 2] {
        let [oldest, ..] = self.kept;
        self.kept.rotate_left(1);
        if let Some(last) = self.kept.last_mut() {
            *last = [0; 2];
        }
        self.count = self.count.saturating_sub(1);
        oldest
    }

    /// The records that are kept, oldest first, and how many were lost, for those who look at the kernel from outside.
    #[cfg(any(test, feature = "host"))]
    pub fn shown(&self) -> (EndId, impl Iterator<Item = FaultRecord>, u32) {
        (self.handler, self.kept.into_iter().filter_map(FaultRecord::from_words), self.lost)
    }
}

impl<M> Kernel<M> {
    /// What all functions were stopped from, for those who look at the kernel from outside.
    #[cfg(any(test, feature = "host"))]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }
}

impl<M: Machine> Kernel<M> {
    /// `IommuDomain.SetHandler`, `Machine.SetHandler`.
    pub(crate) fn decode_fault_handler(&self, call: &Invoked, of: Handled) -> Result<Invocation, Fault> {
        let &[cptr, ..] = call.args;
        if cptr == 0 {
            return Ok(Invocation::SetHandler { of, end: EndId::NONE });
        }
        let (channel, end) = self.end_argument(call, 1, Rights::WRITE)?;
        let handled = self.machine.channel(channel).end(end).handled;
        if handled != Handled::Nothing && handled != of {
            return Err(Fault::new(Error::InUse, 1));
        }
        Ok(Invocation::SetHandler { of, end: EndId::of(channel, end) })
    }

    /// `IommuDomain.SetHandler` and `IommuDomain.GetFault`, by a capability for all of its addresses: those who have a part of
    /// them have no say.
    pub(crate) fn decode_domain(
        &self,
        label: Label,
        call: &Invoked,
        domain: VmId,
        bits: u8,
    ) -> Result<Invocation, Fault> {
        let allowed = if bits == IO_ADDRESS_BITS { Ok(()) } else { Err(Fault::new(Error::Forbidden, 0)) };
        let invocation = match label {
            Label::IommuDomainSetHandler => self.decode_fault_handler(call, Handled::Domain(domain))?,
            _ => Invocation::TakeFault(domain),
        };
        allowed.map(|()| invocation)
    }

    /// The records of a domain, or of the machine (none), to change them.
    fn faults_mut(&mut self, domain: VmId) -> &mut Faults {
        if domain.is_some() { &mut self.machine.vm_mut(domain).faults } else { &mut self.faults }
    }

    /// `GetFault`.
    #[cold]
    pub(crate) fn take_kept_fault(&mut self, domain: VmId) -> [u64; 2] {
        let by_iommu = if domain.is_some() { 0 } else { self.machine.faults_lost() };
        let faults = self.faults_mut(domain);
        let lost = faults.lost.saturating_add(by_iommu);
        let [what, who] = faults.take();
        [what, who | (lost as u64) << 32]
    }

    /// The IOMMU has stopped something, of a function if it was one that is handed out. `by_interrupt`: the NMI that told so is
    /// the reason that the kernel looks.
    #[cold]
    pub fn report_fault(&mut self, function: Option<FunctionId>, record: FaultRecord, by_interrupt: bool) {
        let domain = function.map_or(VmId::NONE, |function| self.function(function).domain);
        if domain.is_some() {
            self.keep_fault(domain, record, by_interrupt);
        }
        self.keep_fault(VmId::NONE, record, by_interrupt);
    }

    fn keep_fault(&mut self, domain: VmId, record: FaultRecord, by_interrupt: bool) {
        let faults = self.faults_mut(domain);
        faults.push(record);
        let end = faults.handler;
        self.tell_handler(end, by_interrupt);
    }

    /// Takes at most so many records from the IOMMU, and tells of them. True if there was one.
    fn take_faults(&mut self, most: usize, by_interrupt: bool) -> bool {
        let mut found = false;
        for _ in 0..most {
            let Some((function, record)) = self.machine.take_fault() else { break };
            self.report_fault(function, record, by_interrupt);
            found = true;
        }
        found
    }

    /// A function is about to get or to lose a domain: takes all records that there are. As many as the units have room for,
    /// so few, mostly one to eight of each; 256 of each at most.
    pub(crate) fn take_all_faults(&mut self) {
        self.take_faults(self.machine.most_faults(), false);
    }

    /// A core has taken an NMI: if it is the one to which events of the IOMMU come, it looks whether it was one, unless they are
    /// held back still. Comes before whoever else may have caused the NMI is charged for what follows, and before the core
    /// decides. Returns the ticks of it that are nobody's.
    #[inline]
    pub fn look_at_faults(&mut self, core: CoreId) -> Ticks {
        let held = self.faults_held_until;
        if core == CORE && (held == NEVER || self.machine.now() >= held) {
            return self.look_at_events();
        }
        Ticks::new(0)
    }

    /// A core decides: if events have been held back for long enough, it looks. Returns what time it is then.
    #[inline]
    pub(crate) fn look_at_held_faults(&mut self, core: CoreId) -> Ticks {
        let now = self.machine.now();
        if now >= self.faults_held_until && core == CORE {
            self.look_at_events();
            return self.machine.now();
        }
        now
    }

    /// Returns the ticks that are nobody's: all of them, unless there was nothing to look for.
    #[cold]
    fn look_at_events(&mut self) -> Ticks {
        let start = self.machine.now().get();
        let held = self.faults_held_until != NEVER;
        if self.take_faults(AT_ONCE, true) {
            let doubled = HELD_US << self.fault_looks.min(DOUBLED);
            self.fault_looks = self.fault_looks.saturating_add(1);
            let held = doubled.saturating_mul(self.tsc_hz).checked_div(1_000_000).unwrap_or(0).max(1);
            let now = self.machine.now();
            let until = Ticks::new(now.get().saturating_add(held));
            self.faults_held_until = until;
            self.machine.hold_fault_events(true);
            let core = self.core_mut(CORE);
            core.schedule.come_back_at(until, now);
            core.news.insert(News::DECIDE);
        } else if held {
            self.fault_looks = 0;
            self.faults_held_until = NEVER;
            self.machine.hold_fault_events(false);
        } else {
            return Ticks::new(0);
        }
        let ticks = Ticks::new(self.machine.now().get().saturating_sub(start));
        self.core_mut(CORE).schedule.exempt(ticks);
        ticks
    }
}
