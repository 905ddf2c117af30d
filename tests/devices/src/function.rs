//! PCI functions: BARs, virtual functions, and messages that land in memory, where a test sees them. This is what the
//! kernel does in a real system, without its care.

use crate::machine::{Machine, Memory};
use device::Registers;

/// Extended capability of SR-IOV (PCI Express Base Specification, 9.3.3).
const SRIOV: u16 = 0x10;
/// Capability of MSI-X (PCI Local Bus Specification 3.0, 6.8.2).
const MSIX: u8 = 0x11;
/// Capability of PCI Express.
const EXPRESS: u8 = 0x10;

/// A function whose BARs are placed.
#[derive(Clone, Debug)]
pub struct Function {
    machine: Machine,
    routing_id: u16,
    bars: [u64; 6],
}

/// The registers of a BAR.
#[derive(Clone, Debug)]
pub struct Bar {
    machine: Machine,
    base: u64,
    bytes: u64,
}

impl Bar {
    /// A part of it, as a mapping of some of its pages would be.
    #[must_use]
    pub fn part(&self, offset: u64, bytes: u64) -> Bar {
        assert!(offset + bytes <= self.bytes);
        Bar { machine: self.machine.clone(), base: self.base + offset, bytes }
    }
}

impl Registers for Bar {
    fn read32(&self, offset: u32) -> u32 {
        if u64::from(offset) < self.bytes { self.machine.read32(self.base + u64::from(offset)) } else { u32::MAX }
    }

    fn write32(&self, offset: u32, value: u32) {
        if u64::from(offset) < self.bytes {
            self.machine.write32(self.base + u64::from(offset), value);
        }
    }
}

impl Function {
    /// The function with this routing identifier: BARs placed, memory and bus mastering on.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn set_up(machine: &Machine, routing_id: u16) -> Function {
        assert_ne!(machine.read_config(routing_id, 0), u32::MAX, "no function {routing_id:#06x}");
        let bars = place_bars(machine, routing_id, 0x10, 1).map(|(base, _)| base);
        let function = Function { machine: machine.clone(), routing_id, bars };
        function.enable();
        function
    }

    fn enable(&self) {
        self.write(4, self.read(4) | 0x6);
    }

    fn read(&self, offset: u32) -> u32 {
        self.machine.read_config(self.routing_id, offset)
    }

    fn write(&self, offset: u32, value: u32) {
        self.machine.write_config(self.routing_id, offset, value);
    }

    /// Vendor in the lower half, device in the upper one; all ones for VFs.
    #[must_use]
    pub fn identity(&self) -> u32 {
        self.read(0)
    }

    /// The registers of a BAR of so many bytes.
    #[must_use]
    pub fn bar(&self, index: usize, bytes: u64) -> Bar {
        Bar { machine: self.machine.clone(), base: self.bars[index], bytes }
    }

    /// Switches on `count` virtual functions and places their BARs.
    ///
    /// # Panics
    /// When it can have none.
    #[must_use]
    pub fn enable_vfs(&self, count: u16) -> Vec<Function> {
        let sriov = self.extended_capability(SRIOV).expect("the function has VFs");
        self.write(sriov + 0x10, u32::from(count));
        let (offset, stride) = {
            let word = self.read(sriov + 0x14);
            (word as u16, (word >> 16) as u16)
        };
        let bars = place_bars(&self.machine, self.routing_id, sriov + 0x24, u64::from(count));
        // VF enable, and VF memory space enable.
        self.write(sriov + 8, self.read(sriov + 8) | 0x9);
        (0..count)
            .map(|vf| {
                let routing_id = self.routing_id + offset + stride * vf;
                let bars = bars.map(|bar| bar.0 + bar.1 * u64::from(vf));
                let function = Function { machine: self.machine.clone(), routing_id, bars };
                function.enable();
                function
            })
            .collect()
    }

    /// Resets the function (PCI Express Base Specification, 6.6.2), after which it is enabled again.
    ///
    /// # Panics
    /// When it has no such reset.
    pub fn reset(&self) {
        let express = self.capability(EXPRESS).expect("a PCI Express function");
        assert_ne!(self.read(express + 4) & 1 << 28, 0, "the function can be reset");
        self.write(express + 8, self.read(express + 8) | 1 << 15);
        self.machine.step(100_000_000);
        self.enable();
    }

    /// Makes the messages of all vectors land in memory, where [`Messages::take`] sees them.
    ///
    /// # Panics
    /// When the function has no MSI-X.
    #[must_use]
    pub fn catch_messages(&self) -> Messages {
        let msix = self.capability(MSIX).expect("the function has MSI-X");
        let vectors = (self.read(msix) >> 16 & 0x7ff) + 1;
        let table = self.read(msix + 4);
        let base = self.bars[(table & 7) as usize] + u64::from(table & !7);
        let memory = self.machine.memory(1);
        for vector in 0..u64::from(vectors) {
            let entry = base + 16 * vector;
            self.machine.write32(entry, (memory.address() + 4 * vector) as u32);
            self.machine.write32(entry + 4, 0);
            self.machine.write32(entry + 8, 1);
            self.machine.write32(entry + 12, 0);
        }
        self.write(msix, self.read(msix) & !(1 << 30) | 1 << 31);
        Messages { memory }
    }

    fn capability(&self, wanted: u8) -> Option<u32> {
        let mut at = self.read(0x34) & 0xfc;
        for _ in 0..48 {
            if at == 0 {
                return None;
            }
            let header = self.read(at);
            if header as u8 == wanted {
                return Some(at);
            }
            at = header >> 8 & 0xfc;
        }
        None
    }

    fn extended_capability(&self, wanted: u16) -> Option<u32> {
        let mut at = 0x100;
        for _ in 0..960 {
            let header = self.read(at);
            if at == 0 || header == 0 {
                return None;
            }
            if header as u16 == wanted {
                return Some(at);
            }
            at = header >> 20 & 0xffc;
        }
        None
    }
}

/// The BARs whose registers begin at `register`, with room for `count` of each; address and size of one.
fn place_bars(machine: &Machine, routing_id: u16, register: u32, count: u64) -> [(u64, u64); 6] {
    let mut bars = [(0, 0); 6];
    let mut index = 0;
    while index < bars.len() {
        let at = register + 4 * index as u32;
        machine.write_config(routing_id, at, u32::MAX);
        let mask = machine.read_config(routing_id, at);
        let is_memory = mask != 0 && mask & 1 == 0;
        let is_64_bit = is_memory && mask & 6 == 4;
        if is_memory {
            let bytes = u64::from(!(mask & !0xf)) + 1;
            let base = machine.place_bar(bytes * count.next_power_of_two());
            machine.write_config(routing_id, at, base as u32);
            bars[index] = (base, bytes);
        }
        if is_64_bit {
            machine.write_config(routing_id, at + 4, 0);
        }
        index += 1 + usize::from(is_64_bit);
    }
    bars
}

/// Interrupt messages that landed in memory.
#[derive(Debug)]
pub struct Messages {
    memory: Memory,
}

impl Messages {
    /// True if a vector's message came since the last time.
    #[must_use]
    pub fn take(&self, vector: u64) -> bool {
        let came = self.memory.read(4 * vector, 4) != [0; 4];
        if came {
            self.memory.write(4 * vector, &[0; 4]);
        }
        came
    }
}
