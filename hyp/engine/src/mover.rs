//! The page mover: the place of each guest page, and what CPUs may do with it.
//!
//! Only the mover changes stage 2. A change is always break-before-make, for any number of pages
//! together: [`Mover::break_page`] for each page, [`Mover::flush_tlb`] once, then the copying, and
//! [`Mover::remap`].

use alloc::vec::Vec;
use core::ops::Range;

use bitfield_struct::bitfield;
use oche_types::addr::{Gfn, Hfn, HostGranule, SLOTS};
use oche_types::event::Event;
use oche_types::{Invariant, invariant};

use crate::heap::bytes_of;
use crate::host::{CpuAccess, Memory, OutOfTables, Stage2, TraceSink};
use crate::tracker::table::TableId;

/// The state of one guest page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageState {
    /// The host page that holds it, or zero if it is at home: no pool starts at host-physical zero.
    away: u32,
    /// Head of the list of its mappings: see `granule::alias`.
    pub(crate) mappings: u32,
    /// The host page that is its twin, or zero if it has none.
    pub(crate) twin: u32,
    /// The first tracked table in the page, if there is one: see `tracker`.
    pub(crate) table: Option<TableId>,
    /// The page's index in the list of flush-merged pages: see `granule::flush_merge`. [`NONE`] if
    /// it is not in the list.
    pub(crate) flush_merged: u32,
    /// Number of uses of the page by untranslated bus masters now: see `granule::pin`.
    pins: u16,
    pub(crate) flags: PageFlags,
}

// There is one for each page of guest RAM.
const _: () = assert!(size_of::<PageState>() == 24);

/// What is true of one guest page.
#[bitfield(u16)]
pub(crate) struct PageFlags {
    /// Whether CPUs' stores are trapped because the page holds a tracked table.
    is_write_protected: bool,
    /// Which accesses of CPUs are trapped because the page has copies or is watched.
    #[bits(2)]
    trap: CpuTrap,
    /// Whether CPUs use load-exclusive on the page while it is trapped: see `granule::cpu_trap`.
    has_exclusives: bool,
    /// Whether the page's watch was given up: see `granule::watch`.
    pub(crate) is_unwatchable: bool,
    /// Whether the page is in the list of visited pages: see `granule::cost`.
    pub(crate) is_listed: bool,
    /// Whether the page is broken in stage 2, until [`Mover::remap`].
    is_broken: bool,
    /// Whether the page has a stage-2 entry of its own.
    is_prepared: bool,
    /// Whether the current batch is about to move the page.
    is_about_to_move: bool,
    #[bits(7)]
    __: u8,
}

impl PageState {
    /// The host page that holds `page`, whose state this is.
    pub(crate) fn location(&self, page: Gfn) -> Hfn {
        if self.away == 0 { page.home() } else { Hfn(self.away) }
    }

    /// Whether the page is at home and stays there in the current batch.
    pub(crate) fn stays_home(&self) -> bool {
        self.away == 0 && !self.flags.is_about_to_move()
    }

    /// Whether nothing maps the page. Then it is at home.
    pub(crate) fn is_free(&self) -> bool {
        self.mappings == NONE
    }

    /// Whether CPUs' stores are trapped because the page holds a tracked table.
    pub(crate) fn is_write_protected(&self) -> bool {
        self.flags.is_write_protected()
    }

    /// Whether the page is at home and has no twin.
    pub(crate) fn is_home_without_twin(&self) -> bool {
        self.away == 0 && self.twin == 0
    }

    /// Whether an untranslated bus master uses the page.
    pub(crate) fn is_pinned(&self) -> bool {
        self.pins != 0
    }

    /// Whether [`Mover::break_page`] may be called.
    pub(crate) fn has_own_entry(&self) -> bool {
        self.flags.is_prepared()
    }
}

/// Which accesses of CPUs to a page are trapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CpuTrap {
    /// None.
    None,
    /// Stores: they must reach every copy.
    Writes,
    /// All accesses: before a load, what devices wrote into copies must be merged.
    All,
}

impl CpuTrap {
    const fn into_bits(self) -> u16 {
        self as u16
    }

    const fn from_bits(bits: u16) -> Self {
        match bits {
            0 => Self::None,
            1 => Self::Writes,
            _ => Self::All,
        }
    }
}

/// The end of a list, and an index that is not set.
pub(crate) const NONE: u32 = u32::MAX;

