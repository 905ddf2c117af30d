//! TCP/IP for an application of the market: the stack of [`net`] over the virtual function that the market has given to it.
//!
//! [`Network`] brings the function up, is polled with its sockets, sleeps until there is something to do, and when the
//! function was reset sets it up again, so that connections survive it. So they do when the function is lost and another one
//! is bought: in between nothing comes and goes. Which address it has is an argument of the application ([`address`]), as is
//! how it drives the function ([`driving`]), which it may change at run time, and whether it gives its core up while it has
//! nothing to do ([`rest`]); frames wake it in any case.
#![no_std]

extern crate alloc;

mod arguments;
#[cfg(target_os = "none")]
mod network;

pub use arguments::{Driving, Rest, Wrong, address, driving, rest};
pub use net::{Mode, Next, smoltcp};
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
