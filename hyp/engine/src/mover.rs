//! The page mover: where each guest page's bytes are, and what the CPUs may do with it.
//!
//! Stage 2 is changed here and nowhere else, always break-before-make, any number of pages in one motion:
//! [`Mover::begin`] for each page, [`Mover::still`] once, then whatever copying is due, [`Mover::finish`].

use alloc::vec::Vec;
use core::ops::Range;

use oche_types::addr::{Gfn, Hfn};
use oche_types::event::Event;
use oche_types::{Invariant, invariant};

use crate::heap::bytes_of;
use crate::host::{CpuAccess, Memory, OutOfTables, Stage2, TraceSink};

/// What is known of one guest page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageRecord {
    /// Where the page is, if not at home. Zero is home: no pool starts at host-physical zero.
    away: u32,
    /// IOVAs at which the page is mapped: see `placement::alias`.
    pub(crate) mappings: u32,
    /// The page of the pool that holds what all copies last agreed on, or zero.
    pub(crate) base: u32,
    /// The first watched table in the page: see `tracker`. [`NONE`] if there is none.
    pub(crate) table: u32,
    /// The page's place among those that are followed: see `placement::follow`. [`NONE`] if it is not.
    pub(crate) followed: u32,
    /// How often a master behind no DART uses the page now: see `placement::hold`.
    holds: u16,
    /// CPUs' stores are trapped, because the page holds a watched table.
    is_closed: bool,
    /// What CPUs may not do by themselves because the page has copies.
    guard: Guard,
    /// CPUs use load-exclusive on the page while it is guarded: see `placement::guard`.
    has_exclusives: bool,
    /// CPUs' accesses cannot be told one by one, even where a watch asks for it: see `placement::watch`.
    pub(crate) is_unwatchable: bool,
    /// The work under way is about the page: see `placement::cost`.
    pub(crate) is_listed: bool,
    /// Broken in stage 2, to be made again by [`Mover::finish`].
    in_motion: bool,
    /// Has a stage-2 entry of its own.
    is_prepared: bool,
}

/// Which accesses of CPUs to a page are trapped because it has copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Guard {
    /// None.
    Open,
    /// Stores: they have to reach every copy.
    Stores,
    /// All: what devices wrote into the copies has to be looked at first.
    Everything,
}

/// No table, no mapping.
pub(crate) const NONE: u32 = u32::MAX;

/// Every page of guest RAM, and the pages that are in motion.
#[derive(Debug)]
pub(crate) struct Mover {
    /// Ranges of guest RAM, ascending, with the index of the first page's record.
    ranges: Vec<(Range<u32>, usize)>,
    records: Vec<PageRecord>,
    moving: Vec<Gfn>,
    is_still: bool,
}

impl Mover {
    /// All pages of `ram` at home and open. Up to `most_moving` pages can be in one motion.
    pub(crate) fn new(ram: &[Range<Gfn>], most_moving: usize) -> Self {
        let mut ranges = Vec::with_capacity(ram.len());
        let mut count = 0;
        for range in ram {
            ranges.push((range.start.0..range.end.0, count));
            count += range.end.0.saturating_sub(range.start.0) as usize;
        }
        let record = PageRecord {
            away: 0,
            mappings: NONE,
            base: 0,
            table: NONE,
            followed: NONE,
            holds: 0,
            is_closed: false,
            guard: Guard::Open,
            has_exclusives: false,
            is_unwatchable: false,
            is_listed: false,
            in_motion: false,
            is_prepared: false,
        };
        Self {
            ranges,
            records: alloc::vec![record; count],
            moving: Vec::with_capacity(most_moving),
            is_still: false,
        }
    }

    /// Bytes of heap that [`Self::new`] takes for `pages` pages in `ranges` ranges.
    pub(crate) const fn bytes(ranges: usize, pages: usize, most_moving: usize) -> usize {
        bytes_of::<(Range<u32>, usize)>(ranges) + bytes_of::<PageRecord>(pages) + bytes_of::<Gfn>(most_moving)
    }

    /// The record of `page`, or `None` where that is not guest RAM.
    pub(crate) fn get(&self, page: Gfn) -> Option<&PageRecord> {
        self.index(page).and_then(|index| self.records.get(index))
    }

    /// As [`Self::get`], to change.
    pub(crate) fn get_mut(&mut self, page: Gfn) -> Option<&mut PageRecord> {
        self.index(page).and_then(|index| self.records.get_mut(index))
    }

    /// The record of `page`, which is guest RAM.
    pub(crate) fn record_mut(&mut self, page: Gfn) -> &mut PageRecord {
        self.get_mut(page).must("the page is guest RAM")
    }

    /// Whether `page` is guest RAM.
    pub(crate) fn is_ram(&self, page: Gfn) -> bool {
        self.index(page).is_some()
    }

    /// Where the bytes of `page` are.
    pub(crate) fn locate(&self, page: Gfn) -> Hfn {
        match self.get(page) {
            Some(record) if record.away != 0 => Hfn(record.away),
            _ => page.home(),
        }
    }

    /// Whether `page` is at home.
    pub(crate) fn is_home(&self, page: Gfn) -> bool {
        self.locate(page) == page.home()
    }

    /// Whether `page` is out of the CPUs' reach until [`Self::finish`].
    pub(crate) fn is_moving(&self, page: Gfn) -> bool {
        self.get(page).is_some_and(|record| record.in_motion)
    }

    /// Whether CPUs' stores to `page` are trapped.
    pub(crate) fn is_closed(&self, page: Gfn) -> bool {
        self.get(page).is_some_and(|record| record.is_closed)
    }

