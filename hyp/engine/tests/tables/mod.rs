//! Tables that have become quiet: what a device or another CPU does to them is seen all the same.

use crate::bench::{Bench, FIRST_TABLE, Machine, page};
use oche_engine::Isolation;
use oche_engine::host::CpuAccess;
use oche_types::dart::entry::{Permission, encode_leaf, encode_table};
use oche_types::dart::registers::{STREAM_COMMAND, STREAM_SELECT};

/// The guest page of the leaf table of the first 2 MiB.
const LEAF: u32 = FIRST_TABLE + 1;

#[test]
fn c1_a_table_that_is_write_protected_in_the_batch_that_maps_it_is_still_compared() {
    // The table is write-protected after about 16 flushes without a change, so one of these is the
    // flush that also maps it.
    for flushes in 6..28 {
        let mut bench = Bench::new(64);
        bench.map(8, &[30]);
        bench.set(512 + 1, Some((page(31), Permission::READ_WRITE)));
        bench.flush(0, 0);
        // The first leaf table stays in use; the second is quiet.
        for flush in 0..flushes {
            bench.map_below(100, 40 + (flush & 1));
        }
        bench.map_below(9, LEAF + 1);
        let entry = encode_leaf(page(33), Permission::READ_WRITE);
        for (offset, byte) in (8 * 5..).zip(entry.to_le_bytes()) {
            assert!(bench.device_write(9, offset, byte));
        }
        bench.flush(0, 0);

        let read = bench.device_read(512 + 5, 0);
        assert_eq!(read, Some(33), "the device's entry goes unseen after {flushes} quiet flushes");
    }
}

#[test]
fn c1_a_write_protected_table_that_returns_while_it_is_drained_is_mapped_again() {
    let mut bench = Bench::new(250);
    // More granules than a batch has.
    for index in 0..100 {
        bench.set(4 * index, Some((page(index), Permission::READ_WRITE)));
    }
    bench.flush(0, 0);
    (0..400).for_each(|_| bench.flush(0, 0));
    assert_eq!(
        bench.machine.cpu_access(page(LEAF)),
        CpuAccess::ReadOnly,
        "the leaf table is quiet"
    );
    bench.clear_first_level_entry();
    let is_restored =
        |machine: &mut Machine| machine.set_first_level_entry(0, encode_table(page(LEAF)));
    bench.machine.during_drain = Some(is_restored);
    bench.write(0, STREAM_SELECT, 1);
    bench.write(0, STREAM_COMMAND, 1 << 20);
    assert!((0..1000).any(|_| bench.read(0, STREAM_COMMAND) & 4 == 0), "the flush ends");
    assert!(bench.machine.during_drain.is_none(), "the entry was restored in the flush");
    bench.flush(0, 0);

    for index in 0..100 {
        assert_eq!(bench.device_read(4 * index, 0), Some(index as u8), "page {index} is lost");
    }
}

/// Words that a flush loads and stores which maps one page anew, with `tables` leaf tables that map
/// a page each.
fn words_of_a_flush(tables: u32) -> usize {
    // RAM for as many tables, and a pool behind it.
    let mut bench = Bench::sized(1 << 19, 1 << 20..(1 << 20) + 2048, Isolation::Page);
    let (first, data) = (FIRST_TABLE + 1, 4096);
    for index in 0..tables {
        let entry = encode_leaf(page(data + index), Permission::READ_WRITE);
        bench.machine.set_entry(first + index, 7, entry);
        bench.machine.set_first_level_entry(index as usize, encode_table(page(first + index)));
    }
    bench.flush(0, 0);
    assert_eq!(bench.device_read(512 * (tables - 1) + 7, 0), Some(0), "the last table is live");
    // All but the first table become idle.
    for flush in 0..40 {
        bench.map_below(100, 40 + (flush & 1));
    }
    let before = bench.machine.words.get();
    bench.map_below(100, 40);
    bench.machine.words.get() - before
}

#[test]
fn a_flush_costs_the_same_however_many_tables_are_live() {
    let (few, many) = (words_of_a_flush(8), words_of_a_flush(512));
    assert!(100 * many <= 105 * few, "{many} words with 512 tables, {few} with 8");
}