/// A range of guest RAM.
#[derive(Clone, Copy, Debug, Default)]
struct RamRange {
    start: u32,
    pages: u32,
}

impl RamRange {
    /// The place of `page` in the range, if `count` pages from it on are inside.
    #[inline]
    fn offset(&self, page: u32, count: u32) -> Option<usize> {
        let offset = page.wrapping_sub(self.start);
        (offset < self.pages && self.pages - offset >= count).then_some(offset as usize)
    }
}

/// The states of all pages of guest RAM, and the list of broken pages.
#[derive(Debug)]
pub(crate) struct Mover {
    /// The largest range of guest RAM, in which nearly all look-ups end. Its states come first.
    largest: RamRange,
    /// The others, in the order of their states.
    others: Vec<RamRange>,
    states: Vec<PageState>,
    broken: Vec<Gfn>,
    is_flushed: bool,
    version: u64,
}

impl Mover {
    /// Creates the states of `ram`, with all pages at home and not trapped. Up to `max_broken`
    /// pages can be broken at once.
    pub(crate) fn new(ram: &[Range<Gfn>], max_broken: usize) -> Self {
        let mut others: Vec<_> = ram
            .iter()
            .map(|range| (range.start.0, range.end.0.saturating_sub(range.start.0)))
            .map(|(start, pages)| RamRange { start, pages })
            .collect();
        let count = others.iter().map(|range| range.pages as usize).sum();
        others.sort_unstable_by_key(|range| range.pages);
        let largest = others.pop().unwrap_or_default();
        let state = PageState {
            away: 0,
            mappings: NONE,
            twin: 0,
            table: None,
            flush_merged: NONE,
            pins: 0,
            flags: PageFlags::new(),
        };
        Self {
            largest,
            others,
            states: alloc::vec![state; count],
            broken: Vec::with_capacity(max_broken),
            is_flushed: false,
            version: 0,
        }
    }

    /// Bytes of heap that [`Self::new`] takes for `pages` pages in `ranges` ranges.
    pub(crate) const fn bytes(ranges: usize, pages: usize, max_broken: usize) -> usize {
        bytes_of::<RamRange>(ranges) + bytes_of::<PageState>(pages) + bytes_of::<Gfn>(max_broken)
    }

    /// The index of the state of `page`, if `count` pages from it on are in one range of guest RAM.
    #[inline]
    fn index(&self, page: u32, count: u32) -> Option<usize> {
        match self.largest.offset(page, count) {
            Some(offset) => Some(offset),
            None => self.index_in_others(page, count),
        }
    }

    #[cold]
    #[inline(never)]
    fn index_in_others(&self, page: u32, count: u32) -> Option<usize> {
        let mut first = self.largest.pages as usize;
        for range in &self.others {
            if let Some(offset) = range.offset(page, count) {
                return Some(first + offset);
            }
            first += range.pages as usize;
        }
        None
    }

    /// The state of `page`, or `None` if it is not guest RAM.
    pub(crate) fn get(&self, page: Gfn) -> Option<&PageState> {
        self.states.get(self.index(page.0, 1)?)
    }

    /// The states of the pages of `frame`, or `None` if they are not in one range of guest RAM.
    pub(crate) fn frame(&self, frame: HostGranule) -> Option<&[PageState; SLOTS]> {
        let index = self.index(frame.page(0).0, SLOTS as u32)?;
        self.states.get(index..)?.first_chunk()
    }

    /// As [`Self::frame`], mutable.
    pub(crate) fn frame_mut(&mut self, frame: HostGranule) -> Option<&mut [PageState; SLOTS]> {
        self.version = self.version.wrapping_add(1);
        let index = self.index(frame.page(0).0, SLOTS as u32)?;
        self.states.get_mut(index..)?.first_chunk_mut()
    }

    /// The state of `page`, which is guest RAM.
    pub(crate) fn state(&self, page: Gfn) -> &PageState {
        self.get(page).must("the page is guest RAM")
    }

    /// As [`Self::get`], mutable.
    pub(crate) fn get_mut(&mut self, page: Gfn) -> Option<&mut PageState> {
        self.version = self.version.wrapping_add(1);
        let index = self.index(page.0, 1)?;
        self.states.get_mut(index)
    }

    /// A number that changes whenever the state of a page may change.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Whether `page` holds a tracked table.
    pub(crate) fn holds_table(&self, page: Gfn) -> bool {
        self.get(page).is_some_and(|state| state.table.is_some())
    }

