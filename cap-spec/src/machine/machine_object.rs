//! Machine: the machine as a whole.
//!
//! * **Reset** resets it.
//! * **GetPage** derives a read-only Frame capability to the page of global statistics.
//! * What functions were stopped from is chapter `faults`.

use super::Outcome;
use super::lookup::Invoked;
use super::state::{Output, State};
use super::vm::derive_page;
use crate::abi::{Fault, Rights};

/// `Machine.Reset`.
pub(super) fn reset(state: &mut State, _: Invoked) -> Result<Outcome, Fault> {
    state.outputs.push(Output::Reset);
    Ok(Outcome::NOTHING)
}

/// `Machine.GetPage`.
pub(super) fn get_page(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let page = state.config.statistics_page;
    derive_page(state, call, 1, page, Rights::READ)
}
