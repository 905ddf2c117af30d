//! Sequences of steps: as data, as text that can be replayed, and as the scripts from which tests start.

use std::fmt;
use std::str::FromStr;

use cap_spec::abi::{Label, ObjectType, Rights};
use cap_spec::machine::Call;

use crate::random::Random;
use crate::system::place;

/// Something that happens to both machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Who runs on this core invokes. If it idles, nothing happens.
    Invoke(u8, Call),
    /// Time passes, and every core decides who runs.
    Advance(u64),
    /// A core decides who runs, as after a kick.
    Decide(u8),
    /// The next read of a port will give this.
    Input(u32),
    /// The root VM starts again.
    Restart,
    /// The IOMMU stops this function, or none of those handed out, from what these words tell.
    Fault(u16, [u64; 2]),
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Invoke(core, Call { cptr, label, args }) => {
                write!(out, "invoke {core} {label} {cptr:#x}")?;
                for arg in args {
                    write!(out, " {arg:#x}")?;
                }
                if let Some(label) = Label::from_number(*label) {
                    write!(out, " # {label:?}")?;
                }
                Ok(())
            }
            Step::Advance(ticks) => write!(out, "advance {ticks}"),
            Step::Decide(core) => write!(out, "decide {core}"),
            Step::Input(value) => write!(out, "input {value:#x}"),
            Step::Restart => write!(out, "restart"),
            Step::Fault(function, [what, who]) => write!(out, "fault {function} {what:#x} {who:#x}"),
        }
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(line: &str) -> Result<Step, String> {
        let text = line.split('#').next().unwrap_or(line);
        let mut words = text.split_whitespace();
        let kind = words.next().ok_or("an empty line")?;
        let numbers: Vec<u64> = words
            .map(|word| match word.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16),
                None => word.parse(),
            })
            .collect::<Result<_, _>>()
            .map_err(|error| format!("{line}: {error}"))?;
        match (kind, numbers.as_slice()) {
            ("invoke", &[core, label, cptr, a, b, c, d, e]) => {
                Ok(Step::Invoke(core as u8, Call { cptr, label, args: [a, b, c, d, e] }))
            }
            ("advance", &[ticks]) => Ok(Step::Advance(ticks)),
            ("decide", &[core]) => Ok(Step::Decide(core as u8)),
            ("restart", &[]) => Ok(Step::Restart),
            ("fault", &[function, what, who]) => Ok(Step::Fault(function as u16, [what, who])),
            ("input", &[value]) => Ok(Step::Input(value as u32)),
            _ => Err(format!("{line}: not a step")),
        }
    }
}

/// The steps of a text: one a line, `#` begins a comment.
///
/// # Errors
/// The first line that is no step.
pub fn parse(text: &str) -> Result<Vec<Step>, String> {
    text.lines().filter(|line| !line.split('#').next().unwrap_or(line).trim().is_empty()).map(str::parse).collect()
}

/// The steps as text.
pub fn print(steps: &[Step]) -> String {
    steps.iter().map(|step| format!("{step}\n")).collect()
}

/// An invocation by the root VM.
pub fn root(label: Label, cptr: u64, args: &[u64]) -> Step {
    by(0, label, cptr, args)
}

/// An invocation by who runs on a core.
pub fn by(core: u8, label: Label, cptr: u64, args: &[u64]) -> Step {
    let mut all = [0; 5];
    all[..args.len()].copy_from_slice(args);
    Step::Invoke(core, Call { cptr, label: label as u64, args: all })
}

/// Retype by the root VM into its own CNode.
pub fn retype(untyped: u64, object: ObjectType, size_bits: u64, index: u64, count: u64) -> Step {
    root(Label::UntypedRetype, untyped, &[object as u64, size_bits, place::CNODE, index, count])
}

