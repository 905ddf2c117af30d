//! Making I/O queues in an application's memory (Base Specification, 5.4 to 5.7).

use crate::controller::{Controller, Error};
use crate::registers as reg;
use device::{Clock, DmaMemory, IoAddress, Registers};
use nvme_queue::Command;

const DELETE_SUBMISSION: u8 = 0x00;
const CREATE_SUBMISSION: u8 = 0x01;
const DELETE_COMPLETION: u8 = 0x04;
const CREATE_COMPLETION: u8 = 0x05;
const CONTIGUOUS: u32 = 1 << 0;
const INTERRUPTS: u32 = 1 << 1;

/// A queue pair to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueRequest {
    /// Its number, from 1 on.
    pub number: u16,
    /// Entries of each ring, 2 to 4096.
    pub entries: u16,
    /// Where the submission ring is, in whole pages: 64 bytes for each entry.
    pub submission: IoAddress,
    /// Where the completion ring is, in whole pages, all zero: 16 bytes for each entry.
    pub completion: IoAddress,
    /// The vector that completions raise, if any.
    pub vector: Option<u16>,
}

/// Where the doorbells of a queue pair are, for [`nvme_queue::Rings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoQueues {
    /// Offset of the submission queue's doorbell in the page of doorbells.
    pub first: u32,
    /// Bytes from there to the completion queue's.
    pub stride: u32,
}

impl<R: Registers + Clone, M: DmaMemory, C: Clock> Controller<R, M, C> {
    /// Makes a queue pair.
    ///
    /// # Errors
    /// [`Error::Arguments`] if the number or size is none that the controller could have, or an address is within a page;
    /// else as [`Controller::execute`].
    pub fn create_queues(&mut self, request: &QueueRequest) -> Result<IoQueues, Error> {
        let QueueRequest { number, entries, submission, completion, vector } = *request;
        let most = (self.registers.read32(reg::CAP) & reg::CAP_MQES) + 1;
        let is_aligned = submission.page_offset() == 0 && completion.page_offset() == 0;
        if number == 0 || !(2..=4096).contains(&entries) || u32::from(entries) > most || !is_aligned {
            return Err(Error::Arguments);
        }
        let size = u32::from(number) | u32::from(entries - 1) << 16;
        let interrupts = vector.map_or(0, |vector| INTERRUPTS | u32::from(vector) << 16);
        let ring = |opcode, at: IoAddress, flags| Command::new(opcode, 0).with_address(at).with_dwords(size, flags);
        self.execute(&ring(CREATE_COMPLETION, completion, CONTIGUOUS | interrupts))?;
        let outcome = self.execute(&ring(CREATE_SUBMISSION, submission, CONTIGUOUS | u32::from(number) << 16));
        if let Err(error) = outcome {
            self.delete(DELETE_COMPLETION, number)?;
            return Err(error);
        }
        let stride = self.doorbell_stride();
        Ok(IoQueues { first: 2 * u32::from(number) * stride, stride })
    }

    /// Deletes a queue pair. Commands under way are aborted; the controller does not touch their data any more.
    ///
    /// # Errors
    /// As [`Controller::execute`].
    pub fn delete_queues(&mut self, number: u16) -> Result<(), Error> {
        self.delete(DELETE_SUBMISSION, number)?;
        self.delete(DELETE_COMPLETION, number)
    }

    fn delete(&mut self, opcode: u8, number: u16) -> Result<(), Error> {
        self.execute(&Command::new(opcode, 0).with_dwords(u32::from(number), 0))
    }
}
