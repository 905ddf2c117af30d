//! What a state is, as formulas see it: relations over places, objects and parts of resources.
//!
//! There are no addresses and no sizes. A resource is a set of *parts*: pieces of memory, ports, interrupt routes,
//! functions with their registers, cores. An extent is the set of parts that it covers, a watermark the set that it has
//! given out. What a tree of page tables shows is a set of *entries*, each made by one capability, which alone may keep
//! it alive. So nothing below depends on how many slots, objects, VMs, caches or bytes there are.

use crate::parse::{Scope, formula, head};
use crate::term::{Sort, Variable};
use std::sync::OnceLock;

/// How long a relation stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasts {
    /// For good: it is of the machine, or chosen once.
    Forever,
    /// Until an operation changes it.
    State,
}

/// A relation or function of the vocabulary.
#[derive(Clone, Debug)]
pub struct Symbol {
    /// Its name.
    pub name: String,
    /// Its arguments.
    pub places: Vec<Variable>,
    /// A function to numbers, not a relation.
    pub is_number: bool,
    /// Whether operations change it.
    pub lasts: Lasts,
    /// What it says.
    pub meaning: &'static str,
}

const RELATIONS: &[(&str, &str)] = &[
    // Capabilities and their derivation.
    ("full(x)", "slot x holds a capability"),
    ("anc(x, y)", "the capability in y was derived from that in x, directly or not"),
    ("boot(x)", "it was not derived: the kernel made it at boot"),
    ("orig(x)", "its object lives as long as it"),
    ("kind(x, c)", "its type"),
    ("right(x, r)", "it has this right"),
    (
        "names(x, o)",
        "it names this object (a CNode, Vm, Vcpu, Channel, PageTable, IommuDomain, function, or the machine)",
    ),
    ("covers(x, a)", "this part is of what it names, and nobody's but its kin's"),
    ("spans(x, a)", "its authority extends to this part: what it covers, or may be given parts of"),
    ("window(x, w)", "a capability of a domain speaks for these I/O addresses"),
    ("used(x, a)", "an Untyped has given out this part: it lies below the watermark"),
    // Objects.
    ("lives(o)", "the object exists"),
    ("within(x, o)", "the slot lies in this CNode or Channel"),
    ("dirty(a)", "this piece of memory may not be zero"),
    // Records.
    ("cspace(o, q)", "VM o has the root CNode q"),
    ("runsin(o, q)", "Vcpu o is a processor of VM q"),
    ("receives(o, q)", "an end of Channel o has the receiver q, a Vcpu"),
    ("tells(o, q)", "of Vcpu, domain or machine o is told over Channel q"),
    ("mapped(x, o)", "the Frame or PageTable was put into address space o (a Vm or IommuDomain)"),
    ("maprights(x, r)", "it was mapped with this right"),
    ("bound(x, o)", "Vcpu o runs on the CPU time in x"),
    ("routed(x, o)", "the interrupt route in x leads to Vcpu o"),
    ("raised(x, m)", "the interrupt route in x is raised by message m"),
    ("dma(o, q)", "the DMA of function o reaches domain q"),
    ("vfs(o)", "function o has virtual functions"),
    // Hardware.
    ("entry(x)", "hardware that walks tables finds the entry that was made for x: a page, a table, an interrupt"),
    ("cached(k, x)", "cache k may remember it"),
    ("due(k, x)", "its flush from cache k is pending"),
];

const NUMBERS: &[(&str, &str)] = &[
    ("share(x)", "what the reservation in x takes of its core"),
    ("sold(x)", "the sum of the shares of the reservations that were split off it"),
];

const FOREVER: &[(&str, &str)] = &[
    ("at(x, a)", "the slot lies in this piece of memory"),
    ("seat(o, a)", "the part that is the object's first byte, or the function itself"),
    ("ram(a)", "a piece of memory, not a register of a device"),
    ("bootmade(o)", "the object in memory was made at boot"),
    ("isfunction(o)", "the object is a function of a device"),
    ("vfpart(a, o)", "the part is of a virtual function of function o"),
    ("ofmessage(m, o)", "the message is one of function o's"),
    ("may(o, a)", "the bound of authority: what is in or of o may extend to this part"),
    ("flow(o, q)", "the bound of authority: what is in or of o may come to q"),
];

const DEFINITIONS: &[(&str, &str)] = &[
    (
        "unique(x)",
        "kind(x, Untyped) | kind(x, PageTable) | kind(x, CpuTime) | kind(x, Irq) | kind(x, IoPort) | kind(x, PciFunction)",
    ),
    ("same(x, y)", "x = y | anc(x, y) | anc(y, x)"),
    ("below(x, y)", "x = y | anc(x, y)"),
    // What an invoker with root CNode i finds in its CSpace.
    (
        "reached(x, i)",
        "within(x, i) | some y_ o_: within(y_, i) & kind(y_, CNode) & right(y_, READ) & names(y_, o_) & within(x, o_)",
    ),
    (
        "typed(x)",
        "full(x) & orig(x) & !kind(x, Untyped) & !kind(x, PciFunction) & !kind(x, CpuTime) & !kind(x, Irq) & !kind(x, IoPort)",
    ),
];

/// The vocabulary, and what its names mean to the reader of formulas.
pub struct Vocabulary {
    /// Every symbol.
    pub symbols: Vec<Symbol>,
    /// The scope of formulas about one state.
    pub scope: Scope,
}

impl Vocabulary {
    /// The vocabulary.
    pub fn get() -> &'static Vocabulary {
        static ONE: OnceLock<Vocabulary> = OnceLock::new();
        ONE.get_or_init(Vocabulary::read)
    }

    fn read() -> Vocabulary {
        let mut symbols = Vec::new();
        for (list, is_number, lasts) in
            [(RELATIONS, false, Lasts::State), (NUMBERS, true, Lasts::State), (FOREVER, false, Lasts::Forever)]
        {
            for (text, meaning) in list {
                let head = head(text);
                symbols.push(Symbol { name: head.name, places: head.places, is_number, lasts, meaning });
            }
        }
        let sorts = |symbol: &Symbol| -> (String, Vec<Sort>) {
            (symbol.name.clone(), symbol.places.iter().map(|place| place.sort).collect())
        };
        let mut scope = Scope {
            relations: symbols.iter().filter(|symbol| !symbol.is_number).map(sorts).collect(),
            functions: symbols.iter().filter(|symbol| symbol.is_number).map(sorts).collect(),
            ..Scope::default()
        };
        for (text, body) in DEFINITIONS {
            let head = head(text);
            let body = formula(body, &scope, &head.places);
            scope.definitions.insert(head.name, (head.places, body));
        }
        Vocabulary { symbols, scope }
    }

    /// A symbol by its name.
    pub fn symbol(&self, name: &str) -> Option<&Symbol> {
        self.symbols.iter().find(|symbol| symbol.name == name)
    }
}
