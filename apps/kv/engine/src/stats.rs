//! What is counted. The names are those that `stats` tells, and mean what memcached's doc/protocol.txt says.

/// What the VM of a server has cost since its start, as whoever runs it counts that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Exits that it caused itself.
    pub own_exits: u64,
    /// Exits by which its core was taken from it.
    pub preemptions: u64,
    /// Interrupts of its devices that it has taken.
    pub device_interrupts: u64,
    /// What its bids for pages take a hit in memory for, in thousandths of what a hit is worth: less than all if values are read
    /// from a namespace, too.
    pub memory_worth: u64,
}

/// Counters of a store since its start or the last `stats reset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "protocol.txt, \"General-purpose statistics\", says what each is")]
pub struct Counters {
    pub cmd_get: u64,
    pub cmd_flush: u64,
    pub cmd_touch: u64,
    pub cmd_meta: u64,
    pub get_misses: u64,
    pub get_expired: u64,
    pub get_flushed: u64,
    pub delete_misses: u64,
    pub incr_misses: u64,
    pub decr_misses: u64,
    pub cas_misses: u64,
    pub touch_misses: u64,
    pub store_too_large: u64,
    pub store_no_memory: u64,
    pub response_obj_oom: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub total_connections: u64,
    pub total_items: u64,
    pub lru_crawler_starts: u64,
    /// Pages that were emptied for another class, or to be given back.
    pub slabs_moved: u64,
    /// Items that were moved to another page, and parts of items besides their first.
    pub slab_reassign_rescues: u64,
    pub slab_reassign_chunk_rescues: u64,
    /// Valid items that were evicted as their page was emptied, and values in use that lost their memory by it.
    pub slab_reassign_evictions_nomem: u64,
    pub slab_reassign_busy_deletes: u64,
    /// Pages given back by [`crate::Store::give_back`].
    pub pages_given_back: u64,
    /// Items whose memory was withdrawn by [`crate::Store::lost`].
    pub items_lost: u64,
    /// Values that went to the second tier, came back, or failed to come back.
    pub cold_writes: u64,
    pub cold_reads: u64,
    pub cold_failures: u64,
}

impl Counters {
    /// Chunks that were moved to another page.
    #[must_use]
    pub const fn chunks_moved(&self) -> u64 {
        self.slab_reassign_rescues + self.slab_reassign_chunk_rescues
    }
}

macro_rules! of_classes {
    ($($name:ident)*) => {
        /// Counters of one class of chunks, or of all of them.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[expect(missing_docs, reason = "protocol.txt, \"Slab statistics\" and \"Item statistics\", says what each is")]
        pub struct ClassCounters { $(pub $name: u64,)* }

        impl core::ops::Add for ClassCounters {
            type Output = ClassCounters;

            fn add(self, other: ClassCounters) -> ClassCounters {
                ClassCounters { $($name: self.$name + other.$name,)* }
            }
        }
    };
}

of_classes! {
    get_hits cmd_set delete_hits incr_hits decr_hits cas_hits cas_badval touch_hits
    evictions evicted_nonzero outofmemory reclaimed expired_unfetched evicted_unfetched crawler_reclaimed
    crawler_items_checked lrutail_reflocked direct_reclaims
}

/// Keys that were asked for: `stats` counts some of them as touched instead, and begins anew after a reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retrievals {
    /// Those that were there.
    pub hits: u64,
    /// Those that were not.
    pub misses: u64,
    /// Values that came back from the second tier.
    pub cold_reads: u64,
}
