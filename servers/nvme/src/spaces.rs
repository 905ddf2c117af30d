//! The namespaces of the controller, and which of them may be given out.

use crate::admin::Admin;
use alloc::vec::Vec;
use device::{Clock, DmaMemory, Registers};
use nvme_admin::Error;

/// Most namespaces that are used.
const MOST: usize = 64;

/// What may be done with a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Nobody has it, and it was seen to have nothing but zeroes.
    Clean,
    /// Nobody has it; what is in it is not known.
    Dirty,
    /// A VF has it.
    Taken,
    /// It could not be taken from a VF or be erased: nobody gets it any more.
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: u32,
    bytes: u64,
    is: Use,
}

/// The namespaces.
#[derive(Debug)]
pub struct Spaces {
    entries: Vec<Entry>,
}

impl Spaces {
    /// Finds them; `kept` are those that VFs go on using. The others are nobody's.
    ///
    /// # Errors
    /// As [`nvme_admin::Controller::execute`].
    pub fn found<R, M, C>(admin: &mut Admin<R, M, C>, kept: impl Iterator<Item = u32> + Clone) -> Result<Spaces, Error>
    where
        R: Registers + Clone,
        M: DmaMemory + Clone,
        C: Clock + Clone,
    {
        let mut entries = Vec::new();
        let mut last = 0;
        while entries.len() < MOST
            && let Some(id) = admin.controller.next_allocated_namespace(last)?
        {
            last = id;
            // One whose blocks are not usable is not counted.
            let space = match admin.controller.allocated_namespace(id) {
                Ok(space) => space,
                Err(Error::Nonsense) => continue,
                Err(error) => return Err(error),
            };
            let is = if kept.clone().any(|other| other == id) { Use::Taken } else { Use::Dirty };
            if is == Use::Dirty {
                admin.detach_from_all(id)?;
            }
            entries.push(Entry { id, bytes: space.blocks.saturating_mul(1 << space.block_shift), is });
        }
        Ok(Spaces { entries })
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.entries.len() as u32
    }

    /// True if there is one of so many bytes that can be had, now or later.
    pub fn could_give(&self, bytes: u64) -> bool {
        self.entries.iter().any(|entry| entry.bytes >= bytes && entry.is != Use::Lost)
    }

    /// Takes the smallest one of so many bytes that nobody has, and erases it before if need be.
    pub fn take<R, M, C>(&mut self, admin: &mut Admin<R, M, C>, bytes: u64) -> Option<u32>
    where
        R: Registers + Clone,
        M: DmaMemory + Clone,
        C: Clock + Clone,
    {
        loop {
            let free = |entry: &&mut Entry| entry.bytes >= bytes && matches!(entry.is, Use::Clean | Use::Dirty);
            let entry = self.entries.iter_mut().filter(free).min_by_key(|entry| (entry.bytes, entry.id))?;
            if entry.is == Use::Dirty && admin.erase(entry.id).is_err() {
                entry.is = Use::Lost;
                continue;
            }
            entry.is = Use::Taken;
            return Some(entry.id);
        }
    }

    /// Its VF has lost it. If the VF may still reach it, nobody gets it any more.
    pub fn give(&mut self, id: u32, is_out_of_reach: bool) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) {
            entry.is = if is_out_of_reach { Use::Dirty } else { Use::Lost };
        }
    }

    /// Erases one that nobody has.
    pub fn erase_one<R, M, C>(&mut self, admin: &mut Admin<R, M, C>, id: u32)
    where
        R: Registers + Clone,
        M: DmaMemory + Clone,
        C: Clock + Clone,
    {
        let mut entries = self.entries.iter_mut();
        if let Some(entry) = entries.find(|entry| entry.id == id && entry.is == Use::Dirty) {
            entry.is = if admin.erase(id).is_ok() { Use::Clean } else { Use::Lost };
        }
    }
}
