//! `cargo xtask demo --board m1-sim`: the image that a Mac would get, on a simulated M1, told step by step.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use oche::el2::Toolchain;
use oche::progress::{Progress, Step};
use oche::trace::{self, Recorder, Recording};
use oche::workspace;
use oche_m1_sim::dart::Setting;
use oche_m1_sim::{DARTS, Mac, Outcome, screen};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::demo::options::{Options, parse_option};
use crate::demo::summary::grouped;
use crate::environment;
use crate::guest::kernel::hex;
use crate::m1::bench::{self, Bench};
use crate::m1::linux;

/// Everything about the runs.
#[derive(Clone, Debug, Default, Serialize)]
struct Summary {
    /// Whether nothing is wrong.
    is_good: bool,
    /// What is wrong, one line each.
    problems: Vec<String>,
    /// The packed image.
    image: Image,
    /// Runs, in order.
    runs: Vec<Run>,
    /// From the first run's start to the last one's end, in seconds.
    seconds: f64,
}

/// The packed image.
#[derive(Clone, Debug, Default, Serialize)]
struct Image {
    file: String,
    bytes: u64,
    sha256: String,
}

/// One run of the board.
#[derive(Clone, Debug, Default, Serialize)]
struct Run {
    name: String,
    seconds: f64,
    /// Cases that the guest told, and how many of them failed.
    cases: u64,
    failed: u64,
    /// A case has to fail: the hazard takes away what it needs.
    must_fail: bool,
    /// Bytes that devices wrote, all of which the guest compared.
    dma_bytes: u64,
    /// Accesses by devices that a DART refused.
    refused_accesses: u64,
    /// Invalidations that the DARTs carried out.
    invalidations: u64,
    /// What no DART would have forgiven.
    violations: Vec<String>,
    /// Oche's counters at the end.
    counters: BTreeMap<String, u64>,
    /// The picture of the screen.
    screen: String,
    /// The trace, its events and those that were lost; nothing where none was asked for.
    trace: String,
    trace_events: u64,
    trace_dropped: u64,
}

/// A hazard of a first boot, put into the board on purpose.
struct Hazard {
    /// What is wrong with the board.
    name: &'static str,
    /// Makes it so.
    inject: fn(&mut Mac),
    /// What must be said.
    expected: &'static [&'static str],
    /// Whether every case of the guest must pass all the same.
    passes: bool,
    /// What came of it, in a few words.
    told: &'static str,
}

const HAZARDS: [Hazard; 5] = [
    Hazard {
        name: "a DART that is switched off",
        inject: |mac| mac.settings[4] = Setting::Off,
        expected: &["2=dma-controller@236004000: no power"],
        passes: true,
        told: "its registers were never touched",
    },
    Hazard {
        name: "a DART that translates for firmware",
        inject: |mac| mac.settings[4] = Setting::Live,
        expected: &["sio_dart 0x235004000 2=dma-controller@236004000: live 0x1; left alone"],
        passes: true,
        told: "it was left as it was",
    },
    Hazard {
        name: "a DART that ends no command",
        inject: |mac| mac.settings[2] = Setting::Stuck,
        expected: &["guest: linux: two DARTs, one table FAILED", "guest: a locked DART is as it was ok"],
        passes: false,
        told: "it was given up after a second, and every other DART went on",
    },
    Hazard {
        name: "a CPU that never comes",
        inject: |mac| (mac.cpus, mac.missing) = (3, 1 << 1),
        expected: &["cpu 0x1 stays off", "guest: cpu 0x2 comes ok", "guest: 2 CPUs"],
        passes: true,
        told: "it was left out, and the guest does not hear of it",
    },
    Hazard {
        name: "FIQs that go by way of EL2",
        inject: |mac| mac.chosen.push(("oche.fiq".to_owned(), "virtual".to_owned())),
        expected: &["guest: the timer ticked through all of it ok"],
        passes: true,
        told: "the timer ticked through all of it",
    },
];

/// Carries it out.
///
/// # Errors
///
/// Something needed cannot be had, or a run was not good.
pub(super) fn main(options: &Options) -> Result<()> {
    let output = options.output();
    refuse_foreign(options)?;
    let progress = Progress::new(if options.short { 3 } else { 9 });
    let step = progress.step("Tools of this machine");
    let _lock = workspace::FolderLock::wait(&output)?;
    let toolchain = environment::prepare(&step)?;
    step.done(&format!("Oche is built with {toolchain}"));

    let mut summary = Summary::default();
    let bench = make_bench(toolchain, &output, &progress, &mut summary)?;
    let began = Instant::now();
    let mac = mac_of(options)?;
    drivers(&bench, &mac, &output, &progress, &mut summary)?;
    if !options.short {
        selftest(&bench, &mac, &progress, &mut summary)?;
        eight(&bench, &mac, &progress, &mut summary)?;
        hazards(&bench, &mac, &progress, &mut summary)?;
        panic(toolchain, &mac, &output, &progress, &mut summary)?;
        stock_kernel(toolchain, options, &output, &progress, &mut summary)?;
    }
    summary.seconds = began.elapsed().as_secs_f64();
    summary.is_good = summary.problems.is_empty();
    let json = serde_json::to_vec_pretty(&summary).context("the summary")?;
    workspace::write_whole(&output.join("summary.json"), &json)?;
    println!("\n{}", summary.table());
    for problem in &summary.problems {
        eprintln!("  wrong: {problem}");
    }
    if !summary.is_good {
        eprintln!("  the whole story: {}", output.display());
        bail!("the run was not good: {} things are wrong", summary.problems.len());
    }
    Ok(())
}

