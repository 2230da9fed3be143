//! Runs named steps one after the other, for `cargo xtask test` and `cargo xtask nightly`.

use std::fmt;
use std::time::Instant;

use anyhow::{Result, bail};
use oche::progress::{Progress, Step, duration};

/// How many of the longest steps are listed at the end.
const LISTED: usize = 8;

/// The result of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StepVerdict {
    /// It passed, with a summary of a few words.
    Passed(String),
    /// It failed, with the error.
    Failed(String),
    /// It could not run here, with the reason.
    NotRun(String),
}

/// A step that has been run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StepResult {
    pub(crate) name: &'static str,
    pub(crate) outcome: StepVerdict,
    pub(crate) seconds: f64,
}

/// The error of a step that cannot run on this machine, with the reason.
#[derive(Debug)]
pub(crate) struct NotRun(pub(crate) String);

impl fmt::Display for NotRun {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "not run: {}", self.0)
    }
}

impl std::error::Error for NotRun {}

/// The steps whose names contain one of the words of `only`, in any case; all without a word.
///
/// # Errors
///
/// A word is in no step's name; the error lists the names.
pub(crate) fn choose<Work: Copy>(
    steps: &[(&'static str, Work)],
    only: &[String],
) -> Result<Vec<(&'static str, Work)>> {
    let has = |name: &str, word: &String| name.to_lowercase().contains(&word.to_lowercase());
    for word in only {
        if !steps.iter().any(|(name, _)| has(name, word)) {
            let names: Vec<&str> = steps.iter().map(|(name, _)| *name).collect();
            bail!("no step's name contains `{word}`; the steps are: {}", names.join("; "));
        }
    }
    let is_chosen = |name: &str| only.is_empty() || only.iter().any(|word| has(name, word));
    Ok(steps.iter().copied().filter(|(name, _)| is_chosen(name)).collect())
}

/// Runs `steps` in order, each by `run`, and passes each result to `record`. Without `keep_going`
/// it stops behind the first step that fails.
///
/// # Errors
///
/// `record` fails; a step that fails is a result.
pub(crate) fn run<Work>(
    steps: &[(&'static str, Work)],
    keep_going: bool,
    mut run: impl FnMut(&Work, &Step) -> Result<String>,
    mut record: impl FnMut(&StepResult) -> Result<()>,
) -> Result<Vec<StepResult>> {
    let progress = Progress::new(steps.len());
    let mut results = Vec::new();
    for (name, work) in steps {
        let step = progress.step(name);
        let began = Instant::now();
        let outcome = match run(work, &step) {
            Ok(summary) => {
                step.done(&summary);
                StepVerdict::Passed(summary)
            }
            Err(error) => {
                step.line(&format!("{error:#}"));
                match error.downcast_ref::<NotRun>() {
                    Some(NotRun(reason)) => {
                        step.skipped();
                        StepVerdict::NotRun(reason.clone())
                    }
                    None => StepVerdict::Failed(format!("{error:#}")),
                }
            }
        };
        let is_failed = matches!(outcome, StepVerdict::Failed(_));
        let result = StepResult { name, outcome, seconds: began.elapsed().as_secs_f64() };
        record(&result)?;
        results.push(result);
        if is_failed && !keep_going {
            break;
        }
    }
    Ok(results)
}

/// A table of the longest of `results`, and the time of all.
pub(crate) fn longest(results: &[StepResult]) -> String {
    let mut sorted: Vec<&StepResult> = results.iter().collect();
    sorted.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
    let mut text = String::new();
    if sorted.len() > 1 {
        text.push_str("longest steps:\n");
        for result in sorted.iter().take(LISTED) {
            text.push_str(&format!("{:>13}  {}\n", duration(result.seconds), result.name));
        }
    }
    // The sum of no numbers would be -0.
    let all = results.iter().fold(0.0, |all, result| all + result.seconds);
    text.push_str(&format!("{:>13}  in all", duration(all)));
    text
}

#[cfg(test)]
mod tests {
    use super::{NotRun, StepResult, StepVerdict, choose, longest, run};
    use anyhow::anyhow;

    const STEPS: [(&str, u8); 3] = [("Wrong input", 0), ("Demo, short", 1), ("Demo, full", 2)];

    #[test]
    fn steps_are_chosen_by_part_of_their_name_in_any_case() {
        let chosen = |only: &[&str]| {
            let only: Vec<String> = only.iter().map(|word| (*word).to_owned()).collect();
            choose(&STEPS, &only).map(|steps| steps.iter().map(|(_, work)| *work).collect())
        };
        let numbers = |only: &[&str]| -> Vec<u8> { chosen(only).unwrap() };
        assert_eq!(numbers(&[]), [0, 1, 2]);
        assert_eq!(numbers(&["WRONG"]), [0]);
        assert_eq!(numbers(&["demo", "wrong"]), [0, 1, 2]);
        let refused = chosen(&["demo", "no such step"]).unwrap_err().to_string();
        assert!(refused.contains("`no such step`") && refused.contains("Wrong input"), "{refused}");
    }

    /// Runs the steps; the first fails, the second cannot run. Gives their outcomes in short.
    fn outcomes(keep_going: bool) -> Vec<&'static str> {
        let mut recorded = 0;
        let work = |number: &u8, _: &_| match number {
            0 => Err(anyhow!("broken")),
            1 => Err(NotRun("no root".to_owned()).into()),
            _ => Ok("good".to_owned()),
        };
        let results = run(&STEPS, keep_going, work, |_| {
            recorded += 1;
            Ok(())
        });
        let results = results.unwrap();
        assert_eq!(recorded, results.len());
        let short = |result: &StepResult| match &result.outcome {
            StepVerdict::Passed(summary) if summary == "good" => "passed",
            StepVerdict::Failed(error) if error == "broken" => "failed",
            StepVerdict::NotRun(reason) if reason == "no root" => "not run",
            _ => "other",
        };
        results.iter().map(short).collect()
    }

    #[test]
    fn a_failed_step_ends_the_run_unless_it_keeps_going() {
        assert_eq!(outcomes(false), ["failed"]);
        assert_eq!(outcomes(true), ["failed", "not run", "passed"]);
    }

    #[test]
    fn the_longest_steps_are_listed_first() {
        let step = |name, seconds| {
            let outcome = StepVerdict::Passed(String::new());
            StepResult { name, outcome, seconds }
        };
        let text = longest(&[step("a", 2.0), step("b", 130.0)]);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(lines, ["longest steps:", "2 min 10 s  b", "2.0 s  a", "2 min 12 s  in all"]);
        assert_eq!(longest(&[]).trim(), "0.0 s  in all");
    }
}
