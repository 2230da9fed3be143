//! What a view shows: one language to choose events, mappings and findings, the same in every view.
//!
//! A choice never takes an event away from what a view must know (what is mapped, what was
//! flushed): views follow every event and choose among what they would show.

use std::ops::RangeInclusive;

use oche_trace::call_chain::callers;
use oche_trace::filter::iova_of;
use oche_trace::record::Record;
use oche_trace::snapshot::bytes_behind;
use oche_trace::text::Clock;
use oche_types::addr::PAGE_BYTES;
use oche_types::dart::stream::STREAMS;
use oche_types::event::{Event, Kind};
use rustc_hash::FxHashMap;

use super::callers::Flushes;
use super::description::TraceDescription;
use super::lifetime::{Mapping, PLACES, StreamPlace};
use super::symbols::Symbols;
use super::words::span;

pub mod options;

/// An instruction's bytes: a call stands right before the place that it returns to.
const INSTRUCTION_BYTES: u64 = 4;
/// Places in the guest's code whose verdicts are kept; a wild trace has more.
const MAX_KNOWN: usize = 1 << 16;

/// A set of kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindSet(u64);

impl KindSet {
    /// Every kind, those that this program does not know included.
    pub const ALL: Self = Self(u64::MAX);
    /// No kind.
    pub const NONE: Self = Self(0);

    /// This set and `kind`.
    #[must_use]
    pub fn with(self, kind: Kind) -> Self {
        Self(self.0 | 1 << kind.number())
    }

    /// This set without `kind`.
    #[must_use]
    pub fn without(self, kind: Kind) -> Self {
        Self(self.0 & !(1 << kind.number()))
    }

    /// Whether it has `kind`; `None` stands for every kind that this program does not know.
    #[inline]
    pub fn has(self, kind: Option<Kind>) -> bool {
        // No kind has number 0.
        self.0 >> kind.map_or(0, Kind::number) & 1 != 0
    }
}

impl Default for KindSet {
    fn default() -> Self {
        Self::ALL
    }
}

/// Streams that are chosen: of one DART or of any, one or all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamChoice {
    /// The DART's number; `None`: any.
    pub dart: Option<u8>,
    /// The stream's number; `None`: any.
    pub stream: Option<u8>,
}

/// The devices that are chosen.
#[derive(Clone, Debug, Default)]
pub struct Whom {
    /// Only this DART.
    pub dart: Option<u8>,
    /// Only these streams, if there are any.
    pub streams: Vec<StreamChoice>,
    /// Only devices whose name, or whose driver's, contains this.
    pub device: Option<String>,
}

impl Whom {
    /// Whether no device is left out.
    pub fn is_any(&self) -> bool {
        self.dart.is_none() && self.streams.is_empty() && self.device.is_none()
    }

    /// Whether `place` is meant.
    pub fn admits(&self, place: StreamPlace, description: &TraceDescription) -> bool {
        let is_of = |choice: &StreamChoice| {
            choice.dart.is_none_or(|dart| usize::from(dart) == place.dart())
                && choice.stream.is_none_or(|stream| usize::from(stream) == place.stream())
        };
        self.dart.is_none_or(|dart| usize::from(dart) == place.dart())
            && (self.streams.is_empty() || self.streams.iter().any(is_of))
            && self.device.as_ref().is_none_or(|wanted| description.is_called(place, wanted))
    }
}

/// The code that is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallerChoice {
    /// Functions whose name contains this.
    Name(String),
    /// This instruction.
    Address(u64),
}

/// What is shown. What is not asked for is not looked at; by default everything is shown.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Only these kinds.
    pub kinds: KindSet,
    /// Trapped accesses are left out by default and not by choice: they are counted.
    pub leaves_accesses_out: bool,
    /// Only these devices.
    pub whom: Whom,
    /// Only what touches these IOVAs, in bytes.
    pub iova: Option<RangeInclusive<u64>>,
    /// Only this CPU.
    pub cpu: Option<u8>,
    /// Only from this time on, in nanoseconds since Oche's start.
    pub from_ns: Option<u64>,
    /// Only up to this time, included, in nanoseconds since Oche's start.
    pub until_ns: Option<u64>,
    /// Only by this code of the guest.
    pub caller: Option<CallerChoice>,
}

impl EventFilter {
    /// Whether everything is shown, whatever its kind.
    pub fn is_any(&self) -> bool {
        self.whom.is_any()
            && self.iova.is_none()
            && self.cpu.is_none()
            && self.from_ns.is_none()
            && self.until_ns.is_none()
            && self.caller.is_none()
    }

    /// Whether `record` is about one of the IOVAs.
    pub fn touches(&self, record: &Record) -> bool {
        self.iova.as_ref().is_none_or(|range| {
            let reach = record.event().as_ref().and_then(iova_of);
            reach.is_some_and(|reach| overlaps(range, reach))
        })
    }

