//! A VM that owns a virtual function for a while: a lease, memory, a domain and an interrupt, all its own.

use device::IoAddress;
use guests::card;
use guests::driven::{Driven, Program, Recorder, driven, shared};
use guests::function::{BOTH, message_route};
use guests::root::Root;
use igbvf::moderation::{Mode, Moderation};
use igbvf::{Buffer, ReceiveQueue, TransmitQueue};
use userlib::cap::{Cap, Fault, Frame, IommuDomain, Irq, PageTable, PciFunction, Slot, Untyped, own};

/// What an owner's function has, log2 of its bytes: a domain with its tables, and the pages that it reaches: two of rings,
/// one to send from, and the others to receive into.
pub const MEMORY_BITS: u8 = 16;
pub const MEMORY_PAGES: u64 = 8;
const TRANSMIT_PAGE: u64 = 1;
const SEND_PAGE: u64 = 2;
const RECEIVE_PAGE: u64 = 3;
/// Descriptors of a ring, and bytes of a buffer.
const DESCRIPTORS: usize = 8;
const BUFFER_BYTES: u64 = 2048;
/// Where the function sees its memory, and where the child has its registers: behind the pages that it shares.
const IO: u64 = 0x10_0000;
const REGISTERS: u64 = shared(MEMORY_PAGES);
const REGISTER_PAGES: u64 = 4;
/// Bytes of the frames that it sends.
const FRAME_BYTES: u64 = 64;

/// The child's slots, behind those of its frames.
const LEASE: u16 = 32;
const DOMAIN: u16 = 33;
const TABLES: u16 = 34;
const REGISTER_FRAMES: u16 = 36;
const DEVICE_FRAMES: u16 = 40;

/// What an owner is made of, and where the root VM sees parts of it.
pub struct Owner {
    /// Its first shared page.
    pub driven: Driven,
    /// Its memory for the function, in the root VM.
    pub window: u64,
    /// The route of its interrupt.
    pub irq: Cap<Irq>,
    /// Its vector.
    pub vector: u8,
}

#[derive(Clone, Copy)]
struct Place(IoAddress);

impl Buffer for Place {
    fn io_address(&self) -> IoAddress {
        self.0
    }
}

impl Owner {
    /// Makes it of a block and memory that nobody uses, with a lease of a function that is ready; it runs, and has touched
    /// nothing yet.
    pub fn launch(
        root: &mut Root,
        [block, memory]: [Cap<Untyped>; 2],
        time: Cap<userlib::cap::CpuTime>,
        parent: Cap<PciFunction>,
        (route, vector): (u16, u8),
    ) -> Result<Owner, Fault> {
        let page = root.make::<Frame>(12)?;
        let window = root.window(1 + MEMORY_PAGES);
        page.map(own::VM, window, BOTH)?;
        (0..512).for_each(|index| guests::root::set_word(window, index * 8, 0));
        let frames = root.slots(MEMORY_PAGES as u16);
        memory.retype_many::<Frame>(12, frames, MEMORY_PAGES as u16)?;
        frames.cap::<Frame>().map_row(own::VM, window + 4096, BOTH, MEMORY_PAGES - 1)?;
        let mut pages = [page; 1 + MEMORY_PAGES as usize];
        for (index, page) in (0..).zip(&mut pages[1..]) {
            *page = frames.after(index).cap();
        }
        let child = root.child_from(block, time, driven(), 1, &pages)?;
        let inside = |index| Slot::in_node(child.cnode.slot().index(), index);
        let lease = parent.lease(inside(LEASE))?;
        let domain: Cap<IommuDomain> = memory.retype(0, inside(DOMAIN))?;
        memory.retype_many::<PageTable>(0, inside(TABLES), 2)?;
        for (index, level) in [(0, 2), (1, 1)] {
            inside(TABLES + index).cap::<PageTable>().map_io(domain, IO, level)?;
        }
        for page in 0..MEMORY_PAGES as u16 {
            inside(DEVICE_FRAMES + page).copy(frames.after(page).cap::<Frame>(), BOTH)?;
        }
        inside(DEVICE_FRAMES).cap::<Frame>().map_io(domain, IO, BOTH, MEMORY_PAGES - 1)?;
        let registers = lease.bar(0, 0, inside(REGISTER_FRAMES), REGISTER_PAGES)?;
        registers.map_row(child.vm, REGISTERS, BOTH, REGISTER_PAGES - 1)?;
        let irq = message_route(root, route)?;
        irq.bind(child.vcpu, vector)?;
        lease.bind_msix(0, irq)?;
        lease.attach(domain)?;
        root.launch(&child)?;
        Ok(Owner { driven: Driven::new(window, child.channel), window: window + 4096, irq, vector })
    }

