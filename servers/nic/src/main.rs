//! The network server's program: `nic_server` on the physical function of an Intel 82576.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod vm;

#[cfg(target_os = "none")]
userlib::entry!(vm::main);

/// On the host this program only says where it belongs.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("the network server is started by the market server: cargo xtask run");
    std::process::exit(2);
}
