//! What becomes of a virtual function (VF) of the storage device between the applications and the storage server.

use crate::machine::Slot;
use alloc::vec::Vec;
use proto::storage::Space;

/// What an application is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// It is to have a namespace now: in its base, or bought.
    pub is_entitled: bool,
    /// Bytes of its namespace, at least.
    pub bytes: u64,
    /// Reads and writes per second; `None`: no limit.
    pub per_s: Option<u64>,
}

/// What a VF is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody has it.
    Idle,
    /// The storage server makes it ready for this application.
    Preparing(usize),
    /// It is ready for this application.
    Ready(usize, Space),
    /// This application has it, and it has these slots of the market's.
    Held(usize, Space, Vec<Slot>),
    /// The same, but the storage server takes its queues and erases its namespace.
    Losing(usize, Vec<Slot>),
    /// The same, but it is offline, with no queues and no namespace, until the application is to have some.
    Without(usize, Vec<Slot>),
    /// The same, but its queues are gone, and the storage server makes new ones in another namespace.
    Renewing(usize, Vec<Slot>),
    /// Nobody has it any more, but the storage server, which has been told to release it, may still be about to make it ready:
    /// it is reset when that is over.
    Leaving,
    /// It was reset, and the storage server erases what was in its namespace.
    Releasing,
    /// The controller refused something: nobody gets it any more.
    Dead,
}

impl State {
    /// The application that has it or is to have it.
    pub fn holder(&self) -> Option<usize> {
        match *self {
            State::Preparing(app)
            | State::Ready(app, _)
            | State::Held(app, ..)
            | State::Losing(app, _)
            | State::Without(app, _)
            | State::Renewing(app, _) => Some(app),
            State::Idle | State::Leaving | State::Releasing | State::Dead => None,
        }
    }
}

/// Why the server cannot make a VF ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no namespace of that size.
    TooLarge,
    /// The controller or the function does not do it, at this time; a second has so many ticks.
    Impossible {
        /// TSC value.
        now: u64,
        /// Ticks.
        second: u64,
    },
}
