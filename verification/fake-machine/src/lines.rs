//! Interrupts of devices: pins, and messages of functions. Both go through an entry of the interrupt remapping table, which
//! the IOMMU remembers until it is told to forget it, and both are in flight for any time.
//!
//! What arrives is judged: a vector reaches the Vcpu that its route is bound to, on the core that runs it, and nobody else;
//! and nothing comes of a route that is nobody's. That nothing is lost is seen by what a guest is owed.

use crate::bug::Bug;
use crate::hardware::Hardware;
use kernel::Message;
use kernel::types::{CoreId, FunctionId, VcpuId};

/// Interrupt routes in use: the first is route 4.
pub const ROUTES: usize = 8;
/// How many of them are pins; the others are raised by messages of functions.
pub const PINS: usize = 4;
/// Number of the first route in use.
pub const FIRST_ROUTE: u16 = 4;
/// Number of the first route that is raised by messages.
pub const FIRST_MESSAGE_ROUTE: u16 = FIRST_ROUTE + PINS as u16;
/// What a line sends when its device raises it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nothing: it is masked.
    Masked,
    /// What raises the vector of its entry.
    Open,
    /// What raises an NMI of its entry's core.
    Parked,
}

/// What the entry of a line in the interrupt remapping table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The core.
    pub core: usize,
    /// As which vector, unless it is parked.
    pub vector: u8,
}

/// The interrupt of a device, or of a function.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// What it sends.
    pub target: Target,
    /// Its entry.
    pub entry: Option<Delivery>,
    /// What the IOMMU remembers of its entry.
    pub cached: Option<Option<Delivery>>,
    /// The message of a function that raises it, if it is no pin.
    pub message: Option<Message>,
    /// Raised while masked.
    pub latched: bool,
    /// It has raised an NMI that its core has not looked at.
    pub called: bool,
    /// Whose it is, and as which vector, according to the kernel.
    pub owner: Option<(VcpuId, u8)>,
}

impl Line {
    /// Masked, and nobody's.
    pub(crate) const NEW: Line = Line {
        target: Target::Masked,
        entry: None,
        cached: None,
        message: None,
        latched: false,
        called: false,
        owner: None,
    };
}

impl Hardware {
    /// A device raises its interrupt.
    pub(crate) fn raise(&mut self, line: usize) {
        let Line { owner, message, target, .. } = self.lines[line];
        if line >= PINS && !message.is_some_and(|message| self.functions.is_master(message.function)) {
            return;
        }
        if let Some((vcpu, vector)) = owner
            && let Some(guest) = self.guests.get_mut(&vcpu)
        {
            // Most devices say nothing more before they were looked after: so one interrupt that is lost is missed.
            if guest.owed.contains_key(&vector) && !self.random.one_in(16) {
                return;
            }
            guest.owed.entry(vector).or_insert(0);
        }
        self.functions.messages += u64::from(line >= PINS);
        match target {
            Target::Masked => self.lines[line].latched = true,
            Target::Open | Target::Parked => self.messages.push((line, target)),
        }
    }

    /// What is owed for a line is owed no more.
    pub(crate) fn forget_owed(&mut self, line: usize) {
        self.lines[line].latched = false;
        self.lines[line].called = false;
        if let Some((vcpu, vector)) = self.lines[line].owner
            && let Some(guest) = self.guests.get_mut(&vcpu)
        {
            guest.owed.remove(&vector);
        }
    }

    /// A message comes to the interrupt remapping: what it raises is what its entry says, or the unit remembers of it.
    pub(crate) fn remap(&mut self, line: usize, sent: Target) {
        let Line { entry, ref mut cached, .. } = self.lines[line];
        if self.random.one_in(8) {
            *cached = None;
        }
        let Some(Delivery { core, vector }) = *cached.get_or_insert(entry) else { return };
        if sent == Target::Open {
            return self.accept(line, core, vector);
        }
        if self.lines[line].owner.is_none() {
            self.violate(format!("the interrupt of line {line}, which is nobody's, calls core {core}"));
        }
        self.say(|| format!("line {line} calls core {core}"));
        self.lines[line].called = true;
        self.send_nmi(core);
    }

