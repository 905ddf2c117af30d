//! Every sequence of a small set of steps, up to a length: what random sequences might leave out near the start.
//!
//! States that are equal in the abstract machine are followed once, so that long sequences are reached: the kernel's
//! representations of such states may differ (the order of a list), and only the first is followed.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use cap_spec::abi::{Label, ObjectType};

use crate::campaign::Failure;
use crate::script::{Step, by, retype, root};
use crate::system::{System, place};

/// What was explored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explored {
    /// Different states after at most 0, 1, 2, ... steps.
    pub states: Vec<usize>,
    /// Steps that were tried.
    pub transitions: usize,
}

/// Follows every sequence of these steps, from the state after `start`, to at most `length` steps.
///
/// # Errors
/// The first (so: a shortest) sequence on which the machines part.
pub fn explore(start: &[Step], steps: &[Step], length: usize) -> Result<Explored, Box<Failure>> {
    let begin = arrive(&System::small(), start)?;
    let mut known = HashSet::from([fingerprint(&begin)]);
    let mut explored = Explored { states: vec![1], transitions: 0 };
    let mut edge = vec![Vec::new()];
    for _ in 0..length {
        let mut next = Vec::new();
        for path in &edge {
            // A path is much smaller than the state that it leads to.
            let system = arrive(&begin, path)?;
            for step in steps {
                let mut successor = system.clone();
                explored.transitions += 1;
                let path = || path.iter().chain([step]).copied().collect::<Vec<Step>>();
                if let Err(divergence) = successor.step(*step) {
                    let steps = [start, &path()].concat();
                    return Err(Box::new(Failure { seed: 0, steps, divergence }));
                }
                if known.insert(fingerprint(&successor)) {
                    next.push(path());
                }
            }
        }
        explored.states.push(known.len());
        edge = next;
    }
    Ok(explored)
}

/// The state after these steps.
fn arrive(from: &System, steps: &[Step]) -> Result<System, Box<Failure>> {
    let mut system = from.clone();
    for (at, step) in steps.iter().enumerate() {
        let failed = |divergence| Failure { seed: 0, steps: steps[..=at].to_vec(), divergence };
        system.step(*step).map_err(|divergence| Box::new(failed(divergence)))?;
    }
    Ok(system)
}

/// 128 bits of a state: two states that are not equal have the same with a probability of 2^-128 a pair.
fn fingerprint(system: &System) -> (u64, u64) {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        system.spec.hash(&mut hasher);
        hasher.finish()
    };
    (half(1), half(2))
}

/// A small set of steps, and where it begins.
#[derive(Clone, Debug)]
pub struct World {
    /// What it is about.
    pub name: &'static str,
    /// What is done first.
    pub start: Vec<Step>,
    /// The steps.
    pub steps: Vec<Step>,
    /// Length of the sequences that fits into every run.
    pub length: usize,
    /// States that there are at least, or the steps lead nowhere.
    pub least: usize,
}

/// All of them.
pub fn worlds() -> [World; 3] {
    [
        World { name: "derivation", start: Vec::new(), steps: derivation(), length: 9, least: 1_000 },
        World { name: "mapping", start: mapping_start(), steps: mapping(), length: 11, least: 500 },
        World { name: "processor", start: processors_start(), steps: processors(), length: 8, least: 500 },
    ]
}

/// Slots of the root CNode that the small worlds use.
const A: u64 = 20;
const B: u64 = 21;
const C: u64 = 22;

/// Memory, CNodes in CNodes, copies, moves, deletion, revocation, and capabilities in flight.
fn derivation() -> Vec<Step> {
    let here = place::CNODE;
    // Slots 1 and 2 of the CNode in slot A.
    let (inner, other_inner) = (A << 16 | 1, A << 16 | 2);
    let mut steps = vec![
        retype(place::CLEAN, ObjectType::Untyped, 19, A, 1),
        retype(place::CLEAN, ObjectType::Untyped, 19, B, 1),
        retype(place::CLEAN, ObjectType::CNode, 6, A, 1),
        retype(B, ObjectType::CNode, 6, A, 1),
        retype(B, ObjectType::CNode, 6, C, 1),
        retype(B, ObjectType::Channel, 0, C, 1),
        retype(A, ObjectType::Channel, 0, B, 1),
        retype(B, ObjectType::Frame, 12, C, 1),
        root(Label::CNodeCopy, here, &[B, A, 31]),
        root(Label::CNodeCopy, here, &[C, B, 31]),
        root(Label::CNodeCopy, A, &[1, A, 31]),
        root(Label::CNodeCopy, A, &[2, C, 1]),
        root(Label::CNodeMove, A, &[1, A]),
        root(Label::CNodeMove, A, &[1, B]),
        root(Label::CNodeMove, A, &[2, C]),
        root(Label::CNodeMove, C, &[1, A]),
        root(Label::CNodeMove, here, &[B, inner]),
        root(Label::CNodeMove, here, &[C, other_inner]),
        root(Label::CNodeMove, here, &[A, C << 16 | 1]),
        root(Label::ChannelGrant, C, &[A, 31, 1]),
        root(Label::ChannelGrant, C, &[B, 31, 1]),
        root(Label::ChannelGrant, B, &[C, 31, 0]),
    ];
    for slot in [place::CLEAN, A, B, C] {
        steps.push(root(Label::CNodeRevoke, here, &[slot]));
    }
    for slot in [A, B, C] {
        steps.push(root(Label::CNodeDelete, here, &[slot]));
    }
    for cnode in [A, C] {
        steps.push(root(Label::CNodeDelete, cnode, &[1]));
        steps.push(root(Label::CNodeRevoke, cnode, &[1]));
    }
    steps
}

