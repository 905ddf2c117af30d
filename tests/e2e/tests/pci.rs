//! PCI functions with virtual ones, as the kernel finds them on a machine, and as it was told of them in the unit tests of
//! `kernel/src/pci/`: those have configuration spaces of this emulator in `kernel/src/pci/tests/*.txt`, which a test here
//! compares with what the emulator shows today, and writes anew when `NONKERNEL_WRITE_DUMPS` is set.

use e2e::monitor::{Monitor, Sockets, poke};
use e2e::xtask::boot::Guest;
use e2e::xtask::paths;
use e2e::{Machine, boot};
use kernel::firmware::memory_map::Region;
use kernel::pci::{Bdf, ConfigAccess, Functions, Kind, control, vfs};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write;

/// A network adapter and a disc controller, each with virtual functions, behind root ports.
const DEVICES: [&[&str]; 9] = [
    &["-device", "pcie-root-port,id=rp0,chassis=1,slot=1,addr=1.0"],
    &["-device", "pcie-root-port,id=rp1,chassis=2,slot=2,addr=2.0"],
    &["-netdev", "user,id=n0"],
    &["-device", "igb,bus=rp0,netdev=n0"],
    &["-device", "nvme-subsys,id=ss0"],
    &["-device", NVME],
    &["-blockdev", "null-co,node-name=d0,size=16777216,read-zeroes=on"],
    &["-device", "nvme-ns,drive=d0,bus=nv0,nsid=1,shared=on"],
    &["-device", "pcie-root-port,id=rp2,chassis=3,slot=3,addr=3.0"],
];
const NVME: &str = "nvme,id=nv0,bus=rp1,serial=1,subsys=ss0,sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=2,\
                    max_ioqpairs=6,msix_qsize=4";
/// Configuration space of the segment.
const CONFIG_SPACE: u64 = 0xb000_0000;
/// Functions whose configuration spaces are kept: two root ports, adapter and controller; with the file's name.
const KEPT: [(&str, u64); 4] = [("port-of-igb", 0x08), ("port-of-nvme", 0x10), ("igb", 0x100), ("nvme", 0x200)];
/// Offsets in configuration space: base address registers, their end, windows of a bridge.
const BAR0: u64 = 0x10;
const BARS_END: u64 = 0x28;
const WINDOWS_END: u64 = 0x30;

/// Registers that are not 0: status of the adapter's virtual functions; of the controller's, which show nothing else before
/// they are brought up, vector control of the first MSI-X entry: it is masked.
const IGB_VF_STATUS: u64 = 0x8;
const NVME_VECTOR_CONTROL: u64 = 0x200c;

/// A machine with these devices whose root VM does so much that there is time to stop it.
fn guest() -> Guest {
    let extra = DEVICES.iter().flat_map(|arguments| arguments.iter()).map(ToString::to_string).collect();
    Guest { extra, ..Guest::new("probe") }
}

#[test]
fn functions_with_virtual_ones_are_found() {
    let Guest { extra, .. } = guest();
    let extra = ["-device", "intel-iommu,intremap=on,eim=on"].map(String::from).into_iter().chain(extra).collect();
    let run = boot(&Guest { command_line: "check=stopped_vm_is_reported".into(), extra, ..guest() });
    run.expect_good();
    for expected in
        ["PCI 01:00.0 8086:10c9, 8 VFs, 10 MSI-X entries, ", "PCI 02:00.0 1b36:0010, 2 VFs, 2 MSI-X entries, "]
    {
        let line = run.console.iter().find(|line| line.contains(expected));
        let line = line.unwrap_or_else(|| panic!("{expected}: {:?}", run.console));
        assert!(!line.contains("refused"), "{line}");
    }
}

/// A function's configuration space while the machine is stopped.
struct Space<'a> {
    monitor: &'a mut Monitor,
    sockets: &'a Sockets,
    base: u64,
}

impl Space<'_> {
    fn read(&mut self, offset: u64) -> u32 {
        self.monitor.word(self.base + offset).expect("it can be read")
    }

    fn write(&self, words: &[(u64, u32)]) {
        let words: Vec<(u64, u32)> = words.iter().map(|&(offset, word)| (self.base + offset, word)).collect();
        poke(self.sockets, &words).expect("it can be written");
    }

    fn extended(&mut self, id: u32) -> Option<u64> {
        let mut at = 0x100;
        for _ in 0..48 {
            let head = self.read(at);
            if head & 0xffff == id {
                return Some(at);
            }
            at = u64::from(head >> 20);
            if at < 0x100 {
                break;
            }
        }
        None
    }

    /// Every double word that is not 0.
    fn words(&mut self) -> BTreeMap<u64, u32> {
        let text = self.monitor.human(&format!("xp /1024wx {:#x}", self.base)).expect("it can be read");
        let words = text.lines().flat_map(|line| line.split_whitespace().skip(1));
        let words = words.map(|word| u32::from_str_radix(word.trim_start_matches("0x"), 16).expect("a word"));
        (0..1024).map(|index| index * 4).zip(words).filter(|&(_, word)| word != 0).collect()
    }

    /// Which bits of a double word can be written.
    fn writable(&mut self, offset: u64) -> u32 {
        let old = self.read(offset);
        self.write(&[(offset, u32::MAX)]);
        let ones = self.read(offset);
        self.write(&[(offset, 0)]);
        let zeros = self.read(offset);
        self.write(&[(offset, old)]);
        ones & !zeros
    }

    /// A line for each double word that is not 0 or can be written: offset, value, which bits can be written. The latter is
    /// looked at for base address registers and windows only.
    fn dump(&mut self, name: &str) -> String {
        let words = self.words();
        let is_bridge = self.read(0xc) >> 16 & 0x7f == 1;
        let mut probed: Vec<u64> = (BAR0..if is_bridge { BAR0 + 8 } else { BARS_END }).step_by(4).collect();
        if is_bridge {
            probed.extend((0x20..WINDOWS_END).step_by(4));
        }
        if let Some(sriov) = self.extended(0x10) {
            probed.extend((sriov + 0x24..sriov + 0x3c).step_by(4));
        }
        let masks: BTreeMap<u64, u32> = probed.into_iter().map(|offset| (offset, self.writable(offset))).collect();
        let mut text =
            format!("# {name} of QEMU: offset, value, bits that can be written (of registers of addresses).\n");
        for offset in (0..4096).step_by(4) {
            let (word, mask) = [&words, &masks].map(|of| of.get(&offset).copied().unwrap_or(0)).into();
            if word != 0 || mask != 0 {
                writeln!(text, "{offset:03x} {word:08x} {mask:08x}").expect("text");
            }
        }
        text
    }
}

