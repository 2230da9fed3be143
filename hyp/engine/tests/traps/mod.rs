//! The rules of traps, one test each: what CPUs may do with a page that has copies, and what they
//! see.

mod readers;
mod relaxed;
mod shapes;
mod strict;
mod watched;

use crate::bench::{Bench, page};
use oche_engine::host::CpuAccess;
use oche_engine::{AccessKind, FaultDisposition, Parts};
use oche_types::dart::entry::{Permission, encode_leaf};
use oche_types::event::{Event, Refusal};

/// The page that holds the leaf table of the first IOVAs.
const LEAF_TABLE: u32 = 193;

/// Page 30 mapped at IOVA pages 8, 21 and 34, each with its own permission.
fn aliased(permissions: [Permission; 3]) -> Bench {
    let mut bench = Bench::new(32);
    for (iova, permission) in [8, 21, 34].into_iter().zip(permissions) {
        bench.set(iova, Some((page(30), permission)));
        bench.flush(0, 0);
    }
    bench
}

#[test]
fn a_page_with_bounce_pages_that_devices_read_traps_stores_only() {
    let mut bench = aliased([Permission::WRITE_ONLY, Permission::READ_ONLY, Permission::READ_ONLY]);
    assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::ReadOnly);
    bench.cpu_store(30, 100, 7);
    assert_eq!(bench.device_read(21, 100), Some(7));
    assert_eq!(bench.device_read(34, 100), Some(7));
    assert_eq!(bench.cpu_load(30, 100), 7);
    assert_eq!(bench.count(|event| matches!(event, Event::Access { is_write: true, .. })), 1);
}

#[test]
fn c2_a_cpu_sees_at_once_what_a_device_wrote_into_any_copy() {
    let mut bench = aliased([Permission::READ_WRITE; 3]);
    assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::None);
    for (number, iova) in [8, 21, 34].into_iter().enumerate() {
        assert!(bench.device_write(iova, 100 + number as u64, 9));
        assert_eq!(bench.cpu_load(30, 100 + number), 9);
    }
    bench.cpu_store(30, 100, 10);
    // The value that stood there before the CPU's store is news again.
    assert!(bench.device_write(34, 100, 9));
    assert_eq!(bench.cpu_load(30, 100), 9);
    assert_eq!(bench.device_read(8, 100), Some(9));
}

#[test]
fn c2_a_mapping_that_goes_makes_the_copies_equal_that_stay() {
    for pinned in [None, Some(page(5))] {
        let mut bench = Bench::new(32);
        bench.map(8, &[4, 5, 6, 7]);
        bench.map(40, &[4, 5, 6, 7]);
        bench.map(21, &[5]);
        if let Some(page) = pinned {
            bench.engine.pin(&mut bench.machine, page);
        }
        assert!(bench.device_write(21, 100, 9));
        bench.unmap(8, 4);
        assert_eq!(bench.device_read(41, 100), Some(9));
        assert_eq!(bench.machine.home_byte(page(5), 100), 9);
    }
}

#[test]
fn c2_a_page_that_is_mapped_where_it_lies_has_what_devices_wrote_into_its_copies() {
    let mut bench = Bench::new(32);
    bench.map(8, &[4, 5, 6, 7]);
    bench.map(21, &[5]);
    assert!(bench.device_write(21, 100, 9));
    bench.map(40, &[4, 5, 6, 7]);
    assert_eq!(bench.device_read(41, 100), Some(9));
    assert_eq!(bench.device_read(9, 100), Some(9));
}

/// A table that is mapped itself: no driver does it, and a 4K DART would walk what the device
/// wrote.
#[test]
fn entries_that_a_device_writes_through_any_copy_of_a_table_count_at_the_next_flush() {
    let mut bench = Bench::new(32);
    bench.map(8, &[LEAF_TABLE]);
    bench.map(21, &[LEAF_TABLE]);
    for (through, iova, number) in [(8, 40, 30), (21, 41, 31)] {
        let entry = encode_leaf(page(number), Permission::READ_WRITE).to_le_bytes();
        for (at, byte) in (8 * u64::from(iova)..).zip(entry) {
            assert!(bench.device_write(through, at, byte));
        }
        bench.flush(0, 0);
        assert_eq!(bench.device_read(iova, 0), Some(number as u8));
    }
}

