//! Refused accesses and findings as they come, each with the events around it.

use oche_trace::record::Record;
use oche_trace::text::Clock;
use oche_types::event::{Event, Kind};

use super::super::check::{Checker, Finding};
use super::super::description::TraceDescription;
use super::super::lifetime::StreamPlace;
use super::super::symbols::Symbols;
use super::super::words::parse_address;
use super::around::{Around, Places};
use super::burst::Burst;
use super::command::ReportedFile;
use super::data::{EventRow, FaultRow, FindingRow};
use super::last::LastEvents;
use oche_types::dart::stream::STREAMS;

/// Faults that are shown with what happened before.
pub(super) const MAX_FAULTS: usize = 50;

/// What went wrong so far.
pub(super) struct Incidents {
    last: LastEvents,
    around: Around,
    bursts: Vec<Burst>,
    /// By finding: its number among those that have events around them.
    findings: Vec<Option<usize>>,
    /// Refused accesses before the first one that there was no room for.
    pub(super) faults_told: u64,
    pub(super) faults_in_all: u64,
}

impl Incidents {
    pub(super) fn new() -> Self {
        Self {
            last: LastEvents::new(),
            around: Around::default(),
            bursts: Vec::new(),
            findings: Vec::new(),
            faults_told: 0,
            faults_in_all: 0,
        }
    }

    /// The last events at the page of `iova`, oldest first.
    pub(super) fn at_page(&self, iova: u64) -> Vec<Record> {
        self.last.at(iova)
    }

    /// Remembers `record`, an access that was refused at `iova`.
    pub(super) fn refused(&mut self, record: &Record, event: &Event, iova: u64) {
        let has_room = self.faults_told == self.faults_in_all;
        self.faults_in_all += 1;
        if !has_room {
            return;
        }
        let before = self.last.at(iova);
        let of_device = |burst: &&mut Burst| {
            (burst.last.0.dart(), burst.last.0.stream()) == (record.dart(), record.stream())
        };
        if let Some(burst) = self.bursts.iter_mut().rev().find(of_device)
            && burst.goes_on(record, event, &before)
        {
            burst.last = (*record, *event);
            burst.accesses += 1;
        } else if self.bursts.len() < MAX_FAULTS {
            let place = record.dart().zip(record.stream());
            let place = place.map(|(dart, stream)| StreamPlace::new(dart, stream));
            let subject = place.and_then(|place| self.around.subject(record, place, &before));
            let first = (*record, *event);
            self.bursts.push(Burst { first, last: first, accesses: 1, subject });
        } else {
            return;
        }
        self.faults_told += 1;
    }

    /// Follows `record`, which `checker` has looked at.
    pub(super) fn follow(&mut self, record: &Record, checker: &Checker<'_>) {
        for finding in checker.findings().iter().skip(self.findings.len()) {
            let place = StreamPlace::from_index(finding.dart * STREAMS + finding.stream);
            let at_page = iova_of(finding).map(|iova| self.last.at(iova)).unwrap_or_default();
            let subject = place.and_then(|place| self.around.subject(record, place, &at_page));
            self.findings.push(subject);
        }
        self.around.push(record);
        if record.kind() != Some(Kind::Fault) {
            self.last.push(record);
        }
    }

    /// The rows of the page: refused accesses, findings, events.
    pub(super) fn finish(
        self,
        findings: Vec<Finding>,
        clock: Clock,
        description: &TraceDescription,
        symbols: &Symbols,
        why: &ReportedFile,
    ) -> (Vec<FaultRow>, Vec<FindingRow>, Vec<EventRow>) {
        let places = self.around.places();
        let faults = self.bursts.iter();
        let faults = faults.map(|burst| burst.row(clock, description, &places, why)).collect();
        let subjects = self.findings.iter().copied().chain(std::iter::repeat(None));
        let findings = findings.into_iter().zip(subjects);
        let findings =
            findings.map(|(finding, of)| row(finding, of, clock, &places, why)).collect();
        let rows = self.around.rows(clock, description, symbols);
        (faults, findings, rows)
    }
}

fn row(
    finding: Finding,
    subject: Option<usize>,
    clock: Clock,
    places: &Places<'_>,
    why: &ReportedFile,
) -> FindingRow {
    let place = StreamPlace::from_index(finding.dart * STREAMS + finding.stream);
    let first = places.first_time(subject).map(|time| clock.nanoseconds(time));
    FindingRow {
        event: places.own(subject),
        around: places.around(subject),
        command: why.about(place, iova_of(&finding), first, finding.time_ns),
        finding,
    }
}

fn iova_of(finding: &Finding) -> Option<u64> {
    finding.iova.as_deref().and_then(|iova| parse_address(iova).ok())
}
