//! A boot that makes transfers and nothing else, on Oche or natively.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oche::progress::Step;

use super::guest::{GuestMachine, Supplies};
use super::guest_report::{self, GuestReport, ReportLine};
use super::transfers::{self, TransferCosts};
use crate::qemu::{QemuMachine, Running, Wish};

/// How long a boot may take; half a minute, mostly.
const LIMIT: Duration = Duration::from_secs(600);

/// Boots `machine` with `supplies`, has it make the transfers `wanted`, and gives what they took.
/// The console is kept in `log`, and what is compared goes through files beside it.
///
/// # Errors
///
/// The boot failed, a transfer was not made, or other bytes arrived.
pub(crate) fn measure(
    mut machine: GuestMachine,
    supplies: &Supplies,
    wanted: &[&str],
    log: &Path,
    step: &Step,
) -> Result<TransferCosts> {
    machine.append.push_str(" demo.transfers=");
    machine.append.push_str(&wanted.join(","));
    let machine = machine.with(supplies);
    let report = report_of(&machine, log, step)?;
    let folder = log.parent().context("the log is in no folder")?;
    let left = supplies.disks.left_by_guest(folder)?;
    transfers::checked_costs(&report, wanted, &supplies.disks.expected, &left)
        .with_context(|| format!("the console is kept in {}", log.display()))
}

fn report_of(machine: &QemuMachine, log: &Path, step: &Step) -> Result<GuestReport> {
    let mut running = Running::start(machine, log)?;
    let mut report = GuestReport::default();
    let ending = running.watch(LIMIT, |_, line| {
        let Some(line) = guest_report::parse(&line.text) else { return Ok(Wish::GoOn) };
        match line {
            ReportLine::Begin(name) => step.detail(&format!("guest: {name}")),
            ReportLine::Fact("transfer", value) => step.detail(&format!("guest: {value}")),
            _ => {}
        }
        report.take(&line);
        Ok(Wish::GoOn)
    })?;
    ensure!(ending.is_good() && report.is_complete, "{ending}; see {}", log.display());
    Ok(report)
}
