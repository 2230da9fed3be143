//! Break-before-make and all that belongs to it: the code that runs at EL2 keeps the rules, and
//! mistakes are seen.

use oche_el2::stage2::hardware::{Barrier, Hardware, Translations};
use oche_el2::stage2::maintenance::Maintenance;
use oche_el2::stage2::{Lookup, Stage2};
use oche_engine::host::{CpuAccess, Stage2 as _};
use oche_sim::bbm_checker::BbmChecker;
use oche_sim::random::Random;
use oche_types::addr::{Gfn, Hfn};
use oche_types::range::{PAGE, PhysRange};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A mistake that a person could make in the sequences, made where they meet the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// The invalid entry is not ordered before the invalidation.
    NoBarrierBefore,
    /// The invalidation is not waited for.
    NoBarrierAfter,
    /// It is waited for by a barrier that waits for stores alone.
    WeakBarrierAfter,
    /// There is none.
    NoInvalidation,
    /// It reaches this CPU alone.
    WrongScope,
    /// It names another page.
    WrongPage,
    /// It comes before the invalid entry is ordered.
    WrongOrder,
    /// What combines both stages stays.
    NoFirstStage,
    /// A valid entry is overwritten at once.
    NoBreak,
    /// A page's bytes are not ordered before the entry that shows them.
    NoOrderBeforeMake,
    /// The instruction caches keep what they have.
    NoInstructionInvalidation,
    /// A line of the data cache is not cleaned.
    NoLastLine,
    /// A CPU leaves a view and keeps its translations.
    NoForgettingOfView,
}

/// The checker, behind somebody who makes a [`Mistake`].
#[derive(Clone)]
struct Mistaken {
    to: BbmChecker,
    mistake: Mistake,
    /// The guest runs: boot is over.
    is_armed: Rc<Cell<bool>>,
    /// With [`Mistake::WrongOrder`], a barrier is still to come; otherwise, the one before a make
    /// comes next.
    is_due: Rc<Cell<bool>>,
    /// Entries that EL2 believes to have stored.
    believed: Rc<RefCell<BTreeMap<(u64, usize), u64>>>,
}

impl Mistaken {
    fn is(&self, mistake: Mistake) -> bool {
        self.is_armed.get() && self.mistake == mistake
    }
}

#[expect(unsafe_code, reason = "a model of the machine")]
// SAFETY: no CPU uses its tables.
unsafe impl Hardware for Mistaken {
    fn load(&self, table: u64, index: usize) -> u64 {
        match self.believed.borrow().get(&(table, index)) {
            Some(value) => *value,
            None => self.to.load(table, index),
        }
    }

    fn store(&self, table: u64, index: usize, value: u64) {
        if self.is(Mistake::NoBreak) && value & 1 == 0 && self.to.load(table, index) & 1 != 0 {
            self.believed.borrow_mut().insert((table, index), value);
            return;
        }
        if value & 1 == 0 {
            self.is_due.set(false);
        }
        self.believed.borrow_mut().remove(&(table, index));
        self.to.store(table, index, value);
    }

    fn exchange(&self, table: u64, index: usize, old: u64, new: u64) -> bool {
        self.to.exchange(table, index, old, new)
    }

    fn barrier(&self, barrier: Barrier) {
        if !self.is_armed.get() {
            return self.to.barrier(barrier);
        }
        match (self.mistake, barrier) {
            (Mistake::NoBarrierBefore, Barrier::Stores) => {}
            (Mistake::NoOrderBeforeMake, Barrier::Stores) if self.is_due.get() => {}
            (Mistake::WrongOrder, Barrier::Stores) => self.is_due.set(true),
            (Mistake::NoBarrierAfter, Barrier::Everything) => {}
            (Mistake::WeakBarrierAfter, Barrier::Everything) => self.to.barrier(Barrier::Stores),
            (_, Barrier::Everything) => {
                self.to.barrier(Barrier::Everything);
                self.is_due.set(true);
            }
            _ => self.to.barrier(barrier),
        }
    }

