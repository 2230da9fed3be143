//! Places in the guest's code, by the events that they caused.

use oche_trace::record::Record;
use oche_types::event::Kind;
use rustc_hash::FxHashMap;

use super::super::symbols::Symbols;
use super::bins::Steps;
use super::data::SiteRow;

/// Places in the guest's code that are listed.
const MAX_SITES: usize = 25;
/// Places in the guest's code that are counted, each stream apart; later ones are counted together.
const SITES_COUNTED: usize = 1 << 14;
/// Events of a place are counted by kind: maps, unmaps, flushes, registers, others.
const KINDS: usize = 5;

/// A place in the code, the DART and the stream that its events were about.
type Site = (u64, Option<u8>, Option<u8>);

/// The places.
#[derive(Default)]
pub(super) struct Sites(FxHashMap<Site, Steps<KINDS>>);

/// What the page lists of them.
pub(super) struct SiteList {
    pub(super) rows: Vec<SiteRow>,
    /// Places that are not listed.
    pub(super) more: usize,
    /// Events of all places.
    pub(super) events: u64,
}

impl Sites {
    /// Counts `record`, in bin number `bin`.
    pub(super) fn add(&mut self, record: &Record, bin: usize) {
        let code = record.program_counter();
        // Bytes of the record before, or nothing that the guest's code did.
        if code == 0 {
            return;
        }
        let number = |index: usize| index as u8;
        let mut site = (
            code,
            record.dart().map(|dart| number(dart.index())),
            record.stream().map(|stream| number(stream.index())),
        );
        if self.0.len() >= SITES_COUNTED && !self.0.contains_key(&site) {
            site = (0, None, None);
        }
        let which = match record.kind() {
            Some(Kind::Map) => 0,
            Some(Kind::Unmap) => 1,
            Some(Kind::Flush) => 2,
            Some(Kind::Register) => 3,
            _ => 4,
        };
        self.0.entry(site).or_default().add(bin, which);
    }

    pub(super) fn fold(&mut self) {
        self.0.values_mut().for_each(Steps::fold);
    }

    /// The places with the most events.
    pub(super) fn finish(self, symbols: &Symbols) -> SiteList {
        let total = |steps: &Steps<KINDS>| -> u64 {
            steps.iter().flat_map(|(_, counts)| counts).map(|count| u64::from(*count)).sum()
        };
        let mut by_code: FxHashMap<u64, u64> = FxHashMap::default();
        for ((code, ..), steps) in &self.0 {
            *by_code.entry(*code).or_default() += total(steps);
        }
        let events = by_code.values().sum();
        let mut most: Vec<(u64, u64)> = by_code.into_iter().collect();
        most.sort_by_key(|(code, events)| (std::cmp::Reverse(*events), *code));
        let more = most.len().saturating_sub(MAX_SITES);
        most.truncate(MAX_SITES);
        let place = |site: &Site| most.iter().position(|(code, _)| *code == site.0);
        let mut sites: Vec<(usize, Site, Steps<KINDS>)> =
            self.0.into_iter().filter_map(|(site, of)| Some((place(&site)?, site, of))).collect();
        sites.sort_by_key(|(place, site, _)| (*place, *site));
        let rows = sites.iter().map(|(_, site, steps)| row(site, steps, symbols)).collect();
        SiteList { rows, more, events }
    }
}

fn row((code, dart, stream): &Site, steps: &Steps<KINDS>, symbols: &Symbols) -> SiteRow {
    let counts = steps.iter().map(|(step, counts)| {
        let mut row = [step as u64; 1 + KINDS];
        row.iter_mut().skip(1).zip(counts).for_each(|(to, from)| *to = u64::from(*from));
        row
    });
    SiteRow {
        code: if *code == 0 { "elsewhere".into() } else { symbols.name(*code) },
        dart: dart.map(usize::from),
        stream: stream.map(usize::from),
        counts: counts.collect(),
    }
}
