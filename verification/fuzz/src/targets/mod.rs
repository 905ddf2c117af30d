//! The targets, by whose bytes they read.

mod firmware;
mod invocations;
mod memory;
mod messages;
mod network;
mod pci;
mod rings;

use crate::Target;

pub const ALL: &[Target] = &[
    firmware::ACPI,
    firmware::HANDOVER,
    firmware::MODULE,
    memory::MAP,
    pci::CONFIGURATION,
    invocations::INVOCATIONS,
    messages::FRAMES,
    messages::MESSAGES,
    rings::RING,
    rings::COMPLETIONS,
    rings::RECEIVED,
    network::DATAGRAMS,
    network::MAILBOX,
];
