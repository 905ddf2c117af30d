//! The end of a run that has no console server: the market writes to the ports itself.
//!
//! Used when the run cannot start, when the root VM was restarted (its ledger was in memory and is lost), and when the
//! console server has stopped or does not power off. Everything that was handed out is revoked first, so that the ports
//! are the market's again and nothing runs beside the last words.

use crate::boot::Boot;
use crate::finish::FAILURE;
use crate::machine::{Invoke, Machine, Slot};
use alloc::{format, string::String};
use cap_spec::abi::{Label, slots};
use proto::host::Record;

const COM1: u64 = 0x3f8;
const COM2: u64 = 0x2f8;
const DEBUG_EXIT: u64 = 0xf4;
/// Line status register, and its bits that say that the transmitter takes bytes, and that it has sent all of them.
const LINE_STATUS: u64 = 5;
const CAN_TRANSMIT: u64 = 0x20;
const ALL_SENT: u64 = 0x40;
/// Bytes that one invocation writes.
const FIFO: usize = 16;
/// Reads of the line status before a port counts as dead.
const MAX_POLLS: u32 = 100_000;

/// Revokes all memory and ports, so that no other VM is left.
pub fn revoke_everything<M: Machine>(machine: &mut M, boot: &Boot) {
    for (slot, _) in &boot.untypeds {
        // An Untyped that cannot be revoked can only hold what the next one's revocation ends as well.
        let _ = machine.revoke(*slot);
    }
    release_ports(machine);
}

/// Takes the ports back from the console server.
fn release_ports<M: Machine>(machine: &mut M) {
    let _ = machine.revoke(Slot::root(slots::CONSOLE));
}

/// Says why the run ended, on the console and to the host, and powers the machine off. Returns only if the machine has
/// no debug-exit port and cannot be reset either.
pub fn end_run<M: Machine>(machine: &mut M, t: u64, reason: &str) {
    release_ports(machine);
    let line = format!("[market] {reason}\r\n");
    write(machine, COM1, line.as_bytes());
    let record = Record::End { t, status: 1, reason: String::from(reason) };
    if let Some(frame) = proto::frame::encode(&record) {
        write(machine, COM2, &frame);
    }
    for port in [COM1, COM2] {
        // A port that never gets there is dead, and nothing more can be done for what it was given.
        wait_for(machine, port, ALL_SENT);
    }
    power_off(machine, FAILURE);
}

/// Writes to the debug-exit port; resets the machine if it has none.
pub fn power_off<M: Machine>(machine: &mut M, value: u8) {
    release_ports(machine);
    let ports = Slot::root(slots::CONSOLE);
    let _ = machine.invoke(Label::IoPortOut, ports, [DEBUG_EXIT, 1, value.into(), 0, 0]);
    let _ = machine.invoke(Label::MachineReset, Slot::root(slots::MARKET), [0; 5]);
}

fn write<M: Machine>(machine: &mut M, port: u64, bytes: &[u8]) {
    let ports = Slot::root(slots::CONSOLE);
    for part in bytes.chunks(FIFO) {
        if !wait_for(machine, port, CAN_TRANSMIT) {
            return;
        }
        let mut words = [0u8; FIFO];
        words[..part.len()].copy_from_slice(part);
        let word = |at: usize| words[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let arguments = [port, part.len() as u64, word(0), word(8), 0];
        if machine.invoke(Label::IoPortOutBytes, ports, arguments).is_err() {
            return;
        }
    }
}

/// Waits for a bit of a port's line status; false if it does not come.
fn wait_for<M: Machine>(machine: &mut M, port: u64, bit: u64) -> bool {
    (0..MAX_POLLS).any(|_| {
        let status = machine.invoke(Label::IoPortIn, Slot::root(slots::CONSOLE), [port + LINE_STATUS, 1, 0, 0, 0]);
        status.is_ok_and(|[value, _]| value & bit != 0)
    })
}
