//! Events around findings and refused accesses: a bounded number, so that the page stays small.

use std::collections::BTreeMap;

use oche_trace::record::Record;
use oche_trace::text::{Clock, Line, kind_name};
use oche_types::event::Kind;

use super::super::description::TraceDescription;
use super::super::lifetime::StreamPlace;
use super::super::symbols::Symbols;
use super::data::EventRow;

/// Findings and refused accesses that have events, at the most.
pub(super) const MAX_SUBJECTS: usize = 64;
/// Events of the same stream or its DART that are kept before one, and as many after it.
const BESIDE: usize = 4;
/// Events around one, itself included, at the most.
#[cfg(test)]
pub(super) const EVENTS_EACH: usize = 1 + super::last::EACH + 2 * BESIDE;
/// Events of a DART that are kept to choose from.
const KEPT: usize = 16;

/// An event's place in a trace, by which it is kept once: time, CPU, number on that CPU.
type Key = (u64, u8, u32);

/// An event that others stand around.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    own: Key,
    /// What happened at its page before, oldest first.
    at_page: Vec<Key>,
    beside: Vec<Key>,
}

/// The subjects, and the events around them.
#[derive(Debug, Default)]
pub(super) struct Around {
    events: BTreeMap<Key, Record>,
    subjects: Vec<Subject>,
    /// The last events of each DART.
    recent: Vec<Vec<Record>>,
    /// Subjects that wait for the events after them: which, and how many more.
    waiting: Vec<(usize, StreamPlace, usize)>,
}

impl Around {
    /// Follows `record`, after subjects that it makes were added.
    pub(super) fn push(&mut self, record: &Record) {
        // Registers and trapped accesses are most events, and say little.
        let is_noise = matches!(
            record.kind(),
            None | Some(
                Kind::Register | Kind::Access | Kind::Data | Kind::Callers | Kind::CallChain
            )
        );
        let Some(dart) = record.dart().filter(|_| !is_noise).map(|dart| dart.index()) else {
            return;
        };
        if self.recent.len() <= dart {
            self.recent.resize(dart + 1, Vec::new());
        }
        let recent = &mut self.recent[dart];
        if recent.len() == KEPT {
            recent.remove(0);
        }
        recent.push(*record);
        if self.waiting.is_empty() {
            return;
        }
        for (subject, place, left) in &mut self.waiting {
            let key = key_of(record);
            if let Some(subject) = self.subjects.get_mut(*subject)
                && is_beside(record, *place)
                && subject.own != key
            {
                self.events.insert(key, *record);
                subject.beside.push(key);
                *left -= 1;
            }
        }
        self.waiting.retain(|(_, _, left)| *left > 0);
    }

    /// Adds a subject that `record` made, with what happened at its page; its number, if there is
    /// room.
    pub(super) fn subject(
        &mut self,
        record: &Record,
        place: StreamPlace,
        at_page: &[Record],
    ) -> Option<usize> {
        if self.subjects.len() >= MAX_SUBJECTS {
            return None;
        }
        let recent = self.recent.get(place.dart()).map(Vec::as_slice).unwrap_or_default();
        let beside: Vec<Record> =
            recent.iter().rev().filter(|of| is_beside(of, place)).take(BESIDE).copied().collect();
        let mut keep = |record: &Record| {
            self.events.insert(key_of(record), *record);
            key_of(record)
        };
        let own = keep(record);
        let at_page = at_page.iter().map(&mut keep).collect();
        let beside = beside.iter().map(&mut keep).collect();
        self.subjects.push(Subject { own, at_page, beside });
        self.waiting.push((self.subjects.len() - 1, place, BESIDE));
        Some(self.subjects.len() - 1)
    }

    /// The place of each event among all, in the order of time.
    pub(super) fn places(&self) -> Places<'_> {
        let places = self.events.keys().enumerate().map(|(place, key)| (*key, place)).collect();
        Places { around: self, places }
    }

    /// The events, in the order of time.
    pub(super) fn rows(
        &self,
        clock: Clock,
        description: &TraceDescription,
        symbols: &Symbols,
    ) -> Vec<EventRow> {
        let row = |record: &Record| EventRow {
            time_ns: clock.nanoseconds(record.time()),
            cpu: record.cpu(),
            dart: record.dart().map(|dart| dart.index()),
            stream: record.stream().map(|stream| stream.index()),
            kind: kind_name(record),
            text: text_of(record, clock, description),
            code: match record.program_counter() {
                0 => None,
                code => Some(symbols.name(code)),
            },
        };
        self.events.values().map(row).collect()
    }
}

/// Where subjects' events stand in the page.
pub(super) struct Places<'a> {
    around: &'a Around,
    places: BTreeMap<Key, usize>,
}

impl Places<'_> {
    /// The subject's own event.
    pub(super) fn own(&self, subject: Option<usize>) -> Option<usize> {
        self.places.get(&self.around.subjects.get(subject?)?.own).copied()
    }

    /// What happened at the subject's page before, oldest first.
    pub(super) fn at_page(&self, subject: Option<usize>) -> Vec<usize> {
        self.all(subject, |subject| subject.at_page.clone())
    }

    /// All events around the subject, its own included.
    pub(super) fn around(&self, subject: Option<usize>) -> Vec<usize> {
        self.all(subject, |subject| {
            [&subject.at_page[..], &subject.beside, &[subject.own]].concat()
        })
    }

    /// The time, in ticks, of the first event at the subject's page.
    pub(super) fn first_time(&self, subject: Option<usize>) -> Option<u64> {
        let subject = self.around.subjects.get(subject?)?;
        Some(subject.at_page.first().unwrap_or(&subject.own).0)
    }

    fn all(&self, subject: Option<usize>, keys: impl Fn(&Subject) -> Vec<Key>) -> Vec<usize> {
        let subject = subject.and_then(|subject| self.around.subjects.get(subject));
        let mut places: Vec<usize> = subject
            .map(keys)
            .unwrap_or_default()
            .iter()
            .filter_map(|key| self.places.get(key).copied())
            .collect();
        places.sort_unstable();
        places.dedup();
        places
    }
}

fn key_of(record: &Record) -> Key {
    (record.time(), record.cpu(), record.sequence())
}

/// Whether `record` is about `place`, or about all of its DART.
fn is_beside(record: &Record, place: StreamPlace) -> bool {
    record.dart().is_some_and(|dart| dart.index() == place.dart())
        && record.stream().is_none_or(|stream| stream.index() == place.stream())
}

/// The event's fields, as in its line: neither the process, which there is none of, nor what has
/// columns of its own.
fn text_of(record: &Record, clock: Clock, description: &TraceDescription) -> String {
    let line = Line::of(record, clock, description.device_of(record)).to_string();
    let named = format!(": {}:", kind_name(record));
    let text = line.split_once(&named).map_or(line.as_str(), |(_, rest)| rest).trim_start();
    let end = text.rfind(" pc=").or_else(|| text.rfind(" seq=")).unwrap_or(text.len());
    text.get(..end).unwrap_or(text).to_owned()
}
