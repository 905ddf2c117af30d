//! An attacker that has a namespace: commands whose data lie where its function must not reach, and in namespaces of others;
//! commands of every operation code, those of the admin queue among them; then the admin doorbell, which it rings while it revokes everything that it is made of, its page tables among them.
//!
//! With `revoke`, instead, it takes each part of what its function reaches back while the function uses it, and has the
//! memory for something else at once.
//!
//! With `touch`, instead, it touches what is beside the doorbells, of which it was given one page: `registers` reads
//! the page of registers before them, `table-read` and `table-write` the one of the table of messages behind them.
//!
//! It drives the queues that the storage server has made for it by itself, so that it can put anything into a command.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use device::{DmaMemory, IoAddress, Registers};
use guests::capabilities;
use proto::start::{DOORBELLS, STORAGE_SLOT};
use proto::storage::{ENTRIES, QUEUES, SERVER_IO_BASE, Space, WINDOW, page};
use userlib::cap::{Cap, Frame, IommuDomain, PageTable, Rights, Slot, Untyped, own};
use userlib::dma::{MappedMemory, MappedRegisters};
use userlib::{App, Error, clock, println};

userlib::main!(run);

const WRITE: u64 = 1;
const READ: u64 = 2;
const PAGE: u64 = 4096;
/// Pages that the function reaches: the rings, and two for data.
const PAGES: u16 = 2 * QUEUES as u16 + 2;
const DATA: u64 = WINDOW + 2 * QUEUES as u64 * PAGE;
const BOTH: Rights = Rights::READ.union(Rights::WRITE);
/// What the data pages hold.
const PATTERN: u64 = 0x6e6b_6e6b_6e6b_6e6b;
/// Operation codes that the NVM command set has (NVM Command Set Specification, 3.2, and Base Specification, 7): flush, write,
/// read, compare, write zeroes, dataset management, verify, copy.
const OF_NAMESPACES: [u64; 8] = [FLUSH, WRITE, READ, 0x05, 0x08, 0x09, 0x0c, 0x19];
const FLUSH: u64 = 0;
/// An admin command: attaches a namespace to controllers, or detaches it.
const NAMESPACE_ATTACHMENT: u64 = 0x15;
/// The namespace identifier that means all of them.
const EVERY_NAMESPACE: u32 = u32::MAX;
/// The storage server's pages that the function reaches.
const ADMIN_PAGES: [u64; 3] = [page::SUBMISSION, page::COMPLETION, page::DATA];
/// The page of its namespace in which it keeps [`PATTERN`], and the one that commands of every kind are aimed at.
const KEPT: u64 = 16;
const AIMED_AT: u64 = 4;
/// The part that commands are put into.
const RINGS: &str = "the rings";
/// Microseconds after which whatever was stopped has been told: more than the kernel ever waits before it looks again.
const TOLD_US: u64 = 140_000;
/// Seconds after which a command counts as lost.
const LOST_S: u64 = 2;

/// A command: operation code, namespace, two addresses, and bytes from a block on.
struct Command {
    opcode: u64,
    namespace: u32,
    first: u64,
    second: u64,
    block: u64,
    bytes: u64,
}

/// The queue that does not interrupt, commands that were made so far, and those that ended as they must not.
struct Attack {
    doorbells: MappedRegisters,
    submission: MappedMemory,
    completion: MappedMemory,
    /// Commands ever put in, and ended.
    put: u32,
    taken: u32,
    space: Space,
    attempts: u32,
    wrong: u32,
    hz: u64,
}

impl Attack {
    /// Puts a command into the ring (Base Specification, 3.3.3.1; NVM Command Set Specification, 3.2).
    fn submit(&mut self, command: &Command) {
        let Command { opcode, namespace, first, second, block, bytes } = *command;
        let head = opcode | u64::from(self.put & 0xff) << 16 | u64::from(namespace) << 32;
        let blocks = (bytes >> self.space.block_shift).saturating_sub(1);
        let row = (self.put % u32::from(ENTRIES)) as usize;
        self.submission.store_row(row, [head, 0, 0, first, second, block, blocks, 0]);
        self.put += 1;
    }

    fn ring(&self) {
        self.doorbells.write32(self.space.doorbells[0], self.put % u32::from(ENTRIES));
    }

