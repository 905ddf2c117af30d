//! IoPort: a range of I/O ports.
//!
//! * **Split** makes a child that owns part of the range, by the rules of chapter `irq`; `Forbidden` names a part (1)
//!   with a port that is never handed out.
//! * **In**, **Out**, **OutBytes** access a port of the range (`OutOfRange`, 1), 1, 2 or 4 bytes that end in the range
//!   (`OutOfRange`, 2), with a value that fits (`OutOfRange`, 3). OutBytes writes 1 to 16 bytes (`OutOfRange`, 2) to one
//!   port, one after the other: those of `low` from bit 0 up, then those of `high`.
//! * State: `InUse` if a child has one of the ports; `Forbidden` names the port.

use super::Outcome;
use super::derivation::{Kind, check_depth, derive};
use super::irq::{is_split_up, is_taken, part};
use super::lookup::Invoked;
use super::state::{Cap, Output, State};
use crate::abi::{Error, Fault};

/// The ports that are never handed out on the machine that this kernel is for, first and last: whoever has one reaches
/// memory, interrupts or the state of the machine past all capabilities.
pub const NEVER_HANDED_OUT: &[(u16, u16)] = &[
    // The DMA controllers (8-bit, 16-bit) and their page registers.
    (0x00, 0x1f),
    (0xc0, 0xdf),
    (0x80, 0x8f),
    // The two interrupt controllers, and whether their lines are edges or levels.
    (0x20, 0x21),
    (0xa0, 0xa1),
    (0x4d0, 0x4d1),
    // The timer, and the gate of its speaker with the NMI's status.
    (0x40, 0x43),
    (0x61, 0x61),
    // Commands of the keyboard controller, and system control: reset, A20.
    (0x64, 0x64),
    (0x92, 0x92),
    // CMOS, with the NMI mask.
    (0x70, 0x71),
    // Power management: system management interrupts.
    (0xb2, 0xb3),
    // An emulator's configuration, which copies to any address.
    (0x510, 0x51b),
    // PCI configuration and reset.
    (0xcf8, 0xcff),
    // AMD chipsets: interrupt routing, the gate of SERR and NMI, power management, each pair an index and its data.
    (0xc00, 0xc01),
    (0xc14, 0xc14),
    (0xcd4, 0xcd7),
    // Super-I/O chips, at one of two places: where their devices' ports, interrupts and DMA channels are.
    (0x2e, 0x2f),
    (0x4e, 0x4f),
];

/// First port and number of ports of the invoked range.
fn range_of(state: &State, call: &Invoked) -> (u16, u32) {
    match state.slots[&call.slot].cap {
        Cap::IoPort { first, count } => (first, count),
        _ => unreachable!("the label was checked against the type"),
    }
}

/// Checks that none of these ports is one that is never handed out.
fn check_allowed(state: &State, first: u16, count: u32) -> Result<(), Fault> {
    let last = u32::from(first) + count - 1;
    let is_forbidden = |&(low, high): &(u16, u16)| u32::from(low) <= last && first <= high;
    if state.config.forbidden_ports.iter().any(is_forbidden) {
        return Err(Fault::new(Error::Forbidden, 1));
    }
    Ok(())
}

/// Checks arguments 1 and 2 of an access: a port, and how wide.
fn port_and_width(state: &State, call: &Invoked) -> Result<(u16, u8), Fault> {
    let (first, count) = range_of(state, call);
    let end = u64::from(first) + u64::from(count);
    let port = call.in_range(1, u64::from(first)..=end - 1)?;
    match call.arg(2) {
        width @ (1 | 2 | 4) if port + width <= end => Ok((port as u16, width as u8)),
        _ => Err(Fault::new(Error::OutOfRange, 2)),
    }
}

/// Checks that the holder may access these ports now.
fn check_usable(state: &State, call: &Invoked, port: u16, width: u8) -> Result<(), Fault> {
    if is_taken(state, call.slot, port, u32::from(width)) {
        return Err(Fault::new(Error::InUse, 0));
    }
    check_allowed(state, port, u32::from(width))
}

/// `IoPort.Split`.
pub(super) fn split(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let (first, count) = range_of(state, &call);
    let (first, count) = part(&call, first, count)?;
    let destination = call.destination(state, 3)?;
    if is_split_up(state, call.slot) || is_taken(state, call.slot, first, count) {
        return Err(Fault::new(Error::InUse, 0));
    }
    check_allowed(state, first, count)?;
    check_depth(state, call.slot, 0)?;
    let cap = Cap::IoPort { first, count };
    let rights = state.slots[&call.slot].rights;
    derive(state, call.slot, destination, cap, rights, Kind::Original);
    Ok(Outcome::NOTHING)
}

/// `IoPort.In`.
pub(super) fn read(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let (port, width) = port_and_width(state, &call)?;
    check_usable(state, &call, port, width)?;
    let mask = u64::MAX >> (64 - 8 * u32::from(width));
    Ok(Outcome::Done([u64::from(state.port_input) & mask, 0]))
}

/// `IoPort.Out`.
pub(super) fn write(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let (port, width) = port_and_width(state, &call)?;
    let value = call.in_range(3, 0..=u64::MAX >> (64 - 8 * u32::from(width)))? as u32;
    check_usable(state, &call, port, width)?;
    state.outputs.push(Output::Port { port, width, value });
    Ok(Outcome::NOTHING)
}

/// `IoPort.OutBytes`.
pub(super) fn write_bytes(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let (first, count) = range_of(state, &call);
    let port = call.in_range(1, u64::from(first)..=u64::from(first) + u64::from(count) - 1)? as u16;
    let count = call.in_range(2, 1..=16)? as usize;
    check_usable(state, &call, port, 1)?;
    let low = call.arg(3).to_le_bytes();
    let high = call.arg(4).to_le_bytes();
    for byte in low.into_iter().chain(high).take(count) {
        state.outputs.push(Output::Port { port, width: 1, value: u32::from(byte) });
    }
    Ok(Outcome::NOTHING)
}
