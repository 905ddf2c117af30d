//! What hardware remembers, and what it does on its own.
//!
//! * A **core** runs at most one Vcpu. It remembers translations (leaves) and tables on the way to them, of any address
//!   space, for as long as it likes. An access by what runs there uses a translation that is remembered, or walks the
//!   tables, from the last table of the way that is remembered on, and may remember everything that it finds.
//! * The **IOMMU** does the same for the DMA of each function, in the domain to which it is attached. A read or write that
//!   has been translated is *in flight* until it lands, whatever the tables say then.
//! * It remembers **interrupt routes**: to which Vcpu, as which vector.
//! * A walk writes into the tables that it uses (accessed bits), as a write does into memory: both make it dirty.
//!
//! Hardware fills only from what the tables say; it forgets at any time; and it is made to forget by a flush (`fine`). What
//! it remembers is *stale* if the tables do not say it any more.
//!
//! What stands for what: forgetting by a core may be done by giving the VM an address-space number that was not used
//! since the last flush of the core, as nothing that is remembered under the old one is used then. In-flight DMA that is
//! waited for is the read and write draining of an invalidation (Intel VT-d, 6.5.5).

use alloc::collections::{BTreeMap, BTreeSet};

use super::super::address_space::{entry, index, leaf_level, root_level, table_start};
use super::super::state::{Cap, Entry, Extent, Route, Run, State, TableId, VcpuId, VmId};
use super::bytes::Bytes;
use crate::abi::{PAGE_BITS, Rights};

/// Something that a walk of the tables of an address space has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cached {
    /// Whose tables.
    pub space: VmId,
    /// First address that the entry covers.
    pub gpa: u64,
    /// Level of the table in which the entry stands.
    pub level: u8,
    /// The entry.
    pub entry: Entry,
}

impl Cached {
    /// True if the entry is one for this address.
    fn covers(&self, space: VmId, gpa: u64) -> bool {
        self.space == space && table_start(gpa, self.level - 1) == self.gpa
    }

    /// True if the tables say so.
    pub fn is_in_tables(&self, state: &State) -> bool {
        match (entry(state, self.space, self.gpa, self.level), self.entry) {
            (Some(Entry::Leaf { extent, rights }), Entry::Leaf { extent: found, rights: used }) => {
                extent == found && rights.contains(used)
            }
            (found, remembered) => found == Some(remembered),
        }
    }

    /// The memory to which it leads.
    pub fn leads_to(&self) -> Extent {
        match self.entry {
            Entry::Leaf { extent, .. } => extent,
            Entry::Table(TableId(base)) => Extent { base, bits: PAGE_BITS },
        }
    }
}

/// A read or write of a function that has been translated and has not landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dma {
    /// Whose.
    pub function: u16,
    /// Through which translation.
    pub through: Cached,
    /// The page of memory.
    pub page: u64,
    /// It writes.
    pub is_write: bool,
}

/// Everything that hardware remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hardware {
    /// The Vcpu that each core is running.
    pub running: BTreeMap<u8, VcpuId>,
    /// What each core remembers of tables.
    pub tlb: BTreeSet<(u8, Cached)>,
    /// What the IOMMU remembers of tables, by function.
    pub iotlb: BTreeSet<(u16, Cached)>,
    /// What functions have under way.
    pub dma: BTreeSet<Dma>,
    /// What the IOMMU remembers of interrupt routes.
    pub routes: BTreeSet<(u16, Route)>,
}

/// Who remembers something stale, and must forget it before it may be reused.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flush {
    /// Cores.
    pub cores: BTreeSet<u8>,
    /// The IOMMU.
    pub iommu: bool,
}

impl Flush {
    /// True if nobody has to forget anything.
    pub fn is_complete(&self) -> bool {
        self.cores.is_empty() && !self.iommu
    }
}

/// The core of the reservation that a Vcpu is bound to.
pub fn core_of(state: &State, vcpu: VcpuId) -> Option<u8> {
    match state.slots[&state.time_of(vcpu)?].cap {
        Cap::CpuTime { core, .. } => Some(core),
        _ => None,
    }
}

