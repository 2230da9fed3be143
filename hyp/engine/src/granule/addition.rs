//! The second half of a batch: new mappings.

use alloc::vec::Vec;

use oche_types::addr::{Gfn, Granule, Hfn, SLOTS};
use oche_types::dart::entry::Leaf;
use oche_types::event::{Event, Place, Placement, Refusal};
use oche_types::{Invariant, invariant};

use crate::granule::alias::{MAX_ALIASES, MAX_WRITTEN_ALIASES, Mapping};
use crate::granule::state::{Form, GranuleState, Slot};
use crate::granule::work::{CopyKind, PageCopy};
use crate::granule::{Change, GranuleMapper, Requester, refuse, report_red_zone};
use crate::host::{DomainId, Host, Iommu};
use crate::pool::red_zone_damage;

/// With the feature, every migrated page is copied into its neighbour's slot, so that tests which
/// compare bytes can be shown to fail. No image that a user runs is built with it.
const MISPLACED: usize = if cfg!(feature = "break-placement") { 1 } else { 0 };

/// A mapping to place into a slot of a frame of the pool.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    leaf: Leaf,
    /// Whether the slot becomes a private copy: see `granule::strict`.
    is_private: bool,
}

impl GranuleMapper {
    /// Makes the mappings in `changes` that do not exist yet.
    pub(super) fn add(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        domain: DomainId,
        changes: &[Change],
    ) {
        let mut copies = core::mem::take(&mut self.copies);
        copies.clear();
        let mut fills_reached_slot = false;
        for change in changes {
            let wanted = mappable(host, requester, change);
            if wanted.iter().any(Option::is_some) {
                let planned = copies.len();
                let before = self.state(domain, change.granule);
                let reached =
                    matches!(before.form, Form::Relocated(_)).then(|| Self::window(host, &before));
                self.plan(host, requester, domain, Change { wanted, ..*change }, &mut copies);
                let is_reached =
                    |copy: &PageCopy| reached.is_some_and(|run| run.contains(copy.at.iova.slot()));
                fills_reached_slot |= copies.iter().skip(planned).any(is_reached);
            }
        }
        if fills_reached_slot {
            // A device may have written into the red zone of such a slot. The write must have
            // landed before a page of the guest moves into the slot.
            self.invalidate(host, domain);
        }
        for copy in &copies {
            self.break_for(host, domain, copy);
        }
        self.mover.flush_tlb(host);
        for copy in &copies {
            self.carry_out(host, domain, copy);
        }
        self.update_mapped_pages(host, domain, changes);
        let is_anything_moving = self.mover.broken(0).is_some();
        self.remap_pages(host);
        if !is_anything_moving && !copies.is_empty() {
            // The bytes of bounce pages must be visible before the entries that let devices reach
            // them.
            host.publish();
        }
        self.copies = copies;
        self.set_entries(host, domain, changes);
    }

    /// Stores the hardware entries of the granules of `changes`. Invalidates if the hardware may
    /// have cached one that changed.
    fn set_entries(&mut self, host: &mut impl Host, domain: DomainId, changes: &[Change]) {
        let mut needs_invalidation = false;
        for change in changes {
            let state = self.state(domain, change.granule);
            let (before, entry) = self.set_entry(host, domain, change.granule, &state);
            needs_invalidation |= before != entry && (before != 0 || caches_invalid_entries(host));
        }
        if needs_invalidation {
            self.invalidate(host, domain);
        } else {
            host.publish();
        }
    }

    /// Updates the state of each page in the granules of `changes`: adds it to the flush-merged
    /// pages if it has become one, and breaks it if a watch now asks for a stricter trap.
    fn update_mapped_pages(&mut self, host: &mut impl Host, domain: DomainId, changes: &[Change]) {
        self.unlist_all();
        for change in changes {
            for slot in self.state(domain, change.granule).slots.into_iter().flatten() {
                if self.list(slot.page) {
                    self.flush_merge_if_needed(slot.page);
                    if self.watches.are_set() {
                        self.retry_watch(slot.page);
                        self.break_if_watched(host, slot.page);
                    }
                }
            }
        }
        self.unlist_all();
    }

