//! The work of one trap, in words loaded and stored, whatever the guest maps.

use crate::bench::{Bench, FIRST_TABLE, page};
use oche_engine::host::Memory as _;
use oche_engine::{AccessKind, FaultDisposition};
use oche_types::addr::{PAGE_BYTES, PAGE_WORDS};
use oche_types::dart::entry::Permission;
use oche_types::dart::registers::{STREAM_COMMAND, STREAM_SELECT, STREAMS_ENABLE, TCR, TTBR};
use oche_types::event::{Event, Refusal};

/// Aliases of one page that devices write: as many as there may be.
const ALIASES: u32 = 32;
/// Pages of words that mapping or unmapping one alias may cost: red zone, fill, copy, two
/// comparisons, and a share of what is new in other copies.
const PAGES_PER_ALIAS: usize = 8;

/// Words that the engine loads and stores in one flush of stream 0, which needs no second poll.
fn flush(bench: &mut Bench) -> usize {
    bench.write(0, STREAM_SELECT, 1);
    bench.machine.words.set(0);
    bench.write(0, STREAM_COMMAND, 1 << 20);
    let words = bench.machine.words.get();
    assert_eq!(bench.read(0, STREAM_COMMAND) & 4, 0, "one trap did it all");
    words
}

#[test]
fn c6_a_page_with_32_written_copies_costs_one_trap_work_in_proportion() {
    // The frames of 64 granules, tables, and one for the twin.
    let mut bench = Bench::new(67);
    for iova in 0..ALIASES {
        bench.set(iova, Some((page(30), Permission::WRITE_ONLY)));
    }
    let bound = ALIASES as usize * PAGES_PER_ALIAS * PAGE_WORDS;
    let mapped = flush(&mut bench);

    assert!(mapped < bound, "{mapped} words to map, {bound} are the bound");
    // As the disk reads different data into each.
    for iova in 0..ALIASES {
        (0..4096).for_each(|offset| {
            assert!(bench.device_write(iova, offset, iova as u8 ^ offset as u8))
        });
    }
    (0..ALIASES).for_each(|iova| bench.set(iova, None));
    let unmapped = flush(&mut bench);

    assert!(unmapped < bound, "{unmapped} words to unmap, {bound} are the bound");
    assert!(bench.is_home(30));
}

#[test]
fn a_page_is_merged_once_when_it_loses_and_gains_mappings() {
    let mut bench = Bench::new(67);
    let wanted = Some((page(30), Permission::WRITE_ONLY));
    [0, 4, 8].into_iter().for_each(|iova| bench.set(iova, wanted));
    bench.flush(0, 0);
    bench.machine.comparisons.set(0);
    bench.set(4, None);
    (12..20).for_each(|iova| bench.set(iova, wanted));
    flush(&mut bench);

    // Each of the three copies that a device may have written, with the twin.
    assert_eq!(bench.machine.comparisons.get(), 3);
    bench.machine.comparisons.set(0);
    (20..28).for_each(|iova| bench.set(iova, wanted));
    flush(&mut bench);

    assert_eq!(bench.machine.comparisons.get(), 0, "a bounce page is filled from the twin");
}

/// Bytes of each word that differ between two copies and what both last agreed on: no two beside
/// each other, so that each is a store of its own.
const NEWS: [[usize; 2]; 2] = [[0, 4], [2, 6]];

fn write_news(bench: &mut Bench, iovas: [u32; 2]) {
    for (iova, bytes) in iovas.into_iter().zip(NEWS) {
        for offset in (0..PAGE_BYTES).step_by(8).flat_map(|word| bytes.map(|byte| word + byte)) {
            assert!(bench.device_write(iova, offset as u64, 0xa5));
        }
    }
}

#[test]
fn c6_copies_that_differ_in_every_other_byte_are_bounded_work() {
    let mut bench = Bench::new(67);
    // A granule each.
    (0..ALIASES).for_each(|index| bench.set(4 * index, Some((page(30), Permission::READ_WRITE))));
    bench.flush(0, 0);
    write_news(&mut bench, [0, 4]);
    bench.machine.words.set(0);
    let at = bench.engine.open_trapped(&mut bench.machine, page(30));
    let words = bench.machine.words.get();

    // Looked for twice and loaded once, a store for each byte, and the twin.
    let bound = ALIASES as usize * PAGE_WORDS * (2 * 2 + 1 + 4) + 4 * PAGE_WORDS;
    assert!(words < bound, "{words} words, {bound} are the bound");
    let byte = |offset: usize| bench.machine.load(at, offset / 8).to_le_bytes()[offset % 8];
    assert!((0..PAGE_BYTES).step_by(2).all(|offset| byte(offset) == 0xa5));
}

