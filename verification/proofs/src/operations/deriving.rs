//! What makes capabilities, and what moves them.

use crate::operation::Draft;
use cap_spec::abi::Label;

/// What a new capability is like. Each field is a formula about the new slot `x`.
pub(super) struct Child {
    /// Which slots are filled.
    pub new: &'static str,
    /// From which slot they are derived.
    pub source: &'static str,
    /// That it has type c.
    pub kind: &'static str,
    /// That it has right r.
    pub right: &'static str,
    /// That it names o.
    pub names: &'static str,
    /// That it covers a.
    pub covers: &'static str,
    /// That it speaks for w.
    pub window: &'static str,
    /// Whether its object lives as long as it.
    pub is_original: bool,
}

/// With new capabilities.
pub(super) fn derive(draft: Draft, child: &Child) -> Draft {
    let Child { new, source, kind, right, names, covers, window, is_original } = child;
    let draft = draft
        .require("source-full", format!("full({source})"))
        .require("new-empty", format!("all x: {new} -> !full(x)"))
        .require("something-new", format!("some x: {new}"))
        .require("no-new-authority", format!("all x a: ({new}) & ({covers}) -> spans({source}, a)"))
        .require(
            "no-new-right",
            format!("all x r: ({new}) & ({right}) -> right({source}, r) | kind({source}, Untyped)"),
        )
        .update("full(x)", format!("full(x) | {new}"))
        .update("anc(x, y)", format!("anc(x, y) | below(x, {source}) & ({})", new.replace('x', "y")))
        .update("kind(x, c)", format!("kind(x, c) | ({new}) & ({kind})"))
        .update("right(x, r)", format!("right(x, r) | ({new}) & ({right})"))
        .update("names(x, o)", format!("names(x, o) | ({new}) & ({names})"))
        .update("covers(x, a)", format!("covers(x, a) | ({new}) & ({covers})"))
        .update("spans(x, a)", format!("spans(x, a) | ({new}) & ({covers})"))
        .update("window(x, w)", format!("window(x, w) | ({new}) & ({window})"));
    if *is_original { draft.update("orig(x)", format!("orig(x) | {new}")) } else { draft }
}

/// With the invoked capability `s`, found by an invoker with root CNode `i`.
pub(super) fn invoked(draft: Draft) -> Draft {
    draft.constants("i s").require("invoked-full", "full(s)").require("invoked-reached", "reached(s, i)")
}

/// With a second capability `u` that the invoker names.
pub(super) fn second(draft: Draft) -> Draft {
    draft.constants("u").require("second-full", "full(u)").require("second-reached", "reached(u, i)")
}

/// With `t`, a CNode capability with WRITE, into whose CNode `n` the new slots belong.
pub(super) fn into(draft: Draft, new: &str) -> Draft {
    draft
        .constants("t n")
        .require("destination-reached", "full(t) & reached(t, i) & kind(t, CNode) & names(t, n)")
        .require("destination-writable", "right(t, WRITE)")
        .require("destination-inside", format!("all x: {new} -> within(x, n)"))
}

const COPY: Child = Child {
    new: "x = d",
    source: "s",
    kind: "kind(s, c)",
    right: "right(s, r) & mask(r)",
    names: "names(s, o)",
    covers: "covers(s, a)",
    window: "window(s, w) & chosen(w)",
    is_original: false,
};

/// A child with the same object.
fn copy(draft: Draft) -> Draft {
    let draft = draft.constants("d").relation("mask(r)").relation("chosen(w)");
    derive(draft, &COPY).require("copyable", "!unique(s)")
}

/// Frames of pages that the kernel or a device writes, made from the invoked capability.
fn pages(draft: Draft) -> Draft {
    let draft = draft.relation("new(x)").relation("page(x, a)").relation("mask(r)");
    let child = Child {
        new: "new(x)",
        source: "s",
        kind: "c = Frame",
        right: "right(s, r) & mask(r)",
        names: "false",
        covers: "page(x, a)",
        window: "false",
        is_original: false,
    };
    let draft = derive(into(invoked(draft), "new(x)"), &child);
    draft.require("part-of-object", "all x a: page(x, a) -> covers(s, a)")
}

