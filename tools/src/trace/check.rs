//! DMA errors that no guest tells about, found in the events as they pass: one detector each, no memory of the past
//! beyond what is mapped and the last unmaps, a bounded number of them.
//!
//! What a detector can see, and what it cannot, stands with its variant of [`Detector`].

use std::collections::BTreeMap;

use oche_hyp::trace::Event;
use oche_hyp::trace::record::{Kind, Record, Stamp};
use oche_hyp::trace::text::{Clock, refusal_name};
use serde::Serialize;

use super::description::Description;
use super::lifetime::{Change, Lifetimes, Mapping, StreamPlace};
use super::reader::{Item, Session, Source, TraceFile};
use super::symbols::Symbols;
use super::words::{direction, interval, permission, seconds};
use flushes::Flushes;
use neighbours::Neighbours;
use recent::Recent;

mod flushes;
mod neighbours;
mod recent;

/// Findings of one detector and device that are told in full; the others are counted.
const TOLD: u64 = 20;
/// Times that a stream is cut off for which what is left mapped is looked for. Looking costs what is mapped.
const MOST_RESETS: u32 = 256;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Detector {
    /// A device was refused at an address that had been unmapped, or wrote there and hit a red zone. Writes and reads
    /// that reach a granule's other pages' red zone: only writes show.
    UseAfterUnmap,
    /// An unmap came to light in a flush that was made for a mapping, and no flush of its own followed. The events show
    /// flushes and not stores to tables, so with other CPUs flushing the same stream it stays unseen.
    UnmappedWithoutFlush,
    /// An address was mapped while it was mapped: the entry was overwritten, or cleared and filled with no flush between.
    DoubleMap,
    /// A device was refused because of the direction. In a granule that pages of both directions share, hardware allows
    /// both, and nothing shows.
    WrongDirection,
    /// A stream was cut off, or given other tables, with pages mapped. A driver that resets its device and leaves the
    /// stream as it is shows nothing here: see `oche trace leaks`.
    LeftAtReset,
    /// A device could write where it should not because of what shares a page: a table root, coherent memory (rings), or
    /// memory that another device writes. Buffers of a few bytes are known to the guest alone.
    NeighboursExposed,
    /// A device wrote where nothing was mapped, within a granule in use.
    RedZoneHit,
    /// A device was refused at an address at which nothing had been mapped.
    WildAccess,
    /// Oche could not make reachable what the guest mapped.
    Refused,
    /// The hardware did not finish an invalidation.
    InvalidateTimeout,
    /// A hint: a device was to write, and no byte had changed when the page was unmapped. Only seen for replicas.
    NeverUsed,
    /// A hint: two mappings share a page, as buffers smaller than one do.
    SharedPage,
}

impl Detector {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::UseAfterUnmap,
        Self::UnmappedWithoutFlush,
        Self::DoubleMap,
        Self::WrongDirection,
        Self::LeftAtReset,
        Self::NeighboursExposed,
        Self::RedZoneHit,
        Self::WildAccess,
        Self::Refused,
        Self::InvalidateTimeout,
        Self::NeverUsed,
        Self::SharedPage,
    ];

    /// The name in every output.
    pub fn name(self) -> &'static str {
        match self {
            Self::UseAfterUnmap => "use-after-unmap",
            Self::UnmappedWithoutFlush => "unmapped-without-flush",
            Self::DoubleMap => "double-map",
            Self::WrongDirection => "wrong-direction",
            Self::LeftAtReset => "left-at-reset",
            Self::NeighboursExposed => "neighbours-exposed",
            Self::RedZoneHit => "red-zone-hit",
            Self::WildAccess => "wild-access",
            Self::Refused => "refused",
            Self::InvalidateTimeout => "invalidate-timeout",
            Self::NeverUsed => "never-used",
            Self::SharedPage => "shared-page",
        }
    }

    /// Whether it finds what correct drivers do as well: told when asked for, and no error.
    pub fn is_hint(self) -> bool {
        matches!(self, Self::NeverUsed | Self::SharedPage)
    }
}

