//! DMA errors that no guest reports, found in the events as they pass: one detector each, no
//! memory of the past beyond what is mapped and the last unmaps, a bounded number of them.
//!
//! What a detector can see, and what it cannot, stands with its variant of [`Detector`].

use oche_trace::record::Record;
use oche_types::event::{Event, Kind};

use super::callers::ByCaller;
use super::lifetime::{Lifetimes, Mapping, MappingChange, StreamPlace};
use super::reader::{ByteSource, Session, TraceFile, TraceItem, Visitor};
use super::symbols::Symbols;
use accesses::Before;
use finding::{About, Reporter};
use flushes::Flushes;
use neighbours::Neighbours;
use recent::Recent;
use resets::Resets;

pub use finding::{CheckOptions, CheckReport, Detector, Finding};

mod accesses;
mod finding;
mod flushes;
mod neighbours;
mod recent;
mod resets;

/// Looks through every session of `trace`.
pub fn check<S: ByteSource>(
    trace: &TraceFile<S>,
    symbols: &Symbols,
    options: &CheckOptions,
) -> Vec<CheckReport> {
    let by = ByCaller::new(symbols);
    let mut all = All { trace, symbols, options, by, checker: None, reports: Vec::new() };
    trace.events().show(&mut all);
    all.reports.extend(all.checker.map(Checker::finish));
    all.reports
}

/// A checker for each boot.
struct All<'a, S> {
    trace: &'a TraceFile<S>,
    symbols: &'a Symbols,
    options: &'a CheckOptions,
    by: ByCaller,
    checker: Option<Checker<'a>>,
    reports: Vec<CheckReport>,
}

impl<S: ByteSource> Visitor for All<'_, S> {
    #[inline]
    fn record(&mut self, record: &Record) {
        if let Some(checker) = &mut self.checker {
            checker.look(&self.by.apply(record));
        }
    }

    fn other(&mut self, item: TraceItem) {
        match (item, &mut self.checker) {
            (TraceItem::Session(index), _) => {
                self.by.restart();
                let session = self.trace.sessions.get(index);
                let next = session.map(|session| Checker::new(session, self.symbols, self.options));
                self.reports
                    .extend(std::mem::replace(&mut self.checker, next).map(Checker::finish));
            }
            (
                TraceItem::Lost { cpu, records } | TraceItem::Unreadable { cpu, records },
                Some(checker),
            ) => {
                checker.miss(cpu, records);
            }
            _ => {}
        }
    }

    fn gap_begins(&mut self, cpu: usize) {
        if let Some(checker) = &mut self.checker {
            checker.begin_gap(cpu);
        }
    }
}

/// The detectors, and what they know.
pub struct Checker<'a> {
    /// The current mappings.
    pub lifetimes: Lifetimes,
    reporter: Reporter<'a>,
    recent: Recent,
    flushes: Flushes,
    neighbours: Neighbours,
    resets: Resets,
    now: u64,
    /// Time of the last event before events went missing.
    missing_until: Option<u64>,
    /// CPUs whose next events are missing, until [`Checker::miss`] counts them.
    gaps: Vec<usize>,
}

impl<'a> Checker<'a> {
    /// A checker at the session's start.
    pub fn new(session: &'a Session, symbols: &'a Symbols, options: &'a CheckOptions) -> Self {
        Self {
            lifetimes: Lifetimes::default(),
            reporter: Reporter::new(&session.description, symbols, options),
            recent: Recent::new(),
            flushes: Flushes::default(),
            neighbours: Neighbours::default(),
            resets: Resets::default(),
            now: 0,
            missing_until: None,
            gaps: Vec::new(),
        }
    }

    /// The findings that are reported so far.
    pub fn findings(&self) -> &[Finding] {
        self.reporter.findings()
    }

    /// The findings.
    pub fn finish(self) -> CheckReport {
        self.reporter.report
    }

    /// The next events of `cpu` are missing. Until they are counted, it is unknown what others'
    /// events mean.
    pub fn begin_gap(&mut self, cpu: usize) {
        self.gaps.push(cpu);
    }

    /// As many events of `cpu` were missing up to here.
    pub fn miss(&mut self, cpu: usize, records: u64) {
        let missing = &mut self.reporter.report.missing;
        *missing = missing.saturating_add(records);
        self.gaps.retain(|other| *other != cpu);
        self.forget();
    }

    /// Events are missing: what was mapped may be gone, and what was gone mapped again.
    #[cold]
    fn forget(&mut self) {
        self.missing_until = Some(self.now);
        self.flushes.forget();
        self.neighbours.forget(self.now);
    }

    /// Looks at the next event.
    #[inline]
    fn look(&mut self, record: &Record) {
        self.begin(record);
        match record.kind() {
            // Registers are a third of all events and show nothing here.
            None | Some(Kind::Register) => {}
            Some(Kind::Flush) => self.flush(record),
            Some(Kind::Map) => self.look_at_map(record),
            Some(Kind::Unmap) => self.look_at_unmap(record),
            Some(Kind::Permission) => drop(self.permit(record)),
            Some(_) => self.follow_others(record),
        }
    }

