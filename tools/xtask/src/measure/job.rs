//! `cargo xtask measure job`: what tracing adds to transfers by the demo's devices, in
//! instructions, counted by the guest itself.
//!
//! The guest is a stock kernel with one CPU, and QEMU counts what it executes (`-icount`): every
//! instruction of EL0, EL1 and EL2 counts, idling does not. The guest's own performance counters
//! split them by level. The transfers are made one after the other, so that chance has little to
//! mix; what is left of it the repetitions show.

use anyhow::{Context, Result, bail};
use oche::progress::{Progress, Step};

use super::transfers::{Clock, TransferGuest, Under};
use crate::demo::disks::Sizes;
use crate::demo::transfers::{TRANSFERS, TransferCost, TransferCosts};

/// More than this, and tracing is in the way.
const MAX_PERCENT: f64 = 5.0;

/// Options of `cargo xtask measure job`.
#[derive(Clone, Debug, clap::Args)]
pub struct JobOptions {
    /// How often to boot with the trace and how often without.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// What is recorded with the trace on: orders of `oche trace filter` with `;` between them.
    /// Without: every event.
    #[arg(long, default_value = "")]
    pub orders: String,
}

/// Measures, prints a line a step, and checks the bound.
///
/// # Errors
///
/// Something needed cannot be had, a boot or its work failed, or tracing costs more than it may.
pub fn main(options: &JobOptions) -> Result<()> {
    let progress = Progress::new(2 + 2 * options.rounds as usize);
    let step = progress.step("Oche and the guest");
    let (_, guest) = TransferGuest::prepare("job", &step)?;
    step.done(&guest.folder.display().to_string());
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds {
        for (is_traced, counts) in [(false, &mut without), (true, &mut with)] {
            let name = if is_traced { "with every event recorded" } else { "with oche.trace=0" };
            let step = progress.step(&format!("{name}, boot {round} of {}", options.rounds));
            let for_oche = self::options(is_traced, &options.orders);
            let log = if is_traced { "traced.log" } else { "untraced.log" };
            let under = Under::Oche(&for_oche);
            let counted =
                guest.boot(under, Clock::Instructions, Sizes::SHORT, &TRANSFERS, log, &step)?;
            let instructions = total(&counted).instructions() as f64;
            step.done(&format!("{:.1} million instructions", instructions / 1e6));
            counts.push(counted);
        }
    }
    let step = progress.step("What the trace adds");
    let percent = compare(&without, &with, &step)?;
    step.done(&format!("{percent:.2} %"));
    if percent > MAX_PERCENT {
        bail!(
            "the trace adds {percent:.2} % instructions to the transfers, more than {MAX_PERCENT} %"
        );
    }
    Ok(())
}

/// What is recorded in a boot.
fn options(is_traced: bool, orders: &str) -> Vec<(String, String)> {
    let option = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    match (is_traced, orders) {
        (false, _) => option("oche.trace", "0"),
        (true, "") => Vec::new(),
        (true, orders) => option("oche.trace-orders", orders),
    }
}

fn total(counts: &TransferCosts) -> TransferCost {
    counts.iter().fold(TransferCost::default(), |sum, (_, count)| TransferCost {
        nanoseconds: sum.nanoseconds + count.nanoseconds,
        user: sum.user + count.user,
        kernel: sum.kernel + count.kernel,
        hypervisor: sum.hypervisor + count.hypervisor,
    })
}

/// Prints a line a step, and gives what the trace adds to all of them, in percent.
fn compare(without: &[TransferCosts], with: &[TransferCosts], step: &Step) -> Result<f64> {
    let names: Vec<&String> =
        without.first().context("no boot")?.iter().map(|(name, _)| name).collect();
    let column = |boots: &[TransferCosts], place: usize| -> Result<Vec<TransferCost>> {
        boots
            .iter()
            .map(|boot| Ok(boot.get(place).context("a boot counted fewer steps")?.1))
            .collect()
    };
    let sums = |boots: &[TransferCosts]| boots.iter().map(total).collect::<Vec<_>>();
    step.line(
        "millions:               EL0      EL1      EL2      all   spread |  traced EL2      all   \
         spread |  added",
    );
    for (place, name) in names.into_iter().enumerate() {
        step.line(&row(name, &column(without, place)?, &column(with, place)?));
    }
    let (without, with) = (sums(without), sums(with));
    step.line(&row("all", &without, &with));
    Ok(added(&without, &with))
}

fn row(name: &str, without: &[TransferCost], with: &[TransferCost]) -> String {
    let mean = |counts: &[TransferCost], of: fn(&TransferCost) -> u64| mean_of(counts, of) / 1e6;
    format!(
        "{name:18} {:8.1} {:8.1} {:8.1} {:8.1} {:6.2} % | {:11.1} {:8.1} {:6.2} % | {:5.2} %",
        mean(without, |count| count.user),
        mean(without, |count| count.kernel),
        mean(without, |count| count.hypervisor),
        mean(without, TransferCost::instructions),
        spread(without),
        mean(with, |count| count.hypervisor),
        mean(with, TransferCost::instructions),
        spread(with),
        added(without, with),
    )
}

fn mean_of(counts: &[TransferCost], of: fn(&TransferCost) -> u64) -> f64 {
    counts.iter().map(|count| of(count) as f64).sum::<f64>() / counts.len().max(1) as f64
}

/// From the least to the most, in percent of the mean.
fn spread(counts: &[TransferCost]) -> f64 {
    let all = || counts.iter().map(TransferCost::instructions);
    let (least, most) = (all().min().unwrap_or(0), all().max().unwrap_or(0));
    100.0 * (most - least) as f64 / mean_of(counts, TransferCost::instructions).max(1.0)
}

fn added(without: &[TransferCost], with: &[TransferCost]) -> f64 {
    100.0
        * (mean_of(with, TransferCost::instructions)
            / mean_of(without, TransferCost::instructions).max(1.0)
            - 1.0)
}

#[cfg(test)]
mod tests {
    use super::{added, options, spread};
    use crate::demo::transfers::TransferCost;

    #[test]
    fn a_boot_is_traced_as_asked() {
        let option = |name: &str, value: &str| [(name.to_owned(), value.to_owned())];
        assert_eq!(options(false, "callers on"), option("oche.trace", "0"));
        assert_eq!(options(true, "callers on"), option("oche.trace-orders", "callers on"));
        assert!(options(true, "").is_empty());
    }

    #[test]
    fn the_added_cost_is_computed_from_the_means() {
        let counts =
            |all: [u64; 2]| all.map(|user| TransferCost { user, ..TransferCost::default() });
        let (without, with) = (counts([90, 110]), counts([103, 107]));
        assert!((added(&without, &with) - 5.0).abs() < 1e-9);
        assert!((spread(&without) - 20.0).abs() < 1e-9);
    }
}
