//! The second half of a batch: what the guest newly maps.

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

/// A test switch: with the feature, every moved page lands in its neighbour's slot, so that a run
/// which compares bytes can be seen to fail. Never built into an image that a person runs.
const MISPLACED: usize = if cfg!(feature = "break-placement") { 1 } else { 0 };

/// A page that a slot of a frame of the pool is to hold.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    leaf: Leaf,
    /// As a copy that the page itself never becomes: see `granule::strict`.
    is_private: bool,
}

impl GranuleMapper {
    /// Maps all that `changes` want and that is not mapped yet.
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
        self.mover.flush_tlb(host);
        if fills_reached_slot {
            // What a device wrote into the red zone of a slot, with nothing mapped there, must have
            // landed before a page of the guest moves in.
            self.invalidate(host, domain);
        }
        for copy in &copies {
            self.carry_out(host, domain, copy);
        }
        self.update_mapped_pages(host, domain, changes);
        let is_anything_moving = self.mover.broken(0).is_some();
        self.remap_pages(host);
        if !is_anything_moving && !copies.is_empty() {
            // The bytes of bounce pages come before the entries that show them to devices.
            host.publish();
        }
        self.copies = copies;
        self.set_entries(host, domain, changes);
    }

    /// Stores the hardware entries of the granules of `changes`, and invalidates where the hardware
    /// may have cached one that changed.
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

    /// Decides where each newly wanted page of `granule` goes, writes it into the granule map, and
    /// lists the copies.
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
            self.demote(host, requester.at(granule, index), slot, &mut state, copies);
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
                    // In the granule map at once: the next page of the batch must find it there.
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
        let placed = placed.must("the domain is open");
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
        self.granule_map.release_unused(&mut placed.must("the domain is open").directory, granule);
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
        // A bounce page's page too: should the bounce page outlive the page's other mappings, the
        // page moves there, and then it is too late to refuse.
        self.mover.prepare(host, page).map_err(|_| Refusal::OutOfStage2Tables)?;
        let frame = match state.form {
            Form::Relocated(frame) => frame,
            // Its frame is the guest's.
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
        // What CPUs store between the fill and the trap would reach one copy only.
        if kind == CopyKind::Move || Self::trap_for(permission) > self.mover.trap(page) {
            self.mover.break_page(host, page);
        }
        copies.push(PageCopy { at, page, to: frame.page(at.iova.slot() ^ MISPLACED), kind });
        Ok(if is_alias { Placement::Bounce } else { Placement::Migrated })
    }

    /// Takes the page in a slot that devices only read out of it, and leaves a bounce page.
    fn demote(
        &mut self,
        host: &mut impl Host,
        at: Place,
        slot: Slot,
        state: &mut GranuleState,
        copies: &mut Vec<PageCopy>,
    ) {
        let page = slot.page;
        put(state, at, Slot { is_bounce: true, is_filled: false, ..slot });
        // It has moved before, so it has an entry of its own.
        self.mover.break_page(host, page);
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

    /// Adds the mapping at `at` to those of `page`, which has fewer than `most`.
    pub(super) fn link(
        &mut self,
        domain: DomainId,
        at: Place,
        page: Gfn,
        most: usize,
    ) -> Result<(), Refusal> {
        let state = self.mover.state_mut(page);
        let mapping = Mapping { domain, iova: at.iova };
        self.aliases.add(&mut state.mappings, mapping, most).map_err(|_| Refusal::TooManyAliases)
    }

    /// Fills a slot. Copies are carried out in the order in which they were planned, so a bounce
    /// page of a page that moves in the same batch is copied from where the page is by then.
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
        // From the twin, not from the page as it is by now: a byte that a CPU wrote since the merge
        // must not look, in the next one, as if the device had written it here.
        let from = self.twin(copy.page).unwrap_or(self.mover.locate(copy.page));
        host.copy_page(from, copy.to);
        self.set_filled(domain, copy.at);
    }

    /// Makes the copies of `page` equal unless the batch under way has done so. What devices write
    /// after that is found by the next that does: what is copied meanwhile comes from the twin.
    pub(super) fn equalize_once(&mut self, host: &mut impl Host, page: Gfn) {
        if self.list(page) {
            self.equalize(host, page);
        }
    }

    /// Makes all copies of `page` equal and `twin` what they agree on.
    pub(super) fn create_twin(&mut self, host: &mut impl Host, page: Gfn, twin: Hfn) {
        host.copy_page(self.mover.locate(page), twin);
        for (bounce, _) in self.bounce_pages(page) {
            host.copy_page(twin, bounce);
        }
        let state = self.mover.state_mut(page);
        invariant!(state.twin == 0, "a page has one twin: {page:?}");
        state.twin = twin.0;
    }

    /// From now on the bounce page at `at` counts as a copy of its page.
    fn set_filled(&mut self, domain: DomainId, at: Place) {
        let mut state = self.state(domain, at.iova.granule());
        state.mapped_mut(at.iova.slot()).is_filled = true;
        self.set_state(domain, at.iova.granule(), state);
    }
}

/// What `change` wants that can be a mapping; a part of a page is refused.
fn mappable(host: &mut impl Host, requester: Requester, change: &Change) -> [Option<Leaf>; SLOTS] {
    let mut wanted = change.wanted;
    for (slot, wanted) in wanted.iter_mut().enumerate() {
        // An entry that allows nothing names a page that the device may not touch: not a mapping.
        *wanted = wanted.filter(|leaf| !leaf.permission.is_none());
        if let Some(leaf) = wanted.filter(|leaf| !leaf.whole_page) {
            let at = requester.at(change.granule, slot);
            refuse(host, at, leaf.page, Refusal::SubPageWindow);
            *wanted = None;
        }
    }
    wanted
}

/// Gives each mapped slot of `state` the permission that is `wanted` now. What is wanted elsewhere
/// has left in `remove`.
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