    /// A core has taken an NMI, whoever called it.
    pub(crate) fn calls_seen(&mut self, core: usize) {
        for line in &mut self.lines {
            line.called &= line.entry.is_some_and(|entry| entry.core != core);
        }
    }

    /// A vector reaches the interrupt controller of a core.
    fn accept(&mut self, line: usize, core: usize, vector: u8) {
        match self.lines[line].owner {
            None => self.violate(format!("interrupt {vector} of line {line} reaches core {core} and is nobody's")),
            Some((owner, _)) if self.cores[core].open_for != owner => {
                self.violate(format!("interrupt {vector} of {owner:?} reaches core {core}, which runs another"))
            }
            Some((owner, bound)) if bound != vector => {
                self.violate(format!("interrupt {vector} reaches {owner:?}, which takes line {line} as {bound}"));
            }
            Some(_) => {}
        }
        self.cores[core].requested[vector as usize / 64] |= 1 << (vector % 64);
    }

    /// The answer to a read comes after what these lines sent before.
    fn messages_arrive(&mut self, which: impl Fn(usize) -> bool) {
        let (arrived, coming): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.messages).into_iter().partition(|&(line, _)| which(line));
        self.messages = coming;
        for (line, sent) in arrived {
            self.remap(line, sent);
        }
    }

    /// Masks a line; when this returns, messages that were in flight have arrived.
    pub(crate) fn mask(&mut self, line: usize) {
        self.aim(line, Target::Masked);
    }

    /// Opens, parks or masks a line, and reads that back.
    pub(crate) fn aim(&mut self, line: usize, target: Target) {
        self.say(|| format!("line {line} is aimed {target:?}"));
        self.lines[line].target = target;
        if self.bug != Some(Bug::MessagePastMask) {
            self.messages_arrive(|other| other == line);
        }
        if target != Target::Masked && std::mem::take(&mut self.lines[line].latched) {
            self.messages.push((line, target));
        }
    }

    /// A function sends no messages any more; those in flight arrive.
    pub(crate) fn end_messages(&mut self, function: FunctionId) {
        for line in 0..ROUTES {
            if self.lines[line].message.is_some_and(|message| message.function == function) {
                self.messages_arrive(|other| other == line);
                self.forget_owed(line);
            }
        }
    }

    /// Makes the entry of a line, which is masked, say what it raises, and the unit forget what it said before. False if the
    /// unit fails: then the line has to stay masked.
    pub(crate) fn prepare(&mut self, active: usize, line: usize, delivery: Option<Delivery>) -> bool {
        self.lines[line].entry = delivery;
        let done = self.wait_for_unit(active);
        if done && self.bug != Some(Bug::ForgottenEntryFlush) {
            self.lines[line].cached = None;
        }
        // What pins raise is no function's.
        if line < PINS { done } else { self.has_completed(done) }
    }

    /// Binds a line to a core, where it is opened or parked later, or to nothing.
    pub(crate) fn route(&mut self, active: usize, line: usize, delivery: Option<Delivery>, held: bool) {
        if line >= PINS && self.lines[line].message.is_none() {
            return;
        }
        let pin = FIRST_ROUTE as u8 + line as u8;
        self.mask(line);
        self.forget_owed(line);
        self.lines[line].owner = None;
        self.pins.unbind(pin);
        let ready = self.prepare(active, line, delivery);
        let Some(Delivery { core, .. }) = delivery.filter(|_| ready) else { return };
        self.pins.bind(pin, CoreId::new(core as u8), held, core == active);
        if held {
            // Whether it is opened or parked depends on what its core does: the core finds out before it goes on.
            self.call(core);
        }
    }
}
