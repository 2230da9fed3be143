//! Streams: attached, blocked, moved between domains, and their faults.

use crate::bench::{Bench, dart, page, stream};
use oche_engine::host::DeviceFault;
use oche_types::dart::entry::Permission;
use oche_types::dart::registers::{ERROR, ERROR_ADDRESS_LOW, TCR, TTBR};
use oche_types::event::Event;

#[test]
fn c5_a_fault_reaches_the_guest_with_stream_address_and_code() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30]);
    assert!(!bench.device_write(600, 0x123, 1));
    assert_eq!(bench.read(0, ERROR), 1 << 31 | 2, "no first-level entry");
    assert_eq!(bench.read(0, ERROR_ADDRESS_LOW), 600 * 4096 + 0x123);
    bench.write(0, ERROR, 1 << 31 | 2);
    assert!(!bench.device_write(100, 0, 1));
    assert_eq!(bench.read(0, ERROR), 1 << 31 | 4, "no leaf");
    bench.write(0, ERROR, u32::MAX);
    bench.set(12, Some((page(31), Permission::READ_ONLY)));
    bench.flush(0, 0);
    assert!(!bench.device_write(12, 0, 1));
    assert_eq!(bench.read(0, ERROR), 1 << 31 | 8, "a write to what may only be read");
}

#[test]
fn a_dart_that_the_guest_does_not_have_answers_nothing() {
    let mut bench = Bench::new(32);
    let missing = dart(2);
    let fault = DeviceFault { stream: stream(0), iova: 0x1000, is_write: true };
    bench.machine.faults.push((missing, fault));
    let answer = bench.engine.read(&mut bench.machine, missing, ERROR, 4);
    assert!(answer.is_err());
    assert_eq!(bench.machine.faults.len(), 1, "its fault is not taken for another DART's");
}

#[test]
fn c4_a_stream_that_stops_translating_is_cut_off_and_its_pages_go_home() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30, 31]);
    bench.write(0, TCR, 0);
    assert_eq!(bench.device_read(8, 0), None);
    assert!(bench.is_home(30) && bench.is_home(31));
    assert_eq!(bench.engine.free_frames(), 32);
}

#[test]
fn events_of_a_domain_name_a_stream_that_is_attached_to_it() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30]);
    bench.attach(1, 3);
    for (dart, stream) in [(1, 3), (0, 0)] {
        bench.write(dart, TTBR + 16 * stream as u64, 0);
        bench.flush(dart, stream);
    }
    let unmaps = bench.machine.events.iter().filter_map(|event| match event {
        Event::Unmap { at, .. } => Some((at.dart, at.stream)),
        _ => None,
    });
    assert_eq!(
        unmaps.collect::<Vec<_>>(),
        [(dart(0), stream(0))],
        "not of the one that left first"
    );
}

#[test]
fn two_darts_with_the_same_tables_share_one_domain() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30]);
    bench.attach(1, 7);
    let (one, other) = (
        bench.machine.walk(dart(0), stream(0), 8 << 12),
        bench.machine.walk(dart(1), stream(7), 8 << 12),
    );
    assert!(one.is_some());
    assert_eq!(one, other);
    bench.write(0, TCR, 0);
    assert_eq!(bench.machine.walk(dart(1), stream(7), 8 << 12), other, "one stream is left");
    assert!(!bench.is_home(30));
}

#[test]
fn c1_a_stream_that_changes_tables_switches_at_the_invalidate_and_not_before() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30]);
    bench.write(0, TTBR, 1 << 31 | page(180).0);
    assert_eq!(bench.device_read(8, 0), Some(30));
    bench.flush(0, 0);
    assert_eq!(bench.device_read(8, 0), None);
    assert!(bench.is_home(30), "nothing maps it any more");
}

#[test]
fn a_stream_that_is_switched_on_again_without_an_invalidation_reaches_its_pages_at_once() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30, 17]);
    // As Linux suspends and resumes.
    bench.write(0, TCR, 0);
    assert_eq!(bench.device_read(8, 0), None, "a stream that does not translate reaches nothing");
    bench.write(0, TCR, 1 << 7);
    assert_eq!(bench.device_read(8, 0), Some(30));
    assert_eq!(bench.device_read(9, 0), Some(17));
}
