//! The work of one trap, in words loaded and stored, whatever the guest maps.

use crate::bench::{Bench, page};
use oche_hyp::addr::PAGE_WORDS;
use oche_hyp::dart::entry::Permission;
use oche_hyp::dart::registers::{STREAM_COMMAND, STREAM_SELECT};
use oche_hyp::engine::{CpuReach, Trapped};

/// Aliases of one page: what one `preadv` of 256 `iovec`s maps.
const ALIASES: u32 = 256;
/// Pages of words that mapping or unmapping one alias may cost: red zone, fill, copy, two comparisons, and a share
/// of what is new in other copies.
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
fn c6_a_page_mapped_256_times_costs_one_trap_work_in_proportion() {
    // The frames of 64 granules, tables, and one for the base.
    let mut bench = Bench::new(67);
    for iova in 0..ALIASES {
        bench.set(iova, Some((page(30), Permission::WRITE_ONLY)));
    }
    let bound = ALIASES as usize * PAGES_PER_ALIAS * PAGE_WORDS;
    let mapped = flush(&mut bench);

    assert!(mapped < bound, "{mapped} words to map, {bound} are the bound");
    // As the disk reads different data into each.
    for iova in 0..ALIASES {
        (0..4096).for_each(|offset| assert!(bench.device_write(iova, offset, iova as u8 ^ offset as u8)));
    }
    (0..ALIASES).for_each(|iova| bench.set(iova, None));
    let unmapped = flush(&mut bench);

    assert!(unmapped < bound, "{unmapped} words to unmap, {bound} are the bound");
    assert!(bench.is_home(30));
}

#[test]
fn c6_a_fetch_from_a_page_mapped_256_times_is_bounded_work_in_each_trap() {
    let mut bench = Bench::new(128);
    (0..ALIASES).for_each(|index| bench.set(4 * index, Some((page(30), Permission::READ_WRITE))));
    bench.flush(0, 0);
    let bound = ALIASES as usize * PAGES_PER_ALIAS * PAGE_WORDS;
    let mut traps = 0;
    while bench.machine.cpu_access(page(30)) != oche_hyp::world::CpuAccess::ReadWrite {
        bench.machine.words.set(0);
        assert_eq!(bench.trap(30, CpuReach::Fetch), Trapped::Retry);
        let words = bench.machine.words.get();
        assert!(words < bound, "{words} words in one trap, {bound} are the bound");
        traps += 1;
        assert!(traps < 10, "it ends");
    }
}

#[test]
fn c6_tables_that_are_compared_count_as_work() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30]);
    // Every first-level entry names the one leaf table.
    let table = bench.machine.first_level_entry();
    (0..512).for_each(|index| bench.machine.set_first_level_entry(index, table));
    bench.write(0, STREAM_SELECT, 1);
    bench.write(0, STREAM_COMMAND, 1 << 20);
    (0..1000).any(|_| bench.read(0, STREAM_COMMAND) & 4 == 0);
    let words = flush(&mut bench);
    assert!(words <= 513 * PAGE_WORDS, "{words} words in one trap");
}

/// The pages of one command after another, as a disk's queue is released.
#[test]
fn c6_releases_that_share_a_budget_are_one_trap_of_work() {
    let mut bench = Bench::new(67);
    (0..ALIASES).for_each(|iova| bench.set(iova, Some((page(30), Permission::WRITE_ONLY))));
    flush(&mut bench);
    (0..32).for_each(|_| bench.engine.hold(&mut bench.machine, page(30)));
    let mut budget = bench.engine.trap_budget();
    let mut released = 0;
    let mut calls = 0;
    while released < 32 {
        let pages = [page(30); 8];
        let count = bench.engine.release_all(&mut bench.machine, &pages, &mut budget);
        (released, calls) = (released + count, calls + 1);
        if count < pages.len() {
            break;
        }
    }
    assert!((9..32).contains(&released), "{released} pages in {calls} calls");
    assert_eq!(bench.engine.release_all(&mut bench.machine, &[page(30); 8], &mut budget), 1, "it is spent");
}
