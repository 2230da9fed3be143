//! The granule mapper: gives every mapped guest page a place that 16K hardware can reach, and takes
//! it away again.
//!
//! A granule is *direct* when its four pages are one aligned frame and at home: hardware points
//! there and nothing moves. Where hardware has windows, so may be a run of fewer ([`direct`]).
//! Otherwise it is *relocated*: a frame of the pool belongs to it and each page moves into its
//! slot; empty slots hold the red-zone pattern. A page that is already mapped elsewhere gets a
//! *bounce page*, a further copy, which is made equal to the page whenever one of the page's
//! mappings changes.
//!
//! Changes come in batches. In each, removals come first ([`removal`]), then additions
//! ([`addition`]), each with one break-before-make of all the pages that it moves and at most one
//! invalidation of the hardware.

mod addition;
pub(crate) mod alias;
mod copies;
mod cost;
mod cpu_trap;
mod direct;
mod flush_merge;
mod pin;
mod removal;
pub(crate) mod state;
mod strict;
pub(crate) mod watch;
mod watches;
mod work;

use alloc::vec::Vec;
use core::ops::Range;

use oche_types::addr::{
    FRAME_BYTES, Gfn, Granule, Hfn, HostGranule, PAGE_BYTES, PAGE_WORDS, SLOTS, SlotRun,
};
use oche_types::dart::entry::Leaf;
use oche_types::dart::stream::{DartId, Members, StreamId};
use oche_types::event::{Event, Place, Refusal};
use oche_types::{Invariant, invariant};

use crate::budget::Budget;
use crate::granule::alias::{Aliases, MAX_ALIASES};
use crate::granule::state::{Directory, Form, GranuleMap, GranuleState};
use crate::granule::watches::Watches;
use crate::granule::work::{HomeMove, MAX_HOME_MOVES, MergeCopy, PageCopy, UnmapOp};
use crate::heap::bytes_of;
use crate::host::{DomainId, Host, Memory, TraceSink};
use crate::mover::Mover;
use crate::pool::{Pool, RED_ZONE, red_zone_damage};
use crate::shadow::Shadow;

pub(crate) use crate::granule::work::BATCH;

/// Pages that one batch moves: those that come and those that go.
const MAX_MOVING: usize = 2 * BATCH * SLOTS;
/// Pages that a batch is about: those that come and those that go.
const MAX_LISTED: usize = 2 * BATCH * SLOTS;
/// Frames that one change can need: one for the granule, one for a leaf table, and pages for twins.
const FRAMES_PER_CHANGE: usize = 4;
/// What it costs to act on changes, however few: stores published, and an invalidation that the
/// hardware confirms.
const APPLY_BYTES: usize = PAGE_BYTES;
/// What it costs to look for empty shadow tables in a domain: the states of 128.
const RECLAIM_BYTES: usize = 1024;

/// How exactly permissions are kept where pages of differing permission share a granule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Membership is exact; a device may do to each page of a granule what it may do to any of
    /// them.
    #[default]
    Page,
    /// Permissions are exact too, as far as the hardware distinguishes reads from writes: a page
    /// that a device may only read is a copy of its own where a neighbour may be written, and what
    /// cannot be kept apart is refused.
    Strict,
}

/// What the guest now wants of one granule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) granule: Granule,
    pub(crate) wanted: [Option<Leaf>; SLOTS],
}

/// On whose behalf a batch is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Requester {
    pub(crate) dart: DartId,
    pub(crate) stream: StreamId,
}

impl Requester {
    /// On behalf of the lowest of `members`, if there is one.
    pub(crate) fn first(members: &Members) -> Option<Self> {
        members
            .iter()
            .find_map(|(dart, streams)| Some(Self { dart, stream: streams.iter().next()? }))
    }

    /// On behalf of the lowest of `members`; of the first stream of all where there is none.
    fn of(members: &Members) -> Self {
        Self::first(members).unwrap_or(Self { dart: DartId::FIRST, stream: StreamId::FIRST })
    }

    fn at(self, granule: Granule, slot: usize) -> Place {
        Place { dart: self.dart, stream: self.stream, iova: granule.page(slot) }
    }
}

/// The state of a domain that the granule mapper keeps.
#[derive(Debug)]
pub(crate) struct PlacedDomain {
    pub(crate) shadow: Shadow,
    directory: Directory,
    /// Streams that the hardware has attached.
    pub(crate) members: Members,
    /// Whether it may map a flush-merged page: see [`flush_merge`].
    has_flush_merged: bool,
}

