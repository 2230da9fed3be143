//! The answer's sentences.

use oche_trace::record::Record;
use oche_types::addr::PAGE_BYTES;
use oche_types::event::{Event, WatchHow};

use super::super::lifetime::{Lifetimes, Mapping, StreamPlace};
use super::super::maps::{name_all, permission_letters, places};
use super::super::reader::{ByteSource, TraceFile, TraceItem};
use super::super::words::{code_in_words, direction, interval, many, permission, seconds};
use super::answer::Overlap;
use super::asker::{Asker, ticks_at};
use super::story::{Interval, Story};

impl Asker<'_> {
    pub(super) fn fault_sentence(
        &self,
        place: StreamPlace,
        record: &Record,
        event: &Event,
        now: Option<Interval>,
        before: Option<Interval>,
    ) -> String {
        let Event::Fault { iova, code, is_write, is_hidden, .. } = *event else {
            return String::new();
        };
        let meaning = match (now.and_then(|now| now.mapping), before) {
            (Some(mapping), _) if !mapping.allows(is_write) => format!(
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
            "At {} s {} that {} had been refused a {} of {iova:#x} (code {code:#x}: {}). It means {meaning}",
            seconds(self.clock, record.time()),
            if is_hidden {
                "Oche learned, and not the guest, whose DART still held an earlier fault,"
            } else {
                "the guest learned"
            },
            self.description.label_of(place),
            direction(is_write),
            code_in_words(code)
        )
    }

    /// The accesses of CPUs to the page while it was watched, of the accesses in `records`.
    pub(super) fn watched_sentence(&self, records: &[Record]) -> Option<String> {
        // A step that stored is reported twice: before and after.
        let accesses = records.iter().filter_map(|record| match record.event()? {
            Event::Watch {
                at,
                offset,
                bytes,
                is_write,
                how: WatchHow::Exact | WatchHow::Before,
                ..
            } => Some((record, at.iova.iova() | u64::from(offset), bytes, is_write)),
            _ => None,
        });
        let accesses: Vec<_> = accesses.collect();
        let (last, iova, bytes, is_write) = *accesses.last()?;
        let stores = accesses.iter().filter(|(.., is_write)| *is_write).count();
        Some(format!(
            "While the page was watched CPUs loaded from it {} and stored to it {}; the last was a {} of {} at \
             {iova:#x}, {} s, {}.",
            times(accesses.len() - stores),
            times(stores),
            if is_write { "store" } else { "load" },
            many(u64::from(bytes), "byte"),
            seconds(self.clock, last.time()),
            self.by(&last.stamp())
        ))
    }

    pub(super) fn owner_sentence(
        &self,
        place: StreamPlace,
        at: Option<u64>,
        now: Option<Interval>,
        before: Option<Interval>,
    ) -> String {
        let when = at
            .map_or("When the trace ends".into(), |at| format!("At {} s", seconds(self.clock, at)));
        let device = self.description.label_of(place);
        let offset = self.question.iova & (PAGE_BYTES as u64 - 1);
        match (now, before) {
            (Some(Interval { mapping: Some(mapping), .. }), _) => format!(
                "{when}, {:#x} of {device} was guest address {:#x}, mapped for the device to {} ({}) since {} s, {}.",
                self.question.iova,
                mapping.page.address() + offset,
                permission(mapping.permission),
                mapping.placement.name(),
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

    pub(super) fn history_sentence(&self, story: &Story) -> Option<String> {
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

    pub(super) fn granule_sentence(&self, story: &Story, is_mapped: bool) -> Option<String> {
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

    /// Where the nearest mappings are, for an address that never was one.
    pub(super) fn nearest<S: ByteSource>(
        &self,
        place: StreamPlace,
        at: Option<u64>,
        trace: &TraceFile<S>,
        session: usize,
    ) -> Option<String> {
        let mut lifetimes = Lifetimes::default();
        for item in trace.events_of(session) {
            if let TraceItem::Record(record) = item {
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
        let describe = |mapping: Mapping, side: &str, pages: u32| {
            format!(
                "{:#x} ({}, {} since {} s, {}), {} {side}",
                mapping.iova.iova(),
                permission_letters(&mapping),
                self.description.label_of(mapping.owner),
                seconds(self.clock, mapping.since.time),
                self.by(&mapping.since),
                many(u64::from(pages), "page")
            )
        };
        let below = below.map(|mapping| describe(mapping, "below", self.page.0 - mapping.iova.0));
        let above = above.map(|mapping| describe(mapping, "above", mapping.iova.0 - self.page.0));
        let sides: Vec<String> = below.into_iter().chain(above).collect();
        if sides.is_empty() {
            return Some("The device had nothing mapped at all then.".into());
        }
        Some(format!("The nearest that was mapped then: {}.", sides.join(", and ")))
    }

    /// The answer where no event is about the page.
    pub(super) fn no_device<S: ByteSource>(
        &self,
        trace: &TraceFile<S>,
        session: usize,
    ) -> Vec<String> {
        let whom = &self.question.whom;
        let known = places(trace, session);
        let asked: Vec<StreamPlace> =
            known.iter().copied().filter(|place| whom.admits(*place, self.description)).collect();
        let names = |places: &[StreamPlace]| name_all(places, self.description);
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
}

pub(super) fn overlap_sentence(overlaps: &[Overlap]) -> String {
    let others: Vec<String> = overlaps
        .iter()
        .map(|overlap| format!("{} at {} ({})", overlap.device, overlap.iova, overlap.permission))
        .collect();
    format!("The same guest page was also mapped for {}.", others.join(", "))
}

fn times(count: usize) -> String {
    match count {
        0 => "never".into(),
        1 => "once".into(),
        count => format!("{count} times"),
    }
}
