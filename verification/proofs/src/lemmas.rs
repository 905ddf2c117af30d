//! What is shown besides invariants: the first state, states that are not trivial, and what an operation achieves.

use crate::invariants::Named;
use crate::operation::{AFTER, Draft, Operation};
use crate::operations::draft;
use crate::parse::{Scope, formula};
use crate::vocabulary::{Lasts, Vocabulary};
use cap_spec::properties::Property;

/// The first state: boot capabilities of resources that are apart, nothing derived, nothing mapped.
const INITIAL: &[(&str, &str)] = &[
    ("all-boot", "all x: full(x) <-> boot(x)"),
    ("all-original", "all x: orig(x) <-> boot(x)"),
    ("nothing-derived", "all x y: !anc(x, y)"),
    ("typed", "all x: full(x) -> some c: kind(x, c) & all c2: kind(x, c2) -> c = c2"),
    (
        "of-full-slots",
        "all x: !full(x) -> (all c: !kind(x, c)) & (all r: !right(x, r)) & (all o: !names(x, o)) & (all a: !spans(x, a)) & (all w: !window(x, w))",
    ),
    ("resources-apart", "all x y a: covers(x, a) & covers(y, a) -> x = y"),
    ("resources", "all x a: covers(x, a) -> spans(x, a)"),
    (
        "names",
        "all x o: names(x, o) -> lives(o) & !kind(x, Untyped) & !kind(x, Frame) & !kind(x, CpuTime) & !kind(x, Irq) & !kind(x, IoPort)",
    ),
    ("functions-named", "all x o: names(x, o) -> (isfunction(o) <-> kind(x, PciFunction))"),
    ("one-name", "all x o q: names(x, o) & names(x, q) -> o = q"),
    ("one-capability", "all x y o: names(x, o) & names(y, o) -> x = y"),
    ("objects", "all o: lives(o) -> some x: names(x, o)"),
    ("bootmade", "all o: bootmade(o) -> lives(o)"),
    ("seats", "all x o a: names(x, o) & seat(o, a) -> covers(x, a)"),
    ("functions", "all x o a: names(x, o) & kind(x, PciFunction) & vfpart(a, o) -> spans(x, a)"),
    ("no-virtual-functions", "all y a o: covers(y, a) -> !vfpart(a, o)"),
    ("in-the-root", "all x: full(x) -> some o: within(x, o)"),
    ("root-made-at-boot", "all x o: within(x, o) -> bootmade(o)"),
    ("one-root", "all x o q: within(x, o) & within(x, q) -> o = q"),
    ("root-lives", "all x o: within(x, o) -> lives(o)"),
    ("root-in-memory", "all x o y a: within(x, o) & names(y, o) & at(x, a) -> covers(y, a)"),
    ("memory-dirty", "all x a: used(x, a) <-> covers(x, a) & kind(x, Untyped)"),
    (
        "nothing-recorded",
        "(all o q: !receives(o, q) & !tells(o, q) & !dma(o, q)) & (all x o: !mapped(x, o) & !bound(x, o) & !routed(x, o)) & (all x m: !raised(x, m)) & (all x r: !maprights(x, r))",
    ),
    ("nothing-in-hardware", "all x: !entry(x) & all k: !cached(k, x) & !due(k, x)"),
    ("the-root-vm", "all o q: cspace(o, q) | runsin(o, q) -> lives(o) & lives(q) & flow(o, q)"),
    ("one-cspace", "all o q n: cspace(o, q) & cspace(o, n) -> q = n"),
    ("one-vm", "all o q n: cspace(o, q) & cspace(n, q) -> o = n"),
    ("one-vm-a-vcpu", "all o q n: runsin(o, q) & runsin(o, n) -> q = n"),
    ("cores-unsold", "all x: kind(x, CpuTime) -> sold(x) = 0 & share(x) = 4294967296"),
    ("bound-chosen", "all x o a: within(x, o) & spans(x, a) -> may(o, a)"),
];

