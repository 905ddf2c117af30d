//! The device as a whole: bring-up, link, and what VFs ask.
//!
//! Bring-up (datasheet, 4.5): reset, which resets the VFs too; wait; set up pools, filters, switch and interrupts; have
//! the PHY negotiate anew; tell the VFs that the reset is done. The link comes when the other side has negotiated, and
//! frames that arrive before are dropped. A VF sends and receives from its own reset handshake on.

use crate::VFS;
use crate::counters::{Counters, Sums};
use crate::debts::Debts;
use crate::limiters::Limiters;
use crate::meter::{Keeper, Meter};
use crate::pool::{Pool, Settings, Vlans};
use crate::registers as reg;
use crate::tables::{self, VlanTable};
use device::Registers;
use igbvf::message::{self, Message, Multicast, Request, WORDS};

/// Nanoseconds that the device is left alone after a reset, for it to load its settings (datasheet, 4.2.1 and 4.3.1).
pub const RESET_NS: u64 = 20_000_000;
/// Nanoseconds until the link is looked at again.
pub const LINK_POLL_NS: u64 = 10_000_000;
/// Readings of meters are put off to multiples of so many nanoseconds, so that those of several VFs come together: each
/// costs its reader a sleep and an alarm, whatever is read.
pub const METER_NS: u64 = 250_000;
/// Reads of the PHY access register until it must be ready; one access takes 64 us, a read about one.
const MDIC_READS: u32 = 1000;

/// What is known of the cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Nothing comes through.
    Down,
    /// Frames can be sent and received.
    Up,
}

/// What [`Nic::poll`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The device is set up; VFs can begin their handshake.
    Ready,
    /// The PHY did not answer. Only [`Nic::reset`] helps, if anything.
    PhyFailed,
    /// The link came or went.
    LinkChanged(Link),
    /// A VF was reset, by itself or by its owner. It can neither send nor receive.
    VfReset(usize),
    /// A VF finished its reset handshake: it sends and receives.
    VfReady(usize),
    /// A VF asked for something that it may not have.
    Refused(usize),
    /// VFs, as bits, tried to send with an address or a VLAN that is not theirs; the device dropped it.
    Forged(u8),
}

#[derive(Clone, Copy, Debug)]
enum State {
    Resetting { until_ns: u64 },
    Running,
    Failed,
}

/// The PF.
#[derive(Debug)]
pub struct Nic<R> {
    registers: R,
    state: State,
    link: Link,
    next_link_ns: u64,
    next_meter_ns: u64,
    pools: [Option<Pool>; VFS],
    sums: [Sums; VFS],
    limiters: Limiters,
    meters: [Meter; VFS],
    debts: Debts,
    vlans: VlanTable,
    /// VFs whose transmission is closed by their meter, and those whose messages are still to be taken, as bits.
    closed: u8,
    requests: u32,
    forged_frames: u64,
}

impl<R: Registers> Nic<R> {
    /// Takes the device and resets it. VFs without settings get no frame; more than [`VFS`] settings are ignored, and so
    /// is whoever's settings are not possible or have another's address.
    pub fn new(registers: R, settings: &[Settings], now_ns: u64) -> Nic<R> {
        let mut nic = Nic {
            registers,
            state: State::Failed,
            link: Link::Down,
            next_link_ns: 0,
            next_meter_ns: 0,
            pools: [None; VFS],
            sums: [Sums::default(); VFS],
            limiters: Limiters::unknown(),
            meters: [Meter::default(); VFS],
            debts: Debts::new(),
            vlans: VlanTable::new(),
            closed: 0,
            requests: 0,
            forged_frames: 0,
        };
        nic.reset(now_ns);
        for (vf, settings) in settings.iter().enumerate() {
            nic.configure(vf, Some(*settings), now_ns);
        }
        nic
    }

    /// Resets the device and all VFs, which have to be reset by their owners. Settings stay.
    pub fn reset(&mut self, now_ns: u64) {
        self.registers.write32(reg::IMC, u32::MAX);
        self.registers.write32(reg::EIMC, u32::MAX);
        self.registers.write32(reg::RCTL, 0);
        self.registers.write32(reg::TCTL, 0);
        self.registers.write32(reg::CTRL, self.registers.read32(reg::CTRL) | reg::CTRL_RST);
        self.state = State::Resetting { until_ns: now_ns.saturating_add(RESET_NS) };
        (self.link, self.closed, self.requests) = (Link::Down, 0, 0);
        self.sums.iter_mut().for_each(Sums::restart);
        self.vlans = VlanTable::new();
        for pool in self.pools.iter_mut().flatten() {
            *pool = Pool::new(pool.settings);
        }
    }

