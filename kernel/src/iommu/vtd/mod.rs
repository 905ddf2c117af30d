//! VT-d: all units of the machine together, and the tables that they share.
//!
//! The functions of segment 0 share one root table, whichever unit they are behind, and all IOAPICs and functions one table
//! of interrupts; every unit is told of every change, so that nobody has to know which one a function is behind. Units of
//! further segments get an empty page as both tables: nothing there reaches memory or raises an interrupt.
//!
//! An entry is changed in this order: its present bit is taken away by one store, the units forget it and say so, then its
//! other word is written, then the word with the present bit. So no unit ever sees half an entry, although an entry has two
//! words (9.3, 9.10: for software that cannot store 128 bits at once).

mod registers;
mod tables;
#[cfg(test)]
mod tests;
mod unit;

pub use registers::{Missing, REGISTER_BYTES};
pub use tables::{message, redirection};
pub use unit::{QUEUE_BYTES, turn_off};

use super::{Bus, Completed, Delivery, DomainNumber, Failure, FaultRecord, INTERRUPTS, Limits, Requester, Signal};
use crate::firmware::acpi::MAX_UNITS;
use crate::types::{Hpa, Ticks};
use heapless::Vec;
use tables::{ADDRESS, Forget, PRESENT, context_entry, domain_of, interrupt_entry, root_entry};
use unit::{Lost, Pointers, Unit};

/// Bytes of a root table, of a context table and of the empty page.
pub const TABLE_BYTES: u64 = 4096;
/// Bytes of an entry of any table.
const ENTRY: u64 = 16;
/// Bytes of the interrupt remapping table.
pub const INTERRUPT_BYTES: u64 = INTERRUPTS as u64 * ENTRY;
/// Bytes of a line of the processors' caches.
const LINE: u64 = 64;
/// Bytes for the status words of all units, a line each.
pub const STATUS_BYTES: u64 = MAX_UNITS as u64 * LINE;
/// log2 of the entries of the empty page as a table of interrupts.
const EMPTY_ORDER: u32 = 8;

const _: () = assert!(INTERRUPTS.is_power_of_two() && (STATUS_BYTES as usize) <= 4096);

/// Memory for the units: zero, page-aligned, nobody else's, for ever.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// Root table: [`TABLE_BYTES`].
    pub root: Hpa,
    /// A page that stays empty.
    pub empty: Hpa,
    /// Interrupt remapping table: [`INTERRUPT_BYTES`].
    pub interrupts: Hpa,
    /// Queues: [`QUEUE_BYTES`] for each unit.
    pub queues: Hpa,
    /// [`STATUS_BYTES`].
    pub status: Hpa,
}

/// Why the units stay off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaysOff {
    /// The unit of this number lacks something.
    Missing(usize, Missing),
    /// The unit of this number did not come on.
    Failed(usize, Failure),
}

/// The units.
#[derive(Debug)]
pub struct Vtd<B> {
    bus: B,
    tables: Tables,
    units: Vec<Unit, MAX_UNITS>,
    /// All look into the processors' caches when they read tables.
    coherent: bool,
    overflows: u32,
    /// The unit whose records are looked at next.
    next_taken: usize,
}