#[test]
fn c6_what_is_new_in_copies_counts_as_work() {
    // Pages in another order than in memory, so that none is mapped where it lies, and a granule
    // for each four.
    let groups = 16;
    let iova = |group: u32, copy: u32, slot: u32| 4 * (16 * group + copy) + slot;
    let polls = |is_new: bool| {
        let mut bench = Bench::new(512);
        for iova in 0..64 * groups {
            let page = page(32 + 4 * (iova / 64) + ((iova % 4) ^ 3));
            bench.set(iova, Some((page, Permission::READ_WRITE)));
        }
        bench.flush(0, 0);
        for (group, slot) in (0..groups).flat_map(|group| (0..4).map(move |slot| (group, slot))) {
            if is_new {
                write_news(&mut bench, [iova(group, 0, slot), iova(group, 1, slot)]);
            }
        }
        for (group, slot) in (0..groups).flat_map(|group| (0..4).map(move |slot| (group, slot))) {
            bench.set(iova(group, 0, slot), None);
        }
        bench.write(0, STREAM_SELECT, 1);
        bench.write(0, STREAM_COMMAND, 1 << 20);
        let mut polls = 0;
        while bench.read(0, STREAM_COMMAND) & 4 != 0 {
            polls += 1;
        }
        polls
    };
    let (equal, new) = (polls(false), polls(true));
    assert!(new > equal, "{new} polls, and {equal} where nothing is new");
}

/// A pinned page stays at home, so that its only mapping is a copy.
#[test]
fn c6_the_copy_of_a_page_with_one_mapping_counts_as_work() {
    let pages = 16;
    let mut bench = Bench::new(128);
    for index in 0..pages {
        bench.engine.pin(&mut bench.machine, page(32 + index));
        bench.set(4 * index, Some((page(32 + index), Permission::READ_WRITE)));
    }
    bench.flush(0, 0);
    for index in 0..pages {
        write_news(&mut bench, [4 * index, 4 * index]);
        bench.set(4 * index, None);
    }
    // About as much as one such page is charged with.
    let (words, _) = flush_in_slices(&mut bench, 64);

    // What one of them costs, and beside it the comparison of the tables.
    let bound = PAGES_PER_ALIAS * PAGE_WORDS * 2 + 2 * PAGE_WORDS;
    assert!(words < bound, "{words} words in one trap, {bound} are the bound");
}

#[test]
fn c6_traps_that_are_relaxed_with_pages_that_move_count_as_work() {
    let granules = 32;
    let mut bench = Bench::new(512);
    for index in 0..granules {
        // Two granules with a copy each of a page; in the second lies a page that moves home.
        for iova in [4 * index, 4 * (granules + index)] {
            bench.set(iova, Some((page(32 + index), Permission::READ_ONLY)));
        }
        bench.set(4 * (granules + index) + 1, Some((page(96 + index), Permission::READ_ONLY)));
    }
    bench.flush(0, 0);
    for index in 0..granules {
        bench.set(4 * (granules + index), None);
        bench.set(4 * (granules + index) + 1, None);
    }
    let slice_pages = 256;
    bench.engine.set_slice_bytes(slice_pages * PAGE_BYTES);
    bench.machine.breaks = 0;
    bench.write(0, STREAM_SELECT, 1);
    bench.write(0, STREAM_COMMAND, 1 << 20);
    let mut breaks = vec![core::mem::take(&mut bench.machine.breaks)];
    while bench.read(0, STREAM_COMMAND) & 4 != 0 {
        breaks.push(core::mem::take(&mut bench.machine.breaks));
    }
    breaks.push(bench.machine.breaks);

    // Of each granule one page with two copies and one with one, each copy six pages of work, and
    // each page four; the last granule may exceed the slice.
    let bound = 2 * (slice_pages / (3 * 6 + 2 * 4) + 1);
    assert!(breaks.iter().all(|pages| *pages <= bound), "{breaks:?} pages, {bound} are the bound");
    assert_eq!(breaks.iter().sum::<usize>(), 2 * granules as usize, "each is broken once");
}

