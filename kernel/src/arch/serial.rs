//! The kernel's log: `log` records on the first serial port (16550, 0x3f8).
//!
//! Used while the kernel boots, on one core, and again by a panic, which seizes the port; between the two the port
//! belongs to whoever holds its `IoPort` capability.

use core::fmt::{self, Write};
use x86_64::instructions::port::Port;

const PORT: u16 = 0x3f8;
/// Polls of the line status before a byte is given up, so that a missing UART can't hang the kernel.
const MAX_POLLS: u32 = 100_000;

/// The port as a sink of text.
pub struct Serial;

impl Serial {
    /// Sets 115200 baud, 8N1, FIFOs on, interrupts off.
    pub fn init() {
        for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 0x03), (2, 0xc7), (4, 0x03)] {
            Serial::write(register, value);
        }
    }

    fn write(register: u16, value: u8) {
        // SAFETY: programming the UART and sending by it touches no memory.
        unsafe { Port::new(PORT + register).write(value) };
    }

    /// Sends one byte.
    fn byte(byte: u8) {
        // SAFETY: reading the line status touches no memory.
        let ready = || unsafe { Port::<u8>::new(PORT + 5).read() } & 0x20 != 0;
        let _ = (0..MAX_POLLS).any(|_| ready());
        Serial::write(0, byte);
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

impl log::Log for Serial {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        // A lost line of the log is no reason to stop.
        let _ = writeln!(Serial, "kernel: {}", record.args());
    }

    fn flush(&self) {}
}

/// Makes the port ready and takes over `log`.
pub fn init() {
    Serial::init();
    if log::set_logger(&Serial).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}
