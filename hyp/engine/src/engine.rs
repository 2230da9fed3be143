//! The engine's entry points: which stream belongs to which domain, and what happens in a trap.
//!
//! The only module that knows all stages. A guest's write goes to the emulated DART; if that asks
//! for an invalidation, the engine asks the tracker what changed and the granule mapper make
//! hardware equal to it. Work in one trap is bounded: what is left keeps the DART's busy bit set
//! and goes on when the guest polls it or touches any other register of a DART.

mod attach;
mod faults;
mod work;

use alloc::vec::Vec;
use core::ops::Range;

use oche_types::addr::{Gfn, Hfn, HostGranule, PAGE_BYTES};
use oche_types::dart::registers::{ERROR, TTBRS, Ttbr};
use oche_types::dart::stream::{DartId, Members, STREAMS, StreamSet};
use oche_types::event::Event;
use oche_types::selection::Selection;
use oche_types::{Invariant, invariant};

use crate::budget::{Budget, SLICE_BYTES};
use crate::emulated_dart::{AccessError, Command, EmulatedDart};
use crate::granule::alias::MAX_DOMAINS;
use crate::granule::watch::WatchedAccess;
use crate::granule::{GranuleMapper, Isolation, Requester, within};
use crate::heap::bytes_of;
use crate::host::{DomainId, Host};
use crate::mover::CpuTrap;
use crate::tracker::{Batch, Tracker};

/// What it costs to bring a page home and give it a twin.
const PIN_BYTES: usize = 6 * PAGE_BYTES;

/// What the engine is built for.
#[derive(Clone, Debug)]
pub struct Configuration<'a> {
    /// Emulated DARTs, at most [`oche_types::dart::stream::MAX_DARTS`].
    pub darts: usize,
    /// Guest RAM, ascending; nothing of Oche's own.
    pub ram: &'a [Range<Gfn>],
    /// Memory that is the engine's alone, for migrated pages and shadow tables.
    pub pool: Range<HostGranule>,
    /// How exactly permissions are kept.
    pub isolation: Isolation,
}

impl Configuration<'_> {
    fn pages(&self) -> usize {
        self.ram.iter().map(|range| range.end.0.saturating_sub(range.start.0) as usize).sum()
    }

    fn domains(&self) -> usize {
        (self.darts * STREAMS).min(MAX_DOMAINS)
    }

    /// Tables that can be tracked: as many as would map twice the guest's memory.
    fn tables(&self) -> usize {
        within(self.pages() / 256, 64, 8192) + TTBRS * self.domains()
    }

    /// The bytes of heap that an engine of this configuration takes, as a buddy allocator rounds
    /// them: all of them as it begins.
    pub fn heap_bytes(&self) -> usize {
        let frames = self.pool.end.0.saturating_sub(self.pool.start.0) as usize;
        let domains = self.domains();
        bytes_of::<Dart>(self.darts)
            + bytes_of::<Option<Domain>>(domains)
            + Tracker::bytes(self.tables(), domains)
            + GranuleMapper::bytes(self.pages(), self.ram.len(), frames, domains)
            // The batch in hand, and that of a domain that begins.
            + 2 * Batch::BYTES
    }
}

/// Everything about the guest's DMA.
#[derive(Debug)]
pub struct Engine {
    darts: Vec<Dart>,
    domains: Vec<Option<Domain>>,
    tracker: Tracker,
    mapper: GranuleMapper,
    /// Changes of the domain in hand, and how many of them have been acted on.
    batch: Batch,
    applied: usize,
    current_domain: Option<DomainId>,
    /// All tables of the domain in hand have been compared for `batch`.
    is_compared: bool,
    /// What could not be tracked of a domain that begins.
    creation_batch: Batch,
    slice_bytes: usize,
    is_busy: bool,
}

#[derive(Debug)]
struct Dart {
    registers: EmulatedDart,
    streams: [Attachment; STREAMS],
}

/// Where a stream's accesses go.
#[derive(Clone, Copy, Debug, Default)]
struct Attachment {
    /// What the hardware has attached.
    now: Option<DomainId>,
    /// What it will have once that domain's tables have been acted on.
    next: Option<DomainId>,
}

