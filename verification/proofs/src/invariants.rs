//! What is true of every state: the axioms of what never changes, and the invariants, each under the property of the
//! specification that it is a part of.

use crate::parse::formula;
use crate::term::Formula;
use crate::vocabulary::Vocabulary;
use cap_spec::properties::Property;
use std::sync::OnceLock;

/// A formula with a name.
#[derive(Clone, Debug)]
pub struct Named {
    /// Its name.
    pub name: &'static str,
    /// The properties that it is a part of. Of none: an axiom of what never changes.
    pub properties: &'static [Property],
    /// What it says.
    pub formula: Formula,
}

use Property::{
    AuthorityConfined as Confined, CleanBeforeReuse as Clean, EntriesBacked as Backed,
    NoAuthorityFromNothing as Authority, NoOverlap as Apart, OneOwner as Owner, TimeDelivered as Time,
    WellFormed as Formed,
};

/// Of what never changes. `may` and `flow` are any bound that is closed: what o may reach, whoever o may exchange
/// capabilities with may reach too, and o may exchange with every object that it may get a capability to.
const AXIOMS: &[(&str, &str)] = &[
    ("one-seat", "all o a b: seat(o, a) & seat(o, b) -> a = b"),
    ("seated", "all o: some a: seat(o, a)"),
    ("one-place", "all x a b: at(x, a) & at(x, b) -> a = b"),
    ("placed", "all x: some a: at(x, a)"),
    ("flow-to-itself", "all o: flow(o, o)"),
    ("flow-both-ways", "all o q: flow(o, q) -> flow(q, o)"),
    ("flow-on", "all o q: flow(o, q) -> all n: flow(q, n) -> flow(o, n)"),
    ("flow-carries", "all o q: flow(o, q) -> all a: may(o, a) -> may(q, a)"),
    ("flow-to-objects", "all o a: may(o, a) -> all q: seat(q, a) -> flow(o, q)"),
    ("messages-of-functions", "all m o: ofmessage(m, o) -> isfunction(o)"),
    ("boot-makes-memory-objects", "all o: bootmade(o) -> !isfunction(o)"),
    ("one-function-a-message", "all m o q: ofmessage(m, o) & ofmessage(m, q) -> o = q"),
];

