//! gzip members, made by zlib in memory that the caller provides.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::{c_int, c_uint, c_void};
use core::marker::PhantomData;
use core::mem::{MaybeUninit, size_of};
use core::ptr;

use libz_rs_sys::{
    Z_BUF_ERROR, Z_DEFAULT_STRATEGY, Z_DEFLATED, Z_FINISH, Z_NO_FLUSH, Z_OK, Z_STREAM_END, deflate, deflateInit2_,
    z_stream, zlibVersion,
};

use crate::plan::Plan;

/// zlib writes a gzip header and trailer when this is added to the window bits.
const GZIP: c_int = 16;
/// Bytes of output that are made at a time.
const OUTPUT: usize = 4096;

/// The memory that zlib may still take.
struct Region {
    start: *mut u8,
    left: usize,
}

/// zlib's allocation function: takes what it needs off the region in `opaque`, or fails.
unsafe extern "C" fn take(opaque: *mut c_void, items: c_uint, size: c_uint) -> *mut c_void {
    // SAFETY: `Member::begin` put a pointer to the region there, which lives as long as the stream and is used by zlib's
    // calls alone.
    let region = unsafe { &mut *opaque.cast::<Region>() };
    let bytes = items as usize * size as usize;
    if bytes > region.left {
        return ptr::null_mut();
    }
    let taken = region.start;
    region.left -= bytes;
    region.start = region.start.wrapping_add(bytes);
    taken.cast()
}

/// zlib's function for giving memory back. All of it goes back when the region does.
unsafe extern "C" fn give(_opaque: *mut c_void, _memory: *mut c_void) {}

/// A gzip member that is being made in memory borrowed for `'m`.
pub struct Member<'m> {
    stream: z_stream,
    /// What `opaque` of the stream points to.
    _region: Box<Region>,
    memory: PhantomData<&'m mut [MaybeUninit<u8>]>,
}

impl<'m> Member<'m> {
    /// Begins a member. `None` if the memory is too small for the plan.
    pub fn begin(plan: &Plan, memory: &'m mut [MaybeUninit<u8>]) -> Option<Member<'m>> {
        let mut region = Box::new(Region { start: memory.as_mut_ptr().cast(), left: memory.len() });
        let mut stream = z_stream {
            zalloc: Some(take),
            zfree: Some(give),
            opaque: (&raw mut *region).cast(),
            ..z_stream::default()
        };
        // SAFETY: the stream is initialised as zlib asks, with an allocator that gives it disjoint memory of this region.
        let status = unsafe {
            deflateInit2_(
                &mut stream,
                plan.level,
                Z_DEFLATED,
                plan.window_bits + GZIP,
                plan.memory_level,
                Z_DEFAULT_STRATEGY,
                zlibVersion(),
                size_of::<z_stream>() as c_int,
            )
        };
        (status == Z_OK).then_some(Member { stream, _region: region, memory: PhantomData })
    }

    /// Compresses further input (less than 4 GiB), and appends what comes out to `output`.
    pub fn write(&mut self, input: &[u8], output: &mut Vec<u8>) {
        self.run(input, Z_NO_FLUSH, output);
    }

    /// Ends the member.
    pub fn finish(mut self, output: &mut Vec<u8>) {
        self.run(&[], Z_FINISH, output);
    }

    /// Lets zlib work until it has taken all input, and, at the end, made all output.
    fn run(&mut self, input: &[u8], flush: c_int, output: &mut Vec<u8>) {
        self.stream.next_in = input.as_ptr().cast_mut();
        self.stream.avail_in = c_uint::try_from(input.len()).expect("pieces are small");
        loop {
            output.reserve(OUTPUT);
            let spare = output.spare_capacity_mut();
            let room = spare.len().min(OUTPUT);
            self.stream.next_out = spare.as_mut_ptr().cast();
            self.stream.avail_out = room as c_uint;
            // SAFETY: the stream was initialised by `begin`; input and output are valid for the lengths that were set.
            let status = unsafe { deflate(&mut self.stream, flush) };
            let made = room - self.stream.avail_out as usize;
            // SAFETY: zlib has written so many bytes into the spare capacity.
            unsafe { output.set_len(output.len() + made) };
            match status {
                Z_STREAM_END => break,
                // With room left there is nothing more to do.
                Z_OK | Z_BUF_ERROR if flush == Z_NO_FLUSH && self.stream.avail_out > 0 => break,
                Z_OK => {}
                other => unreachable!("zlib answers {other} to a valid request"),
            }
        }
        self.stream.next_in = ptr::null_mut();
        self.stream.next_out = ptr::null_mut();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PLANS;
    use std::io::Read;

    fn text() -> Vec<u8> {
        let words = ["capability ", "untyped ", "page ", "price ", "lease\n", "interval ", "\0\u{e9}"];
        let mut state = 1u64;
        let mut text = Vec::new();
        while text.len() < 300_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            text.extend_from_slice(words[(state >> 33) as usize % words.len()].as_bytes());
        }
        text
    }

    fn memory(plan: &Plan) -> Vec<MaybeUninit<u8>> {
        std::vec![MaybeUninit::uninit(); plan.pages as usize * 4096]
    }

    #[test]
    fn members_of_every_plan_together_decompress_to_the_input() {
        let text = text();
        let mut output = Vec::new();
        let mut parts = text.chunks(text.len() / PLANS.len() + 1);
        for plan in &PLANS {
            let mut memory = memory(plan);
            let mut member = Member::begin(plan, &mut memory).expect("the plan names enough pages");
            for piece in parts.next().unwrap().chunks(5_000) {
                member.write(piece, &mut output);
            }
            member.finish(&mut output);
        }
        let mut back = Vec::new();
        flate2::read::MultiGzDecoder::new(output.as_slice()).read_to_end(&mut back).unwrap();
        assert!(back == text);
        assert!(output.len() < text.len() / 2);
    }

    #[test]
    fn pages_of_a_plan_are_no_more_than_needed() {
        for plan in &PLANS {
            let mut memory = memory(plan);
            let less = memory.len() - 2 * 4096;
            assert!(Member::begin(plan, &mut memory[..less]).is_none(), "{plan:?}");
            assert!(Member::begin(plan, &mut memory).is_some(), "{plan:?}");
        }
    }

    #[test]
    fn an_empty_member_is_valid() {
        let mut memory = memory(&PLANS[0]);
        let mut output = Vec::new();
        Member::begin(&PLANS[0], &mut memory).unwrap().finish(&mut output);
        let mut back = Vec::new();
        flate2::read::MultiGzDecoder::new(output.as_slice()).read_to_end(&mut back).unwrap();
        assert!(back.is_empty());
    }
}
