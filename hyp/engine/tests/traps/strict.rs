//! Strict isolation: permissions are exact where pages of differing permission share a granule.

use crate::bench::{Bench, page};
use oche_engine::Isolation;
use oche_types::dart::entry::Permission;
use oche_types::event::{Event, Placement, Refusal};

fn strict() -> Bench {
    Bench::with(32, Isolation::Strict)
}

fn map(bench: &mut Bench, iova: u32, number: u32, permission: Permission) {
    bench.set(iova, Some((page(number), permission)));
    bench.flush(0, 0);
}

#[test]
fn c3_a_page_that_devices_may_only_read_is_out_of_reach_of_a_neighbours_right_to_write() {
    for first in [Permission::READ_ONLY, Permission::READ_WRITE] {
        let mut bench = strict();
        let (read_only, written) = if first.write { (9, 8) } else { (8, 9) };
        let other = if first.write { Permission::READ_ONLY } else { Permission::READ_WRITE };
        map(&mut bench, 8, 30, first);
        map(&mut bench, 9, 31, other);
        let (protected, busy) = if first.write { (31, 30) } else { (30, 31) };
        assert_eq!(bench.device_read(read_only, 0), Some(protected as u8));
        assert!(bench.is_home(protected), "it is a copy that lies in the granule");
        // The hardware lets the device write, and it is never seen.
        assert!(bench.device_write(read_only, 5, 55));
        assert!(bench.device_write(written, 6, 66));
        assert_eq!((bench.cpu_load(protected, 5), bench.cpu_load(busy, 6)), (0, 66));
        bench.unmap(written, 1);
        assert_eq!(bench.device_read(read_only, 0), Some(protected as u8));
        bench.unmap(read_only, 1);
        assert_eq!(bench.machine.home_byte(page(protected), 5), 0);
        assert_eq!(bench.machine.home_byte(page(busy), 6), 66);
        assert!(bench.is_home(busy));
    }
}

#[test]
fn a_private_copy_follows_what_cpus_store() {
    let mut bench = strict();
    map(&mut bench, 8, 30, Permission::READ_ONLY);
    bench.cpu_store(30, 7, 1);
    map(&mut bench, 9, 31, Permission::READ_WRITE);
    assert_eq!(bench.device_read(8, 7), Some(1));
    bench.cpu_store(30, 7, 2);
    assert_eq!(bench.device_read(8, 7), Some(2));
}

#[test]
fn a_page_never_becomes_its_private_copy() {
    let mut bench = strict();
    // The page lies at 20; its mapping at 9 is private, because 8 may be written.
    map(&mut bench, 20, 30, Permission::READ_WRITE);
    map(&mut bench, 8, 31, Permission::READ_WRITE);
    map(&mut bench, 9, 30, Permission::READ_ONLY);
    assert!(bench.device_write(20, 3, 33));
    bench.unmap(20, 1);
    assert!(bench.is_home(30));
    assert_eq!(bench.cpu_load(30, 3), 33);
    assert!(bench.device_write(9, 4, 44));
    assert_eq!(bench.cpu_load(30, 4), 0);
    bench.unmap(9, 1);
    assert_eq!(bench.machine.home_byte(page(30), 4), 0);
}

#[test]
fn what_cannot_be_kept_apart_is_refused() {
    for (first, second) in [
        (Permission::WRITE_ONLY, Permission::READ_ONLY),
        (Permission::READ_WRITE, Permission::WRITE_ONLY),
    ] {
        let mut bench = strict();
        map(&mut bench, 8, 30, first);
        map(&mut bench, 9, 31, second);
        let refused = |event: &Event| {
            matches!(event, Event::Refused { reason: Refusal::MixedPermission, .. })
        };
        assert_eq!(bench.count(refused), 1);
        assert!(bench.device_write(8, 5, 5));
        assert_eq!(bench.device_read(9, 0).unwrap_or(0x4e), 0x4e, "no guest byte");
    }
}

#[test]
fn a_frame_of_four_permissions_alike_is_direct_and_of_others_is_not() {
    let mut bench = strict();
    bench.map(8, &[4, 5, 6, 7]);
    let direct = |event: &Event| matches!(event, Event::Map { placement: Placement::Direct, .. });
    assert_eq!(bench.count(direct), 4);
    for slot in 0..4 {
        let permission = if slot == 2 { Permission::READ_ONLY } else { Permission::READ_WRITE };
        bench.set(12 + slot, Some((page(20 + slot), permission)));
    }
    bench.flush(0, 0);
    assert_eq!(bench.count(direct), 4);
    assert!(bench.device_write(14, 1, 9));
    assert_eq!(bench.cpu_load(22, 1), 0);
    // One of the direct ones loses its right to be written.
    bench.set(9, Some((page(5), Permission::READ_ONLY)));
    bench.flush(0, 0);
    assert!(bench.device_write(9, 1, 9));
    assert_eq!(bench.cpu_load(5, 1), 0);
    assert!(bench.device_write(8, 1, 9));
    assert_eq!(bench.cpu_load(4, 1), 9);
}