    /// Gives a VF other settings, or none. It is shut off until its owner resets it. False, and nothing changes, if there
    /// is no such VF, the settings are not possible, or another VF has the address.
    pub fn configure(&mut self, vf: usize, settings: Option<Settings>, now_ns: u64) -> bool {
        let possible = settings.is_none_or(|settings| settings.are_possible() && !self.is_taken(vf, settings.mac));
        if vf >= VFS || !possible {
            return false;
        }
        self.count(now_ns);
        if let State::Running = self.state {
            self.shut(vf);
        }
        let keeper = self.keeper();
        if let (Some(pool), Some(meter)) = (self.pools.get_mut(vf), self.meters.get_mut(vf)) {
            if let Some(former) = pool {
                self.debts.keep(former.settings.mac, meter.owed(now_ns));
            }
            let owed = settings.map_or(0, |settings| self.debts.take(settings.mac));
            *pool = settings.map(Pool::new);
            *meter = Meter::new(keeper, owed, settings.and_then(|settings| settings.limit_bits_per_s), now_ns);
        }
        self.write_limiter(vf);
        self.next_meter_ns = now_ns;
        true
    }

    /// Changes a VF's limit without disturbing it; what it has sent before counts by the limit before. False if there is no
    /// such VF.
    pub fn set_limit(&mut self, vf: usize, bits_per_s: Option<u64>, now_ns: u64) -> bool {
        self.count(now_ns);
        let keeper = self.keeper();
        let (Some(Some(pool)), Some(meter)) = (self.pools.get_mut(vf), self.meters.get_mut(vf)) else { return false };
        pool.settings.limit_bits_per_s = bits_per_s;
        meter.change(keeper, bits_per_s, now_ns);
        self.write_limiter(vf);
        self.next_meter_ns = now_ns;
        true
    }

    /// The limit of a VF; `None` if it has no settings.
    #[must_use]
    pub fn limit(&self, vf: usize) -> Option<Option<u64>> {
        self.pools.get(vf)?.as_ref().map(|pool| pool.settings.limit_bits_per_s)
    }

    /// Whether the device keeps limits by itself; known when it is set up.
    #[must_use]
    pub fn has_limiters(&self) -> bool {
        self.limiters.are_present()
    }

    fn keeper(&self) -> Keeper {
        if self.has_limiters() { Keeper::Device } else { Keeper::Meter }
    }

    /// The link, as it was last seen.
    #[must_use]
    pub fn link(&self) -> Link {
        self.link
    }

    /// Reads all counters, if the device is set up: see [`Nic::counters`].
    pub fn count(&mut self, now_ns: u64) {
        if let State::Running = self.state {
            self.read_counters(now_ns);
        }
    }

    /// What a VF has sent and received, as of the last [`Nic::poll`], [`Nic::count`] or change of its settings.
    #[must_use]
    pub fn counters(&self, vf: usize) -> Option<Counters> {
        self.sums.get(vf).map(|sums| sums.counters)
    }

    /// Frames with a forged address or VLAN that the device dropped.
    #[must_use]
    pub fn forged_frames(&self) -> u64 {
        self.forged_frames
    }

    /// When [`Nic::poll`] is due without an interrupt.
    #[must_use]
    pub fn due_ns(&self) -> u64 {
        match self.state {
            State::Resetting { until_ns } => until_ns,
            State::Running if self.requests != 0 => 0,
            State::Running => self.next_link_ns.min(self.next_meter_ns),
            State::Failed => u64::MAX,
        }
    }

    /// Does what is due, and tells of the first thing that happened; to be called until it tells nothing, on every
    /// interrupt and at [`Nic::due_ns`].
    pub fn poll(&mut self, now_ns: u64) -> Option<Event> {
        match self.state {
            State::Resetting { until_ns } if now_ns >= until_ns => Some(self.set_up(now_ns)),
            State::Resetting { .. } | State::Failed => None,
            State::Running => self.work(now_ns),
        }
    }

