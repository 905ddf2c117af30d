//! The specification held to its own properties: random runs of the abstract machine, atomic and fine.
//!
//! [`world`] makes machines to start from, and near-valid events. The tests run them and look, after each event, at every
//! property of `cap_spec::properties` that is one of a state or a step; each test has seeded mistakes beside it, which the
//! same check must report, so that none is vacuous. What passes is told as claims of the tier `tested`.
#![forbid(unsafe_code)]

pub mod answers;
pub mod world;
