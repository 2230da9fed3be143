//! `cargo xtask`: builds, boots and checks Oche.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{check, demo, measure, mutants, pictures, run, setup, soak, test};

/// Builds, boots and checks Oche.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    work: Work,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// Boot a stock Debian kernel on Oche in QEMU, let every device do DMA, and check every byte.
    Demo(demo::Options),
    /// Boot a kernel, initrd and devices of your own on Oche in QEMU, with a shell on its console.
    Run(run::Options),
    /// Run every test: host tests, the reference model, and the boot.
    Test(test::Options),
    /// Run random programs on the engine and on the reference for as long as you like, and compare.
    Soak(soak::Options),
    /// Check form, lints and documentation.
    Check,
    /// Count what the trace costs, in instructions: an event at EL2, or what it adds to the demo's
    /// work (`job`)
    Measure {
        #[command(subcommand)]
        what: Option<measure::What>,
    },
    /// Make the documentation's picture of the report on a demo's trace.
    Pictures(pictures::Options),
    /// Make mistakes on purpose in a copy of the tree, and say which test finds each.
    Mutants(mutants::Options),
    /// Build Oche for EL2.
    Build(setup::BuildOptions),
    /// Install what is missing and fetch the guest's kernel, driver and programs.
    Setup(setup::SetupOptions),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().work {
        Work::Demo(options) => demo::main(&options),
        Work::Run(options) => run::main(&options),
        Work::Test(options) => test::main(&options),
        Work::Soak(options) => soak::main(&options),
        Work::Check => check::main(),
        Work::Measure { what } => measure::main(what.as_ref()),
        Work::Pictures(options) => pictures::main(&options),
        Work::Mutants(options) => mutants::main(&options),
        Work::Build(options) => setup::build(&options),
        Work::Setup(options) => setup::main(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line: the outermost words say what, the innermost say why.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
