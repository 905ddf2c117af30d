//! PciFunction: functions of PCI Express devices, physical and virtual.
//!
//! Invariants: a function has one holder, the last of a chain of leases, which are capabilities derived from each other; the
//! table of functions counts them, and the virtual functions that have capabilities. A function is attached to at most one
//! domain, which counts it. Whoever takes a function from its holder detaches it first, by [`Devices::detach_function`](crate::machine::Devices::detach_function),
//! unbinds its messages, and resets it; until that reset is over the function is busy, and nobody waits for it in the kernel.
//!
//! A physical function with virtual ones is not reset when a lease of it goes, as they would go with it: what its holder may
//! do it does to its own device, and whoever holds it next is told so by the device's state.

use crate::cap::{Cap, Mapping};
use crate::decode::Invoked;
use crate::derivation::MAX_SPLITS;
use crate::invoke::Progress;
use crate::kernel::{Kernel, Message};
use crate::machine::Machine;
use crate::slot::Slot;
use crate::types::{FunctionId, Hpa, SlotId, Ticks, VmId};
use crate::untyped::bytes_of;
use cap_spec::abi::{DOMAIN_BITS, Error, Fault, Label, ObjectType, PAGE_BITS, Rights};

/// Functions that the kernel knows, virtual ones that are not enabled included.
pub const MAX_FUNCTIONS: usize = 64;
/// Capabilities that one invocation makes at most.
const MAX_COUNT: u64 = 64;

/// What is fixed about a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FunctionFacts {
    /// Entries of its MSI-X table.
    pub messages: u16,
    /// Virtual functions that it can have: those for which there is room in the table and in the address space.
    pub vfs: u16,
    /// The first of them; the others follow.
    pub first_vf: FunctionId,
    /// Vendor in bits 0 to 15, device in 16 to 31, class code in 32 to 55.
    pub identity: u64,
    /// Its requester id.
    pub requester: u16,
    /// The IOMMU in front of it has failed: it is never a bus master again.
    pub quarantined: bool,
}

impl FunctionFacts {
    /// What GetInfo says second.
    fn counts(&self) -> u64 {
        self.messages as u64 | (self.vfs as u64) << 16 | (self.requester as u64) << 32
    }
}

/// A BAR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bar {
    /// First byte.
    pub base: Hpa,
    /// How many pages of it may be looked at; 0: there is no such BAR.
    pub pages: u32,
    /// Pages that are never handed out, as they hold MSI-X tables or pending bits: first and number.
    pub withheld: [(u32, u32); 2],
}

impl Bar {
    /// True if one of these pages is never handed out.
    fn withholds(&self, first: u32, count: u32) -> bool {
        let end = first.wrapping_add(count);
        self.withheld.iter().any(|&(start, pages)| start < end && first < start.wrapping_add(pages))
    }
}

/// What the kernel knows of a function.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function {
    /// The domain that it is attached to; none.
    pub(crate) domain: VmId,
    /// How many leases there are.
    pub(crate) leases: u8,
    /// It was reset, or just enabled, and what it needs has not been put back.
    in_reset: bool,
    /// How many of its virtual functions have capabilities.
    pub(crate) vfs: u16,
    /// Until when it is busy.
    pub(crate) ready_at: Ticks,
}

impl Function {
    /// One that nobody has used.
    pub(crate) const NEW: Function =
        Function { domain: VmId::NONE, leases: 0, in_reset: false, vfs: 0, ready_at: Ticks::new(0) };
}

