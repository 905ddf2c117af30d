//! What a controller says of itself and its namespaces (Base Specification, 5.17).

use crate::controller::{Controller, Error};
use device::{Clock, DmaMemory, PAGE_BYTES, Registers};
use nvme_queue::{Command, Namespace};

const IDENTIFY: u8 = 0x06;
const NAMESPACE: u32 = 0x00;
const CONTROLLER: u32 = 0x01;
const ACTIVE_NAMESPACES: u32 = 0x02;
const ALLOCATED_NAMESPACES: u32 = 0x10;
const ALLOCATED_NAMESPACE: u32 = 0x11;
const ATTACHED_CONTROLLERS: u32 = 0x12;

/// Bytes of the largest transfer that is used, even if a controller takes more.
const TRANSFER_CAP_BYTES: u32 = 1 << 30;

/// What a controller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its number in the subsystem.
    pub controller: u16,
    /// The largest number of a namespace.
    pub namespaces: u32,
    /// Bytes of the largest transfer.
    pub max_transfer_bytes: u32,
}

impl<R: Registers + Clone, M: DmaMemory, C: Clock> Controller<R, M, C> {
    /// Has a structure of 4096 bytes written into the page of data.
    pub(crate) fn identify(&mut self, structure: u32, namespace: u32) -> Result<(), Error> {
        let command = Command::new(IDENTIFY, namespace).with_dwords(structure, 0);
        self.execute(&command.with_address(self.data_address()))
    }

    /// Two bytes of the page of data; the offset is even.
    pub(crate) fn data16(&self, offset: usize) -> u16 {
        (self.data.load(offset / 8) >> (offset % 8 * 8)) as u16
    }

    /// Four bytes of the page of data; the offset is a multiple of 4.
    pub(crate) fn data32(&self, offset: usize) -> u32 {
        (self.data.load(offset / 8) >> (offset % 8 * 8)) as u32
    }

    /// What this controller is.
    ///
    /// # Errors
    /// As [`Controller::execute`].
    pub fn identity(&mut self) -> Result<Identity, Error> {
        self.identify(CONTROLLER, 0)?;
        // MDTS, in pages as a power of two; 0 means that there is no limit.
        let shift = match u32::from(self.data16(76) >> 8) {
            0 => u32::MAX,
            shift => shift,
        };
        let max_transfer_bytes = if shift < 18 { (PAGE_BYTES as u32) << shift } else { TRANSFER_CAP_BYTES };
        Ok(Identity { controller: self.data16(78), namespaces: self.data32(516), max_transfer_bytes })
    }

    /// What one namespace is, for transfers by this controller. It must be attached to this controller.
    ///
    /// # Errors
    /// As [`Controller::execute`]; [`Error::Nonsense`] if its blocks are not of 512 to 4096 bytes.
    pub fn namespace(&mut self, id: u32) -> Result<Namespace, Error> {
        self.described(NAMESPACE, id)
    }

    /// What one namespace is, whoever it is attached to.
    ///
    /// # Errors
    /// As [`Controller::namespace`].
    pub fn allocated_namespace(&mut self, id: u32) -> Result<Namespace, Error> {
        self.described(ALLOCATED_NAMESPACE, id)
    }

    fn described(&mut self, structure: u32, id: u32) -> Result<Namespace, Error> {
        let max_transfer_bytes = self.identity()?.max_transfer_bytes;
        self.identify(structure, id)?;
        let blocks = self.data.load(0);
        // FLBAS: which of the formats it has.
        let format = usize::from(self.data16(26) & 0xf);
        let block_shift = (self.data32(128 + 4 * format) >> 16) as u8;
        // A namespace that is not attached is all zero.
        if !(9..=12).contains(&block_shift) {
            return Err(Error::Nonsense);
        }
        Ok(Namespace { id, block_shift, blocks, max_transfer_bytes })
    }

    /// The namespace with the lowest number above this one that is attached to this controller.
    ///
    /// # Errors
    /// As [`Controller::execute`].
    pub fn next_namespace(&mut self, after: u32) -> Result<Option<u32>, Error> {
        self.next_of(ACTIVE_NAMESPACES, after)
    }

    /// The namespace with the lowest number above this one that the subsystem has, whoever it is attached to.
    ///
    /// # Errors
    /// As [`Controller::execute`].
    pub fn next_allocated_namespace(&mut self, after: u32) -> Result<Option<u32>, Error> {
        self.next_of(ALLOCATED_NAMESPACES, after)
    }

    /// The controller with the lowest number that a namespace is attached to.
    ///
    /// # Errors
    /// As [`Controller::execute`].
    pub fn attached_controller(&mut self, namespace: u32) -> Result<Option<u16>, Error> {
        self.identify(ATTACHED_CONTROLLERS, namespace)?;
        Ok((self.data16(0) > 0).then(|| self.data16(2)))
    }

    /// True if a namespace is attached to this controller.
    ///
    /// # Errors
    /// As [`Controller::execute`].
    pub fn is_attached(&mut self, namespace: u32, controller: u16) -> Result<bool, Error> {
        // The list begins with this controller, or behind it.
        self.identify(ATTACHED_CONTROLLERS | u32::from(controller) << 16, namespace)?;
        Ok(self.data16(0) > 0 && self.data16(2) == controller)
    }

    fn next_of(&mut self, list: u32, after: u32) -> Result<Option<u32>, Error> {
        self.identify(list, after)?;
        let id = self.data32(0);
        Ok((id > after).then_some(id))
    }
}
