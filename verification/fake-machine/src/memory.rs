//! Physical memory, by 64-byte lines that know what the kernel keeps in them.
//!
//! The kernel reaches objects by reference, so each line is a typed value instead of bytes. All-zero memory reads as an
//! empty slot, a channel without receivers, a table without entries. Memory that holds something else than what it is
//! used for is a fault of the kernel, which [`Memory::faults`] keeps.

use kernel::channel::Channel;
use kernel::slot::Slot;
use kernel::types::{ChannelId, Hpa, SlotId, VcpuId, VmId};
use kernel::vcpu::Vcpu;
use kernel::vm::Vm;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Lines of a page.
const LINES: usize = 64;

/// 64 bytes.
#[derive(Clone, Debug)]
enum Line {
    Zero,
    Words([u64; 8]),
    Slot(Slot),
    Channel(Channel),
}

/// An object's header, which begins a page.
#[derive(Clone, Debug)]
enum Head {
    Vm(Box<Vm>),
    Vcpu(Box<Vcpu>),
}

/// What a page has been used for since it was last all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Nothing but words.
    Data,
    /// Capability slots or channels.
    Slots,
    /// A nested page table.
    Table,
    /// The header of a VM or Vcpu.
    Head,
}

/// The memory of the machine.
#[derive(Debug)]
pub struct Memory {
    lines: Vec<Line>,
    heads: Vec<Option<Head>>,
    uses: Vec<Use>,
    /// Lines of each page that are not [`Line::Zero`].
    full: Vec<u32>,
    /// Counts the VMs made at each page, so that two in the same memory differ.
    births: Vec<u64>,
    /// Words that hardware-visible tables had before the kernel's present step changed them.
    undo: Vec<(u64, u64)>,
    /// What the kernel did wrong.
    pub faults: Vec<String>,
}

static EMPTY: Slot = Slot::EMPTY;
static NO_RECEIVERS: Channel = Channel::NEW;

