//! The controller against a model of the guest's memory that shows stale words where the
//! architecture allows it.

use super::interface::PAGE;
use super::*;
use std::collections::BTreeMap;
use std::vec::Vec;

const QUEUE: u64 = 0x8_1000_0000;
const IO: u64 = 0x8_1000_4000;
/// `CDW11` of the commands that create a queue, as the upper half of the word: its pages follow
/// each other.
const CONTIGUOUS: u64 = 1 << 32;

#[derive(Default)]
struct Model {
    words: BTreeMap<u64, u64>,
    /// What a load still finds where no barrier came since the controller wrote.
    stale: BTreeMap<u64, u64>,
    pinned: BTreeMap<Gfn, i32>,
    /// Pages that one trap holds or releases, where there is a bound.
    at_once: Option<usize>,
    /// Calls that release pages.
    release_calls: usize,
    /// What was in the first word of a page as it was unpinned.
    released: Vec<(Gfn, u64)>,
}

#[expect(unsafe_code, reason = "a model of the machine")]
// SAFETY: no controller accesses its memory.
unsafe impl NvmeHost for Model {
    fn word(&mut self, address: u64) -> Option<u64> {
        let word = self.stale.get(&address).or_else(|| self.words.get(&address));
        (0x8_0000_0000..0x9_0000_0000).contains(&address).then(|| word.copied().unwrap_or(0))
    }
    fn pin(&mut self, pages: &[Gfn]) -> usize {
        assert!(pages.is_sorted_by(|one, next| one < next), "a page is named twice");
        let pages = pages.iter().take(self.at_once.unwrap_or(usize::MAX));
        pages.map(|page| *self.pinned.entry(*page).or_default() += 1).count()
    }
    fn unpin(&mut self, pages: &[Gfn]) -> usize {
        self.release_calls += 1;
        for page in pages.iter().take(self.at_once.unwrap_or(usize::MAX)) {
            let count = self.pinned.entry(*page).or_default();
            *count -= 1;
            assert!(*count >= 0, "{page:?} is unpinned and was not pinned");
            let found = self.word(page.address()).unwrap_or(0);
            self.released.push((*page, found));
        }
        pages.len().min(self.at_once.unwrap_or(usize::MAX))
    }
    fn order_loads(&mut self) {
        self.stale.clear();
    }
}

impl Model {
    fn is_pinned(&self, address: u64) -> bool {
        self.pinned.get(&Gfn((address >> 12) as u32)).is_some_and(|count| *count > 0)
    }

    fn pins(&self) -> i32 {
        self.pinned.values().sum()
    }

    fn submission(&mut self, at: u64, words: [u64; 7]) {
        words.iter().enumerate().for_each(|(index, word)| {
            self.words.insert(at + 8 * index as u64, *word);
        });
    }

    /// The controller writes the word at `address`, and loads may go on finding the old one until
    /// they are ordered.
    fn device_stores(&mut self, address: u64, value: u64) {
        let old = self.words.insert(address, value).unwrap_or(0);
        self.stale.entry(address).or_insert(old);
    }

    /// The controller writes completion `index` of the I/O queue, which a load finds at once: it is
    /// polled.
    fn complete(&mut self, index: u64, id: u64) {
        self.words.insert(IO + 0x1008 + index * 16, 1 << 48 | id << 32);
    }
}

/// Stores the registers of the admin queue as a driver does.
fn set_admin_queue(ans: &mut Ans, model: &mut Model, submissions: u64, completions: u64) {
    let stores = [
        (CC, 0),
        (AQA, 1 << 16 | 1),
        (ASQ, submissions as u32),
        (ASQ + 4, (submissions >> 32) as u32),
        (ACQ, completions as u32),
        (ACQ + 4, (completions >> 32) as u32),
        (CC, 1),
    ];
    for (offset, value) in stores {
        assert_eq!(ans.before_store(offset, value, model), Ok(StoreVerdict::Pass));
    }
}

