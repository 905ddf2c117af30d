//! One VT-d unit: turning it on, its invalidation queue, its fault records.
//!
//! Guarantee: [`Unit::finish`] returns without a failure only when the unit has said, by the status write of a wait
//! descriptor, that everything before is done. A unit that does not say so in time, or reports an error of its queue, is
//! *dead*: it is told nothing any more, as what it still caches is not known, and everything fails at once.

use super::super::{Bus, Failure, FaultRecord, Stopped};
use super::registers::*;
use super::tables::{Forget, wait};
use crate::types::{Hpa, Ticks};

/// Bytes of an invalidation queue: one page.
pub const QUEUE_BYTES: u64 = 4096;
/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 16;
/// Fault event message: an NMI (chapter 11, FEDATA).
const DELIVER_NMI: u32 = 4 << 8;

/// What a unit is pointed at when it is turned on.
#[derive(Clone, Copy, Debug)]
pub struct Pointers {
    /// Root table.
    pub root: Hpa,
    /// Interrupt remapping table.
    pub interrupts: Hpa,
    /// log2 of its entries.
    pub interrupts_order: u32,
    /// x2APIC id of the core that gets an NMI when something was stopped.
    pub fault_apic_id: u32,
}

/// A unit.
#[derive(Clone, Debug)]
pub struct Unit {
    /// The bus's number for it.
    number: usize,
    pub capabilities: Capabilities,
    queue: Hpa,
    /// Where it writes that it is done.
    status: Hpa,
    patience: Ticks,
    /// Offset in the queue at which the next descriptor goes in.
    tail: u64,
    /// Of the last wait descriptor.
    serial: u32,
    dead: bool,
    /// Where the oldest fault record is, if some were taken and it is not known that none is left.
    oldest_fault: Option<u32>,
}

/// Turns a unit off as whoever had it left it: interrupt remapping, compatibility format, translation, queue, one bit of the
/// global command at a time (chapter 11, GCMD). False if that takes longer than `patience`.
pub fn turn_off(bus: &mut impl Bus, number: usize, patience: Ticks) -> bool {
    [REMAPPING, COMPATIBILITY, TRANSLATION, QUEUE].into_iter().all(|bit| {
        let status = bus.register32(number, GSTS) & KEPT;
        if status & bit == 0 {
            return true;
        }
        bus.set_register32(number, GCMD, status & !bit);
        holds_in_time(bus, patience, |bus| bus.register32(number, GSTS) & bit == 0)
    })
}

/// Waits until something holds, for as long as patience lasts; false if it does not. It is looked at once more after that, as
/// whoever runs this machine as a guest may have taken the core off its processor meanwhile.
fn holds_in_time<B: Bus>(bus: &B, patience: Ticks, holds: impl Fn(&B) -> bool) -> bool {
    let start = bus.now().get();
    loop {
        let waited = bus.now().get().wrapping_sub(start);
        if holds(bus) {
            return true;
        }
        if waited > patience.get() {
            return false;
        }
        core::hint::spin_loop();
    }
}

impl Unit {
    /// A unit that is off. `queue`: a page of its own; `status`: an aligned word of its own. `patience`: how long it may
    /// take for anything.
    ///
    /// # Errors
    /// When it lacks something.
    pub fn new(bus: &impl Bus, number: usize, queue: Hpa, status: Hpa, patience: Ticks) -> Result<Unit, Missing> {
        let capabilities = Capabilities::decode(bus.register64(number, CAP), bus.register64(number, ECAP))?;
        Ok(Unit { number, capabilities, queue, status, patience, tail: 0, serial: 0, dead: false, oldest_fault: None })
    }

