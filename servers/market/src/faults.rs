//! What the IOMMU has stopped: the kernel tells the market of every function's, and the market tells the host whose it was.
//!
//! A line of the log for the first, the second, the fourth, the eighth of each holder, and so on: a function whose DMA goes
//! astray without end does not fill the log.

use crate::machine::{Machine, Slot};
use crate::memory::MemoryError;
use crate::root::Root;
use crate::server::Server;
use alloc::format;
use cap_spec::abi::{FaultRecord, Label, ObjectType, Stopped, slots};

/// Event bit for what was stopped.
pub const FAULT_EVENT: u64 = 1 << 36;
/// Records that are taken at a time; the kernel keeps no more.
const BURST: usize = cap_spec::abi::FAULTS_KEPT;

/// Lets the kernel tell the market of what is stopped.
///
/// # Errors
/// [`MemoryError`].
pub fn listen<M: Machine>(root: &mut Root<M>) -> Result<(), MemoryError> {
    let channel = root.make_own(ObjectType::Channel, 0)?;
    crate::console_link::bind_other_end(root, channel, Slot::root(slots::VCPU), FAULT_EVENT)?;
    let machine = Slot::root(slots::MARKET);
    root.machine.invoke(Label::MachineSetHandler, machine, [channel.raw(), 0, 0, 0, 0])?;
    Ok(())
}

impl<M: Machine> Server<'_, M> {
    /// Takes what was stopped, and tells the host.
    pub(crate) fn hear_faults(&mut self) {
        for _ in 0..BURST {
            let told = self.root.machine.invoke(Label::MachineGetFault, Slot::root(slots::MARKET), [0; 5]);
            let Some(record) = told.ok().and_then(FaultRecord::from_words) else { return };
            self.tell_fault(record);
        }
    }

    fn tell_fault(&mut self, FaultRecord { requester, stopped, reason }: FaultRecord) {
        let of_nic = self.nic.as_mut().and_then(|nic| nic.was_stopped(&mut self.root, requester));
        let holder = of_nic.or_else(|| self.storage.as_mut()?.was_stopped(&mut self.root, requester));
        let (whose, count) = match holder {
            Some((app, count)) => (self.name(app), count),
            None => (format!("{:02x}:{:02x}.{}", requester >> 8, requester >> 3 & 0x1f, requester & 7), 1),
        };
        if !count.is_power_of_two() {
            return;
        }
        let what = match stopped {
            Stopped::Read(address) => format!("a read at I/O address {address:#x}"),
            Stopped::Write(address) => format!("a write at I/O address {address:#x}"),
            Stopped::Interrupt(entry) => format!("an interrupt message for entry {entry}"),
        };
        self.say(&format!("the IOMMU stopped {what} by the function of {whose} (reason {reason}); number {count}"));
    }
}