/// What the other board alone has.
fn refuse_foreign(options: &Options) -> Result<()> {
    let usual = Options::usual();
    let foreign = [
        ("--break-placement", options.break_placement),
        ("--without-oche", options.without_oche),
        ("--repeat", options.repeat != usual.repeat),
        ("--memory", options.memory != usual.memory),
        ("--cpu", options.cpu != usual.cpu),
        ("--append", !options.append.is_empty()),
        ("QEMU's own arguments", !options.qemu.is_empty()),
    ];
    match foreign.iter().find(|(_, is_given)| *is_given) {
        Some((name, _)) => bail!("{name}: the simulated M1 does not take that"),
        None => Ok(()),
    }
}

fn mac_of(options: &Options) -> Result<Mac> {
    let chosen = options.option.iter().map(|option| parse_option(option)).collect::<Result<_>>()?;
    Ok(Mac { chosen, ..Mac::default() })
}

fn make_bench(
    toolchain: Toolchain,
    output: &Path,
    progress: &Progress,
    summary: &mut Summary,
) -> Result<Bench> {
    let step = progress.step("The image that a Mac would get, and a Mac's device tree");
    let bench = Bench::make(toolchain, &[], output, &step)?;
    summary.image = Image {
        file: bench.path.display().to_string(),
        bytes: bench.image.len() as u64,
        sha256: hex(&Sha256::digest(&bench.image)),
    };
    step.done(&format!("oche-m1.img, {} KiB, as `oche pack` writes it", bench.image.len() >> 10));
    Ok(bench)
}

/// The drivers' ways, told as they go, with a trace and a picture.
fn drivers(
    bench: &Bench,
    mac: &Mac,
    output: &Path,
    progress: &Progress,
    summary: &mut Summary,
) -> Result<()> {
    let step = progress.step("One CPU; drivers as Linux and U-Boot have them");
    step.line(&format!(
        "m1n1's way in: {:#x}, FDT at an odd place, BSS full of {:#04x}, EL2 with E2H and TGE",
        mac.load,
        oche_m1_sim::DIRT
    ));
    let began = Instant::now();
    let board = bench.board(mac)?;
    let trace = output.join("trace.oche");
    let recorder = Recorder::start(&board.memory().open_path(), &trace)?;
    let outcome = board.run(bench::LIMIT, |line| {
        tell(&step, line);
        bench::is_last(line)
    })?;
    let mut run = Run::of("drivers", &outcome, began);
    run.keep_screen(&outcome, &output.join("screen.png"))?;
    run.keep_trace(&recorder.finish()?, &trace);
    let verdict = bench::judge(&outcome);
    finish(step, bench, run, &outcome, verdict, summary)
}

/// What a person with a Mac is asked to paste into a report.
fn selftest(bench: &Bench, mac: &Mac, progress: &Progress, summary: &mut Summary) -> Result<()> {
    let step = progress.step("The self-test (oche.selftest=1), with the figures of this board");
    let mut mac = mac.clone();
    mac.chosen.push(("oche.selftest".to_owned(), "1".to_owned()));
    let began = Instant::now();
    let mut is_inside = false;
    let mut lines = 0;
    let outcome = bench.board(&mac)?.run(bench::LIMIT, |line| {
        let is_fence = line == "```";
        is_inside ^= is_fence;
        if is_inside || is_fence {
            step.line(line);
            lines += 1;
        }
        line.starts_with("oche: the guest starts")
    })?;
    bench.keep("self-test", &outcome)?;
    let wrong: Vec<&String> = outcome.lines.iter().filter(|line| line.ends_with(" WRONG")).collect();
    let mut problems: Vec<String> = wrong.iter().map(|line| format!("self-test: {line}")).collect();
    if is_inside || lines < 10 {
        problems.push("the self-test did not come to its end".to_owned());
    }
    if problems.is_empty() {
        step.done("nothing is wrong");
    } else {
        drop(step);
    }
    summary.problems.extend(problems);
    summary.runs.push(Run::of("self-test", &outcome, began));
    Ok(())
}

