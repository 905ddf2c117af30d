//! What the market knows of one application.

use crate::launch::Layout;
use crate::machine::Slot;
use crate::memory::BlockId;
use crate::statement::Movements;
use crate::usage::Usage;
use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};
use proto::host::End;

/// Messages that wait for room in a tenant's ring; further ones are dropped, which hurts only the one that doesn't read.
const MAX_OUTBOX: usize = 256;
/// The same in bytes: answers can be long, and the market's heap is everybody's.
const MAX_OUTBOX_BYTES: usize = 32 * 1024;

/// A lease of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLease {
    /// The block.
    pub block: BlockId,
    /// Its one child, an Untyped of the same extent, whose child the tenant has: deleting it puts the lease out of the
    /// tenant's reach without the scrub that revoking the block takes.
    pub handle: Slot,
    /// log2 bytes.
    pub bits: u8,
    /// The child while it waits in a slot of the market's for its way to the tenant.
    pub waiting: Option<Slot>,
    /// Round that sold it; `u64::MAX` for the desk.
    pub round: u64,
}

impl PageLease {
    /// Its units.
    pub fn pages(&self) -> u32 {
        1 << (self.bits - crate::memory::PAGE_BITS)
    }

    /// The slots of the market's that are empty when the block is revoked.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        [self.handle].into_iter().chain(self.waiting)
    }
}

/// What a running VM is made of, as far as the market holds it.
#[derive(Debug)]
pub struct Running {
    /// Its base.
    pub base: BlockId,
    /// Rings, start-up page and channels; `None` while it is being launched.
    pub side: Option<BlockId>,
    /// Frames of its input.
    pub input: Vec<BlockId>,
    /// The market's end of its channel.
    pub channel: Slot,
    /// All slots of the market's that hold something of it and are emptied when it ends.
    pub slots: Vec<Slot>,
    /// TSC value of its launch, 0 while it is being launched.
    pub started: u64,
    /// The market's capabilities to its handler page and its statistics page; they go when its Vcpu or VM goes.
    pub kernel_pages: Option<[Slot; 2]>,
    /// Since when it was not seen to run.
    pub standstill: Standstill,
}

/// What was seen when a VM had run last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standstill {
    /// What it had used of its CPU time.
    pub used_ticks: u64,
    /// How often it had invoked something that waits.
    pub waits: u64,
    /// It has invoked that since it was seen to have run before.
    pub waited: bool,
    /// How often it had revoked or deleted something.
    pub destroyed: u64,
    /// It has done that since it was seen to have run before.
    pub has_destroyed: bool,
    /// TSC value since when it has not run.
    pub since: u64,
    /// It was signalled then, so that it would run if it could.
    pub signalled: bool,
}

/// Where an application is in its life.
#[derive(Debug)]
pub enum State {
    /// Not started.
    Waiting,
    /// To be started as soon as its base is free.
    Starting,
    /// Runs.
    Running(Running),
    /// Has ended, and everything was taken back.
    Ended(End),
}

/// A demand shock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shock {
    /// Millionths.
    pub ppm: u64,
    /// TSC value of its end.
    pub until: u64,
}

