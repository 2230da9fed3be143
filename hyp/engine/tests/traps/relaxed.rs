//! When a trap that is stricter than needed is relaxed, and how often CPUs' TLBs are flushed for
//! that.

use crate::bench::{Bench, page};
use crate::traps::aliased;
use oche_engine::host::CpuAccess;
use oche_engine::{AccessKind, FaultDisposition};
use oche_types::dart::entry::Permission;

/// Flushes stream 0 after the pages at `iovas` are unmapped, and returns how often the engine
/// flushed CPUs' TLBs meanwhile.
fn flushes_to_unmap(bench: &mut Bench, iovas: &[u32]) -> usize {
    iovas.iter().for_each(|iova| bench.set(*iova, None));
    bench.machine.flushes = 0;
    bench.flush(0, 0);
    bench.machine.flushes
}

#[test]
fn a_page_that_loses_its_copies_is_relaxed_with_the_pages_that_move() {
    let mut bench = aliased([Permission::READ_WRITE; 3]);
    bench.map(50, &[40]);
    assert!(bench.device_write(21, 100, 9));
    assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::None);
    assert_eq!(flushes_to_unmap(&mut bench, &[21, 34, 50]), 1);
    assert!(bench.is_home(40));

    // Neither a trap nor a flush is left for the accesses that follow.
    assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::ReadWrite);
    assert_eq!(bench.cpu_load(30, 100), 9);
    bench.cpu_store(30, 101, 10);
    assert_eq!(bench.machine.flushes, 1);
    assert_eq!(bench.device_read(8, 101), Some(10));
}

#[test]
fn a_page_that_devices_still_read_elsewhere_is_relaxed_to_a_trap_of_stores() {
    let mut bench =
        aliased([Permission::READ_WRITE, Permission::READ_WRITE, Permission::READ_ONLY]);
    bench.map(50, &[40]);
    assert!(bench.device_write(21, 100, 9));
    assert_eq!(flushes_to_unmap(&mut bench, &[21, 50]), 1);
    assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::ReadOnly);
    assert_eq!(bench.cpu_load(30, 100), 9);
    bench.cpu_store(30, 101, 10);
    assert_eq!(bench.device_read(34, 101), Some(10));
    assert_eq!(bench.machine.flushes, 1);
}

#[test]
fn a_page_that_still_needs_its_trap_is_not_broken_with_the_pages_that_move() {
    let mut bench = aliased([Permission::READ_WRITE; 3]);
    bench.map(50, &[40]);
    bench.machine.breaks = 0;
    assert_eq!(flushes_to_unmap(&mut bench, &[21, 50]), 1);
    assert_eq!(bench.machine.breaks, 1, "page 40 alone");
    assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::None);
}

#[test]
fn no_flush_is_made_for_a_trap_that_no_access_may_meet() {
    let mut bench = aliased([Permission::READ_WRITE; 3]);
    assert_eq!(flushes_to_unmap(&mut bench, &[21, 34]), 0);
    assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::None);
    assert_eq!(bench.trap(30, AccessKind::Load), FaultDisposition::Retry);
    assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::ReadWrite);
    assert_eq!(bench.machine.flushes, 1);
}

#[test]
fn the_flush_of_a_split_comes_too_early_to_be_shared() {
    let mut bench = aliased([Permission::READ_WRITE; 3]);
    bench.map(48, &[4, 5, 6, 7]);
    assert!(bench.is_home(4));
    assert_eq!(flushes_to_unmap(&mut bench, &[21, 34, 49]), 1);
    assert!(!bench.is_home(4));
    assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::None);
}

#[test]
fn exclusives_are_forgotten_with_a_trap_that_a_batch_relaxes() {
    let mut bench = aliased([Permission::READ_ONLY; 3]);
    bench.map(50, &[40]);
    bench.engine.trap_loads(&mut bench.machine, page(30));
    assert_eq!(flushes_to_unmap(&mut bench, &[21, 34, 50]), 1);
    assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::ReadWrite);
    bench.set(21, Some((page(30), Permission::READ_ONLY)));
    bench.flush(0, 0);
    assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::ReadOnly);
}
