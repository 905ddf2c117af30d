//! Sequences that random steps reach too seldom.

use cap_spec::abi::{Error, Label, ObjectType, slots};
use cap_spec::machine::{NEVER_HANDED_OUT, Outcome, Run, VcpuId};
use lockstep::script::{Step, by, launched_tenant, retype, root, tenant};
use lockstep::system::{ROOT_VCPU, System, place};

/// Takes the steps, all of which must succeed; the answer to the last invocation.
fn take(system: &mut System, steps: &[Step]) -> Outcome {
    let mut last = Outcome::NOTHING;
    for step in steps {
        let answer = system.step(*step).unwrap_or_else(|divergence| panic!("{step}: {divergence}"));
        if let Some((_, reply)) = answer {
            last = reply.unwrap_or_else(|fault| panic!("{step} is refused: {fault:?}"));
        }
    }
    last
}

/// The tenant's Vcpu.
fn tenant_vcpu(system: &System) -> VcpuId {
    system.spec.vcpus.keys().copied().find(|id| *id != ROOT_VCPU).expect("there is a tenant")
}

#[test]
fn a_launched_tenant_invokes_by_itself() {
    let mut steps = launched_tenant(1);
    // The tenant reads what its slot 2 holds: the capability to itself.
    steps.push(by(1, Label::CNodeIdentify, slots::CNODE.into(), &[slots::VM.into()]));
    let reply = take(&mut System::new(None), &steps);
    assert!(matches!(reply, Outcome::Done([first, 0]) if first & 0xff == ObjectType::Vm as u64));
}

#[test]
fn a_channel_hands_the_core_from_one_sleeper_to_the_other() {
    let mut system = System::new(None);
    take(&mut system, &launched_tenant(0));
    let tenant = tenant_vcpu(&system);
    let root_waits = root(Label::ChannelWait, tenant::CHANNEL, &[1, 0]);
    let tenant_waits = by(0, Label::ChannelWait, slots::MARKET.into(), &[2, 0]);
    assert_eq!(take(&mut system, &[root_waits]), Outcome::Blocked);
    assert_eq!(system.current(0), Some(tenant), "the root VM sleeps");
    assert_eq!(take(&mut system, &[tenant_waits]), Outcome::Done([2, 0]), "it was signalled before it ran");
    // The root VM was woken by that; both are runnable, until the tenant's next wait.
    for _ in 0..3 {
        while system.current(0) != Some(tenant) {
            assert_eq!(take(&mut system, &[root_waits]), Outcome::Blocked);
        }
        let sleeps = take(&mut system, &[tenant_waits]);
        if sleeps == Outcome::Blocked {
            assert_eq!(system.current(0), Some(ROOT_VCPU), "the core goes to whom was signalled");
            assert!(matches!(system.spec.vcpus[&tenant].run, Run::Blocked { mask: 2, .. }));
        }
    }
}

#[test]
fn a_lease_that_was_never_used_is_given_back_clean() {
    let mut system = System::new(None);
    let whole = retype(place::CLEAN, ObjectType::Untyped, 19, 20, 1);
    let lease = [whole, root(Label::CNodeDelete, place::CNODE, &[20])];
    take(&mut system, &[lease, lease, lease].concat());
    let used = [whole, retype(20, ObjectType::Frame, 12, 21, 1), root(Label::CNodeDelete, place::CNODE, &[20])];
    take(&mut system, &used);
    let again = system.step(whole).expect("in lock-step").expect("an invocation").1;
    assert!(again.is_err(), "what was used must be scrubbed first");
    take(&mut system, &[root(Label::CNodeRevoke, place::CNODE, &[place::CLEAN]), whole]);
}

#[test]
fn a_vm_that_revokes_its_own_base_is_gone_and_the_launcher_has_the_memory() {
    let mut system = System::new(None);
    take(&mut system, &launched_tenant(1));
    let tenant = tenant_vcpu(&system);
    take(&mut system, &[by(1, Label::CNodeRevoke, slots::CNODE.into(), &[slots::BASE.into()])]);
    assert!(!system.spec.vcpus.contains_key(&tenant) && system.current(1).is_none());
    assert_eq!(system.spec.vms.len(), 1, "the root VM is left");
    take(
        &mut system,
        &[
            root(Label::CNodeRevoke, place::CNODE, &[place::CLEAN]),
            retype(place::CLEAN, ObjectType::Untyped, 19, 50, 1),
        ],
    );
}

#[test]
fn cnodes_that_hold_each_other_and_themselves_all_go() {
    let here = place::CNODE;
    let mut system = System::new(None);
    let steps = [
        retype(place::CLEAN, ObjectType::Untyped, 16, 20, 1),
        retype(20, ObjectType::CNode, 6, 21, 3),
        // 21 holds 22 and the Untyped of all of them, 22 holds 23, and 23 holds 21 and itself.
        root(Label::CNodeCopy, here, &[31, 21, 31]),
        root(Label::CNodeCopy, here, &[32, 22, 31]),
        root(Label::CNodeCopy, here, &[33, 23, 31]),
        root(Label::CNodeMove, 31, &[1, 22]),
        root(Label::CNodeMove, 31, &[2, 20]),
        root(Label::CNodeMove, 32, &[1, 23]),
        root(Label::CNodeMove, 33, &[1, 21]),
        root(Label::CNodeMove, 33, &[2, 33]),
    ];
    take(&mut system, &steps);
    // The original of 22 lies in slot 1 of 21.
    take(&mut system, &[root(Label::CNodeDelete, 31, &[1])]);
    assert_eq!(system.spec.cnodes.len(), 1, "the root CNode is left");
    take(&mut system, &[root(Label::CNodeRevoke, here, &[place::CLEAN])]);
}

