//! A trace as one page of HTML: pictures and tables, everything inside the file, nothing loaded
//! from anywhere.
//!
//! One pass; memory and page stay small however long the trace is: time has a fixed number of bins
//! that widen as it goes on, lists show the first or the most of their kind and how many there
//! are.

use std::io::{self, Write};

use oche_trace::record::Record;
use oche_trace::text::Clock;
use oche_types::addr::PAGE_BYTES;
use oche_types::event::{Event, Kind, Placement};
use rustc_hash::FxHashMap;

use super::callers::ByCaller;
use super::check::{CheckOptions, Checker};
use super::description::{TraceDescription, plain};
use super::filter::{Chooser, EventFilter};
use super::lifetime::{Mapping, MappingChange, StreamPlace};
use super::maps::permission_letters;
use super::reader::{ByteSource, TraceFile, TraceItem, Visitor};
use super::symbols::Symbols;
use super::words::nanoseconds_between;
use bins::{Bins, Level, Space, Sum};
use burst::Burst;
use data::{Data, Device, FlushRow, LifetimeRow, Site, SpaceRow};
use last::LastEvents;

mod bins;
mod burst;
mod data;
mod last;

/// The page; `@DATA@` and `@TITLE@` stand for what is put in.
const PAGE: &str = include_str!("report/page.html");
/// Places in the guest's code that are listed.
const MAX_SITES: usize = 25;
/// Places in the guest's code that are counted; later ones are counted together.
const SITES_COUNTED: usize = 1 << 16;
/// Faults that are shown with what happened before.
const MAX_FAULTS: usize = 50;
/// Devices with pictures of their own; of the others there are figures.
const MAX_DEVICES: usize = 24;

/// Writes the page about `session` of `trace`, which is called `file`: what `filter` chooses.
///
/// # Errors
///
/// Those of `out`.
pub fn write_report<S: ByteSource>(
    trace: &TraceFile<S>,
    session: usize,
    file: &str,
    filter: &EventFilter,
    symbols: &Symbols,
    out: &mut impl Write,
) -> io::Result<()> {
    let Some(of) = trace.sessions.get(session) else { return Ok(()) };
    let options = CheckOptions { filter: filter.clone(), ..CheckOptions::default() };
    let chooser = Chooser::new(filter, &of.description, symbols);
    let checker = Checker::new(of, symbols, &options);
    let mut collector = Collector::new(&of.description, checker, chooser);
    let by = ByCaller::new(symbols);
    trace.events_of(session).show(&mut ByCode { collector: &mut collector, by });
    let clock = of.description.clock();
    let first = collector.first.unwrap_or(clock.start_ticks);
    let mut data = collector.finish(symbols);
    data.file = plain(file);
    data.boot = session + 1;
    data.boots = trace.sessions.len();
    data.first_unix_ns = super::summary::wall_clock(of, clock, first);
    data.warnings = trace.warnings.clone();
    data.warnings.extend(filter.words().map(|words| format!("only this is shown: {words}")));
    // "</script>" in a name must not end the script.
    let json = serde_json::to_string(&data)?.replace('<', "\\u003c");
    let title: String = data.file.chars().filter(|char| !"<>&\"".contains(*char)).collect();
    let (head, tail) = PAGE.split_once("@DATA@").unwrap_or((PAGE, ""));
    out.write_all(head.replace("@TITLE@", &title).as_bytes())?;
    out.write_all(json.as_bytes())?;
    out.write_all(tail.as_bytes())
}

/// One stream's figures on the way.
#[derive(Default)]
struct OfStream {
    maps: u64,
    unmaps: u64,
    faults: u64,
    red_zones: u64,
    refused: u64,
    placements: [u64; 3],
    mapped: Level,
    made: Sum,
    space: Space,
    /// By direction: counts, and the longest.
    lifetimes: [(Vec<u64>, u64); 4],
}

