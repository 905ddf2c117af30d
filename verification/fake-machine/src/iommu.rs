//! The IOMMU in front of every function, and the DMA that goes through it, with an oracle that judges each access when it
//! reaches memory.
//!
//! The unit reads context entries and tables at any time, keeps what it read (by function: each has a number of its own),
//! and uses it until it is told to forget. A request of a function is under way for any time, before it is translated
//! and after. An access must be one that the tables of the domain to which the function is attached allow now, or have
//! allowed since the last flush within the kernel step that is under way; so what survives a flush, a detachment or the
//! sale of memory is found by its first use. The unit's walks are judged in the same way. After the unit has failed, what was
//! under way arrives whenever it likes, and must not find memory that was handed out since.

use crate::bug::Bug;
use crate::hardware::Hardware;
use crate::memory::{PAGE, Use};
use crate::tlb::{Cached, Tlb, prefix};
use crate::translate::Tree;
use cap_spec::abi::{FaultRecord, Rights, Stopped};
use kernel::device_model::requester;
use kernel::iommu::FORMAT;
use kernel::nested::{Entry, entry_index};
use kernel::types::{FunctionId, Gpa, Hpa, VmId};
use std::collections::{BTreeMap, BTreeSet};

/// I/O addresses that functions use, in two regions of a table of level 1.
pub const IO_PAGES: [u64; 6] = [0, 0x1000, 0x2000, 0x3000, 0x20_0000, 0x20_1000];
/// Requests of all functions that are under way at most.
const UNDER_WAY: usize = 6;
/// One in so many waits for the unit ends with a time-out.
const TIME_OUTS: u64 = 500;
/// The same, where it is what happens afterwards that is looked at.
const MORE_TIME_OUTS: u64 = 50;

/// Records of stopped requests that the unit has room for.
pub const RECORDS: usize = 2;

/// A read or write that a function has sent.
#[derive(Clone, Copy, Debug)]
struct Request {
    function: FunctionId,
    address: Gpa,
    write: bool,
    /// It was sent while the function was attached.
    attached: bool,
    /// Where it goes, once it is translated.
    leaf: Option<Cached>,
}

/// The unit, and what is under way through it.
#[derive(Debug, Default)]
pub struct Iommu {
    /// Context entries in memory: the domain of each function.
    contexts: BTreeMap<FunctionId, VmId>,
    /// Those that the unit remembers.
    cached_contexts: BTreeMap<FunctionId, VmId>,
    /// The translations that it remembers, by the function's number.
    iotlb: Tlb,
    requests: Vec<Request>,
    /// What the kernel was told holds: the domain that a function may use.
    pub attached: BTreeMap<FunctionId, VmId>,
    /// How many changes of tables had been made in the present step when a function was flushed last.
    flushed: BTreeMap<FunctionId, usize>,
    /// The unit did not answer in time: it is told nothing any more.
    pub is_dead: bool,
    /// All functions were cut off at the bridges.
    pub is_cut: bool,
    /// How many stores there had been then.
    cut_at: u64,
    /// Pages that were scrubbed since.
    scrubbed: BTreeSet<u64>,
    /// Accesses that reached memory.
    pub accesses: u64,
    /// Requests that the unit stopped.
    pub stopped: u64,
    /// The records of such requests, oldest first.
    records: Vec<(FunctionId, FaultRecord)>,
    /// There was no room for so many.
    pub lost: u32,
    /// The kernel took so many.
    pub taken: u64,
    are_events_held: bool,
    is_event_due: bool,
}

impl Iommu {
    /// The kernel's step is complete.
    pub(crate) fn step_done(&mut self) {
        self.flushed.clear();
    }

    /// Memory is scrubbed, to be handed out again or as a table is taken out of its tree.
    pub(crate) fn scrubbed(&mut self, base: Hpa, bytes: u64) {
        if self.is_cut {
            self.scrubbed.extend((base.get()..base.plus(bytes).get()).step_by(PAGE as usize).map(|at| at / PAGE));
        }
    }

    /// True if nothing is under way that comes to an end.
    pub(crate) fn is_quiet(&self) -> bool {
        self.is_cut || self.requests.is_empty()
    }
}

