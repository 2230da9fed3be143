//! Why a device could or could not reach an address: who owned it, what became of it, and what a
//! fault there means.
//!
//! Looks through the records without putting them in order first and keeps those of one granule, so
//! that ten million events take well under a second.

use oche_trace::record::{Record, Stamp};
use oche_types::addr::{Gfn, IovaPage};
use oche_types::event::Kind;

use super::callers::{ByCaller, by_caller};
use super::lifetime::{Lifetimes, StreamPlace};
use super::maps::permission_letters;
use super::reader::{ByteSource, TraceFile, TraceItem};
use super::symbols::Symbols;
use super::words::seconds;
use asker::{Asker, LISTED};
use story::{Interval, Story};

pub use answer::{Answer, DeviceAnswer, Incident, Overlap, Past, write_answer};
pub use asker::Question;

mod answer;
mod asker;
mod sentences;
mod story;

/// Records of one granule that are put in order; where there are more, the newest are.
const MAX_RECORDS: usize = 1 << 20;
/// Answers `question` about `session`.
pub fn why<S: ByteSource>(
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
    let Ok(iova) = u32::try_from(question.iova) else {
        answer.sentences.push(format!(
            "{:#x} is no address of a DART's device: they have 32 bits.",
            question.iova
        ));
        return answer;
    };
    let page = IovaPage(iova >> 12);
    let granule = page.0 >> 2;
    let records = collect(trace, session, symbols, |record| is_about(record, granule));
    let asker = Asker { description, clock: description.clock(), symbols, question, page };
    let places = asker.places(&records);
    if places.is_empty() {
        answer.sentences = asker.no_device(trace, session);
        return answer;
    }
    for place in places {
        let story = asker.story(place, &records);
        let overlapping = match story.page_meant {
            Some(gfn) => collect(trace, session, symbols, |record| is_of_page(record, gfn)),
            None => Vec::new(),
        };
        answer.devices.push(asker.answer(place, story, &overlapping, trace, session));
    }
    let watched = collect(trace, session, symbols, |record| {
        record.kind() == Some(Kind::Watch) && record.payload() >> 44 == u64::from(page.0)
    });
    if let Some(sentence) = asker.watched_sentence(&watched) {
        answer.devices.iter_mut().for_each(|device| device.sentences.push(sentence.clone()));
    }
    answer
}

/// The records that `is_wanted` picks, in the order of time.
fn collect<S: ByteSource>(
    trace: &TraceFile<S>,
    session: usize,
    symbols: &Symbols,
    is_wanted: impl Fn(&Record) -> bool,
) -> Vec<Record> {
    let mut records = Vec::new();
    let mut by = ByCaller::new(symbols);
    trace.scan(session, |record| {
        let record = by.apply(&record);
        if records.len() < MAX_RECORDS && is_wanted(&record) {
            records.push(record);
        }
    });
    if records.len() < MAX_RECORDS {
        records.sort_by_key(|record| (record.time(), record.cpu(), record.sequence()));
        return records;
    }
    // So many that they cannot all be kept: the newest, in one pass in order.
    let mut newest = std::collections::VecDeque::new();
    for item in by_caller(trace.events_of(session), symbols) {
        if let TraceItem::Record(record) = item
            && is_wanted(&record)
        {
            newest.push_back(record);
            if newest.len() > MAX_RECORDS {
                newest.pop_front();
            }
        }
    }
    newest.into()
}

/// Whether `record` is about the granule. Kinds are compared before anything is decoded:
/// of ten million records a few are kept.
fn is_about(record: &Record, granule: u32) -> bool {
    let Some(kind) = record.kind() else { return false };
    match kind {
        Kind::Map
        | Kind::Unmap
        | Kind::Permission
        | Kind::Refused
        | Kind::LiveMove
        | Kind::RedZone => (record.payload() >> 34) as u32 == granule,
        Kind::Fault => record.payload() >> 14 == u64::from(granule),
        Kind::Attach => true,
        _ => false,
    }
}

/// Whether `record` maps or unmaps `page`, or shows which streams share their tables.
fn is_of_page(record: &Record, page: Gfn) -> bool {
    match record.kind() {
        Some(Kind::Map | Kind::Unmap | Kind::Permission) => record.payload() as u32 == page.0,
        Some(Kind::Attach) => true,
        _ => false,
    }
}

