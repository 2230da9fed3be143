//! Why a device could or could not reach an address: who owned it, what became of it, and what a fault there means.
//!
//! Looks through the records without putting them in order first and keeps those of one granule, so that ten million
//! events take well under a second.

use std::io::{self, Write};

use oche_hyp::addr::{Gfn, IovaPage, PAGE_BYTES};
use oche_hyp::trace::Event;
use oche_hyp::trace::record::{Kind, Record, Stamp};
use oche_hyp::trace::text::{Clock, placement_name, refusal_name};
use serde::Serialize;

use super::description::Description;
use super::lifetime::{Change, Lifetimes, Mapping, StreamPlace};
use super::maps::{Whom, permission_letters};
use super::reader::{Item, Source, TraceFile};
use super::symbols::Symbols;
use super::words::{direction, interval, many, permission, seconds};

/// Records of one granule that are put in order; where there are more, the newest are.
const MOST_RECORDS: usize = 1 << 20;
/// Mappings and other happenings that are listed.
const LISTED: usize = 8;

/// What to explain.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The address.
    pub iova: u64,
    /// Whose.
    pub whom: Whom,
    /// The moment, in nanoseconds since Oche's start; that of the last fault there, or the end, where there is none.
    pub at_ns: Option<u64>,
}

/// The answer to `oche trace why`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Answer {
    /// The address.
    pub iova: String,
    /// What is to be said before all else.
    pub sentences: Vec<String>,
    /// By device: its history at the address.
    pub devices: Vec<DeviceAnswer>,
}

/// What one device had at the address.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DeviceAnswer {
    /// The device.
    pub device: String,
    /// The DART's number.
    pub dart: usize,
    /// The stream's number.
    pub stream: usize,
    /// The moment explained, in nanoseconds since Oche's start.
    pub at_ns: u64,
    /// Whether the page was mapped then.
    pub is_mapped: bool,
    /// The answer, in sentences.
    pub sentences: Vec<String>,
    /// How often the page was mapped.
    pub times_mapped: u64,
    /// The mappings of the page up to the moment and the first one after it, oldest first; at most the last few.
    pub history: Vec<Past>,
    /// What else had the same guest page then.
    pub overlaps: Vec<Overlap>,
    /// Accesses that were refused in the page, red zones hit, mappings refused; at most the last few.
    pub incidents: Vec<Incident>,
}

/// A mapping of the page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Past {
    /// When it was mapped, in nanoseconds since Oche's start; `null` where that was before the trace.
    pub from_ns: Option<u64>,
    /// When it was unmapped; `null` where it was not.
    pub until_ns: Option<u64>,
    /// The guest page's address.
    pub gpa: String,
    /// `rw`, `r-` or `-w`.
    pub permission: Option<&'static str>,
    /// How it was reached.
    pub placement: Option<&'static str>,
    /// The guest's code and CPU that mapped it.
    pub mapped_by: Option<String>,
    /// The guest's code and CPU that unmapped it.
    pub unmapped_by: Option<String>,
}

/// Another mapping of the same guest page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Overlap {
    /// Its device.
    pub device: String,
    /// Its address.
    pub iova: String,
    /// `rw`, `r-` or `-w`.
    pub permission: &'static str,
    /// Since when, in nanoseconds since Oche's start.
    pub since_ns: u64,
}

/// Something else that happened at the page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Incident {
    /// When, in nanoseconds since Oche's start.
    pub time_ns: u64,
    /// `io_page_fault`, `red_zone` or `refused`.
    pub event: &'static str,
    /// What, in words.
    pub what: String,
}

