//! The data of the page, as JSON.

use serde::Serialize;

use super::super::check::CheckReport as Findings;

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
    pub(super) start_ns: u64,
    pub(super) end_ns: u64,
    pub(super) events: u64,
    pub(super) missing: u64,
    pub(super) warnings: Vec<String>,
    pub(super) bin_ns: u64,
    pub(super) bins: usize,
    pub(super) devices: Vec<Device>,
    pub(super) flushes: Vec<FlushRow>,
    pub(super) sites: Vec<Site>,
    pub(super) more_sites: usize,
    /// Events of all places in the guest's code.
    pub(super) sites_events: u64,
    pub(super) has_symbols: bool,
    pub(super) faults: Vec<FaultRow>,
    pub(super) faults_told: u64,
    pub(super) faults_in_all: u64,
    pub(super) findings: Findings,
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
    /// Pages by the number of bits of the nanoseconds that they were mapped.
    pub(super) counts: Vec<u64>,
    pub(super) longest_ns: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct SpaceRow {
    pub(super) start: String,
    pub(super) end: String,
    /// A digit a bin: 0 for nothing mapped, 1 to 9 for ever more of it.
    pub(super) cells: String,
}

#[derive(Debug, Serialize)]
pub(super) struct FlushRow {
    pub(super) dart: usize,
    pub(super) name: String,
    pub(super) flushes: Vec<u64>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Site {
    pub(super) code: String,
    pub(super) events: u64,
    pub(super) maps: u64,
    pub(super) unmaps: u64,
    pub(super) flushes: u64,
    pub(super) registers: u64,
    pub(super) others: u64,
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
    /// The last events at the page, oldest first.
    pub(super) before: Vec<String>,
}
