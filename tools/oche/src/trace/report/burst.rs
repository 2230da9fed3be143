//! Refused accesses that belong together, and what happened at their page before.

use oche_trace::record::Record;
use oche_trace::text::Clock;
use oche_types::event::{Event, Kind};

use super::super::description::TraceDescription;
use super::super::lifetime::StreamPlace;
use super::around::Places;
use super::command::ReportedFile;
use super::data::FaultRow;

/// The refused accesses in one page of a device with nothing mapped or unmapped there meanwhile: a
/// device reads a command word by word.
pub(super) struct Burst {
    pub(super) first: (Record, Event),
    pub(super) last: (Record, Event),
    pub(super) accesses: u64,
    /// Its number among those that have events around them.
    pub(super) subject: Option<usize>,
}

impl Burst {
    /// Its data for the page.
    pub(super) fn row(
        &self,
        clock: Clock,
        description: &TraceDescription,
        places: &Places<'_>,
        why: &ReportedFile,
    ) -> FaultRow {
        let (record, event) = self.first;
        let place =
            record.dart().zip(record.stream()).map(|(dart, stream)| StreamPlace::new(dart, stream));
        let (what, iova) = what_of(&event);
        let time_ns = clock.nanoseconds(record.time());
        let first = places.first_time(self.subject).map(|time| clock.nanoseconds(time));
        FaultRow {
            device: place.map_or_else(String::new, |place| description.name_of(place)),
            dart: place.map_or(0, StreamPlace::dart),
            stream: place.map_or(0, StreamPlace::stream),
            time_ns,
            what,
            iova: format!("{iova:#x}"),
            accesses: self.accesses,
            last_ns: clock.nanoseconds(self.last.0.time()),
            last_iova: format!("{:#x}", what_of(&self.last.1).1),
            event: places.own(self.subject),
            before: places.at_page(self.subject),
            command: why.about(place, Some(iova), first, time_ns),
        }
    }

    /// Whether `record`, of the same device, is one more of the same kind; `before` is known of its
    /// page.
    pub(super) fn goes_on(&self, record: &Record, event: &Event, before: &[Record]) -> bool {
        let kind = |event: &Event| match *event {
            Event::Fault { is_write, code, iova, .. } => (u16::from(is_write), code, iova >> 12),
            Event::RedZone { at, .. } => (2, 0, at.iova.iova() >> 12),
            Event::Refused { at, reason, .. } => (3, reason as u16, at.iova.iova() >> 12),
            _ => (4, 0, record.time()),
        };
        let changes = |before: &Record| {
            before.time() > self.last.0.time()
                && !matches!(before.kind(), Some(Kind::Refused | Kind::RedZone))
        };
        kind(event) == kind(&self.last.1) && !before.iter().any(changes)
    }
}

fn what_of(event: &Event) -> (&'static str, u64) {
    match *event {
        Event::Fault { iova, is_write: true, .. } => ("write refused", iova),
        Event::Fault { iova, .. } => ("read refused", iova),
        Event::RedZone { at, offset, .. } => ("red zone hit", at.iova.iova() + u64::from(offset)),
        Event::Refused { at, .. } => ("mapping refused", at.iova.iova()),
        _ => ("", 0),
    }
}
