//! Vcpu: a virtual processor.
//!
//! * It is made detached and stopped. **Attach** makes it a processor of a VM, in 64-bit mode with paging on, interrupts
//!   off and no upcalls, with the given RIP, CR3 and RSP: `InUse` if it has a VM. It stays with this VM until the VM is
//!   destroyed.
//! * **SetRegister**, **GetRegister**: of a stopped Vcpu that has a VM. RIP, FS and GS base must be canonical, RFLAGS
//!   have allowed bits only, CR3 be below 2^48 (`OutOfRange`) and aligned to 4 KiB (`Misaligned`), as for Attach. `Busy`
//!   while a core still holds them.
//! * **BindTime** gives it a reservation: `InUse` if it has one (0), or if the reservation is bound or split (1).
//!   **UnbindTime** takes it off; `NotConfigured` if there is none. Both of stopped Vcpus only; `Busy` if a core that
//!   still holds it is not the reservation's. A Vcpu that loses its CPU time loses its interrupt routes, which lead to its
//!   core, and if it sleeps, its deadline.
//! * **SetUpcall** chooses vectors, 0 or 32 to 255. **SetHandler** chooses who is told when it stops by itself, before
//!   the VM is launched (`WrongPhase`); an end tells of one thing, the one that named it last.
//! * **Start** makes a stopped Vcpu of a launched VM runnable; it needs a VM, a CSpace and CPU time (`NotConfigured`).
//!   **Stop** stops it, whatever it does: a sleep ends without results.
//! * **Signal** sets event bits (not 0) and wakes it if it waits for one of them. **Wait** takes the events of a mask
//!   (not 0) on the invoker's own Vcpu (`Forbidden` for another); if there are none and the deadline has not passed, the
//!   invoker sleeps until there are, or until the deadline, and then gets what there is.
//! * The world: a Vcpu that does what its VM cannot settle [stops by itself](stop_by_itself), an interrupt
//!   [wakes](interrupt) a sleeper, and a root VM that has stopped [starts again](start_root).
//! * **GetPage** derives a Frame capability to the info page (READ, and WRITE if the invoked one has it) or to the handler
//!   page (READ).

use core::ops::RangeInclusive;

use super::faults::{free_end, tell_handler};
use super::lookup::Invoked;
use super::state::{Cap, Run, State, Vcpu, VcpuId};
use super::vm::derive_page;
use super::{Outcome, cpu_time};
use crate::abi::{Error, Fault, ObjectType, PAGE_BITS, Register, Rights};

/// RFLAGS that may be set: the arithmetic flags, TF, IF, DF, IOPL, NT, RF, AC, ID, and bit 1, which is always set.
const RFLAGS_ALLOWED: u64 = 0x0025_7fd7;
/// The bit of RFLAGS that is always set.
const RFLAGS_FIXED: u64 = 2;

/// The registers of a Vcpu that was just attached: all zero but the fixed bit of RFLAGS.
pub fn initial_registers() -> [u64; 21] {
    let mut registers = [0; 21];
    registers[Register::Rflags as usize] = RFLAGS_FIXED;
    registers
}

/// The Vcpu that an invoked Vcpu capability names.
fn vcpu_of(state: &State, call: &Invoked) -> VcpuId {
    match state.slots[&call.slot].cap {
        Cap::Vcpu(id) => id,
        _ => unreachable!("the label was checked against the type"),
    }
}

/// A Vcpu, to change it.
fn change(state: &mut State, id: VcpuId, change: impl FnOnce(&mut Vcpu)) -> Result<Outcome, Fault> {
    if let Some(vcpu) = state.vcpus.get_mut(&id) {
        change(vcpu);
    }
    Ok(Outcome::NOTHING)
}

/// Checks that it has a VM.
fn check_attached(state: &State, id: VcpuId) -> Result<(), Fault> {
    if state.vcpus[&id].vm.is_some() { Ok(()) } else { Err(Fault::new(Error::NotConfigured, 0)) }
}

