//! The cost of changes in bytes, by which the work of one trap is bounded.
//!
//! A batch compares the copies of each page that loses a mapping once: the code that makes copies
//! equal adds the page to a list and skips it if it is in the list. A page that gains mappings is
//! not compared: its bounce pages are filled from the twin. How far copies differ is not known
//! before they are compared, so the worst case is reserved and the difference refunded.

use oche_types::addr::{Gfn, PAGE_BYTES, PAGE_WORDS, SLOTS};
use oche_types::invariant;

use crate::budget::Budget;
use crate::granule::state::Form;
use crate::granule::work::WholeGranule;
use crate::granule::{Change, GranuleMapper};
use crate::host::DomainId;
use crate::mover::PageState;

/// Cost of any change: comparing its entries and looking up the granule's state.
const CHANGE_BYTES: usize = 1024;
/// Cost of a page that is mapped or unmapped: checking the red zone, copying the page, filling the
/// slot. A page that stays where it is and whose trap is relaxed costs less.
const SLOT_BYTES: usize = 4 * PAGE_BYTES;
/// Cost of each copy of such a page, which is compared at the removal.
const COPY_BYTES: usize = 6 * PAGE_BYTES;
/// Cost of each word that differs, for each copy that it is stored into. At worst every other byte
/// differs and needs a store of its own, which takes as long as copying many words.
const MERGED_WORD_BYTES: usize = 448;
/// Cost of each copy of a page if all words differ.
const MERGED_PAGE_BYTES: usize = MERGED_WORD_BYTES * PAGE_WORDS;
/// Cost of each node of a list of mappings that is walked.
pub(super) const NODE_BYTES: usize = 64;

/// What was charged for making copies equal, before it is known how far they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct Reserve {
    bytes: usize,
    /// [`GranuleMapper::merged_words`] before.
    merged_words: usize,
}

impl Reserve {
    /// The sum of two reserves, of which `self` was charged first.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, ..self }
    }
}

/// The part of a batch that the rest of a budget allows.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(crate) struct Affordable {
    /// How many of the first changes.
    pub(crate) count: usize,
    /// Whether one of them maps a write-protected page.
    pub(crate) maps_table: bool,
    pub(super) reserve: Reserve,
}

/// The cost of a change.
struct Cost {
    /// In bytes, without merging.
    bytes: usize,
    /// Number of copies that are compared.
    compared: usize,
    /// Whether it maps a write-protected page.
    maps_table: bool,
    /// Its granule, if it maps or unmaps all of that.
    whole: Option<WholeGranule>,
}

/// What a page with so many mappings costs without merging.
const fn page_bytes(mappings: usize, is_compared: bool) -> usize {
    let copy_bytes = if is_compared { COPY_BYTES } else { 0 };
    SLOT_BYTES + (NODE_BYTES + copy_bytes) * mappings
}

impl GranuleMapper {
    /// How many of the first of `changes` the rest of `budget` admits, at least `least`. They are
    /// charged to it, and the whole granules among them are listed. If it admits none, it ends.
    pub(super) fn affordable(
        &mut self,
        domain: DomainId,
        changes: &[Change],
        least: usize,
        budget: &mut Budget,
    ) -> Affordable {
        let (mut count, mut maps_table) = (0, false);
        let mut reserve = self.reserve(0);
        self.mapped_whole.clear();
        self.unmapped_whole.clear();
        for change in changes {
            let cost = self.cost(domain, change);
            let merge = self.reserve(cost.compared);
            let bytes = cost.bytes + merge.bytes;
            if count >= least && !budget.admits(bytes) {
                break;
            }
            budget.charge(bytes);
            reserve = reserve.and(merge);
            maps_table |= cost.maps_table;
            count += 1;
            match cost.whole {
                Some(whole) if whole.is_mapped() => self.mapped_whole.push(whole),
                Some(whole) => self.unmapped_whole.push(whole),
                None => {}
            }
        }
        self.unlist_all();
        if count == 0 && !changes.is_empty() {
            budget.end();
        }
        Affordable { count, maps_table, reserve }
    }

