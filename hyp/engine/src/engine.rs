//! The engine on one page: which stream belongs to which domain, and what happens in a trap.
//!
//! The only module that knows all stages. A guest's write goes to the virtual DART; if that asks
//! for an invalidation, the engine has the tracker say what changed and the granule mapper make
//! hardware equal to it. Work in one trap is bounded: what is left keeps the DART's busy bit set
//! and goes on when the guest polls it or touches any other register of a DART.

use alloc::vec::Vec;
use core::ops::Range;

use oche_types::addr::{FRAME_BYTES, Gfn, Hfn, HostGranule, PAGE_BYTES};
use oche_types::dart::entry::{decode_leaf, decode_table};
use oche_types::dart::registers::{ERROR, FaultCode, TTBRS, Ttbr};
use oche_types::dart::stream::{DartId, Members, STREAMS, StreamId, StreamSet};
use oche_types::event::{Event, Place, Refusal};
use oche_types::selection::Selection;
use oche_types::{Invariant, invariant};

use crate::budget::{Budget, SLICE_BYTES};
use crate::granule::alias::MAX_DOMAINS;
use crate::granule::watch::Watched;
use crate::granule::{GranuleMapper, Isolation, Requester, within};
use crate::heap::bytes_of;
use crate::host::{DeviceFault, DomainId, Host};
use crate::mover::CpuTrap;
use crate::tracker::{Batch, Tracker};
use crate::vdart::AccessError;
use crate::vdart::{Command, VirtualDart};

/// What it costs to bring a page home and give it a twin.
const PIN_BYTES: usize = 6 * PAGE_BYTES;
/// What it costs to mark the tables of a domain that ends, as many as it can have.
const END_BYTES: usize = 129 * FRAME_BYTES;
/// Faults that one trap takes from the hardware.
const MAX_FAULTS: usize = 64;

/// What the engine is built for.
#[derive(Clone, Debug)]
pub struct Configuration<'a> {
    /// Virtual DARTs, at most [`oche_types::dart::stream::MAX_DARTS`].
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
    in_hand: Option<DomainId>,
    /// All tables of the domain in hand have been compared for `batch`.
    is_compared: bool,
    /// What could not be tracked of a domain that begins.
    opening: Batch,
    slice_bytes: usize,
    is_busy: bool,
}

#[derive(Debug)]
struct Dart {
    registers: VirtualDart,
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
    /// [`Engine::settle_trapped`]; and the engine's lock is held from this answer to the end of
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
    needs_sync: bool,
    /// The tables have been acted on: so many of the pages remain to be looked at that devices
    /// write in one copy and read in another.
    follow_left: Option<usize>,
    is_ending: bool,
}

