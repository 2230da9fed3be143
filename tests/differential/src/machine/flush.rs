//! The guest's invalidation, and what must hold when it is complete.

use super::{Checked, Machine};
use crate::history::{History, Roots};
use crate::reference::decode_root;
use crate::sharing::viewer;
use crate::views::{Change, mapped_page};
use oche_engine::Isolation;
use oche_engine::pool::RED_ZONE;
use oche_reference::registers::{INVALIDATE, STREAM_COMMAND, STREAM_SELECT, STREAMS};
use oche_sim::access::Data;
use oche_sim::hardware::Pending;
use oche_types::addr::{Gfn, PAGE_BYTES};
use oche_types::event::{Event, Place, Placement, Refusal};
use std::collections::BTreeSet;

/// A device's write that was on its way when a flush began.
struct UnderWay {
    page: Gfn,
    offset: usize,
    length: usize,
    roots: Option<Roots>,
}

impl<const C: bool> Machine<C> {
    /// Flushes `streams` of `dart` and waits, as Linux does; then compares.
    pub(super) fn flush(&mut self, dart: usize, streams: u16) -> Checked {
        self.counts.flushes += 1;
        self.write_register(dart, STREAM_SELECT, streams.into())?;
        let start = self.history.now();
        self.queue_overlap();
        let under_way = self.under_way();
        self.write_register(dart, STREAM_COMMAND, INVALIDATE)?;
        self.wait(dart)?;
        self.finish_overlap()?;
        self.replay()?;

        let streams = || (0..STREAMS).filter(|stream| streams >> stream & 1 != 0);
        let sets: BTreeSet<_> =
            streams().filter_map(|stream| self.history.roots(dart, stream)).collect();
        let mut changes = Vec::new();
        for &roots in &sets {
            let found = self.views.refresh(&self.history, roots, self.last_flush);
            changes.extend(found.into_iter().map(|change| (roots, change)));
        }
        // A mapping that is refused, before or after, does not make the page's copies equal.
        let is_refused = |machine: &Self, key: &(Roots, u32)| machine.is_refused(key.0, key.1);
        let mut refused = Vec::with_capacity(changes.len());
        for (roots, change) in &changes {
            let key = (*roots, change.iova_page);
            // Where a register's write has looked already, what a device wrote since is in the copy
            // that stays.
            if !self.looked_at_early.contains(roots) {
                self.strays.remove(key.0, key.1);
            }
            refused.push(is_refused(self, &key));
            // What a register's write had looked at is not looked at again.
            if is_moved(&self.history, change) && !self.refused_early.contains(key.0, key.1) {
                self.refused.remove(key.0, key.1);
            }
        }
        for (roots, iova_page) in std::mem::take(&mut self.late_strays) {
            self.strays.insert(roots, iova_page);
        }
        self.refused_early.retain(|roots| !sets.contains(roots));
        self.take_events()?;
        let mut touched = Vec::new();
        for ((roots, change), &was_refused) in changes.iter().zip(&refused) {
            let is_equalized = change.is_certain
                && !self.looked_at_early.contains(roots)
                && is_moved(&self.history, change)
                && !was_refused
                && !is_refused(self, &(*roots, change.iova_page));
            for entry in [change.before, change.after] {
                let Some(page) = mapped_page(&self.history, entry) else { continue };
                touched.push(page);
                // A sync waits for the writes of the domain that it takes a page from, and for no
                // others.
                let is_emptied = mapped_page(&self.history, change.before).is_some();
                let is_under_way = |offset: usize| {
                    under_way.iter().any(|one| {
                        one.page == page
                            && offset.wrapping_sub(one.offset) < one.length
                            && !(is_emptied && one.roots == Some(*roots))
                    })
                };
                if is_equalized {
                    let is_new = mapped_page(&self.history, change.after) == Some(page);
                    let viewer = is_new.then(|| viewer(*roots, change.iova_page));
                    self.sharing.equalize(page, start, viewer, is_under_way);
                }
            }
        }
        for one in &under_way {
            if !self.is_shared(one.page) {
                continue;
            }
            self.sharing.arrive_late(one.page, one.offset, one.length, self.history.now());
        }
        for stream in streams() {
            self.history.set_flushed(dart, stream, start);
        }
        let in_use = self.history.streams_in_use();
        touched.extend(self.views.settle(&self.history, &in_use));
        let mut live = Vec::new();
        for &(dart, stream) in &in_use {
            for roots in self.history.possible_roots(dart, stream).iter().flatten() {
                if !live.contains(&roots) {
                    live.push(roots);
                }
            }
        }
        self.spread_writes(&sets, start, &under_way);
        self.refused.retain(|roots| live.contains(roots));
        self.refused_tables.retain(|roots| live.contains(roots));
        self.history.prune(self.oldest_flush(&in_use));
        self.last_flush = start;
        self.refused_early.retain(|roots| !sets.contains(roots));

        self.unite()?;
        self.check_red_zones(&changes, &refused)?;
        for key in std::mem::take(&mut self.late_red_zones) {
            self.red_zones.entry(key).or_insert(false);
        }
        self.looked_at_early.retain(|roots| !sets.contains(roots));
        touched.sort_unstable();
        touched.dedup();
        for page in touched {
            self.check_home(page)?;
        }
        Ok(())
    }

