//! Between an application and the market server.

use crate::plan::Atto15;
use crate::storage::Space;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// One step of a bid curve: up to `quantity` further units are worth `value` each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Units in this segment.
    pub quantity: u32,
    /// 1e-15 credit per unit and interval.
    pub value: u64,
}

/// To the market server. Each request has a number of the sender's choice, which its answer repeats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Number.
    pub number: u32,
    /// What is asked.
    pub body: RequestBody,
}

/// What an application can ask of the market.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestBody {
    /// Replaces the standing bid for a good.
    Bid {
        /// Good.
        good: u16,
        /// At most 8 segments, values strictly falling.
        curve: Vec<Segment>,
        /// Added to the marginal value of units held.
        keep: u64,
        /// At most this is ever charged for one interval.
        max_payment: u64,
        /// Last round in which it counts; `u64::MAX` for ever.
        valid_until: u64,
        /// log2 bytes of the blocks in which pages are to be delivered (12..=21); ignored for CPU time.
        block_bits: u8,
    },
    /// Buys unsold units at once, at the desk.
    Desk {
        /// Good.
        good: u16,
        /// Units; for pages a power of two, delivered as one block.
        quantity: u32,
    },
    /// Gives leases back: blocks by the number under which they were delivered.
    Release {
        /// Good.
        good: u16,
        /// Lease numbers (pages), or empty.
        leases: Vec<u32>,
        /// Units (CPU time).
        quantity: u32,
    },
    /// Answers a notice: these blocks shall go.
    GiveUp {
        /// Lease numbers.
        leases: Vec<u32>,
    },
    /// Why a round went as it did for me.
    Explain {
        /// Good.
        good: u16,
        /// Which round; `u64::MAX` for the last one. The market remembers some.
        round: u64,
    },
    /// What q units would cost me in the last round's market.
    Estimate {
        /// Good.
        good: u16,
        /// Units.
        quantity: u32,
    },
    /// My account.
    Statement {
        /// Number of the first line that is wanted.
        from: u64,
    },
    /// I have ended; everything I hold may be taken.
    Exit {
        /// 0 for success.
        status: u32,
        /// Units of useful work done.
        work: u64,
    },
}

/// From the market server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromMarket {
    /// Answer to the request with this number.
    Answer {
        /// Number of the request.
        number: u32,
        /// The answer.
        body: Answer,
    },
    /// A block of pages is in flight in the channel: accept it, retype it, use it.
    Lease {
        /// Number of the lease.
        lease: u32,
        /// log2 bytes of the block.
        bits: u8,
        /// Round that sold it; `u64::MAX` for the desk.
        round: u64,
    },
    /// Result of a round for one good.
    Round {
        /// Good.
        good: u16,
        /// Round.
        round: u64,
        /// Units held from the start of interval `round + 1`, base excluded.
        holding: u32,
        /// Charged for that interval.
        payment: u64,
        /// Free balance after it.
        balance: Atto15,
    },
    /// Notice: by `deadline_tsc` give up `units` units, else the youngest blocks are taken.
    Notice {
        /// Good.
        good: u16,
        /// Round.
        round: u64,
        /// Units lost.
        units: u32,
        /// TSC value of the deadline.
        deadline_tsc: u64,
    },
    /// Early warning: at the present bids these units would be lost in the next round.
    AtRisk {
        /// Good.
        good: u16,
        /// Units.
        units: u32,
    },
    /// These leases were taken by force.
    Taken {
        /// Lease numbers.
        leases: Vec<u32>,
    },
    /// The application's valuation has changed (millionths of the plan's).
    Valuation {
        /// Millionths.
        ppm: u64,
    },
    /// A part of a virtual function of the network device is in flight in the channel, in this order: 0 is the function, the
    /// others are the routes of its messages. To be accepted into the slots that a function of the base has
    /// ([`NIC_SLOT`](crate::start::NIC_SLOT)); the function can be used when all have arrived.
    Vf {
        /// Which, up to [`VF_MESSAGES`](crate::nic::VF_MESSAGES).
        part: u8,
    },
    /// The virtual function was taken, with its registers and its routes.
    VfTaken,
    /// The network device was reset, as its server was started again: the virtual function is to be brought up anew.
    NicReset,
    /// The storage server had stopped and was started again: queues and namespace are as they were. What is above a limit was
    /// counted by nobody meanwhile, and who was closed stayed so.
    StorageRestarted,
    /// The queues of the namespace are gone: they were taken after a notice, or the storage device had to be reset or does not
    /// work any more.
    StorageLost,
    /// After that, or when one was bought: there are new queues, in a namespace with nothing but zeroes.
    StorageRenewed {
        /// What it is like.
        space: Space,
    },
    /// The base can't be paid: it will be stopped at `deadline_tsc` unless its account is topped up.
    StopNotice {
        /// TSC value.
        deadline_tsc: u64,
    },
}

/// Answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Done,
    /// Refused.
    Refused(Refusal),
    /// To `Desk` for CPU time: in force from `from_tsc` on.
    Bought {
        /// Charged.
        payment: u64,
        /// TSC value from which it is delivered.
        from_tsc: u64,
    },
    /// To `Explain`.
    Explanation(Explanation),
    /// To `Estimate`.
    Estimate {
        /// 1e-15 credit per interval for all the units together.
        cost: u64,
    },
    /// To `Statement`.
    Statement {
        /// Free balance.
        balance: Atto15,
        /// In escrow.
        escrow: Atto15,
        /// Paid so far.
        paid: Atto15,
        /// How it came about.
        page: StatementPage,
    },
}

/// Lines in one [`StatementPage`], at most.
pub const STATEMENT_LINES: usize = 32;

/// A part of an account's movements.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementPage {
    /// Number of the first line here. Older ones were not asked for, or are not remembered.
    pub first: u64,
    /// Sum of all lines before it.
    pub opening: Atto15,
    /// At most [`STATEMENT_LINES`], in the order in which they happened.
    pub lines: Vec<StatementLine>,
    /// Number that the next line will have that is written. If it is not the one after these, there are more.
    pub end: u64,
}

/// One movement of an account's money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementLine {
    /// What it was.
    pub kind: Movement,
    /// About this good, if about one.
    pub good: Option<u16>,
    /// First interval that was paid for; else the one that was running, of the good or of pages.
    pub interval: u64,
    /// Units that were paid for.
    pub quantity: u32,
    /// What the account's money grew by; below 0 for a charge.
    pub amount: Atto15,
}

/// Why an account's money moves. Escrow is still the account's, so that setting aside is no movement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Movement {
    /// Its owner paid in.
    TopUp,
    /// Its regular income.
    Income,
    /// It paid its base, also out of its deposit while a stop notice runs.
    Base,
    /// It paid what it won in a round.
    Round,
    /// It bought at the desk.
    Desk,
    /// It was refunded what it gave back and the desk sold again.
    Refund,
    /// The operator broke a lease of its.
    Penalty,
}

/// What a round meant for one application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Round explained.
    pub round: u64,
    /// Units bid for.
    pub wanted: u32,
    /// Units won.
    pub won: u32,
    /// What they cost together.
    pub payment: u64,
    /// Why it was not one more.
    pub reason: Reason,
    /// Lowest value per unit that would have won one further unit; `u64::MAX` if none could.
    pub would_have_won: u64,
    /// By how much the last unit won beat what else it could have been sold for: little means that it is at risk.
    pub headroom: u64,
}

/// Why a bid did not win one more unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// There was no bid.
    NoBid,
    /// It did not ask for more.
    AllServed,
    /// The next unit was worth less than the reserve, and the fee if it was new.
    BelowReserve,
    /// The budget ended before the next unit.
    Budget,
    /// It has the whole supply.
    NoSupply,
    /// Others offered more, or the same and came first in the order of ties.
    Outbid,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// No such good, or not for this application's core.
    UnknownGood,
    /// The curve has too many segments, or its values do not fall strictly, or a quantity is 0.
    BadCurve,
    /// The quantity is 0, not a power of two, or beyond the supply.
    BadQuantity,
    /// The desk has no such unit.
    NotAvailable,
    /// The free balance is too small.
    CannotPay,
    /// No lease that it ever had.
    UnknownLease,
    /// Too many requests in this interval.
    TooManyRequests,
    /// The message could not be decoded.
    Malformed,
}
