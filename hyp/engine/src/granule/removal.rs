//! The first half of a batch: mappings that the guest has removed or changed.
//!
//! The steps of a removal must follow each other in one order. Each phase of an [`UnmapBatch`] is a
//! type of its own, with the one step that may come next, so another order does not compile:
//!
//! ```
//! use oche_engine::phases::unmap::{Planned, UnmapBatch};
//! fn unmap<H: oche_engine::host::Host>(batch: UnmapBatch<'_, H, Planned>) {
//!     batch.copy_splits().clear_entries().drain().unlink().break_pages().move_pages().remap();
//! }
//! ```
//!
//! Before the device's entry is cleared nothing drains:
//!
//! ```compile_fail
//! use oche_engine::phases::unmap::{Planned, UnmapBatch};
//! fn unmap<H: oche_engine::host::Host>(batch: UnmapBatch<'_, H, Planned>) {
//!     batch.copy_splits().drain().unlink().break_pages().move_pages().remap();
//! }
//! ```
//!
//! What a split granule keeps is copied before its entry names the new frame:
//!
//! ```compile_fail
//! use oche_engine::phases::unmap::{Planned, UnmapBatch};
//! fn unmap<H: oche_engine::host::Host>(batch: UnmapBatch<'_, H, Planned>) {
//!     batch.clear_entries().drain().unlink().break_pages().move_pages().remap();
//! }
//! ```
//!
//! A mapping is forgotten only when no device reaches it any more:
//!
//! ```compile_fail
//! use oche_engine::phases::unmap::{Planned, UnmapBatch};
//! fn unmap<H: oche_engine::host::Host>(batch: UnmapBatch<'_, H, Planned>) {
//!     batch.copy_splits().clear_entries().unlink().break_pages().move_pages().remap();
//! }
//! ```
//!
//! CPUs lose a page only after the drain, while which it stays reachable:
//!
//! ```compile_fail
//! use oche_engine::phases::unmap::{Planned, UnmapBatch};
//! fn unmap<H: oche_engine::host::Host>(batch: UnmapBatch<'_, H, Planned>) {
//!     batch.copy_splits().clear_entries().break_pages().drain().unlink().move_pages().remap();
//! }
//! ```
//!
//! A page moves only while it is broken:
//!
//! ```compile_fail
//! use oche_engine::phases::unmap::{Planned, UnmapBatch};
//! fn unmap<H: oche_engine::host::Host>(batch: UnmapBatch<'_, H, Planned>) {
//!     batch.copy_splits().clear_entries().drain().unlink().move_pages().remap();
//! }
//! ```
//!
//! CPUs get a page again only after it has moved:
//!
//! ```compile_fail
//! use oche_engine::phases::unmap::{Planned, UnmapBatch};
//! fn unmap<H: oche_engine::host::Host>(batch: UnmapBatch<'_, H, Planned>) {
//!     batch.copy_splits().clear_entries().drain().unlink().break_pages().remap();
//! }
//! ```

use alloc::vec::Vec;
use core::marker::PhantomData;

use oche_types::addr::{Gfn, SLOTS};
use oche_types::event::{Event, Refusal};
use oche_types::invariant;

use crate::granule::alias::{self, Mapping};
use crate::granule::plan::{self, Plan, Split};
use crate::granule::state::{Form, GranuleState};
use crate::granule::work::{UnmapOp, WholeGranule};
use crate::granule::{Change, GranuleMapper, Requester, refuse};
use crate::host::{DomainId, Host};
use crate::mover::NONE;
use crate::pool::RED_ZONE;

/// Removals that are carried out together. `Phase` is the step that was made last.
#[must_use]
pub struct UnmapBatch<'a, H, Phase> {
    mapper: &'a mut GranuleMapper,
    host: &'a mut H,
    requester: Requester,
    domain: DomainId,
    ops: Vec<UnmapOp>,
    /// Whole granules of which nothing stays.
    whole: Vec<WholeGranule>,
    phase: PhantomData<Phase>,
}

/// What is unmapped is known, and all memory that it needs has been taken.
#[derive(Debug)]
pub struct Planned;
/// What split granules keep is in their new frames, and broken.
#[derive(Debug)]
pub struct Copied;
/// The tables no longer let devices reach what leaves.
#[derive(Debug)]
pub struct Cleared;
/// No device reaches what leaves: its writes have landed, and copies are equal.
#[derive(Debug)]
pub struct Drained;
/// The granule map no longer has what leaves.
#[derive(Debug)]
pub struct Unlinked;
/// No CPU reaches the pages that are about to move.
#[derive(Debug)]
pub struct Broken;
/// Each page is at its new place, and vacated slots are red zones.
#[derive(Debug)]
pub struct Moved;

