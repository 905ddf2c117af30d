//! Decoding: from registers to an [`Invocation`] that cannot fail.
//!
//! `decode` takes the kernel by shared reference, so that a refused call changes nothing is the compiler's promise. The
//! order of checks is the abstract machine's: the invoked capability, its label, its rights, the arguments from first to
//! last, then the state. The checks of each object are beside the object; this module chooses among them.

use crate::cap::Cap;
use crate::channel::Handled;
use crate::cspace::{Found, Root};
use crate::function::FunctionInvocation;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::slot::Slot;
use crate::types::{ChannelId, EndId, Gpa, Hpa, SlotId, VcpuId, VmId};
use cap_spec::abi::{Error, Fault, Label, ObjectType, Register, Rights};

/// What a guest put into its registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Call {
    /// `rdi`: pointer to the invoked capability.
    pub cap: u64,
    /// `rax`: the label.
    pub label: u64,
    /// `rsi rdx r10 r8 r9`: arguments 1 to 5.
    pub args: [u64; 5],
}

/// A call that has passed every check. It holds as long as nothing else happens in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Nothing is to be done.
    Nothing,
    /// Nothing is to be done; the results are known.
    Answer([u64; 2]),
    /// `Untyped.Retype`.
    Retype {
        /// The Untyped.
        untyped: SlotId,
        /// What is made.
        object: ObjectType,
        /// log2 bytes of one object.
        bits: u8,
        /// First destination.
        to: SlotId,
        /// How many.
        count: u32,
        /// Offset of the first object in the Untyped.
        offset: u64,
    },
    /// `CNode.Copy`, `CNode.Mint` and a copying `Channel.Grant`.
    Derive {
        /// What is copied.
        from: SlotId,
        /// The empty slot.
        to: SlotId,
        /// Rights to keep.
        mask: Rights,
        /// What the copy speaks for: the end of a channel, the window of a domain; 0: as the source.
        badge: u64,
    },
    /// `CNode.Move`, `Channel.Accept` and a moving `Channel.Grant`.
    Move {
        /// From where.
        from: SlotId,
        /// The empty slot.
        to: SlotId,
        /// Rights to keep.
        mask: Rights,
    },
    /// `CNode.Delete`: the slot.
    Delete(SlotId),
    /// `CNode.Revoke`: the slot.
    Revoke(SlotId),
    /// `Frame.Map`.
    MapFrame {
        /// The Frame.
        slot: SlotId,
        /// The VM.
        vm: VmId,
        /// Where.
        gpa: Gpa,
        /// With which rights.
        rights: Rights,
        /// The table that takes the entry.
        table: Hpa,
        /// How many further frames, in the slots behind, are mapped behind it.
        more: u32,
    },
    /// `PageTable.Map`.
    MapTable {
        /// The PageTable.
        slot: SlotId,
        /// The VM.
        vm: VmId,
        /// First address that it will cover.
        gpa: Gpa,
        /// 1 to 3.
        level: u8,
        /// The table above.
        table: Hpa,
    },
    /// `Frame.MapIo`.
    MapFrameIo {
        /// The Frame.
        slot: SlotId,
        /// The domain.
        domain: VmId,
        /// Where.
        gpa: Gpa,
        /// With which rights.
        rights: Rights,
        /// The table that takes the entry.
        table: Hpa,
        /// How many further frames, in the slots behind, are mapped behind it.
        more: u32,
    },
    /// `PageTable.MapIo`.
    MapTableIo {
        /// The PageTable.
        slot: SlotId,
        /// The domain.
        domain: VmId,
        /// First address that it will cover.
        gpa: Gpa,
        /// 1 or 2.
        level: u8,
        /// The table above.
        table: Hpa,
    },
    /// `Frame.Unmap`, `PageTable.Unmap`.
    Unmap {
        /// The slot.
        slot: SlotId,
        /// How many slots behind it are meant too.
        more: u32,
    },
    /// `Vm.SetCSpace`.
    SetCSpace {
        /// The VM.
        vm: VmId,
        /// The slot of the CNode's original.
        root: SlotId,
    },
    /// `GetPage` of every type.
    GivePage {
        /// The invoked capability.
        from: SlotId,
        /// The empty slot.
        to: SlotId,
        /// The page.
        page: Hpa,
        /// Rights of the new capability.
        rights: Rights,
    },
    /// `Vcpu.Attach`.
    Attach {
        /// The Vcpu.
        vcpu: VcpuId,
        /// The VM.
        vm: VmId,
        /// Where it begins.
        rip: u64,
        /// Its page tables.
        cr3: u64,
        /// Its stack.
        rsp: u64,
    },
    /// `Vcpu.SetRegister`.
    SetRegister {
        /// The Vcpu.
        vcpu: VcpuId,
        /// Which.
        register: Register,
        /// A legal value.
        value: u64,
    },
    /// `Vcpu.BindTime`.
    BindTime {
        /// The Vcpu.
        vcpu: VcpuId,
        /// The slot of the reservation.
        time: SlotId,
    },
    /// `Vcpu.UnbindTime`.
    UnbindTime(VcpuId),
    /// `Vcpu.SetUpcall`.
    SetUpcall {
        /// The Vcpu.
        vcpu: VcpuId,
        /// For faults.
        fault: u8,
        /// For events.
        event: u8,
    },
    /// `GetFault`: of a domain, or of the machine (none).
    TakeFault(VmId),
    /// `SetHandler` of every type.
    SetHandler {
        /// What it tells of.
        of: Handled,
        /// The end.
        end: EndId,
    },
    /// `Vcpu.Launch`.
    Launch {
        /// The invoked capability's slot.
        from: SlotId,
        /// The Vcpu.
        vcpu: VcpuId,
        /// The VM.
        vm: VmId,
        /// The slot of its base.
        base: SlotId,
        /// The empty slot in its root CNode.
        to: SlotId,
    },
    /// A step of the check that `Vcpu.Launch` makes first.
    CheckLaunch {
        /// The invoked capability's slot.
        from: SlotId,
        /// The VM.
        vm: VmId,
        /// The slot of its base.
        base: SlotId,
    },
    /// `Vcpu.Start`.
    Start(VcpuId),
    /// `Vcpu.Stop`.
    Stop(VcpuId),
    /// `Vcpu.Signal` and `Channel.Signal`.
    Signal {
        /// Who.
        vcpu: VcpuId,
        /// Events, not 0.
        bits: u64,
    },
    /// `Vcpu.Wait` and `Channel.SignalWait`.
    Wait {
        /// Who is signalled first; none: nobody.
        signal: VcpuId,
        /// Events that it gets.
        bits: u64,
        /// Events that end the wait, not 0.
        mask: u64,
        /// When it ends anyway, 0 for never.
        deadline: u64,
    },
    /// `CpuTime.Split`.
    SplitTime {
        /// The reservation.
        from: SlotId,
        /// The empty slot.
        to: SlotId,
        /// Ticks per period.
        budget: u64,
        /// Ticks.
        period: u64,
    },
    /// `CpuTime.Resize`.
    ResizeTime {
        /// The reservation.
        slot: SlotId,
        /// Its parent.
        parent: SlotId,
        /// Ticks per period.
        budget: u64,
        /// Ticks.
        period: u64,
    },
    /// `Channel.Bind`.
    BindEnd {
        /// The end.
        end: EndId,
        /// The receiver.
        vcpu: VcpuId,
        /// Events that a signal sets.
        bits: u64,
    },
    /// `Irq.Split`.
    SplitIrq {
        /// The range.
        from: SlotId,
        /// The empty slot.
        to: SlotId,
        /// First route.
        first: u16,
        /// How many.
        count: u32,
    },
    /// `Irq.Bind`.
    BindIrq {
        /// The route.
        route: u16,
        /// Who takes it.
        vcpu: VcpuId,
        /// As which vector.
        vector: u8,
    },
    /// `Irq.Unbind`: the route.
    UnbindIrq(u16),
    /// `IoPort.Split`.
    SplitPorts {
        /// The range.
        from: SlotId,
        /// The empty slot.
        to: SlotId,
        /// First port.
        first: u16,
        /// How many.
        count: u32,
    },
    /// `IoPort.In`.
    PortIn {
        /// The port.
        port: u16,
        /// 1, 2 or 4.
        width: u8,
    },
    /// `IoPort.Out`.
    PortOut {
        /// The port.
        port: u16,
        /// 1, 2 or 4.
        width: u8,
        /// What is written.
        value: u32,
    },
    /// `IoPort.OutBytes`.
    PortOutBytes {
        /// The port.
        port: u16,
        /// 1 to 16.
        count: u8,
        /// Bytes 0 to 7.
        low: u64,
        /// Bytes 8 to 15.
        high: u64,
    },
    /// `Machine.Reset`.
    Reset,
    /// Those of PciFunction.
    Function(FunctionInvocation),
}

