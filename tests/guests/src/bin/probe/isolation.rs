//! That a VM reaches nobody else: taken back, cut off, reported.

use alloc::format;
use cap_spec::abi::{ROOT_BOOT_INFO, Rights, StopReason, boot_info, handler_page};
use guests::children;
use guests::root::{CHILD_BITS, Root, tsc, word};
use guests::switched::at;
use proto::start::RING_STRIDE;
use userlib::cap::{CNode, Cap, Frame, Slot, Untyped, VcpuPage, own};
use userlib::channel::{ChannelError, Endpoint};

use crate::{Check, end, expect_rounds, last_core, micros, set_word, sleep, told};

/// `cli; spin` on the root VM's own core: the root VM goes on, and can kill it.
pub fn spinner_is_taken_back(root: &mut Root) -> Check {
    let (page, address) = root.shared_page().map_err(told("page"))?;
    let period = micros(root, 10_000);
    let child = root.child(children::spin(), 1, &[page], 0, period / 2, period).map_err(told("child"))?;
    root.launch(&child).map_err(told("launch"))?;
    sleep(root, 30_000);
    if word(address, 0) == 0 {
        return Err("it never ran".into());
    }
    end(&child)?;
    let after = word(address, 0);
    sleep(root, 10_000);
    if word(address, 0) != after { Err("it runs after it was revoked".into()) } else { Ok(()) }
}

/// A page is taken away while a VM on another core reads it: the reader faults, and reads nothing of the new owner.
pub fn shootdown_reaches_a_running_core(root: &mut Root) -> Check {
    if root.cores < 2 {
        return Ok(());
    }
    let (count, address) = root.shared_page().map_err(told("page"))?;
    // 0x11_0000 is the counter; what is read lies outside of the ring window's first page.
    let lease: Cap<Untyped> = root.make(12).map_err(told("lease"))?;
    let frame: Cap<Frame> = lease.retype(12, root.slot()).map_err(told("frame"))?;
    let period = micros(root, 10_000);
    let child = root.child(children::reader(), 1, &[count], 1, period / 2, period).map_err(told("child"))?;
    frame.map(child.vm, 0x14_0000, Rights::READ).map_err(told("map"))?;
    root.launch(&child).map_err(told("launch"))?;
    sleep(root, 20_000);
    if word(address, 0) == 0 {
        return Err("the reader never ran".into());
    }
    lease.revoke().map_err(told("revoke"))?;
    let after = word(address, 0);
    sleep(root, 20_000);
    if word(address, 0) > after + 1 {
        return Err("the reader went on".into());
    }
    end(&child)
}

/// A VM that stops by itself is reported to its handler, with reason and registers.
pub fn stopped_vm_is_reported(root: &mut Root) -> Check {
    let period = micros(root, 10_000);
    // The reader has nothing to read: a nested page fault without an upcall.
    let (page, _) = root.shared_page().map_err(told("page"))?;
    let child = root.child(children::reader(), 1, &[page], 0, period / 10, period).map_err(told("child"))?;
    let handler: Cap<Frame> = child.vcpu.page(VcpuPage::Handler, root.slot()).map_err(told("handler page"))?;
    let at = root.window(1);
    handler.map(own::VM, at, Rights::READ).map_err(told("handler page"))?;
    let node: Cap<CNode> = child.cnode;
    child
        .vcpu
        .set_handler(Slot::in_node(node.slot().index(), guests::root::CHILD_CHANNEL).cap())
        .map_err(told("handler"))?;
    root.launch(&child).map_err(told("launch"))?;
    let events = own::VCPU.wait(1, tsc() + micros(root, 2_000_000)).map_err(told("wait"))?;
    if events == 0 || word(at, handler_page::COUNT) != 1 {
        return Err("the handler was not told".into());
    }
    let (reason, address) = (word(at, handler_page::REASON), word(at, handler_page::DETAIL));
    let rip = word(at, handler_page::REGISTERS + 16 * 8);
    if reason != StopReason::NestedFault as u64 || address != 0x14_0000 {
        return Err(format!("reason {reason}, address {address:#x}"));
    }
    if !(guests::root::CHILD_CODE..guests::root::CHILD_CODE + 64).contains(&rip) {
        return Err(format!("rip {rip:#x}"));
    }
    let left = child.block.slot().identify().map_err(told("block"))?;
    if left.size_bits != CHILD_BITS || word(ROOT_BOOT_INFO, boot_info::RESTARTS) != 0 {
        return Err("the block or the root VM is not what it was".into());
    }
    end(&child)
}

/// A ring whose memory belongs to its peer, which revokes it in the middle of its use: the user is told that the peer is
/// gone, for good, and lives.
pub fn ring_goes_under_its_user(root: &mut Root) -> Check {
    /// A ring window that no server uses here.
    const RING: u64 = cap_spec::abi::MARKET_RING + 4 * RING_STRIDE;
    let (page, address) = root.shared_page().map_err(told("page"))?;
    let period = micros(root, 4_000);
    let core = last_core(root);
    let child = root.child(children::revoker(), 1, &[page], core, period / 4, period).map_err(told("child"))?;
    let memory: Cap<Untyped> = root.make(13).map_err(told("ring"))?;
    for number in 0..2u64 {
        let frame: Cap<Frame> = memory.retype(12, root.slot()).map_err(told("ring"))?;
        frame.map(own::VM, RING + number * 4096, Rights::READ | Rights::WRITE).map_err(told("ring"))?;
    }
    // The peer's alone: the root VM has its pages and no way to keep them.
    Slot::in_node(child.cnode.slot().index(), 24).move_from(memory).map_err(told("ring"))?;
    root.launch(&child).map_err(told("launch"))?;
    let mut ring = Endpoint::new(RING, RING + 4096, child.channel);
    let mut sent = 0u64;
    let deadline = tsc() + micros(root, 200_000);
    let end_of_ring = loop {
        match ring.send_bytes(&[0x5a; 100]) {
            Ok(()) => sent += 1,
            Err(ChannelError::Full) => {}
            Err(error) => break error,
        }
        if sent == 8 {
            set_word(address, at::MEND, 1);
        }
        if tsc() > deadline {
            return Err(format!("the ring was never gone; the peer made {} rounds", word(address, at::ROUNDS)));
        }
    };
    if end_of_ring != ChannelError::PeerGone || sent < 8 {
        return Err(format!("{end_of_ring:?} after {sent} messages"));
    }
    match (ring.receive_bytes().map(|_| ()), ring.send_bytes(&[1])) {
        (Err(ChannelError::PeerGone), Err(ChannelError::PeerGone)) => {}
        other => return Err(format!("afterwards {other:?}")),
    }
    sleep(root, 10_000);
    expect_rounds(address, 1)?;
    if word(ROOT_BOOT_INFO, boot_info::RESTARTS) != 0 {
        return Err("the root VM was restarted".into());
    }
    end(&child)
}
