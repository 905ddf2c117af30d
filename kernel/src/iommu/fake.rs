//! VT-d units made of software, for tests on the host: registers, an invalidation queue, and caches that go on to serve what
//! they hold until they are told to forget it.
//!
//! A unit is as unhelpful as the manual allows. At every access to the bus it may fetch what it likes, an entry of two words
//! in two halves at two moments; what it caches it uses; it may need time for its queue; where it does not look into the
//! processors' caches it sees memory as it was last written back. All of it follows from a seed. Written to the manual alone,
//! so that it shares no encoding with the code that it tests.

extern crate std;

use super::{Bus, Signal};
use crate::types::{Hpa, Ticks};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec::Vec;

/// CAP: 16 bits of domain numbers, 39 and 48 bits, large pages, page-selective up to 2^18 pages, drains, two fault records at
/// offset 0x220.
pub const CAP: u64 = 6 | 0b110 << 8 | 0x22 << 24 | 3 << 34 | 1 << 39 | 1 << 40 | 18 << 48 | 3 << 54;
/// CAP: caches absence, too.
pub const CACHING_MODE: u64 = 1 << 7;
/// ECAP: coherent, queued invalidation, interrupt remapping, extended interrupt mode.
pub const ECAP: u64 = 0b1_1011;
/// ECAP: coherent.
pub const COHERENT: u64 = 1;

const TRANSLATION: u32 = 1 << 31;
const QUEUE: u32 = 1 << 26;
const REMAPPING: u32 = 1 << 25;
const OVERFLOW: u32 = 1;
const RECORD: u32 = 2;
const QUEUE_ERROR: u32 = 1 << 4;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const FAULT: u64 = 1 << 63;

/// An entry of two words.
type Entry = [u64; 2];
/// What a unit has read: which entry, and its words.
pub type Fetched = (u16, Entry);

/// A unit.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    /// Capabilities, and extended ones.
    pub cap: u64,
    /// Extended ones.
    pub ecap: u64,
    /// It never works on its queue.
    pub stuck: bool,
    /// It does not turn anything off.
    pub stays_on: bool,
    /// It finds fault with its queue.
    pub refuses: bool,
    /// Something sends it completions that it has not asked for.
    pub is_pestered: bool,
    /// Ticks that it needs for its queue.
    pub delay: u64,
    /// Seeded defect: it takes descriptors of this type for done.
    pub ignores: Option<u64>,
    /// Messages of fault events: address and data.
    pub events: Vec<(u64, u32)>,
    /// Whole entries of contexts and interrupts that it has put into its caches so far.
    pub contexts_seen: Vec<Fetched>,
    /// As above.
    pub interrupts_seen: Vec<Fetched>,
    registers: BTreeMap<u32, u64>,
    status: u32,
    root: u64,
    remapping_table: u64,
    head: u64,
    busy_until: Option<u64>,
    faults: Vec<Entry>,
    next_fault: usize,
    /// Where the record was that came when there was none.
    first_fault: usize,
    contexts: BTreeMap<u16, Entry>,
    translations: BTreeMap<(u16, u64), u64>,
    interrupts: BTreeMap<u16, Entry>,
    /// Half-read entries: which, and their low words.
    half_context: Option<(u16, u64)>,
    half_interrupt: Option<(u16, u64)>,
}

/// Units, memory, and a clock that each look at it moves on.
#[derive(Debug, Default)]
pub struct State {
    /// The units.
    pub units: Vec<Unit>,
    /// Memory as the processors see it, by word.
    pub memory: BTreeMap<u64, u64>,
    /// Memory as last written back.
    written_back: BTreeMap<u64, u64>,
    clock: u64,
    random: u64,
}

/// A handle to units and memory.
#[derive(Clone, Debug)]
pub struct Fake(pub Rc<RefCell<State>>);

