//! The detectors, their findings, and the report of these.

use std::collections::BTreeMap;

use oche_trace::record::{Record, Stamp};
use oche_trace::text::Clock;
use schemars::JsonSchema;
use serde::Serialize;

use super::super::description::TraceDescription;
use super::super::filter::{Chooser, EventFilter, Shown};
use super::super::lifetime::{Mapping, StreamPlace};
use super::super::symbols::Symbols;
use super::super::words::{interval, seconds};

/// Findings of one detector and device that are reported in full; the others are counted.
pub(super) const MAX_REPORTED: u64 = 20;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Detector {
    /// A device was refused at an address that had been unmapped, or wrote there and hit a red
    /// zone. Writes and reads that reach a granule's other pages' red zone: only writes show.
    UseAfterUnmap,
    /// An unmap came to light in a flush that was made for a mapping, and no flush of its own
    /// followed. The events show flushes and not stores to tables, so with other CPUs flushing the
    /// same stream it stays unseen.
    UnmappedWithoutFlush,
    /// An address was mapped while it was mapped: the entry was overwritten, or cleared and filled
    /// with no flush between.
    DoubleMap,
    /// A device was refused because of the direction. In a granule that pages of both directions
    /// share, hardware allows both, and nothing shows.
    WrongDirection,
    /// A stream was cut off, or given other tables, with pages mapped. A driver that resets its
    /// device and leaves the stream as it is shows nothing here: see `oche trace leaks`.
    LeftAtReset,
    /// A device could write where it should not because of what shares a page: a table root,
    /// coherent memory (rings), or memory that another device writes. Buffers of a few bytes are
    /// known to the guest alone.
    NeighboursExposed,
    /// A device wrote where nothing was mapped, within a granule in use.
    RedZoneHit,
    /// A device was refused at an address at which nothing had been mapped, or for which missing
    /// events hide what was.
    WildAccess,
    /// Oche could not make reachable what the guest mapped.
    Refused,
    /// The hardware did not finish an invalidation.
    InvalidateTimeout,
    /// A hint: a device was to write, and no byte had changed when the page was unmapped. Only seen
    /// for bounce pages.
    NeverUsed,
    /// A hint: two mappings share a page, as buffers smaller than one do.
    SharedPage,
}

impl Detector {
    /// All detectors.
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

    /// Whether it judges accesses of devices, of which one mistake may cause many.
    fn is_of_an_access(self) -> bool {
        matches!(self, Self::UseAfterUnmap | Self::WrongDirection | Self::WildAccess)
    }

    /// Whether it finds what correct drivers do as well: reported on request, and no error.
    pub fn is_hint(self) -> bool {
        matches!(self, Self::NeverUsed | Self::SharedPage)
    }
}

/// What is looked for, and which findings are reported.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// Hints are reported and not only counted.
    pub reports_hints: bool,
    /// Only these detectors, if there are any.
    pub detectors: Vec<Detector>,
    /// Only these findings. Every event is looked at all the same.
    pub filter: EventFilter,
}

/// Something that should not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    /// The detector.
    pub detector: Detector,
    /// Nanoseconds since Oche's start.
    pub time_ns: u64,
    /// The CPU whose event showed it.
    pub cpu: u8,
    /// The device.
    pub device: String,
    /// The driver that the guest has bound to it, where the trace has that.
    pub driver: Option<String>,
    /// The DART's number.
    pub dart: usize,
    /// The stream's number.
    pub stream: usize,
    /// The address, in hexadecimal, where there is one.
    pub iova: Option<String>,
    /// The guest's code that is behind it, where known.
    pub code: Option<String>,
    /// The event, in a sentence or two.
    pub message: String,
    /// Further accesses of the same device to the same page, right after this one, that it stands
    /// for.
    pub more: u64,
}

/// The findings in a session's events.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct CheckReport {
    /// The findings, in the order of time: of each detector and device the first `MAX_REPORTED`.
    pub findings: Vec<Finding>,
    /// How much of each was found, reported or not. Hints are counted here too.
    pub totals: BTreeMap<&'static str, u64>,
    /// Events looked at.
    pub events: u64,
    /// Events that were lost or cannot be read: an anomaly that they could explain is not
    /// reported.
    pub missing: u64,
    /// Findings, hints apart, that were not asked for: of other devices, times or detectors.
    pub left_out: u64,
}

impl CheckReport {
    /// Errors: all findings but hints.
    pub fn errors(&self) -> u64 {
        let errors = Detector::ALL.iter().filter(|detector| !detector.is_hint());
        errors.filter_map(|detector| self.totals.get(detector.name())).sum()
    }
}

