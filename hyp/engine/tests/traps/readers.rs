//! What one device writes and another reads through a copy: current at each flush of either.

use crate::bench::{Bench, dart, page, stream};
use oche_engine::Isolation;
use oche_types::dart::entry::{Permission, encode_leaf, encode_table};
use oche_types::dart::registers::{TCR, TTBR};

/// Pages of the tables of the second device, DART 1 stream 3, and its IOVA.
const TABLES: u32 = 200;
const IOVA: u64 = 21 << 12;

/// Two devices behind DARTs of their own, with tables of their own.
struct Pair(Bench);

impl Pair {
    /// Page 30 is written by the first device through IOVA page 8 and read by the second.
    fn new(isolation: Isolation) -> Self {
        let mut bench = Bench::with(32, isolation);
        bench.set(8, Some((page(30), Permission::WRITE_ONLY)));
        bench.flush(0, 0);
        bench.machine.set_entry(TABLES, 0, encode_table(page(TABLES + 1)));
        bench.machine.set_entry(TABLES + 1, 21, encode_leaf(page(30), Permission::READ_ONLY));
        bench.write(1, oche_types::dart::registers::STREAMS_ENABLE, 0xffff);
        bench.write(1, TTBR + 16 * 3, 1 << 31 | page(TABLES).0);
        bench.write(1, TCR + 4 * 3, 1 << 7);
        bench.flush(1, 3);
        Self(bench)
    }

    fn writes(&mut self, offset: u64, value: u8) {
        assert!(self.0.device_write(8, offset, value));
    }

    fn reads(&mut self, offset: u64) -> Option<u8> {
        self.0.machine.device_read(dart(1), stream(3), IOVA + offset)
    }
}

#[test]
fn c2_a_device_reads_what_another_wrote_after_a_flush_of_either() {
    for isolation in [Isolation::Page, Isolation::Strict] {
        let mut pair = Pair::new(isolation);
        pair.writes(100, 1);
        pair.0.flush(1, 3);
        assert_eq!(pair.reads(100), Some(1), "the reader's flush, {isolation:?}");
        pair.writes(100, 2);
        pair.0.flush(0, 0);
        assert_eq!(pair.reads(100), Some(2), "the writer's flush, {isolation:?}");
        // A CPU's store in the word beside it takes nothing back.
        pair.writes(104, 3);
        pair.0.cpu_store(30, 108, 4);
        pair.0.flush(1, 3);
        assert_eq!((pair.reads(104), pair.0.cpu_load(30, 104)), (Some(3), 3));
    }
}

#[test]
fn c2_readers_that_stay_have_what_the_writer_wrote_last() {
    let mut pair = Pair::new(Isolation::Page);
    pair.0.set(34, Some((page(30), Permission::READ_ONLY)));
    pair.0.flush(0, 0);
    pair.writes(100, 1);
    pair.0.unmap(8, 1);
    assert_eq!((pair.reads(100), pair.0.device_read(34, 100)), (Some(1), Some(1)));
}

#[test]
fn c2_a_reader_that_stays_has_what_was_written_at_home() {
    let mut bench = Bench::new(32);
    bench.map(8, &[4, 5, 6, 7]);
    bench.set(21, Some((page(5), Permission::READ_ONLY)));
    bench.flush(0, 0);
    assert!(bench.device_write(9, 100, 1));
    bench.unmap(8, 4);
    assert_eq!(bench.device_read(21, 100), Some(1));
    bench.cpu_store(5, 101, 2);
    assert_eq!(bench.device_read(21, 101), Some(2));
}

#[test]
fn c2_a_page_at_home_that_a_device_begins_to_write_is_followed() {
    let mut bench = Bench::new(32);
    for slot in 0..4 {
        bench.set(8 + slot, Some((page(4 + slot), Permission::READ_ONLY)));
    }
    bench.set(21, Some((page(5), Permission::READ_ONLY)));
    bench.flush(0, 0);
    bench.map(8, &[4, 5, 6, 7]);
    assert!(bench.device_write(9, 100, 1));
    bench.flush(0, 0);
    assert_eq!(bench.device_read(21, 100), Some(1));
    bench.unmap(21, 1);
    assert!(bench.device_write(9, 100, 2));
    bench.flush(0, 0);
    bench.set(21, Some((page(5), Permission::READ_ONLY)));
    bench.flush(0, 0);
    assert_eq!(bench.device_read(21, 100), Some(2));
}

#[test]
fn a_page_that_devices_only_read_costs_a_flush_nothing() {
    let loads = |aliases: u32| {
        let mut bench = Bench::new(64);
        for index in 0..aliases {
            bench.set(8 + 4 * index, Some((page(30), Permission::READ_ONLY)));
        }
        bench.flush(0, 0);
        bench.machine.words.set(0);
        bench.flush(0, 0);
        bench.machine.words.get()
    };
    assert_eq!(loads(1), loads(40));
}
