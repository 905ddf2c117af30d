//! Virtual functions change hands, again and again: each owner is another VM, which sends and receives with one until all
//! that it has is taken back while the DMA runs; the next one checks that no byte and no interrupt of the former one's
//! reaches it, and the memory that the DMA went to is clean. `cycles=N` on the command line; a line tells how it went.
//!
//! Function 0 is the root VM's: it talks to the owners. The other ones are sold in turn, one at a time, so that the time that
//! a reset takes is spent with others. What is taken back first takes turns, too: the function, its memory with the domain
//! and tables, or the VM.
#![no_std]
#![no_main]

extern crate alloc;

mod owner;

use alloc::format;
use alloc::string::String;
use device::Clock;
use guests::card::{self, Card, Vf};
use guests::driven::Program;
use guests::function::until_ready;
use guests::measure::end;
use guests::root::{CHILD_BITS, Root, option, tsc};
use net::smoltcp::phy::{Device, RxToken, TxToken};
use net::smoltcp::time::Instant;
use owner::{MEMORY_BITS, Owner};
use userlib::cap::{Cap, CpuTime, Error, Fault, PciFunction, Untyped, own};
use userlib::dma::MappedRegisters;

userlib::entry!(main);

/// The root VM's function. The others are for sale; the route of an owner's interrupt has the function's number.
const STATION: u16 = 0;
const FIRST_SOLD: u16 = 1;
const SOLD: u16 = card::MOST_FUNCTIONS - FIRST_SOLD;
/// The vectors of owners, which take turns: never the same for two owners of a function, one after the other.
const FIRST_VECTOR: u8 = 0x60;
const VECTORS: u32 = 5;
/// Milliseconds that a reset takes (PCI Express Base Specification, 6.6.2).
const RESET_MS: u64 = 100;
/// Frames of an owner that must have come before it loses all.
const FRAMES: usize = 12;
/// Nanoseconds in which an owner has sent and received.
const PATIENCE_NS: u64 = 100_000_000;

fn main() -> ! {
    let mut root = Root::new().unwrap_or_else(|fault| panic!("no root: {fault:?}"));
    let outcome = run(&mut root);
    end(&root, outcome)
}

fn refused(what: &'static str) -> impl Fn(Fault) -> String {
    move |fault| format!("{what}: {fault:?}")
}

fn run(root: &mut Root) -> Result<(), String> {
    let cycles: u32 = option("cycles").parse().map_err(|_| "cycles=N says how many")?;
    let mut resale = Resale::new(root)?;
    let mut sums = [0u64; 2];
    for cycle in 0..cycles {
        let mark = resale.root.mark();
        let counted = resale.cycle(cycle).map_err(|why| format!("cycle {cycle}: {why}"))?;
        sums = [sums[0] + counted[0], sums[1] + counted[1]];
        resale.root.return_to(mark).map_err(refused("what is left of an owner goes"))?;
    }
    resale.root.text(&format!("resale: {cycles} owners, {} frames of theirs, {} interrupts\n", sums[0], sums[1]));
    Ok(())
}

struct Resale<'a> {
    root: &'a mut Root,
    card: Card,
    station: Vf<MappedRegisters>,
    /// When a function that was sold is ready again, by the TSC.
    ready: [u64; SOLD as usize],
    time: Cap<CpuTime>,
    /// What owners are made of, and the memory of their functions: each is every second one's.
    blocks: [[Cap<Untyped>; 2]; 2],
}

