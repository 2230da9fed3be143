//! The second half of a batch: new mappings.
//!
//! As in a removal ([`UnmapBatch`](crate::granule::removal::UnmapBatch)), the phases of a
//! [`MapBatch`] are types, so that its steps compile in one order only:
//!
//! ```
//! use oche_engine::phases::map::{MapBatch, Planned};
//! fn map<H: oche_engine::host::Host>(batch: MapBatch<'_, H, Planned>) {
//!     batch.drain().break_pages().fill_slots().remap().store_entries();
//! }
//! ```
//!
//! A slot that devices reach is filled only after a drain:
//!
//! ```compile_fail
//! use oche_engine::phases::map::{MapBatch, Planned};
//! fn map<H: oche_engine::host::Host>(batch: MapBatch<'_, H, Planned>) {
//!     batch.break_pages().fill_slots().remap().store_entries();
//! }
//! ```
//!
//! A page is broken only around its copy, not while the hardware drains:
//!
//! ```compile_fail
//! use oche_engine::phases::map::{MapBatch, Planned};
//! fn map<H: oche_engine::host::Host>(batch: MapBatch<'_, H, Planned>) {
//!     batch.break_pages().drain().fill_slots().remap().store_entries();
//! }
//! ```
//!
//! No CPU reaches a page while it is copied:
//!
//! ```compile_fail
//! use oche_engine::phases::map::{MapBatch, Planned};
//! fn map<H: oche_engine::host::Host>(batch: MapBatch<'_, H, Planned>) {
//!     batch.drain().fill_slots().remap().store_entries();
//! }
//! ```
//!
//! Devices reach a slot only after it is filled, and its stores published:
//!
//! ```compile_fail
//! use oche_engine::phases::map::{MapBatch, Planned};
//! fn map<H: oche_engine::host::Host>(batch: MapBatch<'_, H, Planned>) {
//!     batch.drain().break_pages().store_entries();
//! }
//! ```

use alloc::vec::Vec;
use core::marker::PhantomData;

use oche_types::addr::{Gfn, Granule, Hfn, IovaPage};
use oche_types::dart::entry::Leaf;
use oche_types::event::{Event, Place, Placement};
use oche_types::{Invariant, invariant};

use crate::granule::alias::{MAX_ALIASES, Mapping};
use crate::granule::plan::{self, Backing, Filling, Mappings, Plan, Step};
use crate::granule::state::{Form, GranuleState, Slot};
use crate::granule::work::{CopyKind, PageCopy, WholeGranule};
use crate::granule::{Change, GranuleMapper, Requester, refuse, report_red_zone};
use crate::host::{DomainId, Host, Iommu};
use crate::pool::red_zone_damage;

/// With the feature, every migrated page is copied into its neighbour's slot, so that tests which
/// compare bytes can be shown to fail. No image that a user runs is built with it.
const MISPLACED: usize = if cfg!(feature = "break-placement") { 1 } else { 0 };

/// Additions that are carried out together. `Phase` is the step that was made last.
#[must_use]
pub struct MapBatch<'a, H, Phase> {
    mapper: &'a mut GranuleMapper,
    host: &'a mut H,
    domain: DomainId,
    changes: &'a [Change],
    copies: Vec<PageCopy>,
    /// Those of the granules that are whole.
    whole: Vec<WholeGranule>,
    /// Whether a slot is filled that devices reach already.
    fills_reached_slot: bool,
    /// Whether a page that these granules map may be mapped elsewhere too.
    shares_pages: bool,
    phase: PhantomData<Phase>,
}

/// The granule map has the new mappings, and all memory that they need has been taken.
#[derive(Debug)]
pub struct Planned;
/// What devices wrote into the red zones of slots that are about to be filled has landed.
#[derive(Debug)]
pub struct Drained;
/// No CPU reaches the pages that move, or that get copies which CPUs' stores must reach.
#[derive(Debug)]
pub struct Broken;
/// Each new slot has its bytes.
#[derive(Debug)]
pub struct Filled;
/// CPUs reach the pages at their places, and the bytes are visible to devices.
#[derive(Debug)]
pub struct Remapped;

