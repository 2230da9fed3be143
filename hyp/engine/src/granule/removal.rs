//! The first half of a batch: mappings that the guest has removed or changed.

use oche_types::addr::{Gfn, Hfn, SLOTS};
use oche_types::event::{Event, Refusal};
use oche_types::invariant;

use crate::granule::alias::Mapping;
use crate::granule::copies::apply_diff;
use crate::granule::direct;
use crate::granule::state::{Form, GranuleState, Slot};
use crate::granule::work::{Split, UnmapOp};
use crate::granule::{Change, GranuleMapper, Requester, refuse};
use crate::host::{DomainId, Host};
use crate::pool::RED_ZONE;

impl GranuleMapper {
    /// Unmaps what `changes` no longer contain.
    pub(super) fn remove(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        domain: DomainId,
        changes: &[Change],
    ) {
        let mut ops = core::mem::take(&mut self.unmap_ops);
        ops.clear();
        for change in changes {
            let before = self.state(domain, change.granule);
            let is_leaving = leaving(&before, change, self.is_strict());
            if is_leaving.contains(&true) {
                let mut op = UnmapOp { granule: change.granule, before, is_leaving, split: None };
                self.plan_split(host, &mut op);
                ops.push(op);
            }
        }
        self.unmap_batch(host, requester, domain, &mut ops);
        self.unmap_ops = ops;
    }

    /// Moves the pages of direct granules into frames of the pool, while devices use them, to make
    /// room for the new pages in `changes`. A granule that cannot move stays as it is and is added
    /// to `migrate_failed` with the reason.
    pub(super) fn migrate(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        domain: DomainId,
        changes: &[Change],
    ) {
        let mut ops = core::mem::take(&mut self.unmap_ops);
        ops.clear();
        for change in changes {
            let before = self.state(domain, change.granule);
            let (granule, is_leaving) = (change.granule, [false; SLOTS]);
            let mut op = UnmapOp { granule, before, is_leaving, split: None };
            match self.room_for_split(host, &op, before.permission().write) {
                Ok(split) => {
                    op.split = Some(split);
                    ops.push(op);
                }
                Err(reason) => self.migrate_failed.push((granule, reason)),
            }
        }
        self.unmap_batch(host, requester, domain, &mut ops);
        self.unmap_ops = ops;
    }

    /// Carries out `ops`. The order of the steps matters: see "One unmap" in
    /// `docs/architecture.md`.
    fn unmap_batch(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        domain: DomainId,
        ops: &mut [UnmapOp],
    ) {
        if !ops.is_empty() {
            for op in &*ops {
                self.break_pages(host, op);
            }
            self.mover.flush_tlb(host);
            for op in &*ops {
                self.copy_split(host, op);
            }
            if ops.iter().any(|op| op.split.is_some()) {
                // The bytes must be visible before the entries that let devices reach them.
                host.publish();
            }
            for op in &*ops {
                self.unmap(host, domain, op);
            }
            // Needed even if no entry changed: only this ensures that devices' writes have landed.
            self.invalidate(host, domain);
            for op in &*ops {
                self.complete_split(host, requester, domain, op);
            }
            // Merge what devices wrote while all copies are still in the granule map.
            for (_, slot) in ops.iter().flat_map(UnmapOp::leaving) {
                if self.list(slot.page) {
                    self.equalize(host, slot.page);
                }
            }
            // Unlink all mappings before any page moves: a page must not move to a slot that is
            // unmapped in the same batch.
            for op in &*ops {
                self.unlink_leaving(host, requester, domain, op);
            }
            let leaving = core::mem::take(&mut self.listed);
            for page in &leaving {
                self.return_home(host, *page);
            }
            self.listed = leaving;
            self.unlist_all();
            for op in &*ops {
                self.mark_vacated(host, op);
            }
            self.remap_pages(host);
        }
    }

    /// Finds a frame for what a direct granule keeps, unless a narrower window is enough. If there
    /// is no frame, all its pages are unmapped: [`Self::add`] maps again those that are still
    /// wanted, or reports why it cannot.
    fn plan_split(&mut self, host: &mut impl Host, op: &mut UnmapOp) {
        let Form::Direct(_) = op.before.form else { return };
        let after = op.remainder();
        if after.is_vacant() || (host.has_windows() && direct::is_run(&after)) {
            return;
        }
        let is_written = op.before.permission().write;
        match self.room_for_split(host, op, is_written) {
            Ok(split) => op.split = Some(split),
            Err(_) => op.is_leaving = [true; SLOTS],
        }
    }

