//! From the boot loader to the first entry of the root VM.

mod cores;
mod physical;
mod quiet;

use crate::arch::hpet::Hpet;
use crate::arch::ioapic::IoApic;
use crate::arch::mmio::Registers;
use crate::arch::{apic, core_area, cpu, interrupts, serial};
use core::arch::global_asm;
use core::sync::atomic::Ordering;
use kernel::firmware::{Handover, acpi, command_line, multiboot2, pvh};
use kernel::types::CoreId;
use physical::Tables;

global_asm!(include_str!("entry.s"), area_bytes = const core_area::AREA_BYTES, options(att_syntax));

/// First Rust code of the boot core. `magic` and `info` are what the boot loader left in eax and ebx.
#[unsafe(no_mangle)]
extern "C" fn boot_main(magic: u64, info: u64) -> ! {
    serial::init();
    interrupts::build();
    interrupts::load();
    let handover: Handover<'_> = match magic as u32 {
        multiboot2::BOOT_MAGIC => multiboot2::parse(&Tables, info),
        _ => pvh::parse(&Tables, info),
    }
    .unwrap_or_else(|error| panic!("boot loader: {error:?}"));
    let options = command_line::parse(handover.command_line);
    log::info!("nonkernel {}: {} MiB of RAM", env!("CARGO_PKG_VERSION"), handover.memory.bytes() >> 20);
    let platform = match handover.rsdp.map(|rsdp| acpi::parse(&Tables, rsdp)) {
        Some(Ok(platform)) => platform,
        other => panic!("ACPI: {other:?}"),
    };
    quiet::mask_pics();
    let iommus = quiet::iommus_off(&platform);
    let functions = quiet::bus_masters_off(&platform);
    log::info!("{iommus} IOMMUs off, {functions} PCI functions quiet");
    assert!(apic::present(), "the CPU has no x2APIC");
    apic::init();
    // SAFETY: the HPET and the IOAPIC are where ACPI says, outside usable RAM.
    let hpet = Hpet::new(unsafe { Registers::new(platform.hpet, 0x400) }).expect("no usable HPET");
    let io_apic = platform.io_apics.get(0).expect("ACPI named one");
    // SAFETY: as above.
    let io_apic = IoApic::new(unsafe { Registers::new(io_apic.address, 0x20) });
    let own = apic::id();
    core_area::core(CoreId::new(0)).apic_id.store(own, Ordering::Relaxed);
    let tsc_hz = measure_tsc(hpet);
    let mut memory = handover.memory;
    let page = memory.allocate(4096, 4096, 0x1000).filter(|&page| page < 0xa_0000).expect("no page below 1 MiB");
    let limit = options.cores.min(8) - 1;
    let count = cores::start(page, platform.cores.iter().filter(|&id| id != own).take(limit), tsc_hz);
    log::info!("{count} cores at {} MHz, HPET at {} kHz, {} IOAPIC pins", tsc_hz / 1_000_000, hpet.hz() / 1000, io_apic.pins());
    cpu::halt_forever()
}

/// First Rust code of every other core, on its own stack.
#[unsafe(no_mangle)]
extern "C" fn ap_main() -> ! {
    interrupts::load();
    apic::init();
    core_area::this().ready.store(true, Ordering::Release);
    cpu::halt_forever()
}

/// Frequency of the TSC in Hz, measured against the HPET over 100 us and rounded to what a crystal gives.
fn measure_tsc(hpet: Hpet) -> u64 {
    let counts = hpet.hz() / 10_000;
    let (from, tsc_from) = (hpet.counter(), cpu::rdtsc());
    let (mut to, mut tsc_to) = (from, tsc_from);
    while hpet.span(from, to) < counts {
        cpu::pause();
        (to, tsc_to) = (hpet.counter(), cpu::rdtsc());
    }
    let hz = u128::from(tsc_to.wrapping_sub(tsc_from)) * u128::from(hpet.hz()) / u128::from(hpet.span(from, to));
    /// Frequencies are multiples of this; a measured value within a thousandth of one is that one.
    const STEP: u64 = 1_000_000;
    let hz = hz as u64;
    let rounded = (hz + STEP / 2) / STEP * STEP;
    if hz.abs_diff(rounded) < hz / 1000 { rounded } else { hz }
}