/// A call of a function that has passed every check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionInvocation {
    /// Nothing is to be done; the results are known.
    Answer([u64; 2]),
    /// `PciFunction.Lease`.
    Lease {
        /// The invoked capability.
        from: SlotId,
        /// The empty slot.
        to: SlotId,
        /// The function.
        function: FunctionId,
        /// Of the new capability.
        lease: u8,
    },
    /// `PciFunction.EnableVfs`.
    EnableVfs {
        /// The invoked capability.
        from: SlotId,
        /// The first of the empty slots.
        to: SlotId,
        /// The physical function.
        function: FunctionId,
        /// How many.
        count: u16,
    },
    /// `PciFunction.GetBar`.
    GiveBar {
        /// The invoked capability.
        from: SlotId,
        /// The first of the empty slots.
        to: SlotId,
        /// First byte of the first page.
        base: Hpa,
        /// How many pages.
        count: u32,
    },
    /// `PciFunction.ReadConfig`.
    ReadConfig {
        /// The function.
        function: FunctionId,
        /// Of a double word.
        offset: u16,
    },
    /// `PciFunction.WriteConfig`.
    WriteConfig {
        /// The function.
        function: FunctionId,
        /// Of a double word.
        offset: u16,
        /// What is written.
        value: u32,
    },
    /// A function has to be made usable first, now that its reset is over; then the call is repeated.
    Revive(FunctionId),
    /// `PciFunction.Attach`.
    Attach {
        /// The function.
        function: FunctionId,
        /// The domain.
        domain: VmId,
    },
    /// `PciFunction.Detach`.
    Detach(FunctionId),
    /// `PciFunction.BindMsix`.
    BindMessage {
        /// The route.
        route: u16,
        /// What raises it.
        message: Message,
    },
    /// `PciFunction.UnbindMsix`: the route.
    UnbindMessage(u16),
    /// `PciFunction.Reset`.
    Reset(FunctionId),
}

impl<M> Kernel<M> {
    /// What the kernel knows of a function. Numbers of functions come from capabilities, and are below [`MAX_FUNCTIONS`].
    pub(crate) fn function(&self, function: FunctionId) -> &Function {
        &self.functions[function.get() as usize & (MAX_FUNCTIONS - 1)]
    }

    /// What stands in the table of functions, for those who look at the kernel from outside: domain, leases, virtual
    /// functions, until when it is busy.
    #[cfg(any(test, feature = "host"))]
    pub fn function_state(&self, function: FunctionId) -> (VmId, u8, u16, Ticks) {
        let &Function { domain, leases, vfs, ready_at, .. } = self.function(function);
        (domain, leases, vfs, ready_at)
    }
}

impl<M: Machine> Kernel<M> {
    fn function_mut(&mut self, function: FunctionId) -> &mut Function {
        &mut self.functions[function.get() as usize & (MAX_FUNCTIONS - 1)]
    }

