//! Stage 2 on a map as memory and hardware that records each operation.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use oche_engine::host::Stage2 as _;

use super::hardware::{Barrier, Translations};
use super::*;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Store { table: u64, index: usize, value: u64 },
    Barrier(Barrier),
    Invalidate(Translations),
    Tables(u64),
    Clean(u64),
    Instructions,
}

#[derive(Debug)]
struct Recorder {
    words: RefCell<HashMap<u64, u64>>,
    steps: RefCell<Vec<Step>>,
    /// What another CPU does while one cleans its first line.
    meanwhile: Cell<Option<fn(&Recorder)>>,
}

impl Default for Recorder {
    fn default() -> Self {
        let (words, steps) = Default::default();
        Self { words, steps, meanwhile: Cell::new(None) }
    }
}

#[expect(unsafe_code, reason = "a model of the machine")]
// SAFETY: no CPU uses its tables.
unsafe impl Hardware for &Recorder {
    fn load(&self, table: u64, index: usize) -> u64 {
        self.words.borrow().get(&(table + index as u64 * 8)).copied().unwrap_or(0)
    }
    fn store(&self, table: u64, index: usize, value: u64) {
        self.words.borrow_mut().insert(table + index as u64 * 8, value);
        self.steps.borrow_mut().push(Step::Store { table, index, value });
    }
    fn exchange(&self, table: u64, index: usize, old: u64, new: u64) -> bool {
        let same = self.load(table, index) == old;
        if same {
            self.store(table, index, new);
        }
        same
    }
    fn barrier(&self, barrier: Barrier) {
        self.steps.borrow_mut().push(Step::Barrier(barrier));
    }
    fn invalidate(&self, translations: Translations) {
        self.steps.borrow_mut().push(Step::Invalidate(translations));
    }
    fn select_tables(&self, vttbr: u64) {
        self.steps.borrow_mut().push(Step::Tables(vttbr));
    }
    fn data_line_bytes(&self) -> u64 {
        1024
    }
    fn clean_line(&self, address: u64) {
        if let Some(meanwhile) = self.meanwhile.take() {
            meanwhile(self);
        }
        self.steps.borrow_mut().push(Step::Clean(address));
    }
    fn drop_instructions(&self) {
        self.steps.borrow_mut().push(Step::Instructions);
    }
}

const ORDER: Step = Step::Barrier(Barrier::Stores);
const WAIT: Step = Step::Barrier(Barrier::Everything);
const ALL: Step = Step::Invalidate(Translations::All);
/// The end of an invalidation that names stage 2 alone.
const FINISH: [Step; 3] = [WAIT, Step::Invalidate(Translations::FirstStage), WAIT];

const TABLES: PhysRange = PhysRange { start: 0x1_0000_0000, end: 0x1_0010_0000 };
const RAM: PhysRange = PhysRange { start: 0x4000_0000, end: 0xc000_0000 };

fn with_ram(recorder: &Recorder) -> Stage2<&Recorder> {
    let mut stage2 = Stage2::new(recorder, TABLES, 40, true).expect("room");
    stage2.map_ram(RAM).expect("room");
    recorder.steps.borrow_mut().clear();
    stage2
}

fn mapped(at: u32) -> Lookup {
    Lookup::Mapped { at: Hfn(at), access: CpuAccess::ReadWrite, no_execute: false }
}

#[test]
fn ram_is_mapped_at_home_in_large_blocks() {
    let recorder = Recorder::default();
    let stage2 = with_ram(&recorder);
    assert_eq!(stage2.free_tables(), TABLES.size() / PAGE - 2, "two 1 GiB blocks need no table");
    assert_eq!(stage2.root().lookup(&&recorder, Gfn(0x4_0000)), mapped(0x4_0000));
    assert_eq!(stage2.root().lookup(&&recorder, Gfn(0xb_ffff)), mapped(0xb_ffff));
    assert_eq!(stage2.root().lookup(&&recorder, Gfn(0xc_0000)), Lookup::Unmapped);
    assert_eq!(stage2.root().lookup(&&recorder, Gfn(u32::MAX)), Lookup::Unmapped);
}

#[test]
fn ragged_ranges_map_every_page_and_no_other() {
    let recorder = Recorder::default();
    let mut stage2 = Stage2::new(&recorder, TABLES, 36, false).expect("room");
    let (first, last) = (0x4000_3000u64, 0x4060_5000u64);
    stage2.map_ram(PhysRange { start: first - 1, end: last + 1 }).expect("room");
    for page in 0x3_fff0..0x4_0700u32 {
        let inside = u64::from(page) << 12 >= first && u64::from(page) << 12 < last;
        let expected = if inside { mapped(page) } else { Lookup::Unmapped };
        assert_eq!(stage2.root().lookup(&&recorder, Gfn(page)), expected, "{page:#x}");
    }
}

