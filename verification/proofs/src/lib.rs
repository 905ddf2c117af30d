//! The invariants of the specification, proved inductive for any number of slots, objects and VMs.
//!
//! # How to read it
//! * `vocabulary.rs`: a state as formulas see it. Resources are sets of *parts* (memory without addresses, routes, ports,
//!   functions, cores), derivation is the relation `anc` (who is an ancestor of whom), an entry of a table belongs to the
//!   capability that it was made for.
//! * `invariants.rs`: what is true of every state, each line under the properties of `cap_spec::properties` that it is a part
//!   of. This is the table from properties to formulas.
//! * `operations/`: for every label of the interface, for each step of a preempted Delete or Revoke, and for what hardware
//!   does by itself: when it may happen, and a definition of each relation that it changes. Relations that it does not
//!   define stay. So each operation determines the state afterwards, by its form.
//! * `lemmas.rs`: the first state, and what single operations achieve (Revoke leaves nothing, Retype finds clean memory).
//! * `bugs.rs`: wrong operations.
//!
//! Formulas are text in a small notation (`parse.rs`); from one tree (`term.rs`) come SMT-LIB 2 (`smt.rs`) and evaluation on
//! finite structures (`evaluate.rs`).
//!
//! # What is proved
//! Of each invariant: it holds in the first state, and each operation keeps it if all hold before (`queries.rs`). Of each lemma:
//! it holds of its operation in every good state. z3 and cvc5 both have to say so of the same files. That the proofs are not
//! about nothing is part of the run: for each operation there must be a good state in which it can happen, certain states
//! that are not trivial must be good, and each seeded bug must break what it is said to break, with a model from both solvers.
//! Authority is confined for *any* bound: `may` and `flow` are any relations that are closed, and the theorem is that a state
//! which keeps to them does so after every operation.
//!
//! # Why the formulas are the specification's
//! `walk.rs` takes random steps of the executable specification, every step of every state of the worlds that the model
//! checker explores, and every short sequence over those of lock-step;
//! `abstraction.rs` makes structures of its states, `witness.rs` reads the parameters off the call, and `correspondence.rs` checks that the
//! operation's requirements held before, that every relation of the vocabulary is afterwards exactly what the formulas
//! say, and that every invariant holds. `tests/drift.rs` has formulas and steps that must be found to part.
//!
//! # What is not proved
//! * The correspondence is tested, not proved: the formulas are another text than the executable specification.
//! * What is not in the vocabulary: registers, run states, events, faults kept, depth of derivation, channel ends,
//!   guest-physical addresses, vectors, launch's check of confinement, error codes. Labels that change only these are listed
//!   in `operations::UNCHANGING`, and the walks confirm it.
//! * Which capabilities a Delete takes along is a parameter that is closed under what must go together; that it is the
//!   least such set is not stated. Likewise which watermarks come back, within what was unused.
//! * `sold` is the sum of what was split off by its updates, which the walks compare with the sum; that sums of shares on
//!   all levels stay within the core follows from "sold at most the share" by induction over the tree, outside of the
//!   solvers. That admitted time is delivered (EDF) is not a state invariant.
//! * Rights of what Retype makes are all rights, whatever the rights of the Untyped: `no-more-rights` excepts Untyped
//!   ancestors.
//! * What hardware remembers is in the formulas (`cached`, `due`, `dirty`) and not in the states of the atomic machine:
//!   the walks take the worst that a good state allows. The steps of a preempted operation and of hardware are proved, and
//!   not compared with the fine machine: that lets go of a mapping before the flush, and the formulas with it. The
//!   quarantine of an IOMMU that has failed is not in the formulas.
#![forbid(unsafe_code)]

pub mod abstraction;
pub mod bound;
pub mod bugs;
pub mod correspondence;
pub mod evaluate;
pub mod invariants;
pub mod lemmas;
pub mod operation;
pub mod operations;
pub mod parse;
pub mod queries;
pub mod report;
pub mod smt;
pub mod solve;
pub mod structure;
pub mod term;
pub mod vocabulary;
pub mod walk;
pub mod witness;
