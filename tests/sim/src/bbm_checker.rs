//! The break-before-make checker: checks every change of a translation table, barrier and
//! invalidation against the architecture's rules.
//!
//! [`BbmChecker`] is the [`Hardware`](oche_el2::stage2::hardware::Hardware) under
//! `oche_el2::stage2`: the code that runs at EL2 stores its entries and executes its barriers and
//! TLB maintenance here. Each table entry that a walk may reach has a state, from the store that
//! makes it invalid to the end of the last invalidation. What is done too early, too weakly or not
//! at all is recorded as a violation.
//!
//! The rules, by name, with their source in Arm ARM DDI 0487:
//! - *break before make*: a valid entry becomes another with a different address, type, size or
//!   memory attributes only over an invalid one, `DSB ISHST`, `TLBI IPAS2E1IS`, `DSB ISH`, `TLBI
//!   VMALLE1IS`, `DSB ISH` (or, for the two invalidations, one `TLBI VMALLS12E1IS`). "Using
//!   break-before-make when updating translation table entries".
//! - *nothing stale at the end*: a permission that changed in place is invalidated before the
//!   engine relies on it.
//! - *contents first*: an entry points to a table or a page only after a `DSB` has ordered the
//!   stores into it.
//! - *instructions*: a page that EL2 wrote is executable only after `DC CVAU` of each line, `DSB
//!   ISH`, `IC IALLUIS`, `DSB ISH`.
//! - *views*: tables of another VMID change only while no CPU can have cached any of them.
//! - *copies after the break*: a page's bytes move only when no CPU has a translation of it.

mod hardware;
mod state;

use oche_el2::stage2::entry::Entry;
use oche_types::addr::{Gfn, Hfn};
use oche_types::range::PhysRange;
use state::{
    ALL_LINES, ENTRIES, Fetch, Place, Rules, SOFTWARE, Stage, Stale, State, VMID_SHIFT, Written,
    index_of, is_permission_alone, pages_of,
};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// One CPU that executes at EL2, and the state of what it has done.
#[derive(Clone, Debug)]
pub struct BbmChecker(Rc<State>);

impl BbmChecker {
    /// Tables in `pages` pages of host memory at `base`, all zero, for guest-physical addresses of
    /// `ipa_bits`; other memory is in `runs`: first page and number of pages.
    pub fn new(base: u64, pages: usize, ipa_bits: u32, runs: Vec<(Hfn, u32)>) -> Self {
        let words = (0..pages * ENTRIES).map(|_| Cell::new(0)).collect();
        let written = vec![None; runs.iter().map(|(_, count)| *count as usize).sum()];
        let rules = Rules {
            places: vec![None; pages],
            stored: vec![0; pages],
            written,
            ..Rules::default()
        };
        // The zeros were ordered long ago.
        let rules = RefCell::new(Rules { barriers: 1, barriers_for_all: 1, ..rules });
        Self(Rc::new(State { base, ipa_bits, runs, words, rules, violation: RefCell::new(None) }))
    }

    /// The memory of the tables.
    pub fn memory(&self) -> PhysRange {
        PhysRange { start: self.0.base, end: self.0.base + self.0.words.len() as u64 * 8 }
    }

    /// The first violation, if there is one.
    pub fn take_violation(&self) -> Option<String> {
        self.0.violation.borrow_mut().take()
    }

    /// Records a violation.
    pub fn violate(&self, text: String) {
        self.0.violation.borrow_mut().get_or_insert(text);
    }

    /// Records that EL2 has written into `page`, other than with an instruction of the guest.
    pub fn note_store(&self, page: Hfn) {
        let rules = &mut *self.0.rules.borrow_mut();
        if rules.storing == Some(page) {
            return;
        }
        rules.storing = Some(page);
        let written = Written {
            at: rules.barriers,
            at_for_all: rules.barriers_for_all,
            touched: rules.completed,
            fetch: Fetch::Written(0),
        };
        if let Some(place) = self.0.place(page).and_then(|place| rules.written.get_mut(place)) {
            *place = Some(written);
        }
    }

    /// Records that EL2 has compared `page` with another.
    pub fn note_comparison(&self, page: Hfn) {
        let rules = &mut *self.0.rules.borrow_mut();
        let completed = rules.completed;
        if let Some(written) = self.0.written_mut(rules, page) {
            written.touched = completed;
        }
    }

