//! Guarded execution: a program is followed once, along all of its paths at the same time.
//!
//! Every block has a *guard*, the condition under which control comes by; values that meet are chosen by the guards of where
//! they come from; a store takes place under its guard. Loops are unrolled. What must not happen (a panic, an access outside of memory, an
//! overflow where the compiler relies on none, a loop that goes on beyond its bound) becomes an *obligation*: a
//! condition that has to be shown impossible. Behind a place where an obligation arises, execution goes on as if it held:
//! the first one that does not is found all the same.

mod calls;
mod flow;
mod memory;
mod values;

pub use memory::{Place, Pointer};

use crate::ir::{Action, End, Function, Module, Operand, Type};
use crate::term::{Binary, Node, Pool, Term};
use anyhow::{Context, Result, anyhow, bail};
use flow::Flow;
use rustc_hash::FxHashMap;
use std::rc::Rc;

/// What a value of the program is.
#[derive(Clone, Debug)]
pub enum Value {
    /// A number.
    Number(Term),
    /// A pointer.
    Pointer(Pointer),
    /// Several.
    Aggregate(Vec<Value>),
    /// Any; what is made of it is any, too.
    Unknown,
}

/// Something that must not happen.
#[derive(Clone, Debug)]
pub struct Obligation {
    /// When it does.
    pub condition: Term,
    /// What.
    pub what: String,
    /// How many assumptions had been made.
    pub assumed: usize,
}

/// Something that the program asserts.
#[derive(Clone, Debug)]
pub struct Assertion {
    /// Its number.
    pub number: u32,
    /// When control comes by.
    pub reached: Term,
    /// When it is wrong.
    pub fails: Term,
    /// How many assumptions had been made.
    pub assumed: usize,
}

/// Runs a program.
pub struct Machine<'a> {
    module: &'a Module,
    /// All terms.
    pub pool: Pool,
    objects: Vec<memory::Object>,
    constants: FxHashMap<String, usize>,
    flows: FxHashMap<String, Rc<Flow>>,
    inputs: FxHashMap<u64, Term>,
    /// What comparisons have said of terms: they are below. A hint where to look, see [`Machine::learn`].
    bounds: FxHashMap<Term, u64>,
    /// What the program assumes.
    pub assumptions: Vec<Term>,
    /// When control comes by each of these.
    pub reached: Vec<Term>,
    /// What must not happen.
    pub obligations: Vec<Obligation>,
    /// What it asserts.
    pub assertions: Vec<Assertion>,
    /// What it tells: number, condition, value.
    pub observed: Vec<(u32, Term, Term)>,
    /// How often a loop that does not end by its numbers goes round.
    pub unwind: usize,
    unknowns: usize,
    calls: Vec<String>,
}

/// An edge by which control has come to a block, with what it brings along.
#[derive(Clone, Debug)]
struct Edge {
    guard: Term,
    /// Values of the block's phis, in their order.
    brings: Vec<Value>,
}

/// A call under way.
struct Frame<'f> {
    function: &'f Function,
    flow: Rc<Flow>,
    values: Vec<Option<Value>>,
    incoming: FxHashMap<usize, Vec<Edge>>,
    returns: Vec<(Term, Option<Value>)>,
    /// The guard of each block when control came by last.
    guards: Vec<Option<Term>>,
}

/// How deep calls may nest: the library has no recursion.
const MAX_CALLS: usize = 64;

impl<'a> Machine<'a> {
    /// Ready to run programs of a module.
    pub fn new(module: &'a Module, unwind: usize) -> Machine<'a> {
        let mut machine = Machine {
            module,
            pool: Pool::new(),
            objects: Vec::new(),
            constants: FxHashMap::default(),
            flows: FxHashMap::default(),
            inputs: FxHashMap::default(),
            bounds: FxHashMap::default(),
            assumptions: Vec::new(),
            reached: Vec::new(),
            obligations: Vec::new(),
            assertions: Vec::new(),
            observed: Vec::new(),
            unwind,
            unknowns: 0,
            calls: Vec::new(),
        };
        // No object: the null pointer's.
        machine.new_object(0, "null".into());
        machine
    }

    /// The inputs that were asked for, by number.
    pub fn inputs(&self) -> impl Iterator<Item = (u64, Term)> + '_ {
        self.inputs.iter().map(|(number, term)| (*number, *term))
    }

