//! The bench of devices: measures what the I/O paths of an application cost, as [`guests::measure`] counts, and exits.
//!
//! A root image of its own. `bench=network` on the command line measures an 82576, `bench=nvme` an NVMe controller. Server and client of the network are in the one VM
//! and take turns: what is counted is the server's turns, with the handlers of its interrupts, from the first instruction
//! after it was woken to the last before it would sleep. The client's function is another one, and the frames go from
//! function to function inside the adapter. Exits are none in the rows of I/O: the kernel has no part in them.
#![no_std]
#![no_main]

extern crate alloc;

mod kv;
mod lifetime;
mod network;
mod nvme;
mod pair;

use alloc::string::String;
use guests::measure::end;
use guests::root::{Root, option};
use userlib::cap::Fault;

userlib::entry!(main);

fn main() -> ! {
    let mut root = Root::new().unwrap_or_else(|fault| panic!("no root: {fault:?}"));
    let outcome = match option("bench").as_str() {
        "network" => network::measure(&mut root),
        "nvme" => nvme::measure(&mut root),
        other => Err(alloc::format!("there is no bench {other:?}")),
    };
    end(&root, outcome)
}

/// A refused invocation as the reason for which nothing could be measured.
fn refused(what: &'static str) -> impl Fn(Fault) -> String {
    move |fault| alloc::format!("{what}: {fault:?}")
}