/// How a CPU reached for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// An instruction loads.
    Load,
    /// An instruction stores, or loads and stores.
    Store,
    /// An instruction is fetched.
    Fetch,
    /// The CPU walks the guest's tables there.
    Walk,
}

/// How a CPU goes on whose access was trapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum FaultDisposition {
    /// It tries again: the page is not trapped now.
    Retry,
    /// The page is trapped. The access is carried out by [`Engine::load_trapped`] and
    /// [`Engine::store_trapped`], or, whatever it is, between [`Engine::open_trapped`] and
    /// [`Engine::close_trapped`]; and the engine's lock is held from this answer to the end of
    /// that.
    Emulate(Gfn),
    /// It is no page of the guest's RAM.
    NotGuestMemory,
}

/// A set of tables of the guest, and the shadow of it.
#[derive(Debug)]
struct Domain {
    roots: [Ttbr; TTBRS],
    requester: Requester,
    /// Streams to attach once the tables have been acted on.
    waiting: Members,
    needs_flush: bool,
    /// The tables have been acted on: so many of the pages remain to be looked at that devices
    /// write in one copy and read in another.
    merges_left: Option<usize>,
    is_ending: bool,
}

impl Engine {
    /// All of the guest's memory at home, every stream blocked.
    pub fn new(configuration: &Configuration<'_>, host: &mut impl Host) -> Self {
        let domains = configuration.domains();
        let dart =
            || Dart { registers: EmulatedDart::new(), streams: [Attachment::default(); STREAMS] };
        Self {
            darts: (0..configuration.darts).map(|_| dart()).collect(),
            domains: (0..domains).map(|_| None).collect(),
            tracker: Tracker::new(configuration.tables(), domains),
            mapper: GranuleMapper::new(
                configuration.ram,
                configuration.pool.clone(),
                domains,
                configuration.isolation,
                host,
            ),
            batch: Batch::new(),
            applied: 0,
            current_domain: None,
            is_compared: false,
            creation_batch: Batch::new(),
            slice_bytes: SLICE_BYTES,
            is_busy: false,
        }
    }

    /// From now on one trap does `bytes` bytes of work instead of [`SLICE_BYTES`]: for tests of
    /// what is left over.
    pub fn set_slice_bytes(&mut self, bytes: usize) {
        self.slice_bytes = bytes;
    }

    /// The guest reads `bytes` bytes at `offset` of an emulated DART's registers.
    ///
    /// # Errors
    ///
    /// [`AccessError`] where no register answers: a bus error to the guest.
    pub fn read(
        &mut self,
        host: &mut impl Host,
        dart: DartId,
        offset: u64,
        bytes: usize,
    ) -> Result<u32, AccessError> {
        if dart.index() >= self.darts.len() {
            return Err(AccessError::Range);
        }
        if offset == ERROR {
            self.take_faults(host, dart);
        }
        if self.is_busy {
            self.work(host);
        }
        let emulated = self.darts.get(dart.index()).must("the DART is the guest's");
        let value = emulated.registers.read(offset, bytes, self.is_busy)?;
        host.event(Event::Register { dart, offset: offset as u16, is_write: false, value });
        Ok(value)
    }

    /// The guest writes `value`, of `bytes` bytes, at `offset` of an emulated DART's registers.
    ///
    /// # Errors
    ///
    /// [`AccessError`] where no register answers: a bus error to the guest.
    pub fn write(
        &mut self,
        host: &mut impl Host,
        dart: DartId,
        offset: u64,
        bytes: usize,
        value: u32,
    ) -> Result<(), AccessError> {
        let registers = &mut self.darts.get_mut(dart.index()).ok_or(AccessError::Range)?.registers;
        let command = registers.write(offset, bytes, value)?;
        host.event(Event::Register { dart, offset: offset as u16, is_write: true, value });
        match command {
            Command::None if self.is_busy => {
                self.work(host);
            }
            Command::None => {}
            Command::Recheck(streams) => {
                let mut waking = StreamSet::default();
                for stream in streams.iter() {
                    if self.roots(dart, stream).is_none() {
                        self.block(host, dart, stream);
                    } else if self.attachment(dart, stream).now.is_none() {
                        waking.insert(stream);
                    }
                }
                // A DART holds nothing of a stream that did not translate, so the stream begins at
                // once: Linux makes no invalidation when it writes saved registers back on resume.
                self.attach(host, dart, waking);
                self.work(host);
            }
            Command::Invalidate(streams) => {
                host.event(Event::Flush { dart, streams });
                self.attach(host, dart, streams);
                let slots = self.work(host);
                let pages = u32::try_from(slots).unwrap_or(u32::MAX);
                host.event(Event::FlushDone { dart, pages, is_busy: self.is_busy });
            }
        }
        Ok(())
    }