    /// Does one command. `None` if it does not end.
    fn ends_well(&mut self, command: &Command) -> Option<bool> {
        self.attempts += 1;
        self.submit(command);
        self.ring();
        let deadline = clock::now() + LOST_S * self.hz;
        let (entry, round) = (self.taken % u32::from(ENTRIES), self.taken / u32::from(ENTRIES));
        while clock::now() < deadline {
            let word = self.completion.load(2 * entry as usize + 1);
            // The phase is 1 in the first round, and turns with each.
            if (word >> 48) as u32 & 1 != round & 1 {
                self.taken += 1;
                let head = self.space.doorbells[0] + self.space.stride;
                self.doorbells.write32(head, self.taken % u32::from(ENTRIES));
                return Some(word >> 49 & 0x7ff == 0);
            }
            core::hint::spin_loop();
        }
        None
    }

    fn expect(&mut self, what: &str, command: &Command, wanted: bool) {
        let ended = self.ends_well(command);
        if ended != Some(wanted) {
            self.wrong += 1;
            println!("{what}: {ended:?}");
        }
    }

    fn expect_end(&mut self, what: &str, command: &Command) {
        if self.ends_well(command).is_none() {
            self.wrong += 1;
            println!("{what}: it does not end");
        }
    }

    /// Reads back what was written into its namespace from an address: nothing but its own bytes, or such as mean nothing.
    fn look_for_bytes(&mut self, address: u64, data: &MappedMemory) {
        for block in [0, PAGE >> self.space.block_shift] {
            let command = Command { block, ..self.command(READ, PAGE, DATA + PAGE, 0) };
            self.expect("reading back", &command, true);
            let page = data.from_page(1);
            let means_something = |word: usize| ![0, u64::MAX, PATTERN].contains(&page.load(word));
            if (0..page.words()).any(means_something) {
                self.wrong += 1;
                println!("bytes came from {address:#x}");
            }
        }
    }

    /// A command in its own namespace.
    fn command(&self, opcode: u64, bytes: u64, first: u64, second: u64) -> Command {
        Command { opcode, namespace: self.space.namespace, first, second, block: 0, bytes }
    }
}

fn run(app: &mut App) -> Result<(), Error> {
    let Some(space) = app.start().storage else { return Err(Error::failed("it has no namespace")) };
    let ((memory, parts), hz) = (map(app)?, app.clock().hz());
    if let Some(touch) = app.arg("touch") {
        touch_beside(touch);
        return Err(Error::failed("it has touched what is beside the doorbells"));
    }
    // SAFETY: the launcher has mapped the page of doorbells there, for as long as the VM lives.
    let doorbells = unsafe { MappedRegisters::new(DOORBELLS, PAGE as u32) };
    let (submission, completion) = (memory, memory.from_page(1));
    let mut attack = Attack { doorbells, submission, completion, put: 0, taken: 0, space, attempts: 0, wrong: 0, hz };
    let data = memory.from_page(2 * QUEUES);
    (0..data.words()).for_each(|word| data.store(word, PATTERN));
    if app.arg("revoke").is_some() {
        return parts.into_iter().try_for_each(|part| revoke_in_use(&mut attack, app, &part));
    }

    windows(&mut attack, app)?;
    addresses(&mut attack, &data);
    namespaces(&mut attack);
    operations(&mut attack, &data);
    attach(&mut attack, &data);
    namespaces(&mut attack);
    let is_whole = (0..data.words() / 2).all(|word| data.load(word) == PATTERN);
    println!("{} commands, {} ended wrongly, data whole: {is_whole}", attack.attempts, attack.wrong);
    if attack.wrong > 0 || !is_whole {
        return Err(Error::failed("an attack succeeded"));
    }
    let rung = ring_admin(&doorbells, app.number("rings", 100));
    println!("the admin doorbell was rung {rung} times");
    app.work_done(1, 1);
    userlib::console::flush(clock::now() + hz);
    // Whoever has just waited might sleep: it runs for some rounds, so that the market sees that it does not run any more.
    let until = clock::now() + hz / 4;
    while clock::now() < until {
        core::hint::spin_loop();
    }
    // Commands are under way, and the admin queue runs, when everything goes.
    let last = attack.command(READ, PAGE, DATA, 0);
    (0..32).for_each(|_| attack.submit(&last));
    attack.ring();
    ring_admin(&doorbells, 8);
    capabilities::revoke_own_base()
}

