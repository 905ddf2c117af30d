//! From the boot loader to the first entry of the root VM.

mod clock;
mod cores;
mod functions;
mod iommu;
mod physical;
mod quiet;
pub mod root;

use crate::arch::guests::{self, Features, Processor};
use crate::arch::hpet::Hpet;
use crate::arch::ioapic::IoApic;
use crate::arch::lock::Lock;
use crate::arch::mmio::Registers;
use crate::arch::{apic, core_area, cpu, interrupts, serial};
use crate::storage::{Booted, Devices};
use crate::tracing;
use cap_spec::abi::PAGE_BITS;
use core::arch::global_asm;
use core::sync::atomic::Ordering;
use kernel::firmware::memory_map::Region;
use kernel::firmware::module::{self, Module};
use kernel::firmware::usable::Usable;
use kernel::firmware::{COMMAND_LINE_MAX, Handover, PhysicalMemory, acpi, command_line, multiboot2, pvh};
use kernel::sched::SWITCH_US;
use kernel::types::{CoreId, Ticks};
use kernel::vm::MAX_CORES;
use kernel::{Config, MAX_ROUTES};
use physical::{Tables, Taken};
use root::Plan;
use spin::Once;

global_asm!(include_str!("entry.s"), area_bytes = const core_area::AREA_BYTES, options(att_syntax));

/// Set when the kernel is configured and the other cores may run guests.
static BOOTED: Once<Booted> = Once::new();

/// First Rust code of the boot core. `magic` and `info` are what the boot loader left in eax and ebx.
#[unsafe(no_mangle)]
extern "C" fn boot_main(magic: u64, info: u64) -> ! {
    let booted = prepare(magic, info);
    guests::run(core_area::core(CoreId::new(0)), booted)
}

