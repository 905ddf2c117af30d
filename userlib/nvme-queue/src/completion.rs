//! Completions, as the controller writes them (Base Specification, 3.3.3.2).

/// How a command ended: the status field of its completion without the phase (Base Specification, figure 92).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

impl Status {
    /// Done.
    pub const SUCCESS: Status = Status(0);

    /// True if the command was done.
    #[inline(always)]
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 & 0x7ff == 0
    }

    /// Status code type in bits 10:8, status code in bits 7:0.
    #[must_use]
    pub const fn code(self) -> u16 {
        self.0 & 0x7ff
    }

    /// True if the controller has no such namespace attached (any more), as far as can be told from the status: Invalid Field in
    /// Command, or Invalid Namespace or Format (Base Specification, 3.2.1.4 and figure 94).
    #[must_use]
    pub const fn is_of_no_namespace(self) -> bool {
        matches!(self.code(), 0x002 | 0x00b)
    }

    /// True if the same command would fail again.
    #[must_use]
    pub const fn is_final(self) -> bool {
        self.0 & 1 << 14 != 0
    }
}

/// The second word of an entry of a completion queue. The first one has a result, which no command here gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry(pub u64);

impl Entry {
    /// The phase, 0 or 1, which turns with each round of the ring and is 1 in the first.
    #[inline(always)]
    pub const fn phase(self) -> u32 {
        (self.0 >> 48) as u32 & 1
    }

    /// The command that it is about.
    #[inline(always)]
    pub const fn identifier(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// Up to where the controller has read the submission queue.
    #[inline(always)]
    pub const fn submission_head(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    pub const fn status(self) -> Status {
        Status((self.0 >> 49) as u16)
    }
}
