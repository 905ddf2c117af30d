//! The machine around the kernel: how it is loaded, and what it is made of before the first VM starts, seen from outside.

use e2e::monitor::{Monitor, Sockets, poke};
use e2e::xtask::boot::{Guest, Start};
use e2e::xtask::scenario::Overrides;
use e2e::xtask::{paths, run};
use e2e::{Change, Machine, boot, scenario, text_for_a_run};
use proto::host::{Command, End, Record};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::Duration;

/// Segment of configuration space where this machine's firmware puts it.
const CONFIG_SPACE: u64 = 0xb000_0000;
/// Bits of the command register: the function answers at I/O ports; it is a bus master.
const IO_DECODE: u32 = 1;
const BUS_MASTER: u32 = 1 << 2;
/// Registers of the VT-d unit; global command and status; translation, queued invalidation and interrupt remapping on.
const VTD: u64 = 0xfed9_0000;
const GLOBAL_COMMAND: u64 = VTD + 0x18;
const GLOBAL_STATUS: u64 = VTD + 0x1c;
const TRANSLATION: u32 = 1 << 31;
const ENABLED: u32 = TRANSLATION | 1 << 26 | 1 << 25;
/// Interrupts in compatibility format pass.
const COMPATIBILITY: u32 = 1 << 23;
/// Capabilities: where fault records are, in bits 33:24. Fault status, and its bit that says that there is a record.
const CAPABILITIES: u64 = VTD + 8;
const FAULT_STATUS: u64 = VTD + 0x34;
const FAULT_RECORD: u32 = 1 << 1;
/// Address of the root table.
const ROOT_TABLE: u64 = VTD + 0x20;
/// Control register of the AMD-Vi unit, and its bit 0: the unit is on.
const AMD_VI_CONTROL: u64 = 0xfed8_0018;
const AMD_VI_ENABLED: u32 = 1;

/// Where devices write their messages; the core's number is 12 bits further up.
const MESSAGES: u64 = 0xfee0_0000;
/// Delivery modes of messages.
const LOWEST_PRIORITY: u32 = 1 << 8;
const NON_MASKABLE: u32 = 4 << 8;
const EXTERNAL: u32 = 7 << 8;

/// A line that only the root VM can have written.
const FIRST_VM_RUNS: &str = "probe general_registers_are_switched: ok";

/// Runs the probe from a disc to its end.
fn from_disc(guest: Guest) {
    let run = boot(&Guest { command_line: "root_budget_us=1050 cores=1".into(), ..guest });
    run.expect_good();
    assert!(run.console_has("root VM 1050 of 10000 us"), "the command line did not arrive: {:?}", run.console);
    assert!(run.console_has("1 cores, "), "the command line did not arrive whole: {:?}", run.console);
    assert!(run.console_has("probe stopped_vm_is_reported: ok"));
}

#[test]
fn multiboot2_disc_boots_under_bios() {
    from_disc(Guest { start: Start::Bios, cores: 2, ..Guest::new("probe") });
}

/// On one core and with one check only: this firmware takes ten times as many instructions as all of them.
#[test]
fn multiboot2_disc_boots_under_uefi() {
    let guest = Guest { start: Start::Uefi, memory_mib: 256, ..Guest::new("probe") };
    let run = boot(&Guest { command_line: "root_budget_us=1050 check=stopped_vm_is_reported".into(), ..guest });
    run.expect_good();
    assert!(run.console_has("root VM 1050 of 10000 us"), "the command line did not arrive: {:?}", run.console);
    let checks: Vec<&String> = run.console.iter().filter(|line| line.contains("probe ")).collect();
    assert!(matches!(checks[..], [only] if only.ends_with("probe stopped_vm_is_reported: ok")), "{checks:?}");
}

