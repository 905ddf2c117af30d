//! What a controller counts: the log page "SMART / Health Information" of a namespace (Base Specification, 5.16.1.3).

use crate::controller::{Controller, Error};
use device::{Clock, DmaMemory, Registers};
use nvme_queue::Command;

const GET_LOG_PAGE: u8 = 0x02;
const SMART: u32 = 0x02;
/// Bytes of the page.
const SMART_BYTES: u32 = 512;
/// Words of the page of data in which host read commands and host write commands are counted, of 16 bytes each: what is
/// beyond 64 bits is not looked at.
const READS: usize = 64 / 8;
const WRITES: usize = 80 / 8;

impl<R: Registers + Clone, M: DmaMemory, C: Clock> Controller<R, M, C> {
    /// Reads and writes of a namespace that have ended well so far, whichever controller they were given to; wraps. The
    /// namespace must be attached to this controller. Other commands (flushes, zeroes) are not counted by the emulated one.
    ///
    /// # Errors
    /// As [`Controller::execute`]; it is refused by a controller that does not count by namespace.
    pub fn operations(&mut self, namespace: u32) -> Result<u64, Error> {
        // Double word 10: the page, and how many double words of it, less one.
        let dword_10 = SMART | (SMART_BYTES / 4 - 1) << 16;
        let command = Command::new(GET_LOG_PAGE, namespace).with_dwords(dword_10, 0);
        self.execute(&command.with_address(self.data_address()))?;
        Ok(self.data.load(READS).wrapping_add(self.data.load(WRITES)))
    }
}
