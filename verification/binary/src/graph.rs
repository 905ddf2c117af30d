//! Calls between functions, and what each needs of the stack.

use crate::image::{Function, Image};
use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of a function.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Functions that it calls or jumps to.
    pub callees: BTreeSet<usize>,
    /// Calls whose target is not known: their addresses.
    pub unknown: Vec<u64>,
    /// Places in the source that it hands to who panics.
    pub locations: BTreeSet<String>,
    /// Bytes of stack that it takes, the return address included.
    pub frame: u64,
    /// It changes the stack pointer by an amount that is not known.
    pub is_dynamic: bool,
}

/// The whole program.
#[derive(Debug)]
pub struct Graph {
    /// One node a function, in the image's order.
    pub nodes: Vec<Node>,
}

impl Graph {
    /// Reads the calls of every function.
    pub fn of(image: &Image) -> Graph {
        Graph { nodes: image.functions.iter().map(|function| node(image, function)).collect() }
    }

    /// What can be reached from here without going on from any of `ends`, which are reached themselves.
    pub fn reachable(&self, root: usize, ends: &BTreeSet<usize>) -> BTreeSet<usize> {
        let mut found = BTreeSet::from([root]);
        let mut open = vec![root];
        while let Some(at) = open.pop() {
            if ends.contains(&at) {
                continue;
            }
            open.extend(self.nodes[at].callees.iter().filter(|callee| found.insert(**callee)));
        }
        found
    }

    /// A circle of calls among these functions, if there is one.
    pub fn circle(&self, among: &BTreeSet<usize>) -> Option<Vec<usize>> {
        let mut done = BTreeSet::new();
        for &root in among {
            let mut path: Vec<(usize, Vec<usize>)> = vec![(root, self.next(root, among))];
            while let Some((at, rest)) = path.last_mut() {
                let (at, next) = (*at, rest.pop());
                match next {
                    Some(next) if path.iter().any(|(on_path, _)| *on_path == next) => {
                        let circle = path.iter().map(|(on_path, _)| *on_path);
                        return Some(circle.skip_while(|on_path| *on_path != next).chain([next]).collect());
                    }
                    Some(next) if !done.contains(&next) => path.push((next, self.next(next, among))),
                    Some(_) => {}
                    None => {
                        done.insert(at);
                        path.pop();
                    }
                }
            }
        }
        None
    }

    fn next(&self, at: usize, among: &BTreeSet<usize>) -> Vec<usize> {
        // A jump back to a function's own beginning is a loop.
        self.nodes[at].callees.iter().copied().filter(|callee| *callee != at && among.contains(callee)).collect()
    }

    /// The deepest stack from here among these functions, which have no circle: bytes, and the way there.
    pub fn deepest(&self, root: usize, among: &BTreeSet<usize>) -> (u64, Vec<usize>) {
        fn from(graph: &Graph, at: usize, among: &BTreeSet<usize>, known: &mut BTreeMap<usize, (u64, Vec<usize>)>) {
            if known.contains_key(&at) {
                return;
            }
            let mut best = (0, Vec::new());
            for next in graph.next(at, among) {
                from(graph, next, among, known);
                if known[&next].0 > best.0 {
                    best = known[&next].clone();
                }
            }
            best.1.insert(0, at);
            known.insert(at, (best.0 + graph.nodes[at].frame, best.1));
        }
        let mut known = BTreeMap::new();
        from(self, root, among, &mut known);
        known.remove(&root).unwrap_or_default()
    }
}

