//! What is recorded of VMs, processors, time and channels.

use super::deriving::{invoked, second};
use crate::operation::Draft;
use cap_spec::abi::Label;

/// The invoked capability names `o`, a second one `q`.
fn pair(name: &'static str, labels: &'static [Label], first: &str, other: &str) -> Draft {
    second(invoked(Draft::new(name, labels)))
        .constants("o1 q1")
        .require("first-named", format!("({first}) & names(s, o1)"))
        .require("second-named", format!("({other}) & names(u, q1)"))
}

/// The Vcpus `idle` lose their CPU time: their interrupt routes lead nowhere, and no cache remembers them.
fn unrouted(draft: Draft) -> Draft {
    draft
        .relation("cleared(x)")
        .update("entry(x)", "entry(x) & !cleared(x)")
        .update("cached(k, x)", "cached(k, x) & !cleared(x)")
        .update("due(k, x)", "due(k, x) & !cleared(x)")
}

pub(super) fn drafts() -> Vec<Draft> {
    vec![
        pair("set-cspace", &[Label::VmSetCSpace], "kind(s, Vm) & right(s, WRITE)", "kind(u, CNode)")
            .require("an-original", "orig(u)")
            .require("none-yet", "all q: !cspace(o1, q)")
            .require("nobody-elses", "all o: !cspace(o, q1)")
            .update("cspace(o, q)", "cspace(o, q) | o = o1 & q = q1"),
        pair("attach-vcpu", &[Label::VcpuAttach], "kind(s, Vcpu) & right(s, WRITE)", "kind(u, Vm) & right(u, WRITE)")
            .require("none-yet", "all q: !runsin(o1, q)")
            .update("runsin(o, q)", "runsin(o, q) | o = o1 & q = q1"),
        // An end tells of one thing: who named it before is no longer told of.
        pair("set-vcpu-handler", &[Label::VcpuSetHandler], "kind(s, Vcpu) & right(s, WRITE)", "kind(u, Channel)")
            .relation("untold(o)")
            .update("tells(o, q)", "o = o1 & q = q1 | o != o1 & tells(o, q) & !untold(o)"),
        invoked(Draft::new("set-fault-handler", &[Label::IommuDomainSetHandler, Label::MachineSetHandler]))
            .constants("o1")
            .relation("chosen(o)")
            .require("first-named", "(kind(s, IommuDomain) | kind(s, Machine)) & right(s, CONTROL) & names(s, o1)")
            .require("chosen-lives", "all q: chosen(q) -> lives(q)")
            .update("tells(o, q)", "o = o1 & chosen(q) | o != o1 & tells(o, q)"),
        pair(
            "bind-receiver",
            &[Label::ChannelBind],
            "kind(s, Channel) & right(s, CONTROL)",
            "kind(u, Vcpu) & right(u, WRITE)",
        )
        .update("receives(o, q)", "receives(o, q) | o = o1 & q = q1"),
        second(invoked(Draft::new("bind-time", &[Label::VcpuBindTime])))
            .constants("o1")
            .require("vcpu", "kind(s, Vcpu) & right(s, WRITE) & names(s, o1)")
            .require("time", "kind(u, CpuTime)")
            .require("not-split", "all y: !anc(u, y)")
            .require("reservation-free", "all o: !bound(u, o)")
            .require("vcpu-free", "all x: !bound(x, o1)")
            .update("bound(x, o)", "bound(x, o) | x = u & o = o1"),
        unrouted(invoked(Draft::new("unbind-time", &[Label::VcpuUnbindTime])))
            .constants("o1")
            .require("vcpu", "kind(s, Vcpu) & right(s, WRITE) & names(s, o1)")
            .require("routes-cleared", "all x: routed(x, o1) -> cleared(x)")
            .update("bound(x, o)", "bound(x, o) & o != o1")
            .update("routed(x, o)", "routed(x, o) & o != o1"),
        // The reservation's share becomes g; its parent p sells that instead.
        invoked(Draft::new("resize-time", &[Label::CpuTimeResize]))
            .constants("p g")
            .require("type", "kind(s, CpuTime) & right(s, CONTROL)")
            .require("not-split", "(all y: !anc(s, y)) & sold(s) = 0")
            .require("parent", "anc(p, s) & all x: anc(x, s) -> below(x, p)")
            .require("a-share", "0 <= g")
            .require("room", "sold(p) - share(s) + g <= share(p)")
            .update("share(x)", "if x = s then g else share(x)")
            .update("sold(x)", "if x = p then sold(x) - share(s) + g else sold(x)"),
        second(invoked(Draft::new("bind-route", &[Label::IrqBind])))
            .constants("o1")
            .require("route", "kind(s, Irq)")
            .require("vcpu", "kind(u, Vcpu) & right(u, WRITE) & names(u, o1)")
            .require("not-split", "all y: !anc(s, y)")
            .require("route-free", "all o: !routed(s, o)")
            .require("vcpu-has-time", "some y: bound(y, o1)")
            .update("routed(x, o)", "routed(x, o) | x = s & o = o1")
            .update("entry(x)", "entry(x) | x = s & some m: raised(s, m)"),
        invoked(Draft::new("unbind-route", &[Label::IrqUnbind]))
            .require("route", "kind(s, Irq) & some o: routed(s, o)")
            .update("routed(x, o)", "routed(x, o) & x != s")
            .update("entry(x)", "entry(x) & x != s")
            .update("cached(k, x)", "cached(k, x) & x != s")
            .update("due(k, x)", "due(k, x) & x != s"),
    ]
}
