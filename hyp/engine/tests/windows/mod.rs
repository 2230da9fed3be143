//! The rules of windows, one test each: hardware whose entries can be limited to a run of a frame's
//! slots.

use crate::bench::{Bench, Machine, page};
use oche_types::addr::PAGE_WORDS;
use oche_types::dart::entry::Permission;
use oche_types::event::{Event, Placement, Refusal};

fn windowed(frames: u32) -> Bench {
    let mut bench = Bench::new(frames);
    bench.machine.has_windows = true;
    bench
}

/// Maps pages that devices only read from page `iova` on.
fn map_read_only(bench: &mut Bench, iova: u32, pages: &[u32]) {
    for (index, number) in pages.iter().enumerate() {
        bench.set(iova + index as u32, Some((page(*number), Permission::READ_ONLY)));
    }
    bench.flush(0, 0);
}

fn moves(bench: &Bench) -> usize {
    bench.count(|event| matches!(event, Event::Moved { .. }))
}

fn direct(bench: &Bench) -> usize {
    bench.count(|event| matches!(event, Event::Map { placement: Placement::Direct, .. }))
}

#[test]
fn a_run_at_home_is_direct_and_the_rest_of_its_frame_faults() {
    let mut bench = windowed(32);
    map_read_only(&mut bench, 9, &[5, 6]);
    assert_eq!((direct(&bench), moves(&bench)), (2, 0));
    let seen = [8, 9, 10, 11].map(|iova| bench.device_read(iova, 0));
    assert_eq!(seen, [None, Some(5), Some(6), None]);
}

#[test]
fn pages_of_one_frame_with_a_hole_between_them_are_relocated() {
    let mut bench = windowed(32);
    bench.set(8, Some((page(4), Permission::READ_ONLY)));
    bench.set(10, Some((page(6), Permission::READ_ONLY)));
    bench.flush(0, 0);
    assert_eq!(direct(&bench), 0);
    assert_ne!(bench.device_read(9, 0), Some(5));
}

#[test]
fn the_ends_of_a_relocated_granule_fault_where_nothing_is_mapped() {
    let mut bench = windowed(32);
    bench.map(9, &[30]);
    assert!(!bench.is_home(30));
    let seen = [8, 9, 10, 11].map(|iova| bench.device_read(iova, 0));
    assert_eq!(seen, [None, Some(30), None, None]);
    assert!(!bench.device_write(11, 0, 1));
    bench.map(11, &[31]);
    assert_eq!(bench.device_read(11, 0), Some(31));
    assert!(bench.device_write(10, 3, 1), "between them is a red zone");
    bench.unmap(11, 1);
    assert_eq!(bench.device_read(11, 0), None);
    assert_eq!(
        bench.count(|event| matches!(event, Event::RedZone { at, .. } if at.iova.0 == 10)),
        1
    );
}

#[test]
fn c5_only_what_devices_reach_is_checked_for_stray_writes() {
    // In pages, so that a table entry more or less does not count.
    let work = |bench: &mut Bench, change: fn(&mut Bench)| {
        let before = bench.machine.words.get();
        change(bench);
        (bench.machine.words.get() - before) / PAGE_WORDS
    };
    let [mut all, mut limited] = [Bench::new(32), windowed(32)];
    for bench in [&mut all, &mut limited] {
        bench.map(9, &[30]);
        let fresh = work(bench, |bench| bench.map(13, &[32]));
        let zone = work(bench, |bench| bench.map(14, &[34]));
        assert_eq!(zone - fresh, usize::from(!bench.machine.has_windows), "the slot of IOVA 14");
    }
    let [all, limited] =
        [all, limited].map(|mut bench| work(&mut bench, |bench| bench.unmap(9, 1)));
    assert_eq!(all - limited, 3);
}

#[test]
fn the_tail_of_a_buffer_stays_home_and_a_single_page_that_devices_write_does_not() {
    let mut bench = windowed(32);
    bench.map(8, &[4, 5, 6, 7, 8]);
    assert_eq!((direct(&bench), moves(&bench)), (5, 0));
    assert!(bench.device_write(12, 1, 7));
    assert_eq!(bench.cpu_load(8, 1), 7);
    assert_eq!(bench.device_read(13, 0), None);
    bench.map(20, &[12]);
    assert!(
        !bench.is_home(12),
        "a neighbour is likely, and would have it move while it is written"
    );
}

#[test]
fn a_neighbour_that_fits_widens_the_window_and_moves_nothing() {
    let mut bench = windowed(32);
    map_read_only(&mut bench, 9, &[5]);
    map_read_only(&mut bench, 10, &[6]);
    map_read_only(&mut bench, 8, &[4]);
    assert_eq!((direct(&bench), moves(&bench)), (3, 0));
    assert_eq!(
        [8, 9, 10, 11].map(|iova| bench.device_read(iova, 0)),
        [Some(4), Some(5), Some(6), None]
    );
}

#[test]
fn a_neighbour_that_does_not_fit_has_the_run_move_and_no_write_of_the_device_is_lost() {
    let mut bench = windowed(32);
    bench.map(8, &[4, 5, 6]);
    assert!(bench.device_write(9, 40, 1));
    bench.machine.during_drain = Some(Machine::late_home_write);
    bench.map(11, &[30]);
    assert_eq!(bench.count(|event| matches!(event, Event::LiveMove { merged_bytes: 1, .. })), 1);
    assert_eq!([8, 9, 10, 11].map(|iova| bench.device_read(iova, 0)), [4, 5, 6, 30].map(Some));
    assert_eq!((bench.device_read(9, 40), bench.device_read(9, 41)), (Some(1), Some(0xee)));
    assert_eq!((bench.cpu_load(5, 40), bench.cpu_load(5, 41)), (1, 0xee));
    bench.unmap(8, 4);
    assert!([4, 5, 6, 30].into_iter().all(|number| bench.is_home(number)));
}

