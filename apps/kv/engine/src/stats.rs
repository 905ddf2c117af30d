//! What is counted.

/// Counters of a store since its start or the last `stats reset`. The names are those that `stats` tells, and mean what
/// memcached's doc/protocol.txt says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "protocol.txt, \"General-purpose statistics\", says what each is")]
pub struct Counters {
    pub cmd_get: u64,
    pub cmd_set: u64,
    pub cmd_flush: u64,
    pub cmd_touch: u64,
    pub cmd_meta: u64,
    pub get_hits: u64,
    pub get_misses: u64,
    pub get_expired: u64,
    pub get_flushed: u64,
    pub delete_misses: u64,
    pub delete_hits: u64,
    pub incr_misses: u64,
    pub incr_hits: u64,
    pub decr_misses: u64,
    pub decr_hits: u64,
    pub cas_misses: u64,
    pub cas_hits: u64,
    pub cas_badval: u64,
    pub touch_hits: u64,
    pub touch_misses: u64,
    pub store_too_large: u64,
    pub store_no_memory: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub total_connections: u64,
    pub total_items: u64,
    pub expired_unfetched: u64,
    pub evicted_unfetched: u64,
    /// Items that lost their memory while they were valid.
    pub evictions: u64,
    /// Expired items whose memory was taken for others.
    pub reclaimed: u64,
    pub crawler_reclaimed: u64,
    pub crawler_items_checked: u64,
    /// Chunks that were moved to another page, and pages given back by [`crate::Store::give_back`].
    pub chunks_moved: u64,
    pub pages_given_back: u64,
    /// Items whose memory was withdrawn by [`crate::Store::lost`].
    pub items_lost: u64,
    /// Values that went to the second tier, came back, or failed to come back.
    pub cold_writes: u64,
    pub cold_reads: u64,
    pub cold_failures: u64,
}