    /// Takes note that a master behind no DART uses `page`. `false`: it is not guest RAM.
    pub(crate) fn hold(&mut self, page: Gfn) -> bool {
        let Some(record) = self.get_mut(page) else { return false };
        record.holds = record.holds.saturating_add(1);
        true
    }

    /// One use of `page` is over. Whether it was the last. What has been used too often to be counted stays held.
    pub(crate) fn release(&mut self, page: Gfn) -> bool {
        let Some(record) = self.get_mut(page).filter(|record| record.holds != u16::MAX) else { return false };
        record.holds = record.holds.saturating_sub(1);
        record.holds == 0
    }

    /// Whether a master behind no DART uses `page`, which is at home then.
    pub(crate) fn is_held(&self, page: Gfn) -> bool {
        self.get(page).is_some_and(|record| record.holds != 0)
    }

    /// Which accesses of CPUs to `page` are trapped, or will be once it is made again.
    pub(crate) fn guard(&self, page: Gfn) -> Guard {
        self.get(page).map_or(Guard::Open, |record| record.guard)
    }

    /// Whether CPUs use load-exclusive on `page` while it is guarded.
    pub(crate) fn has_exclusives(&self, page: Gfn) -> bool {
        self.get(page).is_some_and(|record| record.has_exclusives)
    }

    /// Takes note of whether CPUs use load-exclusive on `page`.
    pub(crate) fn set_exclusives(&mut self, page: Gfn, has_exclusives: bool) {
        self.record_mut(page).has_exclusives = has_exclusives;
    }

    /// Sets what is trapped once `page`, which is in motion, is made again.
    pub(crate) fn set_guard(&mut self, page: Gfn, guard: Guard) {
        let record = self.record_mut(page);
        invariant!(record.in_motion, "a guard changes only while its page is in motion: {page:?}");
        record.guard = guard;
    }

    /// Page number `index` of those in motion.
    pub(crate) fn moving(&self, index: usize) -> Option<Gfn> {
        self.moving.get(index).copied()
    }

    /// Gives `page` a stage-2 entry of its own, so that [`Self::begin`] can follow.
    ///
    /// # Errors
    ///
    /// [`OutOfTables`]; the page stays as it is.
    pub(crate) fn prepare(&mut self, stage2: &mut impl Stage2, page: Gfn) -> Result<(), OutOfTables> {
        let record = self.record_mut(page);
        if !record.is_prepared {
            stage2.prepare(page)?;
            record.is_prepared = true;
        }
        Ok(())
    }

    /// Breaks the entry of a prepared `page`, if this motion has not yet. CPUs wait until [`Self::finish`].
    pub(crate) fn begin(&mut self, stage2: &mut impl Stage2, page: Gfn) {
        let record = self.record_mut(page);
        invariant!(record.is_prepared, "a page moves only with a stage-2 entry of its own: {page:?}");
        if !record.in_motion {
            record.in_motion = true;
            stage2.break_page(page);
            invariant!(self.moving.len() < self.moving.capacity(), "a batch moves a bounded number of pages");
            self.moving.push(page);
            self.is_still = false;
        }
    }

    /// After this no CPU reaches a page in motion.
    pub(crate) fn still(&mut self, stage2: &mut impl Stage2) {
        if !self.moving.is_empty() && !self.is_still {
            stage2.flush_broken();
            self.is_still = true;
        }
    }

    /// Whether `page` is in motion and no CPU reaches it.
    pub(crate) fn can_move(&self, page: Gfn) -> bool {
        self.is_still && self.is_moving(page)
    }

    /// Notes that the bytes of `page`, which is in motion, are at `to`.
    pub(crate) fn place(&mut self, sink: &mut impl TraceSink, page: Gfn, to: Hfn) {
        let is_still = self.is_still;
        let record = self.record_mut(page);
        invariant!(
            record.in_motion && is_still,
            "a page changes place only out of the CPUs' reach: {page:?}"
        );
        record.away = if to == page.home() { 0 } else { to.0 };
        sink.event(Event::Moved { page, to });
    }

    /// Makes every page in motion again, where it now is.
    pub(crate) fn finish(&mut self, host: &mut (impl Stage2 + Memory)) {
        if self.moving.is_empty() {
            return;
        }
        self.still(host);
        while let Some(page) = self.moving.pop() {
            let at = self.locate(page);
            let record = self.record_mut(page);
            record.in_motion = false;
            let access = match (record.guard, record.is_closed) {
                (Guard::Everything, _) => CpuAccess::None,
                (Guard::Stores, _) | (Guard::Open, true) => CpuAccess::ReadOnly,
                (Guard::Open, false) => CpuAccess::ReadWrite,
            };
            host.make_page(page, at, access);
        }
        self.is_still = false;
        host.publish();
    }

    /// Lets CPUs' stores to `page` through (`is_closed` false) or traps them. A no-op if it is so already.
    ///
    /// # Errors
    ///
    /// [`OutOfTables`]: the page cannot be closed. Opening a closed page never fails.
    pub(crate) fn set_closed(
        &mut self,
        host: &mut (impl Stage2 + Memory),
        page: Gfn,
        is_closed: bool,
    ) -> Result<(), OutOfTables> {
        if self.is_closed(page) == is_closed {
            return Ok(());
        }
        self.prepare(host, page)?;
        let in_motion = self.is_moving(page);
        self.record_mut(page).is_closed = is_closed;
        if !in_motion {
            self.begin(host, page);
            self.finish(host);
        }
        Ok(())
    }

    fn index(&self, page: Gfn) -> Option<usize> {
        let (range, first) = self.ranges.iter().find(|(range, _)| range.contains(&page.0))?;
        Some(first + (page.0 - range.start) as usize)
    }
}