/// Something that should not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// By which detector.
    pub detector: Detector,
    /// Nanoseconds since Oche's start.
    pub time_ns: u64,
    /// The CPU that told.
    pub cpu: u8,
    /// The device.
    pub device: String,
    /// The DART's number.
    pub dart: usize,
    /// The stream's number.
    pub stream: usize,
    /// The address, in hexadecimal, where there is one.
    pub iova: Option<String>,
    /// The guest's code that is behind it, where known.
    pub code: Option<String>,
    /// What happened, in a sentence or two.
    pub message: String,
}

/// What came of a session's events.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// What was found, in the order of time: of each detector and device the first `TOLD`.
    pub findings: Vec<Finding>,
    /// How much of each was found, told or not. Hints are counted here too.
    pub totals: BTreeMap<&'static str, u64>,
    /// Events looked at.
    pub events: u64,
    /// Events that were lost or cannot be read: what they would have explained is not held against anybody.
    pub missing: u64,
}

impl Report {
    /// Errors: all findings but hints.
    pub fn errors(&self) -> u64 {
        let errors = Detector::ALL.iter().filter(|detector| !detector.is_hint());
        errors.filter_map(|detector| self.totals.get(detector.name())).sum()
    }
}

/// Looks through every session of `trace`.
pub fn check<S: Source>(trace: &TraceFile<S>, symbols: &Symbols, tells_hints: bool) -> Vec<Report> {
    let mut reports = Vec::new();
    let mut checker: Option<Checker<'_>> = None;
    for item in trace.events() {
        match (item, &mut checker) {
            (Item::Session(index), _) => {
                let next =
                    trace.sessions.get(index).map(|session| Checker::new(session, symbols, tells_hints));
                reports.extend(std::mem::replace(&mut checker, next).map(Checker::finish));
            }
            (Item::Record(record), Some(checker)) => {
                checker.follow(&record);
            }
            (Item::Lost { records, .. } | Item::Unreadable { records, .. }, Some(checker)) => {
                checker.miss(records);
            }
            (_, None) => {}
        }
    }
    reports.extend(checker.map(Checker::finish));
    reports
}

/// The detectors, and what they know.
pub struct Checker<'a> {
    description: &'a Description,
    clock: Clock,
    symbols: &'a Symbols,
    tells_hints: bool,
    /// What is mapped now.
    pub lifetimes: Lifetimes,
    recent: Recent,
    flushes: Flushes,
    neighbours: Neighbours,
    report: Report,
    told: BTreeMap<(Detector, StreamPlace), u64>,
    resets: u32,
    now: u64,
    /// Time of the last event before events went missing.
    missing_until: Option<u64>,
}

impl<'a> Checker<'a> {
    /// A checker at the session's start.
    pub fn new(session: &'a Session, symbols: &'a Symbols, tells_hints: bool) -> Self {
        Self {
            description: &session.description,
            clock: session.description.clock(),
            symbols,
            tells_hints,
            lifetimes: Lifetimes::default(),
            recent: Recent::new(),
            flushes: Flushes::default(),
            neighbours: Neighbours::default(),
            report: Report::default(),
            told: BTreeMap::new(),
            resets: 0,
            now: 0,
            missing_until: None,
        }
    }

    /// What was found.
    pub fn finish(self) -> Report {
        self.report
    }

    /// Events are missing here: what was mapped may be gone, and what was gone mapped again.
    pub fn miss(&mut self, records: u64) {
        self.report.missing = self.report.missing.saturating_add(records);
        self.missing_until = Some(self.now);
        self.flushes.forget();
    }

    /// Looks at the next event; what it changed of what is mapped.
    pub fn follow(&mut self, record: &Record) -> Change {
        self.report.events += 1;
        self.now = record.time();
        // Registers are a third of all events and say nothing here.
        if record.kind() == Some(Kind::Register) {
            return Change::None;
        }
        let Some(event) = record.event() else { return Change::None };
        if let Event::Attach { dart, stream, root } = event {
            self.attach(StreamPlace::new(dart, stream), root.is_some(), record);
        }
        let change = self.lifetimes.follow(&event, record);
        match change {
            Change::Mapped { mapping, over } => self.mapped(&mapping, over, record),
            Change::Unmapped { mapping: Some(mapping), .. } => self.unmapped(&mapping, record),
            Change::Unmapped { .. } => {}
            Change::None => self.other(&event, record),
        }
        change
    }

