//! Tests of the capability core against a machine that is an array.
//!
//! After every operation of every test the invariants of `check` are verified.

mod base;
mod destroying;
mod faults;
mod functions;
mod host;
mod hostile_launch;
mod mapping;
mod quarantine;
mod random;
mod running;
mod slots;
mod time;
