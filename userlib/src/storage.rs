//! A namespace of the NVMe controller, ready to read and write: [`App::storage`].
//!
//! The application drives two queue pairs by itself, by [`nvme_queue`]: this module only puts together what the driver
//! needs. The function's DMA reaches the rings and [`BUFFERS`] buffers of a page each, and nothing else; reading and writing
//! takes no exit. Data are not copied: a buffer belongs to the driver while a command is under way, and comes back with it.
//!
//! Everything is counted in pages of 4 KiB: a read or a write is of one page, and many are under way at a time.
//!
//! An application that reads and writes more often than it has bought (the good `iops`) finds its namespace closed until time
//! has made up for that: what is refused is sent again, each millisecond one command and all when that is taken, so that
//! operations become slower and none fails.
//!
//! The application chooses how it learns of ends ([`Storage::set_mode`]). Ends of the second queue pair interrupt: who adapts
//! looks there for as long as looking finds something, with interrupts off, so that a busy time costs one interrupt at most,
//! when it is over; the registers by which a controller would be told to be silent meanwhile are not the application's.
//!
//! When the storage server is started again the queues live on. If the controller had to be reset, the market tells of that
//! by [`crate::market::Event::StorageLost`]: commands do not end any more, and [`Storage::lose`] gives their tokens and buffers
//! back. [`crate::market::Event::StorageRenewed`] tells of new queues, in a namespace with nothing but zeroes, which
//! [`Storage::renew`] takes into use. So it is if the namespace is revoked, with a notice of its good before; and who has to buy
//! its namespace has an [`App::storage_function`] until it has got one.

use alloc::vec::Vec;

use device::look::Looks;
pub use device::look::{Mode, Next};
use device::{DmaBuffer, DmaMemory, IoAddress};
pub use nvme_queue::Status;
use nvme_queue::{Access, Command, GatedPair, Namespace, Rings, Transfer};
use proto::start::{DOORBELLS, STORAGE_IRQ_SLOT, STORAGE_SLOT};
pub use proto::storage::Space;
use proto::storage::{BASE_PAGES, BUFFERS, ENTRIES, QUEUES, RING_PAGES, WINDOW};

use crate::app::App;
use crate::cap::{Cap, IommuDomain, Irq, Slot, own};
use crate::dma::{MappedBuffer, MappedMemory, MappedRegisters};
use crate::error::Error;
use crate::{clock, market, own_device};

/// Bytes of a page, and of a buffer.
pub const PAGE_BYTES: usize = 4096;
/// Vector of the second queue pair.
const VECTOR: u8 = 0x51;
/// Microseconds after which a namespace that is closed is tried again.
const PATIENCE_US: u64 = 1_000;
const DEPTH: usize = ENTRIES as usize;
/// Besides memory: tables and CNodes.
const OTHER_PAGES: u32 = 12;
const _: () = assert!(RING_PAGES as u32 + BUFFERS as u32 + OTHER_PAGES <= BASE_PAGES);

/// A queue pair of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Ends have to be looked for.
    Polled = 0,
    /// Each batch of ends interrupts.
    Interrupting = 1,
}

/// A page of memory that the function reaches.
#[derive(Debug)]
pub struct Buffer {
    memory: MappedBuffer,
    number: u16,
}

impl Buffer {
    /// Shows the page.
    pub fn read<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        self.memory.read(PAGE_BYTES, look)
    }

    /// Lets the page be written.
    pub fn write<T>(&mut self, fill: impl FnOnce(&mut [u8]) -> T) -> T {
        self.memory.write(PAGE_BYTES, fill)
    }
}

/// What is done with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// From the namespace into the buffer.
    Read,
    /// From the buffer into the namespace.
    Write,
}

/// Why a command was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many are under way as the queue has room for.
    Full,
    /// The namespace has no such page.
    Beyond,
}

/// A command that ended.
#[derive(Debug)]
pub struct Ended {
    /// What was said at its beginning.
    pub token: u64,
    /// Its buffer; none of a flush.
    pub buffer: Option<Buffer>,
    /// How it ended.
    pub status: Status,
}