    /// As [`Self::state`], mutable.
    pub(crate) fn state_mut(&mut self, page: Gfn) -> &mut PageState {
        self.get_mut(page).must("the page is guest RAM")
    }

    /// Whether `page` is guest RAM.
    pub(crate) fn is_ram(&self, page: Gfn) -> bool {
        self.get(page).is_some()
    }

    /// The host page that holds `page`.
    pub(crate) fn locate(&self, page: Gfn) -> Hfn {
        self.find(page).unwrap_or(page.home())
    }

    /// The host page that holds `page`, if it is guest RAM.
    pub(crate) fn find(&self, page: Gfn) -> Option<Hfn> {
        self.get(page).map(|state| state.location(page))
    }

    /// Whether `page` is at home.
    pub(crate) fn is_home(&self, page: Gfn) -> bool {
        self.locate(page) == page.home()
    }

    /// Records that the current batch is about to move `page`.
    pub(crate) fn set_about_to_move(&mut self, page: Gfn) {
        self.state_mut(page).flags.set_is_about_to_move(true);
    }

    /// Whether `page` is broken in stage 2, until [`Self::remap`].
    pub(crate) fn is_broken(&self, page: Gfn) -> bool {
        self.get(page).is_some_and(|state| state.flags.is_broken())
    }

    /// Whether CPUs' stores to `page` are trapped because it holds a tracked table.
    pub(crate) fn is_write_protected(&self, page: Gfn) -> bool {
        self.get(page).is_some_and(|state| state.flags.is_write_protected())
    }

    /// Counts a use of `page` by an untranslated bus master. Returns false if the page is not guest
    /// RAM.
    pub(crate) fn pin(&mut self, page: Gfn) -> bool {
        let Some(state) = self.get_mut(page) else { return false };
        state.pins = state.pins.saturating_add(1);
        true
    }

    /// Counts the end of a use of `page`. Returns whether it was the last. A page whose counter is
    /// saturated stays pinned.
    pub(crate) fn unpin(&mut self, page: Gfn) -> bool {
        let Some(state) = self.get_mut(page).filter(|state| state.pins != u16::MAX) else {
            return false;
        };
        state.pins = state.pins.saturating_sub(1);
        state.pins == 0
    }

    /// Whether `page` is pinned, and so at home.
    pub(crate) fn is_pinned(&self, page: Gfn) -> bool {
        self.get(page).is_some_and(|state| state.pins != 0)
    }

    /// Which accesses of CPUs to `page` are trapped; for a broken page, after it is remapped.
    pub(crate) fn trap(&self, page: Gfn) -> CpuTrap {
        self.get(page).map_or(CpuTrap::None, |state| state.flags.trap())
    }

    /// Whether CPUs use load-exclusive on `page` while it is trapped.
    pub(crate) fn has_exclusives(&self, page: Gfn) -> bool {
        self.get(page).is_some_and(|state| state.flags.has_exclusives())
    }

    /// Records whether CPUs use load-exclusive on `page`.
    pub(crate) fn set_exclusives(&mut self, page: Gfn, has_exclusives: bool) {
        self.state_mut(page).flags.set_has_exclusives(has_exclusives);
    }

    /// Sets which accesses are trapped after `page`, which is broken, is remapped. Without a trap
    /// it is forgotten whether CPUs use load-exclusive.
    pub(crate) fn set_trap(&mut self, page: Gfn, trap: CpuTrap) {
        let state = self.state_mut(page);
        invariant!(
            state.flags.is_broken(),
            "a trap changes only while its page is broken: {page:?}"
        );
        state.flags.set_trap(trap);
        if trap == CpuTrap::None {
            state.flags.set_has_exclusives(false);
        }
    }

    /// The broken page with index `index`.
    pub(crate) fn broken(&self, index: usize) -> Option<Gfn> {
        self.broken.get(index).copied()
    }

    /// Gives `page` a stage-2 entry of its own, which [`Self::break_page`] needs.
    ///
    /// # Errors
    ///
    /// [`OutOfTables`]; nothing has changed.
    pub(crate) fn prepare(
        &mut self,
        stage2: &mut impl Stage2,
        page: Gfn,
    ) -> Result<(), OutOfTables> {
        let state = self.state_mut(page);
        if !state.flags.is_prepared() {
            stage2.prepare(page)?;
            state.flags.set_is_prepared(true);
        }
        Ok(())
    }