/// The number by which the unit tags what it remembers for a function.
fn number_of(function: FunctionId) -> u32 {
    u32::from(function.get()) + 1
}

impl Hardware {
    // ---- what functions do ---------------------------------------------------------------------------------------

    /// Functions that are bus masters send requests, and those under way come a step further.
    pub(crate) fn dma_moment(&mut self) {
        if self.iommu.requests.len() < UNDER_WAY && self.random.one_in(6) {
            let masters: Vec<FunctionId> = self.functions.masters().collect();
            if let Some(&function) = self.random.pick(&masters) {
                self.send_request(function);
            }
        }
        if !self.iommu.requests.is_empty() && self.random.one_in(3) {
            let index = self.random.below(self.iommu.requests.len() as u64) as usize;
            let request = self.iommu.requests.swap_remove(index);
            // Nobody knows when a failed unit is done with what it has taken in.
            let again = (self.iommu.is_cut && request.leaf.is_some()).then_some(request);
            if let Some(request) = self.advance(request).or(again) {
                self.iommu.requests.push(request);
            }
        }
    }

    fn send_request(&mut self, function: FunctionId) {
        let attached = self.iommu.attached.contains_key(&function);
        let page = if self.random.one_in(16) {
            self.random.below(1 << 12) << 12
        } else {
            *self.random.pick(&IO_PAGES).unwrap_or(&0)
        };
        let write = self.random.one_in(2);
        self.iommu.requests.push(Request { function, address: Gpa::new(page), write, attached, leaf: None });
    }

    /// One step of a request: it is translated, or it reaches memory. `None` when it is over.
    fn advance(&mut self, request: Request) -> Option<Request> {
        if let Some(leaf) = request.leaf {
            self.reach_memory(&request, leaf);
            return None;
        }
        let leaf = self.translate(&request);
        if leaf.is_none() {
            self.iommu.stopped += 1;
            self.record_fault(&request);
            if !request.attached {
                let function = request.function;
                self.violate(format!("{function:?} is a bus master although it is attached to no domain"));
            }
        }
        leaf.map(|_| Request { leaf, ..request })
    }

    /// The unit notes what it has stopped, if it has room, and tells the first core if that is news and it may.
    fn record_fault(&mut self, request: &Request) {
        let &Request { function, address, write, .. } = request;
        let page = address.get() & !(PAGE - 1);
        let stopped = if write { Stopped::Write(page) } else { Stopped::Read(page) };
        let record = FaultRecord { requester: requester(function), stopped, reason: 5 };
        if self.iommu.records.len() == RECORDS {
            self.iommu.lost += 1;
            return;
        }
        let is_news = self.iommu.records.is_empty();
        self.iommu.records.push((function, record));
        self.iommu.is_event_due |= is_news;
        self.tell_faults();
    }

    /// Sends the event that is due, unless it is held back.
    fn tell_faults(&mut self) {
        if self.iommu.is_event_due && !self.iommu.are_events_held {
            self.iommu.is_event_due = false;
            self.send_nmi(0);
        }
    }

    /// Takes the oldest record; with the last one goes the event that was due.
    pub(crate) fn take_fault(&mut self) -> Option<(Option<FunctionId>, FaultRecord)> {
        if self.iommu.records.is_empty() {
            return None;
        }
        let (function, record) = self.iommu.records.remove(0);
        self.iommu.is_event_due &= !self.iommu.records.is_empty();
        self.iommu.taken += 1;
        Some((Some(function), record))
    }

    /// Holds events back, or no longer.
    pub(crate) fn hold_fault_events(&mut self, held: bool) {
        self.iommu.are_events_held = held;
        self.tell_faults();
    }

    /// Requests that `which` names run to their end, unless the unit has failed.
    fn finish_requests(&mut self, which: impl Fn(&Request) -> bool) {
        if self.iommu.is_cut {
            return;
        }
        let (ending, others) = std::mem::take(&mut self.iommu.requests).into_iter().partition(which);
        self.iommu.requests = others;
        let ending: Vec<Request> = ending;
        for request in ending {
            let mut under_way = Some(request);
            while let Some(request) = under_way {
                under_way = self.advance(request);
            }
        }
    }

    // ---- translation ---------------------------------------------------------------------------------------------

