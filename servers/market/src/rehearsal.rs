//! Whether a machine has room for what a plan promises: the market's start as far as it takes memory, without a machine.
//!
//! The host's tool asks before it boots anything, so that a plan that promises too much is refused with the application
//! that has no room. The blocks are the market's own: taken by [`Memory`], in the order in which `server` takes them,
//! from a kernel that refuses nothing and scrubs at once.

use crate::archive::Archive;
use crate::launch::Layout;
use crate::life::SIDE_BITS;
use crate::machine::{Attention, Full, Machine, Peer, Received, Slot};
use crate::memory::{Memory, MemoryError};
use crate::root::{OWN_BITS, Root};
use crate::server::set_aside;
use crate::slots::Slots;
use alloc::vec::Vec;
use cap_spec::abi::{Fault, Label, slots};

/// Pages that the market makes for itself beside those for each client: board, start-up pages, page tables.
const OWN_PAGES: u64 = 24;
/// Pages for each client of the console server: two rings and a channel.
const CLIENT_PAGES: u64 = 3;
/// Slots of the root CNode.
const ROOT_SLOTS: u16 = 4096;

/// What has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// The market and the console server themselves.
    Servers,
    /// What this application of the plan is promised, beside those before it.
    App(usize),
}

/// Takes all that the plan promises from a machine that has `cores` cores and Untypeds of these log2 bytes after boot.
///
/// # Errors
/// What finds no room first.
pub fn rehearse(archive: &Archive<'_>, cores: u16, untypeds: &[u8]) -> Result<(), Shortage> {
    let first = slots::FREE + cores;
    let boot: Vec<(Slot, u8)> = (first..).map(Slot::root).zip(untypeds.iter().copied()).collect();
    let memory = Memory::new(Slots::new(first + boot.len() as u16, ROOT_SLOTS), &boot);
    let mut root = Root::new(NoKernel, memory);
    start_servers(&mut root, archive).map_err(|_| Shortage::Servers)?;
    for (app, (plan, image)) in archive.plan.apps.iter().zip(&archive.images).enumerate() {
        let input = archive.inputs[app].len() as u64;
        let layout = Layout::new(image, plan.base_pages.into(), input);
        set_aside(&mut root, &layout, input).map_err(|_| Shortage::App(app))?;
    }
    for app in 0..archive.plan.apps.len() {
        root.take(SIDE_BITS).map_err(|_| Shortage::App(app))?;
    }
    Ok(())
}

fn start_servers(root: &mut Root<NoKernel>, archive: &Archive<'_>) -> Result<(), MemoryError> {
    root.add_heap()?;
    root.take(Layout::new(&archive.console, 0, 0).bits)?;
    if let Some(image) = &archive.nic {
        root.take(Layout::new(image, crate::nic_link::FREE_PAGES, 0).bits)?;
        root.take(SIDE_BITS)?;
    }
    if let Some(image) = &archive.storage {
        root.take(Layout::new(image, 0, 0).bits)?;
        root.take(SIDE_BITS)?;
        for _ in 0..=proto::storage::MAX_VFS {
            root.take(crate::storage_function::FUNCTION_BITS)?;
        }
    }
    let clients = archive.plan.apps.len() as u64 + 1;
    let own = (OWN_PAGES + CLIENT_PAGES * clients) << crate::memory::PAGE_BITS;
    for _ in 0..own.div_ceil(1 << OWN_BITS) {
        root.take(OWN_BITS)?;
    }
    while root.memory.scrub_next(&mut root.machine)? {}
    Ok(())
}

/// A kernel that does whatever it is asked, and nothing else of a machine.
#[derive(Debug)]
struct NoKernel;

impl Machine for NoKernel {
    fn invoke(&mut self, _label: Label, _capability: Slot, _arguments: [u64; 5]) -> Result<[u64; 2], Fault> {
        Ok([0; 2])
    }

    fn now(&self) -> u64 {
        0
    }

    fn add_heap(&mut self, _gpa: u64, _bytes: u64) {}

    fn write(&mut self, _gpa: u64, _bytes: &[u8]) {}

    fn write_word(&mut self, _gpa: u64, _word: u64) {}

    fn read_word(&self, _gpa: u64) -> u64 {
        0
    }

    fn open_rings(&mut self, _peer: Peer, _from_peer: u64, _to_peer: u64) {}

    fn close_rings(&mut self, _peer: Peer) {}

    fn send(&mut self, _peer: Peer, _message: &[u8]) -> Result<Attention, Full> {
        Err(Full)
    }

    fn receive(&mut self, _peer: Peer) -> Received {
        Received::Nothing
    }
}
