//! Several DARTs: each does the work that its own accesses asked for, and no other.

use crate::bench::{Bench, FIRST_TABLE, dart, page, stream};
use oche_engine::host::{CpuAccess, Memory as _};
use oche_types::addr::{IovaPage, PAGE_BYTES};
use oche_types::dart::entry::{Permission, encode_leaf, encode_table};
use oche_types::dart::registers::{STREAM_COMMAND, STREAM_SELECT, STREAMS_ENABLE, TCR, TTBR};

/// The page with the first-level table of DART 1; its leaf table follows.
const OWN_TABLES: u32 = 220;
/// Granules that are more than a few slices of work, and fit into the pool.
const MANY: u32 = 60;
/// A slice of so few bytes that a trap makes one change.
const SMALL_SLICE: usize = PAGE_BYTES;

/// Attaches stream 0 of DART 1 to tables of its own, which are empty.
fn attach_own(bench: &mut Bench) {
    let first = bench.machine.cpu_page(page(OWN_TABLES));
    bench.machine.store(first, 0, encode_table(page(OWN_TABLES + 1)));
    bench.write(1, STREAMS_ENABLE, 0xffff);
    bench.write(1, TTBR, 1 << 31 | page(OWN_TABLES).0);
    bench.write(1, TCR, 1 << 7);
    bench.flush(1, 0);
}

/// Sets the entry for page `iova` in DART 1's own tables.
fn set_own(bench: &mut Bench, iova: u32, number: u32) {
    let leaf = bench.machine.cpu_page(page(OWN_TABLES + 1));
    let entry = encode_leaf(page(number), Permission::READ_WRITE);
    bench.machine.store(leaf, iova as usize, entry);
}

/// Sets entries of [`MANY`] granules in DART 1's own tables: pages from number 60 on.
fn set_many(bench: &mut Bench) {
    (0..MANY).for_each(|index| set_own(bench, 4 * index, 60 + index));
}

/// Asks for an invalidation of a stream, and lets one trap work.
fn ask(bench: &mut Bench, dart: usize, stream: usize) {
    bench.write(dart, STREAM_SELECT, 1 << stream);
    bench.write(dart, STREAM_COMMAND, 1 << 20);
}

/// Reads whether a DART is busy, which lets it work.
fn is_busy(bench: &mut Bench, dart: usize) -> bool {
    bench.read(dart, STREAM_COMMAND) & 4 != 0
}

fn poll_to_the_end(bench: &mut Bench, dart: usize) -> usize {
    (0..1000).find(|_| !is_busy(bench, dart)).expect("the command ends")
}

#[test]
fn c6_an_access_of_a_dart_does_no_work_that_another_asked_for() {
    // Words that DART 0's accesses load and store, and how often it is polled.
    let costs = |is_other_busy: bool| {
        let mut bench = Bench::new(128);
        attach_own(&mut bench);
        bench.engine.set_slice_bytes(SMALL_SLICE);
        if is_other_busy {
            set_many(&mut bench);
            ask(&mut bench, 1, 0);
        }
        bench.machine.words.set(0);
        for (index, number) in (30..38).enumerate() {
            bench.set(4 * index as u32, Some((page(number), Permission::READ_WRITE)));
        }
        ask(&mut bench, 0, 0);
        let polls = poll_to_the_end(&mut bench, 0);
        bench.read(0, TTBR);
        bench.write(0, TTBR + 4, 0);
        bench.write(0, TCR + 4, 0);
        let words = bench.machine.words.get();
        assert_eq!(bench.device_read(4, 0), Some(31));
        assert_eq!(is_busy(&mut bench, 1), is_other_busy, "only the DART that asked is busy");
        poll_to_the_end(&mut bench, 1);
        let last = IovaPage(4 * MANY - 4).iova();
        let read = bench.machine.device_read(dart(1), stream(0), last);
        assert_eq!(read, is_other_busy.then_some(60 + MANY as u8 - 1));
        (words, polls)
    };
    let alone = costs(false);
    assert!(alone.1 > 1, "DART 0's own work takes several traps");
    assert_eq!(costs(true), alone);
}

#[test]
fn c6_a_shared_domain_is_the_work_of_each_dart_that_asks_for_it() {
    let mut bench = Bench::new(128);
    bench.attach(1, 3);
    bench.engine.set_slice_bytes(SMALL_SLICE);
    (0..MANY).for_each(|index| {
        bench.set(4 * index, Some((page(60 + index), Permission::READ_WRITE)));
    });
    ask(&mut bench, 0, 0);
    bench.machine.words.set(0);
    assert!(!is_busy(&mut bench, 1), "it has not asked");
    assert_eq!(bench.machine.words.get(), 0);
    ask(&mut bench, 1, 3);
    assert!(is_busy(&mut bench, 0) && is_busy(&mut bench, 1));
    poll_to_the_end(&mut bench, 1);
    bench.machine.words.set(0);
    assert!(!is_busy(&mut bench, 0), "the domain that both asked for is done");
    assert_eq!(bench.machine.words.get(), 0);
    assert_eq!(bench.device_read(4 * MANY - 4, 0), Some(60 + MANY as u8 - 1));
}

#[test]
fn c4_a_domain_that_ends_is_the_work_of_the_dart_that_left_it_last() {
    let mut bench = Bench::new(128);
    attach_own(&mut bench);
    set_many(&mut bench);
    bench.flush(1, 0);
    assert!(!bench.is_home(60));
    bench.engine.set_slice_bytes(SMALL_SLICE);
    bench.write(1, TCR, 0);
    bench.machine.words.set(0);
    assert!(!is_busy(&mut bench, 0));
    assert_eq!(bench.machine.words.get(), 0);
    assert!(is_busy(&mut bench, 1));
    poll_to_the_end(&mut bench, 1);
    assert!((60..60 + MANY).all(|number| bench.is_home(number)));
}

#[test]
fn c1_a_table_that_is_write_protected_before_another_darts_batch_maps_it_is_compared() {
    // The page of a table of DART 0 that becomes idle while DART 1 has a batch under way that maps
    // the page.
    let table = FIRST_TABLE + 2;
    let mut bench = Bench::new(128);
    attach_own(&mut bench);
    bench.set(512 + 1, Some((page(31), Permission::READ_WRITE)));
    bench.map(8, &[30]);
    set_many(&mut bench);
    set_own(&mut bench, 4 * MANY, table);
    bench.engine.set_slice_bytes(SMALL_SLICE);
    ask(&mut bench, 1, 0);
    bench.engine.set_slice_bytes(64 << 20);
    (0..140).for_each(|flush| bench.map_below(100, 40 + (flush & 1)));
    assert_eq!(bench.machine.cpu_access(page(table)), CpuAccess::ReadOnly, "the table is idle");
    assert!(!is_busy(&mut bench, 1), "the rest of the batch is applied");

    let entry = encode_leaf(page(33), Permission::READ_WRITE);
    for (offset, byte) in (8 * 5..).zip(entry.to_le_bytes()) {
        let iova = IovaPage(4 * MANY).iova() + offset;
        assert!(bench.machine.device_write(dart(1), stream(0), iova, byte));
    }
    bench.flush(0, 0);
    assert_eq!(bench.device_read(512 + 5, 0), Some(33), "the device's entry counts");
}