/// Sends to a VM that sleeps with no deadline, which wakes it each time, until it has had enough.
fn wake_by_serial(machine: &mut Machine) {
    for number in 0..20 {
        // A guest that has had enough may be gone before the last frame: how it ended is what counts.
        if machine.send(&Command::Kill { app: number }).is_err() || machine.wait_line("serial: woken").is_err() {
            break;
        }
    }
}

/// A VM that sleeps with no deadline is woken by what the host sends, through the serial port's route.
#[test]
fn serial_input_wakes_a_sleeping_vm() {
    let mut machine = Machine::start_guest(&Guest { cores: 2, ..Guest::new("serial") }).expect("the machine starts");
    machine.wait_line("serial: sleeps").expect("it sleeps");
    wake_by_serial(&mut machine);
    machine.finish().expect("the machine ends").expect_good();
}

/// Two VMs of one core halt until instants of their choice and spin in between: each wakes in time, although the other has
/// the core, and the timer of the one that is out, until its own turn.
#[test]
fn timed_waits_of_two_vms_of_one_core_end_in_time() {
    let waiter = |name: &str| {
        format!(
            "[[app]]\nname = \"{name}\"\nimage = \"waiter\"\nargs = [\"150\"]\nbudget = 1\nbase_cpu = 35\nbase_pages = 64\n"
        )
    };
    let machine = "title = \"two waiters\"\nlimit = \"10 s\"\n[machine]\ncores = 1\nmemory = \"128 MiB\"\n";
    let run = e2e::run(&format!("{machine}{}{}", waiter("left"), waiter("right")), &Change::none());
    for name in ["left", "right"] {
        let said = run.app(name).lines.join("\n");
        println!("{said}");
        assert_eq!(run.end(name), &End::Exit { status: 0 }, "{said}");
    }
    run.expect_good();
}

/// The root VM dies twice and is started again from the untouched boot image, while a child VM keeps its CPU time.
#[test]
fn root_vm_is_restarted_beside_a_child_that_keeps_its_time() {
    for cores in [1, 2] {
        let run = boot(&Guest { cores, ..Guest::new("restart") });
        run.expect_good();
        assert!(run.console_has("restart: 2 restarts, ok"), "{:?}", run.console);
    }
}

/// What `cargo xtask image` writes is a whole run: market, console server, applications and their inputs.
#[test]
fn image_of_a_scenario_runs_from_its_disc() {
    let disc = paths::target().join("e2e").join(format!("scenario-{}.iso", std::process::id()));
    std::fs::create_dir_all(paths::target().join("e2e")).expect("the target folder can be written");
    let file = run::scenario_file(Some(Path::new("tiny"))).expect("it ships");
    let status = run::image(&file, &Overrides::default(), Some(&disc)).expect("the disc is written");
    assert_eq!(status, 0);
    let scenario = scenario("tiny", &Change::none()).expect("it is accepted");
    let machine = Machine::start_from_disc(&scenario, &disc).expect("the machine starts");
    let finished = machine.finish().expect("the machine ends");
    std::fs::remove_file(&disc).expect("the disc was written");
    finished.expect_good();
    assert_eq!(finished.end("digest"), &End::Exit { status: 0 });
}

/// The function behind the bridge: the first of bus 1.
const BEHIND_BRIDGE: u64 = 256;
/// The first function of a second root bus, to which no bridge leads; it is a bridge, and this the function behind it.
const SECOND_ROOT: u64 = 0x40 << 8;
const BEHIND_SECOND_ROOT: u64 = SECOND_ROOT + 256;

/// Command registers of every function on bus 0 that is there, of the one behind the bridge and of those on and behind the
/// second root bus, by its number. None before firmware has made the segment reachable.
fn commands(monitor: &mut Monitor) -> Vec<(u64, u32)> {
    let mut word = |at| monitor.word(at).unwrap_or(u32::MAX);
    let there = (0..=BEHIND_BRIDGE)
        .chain([SECOND_ROOT, BEHIND_SECOND_ROOT])
        .map(|function| (function, CONFIG_SPACE + (function << 12)));
    let there: Vec<_> = there.filter(|&(_, at)| !matches!(word(at), 0 | u32::MAX)).collect();
    there.into_iter().map(|(function, at)| (function, word(at + 4))).collect()
}