#[test]
fn c6_a_granule_that_costs_a_slice_is_not_changed_at_the_end_of_one() {
    // Two sets of four pages, each in as many granules as there may be.
    let first = |set: u32| 4 * ALIASES * set;
    let mapped = |iova: u32| {
        let page = page(32 + 4 * (iova / first(1)) + ((iova % 4) ^ 3));
        Some((page, Permission::READ_WRITE))
    };
    // Unmaps the first granule of both sets, of which so many pages have changed.
    let max_words = |changed: [u32; 2]| {
        let mut bench = Bench::new(512);
        (0..first(2)).for_each(|iova| bench.set(iova, mapped(iova)));
        bench.flush(0, 0);
        for (set, slots) in (0..).zip(changed) {
            (0..slots).for_each(|slot| {
                write_news(&mut bench, [first(set) + 4 + slot, first(set) + 8 + slot]);
            });
            (0..4).for_each(|slot| bench.set(first(set) + slot, None));
        }
        bench.write(0, STREAM_SELECT, 1);
        bench.machine.words.set(0);
        bench.write(0, STREAM_COMMAND, 1 << 20);
        let mut most = bench.machine.words.take();
        while bench.read(0, STREAM_COMMAND) & 4 != 0 {
            most = most.max(bench.machine.words.take());
        }
        most.max(bench.machine.words.take())
    };
    let one = max_words([0, 4]);
    // What the first of them costs leaves a quarter of the slice.
    let both = max_words([3, 4]);
    assert!(both <= one + one / 8, "{both} words in one trap, {one} if one granule costs them");
}

#[test]
fn c6_a_page_that_devices_write_has_at_most_32_aliases() {
    let mut bench = Bench::new(512);
    let refused = |bench: &mut Bench| {
        let refusals = bench.machine.events.drain(..).filter_map(|event| match event {
            Event::Refused { at, reason: Refusal::TooManyAliases, .. } => Some(at.iova.0),
            _ => None,
        });
        refusals.collect::<Vec<_>>()
    };
    (0..ALIASES).for_each(|index| bench.set(4 * index, Some((page(30), Permission::READ_WRITE))));
    bench.flush(0, 0);
    assert_eq!(refused(&mut bench), []);
    for (index, permission) in
        [(ALIASES, Permission::READ_WRITE), (ALIASES + 1, Permission::READ_ONLY)]
    {
        bench.set(4 * index, Some((page(30), permission)));
        bench.flush(0, 0);
        assert_eq!(refused(&mut bench), [4 * index]);
    }
    // The others work as before, and one that goes makes room for one.
    assert!(bench.device_write(4 * (ALIASES - 1), 9, 0x5a));
    bench.set(0, None);
    bench.set(4 * ALIASES, Some((page(30), Permission::READ_WRITE)));
    bench.flush(0, 0);
    assert_eq!(refused(&mut bench), []);
    // Copies that are only read may be more, and then none that is written.
    (0..=ALIASES).for_each(|index| bench.set(4 * index, None));
    (0..100).for_each(|index| bench.set(4 * index, Some((page(31), Permission::READ_ONLY))));
    bench.flush(0, 0);
    assert_eq!(refused(&mut bench), []);
    bench.set(4 * 100, Some((page(31), Permission::READ_WRITE)));
    bench.flush(0, 0);
    assert_eq!(refused(&mut bench), [4 * 100]);
}

#[test]
fn c6_a_fetch_from_a_page_with_32_written_copies_is_bounded_work_in_each_trap() {
    let mut bench = Bench::new(128);
    (0..ALIASES).for_each(|index| bench.set(4 * index, Some((page(30), Permission::READ_WRITE))));
    bench.flush(0, 0);
    let bound = ALIASES as usize * PAGES_PER_ALIAS * PAGE_WORDS;
    let mut traps = 0;
    while bench.machine.cpu_access(page(30)) != oche_engine::host::CpuAccess::ReadWrite {
        bench.machine.words.set(0);
        assert_eq!(bench.trap(30, AccessKind::Fetch), FaultDisposition::Retry);
        let words = bench.machine.words.get();
        assert!(words < bound, "{words} words in one trap, {bound} are the bound");
        traps += 1;
        assert!(traps < 10, "it ends");
    }
}

