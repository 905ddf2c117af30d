//! Descriptors that name what is not mapped for their function, or whose data reach beyond its memory: each access is
//! stopped, told to the holder and to the machine's as what it was, and moves no byte.

use crate::checks::goes_on;
use crate::faults::{forget, is_stopped};
use crate::station::{Bench, IO_BASES, PAGES, SEND_PAGE, frame};
use crate::{Check, refused};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use cap_spec::abi::Stopped;
use device::{DmaMemory, IoAddress};

const PAGE: u64 = 4096;
/// Bytes of a function's memory.
const BYTES: u64 = PAGES * PAGE;
/// Bytes of every frame, and how many of one that crosses an edge lie before that.
const FRAME: u64 = 64;
const INSIDE: u64 = FRAME / 2;
/// Pages of a station that its function does not write by itself: neither the rings nor, at the end, what is being
/// sent.
const KEPT: core::ops::Range<u64> = 2..SEND_PAGE;
/// End of the addresses that a domain can map.
const DOMAIN_END: u64 = 1 << 39;
/// In the first page: 0 means no buffer to the emulated device.
const FIRST_PAGE: u64 = FRAME;
/// Where the kernel's image is.
const KERNEL: u64 = 0x10_0000;

/// Addresses that a station must not reach: the edges of its memory, what only the other one has, the first page, the
/// kernel, and the edge of what a domain can map.
fn addresses(station: usize) -> [u64; 8] {
    let (own, other) = (IO_BASES[station], IO_BASES[station ^ 1]);
    let first_buffer = other + KEPT.start * PAGE;
    [own - FRAME, own + BYTES, first_buffer, other + BYTES - FRAME, FIRST_PAGE, KERNEL, DOMAIN_END - FRAME, DOMAIN_END]
}

const fn page(address: u64) -> u64 {
    address & !(PAGE - 1)
}

/// What a check of one address came to, with the address.
fn at(address: u64) -> impl Fn(String) -> String {
    move |why| format!("at {address:#x}: {why}")
}

/// Reads: the function of the first station sends from there.
pub fn what_is_sent_from_outside_the_domain_is_stopped(bench: &mut Bench) -> Check {
    // The other one's memory has something that could be told from nothing.
    let memory = bench.stations[1].memory;
    (KEPT.start * 512..PAGES * 512).for_each(|word| memory.store(word as usize, u64::MAX));
    for address in addresses(0) {
        sent_from(bench, address, page(address), 0).map_err(at(address))?;
    }
    // A frame over the edge: its second half is nowhere.
    let edge = IO_BASES[0] + BYTES - INSIDE;
    bench.stations[0].memory.put((BYTES - INSIDE) as usize, &frame(1, 0, &[])[..INSIDE as usize]);
    sent_from(bench, edge, edge + INSIDE, INSIDE as usize).map_err(at(edge))?;
    goes_on(bench, 30)
}

/// Sends from an address, of which so many bytes are the station's own: stopped at this page, and nothing else was
/// sent.
fn sent_from(bench: &mut Bench, address: u64, page: u64, own: usize) -> Check {
    forget(bench).map_err(refused("nothing is left"))?;
    bench.stations[0].send_from(IoAddress(address), FRAME as u16);
    is_stopped(bench, 0, Stopped::Read(page))?;
    match bench.stations[1].take() {
        Some(bytes) if bytes[own..].iter().any(|&byte| byte != 0) => Err(format!("it was read: {bytes:x?}")),
        _ => Ok(()),
    }
}

/// Writes: the function of the second station receives there.
pub fn what_is_received_outside_the_domain_is_stopped(bench: &mut Bench) -> Check {
    for address in addresses(1) {
        received_at(bench, address, page(address), 0).map_err(at(address))?;
    }
    // Over the edge of the memory.
    let edge = IO_BASES[1] + BYTES - INSIDE;
    received_at(bench, edge, edge + INSIDE, INSIDE).map_err(at(edge))?;
    bench.stations[1].receive_anew();
    goes_on(bench, 31)
}

/// Receives at an address, of which so many bytes are the station's own last ones: stopped at this page, and nothing
/// else was written.
fn received_at(bench: &mut Bench, address: u64, page: u64, own: u64) -> Check {
    forget(bench).map_err(refused("nothing is left"))?;
    bench.stations[1].receive_at(address);
    let sent = frame(1, 0, &[0xa5; 20]);
    let kept = contents(bench, own);
    bench.stations[0].send(&sent);
    is_stopped(bench, 1, Stopped::Write(page))?;
    if bench.stations[1].receive.receive().is_none() {
        return Err("the frame did not come".into());
    }
    if contents(bench, own) != kept {
        return Err("memory was written".into());
    }
    let mut last = [0; INSIDE as usize];
    bench.stations[1].memory.get((BYTES - own) as usize, &mut last[..own as usize]);
    if last[..own as usize] != sent[..own as usize] {
        return Err(format!("its own bytes are {last:x?}"));
    }
    Ok(())
}

/// What both stations have in memory, but for what devices and senders write as they should: rings, what is sent, and
/// so many bytes at the second one's end.
fn contents(bench: &Bench, own: u64) -> Vec<u64> {
    let words = |station: usize, pages: core::ops::Range<u64>, without: u64| {
        let memory = bench.stations[station].memory;
        (pages.start * 512..pages.end * 512 - without / 8).map(move |word| memory.load(word as usize))
    };
    words(0, KEPT, 0).chain(words(1, KEPT.start..PAGES, own)).collect()
}
