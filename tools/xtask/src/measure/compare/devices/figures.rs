//! The figures of the devices' comparison: medians with their spread, as JSON and as a table.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::session::{Boot, Session};
use crate::demo::transfers::TransferCost;

/// A comparison, with what it depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct DeviceComparison {
    /// The guest's kernel: release, package, version.
    pub(super) kernel: String,
    /// The compiler of Oche.
    pub(super) compiler: String,
    /// QEMU's version.
    pub(super) qemu: String,
    /// How often the time was taken on each machine.
    pub(super) runs: u32,
    /// The transfers, in the order in which they were made.
    pub(super) transfers: Vec<TransferFigures>,
}

/// The figures of a transfer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TransferFigures {
    /// Such as `usb-read`.
    pub(super) transfer: String,
    /// MiB that it moved where instructions were counted.
    pub(super) counted_mib: u64,
    pub(super) native: Instructions,
    pub(super) oche: Instructions,
    /// MiB that it moved where the time was taken.
    pub(super) timed_mib: u64,
    pub(super) native_seconds: Spread,
    pub(super) oche_seconds: Spread,
    /// Of each run's two times.
    pub(super) ratio: Spread,
}

/// Instructions by level. The kernel's level is EL1 on Oche, and natively EL2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Instructions {
    pub(super) user: u64,
    pub(super) kernel: u64,
    pub(super) hypervisor: u64,
}

impl Instructions {
    fn of(cost: &TransferCost) -> Self {
        Self { user: cost.user, kernel: cost.kernel, hypervisor: cost.hypervisor }
    }

    fn all(&self) -> u64 {
        self.user + self.kernel + self.hypervisor
    }
}

/// What the runs come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Spread {
    /// Of at least one value.
    fn of(mut values: Vec<f64>) -> Result<Self> {
        values.sort_by(f64::total_cmp);
        let (first, last) = (values.first(), values.last());
        let (least, most) = first.zip(last).context("no run")?;
        let (low, high) = ((values.len() - 1) / 2, values.len() / 2);
        let middle = values.get(low).zip(values.get(high)).context("no middle")?;
        let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
        Ok(Self {
            median: rounded((middle.0 + middle.1) / 2.0),
            least: rounded(*least),
            most: rounded(*most),
        })
    }
}

impl DeviceComparison {
    /// The figures of the first `runs` runs of `session`.
    ///
    /// # Errors
    ///
    /// A boot is missing, or a transfer in one.
    pub(super) fn of(session: &Session, runs: u32) -> Result<Self> {
        let identity = session.identity();
        let is_disk = |name: &str| name.ends_with("-read") || name.ends_with("-write");
        let transfers = identity.transfers.iter().map(|name| {
            let mib = |amounts: [u64; 2]| amounts[usize::from(is_disk(name))];
            let count = |is_native| cost(session, Boot::Count { is_native }, name);
            let counted = (count(true)?, count(false)?);
            // Natively it is what the reading of two counters, one after the other, comes to.
            let (nothing, hypervisor) = (counted.0.hypervisor, counted.1.hypervisor);
            ensure!(
                hypervisor > 10 * nothing,
                "{name}: {hypervisor} instructions at EL2 on Oche, and natively {nothing}"
            );
            let times = |is_native| -> Result<Vec<f64>> {
                let runs = 1..=runs as usize;
                runs.map(|run| {
                    let boot = Boot::Time { is_native, run };
                    Ok(cost(session, boot, name)?.nanoseconds as f64 / 1e9)
                })
                .collect()
            };
            let (native, oche) = (times(true)?, times(false)?);
            let ratios = native.iter().zip(&oche).map(|(native, oche)| oche / native);
            Ok(TransferFigures {
                transfer: name.clone(),
                counted_mib: mib(identity.counted),
                native: Instructions { hypervisor: 0, ..Instructions::of(&counted.0) },
                oche: Instructions::of(&counted.1),
                timed_mib: mib(identity.timed),
                ratio: Spread::of(ratios.collect())?,
                native_seconds: Spread::of(native)?,
                oche_seconds: Spread::of(oche)?,
            })
        });
        Ok(Self {
            kernel: identity.kernel.clone(),
            compiler: identity.compiler.clone(),
            qemu: identity.qemu.clone(),
            runs,
            transfers: transfers.collect::<Result<_>>()?,
        })
    }

