//! The storage server's program: `nvme_server` on an NVMe controller with virtual functions.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod vm;

userlib::server!(vm::main, "storage");
