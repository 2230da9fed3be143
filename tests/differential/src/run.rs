//! Runs one program on the engine and on the reference.

use crate::counts::Counts;
use crate::machine::Machine;
use crate::program::generate::{Kind, generate};
use crate::program::{Mode, Program, Step};
use oche_sim::random::mix;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Operations in one program.
pub const PROGRAM_OPERATIONS: u64 = 1500;

/// Program `number` of the run that `seed` makes, cut off after `length` operations. Each has a
/// seed of its own.
pub fn program_of(seed: u64, number: u64, length: u64) -> Program {
    let seed = program_seed(seed, number);
    generate(seed, Kind::of(seed), Mode::of(seed), length as usize)
}

/// The mode of program `number` of the run that `seed` makes.
pub fn program_mode(seed: u64, number: u64) -> Mode {
    Mode::of(program_seed(seed, number))
}

fn program_seed(seed: u64, number: u64) -> u64 {
    mix(mix(seed).wrapping_add(number))
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
