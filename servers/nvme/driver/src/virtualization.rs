//! What the PF does for its VFs, which are "secondary controllers" here: queues and vectors, state, namespaces (Base
//! Specification, 5.22 Namespace Attachment, 5.29 Virtualization Management, 5.17.2.16 Secondary Controller List).

use crate::controller::{Controller, Error};
use device::{Clock, DmaMemory, Registers};
use nvme_queue::Command;

const NAMESPACE_ATTACHMENT: u8 = 0x15;
const VIRTUALIZATION_MANAGEMENT: u8 = 0x1c;
const SECONDARY_LIST: u32 = 0x15;

const PRIMARY_ALLOCATE: u32 = 1;
const OFFLINE: u32 = 7;
const ASSIGN: u32 = 8;
const ONLINE: u32 = 9;

/// Entries of the list of secondary controllers, at most, and where each begins.
const SECONDARIES: usize = 127;
const SECONDARY_BYTES: usize = 32;

/// What is divided among VFs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Queue pairs, the admin pair among them.
    Queues,
    /// Interrupt vectors.
    Vectors,
}

impl Resource {
    const fn code(self) -> u32 {
        match self {
            Resource::Queues => 0,
            Resource::Vectors => 1,
        }
    }
}

/// A VF as the PF sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secondary {
    /// Its number in the subsystem.
    pub controller: u16,
    /// The number of the VF, from 1 on; 0 if it has none now.
    pub vf: u16,
    /// Whether it is online.
    pub online: bool,
    /// Queue pairs that it has, the admin pair among them.
    pub queues: u16,
    /// Vectors that it has.
    pub vectors: u16,
}

impl<R: Registers + Clone, M: DmaMemory, C: Clock> Controller<R, M, C> {
    /// Gives up the queues and vectors that can be given to VFs. That counts from the next time on that this controller
    /// is enabled.
    ///
    /// # Errors
    /// As [`Controller::execute`].
    pub fn release_resources(&mut self) -> Result<(), Error> {
        self.manage(PRIMARY_ALLOCATE, Resource::Queues, 0, 0)?;
        self.manage(PRIMARY_ALLOCATE, Resource::Vectors, 0, 0)
    }

    /// The VF's secondary controller with this place in the list, from 0 on, if there is one.
    ///
    /// # Errors
    /// As [`Controller::execute`].
    pub fn secondary(&mut self, place: usize) -> Result<Option<Secondary>, Error> {
        self.identify(SECONDARY_LIST, 0)?;
        let count = usize::from(self.data16(0) & 0xff).min(SECONDARIES);
        if place >= count {
            return Ok(None);
        }
        let at = (place + 1) * SECONDARY_BYTES;
        Ok(Some(Secondary {
            controller: self.data16(at),
            online: self.data16(at + 4) & 1 != 0,
            vf: self.data16(at + 8),
            queues: self.data16(at + 10),
            vectors: self.data16(at + 12),
        }))
    }

    /// Gives a VF that is offline so many of a resource, in place of those that it had.
    ///
    /// # Errors
    /// As [`Controller::execute`]; it is refused if there are not so many.
    pub fn assign(&mut self, controller: u16, resource: Resource, count: u16) -> Result<(), Error> {
        self.manage(ASSIGN, resource, controller, count)
    }

    /// Lets a VF be used: it needs two queue pairs and a vector at least.
    ///
    /// # Errors
    /// As [`Controller::execute`].
    pub fn set_online(&mut self, controller: u16) -> Result<(), Error> {
        self.manage(ONLINE, Resource::Queues, controller, 0)
    }

    /// Ends the use of a VF: it is reset, and what it had is free.
    ///
    /// # Errors
    /// As [`Controller::execute`].
    pub fn set_offline(&mut self, controller: u16) -> Result<(), Error> {
        self.manage(OFFLINE, Resource::Queues, controller, 0)
    }

    fn manage(&mut self, action: u32, resource: Resource, controller: u16, count: u16) -> Result<(), Error> {
        let dword_10 = action | resource.code() << 8 | u32::from(controller) << 16;
        let command = Command::new(VIRTUALIZATION_MANAGEMENT, 0).with_dwords(dword_10, u32::from(count));
        self.execute(&command)
    }

    /// Lets a controller read and write a namespace.
    ///
    /// # Errors
    /// As [`Controller::execute`].
    pub fn attach(&mut self, namespace: u32, controller: u16) -> Result<(), Error> {
        self.attachment(namespace, controller, 0)
    }

    /// Takes a namespace from a controller.
    ///
    /// # Errors
    /// As [`Controller::execute`].
    pub fn detach(&mut self, namespace: u32, controller: u16) -> Result<(), Error> {
        self.attachment(namespace, controller, 1)
    }

    fn attachment(&mut self, namespace: u32, controller: u16, select: u32) -> Result<(), Error> {
        // A list of one controller.
        self.data.store(0, 1 | u64::from(controller) << 16);
        let command = Command::new(NAMESPACE_ATTACHMENT, namespace).with_dwords(select, 0);
        self.execute(&command.with_address(self.data_address()))
    }
}
