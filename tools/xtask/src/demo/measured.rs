//! A boot that makes transfers and nothing else, on Oche or natively.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oche::progress::Step;

use super::guest::{GuestMachine, Supplies};
use super::guest_report::{self, GuestReport, ReportLine};
use super::transfers::{self, TransferCost, TransferCosts};
use crate::measure::profile::counts::{Counts, InstructionCounter};
use crate::qemu::{ConsoleLine, QemuMachine, Running, Wish};

/// How long a boot may take; half a minute, mostly.
const LIMIT: Duration = Duration::from_secs(600);

/// The kernel's report of a network card that sends no more.
const STUCK: &str = "NETDEV WATCHDOG";

/// The guest's bell: a write there stops the machine.
///
/// Source: QEMU documentation, "PVPANIC DEVICE".
const BELL: [&str; 4] = ["-device", "pvpanic-pci,addr=9", "-action", "panic=pause"];
/// Its name in the guest.
const BELL_OPTION: &str = " demo.bell=0000:00:09.0";

/// A transfer: its name, what it took, and how often each instruction of Oche's was executed in it.
pub(crate) type CountedTransfer = (String, TransferCost, Counts);

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
    want(&mut machine, wanted);
    let report = report_of(&machine.with(supplies), log, step, |_| Ok(()))?;
    costs(&report, supplies, wanted, log)
}

/// The same, with what `counter` counts in each transfer: the guest stops the machine before and
/// after it.
///
/// # Errors
///
/// As [`measure`], or the guest counted other numbers of instructions.
pub(crate) fn profile(
    mut machine: GuestMachine,
    counter: &InstructionCounter,
    supplies: &Supplies,
    wanted: &[&str],
    log: &Path,
    step: &Step,
) -> Result<Vec<CountedTransfer>> {
    want(&mut machine, wanted);
    machine.append.push_str(BELL_OPTION);
    machine.qemu.extend(BELL.map(Into::into));
    machine.qemu.extend(counter.arguments());
    let mut readings = Vec::new();
    let report = report_of(&machine.with(supplies), log, step, |running| {
        // After the last reading, QEMU may have ended.
        if readings.len() < 2 * wanted.len() && !running.monitor().0.is_running()? {
            readings.push(counter.read()?);
            running.monitor().0.resume()?;
        }
        Ok(())
    })?;
    let costs = costs(&report, supplies, wanted, log)?;
    counted(costs, &readings)
}

fn want(machine: &mut GuestMachine, transfers: &[&str]) {
    machine.append.push_str(" demo.transfers=");
    machine.append.push_str(&transfers.join(","));
}

fn costs(
    report: &GuestReport,
    supplies: &Supplies,
    wanted: &[&str],
    log: &Path,
) -> Result<TransferCosts> {
    let folder = log.parent().context("the log is in no folder")?;
    let left = supplies.disks.left_by_guest(folder)?;
    transfers::checked_costs(report, wanted, &supplies.disks.expected, &left)
        .with_context(|| format!("the console is kept in {}", log.display()))
}

/// `readings` has two of each transfer, from before and after it.
fn counted(costs: TransferCosts, readings: &[Counts]) -> Result<Vec<CountedTransfer>> {
    let (pairs, rest) = readings.as_chunks::<2>();
    let is_whole = pairs.len() == costs.len() && rest.is_empty();
    ensure!(is_whole, "{} readings of {} transfers", readings.len(), costs.len());
    let transfers = costs.into_iter().zip(pairs).map(|((name, cost), [before, after])| {
        let counts = after.since(before)?;
        counts.check(cost.hypervisor).with_context(|| name.clone())?;
        Ok((name, cost, counts))
    });
    transfers.collect()
}

fn report_of(
    machine: &QemuMachine,
    log: &Path,
    step: &Step,
    on_tick: impl FnMut(&mut Running) -> Result<()>,
) -> Result<GuestReport> {
    let mut running = Running::start(machine, log)?;
    let (mut report, mut is_repeated) = (GuestReport::default(), false);
    let on_line = |_: &mut Running, line: &ConsoleLine| {
        // A card that is stuck stays so until the transfer's time is up.
        ensure!(!line.text.contains(STUCK), "{}; see {}", line.text.trim(), log.display());
        let Some(line) = guest_report::parse(&line.text) else { return Ok(Wish::GoOn) };
        match line {
            ReportLine::Begin(name) => step.detail(&format!("guest: {name}")),
            ReportLine::Marker("again") => is_repeated = true,
            ReportLine::Fact("transfer", value) if !is_repeated => {
                if let Some((name, cost)) = transfers::parse(value) {
                    step.line(&format!("guest: {name}, {cost}"));
                }
            }
            _ => {}
        }
        report.take(&line);
        Ok(Wish::GoOn)
    };
    let ending = running.watch_and_look(LIMIT, on_line, on_tick)?;
    ensure!(ending.is_good() && report.is_complete, "{ending}; see {}", log.display());
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::{Counts, TransferCost, counted};

    #[test]
    fn a_transfers_counts_are_those_between_its_two_readings() {
        let reading = |count: u64| Counts::from(vec![1, count]);
        let cost = |hypervisor| TransferCost { hypervisor, ..TransferCost::default() };
        let costs = || vec![("usb-read".to_owned(), cost(20)), ("usb-write".to_owned(), cost(5))];
        let readings = [10, 30, 32, 37].map(reading);
        let transfers = counted(costs(), &readings).unwrap();
        let totals: Vec<_> =
            transfers.iter().map(|(name, _, counts)| (name.as_str(), counts.total())).collect();
        assert_eq!(totals, [("usb-read", 20), ("usb-write", 5)]);
        assert!(counted(costs(), &readings[..3]).is_err(), "a reading is missing");
        let other = [10, 30, 32, 38].map(reading);
        let error = format!("{:#}", counted(costs(), &other).unwrap_err());
        assert!(error.starts_with("usb-write: the plugin counted 6 "), "{error}");
    }
}
