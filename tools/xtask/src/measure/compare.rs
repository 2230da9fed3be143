//! `cargo xtask measure compare`: what a DMA map and unmap cost on Oche, in instructions, against
//! the same kernel on an SMMUv3 with 4 KiB pages.
//!
//! `docs/measurements.md` says how it is measured, and has the recorded figures.

use std::path::PathBuf;

use anyhow::{Context, Result};
use oche::el2::Toolchain;
use oche::progress::{Progress, Step};

mod cases;
mod changes;
mod comparison;
mod costs;
mod devices;
mod guest;
mod recorded;
mod run;
mod versions;

use crate::measure::profile::counts::InstructionCounter;
use cases::MapCase;
use comparison::{CaseFigures, Comparison};
use devices::DeviceOptions;
use guest::CompareGuest;
pub(crate) use run::CountedCase;
use run::Setup;

/// Options of `cargo xtask measure compare`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
The same kernel, initrd and devices run on QEMU's SMMUv3, on Oche, on Oche that records no
callers, and on Oche without its trace. QEMU counts instructions as time, so two runs give the same figures.

With --devices, the guest of the demo makes one transfer after the other on one CPU: in a boot on
the SMMUv3 and one on Oche that count instructions, and then in pairs of boots whose time is taken.
Each boot is kept as it ends: a command that was stopped is continued by the next one, as long as
Oche, the guest and QEMU are the same.")]
pub struct CompareOptions {
    /// Compare transfers by the demo's devices instead of maps: instructions, and how long they
    /// take.
    #[arg(long, conflicts_with = "check")]
    pub devices: bool,
    /// How often to take the time of the devices' transfers on each machine.
    #[arg(long, requires = "devices", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=99))]
    pub runs: u32,
    /// Boot again for what earlier commands have measured of the devices.
    #[arg(long, requires = "devices")]
    pub anew: bool,
    /// Run only cases whose name contains WORD, such as `fresh 4 KiB`, or with --devices only such
    /// transfers, such as `usb`; may be repeated.
    #[arg(long, value_name = "WORD")]
    pub only: Vec<String>,
    /// Print one JSON document on standard output instead of tables.
    #[arg(long)]
    pub json: bool,
    /// Measure Oche only, with and without callers, and fail if a figure is more than 2 % worse
    /// than the recorded one, or the callers of a flush cost more than 300 instructions.
    #[arg(long, conflicts_with_all = ["json", "record"])]
    pub check: bool,
    /// Record the figures, and put them into docs/measurements.md.
    #[arg(long, conflicts_with = "only")]
    pub record: bool,
}

/// What is measured for a check against the recorded figures.
const CHECKED: [Setup; 2] = [Setup::Oche, Setup::WithoutCallers];

/// Measures, and prints the comparison.
///
/// # Errors
///
/// Something needed cannot be had, a run failed, or with `--check` a figure is worse than recorded.
pub fn main(options: &CompareOptions) -> Result<()> {
    if options.devices {
        return devices::main(&DeviceOptions {
            only: &options.only,
            runs: options.runs,
            anew: options.anew,
            json: options.json,
            record: options.record,
        });
    }
    let cases = MapCase::choose(&options.only)?;
    let setups: &[Setup] = if options.check { &CHECKED } else { &Setup::ALL };
    let progress = Progress::new(1 + setups.len() + usize::from(options.check));
    let comparison = measure(&cases, setups, &progress)?;
    if options.check {
        let step = progress.step("Against the recorded figures");
        let verdict = recorded::check(&comparison, &recorded::read()?, &step)?;
        step.done(&verdict);
        return Ok(());
    }
    if options.record {
        recorded::write(&comparison)?;
    }
    if options.json {
        print!("{}", comparison.json()?);
    } else {
        println!("\nInstructions of a map / an unmap, and at EL2 for both; events for both:\n");
        println!("{}\n{}", comparison.table(), comparison.trace_table());
        println!("Instructions at EL2 of an access to a page that is mapped more than once:\n");
        println!("{}", costs::table("access", &comparison.accesses));
        println!("Instructions at EL2 beside other tables:\n");
        println!("{}", costs::table("operation, and other tables in use", &comparison.flushes));
    }
    Ok(())
}

