//! The transfers that the guest makes one after the other: their names, what each took, and
//! whether the bytes arrived.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail, ensure};

use super::guest_report::GuestReport;

/// All transfers, in the guest's order: a device, and what the guest does with it.
pub const TRANSFERS: [&str; 10] = [
    "nvme-write",
    "nvme-read",
    "usb-write",
    "usb-read",
    "virtio-blk-write",
    "virtio-blk-read",
    "e1000e-receive",
    "e1000e-send",
    "virtio-net-receive",
    "virtio-net-send",
];

/// What a transfer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TransferCost {
    /// Nanoseconds of the guest's clock, which is the host's unless QEMU counts instructions.
    pub nanoseconds: u64,
    /// Instructions at EL0; none of the three is counted unless QEMU counts instructions.
    pub user: u64,
    /// Instructions of the kernel.
    pub kernel: u64,
    /// Instructions of the hypervisor.
    pub hypervisor: u64,
}

impl TransferCost {
    /// Instructions at all levels.
    #[must_use]
    pub fn instructions(&self) -> u64 {
        self.user + self.kernel + self.hypervisor
    }
}

impl fmt::Display for TransferCost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.instructions() {
            0 => write!(out, "{:.2} s", self.nanoseconds as f64 / 1e9),
            all => write!(out, "{:.1} million instructions", all as f64 / 1e6),
        }
    }
}

/// Transfers with what they took, in the guest's order.
pub type TransferCosts = Vec<(String, TransferCost)>;

/// The transfers whose names contain one of `words`; all without a word.
///
/// # Errors
///
/// A word is in no transfer's name.
pub fn choose(words: &[String]) -> Result<Vec<&'static str>> {
    for word in words {
        if !TRANSFERS.iter().any(|name| name.contains(word.as_str())) {
            bail!("no transfer's name contains `{word}`; they are: {}", TRANSFERS.join("; "));
        }
    }
    let is_chosen = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    Ok(TRANSFERS.into_iter().filter(|name| is_chosen(name)).collect())
}

/// `usb-read 1 2 3 4`: the transfer, and its nanoseconds and instructions.
#[must_use]
pub fn parse(value: &str) -> Option<(String, TransferCost)> {
    let mut words = value.split(' ');
    let name = words.next().filter(|name| TRANSFERS.contains(name))?.to_owned();
    let mut number = || words.next()?.parse().ok();
    let (nanoseconds, user, kernel) = (number()?, number()?, number()?);
    // The difference of two counters that are read one after the other: natively it is about 0.
    let hypervisor = words.next()?.parse::<i64>().ok()?.max(0).unsigned_abs();
    let cost = TransferCost { nanoseconds, user, kernel, hypervisor };
    (words.next().is_none() && cost.nanoseconds != 0).then_some((name, cost))
}

/// What the transfers took that the guest reports.
///
/// # Errors
///
/// The report of one is damaged.
pub fn costs(report: &GuestReport) -> Result<TransferCosts> {
    let values = report.facts.get("transfer").into_iter().flatten();
    values.map(|value| parse(value).with_context(|| format!("the guest reports {value}"))).collect()
}

/// A transfer's time on Oche beside its time natively.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct TransferRatio {
    /// Such as `usb-read`.
    pub transfer: String,
    /// Seconds on Oche.
    pub oche_seconds: f64,
    /// Seconds natively.
    pub native_seconds: f64,
    /// The one divided by the other.
    pub ratio: f64,
}

/// The ratio of each transfer that was made on both machines.
#[must_use]
pub fn ratios(native: &[(String, TransferCost)], oche: &TransferCosts) -> Vec<TransferRatio> {
    let both = native.iter().filter_map(|(name, native)| {
        let (_, oche) = oche.iter().find(|(other, _)| other == name)?;
        let [oche_seconds, native_seconds] =
            [oche, native].map(|cost| cost.nanoseconds as f64 / 1e9);
        let ratio = oche_seconds / native_seconds;
        Some(TransferRatio { transfer: name.clone(), oche_seconds, native_seconds, ratio })
    });
    both.collect()
}