/// Everything about where pages are placed.
#[derive(Debug)]
pub(crate) struct GranuleMapper {
    pub(crate) mover: Mover,
    pub(crate) pool: Pool,
    granule_map: GranuleMap,
    aliases: Aliases,
    domains: Vec<Option<PlacedDomain>>,
    /// Empty, for domains to come.
    directories: Vec<Directory>,
    isolation: Isolation,
    pub(crate) watches: Watches,
    unmap_ops: Vec<UnmapOp>,
    copies: Vec<PageCopy>,
    /// Pages that move home to be pinned.
    home_moves: Vec<HomeMove>,
    /// Direct granules that have to be relocated before they can take what is newly wanted.
    to_migrate: Vec<Change>,
    /// Those of them that could not be.
    migrate_failed: Vec<(Granule, Refusal)>,
    /// The changes that remove the bounce pages of a page: see [`Self::drop_bounce_pages`].
    dropped: Vec<Change>,
    /// Pages whose copies each flush makes equal: see [`flush_merge`].
    flush_merged: Vec<Gfn>,
    /// Pages that the work under way is about, each once.
    listed: Vec<Gfn>,
    /// Where the copies of a page lie that are being made equal, and whether devices may write
    /// them.
    merging: Vec<MergeCopy>,
    /// Words that were merged, once for each copy of the page; it wraps around.
    merged_words: usize,
}

/// Blocks of the granule map for `pages` pages of guest RAM: as many leaf tables as would map twice
/// the guest's memory, and few enough to keep the granule map at about 1 % of it. Sparsely used,
/// that is more than a driver needs.
const fn blocks(pages: usize) -> usize {
    within(pages / 256, 64, 8192)
}

/// Mappings of pages that have more than one, for `pages` pages of guest RAM.
const fn max_aliases(pages: usize) -> usize {
    within(pages / 4, 1024, 1 << 20)
}

/// `number`, or the bound that it is beyond.
pub(crate) const fn within(number: usize, least: usize, most: usize) -> usize {
    if number < least {
        least
    } else if number > most {
        most
    } else {
        number
    }
}

impl GranuleMapper {
    /// Bytes of heap that [`Self::new`] takes for `pages` pages of guest RAM in `ranges` ranges,
    /// `frames` frames of the pool and `domains` domains.
    pub(crate) const fn bytes(pages: usize, ranges: usize, frames: usize, domains: usize) -> usize {
        let tables = Mover::bytes(ranges, pages, MAX_MOVING)
            + Pool::bytes(frames)
            + GranuleMap::bytes(blocks(pages))
            + Aliases::bytes(max_aliases(pages))
            + bytes_of::<Gfn>(max_aliases(pages) / 2)
            + Watches::BYTES
            + bytes_of::<Option<PlacedDomain>>(domains)
            + bytes_of::<Directory>(domains)
            + domains * Directory::BYTES;
        let lists = bytes_of::<UnmapOp>(BATCH)
            + bytes_of::<PageCopy>(BATCH * SLOTS)
            + bytes_of::<HomeMove>(MAX_HOME_MOVES)
            // Granules to migrate, and what is given up.
            + 2 * bytes_of::<Change>(BATCH)
            + bytes_of::<(Granule, Refusal)>(BATCH)
            + bytes_of::<Gfn>(MAX_LISTED)
            + bytes_of::<MergeCopy>(MAX_ALIASES + 1);
        tables + lists
    }

    /// Everything at home, nothing mapped.
    pub(crate) fn new(
        ram: &[Range<Gfn>],
        pool: Range<HostGranule>,
        max_domains: usize,
        isolation: Isolation,
        memory: &mut impl Memory,
    ) -> Self {
        let pages: usize =
            ram.iter().map(|range| range.end.0.saturating_sub(range.start.0) as usize).sum();
        let pool = Pool::new(pool, memory);
        let aliases = max_aliases(pages);
        Self {
            mover: Mover::new(ram, MAX_MOVING),
            pool,
            granule_map: GranuleMap::new(blocks(pages)),
            aliases: Aliases::new(aliases),
            domains: (0..max_domains).map(|_| None).collect(),
            directories: (0..max_domains).map(|_| Directory::new()).collect(),
            isolation,
            watches: Watches::new(),
            unmap_ops: Vec::with_capacity(BATCH),
            copies: Vec::with_capacity(BATCH * SLOTS),
            home_moves: Vec::with_capacity(MAX_HOME_MOVES),
            to_migrate: Vec::with_capacity(BATCH),
            migrate_failed: Vec::with_capacity(BATCH),
            dropped: Vec::with_capacity(BATCH),
            flush_merged: Vec::with_capacity(aliases / 2),
            listed: Vec::with_capacity(MAX_LISTED),
            merging: Vec::with_capacity(MAX_ALIASES + 1),
            merged_words: 0,
        }
    }

