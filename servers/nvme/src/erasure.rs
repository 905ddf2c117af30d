//! Erasing a namespace in steps of one command each, so that whoever erases hears messages and keeps limits in between.
//!
//! What has been erased was made zero, flushed, and then read as zeroes from end to end; nobody else had it meanwhile.

use crate::admin::Admin;
use device::{Clock, DmaMemory, PAGE_BYTES, Registers};
use nvme_admin::Error;
use nvme_queue::{Namespace, Transfer};

/// Blocks that one command makes zero.
const ZERO_BLOCKS: u64 = 4096;

/// What is to be done next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Zeroes from this block on; behind the last one, a flush.
    Zero(u64),
    /// A look whether there are zeroes from this block on.
    Read(u64),
}

/// A namespace that is being erased: the physical function has it.
#[derive(Clone, Copy, Debug)]
pub struct Erasure {
    space: Namespace,
    step: Step,
}

impl<R: Registers + Clone, M: DmaMemory + Clone, C: Clock + Clone> Admin<R, M, C> {
    /// Takes a namespace from everybody, to erase it.
    ///
    /// # Errors
    /// As [`Admin::detach_from_all`] and [`nvme_admin::Controller::namespace`].
    pub fn begin_erasure(&mut self, namespace: u32) -> Result<Erasure, Error> {
        self.detach_from_all(namespace)?;
        self.controller.attach(namespace, self.number)?;
        match self.controller.namespace(namespace) {
            Ok(space) => Ok(Erasure { space, step: Step::Zero(0) }),
            Err(error) => {
                self.controller.detach(namespace, self.number)?;
                Err(error)
            }
        }
    }

    /// Does one command more. Returns what is left to be done; `None`: the namespace is erased, and nobody has it.
    ///
    /// # Errors
    /// As [`nvme_admin::Controller::execute`]; [`Error::Nonsense`] if something else than zeroes is read. Then the namespace
    /// is not erased.
    pub fn go_on_erasing(&mut self, erasure: Erasure) -> Result<Option<Erasure>, Error> {
        let outcome = self.next_step(erasure);
        if !matches!(outcome, Ok(Some(_))) {
            self.controller.detach(erasure.space.id, self.number)?;
        }
        outcome
    }

    fn next_step(&mut self, Erasure { space, step }: Erasure) -> Result<Option<Erasure>, Error> {
        let step = match step {
            Step::Zero(block) if block < space.blocks => {
                let blocks = ZERO_BLOCKS.min(space.blocks - block);
                let command = space.zeroes(block, blocks).ok_or(Error::Nonsense)?;
                self.execute(&command)?;
                Step::Zero(block + blocks)
            }
            Step::Zero(_) => {
                self.execute(&space.flush())?;
                Step::Read(0)
            }
            Step::Read(block) if block < space.blocks => Step::Read(block + self.expect_zeroes(&space, block)?),
            Step::Read(_) => return Ok(None),
        };
        Ok(Some(Erasure { space, step }))
    }

    /// Reads from a block on, as many as one command reads, and returns how many they were.
    fn expect_zeroes(&mut self, space: &Namespace, block: u64) -> Result<u64, Error> {
        let bytes = (8 * self.buffer.words() as u64).min(2 * PAGE_BYTES).min(space.max_transfer_bytes.into());
        let blocks = (bytes >> space.block_shift).min(space.blocks - block);
        if blocks == 0 {
            return Err(Error::Nonsense);
        }
        let bytes = blocks << space.block_shift;
        // What is not written by the read must not look like zeroes.
        (0..bytes as usize / 8).for_each(|word| self.buffer.store(word, u64::MAX));
        let pages = [self.buffer.io_address(), self.buffer.io_address() + PAGE_BYTES];
        let pages = &pages[..bytes.div_ceil(PAGE_BYTES).clamp(1, 2) as usize];
        let transfer = Transfer::in_pages(pages, 0, bytes as u32).ok_or(Error::Nonsense)?;
        let access = space.reads(&transfer).and_then(|access| access.at(block));
        self.execute(&access.ok_or(Error::Nonsense)?)?;
        let is_zero = (0..bytes as usize / 8).all(|word| self.buffer.load(word) == 0);
        if is_zero { Ok(blocks) } else { Err(Error::Nonsense) }
    }
}