/// Good states that are not trivial: each must exist.
const NOT_TRIVIAL: &[(&str, &str)] = &[
    ("three-generations", "some x y z: anc(x, y) & anc(y, z) & orig(y) & !orig(z)"),
    ("a-stale-translation", "some k x: cached(k, x) & !entry(x) & due(k, x) & kind(x, Frame)"),
    ("a-capability-in-flight", "some x o y: full(x) & within(x, o) & names(y, o) & kind(y, Channel) & orig(y)"),
    (
        "two-that-never-meet",
        "some x y o q: within(x, o) & within(y, q) & !flow(o, q) & cspace(q, q) & orig(x) & anc(y, x)",
    ),
    ("sold-time", "some x y: kind(x, CpuTime) & anc(x, y) & sold(x) = share(x) & 1 <= share(y) & some o: bound(y, o)"),
    (
        "memory-given-out",
        "some x y a b: kind(x, Untyped) & anc(x, y) & covers(y, a) & dirty(a) & covers(x, b) & !used(x, b) & ram(b)",
    ),
    ("a-leased-function", "some x y o q: kind(x, PciFunction) & anc(x, y) & names(x, o) & names(y, o) & dma(o, q)"),
    ("a-routed-message", "some k x o m: routed(x, o) & raised(x, m) & cached(k, x)"),
];

/// What an operation achieves. A name that begins with `after_` is of the state afterwards.
const LEMMAS: &[(&str, &str, Property, &str)] = &[
    (
        "revoke",
        "no-descendant-is-left",
        Property::RevokeComplete,
        "(all y: !after_anc(s, y)) & all y: anc(s, y) -> !after_full(y)",
    ),
    (
        "revoke",
        "no-mapping-is-left",
        Property::RevokeComplete,
        "all y: anc(s, y) -> !after_entry(y) & (all o: !after_mapped(y, o) & !after_routed(y, o)) & all m: !after_raised(y, m)",
    ),
    (
        "revoke",
        "nothing-is-remembered",
        Property::RevokeComplete,
        "all y k: anc(s, y) -> !after_cached(k, y) & !after_due(k, y)",
    ),
    (
        "revoke",
        "no-object-is-left",
        Property::RevokeComplete,
        "all y o: anc(s, y) & orig(y) & names(y, o) & !kind(y, PciFunction) -> !after_lives(o)",
    ),
    (
        "revoke",
        "no-function-stays-attached",
        Property::RevokeComplete,
        "all y o q: anc(s, y) & kind(y, PciFunction) & names(y, o) -> !after_dma(o, q)",
    ),
    // What is left below when no step of a preempted Revoke is left.
    (
        "lower-watermark",
        "nothing-of-it-is-remembered",
        Property::RevokeComplete,
        "all x k a: covers(s, a) & after_cached(k, x) -> !covers(x, a)",
    ),
    ("erase-one", "nothing-is-remembered", Property::RevokeComplete, "all k x: after_cached(k, x) -> after_full(x)"),
    ("retype", "memory-is-scrubbed", Property::CleanBeforeReuse, "all x a: new(x) & piece(x, a) & ram(a) -> !dirty(a)"),
    (
        "retype",
        "memory-is-flushed",
        Property::CleanBeforeReuse,
        "all x a: new(x) & piece(x, a) -> all k y: covers(y, a) -> !cached(k, y) & !due(k, y)",
    ),
    (
        "retype",
        "memory-is-nobody-elses",
        Property::NoOverlap,
        "all x a: new(x) & piece(x, a) -> all y: covers(y, a) -> kind(y, Untyped) & below(y, s)",
    ),
    (
        "retype",
        "new-places-are-nobodys",
        Property::WellFormed,
        "all x o: fresh(o) & inside(x, o) -> all q: !within(x, q)",
    ),
    ("retype", "objects-are-fresh", Property::NoOverlap, "all o: fresh(o) -> !lives(o)"),
    (
        "grant-child",
        "from-who-holds-to-who-may",
        Property::AuthorityConfined,
        "all o: within(d, o) -> flow(i, o) & all a: after_spans(d, a) -> may(i, a)",
    ),
    ("accept", "only-over-a-channel", Property::AuthorityConfined, "flow(i, q) & all o: within(d, o) -> flow(q, o)"),
    (
        "split-time",
        "a-part-of-the-core",
        Property::TimeDelivered,
        "after_sold(s) <= after_share(s) & after_sold(s) = sold(s) + after_share(d)",
    ),
    (
        "attach-function",
        "by-its-holder",
        Property::OneOwner,
        "all y: kind(y, PciFunction) & names(y, o1) -> below(y, s)",
    ),
    // The capabilities that were not made at boot are closed under what goes with what, so no boot capability ever is
    // among those that must go with another.
    (
        "fill",
        "boot-capabilities-are-out-of-reach-of-removal",
        Property::WellFormed,
        "(all x y: anc(x, y) & !boot(x) & orig(x) -> !boot(y)) \
         & all x y o: names(x, o) & !boot(x) & orig(x) & within(y, o) -> !boot(y)",
    ),
];