#[test]
fn a_neighbour_for_which_there_is_no_room_is_refused_and_the_run_goes_on() {
    // The two tables take one frame each.
    let mut bench = windowed(2);
    bench.map(8, &[4, 5, 6]);
    bench.map(11, &[30]);
    assert_eq!(
        bench.count(|event| matches!(event, Event::Refused { reason: Refusal::PoolExhausted, .. })),
        1
    );
    assert_eq!([8, 9, 10].map(|iova| bench.device_read(iova, 0)), [4, 5, 6].map(Some));
    assert_eq!(bench.device_read(11, 0), None);
    assert!(bench.is_home(5));
}

#[test]
fn a_run_that_cannot_split_is_refused_and_its_empty_slots_are_not() {
    // The two tables take one frame each.
    let mut bench = windowed(2);
    bench.map(8, &[4, 5, 6]);
    bench.machine.events.clear();
    bench.unmap(9, 1);
    let refused = |event: &Event| match event {
        Event::Refused { at, page, reason: Refusal::PoolExhausted } => Some((at.iova.0, *page)),
        _ => None,
    };
    let refused: Vec<_> = bench.machine.events.iter().filter_map(refused).collect();
    assert_eq!(refused, [(8, page(4)), (10, page(6))], "each page once");
    assert_eq!([8, 9, 10, 11].map(|iova| bench.device_read(iova, 0)), [None; 4]);
}

#[test]
fn a_run_that_gets_the_frame_that_the_same_flush_frees_is_not_refused() {
    // Two for the tables, and one that the second granule has.
    let mut bench = windowed(3);
    bench.map(8, &[4, 5, 6]);
    bench.map(16, &[40, 50]);
    bench.machine.events.clear();
    [9, 16, 17].into_iter().for_each(|iova| bench.set(iova, None));
    bench.flush(0, 0);
    assert_eq!(bench.count(|event| matches!(event, Event::Refused { .. })), 0);
    let reached = [8, 10].map(|iova| bench.device_read(iova, 0).is_some());
    assert_eq!(reached, [true; 2]);
}

#[test]
fn a_page_that_goes_from_an_end_narrows_the_window_and_one_from_the_middle_splits() {
    let mut bench = windowed(32);
    bench.map(8, &[4, 5, 6, 7]);
    bench.unmap(8, 1);
    assert_eq!(moves(&bench), 0);
    assert_eq!(
        [8, 9, 10, 11].map(|iova| bench.device_read(iova, 0)),
        [None, Some(5), Some(6), Some(7)]
    );
    assert!(bench.device_write(9, 3, 33));
    bench.unmap(10, 1);
    assert_eq!(bench.count(|event| matches!(event, Event::LiveMove { .. })), 1);
    assert_ne!(bench.device_read(10, 0), Some(6));
    assert_eq!((bench.device_read(9, 3), bench.cpu_load(5, 3)), (Some(33), 33));
    bench.unmap(8, 4);
    assert!([5, 7].into_iter().all(|number| bench.is_home(number)));
}

#[test]
fn a_page_that_moves_elsewhere_in_the_same_batch_is_no_fitting_neighbour() {
    let mut bench = windowed(32);
    map_read_only(&mut bench, 12, &[4]);
    // Granule 2 is looked at first: page 5 moves there, and cannot stay home for granule 3.
    bench.set(8, Some((page(5), Permission::READ_WRITE)));
    bench.set(13, Some((page(5), Permission::READ_ONLY)));
    bench.flush(0, 0);
    assert_eq!(bench.count(|event| matches!(event, Event::Refused { .. })), 0);
    for iova in [8, 13] {
        assert_eq!(bench.device_read(iova, 0), Some(5));
    }
    assert_eq!(bench.device_read(12, 0), Some(4));
}

#[test]
fn a_page_that_is_not_guest_memory_is_refused_and_its_neighbour_is_mapped() {
    let mut bench = windowed(32);
    // Page 0x101 would be in slot 1 of its frame.
    bench.set(9, Some((oche_types::addr::Gfn(0x101), Permission::READ_WRITE)));
    bench.set(10, Some((page(30), Permission::READ_WRITE)));
    bench.flush(0, 0);
    let refused =
        |event: &Event| matches!(event, Event::Refused { reason: Refusal::NotGuestMemory, .. });
    assert_eq!(bench.count(refused), 1);
    assert_eq!(bench.device_read(10, 0), Some(30));
}

#[test]
fn a_hole_in_the_window_is_filled_only_after_a_drain() {
    let mut bench = windowed(32);
    bench.map(8, &[30]);
    bench.map(10, &[32]);
    bench.machine.during_drain = Some(Machine::late_red_zone_write);
    bench.map(9, &[31]);
    assert!(bench.machine.during_drain.is_none(), "nothing was invalidated");
    assert_eq!((bench.device_read(9, 41), bench.cpu_load(31, 41)), (Some(0), 0));
    assert_eq!(
        bench.count(|event| matches!(event, Event::RedZone { at, .. } if at.iova.0 == 9)),
        1
    );
}

#[test]
fn a_slot_beside_the_window_costs_one_invalidation() {
    let mut bench = windowed(32);
    bench.map(8, &[30]);
    let before = bench.machine.invalidations;
    bench.map(9, &[31]);
    assert_eq!(bench.machine.invalidations, before + 1);
    assert_eq!(bench.device_read(9, 0), Some(31));
}
