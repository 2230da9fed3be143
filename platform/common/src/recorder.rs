//! The trace in memory: records events in the ring of the current CPU, and updates the counters.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};
use oche_el2::fault::TrapContext;
use oche_el2::{callers, identity, percpu};
use oche_trace::call_chain;
use oche_trace::control::{Control, ControlReader, GENERATION_WORD};
use oche_trace::directory::{DirectoryWriter, ENGINE_COUNTERS, Layout, Machine, cpu_counters};
use oche_trace::ring::RingWriter;
use oche_trace::snapshot::{self, Snapshots, Wanted};
use oche_trace::statistics::{LiveStatistics, Statistics};
use oche_trace::words::Text;
use oche_types::call_chain::CallChain;
use oche_types::dart::stream::{DartId, StreamId, StreamSet};
use oche_types::event::Event;
use oche_types::range::PhysRange;
use oche_types::selection::Selection;
use oche_virtio::port::TracePort;

/// The description of the machine in the trace.
#[derive(Clone, Debug)]
pub struct Description {
    /// The board's name.
    pub board: &'static str,
    /// The guest-physical address of the registers, and the name, of each emulated DART.
    pub darts: Vec<(DartId, u64, String)>,
    /// The devices and their streams.
    pub devices: Vec<Device>,
}

/// A device that does DMA.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its number, if the board has one, such as a PCI requester ID.
    pub source: u32,
    /// Its DART.
    pub dart: DartId,
    /// Its stream of that DART.
    pub stream: StreamId,
    /// Its name.
    pub name: String,
}

/// Whether events are counted and recorded: the cargo feature `trace`.
pub const IS_COMPILED_IN: bool = cfg!(feature = "trace");

/// The counters if there is no memory for a trace.
static COUNTERS: [AtomicU64; Statistics::NAMES.len()] =
    [const { AtomicU64::new(0) }; Statistics::NAMES.len()];

/// The engine's [`TraceSink`]: counts all events, and records them if there is memory for the
/// trace.
pub struct Recorder {
    statistics: LiveStatistics<'static>,
    /// Empty if there is no memory for a trace.
    memory: &'static [AtomicU64],
    layout: Layout,
    rings: Vec<RingWriter>,
    /// The number of the setting in the control block, if there is memory for a trace.
    generation: Option<&'static AtomicU64>,
    asked: ControlReader,
    control: Control,
    takes_snapshots: bool,
    /// Whether a flush's callers are recorded: not without memory for a trace.
    takes_callers: bool,
    /// Memory that may hold stacks of the guest: its RAM and the frame pool.
    readable: Vec<PhysRange>,
    /// Whether every event is recorded and nothing else is requested.
    is_plain: bool,
    snapshots: Snapshots,
    /// Whether the gauge among the counters is out of date.
    moves_gauge: bool,
    /// Whether the last event passed the filter.
    is_admitted: bool,
    context: TrapContext,
}

impl Recorder {
    /// Writes the description of the trace to `memory` and begins to record there. Nothing is
    /// recorded if the memory is too small for `layout`. `readable` is the guest's RAM and the
    /// frame pool, and nothing that EL2 does not map for ever as Normal memory.
    pub fn new(
        memory: PhysRange,
        layout: Layout,
        description: &Description,
        wall_clock_nanoseconds: Option<u64>,
        readable: Vec<PhysRange>,
    ) -> Self {
        let memory = if IS_COMPILED_IN { words_of(memory) } else { &[] };
        if memory.len() < layout.total_bytes() / 8 {
            return Self::silent();
        }
        let machine = Machine {
            board: Text::new(description.board),
            release: Text::new(&format!("{}", identity::own())),
            counter_hz: CNTFRQ_EL0.get(),
            start_ticks: CNTPCT_EL0.get(),
            wall_clock_nanoseconds,
        };
        let mut directory = DirectoryWriter::begin(&memory, layout, &machine);
        for (dart, address, name) in &description.darts {
            directory.dart(*dart, *address, name);
        }
        for device in &description.devices {
            directory.device(device.source, device.dart, device.stream, &device.name);
        }
        directory.finish();
        for (index, cpu) in percpu::all().iter().enumerate() {
            if let Some(words) = cpu_counters(layout, index).and_then(|place| memory.get(place)) {
                cpu.exits.count_in(words);
            }
        }
        let counters = memory.get(ENGINE_COUNTERS).and_then(|words| words.first_chunk());
        let rings: Vec<RingWriter> =
            (0..layout.cpus()).map_while(|cpu| RingWriter::new(layout, cpu)).collect();
        Self {
            statistics: LiveStatistics::new(counters.unwrap_or(&COUNTERS)),
            takes_callers: Control::default().has_callers && !rings.is_empty(),
            rings,
            readable,
            generation: memory.get(GENERATION_WORD),
            memory,
            layout,
            ..Self::silent()
        }
    }

