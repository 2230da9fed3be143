//! `cargo xtask test`: the one test command, every step named as it runs.

use anyhow::{Result, bail};

use crate::runner::{self, StepVerdict};

pub(crate) mod boot_file;
mod carried;
mod document_commands;
pub(crate) mod drivers;
mod fault;
mod guest_clock;
mod guest_names;
pub(crate) mod install;
mod kernels;
mod live_capture;
pub(crate) mod m1;
pub(crate) mod mac_trees;
mod mistakes;
mod port;
mod probe;
mod reset;
mod steps;
mod stock;
mod views;
mod watch;
mod wrong_input;

pub(crate) use steps::{BOARD_STEP, BOARD_VERDICT, ORDERING_STEPS, ORDERING_VERDICTS};
use steps::{STEPS, StepCounts};

/// Options of `cargo xtask test`.
#[derive(Clone, Debug, clap::Args)]
pub struct TestOptions {
    /// Run only steps whose name contains WORD, in any case; may be repeated.
    #[arg(long, value_name = "WORD")]
    pub only: Vec<String>,
    /// List the steps' names and run none.
    #[arg(long)]
    pub list: bool,
    /// Continue after a step that failed.
    #[arg(long)]
    pub keep_going: bool,
}

/// Carries out `cargo xtask test`.
///
/// # Errors
///
/// A step failed; each error is printed as its step ends.
pub fn main(options: &TestOptions) -> Result<()> {
    let chosen = runner::choose(STEPS, &options.only)?;
    if options.list {
        chosen.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(());
    }
    let mut tally = StepCounts { passed: 0, failed: 0 };
    let results =
        runner::run(&chosen, options.keep_going, |work, step| work(step, &mut tally), |_| Ok(()))?;
    for result in &results {
        match result.outcome {
            StepVerdict::Passed(_) => tally.passed += 1,
            StepVerdict::Failed(_) | StepVerdict::NotRun(_) => tally.failed += 1,
        }
    }
    eprintln!("{}", runner::longest(&results));
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed > 0 {
        bail!("a test failed");
    }
    Ok(())
}

/// Checks that each of `only` is part of a step's name.
///
/// # Errors
///
/// The first word that is in no step's name.
#[cfg(test)]
pub(crate) fn check_only(only: &[String]) -> Result<()> {
    runner::choose(STEPS, only).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::STEPS;

    #[test]
    fn no_two_steps_have_one_name() {
        let names: std::collections::BTreeSet<&str> = STEPS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), STEPS.len());
    }
}