    /// Begins `domain`, with nothing mapped. False: the pool is exhausted.
    #[must_use]
    pub(crate) fn create_domain(&mut self, host: &mut impl Host, domain: DomainId) -> bool {
        let _ = self.pool.release_quarantined(host, FRAMES_PER_CHANGE);
        let entry = self
            .domains
            .get_mut(usize::from(domain.0))
            .must("a domain has a number below the most");
        let Some(shadow) = Shadow::new(host, &mut self.pool) else { return false };
        let directory = self.directories.pop().must("each domain has a directory");
        *entry = Some(PlacedDomain {
            shadow,
            directory,
            members: Members::default(),
            has_flush_merged: false,
        });
        true
    }

    /// Ends `domain`, of which nothing is mapped and to which no stream is attached.
    pub(crate) fn destroy_domain(&mut self, host: &mut impl Host, domain: DomainId) {
        self.invalidate(host, domain);
        let placed = self.domains.get_mut(usize::from(domain.0)).and_then(Option::take);
        let placed = placed.must("the domain is open");
        invariant!(placed.members.is_empty(), "a domain that ends has no streams");
        invariant!(placed.directory.is_empty(), "a domain that ends has nothing mapped");
        placed.shadow.give_all(host, &mut self.pool);
        self.directories.push(placed.directory);
    }

    /// The placed half of `domain`, if that is open.
    pub(crate) fn domain(&self, domain: DomainId) -> Option<&PlacedDomain> {
        self.domains.get(usize::from(domain.0)).and_then(Option::as_ref)
    }

    /// As [`Self::domain`], to change.
    pub(crate) fn domain_mut(&mut self, domain: DomainId) -> Option<&mut PlacedDomain> {
        self.domains.get_mut(usize::from(domain.0)).and_then(Option::as_mut)
    }

    /// The placed half of `domain`, which is open.
    pub(crate) fn placed(&self, domain: DomainId) -> &PlacedDomain {
        self.domain(domain).must("the domain is open")
    }

    /// As [`Self::placed`], to change.
    pub(crate) fn placed_mut(&mut self, domain: DomainId) -> &mut PlacedDomain {
        self.domain_mut(domain).must("the domain is open")
    }

    /// Makes the hardware equal to the first of `changes` of `domain`, at most [`BATCH`] of
    /// different granules: as many as `budget` allows, and one at least. Returns how many they
    /// were.
    #[must_use]
    pub(crate) fn apply(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        domain: DomainId,
        changes: &[Change],
        budget: &mut Budget,
    ) -> usize {
        invariant!(changes.len() <= BATCH, "a batch has a bounded number of changes");
        self.release_quarantined(host, changes.len(), budget);
        let (count, reserve) = self.affordable(domain, changes, budget);
        let changes = changes.get(..count).must("what can be afforded are some of the changes");
        if changes.is_empty() {
            return 0;
        }
        self.migrate_failed.clear();
        budget.charge(APPLY_BYTES);
        self.remove(host, requester, domain, changes);
        self.reclaim(host, changes.len(), budget);
        self.add(host, requester, domain, changes);
        if !self.to_migrate.is_empty() {
            let to_migrate = core::mem::take(&mut self.to_migrate);
            self.migrate(host, requester, domain, &to_migrate);
            self.add(host, requester, domain, &to_migrate);
            self.to_migrate = to_migrate;
            self.to_migrate.clear();
        }
        self.refund(reserve, budget);
        count
    }

    /// Makes sure that no device uses what was taken out of the tables of `domain` before.
    fn invalidate(&mut self, host: &mut impl Host, domain: DomainId) {
        let members = self.placed(domain).members;
        if members.is_empty() {
            // No hardware is asked, so nothing else makes what was stored visible before a stream
            // is attached.
            host.publish();
        }
        if host.invalidate(domain, &members).is_ok() {
            return;
        }
        // The hardware does not answer. What its devices may still reach is about to belong to
        // somebody else, so they are cut off; the guest sees faults, and the trace has the reason.
        for (dart, streams) in members.iter() {
            host.event(Event::InvalidateTimedOut { dart });
            for stream in streams.iter() {
                host.block(dart, stream);
            }
        }
    }

