//! A server of a device, in a VM of its own: its launch, its end, its rings, and what waits for room in them.
//!
//! What such a server is given of its device is its link's business ([`crate::nic_link`], [`crate::storage_link`]).

use crate::archive::Image;
use crate::console_link::{bind_other_end, fill_start_page, server_start};
use crate::launch::{Builder, Layout};
use crate::life::SIDE_BITS;
use crate::machine::{Attention, Invoke, Machine, Peer, Slot};
use crate::memory::{BlockId, MemoryError, PAGE_BITS};
use crate::root::Root;
use alloc::{collections::VecDeque, string::String, vec::Vec};
use cap_spec::abi::{self, Label, ObjectType, Rights, slots};
use proto::start::events;
use serde::Serialize;

const PAGE: u64 = 1 << PAGE_BITS;
const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);

/// What distinguishes one such server from the others.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// The other end of its rings.
    pub peer: Peer,
    /// Name and index in its start-up page.
    pub name: &'static str,
    /// See [`Role::name`].
    pub app: u16,
    /// Event bit of its channel.
    pub event: u64,
    /// Event bit for its own end.
    pub stopped_event: u64,
    /// Where its rings are mapped in the root VM: two pages.
    pub rings: u64,
    /// Where its handler page is mapped.
    pub handler_page: u64,
    /// Pages that it can retype.
    pub free_pages: u64,
    /// Messages that wait for room in the ring to it.
    pub most_messages: usize,
}

/// What a running server is made of, as far as the market holds it.
#[derive(Debug)]
struct Running {
    base: BlockId,
    /// Rings, start-up page and channels.
    side: BlockId,
    channel: Slot,
    /// Slots that are emptied when it ends.
    slots: Vec<Slot>,
}

/// A message that waits for room in the ring.
#[derive(Debug)]
struct Queued {
    bytes: Vec<u8>,
    /// The function whose limit it is, if it is one.
    limit_of: Option<u8>,
}

/// The market's side of such a server.
#[derive(Debug)]
pub struct DeviceServer {
    role: Role,
    time: Slot,
    tsc_hz: u64,
    running: Option<Running>,
    outbox: VecDeque<Queued>,
    /// The server sleeps and has to be signalled.
    unsignalled: bool,
}

