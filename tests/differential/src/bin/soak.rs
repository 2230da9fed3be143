//! What `cargo xtask soak` starts: `soak STATE THREADS [PROGRAM]`, with a state to begin or go on
//! with.
//!
//! `STATE` is a file with an [`oche_differential::soak::State`], which is kept up to date. With
//! `PROGRAM`, that program of the run is run alone. Standard output gets what differs, if anything
//! does.

use oche_differential::soak::{Found, State, run, run_one};
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: oche_sim::allocations::Counting = oche_sim::allocations::Counting;

/// How often the state is written and a line shown.
const SAVE_EVERY: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // A panic of the engine is a finding like others; its text is reported with the program.
    std::panic::set_hook(Box::new(|_| {}));
    let result = match &arguments[..] {
        [path, threads] => soak(Path::new(path), threads),
        [path, _, program] => one(Path::new(path), program),
        _ => Err("usage: soak STATE THREADS [PROGRAM]".into()),
    };
    match result {
        Ok(Ended::Good) => ExitCode::SUCCESS,
        Ok(Ended::Shortened(found)) => report(&found, arguments.first().map_or("", String::as_str)),
        Ok(Ended::Listed) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::from(2)
        }
    }
}

/// Prints the shortened program and writes it as a file for `tests/corpus`, beside the state.
fn report(found: &Found, state: &str) -> ExitCode {
    println!("program {} fails {}", found.number, found.failure);
    let path = Path::new(state).with_file_name(format!("program-{}.json", found.number));
    match std::fs::write(&path, found.failure.to_file().to_string()) {
        Ok(()) => println!("written to {}, for tests/corpus", path.display()),
        Err(error) => eprintln!("soak: cannot write {}: {error}", path.display()),
    }
    ExitCode::FAILURE
}

/// How a run ended.
enum Ended {
    Good,
    /// At the first failure.
    Shortened(Box<Found>),
    /// It went on after failures, each of which was reported.
    Listed,
}

impl Ended {
    fn of(result: Result<(), Box<Found>>, has_failures: bool) -> Self {
        match result {
            Err(found) => Self::Shortened(found),
            Ok(()) if has_failures => Self::Listed,
            Ok(()) => Self::Good,
        }
    }
}

fn soak(path: &Path, threads: &str) -> Result<Ended, Box<dyn Error>> {
    let threads = threads.parse()?;
    let mut state = load(path)?;
    let mut written = Instant::now();
    let (begun, before) = (Instant::now(), state.operations);
    let mut failure_to_save = None;
    let mut reported = state.failures.clone();
    let found = run(&mut state, threads, |state| {
        for (number, what) in &state.failures {
            if reported.insert(*number, what.clone()).is_none() {
                println!("program {number} fails: {what}");
            }
        }
        if written.elapsed() >= SAVE_EVERY {
            written = Instant::now();
            failure_to_save = save(path, state).err();
            let rate = (state.operations - before) as f64 / begun.elapsed().as_secs_f64().max(1.0);
            let left = (state.wanted - state.operations) as f64 / rate.max(1.0);
            eprintln!(
                "{} of {} operations, {rate:.0} a second, {:.0} min left, {} failures",
                state.operations,
                state.wanted,
                left / 60.0,
                state.failures.len()
            );
        }
    });
    save(path, &state)?;
    failure_to_save.map_or_else(|| Ok(Ended::of(found, !state.failures.is_empty())), Err)
}

fn one(path: &Path, program: &str) -> Result<Ended, Box<dyn Error>> {
    Ok(Ended::of(run_one(load(path)?.seed, program.parse()?).map(drop), false))
}

fn load(path: &Path) -> Result<State, Box<dyn Error>> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// In one move, so that a stop at any time leaves the old state or the new.
fn save(path: &Path, state: &State) -> Result<(), Box<dyn Error>> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, serde_json::to_vec_pretty(state)?)?;
    Ok(std::fs::rename(beside, path)?)
}
