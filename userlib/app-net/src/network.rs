//! The function, its buffers and the stack.

use alloc::format;
use alloc::vec::Vec;

use device::Clock;
use net::port::BUFFER_BYTES;
use net::smoltcp::iface::{Interface, SocketSet};
use net::smoltcp::wire::Ipv4Address;
use net::{Mode, Next, Port, Settings, Stack};
use userlib::dma::{MappedBuffer, MappedMemory, MappedRegisters, TscClock};
use userlib::market::Event;
use userlib::virtual_function::{MAILBOX, MOST_PAGES, RECEIVED, VirtualFunction};
use userlib::{App, Error, clock, usage};

use crate::arguments::{Driving, Rest, Wrong};

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
    /// The function, while there is one that can be used.
    function: Option<VirtualFunction>,
    /// When it is to be let go of, by the TSC, if there is notice of its end.
    use_ends: Option<u64>,
    clock: TscClock,
    driving: Driving,
    rest: Rest,
    /// Interrupts that the stack was told of.
    interrupts: u64,
    stack: Stack<MappedRegisters, MappedMemory, MappedBuffer, DESCRIPTORS>,
    /// Bytes that have left by all functions, and what the present one's counter said then.
    sent_bytes: u64,
    sent_octets: u32,
}

impl Network {
    /// Brings the function of an application up, as its arguments tell: `address` and `gateway` ([`crate::address`]), `mode`,
    /// `delay` and `batch` ([`crate::driving`]), and `rest` ([`crate::rest`]). `seed` is something that outsiders don't know. It waits for a function to be there (who has none
    /// in its base bids for one before) and for the network server, but neither for the link nor for an address. To be called
    /// once.
    ///
    /// # Errors
    /// When an argument is wrong, and as [`App::virtual_function`].
    pub fn new(app: &mut App, seed: u64) -> Result<Network, Error> {
        let failed = |wrong: Wrong| Error::failed(format!("{wrong}"));
        let address = crate::address(app.arg("address"), app.arg("gateway")).map_err(failed)?;
        let driving = crate::driving(app.arg("mode"), app.arg("delay"), app.arg("batch")).map_err(failed)?;
        let rest = crate::rest(app.arg("rest")).map_err(failed)?;
        while !app.has_vf() {
            app.wait(0)?;
        }
        let function = app.virtual_function(PAGES)?;
        let (registers, memory) = (function.registers(), function.memory());
        // SAFETY: what is behind the rings is used by these buffers only, and the function is driven by their port alone.
        let mut buffers = unsafe { memory.from_page(BUFFER_PAGE).into_buffers(BUFFER_BYTES.into()) };
        let for_receiving: Vec<MappedBuffer> = buffers.by_ref().take(Rings::MOST_RECEIVING).collect();
        let port = Port::new(registers, memory, memory.from_page(TRANSMIT_PAGE), for_receiving, buffers);
        let port = port.map_err(|error| Error::failed(format!("the queues of the virtual function: {error:?}")))?;
        let settings = Settings { mac: function.mac(), address, vector: RECEIVED, mode: driving.mode, seed };
        let clock = function.clock();
        let mut stack = Stack::new(port, registers, &settings, clock.now_ns());
        stack.port().set_send_batch(driving.send_batch);
        stack.set_interrupt_delay_us(driving.interrupt_delay_us);
        function.let_interrupt(MAILBOX);
        let sent_octets = function.counters().sent_octets;
        let (function, use_ends, interrupts) = (Some(function), app.vf_use_ends(), usage::device_interrupts());
        Ok(Network { function, use_ends, clock, driving, rest, interrupts, stack, sent_bytes: 0, sent_octets })
    }

    /// How the function is driven.
    #[must_use]
    pub fn driving(&self) -> Driving {
        self.driving
    }

    /// Changes how frames are learnt of, at any time.
    pub fn set_mode(&mut self, mode: Mode) {
        self.driving.mode = mode;
        if self.function().is_some() {
            self.stack.set_mode(mode);
        }
    }