/// Slots of the root VM in which [`build_tenant`] puts what it makes.
pub mod tenant {
    /// The base Untyped, 128 KiB.
    pub const BASE: u64 = 32;
    /// The root CNode, 64 slots.
    pub const CNODE: u64 = 33;
    /// The Vm.
    pub const VM: u64 = 34;
    /// The Vcpu.
    pub const VCPU: u64 = 35;
    /// Page tables of level 3, 2 and 1.
    pub const TABLES: [u64; 3] = [36, 37, 38];
    /// Two frames of 4 KiB.
    pub const FRAMES: [u64; 2] = [39, 40];
    /// CPU time.
    pub const TIME: u64 = 41;
    /// A channel, from the root VM's memory.
    pub const CHANNEL: u64 = 42;
    /// A copy of it for the tenant: end 2.
    pub const CHANNEL_END: u64 = 43;
    /// A frame of the root VM.
    pub const FOREIGN: u64 = 44;
}

/// Makes a tenant out of the root VM's clean Untyped: configured, with time of this core, its capabilities still in the
/// root CNode.
pub fn build_tenant(core: u8) -> Vec<Step> {
    use tenant::*;
    let time = place::CPU_TIME + u64::from(core);
    vec![
        retype(place::CLEAN, ObjectType::Untyped, 17, BASE, 1),
        retype(BASE, ObjectType::CNode, 6, CNODE, 1),
        retype(BASE, ObjectType::Vm, 0, VM, 1),
        retype(BASE, ObjectType::Vcpu, 0, VCPU, 1),
        retype(BASE, ObjectType::PageTable, 0, TABLES[0], 3),
        retype(BASE, ObjectType::Frame, 12, FRAMES[0], 2),
        retype(place::CLEAN, ObjectType::Channel, 0, CHANNEL, 1),
        retype(place::CLEAN, ObjectType::Frame, 12, FOREIGN, 1),
        root(Label::VmSetCSpace, VM, &[CNODE]),
        root(Label::VcpuAttach, VCPU, &[VM]),
        root(Label::CpuTimeSplit, time, &[4_000, 10_000, place::CNODE, TIME]),
        root(Label::VcpuBindTime, VCPU, &[TIME]),
        root(Label::PageTableMap, TABLES[0], &[VM, 0, 3]),
        root(Label::PageTableMap, TABLES[1], &[VM, 0, 2]),
        root(Label::PageTableMap, TABLES[2], &[VM, 0, 1]),
        root(Label::FrameMap, FRAMES[0], &[VM, 0x1000, 7]),
        root(Label::FrameMap, FRAMES[1], &[VM, 0x2000, 3]),
        root(Label::ChannelBind, CHANNEL, &[place::VCPU, 1]),
        root(Label::CNodeMint, place::CNODE, &[CHANNEL_END, CHANNEL, Rights::all().bits().into(), 2]),
        root(Label::ChannelBind, CHANNEL_END, &[VCPU, 2]),
        root(Label::VcpuSetHandler, VCPU, &[CHANNEL_END]),
    ]
}

/// CNodes and the Untypeds that they were made of, moved into each other at random: circles of every kind.
pub fn knot(random: &mut Random) -> Vec<Step> {
    // Untypeds in 20 to 22, each inside the one before; CNodes from 23 on, a Channel, and ways to the CNodes from 40 on.
    const CNODES: [u64; 4] = [23, 24, 25, 26];
    const WAYS: u64 = 40;
    let mut steps = vec![
        retype(place::CLEAN, ObjectType::Untyped, 17, 20, 1),
        retype(20, ObjectType::Untyped, 16, 21, 1),
        retype(21, ObjectType::Untyped, 16, 22, 1),
        retype(22, ObjectType::CNode, 6, CNODES[0], 2),
        retype(20, ObjectType::CNode, 6, CNODES[2], 1),
        retype(place::CLEAN, ObjectType::CNode, 6, CNODES[3], 1),
        retype(22, ObjectType::Channel, 0, 27, 1),
    ];
    for (way, cnode) in (WAYS..).zip(CNODES) {
        steps.push(root(Label::CNodeCopy, place::CNODE, &[way, cnode, Rights::all().bits().into()]));
    }
    for _ in 0..12 {
        let way = WAYS + random.below(CNODES.len()) as u64;
        let source = match random.below(4) {
            0 => (WAYS + random.below(CNODES.len()) as u64) << 16 | (1 + random.below(4) as u64),
            _ => 20 + random.below(8) as u64,
        };
        steps.push(match random.below(8) {
            0 => root(Label::ChannelGrant, 27, &[source, Rights::all().bits().into(), 1]),
            _ => root(Label::CNodeMove, way, &[1 + random.below(4) as u64, source]),
        });
    }
    let way = WAYS + random.below(CNODES.len()) as u64;
    let index = 1 + random.below(4) as u64;
    steps.push(match random.below(4) {
        0 => root(Label::CNodeRevoke, place::CNODE, &[20 + random.below(3) as u64]),
        1 => root(Label::CNodeRevoke, way, &[index]),
        2 => root(Label::CNodeDelete, place::CNODE, &[20 + random.below(8) as u64]),
        _ => root(Label::CNodeDelete, way, &[index]),
    });
    steps
}