    /// What is chosen, for people: `device nvme, from 12.5 s`; `None` where everything is.
    pub fn words(&self) -> Option<String> {
        let mut words = Vec::new();
        words.extend(self.whom.device.as_ref().map(|name| format!("device {name}")));
        words.extend(self.whom.dart.map(|dart| format!("DART {dart}")));
        words.extend(self.whom.streams.iter().map(|choice| {
            let number = |of: Option<u8>| of.map_or("*".to_owned(), |number| number.to_string());
            format!("stream {}:{}", number(choice.dart), number(choice.stream))
        }));
        words.extend(
            self.iova.as_ref().map(|range| format!("IOVA {:#x}-{:#x}", range.start(), range.end())),
        );
        words.extend(self.cpu.map(|cpu| format!("CPU {cpu}")));
        words.extend(self.from_ns.map(|from| format!("from {}", span(from))));
        words.extend(self.until_ns.map(|until| format!("up to {}", span(until))));
        words.extend(self.caller.as_ref().map(|caller| match caller {
            CallerChoice::Name(name) => format!("code {name}"),
            CallerChoice::Address(address) => format!("code {address:#x}"),
        }));
        if words.is_empty() { None } else { Some(words.join(", ")) }
    }
}

/// Something that is shown and is no event: a mapping, a finding, an incident.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// The stream.
    pub place: StreamPlace,
    /// The first IOVA and how many bytes; `None`: it has no address.
    pub iova: Option<(u64, u64)>,
    /// The time, in ticks.
    pub time: u64,
    /// The CPU.
    pub cpu: u8,
    /// The guest's code; 0: none.
    pub code: u64,
}

/// Chooses among a boot's events.
pub struct Chooser<'a> {
    filter: &'a EventFilter,
    symbols: &'a Symbols,
    clock: Clock,
    /// All that is left to look at is the kind.
    is_by_kind_alone: bool,
    /// By stream: whether its device is chosen.
    places: Vec<bool>,
    /// By DART: whether any of its streams is.
    darts: Vec<bool>,
    /// By place in the code: whether it is chosen.
    code: FxHashMap<u64, bool>,
    /// By CPU: whether a caller of the flush under way is chosen.
    called: Flushes<bool>,
    /// By CPU: whether its last record with bytes in the records behind it was chosen.
    last: [bool; 256],
    /// Trapped accesses that are left out by default and not by choice.
    pub accesses_left_out: u64,
}

impl<'a> Chooser<'a> {
    /// Chooses by `filter` among the events of the boot that `description` describes.
    pub fn new(
        filter: &'a EventFilter,
        description: &TraceDescription,
        symbols: &'a Symbols,
    ) -> Self {
        let places: Vec<bool> = (0..PLACES)
            .filter_map(StreamPlace::from_index)
            .map(|place| filter.whom.is_any() || filter.whom.admits(place, description))
            .collect();
        let darts = places.chunks(STREAMS).map(|of| of.contains(&true)).collect();
        Self {
            filter,
            symbols,
            clock: description.clock(),
            is_by_kind_alone: filter.is_any(),
            places,
            darts,
            code: FxHashMap::default(),
            called: Flushes::default(),
            last: [false; 256],
            accesses_left_out: 0,
        }
    }

    /// Whether `record` is shown. `value` holds the bytes of the records behind it, where its kind
    /// has some and they are shown with it; see [`super::values::WithValues`].
    #[inline]
    pub fn admits(&mut self, record: &Record, value: &[u8]) -> bool {
        let kind = record.kind();
        let has_kind = self.filter.kinds.has(kind);
        if self.is_by_kind_alone {
            self.accesses_left_out += u64::from(
                !has_kind && kind == Some(Kind::Access) && self.filter.leaves_accesses_out,
            );
            return has_kind;
        }
        self.admits_slowly(record, kind, value) && has_kind
    }

    fn admits_slowly(&mut self, record: &Record, kind: Option<Kind>, value: &[u8]) -> bool {
        let cpu = usize::from(record.cpu());
        if kind == Some(Kind::Data) {
            return self.last.get(cpu).copied().unwrap_or(false);
        }
        let is_called = self.is_called(record, value);
        let is_chosen = is_called
            && self.filter.cpu.is_none_or(|wanted| record.cpu() == wanted)
            && self.is_in_time(record.time())
            && (self.filter.whom.is_any() || self.is_of_device(record))
            && self.filter.touches(record);
        if bytes_behind(record).is_some()
            && let Some(last) = self.last.get_mut(cpu)
        {
            *last = is_chosen;
        }
        if is_chosen && kind == Some(Kind::Access) && self.filter.leaves_accesses_out {
            self.accesses_left_out += 1;
        }
        is_chosen
    }

    /// Whether `time`, in ticks, is in the time that is chosen.
    pub fn is_in_time(&self, time: u64) -> bool {
        let EventFilter { from_ns, until_ns, .. } = self.filter;
        if from_ns.is_none() && until_ns.is_none() {
            return true;
        }
        let time = self.clock.nanoseconds(time);
        from_ns.is_none_or(|from| time >= from) && until_ns.is_none_or(|until| time <= until)
    }

    /// Whether `time`, in ticks, is before the time that is chosen.
    pub fn is_before(&self, time: u64) -> bool {
        self.filter.from_ns.is_some_and(|from| self.clock.nanoseconds(time) < from)
    }

