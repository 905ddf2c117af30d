//! The kernel's end: seizes the serial port, writes the message, the epitaph and every core's events, and leaves.

use crate::arch::core_area::{self, Core, this};
use crate::arch::serial::Serial;
use crate::arch::{apic, cpu};
use core::fmt::{Result, Write};
use core::sync::atomic::{AtomicPtr, Ordering};
use kernel::epitaph::{EPITAPH_MARK, EVENTS_MARK, EventKind, Ring};
use kernel::types::CoreId;
use kernel::vm::MAX_CORES;
use x86_64::instructions::hlt;

/// The last events of each core, for the epitaph and for a debugger.
#[unsafe(no_mangle)]
pub static EVENT_RINGS: [Ring; MAX_CORES] = [const { Ring::empty() }; MAX_CORES];

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
    EVENT_RINGS[core].record(cpu::rdtsc(), kind, detail, detail2);
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    // A panic within a panic, or on a second core, leaves the port to the first.
    let own = core::ptr::from_ref(this()).cast_mut();
    if PANICKING.compare_exchange(core::ptr::null_mut(), own, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
        stop_other_cores();
        Serial::init();
        // The port never fails.
        let _ = write_epitaph(info);
        // SAFETY: the exit device ends the emulator; on a real machine nobody claims the port.
        unsafe { cpu::port_out(EXIT_PORT, 4, EXIT_PANIC) };
    }
    loop {
        hlt();
    }
}

fn write_epitaph(info: &core::panic::PanicInfo<'_>) -> Result {
    let core = this().number.load(Ordering::Relaxed);
    let (file, line) = info.location().map_or(("", 0), |location| (location.file(), location.line()));
    writeln!(Serial, "\n{EPITAPH_MARK} {core:x} {:x} {file}:{line}: {}", cpu::rdtsc(), info.message())?;
    for (number, ring) in EVENT_RINGS.iter().enumerate() {
        if core_area::core(CoreId::new(number as u8)).ready.load(Ordering::Relaxed) {
            write!(Serial, "{EVENTS_MARK} {number:x}")?;
            ring.words().try_for_each(|word| write!(Serial, " {word:x}"))?;
            writeln!(Serial)?;
        }
    }
    Ok(())
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
