//! The rules of pinned pages, one test each: an untranslated bus master uses them at home, whatever
//! DARTs map.

use crate::bench::{Bench, FIRST_TABLE, Machine, page};
use oche_types::addr::Gfn;
use oche_types::dart::entry::{Permission, encode_leaf};
use oche_types::event::{Event, Refusal};

impl Bench {
    fn pin(&mut self, number: u32) {
        self.engine.pin(&mut self.machine, page(number));
    }

    fn pin_all(&mut self, pages: &[Gfn]) -> usize {
        let mut budget = self.engine.trap_budget();
        self.engine.pin_all(&mut self.machine, pages, &mut budget)
    }

    fn unpin(&mut self, number: u32) {
        self.engine.unpin(&mut self.machine, page(number));
    }
}

/// Pages 20 to 27 away, each in a granule of its own and with a byte of its own from the device.
fn eight_away() -> (Bench, Vec<Gfn>) {
    let mut bench = Bench::new(32);
    for index in 0..8 {
        bench.map(8 + 4 * index, &[20 + index]);
        assert!(bench.device_write(8 + 4 * index, 3, 40 + index as u8));
    }
    (bench, (20..28).map(page).collect())
}

#[test]
fn pages_pinned_together_come_home_with_one_flush() {
    let (mut bench, mut pages) = eight_away();
    // One is named twice, one is at home, and one is no memory.
    pages.extend([page(22), page(60), Gfn(0x100)]);
    let before = bench.machine.flushes;
    assert_eq!(bench.pin_all(&pages), pages.len());
    assert_eq!((bench.machine.flushes - before, fetched(&bench)), (1, 8));
    for index in 0..8 {
        assert!(bench.is_home(20 + index));
        assert_eq!(bench.machine.home_byte(page(20 + index), 3), 40 + index as u8);
    }
    bench.machine.direct_store(page(22).home(), 9, 99);
    bench.unpin(22);
    bench.unmap(16, 1);
    bench.map(16, &[22]);
    assert!(bench.is_home(22), "it is held once more");
    assert_eq!(bench.device_read(16, 9), Some(99));
}

#[test]
fn pages_pinned_together_with_no_memory_for_twins_are_exact() {
    // Two tables, eight frames, and one for four twins; the slots of frames of the pool are not
    // taken for twins.
    let mut bench = Bench::new(11);
    for index in 0..8 {
        bench.map(8 + 4 * index, &[20 + index]);
        assert!(bench.device_write(8 + 4 * index, 3, 40 + index as u8));
    }
    let pages: Vec<Gfn> = (20..28).map(page).collect();
    assert_eq!(bench.pin_all(&pages), 8);
    let mut refused = 0;
    for index in 0..8 {
        assert!(bench.is_home(20 + index));
        assert_eq!(bench.machine.home_byte(page(20 + index), 3), 40 + index as u8);
        bench.machine.direct_store(page(20 + index).home(), 9, 99);
        bench.unpin(20 + index);
        match bench.device_read(8 + 4 * index, 9) {
            Some(byte) => assert_eq!(byte, 99),
            None => refused += 1,
        }
    }
    let event =
        |event: &Event| matches!(event, Event::Refused { reason: Refusal::PoolExhausted, .. });
    assert_eq!(bench.count(event), refused);
    assert!((1..8).contains(&refused), "{refused}");
}

fn fetched(bench: &Bench) -> usize {
    bench.count(|event| matches!(event, Event::Fetched { .. }))
}

/// The master writes byte `offset` of page 5 at home.
fn master_writes(machine: &mut Machine, offset: usize, value: u8) {
    machine.direct_store(page(5).home(), offset, value);
}

