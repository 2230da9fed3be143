//! The rules of placement, one test each, on a machine that forgives everything but wrong bytes.

mod bench;
mod budget;
mod darts;
mod pins;
mod refusals;
mod streams;
mod tables;
mod traps;
mod whole;
mod windows;

use bench::{Bench, dart, page, stream};
use oche_engine::host::CpuAccess;
use oche_engine::pool::RED_ZONE;
use oche_types::dart::entry::Permission;
use oche_types::dart::registers::{ERROR, STREAM_COMMAND, STREAM_SELECT, TCR, TTBR};
use oche_types::event::{Event, Placement, Refusal};

fn refusals(bench: &Bench, wanted: Refusal) -> usize {
    bench.count(|event| matches!(event, Event::Refused { reason, .. } if *reason == wanted))
}

#[test]
fn c7_four_pages_of_one_aligned_frame_are_direct_and_stay_home() {
    let mut bench = Bench::new(32);
    bench.map(8, &[4, 5, 6, 7]);
    for slot in 0..4 {
        assert!(bench.is_home(4 + slot));
        assert_eq!(bench.device_read(8 + slot, 0), Some(4 + slot as u8));
    }
    assert_eq!(bench.count(|event| matches!(event, Event::Moved { .. })), 0);
}

#[test]
fn c1_c2_unrelated_pages_share_a_frame_and_cpus_follow_them() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30, 9, 77, 2]);
    for (slot, number) in [30_u32, 9, 77, 2].into_iter().enumerate() {
        assert_eq!(bench.device_read(8 + slot as u32, 0), Some(number as u8));
        assert!(!bench.is_home(number));
        assert!(bench.device_write(8 + slot as u32, 100, 0xa0 + slot as u8));
        assert_eq!(bench.cpu_load(number, 100), 0xa0 + slot as u8);
        bench.cpu_store(number, 200, 0xc0 + slot as u8);
        assert_eq!(bench.device_read(8 + slot as u32, 200), Some(0xc0 + slot as u8));
    }
}

#[test]
fn c4_an_unmapped_page_is_home_with_its_bytes_and_its_frame_is_free() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30]);
    let free = bench.engine.free_frames();
    assert!(bench.device_write(8, 5, 55));
    bench.unmap(8, 1);
    assert!(bench.is_home(30));
    assert_eq!(bench.machine.home_byte(page(30), 5), 55);
    assert_eq!(bench.engine.free_frames(), free + 1);
    assert_eq!(bench.device_read(8, 0), None);
}

#[test]
fn c1_a_neighbour_fills_an_empty_slot_and_moves_nothing_else() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30]);
    let first = bench.engine.locate(page(30));
    bench.map(9, &[31]);
    assert_eq!(bench.engine.locate(page(30)), first);
    assert_eq!(bench.engine.locate(page(31)).frame(), first.frame());
    bench.unmap(8, 1);
    assert_eq!(bench.device_read(9, 0), Some(31));
    assert_eq!(
        bench.device_read(8, 0),
        Some(RED_ZONE as u8),
        "the slot that was left holds no guest byte"
    );
}

#[test]
fn c5_a_write_into_a_red_zone_is_reported_and_reaches_no_guest_byte() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30]);
    assert!(bench.device_write(10, 17, 1));
    assert!(bench.device_write(10, 18, 1));
    bench.unmap(8, 1);
    let hit = |event: &Event| match event {
        Event::RedZone { at, offset: 17, bytes: 2 } => at.iova.0 == 10,
        _ => false,
    };
    assert_eq!(bench.count(hit), 1);
    let events = &bench.machine.events;
    let at = events.iter().position(hit).expect("just counted");
    let around = |index: usize| RED_ZONE.to_le_bytes()[(17 + index) % 8];
    let expected: [u8; 16] =
        core::array::from_fn(|index| if index < 2 { 1 } else { around(index) });
    let Some(Event::Data { words }) = events.get(at + 1) else {
        panic!("no bytes behind the report")
    };
    assert_eq!(words.map(u64::to_le_bytes).concat(), expected);
    bench.map(8, &[30, 31, 32, 33]);
    assert_eq!(bench.device_read(10, 17), Some(0), "the repaired frame carries nothing over");
}

