//! For measurements: counts the instructions that an event and the parts of a flush cost, on an
//! emulator that executes one in a nanosecond.

use aarch64_cpu::asm::barrier::{self, isb};
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};
use alloc::boxed::Box;
use core::hint::black_box;
use oche_engine::host::{CpuAccess, DomainId, Memory, Stage2};
use oche_types::addr::{Gfn, IovaPage, PAGE_WORDS};
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::{Members, StreamId, StreamSet};
use oche_types::event::{Event, Place, Placement};

use super::{DartId, EmulatedDarts, Iommu};
use crate::host::PlatformHost;

/// How often each event is recorded and each part is carried out: enough to make an error of one
/// tick negligible.
const TURNS: u64 = 4096;
/// What the pages hold.
const PATTERN: u64 = 0x0123_4567_89ab_cdef;

impl<I: Iommu> EmulatedDarts<I> {
    /// Prints what events of the common kinds and the parts of a flush cost. The parts are carried
    /// out on `one` and `other`, pages that nothing else uses.
    pub fn measure(&mut self, one: Gfn, other: Gfn) {
        let machine = &mut self.machine;
        measure_events(machine);
        measure_memory(machine, one, other);
        machine.stage2.prepare(one).expect("invariant: there are tables for two pages");
        machine.stage2.prepare(other).expect("invariant: there are tables for two pages");
        report("break-1", || migrate(machine, &[one]));
        report("break-2", || migrate(machine, &[one, other]));
        let members = Members::default();
        report("invalidation", || {
            let done = machine.iommu.invalidate(DomainId(0), black_box(&members));
            done.expect("invariant: QEMU's SMMU completes its commands");
        });
        log::info!("measured: all");
    }
}

fn measure_events<I: Iommu>(machine: &mut PlatformHost<I>) {
    let dart = DartId::new(1).expect("invariant: there is a DART 1");
    let stream = StreamId::new(3).expect("invariant: a DART has a stream 3");
    let at = Place { dart, stream, iova: IovaPage(0xb_ff43) };
    let (page, permission) = (Gfn(0x4_6781), Permission::READ_WRITE);
    for (name, event) in [
        ("event-register", Event::Register { dart, offset: 0x34, is_write: true, value: 8 }),
        ("event-flush", Event::Flush { dart, streams: StreamSet(8) }),
        ("event-flush_done", Event::FlushDone { dart, pages: 1, is_busy: false }),
        ("event-map", Event::Map { at, page, permission, placement: Placement::Migrated }),
        ("event-unmap", Event::Unmap { at, page }),
        ("event-moved", Event::Moved { page, to: page.home() }),
    ] {
        report(name, || machine.recorder.record(black_box(&event)));
    }
}

/// What is done with the bytes of a page.
fn measure_memory<I>(machine: &mut PlatformHost<I>, one: Gfn, other: Gfn) {
    let (from, to) = (one.home(), other.home());
    report("fill", || machine.fill_page(from, black_box(PATTERN)));
    report("copy", || machine.copy_page(from, to));
    let known = Box::new([PATTERN; PAGE_WORDS]);
    report("compare", || {
        let change = machine.first_change(to, black_box(&known), 0);
        assert!(change.is_none(), "invariant: the page was filled and copied");
    });
    report("scan", || {
        let other = machine.first_other(to, black_box(PATTERN), 0);
        assert!(other.is_none(), "invariant: the page was filled and copied");
    });
}

/// Breaks the entries of `pages` and makes them anew, as a page migration does.
fn migrate<I>(machine: &mut PlatformHost<I>, pages: &[Gfn]) {
    pages.iter().for_each(|page| machine.break_page(*page));
    machine.flush_tlb();
    for page in pages {
        machine.remap_page(*page, page.home(), CpuAccess::ReadWrite);
    }
    machine.publish();
}

/// Prints what `work` costs, without the loop around it.
fn report(name: &str, mut work: impl FnMut()) {
    let loop_alone = nanoseconds(|| {
        black_box(&name);
    });
    let taken = nanoseconds(&mut work).saturating_sub(loop_alone);
    log::info!("measured: {name} {taken} per {TURNS}");
}

/// How long [`TURNS`] turns of `work` take.
fn nanoseconds(mut work: impl FnMut()) -> u64 {
    isb(barrier::SY);
    let start = CNTPCT_EL0.get();
    (0..TURNS).for_each(|_| work());
    isb(barrier::SY);
    let ticks = CNTPCT_EL0.get().wrapping_sub(start);
    ticks.saturating_mul(1_000_000_000) / CNTFRQ_EL0.get().max(1)
}
