//! Attacks on the market and the servers: floods of requests, grants and output, garbage in rings, leases that are kept or used after
//! their end.

use alloc::vec::Vec;
use cap_spec::abi::{CONSOLE_RING, Error, MARKET_RING, Rights};
use proto::console::ToConsole;
use proto::host::Record;
use proto::market::{Answer, FromMarket, Refusal, RequestBody, Segment};
use proto::start::{LEASE_BASE, RING_STRIDE};
use userlib::cap::{Cap, Channel, Fault, Frame, PageTable, Slot, Untyped, own};
use userlib::{clock, console, println};

use crate::capabilities::{Random, SCRATCH};
use crate::instructions::Tally;
use crate::memory::{UPCALL, read_faults, write_faults};
use crate::tenant::Tenant;

/// The good `page`.
const PAGE: u16 = 0;
/// Pages that the lease attacks hold.
const PAGES: usize = 16;
/// What they bid for a page and interval, 1e-15 credit: far above any reserve price.
const VALUE: u64 = 100_000_000;

/// Writes random words all over the two pages of a ring and wakes the server each time, so that it finds indices and
/// lengths that change under it.
fn garble(ring: u64, seed: u64, rounds: u64, wake: impl Fn()) {
    let mut random = Random(seed);
    let words = RING_STRIDE / 8;
    for round in 0..rounds {
        // First the words at the start, where the indices are; then any.
        let count = if round % 4 == 0 { words } else { 16 };
        for number in 0..count {
            let index = if count == words || random.below(4) == 0 { random.below(words) } else { number };
            let value = match random.below(4) {
                0 => random.below(4096),
                1 => random.below(16),
                2 => u64::MAX - random.below(4096),
                _ => random.word(),
            };
            // SAFETY: the ring's pages are mapped there; what lies in them belongs to nobody's types.
            unsafe { core::ptr::with_exposed_provenance_mut::<u64>((ring + index * 8) as usize).write_volatile(value) };
        }
        wake();
    }
}

/// Garbage in the ring to the console server.
pub fn garble_console(seed: u64, rounds: u64) {
    garble(CONSOLE_RING, seed, rounds, || {
        let _ = own::CONSOLE.signal();
    });
}

/// Garbage in the ring to the market server.
pub fn garble_market(seed: u64, rounds: u64) {
    garble(MARKET_RING, seed, rounds, || {
        let _ = own::MARKET.signal();
    });
}

/// Requests of every kind with random contents, as fast as the ring takes them. Each must be answered, rightly or with
/// a refusal.
pub fn flood(tenant: &mut Tenant, seed: u64, count: u64) -> Tally {
    let mut random = Random(seed);
    let mut tally = Tally::default();
    let mut open = 0u64;
    for _ in 0..count {
        let sent = tenant.ask(random_request(&mut random));
        tally.attempts += 1;
        tally.wrong += u64::from(!sent);
        open += u64::from(sent);
        open -= answers(tenant, open, 0);
    }
    let deadline = clock::now() + tenant.micros(300_000);
    while open > 0 && clock::now() < deadline {
        open -= answers(tenant, open, deadline);
    }
    tally.wrong += open;
    tally
}

/// Grants a frame to both servers, who let nobody do that, and through a channel of its own, again while the first one is
/// in flight; takes it back there, or accepts it and takes it back then. As fast as it can.
///
/// # Errors
/// When there is nothing to grant.
pub fn flood_with_grants(count: u64) -> Result<Tally, Fault> {
    let mut tally = Tally::default();
    let slot = |offset| Slot::root(SCRATCH + offset);
    let frame = own::BASE.retype::<Frame>(12, slot(0))?;
    let channel = own::BASE.retype::<Channel>(0, slot(1))?;
    let other_end = slot(2).mint(channel, Rights::all(), 2)?;
    for round in 0..count {
        let mut grant = |channel: Cap<Channel>, expected: Option<Error>| {
            tally.attempts += 1;
            let answer = channel.grant(frame, Rights::READ | Rights::WRITE).err().map(|fault| fault.error);
            tally.wrong += u64::from(answer != expected);
        };
        for server in [own::MARKET, own::CONSOLE] {
            grant(server, Some(Error::MissingRight));
        }
        grant(channel, None);
        grant(channel, Some(Error::ChannelFull));
        if round % 2 == 0 {
            tally.wrong += u64::from(other_end.accept::<Frame>(slot(3)).is_err());
        }
        tally.wrong += u64::from(frame.revoke().is_err());
        tally.wrong += u64::from(other_end.accept::<Frame>(slot(3)).is_ok());
    }
    Ok(tally)
}

/// Prints numbered lines as fast as the ring takes them.
pub fn flood_with_output(count: u64) -> Tally {
    for number in 0..count {
        println!("flood {number} of {count}: a line that is as long as many lines are, and one of very many");
    }
    Tally { attempts: count, wrong: 0 }
}