/// A controller with both queues set up, as Linux does it.
fn ready() -> (Model, Ans) {
    let (mut model, mut ans) = (Model::default(), Ans::new());
    set_admin_queue(&mut ans, &mut model, QUEUE, QUEUE + 0x1000);
    assert_eq!(create_io(&mut model, &mut ans), Ok(StoreVerdict::Pass));
    (model, ans)
}

fn create_io(model: &mut Model, ans: &mut Ans) -> Result<StoreVerdict, Refusal> {
    model.submission(QUEUE, [0x05, 0, 0, IO + 0x1000, 0, CONTIGUOUS | 63 << 16 | 1, 0]);
    let _ = ans.before_store(ADMIN_DOORBELL, 0, model)?;
    model.submission(QUEUE + 64, [0x1_0001, 0, 0, IO, 0, CONTIGUOUS | 63 << 16 | 1, 0]);
    ans.before_store(ADMIN_DOORBELL, 1, model)
}

#[test]
fn the_queues_themselves_stay_home_until_the_controller_is_reset() {
    let (mut model, mut ans) = ready();
    for page in [QUEUE, QUEUE + 0x1000, IO, IO + 0x1000] {
        assert!(model.is_pinned(page), "{page:#x}");
    }
    assert_eq!(ans.before_store(CC, 0, &mut model), Ok(StoreVerdict::Pass));
    assert!(ans.is_idle());
    assert_eq!(model.pins(), 0);
}

#[test]
fn queues_are_held_once_however_often_they_are_created() {
    let (mut model, mut ans) = ready();
    let pins = model.pins();
    for _ in 0..100 {
        assert_eq!(create_io(&mut model, &mut ans), Ok(StoreVerdict::Pass));
    }
    assert_eq!(model.pins(), pins);
    assert!(model.is_pinned(IO) && model.is_pinned(IO + 0x1000));
}

#[test]
fn controller_that_is_enabled_again_begins_with_empty_queues() {
    let (mut model, mut ans) = ready();
    model.complete(0, 7);
    ans.collect(&mut model);
    // The coprocessor was restarted: the driver sets the same queues up again, and never cleared
    // CC.EN.
    model.words.clear();
    assert_eq!(ans.before_store(AQA, 1 << 16 | 1, &mut model), Ok(StoreVerdict::Pass));
    assert_eq!(ans.before_store(CC, 1, &mut model), Ok(StoreVerdict::Pass));
    assert_eq!(create_io(&mut model, &mut ans), Ok(StoreVerdict::Pass));
    let buffer = 0x8_2000_0000;
    model.submission(IO, [7 << 16 | 2, 0, 0, buffer, 0, 0, 0]);
    assert_eq!(ans.before_store(IO_DOORBELL, 0, &mut model), Ok(StoreVerdict::Pass));
    model.complete(0, 7);
    ans.collect(&mut model);
    assert!(
        !model.is_pinned(buffer),
        "its first completion is looked for where an earlier queue stood"
    );
}

#[test]
fn a_commands_pages_are_held_until_its_completion_is_there() {
    let (mut model, mut ans) = ready();
    let (first, second) = (0x8_2000_0200, 0x8_2100_0000);
    model.submission(IO + 3 * 64, [7 << 16 | 2, 0, 0, first, second, 0, 0]);
    assert_eq!(ans.before_store(IO_DOORBELL, 3, &mut model), Ok(StoreVerdict::Pass));
    assert!(model.is_pinned(first) && model.is_pinned(second));
    model.complete(0, 6);
    ans.collect(&mut model);
    assert!(model.is_pinned(first), "another command's completion");
    model.complete(1, 7);
    ans.collect(&mut model);
    assert!(!model.is_pinned(first) && !model.is_pinned(second));
    ans.collect(&mut model);
}

#[test]
fn data_is_loaded_after_the_phase_of_its_completion() {
    let (mut model, mut ans) = ready();
    let buffer = 0x8_2000_0000;
    model.words.insert(buffer, 1);
    model.submission(IO, [7 << 16 | 2, 0, 0, buffer, 0, 0, 0]);
    assert_eq!(ans.before_store(IO_DOORBELL, 0, &mut model), Ok(StoreVerdict::Pass));
    model.device_stores(buffer, 2);
    model.complete(0, 7);
    ans.collect(&mut model);
    let page = Gfn::containing(buffer).unwrap();
    assert_eq!(
        model.released.last(),
        Some(&(page, 2)),
        "data from before the completion was loaded"
    );
}