impl Fake {
    /// Units with these capabilities, which are off, and have cached what somebody else's tables said about some functions,
    /// domain 7 and the first interrupts.
    pub fn new(units: &[(u64, u64)], seed: u64) -> Fake {
        let unit = |&(cap, ecap): &(u64, u64)| Unit {
            cap,
            ecap,
            faults: std::vec![[0; 2]; (cap >> 40 & 0xff) as usize + 1],
            contexts: (0x100..0x104).map(|function| (function, [0x66_6001, 0x701])).collect(),
            translations: (0..16).map(|page| ((7, page), 0x66_7003)).collect(),
            interrupts: (0..8).map(|index| (index, [0x66_0001, 0x4_0101])).collect(),
            ..Unit::default()
        };
        let units = units.iter().map(unit).collect();
        Fake(Rc::new(RefCell::new(State { units, random: seed | 1, ..State::default() })))
    }

    /// Changes a unit.
    pub fn with<T>(&self, unit: usize, change: impl FnOnce(&mut Unit) -> T) -> T {
        change(&mut self.0.borrow_mut().units[unit])
    }

    /// A device behind a unit reads or writes a word: where in memory, or the reason of the fault.
    ///
    /// # Errors
    /// The reason why the unit stopped it.
    pub fn dma(&self, unit: usize, source: u16, address: u64, write: bool) -> Result<u64, u8> {
        let mut state = self.0.borrow_mut();
        let result = state.translate(unit, source, address, write);
        if let Err(reason) = result {
            let high = u64::from(!write) << 62 | u64::from(reason) << 32 | u64::from(source);
            state.units[unit].record([address & !0xfff, high]);
        }
        result
    }

    /// A device behind a unit writes a message: which core gets what.
    ///
    /// # Errors
    /// The reason why the unit stopped it.
    pub fn interrupt(&self, unit: usize, source: u16, address: u64, data: u32) -> Result<(u32, Signal), u8> {
        let mut state = self.0.borrow_mut();
        let index = (address >> 5 & 0x7fff | (address >> 2 & 1) << 15) as u16
            + (data & 0xffff) as u16 * u16::from(address & 8 != 0);
        let result = state.remap(unit, source, index, address);
        if let Err(reason) = result {
            let high = u64::from(reason) << 32 | u64::from(source);
            state.units[unit].record([u64::from(index) << 48, high]);
        }
        result
    }
}