    /// Reads the JSON that [`Self::json`] gives.
    ///
    /// # Errors
    ///
    /// It is no such JSON.
    #[cfg(test)]
    pub(super) fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json).context("the recorded figures")
    }

    /// All of it as JSON, with a line's end.
    ///
    /// # Errors
    ///
    /// A figure is no number.
    pub(super) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self).context("the figures")? + "\n")
    }

    /// The comparison as a table in Markdown.
    pub(super) fn table(&self) -> String {
        let mut table = String::from(
            "| transfer | native: EL0 / kernel | Oche: EL0 / EL1 / EL2 | EL2 / EL1 | all, ratio \
             | native, s | Oche, s | time, ratio |\n\
             |---|---|---|---|---|---|---|---|\n",
        );
        for of in &self.transfers {
            let millions = |instructions: u64| instructions as f64 / 1e6;
            // Writing to a string does not fail.
            let _ = writeln!(
                table,
                "| {} | {:.1} / {:.1} | {:.1} / {:.1} / {:.1} | {:.2} | {:.2} | {:.2} \
                 | {:.2} | {:.2} ({:.2} to {:.2}) |",
                of.transfer,
                millions(of.native.user),
                millions(of.native.kernel),
                millions(of.oche.user),
                millions(of.oche.kernel),
                millions(of.oche.hypervisor),
                of.oche.hypervisor as f64 / of.oche.kernel as f64,
                of.oche.all() as f64 / of.native.all() as f64,
                of.native_seconds.median,
                of.oche_seconds.median,
                of.ratio.median,
                of.ratio.least,
                of.ratio.most,
            );
        }
        table
    }
}

/// What the transfer `name` took in `boot`.
fn cost(session: &Session, boot: Boot, name: &str) -> Result<TransferCost> {
    let mut boots = session.boots();
    let (_, costs) =
        boots.find(|(made, _)| *made == boot).with_context(|| format!("no boot: {boot}"))?;
    let found = costs.iter().find(|(made, _)| made == name);
    let (_, cost) = found.with_context(|| format!("no {name} in the boot: {boot}"))?;
    Ok(*cost)
}

#[cfg(test)]
mod tests {
    use super::{DeviceComparison, Spread};
    use crate::demo::transfers::TransferCost;
    use crate::measure::compare::devices::session::{Identity, Session};

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two() {
        let spread = |values: &[f64]| Spread::of(values.to_vec());
        let odd = Spread { median: 2.0, least: 1.0, most: 90.0 };
        assert_eq!(spread(&[90.0, 1.0, 2.0]).unwrap(), odd);
        let even = Spread { median: 2.5, least: 1.0, most: 90.0 };
        assert_eq!(spread(&[90.0, 3.0, 2.0, 1.0]).unwrap(), even);
        assert_eq!(spread(&[0.12349]).unwrap().median, 0.123);
        assert!(spread(&[]).is_err());
    }

    /// Two boots that count, and `times` of each machine in turn.
    fn session(path: &std::path::Path, hypervisor: u64, times: &[u64]) -> Session {
        let identity = Identity {
            transfers: vec!["usb-read".into()],
            counted: [1, 2],
            timed: [4, 32],
            ..Identity::default()
        };
        let mut session = Session::open(path, identity).unwrap();
        let mut add = |cost| session.add(vec![("usb-read".into(), cost)]).unwrap();
        let counted =
            TransferCost { nanoseconds: 1, user: 1_000_000, kernel: 3_000_000, hypervisor: 50 };
        add(counted);
        add(TransferCost { kernel: 4_000_000, hypervisor, ..counted });
        for nanoseconds in times {
            add(TransferCost { nanoseconds: *nanoseconds, ..TransferCost::default() });
        }
        session
    }

    #[test]
    fn ratios_are_of_the_two_times_of_a_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("session.json");
        let seconds = [1, 2, 2, 8, 4, 12].map(|seconds| seconds * 1_000_000_000);
        let session = session(&path, 1_000_000, &seconds);
        let comparison = DeviceComparison::of(&session, 3).unwrap();
        let figures = comparison.transfers.first().unwrap();
        assert_eq!(figures.ratio, Spread { median: 3.0, least: 2.0, most: 4.0 });
        assert_eq!((figures.native_seconds.median, figures.oche_seconds.median), (2.0, 8.0));
        assert_eq!((figures.counted_mib, figures.timed_mib), (2, 32));
        let row = "| usb-read | 1.0 / 3.0 | 1.0 / 4.0 / 1.0 | 0.25 | 1.50 | 2.00 | 8.00 \
                   | 3.00 (2.00 to 4.00) |\n";
        assert!(comparison.table().ends_with(row), "{}", comparison.table());
        assert_eq!(DeviceComparison::parse(&comparison.json().unwrap()).unwrap(), comparison);
        assert_eq!(DeviceComparison::of(&session, 1).unwrap().transfers[0].ratio.most, 2.0);
    }

    #[test]
    fn a_missing_run_and_an_oche_that_did_nothing_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let incomplete = session(&folder.path().join("incomplete.json"), 1000, &[1, 1, 1]);
        let error = DeviceComparison::of(&incomplete, 2).unwrap_err().to_string();
        assert_eq!(error, "no boot: time natively, run 2".replace("natively", "on Oche"));
        let idle = session(&folder.path().join("idle.json"), 500, &[1, 1]);
        let error = DeviceComparison::of(&idle, 1).unwrap_err().to_string();
        assert_eq!(error, "usb-read: 500 instructions at EL2 on Oche, and natively 50");
    }
}