    fn room_for_split(
        &mut self,
        host: &mut impl Host,
        op: &UnmapOp,
        is_written: bool,
    ) -> Result<Split, Refusal> {
        for (slot, kept) in op.before.slots.iter().enumerate() {
            if op.is_leaving.get(slot) == Some(&false)
                && let Some(kept) = kept
            {
                self.mover.prepare(host, kept.page).map_err(|_| Refusal::OutOfStage2Tables)?;
            }
        }
        let frame = self.pool.take_frame().ok_or(Refusal::PoolExhausted)?;
        let mut split = Split { frame, copied: [None; SLOTS] };
        for (slot, copied) in split.copied.iter_mut().enumerate() {
            let page = op.before.slots.get(slot).copied().flatten().map(|slot| slot.page);
            let is_written = is_written || page.is_some_and(|page| self.mover.is_pinned(page));
            if is_written && op.is_leaving.get(slot) == Some(&false) && page.is_some() {
                *copied = self.pool.take_page();
                if copied.is_none() {
                    for page in split.copied.into_iter().flatten() {
                        self.pool.give_page(host, page);
                    }
                    self.pool.give_marked_frame(host, frame);
                    return Err(Refusal::PoolExhausted);
                }
            }
        }
        Ok(split)
    }

    /// Breaks every page of the granule that moves in this batch.
    fn break_pages(&mut self, host: &mut impl Host, op: &UnmapOp) {
        for (slot, is_leaving) in op.before.slots.iter().zip(op.is_leaving) {
            let Some(slot) = slot.filter(|slot| !slot.is_bounce) else { continue };
            let moves = match op.before.form {
                // It moves home, or a bounce page is promoted.
                Form::Relocated(_) => is_leaving,
                // A bounce page may be promoted.
                Form::Direct(_) if is_leaving => self.mappings(slot.page).nth(1).is_some(),
                // It moves into the split's frame, if there is one.
                Form::Direct(_) => op.split.is_some(),
                Form::Empty => false,
            };
            // If stage 2 has no entry for a page at home, the page stays there, and its bounce
            // pages are not promoted.
            if moves && self.mover.prepare(host, slot.page).is_ok() {
                self.mover.break_page(host, slot.page);
            }
        }
    }

    /// Copies what a split granule keeps to its new frame.
    fn copy_split(&self, host: &mut impl Host, op: &UnmapOp) {
        let Some(split) = op.split else { return };
        for (slot, kept) in op.remainder().slots.iter().enumerate() {
            let Some(kept) = kept else { continue };
            host.copy_page(self.mover.locate(kept.page), split.frame.page(slot));
            if let Some(Some(copied)) = split.copied.get(slot) {
                host.copy_page(split.frame.page(slot), *copied);
            }
        }
    }

    /// Stores the granule's hardware entry without what leaves, or, for a split granule, with its
    /// new frame.
    fn unmap(&mut self, host: &mut impl Host, domain: DomainId, op: &UnmapOp) {
        let mut after = op.remainder();
        if let Some(split) = op.split {
            after.form = Form::Relocated(split.frame);
        }
        self.set_entry(host, domain, op.granule, &after);
    }

    /// Completes a split after the hardware has drained: merges what devices wrote into the pages
    /// at home after they were copied, and makes the new frame the place of the pages.
    fn complete_split(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        domain: DomainId,
        op: &UnmapOp,
    ) {
        let Some(split) = op.split else { return };
        let mut after = op.remainder();
        after.form = Form::Relocated(split.frame);
        // Set before `is_mapped_at_home` is called: this granule no longer keeps its pages at home.
        self.set_state(domain, op.granule, after);
        let mut merged_bytes = 0;
        for (index, slot) in after.slots.iter_mut().enumerate() {
            let Some(kept) = slot else { continue };
            let home = self.mover.locate(kept.page);
            let to = split.frame.page(index);
            let copied = split.copied.get(index).copied().flatten();
            if let Some(copied) = copied {
                merged_bytes += apply_diff(host, copied, home, to, true) as u32;
            }
            kept.is_bounce = self.is_mapped_at_home(kept.page) || self.mover.is_pinned(kept.page);
            if kept.is_bounce {
                // The page stays at home for another granule or a bus master, so what devices wrote
                // into this frame so far is copied there too.
                if let Some(copied) = copied {
                    apply_diff(host, copied, to, home, false);
                }
            } else {
                self.mover.place(host, kept.page, to);
            }
        }
        self.set_state(domain, op.granule, after);
        for (slot, copied) in after.slots.iter().zip(split.copied) {
            let Some(copied) = copied else { continue };
            match slot {
                Some(slot) if slot.is_bounce => self.add_twin_if_written(host, slot, copied),
                _ => self.pool.give_page(host, copied),
            }
        }
        host.event(Event::LiveMove {
            at: requester.at(op.granule, 0),
            to: split.frame,
            merged_bytes,
        });
    }

