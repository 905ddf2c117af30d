//! Exhaustive exploration of the executable specification: every state that a small world can reach.
//!
//! A [question](question) is a small TOML file: VMs, the capabilities that they begin with, what they may do, and a
//! property. It is answered with *holds, N states*, or with a shortest counterexample. The standing checks are
//! questions, too, in `configurations/`: they ask for the named properties of the specification.
//!
//! Reading order:
//! 1. [`machine`], [`search`]: what can be explored, and how it is.
//! 2. [`question`], [`world`]: what a file says, and the state that it begins with.
//! 3. [`actions`], [`subject`]: what may be done, and what that leads to. [`conditions`], [`checks`]: what is asked.
//! 4. [`canonical`], [`symmetry`]: which states are one.
//! 5. [`answer`], [`story`], [`explorer`]: what is found, told as text, as JSON and in a browser.
//! 6. [`fine`]: the same on hardware that remembers.
//! 7. [`mistakes`]: wrong rules, which must be found.
#![forbid(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod actions;
pub mod answer;
pub mod canonical;
pub mod checks;
pub mod conditions;
pub mod explorer;
pub mod fine;
pub mod machine;
pub mod mistakes;
pub mod question;
pub mod search;
pub mod story;
pub mod subject;
pub mod symmetry;
pub mod world;