/// Answers `question` about `session`.
pub fn why<S: Source>(
    trace: &TraceFile<S>,
    session: usize,
    question: &Question,
    symbols: &Symbols,
) -> Answer {
    let mut answer = Answer { iova: format!("{:#x}", question.iova), ..Answer::default() };
    let Some(description) = trace.sessions.get(session).map(|session| &session.description) else {
        answer.sentences.push("The trace has no such boot.".into());
        return answer;
    };
    let Some(page) = u32::try_from(question.iova >> 12).ok().map(IovaPage) else {
        answer
            .sentences
            .push(format!("{:#x} is no address of a DART's device: they have 32 bits.", question.iova));
        return answer;
    };
    let granule = page.0 >> 2;
    let records = collect(trace, session, |record| is_about(record, granule));
    let asker = Asker { description, clock: description.clock(), symbols, question, page };
    let places = asker.places(&records);
    if places.is_empty() {
        answer.sentences = asker.nobody(trace, session);
        return answer;
    }
    for place in places {
        let story = asker.story(place, &records);
        let overlapping = match story.page_meant {
            Some(gfn) => collect(trace, session, |record| is_of_page(record, gfn)),
            None => Vec::new(),
        };
        answer.devices.push(asker.answer(place, story, &overlapping, trace, session));
    }
    answer
}

/// The records that `is_wanted` picks, in the order of time.
fn collect<S: Source>(
    trace: &TraceFile<S>,
    session: usize,
    is_wanted: impl Fn(&Record) -> bool,
) -> Vec<Record> {
    let mut records = Vec::new();
    trace.scan(session, |record| {
        if records.len() < MOST_RECORDS && is_wanted(&record) {
            records.push(record);
        }
    });
    if records.len() < MOST_RECORDS {
        records.sort_by_key(|record| (record.time(), record.cpu(), record.sequence()));
        return records;
    }
    // So many that they cannot all be kept: the newest, in one pass in order.
    let mut newest = std::collections::VecDeque::new();
    for item in trace.events_of(session) {
        if let Item::Record(record) = item
            && is_wanted(&record)
        {
            newest.push_back(record);
            if newest.len() > MOST_RECORDS {
                newest.pop_front();
            }
        }
    }
    newest.into()
}

/// Whether `record` says something of the granule. Kinds are compared before anything is decoded: of ten million records
/// a few are kept.
fn is_about(record: &Record, granule: u32) -> bool {
    let Some(kind) = record.kind() else { return false };
    match kind {
        Kind::Map | Kind::Unmap | Kind::Refused | Kind::LiveMove | Kind::RedZone => {
            (record.payload() >> 34) as u32 == granule
        }
        Kind::Fault => record.payload() >> 14 == u64::from(granule),
        Kind::Attach => true,
        _ => false,
    }
}

/// Whether `record` maps or unmaps `page`, or tells which streams share their tables.
fn is_of_page(record: &Record, page: Gfn) -> bool {
    match record.kind() {
        Some(Kind::Map | Kind::Unmap) => record.payload() as u32 == page.0,
        Some(Kind::Attach) => true,
        _ => false,
    }
}

struct Asker<'a> {
    description: &'a Description,
    clock: Clock,
    symbols: &'a Symbols,
    question: &'a Question,
    page: IovaPage,
}

/// What the records tell of one device.
#[derive(Default)]
struct Story {
    /// The moment that is explained, in ticks; `None`: the end.
    at: Option<u64>,
    fault: Option<(Record, Event)>,
    times_mapped: u64,
    past: Vec<Interval>,
    incidents: Vec<Incident>,
    /// The other slots of the granule, as they are at the moment.
    neighbours: Vec<Mapping>,
    page_meant: Option<Gfn>,
    partners: Vec<StreamPlace>,
    root_is_known: bool,
}

/// A mapping of the page, over time.
#[derive(Clone, Copy, Debug)]
struct Interval {
    mapping: Option<Mapping>,
    page: Gfn,
    until: Option<Stamp>,
}

impl Interval {
    fn holds_at(&self, at: Option<u64>) -> bool {
        let begun = self.mapping.is_none_or(|mapping| at.is_none_or(|at| mapping.since.time <= at));
        begun && self.until.is_none_or(|until| at.is_some_and(|at| until.time > at))
    }

    fn has_ended_by(&self, at: Option<u64>) -> bool {
        self.until.is_some_and(|until| at.is_none_or(|at| until.time <= at))
    }
}