#[test]
fn lists_are_followed_from_page_to_page() {
    let (mut model, mut ans) = ready();
    let (list, next) = (0x8_3000_0fe8, 0x8_3100_0000);
    let page = |index: u64| 0x8_4000_0000 + index * 0x2000;
    // Six blocks: the first page, then two entries, the way on, and three more.
    model.submission(IO, [2, 0, 0, page(0), list, 0, 5]);
    for (index, address) in [page(1), page(2), next].into_iter().enumerate() {
        model.words.insert(list + 8 * index as u64, address);
    }
    for index in 0..4 {
        model.words.insert(next + 8 * index, page(3 + index));
    }
    assert_eq!(ans.before_store(IO_DOORBELL, 0, &mut model), Ok(StoreVerdict::Pass));
    assert!((0..6).all(|index| model.is_pinned(page(index))));
    assert!(model.is_pinned(list) && model.is_pinned(next));
    assert!(!model.is_pinned(page(6)), "it is not the command's");
}

#[test]
fn log_page_of_many_pages_is_followed_through_its_list() {
    let (mut model, mut ans) = ready();
    let list = 0x8_3000_0000;
    let page = |index: u64| 0x8_4000_0000 + index * 0x2000;
    // 16 KiB of log, and one dword.
    model.submission(QUEUE, [0x02, 0, 0, page(0), list, 0x1000 << 16, 0]);
    (0..6).for_each(|index| {
        model.words.insert(list + 8 * index, page(1 + index));
    });
    assert_eq!(ans.before_store(ADMIN_DOORBELL, 0, &mut model), Ok(StoreVerdict::Pass));
    assert!((0..5).all(|index| model.is_pinned(page(index))));
    assert!(!model.is_pinned(page(5)), "it is not the command's");
}

#[test]
fn a_command_that_names_anything_at_all_ends_within_its_bound() {
    let (mut model, mut ans) = ready();
    // A list that leads to itself.
    model.submission(IO, [1, 0, 0, u64::MAX, 0x8_5000_0ff8, 0, 0xffff]);
    model.words.insert(0x8_5000_0ff8, 0x8_5000_0ff8);
    assert_eq!(ans.before_store(IO_DOORBELL, 0, &mut model), Ok(StoreVerdict::Pass));
    assert_eq!(
        ans.before_store(IO_DOORBELL, u32::MAX, &mut model),
        Err(Refusal::NoEntry(u32::MAX))
    );
    assert_eq!(ans.before_store(IO_DOORBELL, 0, &mut model), Ok(StoreVerdict::Pass));
    assert!(model.is_pinned(0x8_5000_0000));
    assert_eq!(ans.before_store(CC, 0, &mut model), Ok(StoreVerdict::Pass));
    assert_eq!(model.pins(), 0);
}

#[test]
fn queue_that_is_no_memory_of_the_guest_is_refused() {
    let wild = [
        0,
        8,
        QUEUE + 8,
        0x1000,
        0x9_0000_0000,
        1 << 44,
        0xffff_ffff_ffff_f000,
        0xffff_ffff_ffff_fff8,
        u64::MAX,
    ];
    for base in wild {
        for (submissions, completions) in [(base, QUEUE), (QUEUE, base)] {
            let (mut model, mut ans) = (Model::default(), Ans::new());
            set_admin_queue(&mut ans, &mut model, submissions, completions);
            for number in [0, 1, 2, 63, 64, u32::MAX] {
                let refused = ans.before_store(ADMIN_DOORBELL, number, &mut model);
                assert_eq!(refused, Err(Refusal::NotMemory(base)));
                assert_eq!(
                    ans.before_store(IO_DOORBELL, number, &mut model),
                    Err(Refusal::NoQueue)
                );
            }
            assert_eq!(ans.before_store(CC, 0, &mut model), Ok(StoreVerdict::Pass));
            assert_eq!(model.pins(), 0);
        }
        let (mut model, mut ans) = ready();
        model.submission(QUEUE, [0x01, 0, 0, base, 0, CONTIGUOUS | 63 << 16 | 1, 0]);
        let refused = ans.before_store(ADMIN_DOORBELL, 0, &mut model);
        assert_eq!(refused, Err(Refusal::NotMemory(base)));
        assert_eq!(ans.before_store(IO_DOORBELL, 0, &mut model), Err(Refusal::NoQueue));
    }
}