impl<B: Bus> Vtd<B> {
    /// Turns on all units of a machine, which are off, with every function blocked and no interrupt but those of entries
    /// that will be set. `segments`: of each unit, in the bus's order; at most [`MAX_UNITS`]. `contexts`: a context table
    /// (as [`Tables`]) for each bus of segment 0 on which functions will be attached. `patience`: how long a unit may take
    /// for anything before it is dead. What they stop is told to `fault_apic_id` by an NMI.
    ///
    /// # Errors
    /// When a unit lacks something, or does not come on: then some may be on, and all are to be turned off.
    pub fn turn_on(
        bus: B,
        tables: Tables,
        segments: impl IntoIterator<Item = u16>,
        contexts: impl IntoIterator<Item = (u8, Hpa)>,
        patience: Ticks,
        fault_apic_id: u32,
    ) -> Result<Vtd<B>, StaysOff> {
        let mut vtd = Vtd { bus, tables, units: Vec::new(), coherent: true, overflows: 0, next_taken: 0 };
        let mut in_first = [false; MAX_UNITS];
        for ((number, segment), first) in segments.into_iter().enumerate().zip(&mut in_first) {
            let (queue, status) = (number as u64 * QUEUE_BYTES, number as u64 * LINE);
            let unit = Unit::new(&vtd.bus, number, tables.queues.plus(queue), tables.status.plus(status), patience);
            let unit = unit.map_err(|missing| StaysOff::Missing(number, missing))?;
            vtd.coherent &= unit.capabilities.coherent;
            *first = segment == 0;
            // As many as `in_first` has.
            let _ = vtd.units.push(unit);
        }
        for (table, bytes) in
            [(tables.root, TABLE_BYTES), (tables.empty, TABLE_BYTES), (tables.interrupts, INTERRUPT_BYTES)]
        {
            vtd.write_back(table, bytes);
        }
        for (number, table) in contexts {
            vtd.write_back(table, TABLE_BYTES);
            vtd.set(tables.root.plus(u64::from(number) * ENTRY), root_entry(table));
        }
        let shared = Pointers {
            root: tables.root,
            interrupts: tables.interrupts,
            interrupts_order: INTERRUPTS.trailing_zeros(),
            fault_apic_id,
        };
        let empty =
            Pointers { root: tables.empty, interrupts: tables.empty, interrupts_order: EMPTY_ORDER, fault_apic_id };
        for (number, (unit, first)) in vtd.units.iter_mut().zip(in_first).enumerate() {
            let turned = unit.turn_on(&mut vtd.bus, if first { &shared } else { &empty });
            turned.map_err(|failure| StaysOff::Failed(number, failure))?;
        }
        Ok(vtd)
    }

    /// The time by which the units' patience is measured.
    pub fn now(&self) -> Ticks {
        self.bus.now()
    }

    /// What all units can do. Without a unit, nothing.
    pub fn limits(&self) -> Limits {
        let all = |can: fn(&Unit) -> bool| !self.units.is_empty() && self.units.iter().all(can);
        Limits {
            domains: self.units.iter().map(|unit| unit.capabilities.domains).min().unwrap_or(0),
            three_levels: all(|unit| unit.capabilities.three_levels),
            four_levels: all(|unit| unit.capabilities.four_levels),
            leaf_level: self.units.iter().map(|unit| unit.capabilities.leaf_level).min().unwrap_or(1),
            remembers_absence: self.units.iter().any(|unit| unit.capabilities.remembers_absence),
        }
    }

    /// True if a function of segment 0 can be attached: its bus has a table.
    pub fn reaches(&self, function: Requester) -> bool {
        self.context(function).is_some()
    }

    /// The domain that a function is attached to.
    pub fn domain(&self, function: Requester) -> Option<DomainNumber> {
        let entry = self.context(function)?;
        let present = self.bus.word(entry) & PRESENT != 0;
        present.then(|| domain_of(self.bus.word(entry.plus(8))))
    }

    /// Where the context entry of a function is.
    fn context(&self, function: Requester) -> Option<Hpa> {
        let [bus, place] = function.get().to_be_bytes();
        let root = self.bus.word(self.tables.root.plus(u64::from(bus) * ENTRY));
        (root & PRESENT != 0).then(|| Hpa::new(root & ADDRESS).plus(u64::from(place) * ENTRY))
    }

