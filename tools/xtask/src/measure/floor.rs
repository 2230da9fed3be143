//! `cargo xtask measure floor`: what a DMA map and unmap must cost at EL2, against what they cost.
//!
//! The floor of a case is the sum of the parts that it cannot do without, each of which is measured
//! by itself. `docs/measurements.md` says which parts these are, and has the recorded table.

use anyhow::{Context, Result};
use oche::el2::Toolchain;
use oche::progress::Progress;

mod table;
mod work;

use super::{compare, page, parts};
use work::Floor;

/// The cases, one of each size.
const CASES: [&str; 4] = [
    "reused 4 KiB bidirectional",
    "reused 8 KiB bidirectional",
    "reused 16 KiB bidirectional",
    "reused 64 KiB bidirectional",
];

/// Options of `cargo xtask measure floor`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
QEMU counts instructions as time, so two runs give the same figures. The parts are measured with the
code that a flush uses: if it becomes faster, the floor becomes lower.")]
pub struct FloorOptions {
    /// Print one JSON document on standard output instead of tables.
    #[arg(long)]
    pub json: bool,
    /// Put the tables into docs/measurements.md.
    #[arg(long)]
    pub record: bool,
}

/// Measures, and prints the tables.
///
/// # Errors
///
/// Something needed cannot be had, a run failed, or a cost was not measured.
pub fn main(options: &FloorOptions) -> Result<()> {
    let progress = Progress::new(3);
    let step = progress.step("Parts of a flush, at EL2");
    let toolchain = Toolchain::choose(&step)?;
    let mut costs = parts::at_el2(toolchain, &step)?;
    step.done("");
    let step = progress.step("Exits from a guest");
    costs.extend(parts::of_exits(toolchain, &step)?);
    step.done("");
    let step = progress.step(&format!("{} cases of a map and unmap", CASES.len()));
    let measured = compare::map_costs(&CASES.map(str::to_owned), &step)?;
    step.done("");
    let floor = Floor::new(costs, &measured)?;
    if options.record {
        page::put_tables(&table::marked(&floor)?)?;
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&floor).context("the floor")?);
    } else {
        let tables: Vec<String> =
            table::marked(&floor)?.into_iter().map(|(_, table)| table).collect();
        println!("\nInstructions at EL2:\n\n{}", tables.join("\n"));
    }
    Ok(())
}