/// Checks that it is stopped.
fn check_stopped(state: &State, id: VcpuId) -> Result<(), Fault> {
    if state.vcpus[&id].run == Run::Stopped { Ok(()) } else { Err(Fault::new(Error::Running, 0)) }
}

/// `Vcpu.Attach`.
pub(super) fn attach(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let id = vcpu_of(state, &call);
    let vm = call.vm(state, 1)?;
    let mut registers = initial_registers();
    for (number, register) in [(2, Register::Rip), (3, Register::Cr3), (4, Register::Rsp)] {
        registers[register as usize] = legal(register, call.arg(number), number)?;
    }
    if state.vcpus[&id].vm.is_some() {
        return Err(Fault::new(Error::InUse, 0));
    }
    change(state, id, |vcpu| {
        vcpu.vm = Some(vm);
        vcpu.registers = registers;
        vcpu.upcall = [0; 2];
    })
}

/// The register that argument 1 names.
fn register(call: &Invoked) -> Result<Register, Fault> {
    Register::from_number(call.arg(1)).ok_or(Fault::new(Error::OutOfRange, 1))
}

/// What a register holds after `value`, which argument `number` is, was put into it.
fn legal(register: Register, value: u64, number: u8) -> Result<u64, Fault> {
    let out_of_range = Err(Fault::new(Error::OutOfRange, number));
    match register {
        Register::Rip | Register::FsBase | Register::GsBase => {
            let is_canonical = !(1 << 47..u64::MAX << 47).contains(&value);
            if is_canonical { Ok(value) } else { out_of_range }
        }
        Register::Rflags if value & !RFLAGS_ALLOWED != 0 => out_of_range,
        Register::Rflags => Ok(value | RFLAGS_FIXED),
        Register::Cr3 if value >= 1 << 48 => out_of_range,
        Register::Cr3 if !value.is_multiple_of(1 << PAGE_BITS) => Err(Fault::new(Error::Misaligned, number)),
        _ => Ok(value),
    }
}

/// Checks that its registers are at hand.
fn check_registers(state: &State, id: VcpuId) -> Result<(), Fault> {
    check_attached(state, id)?;
    check_stopped(state, id)?;
    if state.holders.contains_key(&id) { Err(Fault::new(Error::Busy, 0)) } else { Ok(()) }
}

/// `Vcpu.SetRegister`.
pub(super) fn set_register(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let id = vcpu_of(state, &call);
    let register = register(&call)?;
    let value = legal(register, call.arg(2), 2)?;
    check_registers(state, id)?;
    change(state, id, |vcpu| vcpu.registers[register as usize] = value)
}

/// `Vcpu.GetRegister`.
pub(super) fn get_register(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let id = vcpu_of(state, &call);
    let register = register(&call)?;
    check_registers(state, id)?;
    Ok(Outcome::Done([state.vcpus[&id].registers[register as usize], 0]))
}

/// `Vcpu.BindTime`.
pub(super) fn bind_time(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let id = vcpu_of(state, &call);
    let time = call.capability(state, 1, ObjectType::CpuTime, Rights::empty())?;
    let Cap::CpuTime { core, vcpu: bound, .. } = state.slots[&time].cap else {
        unreachable!("argument 1 was checked to be a CpuTime")
    };
    if state.time_of(id).is_some() {
        return Err(Fault::new(Error::InUse, 0));
    }
    if bound.is_some() || state.has_children(time) {
        return Err(Fault::new(Error::InUse, 1));
    }
    check_attached(state, id)?;
    check_stopped(state, id)?;
    if state.holders.get(&id).is_some_and(|holder| *holder != core) {
        return Err(Fault::new(Error::Busy, 0));
    }
    if let Some(Cap::CpuTime { vcpu, .. }) = state.slots.get_mut(&time).map(|slot| &mut slot.cap) {
        *vcpu = Some(id);
    }
    Ok(Outcome::NOTHING)
}

