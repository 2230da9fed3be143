//! Tables that have become quiet: what a device or another CPU does to them is seen all the same.

use crate::bench::{Bench, FIRST_TABLE, Machine, page};
use oche_engine::host::CpuAccess;
use oche_types::dart::entry::{Permission, encode_leaf, encode_table};
use oche_types::dart::registers::{STREAM_COMMAND, STREAM_SELECT};

/// The guest page of the leaf table of the first 2 MiB.
const LEAF: u32 = FIRST_TABLE + 1;

#[test]
fn c1_a_table_that_is_write_protected_in_the_batch_that_maps_it_is_still_compared() {
    // The table is closed after about 128 quiet flushes, so one of these is the flush that also
    // maps it.
    for flushes in 118..140 {
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
