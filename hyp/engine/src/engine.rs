//! The engine's entry points: attaching streams to domains, and the work of a trap.
//!
//! This is the only module that uses all stages. It passes a guest's write to the emulated DART. If
//! the write asks for an invalidation, the tracker finds what changed in the guest's tables, and
//! the granule mapper applies the changes to the hardware's tables. The work in one trap is
//! bounded. While some is left, the DART's busy bit stays set, and the engine continues when the
//! guest polls it or accesses any other register of this DART.

mod access;
mod attach;
mod domain_set;
mod faults;
mod stream_state;
mod work;

use alloc::vec::Vec;
use core::ops::Range;

use oche_types::addr::{Gfn, Hfn, HostGranule, PAGE_BYTES};
use oche_types::dart::registers::{ERROR, TTBRS, Ttbr};
use oche_types::dart::stream::{DartId, MAX_DARTS, Members, STREAMS, StreamSet};
use oche_types::event::Event;
use oche_types::selection::Selection;
use oche_types::{Invariant, invariant};

use crate::budget::{Budget, SLICE_BYTES};
use crate::emulated_dart::{AccessError, Command, EmulatedDart};
use crate::engine::domain_set::DomainSet;
use crate::engine::stream_state::StreamState;
use crate::granule::alias::MAX_DOMAINS;
use crate::granule::watch::WatchedAccess;
use crate::granule::{GranuleMapper, Isolation, Requester, blocks};
use crate::heap::{HeapPart, bytes_of};
use crate::host::Host;
use crate::mover::CpuTrap;
use crate::tracker::{Batch, Tracker};

/// Cost of moving a page home and giving it a twin, in bytes loaded and stored.
const PIN_BYTES: usize = 6 * PAGE_BYTES;

/// The machine and the options that the engine is created for.
#[derive(Clone, Debug)]
pub struct Configuration<'a> {
    /// Emulated DARTs, at most [`oche_types::dart::stream::MAX_DARTS`].
    pub darts: usize,
    /// Guest RAM, ascending, without Oche's own memory.
    pub ram: &'a [Range<Gfn>],
    /// Memory that only the engine uses, for migrated pages and shadow tables.
    pub pool: Range<HostGranule>,
    /// How exactly permissions are enforced.
    pub isolation: Isolation,
}

impl Configuration<'_> {
    fn pages(&self) -> usize {
        self.ram.iter().map(|range| range.end.0.saturating_sub(range.start.0) as usize).sum()
    }

    fn domains(&self) -> usize {
        (self.darts * STREAMS).min(MAX_DOMAINS)
    }

    /// Number of tables that can be tracked: leaf tables that map as much as the guest has memory,
    /// and each domain's first-level tables.
    fn tables(&self) -> usize {
        blocks(self.pages()) + TTBRS * self.domains()
    }

    /// The bytes of heap that [`Engine::new`] allocates with this configuration, as EL2's heap
    /// rounds them.
    pub fn heap_bytes(&self) -> usize {
        self.heap_parts().map(|part| part.bytes).into_iter().sum()
    }

    /// The parts of [`Self::heap_bytes`].
    pub fn heap_parts(&self) -> [HeapPart; 7] {
        let frames = self.pool.end.0.saturating_sub(self.pool.start.0) as usize;
        let domains = self.domains();
        let [states, granules, aliases, placed, lists] =
            GranuleMapper::heap_parts(self.pages(), self.ram.len(), frames, domains);
        let own = bytes_of::<Dart>(self.darts)
            + bytes_of::<Option<Domain>>(domains)
            + bytes_of::<Batch>(domains)
            + domains * Batch::BYTES;
        let tracked = Tracker::bytes(self.tables(), domains);
        [
            states,
            granules,
            HeapPart { name: "copies of guest tables", bytes: tracked },
            aliases,
            placed,
            lists,
            HeapPart { name: "DARTs, domains and batches", bytes: own },
        ]
    }
}