#[test]
fn a_page_that_is_away_comes_home_with_what_the_device_wrote() {
    let mut bench = Bench::new(32);
    bench.map(8, &[5]);
    assert!(bench.device_write(8, 3, 33));
    bench.pin(5);
    assert_eq!((bench.is_home(5), fetched(&bench)), (true, 1));
    assert_eq!(bench.machine.home_byte(page(5), 3), 33);
    // The device goes on; the next hold finds what it wrote.
    assert!(bench.device_write(8, 4, 44));
    bench.pin(5);
    assert_eq!((bench.machine.home_byte(page(5), 4), fetched(&bench)), (44, 1));
}

#[test]
fn what_the_master_wrote_is_seen_by_cpus_at_once_and_by_the_device_after_the_unpin() {
    for permission in [Permission::READ_WRITE, Permission::READ_ONLY] {
        let mut bench = Bench::new(32);
        bench.set(8, Some((page(5), permission)));
        bench.flush(0, 0);
        bench.pin(5);
        master_writes(&mut bench.machine, 7, 77);
        assert_eq!(bench.cpu_load(5, 7), 77);
        master_writes(&mut bench.machine, 8, 88);
        bench.unpin(5);
        assert_eq!(
            (bench.device_read(8, 7), bench.device_read(8, 8)),
            (Some(77), Some(88)),
            "{permission:?}"
        );
        bench.cpu_store(5, 9, 99);
        assert_eq!(bench.device_read(8, 9), Some(99));
        bench.unmap(8, 1);
        let bytes = [7, 8, 9].map(|offset| bench.machine.home_byte(page(5), offset));
        assert_eq!(bytes, [77, 88, 99]);
    }
}

#[test]
fn a_page_that_is_mapped_while_pinned_stays_at_home() {
    let mut bench = Bench::new(32);
    bench.pin(5);
    bench.map(8, &[5]);
    assert!(bench.is_home(5));
    master_writes(&mut bench.machine, 7, 77);
    assert!(bench.device_write(8, 6, 66));
    assert_eq!((bench.cpu_load(5, 6), bench.cpu_load(5, 7)), (66, 77));
    bench.unpin(5);
    assert_eq!(bench.device_read(8, 7), Some(77));
    bench.unmap(8, 1);
    bench.map(8, &[5]);
    assert!(!bench.is_home(5), "it is not pinned any more");
    assert_eq!(bench.cpu_load(5, 6), 66);
}

#[test]
fn a_page_that_is_unmapped_or_split_while_pinned_stays_at_home() {
    let mut bench = Bench::new(32);
    bench.map(8, &[4, 5, 6, 7]);
    bench.pin(5);
    bench.unmap(8, 1);
    assert!(bench.is_home(5) && !bench.is_home(6));
    master_writes(&mut bench.machine, 7, 77);
    bench.map(21, &[5]);
    bench.unmap(9, 1);
    assert!(bench.is_home(5));
    bench.unpin(5);
    assert_eq!((bench.device_read(21, 7), bench.cpu_load(5, 7)), (Some(77), 77));
}

#[test]
fn with_no_memory_for_a_twin_the_mapping_goes_and_the_page_is_exact() {
    // Two tables and a frame: nothing is left.
    let mut bench = Bench::new(3);
    bench.map(8, &[5]);
    assert!(bench.device_write(8, 3, 33));
    bench.pin(5);
    assert!(bench.is_home(5));
    assert_eq!(bench.machine.home_byte(page(5), 3), 33);
    assert_eq!(bench.device_read(8, 3), None);
    let refused =
        |event: &Event| matches!(event, Event::Refused { reason: Refusal::PoolExhausted, .. });
    assert_eq!(bench.count(refused), 1);
}

