//! The command line of `cargo xtask`.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::{check, demo, dist, fix, measure, mutants, nightly, pictures, run, setup, soak, test};

/// Builds, boots and checks Oche.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    work: Work,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// Boot a stock Debian kernel on Oche in QEMU, let every device do DMA, check every byte, and
    /// compare the time of transfers with that of the same machine without Oche
    Demo(demo::DemoOptions),
    /// Boot a kernel, initrd and devices of your own on Oche in QEMU, with a shell on its console
    Run(run::RunOptions),
    /// Run every test: host tests, the reference model, and the boots in QEMU
    Test(test::TestOptions),
    /// Run random programs on the engine and on the reference for as long as you like, and compare
    Soak(soak::SoakOptions),
    /// Check form, lints and documentation
    Check,
    /// Apply what can be mended by itself: lints, form, generated files; list what changed
    Fix(fix::FixOptions),
    /// Count what the trace costs, in instructions: an event at EL2, or what it adds to the demo's
    /// transfers (`job`)
    Measure {
        #[command(subcommand)]
        what: Option<measure::What>,
    },
    /// Make the documentation's picture of the report on a demo's trace
    Pictures(pictures::PicturesOptions),
    /// Apply seeded faults to a copy of the tree, and report the test that catches each
    Mutants(mutants::MutantArguments),
    /// Run what takes hours: soak, mutants, both demos, a fresh clone, a bare Debian
    Nightly(nightly::NightlyOptions),
    /// Make the archives of a release: static programs with the images for EL2 inside
    Dist(dist::DistOptions),
    /// Build Oche for EL2
    Build(setup::BuildOptions),
    /// Install what is missing and fetch the guest's kernel, driver and programs
    Setup(setup::SetupOptions),
}

/// The parser of the command line.
#[must_use]
pub fn parser() -> clap::Command {
    Arguments::command()
}

/// Parses the command line of this process and does what it asks for.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Arguments::parse().work {
        Work::Demo(options) => demo::main(&options),
        Work::Run(options) => run::main(&options),
        Work::Test(options) => test::main(&options),
        Work::Soak(options) => soak::main(&options),
        Work::Check => check::main(),
        Work::Fix(options) => fix::main(&options),
        Work::Measure { what } => measure::main(what.as_ref()),
        Work::Pictures(options) => pictures::main(&options),
        Work::Mutants(options) => mutants::main(&options),
        Work::Nightly(options) => nightly::main(&options),
        Work::Dist(options) => dist::main(&options),
        Work::Build(options) => setup::build(&options),
        Work::Setup(options) => setup::main(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, from the outermost context to the cause.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
