//! The order in which a function's blocks are executed, and its loops.
//!
//! Blocks are taken in an order in which each comes after all that lead to it, but for the edges that close a loop. A block
//! from which nothing leads back to the caller, as it ends in a panic, is *dead*.

use crate::ir::{End, Function};
use anyhow::{Result, bail};
use rustc_hash::FxHashSet;

/// How control flows in a function.
#[derive(Clone, Debug)]
pub struct Flow {
    /// All blocks that can be reached, each after those that lead to it.
    pub order: Vec<usize>,
    /// By block: nothing leads from here back to the caller.
    pub dead: Vec<bool>,
    /// By block: the blocks of the loop that begins here, if one does.
    pub loops: Vec<Option<FxHashSet<usize>>>,
    /// By block: the block before it after which control always comes by here, once: they have one guard.
    pub same: Vec<Option<usize>>,
}

impl Flow {
    /// Finds out how control flows.
    ///
    /// # Errors
    /// A loop that is entered in two places.
    pub fn of(function: &Function) -> Result<Flow> {
        let count = function.blocks.len();
        let successors: Vec<Vec<usize>> = function.blocks.iter().map(|block| block.successors()).collect();
        let mut predecessors = vec![Vec::new(); count];
        for (from, all) in successors.iter().enumerate() {
            for to in all {
                predecessors[*to].push(from);
            }
        }

        // Depth first; what is finished last comes first.
        let mut order = Vec::new();
        let mut state = vec![0u8; count];
        let mut stack = vec![(0usize, 0usize)];
        let mut back = Vec::new();
        state[0] = 1;
        while let Some((block, at)) = stack.pop() {
            match successors[block].get(at) {
                Some(&to) => {
                    stack.push((block, at + 1));
                    match state[to] {
                        0 => {
                            state[to] = 1;
                            stack.push((to, 0));
                        }
                        1 => back.push((block, to)),
                        _ => {}
                    }
                }
                None => {
                    state[block] = 2;
                    order.push(block);
                }
            }
        }
        order.reverse();

        let mut dead = vec![true; count];
        let mut open: Vec<usize> =
            (0..count).filter(|block| matches!(function.blocks[*block].end, End::Return(_))).collect();
        while let Some(block) = open.pop() {
            if std::mem::replace(&mut dead[block], false) {
                open.extend(&predecessors[block]);
            }
        }

        let mut loops: Vec<Option<FxHashSet<usize>>> = vec![None; count];
        for (from, header) in back {
            let body = loops[header].get_or_insert_with(|| FxHashSet::from_iter([header]));
            let mut open = vec![from];
            while let Some(block) = open.pop() {
                if body.insert(block) {
                    if block == 0 {
                        bail!("a loop of {} is entered in two places", function.name);
                    }
                    open.extend(&predecessors[block]);
                }
            }
        }
        let same = always(&order, &successors, &predecessors, &dead, &loops);
        Ok(Flow { order, dead, loops, same })
    }
}

/// Blocks that always follow another: the nearest block that dominates, where it is postdominated in turn and lies in the
/// same loops. Dead blocks count as if they were not there.
fn always(
    order: &[usize],
    successors: &[Vec<usize>],
    predecessors: &[Vec<usize>],
    dead: &[bool],
    loops: &[Option<FxHashSet<usize>>],
) -> Vec<Option<usize>> {
    let count = successors.len();
    let mut place = vec![usize::MAX; count];
    let alive: Vec<usize> = order.iter().copied().filter(|block| !dead[*block]).collect();
    for (at, block) in alive.iter().enumerate() {
        place[*block] = at;
    }
    let above = dominators(alive.len(), |at| {
        predecessors[alive[at]].iter().map(|block| place[*block]).filter(|at| *at != usize::MAX).collect()
    });
    // Backwards, from one end that all returns lead to.
    let end = alive.len();
    let below = dominators(end + 1, |at| {
        if at == 0 {
            return Vec::new();
        }
        let block = alive[end - at];
        let next: Vec<usize> = successors[block]
            .iter()
            .map(|block| place[*block])
            .filter(|at| *at != usize::MAX)
            .map(|at| end - at)
            .collect();
        if next.is_empty() { vec![0] } else { next }
    });
    let mut same = vec![None; count];
    for (at, &block) in alive.iter().enumerate().skip(1) {
        let Some(dominator) = above[at] else { continue };
        let from = alive[dominator];
        // Every way on from there comes by here.
        let mut walk = Some(end - dominator);
        while let Some(step) = walk {
            if step == end - at {
                break;
            }
            walk = if step == 0 { None } else { below[step] };
        }
        let inside = |block: usize, body: &FxHashSet<usize>| body.contains(&block);
        let in_same_loops = loops.iter().flatten().all(|body| inside(block, body) == inside(from, body));
        if walk.is_some() && in_same_loops && loops[block].is_none() {
            same[block] = Some(from);
        }
    }
    same
}

/// The nearest dominator of each node; node 0 is the root, and nodes are numbered so that most edges lead upwards (Cooper,
/// Harvey, Kennedy: A Simple, Fast Dominance Algorithm).
fn dominators(count: usize, predecessors: impl Fn(usize) -> Vec<usize>) -> Vec<Option<usize>> {
    let mut nearest: Vec<Option<usize>> = vec![None; count];
    if count == 0 {
        return nearest;
    }
    nearest[0] = Some(0);
    let mut changed = true;
    while changed {
        changed = false;
        for node in 1..count {
            let mut new: Option<usize> = None;
            for before in predecessors(node) {
                if nearest[before].is_none() {
                    continue;
                }
                new = Some(match new {
                    None => before,
                    Some(other) => {
                        let (mut a, mut b) = (before, other);
                        while a != b {
                            while a > b {
                                a = nearest[a].unwrap_or(0);
                            }
                            while b > a {
                                b = nearest[b].unwrap_or(0);
                            }
                        }
                        a
                    }
                });
            }
            if nearest[node] != new {
                nearest[node] = new;
                changed = true;
            }
        }
    }
    nearest[0] = None;
    nearest
}
