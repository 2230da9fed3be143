//! `cargo xtask test`: the one test command, every step named as it runs.

use std::time::Instant;

use anyhow::{Result, bail};
use oche::progress::Progress;

mod document_commands;
mod fault;
mod m1;
mod mistakes;
mod port;
mod reset;
mod steps;
mod stock;
mod views;
mod watch;
mod wrong_input;

pub(crate) use steps::{BOARD_STEP, BOARD_VERDICT, ORDERING_STEPS, ORDERING_VERDICTS};
use steps::{STEPS, Tally, Work};

/// Options of `cargo xtask test`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Run only steps whose name contains WORD, in any case; may be repeated.
    #[arg(long, value_name = "WORD")]
    pub only: Vec<String>,
    /// Name the steps, and run none.
    #[arg(long)]
    pub list: bool,
    /// Go on after a step that failed.
    #[arg(long)]
    pub keep_going: bool,
}

/// Carries out `cargo xtask test`.
///
/// # Errors
///
/// A step failed; each says why as it ends.
pub fn main(options: &Options) -> Result<()> {
    if options.list {
        chosen(&options.only)?.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(());
    }
    let began = Instant::now();
    let chosen = chosen(&options.only)?;
    let progress = Progress::new(chosen.len());
    let mut tally = Tally { passed: 0, failed: 0 };
    for (name, work) in chosen {
        let step = progress.step(name);
        match work(&step, &mut tally) {
            Ok(summary) => {
                tally.passed += 1;
                step.done(&summary);
            }
            Err(error) => {
                tally.failed += 1;
                step.line(&format!("{error:#}"));
                drop(step);
                if !options.keep_going {
                    break;
                }
            }
        }
    }
    eprintln!("{:.0} s in all", began.elapsed().as_secs_f64());
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
    chosen(only).map(|_| ())
}

/// The steps that one of the words is in, or all where there is no word.
fn chosen(only: &[String]) -> Result<Vec<(&'static str, Work)>> {
    for word in only {
        if !STEPS.iter().any(|(name, _)| is_chosen(name, std::slice::from_ref(word))) {
            let names: Vec<&str> = STEPS.iter().map(|(name, _)| *name).collect();
            bail!("no step's name contains `{word}`; the steps are: {}", names.join("; "));
        }
    }
    Ok(STEPS.iter().copied().filter(|(name, _)| is_chosen(name, only)).collect())
}

fn is_chosen(name: &str, only: &[String]) -> bool {
    let name = name.to_lowercase();
    only.is_empty() || only.iter().any(|word| name.contains(&word.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::{STEPS, chosen, is_chosen};

    #[test]
    fn steps_are_chosen_by_part_of_their_name() {
        assert!(is_chosen("Wrong input", &[]));
        assert!(is_chosen("Wrong input", &["wrong".into()]));
        assert!(!is_chosen("Wrong input", &["demo".into()]));
    }

    #[test]
    fn a_word_that_no_step_has_is_answered_with_the_steps() {
        let all = chosen(&[]).map(|steps| steps.len());
        assert_eq!(all.ok(), Some(STEPS.len()));
        let refused = chosen(&["demo".into(), "no such step".into()]).map(|steps| steps.len());
        let told = refused.unwrap_err().to_string();
        assert!(told.contains("`no such step`") && told.contains("Wrong input"), "{told}");
    }

    #[test]
    fn no_two_steps_have_one_name() {
        let names: std::collections::BTreeSet<&str> = STEPS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), STEPS.len());
    }
}