/// A machine with further devices, before its first instruction, and the monitor that lets it go; the folder of its sockets
/// lasts as long as what is returned.
fn observed(guest: Guest, devices: &[&str]) -> (Machine, Sockets, Monitor) {
    let sockets = Sockets::new().expect("a folder for sockets");
    let mut extra: Vec<String> = devices.iter().flat_map(|device| ["-device", device]).map(String::from).collect();
    extra.extend(sockets.arguments());
    let machine = Machine::start_guest(&Guest { extra, ..guest }).expect("the machine starts");
    let monitor = Monitor::connect(&sockets).expect("the monitor answers");
    (machine, sockets, monitor)
}

/// Firmware reads a disc, an NVMe controller behind a bridge and one behind a second root bus by DMA and leaves bus mastering
/// on; the kernel turns it off before the first VM.
#[test]
fn bus_masters_are_off_before_the_first_vm() {
    let devices = [
        "pcie-root-port,id=bridge,chassis=1",
        "nvme,serial=1,bus=bridge",
        &format!("pxb-pcie,id=second,bus_nr={}", SECOND_ROOT >> 8),
        "pcie-root-port,id=further,chassis=2,bus=second",
        "nvme,serial=2,bus=further",
    ];
    let (mut machine, _sockets, mut monitor) = observed(Guest { start: Start::Bios, ..Guest::new("probe") }, &devices);
    let masters = |commands: &[(u64, u32)]| -> Vec<u64> {
        commands.iter().filter(|(_, command)| command & BUS_MASTER != 0).map(|&(function, _)| function).collect()
    };
    // So that there is something to turn off: run in small pieces until firmware has turned on all three.
    let mut firmware = Vec::new();
    while firmware.len() < 3 || ![BEHIND_BRIDGE, BEHIND_SECOND_ROOT].iter().all(|function| firmware.contains(function))
    {
        monitor.go().expect("the machine runs");
        monitor.stop().expect("the machine stops");
        firmware = masters(&commands(&mut monitor));
    }
    monitor.go().expect("the machine runs");
    machine.wait_line(FIRST_VM_RUNS).expect("the first VM starts");
    monitor.stop().expect("the machine stops");
    let commands = commands(&mut monitor);
    assert!(commands.len() >= 8, "host and ISA bridge, disc, two root buses' ways to NVMe: {commands:x?}");
    assert_eq!(masters(&commands), [0; 0], "{commands:x?}");
    assert!(commands.iter().all(|(_, command)| command & IO_DECODE == 0), "{commands:x?}");
    monitor.go().expect("the machine runs");
    machine.finish().expect("the machine ends").expect_good();
}

/// A VT-d unit with all that the kernel needs, and what the kernel says of it.
const VTD_DEVICE: &str = "intel-iommu,intremap=on,eim=on";
const VTD_IS_ON: &str = "IOMMU: VT-d at 0xfed90000, translation and interrupt remapping on";
const IOMMU_IS_OFF: &str = "no PCI function can be handed out";