/// A call past the checks of its invoked capability.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Invoked<'a> {
    /// Who invokes.
    pub(crate) invoker: VcpuId,
    /// Its CSpace.
    pub(crate) root: Root,
    /// The slot of the invoked capability.
    pub(crate) id: SlotId,
    /// The pointer that led to it.
    pub(crate) cptr: u64,
    /// What it holds.
    pub(crate) slot: &'a Slot,
    /// Arguments 1 to 5.
    pub(crate) args: &'a [u64; 5],
}

impl Invoked<'_> {
    /// Argument `number` if it is at least `low` and at most `high`.
    #[inline]
    pub(crate) fn number(&self, number: u8, low: u64, high: u64) -> Result<u64, Fault> {
        let value = self.args.get((number as usize).wrapping_sub(1)).copied().unwrap_or(0);
        if value >= low && value <= high { Ok(value) } else { Err(Fault::new(Error::OutOfRange, number)) }
    }

    /// Argument `number` as a mask of rights, none of them outside `allowed`.
    #[inline]
    pub(crate) fn rights(&self, number: u8, allowed: Rights) -> Result<Rights, Fault> {
        let value = self.number(number, 0, u64::MAX)?;
        if value & !(allowed.bits() as u64) == 0 {
            Ok(Rights::from_bits_truncate(value as u8))
        } else {
            Err(Fault::new(Error::OutOfRange, number))
        }
    }
}

