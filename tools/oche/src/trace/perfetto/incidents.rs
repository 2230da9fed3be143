//! Events other than maps and unmaps: flushes, faults and other incidents.

use std::io::{self, Write};

use oche_trace::record::Record;
use oche_types::event::Event;

use super::super::lifetime::StreamPlace;
use super::super::words::code_in_words;
use super::schema::{Annotation, EventKind, TrackDescriptor, TrackEvent};
use super::tracks::{TrackKind, track};
use super::writer::Writer;

/// Time over which flushes are counted, in nanoseconds.
const RATE_STEP: u64 = 100_000_000;

/// An incident on its track: owner, name and details.
type Incident = (StreamPlace, &'static str, Vec<Annotation>);

/// An incident at an address of a device, without code of the guest.
fn incident_of(event: &Event) -> Option<Incident> {
    Some(match *event {
        Event::Fault { dart, stream, iova, code, is_write, is_hidden } => {
            let name = if is_write { "fault: write refused" } else { "fault: read refused" };
            let annotations = vec![
                Annotation::address("iova", iova),
                Annotation::number("code", code.into()),
                Annotation::text("meaning", code_in_words(code).into()),
                Annotation::text("hidden", if is_hidden { "yes" } else { "no" }.into()),
            ];
            (StreamPlace::new(dart, stream), name, annotations)
        }
        Event::RedZone { at, offset, bytes } => {
            let iova = at.iova.iova().saturating_add(offset.into());
            let annotations =
                vec![Annotation::address("iova", iova), Annotation::number("bytes", bytes.into())];
            (at.into(), "red zone hit", annotations)
        }
        Event::Refused { at, page, reason } => {
            let annotations = vec![
                Annotation::address("iova", at.iova.iova()),
                Annotation::address("guest_page", page.address()),
                Annotation::text("reason", reason.name().into()),
            ];
            (at.into(), "mapping refused", annotations)
        }
        Event::LiveMove { at, merged_bytes, .. } => {
            let annotations = vec![
                Annotation::address("iova", at.iova.iova()),
                Annotation::number("merged_bytes", merged_bytes.into()),
            ];
            (at.into(), "moved while in use", annotations)
        }
        Event::Attach { dart, stream, root } => {
            let name = if root.is_some() { "attached" } else { "cut off" };
            let annotations = root.map(|root| Annotation::address("root", root.address()));
            (StreamPlace::new(dart, stream), name, annotations.into_iter().collect())
        }
        _ => return None,
    })
}

impl<W: Write> Writer<'_, W> {
    /// Writes what an event shows that neither maps nor unmaps.
    pub(super) fn other(&mut self, event: &Event, record: &Record) -> io::Result<()> {
        match *event {
            Event::Flush { dart, .. } => {
                self.flush_rate(dart.index())?;
                self.sync_begins(record, dart.index())
            }
            Event::FlushDone { pages, is_busy, .. } => self.sync_ends(record, pages, is_busy),
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
                let name = if is_write { "CPU store" } else { "CPU load" };
                self.incident((at.into(), name, annotations))
            }
            _ => incident_of(event).map_or(Ok(()), |incident| self.incident(incident)),
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

    fn incident(&mut self, (place, name, annotations): Incident) -> io::Result<()> {
        let parent = self.stream_track(place)?;
        let track = track(TrackKind::Incidents, place.index(), 0);
        self.declare(TrackDescriptor {
            parent_uuid: Some(parent),
            ..TrackDescriptor::named(track, "faults and changes")
        })?;
        let mut event = TrackEvent::new(EventKind::Instant, track);
        event.name = Some(name.into());
        event.categories = vec!["incident".into()];
        let annotations = self.place(place).into_iter().chain(annotations).collect();
        self.event(self.now, event.with(annotations))
    }
}
