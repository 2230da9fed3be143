//! Whole granules: four pages in order that nothing else maps, which are mapped without a plan.

use crate::bench::{Bench, FIRST_TABLE, page};
use oche_types::dart::entry::{Permission, encode_leaf};
use oche_types::dart::registers::{STREAM_COMMAND, STREAM_SELECT};

#[test]
fn c3_a_whole_granule_that_is_unmapped_is_reached_no_more() {
    let mut bench = Bench::new(32);
    for _ in 0..2 {
        bench.map(8, &[4, 5, 6, 7]);
        bench.map(12, &[16, 17, 18, 19]);
        bench.unmap(8, 4);
        for slot in 0..4 {
            assert_eq!(bench.device_read(8 + slot, 0), None);
            assert!(bench.is_home(4 + slot));
            assert_eq!(bench.device_read(12 + slot, 0), Some(16 + slot as u8));
        }
        bench.unmap(12, 4);
    }
    // Nothing is left of them: their pages and their IOVAs are free for any other use.
    bench.map(8, &[7, 6, 5, 4]);
    for slot in 0..4 {
        assert_eq!(bench.device_read(8 + slot, 0), Some(7 - slot as u8));
    }
}

#[test]
fn c1_an_entry_that_a_device_writes_into_a_table_in_a_whole_granule_counts() {
    let mut bench = Bench::new(32);
    bench.set(8, Some((page(30), Permission::READ_WRITE)));
    bench.set(512 + 1, Some((page(31), Permission::READ_WRITE)));
    for _ in 0..400 {
        bench.flush(0, 0);
    }
    // The frame of the first level, of its leaf tables, and of a page that is none.
    for slot in 0..4 {
        bench.set(12 + slot, Some((page(FIRST_TABLE + slot), Permission::READ_WRITE)));
    }
    bench.flush(0, 0);
    let second_leaf = 12 + 2;
    assert!(bench.is_home(FIRST_TABLE + 2));
    let entry = encode_leaf(page(33), Permission::READ_WRITE);
    for (offset, byte) in (8 * 5..).zip(entry.to_le_bytes()) {
        assert!(bench.device_write(second_leaf, offset, byte));
    }
    bench.flush(0, 0);
    assert_eq!(bench.device_read(512 + 5, 0), Some(33), "what the device wrote is not compared");
}

#[test]
fn c6_pages_in_order_that_have_copies_are_charged_for_them() {
    let is_done_at_once = |copies: u32| {
        let mut bench = Bench::new(64);
        for index in 0..copies {
            bench.set(64 + 4 * index, Some((page(8), Permission::READ_WRITE)));
        }
        bench.flush(0, 0);
        bench.engine.set_slice_bytes(1 << 19);
        for slot in 0..4 {
            bench.set(8 + slot, Some((page(4 + slot), Permission::READ_WRITE)));
            bench.set(12 + slot, Some((page(8 + slot), Permission::READ_WRITE)));
            bench.set(16 + slot, Some((page(12 + slot), Permission::READ_WRITE)));
        }
        bench.write(0, STREAM_SELECT, 1);
        bench.write(0, STREAM_COMMAND, 1 << 20);
        let is_done = bench.device_read(16, 0) == Some(12);
        assert!((0..100).any(|_| bench.read(0, STREAM_COMMAND) & 4 == 0), "it ends");
        assert_eq!((bench.device_read(12, 0), bench.device_read(16, 0)), (Some(8), Some(12)));
        is_done
    };
    assert!(is_done_at_once(0));
    assert!(!is_done_at_once(24), "24 copies are compared in half a mebibyte");
}
