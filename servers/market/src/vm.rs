//! The machine below the market, in the root VM.

extern crate alloc;

use cap_spec::abi::{Fault, IMAGE_BASE, Label, ROOT_ARCHIVE, ROOT_BOOT_INFO, STATS_PAGE, boot_info, image_header};
use core::fmt;
use core::sync::atomic::Ordering;
use market_server::boot::Boot;
use market_server::last_words;
use market_server::machine::{Attention, Full, Machine, Peer, Received, Slot};
use market_server::nic_link::NIC_EVENT;
use market_server::root::COPY_WINDOW;
use market_server::server::{CLIENT_EVENTS, CONSOLE_EVENT, Phase, Server, Wake};
use market_server::storage_link::STORAGE_EVENT;
use proto::MAX_MESSAGE;
use proto::start::MAX_CLIENTS;
use userlib::ring::{Consumer, Producer, RingError, Wake as RingWake};
use userlib::shared::{SharedMemory, Words};
use userlib::{clock, end, events, heap, invoke};

/// Bytes of a ring.
const RING_BYTES: usize = 4096;
/// Places of the servers' rings; those of application i are in place i.
const CONSOLE: usize = MAX_CLIENTS;
const NIC: usize = MAX_CLIENTS + 1;
const STORAGE: usize = MAX_CLIENTS + 2;
const PLACES: usize = MAX_CLIENTS + 3;
/// Ends of the windows that the market maps frames into; they start at [`COPY_WINDOW`].
const WINDOW_END: u64 = 0x1_0000_0000;

/// The two rings of a peer.
struct Rings {
    out: Producer<SharedMemory>,
    input: Consumer<SharedMemory>,
    event: u64,
}

/// The machine.
struct RootVm {
    rings: [Option<Rings>; PLACES],
    /// What a ring gives; kept, as clearing it anew for each look at an empty ring would cost more than the look.
    buffer: [u8; MAX_MESSAGE],
}

/// Memory outside of the image, which the market has mapped.
///
/// Panics if the address is not a place for that.
fn shared(gpa: u64, bytes: usize) -> SharedMemory {
    let in_window = (COPY_WINDOW..WINDOW_END).contains(&gpa) && gpa + bytes as u64 <= WINDOW_END;
    assert!(in_window || matches!(gpa & !4095, ROOT_BOOT_INFO | STATS_PAGE), "no shared memory at {gpa:#x}");
    // SAFETY: the image, its heap and its stack lie elsewhere, so no Rust object is there. What is not mapped faults, and
    // the root VM's faults do not come back.
    unsafe { SharedMemory::new(gpa, bytes) }
}

fn attention(wake: RingWake) -> Attention {
    match wake {
        RingWake::Nobody => Attention::Awake,
        RingWake::Peer => Attention::Asleep,
    }
}

impl RootVm {
    const fn new() -> RootVm {
        RootVm { rings: [const { None }; PLACES], buffer: [0; MAX_MESSAGE] }
    }

    fn rings(&mut self, peer: Peer) -> Option<&mut Rings> {
        self.rings.get_mut(place(peer))?.as_mut()
    }

    /// Sleeps until an event or the time that the market named; returns the events.
    fn sleep(&mut self, wake: Wake) -> u64 {
        if wake.at <= clock::now() {
            return events::take(wake.mask);
        }
        // Who is not waited for is not asked to signal either. A ring with a message in it keeps the market awake.
        let mut quiet = true;
        for rings in self.rings.iter_mut().flatten().filter(|rings| rings.event & wake.mask != 0) {
            quiet &= rings.input.announce_sleep() != Ok(false);
        }
        let taken = if quiet { events::wait_only(wake.mask, wake.at).unwrap_or(0) } else { events::take(wake.mask) };
        for rings in self.rings.iter_mut().flatten() {
            rings.input.awake();
        }
        taken
    }
}

fn place(peer: Peer) -> usize {
    match peer {
        Peer::App(app) => usize::from(app).min(MAX_CLIENTS - 1),
        Peer::Console => CONSOLE,
        Peer::Nic => NIC,
        Peer::Storage => STORAGE,
    }
}

impl Machine for RootVm {
    fn invoke(&mut self, label: Label, capability: Slot, arguments: [u64; 5]) -> Result<[u64; 2], Fault> {
        invoke::invoke(capability.raw(), label, arguments).map(|(first, second)| [first, second])
    }

    fn now(&self) -> u64 {
        clock::now()
    }

    fn add_heap(&mut self, gpa: u64, bytes: u64) {
        assert!((COPY_WINDOW..WINDOW_END).contains(&gpa));
        // SAFETY: the market has mapped a frame of its own there that it uses for nothing else and never takes away.
        // Memory that is too small to be of use is not missed.
        let _ = unsafe { heap::claim(gpa as *mut u8, bytes as usize) };
    }

