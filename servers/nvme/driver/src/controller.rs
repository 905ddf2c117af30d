//! A controller: switching it on, and doing one admin command after the other.

use crate::registers as reg;
use device::{Clock, DmaMemory, IoAddress, PAGE_BYTES, Registers};
use nvme_queue::command::Command;
use nvme_queue::{QueuePair, Rings, Status};

/// Entries of each admin ring. So the submission ring is one whole page, all of which holds commands.
pub const ADMIN_ENTRIES: usize = 64;
/// Nanoseconds that an admin command may take.
pub const COMMAND_LIMIT_NS: u64 = 10_000_000_000;
/// Pauses between two looks at a command that takes long: each is twice as long as the one before, up to this.
const MOST_PAUSES: u32 = 16;
/// Get Features of number 1, arbitration: it reads no memory, writes none, and changes nothing.
const HARMLESS: Command = Command::new(0x0a, 0).with_dwords(1, 0);
const PAGE_WORDS: usize = (PAGE_BYTES / 8) as usize;
/// Word of the completion ring's page, behind the ring, that says how many commands were put in: for [`Controller::adopt`].
const JOURNAL: usize = PAGE_WORDS - 1;

type AdminQueue<R, M> = QueuePair<R, M, (), ADMIN_ENTRIES>;

/// Why something was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The controller needs pages of more than 4096 bytes, or less memory was given than a page each.
    Unfit,
    /// It did not become ready, or unready, in the time that it names itself.
    NotReady,
    /// It reports a fatal error.
    Fatal,
    /// A command did not end in time. The controller must be enabled anew.
    TimedOut,
    /// It refused a command.
    Refused(Status),
    /// What was asked for makes no sense for this controller.
    Arguments,
    /// What it says of itself makes no sense.
    Nonsense,
}

impl Error {
    /// True if nothing is to be expected of the controller any more, whatever it is asked.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Error::TimedOut | Error::Fatal)
    }
}

/// Pages for the administration of one controller, each of [`PAGE_BYTES`].
#[derive(Clone, Copy, Debug)]
pub struct AdminMemory<M> {
    /// For the submission ring. The controller only reads it.
    pub submission: M,
    /// For the completion ring.
    pub completion: M,
    /// For what commands read and write.
    pub data: M,
}

/// A controller that is ready for admin commands. `R` are its registers with the doorbells, 8 KiB at least.
#[derive(Debug)]
pub struct Controller<R, M, C> {
    pub(crate) registers: R,
    admin: AdminQueue<R, M>,
    pub(crate) data: M,
    clock: C,
    /// When everything must have ended, by the clock.
    ends_ns: u64,
}

/// Begins to switch a controller off, whoever has enabled it. All its queues, and those of its virtual functions, are gone
/// then.
pub fn switch_off<R: Registers>(registers: &R) {
    registers.write32(reg::CC, 0);
}

impl<R: Registers + Clone, M: DmaMemory, C: Clock> Controller<R, M, C> {
    /// Switches a controller off, if it was on, and on. All its queues are gone then.
    ///
    /// # Errors
    /// [`Error::Unfit`], [`Error::NotReady`] or [`Error::Fatal`].
    pub fn enable(registers: R, memory: AdminMemory<M>, clock: C) -> Result<Controller<R, M, C>, Error> {
        Controller::enable_within(registers, memory, clock, u64::MAX)
    }

    /// The same, for a controller that somebody else may keep from answering: this and all commands together take so many
    /// nanoseconds at most, after which it is as if it did not answer.
    ///
    /// # Errors
    /// As [`Controller::enable`].
    pub fn enable_within(
        registers: R,
        memory: AdminMemory<M>,
        clock: C,
        within_ns: u64,
    ) -> Result<Controller<R, M, C>, Error> {
        let ends_ns = clock.now_ns().saturating_add(within_ns);
        let high = check_fit(&registers, &memory)?;
        let AdminMemory { submission, completion, data } = memory;
        switch_off(&registers);
        become_ready(&registers, &clock, ends_ns, false)?;
        for word in 0..PAGE_WORDS {
            submission.store(word, 0);
            completion.store(word, 0);
        }
        let last = ADMIN_ENTRIES as u32 - 1;
        registers.write32(reg::AQA, last | last << 16);
        for (register, IoAddress(at)) in [(reg::ASQ, submission.io_address()), (reg::ACQ, completion.io_address())] {
            registers.write32(register, at as u32);
            registers.write32(register + 4, (at >> 32) as u32);
        }
        registers.write32(reg::CC, reg::CC_ON);
        become_ready(&registers, &clock, ends_ns, true)?;
        let doorbells = registers.clone();
        let rings = Rings { doorbells, first: reg::DOORBELLS, stride: stride(high), submission, completion };
        let admin = QueuePair::new(rings).ok_or(Error::Unfit)?;
        Ok(Controller { registers, admin, data, clock, ends_ns })
    }