#[test]
fn a_base_with_a_thousand_capabilities_is_launched() {
    let (base, cnode, vm, vcpu) = (20, 21, 22, 23);
    let mut steps = vec![
        retype(place::CLEAN, ObjectType::Untyped, 19, base, 1),
        retype(base, ObjectType::CNode, 11, cnode, 1),
        retype(base, ObjectType::Vm, 0, vm, 1),
        retype(base, ObjectType::Vcpu, 0, vcpu, 1),
        root(Label::VmSetCSpace, vm, &[cnode]),
        root(Label::VcpuAttach, vcpu, &[vm]),
        root(Label::CpuTimeSplit, place::CPU_TIME + 1, &[900, 10_000, place::CNODE, 24]),
        root(Label::VcpuBindTime, vcpu, &[24]),
    ];
    for row in 0..16 {
        let args = [ObjectType::Channel as u64, 0, cnode, 64 + 64 * row, 64];
        steps.push(root(Label::UntypedRetype, base, &args));
    }
    for (index, from) in [(slots::BASE, base), (slots::VM, vm), (slots::CNODE, cnode)] {
        steps.push(root(Label::CNodeMove, cnode, &[index.into(), from]));
    }
    let mut system = System::new(None);
    take(&mut system, &steps);
    take(&mut system, &[root(Label::VcpuLaunch, vcpu, &[slots::BASE.into(), slots::VCPU.into()])]);
    assert!(system.spec.vms.values().all(|vm| vm.launched));
}

#[test]
fn frames_of_1_gib_fill_entries_of_level_3() {
    const GIB: u64 = 1 << 30;
    let here = place::CNODE;
    let [vm, table, lower, page, giants] = [20, 21, 22, 23, 30];
    let map = |frame, gpa, more| root(Label::FrameMap, frame, &[vm, gpa, 3, more]);
    let mut system = System::small();
    let steps = [
        retype(place::CLEAN, ObjectType::Vm, 0, vm, 1),
        retype(place::CLEAN, ObjectType::PageTable, 0, table, 2),
        retype(place::CLEAN, ObjectType::Frame, 12, page, 1),
        retype(place::DEVICE, ObjectType::Frame, 30, giants, 2),
        root(Label::PageTableMap, table, &[vm, 0, 3]),
        root(Label::PageTableMap, lower, &[vm, 0, 2]),
        map(giants, GIB, 0),
    ];
    take(&mut system, &steps);
    let refused = [
        (map(giants + 1, GIB, 0), Error::AddressOccupied),
        (map(giants + 1, 0, 0), Error::AddressOccupied),
        (map(page, GIB, 0), Error::AddressOccupied),
        (map(giants + 1, 2 * GIB + (1 << 21), 0), Error::Misaligned),
        (map(giants + 1, (1 << 48) - GIB + (1 << 12), 0), Error::OutOfRange),
        (map(giants + 1, 512 * GIB, 0), Error::NoPageTable),
        (map(giants, 2 * GIB, 1), Error::InUse),
    ];
    for (step, error) in refused {
        let (_, reply) = system.step(step).expect("in lock-step").expect("an invocation");
        assert_eq!(reply.map_err(|fault| fault.error), Err(error), "{step}");
    }
    let unmap = |more| root(Label::FrameUnmap, giants, &[more]);
    take(&mut system, &[unmap(0), map(giants, 510 * GIB, 1), unmap(1), map(giants, GIB, 1)]);
    take(&mut system, &[root(Label::CNodeDelete, here, &[giants]), root(Label::CNodeRevoke, here, &[place::DEVICE])]);
    take(&mut system, &[retype(place::DEVICE, ObjectType::Frame, 30, giants, 2), map(giants, GIB, 1)]);
}

#[test]
fn the_kernel_never_hands_out_what_the_specification_names() {
    for port in 0..=u16::MAX {
        let specified = NEVER_HANDED_OUT.iter().any(|&(low, high)| (low..=high).contains(&port));
        assert_eq!(kernel::ioport::is_forbidden(port, 1), specified, "port {port:#x}");
    }
}

#[test]
fn a_message_that_is_bound_wakes_whom_its_route_interrupts() {
    let mut system = System::new(None);
    let here = place::CNODE;
    let (vcpu, time, route) = (20, 21, 22);
    let start = [
        retype(place::CLEAN, ObjectType::Vcpu, 0, vcpu, 1),
        root(Label::VcpuAttach, vcpu, &[place::VM]),
        root(Label::CpuTimeSplit, place::CPU_TIME + 1, &[500, 2_000, here, time]),
        root(Label::VcpuBindTime, vcpu, &[time]),
        root(Label::VcpuStart, vcpu, &[]),
        root(Label::IrqSplit, place::ROUTES, &[30, 1, here, route]),
        root(Label::IrqBind, route, &[vcpu, 40]),
    ];
    take(&mut system, &start);
    let sleeper = loop {
        match system.current(1) {
            Some(running) => break running,
            None => take(&mut system, &[Step::Advance(100)]),
        };
    };
    assert_eq!(take(&mut system, &[by(1, Label::VcpuWait, vcpu, &[1, 0])]), Outcome::Blocked);
    take(&mut system, &[root(Label::PciFunctionBindMsix, place::FUNCTION, &[0, route])]);
    assert_eq!(
        system.spec.vcpus[&sleeper].run,
        Run::Runnable,
        "the message may have fired before its core delivers it"
    );
}