    /// Every label of PciFunction.
    #[cold]
    #[inline(never)]
    pub(crate) fn decode_function(
        &self,
        label: Label,
        call: &Invoked,
        function: FunctionId,
        lease: u8,
    ) -> Result<FunctionInvocation, Fault> {
        let state = *self.function(function);
        if state.in_reset && self.machine.now() >= state.ready_at {
            return Ok(FunctionInvocation::Revive(function));
        }
        let facts = self.machine.function(function);
        match label {
            Label::PciFunctionGetInfo => {
                let what = call.number(1, 0, 6)?;
                self.check_ready(&state)?;
                Ok(FunctionInvocation::Answer(match what {
                    6 => [facts.identity, facts.counts()],
                    bar => [self.machine.bar(function, bar as u8).pages as u64, 0],
                }))
            }
            Label::PciFunctionLease => {
                let &[cnode, index, ..] = call.args;
                let to = self.destination(call.root, cnode, index, 1)?;
                check_holder(&state, lease)?;
                if state.domain.is_some() || self.has_messages(function) || !self.may_be_leased(call.id) {
                    return Err(Fault::new(Error::InUse, 0));
                }
                self.check_deeper(call)?;
                Ok(FunctionInvocation::Lease { from: call.id, to, function, lease: lease.wrapping_add(1) })
            }
            Label::PciFunctionEnableVfs => {
                let count = call.number(1, 1, MAX_COUNT.min(facts.vfs as u64))?;
                let to = self.row_argument(call, 2, 1, count)?;
                check_holder(&state, lease)?;
                if state.vfs != 0 {
                    return Err(Fault::new(Error::InUse, 0));
                }
                self.check_ready(&state)?;
                self.check_deeper(call)?;
                Ok(FunctionInvocation::EnableVfs { from: call.id, to, function, count: count as u16 })
            }
            Label::PciFunctionGetBar => self.decode_get_bar(call, function, lease, &state),
            Label::PciFunctionReadConfig => {
                let offset = offset_argument(call)?;
                check_holder(&state, lease)?;
                self.check_ready(&state)?;
                Ok(FunctionInvocation::ReadConfig { function, offset })
            }
            Label::PciFunctionWriteConfig => {
                let offset = offset_argument(call)?;
                let value = call.number(2, 0, u32::MAX as u64)? as u32;
                check_holder(&state, lease)?;
                self.check_ready(&state)?;
                match self.machine.filter_config(function, offset, value) {
                    Some(value) => Ok(FunctionInvocation::WriteConfig { function, offset, value }),
                    None => Err(Fault::new(Error::Forbidden, 1)),
                }
            }
            Label::PciFunctionAttach => {
                let &[cptr, ..] = call.args;
                let Cap::IommuDomain { id: domain, .. } =
                    self.capability(call.root, cptr, 1, ObjectType::IommuDomain, Rights::CONTROL)?.cap
                else {
                    return Err(Fault::new(Error::WrongType, 1));
                };
                if self.machine.vm(domain).dissolving {
                    return Err(Fault::new(Error::InvalidCapability, 1));
                }
                check_holder(&state, lease)?;
                if state.domain.is_some() {
                    return Err(Fault::new(Error::InUse, 0));
                }
                if facts.quarantined {
                    return Err(Fault::new(Error::Forbidden, 0));
                }
                self.check_ready(&state)?;
                Ok(FunctionInvocation::Attach { function, domain })
            }
            Label::PciFunctionDetach => {
                if state.leases != lease || !state.domain.is_some() {
                    return Err(Fault::new(Error::NotMapped, 0));
                }
                Ok(FunctionInvocation::Detach(function))
            }
            Label::PciFunctionBindMsix => self.decode_bind_msix(call, function, lease, &state, facts.messages),
            Label::PciFunctionUnbindMsix => {
                let entry = entry_argument(call, facts.messages)?;
                match self.route_of(Message { function, entry }) {
                    Some(route) if state.leases == lease => Ok(FunctionInvocation::UnbindMessage(route)),
                    _ => Err(Fault::new(Error::NotMapped, 1)),
                }
            }
            _ => {
                check_holder(&state, lease)?;
                if state.vfs != 0 {
                    return Err(Fault::new(Error::InUse, 0));
                }
                self.check_ready(&state)?;
                Ok(FunctionInvocation::Reset(function))
            }
        }
    }

    /// `PciFunction.GetBar`.
    fn decode_get_bar(
        &self,
        call: &Invoked,
        function: FunctionId,
        lease: u8,
        state: &Function,
    ) -> Result<FunctionInvocation, Fault> {
        let bar = self.machine.bar(function, call.number(1, 0, 5)? as u8);
        let Some(last) = (bar.pages as u64).checked_sub(1) else { return Err(Fault::new(Error::OutOfRange, 1)) };
        let page = call.number(2, 0, last)?;
        // The destination's first slot is checked before the count, and the others after it.
        let &[_, _, cnode, index, _] = call.args;
        self.destination(call.root, cnode, index, 3)?;
        let count = call.number(5, 1, MAX_COUNT.min(last.wrapping_sub(page).wrapping_add(1)))?;
        let to = self.row_argument(call, 3, 5, count)?;
        if bar.withholds(page as u32, count as u32) {
            return Err(Fault::new(Error::Forbidden, 2));
        }
        check_holder(state, lease)?;
        self.check_ready(state)?;
        self.check_deeper(call)?;
        let base = bar.base.plus(page.wrapping_shl(PAGE_BITS as u32));
        Ok(FunctionInvocation::GiveBar { from: call.id, to, base, count: count as u32 })
    }

