//! What applications' statements are made of: every movement of an account's money, as a line.
//!
//! The market keeps the last [`KEPT_LINES`] of each account and the sum of those before them, so that what it keeps
//! always adds up to what the ledger says; every interval that is checked with the rest ([`crate::finish`]).

use crate::machine::Machine;
use crate::server::Server;
use alloc::{collections::VecDeque, vec::Vec};
use market_mechanism::Credits;
use market_mechanism::rounds::{Action, Purpose};
use proto::market::{Movement, STATEMENT_LINES, StatementLine, StatementPage};

/// Lines that are kept of each account.
pub const KEPT_LINES: usize = 256;

/// The movements of one account.
#[derive(Debug, Default)]
pub struct Movements {
    lines: VecDeque<StatementLine>,
    /// Number of the oldest line that is kept.
    first: u64,
    /// Sum of all lines before it.
    opening: i128,
    /// Sum of all lines.
    sum: i128,
}

impl Movements {
    /// Adds a line, in the place of the oldest one when there are enough. One that moves nothing is left out.
    pub fn add(&mut self, line: StatementLine) {
        if line.amount == 0 {
            return;
        }
        if self.lines.len() == KEPT_LINES
            && let Some(oldest) = self.lines.pop_front()
        {
            self.opening += oldest.amount;
            self.first += 1;
        }
        self.sum += line.amount;
        self.lines.push_back(line);
    }

    /// What all lines add up to: the account's money.
    pub fn sum(&self) -> Credits {
        Credits(self.sum)
    }

    /// Up to [`STATEMENT_LINES`] lines from number `from` on, as far as they are kept.
    pub fn page(&self, from: u64) -> StatementPage {
        let skipped = from.saturating_sub(self.first).min(self.lines.len() as u64);
        let (before, after) = (self.lines.iter().take(skipped as usize), self.lines.iter().skip(skipped as usize));
        StatementPage {
            first: self.first + skipped,
            opening: self.opening + before.map(|line| line.amount).sum::<i128>(),
            lines: after.take(STATEMENT_LINES).copied().collect::<Vec<_>>(),
            end: self.first + self.lines.len() as u64,
        }
    }
}

impl<M: Machine> Server<'_, M> {
    /// Writes a line for each of a good's actions that moved money.
    pub(crate) fn write_lines(&mut self, good: usize, actions: &[Action]) {
        let running = self.markets[good].rounds.round().0.saturating_sub(1);
        for action in actions {
            let (account, kind, interval, quantity, amount) = match *action {
                Action::Charge { account, purpose, interval, units, amount } => {
                    let kind = match purpose {
                        Purpose::Base => Movement::Base,
                        Purpose::Lease => Movement::Round,
                        Purpose::Desk => Movement::Desk,
                    };
                    (account, kind, interval.0, units.0, -amount.0)
                }
                Action::Refund { account, amount } => (account, Movement::Refund, running, 0, amount.0),
                Action::Penalty { account, amount } => (account, Movement::Penalty, running, 0, amount.0),
                Action::ForcedShrink { .. }
                | Action::Grow { .. }
                | Action::Notice { .. }
                | Action::StopNotice { .. }
                | Action::StopCancelled { .. }
                | Action::Stop { .. } => continue,
            };
            let line = StatementLine { kind, good: Some(good as u16), interval, quantity, amount };
            self.tenants[account.0 as usize].movements.add(line);
        }
    }

    /// Writes a line for money that was paid in.
    pub(crate) fn write_payment(&mut self, app: usize, kind: Movement, amount: Credits) {
        let interval = self.markets[0].rounds.round().0.saturating_sub(1);
        self.tenants[app].movements.add(StatementLine { kind, good: None, interval, quantity: 0, amount: amount.0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(amount: i128) -> StatementLine {
        StatementLine { kind: Movement::Income, good: None, interval: 0, quantity: 0, amount }
    }

    #[test]
    fn what_is_kept_adds_up_to_everything() {
        let mut movements = Movements::default();
        movements.add(line(0));
        let all = 2 * KEPT_LINES as i128;
        (1..=all).for_each(|amount| movements.add(line(amount)));
        assert_eq!(movements.sum(), Credits(all * (all + 1) / 2));
        let mut page = movements.page(0);
        assert_eq!((page.first, page.end), (KEPT_LINES as u64, all as u64));
        let mut sum = page.opening;
        loop {
            assert_eq!(page.opening, sum);
            sum += page.lines.iter().map(|line| line.amount).sum::<i128>();
            let next = page.first + page.lines.len() as u64;
            if next == page.end {
                break;
            }
            page = movements.page(next);
        }
        assert_eq!(Credits(sum), movements.sum());
        // Numbers that do not exist yet have no lines, and no panic.
        let page = movements.page(u64::MAX);
        assert_eq!((page.first, page.opening, page.lines.len()), (page.end, sum, 0));
    }
}