    fn translate(&mut self, request: &Request) -> Option<Cached> {
        let &Request { function, address, write, .. } = request;
        if self.random.one_in(8) {
            // It may forget at any time.
            self.iommu.cached_contexts.remove(&function);
        }
        let domain = match self.iommu.cached_contexts.get(&function) {
            Some(&domain) => domain,
            None => {
                let domain = *self.iommu.contexts.get(&function)?;
                self.iommu.cached_contexts.insert(function, domain);
                domain
            }
        };
        let wanted = if write { Rights::WRITE } else { Rights::READ };
        match self.iommu.iotlb.leaf(number_of(function), address) {
            Some(leaf) if !self.random.one_in(8) => leaf.rights.contains(wanted).then_some(leaf),
            _ => self.walk_io(function, domain, address, wanted),
        }
    }

    /// Walks a domain's tables from the lowest one that the unit remembers, or from the root.
    fn walk_io(&mut self, function: FunctionId, domain: VmId, address: Gpa, wanted: Rights) -> Option<Cached> {
        let tree = Tree::of_domain(domain);
        let number = number_of(function);
        let (mut table, mut level) = (tree.root, tree.level);
        if !self.random.one_in(4)
            && let Some(cached) = self.iommu.iotlb.table(number, address)
        {
            (table, level) = (cached.base, cached.level - 1);
        }
        loop {
            self.judge_io_table(function, address, table, level);
            let entry = self.memory.word(table.get() + entry_index(address, level) as u64 * 8);
            let (base, leaf) = match FORMAT.decode(entry, level) {
                Entry::Empty => return None,
                Entry::Table(next) => (next, false),
                Entry::Leaf(base) => (base, true),
            };
            let rights = if leaf { FORMAT.rights(entry) } else { Rights::empty() };
            let prefix = prefix(address, level);
            let cached = Cached { asid: number, level, leaf, prefix, base, rights, dirty: true };
            self.iommu.iotlb.keep(cached, &mut self.random);
            if leaf {
                return rights.contains(wanted).then_some(cached);
            }
            (table, level) = (base, level - 1);
        }
    }

    // ---- judging -------------------------------------------------------------------------------------------------

    /// True if something holds of the tree of the domain that a function is attached to, now or since it was flushed last
    /// in the present step.
    fn holds_of_domain(
        &self,
        function: FunctionId,
        address: Gpa,
        holds: impl Fn(&([Option<Hpa>; 5], Option<(Hpa, Rights)>)) -> bool,
    ) -> bool {
        let Some(&domain) = self.iommu.attached.get(&function) else { return false };
        let tree = Tree::of_domain(domain);
        let since = self.iommu.flushed.get(&function).copied().unwrap_or(0);
        holds(&tree.walk(address, |at| self.memory.word(at)))
            || self.in_step && holds(&tree.walk(address, |at| self.memory.word_since(at, since)))
    }

    /// A unit that has failed reaches a page.
    fn judge_late(&mut self, function: FunctionId, page: u64, allowed: &[Use]) {
        let found = self.memory.page_use(page);
        if !allowed.contains(&found) || self.made[page as usize] > self.iommu.cut_at {
            self.violate(format!(
                "a failed IOMMU reaches page {page:#x} for {function:?}, which was made {found:?} since"
            ));
        }
    }

    fn judge_io_table(&mut self, function: FunctionId, address: Gpa, table: Hpa, level: u8) {
        if self.iommu.is_cut {
            // A table that was taken out of its tree is clean.
            self.judge_late(function, table.get() / PAGE, &[Use::Table, Use::Data]);
        } else if !self.holds_of_domain(function, address, |(tables, _)| tables[usize::from(level)] == Some(table)) {
            self.violate(format!(
                "the IOMMU walks for {function:?} at {:#x} through {:#x}, no table of level {level} of its domain any more",
                address.get(),
                table.get()
            ));
        }
    }

