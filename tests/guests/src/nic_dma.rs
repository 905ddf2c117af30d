//! The attack of a tenant by the DMA of its virtual function: descriptors of both directions for addresses that are not
//! its own.
//!
//! What it sends is one part its own, a header to a neighbour that sends frames back, and one part from outside: so it
//! sees what was read there. What the neighbour sends back is received outside. Nothing but zeroes may come from there,
//! nothing of its own may change, and its domain must be told of nothing but what was tried.

use crate::capabilities::SCRATCH;
use crate::instructions::Tally;
use crate::nic_flood::{BOTH, map_registers};
use alloc::vec::Vec;
use cap_spec::abi::{PAGE_BITS, Stopped};
use device::{Clock, DmaMemory, IoAddress};
use igbvf::offload::Offload;
use igbvf::{Buffer, ReceiveQueue, Segment, TransmitQueue};
use proto::start::{LEASE_BASE, NIC_SLOT};
use userlib::cap::{Cap, Fault, Frame, IommuDomain, PageTable, PciFunction, Slot, own};
use userlib::dma::{MappedMemory, MappedRegisters, TscClock};
use userlib::{clock, println};

/// Slots of the domain, of its tables, and of the memory's frames for the VM and for the function, behind those of
/// registers.
const DOMAIN: u16 = SCRATCH + 32;
const TABLES: u16 = DOMAIN + 1;
const FRAMES: u16 = TABLES + 2;
const DEVICE_FRAMES: u16 = FRAMES + PAGES;
/// Pages that the function reaches: a ring each way, what is sent, and what is received.
const PAGES: u16 = 4;
const SEND_PAGE: usize = 2;
const RECEIVE_PAGE: usize = 3;
const PAGE: u64 = 1 << PAGE_BITS;
/// Where they are in the VM, behind the registers, and in the domain.
const MEMORY: u64 = LEASE_BASE + 0x10_0000;
const IO: u64 = 0x4000_0000;
const END: u64 = IO + PAGES as u64 * PAGE;
/// Descriptors of a ring, and bytes of a buffer.
const RING: usize = 8;
const BUFFER: u16 = 2048;
/// Bytes of a header, and of what follows.
const HEADER: usize = 14;
const REST: usize = 64;
/// What its own memory holds.
const PATTERN: u64 = 0x6e6b_6e6b_6e6b_6e6b;
/// Microseconds that a frame may take to come back, how often it is sent again, and microseconds between two looks.
const BACK_US: u64 = 10_000;
const TIMES: u32 = 20;
const LOOK_US: u64 = 100;
/// Microseconds after which whatever was stopped has been told: more than the kernel ever waits before it looks again.
const TOLD_US: u64 = 140_000;
/// An event that nobody signals.
const NOTHING: u64 = 1 << 63;

/// Where half of what is read or written is its own.
const EDGE: u64 = END - REST as u64 / 2;
/// Around the edges of its memory; the first pages (0 itself is no buffer to the emulated device), the kernel's image
/// and what is behind it, the edges of 2 GiB, and the end of what a domain can map.
const OUTSIDE: [u64; 15] = [
    IO - REST as u64,
    IO - PAGE,
    EDGE,
    END,
    REST as u64,
    PAGE,
    0x10_0000,
    0x20_0000,
    (1 << 31) - PAGE,
    1 << 31,
    1 << 38,
    (1 << 39) - REST as u64,
    1 << 39,
    1 << 47,
    u64::MAX - 0xfff,
];
/// Where writes are interrupt messages, of which `devices` shows what comes: it is read only.
const MESSAGES: u64 = 0xfee0_0000;

/// A place that frames are received into.
#[derive(Clone, Copy)]
struct Place(u64);

impl Buffer for Place {
    fn io_address(&self) -> IoAddress {
        IoAddress(self.0)
    }
}

type Receive = ReceiveQueue<MappedRegisters, MappedMemory, Place, RING>;

/// The function at work, and what became of the attempts.
struct Attack {
    registers: MappedRegisters,
    memory: MappedMemory,
    domain: Cap<IommuDomain>,
    transmit: TransmitQueue<MappedRegisters, MappedMemory, (), RING>,
    ticks_of_us: u64,
    attempts: u64,
    wrong: u64,
    /// Reads and writes that the domain was told of.
    told: [u64; 2],
}

/// Makes the attack, beside a neighbour with this address that sends frames back.
pub fn attack(hz: u64, own: [u8; 6], neighbour: [u8; 6]) -> Result<Tally, Fault> {
    let registers = map_registers()?;
    let (memory, domain) = surround()?;
    Slot::root(NIC_SLOT).cap::<PciFunction>().attach(domain)?;
    let clock = TscClock::new(hz, 1_000);
    let up = igbvf::bring_up(registers, &clock, clock.now_ns() + 1_000_000_000);
    let (function, mac) = up.unwrap_or_else(|error| panic!("the function: {error:?}"));
    assert_eq!(mac.0, own);
    while !function.link_is_up() {
        clock.pause();
    }
    let transmit = TransmitQueue::new(registers, memory.from_page(1), 0);
    let transmit = transmit.unwrap_or_else(|error| panic!("a queue: {error:?}"));
    (0..memory.from_page(SEND_PAGE).words()).for_each(|word| memory.from_page(SEND_PAGE).store(word, PATTERN));
    // EtherType 0x88b5, for experiments (IEEE 802).
    memory.put(SEND_PAGE * PAGE as usize, &[&neighbour[..], &own[..], &[0x88, 0xb5]].concat());
    let mut attack = Attack {
        registers,
        memory,
        domain,
        transmit,
        ticks_of_us: hz / 1_000_000,
        attempts: 0,
        wrong: 0,
        told: [0; 2],
    };
    attack.make();
    let [reads, writes] = attack.told;
    println!("hostile: {reads} reads and {writes} writes outside were told");
    Ok(Tally { attempts: attack.attempts, wrong: attack.wrong })
}

