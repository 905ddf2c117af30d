//! The stack: addresses, sockets, and when to look again.

use crate::port::Port;
use alloc::vec::Vec;
use device::{DmaBuffer, DmaMemory, Registers};
use igbvf::MacAddress;
use igbvf::moderation::{self, Mode, Moderation};
use igbvf::transmit::QueueError;
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::dhcpv4;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address, Ipv4Cidr};

/// Frames that one poll takes in at most, so that a flood keeps nobody from serving its sockets.
const MOST_FRAMES: usize = 64;
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
    moderation: Moderation<R>,
    vector: u8,
    dhcp: Option<SocketHandle>,
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
        let (sockets, vector) = (SocketSet::new(Vec::new()), settings.vector);
        let mut stack = Stack { port, interface, sockets, moderation, vector, dhcp: None };
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

    /// Goes on over a function that was reset, with rings in the same or other memory. Addresses, sockets and connections
    /// stay: what was under way is lost, and sent again as after any loss.
    ///
    /// # Errors
    /// As [`Port::restart`].
    pub fn restart(&mut self, registers: R, receive: M, transmit: M) -> Result<(), QueueError> {
        self.port.restart(registers.clone(), receive, transmit)?;
        self.moderation = Moderation::new(registers, self.vector, self.moderation.mode());
        Ok(())
    }

    /// The address of the function from now on. Who knows the former one asks for the new one when that is forgotten.
    pub fn set_mac(&mut self, mac: MacAddress) {
        self.interface.set_hardware_addr(HardwareAddress::Ethernet(EthernetAddress(mac.0)));
    }

    /// Changes how frames are learnt of, at any time.
    pub fn set_mode(&mut self, mode: Mode) {
        self.moderation.set_mode(mode);
    }

    /// To be called when the vector's interrupt has come. A spurious call does no harm.
    pub fn interrupted(&mut self) {
        self.moderation.interrupted();
    }

    /// Takes in what came, lets the sockets send, and says what to do when they have been looked at.
    pub fn poll(&mut self, now_ns: u64) -> Next {
        let now = instant(now_ns);
        let taken = self.port.taken();
        self.interface.poll_maintenance(now);
        for _ in 0..MOST_FRAMES {
            let result = self.interface.poll_ingress_single(now, &mut self.port, &mut self.sockets);
            if result == PollIngressSingleResult::None {
                break;
            }
        }
        self.follow_dhcp();
        let mut sends_more = true;
        for _ in 0..MOST_ROUNDS {
            sends_more = self.interface.poll_egress(now, &mut self.port, &mut self.sockets) != PollResult::None;
            if !sends_more {
                break;
            }
        }
        self.port.flush();
        let has_found = self.port.taken() != taken;
        // What waits for the ring is due, but a poll would not help before the device has gone on.
        if self.moderation.looked(has_found) == moderation::Next::Look || sends_more || self.port.is_exhausted() {
            return Next::Look;
        }
        match self.interface.poll_at(now, &self.sockets) {
            Some(due) if due <= now => Next::Look,
            due => Next::Sleep(due.map(|due| (due.total_micros() as u64).saturating_mul(1000))),
        }
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