/// A claim about the state before and after an operation.
pub struct Lemma {
    /// The operation.
    pub operation: Operation,
    /// What is claimed.
    pub claim: Named,
}

impl Lemma {
    /// The claim of this name about an operation, or about a wrong variant of it.
    ///
    /// # Panics
    /// If there is none.
    pub fn of(draft: &Draft, operation: &str, name: &str) -> Lemma {
        let (_, name, property, text) = LEMMAS
            .iter()
            .find(|(of, other, ..)| *of == operation && *other == name)
            .unwrap_or_else(|| panic!("no lemma {name} of {operation}"));
        let operation = draft.read();
        let claim = Named {
            name,
            properties: property_slice(*property),
            formula: operation.claim(&formula(text, &scope(&operation), &[])),
        };
        Lemma { operation, claim }
    }
}

/// The list of one property.
fn property_slice(property: Property) -> &'static [Property] {
    match property {
        Property::RevokeComplete => &[Property::RevokeComplete],
        Property::CleanBeforeReuse => &[Property::CleanBeforeReuse],
        Property::NoOverlap => &[Property::NoOverlap],
        Property::AuthorityConfined => &[Property::AuthorityConfined],
        Property::TimeDelivered => &[Property::TimeDelivered],
        Property::OneOwner => &[Property::OneOwner],
        _ => &[Property::WellFormed],
    }
}

/// What names mean in a claim about an operation.
fn scope(operation: &Operation) -> Scope {
    let vocabulary = Vocabulary::get();
    let mut scope = vocabulary.scope.clone();
    for symbol in vocabulary.symbols.iter().filter(|symbol| symbol.lasts == Lasts::State) {
        let sorts = symbol.places.iter().map(|place| place.sort).collect();
        let list = if symbol.is_number { &mut scope.functions } else { &mut scope.relations };
        list.insert(format!("{AFTER}{}", symbol.name), sorts);
    }
    for head in &operation.relations {
        scope.relations.insert(head.name.clone(), head.places.iter().map(|place| place.sort).collect());
    }
    scope.constants = operation.constants.clone();
    scope
}

/// Every lemma.
pub fn lemmas() -> Vec<Lemma> {
    LEMMAS.iter().map(|(operation, name, ..)| Lemma::of(&draft(operation), operation, name)).collect()
}

fn plain(list: &[(&'static str, &str)]) -> Vec<Named> {
    let scope = &Vocabulary::get().scope;
    list.iter().map(|(name, text)| Named { name, properties: &[], formula: formula(text, scope, &[]) }).collect()
}

/// The first state.
pub fn initial() -> Vec<Named> {
    plain(INITIAL)
}

/// Good states that must exist.
pub fn not_trivial() -> Vec<Named> {
    plain(NOT_TRIVIAL)
}