/// A unit that translates already when the kernel starts, with tables that allow nothing, gets the kernel's own tables, and
/// is on with everything when the first VM starts.
#[test]
fn iommu_that_firmware_left_on_is_the_kernels_before_the_first_vm() {
    let (mut machine, sockets, mut monitor) = observed(Guest::new("probe"), &[VTD_DEVICE]);
    poke(&sockets, &[(GLOBAL_COMMAND, TRANSLATION)]).expect("the register can be written");
    assert_ne!(monitor.word(GLOBAL_STATUS).expect("a status") & TRANSLATION, 0, "translation is on at the start");
    assert_eq!(monitor.word(ROOT_TABLE).expect("an address"), 0);
    monitor.go().expect("the machine runs");
    machine.wait_line(FIRST_VM_RUNS).expect("the first VM starts");
    monitor.stop().expect("the machine stops");
    assert_eq!(monitor.word(GLOBAL_STATUS).expect("a status") & (ENABLED | COMPATIBILITY), ENABLED);
    let root = u64::from(monitor.word(ROOT_TABLE).expect("an address"));
    // Bus 0 has a context table, in which nothing is present.
    let context = u64::from(monitor.word(root).expect("an entry"));
    assert_eq!(context & 0xfff, 1, "{context:#x}");
    for function in 0..256 {
        assert_eq!(monitor.word((context & !0xfff) + function * 16).expect("an entry"), 0, "{function:#x}");
    }
    monitor.go().expect("the machine runs");
    let run = machine.finish().expect("the machine ends");
    run.expect_good();
    assert!(run.console_has(VTD_IS_ON), "{:?}", run.console);
}

/// A sleeping VM is woken by a serial port whose pin, like that of the kernel's own alarm, names a remapping entry.
#[test]
fn interrupts_of_the_ioapic_are_remapped() {
    for cores in [1, 2] {
        let (machine, _sockets, mut monitor) = observed(Guest { cores, ..Guest::new("serial") }, &[VTD_DEVICE]);
        let mut machine = machine.timeout(Duration::from_secs(60));
        monitor.go().expect("the machine runs");
        machine.wait_line("serial: sleeps").expect("it sleeps");
        // A pin that may have fired is masked until its VM, which is woken for that, has looked.
        let both_are_open = (0..LOOKS).any(|_| {
            monitor.stop().expect("the machine stops");
            let controllers = monitor.human("info pic").expect("the controllers tell");
            let open = controllers.lines().filter_map(redirection).filter(|entry| entry & MASKED == 0);
            let open: Vec<u64> = open.collect();
            assert!(open.iter().all(|entry| entry & REMAPPABLE != 0), "{controllers}");
            monitor.go().expect("the machine runs");
            open.len() == 2
        });
        assert!(both_are_open, "the alarm's and the serial port's");
        wake_by_serial(&mut machine);
        let run = machine.finish().expect("the machine ends");
        run.expect_good();
        assert!(run.console_has(VTD_IS_ON), "{:?}", run.console);
    }
}

/// Looks at pins, in one of which nothing has just come.
const LOOKS: u32 = 50;
/// Of a redirection entry: masked; in remappable format.
const MASKED: u64 = 1 << 16;
const REMAPPABLE: u64 = 1 << 48;

/// The redirection entry that a line of the emulator's account of an IOAPIC tells.
fn redirection(line: &str) -> Option<u64> {
    let mut words = line.split_whitespace();
    words.next().filter(|&word| word == "pin")?;
    u64::from_str_radix(words.nth(1)?.strip_prefix("0x")?, 16).ok()
}

/// A whole run with market, console server and applications, on two cores behind a VT-d unit.
#[test]
fn run_is_good_behind_an_iommu() {
    let text = text_for_a_run(300_000);
    let change = Change::none().input("one", &text).input("two", &text);
    let scenario = scenario(TWO_DIGESTS, &change).expect("the scenario is right");
    let run = Machine::start_with_device(&scenario, VTD_DEVICE).expect("the machine starts");
    let run = run.finish().expect("the machine ends");
    run.expect_good();
    assert!(run.console_has(VTD_IS_ON), "{:?}", run.console);
    for app in ["one", "two"] {
        assert_eq!(run.end(app), &End::Exit { status: 0 });
    }
}

