//! Whether a run was good: everything that was seen, held against everything that must be.

use std::collections::BTreeMap;

use crate::demo::devices;
use crate::demo::summary::{DemoSummary, TraceFacts};
use crate::demo::watch::{Plan, Watched};
use crate::guest::kernel::GuestKernel;

/// Puts the summary together and lists what is wrong.
pub(super) fn judge(
    watched: &Watched,
    plan: &Plan,
    kernel: &GuestKernel,
    expected: &BTreeMap<String, String>,
    left: &BTreeMap<String, String>,
) -> DemoSummary {
    let mut summary = DemoSummary::default();
    let report = &watched.report;
    summary.take_report(report);
    summary.kernel.package = format!("{} {}", kernel.package, kernel.version);
    summary.kernel.image_sha256.clone_from(&kernel.image_sha256);
    summary.boot_to_end_seconds = watched.took.as_secs_f64();
    if !watched.ending.is_good() {
        summary.problems.push(watched.ending.to_string());
    }
    if summary.kernel.page_bytes != 4096 {
        summary
            .problems
            .push(format!("the guest's pages have {} bytes, not 4096", summary.kernel.page_bytes));
    }
    summary.problems.extend(report.missing_steps());
    summary.problems.extend(report.wrong_digests(expected, left));
    if plan.has_oche {
        judge_oche(watched, plan, &mut summary);
    }
    summary.problems.extend(watched.complaints.iter().map(|line| format!("guest kernel: {line}")));
    summary.is_good = summary.problems.is_empty();
    summary
}

fn judge_oche(watched: &Watched, plan: &Plan, summary: &mut DemoSummary) {
    if plan.has_trace {
        judge_trace(watched, plan, summary);
    } else if watched.recording.sessions != 0 || watched.counters.values().any(|value| *value != 0)
    {
        summary.problems.push("the trace is compiled out, and there is one".into());
    }
    let greetings = watched
        .report
        .facts
        .get("greeting")
        .into_iter()
        .flatten()
        .filter(|line| line.contains("DART [pagesize 1000, 16 streams, bypass support: 0"))
        .count();
    if greetings != usize::from(devices::darts()) {
        let darts = devices::darts();
        summary
            .problems
            .push(format!("the driver found {greetings} DARTs with 4K pages instead of {darts}"));
    }
    summary
        .problems
        .extend(wrong_groups(watched.report.facts.get("device").map_or(&[], Vec::as_slice)));
    summary.smmu = watched.survey.clone();
    if let Err(error) = summary.smmu.judge() {
        summary.problems.push(error.to_string());
    }
}

fn judge_trace(watched: &Watched, plan: &Plan, summary: &mut DemoSummary) {
    summary.take_counters(watched.counters.clone());
    match &watched.idle {
        Some((before, after, seconds)) => summary.take_idle(before, after, *seconds),
        None => summary.problems.push("the guest never came to idle".into()),
    }
    let recording = &watched.recording;
    summary.trace = TraceFacts {
        file: plan.trace.display().to_string(),
        events: recording.records,
        dropped: recording.lost,
    };
    if recording.records == 0 {
        summary.problems.push("the trace is empty".into());
    }
}

/// Devices that are not in the IOMMU group they belong to: one for each stream.
///
/// A fact is `0000:00:01.0 nvme group 0`.
fn wrong_groups(facts: &[String]) -> Vec<String> {
    let group_of = |slot: u8| -> Option<&str> {
        let fact = facts.iter().find(|fact| fact.starts_with(&format!("0000:00:{slot:02x}.0 ")))?;
        fact.rsplit_once("group ").map(|(_, group)| group.trim()).filter(|group| !group.is_empty())
    };
    let mut wrong = Vec::new();
    for device in &devices::ATTACHED {
        let Some(group) = group_of(device.slot) else {
            wrong.push(format!("{} is in no IOMMU group", device.name));
            continue;
        };
        for other in devices::ATTACHED.iter().filter(|other| other.slot > device.slot) {
            let shares_stream = (other.dart, other.stream) == (device.dart, device.stream);
            if group_of(other.slot).is_some_and(|others| (others == group) != shares_stream) {
                let what = if shares_stream {
                    "are not in one IOMMU group"
                } else {
                    "share an IOMMU group"
                };
                wrong.push(format!("{} and {} {what}", device.name, other.name));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::wrong_groups;

    fn facts(groups: [&str; 7]) -> Vec<String> {
        (1..)
            .zip(groups)
            .map(|(slot, group)| format!("0000:00:{slot:02x}.0 driver group {group}"))
            .collect()
    }

    #[test]
    fn devices_share_a_group_only_where_they_share_a_stream() {
        assert!(wrong_groups(&facts(["0", "1", "2", "3", "4", "5", "5"])).is_empty());
        assert_eq!(wrong_groups(&facts(["0", "1", "2", "3", "4", "5", "6"])).len(), 1);
        assert_eq!(wrong_groups(&facts(["0", "0", "2", "3", "4", "5", "5"])).len(), 1);
        assert_eq!(wrong_groups(&facts(["0", "1", "2", "3", "", "5", "5"])).len(), 1);
        assert_eq!(wrong_groups(&[]).len(), 7);
    }
}
