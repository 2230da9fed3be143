//! A trace for Perfetto's viewer: native TrackEvent protobuf. <https://ui.perfetto.dev> opens it,
//! offline too.
//!
//! A process a DART, a track a stream; each mapped buffer is a slice from its map to its unmap.
//! Slices of one track must nest and mappings overlap, so a stream has as many tracks of one name
//! as it has buffers at once, and the viewer shows them as one. Counters: mapped bytes in all and
//! by placement, and flushes a second. Faults are instants.

use std::io::{self, Write};

use oche_trace::record::Record;
use oche_types::addr::PAGE_BYTES;
use oche_types::event::Event;

use super::callers::by_caller;
use super::filter::EventFilter;
use super::lifetime::{Mapping, MappingChange, StreamPlace};
use super::maps::{MappedBuffer, permission_letters};
use super::reader::{ByteSource, Session, TraceFile, TraceItem};
use super::spans::{Happening, Lane};
use super::symbols::Symbols;
use super::words::size;
pub use guest::GuestTrace;
use schema::{
    Annotation, Clock as SnapshotClock, ClockSnapshot, EventKind, TracePacket, TrackEvent,
};
use tracks::{TrackKind, placement_index, track};
use writer::{Counter, Writer};

mod guest;
mod incidents;
mod schema;
mod tracks;
mod writer;

/// Writes `session` of `trace` as a Perfetto trace: the buffers, incidents and flushes that
/// `filter` chooses, and the counters of its devices in its time.
///
/// # Errors
///
/// Those of `out`.
pub fn write_perfetto<S: ByteSource>(
    trace: &TraceFile<S>,
    session: usize,
    filter: &EventFilter,
    symbols: &Symbols,
    out: &mut impl Write,
) -> io::Result<()> {
    write_merged(trace, session, filter, symbols, None, out)
}

/// The same, with the events of the guest's own trace.
///
/// # Errors
///
/// Those of `out`.
pub fn write_merged<S: ByteSource>(
    trace: &TraceFile<S>,
    session: usize,
    filter: &EventFilter,
    symbols: &Symbols,
    guest: Option<&GuestTrace<'_>>,
    out: &mut impl Write,
) -> io::Result<()> {
    let Some(of) = trace.sessions.get(session) else { return Ok(()) };
    let mut writer = Writer::new(of, filter, symbols, out);
    writer.begin(of)?;
    for item in by_caller(trace.events_of(session), symbols) {
        match item {
            TraceItem::Record(record) => writer.record(&record)?,
            TraceItem::Lost { cpu, .. } | TraceItem::Unreadable { cpu, .. }
                if !writer.chooser.has_cpu(cpu) => {}
            TraceItem::Lost { cpu, records } => writer.missing("lost", cpu, records)?,
            TraceItem::Unreadable { cpu, records } => writer.missing("unreadable", cpu, records)?,
            TraceItem::Session(_) => {}
        }
    }
    if let Some(guest) = guest {
        writer.guest(guest, filter)?;
    }
    writer.finish()
}

impl<W: Write> Writer<'_, W> {
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
            if self.chooser.has_dart(dart.dart.index()) {
                self.dart_track(dart.dart.index())?;
            }
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
            MappingChange::Mapped { mapping, .. } => self.count(&mapping, true, record.time())?,
            MappingChange::Unmapped { mapping: Some(mapping), .. } => {
                self.count(&mapping, false, record.time())?
            }
            // The end of a flush belongs to its begin.
            _ if matches!(event, Event::FlushDone { .. }) || self.chooser.admits(record, &[]) => {
                self.other(&event, record)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        let mut happenings = Vec::new();
        self.spans.finish(|happening| happenings.push(happening));
        for happening in happenings {
            self.happening(&happening)?;
        }
        // Slices that never end are drawn to the end of the trace; the counters' last values
        // mark it.
        let mut due: Vec<(u64, Counter)> = self.counters.drain().collect();
        due.sort_by_key(|(track, _)| *track);
        for (track, counter) in due {
            if let Some((time, value)) = counter.due {
                self.counter_event(track, time, value)?;
            }
        }
        self.flush()
    }

    fn happening(&mut self, happening: &Happening) -> io::Result<()> {
        match *happening {
            Happening::Began { lane, buffer } => {
                if !self.chooser.admits_buffer(&buffer.first, buffer.pages) {
                    return Ok(());
                }
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

    fn slice(&mut self, track: u64, buffer: &MappedBuffer) -> TrackEvent {
        let first = &buffer.first;
        let bytes = u64::from(buffer.pages) * PAGE_BYTES as u64;
        let letters = permission_letters(first);
        let code = self.code(first.since.program_counter);
        let mut event = TrackEvent::new(EventKind::SliceBegin, track);
        // What the viewer colours and sums up by: direction and size. The address is for one's own
        // eyes.
        event.name = Some(format!("{letters} {}", size(bytes)));
        event.categories = vec!["mapping".into()];
        let mut annotations = self.place(first.owner);
        annotations.extend([
            Annotation::address("iova", first.iova.iova()),
            Annotation::number("bytes", bytes),
            Annotation::address("guest_page", first.page.address()),
            Annotation::text("may", letters.into()),
            Annotation::text("placement", first.placement.name().into()),
            Annotation::text("mapped_by", code),
            Annotation::number("mapped_on_cpu", first.since.cpu.into()),
            Annotation::number("seq", first.since.sequence.into()),
        ]);
        event.with(annotations)
    }

    /// Counts `mapping` as mapped, or no more mapped, at `time` in ticks.
    fn count(&mut self, mapping: &Mapping, is_more: bool, time: u64) -> io::Result<()> {
        let place = mapping.owner.index();
        let kind = 1 + placement_index(mapping.placement);
        let Some(counts) = self.mapped.get_mut(place) else { return Ok(()) };
        for index in [0, kind] {
            let Some(count) = counts.get_mut(index) else { continue };
            let page = PAGE_BYTES as u64;
            *count = if is_more { *count + page } else { count.saturating_sub(page) };
        }
        let values = *counts;
        let is_shown = self.chooser.has_place(mapping.owner) && self.chooser.is_in_time(time);
        if !is_shown {
            return Ok(());
        }
        self.stream_track(mapping.owner)?;
        self.counter(track(TrackKind::MappedBytes, place, 0), values[0] as i64)?;
        self.counter(track(TrackKind::Placement, place, kind as u32), values[kind] as i64)
    }

    fn missing(&mut self, what: &str, cpu: usize, records: u64) -> io::Result<()> {
        let track = self.cpu_track(cpu as u8)?;
        let mut event = TrackEvent::new(EventKind::Instant, track);
        event.name = Some(format!("{what}: {records} events"));
        self.event(self.now, event)
    }
}

#[cfg(test)]
mod tests;
