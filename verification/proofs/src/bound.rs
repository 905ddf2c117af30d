//! The least bound of authority of a state: who may come to what, if everybody who can exchange capabilities does.

use crate::structure::Structure;
use crate::term::Sort;

/// Writes the least `may` and `flow` that are closed and that the state keeps to.
pub fn close(structure: &mut Structure) {
    let objects = structure.size(Sort::Object);
    let (slots, all) = (structure.size(Sort::Slot), crate::structure::Set::first(structure.size(Sort::Part)));
    // Who exchanges capabilities with whom: the first of each group stands for it.
    let mut group: Vec<usize> = (0..objects).collect();
    let mut may = vec![crate::structure::Set::default(); objects];
    for slot in 0..slots {
        for object in structure.tables["within"].after(slot).iter() {
            may[object] = may[object].or(structure.tables["spans"].after(slot));
        }
        for object in structure.tables["mapped"].after(slot).iter() {
            may[object] = may[object].or(structure.tables["covers"].after(slot));
        }
    }
    let join = |group: &mut Vec<usize>, may: &mut Vec<crate::structure::Set>, one: usize, other: usize| {
        let (one, other) = (group[one], group[other]);
        if one != other {
            group.iter_mut().filter(|of| **of == other).for_each(|of| *of = one);
            may[one] = may[one].or(may[other]);
        }
        one != other
    };
    for relation in ["cspace", "runsin", "dma"] {
        for one in 0..objects {
            for other in structure.tables[relation].after(one).iter() {
                join(&mut group, &mut may, one, other);
            }
        }
    }
    loop {
        let mut is_closed = true;
        for one in 0..objects {
            for other in 0..objects {
                let seat = structure.tables["seat"].after(other);
                if !may[group[one]].and(all).and(seat).is_empty() && join(&mut group, &mut may, one, other) {
                    is_closed = false;
                }
            }
        }
        if is_closed {
            break;
        }
    }
    for one in 0..objects {
        for part in may[group[one]].iter() {
            insert(structure, "may", &[one, part]);
        }
        for other in (0..objects).filter(|other| group[*other] == group[one]) {
            insert(structure, "flow", &[one, other]);
        }
    }
}

fn insert(structure: &mut Structure, relation: &str, tuple: &[usize]) {
    if let Some(table) = structure.tables.get_mut(relation) {
        table.insert(tuple);
    }
}
