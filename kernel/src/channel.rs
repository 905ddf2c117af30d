//! The header of a `Channel` object: who receives at each of its two ends.
//!
//! A `Channel` is 256 bytes: slot 0 holds the capability in flight towards end 1, slot 1 that towards end 2, and this
//! header begins at byte [`HEADER_OFFSET`].

use crate::cnode::check_copyable;
use crate::decode::{Invocation, Invoked};
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::types::{ChannelId, EndId, Hpa, SlotId, VcpuId, VmId};
use cap_spec::abi::{Error, Fault, Label, Rights};

/// Where the header begins in the object.
pub const HEADER_OFFSET: u64 = 128;

/// What tells something through an end of a channel: it signals the end's peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Handled {
    /// Nothing.
    Nothing = 0,
    /// A Vcpu, that it has stopped by itself.
    Vcpu(VcpuId) = 1,
    /// A domain, that one of its functions was stopped.
    Domain(VmId) = 2,
    /// The machine, that any function was stopped.
    Machine = 3,
}

/// One end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct End {
    /// Who receives here; this end is then in that Vcpu's list `receives`.
    pub receiver: VcpuId,
    /// The next end at which the same Vcpu receives.
    pub next: EndId,
    /// The previous end at which the same Vcpu receives.
    pub prev: EndId,
    /// What has this end as its handler.
    pub handled: Handled,
    /// Events that a signal to this end sets.
    pub bits: u64,
}

impl End {
    /// An end without a receiver.
    pub const NEW: End =
        End { receiver: VcpuId::NONE, next: EndId::NONE, prev: EndId::NONE, handled: Handled::Nothing, bits: 0 };
}

/// Both ends. All-zero memory is a channel without receivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Channel {
    /// Ends 1 and 2.
    pub ends: [End; 2],
}

// What lies in the last slot is not this header's.
const _: () = assert!(HEADER_OFFSET as usize + size_of::<Channel>() <= 3 << cap_spec::abi::SLOT_BITS);

impl Channel {
    /// A channel without receivers.
    pub const NEW: Channel = Channel { ends: [End::NEW; 2] };

    /// End 1, or 2 for every other number.
    #[inline]
    pub const fn end(&self, end: u8) -> &End {
        let [one, two] = &self.ends;
        if end == 1 { one } else { two }
    }

    /// End 1, or 2 for every other number, to change it.
    #[inline]
    pub const fn end_mut(&mut self, end: u8) -> &mut End {
        let [one, two] = &mut self.ends;
        if end == 1 { one } else { two }
    }
}

impl ChannelId {
    /// The channel whose first byte is at this address.
    #[inline]
    pub const fn at(address: Hpa) -> ChannelId {
        ChannelId::new((address.get() >> cap_spec::abi::SLOT_BITS) as u32)
    }
}

impl<M: Machine> Kernel<M> {
    /// Every label of Channel.
    #[inline]
    pub(crate) fn decode_channel(
        &self,
        label: Label,
        call: &Invoked,
        channel: ChannelId,
        end: u8,
    ) -> Result<Invocation, Fault> {
        let own = EndId::of(channel, end);
        match label {
            Label::ChannelSignal => {
                let (vcpu, bits) = self.receiver(own.peer())?;
                Ok(Invocation::Signal { vcpu, bits })
            }
            Label::ChannelWait => self.decode_signal_wait(call, channel, end),
            Label::ChannelBind => {
                let vcpu = self.vcpu_argument(call, 1)?;
                let bits = call.number(2, 1, u64::MAX)?;
                if self.receiver(own).is_ok() {
                    return Err(Fault::new(Error::InUse, 0));
                }
                Ok(Invocation::BindEnd { end: own, vcpu, bits })
            }
            Label::ChannelGrant => self.decode_grant(call, channel.in_flight(own.peer().end())),
            _ => {
                let &[cnode, index, ..] = call.args;
                let to = self.destination(call.root, cnode, index, 1)?;
                let from = channel.in_flight(end);
                if self.slot(from).is_empty() {
                    return Err(Fault::new(Error::ChannelEmpty, 0));
                }
                Ok(Invocation::Move { from, to, mask: Rights::all() })
            }
        }
    }

    /// `Channel.SignalWait`.
    #[inline]
    pub(crate) fn decode_signal_wait(&self, call: &Invoked, channel: ChannelId, end: u8) -> Result<Invocation, Fault> {
        let &[mask, deadline, ..] = call.args;
        if mask == 0 {
            return Err(Fault::new(Error::OutOfRange, 1));
        }
        let (signal, bits) = self.receiver(EndId::of(channel, end).peer())?;
        Ok(Invocation::Wait { signal, bits, mask, deadline })
    }