impl<M: Machine> Kernel<M> {
    /// Checks a call of a Vcpu that runs.
    ///
    /// # Errors
    /// The fault of the first check that fails.
    #[inline]
    pub fn decode(&self, invoker: VcpuId, call: &Call) -> Result<Invocation, Fault> {
        let invalid = Fault::new(Error::InvalidCapability, 0);
        let root = self.cspace_of(invoker).ok_or(invalid)?;
        let Found { slot: id, .. } = self.look_up(root, call.cap).ok_or(invalid)?;
        if call.label == Label::Nop as u64 {
            return Ok(Invocation::Nothing);
        }
        let slot = self.slot(id);
        let label = Label::from_number(call.label).ok_or(Fault::new(Error::InvalidLabel, 0))?;
        if slot.cap.object_type() as u8 != label.object() as u8 {
            return Err(Fault::new(Error::InvalidLabel, 0));
        }
        if !slot.rights.contains(label.rights()) {
            return Err(Fault::new(Error::MissingRight, 0));
        }
        self.decode_object(label, &Invoked { invoker, root, id, cptr: call.cap, slot, args: &call.args })
    }

    /// Chooses by the type of the object.
    #[inline(always)]
    fn decode_object(&self, label: Label, call: &Invoked) -> Result<Invocation, Fault> {
        match call.slot.cap {
            Cap::Untyped { bits, device, watermark, .. } => self.decode_retype(call, bits, device, watermark),
            Cap::CNode { bits, base, .. } => self.decode_cnode(label, call, base, bits),
            Cap::Frame { bits, mapping, .. } => match label {
                Label::FrameMap => self.decode_map_frame(call, bits, mapping.vm),
                Label::FrameMapIo => self.decode_map_frame_io(call, bits, mapping.vm),
                _ => self.decode_unmap_frame(call, mapping.vm),
            },
            Cap::PageTable { mapping, .. } => match label {
                Label::PageTableMap => self.decode_map_table(call, mapping.vm),
                Label::PageTableMapIo => self.decode_map_table_io(call, mapping.vm),
                _ if mapping.vm.is_some() => Ok(Invocation::Unmap { slot: call.id, more: 0 }),
                _ => Err(Fault::new(Error::NotMapped, 0)),
            },
            Cap::Vm { id } => match label {
                Label::VmSetCSpace => self.decode_set_cspace(call, id),
                _ => self.decode_page(call, 1, id.stats_page(), Rights::READ),
            },
            Cap::Vcpu { id } => self.decode_vcpu(label, call, id),
            Cap::CpuTime { .. } => self.decode_time(label, call),
            Cap::Channel { end, id } => self.decode_channel(label, call, id, end),
            Cap::Irq { first, count } => self.decode_irq(label, call, first, count),
            Cap::IoPort { first, count } => self.decode_ports(label, call, first, count),
            Cap::Machine => match label {
                Label::MachineReset => Ok(Invocation::Reset),
                Label::MachineSetHandler => self.decode_fault_handler(call, Handled::Machine),
                Label::MachineGetFault => Ok(Invocation::TakeFault(VmId::NONE)),
                _ => self.decode_page(call, 1, self.statistics_page, Rights::READ),
            },
            Cap::PciFunction { lease, function } => {
                self.decode_function(label, call, function, lease).map(Invocation::Function)
            }
            Cap::IommuDomain { id, bits, .. } => self.decode_domain(label, call, id, bits),
            Cap::Null | Cap::Zombie(_) | Cap::Doomed { .. } => Err(Fault::new(Error::InvalidCapability, 0)),
        }
    }

