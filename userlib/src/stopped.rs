//! What the IOMMU has stopped of the application's own network function: [`App::stopped`].
//!
//! The function reaches the pages that its driver was given and nothing else. When it was told of other addresses, by a
//! defect of the application or of the device, the kernel notes what was stopped for the holder of the function's domain, as
//! it does for the market. Here the application hears of it: who waits for its devices ([`App::wait_for_devices`] and what is
//! built on it) is woken. Of a namespace's function ([`crate::storage`]) the market alone is told, whose domain it is.

use cap_spec::abi::{FaultRecord, Rights, Stopped};

use crate::app::App;
use crate::cap::{Cap, Slot};
use crate::cap::{Channel, IommuDomain, own};
use crate::error::Error;
use crate::events;
use crate::pager::Pager;

/// The event of a stop.
const STOPPED: u64 = 1 << events::FIRST_FREE;
/// Badge of a channel's other end.
const OTHER_END: u64 = 2;

/// Something that was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stray {
    /// What it was, with the I/O address of its page, or the entry that a message named.
    pub what: Stopped,
    /// Why, in the vendor's numbers (Intel VT-d, 7.1.3: Fault Reasons).
    pub reason: u8,
    /// Records that there was no room for so far, as nobody took those before them.
    pub lost: u32,
}

impl App {
    /// The next thing that the own network function was stopped from, oldest first; `None` if there is none. No exit unless
    /// something was stopped since this gave `None` last.
    ///
    /// # Errors
    /// When the kernel refuses, as the domain is gone.
    pub fn stopped(&mut self) -> Result<Option<Stray>, Error> {
        let Some(surroundings) = &mut self.surroundings else { return Ok(None) };
        surroundings.was_stopped |= events::take(STOPPED) != 0;
        if !surroundings.was_stopped {
            return Ok(None);
        }
        let taken = surroundings.domain.take_fault()?;
        surroundings.was_stopped = taken.record.is_some();
        Ok(taken.record.map(|FaultRecord { stopped, reason, .. }| Stray { what: stopped, reason, lost: taken.lost }))
    }
}

/// Has the kernel tell of what is stopped in a domain.
pub(crate) fn listen(pager: &mut Pager, domain: Cap<IommuDomain>) -> Result<(), Error> {
    let channel = pager.make::<Channel>()?;
    let other: Slot = pager.take_slots(1)?;
    // Who waits for the market wakes, too.
    other.mint(channel, Rights::all(), OTHER_END)?.bind(own::VCPU, STOPPED | events::MARKET)?;
    Ok(domain.set_handler(channel)?)
}
