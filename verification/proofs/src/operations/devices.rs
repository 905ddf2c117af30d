//! Functions of devices: their virtual functions, domains and messages.

use super::deriving::{Child, derive, into, invoked, second};
use crate::operation::Draft;
use cap_spec::abi::Label;

/// Of the function `o1`, by the last of its leases.
fn holder(draft: Draft) -> Draft {
    invoked(draft)
        .constants("o1")
        .require("function", "kind(s, PciFunction) & names(s, o1)")
        .require("holder", "all y: names(y, o1) & kind(y, PciFunction) -> !anc(s, y)")
}

fn enable_vfs() -> Draft {
    let child = Child {
        new: "new(x)",
        source: "s",
        kind: "c = PciFunction",
        right: "right(s, r)",
        names: "made(x, o)",
        covers: "piece(x, a)",
        window: "false",
        is_original: true,
    };
    let draft = Draft::new("enable-vfs", &[Label::PciFunctionEnableVfs])
        .relation("new(x)")
        .relation("made(x, o)")
        .relation("piece(x, a)")
        .relation("fresh(o)");
    derive(into(holder(draft), "new(x)"), &child)
        .require("not-yet", "!vfs(o1)")
        .require("its-parts", "all x a: new(x) & piece(x, a) -> vfpart(a, o1)")
        .require("nobody-elses-parts", "all a o: vfpart(a, o1) & vfpart(a, o) -> o = o1")
        .require("pieces-apart", "all x y a: new(x) & new(y) & piece(x, a) & piece(y, a) -> x = y")
        .require("seat-inside", "all x o a: new(x) & made(x, o) & seat(o, a) -> piece(x, a)")
        .require("one-object", "all x o q: new(x) & made(x, o) & made(x, q) -> o = q")
        .require("functions", "all x o: new(x) & made(x, o) -> isfunction(o)")
        .require("names-fresh", "all x o: new(x) & made(x, o) -> fresh(o)")
        .require("fresh-named", "all o: fresh(o) -> some x: new(x) & made(x, o)")
        .require("no-grandchildren", "all x o a: new(x) & made(x, o) -> !vfpart(a, o)")
        .update("lives(o)", "lives(o) | fresh(o)")
        .update("vfs(o)", "vfs(o) | o = o1")
}

/// No message of the function raises a route, and its DMA reaches nothing.
fn reset() -> Draft {
    holder(Draft::new("reset-function", &[Label::PciFunctionReset]))
        .relation("cleared(x)")
        .require("no-virtual-ones", "!vfs(o1)")
        .require("messages-cleared", "all x m: raised(x, m) & ofmessage(m, o1) -> cleared(x)")
        .update("raised(x, m)", "raised(x, m) & !ofmessage(m, o1)")
        .update("dma(o, q)", "dma(o, q) & o != o1")
        .update("entry(x)", "entry(x) & !cleared(x)")
        .update("cached(k, x)", "cached(k, x) & !cleared(x)")
        .update("due(k, x)", "due(k, x) & !cleared(x)")
}

pub(super) fn drafts() -> Vec<Draft> {
    vec![
        enable_vfs(),
        second(holder(Draft::new("attach-function", &[Label::PciFunctionAttach])))
            .constants("q1")
            .require("domain", "kind(u, IommuDomain) & right(u, CONTROL) & names(u, q1)")
            .require("none-yet", "all q: !dma(o1, q)")
            .update("dma(o, q)", "dma(o, q) | o = o1 & q = q1"),
        holder(Draft::new("detach-function", &[Label::PciFunctionDetach]))
            .require("attached", "some q: dma(o1, q)")
            .update("dma(o, q)", "dma(o, q) & o != o1"),
        second(holder(Draft::new("bind-message", &[Label::PciFunctionBindMsix])))
            .constants("m1")
            .require("its-message", "ofmessage(m1, o1)")
            .require("route", "kind(u, Irq)")
            .require("not-split", "all y: !anc(u, y)")
            .require("message-free", "all x: !raised(x, m1)")
            .require("route-free", "all m: !raised(u, m)")
            .update("raised(x, m)", "raised(x, m) | x = u & m = m1")
            .update("entry(x)", "entry(x) | x = u & some o: routed(u, o)"),
        holder(Draft::new("unbind-message", &[Label::PciFunctionUnbindMsix]))
            .constants("m1 z")
            .require("its-message", "ofmessage(m1, o1) & raised(z, m1)")
            .update("raised(x, m)", "raised(x, m) & m != m1")
            .update("entry(x)", "entry(x) & x != z")
            .update("cached(k, x)", "cached(k, x) & x != z")
            .update("due(k, x)", "due(k, x) & x != z"),
        reset(),
    ]
}
