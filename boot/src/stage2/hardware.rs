//! What stage 2 asks of a machine: table words, barriers and the TLBs.

use oche_hyp::addr::{Gfn, Hfn};

/// Memory of the tables, barriers and the TLBs.
///
/// `load` and `store` are single-copy atomic; other CPUs and table walkers read at any time.
pub trait Hardware {
    /// Entry `index` of the table (of 512 entries, or 1024 for the root) at host-physical `table`.
    fn load(&self, table: u64, index: usize) -> u64;
    /// Stores the entry.
    fn store(&self, table: u64, index: usize, value: u64);
    /// Stores `new` if the entry still is `old`; says whether it was.
    fn exchange(&self, table: u64, index: usize, old: u64, new: u64) -> bool;
    /// All stores before are seen by every CPU and its table walks before any store after.
    fn order_stores(&self);
    /// The same for observers outside the CPUs' domain as well: an IOMMU and the devices behind it.
    fn publish_stores(&self);
    /// Starts to drop what the TLBs of all CPUs hold of the guest-physical page, last-level or not.
    fn invalidate_page(&self, page: Gfn);
    /// Drops all that the TLBs of all CPUs hold of the guest, of both stages and combined, and waits.
    fn invalidate_all(&self);
    /// Waits for the invalidations, drops everything that combines them with stage 1, and waits again.
    fn finish_invalidation(&self);
    /// Makes the instruction caches of all CPUs see the data at host page `at`.
    fn synchronize_instructions(&self, at: Hfn);
}
