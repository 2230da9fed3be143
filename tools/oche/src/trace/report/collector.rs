//! Follows a trace's events, and gathers what the page shows.

use oche_trace::record::Record;
use oche_trace::text::Clock;
use oche_types::addr::{IovaPage, PAGE_BYTES};
use oche_types::event::{Event, Kind};
use rustc_hash::FxHashMap;

use super::super::callers::ByCaller;
use super::super::check::Checker;
use super::super::description::{TraceDescription, plain};
use super::super::filter::{Chooser, Shown};
use super::super::lifetime::{Mapping, MappingChange, PLACES, StreamPlace};
use super::super::reader::{TraceItem, Visitor};
use super::super::symbols::Symbols;
use super::around::MAX_SUBJECTS;
use super::bins::{Bins, SPACE_BINS, STEP_BINS, Sum};
use super::command::ReportedFile;
use super::data::{Data, Device, FlushRow};
use super::incidents::Incidents;
use super::sites::Sites;
use super::streams::{Incident, OfStream};

/// Devices with pictures of their own; of the others there are figures.
const MAX_DEVICES: usize = 24;

/// What the page shows, on the way.
pub(super) struct Collector<'a> {
    description: &'a TraceDescription,
    clock: Clock,
    /// Has the model of what is mapped as well.
    checker: Checker<'a>,
    chooser: Chooser<'a>,
    bins: Bins,
    streams: Vec<Option<Box<OfStream>>>,
    flushes: FxHashMap<usize, Sum>,
    sites: Sites,
    incidents: Incidents,
    /// Events that the filter chose.
    chosen: u64,
    pub(super) first: Option<u64>,
    now: u64,
}

/// Shows a collector each event, put down to who caused it.
pub(super) struct ByCode<'a, 'b> {
    pub(super) collector: &'a mut Collector<'b>,
    pub(super) by: ByCaller,
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
    pub(super) fn new(
        description: &'a TraceDescription,
        checker: Checker<'a>,
        chooser: Chooser<'a>,
    ) -> Self {
        let mut streams = Vec::new();
        streams.resize_with(PLACES, || None);
        Self {
            description,
            clock: description.clock(),
            checker,
            chooser,
            bins: Bins::default(),
            streams,
            flushes: FxHashMap::default(),
            sites: Sites::default(),
            incidents: Incidents::new(),
            chosen: 0,
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
            self.widen();
        }
        let is_chosen = self.chooser.admits(record, &[]);
        if is_chosen {
            self.chosen += 1;
            self.sites.add(record, self.bins.of(self.now));
        }
        let Some(event) = record.event() else { return };
        // Whose page it was is known until the checker has followed.
        let refused = self.refused(record, &event, is_chosen);
        let change = self.checker.follow(record);
        match change {
            MappingChange::Mapped { mapping, .. } => self.mapped(&mapping),
            MappingChange::Unmapped { at, mapping, .. } => self.unmapped(at, mapping),
            MappingChange::None | MappingChange::Permission { .. } => {}
        }
        if let Event::Flush { dart, .. } = event
            && is_chosen
        {
            let bin = self.bins.of(self.now);
            self.flushes.entry(dart.index()).or_default().add(bin, 1);
        }
        if let Some(iova) = refused {
            self.incidents.refused(record, &event, iova);
        }
        self.incidents.follow(record, &self.checker);
    }

    fn widen(&mut self) {
        self.bins.widen();
        self.streams.iter_mut().flatten().for_each(|stream| stream.fold());
        self.flushes.values_mut().for_each(Sum::fold);
        self.sites.fold();
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
        if self.chooser.admits_untimed(mapping) {
            let bin = self.bins.of(self.now);
            self.stream(mapping.owner).map(mapping, bin);
        }
    }

    fn unmapped(&mut self, at: StreamPlace, mapping: Option<Mapping>) {
        let Some(mapping) = mapping else {
            if self.chooser.has_place(at) {
                self.stream(at).unmaps += 1;
            }
            return;
        };
        if self.chooser.admits_untimed(&mapping) {
            let since = self.clock.nanoseconds(mapping.since.time);
            let (now, bins) = (self.now, self.bins);
            self.stream(mapping.owner).unmap(&mapping, &bins, since, now);
        }
    }

