//! Runs random programs on the engine and on the reference: `differential [OPERATIONS] [SEED]`.

use oche_differential::{Report, run};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

#[global_allocator]
static ALLOCATOR: oche_sim::allocations::Counting = oche_sim::allocations::Counting;

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let operations = match numbers.next() {
        None => 1_000_000,
        Some(Ok(operations)) => operations,
        Some(Err(_)) => return usage(),
    };
    let seed = match numbers.next() {
        None => SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_secs()),
        Some(Ok(seed)) => seed,
        Some(Err(_)) => return usage(),
    };
    // A panic of the engine is a finding like others; its text is reported with the program.
    std::panic::set_hook(Box::new(|_| {}));
    println!("differential: {operations} operations, seed {seed}");
    let start = Instant::now();
    let mut next = operations / 10;
    let progress = |report: &Report| {
        if report.operations >= next {
            next += operations / 10;
            println!("differential: {} operations, {:.0?}", report.operations, start.elapsed());
        }
    };
    match run(operations, seed, progress) {
        Ok(report) => {
            println!(
                "differential: no difference in {:.1?}: {:#?}",
                start.elapsed(),
                report.counts
            );
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("differential: seed {seed} fails: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("differential: usage: differential [OPERATIONS] [SEED], two whole numbers");
    ExitCode::from(2)
}