/// Everything up to the release of the other cores. A function of its own, because the maps that it works with fill most
/// of the stack, and the boot core needs that stack for as long as it runs.
#[inline(never)]
fn prepare(magic: u64, info: u64) -> Booted {
    serial::init();
    interrupts::load();
    let handover: Handover<'_> = match magic as u32 {
        multiboot2::BOOT_MAGIC => multiboot2::parse(&Tables, info),
        _ => pvh::parse(&Tables, info),
    }
    .unwrap_or_else(|error| panic!("boot loader: {error:?}"));
    // Copied, as the memory it lies in is RAM that is about to be handed out. At least one zero ends it.
    let mut line = [0u8; COMMAND_LINE_MAX];
    let bytes = handover.command_line.len().min(COMMAND_LINE_MAX - 1);
    line[..bytes].copy_from_slice(&handover.command_line[..bytes]);
    let line = &line[..bytes];
    let options = command_line::parse(line);
    log::info!("nonkernel {}, {} MiB of RAM", env!("CARGO_PKG_VERSION"), handover.memory.bytes() >> 20);
    let platform = match handover.rsdp.map(|rsdp| acpi::parse(&Tables, rsdp)) {
        Some(Ok(platform)) => platform,
        other => panic!("ACPI: {other:?}"),
    };
    quiet::mask_pics();
    if options.pace {
        quiet::pace_emulated_cores();
    }
    // In this order: without translation a device reaches all memory.
    let functions = functions::find(&mut Lock::take().machine.assignment.functions, &platform, &handover);
    let iommus = quiet::iommus_off(&platform);
    log::info!("{functions} PCI functions quiet, {iommus} IOMMUs reset");
    let (base, bytes) = handover.module.expect("no boot module: pass the root VM's with -initrd or module2");
    let module = boot_module(base, bytes);
    let Usable { mut low, rest: mut memory } =
        Usable::new(handover.memory, &platform, physical::kernel_image(), Region::of(base, bytes));

    assert!(apic::present(), "the CPU has no x2APIC");
    apic::init();
    let features = Features::detect().unwrap_or_else(|error| panic!("{error}"));
    let boot_core = core_area::core(CoreId::new(0));
    boot_core.apic_id.store(apic::id(), Ordering::Relaxed);
    boot_core.ready.store(true, Ordering::Relaxed);
    // SAFETY: the features were detected, and the IDT is loaded.
    unsafe { guests::turn_on(boot_core.id()) };
    // SAFETY: the HPET and the IOAPIC are where ACPI says, which `Usable` leaves out.
    let hpet = Hpet::new(unsafe { Registers::new(platform.hpet, 0x400) }).expect("no usable HPET");
    // SAFETY: as above.
    let io_apic = IoApic::new(unsafe { Registers::new(platform.io_apic, 0x20) });
    let hpet_pin = hpet.best_pin(io_apic.pins).expect("the HPET reaches no IOAPIC pin");
    let tsc_hz = clock::measure_tsc(hpet);
    let timer = clock::measure_apic_timer(tsc_hz);

    let page = Taken::from(&mut low, 4096, 4096, 0x1000).expect("no page below 1 MiB");
    let others = platform.cores.iter().copied().filter(|&id| id != apic::id()).take(options.cores.min(MAX_CORES) - 1);
    let cores = cores::start(page, others, tsc_hz);
    log::info!("{cores} cores, TSC {} MHz, HPET {} kHz at pin {hpet_pin}", tsc_hz / 1_000_000, hpet.hz / 1000);
    log::info!("{features}");

    let buses = functions::buses(&Lock::take().machine.assignment.functions);
    let remapping = iommu::turn_on(&platform, &mut memory, &buses, cores, tsc_hz);
    let statistics_page = Taken::clean(&mut memory, PAGE_BITS).base();
    let mut kernel = Lock::take();
    let counts_per_tick = ((u128::from(hpet.hz) << 32) / u128::from(tsc_hz)) as u64;
    let io_apic_source = remapping.as_ref().map(|remapping| remapping.io_apic);
    if let Some(remapping) = remapping {
        functions::assign(&mut kernel.machine.assignment, remapping, &platform, tsc_hz);
    }
    functions::tell(&kernel.machine.assignment);
    kernel.machine.configure(Devices { hpet, hpet_pin, io_apic, io_apic_source, counts_per_tick }, statistics_page);
    kernel.configure(&Config {
        cores,
        tsc_hz,
        switch: Ticks::new(tsc_hz / 1_000_000 * SWITCH_US),
        epoch: Ticks::new(0),
        asids: features.asids,
        format: Processor::FORMAT,
        statistics_page,
        forbidden_routes: 1 << hpet_pin,
        first_message_route: io_apic.pins.into(),
    });
    let root = Plan {
        memory: &mut memory,
        module_base: base,
        module,
        command_line: line,
        options,
        routes: if io_apic_source.is_some() { MAX_ROUTES as u32 } else { io_apic.pins.into() },
        first_message_route: io_apic.pins.into(),
        tsc_hz,
    }
    .carry_out(&mut kernel);
    if options.trace {
        tracing::turn_on(&mut kernel);
    }
    log::info!("root VM starts {} us after reset", cpu::rdtsc() / (tsc_hz / 1_000_000));
    root.start(&mut kernel);
    root.note_first_start(cpu::rdtsc());
    drop(kernel);
    let booted = BOOTED.call_once(|| Booted { processor: Processor::new(features, timer), root });
    for core in core_area::cores(cores).skip(1) {
        apic::send_nmi(core.apic_id.load(Ordering::Relaxed));
    }
    *booted
}

/// First Rust code of every other core, on its own stack.
#[unsafe(no_mangle)]
extern "C" fn ap_main() -> ! {
    interrupts::load();
    apic::init();
    let core = core_area::this();
    // SAFETY: the boot core has detected the features, and the IDT is loaded.
    unsafe { guests::turn_on(core.id()) };
    core.ready.store(true, Ordering::Release);
    loop {
        if let Some(&booted) = BOOTED.get() {
            guests::run(core, booted);
        }
        interrupts::idle();
    }
}

/// The checked header of the boot module.
fn boot_module(base: u64, bytes: u64) -> Module {
    assert!(base.is_multiple_of(4096), "the boot module is not page-aligned");
    let header = Tables.read(base, 4096).expect("the boot module is unreadable");
    module::parse(header, bytes).unwrap_or_else(|error| panic!("boot module: {error:?}"))
}
