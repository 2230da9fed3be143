//! Mappings that are refused: with a reason, and without harm to others.

use crate::bench::{Bench, dart, page, stream};
use crate::refusals;
use oche_types::addr::Gfn;
use oche_types::dart::entry::Permission;
use oche_types::dart::registers::TTBR;
use oche_types::event::Refusal;

#[test]
fn c6_what_cannot_be_mapped_is_refused_with_a_reason_and_the_rest_goes_on() {
    let mut bench = Bench::new(32);
    bench.set(8, Some((Gfn(0x7_0000), Permission::READ_WRITE)));
    bench.set(9, Some((page(30), Permission::READ_WRITE)));
    bench.set(10, Some((Gfn(0x101), Permission::READ_WRITE)));
    bench.set_raw(11, 0x0010_0ff0_0000_0001 | page(31).address());
    bench.flush(0, 0);
    assert_eq!(refusals(&bench, Refusal::NotGuestMemory), 2);
    assert_eq!(refusals(&bench, Refusal::SubPageWindow), 1);
    assert_eq!(bench.device_read(9, 0), Some(30));
    assert!(bench.is_home(31));
}

#[test]
fn a_whole_frame_that_is_not_guest_memory_is_refused() {
    let mut bench = Bench::new(32);
    for slot in 0..4 {
        bench.set(8 + slot, Some((Gfn(0x100 + slot), Permission::READ_WRITE)));
    }
    bench.flush(0, 0);
    assert_eq!(refusals(&bench, Refusal::NotGuestMemory), 4);
    assert_eq!(bench.machine.walk(dart(0), stream(0), 0x9000), None);
}

#[test]
fn c6_an_exhausted_pool_refuses_the_new_and_keeps_the_old() {
    let mut bench = Bench::new(6);
    for index in 0..8 {
        bench.map(8 + 4 * index, &[30 + index]);
    }
    let refused = refusals(&bench, Refusal::PoolExhausted);
    assert!(refused > 0);
    for index in 0..8 - refused as u32 {
        assert_eq!(bench.device_read(8 + 4 * index, 0), Some(30 + index as u8));
    }
    for index in 0..8 {
        bench.unmap(8 + 4 * index, 1);
        assert!(bench.is_home(30 + index));
    }
}

#[test]
fn stage_2_without_memory_refuses_and_the_page_stays_home() {
    let mut bench = Bench::new(32);
    bench.machine.unsplittable.push(page(30));
    bench.map(8, &[30, 31]);
    assert_eq!(refusals(&bench, Refusal::OutOfStage2Tables), 1);
    assert!(bench.is_home(30));
    assert_eq!(bench.device_read(9, 0), Some(31));
}

#[test]
fn a_table_outside_guest_memory_is_refused_and_its_neighbours_work() {
    let mut bench = Bench::new(32);
    bench.map(8, &[30]);
    bench.write(0, TTBR + 4, 1 << 31 | 0x7f_ffff);
    bench.flush(0, 0);
    assert_eq!(refusals(&bench, Refusal::TableNotGuestMemory), 1);
    assert_eq!(bench.device_read(8, 0), Some(30));
}
