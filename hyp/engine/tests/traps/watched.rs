//! The rules of watches: which accesses are reported, with what, and that CPUs and devices do not
//! notice.

use crate::bench::{Bench, FIRST_TABLE, dart, page, stream};
use oche_engine::host::{CpuAccess, Memory as _};
use oche_engine::{AccessKind, FaultDisposition, WatchedAccess};
use oche_types::dart::entry::{Permission, encode_leaf, encode_table};
use oche_types::dart::registers::{TCR, TTBR};
use oche_types::dart::stream::StreamSet;
use oche_types::event::{Event, WatchHow};
use oche_types::selection::Selection;

/// Every stream's IOVAs from `first` to `last`.
fn range(first: u64, last: u64) -> Selection {
    Selection { first, last, ..Selection::ALL }
}

fn watch(bench: &mut Bench, ranges: &[Selection]) {
    bench.engine.watch(&mut bench.machine, ranges);
}

/// A store of eight bytes as a trap carries it out; whether it trapped.
fn store(bench: &mut Bench, index: u32, offset: usize, value: u64) -> bool {
    if bench.machine.cpu_access(page(index)) == CpuAccess::ReadWrite {
        return false;
    }
    if bench.trap(index, AccessKind::Store) == FaultDisposition::Retry {
        return false;
    }
    bench.engine.store_trapped(&mut bench.machine, page(index), offset, 8, value);
    let how = WatchHow::Exact;
    let watched = WatchedAccess { page: page(index), offset, bytes: 8, is_write: true, how };
    bench.engine.report_watched(&mut bench.machine, &watched, |_| value);
    true
}

/// IOVA in bytes and value of every access reported since the last call.
fn reported(bench: &mut Bench) -> Vec<(u64, u64)> {
    let events = core::mem::take(&mut bench.machine.events);
    let pairs = events.windows(2).filter_map(|pair| match (pair[0], pair[1]) {
        (Event::Watch { at, offset, .. }, Event::Data { words: [value, _] }) => {
            Some((at.iova.iova() + u64::from(offset), value))
        }
        _ => None,
    });
    pairs.collect()
}

#[test]
fn an_access_is_reported_only_where_it_overlaps_the_watched_bytes() {
    let mut bench = Bench::new(32);
    bench.set(8, Some((page(30), Permission::READ_WRITE)));
    bench.flush(0, 0);
    watch(&mut bench, &[range(0x8010, 0x801b)]);
    assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::None);
    for offset in [8, 9, 16, 27, 28] {
        assert!(store(&mut bench, 30, offset, 0x1234_5678_0000_0000 | offset as u64));
        let value = 0x1234_5678_0000_0000 | offset as u64;
        let expected = if [9, 16, 27].contains(&offset) {
            vec![(0x8000 + offset as u64, value)]
        } else {
            vec![]
        };
        assert_eq!(reported(&mut bench), expected, "{offset}");
    }
    assert_eq!(bench.device_read(8, 16), Some(16), "and the device sees what was stored");
    assert!(bench.device_write(8, 17, 9));
    assert_eq!(bench.cpu_load(30, 17), 9);
}

#[test]
fn a_watch_waits_for_pages_and_lets_them_go() {
    let mut bench = Bench::new(32);
    watch(&mut bench, &[range(0x8000, 0x8fff)]);
    assert!(!store(&mut bench, 30, 0, 1), "nothing is mapped there");
    // Direct: nothing moves, and still it is trapped.
    for slot in 0..4 {
        bench.set(8 + slot, Some((page(32 + slot), Permission::READ_WRITE)));
    }
    bench.flush(0, 0);
    assert!(bench.is_home(32));
    assert!(store(&mut bench, 32, 0, 1));
    assert!(!store(&mut bench, 33, 0, 1), "a neighbour is not watched");
    assert_eq!(reported(&mut bench), [(0x8000, 1)]);
    bench.unmap(8, 4);
    assert!(!store(&mut bench, 32, 0, 2), "the first access after the unmap opens the page");
    assert_eq!(bench.machine.cpu_access(page(32)), CpuAccess::ReadWrite);
    bench.set(8, Some((page(40), Permission::READ_ONLY)));
    bench.flush(0, 0);
    assert!(store(&mut bench, 40, 8, 3));
    assert_eq!(reported(&mut bench), [(0x8008, 3)]);
    watch(&mut bench, &[]);
    assert!(!store(&mut bench, 40, 8, 4));
    assert_eq!(bench.machine.cpu_access(page(40)), CpuAccess::ReadWrite);
}

#[test]
fn a_page_at_several_watched_places_is_reported_at_each_and_all_copies_stay_one_memory() {
    let mut bench = Bench::new(32);
    for iova in [8, 21, 34] {
        bench.set(iova, Some((page(30), Permission::READ_ONLY)));
        bench.flush(0, 0);
    }
    assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::ReadOnly);
    watch(&mut bench, &[range(0x1_5000, 0x1_5fff), range(0x2_2000, 0x2_2fff)]);
    assert!(store(&mut bench, 30, 0x20, 77));
    let mut places = reported(&mut bench);
    places.sort_unstable();
    assert_eq!(places, [(0x1_5020, 77), (0x2_2020, 77)]);
    for iova in [8, 21, 34] {
        assert_eq!(bench.device_read(iova, 0x20), Some(77));
    }
    watch(&mut bench, &[]);
    assert_eq!(bench.cpu_load(30, 0x20), 77);
    bench.cpu_store(30, 0x20, 78);
    assert_eq!(
        bench.machine.cpu_access(page(30)),
        CpuAccess::ReadOnly,
        "the copies' own trap is left"
    );
    assert_eq!(bench.device_read(34, 0x20), Some(78));
}