/// A part of a range, or of a function's chain of leases.
fn part(draft: Draft, kind: &'static str, covers: &'static str, names: &'static str) -> Draft {
    let child = Child {
        new: "x = d",
        source: "s",
        kind: "kind(s, c)",
        right: "right(s, r)",
        names,
        covers,
        window: "false",
        is_original: true,
    };
    let draft = draft.constants("d");
    derive(into(invoked(draft), "x = d"), &child)
        .require("type", format!("kind(s, {kind})"))
        .require("not-given-yet", format!("all y a: anc(s, y) & ({covers}) -> !covers(y, a)"))
}

fn range(name: &'static str, labels: &'static [Label], kind: &'static str) -> Draft {
    let draft = Draft::new(name, labels).relation("piece(a)");
    part(draft, kind, "covers(s, a) & piece(a)", "false")
        .require("not-bound", "(all o: !routed(s, o)) & (all m: !raised(s, m))")
}

/// A capability goes from slot `s` to slot `d`, with its place in the derivation and all that is recorded with it.
pub(super) fn relocate(draft: Draft) -> Draft {
    let moved = |relation: &str, second: &str| {
        format!("x = d & {relation}(s{second}) | x != s & x != d & {relation}(x{second})")
    };
    let draft = draft
        .constants("s d")
        .require("source-full", "full(s)")
        .require("destination-empty", "!full(d)")
        .require("not-boot", "!boot(s)")
        .update(
            "anc(x, y)",
            "x = d & y != s & y != d & anc(s, y) | y = d & x != s & x != d & anc(x, s) \
             | x != s & x != d & y != s & y != d & anc(x, y)",
        )
        .update("cached(k, x)", "x = d & cached(k, s) | x != s & x != d & cached(k, x)")
        .update("due(k, x)", "x = d & due(k, s) | x != s & x != d & due(k, x)")
        .update("share(x)", "if x = d then share(s) else if x = s then 0 else share(x)")
        .update("sold(x)", "if x = d then sold(s) else if x = s then 0 else sold(x)");
    let heads = [
        ("full(x)", ""),
        ("orig(x)", ""),
        ("entry(x)", ""),
        ("kind(x, c)", ", c"),
        ("right(x, r)", ", r"),
        ("names(x, o)", ", o"),
        ("covers(x, a)", ", a"),
        ("spans(x, a)", ", a"),
        ("window(x, w)", ", w"),
        ("used(x, a)", ", a"),
        ("mapped(x, o)", ", o"),
        ("maprights(x, r)", ", r"),
        ("bound(x, o)", ", o"),
        ("routed(x, o)", ", o"),
        ("raised(x, m)", ", m"),
    ];
    heads.into_iter().fold(draft, |draft, (head, second)| {
        let relation = head.split('(').next().unwrap_or_default();
        draft.update(head, moved(relation, second))
    })
}

/// The capability that is moved is in reach of the invoker.
fn taken(draft: Draft) -> Draft {
    relocate(draft.constants("i")).require("source-reached", "reached(s, i)")
}

/// Through Channel `n`, which the invoked capability `u` names.
fn through_channel(draft: Draft) -> Draft {
    second(draft).constants("n").require("channel", "kind(u, Channel) & names(u, n)")
}

fn retype() -> Draft {
    let child = Child {
        new: "new(x)",
        source: "s",
        kind: "c = c1",
        right: "true",
        names: "fresh(o) & made(x, o)",
        covers: "piece(x, a)",
        window: "opened(x, w)",
        is_original: true,
    };
    let draft = Draft::new("retype", &[Label::UntypedRetype])
        .constants("c1")
        .relation("new(x)")
        .relation("fresh(o)")
        .relation("made(x, o)")
        .relation("piece(x, a)")
        .relation("opened(x, w)")
        .relation("inside(x, o)")
        .relation("spent(a)");
    derive(into(invoked(draft), "new(x)"), &child)
        .require("from-untyped", "kind(s, Untyped)")
        .require(
            "made-from-memory",
            "c1 = Untyped | c1 = CNode | c1 = Frame | c1 = PageTable | c1 = Vm | c1 = Vcpu | c1 = Channel | c1 = IommuDomain",
        )
        .require("above-watermark", "all x a: new(x) & piece(x, a) -> covers(s, a) & !used(s, a)")
        .require("watermark-moves", "all x a: new(x) & piece(x, a) -> spent(a)")
        .require("watermark-inside", "all a: spent(a) -> covers(s, a)")
        .require("pieces-apart", "all x y a: new(x) & new(y) & piece(x, a) & piece(y, a) -> x = y")
        .require("names-fresh", "all x o: new(x) & made(x, o) -> fresh(o)")
        .require("fresh-named", "all o: fresh(o) -> some x: new(x) & made(x, o)")
        .require("one-object", "all x o q: new(x) & made(x, o) & made(x, q) -> o = q")
        .require("memory-objects", "all x o: new(x) & made(x, o) -> !isfunction(o)")
        .require("memory-named", "c1 = Untyped | c1 = Frame -> all x o: new(x) -> !made(x, o)")
        .require("seat-inside", "all x o a: new(x) & made(x, o) & seat(o, a) -> piece(x, a)")
        .require("slots-inside", "all x y o a: inside(x, o) & new(y) & made(y, o) & at(x, a) -> piece(y, a)")
        .update("used(x, a)", "used(x, a) | x = s & spent(a)")
        .update("lives(o)", "lives(o) | fresh(o)")
        .update("within(x, o)", "within(x, o) | fresh(o) & inside(x, o)")
}

