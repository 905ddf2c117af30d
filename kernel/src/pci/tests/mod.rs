//! The PCI code over functions in arrays: an emulator's configuration spaces, random ones, and mixtures.
//!
//! The `.txt` files beside are configuration spaces of QEMU's `igb` and `nvme`, of a virtual function of each, and of the
//! root ports above them. `tests/e2e/tests/pci.rs` names the command line, compares them with a running emulator, and
//! writes them anew when `NONKERNEL_WRITE_DUMPS` is set.

extern crate alloc;

mod controlling;
pub(crate) mod fake;
mod filtering;
mod finding;
mod hostile;
mod virtuals;

use super::{Bdf, Functions};
use crate::firmware::memory_map::Region;
use fake::{Fake, Space};

/// What the platform of the emulator has for itself: RAM, configuration space, and what is at the end of 4 GiB.
pub(crate) const PLATFORM: [Region; 3] = [
    Region { start: 0, end: 0x800_0000 },
    Region { start: 0xb000_0000, end: 0xc000_0000 },
    Region { start: 0xfed0_0000, end: 1 << 32 },
];

pub(crate) const PORT_OF_IGB: Bdf = Bdf::new(0, 1, 0);
pub(crate) const PORT_OF_NVME: Bdf = Bdf::new(0, 2, 0);
pub(crate) const IGB: Bdf = Bdf::new(1, 0, 0);
pub(crate) const NVME: Bdf = Bdf::new(2, 0, 0);

/// The emulator's machine: a root port with a network adapter and one with a disc controller, each with virtual functions.
pub(crate) fn machine() -> Fake {
    let mut fake = Fake::default();
    fake.put(Bdf::new(0, 0, 0), Space::of_words(&[(0x00, 0x29c0_8086), (0x08, 0x0600_0000)]));
    fake.put(PORT_OF_IGB, Space::of_dump(include_str!("port-of-igb.txt")));
    fake.put(PORT_OF_NVME, Space::of_dump(include_str!("port-of-nvme.txt")));
    let igb = Space::of_dump(include_str!("igb.txt"));
    fake.put(IGB, igb.with_virtual(0x160, Space::of_dump(include_str!("igb-vf.txt"))));
    let nvme = Space::of_dump(include_str!("nvme.txt"));
    fake.put(NVME, nvme.with_virtual(0x120, Space::of_dump(include_str!("nvme-vf.txt"))));
    fake
}

fn found(fake: &mut Fake) -> alloc::boxed::Box<Functions> {
    let mut functions = alloc::boxed::Box::new(Functions::new());
    functions.enumerate(fake, 0..=255, PLATFORM);
    functions
}
