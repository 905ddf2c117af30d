//! Between the market server and the storage server, which administers the NVMe controller whose virtual functions (VFs)
//! and namespaces the market hands out; and what an application is told of its own.
//!
//! The market has all functions and their domains. The storage server has registers and the pages that are listed in
//! [`page`], mapped; an application has the page of doorbells of one VF, a window of its domain ([`WINDOW`]), and a route for
//! its interrupts. Either side checks what the other says.

use serde::{Deserialize, Serialize};

/// Most VFs that are used.
pub const MAX_VFS: usize = 4;
/// Where the registers (in front) and memory of the physical function (PF) are mapped in the storage server; those of the VFs
/// follow. It is a part of the window in which a VM may have memory of others when it is launched.
const FUNCTIONS_AT: u64 = 0x12_0000;

/// Where those of a function are mapped in the storage server: number 0 is the PF, the others are the VFs.
#[must_use]
pub const fn function_at(number: usize) -> u64 {
    match number.checked_sub(1) {
        None => FUNCTIONS_AT,
        Some(vf) => FUNCTIONS_AT + (page::PF_END + vf as u64 * page::VF_END) * 4096,
    }
}
const _: () = assert!(function_at(1 + MAX_VFS) <= 0x14_0000);

/// The pages of a function in the storage server, from [`function_at`] on.
pub mod page {
    /// Registers, and behind them the page of doorbells.
    pub const REGISTERS: u64 = 0;
    /// Pages of registers and doorbells.
    pub const REGISTER_PAGES: u64 = 2;
    /// The admin submission queue, which the function only reads. The first page of memory.
    pub const SUBMISSION: u64 = 2;
    /// The admin completion queue.
    pub const COMPLETION: u64 = 3;
    /// What admin commands read and write.
    pub const DATA: u64 = 4;
    /// Behind the last page of a VF.
    pub const VF_END: u64 = 5;
    /// The PF's own queue pair for reads and writes.
    pub const IO_SUBMISSION: u64 = 5;
    /// See [`IO_SUBMISSION`].
    pub const IO_COMPLETION: u64 = 6;
    /// What the PF reads into.
    pub const BUFFER: u64 = 7;
    /// Behind the last page of the PF.
    pub const PF_END: u64 = 9;
}

/// The good that is how often a namespace may be read and written.
pub const IOPS_GOOD: &str = "iops";
/// Reads and writes per second of one unit of it.
pub const UNIT_OPERATIONS: u64 = 100;
/// Units that a controller is taken to have: a million reads and writes a second. What it really does depends on the
/// medium; a scenario says how much of it is for sale.
pub const CONTROLLER_UNITS: u32 = 10_000;
/// The good that is the size of namespaces: in bases, or bought by who has a function without one. Nobody has more than the
/// namespace that it asks for, and who has less has none.
pub const STORAGE_GOOD: &str = "storage";
/// Bytes of one unit of it.
const UNIT_BYTES: u64 = 1 << 20;

/// Units of [`STORAGE_GOOD`] that a namespace of so many bytes is: whole ones, the last one counts if it is begun.
#[must_use]
pub const fn storage_units(bytes: u64) -> u32 {
    let units = bytes.div_ceil(UNIT_BYTES);
    if units > u32::MAX as u64 { u32::MAX } else { units as u32 }
}

/// Where page 0 would be in a function's domain; its memory is there from page [`page::SUBMISSION`] on.
pub const SERVER_IO_BASE: u64 = 0x10_0000;
/// The application's window of I/O addresses, and log2 of its bytes: what one table of level 2 covers.
pub const WINDOW: u64 = 1 << WINDOW_BITS;
/// See [`WINDOW`].
pub const WINDOW_BITS: u8 = 30;
/// Queue pairs of an application: the first one does not interrupt, the second one does.
pub const QUEUES: usize = 2;
/// Entries of each of their rings. So every ring is in a page of its own.
pub const ENTRIES: u16 = 64;
/// The message of a VF that the second queue pair raises: that of its admin queue as well, in which nothing ends unless the
/// holder itself rings the doorbell. A VF has further messages only once they are assigned to it, long after the kernel has
/// looked at it.
pub const MESSAGE: u16 = 0;
/// Pages of an application's rings.
pub const RING_PAGES: u16 = 2 * QUEUES as u16;
/// Pages of its buffers, as userlib makes them.
pub const BUFFERS: u16 = 64;
/// Free pages that an application's base must have for its rings, buffers and tables.
pub const BASE_PAGES: u32 = 80;