struct Collector<'a> {
    description: &'a TraceDescription,
    clock: Clock,
    /// Has the model of what is mapped as well.
    checker: Checker<'a>,
    chooser: Chooser<'a>,
    bins: Bins,
    streams: Vec<Option<Box<OfStream>>>,
    flushes: FxHashMap<usize, Sum>,
    sites: FxHashMap<u64, Site>,
    last: LastEvents,
    faults: Vec<Burst>,
    /// Those before the first one that there was no room for.
    faults_told: u64,
    faults_in_all: u64,
    first: Option<u64>,
    now: u64,
}

/// Shows a collector each event, put down to who caused it.
struct ByCode<'a, 'b> {
    collector: &'a mut Collector<'b>,
    by: ByCaller,
}

impl Visitor for ByCode<'_, '_> {
    fn record(&mut self, record: &Record) {
        self.collector.record(&self.by.apply(record));
    }

    fn other(&mut self, item: TraceItem) {
        if let TraceItem::Lost { cpu, records } | TraceItem::Unreadable { cpu, records } = item {
            self.collector.checker.miss(cpu, records);
        }
    }

    fn gap_begins(&mut self, cpu: usize) {
        self.collector.checker.begin_gap(cpu);
    }
}

impl<'a> Collector<'a> {
    fn new(description: &'a TraceDescription, checker: Checker<'a>, chooser: Chooser<'a>) -> Self {
        let mut streams = Vec::new();
        streams.resize_with(super::lifetime::PLACES, || None);
        Self {
            description,
            clock: description.clock(),
            checker,
            chooser,
            bins: Bins::default(),
            streams,
            flushes: FxHashMap::default(),
            sites: FxHashMap::default(),
            last: LastEvents::new(),
            faults: Vec::new(),
            faults_told: 0,
            faults_in_all: 0,
            first: None,
            now: 0,
        }
    }

    fn record(&mut self, record: &Record) {
        if !self.chooser.is_in_time(record.time()) {
            if self.chooser.is_before(record.time()) {
                self.follow_early(record);
            }
            return;
        }
        let time = self.clock.nanoseconds(record.time());
        if self.first.is_none() {
            self.first = Some(record.time());
            self.bins.begin(time);
        }
        self.now = self.now.max(time);
        while self.bins.must_widen(self.now) {
            self.bins.widen();
            for stream in self.streams.iter_mut().flatten() {
                stream.mapped.fold();
                stream.made.fold();
                stream.space.fold();
            }
            self.flushes.values_mut().for_each(Sum::fold);
        }
        if self.chooser.admits(record, &[]) {
            self.site(record);
        }
        let Some(event) = record.event() else { return };
        let change = self.checker.follow(record);
        match change {
            MappingChange::Mapped { mapping, .. } => self.mapped(&mapping),
            MappingChange::Unmapped { at, mapping, .. } => self.unmapped(at, mapping, record),
            MappingChange::None | MappingChange::Permission { .. } => self.other(&event, record),
        }
        if record.kind() != Some(Kind::Fault) {
            self.last.push(record);
        }
    }

    /// Follows `record`, from before the time that is shown.
    fn follow_early(&mut self, record: &Record) {
        let change = self.checker.follow(record);
        let (mapping, bytes) = match change {
            MappingChange::Mapped { mapping, .. } => (mapping, PAGE_BYTES as i64),
            MappingChange::Unmapped { mapping: Some(mapping), .. } => {
                (mapping, -(PAGE_BYTES as i64))
            }
            _ => return,
        };
        if self.chooser.admits_untimed(&mapping) {
            self.stream(mapping.owner).mapped.change(0, bytes);
        }
    }

    fn mapped(&mut self, mapping: &Mapping) {
        if !self.chooser.admits_untimed(mapping) {
            return;
        }
        let bin = self.bins.of(self.now);
        let stream = self.stream(mapping.owner);
        stream.maps += 1;
        stream.made.add(bin, 1);
        stream.mapped.change(bin, PAGE_BYTES as i64);
        let placement = match mapping.placement {
            Placement::Direct => 0,
            Placement::Migrated => 1,
            Placement::Bounce => 2,
        };
        stream.placements[placement] += 1;
    }

