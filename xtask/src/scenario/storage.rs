//! The NVMe controller of a scenario: `[storage]`, and what applications want of it.

use super::ReadApp;
use super::reader::Placed;
use super::reader::{Problems, Section};
use super::units;
use crate::storage::{Medium, Storage};
use proto::storage::CONTROLLER_UNITS;

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
