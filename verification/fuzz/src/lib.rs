//! Fuzzing of everything that reads bytes of others: firmware's tables, configuration spaces of devices, the boot module,
//! invocations, messages, rings, descriptors, frames.
//!
//! A [`Target`] is a function of bytes that asserts more than the absence of panics: what was read is checked once more by
//! other means, goes round where there is a way back, or is compared with the specification. It has a *twin*, the same
//! with a mistake in it, which the same inputs must find: a target whose twin passes asserts nothing.
//!
//! The same targets are run by [`replay`] (every kept input, and mutations of them from a seed: the same inputs each time,
//! on the stable toolchain) and by libFuzzer (`libfuzzer/`, guided by coverage), which gathers what [`corpus`] keeps.
#![forbid(unsafe_code)]

pub mod bytes;
pub mod corpus;
pub mod libfuzzer;
pub mod mutate;
pub mod replay;
mod targets;

/// The environment variable that names the target for `fuzz-libfuzzer`.
pub const NAME: &str = "NONKERNEL_FUZZ_TARGET";
/// Longest input, in bytes.
pub const MAX_INPUT: usize = 4096;

/// What a target says of an input: what does not hold, if something does not.
pub type Checked = Result<(), String>;

/// A reader of bytes, and what is asserted of it.
pub struct Target {
    /// Its name, also of its folder of inputs.
    pub name: &'static str,
    /// What reads the bytes, and what must hold.
    pub about: &'static str,
    /// Checks an input.
    pub check: fn(&[u8]) -> Checked,
    /// The same with a mistake in what is checked, so that some inputs must fail.
    pub twin: fn(&[u8]) -> Checked,
    /// Inputs to begin with: well-formed ones.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Mutated inputs of a replay.
    pub inputs: usize,
}

impl Target {
    /// All targets.
    pub const ALL: &[Target] = targets::ALL;

    /// The target with this name.
    ///
    /// # Errors
    /// If there is none: which there are.
    pub fn from_name(name: &str) -> Result<&'static Target, String> {
        let known = || Target::ALL.iter().map(|target| target.name).collect::<Vec<_>>().join(", ");
        let found = Target::ALL.iter().find(|target| target.name == name);
        found.ok_or_else(|| format!("there is no target `{name}`; there are: {}", known()))
    }
}

/// An error with this text, unless something holds.
fn ensure(holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(what()) }
}