    fn other(&mut self, event: &Event, record: &Record) {
        match *event {
            Event::Flush { .. } => self.flushes.begin(record),
            Event::FlushDone { is_busy: false, .. } => self.flushes.end(record),
            // Others are recorded from here on: as if events were missing.
            Event::Filter { .. } => self.miss(0),
            Event::Merged { page, .. } => self.neighbours.merged(page, record.time()),
            Event::Attach { root: Some(root), .. } => self.neighbours.root(root),
            Event::Fault { dart, stream, iova, code, is_write, .. } => {
                self.fault(StreamPlace::new(dart, stream), iova, code, is_write, record);
            }
            Event::RedZone { at, offset, bytes } => {
                let iova = at.iova.iova().saturating_add(u64::from(offset));
                self.red_zone(at.into(), iova, bytes, record);
            }
            Event::Refused { at, page, reason } => {
                let message = format!(
                    "Oche could not map {:#x} (guest page {:#x}): {}. The device finds nothing there; a 4K DART would have mapped it.",
                    at.iova.iova(),
                    page.address(),
                    refusal_name(reason)
                );
                self.tell(Detector::Refused, at.into(), Some(at.iova.iova()), record, 0, message);
            }
            Event::InvalidateTimedOut { dart } => {
                let place = StreamPlace::from_index(dart.index() * 16);
                let message = format!(
                    "The hardware did not finish an invalidation on DART {}; its streams were cut off.",
                    dart.index()
                );
                if let Some(place) = place {
                    self.tell(Detector::InvalidateTimeout, place, None, record, 0, message);
                }
            }
            _ => {}
        }
    }

    fn mapped(&mut self, mapping: &Mapping, over: Option<Mapping>, record: &Record) {
        let space = self.lifetimes.space(mapping.owner);
        let iova = mapping.iova.iova();
        // What was missing may have said that the one in the way had gone.
        let over = over.filter(|over| self.missing_until.is_none_or(|until| over.since.time > until));
        if let Some(over) = over.filter(|over| over.owner == mapping.owner) {
            let message = format!(
                "{iova:#x} was mapped to guest page {:#x} while still mapped to {:#x} (since {}, {}).",
                mapping.page.address(),
                over.page.address(),
                self.since(&over),
                self.by(&over.since)
            );
            self.tell(Detector::DoubleMap, mapping.owner, Some(iova), record, 0, message);
        }
        match self.flushes.mapped(space, mapping) {
            Some(flushes::Unflushed::Same { before }) => {
                let message = format!(
                    "{iova:#x} went from guest page {:#x} to {:#x} within one flush: the entry was overwritten, or unmapped \
                     and mapped again with no flush between. The device may still use the old page.",
                    before.address(),
                    mapping.page.address()
                );
                self.tell(Detector::DoubleMap, mapping.owner, Some(iova), record, 0, message);
            }
            Some(flushes::Unflushed::Owed { unmapped }) => {
                let message = format!(
                    "{iova:#x} was taken out of the tables without a flush: that came to light in a flush made for another \
                     mapping at {} s, no flush of its own followed, and the address is mapped again. Until then the device \
                     could use the old page.",
                    seconds(self.clock, unmapped)
                );
                self.tell(Detector::UnmappedWithoutFlush, mapping.owner, Some(iova), record, 0, message);
            }
            None => {}
        }
        if let Some(sharing) = self.neighbours.mapped(mapping) {
            self.shared(mapping, sharing, record);
        }
    }