    fn silent() -> Self {
        Self {
            statistics: LiveStatistics::new(&COUNTERS),
            memory: &[],
            layout: Layout::new(1, 0),
            rings: Vec::new(),
            generation: None,
            asked: ControlReader::default(),
            control: Control::default(),
            takes_snapshots: false,
            takes_callers: false,
            readable: Vec::new(),
            is_plain: true,
            snapshots: Snapshots::default(),
            moves_gauge: false,
            is_admitted: false,
            context: TrapContext::default(),
        }
    }

    /// Applies the filter commands `orders`, which are separated by `;`. Invalid ones are logged
    /// and skipped.
    pub fn order(&self, orders: &str) {
        let mut control = Control::default();
        for order in orders.split(';').map(str::trim).filter(|order| !order.is_empty()) {
            if let Err(error) = control.apply(order) {
                log::warn!("oche.trace-orders: `{order}` ignored: {error}");
            }
        }
        if control != Control::default() {
            control.publish(&self.memory);
        }
    }

    /// The trace port for a reader in the guest, if events are recorded.
    pub fn port(&self) -> Option<TracePort> {
        // The second half: see `keep_previous` of `oche_boot::bare::prepare`.
        let (_, before) = self.memory.split_at(self.memory.len() / 2);
        let previous =
            Layout::read_previous(&before, before.len() * 8).ok().map(|layout| (before, layout));
        (self.layout.ring_records() != 0)
            .then(|| TracePort::new(self.memory, self.layout, previous))
    }

    /// Begins a trap: what happens from here on is attributed to `context`. Applies the requests of
    /// the trace's control block, and returns whether the watches have changed.
    #[inline]
    #[must_use]
    pub fn begin(&mut self, context: TrapContext) -> bool {
        self.context = context;
        let generation =
            self.generation.map_or(0, |word| u64::from_le(word.load(Ordering::Acquire)));
        self.asked.is_changed(generation) && self.apply_requests()
    }

    #[cold]
    #[inline(never)]
    fn apply_requests(&mut self) -> bool {
        let Some((generation, control)) = self.asked.changed(&self.memory) else { return false };
        let are_other = control.watches != self.control.watches;
        self.control = control;
        self.takes_snapshots = snapshot::are_wanted(&control);
        self.takes_callers = control.has_callers && !self.rings.is_empty();
        self.snapshots.forget();
        self.is_plain = control.events.is_everything() && !self.takes_snapshots;
        self.record(&Event::Filter { generation, is_whole: control.events.is_everything() });
        are_other && !self.rings.is_empty()
    }

    /// The watched ranges.
    pub fn watches(&self) -> impl Iterator<Item = Selection> {
        self.control.watched().copied()
    }

    /// Records `event`. Inlined, because the event's kind is a constant where it is reported.
    #[inline(always)]
    pub fn record(&mut self, event: &Event) {
        if !IS_COMPILED_IN {
            return;
        }
        if let Event::Flush { dart, streams } = *event
            && self.takes_callers
        {
            self.record_callers(dart, streams);
        }
        self.statistics.count(event);
        self.moves_gauge |= LiveStatistics::moves_gauge(event);
        if !self.is_plain {
            // A copy, so that the event itself need not be in memory.
            let copy = *event;
            return self.record_as_asked(&copy);
        }
        if let Some(ring) = self.rings.get_mut(self.context.cpu) {
            ring.record(&self.memory, CNTPCT_EL0.get(), self.context.program_counter, event);
        }
    }

