//! A trace for Perfetto's viewer: native TrackEvent protobuf. <https://ui.perfetto.dev> opens it,
//! offline too.
//!
//! A process a DART, a track a stream; each mapped buffer is a slice from its map to its unmap.
//! Slices of one track must nest and mappings overlap, so a stream has as many tracks of one name
//! as it has buffers at once, and the viewer shows them as one. Counters: mapped bytes in all and
//! by placement, and flushes a second. Faults are instants.

use std::collections::BTreeSet;
use std::io::{self, Write};

use oche_trace::record::Record;
use oche_trace::text::Clock;
use oche_types::addr::PAGE_BYTES;
use oche_types::event::{Event, Placement};
use prost::Message;
use rustc_hash::{FxHashMap, FxHashSet};

use super::callers::by_caller;
use super::description::{Description, plain};
use super::lifetime::{Change, Mapping, PLACES, StreamPlace};
use super::maps::{Buffer, permission_letters};
use super::reader::{Item, Session, Source, TraceFile};
use super::spans::{Happening, Lane, Spans};
use super::symbols::{NameCache, Symbols};
use super::words::{code_in_words, size};
use schema::{
    Annotation, Clock as SnapshotClock, ClockSnapshot, CounterDescriptor, EventKind,
    ProcessDescriptor, Trace, TracePacket, TrackDescriptor, TrackEvent,
};
use tracks::{TrackKind, track};

mod schema;
mod tracks;

/// Shortest time between two values of one counter, in nanoseconds.
const COUNTER_STEP: u64 = 1_000_000;
/// Time over which flushes are counted, in nanoseconds.
const RATE_STEP: u64 = 100_000_000;
/// Packets that are put together before they are written.
const BATCH: usize = 256;

/// Writes `session` of `trace` as a Perfetto trace.
///
/// # Errors
///
/// Those of `out`.
pub fn write_perfetto<S: Source>(
    trace: &TraceFile<S>,
    session: usize,
    symbols: &Symbols,
    out: &mut impl Write,
) -> io::Result<()> {
    let Some(of) = trace.sessions.get(session) else { return Ok(()) };
    let mut writer = Writer::new(of, symbols, out);
    writer.begin(of)?;
    for item in by_caller(trace.events_of(session), symbols) {
        match item {
            Item::Record(record) => writer.record(&record)?,
            Item::Lost { cpu, records } => writer.missing("lost", cpu, records)?,
            Item::Unreadable { cpu, records } => writer.missing("unreadable", cpu, records)?,
            Item::Session(_) => {}
        }
    }
    writer.finish()
}

struct Writer<'a, W> {
    description: &'a Description,
    clock: Clock,
    names: NameCache<'a>,
    out: &'a mut W,
    batch: Trace,
    spans: Spans,
    /// By buffer: its row among those of its stream.
    rows: FxHashMap<Lane, u32>,
    free_rows: FxHashMap<StreamPlace, BTreeSet<u32>>,
    tracks: FxHashSet<u64>,
    counters: FxHashMap<u64, Counter>,
    /// Bytes mapped by stream, then by placement of each.
    mapped: Vec<[u64; 4]>,
    /// By DART: flushes since the moment.
    flushes: FxHashMap<usize, (u64, u64)>,
    /// By CPU: whether a flush is under way.
    syncing: FxHashSet<u8>,
    now: u64,
}

/// A counter's value that is not written yet.
#[derive(Clone, Copy, Default)]
struct Counter {
    written_at: Option<u64>,
    due: Option<(u64, i64)>,
}

impl<'a, W: Write> Writer<'a, W> {
    fn new(session: &'a Session, symbols: &'a Symbols, out: &'a mut W) -> Self {
        Self {
            description: &session.description,
            clock: session.description.clock(),
            names: NameCache::new(symbols),
            out,
            batch: Trace::default(),
            spans: Spans::default(),
            rows: FxHashMap::default(),
            free_rows: FxHashMap::default(),
            tracks: FxHashSet::default(),
            counters: FxHashMap::default(),
            mapped: vec![[0; 4]; PLACES],
            flushes: FxHashMap::default(),
            syncing: FxHashSet::default(),
            now: 0,
        }
    }