impl Engine {
    /// All of the guest's memory at home, every stream blocked.
    pub fn new(configuration: &Configuration<'_>, host: &mut impl Host) -> Self {
        let domains = configuration.domains();
        let dart =
            || Dart { registers: VirtualDart::new(), streams: [Attachment::default(); STREAMS] };
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
            in_hand: None,
            is_compared: false,
            opening: Batch::new(),
            slice_bytes: SLICE_BYTES,
            is_busy: false,
        }
    }

    /// From now on one trap does `bytes` bytes of work instead of [`SLICE_BYTES`]: for tests of
    /// what is left over.
    pub fn set_slice_bytes(&mut self, bytes: usize) {
        self.slice_bytes = bytes;
    }

    /// The guest reads `bytes` bytes at `offset` of a virtual DART's registers.
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
        if offset == ERROR {
            self.take_faults(host);
        }
        if self.is_busy {
            self.work(host);
        }
        let is_busy = self.is_busy;
        let registers = &self.darts.get(dart.index()).ok_or(AccessError::Range)?.registers;
        let value = registers.read(offset, bytes, is_busy)?;
        host.event(Event::Register { dart, offset: offset as u16, is_write: false, value });
        Ok(value)
    }

    /// The guest writes `value`, of `bytes` bytes, at `offset` of a virtual DART's registers.
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
    /// restricted, for stores or for everything. Says how the CPU goes on.
    pub fn access_trapped(
        &mut self,
        host: &mut impl Host,
        address: u64,
        access: AccessKind,
    ) -> FaultDisposition {
        let page = Gfn::containing(address).filter(|page| self.mapper.mover.is_ram(*page));
        let Some(page) = page else { return FaultDisposition::NotGuestMemory };
        if matches!(access, AccessKind::Fetch | AccessKind::Walk) {
            // What a watch alone had trapped is not any more, and copies are as if nobody watched.
            self.mapper.stop_watching(host, page);
        }
        if access == AccessKind::Store {
            self.tracker.mark_unsync(host, &mut self.mapper.mover, page);
        }
        if self.mapper.relax(host, page) {
            return FaultDisposition::Retry;
        }
        match (self.mapper.mover.trap(page), access) {
            (CpuTrap::None, _) | (CpuTrap::Writes, AccessKind::Load | AccessKind::Fetch) => {
                FaultDisposition::Retry
            }
            // A walk that meets a page which may be read wants to write: hardware's access flag.
            (_, AccessKind::Walk) | (CpuTrap::All, AccessKind::Fetch) => {
                self.mapper.collapse(host, page);
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
    /// Until [`Self::settle_trapped`] no other CPU may reach the page, and nobody else may call the
    /// engine.
    pub fn open_trapped(&mut self, host: &mut impl Host, page: Gfn) -> Hfn {
        self.mapper.open(host, page)
    }

    /// The CPU that had the trapped `page` opened has done with it.
    pub fn settle_trapped(&mut self, host: &mut impl Host, page: Gfn) {
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
    pub fn go_on_watching(&mut self, host: &mut impl Host) {
        if self.is_setting_watches() {
            self.mapper.go_on_watching(host);
        }
    }

    /// Whether some of what is mapped where somebody watches is not watched yet.
    pub fn is_setting_watches(&self) -> bool {
        self.mapper.watches.are_being_set()
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
        watched: &Watched,
        load: impl Fn(usize) -> u64,
    ) {
        self.mapper.report_watched(host, watched, load);
    }

    /// One trap's work, for [`Self::pin_all`] and [`Self::unpin_all`].
    pub fn trap_budget(&self) -> Budget {
        Budget::new(self.slice_bytes)
    }

    /// A master that no DART translates is about to use `pages`: each comes home and stays there
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

    fn roots(&self, dart: DartId, stream: StreamId) -> Option<[Ttbr; TTBRS]> {
        self.darts.get(dart.index()).must("the DART is the guest's").registers.roots(stream)
    }

    fn attachment(&mut self, dart: DartId, stream: StreamId) -> &mut Attachment {
        let dart = self.darts.get_mut(dart.index()).must("the DART is the guest's");
        dart.streams.get_mut(stream.index()).must("a DART has 16 streams")
    }

    fn domain_mut(&mut self, domain: DomainId) -> &mut Domain {
        self.domains
            .get_mut(usize::from(domain.0))
            .and_then(Option::as_mut)
            .must("the domain is open")
    }

    /// Has each of `streams` go where the registers say, and its domain looked at.
    fn attach(&mut self, host: &mut impl Host, dart: DartId, streams: StreamSet) {
        for stream in streams.iter() {
            let Some(roots) = self.roots(dart, stream) else {
                self.block(host, dart, stream);
                continue;
            };
            let Some(domain) =
                self.find(roots).or_else(|| self.open(host, Requester { dart, stream }, roots))
            else {
                self.block(host, dart, stream);
                continue;
            };
            let entry = self.domain_mut(domain);
            entry.needs_sync = true;
            entry.requester = Requester { dart, stream };
            self.restart(domain);
            let attachment = self.attachment(dart, stream);
            if attachment.now == Some(domain) {
                self.stop_waiting(dart, stream);
            } else if attachment.next != Some(domain) {
                self.stop_waiting(dart, stream);
                self.attachment(dart, stream).next = Some(domain);
                self.domain_mut(domain).waiting.insert(dart, stream);
            }
        }
    }

    fn find(&self, roots: [Ttbr; TTBRS]) -> Option<DomainId> {
        let is_it = |domain: &Domain| !domain.is_ending && domain.roots == roots;
        self.domains
            .iter()
            .position(|domain| domain.as_ref().is_some_and(is_it))
            .map(|index| DomainId(index as u16))
    }

    /// Begins a domain, or refuses all that its tables map.
    fn open(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        roots: [Ttbr; TTBRS],
    ) -> Option<DomainId> {
        let free =
            self.domains.iter().position(Option::is_none).map(|index| DomainId(index as u16));
        let opened = match free {
            Some(domain) if self.mapper.create_domain(host, domain) => Ok(domain),
            Some(_) => Err(Refusal::PoolExhausted),
            None => Err(Refusal::TooManyDomains),
        };
        let domain = match opened {
            Ok(domain) => domain,
            Err(reason) => {
                let page =
                    Gfn(roots.iter().find(|root| root.valid()).map_or(0, |root| root.page()));
                let at = Place {
                    dart: requester.dart,
                    stream: requester.stream,
                    iova: oche_types::addr::IovaPage(0),
                };
                host.event(Event::Refused { at, page, reason });
                return None;
            }
        };
        let entry = self
            .domains
            .get_mut(usize::from(domain.0))
            .must("a domain has a number below the most");
        *entry = Some(Domain {
            roots,
            requester,
            waiting: Members::default(),
            needs_sync: true,
            follow_left: None,
            is_ending: false,
        });
        self.opening.clear();
        self.tracker.create_domain(host, &mut self.mapper.mover, domain, roots, &mut self.opening);
        report_rejected(host, requester, &self.opening);
        Some(domain)
    }

    /// Makes every access of `stream` fault, from now.
    fn block(&mut self, host: &mut impl Host, dart: DartId, stream: StreamId) {
        self.stop_waiting(dart, stream);
        let Some(domain) = self.attachment(dart, stream).now.take() else { return };
        host.block(dart, stream);
        host.event(Event::Attach { dart, stream, root: None });
        self.leave(dart, stream, domain);
    }

    fn stop_waiting(&mut self, dart: DartId, stream: StreamId) {
        let Some(domain) = self.attachment(dart, stream).next.take() else { return };
        self.domain_mut(domain).waiting.remove(dart, stream);
        self.pass_on(dart, stream, domain);
        self.end_if_unused(domain);
    }

    fn leave(&mut self, dart: DartId, stream: StreamId, domain: DomainId) {
        self.mapper.placed_mut(domain).members.remove(dart, stream);
        self.pass_on(dart, stream, domain);
        self.end_if_unused(domain);
    }

    /// `stream` has left `domain`: what is done there from now on is not its doing, unless nobody
    /// else is left.
    fn pass_on(&mut self, dart: DartId, stream: StreamId, domain: DomainId) {
        let member = Requester::first(&self.mapper.placed(domain).members);
        let entry = self.domain_mut(domain);
        if let Some(other) = member.or_else(|| Requester::first(&entry.waiting))
            && entry.requester == (Requester { dart, stream })
        {
            entry.requester = other;
        }
    }

    fn end_if_unused(&mut self, domain: DomainId) {
        let is_used = !self.mapper.placed(domain).members.is_empty();
        let entry = self.domain_mut(domain);
        if !is_used && entry.waiting.is_empty() && !entry.is_ending {
            entry.is_ending = true;
            self.restart(domain);
            self.tracker.end_domain(domain);
        }
    }

    /// Attaches the streams that waited for `domain` to be ready.
    fn attach_waiting(&mut self, host: &mut impl Host, domain: DomainId) {
        let entry = self.domain_mut(domain);
        let waiting = core::mem::take(&mut entry.waiting);
        let root = entry.roots.iter().find(|root| root.valid()).map(|root| Gfn(root.page()));
        let is_watched_anew = self.is_watching() && !waiting.is_empty();
        for (dart, streams) in waiting.iter() {
            for stream in streams.iter() {
                let placed = self.mapper.placed_mut(domain);
                placed.members.insert(dart, stream);
                let attached = host.attach(dart, stream, domain, placed.shadow.root());
                host.event(Event::Attach { dart, stream, root });
                if attached.is_err() {
                    // The stream is blocked, so its device faults until the guest attaches it anew;
                    // the trace has why.
                    host.event(Event::InvalidateTimedOut { dart });
                }
                let attachment = self.attachment(dart, stream);
                attachment.next = None;
                if let Some(old) = attachment.now.replace(domain) {
                    self.leave(dart, stream, old);
                }
            }
        }
        if is_watched_anew {
            self.mapper.watch_domain(host, domain);
        }
    }

    /// Does what is due, up to a bound. Returns how many slots were looked at; [`Self::is_busy`]
    /// says whether something is left.
    fn work(&mut self, host: &mut impl Host) -> usize {
        let mut budget = Budget::new(self.slice_bytes);
        let mut slots = 0;
        while let Some(domain) = self.due() {
            if budget.is_spent() {
                self.is_busy = true;
                return slots;
            }
            slots += self.work_on(host, domain, &mut budget);
        }
        self.is_busy = false;
        slots
    }

    /// The domain to go on with: the one whose changes are in hand, or the first of which something
    /// is due. A domain that becomes ready can end another, wherever that is in the list.
    fn due(&self) -> Option<DomainId> {
        let first =
            || self.domains.iter().position(|domain| domain.as_ref().is_some_and(Domain::is_due));
        self.in_hand.or_else(|| first().map(|domain| DomainId(domain as u16)))
    }

    /// One round of work on `domain`. Returns how many slots were looked at.
    fn work_on(&mut self, host: &mut impl Host, domain: DomainId, budget: &mut Budget) -> usize {
        let entry = self.domain_mut(domain);
        let (requester, is_ending) = (entry.requester, entry.is_ending);
        if let Some(mut left) = entry.follow_left.filter(|_| !is_ending) {
            let is_done = self.mapper.follow(host, domain, &mut left, budget);
            if is_done {
                self.complete(host, domain, budget);
            } else {
                self.domain_mut(domain).follow_left = Some(left);
            }
            return 0;
        }
        if self.in_hand.is_none() {
            self.batch.clear();
            self.is_compared =
                self.tracker.compare(host, &mut self.mapper, domain, &mut self.batch, budget);
            report_rejected(host, requester, &self.batch);
            (self.in_hand, self.applied) = (Some(domain), 0);
        }
        let rest = self
            .batch
            .changes
            .get(self.applied..)
            .must("no more changes are acted on than there are");
        let applied = self.mapper.apply(host, requester, domain, rest, budget);
        self.applied += applied;
        if self.applied == self.batch.changes.len() {
            self.in_hand = None;
            if self.is_compared && is_ending {
                self.complete(host, domain, budget);
            } else if self.is_compared {
                self.domain_mut(domain).follow_left = Some(usize::MAX);
            }
            // A refused table counts too: reporting it is work.
            return 4 * (applied + self.batch.rejected.len());
        }
        4 * applied
    }

    /// What was compared of `domain` so far is out of date: its tables are compared anew.
    fn restart(&mut self, domain: DomainId) {
        self.tracker.restart(domain);
        if self.in_hand == Some(domain) {
            self.is_compared = false;
        }
        self.domain_mut(domain).follow_left = None;
    }

    /// `domain` is as the guest's tables say.
    fn complete(&mut self, host: &mut impl Host, domain: DomainId, budget: &mut Budget) {
        let entry = self.domain_mut(domain);
        entry.needs_sync = false;
        entry.follow_left = None;
        if entry.is_ending {
            budget.charge(END_BYTES);
            self.tracker.destroy_domain(host, &mut self.mapper.mover, domain);
            self.mapper.destroy_domain(host, domain);
            *self.domains.get_mut(usize::from(domain.0)).must("the domain is open") = None;
        } else {
            self.tracker.count_sync(domain);
            self.attach_waiting(host, domain);
        }
    }

    /// Hands the faults that the hardware has recorded to the guest's DARTs.
    fn take_faults(&mut self, host: &mut impl Host) {
        for _ in 0..MAX_FAULTS {
            let Some(fault) = host.next_fault() else { return };
            // What the hardware says of a DART that the guest has not is nothing to it.
            if fault.dart.index() >= self.darts.len() {
                continue;
            }
            let code = self.fault_code(host, &fault);
            let dart = self.darts.get_mut(fault.dart.index()).must("the DART is the guest's");
            let is_hidden = !dart.registers.latch(fault.stream, code, fault.iova);
            host.event(Event::Fault {
                dart: fault.dart,
                stream: fault.stream,
                iova: fault.iova,
                code: code as u16,
                is_write: fault.is_write,
                is_hidden,
            });
        }
    }

    /// What a 4K DART would say of `fault`: how far its walk of the guest's tables comes.
    fn fault_code(&self, host: &impl Host, fault: &DeviceFault) -> FaultCode {
        let table = |page: Gfn, index: u64| {
            let is_ram = self.mapper.mover.is_ram(page);
            is_ram.then(|| host.load(self.locate(page), (index & 0x1ff) as usize))
        };
        let roots = self.roots(fault.dart, fault.stream).filter(|_| fault.iova >> 32 == 0);
        let root = roots.and_then(|roots| roots.get((fault.iova >> 30) as usize).copied());
        let Some(root) = root.filter(Ttbr::valid) else { return FaultCode::NoTtbr };
        let Some(leaves) = table(Gfn(root.page()), fault.iova >> 21).and_then(decode_table) else {
            return FaultCode::NoL1;
        };
        match table(leaves, fault.iova >> 12).and_then(decode_leaf) {
            Some(leaf) if fault.is_write && !leaf.permission.write => FaultCode::Write,
            Some(leaf) if !fault.is_write && !leaf.permission.read => FaultCode::Read,
            // Mapped by the guest and not by Oche: refused, or mapped since.
            _ => FaultCode::NoLeaf,
        }
    }
}

fn report_rejected(host: &mut impl Host, requester: Requester, batch: &Batch) {
    for table in &batch.rejected {
        let at = Place { dart: requester.dart, stream: requester.stream, iova: table.iova };
        host.event(Event::Refused { at, page: table.page, reason: table.reason });
    }
}

impl Domain {
    fn is_due(&self) -> bool {
        self.needs_sync || self.is_ending
    }
}
