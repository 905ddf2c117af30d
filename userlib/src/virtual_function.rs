//! A virtual function of the network device in the hands of its application: [`App::virtual_function`].
//!
//! This is what every use of the function has in common: its registers, the memory that it reaches, its address and its
//! interrupts. Queues are set up on top: by [`crate::nic`] for single frames, or by a network stack. The function's DMA
//! reaches so many pages of the base as were asked for and nothing else, and its interrupts come as vectors of the own IDT
//! with no exit.
//!
//! A function that was bought can be lost again, as can its successor: its registers are out of reach then, and whoever
//! touches them is stopped. So what was brought up is to be dropped under notice, by [`App::vf_use_ends`], and
//! [`App::virtual_function`] brings up the next one when the market tells of it ([`market::Event::VfLeased`]). Memory and
//! domain stay the application's.
//!
//! The function may be reset under the application's hands, as when the network server is started again. The market tells of
//! that by an event, after which [`VirtualFunction::reset`] lets it through anew; queues must then be set up again.

use alloc::format;

use device::{Clock as _, Registers as _};
use igbvf::function::{Counters, VECTORS};
use igbvf::moderation::{Mode, Moderation};
use igbvf::{Event, Function, MacAddress};
use proto::nic::BASE_PAGES;
use proto::start::{NIC_IRQ_SLOT, NIC_SLOT};

use crate::app::App;
use crate::cap::{Cap, IommuDomain, Irq, PciFunction, Slot, own};
use crate::dma::{MappedMemory, MappedRegisters, TscClock};
use crate::error::Error;
use crate::slots::MAX_RUN;
use crate::{clock, events, market, own_device, stopped};

/// Where the memory begins in the function's domain.
const IO_BASE: u64 = 0x10_0000;
/// Vector of the function's messages.
const VECTOR: u8 = 0x50;
/// Which of the function's messages tells of frames that came in.
pub const RECEIVED: u8 = 0;
/// Which tells of frames that went out.
pub const SENT: u8 = 1;
/// Which tells of the mailbox.
pub const MAILBOX: u8 = 2;
/// Most pages that the function can reach.
pub const MOST_PAGES: u16 = MAX_RUN;
/// Pages of the base for the domain of 16 KiB with alignment, and for tables and CNodes.
const OTHER_PAGES: u32 = 14;
/// Pages that any base with a function has for the memory that the function reaches; more need a larger base.
pub const USUAL_PAGES: u16 = (BASE_PAGES - OTHER_PAGES) as u16;
/// Microseconds between two looks at a function that is not ready yet.
const LOOK_US: u64 = 1_000;
/// Seconds for which the network server may take to be there and to let the function through.
const PATIENCE_S: u64 = 10;

/// A virtual function that the network server has let through.
#[derive(Debug)]
pub struct VirtualFunction {
    registers: MappedRegisters,
    memory: MappedMemory,
    clock: TscClock,
    function: Function<MappedRegisters>,
    mac: MacAddress,
}

impl App {
    /// Takes up the virtual function that this application has, in its base (`nic = true` in its scenario) or bought, and lets
    /// it reach `pages` pages (1 to [`MOST_PAGES`]) of the base, the same number every time. It waits until the network server
    /// has let the function through, but not for the link. To be called once for each function, with what was brought up
    /// before dropped.
    ///
    /// # Errors
    /// When there is none, or the base has too few pages ([`USUAL_PAGES`] it has). [`Error::NoFunction`] if the network server
    /// does not answer in 10 s, or, with a function that was bought, before its end may come.
    pub fn virtual_function(&mut self, pages: u16) -> Result<VirtualFunction, Error> {
        if !self.has_vf {
            return Err(Error::failed("this application has no virtual function now: `nic = true` in its scenario"));
        }
        let hz = self.clock().hz();
        let function: Cap<PciFunction> = Slot::root(NIC_SLOT).cap();
        let Surroundings { registers, memory, domain, .. } = self.surround(function, pages)?;
        // Who had its registers before may have left it rings: it forgets them before it reaches anything.
        registers.write32(igbvf::registers::VTCTRL, igbvf::registers::VTCTRL_RST);
        own_device::take_vector(VECTOR);
        for message in 0..u16::from(VECTORS) {
            let irq: Cap<Irq> = Slot::root(NIC_IRQ_SLOT + message).cap();
            irq.bind(own::VCPU, VECTOR)?;
            function.bind_msix(message, irq)?;
        }
        function.attach(domain)?;
        VirtualFunction::bring_up(self, registers, memory, TscClock::new(hz, LOOK_US))
    }

