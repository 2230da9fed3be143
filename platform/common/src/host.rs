//! The engine's [`Host`](oche_engine::host::Host) on a machine: guest memory through EL2's identity
//! map, stage 2, the board's IOMMU, and the trace.

use core::ops::Range;

use oche_el2::stage2::Stage2 as CpuTables;
use oche_el2::tlb::Cpus;
use oche_el2::words;
use oche_engine::host::{
    CpuAccess, DeviceFault, DomainId, InvalidateTimedOut, Iommu, Memory, OutOfTables, Stage2,
    TraceSink,
};
use oche_types::addr::{Gfn, Hfn, HostGranule, PAGE_BYTES, PAGE_WORDS, SlotRun};
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::{DartId, Members, StreamId};
use oche_types::event::Event;

use crate::recorder::Recorder;

/// The implementation of the engine's traits. It decides nothing.
pub struct PlatformHost<I> {
    /// Stage 2.
    pub stage2: CpuTables<Cpus>,
    /// The board's IOMMU driver.
    pub iommu: I,
    /// The trace.
    pub recorder: Recorder,
}

/// Guest RAM and the frame pool, as EL2 maps them: Normal Write-Back, identity.
///
/// Devices are coherent on both boards, and stage 2 forces the guest's memory to Write-Back if the
/// CPU can (`oche_el2::stage2`), so a copy needs no cache maintenance. Each access is volatile or
/// made by [`words`]; no reference to a page ever exists.
// SAFETY: a method accesses the page that it is given, word by word or all of it; the assertions
// keep words and offsets inside.
unsafe impl<I> Memory for PlatformHost<I> {
    fn load(&self, page: Hfn, word: usize) -> u64 {
        let at = word_pointer(page, word);
        // SAFETY: the engine names pages of guest RAM and of its pool only, all mapped and never
        // Rust's.
        unsafe { at.read_volatile() }
    }

    fn store(&mut self, page: Hfn, word: usize, value: u64) {
        let at = word_pointer(page, word);
        // SAFETY: as for `load`; what changes is the guest's memory or the engine's frame, never
        // Rust's.
        unsafe { at.write_volatile(value) }
    }

    fn store_aligned(&mut self, page: Hfn, offset: usize, width_log2: u8, value: u64) {
        assert!(
            offset < PAGE_BYTES && offset.is_multiple_of(1 << width_log2),
            "an aligned place in a page"
        );
        let at = word_pointer(page, 0).cast::<u8>().wrapping_add(offset);
        // SAFETY: as for `store`, and aligned: the store is single-copy atomic.
        match width_log2 {
            // SAFETY: the same.
            0 => unsafe { at.write_volatile(value as u8) },
            // SAFETY: the same.
            1 => unsafe { at.cast::<u16>().write_volatile(value as u16) },
            // SAFETY: the same.
            2 => unsafe { at.cast::<u32>().write_volatile(value as u32) },
            // SAFETY: the same.
            _ => unsafe { at.cast::<u64>().write_volatile(value) },
        }
    }

    fn first_difference(&self, one: Hfn, other: Hfn, range: Range<usize>) -> Option<usize> {
        assert!(range.end <= PAGE_WORDS, "words of a page");
        // SAFETY: as for `load`; the words are those of two pages.
        unsafe { words::first_difference(word_pointer(one, 0), word_pointer(other, 0), range) }
    }

    fn wholly_changed(&self, one: Hfn, other: Hfn, range: Range<usize>) -> usize {
        assert!(range.end <= PAGE_WORDS, "words of a page");
        // SAFETY: as for `load`; the words are those of two pages.
        unsafe { words::wholly_changed(word_pointer(one, 0), word_pointer(other, 0), range) }
    }

    fn first_change(&self, page: Hfn, known: &[u64; PAGE_WORDS], word: usize) -> Option<usize> {
        // SAFETY: as for `load`; `known` is borrowed, so nothing writes it.
        unsafe { words::first_difference(word_pointer(page, 0), known.as_ptr(), word..PAGE_WORDS) }
    }

    fn first_other(&self, page: Hfn, value: u64, word: usize) -> Option<usize> {
        // SAFETY: as for `load`; the words are those of a page.
        unsafe { words::first_other(word_pointer(page, 0), value, word..PAGE_WORDS) }
    }

    fn copy_page(&mut self, from: Hfn, to: Hfn) {
        // SAFETY: as for `load` and `store`. Nothing is copied onto itself: pages are whole.
        unsafe { words::copy_page(word_pointer(from, 0), word_pointer(to, 0)) }
    }

    fn copy_words(&mut self, from: Hfn, to: Hfn, range: Range<usize>) {
        assert!(range.end <= PAGE_WORDS, "words of a page");
        // SAFETY: as for `copy_page`; the words are those of two pages.
        unsafe { words::copy_words(word_pointer(from, 0), word_pointer(to, 0), range) }
    }

    fn fill_page(&mut self, page: Hfn, value: u64) {
        // SAFETY: as for `store`.
        unsafe { words::fill_page(word_pointer(page, 0), value) }
    }
}

#[inline]
fn word_pointer(page: Hfn, word: usize) -> *mut u64 {
    assert!(word < PAGE_WORDS, "a word of a page");
    core::ptr::with_exposed_provenance_mut(page.address() as usize + word * size_of::<u64>())
}

// SAFETY: `oche_el2::stage2` keeps the guarantees, as its break-before-make checker tests.
unsafe impl<I> Stage2 for PlatformHost<I> {
    fn prepare(&mut self, page: Gfn) -> Result<(), OutOfTables> {
        self.stage2.prepare(page)
    }

    fn break_page(&mut self, page: Gfn) {
        self.stage2.break_page(page);
    }

    fn flush_tlb(&mut self) {
        self.stage2.flush_tlb();
    }

    fn remap_page(&mut self, page: Gfn, at: Hfn, access: CpuAccess) {
        self.stage2.remap_page(page, at, access);
    }

    fn publish(&mut self) {
        self.stage2.publish();
    }
}

// SAFETY: every call is the board's driver's, which keeps the guarantees.
unsafe impl<I: Iommu> Iommu for PlatformHost<I> {
    const CACHES_INVALID_ENTRIES: bool = I::CACHES_INVALID_ENTRIES;
    const CAN_FORBID_READS: bool = I::CAN_FORBID_READS;

    fn has_windows(&self) -> bool {
        self.iommu.has_windows()
    }

    fn leaf_entry(&self, frame: HostGranule, permission: Permission, slots: SlotRun) -> u64 {
        self.iommu.leaf_entry(frame, permission, slots)
    }

    fn table_entry(&self, table: HostGranule) -> u64 {
        self.iommu.table_entry(table)
    }

    fn attach(
        &mut self,
        dart: DartId,
        stream: StreamId,
        domain: DomainId,
        root: HostGranule,
    ) -> Result<(), InvalidateTimedOut> {
        self.iommu.attach(dart, stream, domain, root)
    }

    fn block(&mut self, dart: DartId, stream: StreamId) {
        self.iommu.block(dart, stream);
    }

    fn invalidate(
        &mut self,
        domain: DomainId,
        members: &Members,
    ) -> Result<(), InvalidateTimedOut> {
        self.iommu.invalidate(domain, members)
    }

    fn is_confirmed(&mut self) -> bool {
        self.iommu.is_confirmed()
    }

    fn next_fault(&mut self, dart: DartId) -> Option<DeviceFault> {
        self.iommu.next_fault(dart)
    }
}

impl<I> TraceSink for PlatformHost<I> {
    #[inline(always)]
    fn event(&mut self, event: Event) {
        self.recorder.record(&event);
    }
}