/// A machine that stands still, once the kernel has made its functions quiet.
fn stopped() -> (Machine, Sockets, Monitor) {
    let sockets = Sockets::new().expect("a folder for sockets");
    let guest = guest();
    let extra = guest.extra.iter().cloned().chain(sockets.arguments()).collect();
    let mut machine = Machine::start_guest(&Guest { extra, ..guest }).expect("the machine starts");
    let mut monitor = Monitor::connect(&sockets).expect("the monitor answers");
    monitor.go().expect("the machine runs");
    machine.wait_line("root VM starts").expect("the root VM starts");
    monitor.stop().expect("the machine stops");
    (machine, sockets, monitor)
}

#[test]
fn configuration_spaces_are_those_of_the_unit_tests() {
    let (_machine, sockets, mut monitor) = stopped();
    let mut dumps = Vec::new();
    for (name, function) in KEPT {
        let base = CONFIG_SPACE + (function << 12);
        let mut space = Space { monitor: &mut monitor, sockets: &sockets, base };
        dumps.push((name.to_string(), space.dump(name)));
        // The first of its virtual functions.
        if let Some(sriov) = space.extended(0x10) {
            space.write(&[(sriov + 0x10, 1), (sriov + 8, 1)]);
            let distance = u64::from(space.read(sriov + 0x14) & 0xffff);
            let name = format!("{name}-vf");
            let mut virtual_space = Space { base: base + (distance << 12), ..space };
            let dump = virtual_space.dump(&name);
            dumps.push((name, dump));
        }
    }
    for (name, dump) in dumps {
        let file = paths::root().join("kernel/src/pci/tests").join(format!("{name}.txt"));
        if std::env::var_os("NONKERNEL_WRITE_DUMPS").is_some() {
            std::fs::write(&file, &dump).expect("it can be written");
        }
        let kept = std::fs::read_to_string(&file).expect("it is kept");
        assert_eq!(kept, dump, "{} (of another version of the emulator?)", file.display());
    }
}

/// The configuration spaces of a machine that stands still.
struct Config<'a> {
    monitor: RefCell<&'a mut Monitor>,
    sockets: &'a Sockets,
}

impl ConfigAccess for Config<'_> {
    fn read(&self, function: Bdf, offset: u16) -> u32 {
        let at = CONFIG_SPACE + function.ecam_offset() + u64::from(offset);
        self.monitor.borrow_mut().word(at).expect("it can be read")
    }

    fn write(&mut self, function: Bdf, offset: u16, value: u32) {
        let at = CONFIG_SPACE + function.ecam_offset() + u64::from(offset);
        poke(self.sockets, &[(at, value)]).expect("it can be written");
    }

    /// Of the registers of 16 bits that the kernel writes, the other half can only be read, or is left alone by zeros.
    fn write_half(&mut self, function: Bdf, offset: u16, value: u16) {
        self.write(function, offset & !3, u32::from(value) << ((offset & 2) * 8));
    }
}

/// The kernel's own code enables virtual functions of the emulator's devices: they appear, and answer at the memory that it
/// chose for them, also after a reset; and they disappear.
#[test]
fn virtual_functions_answer_where_they_were_put() {
    let (_machine, sockets, mut monitor) = stopped();
    let mut config = Config { monitor: RefCell::new(&mut monitor), sockets: &sockets };
    let mut functions = Box::new(Functions::new());
    functions.enumerate(&mut config, 0..=3, [Region { start: 0, end: 0x800_0000 }]);
    for (physical, count, register) in
        [(Bdf::new(1, 0, 0), 8, IGB_VF_STATUS), (Bdf::new(2, 0, 0), 2, NVME_VECTOR_CONTROL)]
    {
        let plan = vfs::plan(&functions, physical, count).expect("there is room");
        vfs::enable(&mut functions, &mut config, &plan).expect("the device takes it");
        for index in 0..count {
            let at = vfs::start(&mut functions, &mut config, physical, index).expect("it appears");
            let function = *functions.get(at).expect("it is in the table");
            assert_eq!(function.kind, Kind::Virtual(physical));
            assert!(control::open_path(&functions, &mut config, &function));
            let memory = function.memory().next().expect("it has memory");
            let answers = |config: &Config<'_>| {
                let word = config.monitor.borrow_mut().word(memory.region.start + register).expect("it can be read");
                !matches!(word, 0 | u32::MAX)
            };
            assert!(answers(&config), "{at}");
            control::reset(&mut config, &function).expect("it can be reset");
            assert!(control::restore(&mut config, &function));
            assert!(answers(&config), "{at} after its reset");
        }
        vfs::disable(&mut functions, &mut config, physical).expect("there were some");
        assert_eq!(config.read(plan.first, 0x08), u32::MAX, "it is gone");
    }
}