/// One application.
#[derive(Debug)]
pub struct Tenant {
    /// Where it is in its life.
    pub state: State,
    /// How its base is laid out.
    pub layout: Layout,
    /// Pages of its base and input: what it pays for at contract price.
    pub base_pages: u32,
    /// The block for its base, set aside until it starts or ends.
    pub base: Option<BlockId>,
    /// Its base has joined what rounds see.
    pub has_joined: bool,
    /// Blocks for its input, set aside like the base.
    pub input: Vec<BlockId>,
    /// Its reservation of CPU time, which exists from the market's start to the application's end.
    pub time: Slot,
    /// Budget and period that the reservation was last given, in ticks.
    pub reservation: (u64, u64),
    /// TSC value at which a lease last went on its way to it.
    pub granted: u64,
    /// Its leases of pages by number.
    pub leases: BTreeMap<u32, PageLease>,
    /// Number of the next lease.
    pub next_lease: u64,
    /// Leases that are still on their way to it, in order.
    pub waiting: VecDeque<u32>,
    /// Parts of a virtual function that are still on their way to it, in order.
    pub vf_parts: VecDeque<Slot>,
    /// TSC value since which it is to have a virtual function that it has not.
    pub lacks_vf_since: Option<u64>,
    /// TSC value at which it loses its namespace, of which it has notice.
    pub storage_until: Option<u64>,
    /// Leases that it named to be taken first, in ascending order.
    pub named: Vec<u32>,
    /// Pages were taken from it for the interval that begins.
    pub lost: bool,
    /// Largest block in which it wants pages.
    pub block_bits: u8,
    /// Encoded messages that found no room in its ring.
    pub outbox: VecDeque<Vec<u8>>,
    /// Something was put into its ring that it may sleep on.
    pub unsignalled: bool,
    /// Requests (and empty signals) since the last page interval began.
    pub requests: u32,
    /// Its valuation in millionths of the plan's, shocks apart.
    pub ppm: u64,
    /// Shocks that last.
    pub shocks: Vec<Shock>,
    /// Useful work, as it reported when it ended.
    pub work: u64,
    /// Income credited so far.
    pub income: i128,
    /// Page-milliseconds beyond the base.
    pub page_ms: u64,
    /// Ticks of CPU time beyond the base.
    pub cpu_ticks: u64,
    /// Kilobits that it might send beyond the base.
    pub kilobits: u64,
    /// Reads and writes that it might do beyond the base.
    pub operations: u64,
    /// Every movement of its money.
    pub movements: Movements,
    /// What it used of its CPU time since its reservation was set.
    pub usage: Option<Usage>,
    /// Pages and units of CPU time that it had and that did not come back when it ended.
    pub left: [u64; 2],
    /// Balance, escrow and paid as last reported to the host.
    pub reported: Option<(i128, i128, i128)>,
}

impl Tenant {
    /// An application that was not started.
    pub fn new(layout: Layout, base_pages: u32, time: Slot, reservation: (u64, u64)) -> Tenant {
        Tenant {
            state: State::Waiting,
            layout,
            base_pages,
            time,
            base: None,
            has_joined: false,
            input: Vec::new(),
            reservation,
            granted: 0,
            leases: BTreeMap::new(),
            next_lease: 1,
            waiting: VecDeque::new(),
            vf_parts: VecDeque::new(),
            lacks_vf_since: None,
            storage_until: None,
            named: Vec::new(),
            lost: false,
            block_bits: crate::memory::LARGE_BITS,
            outbox: VecDeque::new(),
            unsignalled: false,
            requests: 0,
            ppm: 1_000_000,
            shocks: Vec::new(),
            work: 0,
            income: 0,
            page_ms: 0,
            cpu_ticks: 0,
            kilobits: 0,
            operations: 0,
            movements: Movements::default(),
            usage: None,
            left: [0; 2],
            reported: None,
        }
    }

    /// True while its VM exists.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    /// True when it has ended.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    /// Pages leased by the market's records.
    pub fn leased_pages(&self) -> u32 {
        self.leases.values().map(PageLease::pages).sum()
    }

    /// Its valuation in millionths of the plan's, shocks included.
    pub fn valuation_ppm(&self) -> u64 {
        self.shocks.iter().fold(self.ppm, |ppm, shock| {
            u64::try_from(u128::from(ppm) * u128::from(shock.ppm) / 1_000_000).unwrap_or(u64::MAX)
        })
    }

    /// Keeps an encoded message until its ring has room.
    pub fn queue(&mut self, message: Vec<u8>) {
        let bytes: usize = self.outbox.iter().map(Vec::len).sum();
        if self.outbox.len() < MAX_OUTBOX && bytes + message.len() <= MAX_OUTBOX_BYTES {
            self.outbox.push_back(message);
        }
    }

    /// The number of the next lease: 1 to 2^32 - 1, and then again those that are free, as a run may last for years.
    pub fn take_lease_number(&mut self) -> u32 {
        // Ends: far fewer are held than there are.
        loop {
            let number = ((self.next_lease - 1) % u64::from(u32::MAX)) as u32 + 1;
            self.next_lease += 1;
            if !self.leases.contains_key(&number) {
                return number;
            }
        }
    }

    /// The leases that go when `units` pages are lost: those it named, then the youngest, until it is enough.
    pub fn choose(&self, units: u32) -> Vec<u32> {
        let mut chosen: Vec<u32> = Vec::with_capacity(self.leases.len());
        let mut sum = 0;
        let named = self.named.iter().filter_map(|lease| self.leases.get_key_value(lease));
        let youngest = self.leases.iter().rev().filter(|(lease, _)| self.named.binary_search(lease).is_err());
        for (lease, found) in named.chain(youngest) {
            if sum >= units {
                break;
            }
            sum += found.pages();
            chosen.push(*lease);
        }
        chosen
    }
}
