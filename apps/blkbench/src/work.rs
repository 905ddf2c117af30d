//! Operations at a queue depth: which page is next, what is under way, and what it costs.

use crate::content::{fill, holds};
use alloc::vec::Vec;
use userlib::draw::Draw;
use userlib::storage::{Buffer, Mode, Next, Operation, PAGE_BYTES, Space, Storage};
use userlib::usage::{Exits, device_interrupts, exits};
use userlib::{Error, clock};

/// Seconds after which a command counts as lost.
const LOST_S: u64 = 10;

/// In which order pages come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One behind the other, and from the beginning again.
    Sequential,
    /// Anyhow.
    Random,
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// How ends are learnt of.
    pub mode: Mode,
    /// Most that is under way.
    pub depth: usize,
    /// Reading or writing.
    pub operation: Operation,
    /// Which pages.
    pub order: Order,
    /// How many.
    pub operations: u64,
}

/// What it cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// For beginning commands.
    pub begin: Part,
    /// For taking their ends, without the waiting.
    pub end: Part,
    /// Exits meanwhile, waiting included.
    pub exits: Exits,
    /// Interrupts that were taken meanwhile.
    pub interrupts: u64,
}

/// Ticks of the parts of work that were not preempted, and of how many operations they are. By the instruction clock a tick is
/// an instruction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part {
    ticks: u64,
    operations: u64,
}

impl Part {
    /// Ticks of one operation.
    #[must_use]
    pub fn each(self) -> u64 {
        self.ticks.checked_div(self.operations).unwrap_or(0)
    }
}

/// A stopwatch that notices when the core was taken meanwhile.
struct Watch {
    preemptions: u64,
    start: u64,
}

impl Watch {
    fn start() -> Watch {
        let preemptions = exits().preemptions;
        Watch { preemptions, start: clock::now() }
    }

    fn stop(self, part: &mut Part, operations: usize) {
        let ticks = clock::now() - self.start;
        if exits().preemptions == self.preemptions {
            part.ticks += ticks;
            part.operations += operations as u64;
        }
    }
}

/// What is done when a look has found no end.
pub type Rest<'a> = dyn FnMut(&mut Storage, Next) -> Result<(), Error> + 'a;

/// Keeps the core.
pub fn hold(storage: &mut Storage, next: Next) -> Result<(), Error> {
    match next {
        Next::Look => core::hint::spin_loop(),
        Next::Sleep => storage.halt(),
    }
    Ok(())
}

/// A namespace, what each page of it must hold, and buffers.
#[derive(Debug)]
pub struct Bench {
    /// The namespace.
    pub storage: Storage,
    /// How often each page was written; none: contents are not looked at.
    pub versions: Option<Vec<u32>>,
    /// Pages that are used.
    pub pages: u64,
    spare: Vec<Buffer>,
    draw: Draw,
    hz: u64,
}

impl Bench {
    /// For the first pages of a namespace, all of which are zero if their contents are looked at.
    pub fn new(mut storage: Storage, pages: u64, looks: bool, hz: u64) -> Bench {
        let pages = pages.min(storage.pages());
        let spare = core::iter::from_fn(|| storage.buffer()).collect();
        let versions = looks.then(|| alloc::vec![0; pages as usize]);
        Bench { storage, versions, pages, spare, draw: Draw(1), hz }
    }