/// Asks the console server for everything there is, in any order, as fast as the ring takes it: files that are open,
/// closed or have no name, lines without an end, and what only the market may ask for.
pub fn flood_with_console_requests(seed: u64, count: u64) -> Tally {
    /// Files that it has, more than may be open.
    const FILES: u16 = 12;
    let mut random = Random(seed);
    for _ in 0..count {
        let file = random.below(FILES.into()) as u16;
        let name = ["plain.txt", "", "../above", ".hidden", "a/b"][random.below(5) as usize].into();
        console::request(&match random.below(9) {
            0 => ToConsole::FileBegin { file, name },
            1 => ToConsole::FileData { file, data: alloc::vec![7; random.below(1_100) as usize] },
            2 => ToConsole::FileEnd { file },
            3 => ToConsole::Progress { done: random.word(), total: random.word() },
            4 => ToConsole::Text(if random.below(4) == 0 { "\n".into() } else { "without an end ".into() }),
            5 => ToConsole::PowerOff { value: 0x10 },
            6 => ToConsole::Epoch { tsc: random.word() },
            7 => ToConsole::Hits { hits: random.word(), accesses: random.word() },
            _ => ToConsole::Record(Record::End { t: 0, status: 0, reason: "it is over".into() }),
        });
    }
    // A run in which a file did not arrive whole is none that ended well.
    (0..FILES).for_each(|file| console::request(&ToConsole::FileEnd { file }));
    println!();
    Tally { attempts: count, wrong: 0 }
}

/// Takes the messages that have arrived (waiting for one until `deadline`) and counts the answers among them.
fn answers(tenant: &mut Tenant, open: u64, deadline: u64) -> u64 {
    let mut seen = 0;
    while let Some(message) = tenant.next_message(deadline) {
        seen += u64::from(matches!(message, FromMarket::Answer { .. }));
        if seen == open {
            break;
        }
    }
    seen.min(open)
}

fn random_request(random: &mut Random) -> RequestBody {
    let good = if random.below(8) == 0 { random.word() as u16 } else { random.below(3) as u16 };
    let leases = |random: &mut Random| (0..random.below(64)).map(|_| random.word() as u32).collect::<Vec<u32>>();
    match random.below(8) {
        0 | 1 => {
            let segments = random.below(12);
            let segment = |_| Segment { quantity: random.word() as u32, value: random.word() };
            RequestBody::Bid {
                good,
                curve: (0..segments).map(segment).collect(),
                keep: random_amount(segments),
                max_payment: u64::MAX,
                valid_until: u64::MAX,
                block_bits: segments as u8 * 5,
            }
        }
        2 => RequestBody::Desk { good, quantity: random.word() as u32 },
        3 => RequestBody::Release { good, leases: leases(random), quantity: random.word() as u32 },
        4 => RequestBody::GiveUp { leases: leases(random) },
        5 => RequestBody::Explain { good, round: random.word() },
        6 => RequestBody::Estimate { good, quantity: random.word() as u32 },
        _ => RequestBody::Statement { from: random.word() },
    }
}

/// Zero, something, or the most there is.
fn random_amount(number: u64) -> u64 {
    [0, 1 << 40, u64::MAX][number as usize % 3]
}

/// A lease that was accepted and mapped.
struct Held {
    lease: u32,
    address: u64,
    block: Slot,
}

/// Leases of one page each.
struct Holder<'a> {
    tenant: &'a mut Tenant,
    held: Vec<Held>,
    /// Leases that the market says it has taken.
    taken: Vec<u32>,
}

