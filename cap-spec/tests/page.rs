//! The committed page of the ABI is what the data says.

use cap_spec::page::write_page;
use cap_spec::spec::LABELS;

fn page() -> String {
    let mut page = String::new();
    write_page(&mut page).expect("a String takes everything");
    page
}

#[test]
fn the_committed_page_is_up_to_date() {
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/abi.md");
    let committed = std::fs::read_to_string(committed).expect("docs/abi.md is committed");
    assert!(committed == page(), "docs/abi.md is out of date: run `cargo xtask abi`");
}

#[test]
fn every_label_argument_and_constant_is_on_the_page() {
    let page = page();
    for spec in LABELS {
        assert!(page.contains(&format!("### {} ", spec.label as u16)), "{:?}", spec.label);
        assert!(page.contains(spec.doc), "{:?}", spec.label);
        for arg in spec.args {
            assert!(page.contains(&format!("| `{}` |", arg.name)), "{:?} {}", spec.label, arg.name);
        }
    }
    for name in ["UPCALL_BUSY", "WORST_SHORTFALL", "UNTYPED_BITS", "MARKET_RING", "NestedFault", "TooDeep", "CONTROL"] {
        assert!(page.contains(name), "{name}");
    }
}