    /// What its driver asks the physical function first.
    pub fn ask(&self) -> Result<(), Fault> {
        let program = Program::default();
        let registers = Recorder::new(&program, REGISTERS, IoAddress(0), REGISTER_PAGES as usize);
        let mut function = igbvf::Function::new(registers, 0);
        let asked = function.poll(0);
        assert!(matches!(asked, Ok(None)), "the driver did not ask");
        self.driven.run(&program)
    }

    /// Sets its queues up, with an interrupt for everything; then it sends `payload` to a station and makes room for frames
    /// that come, again and again.
    pub fn start(&self, from: u16, to: u16, payload: u32) -> Result<(), Fault> {
        let program = Program::default();
        let registers = Recorder::new(&program, REGISTERS, IoAddress(0), REGISTER_PAGES as usize);
        let memory = |page| Recorder::new(&program, shared(page), IoAddress(IO + page * 4096), 1);
        let function = igbvf::Function::new(registers.clone(), 0);
        // It was reset when it asked.
        program.forget();
        function.route_interrupts(0, 0, 0);
        let receive = ReceiveQueue::<_, _, Place, DESCRIPTORS>::new(registers.clone(), memory(0), 0, 2048);
        let transmit = TransmitQueue::<_, _, (), DESCRIPTORS>::new(registers.clone(), memory(TRANSMIT_PAGE), 0);
        assert!(receive.is_ok() && transmit.is_ok(), "the driver set no queues up");
        Moderation::new(registers, 0, Mode::Interrupt);
        let (mac, other) = (card::mac(from).0, card::mac(to).0);
        let header = [other, mac].concat();
        let words = header.chunks(4).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        // EtherType 0x88b5, for experiments (IEEE 802).
        let words = words.chain([0x0000_b588, payload]);
        for (address, value) in (shared(SEND_PAGE) as u32..).step_by(4).zip(words) {
            program.store(address, value);
        }
        for index in 0..DESCRIPTORS as u32 {
            // Advanced data descriptors (82576 datasheet, 7.2.2.3): all of a frame, with its checksum to be added.
            let descriptor = shared(TRANSMIT_PAGE) as u32 + 16 * index;
            let command = FRAME_BYTES as u32 | 3 << 20 | 1 << 24 | 1 << 25 | 1 << 29;
            let words = [(IO + SEND_PAGE * 4096) as u32, 0, command, (FRAME_BYTES as u32) << 14];
            for (address, value) in (descriptor..).step_by(4).zip(words) {
                program.store(address, value);
            }
        }
        self.driven.run(&program)?;

        let again = Program::default();
        for index in 0..DESCRIPTORS as u32 {
            let descriptor = shared(0) as u32 + 16 * index;
            let buffer = IO + RECEIVE_PAGE * 4096 + u64::from(index) * BUFFER_BYTES;
            for (address, value) in (descriptor..).step_by(4).zip([buffer as u32, 0, 0, 0]) {
                again.store(address, value);
            }
            again.store(REGISTERS as u32 + igbvf::registers::receive_queue(0) + igbvf::registers::DT, index);
            again.store(
                REGISTERS as u32 + igbvf::registers::transmit_queue(0) + igbvf::registers::DT,
                (index + 1) % DESCRIPTORS as u32,
            );
        }
        self.driven.repeat(&again)
    }

    /// True if none of its memory was written to.
    pub fn is_untouched(&self) -> bool {
        (0..MEMORY_PAGES as usize * 512).all(|index| guests::root::word(self.window, index * 8) == 0)
    }

    /// True if a frame that `from` sent has come in.
    pub fn has_received(&self, from: u16) -> bool {
        let mac = card::mac(from).0;
        (0..DESCRIPTORS as u64).any(|buffer| {
            let at = (RECEIVE_PAGE * 4096 + buffer * BUFFER_BYTES) as usize;
            guests::root::word(self.window, at).to_le_bytes()[6..] == mac[..2]
                && guests::root::word(self.window, at + 8).to_le_bytes()[..4] == mac[2..]
        })
    }
}