    fn write(&mut self, gpa: u64, bytes: &[u8]) {
        let end = gpa.checked_add(bytes.len() as u64);
        assert!(gpa >= COPY_WINDOW && end.is_some_and(|end| end <= WINDOW_END), "no window at {gpa:#x}");
        // SAFETY: no Rust object is in the windows, so the ranges do not overlap; what is not mapped faults.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), gpa as *mut u8, bytes.len()) };
    }

    fn write_word(&mut self, gpa: u64, word: u64) {
        shared(gpa, 8).store(0, word, Ordering::Release);
    }

    fn read_word(&self, gpa: u64) -> u64 {
        let mut word = 0u64;
        // SAFETY: the source is a page that the kernel writes, or nothing; the target is `word`. Eight aligned bytes are
        // one load.
        unsafe { userlib::arch::copy((&raw mut word) as u64, gpa, 8) };
        word
    }

    fn open_rings(&mut self, peer: Peer, from_peer: u64, to_peer: u64) {
        let event = match peer {
            Peer::App(app) => 1 << (CLIENT_EVENTS + u32::from(app)),
            Peer::Console => CONSOLE_EVENT,
            Peer::Nic => NIC_EVENT,
            Peer::Storage => STORAGE_EVENT,
        };
        let rings = Rings {
            out: Producer::new(shared(to_peer, RING_BYTES)),
            input: Consumer::new(shared(from_peer, RING_BYTES)),
            event,
        };
        self.rings[place(peer)] = Some(rings);
    }

    fn close_rings(&mut self, peer: Peer) {
        self.rings[place(peer)] = None;
    }

    fn send(&mut self, peer: Peer, message: &[u8]) -> Result<Attention, Full> {
        let rings = self.rings(peer).ok_or(Full)?;
        rings.out.send(message).map(attention).map_err(|_| Full)
    }

    fn receive(&mut self, peer: Peer) -> Received {
        let Some(rings) = self.rings.get_mut(place(peer)).and_then(Option::as_mut) else { return Received::Nothing };
        match rings.input.receive(&mut self.buffer) {
            Ok(None) => Received::Nothing,
            Ok(Some((length, wake))) => Received::Message(self.buffer[..length].to_vec(), attention(wake)),
            Err(RingError::Full | RingError::TooLong | RingError::Corrupt) => Received::Damaged,
        }
    }
}

/// Starts the market and keeps it going.
pub fn main() -> ! {
    end::set_reporter(report);
    claim_rest_of_memory();
    let mut machine = RootVm::new();
    let boot = match Boot::read(&machine) {
        Ok(boot) => boot,
        Err(problem) => give_up(&mut machine, format_args!("boot information {problem}")),
    };
    if boot.restarts > 0 {
        // The ledger was in memory: who owned what is not known any more, so nothing is anybody's.
        last_words::revoke_everything(&mut machine, &boot);
        give_up(&mut machine, format_args!("the market server was restarted: its ledger is lost"));
    }
    // SAFETY: the kernel maps the boot archive there, to be read, for as long as the root VM lives; nobody writes it.
    let archive = unsafe { core::slice::from_raw_parts(ROOT_ARCHIVE as *const u8, boot.archive_bytes as usize) };
    let mut server = match Server::start(machine, archive) {
        Ok(server) => server,
        Err((mut machine, failure)) => {
            last_words::revoke_everything(&mut machine, &boot);
            give_up(&mut machine, format_args!("{failure}"));
        }
    };
    let mut events = 0;
    loop {
        let wake = server.step(events);
        if let Phase::PowerOff { deadline, value } = server.phase
            && clock::now() >= deadline
        {
            last_words::power_off(&mut server.root.machine, value);
            end::stop();
        }
        events = server.root.machine.sleep(wake);
    }
}

/// The root VM has memory in steps of 2 MiB: what is behind the image is heap.
fn claim_rest_of_memory() {
    // SAFETY: the header is the first thing in the image, and is not written.
    let image = unsafe { ((IMAGE_BASE as usize + image_header::MEMORY_BYTES) as *const u64).read_volatile() };
    let all = shared(ROOT_BOOT_INFO, 4096).load(boot_info::MEMORY_BYTES / 8, Ordering::Relaxed);
    if all > image {
        // SAFETY: the kernel has mapped it for this VM; behind the image is nothing. What is too small is not missed.
        let _ = unsafe { heap::claim((IMAGE_BASE + image) as *mut u8, (all - image) as usize) };
    }
}

/// Ends the run without a market.
fn give_up(machine: &mut RootVm, reason: fmt::Arguments<'_>) -> ! {
    last_words::end_run(machine, 0, &alloc::format!("{reason}"));
    end::stop()
}

/// Tells of a panic or an exception of the market itself. The console server may still run: the ports are taken from it.
fn report(_kind: end::Kind, what: &dyn fmt::Display) {
    let mut machine = RootVm::new();
    last_words::end_run(&mut machine, 0, &alloc::format!("the market server failed: {what}"));
}
