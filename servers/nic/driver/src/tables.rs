//! What VFs share in the device: the table of VLANs with the VFs in each, and the table of multicast hashes.

use crate::pool::Pool;
use crate::registers as reg;
use device::Registers;

/// Entries of the device's table of VLANs.
const VLAN_ENTRIES: usize = 32;
/// Words of each of the two tables of 4096 bits.
const TABLE_WORDS: usize = 128;

/// A VLAN and the VFs in it, as bits; free if there are none.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    vlan: u16,
    vfs: u8,
}

/// The VLANs, with their members.
#[derive(Debug)]
pub(crate) struct VlanTable {
    entries: [Entry; VLAN_ENTRIES],
}

impl VlanTable {
    pub const fn new() -> VlanTable {
        VlanTable { entries: [Entry { vlan: 0, vfs: 0 }; VLAN_ENTRIES] }
    }

    /// Makes a VF a member of a VLAN, which it may be already. False if the table is full.
    pub fn join(&mut self, registers: &impl Registers, vf: usize, vlan: u16) -> bool {
        let known = |entry: &Entry| entry.vfs != 0 && entry.vlan == vlan;
        let index = self.entries.iter().position(known).or_else(|| self.entries.iter().position(|e| e.vfs == 0));
        let Some((index, entry)) = index.and_then(|index| Some((index, self.entries.get_mut(index)?))) else {
            return false;
        };
        *entry = Entry { vlan, vfs: entry.vfs | 1 << vf };
        write(registers, index, *entry);
        set_filter(registers, vlan, true);
        true
    }

    /// Ends a VF's membership of a VLAN, or with `None` of all.
    pub fn leave(&mut self, registers: &impl Registers, vf: usize, vlan: Option<u16>) {
        for (index, entry) in self.entries.iter_mut().enumerate() {
            if entry.vfs & 1 << vf == 0 || vlan.is_some_and(|vlan| vlan != entry.vlan) {
                continue;
            }
            entry.vfs &= !(1 << vf);
            write(registers, index, *entry);
            if entry.vfs == 0 {
                set_filter(registers, entry.vlan, false);
            }
        }
    }
}

fn write(registers: &impl Registers, index: usize, entry: Entry) {
    let vfs = u32::from(entry.vfs) << reg::VLVF_POOL_SHIFT;
    let value = if entry.vfs == 0 { 0 } else { u32::from(entry.vlan) | vfs | reg::VLVF_ENABLE };
    registers.write32(reg::vlvf(index), value);
}

/// Lets frames of a VLAN into the device at all, or no longer.
fn set_filter(registers: &impl Registers, vlan: u16, pass: bool) {
    let (register, bit) = (reg::VFTA + 4 * u32::from(vlan / 32), 1 << (vlan % 32));
    let word = registers.read32(register);
    registers.write32(register, if pass { word | bit } else { word & !bit });
}

/// Writes the multicast hashes of all VFs. The device has one table for all of them, so a VF can get frames of a group
/// that only another VF asked for.
pub(crate) fn write_multicast(registers: &impl Registers, pools: &[Option<Pool>]) {
    let mut table = [0u32; TABLE_WORDS];
    for &hash in pools.iter().flatten().flat_map(|pool| pool.multicast.hashes()) {
        if let Some(word) = table.get_mut(usize::from(hash >> 5 & 0x7f)) {
            *word |= 1 << (hash & 0x1f);
        }
    }
    for (register, word) in (reg::MTA..).step_by(4).zip(table) {
        registers.write32(register, word);
    }
}

/// Empties what a reset of the device leaves undefined.
pub(crate) fn clear(registers: &impl Registers) {
    for register in (reg::MTA..).step_by(4).take(TABLE_WORDS).chain((reg::VFTA..).step_by(4).take(TABLE_WORDS)) {
        registers.write32(register, 0);
    }
    (0..VLAN_ENTRIES).for_each(|index| registers.write32(reg::vlvf(index), 0));
}
