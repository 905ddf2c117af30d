//! The stack: addresses, sockets, and when to look again.

use crate::datagram::Service;
use crate::neighbours::{self, Heard, Neighbours, Own};
use crate::port::{Answered, Port, STALLED_NS};
use alloc::vec::Vec;
use device::{DmaBuffer, DmaMemory, Registers};
use igbvf::MacAddress;
use igbvf::moderation::{self, Mode, Moderation};
use igbvf::transmit::QueueError;
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::dhcpv4;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address, Ipv4Cidr};

/// Nobody answers anything before the stack.
const ALL_FOR_STACK: Answered = Answered { requests: 0, is_for_stack: true };
/// Frames that one poll takes in at most, so that a flood keeps nobody from serving its sockets.
const MOST_FRAMES: usize = 64;
/// Frames for sockets after which their buffers go back at once, although nothing is sent yet.
const MOST_DEFERRED: usize = MOST_FRAMES / 4;
/// Nanoseconds for which a full transmit ring is left alone: the time of some eight frames on the cable. For as long as
/// transmission is closed there would be nothing to do but look.
const EXHAUSTED_NS: u64 = 100_000;
/// Bytes of an answer that is written where it is sent from ([`Stack::poll_and_answer`]).
pub const MOST_ANSWER_BYTES: usize = crate::port::MOST_FRAME_BYTES - crate::datagram::HEADER_BYTES;
/// Rounds of sending in one poll; in each, every socket sends a frame at most.
const MOST_ROUNDS: usize = 64;

/// Where the stack has its address from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// It is given.
    Static {
        /// The address, with the length of its network's prefix.
        address: Ipv4Cidr,
        /// Who leads to other networks.
        gateway: Option<Ipv4Address>,
    },
    /// A DHCP server tells it.
    Dhcp,
}

/// How a stack begins.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The address that the PF gave the function ([`igbvf::Function::mac`]).
    pub mac: MacAddress,
    /// Where the network address is from.
    pub address: Address,
    /// The vector that received frames raise ([`igbvf::Function::route_interrupts`]).
    pub vector: u8,
    /// How frames are learnt of.
    pub mode: Mode,
    /// Something that outsiders don't know, for the numbers that TCP and DHCP begin with.
    pub seed: u64,
}

/// What to do after a poll, when the sockets have nothing left to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Poll again.
    Look,
    /// Wait for an interrupt, or until this time in nanoseconds if there is one; then poll again. An interrupt comes if
    /// something is there already.
    Sleep(Option<u64>),
}

/// TCP/IP over a [`Port`].
pub struct Stack<R, M, B, const N: usize> {
    port: Port<R, M, B, N>,
    interface: Interface,
    sockets: SocketSet<'static>,
    neighbours: Neighbours,
    /// The own place, when there is one.
    own: Option<Own>,
    /// Whether everybody is still to be told of it.
    announces: bool,
    moderation: Moderation<R>,
    mac: MacAddress,
    vector: u8,
    dhcp: Option<SocketHandle>,
    /// Whether frames that came have waited for the application, so that nothing was sent after them yet.
    is_deferred: bool,
}

fn instant(now_ns: u64) -> Instant {
    Instant::from_micros((now_ns / 1000) as i64)
}

impl<R: Registers + Clone, M: DmaMemory, B: DmaBuffer, const N: usize> Stack<R, M, B, N> {
    /// A stack over the port of a function with these registers. Its vector is masked or unmasked as the mode wants.
    pub fn new(mut port: Port<R, M, B, N>, registers: R, settings: &Settings, now_ns: u64) -> Self {
        let mac = HardwareAddress::Ethernet(EthernetAddress(settings.mac.0));
        let mut config = Config::new(mac);
        config.random_seed = settings.seed;
        let interface = Interface::new(config, &mut port, instant(now_ns));
        let moderation = Moderation::new(registers, settings.vector, settings.mode);
        let Settings { mac, vector, .. } = *settings;
        let sockets = SocketSet::new(Vec::new());
        let neighbours = Neighbours::new();
        let mut stack = Stack {
            port,
            interface,
            sockets,
            neighbours,
            own: None,
            announces: false,
            moderation,
            mac,
            vector,
            dhcp: None,
            is_deferred: false,
        };
        match settings.address {
            Address::Static { address, gateway } => stack.set_address(Some(address), gateway),
            Address::Dhcp => stack.dhcp = Some(stack.sockets.add(dhcpv4::Socket::new())),
        }
        stack
    }

