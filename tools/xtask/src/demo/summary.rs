//! The result of a run: a verdict, a table for people and JSON for programs.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::demo::devices;
use crate::demo::guest_report::GuestReport;
use crate::demo::transfers::{self, TRANSFERS, TransferCost, TransferRatio};
use crate::qemu::smmu::Survey;

/// Oche's counters by name, at one moment.
pub type CounterValues = BTreeMap<String, u64>;

/// The guest's kernel.
#[derive(Clone, Debug, Default, Serialize)]
pub struct KernelFacts {
    /// The output of `uname -r` in the guest.
    pub release: String,
    /// Package and version, if it came from one.
    pub package: String,
    /// SHA-256 of the image that runs, in hex.
    pub image_sha256: String,
    /// The guest's own figure, in bytes.
    pub page_bytes: u64,
    /// CPUs that the guest uses.
    pub cpus: u64,
}

/// One DART as the guest sees it.
#[derive(Clone, Debug, Serialize)]
pub struct DartFacts {
    /// Its number.
    pub dart: u8,
    /// Its devices with their streams.
    pub devices: String,
}

/// Mapped bytes by placement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Placed {
    /// Bytes mapped directly.
    pub direct: u64,
    /// Bytes mapped as migrated pages.
    pub migrated: u64,
    /// Bytes mapped as bounce pages.
    pub bounce: u64,
}

/// Exits to EL2 while the guest idled.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Idle {
    /// How long, in seconds.
    pub seconds: f64,
    /// Exits of all kinds and CPUs.
    pub exits: u64,
    /// Of these, the kinds that there were any of.
    pub by_kind: CounterValues,
}

/// The trace of the run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TraceFacts {
    /// The file.
    pub file: String,
    /// Events in it.
    pub events: u64,
    /// Events that were overwritten before they were read.
    pub dropped: u64,
}

/// Everything about a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DemoSummary {
    /// Whether nothing is wrong.
    pub is_good: bool,
    /// Problems, one line each.
    pub problems: Vec<String>,
    /// The guest's kernel.
    pub kernel: KernelFacts,
    /// The DARTs.
    pub darts: Vec<DartFacts>,
    /// All of Oche's counters at the end.
    pub counters: CounterValues,
    /// Register traps and table traps per invalidation.
    pub traps_per_flush: f64,
    /// Bytes by placement.
    pub placed: Placed,
    /// While the guest idled.
    pub idle: Idle,
    /// The trace.
    pub trace: TraceFacts,
    /// The SMMU as seen from outside.
    pub smmu: Survey,
    /// The guest's digests.
    pub digests: BTreeMap<String, String>,
    /// Seconds of each of the guest's steps, by the guest's clock.
    pub guest_seconds: BTreeMap<String, u64>,
    /// Each transfer's time beside its time natively, if that was measured.
    pub transfers: Vec<TransferRatio>,
    /// Seconds from QEMU's start to its end.
    pub boot_to_end_seconds: f64,
    /// The command line of QEMU.
    pub qemu: Vec<String>,
}

impl DemoSummary {
    /// Takes Oche's counters.
    pub fn take_counters(&mut self, counters: CounterValues) {
        let of = |name: &str| counters.get(name).copied().unwrap_or(0);
        // Each table that opens was stored to while its page was closed. Accesses to trapped pages
        // are left out: they come with what a CPU does, not with what a driver asks of its DART.
        let traps = of("exits_dart_register") + of("table_unsyncs");
        self.traps_per_flush = traps as f64 / of("flushes").max(1) as f64;
        self.placed = Placed {
            direct: of("bytes_direct"),
            migrated: of("bytes_migrated"),
            bounce: of("bytes_bounce"),
        };
        for (name, what) in [
            ("refused", "mappings were refused"),
            ("faults", "accesses by devices faulted"),
            ("red_zone_hits", "times a device wrote where nothing was mapped"),
            ("invalidate_timeouts", "invalidations were not finished by the SMMU"),
            (
                "injected_exceptions",
                "exits ended in an abort or an undefined instruction for the guest",
            ),
        ] {
            if of(name) > 0 {
                self.problems.push(format!("{} {what}", of(name)));
            }
        }
        if of("maps") == 0 {
            self.problems.push("no page was ever mapped: the DARTs were not used".into());
        }
        self.counters = counters;
    }

