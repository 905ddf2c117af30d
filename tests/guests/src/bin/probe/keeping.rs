//! A tenant that keeps what it has: its pages, a lease and its registers are full of a pattern, and it looks over and over
//! whether they still are. What is done beside it must not reach it.

use alloc::format;
use alloc::string::String;
use guests::children::{self, keeper};
use guests::root::{CHILD_BITS, Child, Root, set_word, tsc, word};
use userlib::cap::{Cap, Frame, Slot, Untyped};

use crate::{Check, end, micros, sleep, told};

/// What it fills everything with.
const PATTERN: u64 = 0x7e57_ab1e_5ec2_e75a;
/// log2 of the bytes of its lease.
const LEASE_BITS: u8 = 13;
/// Rounds that it still makes whenever it is looked at.
const ROUNDS: u64 = 20;
/// For what only a keeper that has no more time, or looks at something damaged, does not come to, however busy its host is.
const PATIENCE_MICROS: u64 = 200_000_000;

/// One that runs.
pub struct Keeper {
    pub child: Child,
    /// What its lease was made of.
    pub block: Cap<Untyped>,
    /// The page that it shares with the root VM.
    pub page: Cap<Frame>,
    address: u64,
}

impl Keeper {
    /// Starts one on the boot core, for a part of the time, and waits until it has filled everything.
    pub fn start(root: &mut Root, percent: u64) -> Result<Keeper, String> {
        let period = micros(root, 10_000);
        let (page, address) = root.shared_page().map_err(told("page"))?;
        set_word(address, keeper::PATTERN, PATTERN);
        let budget = period * percent / 100;
        let child = root.child(children::keeps(), keeper::PAGES, &[page], 0, budget, period).map_err(told("child"))?;
        let block: Cap<Untyped> = root.make(LEASE_BITS).map_err(told("lease"))?;
        let lease: Cap<Untyped> = block.retype(LEASE_BITS, root.slot()).map_err(told("lease"))?;
        Slot::in_node(child.cnode.slot().index(), keeper::LEASE).move_from(lease).map_err(told("lease"))?;
        root.launch(&child).map_err(told("launch"))?;
        let keeper = Keeper { child, block, page, address };
        keeper.wait(root, |keeper| keeper.word(keeper::FILLED) != 0);
        match keeper.word(keeper::FILLED) {
            filled if filled == u64::from(keeper::PAGES) + 2 => Ok(keeper),
            filled => Err(format!("the tenant filled {filled} pages")),
        }
    }

    fn word(&self, offset: usize) -> u64 {
        word(self.address, offset)
    }

    /// Sleeps until this is so.
    fn wait(&self, root: &Root, done: impl Fn(&Keeper) -> bool) {
        let deadline = tsc() + micros(root, PATIENCE_MICROS);
        while !done(self) && tsc() < deadline {
            sleep(root, 5_000);
        }
    }

    /// It still makes its rounds, and has never found anything changed.
    pub fn expect_whole(&self, root: &Root) -> Check {
        let rounds = self.word(keeper::ROUNDS);
        let enough = |keeper: &Keeper| keeper.word(keeper::ROUNDS) >= rounds + ROUNDS;
        self.wait(root, |keeper| enough(keeper) || keeper.word(keeper::DAMAGED) != 0);
        match self.word(keeper::DAMAGED) {
            0 if enough(self) => Ok(()),
            0 => Err(format!("the tenant makes no more rounds after {rounds}")),
            damaged => Err(format!("the tenant found something changed {damaged} times, after {rounds} rounds")),
        }
    }

    /// Takes everything back, and finds zeros.
    pub fn end(&self, root: &mut Root) -> Check {
        self.block.revoke().map_err(told("lease"))?;
        root.is_clean(self.block, LEASE_BITS).map_err(told("lease"))??;
        end(&self.child)?;
        root.is_clean(self.child.block, CHILD_BITS).map_err(told("block"))??;
        Ok(())
    }
}
