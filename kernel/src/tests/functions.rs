//! Functions, where the clock goes on while one call is looked at. What each label does is checked in lock-step.

use super::base::*;
use crate::cap::Cap;
use crate::device_model::{PLAIN, RESET_TICKS};
use cap_spec::abi::{Label, ObjectType};

#[test]
fn a_function_is_revived_before_it_is_used_whenever_its_reset_ends() {
    for before in 0..16 {
        let mut world = World::new();
        let function = world.root.plus(FREE as u32);
        world.kernel.give(function, Cap::PciFunction { lease: 0, function: PLAIN });
        world.retype(MEMORY, ObjectType::IommuDomain, 0, FREE + 1, 1);
        world.ok(Label::PciFunctionReset, FREE, [0; 5]);
        // Every look at the clock takes a tick, so that the reset ends between two of them.
        world.kernel.machine.now += RESET_TICKS - before;
        world.kernel.machine.look_ticks = 1;
        let attached = (0..16).any(|_| world.call(Label::PciFunctionAttach, FREE, [FREE + 1, 0, 0, 0, 0]).is_ok());
        assert!(attached, "{before} ticks before the end");
        assert_eq!(world.kernel.machine.devices.faults, [""; 0], "{before} ticks before the end");
    }
}