    fn set_up(&mut self, now_ns: u64) -> Event {
        let registers = &self.registers;
        registers.write32(reg::IMC, u32::MAX);
        registers.write32(reg::EIMC, u32::MAX);
        tables::clear(registers);
        for entry in 0..reg::RECEIVE_ADDRESSES {
            registers.write32(reg::rah(entry), 0);
        }
        for queue in 0..reg::QUEUES {
            // One pair is enabled by the reset, and belongs to a VF.
            registers.write32(reg::RXDCTL + queue * reg::QUEUE_STRIDE, 0);
            registers.write32(reg::TXDCTL + queue * reg::QUEUE_STRIDE, 0);
        }
        registers.write32(reg::VFRE, 0);
        registers.write32(reg::VFTE, 0);
        registers.write32(reg::MRQC, reg::MRQC_VMDQ);
        registers.write32(reg::VT_CTL, reg::VT_CTL_ON);
        registers.write32(reg::QDE, reg::QDE_ALL);
        registers.write32(reg::DTXSWC, reg::DTXSWC_ON);
        self.limiters.find(registers);
        // Without these, a vector's message is sent once and never again. The PF has vector 0, VFs have the others.
        registers.write32(reg::GPIE, reg::GPIE_MSIX | reg::GPIE_PBA);
        registers.write32(reg::IVAR_MISC, reg::IVAR_MISC_OTHER_0);
        registers.write32(reg::EIAC, 1);
        registers.write32(reg::EIMS, 1);
        registers.write32(reg::IMS, reg::CAUSE_LINK | reg::CAUSE_MAILBOX);
        registers.write32(reg::RCTL, reg::RCTL_ON);
        registers.write32(reg::TCTL, registers.read32(reg::TCTL) | reg::TCTL_ON);
        let control = registers.read32(reg::CTRL);
        registers.write32(reg::CTRL, control & !reg::CTRL_FORCE | reg::CTRL_SLU);
        if !self.negotiate() {
            self.state = State::Failed;
            return Event::PhyFailed;
        }
        let extended = self.registers.read32(reg::CTRL_EXT);
        self.registers.write32(reg::CTRL_EXT, extended | reg::CTRL_EXT_PFRSTD);
        (self.state, self.next_link_ns, self.next_meter_ns) = (State::Running, now_ns, now_ns);
        let keeper = self.keeper();
        for (meter, pool) in self.meters.iter_mut().zip(&self.pools) {
            meter.change(keeper, pool.and_then(|pool| pool.settings.limit_bits_per_s), now_ns);
        }
        (0..VFS).for_each(|vf| self.write_limiter(vf));
        Event::Ready
    }

    /// Restarts the PHY's negotiation. False if it does not answer.
    fn negotiate(&self) -> bool {
        let write = reg::MDIC_WRITE | reg::MDIC_PHY_1 | reg::PHY_CONTROL << reg::MDIC_REGISTER_SHIFT;
        self.registers.write32(reg::MDIC, write | reg::PHY_CONTROL_NEGOTIATE);
        let mut answers = (0..MDIC_READS).map(|_| self.registers.read32(reg::MDIC));
        answers.find(|answer| answer & reg::MDIC_READY != 0).is_some_and(|answer| answer & reg::MDIC_ERROR == 0)
    }

    fn work(&mut self, now_ns: u64) -> Option<Event> {
        // Reading clears the causes, before what they stand for is looked at.
        let causes = self.registers.read32(reg::ICR);
        if causes & reg::CAUSE_LINK != 0 || now_ns >= self.next_link_ns {
            self.next_link_ns = now_ns.saturating_add(LINK_POLL_NS);
            self.read_counters(now_ns);
            let forged = self.registers.read32(reg::WVBR) as u8;
            let frames = self.registers.read32(reg::SSVPC);
            self.forged_frames = self.forged_frames.wrapping_add(u64::from(frames));
            let forgers = self.sums.iter_mut().enumerate().filter(|(vf, _)| forged & 1 << vf != 0);
            forgers.for_each(|(_, sums)| sums.forged(frames));
            let status = self.registers.read32(reg::STATUS);
            let up = status & reg::STATUS_LU != 0;
            if up && self.limiters.notice_speed(status) {
                (0..VFS).for_each(|vf| self.write_limiter(vf));
            }
            let link = if up { Link::Up } else { Link::Down };
            if link != self.link {
                self.link = link;
                return Some(Event::LinkChanged(link));
            }
            if forged != 0 {
                return Some(Event::Forged(forged));
            }
        }
        if now_ns >= self.next_meter_ns {
            self.read_counters(now_ns);
        }
        let resets = self.registers.read32(reg::VFLRE);
        if let Some(vf) = (0..VFS).find(|vf| resets & 1 << vf != 0) {
            self.registers.write32(reg::VFLRE, 1 << vf);
            self.shut(vf);
            return Some(Event::VfReset(vf));
        }
        if self.requests == 0 {
            // One message of each VF before a second one of any.
            self.requests = self.registers.read32(reg::MBVFICR) & reg::MBVFICR_REQUESTS;
            // Only what was seen is cleared: a message that comes now waits for the next round.
            self.registers.write32(reg::MBVFICR, self.requests);
        }
        while let Some(vf) = (0..VFS).find(|vf| self.requests & 1 << vf != 0) {
            self.requests &= !(1 << vf);
            if let Some(event) = self.serve(vf) {
                return Some(event);
            }
        }
        None
    }