/// An NVMe controller that is made a bus master behind the kernel's back reads its queue by DMA: the unit stops that, and
/// tells who it was, and the machine goes on.
#[test]
fn dma_of_a_function_that_nobody_has_is_stopped() {
    let devices = [VTD_DEVICE, "nvme,serial=1,addr=5"];
    let (mut machine, sockets, mut monitor) = observed(Guest::new("probe"), &devices);
    monitor.go().expect("the machine runs");
    machine.wait_line(FIRST_VM_RUNS).expect("the first VM starts");
    monitor.stop().expect("the machine stops");
    let function = 5 << 3;
    let config = CONFIG_SPACE + (function << 12);
    assert_eq!(monitor.word(FAULT_STATUS).expect("a status") & FAULT_RECORD, 0, "nothing was stopped before");
    let registers = u64::from(monitor.word(config + 0x10).expect("its registers") & !0xf);
    // Memory decode and bus master; off as firmware had it, queues of two entries in RAM, on, and the first doorbell.
    let queues = [(0x24, 1 << 16 | 1), (0x28, 0x10_0000), (0x2c, 0), (0x30, 0x10_1000), (0x34, 0)];
    let enable = [&[(0x14, 0)][..], &queues, &[(0x14, 0x46_0001)]].concat();
    let mut writes = vec![(config + 4, 6)];
    writes.extend(enable.into_iter().map(|(offset, value)| (registers + offset, value)));
    writes.push((registers + 0x1000, 1));
    poke(&sockets, &writes).expect("the function can be made a bus master");
    monitor.go().expect("the machine runs");
    machine.wait_line("probe ").expect("the machine goes on");
    monitor.stop().expect("the machine stops");
    // The kernel has taken the record, which stays legible.
    assert_eq!(monitor.word(FAULT_STATUS).expect("a status") & FAULT_RECORD, 0, "the record was taken");
    let [low, high] = [0, 4].map(|half| u64::from(monitor.word(CAPABILITIES + half).expect("capabilities")));
    let record = VTD + ((high << 32 | low) >> 24 & 0x3ff) * 16;
    assert_eq!(u64::from(monitor.word(record + 8).expect("a source") & 0xffff), function);
    assert_eq!(monitor.word(record).expect("an address") & !0xfff, 0x10_0000, "the queue");
    monitor.go().expect("the machine runs");
    machine.finish().expect("the machine ends").expect_good();
}

/// A unit without interrupt remapping, or without destinations of 32 bits, stays off; the machine works as without.
#[test]
fn iommu_that_lacks_something_stays_off() {
    for device in ["intel-iommu", "intel-iommu,intremap=on,eim=off"] {
        let (mut machine, sockets, mut monitor) = observed(Guest::new("serial"), &[device]);
        poke(&sockets, &[(GLOBAL_COMMAND, TRANSLATION)]).expect("the register can be written");
        monitor.go().expect("the machine runs");
        machine.wait_line("serial: sleeps").expect("it sleeps");
        monitor.stop().expect("the machine stops");
        assert_eq!(monitor.word(GLOBAL_STATUS).expect("a status") & ENABLED, 0);
        let console = machine.console().join("\n");
        assert!(console.contains(IOMMU_IS_OFF), "{console}");
    }
}

/// An AMD-Vi unit that is on already when the kernel starts, with a device table at address 0, is turned off.
#[test]
fn amd_iommu_that_firmware_left_on_is_off_before_the_first_vm() {
    let (mut machine, sockets, mut monitor) = observed(Guest::new("probe"), &["amd-iommu,intremap=on"]);
    poke(&sockets, &[(AMD_VI_CONTROL, AMD_VI_ENABLED)]).expect("the register can be written");
    assert_ne!(monitor.word(AMD_VI_CONTROL).expect("its control") & AMD_VI_ENABLED, 0, "it is on at the start");
    monitor.go().expect("the machine runs");
    machine.wait_line("root VM starts").expect("the root VM starts");
    monitor.stop().expect("the machine stops");
    assert_eq!(monitor.word(AMD_VI_CONTROL).expect("its control") & AMD_VI_ENABLED, 0);
}