    /// `PciFunction.BindMsix`.
    fn decode_bind_msix(
        &self,
        call: &Invoked,
        function: FunctionId,
        lease: u8,
        state: &Function,
        messages: u16,
    ) -> Result<FunctionInvocation, Fault> {
        let message = Message { function, entry: entry_argument(call, messages)? };
        let &[_, cptr, ..] = call.args;
        let irq = self.capability(call.root, cptr, 2, ObjectType::Irq, Rights::empty())?;
        let Cap::Irq { first: route, count: 1 } = irq.cap else { return Err(Fault::new(Error::OutOfRange, 2)) };
        check_holder(state, lease)?;
        if self.route_of(message).is_some() {
            return Err(Fault::new(Error::InUse, 1));
        }
        if irq.has_children() || self.message(route).is_some() {
            return Err(Fault::new(Error::InUse, 2));
        }
        if !self.is_message_route(route) || self.is_route_forbidden(route) {
            return Err(Fault::new(Error::Forbidden, 2));
        }
        self.check_ready(state)?;
        Ok(FunctionInvocation::BindMessage { route, message })
    }

    /// True if a message of a function raises a route.
    fn has_messages(&self, function: FunctionId) -> bool {
        self.routes.iter().any(|route| route.message.is_some_and(|message| message.function == function))
    }

    /// True if a capability has no Frames of its function's registers below it, and room for a child. Its other children are
    /// virtual functions.
    fn may_be_leased(&self, slot: SlotId) -> bool {
        let mut children = 0;
        let are_functions = self.splits(slot).all(|child| {
            children += 1;
            matches!(self.slot(child).cap, Cap::PciFunction { .. })
        });
        are_functions && children < MAX_SPLITS
    }

    /// True for a capability to a function of whose registers there are Frames: it is not moved, as who gives it away would
    /// keep them.
    pub(crate) fn has_register_frames(&self, slot: SlotId) -> bool {
        matches!(self.slot(slot).cap, Cap::PciFunction { .. })
            && self.splits(slot).any(|child| matches!(self.slot(child).cap, Cap::Frame { .. }))
    }

    /// The route that a message raises.
    fn route_of(&self, message: Message) -> Option<u16> {
        self.routes.iter().position(|route| route.message == Some(message)).map(|route| route as u16)
    }

    /// Argument `number` and the one behind it: a CNode with WRITE, and the first of `count` empty slots. Argument `counted`
    /// is what is wrong if the others are not there or not empty.
    fn row_argument(&self, call: &Invoked, number: u8, counted: u8, count: u64) -> Result<SlotId, Fault> {
        let cptr = call.number(number, 0, u64::MAX)?;
        let index = call.number(number.wrapping_add(1), 0, u64::MAX)?;
        let (base, slots) = self.destination_node(call.root, cptr, number)?;
        let to = self.empty_slot(base, slots, index, number.wrapping_add(1))?;
        if index.wrapping_add(count) > slots as u64 {
            return Err(Fault::new(Error::OutOfRange, counted));
        }
        if (1..count as u32).any(|offset| !self.slot(to.plus(offset)).is_empty()) {
            return Err(Fault::new(Error::SlotOccupied, counted));
        }
        Ok(to)
    }

    /// Checks that something may be derived from the invoked capability.
    fn check_deeper(&self, call: &Invoked) -> Result<(), Fault> {
        if self.is_too_deep(call.id) { Err(Fault::new(Error::TooDeep, 0)) } else { Ok(()) }
    }