impl<'a, H: Host, Phase> MapBatch<'a, H, Phase> {
    /// The same batch after its next step.
    fn then<Next>(self) -> MapBatch<'a, H, Next> {
        let Self { mapper, host, domain, changes, copies, whole, .. } = self;
        let Self { fills_reached_slot, shares_pages, .. } = self;
        MapBatch {
            mapper,
            host,
            domain,
            changes,
            copies,
            whole,
            fills_reached_slot,
            shares_pages,
            phase: PhantomData,
        }
    }
}

impl<'a, H: Host> MapBatch<'a, H, Planned> {
    /// Waits for devices' writes to the red zones of slots that are about to be filled: they must
    /// have landed before a page of the guest moves there.
    pub fn drain(self) -> MapBatch<'a, H, Drained> {
        if self.fills_reached_slot {
            self.mapper.invalidate(self.host, self.domain);
        }
        self.then()
    }
}

impl<'a, H: Host> MapBatch<'a, H, Drained> {
    /// Breaks each page that moves, or to which CPUs' accesses are to be trapped: without the
    /// break, a CPU's store between the fill and the trap would reach one copy only.
    pub fn break_pages(self) -> MapBatch<'a, H, Broken> {
        for copy in &self.copies {
            let moves = matches!(copy.kind, CopyKind::Move | CopyKind::Demote);
            let trap = GranuleMapper::trap_for(copy.permission);
            if moves || trap > self.mapper.mover.trap(copy.page) {
                // It has a stage-2 entry of its own: it was prepared, or has moved before.
                self.mapper.mover.break_page(self.host, copy.page);
            }
        }
        self.mapper.mover.flush_tlb(self.host);
        self.then()
    }
}

impl<'a, H: Host> MapBatch<'a, H, Broken> {
    /// Copies the pages into their slots.
    pub fn fill_slots(self) -> MapBatch<'a, H, Filled> {
        for copy in &self.copies {
            self.mapper.fill_slot(self.host, self.domain, copy);
        }
        self.mapper.unlist_all();
        if self.shares_pages || self.mapper.watches.are_set() {
            self.mapper.update_mapped_pages(self.host, self.domain, self.changes);
        }
        self.then()
    }
}

impl<'a, H: Host> MapBatch<'a, H, Filled> {
    /// Maps the broken pages for CPUs again, and publishes the bytes.
    pub fn remap(self) -> MapBatch<'a, H, Remapped> {
        let is_anything_moving = self.mapper.mover.broken(0).is_some();
        self.mapper.remap_pages(self.host);
        if !is_anything_moving && !self.copies.is_empty() {
            // The bytes of bounce pages must be visible before the entries that let devices reach
            // them.
            self.host.publish();
        }
        self.then()
    }
}

impl<H: Host> MapBatch<'_, H, Remapped> {
    /// Stores the hardware entries. Invalidates if the hardware may have cached one that changed.
    pub fn store_entries(mut self) {
        let mut needs_invalidation = false;
        let mut whole = self.whole.iter().peekable();
        for change in self.changes.iter().filter(|change| change.wants_pages()) {
            let entry = match whole.next_if(|whole| whole.granule == change.granule) {
                Some(whole) => whole.entry(self.host),
                None => {
                    let state = self.mapper.state(self.domain, change.granule);
                    GranuleMapper::entry(self.host, state)
                }
            };
            let before = self.mapper.set_entry(self.host, self.domain, change.granule, entry);
            needs_invalidation |=
                before != entry && (before != 0 || caches_invalid_entries(self.host));
        }
        if needs_invalidation {
            self.mapper.invalidate(self.host, self.domain);
        } else {
            self.host.publish();
        }
        self.whole.clear();
        (self.mapper.copies, self.mapper.mapped_whole) = (self.copies, self.whole);
    }
}

