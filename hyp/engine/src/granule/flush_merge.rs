//! Flush-merged pages: a device may write one copy of such a page and read another.
//!
//! No trap sees a device's write, so it cannot be copied to the other copies at once. Instead, each
//! flush of a domain makes the copies equal of every such page that the domain maps. The pages are
//! in a list, so that a flush costs nothing if there is none, and the list is searched only for
//! domains that have had one.
//!
//! If devices only read the bounce pages, no twin is needed: only the page itself changes, and
//! words that differ are copied from it.

use oche_types::addr::{Gfn, PAGE_WORDS};
use oche_types::dart::entry::Permission;
use oche_types::event::Event;
use oche_types::{Invariant, invariant};

use crate::budget::Budget;
use crate::granule::GranuleMapper;
use crate::granule::copies::differing_bytes;
use crate::granule::cost::NODE_BYTES;
use crate::host::{DomainId, Host};
use crate::mover::NONE;

impl GranuleMapper {
    /// Adds `page`, whose mappings have changed, to the flush-merged pages if a device may write
    /// one copy of it and read another.
    pub(super) fn flush_merge_if_needed(&mut self, page: Gfn) {
        if !self.is_written_and_read(page) {
            return;
        }
        let index = self.flush_merged.len() as u32;
        let state = self.mover.state_mut(page);
        if state.flush_merged == NONE {
            state.flush_merged = index;
            let room = self.flush_merged.capacity() - self.flush_merged.len();
            invariant!(room != 0, "a flush-merged page has two nodes in a list of mappings");
            self.flush_merged.push(page);
        }
        let mut head = state.mappings;
        while let Some((mapping, next)) = self.aliases.step(head) {
            self.placed_mut(mapping.domain).has_flush_merged = true;
            head = next;
        }
    }

    /// Removes the flush-merged `page` from the list if it has fewer than two mappings left.
    pub(super) fn stop_flush_merge_if_single(&mut self, page: Gfn) {
        if self.mappings(page).nth(1).is_none() {
            self.stop_flush_merge(page);
        }
    }

    fn stop_flush_merge(&mut self, page: Gfn) {
        let state = self.mover.state_mut(page);
        let index = core::mem::replace(&mut state.flush_merged, NONE);
        // The last page takes its place. A pass runs from the end to the start, so it has merged
        // that page already or still reaches it there.
        let removed = self.flush_merged.swap_remove(index as usize);
        invariant!(removed == page, "a flush-merged page has its own index: {page:?}");
        if let Some(moved) = self.flush_merged.get(index as usize).copied() {
            self.mover.state_mut(moved).flush_merged = index;
        }
    }

    /// Whether a device may write one copy of `page` and read another.
    fn is_written_and_read(&self, page: Gfn) -> bool {
        let mut first = None;
        let mut are_several = false;
        let mut all = Permission::default();
        for mapping in self.mappings(page) {
            let (slot, _, at) = self.slot_of(mapping);
            are_several |= *first.get_or_insert(at) != at;
            all = all.union(slot.permission);
        }
        are_several && all == Permission::READ_WRITE
    }

    /// Makes the copies equal of every flush-merged page that `domain` maps, from index `left`
    /// downwards. Returns true after the last of them, or false if `budget` is spent before: the
    /// next call continues at `left`.
    #[must_use]
    pub(crate) fn merge_at_flush(
        &mut self,
        host: &mut impl Host,
        domain: DomainId,
        left: &mut usize,
        budget: &mut Budget,
    ) -> bool {
        if !self.placed(domain).has_flush_merged {
            return true;
        }
        let is_whole_pass = *left >= self.flush_merged.len();
        let mut is_any_mapped = false;
        *left = self.flush_merged.len().min(*left);
        while let Some(index) = left.checked_sub(1) {
            if budget.is_spent() {
                host.publish();
                return false;
            }
            *left = index;
            let page = *self.flush_merged.get(index).must("the pass is inside the list");
            budget.charge(NODE_BYTES * (1 + self.count_mappings(page)));
            if !self.mappings(page).any(|mapping| mapping.domain == domain) {
                continue;
            }
            is_any_mapped = true;
            let reserve = self.charge_merge(page, budget);
            self.equalize(host, page);
            self.refund(reserve, budget);
            if !self.is_written_and_read(page) {
                self.stop_flush_merge(page);
            }
        }
        if is_any_mapped {
            host.publish();
        } else if is_whole_pass {
            self.placed_mut(domain).has_flush_merged = false;
        }
        true
    }

    /// Makes the copies of `page` equal, if a device or an untranslated bus master may have changed
    /// one without a trap.
    pub(crate) fn equalize(&mut self, host: &mut impl Host, page: Gfn) {
        let state = self.mover.state(page);
        if state.twin != 0 {
            self.merge_copies(host, page);
        } else if state.flush_merged != NONE {
            let bytes = self.refresh_bounce_pages(host, page);
            if bytes != 0 {
                host.event(Event::Merged { page, bytes });
            }
        }
    }

    /// Copies `page` to all its bounce pages, none of which a device may write. Returns how many
    /// bytes differed.
    pub(super) fn refresh_bounce_pages(&self, host: &mut impl Host, page: Gfn) -> u32 {
        let primary = self.mover.locate(page);
        let mut bytes = 0;
        for (bounce, _) in self.bounce_pages(page) {
            let mut start = 0;
            while let Some(word) = host.first_difference(bounce, primary, start..PAGE_WORDS) {
                let value = host.load(primary, word);
                bytes += differing_bytes(host.load(bounce, word), value).count_ones() / 8;
                host.store(bounce, word, value);
                start = word + 1;
            }
        }
        bytes
    }
}