/// A command under way.
#[derive(Debug)]
struct Sent {
    token: u64,
    /// The first block, and what is done there; a flush does nothing anywhere.
    block: u64,
    operation: Option<Operation>,
    buffer: Option<Buffer>,
}

type Pair = GatedPair<MappedRegisters, MappedMemory, Sent, DEPTH>;

/// A namespace in use.
#[derive(Debug)]
pub struct Storage {
    space: InUse,
    /// Memory of the rings, and the I/O address of the buffers.
    rings: MappedMemory,
    buffers_at: IoAddress,
    buffers: Vec<Buffer>,
    /// [`PATIENCE_US`] in ticks.
    patience: u64,
    /// The application is to be woken for what is held.
    reminds: bool,
    looks: Looks,
}

/// A virtual function without a namespace yet, with memory for its queues and its buffers.
#[derive(Debug)]
pub struct StorageFunction {
    rings: MappedMemory,
    buffers_at: IoAddress,
    buffers: Vec<Buffer>,
    patience: u64,
}

impl StorageFunction {
    /// Takes queues into use.
    ///
    /// # Errors
    /// When what the market says of the namespace cannot be.
    pub fn open(self, space: &Space) -> Result<Storage, Error> {
        let StorageFunction { rings, buffers_at, buffers, patience } = self;
        let space = InUse::new(space, rings, buffers_at, patience)?;
        let looks = Looks::new(Mode::Interrupt);
        Ok(Storage { space, rings, buffers_at, buffers, patience, reminds: false, looks })
    }
}

/// What the market says of a namespace, made use of.
#[derive(Debug)]
struct InUse {
    namespace: Namespace,
    pairs: [Pair; QUEUES],
    /// For each buffer: reads and writes of it.
    accesses: Vec<[Access; 2]>,
    /// Blocks of a page, as a power of two.
    page_shift: u32,
}

impl App {
    /// Takes the namespace into use that the market has given to this application: `storage` in its scenario. To be called
    /// once.
    ///
    /// # Errors
    /// When there is none, or the base has too few pages ([`BASE_PAGES`]).
    pub fn storage(&mut self) -> Result<Storage, Error> {
        let Some(space) = self.start().storage else {
            return Err(Error::failed("this application has no namespace: `storage` in its scenario"));
        };
        self.storage_function()?.open(&space)
    }

    /// Makes ready for a namespace that is to be bought (the good [`App::storage_good`]): when
    /// [`crate::market::Event::StorageRenewed`] tells of it, it is opened. To be called once.
    ///
    /// # Errors
    /// When there is no virtual function of the storage device, or the base has too few pages ([`BASE_PAGES`]).
    pub fn storage_function(&mut self) -> Result<StorageFunction, Error> {
        if self.start().storage_units == 0 {
            return Err(Error::failed(
                "this application has no function of a storage device: `storage` in its scenario",
            ));
        }
        let [rings, buffers] = self.map_storage()?;
        let buffers_at = buffers.io_address();
        let patience = self.clock().ticks_of_us(PATIENCE_US);
        // SAFETY: the memory is used by the buffers alone; a driver has a buffer for as long as its command is under way.
        let pages = unsafe { buffers.into_buffers(PAGE_BYTES) };
        let buffers = (0..).zip(pages).map(|(number, memory)| Buffer { memory, number }).collect();
        own_device::take_vector(VECTOR);
        let irq: Cap<Irq> = Slot::root(STORAGE_IRQ_SLOT).cap();
        irq.bind(own::VCPU, VECTOR)?;
        Ok(StorageFunction { rings, buffers_at, buffers, patience })
    }

    /// Maps rings and buffers for the VM and, in the window of the function's domain, for the function.
    fn map_storage(&mut self) -> Result<[MappedMemory; 2], Error> {
        let window: Cap<IommuDomain> = Slot::root(STORAGE_SLOT).cap();
        let mut market = self.market();
        let pager = market.pager();
        own_device::make_tables(pager, window, WINDOW)?;
        let rings = own_device::map_both(pager, window, WINDOW, RING_PAGES)?;
        let buffers = WINDOW + u64::from(RING_PAGES) * PAGE_BYTES as u64;
        Ok([rings, own_device::map_both(pager, window, buffers, BUFFERS)?])
    }
}

