//! Random programs on the engine and on the reference at once, and what must be the same.
//!
//! ```text
//!            program ----> the engine in the simulated machine ----+
//!               |                                             +--> the same? if not, a shorter program
//!               +--------> the reference ---------------------+
//! ```
//!
//! [`run`] makes programs from a seed, runs each in a simulated machine of its own and compares as
//! it goes. A program that fails is shortened and printed as a file for `tests/corpus`.

pub mod corpus;
pub mod history;
pub mod machine;
pub mod pages;
pub mod program;
pub mod reference;
pub mod registers;
pub mod sharing;
pub mod shrink;
pub mod soak;
pub mod views;

use crate::corpus::CorpusProgram;
use crate::program::generate::{Kind, generate};
use crate::program::{Program, Step};
use crate::shrink::shrink;
use machine::Machine;
use oche_sim::random::mix;
use serde::{Deserialize, Serialize};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Operations in one program.
pub const PROGRAM_OPERATIONS: u64 = 1500;

/// What was run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Programs.
    pub programs: u64,
    /// Operations of all programs.
    pub operations: u64,
    /// What they came to.
    pub counts: Counts,
}

/// How often something was really exercised: a test that never does the thing proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Invalidations by the guest.
    pub flushes: u64,
    /// Device accesses that reached exactly one possible page.
    pub exact_accesses: u64,
    /// Device accesses that could have gone more than one way.
    pub ambiguous_accesses: u64,
    /// Device accesses that had to fault, and did.
    pub faults: u64,
    /// Device accesses that had to fault because a window left them out, though their granule is
    /// mapped in part.
    pub window_faults: u64,
    /// Device accesses that ended in a red zone.
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

/// A program on which engine and reference differ.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which operation was the last.
    pub step: usize,
    /// What differed.
    pub what: String,
    /// The program, shortened.
    pub program: Program,
}

impl Failure {
    /// What differed and when.
    fn why(&self) -> String {
        format!("after {} operations: {}", self.step + 1, self.what)
    }

    /// The program as a file for `tests/corpus`.
    pub fn to_file(&self) -> CorpusProgram {
        CorpusProgram::new(self.why(), self.program.clone())
    }
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}\n{}", self.why(), self.to_file())
    }
}

/// Runs programs from `seed` until `operations` operations have run. `progress` hears of each
/// program.
///
/// # Errors
///
/// The first program that fails, shortened.
pub fn run(
    operations: u64,
    seed: u64,
    mut progress: impl FnMut(&Report),
) -> Result<Report, Box<Failure>> {
    let mut report = Report::default();
    while report.operations < operations {
        let length = PROGRAM_OPERATIONS.min(operations - report.operations);
        let program = program_of(seed, report.programs, length);
        let counts =
            run_program(&program).map_err(|failure| Box::new(shrink(&program, failure)))?;
        report.programs += 1;
        report.operations += length;
        report.counts.add(&counts);
        progress(&report);
    }
    Ok(report)
}

/// Program `number` of the run that `seed` makes, cut off after `length` operations. Each has a
/// seed of its own.
pub fn program_of(seed: u64, number: u64, length: u64) -> Program {
    let seed = mix(mix(seed).wrapping_add(number));
    generate(seed, Kind::of(seed), length as usize)
}

/// What went wrong where, before shortening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Index of the operation.
    pub step: usize,
    /// What differed.
    pub what: String,
}

/// Runs one program.
///
/// # Errors
///
/// The first difference, or the text of a panic in the engine.
pub fn run_program(program: &Program) -> Result<Counts, Difference> {
    if program.setting.caches_invalid { run_in::<true>(program) } else { run_in::<false>(program) }
}

fn run_in<const C: bool>(program: &Program) -> Result<Counts, Difference> {
    let mut step = 0;
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let mut machine = Machine::<C>::new(&program.setting);
        for (index, Step { operation, seed }) in program.steps.iter().enumerate() {
            step = index;
            machine.step(operation, u64::from(*seed))?;
        }
        machine.finish()
    }));
    match ran {
        Ok(Ok(counts)) => Ok(counts),
        Ok(Err(what)) => Err(Difference { step, what }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
            Err(Difference { step, what: format!("panic: {text}") })
        }
    }
}