    /// A term of which nothing is known.
    fn unknown(&mut self, width: u32) -> Term {
        self.unknowns += 1;
        let name = format!("any{}", self.unknowns);
        self.pool.variable(width, name)
    }

    /// Notes that something must not happen.
    fn oblige(&mut self, condition: Term, what: String) {
        if !self.pool.is_false(condition) {
            let what = format!("{what}, in {}", self.calls.last().map_or("", |name| name));
            self.obligations.push(Obligation { condition, what, assumed: self.assumptions.len() });
        }
    }

    /// Runs a program.
    ///
    /// # Errors
    /// What is not understood.
    pub fn run(&mut self, program: &str) -> Result<()> {
        let guard = self.pool.truth(true);
        self.call(program, Vec::new(), guard).map(drop)
    }

    /// Calls a function of the module. `None` for what never comes back.
    fn call(&mut self, name: &str, arguments: Vec<Value>, guard: Term) -> Result<Option<Value>> {
        let module = self.module;
        let Some(function) = module.functions.get(name) else {
            match module.unread.get(name) {
                Some(reason) => bail!("{name} is reached, and was not understood: {reason}"),
                None => bail!("{name} is reached, and has no body (called by {})", self.calls.join(" > ")),
            }
        };
        if self.calls.len() >= MAX_CALLS {
            bail!("calls nest too deep: {}", self.calls.join(" > "));
        }
        let flow = match self.flows.get(name) {
            Some(flow) => flow.clone(),
            None => {
                let flow = Rc::new(Flow::of(function)?);
                self.flows.insert(name.into(), flow.clone());
                flow
            }
        };
        self.calls.push(short(name));
        if flow.dead[0] {
            self.oblige(guard, "a panic".into());
            self.calls.pop();
            return Ok(None);
        }
        let mut frame = Frame {
            function,
            flow: flow.clone(),
            values: vec![None; function.values],
            incoming: FxHashMap::default(),
            returns: Vec::new(),
            guards: vec![None; function.blocks.len()],
        };
        for ((_, local), value) in function.parameters.iter().zip(arguments) {
            frame.values[*local] = Some(value);
        }
        frame.incoming.insert(0, vec![Edge { guard, brings: Vec::new() }]);
        self.blocks(&mut frame, &flow.order, None).with_context(|| format!("in {}", short(name)))?;
        self.calls.pop();
        let mut returns = frame.returns.into_iter().rev();
        let Some((_, mut result)) = returns.next() else { return Ok(None) };
        for (condition, value) in returns {
            let condition = self.relative(condition, guard);
            result = match (value, result) {
                (Some(a), Some(b)) => Some(self.choose(condition, &a, &b)?),
                _ => None,
            };
        }
        Ok(Some(result.unwrap_or(Value::Unknown)))
    }

    /// A condition that is only looked at where `guard` holds, without what `guard` says already.
    fn relative(&mut self, condition: Term, guard: Term) -> Term {
        let mut rest = Vec::new();
        let mut left = condition;
        // Guards are rows of conditions, each with those before it on the left.
        for _ in 0..64 {
            if left == guard {
                return self.pool.all(rest.into_iter().rev());
            }
            match *self.pool.node(left) {
                Node::Binary(Binary::And, a, b) if b == guard => {
                    rest.push(a);
                    return self.pool.all(rest.into_iter().rev());
                }
                Node::Binary(Binary::And, a, b) => {
                    rest.push(b);
                    left = a;
                }
                _ => break,
            }
        }
        condition
    }

