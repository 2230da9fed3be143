//! `cargo xtask demo`: a stock Debian kernel does its DMA through virtual 4K DARTs, and every byte
//! is checked.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use oche::progress::{Progress, Step};
use oche::workspace;

use crate::demo::guest::Supplies;
use crate::demo::judge::judge;
use crate::demo::summary::DemoSummary;
use crate::demo::transfers::{TRANSFERS, TransferCost, TransferCosts};
use crate::demo::watch::{Plan, watch};
use crate::next_command::{build_oche, next_commands};

pub mod devices;
pub mod disks;
pub(crate) mod guest;
pub mod guest_report;
mod judge;
pub mod kernel_log;
mod m1;
pub(crate) mod measured;
mod options;
mod prepare;
pub mod server;
pub mod summary;
pub mod transfers;
mod watch;

use options::DemoBoard;
pub use options::DemoOptions;
pub(crate) use options::parse_option;
use prepare::{Prepared, prepare};

/// Carries out `cargo xtask demo`.
///
/// # Errors
///
/// Something needed cannot be had, or the run was not good: the error names it, and where the
/// whole log is.
pub fn main(options: &DemoOptions) -> Result<()> {
    if options.board == DemoBoard::M1Sim {
        m1::main(options)?;
        let oche = build_oche(&Step::silent())?;
        let name = if options.short { "trace.oche" } else { "linux.oche" };
        println!("{}", next_commands(&oche, &options.output().join(name)));
        return Ok(());
    }
    let has_native = options.has_native();
    let progress = Progress::new(5 + usize::from(has_native) + options.repeat as usize);
    let prepared = prepare(options, &progress)?;
    let native = if has_native { measure_native(options, &prepared, &progress)? } else { None };
    let mut good = 0;
    for round in 1..=options.repeat {
        let title = if options.repeat == 1 {
            "The guest on Oche".to_owned()
        } else {
            format!("The guest on Oche, boot {round} of {}", options.repeat)
        };
        let summary = run_once(options, &prepared, native.as_deref(), progress.step(&title))?;
        if options.break_placement {
            expect_damage(&summary)?;
        } else if summary.is_good {
            good += 1;
        } else {
            report_problems(&summary, options);
            bail!("the run was not good: {} things are wrong", summary.problems.len());
        }
    }
    if options.repeat > 1 && !options.break_placement {
        println!("{good} boots of {} ended well", options.repeat);
    }
    if options.is_traced() {
        println!("{}", next_commands(&prepared.oche, &options.output().join("trace.oche")));
    }
    Ok(())
}

/// Measures the transfers on the same machine without Oche. Where that boot fails, by a defect of
/// QEMU (docs/known-issues.md), the demo has no figures to compare with, and goes on without.
fn measure_native(
    options: &DemoOptions,
    prepared: &Prepared,
    progress: &Progress,
) -> Result<Option<TransferCosts>> {
    let step = progress.step("The guest's transfers natively, on an SMMUv3 with 4 KiB pages");
    let folder = options.output().join("native");
    let supplies = Supplies::make(&folder, options.sizes())?;
    let (machine, log) = (prepared.native_machine(options), folder.join("console.log"));
    match measured::measure(machine, &supplies, &TRANSFERS, &log, &step) {
        Ok(costs) => {
            step.done(&format!("{} transfers", costs.len()));
            Ok(Some(costs))
        }
        Err(error) => {
            step.line(&format!("not compared with native times: {error:#}"));
            step.skipped();
            Ok(None)
        }
    }
}

fn run_once(
    options: &DemoOptions,
    prepared: &Prepared,
    native: Option<&[(String, TransferCost)]>,
    step: Step,
) -> Result<DemoSummary> {
    let supplies = Supplies::make(&options.output(), options.sizes())?;
    let machine = prepared.machine(options).with(&supplies);
    let plan = Plan {
        has_oche: !options.without_oche,
        has_trace: !options.without_trace,
        ends_with_script: options.break_placement,
        limit: Duration::from_secs(options.limit),
        console: options.output().join("console.log"),
        trace: options.output().join("trace.oche"),
    };
    let watched = watch(&machine, &plan, &step)?;
    let left = if options.break_placement {
        // An image that was torn in the middle of a write proves nothing.
        std::collections::BTreeMap::new()
    } else {
        supplies.disks.left_by_guest(&options.output())?
    };
    let mut summary = judge(&watched, &plan, &prepared.kernel, &supplies.disks.expected, &left);
    if let Some(native) = native {
        summary.take_transfers(native, &watched.report);
    }
    let json = serde_json::to_vec_pretty(&summary).context("the summary")?;
    workspace::write_whole(&options.output().join("summary.json"), &json)?;
    let verdict = format!("{}, {} problems", watched.ending, summary.problems.len());
    if summary.is_good || options.break_placement {
        step.done(&verdict);
    } else {
        step.line(&verdict);
        if !watched.ending.is_good() {
            step.line(&format!("the console's last lines:\n{}", watched.last_lines));
        }
        drop(step);
    }
    if plan.has_oche && !options.break_placement {
        println!("\n{}", summary.table());
    }
    Ok(summary)
}

fn report_problems(summary: &DemoSummary, options: &DemoOptions) {
    for problem in &summary.problems {
        eprintln!("  wrong: {problem}");
    }
    eprintln!("  the whole log: {}", options.output().join("console.log").display());
}

/// With misplaced pages the digests must fail; the same guest with right ones passes them.
fn expect_damage(summary: &DemoSummary) -> Result<()> {
    if summary.kernel.release.is_empty() {
        bail!(
            "the guest did not even start, so its digests were not tested: {}",
            summary.problems.join("; ")
        );
    }
    let noticed: Vec<&String> =
        summary.problems.iter().filter(|problem| problem.starts_with("digest of")).collect();
    if noticed.is_empty() {
        bail!("placement is broken on purpose, and no digest noticed");
    }
    println!(
        "placement is broken on purpose, and {} digests noticed, the first: {}",
        noticed.len(),
        noticed[0]
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::expect_damage;
    use crate::demo::summary::DemoSummary;

    #[test]
    fn a_broken_placement_counts_only_if_a_digest_noticed_it() {
        let mut summary = DemoSummary::default();
        assert!(expect_damage(&summary).is_err(), "the guest never started");
        summary.kernel.release = "6.1".into();
        summary.problems.push("step nvme failed".into());
        assert!(expect_damage(&summary).is_err(), "no digest noticed");
        summary.problems.push("digest of usb differs".into());
        assert!(expect_damage(&summary).is_ok());
    }
}