    /// Makes `spare` the twin of a broken page at home of which `slot` has just become a bounce
    /// page, or returns it to the pool if the page needs none.
    fn add_twin_if_written(&mut self, host: &mut impl Host, slot: &Slot, spare: Hfn) {
        let is_written = slot.permission.write || self.mover.is_pinned(slot.page);
        if self.twin(slot.page).is_some() || !is_written {
            self.pool.give_page(host, spare);
        } else {
            host.copy_page(self.mover.locate(slot.page), spare);
            self.mover.state_mut(slot.page).twin = spare.0;
        }
        self.merge_copies(host, slot.page);
    }

    /// Removes every leaving mapping from its page's list and from the granule map.
    fn unlink_leaving(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        domain: DomainId,
        op: &UnmapOp,
    ) {
        self.check_red_zones(host, requester, op.granule, &op.before);
        for (index, slot) in op.leaving() {
            let mapping = Mapping { domain, iova: op.granule.page(index) };
            self.aliases.remove(&mut self.mover.state_mut(slot.page).mappings, mapping);
            self.stop_flush_merge_if_single(slot.page);
            host.event(Event::Unmap { at: requester.at(op.granule, index), page: slot.page });
        }
        if op.split.is_none() {
            self.set_state(domain, op.granule, op.remainder());
        }
    }

    /// Moves `page`, of which a mapping was removed, home or to a place where it is still mapped.
    fn return_home(&mut self, host: &mut impl Host, page: Gfn) {
        self.promote(host, page);
        self.move_home(host, page);
        self.drop_unneeded_twin(host, page);
    }

    /// Reports what the last removal unmapped as refused.
    pub(super) fn refuse_unmapped(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        reason: Refusal,
    ) {
        for op in &self.unmap_ops {
            for (slot, left) in op.leaving() {
                refuse(host, requester.at(op.granule, slot), left.page, reason);
            }
        }
    }

    /// Writes the red-zone pattern into the vacated slots, and returns the frame to the pool if
    /// nothing in it is mapped.
    fn mark_vacated(&mut self, host: &mut impl Host, op: &UnmapOp) {
        let Form::Relocated(frame) = op.before.form else { return };
        for (index, _) in op.leaving() {
            host.fill_page(frame.page(index), RED_ZONE);
        }
        if op.remainder().is_vacant() {
            self.pool.give_marked_frame(host, frame);
        }
    }

    /// Moves `page`, whose copies are equal, home if only bounce pages that cannot be promoted map
    /// it.
    fn move_home(&mut self, host: &mut impl Host, page: Gfn) {
        if self.has_only_bounce_pages(page) && !self.mover.is_home(page) {
            invariant!(
                self.mover.can_move(page),
                "a page moves home only while it is broken: {page:?}"
            );
            host.copy_page(self.mover.locate(page), page.home());
            self.mover.place(host, page, page.home());
        }
    }
}

/// Which slots of `before` are unmapped by `change`. A bounce page whose permission changes is
/// unmapped and mapped again; with strict isolation, so is every slot.
fn leaving(before: &GranuleState, change: &Change, is_strict: bool) -> [bool; SLOTS] {
    let mut leaving = [false; SLOTS];
    for ((slot, wanted), leaving) in before.slots.iter().zip(change.wanted).zip(&mut leaving) {
        let Some(slot) = slot else { continue };
        *leaving = match wanted.filter(|wanted| wanted.whole_page && !wanted.permission.is_none()) {
            Some(wanted) => {
                wanted.page != slot.page
                    || ((slot.is_bounce || is_strict) && wanted.permission != slot.permission)
            }
            None => true,
        };
    }
    leaving
}