impl State {
    fn next(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    /// Memory as a unit sees it.
    fn seen(&self, unit: usize, at: u64) -> u64 {
        let coherent = self.units[unit].ecap & COHERENT != 0;
        let memory = if coherent { &self.memory } else { &self.written_back };
        memory.get(&at).copied().unwrap_or(0)
    }

    /// Whatever a unit may do by itself at any moment.
    fn step(&mut self) {
        self.clock += 1;
        for unit in 0..self.units.len() {
            if self.units[unit].busy_until.is_some_and(|until| until <= self.clock) {
                self.work(unit);
            }
            self.fetch(unit);
        }
    }

    fn fetch(&mut self, unit: usize) {
        let on = self.units[unit].status;
        // So few functions and entries that tests meet them: bus 1, and the first entries of the table.
        let (function, index) = (0x100 | self.next(4) as u16, self.next(256) as u16);
        match self.next(6) {
            0 if on & TRANSLATION != 0 => match self.units[unit].half_context.take() {
                Some((function, low)) => {
                    let high = self.context_at(unit, function).map_or(0, |at| self.seen(unit, at + 8));
                    self.keep_context(unit, function, [low, high]);
                }
                None => {
                    let low = self.context_at(unit, function).map_or(0, |at| self.seen(unit, at));
                    self.units[unit].half_context = Some((function, low));
                }
            },
            1 if on & REMAPPING != 0 => match self.units[unit].half_interrupt.take() {
                Some((index, low)) => {
                    let high = self.seen(unit, self.interrupt_at(unit, index) + 8);
                    self.keep_interrupt(unit, index, [low, high]);
                }
                None => {
                    let low = self.seen(unit, self.interrupt_at(unit, index));
                    self.units[unit].half_interrupt = Some((index, low));
                }
            },
            2 if on & TRANSLATION != 0 => {
                let address = self.next(16) << 12;
                let _ = self.translate(unit, function, address, false);
            }
            _ => {}
        }
    }

    fn context_at(&self, unit: usize, function: u16) -> Option<u64> {
        let root = self.seen(unit, (self.units[unit].root & ADDRESS) + u64::from(function >> 8) * 16);
        (root & 1 != 0).then_some((root & ADDRESS) + u64::from(function & 0xff) * 16)
    }

    fn interrupt_at(&self, unit: usize, index: u16) -> u64 {
        (self.units[unit].remapping_table & ADDRESS) + u64::from(index) * 16
    }

    /// Present entries are cached, others in caching mode only.
    fn keep_context(&mut self, unit: usize, function: u16, entry: Entry) {
        let unit = &mut self.units[unit];
        if entry[0] & 1 != 0 || unit.cap & CACHING_MODE != 0 {
            unit.contexts.entry(function).or_insert(entry);
        }
        unit.contexts_seen.push((function, entry));
    }

    fn keep_interrupt(&mut self, unit: usize, index: u16, entry: Entry) {
        let unit = &mut self.units[unit];
        if entry[0] & 1 != 0 || unit.cap & CACHING_MODE != 0 {
            unit.interrupts.entry(index).or_insert(entry);
        }
        unit.interrupts_seen.push((index, entry));
    }

    fn translate(&mut self, unit: usize, source: u16, address: u64, write: bool) -> Result<u64, u8> {
        if self.units[unit].status & TRANSLATION == 0 {
            return Ok(address);
        }
        let cached = self.units[unit].contexts.get(&source).copied();
        let [low, high] = match cached {
            Some(entry) => entry,
            None => {
                let at = self.context_at(unit, source).ok_or(1)?;
                let entry = [self.seen(unit, at), self.seen(unit, at + 8)];
                self.keep_context(unit, source, entry);
                entry
            }
        };
        if low & 1 == 0 {
            return Err(2);
        }
        let (domain, levels) = ((high >> 8) as u16, (high & 7) + 2);
        if levels != 3 && levels != 4 || low & 0xc != 0 {
            return Err(3);
        }
        let page = (domain, address >> 12);
        let leaf = match self.units[unit].translations.get(&page) {
            Some(&leaf) => leaf,
            None => {
                let leaf = self.walk(unit, low & ADDRESS, levels, address);
                if leaf & 3 != 0 || self.units[unit].cap & CACHING_MODE != 0 {
                    self.units[unit].translations.insert(page, leaf);
                }
                leaf
            }
        };
        let needed = if write { 2 } else { 1 };
        match leaf & needed {
            0 => Err(if write { 5 } else { 6 }),
            _ => Ok(leaf & ADDRESS | address & 0xfff),
        }
    }

    /// The entry of the page at an address, as of a 4 KiB page; 0 if there is none.
    fn walk(&self, unit: usize, mut table: u64, levels: u64, address: u64) -> u64 {
        for level in (1..=levels).rev() {
            let shift = 3 + 9 * level;
            let entry = self.seen(unit, table + (address >> shift & 511) * 8);
            if entry & 3 == 0 || level == 1 {
                return entry;
            }
            if entry & 1 << 7 != 0 {
                return entry & ADDRESS | address & ((1 << shift) - 1) & ADDRESS | entry & 3;
            }
            table = entry & ADDRESS;
        }
        0
    }

    fn remap(&mut self, unit: usize, source: u16, index: u16, address: u64) -> Result<(u32, Signal), u8> {
        assert!(self.units[unit].status & REMAPPING != 0, "the message passes as it is");
        if address & 1 << 4 == 0 {
            return Err(0x25);
        }
        let entries = 2 << (self.units[unit].remapping_table & 0xf);
        if u32::from(index) >= entries {
            return Err(0x21);
        }
        let cached = self.units[unit].interrupts.get(&index).copied();
        let at = self.interrupt_at(unit, index);
        let [low, high] = match cached {
            Some(entry) => entry,
            None => {
                let entry = [self.seen(unit, at), self.seen(unit, at + 8)];
                self.keep_interrupt(unit, index, entry);
                entry
            }
        };
        if low & 1 == 0 {
            return Err(0x22);
        }
        if high >> 18 & 3 != 1 || high as u16 != source {
            return Err(0x26);
        }
        let signal = match low >> 5 & 7 {
            0 => Signal::Vector((low >> 16) as u8),
            4 => Signal::Nmi,
            _ => return Err(0x24),
        };
        assert!(self.units[unit].remapping_table & 1 << 11 != 0, "destinations of 32 bits");
        Ok(((low >> 32) as u32, signal))
    }

    /// Works on the queue, with its other work in between.
    fn work(&mut self, unit: usize) {
        self.units[unit].busy_until = None;
        let (queue, tail) = (self.units[unit].registers[&0x90] & ADDRESS, self.units[unit].registers[&0x88]);
        while self.units[unit].head != tail {
            let at = queue + self.units[unit].head;
            let (low, high) = (self.seen(unit, at), self.seen(unit, at + 8));
            self.fetch(unit);
            if self.units[unit].refuses || !self.obey(unit, low, high) {
                self.units[unit].registers_or(QUEUE_ERROR);
                return;
            }
            self.units[unit].head = (self.units[unit].head + 16) % 4096;
        }
    }

    fn obey(&mut self, unit: usize, low: u64, high: u64) -> bool {
        let (kind, granularity) = (low & 0xf, low >> 4 & 3);
        let state = &mut self.units[unit];
        if state.ignores == Some(kind) {
            return true;
        }
        let domain = (low >> 16) as u16;
        match (kind, granularity) {
            (1, 1) => (state.contexts.clear(), state.half_context = None).0,
            (1, 3) => {
                let function = (low >> 32) as u16;
                // An absent one is cached under domain 0.
                let named =
                    |entry: &Entry| if entry[0] & 1 == 0 { domain == 0 } else { (entry[1] >> 8) as u16 == domain };
                state.contexts.retain(|&key, entry| key != function || !named(entry));
                state.half_context = state.half_context.filter(|half| half.0 != function);
            }
            (2, 1) => state.translations.clear(),
            (2, 2) => state.translations.retain(|key, _| key.0 != domain),
            (2, 3) => {
                let (order, first) = (high & 0x3f, high >> 12);
                if order > state.cap >> 48 & 0x3f || first & ((1 << order) - 1) != 0 {
                    return false;
                }
                state.translations.retain(|key, _| key.0 != domain || key.1 >> order != first >> order);
            }
            (4, 0 | 2) => (state.interrupts.clear(), state.half_interrupt = None).0,
            (4, _) => {
                let index = (low >> 32) as u16;
                state.interrupts.remove(&index);
                state.half_interrupt = state.half_interrupt.filter(|half| half.0 != index);
            }
            (5, 2) => {
                let word = self.memory.entry(high & !7).or_insert(0);
                let shift = (high & 4) * 8;
                *word = *word & !(0xffff_ffff << shift) | (low >> 32) << shift;
            }
            _ => return false,
        }
        true
    }
}

impl Unit {
    fn registers_or(&mut self, bits: u32) {
        *self.registers.entry(0x34).or_insert(0) |= u64::from(bits);
    }

