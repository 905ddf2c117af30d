//! IoPort: ranges of I/O ports.
//!
//! Invariants: no two capabilities that can use a port exist, as a child's ports are not its parent's while it lives; the
//! ports of [`FORBIDDEN`] are used by nobody but the kernel, whatever range was given out.

use crate::decode::{Invocation, Invoked};
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::types::SlotId;
use cap_spec::abi::{Error, Fault, Label};

/// Ports that are never handed out, first and last. Whoever has one could reach memory, interrupts or the machine's state
/// past the kernel: DMA controllers and their pages, both interrupt controllers and their trigger modes, the timer and the
/// NMI and speaker gate beside it, the keyboard controller's commands (reset), CMOS with the NMI mask, system control (A20,
/// reset), what raises system management interrupts, an emulator's firmware configuration (it copies to any address), PCI
/// configuration, and what AMD chipsets have at fixed ports: index and data of interrupt routing, the SERR and NMI gate,
/// and two pairs of index and data of power management. The configuration of super-I/O chips is at one of two places; it
/// moves their devices to any port.
const FORBIDDEN: [(u16, u16); 19] = [
    (0x00, 0x1f),
    (0x20, 0x21),
    (0x2e, 0x2f),
    (0x40, 0x43),
    (0x4e, 0x4f),
    (0x61, 0x61),
    (0x64, 0x64),
    (0x70, 0x71),
    (0x80, 0x8f),
    (0x92, 0x92),
    (0xa0, 0xa1),
    (0xb2, 0xb3),
    (0xc0, 0xdf),
    (0x4d0, 0x4d1),
    (0x510, 0x51b),
    (0xc00, 0xc01),
    (0xc14, 0xc14),
    (0xcd4, 0xcd7),
    (0xcf8, 0xcff),
];

/// True if one of these ports is never handed out.
pub fn is_forbidden(first: u16, count: u32) -> bool {
    let start = first as u32;
    let end = start.wrapping_add(count);
    FORBIDDEN.iter().any(|&(low, high)| (low as u32) < end && start <= high as u32)
}

impl<M: Machine> Kernel<M> {
    /// Every label of IoPort.
    pub(crate) fn decode_ports(
        &self,
        label: Label,
        call: &Invoked,
        first: u16,
        count: u32,
    ) -> Result<Invocation, Fault> {
        if matches!(label, Label::IoPortSplit) {
            let (from, to, first, count) = self.decode_split(call, first, count)?;
            return Ok(Invocation::SplitPorts { from, to, first, count });
        }
        let end = (first as u64).wrapping_add(count as u64);
        let port = call.number(1, first as u64, end.wrapping_sub(1))?;
        if matches!(label, Label::IoPortOutBytes) {
            let count = call.number(2, 1, 16)? as u8;
            self.check_usable(call.id, port as u16, 1)?;
            let &[_, _, low, high, _] = call.args;
            return Ok(Invocation::PortOutBytes { port: port as u16, count, low, high });
        }
        let width = match call.number(2, 1, 4)? {
            3 => return Err(Fault::new(Error::OutOfRange, 2)),
            width if port.wrapping_add(width) > end => return Err(Fault::new(Error::OutOfRange, 2)),
            width => width as u8,
        };
        let port = port as u16;
        if matches!(label, Label::IoPortIn) {
            self.check_usable(call.id, port, width)?;
            return Ok(Invocation::PortIn { port, width });
        }
        let value = call.number(3, 0, mask_of(width))?;
        self.check_usable(call.id, port, width)?;
        Ok(Invocation::PortOut { port, width, value: value as u32 })
    }

    /// Checks that the holder of a range may use these ports of it now.
    fn check_usable(&self, slot: SlotId, port: u16, width: u8) -> Result<(), Fault> {
        if self.is_taken(slot, port, width as u32) {
            return Err(Fault::new(Error::InUse, 0));
        }
        if is_forbidden(port, width as u32) {
            return Err(Fault::new(Error::Forbidden, 1));
        }
        Ok(())
    }
}

/// The largest value of this many bytes (1, 2 or 4).
#[inline]
pub(crate) const fn mask_of(width: u8) -> u64 {
    1u64.wrapping_shl(8u32.wrapping_mul(width as u32)).wrapping_sub(1)
}
