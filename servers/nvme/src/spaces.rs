//! The namespaces of the controller, and which of them may be given out.

use crate::admin::Admin;
use crate::erasure::Erasure;
use alloc::{collections::VecDeque, vec::Vec};
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
    /// Nobody has it, and it is being erased, or others are before.
    Erasing,
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
    /// Those that are to be erased, one after the other; how far the first one is.
    queue: VecDeque<u32>,
    under_way: Option<Erasure>,
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
        Ok(Spaces { entries, queue: VecDeque::new(), under_way: None })
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.entries.len() as u32
    }

    /// True if there is one of so many bytes that can be had, now or later.
    pub fn could_give(&self, bytes: u64) -> bool {
        self.entries.iter().any(|entry| entry.bytes >= bytes && entry.is != Use::Lost)
    }

    /// Takes the smallest one of so many bytes that nobody has. `None` if there is none, or if it is to be erased before:
    /// that is on its way then.
    pub fn take(&mut self, bytes: u64) -> Option<u32> {
        let free = |entry: &&mut Entry| entry.bytes >= bytes && !matches!(entry.is, Use::Taken | Use::Lost);
        let entry = self.entries.iter_mut().filter(free).min_by_key(|entry| (entry.bytes, entry.id))?;
        let id = entry.id;
        if entry.is != Use::Clean {
            self.erase(id);
            return None;
        }
        entry.is = Use::Taken;
        Some(id)
    }

    /// Its VF has lost it. If the VF may still reach it, nobody gets it any more.
    pub fn give(&mut self, id: u32, is_out_of_reach: bool) {
        self.set(id, if is_out_of_reach { Use::Dirty } else { Use::Lost });
    }

    /// One that nobody has is to be erased, after those that are to be already. False if it is not known, or is lost.
    pub fn erase(&mut self, id: u32) -> bool {
        match self.entries.iter_mut().find(|entry| entry.id == id).map(|entry| &mut entry.is) {
            Some(is @ Use::Dirty) => {
                *is = Use::Erasing;
                self.queue.push_back(id);
                true
            }
            Some(Use::Erasing) => true,
            _ => false,
        }
    }

    /// True if there is something to erase.
    pub fn is_erasing(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Does one step of erasing the first one that is to be erased. Returns that one once it is erased, or can never be.
    ///
    /// # Errors
    /// Those after which nothing is to be expected of the controller ([`Error::is_final`]).
    pub fn go_on_erasing<R, M, C>(&mut self, admin: &mut Admin<R, M, C>) -> Result<Option<u32>, Error>
    where
        R: Registers + Clone,
        M: DmaMemory + Clone,
        C: Clock + Clone,
    {
        let Some(&id) = self.queue.front() else { return Ok(None) };
        let outcome = match self.under_way.take() {
            None => admin.begin_erasure(id).map(Some),
            Some(erasure) => admin.go_on_erasing(erasure),
        };
        let is = match outcome {
            Ok(Some(erasure)) => {
                self.under_way = Some(erasure);
                return Ok(None);
            }
            Ok(None) => Use::Clean,
            Err(error) if error.is_final() => return Err(error),
            Err(_) => Use::Lost,
        };
        self.queue.pop_front();
        self.set(id, is);
        Ok(Some(id))
    }

    fn set(&mut self, id: u32, is: Use) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) {
            entry.is = is;
        }
    }
}
