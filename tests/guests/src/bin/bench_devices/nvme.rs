//! Rows of an NVMe controller: reads by an application's queue pair of a virtual function, as the server hands it over.
//!
//! Where the data of a read go is worked out once per page of data, as drivers do. What is counted: putting the commands in and ringing, and from the first completion that is there (or the first
//! instruction of the handler) to the last that is taken. The time between belongs to nobody's work: the VM would sleep, or
//! do something else. At queue depth 32 all commands are put in, then all completions are taken; interrupts wait for them.

use crate::refused;
use alloc::format;
use alloc::string::String;
use core::sync::atomic::{AtomicU64, Ordering};
use device::{DmaMemory, PAGE_BYTES};
use guests::function::{self, find, map_pages, shared_memory};
use guests::measure::{Counted, IoCost, Meter, RUNS, tell_io};
use guests::root::Root;
use nvme_admin::{AdminMemory, Controller, Error, QueueRequest, Resource};
use nvme_queue::{Access, QueuePair, Rings, Transfer};
use userlib::arch::{TrapFrame, disable_interrupts, enable_interrupts, end_of_interrupt, set_handler};
use userlib::cap::{Cap, IommuDomain, PciFunction, own};
use userlib::dma::{MappedMemory, MappedRegisters, TscClock};

/// Where the memory of the physical and of the virtual function is: a GiB apart.
const MEMORY: u64 = 0x1_0000_0000;
/// Pages of a function's memory: three for the administration, the rings, and the data of each command.
const SUBMISSION: usize = 3;
const COMPLETION: usize = 4;
const DATA: usize = 8;
const ENTRIES: usize = 64;
const NAMESPACE: u32 = 1;
const VECTOR: u8 = 0x50;
/// The message of I/O completions; that of the administration is 0.
const MESSAGE: u16 = 1;
/// Batches that are measured together.
const BATCHES: u64 = 8;
/// Looks after which a completion comes no more.
const MOST_LOOKS: u64 = 100_000_000;
/// Looks between a completion and its message, which another thread of the emulator may send a little later.
const MESSAGE_LOOKS: u64 = 5_000;

type Admin = Controller<MappedRegisters, MappedMemory, TscClock>;

static INTERRUPTS: AtomicU64 = AtomicU64::new(0);

fn interrupted(_: &mut TrapFrame) {
    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
    end_of_interrupt();
}

fn failed(what: &'static str) -> impl Fn(Error) -> String {
    move |error| format!("{what}: {error:?}")
}

/// A function under administration, with its memory.
fn administer(
    root: &mut Root,
    function: Cap<PciFunction>,
    number: u64,
    clock: TscClock,
) -> Result<(MappedRegisters, MappedMemory), String> {
    function::until_ready(function, &clock).map_err(refused("the function is ready"))?;
    let domain: Cap<IommuDomain> = root.make(0).map_err(refused("a domain is made"))?;
    let memory = shared_memory(root, domain, MEMORY + (number << 30)).map_err(refused("memory is made"))?;
    let registers = map_pages(root, function, 0, 2).map_err(refused("the registers are mapped"))?;
    function.attach(domain).map_err(refused("the function is attached"))?;
    Ok((registers, memory))
}

fn enable(registers: MappedRegisters, memory: MappedMemory, clock: TscClock) -> Result<Admin, String> {
    let [submission, completion, data] = [0, 1, 2].map(|page| memory.from_page(page));
    Admin::enable(registers, AdminMemory { submission, completion, data }, clock).map_err(failed("it is enabled"))
}

/// The application's side.
struct Application {
    queue: QueuePair<Counted, MappedMemory, u16, ENTRIES>,
    /// Reads into each page of data; and blocks of such a page.
    reads: [Access; ENTRIES / 2],
    blocks: u64,
    memory: MappedMemory,
    /// Completions taken so far.
    taken: usize,
    meter: Meter,
}