    /// Lets a function reach by DMA what a domain's tables map; what it was attached to before it reaches no more.
    /// `levels`: 3 or 4, as the limits allow; `root`: the table of the highest level.
    ///
    /// # Errors
    /// `OutOfRange` if the limits do not allow it or [`Vtd::reaches`] says no. After another failure the function may reach
    /// the domain, or what it was attached to.
    pub fn attach(
        &mut self,
        function: Requester,
        domain: DomainNumber,
        root: Hpa,
        levels: u8,
    ) -> Result<Completed, Failure> {
        let limits = self.limits();
        let fits = match levels {
            3 => limits.three_levels,
            4 => limits.four_levels,
            _ => false,
        };
        let entry = self.context(function).ok_or(Failure::OutOfRange)?;
        if !fits || domain.get() == 0 || domain.get() > limits.domains {
            return Err(Failure::OutOfRange);
        }
        let done = self.detach(function)?;
        self.set(entry, context_entry(domain, root, levels));
        if !limits.remembers_absence {
            return Ok(done);
        }
        // What is not present is cached under number 0 (6.1).
        let _ = self.forget(Forget::Context(DomainNumber::new(0), function))?;
        self.forget(Forget::Domain(domain))
    }

    /// Blocks a function: when this returns, its DMA reaches nothing, and none is in flight. Also what else the units cached
    /// of its domain is gone.
    ///
    /// # Errors
    /// `OutOfRange` if [`Vtd::reaches`] says no: it is blocked. After another failure it may go on to reach its domain.
    pub fn detach(&mut self, function: Requester) -> Result<Completed, Failure> {
        let entry = self.context(function).ok_or(Failure::OutOfRange)?;
        let Some(domain) = self.domain(function) else { return self.alive() };
        self.block(entry);
        // Contexts first, and done: a unit could look translations up again by what it has cached of them (6.5.2).
        let _ = self.forget(Forget::Context(domain, function))?;
        self.forget(Forget::Domain(domain))
    }

    /// Makes the units forget every translation of a domain.
    ///
    /// # Errors
    /// After a failure its functions may reach what is not mapped any more.
    pub fn flush_domain(&mut self, domain: DomainNumber) -> Result<Completed, Failure> {
        self.forget(Forget::Domain(domain))
    }

    /// Makes the units forget the translations of a range of a domain, tables included: `pages` pages of 4 KiB from `address`
    /// on, and maybe more.
    ///
    /// # Errors
    /// As [`Vtd::flush_domain`].
    pub fn flush_range(&mut self, domain: DomainNumber, address: u64, pages: u64) -> Result<Completed, Failure> {
        let last = pages.saturating_sub(1).saturating_mul(4096).saturating_add(address);
        // The smallest aligned block of 2^order pages that has the first and the last page.
        let order = u64::BITS.saturating_sub(((address ^ last) >> 12).leading_zeros()) as u8;
        let allowed = |unit: &Unit| unit.capabilities.page_selective.is_some_and(|largest| order <= largest);
        if !self.units.iter().all(allowed) {
            return self.flush_domain(domain);
        }
        let address = address & !(4096u64.wrapping_shl(order.into()).wrapping_sub(1));
        self.forget(Forget::Pages { domain, address, order })
    }

    /// Says what the messages that name an entry raise, or that nothing is. When this returns, no message in flight is
    /// delivered as the entry said before.
    ///
    /// # Errors
    /// `OutOfRange` for an entry from [`INTERRUPTS`] on, and for a vector below 16, which no unit delivers. After another
    /// failure messages may go on to raise what they did.
    pub fn set_interrupt(&mut self, entry: u16, delivery: Option<Delivery>) -> Result<Completed, Failure> {
        let legal = |delivery: Delivery| !matches!(delivery.signal, Signal::Vector(0..16));
        if entry >= INTERRUPTS || !delivery.is_none_or(legal) {
            return Err(Failure::OutOfRange);
        }
        let at = self.tables.interrupts.plus(u64::from(entry) * ENTRY);
        let done = self.alive()?;
        let before = [self.bus.word(at), self.bus.word(at.plus(8))];
        let [low, high] = delivery.map_or([0; 2], interrupt_entry);
        if before[0] & PRESENT != 0 && (low & PRESENT == 0 || high == before[1]) {
            // Of the same source, or absent from now on: one store, so that a message meets the entry as it was or as it is. None
            // is lost, and none is recorded as a fault on the way to an entry whose faults are not.
            self.bus.set_word(at, low);
            self.write_back(at, ENTRY);
            return self.forget(Forget::Interrupt(entry));
        }
        if before[0] & PRESENT != 0 {
            self.block(at);
            let _ = self.forget(Forget::Interrupt(entry))?;
        }
        if delivery.is_none() {
            return Ok(done);
        }
        self.set(at, [low, high]);
        // Also where the entry was absent: a unit may have cached that, and an emulator keeps copies in the interrupt
        // controllers, which it brings up to date here.
        self.forget(Forget::Interrupt(entry))
    }