    /// Maps the function's registers, and, the first time, memory for the VM and, in a domain, for the function.
    fn surround(&mut self, function: Cap<PciFunction>, memory_pages: u16) -> Result<Surroundings, Error> {
        let pages = function.bar_pages(0)? as u16;
        if let Some(known) = self.surroundings {
            if (known.bar_pages, known.memory_pages) != (pages, memory_pages) {
                return Err(Error::failed("this virtual function needs other memory than the one before"));
            }
            // The frames of a function that was taken are gone from there, and with them their mappings.
            function.bar(0, 0, known.bar, pages.into())?;
            self.market().pager().map_frames_at(known.bar, pages, known.registers_at)?;
            return Ok(known);
        }
        let mut market = self.market();
        let pager = market.pager();
        let bar = pager.take_slots(pages)?;
        function.bar(0, 0, bar, pages.into())?;
        let registers_at = pager.map_frames(bar, pages)?;
        let domain = pager.make::<IommuDomain>()?;
        own_device::make_tables(pager, domain, IO_BASE)?;
        let memory = own_device::map_both(pager, domain, IO_BASE, memory_pages)?;
        stopped::listen(pager, domain)?;
        // SAFETY: just mapped, for functions alone, of which the VM has one at a time. Nothing but the registers of one is ever
        // mapped there; while there is none, an access stops the VM.
        let registers = unsafe { MappedRegisters::new(registers_at, u32::from(pages) * 4096) };
        drop(market);
        let made = Surroundings {
            bar,
            bar_pages: pages,
            registers_at,
            registers,
            memory_pages,
            memory,
            domain,
            was_stopped: false,
        };
        self.surroundings = Some(made);
        Ok(made)
    }
}

/// What a function needs besides itself: it outlives the function, and serves the next one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings {
    /// Slots for the frames of its registers.
    bar: Slot,
    bar_pages: u16,
    /// Where these are mapped.
    registers_at: u64,
    registers: MappedRegisters,
    memory_pages: u16,
    memory: MappedMemory,
    pub(crate) domain: Cap<IommuDomain>,
    /// The kernel has told of something that was stopped, which may not have been taken yet.
    pub(crate) was_stopped: bool,
}

impl VirtualFunction {
    /// Resets the function and waits for its address, for as long as the function is sure to be there and no longer than
    /// [`PATIENCE_S`]: the network server may not be there yet, or not know of this holder yet.
    fn bring_up(
        app: &mut App,
        registers: MappedRegisters,
        memory: MappedMemory,
        clock: TscClock,
    ) -> Result<VirtualFunction, Error> {
        let patience = PATIENCE_S.saturating_mul(events::tsc_hz());
        let left = app.vf_lasts_until()?.map_or(patience, |end| end.saturating_sub(clock::now()).min(patience));
        let left_ns = app.clock().us_of_ticks(left).saturating_mul(1_000);
        let up = igbvf::bring_up(registers, &clock, clock.now_ns().saturating_add(left_ns));
        let (function, mac) = up.map_err(|_| Error::NoFunction)?;
        function.route_interrupts(RECEIVED, SENT, MAILBOX);
        Ok(VirtualFunction { registers, memory, clock, function, mac })
    }

    /// Its registers.
    #[must_use]
    pub fn registers(&self) -> MappedRegisters {
        self.registers
    }

    /// The memory that it reaches.
    #[must_use]
    pub fn memory(&self) -> MappedMemory {
        self.memory
    }

    /// The clock that its driver goes by.
    #[must_use]
    pub fn clock(&self) -> TscClock {
        self.clock
    }

    /// Its Ethernet address.
    #[must_use]
    pub fn mac(&self) -> MacAddress {
        self.mac
    }

    /// True while the cable has a link. What is sent without one is lost.
    #[must_use]
    pub fn link_is_up(&self) -> bool {
        self.function.link_is_up()
    }

    /// What the device has counted of it. It begins anew after a reset, and with another function.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.function.counters()
    }

    /// Lets one of its messages come whenever there is cause, as it does not after a reset.
    pub fn let_interrupt(&self, message: u8) {
        Moderation::new(self.registers, message, Mode::Interrupt);
    }

    /// Gives the core up until the function has interrupted, something has happened in the market, which is returned, or
    /// the TSC has reached `deadline` (0: never). Look for frames, and after the function, before the next call.
    ///
    /// # Errors
    /// When the market is gone.
    pub fn wait(&mut self, app: &mut App, deadline: u64) -> Result<Option<market::Event>, Error> {
        own_device::wait(app, deadline)
    }

    /// Halts on the core, which stays this VM's and is charged, until the function has interrupted or the TSC has reached
    /// `deadline` (0: never), which is looked at when anything interrupts, and when the core was taken and comes again: so a
    /// holder of a whole core may see it late. True if the function has interrupted. No exit. Look for frames, and after the
    /// function, before the next call.
    pub fn watch(&mut self, deadline: u64) -> bool {
        own_device::watch(deadline)
    }

    /// Has the function let through anew, as after [`crate::market::Event::NicReset`]. Its queues are gone, and what was
    /// under way with them.
    ///
    /// # Errors
    /// As [`App::virtual_function`].
    pub fn reset(&mut self, app: &mut App) -> Result<(), Error> {
        *self = VirtualFunction::bring_up(app, self.registers, self.memory, self.clock)?;
        Ok(())
    }

    /// Looks what the physical function has to say; if it was reset, has this function let through anew
    /// ([`VirtualFunction::reset`]). True then.
    ///
    /// # Errors
    /// As [`App::virtual_function`].
    pub fn look_after(&mut self, app: &mut App) -> Result<bool, Error> {
        match self.function.poll(self.clock.now_ns()) {
            Ok(Some(Event::Lost)) => self.reset(app).map(|()| true),
            Ok(_) => Ok(false),
            Err(error) => Err(Error::failed(format!("the virtual function: {error:?}"))),
        }
    }
}