impl GranuleMapper {
    /// Makes the mappings in `changes` that do not exist yet. Direct granules that must migrate
    /// before they can take theirs are added to `to_migrate`.
    pub(super) fn add<H: Host>(
        &mut self,
        host: &mut H,
        requester: Requester,
        domain: DomainId,
        changes: &[Change],
    ) {
        let mut copies = core::mem::take(&mut self.copies);
        copies.clear();
        let mut whole = core::mem::take(&mut self.mapped_whole);
        whole.retain(|whole| self.link_whole(host, requester, domain, whole));
        let mut next_whole = whole.iter().peekable();
        let mut fills_reached_slot = false;
        let mut shares_pages = false;
        // Each further mapping of a page takes a node of its list.
        let nodes = self.aliases.free_nodes();
        for change in changes.iter().filter(|change| change.wants_pages()) {
            if next_whole.next_if(|whole| whole.granule == change.granule).is_some() {
                continue;
            }
            let before = *self.state(domain, change.granule);
            shares_pages |= before.form != Form::Empty;
            match self.plan_change(host, domain, change, &before, &copies) {
                Plan::Map(mappings) => {
                    let planned = copies.len();
                    self.enter(
                        host,
                        requester,
                        domain,
                        (change.granule, &before),
                        &mappings,
                        &mut copies,
                    );
                    let planned = copies.get_mut(planned..).unwrap_or_default();
                    fills_reached_slot |= mark_reached(host, &before, planned);
                }
                Plan::Migrate(split) => self.plan_migration(change, &before, split),
                Plan::Unmap(_) | Plan::PrepareEntries(_) => {
                    unreachable!("invariant: what is not wanted was unmapped before")
                }
            }
        }
        shares_pages |= self.aliases.free_nodes() != nodes;
        let batch = MapBatch {
            mapper: self,
            host,
            domain,
            changes,
            copies,
            whole,
            fills_reached_slot,
            shares_pages,
            phase: PhantomData::<Planned>,
        };
        batch.drain().break_pages().fill_slots().remap().store_entries();
    }

    /// Plans `change` of a granule with `state`, after pages that need it have entries of their own
    /// in stage 2.
    pub(super) fn plan_change(
        &mut self,
        host: &mut impl Host,
        domain: DomainId,
        Change { granule, wanted }: &Change,
        state: &GranuleState,
        copies: &[PageCopy],
    ) -> Plan {
        let mut env = self.env(host);
        self.complete_env(host, domain, (*granule, state), wanted, copies, &mut env);
        loop {
            match plan::plan(state, wanted, &env) {
                Plan::PrepareEntries(shared) => {
                    self.prepare_entries(host, wanted, shared, &mut env);
                }
                plan => return plan,
            }
        }
    }

    /// Enters `mappings` of a granule that had state `before` into the granule map and the lists of
    /// the pages' mappings, takes the memory that they need, and adds the copies to make to
    /// `copies`. Done at once: the next plan of the batch must find the mappings.
    fn enter(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        domain: DomainId,
        (granule, before): (Granule, &GranuleState),
        mappings: &Mappings,
        copies: &mut Vec<PageCopy>,
    ) {
        let mut state = *before;
        match mappings.backing {
            Backing::Unchanged => {}
            Backing::Direct(frame) => state.form = Form::Direct(frame),
            Backing::NewFrame => {
                let frame = self.pool.take_frame().must("a plan takes no frame that is not there");
                state.form = Form::Relocated(frame);
            }
        }
        for (index, step) in mappings.steps.iter().enumerate() {
            if *step == Step::Demote {
                self.demote(requester.at(granule, index), state.mapped_mut(index), copies);
            }
        }
        for (index, step) in mappings.steps.iter().enumerate() {
            let at = requester.at(granule, index);
            match *step {
                Step::Keep | Step::Demote => {}
                Step::SetPermission(permission) => {
                    let slot = state.mapped_mut(index);
                    slot.permission = permission;
                    host.event(Event::Permission { at, page: slot.page, permission });
                }
                Step::Map(leaf, filling) => {
                    *state.slots.get_mut(index).must("a granule has four slots") = Some(
                        self.enter_page(host, domain, (at, state.form), leaf, filling, copies),
                    );
                }
                Step::Refuse(page, reason) => refuse(host, at, page, reason),
            }
        }
        match state.form {
            Form::Empty => self.release_unused(domain, granule),
            _ if state != *before => self.set_state(domain, granule, &state),
            _ => {}
        }
    }

