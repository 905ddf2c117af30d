//! MSI-X tables in the memory of functions, as the PCI code of the library reaches them.

use kernel::pci::msix::TableAccess;
use kernel::types::Hpa;

/// Every MSI-X table: each entry is named by its address.
#[derive(Clone, Copy, Debug)]
pub struct MsixTables(());

impl MsixTables {
    /// All of them.
    ///
    /// # Safety
    /// Whoever uses this names only double words of entries of MSI-X tables ([`kernel::pci::msix::Msix::entry`]) of functions
    /// that answer at memory below 512 GiB which is nothing else's.
    pub const unsafe fn new() -> MsixTables {
        MsixTables(())
    }
}

impl TableAccess for MsixTables {
    fn write(&mut self, at: Hpa, value: u32) {
        // SAFETY: a double word of a table, see `new`; a device reads it: hence volatile.
        unsafe { (at.get() as *mut u32).write_volatile(value) };
    }

    fn read(&self, at: Hpa) -> u32 {
        // SAFETY: as for `write`.
        unsafe { (at.get() as *const u32).read_volatile() }
    }
}