    /// Reads the octets and frames of all VFs, and closes and opens the transmission of those with a limit.
    pub fn read_counters(&mut self, now_ns: u64) {
        self.next_meter_ns = u64::MAX;
        let mut closed = 0;
        let parts = self.sums.iter_mut().zip(&mut self.meters).zip(&self.pools).enumerate();
        // Who has no settings sends nothing.
        for (vf, ((sums, meter), _)) in parts.filter(|(_, (_, pool))| pool.is_some()) {
            let reading = meter.read(sums.read(&self.registers, vf), now_ns);
            closed |= u8::from(!reading.open) << vf;
            self.next_meter_ns = self.next_meter_ns.min(reading.next_ns);
        }
        self.next_meter_ns = self.next_meter_ns.checked_next_multiple_of(METER_NS).unwrap_or(u64::MAX);
        if closed != self.closed {
            self.closed = closed;
            self.write_enables();
        }
    }

    /// Tells the device's rate limiters what a VF may send. While it is being reset it is left alone: all are set then.
    fn write_limiter(&self, vf: usize) {
        if let (State::Running, Some(pool)) = (self.state, self.pools.get(vf)) {
            self.limiters.set(&self.registers, vf, pool.and_then(|pool| pool.settings.limit_bits_per_s));
        }
    }

    /// Lets those VFs receive that are ready, and those send that have not used up their rate.
    fn write_enables(&self) {
        let is_ready = |vf: &usize| self.pools.get(*vf).is_some_and(|pool| pool.is_some_and(|pool| pool.ready));
        let ready = (0..VFS).filter(is_ready).fold(0, |bits, vf| bits | 1u32 << vf);
        self.registers.write32(reg::VFRE, ready);
        self.registers.write32(reg::VFTE, ready & !u32::from(self.closed));
    }

    /// Takes everything from a VF that it had.
    fn shut(&mut self, vf: usize) {
        let Some(slot) = self.pools.get_mut(vf) else { return };
        *slot = slot.map(|pool| Pool::new(pool.settings));
        self.write_enables();
        self.registers.write32(reg::rah(vf), 0);
        self.registers.write32(reg::vmolr(vf), 0);
        self.registers.write32(reg::vmvir(vf), 0);
        // The vectors of the last owner: the emulated device would add those of the next one to them.
        self.registers.write32(reg::ivar(vf), 0);
        self.vlans.leave(&self.registers, vf, None);
        self.write_multicast();
    }

    /// Reads a VF's message, once, and answers it.
    fn serve(&mut self, vf: usize) -> Option<Event> {
        // A reset before the message may have come after resets were looked at, and one after it is noticed later.
        if self.registers.read32(reg::VFLRE) & 1 << vf != 0 {
            self.registers.write32(reg::VFLRE, 1 << vf);
            self.shut(vf);
        }
        let mut message = [0; WORDS];
        for (word, offset) in message.iter_mut().zip((reg::vmbmem(vf)..).step_by(4)) {
            *word = self.registers.read32(offset);
        }
        self.registers.write32(reg::p2vmailbox(vf), reg::P2V_ACK);
        let [first, ..] = message;
        let Some(Some(pool)) = self.pools.get(vf) else {
            self.reply(vf, &message::answer(first, false, None));
            return None;
        };
        let mac = pool.mac;
        let request = Request::decode(&message);
        let accepted = match request {
            Request::Reset => return self.serve_reset(vf, first),
            _ if !pool.ready => false,
            Request::SetMac(wanted) => wanted == mac || self.set_mac(vf, wanted),
            Request::SetMulticast(multicast) => self.set_multicast(vf, multicast),
            Request::SetVlan { vlan, member } => self.set_vlan(vf, vlan, member),
            Request::SetMaxFrame(bytes) => self.set_max_frame(vf, bytes),
            Request::Unknown(_) => false,
        };
        self.reply(vf, &message::answer(first, accepted, None));
        (!accepted).then_some(Event::Refused(vf))
    }

