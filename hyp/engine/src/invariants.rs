//! Each invariant here is broken on purpose, and the panic names it.

use oche_types::addr::{Gfn, Granule, Hfn, HostGranule, SLOTS, SlotRun};
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::{DartId, Members, StreamId};
use oche_types::event::Event;

use crate::granule::state::{Directory, Form, GranuleMap, GranuleState};
use crate::host::{
    CpuAccess, DeviceFault, DomainId, InvalidateTimedOut, Iommu, Memory, OutOfTables, Stage2,
    TraceSink,
};
use crate::mover::{CpuTrap, Mover};
use crate::pool::Pool;
use crate::shadow::Shadow;

/// A machine that does nothing.
struct Nothing;

#[expect(unsafe_code, reason = "a model of the machine")]
// SAFETY: it accesses only memory of the model, which is the test's own.
unsafe impl Memory for Nothing {
    fn load(&self, _: Hfn, _: usize) -> u64 {
        0
    }
    fn store(&mut self, _: Hfn, _: usize, _: u64) {}
    fn store_aligned(&mut self, _: Hfn, _: usize, _: u8, _: u64) {}
}

#[expect(unsafe_code, reason = "a model of the machine")]
// SAFETY: no CPU translates through it but the model's.
unsafe impl Stage2 for Nothing {
    fn prepare(&mut self, _: Gfn) -> Result<(), OutOfTables> {
        Ok(())
    }
    fn break_page(&mut self, _: Gfn) {}
    fn flush_tlb(&mut self) {}
    fn remap_page(&mut self, _: Gfn, _: Hfn, _: CpuAccess) {}
    fn publish(&mut self) {}
}

#[expect(unsafe_code, reason = "a model of the machine")]
// SAFETY: no device translates through it but the model's.
unsafe impl Iommu for Nothing {
    const CACHES_INVALID_ENTRIES: bool = true;
    const CAN_FORBID_READS: bool = true;
    fn has_windows(&self) -> bool {
        false
    }
    fn leaf_entry(&self, _: HostGranule, _: Permission, _: SlotRun) -> u64 {
        0
    }
    fn table_entry(&self, _: HostGranule) -> u64 {
        0
    }
    fn attach(
        &mut self,
        _: DartId,
        _: StreamId,
        _: DomainId,
        _: HostGranule,
    ) -> Result<(), InvalidateTimedOut> {
        Ok(())
    }
    fn block(&mut self, _: DartId, _: StreamId) {}
    fn invalidate(&mut self, _: DomainId, _: &Members) -> Result<(), InvalidateTimedOut> {
        Ok(())
    }
    fn is_confirmed(&mut self) -> bool {
        true
    }
    fn next_fault(&mut self, _: DartId) -> Option<DeviceFault> {
        None
    }
}

impl TraceSink for Nothing {
    fn event(&mut self, _: Event) {}
}

fn pool() -> Pool {
    Pool::new(HostGranule(8)..HostGranule(10), &mut Nothing)
}

fn mover() -> Mover {
    Mover::new(&[Gfn(16)..Gfn(32)], 2)
}

#[test]
#[should_panic(expected = "invariant: a frame is returned once")]
fn a_frame_that_is_given_back_twice_stops_the_machine() {
    let mut pool = pool();
    let frame = pool.take_frame().expect("two are free");
    pool.give_marked_frame(&mut Nothing, frame);
    pool.give_marked_frame(&mut Nothing, frame);
}

#[test]
#[should_panic(expected = "invariant: a frame that is returned belongs to the pool")]
fn a_frame_of_the_guests_that_is_given_to_the_pool_stops_the_machine() {
    let mut pool = pool();
    let _ = pool.take_frame();
    pool.give_marked_frame(&mut Nothing, HostGranule(4));
}

#[test]
#[should_panic(expected = "invariant: a page that is returned was allocated")]
fn a_page_that_is_given_back_twice_stops_the_machine() {
    let mut pool = pool();
    let page = pool.take_page().expect("two frames are free");
    pool.give_page(&mut Nothing, page);
    pool.give_page(&mut Nothing, page);
}

#[test]
#[should_panic(expected = "invariant: a page moves only while it is broken")]
fn a_page_that_changes_place_under_the_cpus_stops_the_machine() {
    mover().place(&mut Nothing, Gfn(20), Hfn(40));
}

#[test]
#[should_panic(expected = "invariant: a page moves only while it is broken")]
fn a_page_that_changes_place_before_the_flush_stops_the_machine() {
    let mut mover = mover();
    assert_eq!(mover.prepare(&mut Nothing, Gfn(20)), Ok(()));
    mover.break_page(&mut Nothing, Gfn(20));
    mover.place(&mut Nothing, Gfn(20), Hfn(40));
}

#[test]
#[should_panic(expected = "invariant: a page moves only with a stage-2 entry of its own")]
fn a_page_that_moves_unprepared_stops_the_machine() {
    mover().break_page(&mut Nothing, Gfn(20));
}

#[test]
#[should_panic(expected = "invariant: a trap changes only while its page is broken")]
fn a_guard_that_changes_under_the_cpus_stops_the_machine() {
    mover().set_trap(Gfn(20), CpuTrap::All);
}

#[test]
#[should_panic(expected = "invariant: the page is guest RAM")]
fn a_page_that_is_no_ram_and_moves_stops_the_machine() {
    mover().break_page(&mut Nothing, Gfn(5));
}

#[test]
#[should_panic(expected = "invariant: a granule is set only when prepared")]
fn a_granule_without_a_block_that_is_written_stops_the_machine() {
    let state = GranuleState { form: Form::Direct(HostGranule(9)), slots: [None; SLOTS] };
    GranuleMap::new(1).update(&mut Directory::new(), Granule(7), |old| *old = state);
}

#[test]
#[should_panic(expected = "invariant: the slot is mapped")]
fn a_slot_that_is_not_mapped_and_changes_stops_the_machine() {
    let mut state = GranuleState::EMPTY;
    state.mapped_mut(2).is_bounce = true;
}

#[test]
#[should_panic(expected = "invariant: a granule that has an entry has a leaf table")]
fn an_entry_without_a_table_stops_the_machine() {
    let mut shadow = Shadow::new(&mut Nothing, &mut pool()).expect("two frames are free");
    shadow.set(&mut Nothing, Granule(7), 1);
}
