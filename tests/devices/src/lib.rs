//! The device drivers against the emulator's devices, without a kernel and without a processor: QEMU runs as a device
//! test server (qtest), this process reads and writes memory, registers and configuration space through a socket, and
//! the device does DMA into the emulated memory as it would in a machine.
//!
//! [`machine`] is the emulator with its memory and clock, [`function`] a PCI function that was found and set up (which
//! is the kernel's work in a real system), [`nic`] a machine with an 82576 and a cable whose other end is in the test,
//! [`network`] a TCP/IP stack on such a machine and another one at the other end of its cable, [`nvme`] a machine with an
//! NVMe controller. [`forged`] are segments as somebody hostile makes them.
#![forbid(unsafe_code)]

pub mod forged;
pub mod function;
pub mod machine;
pub mod network;
pub mod nic;
pub mod nvme;
mod qtest;

/// Longest wall time that anything in a test may take.
pub const LIMIT: std::time::Duration = std::time::Duration::from_secs(20);