#[test]
fn a_split_is_break_before_make_and_changes_nothing_else() {
    let recorder = Recorder::default();
    let mut stage2 = with_ram(&recorder);
    stage2.prepare(Gfn(0x4_1234)).expect("room");
    for page in [0x4_0000, 0x4_11ff, 0x4_1234, 0x4_1400, 0x7_ffff] {
        assert_eq!(stage2.root().lookup(&&recorder, Gfn(page)), mapped(page));
    }
    // Every store of a table over a block comes right after: marker, order, page, finish.
    let steps = recorder.steps.borrow();
    let makes: Vec<usize> = (0..steps.len())
        .filter(|&at| {
            let is_table = |value: u64| value & 3 == 3 && value >> 32 == 1;
            matches!(steps[at], Step::Store { value, .. } if is_table(value))
        })
        .collect();
    assert_eq!(makes.len(), 2, "1 GiB and 2 MiB");
    for at in makes {
        assert!(matches!(steps[at - 6], Step::Store { value, .. } if value & 1 == 0));
        assert_eq!(steps[at - 5], ORDER);
        assert!(matches!(steps[at - 4], Step::Invalidate(Translations::Page(_))));
        assert_eq!(steps[at - 3..at], FINISH);
        assert_eq!(steps[at + 1], ORDER);
    }
}

#[test]
fn a_page_moves_in_the_order_the_architecture_wants() {
    let recorder = Recorder::default();
    let mut stage2 = with_ram(&recorder);
    stage2.prepare(Gfn(0x4_1234)).expect("room");
    recorder.steps.borrow_mut().clear();
    stage2.break_page(Gfn(0x4_1234));
    assert_eq!(stage2.root().lookup(&&recorder, Gfn(0x4_1234)), Lookup::Broken);
    stage2.flush_tlb();
    stage2.remap_page(Gfn(0x4_1234), Hfn(0x9_0001), CpuAccess::ReadOnly);
    stage2.publish();
    let expected =
        Lookup::Mapped { at: Hfn(0x9_0001), access: CpuAccess::ReadOnly, no_execute: true };
    assert_eq!(stage2.root().lookup(&&recorder, Gfn(0x4_1234)), expected);
    let steps = recorder.steps.borrow();
    assert!(matches!(steps[0], Step::Store { value, .. } if value & 1 == 0));
    assert_eq!(steps[1..5], [ORDER, ALL, WAIT, ORDER]);
    assert!(matches!(steps[5], Step::Store { value, .. } if value & 3 == 3));
    assert_eq!(steps[6], Step::Barrier(Barrier::StoresForAll));
}

#[test]
fn a_trapped_page_has_no_valid_entry_and_is_found_again() {
    let recorder = Recorder::default();
    let mut stage2 = with_ram(&recorder);
    let page = Gfn(0x4_1234);
    stage2.prepare(page).expect("room");
    stage2.break_page(page);
    stage2.flush_tlb();
    recorder.steps.borrow_mut().clear();
    stage2.remap_page(page, Hfn(0x9_0001), CpuAccess::None);
    let expected = Lookup::Mapped { at: Hfn(0x9_0001), access: CpuAccess::None, no_execute: true };
    assert_eq!(stage2.root().lookup(&&recorder, page), expected);
    assert!(matches!(recorder.steps.borrow()[1], Step::Store { value, .. } if value & 1 == 0));
}

#[test]
fn a_trapped_page_changes_without_a_broadcast_and_one_that_only_traps_stores_does_not() {
    for (before, expected) in [(CpuAccess::None, 0), (CpuAccess::ReadOnly, 1)] {
        let recorder = Recorder::default();
        let mut stage2 = with_ram(&recorder);
        let page = Gfn(0x4_1234);
        stage2.prepare(page).expect("room");
        stage2.break_page(page);
        stage2.flush_tlb();
        stage2.remap_page(page, Hfn(0x9_0001), before);
        recorder.steps.borrow_mut().clear();
        stage2.break_page(page);
        stage2.flush_tlb();
        stage2.remap_page(page, page.home(), CpuAccess::ReadWrite);
        let steps = recorder.steps.borrow();
        let broadcasts = steps.iter().filter(|step| matches!(step, Step::Invalidate(_))).count();
        assert_eq!(broadcasts, expected, "{before:?}");
        // The copy and the entry after it are ordered in any case.
        assert!(steps.contains(&ORDER));
    }
}

