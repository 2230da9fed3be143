//! The steps of `cargo xtask test`, in the order in which they run.

use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use oche::el2::{self, Toolchain};
use oche::progress::Step;
use oche::{command, workspace};

use super::boot_file::{self, Sources};
use super::views::babeltrace;
use super::{
    carried, document_commands, fault, install, kernels, m1, mac_trees, mistakes, port, probe,
    reset, views, watch, wrong_input,
};
use crate::guest::kernel::KernelChoice;
use crate::m1::device_tree::KernelSource;
use crate::measure::{compare, memory};
use crate::soak::hostile::{Images, batch};
use crate::{check, environment, hostile};

/// Operations of the differential run and of the hostile sequences, at least; a million is asked
/// for.
const OPERATIONS: u64 = 1_000_000;

/// The counts of passed and failed tests.
pub(super) struct StepCounts {
    pub(super) passed: u64,
    pub(super) failed: u64,
}

/// The step with a Mac's first boot, on the simulated board.
pub(crate) const BOARD_STEP: &str = "Simulated M1: CPUs, drivers, DARTs";
/// The start of its error if a run of the board failed, as opposed to its preparation.
pub(crate) const BOARD_VERDICT: &str = m1::VERDICT;

/// The steps that check the order of what EL2 executes; and how their failures begin.
pub(crate) const ORDERING_STEPS: [&str; 2] =
    ["Ordering at EL2: hostile guest", "Ordering at EL2: simulated M1"];
pub(crate) const ORDERING_VERDICTS: [&str; 2] = [hostile::ORDERING_VERDICT, m1::ORDERING_VERDICT];

/// A step; it returns a summary of a few words.
pub(super) type Work = fn(&Step, &mut StepCounts) -> Result<String>;

/// All steps, by name.
pub(super) const STEPS: &[(&str, Work)] = &[
    ("Form, lints and documentation", lints),
    ("Oche for EL2", build_for_el2),
    ("Oche with its images inside, alone", |step, _| carried::run(toolchain(step)?, step)),
    ("Host tests of every module", host_tests),
    ("Engine against reference", differential),
    ("Wrong input", |step, _| wrong_input::run(step)),
    ("Kernels checked for a Mac", |step, _| kernels::run(step)),
    ("Commands of the documents", |step, _| document_commands::run(step)),
    ("Views of a trace in Perfetto, Wireshark and a browser", |step, _| views::run(step)),
    ("Hostile guest, and Oche's own panics", |step, _| {
        step.suspended(hostile::main).map(|()| String::new())
    }),
    (ORDERING_STEPS[0], |step, _| hostile::check_ordering(toolchain(step)?, step)),
    ("Random hostile sequences", |step, _| hostile_sequences(step)),
    (BOARD_STEP, |step, _| m1::run(toolchain(step)?, step)),
    (ORDERING_STEPS[1], |step, _| m1::run_ordering(toolchain(step)?, step)),
    ("Simulated M1: FIQs, both ways", |step, _| m1::run_fiqs(toolchain(step)?, step)),
    ("Simulated M1: options, self-test, panics", |step, _| m1::run_options(toolchain(step)?, step)),
    ("Device trees of all M1 Macs", |step, _| {
        toolchain(step)?;
        mac_trees::run(&KernelSource::of_the_board(step)?, step)
    }),
    ("Boot file of m1n1, written by Debian's script", |step, _| {
        let toolchain = toolchain(step)?;
        let sources = Sources { kernel: KernelSource::of_the_board(step)?, is_fresh: false };
        boot_file::run(toolchain, &sources, step)
    }),
    ("Installation into m1n1's boot file, with Debian's packages", |step, _| {
        let toolchain = toolchain(step)?;
        let sources = Sources { kernel: KernelSource::of_the_board(step)?, is_fresh: false };
        install::run(toolchain, &sources, step)
    }),
    ("Probe on the simulated M1", |step, _| probe::run(toolchain(step)?, step)),
    ("Simulated M1: failures that start U-Boot", |step, _| {
        m1::run_fail_open(toolchain(step)?, step)
    }),
    ("Stock kernel on the simulated M1", |step, _| {
        m1::run_stock_kernel(toolchain(step)?, &KernelChoice::stock(), step)
    }),
    ("U-Boot on the simulated M1, then the stock kernel", |step, _| {
        m1::u_boot::run(toolchain(step)?, &KernelChoice::stock(), step)
    }),
    ("Device faults, reported by the stock driver", |step, _| fault::run(toolchain(step)?, step)),
    ("Mistakes of drivers, explained by the trace", |step, _| {
        mistakes::run(toolchain(step)?, step)
    }),
    ("Trace read inside the guest, by its port", |step, _| port::run(toolchain(step)?, step)),
    ("Trace of the boot before, after a reset", |step, _| reset::run(toolchain(step)?, step)),
    ("A driver's rings, watched", |step, _| watch::run(toolchain(step)?, step)),
    ("Cost of a DMA map, against the recorded", |step, _| compare::check_recorded(step)),
    ("Memory and boot, against the bound", |step, _| memory::check_recorded(step)),
    ("Demo, short", |step, _| run_demo(step, "demo-short", "")),
    ("Demo, short, permissions exact", |step, _| {
        run_demo(step, "demo-strict", "--without-native --option oche.isolation=strict")
    }),
    ("Demo, short, trace compiled out", |step, _| {
        run_demo(step, "demo-untraced", "--without-native --without-trace")
    }),
    ("Demo, short, pool under pressure", |step, _| {
        let pressure = "--without-native --option oche.pool=32M --option oche.trace=64K";
        run_demo(step, "demo-pressure", pressure)
    }),
    ("Demo with placement broken, which must be noticed", |step, _| {
        run_demo(step, "demo-broken", "--break-placement --limit 75")
    }),
];

