//! TCP/IP for an application of the market: the stack of [`net`] over the virtual function that the market has given to it.
//!
//! [`Network`] brings the function up, is polled with its sockets, sleeps until there is something to do, and when the
//! function was reset sets it up again, so that connections survive it. So they do when the function is lost and another one
//! is bought: in between nothing comes and goes. Which address it has is an argument of the
//! application ([`address`]). An application that sleeps here gives its core up; frames wake it.
#![no_std]

extern crate alloc;

mod arguments;
#[cfg(target_os = "none")]
mod network;

pub use arguments::{Wrong, address};
pub use net::{Next, smoltcp};
#[cfg(target_os = "none")]
pub use network::{Network, PAGES};

/// The function `run` of a library that is an application, for where there is no device: on the host it fails always.
#[macro_export]
macro_rules! no_device {
    () => {
        /// On the host there is no device.
        ///
        /// # Errors
        /// Always.
        #[cfg(not(target_os = "none"))]
        pub fn run(_: &mut userlib::App) -> Result<(), userlib::Error> {
            Err(userlib::Error::failed("it runs in a VM"))
        }
    };
}
