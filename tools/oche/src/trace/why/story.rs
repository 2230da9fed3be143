//! The history of one device at one page, in the order of time.

use oche_trace::record::{Record, Stamp};
use oche_types::addr::{Gfn, IovaPage};
use oche_types::event::{Event, Kind};

use super::super::lifetime::{Lifetimes, Mapping, MappingChange, StreamPlace};
use super::super::words::{code_in_words, direction, many, permission};
use super::answer::Incident;
use super::asker::{Asker, LISTED, Question, ticks_at};

/// The history of one device.
#[derive(Default)]
pub(super) struct Story {
    /// The moment that is explained, in ticks; `None`: the end.
    pub(super) at: Option<u64>,
    pub(super) fault: Option<(Record, Event)>,
    pub(super) times_mapped: u64,
    pub(super) past: Vec<Interval>,
    pub(super) incidents: Vec<Incident>,
    /// The other slots of the granule, as they are at the moment.
    pub(super) neighbours: Vec<Mapping>,
    pub(super) page_meant: Option<Gfn>,
    pub(super) partners: Vec<StreamPlace>,
    pub(super) root_is_known: bool,
}

/// A mapping of the page, over time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interval {
    pub(super) mapping: Option<Mapping>,
    pub(super) page: Gfn,
    pub(super) until: Option<Stamp>,
}

impl Interval {
    pub(super) fn holds_at(&self, at: Option<u64>) -> bool {
        let begun = self.mapping.is_none_or(|mapping| at.is_none_or(|at| mapping.since.time <= at));
        begun && self.until.is_none_or(|until| at.is_some_and(|at| until.time > at))
    }

    pub(super) fn has_ended_by(&self, at: Option<u64>) -> bool {
        self.until.is_some_and(|until| at.is_none_or(|at| until.time <= at))
    }
}

