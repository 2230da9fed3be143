//! The results of the runs of the simulated M1.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use oche::trace::{self, Recording};
use oche_m1_sim::{BoardOutcome, DARTS, screen};
use serde::Serialize;

use crate::demo::summary::grouped;

/// Everything about the runs.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct M1Summary {
    /// Whether nothing is wrong.
    pub(super) is_good: bool,
    /// Problems, one line each.
    pub(super) problems: Vec<String>,
    /// The packed image.
    pub(super) image: Image,
    /// Runs, in order.
    pub(super) runs: Vec<Run>,
    /// From the first run's start to the last one's end, in seconds.
    pub(super) seconds: f64,
}

/// The packed image.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Image {
    pub(super) file: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// One run of the board.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Run {
    pub(super) name: String,
    pub(super) seconds: f64,
    /// Cases that the guest reported, and how many of them failed.
    pub(super) cases: u64,
    pub(super) failed: u64,
    /// A case has to fail: the hazard takes away what it needs.
    pub(super) must_fail: bool,
    /// Bytes that devices wrote, all of which the guest compared.
    pub(super) dma_bytes: u64,
    /// Accesses by devices that a DART refused.
    pub(super) refused_accesses: u64,
    /// Invalidations that the DARTs carried out.
    pub(super) invalidations: u64,
    /// Violations of a DART's rules.
    pub(super) violations: Vec<String>,
    /// Oche's counters at the end.
    pub(super) counters: BTreeMap<String, u64>,
    /// The picture of the screen.
    pub(super) screen: String,
    /// The trace, its events and those that were lost; nothing where none was requested.
    pub(super) trace: String,
    pub(super) trace_events: u64,
    pub(super) trace_dropped: u64,
}

impl Run {
    pub(super) fn of(name: &str, outcome: &BoardOutcome, began: Instant) -> Self {
        let (cases, failed) = outcome.lines.iter().find_map(|line| count(line)).unwrap_or_default();
        Self {
            name: name.to_owned(),
            seconds: began.elapsed().as_secs_f64(),
            cases,
            failed,
            dma_bytes: outcome.copied_bytes,
            refused_accesses: outcome.refusals,
            invalidations: outcome.invalidations,
            violations: outcome.violations.clone(),
            counters: counters(outcome),
            ..Self::default()
        }
    }

    fn figures(&self) -> String {
        let cases = match (self.cases, self.failed, self.must_fail) {
            (0, ..) => String::new(),
            (cases, failed, true) => format!("{cases} cases, {failed} failed as it must; "),
            (cases, failed, false) => format!("{cases} cases, {failed} failed; "),
        };
        let dma = match self.dma_bytes {
            0 => String::new(),
            bytes => format!(
                "{} bytes of DMA, {} accesses refused, {} invalidations; ",
                grouped(bytes),
                self.refused_accesses,
                grouped(self.invalidations)
            ),
        };
        format!("{cases}{dma}{:.1} s", self.seconds)
    }

    fn mappings(&self) -> String {
        let of = |name: &str| grouped(self.counters.get(name).copied().unwrap_or(0));
        format!(
            "{} pages mapped, {} unmapped, {} flushes; bytes {} direct, {} migrated, {} bounce",
            of("maps"),
            of("unmaps"),
            of("flushes"),
            of("bytes_direct"),
            of("bytes_migrated"),
            of("bytes_bounce")
        )
    }

    pub(super) fn keep_screen(&mut self, outcome: &BoardOutcome, file: &Path) -> Result<()> {
        self.screen = file.display().to_string();
        screen::write_png(&outcome.screen, file)
    }

    pub(super) fn keep_trace(&mut self, recording: &Recording, file: &Path) {
        self.trace = file.display().to_string();
        (self.trace_events, self.trace_dropped) = (recording.records, recording.lost);
    }
}

/// Oche's counters at the end; none where Oche never came so far as to make a trace.
fn counters(outcome: &BoardOutcome) -> BTreeMap<String, u64> {
    let counters =
        outcome.memory.as_ref().map(|memory| trace::read_statistics(&memory.open_path()));
    counters.and_then(Result::ok).unwrap_or_default().into_iter().collect()
}

/// The numbers of `guest: 9 cases, 0 failed`.
fn count(line: &str) -> Option<(u64, u64)> {
    let (cases, rest) = line.strip_prefix("guest: ")?.split_once(" cases, ")?;
    Some((cases.parse().ok()?, rest.strip_suffix(" failed")?.parse().ok()?))
}

impl M1Summary {
    pub(super) fn table(&self) -> String {
        let mut rows: Vec<(&str, String)> = Vec::new();
        rows.push((
            "image",
            format!("{} KiB, sha256 {}", self.image.bytes >> 10, self.image.sha256),
        ));
        rows.push(("", self.image.file.clone()));
        rows.push((
            "board",
            format!("{} DARTs of 16K pages, strict, each with a TLB and a device", DARTS.len()),
        ));
        for run in &self.runs {
            rows.push((&run.name, run.figures()));
            if run.counters.contains_key("maps") && !run.trace.is_empty() {
                rows.push(("", run.mappings()));
                rows.push((
                    "",
                    format!("trace: {} events, {} dropped", run.trace_events, run.trace_dropped),
                ));
                rows.push(("", run.trace.clone()));
            }
            if !run.screen.is_empty() {
                rows.push(("", run.screen.clone()));
            }
        }
        rows.push(("all runs", format!("{:.1} s", self.seconds)));
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        rows.iter().map(|(name, value)| format!("  {name:width$}  {value}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn the_guests_last_line_has_two_numbers() {
        assert_eq!(count("guest: 9 cases, 0 failed"), Some((9, 0)));
        assert_eq!(count("guest: hello"), None);
        assert_eq!(count("oche: 9 cases, 0 failed"), None);
    }
}
