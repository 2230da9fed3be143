//! The state behind the live screen: devices, their mappings, rates, the guest's busiest code, the
//! last faults.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use oche_trace::record::Record;
use oche_trace::text::Clock;
use oche_types::addr::PAGE_BYTES;
use oche_types::dart::stream::{DartId, StreamId};
use oche_types::event::Event;

use crate::trace::callers::ByCaller;
use crate::trace::description::TraceDescription;
use crate::trace::filter::EventFilter;
use crate::trace::follow::Follower;
use crate::trace::lifetime::{PLACES, StreamPlace};
use crate::trace::names::Names;
use crate::trace::symbols::Symbols;

/// Seconds of rates that are kept, a bucket each.
pub(super) const HISTORY_SECONDS: usize = 120;
/// Pages of a stream that are remembered; a device has some ten thousand.
const MAX_PAGES: usize = 1 << 20;
/// Places in the guest's code that are distinguished.
const MAX_SITES: usize = 1 << 16;
/// Faults and red-zone hits that are kept to be shown.
const MAX_ALARMS: usize = 100;

/// Everything that is shown.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) description: Option<TraceDescription>,
    /// Boots of Oche that were seen.
    pub(super) sessions: u64,
    pub(super) events: u64,
    pub(super) lost: u64,
    pub(super) newest_ticks: u64,
    /// The hypervisor's counters by name, where the source has them.
    pub(super) counters: Vec<(String, u64)>,
    streams: BTreeMap<(DartId, StreamId), Stream>,
    sites: HashMap<u64, u64>,
    /// The guest's code behind events, where the trace and the symbols show it.
    by: ByCaller,
    pub(super) alarms: VecDeque<Record>,
    history: VecDeque<Second>,
    /// Only these events are shown.
    filter: EventFilter,
    /// What the guest calls its code, as it came, to be taken.
    pub(super) learned: Vec<Names>,
    /// By stream, where not all are shown: whether its device is.
    places: Option<Arc<[bool]>>,
}

/// One stream of a DART.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    pub(super) pages: BTreeMap<u32, Page>,
    /// Pages that are mapped now, as far as seen.
    pub(super) mapped: u64,
    pub(super) maps: u64,
    pub(super) faults: u64,
    pub(super) red_zones: u64,
    pub(super) refused: u64,
}

/// The state of a page of a stream's IOVA space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) is_mapped: bool,
    pub(super) has_alarm: bool,
}

/// The events of one second of the guest's time.
#[derive(Clone, Debug, Default)]
pub(super) struct Second {
    number: u64,
    pub(super) events: u64,
    pub(super) maps: u64,
    pub(super) unmaps: u64,
    pub(super) flushes: u64,
    streams: BTreeMap<(DartId, StreamId), Rates>,
}

/// One stream's part of a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rates {
    pub(super) maps: u64,
    pub(super) flushes: u64,
}

impl State {
    pub(super) fn clock(&self) -> Clock {
        let nothing = Clock { counter_hz: 1, start_ticks: 0 };
        self.description.as_ref().map_or(nothing, TraceDescription::clock)
    }

    /// Has flushes put down to their callers, whose names are in `symbols`.
    pub(super) fn know(&mut self, symbols: &Symbols) {
        self.by = ByCaller::new(symbols);
    }

    /// Has only what `filter` chooses shown, by device and IOVA, from the next boot on.
    pub(super) fn choose(&mut self, filter: EventFilter) {
        self.filter = filter;
    }

    /// Whether `record` is shown.
    fn admits(&self, record: &Record) -> bool {
        let Some(places) = &self.places else { return true };
        let has = |dart: DartId, stream: StreamId| {
            places.get(StreamPlace::new(dart, stream).index()).copied().unwrap_or(false)
        };
        let is_of_device = match (record.dart(), record.stream(), record.event()) {
            (Some(dart), Some(stream), _) => has(dart, stream),
            (Some(dart), None, Some(Event::Flush { streams, .. })) => {
                streams.iter().any(|stream| has(dart, stream))
            }
            _ => self.filter.whom.is_any(),
        };
        is_of_device && self.filter.touches(record)
    }