#[test]
fn queue_that_leaves_the_guests_memory_or_is_too_long_is_refused() {
    let (mut model, mut ans) = ready();
    let last = 0x9_0000_0000 - PAGE;
    for (place, size, refusal) in [
        (last, 64, Refusal::NotMemory(last)),
        (IO, 512, Refusal::TooLong(513)),
        (IO, 0xffff, Refusal::TooLong(0x1_0000)),
    ] {
        model.submission(QUEUE, [0x01, 0, 0, place, 0, CONTIGUOUS | size << 16 | 1, 0]);
        assert_eq!(ans.before_store(ADMIN_DOORBELL, 0, &mut model), Err(refusal));
    }
    model.submission(QUEUE, [0x01, 0, 0, IO, 0, 63 << 16 | 1, 0]);
    assert_eq!(ans.before_store(ADMIN_DOORBELL, 0, &mut model), Err(Refusal::NotContiguous));
    assert!(!model.is_pinned(last));
}

#[test]
fn entry_beyond_the_queues_end_is_refused() {
    let (mut model, mut ans) = ready();
    assert_eq!(ans.before_store(ADMIN_DOORBELL, 2, &mut model), Err(Refusal::NoEntry(2)));
    assert_eq!(ans.before_store(IO_DOORBELL, 63, &mut model), Ok(StoreVerdict::Pass));
    assert_eq!(ans.before_store(IO_DOORBELL, 64, &mut model), Err(Refusal::NoEntry(64)));
}

#[test]
fn one_trap_releases_no_more_than_one_command_can_hold() {
    let (mut model, mut ans) = ready();
    let holds_of_queues = model.pins();
    for number in 0..8u64 {
        let list = 0x8_3000_0000 + number * 0x10_0000;
        let page = |index: u64| 0x8_4000_0000 + (number * 2048 + index) * PAGE;
        model.submission(IO + number * 64, [number << 16 | 2, 0, 0, page(0), list, 0, 1023]);
        let mut at = list;
        for index in 1..1024 {
            if at % PAGE == PAGE - 8 {
                model.words.insert(at, list + 0x1000 * (1 + at % 0x10_0000 / PAGE));
                at += 8;
            }
            model.words.insert(at, page(index));
            at += 8;
        }
        assert_eq!(
            ans.before_store(IO_DOORBELL, number as u32, &mut model),
            Ok(StoreVerdict::Pass)
        );
    }
    let all = model.pins() - holds_of_queues;
    assert!(all > 8 * 1024, "{all}");
    (0..8).for_each(|id| model.complete(id, id));
    let mut traps = 0;
    while model.pins() > holds_of_queues {
        let before = model.released.len();
        ans.collect(&mut model);
        assert!((1..=MAX_PAGES).contains(&(model.released.len() - before)));
        traps += 1;
    }
    assert!(traps <= 9, "{traps}");
}