    /// Takes what happened between two samples, `seconds` apart, while the guest idled.
    pub fn take_idle(&mut self, before: &CounterValues, after: &CounterValues, seconds: f64) {
        let of_exits = |counters: &CounterValues| -> CounterValues {
            let is_exit = |name: &str| name.starts_with("exits_") && !name.contains('[');
            counters
                .iter()
                .filter(|(name, _)| is_exit(name))
                .map(|(name, value)| (name.clone(), *value))
                .collect()
        };
        let mut by_kind = of_exits(after);
        if by_kind.is_empty() || !by_kind.keys().eq(of_exits(before).keys()) {
            self.problems.push("exits to EL2 were not counted while the guest idled".into());
        }
        for (name, value) in &mut by_kind {
            *value = value.saturating_sub(before.get(name).copied().unwrap_or(0));
        }
        by_kind.retain(|_, grown| *grown > 0);
        let exits = by_kind.values().sum();
        self.idle = Idle { seconds, exits, by_kind };
        if exits > 0 {
            let kinds: Vec<String> =
                self.idle.by_kind.iter().map(|(name, grown)| format!("{grown} {name}")).collect();
            self.problems.push(format!(
                "{exits} exits to EL2 while the guest idled for {seconds:.1} s: {}",
                kinds.join(", ")
            ));
        }
    }

    /// Takes what the transfers took natively, and on Oche as the guest reported.
    pub fn take_transfers(&mut self, native: &[(String, TransferCost)], report: &GuestReport) {
        match transfers::costs(report) {
            Ok(oche) => self.transfers = transfers::ratios(native, &oche),
            Err(error) => self.problems.push(error.to_string()),
        }
        let missing = TRANSFERS.len() - self.transfers.len();
        if missing != 0 {
            self.problems.push(format!("{missing} transfers have no ratio to native"));
        }
        self.is_good = self.problems.is_empty();
    }

    /// Takes what the guest reported.
    pub fn take_report(&mut self, report: &GuestReport) {
        self.kernel.release = report.fact("kernel").to_owned();
        self.kernel.page_bytes = report.fact("page-size").parse().unwrap_or(0);
        self.kernel.cpus = report.fact("cpus").parse().unwrap_or(0);
        self.digests.clone_from(&report.digests);
        self.guest_seconds = report.passed.iter().cloned().collect();
        self.darts = (0..devices::darts())
            .map(|dart| DartFacts { dart, devices: devices::of_dart(dart) })
            .collect();
    }

    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut rows: Vec<(String, String)> = Vec::new();
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        let of = |name: &str| self.counters.get(name).copied().unwrap_or(0);
        row("guest kernel", format!("{} ({})", self.kernel.release, self.kernel.package));
        row("", format!("sha256 {}", self.kernel.image_sha256));
        row("guest page size", format!("{} bytes", self.kernel.page_bytes));
        row("CPUs", self.kernel.cpus.to_string());
        for dart in &self.darts {
            row(&format!("DART {}", dart.dart), dart.devices.clone());
        }
        row("pages mapped", grouped(of("maps")));
        row("pages unmapped", grouped(of("unmaps")));
        row("flushes", grouped(of("flushes")));
        row("traps per flush", format!("{:.2}", self.traps_per_flush));
        row("trapped accesses", grouped(of("trapped_accesses")));
        row("bytes direct", self.share(self.placed.direct));
        row("bytes migrated", self.share(self.placed.migrated));
        row("bytes bounce", self.share(self.placed.bounce));
        row("refused mappings", grouped(of("refused")));
        row("faults", grouped(of("faults")));
        if self.idle.seconds > 0.0 {
            row(
                "EL2 exits while idle",
                format!("{} of all kinds, in {:.1} s", grouped(self.idle.exits), self.idle.seconds),
            );
        }
        row(
            "SMMU from outside",
            format!(
                "{} looks, {} of {} contexts with 16K granule, {} frames of the guest, {} of the pool",
                self.smmu.looks,
                grouped(self.smmu.contexts_of_16k),
                grouped(self.smmu.contexts),
                grouped(self.smmu.frames_of_guest),
                grouped(self.smmu.frames_of_pool)
            ),
        );
        row(
            "trace",
            format!(
                "{} events, {} dropped",
                grouped(self.trace.events),
                grouped(self.trace.dropped)
            ),
        );
        row("", self.trace.file.clone());
        for TransferRatio { transfer, oche_seconds, native_seconds, ratio } in &self.transfers {
            row(
                transfer,
                format!("{oche_seconds:.2} s, natively {native_seconds:.2} s: {ratio:.1} times"),
            );
        }
        row("boot to power-off", format!("{:.1} s", self.boot_to_end_seconds));
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        rows.iter().map(|(name, value)| format!("  {name:width$}  {value}\n")).collect()
    }

    fn share(&self, bytes: u64) -> String {
        let all = self.placed.direct + self.placed.migrated + self.placed.bounce;
        format!("{:.1} % ({} KiB)", bytes as f64 * 100.0 / all.max(1) as f64, grouped(bytes >> 10))
    }
}