#[test]
fn c5_a_red_zone_is_checked_when_it_ends() {
    let hits = |bench: &Bench, iova: u32| {
        bench.count(|event| matches!(event, Event::RedZone { at, .. } if at.iova.0 == iova))
    };
    let mut bench = Bench::new(32);
    bench.map(8, &[30, 31]);
    assert!(bench.device_write(10, 17, 1));
    assert!(bench.device_write(11, 17, 1));
    bench.unmap(9, 1);
    assert!(bench.device_write(9, 17, 1));
    assert_eq!(hits(&bench, 10), 0, "devices still reach it");
    bench.map(10, &[32]);
    assert_eq!(hits(&bench, 10), 1, "its slot was filled");
    bench.unmap(10, 1);
    bench.unmap(8, 1);
    assert_eq!([9, 10, 11].map(|iova| hits(&bench, iova)), [1, 1, 1], "its granule was emptied");
}

#[test]
fn c3_a_stray_write_on_its_way_lands_before_a_page_moves_into_the_slot() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30, 31]);
    bench.machine.during_drain = Some(bench::Machine::late_stray_write);
    bench.map(10, &[32]);
    assert!(bench.machine.during_drain.is_none(), "nothing waited for it");
    let hit = |event: &Event| match event {
        Event::RedZone { at, offset: 41, bytes: 1 } => at.iova.0 == 10,
        _ => false,
    };
    assert_eq!(bench.count(hit), 1);
    assert_eq!(bench.cpu_load(32, 41), 0, "it reached a page of the guest");
}

#[test]
fn c2_a_split_direct_granule_loses_no_write_of_the_device() {
    let mut bench = Bench::new(32);
    bench.map(8, &[4, 5, 6, 7]);
    assert!(bench.device_write(9, 40, 1));
    // By then the pages have been copied and the hardware entry points at the copy. A write that
    // was translated before still lands in the old frame.
    bench.machine.during_drain = Some(bench::Machine::late_home_write);
    bench.unmap(8, 1);
    assert!(bench.is_home(4));
    assert_eq!(bench.device_read(9, 40), Some(1));
    assert_eq!(bench.cpu_load(5, 41), 0xee);
    assert_eq!(bench.device_read(9, 41), Some(0xee));
    assert_eq!(bench.count(|event| matches!(event, Event::LiveMove { merged_bytes: 1, .. })), 1);
}

#[test]
fn a_page_gets_a_new_permission_in_the_flush_that_splits_its_granule() {
    let mut bench = Bench::new(32);
    bench.map(8, &[4, 5, 6, 7]);
    bench.map(20, &[4, 5, 6, 7]);
    // Page 5 stays at home for IOVA 21, so the split makes its slot at IOVA 9 a bounce page.
    bench.set(8, None);
    bench.set(9, Some((page(5), Permission { read: true, write: false })));
    bench.flush(0, 0);
    assert_ne!(bench.device_read(8, 0), Some(4));
    assert_eq!(bench.device_read(9, 0), Some(5));
    assert!(bench.device_write(21, 40, 1));
    bench.flush(0, 0);
    assert_eq!(bench.device_read(9, 40), Some(1));
    assert!(bench.is_home(5));
}