impl<'a, H: Host, Phase> UnmapBatch<'a, H, Phase> {
    /// The same batch after its next step.
    fn then<Next>(self) -> UnmapBatch<'a, H, Next> {
        let Self { mapper, host, requester, domain, ops, whole, .. } = self;
        UnmapBatch { mapper, host, requester, domain, ops, whole, phase: PhantomData }
    }
}

impl<'a, H: Host> UnmapBatch<'a, H, Planned> {
    /// Breaks what split granules keep, and copies it to their new frames.
    pub fn copy_splits(self) -> UnmapBatch<'a, H, Copied> {
        if self.ops.iter().any(|op| op.split.is_some()) {
            for op in self.ops.iter().filter(|op| op.split.is_some()) {
                for (_, kept) in op.kept() {
                    self.mapper.mover.break_page(self.host, kept.page);
                }
            }
            self.mapper.mover.flush_tlb(self.host);
            for op in &self.ops {
                self.mapper.copy_split(self.host, op);
            }
            // The bytes must be visible before the entries that let devices reach them.
            self.host.publish();
        }
        self.then()
    }
}

impl<'a, H: Host> UnmapBatch<'a, H, Copied> {
    /// Stores the granules' hardware entries without what leaves, or, for a split granule, with
    /// its new frame.
    pub fn clear_entries(self) -> UnmapBatch<'a, H, Cleared> {
        for op in &self.ops {
            let entry = GranuleMapper::entry(self.host, &op.after);
            self.mapper.set_entry(self.host, self.domain, op.granule, entry);
        }
        for whole in &self.whole {
            self.mapper.set_entry(self.host, self.domain, whole.granule, 0);
        }
        self.then()
    }
}

impl<'a, H: Host> UnmapBatch<'a, H, Cleared> {
    /// Waits until no device uses the entries before, and makes the copies equal of each page that
    /// loses a mapping.
    pub fn drain(self) -> UnmapBatch<'a, H, Drained> {
        // Needed even if no entry changed: only this ensures that devices' writes have landed.
        self.mapper.invalidate(self.host, self.domain);
        for op in &self.ops {
            self.mapper.complete_split(self.host, self.requester, self.domain, op);
        }
        // Merge what devices wrote while all copies are still in the granule map.
        for op in &self.ops {
            for (_, slot) in op.leaving() {
                let page = self.mapper.mover.state(slot.page);
                if !alias::is_alone(page) && self.mapper.list(slot.page) {
                    self.mapper.equalize(self.host, slot.page);
                }
            }
        }
        self.then()
    }
}

impl<'a, H: Host> UnmapBatch<'a, H, Drained> {
    /// Removes every leaving mapping from its page's list and from the granule map: all before any
    /// page moves, because a page must not move to a slot that is unmapped in the same batch.
    pub fn unlink(self) -> UnmapBatch<'a, H, Unlinked> {
        for op in &self.ops {
            self.mapper.unlink_leaving(self.host, self.requester, self.domain, op);
        }
        for whole in &self.whole {
            self.mapper.unlink_whole(self.host, self.requester, self.domain, whole);
        }
        self.then()
    }
}

impl<'a, H: Host> UnmapBatch<'a, H, Unlinked> {
    /// Breaks every page that moves because it has lost a mapping. Pages whose trap has become
    /// stricter than needed are relaxed together with them, which costs no invalidation of its own.
    pub fn break_pages(self) -> UnmapBatch<'a, H, Broken> {
        let mut do_all_move = true;
        for index in 0..self.mapper.listed.len() {
            let Some(page) = self.mapper.listed.get(index).copied() else { break };
            // If stage 2 has no entry for a page at home, the page stays there, and its bounce
            // pages are not promoted.
            if self.mapper.has_to_move(page) && self.mapper.mover.prepare(self.host, page).is_ok() {
                self.mapper.mover.break_page(self.host, page);
            } else {
                do_all_move = false;
            }
        }
        if !do_all_move {
            self.mapper.break_too_strict(self.host);
        }
        self.mapper.mover.flush_tlb(self.host);
        self.then()
    }
}

impl<'a, H: Host> UnmapBatch<'a, H, Broken> {
    /// Moves each page that has lost a mapping home or to a place where it is still mapped, and
    /// marks what was vacated.
    pub fn move_pages(self) -> UnmapBatch<'a, H, Moved> {
        while let Some(page) = self.mapper.unlist() {
            self.mapper.return_home(self.host, page);
        }
        for op in &self.ops {
            self.mapper.mark_vacated(self.host, op);
        }
        self.then()
    }
}

impl<H: Host> UnmapBatch<'_, H, Moved> {
    /// Maps each page that moved for CPUs again.
    pub fn remap(mut self) {
        self.mapper.remap_pages(self.host);
        self.whole.clear();
        (self.mapper.unmap_ops, self.mapper.unmapped_whole) = (self.ops, self.whole);
    }
}

