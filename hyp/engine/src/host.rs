//! What the engine asks of a machine: memory, the CPUs' stage 2, a 16K IOMMU, and a sink
//! for events.
//!
//! A machine implements these and decides nothing. The traits are as narrow as the engine's needs,
//! so that a test's machine can be strict: it may lose whatever the contract of a method does not
//! promise.

use core::ops::Range;

use oche_types::addr::{Gfn, Hfn, HostGranule, PAGE_WORDS, SlotRun};
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::{DartId, Members, StreamId};
use oche_types::event::Event;

/// All that the engine stands on.
pub trait Host: Memory + Stage2 + Iommu + TraceSink {}

impl<T: Memory + Stage2 + Iommu + TraceSink> Host for T {}

/// Host memory by page: guest RAM and the frame pool. Nothing else is ever asked for.
///
/// Devices and the guest's CPUs may write the same bytes at any time, so each word is loaded and
/// stored exactly once, with single-copy atomicity, and no reference to this memory ever exists.
pub trait Memory {
    /// The aligned 64-bit little-endian word `word` (below 512) of `page`.
    fn load(&self, page: Hfn, word: usize) -> u64;

    /// Stores the aligned 64-bit word `word` (below 512) of `page`.
    fn store(&mut self, page: Hfn, word: usize, value: u64);

    /// Stores the low `1 << width_log2` (1 to 8) bytes of `value` at `offset` of `page`, a multiple
    /// of that many bytes, at once, and touches no other: a reader sees all or none of them.
    fn store_aligned(&mut self, page: Hfn, offset: usize, width_log2: u8, value: u64);

    /// The first of `words` in which two pages differ.
    fn first_difference(&self, one: Hfn, other: Hfn, mut words: Range<usize>) -> Option<usize> {
        words.find(|word| self.load(one, *word) != self.load(other, *word))
    }

    /// The first word from `word` on in which `page` is not what is `known`.
    fn first_change(&self, page: Hfn, known: &[u64; PAGE_WORDS], word: usize) -> Option<usize> {
        let known = known.iter().enumerate().skip(word);
        known
            .map(|(word, known)| (word, *known))
            .find(|(word, known)| self.load(page, *word) != *known)
            .map(|(word, _)| word)
    }

    /// The first word from `word` on of `page` that is not `value`.
    fn first_other(&self, page: Hfn, value: u64, word: usize) -> Option<usize> {
        (word..PAGE_WORDS).find(|word| self.load(page, *word) != value)
    }

    /// Copies all of `from` to `to`.
    fn copy_page(&mut self, from: Hfn, to: Hfn) {
        for word in 0..PAGE_WORDS {
            let value = self.load(from, word);
            self.store(to, word, value);
        }
    }

    /// Fills `page` with `value`, word by word.
    fn fill_page(&mut self, page: Hfn, value: u64) {
        for word in 0..PAGE_WORDS {
            self.store(page, word, value);
        }
    }

    /// No device may reach `frame` of the engine's pool any more: from here on it can be
    /// anything else. A machine has nothing to do; a test's checks that it is so.
    fn release(&mut self, frame: HostGranule) {
        let _ = frame;
    }
}

/// What CPUs may do with a page through stage 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuAccess {
    /// Everything.
    ReadWrite,
    /// Loads and fetches; a store traps and reaches the engine.
    ReadOnly,
    /// Nothing: every access traps and reaches the engine.
    None,
}

/// Stage 2 has no memory left for the tables that a page of its own needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfTables;

/// The guest's CPUs' view of guest-physical memory, page by page.
///
/// A change is always break-before-make, in the order `prepare`, `break_page`, `flush_tlb`,
/// (copy), `remap_page`, `publish`, with any number of pages in each step.
pub trait Stage2 {
    /// Makes sure that `page` has an entry of its own (splits a block where there is one).
    ///
    /// # Errors
    ///
    /// [`OutOfTables`]; then nothing has changed and none of the other calls may follow for this
    /// page.
    fn prepare(&mut self, page: Gfn) -> Result<(), OutOfTables>;