impl<'a> Holder<'a> {
    /// Makes the tables for the window of leased memory.
    fn new(tenant: &'a mut Tenant) -> Result<Holder<'a>, Fault> {
        for (offset, level) in [(0, 2), (1, 1)] {
            own::BASE.retype::<PageTable>(0, Slot::root(SCRATCH + offset))?.map(own::VM, LEASE_BASE, level)?;
        }
        Ok(Holder { tenant, held: Vec::new(), taken: Vec::new() })
    }

    fn bid(&mut self, pages: u32) -> bool {
        let curve = if pages == 0 { Vec::new() } else { [Segment { quantity: pages, value: VALUE }].into() };
        self.tenant.ask(RequestBody::Bid {
            good: PAGE,
            curve,
            keep: 0,
            max_payment: u64::MAX,
            valid_until: u64::MAX,
            block_bits: 12,
        })
    }

    /// Takes messages until there is none before `deadline` or `done` says so.
    fn listen(&mut self, deadline: u64, done: impl Fn(&Holder<'_>) -> bool) -> Result<(), Fault> {
        while !done(self) {
            match self.tenant.next_message(deadline) {
                None => break,
                Some(FromMarket::Lease { lease, bits: 12, .. }) => self.accept(lease)?,
                Some(FromMarket::Taken { leases }) => self.taken.extend(leases),
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn accept(&mut self, lease: u32) -> Result<(), Fault> {
        let number = self.held.len() as u16;
        let block = Slot::root(SCRATCH + 8 + 2 * number);
        let address = LEASE_BASE + u64::from(number) * 4096;
        own::MARKET.accept::<Untyped>(block)?;
        own::MARKET.signal()?;
        let frame: userlib::cap::Cap<Frame> = block.cap::<Untyped>().retype(12, block.after(1))?;
        frame.map(own::VM, address, Rights::READ | Rights::WRITE)?;
        // SAFETY: the page has just been mapped there, and nothing else is.
        unsafe { core::ptr::with_exposed_provenance_mut::<u64>(address as usize).write_volatile(address) };
        self.held.push(Held { lease, address, block });
        Ok(())
    }

    /// Buys [`PAGES`] pages.
    fn fill(&mut self) -> Result<bool, Fault> {
        let sent = self.bid(PAGES as u32);
        let deadline = clock::now() + self.tenant.micros(1_500_000);
        self.listen(deadline, |holder| holder.held.len() >= PAGES)?;
        Ok(sent && self.held.len() >= PAGES)
    }

    /// Gives all back, and waits until the market says so. The capabilities and mappings are left as they are.
    fn release(&mut self) -> bool {
        let leases: Vec<u32> = self.held.iter().map(|held| held.lease).collect();
        let quantity = leases.len() as u32;
        if !self.bid(0) || !self.tenant.ask(RequestBody::Release { good: PAGE, leases, quantity }) {
            return false;
        }
        let number = self.tenant.last_number();
        let deadline = clock::now() + self.tenant.micros(500_000);
        loop {
            match self.tenant.next_message(deadline) {
                None => return false,
                Some(FromMarket::Answer { number: answered, body }) if answered == number => {
                    return matches!(body, Answer::Done);
                }
                Some(_) => {}
            }
        }
    }

    /// Touches every page: those that are gone must fault, the others must hold what was written.
    fn touch(&self, gone: impl Fn(&Held) -> bool, tally: &mut Tally) {
        for held in &self.held {
            if gone(held) {
                tally.expect(&[Some(UPCALL)], read_faults(held.address));
                tally.expect(&[Some(UPCALL)], write_faults(held.address));
            } else {
                tally.attempts += 1;
                // A page that goes in this very moment faults, which is as right as finding it there.
                tally.wrong += u64::from(read_faults(held.address).is_some_and(|vector| vector != UPCALL));
            }
        }
    }
}

/// Holds leases, loses all of them by bidding no more, and ignores the notice: uses them until they are taken by force,
/// and afterwards.
pub fn ignore_every_notice(tenant: &mut Tenant) -> Result<Tally, Fault> {
    own::VCPU.set_upcall(UPCALL, 0)?;
    let mut tally = Tally::default();
    let mut holder = Holder::new(tenant)?;
    tally.wrong += u64::from(!holder.fill()?);
    tally.wrong += u64::from(!holder.bid(0));
    let deadline = clock::now() + holder.tenant.micros(1_500_000);
    while holder.taken.len() < holder.held.len() && clock::now() < deadline {
        let soon = clock::now() + holder.tenant.micros(2_000);
        let before = holder.taken.len();
        holder.listen(soon, |holder| holder.taken.len() > before)?;
        holder.touch(|held| holder.taken.contains(&held.lease), &mut tally);
    }
    tally.wrong += u64::from(holder.taken.len() < PAGES);
    holder.touch(|_| true, &mut tally);
    Ok(tally)
}

/// Gives leases back and goes on using them; then uses the capabilities that it had in them.
pub fn use_after_release(tenant: &mut Tenant) -> Result<Tally, Fault> {
    own::VCPU.set_upcall(UPCALL, 0)?;
    let mut tally = Tally::default();
    let mut holder = Holder::new(tenant)?;
    tally.wrong += u64::from(!holder.fill()? || !holder.release());
    holder.touch(|_| true, &mut tally);
    for held in &holder.held {
        let frame = held.block.after(1).cap::<Frame>();
        for outcome in [
            frame.map(own::VM, held.address, Rights::READ),
            held.block.cap::<Untyped>().retype::<Frame>(12, Slot::root(SCRATCH + 2)).map(drop),
            Slot::root(SCRATCH + 3).copy(frame, Rights::READ).map(drop),
        ] {
            tally.attempts += 1;
            tally.wrong += u64::from(outcome.is_ok());
        }
    }
    Ok(tally)
}

/// Addresses of pages that it had as leases and gave back; none if that failed.
pub fn released_pages(tenant: &mut Tenant) -> Result<Vec<u64>, Fault> {
    let mut holder = Holder::new(tenant)?;
    let done = holder.fill()? && holder.release();
    let addresses = holder.held.iter().map(|held| held.address);
    Ok(if done { addresses.collect() } else { Vec::new() })
}

/// Asks for pages by every means and accepts none of what is delivered.
pub fn never_accept(tenant: &mut Tenant) -> Result<Tally, Fault> {
    let mut tally = Tally::default();
    let mut holder = Holder::new(tenant)?;
    tally.wrong += u64::from(!holder.bid(PAGES as u32));
    let until = clock::now() + holder.tenant.micros(400_000);
    while clock::now() < until {
        tally.attempts += 1;
        if let Some(FromMarket::Answer { body: Answer::Refused(refusal), .. }) =
            holder.tenant.next_message(clock::now() + holder.tenant.micros(10_000))
        {
            tally.wrong += u64::from(refusal == Refusal::Malformed);
        }
    }
    Ok(tally)
}