    /// The reserve for making so many copies equal at worst. It is not charged yet.
    pub(crate) fn reserve(&self, copies: usize) -> Reserve {
        Reserve { bytes: MERGED_PAGE_BYTES * copies, merged_words: self.merged_words }
    }

    /// Charges what it costs to compare the copies of `page` and, at worst, to make them equal.
    pub(crate) fn charge_merge(&self, page: Gfn, budget: &mut Budget) -> Reserve {
        let copies = self.count_mappings(page);
        let reserve = self.reserve(copies);
        budget.charge(COPY_BYTES * copies + reserve.bytes);
        reserve
    }

    /// Refunds what was not needed of `reserve` since it was made.
    pub(crate) fn refund(&self, reserve: Reserve, budget: &mut Budget) {
        let done = MERGED_WORD_BYTES * self.merged_words.wrapping_sub(reserve.merged_words);
        budget.refund(reserve.bytes.saturating_sub(done));
    }

    /// The cost of `change`.
    fn cost(&mut self, domain: DomainId, change: &Change) -> Cost {
        let before = self.state(domain, change.granule);
        if before.form == Form::Empty
            && let Some((whole, pages)) = self.find_mapped_whole(change)
        {
            let bytes = CHANGE_BYTES + SLOTS * page_bytes(0, false);
            let maps_table = pages.iter().any(PageState::is_write_protected);
            return Cost { bytes, compared: 0, maps_table, whole: Some(whole) };
        }
        if let Some(whole) = self.find_unmapped_whole(change, before) {
            let bytes = CHANGE_BYTES + SLOTS * page_bytes(1, false);
            return Cost { bytes, compared: 0, maps_table: false, whole: Some(whole) };
        }
        let before = *before;
        // Splitting a direct granule compares the copies of each page once more.
        let is_direct = matches!(before.form, Form::Direct(_));
        let (mut bytes, mut compared, mut maps_table) = (CHANGE_BYTES, 0, false);
        for slot in before.slots.iter().flatten() {
            let (page_bytes, copies) = self.page_cost(slot.page, is_direct);
            bytes += page_bytes;
            compared += copies;
        }
        for leaf in change.wanted.iter().flatten() {
            maps_table |= self.mover.is_write_protected(leaf.page);
            let (page_bytes, copies) = self.page_cost(leaf.page, is_direct);
            bytes += page_bytes;
            compared += copies;
        }
        Cost { bytes, compared, maps_table, whole: None }
    }

    /// What `page` adds to the cost of a change of a granule, which may be direct.
    #[inline]
    fn page_cost(&mut self, page: Gfn, is_direct: bool) -> (usize, usize) {
        let copies = self.count_mappings(page);
        let is_compared = copies != 0 && (is_direct || self.list(page));
        (page_bytes(copies, is_compared), if is_compared { copies } else { 0 })
    }

    /// Adds `page` to the list of pages that the current work has visited. Returns whether it was
    /// not in the list yet.
    #[inline(never)]
    pub(super) fn list(&mut self, page: Gfn) -> bool {
        // A page that is not guest RAM is refused and has no state.
        let Some(state) = self.mover.get_mut(page).filter(|state| !state.flags.is_listed()) else {
            return false;
        };
        state.flags.set_is_listed(true);
        invariant!(
            self.listed.len() < self.listed.capacity(),
            "a batch changes a bounded number of pages"
        );
        self.listed.push(page);
        true
    }

    /// Takes a page from the list of visited pages, if there is one.
    pub(super) fn unlist(&mut self) -> Option<Gfn> {
        let page = self.listed.pop()?;
        self.mover.state_mut(page).flags.set_is_listed(false);
        Some(page)
    }

    /// Empties the list of visited pages.
    pub(super) fn unlist_all(&mut self) {
        while self.unlist().is_some() {}
    }
}