fn toolchain(step: &Step) -> Result<Toolchain> {
    environment::prepare(step)
}

fn lints(step: &Step, _: &mut StepCounts) -> Result<String> {
    step.suspended(check::main).map(|()| String::new())
}

fn build_for_el2(step: &Step, _: &mut StepCounts) -> Result<String> {
    let toolchain = toolchain(step)?;
    el2::build(toolchain, &[], step)?;
    el2::build(toolchain, &["break-placement"], step)?;
    Ok(format!("with {toolchain}"))
}

fn host_tests(step: &Step, tally: &mut StepCounts) -> Result<String> {
    step.detail("cargo test");
    let result = cargo(&["test", "--quiet", "--workspace", "--no-fail-fast"])
        .output()
        .context("cannot start cargo")?;
    let output = String::from_utf8_lossy(&result.stdout);
    let (passed, failed) = count_tests(&output);
    tally.passed += passed;
    tally.failed += failed;
    if !result.status.success() {
        let log = workspace::target().join("logs").join("host-tests.log");
        let whole = format!("{output}\n{}", String::from_utf8_lossy(&result.stderr));
        workspace::write_whole(&log, whole.as_bytes())?;
        for line in output
            .lines()
            .filter(|line| line.contains("panicked at") || line.starts_with("    "))
            .take(20)
        {
            step.line(line);
        }
        bail!("{failed} tests failed; their output: {}", log.display());
    }
    if passed == 0 {
        bail!("no test ran");
    }
    Ok(format!("{passed} tests"))
}

/// Adds up lines such as `test result: ok. 43 passed; 0 failed; 0 ignored; ...`.
fn count_tests(output: &str) -> (u64, u64) {
    let mut sums = (0, 0);
    for line in output.lines().filter(|line| line.trim_start().starts_with("test result:")) {
        let number = |name: &str| -> u64 {
            let words: Vec<&str> = line.split([' ', ';']).collect();
            let at = words.iter().position(|word| *word == name);
            at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok()).unwrap_or(0)
        };
        sums.0 += number("passed");
        sums.1 += number("failed");
    }
    sums
}

fn differential(step: &Step, _: &mut StepCounts) -> Result<String> {
    step.detail(&format!("{OPERATIONS} random operations"));
    let operations = OPERATIONS.to_string();
    let mut cargo =
        cargo(&["run", "--quiet", "--profile", "soak", "--package", "oche-differential", "--bin"]);
    cargo.args(["differential", "--", &operations]);
    let output = command::text(&mut cargo, "the engine against the reference")?;
    let first = output.lines().next().unwrap_or_default().to_owned();
    if !output.contains("no difference") {
        bail!("{first}: the summary is not `no difference`");
    }
    Ok(first.trim_start_matches("differential: ").to_owned())
}

