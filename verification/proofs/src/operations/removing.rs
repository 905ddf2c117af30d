//! What removes capabilities: as a whole, and one at a time, as a preempted Revoke does it.

use super::deriving::second;
use crate::operation::Draft;
use cap_spec::abi::Label;

/// Capabilities `gone` go, with objects `dead`. What goes with what are the requirements; entries are left alone.
fn remove(draft: Draft) -> Draft {
    let draft = draft
        .relation("gone(x)")
        .relation("dead(o)")
        .relation("freed(x, a)")
        .relation("cleared(x)")
        .relation("idle(o)")
        .relation("quiet(o)")
        .relation("ended(o)")
        .function("returned(x)")
        .require("gone-full", "all x: gone(x) -> full(x)")
        .require("boot-stays", "all x: gone(x) -> !boot(x)")
        .require("originals-take-kin", "all x y: anc(x, y) & gone(x) & orig(x) -> gone(y)")
        .require("objects-die", "all x o: names(x, o) & gone(x) & orig(x) & !kind(x, PciFunction) -> dead(o)")
        .require("dead-for-a-reason", "all o: dead(o) -> some x: gone(x) & orig(x) & names(x, o)")
        .require("slots-die", "all x o: within(x, o) & dead(o) & full(x) -> gone(x)")
        .require("function-stays", "all x o: names(x, o) & kind(x, PciFunction) & !gone(x) -> !dead(o)")
        .require(
            "function-goes",
            "all x o: names(x, o) & kind(x, PciFunction) & gone(x) & !dead(o) -> some y: orig(y) & names(y, o) & !gone(y)",
        )
        // Memory comes back only from an Untyped that is gone, with all between, and only what that had not given out.
        .require(
            "freed-unused",
            "all x a: freed(x, a) & !gone(x) -> some y: anc(x, y) & gone(y) & kind(y, Untyped) & covers(y, a) \
             & !used(y, a) & all z: anc(x, z) & anc(z, y) -> gone(z)",
        )
        .require("mappings-cleared", "all x o: mapped(x, o) & dead(o) -> cleared(x)")
        .require("routes-cleared", "all x o: routed(x, o) & (dead(o) | idle(o)) -> cleared(x)")
        .require("messages-cleared", "all x m: raised(x, m) -> all o: ofmessage(m, o) & quiet(o) -> cleared(x)")
        .require("time-taken", "all x o: bound(x, o) & (gone(x) | dead(o)) -> idle(o)")
        .require("function-quiet", "all x o: names(x, o) & kind(x, PciFunction) & gone(x) -> quiet(o)")
        .require("virtual-ended", "all o: ended(o) -> all y a: covers(y, a) & vfpart(a, o) -> gone(y)")
        .require("not-less-returned", "all x: 0 <= returned(x)")
        .require(
            "all-returned",
            "all x: kind(x, CpuTime) & (all y: anc(x, y) -> gone(y)) -> returned(x) = sold(x) | gone(x)",
        )
        .require("none-returned", "all x: (all y: anc(x, y) -> !gone(y)) -> returned(x) = 0 | gone(x)")
        .update("anc(x, y)", "anc(x, y) & !gone(x) & !gone(y)")
        .update("used(x, a)", "used(x, a) & !gone(x) & !freed(x, a)")
        .update("lives(o)", "lives(o) & !dead(o)")
        .update("within(x, o)", "within(x, o) & !dead(o)")
        .update("mapped(x, o)", "mapped(x, o) & !gone(x) & !dead(o)")
        .update("maprights(x, r)", "maprights(x, r) & !gone(x) & !(some o: mapped(x, o) & dead(o))")
        .update("bound(x, o)", "bound(x, o) & !gone(x) & !dead(o)")
        .update("routed(x, o)", "routed(x, o) & !gone(x) & !dead(o) & !idle(o)")
        .update("raised(x, m)", "raised(x, m) & !gone(x) & !(some o: ofmessage(m, o) & quiet(o))")
        .update("dma(o, q)", "dma(o, q) & !dead(o) & !dead(q) & !quiet(o)")
        .update("vfs(o)", "vfs(o) & !ended(o)")
        .update("share(x)", "if gone(x) then 0 else share(x)")
        .update("sold(x)", "if gone(x) then 0 else sold(x) - returned(x)");
    let draft = [
        ("full(x)", "full(x)"),
        ("orig(x)", "orig(x)"),
        ("kind(x, c)", "kind(x, c)"),
        ("right(x, r)", "right(x, r)"),
        ("names(x, o)", "names(x, o)"),
        ("covers(x, a)", "covers(x, a)"),
        ("spans(x, a)", "spans(x, a)"),
        ("window(x, w)", "window(x, w)"),
    ]
    .into_iter()
    .fold(draft, |draft, (head, old)| draft.update(head, format!("{old} & !gone(x)")));
    ["cspace(o, q)", "runsin(o, q)", "receives(o, q)", "tells(o, q)"]
        .into_iter()
        .fold(draft, |draft, head| draft.update(head, format!("{head} & !dead(o) & !dead(q)")))
}

/// The same with everything that hardware remembers of it, and the flush waited for.
fn remove_and_flush(draft: Draft) -> Draft {
    remove(draft)
        .update("entry(x)", "entry(x) & !gone(x) & !cleared(x)")
        .update("cached(k, x)", "cached(k, x) & !gone(x) & !cleared(x)")
        .update("due(k, x)", "due(k, x) & !gone(x) & !cleared(x)")
}

/// Slot `s`, in the CNode `n` that the invoked capability `u` names.
fn named(draft: Draft) -> Draft {
    second(draft.constants("i s n"))
        .require("cnode", "kind(u, CNode) & right(u, WRITE) & names(u, n) & within(s, n)")
        .require("target-full", "full(s)")
}

pub(super) fn drafts() -> Vec<Draft> {
    vec![
        remove_and_flush(named(Draft::new("delete", &[Label::CNodeDelete])))
            .require("not-boot", "!boot(s)")
            .require("target-goes", "gone(s)"),
        remove_and_flush(named(Draft::new("revoke", &[Label::CNodeRevoke])))
            .require("descendants-go", "all y: anc(s, y) -> gone(y)")
            .update("used(x, a)", "used(x, a) & !gone(x) & !freed(x, a) & x != s")
            .update("dirty(a)", "dirty(a) & !(!gone(s) & kind(s, Untyped) & covers(s, a) & ram(a))"),
        // Steps of a preempted Delete or Revoke: a capability is withdrawn from hardware (world.rs), flushed, and then
        // erased; the last step makes the memory usable again.
        remove(Draft::new("erase-one", &[]).constants("s"))
            .require("target-goes", "all x: gone(x) -> x = s")
            .require("target", "full(s) & gone(s)")
            .require("withdrawn", "all x: gone(x) | cleared(x) -> !entry(x)")
            .require("flushed", "all x k: gone(x) | cleared(x) -> !cached(k, x) & !due(k, x)"),
        Draft::new("scrub-one", &[])
            .constants("s a1")
            .require("target", "kind(s, Untyped) & covers(s, a1) & ram(a1)")
            .require("nothing-below", "all y: !anc(s, y)")
            .update("dirty(a)", "dirty(a) & a != a1"),
        Draft::new("lower-watermark", &[])
            .constants("s")
            .require("target", "kind(s, Untyped)")
            .require("nothing-below", "all y: !anc(s, y)")
            .require("scrubbed", "all a: covers(s, a) & ram(a) -> !dirty(a)")
            .update("used(x, a)", "used(x, a) & x != s"),
    ]
}