/// The core on which a Vcpu may run now, if there is one.
pub fn may_run(state: &State, id: VcpuId) -> Option<u8> {
    let vcpu = state.vcpus.get(&id)?;
    if vcpu.run == Run::Runnable && vcpu.vm.is_some() { core_of(state, id) } else { None }
}

/// Where the capabilities say that an interrupt route goes, if something may raise it.
pub fn route_of(state: &State, number: u16) -> Option<Route> {
    let is_pin = number < state.config.first_message_route;
    state.slots.values().find_map(|slot| match slot.cap {
        Cap::Irq { first, count: 1, route, message } if first == number && (is_pin || message.is_some()) => route,
        _ => None,
    })
}

/// True if a function's DMA may go through this.
fn allows_io(state: &State, function: u16, cached: &Cached) -> bool {
    let attached = state.functions.get(&function).and_then(|function| function.domain);
    attached == Some(cached.space) && cached.is_in_tables(state)
}

impl Hardware {
    /// True if what a core runs may run there.
    fn allows_running(state: &State, core: u8, vcpu: VcpuId) -> bool {
        may_run(state, vcpu) == Some(core)
    }

    /// Who remembers something that is stale.
    pub fn stale(&self, state: &State) -> Flush {
        let translations = self.tlb.iter().filter(|(_, cached)| !cached.is_in_tables(state)).map(|(core, _)| *core);
        let running = self.running.iter().filter(|(core, vcpu)| !Hardware::allows_running(state, **core, **vcpu));
        let cores = translations.chain(running.map(|(core, _)| *core)).collect();
        let iommu = self.iotlb.iter().any(|(function, cached)| !allows_io(state, *function, cached))
            || self.dma.iter().any(|dma| !allows_io(state, dma.function, &dma.through))
            || self.routes.iter().any(|(route, to)| route_of(state, *route) != Some(*to));
        Flush { cores, iommu }
    }

    /// Where translations lead that the IOMMU uses for functions, or has used for what is under way, and that the tables do
    /// not have any more.
    pub(super) fn stale_io(&self, state: &State) -> impl Iterator<Item = Extent> {
        let cached = self.iotlb.iter().filter(|(function, cached)| !allows_io(state, *function, cached));
        let dma = self.dma.iter().filter(|dma| !allows_io(state, dma.function, &dma.through));
        let page = |dma: &Dma| Extent { base: dma.page, bits: PAGE_BITS };
        cached.map(|(_, cached)| cached.leads_to()).chain(dma.map(page))
    }

    /// A core has left its guest, and forgets every address space of which something stale is remembered there.
    pub(super) fn flush_core(&mut self, state: &State, core: u8) {
        let on_core = |at: &u8| *at == core;
        let spaces: BTreeSet<VmId> = self
            .tlb
            .iter()
            .filter(|(at, cached)| on_core(at) && !cached.is_in_tables(state))
            .map(|(_, cached)| cached.space)
            .collect();
        self.tlb.retain(|(at, cached)| !on_core(at) || !spaces.contains(&cached.space));
        let vcpu = self.running.get(&core).copied();
        let vm = vcpu.and_then(|vcpu| state.vcpus.get(&vcpu)?.vm);
        let must_leave = vm.is_none_or(|vm| spaces.contains(&vm));
        if must_leave || vcpu.is_some_and(|vcpu| !Hardware::allows_running(state, core, vcpu)) {
            self.running.remove(&core);
        }
    }

    /// DMA that went through something stale has landed, and the IOMMU forgets what is stale.
    pub(super) fn flush_iommu(&mut self, state: &State, dirt: &mut Bytes) {
        self.dma.retain(|dma| {
            let stays = allows_io(state, dma.function, &dma.through);
            if !stays {
                land(dma, dirt);
            }
            stays
        });
        self.iotlb.retain(|(function, cached)| allows_io(state, *function, cached));
        self.routes.retain(|(route, to)| route_of(state, *route) == Some(*to));
    }

