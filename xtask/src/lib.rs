//! Every developer command, as a library that `cargo xtask` and the end-to-end tests share.
//!
//! One file per subject: what a command does is in the file of its name; [`emulator`] runs machines, [`run_state`]
//! collects what they report, [`scenario`] checks what is asked of them. Nothing here runs inside the machine.

// Printing is by `say!` and `tell!`, which a closed pipe does not stop.
#![warn(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
pub mod say;

pub mod abi;
pub mod bench;
pub mod boot;
pub mod build;
pub mod conform;
pub mod counter;
pub mod disc;
pub mod display;
pub mod emulator;
pub mod epitaph;
pub mod image;
pub mod interrupt;
pub mod market;
pub mod model;
pub mod monitor;
pub mod network;
pub mod new;
pub mod pace;
pub mod paths;
pub mod process;
pub mod readme;
pub mod report;
pub mod room;
pub mod run;
pub mod run_state;
pub mod scenario;
pub mod session;
pub mod setup;
pub mod shared_memory;
pub mod sources;
pub mod storage;
pub mod tcb;
pub mod test;
pub mod turn;
pub mod verify;
pub mod view;
