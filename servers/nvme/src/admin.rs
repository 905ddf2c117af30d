//! What the storage server has done by the physical function (PF): virtual functions (VFs) prepared and ended, namespaces
//! attached and looked at.

use crate::limits::Limited;
use crate::{Function, IoMemory};
use alloc::vec::Vec;
use device::{Clock, DmaMemory, IoAddress, PAGE_BYTES, Registers};
use nvme_admin::{Controller, Error, QueueRequest, Resource};
use nvme_queue::{Command, Namespace, QueuePair, Rings};
use proto::storage::{ENTRIES, MESSAGE, QUEUES, Space, ring_at};

/// The PF's own queue pair.
const OWN_QUEUE: u16 = 1;
const OWN_ENTRIES: usize = 64;
/// Queue pairs of a VF, the admin pair among them.
const VF_QUEUES: u16 = 1 + QUEUES as u16;
/// Its vectors, of the admin queue and of the queue that interrupts.
const VF_VECTORS: u16 = MESSAGE + 1;
/// Controllers that a subsystem may have.
const MOST_CONTROLLERS: usize = 256;
/// Nanoseconds that a read or a write of the server's own may take.
const LIMIT_NS: u64 = 10_000_000_000;

/// The PF, ready.
#[derive(Debug)]
pub struct Admin<R, M, C> {
    pub(crate) controller: Controller<R, M, C>,
    pub(crate) number: u16,
    queue: QueuePair<R, M, (), OWN_ENTRIES>,
    pub(crate) buffer: M,
    pub(crate) clock: C,
    /// The VFs with limits.
    pub(crate) limits: Vec<Limited>,
}

impl<R: Registers + Clone, M: DmaMemory + Clone, C: Clock + Clone> Admin<R, M, C> {
    /// Enables the PF, or adopts it as a server before has left it, and makes its own queue pair.
    ///
    /// # Errors
    /// As [`Controller::enable`] or [`Controller::adopt`] and [`Controller::execute`].
    pub fn bring_up(physical: Function<R, M>, io: &IoMemory<M>, clock: C, adopt: bool) -> Result<Self, Error> {
        let Function { registers, memory } = physical;
        let controller = if adopt {
            let mut controller = Controller::adopt(registers.clone(), memory, clock.clone())?;
            // It may have been left before it made them.
            match controller.delete_queues(OWN_QUEUE) {
                Ok(()) | Err(Error::Refused(_)) => controller,
                Err(error) => return Err(error),
            }
        } else {
            let mut controller = Controller::enable(registers.clone(), memory, clock.clone())?;
            controller.release_resources()?;
            let (registers, memory) = controller.hand_over();
            Controller::enable(registers, memory, clock.clone())?
        };
        Admin::with_queue(controller, registers, io, clock)
    }

    fn with_queue(
        mut controller: Controller<R, M, C>,
        doorbells: R,
        io: &IoMemory<M>,
        clock: C,
    ) -> Result<Self, Error> {
        let IoMemory { submission, completion, buffer } = io.clone();
        for word in 0..completion.words() {
            completion.store(word, 0);
        }
        let number = controller.identity()?.controller;
        let made = controller.create_queues(&QueueRequest {
            number: OWN_QUEUE,
            entries: OWN_ENTRIES as u16,
            submission: submission.io_address(),
            completion: completion.io_address(),
            vector: None,
        })?;
        let first = PAGE_BYTES as u32 + made.first;
        let rings = Rings { doorbells, first, stride: made.stride, submission, completion };
        let queue = QueuePair::new(rings).ok_or(Error::Unfit)?;
        Ok(Admin { controller, number, queue, buffer, clock, limits: Vec::new() })
    }

    /// The controller number of a VF.
    pub(crate) fn secondary(&mut self, vf: usize) -> Result<u16, Error> {
        Ok(self.controller.secondary(vf)?.ok_or(Error::Arguments)?.controller)
    }

    /// Ends what a VF may do: it is offline.
    ///
    /// # Errors
    /// As [`Controller::execute`]; [`Error::Arguments`] if there is no such VF.
    pub fn end_vf(&mut self, vf: usize) -> Result<(), Error> {
        self.end_limit(vf);
        let number = self.secondary(vf)?;
        self.controller.set_offline(number)
    }

    /// Brings a VF that is offline up with this namespace, makes the holder's queues, and hands it over, with a limit in
    /// operations per second or without.
    ///
    /// # Errors
    /// As [`Controller::execute`]; [`Error::Nonsense`] if it sees another namespace, or more than this.
    pub fn prepare(
        &mut self,
        vf: usize,
        function: Function<R, M>,
        namespace: u32,
        per_s: Option<u64>,
    ) -> Result<Space, Error> {
        let number = self.secondary(vf)?;
        self.controller.set_offline(number)?;
        self.controller.assign(number, Resource::Vectors, VF_VECTORS)?;
        self.controller.assign(number, Resource::Queues, VF_QUEUES)?;
        self.controller.set_online(number)?;
        self.controller.attach(namespace, number)?;
        let mut own = Controller::enable(function.registers, function.memory, self.clock.clone())?;
        if own.next_namespace(0)? != Some(namespace) || own.next_namespace(namespace)?.is_some() {
            return Err(Error::Nonsense);
        }
        let Namespace { block_shift, blocks, max_transfer_bytes, .. } = own.namespace(namespace)?;
        let mut doorbells = [0; QUEUES];
        let mut stride = 0;
        for (queue, doorbell) in doorbells.iter_mut().enumerate() {
            let made = own.create_queues(&QueueRequest {
                number: 1 + queue as u16,
                entries: ENTRIES,
                submission: IoAddress(ring_at(queue, false)),
                completion: IoAddress(ring_at(queue, true)),
                vector: (queue + 1 == QUEUES).then_some(MESSAGE),
            })?;
            (*doorbell, stride) = (made.first, made.stride);
        }
        own.hand_over();
        self.begin_limit(vf, namespace, per_s)?;
        Ok(Space { namespace, block_shift, blocks, max_transfer_bytes, doorbells, stride })
    }

    /// Takes a namespace from every controller of the subsystem that has it.
    ///
    /// # Errors
    /// As [`Controller::execute`]; [`Error::Nonsense`] if they do not become fewer.
    pub fn detach_from_all(&mut self, namespace: u32) -> Result<(), Error> {
        for _ in 0..MOST_CONTROLLERS {
            let Some(number) = self.controller.attached_controller(namespace)? else { return Ok(()) };
            self.controller.detach(namespace, number)?;
        }
        Err(Error::Nonsense)
    }

    /// Does one command by the own queue pair.
    pub(crate) fn execute(&mut self, command: &Command) -> Result<(), Error> {
        // Full only if commands timed out.
        self.queue.submit(command, ()).map_err(|_| Error::TimedOut)?;
        self.queue.ring();
        let deadline_ns = self.clock.now_ns().saturating_add(LIMIT_NS);
        loop {
            if let Some(done) = self.queue.completed() {
                self.queue.completed();
                return if done.status.is_success() { Ok(()) } else { Err(Error::Refused(done.status)) };
            }
            if self.clock.now_ns() >= deadline_ns {
                return Err(Error::TimedOut);
            }
            self.clock.pause();
        }
    }
}
