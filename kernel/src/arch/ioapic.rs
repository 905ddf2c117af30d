//! The IOAPIC: every pin masked at boot; pins routed to a core as NMI (the HPET's) or as a vector (`Irq`), directly or
//! through an entry of the interrupt remapping table.

use super::mmio::Registers;

const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const VERSION: u32 = 0x01;
/// First word of the first redirection entry; two words each.
const REDIRECTION: u32 = 0x10;
const MASKED: u32 = 1 << 16;
/// Delivery as an NMI, instead of a vector.
const DELIVER_NMI: u32 = 4 << 8;
/// Largest APIC id that a redirection entry can name without interrupt remapping.
const MAX_ID: u32 = 254;

/// One IOAPIC.
#[derive(Clone, Copy, Debug)]
pub struct IoApic {
    registers: Registers,
    /// How many pins it has.
    pub pins: u8,
}

impl IoApic {
    /// Takes it over, with every pin masked and edge-triggered.
    pub fn new(registers: Registers) -> IoApic {
        let mut io_apic = IoApic { registers, pins: 0 };
        io_apic.pins = ((io_apic.read(VERSION) >> 16) as u8).min(239) + 1;
        for pin in 0..io_apic.pins {
            io_apic.mask(pin);
        }
        io_apic
    }

    fn read(self, register: u32) -> u32 {
        self.registers.write(SELECT, register);
        self.registers.read(WINDOW)
    }

    fn write(self, register: u32, value: u32) {
        self.registers.write(SELECT, register);
        self.registers.write(WINDOW, value);
    }

    /// Masks a pin, and returns when the mask holds.
    pub fn mask(self, pin: u8) {
        self.write(REDIRECTION + 2 * u32::from(pin), MASKED);
        self.read(REDIRECTION + 2 * u32::from(pin));
    }

    /// The words of a redirection entry that delivers edges to a core without remapping, as a vector or as an NMI; `None` if
    /// the core's id does not fit.
    #[inline]
    pub fn direct(apic_id: u32, vector: Option<u8>) -> Option<[u32; 2]> {
        (apic_id <= MAX_ID).then(|| [vector.map_or(DELIVER_NMI, u32::from), apic_id << 24])
    }

    /// Sets both words of a pin's redirection entry; returns when that holds, so that what came before has arrived.
    #[inline]
    pub fn route(self, pin: u8, [low, high]: [u32; 2]) {
        if pin < self.pins {
            self.write(REDIRECTION + 2 * u32::from(pin) + 1, high);
            self.write(REDIRECTION + 2 * u32::from(pin), low);
            self.read(REDIRECTION + 2 * u32::from(pin));
        }
    }
}