    /// The last checks of every `GetPage`: destination and depth. What is derived has no right that its source lacks.
    pub(crate) fn decode_page(
        &self,
        call: &Invoked,
        number: u8,
        page: Hpa,
        rights: Rights,
    ) -> Result<Invocation, Fault> {
        let cnode = call.number(number, 0, u64::MAX)?;
        let index = call.number(number.wrapping_add(1), 0, u64::MAX)?;
        let to = self.destination(call.root, cnode, index, number)?;
        if self.is_too_deep(call.id) {
            return Err(Fault::new(Error::TooDeep, 0));
        }
        Ok(Invocation::GivePage { from: call.id, to, page, rights: rights.intersection(call.slot.rights) })
    }

    /// The Vcpu that argument `number` names with WRITE.
    #[inline]
    pub(crate) fn vcpu_argument(&self, call: &Invoked, number: u8) -> Result<VcpuId, Fault> {
        let cptr = call.number(number, 0, u64::MAX)?;
        match self.capability(call.root, cptr, number, ObjectType::Vcpu, Rights::WRITE)?.cap {
            Cap::Vcpu { id } => Ok(id),
            _ => Err(Fault::new(Error::WrongType, number)),
        }
    }

    /// The VM that argument `number` names with WRITE.
    #[inline]
    pub(crate) fn vm_argument(&self, call: &Invoked, number: u8) -> Result<VmId, Fault> {
        let cptr = call.number(number, 0, u64::MAX)?;
        match self.capability(call.root, cptr, number, ObjectType::Vm, Rights::WRITE)?.cap {
            Cap::Vm { id } if self.machine.vm(id).dissolving => Err(Fault::new(Error::InvalidCapability, number)),
            Cap::Vm { id } => Ok(id),
            _ => Err(Fault::new(Error::WrongType, number)),
        }
    }

    /// The channel end that argument `number` names, with these rights.
    pub(crate) fn end_argument(&self, call: &Invoked, number: u8, rights: Rights) -> Result<(ChannelId, u8), Fault> {
        let cptr = call.number(number, 0, u64::MAX)?;
        match self.capability(call.root, cptr, number, ObjectType::Channel, rights)?.cap {
            Cap::Channel { end, id } => Ok((id, end)),
            _ => Err(Fault::new(Error::WrongType, number)),
        }
    }
}