/// Data outside of what the function reaches, and around its edges. An emulated device says of what the IOMMU has stopped
/// that it was done; so what counts is that nothing came from there, and nothing changed.
fn addresses(attack: &mut Attack, data: &MappedMemory) {
    let admin = |page: u64| SERVER_IO_BASE + page * PAGE;
    let end = DATA + 2 * PAGE;
    let good = attack.command(WRITE, 2 * PAGE, DATA, DATA + PAGE);
    attack.expect("its own pages", &good, true);
    // The page that the admin queue is read from can be read, which shows that it can't be written.
    let command = attack.command(READ, PAGE, admin(page::SUBMISSION), 0);
    attack.expect_end("the admin queue", &command);
    let block = (2 * PAGE) >> attack.space.block_shift;
    for (opcode, address) in [(WRITE, admin(page::SUBMISSION)), (READ, DATA + PAGE)] {
        let command = Command { block, ..attack.command(opcode, PAGE, address, 0) };
        attack.expect("looking at the admin queue", &command, true);
    }
    if data.from_page(1).load(0) == PATTERN {
        attack.wrong += 1;
        println!("the admin queue was written");
    }
    let outside = [
        0,
        PAGE,
        admin(page::SUBMISSION) - PAGE,
        admin(page::VF_END),
        WINDOW - PAGE,
        end,
        (1 << 31) - PAGE,
        1 << 31,
        0xfee0_0000,
        1 << 38,
        (1 << 39) - PAGE,
        1 << 47,
        u64::MAX - 0xfff,
    ];
    for address in outside {
        for opcode in [READ, WRITE] {
            let command = attack.command(opcode, PAGE, address, 0);
            attack.expect_end(&format!("{opcode} at {address:#x}"), &command);
        }
        attack.look_for_bytes(address, data);
    }
    // Beginning or ending on the other side of an edge.
    for (first, second, bytes) in
        [(DATA, end, 2 * PAGE), (WINDOW - PAGE, DATA, 2 * PAGE), (end - 512, end, PAGE), (DATA, 0, 2 * PAGE)]
    {
        let command = attack.command(WRITE, bytes, first, second);
        attack.expect_end(&format!("from {first:#x} to {second:#x}"), &command);
        attack.look_for_bytes(second, data);
    }
    let command = attack.command(WRITE, 3 * PAGE, DATA, end);
    attack.expect("a list that is not there", &command, false);
}

/// Namespaces that it does not have.
fn namespaces(attack: &mut Attack) {
    let own = attack.space.namespace;
    for id in (0..10).chain([u32::MAX - 1, u32::MAX]).filter(|id| *id != own) {
        for opcode in [READ, WRITE] {
            let command = Command { opcode, namespace: id, first: DATA, second: 0, block: 0, bytes: PAGE };
            attack.expect(&format!("{opcode} in namespace {id}"), &command, false);
        }
    }
}

/// Every operation code in its own queue, in namespaces of its own, of others and in all of them, with data where the storage
/// server has the function's admin queues. What is an admin command only is refused; and everything is as it was.
fn operations(attack: &mut Attack, data: &MappedMemory) {
    let block = |page: u64| (page * PAGE) >> attack.space.block_shift;
    let (kept, aimed_at, own) = (block(KEPT), block(AIMED_AT), attack.space.namespace);
    let keep = Command { block: kept, ..attack.command(WRITE, PAGE, DATA, 0) };
    attack.expect("keeping a page", &keep, true);
    let aim = Command { block: aimed_at, ..keep };
    attack.expect("what is read over those queues", &aim, true);
    for opcode in 0..=0xff {
        for namespace in (0..4).chain([EVERY_NAMESPACE]) {
            let is_own = namespace == own && OF_NAMESPACES.contains(&opcode);
            // Whoever flushes all flushes those that it has.
            let may_succeed = is_own || namespace == EVERY_NAMESPACE && opcode == FLUSH;
            // What may succeed is aimed at each page, all else at one of them.
            let pages = if may_succeed { 0..3 } else { opcode % 3..opcode % 3 + 1 };
            for page in pages {
                let first = SERVER_IO_BASE + ADMIN_PAGES[page as usize] * PAGE;
                let command = Command { opcode, namespace, first, second: 0, block: aimed_at, bytes: PAGE };
                let what = format!("operation {opcode:#x} in namespace {namespace:#x}");
                if may_succeed {
                    attack.expect_end(&what, &command);
                } else {
                    attack.expect(&what, &command, false);
                }
            }
        }
    }
    let read_back = Command { block: kept, ..attack.command(READ, PAGE, DATA + PAGE, 0) };
    attack.expect("the page that was kept", &read_back, true);
    let page = data.from_page(1);
    if (0..data.words() / 2).any(|word| page.load(word) != PATTERN) {
        attack.wrong += 1;
        println!("the page that was kept has changed");
    }
}

