//! Wrong variants of operations. Each must break what it is said to break, or the proofs would be about nothing.

use crate::invariants::{Named, invariants};
use crate::lemmas::Lemma;
use crate::operation::{Draft, Operation};
use crate::operations::draft;

/// A wrong operation.
pub struct Bug {
    /// The operation, under the bug's name.
    pub operation: Operation,
    /// The right operation's name.
    pub of: &'static str,
    /// What is no longer true, of the state before and after.
    pub breaks: Named,
}

/// It breaks an invariant.
fn invariant(name: &'static str, of: &'static str, breaks: &str, wrong: impl Fn(Draft) -> Draft) -> Bug {
    let breaks = invariants().iter().find(|invariant| invariant.name == breaks);
    let breaks = breaks.unwrap_or_else(|| panic!("{name} breaks no invariant")).clone();
    let operation = wrong(draft(of)).named(name).read();
    let formula = operation.afterwards(&breaks.formula);
    Bug { operation, of, breaks: Named { formula, ..breaks } }
}

/// It breaks a lemma.
fn lemma(name: &'static str, of: &'static str, breaks: &str, wrong: impl Fn(Draft) -> Draft) -> Bug {
    let Lemma { operation, claim } = Lemma::of(&wrong(draft(of)).named(name), of, breaks);
    Bug { operation, of, breaks: claim }
}

/// Every seeded bug.
pub fn bugs() -> Vec<Bug> {
    vec![
        invariant("copy-adds-a-right", "copy", "no-more-rights", |draft| {
            draft.without("no-new-right").update("right(x, r)", "right(x, r) | x = d & mask(r)")
        }),
        invariant("copy-of-an-untyped", "copy", "unique-original", |draft| draft.without("copyable")),
        invariant("copy-into-a-cnode-out-of-reach", "copy", "held-within-bound", |draft| {
            draft.without("destination-reached")
        }),
        invariant("grant-without-holding", "grant-child", "held-within-bound", |draft| draft.without("source-reached")),
        invariant("grant-over-nobodys-channel", "grant-child", "held-within-bound", |draft| draft.without("channel")),
        lemma("retype-forgets-watermark", "retype", "memory-is-nobody-elses", |draft| {
            draft.without("above-watermark").require("inside", "all x a: new(x) & piece(x, a) -> covers(s, a)")
        }),
        invariant("retype-moves-no-watermark", "retype", "used-below", |draft| draft.keep("used(x, a)")),
        invariant("retype-twice-the-same", "retype", "typed-apart", |draft| draft.without("pieces-apart")),
        invariant("move-leaves-a-copy", "move", "kin-only", |draft| {
            draft
                .update("full(x)", "x = d | full(x)")
                .update("kind(x, c)", "x = d & kind(s, c) | x != d & kind(x, c)")
                .update("orig(x)", "x = d & orig(s) | x != d & orig(x)")
                .update("covers(x, a)", "x = d & covers(s, a) | x != d & covers(x, a)")
        }),
        invariant("move-loses-children", "move", "from-boot", |draft| {
            draft.update("anc(x, y)", "x != s & x != d & y != s & y != d & anc(x, y)")
        }),
        invariant("delete-orphans", "delete", "from-boot", |draft| {
            draft.without("boot-stays").without("not-boot").without("originals-take-kin")
        }),
        invariant("delete-leaves-kin-of-an-original", "delete", "named-lives", |draft| {
            draft.without("originals-take-kin")
        }),
        invariant("delete-leaves-slots-of-a-cnode", "delete", "place-lives", |draft| draft.keep("within(x, o)")),
        invariant("delete-leaves-a-mapping", "delete", "entry-full", |draft| {
            draft.update("entry(x)", "entry(x) & !cleared(x)")
        }),
        invariant("delete-leaves-a-receiver", "delete", "receives-lives", |draft| draft.keep("receives(o, q)")),
        lemma("revoke-leaves-a-copy-of-a-copy", "revoke", "no-descendant-is-left", |draft| {
            draft
                .without("descendants-go")
                .require("children-go", "all y: anc(s, y) & (all z: !(anc(s, z) & anc(z, y))) -> gone(y)")
        }),
        lemma("revoke-forgets-a-flush", "revoke", "nothing-is-remembered", |draft| draft.keep("cached(k, x)")),
        invariant("revoke-without-scrub", "revoke", "clean-above", |draft| draft.keep("dirty(a)")),
        invariant("watermark-lowered-under-a-child", "lower-watermark", "used-below", |draft| {
            draft.without("nothing-below")
        }),
        invariant("watermark-lowered-before-the-scrub", "lower-watermark", "clean-above", |draft| {
            draft.without("scrubbed")
        }),
        lemma("erased-before-the-flush", "erase-one", "nothing-is-remembered", |draft| draft.without("flushed")),
        invariant("withdrawn-without-a-flush", "withdraw", "cached-backed", |draft| draft.keep("due(k, x)")),
        invariant("flush-of-another-cache", "flush-complete", "cached-backed", |draft| {
            draft.update("due(k, x)", "false")
        }),
        invariant("map-of-an-empty-slot", "map-frames", "entry-full", |draft| {
            draft.without("row-of-frames").without("rights")
        }),
        invariant("map-with-a-right-too-many", "map-frames", "no-more-mapped", |draft| draft.without("rights")),
        invariant("unmap-leaves-the-entry", "unmap-frames", "entry-of-mapping", |draft| draft.keep("entry(x)")),
        invariant("split-not-counted", "split-time", "sold-within", |draft| draft.without("room")),
        invariant("split-of-time-in-use", "split-time", "bound-not-split", |draft| draft.without("not-bound")),
        invariant("resize-beyond-the-parent", "resize-time", "sold-within", |draft| draft.without("room")),
        invariant("one-reservation-for-two", "bind-time", "one-vcpu-a-reservation", |draft| {
            draft.without("reservation-free")
        }),
        invariant("split-of-given-routes", "split-routes", "kin-only", |draft| draft.without("not-given-yet")),
        invariant("function-attached-twice", "attach-function", "one-domain", |draft| draft.without("none-yet")),
        lemma("attached-by-who-leased-it-out", "attach-function", "by-its-holder", |draft| draft.without("holder")),
        invariant("message-raises-two-routes", "bind-message", "one-route-a-message", |draft| {
            draft.without("message-free")
        }),
        invariant("route-of-a-vcpu-without-time", "unbind-time", "routes-have-time", |draft| {
            draft.keep("routed(x, o)")
        }),
        invariant("virtual-functions-enabled-twice", "enable-vfs", "kin-only", |draft| draft.without("not-yet")),
    ]
}