    fn shared(&mut self, mapping: &Mapping, sharing: neighbours::Sharing, record: &Record) {
        let page = mapping.page.address();
        let iova = mapping.iova.iova();
        let what = match sharing {
            neighbours::Sharing::Root => Some("holds the root of a DART's tables".to_owned()),
            neighbours::Sharing::Coherent { other } => Some(format!(
                "is coherent memory (read-write, as rings are) of {}",
                self.description.name_of(other)
            )),
            neighbours::Sharing::Written { other } => {
                Some(format!("is written by {} at the same time", self.description.name_of(other)))
            }
            neighbours::Sharing::Streaming => None,
        };
        match what {
            Some(what) => {
                let message = format!(
                    "Guest page {page:#x}, mapped at {iova:#x} for the device to {}, {what}: the device reaches all of the \
                     page, not just its buffer.",
                    permission(mapping.permission)
                );
                self.tell(Detector::NeighboursExposed, mapping.owner, Some(iova), record, 0, message);
            }
            None if self.tells_hints => {
                let message = format!(
                    "Guest page {page:#x}, mapped at {iova:#x} for the device to {}, is mapped elsewhere too: two buffers \
                     share it, and a device reaches both.",
                    permission(mapping.permission)
                );
                self.tell(Detector::SharedPage, mapping.owner, Some(iova), record, 0, message);
            }
            None => self.count(Detector::SharedPage),
        }
    }

    fn unmapped(&mut self, mapping: &Mapping, record: &Record) {
        let space = self.lifetimes.space(mapping.owner);
        self.recent.push(space, mapping, record.stamp());
        self.flushes.unmapped(space, mapping, record);
        if !self.neighbours.unmapped(mapping) {
            return;
        }
        if !self.tells_hints {
            self.count(Detector::NeverUsed);
            return;
        }
        let message = format!(
            "{:#x} (guest page {:#x}) was mapped for the device to write for {}, and no byte of it had changed when it was \
             unmapped.",
            mapping.iova.iova(),
            mapping.page.address(),
            interval(self.clock, mapping.since.time, record.time())
        );
        self.tell(Detector::NeverUsed, mapping.owner, Some(mapping.iova.iova()), record, 0, message);
    }

    fn fault(&mut self, place: StreamPlace, iova: u64, code: u16, is_write: bool, record: &Record) {
        let verdict = self.judge(place, iova, code, is_write, record);
        let (detector, because, program_counter) = verdict;
        let message = format!("The device was refused a {} at {iova:#x}: {because}", direction(is_write));
        self.tell(detector, place, Some(iova), record, program_counter, message);
    }

    /// Why an access was refused: the detector, the reason, and the code that is behind it.
    fn judge(
        &self,
        place: StreamPlace,
        iova: u64,
        code: u16,
        is_write: bool,
        record: &Record,
    ) -> (Detector, String, u64) {
        let page = oche_hyp::addr::IovaPage(u32::try_from(iova >> 12).unwrap_or(u32::MAX));
        let live = self.lifetimes.at(place, page).filter(|_| iova >> 44 == 0);
        if let Some(mapping) = live {
            let may = if is_write { mapping.permission.write } else { mapping.permission.read };
            if !may {
                let because = format!(
                    "it is mapped for the device to {} only, since {}, {}.",
                    permission(mapping.permission),
                    self.since(mapping),
                    self.by(&mapping.since)
                );
                return (Detector::WrongDirection, because, mapping.since.program_counter);
            }
        }
        let space = self.lifetimes.space(place);
        if let Some(gone) = self.recent.find(space, page) {
            let until = gone.unmapped;
            let again = match live {
                Some(mapping) => format!(" It is mapped again since {}.", self.since(mapping)),
                None => String::new(),
            };
            let because = format!(
                "it was mapped to guest page {:#x} from {} s and unmapped at {} s, {}; the fault was seen {} later.{again}",
                gone.page.address(),
                seconds(self.clock, gone.mapped),
                seconds(self.clock, until.time),
                self.by(&until),
                interval(self.clock, until.time, record.time())
            );
            return (Detector::UseAfterUnmap, because, until.program_counter);
        }
        let because = match live {
            Some(mapping) => format!(
                "it is mapped now, since {}, {}: the device came before the mapping did.",
                self.since(mapping),
                self.by(&mapping.since)
            ),
            None if code & 1 != 0 => "the stream has no tables for it, and had nothing mapped there.".into(),
            None => "nothing had been mapped there.".into(),
        };
        (Detector::WildAccess, because, live.map_or(0, |mapping| mapping.since.program_counter))
    }

