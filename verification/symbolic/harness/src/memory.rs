//! What is proved of Retype: objects of the sizes and at the places that the specification says, a row of originals, and the
//! watermark behind them.

use cap_spec::abi::{ObjectType, Rights, SLOT_BITS};
use kernel::Invocation;
use kernel::cap::{Cap, Mapping};
use kernel::slot::MAX_DEPTH;
use kernel::types::{Hpa, VmId};

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

/// The capability to an object that was just made.
fn made(object: ObjectType, base: Hpa, bits: u8, device: bool) -> Cap {
    match object {
        ObjectType::Untyped => Cap::Untyped { bits, device, vm: VmId::NONE, base, watermark: 0 },
        ObjectType::CNode => Cap::CNode { bits: bits.wrapping_sub(SLOT_BITS), vm: VmId::NONE, base: base.to_slot() },
        ObjectType::Frame => Cap::Frame { bits, device, kernel_page: false, base, mapping: Mapping::NONE },
        _ => Cap::PageTable { base, mapping: Mapping::NONE },
    }
}

/// `Untyped.Retype`, from what decoding has checked on.
pub fn retype<const N: usize>(kernel: &mut Small<N>) {
    let mut wanted = begin(kernel, Kinds::of(&[ObjectType::Untyped, ObjectType::CNode, ObjectType::Frame]));
    let (untyped, to) = (slot_argument::<N>(0), slot_argument::<N>(1));
    let (object, bits) = (object(argument(2)), argument(3) as u8 & 63);
    let (count, offset) = (argument(4) as u32, argument(5));
    let source = wanted.get(untyped);
    let Cap::Untyped { base, device, bits: own, vm, .. } = source.cap else {
        assume(false);
        return;
    };
    assume((source.depth < MAX_DEPTH - 1) & (count >= 1) & (count < N as u32));
    let mut are_free = true;
    for number in 0..N as u32 {
        let slot = to.plus(number);
        let is_free = wanted.has(slot) && !wanted.get(slot).is_full();
        are_free &= (number >= count) | is_free;
    }
    assume(are_free);
    let size = 1u64 << bits;
    let watermark = offset.wrapping_add(size.wrapping_mul(count.into()));
    wanted.set_cap(untyped, Cap::Untyped { bits: own, device, vm, base, watermark });
    for number in 0..N as u32 {
        if number < count {
            let start = base.plus(offset).plus(size.wrapping_mul(number.into()));
            wanted.make(untyped, to.plus(number), made(object, start, bits, device), Rights::all());
        }
    }
    assert(2, carry_out(kernel, Invocation::Retype { untyped, object, bits, to, count, offset }));
    end(kernel, &wanted);
}