/// The mediation of the guest's DMA: emulated DARTs, domains, and the placement of pages.
#[derive(Debug)]
pub struct Engine {
    darts: Vec<Dart>,
    domains: Vec<Option<Domain>>,
    tracker: Tracker,
    mapper: GranuleMapper,
    /// Those of future domains.
    batches: Vec<Batch>,
    slice_bytes: usize,
}

#[derive(Debug)]
struct Dart {
    registers: EmulatedDart,
    streams: [StreamState; STREAMS],
    /// The domains with work left that this DART asked for.
    due: DomainSet,
}

impl Dart {
    /// Whether some work is left that this DART asked for.
    fn is_busy(&self) -> bool {
        !self.due.is_empty()
    }
}

/// How a CPU accessed a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// A data load.
    Load,
    /// A data store, or an instruction that loads and stores.
    Store,
    /// An instruction fetch.
    Fetch,
    /// A walk of the guest's stage-1 tables.
    Walk,
}

/// How a CPU continues after an access that stage 2 refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum FaultDisposition {
    /// The CPU repeats the access: the page is not trapped any more.
    Retry,
    /// The page is trapped. The caller carries out the access with [`Engine::load_trapped`] and
    /// [`Engine::store_trapped`], or executes it between [`Engine::open_trapped`] and
    /// [`Engine::close_trapped`]. It holds the engine's lock from this return until then.
    Emulate(Gfn),
    /// The address is not in the guest's RAM.
    NotGuestMemory,
}

/// A set of guest tables with its shadow tables.
#[derive(Debug)]
struct Domain {
    roots: [Ttbr; TTBRS],
    requester: Requester,
    /// Streams to attach once the tables have been applied.
    waiting: Members,
    pending: Pending,
    /// The DARTs that asked for what is pending: a bit each.
    asked_by: u32,
    /// What the last comparison found.
    batch: Batch,
    is_ending: bool,
}

const _: () = assert!(MAX_DARTS <= u32::BITS as usize, "`Domain::asked_by` has a bit a DART");

impl Domain {
    /// Whether this domain has the tables in `roots` and does not end.
    fn has_tables(&self, roots: &[Ttbr; TTBRS]) -> bool {
        self.roots == *roots && !self.is_ending
    }
}

/// What is left to do until a domain's shadow tables agree with the guest's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    /// Nothing.
    Nothing,
    /// The tables have to be compared, from the tracker's cursor on.
    Compare,
    /// The domain's batch has to be applied, from change `applied` on. `is_compared`: with it, all
    /// tables have been compared.
    Apply { applied: usize, is_compared: bool },
    /// The tables have been applied, and so many flush-merged pages have to be merged.
    Merge { left: usize },
}