/// Measures Oche and compares all figures with the recorded ones, in the step of another command.
///
/// # Errors
///
/// Something needed cannot be had, the run failed, or a figure is worse than recorded.
pub(crate) fn check_recorded(step: &Step) -> Result<String> {
    let cases = MapCase::all();
    let (toolchain, prepared) = guest::prepare(&cases, step)?;
    let mut comparison = begin(&cases, toolchain, &prepared)?;
    for setup in CHECKED {
        add(&mut comparison, setup, &prepared, &cases, step)?;
    }
    recorded::check(&comparison, &recorded::read()?, step)
}

/// What a case costs.
#[derive(Clone, Debug)]
pub(crate) struct MapCost {
    /// The case's name.
    pub(crate) case: String,
    /// Size of a mapping.
    pub(crate) kib: u32,
    /// Instructions at EL2 of a map and its unmap.
    pub(crate) el2: f64,
}

/// Measures on Oche what each of the cases that are named costs at EL2.
///
/// # Errors
///
/// Something needed cannot be had, or the run failed.
pub(crate) fn map_costs(names: &[String], step: &Step) -> Result<Vec<MapCost>> {
    let cases = MapCase::choose(names)?;
    let (_, prepared) = guest::prepare(&cases, step)?;
    let figures = run::measure(&prepared, Setup::Oche, &cases, step)?;
    let costs = cases.iter().zip(figures.cases).map(|(case, figures)| {
        let el2 = figures.el2.with_context(|| format!("{case} spends nothing at EL2"))?;
        Ok(MapCost { case: case.to_string(), kib: case.kib, el2 })
    });
    costs.collect()
}

/// The names of all cases, in the order in which they run.
pub(crate) fn case_names() -> Vec<String> {
    MapCase::all().iter().map(MapCase::to_string).collect()
}

/// Counts what Oche executes at EL2 in each of the cases that are named. Gives the counts, and the
/// ELF file of Oche.
///
/// # Errors
///
/// Something needed cannot be had, or the run failed.
pub(crate) fn count_instructions(
    names: &[String],
    step: &Step,
) -> Result<(Vec<CountedCase>, PathBuf)> {
    let cases = MapCase::choose(names)?;
    let (_, prepared) = guest::prepare(&cases, step)?;
    let counter = InstructionCounter::new(&prepared.oche, &prepared.folder, step)?;
    Ok((run::profile(&prepared, &counter, &cases, step)?, prepared.oche))
}

fn measure(cases: &[MapCase], setups: &[Setup], progress: &Progress) -> Result<Comparison> {
    let step = progress.step("Oche, the guest and its benchmark");
    let (toolchain, prepared) = guest::prepare(cases, &step)?;
    let mut comparison = begin(cases, toolchain, &prepared)?;
    step.done(&prepared.folder.display().to_string());
    for setup in setups {
        let step = progress.step(&format!("{} cases: {}", cases.len(), setup.title()));
        add(&mut comparison, *setup, &prepared, cases, &step)?;
        step.done("");
    }
    Ok(comparison)
}

/// A comparison without figures.
fn begin(cases: &[MapCase], toolchain: Toolchain, prepared: &CompareGuest) -> Result<Comparison> {
    let cases =
        cases.iter().map(|case| CaseFigures { case: case.to_string(), ..Default::default() });
    Ok(Comparison {
        kernel: versions::kernel(&prepared.kernel),
        compiler: versions::compiler(toolchain)?,
        qemu: versions::qemu()?,
        cases: cases.collect(),
        accesses: Vec::new(),
        flushes: Vec::new(),
    })
}

/// Measures `setup`, and adds its figures.
fn add(
    comparison: &mut Comparison,
    setup: Setup,
    prepared: &CompareGuest,
    cases: &[MapCase],
    step: &Step,
) -> Result<()> {
    let measured = run::measure(prepared, setup, cases, step)?;
    costs::add(&mut comparison.accesses, setup, measured.accesses)?;
    if setup == Setup::Oche {
        costs::check_growth(&measured.flushes)?;
    }
    costs::add(&mut comparison.flushes, setup, measured.flushes)?;
    for (case, figures) in comparison.cases.iter_mut().zip(measured.cases) {
        case.set(setup, figures);
    }
    Ok(())
}
