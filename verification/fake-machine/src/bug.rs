//! Bugs that can be seeded into the machine's side of the protocol. The kernel library itself is never changed.

/// A mistake of the kind that emulators hide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A core enters a VM with the address-space number that it had before its tables lost an entry.
    ForgottenFlush,
    /// The numbers start anew without the flush.
    AsidReused,
    /// An entry that the processor has refused counts as the flush that it carried.
    RefusedFlush,
    /// An expulsion does not wait, so that the page walker of a running guest writes into a table that is free already.
    FreedTable,
    /// An NMI that arrives between the release of the lock and VMRUN is taken there and forgotten.
    LostNmi,
    /// The event whose delivery an exit cut off is not injected again.
    LostInterrupt,
    /// A core says that it has left its guest only when it has got the lock.
    ShootdownDeadlock,
    /// The comparator is set and the clock not read again: an instant that passed meanwhile never raises an NMI.
    SilentTimer,
    /// A core is not called while it is between its decision to halt and the halt.
    LostWakeup,
    /// A core says that it has left its guest before it has saved what it must into the Vcpu.
    LateSave,
    /// An alarm that comes early is not set again.
    SpentAlarm,
    /// A core that held the state of a Vcpu which is destroyed, or taken off its VM, leaves its interrupt routes open.
    RouteLeftOpen,
    /// The NMI of a route that was parked is taken when the route is open again, and the route's vector forgotten.
    LateNmi,
    /// The IOMMU is not told that a domain's tables have lost an entry.
    ForgottenIotlbFlush,
    /// The IOMMU is not told that the context entry of a function that is detached is gone.
    ForgottenContextFlush,
    /// The IOMMU is not told to forget what it has translated for a function that is detached.
    ForgottenDetachFlush,
    /// The IOMMU is not told that an entry of the interrupt remapping table says something else.
    ForgottenEntryFlush,
    /// What the IOMMU has translated is not waited for.
    DmaInFlight,
    /// The IOMMU does not answer in time, which counts as an answer.
    IgnoredTimeOut,
    /// The kernel is not told that the IOMMU has failed, and hands out again what that may reach.
    ForgottenQuarantine,
    /// A message is masked and the mask not read back, so that one in flight arrives later.
    MessagePastMask,
    /// A function that is detached goes on until it is reset and used again: its memory is sold meanwhile.
    ResaleUnderDma,
    /// A function that is detached stays a bus master.
    BusMasterLeftOn,
    /// What a function was stopped from is not looked at when its domain changes.
    FaultsLeft,
}

impl Bug {
    /// Every bug.
    pub const ALL: [Bug; 24] = [
        Bug::ForgottenFlush,
        Bug::AsidReused,
        Bug::RefusedFlush,
        Bug::FreedTable,
        Bug::LostNmi,
        Bug::LostInterrupt,
        Bug::ShootdownDeadlock,
        Bug::SilentTimer,
        Bug::LostWakeup,
        Bug::LateSave,
        Bug::SpentAlarm,
        Bug::RouteLeftOpen,
        Bug::LateNmi,
        Bug::ForgottenIotlbFlush,
        Bug::ForgottenContextFlush,
        Bug::ForgottenDetachFlush,
        Bug::ForgottenEntryFlush,
        Bug::DmaInFlight,
        Bug::IgnoredTimeOut,
        Bug::ForgottenQuarantine,
        Bug::MessagePastMask,
        Bug::ResaleUnderDma,
        Bug::BusMasterLeftOn,
        Bug::FaultsLeft,
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Bug::ForgottenFlush => "forgotten-flush",
            Bug::AsidReused => "asid-reused",
            Bug::RefusedFlush => "refused-flush",
            Bug::FreedTable => "freed-table",
            Bug::LostNmi => "lost-nmi",
            Bug::LostInterrupt => "lost-interrupt",
            Bug::ShootdownDeadlock => "shootdown-deadlock",
            Bug::SilentTimer => "silent-timer",
            Bug::LostWakeup => "lost-wakeup",
            Bug::LateSave => "late-save",
            Bug::SpentAlarm => "spent-alarm",
            Bug::RouteLeftOpen => "route-left-open",
            Bug::LateNmi => "late-nmi",
            Bug::ForgottenIotlbFlush => "forgotten-iotlb-flush",
            Bug::ForgottenContextFlush => "forgotten-context-flush",
            Bug::ForgottenDetachFlush => "forgotten-detach-flush",
            Bug::ForgottenEntryFlush => "forgotten-entry-flush",
            Bug::DmaInFlight => "dma-in-flight",
            Bug::IgnoredTimeOut => "ignored-time-out",
            Bug::ForgottenQuarantine => "forgotten-quarantine",
            Bug::MessagePastMask => "message-past-mask",
            Bug::ResaleUnderDma => "resale-under-dma",
            Bug::BusMasterLeftOn => "bus-master-left-on",
            Bug::FaultsLeft => "faults-left",
        }
    }

    /// The bug with this name.
    pub fn from_name(name: &str) -> Option<Bug> {
        Bug::ALL.into_iter().find(|bug| bug.name() == name)
    }
}
