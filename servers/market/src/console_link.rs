//! The console server: its launch, and what the market sends to it.

use crate::archive::Archive;
use crate::boot::Boot;
use crate::launch::{Builder, Layout};
use crate::machine::{Attention, Invoke, Machine, Peer, Slot};
use crate::memory::{MemoryError, PAGE_BITS};
use crate::root::{Root, SERVER_WINDOW};
use crate::server::CONSOLE_EVENT;
use alloc::{
    collections::VecDeque,
    string::{String, ToString},
    vec::Vec,
};
use cap_spec::abi::{self, Label, MARKET_RING, ObjectType, Rights, slots};
use proto::console::ToConsole;
use proto::host::Record;
use proto::start::{FIRST_CLIENT_SLOT, IRQ_SLOT, MARKET_CLIENT, PORT_SLOTS, RING_STRIDE, Start};

/// Index that the console server has in its start-up page and in records.
pub const CONSOLE_APP: u16 = 0xfffe;
/// First port and number of ports of COM1, COM2 and the debug-exit port.
pub const PORTS: [(u16, u16); 3] = [(0x3f8, 8), (0x2f8, 8), (0xf4, 4)];
/// Interrupt route of COM1.
const COM1_ROUTE: u64 = 4;
/// Event bit for the console server's own end.
pub const CONSOLE_STOPPED_EVENT: u64 = 1 << 33;
/// Where the console server's handler page is mapped.
pub const CONSOLE_HANDLER_PAGE: u64 = SERVER_WINDOW + 0x4000;
/// Pages that the console server can retype: none, its image has the memory it needs.
const FREE_PAGES: u64 = 0;
/// The core that it runs on.
pub const CONSOLE_CORE: u8 = 0;
/// Its CPU time there, in microseconds: a short period, so that lines do not wait.
const BUDGET_MICROS: u64 = 300;
const PERIOD_MICROS: u64 = 5_000;
/// Messages that wait for room in the ring to it; further records are dropped and counted.
const MAX_OUTBOX: usize = 16_384;
const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);

/// The market's side of the console server.
#[derive(Debug)]
pub struct ConsoleLink {
    /// The market's end of its channel.
    pub channel: Slot,
    /// For each application, the original of its channel to the console server, which speaks for its own end.
    pub app_channels: Vec<Slot>,
    /// For each application, the frames of its rings: to the console server, from it.
    pub app_rings: Vec<[Slot; 2]>,
    outbox: VecDeque<Vec<u8>>,
    /// The console server sleeps and has to be signalled.
    pub(crate) unsignalled: bool,
    /// Messages that were dropped.
    pub lost: u64,
}

