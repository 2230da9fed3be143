//! Random programs on the engine and on the reference at once, and what must be the same.
//!
//! ```text
//!            program ----> the engine in the simulated machine ----+
//!               |                                                  +--> compared
//!               +--------> the reference --------------------------+
//! ```
//!
//! A program has one of two [modes](program::Mode):
//!
//! - **Quiescent**: nothing is under way while the engine works. Devices' writes have arrived, and
//!   each change of tables or registers is flushed before anybody looks. Each access has one right
//!   answer, which `machine/exact.rs` derives from the reference's tables and from what the engine
//!   refused, and each byte is compared.
//! - **Concurrent**: CPUs and devices act in the middle of the engine's work, devices' writes
//!   arrive late, and flushes are left out. `machine/invariants.rs` checks isolation, that nothing
//!   faults that every state of the tables permits, and that no byte is lost or invented.
//!
//! In both modes the simulated machine checks its own contracts, the engine's reports must agree
//! with each other, and in the end all pages are at home and memory is the reference's.
//!
//! [`run()`] makes programs from a seed, runs each in a simulated machine of its own and compares
//! as it goes. A program that fails is shortened and printed as a file for `tests/corpus`.

pub mod corpus;
pub mod counts;
pub mod history;
pub mod machine;
pub mod pages;
pub mod program;
pub mod reference;
pub mod registers;
pub mod run;
pub mod sharing;
pub mod shrink;
pub mod soak;
pub mod views;

pub use counts::{Counts, CountsByMode};
pub use run::{Difference, PROGRAM_OPERATIONS, program_of, run_program};
pub use shrink::Failure;

use shrink::shrink;

/// What was run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Programs.
    pub programs: u64,
    /// Operations of all programs.
    pub operations: u64,
    /// What they came to.
    pub counts: CountsByMode,
}

/// Runs programs from `seed` until `operations` operations have run. `progress` is called
/// after each program.
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
        report.counts.add(program.setting.mode, &counts);
        progress(&report);
    }
    Ok(report)
}
