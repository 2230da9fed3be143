//! Shortens a program that fails: leaves out parts for as long as it still fails.

use crate::corpus::CorpusProgram;
use crate::program::{Operation, Program, Rights, Site, Source};
use crate::run::{Difference, run_program};
use std::time::{Duration, Instant};

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

/// The longest that shortening may take: what fails has been found, and somebody waits to see it.
const LONGEST: Duration = Duration::from_secs(20);

/// A shorter program that fails as well.
pub fn shrink(program: &Program, difference: Difference) -> Failure {
    let mut shorter = program.clone();
    shorter.steps.truncate(difference.step + 1);
    let mut last = difference;
    let start_time = Instant::now();
    // Leaving out operations changes how the rest comes out, so a difference elsewhere counts as
    // well.
    loop {
        let before = shorter.steps.len();
        let mut size = (before / 2).max(1);
        loop {
            let mut start = 0;
            while start < shorter.steps.len() && start_time.elapsed() < LONGEST {
                let mut candidate = shorter.clone();
                candidate.steps.drain(start..(start + size).min(candidate.steps.len()));
                if !try_program(&mut shorter, candidate, &mut last) {
                    start += size;
                }
            }
            if size == 1 {
                break;
            }
            size /= 2;
        }
        if shorter.steps.len() == before || start_time.elapsed() >= LONGEST {
            break;
        }
    }
    for index in 0..shorter.steps.len() {
        for simpler in simpler(&shorter.steps.get(index).map(|step| step.operation.clone())) {
            let mut candidate = shorter.clone();
            if let Some(step) = candidate.steps.get_mut(index) {
                step.operation = simpler;
                try_program(&mut shorter, candidate, &mut last);
            }
        }
    }
    Failure { step: last.step, what: last.what, program: shorter }
}

fn try_program(shorter: &mut Program, candidate: Program, last: &mut Difference) -> bool {
    match run_program(&candidate) {
        Err(difference) if kind(&difference.what) == kind(&last.what) => {
            *shorter = candidate;
            shorter.steps.truncate(difference.step + 1);
            *last = difference;
            true
        }
        _ => false,
    }
}

/// Whether it is a panic, a broken contract or a difference: one must not be taken for another.
fn kind(what: &str) -> &str {
    match what.split_once(':') {
        Some(("panic", _)) => "panic",
        Some(("broken contract", _)) => "broken contract",
        _ => "difference",
    }
}

fn simpler(operation: &Option<Operation>) -> Vec<Operation> {
    match operation {
        Some(Operation::Map { domain, pages, source, .. }) => {
            let map = |pages, source| Operation::Map {
                domain: *domain,
                pages,
                source,
                rights: Rights::Both,
                site: Site::Allocator,
                fill: false,
                flush: true,
            };
            vec![
                map(*pages, *source),
                map(1, *source),
                map(*pages, Source::Scattered),
                map(1, Source::Scattered),
            ]
        }
        Some(Operation::Overlap(accesses)) => (0..accesses.len())
            .map(|index| {
                let mut fewer = accesses.clone();
                fewer.remove(index);
                Operation::Overlap(fewer)
            })
            .collect(),
        _ => Vec::new(),
    }
}