    /// `Channel.Grant` into the slot `to`.
    fn decode_grant(&self, call: &Invoked, to: SlotId) -> Result<Invocation, Fault> {
        let &[source, ..] = call.args;
        let from = self.any(call.root, source, 1)?.slot;
        let mask = call.rights(2, Rights::all())?;
        let moves = call.number(3, 0, 1)? == 1;
        if moves {
            self.decode_taken(call, source, 1)?;
        }
        if !self.slot(to).is_empty() {
            return Err(Fault::new(Error::ChannelFull, 0));
        }
        if moves {
            // What was derived from it, or mapped by it, must not have a right that it loses.
            let slot = self.slot(from);
            let needed = slot.has_children() || slot.cap.mapping().is_some();
            if slot.boot || (needed && !mask.contains(slot.rights)) || self.has_register_frames(from) {
                return Err(Fault::new(Error::InUse, 1));
            }
            return Ok(Invocation::Move { from, to, mask });
        }
        check_copyable(self.slot(from), 1)?;
        Ok(Invocation::Derive { from, to, mask, badge: 0 })
    }

    /// Who receives at an end, and the events that a signal to it sets.
    #[inline]
    pub(crate) fn receiver(&self, end: EndId) -> Result<(VcpuId, u64), Fault> {
        let record = self.machine.channel(end.channel()).end(end.end());
        if record.receiver.is_some() {
            Ok((record.receiver, record.bits))
        } else {
            Err(Fault::new(Error::NoReceiver, 0))
        }
    }

    /// The record of an end.
    fn end_mut(&mut self, end: EndId) -> &mut End {
        self.machine.channel_mut(end.channel()).end_mut(end.end())
    }

    /// Makes a Vcpu the receiver at an end that has none.
    pub(crate) fn bind_end(&mut self, end: EndId, vcpu: VcpuId, bits: u64) {
        let header = self.machine.vcpu_mut(vcpu);
        let next = header.receives;
        header.receives = end;
        if next.is_some() {
            self.end_mut(next).prev = end;
        }
        let record = self.end_mut(end);
        record.receiver = vcpu;
        record.bits = bits;
        record.next = next;
        record.prev = EndId::NONE;
    }

    /// Leaves an end without receiver.
    pub(crate) fn unbind_end(&mut self, end: EndId) {
        let &mut End { receiver, next, prev, .. } = self.end_mut(end);
        if !receiver.is_some() {
            return;
        }
        if next.is_some() {
            self.end_mut(next).prev = prev;
        }
        if prev.is_some() {
            self.end_mut(prev).next = next;
        } else {
            self.machine.vcpu_mut(receiver).receives = next;
        }
        let record = self.end_mut(end);
        record.receiver = VcpuId::NONE;
        record.next = EndId::NONE;
        record.prev = EndId::NONE;
        record.bits = 0;
    }

    /// Parts an end from its receiver and from what it tells of.
    pub(crate) fn clear_end(&mut self, end: EndId) {
        self.unbind_end(end);
        let handled = self.end_mut(end).handled;
        self.clear_handler(handled);
    }

    /// The handler of something.
    fn handler_mut(&mut self, of: Handled) -> Option<&mut EndId> {
        match of {
            Handled::Nothing => None,
            Handled::Vcpu(vcpu) => Some(&mut self.machine.vcpu_mut(vcpu).handler),
            Handled::Domain(domain) => Some(&mut self.machine.vm_mut(domain).faults.handler),
            Handled::Machine => Some(&mut self.faults.handler),
        }
    }

    /// Names who is told of something, or nobody. An end tells of one thing, the one that named it last.
    pub(crate) fn set_handler(&mut self, of: Handled, end: EndId) {
        self.clear_handler(of);
        if !end.is_some() {
            return;
        }
        let before = core::mem::replace(&mut self.end_mut(end).handled, of);
        if let Some(handler) = self.handler_mut(before) {
            *handler = EndId::NONE;
        }
        if let Some(handler) = self.handler_mut(of) {
            *handler = end;
        }
    }

    /// Parts something from its handler, if it has one.
    pub(crate) fn clear_handler(&mut self, of: Handled) {
        let Some(handler) = self.handler_mut(of) else { return };
        let end = core::mem::replace(handler, EndId::NONE);
        if end.is_some() {
            self.end_mut(end).handled = Handled::Nothing;
        }
    }

    /// Signals the receiver at the other end, if there is one. `by_interrupt`: as an NMI of the core at work has brought it
    /// up.
    pub(crate) fn tell_handler(&mut self, end: EndId, by_interrupt: bool) {
        if end.is_some()
            && let Ok((receiver, bits)) = self.receiver(end.peer())
        {
            self.signal_by(receiver, bits, by_interrupt);
        }
    }
}
