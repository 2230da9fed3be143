//! What changes cost, so that the work of one trap has a bound in bytes.
//!
//! A batch looks at all copies of each page that it is about, once: the page is listed, and whoever makes copies
//! equal asks whether it is the first to do so.

use crate::addr::{Gfn, PAGE_BYTES};
use crate::budget::Budget;
use crate::invariant::invariant;
use crate::placement::book::Form;
use crate::placement::{Change, Placement};
use crate::world::SpaceId;

/// Of a change, whatever it maps: its entries compared, and what is known of its granule looked up.
const CHANGE_BYTES: usize = 1024;
/// Of a page that comes or goes: the red zone looked at, the page copied, the slot filled.
const SLOT_BYTES: usize = 4 * PAGE_BYTES;
/// Of each copy of such a page: compared and made equal when the page's mappings go and when they come.
const COPY_BYTES: usize = 6 * PAGE_BYTES;
/// Of each node of a list of mappings that is walked.
pub(super) const NODE_BYTES: usize = 64;

impl Placement {
    /// How many of the first of `changes`, at least one, what is left of `budget` allows. They are charged to it.
    pub(super) fn affordable(&mut self, space: SpaceId, changes: &[Change], budget: &mut Budget) -> usize {
        let mut count = 0;
        for change in changes {
            let cost = self.cost(space, change);
            if count != 0 && !budget.allows(cost) {
                break;
            }
            budget.charge(cost);
            count += 1;
        }
        self.unlist_all();
        count
    }

    fn cost(&mut self, space: SpaceId, change: &Change) -> usize {
        let before = self.record(space, change.granule);
        // A direct granule that is split looks at the copies of each page by itself.
        let is_direct = matches!(before.form, Form::Direct(_));
        let old = before.slots.into_iter().flatten().map(|slot| slot.page);
        let new = change.wanted.into_iter().flatten().map(|leaf| leaf.page);
        let mut bytes = CHANGE_BYTES;
        for page in old.chain(new) {
            let copies = self.mappings(page).count();
            bytes += SLOT_BYTES + NODE_BYTES * copies;
            if self.list(page) || is_direct {
                bytes += COPY_BYTES * copies;
            }
        }
        bytes
    }

    /// What it costs to compare and make equal the copies of `page`.
    pub(crate) fn merge_cost(&self, page: Gfn) -> usize {
        COPY_BYTES * self.mappings(page).count()
    }

    /// Lists `page` among those that the work under way is about. Whether it was not listed yet.
    pub(super) fn list(&mut self, page: Gfn) -> bool {
        // A device's page has no record.
        let Some(record) = self.mover.get_mut(page).filter(|record| !record.is_listed) else { return false };
        record.is_listed = true;
        invariant!(self.listed.len() < self.listed.capacity(), "a batch is about a bounded number of pages");
        self.listed.push(page);
        true
    }

    /// Forgets what was listed.
    pub(super) fn unlist_all(&mut self) {
        while let Some(page) = self.listed.pop() {
            self.mover.record_mut(page).is_listed = false;
        }
    }
}