impl ConsoleLink {
    /// Launches the console server with channels and rings for the market and all applications of the plan.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn launch<M: Machine>(
        root: &mut Root<M>,
        boot: &Boot,
        archive: &Archive<'_>,
    ) -> Result<ConsoleLink, MemoryError> {
        let layout = Layout::new(&archive.console, FREE_PAGES, 0);
        let block = root.take(layout.bits)?;
        let mut builder = Builder::new(root, block, layout, &archive.console)?;
        let vcpu = builder.vcpu();
        let own_vcpu = Slot::root(slots::VCPU);
        let time = root.slot()?;
        let (budget, period) = console_reservation(boot.tsc_hz);
        root.machine.split_time(boot.time(CONSOLE_CORE), budget, period, time)?;
        root.machine.invoke(Label::VcpuBindTime, vcpu, [time.raw(), 0, 0, 0, 0])?;
        let handler_channel = root.make_own(ObjectType::Channel, 0)?;
        bind_other_end(root, handler_channel, own_vcpu, CONSOLE_STOPPED_EVENT)?;
        root.machine.invoke(Label::VcpuSetHandler, vcpu, [handler_channel.raw(), 0, 0, 0, 0])?;
        let (handler, _stats) = builder.map_kernel_pages(root)?;
        root.map(handler, CONSOLE_HANDLER_PAGE, Rights::READ)?;
        for ((first, count), slot) in PORTS.into_iter().zip(PORT_SLOTS) {
            let to = builder.slot(slot);
            let arguments = [first.into(), count.into(), to.holder().raw(), to.index().into(), 0];
            root.machine.invoke(Label::IoPortSplit, Slot::root(slots::CONSOLE), arguments)?;
        }
        root.machine.split_irq(Slot::root(slots::IRQ), COM1_ROUTE, builder.slot(IRQ_SLOT))?;
        let (mut channels, mut rings) = (Vec::new(), Vec::new());
        for client in 0..=archive.plan.apps.len() {
            let channel = root.make_own(ObjectType::Channel, 0)?;
            bind_other_end(root, channel, vcpu, 1 << client)?;
            let end = builder.slot(FIRST_CLIENT_SLOT + client as u16);
            root.machine.mint_end(end, channel, READ_WRITE, 2)?;
            let mut frames = [Slot::root(0); 2];
            for (page, frame) in (0u64..).zip(&mut frames) {
                *frame = root.make_own(ObjectType::Frame, PAGE_BITS)?;
                let gpa = MARKET_RING + client as u64 * RING_STRIDE + (page << PAGE_BITS);
                builder.map(root, *frame, gpa, READ_WRITE)?;
            }
            channels.push(channel);
            rings.push(frames);
        }
        let channel = channels.remove(MARKET_CLIENT);
        let market_rings = rings.remove(MARKET_CLIENT);
        for (page, frame) in (0u64..).zip(market_rings) {
            let copy = root.slot()?;
            root.machine.copy(copy, frame, READ_WRITE)?;
            root.map(copy, SERVER_WINDOW + (page << PAGE_BITS), READ_WRITE)?;
        }
        root.machine.bind_channel(channel, own_vcpu, CONSOLE_EVENT)?;
        root.machine.open_rings(Peer::Console, SERVER_WINDOW + (1 << PAGE_BITS), SERVER_WINDOW);
        // It is told its clients' names as arguments, in the order of their numbers.
        let names = archive.plan.apps.iter().map(|app| app.name.clone());
        let args = core::iter::once("market".to_string()).chain(names).collect();
        let start = server_start(boot.tsc_hz, CONSOLE_APP, "console", args, FREE_PAGES, &builder);
        let page = root.make_own(ObjectType::Frame, PAGE_BITS)?;
        fill_start_page(root, page, &start)?;
        builder.map(root, page, abi::START_PAGE, Rights::READ)?;
        builder.launch(root)?;
        Ok(ConsoleLink {
            channel,
            app_channels: channels,
            app_rings: rings,
            outbox: VecDeque::new(),
            unsignalled: false,
            lost: 0,
        })
    }

    /// Queues a message.
    pub fn send(&mut self, message: &ToConsole) {
        match postcard::to_allocvec(message) {
            Ok(bytes) if self.outbox.len() < MAX_OUTBOX && bytes.len() <= proto::MAX_MESSAGE => {
                self.outbox.push_back(bytes);
            }
            _ => self.lost += 1,
        }
    }

    /// Queues a record for the host.
    pub fn record(&mut self, record: Record) {
        self.send(&ToConsole::Record(record));
    }

    /// Moves what is queued into the ring as far as there is room, and wakes the console server if it sleeps. True if
    /// something is left.
    pub fn flush<M: Machine>(&mut self, machine: &mut M) -> bool {
        while let Some(message) = self.outbox.front() {
            let Ok(attention) = machine.send(Peer::Console, message) else { break };
            self.outbox.pop_front();
            self.unsignalled |= attention == Attention::Asleep;
        }
        if self.unsignalled {
            // A console server that is gone is noticed by its handler page.
            let _ = machine.signal(self.channel);
            self.unsignalled = false;
        }
        !self.outbox.is_empty()
    }
}

/// Budget and period of the console server, in ticks.
pub const fn console_reservation(tsc_hz: u64) -> (u64, u64) {
    (tsc_hz / 1000 * BUDGET_MICROS / 1000, tsc_hz / 1000 * PERIOD_MICROS / 1000)
}

/// Binds end 2 of a channel, whose original is in `channel`, to a receiver.
pub fn bind_other_end<M: Machine>(root: &mut Root<M>, channel: Slot, vcpu: Slot, bits: u64) -> Result<(), MemoryError> {
    let end = root.slot()?;
    root.machine.mint_end(end, channel, Rights::all(), 2)?;
    root.machine.bind_channel(end, vcpu, bits)?;
    root.drop_slot(end)
}

/// Writes a start-up page: length, then contents.
pub fn fill_start_page<M: Machine>(root: &mut Root<M>, page: Slot, start: &Start) -> Result<(), MemoryError> {
    let mut bytes = Vec::from([0; 4]);
    // Longer than a page only with arguments longer than a page: they are then left out.
    let mut start = start.clone();
    while let Ok(encoded) = postcard::to_allocvec(&start) {
        if encoded.len() + bytes.len() <= 1 << PAGE_BITS {
            bytes[..].copy_from_slice(&(encoded.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&encoded);
            break;
        }
        if start.args.pop().is_none() {
            break;
        }
    }
    root.fill(page, PAGE_BITS, &bytes)
}

/// The start-up page of a server, of which most says nothing to it.
pub fn server_start(tsc_hz: u64, app: u16, name: &str, args: Vec<String>, free_pages: u64, builder: &Builder) -> Start {
    Start {
        version: proto::VERSION,
        app,
        name: name.to_string(),
        args,
        goods: Vec::new(),
        cpu_good: 0,
        interval_ticks: Vec::new(),
        epoch_tsc: 0,
        tsc_hz,
        valuation: 0,
        budget: 0,
        income_per_second: 0,
        deadline_tsc: 0,
        input_bytes: 0,
        bases: Vec::new(),
        base_charges: Vec::new(),
        base_pages: free_pages as u32,
        free_slots_end: builder.free_slots_end(),
        image_end: builder.image_end(),
        seed: 0,
        nic_mac: None,
        storage_units: 0,
        storage: None,
        has_vf: false,
    }
}