#[test]
fn a_view_opens_its_pages_and_shows_all_others_as_they_are() {
    let recorder = Recorder::default();
    let mut stage2 = with_ram(&recorder);
    let pages: Vec<Gfn> = (0..MAX_OPENED as u32).map(|n| Gfn(0x4_1234 + 0x1_0200 * n)).collect();
    for page in pages.iter().copied() {
        stage2.prepare(page).expect("room");
        stage2.break_page(page);
        stage2.flush_tlb();
        stage2.remap_page(page, Hfn(page.0 + 7), CpuAccess::None);
    }
    for round in 0..3 {
        recorder.steps.borrow_mut().clear();
        let table = stage2.begin_view().expect("room");
        let view = Root { table, ..stage2.root() };
        for page in pages.iter().copied() {
            assert_eq!(
                view.lookup(&&recorder, page),
                stage2.root().lookup(&&recorder, page),
                "round {round}"
            );
            assert!(stage2.open_in_view(page, Hfn(page.0 + 7)));
            let open = Lookup::Mapped {
                at: Hfn(page.0 + 7),
                access: CpuAccess::ReadWrite,
                no_execute: true,
            };
            assert_eq!(view.lookup(&&recorder, page), open);
            assert_eq!(view.lookup(&&recorder, Gfn(page.0 + 1)), mapped(page.0 + 1));
            let trapped =
                Lookup::Mapped { at: Hfn(page.0 + 7), access: CpuAccess::None, no_execute: true };
            assert_eq!(stage2.root().lookup(&&recorder, page), trapped, "the shared tables stay");
        }
        assert!(stage2.open_in_view(pages[0], Hfn(1)), "a second time costs nothing");
        assert!(!recorder.steps.borrow().contains(&ALL), "no broadcast");
    }
    assert!(!stage2.open_in_view(Gfn(0xa_0000), Hfn(0xa_0000)), "it has no entry of its own");
}

#[test]
fn a_page_that_may_be_executed_may_be_so_in_a_view() {
    let recorder = Recorder::default();
    let mut stage2 = with_ram(&recorder);
    let page = Gfn(0x4_1234);
    stage2.prepare(page).expect("room");
    stage2.break_page(page);
    stage2.flush_tlb();
    stage2.remap_page(page, Hfn(page.0), CpuAccess::ReadOnly);
    let open = |stage2: &mut Stage2<&Recorder>| {
        let table = stage2.begin_view().expect("room");
        assert!(stage2.open_in_view(page, Hfn(page.0)));
        Root { table, ..stage2.root() }.lookup(&&recorder, page)
    };
    let expected =
        |no_execute| Lookup::Mapped { at: Hfn(page.0), access: CpuAccess::ReadWrite, no_execute };
    assert_eq!(open(&mut stage2), expected(true), "its instructions are not synchronised yet");
    stage2.root().allow_execute(&&recorder, page, 0);
    assert_eq!(open(&mut stage2), expected(false));
}

#[test]
fn a_batch_of_pages_costs_one_broadcast() {
    let recorder = Recorder::default();
    let mut stage2 = with_ram(&recorder);
    for page in 0..100 {
        stage2.prepare(Gfn(0x4_0000 + page)).expect("room");
        stage2.break_page(Gfn(0x4_0000 + page));
    }
    recorder.steps.borrow_mut().clear();
    stage2.flush_tlb();
    stage2.flush_tlb();
    assert_eq!(*recorder.steps.borrow(), [ORDER, ALL, WAIT, ORDER], "and none without a break");
}

#[test]
fn running_out_of_tables_changes_nothing() {
    let recorder = Recorder::default();
    let memory = PhysRange { start: TABLES.start, end: TABLES.start + 3 * PAGE };
    let mut stage2 = Stage2::new(&recorder, memory, 40, true).expect("room");
    stage2.map_ram(RAM).expect("room");
    assert_eq!(stage2.prepare(Gfn(0x4_1234)), Err(OutOfTables));
    assert_eq!(stage2.root().lookup(&&recorder, Gfn(0x4_1234)), mapped(0x4_1234));
    assert_eq!(stage2.prepare(Gfn(0x1)), Err(OutOfTables), "not the guest's");
}

