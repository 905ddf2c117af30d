//! Between an application (or the market server) and the console server.

use crate::host::Record;
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// To the console server. It knows the sender by the channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToConsole {
    /// Text to show; may hold several lines or parts of one. Output of several senders never mixes within a line.
    Text(String),
    /// Work done and to do.
    Progress {
        /// Units done.
        done: u64,
        /// Units in all, 0 if unknown.
        total: u64,
    },
    /// Opens output file `file` (a number of the sender's choice).
    FileBegin {
        /// Number.
        file: u16,
        /// Plain file name.
        name: String,
    },
    /// Appends to it.
    FileData {
        /// Number.
        file: u16,
        /// At most 1,024 bytes.
        data: Vec<u8>,
    },
    /// Closes it; the console server adds length and hash.
    FileEnd {
        /// Number.
        file: u16,
    },
    /// From the market server only: a record for the host, as it is.
    Record(Record),
    /// From the market server only: flush everything, then write the exit value to the debug-exit port.
    PowerOff {
        /// Value for the port.
        value: u8,
    },
    /// A bench row, from any application.
    Bench {
        /// Name of the operation.
        operation: String,
        /// Instructions.
        instructions: u64,
        /// Exits.
        exits: u64,
    },
    /// From the market server only: the run starts at this TSC value; times of records count from it.
    Epoch {
        /// TSC value.
        tsc: u64,
    },
    /// How well a cache does, since its start.
    Hits {
        /// Accesses that found something.
        hits: u64,
        /// All accesses.
        accesses: u64,
    },
}

/// From the console server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromConsole {
    /// To the market server only: a command that the host sent.
    Command(crate::host::Command),
    /// The file with this number is closed and on its way to the host.
    FileDone {
        /// Number.
        file: u16,
    },
}