    /// Makes the prepared entry of `page` invalid and marks it as broken.
    fn break_page(&mut self, page: Gfn);

    /// # Guarantees
    ///
    /// On return no CPU holds a translation of any page broken before, and every access through
    /// such a translation has completed. A CPU that touches a broken page waits, by retrying, until
    /// it is made.
    fn flush_tlb(&mut self);

    /// Makes the broken entry of `page` point to `at`.
    fn remap_page(&mut self, page: Gfn, at: Hfn, access: CpuAccess);

    /// # Guarantees
    ///
    /// On return every CPU and every IOMMU that walks anew sees the entries stored before, and the
    /// bytes copied before those.
    fn publish(&mut self);
}

/// The hardware did not finish an invalidation within the driver's bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidateTimedOut;

/// An access that the hardware IOMMU refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFault {
    /// The device's stream.
    pub stream: StreamId,
    /// The IOVA of the access.
    pub iova: u64,
    /// Whether it was a write.
    pub is_write: bool,
}

/// Names a domain to the hardware: an index below the engine's number of domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub u16);

/// The hardware: IOMMUs that translate in 16K pages only, with two levels of 2048 entries, 32 MiB
/// and 16 KiB each, eight bytes an entry. DART's 16K tables and an SMMUv3's with `T0SZ` 28 are both
/// that.
pub trait Iommu {
    /// The hardware may cache that an entry is not valid, so a new mapping needs an invalidation
    /// too.
    const CACHES_INVALID_ENTRIES: bool;

    /// An entry can allow writes and forbid reads. Where it cannot, what a device may write it may
    /// read.
    const CAN_FORBID_READS: bool;

    /// An entry can be limited to a run of its frame's slots: an access to any other faults.
    fn has_windows(&self) -> bool;

    /// The leaf entry that lets a device reach `slots` of `frame` with `permission`. Without
    /// windows `slots` are all.
    fn leaf_entry(&self, frame: HostGranule, permission: Permission, slots: SlotRun) -> u64;

    /// The first-level entry for the leaf table in `table`.
    fn table_entry(&self, table: HostGranule) -> u64;

    /// Makes `stream` translate through the first-level table in `root`, which belongs to `domain`.
    ///
    /// # Guarantees
    ///
    /// On return no access of the stream uses what was attached before.
    ///
    /// # Errors
    ///
    /// [`InvalidateTimedOut`]; then the stream is blocked, or as [`Self::is_confirmed`] has it.
    fn attach(
        &mut self,
        dart: DartId,
        stream: StreamId,
        domain: DomainId,
        root: HostGranule,
    ) -> Result<(), InvalidateTimedOut>;

    /// Makes every access of `stream` fault.
    ///
    /// # Guarantees
    ///
    /// On return no access of the stream uses what was attached before, and its earlier writes have
    /// landed.
    fn block(&mut self, dart: DartId, stream: StreamId);

    /// Drops every cached translation of `domain`, whose streams are `members`.
    ///
    /// # Guarantees
    ///
    /// Table stores made before are seen by every walk that starts after, and on return no access
    /// uses an older entry: reads are answered, writes have landed in memory.
    ///
    /// # Errors
    ///
    /// [`InvalidateTimedOut`]; then nothing may be assumed of accesses under way.
    fn invalidate(&mut self, domain: DomainId, members: &Members)
    -> Result<(), InvalidateTimedOut>;

    /// Whether every attach, block and invalidation so far is known to have had its effect. While
    /// one is not, a device may still reach what was taken from it, and frames of the pool that the
    /// engine is done with stay unused. The machine may look at its hardware again to answer.
    fn is_confirmed(&mut self) -> bool;

    /// The next fault that the hardware has recorded for `dart`, oldest first.
    fn next_fault(&mut self, dart: DartId) -> Option<DeviceFault>;
}

/// Takes events. It must be quick and can change nothing.
pub trait TraceSink {
    /// Takes note of `event`.
    fn event(&mut self, event: Event);
}
