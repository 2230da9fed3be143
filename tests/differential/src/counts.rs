//! What a program exercised.

use crate::program::Mode;
use serde::{Deserialize, Serialize};

/// What the programs of each mode exercised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CountsByMode {
    /// Programs that are compared exactly.
    pub quiescent: Counts,
    /// Programs of which invariants are checked.
    pub concurrent: Counts,
}

impl CountsByMode {
    /// Adds what a program of `mode` exercised.
    pub fn add(&mut self, mode: Mode, counts: &Counts) {
        match mode {
            Mode::Quiescent => self.quiescent.add(counts),
            Mode::Concurrent => self.concurrent.add(counts),
        }
    }
}

/// How often something was really exercised: a test that never does the thing proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Programs.
    pub programs: u64,
    /// Invalidations by the guest.
    pub flushes: u64,
    /// Device accesses that reached the one page that they could.
    pub exact_accesses: u64,
    /// Device accesses that could have gone more than one way: none in a quiescent program, but in
    /// a table that the engine refused.
    pub ambiguous_accesses: u64,
    /// Device accesses that had to fault, and did.
    pub faults: u64,
    /// Device accesses of quiescent programs that had to fault because a window left them out,
    /// though their granule is mapped in part.
    pub window_faults: u64,
    /// Device accesses of quiescent programs that ended in a red zone.
    pub red_zones: u64,
    /// Red-zone writes that the engine reported.
    pub red_zone_reports: u64,
    /// Bytes of red zones that the engine reported and that were compared with what devices wrote.
    pub red_zone_bytes: u64,
    /// Bytes that were compared, one by one or as pages.
    pub compared_bytes: u64,
    /// Accesses in the middle of the engine's work.
    pub overlapped: u64,
    /// Mappings that the engine refused.
    pub refusals: u64,
    /// Pages mapped directly.
    pub direct: u64,
    /// Pages that moved into a frame of the pool.
    pub migrated: u64,
    /// Bounce pages of pages mapped elsewhere.
    pub bounce_pages: u64,
    /// Granules that moved while in use.
    pub live_moves: u64,
    /// Permissions of mapped pages that changed.
    pub permissions: u64,
    /// Pages of which a flush made the copies equal, with bytes that only their writer had seen.
    pub spread_pages: u64,
    /// CPU accesses that trapped and were tried again.
    pub retried_traps: u64,
    /// CPU accesses that were carried out on all copies of a trapped page.
    pub trapped_accesses: u64,
    /// Fetches and walks for which a page's copies were given up.
    pub given_up: u64,
    /// Pages that a disk used, at home.
    pub disk_uses: u64,
    /// Of those, pages that were away.
    pub fetched: u64,
    /// Pages that were checked to be home with all their bytes.
    pub home_checks: u64,
}

impl Counts {
    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        self.programs += other.programs;
        self.flushes += other.flushes;
        self.exact_accesses += other.exact_accesses;
        self.ambiguous_accesses += other.ambiguous_accesses;
        self.faults += other.faults;
        self.window_faults += other.window_faults;
        self.red_zones += other.red_zones;
        self.red_zone_reports += other.red_zone_reports;
        self.red_zone_bytes += other.red_zone_bytes;
        self.compared_bytes += other.compared_bytes;
        self.overlapped += other.overlapped;
        self.refusals += other.refusals;
        self.direct += other.direct;
        self.migrated += other.migrated;
        self.bounce_pages += other.bounce_pages;
        self.live_moves += other.live_moves;
        self.permissions += other.permissions;
        self.spread_pages += other.spread_pages;
        self.retried_traps += other.retried_traps;
        self.trapped_accesses += other.trapped_accesses;
        self.given_up += other.given_up;
        self.disk_uses += other.disk_uses;
        self.fetched += other.fetched;
        self.home_checks += other.home_checks;
    }
}