    /// What runs on a core reads, writes or fetches at an address. True if it reached memory.
    pub(super) fn access(&mut self, state: &State, dirt: &mut Bytes, core: u8, gpa: u64, wanted: Rights) -> bool {
        let Some(vm) = self.running.get(&core).and_then(|vcpu| state.vcpus.get(vcpu)?.vm) else { return false };
        let remembered = self.tlb.iter().filter(|(at, _)| *at == core).map(|(_, cached)| *cached).collect();
        let (found, reached) = translate(state, dirt, remembered, vm, gpa, wanted);
        self.tlb.extend(found.into_iter().map(|cached| (core, cached)));
        if let (Some(through), true) = (reached, wanted.contains(Rights::WRITE)) {
            dirt.add(page_of(&through, gpa), 1 << PAGE_BITS);
        }
        reached.is_some()
    }

    /// A function begins a read or write at an I/O address. True if it is translated.
    pub(super) fn begin_dma(
        &mut self,
        state: &State,
        dirt: &mut Bytes,
        function: u16,
        address: u64,
        is_write: bool,
    ) -> bool {
        let Some(domain) = state.functions.get(&function).and_then(|function| function.domain) else { return false };
        let remembered = self.iotlb.iter().filter(|(of, _)| *of == function).map(|(_, cached)| *cached).collect();
        let wanted = if is_write { Rights::WRITE } else { Rights::READ };
        let (found, reached) = translate(state, dirt, remembered, domain, address, wanted);
        self.iotlb.extend(found.into_iter().map(|cached| (function, cached)));
        if let Some(through) = reached {
            self.dma.insert(Dma { function, through, page: page_of(&through, address), is_write });
        }
        reached.is_some()
    }

    /// A read or write lands. False if there is no such one.
    pub(super) fn end_dma(&mut self, dirt: &mut Bytes, dma: &Dma) -> bool {
        if self.dma.remove(dma) {
            land(dma, dirt);
            return true;
        }
        false
    }

    /// Something raises an interrupt route. True if the interrupt arrives.
    pub(super) fn interrupt(&mut self, state: &State, route: u16) -> bool {
        let remembered = self.routes.iter().any(|(at, _)| *at == route);
        if let (false, Some(to)) = (remembered, route_of(state, route)) {
            self.routes.insert((route, to));
            return true;
        }
        remembered
    }
}

/// What a read or write that lands leaves.
fn land(dma: &Dma, dirt: &mut Bytes) {
    if dma.is_write {
        dirt.add(dma.page, 1 << PAGE_BITS);
    }
}

/// The page of memory that an address leads to.
fn page_of(through: &Cached, gpa: u64) -> u64 {
    through.leads_to().base + table_start(gpa - through.gpa, 0)
}

/// Finds the leaf for an address: what was found on the way that was not remembered, and the leaf if it allows what is
/// wanted.
fn translate(
    state: &State,
    dirt: &mut Bytes,
    remembered: BTreeSet<Cached>,
    space: VmId,
    gpa: u64,
    wanted: Rights,
) -> (BTreeSet<Cached>, Option<Cached>) {
    let mut found = BTreeSet::new();
    let usable = || remembered.iter().filter(|cached| cached.covers(space, gpa));
    let allows = |cached: &Cached| matches!(cached.entry, Entry::Leaf { rights, .. } if rights.contains(wanted));
    if let Some(leaf) = usable().find(|cached| allows(cached)) {
        return (found, Some(*leaf));
    }
    // The last table of the way that is remembered, or the root.
    let tables = usable().filter_map(|cached| match cached.entry {
        Entry::Table(table) => Some((cached.level - 1, table)),
        Entry::Leaf { .. } => None,
    });
    let (mut level, mut table) = tables.min().unwrap_or((root_level(state, space), space.root()));
    loop {
        dirt.add(table.0, 1 << PAGE_BITS);
        // A table that is none any more holds whatever its memory holds: nothing here, as `fine::check` does not let a
        // walk come this far.
        let Some(entry) = state.tables.get(&table).and_then(|entries| entries.get(&index(gpa, level))) else {
            return (found, None);
        };
        let cached = Cached { space, gpa: table_start(gpa, level - 1), level, entry: *entry };
        match *entry {
            Entry::Table(next) => {
                found.insert(cached);
                (level, table) = (level - 1, next);
            }
            Entry::Leaf { extent, .. } => {
                debug_assert_eq!(leaf_level(extent.bits), level, "a leaf of a size stands in one level");
                let is_allowed = allows(&cached);
                if is_allowed {
                    found.insert(cached);
                }
                return (found, is_allowed.then_some(cached));
            }
        }
    }
}