fn split_time() -> Draft {
    let child = Child {
        new: "x = d",
        source: "s",
        kind: "c = CpuTime",
        right: "right(s, r)",
        names: "false",
        covers: "false",
        window: "false",
        is_original: true,
    };
    let draft = Draft::new("split-time", &[Label::CpuTimeSplit]).constants("d g");
    derive(into(invoked(draft), "x = d"), &child)
        .require("type", "kind(s, CpuTime)")
        .require("not-bound", "all o: !bound(s, o)")
        .require("a-share", "0 <= g")
        .require("room", "sold(s) + g <= share(s)")
        .update("spans(x, a)", "spans(x, a) | x = d & spans(s, a)")
        .update("share(x)", "if x = d then g else share(x)")
        .update("sold(x)", "if x = s then sold(x) + g else if x = d then 0 else sold(x)")
}

pub(super) fn drafts() -> Vec<Draft> {
    let reachable = |draft: Draft| second(draft).require("source-reached", "reached(s, i)");
    vec![
        retype(),
        into(copy(Draft::new("copy", &[Label::CNodeCopy, Label::CNodeMint]).constants("i s")), "x = d")
            .require("source-reached", "reached(s, i)"),
        reachable(copy(Draft::new("grant-child", &[Label::ChannelGrant]).constants("i s n")))
            .require("channel", "kind(u, Channel) & names(u, n)")
            .require("grant-right", "right(u, GRANT)")
            .require("in-flight", "within(d, n)"),
        pages(Draft::new("get-page", &[Label::VmGetPage, Label::VcpuGetPage, Label::MachineGetPage]))
            .require("type", "kind(s, Vm) | kind(s, Vcpu) | kind(s, Machine)"),
        pages(Draft::new("get-bar", &[Label::PciFunctionGetBar]))
            .require("type", "kind(s, PciFunction)")
            .require("holder", "all y: anc(s, y) & kind(y, PciFunction) -> all a: covers(s, a) -> !covers(y, a)"),
        split_time(),
        range("split-routes", &[Label::IrqSplit], "Irq"),
        range("split-ports", &[Label::IoPortSplit], "IoPort"),
        part(Draft::new("lease", &[Label::PciFunctionLease]), "PciFunction", "covers(s, a)", "names(s, o)")
            .update("spans(x, a)", "spans(x, a) | x = d & spans(s, a)"),
        into(taken(Draft::new("move", &[Label::CNodeMove])), "x = d"),
        through_channel(taken(Draft::new("grant-move", &[Label::ChannelGrant])))
            .relation("mask(r)")
            .require("grant-right", "right(u, GRANT)")
            .require("in-flight", "within(d, n)")
            .require("needed-rights", "(some o: mapped(s, o)) | (some y: anc(s, y)) -> all r: right(s, r) -> mask(r)")
            .update("right(x, r)", "x = d & right(s, r) & mask(r) | x != s & x != d & right(x, r)"),
        second(into(relocate(Draft::new("accept", &[Label::ChannelAccept]).constants("i")), "x = d"))
            .constants("q")
            .require("channel", "kind(u, Channel) & names(u, q)")
            .require("in-flight", "within(s, q)"),
        // The invoked Vcpu o moves into the root CNode q of its VM j.
        taken(Draft::new("launch", &[Label::VcpuLaunch]))
            .constants("o j q")
            .require("its-vm", "kind(s, Vcpu) & names(s, o) & runsin(o, j) & cspace(j, q)")
            .require("destination-inside", "within(d, q)"),
    ]
}
