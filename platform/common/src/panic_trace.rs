//! The newest trace events of every CPU, for a panic.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::recorder::IS_COMPILED_IN;
use aarch64_cpu::registers::{CNTFRQ_EL0, Readable};
use oche_el2::lock::Once;
use oche_el2::panic::{self, PREFIX};
use oche_trace::directory::Layout;
use oche_trace::ring::write_last_records;
use oche_trace::text::Clock;
use oche_trace::words::Words;
use oche_types::range::PhysRange;

/// Number of events that are printed for each CPU.
const EVENTS: u64 = 12;

static TRACE: Once<(PhysRange, Layout)> = Once::new();

/// Makes a panic print the newest events in `memory`, if it is large enough for `layout`.
pub fn register(memory: PhysRange, layout: Layout) {
    if IS_COMPILED_IN && layout.total_bytes() != 0 && memory.size() >= layout.total_bytes() as u64 {
        TRACE.set((memory, layout));
        panic::set_panic_hook(print_events);
    }
}

fn print_events(mut out: &mut dyn fmt::Write) -> fmt::Result {
    let Some((memory, layout)) = TRACE.get() else { return Ok(()) };
    let clock = Clock { counter_hz: CNTFRQ_EL0.get(), start_ticks: 0 };
    for cpu in 0..layout.cpus() {
        writeln!(out, "{PREFIX}last events of cpu {cpu}:")?;
        write_last_records(&Trace(*memory), *layout, cpu, EVENTS, clock, PREFIX, &mut out)?;
    }
    Ok(())
}

/// The trace's memory, which is only read here.
struct Trace(PhysRange);

impl Words for Trace {
    fn load(&self, index: usize) -> u64 {
        let address = self.0.start + index as u64 * 8;
        if address + 8 > self.0.end {
            return 0;
        }
        let pointer = core::ptr::with_exposed_provenance::<AtomicU64>(address as usize);
        // SAFETY: inside the trace's memory, which EL2 maps for ever and everybody accesses as
        // atomics.
        unsafe { &*pointer }.load(Ordering::Acquire)
    }

    fn store(&self, _: usize, _: u64) {}
}
