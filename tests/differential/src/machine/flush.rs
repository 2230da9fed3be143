//! The guest's invalidation, and what must hold when it is complete.

use super::{Checked, Machine};
use crate::history::{History, Roots};
use crate::program::Mode;
use crate::reference::decode_leaf;
use crate::views::{Change, mapped_page};
use oche_reference::registers::{INVALIDATE, STREAM_COMMAND, STREAM_SELECT, STREAMS};
use oche_types::addr::Gfn;
use std::collections::BTreeSet;

/// A DART, and a bit for each of its streams.
type Streams = (usize, u16);

/// A leaf that changed, and whether its page was refused before.
pub(super) struct FlushedChange {
    pub(super) roots: Roots,
    pub(super) change: Change,
    pub(super) was_refused: bool,
}

impl<const C: bool> Machine<C> {
    /// Flushes `streams` of `dart` and waits, as Linux does; then compares.
    pub(super) fn flush(&mut self, dart: usize, streams: u16) -> Checked {
        self.flush_all(&[(dart, streams)])
    }

    /// Flushes one DART after another, then compares.
    fn flush_all(&mut self, all: &[Streams]) -> Checked {
        for &(dart, streams) in all {
            self.write_register(dart, STREAM_SELECT, streams.into())?;
        }
        let start = self.history.now();
        for &(dart, _) in all {
            self.invalidate(dart)?;
        }
        self.compare(all, start)
    }

    /// Flushes all that changed since it was flushed last: afterwards nothing is under way.
    pub(super) fn settle(&mut self) -> Checked {
        let changed = self.views.unsettled_roots();
        let mut all = Vec::new();
        for dart in 0..self.setting.darts {
            let needs_flush = |stream: &usize| {
                self.history.is_between(dart, *stream)
                    || self.history.roots(dart, *stream).is_some_and(|own| changed.contains(&own))
            };
            let streams = (0..STREAMS).filter(needs_flush).fold(0, |set, stream| set | 1 << stream);
            if streams != 0 {
                all.push((dart, streams));
            }
        }
        if all.is_empty() { Ok(()) } else { self.flush_all(&all) }
    }

    fn invalidate(&mut self, dart: usize) -> Checked {
        self.counts.flushes += 1;
        if self.setting.mode == Mode::Concurrent {
            self.queue_overlap();
            self.postpone_pending();
        }
        self.write_register(dart, STREAM_COMMAND, INVALIDATE)?;
        self.wait(dart)?;
        self.finish_overlap()?;
        self.replay()
    }

    /// Devices' writes under way count as written after the flush that begins now.
    fn postpone_pending(&mut self) {
        let late = self.history.now() + 1;
        for pending in self.host.pending().iter().filter(|pending| pending.is_write()) {
            if let Some(page) = pending.page {
                self.sharing.postpone(page, pending.offset, pending.length, late);
            }
        }
    }

    /// What must hold when the invalidations of `flushed`, the first begun at `start`, are
    /// complete.
    fn compare(&mut self, flushed: &[Streams], start: u64) -> Checked {
        let streams = || {
            let of = |&(dart, set): &Streams| {
                let is_flushed = move |stream: &usize| set >> stream & 1 != 0;
                (0..STREAMS).filter(is_flushed).map(move |stream| (dart, stream))
            };
            flushed.iter().flat_map(of)
        };
        let roots = |(dart, stream)| self.history.roots(dart, stream);
        let sets: BTreeSet<Roots> = streams().filter_map(roots).collect();
        let changes = self.changes(&sets);
        self.take_events()?;
        let entries = changes.iter().flat_map(|one| [one.change.before, one.change.after]);
        let mut touched: Vec<Gfn> =
            entries.filter_map(|entry| mapped_page(&self.history, entry)).collect();
        streams().for_each(|(dart, stream)| self.history.set_flushed(dart, stream, start));
        let in_use = self.history.streams_in_use();
        touched.extend(self.views.settle(&self.history, &in_use));
        self.forget(&in_use);
        self.spread_writes(&sets, start);
        self.spread_what_went(&changes, start);
        self.unite()?;
        self.check_red_zones(&changes)?;
        touched.sort_unstable();
        touched.dedup();
        touched.into_iter().try_for_each(|page| self.check_home(page))
    }