/// A core that nobody wants is halted whenever one looks; and NMIs from nowhere, which wake it, harm nothing.
#[test]
fn idle_core_is_halted_and_stray_nmis_are_survived() {
    // On the boot core the root VM and its children, on the three others nobody until the checks that use the last one.
    let (mut machine, _sockets, mut monitor) = observed(Guest { cores: 4, ..Guest::new("probe") }, &[]);
    monitor.go().expect("the machine runs");
    machine.wait_line(FIRST_VM_RUNS).expect("the first VM starts");
    for look in 0..20 {
        monitor.stop().expect("the machine stops");
        let halted = monitor.halted().expect("cores tell");
        assert_eq!(halted.len(), 4);
        assert!(halted[1] && halted[2], "look {look}: cores 1 and 2 have nothing to do: {halted:?}");
        monitor.go().expect("the machine runs");
        monitor.nmi().expect("NMIs are given");
    }
    machine.finish().expect("the machine ends").expect_good();
}

/// Two applications that do nothing but compute, each on a core of its own.
const TWO_DIGESTS: &str = r#"
title = "two digests"
limit = "20 s"
[machine]
cores = 2
memory = "128 MiB"
[[app]]
name = "one"
image = "digest"
args = ["passes=20"]
budget = 1
valuation = 1e-9
[[app]]
name = "two"
image = "digest"
args = ["passes=20"]
budget = 1
valuation = 1e-9
core = 1
"#;

/// Without an IOMMU's remapping a device can send every message to every core. Whatever runs there, in the end everybody
/// has computed what it should, and the books are right.
#[test]
fn stray_messages_harm_nothing() {
    let sockets = Sockets::new().expect("a folder for sockets");
    let text = text_for_a_run(300_000);
    let expected = std::fs::read(&text).expect("the text can be read");
    let change = Change::none().input("one", &text).input("two", &text);
    let scenario = scenario(TWO_DIGESTS, &change).expect("the scenario is right");
    let mut machine = Machine::start_observed(&scenario, &sockets).expect("the machine starts");
    let mut monitor = Monitor::connect(&sockets).expect("the monitor answers");
    monitor.go().expect("the machine runs");
    machine.wait_record(|record| matches!(record, Record::Progress { .. })).expect("progress");
    // Every vector that is no exception's, a few at a time and at as many moments.
    let mut sent = 0;
    for vectors in (32..=255u32).collect::<Vec<_>>().chunks(8) {
        monitor.stop().expect("the machine stops");
        let to_both = |message: u32| [0, 1].map(|core: u64| (MESSAGES | core << 12, message));
        let modes = |&vector: &u32| [vector, vector | LOWEST_PRIORITY];
        let mut messages: Vec<(u64, u32)> = vectors.iter().flat_map(modes).flat_map(to_both).collect();
        messages.extend([NON_MASKABLE, EXTERNAL].into_iter().flat_map(to_both));
        poke(&sockets, &messages).expect("the messages are sent");
        sent += messages.len();
        let controller = monitor.human("info lapic 1").expect("the interrupt controller tells");
        let requested = controller.lines().find(|line| line.starts_with("IRR")).expect("requested interrupts");
        let arrived = |vector: &u32| requested.split_whitespace().any(|word| word == vector.to_string());
        assert!(vectors.iter().all(arrived), "{vectors:?}: {requested}");
        monitor.go().expect("the machine runs");
        machine.wait_record(|record| matches!(record, Record::Progress { .. })).expect("progress");
    }
    let run = machine.finish().expect("the machine ends");
    run.expect_good();
    assert!(sent > 900, "{sent} messages");
    let hash: String = Sha256::digest(&expected).iter().map(|byte| format!("{byte:02x}")).collect();
    for app in ["one", "two"] {
        let said = String::from_utf8_lossy(run.file(app, "digest.txt")).into_owned();
        assert!(said.starts_with(&hash), "{app}: {said}");
    }
    let totals = run.state.verified.as_ref().expect("totals");
    assert!(totals.agree() && totals.worst_shortfall == 0, "{totals:?}");
}
