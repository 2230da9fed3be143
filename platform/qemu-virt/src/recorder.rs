//! The trace in memory: events into the ring of the CPU they happen on, and counters beside them.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};
use oche_boot::range::PhysRange;
use oche_hyp::dart::stream::DartId;
use oche_hyp::statistics::{Exit, Statistics};
use oche_hyp::trace::Event;
use oche_hyp::trace::directory::{CpuCounters, DirectoryWriter, Layout, Machine, publish_statistics};
use oche_hyp::trace::ring::RingWriter;
use oche_hyp::trace::words::{Text, Words};

use crate::iommu_map::IommuMap;
use crate::mediation::dart_window;

/// Where an event happens: on which CPU, and at which guest instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// The CPU, as Oche numbers them.
    pub cpu: usize,
    /// `ELR_EL2` of the trap; 0 where no guest instruction is the cause.
    pub program_counter: u64,
}

/// Counts everything, and records it where there is memory for that.
pub struct Recorder {
    statistics: Statistics,
    memory: Option<TraceMemory>,
    rings: Vec<RingWriter>,
    counters: Vec<CpuCounters>,
    /// What the trap that is being handled came from.
    pub cause: Cause,
}

impl Recorder {
    /// Describes the trace in `memory` for its readers and begins to record there. Memory too small for
    /// `layout` records nothing.
    pub fn new(memory: PhysRange, layout: Layout, map: &IommuMap, darts: usize) -> Self {
        let memory = TraceMemory::new(memory).filter(|memory| memory.bytes() >= layout.total_bytes());
        let Some(memory) = memory else { return Self::silent() };
        let machine = Machine {
            board: Text::new("qemu-virt"),
            counter_hz: CNTFRQ_EL0.get(),
            start_ticks: CNTPCT_EL0.get(),
            wall_clock_nanoseconds: None,
        };
        let mut directory = DirectoryWriter::begin(&memory, layout, &machine);
        for dart in (0..darts).filter_map(DartId::new) {
            directory.dart(dart, dart_window(dart).start, &alloc::format!("dart{}", dart.index()));
        }
        for connection in map.connections() {
            let requester = connection.requester;
            let place = requester.place_on_bus();
            // Where the rule gives a slot all its functions, only the first is worth a line.
            if place % 8 != 0 && map.stream_of(requester) == map.stream_of(requester.first_function()) {
                continue;
            }
            let name = alloc::format!("0000:{:02x}:{:02x}.{}", requester.bus(), place / 8, place % 8);
            directory.device(u32::from(requester.0), connection.dart, connection.stream, &name);
        }
        directory.finish();
        Self {
            rings: (0..layout.cpus()).map_while(|cpu| RingWriter::new(layout, cpu)).collect(),
            counters: (0..layout.cpus()).map_while(|cpu| CpuCounters::new(layout, cpu)).collect(),
            memory: Some(memory),
            ..Self::silent()
        }
    }

    fn silent() -> Self {
        let statistics = Statistics::default();
        Self { statistics, memory: None, rings: Vec::new(), counters: Vec::new(), cause: Cause::default() }
    }

    /// What happened so far, in numbers.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Takes note of `event`.
    pub fn record(&mut self, event: &Event) {
        self.statistics.count(event);
        if let (Some(memory), Some(ring)) = (&self.memory, self.rings.get_mut(self.cause.cpu)) {
            ring.record(memory, CNTPCT_EL0.get(), self.cause.program_counter, event);
        }
    }

    /// Puts the counters where readers find them, with one more `exit` of this CPU.
    pub fn publish(&self, exit: Exit) {
        let Some(memory) = &self.memory else { return };
        publish_statistics(memory, &self.statistics);
        if let Some(counters) = self.counters.get(self.cause.cpu) {
            counters.count(memory, exit);
        }
    }
}

/// Oche's memory for the trace, mapped one to one at EL2 and out of the guest's reach.
struct TraceMemory(PhysRange);

impl TraceMemory {
    /// Aligned memory only.
    fn new(range: PhysRange) -> Option<Self> {
        (range.start != 0 && range.start.is_multiple_of(8)).then_some(Self(range))
    }

    fn bytes(&self) -> usize {
        self.0.size() as usize
    }

    fn word(&self, index: usize) -> Option<&AtomicU64> {
        let address = self.0.start.checked_add(u64::try_from(index).ok()?.checked_mul(8)?)?;
        if address.checked_add(8)? > self.0.end {
            return None;
        }
        let pointer = core::ptr::with_exposed_provenance::<AtomicU64>(address as usize);
        // SAFETY: the word is inside the reserved memory, which EL2 maps for ever, and is accessed as an
        // atomic only, by Oche and by who reads the trace from outside.
        Some(unsafe { &*pointer })
    }
}

impl Words for TraceMemory {
    fn load(&self, index: usize) -> u64 {
        self.word(index).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.word(index) {
            word.store(value, Ordering::Release);
        }
    }
}