impl InUse {
    /// With queues that nothing was put into, and rings that hold nothing.
    fn new(space: &Space, rings: MappedMemory, buffers_at: IoAddress, patience: u64) -> Result<InUse, Error> {
        let nonsense = || Error::failed("what the market says of the namespace cannot be");
        let Space { namespace: id, block_shift, blocks, max_transfer_bytes, doorbells, stride } = *space;
        let page_shift = 12u32.checked_sub(block_shift.into()).ok_or_else(nonsense)?;
        let namespace = Namespace { id, block_shift, blocks, max_transfer_bytes };
        // SAFETY: the launcher has mapped the page of doorbells there, for as long as the VM lives.
        let registers = unsafe { MappedRegisters::new(DOORBELLS, PAGE_BYTES as u32) };
        let pair = |queue: usize| {
            let (submission, completion) = (rings.from_page(2 * queue), rings.from_page(2 * queue + 1));
            let rings = Rings { doorbells: registers, first: doorbells[queue], stride, submission, completion };
            GatedPair::new(rings, patience)
        };
        let (Some(polled), Some(interrupting)) = (pair(0), pair(1)) else { return Err(nonsense()) };
        let accesses = (0..u64::from(BUFFERS)).map(|number| {
            let page = buffers_at + number * PAGE_BYTES as u64;
            let transfer = Transfer::in_pages(&[page], 0, PAGE_BYTES as u32)?;
            Some([namespace.reads(&transfer)?, namespace.writes(&transfer)?])
        });
        let accesses = accesses.collect::<Option<Vec<_>>>().ok_or_else(nonsense)?;
        Ok(InUse { namespace, pairs: [polled, interrupting], accesses, page_shift })
    }
}

/// A command as it was sent before.
#[cold]
fn again(namespace: &Namespace, accesses: &[[Access; 2]], sent: &Sent) -> Command {
    let both = sent.buffer.as_ref().and_then(|buffer| accesses.get(usize::from(buffer.number)));
    let access = both.zip(sent.operation).and_then(|(both, operation)| both.get(operation as usize));
    // What is no access, is a flush.
    access.and_then(|access| access.at(sent.block)).unwrap_or(namespace.flush())
}