#[test]
fn doorbell_passes_when_every_page_of_its_command_is_held() {
    let (mut model, mut ans) = ready();
    let holds_of_queues = model.pins();
    let list = 0x8_3000_0000;
    let page = |index: u64| 0x8_4000_0000 + index * 0x2000;
    model.submission(IO, [7 << 16 | 2, 0, 0, page(0), list, 0, 9]);
    (1..10).for_each(|index| {
        model.words.insert(list + 8 * (index - 1), page(index));
    });
    model.at_once = Some(4);
    // Eleven pages with the list.
    for _ in 0..2 {
        assert_eq!(ans.before_store(IO_DOORBELL, 0, &mut model), Ok(StoreVerdict::Again));
    }
    assert_eq!(ans.before_store(IO_DOORBELL, 0, &mut model), Ok(StoreVerdict::Pass));
    assert!(model.is_pinned(list) && (0..10).all(|index| model.is_pinned(page(index))));
    // What was left over by the last command of that number goes first.
    model.complete(0, 7);
    model.submission(IO, [8 << 16 | 2, 0, 0, page(20), 0, 0, 0]);
    let traps = (0..9)
        .take_while(|_| ans.before_store(IO_DOORBELL, 0, &mut model) == Ok(StoreVerdict::Again));
    assert!((1..4).contains(&traps.count()));
    assert_eq!(model.pins() - holds_of_queues, 1);
    assert!(model.is_pinned(page(20)));
}

#[test]
fn command_that_changes_before_its_doorbell_passes_is_examined_anew() {
    let (mut model, mut ans) = ready();
    let holds_of_queues = model.pins();
    let (first, second, other) = (0x8_2000_0000, 0x8_2100_0000, 0x8_2200_0000);
    model.at_once = Some(1);
    model.submission(IO, [7 << 16 | 2, 0, 0, first, second, 0, 0]);
    assert_eq!(ans.before_store(IO_DOORBELL, 0, &mut model), Ok(StoreVerdict::Again));
    model.submission(IO, [7 << 16 | 2, 0, 0, other, 0, 0, 0]);
    assert_eq!(ans.before_store(IO_DOORBELL, 0, &mut model), Ok(StoreVerdict::Pass));
    assert!(model.is_pinned(other));
    assert_eq!(model.pins() - holds_of_queues, 1);
}

/// The machine ends one trap's work by unpinning fewer pages than requested.
#[test]
fn trap_ends_its_releases_where_the_machine_stops() {
    let (mut model, mut ans) = ready();
    let holds_of_queues = model.pins();
    for number in 0..8u64 {
        let page = 0x8_2000_0000 + number * 0x10_0000;
        model.submission(IO + number * 64, [number << 16 | 2, 0, 0, page, page + PAGE, 0, 1]);
        assert_eq!(
            ans.before_store(IO_DOORBELL, number as u32, &mut model),
            Ok(StoreVerdict::Pass)
        );
    }
    assert_eq!(model.pins() - holds_of_queues, 16);
    (0..8).for_each(|id| model.complete(id, id));
    (model.at_once, model.release_calls) = (Some(1), 0);
    ans.collect(&mut model);
    assert_eq!(model.release_calls, 1, "in a trap of a DART");
    // The one page that the first command has left is all that is asked for; of the second's two
    // one is unpinned.
    assert_eq!(ans.before_store(CC, 1, &mut model), Ok(StoreVerdict::Pass));
    assert_eq!(model.release_calls, 1 + 2, "in a trap of a register");
    // The same again, and then all commands and both queues of both kinds are done.
    assert_eq!(ans.before_store(CC, 0, &mut model), Ok(StoreVerdict::Pass));
    assert_eq!(model.release_calls, 3 + 2, "in a trap that resets");
    model.at_once = None;
    ans.collect(&mut model);
    assert!(ans.is_idle());
}

#[test]
fn command_whose_doorbell_gets_a_bus_error_is_released() {
    let (mut model, mut ans) = ready();
    let holds_of_queues = model.pins();
    let pages = [0x8_2000_0000, 0x8_2100_0000];
    for (number, page) in pages.into_iter().enumerate() {
        model.submission(IO + 64 * number as u64, [(number as u64) << 16 | 2, 0, 0, page, 0, 0, 0]);
        assert_eq!(
            ans.before_store(IO_DOORBELL, number as u32, &mut model),
            Ok(StoreVerdict::Pass)
        );
    }
    ans.store_failed(IO_DOORBELL, 1);
    // These stores name no command.
    ans.store_failed(IO_DOORBELL, u32::MAX);
    ans.store_failed(CC, 0);
    ans.collect(&mut model);
    assert!(model.is_pinned(pages[0]), "the controller has the other one");
    assert_eq!(model.pins() - holds_of_queues, 1);
}