    /// Takes up a controller that another program has enabled with the same memory, and left without notice: it is not
    /// reset, so that the queues of its VFs live on. A command that was under way is waited for.
    ///
    /// # Errors
    /// [`Error::Unfit`]; [`Error::NotReady`] if it is off, uses other memory, or its rings say what cannot be;
    /// [`Error::Fatal`]; [`Error::TimedOut`] for the command under way. It is to be enabled then.
    pub fn adopt(registers: R, memory: AdminMemory<M>, clock: C) -> Result<Controller<R, M, C>, Error> {
        let high = check_fit(&registers, &memory)?;
        let AdminMemory { submission, completion, data } = memory;
        let last = ADMIN_ENTRIES as u32 - 1;
        let [IoAddress(asq), IoAddress(acq)] = [submission.io_address(), completion.io_address()];
        let expected = [
            (reg::CC, reg::CC_ON),
            (reg::AQA, last | last << 16),
            (reg::ASQ, asq as u32),
            (reg::ASQ + 4, (asq >> 32) as u32),
            (reg::ACQ, acq as u32),
            (reg::ACQ + 4, (acq >> 32) as u32),
        ];
        let status = registers.read32(reg::CSTS);
        if status & reg::CSTS_CFS != 0 {
            return Err(Error::Fatal);
        }
        let is_ours = expected.iter().all(|&(register, value)| registers.read32(register) == value);
        if status & reg::CSTS_RDY == 0 || !is_ours {
            return Err(Error::NotReady);
        }
        let turns = 2 * ADMIN_ENTRIES as u32;
        let told = completion.load(JOURNAL) as u32 % turns;
        let deadline_ns = clock.now_ns().saturating_add(COMMAND_LIMIT_NS);
        loop {
            match told.wrapping_sub(AdminQueue::<R, M>::completions(&completion)) % turns {
                0 => break,
                1 if clock.now_ns() < deadline_ns => clock.pause(),
                1 => return Err(Error::TimedOut),
                _ => return Err(Error::NotReady),
            }
        }
        let doorbells = registers.clone();
        let rings = Rings { doorbells, first: reg::DOORBELLS, stride: stride(high), submission, completion };
        let admin = QueuePair::resumed(rings, told).ok_or(Error::Unfit)?;
        Ok(Controller { registers, admin, data, clock, ends_ns: u64::MAX })
    }

    /// Does one command.
    ///
    /// # Errors
    /// [`Error::Refused`] with the controller's status, [`Error::TimedOut`] or [`Error::Fatal`].
    pub fn execute(&mut self, command: &Command) -> Result<(), Error> {
        // Full only if commands timed out, after which nothing is to be expected of it.
        self.admin.submit(command, ()).map_err(|_| Error::TimedOut)?;
        // Before the controller can know of it, so that who adopts the controller knows what is under way.
        self.admin.completion_ring().store(JOURNAL, u64::from(self.admin.position()));
        self.admin.ring();
        let deadline_ns = self.clock.now_ns().saturating_add(COMMAND_LIMIT_NS).min(self.ends_ns);
        let mut pauses = 1;
        loop {
            if let Some(done) = self.admin.completed() {
                // There is no other one: this is called for one command at a time.
                let outcome = if done.status.is_success() { Ok(()) } else { Err(Error::Refused(done.status)) };
                self.admin.completed();
                return outcome;
            }
            if self.registers.read32(reg::CSTS) & reg::CSTS_CFS != 0 {
                return Err(Error::Fatal);
            }
            if self.clock.now_ns() >= deadline_ns {
                return Err(Error::TimedOut);
            }
            self.clock.pause_times(pauses);
            pauses = (2 * pauses).min(MOST_PAUSES);
        }
    }

    /// The page of data as the controller sees it.
    pub(crate) fn data_address(&self) -> IoAddress {
        self.data.io_address()
    }

    /// Bytes between doorbells.
    pub(crate) fn doorbell_stride(&self) -> u32 {
        stride(self.registers.read32(reg::CAP_HIGH))
    }

    /// Ends the administration: from now on the admin ring holds harmless commands only, whoever rings its doorbell. The
    /// memory must stay the controller's as it is, out of reach of everybody who has the doorbells, until the controller
    /// is reset. The registers are given back, for [`Controller::enable`] after that.
    pub fn hand_over(self) -> (R, AdminMemory<M>) {
        let rings = self.admin.into_rings();
        let words = (0..ADMIN_ENTRIES).flat_map(|entry| HARMLESS.words(entry as u16));
        for (word, value) in words.enumerate() {
            rings.submission.store(word, value);
        }
        let memory = AdminMemory { submission: rings.submission, completion: rings.completion, data: self.data };
        (self.registers, memory)
    }
}

/// The high half of the capabilities, if the controller takes pages of 4096 bytes and was given a page of each kind.
fn check_fit<M: DmaMemory>(registers: &impl Registers, memory: &AdminMemory<M>) -> Result<u32, Error> {
    let high = registers.read32(reg::CAP_HIGH);
    let pages = [&memory.submission, &memory.completion, &memory.data];
    let is_small = pages.iter().any(|page| page.words() < PAGE_WORDS);
    if high >> reg::CAP_HIGH_MPSMIN_SHIFT & 0xf != 0 || is_small { Err(Error::Unfit) } else { Ok(high) }
}

fn stride(capabilities_high: u32) -> u32 {
    4 << (capabilities_high & reg::CAP_HIGH_DSTRD)
}

/// Waits until the controller is ready, or is not, up to a time of the clock at most.
fn become_ready(registers: &impl Registers, clock: &impl Clock, ends_ns: u64, ready: bool) -> Result<(), Error> {
    let units = u64::from(registers.read32(reg::CAP) >> reg::CAP_TO_SHIFT).max(1);
    let deadline_ns = clock.now_ns().saturating_add(units * 500_000_000).min(ends_ns);
    loop {
        let status = registers.read32(reg::CSTS);
        if (status & reg::CSTS_RDY != 0) == ready {
            return Ok(());
        }
        if ready && status & reg::CSTS_CFS != 0 {
            return Err(Error::Fatal);
        }
        if clock.now_ns() >= deadline_ns {
            return Err(Error::NotReady);
        }
        clock.pause();
    }
}