/// Puts commands into the function's admin queue that attach every namespace to it (Base Specification, 5.2.21), by reading them
/// from its own namespace, and rings. It must not have any of them afterwards.
fn attach(attack: &mut Attack, data: &MappedMemory) {
    let [block, list] = [AIMED_AT, AIMED_AT + 1].map(|page| (page * PAGE) >> attack.space.block_shift);
    let page = data.from_page(1);
    for controller in 1..=4 {
        // A list of one controller.
        (0..page.words().min(PAGE as usize / 8)).for_each(|word| page.store(word, 0));
        page.store(0, 1 | controller << 16);
        let write = Command { block: list, ..attack.command(WRITE, PAGE, DATA + PAGE, 0) };
        attack.expect("the list of controllers", &write, true);
        for row in 0..u64::from(ENTRIES) {
            let head = NAMESPACE_ATTACHMENT | row << 16 | (1 + row % 4) << 32;
            page.store_row(row as usize, [head, 0, 0, SERVER_IO_BASE + page::DATA * PAGE, 0, 0, 0, 0]);
        }
        let write = Command { block, ..write };
        attack.expect("the commands", &write, true);
        for (block, page) in [(list, page::DATA), (block, page::SUBMISSION)] {
            let read = Command { block, ..attack.command(READ, PAGE, SERVER_IO_BASE + page * PAGE, 0) };
            attack.expect_end("forging admin commands", &read);
        }
        ring_admin(&attack.doorbells, 1);
    }
}

/// Its domain is a window of what the function reaches: it can't have anything mapped outside of it.
fn windows(attack: &mut Attack, app: &mut App) -> Result<(), Error> {
    let window: Cap<IommuDomain> = Slot::root(STORAGE_SLOT).cap();
    let mut market = app.market();
    let pager = market.pager();
    let (table, slot) = (pager.make::<PageTable>()?, pager.take_slots(1)?);
    let frame = own::BASE.retype::<Frame>(cap_spec::abi::PAGE_BITS, slot)?;
    let pages = ADMIN_PAGES.map(|page| SERVER_IO_BASE + page * PAGE);
    for address in pages.into_iter().chain([0, SERVER_IO_BASE, WINDOW - PAGE, 2 * WINDOW, 1 << 38, u64::MAX - 0xfff]) {
        attack.attempts += 3;
        let taken = [
            frame.map_io(window, address, BOTH, 0).is_ok(),
            table.map_io(window, address & !0x1f_ffff, 1).is_ok(),
            table.map_io(window, address & !0x3fff_ffff, 2).is_ok(),
        ];
        if taken != [false; 3] {
            attack.wrong += 1;
            println!("mapped at {address:#x}: {taken:?}");
        }
    }
    Ok(())
}

/// Reads where the controller's registers would be, before the doorbells, or touches where the table of messages would
/// be, behind them; without upcalls, which would put zeroes there.
fn touch_beside(what: &str) {
    let _ = own::VCPU.set_upcall(0, 0);
    let page = if what == "registers" { DOORBELLS - PAGE } else { DOORBELLS + PAGE };
    // SAFETY: nothing is mapped there, so that this ends in a fault.
    let registers = unsafe { MappedRegisters::new(page, PAGE as u32) };
    if what == "table-write" {
        registers.write32(0, 0xfee0_0000);
    }
    println!("what is there says {:#x}", registers.read32(0));
}