    /// Records that `page` is at `to` now.
    pub fn note_move(&self, page: Gfn, to: Hfn) {
        let Some(word) = self.leaf_word(page) else {
            return self.violate(format!("{page:?} moves without an entry of its own"));
        };
        let rules = self.0.rules.borrow();
        if self.0.words[word].get() & 1 != 0 || rules.stale.contains_key(&word) {
            let stale = rules.stale.get(&word);
            self.violate(format!("{page:?} moves to {to:?} while CPUs may reach it ({stale:?})"));
            return;
        }
        let completed = rules.completed_at.get(&word).copied().unwrap_or(0);
        if self.0.written(&rules, to).is_none_or(|written| written.touched < completed) {
            self.violate(format!(
                "{page:?} moves to {to:?}, where nothing was copied since its break was done"
            ));
        }
    }

    /// Whether the stores into `page` have been ordered for every observer.
    pub fn is_visible_to_all(&self, page: Hfn) -> bool {
        let rules = self.0.rules.borrow();
        self.0
            .written(&rules, page)
            .is_none_or(|written| written.at_for_all < rules.barriers_for_all)
    }

    /// Number of barriers so far that order stores for every observer.
    pub fn barriers_for_all(&self) -> u64 {
        self.0.rules.borrow().barriers_for_all
    }

    /// A driver's own barrier, of the strongest kind.
    pub fn full_barrier(&self) {
        let rules = &mut *self.0.rules.borrow_mut();
        rules.storing = None;
        rules.barriers += 1;
        rules.barriers_for_all += 1;
    }

    /// The value that a walk which began a moment ago may still find in the entry of `page`, if it
    /// has one of its own.
    pub fn older_leaf(&self, page: Gfn) -> Option<Entry> {
        let word = self.leaf_word(page)?;
        let stale = self.0.rules.borrow().stale.get(&word).copied()?;
        (stale.stage == Stage::Stored).then(|| Entry::decode(stale.before, 3))
    }

