//! The plan: a validated scenario, as the host hands it to the market server in the boot archive (file `plan`).
//!
//! Archive: a tar file with `plan` (postcard), `images/NAME` (flat images with the image header) and `inputs/APP`.

use crate::host::Command;
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// Money in 1e-15 credit.
pub type Atto15 = i128;

/// A whole run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// [`crate::VERSION`].
    pub version: u32,
    /// Seed of everything random in the run.
    pub seed: u64,
    /// The goods that are sold, `page` first, then `cpu.0`, `cpu.1`, ..., and `bandwidth` and
    /// `vf.nic` if an application may have a virtual function of the network device, `iops` if
    /// the reads and writes of one are limited, and `storage` if one gets a namespace; their index is the `good` of every message.
    pub goods: Vec<Good>,
    /// The applications; their index is the `app` of every message and their account.
    pub apps: Vec<App>,
    /// What happens when, in ascending order of time.
    pub events: Vec<Event>,
    /// The run is ended, and reported as timed out, after this much virtual time; without it, when it is told to end.
    pub limit_ms: Option<u64>,
    /// Share of each good that is allotted by Karma's rule outside the auction, in percent (0 to 50).
    pub common_pool_percent: u8,
}

/// One good and the operator's terms for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Good {
    /// `page`, `cpu.N`, `bandwidth`, `vf.nic`, `iops` or `storage`.
    pub name: String,
    /// Interval in milliseconds: 100 for pages, bandwidth and operations, 10 for CPU time, 1,000 for
    /// virtual functions and namespaces, unless the scenario changes it.
    pub interval_ms: u32,
    /// Operator's reserve price, 1e-15 credit per unit and interval.
    pub reserve: u64,
    /// Operator's fee per newly acquired unit, 1e-15 credit.
    pub fee: u64,
    /// What the operator pays for each unit and interval that was paid for and that it does not deliver or takes early,
    /// besides the price, 1e-15 credit.
    pub penalty: u64,
    /// Contract price of a base unit, 1e-15 credit per unit and interval.
    pub base_price: u64,
    /// At most this many units are sold; `None` for all that there is.
    pub supply_limit: Option<u32>,
}

/// One application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Its name in output and commands.
    pub name: String,
    /// File `images/IMAGE` of the archive.
    pub image: String,
    /// True if the archive has `inputs/NAME` for it.
    pub has_input: bool,
    /// Arguments for the application, as userlib hands them to its `main`.
    pub args: Vec<String>,
    /// Balance at the start, 1e-15 credit; never negative.
    pub budget: Atto15,
    /// Income per second of virtual time, 1e-15 credit.
    pub income_per_second: Atto15,
    /// True if it has at least the income that its base costs, so that it can stay for as long as it likes.
    pub income_covers_base: bool,
    /// What its work is worth to it: 1e-15 credit per unit of work.
    pub valuation: u64,
    /// The core that it runs on.
    pub core: u8,
    /// Units of `cpu.N` in its base (at least 1).
    pub base_cpu: u32,
    /// Pages of free memory in its base, besides image and input.
    pub base_pages: u32,
    /// When its work must be done, in milliseconds of virtual time since the start of the run; 0 for none.
    pub deadline_ms: u64,
    /// False if it is only started by an event.
    pub starts: bool,
    /// True if the run ends when all such applications have ended.
    pub awaited: bool,
    /// True if it has a virtual function of the network device in its base, or may buy one.
    pub nic: bool,
    /// Units of `vf.nic` in its base, 0 or 1; counts only if `nic` is true.
    pub base_vf: u32,
    /// Units of `bandwidth` in its base; counts only if `nic` is true.
    pub base_bandwidth: u32,
    /// The VLAN (1 to 4094) that its function is in without seeing the tags; `None`: untagged frames. Counts only if `nic` is true.
    pub vlan: Option<u16>,
    /// Bytes of the namespace that it gets and pays for, with a virtual function of the NVMe controller; 0: none.
    pub storage_bytes: u64,
    /// True if that namespace is in its base; otherwise it has only the virtual function, and may buy the units of `storage`
    /// that the namespace is. Counts only with a namespace.
    pub base_storage: bool,
    /// Units of `iops` in its base; `None`: its reads and writes are not limited. Counts only with a namespace.
    pub base_iops: Option<u32>,
}

/// Something that happens at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds of virtual time since the start of the run.
    pub at_ms: u64,
    /// What.
    pub command: Command,
}
