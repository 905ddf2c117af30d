//! What the market starts with: servers of devices, what applications are promised, and how much of each good that leaves
//! for sale.

use super::{Failure, Market};
use crate::archive::{Archive, GoodKind};
use crate::boot::Boot;
use crate::clock::Clock;
use crate::launch::{Layout, input_frames};
use crate::losses::PAGE_LEAD_MICROS;
use crate::machine::{Invoke, Machine, Slot};
use crate::memory::{BlockId, MemoryError};
use crate::nic_link::NicLink;
use crate::root::{GLOBAL_STATS_PAGE, Root};
use crate::storage_link::StorageLink;
use crate::tenant::Tenant;
use alloc::{collections::VecDeque, vec::Vec};
use cap_spec::abi::{self, Error, Rights, slots};
use market_mechanism::rounds::{GoodTerms, Rounds};
use market_mechanism::types::Ticks;
use market_mechanism::{GoodId, Price, Quantity};
use proto::plan::Good;
use proto::storage::storage_units;

/// A round of CPU time or bandwidth closes this long before its interval begins, so that what it resizes holds from the
/// interval's first tick: reservations change at period boundaries, limits when they are told to.
const TIME_LEAD_MICROS: u64 = 1_500;
/// One page in so many is kept for page tables and CNodes.
const KEPT_PAGES: u64 = 24;

/// Starts the network server if an application is to have a virtual function.
pub(super) fn start_nic<M: Machine>(
    root: &mut Root<M>,
    boot: &Boot,
    archive: &Archive<'_>,
) -> Result<Option<NicLink>, Failure> {
    let Some(image) = &archive.nic else { return Ok(None) };
    let failed = |error| Failure::Memory("network server", error);
    let vlans = archive.plan.apps.iter().map(|app| app.vlan);
    let mut nic = NicLink::find(root, boot, vlans).map_err(failed)?.map_err(Failure::NoNic)?;
    nic.start(root, image, &[]).map_err(failed)?;
    Ok(Some(nic))
}

/// Finds the NVMe controller if an application is to have a namespace. Its server is started when its functions are there.
pub(super) fn find_storage<M: Machine>(
    root: &mut Root<M>,
    boot: &Boot,
    archive: &Archive<'_>,
) -> Result<Option<StorageLink>, Failure> {
    if archive.storage.is_none() {
        return Ok(None);
    }
    let found = StorageLink::find(root, boot).map_err(|error| Failure::Memory("storage server", error))?;
    found.map(Some).map_err(Failure::NoStorage)
}

/// Takes the blocks that an application is promised: one for its base, then those for its input.
pub(crate) fn set_aside<M: Machine>(
    root: &mut Root<M>,
    layout: &Layout,
    input_bytes: u64,
) -> Result<(BlockId, Vec<BlockId>), MemoryError> {
    let base = root.take(layout.bits)?;
    let input = input_frames(input_bytes).into_iter().map(|bits| root.take(bits)).collect::<Result<_, _>>()?;
    Ok((base, input))
}

pub(super) fn map_global_stats<M: Machine>(root: &mut Root<M>) -> Result<(), MemoryError> {
    let slot = root.slot()?;
    let (cnode, index) = (slot.holder().raw(), u64::from(slot.index()));
    root.machine.invoke(abi::Label::MachineGetPage, Slot::root(slots::MARKET), [cnode, index, 0, 0, 0])?;
    root.map(slot, GLOBAL_STATS_PAGE, Rights::READ)
}

/// Pages that are left to sell beside the blocks that were set aside, the rings, and what page tables and CNodes take.
pub(super) fn elastic_pages<M: Machine>(root: &Root<M>, apps: usize) -> u32 {
    let sides = apps as u64 * (1 << (crate::life::SIDE_BITS - crate::memory::PAGE_BITS));
    let free = root.memory.free_pages();
    u32::try_from(free.saturating_sub(sides + free / KEPT_PAGES)).unwrap_or(u32::MAX)
}