#[test]
fn a_page_gets_a_new_permission_in_the_flush_that_migrates_its_granule() {
    let mut bench = Bench::new(32);
    bench.machine.has_windows = true;
    let read_only = Permission { read: true, write: false };
    bench.set(8, Some((page(4), read_only)));
    bench.set(9, Some((page(5), read_only)));
    bench.flush(0, 0);
    bench.map(20, &[4, 5, 6, 7]);
    // The new neighbour does not fit, and page 5 stays at home for IOVA 21.
    bench.set(9, Some((page(5), Permission::READ_WRITE)));
    bench.set(10, Some((page(30), Permission::READ_WRITE)));
    bench.flush(0, 0);
    assert_eq!(bench.count(|event| matches!(event, Event::LiveMove { .. })), 1);
    assert!(bench.device_write(9, 40, 1));
    assert_eq!(bench.cpu_load(5, 40), 1);
    assert_eq!(bench.device_read(10, 0), Some(30));
}

#[test]
fn c2_an_alias_gets_a_bounce_page_and_what_the_device_wrote_there_is_merged_at_unmap() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30]);
    bench.map(21, &[30]);
    assert_eq!(
        bench.count(|event| matches!(event, Event::Map { placement: Placement::Bounce, .. })),
        1
    );
    assert_eq!(bench.device_read(21, 0), Some(30));
    assert!(bench.device_write(21, 64, 6));
    assert!(bench.device_write(8, 65, 7));
    bench.cpu_store(30, 66, 8);
    bench.unmap(21, 1);
    for (offset, value) in [(64, 6), (65, 7), (66, 8)] {
        assert_eq!(bench.cpu_load(30, offset), value);
    }
}

#[test]
fn when_the_first_mapping_goes_the_bounce_page_becomes_the_page() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30]);
    bench.map(21, &[30]);
    assert!(bench.device_write(21, 64, 6));
    bench.cpu_store(30, 66, 8);
    bench.unmap(8, 1);
    assert_eq!(bench.cpu_load(30, 64), 6);
    assert_eq!(bench.device_read(21, 66), Some(8));
    assert!(bench.device_write(21, 67, 9));
    assert_eq!(bench.cpu_load(30, 67), 9, "one mapping is left: CPUs and device share it");
    bench.unmap(21, 1);
    assert!(bench.is_home(30));
    for (offset, value) in [(64, 6), (66, 8), (67, 9)] {
        assert_eq!(bench.machine.home_byte(page(30), offset), value);
    }
}

#[test]
fn c4_mappings_of_one_page_that_all_go_at_once_leave_it_home() {
    let mut bench = Bench::new(32);
    let free = bench.engine.free_frames();
    for iova in [8, 21, 34] {
        bench.map(iova, &[30]);
    }
    assert!(bench.device_write(34, 64, 6));
    [8, 21, 34].into_iter().for_each(|iova| bench.set(iova, None));
    bench.flush(0, 0);
    assert!(bench.is_home(30));
    assert_eq!(bench.machine.home_byte(page(30), 64), 6);
    // The shadow's leaf table stays; the page of twins may.
    assert!(bench.engine.free_frames() + 2 >= free);
}

#[test]
fn a_page_that_is_direct_twice_needs_no_copy() {
    let mut bench = Bench::new(32);
    bench.map(8, &[4, 5, 6, 7]);
    bench.map(16, &[4, 5, 6, 7]);
    assert!(bench.device_write(17, 3, 33));
    assert_eq!(bench.device_read(9, 3), Some(33));
    bench.unmap(8, 1);
    assert!(bench.device_write(17, 4, 44));
    bench.unmap(16, 4);
    assert_eq!(bench.cpu_load(5, 3), 33);
    assert_eq!(bench.cpu_load(5, 4), 44);
    assert_eq!(bench.device_read(9, 4), Some(44));
}

#[test]
fn c3_permission_is_the_union_of_the_granule_and_membership_is_exact() {
    let mut bench = Bench::new(32);
    bench.set(8, Some((page(30), Permission::READ_ONLY)));
    bench.flush(0, 0);
    assert!(!bench.device_write(8, 0, 1));
    bench.set(9, Some((page(31), Permission::WRITE_ONLY)));
    bench.flush(0, 0);
    assert!(bench.device_write(9, 0, 1));
    assert_eq!(bench.device_read(8, 0), Some(30));
    bench.unmap(9, 1);
    assert!(!bench.device_write(8, 0, 1), "the right went with the page that had it");
}