/// Flushes stream 0 in traps of `slice_pages` pages of work each, and returns what the most
/// expensive of them did: words loaded and stored, and slots looked at in the first. The flush
/// needs more than one trap.
fn flush_in_slices(bench: &mut Bench, slice_pages: usize) -> (usize, usize) {
    bench.engine.set_slice_bytes(slice_pages * PAGE_BYTES);
    bench.write(0, STREAM_SELECT, 1);
    bench.machine.events.clear();
    bench.machine.words.set(0);
    bench.write(0, STREAM_COMMAND, 1 << 20);
    let mut max_words = bench.machine.words.take();
    let is_busy = bench.read(0, STREAM_COMMAND) & 4 != 0;
    assert!(is_busy, "{max_words} words are done in one trap of {slice_pages} pages");
    max_words = max_words.max(bench.machine.words.take());
    let mut polls = 0;
    while bench.read(0, STREAM_COMMAND) & 4 != 0 {
        max_words = max_words.max(bench.machine.words.take());
        polls += 1;
        assert!(polls < 100_000, "the flush ends");
    }
    let slots = bench.machine.events.iter().find_map(|event| match event {
        Event::FlushDone { pages, .. } => Some(*pages as usize),
        _ => None,
    });
    (max_words.max(bench.machine.words.take()), slots.expect("the flush is in the trace"))
}

/// A guest whose first-level entries all name one leaf table: as many count as can be watched.
fn one_table_everywhere(bench: &mut Bench) {
    let table = bench.machine.first_level_entry();
    (0..512).for_each(|index| bench.machine.set_first_level_entry(index, table));
}

/// As many tables as can be watched, each full of entries that are not zero and not valid since the
/// last flush.
fn fill_tracked_tables(bench: &mut Bench) {
    bench.map(8, &[30]);
    bench.unmap(8, 1);
    one_table_everywhere(bench);
    bench.flush(0, 0);
    (0..512).for_each(|iova| bench.set_raw(iova, 2));
}

#[test]
fn c6_tables_that_are_compared_count_as_work() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30]);
    bench.unmap(8, 1);
    one_table_everywhere(&mut bench);
    bench.flush(0, 0);
    let slice_pages = 8;
    let (words, _) = flush_in_slices(&mut bench, slice_pages);

    // The trap's first table can be compared when next to nothing is left.
    let bound = (slice_pages + 1) * PAGE_WORDS;
    assert!(words <= bound, "{words} words in one trap, {bound} are the bound");
}

#[test]
fn c6_entries_that_map_nothing_count_as_work() {
    let mut bench = Bench::new(32);
    fill_tracked_tables(&mut bench);
    let slice_pages = 64;
    let (_, slots) = flush_in_slices(&mut bench, slice_pages);

    // A granule of four slots is a kibibyte of work, and the last one may exceed the slice.
    let bound = 4 * (slice_pages * PAGE_BYTES / 1024 + 1);
    assert!(slots <= bound, "{slots} slots in one trap, {bound} are the bound");
}

/// The comparison of a table goes on where the last batch ended, whatever has changed before that
/// place.
#[test]
fn c6_flush_ends_while_another_cpu_keeps_writing_the_table() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30]);
    bench.unmap(8, 1);
    bench.flush(0, 0);
    (0..512).for_each(|iova| bench.set_raw(iova, 2));
    // A trap does one batch.
    bench.engine.set_slice_bytes(8 * PAGE_BYTES);
    bench.write(0, STREAM_SELECT, 1);
    bench.write(0, STREAM_COMMAND, 1 << 20);
    let mut polls = 0;
    while bench.read(0, STREAM_COMMAND) & 4 != 0 {
        polls += 1;
        assert!(polls < 10, "the flush ends");
        // As many granules as a batch holds, and no entry ever has the same value twice.
        (0..256).for_each(|iova| bench.set_raw(iova, 2 + 4 * polls));
    }
    assert!(polls > 1, "the table is more than one trap of work");
}

