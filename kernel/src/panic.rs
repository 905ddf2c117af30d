//! The kernel's end: seizes the serial port, writes the message, the epitaph and every core's events, and leaves.

use crate::arch::core_area::{self, Core, this};
use crate::arch::serial::Serial;
use crate::arch::{apic, cpu};
use core::fmt::Write;
use core::sync::atomic::{AtomicPtr, Ordering};
use kernel::epitaph::{EPITAPH_MARK, EVENTS_MARK, Epitaph, Event, EventKind, Ring};
use kernel::types::CoreId;
use kernel::vm::MAX_CORES;

/// The last events of each core, for the epitaph and for a debugger.
#[unsafe(no_mangle)]
pub static EVENT_RINGS: [Ring; MAX_CORES] = [const { Ring::new() }; MAX_CORES];

/// What an emulator's exit device is told.
const EXIT_PANIC: u32 = 0x2a;
/// Port of an emulator's exit device (`isa-debug-exit,iobase=0xf4`); unclaimed on real machines.
const EXIT_PORT: u16 = 0xf4;

/// The first core that panicked. The NMI stub halts every other one.
pub static PANICKING: AtomicPtr<Core> = AtomicPtr::new(core::ptr::null_mut());

/// Remembers an event of this core.
#[cold]
pub fn record(kind: EventKind, detail: u32, detail2: u64) {
    let core = usize::from(this().id().get()) % MAX_CORES;
    EVENT_RINGS[core].record(Event { tsc: cpu::rdtsc(), kind, detail, detail2 });
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    // A panic within a panic, or on a second core, leaves the port to the first.
    let own = core::ptr::from_ref(this()).cast_mut();
    if PANICKING.compare_exchange(core::ptr::null_mut(), own, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        cpu::halt_forever();
    }
    stop_other_cores();
    let core = this().number.load(Ordering::Relaxed);
    let (file, line) = info.location().map_or(("", 0), |location| (location.file(), location.line()));
    let mut epitaph = Epitaph::new(cpu::rdtsc(), core, file, line);
    Serial::init();
    // Neither sink fails.
    let _ = write!(epitaph, "{}", info.message());
    let _ = writeln!(Serial, "\nkernel: panic on core {core} at {file}:{line}: {}", info.message());
    let _ = Serial.write_str(EPITAPH_MARK);
    hex(epitaph.to_bytes().into_iter());
    for (number, ring) in EVENT_RINGS.iter().enumerate() {
        if core_area::core(CoreId::new(number as u8)).ready.load(Ordering::Relaxed) {
            let _ = write!(Serial, "{EVENTS_MARK}{number:x} ");
            hex(ring.bytes());
        }
    }
    // SAFETY: the exit device ends the emulator; on a real machine nobody claims the port.
    unsafe { cpu::port_out(EXIT_PORT, 4, EXIT_PANIC) };
    cpu::halt_forever()
}

/// Sends an NMI to the others, which halts them: guests stop, and nobody else writes to the port. An INIT would not do:
/// the boot core, if it is one of the others, would start the firmware anew, which resets the machine.
fn stop_other_cores() {
    let own = this();
    for core in core_area::cores(MAX_CORES) {
        if !core::ptr::eq(core, own) && core.ready.load(Ordering::Relaxed) {
            apic::send_nmi(core.apic_id.load(Ordering::Relaxed));
        }
    }
}

fn hex(bytes: impl Iterator<Item = u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        Serial::byte(DIGITS[usize::from(byte >> 4)]);
        Serial::byte(DIGITS[usize::from(byte & 15)]);
    }
    Serial::byte(b'\n');
}