    /// Takes a present entry's present bit away.
    fn block(&mut self, entry: Hpa) {
        self.bus.set_word(entry, 0);
        self.write_back(entry, ENTRY);
    }

    /// Writes an entry that is not present.
    fn set(&mut self, entry: Hpa, [low, high]: [u64; 2]) {
        self.bus.set_word(entry.plus(8), high);
        self.bus.set_word(entry, low);
        self.write_back(entry, ENTRY);
    }

    /// Makes units see what was written, line by line.
    fn write_back(&mut self, from: Hpa, bytes: u64) {
        if !self.coherent {
            (0..bytes).step_by(LINE as usize).for_each(|offset| self.bus.write_back(from.plus(offset)));
        }
    }

    /// Makes a table of a domain, or a line of it, visible to units that do not look into the processors' caches: comes after
    /// entries were written, and before whatever flush there is.
    pub fn publish(&mut self, from: Hpa, bytes: u64) {
        self.write_back(from, bytes);
    }

    /// Tells every unit, then waits for every unit.
    fn forget(&mut self, what: Forget) -> Result<Completed, Failure> {
        let mut first = Ok(());
        for unit in &mut self.units {
            first = first.and(unit.start(&mut self.bus, what));
        }
        for unit in &mut self.units {
            first = first.and(unit.finish(&self.bus));
        }
        first.map(|()| Completed(()))
    }

    /// Nothing has to be done, as nothing is cached: completed, unless a unit has failed before.
    fn alive(&self) -> Result<Completed, Failure> {
        if self.units.iter().any(Unit::is_dead) { Err(Failure::Dead) } else { Ok(Completed(())) }
    }

    /// True if some unit has stopped something that was not taken yet, or lost count. One register of each unit is read.
    pub fn pending(&self) -> bool {
        self.units.iter().any(|unit| unit.pending(&self.bus))
    }

    /// Takes a record of something that was stopped, from one unit after the other. Devices can make records faster than they
    /// are taken: a caller takes a bounded number at a time.
    pub fn take_fault(&mut self) -> Option<FaultRecord> {
        let count = self.units.len();
        for _ in 0..count {
            let number = self.next_taken.checked_rem(count)?;
            self.next_taken = number.wrapping_add(1);
            match self.units.get_mut(number)?.take_fault(&mut self.bus) {
                Ok(Some(record)) => return Some(record),
                Ok(None) => {}
                Err(Lost) => self.overflows = self.overflows.saturating_add(1),
            }
        }
        None
    }

    /// How many records must be taken so that all that there are now are among them, however many come meanwhile.
    pub fn most_faults(&self) -> usize {
        let most = self.units.iter().map(|unit| unit.capabilities.fault_record_count).max().unwrap_or(0);
        self.units.len().saturating_mul(most as usize)
    }

    /// Holds the NMIs back by which units tell that they have stopped something, or no longer: what has come meanwhile and
    /// was not taken is told then.
    pub fn hold_fault_events(&mut self, held: bool) {
        for unit in &mut self.units {
            unit.hold_fault_events(&mut self.bus, held);
        }
    }

    /// How often records were lost, as there was no room.
    pub fn overflows(&self) -> u32 {
        self.overflows
    }
}
