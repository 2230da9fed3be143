//! The simulated board under the ordering checker.

use std::path::Path;

use anyhow::{Context, Result};
use oche::progress::Step;
use oche_m1_sim::{DARTS, Mac};
use oche_types::range::PhysRange;

use crate::m1::bench::{self, Bench};
use crate::ordering::{MemoryRanges, OrderingChecker, OrderingReport};

/// The line after which Oche's layout is known.
const BEGIN: &str = "oche: the guest starts";
/// The start of the error of a failed run under the checker.
pub(crate) const VERDICT: &str = "the simulated M1 under the ordering checker";
/// A DART's registers, and the one that takes commands and reports that they are done.
/// Source: Linux `drivers/iommu/apple-dart.c`, `DART_T8020_STREAM_COMMAND`.
const DART_BYTES: u64 = 0x4000;
const STREAM_COMMAND: u64 = 0x20;
/// The NVMe's doorbells. Source: Linux `drivers/nvme/host/apple.c`.
const DOORBELLS: PhysRange = PhysRange { start: 0x2_7bce_490c, end: 0x2_7bce_4914 };
/// Operations that the run needs.
const EXPECTED: &[&str] = &[
    "Isb",
    "Translate",
    "Return",
    "Maintain(CleanToCoherency)",
    "Maintain(Instructions)",
    "Maintain(OwnInstructions)",
    "Tlbi { scope: Own, is_broadcast: false }",
    "Tlbi { scope: AllGuests, is_broadcast: false }",
    "Tlbi { scope: BothStages, is_broadcast: true }",
    "Tlbi { scope: BothStages, is_broadcast: false }",
    "SendEvent",
    // Behind the phase of a completion of the NVMe's.
    "Barrier { is_dsb: false, domain: Outer, accesses: Loads }",
    "WaitForEvent",
];

/// Runs the guest's cases once, with virtual FIQ injection so that their code is checked as well.
///
/// # Errors
///
/// A case failed, a rule is broken, or an operation is missing.
pub(super) fn run(bench: &Bench, folder: &Path, step: &Step) -> Result<String> {
    let checker = OrderingChecker::build(step)?;
    let chosen = vec![("oche.fiq".to_owned(), "virtual".to_owned())];
    let mut mac = Mac { cpus: 2, chosen, ..Mac::default() };
    step.detail("layout");
    let before = bench.board(&mac)?.run(bench::LIMIT, |line| line.starts_with(BEGIN))?;
    let mut layout =
        MemoryRanges::read(before.lines.iter().map(String::as_str)).context(VERDICT)?;
    layout.add("handoff", mac.release_words());
    for (base, ..) in DARTS {
        layout.add("device", PhysRange { start: base, end: base + DART_BYTES });
        let start = base + STREAM_COMMAND;
        layout.add("completion", PhysRange { start, end: start + 4 });
    }
    layout.add("device", DOORBELLS);
    let path = folder.join("ordering.report");
    mac.arguments = checker.arguments(&bench.oche, &layout, &path)?;
    let outcome = bench.run("ordering", &mac, step);
    // A broken rule is reported before a case that it may have failed, and before a QEMU that it
    // has stopped.
    let report = OrderingReport::read(&path);
    if let Ok(report) = &report {
        report.broken().context(VERDICT)?;
    }
    bench::judge(&outcome.context(VERDICT)?).context(VERDICT)?;
    let report = report?;
    report.judge(EXPECTED).context(VERDICT)
}