impl Asker<'_> {
    /// The streams that had something at the page and are asked about; one of each set that shares its tables.
    fn places(&self, records: &[Record]) -> Vec<StreamPlace> {
        let mut lifetimes = Lifetimes::default();
        let mut places: Vec<StreamPlace> = Vec::new();
        let mut refused: Vec<StreamPlace> = Vec::new();
        for record in records {
            lifetimes.apply(record);
            let is_here = match record.kind() {
                Some(Kind::Attach) => false,
                Some(Kind::Fault) => record.payload() >> 12 == u64::from(self.page.0),
                _ => (record.payload() >> 32) as u32 == self.page.0,
            };
            let place =
                record.dart().zip(record.stream()).map(|(dart, stream)| StreamPlace::new(dart, stream));
            if is_here && record.kind() == Some(Kind::Fault) {
                refused.extend(place.filter(|place| !refused.contains(place)));
            }
            places.extend(place.filter(|place| is_here && !places.contains(place)));
        }
        // Who is asked for by number stands for those whose tables it shares.
        let is_asked = |place: &StreamPlace| {
            self.question.whom.admits(*place, self.description)
                || lifetimes.partners(*place).any(|other| self.question.whom.admits(other, self.description))
        };
        places.retain(is_asked);
        // Who was refused there is who is asked about, unless somebody else is named.
        let whom = &self.question.whom;
        let is_open = whom.dart.is_none() && whom.stream.is_none() && whom.device.is_none();
        if is_open && !refused.is_empty() && self.question.at_ns.is_none() {
            places.retain(|place| refused.iter().any(|other| lifetimes.share(*other, *place)));
        }
        let mut chosen: Vec<StreamPlace> = Vec::new();
        for place in places {
            if !chosen.iter().any(|other| lifetimes.share(*other, place)) {
                chosen.push(place);
            }
        }
        chosen
    }

    fn story(&self, place: StreamPlace, records: &[Record]) -> Story {
        let mut final_spaces = Lifetimes::default();
        for record in records.iter().filter(|record| record.kind() == Some(Kind::Attach)) {
            final_spaces.apply(record);
        }
        let is_ours = |other: StreamPlace| final_spaces.share(place, other);
        let of = |record: &Record| Some(StreamPlace::new(record.dart()?, record.stream()?));
        let mut faults = records.iter().filter(|record| {
            record.kind() == Some(Kind::Fault)
                && record.payload() >> 12 == u64::from(self.page.0)
                && of(record).is_some_and(is_ours)
        });
        let asked = self.question.at_ns.map(|at| ticks_at(self.clock, at));
        let fault = faults.rfind(|record| asked.is_none_or(|at| record.time() <= at));
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
            match lifetimes.follow(&event, record) {
                Change::Mapped { mapping, .. } if mapping.iova == self.page && is_ours(mapping.owner) => {
                    story.times_mapped += 1;
                    story.past.push(Interval { mapping: Some(mapping), page: mapping.page, until: None });
                }
                Change::Unmapped { at, iova, mapping } if iova == self.page && is_ours(at) => {
                    story.close(mapping, record, &event);
                }
                _ => self.incident(&event, record, &is_ours, &mut story.incidents),
            }
        }
        if !is_past {
            story.neighbours = self.neighbours(&lifetimes, place);
        }
        let meant = story.past.iter().rev().find(|past| past.holds_at(at));
        story.page_meant = meant.map(|past| past.page);
        story
    }

    fn neighbours(&self, lifetimes: &Lifetimes, place: StreamPlace) -> Vec<Mapping> {
        let first = self.page.0 & !3;
        let slots = (first..=first | 3).filter(|slot| *slot != self.page.0);
        slots.filter_map(|slot| lifetimes.at(place, IovaPage(slot)).copied()).collect()
    }

    fn incident(
        &self,
        event: &Event,
        record: &Record,
        is_ours: &impl Fn(StreamPlace) -> bool,
        incidents: &mut Vec<Incident>,
    ) {
        let time_ns = self.clock.nanoseconds(record.time());
        let what = match *event {
            Event::Fault { dart, stream, iova, is_write, code, .. }
                if iova >> 12 == u64::from(self.page.0) && is_ours(StreamPlace::new(dart, stream)) =>
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
            Event::Refused { at, page, reason } if at.iova == self.page && is_ours(at.into()) => {
                format!("guest page {:#x} could not be mapped: {}", page.address(), refusal_name(reason))
            }
            _ => return,
        };
        incidents.push(Incident { time_ns, event: record.kind().map_or("unknown", Kind::name), what });
        // Twice as many as are shown, so that seldom all must move.
        if incidents.len() > 2 * LISTED {
            incidents.drain(..LISTED);
        }
    }

    fn answer<S: Source>(
        &self,
        place: StreamPlace,
        story: Story,
        overlapping: &[Record],
        trace: &TraceFile<S>,
        session: usize,
    ) -> DeviceAnswer {
        let at = story.at;
        let overlaps = self.overlaps(place, at, overlapping);
        let now = story.past.iter().rev().find(|past| past.holds_at(at)).copied();
        let before = story.past.iter().rev().find(|past| past.has_ended_by(at)).copied();
        let after = story
            .past
            .iter()
            .find(|past| past.mapping.is_some_and(|mapping| at.is_some_and(|at| mapping.since.time > at)))
            .copied();
        let mut sentences = Vec::new();
        if let Some((record, event)) = &story.fault {
            sentences.push(self.fault_sentence(place, record, event, now, before));
        }
        sentences.push(self.owner_sentence(place, at, now, before));
        if now.is_none()
            && let Some(after) = after.and_then(|after| after.mapping)
        {
            sentences.push(format!(
                "It was mapped next at {} s, {}.",
                seconds(self.clock, after.since.time),
                self.by(&after.since)
            ));
        }
        sentences.extend(self.history_sentence(&story));
        if !overlaps.is_empty() {
            sentences.push(overlap_sentence(&overlaps));
        }
        sentences.extend(self.granule_sentence(&story, now.is_some()));
        if !story.partners.is_empty() {
            let names: Vec<String> =
                story.partners.iter().map(|other| self.description.name_of(*other)).collect();
            sentences.push(format!("{} uses the same tables and reaches the same.", names.join(", ")));
        }
        if now.is_none() && before.is_none() && story.root_is_known {
            sentences.extend(self.nearest(place, at, trace, session));
        }
        let end = at.map_or(story.past.len(), |at| {
            story.past.partition_point(|past| past.mapping.is_none_or(|mapping| mapping.since.time <= at)) + 1
        });
        let end = end.min(story.past.len());
        let shown = story.past.get(end.saturating_sub(LISTED)..end).unwrap_or_default();
        let incidents = story.incidents.len().saturating_sub(LISTED);
        DeviceAnswer {
            device: self.description.name_of(place),
            dart: place.dart(),
            stream: place.stream(),
            at_ns: at.map_or_else(
                || self.question.at_ns.unwrap_or_else(|| self.clock.nanoseconds(last_time(&story))),
                |at| self.clock.nanoseconds(at),
            ),
            is_mapped: now.is_some(),
            sentences,
            times_mapped: story.times_mapped,
            history: shown.iter().map(|past| self.past(past)).collect(),
            overlaps,
            incidents: story.incidents.get(incidents..).unwrap_or_default().to_vec(),
        }
    }

    fn fault_sentence(
        &self,
        place: StreamPlace,
        record: &Record,
        event: &Event,
        now: Option<Interval>,
        before: Option<Interval>,
    ) -> String {
        let Event::Fault { iova, code, is_write, is_hidden, .. } = *event else { return String::new() };
        let meaning = match (now.and_then(|now| now.mapping), before) {
            (Some(mapping), _) if !allows(&mapping, is_write) => format!(
                "wrong direction: the page was mapped for the device to {} only. Look at the direction that {} gave \
                 when it mapped the buffer.",
                permission(mapping.permission),
                self.symbols.name(mapping.since.program_counter)
            ),
            (_, Some(Interval { until: Some(until), .. })) => format!(
                "use after unmap: the last mapping had ended {} before the fault was seen. The driver unmapped the \
                 buffer, {}, before the device was done with it, or the device was given the address too late.",
                interval(self.clock, until.time, record.time()),
                self.by(&until)
            ),
            (Some(mapping), None) => format!(
                "too early: the page is mapped now, since {} s, and was not when the device came.",
                seconds(self.clock, mapping.since.time)
            ),
            _ => "a wild address: nothing had been mapped there. The device was given an address that was never mapped \
                  for it, or runs over the end of a buffer."
                .into(),
        };
        format!(
            "At {} s the guest learned that {} had been refused a {} of {iova:#x} (code {code:#x}: {}). It means {meaning}{}",
            seconds(self.clock, record.time()),
            self.description.name_of(place),
            direction(is_write),
            code_in_words(code),
            if is_hidden { " The guest did not see it: its DART still held an earlier fault." } else { "" }
        )
    }

    fn owner_sentence(
        &self,
        place: StreamPlace,
        at: Option<u64>,
        now: Option<Interval>,
        before: Option<Interval>,
    ) -> String {
        let when = at.map_or("When the trace ends".into(), |at| format!("At {} s", seconds(self.clock, at)));
        let device = self.description.name_of(place);
        let offset = self.question.iova & (PAGE_BYTES as u64 - 1);
        match (now, before) {
            (Some(Interval { mapping: Some(mapping), .. }), _) => format!(
                "{when}, {:#x} of {device} was guest address {:#x}, mapped for the device to {} ({}) since {} s, {}.",
                self.question.iova,
                mapping.page.address() + offset,
                permission(mapping.permission),
                placement_name(mapping.placement),
                seconds(self.clock, mapping.since.time),
                self.by(&mapping.since)
            ),
            (Some(Interval { page, .. }), _) => format!(
                "{when}, {:#x} of {device} was guest address {:#x}, mapped before the trace began.",
                self.question.iova,
                page.address() + offset
            ),
            (None, Some(before @ Interval { until: Some(until), .. })) => format!(
                "{when}, nothing was mapped at {:#x} of {device}. The last to own it was guest page {:#x}{}, unmapped at {} s, {}.",
                self.question.iova,
                before.page.address(),
                before.mapping.map_or(", mapped before the trace began".into(), |mapping| format!(
                    ", mapped for the device to {} from {} s, {}",
                    permission(mapping.permission),
                    seconds(self.clock, mapping.since.time),
                    self.by(&mapping.since)
                )),
                seconds(self.clock, until.time),
                self.by(&until)
            ),
            _ => format!(
                "{when}, nothing was mapped at {:#x} of {device}, nor had anything been before.",
                self.question.iova
            ),
        }
    }

    fn history_sentence(&self, story: &Story) -> Option<String> {
        let mut spans: Vec<u64> = story
            .past
            .iter()
            .filter_map(|past| Some(past.until?.time.saturating_sub(past.mapping?.since.time)))
            .collect();
        if story.times_mapped < 2 {
            return None;
        }
        spans.sort_unstable();
        let middle = spans.get(spans.len() / 2)?;
        Some(format!(
            "In all of the trace the page was mapped {} times, for {} in the middle (shortest {}, longest {}).",
            story.times_mapped,
            interval(self.clock, 0, *middle),
            interval(self.clock, 0, *spans.first()?),
            interval(self.clock, 0, *spans.last()?)
        ))
    }

    fn granule_sentence(&self, story: &Story, is_mapped: bool) -> Option<String> {
        if story.neighbours.is_empty() {
            return None;
        }
        let slots: Vec<String> = story
            .neighbours
            .iter()
            .map(|mapping| format!("{:#x} ({})", mapping.iova.iova(), permission_letters(mapping)))
            .collect();
        let so = if is_mapped {
            "hardware allows in each what it allows in any"
        } else {
            "so a write here meets a red zone and a read its pattern, and neither faults"
        };
        let verb = if slots.len() == 1 { "is" } else { "are" };
        Some(format!("In the same 16K granule {} {verb} mapped: {so}.", slots.join(", ")))
    }

    fn overlaps(&self, place: StreamPlace, at: Option<u64>, records: &[Record]) -> Vec<Overlap> {
        let mut lifetimes = Lifetimes::default();
        for record in records {
            if at.is_some_and(|at| record.time() > at) {
                break;
            }
            lifetimes.apply(record);
        }
        let others = lifetimes
            .sorted()
            .into_iter()
            .filter(|mapping| mapping.iova != self.page || !lifetimes.share(mapping.owner, place));
        let overlaps = others.take(LISTED).map(|mapping| Overlap {
            device: self.description.name_of(mapping.owner),
            iova: format!("{:#x}", mapping.iova.iova()),
            permission: permission_letters(&mapping),
            since_ns: self.clock.nanoseconds(mapping.since.time),
        });
        overlaps.collect()
    }

    /// Where the nearest mappings are, for an address that never was one.
    fn nearest<S: Source>(
        &self,
        place: StreamPlace,
        at: Option<u64>,
        trace: &TraceFile<S>,
        session: usize,
    ) -> Option<String> {
        let mut lifetimes = Lifetimes::default();
        for item in trace.events_of(session) {
            if let Item::Record(record) = item {
                if at.is_some_and(|at| record.time() > at) {
                    break;
                }
                lifetimes.apply(&record);
            }
        }
        let below = lifetimes
            .of_space(place)
            .filter(|mapping| mapping.iova < self.page)
            .max_by_key(|mapping| mapping.iova);
        let above = lifetimes
            .of_space(place)
            .filter(|mapping| mapping.iova > self.page)
            .min_by_key(|mapping| mapping.iova);
        let tell = |mapping: &Mapping, side: &str, pages: u32| {
            format!(
                "{:#x} ({}, {} since {} s, {}), {} {side}",
                mapping.iova.iova(),
                permission_letters(mapping),
                self.description.name_of(mapping.owner),
                seconds(self.clock, mapping.since.time),
                self.by(&mapping.since),
                many(u64::from(pages), "page")
            )
        };
        let below = below.map(|mapping| tell(mapping, "below", self.page.0 - mapping.iova.0));
        let above = above.map(|mapping| tell(mapping, "above", mapping.iova.0 - self.page.0));
        let sides: Vec<String> = below.into_iter().chain(above).collect();
        if sides.is_empty() {
            return Some("The device had nothing mapped at all then.".into());
        }
        Some(format!("The nearest that was mapped then: {}.", sides.join(", and ")))
    }

    /// What to say where no event speaks of the page.
    fn nobody<S: Source>(&self, trace: &TraceFile<S>, session: usize) -> Vec<String> {
        let whom = &self.question.whom;
        let mut known: Vec<StreamPlace> = Vec::new();
        trace.scan(session, |record| {
            if let Some((dart, stream)) = record.dart().zip(record.stream()) {
                let place = StreamPlace::new(dart, stream);
                // One stream follows itself for thousands of events.
                if known.last() != Some(&place) && matches!(record.kind(), Some(Kind::Map | Kind::Attach)) {
                    known.retain(|other| *other != place);
                    known.push(place);
                }
            }
        });
        known.sort();
        let asked: Vec<StreamPlace> =
            known.iter().copied().filter(|place| whom.admits(*place, self.description)).collect();
        let names = |places: &[StreamPlace]| {
            let names = places.iter().map(|place| {
                format!(
                    "{} (DART {} stream {})",
                    self.description.name_of(*place),
                    place.dart(),
                    place.stream()
                )
            });
            names.collect::<Vec<_>>().join(", ")
        };
        if asked.is_empty() {
            return vec![format!("The trace knows no such device. It has: {}.", names(&known))];
        }
        let mut sentences = vec![format!(
            "No event speaks of {:#x} for {}: never mapped, never refused.",
            self.question.iova,
            names(&asked)
        )];
        let at = self.question.at_ns.map(|at| ticks_at(self.clock, at));
        if let [place] = asked.as_slice() {
            sentences.extend(self.nearest(*place, at, trace, session));
        }
        sentences
    }

    fn past(&self, past: &Interval) -> Past {
        let by = |stamp: &Stamp| format!("{} on CPU {}", self.symbols.name(stamp.program_counter), stamp.cpu);
        Past {
            from_ns: past.mapping.map(|mapping| self.clock.nanoseconds(mapping.since.time)),
            until_ns: past.until.map(|until| self.clock.nanoseconds(until.time)),
            gpa: format!("{:#x}", past.page.address()),
            permission: past.mapping.as_ref().map(permission_letters),
            placement: past.mapping.map(|mapping| placement_name(mapping.placement)),
            mapped_by: past.mapping.map(|mapping| by(&mapping.since)),
            unmapped_by: past.until.as_ref().map(by),
        }
    }

    fn by(&self, stamp: &Stamp) -> String {
        format!("by {} on CPU {}", self.symbols.name(stamp.program_counter), stamp.cpu)
    }
}