    /// Enters the mapping of the page in `leaf` at `at`. Returns the slot.
    fn enter_page(
        &mut self,
        host: &mut impl Host,
        domain: DomainId,
        (at, form): (Place, Form),
        Leaf { page, permission, .. }: Leaf,
        filling: Filling,
        copies: &mut Vec<PageCopy>,
    ) -> Slot {
        let has_copies = self.link(domain, at.iova, page);
        let (kind, placement) = match filling {
            Filling::Direct => {
                // Copies that devices wrote are made equal with each new mapping, a direct one
                // included.
                if has_copies {
                    self.equalize_once(host, page);
                }
                host.event(Event::Map { at, page, permission, placement: Placement::Direct });
                return Slot { page, permission, is_bounce: false, is_filled: true };
            }
            Filling::Move => (CopyKind::Move, Placement::Migrated),
            Filling::Bounce => (CopyKind::Bounce, Placement::Bounce),
            Filling::BounceWithTwin => {
                let twin = self.pool.take_page().must("a plan takes no page that is not there");
                (CopyKind::WithTwin(twin), Placement::Bounce)
            }
        };
        let frame = match form {
            Form::Relocated(frame) => frame,
            _ => unreachable!("invariant: only a relocated granule takes pages into its frame"),
        };
        if kind == CopyKind::Move {
            self.mover.set_about_to_move(page);
        }
        let to = frame.page(at.iova.slot() ^ MISPLACED);
        copies.push(PageCopy { at, page, to, permission, kind, is_reached: false });
        host.event(Event::Map { at, page, permission, placement });
        let is_bounce = kind != CopyKind::Move;
        Slot { page, permission, is_bounce, is_filled: !is_bounce }
    }

    /// Plans to move the page in a read-only `slot` home, which makes the slot a bounce page.
    fn demote(&mut self, at: Place, slot: &mut Slot, copies: &mut Vec<PageCopy>) {
        (slot.is_bounce, slot.is_filled) = (true, false);
        let Slot { page, permission, .. } = *slot;
        self.mover.set_about_to_move(page);
        let kind = CopyKind::Demote;
        let to = page.home();
        copies.push(PageCopy { at, page, to, permission, kind, is_reached: false });
    }

    /// Adds the mapping at `iova` to those of `page`, which has room. Returns whether it has other
    /// mappings.
    fn link(&mut self, domain: DomainId, iova: IovaPage, page: Gfn) -> bool {
        let mappings = &mut self.mover.state_mut(page).mappings;
        let has_others = *mappings != crate::mover::NONE;
        let linked = self.aliases.add(mappings, Mapping { domain, iova }, MAX_ALIASES);
        invariant!(linked.is_ok(), "a plan maps no page that has no room in its list: {page:?}");
        has_others
    }