/// `Vcpu.UnbindTime`.
pub(super) fn unbind_time(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let id = vcpu_of(state, &call);
    state.time_of(id).ok_or(Fault::new(Error::NotConfigured, 0))?;
    check_stopped(state, id)?;
    take_time(state, id);
    Ok(Outcome::NOTHING)
}

/// Takes a Vcpu off its CPU time and, as interrupts are routed to the core of that, off its interrupt routes.
pub(super) fn take_time(state: &mut State, id: VcpuId) {
    if let Some(time) = state.time_of(id) {
        cpu_time::unbind(state, time);
    }
    if let Some(Run::Blocked { deadline, .. }) = state.vcpus.get_mut(&id).map(|vcpu| &mut vcpu.run) {
        *deadline = 0;
    }
    for slot in state.slots.values_mut() {
        if let Cap::Irq { route, .. } = &mut slot.cap
            && route.is_some_and(|route| route.vcpu == id)
        {
            *route = None;
        }
    }
}

/// `Vcpu.SetUpcall`.
pub(super) fn set_upcall(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let id = vcpu_of(state, &call);
    let vector = |number| match call.arg(number) {
        vector @ (0 | 32..=255) => Ok(vector as u8),
        _ => Err(Fault::new(Error::OutOfRange, number)),
    };
    let upcall = [vector(1)?, vector(2)?];
    check_attached(state, id)?;
    change(state, id, |vcpu| vcpu.upcall = upcall)
}

/// `Vcpu.SetHandler`.
pub(super) fn set_handler(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let id = vcpu_of(state, &call);
    let Cap::Channel { id: channel, end } =
        state.slots[&call.capability(state, 1, ObjectType::Channel, Rights::empty())?].cap
    else {
        unreachable!("argument 1 was checked to be a Channel")
    };
    check_attached(state, id)?;
    if is_launched(state, id) {
        return Err(Fault::new(Error::WrongPhase, 0));
    }
    free_end(state, (channel, end));
    change(state, id, |vcpu| vcpu.handler = Some((channel, end)))
}

/// True if it belongs to a VM whose base is being revoked.
fn is_closing(state: &State, id: VcpuId) -> bool {
    state.vcpus[&id].vm.is_some_and(|vm| state.dying.closing.contains(&vm))
}

/// True if it belongs to a VM that has been launched.
fn is_launched(state: &State, id: VcpuId) -> bool {
    state.vcpus[&id].vm.is_some_and(|vm| state.vms[&vm].launched)
}

/// `Vcpu.Start`.
pub(super) fn start(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let id = vcpu_of(state, &call);
    let has_cspace = state.vcpus[&id].vm.is_some_and(|vm| state.vms[&vm].cspace.is_some());
    if !has_cspace || state.time_of(id).is_none() {
        return Err(Fault::new(Error::NotConfigured, 0));
    }
    if !is_launched(state, id) || is_closing(state, id) {
        return Err(Fault::new(Error::WrongPhase, 0));
    }
    check_stopped(state, id)?;
    change(state, id, |vcpu| vcpu.run = Run::Runnable)
}

/// `Vcpu.Stop`.
pub(super) fn stop(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let id = vcpu_of(state, &call);
    check_attached(state, id)?;
    change(state, id, |vcpu| vcpu.run = Run::Stopped)
}

/// `Vcpu.GetPage`.
pub(super) fn get_page(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let id = vcpu_of(state, &call);
    let (page, rights) = match call.in_range(1, 0..=1)? {
        0 => (id.info_page(), Rights::READ | Rights::WRITE),
        _ => (id.handler_page(), Rights::READ),
    };
    derive_page(state, call, 2, page, rights)
}

/// Any event.
pub(super) const SOME_EVENTS: RangeInclusive<u64> = 1..=u64::MAX;

/// `Vcpu.Signal`.
pub(super) fn signal(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let id = vcpu_of(state, &call);
    let bits = call.in_range(1, SOME_EVENTS)?;
    check_attached(state, id)?;
    raise(state, id, bits);
    Ok(Outcome::NOTHING)
}