#[test]
fn a_moved_page_is_executed_only_after_the_caches_know() {
    let recorder = Recorder::default();
    let mut stage2 = with_ram(&recorder);
    move_to(&mut stage2, PLACE);
    recorder.steps.borrow_mut().clear();
    stage2.root().allow_execute(&&recorder, CODE, 0);
    assert_eq!(stage2.root().lookup(&&recorder, CODE), mapped(PLACE.0));
    let steps = recorder.steps.borrow();
    assert!(matches!(steps[0], Step::Store { .. }), "the mark");
    assert_eq!(steps[1], ORDER);
    let lines: Vec<Step> = (0..4).map(|line| Step::Clean(PLACE.address() + line * 1024)).collect();
    assert_eq!(steps[2..6], lines);
    assert_eq!(steps[6..9], [WAIT, Step::Instructions, WAIT]);
    assert!(matches!(steps[9], Step::Store { .. }));
    assert_eq!(steps[10..12], [ORDER, Step::Invalidate(Translations::Page(CODE))]);
    assert_eq!(steps[12..], FINISH);
}

const CODE: Gfn = Gfn(0x4_1234);
const PLACE: Hfn = Hfn(0x9_0001);

fn move_to(stage2: &mut Stage2<&Recorder>, at: Hfn) {
    stage2.prepare(CODE).expect("room");
    stage2.break_page(CODE);
    stage2.flush_tlb();
    stage2.remap_page(CODE, at, CpuAccess::ReadWrite);
    stage2.publish();
}

/// The mover of another CPU takes the page away and back.
fn move_away_and_back(recorder: &Recorder) {
    let mut stage2 = Stage2::new(recorder, TABLES, 40, true).expect("the tables are there");
    move_to(&mut stage2, Hfn(PLACE.0 + 1));
    move_to(&mut stage2, PLACE);
}

/// Another CPU fetches from the page.
fn fetch(recorder: &Recorder, cpu: usize) {
    Root { table: TABLES.start, ipa_bits: 40 }.allow_execute(&recorder, CODE, cpu);
}

/// What CPU 0 finds when it has synchronised the page's instructions, and when it has done so once
/// more.
fn fetched_twice(meanwhile: fn(&Recorder)) -> [Lookup; 2] {
    let recorder = Recorder::default();
    let mut stage2 = with_ram(&recorder);
    move_to(&mut stage2, PLACE);
    recorder.meanwhile.set(Some(meanwhile));
    [(); 2].map(|()| {
        fetch(&recorder, 0);
        stage2.root().lookup(&&recorder, CODE)
    })
}

const NOT_YET: Lookup =
    Lookup::Mapped { at: PLACE, access: CpuAccess::ReadWrite, no_execute: true };

#[test]
fn a_page_that_came_back_while_it_was_synchronised_is_not_executed_yet() {
    assert_eq!(fetched_twice(move_away_and_back), [NOT_YET, mapped(PLACE.0)]);
}

#[test]
fn each_cpu_has_a_mark_of_its_own_and_hardware_ignores_it() {
    let attributes = Attributes { no_execute: true, ..Attributes::ram(true, CpuAccess::ReadOnly) };
    let entry = Entry::Leaf { at: PLACE, attributes };
    let mut marked = vec![entry.encode(LEAF_LEVEL)];
    marked.extend((0..oche_types::MAX_CPUS).map(|cpu| entry.encode_marked(cpu)));
    for (index, bits) in marked.iter().enumerate() {
        assert_eq!(Entry::decode(*bits, LEAF_LEVEL), entry);
        // Software's bits, and those that `VTCR_EL2.HWU` keeps from hardware.
        assert_eq!((bits ^ marked[0]) & !(0xff << 55), 0);
        assert!(!marked[..index].contains(bits));
    }
}

#[test]
fn a_page_that_another_cpu_synchronises_is_left_to_it() {
    let found = fetched_twice(|recorder| {
        let before = recorder.steps.borrow().len();
        fetch(recorder, 1);
        assert_eq!(recorder.steps.borrow().len(), before);
    });
    assert_eq!(found, [mapped(PLACE.0); 2]);
}

#[test]
fn a_trapped_page_is_not_marked() {
    let recorder = Recorder::default();
    let mut stage2 = with_ram(&recorder);
    stage2.prepare(CODE).expect("room");
    stage2.break_page(CODE);
    stage2.flush_tlb();
    stage2.remap_page(CODE, PLACE, CpuAccess::None);
    recorder.steps.borrow_mut().clear();
    fetch(&recorder, 0);
    assert!(recorder.steps.borrow().is_empty());
}
