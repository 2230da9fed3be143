//! The instructions that the code at EL2 executes on the checker.

use super::BbmChecker;
use super::state::{ENTRIES, Fetch, LINE_BYTES, Place, Stage, VMID_SHIFT, Written, pages_of};
use oche_el2::stage2::Root;
use oche_el2::stage2::hardware::{Barrier, Hardware, Translations};
use oche_types::addr::{Gfn, Hfn};

#[expect(unsafe_code, reason = "a model of the machine")]
// SAFETY: no CPU uses its tables but the model's.
unsafe impl Hardware for BbmChecker {
    fn load(&self, table: u64, index: usize) -> u64 {
        self.word(table, index).map_or(0, |word| self.0.words[word].get())
    }

    fn store(&self, table: u64, index: usize, value: u64) {
        self.put(table, index, value);
    }

    fn exchange(&self, table: u64, index: usize, old: u64, new: u64) -> bool {
        let is_same = self.load(table, index) == old;
        if is_same {
            self.put(table, index, new);
        }
        is_same
    }

    fn barrier(&self, barrier: Barrier) {
        let rules = &mut *self.0.rules.borrow_mut();
        rules.storing = None;
        match barrier {
            Barrier::Here => {
                if rules.has_begun_to_forget_view {
                    rules.has_begun_to_forget_view = false;
                    rules.view.clear();
                }
                return;
            }
            Barrier::Everything => self.complete(rules),
            Barrier::Stores | Barrier::StoresForAll => {
                for entry in rules.stale.values_mut().filter(|entry| entry.stage == Stage::Stored) {
                    entry.stage = Stage::Ordered;
                }
                self.complete_fetches(rules, false);
            }
        }
        rules.barriers += 1;
        rules.barriers_for_all += u64::from(barrier == Barrier::StoresForAll);
    }

    fn invalidate(&self, translations: Translations) {
        let rules = &mut *self.0.rules.borrow_mut();
        let is_guest = rules.tables.is_some_and(|tables| tables >> VMID_SHIFT == 0);
        let places = &rules.places;
        let covers = |word: usize, page: Gfn| {
            places[word / ENTRIES].is_some_and(|place| {
                let first = place.first + (word % ENTRIES) as u64 * pages_of(place.level);
                (first..first + pages_of(place.level)).contains(&u64::from(page.0))
            })
        };
        match translations {
            Translations::AllHere => rules.has_begun_to_forget_view |= !is_guest,
            // It is about the VMID in use.
            _ if !is_guest => {}
            Translations::Page(page) => {
                for (word, entry) in &mut rules.stale {
                    if entry.stage == Stage::Ordered && covers(*word, page) {
                        entry.stage = Stage::PageBegun;
                    }
                }
            }
            Translations::FirstStage => {
                for entry in rules.stale.values_mut().filter(|entry| entry.stage == Stage::PageDone)
                {
                    entry.stage = Stage::FirstStageBegun;
                }
            }
            Translations::All => {
                for entry in rules.stale.values_mut().filter(|entry| entry.stage != Stage::Stored) {
                    entry.stage = Stage::AllBegun;
                }
            }
        }
    }

    fn select_tables(&self, vttbr: u64) {
        let rules = &mut *self.0.rules.borrow_mut();
        let root = vttbr & ((1 << VMID_SHIFT) - 1);
        let Some(first) = self.word(root, 0) else {
            return self.violate(format!("VTTBR_EL2 names no table: {vttbr:#x}"));
        };
        if vttbr >> VMID_SHIFT != 0 {
            rules.has_begun_to_forget_view = false;
            self.look_at_view(rules, root, 1);
        } else if !rules.view.is_empty() {
            self.violate("a CPU leaves a view and keeps translations of it".to_owned());
        }
        if rules.tables.is_none() {
            if rules.stored.contains(&rules.barriers) {
                self.violate("the tables are used before their entries are ordered".to_owned());
            }
            // Two tables side by side are one root.
            for half in 0..Root::table_bytes(self.0.ipa_bits) / 4096 {
                let place = Place { level: 1, first: half * ENTRIES as u64 * pages_of(1) };
                self.reach(rules, first / ENTRIES + half as usize, place);
            }
        }
        rules.tables = Some(vttbr);
    }

    fn data_line_bytes(&self) -> u64 {
        LINE_BYTES
    }

    fn clean_line(&self, address: u64) {
        let rules = &mut *self.0.rules.borrow_mut();
        let page = Hfn((address >> 12) as u32);
        rules.storing = None;
        if let Some(Written { fetch: Fetch::Written(lines), .. }) = self.0.written_mut(rules, page)
        {
            *lines |= 1 << (address % 4096 / LINE_BYTES);
            rules.fetches.push(page);
            rules.fetches.dedup();
        }
    }

    fn drop_instructions(&self) {
        let rules = &mut *self.0.rules.borrow_mut();
        for page in rules.fetches.clone() {
            if let Some(written) = self.0.written_mut(rules, page)
                && written.fetch == Fetch::Clean
            {
                written.fetch = Fetch::Begun;
            }
        }
    }
}