    /// Fault status: what is sticky, whether there are records, and where the first one was when there were none.
    fn fault_status(&self) -> u32 {
        let sticky = self.registers.get(&0x34).copied().unwrap_or(0) as u32 | u32::from(self.is_pestered) << 5;
        match self.faults.iter().any(|record| record[1] & FAULT != 0) {
            true => sticky | RECORD | (self.first_fault as u32) << 8,
            false => sticky,
        }
    }

    fn record(&mut self, [low, high]: Entry) {
        if self.fault_status() & OVERFLOW != 0 {
            return;
        }
        let quiet = self.fault_status() & RECORD == 0;
        if self.faults[self.next_fault][1] & FAULT != 0 {
            self.registers_or(OVERFLOW);
            return;
        }
        if quiet {
            self.first_fault = self.next_fault;
        }
        self.faults[self.next_fault] = [low, high | FAULT];
        self.next_fault = (self.next_fault + 1) % self.faults.len();
        let register = |offset| self.registers.get(&offset).copied().unwrap_or(0);
        if quiet && register(0x38) >> 31 & 1 == 0 {
            self.events.push((register(0x44) << 32 | register(0x40), register(0x3c) as u32));
        }
    }

    /// Fault record that a register is in, and whether it is the high word.
    fn fault_word(&self, offset: u32) -> Option<(usize, usize)> {
        let index = offset.checked_sub((self.cap >> 24 & 0x3ff) as u32 * 16)? as usize;
        (index / 16 < self.faults.len()).then_some((index / 16, index / 8 % 2))
    }