    fn invalidate(&self, translations: Translations) {
        match (self.mistake, translations) {
            (_, _) if !self.is_armed.get() => self.to.invalidate(translations),
            (Mistake::NoInvalidation, Translations::All | Translations::Page(_)) => {}
            (Mistake::WrongScope, Translations::All) => self.to.invalidate(Translations::AllHere),
            (Mistake::WrongPage, Translations::Page(page)) => {
                self.to.invalidate(Translations::Page(Gfn(page.0 ^ 0x8_0000)));
            }
            (Mistake::NoFirstStage, Translations::FirstStage) => {}
            (Mistake::NoForgettingOfView, Translations::AllHere) => {}
            (Mistake::WrongOrder, _) => {
                self.to.invalidate(translations);
                if self.is_due.replace(false) {
                    self.to.barrier(Barrier::Stores);
                }
            }
            _ => self.to.invalidate(translations),
        }
    }

    fn select_tables(&self, vttbr: u64) {
        self.to.select_tables(vttbr);
    }

    fn data_line_bytes(&self) -> u64 {
        self.to.data_line_bytes()
    }

    fn clean_line(&self, address: u64) {
        if !(self.is(Mistake::NoLastLine) && address % PAGE == PAGE - self.data_line_bytes()) {
            self.to.clean_line(address);
        }
    }

    fn drop_instructions(&self) {
        if !self.is(Mistake::NoInstructionInvalidation) {
            self.to.drop_instructions();
        }
    }
}

const TABLES: u64 = 1 << 40;
const TABLE_PAGES: usize = 1200;
/// Memory that pages move to: 256 pages.
const FRAMES: u32 = 0x20_0000;
const RAM: PhysRange = PhysRange { start: 0x4000_0000, end: 0xc000_0000 };

/// A checker behind `mistake`, and the tables as boot builds them, in use by the guest.
fn boot(mistake: Mistake, ipa_bits: u32) -> (BbmChecker, Mistaken, Stage2<Mistaken>) {
    let runs = vec![(Hfn(0x4_0000), 0x8_0000), (Hfn(FRAMES), 256)];
    let checker = BbmChecker::new(TABLES, TABLE_PAGES, ipa_bits, runs);
    let hardware = Mistaken {
        to: checker.clone(),
        mistake,
        is_armed: Rc::default(),
        is_due: Rc::default(),
        believed: Rc::default(),
    };
    let mut stage2 =
        Stage2::new(hardware.clone(), checker.memory(), ipa_bits, true).expect("room for a root");
    stage2.map_ram(PhysRange { start: RAM.start, end: RAM.end - 0x3000 }).expect("room");
    stage2.map_devices(PhysRange { start: 0x800_0000, end: 0x900_0000 }).expect("room");
    stage2.map_devices_by_page(PhysRange { start: 0x900_0000, end: 0x920_3000 }).expect("room");
    hardware.select_tables(stage2.root().table);
    hardware.is_armed.set(true);
    (checker, hardware, stage2)
}

/// Moves `page`, which lies at `at`, to a frame or home, or only changes what CPUs may do with it.
fn move_page(
    checker: &BbmChecker,
    stage2: &mut Stage2<Mistaken>,
    (page, at): (Gfn, Hfn),
    homes: &mut BTreeMap<Gfn, Hfn>,
    random: &mut Random,
) {
    let is_away = homes.contains_key(&page);
    let frame = Hfn(FRAMES + random.below(256) as u32);
    let to =
        if is_away || homes.values().any(|taken| *taken == frame) { page.home() } else { frame };
    stage2.break_page(page);
    stage2.flush_tlb();
    if to != at {
        checker.note_store(to);
        checker.note_move(page, to);
    }
    let access = [CpuAccess::ReadWrite, CpuAccess::ReadOnly, CpuAccess::None][random.index(3)];
    stage2.remap_page(page, to, access);
    stage2.publish();
    if to == page.home() {
        homes.remove(&page);
    } else {
        homes.insert(page, to);
    }
}

