//! Attaching, blocking and invalidating, with their order against memory.

use core::cell::Cell;
use oche_engine::host::{DomainId, InvalidateTimedOut, Iommu};
use oche_types::dart::stream::Members;

use super::bench::{tcr_of, ttbr_of};
use super::{ROOT, dart, stream, taken};

#[test]
fn a_stream_is_attached_only_when_nothing_older_is_used() {
    let (bench, mut darts) = taken(1);
    assert_eq!(darts.attach(dart(0), stream(3), DomainId(0), ROOT), Ok(()));
    assert_eq!(bench.file(0, ttbr_of(stream(3), 0)), 0x8081_0000);
    assert_eq!(bench.file(0, tcr_of(stream(3))), 0x80);
    assert_eq!(bench.with(0, |model| model.stale), 0);
    darts.block(dart(0), stream(3));
    assert_eq!(bench.file(0, ttbr_of(stream(3), 0)), 0);
    assert_eq!(bench.with(0, |model| model.stale), 0);
}

#[test]
fn an_invalidation_reaches_every_dart_of_a_domain_and_waits() {
    let (bench, mut darts) = taken(2);
    let mut members = Members::default();
    members.insert(dart(0), stream(0));
    members.insert(dart(1), stream(1));
    assert_eq!(darts.invalidate(DomainId(0), &members), Ok(()));
    assert_eq!(bench.with(0, |model| model.flushed.last().copied()), Some(1));
    assert_eq!(bench.with(1, |model| model.flushed.last().copied()), Some(2));
    assert_eq!(bench.with(1, |model| model.busy_left.get()), 0, "it waited");
}

#[test]
fn a_busy_bit_that_never_clears_is_an_error_and_no_hang() {
    let (bench, mut darts) = taken(1);
    bench.with(0, |model| model.busy_reads = None);
    let mut members = Members::default();
    members.insert(dart(0), stream(0));
    assert_eq!(darts.invalidate(DomainId(0), &members), Err(InvalidateTimedOut));
    let before = bench.ticks.get();
    assert_eq!(darts.invalidate(DomainId(0), &members), Err(InvalidateTimedOut));
    assert!(bench.ticks.get() - before < 24_000, "it is waited for once");
    bench.with(0, |model| (model.busy_reads, model.busy_left) = (Some(3), Cell::new(0)));
    assert_eq!(darts.invalidate(DomainId(0), &members), Ok(()), "it ended a command");
}

#[test]
fn table_stores_are_visible_to_every_walk_that_follows_an_invalidation() {
    let (bench, mut darts) = taken(2);
    let mut members = Members::default();
    members.insert(dart(0), stream(0));
    members.insert(dart(1), stream(1));
    for entry in 1..4 {
        bench.store_entry(entry);
        assert_eq!(darts.invalidate(DomainId(0), &members), Ok(()));
        assert!(bench.walks_find(entry), "the DART walks an entry from before the store");
    }
}

#[test]
fn tables_are_visible_before_a_register_names_them() {
    let (bench, mut darts) = taken(1);
    bench.store_entry(1);
    assert_eq!(darts.attach(dart(0), stream(3), DomainId(0), ROOT), Ok(()));
    assert!(bench.walks_find(1), "a table was named before its entries were visible");
    bench.store_entry(2);
    bench.with(0, |model| model.file.clear());
    darts.restore(dart(0));
    assert_eq!(bench.file(0, ttbr_of(stream(3), 0)), 0x8081_0000);
    assert!(bench.walks_find(2), "a DART that forgot its tables walks older ones");
}

#[test]
fn what_devices_wrote_is_loaded_after_an_invalidation_an_attach_and_a_block() {
    let (bench, mut darts) = taken(1);
    assert!(bench.loads_are_ordered(), "after it was taken over");
    assert_eq!(darts.attach(dart(0), stream(0), DomainId(0), ROOT), Ok(()));
    assert!(bench.loads_are_ordered(), "after an attach");
    let mut members = Members::default();
    members.insert(dart(0), stream(0));
    assert_eq!(darts.invalidate(DomainId(0), &members), Ok(()));
    assert!(bench.loads_are_ordered(), "after an invalidation");
    darts.block(dart(0), stream(0));
    assert!(bench.loads_are_ordered(), "after a block");
}