    fn alarm(&mut self, record: &Record) {
        if self.alarms.len() == MAX_ALARMS {
            self.alarms.pop_front();
        }
        self.alarms.push_back(*record);
    }

    /// The guest's time is in its second `number` now, or was in a later one already.
    pub(super) fn advance(&mut self, number: u64) {
        let newest = self.history.back().map(|second| second.number);
        if newest.is_some_and(|newest| newest >= number) {
            return;
        }
        let first = newest
            .map_or(number, |newest| newest + 1)
            .max(number.saturating_sub(HISTORY_SECONDS as u64));
        for number in first..=number {
            if self.history.len() == HISTORY_SECONDS {
                self.history.pop_front();
            }
            self.history.push_back(Second { number, ..Second::default() });
        }
    }

    /// The newest second that is over; of a trace that has only one, that one.
    pub(super) fn last_second(&self) -> Second {
        let over = self.history.iter().rev().nth(1).or_else(|| self.history.back());
        over.cloned().unwrap_or_default()
    }

    /// `value` of each second, oldest first.
    pub(super) fn curve(&self, value: impl Fn(&Second) -> u64) -> Vec<u64> {
        self.history.iter().map(value).collect()
    }

    /// Every stream that did something, in order.
    pub(super) fn streams(&self) -> &BTreeMap<(DartId, StreamId), Stream> {
        &self.streams
    }

    /// The name of the device that `place` stands for.
    pub(super) fn name(&self, place: (DartId, StreamId)) -> String {
        self.named(place, TraceDescription::name_of)
    }

    /// The device that `place` stands for, with its driver.
    pub(super) fn label(&self, place: (DartId, StreamId)) -> String {
        self.named(place, TraceDescription::label_of)
    }

    fn named(
        &self,
        place: (DartId, StreamId),
        name: impl FnOnce(&TraceDescription, StreamPlace) -> String,
    ) -> String {
        let at = StreamPlace::new(place.0, place.1);
        self.description.as_ref().map_or_else(
            || format!("dart{}/stream{}", at.dart(), at.stream()),
            |description| name(description, at),
        )
    }

    /// The places in the guest's code that caused most events, with how many.
    pub(super) fn busiest(&self) -> Vec<(u64, u64)> {
        let mut places: Vec<(u64, u64)> =
            self.sites.iter().map(|(pc, count)| (*pc, *count)).collect();
        places.sort_unstable_by_key(|(pc, count)| (std::cmp::Reverse(*count), *pc));
        places
    }

    /// Pages mapped now: as the hypervisor counts them, or else as seen.
    pub(super) fn mapped_pages(&self) -> u64 {
        // The hypervisor counts what all devices have.
        let counters = if self.places.is_none() { self.counters.as_slice() } else { &[] };
        let mut counters = counters.iter();
        let counted = counters.find(|(name, _)| name == "mapped_now").map(|(_, value)| *value);
        counted.unwrap_or_else(|| self.streams.values().map(|stream| stream.mapped).sum())
    }

    pub(super) fn faults(&self) -> u64 {
        self.streams.values().map(|stream| stream.faults + stream.red_zones).sum()
    }
}

/// By stream, where `filter` does not choose all: whether its device is chosen.
fn chosen(filter: &EventFilter, description: &TraceDescription) -> Option<Arc<[bool]>> {
    let is_chosen = |index| {
        let place = StreamPlace::from_index(index);
        place.is_some_and(|place| filter.whom.admits(place, description))
    };
    (!filter.is_any()).then(|| (0..PLACES).map(is_chosen).collect())
}

