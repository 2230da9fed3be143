//! The figures of a trace: events by kind, CPU and device, its duration, and the missing events.

use std::collections::BTreeMap;
use std::io::{self, Write};

use oche_trace::record::Record;
use oche_trace::text::Clock;
use oche_types::addr::PAGE_BYTES;
use oche_types::dart::stream::{DartId, MAX_DARTS, STREAMS, StreamId};
use oche_types::event::{Event, Kind};
use schemars::JsonSchema;
use serde::Serialize;

use super::description::{TraceDescription, plain};
use super::filter::{Chooser, EventFilter};
use super::lifetime::StreamPlace;
use super::memory::by_name;
use super::reader::{ByteSource, Session, TraceFile, TraceItem, Visitor};
use super::symbols::Symbols;
use super::values::WithValues;
use super::words::nanoseconds_between;

/// One session's figures.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct TraceSummary {
    /// The board.
    pub board: String,
    /// Oche's version, commit and build; empty where the trace has none.
    pub release: String,
    /// Events read.
    pub events: u64,
    /// Events overwritten before the recorder came.
    pub lost: u64,
    /// Events recorded, but damaged in the file.
    pub unreadable: u64,
    /// Events of kinds that this version does not know.
    pub unknown: u64,
    /// Nanoseconds from the first event to the last.
    pub duration_ns: u64,
    /// Nanoseconds since 1970 UTC of the first event, as precise as the recorder's readings of the
    /// clock.
    pub first_unix_ns: Option<u64>,
    /// Events by kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Events by CPU.
    pub cpus: BTreeMap<u8, u64>,
    /// Figures by device, or by `dartN/streamM` where it has no name.
    pub devices: BTreeMap<String, DeviceSummary>,
    /// The last sample of the hypervisor's own counters; zeros are left out.
    pub counters: Vec<(String, u64)>,
}

/// One device's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DeviceSummary {
    /// Pages mapped.
    pub maps: u64,
    /// Pages unmapped.
    pub unmaps: u64,
    /// Most bytes that were mapped at once.
    pub peak_bytes: u64,
    /// Mappings refused.
    pub refused: u64,
    /// Accesses refused.
    pub faults: u64,
    /// Red zones hit.
    pub red_zone_hits: u64,
    #[serde(skip)]
    mapped_bytes: u64,
}

/// The figures of every session in `trace`, of all its events.
pub fn summarize<S: ByteSource>(trace: &TraceFile<S>) -> Vec<TraceSummary> {
    let mut all = All { trace, tally: None, summaries: Vec::new() };
    trace.events().show(&mut all);
    all.summaries.extend(all.tally.map(Tally::finish));
    all.summaries
}

/// The figures of every session in `trace`, of the events that `filter` chooses. Losses and the
/// hypervisor's counters are the whole session's.
pub fn summarize_chosen<S: ByteSource>(
    trace: &TraceFile<S>,
    filter: &EventFilter,
    symbols: &Symbols,
) -> Vec<TraceSummary> {
    let mut summaries = Vec::new();
    let mut chosen: Option<(Tally<'_>, Chooser<'_>)> = None;
    for (item, value) in WithValues::new(trace.events()) {
        match (item, &mut chosen) {
            (TraceItem::Session(index), _) => {
                let next = trace.sessions.get(index).map(|session| {
                    let chooser = Chooser::new(filter, &session.description, symbols);
                    (Tally::new(session), chooser)
                });
                let before = std::mem::replace(&mut chosen, next);
                summaries.extend(before.map(|(tally, _)| tally.finish()));
            }
            (TraceItem::Record(record), Some((tally, chooser))) => {
                tally.count_chosen(&record, &value, chooser);
            }
            (TraceItem::Lost { cpu, records }, Some((tally, chooser))) if chooser.has_cpu(cpu) => {
                add(&mut tally.summary.lost, records);
            }
            (TraceItem::Unreadable { cpu, records }, Some((tally, chooser)))
                if chooser.has_cpu(cpu) =>
            {
                add(&mut tally.summary.unreadable, records);
            }
            _ => {}
        }
    }
    summaries.extend(chosen.map(|(tally, _)| tally.finish()));
    summaries
}

/// A tally for each boot.
struct All<'a, S> {
    trace: &'a TraceFile<S>,
    tally: Option<Tally<'a>>,
    summaries: Vec<TraceSummary>,
}