    /// Does work, and checks what is read. `rest` passes the time while nothing has ended.
    ///
    /// # Errors
    /// When a command fails, does not end, or brings what was never written there; and what `rest` says.
    pub fn run(&mut self, work: &Work, rest: &mut Rest<'_>) -> Result<Cost, Error> {
        let (mut begun, mut ended, mut cost) = (0, 0, Cost::default());
        let mut under_way: Vec<u64> = Vec::with_capacity(work.depth);
        let (before, interrupts) = (exits(), device_interrupts());
        self.storage.set_mode(work.mode);
        let queue = self.storage.queue();
        while ended < work.operations {
            // What is to be begun is prepared first, so that only the driver's part is counted.
            let mut batch: Vec<(u64, Buffer)> = Vec::with_capacity(work.depth);
            while begun < work.operations && under_way.len() < work.depth {
                let Some(page) = self.next(work, begun, &under_way) else { break };
                let Some(mut buffer) = self.spare.pop() else { break };
                self.prepare(work.operation, page, &mut buffer);
                batch.push((page, buffer));
                under_way.push(page);
                begun += 1;
            }
            let operations = batch.len();
            let watch = Watch::start();
            // Emptied, and freed only when the watch has stopped.
            for (page, buffer) in batch.drain(..) {
                let taken = self.storage.begin(queue, work.operation, page, buffer, page);
                taken.map_err(|(why, _)| Error::failed(alloc::format!("page {page} was not taken: {why:?}")))?;
            }
            self.storage.ring(queue);
            watch.stop(&mut cost.begin, operations);
            let mut done = Vec::with_capacity(work.depth);
            self.take(&mut done, &mut cost.end, rest)?;
            for (page, buffer) in done {
                self.look(work.operation, page, &buffer)?;
                under_way.retain(|&other| other != page);
                self.spare.push(buffer);
                ended += 1;
            }
        }
        cost.exits = exits().since(before);
        cost.interrupts = device_interrupts().wrapping_sub(interrupts);
        Ok(cost)
    }

    /// The next page: one that is not under way, as order among commands is nobody's promise.
    fn next(&mut self, work: &Work, begun: u64, under_way: &[u64]) -> Option<u64> {
        let page = match work.order {
            Order::Sequential => begun % self.pages,
            Order::Random => {
                let drawn = self.draw.below(self.pages);
                (0..self.pages).map(|step| (drawn + step) % self.pages).find(|page| !under_way.contains(page))?
            }
        };
        (!under_way.contains(&page)).then_some(page)
    }

    /// There are new queues, in a namespace with nothing but zeroes; nothing is under way any more.
    ///
    /// # Errors
    /// When what is said of it cannot be.
    pub fn renew(&mut self, space: &Space) -> Result<(), Error> {
        self.storage.lose();
        self.storage.renew(space)?;
        // Those of a batch that was given up are with the storage.
        self.spare.extend(core::iter::from_fn(|| self.storage.buffer()));
        self.versions.iter_mut().flatten().for_each(|version| *version = 0);
        Ok(())
    }

    fn prepare(&mut self, operation: Operation, page: u64, buffer: &mut Buffer) {
        let Some(version) = self.versions.as_mut().and_then(|versions| versions.get_mut(page as usize)) else { return };
        match operation {
            Operation::Write => {
                *version += 1;
                let version = *version;
                buffer.write(|bytes| fill(bytes, page, version));
            }
            // What is not written by the read must not look right.
            Operation::Read => buffer.write(|bytes| bytes.fill(0xa5)),
        }
    }

    fn look(&self, operation: Operation, page: u64, buffer: &Buffer) -> Result<(), Error> {
        let version = self.versions.as_ref().and_then(|versions| versions.get(page as usize));
        let is_right = match (operation, version) {
            (Operation::Read, Some(&version)) => {
                buffer.read(|bytes| bytes.len() == PAGE_BYTES && holds(bytes, page, version))
            }
            _ => true,
        };
        if is_right { Ok(()) } else { Err(Error::failed(alloc::format!("page {page} is not what was written there"))) }
    }

    /// Waits for ends, and takes all that there are.
    fn take(&mut self, done: &mut Vec<(u64, Buffer)>, part: &mut Part, rest: &mut Rest<'_>) -> Result<(), Error> {
        let queue = self.storage.queue();
        let deadline = clock::now().saturating_add(LOST_S * self.hz);
        loop {
            let watch = Watch::start();
            while let Some(ended) = self.storage.ended(queue) {
                if !ended.status.is_success() {
                    return Err(Error::failed(alloc::format!("page {}: {:?}", ended.token, ended.status)));
                }
                done.extend(ended.buffer.map(|buffer| (ended.token, buffer)));
            }
            if !done.is_empty() {
                watch.stop(part, done.len());
                self.storage.looked(true);
                return Ok(());
            }
            if clock::now() >= deadline {
                return Err(Error::failed("a command does not end"));
            }
            let next = self.storage.looked(false);
            rest(&mut self.storage, next)?;
        }
    }
}
