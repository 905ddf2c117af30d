//! Errors: one meaning each, and the argument that is at fault.

use strum::VariantArray;

/// Why an invocation was refused. A refused invocation changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, VariantArray)]
#[repr(u8)]
pub enum Error {
    /// The label does not exist, or not for this type of object.
    InvalidLabel = 1,
    /// The pointer names no slot, or an empty one, or one that is being destroyed.
    InvalidCapability = 2,
    /// The capability is of another type than this argument needs.
    WrongType = 3,
    /// The capability lacks a right that this argument needs.
    MissingRight = 4,
    /// The value is outside its range.
    OutOfRange = 5,
    /// The value is not a multiple of what it must be.
    Misaligned = 6,
    /// The destination slot is not empty.
    SlotOccupied = 7,
    /// The slot that should hold a capability is empty.
    SlotEmpty = 8,
    /// The Untyped has no room for this many objects of this size.
    NotEnoughMemory = 9,
    /// It is device memory: only Untyped and Frame can be made of it, and no device reaches it.
    DeviceMemory = 10,
    /// The capability, or what depends on it, is in use: bound, mapped, attached or split.
    InUse = 11,
    /// Capabilities of this type have one owner: they are moved or split, never copied.
    NotCopyable = 12,
    /// The derivation would be deeper than the kernel's bound.
    TooDeep = 13,
    /// No page table covers the address; the detail is the level that is missing.
    NoPageTable = 14,
    /// Something is mapped at the address.
    AddressOccupied = 15,
    /// The capability is not mapped.
    NotMapped = 16,
    /// The Vcpu has no Vm, or the Vm no CSpace, or the Vcpu no CPU time.
    NotConfigured = 17,
    /// The Vcpu must be stopped for this.
    Running = 18,
    /// A capability to an object of the VM lies outside its CSpace, or a mapping reaches outside its base.
    NotConfined = 19,
    /// The VM has been launched already, or for `Start` not yet.
    WrongPhase = 20,
    /// The core cannot deliver this much time besides what it has promised.
    NotAdmitted = 21,
    /// A capability is in flight already in this direction.
    ChannelFull = 22,
    /// No capability is in flight towards this end.
    ChannelEmpty = 23,
    /// The other end of the channel has no receiver.
    NoReceiver = 24,
    /// The resource is never handed out.
    Forbidden = 25,
    /// Something has to finish first, and the same call succeeds then: another core lets go of the state of the Vcpu, or
    /// the function has come out of its reset.
    Busy = 26,
}

impl Error {
    /// Every error, in the order of its number.
    pub const ALL: &'static [Error] = Error::VARIANTS;

    /// The error with this number: by a table, which is what makes a guest's check of a result shortest.
    pub const fn from_number(number: u8) -> Option<Error> {
        if number >= 1 && number as usize <= Self::ALL.len() { Some(Self::ALL[number as usize - 1]) } else { None }
    }
}

/// An error together with the argument at fault (0 is the invoked capability itself) and a detail that the error's
/// meaning defines (0 where it defines none).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fault {
    /// What is wrong.
    pub error: Error,
    /// Which argument: 0 the invoked capability, 1 to 5 the arguments in order.
    pub argument: u8,
    /// More about it, as the error says.
    pub detail: u16,
}

impl Fault {
    /// An error of one argument.
    pub const fn new(error: Error, argument: u8) -> Fault {
        Fault { error, argument, detail: 0 }
    }

    /// An error with a detail.
    pub const fn with_detail(error: Error, argument: u8, detail: u16) -> Fault {
        Fault { error, argument, detail }
    }
}

/// What `invoke` returns in `rax`: 0, or error in bits 0 to 7, argument in 8 to 15, detail in 16 to 31.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Status(pub u64);

impl Status {
    /// Success.
    pub const OK: Status = Status(0);

    /// The status of a refused invocation.
    pub const fn refused(fault: Fault) -> Status {
        Status(fault.error as u64 | (fault.argument as u64) << 8 | (fault.detail as u64) << 16)
    }

    /// `Ok` on success, else the fault. A number that no error has reads as `InvalidLabel`.
    pub const fn to_result(self) -> Result<(), Fault> {
        if self.0 == 0 {
            return Ok(());
        }
        let error = match Error::from_number(self.0 as u8) {
            Some(error) => error,
            None => Error::InvalidLabel,
        };
        Err(Fault { error, argument: (self.0 >> 8) as u8, detail: (self.0 >> 16) as u16 })
    }
}
