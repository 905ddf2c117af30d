//! Steps that nobody invokes: hardware fills its caches and writes memory, the kernel withdraws entries one at a time and
//! waits for flushes. The clock, faults that an IOMMU reports, and what cores decide change nothing of the vocabulary.

use crate::operation::Draft;

pub(super) fn drafts() -> Vec<Draft> {
    vec![
        Draft::new("fill", &[])
            .constants("k1 s")
            .require("walked", "entry(s)")
            .update("cached(k, x)", "cached(k, x) | k = k1 & x = s"),
        Draft::new("evict", &[])
            .constants("k1 s")
            .require("there", "cached(k1, s)")
            .update("cached(k, x)", "cached(k, x) & !(k = k1 & x = s)"),
        Draft::new("withdraw", &[])
            .constants("s")
            .require("there", "full(s) & entry(s)")
            .update("entry(x)", "entry(x) & x != s")
            .update("due(k, x)", "due(k, x) | x = s"),
        Draft::new("flush-complete", &[])
            .constants("k1")
            .require("pending", "some x: due(k1, x)")
            .update("cached(k, x)", "cached(k, x) & !(k = k1 & due(k, x))")
            .update("due(k, x)", "due(k, x) & k != k1"),
        // By a VM or a device through a page that a cache may remember, or by the kernel to the memory of an object.
        Draft::new("write", &[])
            .constants("s a1")
            .require(
                "inside",
                "covers(s, a1) & ((some k: cached(k, s)) & kind(s, Frame) | full(s) & typed(s) & !kind(s, Frame))",
            )
            .update("dirty(a)", "dirty(a) | a = a1"),
    ]
}