    fn command(&mut self, value: u32) {
        let (kept, one_shot) = (value & 0x96ff_ffff, value & !0x96ff_ffff);
        let changed = kept ^ self.status & 0x96ff_ffff;
        assert!(changed.count_ones() + one_shot.count_ones() <= 1, "one command at a time: {value:#x}");
        match changed | one_shot {
            0x4000_0000 => self.root = self.registers[&0x20],
            0x0100_0000 => self.remapping_table = self.registers[&0xb8],
            TRANSLATION => assert!(self.status & 1 << 30 != 0, "translation without a root table"),
            REMAPPING => assert!(self.status & 1 << 24 != 0, "remapping without a table"),
            QUEUE => {
                assert!(kept & QUEUE == 0 || self.registers[&0x88] == 0, "the queue starts at its first descriptor")
            }
            0 => {}
            other => panic!("a command that nobody should give: {other:#x}"),
        }
        if kept & QUEUE == 0 {
            self.head = 0;
        }
        let left = if self.stays_on { self.status } else { self.status & !0x96ff_ffff };
        self.status = left | kept | one_shot;
    }
}

impl Bus for Fake {
    fn register32(&self, unit: usize, offset: u32) -> u32 {
        let mut state = self.0.borrow_mut();
        state.step();
        let unit = &state.units[unit];
        match offset {
            0x1c => unit.status,
            0x34 => unit.fault_status(),
            0x64 => unit.registers.get(&offset).map_or(0, |&value| (value >> 31) as u32 * 0x8000_0001),
            _ => unit.registers.get(&offset).copied().unwrap_or(0) as u32,
        }
    }

    fn register64(&self, unit: usize, offset: u32) -> u64 {
        let state = self.0.borrow();
        let unit = &state.units[unit];
        match (offset, unit.fault_word(offset)) {
            (0x08, _) => unit.cap,
            (0x10, _) => unit.ecap,
            (_, Some((record, word))) => unit.faults[record][word],
            _ => unit.registers.get(&offset).copied().unwrap_or(0),
        }
    }

    fn set_register32(&mut self, unit: usize, offset: u32, value: u32) {
        let mut state = self.0.borrow_mut();
        state.step();
        let unit = &mut state.units[unit];
        match offset {
            0x18 => unit.command(value),
            0x34 => *unit.registers.entry(0x34).or_insert(0) &= u64::from(!value),
            _ => drop(unit.registers.insert(offset, value.into())),
        }
    }

    fn set_register64(&mut self, number: usize, offset: u32, value: u64) {
        let mut state = self.0.borrow_mut();
        state.step();
        let clock = state.clock;
        let unit = &mut state.units[number];
        if let Some((record, 1)) = unit.fault_word(offset) {
            unit.faults[record][1] &= !(value & FAULT);
            return;
        }
        unit.registers.insert(offset, value);
        if offset == 0x88 && unit.status & QUEUE != 0 && !unit.stuck {
            unit.busy_until = Some(clock + unit.delay);
        }
    }

    fn word(&self, at: Hpa) -> u64 {
        let mut state = self.0.borrow_mut();
        state.step();
        state.memory.get(&at.get()).copied().unwrap_or(0)
    }

    fn set_word(&mut self, at: Hpa, value: u64) {
        let mut state = self.0.borrow_mut();
        state.step();
        state.memory.insert(at.get(), value);
    }

    fn write_back(&mut self, at: Hpa) {
        let mut state = self.0.borrow_mut();
        for word in (at.get() & !63..).step_by(8).take(8) {
            let value = state.memory.get(&word).copied().unwrap_or(0);
            state.written_back.insert(word, value);
        }
        state.step();
    }

    fn now(&self) -> Ticks {
        let mut state = self.0.borrow_mut();
        state.step();
        Ticks::new(state.clock)
    }
}
