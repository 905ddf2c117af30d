//! The root VM's program: `market_server` on the real machine.
//!
//! This part makes invocations, touches shared pages and rings, and sleeps; it decides nothing but how the run ends when
//! the market itself cannot go on.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod vm;

#[cfg(target_os = "none")]
userlib::entry!(vm::main);

/// On the host this program only says where it belongs.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("the market server is the root VM's program: cargo xtask run");
    std::process::exit(2);
}