/// 1234567 as 1 234 567.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut answer = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            answer.push(' ');
        }
        answer.push(digit);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::{CounterValues, DemoSummary, grouped};
    use crate::demo::guest_report::{GuestReport, ReportLine};
    use crate::demo::transfers::{TRANSFERS, TransferCost};
    use oche_trace::statistics::Exit;

    fn counters(pairs: &[(&str, u64)]) -> CounterValues {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn good_counters_are_no_problem_and_give_the_figures() {
        let mut summary = DemoSummary::default();
        summary.take_counters(counters(&[
            ("maps", 10),
            ("flushes", 4),
            ("exits_dart_register", 12),
            ("exits_dart_register[0]", 12),
            ("exits_trapped_page", 9),
            ("table_unsyncs", 2),
            ("trapped_accesses", 7),
            ("bytes_direct", 3 << 20),
            ("bytes_migrated", 1 << 20),
        ]));
        assert!(summary.problems.is_empty(), "{:?}", summary.problems);
        assert!((summary.traps_per_flush - 3.5).abs() < 1e-9);
        assert!(summary.table().contains("75.0 % (3 072 KiB)"), "{}", summary.table());
    }

    #[test]
    fn each_transfer_has_a_line_with_its_ratio_and_a_missing_one_is_a_problem() {
        let (mut report, mut native) = (GuestReport::default(), Vec::new());
        for name in TRANSFERS {
            report.take(&ReportLine::Fact("transfer", &format!("{name} 3000000000 0 0 0")));
            let cost = TransferCost { nanoseconds: 2_000_000_000, ..TransferCost::default() };
            native.push((name.to_owned(), cost));
        }
        let mut summary = DemoSummary { is_good: true, ..DemoSummary::default() };
        summary.take_transfers(&native, &report);
        assert!(summary.is_good && summary.problems.is_empty(), "{:?}", summary.problems);
        let table = summary.table();
        assert_eq!(table.matches(" 3.00 s, natively 2.00 s: 1.5 times\n").count(), 10, "{table}");
        native.pop();
        summary.take_transfers(&native, &report);
        assert!(!summary.is_good);
        assert_eq!(summary.problems, ["1 transfers have no ratio to native"]);
    }

    #[test]
    fn each_bad_counter_is_a_problem() {
        for name in
            ["refused", "faults", "red_zone_hits", "invalidate_timeouts", "injected_exceptions"]
        {
            let mut summary = DemoSummary::default();
            summary.take_counters(counters(&[("maps", 1), (name, 1)]));
            assert_eq!(summary.problems.len(), 1, "{name}");
        }
        let mut summary = DemoSummary::default();
        summary.take_counters(CounterValues::new());
        assert!(summary.problems.first().is_some_and(|reported| reported.contains("no page")));
    }

    /// All counters of exits at 7, on one CPU.
    fn exits() -> CounterValues {
        let names = Exit::NAMES.iter().filter(|name| name.starts_with("exits_"));
        names.flat_map(|name| [((*name).to_owned(), 7), (format!("{name}[0]"), 7)]).collect()
    }

    #[test]
    fn one_exit_of_any_kind_spoils_the_idling() {
        for kind in exits().into_keys().filter(|name| !name.contains('[')) {
            let mut after = exits();
            *after.get_mut(&kind).unwrap() += 1;
            *after.get_mut(&format!("{kind}[0]")).unwrap() += 1;
            let mut summary = DemoSummary::default();
            summary.take_idle(&exits(), &after, 5.0);
            assert_eq!((summary.idle.exits, summary.problems.len()), (1, 1), "{kind}");
            assert!(summary.problems[0].contains(&kind), "{}", summary.problems[0]);
        }
    }

    #[test]
    fn an_idle_phase_without_exits_is_good_whatever_else_happens() {
        let mut after = exits();
        after.insert("maps".into(), 99);
        let mut summary = DemoSummary::default();
        summary.take_idle(&exits(), &after, 5.0);
        assert_eq!((summary.idle.exits, summary.problems.len()), (0, 0));
    }

    #[test]
    fn an_idle_phase_in_which_nothing_counts_exits_is_not_good() {
        for (before, after) in [
            (CounterValues::new(), CounterValues::new()),
            (CounterValues::new(), exits()),
            (exits(), CounterValues::new()),
        ] {
            let mut summary = DemoSummary::default();
            summary.take_idle(&before, &after, 5.0);
            assert!(summary.problems.iter().any(|problem| problem.contains("not counted")));
        }
    }

    #[test]
    fn digits_are_grouped_by_three() {
        assert_eq!(
            ["0", "999", "1 000", "1 234 567"],
            [0, 999, 1000, 1_234_567].map(grouped).map(|s| s).each_ref().map(String::as_str)
        );
    }
}
