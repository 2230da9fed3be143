//! Random instructions on four CPUs, on pages that have copies: see
//! `tests/guests/hostile/src/bare/random.rs`.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use oche::progress::Step;

use super::guest::{Way, start};
use crate::qemu::{RunEnding, Wish};

/// A run whose operations take longer than this has hung.
const LIMIT_PER_OPERATION: Duration = Duration::from_millis(20);
/// And for the rest of it.
const LIMIT_OF_BOOT: Duration = Duration::from_secs(120);

/// The result of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RandomResult {
    /// Requested operations.
    pub operations: u64,
    /// Programs that ran twice, with the same result.
    pub compared: u64,
    /// Programs that finished without an exception.
    pub completed: u64,
    /// Milliseconds from the guest's start to its end.
    pub milliseconds: u64,
}

/// Runs `operations` operations that follow from `seed`.
pub(crate) fn run(
    oche: &Path,
    guest: &Path,
    seed: u64,
    operations: u64,
    step: &Step,
) -> Result<RandomResult> {
    let request = format!("random.seed={seed} random.ops={operations}");
    let options = [("oche.bootargs", request.as_str())];
    let mut running =
        start(oche, guest, &Way { name: "random", options: &options, ..Way::default() }, step)?;
    let began = Instant::now();
    let mut outcome = None;
    let mut failure = None;
    let limit = LIMIT_OF_BOOT + LIMIT_PER_OPERATION * u32::try_from(operations).unwrap_or(u32::MAX);
    let ending = running.watch(limit, |_, line| {
        let Some(report) = line.text.strip_prefix("guest: ") else { return Ok(Wish::GoOn) };
        if report.contains("FAILED") && failure.is_none() {
            failure = Some(report.to_owned());
        }
        if let Some(done) =
            report.strip_prefix("random: ").and_then(|report| report.strip_suffix(" done"))
        {
            step.detail(&format!("seed {seed}: {done}"));
        }
        outcome = outcome.or_else(|| parse(report, seed));
        Ok(Wish::GoOn)
    })?;
    if let Some(failure) = failure {
        bail!("seed {seed}: {failure}");
    }
    match outcome {
        Some(outcome) if ending == RunEnding::PoweredOff && outcome.operations == operations => {
            if outcome.compared < operations / 4 || outcome.completed < operations / 4 {
                bail!("seed {seed}: too little was executed: {outcome:?}");
            }
            Ok(RandomResult { milliseconds: began.elapsed().as_millis() as u64, ..outcome })
        }
        _ => bail!("seed {seed}: {ending}, and the guest did not report all its operations"),
    }
}

/// `random: seed 7: 1000 operations, 500 compared, 400 completed, ok`.
fn parse(report: &str, seed: u64) -> Option<RandomResult> {
    let rest =
        report.strip_prefix(&format!("random: seed {seed}: "))?.strip_suffix(" completed, ok")?;
    let (operations, rest) = rest.split_once(" operations, ")?;
    let (compared, completed) = rest.split_once(" compared, ")?;
    Some(RandomResult {
        operations: operations.parse().ok()?,
        compared: compared.parse().ok()?,
        completed: completed.parse().ok()?,
        milliseconds: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::{RandomResult, parse};

    #[test]
    fn result_line_is_taken_only_for_its_own_seed_and_only_if_it_is_good() {
        let line = "random: seed 7: 1000 operations, 500 compared, 400 completed, ok";
        let outcome =
            RandomResult { operations: 1000, compared: 500, completed: 400, milliseconds: 0 };
        assert_eq!(parse(line, 7), Some(outcome));
        assert_eq!(parse(line, 8), None);
        assert_eq!(parse(&line.replace("ok", "FAILED"), 7), None);
    }
}