    /// Turns it on, in the order of the manual: root table, caches emptied (chapter 11, RTADDR), interrupt remapping table, its
    /// cache emptied (chapter 11, IRTA), then interrupt remapping and translation. One bit of the global command at a time
    /// (chapter 11, GCMD). Compatibility-format interrupts stay blocked.
    pub fn turn_on(&mut self, bus: &mut impl Bus, to: &Pointers) -> Result<(), Failure> {
        self.unprotect(bus)?;
        self.set_fault_event(bus, to.fault_apic_id);
        // Translation table mode 0: legacy, without PASIDs.
        bus.set_register64(self.number, RTADDR, to.root.get());
        self.command(bus, ROOT_TABLE)?;
        // 256 descriptors of 128 bits. The head is 0 while the queue is off (chapter 11, IQH).
        bus.set_register64(self.number, IQT, 0);
        bus.set_register64(self.number, IQA, self.queue.get());
        self.command(bus, QUEUE)?;
        // Contexts first, and done: translations are cached by what they say (6.5.2).
        self.forget(bus, Forget::Contexts)?;
        self.forget(bus, Forget::Translations)?;
        let size = u64::from(to.interrupts_order.saturating_sub(1) & 0xf);
        bus.set_register64(self.number, IRTA, to.interrupts.get() | EXTENDED_INTERRUPTS | size);
        self.command(bus, REMAPPING_TABLE)?;
        self.forget(bus, Forget::Interrupts)?;
        if bus.register32(self.number, GSTS) & COMPATIBILITY != 0 {
            return Err(self.died(Failure::QueueFault));
        }
        self.command(bus, REMAPPING)?;
        self.command(bus, TRANSLATION)
    }

    /// Turns protected memory regions off: they would stop DMA that the tables allow (11.4.8.1).
    fn unprotect(&mut self, bus: &mut impl Bus) -> Result<(), Failure> {
        if !self.capabilities.protects_memory {
            return Ok(());
        }
        bus.set_register32(self.number, PMEN, 0);
        let number = self.number;
        self.poll(bus, |bus| bus.register32(number, PMEN) & PROTECTED == 0)
    }

    /// Forgets old faults, and has new ones told by an NMI. The message is not remapped (5.1); with extended interrupt mode
    /// the upper bits of the APIC id are in the upper address (chapter 11, FEUADDR).
    fn set_fault_event(&mut self, bus: &mut impl Bus, apic_id: u32) {
        bus.set_register32(self.number, FECTL, EVENT_MASKED);
        for record in 0..self.capabilities.fault_record_count {
            bus.set_register64(self.number, self.record(record) + 8, FAULT);
        }
        bus.set_register32(self.number, FSTS, FSTS_CLEAR);
        bus.set_register32(self.number, FEDATA, DELIVER_NMI);
        bus.set_register32(self.number, FEADDR, 0xfee0_0000 | (apic_id & 0xff) << 12);
        bus.set_register32(self.number, FEUADDR, apic_id & 0xffff_ff00);
        bus.set_register32(self.number, FECTL, 0);
    }

    /// Holds the message of fault events back, or no longer: one that was due meanwhile, and whose cause was not taken, is
    /// sent then (chapter 11, FECTL).
    pub fn hold_fault_events(&mut self, bus: &mut impl Bus, held: bool) {
        bus.set_register32(self.number, FECTL, if held { EVENT_MASKED } else { 0 });
    }

    /// Sets a bit of the global command and waits until the status shows it.
    fn command(&mut self, bus: &mut impl Bus, bit: u32) -> Result<(), Failure> {
        let number = self.number;
        let status = bus.register32(number, GSTS) & KEPT;
        bus.set_register32(number, GCMD, status | bit);
        self.poll(bus, |bus| bus.register32(number, GSTS) & bit != 0)
    }

    /// Waits until something holds; if that takes too long, the unit is dead.
    fn poll<B: Bus>(&mut self, bus: &B, holds: impl Fn(&B) -> bool) -> Result<(), Failure> {
        if holds_in_time(bus, self.patience, holds) { Ok(()) } else { Err(self.died(Failure::TimedOut)) }
    }

    fn died(&mut self, failure: Failure) -> Failure {
        self.dead = true;
        failure
    }

    /// Tells it to forget something, and to say when that is done. Before the next, [`Unit::finish`].
    pub fn start(&mut self, bus: &mut impl Bus, what: Forget) -> Result<(), Failure> {
        if self.dead {
            return Err(Failure::Dead);
        }
        self.serial = self.serial.wrapping_add(1);
        self.push(bus, what.descriptor());
        self.push(bus, wait(self.serial, self.status));
        bus.set_register64(self.number, IQT, self.tail);
        Ok(())
    }