#[test]
fn c7_an_idle_table_is_write_protected_and_the_first_store_unsyncs_it() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30]);
    for _ in 0..400 {
        bench.flush(0, 0);
    }
    let closed = |event: &Event| matches!(event, Event::Table { is_unsync: false, .. });
    assert_eq!(bench.count(closed), 2, "the first level and its leaf table");
    bench.machine.events.clear();
    bench.map(9, &[31]);
    assert_eq!(bench.count(|event| matches!(event, Event::Table { is_unsync: true, .. })), 2);
    assert_eq!(bench.device_read(9, 0), Some(31));
}

#[test]
fn c1_an_entry_that_a_device_writes_into_a_write_protected_table_counts() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30]);
    for _ in 0..400 {
        bench.flush(0, 0);
    }
    // The first level, which has been quiet, becomes a target of DMA: page 192 of the guest's.
    bench.map_below(9, 192);
    let entry = bench.machine.first_level_entry();
    for (offset, byte) in entry.to_le_bytes().into_iter().enumerate() {
        assert!(bench.device_write(9, 8 + offset as u64, byte));
    }
    bench.flush(0, 0);
    assert_eq!(bench.device_read(512 + 8, 0), Some(30), "what the device wrote was not looked at");
}

#[test]
fn c6_more_than_a_slice_of_work_keeps_the_dart_busy_until_it_is_polled_to_the_end() {
    let mut bench = Bench::new(32);
    bench.map(8, &[4]);
    // Forty leaf tables that are all one page: 40 times 512 slots, all of them aliases or refused.
    for index in 1..40 {
        let table = bench.machine.first_level_entry();
        bench.machine.set_first_level_entry(index, table);
    }
    bench.write(0, STREAM_SELECT, 1);
    for iova in 100..500 {
        bench.set(iova, Some((page(iova & 127), Permission::READ_ONLY)));
    }
    bench.write(0, STREAM_COMMAND, 1 << 20);
    let mut polls = 0;
    while bench.read(0, STREAM_COMMAND) & 4 != 0 {
        polls += 1;
        assert!(polls < 200, "it ends");
    }
    assert!(polls > 0, "one trap did it all");
}

#[test]
fn c6_a_flush_ends_although_another_cpu_goes_on_changing_the_table() {
    let mut bench = Bench::new(512);
    bench.map(8, &[4]);
    bench.machine.another_cpu_scribbles();
    bench.write(0, STREAM_SELECT, 1);
    bench.write(0, STREAM_COMMAND, 1 << 20);
    assert_eq!(
        bench.read(0, STREAM_COMMAND) & 4,
        0,
        "what came after the command is for the next one"
    );
    assert!(bench.machine.during_drain.take().is_some(), "it went on to the end");
    bench.flush(0, 0);
    for iova in (0..512).step_by(37) {
        let wanted = bench.machine.scribbled(iova);
        assert_eq!(bench.device_read(iova, 0), wanted.map(|number| number as u8), "{iova}");
    }
}

#[test]
fn hardware_that_does_not_answer_is_cut_off() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30]);
    bench.map(12, &[31]);
    bench.machine.is_stuck = true;
    bench.unmap(8, 1);
    assert_eq!(bench.count(|event| matches!(event, Event::InvalidateTimedOut { .. })), 1);
    assert_eq!(bench.device_read(8, 0), None);
    assert_eq!(
        bench.device_read(12, 0),
        None,
        "the stream goes on, with whatever its hardware has cached"
    );
}