impl DeviceServer {
    /// Reserves its CPU time, a budget and a period in ticks out of `core_time`. It is not started.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn reserve<M: Machine>(
        root: &mut Root<M>,
        role: Role,
        core_time: Slot,
        (budget, period): (u64, u64),
        tsc_hz: u64,
    ) -> Result<DeviceServer, MemoryError> {
        let time = root.slot()?;
        root.machine.split_time(core_time, budget, period, time)?;
        Ok(DeviceServer { role, time, tsc_hz, running: None, outbox: VecDeque::new(), unsignalled: false })
    }

    /// Launches it with these arguments, and with what `give` gives to its VM while that is made; slots that `give` notes
    /// are emptied at the server's end.
    ///
    /// # Errors
    /// [`MemoryError`]; what was made goes with [`DeviceServer::end`].
    pub fn start<M: Machine>(
        &mut self,
        root: &mut Root<M>,
        image: &Image<'_>,
        args: Vec<String>,
        give: impl FnOnce(&mut Root<M>, &mut Builder, &mut Vec<Slot>) -> Result<(), MemoryError>,
    ) -> Result<(), MemoryError> {
        let layout = Layout::new(image, self.role.free_pages, 0);
        let base = root.take(layout.bits)?;
        let mut running = Running { base, side: root.take(SIDE_BITS)?, channel: Slot::root(0), slots: Vec::new() };
        let mut started = Builder::new(root, running.base, layout, image);
        let launched = match &mut started {
            Ok(builder) => self
                .connect(root, builder, &mut running)
                .and_then(|()| give(root, builder, &mut running.slots))
                .and_then(|()| self.tell(root, builder, &mut running, args)),
            Err(_) => Ok(()),
        };
        self.running = Some(running);
        let builder = started?;
        launched?;
        self.outbox.clear();
        builder.launch(root)
    }

    /// Rings, channels, and the pages that the kernel writes.
    fn connect<M: Machine>(
        &self,
        root: &mut Root<M>,
        builder: &mut Builder,
        running: &mut Running,
    ) -> Result<(), MemoryError> {
        let Role { peer, event, stopped_event, rings, handler_page, .. } = self.role;
        let side = root.memory.slot(running.side);
        let (vcpu, own_vcpu) = (builder.vcpu(), Slot::root(slots::VCPU));
        root.machine.invoke(Label::VcpuBindTime, vcpu, [self.time.raw(), 0, 0, 0, 0])?;
        builder.share_rings(root, side, rings, &mut running.slots)?;
        let (handler, stats) = builder.map_kernel_pages(root)?;
        running.slots.extend([handler, stats]);
        root.map(handler, handler_page, Rights::READ)?;
        let channel = root.make(side, ObjectType::Channel, 0)?;
        running.slots.push(channel);
        running.channel = channel;
        root.machine.bind_channel(channel, own_vcpu, event)?;
        bind_other_end(root, channel, vcpu, events::MARKET)?;
        root.machine.mint_end(builder.slot(slots::MARKET), channel, READ_WRITE, 2)?;
        let stopped = root.make(side, ObjectType::Channel, 0)?;
        running.slots.push(stopped);
        bind_other_end(root, stopped, own_vcpu, stopped_event)?;
        root.machine.invoke(Label::VcpuSetHandler, vcpu, [stopped.raw(), 0, 0, 0, 0])?;
        root.machine.open_rings(peer, rings, rings + PAGE);
        Ok(())
    }

    /// The start-up page, which says what is mapped, so that it comes last.
    fn tell<M: Machine>(
        &self,
        root: &mut Root<M>,
        builder: &mut Builder,
        running: &mut Running,
        args: Vec<String>,
    ) -> Result<(), MemoryError> {
        let Role { name, app, free_pages, .. } = self.role;
        let side = root.memory.slot(running.side);
        let page = root.make(side, ObjectType::Frame, PAGE_BITS)?;
        running.slots.push(page);
        fill_start_page(root, page, &server_start(self.tsc_hz, app, name, args, free_pages, builder))?;
        builder.map(root, page, abi::START_PAGE, Rights::READ)
    }

    /// Ends the server, and takes back what it had.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn end<M: Machine>(&mut self, root: &mut Root<M>) -> Result<(), MemoryError> {
        let Some(running) = self.running.take() else { return Ok(()) };
        root.machine.close_rings(self.role.peer);
        root.give(running.base)?;
        root.give(running.side)?;
        running.slots.into_iter().try_for_each(|slot| root.drop_slot(slot))
    }

    /// Frequency of the TSC, which the server knows as well.
    pub fn tsc_hz(&self) -> u64 {
        self.tsc_hz
    }

    /// True while the server runs, or should.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Queues a message.
    pub fn send(&mut self, message: &impl Serialize) {
        self.queue(message, None);
    }

    /// Queues the limit of a function, behind what the server was told of that function before. One that still waits is
    /// forgotten, as the later word counts: however often a holder changes what it has, one limit of its function waits.
    pub fn send_limit(&mut self, function: u8, message: &impl Serialize) {
        self.outbox.retain(|queued| queued.limit_of != Some(function));
        self.queue(message, Some(function));
    }

    fn queue(&mut self, message: &impl Serialize, limit_of: Option<u8>) {
        // A server that takes nothing any more is ended by the one who waits for it; it is told everything anew then.
        if let Ok(bytes) = postcard::to_allocvec(message)
            && self.outbox.len() < self.role.most_messages
        {
            self.outbox.push_back(Queued { bytes, limit_of });
        }
    }

    /// Wakes the server after the next [`DeviceServer::flush`], as it waits for room in its ring.
    pub fn wants_signal(&mut self, attention: Attention) {
        self.unsignalled |= attention == Attention::Asleep;
    }

    /// Moves what is queued into the ring as far as there is room, and wakes the server if it sleeps. True if something is
    /// left.
    pub fn flush<M: Machine>(&mut self, machine: &mut M) -> bool {
        let Some(running) = &self.running else { return false };
        while let Some(Queued { bytes, .. }) = self.outbox.front() {
            let Ok(attention) = machine.send(self.role.peer, bytes) else { break };
            self.outbox.pop_front();
            self.unsignalled |= attention == Attention::Asleep;
        }
        if self.unsignalled {
            // A server that is gone is noticed by its handler page.
            let _ = machine.signal(running.channel);
            self.unsignalled = false;
        }
        !self.outbox.is_empty()
    }
}
