//! The storage server's program: `nvme_server` on an NVMe controller with virtual functions.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod vm;

#[cfg(target_os = "none")]
userlib::entry!(vm::main);

/// On the host this program only says where it belongs.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("the storage server is started by the market server: cargo xtask run");
    std::process::exit(2);
}
