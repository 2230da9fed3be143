//! The granule mapper: places every mapped guest page where hardware with 16 KiB pages can reach
//! it, and moves it home when it is unmapped.
//!
//! A granule is *direct* if its four pages are one aligned frame at home: the hardware entry points
//! at the frame, and no page moves. If the hardware has windows, a run of fewer pages can be direct
//! too ([`direct`]). Otherwise the granule is *relocated*: it owns a frame of the pool, each of its
//! pages moves into a slot of the frame, and empty slots hold the red-zone pattern. A page that is
//! already mapped elsewhere gets a *bounce page*, a further copy. The copies of a page are made
//! equal whenever one of its mappings changes.
//!
//! Changes come in batches. In a batch, removals come first ([`removal`]), then additions
//! ([`addition`]). Each half needs one break-before-make for all pages that it moves and at most
//! one invalidation of the hardware.

pub(crate) mod addition;
pub(crate) mod alias;
mod batch;
mod copies;
pub(crate) mod copy_set;
mod cost;
mod cpu_trap;
mod direct;
mod env;
mod flush_merge;
mod pin;
mod plan;
pub(crate) mod removal;
mod split;
pub(crate) mod state;
mod strict;
pub(crate) mod watch;
mod watches;
mod whole;
mod work;

use alloc::vec::Vec;
use core::ops::Range;

use oche_types::addr::{Gfn, Granule, Hfn, HostGranule, PAGE_WORDS, SLOTS, SlotRun};
use oche_types::dart::entry::{ENTRIES, Leaf};
use oche_types::dart::stream::{DartId, Members, StreamId};
use oche_types::event::{Event, Place, Refusal};
use oche_types::{Invariant, invariant};

use crate::granule::alias::{Aliases, MAX_ALIASES};
use crate::granule::copy_set::CopySets;
use crate::granule::state::{Directory, Form, GranuleMap, GranuleState};
use crate::granule::watches::Watches;
use crate::granule::work::{HomeMove, MAX_HOME_MOVES, MergeCopy, PageCopy, UnmapOp, WholeGranule};
use crate::heap::{HeapPart, bytes_of};
use crate::host::{DomainId, Host, Memory, TraceSink};
use crate::mover::Mover;
use crate::pool::{Pool, RED_ZONE, red_zone_damage};
use crate::shadow::Shadow;

pub(crate) use crate::granule::work::BATCH;

/// Most pages that one batch moves: those that it maps and those that it unmaps.
const MAX_MOVING: usize = 2 * BATCH * SLOTS;
/// Most pages that a batch changes the mappings of: those that it maps and those that it unmaps.
const MAX_LISTED: usize = 2 * BATCH * SLOTS;
/// Frames that one change can need: one for the granule, one for a leaf table, and pages for twins.
const FRAMES_PER_CHANGE: usize = 4;

/// How exactly permissions are enforced if pages with different permissions share a granule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// A device reaches only pages that are mapped for it, but may access each page of a granule
    /// as it may access any of them.
    #[default]
    Page,
    /// Permissions are exact as well, as far as the hardware distinguishes reads from writes. A
    /// page that a device may only read is a private copy if the device may write a neighbour.
    /// What cannot be separated is refused.
    Strict,
}

/// What the guest now maps in one granule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) granule: Granule,
    pub(crate) wanted: [Option<Leaf>; SLOTS],
}

impl Change {
    /// Whether the guest maps anything in the granule.
    fn wants_pages(&self) -> bool {
        self.wanted.iter().any(Option::is_some)
    }
}

/// The stream on whose behalf a batch is applied, for events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Requester {
    pub(crate) dart: DartId,
    pub(crate) stream: StreamId,
}

impl Requester {
    /// The lowest of `members`, if there is one.
    pub(crate) fn first(members: &Members) -> Option<Self> {
        members
            .iter()
            .find_map(|(dart, streams)| Some(Self { dart, stream: streams.iter().next()? }))
    }

    /// The lowest of `members`, or the first stream of the first DART if there is none.
    fn of(members: &Members) -> Self {
        Self::first(members).unwrap_or(Self { dart: DartId::FIRST, stream: StreamId::FIRST })
    }

    fn at(self, granule: Granule, slot: usize) -> Place {
        Place { dart: self.dart, stream: self.stream, iova: granule.page(slot) }
    }
}

/// The granule mapper's part of a domain.
#[derive(Debug)]
pub(crate) struct PlacedDomain {
    pub(crate) shadow: Shadow,
    directory: Directory,
    /// Streams that are attached in the hardware.
    pub(crate) members: Members,
    /// Whether it may map a flush-merged page: see [`flush_merge`].
    has_flush_merged: bool,
}