/// The I/O address of a ring of an application: queue pair 0 or 1, its completion queue or its submission queue.
#[must_use]
pub const fn ring_at(queue: usize, completion: bool) -> u64 {
    WINDOW + (2 * queue as u64 + completion as u64) * 4096
}

/// A namespace and queues in it, as their application sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// The namespace's identifier.
    pub namespace: u32,
    /// Bytes of a block, as a power of two.
    pub block_shift: u8,
    /// Blocks of the namespace.
    pub blocks: u64,
    /// Bytes of the largest transfer.
    pub max_transfer_bytes: u32,
    /// For each queue pair, the offset of its submission queue's doorbell in the page of doorbells.
    pub doorbells: [u32; QUEUES],
    /// Bytes from there to its completion queue's.
    pub stride: u32,
}

/// To the storage server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToStorage {
    /// Before [`ToStorage::Begin`]: VF `vf` has a holder, which goes on using this namespace.
    Keep {
        /// Which VF, below [`MAX_VFS`].
        vf: u8,
        /// Its namespace.
        namespace: u32,
        /// Reads and writes per second that it may do; `None`: no limit.
        per_s: Option<u64>,
    },
    /// Bring the controller up.
    Begin,
    /// VF `vf` is to have a namespace with nothing but zeroes, and queues.
    Prepare {
        /// Which VF, below [`MAX_VFS`].
        vf: u8,
        /// It was reset, and has a new holder; else its holder has had a namespace before, and may owe operations.
        is_new: bool,
        /// Bytes that the namespace must have at least.
        bytes: u64,
        /// Reads and writes per second that it may do; `None`: no limit.
        per_s: Option<u64>,
    },
    /// VF `vf`, which has a limit, has another one from a moment on.
    Limit {
        /// Which VF, below [`MAX_VFS`].
        vf: u8,
        /// Reads and writes per second.
        per_s: u64,
        /// From when on it holds, in nanoseconds of the time-stamp counter; at once if that has passed.
        from_ns: u64,
    },
    /// VF `vf` loses its queues and its namespace, which is to be erased: it has lost its holder, or its holder has lost them.
    /// One that is being prepared, or waits for a namespace, gets none.
    Release {
        /// Which VF, below [`MAX_VFS`].
        vf: u8,
    },
    /// Panic, so that a test sees what follows.
    Crash,
    /// Switch the controller off, so that all queues are gone, and panic, likewise.
    Fail,
}

/// From the storage server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromStorage {
    /// The controller works.
    Ready {
        /// Namespaces that it has.
        namespaces: u32,
    },
    /// It does not work, or not any more.
    Failed,
    /// The queues of VFs that should be kept are gone.
    Lost,
    /// A VF can be handed to its holder.
    Prepared {
        /// Which VF.
        vf: u8,
        /// What the holder gets.
        space: Space,
    },
    /// What a VF may do has changed: this is in force now.
    InForce {
        /// Which VF.
        vf: u8,
        /// Reads and writes per second; `None`: no limit.
        per_s: Option<u64>,
    },
    /// The controller refuses for good to say what a VF reads and writes, or to keep it to its limit. Its queues are gone: it
    /// waits for [`ToStorage::Release`].
    Uncounted {
        /// Which VF.
        vf: u8,
    },
    /// There is no namespace that is large enough, in use or not.
    TooLarge {
        /// Which VF was to have it.
        vf: u8,
    },
    /// The namespace of a VF has been erased.
    Released {
        /// Which VF it was.
        vf: u8,
    },
    /// A VF cannot be kept or prepared: that is impossible, or the controller refused it, or the VF did not answer.
    Impossible {
        /// Which VF.
        vf: u8,
    },
    /// A VF, or its namespace, cannot be taken from its holder: the controller refused that, or does not work.
    Unreleased {
        /// Which VF.
        vf: u8,
    },
}
