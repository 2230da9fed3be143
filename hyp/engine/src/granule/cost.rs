//! What changes cost, so that the work of one trap has a bound in bytes.
//!
//! A batch looks at all copies of each page that it is about, once: the page is listed, and the
//! code that makes copies equal asks whether it is the first to do so. How far copies differ is not
//! known before: the worst case is reserved, and what was not needed is refunded.

use oche_types::addr::{Gfn, PAGE_BYTES, PAGE_WORDS};
use oche_types::invariant;

use crate::budget::Budget;
use crate::granule::state::Form;
use crate::granule::{Change, GranuleMapper};
use crate::host::DomainId;

/// Of a change, whatever it maps: its entries compared, and what is known of its granule looked up.
const CHANGE_BYTES: usize = 1024;
/// Of a page that comes or goes: the red zone looked at, the page copied, the slot filled.
const SLOT_BYTES: usize = 4 * PAGE_BYTES;
/// Of each copy of such a page: compared when the page's mappings go and when they come.
const COPY_BYTES: usize = 6 * PAGE_BYTES;
/// Of each word that differs, in each copy that it is stored into. At worst every other byte
/// differs, and each is a store of its own, which costs as much as copying many words.
const MERGED_WORD_BYTES: usize = 448;
/// Of each copy of a page all of whose words differ.
const MERGED_PAGE_BYTES: usize = MERGED_WORD_BYTES * PAGE_WORDS;
/// Of each node of a list of mappings that is walked.
pub(super) const NODE_BYTES: usize = 64;

/// What was charged for making copies equal, which they may turn out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct Reserve {
    bytes: usize,
    /// [`GranuleMapper::merged_words`] before.
    merged_words: usize,
}

impl Reserve {
    /// Both together, of which `self` was charged first.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, ..self }
    }
}

impl GranuleMapper {
    /// How many of the first of `changes`, at least one, what is left of `budget` allows. They are
    /// charged to it.
    pub(super) fn affordable(
        &mut self,
        domain: DomainId,
        changes: &[Change],
        budget: &mut Budget,
    ) -> (usize, Reserve) {
        let mut count = 0;
        let mut reserve = self.reserve(0);
        for change in changes {
            let (sure, copies) = self.cost(domain, change);
            let merge = self.reserve(copies);
            let cost = sure + merge.bytes;
            if count != 0 && !budget.allows(cost) {
                break;
            }
            budget.charge(cost);
            reserve = reserve.and(merge);
            count += 1;
        }
        self.unlist_all();
        (count, reserve)
    }

    /// For making so many copies equal, at worst; not charged yet.
    pub(crate) fn reserve(&self, copies: usize) -> Reserve {
        Reserve { bytes: MERGED_PAGE_BYTES * copies, merged_words: self.merged_words }
    }

    /// Charges what it costs to compare the copies of `page` and, at worst, to make them equal.
    pub(crate) fn charge_merge(&self, page: Gfn, budget: &mut Budget) -> Reserve {
        let copies = self.mappings(page).count();
        let reserve = self.reserve(copies);
        budget.charge(COPY_BYTES * copies + reserve.bytes);
        reserve
    }

    /// Gives back what of `reserve` was not needed since.
    pub(crate) fn refund(&self, reserve: Reserve, budget: &mut Budget) {
        let done = MERGED_WORD_BYTES * self.merged_words.wrapping_sub(reserve.merged_words);
        budget.refund(reserve.bytes.saturating_sub(done));
    }

    /// Of `change`: what it costs however copies differ, and how many copies are compared.
    fn cost(&mut self, domain: DomainId, change: &Change) -> (usize, usize) {
        let before = self.state(domain, change.granule);
        // A direct granule that is split looks at the copies of each page by itself.
        let is_direct = matches!(before.form, Form::Direct(_));
        let old = before.slots.into_iter().flatten().map(|slot| slot.page);
        let new = change.wanted.into_iter().flatten().map(|leaf| leaf.page);
        let (mut bytes, mut compared) = (CHANGE_BYTES, 0);
        for page in old.chain(new) {
            let copies = self.mappings(page).count();
            bytes += SLOT_BYTES + NODE_BYTES * copies;
            if self.list(page) || is_direct {
                bytes += COPY_BYTES * copies;
                compared += copies;
            }
        }
        (bytes, compared)
    }

    /// Lists `page` among those that the work under way is about. Whether it was not listed yet.
    pub(super) fn list(&mut self, page: Gfn) -> bool {
        // What is not guest RAM is refused, and has no state.
        let Some(state) = self.mover.get_mut(page).filter(|state| !state.is_listed) else {
            return false;
        };
        state.is_listed = true;
        invariant!(
            self.listed.len() < self.listed.capacity(),
            "a batch is about a bounded number of pages"
        );
        self.listed.push(page);
        true
    }

    /// Forgets what was listed.
    pub(super) fn unlist_all(&mut self) {
        while let Some(page) = self.listed.pop() {
            self.mover.state_mut(page).is_listed = false;
        }
    }
}
