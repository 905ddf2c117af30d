//! An emulated machine whose processor is halted: its memory, its clock, its configuration space.
//!
//! Debian's emulator lacks the clock that tests can step, so devices have the host's time.

use crate::LIMIT;
use crate::qtest::Qtest;
use device::{DmaMemory, IoAddress, PAGE_BYTES};
use std::cell::{Cell, RefCell};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use xtask::{paths, process, setup};

/// Bytes of memory, from address 0 on.
const MEMORY_BYTES: u64 = 64 << 20;
/// Where the extended configuration space is put.
const ECAM: u64 = 0xb000_0000;
/// The least that the emulator takes.
const FIRMWARE_BYTES: usize = 64 << 10;
/// The processor's instruction to halt.
const HLT: u8 = 0xf4;
/// Where the BARs of functions are put.
pub(crate) const WINDOW: u64 = 0xc000_0000;
/// Bytes of that.
pub(crate) const WINDOW_BYTES: u64 = 16 << 20;

/// The emulator. It ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Machine(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    qtest: RefCell<Qtest>,
    child: RefCell<Child>,
    folder: PathBuf,
    now_ns: Cell<u64>,
    next_page: Cell<u64>,
    next_bar: Cell<u64>,
}

impl Machine {
    /// Starts the emulator with a PCIe root port named `rp0` at device 3 and these further arguments; `{folder}` in them
    /// is the machine's own folder.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn start(arguments: &[&str]) -> Machine {
        Machine::start_with_files(&[], arguments)
    }

    /// As [`Machine::start`], with files of so many zeros in the machine's folder.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn start_with_files(files: &[(&str, u64)], arguments: &[&str]) -> Machine {
        let tools = setup::ensure().expect("the set-up is done");
        let folder = own_folder();
        for (name, bytes) in files {
            let file = std::fs::File::create(folder.join(name)).expect("the folder can be written");
            file.set_len(*bytes).expect("there is room");
        }
        let socket = folder.join("qtest");
        let listener = UnixListener::bind(&socket).expect("a socket can be made");
        let mut command = process::bound(&tools.qemu);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,sata=off,smbus=off"]);
        // The processor begins to execute at the end of the firmware, and halts for good with its first instruction.
        let firmware = folder.join("firmware");
        std::fs::write(&firmware, [HLT; FIRMWARE_BYTES]).expect("the folder can be written");
        command.arg("-bios").arg(&firmware);
        command.args(["-accel", "tcg", "-m", &format!("{}M", MEMORY_BYTES >> 20)]);
        command.args(["-qtest", &format!("unix:{}", socket.display()), "-qtest-log", "/dev/null"]);
        command.args(["-device", "pcie-root-port,id=rp0,chassis=1,slot=1,addr=3"]);
        command.args(arguments.iter().map(|argument| argument.replace("{folder}", &folder.display().to_string())));
        let child = command.stdin(Stdio::null()).spawn().expect("the emulator starts");
        let stream = accept(&listener, child.id());
        let machine = Machine(Rc::new(Inner {
            qtest: RefCell::new(Qtest::new(stream)),
            child: RefCell::new(child),
            folder,
            now_ns: Cell::new(0),
            // Address 0 is left free: some devices take it for none.
            next_page: Cell::new(PAGE_BYTES),
            next_bar: Cell::new(WINDOW),
        }));
        machine.set_up_bus();
        machine
    }

    /// The machine's own folder, which ends with it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Extended configuration space on, and the root port's bus 1 with a window for all BARs, as firmware would do it.
    fn set_up_bus(&self) {
        // PCIEXBAR of the host bridge (Q35 datasheet, 5.1.17), by the old mechanism.
        self.number("outl 0xcf8 0x80000060");
        self.number(&format!("outl 0xcfc {:#x}", ECAM | 1));
        let port = 3 << 3;
        self.write_config(port, 0x18, 0x0001_0100);
        let (base, limit) = (WINDOW >> 16, (WINDOW + WINDOW_BYTES - 1) >> 16);
        self.write_config(port, 0x20, (limit << 16 | base) as u32);
        // No prefetchable window: its base is above its limit.
        self.write_config(port, 0x24, 0x0000_fff0);
        let command = self.read_config(port, 4);
        self.write_config(port, 4, command | 0x6);
    }

    /// Where the configuration space of a routing identifier has its double word at `offset`.
    fn config_address(routing_id: u16, offset: u32) -> u64 {
        ECAM + (u64::from(routing_id) << 12) + u64::from(offset)
    }

    /// Reads configuration space.
    #[must_use]
    pub fn read_config(&self, routing_id: u16, offset: u32) -> u32 {
        self.read32(Machine::config_address(routing_id, offset))
    }

    /// Writes configuration space.
    pub fn write_config(&self, routing_id: u16, offset: u32, value: u32) {
        self.write32(Machine::config_address(routing_id, offset), value);
    }

    fn number(&self, command: &str) -> u64 {
        let answer = self.0.qtest.borrow_mut().command(command);
        let digits = answer.trim_start_matches("0x");
        if digits.is_empty() { 0 } else { u64::from_str_radix(digits, 16).expect("a number") }
    }

    /// Reads 32 bits of memory or a register.
    #[must_use]
    pub fn read32(&self, address: u64) -> u32 {
        self.number(&format!("readl {address:#x}")) as u32
    }

    /// Writes 32 bits of memory or a register.
    pub fn write32(&self, address: u64, value: u32) {
        self.number(&format!("writel {address:#x} {value:#x}"));
    }

    /// Reads memory.
    #[must_use]
    pub fn read(&self, address: u64, bytes: usize) -> Vec<u8> {
        let text = self.0.qtest.borrow_mut().command(&format!("read {address:#x} {bytes:#x}"));
        let digits = text.trim_start_matches("0x").as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        digits.chunks(2).map(|pair| byte(pair).expect("two digits")).collect()
    }

    /// Writes memory.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.number(&format!("write {address:#x} {:#x} 0x{digits}", bytes.len()));
    }

    /// The time in nanoseconds as drivers are told it: what was waited for so far. For the devices it is that or more,
    /// so that a slow host lets no driver's time run out.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.0.now_ns.get()
    }

    /// Lets time pass.
    pub fn step(&self, nanoseconds: u64) {
        std::thread::sleep(Duration::from_nanos(nanoseconds));
        self.0.now_ns.set(self.now_ns() + nanoseconds);
    }

    /// Zeroed memory of whole pages, contiguous.
    ///
    /// # Panics
    /// When there is no more.
    #[must_use]
    pub fn memory(&self, pages: u64) -> Memory {
        let base = self.0.next_page.get();
        let bytes = pages * PAGE_BYTES;
        assert!(base + bytes <= MEMORY_BYTES, "the machine has no more memory");
        self.0.next_page.set(base + bytes);
        Memory { machine: self.clone(), base, bytes }
    }

    /// A place for a BAR of so many bytes, a power of two.
    pub(crate) fn place_bar(&self, bytes: u64) -> u64 {
        let base = self.0.next_bar.get().next_multiple_of(bytes);
        assert!(base + bytes <= WINDOW + WINDOW_BYTES, "the window is full");
        self.0.next_bar.set(base + bytes);
        base
    }

    /// Asks until there is an answer, as the emulator does some things on its own time.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn wait<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            assert!(start.elapsed() < LIMIT, "waited too long for {what}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        let _ = child.kill();
        let _ = child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn own_folder() -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = paths::target().join("devices").join(format!("{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    folder
}

/// Waits for the emulator, which connects when it has made its devices.
fn accept(listener: &UnixListener, child: u32) -> std::os::unix::net::UnixStream {
    listener.set_nonblocking(true).expect("a socket can be set up");
    let start = Instant::now();
    loop {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).expect("a socket can be set up");
            return stream;
        }
        let alive = Path::new("/proc").join(child.to_string()).join("exe").exists();
        assert!(alive && start.elapsed() < LIMIT, "the emulator did not start; it says why above");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Memory of the machine, which devices reach at the address that it has, as there is no IOMMU.
#[derive(Clone, Debug)]
pub struct Memory {
    machine: Machine,
    base: u64,
    bytes: u64,
}

impl Memory {
    /// Its address.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.base
    }

    /// Reads bytes from an offset on.
    #[must_use]
    pub fn read(&self, offset: u64, bytes: usize) -> Vec<u8> {
        assert!(offset + bytes as u64 <= self.bytes);
        self.machine.read(self.base + offset, bytes)
    }

    /// Writes bytes from an offset on.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        assert!(offset + bytes.len() as u64 <= self.bytes);
        self.machine.write(self.base + offset, bytes);
    }
}

impl DmaMemory for Memory {
    fn io_address(&self) -> IoAddress {
        IoAddress(self.base)
    }

    fn words(&self) -> usize {
        (self.bytes / 8) as usize
    }

    fn load(&self, word: usize) -> u64 {
        if word >= self.words() {
            return 0;
        }
        self.machine.number(&format!("readq {:#x}", self.base + 8 * word as u64))
    }

    fn store(&self, word: usize, value: u64) {
        if word < self.words() {
            self.machine.number(&format!("writeq {:#x} {value:#x}", self.base + 8 * word as u64));
        }
    }
}
