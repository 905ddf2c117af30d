//! The market's rules: who gets what in a round, what each pays, and the book-keeping of it.
//!
//! This crate is the whole decision-making part of the market and nothing else. It does no I/O, allocates nothing,
//! reads no clock, uses integers only, and gives the same answer for the same input everywhere, so the code that runs
//! in the market server's VM is the code that the host's tests, simulations and `cargo xtask market clear` run.
//!
//! Reading order:
//! 1. [`types`]: amounts, prices, quantities, demand curves and bids.
//! 2. [`curve_lane`]: one round of one good: allocation and exact VCG payments; [`explain`] answers questions about it.
//! 3. [`ledger`]: who owns what money; its sum never changes.
//! 4. [`rounds`]: the rounds of one good over time: leases, notices, charges, refunds, the desk, the base.
//! 5. [`board`]: the 64 bytes per good that every application can read.
//! 6. [`policy`]: what an application may use to turn prices into bids.
//!
//! Truthfulness is claimed for one round of [`curve_lane::clear`], with values that are additive over goods.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod board;
pub mod curve_lane;
pub mod explain;
pub mod ledger;
pub mod policy;
pub mod rounds;
pub mod types;

pub use types::{AccountId, Bid, Credits, Curve, CurveError, GoodId, Price, Quantity, RoundNo, Segment, Ticks};