    fn unmapped(&mut self, at: StreamPlace, mapping: Option<Mapping>, record: &Record) {
        let Some(mapping) = mapping else {
            if self.chooser.has_place(at) {
                self.stream(at).unmaps += 1;
            }
            return;
        };
        if !self.chooser.admits_untimed(&mapping) {
            return;
        }
        let bin = self.bins.of(self.now);
        let span = nanoseconds_between(self.clock, mapping.since.time, record.time());
        let since = self.clock.nanoseconds(mapping.since.time);
        let (now, bins) = (self.now, self.bins);
        let stream = self.stream(mapping.owner);
        stream.unmaps += 1;
        stream.mapped.change(bin, -(PAGE_BYTES as i64));
        stream.space.add(mapping.iova, &bins, since, now);
        let (counts, longest) = &mut stream.lifetimes[direction_index(&mapping)];
        counts.resize(65, 0);
        counts[(64 - span.leading_zeros()) as usize] += 1;
        *longest = (*longest).max(span);
    }

    fn other(&mut self, event: &Event, record: &Record) {
        if !self.chooser.admits(record, &[]) {
            return;
        }
        match *event {
            Event::Flush { dart, .. } => {
                let bin = self.bins.of(self.now);
                self.flushes.entry(dart.index()).or_default().add(bin, 1);
            }
            Event::Fault { dart, stream, iova, .. } => {
                self.stream(StreamPlace::new(dart, stream)).faults += 1;
                self.remember(record, event, iova);
            }
            Event::RedZone { at, .. } => {
                self.stream(at.into()).red_zones += 1;
                self.remember(record, event, at.iova.iova());
            }
            Event::Refused { at, .. } => {
                self.stream(at.into()).refused += 1;
                self.remember(record, event, at.iova.iova());
            }
            _ => {}
        }
    }

    fn remember(&mut self, record: &Record, event: &Event, iova: u64) {
        let has_room = self.faults_told == self.faults_in_all;
        self.faults_in_all += 1;
        if !has_room {
            return;
        }
        let before = self.last.at(iova);
        let of_device = |burst: &&mut Burst| {
            (burst.last.0.dart(), burst.last.0.stream()) == (record.dart(), record.stream())
        };
        if let Some(burst) = self.faults.iter_mut().rev().find(of_device)
            && burst.goes_on(record, event, &before)
        {
            burst.last = (*record, *event);
            burst.accesses += 1;
        } else if self.faults.len() < MAX_FAULTS {
            let first = (*record, *event);
            self.faults.push(Burst { first, last: first, accesses: 1, before });
        } else {
            return;
        }
        self.faults_told += 1;
    }

    fn site(&mut self, record: &Record) {
        let mut code = record.program_counter();
        // Bytes of the record before, or nothing that the guest's code did.
        if code == 0 {
            return;
        }
        if self.sites.len() >= SITES_COUNTED && !self.sites.contains_key(&code) {
            code = 0;
        }
        let site = self.sites.entry(code).or_default();
        site.events += 1;
        match record.kind() {
            Some(Kind::Map) => site.maps += 1,
            Some(Kind::Unmap) => site.unmaps += 1,
            Some(Kind::Flush) => site.flushes += 1,
            Some(Kind::Register) => site.registers += 1,
            _ => site.others += 1,
        }
    }

    fn stream(&mut self, place: StreamPlace) -> &mut OfStream {
        self.streams[place.index()].get_or_insert_with(Box::default)
    }

    fn finish(mut self, symbols: &Symbols) -> Data {
        let used = self.bins.of(self.now) + 1;
        let devices = self.devices(used);
        let flushes = self.flush_rows(used);
        let sites_in_all = self.sites.len();
        let sites_events = self.sites.values().map(|site| site.events).sum();
        let sites = self.most_sites(symbols);
        let faults = std::mem::take(&mut self.faults);
        let faults = faults.iter().map(|burst| burst.row(self.clock, self.description)).collect();
        let findings = self.checker.finish();
        Data {
            file: String::new(),
            version: env!("CARGO_PKG_VERSION"),
            board: plain(self.description.machine.board.as_str()),
            release: self.description.release(),
            boot: 0,
            boots: 0,
            first_unix_ns: None,
            start_ns: self.bins.start(),
            end_ns: self.now,
            events: findings.events,
            missing: findings.missing,
            warnings: Vec::new(),
            bin_ns: self.bins.width(),
            bins: used,
            devices,
            flushes,
            more_sites: sites_in_all.saturating_sub(sites.len()),
            sites,
            sites_events,
            has_symbols: !symbols.is_empty(),
            faults_told: self.faults_told,
            faults,
            faults_in_all: self.faults_in_all,
            findings,
        }
    }

