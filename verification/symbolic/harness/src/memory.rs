//! What is proved of Retype: objects of the sizes and at the places that the specification says, a row of originals, and the
//! watermark behind them.

use cap_spec::abi::ObjectType;
use kernel::Invocation;
use kernel::cap::Cap;
use kernel::slot::MAX_DEPTH;

use crate::forest::{argument, begin, carry_out, end, slot_argument};
use crate::input::{assert, assume};
use crate::world::{Kinds, Small};

/// Of what is made in slots alone, the type that a number chooses. (A Vm, a Vcpu, a Channel and a domain have headers, which this
/// world does not have.)
fn object(number: u64) -> ObjectType {
    match number & 3 {
        0 => ObjectType::Untyped,
        1 => ObjectType::CNode,
        2 => ObjectType::Frame,
        _ => ObjectType::PageTable,
    }
}

/// `Untyped.Retype`, from what decoding has checked on.
pub fn retype<const N: usize>(kernel: &mut Small<N>) {
    let mut wanted = begin(kernel, Kinds::of(&[ObjectType::Untyped, ObjectType::CNode, ObjectType::Frame]));
    let (untyped, to) = (slot_argument::<N>(0), slot_argument::<N>(1));
    let (object, bits) = (object(argument(2)), argument(3) as u8 & 63);
    let (count, offset) = (argument(4) as u32, argument(5));
    let source = wanted.get(untyped);
    assume(matches!(source.cap, Cap::Untyped { .. }));
    assume((source.depth < MAX_DEPTH - 1) & (count >= 1) & (count < N as u32));
    let mut are_free = true;
    for number in 0..N as u32 {
        let slot = to.plus(number);
        let is_free = wanted.has(slot) && !wanted.get(slot).is_full();
        are_free &= (number >= count) | is_free;
    }
    assume(are_free);
    wanted.retype(untyped, object, bits, to, count, offset);
    assert(2, carry_out(kernel, Invocation::Retype { untyped, object, bits, to, count, offset }));
    end(kernel, &wanted);
}