/// The placement of all pages that devices may access.
#[derive(Debug)]
pub(crate) struct GranuleMapper {
    pub(crate) mover: Mover,
    pub(crate) pool: Pool,
    granule_map: GranuleMap,
    aliases: Aliases,
    domains: Vec<Option<PlacedDomain>>,
    /// Empty ones for future domains.
    directories: Vec<Directory>,
    isolation: Isolation,
    pub(crate) watches: Watches,
    unmap_ops: Vec<UnmapOp>,
    /// The whole granules that the batch maps.
    mapped_whole: Vec<WholeGranule>,
    /// The whole granules that the batch unmaps.
    unmapped_whole: Vec<WholeGranule>,
    copies: Vec<PageCopy>,
    /// Pages that move home to be pinned.
    home_moves: Vec<HomeMove>,
    /// Direct granules that must be relocated before the new mappings of the change fit.
    to_migrate: Vec<Change>,
    /// The changes that remove the bounce pages of a page: see [`Self::drop_bounce_pages`].
    dropped: Vec<Change>,
    /// Pages whose copies each flush makes equal: see [`flush_merge`].
    flush_merged: Vec<Gfn>,
    /// Pages that the current work has visited, each once.
    listed: Vec<Gfn>,
    /// The copies of the page that is being merged.
    merging: Vec<MergeCopy>,
    /// What is known of the pages that CPUs accessed last: see [`copy_set`].
    copy_sets: CopySets,
    /// Words that were merged, counted once for each copy of the page. Wraps around.
    merged_words: usize,
}

/// Number of blocks of the granule map, and of the guest's leaf tables, for `pages` pages of guest
/// RAM: those that map as much. Linux allocates IOVAs from the top, so that few tables are sparse.
pub(crate) const fn blocks(pages: usize) -> usize {
    clamp(pages / ENTRIES, 64, 8192)
}

/// Number of mappings of pages that are mapped more than once, for `pages` pages of guest RAM.
const fn max_aliases(pages: usize) -> usize {
    clamp(pages / 4, 1024, 1 << 20)
}

/// `number`, limited to `min..=max`.
const fn clamp(number: usize, min: usize, max: usize) -> usize {
    if number < min {
        min
    } else if number > max {
        max
    } else {
        number
    }
}

impl GranuleMapper {
    /// The heap that [`Self::new`] takes for `pages` pages of guest RAM in `ranges` ranges,
    /// `frames` frames of the pool and `domains` domains.
    pub(crate) const fn heap_parts(
        pages: usize,
        ranges: usize,
        frames: usize,
        domains: usize,
    ) -> [HeapPart; 5] {
        let aliases = Aliases::bytes(max_aliases(pages)) + bytes_of::<Gfn>(max_aliases(pages) / 2);
        let placed = bytes_of::<Option<PlacedDomain>>(domains)
            + bytes_of::<Directory>(domains)
            + domains * Directory::BYTES;
        let lists = Pool::bytes(frames)
            + Watches::BYTES
            + bytes_of::<UnmapOp>(BATCH)
            // `mapped_whole` and `unmapped_whole`.
            + 2 * bytes_of::<WholeGranule>(BATCH)
            + bytes_of::<PageCopy>(BATCH * SLOTS)
            + bytes_of::<HomeMove>(MAX_HOME_MOVES)
            // `to_migrate` and `dropped`.
            + 2 * bytes_of::<Change>(BATCH)
            + bytes_of::<Gfn>(MAX_LISTED)
            + bytes_of::<MergeCopy>(MAX_ALIASES + 1);
        [
            HeapPart { name: "states of pages", bytes: Mover::bytes(ranges, pages, MAX_MOVING) },
            HeapPart { name: "granule map", bytes: GranuleMap::bytes(blocks(pages)) },
            HeapPart { name: "aliases", bytes: aliases },
            HeapPart { name: "shadow tables' directories", bytes: placed },
            HeapPart { name: "lists of frames and of a batch", bytes: lists },
        ]
    }