/// The subject of a finding.
#[derive(Clone, Copy, Debug)]
pub(super) struct About {
    pub(super) detector: Detector,
    pub(super) place: StreamPlace,
    pub(super) iova: Option<u64>,
    /// The guest's code that is behind it; 0: that of the event that showed it.
    pub(super) program_counter: u64,
}

impl About {
    /// Something at `mapping`, that the event's own code is behind.
    pub(super) fn mapping(detector: Detector, mapping: &Mapping) -> Self {
        Self { detector, place: mapping.owner, iova: Some(mapping.iova.iova()), program_counter: 0 }
    }

    /// The guest's code that is behind it; `record` showed it.
    fn code(&self, record: &Record) -> u64 {
        if self.program_counter == 0 { record.program_counter() } else { self.program_counter }
    }
}

/// Takes the findings of the detectors.
pub(super) struct Reporter<'a> {
    pub(super) description: &'a TraceDescription,
    pub(super) reports_hints: bool,
    chooser: Chooser<'a>,
    detectors: &'a [Detector],
    pub(super) report: CheckReport,
    clock: Clock,
    symbols: &'a Symbols,
    reported: BTreeMap<(Detector, StreamPlace), u64>,
    /// The detector, device and page of the access that was reported last.
    last: Option<(Detector, StreamPlace, u64)>,
}

impl<'a> Reporter<'a> {
    pub(super) fn new(
        description: &'a TraceDescription,
        symbols: &'a Symbols,
        options: &'a CheckOptions,
    ) -> Self {
        let (report, reported, last) = (CheckReport::default(), BTreeMap::new(), None);
        Self {
            description,
            reports_hints: options.reports_hints,
            chooser: Chooser::new(&options.filter, description, symbols),
            detectors: &options.detectors,
            report,
            clock: description.clock(),
            symbols,
            reported,
            last,
        }
    }

    /// The findings that are reported so far.
    pub(super) fn findings(&self) -> &[Finding] {
        &self.report.findings
    }

    /// Counts a finding that is not reported.
    pub(super) fn count(&mut self, about: About, record: &Record) {
        if self.is_asked_for(about, record) {
            *self.report.totals.entry(about.detector.name()).or_default() += 1;
        }
    }

    fn is_asked_for(&mut self, about: About, record: &Record) -> bool {
        let code = about.code(record);
        let place = match about.detector {
            // It is about all of the DART's streams.
            Detector::InvalidateTimeout => self.chooser.any_of_dart(about.place.dart()),
            _ => Some(about.place),
        };
        let Some(place) = place else { return false };
        let shown = Shown {
            place,
            iova: about.iova.map(|iova| (iova, 1)),
            time: record.time(),
            cpu: record.cpu(),
            code,
        };
        (self.detectors.is_empty() || self.detectors.contains(&about.detector))
            && self.chooser.admits_shown(&shown)
    }

    /// Reports what `record` showed.
    pub(super) fn report(&mut self, about: About, record: &Record, message: String) {
        let About { detector, place, iova, .. } = about;
        if !self.is_asked_for(about, record) {
            self.report.left_out += u64::from(!detector.is_hint());
            return;
        }
        *self.report.totals.entry(detector.name()).or_default() += 1;
        // A device fetches a command word by word: one mistake, and many refused accesses.
        let access =
            iova.filter(|_| detector.is_of_an_access()).map(|iova| (detector, place, iova >> 12));
        let is_more = access.is_some() && access == self.last;
        self.last = access;
        if is_more && let Some(finding) = self.report.findings.last_mut() {
            finding.more += 1;
            return;
        }
        let reported = self.reported.entry((detector, place)).or_default();
        *reported += 1;
        if *reported > MAX_REPORTED {
            self.last = None;
            return;
        }
        let code = about.code(record);
        self.report.findings.push(Finding {
            detector,
            time_ns: self.clock.nanoseconds(record.time()),
            cpu: record.cpu(),
            device: self.description.name_of(place),
            driver: self.description.driver_of(place).map(str::to_owned),
            dart: place.dart(),
            stream: place.stream(),
            iova: iova.map(|iova| format!("{iova:#x}")),
            code: if code == 0 { None } else { Some(self.symbols.name(code)) },
            message,
            more: 0,
        });
    }

    /// `12.5 s`
    pub(super) fn at(&self, ticks: u64) -> String {
        format!("{} s", seconds(self.clock, ticks))
    }

    /// `152 us`
    pub(super) fn between(&self, first: u64, last: u64) -> String {
        interval(self.clock, first, last)
    }

    /// `by dart_flush+0x10 on CPU 2`
    pub(super) fn by(&self, stamp: &Stamp) -> String {
        format!("by {} on CPU {}", self.symbols.name(stamp.program_counter), stamp.cpu)
    }
}
