//! The NVMe controller of a scenario: `[storage]`, and what applications want of it.

use super::ReadApp;
use super::reader::Placed;
use super::reader::{Problems, Section};
use super::tree::Place;
use super::units;
use crate::storage::{Medium, Storage};
use proto::plan::Good;
use proto::storage::{CONTROLLER_UNITS, STORAGE_GOOD, storage_units};

/// All bases must fit into what the controller is taken to do.
pub fn check_operations(apps: &[ReadApp], problems: &Problems) {
    let mut left = CONTROLLER_UNITS;
    for &Placed { value: wanted, place } in apps.iter().filter_map(|app| app.base_iops.as_ref()) {
        if wanted > left {
            let reason = format!(
                "the storage device has {left} units of operations left for this base, not {wanted}: the bases before it have \
                 the rest of {CONTROLLER_UNITS}"
            );
            problems.add(place, reason);
            break;
        }
        left -= wanted;
    }
}

/// How much of the good is for sale besides bases, if anybody can buy it: what namespaces have beside these, unless the section
/// says less.
pub fn supply(storage: &Storage, apps: &[ReadApp], goods: &mut [Good], place: Place, problems: &Problems) {
    let Some(good) = goods.iter_mut().find(|good| good.name == STORAGE_GOOD) else { return };
    let bases = apps.iter().filter(|app| app.base_storage).filter_map(|app| app.storage.as_ref());
    let bases = bases.fold(0u32, |sum, wanted| sum.saturating_add(storage_units(wanted.value)));
    let all = storage.namespaces.iter().fold(0u32, |sum, &bytes| sum.saturating_add(storage_units(bytes)));
    let most = all.saturating_sub(bases);
    let has_buyers = apps.iter().any(|app| app.storage.is_some() && !app.base_storage);
    let supply = good.supply_limit.unwrap_or(if has_buyers { most } else { 0 });
    if supply > most {
        problems.add(place, format!("[storage] `supply`: the namespaces have {most} MiB besides bases, not {supply}"));
    }
    good.supply_limit = Some(supply);
}

/// Reads the section. Without `namespaces` there is one for each application that has `storage`, of that size.
pub fn read(mut section: Section<'_>, apps: &[ReadApp], problems: &Problems) -> Storage {
    let place = section.place();
    let medium = match section.text("medium") {
        None => Medium::File,
        Some(text) if text.value == "file" => Medium::File,
        Some(text) if text.value == "null" => Medium::Null,
        Some(text) => {
            problems.add(text.place, "`medium`: must be \"file\" or \"null\"");
            Medium::File
        }
    };
    let wanted = || apps.iter().filter_map(|app| app.storage.as_ref());
    let sizes = section.texts("namespaces").map(|texts| {
        let size = |text: &String| match units::bytes(text) {
            Ok(bytes) if bytes > 0 && bytes.is_multiple_of(4096) => Some(bytes),
            _ => {
                problems.add(place, format!("`namespaces`: `{text}` is no size in whole pages of 4 KiB"));
                None
            }
        };
        texts.iter().filter_map(size).collect::<Vec<u64>>()
    });
    section.finish();
    if wanted().next().is_none() {
        return Storage { medium, namespaces: Vec::new() };
    }
    let namespaces = sizes.unwrap_or_else(|| wanted().map(|wanted| wanted.value).collect());
    for wanted in wanted() {
        if namespaces.iter().all(|&bytes| bytes < wanted.value) {
            problems.add(wanted.place, "`storage`: no namespace is as large as that");
        }
    }
    Storage { medium, namespaces }
}
