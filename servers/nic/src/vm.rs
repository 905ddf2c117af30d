//! The hardware below the network server: the PF's registers, and the market's rings.
//!
//! The server sleeps until the market signals, or the driver wants to look at the device. It takes no interrupt: who waits
//! with an interrupt route is woken by every NMI of its core, and pays for that with the time that meters need. So a VF's
//! message waits for the next look, 10 ms at most.

use cap_spec::abi::slots::FREE;
use device::Clock;
use nic_server::Server;
use proto::nic::{PHYSICAL_SLOT, ToNic};
use userlib::cap::{Cap, Fault, Frame, IommuDomain, PciFunction, Rights, Slot, own};
use userlib::channel::{ChannelError, Endpoint};
use userlib::clock::deadline_after;
use userlib::dma::{MappedRegisters, TscClock};
use userlib::{end, events, start_page};

/// The BAR with the registers.
const REGISTERS_BAR: u8 = 0;
/// Where the registers are mapped: behind the ring pages, below the image, where the launcher has put a page table.
const REGISTERS: u64 = 0x18_0000;
/// Pages that fit there.
const MOST_PAGES: u64 = 64;
/// Where the domain and the registers' frames go.
const DOMAIN_SLOT: u16 = FREE;
const FIRST_PAGE_SLOT: u16 = FREE + 1;
/// Messages of the market that are taken before the device has its turn.
const TURN_MESSAGES: usize = 16;

/// Drives the device until the market ends the VM.
pub fn main() -> ! {
    let Some(start) = start_page::read() else { end::stop() };
    let registers = set_up().unwrap_or_else(|fault| panic!("the physical function cannot be used: {fault:?}"));
    let clock = TscClock::new(start.tsc_hz, 0);
    let mut market = Endpoint::to_market();
    let mut server = Server::new(registers, clock.now_ns());
    loop {
        let more = serve(&mut server, &mut market, &clock).unwrap_or_else(|error| panic!("the market: {error:?}"));
        server.poll(clock.now_ns());
        send(&mut server, &mut market, &clock).unwrap_or_else(|error| panic!("the market: {error:?}"));
        let due_ns = server.due_ns();
        let now_ns = clock.now_ns();
        if !more && due_ns > now_ns && market.announce_sleep() == Ok(true) {
            // Refused only if the own Vcpu's capability is gone.
            let _ = events::wait(events::MARKET, deadline_after(due_ns - now_ns, start.tsc_hz));
        }
        market.awake();
    }
}

/// Maps the registers. The PF reaches no memory, its domain being empty, but is a bus master by that: else an adapter takes
/// nothing in from its cable, for VFs neither.
fn set_up() -> Result<MappedRegisters, Fault> {
    let function: Cap<PciFunction> = Slot::root(PHYSICAL_SLOT).cap();
    let pages = function.bar_pages(REGISTERS_BAR)?.min(MOST_PAGES);
    let frames: Cap<Frame> = function.bar(REGISTERS_BAR, 0, Slot::root(FIRST_PAGE_SLOT), pages)?;
    frames.map_row(own::VM, REGISTERS, Rights::READ | Rights::WRITE, pages.saturating_sub(1))?;
    function.attach(own::BASE.retype::<IommuDomain>(0, Slot::root(DOMAIN_SLOT))?)?;
    // SAFETY: the registers have just been mapped there, and stay as long as this VM.
    Ok(unsafe { MappedRegisters::new(REGISTERS, pages as u32 * 4096) })
}

/// Takes messages of the market. True if there may be more.
fn serve(server: &mut Server<MappedRegisters>, market: &mut Endpoint, clock: &TscClock) -> Result<bool, ChannelError> {
    for _ in 0..TURN_MESSAGES {
        match market.receive::<ToNic>()? {
            Some(message) => server.take(message, clock.now_ns()),
            None => return Ok(false),
        }
    }
    Ok(true)
}

/// Sends reports as far as there is room; the others are tried again after the next look at the device.
fn send(server: &mut Server<MappedRegisters>, market: &mut Endpoint, clock: &TscClock) -> Result<(), ChannelError> {
    while let Some(report) = server.next_report(clock.now_ns()) {
        match market.send(&report) {
            Ok(()) => {}
            Err(ChannelError::Full) => {
                server.give_back(report);
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
