//! `stats settings`, in memcached's order.

use super::{Value, yes};
use crate::classes::{self, WHOLE};
use crate::cold::Cold;
use crate::index;
use crate::pages::{PAGE_BYTES, Pages};
use crate::store::{MOST_VALUE_BYTES, Store};

/// What is no setting, as nothing else is built in: the same for every server.
const NO: Value = Value::Text("no");
const YES: Value = Value::Text("yes");

/// All of them.
pub(super) fn all<P: Pages, C: Cold>(store: &Store<P, C>) -> [(&'static str, Value); 40] {
    let service = &store.service;
    let number = Value::Number;
    [
        ("maxbytes", number((store.pages_lent() * PAGE_BYTES) as u64)),
        ("maxconns", number(service.most_connections)),
        ("tcpport", number(service.tcp_port.into())),
        ("udpport", number(service.udp_port.into())),
        // It listens at all of its addresses.
        ("inter", Value::Text("NULL")),
        ("verbosity", number(store.verbosity.into())),
        ("oldest", number(store.oldest.into())),
        ("evictions", Value::Text("on")),
        ("domain_socket", Value::Text("NULL")),
        ("shutdown_command", NO),
        ("chunk_size", number(classes::size(0) as u64)),
        ("num_threads", number(1)),
        ("num_threads_per_udp", number(1)),
        ("stat_key_prefix", Value::Text(":")),
        ("detail_enabled", yes(store.prefixes.is_on)),
        ("reqs_per_event", number(service.steps)),
        ("cas_enabled", YES),
        ("tcp_backlog", number(service.backlog)),
        ("binding_protocol", Value::Text("ascii")),
        ("auth_enabled_sasl", NO),
        ("auth_enabled_ascii", NO),
        ("item_size_max", number(MOST_VALUE_BYTES as u64)),
        ("maxconns_fast", NO),
        ("hashpower_init", number(index::LEAST.ilog2().into())),
        // Not by command: a page changes its class when an item needs it.
        ("slab_reassign", NO),
        ("slab_automove", number(store.automove.into())),
        ("slab_chunk_max", number(classes::size(WHOLE) as u64)),
        // None that clients could steer.
        ("lru_crawler", NO),
        ("tail_repair_time", number(0)),
        ("flush_enabled", YES),
        ("dump_enabled", NO),
        ("hash_algorithm", Value::Text("siphash13")),
        ("lru_maintainer_thread", NO),
        ("lru_segmented", NO),
        ("temp_lru", NO),
        ("track_sizes", yes(store.sizes.is_on())),
        ("inline_ascii_response", NO),
        ("ssl_enabled", NO),
        ("proxy_enabled", NO),
        ("memory_file", Value::Text("(null)")),
    ]
}
