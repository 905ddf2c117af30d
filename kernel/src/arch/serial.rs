//! The kernel's log: `log` records on the first serial port (16550, 0x3f8).
//!
//! Used while the kernel boots, on one core, and again by a panic, which seizes the port; between the two the port
//! belongs to whoever holds its `IoPort` capability.

use super::cpu::{port_in, port_out};
use core::fmt::{self, Write};

const PORT: u16 = 0x3f8;
/// Polls of the line status before a byte is given up, so that a missing UART can't hang the kernel.
const MAX_POLLS: u32 = 100_000;

/// The port as a sink of text.
pub struct Serial;

impl Serial {
    /// Sets 115200 baud, 8N1, FIFOs on, interrupts off.
    pub fn init() {
        for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 0x03), (2, 0xc7), (4, 0x03)] {
            // SAFETY: programming the UART touches no memory.
            unsafe { port_out(PORT + register, 1, value) };
        }
    }

    /// Sends one byte.
    pub fn byte(byte: u8) {
        for _ in 0..MAX_POLLS {
            // SAFETY: reading the line status touches no memory.
            if unsafe { port_in(PORT + 5, 1) } & 0x20 != 0 {
                break;
            }
            super::cpu::pause();
        }
        // SAFETY: sending a byte touches no memory.
        unsafe { port_out(PORT, 1, u32::from(byte)) };
    }
}

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                Serial::byte(b'\r');
            }
            Serial::byte(byte);
        }
        Ok(())
    }
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        // A lost line of the log is no reason to stop.
        let _ = writeln!(Serial, "kernel: {}", record.args());
    }

    fn flush(&self) {}
}

static LOGGER: Logger = Logger;

/// Makes the port ready and takes over `log`.
pub fn init() {
    Serial::init();
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}
