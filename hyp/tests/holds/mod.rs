//! The rules of held pages, one test each: a master behind no DART uses them at home, whatever DARTs map.

use crate::bench::{Bench, Machine, page};
use oche_hyp::dart::entry::Permission;
use oche_hyp::trace::{Event, Refusal};

impl Bench {
    fn hold(&mut self, number: u32) {
        self.engine.hold(&mut self.machine, page(number));
    }

    fn release(&mut self, number: u32) {
        self.engine.release(&mut self.machine, page(number));
    }
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
    bench.hold(5);
    assert_eq!((bench.is_home(5), fetched(&bench)), (true, 1));
    assert_eq!(bench.machine.home_byte(page(5), 3), 33);
    // The device goes on; the next hold finds what it wrote.
    assert!(bench.device_write(8, 4, 44));
    bench.hold(5);
    assert_eq!((bench.machine.home_byte(page(5), 4), fetched(&bench)), (44, 1));
}

#[test]
fn what_the_master_wrote_is_seen_by_cpus_at_once_and_by_the_device_after_the_release() {
    for permission in [Permission::READ_WRITE, Permission::READ_ONLY] {
        let mut bench = Bench::new(32);
        bench.set(8, Some((page(5), permission)));
        bench.flush(0, 0);
        bench.hold(5);
        master_writes(&mut bench.machine, 7, 77);
        assert_eq!(bench.cpu_load(5, 7), 77);
        master_writes(&mut bench.machine, 8, 88);
        bench.release(5);
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
fn a_page_that_is_mapped_while_it_is_held_stays_home() {
    let mut bench = Bench::new(32);
    bench.hold(5);
    bench.map(8, &[5]);
    assert!(bench.is_home(5));
    master_writes(&mut bench.machine, 7, 77);
    assert!(bench.device_write(8, 6, 66));
    assert_eq!((bench.cpu_load(5, 6), bench.cpu_load(5, 7)), (66, 77));
    bench.release(5);
    assert_eq!(bench.device_read(8, 7), Some(77));
    bench.unmap(8, 1);
    bench.map(8, &[5]);
    assert!(!bench.is_home(5), "nobody holds it any more");
    assert_eq!(bench.cpu_load(5, 6), 66);
}

#[test]
fn a_page_that_is_unmapped_or_split_while_it_is_held_stays_home() {
    let mut bench = Bench::new(32);
    bench.map(8, &[4, 5, 6, 7]);
    bench.hold(5);
    bench.unmap(8, 1);
    assert!(bench.is_home(5) && !bench.is_home(6));
    master_writes(&mut bench.machine, 7, 77);
    bench.map(21, &[5]);
    bench.unmap(9, 1);
    assert!(bench.is_home(5));
    bench.release(5);
    assert_eq!((bench.device_read(21, 7), bench.cpu_load(5, 7)), (Some(77), 77));
}

#[test]
fn with_no_memory_for_a_base_the_mapping_goes_and_the_page_is_exact() {
    // Two tables and a frame: nothing is left.
    let mut bench = Bench::new(3);
    bench.map(8, &[5]);
    assert!(bench.device_write(8, 3, 33));
    bench.hold(5);
    assert!(bench.is_home(5));
    assert_eq!(bench.machine.home_byte(page(5), 3), 33);
    assert_eq!(bench.device_read(8, 3), None);
    let refused = |event: &Event| matches!(event, Event::Refused { reason: Refusal::PoolExhausted, .. });
    assert_eq!(bench.count(refused), 1);
}

#[test]
fn c2_with_no_memory_for_a_base_no_copy_stays_that_misses_what_the_master_writes() {
    for (is_frame_left, seen) in [(false, Some(77)), (true, None)] {
        // Two tables and two frames: nothing is left, but the first granule's frame if it holds nothing else.
        let mut bench = Bench::new(4);
        for (iova, number) in [(8, 5), (21, 5), (9, 40)].into_iter().take(2 + usize::from(is_frame_left)) {
            bench.set(iova, Some((page(number), Permission::READ_ONLY)));
            bench.flush(0, 0);
        }
        bench.hold(5);
        assert!(bench.is_home(5));
        master_writes(&mut bench.machine, 7, 77);
        bench.release(5);
        assert_eq!((bench.device_read(21, 7), bench.cpu_load(5, 7)), (seen, 77));
        // A fault, or a red zone beside what the frame still holds.
        assert_ne!(bench.device_read(8, 7), Some(0), "what the page held before");
    }
}

#[test]
fn what_is_not_guest_memory_and_what_is_released_too_often_does_nothing() {
    let mut bench = Bench::new(32);
    bench.map(8, &[5]);
    let before = bench.machine.state();
    bench.engine.hold(&mut bench.machine, oche_hyp::addr::Gfn(0x100));
    bench.release(5);
    bench.release(5);
    assert_eq!(bench.machine.state(), before);
}