    /// Runs of guest pages that every TLB has dropped since the last call: first page and number.
    pub fn take_forgotten(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.0.rules.borrow_mut().forgotten)
    }

    /// Call it when EL2 has completed its work: nothing stale may be left.
    pub fn check_settled(&self) {
        let rules = self.0.rules.borrow();
        if let Some((word, stale)) = rules.stale.first_key_value() {
            let now = self.0.words[*word].get();
            self.violate(format!(
                "entry {word:#x} went from {:#x} to {now:#x} and {stale:?}",
                stale.before
            ));
        }
    }

    /// The entry of `page` alone, if there is one.
    fn leaf_word(&self, page: Gfn) -> Option<usize> {
        let rules = self.0.rules.borrow();
        let tables = rules.tables?;
        let (mut table, mut level) = (tables & ((1 << VMID_SHIFT) - 1), 1);
        loop {
            let word = self.word(table, index_of(page, level))?;
            match Entry::decode(self.0.words.get(word)?.get(), level) {
                Entry::Table(next) if level < 3 => (table, level) = (next.address(), level + 1),
                _ if level == 3 => return Some(word),
                _ => return None,
            }
        }
    }

    fn word(&self, table: u64, index: usize) -> Option<usize> {
        let offset = table.checked_sub(self.0.base)? / 8;
        let word = offset as usize + index;
        (word < self.0.words.len()).then_some(word)
    }

    fn put(&self, table: u64, index: usize, new: u64) {
        let Some(word) = self.word(table, index) else {
            return self
                .violate(format!("a store to entry {index} of {table:#x}, which is no table"));
        };
        let rules = &mut *self.0.rules.borrow_mut();
        let before = self.0.words[word].replace(new);
        if before == new {
            return;
        }
        let page = word / ENTRIES;
        rules.stored[page] = rules.barriers;
        if rules.view.contains(&page) {
            self.violate(format!(
                "entry {word:#x} of a view changes while a CPU may hold translations of it"
            ));
        }
        if rules.tables.is_none() {
            return;
        }
        let Some(place) = rules.places[page] else { return };
        if let Err(text) = self.change(rules, word, place, before, new) {
            self.violate(format!(
                "{text}: entry {word:#x}, level {}, from {before:#x} to {new:#x}, {:?}",
                place.level,
                rules.stale.get(&word)
            ));
        }
    }

    /// The guest's tables change under the guest.
    fn change(
        &self,
        rules: &mut Rules,
        word: usize,
        place: Place,
        before: u64,
        new: u64,
    ) -> Result<(), &'static str> {
        let stored = Stale { before, stage: Stage::Stored };
        let (old_entry, new_entry) =
            (Entry::decode(before, place.level), Entry::decode(new, place.level));
        match (before & 1 != 0, new & 1 != 0) {
            (true, false) if !rules.view.is_empty() => {
                return Err("an entry is broken while a CPU uses a view that has it too");
            }
            (true, false) => {
                rules.stale.insert(word, stored);
            }
            (false, _) if rules.stale.contains_key(&word) => {
                return Err("an entry is made before its break is complete");
            }
            (false, false) => {}
            (false, true) => self.shown(rules, word, place, new_entry)?,
            (true, true) if (before ^ new) & !SOFTWARE == 0 => {}
            (true, true) => match (old_entry, new_entry) {
                (Entry::Leaf { at: old_at, attributes: old }, Entry::Leaf { at, attributes })
                    if old_at == at && is_permission_alone(old, attributes) =>
                {
                    self.shown(rules, word, place, new_entry)?;
                    rules.stale.insert(word, stored);
                }
                _ => return Err("a valid entry becomes another without a break"),
            },
        }
        Ok(())
    }

    /// `entry` becomes valid: what it names must be there before.
    fn shown(
        &self,
        rules: &mut Rules,
        word: usize,
        place: Place,
        entry: Entry,
    ) -> Result<(), &'static str> {
        match entry {
            Entry::Table(next) => {
                let Some(first) = self.word(next.address(), 0) else {
                    return Err("an entry names no table");
                };
                if rules.stored[first / ENTRIES] == rules.barriers {
                    return Err("a table is linked before its contents are ordered");
                }
                let pages = pages_of(place.level);
                let start = place.first + (word % ENTRIES) as u64 * pages;
                self.reach(rules, first / ENTRIES, Place { level: place.level + 1, first: start });
            }
            Entry::Leaf { at, attributes } => {
                let Some(written) = self.0.written(rules, at) else { return Ok(()) };
                if written.at == rules.barriers {
                    return Err("a page is shown before its bytes are ordered");
                }
                if !attributes.no_execute && written.fetch != Fetch::Right {
                    return Err("a page can be executed before its instructions are synchronised");
                }
            }
            Entry::Invalid | Entry::Broken => {}
        }
        Ok(())
    }

    /// The guest's VMID reaches the table in page `page`, and all below it.
    fn reach(&self, rules: &mut Rules, page: usize, place: Place) {
        rules.places[page] = Some(place);
        for index in 0..ENTRIES {
            let entry = Entry::decode(self.0.words[page * ENTRIES + index].get(), place.level);
            if let Entry::Table(next) = entry
                && let Some(first) = self.word(next.address(), 0)
            {
                let below = place.first + index as u64 * pages_of(place.level);
                self.reach(rules, first / ENTRIES, Place { level: place.level + 1, first: below });
            }
        }
    }

    fn look_at_view(&self, rules: &mut Rules, table: u64, level: u8) {
        let Some(first) = self.word(table, 0) else { return };
        let page = first / ENTRIES;
        if rules.places[page].is_some() || !rules.view.insert(page) {
            return;
        }
        if rules.stored[page] == rules.barriers {
            self.violate(format!("the view at {table:#x} is used before its entries are ordered"));
        }
        for index in 0..ENTRIES {
            if let Entry::Table(next) = Entry::decode(self.0.words[first + index].get(), level) {
                self.look_at_view(rules, next.address(), level + 1);
            }
        }
    }

    fn complete(&self, rules: &mut Rules) {
        let Rules { stale, forgotten, completed, completed_at, places, .. } = rules;
        stale.retain(|word, entry| {
            entry.stage = match entry.stage {
                Stage::Stored => Stage::Ordered,
                Stage::PageBegun => Stage::PageDone,
                Stage::FirstStageBegun | Stage::AllBegun => {
                    *completed += 1;
                    completed_at.insert(*word, *completed);
                    if let Some(place) = places[word / ENTRIES] {
                        let pages = pages_of(place.level);
                        forgotten.push((place.first + (word % ENTRIES) as u64 * pages, pages));
                    }
                    return false;
                }
                stage => stage,
            };
            true
        });
        self.complete_fetches(rules, true);
    }

    /// A `DSB`, of stores alone or of everything: cache maintenance as well.
    fn complete_fetches(&self, rules: &mut Rules, is_of_all: bool) {
        for page in rules.fetches.clone() {
            let Some(written) = self.0.written_mut(rules, page) else { continue };
            match written.fetch {
                Fetch::Written(ALL_LINES) if is_of_all => written.fetch = Fetch::Clean,
                Fetch::Begun if is_of_all => written.fetch = Fetch::Right,
                _ => {}
            }
        }
        let mut fetches = std::mem::take(&mut rules.fetches);
        let is_under_way = |fetch| match fetch {
            Fetch::Written(_) => !is_of_all,
            Fetch::Clean | Fetch::Begun => true,
            Fetch::Right => false,
        };
        fetches.retain(|page| {
            self.0.written(rules, *page).is_some_and(|written| is_under_way(written.fetch))
        });
        rules.fetches = fetches;
    }
}