impl<S: ByteSource> Visitor for All<'_, S> {
    #[inline]
    fn record(&mut self, record: &Record) {
        if let Some(tally) = &mut self.tally {
            tally.count(record);
        }
    }

    fn other(&mut self, item: TraceItem) {
        match (item, &mut self.tally) {
            (TraceItem::Session(index), _) => {
                let next = self.trace.sessions.get(index).map(Tally::new);
                self.summaries.extend(std::mem::replace(&mut self.tally, next).map(Tally::finish));
            }
            (TraceItem::Lost { records, .. }, Some(tally)) => add(&mut tally.summary.lost, records),
            (TraceItem::Unreadable { records, .. }, Some(tally)) => {
                add(&mut tally.summary.unreadable, records)
            }
            _ => {}
        }
    }
}

/// A damaged file can claim any number of missing records.
fn add(sum: &mut u64, records: u64) {
    *sum = sum.saturating_add(records);
}

/// Counters in arrays, so that an event costs a few additions; names come at the end.
struct Tally<'a> {
    session: &'a Session,
    summary: TraceSummary,
    kinds: [u64; 256],
    cpus: [u64; 256],
    devices: Vec<DeviceSummary>,
    first: Option<u64>,
    last: u64,
    /// The time that is chosen has begun.
    has_begun: bool,
}

impl<'a> Tally<'a> {
    fn new(session: &'a Session) -> Self {
        Self {
            session,
            summary: TraceSummary::default(),
            kinds: [0; 256],
            cpus: [0; 256],
            devices: vec![DeviceSummary::default(); MAX_DARTS * STREAMS],
            first: None,
            last: 0,
            has_begun: false,
        }
    }

    fn count(&mut self, record: &Record) {
        self.summary.events += 1;
        self.kinds[usize::from(record.kind_number())] += 1;
        self.cpus[usize::from(record.cpu())] += 1;
        let time = record.time();
        self.first = Some(self.first.map_or(time, |first| first.min(time)));
        self.last = self.last.max(time);
        let is_of_device = matches!(
            record.kind(),
            Some(Kind::Map | Kind::Unmap | Kind::Refused | Kind::Fault | Kind::RedZone)
        );
        if let (true, Some(dart), Some(stream)) = (is_of_device, record.dart(), record.stream())
            && let Some(device) = self.devices.get_mut(dart.index() * STREAMS + stream.index())
        {
            device.count(record);
        }
    }

    /// Counts `record` if `chooser` chooses it, and the records that held its `value`. What is
    /// mapped is followed all the same.
    fn count_chosen(&mut self, record: &Record, value: &[u8], chooser: &mut Chooser<'_>) {
        if !self.has_begun && !chooser.is_before(record.time()) {
            self.has_begun = true;
            for (index, device) in self.devices.iter_mut().enumerate() {
                let place = StreamPlace::from_index(index);
                if place.is_some_and(|place| chooser.has_place(place)) {
                    device.peak_bytes = device.mapped_bytes;
                }
            }
        }
        if chooser.admits(record, value) {
            self.count(record);
            let behind = value.len().div_ceil(16) as u64;
            self.summary.events += behind;
            self.kinds[usize::from(Kind::Data.number())] += behind;
            self.cpus[usize::from(record.cpu())] += behind;
        } else if let (Some(dart), Some(stream)) = (record.dart(), record.stream())
            && let Some(device) = self.devices.get_mut(dart.index() * STREAMS + stream.index())
        {
            device.follow(record);
        }
    }

    fn finish(self) -> TraceSummary {
        let description = &self.session.description;
        let clock = description.clock();
        let mut summary = self.summary;
        summary.board = plain(description.machine.board.as_str());
        summary.release = description.release();
        summary.duration_ns =
            self.first.map_or(0, |first| nanoseconds_between(clock, first, self.last));
        summary.first_unix_ns = self.first.and_then(|first| wall_clock(self.session, clock, first));
        for (number, count) in self.kinds.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            match Kind::from_number(number as u8) {
                Some(kind) => *summary.kinds.entry(kind.name()).or_default() += count,
                None => summary.unknown += count,
            }
        }
        let cpus = self.cpus.into_iter().enumerate().filter(|(_, count)| *count > 0);
        summary.cpus = cpus.map(|(cpu, count)| (cpu as u8, count)).collect();
        let devices = self.devices.into_iter().enumerate();
        let seen = devices.filter(|(_, device)| device.is_shown());
        summary.devices =
            seen.map(|(place, device)| (device_name(description, place), device)).collect();
        let counters = self.session.samples.last().map(|sample| by_name(&sample.counters));
        summary.counters =
            counters.unwrap_or_default().into_iter().filter(|(_, value)| *value > 0).collect();
        summary
    }
}