    /// Lets at most one interrupt for received frames come in so many microseconds, at most [`MOST_INTERRUPT_DELAY_US`]; 0 lets
    /// all come. Fewer interrupts for more delay: it may be changed at any time.
    ///
    /// [`MOST_INTERRUPT_DELAY_US`]: net::MOST_INTERRUPT_DELAY_US
    pub fn set_interrupt_delay_us(&mut self, delay_us: u32) {
        self.driving.interrupt_delay_us = delay_us;
        if self.function().is_some() {
            self.stack.set_interrupt_delay_us(delay_us);
        }
    }

    /// The device is told of so many frames at once at most, at least 1; fewer when there is no more to send. May be changed at
    /// any time.
    pub fn set_send_batch(&mut self, frames: u32) {
        self.driving.send_batch = frames;
        self.stack.port().set_send_batch(frames);
    }

    /// True if the core is never given up while there is nothing to do: then each period's budget is used up.
    #[must_use]
    pub fn keeps_core(&self) -> bool {
        self.rest == Rest::Halt || self.driving.mode == Mode::Polled
    }

    /// The function, if it may be touched.
    fn function(&mut self) -> Option<&VirtualFunction> {
        self.let_go();
        self.function.as_ref()
    }

    /// Bytes that have left since the start, by the device's own count, which may lose what was sent just before a reset or
    /// the end of a function. To be asked for again before 4 GiB more have left.
    pub fn sent_bytes(&mut self) -> u64 {
        if let Some(octets) = self.function().map(|function| function.counters().sent_octets) {
            self.sent_bytes += u64::from(octets.wrapping_sub(self.sent_octets));
            self.sent_octets = octets;
        }
        self.sent_bytes
    }

