//! The properties that the nonkernel claims, each under the one name that specification, checks and `CLAIMS.md` share.

use strum::{EnumIter, IntoEnumIterator};

macro_rules! properties {
    ($($variant:ident $name:literal: $statement:literal, $form:literal;)*) => {
        /// A claimed property.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EnumIter)]
        pub enum Property { $(#[doc = $statement] $variant),* }

        impl Property {
            /// Its name in claims, questions and reports.
            pub const fn name(self) -> &'static str {
                match self { $(Property::$variant => $name),* }
            }

            /// What it says.
            pub const fn statement(self) -> &'static str {
                match self { $(Property::$variant => $statement),* }
            }

            /// Where its checkable form is.
            pub const fn form(self) -> &'static str {
                match self { $(Property::$variant => $form),* }
            }
        }
    };
}

properties! {
    WellFormed "well-formed": "Derivation is a forest whose roots are the boot capabilities; a slot lies in a live CNode or \
        Channel; a record names what lives; each object has exactly one original capability.",
        "`machine::invariants::check`: `Forest`, `Depth`, `Original`, `Place`, `Dangling`, `Range`";
    NoAuthorityFromNothing "no-authority-from-nothing": "Every capability derives from a boot capability, names the same \
        object or a part of it, and has no right that the capability it was derived from lacks.",
        "`machine::invariants::check`: `Copy`, `Authority`; `machine::authority::covers`";
    AuthorityConfined "authority-confined": "Nobody obtains a capability but by derivation from one that it holds, or by a \
        grant from a holder over a channel that both reach (the take-grant bound).",
        "`machine::authority::Bound`; `machine::fine::check`: `Passed`";
    NoOverlap "no-overlap": "Typed objects and frames never share a byte.",
        "`machine::invariants::check`: `Containment`, `Overlap`";
    EntriesBacked "entries-backed": "A mapping, and an entry of a TLB, an IOTLB or the interrupt remapping table, exists \
        only where a live capability allows it, or its flush is pending.",
        "`machine::invariants::check`: `Mapping`; `machine::fine::check`: `Core`, `Iommu`";
    RevokeComplete "revoke-complete": "When Revoke has completed, no descendant, no mapping, and no entry of a TLB, an IOTLB \
        or the interrupt remapping table made by one is left anywhere.",
        "`machine::fine::check_revoked`";
    CleanBeforeReuse "clean-before-reuse": "Nothing is retyped before it is scrubbed, and before all that hardware remembers \
        of it is flushed.",
        "`machine::fine::check`: `Dirty`, `Remembered`";
    TimeDelivered "time-delivered": "CPU time sold of a core never exceeds the core, and an admitted reservation gets its \
        budget in each of its periods (EDF).",
        "`machine::invariants::check`: `Time`, `Sold`; `machine::edf::run`";
    OneOwner "one-owner": "A function has one holder and one domain; an interrupt route has one Vcpu and one message.",
        "`machine::invariants::check`: `Function`, `Route`";
    FailureChangesNothing "failure-changes-nothing": "An invocation that fails leaves the state as it was.",
        "state before = state after, of every refused `machine::step` and `machine::fine::step`";
    NonInterference "non-interference": "A step of one VM changes nothing that an unrelated VM can observe through the \
        kernel's interface. Excluded: timing, the price board, the kernel lock.",
        "`machine::interference::{observe, may_influence}`";
    BoundedWork "bounded-work": "Every long operation ends, and each of its steps stays within its stated bound.",
        "`machine::fine::{changes, remaining}`";
    NoPanic "no-panic": "No input makes the kernel panic, overflow its stack, or reach outside of its memory.",
        "none: it is of the kernel, not of the specification";
    Refinement "refinement": "The kernel's library answers and does what the specification says.",
        "`machine::step`, `machine::fine::step`: answer and state of the kernel, step by step";
}

impl Property {
    /// All of them, in the order of the reference.
    pub fn all() -> impl Iterator<Item = Property> {
        <Property as IntoEnumIterator>::iter()
    }

    /// The property with this name.
    pub fn from_name(name: &str) -> Option<Property> {
        Property::all().find(|property| property.name() == name)
    }
}