impl DeviceSummary {
    fn count(&mut self, record: &Record) {
        match record.event() {
            Some(Event::Map { .. }) => {
                self.maps += 1;
                self.follow(record);
                self.peak_bytes = self.peak_bytes.max(self.mapped_bytes);
            }
            Some(Event::Unmap { .. }) => {
                self.unmaps += 1;
                self.follow(record);
            }
            Some(Event::Refused { .. }) => self.refused += 1,
            Some(Event::Fault { .. }) => self.faults += 1,
            Some(Event::RedZone { .. }) => self.red_zone_hits += 1,
            _ => {}
        }
    }
}

impl DeviceSummary {
    /// Follows what is mapped, and counts nothing.
    fn follow(&mut self, record: &Record) {
        match record.kind() {
            Some(Kind::Map) => self.mapped_bytes += PAGE_BYTES as u64,
            Some(Kind::Unmap) => {
                self.mapped_bytes = self.mapped_bytes.saturating_sub(PAGE_BYTES as u64);
            }
            _ => {}
        }
    }

    /// Whether any of its figures that are shown is not 0.
    fn is_shown(&self) -> bool {
        Self { mapped_bytes: 0, ..*self } != Self::default()
    }
}

fn device_name(description: &TraceDescription, place: usize) -> String {
    let (dart, stream) = (place / STREAMS, place % STREAMS);
    let named = DartId::new(dart).zip(StreamId::new(stream));
    let name = named.and_then(|(dart, stream)| description.device(dart, stream));
    name.map_or_else(|| format!("dart{dart}/stream{stream}"), str::to_owned)
}

/// Wall-clock time of `ticks`. The recorder sees a record some time after it was written, so each
/// look at both clocks is late; the least late one is taken.
pub fn wall_clock(session: &Session, clock: Clock, ticks: u64) -> Option<u64> {
    let known = session.description.machine.wall_clock_nanoseconds;
    let looks = session.samples.iter().filter(|sample| sample.newest_ticks != 0).map(|sample| {
        let since_start = i128::from(clock.nanoseconds(sample.newest_ticks));
        i128::from(sample.unix_nanoseconds) - since_start
    });
    let start = known.map(i128::from).or_else(|| looks.min())?;
    u64::try_from(start + i128::from(clock.nanoseconds(ticks))).ok()
}

/// Writes the figures for people.
///
/// # Errors
///
/// Those of `out`.
pub fn write_summary(summary: &TraceSummary, out: &mut impl Write) -> io::Result<()> {
    let seconds = summary.duration_ns as f64 / 1e9;
    writeln!(out, "board     {}", summary.board)?;
    if !summary.release.is_empty() {
        writeln!(out, "oche      {}", summary.release)?;
    }
    write!(out, "events    {} in {seconds:.3} s", summary.events)?;
    if seconds > 0.0 {
        write!(out, ", {:.0} a second", summary.events as f64 / seconds)?;
    }
    writeln!(out)?;
    writeln!(out, "lost      {}", summary.lost)?;
    for (what, count) in [("unreadable", summary.unreadable), ("unknown", summary.unknown)] {
        if count > 0 {
            writeln!(out, "{what:<9} {count}")?;
        }
    }
    section(out, "by kind", summary.kinds.iter())?;
    section(out, "by CPU", summary.cpus.iter().map(|(cpu, count)| (format!("CPU {cpu}"), count)))?;
    if !summary.devices.is_empty() {
        writeln!(
            out,
            "\n{:<28} {:>10} {:>10} {:>10} {:>8} {:>7} {:>9}",
            "by device", "maps", "unmaps", "peak KiB", "refused", "faults", "red zones"
        )?;
    }
    for (name, device) in &summary.devices {
        let DeviceSummary { maps, unmaps, peak_bytes, refused, faults, red_zone_hits, .. } = device;
        let peak = peak_bytes / 1024;
        writeln!(
            out,
            "  {name:<26} {maps:>10} {unmaps:>10} {peak:>10} {refused:>8} {faults:>7} {red_zone_hits:>9}"
        )?;
    }
    section(out, "counters at the end", summary.counters.iter().map(|(name, value)| (name, value)))
}

fn section<'a>(
    out: &mut impl Write,
    title: &str,
    rows: impl Iterator<Item = (impl std::fmt::Display, &'a u64)>,
) -> io::Result<()> {
    for (index, (name, value)) in rows.enumerate() {
        if index == 0 {
            writeln!(out, "\n{title}")?;
        }
        writeln!(out, "  {:<26} {value:>12}", name.to_string())?;
    }
    Ok(())
}
