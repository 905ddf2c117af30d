//! The network server's program: `nic_server` on the physical function of an Intel 82576.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod vm;

userlib::server!(vm::main, "network");
