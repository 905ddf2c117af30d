//! Records of a trace, read and put into words.

use std::fmt;

use cap_spec::abi::{Fault, FaultRecord, Label, Status};
use cap_spec::machine::{Call, Outcome, VcpuId};
use kernel::trace::{Kind, Returned, WORDS};

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// The root VM starts: its Vcpu and entry.
    RootStarted(VcpuId, u64),
    /// A call begins.
    Call(VcpuId, Call),
    /// It is done, or the invoker sleeps.
    Return(Result<Outcome, Fault>),
    /// It is given up half-way; the invoker is still there, or gone.
    Left {
        /// The invoker is gone.
        gone: bool,
    },
    /// A sleeper wakes with these events.
    Woken(VcpuId, u64),
    /// An event word as the kernel found it.
    Events(VcpuId, u64),
    /// The core holds another Vcpu's state, or nobody's.
    Loaded(Option<VcpuId>),
    /// A Vcpu stops by itself, for this reason.
    Stopped(VcpuId, u64),
    /// The IOMMU has stopped something, of this function if it is one.
    Fault(Option<u16>, FaultRecord),
    /// From when on a share is free that a Vcpu leaves, or that shrinks.
    Freed(VcpuId, u64),
}

/// A record of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub number: u64,
    /// The core that wrote it.
    pub core: u8,
    /// When.
    pub tsc: u64,
    /// What.
    pub record: Record,
}

impl Entry {
    /// Reads the words of a record.
    ///
    /// # Errors
    /// When they are none.
    pub fn from_words(words: &[u64; WORDS]) -> Result<Entry, String> {
        let [number, head, tsc, a, b, c, d, e, f, g, h, _] = *words;
        let bad = || format!("record {number} makes no sense: {words:x?}");
        let kind = Kind::from_repr((head >> 8) as u8).ok_or_else(bad)?;
        let vcpu = VcpuId(a);
        let record = match kind {
            Kind::RootStarted => Record::RootStarted(vcpu, b),
            Kind::Call => Record::Call(vcpu, Call { cptr: b, label: c, args: [d, e, f, g, h] }),
            Kind::Return => match Returned::from_repr(a as u8).ok_or_else(bad)? {
                Returned::Done => Record::Return(Status(b).to_result().map(|()| Outcome::Done([c, d]))),
                Returned::Blocked => Record::Return(Ok(Outcome::Blocked)),
                Returned::Preempted => Record::Left { gone: false },
                Returned::Gone => Record::Left { gone: true },
            },
            Kind::Woken => Record::Woken(vcpu, b),
            Kind::Events => Record::Events(vcpu, b),
            Kind::Loaded => Record::Loaded((a != 0).then_some(vcpu)),
            Kind::Stopped => Record::Stopped(vcpu, b),
            Kind::Fault => Record::Fault(u16::try_from(a).ok(), FaultRecord::from_words([b, c]).ok_or_else(bad)?),
            Kind::Freed => Record::Freed(vcpu, b),
        };
        Ok(Entry { number, core: head as u8, tsc, record })
    }
}

/// The name of a label.
pub(crate) fn label_name(label: u64) -> String {
    Label::from_number(label).map_or(format!("label {label}"), |label| format!("{label:?}"))
}

impl fmt::Display for Entry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:>8} core {} at {}: ", self.number, self.core, self.tsc)?;
        match self.record {
            Record::RootStarted(vcpu, entry) => write!(out, "root VM starts: Vcpu {:#x} at {entry:#x}", vcpu.0),
            Record::Call(vcpu, Call { cptr, label, args }) => {
                write!(out, "Vcpu {:#x} calls {} of {cptr:#x} with {args:x?}", vcpu.0, label_name(label))
            }
            Record::Return(Ok(Outcome::Done(results))) => write!(out, "done, {results:x?}"),
            Record::Return(Ok(Outcome::Blocked)) => write!(out, "it sleeps"),
            Record::Return(Err(Fault { error, argument, detail })) => {
                write!(out, "refused: {error:?}, argument {argument}, detail {detail}")
            }
            Record::Left { gone: false } => write!(out, "preempted"),
            Record::Left { gone: true } => write!(out, "the invoker is gone"),
            Record::Woken(vcpu, events) => write!(out, "Vcpu {:#x} wakes with events {events:#x}", vcpu.0),
            Record::Events(vcpu, word) => write!(out, "event word of Vcpu {:#x} is {word:#x}", vcpu.0),
            Record::Loaded(Some(vcpu)) => write!(out, "holds the state of Vcpu {:#x}", vcpu.0),
            Record::Loaded(None) => write!(out, "holds nobody's state"),
            Record::Stopped(vcpu, reason) => write!(out, "Vcpu {:#x} stops by itself, reason {reason}", vcpu.0),
            Record::Fault(function, record) => write!(out, "the IOMMU stops function {function:?}: {record:x?}"),
            Record::Freed(vcpu, from) => write!(out, "the share of Vcpu {:#x} is free from {from}", vcpu.0),
        }
    }
}