    /// Decides where each new page of `granule` goes, records that in the granule map, and adds the
    /// copies to make to `copies`.
    fn plan(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        domain: DomainId,
        Change { granule, mut wanted }: Change,
        copies: &mut Vec<PageCopy>,
    ) {
        let mut state = self.state(domain, granule);
        update_permissions(host, requester, granule, &wanted, &mut state);
        if state.form != Form::Empty {
            self.set_state(domain, granule, state);
        }
        let has_new =
            state.slots.iter().zip(wanted).any(|(slot, wanted)| slot.is_none() && wanted.is_some());
        if !has_new {
            return;
        }
        let is_private = self.needs_private(&state, &wanted);
        while let Some((index, slot)) = Self::exposed(&state).filter(|_| is_private) {
            self.demote(requester.at(granule, index), slot, &mut state, copies);
            self.set_state(domain, granule, state);
        }
        let has_tables = self.prepare_tables(host, domain, granule);
        if has_tables.is_ok()
            && self.add_direct(host, requester, domain, granule, &mut wanted, &mut state)
        {
            return;
        }
        for (index, wanted) in wanted.into_iter().enumerate() {
            let Some(leaf) = wanted.filter(|_| state.slots.get(index) == Some(&None)) else {
                continue;
            };
            let at = requester.at(granule, index);
            let has_room = has_tables.and_then(|()| self.can_join(host, &state, leaf.permission));
            let placed = has_room.and_then(|()| {
                let wanted = Wanted { leaf, is_private: is_private && !leaf.permission.write };
                self.put_relocated(host, domain, at, wanted, &mut state, copies)
            });
            match placed {
                Ok(placement) => {
                    // Recorded at once: the next page of the batch must find the mapping.
                    self.set_state(domain, granule, state);
                    let permission = leaf.permission;
                    host.event(Event::Map { at, page: leaf.page, permission, placement });
                }
                Err(reason) => refuse(host, at, leaf.page, reason),
            }
        }
        if state.form == Form::Empty {
            self.release_unused(domain, granule);
        }
    }

    fn prepare_tables(
        &mut self,
        host: &mut impl Host,
        domain: DomainId,
        granule: Granule,
    ) -> Result<(), Refusal> {
        let placed = self.domains.get_mut(usize::from(domain.0)).and_then(Option::as_mut);
        let placed = placed.must("the domain exists");
        if !self.granule_map.prepare(&mut placed.directory, granule) {
            return Err(Refusal::TooManyTables);
        }
        if !placed.shadow.prepare(host, &mut self.pool, granule) {
            return Err(Refusal::PoolExhausted);
        }
        Ok(())
    }

    pub(super) fn release_unused(&mut self, domain: DomainId, granule: Granule) {
        let placed = self.domains.get_mut(usize::from(domain.0)).and_then(Option::as_mut);
        self.granule_map.release_unused(&mut placed.must("the domain exists").directory, granule);
    }

    fn put_relocated(
        &mut self,
        host: &mut impl Host,
        domain: DomainId,
        at: Place,
        Wanted { leaf, is_private }: Wanted,
        state: &mut GranuleState,
        copies: &mut Vec<PageCopy>,
    ) -> Result<Placement, Refusal> {
        let Leaf { page, permission, .. } = leaf;
        if !self.mover.is_ram(page) {
            return Err(Refusal::NotGuestMemory);
        }
        let is_alias =
            is_private || self.mover.is_pinned(page) || self.mappings(page).next().is_some();
        // Also for a bounce page: if it outlives the page's other mappings, the page moves there,
        // and can no longer be refused then.
        self.mover.prepare(host, page).map_err(|_| Refusal::OutOfStage2Tables)?;
        let frame = match state.form {
            Form::Relocated(frame) => frame,
            Form::Direct(_) => {
                unreachable!("invariant: a direct granule takes no page into its frame")
            }
            Form::Empty => self.pool.take_frame().ok_or(Refusal::PoolExhausted)?,
        };
        let is_planned =
            |copy: &PageCopy| copy.page == page && matches!(copy.kind, CopyKind::WithTwin(_));
        let has_twin = self.twin(page).is_some() || copies.iter().any(is_planned);
        let kind = match self.link_copy(host, domain, at, leaf, (is_alias, has_twin)) {
            Ok(kind) => kind,
            Err(reason) => {
                if state.form == Form::Empty {
                    self.pool.give_marked_frame(host, frame);
                }
                return Err(reason);
            }
        };
        state.form = Form::Relocated(frame);
        put(state, at, Slot { page, permission, is_bounce: is_alias, is_filled: !is_alias });
        if kind == CopyKind::Move {
            self.mover.set_about_to_move(page);
        }
        copies.push(PageCopy { at, page, to: frame.page(at.iova.slot() ^ MISPLACED), kind });
        Ok(if is_alias { Placement::Bounce } else { Placement::Migrated })
    }

    /// Plans to move the page in a read-only slot home, which makes the slot a bounce page.
    fn demote(
        &mut self,
        at: Place,
        slot: Slot,
        state: &mut GranuleState,
        copies: &mut Vec<PageCopy>,
    ) {
        let page = slot.page;
        put(state, at, Slot { is_bounce: true, is_filled: false, ..slot });
        self.mover.set_about_to_move(page);
        copies.push(PageCopy { at, page, to: page.home(), kind: CopyKind::Demote });
    }

