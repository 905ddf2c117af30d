//! Functions, where the clock goes on while one call is looked at. What each label does is checked in lock-step.

use super::base::*;
use crate::cap::Cap;
use crate::device_model::{PHYSICAL, PLAIN, RESET_TICKS};
use crate::machine::Machine;
use cap_spec::abi::{Error, Label, ObjectType};

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

/// Whoever moves or grants a function to somebody else keeps no Frame of its registers.
#[test]
fn a_function_of_whose_registers_there_are_frames_is_not_given_away() {
    let mut world = World::new();
    world.kernel.give(world.root.plus(FREE as u32), Cap::PciFunction { lease: 0, function: PHYSICAL });
    world.retype(MEMORY, ObjectType::Channel, 0, 30, 1);
    world.ok(Label::PciFunctionLease, FREE, [CNODE, 31, 0, 0, 0]);
    world.ok(Label::PciFunctionGetBar, 31, [0, 0, CNODE, 32, 1]);
    world.refused(Label::CNodeMove, CNODE, [33, 31, 0, 0, 0], Error::InUse, 2);
    world.refused(Label::ChannelGrant, 30, [31, ALL, 1, 0, 0], Error::InUse, 1);
    world.delete(32);
    world.ok(Label::CNodeMove, CNODE, [33, 31, 0, 0, 0]);
    world.ok(Label::ChannelGrant, 30, [33, ALL, 1, 0, 0]);
}

/// Between the steps in which a VM or a domain is destroyed, nobody joins it, and nothing more is mapped in it.
#[test]
fn what_is_being_destroyed_gets_nothing_more() {
    let mut world = World::new();
    world.kernel.give(world.root.plus(FREE as u32), Cap::PciFunction { lease: 0, function: PLAIN });
    for (at, object) in (20..).zip([ObjectType::Vm, ObjectType::IommuDomain, ObjectType::Vcpu, ObjectType::PageTable]) {
        world.retype(MEMORY, object, 0, at, 1);
    }
    let Cap::IommuDomain { id: domain, .. } = world.slot(21).cap else { panic!("no domain") };
    for dissolving in [true, false] {
        let vm = world.vm_id(20);
        for space in [vm, domain] {
            world.kernel.machine.vm_mut(space).dissolving = dissolving;
        }
        let calls = [
            (Label::VcpuAttach, 22, [20, 0, 0, 0, 0]),
            (Label::PageTableMap, 23, [20, 0, 3, 0, 0]),
            (Label::PageTableMapIo, 23, [21, 0, 2, 0, 0]),
            (Label::PciFunctionAttach, FREE, [21, 0, 0, 0, 0]),
        ];
        for (label, cap, args) in calls {
            if dissolving {
                world.refused(label, cap, args, Error::InvalidCapability, 1);
            } else if label != Label::PageTableMapIo {
                world.ok(label, cap, args);
            }
        }
    }
}