    /// A CPU's access at guest-physical `address` met a stage-2 entry that the engine had
    /// restricted, for stores or for everything. Returns how the CPU continues.
    pub fn access_trapped(
        &mut self,
        host: &mut impl Host,
        address: u64,
        access: AccessKind,
    ) -> FaultDisposition {
        let page = Gfn::containing(address).filter(|page| self.mapper.mover.is_ram(*page));
        let Some(page) = page else { return FaultDisposition::NotGuestMemory };
        if matches!(access, AccessKind::Fetch | AccessKind::Walk) {
            // What a watch alone had trapped is not any more, and copies are as without a watch.
            self.mapper.give_up_watch(host, page);
        }
        if access == AccessKind::Store {
            self.tracker.mark_unsync(host, &mut self.mapper.mover, page);
        }
        if self.mapper.relax_trap(host, page) {
            return FaultDisposition::Retry;
        }
        match (self.mapper.mover.trap(page), access) {
            (CpuTrap::None, _) | (CpuTrap::Writes, AccessKind::Load | AccessKind::Fetch) => {
                FaultDisposition::Retry
            }
            // A walk that meets a page which may be read wants to write: hardware's access flag.
            (_, AccessKind::Walk) | (CpuTrap::All, AccessKind::Fetch) => {
                self.mapper.drop_bounce_pages(host, page);
                FaultDisposition::Retry
            }
            (CpuTrap::Writes | CpuTrap::All, AccessKind::Load | AccessKind::Store) => {
                host.event(Event::Access { address, is_write: access == AccessKind::Store });
                FaultDisposition::Emulate(page)
            }
        }
    }

    /// What a CPU loads at `offset` of a trapped `page`: `bytes` bytes, 1 to 8 and inside the page,
    /// zero-extended. 0 for anything else.
    pub fn load_trapped(
        &mut self,
        host: &mut impl Host,
        page: Gfn,
        offset: usize,
        bytes: usize,
    ) -> u64 {
        self.mapper.load(host, page, offset, bytes)
    }

    /// A CPU stores the low `bytes` bytes of `value`, 1 to 8 and inside the page, at `offset` of a
    /// trapped `page`, or a virtual device at `offset` of any page. Anything else does nothing.
    pub fn store_trapped(
        &mut self,
        host: &mut impl Host,
        page: Gfn,
        offset: usize,
        bytes: usize,
        value: u64,
    ) {
        // A CPU's trap has opened the page; what a virtual device stores there did not trap.
        self.tracker.mark_unsync(host, &mut self.mapper.mover, page);
        self.mapper.store(host, page, offset, bytes, value);
    }

    /// Where one CPU may access the trapped `page` directly, in whatever way, all copies being up
    /// to date.
    ///
    /// Until [`Self::close_trapped`] no other CPU may reach the page, and no other call
    /// of the engine may be made.
    pub fn open_trapped(&mut self, host: &mut impl Host, page: Gfn) -> Hfn {
        self.mapper.open(host, page)
    }

    /// The CPU that had the trapped `page` opened has done with it.
    pub fn close_trapped(&mut self, host: &mut impl Host, page: Gfn) {
        self.mapper.settle(host, page);
    }

    /// A store-exclusive trapped on `page`, whose loads do not: its load-exclusive went by unseen.
    /// Until the trap goes, loads trap too, so that the next pair is seen whole.
    pub fn trap_loads(&mut self, host: &mut impl Host, page: Gfn) {
        self.mapper.trap_loads(host, page);
    }

