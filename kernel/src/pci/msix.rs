//! MSI-X (PCI Express Base Specification, 7.7.2): where a function keeps its table of messages, and the kernel's writes to it.
//!
//! The table and the pending bits lie in the function's memory. Whoever could write there could send any message, so their
//! pages are never handed out; a capability that does not say where they are makes all of the function's memory useless.

use super::bar::{BARS, Bar};
use super::capability::Offsets;
use super::{Bdf, ConfigAccess};
use crate::firmware::memory_map::Region;
use crate::types::Hpa;

/// Message Control, 16 bits, from the capability on.
pub const MESSAGE_CONTROL: u16 = 2;
/// Of Message Control: entries of the table, less 1.
const TABLE_SIZE: u16 = 0x7ff;
/// Of Message Control: every entry is masked.
const FUNCTION_MASK: u16 = 1 << 14;
/// Of Message Control: the function sends messages and no INTx.
const ENABLE: u16 = 1 << 15;
/// Table Offset/BIR and PBA Offset/BIR.
const TABLE: u16 = 4;
const PENDING: u16 = 8;
/// Of these: number of the base address register.
const BAR_NUMBER: u32 = 7;
/// Bytes of an entry: address, upper address, data, vector control.
const ENTRY_BYTES: u32 = 16;
/// Of vector control: the entry is masked.
const ENTRY_MASKED: u32 = 1;
/// Bytes of the pages in which memory is handed out.
const PAGE: u64 = 4096;

/// A place in the memory behind a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of the register: 0 to 7, of which 6 and 7 are none.
    pub bar: u8,
    /// First byte from the memory's first on, a multiple of 8.
    pub offset: u32,
    /// Bytes.
    pub bytes: u32,
}

impl Place {
    fn region(self, bars: &[Option<Bar>; BARS]) -> Option<Region> {
        let bar = (*bars.get(usize::from(self.bar))?)?;
        let end = u64::from(self.offset) + u64::from(self.bytes);
        (end <= bar.region.bytes()).then(|| Region::of(bar.region.start + u64::from(self.offset), self.bytes.into()))
    }
}

/// What the capability says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msix {
    /// Offset of the capability.
    at: u16,
    /// Entries of the table: 1 to 2048.
    pub entries: u16,
    /// The table.
    pub table: Place,
    /// Its pending bits.
    pub pending: Place,
}

/// What a function may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Messages {
    /// Nothing; MSI-X is off.
    Off,
    /// Nothing yet: each entry is masked, whatever it says of itself, and what happens is pending.
    Masked,
    /// Messages of the entries that are not masked.
    Unmasked,
}

/// The memory of a table of messages.
pub trait TableAccess {
    /// Writes 32 bits at an address that [`Msix::entry`] gave, or one of the three double words behind it.
    fn write(&mut self, at: Hpa, value: u32);

    /// Reads 32 bits there.
    fn read(&self, at: Hpa) -> u32;
}

/// A message: the write that a function does to interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Address of the write, a multiple of 4.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

impl Msix {
    /// Reads the capability of a function, if there is one, and turns MSI-X off.
    pub fn take(config: &mut impl ConfigAccess, function: Bdf, offsets: &Offsets) -> Option<Msix> {
        let at = Some(offsets.msix).filter(|&at| at != 0)?;
        let entries = (config.read_half(function, at + MESSAGE_CONTROL) & TABLE_SIZE) + 1;
        let place = |offset, bytes| {
            let value = config.read(function, at + offset);
            Place { bar: (value & BAR_NUMBER) as u8, offset: value & !BAR_NUMBER, bytes }
        };
        let table = place(TABLE, u32::from(entries) * ENTRY_BYTES);
        let pending = place(PENDING, u32::from(entries).div_ceil(64) * 8);
        let msix = Msix { at, entries, table, pending };
        msix.set(config, function, Messages::Off);
        Some(msix)
    }

    /// The whole pages in which the table and the pending bits lie. None if one of the two is in no memory of the function,
    /// or if they overlap.
    pub fn pages(&self, bars: &[Option<Bar>; BARS]) -> Option<[Region; 2]> {
        let (table, pending) = (self.table.region(bars)?, self.pending.region(bars)?);
        (!table.overlaps(pending)).then(|| [table.rounded_outwards(PAGE), pending.rounded_outwards(PAGE)])
    }

    /// Address of an entry. None if there is no such entry, or its table is in no memory of the function, or in memory that
    /// was refused: what answers there may be somebody else's.
    pub fn entry(&self, bars: &[Option<Bar>; BARS], number: u16) -> Option<Hpa> {
        let bar = bars.get(usize::from(self.table.bar))?.as_ref()?;
        if bar.refused.is_some() {
            return None;
        }
        let table = self.table.region(bars).filter(|_| number < self.entries)?;
        Some(Hpa::new(table.start).plus(u64::from(number) * u64::from(ENTRY_BYTES)))
    }

    /// Turns MSI-X on or off, or masks the whole function. The register is read back: the answer follows all messages that
    /// the function sent before (PCI Express Base Specification, 2.4.1), so that none is under way afterwards. Returns false
    /// if the function did not take it.
    #[must_use]
    pub fn try_set(&self, config: &mut impl ConfigAccess, function: Bdf, messages: Messages) -> bool {
        self.set(config, function, messages);
        config.read_half(function, self.at + MESSAGE_CONTROL) & (ENABLE | FUNCTION_MASK) == Msix::control(messages)
    }

    fn set(&self, config: &mut impl ConfigAccess, function: Bdf, messages: Messages) {
        config.write_half(function, self.at + MESSAGE_CONTROL, Msix::control(messages));
    }

    const fn control(messages: Messages) -> u16 {
        match messages {
            Messages::Off => 0,
            Messages::Masked => ENABLE | FUNCTION_MASK,
            Messages::Unmasked => ENABLE,
        }
    }
}

/// Gives an entry, at the address that [`Msix::entry`] gave, its message, or masks it; it is never seen half written. The
/// last word is read back, so that the entry is in effect.
pub fn write_entry(table: &mut impl TableAccess, entry: Hpa, message: Option<Message>) {
    let control = entry.plus(12);
    table.write(control, ENTRY_MASKED);
    if let Some(Message { address, data }) = message {
        table.write(entry, address as u32);
        table.write(entry.plus(4), (address >> 32) as u32);
        table.write(entry.plus(8), data);
        table.write(control, 0);
    }
    table.read(control);
}