/// `Vcpu.Wait`.
pub(super) fn wait(state: &mut State, call: Invoked) -> Result<Outcome, Fault> {
    let id = vcpu_of(state, &call);
    let mask = call.in_range(1, SOME_EVENTS)?;
    if id != call.invoker {
        return Err(Fault::new(Error::Forbidden, 0));
    }
    Ok(sleep(state, id, mask, call.arg(2)))
}

/// Sets events of a Vcpu, and wakes it if it sleeps for one of them.
pub(super) fn raise(state: &mut State, id: VcpuId, bits: u64) {
    let Some(vcpu) = state.vcpus.get_mut(&id) else { return };
    vcpu.events |= bits;
    if let Run::Blocked { mask, .. } = vcpu.run
        && vcpu.events & mask != 0
    {
        wake(state, id);
    }
}

/// Takes events, or sleeps until there are some.
pub(super) fn sleep(state: &mut State, id: VcpuId, mask: u64, deadline: u64) -> Outcome {
    let now = state.now;
    let Some(vcpu) = state.vcpus.get_mut(&id) else { return Outcome::NOTHING };
    let taken = vcpu.events & mask;
    vcpu.events &= !mask;
    if taken != 0 || (deadline != 0 && deadline <= now) {
        return Outcome::Done([taken, 0]);
    }
    vcpu.run = Run::Blocked { mask, deadline };
    Outcome::Blocked
}

/// Ends a sleep, if it sleeps: the events of the mask are taken and become the result.
pub(super) fn wake(state: &mut State, id: VcpuId) {
    let Some(vcpu) = state.vcpus.get_mut(&id) else { return };
    if let Run::Blocked { mask, .. } = vcpu.run {
        let taken = vcpu.events & mask;
        vcpu.events &= !mask;
        vcpu.run = Run::Runnable;
        state.completions.push((id, taken));
    }
}

/// A core finds that the deadline of a sleeper has passed: it wakes with the events that there are, which are returned.
/// `None` if it does not sleep or may sleep on.
pub fn expire(state: &mut State, id: VcpuId) -> Option<u64> {
    let now = state.now;
    let vcpu = state.vcpus.get_mut(&id)?;
    match vcpu.run {
        Run::Blocked { mask, deadline } if deadline != 0 && deadline <= now => {
            let taken = vcpu.events & mask;
            vcpu.events &= !mask;
            vcpu.run = Run::Runnable;
            Some(taken)
        }
        _ => None,
    }
}

/// A device wakes a sleeper whose interrupt routes lead to it, at any time, with the events that there are, which are
/// returned. `None` if it does not sleep or takes no interrupts.
pub fn interrupt(state: &mut State, id: VcpuId) -> Option<u64> {
    if state.routes_of(id) == 0 {
        return None;
    }
    let vcpu = state.vcpus.get_mut(&id)?;
    let Run::Blocked { mask, .. } = vcpu.run else { return None };
    let taken = vcpu.events & mask;
    vcpu.events &= !mask;
    vcpu.run = Run::Runnable;
    Some(taken)
}

/// A Vcpu stops by itself, and its handler's peer is told.
pub fn stop_by_itself(state: &mut State, id: VcpuId) {
    let Some(vcpu) = state.vcpus.get_mut(&id) else { return };
    vcpu.run = Run::Stopped;
    tell_handler(state, state.vcpus[&id].handler);
}

/// The kernel starts the root VM, for the first time or once more: at its entry, without upcalls.
pub fn start_root(state: &mut State, id: VcpuId, entry: u64) {
    let Some(vcpu) = state.vcpus.get_mut(&id) else { return };
    vcpu.run = Run::Runnable;
    vcpu.upcall = [0; 2];
    vcpu.registers = initial_registers();
    vcpu.registers[Register::Rip as usize] = entry;
}