impl Storage {
    /// Pages of the namespace.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.space.namespace.blocks >> self.space.page_shift
    }

    /// How ends are learnt of; by interrupts, if nothing was chosen.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.looks.mode()
    }

    /// Chooses how ends are learnt of, at any time: of what is begun by [`Storage::queue`] from now on.
    pub fn set_mode(&mut self, mode: Mode) {
        self.looks = Looks::new(mode);
    }

    /// The queue pair that suits the mode.
    #[must_use]
    pub fn queue(&self) -> Queue {
        match self.mode() {
            Mode::Polled => Queue::Polled,
            Mode::Interrupt | Mode::Adaptive { .. } => Queue::Interrupting,
        }
    }

    /// To be called after a look for ends in that queue pair, with whether it found any: what to do next, by
    /// [`Storage::halt`] or [`Storage::wait`] if it is to sleep.
    #[inline]
    pub fn looked(&mut self, found: bool) -> Next {
        self.looks.looked(found)
    }

    /// A buffer that nobody has; there are [`BUFFERS`].
    pub fn buffer(&mut self) -> Option<Buffer> {
        self.buffers.pop()
    }

    /// A buffer is not needed any more.
    pub fn give(&mut self, buffer: Buffer) {
        self.buffers.push(buffer);
    }

    /// Begins to read or write a page; the function hears of it at the next [`Storage::ring`]. `token` comes back with its
    /// end.
    ///
    /// # Errors
    /// [`Refused`], and the buffer.
    #[inline]
    pub fn begin(
        &mut self,
        queue: Queue,
        operation: Operation,
        page: u64,
        buffer: Buffer,
        token: u64,
    ) -> Result<(), (Refused, Buffer)> {
        let access = self.space.accesses.get(usize::from(buffer.number)).and_then(|both| both.get(operation as usize));
        let block = page.checked_shl(self.space.page_shift).filter(|block| block >> self.space.page_shift == page);
        let found = access.zip(block).and_then(|(access, block)| Some((block, access.at(block)?)));
        let Some((block, command)) = found else { return Err((Refused::Beyond, buffer)) };
        let sent = Sent { token, block, operation: Some(operation), buffer: Some(buffer) };
        match self.space.pairs[queue as usize].submit(&command, sent) {
            Ok(()) => Ok(()),
            // It had one.
            Err((_, Sent { buffer: Some(buffer), .. })) => Err((Refused::Full, buffer)),
            Err((_, Sent { buffer: None, .. })) => Ok(()),
        }
    }

    /// Begins to bring what was written before to the medium. False if the queue is full.
    pub fn flush(&mut self, queue: Queue, token: u64) -> bool {
        let command = self.space.namespace.flush();
        self.space.pairs[queue as usize]
            .submit(&command, Sent { token, block: 0, operation: None, buffer: None })
            .is_ok()
    }

    /// Tells the function of all commands so far: one register write, or none if it knows them.
    #[inline]
    pub fn ring(&mut self, queue: Queue) {
        self.space.pairs[queue as usize].ring();
    }

    /// The next command that ended; to be called until there is none, and whenever a sleep has ended.
    #[inline]
    pub fn ended(&mut self, queue: Queue) -> Option<Ended> {
        let InUse { namespace, pairs, accesses, .. } = &mut self.space;
        let pair = &mut pairs[queue as usize];
        let Some(done) = pair.completed(clock::now, |sent| again(namespace, accesses, sent)) else {
            if pair.is_closed() || self.reminds {
                self.remind();
            }
            return None;
        };
        let Sent { token, buffer, .. } = done.token;
        Some(Ended { token, buffer, status: done.status })
    }

    /// Has the application woken when a command that is held is to be sent: nobody else does that.
    #[cold]
    fn remind(&mut self) {
        let due = self.space.pairs.iter().filter_map(Pair::due).min();
        self.reminds = due.is_some();
        own_device::remind(due);
    }

    /// Impossible ends so far.
    #[must_use]
    pub fn faults(&self) -> u32 {
        self.space.pairs.iter().fold(0, |sum, pair| sum.wrapping_add(pair.faults()))
    }

    /// Tells the function what was taken only once there is so much of it, in a queue that is polled.
    pub fn set_acknowledge_batch(&mut self, ends: u32) {
        self.space.pairs[Queue::Polled as usize].set_acknowledge_batch(ends);
    }

    /// Halts on the core, which stays this VM's and is charged, until the second queue pair has interrupted, if it has not
    /// since the last call, or anybody else has. No exit. Look for ends before the next call.
    pub fn halt(&mut self) {
        own_device::halt();
    }

    /// Gives the core up until the second queue pair has interrupted, something has happened in the market, which is
    /// returned, or the TSC has reached `deadline` (0: never). Look for ends before the next call.
    ///
    /// # Errors
    /// When the market is gone.
    pub fn wait(&mut self, app: &mut App, deadline: u64) -> Result<Option<market::Event>, Error> {
        own_device::wait(app, deadline)
    }

    /// Gives up what is under way, after [`crate::market::Event::StorageLost`], and takes the buffers back: the queues are
    /// dead. Returns the tokens of what did not end.
    pub fn lose(&mut self) -> Vec<u64> {
        let mut lost = Vec::new();
        for pair in &mut self.space.pairs {
            while let Some(Sent { token, buffer, .. }) = pair.reclaim() {
                lost.push(token);
                self.buffers.extend(buffer);
            }
        }
        self.remind();
        lost
    }

    /// Takes new queues into use, after [`crate::market::Event::StorageRenewed`] and [`Storage::lose`]. What was in the
    /// namespace before is gone.
    ///
    /// # Errors
    /// When what the market says of it cannot be.
    pub fn renew(&mut self, space: &Space) -> Result<(), Error> {
        // Nothing ends before a doorbell is rung.
        (0..self.rings.words()).for_each(|word| self.rings.store(word, 0));
        self.space = InUse::new(space, self.rings, self.buffers_at, self.patience)?;
        Ok(())
    }
}