    fn begin(&mut self, session: &Session) -> io::Result<()> {
        let mut clocks = vec![SnapshotClock { clock_id: SnapshotClock::BOOTTIME, timestamp: 0 }];
        if let Some(wall) = super::summary::wall_clock(session, self.clock, self.clock.start_ticks)
        {
            clocks.push(SnapshotClock { clock_id: SnapshotClock::REALTIME, timestamp: wall });
        }
        let snapshot =
            ClockSnapshot { clocks, primary_trace_clock: Some(SnapshotClock::BOOTTIME as i32) };
        self.push(TracePacket {
            clock_snapshot: Some(snapshot),
            sequence_flags: Some(TracePacket::STATE_CLEARED),
            first_packet_on_sequence: Some(true),
            ..TracePacket::default()
        })?;
        for dart in &session.description.darts {
            self.dart_track(dart.dart.index())?;
        }
        Ok(())
    }

    fn record(&mut self, record: &Record) -> io::Result<()> {
        self.now = self.now.max(self.clock.nanoseconds(record.time()));
        let Some(event) = record.event() else { return Ok(()) };
        let mut happenings = Vec::new();
        let change = self.spans.follow(record, |happening| happenings.push(happening));
        for happening in happenings {
            self.happening(&happening)?;
        }
        match change {
            Change::Mapped { mapping, .. } => self.count(&mapping, true)?,
            Change::Unmapped { mapping: Some(mapping), .. } => self.count(&mapping, false)?,
            _ => self.other(&event, record)?,
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        let mut happenings = Vec::new();
        self.spans.finish(|happening| happenings.push(happening));
        for happening in happenings {
            self.happening(&happening)?;
        }
        // Slices that never end are drawn to the end of the trace; the counters' last values say
        // where that is.
        let mut due: Vec<(u64, Counter)> = self.counters.drain().collect();
        due.sort_by_key(|(track, _)| *track);
        for (track, counter) in due {
            if let Some((time, value)) = counter.due {
                self.counter_event(track, time, value)?;
            }
        }
        self.write_batch()?;
        self.out.flush()
    }

    fn happening(&mut self, happening: &Happening) -> io::Result<()> {
        match *happening {
            Happening::Began { lane, buffer } => {
                let row = self.take_row(buffer.first.owner, lane);
                let track = self.row_track(buffer.first.owner, row)?;
                let event = self.slice(track, &buffer);
                let time = self.clock.nanoseconds(buffer.first.since.time);
                self.event(time, event)
            }
            Happening::Ended { lane, buffer, until } => {
                let Some(row) = self.rows.remove(&lane) else { return Ok(()) };
                self.free_rows.entry(buffer.first.owner).or_default().insert(row);
                let track = self.row_track(buffer.first.owner, row)?;
                let code = self.code(until.program_counter);
                let annotations = vec![
                    Annotation::text("unmapped_by", code),
                    Annotation::number("unmapped_on_cpu", until.cpu.into()),
                ];
                let event = TrackEvent::new(EventKind::SliceEnd, track).with(annotations);
                let time = self.clock.nanoseconds(until.time);
                self.event(time, event)
            }
        }
    }

    /// The lowest free row of `place`, for the buffer in `lane`.
    fn take_row(&mut self, place: StreamPlace, lane: Lane) -> u32 {
        let free = self.free_rows.entry(place).or_default();
        // The highest number is the one that was never used.
        let row = free.pop_first().unwrap_or(0);
        if free.is_empty() {
            free.insert(row + 1);
        }
        self.rows.insert(lane, row);
        row
    }

    fn slice(&mut self, track: u64, buffer: &Buffer) -> TrackEvent {
        let first = &buffer.first;
        let bytes = u64::from(buffer.pages) * PAGE_BYTES as u64;
        let letters = permission_letters(first);
        let code = self.code(first.since.program_counter);
        let mut event = TrackEvent::new(EventKind::SliceBegin, track);
        // What the viewer colours and sums up by: direction and size. The address is for one's own
        // eyes.
        event.name = Some(format!("{letters} {}", size(bytes)));
        event.categories = vec!["mapping".into()];
        event.with(vec![
            Annotation::address("iova", first.iova.iova()),
            Annotation::number("bytes", bytes),
            Annotation::address("guest_page", first.page.address()),
            Annotation::text("may", letters.into()),
            Annotation::text("placement", first.placement.name().into()),
            Annotation::text("mapped_by", code),
            Annotation::number("mapped_on_cpu", first.since.cpu.into()),
            Annotation::number("seq", first.since.sequence.into()),
        ])
    }

    fn count(&mut self, mapping: &Mapping, is_more: bool) -> io::Result<()> {
        let place = mapping.owner.index();
        let kind = 1 + placement_index(mapping.placement);
        let Some(counts) = self.mapped.get_mut(place) else { return Ok(()) };
        for index in [0, kind] {
            let Some(count) = counts.get_mut(index) else { continue };
            let page = PAGE_BYTES as u64;
            *count = if is_more { *count + page } else { count.saturating_sub(page) };
        }
        let values = *counts;
        self.stream_track(mapping.owner)?;
        self.counter(track(TrackKind::MappedBytes, place, 0), values[0] as i64)?;
        self.counter(track(TrackKind::Placement, place, kind as u32), values[kind] as i64)
    }

    fn other(&mut self, event: &Event, record: &Record) -> io::Result<()> {
        match *event {
            Event::Flush { dart, .. } => {
                self.flush_rate(dart.index())?;
                self.sync_begins(record, dart.index())
            }
            Event::FlushDone { pages, is_busy, .. } => self.sync_ends(record, pages, is_busy),
            Event::Fault { dart, stream, iova, code, is_write, is_hidden } => {
                let name = if is_write { "fault: write refused" } else { "fault: read refused" };
                let annotations = vec![
                    Annotation::address("iova", iova),
                    Annotation::number("code", code.into()),
                    Annotation::text("meaning", code_in_words(code).into()),
                    Annotation::text("hidden", if is_hidden { "yes" } else { "no" }.into()),
                ];
                self.incident(StreamPlace::new(dart, stream), name, annotations)
            }
            Event::Watch { at, offset, page, bytes, is_write, how } => {
                let offset = u64::from(offset);
                let code = self.code(record.program_counter());
                let annotations = vec![
                    Annotation::address("iova", at.iova.iova() | offset),
                    Annotation::address("gpa", page.address() | offset),
                    Annotation::number("bytes", bytes.into()),
                    Annotation::text("how", how.name().into()),
                    Annotation::text("code", code),
                ];
                self.incident(
                    at.into(),
                    if is_write { "CPU store" } else { "CPU load" },
                    annotations,
                )
            }
            Event::RedZone { at, offset, bytes } => {
                let iova = at.iova.iova().saturating_add(offset.into());
                let annotations = vec![
                    Annotation::address("iova", iova),
                    Annotation::number("bytes", bytes.into()),
                ];
                self.incident(at.into(), "red zone hit", annotations)
            }
            Event::Refused { at, page, reason } => {
                let annotations = vec![
                    Annotation::address("iova", at.iova.iova()),
                    Annotation::address("guest_page", page.address()),
                    Annotation::text("reason", reason.name().into()),
                ];
                self.incident(at.into(), "mapping refused", annotations)
            }
            Event::LiveMove { at, merged_bytes, .. } => {
                let annotations = vec![
                    Annotation::address("iova", at.iova.iova()),
                    Annotation::number("merged_bytes", merged_bytes.into()),
                ];
                self.incident(at.into(), "moved while in use", annotations)
            }
            Event::Attach { dart, stream, root } => {
                let name = if root.is_some() { "attached" } else { "cut off" };
                let annotations = root.map(|root| Annotation::address("root", root.address()));
                self.incident(
                    StreamPlace::new(dart, stream),
                    name,
                    annotations.into_iter().collect(),
                )
            }
            _ => Ok(()),
        }
    }

    fn flush_rate(&mut self, dart: usize) -> io::Result<()> {
        self.dart_track(dart)?;
        let now = self.now;
        let (since, count) = self.flushes.entry(dart).or_insert((now / RATE_STEP * RATE_STEP, 0));
        let elapsed = now.saturating_sub(*since);
        let rate = track(TrackKind::FlushRate, dart, 0);
        if elapsed < RATE_STEP {
            *count += 1;
            return Ok(());
        }
        let (begun, value) = (*since, (*count * 1_000_000_000 / RATE_STEP) as i64);
        (*since, *count) = (now / RATE_STEP * RATE_STEP, 1);
        self.counter_event(rate, begun, value)?;
        // Nothing for a while: the rate was 0, not what it was before.
        if elapsed >= 2 * RATE_STEP {
            self.counter_event(rate, begun + RATE_STEP, 0)?;
        }
        Ok(())
    }

    fn sync_begins(&mut self, record: &Record, dart: usize) -> io::Result<()> {
        let track = self.cpu_track(record.cpu())?;
        if !self.syncing.insert(record.cpu()) {
            self.event(self.now, TrackEvent::new(EventKind::SliceEnd, track))?;
        }
        let mut event = TrackEvent::new(EventKind::SliceBegin, track);
        event.name = Some("flush".into());
        event.categories = vec!["flush".into()];
        let code = self.code(record.program_counter());
        let event = event
            .with(vec![Annotation::number("dart", dart as u64), Annotation::text("code", code)]);
        self.event(self.now, event)
    }

    fn sync_ends(&mut self, record: &Record, pages: u32, is_busy: bool) -> io::Result<()> {
        if !self.syncing.remove(&record.cpu()) {
            return Ok(());
        }
        let track = self.cpu_track(record.cpu())?;
        let annotations = vec![
            Annotation::number("slots_looked_at", pages.into()),
            Annotation::text("work_is_left", if is_busy { "yes" } else { "no" }.into()),
        ];
        self.event(self.now, TrackEvent::new(EventKind::SliceEnd, track).with(annotations))
    }

    fn missing(&mut self, what: &str, cpu: usize, records: u64) -> io::Result<()> {
        let track = self.cpu_track(cpu as u8)?;
        let mut event = TrackEvent::new(EventKind::Instant, track);
        event.name = Some(format!("{what}: {records} events"));
        self.event(self.now, event)
    }

    fn incident(
        &mut self,
        place: StreamPlace,
        name: &str,
        annotations: Vec<Annotation>,
    ) -> io::Result<()> {
        let parent = self.stream_track(place)?;
        let track = track(TrackKind::Incidents, place.index(), 0);
        self.declare(TrackDescriptor {
            parent_uuid: Some(parent),
            ..TrackDescriptor::named(track, "faults and changes")
        })?;
        let mut event = TrackEvent::new(EventKind::Instant, track);
        event.name = Some(name.into());
        event.categories = vec!["incident".into()];
        self.event(self.now, event.with(annotations))
    }

    fn code(&mut self, program_counter: u64) -> String {
        match self.names.get(program_counter) {
            Some(name) => name.to_owned(),
            None => format!("{program_counter:#x}"),
        }
    }

    fn dart_track(&mut self, dart: usize) -> io::Result<u64> {
        let uuid = track(TrackKind::Dart, dart, 0);
        if self.tracks.contains(&uuid) {
            return Ok(uuid);
        }
        let known = self.description.darts.iter().find(|entry| entry.dart.index() == dart);
        let name = known.map_or_else(
            || format!("DART {dart}"),
            |entry| {
                format!("DART {dart}: {} at {:#x}", plain(entry.name.as_str()), entry.registers)
            },
        );
        let process =
            ProcessDescriptor { pid: Some(dart as i32 + 1), process_name: Some(name.clone()) };
        self.declare(TrackDescriptor {
            process: Some(process),
            ..TrackDescriptor::named(uuid, &name)
        })?;
        let rate = TrackDescriptor {
            parent_uuid: Some(uuid),
            counter: Some(CounterDescriptor { unit: None, unit_name: Some("flushes/s".into()) }),
            ..TrackDescriptor::named(track(TrackKind::FlushRate, dart, 0), "flushes a second")
        };
        self.declare(rate)?;
        Ok(uuid)
    }

    fn stream_track(&mut self, place: StreamPlace) -> io::Result<u64> {
        let uuid = track(TrackKind::Stream, place.index(), 0);
        if self.tracks.contains(&uuid) {
            return Ok(uuid);
        }
        let dart = self.dart_track(place.dart())?;
        let name = format!("stream {}: {}", place.stream(), self.description.name_of(place));
        self.declare(TrackDescriptor {
            parent_uuid: Some(dart),
            ..TrackDescriptor::named(uuid, &name)
        })?;
        let bytes = || CounterDescriptor { unit: Some(CounterDescriptor::BYTES), unit_name: None };
        let counter = |uuid: u64, name: &str| TrackDescriptor {
            parent_uuid: Some(track(TrackKind::Stream, place.index(), 0)),
            counter: Some(bytes()),
            ..TrackDescriptor::named(uuid, name)
        };
        self.declare(counter(track(TrackKind::MappedBytes, place.index(), 0), "mapped"))?;
        for placement in [Placement::Direct, Placement::Migrated, Placement::Bounce] {
            let lane = 1 + placement_index(placement) as u32;
            let name = format!("mapped, {}", placement.name());
            self.declare(counter(track(TrackKind::Placement, place.index(), lane), &name))?;
        }
        Ok(uuid)
    }

    fn row_track(&mut self, place: StreamPlace, row: u32) -> io::Result<u64> {
        let parent = self.stream_track(place)?;
        let uuid = track(TrackKind::Row, place.index(), row);
        // One name under one parent: the viewer draws them as one track of many rows.
        self.declare(TrackDescriptor {
            parent_uuid: Some(parent),
            ..TrackDescriptor::named(uuid, "mappings")
        })?;
        Ok(uuid)
    }

    fn cpu_track(&mut self, cpu: u8) -> io::Result<u64> {
        let all = track(TrackKind::Cpus, 0, 0);
        let process =
            ProcessDescriptor { pid: Some(1000), process_name: Some("flushes by CPU".into()) };
        self.declare(TrackDescriptor {
            process: Some(process),
            ..TrackDescriptor::named(all, "flushes by CPU")
        })?;
        let uuid = track(TrackKind::Cpu, cpu.into(), 0);
        self.declare(TrackDescriptor {
            parent_uuid: Some(all),
            ..TrackDescriptor::named(uuid, &format!("CPU {cpu}"))
        })?;
        Ok(uuid)
    }

    fn declare(&mut self, descriptor: TrackDescriptor) -> io::Result<()> {
        if !self.tracks.insert(descriptor.uuid) {
            return Ok(());
        }
        self.push(TracePacket { track_descriptor: Some(descriptor), ..TracePacket::default() })
    }

    /// Takes a counter's new value; of those within [`COUNTER_STEP`] the last is written.
    fn counter(&mut self, track: u64, value: i64) -> io::Result<()> {
        let now = self.now;
        let counter = self.counters.entry(track).or_default();
        let is_far =
            counter.written_at.is_none_or(|written| now.saturating_sub(written) >= COUNTER_STEP);
        let due = counter.due.replace((now, value));
        if !is_far {
            return Ok(());
        }
        counter.written_at = Some(now);
        match due.filter(|(time, _)| *time < now) {
            Some((time, value)) => self.counter_event(track, time, value),
            None => Ok(()),
        }
    }

    fn counter_event(&mut self, track: u64, time: u64, value: i64) -> io::Result<()> {
        let event =
            TrackEvent { counter_value: Some(value), ..TrackEvent::new(EventKind::Counter, track) };
        self.event(time, event)
    }

    fn event(&mut self, time: u64, event: TrackEvent) -> io::Result<()> {
        self.push(TracePacket {
            timestamp: Some(time),
            track_event: Some(event),
            ..TracePacket::default()
        })
    }

    fn push(&mut self, packet: TracePacket) -> io::Result<()> {
        self.batch.packet.push(TracePacket { trusted_packet_sequence_id: Some(1), ..packet });
        if self.batch.packet.len() >= BATCH { self.write_batch() } else { Ok(()) }
    }

    /// Traces can be put one behind the other, so a batch is a trace.
    fn write_batch(&mut self) -> io::Result<()> {
        self.out.write_all(&self.batch.encode_to_vec())?;
        self.batch.packet.clear();
        Ok(())
    }
}

fn placement_index(placement: Placement) -> usize {
    match placement {
        Placement::Direct => 0,
        Placement::Migrated => 1,
        Placement::Bounce => 2,
    }
}

#[cfg(test)]
mod tests;
