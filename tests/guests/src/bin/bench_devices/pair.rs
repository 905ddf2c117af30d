//! Two network stacks over two virtual functions: a server's, whose work is counted, and a client's.

use alloc::string::String;
use device::Clock;
use guests::card::{self, Card, CardPort};
use guests::measure::{Counted, IoCost, Meter};
use guests::root::Root;
use net::smoltcp::iface::SocketSet;
use net::smoltcp::wire::{IpEndpoint, Ipv4Address, Ipv4Cidr};
use net::{Address, Mode, Next, Stack};
use userlib::arch::{disable_interrupts, enable_interrupts};
use userlib::dma::{MappedBuffer, MappedMemory, MappedRegisters, TscClock};

/// The functions.
const SERVER: u16 = 0;
const CLIENT: u16 = 1;
/// Nanoseconds after which an answer comes no more.
const PATIENCE_NS: u64 = 5_000_000_000;

/// A stack over a function with these registers.
pub type Over<R> = Stack<R, MappedMemory, MappedBuffer, { card::DESCRIPTORS }>;

/// What the server does in a turn, at this time in nanoseconds: polls its stack and does its work. Returns what to do next, and
/// whether there is more work.
pub trait Turn: FnMut(&mut Over<Counted>, u64) -> (Next, bool) {}
impl<T: FnMut(&mut Over<Counted>, u64) -> (Next, bool)> Turn for T {}

/// Where the server is.
pub fn server_at(port: u16) -> IpEndpoint {
    IpEndpoint::new(address(SERVER).into(), port)
}

fn address(function: u16) -> Ipv4Address {
    Ipv4Address::new(10, 0, 0, 1 + function as u8)
}

/// The two.
pub struct Pair {
    /// The clock of everything.
    pub clock: TscClock,
    /// Registers of the server's function.
    pub registers: Counted,
    /// What the server's turns cost.
    pub meter: Meter,
    /// The adapter.
    pub card: Card,
    server: Over<Counted>,
    /// When the server is to look again without an interrupt, in nanoseconds.
    due_ns: u64,
    client: Over<MappedRegisters>,
}

fn stack<R: device::Registers + Clone>(
    port: CardPort<R>,
    registers: R,
    function: u16,
    mode: Mode,
    clock: &TscClock,
) -> Over<R> {
    let address = Address::Static { address: Ipv4Cidr::new(address(function), 24), gateway: None };
    let settings = net::Settings { mac: card::mac(function), address, vector: 0, mode, seed: function.into() };
    Stack::new(port, registers, &settings, clock.now_ns())
}

impl Pair {
    /// Brings the adapter up, and both functions. The server is woken by interrupts, which it gets in its turns only.
    pub fn new(root: &mut Root) -> Result<Pair, String> {
        let physical = card::find().ok_or("there is no 82576")?;
        let mut card = Card::new(root, physical, 3).map_err(crate::refused("the adapter is set up"))?;
        let server = card
            .function(root, SERVER, card.capability(SERVER), Counted)
            .map_err(crate::refused("the server's function is set up"))?;
        let client = card
            .function(root, CLIENT, card.capability(CLIENT), |registers| registers)
            .map_err(crate::refused("the client's is set up"))?;
        disable_interrupts();
        let (clock, registers) = (card.clock, server.registers);
        Ok(Pair {
            clock,
            registers,
            meter: Meter::new(|| card::interrupts(SERVER)),
            card,
            due_ns: 0,
            server: stack(server.port, registers, SERVER, Mode::Interrupt, &clock),
            client: stack(client.port, client.registers, CLIENT, Mode::Polled, &clock),
        })
    }

    /// The server's sockets.
    pub fn server(&mut self) -> &mut SocketSet<'static> {
        self.server.sockets()
    }

    /// The client's stack.
    pub fn client(&mut self) -> &mut Over<MappedRegisters> {
        &mut self.client
    }

    /// A turn of the server, if it is woken: takes its interrupts and does what there is to do, up to where it would sleep.
    fn serve(&mut self, turn: &mut impl Turn) {
        let (server, clock) = (&mut self.server, self.clock);
        self.meter.start();
        enable_interrupts();
        // The instruction behind the enabling one is still without.
        core::hint::spin_loop();
        if !card::is_interrupted(SERVER) && clock.now_ns() < self.due_ns {
            disable_interrupts();
            return;
        }
        loop {
            if card::take_interrupt(SERVER) {
                server.interrupted();
            }
            if let (Next::Sleep(until_ns), false) = turn(server, clock.now_ns()) {
                self.due_ns = until_ns.unwrap_or(u64::MAX);
                break;
            }
        }
        disable_interrupts();
        self.meter.stop();
    }

    /// Lets client and server take turns until the client has what it wants; a server that was not interrupted sleeps on.
    /// Returns what the server's turns cost.
    pub fn until(
        &mut self,
        turn: &mut impl Turn,
        mut is_done: impl FnMut(&mut SocketSet<'static>) -> bool,
    ) -> Result<IoCost, String> {
        let end = self.clock.now_ns() + PATIENCE_NS;
        while !is_done(self.client.sockets()) {
            let now_ns = self.clock.now_ns();
            if now_ns > end {
                return Err("no answer came".into());
            }
            self.client.poll(now_ns);
            self.serve(turn);
        }
        Ok(self.meter.take())
    }
}