#[test]
fn c2_what_devices_write_beside_each_other_all_arrives() {
    for (from, to, other) in [(100, 200, 99), (101, 198, 198), (96, 104, 97), (0, 4096, 96)] {
        for gone in [8, 21, 34] {
            let mut bench = aliased([Permission::READ_WRITE; 3]);
            for offset in (from..to).filter(|offset| *offset != other) {
                assert!(bench.device_write(8, offset, 7));
            }
            // A byte of a word that is changed otherwise: no store to its neighbours may take it
            // back.
            assert!(bench.device_write(34, other, 9));
            bench.unmap(gone, 1);
            for offset in 0..4096 {
                let value = match offset {
                    _ if offset == other => 9,
                    _ if (from..to).contains(&offset) => 7,
                    _ if offset == 0 => 30,
                    _ => 0,
                };
                // The devices first: a CPU's load makes the copies equal once more.
                for iova in [8, 21, 34].into_iter().filter(|iova| *iova != gone) {
                    assert_eq!(bench.device_read(iova, offset), Some(value), "{offset}");
                }
                assert_eq!(bench.cpu_load(30, offset as usize), value, "{offset}");
            }
        }
    }
}

#[test]
fn a_store_beside_what_a_device_just_wrote_takes_nothing_back() {
    let mut bench = aliased([Permission::READ_WRITE; 3]);
    assert!(bench.device_write(21, 101, 1));
    bench.cpu_store(30, 100, 2);
    assert!(bench.device_write(21, 102, 3));
    for (offset, value) in [(100, 2), (101, 1), (102, 3)] {
        assert_eq!(bench.cpu_load(30, offset), value);
    }
}

#[test]
fn c2_accesses_of_every_width_and_alignment_reach_all_copies() {
    let mut bench = aliased([Permission::READ_WRITE; 3]);
    assert_eq!(bench.trap(30, AccessKind::Store), FaultDisposition::Emulate(page(30)));
    let mut bytes = [0_u8; 64];
    for (round, (offset, length)) in
        (0..40).flat_map(|at| (1..=8).map(move |bytes| (at, bytes))).enumerate()
    {
        let value = 0x0123_4567_89ab_cdef_u64.rotate_left(round as u32);
        bench.engine.store_trapped(&mut bench.machine, page(30), 512 + offset, length, value);
        bytes[offset..offset + length].copy_from_slice(&value.to_le_bytes()[..length]);
        let loaded = bench.engine.load_trapped(&mut bench.machine, page(30), 512 + offset, length);
        assert_eq!(loaded.to_le_bytes()[..length], bytes[offset..offset + length]);
        assert_eq!(loaded.to_le_bytes()[length..], [0; 8][length..]);
    }
    for (index, byte) in bytes.into_iter().enumerate() {
        for iova in [8, 21, 34] {
            assert_eq!(bench.device_read(iova, 512 + index as u64), Some(byte));
        }
    }
}

#[test]
fn accesses_to_a_known_page_of_every_width_and_alignment_reach_all_copies() {
    let mut bench = aliased([Permission::READ_WRITE; 3]);
    let address = |offset: usize| page(30).address() + 512 + offset as u64;
    let whole = Parts { bytes: 8, count: 1 };
    let other = page(31).address();
    assert_eq!(bench.engine.load_known(&mut bench.machine, other, whole), None);
    assert!(!bench.engine.store_known(&mut bench.machine, other, whole, [0; 2]));
    let mut bytes = [0_u8; 64];
    let shapes =
        (0..40).flat_map(|at| (1..=8).flat_map(move |bytes| [(at, bytes, 1), (at, bytes, 2)]));
    for (round, (offset, length, count)) in shapes.enumerate() {
        let parts = Parts { bytes: length, count };
        // What a device wrote before is seen beside the store, and by the load.
        let (beside, other) = (round * 11 % 64, round as u8);
        assert!(bench.device_write(21, 512 + beside as u64, other));
        bytes[beside] = other;
        let values = [1, 3].map(|by| 0x0123_4567_89ab_cdef_u64.rotate_left(round as u32 * by));
        if round % 3 != 0 {
            let (engine, machine) = (&mut bench.engine, &mut bench.machine);
            assert!(engine.store_known(machine, address(offset), parts, values));
            for (chunk, value) in bytes[offset..].chunks_mut(length).zip(values).take(count) {
                chunk.copy_from_slice(&value.to_le_bytes()[..length]);
            }
        }
        let loaded = bench.engine.load_known(&mut bench.machine, address(offset), parts);
        let mut expected = [0; 2];
        for (value, chunk) in expected.iter_mut().zip(bytes[offset..].chunks(length)).take(count) {
            let mut word = [0; 8];
            word[..length].copy_from_slice(chunk);
            *value = u64::from_le_bytes(word);
        }
        assert_eq!(loaded, Some(expected), "{parts:?} at {offset}");
    }
    for (index, byte) in bytes.into_iter().enumerate() {
        bench.cpu_load(30, 512 + index);
        for iova in [8, 21, 34] {
            assert_eq!(bench.device_read(iova, 512 + index as u64), Some(byte));
        }
    }
}