impl Engine {
    /// Creates an engine with all of the guest's memory at home and every stream blocked.
    pub fn new(configuration: &Configuration<'_>, host: &mut impl Host) -> Self {
        let domains = configuration.domains();
        let dart = || Dart {
            registers: EmulatedDart::new(),
            streams: [StreamState::default(); STREAMS],
            due: DomainSet::default(),
        };
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
            batches: (0..domains).map(|_| Batch::new()).collect(),
            slice_bytes: SLICE_BYTES,
        }
    }

    /// Bounds the work of one trap to `bytes` bytes instead of [`SLICE_BYTES`], for tests of work
    /// that continues in a later trap.
    pub fn set_slice_bytes(&mut self, bytes: usize) {
        self.slice_bytes = bytes;
    }

    /// Reads `bytes` bytes at `offset` of an emulated DART's registers, for the guest.
    ///
    /// # Errors
    ///
    /// [`AccessError`] if no register answers; the guest takes a bus error.
    pub fn read(
        &mut self,
        host: &mut impl Host,
        dart: DartId,
        offset: u64,
        bytes: usize,
    ) -> Result<u32, AccessError> {
        if offset == ERROR && dart.index() < self.darts.len() {
            self.take_faults(host, dart);
        }
        if self.darts.get(dart.index()).ok_or(AccessError::Range)?.is_busy() {
            self.work(host, dart);
        }
        let entry = self.dart_mut(dart);
        let is_busy = entry.is_busy();
        let value = entry.registers.read(offset, bytes, is_busy)?;
        host.event(Event::Register { dart, offset: offset as u16, is_write: false, value });
        Ok(value)
    }

    /// Writes the `bytes` bytes of `value` at `offset` of an emulated DART's registers, for the
    /// guest.
    ///
    /// # Errors
    ///
    /// [`AccessError`] if no register answers; the guest takes a bus error.
    pub fn write(
        &mut self,
        host: &mut impl Host,
        dart: DartId,
        offset: u64,
        bytes: usize,
        value: u32,
    ) -> Result<(), AccessError> {
        let entry = self.darts.get_mut(dart.index()).ok_or(AccessError::Range)?;
        let command = entry.registers.write(offset, bytes, value)?;
        let is_busy = entry.is_busy();
        host.event(Event::Register { dart, offset: offset as u16, is_write: true, value });
        match command {
            Command::None if is_busy => {
                self.work(host, dart);
            }
            Command::None => {}
            Command::Recheck(streams) => self.recheck(host, dart, streams),
            Command::Invalidate(streams) => self.flush(host, dart, streams),
        }
        Ok(())
    }

    /// Blocks or attaches streams, after a write to a register that decides whether they translate.
    #[cold]
    #[inline(never)]
    fn recheck(&mut self, host: &mut impl Host, dart: DartId, streams: StreamSet) {
        let mut waking = StreamSet::default();
        for stream in streams.iter() {
            if self.roots(dart, stream).is_none() {
                self.block(host, dart, stream);
            } else if self.stream_mut(dart, stream).now().is_none() {
                waking.insert(stream);
            }
        }
        // A DART has cached nothing of a stream that did not translate, so the stream is attached
        // at once: Linux does not invalidate when it restores saved registers on resume.
        self.attach(host, dart, waking);
        self.work(host, dart);
    }

    /// Applies what has changed in the tables of `streams`.
    #[inline(never)]
    fn flush(&mut self, host: &mut impl Host, dart: DartId, streams: StreamSet) {
        host.event(Event::Flush { dart, streams });
        self.attach(host, dart, streams);
        let slots = self.work(host, dart);
        let pages = u32::try_from(slots).unwrap_or(u32::MAX);
        let is_busy = self.dart_mut(dart).is_busy();
        host.event(Event::FlushDone { dart, pages, is_busy });
    }

    /// Handles a CPU's access at guest-physical `address` that a stage-2 entry refused, because the
    /// engine traps stores or all accesses to the page. Returns how the CPU continues.
    pub fn access_trapped(
        &mut self,
        host: &mut impl Host,
        address: u64,
        access: AccessKind,
    ) -> FaultDisposition {
        let page = Gfn::containing(address).filter(|page| self.mapper.mover.is_ram(*page));
        let Some(page) = page else { return FaultDisposition::NotGuestMemory };
        let is_write = access == AccessKind::Store;
        let is_data = is_write || access == AccessKind::Load;
        if is_data && self.mapper.trapped_copies(page, is_write).is_some() {
            host.event(Event::Access { address, is_write });
            return FaultDisposition::Emulate(page);
        }
        if matches!(access, AccessKind::Fetch | AccessKind::Walk) {
            // A page that is trapped only for a watch is not trapped any more after this.
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
            // A walk that faults on a readable page writes: it updates the access flag.
            (_, AccessKind::Walk) | (CpuTrap::All, AccessKind::Fetch) => {
                self.mapper.drop_bounce_pages(host, page);
                FaultDisposition::Retry
            }
            (CpuTrap::Writes | CpuTrap::All, AccessKind::Load | AccessKind::Store) => {
                host.event(Event::Access { address, is_write });
                FaultDisposition::Emulate(page)
            }
        }
    }

    /// Loads `bytes` bytes (1 to 8, inside the page) at `offset` of a trapped `page` for a CPU.
    /// Returns them zero-extended.
    #[inline]
    pub fn load_trapped(
        &mut self,
        host: &mut impl Host,
        page: Gfn,
        offset: usize,
        bytes: usize,
    ) -> u64 {
        self.mapper.load(host, page, offset, bytes)
    }

    /// Stores the low `bytes` bytes (1 to 8, inside the page) of `value` at `offset` of `page`: for
    /// a CPU, to a trapped page; for a virtual device, to any page.
    pub fn store_trapped(
        &mut self,
        host: &mut impl Host,
        page: Gfn,
        offset: usize,
        bytes: usize,
        value: u64,
    ) {
        // A CPU's store has trapped and made the table unsync; a virtual device's store has not.
        self.tracker.mark_unsync(host, &mut self.mapper.mover, page);
        self.mapper.store(host, page, offset, bytes, value);
    }

    /// Reports CPUs' accesses to what is mapped in `ranges` one by one from now on, instead of
    /// those to the ranges before.
    pub fn watch(&mut self, host: &mut impl Host, ranges: &[Selection]) {
        self.mapper.watch(host, ranges);
    }

    /// Continues the pass that [`Self::watch`] began, which is limited to the work of one trap.
    /// Each trap calls this.
    pub fn continue_watch_pass(&mut self, host: &mut impl Host) {
        if self.has_pending_watches() {
            self.mapper.continue_watch_pass(host);
        }
    }

    /// Whether some pages that are mapped in watched ranges are not trapped yet.
    pub fn has_pending_watches(&self) -> bool {
        self.mapper.watches.are_pending()
    }

    /// Whether anything is watched.
    pub fn is_watching(&self) -> bool {
        self.mapper.watches.are_set()
    }

    /// Reports a CPU's access to a trapped page, after it was carried out, if it is watched. `load`
    /// returns the value, one word at a time from the first byte on.
    pub fn report_watched(
        &self,
        host: &mut impl Host,
        watched: &WatchedAccess,
        load: impl Fn(usize) -> u64,
    ) {
        self.mapper.report_watched(host, watched, load);
    }

    /// The budget of one trap, for [`Self::pin_all`] and [`Self::unpin_all`].
    pub fn trap_budget(&self) -> Budget {
        Budget::new(self.slice_bytes)
    }

    /// Pins `pages` for an untranslated bus master: moves each home, where it stays until
    /// [`Self::unpin`] has been called as often for it. Returns how many of the first are pinned:
    /// at least one, and fewer than all if `budget` is spent. The caller calls again with the
    /// others.
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

    /// As [`Self::pin_all`], for one page.
    pub fn pin(&mut self, host: &mut impl Host, page: Gfn) {
        let pinned = self.pin_all(host, &[page], &mut self.trap_budget());
        invariant!(pinned == 1, "one page is always pinned");
    }

    /// Ends one use of `page` by an untranslated bus master. On return, what the master wrote there
    /// is in all copies.
    pub fn unpin(&mut self, host: &mut impl Host, page: Gfn) {
        self.mapper.unpin(host, page);
    }

    /// As [`Self::unpin`], for each of `pages`. Returns how many of the first are unpinned: at
    /// least one, and fewer than all if `budget` is spent. The caller calls again with the others.
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

    /// The host page that holds `page` now, if it is guest RAM.
    #[inline]
    pub fn find(&self, page: Gfn) -> Option<Hfn> {
        self.mapper.mover.find(page)
    }

    /// The host page that holds `page` now.
    pub fn locate(&self, page: Gfn) -> Hfn {
        self.mapper.mover.locate(page)
    }

    /// Number of free frames in the pool.
    pub fn free_frames(&self) -> usize {
        self.mapper.pool.free_frames()
    }
}