const INVARIANTS: &[(&str, &[Property], &str)] = &[
    // Derivation.
    ("derived-full", &[Formed], "all x y: anc(x, y) -> full(x) & full(y)"),
    ("not-from-itself", &[Formed], "all x: !anc(x, x)"),
    ("transitive", &[Formed], "all x y: anc(x, y) -> all z: anc(y, z) -> anc(x, z)"),
    ("forest", &[Formed], "all x z: anc(x, z) -> all y: anc(y, z) -> same(x, y)"),
    ("boot-is-root", &[Formed, Authority], "all x: boot(x) -> full(x) & orig(x) & all y: !anc(y, x)"),
    ("from-boot", &[Formed, Authority], "all x: full(x) -> boot(x) | some y: boot(y) & anc(y, x)"),
    ("unique-original", &[Formed], "all x: full(x) & unique(x) -> orig(x)"),
    ("originals-from-unique", &[Formed], "all x y: anc(x, y) & orig(y) -> unique(x)"),
    ("untyped-from-untyped", &[Formed], "all x y: anc(x, y) & kind(y, Untyped) -> kind(x, Untyped)"),
    ("time-from-time", &[Formed], "all x y: anc(x, y) & kind(y, CpuTime) -> kind(x, CpuTime)"),
    ("functions-from-functions", &[Formed], "all x y: anc(x, y) & kind(y, PciFunction) -> kind(x, PciFunction)"),
    (
        "originals-of-functions",
        &[Formed],
        "all x y: anc(x, y) & kind(x, PciFunction) & orig(y) -> kind(y, PciFunction)",
    ),
    ("no-part-of-a-table", &[Formed], "all x y: anc(x, y) -> !kind(x, PageTable)"),
    // An empty slot has nothing.
    ("empty-orig", &[Formed], "all x: orig(x) -> full(x)"),
    ("empty-kind", &[Formed], "all x c: kind(x, c) -> full(x)"),
    ("empty-right", &[Formed], "all x r: right(x, r) -> full(x)"),
    ("empty-names", &[Formed], "all x o: names(x, o) -> full(x)"),
    ("empty-spans", &[Formed], "all x a: spans(x, a) -> full(x)"),
    ("empty-window", &[Formed], "all x w: window(x, w) -> full(x)"),
    ("empty-mapped", &[Formed], "all x o: mapped(x, o) -> full(x)"),
    ("empty-maprights", &[Formed], "all x r: maprights(x, r) -> some o: mapped(x, o)"),
    ("empty-bound", &[Formed], "all x o: bound(x, o) -> full(x)"),
    ("empty-routed", &[Formed], "all x o: routed(x, o) -> full(x)"),
    ("empty-raised", &[Formed], "all x m: raised(x, m) -> full(x)"),
    // Types, places and objects.
    ("one-kind", &[Formed], "all x c: kind(x, c) -> all c2: kind(x, c2) -> c = c2"),
    ("some-kind", &[Formed], "all x: full(x) -> some c: kind(x, c)"),
    ("one-name", &[Formed], "all x o: names(x, o) -> all q: names(x, q) -> o = q"),
    ("named-lives", &[Formed], "all x o: names(x, o) -> lives(o)"),
    ("function-named", &[Formed], "all x o: names(x, o) -> (isfunction(o) <-> kind(x, PciFunction))"),
    (
        "nameless",
        &[Formed],
        "all x o: names(x, o) -> !kind(x, Untyped) & !kind(x, Frame) & !kind(x, CpuTime) & !kind(x, Irq) & !kind(x, IoPort)",
    ),
    (
        "one-original",
        &[Formed],
        "all x o: orig(x) & names(x, o) -> all y: orig(y) & names(y, o) -> x = y | kind(x, PciFunction) & kind(y, PciFunction)",
    ),
    ("has-original", &[Formed], "all o: lives(o) -> some x: orig(x) & names(x, o)"),
    ("in-a-place", &[Formed], "all x: full(x) -> some o: within(x, o)"),
    ("place-lives", &[Formed], "all x o: within(x, o) -> lives(o)"),
    ("no-place-in-a-function", &[Formed], "all x o: within(x, o) -> !isfunction(o)"),
    ("one-home", &[Formed], "all x o: within(x, o) -> all q: within(x, q) -> o = q"),
    (
        "place-in-memory",
        &[Formed],
        "all x o: within(x, o) -> all y a: orig(y) & names(y, o) & at(x, a) -> covers(y, a)",
    ),
    ("boot-in-boot", &[Formed], "all x o: boot(x) & within(x, o) -> bootmade(o)"),
    ("boot-made", &[Formed], "all x o: names(x, o) & orig(x) & bootmade(o) -> boot(x)"),
    ("boot-made-lives", &[Formed], "all o: bootmade(o) -> lives(o)"),
    // Records name what lives.
    ("cspace-lives", &[Formed], "all o q: cspace(o, q) -> lives(o) & lives(q)"),
    ("runsin-lives", &[Formed], "all o q: runsin(o, q) -> lives(o) & lives(q)"),
    ("receives-lives", &[Formed], "all o q: receives(o, q) -> lives(o) & lives(q)"),
    ("tells-lives", &[Formed], "all o q: tells(o, q) -> lives(o) & lives(q)"),
    ("mapped-lives", &[Formed, Backed], "all x o: mapped(x, o) -> lives(o)"),
    ("bound-lives", &[Formed], "all x o: bound(x, o) -> lives(o)"),
    ("routed-lives", &[Formed, Backed], "all x o: routed(x, o) -> lives(o)"),
    ("raised-lives", &[Formed, Backed], "all x m: raised(x, m) -> all o: ofmessage(m, o) -> lives(o)"),
    ("dma-lives", &[Formed, Backed], "all o q: dma(o, q) -> lives(o) & lives(q)"),
    ("one-cspace", &[Formed], "all o q: cspace(o, q) -> all n: cspace(o, n) -> q = n"),
    ("one-vm-a-cspace", &[Formed], "all o q: cspace(o, q) -> all n: cspace(n, q) -> o = n"),
    ("one-vm-a-vcpu", &[Formed], "all o q: runsin(o, q) -> all n: runsin(o, n) -> q = n"),
    ("one-mapping", &[Formed], "all x o: mapped(x, o) -> all q: mapped(x, q) -> o = q"),
    // No authority from nothing.
    ("part-of-source", &[Authority], "all x y: anc(x, y) -> all a: spans(y, a) -> spans(x, a)"),
    ("no-more-rights", &[Authority], "all x y: anc(x, y) -> all r: right(y, r) -> right(x, r) | kind(x, Untyped)"),
    ("no-wider-window", &[Authority], "all x y: anc(x, y) -> all w: window(y, w) -> window(x, w) | kind(x, Untyped)"),
    ("no-more-mapped", &[Authority, Backed], "all x r: maprights(x, r) -> right(x, r)"),
    ("covers-spans", &[Authority], "all x a: covers(x, a) -> spans(x, a)"),
    ("seat-covered", &[Authority, Apart], "all x o: names(x, o) -> all a: seat(o, a) -> covers(x, a)"),
    (
        "virtual-spanned",
        &[Authority, Apart],
        "all x o: names(x, o) & kind(x, PciFunction) -> all a: vfpart(a, o) -> spans(x, a)",
    ),
    // Nothing overlaps.
    ("kin-only", &[Apart, Owner], "all x y: orig(x) & full(y) & !same(x, y) -> all a: covers(x, a) -> !covers(y, a)"),
    ("typed-apart", &[Apart], "all x y: typed(x) & typed(y) & x != y -> all a: covers(x, a) -> !covers(y, a)"),
    ("used-below", &[Apart, Clean], "all x y: anc(x, y) & kind(x, Untyped) -> all a: covers(y, a) -> used(x, a)"),
    ("used-covered", &[Apart], "all x a: used(x, a) -> covers(x, a) & kind(x, Untyped)"),
    ("virtual-while-enabled", &[Apart, Owner], "all y a: covers(y, a) -> all o: vfpart(a, o) -> vfs(o)"),
    // Entries.
    ("entry-of-mapping", &[Backed], "all x: entry(x) & !kind(x, Irq) -> some o: mapped(x, o)"),
    ("entry-of-route", &[Backed], "all x: entry(x) & kind(x, Irq) -> (some o: routed(x, o)) & (some m: raised(x, m))"),
    ("entry-kind", &[Backed, Clean], "all x: entry(x) -> kind(x, Frame) | kind(x, PageTable) | kind(x, Irq)"),
    ("entry-full", &[Backed], "all x: entry(x) -> full(x)"),
    ("mappable", &[Backed], "all x o: mapped(x, o) -> kind(x, Frame) | kind(x, PageTable)"),
    ("cached-backed", &[Backed], "all k x: cached(k, x) -> entry(x) | due(k, x)"),
    ("due-full", &[Backed, Clean], "all k x: due(k, x) -> full(x)"),
    ("due-kind", &[Backed, Clean], "all k x: due(k, x) -> kind(x, Frame) | kind(x, PageTable) | kind(x, Irq)"),
    ("clean-above", &[Clean], "all x a: covers(x, a) & kind(x, Untyped) & ram(a) & !used(x, a) -> !dirty(a)"),
    // CPU time.
    ("sold-within", &[Time], "all x: kind(x, CpuTime) -> sold(x) <= share(x)"),
    ("time-not-less-than-none", &[Time], "all x: kind(x, CpuTime) -> 0 <= share(x)"),
    ("core-is-whole", &[Time], "all x: boot(x) & kind(x, CpuTime) -> share(x) <= 4294967296"),
    ("bound-not-split", &[Time], "all x o: bound(x, o) -> kind(x, CpuTime) & all y: !anc(x, y)"),
    ("one-vcpu-a-reservation", &[Time], "all x o: bound(x, o) -> all q: bound(x, q) -> o = q"),
    ("one-reservation-a-vcpu", &[Time], "all x o: bound(x, o) -> all y: bound(y, o) -> x = y"),
    // One owner.
    ("one-domain", &[Owner], "all o q: dma(o, q) -> all n: dma(o, n) -> q = n"),
    (
        "chain-of-leases",
        &[Owner],
        "all x o: kind(x, PciFunction) & names(x, o) -> all y: kind(y, PciFunction) & names(y, o) -> same(x, y)",
    ),
    ("route-not-split", &[Owner], "all x o: routed(x, o) -> kind(x, Irq) & all y: !anc(x, y)"),
    ("message-not-split", &[Owner], "all x m: raised(x, m) -> kind(x, Irq) & all y: !anc(x, y)"),
    ("one-vcpu-a-route", &[Owner], "all x o: routed(x, o) -> all q: routed(x, q) -> o = q"),
    ("one-message-a-route", &[Owner], "all x m: raised(x, m) -> all m2: raised(x, m2) -> m = m2"),
    ("one-route-a-message", &[Owner], "all x m: raised(x, m) -> all y: raised(y, m) -> x = y"),
    (
        "one-holder-a-route",
        &[Owner],
        "all x o: routed(x, o) -> all y q: routed(y, q) & x != y -> all a: covers(x, a) -> !covers(y, a)",
    ),
    ("routes-have-time", &[Owner, Time], "all x o: routed(x, o) -> some y: bound(y, o)"),
    // Authority is confined.
    ("held-within-bound", &[Confined], "all x o: within(x, o) -> all a: spans(x, a) -> may(o, a)"),
    ("mapped-within-bound", &[Confined], "all x o: mapped(x, o) -> all a: covers(x, a) -> may(o, a)"),
    ("cspace-within-bound", &[Confined], "all o q: cspace(o, q) -> flow(o, q)"),
    ("processors-within-bound", &[Confined], "all o q: runsin(o, q) -> flow(o, q)"),
    ("dma-within-bound", &[Confined], "all o q: dma(o, q) -> flow(o, q)"),
];

fn read(name: &'static str, properties: &'static [Property], text: &str) -> Named {
    Named { name, properties, formula: formula(text, &Vocabulary::get().scope, &[]) }
}

/// The axioms of what never changes.
pub fn axioms() -> &'static [Named] {
    static ALL: OnceLock<Vec<Named>> = OnceLock::new();
    ALL.get_or_init(|| AXIOMS.iter().map(|(name, text)| read(name, &[], text)).collect())
}

/// Every invariant.
pub fn invariants() -> &'static [Named] {
    static ALL: OnceLock<Vec<Named>> = OnceLock::new();
    ALL.get_or_init(|| INVARIANTS.iter().map(|(name, properties, text)| read(name, properties, text)).collect())
}

/// Properties of which an invariant is a part.
pub fn properties() -> Vec<Property> {
    Property::all()
        .filter(|property| invariants().iter().any(|invariant| invariant.properties.contains(property)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let all: Vec<_> = axioms().iter().chain(invariants()).map(|named| named.name).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }
}