    /// Records who called the code that began a flush, in the trap that it began in.
    #[inline(never)]
    fn record_callers(&mut self, dart: DartId, streams: StreamSet) {
        if !self.is_plain {
            return self.record_callers_as_asked(dart, streams);
        }
        let chain = self.callers();
        if chain.count != 0 {
            self.record_chain(dart, &chain);
        }
    }

    /// With a filter, a flush without callers has a record too: the end of the one before, and so
    /// of what its callers are responsible for, may not be recorded.
    #[cold]
    #[inline(never)]
    fn record_callers_as_asked(&mut self, dart: DartId, streams: StreamSet) {
        if self.control.events.admits_callers(&Event::Flush { dart, streams }) {
            let chain = self.callers();
            self.record_chain(dart, &chain);
        }
    }

    #[inline(always)]
    fn callers(&self) -> CallChain {
        let TrapContext { program_counter, frame_pointer, .. } = self.context;
        // SAFETY: of the guest's RAM and the pool, as `new` promises.
        unsafe { callers::hw::of(frame_pointer, program_counter, &self.readable) }
    }

    #[inline(always)]
    fn record_chain(&mut self, dart: DartId, chain: &CallChain) {
        let TrapContext { cpu, program_counter, .. } = self.context;
        let Some(ring) = self.rings.get_mut(cpu) else { return };
        let (event, data) = call_chain::records(dart, chain);
        let count = call_chain::following(chain);
        let time = CNTPCT_EL0.get();
        ring.record_with_data(&self.memory, time, program_counter, &event, &data, count);
    }

    /// The slow path, used with a filter or snapshots.
    #[cold]
    #[inline(never)]
    fn record_as_asked(&mut self, event: &Event) {
        if self.takes_snapshots {
            self.snapshots.note(&self.control, event);
        }
        let Some(ring) = self.rings.get_mut(self.context.cpu) else { return };
        let (time, program_counter) = (CNTPCT_EL0.get(), self.context.program_counter);
        match event {
            // They belong to the event before, which the same CPU recorded under the same lock.
            Event::Data { .. } if self.is_admitted => {
                ring.record(&self.memory, time, program_counter, event)
            }
            Event::Data { .. } => {}
            _ => {
                let events = &self.control.events;
                self.is_admitted =
                    ring.record_if(events, &self.memory, time, program_counter, event);
            }
        }
    }

    /// The next page to take a snapshot of, after the engine's work is done.
    #[inline]
    pub fn wanted_snapshot(&mut self) -> Option<Wanted> {
        if self.takes_snapshots { self.snapshots.take() } else { None }
    }

    /// Number of words of a page in a snapshot.
    pub fn snapshot_words(&self) -> usize {
        usize::from(self.control.snapshot_bytes).div_ceil(8)
    }

    /// Records the first bytes of a page, whose words `load` returns.
    pub fn record_snapshot(&mut self, wanted: &Wanted, load: impl Fn(usize) -> u64) {
        let Some(ring) = self.rings.get_mut(self.context.cpu) else { return };
        let (time, program_counter) = (CNTPCT_EL0.get(), self.context.program_counter);
        snapshot::events(wanted, self.control.snapshot_bytes, load, |event| {
            ring.record(&self.memory, time, program_counter, event);
        });
        ring.set_snapshots_left_out(&self.memory, self.snapshots.left_out());
    }

    /// Whether pages are chosen for snapshots.
    #[inline]
    pub fn takes_snapshots(&self) -> bool {
        self.takes_snapshots
    }

    /// Ends a trap: brings the gauge among the counters up to date.
    #[inline]
    pub fn end(&mut self) {
        if self.moves_gauge {
            self.moves_gauge = false;
            self.statistics.balance();
        }
    }
}

/// Oche's memory for the trace, as words. Empty if the memory is not aligned.
fn words_of(range: PhysRange) -> &'static [AtomicU64] {
    if range.start == 0 || !range.start.is_multiple_of(8) {
        return &[];
    }
    let pointer = core::ptr::with_exposed_provenance::<AtomicU64>(range.start as usize);
    // SAFETY: reserved by the layout, mapped one to one at EL2 for ever, out of the guest's reach,
    // and accessed as atomics only, by Oche and by a reader of the trace outside.
    unsafe { core::slice::from_raw_parts(pointer, (range.size() / 8) as usize) }
}