#[test]
fn a_fetch_from_a_watched_page_ends_its_watch_and_refuses_no_mapping() {
    let mut bench = Bench::new(32);
    for iova in [8, 21] {
        bench.set(iova, Some((page(30), Permission::READ_ONLY)));
        bench.flush(0, 0);
    }
    watch(&mut bench, &[range(0x8000, 0x8fff)]);
    bench.machine.events.clear();
    assert_eq!(bench.trap(30, AccessKind::Fetch), FaultDisposition::Retry);
    assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::ReadOnly, "as without a watch");
    assert_eq!(
        bench.count(|event| matches!(event, Event::Watch { how: WatchHow::GivenUp, .. })),
        1
    );
    assert_eq!(
        bench.count(|event| matches!(event, Event::Refused { .. } | Event::Unmap { .. })),
        0
    );
    assert_eq!(bench.device_read(21, 0), Some(30));
    bench.flush(0, 0);
    assert_eq!(
        bench.machine.cpu_access(page(30)),
        CpuAccess::ReadOnly,
        "a flush that brings nothing changes nothing"
    );
    watch(&mut bench, &[range(0x8000, 0x8fff)]);
    assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::None, "watched anew");
}

#[test]
fn what_is_mapped_is_watched_when_the_stream_that_is_meant_comes_to_the_tables() {
    let mut bench = Bench::new(32);
    bench.set(8, Some((page(30), Permission::READ_WRITE)));
    bench.flush(0, 0);
    let mut other = range(0, 0xffff);
    other.streams = [StreamSet(0); 32];
    other.streams[dart(0).index()].insert(stream(5));
    watch(&mut bench, &[other]);
    assert!(!store(&mut bench, 30, 0, 1));
    bench.attach(0, 5);
    assert!(store(&mut bench, 30, 0, 1));
    assert_eq!(reported(&mut bench), [(0x8000, 1)]);
}

#[test]
fn other_streams_and_what_lies_beyond_four_mebibytes_are_not_watched() {
    let mut bench = Bench::new(32);
    bench.set(8, Some((page(30), Permission::READ_WRITE)));
    bench.flush(0, 0);
    let mut other = range(0, 0xffff);
    other.streams = [StreamSet(0); 32];
    other.streams[dart(0).index()].insert(stream(5));
    watch(&mut bench, &[other]);
    assert!(!store(&mut bench, 30, 0, 1));
    watch(&mut bench, &[range(0, u64::MAX)]);
    assert!(store(&mut bench, 30, 0, 1));
    bench.set(1024, Some((page(31), Permission::READ_WRITE)));
    bench.flush(0, 0);
    assert!(!store(&mut bench, 31, 0, 1));
    assert_eq!(reported(&mut bench), [(0x8000, 1)]);
}

#[test]
fn without_memory_for_its_entry_a_page_is_not_watched_and_that_is_reported() {
    let mut bench = Bench::new(32);
    for slot in 0..4 {
        bench.set(8 + slot, Some((page(32 + slot), Permission::READ_WRITE)));
    }
    bench.machine.unsplittable.push(page(33));
    bench.flush(0, 0);
    watch(&mut bench, &[range(0x8000, 0xbfff)]);
    assert_eq!(bench.machine.cpu_access(page(33)), CpuAccess::ReadWrite);
    assert_eq!(
        bench.count(|event| matches!(event, Event::Watch { how: WatchHow::GivenUp, .. })),
        1
    );
    assert!(store(&mut bench, 32, 0, 1));
}

#[test]
fn c6_a_watch_of_much_that_is_mapped_is_set_in_several_traps() {
    let mut bench = Bench::new(128);
    // Four pages with as many mappings as granules, 64, and one page behind them. Devices read them
    // only: of copies that devices write, there may not be as many.
    for iova in 0..256 {
        bench.set(iova, Some((page(32 + ((iova % 4) ^ 3)), Permission::READ_ONLY)));
    }
    bench.set(300, Some((page(60), Permission::READ_WRITE)));
    bench.flush(0, 0);
    watch(&mut bench, &[range(0, 0xff_ffff)]);
    assert!(bench.engine.has_pending_watches());
    assert_eq!(bench.machine.cpu_access(page(60)), CpuAccess::ReadWrite);
    bench.engine.continue_watch_pass(&mut bench.machine);

    assert!(!bench.engine.has_pending_watches());
    assert_eq!(bench.machine.cpu_access(page(60)), CpuAccess::None);
    // A watch of nothing ends at once, whatever was under way.
    watch(&mut bench, &[range(0, 0xff_ffff)]);
    watch(&mut bench, &[]);
    assert!(!bench.engine.has_pending_watches());
}

#[test]
fn each_watch_is_set_in_each_space() {
    let mut bench = Bench::new(32);
    bench.set(8, Some((page(30), Permission::READ_WRITE)));
    bench.flush(0, 0);
    // Another domain, with tables of its own, in which another page is mapped.
    let [root, leaves] = [FIRST_TABLE + 8, FIRST_TABLE + 9].map(page);
    bench.machine.store(root.home(), 0, encode_table(leaves));
    bench.machine.store(leaves.home(), 16, encode_leaf(page(31), Permission::READ_WRITE));
    bench.write(0, TTBR + 16, 1 << 31 | root.0);
    bench.write(0, TCR + 4, 1 << 7);
    bench.flush(0, 1);
    watch(
        &mut bench,
        &[range(0x20_0000, 0x20_ffff), range(0x8000, 0x8fff), range(0x1_0000, 0x1_0fff)],
    );
    for number in [30, 31] {
        assert_eq!(bench.machine.cpu_access(page(number)), CpuAccess::None, "{number}");
    }
}
