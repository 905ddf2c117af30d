//! The NVMe controller of a scenario: `[storage]`, and what applications want of it.

use super::ReadApp;
use super::reader::{Placed, Problems, Section};
use super::tree::Place;
use super::units;
use crate::storage::{Medium, Storage};
use proto::plan::{App, Good};
use proto::storage::{CONTROLLER_UNITS, STORAGE_GOOD, storage_units};

/// What an application wants.
pub struct Wanted {
    /// Bytes of its namespace, if it wants one.
    pub bytes: Option<Placed<u64>>,
    /// The namespace is in its base.
    pub in_base: bool,
    /// Units of operations in its base, if they are limited.
    pub base_iops: Option<Placed<u32>>,
}

impl Wanted {
    /// Reads the keys of an application.
    pub fn read(section: &mut Section<'_>, problems: &Problems) -> Wanted {
        let bytes = section.bytes("storage");
        if let Some(bytes) = bytes.as_ref().filter(|bytes| bytes.value == 0 || !bytes.value.is_multiple_of(4096)) {
            problems.add(bytes.place, "`storage`: must be whole pages of 4 KiB, one at least");
        }
        let needs_storage = |wanted: Option<Placed<i64>>, refusal: &str| {
            if let Some(placed) = wanted.as_ref().filter(|_| bytes.is_none()) {
                problems.add(placed.place, refusal);
            }
            wanted
        };
        let in_base = needs_storage(
            section.integer("base_storage", 0..=1),
            "`base_storage`: only an application with `storage` has one",
        );
        let base_iops = needs_storage(
            section.integer("base_iops", 0..=i64::from(CONTROLLER_UNITS)),
            "`base_iops`: only an application with `storage` has some",
        );
        let in_base = in_base.is_none_or(|placed| placed.value > 0);
        let base_iops = base_iops.map(|placed| Placed { value: placed.value as u32, place: placed.place });
        Wanted { bytes, in_base, base_iops }
    }

    /// Puts it into the plan.
    pub fn plan(&self, app: App) -> App {
        let storage_bytes = self.bytes.as_ref().map_or(0, |bytes| bytes.value);
        let base_iops = self.base_iops.as_ref().map(|placed| placed.value);
        App { storage_bytes, base_storage: self.in_base, base_iops, ..app }
    }
}

/// All bases must fit into what the controller is taken to do.
pub fn check_operations(apps: &[ReadApp], problems: &Problems) {
    let mut left = CONTROLLER_UNITS;
    for &Placed { value: wanted, place } in apps.iter().filter_map(|app| app.storage.base_iops.as_ref()) {
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
    let wanted = || apps.iter().map(|app| &app.storage);
    let bases = wanted().filter(|wanted| wanted.in_base).filter_map(|wanted| wanted.bytes.as_ref());
    let bases = bases.fold(0u32, |sum, wanted| sum.saturating_add(storage_units(wanted.value)));
    let all = storage.namespaces.iter().fold(0u32, |sum, &bytes| sum.saturating_add(storage_units(bytes)));
    let most = all.saturating_sub(bases);
    let has_buyers = wanted().any(|wanted| wanted.bytes.is_some() && !wanted.in_base);
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
    let wanted = || apps.iter().filter_map(|app| app.storage.bytes.as_ref());
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