#[test]
fn a_load_is_not_known_to_trap_where_devices_only_read() {
    let mut bench = aliased([Permission::READ_ONLY; 3]);
    let (address, parts) = (page(30).address(), Parts { bytes: 8, count: 2 });
    assert_eq!(bench.engine.load_known(&mut bench.machine, address, parts), None);
    assert!(bench.engine.store_known(&mut bench.machine, address, parts, [2, 3]));
    for iova in [8, 21, 34] {
        assert_eq!(bench.device_read(iova, 0), Some(2));
        assert_eq!(bench.device_read(iova, 8), Some(3));
    }
}

#[test]
#[should_panic(expected = "invariant: an access of 1 to 8 bytes lies inside a page")]
fn a_store_beyond_its_page_is_no_access() {
    let mut bench = aliased([Permission::READ_WRITE; 3]);
    bench.engine.store_trapped(&mut bench.machine, page(30), 4090, 8, u64::MAX);
}

#[test]
#[should_panic(expected = "invariant: an access of 1 to 8 bytes lies inside a page")]
fn a_load_beyond_its_page_is_no_access() {
    let mut bench = aliased([Permission::READ_WRITE; 3]);
    bench.engine.load_trapped(&mut bench.machine, page(30), 4090, 8);
}

#[test]
fn what_a_cpu_does_to_an_opened_page_reaches_all_copies() {
    for permission in [Permission::READ_WRITE, Permission::READ_ONLY] {
        let mut bench = aliased([permission; 3]);
        if permission.write {
            assert!(bench.device_write(34, 7, 70));
        }
        assert_eq!(bench.trap(30, AccessKind::Store), FaultDisposition::Emulate(page(30)));
        let at = bench.engine.open_trapped(&mut bench.machine, page(30));
        bench.machine.direct_store(at, 300, 33);
        bench.engine.close_trapped(&mut bench.machine, page(30));
        for iova in [8, 21, 34] {
            assert_eq!(bench.device_read(iova, 300), Some(33));
        }
        assert_eq!(bench.cpu_load(30, 7), if permission.write { 70 } else { 0 });
    }
}

#[test]
fn c7_the_guard_goes_with_the_last_copy_and_not_before() {
    let mut bench =
        aliased([Permission::READ_WRITE, Permission::READ_WRITE, Permission::READ_ONLY]);
    bench.unmap(8, 1);
    assert!(bench.device_write(21, 5, 50));
    assert_eq!(bench.cpu_load(30, 5), 50);
    assert_eq!(
        bench.machine.cpu_access(page(30)),
        CpuAccess::ReadOnly,
        "the writable bounce page became the page"
    );
    bench.cpu_store(30, 6, 60);
    assert_eq!(bench.device_read(34, 6), Some(60));
    bench.unmap(34, 1);
    bench.cpu_store(30, 6, 61);
    assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::ReadWrite);
    assert_eq!(bench.device_read(21, 6), Some(61));
    bench.unmap(21, 1);
    assert!(bench.is_home(30));
    assert_eq!(bench.machine.home_byte(page(30), 5), 50);
}

#[test]
fn a_fetch_or_a_walk_gives_the_copies_up() {
    for access in [AccessKind::Fetch, AccessKind::Walk] {
        let mut bench = aliased([Permission::READ_WRITE; 3]);
        assert!(bench.device_write(34, 5, 50));
        assert_eq!(bench.trap(30, access), FaultDisposition::Retry);
        assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::ReadWrite);
        assert_eq!(bench.machine.cpu_read(page(30), 5), 50);
        let refused =
            |event: &Event| matches!(event, Event::Refused { reason: Refusal::NotTrappable, .. });
        assert_eq!(bench.count(refused), 2);
        assert_eq!(bench.device_read(21, 5), None);
        assert_eq!(bench.device_read(8, 5), Some(50), "one mapping is kept");
        bench.unmap(21, 1);
        bench.unmap(34, 1);
        bench.unmap(8, 1);
        assert!(bench.is_home(30));
    }
}

#[test]
fn instructions_are_fetched_from_a_page_that_devices_only_read() {
    let mut bench = aliased([Permission::READ_ONLY; 3]);
    assert_eq!(bench.trap(30, AccessKind::Fetch), FaultDisposition::Retry);
    assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::ReadOnly);
    assert_eq!(bench.device_read(34, 0), Some(30), "nothing is given up");
}

#[test]
fn loads_are_guarded_once_exclusives_are_used() {
    let mut bench = aliased([Permission::READ_ONLY; 3]);
    bench.engine.trap_loads(&mut bench.machine, page(30));
    assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::None);
    assert_eq!(bench.trap(30, AccessKind::Load), FaultDisposition::Emulate(page(30)));
    bench.unmap(21, 2);
    bench.unmap(34, 2);
    assert_eq!(bench.trap(30, AccessKind::Load), FaultDisposition::Retry);
    assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::ReadWrite);
    bench.set(21, Some((page(30), Permission::READ_ONLY)));
    bench.flush(0, 0);
    assert_eq!(bench.machine.cpu_access(page(30)), CpuAccess::ReadOnly, "forgotten with the trap");
}