/// Units of CPU time that the core can promise beyond its bases: the kernel is asked, as it alone knows what switches
/// cost; a further reservation with its switches is tried and given back.
pub(super) fn elastic_time<M: Machine>(
    root: &mut Root<M>,
    boot: &Boot,
    core: u8,
    clock: &Clock,
) -> Result<u32, MemoryError> {
    let slot = root.slot()?;
    let (mut fits, mut too_much) = (0, 101);
    while too_much - fits > 1 {
        let units = (fits + too_much) / 2;
        match root.machine.split_time(boot.time(core), u64::from(units) * clock.unit(), clock.frame(), slot) {
            Ok(()) => {
                root.machine.delete(slot)?;
                fits = units;
            }
            Err(fault) if matches!(fault.error, Error::NotAdmitted | Error::OutOfRange) => too_much = units,
            Err(fault) => return Err(fault.into()),
        }
    }
    root.memory.slots.give(slot);
    Ok(fits)
}

pub(super) fn make_market(
    at: usize,
    good: &Good,
    kind: GoodKind,
    elastic: u32,
    archive: &Archive<'_>,
    clock: &Clock,
) -> Result<Market, Failure> {
    let interval = clock.ticks(good.interval_ms.into());
    let page_interval = u64::from(archive.plan.goods[0].interval_ms);
    let terms = GoodTerms {
        good: GoodId(at as u16),
        interval: Ticks(interval),
        reserve: Price(good.reserve),
        fee: Price(good.fee),
        penalty: Price(good.penalty),
        // MARKET.md: a stop notice lasts one interval of pages.
        stop_notice: page_interval.div_ceil(good.interval_ms.into()).max(1) as u32,
    };
    let elastic = good.supply_limit.map_or(elastic, |limit| limit.min(elastic));
    // Each base joins when its application starts.
    let rounds = Rounds::new(terms, Quantity(elastic), Ticks(clock.epoch)).map_err(Failure::Rounds)?;
    let lead = match kind {
        GoodKind::Page | GoodKind::Vf | GoodKind::Storage => PAGE_LEAD_MICROS,
        GoodKind::Cpu(_) | GoodKind::Bandwidth | GoodKind::Operations => TIME_LEAD_MICROS,
    };
    let lead = clock.span(lead).min(interval / 4);
    Ok(Market {
        kind,
        rounds,
        retry: false,
        unreconciled: false,
        lead,
        begins: None,
        free_from: 0,
        past: VecDeque::new(),
        warn_at: u64::MAX,
        skipped: 0,
    })
}

/// Units of a good in all bases, without those of applications that start later.
pub(super) fn bases_at_start(archive: &Archive<'_>, tenants: &[Tenant], good: usize) -> u32 {
    let starting = tenants.iter().enumerate().filter(|(app, _)| archive.plan.apps[*app].starts);
    starting.filter_map(|(app, tenant)| base_units(archive, app, tenant, good)).sum()
}

/// Units of a good in an application's base; `None` if it takes no part in it, as in the CPU time of other cores.
pub fn base_units(archive: &Archive<'_>, app: usize, tenant: &Tenant, good: usize) -> Option<u32> {
    let plan = &archive.plan.apps[app];
    match archive.kinds[good] {
        GoodKind::Page => Some(tenant.base_pages),
        GoodKind::Cpu(_) => (usize::from(archive.cpu_goods[app]) == good).then_some(plan.base_cpu),
        GoodKind::Bandwidth => plan.nic.then_some(plan.base_bandwidth),
        GoodKind::Vf => plan.nic.then_some(plan.base_vf),
        GoodKind::Operations => plan.base_iops.filter(|_| plan.storage_bytes > 0),
        GoodKind::Storage if plan.storage_bytes == 0 => None,
        GoodKind::Storage => Some(if plan.base_storage { storage_units(plan.storage_bytes) } else { 0 }),
    }
}
