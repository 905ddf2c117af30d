//! The console server's program: `console_server` on the serial ports.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod vm;

userlib::server!(vm::main, "console");
