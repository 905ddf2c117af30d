//! The hardware below the storage server: what the launcher has mapped of the controller's functions, and the market's rings.
//!
//! The server has no interrupts: it sleeps until the market signals or limits are to be looked at, and looks at the controller
//! from time to time while a command is under way.

extern crate alloc;

use alloc::vec::Vec;
use device::{Clock, IoAddress, PAGE_BYTES};
use nvme_admin::AdminMemory;
use nvme_server::{Function, IoMemory, Server};
use proto::start::Start;
use proto::storage::{MAX_VFS, SERVER_IO_BASE, ToStorage, function_at, page};
use userlib::channel::{ChannelError, Endpoint};
use userlib::clock::deadline_after;
use userlib::dma::{MappedMemory, MappedRegisters, TscClock};
use userlib::{end, events, start_page};

/// Microseconds between two looks at a command that is under way.
const LOOK_US: u64 = 20;
const PAGE: usize = PAGE_BYTES as usize;

type Controller = Server<MappedRegisters, MappedMemory, TscClock>;

/// Administers the controller until the market ends the VM.
pub fn main() -> ! {
    let Some(start) = start_page::read() else { end::stop() };
    let clock = TscClock::new(start.tsc_hz, LOOK_US);
    let vfs = (1..=vfs(&start)).map(function).collect::<Vec<_>>();
    let mut server = Server::new(function(0), io_memory(), vfs, clock);
    let mut market = Endpoint::to_market();
    loop {
        let more = turn(&mut server, &mut market).unwrap_or_else(|error| panic!("the market: {error:?}"));
        let (due_ns, now_ns) = (server.due_ns(), clock.now_ns());
        if !more && due_ns > now_ns && market.announce_sleep() == Ok(true) {
            // Refused only if the own Vcpu's capability is gone.
            let _ = events::wait(events::MARKET, deadline_after(due_ns - now_ns, start.tsc_hz));
        }
        market.awake();
    }
}

/// How many virtual functions are mapped, by the argument `vfs`.
fn vfs(start: &Start) -> usize {
    let value = start.args.iter().find_map(|argument| argument.strip_prefix("vfs="));
    value.and_then(|value| value.parse().ok()).unwrap_or(0).min(MAX_VFS)
}

/// The address of a page of a function, here.
fn address(function: usize, page: u64) -> u64 {
    function_at(function) + page * PAGE_BYTES
}

/// Pages of a function's memory.
fn memory(function: usize, first: u64, pages: usize) -> MappedMemory {
    let io = IoAddress(SERVER_IO_BASE + first * PAGE_BYTES);
    // SAFETY: the launcher has mapped them here and in the function's domain for as long as the VM lives, and each is used
    // for one thing.
    unsafe { MappedMemory::new(address(function, first), io, pages * PAGE) }
}

/// A function: number 0 is the physical one.
fn function(number: usize) -> Function<MappedRegisters, MappedMemory> {
    let bytes = (page::REGISTER_PAGES * PAGE_BYTES) as u32;
    // SAFETY: the launcher has mapped the registers there for as long as the VM lives.
    let registers = unsafe { MappedRegisters::new(address(number, page::REGISTERS), bytes) };
    let one = |page| memory(number, page, 1);
    let memory =
        AdminMemory { submission: one(page::SUBMISSION), completion: one(page::COMPLETION), data: one(page::DATA) };
    Function { registers, memory }
}

fn io_memory() -> IoMemory<MappedMemory> {
    let buffer = memory(0, page::BUFFER, (page::PF_END - page::BUFFER) as usize);
    IoMemory { submission: memory(0, page::IO_SUBMISSION, 1), completion: memory(0, page::IO_COMPLETION, 1), buffer }
}

/// Takes a message of the market, and sends it reports as far as there is room. True if more is to be done.
fn turn(server: &mut Controller, market: &mut Endpoint) -> Result<bool, ChannelError> {
    let message = market.receive::<ToStorage>()?;
    let more = message.is_some();
    if let Some(message) = message {
        server.take(message);
    }
    server.poll();
    while let Some(report) = server.next_report() {
        match market.send(&report) {
            Ok(()) => {}
            // The market makes room without a sign to those who are awake.
            Err(ChannelError::Full) => {
                server.give_back(report);
                return Ok(true);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(more)
}
