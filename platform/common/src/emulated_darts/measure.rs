//! For measurements: counts the instructions that an event costs, on an emulator that executes one
//! in a nanosecond.

use aarch64_cpu::asm::barrier::{self, isb};
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};
use core::hint::black_box;
use oche_types::addr::{Gfn, IovaPage};
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::{StreamId, StreamSet};
use oche_types::event::{Event, Place, Placement};

use super::{DartId, EmulatedDarts, Iommu};

/// Number of events of each kind: enough to make an error of one tick, 16 instructions, negligible.
const EVENTS: u64 = 4096;

impl<I: Iommu> EmulatedDarts<I> {
    /// Records events of the common kinds and prints the cost of each.
    pub fn measure_trace(&mut self) {
        let dart = DartId::new(1).expect("invariant: there is a DART 1");
        let stream = StreamId::new(3).expect("invariant: a DART has a stream 3");
        let at = Place { dart, stream, iova: IovaPage(0xb_ff43) };
        let (page, permission) = (Gfn(0x4_6781), Permission::READ_WRITE);
        let loop_alone = self.nanoseconds(None);
        for (name, event) in [
            ("register", Event::Register { dart, offset: 0x34, is_write: true, value: 8 }),
            ("flush", Event::Flush { dart, streams: StreamSet(8) }),
            ("flush_done", Event::FlushDone { dart, pages: 1, is_busy: false }),
            ("map", Event::Map { at, page, permission, placement: Placement::Migrated }),
            ("unmap", Event::Unmap { at, page }),
            ("moved", Event::Moved { page, to: page.home() }),
        ] {
            let taken = self.nanoseconds(Some(event)).saturating_sub(loop_alone);
            log::info!("measured: {name} {} per {EVENTS} events", taken);
        }
        log::info!("measured: all");
    }

    fn nanoseconds(&mut self, event: Option<Event>) -> u64 {
        isb(barrier::SY);
        let start = CNTPCT_EL0.get();
        match event {
            Some(event) => {
                (0..EVENTS).for_each(|_| self.machine.recorder.record(black_box(&event)))
            }
            None => (0..EVENTS).for_each(|number| {
                black_box(&number);
            }),
        }
        isb(barrier::SY);
        let ticks = CNTPCT_EL0.get().wrapping_sub(start);
        ticks.saturating_mul(1_000_000_000) / CNTFRQ_EL0.get().max(1)
    }
}