    /// Counts `record`, if something was refused; its address, if it is shown.
    ///
    /// What a device did has no code of its own: it counts for the code that mapped the page last.
    fn refused(&mut self, record: &Record, event: &Event, is_chosen: bool) -> Option<u64> {
        let (kind, place, iova) = match *event {
            Event::Fault { dart, stream, iova, .. } => {
                (Incident::Fault, StreamPlace::new(dart, stream), iova)
            }
            Event::RedZone { at, .. } => (Incident::RedZone, at.into(), at.iova.iova()),
            Event::Refused { at, .. } => (Incident::Refused, at.into(), at.iova.iova()),
            _ => return None,
        };
        let is_shown = is_chosen || {
            let code = match record.program_counter() {
                0 => self.last_mapper(place, iova),
                code => code,
            };
            let iova = Some((iova, 1));
            let (time, cpu) = (record.time(), record.cpu());
            self.chooser.admits_shown(&Shown { place, iova, time, cpu, code })
        };
        if !is_shown {
            return None;
        }
        let bin = self.bins.of(self.now);
        self.stream(place).incident(kind, bin);
        Some(iova)
    }

    /// The code that mapped the page at `iova` last, as far as that is kept; 0: unknown.
    fn last_mapper(&self, place: StreamPlace, iova: u64) -> u64 {
        let page = u32::try_from(iova / PAGE_BYTES as u64).map(IovaPage);
        let mapping = page.ok().and_then(|page| self.checker.lifetimes.at(place, page));
        let at_page = || self.incidents.at_page(iova);
        let is_its_map = |record: &&Record| {
            let of = record.dart().zip(record.stream());
            record.kind() == Some(Kind::Map)
                && of.is_some_and(|(dart, stream)| StreamPlace::new(dart, stream) == place)
        };
        mapping.map_or_else(
            || at_page().iter().rev().find(is_its_map).map_or(0, Record::program_counter),
            |mapping| mapping.since.program_counter,
        )
    }

    fn stream(&mut self, place: StreamPlace) -> &mut OfStream {
        self.streams[place.index()].get_or_insert_with(Box::default)
    }

    pub(super) fn finish(mut self, symbols: &Symbols, why: &ReportedFile) -> Data {
        let used = self.bins.of(self.now) + 1;
        let devices = self.devices(used);
        let flushes = self.flush_rows(used);
        let sites = self.sites.finish(symbols);
        let (faults_told, faults_in_all) =
            (self.incidents.faults_told, self.incidents.faults_in_all);
        let report = self.checker.finish();
        let (faults, findings, around) =
            self.incidents.finish(report.findings, self.clock, self.description, symbols, why);
        Data {
            file: String::new(),
            version: env!("CARGO_PKG_VERSION"),
            board: plain(self.description.machine.board.as_str()),
            release: self.description.release(),
            boot: 0,
            boots: 0,
            first_unix_ns: None,
            clock: "",
            start_ns: self.bins.start(),
            end_ns: self.now,
            chosen_events: self.chosen,
            events: report.events,
            missing: report.missing,
            warnings: Vec::new(),
            filter: None,
            bin_ns: self.bins.width(),
            bins: used,
            coarse: SPACE_BINS,
            steps: STEP_BINS,
            devices,
            flushes,
            more_sites: sites.more,
            sites: sites.rows,
            sites_events: sites.events,
            has_symbols: !symbols.is_empty(),
            faults_told,
            faults,
            faults_in_all,
            findings,
            totals: report.totals,
            around,
            max_subjects: MAX_SUBJECTS,
        }
    }

    /// Every device, those that mapped most first; what is mapped at the end counts up to there.
    fn devices(&mut self, used: usize) -> Vec<Device> {
        let live: Vec<Mapping> = self.checker.lifetimes.iter().collect();
        let (now, bins) = (self.now, self.bins);
        for mapping in &live {
            if self.chooser.admits_untimed(mapping) {
                let since = self.clock.nanoseconds(mapping.since.time);
                self.stream(mapping.owner).stay(mapping, &bins, since, now);
            }
        }
        let mut devices: Vec<Device> = Vec::new();
        for (index, stream) in std::mem::take(&mut self.streams).into_iter().enumerate() {
            if let Some((stream, place)) = stream.zip(StreamPlace::from_index(index)) {
                devices.push(stream.finish(place, self.description, &bins, used));
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
}