impl Asker<'_> {
    pub(super) fn story(&self, place: StreamPlace, records: &[Record]) -> Story {
        let mut final_spaces = Lifetimes::default();
        for record in records.iter().filter(|record| record.kind() == Some(Kind::Attach)) {
            final_spaces.apply(record);
        }
        let is_ours = |other: StreamPlace| final_spaces.share(place, other);
        let asked = self.question.at_ns.map(|at| ticks_at(self.clock, at));
        let fault = self.fault(records, asked, &is_ours);
        let at = asked.or(fault.map(Record::time));
        let mut story = Story {
            at,
            fault: fault.and_then(|record| Some((*record, record.event()?))),
            root_is_known: final_spaces.root(place).is_some(),
            partners: final_spaces.partners(place).collect(),
            ..Story::default()
        };
        let (mut lifetimes, mut is_past) = (Lifetimes::default(), false);
        for record in records {
            if at.is_some_and(|at| record.time() > at) && !is_past {
                is_past = true;
                story.neighbours = self.neighbours(&lifetimes, place);
            }
            let Some(event) = record.event() else { continue };
            let change = lifetimes.apply(record);
            self.add(&mut story, change, (record, &event), &is_ours);
        }
        if !is_past {
            story.neighbours = self.neighbours(&lifetimes, place);
        }
        let meant = story.past.iter().rev().find(|past| past.holds_at(at));
        story.page_meant = meant.map(|past| past.page);
        story
    }

    /// The last fault of the page, up to the moment `until` if one is given.
    fn fault<'r>(
        &self,
        records: &'r [Record],
        until: Option<u64>,
        is_ours: &impl Fn(StreamPlace) -> bool,
    ) -> Option<&'r Record> {
        let of = |record: &Record| Some(StreamPlace::new(record.dart()?, record.stream()?));
        let mut faults = records.iter().filter(|record| {
            record.kind() == Some(Kind::Fault)
                && record.payload() >> 12 == u64::from(self.page.0)
                && of(record).is_some_and(is_ours)
        });
        faults.rfind(|record| until.is_none_or(|until| record.time() <= until))
    }

    /// Adds to `story` the record and its event, which made `change`.
    fn add(
        &self,
        story: &mut Story,
        change: MappingChange,
        (record, event): (&Record, &Event),
        is_ours: &impl Fn(StreamPlace) -> bool,
    ) {
        let is_asked = |mapping: &Mapping| mapping.iova == self.page && is_ours(mapping.owner);
        match change {
            MappingChange::Mapped { mapping, .. } if is_asked(&mapping) => {
                story.times_mapped += 1;
                story.past.push(Interval {
                    mapping: Some(mapping),
                    page: mapping.page,
                    until: None,
                });
            }
            MappingChange::Unmapped { at, iova, mapping } if iova == self.page && is_ours(at) => {
                story.close(mapping, record, event);
            }
            MappingChange::Permission { mapping, .. }
                if is_asked(&mapping) && story.at.is_none_or(|at| record.time() <= at) =>
            {
                story.permit(&mapping);
                self.incident(event, record, is_ours, &mut story.incidents);
            }
            _ => self.incident(event, record, is_ours, &mut story.incidents),
        }
    }

    pub(super) fn neighbours(&self, lifetimes: &Lifetimes, place: StreamPlace) -> Vec<Mapping> {
        let first = self.page.0 & !3;
        let slots = (first..=first | 3).filter(|slot| *slot != self.page.0);
        slots.filter_map(|slot| lifetimes.at(place, IovaPage(slot))).collect()
    }

    pub(super) fn incident(
        &self,
        event: &Event,
        record: &Record,
        is_ours: &impl Fn(StreamPlace) -> bool,
        incidents: &mut Vec<Incident>,
    ) {
        let time_ns = self.clock.nanoseconds(record.time());
        let Question { from_ns, until_ns, .. } = self.question;
        if from_ns.is_some_and(|from| time_ns < from)
            || until_ns.is_some_and(|until| time_ns > until)
        {
            return;
        }
        let what = match *event {
            Event::Fault { dart, stream, iova, is_write, code, .. }
                if iova >> 12 == u64::from(self.page.0)
                    && is_ours(StreamPlace::new(dart, stream)) =>
            {
                format!(
                    "{} of {iova:#x} refused, code {code:#x}: {}",
                    direction(is_write),
                    code_in_words(code)
                )
            }
            Event::RedZone { at, offset, bytes } if at.iova == self.page && is_ours(at.into()) => {
                format!(
                    "{} changed in the red zone from {:#x} on",
                    many(u64::from(bytes), "byte"),
                    at.iova.iova() + u64::from(offset)
                )
            }
            Event::Permission { at, permission: now, .. }
                if at.iova == self.page && is_ours(at.into()) =>
            {
                format!("the device may {} the page from here on", permission(now))
            }
            Event::Refused { at, page, reason } if at.iova == self.page && is_ours(at.into()) => {
                format!("guest page {:#x} could not be mapped: {}", page.address(), reason.name())
            }
            _ => return,
        };
        incidents.push(Incident {
            time_ns,
            event: record.kind().map_or("unknown", Kind::name),
            what,
        });
        // Twice as many as are shown, so that seldom all must move.
        if incidents.len() > 2 * LISTED {
            incidents.drain(..LISTED);
        }
    }
}

impl Story {
    /// The mapping that is open has the permission of `mapping` now.
    fn permit(&mut self, mapping: &Mapping) {
        let mut open = self.past.iter_mut().rev().filter(|past| past.until.is_none());
        let is_same =
            |past: &&mut Interval| past.mapping.is_some_and(|old| old.since == mapping.since);
        if let Some(past) = open.find(is_same) {
            past.mapping = Some(*mapping);
        }
    }

    pub(super) fn close(&mut self, mapping: Option<Mapping>, record: &Record, event: &Event) {
        let until = Some(record.stamp());
        let open = self.past.iter_mut().rev().find(|past| {
            past.until.is_none()
                && past.mapping.map(|mapping| mapping.since) == mapping.map(|mapping| mapping.since)
        });
        match (open, event) {
            (Some(open), _) => open.until = until,
            (None, Event::Unmap { page, .. }) => {
                self.past.push(Interval { mapping: None, page: *page, until });
            }
            _ => {}
        }
    }
}