    /// The queue holds two descriptors at a time at most, so there is room.
    fn push(&mut self, bus: &mut impl Bus, [low, high]: [u64; 2]) {
        let at = self.queue.plus(self.tail);
        bus.set_word(at, low);
        bus.set_word(at.plus(8), high);
        if !self.capabilities.coherent {
            bus.write_back(at);
        }
        self.tail = self.tail.wrapping_add(DESCRIPTOR) % QUEUE_BYTES;
    }

    /// Waits until it has done what it was told last.
    pub fn finish(&mut self, bus: &impl Bus) -> Result<(), Failure> {
        if self.dead {
            return Err(Failure::Dead);
        }
        let (number, status, serial) = (self.number, self.status, self.serial);
        let done = |bus: &_| Bus::word(bus, status) as u32 == serial;
        let faulty = |bus: &_| Bus::register32(bus, number, FSTS) & QUEUE_ERROR != 0;
        // What is done is done, whatever is wrong now; else an error of the queue ends the wait, and nothing that a device says.
        self.poll(bus, |bus| done(bus) || faulty(bus))?;
        if done(bus) { Ok(()) } else { Err(self.died(Failure::QueueFault)) }
    }

    fn forget(&mut self, bus: &mut impl Bus, what: Forget) -> Result<(), Failure> {
        self.start(bus, what)?;
        self.finish(bus)
    }

    /// True if it has failed.
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// Offset of a fault record (chapter 11, FRCD): 16 bytes each.
    fn record(&self, index: u32) -> u32 {
        self.capabilities.fault_records.wrapping_add(index.wrapping_mul(16))
    }

    /// True if a fault was recorded, or lost, or there is something to be cleared so that the next one is told.
    pub fn pending(&self, bus: &impl Bus) -> bool {
        bus.register32(self.number, FSTS) & (OVERFLOW | RECORD | STRAY_COMPLETION) != 0
    }

    /// Takes the oldest fault record. When none is left, an overflow is taken note of: `Err`, and the unit records anew. The
    /// status is read once at most, and not at all while the record after the last one that was taken is there.
    pub fn take_fault(&mut self, bus: &mut impl Bus) -> Result<Option<FaultRecord>, Lost> {
        let next = self.oldest_fault.take();
        if let Some(record) = next.and_then(|index| self.take_record(bus, index)) {
            return Ok(Some(record));
        }
        let status = bus.register32(self.number, FSTS);
        if status & STRAY_COMPLETION != 0 {
            bus.set_register32(self.number, FSTS, STRAY_COMPLETION);
        }
        // FRI: where the oldest one was when there were none before (chapter 11, FSTS). It stays as records are taken, which
        // are used in turn: so it tells the first, and from there on they are counted.
        let first = status >> 8 & 0xff;
        if status & RECORD != 0
            && let Some(record) = self.take_record(bus, first % self.capabilities.fault_record_count.max(1))
        {
            return Ok(Some(record));
        }
        if status & (OVERFLOW | RECORD) == OVERFLOW {
            bus.set_register32(self.number, FSTS, OVERFLOW);
            return Err(Lost);
        }
        Ok(None)
    }

    /// Takes the record at an index, if there is one; the one after it is the oldest then.
    fn take_record(&mut self, bus: &mut impl Bus, index: u32) -> Option<FaultRecord> {
        let at = self.record(index);
        let high = bus.register64(self.number, at + 8);
        if high & FAULT == 0 {
            return None;
        }
        let low = bus.register64(self.number, at);
        bus.set_register64(self.number, at + 8, FAULT);
        self.oldest_fault = index.wrapping_add(1).checked_rem(self.capabilities.fault_record_count);
        Some(fault(low, high))
    }
}

/// Faults came faster than they were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// A fault record (chapter 11, FRCD): source id at 79:64, reason at 103:96, type at 126; the page, or at 63:48 the index of an
/// interrupt.
fn fault(low: u64, high: u64) -> FaultRecord {
    let reason = (high >> 32) as u8;
    let stopped = match reason {
        FIRST_INTERRUPT_REASON..=LAST_INTERRUPT_REASON => Stopped::Interrupt((low >> 48) as u16),
        _ if high & FAULT_READ != 0 => Stopped::Read(low & !0xfff),
        _ => Stopped::Write(low & !0xfff),
    };
    FaultRecord { requester: high as u16, stopped, reason }
}
