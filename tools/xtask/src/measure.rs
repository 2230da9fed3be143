//! `cargo xtask measure`: what the trace costs, in instructions, counted and not timed.

use anyhow::{Context, Result, bail};
use oche::el2::Toolchain;
use oche::progress::Progress;

pub mod compare;
pub mod floor;
pub mod job;
pub mod memory;
mod page;
mod parts;
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
    /// Compare a DMA map and unmap, or transfers by devices, on Oche and with the same kernel on an
    /// SMMUv3.
    Compare(compare::CompareOptions),
    /// Name the functions of Oche's that the instructions of a DMA map and unmap, or of a transfer
    /// by a device, go to.
    Profile(profile::ProfileOptions),
    /// Show how much memory Oche takes, and how many instructions its boot takes.
    Memory(memory::MemoryOptions),
    /// Measure what an exit and the parts of a flush cost, and what they make of a map and unmap.
    Floor(floor::FloorOptions),
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
        Some(What::Floor(options)) => floor::main(options),
    }
}

/// More than this, and `docs/trace.md` is wrong.
const MAX_INSTRUCTIONS: f64 = 100.0;

/// Measures, prints a line a kind, and checks the bound.
fn events() -> Result<()> {
    let progress = Progress::new(1);
    let step = progress.step("Instructions per event");
    let costs = parts::at_el2(Toolchain::choose(&step)?, &step)?;
    let costs: Vec<_> = costs
        .iter()
        .filter_map(|(name, cost)| Some((name.strip_prefix(parts::EVENT)?, *cost)))
        .collect();
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