    /// Checks that a function is not in a reset. One that has to be revived is not ready, whatever the clock says since that
    /// was looked at.
    fn check_ready(&self, state: &Function) -> Result<(), Fault> {
        if state.in_reset || self.machine.now() < state.ready_at { Err(Fault::new(Error::Busy, 0)) } else { Ok(()) }
    }

    // ---- what invoke does ----------------------------------------------------------------------------------------

    /// Does what was decoded.
    #[cold]
    #[inline(never)]
    pub(crate) fn invoke_function(&mut self, invocation: FunctionInvocation) -> Progress {
        match invocation {
            FunctionInvocation::Answer(results) => return Progress::Done(results),
            FunctionInvocation::Lease { from, to, function, lease } => self.lease_function(from, to, function, lease),
            FunctionInvocation::EnableVfs { from, to, function, count } => self.enable_vfs(from, to, function, count),
            FunctionInvocation::GiveBar { from, to, base, count } => self.give_bar(from, to, base, count),
            FunctionInvocation::Revive(function) => {
                self.revive(function);
                return Progress::Again;
            }
            FunctionInvocation::ReadConfig { function, offset } => {
                return Progress::Done([self.machine.read_config(function, offset) as u64, 0]);
            }
            FunctionInvocation::WriteConfig { function, offset, value } => {
                self.machine.write_config(function, offset, value);
            }
            FunctionInvocation::Attach { function, domain } => self.attach_function(function, domain),
            FunctionInvocation::Detach(function) => self.detach_function(function),
            FunctionInvocation::BindMessage { route, message } => self.bind_message(route, message),
            FunctionInvocation::UnbindMessage(route) => self.unbind_message(route),
            FunctionInvocation::Reset(function) => self.quiesce_function(function),
        }
        Progress::Done([0, 0])
    }

    /// Makes a lease.
    pub(crate) fn lease_function(&mut self, from: SlotId, to: SlotId, function: FunctionId, lease: u8) {
        let rights = self.slot(from).rights;
        self.insert_child(from, to, Slot::of(Cap::PciFunction { lease, function }, rights, true));
        self.function_mut(function).leases = lease;
    }

    /// Enables virtual functions, and makes their capabilities.
    pub(crate) fn enable_vfs(&mut self, from: SlotId, to: SlotId, function: FunctionId, count: u16) {
        let takes = self.machine.enable_vfs(function, count);
        self.function_mut(function).vfs = count;
        let first = self.machine.function(function).first_vf.get();
        let rights = self.slot(from).rights;
        for offset in 0..count {
            let function = FunctionId::new(first.wrapping_add(offset));
            *self.function_mut(function) = Function { in_reset: true, ..Function::NEW };
            self.busy_for(function, takes);
            let cap = Cap::PciFunction { lease: 0, function };
            self.insert_child(from, to.plus(offset as u32), Slot::of(cap, rights, true));
        }
    }

    /// Derives Frames to pages of a BAR.
    pub(crate) fn give_bar(&mut self, from: SlotId, to: SlotId, base: Hpa, count: u32) {
        let rights = self.slot(from).rights.intersection(Rights::READ.union(Rights::WRITE));
        let mut base = base;
        for offset in 0..count {
            let cap = Cap::Frame { bits: PAGE_BITS, device: true, kernel_page: false, base, mapping: Mapping::NONE };
            self.insert_child(from, to.plus(offset), Slot::of(cap, rights, false));
            base = base.plus(1 << PAGE_BITS);
        }
    }

    /// A function whose reset is over becomes usable, when it is used next.
    pub(crate) fn revive(&mut self, function: FunctionId) {
        match self.machine.revive_function(function) {
            None => self.function_mut(function).in_reset = false,
            Some(more) => self.busy_for(function, more),
        }
    }

