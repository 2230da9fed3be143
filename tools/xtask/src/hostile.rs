//! The hostile guest on Oche in QEMU: wild accesses, wild calls, wild registers; and Oche's own
//! panics, on request.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use oche::el2::{self, Toolchain};
use oche::progress::{Progress, Step};
use oche::workspace;
use oche_types::identity;
use oche_types::range::PhysRange;

use crate::ordering::{MemoryRanges, OrderingChecker, OrderingReport};
use crate::qemu::RunEnding;

mod guest;
mod idle;
pub(crate) mod random;
mod watched;

pub(crate) use guest::flat_guest;
use guest::{Way, run};

/// A run with fewer cases than this has left some out.
const LEAST_CASES: u32 = 700;
/// What the guest asks an Oche for that was built to panic, and the cause that the panic then
/// names.
const PANICS: [(&str, &str); 3] = [
    ("hostile=panic", "on the guest's request"),
    ("hostile=fault", "data abort"),
    ("hostile=overflow", "stack overflow"),
];

/// Registers of the SMMU that have it read memory (`SMMU_CR0`, `SMMU_GERRORN`, `SMMU_CMDQ_PROD`),
/// by which it reports that it is done (`SMMU_CMDQ_CONS`, `SMMU_EVENTQ_PROD`), and that gives it
/// memory back (`SMMU_EVENTQ_CONS`). Source: QEMU 7.2 `hw/arm/virt.c`, `VIRT_SMMU`; Arm IHI 0070,
/// 6.3.
const SMMU: [(&str, u64); 6] = [
    ("device", 0x0905_0020),
    ("device", 0x0905_0064),
    ("device", 0x0905_0098),
    ("completion", 0x0905_009c),
    ("completion", 0x0906_00a8),
    ("consumer", 0x0906_00ac),
];

/// The start of the error of a failed run under the ordering checker.
pub(crate) const ORDERING_VERDICT: &str = "the hostile guest under the ordering checker";

/// Operations that the run needs.
const EXPECTED: &[&str] = &[
    "Isb",
    "Translate",
    "Return",
    "Maintain(CleanToCoherency)",
    "Maintain(CleanToUnification)",
    "Maintain(Instructions)",
    "Maintain(OwnInstructions)",
    "Tlbi { scope: Own, is_broadcast: false }",
    "Tlbi { scope: AllGuests, is_broadcast: false }",
    "Tlbi { scope: SecondStage, is_broadcast: true }",
    "Tlbi { scope: FirstStage, is_broadcast: true }",
    "Tlbi { scope: BothStages, is_broadcast: true }",
    "Tlbi { scope: BothStages, is_broadcast: false }",
    "Call",
];

/// The guest reads a DART's register before it asks; `oche_trace::text` names such an event so.
const LAST_EVENT: &str = "register: op=read";

/// Runs the hostile guest on Oche, then has Oche panic in each way.
///
/// # Errors
///
/// The first thing that failed: a build, a case, or a panic without the message that it should
/// have.
pub fn main() -> Result<()> {
    let progress = Progress::new(4);
    let step = progress.step("Hostile guest");
    let toolchain = Toolchain::choose(&step)?;
    let guest = flat_guest(toolchain, &step)?;
    let oche = el2::build(toolchain, &[], &step)?;
    let cases = survive(&oche, &guest, &step)?;
    step.done(&format!("{cases} cases"));

    let step = progress.step("Hostile guest, watched");
    let (cases, reported) = survive_watched(&oche, &guest, &step)?;
    step.done(&format!("{cases} cases, {reported:?}"));

    let step = progress.step("Exits of a guest that idles, which must be noticed");
    let noticed = idle::run(&oche, &guest, &step)?;
    step.done(&noticed);

    let step = progress.step("Oche's own panics");
    let oche = el2::build(toolchain, &["panic-on-request"], &step)?;
    for (request, cause) in PANICS {
        panic_on_request(&oche, &guest, request, cause, &step)?;
    }
    step.done(&format!("{} kinds", PANICS.len()));
    Ok(())
}

/// Runs all cases. Gives their number.
fn survive(oche: &Path, guest: &Path, step: &Step) -> Result<u32> {
    let mut judge = Judge::default();
    let ending =
        run(oche, guest, &Way { name: "all", ..Way::default() }, step, |line| judge.take(line))?;
    if ending != RunEnding::PoweredOff {
        bail!("the hostile guest: {ending}; its last case was `{}`", judge.last);
    }
    judge.verdict()
}

/// Runs all cases again, with every buffer watched.
fn survive_watched(oche: &Path, guest: &Path, step: &Step) -> Result<(u32, watched::AccessCounts)> {
    let trace = workspace::target().join("hostile").join("watched.oche");
    let mut judge = Judge::default();
    let way =
        Way { name: "watched", trace: Some(&trace), options: &watched::OPTIONS, ..Way::default() };
    let ending = run(oche, guest, &way, step, |line| judge.take(line))?;
    if ending != RunEnding::PoweredOff {
        bail!("the hostile guest, watched: {ending}; its last case was `{}`", judge.last);
    }
    Ok((judge.verdict()?, watched::judge(&trace)?))
}

