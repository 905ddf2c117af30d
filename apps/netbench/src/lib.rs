//! `netbench`: Ethernet frames by a virtual function of its own. By its argument `role` it is one of
//! - `echo`: sends every frame back to whom it came from, for `for=MILLISECONDS`;
//! - `ping`: sends frames to `peer=ADDRESS`, one after the other, and waits for each to come back; for the same time;
//! - `listen`: counts what it hears and says nothing;
//! - `flood`: sends frames to `peer` as fast as it may, and bids for `want=MEGABITS` of bandwidth at its value of work;
//! - `hold`: bids for a virtual function at its value of work, and asks the network's gateway for its address (ARP, RFC 826)
//!   all the time that it has one;
//! - `count`: counts what it hears in each interval of bandwidth, by sender.
//!
//! A frame holds a number and a pattern that follows from it, so that what comes back is known to be what was sent.
#![no_std]

extern crate alloc;

pub mod frame;
pub mod windows;

#[cfg(target_os = "none")]
mod hold;
#[cfg(target_os = "none")]
mod roles;

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