impl Asker<'_> {
    /// The streams that had something at the page and are asked about; one of each set that shares
    /// its tables.
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
            let place = record
                .dart()
                .zip(record.stream())
                .map(|(dart, stream)| StreamPlace::new(dart, stream));
            if is_here && record.kind() == Some(Kind::Fault) {
                refused.extend(place.filter(|place| !refused.contains(place)));
            }
            places.extend(place.filter(|place| is_here && !places.contains(place)));
        }
        // Who is asked for by number stands for those whose tables it shares.
        let is_asked = |place: &StreamPlace| {
            self.question.whom.admits(*place, self.description)
                || lifetimes
                    .partners(*place)
                    .any(|other| self.question.whom.admits(other, self.description))
        };
        places.retain(is_asked);
        // The device that was refused there is meant, unless another is named.
        let whom = &self.question.whom;
        let is_open = whom.is_any();
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

    fn answer<S: ByteSource>(
        &self,
        place: StreamPlace,
        story: Story,
        overlapping: &[Record],
        trace: &TraceFile<S>,
        session: usize,
    ) -> DeviceAnswer {
        let at = story.at;
        let overlaps = self.overlaps(place, at, overlapping);
        let is_mapped = story.past.iter().any(|past| past.holds_at(at));
        let sentences = self.sentences(place, &story, &overlaps, trace, session);
        let end = at.map_or(story.past.len(), |at| {
            story
                .past
                .partition_point(|past| past.mapping.is_none_or(|mapping| mapping.since.time <= at))
                + 1
        });
        let end = end.min(story.past.len());
        let known = story.past.get(..end).unwrap_or_default();
        let mut shown: Vec<&Interval> =
            known.iter().rev().filter(|past| self.is_listed(past)).take(LISTED).collect();
        shown.reverse();
        let incidents = story.incidents.len().saturating_sub(LISTED);
        DeviceAnswer {
            device: self.description.name_of(place),
            driver: self.description.driver_of(place).map(str::to_owned),
            dart: place.dart(),
            stream: place.stream(),
            at_ns: at.map_or_else(
                || self.question.at_ns.unwrap_or_else(|| self.clock.nanoseconds(last_time(&story))),
                |at| self.clock.nanoseconds(at),
            ),
            is_mapped,
            sentences,
            times_mapped: story.times_mapped,
            history: shown.into_iter().map(|past| self.past(past)).collect(),
            overlaps,
            incidents: story.incidents.get(incidents..).unwrap_or_default().to_vec(),
        }
    }

    /// The answer for people: the fault, the owner, and what else is known.
    fn sentences<S: ByteSource>(
        &self,
        place: StreamPlace,
        story: &Story,
        overlaps: &[Overlap],
        trace: &TraceFile<S>,
        session: usize,
    ) -> Vec<String> {
        let at = story.at;
        let now = story.past.iter().rev().find(|past| past.holds_at(at)).copied();
        let before = story.past.iter().rev().find(|past| past.has_ended_by(at)).copied();
        let after = story
            .past
            .iter()
            .find(|past| {
                past.mapping.is_some_and(|mapping| at.is_some_and(|at| mapping.since.time > at))
            })
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
        sentences.extend(self.history_sentence(story));
        if !overlaps.is_empty() {
            sentences.push(sentences::overlap_sentence(overlaps));
        }
        sentences.extend(self.granule_sentence(story, now.is_some()));
        if !story.partners.is_empty() {
            let names: Vec<String> =
                story.partners.iter().map(|other| self.description.label_of(*other)).collect();
            sentences
                .push(format!("{} uses the same tables and reaches the same.", names.join(", ")));
        }
        if now.is_none() && before.is_none() && story.root_is_known {
            sentences.extend(self.nearest(place, at, trace, session));
        }
        sentences
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

    /// Whether `past` was mapped at some moment of the time that is asked for.
    fn is_listed(&self, past: &Interval) -> bool {
        let Question { from_ns, until_ns, .. } = self.question;
        let begun = past.mapping.map(|mapping| self.clock.nanoseconds(mapping.since.time));
        let ended = past.until.map(|until| self.clock.nanoseconds(until.time));
        until_ns.is_none_or(|until| begun.is_none_or(|begun| begun <= until))
            && from_ns.is_none_or(|from| ended.is_none_or(|ended| ended >= from))
    }

    fn past(&self, past: &Interval) -> Past {
        let by = |stamp: &Stamp| {
            format!("{} on CPU {}", self.symbols.name(stamp.program_counter), stamp.cpu)
        };
        Past {
            from_ns: past.mapping.map(|mapping| self.clock.nanoseconds(mapping.since.time)),
            until_ns: past.until.map(|until| self.clock.nanoseconds(until.time)),
            gpa: format!("{:#x}", past.page.address()),
            permission: past.mapping.as_ref().map(permission_letters),
            placement: past.mapping.map(|mapping| mapping.placement.name()),
            mapped_by: past.mapping.map(|mapping| by(&mapping.since)),
            unmapped_by: past.until.as_ref().map(by),
        }
    }
}

fn last_time(story: &Story) -> u64 {
    let times = story.past.iter().map(|past| {
        past.until
            .map_or(0, |until| until.time)
            .max(past.mapping.map_or(0, |mapping| mapping.since.time))
    });
    times.max().unwrap_or(0)
}

#[cfg(test)]
mod tests;