impl GranuleMapper {
    /// Unmaps what `changes` no longer contain, and what has to be unmapped to change its
    /// permission.
    pub(super) fn remove(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        domain: DomainId,
        changes: &[Change],
    ) {
        self.remove_once(host, requester, domain, changes);
        if self.unmap_ops.iter().any(|op| op.split.is_some()) {
            // What a split granule keeps may be a bounce page now, whose permission changes only by
            // unmapping it.
            self.remove_once(host, requester, domain, changes);
        }
    }

    fn remove_once(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        domain: DomainId,
        changes: &[Change],
    ) {
        self.unmap_ops.clear();
        let whole = core::mem::take(&mut self.unmapped_whole);
        let mut next_whole = whole.iter().peekable();
        for change in changes {
            let before = self.state(domain, change.granule);
            if before.form == Form::Empty
                || next_whole.next_if(|whole| whole.granule == change.granule).is_some()
            {
                continue;
            }
            let is_leaving = plan::leaving(before, &change.wanted, self.isolation);
            if !is_leaving.contains(&true) {
                continue;
            }
            let before = *before;
            let unmapping = match plan::unmap_in_place(&before, is_leaving, host.has_windows()) {
                Some(unmapping) => unmapping,
                None => match self.plan_change(host, domain, change, &before, &[]) {
                    Plan::Unmap(unmapping) => unmapping,
                    _ => unreachable!("invariant: what is not wanted is unmapped first"),
                },
            };
            let split = unmapping.split.map(|split| self.take_split_frame(split));
            let (granule, is_leaving) = (change.granule, unmapping.is_leaving);
            self.unmap_ops.push(UnmapOp::new((granule, &before), is_leaving, split));
        }
        self.unmapped_whole = whole;
        self.unmap_batch(host, requester, domain);
    }

    /// Moves the pages of direct granules into frames of the pool, while devices use them, as
    /// [`Self::plan_migration`] has planned.
    pub(super) fn migrate(&mut self, host: &mut impl Host, requester: Requester, domain: DomainId) {
        self.unmap_batch(host, requester, domain);
    }

    /// Notes that the granule of `change` has to migrate before it can take its new pages, and
    /// takes the frame for that.
    pub(super) fn plan_migration(&mut self, change: &Change, before: &GranuleState, split: Split) {
        if self.to_migrate.is_empty() {
            self.unmap_ops.clear();
        }
        let split = Some(self.take_split_frame(split));
        let (granule, is_leaving) = (change.granule, [false; SLOTS]);
        self.unmap_ops.push(UnmapOp::new((granule, before), is_leaving, split));
        self.to_migrate.push(*change);
    }

    /// Carries out the planned removals: see "One unmap" in `docs/architecture.md`.
    fn unmap_batch(&mut self, host: &mut impl Host, requester: Requester, domain: DomainId) {
        if self.unmap_ops.is_empty() && self.unmapped_whole.is_empty() {
            return;
        }
        let ops = core::mem::take(&mut self.unmap_ops);
        let whole = core::mem::take(&mut self.unmapped_whole);
        let phase = PhantomData::<Planned>;
        let batch = UnmapBatch { mapper: self, host, requester, domain, ops, whole, phase };
        batch.copy_splits().clear_entries().drain().unlink().break_pages().move_pages().remap();
    }

    /// Removes every leaving mapping from its page's list and from the granule map.
    fn unlink_leaving(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        domain: DomainId,
        op: &UnmapOp,
    ) {
        self.check_red_zones(host, requester, op.granule, &op.before, &op.after);
        for (index, slot) in op.leaving() {
            let mapping = Mapping { domain, iova: op.granule.page(index) };
            let state = self.mover.state_mut(slot.page);
            self.aliases.remove(&mut state.mappings, mapping);
            if state.flush_merged != NONE {
                self.stop_flush_merge_if_single(slot.page);
            }
            host.event(Event::Unmap { at: requester.at(op.granule, index), page: slot.page });
        }
        if op.split.is_none() {
            self.set_state(domain, op.granule, &op.after);
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
        if op.after.is_vacant() {
            self.pool.give_marked_frame(host, frame);
        }
    }

    /// Moves `page`, whose copies are equal, home if only bounce pages that cannot be promoted map
    /// it.
    fn move_home(&mut self, host: &mut impl Host, page: Gfn) {
        if !self.mover.is_home(page) && self.has_only_bounce_pages(page) {
            invariant!(
                self.mover.can_move(page),
                "a page moves home only while it is broken: {page:?}"
            );
            host.copy_page(self.mover.locate(page), page.home());
            self.mover.place(host, page, page.home());
        }
    }
}