/// Runs the short demo as a person would, by this very program, with more `arguments`.
fn run_demo(step: &Step, name: &str, arguments: &str) -> Result<String> {
    let output: PathBuf = workspace::target().join("test").join(name);
    workspace::create_folder(&output)?;
    let program = std::env::current_exe().context("this program's own path")?;
    let mut demo = Command::new(program);
    demo.args(["demo", "--short"])
        .args(arguments.split_whitespace())
        .arg("--output")
        .arg(&output)
        .env("NO_COLOR", "1");
    let result =
        demo.stdin(std::process::Stdio::null()).output().context("cannot start the demo")?;
    let reported = format!(
        "{}{}",
        String::from_utf8_lossy(&result.stderr),
        String::from_utf8_lossy(&result.stdout)
    );
    workspace::write_whole(&output.join("demo.log"), reported.as_bytes())?;
    if !result.status.success() {
        for line in reported
            .lines()
            .filter(|line| line.starts_with("  wrong:") || line.starts_with("error"))
            .take(20)
        {
            step.line(line.trim());
        }
        bail!("the demo failed; the whole log: {}", output.join("demo.log").display());
    }
    let last = reported.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if arguments.contains("--break-placement") {
        return Ok(last.trim().to_owned());
    }
    let summary = std::fs::read(output.join("summary.json")).context("the demo's summary")?;
    let summary: serde_json::Value =
        serde_json::from_slice(&summary).context("the demo's summary")?;
    let is_traced = !arguments.contains("--without-trace");
    let words = summarise(&summary, is_traced)?;
    if is_traced && ["demo-short", "demo-pressure"].contains(&name) {
        step.detail("babeltrace2");
        environment::prepare_views(step)?;
        let read = babeltrace::compare(&output.join("trace.oche"), &output.join("trace.ctf"))?;
        let (events, lost) = (read.events(), read.lost);
        return Ok(format!("{words}; babeltrace2 reads {events} events, {lost} lost"));
    }
    Ok(words)
}

/// A few words of a demo's summary, after a look whether it says that all was well, and whether
/// there are counters where there is a trace and none where there is none.
fn summarise(summary: &serde_json::Value, is_traced: bool) -> Result<String> {
    if summary.get("is_good").and_then(serde_json::Value::as_bool) != Some(true) {
        bail!("the demo ended well, but its summary has a problem");
    }
    let counter = |name: &str| {
        summary.pointer(&format!("/counters/{name}")).and_then(serde_json::Value::as_u64)
    };
    let (Some(maps), Some(flushes)) = (counter("maps"), counter("flushes")) else {
        if is_traced {
            bail!("the demo's summary lacks counters");
        }
        return Ok("nothing traced, every digest equal".into());
    };
    if !is_traced {
        bail!("{maps} mapped pages were counted where the trace is compiled out");
    }
    Ok(format!("{maps} pages mapped in {flushes} flushes, every digest equal"))
}

/// Registers, queues and instructions at random, another seed each time.
fn hostile_sequences(step: &Step) -> Result<String> {
    let images = Images::build(step)?;
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_secs());
    step.line(&format!("seed {seed}"));
    let operations = batch(&images, seed, OPERATIONS, step)?;
    Ok(format!("{operations}, seed {seed}"))
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).current_dir(workspace::root());
    cargo
}

#[cfg(test)]
mod tests {
    use super::{count_tests, summarise};

    #[test]
    fn the_results_of_several_test_programs_are_added_up() {
        let output = "running 2 tests\n..\ntest result: ok. 43 passed; 0 failed; 1 ignored; 0 measured\n\n\
                    test result: FAILED. 5 passed; 2 failed; 0 ignored\n";
        assert_eq!(count_tests(output), (48, 2));
        assert_eq!(count_tests("nothing"), (0, 0));
    }

    #[test]
    fn only_a_summary_that_is_good_passes() {
        let good = serde_json::json!({"is_good": true, "counters": {"maps": 3, "flushes": 2}});
        assert_eq!(
            summarise(&good, true).unwrap(),
            "3 pages mapped in 2 flushes, every digest equal"
        );
        let bad = serde_json::json!({"is_good": false, "counters": {"maps": 3, "flushes": 2}});
        assert!(summarise(&bad, true).is_err());
        assert!(summarise(&serde_json::json!({"is_good": true}), true).is_err());
    }

    #[test]
    fn a_demo_without_a_trace_has_no_counters() {
        let untraced = serde_json::json!({"is_good": true, "counters": {}});
        assert_eq!(summarise(&untraced, false).unwrap(), "nothing traced, every digest equal");
        let traced = serde_json::json!({"is_good": true, "counters": {"maps": 3, "flushes": 2}});
        assert!(summarise(&traced, false).is_err());
    }
}
