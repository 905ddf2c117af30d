//! What comes out of a good's rounds: actions, refusals and leases.

use core::fmt;

use crate::curve_lane::ClearError;
use crate::ledger::LedgerError;
use crate::types::{AccountId, Credits, CurveError, Quantity, RoundNo, Ticks};

/// What has to be done, or was done to an account's money, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take these units now: their notice has run out, or the operator needs them.
    ForcedShrink {
        /// Whose.
        account: AccountId,
        /// How many.
        units: Quantity,
    },
    /// Deliver these units now; they are paid.
    Grow {
        /// To whom.
        account: AccountId,
        /// How many.
        units: Quantity,
    },
    /// Tell the account to give up units of its choice.
    Notice {
        /// Whom.
        account: AccountId,
        /// How many.
        units: Quantity,
        /// Not before this time is anything taken.
        deadline: Ticks,
    },
    /// The account paid for an interval to come, or on the desk.
    Charge {
        /// Who.
        account: AccountId,
        /// For what.
        purpose: Purpose,
        /// Of which interval; the first one for a purchase on the desk.
        interval: RoundNo,
        /// How many units.
        units: Quantity,
        /// For all of them.
        amount: Credits,
    },
    /// The account was paid back.
    Refund {
        /// Who.
        account: AccountId,
        /// How much.
        amount: Credits,
    },
    /// The account was paid for a lease that the operator broke.
    Penalty {
        /// Who.
        account: AccountId,
        /// How much.
        amount: Credits,
    },
    /// The base could not be paid: tell the account that it is stopped at the deadline unless it is topped up.
    StopNotice {
        /// Whom.
        account: AccountId,
        /// When.
        deadline: Ticks,
    },
    /// The base was paid after all.
    StopCancelled {
        /// Whose.
        account: AccountId,
    },
    /// Stop the account's VM, take back everything, then call [`Rounds::remove`](super::Rounds::remove) for each good.
    Stop {
        /// Which.
        account: AccountId,
    },
}

/// What a charge was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The base, at contract price.
    Base,
    /// Units won in a round.
    Lease,
    /// Units bought between rounds.
    Desk,
}

/// Why an event was refused. It then changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundError {
    /// The account takes no part in this good.
    NoSuchMember,
    /// The account takes part already.
    AlreadyMember,
    /// All slots are taken.
    TooManyMembers,
    /// The supply does not reach for all bases.
    NoRoom,
    /// The bid breaks a rule.
    Bid(CurveError),
    /// The round must not close yet: a notice is still running.
    TooEarly {
        /// When it may.
        earliest: Ticks,
    },
    /// A price above [`Price::LIMIT`](crate::types::Price::LIMIT), an interval of 0 or a stop notice of 0.
    BadTerms,
    /// The ledger refused.
    Ledger(LedgerError),
    /// The round cannot be cleared. Never returned while [`Rounds`](super::Rounds) is used through its methods.
    Clear(ClearError),
}

impl fmt::Display for RoundError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RoundError::NoSuchMember => out.write_str("the account takes no part in this good"),
            RoundError::AlreadyMember => out.write_str("the account takes part already"),
            RoundError::TooManyMembers => out.write_str("all slots are taken"),
            RoundError::NoRoom => out.write_str("the supply does not reach for all bases"),
            RoundError::Bid(error) => write!(out, "bid: {error}"),
            RoundError::TooEarly { earliest } => {
                write!(out, "the round closes at {} at the earliest", earliest.0)
            }
            RoundError::BadTerms => out.write_str("price above the limit, or interval or stop notice of 0"),
            RoundError::Ledger(error) => write!(out, "ledger: {error}"),
            RoundError::Clear(error) => write!(out, "clearing: {error}"),
        }
    }
}

impl core::error::Error for RoundError {}

impl From<LedgerError> for RoundError {
    fn from(error: LedgerError) -> RoundError {
        RoundError::Ledger(error)
    }
}

/// What an account holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Paid at contract price, never auctioned.
    pub base: Quantity,
    /// Units above the base in the interval that is running.
    pub running: Quantity,
    /// Units above the base in the interval after it.
    pub next: Quantity,
}

impl Lease {
    /// How many units the account has to give up by the end of the running interval.
    #[must_use]
    pub fn under_notice(&self) -> Quantity {
        self.running.saturating_sub(self.next)
    }
}