#[test]
fn c6_tracking_and_untracking_tables_counts_as_work() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30]);
    bench.unmap(8, 1);
    one_table_everywhere(&mut bench);
    let slice_pages = 64;
    let opened = |bench: &mut Bench| {
        bench.engine.set_slice_bytes(slice_pages * PAGE_BYTES);
        bench.write(0, STREAM_SELECT, 1);
        bench.machine.events.clear();
        bench.write(0, STREAM_COMMAND, 1 << 20);
        let tables = bench.count(|event| matches!(event, Event::Table { .. }));
        assert!((0..1000).any(|_| bench.read(0, STREAM_COMMAND) & 4 == 0), "the flush ends");
        tables
    };
    let watched = opened(&mut bench);
    (0..512).for_each(|index| bench.machine.set_first_level_entry(index, 0));
    let untracked = opened(&mut bench);

    // One at least is a page of work each; the last may exceed the slice.
    assert!(watched <= slice_pages + 1, "{watched} tables begin to be watched in one trap");
    assert!(untracked <= slice_pages + 1, "{untracked} tables end to be watched in one trap");
}

#[test]
fn c6_domains_that_are_searched_for_empty_tables_count_as_work() {
    // So few frames that each batch searches.
    let mut bench = Bench::new(64);
    let others = 28;
    bench.write(1, STREAMS_ENABLE, 0xffff);
    for index in 0..others {
        let (dart, stream) = (index % 2, 1 + index as u64 / 2);
        let root = page(FIRST_TABLE + 8 + index as u32).0;
        bench.write(dart, TTBR + 16 * stream, 1 << 31 | root);
        bench.write(dart, TCR + 4 * stream, 1 << 7);
        bench.flush(dart, stream as usize);
    }
    fill_tracked_tables(&mut bench);
    let slice_pages = 512;
    let (_, slots) = flush_in_slices(&mut bench, slice_pages);

    // A kibibyte for each of 64 changes and for each domain.
    let batches = slice_pages * PAGE_BYTES / ((64 + 1 + others) * 1024);
    let bound = 4 * 64 * (batches + 1);
    assert!(slots <= bound, "{slots} slots in one trap, {bound} are the bound");
}

/// A page may have more copies than devices may write when an untranslated bus master begins to
/// write it.
#[test]
fn c6_a_master_writes_a_page_with_300_read_copies_in_bounded_work() {
    let copies = 300;
    let mut bench = Bench::new(512);
    (0..copies)
        .for_each(|index| bench.set(iova_of(index), Some((page(30), Permission::READ_ONLY))));
    bench.write(0, STREAM_SELECT, 1);
    bench.write(0, STREAM_COMMAND, 1 << 20);
    while bench.read(0, STREAM_COMMAND) & 4 != 0 {}
    bench.engine.pin(&mut bench.machine, page(30));
    (0..PAGE_WORDS)
        .for_each(|word| bench.machine.store(page(30).home(), word, 0x00ee_00ee_00ee_00ee));
    bench.machine.words.set(0);
    bench.engine.unpin(&mut bench.machine, page(30));
    let words = bench.machine.words.get();

    // Each word is stored once into each copy; a few more for the page and its twin.
    let bound = copies as usize * PAGE_WORDS + 8 * PAGE_WORDS;
    assert!(words < bound, "{words} words, {bound} are the bound");
    for index in [1, copies / 2, copies - 1] {
        assert_eq!(bench.device_read(iova_of(index), 8 * 511), Some(0xee), "copy {index}");
    }
}

/// At most two copies in a granule.
fn iova_of(index: u32) -> u32 {
    3 * index
}

/// The pages of one command after another, as a disk's queue is released.
#[test]
fn c6_unpins_that_share_a_budget_are_one_trap_of_work() {
    let mut bench = Bench::new(67);
    (0..ALIASES).for_each(|iova| bench.set(iova, Some((page(30), Permission::WRITE_ONLY))));
    flush(&mut bench);
    (0..64).for_each(|_| bench.engine.pin(&mut bench.machine, page(30)));
    let mut budget = bench.engine.trap_budget();
    let mut released = 0;
    let mut calls = 0;
    while released < 64 {
        let pages = [page(30); 8];
        let count = bench.engine.unpin_all(&mut bench.machine, &pages, &mut budget);
        (released, calls) = (released + count, calls + 1);
        if count < pages.len() {
            break;
        }
    }
    assert!((9..64).contains(&released), "{released} pages in {calls} calls");
    assert_eq!(
        bench.engine.unpin_all(&mut bench.machine, &[page(30); 8], &mut budget),
        1,
        "it is spent"
    );
}