    fn red_zone(&mut self, place: StreamPlace, iova: u64, bytes: u16, record: &Record) {
        let page = oche_hyp::addr::IovaPage((iova >> 12) as u32);
        let space = self.lifetimes.space(place);
        let (detector, because, program_counter) = match self.recent.find(space, page) {
            Some(gone) => (
                Detector::UseAfterUnmap,
                format!(
                    "it had been unmapped at {} s, {}.",
                    seconds(self.clock, gone.unmapped.time),
                    self.by(&gone.unmapped)
                ),
                gone.unmapped.program_counter,
            ),
            None => {
                let before = page
                    .0
                    .checked_sub(1)
                    .and_then(|before| self.lifetimes.at(place, oche_hyp::addr::IovaPage(before)));
                match before {
                    Some(mapping) => (
                        Detector::RedZoneHit,
                        format!(
                            "nothing was mapped there; the page before it was, {}: a buffer may have been overrun.",
                            self.by(&mapping.since)
                        ),
                        mapping.since.program_counter,
                    ),
                    None => (Detector::RedZoneHit, "nothing was mapped there.".into(), 0),
                }
            }
        };
        let message = format!(
            "The device wrote {bytes} bytes from {iova:#x} on, into a red zone: {because} Seen at the next change of the \
             granule; no memory of the guest was hit."
        );
        self.tell(detector, place, Some(iova), record, program_counter, message);
    }

    /// A stream is about to be cut off, or to get other tables.
    fn attach(&mut self, place: StreamPlace, is_on: bool, record: &Record) {
        let Some(root) = self.lifetimes.root(place) else { return };
        let partners = self.lifetimes.partners(place);
        let is_shared = partners.into_iter().any(|other| self.lifetimes.root(other) == Some(root));
        if is_shared || self.resets >= MOST_RESETS {
            return;
        }
        self.resets += 1;
        self.neighbours.no_root(root);
        // The new tables' mappings come in the flush that brings the new root.
        let is_old = |mapping: &&Mapping| {
            self.missing_until.is_none_or(|until| mapping.since.time > until)
                && !(is_on && self.lifetimes.is_of_current_flush(mapping, record.cpu()))
        };
        let left: Vec<Mapping> = self.lifetimes.of_space(place).filter(is_old).copied().collect();
        let Some(oldest) = left.iter().min_by_key(|mapping| mapping.since.time) else { return };
        let message = format!(
            "The stream was {} with {} pages mapped. The oldest is {:#x} (guest page {:#x}), since {}, {}.",
            if is_on { "given other tables" } else { "cut off" },
            left.len(),
            oldest.iova.iova(),
            oldest.page.address(),
            self.since(oldest),
            self.by(&oldest.since)
        );
        let (iova, code) = (oldest.iova.iova(), oldest.since.program_counter);
        self.tell(Detector::LeftAtReset, place, Some(iova), record, code, message);
    }

    fn count(&mut self, detector: Detector) {
        *self.report.totals.entry(detector.name()).or_default() += 1;
    }

    fn tell(
        &mut self,
        detector: Detector,
        place: StreamPlace,
        iova: Option<u64>,
        record: &Record,
        program_counter: u64,
        message: String,
    ) {
        self.count(detector);
        let told = self.told.entry((detector, place)).or_default();
        *told += 1;
        if *told > TOLD {
            return;
        }
        let code = if program_counter == 0 { record.program_counter() } else { program_counter };
        self.report.findings.push(Finding {
            detector,
            time_ns: self.clock.nanoseconds(record.time()),
            cpu: record.cpu(),
            device: self.description.name_of(place),
            dart: place.dart(),
            stream: place.stream(),
            iova: iova.map(|iova| format!("{iova:#x}")),
            code: if code == 0 { None } else { Some(self.symbols.name(code)) },
            message,
        });
    }

    fn since(&self, mapping: &Mapping) -> String {
        format!("{} s", seconds(self.clock, mapping.since.time))
    }

    fn by(&self, stamp: &Stamp) -> String {
        format!("by {} on CPU {}", self.symbols.name(stamp.program_counter), stamp.cpu)
    }
}

#[cfg(test)]
mod tests;
