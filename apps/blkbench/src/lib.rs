//! `blkbench`: reads and writes a namespace of its own, and checks every byte. By its argument `role` it is one of
//! - `check`: writes the namespace from end to end, then reads and writes at random and in order at queue depths from 1 to 32,
//!   and reads all of it in the end: `pages=N` of it at most, `operations=N` of each kind;
//! - `measure`: the same operations on a medium that keeps nothing, so that contents are not looked at; tells instructions and
//!   exits of each;
//! - `steady`: reads and writes at random as often as it may for `for=MILLISECONDS`, `depth=N` at a time, and
//!   tells how often in each second; from `from=MILLISECONDS` on it bids for `want=UNITS` of operations at its value of work;
//! - `keep`: expects nothing but zeroes, writes all pages, and reads them over and over for `for=MILLISECONDS`.
//!
//! `mode=interrupt`, `poll` or `adaptive` says how it learns of ends; without, `check` and `measure` do all in each of the three
//! ways, `steady` by interrupts, as `keep` always does.
//!
//! What a page holds follows from its number and how often it was written ([`content`]), so that what is read is known to be
//! what was last written there.
#![no_std]

extern crate alloc;

pub mod content;

#[cfg(target_os = "none")]
mod roles;
#[cfg(target_os = "none")]
mod work;

#[cfg(target_os = "none")]
pub use roles::run;

/// On the host there is no device.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "none"))]
pub fn run(_: &mut userlib::App) -> Result<(), userlib::Error> {
    Err(userlib::Error::failed("it runs in a VM"))
}