impl<'a> Resale<'a> {
    fn new(root: &'a mut Root) -> Result<Resale<'a>, String> {
        let physical = card::find().ok_or("there is no 82576")?;
        let mut card = Card::new(root, physical, card::MOST_FUNCTIONS).map_err(refused("the adapter is set up"))?;
        let station = card
            .function(root, STATION, card.capability(STATION), |registers| registers)
            .map_err(refused("the station is set up"))?;
        let period = root.tsc_hz / 100;
        let make = |root: &mut Root| -> Result<_, Fault> {
            let time = root.core_time(1).split(period / 10 * 9, period, root.slot())?;
            let mut blocks = [[root.make::<Untyped>(CHILD_BITS)?, root.make(MEMORY_BITS)?]; 2];
            blocks[1] = [root.make(CHILD_BITS)?, root.make(MEMORY_BITS)?];
            Ok((time, blocks))
        };
        let (time, blocks) = make(root).map_err(refused("owners have what they are made of"))?;
        Ok(Resale { root, card, station, ready: [0; SOLD as usize], time, blocks })
    }

    fn now(&self) -> Instant {
        Instant::from_micros((self.card.clock.now_ns() / 1000) as i64)
    }

    /// Sends a frame to the owner of this function.
    fn send(&mut self, function: u16) -> Result<(), String> {
        let now = self.now();
        let to = self.station.port.transmit(now).ok_or("the station cannot send")?;
        to.consume(64, |frame| {
            frame.fill(0xa5);
            frame[..6].copy_from_slice(&card::mac(function).0);
            frame[6..12].copy_from_slice(&card::mac(STATION).0);
            frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        });
        self.station.port.flush();
        Ok(())
    }

    /// Frames of owners that the station gets, up to this many; all must be that one's of this cycle.
    fn take(&mut self, payload: u32, most: usize) -> Result<usize, String> {
        let now = self.now();
        for number in 0..most {
            let Some((frame, _)) = self.station.port.receive(now) else {
                self.station.port.flush();
                return Ok(number);
            };
            let is_right =
                frame.consume(|frame| frame[12..14] != [0x88, 0xb5] || frame[16..20] == payload.to_le_bytes());
            if !is_right {
                return Err("a frame of a former owner came".into());
            }
        }
        self.station.port.flush();
        Ok(most)
    }

    /// One owner from its first instruction to its end. Returns the frames and interrupts that it caused.
    fn cycle(&mut self, cycle: u32) -> Result<[u64; 2], String> {
        let [block, memory] = self.blocks[cycle as usize % 2];
        let turn = cycle as usize % usize::from(SOLD);
        let number = FIRST_SOLD + turn as u16;
        let sold = self.card.capability(number);
        // What is left of the reset, at once: a short sleep costs the emulator as much as a long one.
        if tsc() < self.ready[turn] {
            own::VCPU.wait(1 << 63, self.ready[turn]).map_err(refused("the reset is waited for"))?;
        }
        until_ready(sold, &self.card.clock).map_err(refused("the function is ready"))?;
        let window = self.root.window(0);
        // The former one's vector would be told from this one's.
        let vector = FIRST_VECTOR + (cycle % VECTORS) as u8;
        let owner = Owner::launch(self.root, [block, memory], self.time, sold, (number, vector))
            .map_err(refused("an owner is launched"))?;
        owner.driven.run(&Program::default()).map_err(refused("the owner runs"))?;
        // It has a domain, a bus master and an interrupt, and has asked for nothing: nothing comes, but for one interrupt that
        // the kernel raises as it has waited.
        let mut sent = Ok(());
        let work = || (0..4).for_each(|_| sent = sent.clone().and(self.send(number)));
        let came = owner.driven.watch(owner.vector, work).map_err(refused("the owner watches"))?;
        sent?;
        let others = owner.driven.all_interrupts() - owner.driven.interrupts(owner.vector);
        if !owner.is_untouched() || came > 1 || others != 0 {
            return Err(format!(
                "something of the former owner reached the next one: {came} interrupts, {others} others; its memory is \
                 untouched: {}",
                owner.is_untouched()
            ));
        }
        let frames = self.use_it(&owner, number, cycle)?;
        let interrupts = owner.driven.interrupts(owner.vector);
        take_back(&owner, sold, cycle, [block, memory])?;
        self.ready[turn] = tsc() + self.root.tsc_hz / 1000 * RESET_MS;
        // Nothing of it comes any more, and nothing reaches its memory, which is somebody else's.
        self.take(cycle, usize::MAX)?;
        let done = owner.driven.done();
        for _ in 0..4 {
            self.send(number)?;
        }
        self.card.clock.pause();
        if self.take(cycle, 1)? != 0 || owner.driven.done() != done {
            return Err("the owner still runs, or its function sends".into());
        }
        // The function never reached what the VM was made of, so it is looked at now and then only.
        let looks = if cycle.is_multiple_of(16) { 2 } else { 1 };
        for (region, bits) in [(memory, MEMORY_BITS), (block, CHILD_BITS)].into_iter().take(looks) {
            self.root.is_clean(region, bits).map_err(refused("the memory is looked at"))??;
        }
        self.root.reset_window(window);
        Ok([frames, interrupts])
    }

    /// Lets the owner send and receive until there were frames and interrupts in both directions.
    fn use_it(&mut self, owner: &Owner, function: u16, cycle: u32) -> Result<u64, String> {
        owner.ask().map_err(refused("the owner asks"))?;
        self.card.answer();
        owner.start(function, STATION, cycle).map_err(refused("the owner starts"))?;
        let end = self.card.clock.now_ns() + PATIENCE_NS;
        let mut frames = 0;
        loop {
            self.send(function)?;
            frames += self.take(cycle, FRAMES)?;
            let interrupts = owner.driven.interrupts(owner.vector).saturating_sub(1);
            let has_received = owner.has_received(STATION);
            if frames >= FRAMES && interrupts > 0 && has_received {
                return Ok(frames as u64);
            }
            if self.card.clock.now_ns() > end {
                return Err(format!("{frames} frames, {interrupts} interrupts, received: {has_received}"));
            }
            core::hint::spin_loop();
        }
    }
}

/// Takes everything back while the owner goes on.
fn take_back(
    owner: &Owner,
    sold: Cap<PciFunction>,
    cycle: u32,
    [block, memory]: [Cap<Untyped>; 2],
) -> Result<(), String> {
    let function = || sold.revoke().map_err(refused("the function is taken back"));
    let memory = || memory.revoke().map_err(refused("the memory is taken back"));
    let vm = || block.revoke().map_err(refused("the VM is taken back"));
    match cycle % 3 {
        0 => function().and_then(|()| memory()).and_then(|()| vm()),
        1 => memory().and_then(|()| vm()).and_then(|()| function()),
        _ => vm().and_then(|()| function()).and_then(|()| memory()),
    }?;
    if !sold.info().is_err_and(|fault| fault.error == Error::Busy) {
        return Err("the function is not reset".into());
    }
    // The route has nobody to interrupt any more.
    owner.irq.slot().delete().map_err(refused("the route is given back"))
}