impl Story {
    fn close(&mut self, mapping: Option<Mapping>, record: &Record, event: &Event) {
        let until = Some(record.stamp());
        let open = self.past.iter_mut().rev().find(|past| past.until.is_none() && past.mapping == mapping);
        match (open, event) {
            (Some(open), _) => open.until = until,
            (None, Event::Unmap { page, .. }) => {
                self.past.push(Interval { mapping: None, page: *page, until });
            }
            _ => {}
        }
    }
}

fn last_time(story: &Story) -> u64 {
    let times = story.past.iter().map(|past| {
        past.until.map_or(0, |until| until.time).max(past.mapping.map_or(0, |mapping| mapping.since.time))
    });
    times.max().unwrap_or(0)
}

fn allows(mapping: &Mapping, is_write: bool) -> bool {
    if is_write { mapping.permission.write } else { mapping.permission.read }
}

/// The tick of a moment in nanoseconds since the start: the first that shows as that or later.
fn ticks_at(clock: Clock, nanoseconds: u64) -> u64 {
    let ticks = u128::from(nanoseconds) * u128::from(clock.counter_hz.max(1)) / 1_000_000_000;
    let ticks = u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(clock.start_ticks);
    // Division rounds down on both sides: the tick that shows as this nanosecond may be the next.
    if clock.nanoseconds(ticks.saturating_add(1)) <= nanoseconds { ticks.saturating_add(1) } else { ticks }
}

