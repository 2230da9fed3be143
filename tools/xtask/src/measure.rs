//! `cargo xtask measure`: what the trace costs, in instructions, counted and not timed.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use oche::el2::{self, Toolchain};
use oche::pack::{self, GuestFiles};
use oche::progress::Progress;
use oche::workspace;

use crate::hostile;
use crate::qemu::{QemuMachine, RunEnding, Running, Serial, Wish};

pub mod compare;
pub mod job;
pub mod memory;
pub mod profile;
mod transfers;

/// What to measure.
#[derive(Clone, Debug, Default, clap::Subcommand)]
pub enum What {
    /// Instructions that an event costs at EL2, by kind.
    #[default]
    Events,
    /// Instructions that the trace adds to transfers by the demo's devices.
    Job(job::JobOptions),
    /// Compare a DMA map and unmap on Oche with the same kernel on an SMMUv3, in instructions.
    Compare(compare::CompareOptions),
    /// Name the functions of Oche's that the instructions of a DMA map and unmap go to.
    Profile(profile::ProfileOptions),
    /// Show how much memory Oche takes, and how many instructions its boot takes.
    Memory(memory::MemoryOptions),
}

/// Carries out `cargo xtask measure`.
///
/// # Errors
///
/// A build or a run failed, or a bound is not kept.
pub fn main(what: Option<&What>) -> Result<()> {
    match what {
        None | Some(What::Events) => events(),
        Some(What::Job(options)) => job::main(options),
        Some(What::Compare(options)) => compare::main(options),
        Some(What::Profile(options)) => profile::main(options),
        Some(What::Memory(options)) => memory::main(options),
    }
}

/// How long the run may take: a second, mostly.
const LIMIT: Duration = Duration::from_secs(60);
/// More than this, and `docs/trace.md` is wrong.
const MAX_INSTRUCTIONS: f64 = 100.0;

/// Measures, prints a line a kind, and checks the bound.
fn events() -> Result<()> {
    let progress = Progress::new(1);
    let step = progress.step("Instructions per event");
    let toolchain = Toolchain::choose(&step)?;
    let kernel = hostile::flat_guest(toolchain, &step)?;
    let oche = el2::build(toolchain, &["measure-trace"], &step)?;
    let folder = workspace::target().join("measure");
    workspace::create_folder(&folder)?;
    let packed = folder.join("oche.img");
    pack::pack(&oche, &GuestFiles { kernel, initrd: None, options: Vec::new() }, &packed)?;
    let machine = QemuMachine {
        cpu: "cortex-a76".into(),
        cpus: 1,
        memory_mib: 1024,
        kernel: packed,
        initrd: None,
        append: String::new(),
        serial: Serial::Watched,
        // An instruction takes a nanosecond of the machine's own time, however long it takes here.
        arguments: ["-icount", "shift=0,sleep=off"].map(Into::into).to_vec(),
    };
    let mut running = Running::start(&machine, &folder.join("console.log"))?;
    let mut costs = Vec::new();
    let ending = running.watch(LIMIT, |_, line| {
        costs.extend(parse(&line.text));
        Ok(Wish::GoOn)
    })?;
    if ending != RunEnding::PoweredOff || costs.is_empty() {
        bail!("the measurement: {ending}; see {}", folder.join("console.log").display());
    }
    for (kind, instructions) in &costs {
        step.line(&format!("{kind:12} {instructions:6.1} instructions"));
    }
    let (kind, most) = costs
        .iter()
        .max_by(|one, other| one.1.total_cmp(&other.1))
        .context("nothing was measured")?;
    if *most > MAX_INSTRUCTIONS {
        bail!("an event ({kind}) costs {most:.1} instructions, more than {MAX_INSTRUCTIONS}");
    }
    step.done(&format!("at most {most:.1}"));
    Ok(())
}

/// `oche: measured: map 294912 per 4096 events`: the kind, and nanoseconds, thus instructions, an
/// event.
fn parse(line: &str) -> Option<(String, f64)> {
    let (_, measured) = line.split_once("measured: ")?;
    let (kind, rest) = measured.split_once(' ')?;
    let (taken, rest) = rest.split_once(" per ")?;
    let events: f64 = rest.strip_suffix(" events")?.parse().ok()?;
    Some((kind.to_owned(), taken.parse::<f64>().ok()? / events))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_line_of_the_measurement_is_understood_and_others_are_not() {
        assert_eq!(parse("oche: measured: map 8192 per 4096 events"), Some(("map".into(), 2.0)));
        assert_eq!(parse("oche: measured: all"), None);
        assert_eq!(parse("oche: Oche 0.1.0 on qemu-virt"), None);
    }
}
