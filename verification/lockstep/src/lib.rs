//! Lock-step: the kernel library and the abstract machine take the same steps, and after every step their answers and
//! their states are compared.
//!
//! What a green run says: for every invocation that was made, the kernel answered what the specification says (status,
//! argument at fault, detail, results), and its slots, derivation, rights, watermarks, page tables as hardware walks
//! them, bindings, reservations, run states and events stand for exactly the specified state; its own lists and counters
//! agree with each other; memory was clean when Retype handed it out; and the specification's invariants held. What it
//! cannot say: anything about caches and other cores in flight (the fake machine's subject), and sequences not tried.
//!
//! A failing sequence is shrunk and printed as text. `cargo run -p lockstep -- replay FILE` repeats it.

pub mod campaign;
pub mod exhaustive;
pub mod generate;
pub mod host;
pub mod mutants;
pub mod observe;
pub mod pairs;
pub mod random;
pub mod script;
pub mod seen;
pub mod system;