impl Follower for State {
    /// Another boot of Oche: nothing of the one before holds.
    fn begin(&mut self, description: TraceDescription) {
        let by = std::mem::take(&mut self.by);
        let filter = std::mem::take(&mut self.filter);
        let places = chosen(&filter, &description);
        *self = Self {
            places,
            filter,
            description: Some(description),
            sessions: self.sessions + 1,
            by,
            ..Self::default()
        };
    }

    fn learn(&mut self, names: Names) {
        if let Some(description) = &mut self.description {
            description.learn_drivers(names.bound());
            self.places = chosen(&self.filter, description);
        }
        self.learned.push(names);
    }

    fn lose(&mut self, _: usize, records: u64) {
        self.lost = self.lost.saturating_add(records);
    }

    /// Takes note of `record`.
    fn take(&mut self, record: &Record) {
        let record = &self.by.apply(record);
        self.newest_ticks = self.newest_ticks.max(record.time());
        if !self.admits(record) {
            return;
        }
        self.events += 1;
        let number = self.clock().seconds(record.time()).0;
        self.advance(number);
        let mut second = Second::default();
        let second = self
            .history
            .iter_mut()
            .rev()
            .find(|known| known.number == number)
            .unwrap_or(&mut second);
        second.events += 1;
        let pc = record.program_counter();
        if pc != 0 && (self.sites.len() < MAX_SITES || self.sites.contains_key(&pc)) {
            *self.sites.entry(pc).or_default() += 1;
        }
        match record.event() {
            Some(Event::Map { at, .. }) => {
                second.maps += 1;
                second.streams.entry((at.dart, at.stream)).or_default().maps += 1;
                let stream = self.streams.entry((at.dart, at.stream)).or_default();
                stream.maps += 1;
                stream.set(at.iova.0, true);
            }
            Some(Event::Unmap { at, .. }) => {
                second.unmaps += 1;
                self.streams.entry((at.dart, at.stream)).or_default().set(at.iova.0, false);
            }
            Some(Event::Flush { dart, streams }) => {
                second.flushes += 1;
                for stream in streams.iter() {
                    second.streams.entry((dart, stream)).or_default().flushes += 1;
                }
            }
            Some(Event::Refused { at, .. }) => {
                self.streams.entry((at.dart, at.stream)).or_default().refused += 1;
                self.alarm(record);
            }
            Some(Event::Fault { dart, stream, iova, .. }) => {
                let known = self.streams.entry((dart, stream)).or_default();
                known.faults += 1;
                known.mark(u32::try_from(iova / PAGE_BYTES as u64).ok());
                self.alarm(record);
            }
            Some(Event::RedZone { at, .. }) => {
                let known = self.streams.entry((at.dart, at.stream)).or_default();
                known.red_zones += 1;
                known.mark(Some(at.iova.0));
                self.alarm(record);
            }
            Some(Event::Attach { dart, stream, .. }) => {
                self.streams.entry((dart, stream)).or_default();
            }
            Some(Event::InvalidateTimedOut { .. }) => self.alarm(record),
            _ => {}
        }
    }

    fn count(&mut self, counters: Vec<(String, u64)>) {
        self.counters = counters;
    }
}

impl Second {
    pub(super) fn rates(&self, place: (DartId, StreamId)) -> Rates {
        self.streams.get(&place).copied().unwrap_or_default()
    }
}

impl Stream {
    fn set(&mut self, page: u32, is_mapped: bool) {
        if self.pages.len() >= MAX_PAGES && !self.pages.contains_key(&page) {
            return;
        }
        let page = self.pages.entry(page).or_default();
        match (page.is_mapped, is_mapped) {
            (false, true) => self.mapped += 1,
            (true, false) => self.mapped = self.mapped.saturating_sub(1),
            _ => {}
        }
        page.is_mapped = is_mapped;
    }

    fn mark(&mut self, page: Option<u32>) {
        if let Some(page) =
            page.filter(|page| self.pages.len() < MAX_PAGES || self.pages.contains_key(page))
        {
            self.pages.entry(page).or_default().has_alarm = true;
        }
    }
}
