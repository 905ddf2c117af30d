//! The state from which a replay begins: what boot hands out, as it lies in memory before the first guest runs.

use std::collections::BTreeMap;

use cap_spec::abi::{BOOT_INFO_MAGIC, ROOT_BOOT_INFO, Rights, boot_info};
use cap_spec::machine::{Cap, Entry as TableEntry, Run, SlotId, State, VcpuId, VmId, initial_registers, mappings};
use kernel::types as k;
use lockstep::observe::{Seen, observe};

use super::{Divergence, Replay};
use crate::record::{Entry, Record};
use crate::seen::Snapshot;

impl Replay {
    /// From the first stop of a machine on: the records so far, and its memory.
    ///
    /// # Errors
    /// When that is not how a kernel starts, or what lies in memory is not what the root VM is told.
    pub fn begin(records: &[[u64; kernel::trace::WORDS]], snapshot: &Snapshot<'_>) -> Result<Replay, Divergence> {
        let refuse = |what: String| Divergence { what, at: 0, last: Vec::new() };
        let first: Result<Vec<Entry>, String> = records.iter().map(Entry::from_words).collect();
        match first.map_err(refuse)?[..] {
            [entry @ Entry { number: 0, record: Record::RootStarted(vcpu, at), .. }] => {
                let mut replay = Replay::of(snapshot, vcpu, at).map_err(refuse)?;
                replay.last.push_back(entry);
                replay.next = 1;
                replay.statistics.records = 1;
                replay.check_invariants().map_err(refuse)?;
                Ok(replay)
            }
            _ => Err(refuse("a trace begins with the start of the root VM, and nothing else".into())),
        }
    }

    fn of(snapshot: &Snapshot<'_>, vcpu: VcpuId, at: u64) -> Result<Replay, String> {
        let vm = snapshot.vm(snapshot.vcpu(k::VcpuId::at(k::Hpa::new(vcpu.0))).vm);
        let slots = (1..vm.cspace_slots).map(|index| vm.cspace.plus(index));
        let boot: Vec<k::SlotId> = slots.filter(|slot| snapshot.slot(*slot).boot).collect();
        let mut spec = observe(snapshot, &boot, &snapshot.config())?;
        let Some(root) = spec.vcpus.get_mut(&vcpu) else { return Err("there is no root VM".into()) };
        if root.run != Run::Runnable {
            return Err(format!("the root VM is {:?}", root.run));
        }
        root.registers = initial_registers();
        root.registers[cap_spec::abi::Register::Rip as usize] = at;
        let Some(vm) = root.vm else { return Err("the root Vcpu has no VM".into()) };
        check_handed_out(&spec, snapshot, vm)?;
        Ok(Replay::starting(spec, boot, vcpu))
    }
}

/// What the root VM is told of itself, and what it has, agree.
fn check_handed_out(spec: &State, snapshot: &Snapshot<'_>, vm: VmId) -> Result<(), String> {
    let page = mappings(spec, vm).into_iter().find_map(|(gpa, entry)| match entry {
        TableEntry::Leaf { extent, .. } if gpa == ROOT_BOOT_INFO => Some(extent.base),
        _ => None,
    });
    let page = page.ok_or("the root VM has no BootInfo")?;
    let word = |offset: usize| snapshot.word(page + offset as u64);
    let expect = |what: &str, told: u64, found: u64| {
        if told == found { Ok(()) } else { Err(format!("{what}: the root VM is told {told:#x}, and has {found:#x}")) }
    };
    expect("the mark of BootInfo", word(boot_info::MAGIC), BOOT_INFO_MAGIC)?;
    expect("TSC frequency", word(boot_info::TSC_HZ), spec.config.max_period)?;
    expect("first route of messages", word(boot_info::FIRST_MESSAGE_ROUTE), spec.config.first_message_route.into())?;
    let cnode = spec.vms[&vm].cspace.ok_or("the root VM has no CSpace")?;
    expect("slots", word(boot_info::SLOTS), 1 << spec.cnodes[&cnode])?;
    let at = |first: usize, index: u64| spec.slots.get(&cnode.slot(word(first) + index)).map(|slot| &slot.cap);
    let mut boot: BTreeMap<SlotId, bool> =
        spec.slots.iter().filter(|(_, slot)| slot.parent.is_none()).map(|(id, _)| (*id, false)).collect();
    for core in 0..word(boot_info::CORES) {
        match at(boot_info::FIRST_CPU_TIME, core) {
            Some(Cap::CpuTime { core: found, .. }) => expect("core", core, (*found).into())?,
            found => return Err(format!("CPU time of core {core} is {found:?}")),
        }
        boot.insert(cnode.slot(word(boot_info::FIRST_CPU_TIME) + core), true);
    }
    let mut end = 0;
    for index in 0..word(boot_info::UNTYPEDS) {
        match at(boot_info::FIRST_UNTYPED, index) {
            Some(Cap::Untyped { extent, device: false, watermark }) if extent.base >= end => {
                expect("dirty bytes", *watermark, extent.bytes())?;
                end = extent.base + extent.bytes();
            }
            found => return Err(format!("Untyped {index} is {found:x?}, after {end:#x}")),
        }
        boot.insert(cnode.slot(word(boot_info::FIRST_UNTYPED) + index), true);
    }
    for index in 0..word(boot_info::FUNCTIONS) {
        match at(boot_info::FIRST_FUNCTION, index) {
            Some(Cap::PciFunction { lease: 0, .. }) => {}
            found => return Err(format!("function {index} is {found:?}")),
        }
        boot.insert(cnode.slot(word(boot_info::FIRST_FUNCTION) + index), true);
    }
    // The rest are one each: the CNode, the VM, its Vcpu, the machine, ports and routes.
    let rest: Vec<_> =
        boot.iter().filter(|(_, told)| !**told).map(|(id, _)| spec.slots[id].cap.object_type()).collect();
    let mut kinds = rest.clone();
    kinds.sort_unstable_by_key(|kind| *kind as u64);
    kinds.dedup();
    expect("boot capabilities besides", 6, rest.len() as u64)?;
    expect("kinds of them", 6, kinds.len() as u64)?;
    match spec.slots.iter().find(|(_, slot)| slot.parent.is_none() && (slot.rights != Rights::all() || !slot.original))
    {
        Some((id, slot)) => Err(format!("boot capability {id:x?} is {slot:x?}")),
        None => Ok(()),
    }
}