/// Rings the doorbells of the admin queue.
fn ring_admin(doorbells: &MappedRegisters, times: u64) -> u64 {
    for time in 0..times {
        for value in [time as u32, 1, 0xffff, 0] {
            doorbells.write32(0, value);
        }
        doorbells.write32(4, time as u32);
    }
    times
}

/// Something that the function needs, the memory that it is made of, and the pages of that.
struct Part(&'static str, Cap<Untyped>, u16);

/// Takes a part back while commands are under way and the admin queue runs. The next owner of its memory, which is the
/// attacker itself, finds it clean and keeps what it has there, however often the doorbells are rung.
fn revoke_in_use(attack: &mut Attack, app: &mut App, Part(name, untyped, pages): &Part) -> Result<(), Error> {
    let has_rings = *name != RINGS;
    let mut use_all = |is_there: bool| {
        if is_there {
            let command = attack.command(READ, PAGE, DATA, 0);
            (0..4).for_each(|_| attack.submit(&command));
        }
        attack.ring();
        ring_admin(&attack.doorbells, 8);
    };
    use_all(true);
    untyped.revoke()?;
    use_all(has_rings);
    let mut market = app.market();
    let pager = market.pager();
    let frames = pager.take_slots(*pages)?;
    untyped.retype_many::<Frame>(cap_spec::abi::PAGE_BITS, frames, *pages)?;
    let gpa = pager.map_frames(frames, *pages)?;
    drop(market);
    // SAFETY: just mapped, for this alone.
    let memory = unsafe { MappedMemory::new(gpa, IoAddress(0), usize::from(*pages) * PAGE as usize) };
    let holds = |value: u64| (0..memory.words()).all(|word| memory.load(word) == value);
    let is_clean = holds(0);
    (0..memory.words()).for_each(|word| memory.store(word, PATTERN));
    use_all(has_rings);
    // Until what was stopped is told, however seldom the kernel looks.
    app.sleep_until(app.clock().in_us(TOLD_US));
    println!("{name} revoked in use: memory clean: {is_clean}, then kept: {}", holds(PATTERN));
    Ok(())
}

/// Maps the rings and the data for the VM and, in its window, for the function: each part from an Untyped of its own.
fn map(app: &mut App) -> Result<(MappedMemory, [Part; 4]), Error> {
    let window: Cap<IommuDomain> = Slot::root(STORAGE_SLOT).cap();
    let mut market = app.market();
    let pager = market.pager();
    let mut part = |name, pages: u16| -> Result<Part, Error> {
        let bits = cap_spec::abi::PAGE_BITS + pages.ilog2() as u8;
        let slot = pager.take_slots(1)?;
        Ok(Part(name, own::BASE.retype::<Untyped>(bits, slot)?, pages))
    };
    let (data, leaves) = (part("data", 2)?, part("a table of pages", 1)?);
    let (tables, rings) = (part("a table of tables", 1)?, part(RINGS, 2 * QUEUES as u16)?);
    for (Part(_, untyped, _), level) in [(&tables, 2), (&leaves, 1)] {
        untyped.retype::<PageTable>(0, pager.take_slots(1)?)?.map_io(window, WINDOW, level)?;
    }
    let frames = pager.take_slots(PAGES)?;
    rings.1.retype_many::<Frame>(cap_spec::abi::PAGE_BITS, frames, rings.2)?;
    data.1.retype_many::<Frame>(cap_spec::abi::PAGE_BITS, frames.after(rings.2), data.2)?;
    let gpa = pager.map_frames(frames, PAGES)?;
    let copies = pager.take_slots(PAGES)?;
    for page in 0..PAGES {
        copies.after(page).copy(frames.after(page).cap::<Frame>(), BOTH)?;
    }
    copies.cap::<Frame>().map_io(window, WINDOW, BOTH, u64::from(PAGES) - 1)?;
    // SAFETY: just mapped, for this alone; it stays until everything goes, or is not used any more.
    let memory = unsafe { MappedMemory::new(gpa, IoAddress(WINDOW), usize::from(PAGES) * PAGE as usize) };
    Ok((memory, [data, leaves, tables, rings]))
}