    /// Looks at the next event; what it changed of what is mapped.
    pub fn follow(&mut self, record: &Record) -> MappingChange {
        self.begin(record);
        match record.kind() {
            None | Some(Kind::Register) => {}
            Some(Kind::Flush) => self.flush(record),
            Some(Kind::Map) => return self.map(record),
            Some(Kind::Unmap) => return self.unmap(record),
            Some(Kind::Permission) => return self.permit(record),
            Some(_) => self.follow_others(record),
        }
        MappingChange::None
    }

    #[inline]
    fn begin(&mut self, record: &Record) {
        self.reporter.report.events += 1;
        self.now = record.time();
        if !self.gaps.is_empty() {
            self.forget();
        }
    }

    #[inline(never)]
    fn look_at_map(&mut self, record: &Record) {
        let _ = self.map(record);
    }

    #[inline(never)]
    fn look_at_unmap(&mut self, record: &Record) {
        let _ = self.unmap(record);
    }

    #[inline]
    fn map(&mut self, record: &Record) -> MappingChange {
        let change = self.lifetimes.map(record);
        if let MappingChange::Mapped { mapping, over } = &change {
            self.mapped(mapping, over.as_ref(), record);
        }
        change
    }

    #[inline]
    fn unmap(&mut self, record: &Record) -> MappingChange {
        let change = self.lifetimes.unmap(record);
        if let MappingChange::Unmapped { mapping: Some(mapping), .. } = &change {
            self.unmapped(mapping, record);
        }
        change
    }

    #[cold]
    fn permit(&mut self, record: &Record) -> MappingChange {
        let change = self.lifetimes.permit(record);
        if let MappingChange::Permission { mapping, before } = &change {
            self.neighbours.permitted(mapping, *before, record, &mut self.reporter);
        }
        change
    }

    fn flush(&mut self, record: &Record) {
        if record.dart().is_some() {
            self.lifetimes.flush(record);
            self.flushes.begin(record);
        }
    }

    #[inline]
    fn mapped(&mut self, mapping: &Mapping, over: Option<&Mapping>, record: &Record) {
        let space = self.lifetimes.space(mapping.owner);
        // What was missing may have shown that the one in the way had gone.
        let over =
            over.filter(|over| self.missing_until.is_none_or(|until| over.since.time > until));
        if let Some(over) = over.filter(|over| over.owner == mapping.owner) {
            flushes::report_over(mapping, over, record, &mut self.reporter);
        }
        self.flushes.mapped(space, mapping, record, &mut self.reporter);
        self.neighbours.mapped(mapping, record, &mut self.reporter);
    }

    #[inline]
    fn unmapped(&mut self, mapping: &Mapping, record: &Record) {
        let space = self.lifetimes.space(mapping.owner);
        self.recent.push(space, mapping, record.stamp());
        self.flushes.unmapped(space, mapping, record);
        self.neighbours.unmapped(mapping, record, &mut self.reporter);
    }

    #[inline(never)]
    fn follow_others(&mut self, record: &Record) {
        let Some(event) = record.event() else { return };
        if let Event::Attach { dart, stream, root } = event {
            self.attach(StreamPlace::new(dart, stream), root.is_some(), record);
        }
        self.lifetimes.apply(record);
        match event {
            Event::FlushDone { is_busy: false, .. } => self.flushes.end(record),
            // Others are recorded from here on: as if events were missing.
            Event::Filter { .. } => self.forget(),
            Event::Merged { page, .. } => self.neighbours.merged(page, record.time()),
            Event::Attach { root: Some(root), .. } => self.neighbours.root(root),
            Event::Fault { .. } | Event::RedZone { .. } => {
                let Self { lifetimes, recent, reporter, missing_until, .. } = self;
                let before = Before { lifetimes, recent, missing_until: *missing_until };
                accesses::judge(&event, record, &before, reporter);
            }
            Event::Refused { at, page, reason } => {
                let message = format!(
                    "Oche could not map {:#x} (guest page {:#x}): {}. The device finds nothing there; a 4K DART would have mapped it.",
                    at.iova.iova(),
                    page.address(),
                    reason.name()
                );
                let (detector, iova) = (Detector::Refused, Some(at.iova.iova()));
                let about = About { detector, place: at.into(), iova, program_counter: 0 };
                self.reporter.report(about, record, message);
            }
            Event::InvalidateTimedOut { dart } => {
                let message = format!(
                    "The hardware did not finish an invalidation on DART {}; its streams were cut off.",
                    dart.index()
                );
                let detector = Detector::InvalidateTimeout;
                let place = StreamPlace::first_of(dart);
                self.reporter.report(
                    About { detector, place, iova: None, program_counter: 0 },
                    record,
                    message,
                );
            }
            _ => {}
        }
    }

    /// A stream is about to be cut off, or to get other tables.
    fn attach(&mut self, place: StreamPlace, is_on: bool, record: &Record) {
        let Some(root) = self.resets.begins(place, &self.lifetimes) else { return };
        self.neighbours.no_root(root);
        resets::report_left(
            place,
            is_on,
            self.missing_until,
            record,
            &self.lifetimes,
            &mut self.reporter,
        );
    }
}

#[cfg(test)]
mod tests;