    /// What a device wrote before the flush is in all copies of each page that the flushed tables
    /// map, if a device reads one of them.
    fn spread_writes(&mut self, sets: &BTreeSet<Roots>, start: u64, under_way: &[UnderWay]) {
        if self.sharing.pages().is_empty() {
            return;
        }
        let counts = |roots: Roots, iova_page: u32, page: Gfn| {
            self.sharing.has(page) && !self.is_refused(roots, iova_page)
        };
        for (page, shared) in self.views.sharing_of(&self.history, sets, counts) {
            let is_under_way = |offset: usize| {
                under_way
                    .iter()
                    .any(|one| one.page == page && offset.wrapping_sub(one.offset) < one.length)
            };
            let is_followed = shared.leaves > 1 && shared.is_read && shared.is_written;
            if is_followed && shared.is_flushed && !self.views.is_unsettled(page) {
                self.sharing.spread(page, start, is_under_way);
                self.counts.spread_pages += 1;
            }
        }
    }

    fn under_way(&self) -> Vec<UnderWay> {
        let describe = |pending: &Pending| {
            let (dart, stream) = pending.origin();
            let roots = self.history.roots(dart, stream);
            Some(UnderWay {
                page: pending.page?,
                offset: pending.offset,
                length: pending.length,
                roots,
            })
        };
        self.host
            .pending()
            .iter()
            .filter(|pending| pending.is_write())
            .filter_map(describe)
            .collect()
    }

    /// When the flush began that is the longest ago of those after which the streams `in_use` have
    /// seen none.
    fn oldest_flush(&self, in_use: &[(usize, usize)]) -> u64 {
        in_use
            .iter()
            .filter(|&&(dart, stream)| {
                self.history.possible_roots(dart, stream).iter().flatten().next().is_some()
            })
            .map(|&(dart, stream)| self.history.flushed(dart, stream))
            .min()
            .unwrap_or(self.history.now())
    }

    /// Pages that have a single copy again are exact again.
    fn unite(&mut self) -> Checked {
        let (views, held) = (&self.views, &self.held);
        self.fetched.retain(|page| views.may_be_mapped(*page) || held.contains(page));
        self.given_up.retain(|page| views.may_be_mapped(*page));
        for page in self.sharing.pages() {
            if !self.is_shared(page) {
                for offset in self.sharing.unite(page) {
                    self.adopt(page, offset);
                }
            }
        }
        Ok(())
    }

