//! Every operation: those of the hypercall, the steps into which a preempted one is cut, and those of the world.

mod deriving;
mod devices;
mod mapping;
mod records;
mod removing;
mod world;

use crate::operation::{Draft, Operation};
use cap_spec::abi::Label;
use std::sync::OnceLock;

/// Labels that change nothing of the vocabulary: registers, run states, events, what is only read, and the outside.
pub const UNCHANGING: &[Label] = &[
    Label::Nop,
    Label::CNodeIdentify,
    Label::VcpuSetRegister,
    Label::VcpuGetRegister,
    Label::VcpuSetUpcall,
    Label::VcpuStart,
    Label::VcpuStop,
    Label::VcpuSignal,
    Label::VcpuWait,
    Label::ChannelSignal,
    Label::ChannelWait,
    Label::IoPortIn,
    Label::IoPortOut,
    Label::IoPortOutBytes,
    Label::MachineReset,
    Label::PciFunctionGetInfo,
    Label::PciFunctionReadConfig,
    Label::PciFunctionWriteConfig,
    Label::IommuDomainGetFault,
    Label::MachineGetFault,
];

/// Every operation as it is written.
pub fn drafts() -> Vec<Draft> {
    [deriving::drafts(), removing::drafts(), mapping::drafts(), records::drafts(), devices::drafts(), world::drafts()]
        .concat()
}

/// Every operation.
pub fn operations() -> &'static [Operation] {
    static ALL: OnceLock<Vec<Operation>> = OnceLock::new();
    ALL.get_or_init(|| drafts().iter().map(Draft::read).collect())
}

/// The operation of this name as it is written.
///
/// # Panics
/// If there is none.
pub fn draft(name: &str) -> Draft {
    drafts().into_iter().find(|draft| draft.name == name).unwrap_or_else(|| panic!("no operation {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cap_spec::spec::LABELS;
    use std::collections::BTreeSet;

    #[test]
    fn every_label_has_an_operation_or_changes_nothing() {
        for spec in LABELS {
            let is_done = operations().iter().any(|operation| operation.labels.contains(&spec.label));
            assert_ne!(is_done, UNCHANGING.contains(&spec.label), "{:?}", spec.label);
        }
    }

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = operations().iter().map(|operation| operation.name).collect();
        assert_eq!(names.len(), operations().len());
    }
}