fn set_up(root: &mut Root) -> Result<Application, String> {
    let clock = TscClock::new(root.tsc_hz, 1_000);
    let physical = find(0x1b36, 0x10).ok_or("there is no NVMe controller")?;
    let (registers, memory) = administer(root, physical, 0, clock)?;
    let mut admin = enable(registers, memory, clock)?;
    admin.release_resources().map_err(failed("its resources are given up"))?;
    let mut admin = enable(registers, memory, clock)?;
    let first = root.slots(1);
    physical.enable_vfs(1, first).map_err(refused("it has a virtual function"))?;
    let second = admin.secondary(0).map_err(failed("the function is listed"))?.ok_or("no function is listed")?;
    let id = second.controller;
    admin.assign(id, Resource::Vectors, 2).map_err(failed("it gets vectors"))?;
    admin.assign(id, Resource::Queues, 2).map_err(failed("it gets queues"))?;
    admin.set_online(id).map_err(failed("it comes online"))?;
    admin.attach(NAMESPACE, id).map_err(failed("it gets the namespace"))?;

    let function: Cap<PciFunction> = first.cap();
    let (registers, memory) = administer(root, function, 1, clock)?;
    let irq = function::message_route(root, 0).map_err(refused("a route"))?;
    set_handler(VECTOR, Some(interrupted));
    irq.bind(own::VCPU, VECTOR)
        .and_then(|()| function.bind_msix(MESSAGE, irq))
        .map_err(refused("the message is bound"))?;
    let mut admin = enable(registers, memory, clock)?;
    let namespace = admin.namespace(NAMESPACE).map_err(failed("the namespace"))?;
    let (submission, completion) = (memory.from_page(SUBMISSION), memory.from_page(COMPLETION));
    let made = admin
        .create_queues(&QueueRequest {
            number: 1,
            entries: ENTRIES as u16,
            submission: submission.io_address(),
            completion: completion.io_address(),
            vector: Some(MESSAGE),
        })
        .map_err(failed("the queues are made"))?;
    admin.hand_over();
    let doorbells = map_pages(root, function, 1, 1).map_err(refused("the doorbells are mapped"))?;
    let rings = Rings { doorbells: Counted(doorbells), first: made.first, stride: made.stride, submission, completion };
    let queue = QueuePair::new(rings).ok_or("the rings have no memory")?;
    let read_into = |number: usize| {
        let page = memory.io_address() + (DATA + number) as u64 * PAGE_BYTES;
        namespace.reads(&Transfer::in_pages(&[page], 0, PAGE_BYTES as u32)?)
    };
    let none = read_into(0).ok_or("the namespace has no page")?;
    let reads = core::array::from_fn(|number| read_into(number).unwrap_or(none));
    let blocks = PAGE_BYTES >> namespace.block_shift;
    Ok(Application { queue, reads, blocks, memory, taken: 0, meter: Meter::new(|| INTERRUPTS.load(Ordering::Relaxed)) })
}

impl Application {
    /// Waits until so many completions are there; the queue is not touched.
    fn await_completions(&self, count: usize) -> Result<(), String> {
        let ring = self.memory.from_page(COMPLETION);
        let is_there = |number: usize| {
            // The phase turns with each round, and is 1 in the first.
            let phase = ring.load(number % ENTRIES * 2 + 1) >> 48 & 1;
            phase != (number / ENTRIES) as u64 & 1
        };
        let arrived = (0..MOST_LOOKS).any(|_| {
            core::hint::spin_loop();
            (self.taken..self.taken + count).all(is_there)
        });
        (0..MESSAGE_LOOKS).for_each(|_| core::hint::spin_loop());
        if arrived { Ok(()) } else { Err("a command did not end".into()) }
    }

    /// Reads a page by each of so many commands at once, and checks what came: zeros in the place of a pattern.
    fn read(&mut self, depth: usize, by_interrupt: bool) -> Result<(), String> {
        for number in 0..depth {
            self.memory.from_page(DATA + number).store(511, u64::MAX);
        }
        self.meter.start();
        for (number, read) in (0..depth as u16).zip(&self.reads) {
            let read = read.at(u64::from(number) * self.blocks);
            let put = read.is_some_and(|read| self.queue.submit(&read, number).is_ok());
            if !put {
                return Err("a command does not fit".into());
            }
        }
        self.queue.ring();
        self.meter.stop();
        self.await_completions(depth)?;
        self.meter.start();
        if by_interrupt {
            let before = INTERRUPTS.load(Ordering::Relaxed);
            enable_interrupts();
            while INTERRUPTS.load(Ordering::Relaxed) == before {
                core::hint::spin_loop();
            }
        }
        let (mut ended, mut are_good) = (0, true);
        while let Some(done) = self.queue.completed() {
            ended += 1;
            are_good &= done.status.is_success();
        }
        disable_interrupts();
        self.meter.stop();
        if !by_interrupt {
            // The message is as if masked: it is taken where nothing is counted.
            enable_interrupts();
            core::hint::spin_loop();
            disable_interrupts();
        }
        self.taken += ended;
        let is_zero = (0..depth).all(|number| self.memory.from_page(DATA + number).load(511) == 0);
        if ended == depth && are_good && is_zero {
            Ok(())
        } else {
            Err(format!("{ended} of {depth} commands ended well"))
        }
    }
}

/// All rows.
pub fn measure(root: &mut Root) -> Result<(), String> {
    let mut application = set_up(root)?;
    disable_interrupts();
    for (depth, by_interrupt) in [(1, false), (1, true), (32, false), (32, true)] {
        let mut best: Option<IoCost> = None;
        for _ in 0..RUNS {
            (0..BATCHES).try_for_each(|_| application.read(depth, by_interrupt))?;
            let cost = application.meter.take();
            best = Some(best.map_or(cost, |best| best.min(cost)));
        }
        let how = if by_interrupt { "by interrupt" } else { "polled" };
        let row = format!("NVMe read of 4 KiB, queue depth {depth}, {how}");
        tell_io(root, &row, BATCHES * depth as u64, best.unwrap_or_default());
    }
    Ok(())
}