    /// What changed in the tables of `sets`, before what the engine made of it is known.
    fn changes(&mut self, sets: &BTreeSet<Roots>) -> Vec<FlushedChange> {
        let mut changes = Vec::new();
        for &roots in sets {
            for change in self.views.refresh(&self.history, roots) {
                let before = mapped_page(&self.history, change.before);
                let was_refused =
                    before.is_some_and(|page| self.is_refused(roots, change.iova_page, page));
                changes.push(FlushedChange { roots, change, was_refused });
                match mapped_page(&self.history, change.after) {
                    None => self.refused.remove(roots, change.iova_page),
                    // The page that takes its place is mapped, or refused by itself.
                    Some(page) if self.setting.mode == Mode::Quiescent => {
                        self.refused.keep_only(roots, change.iova_page, page);
                    }
                    // A device may still be on its way to the page of before.
                    Some(_) => {}
                }
                // In the middle of a flush a device may have written into the new copy.
                if self.setting.mode == Mode::Quiescent {
                    self.strays.remove(roots, change.iova_page);
                }
            }
        }
        changes
    }

    /// Forgets what no stream of `in_use` can be using any more.
    fn forget(&mut self, in_use: &[(usize, usize)]) {
        let mut live: BTreeSet<Roots> = BTreeSet::new();
        let mut oldest = self.history.now();
        for &(dart, stream) in in_use {
            let possible = self.history.possible_roots(dart, stream);
            if possible.iter().flatten().next().is_some() {
                oldest = oldest.min(self.history.flushed(dart, stream));
            }
            live.extend(possible.iter().flatten());
        }
        self.refused.retain(|roots| live.contains(roots));
        self.red_zones.retain(|(roots, _)| live.contains(roots));
        self.refused_tables.retain(|roots| live.contains(roots));
        self.history.prune(oldest);
    }

    /// C2: what a device wrote before the flush is in all copies of each page that the flushed
    /// tables map, if a device reads one of them.
    fn spread_writes(&mut self, sets: &BTreeSet<Roots>, start: u64) {
        if self.sharing.pages().is_empty() {
            return;
        }
        let counts = |roots: Roots, iova_page: u32, page: Gfn| {
            self.sharing.has(page) && !self.is_refused(roots, iova_page, page)
        };
        for (page, shared) in self.views.sharing_of(&self.history, sets, counts) {
            let is_followed = shared.leaves > 1 && shared.is_read && shared.is_written;
            if is_followed && shared.is_flushed && !self.views.is_unsettled(page) {
                self.sharing.spread(page, start);
                self.counts.spread_pages += 1;
            }
        }
    }

    /// C2: so it is in all copies that stay where a mapping that could write went or was changed.
    /// What a device wrote by a neighbour's right alone is in the copy that it reached.
    fn spread_what_went(&mut self, changes: &[FlushedChange], start: u64) {
        if self.setting.mode != Mode::Quiescent {
            return;
        }
        for FlushedChange { change, was_refused, .. } in changes {
            let could_write = decode_leaf(change.before).is_some_and(|leaf| leaf.write);
            let gone = mapped_page(&self.history, change.before);
            let gone = gone.filter(|_| could_write && !was_refused);
            if let Some(page) = gone.filter(|page| self.sharing.has(*page)) {
                self.sharing.spread(page, start);
                self.counts.spread_pages += 1;
            }
        }
    }

    /// Pages that have a single copy again are exact again, but for writes under way.
    fn unite(&mut self) -> Checked {
        let (views, held) = (&self.views, &self.held);
        self.fetched.retain(|page| views.may_be_mapped(*page) || held.contains(page));
        self.given_up.retain(|page| views.may_be_mapped(*page));
        for page in self.sharing.pages() {
            let is_awaited = self.host.pending().iter().any(|pending| pending.page == Some(page));
            if self.is_shared(page) || is_awaited {
                continue;
            }
            for offset in self.sharing.contested(page) {
                self.adopt(page, offset)?;
            }
            self.sharing.unite(page);
        }
        Ok(())
    }
}

/// Whether the change is of the page, not of the rights alone.
pub(super) fn is_moved(history: &History, change: &Change) -> bool {
    mapped_page(history, change.before) != mapped_page(history, change.after)
}
