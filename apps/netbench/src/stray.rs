//! The role `stray`: the own function is told of frames where it must not read, and every one that was stopped is heard of.

use device::IoAddress;
use igbvf::offload::Offload;
use igbvf::{Segment, TransmitQueue};
use userlib::dma::{MappedMemory, MappedRegisters};
use userlib::nic::MEMORY_PAGES;
use userlib::stopped::Stray;
use userlib::virtual_function::VirtualFunction;
use userlib::{App, Error, clock, println};

/// Where the first frame is told to be, and each further one a page on: above what the function reaches.
const OUTSIDE: u64 = 0x4000_0000;
const PAGE: u64 = 4096;
const BYTES: u16 = 64;
/// Frames that are sent while nobody takes what was stopped: more than the kernel keeps.
const UNHEARD: u64 = 12;
/// Microseconds between two of them: an IOMMU may record one at a time of a function, and the kernel looks the more seldom
/// the more it finds.
const PAUSE_US: u64 = 140_000;
/// Microseconds after which what is to be heard must have come.
const PATIENCE_US: u64 = 500_000;

/// The function's queue, and the frames that it was told of.
struct Sender {
    queue: TransmitQueue<MappedRegisters, MappedMemory, (), 16>,
    sent: u64,
}

impl Sender {
    /// Tells the function of a frame that lies where it must not read; returns where.
    fn send(&mut self) -> Result<u64, Error> {
        let address = OUTSIDE + self.sent * PAGE;
        self.sent += 1;
        let segment = Segment { address: IoAddress(address), bytes: BYTES };
        while self.queue.completed().is_some() {}
        self.queue.send(&[segment], &Offload::NONE, ()).map_err(|_| Error::failed("the ring is full"))?;
        self.queue.flush();
        Ok(address)
    }
}

/// Strays.
///
/// # Errors
/// When there is no function.
pub fn run(app: &mut App) -> Result<(), Error> {
    let mut function = app.virtual_function(MEMORY_PAGES)?;
    while !function.link_is_up() {
        app.sleep_until(app.clock().in_us(1_000));
    }
    let queue = TransmitQueue::new(function.registers(), function.memory(), 0);
    let queue = queue.map_err(|error| Error::failed(alloc::format!("a queue: {error:?}")))?;
    let mut sender = Sender { queue, sent: 0 };
    let none = app.stopped()?;
    let address = sender.send()?;
    let first = wait(app, &mut function)?;
    println!("before: {none:?}; after a frame at {address:#x}: {first:x?}");
    for _ in 0..UNHEARD {
        sender.send()?;
        app.sleep_until(app.clock().in_us(PAUSE_US));
    }
    let (mut kept, mut lost) = (0, 0);
    while let Some(stray) = app.stopped()? {
        (kept, lost) = (kept + 1, stray.lost);
    }
    println!("of {UNHEARD} more {kept} kept, {lost} lost");
    app.work_done(sender.sent, sender.sent);
    Ok(())
}

/// Sleeps until something was stopped, or for too long.
fn wait(app: &mut App, function: &mut VirtualFunction) -> Result<Option<Stray>, Error> {
    let deadline = app.clock().in_us(PATIENCE_US);
    while clock::now() < deadline {
        let stray = app.stopped()?;
        if stray.is_some() {
            return Ok(stray);
        }
        function.wait(app, deadline)?;
    }
    Ok(None)
}