fn node(image: &Image, function: &Function) -> Node {
    let bytes = image.bytes(function.start, (function.end - function.start) as usize).unwrap_or_default();
    let instructions: Vec<Instruction> =
        Decoder::with_ip(64, bytes, function.start, DecoderOptions::NONE).into_iter().collect();
    // The return address.
    let mut node = Node { frame: 8, ..Node::default() };
    let loaded = loaded(image, &instructions);
    let mut info = InstructionInfoFactory::new();
    let mut has_jump_table = false;
    for instruction in &instructions {
        has_jump_table |= instruction.mnemonic() == Mnemonic::Movsxd;
        stack(&mut node, instruction, &mut info);
        if instruction.mnemonic() == Mnemonic::Lea && instruction.is_ip_rel_memory_operand() {
            node.locations.extend(image.location(instruction.ip_rel_memory_address()));
        }
        let targets: Vec<u64> = match instruction.flow_control() {
            // The guest runs, and comes back behind it.
            _ if instruction.mnemonic() == Mnemonic::Vmrun => continue,
            FlowControl::Call | FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                vec![instruction.near_branch_target()]
            }
            FlowControl::IndirectCall | FlowControl::IndirectBranch => match through(image, instruction, &loaded) {
                Some(targets) => targets,
                // A `match` jumps by a table of offsets within the function.
                None if instruction.flow_control() == FlowControl::IndirectBranch && has_jump_table => continue,
                None => {
                    node.unknown.push(instruction.ip());
                    continue;
                }
            },
            _ => continue,
        };
        for target in targets {
            let own = target > function.start && target < function.end;
            let again = target == function.start && instruction.flow_control() != FlowControl::Call;
            match image.function_at(target) {
                Some(callee) if !own && !again => {
                    node.callees.insert(callee);
                }
                Some(_) => {}
                None => node.unknown.push(instruction.ip()),
            }
        }
    }
    node
}

/// For each register that is loaded with the address of a function, and is loaded with nothing else that is called: the
/// functions. The linker's table of addresses, which is read-only, is where the compiler's own functions are called through.
fn loaded(image: &Image, instructions: &[Instruction]) -> BTreeMap<Register, Vec<u64>> {
    let mut loaded: BTreeMap<Register, Vec<u64>> = BTreeMap::new();
    for instruction in instructions {
        if instruction.code() == Code::Mov_r64_rm64
            && instruction.op1_kind() == OpKind::Memory
            && instruction.is_ip_rel_memory_operand()
            && let Some(target) = image.word(instruction.ip_rel_memory_address())
            && image.functions.iter().any(|function| function.start == target)
        {
            loaded.entry(instruction.op0_register()).or_default().push(target);
        }
    }
    loaded
}

/// The targets of a call or jump through memory or a register, if they are known.
fn through(image: &Image, instruction: &Instruction, loaded: &BTreeMap<Register, Vec<u64>>) -> Option<Vec<u64>> {
    if instruction.op0_kind() == OpKind::Memory {
        let target =
            image.word(instruction.is_ip_rel_memory_operand().then(|| instruction.ip_rel_memory_address())?)?;
        return Some(vec![target]);
    }
    loaded.get(&instruction.op0_register()).cloned()
}

/// Adds what an instruction takes of the stack.
fn stack(node: &mut Node, instruction: &Instruction, info: &mut InstructionInfoFactory) {
    let changed = instruction.stack_pointer_increment();
    match instruction.mnemonic() {
        // Each counts, as if none of them were on different ways through the function.
        Mnemonic::Push | Mnemonic::Pushfq => node.frame += changed.unsigned_abs() as u64,
        Mnemonic::Sub if instruction.op0_register() == Register::RSP => match instruction.op1_kind() {
            OpKind::Register | OpKind::Memory => node.is_dynamic = true,
            _ => node.frame += instruction.immediate(1),
        },
        // Alignment.
        Mnemonic::And if instruction.op0_register() == Register::RSP => node.frame += !instruction.immediate(1) + 1,
        Mnemonic::Add if instruction.op0_register() == Register::RSP && instruction.op1_kind() != OpKind::Register => {
            let added = instruction.immediate(1) as i64;
            node.frame += u64::try_from(-added).unwrap_or(0);
        }
        Mnemonic::Lea if instruction.op0_register() == Register::RSP => {
            let down = -(instruction.memory_displacement64() as i64);
            node.frame += u64::try_from(down).unwrap_or(0);
        }
        Mnemonic::Mov if instruction.op0_register() == Register::RSP => {
            // From the frame pointer: what was taken is given back.
            node.is_dynamic |= instruction.op1_register() != Register::RBP;
        }
        Mnemonic::Add
        | Mnemonic::Pop
        | Mnemonic::Popfq
        | Mnemonic::Call
        | Mnemonic::Ret
        | Mnemonic::Leave
        | Mnemonic::Iretq => {}
        _ => {
            let used = info.info(instruction);
            let writes = |access| {
                matches!(access, OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite)
            };
            let moves =
                used.used_registers().iter().any(|used| used.register() == Register::RSP && writes(used.access()));
            node.is_dynamic |= moves;
        }
    }
}