/// Gives what the transfers `wanted` took, and fails unless each was made, and moved the bytes that
/// it had to.
///
/// `expected` has the digests of what they move, `left` those of what the guest left on the disks.
///
/// # Errors
///
/// A transfer was not made, or other bytes arrived.
pub fn checked_costs(
    report: &GuestReport,
    wanted: &[&str],
    expected: &BTreeMap<String, String>,
    left: &BTreeMap<String, String>,
) -> Result<TransferCosts> {
    if let Some((name, text)) = report.failed.first() {
        bail!("step {name} failed: {text}");
    }
    let costs = costs(report)?;
    let made: Vec<&str> = costs.iter().map(|(name, _)| name.as_str()).collect();
    ensure!(made == wanted, "the guest made the transfers {made:?}, and not {wanted:?}");
    let digest = expected.get("transferred").context("nothing is to be transferred")?;
    ensure!(report.digests.get("transferred") == Some(digest), "the guest has other bytes");
    for device in made.iter().filter_map(|name| name.strip_suffix("-write")) {
        let found = left.get(&format!("{device} transferred"));
        ensure!(found == Some(digest), "other bytes are on the disk {device}");
    }
    Ok(costs)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{TRANSFERS, TransferCost, checked_costs, choose, costs, parse, ratios};
    use crate::demo::guest_report::{GuestReport, ReportLine};

    #[test]
    fn the_script_makes_the_transfers_in_this_order() {
        let (_, rest) = crate::demo::guest::SCRIPT.split_once("\ntransfers=\"").unwrap();
        let (list, _) = rest.split_once('"').unwrap();
        assert_eq!(list.split_whitespace().collect::<Vec<_>>(), TRANSFERS);
    }

    #[test]
    fn a_transfers_cost_is_understood_and_anything_else_is_not() {
        let cost = TransferCost { nanoseconds: 9, user: 1, kernel: 20, hypervisor: 300 };
        assert_eq!(parse("usb-read 9 1 20 300"), Some(("usb-read".into(), cost)));
        assert_eq!(
            (cost.instructions(), cost.to_string()),
            (321, "0.0 million instructions".into())
        );
        let timed = TransferCost { nanoseconds: 1_250_000_000, ..TransferCost::default() };
        assert_eq!(timed.to_string(), "1.25 s");
        for wrong in ["usb-read", "usb-read 9 1 2", "usb-read 9 1 2 3 4", "usb-read 9 1 x 3"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert_eq!(parse("usb-read 0 1 2 3"), None, "it took no time");
        let native = TransferCost { hypervisor: 0, ..cost };
        assert_eq!(parse("usb-read 9 1 20 -2818"), Some(("usb-read".into(), native)));
        assert_eq!(parse("floppy-read 9 1 2 3"), None, "there is none");
    }

    #[test]
    fn transfers_are_chosen_by_any_part_of_their_names() {
        let names =
            |words: &[&str]| choose(&words.iter().map(|word| (*word).into()).collect::<Vec<_>>());
        assert_eq!(names(&[]).unwrap(), TRANSFERS);
        assert_eq!(
            names(&["usb", "net-send"]).unwrap(),
            ["usb-write", "usb-read", "virtio-net-send"]
        );
        let error = names(&["floppy"]).unwrap_err().to_string();
        assert!(error.contains("`floppy`") && error.contains("virtio-net-send"), "{error}");
    }

    #[test]
    fn a_ratio_takes_the_same_transfer_of_both_machines() {
        let costs = |named: &[(&str, u64)]| -> Vec<_> {
            let cost = |nanoseconds| TransferCost { nanoseconds, ..TransferCost::default() };
            named.iter().map(|(name, time)| ((*name).to_owned(), cost(*time))).collect()
        };
        let native = costs(&[("usb-read", 500_000_000), ("nvme-read", 1), ("nvme-write", 2)]);
        let oche = costs(&[("nvme-read", 4), ("usb-read", 1_250_000_000)]);
        let found = ratios(&native, &oche);
        let names: Vec<_> = found.iter().map(|found| found.transfer.as_str()).collect();
        assert_eq!(names, ["usb-read", "nvme-read"]);
        let usb = found.first().unwrap();
        assert_eq!((usb.oche_seconds, usb.native_seconds, usb.ratio), (1.25, 0.5, 2.5));
    }

    type Digests = BTreeMap<String, String>;

    /// A report of `usb-write`, what is expected, and what was left on the disk.
    fn good() -> (GuestReport, Digests, Digests) {
        let mut report = GuestReport::default();
        report.take(&ReportLine::Fact("transfer", "usb-write 5 1 2 3"));
        report.digests.insert("transferred".into(), "d".into());
        let expected = BTreeMap::from([("transferred".into(), "d".into())]);
        (report, expected, BTreeMap::from([("usb transferred".into(), "d".into())]))
    }

    #[test]
    fn a_transfer_counts_only_if_its_bytes_arrived() {
        let (report, expected, left) = good();
        let check = |report: &GuestReport, left: &Digests| {
            checked_costs(report, &["usb-write"], &expected, left)
                .map_err(|error| error.to_string())
        };
        assert_eq!(check(&report, &left).unwrap(), costs(&report).unwrap());
        assert!(check(&report, &Digests::new()).unwrap_err().contains("on the disk usb"));
        let mut other = report.clone();
        other.digests.insert("transferred".into(), "x".into());
        assert!(check(&other, &left).unwrap_err().contains("other bytes"));
        let mut failed = report.clone();
        failed.failed.push(("transfers".into(), "other bytes arrived".into()));
        assert!(check(&failed, &left).unwrap_err().contains("step transfers failed"));
    }

    #[test]
    fn a_transfer_that_is_missing_or_damaged_is_an_error() {
        let (mut report, expected, left) = good();
        let wanted = ["usb-write", "usb-read"];
        assert!(checked_costs(&report, &wanted, &expected, &left).is_err());
        report.take(&ReportLine::Fact("transfer", "usb-read 5 1 2"));
        assert!(costs(&report).is_err());
    }
}