    /// From now on CPUs' accesses to what is mapped in `ranges`, and to nothing else, are reported
    /// one by one.
    pub fn watch(&mut self, host: &mut impl Host, ranges: &[Selection]) {
        self.mapper.watch(host, ranges);
    }

    /// Goes on with what [`Self::watch`] left undone: it does no more at once than a trap may. Each
    /// trap calls this.
    pub fn continue_watch_pass(&mut self, host: &mut impl Host) {
        if self.has_pending_watches() {
            self.mapper.continue_watch_pass(host);
        }
    }

    /// Whether some of what is mapped where somebody watches is not watched yet.
    pub fn has_pending_watches(&self) -> bool {
        self.mapper.watches.are_pending()
    }

    /// Whether anything is watched.
    pub fn is_watching(&self) -> bool {
        self.mapper.watches.are_set()
    }

    /// A CPU's access to a trapped page was carried out: reports it if it is watched. `load` gives
    /// the value, a word at a time from the first byte on.
    pub fn report_watched(
        &self,
        host: &mut impl Host,
        watched: &WatchedAccess,
        load: impl Fn(usize) -> u64,
    ) {
        self.mapper.report_watched(host, watched, load);
    }

    /// One trap's work, for [`Self::pin_all`] and [`Self::unpin_all`].
    pub fn trap_budget(&self) -> Budget {
        Budget::new(self.slice_bytes)
    }

    /// An untranslated bus master is about to use `pages`: each comes home and stays there
    /// until [`Self::unpin`] was called as often as it was named here. Returns how many of the
    /// first are pinned: at least one, and not all where `budget` has no room for more. The caller
    /// comes again with the rest.
    #[must_use]
    pub fn pin_all(&mut self, host: &mut impl Host, pages: &[Gfn], budget: &mut Budget) -> usize {
        let mut count = 0;
        let mut reserve = self.mapper.reserve(0);
        for page in pages {
            budget.charge(PIN_BYTES);
            reserve = reserve.and(self.mapper.charge_merge(*page, budget));
            if budget.is_spent() && count != 0 {
                break;
            }
            // The master's stores do not trap.
            self.tracker.mark_unsync(host, &mut self.mapper.mover, *page);
            count += 1;
        }
        self.mapper.pin(host, pages.get(..count).must("no more pages are pinned than are named"));
        self.mapper.refund(reserve, budget);
        count
    }

    /// As [`Self::pin_all`], of one page.
    pub fn pin(&mut self, host: &mut impl Host, page: Gfn) {
        let pinned = self.pin_all(host, &[page], &mut self.trap_budget());
        invariant!(pinned == 1, "one page is always pinned");
    }

    /// The master has done with `page`. What it wrote there is in all copies on return.
    pub fn unpin(&mut self, host: &mut impl Host, page: Gfn) {
        self.mapper.unpin(host, page);
    }

    /// As [`Self::unpin`], of each of `pages`. Returns how many of the first are unpinned: at least
    /// one, and not all where `budget` has no room for more. The caller comes again with the rest.
    #[must_use]
    pub fn unpin_all(&mut self, host: &mut impl Host, pages: &[Gfn], budget: &mut Budget) -> usize {
        let mut count = 0;
        for page in pages {
            budget.charge(PIN_BYTES);
            let reserve = self.mapper.charge_merge(*page, budget);
            if budget.is_spent() && count != 0 {
                break;
            }
            self.mapper.unpin(host, *page);
            self.mapper.refund(reserve, budget);
            count += 1;
        }
        count
    }

    /// Whether `page` is guest RAM.
    pub fn is_ram(&self, page: Gfn) -> bool {
        self.mapper.mover.is_ram(page)
    }

    /// Where the bytes of `page` are now.
    pub fn locate(&self, page: Gfn) -> Hfn {
        self.mapper.mover.locate(page)
    }

    /// Frames of the pool that are free now.
    pub fn free_frames(&self) -> usize {
        self.mapper.pool.free_frames()
    }
}

impl Domain {
    fn is_due(&self) -> bool {
        self.needs_flush || self.is_ending
    }
}