impl Memory {
    /// This many pages of zeros.
    pub fn new(pages: usize) -> Memory {
        Memory {
            lines: vec![Line::Zero; pages * LINES],
            heads: vec![None; pages],
            uses: vec![Use::Data; pages],
            full: vec![0; pages],
            births: vec![0; pages],
            undo: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// How many pages there are.
    pub fn pages(&self) -> usize {
        self.uses.len()
    }

    fn fault(&mut self, text: String) {
        if self.faults.len() < 4 {
            self.faults.push(text);
        }
    }

    /// What a page is used for; [`Use::Head`] for what does not exist.
    pub fn page_use(&self, page: u64) -> Use {
        self.uses.get(page as usize).copied().unwrap_or(Use::Head)
    }

    fn mark(&mut self, page: usize, new: Use) {
        let old = self.uses[page];
        if old != new && old != Use::Data {
            self.fault(format!("page {page:#x} becomes {new:?} while it is {old:?}"));
        }
        self.uses[page] = new;
    }

    /// True if all bytes of a page are zero.
    pub fn is_clean(&self, page: u64) -> bool {
        self.full.get(page as usize) == Some(&0) && self.heads[page as usize].is_none()
    }

    /// True if these bytes (whole lines) are zero.
    pub fn is_zero(&self, base: Hpa, bytes: u64) -> bool {
        let first = base.get() / 64;
        (first..(base.get() + bytes) / 64).all(|line| self.line_is_zero(line as usize))
            && (base.get() / PAGE..(base.get() + bytes) / PAGE).all(|page| self.heads[page as usize].is_none())
    }

    fn line_is_zero(&self, line: usize) -> bool {
        match self.lines.get(line) {
            Some(Line::Zero) => true,
            Some(Line::Words(words)) => *words == [0; 8],
            Some(Line::Slot(slot)) => slot.is_empty() && !slot.has_children() && !slot.next.is_some() && !slot.original,
            Some(Line::Channel(channel)) => *channel == Channel::NEW,
            None => false,
        }
    }

    fn set_line(&mut self, index: usize, line: Line) {
        if matches!(self.lines[index], Line::Zero) {
            self.full[index / LINES] += 1;
        }
        self.lines[index] = line;
    }

    // ---- slots and channels --------------------------------------------------------------------------------------

    /// The slot, empty if the memory is zero.
    pub fn slot(&self, id: SlotId) -> &Slot {
        match self.lines.get(id.get() as usize) {
            Some(Line::Slot(slot)) => slot,
            _ => &EMPTY,
        }
    }

    /// The slot, to change it.
    pub fn slot_mut(&mut self, id: SlotId) -> &mut Slot {
        let mut index = id.get() as usize;
        if index == 0 || index >= self.lines.len() {
            self.fault(format!("slot {index:#x} does not exist"));
            index = 1;
        }
        self.mark(index / LINES, Use::Slots);
        if !matches!(self.lines[index], Line::Slot(_)) {
            if !self.line_is_zero(index) {
                self.fault(format!("slot {index:#x} is in memory that is not clean: {:?}", self.lines[index]));
            }
            self.set_line(index, Line::Slot(Slot::EMPTY));
        }
        let Line::Slot(slot) = &mut self.lines[index] else { unreachable!("it was made a slot above") };
        slot
    }

    /// Every slot that was ever written in a page since it was last zero.
    pub fn slots_of(&self, page: u64) -> impl Iterator<Item = (SlotId, &Slot)> {
        let first = page as usize * LINES;
        self.lines.iter().enumerate().skip(first).take(LINES).filter_map(|(index, line)| match line {
            Line::Slot(slot) => Some((SlotId::new(index as u32), slot)),
            _ => None,
        })
    }

    /// A channel's header.
    pub fn channel(&self, id: ChannelId) -> &Channel {
        match self.lines.get(id.get() as usize + 2) {
            Some(Line::Channel(channel)) => channel,
            _ => &NO_RECEIVERS,
        }
    }

    /// A channel's header, to change it.
    pub fn channel_mut(&mut self, id: ChannelId) -> &mut Channel {
        let mut index = id.get() as usize + 2;
        if index >= self.lines.len() {
            self.fault(format!("channel {index:#x} does not exist"));
            index = 1;
        }
        self.mark(index / LINES, Use::Slots);
        if !matches!(self.lines[index], Line::Channel(_)) {
            if !self.line_is_zero(index) {
                self.fault(format!("channel {index:#x} is in memory that is not clean"));
            }
            self.set_line(index, Line::Channel(Channel::NEW));
        }
        let Line::Channel(channel) = &mut self.lines[index] else { unreachable!("it was made a channel above") };
        channel
    }

    // ---- headers -------------------------------------------------------------------------------------------------

    /// True if there is a VM with this id.
    pub fn has_vm(&self, id: VmId) -> bool {
        matches!(self.heads.get(id.get() as usize), Some(Some(Head::Vm(_))))
    }

    /// True if there is a Vcpu with this id.
    pub fn has_vcpu(&self, id: VcpuId) -> bool {
        matches!(self.heads.get(id.get() as usize), Some(Some(Head::Vcpu(_))))
    }

    /// How many VMs have been made at this place.
    pub fn births(&self, id: VmId) -> u64 {
        self.births.get(id.get() as usize).copied().unwrap_or(0)
    }

    /// A VM's header.
    pub fn vm(&self, id: VmId) -> &Vm {
        match self.heads.get(id.get() as usize) {
            Some(Some(Head::Vm(vm))) => vm,
            _ => panic!("the kernel reads a VM that does not exist: {id:?}"),
        }
    }

    /// A VM's header, to make or change it.
    pub fn vm_mut(&mut self, id: VmId) -> &mut Vm {
        let page = id.get() as usize;
        if !self.has_vm(id) {
            self.make_head(page, Head::Vm(Box::new(Vm::new(Hpa::new(0), 0, crate::hardware::FORMAT))));
            self.mark(page + 1, Use::Table);
            self.births[page] += 1;
        }
        match &mut self.heads[page] {
            Some(Head::Vm(vm)) => vm,
            _ => panic!("the kernel writes a VM that does not exist: {id:?}"),
        }
    }

    /// A Vcpu's header.
    pub fn vcpu(&self, id: VcpuId) -> &Vcpu {
        match self.heads.get(id.get() as usize) {
            Some(Some(Head::Vcpu(vcpu))) => vcpu,
            _ => panic!("the kernel reads a Vcpu that does not exist: {id:?}"),
        }
    }

    /// A Vcpu's header, to make or change it.
    pub fn vcpu_mut(&mut self, id: VcpuId) -> &mut Vcpu {
        let page = id.get() as usize;
        if !self.has_vcpu(id) {
            self.make_head(page, Head::Vcpu(Box::new(Vcpu::NEW)));
            self.mark(page + 1, Use::Head);
        }
        match &mut self.heads[page] {
            Some(Head::Vcpu(vcpu)) => vcpu,
            _ => panic!("the kernel writes a Vcpu that does not exist: {id:?}"),
        }
    }

    fn make_head(&mut self, page: usize, head: Head) {
        if !(page..page + 4).all(|page| self.is_clean(page as u64)) {
            self.fault(format!("an object is made at page {page:#x}, which is not clean"));
        }
        self.mark(page, Use::Head);
        if self.heads[page].is_none() {
            self.heads[page] = Some(head);
        }
    }

    // ---- words ---------------------------------------------------------------------------------------------------

    /// The word at an address.
    pub fn word(&self, address: u64) -> u64 {
        match self.lines.get((address / 64) as usize) {
            Some(Line::Words(words)) => words[(address / 8 % 8) as usize],
            _ => 0,
        }
    }

    /// Writes the word at an address.
    pub fn set_word(&mut self, address: u64, value: u64) {
        let index = (address / 64) as usize;
        if index >= self.lines.len() {
            self.fault(format!("word {address:#x} does not exist"));
            return;
        }
        if !matches!(self.lines[index], Line::Words(_)) {
            if !self.line_is_zero(index) {
                self.fault(format!("word {address:#x} is written over a kernel object"));
            }
            if value == 0 {
                return;
            }
            self.set_line(index, Line::Words([0; 8]));
        }
        if let Line::Words(words) = &mut self.lines[index] {
            words[(address / 8 % 8) as usize] = value;
        }
    }

    /// Writes an entry of a table, remembering what it was before the present step.
    pub fn set_entry(&mut self, table: Hpa, index: usize, entry: u64) {
        let address = table.get() + index as u64 * 8;
        self.undo.push((address, self.word(address)));
        let page = (table.get() / PAGE) as usize;
        if page < self.uses.len() {
            self.mark(page, Use::Table);
        }
        self.set_word(address, entry);
    }

    /// The word as it was before the kernel's present step.
    pub fn word_before(&self, address: u64) -> u64 {
        self.word_since(address, 0)
    }

    /// How many changes of tables the kernel's present step has made.
    pub fn changes(&self) -> usize {
        self.undo.len()
    }

    /// The word as it was when the kernel's present step had made this many changes.
    pub fn word_since(&self, address: u64, changes: usize) -> u64 {
        self.undo
            .iter()
            .skip(changes)
            .find(|&&(at, _)| at == address)
            .map_or_else(|| self.word(address), |&(_, old)| old)
    }

    /// True if the kernel's present step has changed tables.
    pub fn has_withdrawn(&self) -> bool {
        !self.undo.is_empty()
    }

    /// The kernel's step is complete: what was withdrawn in it is withdrawn.
    pub fn step_done(&mut self) {
        self.undo.clear();
    }

    /// Fills whole lines with zero.
    pub fn zero(&mut self, base: Hpa, bytes: u64) {
        let (first, end) = (base.get() / 64, (base.get() + bytes) / 64);
        if end as usize > self.lines.len() || !base.get().is_multiple_of(64) || !bytes.is_multiple_of(64) {
            self.fault(format!("zero of {bytes:#x} bytes at {:#x}", base.get()));
            return;
        }
        for index in first as usize..end as usize {
            let page = index / LINES;
            if matches!(self.lines[index], Line::Zero) {
                continue;
            }
            if let (Line::Words(words), Use::Table) = (&self.lines[index], self.uses[page]) {
                let old = words.iter().zip(0_u64..).filter(|(word, _)| **word != 0);
                self.undo.extend(old.map(|(&word, at)| (index as u64 * 64 + at * 8, word)));
            }
            self.lines[index] = Line::Zero;
            self.full[page] -= 1;
        }
        for page in base.get() / PAGE..(base.get() + bytes).div_ceil(PAGE) {
            let page = page as usize;
            if self.full[page] == 0 {
                self.heads[page] = None;
                self.uses[page] = Use::Data;
            }
        }
    }
}