/// Slots of [`mapping`]'s start.
mod mapped {
    pub const TABLES: u64 = 24;
    pub const FRAME: u64 = 28;
    pub const VM: u64 = 29;
}

/// Where [`mapping`] starts: four tables, a frame and a VM.
fn mapping_start() -> Vec<Step> {
    use mapped::*;
    vec![
        retype(place::CLEAN, ObjectType::Vm, 0, VM, 1),
        retype(place::CLEAN, ObjectType::PageTable, 0, TABLES, 4),
        retype(place::CLEAN, ObjectType::Frame, 12, FRAME, 1),
    ]
}

/// Tables and frames in two address spaces, in every order, with tables taken away from under frames.
fn mapping() -> Vec<Step> {
    use mapped::*;
    let here = place::CNODE;
    let mut steps = vec![
        root(Label::PageTableMap, TABLES, &[VM, 0, 3]),
        root(Label::PageTableMap, TABLES + 1, &[VM, 0, 2]),
        root(Label::PageTableMap, TABLES + 2, &[VM, 0, 1]),
        root(Label::PageTableMap, TABLES + 3, &[VM, 0, 1]),
        root(Label::PageTableMap, TABLES + 3, &[VM, 0, 2]),
        root(Label::PageTableMap, TABLES, &[place::VM, 0, 3]),
        root(Label::PageTableMap, TABLES + 1, &[place::VM, 0, 2]),
        root(Label::FrameMap, FRAME, &[VM, 0x1000, 3]),
        root(Label::FrameMap, FRAME, &[place::VM, 0x1000, 1]),
        root(Label::CNodeCopy, here, &[A, FRAME, 1]),
        root(Label::FrameMap, A, &[VM, 0x1000, 1]),
        root(Label::FrameMap, A, &[VM, 0x2000, 1]),
        root(Label::FrameUnmap, FRAME, &[]),
        root(Label::FrameUnmap, A, &[]),
        root(Label::CNodeMove, here, &[B, FRAME]),
        root(Label::CNodeDelete, here, &[FRAME]),
        root(Label::CNodeDelete, here, &[A]),
        root(Label::CNodeDelete, here, &[VM]),
    ];
    for table in TABLES..TABLES + 4 {
        steps.push(root(Label::PageTableUnmap, table, &[]));
    }
    steps.push(root(Label::CNodeDelete, here, &[TABLES + 1]));
    steps
}

/// Where [`processors`] starts: a second Vcpu of the root VM, and a route that it could take.
fn processors_start() -> Vec<Step> {
    vec![
        retype(place::CLEAN, ObjectType::Vcpu, 0, A, 1),
        root(Label::VcpuAttach, A, &[place::VM]),
        root(Label::IrqSplit, place::ROUTES, &[5, 1, place::CNODE, mapped::FRAME]),
    ]
}

/// Time of core 1 split, resized, bound, used up, given back; a Vcpu started, stopped, asleep, signalled, deleted.
fn processors() -> Vec<Step> {
    let here = place::CNODE;
    let core = place::CPU_TIME + 1;
    vec![
        root(Label::CpuTimeSplit, core, &[900, 1_000, here, B]),
        root(Label::CpuTimeSplit, core, &[300, 1_000, here, C]),
        root(Label::CpuTimeSplit, B, &[300, 1_000, here, C]),
        root(Label::CpuTimeResize, B, &[400, 1_000]),
        root(Label::CpuTimeResize, C, &[350, 2_000]),
        root(Label::CNodeDelete, here, &[B]),
        root(Label::CNodeDelete, here, &[C]),
        root(Label::CNodeRevoke, here, &[core]),
        root(Label::VcpuBindTime, A, &[B]),
        root(Label::VcpuBindTime, A, &[C]),
        root(Label::VcpuUnbindTime, A, &[]),
        root(Label::VcpuStart, A, &[]),
        root(Label::VcpuStop, A, &[]),
        root(Label::IrqBind, mapped::FRAME, &[A, 40]),
        root(Label::VcpuSignal, A, &[1]),
        by(1, Label::VcpuWait, A, &[3, 0]),
        by(1, Label::VcpuWait, A, &[3, 1_500]),
        root(Label::CNodeDelete, here, &[A]),
        Step::Decide(1),
        Step::Advance(700),
    ]
}