/// A DART that cannot be reached, or ends no command: it is not known what it has cached, until it
/// has done what it was asked.
#[test]
fn c3_a_frame_that_a_device_may_still_reach_is_put_to_no_other_use() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30]);
    let (frame, _) = bench.machine.walk(dart(0), stream(0), 8 << 12).expect("it is mapped");
    let free = bench.engine.free_frames();
    bench.machine.released.clear();
    (bench.machine.is_stuck, bench.machine.is_unconfirmed) = (true, true);
    bench.unmap(8, 1);
    assert!(bench.is_home(30), "the guest has its page back");
    bench.write(0, TCR, 0);
    assert_eq!((bench.engine.free_frames(), bench.machine.released.len()), (free, 0));
    // The device goes on writing.
    bench.machine.direct_store(frame, 7, 0xee);
    bench.attach(1, 0);
    (0..12).for_each(|index| bench.map(64 + 4 * index, &[40 + index]));
    assert!(!bench.machine.released.contains(&frame.frame()));

    (bench.machine.is_stuck, bench.machine.is_unconfirmed) = (false, false);
    (0..10).for_each(|_| bench.flush(1, 0));
    assert!(bench.machine.released.contains(&frame.frame()));
    // Whatever granule it is used for next, what the device wrote is found by none.
    (0..12).for_each(|index| bench.map(164 + 4 * index, &[60 + index]));
    (0..12).for_each(|index| bench.unmap(164 + 4 * index, 1));
    assert_eq!(bench.count(|event| matches!(event, Event::RedZone { .. })), 0);
}

/// What the pool refuses once is not asked for again.
#[test]
fn batch_has_all_the_frames_that_come_back() {
    const GRANULES: u32 = 20;
    let mut bench = Bench::new(26);
    let map = |bench: &mut Bench, first: u32| {
        for index in 0..GRANULES {
            bench.set(first + 4 * index, Some((page(30 + index), Permission::READ_WRITE)));
        }
        bench.flush(0, 0);
    };
    map(&mut bench, 8);
    bench.machine.is_unconfirmed = true;
    bench.unmap(8, 4 * GRANULES);
    assert!(bench.engine.free_frames() < GRANULES as usize - 8, "the frames are put aside");
    bench.machine.is_unconfirmed = false;
    map(&mut bench, 108);
    assert_eq!(bench.count(|event| matches!(event, Event::Refused { .. })), 0);
    for index in 0..GRANULES {
        assert!(bench.device_write(108 + 4 * index, 3, 7), "granule {index}");
    }
}

#[test]
fn without_a_trace_everything_but_the_trace_is_the_same() {
    let run = |is_deaf| {
        let mut bench = Bench::new(24);
        bench.machine.is_deaf = is_deaf;
        let (mut state, mut seen) = (0x2545_f491_4f6c_dd1d_u64, Vec::new());
        let mut next = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below) as u32
        };
        for _ in 0..400 {
            let (iova, number, offset) = (8 + next(40), next(24), next(4096) as usize);
            match next(6) {
                0 => bench.set(iova, None),
                1 => bench.set(iova, Some((page(number), Permission::READ_ONLY))),
                2 => bench.set(iova, Some((page(number), Permission::READ_WRITE))),
                3 if bench.machine.cpu_access(page(number)) == CpuAccess::ReadWrite => {
                    bench.cpu_store(number, offset, offset as u8);
                }
                4 => seen.push(u32::from(bench.cpu_load(number, offset))),
                _ => seen.push(u32::from(bench.device_write(iova, offset as u64, iova as u8))),
            }
            if next(4) == 0 {
                bench.flush(0, 0);
                seen.extend(
                    [ERROR, STREAM_SELECT, STREAM_COMMAND, TCR, TTBR]
                        .map(|offset| bench.read(0, offset)),
                );
            }
        }
        assert_eq!(bench.machine.events.is_empty(), is_deaf);
        (seen, bench.machine.state())
    };
    assert_eq!(run(true), run(false));
}

#[test]
#[should_panic(expected = "invariant: a table has 512 entries")]
fn a_machine_that_lies_about_a_table_stops_the_engine_by_name() {
    let mut bench = Bench::new(32);
    bench.machine.lie = Some(512);
    bench.flush(0, 0);
}