/// Memory for the VM and, in a domain, for the function.
fn surround() -> Result<(MappedMemory, Cap<IommuDomain>), Fault> {
    let domain = own::BASE.retype::<IommuDomain>(0, Slot::root(DOMAIN))?;
    own::BASE.retype_many::<PageTable>(0, Slot::root(TABLES), 2)?;
    for (slot, level) in [(TABLES, 2), (TABLES + 1, 1)] {
        Slot::root(slot).cap::<PageTable>().map_io(domain, IO, level)?;
    }
    let (frames, copies) = (Slot::root(FRAMES), Slot::root(DEVICE_FRAMES));
    own::BASE.retype_many::<Frame>(PAGE_BITS, frames, PAGES)?;
    for page in 0..PAGES {
        copies.after(page).copy(frames.after(page).cap::<Frame>(), BOTH)?;
    }
    frames.cap::<Frame>().map_row(own::VM, MEMORY, BOTH, u64::from(PAGES) - 1)?;
    copies.cap::<Frame>().map_io(domain, IO, BOTH, u64::from(PAGES) - 1)?;
    // SAFETY: just mapped, and used by nothing else.
    Ok((unsafe { MappedMemory::new(MEMORY, IoAddress(IO), usize::from(PAGES) * PAGE as usize) }, domain))
}

impl Attack {
    fn make(&mut self) {
        let send = IO + SEND_PAGE as u64 * PAGE;
        let (inside, header) = (send + HEADER as u64 + 2, Segment { address: IoAddress(send), bytes: HEADER as u16 });
        let with = |address| [header, Segment { address: IoAddress(address), bytes: REST as u16 }];
        let receive = IO + RECEIVE_PAGE as u64 * PAGE;
        // The neighbour is there, and sends back what it was sent.
        let came = self.exchange(&with(inside), receive, TIMES);
        self.expect(
            came.is_some_and(|rest| rest == [PATTERN.to_le_bytes(); REST / 8].concat()[..]),
            "not back",
            inside,
        );
        for address in OUTSIDE {
            let kept = self.contents();
            let came = self.exchange(&with(inside), address, TIMES);
            self.expect(came.is_some(), "never received", address);
            self.expect(self.contents() == kept, "written", address);
            self.hear();
        }
        for address in OUTSIDE.into_iter().chain([MESSAGES]) {
            let own = if address == EDGE { REST / 2 } else { 0 };
            let came = self.exchange(&with(address), receive, 1);
            let is_read = came.is_some_and(|rest| rest[own..].iter().any(|&byte| byte != 0));
            self.expect(!is_read, "read", address);
            self.hear();
        }
        let end = clock::now() + TOLD_US * self.ticks_of_us;
        while clock::now() < end {
            self.rest();
            self.hear();
        }
        let came = self.exchange(&with(inside), receive, TIMES);
        self.expect(came.is_some(), "nothing back afterwards", inside);
        self.expect(self.told.iter().all(|&told| told > 0), "nothing told", 0);
    }

    fn expect(&mut self, is_right: bool, what: &str, address: u64) {
        self.attempts += 1;
        if !is_right {
            self.wrong += 1;
            println!("hostile: {what}: {address:#x}");
        }
    }

    /// Sends a frame of two parts, so often at most, until one was received at an address; returns what followed the
    /// header in the page for it.
    fn exchange(&mut self, parts: &[Segment; 2], address: u64, times: u32) -> Option<[u8; REST]> {
        let page = self.memory.from_page(RECEIVE_PAGE);
        let mut queue = Receive::new(self.registers, self.memory, 0, BUFFER).ok()?;
        queue.supply(Place(address)).ok()?;
        queue.show();
        for _ in 0..times {
            while self.transmit.completed().is_some() {}
            self.transmit.send(parts, &Offload::NONE, ()).ok()?;
            self.transmit.flush();
            let deadline = clock::now() + BACK_US * self.ticks_of_us;
            while clock::now() < deadline {
                if queue.receive().is_some() {
                    let mut bytes = [0; HEADER + REST];
                    page.get(0, &mut bytes);
                    return bytes[HEADER..].try_into().ok();
                }
                self.rest();
            }
        }
        None
    }

    /// Gives the core to the neighbour for a while.
    fn rest(&self) {
        let _ = own::VCPU.wait(NOTHING, clock::now() + LOOK_US * self.ticks_of_us);
    }

    /// What it sends from and receives into, but for the end, which is its own to be received into.
    fn contents(&self) -> Vec<u64> {
        let pages = self.memory.from_page(SEND_PAGE);
        (0..pages.words() - REST / 16).map(|word| pages.load(word)).collect()
    }

    /// Takes what its domain was told of.
    fn hear(&mut self) {
        while let Ok(told) = self.domain.take_fault()
            && let Some(record) = told.record
        {
            let is_tried = |page: u64| OUTSIDE.iter().any(|&address| page == address & !(PAGE - 1) || page == END);
            match record.stopped {
                Stopped::Read(page) if is_tried(page) => self.told[0] += 1,
                Stopped::Write(page) if is_tried(page) => self.told[1] += 1,
                other => {
                    self.wrong += 1;
                    println!("hostile: told of {other:x?}");
                }
            }
        }
    }
}
