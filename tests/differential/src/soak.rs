//! A long run of random programs on several threads, which can be stopped at any moment and
//! continued.

use crate::counts::{Counts, CountsByMode};
use crate::run::{Difference, PROGRAM_OPERATIONS, program_mode, program_of, run_program};
use crate::shrink::{Failure, shrink};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How often the one who watches is reported.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// How far a run has come: all that is needed to go on, and its result in the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Where the run began, as the version control names it.
    pub commit: String,
    /// What is run, the same in all commits that differ in nothing that counts here.
    #[serde(default)]
    pub code: String,
    /// What all programs come from, with their numbers.
    pub seed: u64,
    /// Operations that were asked for.
    pub wanted: u64,
    /// Programs that have run, from number 0 on without a gap.
    pub programs: u64,
    /// Their operations.
    pub operations: u64,
    /// Seconds that the run took, of all its parts.
    pub seconds: f64,
    /// Whether the run goes on after a program that fails.
    #[serde(default)]
    pub keeps_going: bool,
    /// The programs that failed, by number, and what differed. Of these, too, all operations count.
    #[serde(default)]
    pub failures: BTreeMap<u64, String>,
    /// What the programs came to.
    pub counts: CountsByMode,
}

/// The program on which engine and reference differ.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its number in the run.
    pub number: u64,
    /// What differs, and the program shortened.
    pub failure: Failure,
}

impl State {
    /// A run that has not begun.
    pub fn new(commit: String, seed: u64, wanted: u64) -> Self {
        let counts = CountsByMode::default();
        let (code, failures) = (String::new(), BTreeMap::new());
        let (programs, operations, seconds, keeps_going) = (0, 0, 0.0, false);
        Self {
            commit,
            code,
            seed,
            wanted,
            programs,
            operations,
            seconds,
            keeps_going,
            failures,
            counts,
        }
    }

    /// Whether all operations that were asked for have run.
    pub fn is_complete(&self) -> bool {
        self.operations >= self.wanted
    }

    fn add(&mut self, counts: &Counts) {
        self.operations += self.length(self.programs);
        self.counts.add(program_mode(self.seed, self.programs), counts);
        self.programs += 1;
    }

    /// Operations of program `number`: all have as many, but for the last.
    fn length(&self, number: u64) -> u64 {
        PROGRAM_OPERATIONS.min(self.wanted.saturating_sub(number * PROGRAM_OPERATIONS))
    }
}

/// Goes on with `state` on `threads` threads until it is complete. `report` is called once a
/// second.
///
/// # Errors
///
/// A program that fails, shortened, unless the run keeps going. Others may have run after it, and
/// do not count.
pub fn run(
    state: &mut State,
    threads: usize,
    mut report: impl FnMut(&State),
) -> Result<(), Box<Found>> {
    let (seed, before, began) = (state.seed, state.seconds, Instant::now());
    let next = AtomicU64::new(state.programs);
    let is_over = AtomicBool::new(false);
    let last = state.wanted.div_ceil(PROGRAM_OPERATIONS);
    let (sender, receiver) = mpsc::channel();
    let plan = state.clone();
    let failed = std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            let (sender, next, is_over, plan) = (sender.clone(), &next, &is_over, &plan);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= last {
                        break;
                    }
                    let result = run_program(&program_of(seed, number, plan.length(number)));
                    if sender.send((number, result)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        // Programs that ended before one with a smaller number did.
        let mut early = BTreeMap::new();
        let mut reported = Instant::now();
        for (number, result) in receiver {
            match result {
                Ok(counts) => drop(early.insert(number, counts)),
                Err(difference) => {
                    state.failures.insert(number, difference.what.clone());
                    if !state.keeps_going {
                        is_over.store(true, Ordering::Relaxed);
                        return Some((number, difference));
                    }
                    early.insert(number, Counts::default());
                }
            }
            while let Some(counts) = early.remove(&state.programs) {
                state.add(&counts);
            }
            if reported.elapsed() >= REPORT_EVERY {
                reported = Instant::now();
                state.seconds = before + began.elapsed().as_secs_f64();
                report(state);
            }
        }
        None
    });
    state.seconds = before + began.elapsed().as_secs_f64();
    failed.map_or(Ok(()), |(number, difference)| Err(Box::new(shorten(seed, number, difference))))
}

/// Runs program `number` of the run with `seed` alone.
///
/// # Errors
///
/// It fails; it is shortened.
pub fn run_one(seed: u64, number: u64) -> Result<Counts, Box<Found>> {
    let result = run_program(&program_of(seed, number, PROGRAM_OPERATIONS));
    result.map_err(|difference| Box::new(shorten(seed, number, difference)))
}

fn shorten(seed: u64, number: u64, difference: Difference) -> Found {
    Found { number, failure: shrink(&program_of(seed, number, PROGRAM_OPERATIONS), difference) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_is_continued_comes_to_the_same_as_one_that_is_not() {
        let mut whole = State::new("any".into(), 5, 8 * PROGRAM_OPERATIONS + 100);
        let mut begun = State::new("any".into(), 5, 3 * PROGRAM_OPERATIONS);
        run(&mut begun, 2, |_| ()).unwrap();
        begun.wanted = whole.wanted;
        run(&mut begun, 3, |_| ()).unwrap();
        run(&mut whole, 1, |_| ()).unwrap();
        assert!(whole.is_complete() && begun.is_complete());
        assert_eq!(State { seconds: 0.0, ..begun }, State { seconds: 0.0, ..whole });
    }
}