    /// A request reaches memory.
    fn reach_memory(&mut self, request: &Request, leaf: Cached) {
        let &Request { function, address, write, .. } = request;
        let wanted = if write { Rights::WRITE } else { Rights::READ };
        let page = leaf.base.get() / PAGE;
        self.iommu.accesses += 1;
        self.say(|| format!("{function:?} reaches {:#x} at {:#x}, write {write}", leaf.base.get(), address.get()));
        let allows = |(base, rights): (Hpa, Rights)| base == leaf.base && rights.contains(wanted);
        if self.iommu.is_cut {
            self.judge_late(function, page, &[Use::Data]);
            if self.iommu.scrubbed.contains(&page) {
                self.violate(format!(
                    "a failed IOMMU reaches page {page:#x} for {function:?}, which was scrubbed since"
                ));
            }
        } else if !self.iommu.attached.contains_key(&function) {
            self.violate(format!("DMA of {function:?} reaches {:#x} after it was detached", leaf.base.get()));
        } else if !self.holds_of_domain(function, address, |(_, end)| end.is_some_and(allows)) {
            self.violate(format!(
                "DMA of {function:?} reaches {:#x} at {:#x} with {wanted:?}, which its domain does not map so any more",
                leaf.base.get(),
                address.get()
            ));
        }
        if self.memory.page_use(page) != Use::Data {
            let found = self.memory.page_use(page);
            self.violate(format!("DMA of {function:?} reaches page {page:#x}, which is {found:?}"));
        }
        self.touch(&function, page, write);
    }

    // ---- what the kernel tells the unit --------------------------------------------------------------------------

    /// Waits for the unit, while everybody else goes on. False if it does not answer in time, or did not before.
    pub(crate) fn wait_for_unit(&mut self, active: usize) -> bool {
        if self.iommu.is_dead {
            return false;
        }
        if self.in_step {
            for _ in 0..self.random.below(4) {
                self.dma_moment();
                self.run_beside(active);
            }
            let rarity = if self.bug == Some(Bug::ForgottenQuarantine) { MORE_TIME_OUTS } else { TIME_OUTS };
            self.iommu.is_dead = self.random.one_in(rarity);
        }
        !self.iommu.is_dead
    }

    /// Gives a function a domain.
    pub(crate) fn set_context(&mut self, active: usize, function: FunctionId, domain: VmId) -> bool {
        if self.iommu.records.iter().any(|(of, _)| *of == function) {
            self.violate(format!("{function:?} gets a domain, and what it was stopped from before is not told yet"));
        }
        self.iommu.contexts.insert(function, domain);
        self.iommu.attached.insert(function, domain);
        self.wait_for_unit(active)
    }

    /// Takes a function's domain away, and makes the unit forget what it remembers for it.
    pub(crate) fn clear_context(&mut self, active: usize, function: FunctionId) -> bool {
        self.iommu.contexts.remove(&function);
        if !self.wait_for_unit(active) {
            return false;
        }
        if self.bug != Some(Bug::ForgottenContextFlush) {
            self.iommu.cached_contexts.remove(&function);
        }
        if self.bug != Some(Bug::ForgottenDetachFlush) {
            self.iommu.iotlb.flush_number(number_of(function));
        }
        self.drain();
        true
    }

    /// Makes the unit forget the translations that it remembers for a function.
    pub(crate) fn flush_translations(&mut self, active: usize, function: FunctionId) -> bool {
        if !self.wait_for_unit(active) {
            return false;
        }
        if self.bug != Some(Bug::ForgottenIotlbFlush) {
            self.iommu.iotlb.flush_number(number_of(function));
        }
        self.drain();
        self.iommu.flushed.insert(function, self.memory.changes());
        true
    }

    /// The unit says that it is done: what it had translated before has reached memory.
    fn drain(&mut self) {
        if self.bug != Some(Bug::DmaInFlight) {
            self.finish_requests(|request| request.leaf.is_some());
        }
    }

    /// The answer to a read comes after the writes that the function sent before, and mostly its reads are over by then as
    /// well.
    pub(crate) fn read_back(&mut self, function: FunctionId) {
        let all = !self.random.one_in(8);
        self.finish_requests(|request| request.function == function && (all || request.write));
    }

    /// The bridges let no function through any more; what is beyond them stays under way.
    pub(crate) fn cut_off_dma(&mut self) {
        self.iommu.is_cut = true;
        self.stores += 1;
        self.iommu.cut_at = self.stores;
        self.iommu.attached.clear();
    }
}
