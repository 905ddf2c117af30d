//! What the storage server has done by the physical function (PF): virtual functions (VFs) prepared and ended, namespaces
//! attached and looked at.

use crate::limits::Limited;
use crate::{Function, IoMemory};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use device::{Clock, DmaMemory, IoAddress, PAGE_BYTES, Registers};
use nvme_admin::{Controller, Error, QueueRequest, Resource};
use nvme_queue::{Command, Namespace, QueuePair, Rings};
use proto::storage::{ENTRIES, MAX_VFS, MESSAGE, QUEUES, Space, ring_at};

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

/// Nanoseconds that a VF's own controller may take for all that it is told: the VF's holder can keep it from answering, as it
/// has the doorbells.
pub const VF_LIMIT_NS: u64 = 1_000_000_000;

/// What a VF's own controller has.
#[derive(Clone, Copy, Debug)]
struct Own {
    space: Namespace,
    doorbells: [u32; QUEUES],
    stride: u32,
}

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
    /// Operations that holders of VFs owe who are without a namespace.
    pub(crate) debts: [u64; MAX_VFS],
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
        Ok(Admin { controller, number, queue, buffer, clock, limits: Vec::new(), debts: [0; MAX_VFS] })
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
    /// As [`Controller::execute`]; [`Error::Nonsense`] if it sees another namespace, or more than this; [`Error::NotReady`]
    /// if the VF itself does not answer. That one which is final is the PF's.
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
        let Own { space, doorbells, stride } = self.prepare_own(function, namespace)?;
        self.begin_limit(vf, namespace, per_s)?;
        let Namespace { block_shift, blocks, max_transfer_bytes, .. } = space;
        Ok(Space { namespace, block_shift, blocks, max_transfer_bytes, doorbells, stride })
    }

    /// What the VF's own controller is told, while limits of others are kept.
    fn prepare_own(&mut self, function: Function<R, M>, namespace: u32) -> Result<Own, Error> {
        let clock = Looking { clock: self.clock.clone(), outcome: Cell::new(Ok(())), admin: RefCell::new(self) };
        let own = make_queues(function, &clock, namespace);
        clock.outcome.get()?;
        // Of a VF that does not answer nothing follows for the PF.
        own.map_err(|error| if error.is_final() { Error::NotReady } else { error })
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

/// Makes a holder's queues by the VF's own controller, which is handed over then.
fn make_queues<R: Registers + Clone, M: DmaMemory + Clone>(
    function: Function<R, M>,
    clock: &impl Clock,
    namespace: u32,
) -> Result<Own, Error> {
    let mut own = Controller::enable_within(function.registers, function.memory, clock, VF_LIMIT_NS)?;
    if own.next_namespace(0)? != Some(namespace) || own.next_namespace(namespace)?.is_some() {
        return Err(Error::Nonsense);
    }
    let space = own.namespace(namespace)?;
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
    Ok(Own { space, doorbells, stride })
}

/// A clock that has the limits of VFs looked at while it waits for another VF.
struct Looking<'a, R, M, C> {
    clock: C,
    admin: RefCell<&'a mut Admin<R, M, C>>,
    /// Of the last look.
    outcome: Cell<Result<(), Error>>,
}

impl<R: Registers + Clone, M: DmaMemory + Clone, C: Clock + Clone> Clock for Looking<'_, R, M, C> {
    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn pause(&self) {
        self.pause_times(1);
    }

    fn pause_times(&self, times: u32) {
        self.clock.pause_times(times);
        if self.outcome.get().is_ok() {
            self.outcome.set(self.admin.borrow_mut().look_at_limits());
        }
    }
}