    /// Creates a mapper with every page at home and nothing mapped.
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
            mapped_whole: Vec::with_capacity(BATCH),
            unmapped_whole: Vec::with_capacity(BATCH),
            copies: Vec::with_capacity(BATCH * SLOTS),
            home_moves: Vec::with_capacity(MAX_HOME_MOVES),
            to_migrate: Vec::with_capacity(BATCH),
            dropped: Vec::with_capacity(BATCH),
            flush_merged: Vec::with_capacity(aliases / 2),
            listed: Vec::with_capacity(MAX_LISTED),
            merging: Vec::with_capacity(MAX_ALIASES + 1),
            copy_sets: CopySets::new(),
            merged_words: 0,
        }
    }

    /// Creates `domain`, with nothing mapped. Returns false if the pool is exhausted.
    #[must_use]
    pub(crate) fn create_domain(&mut self, host: &mut impl Host, domain: DomainId) -> bool {
        let _ = self.pool.release_quarantined(host, FRAMES_PER_CHANGE);
        let entry = self
            .domains
            .get_mut(usize::from(domain.0))
            .must("a domain's number is below the maximum");
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
        let placed = placed.must("the domain exists");
        invariant!(placed.members.is_empty(), "a domain that ends has no streams");
        invariant!(placed.directory.is_empty(), "a domain that ends has nothing mapped");
        placed.shadow.give_all(host, &mut self.pool);
        self.directories.push(placed.directory);
    }

    /// The granule mapper's part of `domain`, if the domain exists.
    pub(crate) fn domain(&self, domain: DomainId) -> Option<&PlacedDomain> {
        self.domains.get(usize::from(domain.0)).and_then(Option::as_ref)
    }

    /// As [`Self::domain`], mutable.
    pub(crate) fn domain_mut(&mut self, domain: DomainId) -> Option<&mut PlacedDomain> {
        self.domains.get_mut(usize::from(domain.0)).and_then(Option::as_mut)
    }

    /// The granule mapper's part of `domain`, which exists.
    pub(crate) fn placed(&self, domain: DomainId) -> &PlacedDomain {
        self.domain(domain).must("the domain exists")
    }

    /// As [`Self::placed`], mutable.
    pub(crate) fn placed_mut(&mut self, domain: DomainId) -> &mut PlacedDomain {
        self.domain_mut(domain).must("the domain exists")
    }

    /// Makes sure that no device uses an entry that was removed from the tables of `domain` before.
    fn invalidate(&mut self, host: &mut impl Host, domain: DomainId) {
        let members = &self.placed(domain).members;
        if members.is_empty() {
            // No hardware is invalidated, which would publish the stores before a stream is
            // attached.
            host.publish();
        }
        if host.invalidate(domain, members).is_ok() {
            return;
        }
        // The hardware does not answer. What its devices may still reach is about to be reused, so
        // the streams are blocked: the guest sees faults, and the event gives the reason.
        for (dart, streams) in members.iter() {
            host.event(Event::InvalidateTimedOut { dart });
            for stream in streams.iter() {
                host.block(dart, stream);
            }
        }
    }

    fn state(&self, domain: DomainId, granule: Granule) -> &GranuleState {
        self.granule_map.get(&self.placed(domain).directory, granule)
    }

    /// Sets the state of a granule whose block is prepared.
    fn set_state(&mut self, domain: DomainId, granule: Granule, state: &GranuleState) {
        self.update_state(domain, granule, |old| *old = *state);
    }

    /// Lets `change` change the state of a granule whose block is prepared.
    #[inline]
    fn update_state(
        &mut self,
        domain: DomainId,
        granule: Granule,
        change: impl FnOnce(&mut GranuleState),
    ) {
        let placed = self.domains.get_mut(usize::from(domain.0)).and_then(Option::as_mut);
        let directory = &mut placed.must("the domain exists").directory;
        self.granule_map.update(directory, granule, change);
    }

    /// The hardware entry for `state`.
    fn entry(host: &impl Host, state: &GranuleState) -> u64 {
        match state.form {
            Form::Direct(frame) | Form::Relocated(frame) if !state.permission().is_none() => {
                host.leaf_entry(frame, state.permission(), Self::window(host, state))
            }
            _ => 0,
        }
    }

    /// The slots of `state` that devices can access through its hardware entry. The empty ones
    /// among them are red zones.
    fn window(host: &impl Host, state: &GranuleState) -> SlotRun {
        let mapped = state.slots.map(|slot| slot.is_some());
        if host.has_windows() {
            SlotRun::around(mapped).unwrap_or(SlotRun::ALL)
        } else {
            SlotRun::ALL
        }
    }

    /// Stores a hardware entry. Returns the entry before.
    fn set_entry(
        &mut self,
        host: &mut impl Host,
        domain: DomainId,
        granule: Granule,
        entry: u64,
    ) -> u64 {
        self.placed_mut(domain).shadow.set(host, granule, entry)
    }

    /// Reports and restores each red zone of `before` that a device has written, if devices no
    /// longer reach it by the entry for `after`. Those that stay red zones are checked when they
    /// end.
    fn check_red_zones(
        &self,
        host: &mut impl Host,
        requester: Requester,
        granule: Granule,
        before: &GranuleState,
        after: &GranuleState,
    ) {
        let Form::Relocated(frame) = before.form else { return };
        let reached = Self::window(host, before);
        let kept = (!after.is_vacant()).then(|| Self::window(host, after));
        for (slot, _) in before.slots.iter().enumerate().filter(|(_, slot)| slot.is_none()) {
            if !reached.contains(slot) || kept.is_some_and(|kept| kept.contains(slot)) {
                continue;
            }
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

/// Reports that a device wrote `bytes` bytes into the red zone in host page `page`, the first at
/// `offset`, and restores the page.
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
