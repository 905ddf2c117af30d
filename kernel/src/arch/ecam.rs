//! Configuration space in memory (PCI Express Base Specification, 7.2.2), as the PCI code of the library reaches it.

use super::mmio::Registers;
use kernel::pci::{Bdf, CONFIG_BYTES, ConfigAccess};

/// The configuration space of a segment.
#[derive(Clone, Copy, Debug)]
pub struct Ecam {
    registers: Registers,
    first_bus: u8,
}

impl Ecam {
    /// Over the memory of the segment's buses from bus 0 on, of which those before `first_bus` answer elsewhere or nowhere.
    pub const fn new(registers: Registers, first_bus: u8) -> Ecam {
        Ecam { registers, first_bus }
    }

    /// Where a register is, if it is in the memory.
    fn at(self, function: Bdf, offset: u16) -> Option<u64> {
        let at = function.ecam_offset() + u64::from(offset);
        let is_there = offset < CONFIG_BYTES && function.bus() >= self.first_bus && at < self.registers.bytes();
        is_there.then_some(at)
    }
}

impl ConfigAccess for Ecam {
    fn read(&self, function: Bdf, offset: u16) -> u32 {
        self.at(function, offset).map_or(u32::MAX, |at| self.registers.read(at))
    }

    fn write(&mut self, function: Bdf, offset: u16, value: u32) {
        if let Some(at) = self.at(function, offset) {
            self.registers.write(at, value);
        }
    }

    fn write_half(&mut self, function: Bdf, offset: u16, value: u16) {
        if let Some(at) = self.at(function, offset) {
            self.registers.write(at, value);
        }
    }
}