/// A fault's code, in words. Source: `hyp/src/dart/registers.rs`, `FaultCode`.
pub fn code_in_words(code: u16) -> &'static str {
    match code {
        _ if code & 0x1 != 0 => "the stream has no table for this address",
        _ if code & 0x2 != 0 => "no first-level entry, so nothing is mapped within 2 MiB of it",
        _ if code & 0x4 != 0 => "no entry for the page",
        _ if code & 0x8 != 0 => "the page may not be written",
        _ if code & 0x10 != 0 => "the page may not be read",
        _ => "a code that this program does not know",
    }
}

fn overlap_sentence(overlaps: &[Overlap]) -> String {
    let others: Vec<String> = overlaps
        .iter()
        .map(|overlap| format!("{} at {} ({})", overlap.device, overlap.iova, overlap.permission))
        .collect();
    format!("The same guest page was also mapped for {}.", others.join(", "))
}

/// Writes the answer for people.
///
/// # Errors
///
/// Those of `out`.
pub fn write_answer(answer: &Answer, out: &mut impl Write) -> io::Result<()> {
    for sentence in &answer.sentences {
        writeln!(out, "{sentence}")?;
    }
    for (index, device) in answer.devices.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        writeln!(
            out,
            "{} of {} (DART {} stream {})",
            answer.iova, device.device, device.dart, device.stream
        )?;
        for sentence in &device.sentences {
            writeln!(out, "  {sentence}")?;
        }
        if !device.history.is_empty() {
            writeln!(
                out,
                "\n  {:>16}   {:<16}  may placement  guest page     mapped by; unmapped by",
                "from", "until"
            )?;
        }
        for past in &device.history {
            let time = |time: Option<u64>, none: &str| time.map_or(none.to_owned(), nanoseconds);
            writeln!(
                out,
                "  {:>16} - {:<16}  {:<3} {:<10} {:<14} {}; {}",
                time(past.from_ns, "before"),
                time(past.until_ns, "still mapped"),
                past.permission.unwrap_or("?"),
                past.placement.unwrap_or("?"),
                past.gpa,
                past.mapped_by.as_deref().unwrap_or("?"),
                past.unmapped_by.as_deref().unwrap_or("-")
            )?;
        }
        for incident in &device.incidents {
            writeln!(out, "  {:>16}   {}: {}", nanoseconds(incident.time_ns), incident.event, incident.what)?;
        }
    }
    Ok(())
}

fn nanoseconds(time: u64) -> String {
    seconds(Clock { counter_hz: 1_000_000_000, start_ticks: 0 }, time)
}

#[cfg(test)]
mod tests;