fn eight(bench: &Bench, mac: &Mac, progress: &Progress, summary: &mut Summary) -> Result<()> {
    let step = progress.step("Eight CPUs, taken from m1n1's spin table");
    // A CPU that waits for an event keeps one of QEMU's threads busy, and each letter stops them all.
    let mut mac = Mac { cpus: 8, load: 0x8_0a60_0000, ..mac.clone() };
    mac.chosen.push(("oche.log".to_owned(), "warn".to_owned()));
    let began = Instant::now();
    let outcome = bench.board(&mac)?.run(bench::LIMIT, |line| {
        if line.contains("cpu") || line.contains("CPU") {
            tell(&step, line);
        }
        bench::is_last(line)
    })?;
    let run = Run::of("eight CPUs", &outcome, began);
    finish(step, bench, run, &outcome, bench::judge(&outcome), summary)
}

fn hazards(bench: &Bench, mac: &Mac, progress: &Progress, summary: &mut Summary) -> Result<()> {
    let step = progress.step("Hazards of a first boot, put in on purpose");
    let mut failures = 0;
    for hazard in &HAZARDS {
        let mut mac = mac.clone();
        (hazard.inject)(&mut mac);
        let began = Instant::now();
        let outcome = bench.run(hazard.name, &mac, &step)?;
        let mut verdict = if hazard.passes { bench::judge(&outcome) } else { Ok(()) };
        if let (Ok(()), Some(violation)) = (&verdict, outcome.violations.first()) {
            verdict = Err(anyhow::anyhow!("a DART would not have forgiven this: {violation}"));
        }
        let unsaid = hazard.expected.iter().find(|text| !outcome.says(text));
        if let (Ok(()), Some(text)) = (&verdict, unsaid) {
            verdict = Err(anyhow::anyhow!("nobody said `{text}`"));
        }
        let told = match &verdict {
            Ok(()) => hazard.told.to_owned(),
            Err(error) => {
                failures += 1;
                summary.problems.push(format!("{}: {error:#}", hazard.name));
                format!("WRONG: {error:#}")
            }
        };
        step.line(&format!("{}: {told}", hazard.name));
        summary.runs.push(Run { must_fail: !hazard.passes, ..Run::of(hazard.name, &outcome, began) });
    }
    match failures {
        0 => step.done(&format!("all {} handled", HAZARDS.len())),
        _ => drop(step),
    }
    Ok(())
}

/// An Oche that was built to panic when the guest asks for it: what a person without a serial cable sees.
fn panic(
    toolchain: Toolchain,
    mac: &Mac,
    output: &Path,
    progress: &Progress,
    summary: &mut Summary,
) -> Result<()> {
    let step = progress.step("A panic of Oche's, while the guest has the screen");
    let bench = Bench::make(toolchain, &["panic-on-request"], &output.join("panic"), &step)?;
    let mut mac = mac.clone();
    mac.chosen.push(("bootargs".to_owned(), "guest=panic".to_owned()));
    let began = Instant::now();
    let outcome = bench.board(&mac)?.run(bench::LIMIT, |line| {
        if line.starts_with("oche: panic: ") && !line.contains("x0") {
            step.detail(line);
        }
        line == "oche: panic: stopped"
    })?;
    bench.keep("panic", &outcome)?;
    let mut run = Run::of("a panic", &outcome, began);
    run.keep_screen(&outcome, &output.join("panic.png"))?;
    let rows = screen::text(&outcome.screen);
    let is_shown = |text: &str| rows.iter().any(|row| row.contains(text));
    let told = "oche: panic: cpu 0: on the guest's request";
    if is_shown(told) && is_shown("oche: panic: stopped") {
        step.done(&format!("all of it is on the screen, {}", run.screen));
    } else {
        summary.problems.push(format!("the screen does not say `{told}` and all that follows"));
        drop(step);
    }
    summary.runs.push(run);
    Ok(())
}

/// The distribution's own kernel and DART driver, with real drivers' use of the DMA API.
fn stock_kernel(
    toolchain: Toolchain,
    options: &Options,
    output: &Path,
    progress: &Progress,
    summary: &mut Summary,
) -> Result<()> {
    let step = progress.step("Debian's kernel, its DART driver, its programs, and Oche: one image for a Mac");
    let folder = output.join("linux");
    let (guest, kernel) = linux::prepare(&folder, &step)?;
    let bench = Bench::with_guest(toolchain, &[], &guest, &folder, &step)?;
    step.done(&format!("{} {}, {} MiB", kernel.package, kernel.version, bench.image.len() >> 20));

    let step = progress.step("Debian's kernel on the simulated M1");
    let began = Instant::now();
    let mut mac = oche_m1_sim::linux::mac();
    mac.chosen = mac_of(options)?.chosen;
    let board = bench.board(&mac)?;
    let trace = output.join("linux.oche");
    let recorder = Recorder::start(&board.memory().open_path(), &trace)?;
    let outcome = board.run(linux::LIMIT, |line| {
        tell(&step, line);
        bench::is_last(line)
    })?;
    let mut run = Run::of("Debian's kernel", &outcome, began);
    run.keep_screen(&outcome, &output.join("linux.png"))?;
    run.keep_trace(&recorder.finish()?, &trace);
    let verdict = bench::judge(&outcome).and_then(|()| linux::judge(&outcome));
    finish(step, &bench, run, &outcome, verdict, summary)
}