    /// Takes over the byte that CPUs see, where either of two was right.
    pub(super) fn adopt(&mut self, page: Gfn, offset: usize) {
        self.deliver_to(page, offset, 1);
        let Some(word) = self.host.view(page).map(|words| words[offset / 8]) else { return };
        self.note_bytes(page, offset, &[word.to_le_bytes()[offset % 8]]);
    }

    /// A write into a red zone is reported when its slot is mapped or a page of its granule goes.
    fn check_red_zones(&mut self, changes: &[(Roots, Change)], refused: &[bool]) -> Checked {
        for ((roots, change), was_refused) in changes.iter().zip(refused) {
            if self.red_zones.is_empty() || !is_moved(&self.history, change) {
                continue;
            }
            for slot in 0..4 {
                let key = (*roots, change.iova_page & !3 | slot);
                if self.red_zones.get(&key) != Some(&true) || self.looked_at_early.contains(roots) {
                    continue;
                }
                let is_filled =
                    key.1 == change.iova_page && mapped_page(&self.history, change.after).is_some();
                let is_emptied =
                    mapped_page(&self.history, change.before).is_some() && !was_refused;
                let is_due = is_filled || is_emptied;
                if is_due && !self.guest.is_hostile && !self.is_refused(*roots, change.iova_page) {
                    return Err(format!(
                        "a write into the red zone at IOVA page {:#x} is not reported by the sync that changes {:#x}",
                        key.1, change.iova_page
                    ));
                }
            }
        }
        Ok(())
    }

    /// Looks at what the engine reported.
    pub(super) fn take_events(&mut self) -> Checked {
        for event in std::mem::take(&mut self.host.events) {
            match event {
                Event::Map { at, page, placement, .. } => {
                    match placement {
                        Placement::Direct => self.counts.direct += 1,
                        Placement::Migrated => self.counts.migrated += 1,
                        Placement::Bounce => self.counts.bounce_pages += 1,
                    }
                    *self.live_maps.entry((at.iova.0, page)).or_default() += 1;
                    if let Some(roots) = self.roots_of(at) {
                        self.refused.remove(roots, at.iova.0);
                    }
                }
                Event::Unmap { at, page } => {
                    let count = self.live_maps.entry((at.iova.0, page)).or_default();
                    *count -= 1;
                    if *count < 0 {
                        return Err(format!(
                            "{page:?} at {:?} is unmapped and was not mapped",
                            at.iova
                        ));
                    }
                    if *count == 0 {
                        self.live_maps.remove(&(at.iova.0, page));
                    }
                }
                Event::Permission { at, page, .. } => {
                    self.counts.permissions += 1;
                    if !self.live_maps.contains_key(&(at.iova.0, page)) {
                        return Err(format!(
                            "{page:?} at {:?} is not mapped and gets a permission",
                            at.iova
                        ));
                    }
                }
                Event::Refused { at, page, reason } => self.hear_refusal(at, page, reason)?,
                Event::Data { words } => self.check_reported_bytes(words)?,
                Event::RedZone { at, offset, .. } => {
                    self.counts.red_zone_reports += 1;
                    self.reported = Some((at.iova.0, usize::from(offset)));
                    // The stream may use other tables by now, and these be on their way out.
                    let own = self.roots_of(at).map(|roots| (roots, at.iova.0));
                    let possible = self.history.possible_roots(at.dart.index(), at.stream.index());
                    let own =
                        own.filter(|key| possible.is_certain() && self.red_zones.contains_key(key));
                    if let Some(key) = own {
                        self.red_zones.remove(&key);
                        // Hit again in the middle of this sync, it can be reported again.
                        if self.late_red_zones.contains(&key) {
                            self.red_zones.insert(key, false);
                        }
                        continue;
                    }
                    let mut is_known = self.guest.is_hostile;
                    for (_, must_report) in
                        self.red_zones.iter_mut().filter(|((_, page), _)| *page == at.iova.0)
                    {
                        *must_report = false;
                        is_known = true;
                    }
                    if !is_known {
                        return Err(format!(
                            "a write into the red zone at {:?} that no device made",
                            at.iova
                        ));
                    }
                }
                Event::LiveMove { .. } => self.counts.live_moves += 1,
                Event::Fault { dart, stream, iova, code, is_write, is_hidden } => {
                    self.hear_fault(dart, stream, iova, code, is_write, is_hidden)?;
                }
                Event::InvalidateTimedOut { .. } => self.is_blind = true,
                _ => {}
            }
        }
        Ok(())
    }

