//! The price board, read from the page that the market maps into every application.

use core::sync::atomic::AtomicU64;

use cap_spec::abi::PRICE_BOARD;
use market_mechanism::board::{self, Line, WORDS};
use market_mechanism::types::Price;

/// Lines that fit into the page.
const LINES: usize = 4096 / (WORDS * 8);

/// What one further unit of a good would cost a newcomer, to be read whenever it is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    line: &'static [AtomicU64; WORDS],
}

impl Ask {
    /// The ask now: one load. `None` if there is nothing for sale.
    #[inline]
    pub fn now(self) -> Option<Price> {
        board::ask(self.line)
    }
}

/// A view of the board.
#[derive(Clone, Copy, Debug)]
pub struct Board {
    lines: &'static [[AtomicU64; WORDS]],
}

impl Board {
    /// The board of this VM, with lines for `goods` goods.
    ///
    /// # Safety
    /// The price board must be mapped at its address, for as long as the VM lives.
    pub unsafe fn mapped(goods: usize) -> Board {
        // SAFETY: the caller vouches for the page; atomic words may be changed by others; zero is a valid word.
        let lines = unsafe { core::slice::from_raw_parts(PRICE_BOARD as *const [AtomicU64; WORDS], goods.min(LINES)) };
        Board { lines }
    }

    /// A board in ordinary memory, for tests and simulations.
    pub fn new(lines: &'static [[AtomicU64; WORDS]]) -> Board {
        Board { lines }
    }

    /// What one further unit would cost a newcomer: one load. `None` if there is none for sale, or no such good.
    #[inline]
    pub fn ask(&self, good: u16) -> Option<Price> {
        board::ask(self.lines.get(usize::from(good))?)
    }

    /// The ask of a good, for who reads it often. `None` if there is no such good.
    pub fn watch(&self, good: u16) -> Option<Ask> {
        Some(Ask { line: self.lines.get(usize::from(good))? })
    }

    /// The whole line. `None` if there is no such good, or its line is never at rest.
    pub fn line(&self, good: u16) -> Option<Line> {
        board::read(self.lines.get(usize::from(good))?)
    }
}