    /// Breaks the stage-2 entry of a prepared `page`, if it is not broken yet. CPUs that access the
    /// page wait until [`Self::remap`].
    pub(crate) fn break_page(&mut self, stage2: &mut impl Stage2, page: Gfn) {
        let state = self.state_mut(page);
        invariant!(
            state.flags.is_prepared(),
            "a page moves only with a stage-2 entry of its own: {page:?}"
        );
        if !state.flags.is_broken() {
            state.flags.set_is_broken(true);
            stage2.break_page(page);
            invariant!(
                self.broken.len() < self.broken.capacity(),
                "a batch moves a bounded number of pages"
            );
            self.broken.push(page);
            self.is_flushed = false;
        }
    }

    /// Whether a page is broken that a CPU may still access through a TLB entry.
    pub(crate) fn has_to_flush(&self) -> bool {
        !self.broken.is_empty() && !self.is_flushed
    }

    /// Makes sure that no CPU accesses a broken page through a TLB entry.
    pub(crate) fn flush_tlb(&mut self, stage2: &mut impl Stage2) {
        if self.has_to_flush() {
            stage2.flush_tlb();
            self.is_flushed = true;
        }
    }

    /// Whether `page` is broken and the TLBs were flushed since.
    pub(crate) fn can_move(&self, page: Gfn) -> bool {
        self.is_flushed && self.is_broken(page)
    }

    /// Records that `page`, which is broken, is now at `to`.
    pub(crate) fn place(&mut self, sink: &mut impl TraceSink, page: Gfn, to: Hfn) {
        let is_flushed = self.is_flushed;
        let state = self.state_mut(page);
        invariant!(
            state.flags.is_broken() && is_flushed,
            "a page moves only while it is broken: {page:?}"
        );
        state.away = if to == page.home() { 0 } else { to.0 };
        state.flags.set_is_about_to_move(false);
        sink.event(Event::Moved { page, to });
    }

    /// Remaps every broken page to its place, with its trap.
    pub(crate) fn remap(&mut self, host: &mut (impl Stage2 + Memory)) {
        if self.broken.is_empty() {
            return;
        }
        self.flush_tlb(host);
        while let Some(page) = self.broken.pop() {
            let at = self.locate(page);
            let state = self.state_mut(page);
            state.flags.set_is_broken(false);
            let access = match (state.flags.trap(), state.flags.is_write_protected()) {
                (CpuTrap::All, _) => CpuAccess::None,
                (CpuTrap::Writes, _) | (CpuTrap::None, true) => CpuAccess::ReadOnly,
                (CpuTrap::None, false) => CpuAccess::ReadWrite,
            };
            host.remap_page(page, at, access);
        }
        self.is_flushed = false;
        host.publish();
    }

    /// Write-protects `page` or ends that. Does nothing if the state does not change.
    ///
    /// # Errors
    ///
    /// [`OutOfTables`] if the page cannot be write-protected. Ending it never fails.
    pub(crate) fn set_write_protected(
        &mut self,
        host: &mut (impl Stage2 + Memory),
        page: Gfn,
        is_write_protected: bool,
    ) -> Result<(), OutOfTables> {
        if self.is_write_protected(page) == is_write_protected {
            return Ok(());
        }
        self.prepare(host, page)?;
        let is_broken = self.is_broken(page);
        self.state_mut(page).flags.set_is_write_protected(is_write_protected);
        if !is_broken {
            self.break_page(host, page);
            self.remap(host);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_of_every_range_of_ram_has_a_state_of_its_own() {
        let ram = [Gfn(8)..Gfn(11), Gfn(100)..Gfn(110), Gfn(40)..Gfn(44)];
        let mover = Mover::new(&ram, 0);
        let pages = ram.into_iter().flat_map(|range| range.start.0..range.end.0);
        let mut found: Vec<_> = pages.filter_map(|page| mover.index(page, 1)).collect();
        found.sort_unstable();
        assert!(found.into_iter().eq(0..17), "17 pages");
        for page in [0, 7, 11, 39, 44, 99, 110, u32::MAX] {
            assert_eq!(mover.index(page, 1), None, "page {page}");
        }
        let frames = [(2, false), (10, true), (25, true), (26, true), (27, false)];
        for (frame, is_inside) in frames {
            assert_eq!(mover.frame(HostGranule(frame)).is_some(), is_inside, "frame {frame}");
        }
    }
}
