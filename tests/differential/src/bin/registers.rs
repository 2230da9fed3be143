//! Random accesses to every register of the engine's DARTs: `registers [ACCESSES] [SEED]`.

use oche_differential::registers::{Counts, run};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let accesses = numbers.next().unwrap_or(Ok(1_000_000));
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_secs());
    let seed = numbers.next().unwrap_or_else(|| Ok(clock()));
    let (Ok(accesses), Ok(seed)) = (accesses, seed) else {
        eprintln!("registers: usage: registers [ACCESSES] [SEED], two whole numbers");
        return ExitCode::from(2);
    };
    println!("registers: {accesses} accesses, seed {seed}");
    let start = Instant::now();
    let mut next = accesses / 10;
    let progress = |counts: &Counts| {
        if counts.accesses >= next {
            next += accesses / 10;
            println!("registers: {} accesses, {:.0?}", counts.accesses, start.elapsed());
        }
    };
    match run(accesses, seed, progress) {
        Ok(counts) => {
            println!("registers: no difference in {:.1?}: {counts:?}", start.elapsed());
            ExitCode::SUCCESS
        }
        Err(what) => {
            println!("registers: seed {seed} fails: {what}");
            ExitCode::FAILURE
        }
    }
}