    /// Every device, those that mapped most first; what is mapped at the end counts up to there.
    fn devices(&mut self, used: usize) -> Vec<Device> {
        let live: Vec<Mapping> = self.checker.lifetimes.iter().collect();
        let (now, bins) = (self.now, self.bins);
        for mapping in &live {
            if !self.chooser.admits_untimed(mapping) {
                continue;
            }
            let since = self.clock.nanoseconds(mapping.since.time);
            self.stream(mapping.owner).space.add(mapping.iova, &bins, since, now);
        }
        let mut devices: Vec<Device> = Vec::new();
        for (index, stream) in std::mem::take(&mut self.streams).into_iter().enumerate() {
            if let Some((stream, place)) = stream.zip(StreamPlace::from_index(index)) {
                devices.push(self.device(place, *stream, used));
            }
        }
        devices.sort_by_key(|device| std::cmp::Reverse(device.maps));
        for device in devices.iter_mut().skip(MAX_DEVICES) {
            (device.mapped, device.made) = (Vec::new(), Vec::new());
            device.space.clear();
        }
        devices
    }

    /// The flushes of each DART.
    fn flush_rows(&mut self, used: usize) -> Vec<FlushRow> {
        let mut flushes: Vec<FlushRow> = Vec::new();
        for (dart, sum) in std::mem::take(&mut self.flushes) {
            let known = self.description.darts.iter().find(|entry| entry.dart.index() == dart);
            let name =
                known.map_or_else(|| format!("dart{dart}"), |entry| plain(entry.name.as_str()));
            flushes.push(FlushRow { dart, name, flushes: sum.finish(used) });
        }
        flushes.sort_by_key(|row| row.dart);
        flushes
    }

    /// The places in the guest's code with the most events.
    fn most_sites(&mut self, symbols: &Symbols) -> Vec<Site> {
        let mut sites: Vec<(u64, Site)> = std::mem::take(&mut self.sites).into_iter().collect();
        sites.sort_by_key(|(code, site)| (std::cmp::Reverse(site.events), *code));
        sites.truncate(MAX_SITES);
        let named = |(code, site): (u64, Site)| {
            let code = if code == 0 { "elsewhere".into() } else { symbols.name(code) };
            Site { code, ..site }
        };
        sites.into_iter().map(named).collect()
    }

    fn device(&self, place: StreamPlace, stream: OfStream, used: usize) -> Device {
        let rows = ["--", "r-", "-w", "rw"].into_iter().zip(stream.lifetimes);
        let rows = rows.filter(|(_, (counts, _))| !counts.is_empty());
        let (peak_bytes, end_bytes) = (stream.mapped.peak(), stream.mapped.now());
        let space = stream.space.finish(&self.bins, used);
        Device {
            name: self.description.name_of(place),
            dart: place.dart(),
            stream: place.stream(),
            maps: stream.maps,
            unmaps: stream.unmaps,
            peak_bytes,
            end_bytes,
            faults: stream.faults,
            red_zones: stream.red_zones,
            refused: stream.refused,
            placements: stream.placements,
            mapped: stream.mapped.finish(used),
            made: stream.made.finish(used),
            lifetimes: rows
                .map(|(may, (counts, longest_ns))| LifetimeRow { may, counts, longest_ns })
                .collect(),
            space: space
                .into_iter()
                .map(|row| SpaceRow {
                    start: format!("{:#x}", row.start),
                    end: format!("{:#x}", row.end),
                    cells: row.cells,
                })
                .collect(),
        }
    }
}

fn direction_index(mapping: &Mapping) -> usize {
    match permission_letters(mapping) {
        "rw" => 3,
        "-w" => 2,
        "r-" => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