    /// Takes back the frames that `changes` changes can need and that hardware has confirmed
    /// meanwhile, since a mapping that is refused is not tried again. Each is marked anew and
    /// charged to `budget`; those of one change come back in any case, and no more changes are made
    /// where the budget has no room for more frames.
    fn release_quarantined(&mut self, host: &mut impl Host, changes: usize, budget: &mut Budget) {
        let wanted = (FRAMES_PER_CHANGE * changes).saturating_sub(self.pool.free_frames());
        let most = wanted.min(budget.affords(FRAME_BYTES)).max(FRAMES_PER_CHANGE);
        let count = self.pool.release_quarantined(host, most);
        budget.charge(count * FRAME_BYTES);
    }

    /// Takes back empty shadow tables while the pool could run short in a batch of `changes`
    /// granules.
    fn reclaim(&mut self, host: &mut impl Host, changes: usize, budget: &mut Budget) {
        for index in 0..self.domains.len() {
            if self.pool.free_frames() >= FRAMES_PER_CHANGE * changes {
                return;
            }
            let domain = DomainId(index as u16);
            let Some(placed) = self.domain_mut(domain) else { continue };
            budget.charge(RECLAIM_BYTES);
            if placed.shadow.unlink_empty(host) {
                self.invalidate(host, domain);
                let placed =
                    self.domains.get_mut(index).and_then(Option::as_mut).must("the domain is open");
                budget.charge(FRAME_BYTES * placed.shadow.give_unlinked(host, &mut self.pool));
            }
        }
    }

    fn state(&self, domain: DomainId, granule: Granule) -> GranuleState {
        self.granule_map.get(&self.placed(domain).directory, granule)
    }

    /// Writes `state` of a granule whose block is prepared.
    fn set_state(&mut self, domain: DomainId, granule: Granule, state: GranuleState) {
        let placed = self.domains.get_mut(usize::from(domain.0)).and_then(Option::as_mut);
        self.granule_map.set(&mut placed.must("the domain is open").directory, granule, state);
    }

    /// The hardware entry that `state` asks for.
    fn entry(host: &impl Host, state: &GranuleState) -> u64 {
        match state.form {
            Form::Direct(frame) | Form::Relocated(frame) if !state.permission().is_none() => {
                host.leaf_entry(frame, state.permission(), Self::window(host, state))
            }
            _ => 0,
        }
    }

    /// The slots of `state` that its hardware entry lets devices reach. Those of them that are
    /// empty are red zones.
    fn window(host: &impl Host, state: &GranuleState) -> SlotRun {
        let mapped = state.slots.map(|slot| slot.is_some());
        if host.has_windows() {
            SlotRun::around(mapped).unwrap_or(SlotRun::ALL)
        } else {
            SlotRun::ALL
        }
    }

    /// Stores the hardware entry that `state` asks for. Returns the entry before and the one now.
    fn set_entry(
        &mut self,
        host: &mut impl Host,
        domain: DomainId,
        granule: Granule,
        state: &GranuleState,
    ) -> (u64, u64) {
        let entry = Self::entry(host, state);
        (self.placed_mut(domain).shadow.set(host, granule, entry), entry)
    }

    /// Reports and repairs each empty slot of `state` that a device wrote into.
    fn check_red_zones(
        &self,
        host: &mut impl Host,
        requester: Requester,
        granule: Granule,
        state: &GranuleState,
    ) {
        let Form::Relocated(frame) = state.form else { return };
        for (slot, _) in state.slots.iter().enumerate().filter(|(_, slot)| slot.is_none()) {
            if let Some((offset, bytes)) = red_zone_damage(host, frame.page(slot)) {
                report_red_zone(
                    host,
                    requester.at(granule, slot),
                    frame.page(slot),
                    (offset, bytes),
                );
            }
        }
    }
}

/// Reports what a device wrote into the red zone in host page `page`, `bytes` bytes of which the
/// first is at `offset`, and repairs the page.
fn report_red_zone(host: &mut impl Host, at: Place, page: Hfn, (offset, bytes): (u16, u16)) {
    host.event(Event::RedZone { at, offset, bytes });
    let load = |at: usize| if at < PAGE_WORDS { host.load(page, at) } else { 0 };
    let (first, shift) = (usize::from(offset) / 8, 8 * (u32::from(offset) % 8));
    let joined =
        |at: usize| (load(at) >> shift) | load(at + 1).checked_shl(64 - shift).unwrap_or(0);
    let data = [joined(first), joined(first + 1)];
    host.event(Event::Data { words: data });
    host.fill_page(page, RED_ZONE);
}

/// Reports a refused mapping.
fn refuse(sink: &mut impl TraceSink, at: Place, page: Gfn, reason: Refusal) {
    sink.event(Event::Refused { at, page, reason });
}