    fn link_copy(
        &mut self,
        host: &mut impl Host,
        domain: DomainId,
        at: Place,
        leaf: Leaf,
        (is_alias, has_twin): (bool, bool),
    ) -> Result<CopyKind, Refusal> {
        if !is_alias {
            self.link(domain, at, leaf.page, MAX_ALIASES)?;
            return Ok(CopyKind::Move);
        }
        let is_written = leaf.permission.write || self.mover.is_pinned(leaf.page);
        if !is_written || has_twin {
            self.link(
                domain,
                at,
                leaf.page,
                if has_twin { MAX_WRITTEN_ALIASES } else { MAX_ALIASES },
            )?;
            return Ok(CopyKind::Bounce);
        }
        let twin = self.pool.take_page().ok_or(Refusal::PoolExhausted)?;
        match self.link(domain, at, leaf.page, MAX_WRITTEN_ALIASES) {
            Ok(()) => Ok(CopyKind::WithTwin(twin)),
            Err(reason) => {
                self.pool.give_page(host, twin);
                Err(reason)
            }
        }
    }

    /// Adds the mapping at `at` to those of `page`, of which there must be fewer than `max`.
    pub(super) fn link(
        &mut self,
        domain: DomainId,
        at: Place,
        page: Gfn,
        max: usize,
    ) -> Result<(), Refusal> {
        let state = self.mover.state_mut(page);
        let mapping = Mapping { domain, iova: at.iova };
        self.aliases.add(&mut state.mappings, mapping, max).map_err(|_| Refusal::TooManyAliases)
    }

    /// Breaks the page of `copy` if it moves, or if CPUs' accesses to it are to be trapped: without
    /// the break, a CPU's store between the fill and the trap would reach one copy only.
    fn break_for(&mut self, host: &mut impl Host, domain: DomainId, copy: &PageCopy) {
        let moves = matches!(copy.kind, CopyKind::Move | CopyKind::Demote);
        let state = self.state(domain, copy.at.iova.granule());
        let slot = state.slots.get(copy.at.iova.slot()).copied().flatten();
        let permission = slot.must("a copy is for a mapped slot").permission;
        if moves || Self::trap_for(permission) > self.mover.trap(copy.page) {
            // It has a stage-2 entry of its own: it was prepared, or has moved before.
            self.mover.break_page(host, copy.page);
        }
    }

    /// Fills a slot. Copies are made in the order in which they were planned, so the bounce page of
    /// a page that moves in the same batch is copied from the page's new place.
    fn carry_out(&mut self, host: &mut impl Host, domain: DomainId, copy: &PageCopy) {
        if copy.kind == CopyKind::Demote {
            self.equalize_once(host, copy.page);
            host.copy_page(self.mover.locate(copy.page), copy.to);
            self.mover.place(host, copy.page, copy.to);
            return self.set_filled(domain, copy.at);
        }
        if let Some((offset, bytes)) = red_zone_damage(host, copy.to) {
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
        self.equalize_once(host, copy.page);
        // Copied from the twin, not from the page: the page may have changed since the merge, and
        // the next merge would take the difference for a device's write to the bounce page.
        let from = self.twin(copy.page).unwrap_or(self.mover.locate(copy.page));
        host.copy_page(from, copy.to);
        self.set_filled(domain, copy.at);
    }

    /// Makes the copies of `page` equal, once in a batch. The next batch finds what devices write
    /// after that: until then, bytes are copied from the twin.
    pub(super) fn equalize_once(&mut self, host: &mut impl Host, page: Gfn) {
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
        let mut state = self.state(domain, at.iova.granule());
        state.mapped_mut(at.iova.slot()).is_filled = true;
        self.set_state(domain, at.iova.granule(), state);
    }
}

/// The mappings that `change` asks for. A mapping of a part of a page is refused.
fn mappable(host: &mut impl Host, requester: Requester, change: &Change) -> [Option<Leaf>; SLOTS] {
    let mut wanted = change.wanted;
    for (slot, wanted) in wanted.iter_mut().enumerate() {
        // An entry without permissions is not a mapping.
        *wanted = wanted.filter(|leaf| !leaf.permission.is_none());
        if let Some(leaf) = wanted.filter(|leaf| !leaf.whole_page) {
            let at = requester.at(change.granule, slot);
            refuse(host, at, leaf.page, Refusal::SubPageWindow);
            *wanted = None;
        }
    }
    wanted
}

/// Sets the permission of each mapped slot of `state` to that in `wanted`. Slots whose page changes
/// were emptied by `remove`.
fn update_permissions(
    host: &mut impl Host,
    requester: Requester,
    granule: Granule,
    wanted: &[Option<Leaf>; SLOTS],
    state: &mut GranuleState,
) {
    for (index, (slot, wanted)) in state.slots.iter_mut().zip(wanted).enumerate() {
        if let (Some(slot), Some(wanted)) = (slot, wanted)
            && slot.permission != wanted.permission
        {
            let (at, page, permission) =
                (requester.at(granule, index), slot.page, wanted.permission);
            slot.permission = permission;
            host.event(Event::Permission { at, page, permission });
        }
    }
}

pub(super) fn put(state: &mut GranuleState, at: Place, slot: Slot) {
    *state.slots.get_mut(at.iova.slot()).must("a granule has four slots") = Some(slot);
}

fn caches_invalid_entries<I: Iommu>(_: &I) -> bool {
    I::CACHES_INVALID_ENTRIES
}