/// Closes a run.
fn finish(
    step: Step,
    bench: &Bench,
    run: Run,
    outcome: &Outcome,
    verdict: Result<()>,
    summary: &mut Summary,
) -> Result<()> {
    bench.keep(&run.name, outcome)?;
    if !run.trace.is_empty() && run.trace_events == 0 {
        summary.problems.push(format!("{}: the trace is empty", run.name));
    }
    match verdict {
        Ok(()) => step.done(&format!(
            "{} cases; devices wrote {} bytes, and the guest compared them; {} accesses were refused, as they had to be",
            run.cases, run.dma_bytes, run.refused_accesses
        )),
        Err(error) => {
            summary.problems.push(format!("{}: {error:#}", run.name));
            step.line(&format!("{error:#}"));
            drop(step);
        }
    }
    summary.runs.push(run);
    Ok(())
}

/// A line of the serial port, for the person who watches.
fn tell(step: &Step, line: &str) {
    if line.starts_with("oche: ") || line.starts_with("guest: ") {
        step.line(line);
    }
}

impl Run {
    fn of(name: &str, outcome: &Outcome, began: Instant) -> Self {
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

    fn mediation(&self) -> String {
        let of = |name: &str| grouped(self.counters.get(name).copied().unwrap_or(0));
        format!(
            "{} pages mapped, {} unmapped, {} flushes; bytes {} direct, {} composed, {} replica",
            of("maps"),
            of("unmaps"),
            of("flushes"),
            of("bytes_direct"),
            of("bytes_composed"),
            of("bytes_replica")
        )
    }

    fn keep_screen(&mut self, outcome: &Outcome, file: &Path) -> Result<()> {
        self.screen = file.display().to_string();
        screen::write_png(&outcome.screen, file)
    }

    fn keep_trace(&mut self, recording: &Recording, file: &Path) {
        self.trace = file.display().to_string();
        (self.trace_events, self.trace_dropped) = (recording.records, recording.lost);
    }
}

/// Oche's counters at the end; none where Oche never came so far as to make a trace.
fn counters(outcome: &Outcome) -> BTreeMap<String, u64> {
    let counters = outcome.memory.as_ref().map(|memory| trace::read_statistics(&memory.open_path()));
    counters.and_then(Result::ok).unwrap_or_default().into_iter().collect()
}

/// The numbers of `guest: 9 cases, 0 failed`.
fn count(line: &str) -> Option<(u64, u64)> {
    let (cases, rest) = line.strip_prefix("guest: ")?.split_once(" cases, ")?;
    Some((cases.parse().ok()?, rest.strip_suffix(" failed")?.parse().ok()?))
}

impl Summary {
    fn table(&self) -> String {
        let mut rows: Vec<(&str, String)> = Vec::new();
        rows.push(("image", format!("{} KiB, sha256 {}", self.image.bytes >> 10, self.image.sha256)));
        rows.push(("", self.image.file.clone()));
        rows.push((
            "board",
            format!("{} DARTs of 16K pages, strict, each with a TLB and a device", DARTS.len()),
        ));
        for run in &self.runs {
            rows.push((&run.name, run.figures()));
            if run.counters.contains_key("maps") && !run.trace.is_empty() {
                rows.push(("", run.mediation()));
                rows.push(("", format!("trace: {} events, {} dropped", run.trace_events, run.trace_dropped)));
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
    use super::{HAZARDS, count};

    #[test]
    fn the_guests_last_line_has_two_numbers() {
        assert_eq!(count("guest: 9 cases, 0 failed"), Some((9, 0)));
        assert_eq!(count("guest: hello"), None);
        assert_eq!(count("oche: 9 cases, 0 failed"), None);
    }

    #[test]
    fn every_hazard_changes_the_board_and_expects_to_hear_of_it() {
        let plain = format!("{:?}", oche_m1_sim::Mac::default());
        for hazard in &HAZARDS {
            let mut mac = oche_m1_sim::Mac::default();
            (hazard.inject)(&mut mac);
            assert_ne!(format!("{mac:?}"), plain, "{}", hazard.name);
            assert!(!hazard.expected.is_empty(), "{}", hazard.name);
        }
    }
}
