//! Invoking: what a decoded call does. It cannot fail; what takes long is done in bounded steps.

use crate::cap::{Cap, Mapping};
use crate::decode::Invocation;
use crate::destroy::Work;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::sched::NEVER;
use crate::slot::Slot;
use crate::types::{Hpa, SlotId, Ticks, VcpuId};
use crate::vcpu::Run;
use cap_spec::abi::{PAGE_BITS, Register, Rights};

/// How far an invocation is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Progress {
    /// Done, with these results.
    Done([u64; 2]),
    /// The invoker sleeps.
    Blocked,
    /// A step is done; the invoker repeats the call after the lock was given up.
    Again,
    /// A Delete or Revoke, to be gone on with by [`Kernel::destroy_step`].
    Long(Work),
}

/// Done, without results.
const NOTHING: Progress = Progress::Done([0, 0]);

impl<M: Machine> Kernel<M> {
    /// Does what was decoded, with no change in between.
    #[inline]
    pub(crate) fn invoke(&mut self, invoker: VcpuId, invocation: Invocation) -> Progress {
        match invocation {
            Invocation::Nothing => {}
            Invocation::Answer(results) => return Progress::Done(results),
            Invocation::Retype { untyped, object, bits, to, count, offset } => {
                self.retype(untyped, object, bits, to, count, offset);
            }
            Invocation::Derive { from, to, mask, badge } => self.derive(from, to, mask, badge),
            Invocation::Move { from, to, mask } => {
                self.relocate(from, to);
                let slot = self.slot_mut(to);
                slot.rights = slot.rights.intersection(mask);
            }
            Invocation::Delete(slot) => {
                if self.slot(slot).original {
                    return Progress::Long(Work::delete(slot));
                }
                self.take_away(slot);
            }
            Invocation::Revoke(slot) => return Progress::Long(Work::revoke(slot)),
            Invocation::MapFrame { slot, vm, gpa, rights, table, more: 0 } => {
                self.map_frame::<false>(slot, vm, gpa, rights, table);
            }
            Invocation::MapFrame { slot, vm, gpa, rights, table, more } => {
                self.map_frames::<false>(slot, vm, gpa, rights, table, more);
            }
            Invocation::MapFrameIo { slot, domain, gpa, rights, table, more } => {
                self.map_frames::<true>(slot, domain, gpa, rights, table, more);
            }
            Invocation::MapTableIo { slot, domain, gpa, level, table } => {
                self.map_table::<true>(slot, domain, gpa, level, table);
            }
            Invocation::MapTable { slot, vm, gpa, level, table } => {
                self.map_table::<false>(slot, vm, gpa, level, table)
            }
            Invocation::Unmap { slot, more: 0 } => drop(self.unmap(slot)),
            Invocation::Unmap { slot, more } => drop(self.unmap_row(slot, more)),
            Invocation::SetCSpace { vm, root } => self.set_cspace(vm, root),
            Invocation::GivePage { from, to, page, rights } => self.give_page(from, to, page, rights),
            Invocation::Attach { vcpu, vm, rip, cr3, rsp } => {
                self.attach(vcpu, vm);
                for (register, value) in [(Register::Rip, rip), (Register::Cr3, cr3), (Register::Rsp, rsp)] {
                    self.machine.set_register(vcpu, register, value);
                }
            }
            Invocation::SetRegister { vcpu, register, value } => self.machine.set_register(vcpu, register, value),
            Invocation::BindTime { vcpu, time } => self.bind_time(vcpu, time),
            Invocation::UnbindTime(vcpu) => self.unbind_time(vcpu),
            Invocation::SetUpcall { vcpu, fault, event } => {
                let header = self.machine.vcpu_mut(vcpu);
                header.fault_vector = fault;
                header.event_vector = event;
                header.event_pending = false;
            }
            Invocation::SetHandler { of, end } => self.set_handler(of, end),
            Invocation::TakeFault(domain) => return Progress::Done(self.take_kept_fault(domain)),
            Invocation::Launch { from, vcpu, vm, base, to } => self.launch(from, vcpu, vm, base, to),
            Invocation::CheckLaunch { from, vm, base } => {
                self.check_launch(invoker, from, vm, base);
                return Progress::Again;
            }
            Invocation::Start(vcpu) => self.start_vcpu(vcpu),
            Invocation::Stop(vcpu) => self.stop_vcpu(vcpu),
            Invocation::Signal { vcpu, bits } => self.signal(vcpu, bits),
            Invocation::Wait { signal, bits, mask, deadline } => {
                if signal.is_some() {
                    self.signal(signal, bits);
                }
                return self.wait(invoker, mask, deadline);
            }
            Invocation::SplitTime { from, to, budget, period } => self.split_time(from, to, budget, period),
            Invocation::ResizeTime { slot, parent, budget, period } => self.resize_time(slot, parent, budget, period),
            Invocation::BindEnd { end, vcpu, bits } => self.bind_end(end, vcpu, bits),
            Invocation::SplitIrq { from, to, first, count } => self.split_range(from, to, Cap::Irq { first, count }),
            Invocation::BindIrq { route, vcpu, vector } => self.bind_route(route, vcpu, vector),
            Invocation::UnbindIrq(route) => self.unbind_route(route),
            Invocation::SplitPorts { from, to, first, count } => {
                self.split_range(from, to, Cap::IoPort { first, count });
            }
            Invocation::PortIn { port, width } => {
                let value = self.machine.port_in(port, width) as u64 & crate::ioport::mask_of(width);
                return Progress::Done([value, 0]);
            }
            Invocation::PortOut { port, width, value } => self.machine.port_out(port, width, value),
            Invocation::PortOutBytes { port, count, low, high } => {
                let bytes = (low as u128 | (high as u128) << 64).to_le_bytes();
                for &byte in bytes.iter().take(count as usize) {
                    self.machine.port_out(port, 1, byte as u32);
                }
            }
            Invocation::Reset => self.machine.reset(),
            Invocation::Function(invocation) => return self.invoke_function(invocation),
        }
        NOTHING
    }

    /// Derives a capability to a page that the kernel writes.
    fn give_page(&mut self, from: SlotId, to: SlotId, page: Hpa, rights: Rights) {
        let cap = Cap::Frame { bits: PAGE_BITS, device: false, kernel_page: true, base: page, mapping: Mapping::NONE };
        self.insert_child(from, to, Slot::of(cap, rights, false));
    }

    /// Takes events, or lets the invoker sleep until there are some or the deadline has passed.
    #[inline]
    fn wait(&mut self, invoker: VcpuId, mask: u64, deadline: u64) -> Progress {
        let events = self.machine.take_events(invoker, mask);
        if events != 0 {
            return Progress::Done([events, 0]);
        }
        let now = self.machine.now();
        if deadline != 0 && deadline <= now.get() {
            return Progress::Done([0, 0]);
        }
        self.machine.vcpu_mut(invoker).wait_mask = mask;
        let wake_at = if deadline == 0 { NEVER } else { Ticks::new(deadline) };
        self.block_vcpu(invoker, Run::Blocked, wake_at, now);
        Progress::Blocked
    }
}
