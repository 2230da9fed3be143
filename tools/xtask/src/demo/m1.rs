//! `cargo xtask demo --board m1-sim`: the image that a Mac would get, on a simulated M1, reported
//! step by step.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use oche::el2::Toolchain;
use oche::progress::{Progress, Step};
use oche::trace::FileRecorder;
use oche::workspace;
use oche_m1_sim::{BoardOutcome, Mac, screen};
use sha2::{Digest, Sha256};

use crate::demo::options::{DemoOptions, parse_option};
use crate::environment;
use crate::guest::kernel::hex;
use crate::m1::bench::{self, Bench};
use crate::m1::linux;

mod hazards;
mod summary;

use summary::{Image, M1Summary, Run};

/// Carries out `cargo xtask demo --board m1-sim`.
///
/// # Errors
///
/// Something needed cannot be had, or a run was not good.
pub(super) fn main(options: &DemoOptions) -> Result<()> {
    let output = options.output();
    refuse_foreign(options)?;
    let progress = Progress::new(if options.short { 3 } else { 9 });
    let step = progress.step("Tools of this machine");
    let _lock = workspace::FolderLock::wait(&output)?;
    let toolchain = environment::prepare(&step)?;
    step.done(&format!("Oche is built with {toolchain}"));

    let mut summary = M1Summary::default();
    let bench = make_bench(toolchain, &output, &progress, &mut summary)?;
    let began = Instant::now();
    let mac = mac_of(options)?;
    drivers(&bench, &mac, &output, &progress, &mut summary)?;
    if !options.short {
        selftest(&bench, &mac, &progress, &mut summary)?;
        eight(&bench, &mac, &progress, &mut summary)?;
        hazards::run(&bench, &mac, &progress, &mut summary)?;
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
        eprintln!("  the whole log: {}", output.display());
        bail!("the run was not good: {} things are wrong", summary.problems.len());
    }
    Ok(())
}

/// Refuses options that only the other board has.
fn refuse_foreign(options: &DemoOptions) -> Result<()> {
    let usual = DemoOptions::usual();
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

fn mac_of(options: &DemoOptions) -> Result<Mac> {
    let chosen = options.option.iter().map(|option| parse_option(option)).collect::<Result<_>>()?;
    Ok(Mac { chosen, ..Mac::default() })
}

fn make_bench(
    toolchain: Toolchain,
    output: &Path,
    progress: &Progress,
    summary: &mut M1Summary,
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

/// The drivers' ways, printed as they go, with a trace and a picture.
fn drivers(
    bench: &Bench,
    mac: &Mac,
    output: &Path,
    progress: &Progress,
    summary: &mut M1Summary,
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
    let recorder = FileRecorder::start(&board.memory().open_path(), &trace)?;
    let outcome = board.run(bench::LIMIT, |line| {
        show(&step, line);
        bench::is_last(line)
    })?;
    let mut run = Run::of("drivers", &outcome, began);
    run.keep_screen(&outcome, &output.join("screen.png"))?;
    run.keep_trace(&recorder.finish()?, &trace);
    let verdict = bench::judge(&outcome);
    finish(step, bench, run, &outcome, verdict, summary)
}

/// The text that a user with a Mac is asked to paste into a report.
fn selftest(bench: &Bench, mac: &Mac, progress: &Progress, summary: &mut M1Summary) -> Result<()> {
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
    let wrong: Vec<&String> =
        outcome.lines.iter().filter(|line| line.ends_with(" WRONG")).collect();
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

fn eight(bench: &Bench, mac: &Mac, progress: &Progress, summary: &mut M1Summary) -> Result<()> {
    let step = progress.step("Eight CPUs, taken from m1n1's spin table");
    // A CPU that waits for an event keeps one of QEMU's threads busy, and each letter stops them
    // all.
    let mut mac = Mac { cpus: 8, load: 0x8_0a60_0000, ..mac.clone() };
    mac.chosen.push(("oche.log".to_owned(), "warn".to_owned()));
    let began = Instant::now();
    let outcome = bench.board(&mac)?.run(bench::LIMIT, |line| {
        if line.contains("cpu") || line.contains("CPU") {
            show(&step, line);
        }
        bench::is_last(line)
    })?;
    let run = Run::of("eight CPUs", &outcome, began);
    finish(step, bench, run, &outcome, bench::judge(&outcome), summary)
}

/// An Oche that was built to panic when the guest asks for it: what a person without a serial cable
/// sees.
fn panic(
    toolchain: Toolchain,
    mac: &Mac,
    output: &Path,
    progress: &Progress,
    summary: &mut M1Summary,
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
    let reported = "oche: panic: cpu 0: on the guest's request";
    if is_shown(reported) && is_shown("oche: panic: stopped") {
        step.done(&format!("all of it is on the screen, {}", run.screen));
    } else {
        summary
            .problems
            .push(format!("the screen does not show `{reported}` and all that follows"));
        drop(step);
    }
    summary.runs.push(run);
    Ok(())
}

/// The distribution's own kernel and DART driver, with real drivers' use of the DMA API.
fn stock_kernel(
    toolchain: Toolchain,
    options: &DemoOptions,
    output: &Path,
    progress: &Progress,
    summary: &mut M1Summary,
) -> Result<()> {
    let step = progress
        .step("Debian's kernel, its DART driver, its programs, and Oche: one image for a Mac");
    let folder = output.join("linux");
    let (guest, kernel) = linux::prepare(&options.kernel.choice(), &folder, &step)?;
    let bench = Bench::with_guest(toolchain, &[], &guest, &folder, &step)?;
    step.done(&format!("{} {}, {} MiB", kernel.package, kernel.version, bench.image.len() >> 20));

    let step = progress.step("Debian's kernel on the simulated M1");
    let began = Instant::now();
    let mut mac = oche_m1_sim::linux::mac();
    mac.chosen = mac_of(options)?.chosen;
    let board = bench.board(&mac)?;
    let trace = output.join("linux.oche");
    let recorder = FileRecorder::start(&board.memory().open_path(), &trace)?;
    let outcome = board.run(linux::LIMIT, |line| {
        show(&step, line);
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
    outcome: &BoardOutcome,
    verdict: Result<()>,
    summary: &mut M1Summary,
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
fn show(step: &Step, line: &str) {
    if line.starts_with("oche: ") || line.starts_with("guest: ") {
        step.line(line);
    }
}