fn panic_on_request(
    oche: &Path,
    guest: &Path,
    request: &str,
    cause: &str,
    step: &Step,
) -> Result<()> {
    let mut console = String::new();
    let options = [("oche.bootargs", request)];
    let way = Way { name: request, options: &options, ..Way::default() };
    let ending = run(oche, guest, &way, step, |line| {
        if line.starts_with("oche: panic:") {
            console.push_str(line);
            console.push('\n');
        }
    })?;
    if !matches!(ending, RunEnding::OchePanic(_)) {
        bail!("{request}: Oche was to panic, but {ending}");
    }
    let image = fs::read(oche).context("the image")?;
    let own = identity::find(&image).context("the image has no record of its identity")?;
    let own = format!("oche: panic: Oche {own} on qemu-virt");
    for wanted in [
        cause,
        &own,
        "oche: panic: image+0x",
        "last events of cpu 0",
        LAST_EVENT,
        "oche: panic: stopped",
    ] {
        if !console.contains(wanted) {
            bail!("{request}: the panic's message lacks `{wanted}`:\n{console}");
        }
    }
    Ok(())
}

/// Runs all cases under the ordering checker.
///
/// # Errors
///
/// A case failed, a rule is broken, or an operation that the run needs was never executed.
pub(crate) fn check_ordering(toolchain: Toolchain, step: &Step) -> Result<String> {
    let guest = flat_guest(toolchain, step)?;
    let oche = el2::build(toolchain, &[], step)?;
    let checker = OrderingChecker::build(step)?;
    let mut lines = Vec::new();
    let layout = Way { name: "layout", until: Some("oche: the guest starts"), ..Way::default() };
    run(&oche, &guest, &layout, step, |line| lines.push(line.to_owned()))?;
    let mut layout =
        MemoryRanges::read(lines.iter().map(String::as_str)).context(ORDERING_VERDICT)?;
    for (kind, register) in SMMU {
        layout.add(kind, PhysRange { start: register, end: register + 4 });
    }
    let path = workspace::target().join("hostile").join("ordering.report");
    let arguments = checker.arguments(&oche, &layout, &path)?;
    let mut judge = Judge::default();
    let way = Way { name: "ordering", arguments: &arguments, ..Way::default() };
    let ending = run(&oche, &guest, &way, step, |line| judge.take(line));
    // A broken rule is reported before a case that it may have failed, and before a QEMU that it
    // has stopped.
    let report = OrderingReport::read(&path);
    if let Ok(report) = &report {
        report.broken().context(ORDERING_VERDICT)?;
    }
    let (ending, report) = (ending?, report?);
    if ending != RunEnding::PoweredOff {
        bail!("{ORDERING_VERDICT}: {ending}; its last case was `{}`", judge.last);
    }
    let cases = judge.verdict().context(ORDERING_VERDICT)?;
    let reported = report.judge(EXPECTED).context(ORDERING_VERDICT)?;
    Ok(format!("{cases} cases, {reported}"))
}

/// Listens to the guest's lines.
#[derive(Debug, Default)]
struct Judge {
    passed: u32,
    failures: Vec<String>,
    /// How many cases the guest reports.
    reported: Option<u32>,
    last: String,
}

impl Judge {
    fn take(&mut self, line: &str) {
        let Some(report) = line.strip_prefix("guest: ") else { return };
        if report.ends_with(" ok") {
            self.passed += 1;
        } else if report.contains("FAILED") {
            self.failures.push(report.to_owned());
        } else if let Some((cases, _)) = report.split_once(" cases, ") {
            self.reported = cases.parse().ok();
        }
        self.last = report.to_owned();
    }

    fn verdict(&self) -> Result<u32> {
        if let Some(first) = self.failures.first() {
            bail!("the hostile guest: {first} ({} such cases)", self.failures.len());
        }
        match self.reported {
            Some(reported) if reported == self.passed && reported >= LEAST_CASES => Ok(reported),
            reported => {
                bail!(
                    "the hostile guest: {} cases passed, but it reported {reported:?}",
                    self.passed
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Judge, LEAST_CASES};

    fn judge(failed: Option<&str>, reported: u32) -> Judge {
        let mut judge = Judge::default();
        judge.take("oche: guest memory 0x0..0x1000 ok");
        (0..LEAST_CASES).for_each(|number| judge.take(&format!("guest: case {number} ok")));
        failed.into_iter().for_each(|line| judge.take(line));
        judge.take(&format!("guest: {reported} cases, 0 failed"));
        judge
    }

    #[test]
    fn only_a_run_that_went_all_the_way_passes() {
        assert_eq!(judge(None, LEAST_CASES).verdict().ok(), Some(LEAST_CASES));
        assert!(judge(None, LEAST_CASES + 1).verdict().is_err(), "a line is missing");
        let failed =
            judge(Some("guest: dart: fetch FAILED: no exception"), LEAST_CASES + 1).verdict();
        assert!(failed.is_err_and(|error| error.to_string().contains("dart: fetch")));
        assert!(Judge::default().verdict().is_err(), "silence is no success");
    }
}
