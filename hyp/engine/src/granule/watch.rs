//! Watches: IOVA ranges to which every access of a CPU is reported, with its value.
//!
//! All accesses to a page that is mapped in a watched range are trapped, whether the page has
//! copies or not, and are emulated like any access to a trapped page. A watch changes nothing that
//! CPUs or devices can observe. A page is trapped when it is mapped, or when the watch is set: at
//! once, or in later traps if many pages are mapped. After the watch or the mapping has ended, the
//! trap stays until a CPU accesses the page ([`GranuleMapper::relax_trap`]).
//!
//! Instruction fetches from a watched page, and table walks in it, cannot be emulated one by one.
//! The watch of that page is then given up, which is reported, until its granule is mapped again or
//! watches are set again.

use core::ops::{Range, RangeInclusive};

use oche_types::addr::{Gfn, Granule, IovaPage, PAGE_BYTES};
use oche_types::event::{Event, Place, WatchHow};
use oche_types::selection::{MAX_WATCHED_BYTES, MAX_WATCHES, Selection};

use crate::granule::alias::Mapping;
use crate::granule::state::GranuleState;
use crate::granule::watches::Pass;
use crate::granule::{BATCH, GranuleMapper};
use crate::host::{DomainId, Host};
use crate::mover::CpuTrap;

/// Most mappings of a page at which one access is reported.
const MAX_PLACES: usize = 4;
/// Most bytes of an access that are reported.
const MAX_BYTES: usize = 64;

/// Work of one trap to set watches: each page counts once, and once more for each of its mappings;
/// a watch without pages in a domain counts once.
const MAX_VISITS: usize = 1 << 14;

/// A CPU's access to a trapped page, which is reported if it is watched.
#[derive(Clone, Copy, Debug)]
pub struct WatchedAccess {
    /// The guest page.
    pub page: Gfn,
    /// Offset of the first byte in the page.
    pub offset: usize,
    /// Number of bytes. At most 64, and those inside the page, are reported.
    pub bytes: usize,
    /// Whether it was a store.
    pub is_write: bool,
    /// How the access was carried out.
    pub how: WatchHow,
}

impl GranuleMapper {
    /// Replaces the watched ranges by the first [`MAX_WATCHES`] of `ranges`.
    pub(crate) fn watch(&mut self, host: &mut impl Host, ranges: &[Selection]) {
        self.watches.ranges.clear();
        for range in ranges.iter().take(MAX_WATCHES) {
            let last = range.last.min(range.first.saturating_add(MAX_WATCHED_BYTES - 1));
            self.watches.ranges.push(Selection { last, ..*range });
        }
        self.begin_pass(host, 0..self.domains.len());
    }

    /// Traps accesses to what is mapped in watched ranges of `domain`, after a stream was attached
    /// to it.
    pub(crate) fn watch_domain(&mut self, host: &mut impl Host, domain: DomainId) {
        let domain = usize::from(domain.0);
        // A pass under way starts again and covers this domain.
        let is_alone = self.watches.pass.is_none();
        self.begin_pass(host, if is_alone { domain..domain + 1 } else { 0..self.domains.len() });
    }

    fn begin_pass(&mut self, host: &mut impl Host, domains: Range<usize>) {
        self.watches.pass = Some(Pass { domains, watch: 0, next: None });
        self.continue_watch_pass(host);
    }

    /// Traps accesses to what is mapped in watched ranges: continues the pass under way, as far as
    /// the work of one trap may go.
    pub(crate) fn continue_watch_pass(&mut self, host: &mut impl Host) {
        let mut left = MAX_VISITS;
        let mut broken = 0;
        while let Some(mut pass) = self.watches.pass.take() {
            if left == 0 {
                self.watches.pass = Some(pass);
                break;
            }
            let Some((granule, state, pages)) = self.next_watched(&pass) else {
                left -= 1;
                self.watches.pass = pass.skip(self.watches.ranges.len());
                continue;
            };
            for (slot, mapped) in state.slots.iter().enumerate() {
                let Some(mapped) = mapped.filter(|_| pages.contains(&granule.page(slot))) else {
                    continue;
                };
                left = left.saturating_sub(1 + self.mappings(mapped.page).count());
                self.retry_watch(mapped.page);
                self.break_if_watched(host, mapped.page);
                broken += 1;
                if broken == BATCH {
                    self.remap_pages(host);
                    broken = 0;
                }
            }
            pass.next = Some(Granule(granule.0 + 1));
            self.watches.pass = Some(pass);
        }
        self.remap_pages(host);
    }

