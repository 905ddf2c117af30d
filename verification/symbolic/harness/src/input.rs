//! Inputs, assumptions, assertions: the four functions by which a program speaks to who runs it.
//!
//! The translator gives them their meaning in formulas; on the host, the program that links this crate defines them.

unsafe extern "C" {
    /// The input with this number: the same each time.
    fn symbolic_input(number: u32) -> u64;
    /// What follows matters only if this holds.
    fn symbolic_assume(holds: bool);
    /// It is an error if this does not hold.
    fn symbolic_assert(number: u32, holds: bool);
    /// Something that two executions of the program are compared by.
    fn symbolic_observe(number: u32, value: u64);
}

/// The input with this number: any value.
pub fn input(number: u32) -> u64 {
    // SAFETY: has no precondition, and returns a number.
    unsafe { symbolic_input(number) }
}

/// What follows matters only if this holds.
pub fn assume(holds: bool) {
    // SAFETY: has no precondition.
    unsafe { symbolic_assume(holds) }
}

/// It is an error if this does not hold, and what has been assumed does.
pub fn assert(number: u32, holds: bool) {
    // SAFETY: has no precondition.
    unsafe { symbolic_assert(number, holds) }
}

/// Something that two executions of the program are compared by.
pub fn observe(number: u32, value: u64) {
    // SAFETY: has no precondition.
    unsafe { symbolic_observe(number, value) }
}
