//! The start-up page: what the launcher tells a VM about itself. At `cap_spec::abi::START_PAGE`, length (u32,
//! little-endian) followed by the postcard encoding; mapped READ.

use crate::plan::Atto15;
use crate::storage::Space;
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// Guest-physical address of the input file, mapped READ.
pub const INPUT_BASE: u64 = 0x1000_0000;
/// Guest-physical address from which userlib maps leased memory.
pub const LEASE_BASE: u64 = 0x4000_0000;
/// Guest-physical address of server rings: client i has two pages (to the server, from it) from
/// `MARKET_RING + i * 0x2000` on. At most [`MAX_CLIENTS`].
pub const RING_STRIDE: u64 = 0x2000;
/// Most clients that a server's ring window has room for.
pub const MAX_CLIENTS: usize = 16;
/// In the console server's root CNode: channel end of client i in slot `FREE + i`.
pub const FIRST_CLIENT_SLOT: u16 = cap_spec::abi::slots::FREE;
/// In the console server's root CNode: the `IoPort` capabilities of COM1, COM2 and the debug-exit port.
pub const PORT_SLOTS: [u16; 3] = [8, 9, 10];
/// In the console server's root CNode: the `Irq` capability of COM1.
pub const IRQ_SLOT: u16 = 11;
/// In the root CNode of an application with a virtual function of the network device: the lease of it.
pub const NIC_SLOT: u16 = 12;
/// In the same: the `Irq` for each of its messages ([`VF_MESSAGES`](crate::nic::VF_MESSAGES)), in consecutive slots.
pub const NIC_IRQ_SLOT: u16 = 13;
const _: () = assert!(NIC_IRQ_SLOT + crate::nic::VF_MESSAGES <= cap_spec::abi::slots::FREE);
/// In the root CNode of an application with a namespace: the window of I/O addresses
/// ([`WINDOW`](crate::storage::WINDOW)) that its virtual function of the NVMe controller reaches.
pub const STORAGE_SLOT: u16 = 8;
/// In the same: the `Irq` that the second queue pair raises.
pub const STORAGE_IRQ_SLOT: u16 = 9;
/// Where the page of doorbells is mapped there: at the end of the window in which a VM may have memory of others when it is
/// launched.
pub const DOORBELLS: u64 = 0x13_f000;
/// Client number of the market server at the console server; application i of the plan is client i + 1.
pub const MARKET_CLIENT: usize = 0;

/// Event bits that the launcher binds for an application; userlib hands out the others.
pub mod events {
    /// The market server has put something into its ring.
    pub const MARKET: u64 = 1 << 0;
    /// The console server has.
    pub const CONSOLE: u64 = 1 << 1;
    /// First of the bits that are free.
    pub const FIRST_FREE: u32 = 8;
}

/// Contents of the start-up page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// [`crate::VERSION`].
    pub version: u32,
    /// Index in the plan.
    pub app: u16,
    /// Name in the plan.
    pub name: String,
    /// Arguments.
    pub args: Vec<String>,
    /// Names of the goods, `page` first; their index is the `good` of messages.
    pub goods: Vec<String>,
    /// Index of the good that is CPU time of this application's core.
    pub cpu_good: u16,
    /// Interval of each good, in TSC ticks.
    pub interval_ticks: Vec<u64>,
    /// Start of the run: intervals are counted from this TSC value.
    pub epoch_tsc: u64,
    /// TSC frequency.
    pub tsc_hz: u64,
    /// 1e-15 credit per unit of work.
    pub valuation: u64,
    /// Balance at the start.
    pub budget: Atto15,
    /// Income per second.
    pub income_per_second: Atto15,
    /// TSC value of the deadline, 0 for none.
    pub deadline_tsc: u64,
    /// Bytes of input at [`INPUT_BASE`], 0 for none.
    pub input_bytes: u64,
    /// Units of each good in the base; 0 for pages, which [`Start::base_pages`] tells.
    pub bases: Vec<u32>,
    /// What the base costs in an interval of each good.
    pub base_charges: Vec<Atto15>,
    /// Pages of 4 KiB that can still be retyped from the base Untyped.
    pub base_pages: u32,
    /// Slots of the root CNode from `cap_spec::abi::slots::FREE` up to (not including) this one are empty; from here on
    /// lie the frames and page tables that the VM was launched with.
    pub free_slots_end: u16,
    /// Every image page from `cap_spec::abi::IMAGE_BASE` up to this guest-physical address is mapped.
    pub image_end: u64,
    /// Seed of everything random.
    pub seed: u64,
    /// Ethernet address of its virtual function of the network device; `None` if it has none and cannot buy one.
    pub nic_mac: Option<[u8; 6]>,
    /// Units of the good `storage` that its namespace is, or the one that it can buy; 0: it has no virtual function of the storage
    /// device, whose capabilities lie from [`STORAGE_SLOT`] on.
    pub storage_units: u32,
    /// Its namespace and queues; `None` if it has none, or none before it has bought one.
    pub storage: Option<Space>,
    /// True if the capabilities of such a function lie from [`NIC_SLOT`] on; else they will when one was bought.
    pub has_vf: bool,
}

impl Start {
    /// The value of the argument `key=value`.
    pub fn arg(&self, key: &str) -> Option<&str> {
        self.args.iter().find_map(|arg| arg.strip_prefix(key)?.strip_prefix('='))
    }

    /// The value of the argument `key=NUMBER`, or `default` if there is none, or none that is a number.
    pub fn number(&self, key: &str, default: u64) -> u64 {
        self.arg(key).and_then(|value| value.parse().ok()).unwrap_or(default)
    }
}
