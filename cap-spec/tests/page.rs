//! The committed reference is what the sources say, and nothing is missing from it.

use cap_spec::page::write_reference;
use cap_spec::properties::Property;
use cap_spec::spec::LABELS;

fn page() -> String {
    let mut page = String::new();
    write_reference(&mut page).expect("a String takes everything");
    page
}

#[test]
fn the_committed_page_is_up_to_date() {
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/specification.md");
    let committed = std::fs::read_to_string(committed).expect("docs/specification.md is committed");
    assert!(committed == page(), "docs/specification.md is out of date: run `cargo xtask abi`");
}

#[test]
fn every_label_argument_and_constant_is_on_the_page() {
    let page = page();
    for spec in LABELS {
        assert!(page.contains(&format!("#### {} ", spec.label as u16)), "{:?}", spec.label);
        assert!(page.contains(spec.doc), "{:?}", spec.label);
        for arg in spec.args {
            assert!(page.contains(&format!("| `{}` |", arg.name)), "{:?} {}", spec.label, arg.name);
        }
    }
    for name in ["UPCALL_BUSY", "WORST_SHORTFALL", "UNTYPED_BITS", "MARKET_RING", "NestedFault", "TooDeep", "CONTROL"] {
        assert!(page.contains(name), "{name}");
    }
}

#[test]
fn every_object_and_property_has_its_place() {
    let page = page();
    for chapter in ["Untyped", "CNode", "Frame", "PageTable", "Vm", "Vcpu", "CpuTime", "Channel", "Irq", "IoPort"]
        .into_iter()
        .chain([
            "Machine",
            "IommuDomain",
            "PciFunction",
            "Faults",
            "Mappings",
            "Delete and Revoke in steps",
            "Properties",
        ])
    {
        let (_, behind) =
            page.split_once(&format!("\n## {chapter}\n")).unwrap_or_else(|| panic!("{chapter} is missing"));
        let text = behind.split("\n## ").next().unwrap_or_default();
        assert!(text.lines().filter(|line| !line.is_empty()).count() >= 4, "{chapter} says nothing: {text}");
    }
    for property in Property::all() {
        assert!(page.contains(&format!("| `{}` | {} |", property.name(), property.statement())), "{property:?}");
    }
    // Links that only rustdoc can follow, and the state, of which each object has some.
    assert!(!page.contains("](super::") && !page.contains("[`"), "a link leads nowhere");
    for field in ["`watermark`:", "`slot_bits`:", "`mapping`:", "`cspace`:", "`handler`:", "`free_from`:", "`lease`:"] {
        assert!(page.contains(field), "{field}");
    }
}