/// Builds the tables as boot does, lets the guest in, and moves, guards, executes and opens pages
/// at random. The first rule that was broken.
fn drive(mistake: Mistake, ipa_bits: u32, operations: u64) -> Option<String> {
    let (checker, hardware, mut stage2) = boot(mistake, ipa_bits);
    let shared = stage2.root();
    let mut random = Random::new(7);
    let mut homes = BTreeMap::new();
    for _ in 0..operations {
        // Pages of few large blocks, so that blocks are split and pages move again.
        let page = Gfn(0x4_0000 + random.below(4) as u32 * 0x1_2345 + random.below(40) as u32);
        if stage2.prepare(page).is_err() {
            return Some("no room".to_owned());
        }
        let lookup = shared.lookup(&hardware, page);
        let Lookup::Mapped { at, access, no_execute } = lookup else {
            return Some(format!("{lookup:?}"));
        };
        if random.chance(1, 4) && access == CpuAccess::None {
            let view = stage2.begin_view().expect("room for a view");
            assert!(stage2.open_in_view(page, at), "{page:?} has an entry of its own");
            hardware.enter_view(view);
            hardware.leave_view(shared.table);
        } else if random.chance(1, 3) && no_execute && access != CpuAccess::None {
            shared.allow_execute(&hardware, page, 0);
        } else {
            move_page(&checker, &mut stage2, (page, at), &mut homes, &mut random);
        }
        checker.check_settled();
        if let Some(violation) = checker.take_violation() {
            return Some(violation);
        }
    }
    None
}

#[test]
fn boot_s_tables_and_every_change_of_them_keep_break_before_make() {
    for ipa_bits in [36, 40] {
        assert_eq!(drive(Mistake::None, ipa_bits, 20_000), None);
    }
}

/// What [`drive`] finds, which must be said with these words.
fn seen(mistake: Mistake, words: &str) {
    let violation = drive(mistake, 40, 20_000).unwrap_or_else(|| panic!("{mistake:?} goes unseen"));
    assert!(violation.contains(words), "{mistake:?}: {violation}");
}

const TOO_EARLY: &str = "made before its break is complete";

#[test]
fn a_missing_barrier_before_the_invalidation_is_seen() {
    seen(Mistake::NoBarrierBefore, TOO_EARLY);
}

#[test]
fn an_invalidation_that_nobody_waits_for_is_seen() {
    seen(Mistake::NoBarrierAfter, TOO_EARLY);
}

#[test]
fn an_invalidation_that_a_barrier_of_stores_waits_for_is_seen() {
    seen(Mistake::WeakBarrierAfter, TOO_EARLY);
}

#[test]
fn a_missing_invalidation_is_seen() {
    seen(Mistake::NoInvalidation, TOO_EARLY);
}

#[test]
fn an_invalidation_on_one_cpu_is_seen() {
    seen(Mistake::WrongScope, "while CPUs may reach it");
}

#[test]
fn an_invalidation_of_another_page_is_seen() {
    seen(Mistake::WrongPage, TOO_EARLY);
}

#[test]
fn an_invalidation_before_the_entry_is_ordered_is_seen() {
    seen(Mistake::WrongOrder, TOO_EARLY);
}

#[test]
fn translations_of_both_stages_that_stay_are_seen() {
    seen(Mistake::NoFirstStage, TOO_EARLY);
}

#[test]
fn a_valid_entry_over_a_valid_one_is_seen() {
    seen(Mistake::NoBreak, "a valid entry becomes another without a break");
}

#[test]
fn a_page_shown_before_its_bytes_is_seen() {
    seen(Mistake::NoOrderBeforeMake, "a page is shown before its bytes are ordered");
}

#[test]
fn a_table_linked_before_its_contents_is_seen() {
    let checker = BbmChecker::new(TABLES, 4, 36, Vec::new());
    checker.select_tables(TABLES);
    checker.store(TABLES + PAGE, 0, 0);
    checker.store(TABLES + PAGE, 1, 0x4000_0000 | 0x7fd);
    checker.store(TABLES, 1, (TABLES + PAGE) | 3);
    let violation = checker.take_violation().expect("it goes unseen");
    assert!(violation.contains("a table is linked before its contents are ordered"), "{violation}");
}

#[test]
fn an_instruction_cache_that_keeps_what_it_has_is_seen() {
    seen(Mistake::NoInstructionInvalidation, "executed before its instructions are synchronised");
}

#[test]
fn a_line_that_is_not_cleaned_is_seen() {
    seen(Mistake::NoLastLine, "executed before its instructions are synchronised");
}

#[test]
fn a_view_that_leaves_translations_behind_is_seen() {
    seen(Mistake::NoForgettingOfView, "leaves a view and keeps translations");
}