    /// Attaches a function to a domain.
    pub(crate) fn attach_function(&mut self, function: FunctionId, domain: VmId) {
        self.gets_function(domain);
        // What was stopped while it had no domain, or another one, is not this one's.
        self.take_all_faults();
        let header = self.machine.vm_mut(domain);
        header.functions = header.functions.wrapping_add(1);
        self.function_mut(function).domain = domain;
        self.machine.attach_function(function, domain);
    }

    /// Detaches a function, if it is attached.
    pub(crate) fn detach_function(&mut self, function: FunctionId) {
        let domain = self.function(function).domain;
        if domain.is_some() {
            self.machine.detach_function(function);
            if self.machine.iommu_has_failed() {
                // The unit may go on with the root of its tables.
                self.quarantine.add(domain.address(), bytes_of(DOMAIN_BITS));
            }
            self.take_all_faults();
            self.function_mut(function).domain = VmId::NONE;
            let header = self.machine.vm_mut(domain);
            header.functions = header.functions.wrapping_sub(1);
        }
    }

    /// Detaches one of the functions of a domain.
    pub(crate) fn detach_one_of(&mut self, domain: VmId) {
        let number = self.functions.iter().position(|function| function.domain == domain);
        if let Some(number) = number {
            self.detach_function(FunctionId::new(number as u16));
        }
    }

    /// Takes everything from a function that its holder gave it, and resets it unless virtual functions would go with that.
    pub(crate) fn quiesce_function(&mut self, function: FunctionId) {
        self.detach_function(function);
        self.unbind_messages(function);
        if self.function(function).vfs == 0 {
            // One whose reset is not over is reset again: its holder may have come between.
            let takes = self.machine.reset_function(function);
            self.busy_for(function, takes);
            self.function_mut(function).in_reset = true;
        }
    }

    fn busy_for(&mut self, function: FunctionId, takes: Ticks) {
        let until = self.machine.now().get().saturating_add(takes.get());
        let state = self.function_mut(function);
        state.ready_at = Ticks::new(until).max(state.ready_at);
    }

    /// A capability to a function goes: a lease, or that of a virtual function.
    #[cold]
    pub(crate) fn give_function_back(&mut self, function: FunctionId, lease: u8) {
        self.quiesce_function(function);
        if let Some(before) = lease.checked_sub(1) {
            self.function_mut(function).leases = before;
            return;
        }
        // Boot capabilities never go: it is a virtual one, and its parent is a physical one's.
        let Some(physical) = self.physical_of(function) else { return };
        let state = self.function_mut(physical);
        state.vfs = state.vfs.wrapping_sub(1);
        if state.vfs == 0 {
            let takes = self.machine.disable_vfs(physical);
            self.busy_for(physical, takes);
        }
    }

    /// The physical function of a virtual one.
    fn physical_of(&self, function: FunctionId) -> Option<FunctionId> {
        (0..MAX_FUNCTIONS as u16).map(FunctionId::new).find(|&physical| {
            let facts = self.machine.function(physical);
            function.get().wrapping_sub(facts.first_vf.get()) < facts.vfs
        })
    }
}

/// Checks that a capability is the last of the chain of leases.
fn check_holder(state: &Function, lease: u8) -> Result<(), Fault> {
    if state.leases == lease { Ok(()) } else { Err(Fault::new(Error::InUse, 0)) }
}

/// Argument 1: the offset of a double word of configuration space.
fn offset_argument(call: &Invoked) -> Result<u16, Fault> {
    let offset = call.number(1, 0, 4095)?;
    if offset & 3 == 0 { Ok(offset as u16) } else { Err(Fault::new(Error::Misaligned, 1)) }
}

/// Argument 1: an entry of an MSI-X table of this size.
fn entry_argument(call: &Invoked, messages: u16) -> Result<u16, Fault> {
    match (messages as u64).checked_sub(1) {
        Some(last) => Ok(call.number(1, 0, last)? as u16),
        None => Err(Fault::new(Error::OutOfRange, 1)),
    }
}
