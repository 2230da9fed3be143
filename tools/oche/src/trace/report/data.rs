//! The data of the page, as JSON.

use serde::Serialize;

use super::super::check::Finding;
use std::collections::BTreeMap;

/// Everything that the page shows.
#[derive(Debug, Serialize)]
pub(super) struct Data {
    pub(super) file: String,
    pub(super) version: &'static str,
    pub(super) board: String,
    pub(super) release: String,
    pub(super) boot: usize,
    pub(super) boots: usize,
    pub(super) first_unix_ns: Option<u64>,
    /// The clock of all times, in words behind them.
    pub(super) clock: &'static str,
    pub(super) start_ns: u64,
    pub(super) end_ns: u64,
    /// Events that the filter chose.
    pub(super) chosen_events: u64,
    /// Events that were looked at.
    pub(super) events: u64,
    pub(super) missing: u64,
    pub(super) warnings: Vec<String>,
    /// What is chosen, in words.
    pub(super) filter: Option<String>,
    pub(super) bin_ns: u64,
    pub(super) bins: usize,
    /// Bins that one column of an address space, and one step of lifetimes and code, stand for.
    pub(super) coarse: usize,
    pub(super) steps: usize,
    pub(super) devices: Vec<Device>,
    pub(super) flushes: Vec<FlushRow>,
    pub(super) sites: Vec<SiteRow>,
    pub(super) more_sites: usize,
    /// Events of all places in the guest's code.
    pub(super) sites_events: u64,
    pub(super) has_symbols: bool,
    pub(super) faults: Vec<FaultRow>,
    pub(super) faults_told: u64,
    pub(super) faults_in_all: u64,
    pub(super) findings: Vec<FindingRow>,
    /// How much of each was found.
    pub(super) totals: BTreeMap<&'static str, u64>,
    /// Events around findings and refused accesses, in the order of time.
    pub(super) around: Vec<EventRow>,
    /// Findings and refused accesses that have events, at the most.
    pub(super) max_subjects: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) dart: usize,
    pub(super) stream: usize,
    pub(super) maps: u64,
    pub(super) unmaps: u64,
    pub(super) peak_bytes: u64,
    pub(super) end_bytes: u64,
    pub(super) faults: u64,
    pub(super) red_zones: u64,
    pub(super) refused: u64,
    /// In bins where there are any: the bin, faults, red zones, refused mappings.
    pub(super) incidents: Vec<[u64; 4]>,
    /// Pages mapped direct, migrated, as a bounce page.
    pub(super) placements: [u64; 3],
    /// Most bytes mapped in each bin.
    pub(super) mapped: Vec<u64>,
    /// Pages mapped in each bin.
    pub(super) made: Vec<u64>,
    pub(super) lifetimes: Vec<LifetimeRow>,
    pub(super) space: Vec<SpaceRow>,
}

#[derive(Debug, Serialize)]
pub(super) struct LifetimeRow {
    pub(super) may: &'static str,
    /// The step, the number of bits of the nanoseconds that pages were mapped, and how many were
    /// unmapped then.
    pub(super) counts: Vec<[u64; 3]>,
    pub(super) longest_ns: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct SpaceRow {
    pub(super) start: String,
    pub(super) end: String,
    /// A digit a column: 0 for nothing mapped, 1 to 9 for ever more of it.
    pub(super) cells: String,
}

#[derive(Debug, Serialize)]
pub(super) struct FlushRow {
    pub(super) dart: usize,
    pub(super) name: String,
    pub(super) flushes: Vec<u64>,
}

/// A place in the guest's code, and the stream that its events were about.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct SiteRow {
    pub(super) code: String,
    pub(super) dart: Option<usize>,
    pub(super) stream: Option<usize>,
    /// The step, and events by kind: maps, unmaps, flushes, registers, others.
    pub(super) counts: Vec<[u64; 6]>,
}

/// A finding, its own event, and those around it, as places in `Data::around`.
#[derive(Debug, Serialize)]
pub(super) struct FindingRow {
    #[serde(flatten)]
    pub(super) finding: Finding,
    pub(super) event: Option<usize>,
    pub(super) around: Vec<usize>,
    pub(super) command: String,
}

#[derive(Debug, Serialize)]
pub(super) struct FaultRow {
    pub(super) device: String,
    pub(super) dart: usize,
    pub(super) stream: usize,
    pub(super) time_ns: u64,
    pub(super) what: &'static str,
    pub(super) iova: String,
    /// Accesses of the burst that it began.
    pub(super) accesses: u64,
    pub(super) last_ns: u64,
    pub(super) last_iova: String,
    pub(super) event: Option<usize>,
    /// The last events at the page, oldest first, as places in `Data::around`.
    pub(super) before: Vec<usize>,
    pub(super) command: String,
}

#[derive(Debug, Serialize)]
pub(super) struct EventRow {
    pub(super) time_ns: u64,
    pub(super) cpu: u8,
    pub(super) dart: Option<usize>,
    pub(super) stream: Option<usize>,
    pub(super) kind: &'static str,
    /// Its fields, as `oche trace text` prints them.
    pub(super) text: String,
    pub(super) code: Option<String>,
}