    /// The next granule of `pass`, in its current domain and range, in which something is mapped,
    /// with its state and the range's pages.
    fn next_watched(
        &self,
        pass: &Pass,
    ) -> Option<(Granule, GranuleState, RangeInclusive<IovaPage>)> {
        let range = self
            .watches
            .ranges
            .get(pass.watch)
            .filter(|range| range.first <= u64::from(u32::MAX))?;
        let page = |iova: u64| IovaPage((iova.min(u64::from(u32::MAX)) / PAGE_BYTES as u64) as u32);
        let (first, last) = (page(range.first), page(range.last));
        let placed = self.domain(DomainId(pass.domains.start as u16))?;
        let from = pass.next.unwrap_or(first.granule());
        let (granule, state) = self.granule_map.find(&placed.directory, from..=last.granule())?;
        Some((granule, state, first..=last))
    }

    /// Breaks `page` if it needs a stricter trap than it has, so that [`Self::remap_pages`] sets
    /// that trap.
    pub(super) fn break_if_watched(&mut self, host: &mut impl Host, page: Gfn) {
        let trap = self.mover.trap(page);
        if trap == CpuTrap::All || self.needed_trap(page) <= trap {
            return;
        }
        match self.mover.prepare(host, page) {
            Ok(()) => self.mover.break_page(host, page),
            // Stage 2 has no memory for an entry for this page.
            Err(_) => self.give_up_watch(host, page),
        }
    }

    /// Allows `page` to be watched again after its watch was given up.
    pub(super) fn retry_watch(&mut self, page: Gfn) {
        self.mover.state_mut(page).flags.set_is_unwatchable(false);
    }

    /// Whether `page` is watched.
    pub(super) fn is_watched(&self, page: Gfn) -> bool {
        self.watches.are_set()
            && self.mover.get(page).is_some_and(|state| !state.flags.is_unwatchable())
            && self.mappings(page).any(|mapping| self.watched_at(mapping, 0, PAGE_BYTES).is_some())
    }

    /// The place at which the `bytes` bytes from `offset` of the page at `mapping` are watched, if
    /// they are.
    fn watched_at(&self, mapping: Mapping, offset: usize, bytes: usize) -> Option<Place> {
        let members = self.placed(mapping.domain).members;
        let iova = mapping.iova.iova().saturating_add(offset as u64);
        self.watches.ranges.iter().filter(|range| range.overlaps(iova, bytes as u64)).find_map(
            |range| {
                members.iter().find_map(|(dart, streams)| {
                    let stream = streams.iter().find(|stream| range.has_stream(dart, *stream))?;
                    Some(Place { dart, stream, iova: mapping.iova })
                })
            },
        )
    }

    /// Reports an access to watched bytes at each IOVA where they are watched. `load` returns a
    /// word of the access by index.
    pub(crate) fn report_watched(
        &self,
        host: &mut impl Host,
        watched: &WatchedAccess,
        load: impl Fn(usize) -> u64,
    ) {
        let WatchedAccess { page, offset, is_write, how, .. } = *watched;
        if !self.watches.are_set() || offset >= PAGE_BYTES {
            return;
        }
        let bytes = watched.bytes.min(MAX_BYTES).min(PAGE_BYTES - offset);
        let places = self
            .mappings(page)
            .filter_map(|mapping| self.watched_at(mapping, offset, bytes.max(1)));
        for at in places.take(MAX_PLACES) {
            let (offset, bytes) = (offset as u16, bytes as u8);
            host.event(Event::Watch { at, offset, page, bytes, is_write, how });
            for first in (0..usize::from(bytes).div_ceil(8)).step_by(2) {
                let word = |index: usize| {
                    let left = usize::from(bytes).saturating_sub(index * 8).min(8) as u32;
                    if left == 0 { 0 } else { load(index) & (u64::MAX >> (64 - 8 * left)) }
                };
                host.event(Event::Data { words: [word(first), word(first + 1)] });
            }
        }
    }

    /// Gives up the watch of `page`, because a CPU fetches from it or walks tables in it, or stage
    /// 2 has no memory.
    pub(crate) fn give_up_watch(&mut self, host: &mut impl Host, page: Gfn) {
        if !self.is_watched(page) {
            return;
        }
        if let Some(at) =
            self.mappings(page).find_map(|mapping| self.watched_at(mapping, 0, PAGE_BYTES))
        {
            let how = WatchHow::GivenUp;
            host.event(Event::Watch { at, offset: 0, page, bytes: 0, is_write: false, how });
        }
        self.mover.state_mut(page).flags.set_is_unwatchable(true);
    }
}