    /// Whether `place` is of a device that is chosen.
    pub fn has_place(&self, place: StreamPlace) -> bool {
        self.places.get(place.index()).copied().unwrap_or(false)
    }

    /// Whether `dart` has a device that is chosen.
    pub fn has_dart(&self, dart: usize) -> bool {
        self.darts.get(dart).copied().unwrap_or(false)
    }

    /// One of `dart`'s streams that are chosen.
    pub fn any_of_dart(&self, dart: usize) -> Option<StreamPlace> {
        let mut places = (0..PLACES).filter_map(StreamPlace::from_index);
        places.find(|place| place.dart() == dart && self.has_place(*place))
    }

    /// Whether what is missing of `cpu` is shown.
    pub fn has_cpu(&self, cpu: usize) -> bool {
        self.filter.cpu.is_none_or(|wanted| usize::from(wanted) == cpu)
    }

    /// Whether events of `kind` are shown.
    pub fn has_kind(&self, kind: Kind) -> bool {
        self.filter.kinds.has(Some(kind))
    }

    /// The same of a mapping, whenever it was mapped.
    pub fn admits_untimed(&mut self, mapping: &Mapping) -> bool {
        self.is_by_kind_alone
            || (self.has_place(mapping.owner)
                && self.filter.cpu.is_none_or(|wanted| mapping.since.cpu == wanted)
                && self
                    .filter
                    .iova
                    .as_ref()
                    .is_none_or(|range| overlaps(range, (mapping.iova.iova(), PAGE_BYTES as u64)))
                && self.is_code(mapping.since.program_counter))
    }

    /// Whether `shown` is shown, as far as its kind does not matter.
    pub fn admits_shown(&mut self, shown: &Shown) -> bool {
        self.is_by_kind_alone
            || (self.has_place(shown.place)
                && self.filter.cpu.is_none_or(|wanted| shown.cpu == wanted)
                && self.is_in_time(shown.time)
                && self
                    .filter
                    .iova
                    .as_ref()
                    .is_none_or(|range| shown.iova.is_some_and(|reach| overlaps(range, reach)))
                && self.is_code(shown.code))
    }

    /// Whether `mapping` is shown: by its device, its address, and when, where and by which code it
    /// was mapped.
    pub fn admits_mapping(&mut self, mapping: &Mapping) -> bool {
        self.admits_buffer(mapping, 1)
    }

    /// The same of a buffer of `pages` pages that begins with `first`.
    pub fn admits_buffer(&mut self, first: &Mapping, pages: u32) -> bool {
        self.admits_shown(&Shown {
            place: first.owner,
            iova: Some((first.iova.iova(), u64::from(pages) * PAGE_BYTES as u64)),
            time: first.since.time,
            cpu: first.since.cpu,
            code: first.since.program_counter,
        })
    }

    fn is_of_device(&self, record: &Record) -> bool {
        match (record.dart(), record.stream()) {
            (Some(dart), Some(stream)) => self.has_place(StreamPlace::new(dart, stream)),
            (Some(dart), None) => match record.event() {
                Some(Event::Flush { streams, .. }) => {
                    streams.iter().any(|stream| self.has_place(StreamPlace::new(dart, stream)))
                }
                // What a DART does concerns each of its streams, unless some are asked for.
                _ => self.is_dart_alone() && self.has_dart(dart.index()),
            },
            _ => false,
        }
    }

    /// Whether nothing but a DART is chosen.
    fn is_dart_alone(&self) -> bool {
        self.filter.whom.streams.is_empty() && self.filter.whom.device.is_none()
    }

    /// Whether the code behind `record`, or a caller of the flush that it belongs to, is chosen.
    fn is_called(&mut self, record: &Record, value: &[u8]) -> bool {
        if self.filter.caller.is_none() {
            return true;
        }
        let called = if let Some(chain) = callers(record, value) {
            let called = chain.into_iter().any(|address| {
                self.is_code(address) || self.is_code(address.wrapping_sub(INSTRUCTION_BYTES))
            });
            self.called.begin(record, called);
            called
        } else {
            self.called.of(record).unwrap_or(false)
        };
        called || self.is_code(record.program_counter())
    }

    /// Whether `code` is chosen.
    fn is_code(&mut self, code: u64) -> bool {
        let Some(caller) = &self.filter.caller else { return true };
        match caller {
            CallerChoice::Address(address) => code == *address,
            CallerChoice::Name(_) if code == 0 => false,
            CallerChoice::Name(name) => {
                if self.code.len() >= MAX_KNOWN {
                    self.code.clear();
                }
                let symbols = self.symbols;
                *self.code.entry(code).or_insert_with(|| {
                    let has = |text: &str| text.contains(name.as_str());
                    symbols
                        .find(code)
                        .is_some_and(|place| has(place.function) || place.module.is_some_and(has))
                })
            }
        }
    }
}

fn overlaps(range: &RangeInclusive<u64>, (first, bytes): (u64, u64)) -> bool {
    first <= *range.end() && first.saturating_add(bytes.saturating_sub(1)) >= *range.start()
}

#[cfg(test)]
mod tests;