    /// Executes blocks in their order; those of inner loops by [`Machine::unroll`]. `header`: of the loop that these are.
    fn blocks(&mut self, frame: &mut Frame, order: &[usize], header: Option<usize>) -> Result<()> {
        let flow = frame.flow.clone();
        let mut done: Vec<bool> = vec![false; frame.function.blocks.len()];
        for &block in order {
            if done[block] {
                continue;
            }
            match &flow.loops[block] {
                Some(body) if header != Some(block) => {
                    for inner in body {
                        done[*inner] = true;
                    }
                    let inner: Vec<usize> = order.iter().copied().filter(|block| body.contains(block)).collect();
                    self.unroll(frame, block, &inner)?;
                }
                _ => {
                    if let Some(edges) = frame.incoming.remove(&block) {
                        self.block(frame, block, edges)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Executes a loop: again and again, while its header is reached.
    fn unroll(&mut self, frame: &mut Frame, header: usize, body: &[usize]) -> Result<()> {
        let function = frame.function;
        let made: Vec<usize> = body
            .iter()
            .flat_map(|block| function.blocks[*block].instructions.iter().filter_map(|instruction| instruction.result))
            .collect();
        // What the rounds so far have left, for who uses it behind the loop: of the round that was entered last.
        let mut left: Vec<Option<Value>> = vec![None; made.len()];
        let mut rounds = 0;
        let (mut before, mut choices) = (None, 0);
        while let Some(edges) = frame.incoming.get(&header) {
            let entered: Vec<Term> = edges.iter().map(|edge| edge.guard).collect();
            let entered = self.pool.any(entered);
            if self.pool.is_false(entered) {
                frame.incoming.remove(&header);
                break;
            }
            // A round that is entered whenever the one before was is one that the numbers ask for.
            if before != Some(entered) {
                choices += 1;
            }
            before = Some(entered);
            if choices > self.unwind + 1 {
                frame.incoming.remove(&header);
                self.oblige(entered, format!("a loop that goes on after {rounds} rounds"));
                break;
            }
            if rounds > 100_000 {
                bail!("a loop without an end");
            }
            for &value in &made {
                frame.values[value] = None;
            }
            self.blocks(frame, body, Some(header))?;
            for (kept, &value) in left.iter_mut().zip(&made) {
                let new = frame.values[value].clone();
                *kept = match (new, kept.take()) {
                    (Some(new), Some(old)) => Some(self.choose(entered, &new, &old).unwrap_or(Value::Unknown)),
                    (new, old) => new.or(old),
                };
            }
            rounds += 1;
        }
        for (kept, value) in left.into_iter().zip(made) {
            frame.values[value] = kept;
        }
        Ok(())
    }

    /// Executes a block to which control has come by these edges.
    fn block(&mut self, frame: &mut Frame, block: usize, edges: Vec<Edge>) -> Result<()> {
        let edges: Vec<Edge> = edges.into_iter().filter(|edge| !self.pool.is_false(edge.guard)).collect();
        if edges.is_empty() {
            return Ok(());
        }
        let function = frame.function;
        let guard = match frame.flow.same[block].and_then(|other| frame.guards[other]) {
            Some(guard) => guard,
            None => {
                let guards: Vec<Term> = edges.iter().map(|edge| edge.guard).collect();
                self.pool.any(guards)
            }
        };
        frame.guards[block] = Some(guard);
        let code = &function.blocks[block];
        let mut phi = 0;
        for instruction in &code.instructions {
            if let Action::Phi(..) = instruction.action {
                let mut chosen = edges[edges.len() - 1].brings[phi].clone();
                for edge in edges.iter().rev().skip(1) {
                    let condition = self.relative(edge.guard, guard);
                    chosen = self.choose(condition, &edge.brings[phi], &chosen)?;
                }
                phi += 1;
                if let Some(result) = instruction.result {
                    frame.values[result] = Some(chosen);
                }
                continue;
            }
            let value = match self.execute(frame, &instruction.action, guard) {
                Ok(value) => value,
                Err(error) => return Err(error.context(format!("block {}", short(&code.name)))),
            };
            match value {
                Some(value) => {
                    if let Some(result) = instruction.result {
                        frame.values[result] = Some(value);
                    }
                }
                // It does not come back.
                None => return Ok(()),
            }
        }
        self.end(frame, block, guard)
    }

    /// Where control goes at the end of a block.
    fn end(&mut self, frame: &mut Frame, block: usize, guard: Term) -> Result<()> {
        let function = frame.function;
        match &function.blocks[block].end {
            End::Jump(to) => self.edge(frame, block, *to, guard),
            End::Branch(_, yes, no) if yes == no => self.edge(frame, block, *yes, guard),
            End::Branch(condition, yes, no) => {
                let holds = self.operand(frame, &Type::Int(1), condition)?;
                let holds = self.number(holds, 1)?;
                let fails = self.pool.not(holds);
                let (to_yes, to_no) = (self.pool.and(guard, holds), self.pool.and(guard, fails));
                match (frame.flow.dead[*yes], frame.flow.dead[*no]) {
                    (true, false) => {
                        self.dead(frame, *yes, to_yes);
                        let onwards = if self.pool.is_false(to_no) { to_no } else { guard };
                        self.edge(frame, block, *no, onwards)
                    }
                    (false, true) => {
                        self.dead(frame, *no, to_no);
                        let onwards = if self.pool.is_false(to_yes) { to_yes } else { guard };
                        self.edge(frame, block, *yes, onwards)
                    }
                    _ => {
                        self.edge(frame, block, *yes, to_yes)?;
                        self.edge(frame, block, *no, to_no)
                    }
                }
            }
            End::Switch(ty, value, default, cases) => {
                let Type::Int(width) = ty else { bail!("a switch by something that is no number") };
                let value = self.operand(frame, ty, value)?;
                let value = self.number(value, *width)?;
                let mut targets: Vec<(usize, Term)> = Vec::new();
                let mut some = self.pool.truth(false);
                for (case, to) in cases {
                    let case = self.pool.constant(*width, *case);
                    let is_it = self.pool.eq(value, case);
                    some = self.pool.or(some, is_it);
                    match targets.iter_mut().find(|(target, _)| target == to) {
                        Some((_, condition)) => *condition = self.pool.or(*condition, is_it),
                        None => targets.push((*to, is_it)),
                    }
                }
                let none = self.pool.not(some);
                match targets.iter_mut().find(|(target, _)| target == default) {
                    Some((_, condition)) => *condition = self.pool.or(*condition, none),
                    None => targets.push((*default, none)),
                }
                for (to, condition) in targets {
                    let condition = self.pool.and(guard, condition);
                    self.edge(frame, block, to, condition)?;
                }
                Ok(())
            }
            End::Return(value) => {
                let value = match value {
                    Some((ty, value)) => Some(self.operand(frame, ty, value)?),
                    None => None,
                };
                frame.returns.push((guard, value));
                Ok(())
            }
            End::Unreachable => {
                self.oblige(guard, "a place that is never reached".into());
                Ok(())
            }
        }
    }

    /// A block that ends in a panic is reached.
    fn dead(&mut self, frame: &Frame, block: usize, guard: Term) {
        let mut what = "a place that is never reached".to_string();
        for instruction in &frame.function.blocks[block].instructions {
            if let Action::Call(_, Operand::Global(name), arguments) = &instruction.action
                && name.contains("panic")
            {
                let at = arguments.last().and_then(|(_, argument)| self.location(argument)).unwrap_or_default();
                what = format!("{}{at}", short(name));
            }
        }
        self.oblige(guard, what);
    }

    /// Source file and line of a panic.
    fn location(&self, argument: &Operand) -> Option<String> {
        let Operand::Global(name) = argument else { return None };
        let Operand::Aggregate(parts) = &self.module.globals.get(name)?.content else { return None };
        let [(_, Operand::Global(file)), (_, Operand::Bytes(numbers))] = &parts[..] else { return None };
        let Operand::Bytes(file) = &self.module.globals.get(file)?.content else { return None };
        let line = numbers.get(8..12).map(|line| u32::from_le_bytes([line[0], line[1], line[2], line[3]]))?;
        Some(format!(" at {}:{line}", String::from_utf8_lossy(file).trim_end_matches('\0')))
    }

    /// Control goes from one block to another.
    fn edge(&mut self, frame: &mut Frame, from: usize, to: usize, guard: Term) -> Result<()> {
        if self.pool.is_false(guard) {
            return Ok(());
        }
        if frame.flow.dead[to] {
            self.dead(frame, to, guard);
            return Ok(());
        }
        let function = frame.function;
        let mut brings = Vec::new();
        for instruction in &function.blocks[to].instructions {
            let Action::Phi(ty, values) = &instruction.action else { break };
            let (value, _) = values
                .iter()
                .find(|(_, block)| *block == from)
                .ok_or_else(|| anyhow!("a phi without the block that control comes from"))?;
            brings.push(self.operand(frame, ty, value)?);
        }
        frame.incoming.entry(to).or_default().push(Edge { guard, brings });
        Ok(())
    }
}

/// A name without what the compiler adds to it.
pub fn short(name: &str) -> String {
    let name = name.strip_prefix("_ZN").unwrap_or(name);
    // What stands for signs, and the hash at the end.
    let mut text = name.replace("$LT$", "<").replace("$GT$", ">").replace("$u20$", " ").replace("..", "::");
    if let Some(at) = text.rfind("17h") {
        text.truncate(at);
    }
    match text.rfind("impl ") {
        Some(at) => text.split_off(at + 5),
        None => text,
    }
}