#[test]
fn c2_with_no_memory_for_a_twin_no_copy_stays_that_misses_what_the_master_writes() {
    for (is_frame_left, seen) in [(false, Some(77)), (true, None)] {
        // Two tables and two frames: nothing is left, but the first granule's frame if it holds
        // nothing else.
        let mut bench = Bench::new(4);
        for (iova, number) in
            [(8, 5), (21, 5), (9, 40)].into_iter().take(2 + usize::from(is_frame_left))
        {
            bench.set(iova, Some((page(number), Permission::READ_ONLY)));
            bench.flush(0, 0);
        }
        bench.pin(5);
        assert!(bench.is_home(5));
        master_writes(&mut bench.machine, 7, 77);
        bench.unpin(5);
        assert_eq!((bench.device_read(21, 7), bench.cpu_load(5, 7)), (seen, 77));
        // A fault, or a red zone beside what the frame still holds.
        assert_ne!(bench.device_read(8, 7), Some(0), "what the page held before");
    }
}

#[test]
fn what_is_not_guest_memory_and_what_is_unpinned_too_often_does_nothing() {
    let mut bench = Bench::new(32);
    bench.map(8, &[5]);
    let before = bench.machine.state();
    bench.engine.pin(&mut bench.machine, Gfn(0x100));
    bench.unpin(5);
    bench.unpin(5);
    assert_eq!(bench.machine.state(), before);
}

/// Page number of the guest's leaf table for the first 2 MiB.
const LEAF_TABLE: u32 = FIRST_TABLE + 1;

/// A bench whose tables have been quiet for so long that CPUs' stores to them trap.
fn protected() -> Bench {
    let mut bench = Bench::new(32);
    bench.map(8, &[30]);
    (0..400).for_each(|_| bench.flush(0, 0));
    let closed = |event: &Event| matches!(event, Event::Table { is_unsync: false, .. });
    assert_eq!(bench.count(closed), 2, "both tables are write-protected");
    bench
}

#[test]
fn c1_an_entry_that_a_virtual_device_stores_into_a_write_protected_table_counts() {
    let mut bench = protected();
    let entry = encode_leaf(page(31), Permission::READ_WRITE);
    bench.engine.store_trapped(&mut bench.machine, page(LEAF_TABLE), 9 * 8, 8, entry);
    bench.flush(0, 0);
    assert_eq!(bench.device_read(9, 0), Some(31));
}

#[test]
fn c1_an_entry_that_a_bus_master_writes_into_a_write_protected_table_counts() {
    let mut bench = protected();
    bench.pin(LEAF_TABLE);
    bench.machine.master_maps(9, 31);
    bench.unpin(LEAF_TABLE);
    bench.flush(0, 0);
    assert_eq!(bench.device_read(9, 0), Some(31));
}

#[test]
fn c1_a_table_that_a_bus_master_may_write_stays_unsync() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30]);
    bench.pin(LEAF_TABLE);
    (0..400).for_each(|_| bench.flush(0, 0));
    bench.machine.master_maps(9, 31);
    bench.unpin(LEAF_TABLE);
    bench.flush(0, 0);
    assert_eq!(bench.device_read(9, 0), Some(31));
}

#[test]
fn what_a_master_wrote_is_in_all_copies_after_each_unpin() {
    let mut bench = Bench::new(32);
    bench.set(8, Some((page(5), Permission::READ_ONLY)));
    bench.flush(0, 0);
    bench.pin(5);
    bench.pin(5);
    master_writes(&mut bench.machine, 7, 77);
    bench.unpin(5);
    assert_eq!(bench.device_read(8, 7), Some(77));
    master_writes(&mut bench.machine, 8, 78);
    bench.unpin(5);
    assert_eq!(bench.device_read(8, 8), Some(78));
}

#[test]
fn a_page_that_is_mapped_while_it_is_pinned_has_what_the_master_wrote_before() {
    let mut bench = Bench::new(32);
    bench.set(8, Some((page(5), Permission::READ_ONLY)));
    bench.flush(0, 0);
    bench.pin(5);
    master_writes(&mut bench.machine, 7, 77);
    bench.set(21, Some((page(5), Permission::READ_ONLY)));
    bench.flush(0, 0);
    assert_eq!(bench.device_read(21, 7), Some(77));
    assert_eq!(bench.device_read(8, 7), Some(77));
}