    /// The time that the stack goes by, in nanoseconds since some moment.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    /// True while there is a function, and the cable has a link. What is sent without one is lost, and sent again.
    #[must_use]
    pub fn link_is_up(&self) -> bool {
        self.function.as_ref().is_some_and(VirtualFunction::link_is_up)
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

    /// Takes in what came, lets the sockets send, and says what to do when they have been looked at. Without a function the
    /// sockets stay as they are.
    pub fn poll(&mut self) -> Next {
        if self.function().is_none() {
            return Next::Sleep(None);
        }
        self.hear();
        let now_ns = self.now_ns();
        self.stack.poll(now_ns)
    }

    /// The same, and requests to a UDP port are answered where they lie; see [`Stack::poll_and_answer`].
    pub fn poll_and_answer(&mut self, port: u16, answer: impl FnMut(&[u8], &mut [u8]) -> Option<usize>) -> Next {
        if self.function().is_none() {
            return Next::Sleep(None);
        }
        self.hear();
        let now_ns = self.now_ns();
        self.stack.poll_and_answer(now_ns, port, answer)
    }

    /// Tells the stack if anything has interrupted, as a mode may mask interrupts then.
    fn hear(&mut self) {
        let now = usage::device_interrupts();
        if now != self.interrupts {
            self.interrupts = now;
            self.stack.interrupted();
        }
    }

    /// The next thing that has happened in the market, if any; no exit unless a lease has arrived. If the function was reset,
    /// it is up again when [`Event::NicReset`] is returned, and if another one was bought, that is up when
    /// [`Event::VfLeased`] is, unless the network server does not let it through: then it goes on without.
    ///
    /// # Errors
    /// When the market is gone, or the function does not come up again.
    pub fn event(&mut self, app: &mut App) -> Result<Option<Event>, Error> {
        let event = app.poll()?;
        self.follow(app, event.as_ref())?;
        Ok(event)
    }

    /// Rests, as the argument `rest` says, until a frame comes, something has happened in the market, or as long as `next` and
    /// `deadline` (a TSC value; 0: none) say; who halts does so at times for nothing. Then [`Network::event`] and
    /// [`Network::poll`] may have something. A function that was reset is up again afterwards.
    ///
    /// # Errors
    /// As [`Network::event`].
    pub fn rest(&mut self, app: &mut App, next: Next, deadline: u64) -> Result<Option<Event>, Error> {
        let Some(deadline) = self.due(app, next, deadline) else { return self.event(app) };
        let event = match self.rest {
            Rest::Wait => app.wait_for_devices(deadline)?,
            Rest::Halt => app.halt_for_devices(deadline)?,
        };
        self.follow(app, event.as_ref())?;
        if let Some(function) = &mut self.function
            && function.look_after(app)?
        {
            self.restart()?;
        }
        Ok(event)
    }

    /// Does what an event means for the function.
    fn follow(&mut self, app: &mut App, event: Option<&Event>) -> Result<(), Error> {
        self.use_ends = app.vf_use_ends();
        self.let_go();
        match event {
            Some(Event::VfTaken) => self.function = None,
            Some(Event::VfLeased) if !self.is_over() => {
                match app.virtual_function(PAGES) {
                    Ok(function) => self.function = Some(function),
                    // Without this one: the next one may work.
                    Err(Error::NoFunction) => return Ok(()),
                    Err(error) => return Err(error),
                }
                self.restart()?;
            }
            Some(Event::NicReset) => {
                if let Some(function) = &mut self.function {
                    function.reset(app)?;
                    self.restart()?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Touches the function no more when its end is near.
    fn let_go(&mut self) {
        if self.is_over() {
            self.function = None;
        }
    }

    fn is_over(&self) -> bool {
        self.use_ends.is_some_and(|end| clock::now() >= end)
    }

    /// Halts on the core, which stays this VM's and is charged, until a frame comes, or as long as `next` and `deadline` (as
    /// for [`Network::rest`]) say. True unless it was for nothing; without a function it returns at once. No exit; see
    /// [`VirtualFunction::watch`].
    ///
    /// # Errors
    /// When a function that was reset does not come up again.
    pub fn watch(&mut self, app: &mut App, next: Next, deadline: u64) -> Result<bool, Error> {
        let Some(deadline) = self.due(app, next, deadline) else { return Ok(true) };
        let Some(function) = &mut self.function else { return Ok(false) };
        let has_come = function.watch(deadline);
        if function.look_after(app)? {
            self.restart()?;
        }
        Ok(has_come)
    }

    /// The TSC value up to which to wait (0: for ever); `None` if there is something to be done already.
    fn due(&self, app: &App, next: Next, deadline: u64) -> Option<u64> {
        let earlier = |deadline: u64, until: u64| if deadline == 0 { until } else { until.min(deadline) };
        let deadline = match next {
            Next::Look => return None,
            Next::Sleep(None) => deadline,
            Next::Sleep(Some(until_ns)) => {
                let left_us = until_ns.saturating_sub(self.now_ns()).div_ceil(1_000);
                earlier(deadline, app.clock().in_us(left_us))
            }
        };
        let use_ends = self.use_ends.filter(|_| self.function.is_some());
        Some(use_ends.map_or(deadline, |end| earlier(deadline, end)))
    }

    /// Sets the queues up anew on a function that has just come up.
    fn restart(&mut self) -> Result<(), Error> {
        let Some(function) = &self.function else { return Ok(()) };
        let (registers, memory) = (function.registers(), function.memory());
        let Driving { mode, interrupt_delay_us, .. } = self.driving;
        let transmit = memory.from_page(TRANSMIT_PAGE);
        let restarted = self.stack.restart(registers, memory, transmit, mode, interrupt_delay_us);
        restarted.map_err(|error| Error::failed(format!("the queues of the virtual function: {error:?}")))?;
        self.stack.set_mac(function.mac());
        self.sent_octets = function.counters().sent_octets;
        function.let_interrupt(MAILBOX);
        Ok(())
    }
}
