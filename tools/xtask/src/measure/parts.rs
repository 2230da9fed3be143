//! What an exit, the parts of a flush and the trace's events cost, in instructions: two boots that
//! measure themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oche::el2::{self, Toolchain};
use oche::pack::{self, GuestFiles};
use oche::progress::Step;
use oche::workspace;

use crate::hostile;
use crate::qemu::{QemuMachine, RunEnding, Running, Serial, Wish};

/// Instructions by the name of what costs them.
pub(super) type Costs = BTreeMap<String, f64>;

/// What the names of the trace's events begin with.
pub(super) const EVENT: &str = "event-";
/// How long a run may take: a second, mostly.
const LIMIT: Duration = Duration::from_secs(60);
/// A clock of 1 GHz: a tick is an instruction.
const CPU: &str = "cortex-a76,cntfrq=1000000000";

/// Measures events and parts, which an Oche that is built for this carries out in loops at EL2.
///
/// # Errors
///
/// A build or the run failed.
pub(super) fn at_el2(toolchain: Toolchain, step: &Step) -> Result<Costs> {
    let oche = el2::build(toolchain, &["measure"], step)?;
    boot("parts", &oche, toolchain, 1, &[], step)
}

/// Measures exits, which a guest makes: the instructions at EL2 alone.
///
/// # Errors
///
/// As [`at_el2`].
pub(super) fn of_exits(toolchain: Toolchain, step: &Step) -> Result<Costs> {
    let oche = el2::build(toolchain, &[], step)?;
    // One CPU makes them. Others use another DART while it makes the last.
    boot("exits", &oche, toolchain, 4, &[("oche.bootargs", "hostile=exits")], step)
}

fn boot(
    name: &str,
    oche: &std::path::Path,
    toolchain: Toolchain,
    cpus: u32,
    options: &[(&str, &str)],
    step: &Step,
) -> Result<Costs> {
    let kernel = hostile::flat_guest(toolchain, step)?;
    let folder = workspace::target().join("measure");
    workspace::create_folder(&folder)?;
    let packed = folder.join(format!("{name}.img"));
    let options = options.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    pack::pack(oche, &GuestFiles { kernel, initrd: None, options }, &packed)?;
    let machine = QemuMachine {
        cpu: CPU.into(),
        cpus,
        memory_mib: 1024,
        kernel: packed,
        initrd: None,
        append: String::new(),
        serial: Serial::Watched,
        // An instruction takes a nanosecond of the machine's own time, however long it takes here.
        arguments: ["-icount", "shift=0,sleep=off"].map(Into::into).to_vec(),
    };
    let log = folder.join(format!("{name}.log"));
    let mut running = Running::start(&machine, &log)?;
    let (mut costs, mut is_complete) = (Costs::new(), false);
    let ending = running.watch(LIMIT, |_, line| {
        costs.extend(parse(&line.text));
        is_complete |= line.text.ends_with("measured: all") || line.text.ends_with("measured all");
        Ok(Wish::GoOn)
    })?;
    let is_good = ending == RunEnding::PoweredOff && is_complete;
    ensure!(is_good, "the measurement: {ending}; see {}", log.display());
    Ok(costs)
}

/// `oche: measured: event-map 294912 per 4096`: the name, and the instructions of one.
fn parse(line: &str) -> Option<(String, f64)> {
    let (_, measured) = line.split_once("measured: ")?;
    let (name, rest) = measured.split_once(' ')?;
    let (taken, turns) = rest.split_once(" per ")?;
    let (taken, turns): (f64, f64) = (taken.parse().ok()?, turns.trim_end().parse().ok()?);
    Some((name.to_owned(), taken / turns))
}

/// The cost of what is called `name`.
///
/// # Errors
///
/// It was not measured.
pub(super) fn cost(costs: &Costs, name: &str) -> Result<f64> {
    costs.get(name).copied().with_context(|| format!("the cost of `{name}` was not measured"))
}

#[cfg(test)]
mod tests {
    use super::{Costs, cost, parse};

    #[test]
    fn a_line_of_the_measurement_is_understood_and_others_are_not() {
        let parsed = parse("oche: measured: event-map 8192 per 4096");
        assert_eq!(parsed, Some(("event-map".into(), 2.0)));
        assert_eq!(parse("guest: measured: hvc 512 per 256\r"), Some(("hvc".into(), 2.0)));
        for other in ["oche: measured: all", "oche: Oche 0.1.0 on qemu-virt", "measured: a b per 1"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_cost_that_was_not_measured_is_an_error() {
        let costs = Costs::from([("hvc".to_owned(), 2.0)]);
        assert!(cost(&costs, "hvc").is_ok_and(|hvc| hvc == 2.0));
        let error = cost(&costs, "smc").unwrap_err().to_string();
        assert_eq!(error, "the cost of `smc` was not measured");
    }
}
