//! Frames and tables into address spaces and out of them.

use super::deriving::{invoked, second};
use crate::operation::Draft;
use cap_spec::abi::Label;

/// Into address space `q`, which the capability `u` names.
fn into_space(draft: Draft, new: &str) -> Draft {
    second(invoked(draft))
        .constants("q")
        .require("space", "(kind(u, Vm) | kind(u, IommuDomain)) & right(u, WRITE) & names(u, q)")
        .require("not-mapped", format!("all x o: {new} -> !mapped(x, o)"))
        .update("mapped(x, o)", format!("mapped(x, o) | {new} & o = q"))
        .update("entry(x)", format!("entry(x) | {new}"))
}

/// Slots `row` of the CNode in which the invoked capability lies.
fn row(draft: Draft) -> Draft {
    draft
        .relation("row(x)")
        .constants("n")
        .require("some-row", "some x: row(x)")
        .require("row-of-frames", "all x: row(x) -> full(x) & kind(x, Frame)")
        .require("row-in-place", "within(s, n) & all x: row(x) -> within(x, n)")
}

/// What is taken out: `taken` itself, and what the tree no longer leads to (`cleared`), with the flush waited for.
fn out(draft: Draft, taken: &str) -> Draft {
    invoked(draft)
        .relation("cleared(x)")
        .require("cleared-too", format!("all x: {taken} -> cleared(x)"))
        .require("only-mapped", "all x: cleared(x) -> kind(x, Frame) | kind(x, PageTable)")
        .update("mapped(x, o)", format!("mapped(x, o) & !({taken})"))
        .update("entry(x)", "entry(x) & !cleared(x)")
        .update("cached(k, x)", "cached(k, x) & !cleared(x)")
        .update("due(k, x)", "due(k, x) & !cleared(x)")
}

pub(super) fn drafts() -> Vec<Draft> {
    vec![
        row(into_space(Draft::new("map-frames", &[Label::FrameMap, Label::FrameMapIo]), "row(x)"))
            .relation("wanted(r)")
            // A record of the same frame at the same address, whose table had been taken away, shows again.
            .relation("revived(x)")
            .require("revived-mapped", "all x: revived(x) -> mapped(x, q) & kind(x, Frame)")
            .update("entry(x)", "entry(x) | row(x) | revived(x)")
            .require("rights", "all x r: row(x) & wanted(r) -> right(x, r)")
            .update("maprights(x, r)", "maprights(x, r) | row(x) & wanted(r)"),
        into_space(Draft::new("map-table", &[Label::PageTableMap, Label::PageTableMapIo]), "x = s")
            .require("type", "kind(s, PageTable)"),
        out(row(Draft::new("unmap-frames", &[Label::FrameUnmap])), "row(x)")
            .require("mapped", "all x: row(x) -> some o: mapped(x, o)")
            .update("maprights(x, r)", "maprights(x, r) & !row(x)"),
        out(Draft::new("unmap-table", &[Label::PageTableUnmap]), "x = s")
            .require("type", "kind(s, PageTable)")
            .require("mapped", "some o: mapped(s, o)")
            .update("maprights(x, r)", "maprights(x, r) & x != s"),
    ]
}
