//! Watches: IOVA ranges of which every access by a CPU is reported, with its value.
//!
//! A page that is mapped in a watched range has every access trapped, whether it has copies or
//! not, so each access to it traps and is emulated like any access to a trapped page; that is all
//! that a watch adds to what traps do, and what CPUs and devices see stays the same. A page
//! comes to be trapped when it is mapped or when the watch is set: at once, or in the traps that
//! follow where much is mapped. It stays so when either ends, until a CPU touches it:
//! [`GranuleMapper::relax_trap`] finds out.
//!
//! A CPU that fetches instructions from a watched page, or walks tables in it, cannot be helped
//! along one access at a time. Then the page's watch is given up, which is reported, until its
//! granule is mapped anew or watches are set anew.

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

/// Places of which an access is reported, where several mappings of a page are watched.
const MAX_PLACES: usize = 4;
/// Bytes that an event of a watch can report.
const MAX_BYTES: usize = 64;

/// Pages that one trap looks at to set watches, each counted once and once more for each of its
/// mappings; and empty watches of a domain.
const MAX_VISITS: usize = 1 << 14;

/// An access of a CPU to a trapped page, to be reported if it is watched.
#[derive(Clone, Copy, Debug)]
pub struct WatchedAccess {
    /// The guest page.
    pub page: Gfn,
    /// The first byte's offset in it.
    pub offset: usize,
    /// How many bytes; what is more than 64 or reaches out of the page is cut.
    pub bytes: usize,
    /// Whether it was a store.
    pub is_write: bool,
    /// What is known of it.
    pub how: WatchHow,
}

impl GranuleMapper {
    /// Watches `ranges`, at most [`MAX_WATCHES`], instead of what was watched.
    pub(crate) fn watch(&mut self, host: &mut impl Host, ranges: &[Selection]) {
        self.watches.ranges.clear();
        for range in ranges.iter().take(MAX_WATCHES) {
            let last = range.last.min(range.first.saturating_add(MAX_WATCHED_BYTES - 1));
            self.watches.ranges.push(Selection { last, ..*range });
        }
        self.begin_pass(host, 0..self.domains.len());
    }

    /// Traps accesses to what is mapped in watched ranges of `domain`: a stream of the domain
    /// is new.
    pub(crate) fn watch_domain(&mut self, host: &mut impl Host, domain: DomainId) {
        let domain = usize::from(domain.0);
        // A pass that is under way begins anew, with this domain in it.
        let is_alone = self.watches.pass.is_none();
        self.begin_pass(host, if is_alone { domain..domain + 1 } else { 0..self.domains.len() });
    }

    fn begin_pass(&mut self, host: &mut impl Host, domains: Range<usize>) {
        self.watches.pass = Some(Pass { domains, watch: 0, next: None });
        self.continue_watch_pass(host);
    }

    /// Traps accesses to what is mapped in watched ranges: as much as one trap may do of the
    /// pass under way.
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

    /// The next granule of `pass` in its domain and watch of which something is mapped, and the
    /// pages that are watched.
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

    /// Takes `page` out of the CPUs' reach if it needs a stricter trap than it has, so that
    /// [`Self::remap_pages`] gives it that.
    pub(super) fn break_if_watched(&mut self, host: &mut impl Host, page: Gfn) {
        let trap = self.mover.trap(page);
        if trap == CpuTrap::All || self.needed_trap(page) <= trap {
            return;
        }
        match self.mover.prepare(host, page) {
            Ok(()) => self.mover.break_page(host, page),
            // Stage 2 has no memory for an entry of the page's own.
            Err(_) => self.give_up_watch(host, page),
        }
    }

    /// A watch of `page` that was given up is tried once more.
    pub(super) fn retry_watch(&mut self, page: Gfn) {
        if let Some(state) = self.mover.get_mut(page) {
            state.is_unwatchable = false;
        }
    }

    /// Whether CPUs' accesses to `page` are reported.
    pub(super) fn is_watched(&self, page: Gfn) -> bool {
        self.watches.are_set()
            && self.mover.get(page).is_some_and(|state| !state.is_unwatchable)
            && self.mappings(page).any(|mapping| self.watched_at(mapping, 0, PAGE_BYTES).is_some())
    }

    /// The stream on whose behalf the `bytes` bytes from `offset` of the page at `mapping` are
    /// watched, if they are.
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

    /// Reports an access to watched bytes, each of whose words `load` gives, at every IOVA where
    /// they are watched.
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

    /// Gives up the watch of `page`: a CPU fetches from it, or walks tables there.
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
        self.mover.state_mut(page).is_unwatchable = true;
    }
}
