//! The function, its buffers and the stack.

use alloc::format;
use alloc::vec::Vec;

use device::Clock;
use net::port::BUFFER_BYTES;
use net::smoltcp::iface::{Interface, SocketSet};
use net::smoltcp::wire::Ipv4Address;
use net::{Mode, Next, Port, Settings, Stack};
use userlib::dma::{MappedBuffer, MappedMemory, MappedRegisters};
use userlib::market::Event;
use userlib::virtual_function::{MAILBOX, MOST_PAGES, RECEIVED, VirtualFunction};
use userlib::{App, Error};

/// Descriptors of each ring.
const DESCRIPTORS: usize = 64;
/// Pages of the memory that are rings: one each way.
const TRANSMIT_PAGE: usize = 1;
const BUFFER_PAGE: usize = 2;
type Rings = Port<MappedRegisters, MappedMemory, MappedBuffer, DESCRIPTORS>;
const BUFFERS: usize = Rings::MOST_RECEIVING + Rings::MOST_SENDING;
/// Pages of the application's base that the function reaches.
pub const PAGES: u16 = (BUFFER_PAGE + BUFFERS.div_ceil(4096 / BUFFER_BYTES as usize)) as u16;
const _: () = assert!(PAGES <= MOST_PAGES);

/// An application's network.
pub struct Network {
    function: VirtualFunction,
    stack: Stack<MappedRegisters, MappedMemory, MappedBuffer, DESCRIPTORS>,
}

impl Network {
    /// Brings the function of an application up, with the address that its arguments `address` and `gateway` tell
    /// ([`crate::address`]). `seed` is something that outsiders don't know. It waits for the network server, but neither for
    /// the link nor for an address. To be called once.
    ///
    /// # Errors
    /// When an argument is wrong, and as [`App::virtual_function`].
    pub fn new(app: &mut App, seed: u64) -> Result<Network, Error> {
        let address = crate::address(app.arg("address"), app.arg("gateway"));
        let address = address.map_err(|wrong| Error::failed(format!("{wrong}")))?;
        let function = app.virtual_function(PAGES)?;
        let (registers, memory) = (function.registers(), function.memory());
        // SAFETY: what is behind the rings is used by these buffers only, and the function is driven by their port alone.
        let mut buffers = unsafe { memory.from_page(BUFFER_PAGE).into_buffers(BUFFER_BYTES.into()) };
        let for_receiving: Vec<MappedBuffer> = buffers.by_ref().take(Rings::MOST_RECEIVING).collect();
        let port = Port::new(registers, memory, memory.from_page(TRANSMIT_PAGE), for_receiving, buffers);
        let port = port.map_err(|error| Error::failed(format!("the queues of the virtual function: {error:?}")))?;
        let settings = Settings { mac: function.mac(), address, vector: RECEIVED, mode: Mode::Interrupt, seed };
        let stack = Stack::new(port, registers, &settings, function.clock().now_ns());
        function.let_interrupt(MAILBOX);
        Ok(Network { function, stack })
    }

    /// The time that the stack goes by, in nanoseconds since some moment.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.function.clock().now_ns()
    }

    /// True while the cable has a link. What is sent without one is lost, and sent again.
    #[must_use]
    pub fn link_is_up(&self) -> bool {
        self.function.link_is_up()
    }

    /// The own address; `None` until a DHCP server has told it.
    #[must_use]
    pub fn address(&self) -> Option<Ipv4Address> {
        self.stack.address()
    }

    /// The sockets. What is done with them goes out with the next poll.
    pub fn sockets(&mut self) -> &mut SocketSet<'static> {
        self.stack.sockets()
    }

    /// The interface and the sockets, for connections to others.
    pub fn interface(&mut self) -> (&mut Interface, &mut SocketSet<'static>) {
        self.stack.interface()
    }

    /// Takes in what came, lets the sockets send, and says what to do when they have been looked at.
    pub fn poll(&mut self) -> Next {
        let now_ns = self.now_ns();
        self.stack.poll(now_ns)
    }

    /// The next thing that has happened in the market, if any; no exit unless a lease has arrived. If the function was reset,
    /// it is up again when [`Event::NicReset`] is returned.
    ///
    /// # Errors
    /// When the market is gone, or the function does not come up again.
    pub fn event(&mut self, app: &mut App) -> Result<Option<Event>, Error> {
        let event = app.poll()?;
        if event == Some(Event::NicReset) {
            self.function.reset()?;
            self.restart()?;
        }
        Ok(event)
    }

    /// Gives the core up until a frame comes, something has happened in the market, or as long as `next` and `deadline` (a
    /// TSC value; 0: none) say. Then [`Network::event`] and [`Network::poll`] may have something. A function that was reset
    /// is up again afterwards.
    ///
    /// # Errors
    /// As [`Network::event`].
    pub fn rest(&mut self, app: &mut App, next: Next, deadline: u64) -> Result<Option<Event>, Error> {
        let deadline = match next {
            Next::Look => return self.event(app),
            Next::Sleep(None) => deadline,
            Next::Sleep(Some(until_ns)) => {
                let left_us = until_ns.saturating_sub(self.now_ns()).div_ceil(1_000);
                let until = app.clock().in_us(left_us);
                if deadline == 0 { until } else { until.min(deadline) }
            }
        };
        let event = self.function.wait(app, deadline)?;
        let was_reset = event == Some(Event::NicReset);
        if was_reset {
            self.function.reset()?;
        }
        if was_reset || self.function.look_after()? {
            self.restart()?;
        }
        Ok(event)
    }

    fn restart(&mut self) -> Result<(), Error> {
        let (registers, memory) = (self.function.registers(), self.function.memory());
        let restarted = self.stack.restart(registers, memory, memory.from_page(TRANSMIT_PAGE));
        restarted.map_err(|error| Error::failed(format!("the queues of the virtual function: {error:?}")))?;
        self.function.let_interrupt(MAILBOX);
        Ok(())
    }
}