/// What a launcher might do between [`build_tenant`] and [`hand_over`], to keep something of the tenant's: after each of
/// these the launch is refused. Slots from 50 on of the root CNode are used.
pub fn threats() -> Vec<Vec<Step>> {
    use tenant::*;
    let copy = |from| vec![root(Label::CNodeCopy, place::CNODE, &[50, from, Rights::all().bits().into()])];
    vec![
        // A second capability to the VM, to a frame, to the Vcpu, or a way to them stays outside.
        copy(VM),
        copy(FRAMES[0]),
        copy(VCPU),
        copy(CNODE),
        // An object made of the base stays outside.
        vec![retype(BASE, ObjectType::Frame, 12, 50, 1)],
        // Writable or executable memory of others, a table of others, a processor of others is part of the VM.
        vec![root(Label::FrameMap, FOREIGN, &[VM, 0x3000, 3])],
        vec![root(Label::FrameMap, FOREIGN, &[VM, 0x3000, 5])],
        vec![retype(place::CLEAN, ObjectType::PageTable, 0, 50, 1), root(Label::PageTableMap, 50, &[VM, 0x20_0000, 1])],
        vec![retype(place::CLEAN, ObjectType::Vcpu, 0, 50, 1), root(Label::VcpuAttach, 50, &[VM])],
        // The page that says what the Vcpu does while it runs stays outside.
        vec![
            root(Label::VcpuGetPage, VCPU, &[0, place::CNODE, 50]),
            root(Label::CNodeMint, place::CNODE, &[51, 50, Rights::READ.bits().into()]),
            root(Label::CNodeMove, CNODE, &[60, 50]),
        ],
        // A frame of the base is mapped in another VM, by the capability that is handed over.
        vec![
            root(Label::FrameUnmap, FRAMES[0], &[]),
            retype(place::CLEAN, ObjectType::Vm, 0, 50, 1),
            retype(place::CLEAN, ObjectType::PageTable, 0, 51, 3),
            root(Label::PageTableMap, 51, &[50, 0, 3]),
            root(Label::PageTableMap, 52, &[50, 0, 2]),
            root(Label::PageTableMap, 53, &[50, 0, 1]),
            root(Label::FrameMap, FRAMES[0], &[50, 0x1000, 1]),
        ],
    ]
}

/// Moves everything of the tenant's into its CSpace; its own CNode last.
pub fn hand_over() -> Vec<Step> {
    use cap_spec::abi::slots;
    use tenant::*;
    let moved = [
        (slots::BASE, BASE),
        (slots::VM, VM),
        (slots::MARKET, CHANNEL_END),
        (10, TABLES[0]),
        (11, TABLES[1]),
        (12, TABLES[2]),
        (13, FRAMES[0]),
        (14, FRAMES[1]),
        (slots::CNODE, CNODE),
    ];
    moved.map(|(index, source)| root(Label::CNodeMove, CNODE, &[index.into(), source])).to_vec()
}

/// Starts the tenant that was handed over.
pub fn launch() -> [Step; 2] {
    use cap_spec::abi::slots;
    [root(Label::VcpuLaunch, tenant::VCPU, &[slots::BASE.into(), slots::VCPU.into()]), Step::Decide(1)]
}

/// A tenant that may run on this core.
pub fn launched_tenant(core: u8) -> Vec<Step> {
    let mut steps = build_tenant(core);
    steps.extend(hand_over());
    steps.extend(launch());
    steps
}
