//! `stats` without a group, in memcached's order; behind that what only this store has.

use super::Value;
use crate::VERSION;
use crate::cold::Cold;
use crate::pages::{PAGE_BYTES, Pages};
use crate::store::Store;

/// What is always 0, and why.
mod zero {
    use super::Value;

    const ZERO: Value = Value::Number(0);

    /// When all places are taken nobody listens, so that nobody is rejected either.
    pub const REJECTED: Value = ZERO;
    /// A client's buffers are there before it comes.
    pub const READ_OOM: Value = ZERO;
    /// There are no files.
    pub const FILES: Value = ZERO;
    /// There is nobody to authenticate.
    pub const AUTHENTICATION: Value = ZERO;
    /// The index grows with each item, not by and by.
    pub const EXPANDING: Value = ZERO;
    /// A page is emptied in one go: nothing comes in between.
    pub const REASSIGNING: Value = ZERO;
    /// A call of the crawler ends before a command is executed.
    pub const CRAWLING: Value = ZERO;
    /// There are no threads in the background.
    pub const MAINTAINER: Value = ZERO;
    /// An application whose heap is used up ends.
    pub const MALLOC: Value = ZERO;
    /// There are no watchers.
    pub const LOG: Value = ZERO;
    /// There is one thread, which takes all clients.
    pub const NAPI: Value = ZERO;
    /// An item that is used is the newest at once.
    pub const ACTIVE: Value = ZERO;
}

/// All of them but those of [`of_vm`].
pub(super) fn all<P: Pages, C: Cold>(store: &Store<P, C>) -> [(&'static str, Value); 94] {
    let (c, t, s) = (&store.counters, &store.totals(), &store.service);
    let number = Value::Number;
    [
        // An application is alone in its machine.
        ("pid", number(1)),
        ("uptime", number(store.clock.uptime())),
        ("time", number(store.clock.time().seconds())),
        ("version", Value::Text(VERSION)),
        ("pointer_size", number(64)),
        ("max_connections", number(s.most_connections)),
        ("curr_connections", number(store.connections)),
        ("total_connections", number(c.total_connections)),
        ("rejected_connections", zero::REJECTED),
        ("connection_structures", number(store.connections)),
        ("response_obj_oom", number(c.response_obj_oom)),
        ("read_buf_count", number(s.buffers)),
        ("read_buf_bytes", number(s.buffer_bytes)),
        ("read_buf_bytes_free", number(s.buffer_bytes_free)),
        ("read_buf_oom", zero::READ_OOM),
        ("reserved_fds", zero::FILES),
        ("cmd_get", number(c.cmd_get)),
        ("cmd_set", number(t.cmd_set)),
        ("cmd_flush", number(c.cmd_flush)),
        ("cmd_touch", number(c.cmd_touch)),
        ("cmd_meta", number(c.cmd_meta)),
        ("get_hits", number(t.get_hits)),
        ("get_misses", number(c.get_misses)),
        ("get_expired", number(c.get_expired)),
        ("get_flushed", number(c.get_flushed)),
        ("delete_misses", number(c.delete_misses)),
        ("delete_hits", number(t.delete_hits)),
        ("incr_misses", number(c.incr_misses)),
        ("incr_hits", number(t.incr_hits)),
        ("decr_misses", number(c.decr_misses)),
        ("decr_hits", number(t.decr_hits)),
        ("cas_misses", number(c.cas_misses)),
        ("cas_hits", number(t.cas_hits)),
        ("cas_badval", number(t.cas_badval)),
        ("touch_hits", number(t.touch_hits)),
        ("touch_misses", number(c.touch_misses)),
        ("store_too_large", number(c.store_too_large)),
        ("store_no_memory", number(c.store_no_memory)),
        ("auth_cmds", zero::AUTHENTICATION),
        ("auth_errors", zero::AUTHENTICATION),
        ("idle_kicks", number(s.idle_kicks)),
        ("bytes_read", number(c.bytes_read)),
        ("bytes_written", number(c.bytes_written)),
        ("limit_maxbytes", number((store.pages_lent() * PAGE_BYTES) as u64)),
        ("accepting_conns", number(s.accepts.into())),
        ("listen_disabled_num", number(s.refusals)),
        ("time_in_listen_disabled_us", number(s.refused_us)),
        ("threads", number(1)),
        ("conn_yields", number(s.yields)),
        ("hash_power_level", number(store.index.buckets().ilog2().into())),
        ("hash_bytes", number(store.index.table_bytes() as u64)),
        ("hash_is_expanding", zero::EXPANDING),
        ("slab_reassign_rescues", number(c.slab_reassign_rescues)),
        ("slab_reassign_chunk_rescues", number(c.slab_reassign_chunk_rescues)),
        ("slab_reassign_evictions_nomem", number(c.slab_reassign_evictions_nomem)),
        ("slab_reassign_inline_reclaim", zero::REASSIGNING),
        ("slab_reassign_busy_items", zero::REASSIGNING),
        ("slab_reassign_busy_deletes", number(c.slab_reassign_busy_deletes)),
        ("slab_reassign_running", zero::REASSIGNING),
        ("slabs_moved", number(c.slabs_moved)),
        ("lru_crawler_running", zero::CRAWLING),
        ("lru_crawler_starts", number(c.lru_crawler_starts)),
        ("lru_maintainer_juggles", zero::MAINTAINER),
        ("malloc_fails", zero::MALLOC),
        ("log_worker_dropped", zero::LOG),
        ("log_worker_written", zero::LOG),
        ("log_watcher_skipped", zero::LOG),
        ("log_watcher_sent", zero::LOG),
        ("log_watchers", zero::LOG),
        ("unexpected_napi_ids", zero::NAPI),
        ("round_robin_fallback", zero::NAPI),
        ("bytes", number(store.bytes())),
        ("curr_items", number(store.items() as u64)),
        ("total_items", number(c.total_items)),
        ("slab_global_page_pool", number(store.pages_free() as u64)),
        ("expired_unfetched", number(t.expired_unfetched)),
        ("evicted_unfetched", number(t.evicted_unfetched)),
        ("evicted_active", zero::ACTIVE),
        ("evictions", number(t.evictions)),
        ("reclaimed", number(t.reclaimed)),
        ("crawler_reclaimed", number(t.crawler_reclaimed)),
        ("crawler_items_checked", number(t.crawler_items_checked)),
        ("lrutail_reflocked", number(t.lrutail_reflocked)),
        ("direct_reclaims", number(t.direct_reclaims)),
        ("lru_bumps_dropped", zero::MAINTAINER),
        ("table_bytes", number(store.table_bytes() as u64)),
        ("pages_lent", number(store.pages_lent() as u64)),
        ("pages_free", number(store.pages_free() as u64)),
        ("pages_given_back", number(c.pages_given_back)),
        ("chunks_moved", number(c.chunks_moved())),
        ("items_lost", number(c.items_lost)),
        ("cold_writes", number(c.cold_writes)),
        ("cold_reads", number(c.cold_reads)),
        ("cold_failures", number(c.cold_failures)),
    ]
}

/// What the VM has cost, where there is one.
pub(super) fn of_vm<P, C>(store: &Store<P, C>) -> impl Iterator<Item = (&'static str, Value)> + use<P, C> {
    let lines = store.usage.map(|usage| {
        let usage = usage();
        [
            ("own_exits", Value::Number(usage.own_exits)),
            ("preemptions", Value::Number(usage.preemptions)),
            ("device_interrupts", Value::Number(usage.device_interrupts)),
            ("memory_worth", Value::Number(usage.memory_worth)),
        ]
    });
    lines.into_iter().flatten()
}
