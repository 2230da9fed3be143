//! `cargo xtask nightly`: the checks that take too long for `cargo xtask test`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use oche::progress::duration;
use oche::workspace;
use serde_json::{Map, Value, json};

use crate::runner::{self, StepResult, StepVerdict};
use crate::soak;

mod bare;
mod kernels;
mod options;
mod release;
mod reproducible;
mod steps;
mod workshop;

pub use options::NightlyOptions;
use steps::STEPS;
use workshop::folder;

/// Carries out `cargo xtask nightly`.
///
/// # Errors
///
/// A step failed, or could not run and that is not allowed.
pub fn main(options: &NightlyOptions) -> Result<()> {
    let chosen = runner::choose(STEPS, &options.only)?;
    if options.list {
        chosen.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(());
    }
    workspace::create_folder(&folder())?;
    let commit = soak::commit()?;
    let mut kept = Kept::read(&commit);
    let left: Vec<_> = chosen
        .iter()
        .copied()
        .filter(|(name, _)| !(options.resume && kept.has_passed(name)))
        .collect();
    let results = runner::run(
        &left,
        options.keep_going,
        |work, step| work(step, options),
        |result| kept.add(result),
    )?;
    println!("commit {commit}");
    for (name, _) in &chosen {
        println!("{}", kept.line(name));
    }
    eprintln!("{}", runner::longest(&results));
    let count =
        |is: fn(&StepVerdict) -> bool| results.iter().filter(|result| is(&result.outcome)).count();
    let failed = count(|outcome| matches!(outcome, StepVerdict::Failed(_)));
    let not_run = count(|outcome| matches!(outcome, StepVerdict::NotRun(_)));
    if failed > 0 {
        bail!("{failed} of {} steps failed", chosen.len());
    }
    if not_run > 0 && !options.allow_skips {
        bail!("{not_run} of {} steps could not run here", chosen.len());
    }
    Ok(())
}

/// The results of the steps by name, kept between runs.
struct Kept {
    commit: String,
    steps: Map<String, Value>,
}

impl Kept {
    fn path() -> PathBuf {
        folder().join("results.json")
    }

    /// Reads the kept results; none if there is no such file.
    fn read(commit: &str) -> Self {
        let text = std::fs::read(Self::path()).unwrap_or_default();
        let steps = serde_json::from_slice(&text).unwrap_or_default();
        Self { commit: commit.to_owned(), steps }
    }

    /// Whether the step passed on this very commit. A changed tree has no such name.
    fn has_passed(&self, name: &str) -> bool {
        let text = |field: &str| self.steps.get(name)?.get(field)?.as_str();
        text("outcome") == Some("passed")
            && text("commit") == Some(&self.commit)
            && self.commit != "unknown"
            && !self.commit.ends_with("-dirty")
    }

    fn add(&mut self, result: &StepResult) -> Result<()> {
        let (outcome, detail) = match &result.outcome {
            StepVerdict::Passed(summary) => ("passed", summary),
            StepVerdict::Failed(error) => ("failed", error),
            StepVerdict::NotRun(reason) => ("not run", reason),
        };
        let step = json!({
            "outcome": outcome, "detail": detail, "seconds": result.seconds, "commit": self.commit,
        });
        self.steps.insert(result.name.to_owned(), step);
        let text = serde_json::to_vec_pretty(&self.steps).context("the results")?;
        workspace::write_whole(&Self::path(), &text)
    }

    /// A line of the summary about the step.
    fn line(&self, name: &str) -> String {
        let Some(step) = self.steps.get(name) else { return format!("{:<8} {name}", "-") };
        let text = |field: &str| step.get(field).and_then(Value::as_str).unwrap_or_default();
        let time = duration(step.get("seconds").and_then(Value::as_f64).unwrap_or(0.0));
        let earlier = match text("commit") == self.commit {
            true => String::new(),
            false => format!(", on commit {}", text("commit")),
        };
        format!("{:<8} {name} ({time}{earlier}): {}", text("outcome"), text("detail"))
    }
}

#[cfg(test)]
mod tests {
    use super::{Kept, STEPS};
    use serde_json::{Map, json};

    #[test]
    fn only_a_step_that_passed_on_this_commit_is_left_out() {
        let kept = |outcome: &str, before: &str, now: &str| {
            let mut steps = Map::new();
            steps.insert("Soak".to_owned(), json!({ "outcome": outcome, "commit": before }));
            Kept { commit: now.to_owned(), steps }.has_passed("Soak")
        };
        assert!(kept("passed", "a", "a"));
        assert!(!kept("failed", "a", "a"));
        assert!(!kept("not run", "a", "a"));
        assert!(!kept("passed", "a", "b"));
        assert!(!kept("passed", "a-dirty", "a-dirty"));
        assert!(!Kept { commit: "a".to_owned(), steps: Map::new() }.has_passed("Soak"));
    }

    #[test]
    fn no_two_steps_have_one_name() {
        let names: std::collections::BTreeSet<&str> = STEPS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), STEPS.len());
    }
}