    fn serve_reset(&mut self, vf: usize, first: u32) -> Option<Event> {
        self.shut(vf);
        let pool = self.pools.get_mut(vf)?.as_mut()?;
        pool.ready = true;
        let Pool { mac, settings, .. } = *pool;
        if let Vlans::Port(vlan) = settings.vlans {
            self.vlans.join(&self.registers, vf, vlan);
            self.registers.write32(reg::vmvir(vf), u32::from(vlan) | reg::VMVIR_ALWAYS);
        }
        self.write_offload(vf);
        self.write_mac(vf);
        self.write_enables();
        self.reply(vf, &message::answer(first, true, Some(mac)));
        Some(Event::VfReady(vf))
    }

    fn reply(&self, vf: usize, message: &Message) {
        let mailbox = reg::p2vmailbox(vf);
        self.registers.write32(mailbox, reg::P2V_PFU);
        if self.registers.read32(mailbox) & reg::P2V_PFU == 0 {
            // The VF keeps the buffer, which it has no reason to: it sent a message and waits for the answer.
            self.registers.write32(mailbox, reg::P2V_RVFU);
            self.registers.write32(mailbox, reg::P2V_PFU);
        }
        for (offset, word) in (reg::vmbmem(vf)..).step_by(4).zip(message) {
            self.registers.write32(offset, *word);
        }
        self.registers.write32(mailbox, reg::P2V_STS);
    }

    /// True if a VF other than this one has the address, or would have it after a reset.
    fn is_taken(&self, vf: usize, mac: igbvf::MacAddress) -> bool {
        let others = self.pools.iter().enumerate().filter(|(other, _)| *other != vf);
        others.filter_map(|(_, pool)| pool.as_ref()).any(|pool| pool.mac == mac || pool.settings.mac == mac)
    }

    fn set_mac(&mut self, vf: usize, mac: igbvf::MacAddress) -> bool {
        if !mac.is_station() || self.is_taken(vf, mac) {
            return false;
        }
        let Some(Some(pool)) = self.pools.get_mut(vf) else { return false };
        if !pool.settings.may_change_mac {
            return false;
        }
        pool.mac = mac;
        self.write_mac(vf);
        true
    }

    fn set_multicast(&mut self, vf: usize, multicast: Multicast) -> bool {
        let Some(Some(pool)) = self.pools.get_mut(vf) else { return false };
        pool.multicast = multicast;
        self.write_multicast();
        self.write_offload(vf);
        true
    }

    fn set_vlan(&mut self, vf: usize, vlan: u16, member: bool) -> bool {
        let Some(Some(pool)) = self.pools.get(vf) else { return false };
        match pool.settings.vlans {
            // Number 0 means untagged frames with a priority, which everybody may have.
            _ if vlan == 0 => member,
            Vlans::None | Vlans::Port(_) => false,
            Vlans::Chosen if member => self.vlans.join(&self.registers, vf, vlan),
            Vlans::Chosen => {
                self.vlans.leave(&self.registers, vf, Some(vlan));
                true
            }
        }
    }

    fn set_max_frame(&mut self, vf: usize, bytes: u32) -> bool {
        let Some(Some(pool)) = self.pools.get_mut(vf) else { return false };
        if bytes > pool.settings.max_frame_bytes {
            return false;
        }
        pool.frame_bytes = bytes.max(crate::pool::STANDARD_FRAME_BYTES);
        self.write_offload(vf);
        true
    }

    fn write_mac(&self, vf: usize) {
        let Some(Some(pool)) = self.pools.get(vf) else { return };
        let [low, high] = pool.mac.words();
        self.registers.write32(reg::ral(vf), low);
        self.registers.write32(reg::rah(vf), high | 1 << (reg::RAH_POOL_SHIFT + vf as u32) | reg::RAH_VALID);
    }

    fn write_offload(&self, vf: usize) {
        let Some(Some(pool)) = self.pools.get(vf) else { return };
        let vlan = match pool.settings.vlans {
            Vlans::None | Vlans::Chosen => reg::VMOLR_UNTAGGED,
            Vlans::Port(_) => reg::VMOLR_STRIP_VLAN,
        };
        let multicast = if pool.multicast.hashes().is_empty() { 0 } else { reg::VMOLR_MULTICAST };
        let always = reg::VMOLR_LONG | reg::VMOLR_BROADCAST | reg::VMOLR_STRIP_CRC;
        self.registers.write32(reg::vmolr(vf), pool.frame_bytes | vlan | multicast | always);
    }

    fn write_multicast(&self) {
        tables::write_multicast(&self.registers, &self.pools);
    }
}