    fn set_address(&mut self, address: Option<Ipv4Cidr>, gateway: Option<Ipv4Address>) {
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            // There is room, as it is empty.
            let _ = address.map(|address| addresses.push(IpCidr::Ipv4(address)));
        });
        // With its addresses changed, the stack forgets them.
        self.neighbours.forget();
        let (mac, has_gateway) = (EthernetAddress(self.mac.0), gateway.is_some());
        self.own = address.map(|address| Own { address, mac, has_gateway });
        self.announces = true;
        let routes = self.interface.routes_mut();
        match gateway {
            Some(gateway) => {
                // There is room for one.
                let _ = routes.add_default_ipv4_route(gateway);
            }
            None => {
                routes.remove_default_ipv4_route();
            }
        }
    }

    /// The network address; `None` until a DHCP server has told it, or when its lease has ended.
    pub fn address(&self) -> Option<Ipv4Address> {
        self.interface.ipv4_addr()
    }

    /// The sockets. What is done with them goes out with the next poll.
    pub fn sockets(&mut self) -> &mut SocketSet<'static> {
        &mut self.sockets
    }

    /// The interface, for connections to others, which need its context.
    pub fn interface(&mut self) -> (&mut Interface, &mut SocketSet<'static>) {
        (&mut self.interface, &mut self.sockets)
    }

    /// The rings.
    pub fn port(&mut self) -> &mut Port<R, M, B, N> {
        &mut self.port
    }

    /// Gives the rings up, and with them the sockets.
    pub fn into_port(self) -> Port<R, M, B, N> {
        self.port
    }

    /// Goes on over a function that was reset, with rings in the same or other memory, and learns of frames in this mode with
    /// this delay ([`Stack::set_interrupt_delay_us`]). Addresses, sockets and connections stay: what was under way is lost, and
    /// sent again as after any loss.
    ///
    /// # Errors
    /// As [`Port::restart`].
    pub fn restart(
        &mut self,
        registers: R,
        receive: M,
        transmit: M,
        mode: Mode,
        interrupt_delay_us: u32,
    ) -> Result<(), QueueError> {
        self.port.restart(registers.clone(), receive, transmit)?;
        self.moderation = Moderation::new(registers, self.vector, mode);
        self.moderation.set_delay_us(interrupt_delay_us);
        self.announces = true;
        Ok(())
    }

    /// The address of the function from now on. Who knows the former one is told.
    pub fn set_mac(&mut self, mac: MacAddress) {
        self.mac = mac;
        let mac = EthernetAddress(mac.0);
        self.own = self.own.map(|own| Own { mac, ..own });
        self.announces = true;
        self.interface.set_hardware_addr(HardwareAddress::Ethernet(mac));
    }

    /// Changes how frames are learnt of, at any time.
    pub fn set_mode(&mut self, mode: Mode) {
        self.moderation.set_mode(mode);
    }

    /// Lets at most one interrupt for received frames come in so many microseconds, at any time; see
    /// [`igbvf::Function::set_interrupt_delay_us`].
    pub fn set_interrupt_delay_us(&mut self, delay_us: u32) {
        self.moderation.set_delay_us(delay_us);
    }

    /// To be called when the vector's interrupt has come. A spurious call does no harm.
    pub fn interrupted(&mut self) {
        self.moderation.interrupted();
    }

    /// Takes in what came, lets the sockets send, and says what to do when they have been looked at.
    ///
    /// It takes in one new connection at most, so that a single socket that listens is enough for any number of clients, if
    /// there is another one at the next call.
    ///
    /// What came is answered by the next call, when the application has had its say: so that its answer and the
    /// acknowledgement of what is answered are one segment.
    pub fn poll(&mut self, now_ns: u64) -> Next {
        self.poll_with(now_ns, |_, _| ALL_FOR_STACK)
    }

    /// The same, and requests to a UDP port of the own address, one datagram each, are answered where they lie in the rings,
    /// without a socket. `answer` gets a request and the place for an answer, of [`MOST_ANSWER_BYTES`], and returns the
    /// answer's length, or `None` if there is none.
    pub fn poll_and_answer(
        &mut self,
        now_ns: u64,
        port: u16,
        mut answer: impl FnMut(&[u8], &mut [u8]) -> Option<usize>,
    ) -> Next {
        let service = self.own.map(|own| Service { mac: self.mac, address: own.address, port });
        self.poll_with(now_ns, |port, most| match &service {
            Some(service) => port.answer(service, most, &mut answer),
            None => ALL_FOR_STACK,
        })
    }

    fn poll_with(&mut self, now_ns: u64, mut answer: impl FnMut(&mut Port<R, M, B, N>, usize) -> Answered) -> Next {
        let now = instant(now_ns);
        let taken = self.port.taken();
        self.interface.poll_maintenance(now);
        let (mut left, mut for_sockets) = (MOST_FRAMES, 0);
        while left > 0 {
            let answered = answer(&mut self.port, left);
            left -= answered.requests;
            if !answered.is_for_stack {
                break;
            }
            let Some(seen) = self.introduce(now, left) else { break };
            left = seen;
            if left == 0
                || self.interface.poll_ingress_single(now, &mut self.port, &mut self.sockets)
                    == PollIngressSingleResult::None
            {
                break;
            }
            (left, for_sockets) = (left - 1, for_sockets + 1);
            if self.port.has_opened() {
                break;
            }
        }
        self.follow_dhcp();
        // A poll that found more than it takes is to go on, whatever it was.
        let has_more = for_sockets > 0 || left == 0;
        self.is_deferred = for_sockets > 0 && !self.is_deferred;
        if self.is_deferred {
            self.moderation.looked(true);
            // Many are a flood, for which the ring must not run out of buffers.
            if for_sockets > MOST_DEFERRED {
                self.port.flush();
            }
            return Next::Look;
        }
        let (sends_more, due) = self.send(now);
        self.port.flush();
        let has_found = has_more || self.moderation.mode() != Mode::Interrupt && self.port.taken() != taken;
        let looks_on = self.moderation.looked(has_found) == moderation::Next::Look;
        // What waits for the ring is due, but a poll would not help before the device has gone on.
        if self.port.is_exhausted() {
            return Next::Sleep(Some(now_ns.saturating_add(EXHAUSTED_NS)));
        }
        if looks_on || sends_more {
            // Who only looks tells a device again, too, whose transmission was closed for a while.
            if !has_found && !sends_more {
                self.port.is_sending(now_ns);
            }
            return Next::Look;
        }
        let due = match due {
            Some(due) if due <= now => return Next::Look,
            due => due.map(|due| (due.total_micros() as u64).saturating_mul(1000)),
        };
        // A device whose transmission was closed for a while may have to be told again: with no answer, nobody would.
        let stalled = self.port.is_sending(now_ns).then(|| now_ns.saturating_add(STALLED_NS));
        Next::Sleep(due.into_iter().chain(stalled).min())
    }

    /// Has the stack hear where the next frame comes from, and drops those before it that come from nowhere. Returns how many of
    /// so many frames are left with it; `None` if there is none.
    #[inline]
    fn introduce(&mut self, now: Instant, most: usize) -> Option<usize> {
        let Stack { port, neighbours, own, .. } = self;
        for dropped in 0..most {
            if !port.has_next() {
                return None;
            }
            match port.look(|frame| own.as_ref().and_then(|own| neighbours.hear(now, frame, own))) {
                Some(Heard::Nobody) => port.discard(),
                heard => {
                    if let Some(Heard::Introduction(introduction)) = heard {
                        port.introduce(introduction);
                    }
                    return Some(most - dropped);
                }
            }
        }
        Some(0)
    }

    /// Lets the sockets send. Returns whether they have more, and when they will.
    fn send(&mut self, now: Instant) -> (bool, Option<Instant>) {
        if self.announces
            && let Some(own) = &self.own
        {
            self.announces = !self.port.send(&neighbours::announcement(own));
        }
        let Stack { interface, port, sockets, .. } = self;
        for round in 0..MOST_ROUNDS {
            let has_sent = interface.poll_egress(now, port, sockets) != PollResult::None;
            // Mostly that was all: to ask is less work than to find nothing.
            if !has_sent || round == 0 {
                let due = interface.poll_at(now, sockets);
                if !has_sent || due.is_none_or(|due| due > now) {
                    return (false, due);
                }
            }
        }
        (true, None)
    }

    /// Takes over what a DHCP server told.
    fn follow_dhcp(&mut self) {
        let Some(handle) = self.dhcp else { return };
        match self.sockets.get_mut::<dhcpv4::Socket>(handle).poll() {
            None => {}
            Some(dhcpv4::Event::Configured(config)) => {
                let (address, gateway) = (config.address, config.router);
                self.set_address(Some(address), gateway);
            }
            Some(dhcpv4::Event::Deconfigured) => self.set_address(None, None),
        }
    }
}