    /// The bytes of a red zone that was hit: each is the zone's own or one that a device wrote
    /// there, and the first is of the latter kind.
    fn check_reported_bytes(&mut self, words: [u64; 2]) -> Checked {
        let Some((iova_page, first)) = self.reported.take() else { return Ok(()) };
        let writes = self.stray_writes.get(&iova_page).map_or(&[][..], Vec::as_slice);
        let zone = RED_ZONE.to_le_bytes();
        for (at, byte) in (first..PAGE_BYTES).zip(words.into_iter().flat_map(u64::to_le_bytes)) {
            let is_it = |(offset, data): &(usize, Data)| {
                at.checked_sub(*offset).and_then(|index| data.bytes().get(index)) == Some(&byte)
            };
            let is_zone = at != first && byte == zone[at % 8];
            if !is_zone && !self.guest.is_hostile && !writes.iter().any(is_it) {
                return Err(format!(
                    "byte {byte:#04x} is reported at {at:#x} of the red zone at IOVA page {iova_page:#x}, hit first at \
                     {first:#x}; devices wrote {writes:x?}"
                ));
            }
        }
        self.counts.red_zone_bytes += 16;
        Ok(())
    }

    fn roots_of(&self, at: Place) -> Option<[u32; 4]> {
        self.history.roots(at.dart.index(), at.stream.index())
    }

    fn hear_refusal(&mut self, at: Place, page: Gfn, reason: Refusal) -> Checked {
        self.counts.refusals += 1;
        let is_ram = self.history.memory.contains(page);
        let is_plausible = match reason {
            Refusal::PoolExhausted => self.setting.frames < 1000,
            Refusal::NotGuestMemory | Refusal::TableNotGuestMemory => !is_ram,
            Refusal::DeviceNotDirect => false,
            Refusal::OutOfStage2Tables => self.setting.scarce_tables != 0,
            Refusal::TooManyAliases => self.views.mappings(page) >= 4 || self.guest.is_hostile,
            Refusal::TooManyDomains => true,
            // A fetch or a walk; or the disk's use of a page with copies, and no memory to keep
            // them equal.
            Refusal::NotTrappable => {
                self.given_up.contains(&page)
                    || self.setting.frames < 1000 && !self.fetched.is_empty()
            }
            Refusal::MixedPermission => self.setting.isolation == Isolation::Strict,
            Refusal::SubPageWindow | Refusal::TooManyTables => self.guest.is_hostile,
        };
        if !is_plausible {
            return Err(format!(
                "{page:?} at {:?} is refused for no good reason: {reason:?}",
                at.iova
            ));
        }
        let Some(roots) = self.roots_of(at) else { return Ok(()) };
        let is_root = roots.iter().any(|&ttbr| decode_root(ttbr) == Some(page));
        match reason {
            Refusal::TooManyDomains => self.refused_tables.insert_all(roots),
            Refusal::PoolExhausted if is_root => self.refused_tables.insert_all(roots),
            Refusal::TableNotGuestMemory | Refusal::TooManyTables => {
                self.refused_tables.insert(roots, at.iova.0, is_root);
            }
            _ => {
                self.refused.insert(roots, at.iova.0);
                self.refused_early.insert(roots, at.iova.0);
            }
        }
        Ok(())
    }
}

/// Whether the change is of the page, not of the rights alone.
fn is_moved(history: &History, change: &Change) -> bool {
    mapped_page(history, change.before) != mapped_page(history, change.after)
}
