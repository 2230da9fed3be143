//! The traits through which the engine uses a machine: memory, the CPUs' stage 2, a 16 KiB IOMMU,
//! and a sink for events.
//!
//! An implementation decides nothing. The traits are no wider than the engine's needs, so that a
//! simulated machine can do whatever a method's contract does not exclude.
//!
//! The engine is safe code, and its isolation of devices and CPUs rests on these traits. An
//! implementation that breaks a guarantee lets a device or a CPU reach memory that is not its own,
//! Oche's included, so [`Memory`], [`Stage2`] and [`Iommu`] are unsafe to implement. They have a
//! crate of their own because the engine forbids `unsafe` altogether, and the declaration of an
//! unsafe trait counts.
#![no_std]
#![expect(unsafe_code, reason = "the declarations of unsafe traits; there is no unsafe block")]

use core::ops::Range;

use oche_types::addr::{Gfn, Hfn, HostGranule, PAGE_WORDS, SlotRun};
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::{DartId, Members, StreamId};
use oche_types::event::Event;

/// All traits that the engine needs.
pub trait Host: Memory + Stage2 + Iommu + TraceSink {}

impl<T: Memory + Stage2 + Iommu + TraceSink> Host for T {}

/// Host memory by page: guest RAM and the frame pool. The engine accesses nothing else.
///
/// Devices and the guest's CPUs may write the same bytes at any time. Each word is therefore loaded
/// and stored exactly once, with single-copy atomicity, and no reference to this memory exists.
///
/// # Safety
///
/// A method accesses the bytes that it is described to access, and no others: never memory outside
/// the page that it is given. What it stores is what it was given.
pub unsafe trait Memory {
    /// Loads the aligned 64-bit little-endian word `word` (below 512) of `page`.
    fn load(&self, page: Hfn, word: usize) -> u64;

    /// Stores the aligned 64-bit word `word` (below 512) of `page`.
    fn store(&mut self, page: Hfn, word: usize, value: u64);

    /// Stores the low `1 << width_log2` (1 to 8) bytes of `value` at `offset` of `page`, which is a
    /// multiple of that many bytes, with one store: a reader sees all or none of them. Changes no
    /// other byte.
    fn store_aligned(&mut self, page: Hfn, offset: usize, width_log2: u8, value: u64);

    /// The first of `words` in which the two pages differ.
    fn first_difference(&self, one: Hfn, other: Hfn, mut words: Range<usize>) -> Option<usize> {
        words.find(|word| self.load(one, *word) != self.load(other, *word))
    }

    /// How many of the first of `words` differ between the two pages in each of their bytes.
    fn wholly_changed(&self, one: Hfn, other: Hfn, words: Range<usize>) -> usize {
        let differences = words.map(|word| self.load(one, word) ^ self.load(other, word));
        differences.take_while(|bits| bits.to_le_bytes().iter().all(|byte| *byte != 0)).count()
    }

    /// The first word from `word` on in which `page` differs from `known`.
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
        self.copy_words(from, to, 0..PAGE_WORDS);
    }

    /// Copies `words` of `from` to `to`.
    fn copy_words(&mut self, from: Hfn, to: Hfn, words: Range<usize>) {
        for word in words {
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

    /// Notes that `frame` of the engine's pool is about to be reused, so no device may reach it any
    /// more. Only a simulated machine does something here: it checks that.
    fn release(&mut self, frame: HostGranule) {
        let _ = frame;
    }
}

/// What stage 2 lets CPUs do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuAccess {
    /// All accesses.
    ReadWrite,
    /// Loads and fetches. A store traps to the engine.
    ReadOnly,
    /// No access: each traps to the engine.
    None,
}

/// Stage 2 has no memory left for the table that an entry for a single page needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfTables;

/// The guest-physical memory of the guest's CPUs, page by page.
///
/// A change is always break-before-make, in the order `prepare`, `break_page`, `flush_tlb`,
/// (copy), `remap_page`, `publish`, with any number of pages in each step.
///
/// # Safety
///
/// Each method keeps its guarantees, and only the engine's calls change what a page is mapped to.
/// The engine reuses a host page as soon as [`Self::flush_tlb`] has returned: a CPU that still
/// reached it would read and write memory of another owner.
pub unsafe trait Stage2 {
    /// Makes sure that `page` has an entry of its own, by splitting a block if it is in one.
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
    /// such a translation has completed. A CPU that accesses a broken page waits, by retrying,
    /// until the page is remapped.
    fn flush_tlb(&mut self);

    /// Makes the broken entry of `page` valid again, with `at` as its output address.
    fn remap_page(&mut self, page: Gfn, at: Hfn, access: CpuAccess);

    /// # Guarantees
    ///
    /// On return every CPU and every IOMMU that walks anew sees the entries stored before, and the
    /// bytes copied before those.
    fn publish(&mut self);
}

/// The hardware did not complete an invalidation within the driver's time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidateTimedOut;

/// An access that the hardware IOMMU refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFault {
    /// The device's stream.
    pub stream: StreamId,
    /// The IOVA of the access.
    pub iova: u64,
    /// Whether the access was a write.
    pub is_write: bool,
}

/// Number of a domain, below the engine's number of domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub u16);

/// The hardware IOMMUs, which translate in pages of 16 KiB only. Tables have two levels of 2048
/// entries of eight bytes; an entry covers 32 MiB in the first level and 16 KiB in the second.
/// DART's 16 KiB tables and those of an SMMUv3 with `T0SZ` 28 both have this form.
///
/// # Safety
///
/// Each method keeps its guarantees. Entries let devices reach what they are described to let them
/// reach, and nothing else: [`Self::leaf_entry`] no other frame, slot or access. A device reaches
/// memory only through tables that were attached. The engine reuses a frame once
/// [`Self::is_confirmed`] has returned true after the invalidation of what named it: a device that
/// still reached it would read and write memory of another owner.
pub unsafe trait Iommu {
    /// Whether the hardware may cache invalid entries, so that a new mapping needs an invalidation
    /// too.
    const CACHES_INVALID_ENTRIES: bool;

    /// Whether an entry can allow writes and forbid reads. If not, a device may read whatever it
    /// may write.
    const CAN_FORBID_READS: bool;

    /// Whether an entry can be limited to a run of its frame's slots, so that an access to any
    /// other slot faults.
    fn has_windows(&self) -> bool;

    /// The leaf entry that lets a device access `slots` of `frame` with `permission`. Without
    /// windows, `slots` is [`SlotRun::ALL`].
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
    /// [`InvalidateTimedOut`]; then the stream is blocked, or [`Self::is_confirmed`] returns false.
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

    /// Whether every attach, block and invalidation so far is known to have taken effect. While one
    /// is not, a device may still reach what was unmapped, and the engine keeps the frames
    /// quarantined. The implementation may check the hardware again before it returns.
    fn is_confirmed(&mut self) -> bool;

    /// The next fault that the hardware has recorded for `dart`, oldest first.
    fn next_fault(&mut self, dart: DartId) -> Option<DeviceFault>;
}

/// Records events. An implementation must be fast and must not affect the engine.
pub trait TraceSink {
    /// Records `event`.
    fn event(&mut self, event: Event);
}