    /// Fills a slot. Copies are made in the order in which they were planned, so the bounce page of
    /// a page that moves in the same batch is copied from the page's new place.
    fn fill_slot(&mut self, host: &mut impl Host, domain: DomainId, copy: &PageCopy) {
        if copy.kind == CopyKind::Demote {
            self.equalize_once(host, copy.page);
            host.copy_page(self.mover.locate(copy.page), copy.to);
            self.mover.place(host, copy.page, copy.to);
            return self.set_filled(domain, copy.at);
        }
        // A fresh frame holds the pattern: nothing has reached it since it was freed.
        if copy.is_reached
            && let Some((offset, bytes)) = red_zone_damage(host, copy.to)
        {
            report_red_zone(host, copy.at, copy.to, (offset, bytes));
        }
        match copy.kind {
            CopyKind::Move => {
                host.copy_page(self.mover.locate(copy.page), copy.to);
                self.mover.place(host, copy.page, copy.to);
                return;
            }
            CopyKind::WithTwin(twin) => self.create_twin(host, copy.page, twin),
            CopyKind::Bounce | CopyKind::Demote => {}
        }
        if self.mover.is_pinned(copy.page) {
            // A bus master may have written the page, and no flush merges that.
            self.equalize_once(host, copy.page);
        }
        // Copied from the twin, not from the page: what devices wrote since the last merge is found
        // by the next one, which would take a difference for a device's write to this bounce page.
        // A page that a device reads and another writes is merged at the end of this flush.
        let from = self.twin(copy.page).unwrap_or(self.mover.locate(copy.page));
        host.copy_page(from, copy.to);
        self.set_filled(domain, copy.at);
    }

    /// Makes the copies of `page` equal, once in a batch. The next batch finds what devices write
    /// after that: until then, bytes are copied from the twin.
    fn equalize_once(&mut self, host: &mut impl Host, page: Gfn) {
        if self.list(page) {
            self.equalize(host, page);
        }
    }

    /// Copies `page` to all its bounce pages and to `twin`, which becomes its twin.
    pub(super) fn create_twin(&mut self, host: &mut impl Host, page: Gfn, twin: Hfn) {
        host.copy_page(self.mover.locate(page), twin);
        for (bounce, _) in self.bounce_pages(page) {
            host.copy_page(twin, bounce);
        }
        let state = self.mover.state_mut(page);
        invariant!(state.twin == 0, "a page has one twin: {page:?}");
        state.twin = twin.0;
    }

    /// Marks the bounce page at `at` as filled: from now on it is a copy of its page.
    fn set_filled(&mut self, domain: DomainId, at: Place) {
        let mut state = *self.state(domain, at.iova.granule());
        state.mapped_mut(at.iova.slot()).is_filled = true;
        self.set_state(domain, at.iova.granule(), &state);
    }

    /// Updates the state of each page in the granules of `changes`: adds it to the flush-merged
    /// pages if it has become one, and breaks it if a watch now asks for a stricter trap.
    fn update_mapped_pages(&mut self, host: &mut impl Host, domain: DomainId, changes: &[Change]) {
        let is_watching = self.watches.are_set();
        for change in changes {
            for slot in self.state(domain, change.granule).slots.into_iter().flatten() {
                if !is_watching && self.mappings(slot.page).nth(1).is_none() {
                    continue;
                }
                if self.list(slot.page) {
                    self.flush_merge_if_needed(slot.page);
                    if is_watching {
                        self.retry_watch(slot.page);
                        self.break_if_watched(host, slot.page);
                    }
                }
            }
        }
        self.unlist_all();
    }
}

/// Marks those of `copies` that fill slots of a granule with state `before` which devices reach
/// already. Returns whether there are any.
fn mark_reached(host: &impl Host, before: &GranuleState, copies: &mut [PageCopy]) -> bool {
    let Form::Relocated(_) = before.form else { return false };
    let reached = GranuleMapper::window(host, before);
    for copy in &mut *copies {
        copy.is_reached = reached.contains(copy.at.iova.slot());
    }
    copies.iter().any(|copy| copy.is_reached)
}

fn caches_invalid_entries<I: Iommu>(_: &I) -> bool {
    I::CACHES_INVALID_ENTRIES
}
