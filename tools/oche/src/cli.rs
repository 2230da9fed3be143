//! The command line of `oche`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::decode_panic::command::DecodePanicArguments;
use crate::inspect::command::InspectArguments;
use crate::install::command::{InstallArguments, StatusArguments, UninstallArguments};
use crate::kernel_check::command::CheckKernelArguments;
use crate::pack::command::PackArguments;
use crate::probe::ProbeArguments;
use crate::schema::SchemaArguments;
use crate::trace::command::TraceArguments;
use crate::trace::extcap;
use crate::version;

/// See what every device behind a DART may reach, since when, and by which code.
#[derive(Debug, Parser)]
#[command(name = "oche", version = version::SHORT, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Record, read and sum up what devices did to memory
    Trace(TraceArguments),
    /// Pack Oche, a kernel, an initrd and options into one arm64 Image
    Pack(PackArguments),
    /// List which devices of an M1 Mac a kernel can drive, and what is missing
    CheckKernel(CheckKernelArguments),
    /// List the contents of a packed image, or of m1n1's boot.bin
    Inspect(InspectArguments),
    /// Put Oche and U-Boot into m1n1's boot.bin, by the distribution's update-m1n1
    Install(InstallArguments),
    /// Show whether Oche is installed and whole, and what to do if it is not
    Status(StatusArguments),
    /// Put back the boot.bin and the settings from before `oche install`
    Uninstall(UninstallArguments),
    /// Write an image that only measures an M1, or read its report back
    Probe(ProbeArguments),
    /// Name the functions that a panic of Oche went through
    DecodePanic(DecodePanicArguments),
    /// Print the JSON Schema of what a command's --json prints
    Schema(SchemaArguments),
}

/// The parser of the command line.
#[must_use]
pub fn parser() -> clap::Command {
    Arguments::command()
}

/// Parses the command line of this process and does what it asks for.
#[must_use]
pub fn main() -> ExitCode {
    if extcap::is_asked_for(std::env::args_os()) {
        return match extcap::main(std::env::args_os()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        };
    }
    let command = match parser_with_long_version() {
        Ok(parser) => {
            Arguments::from_arg_matches(&parser.get_matches())
                .unwrap_or_else(|error| error.exit())
                .command
        }
        Err(error) => return failed(&error),
    };
    let done = |()| ExitCode::SUCCESS;
    let result = match command {
        Command::Trace(arguments) => arguments.run(),
        Command::Pack(arguments) => arguments.run().map(done),
        Command::CheckKernel(arguments) => arguments.run(),
        Command::Inspect(arguments) => arguments.run(),
        Command::Install(arguments) => arguments.run(),
        Command::Status(arguments) => arguments.run(),
        Command::Uninstall(arguments) => arguments.run(),
        Command::Probe(arguments) => arguments.run(),
        Command::DecodePanic(arguments) => arguments.run().map(done),
        Command::Schema(arguments) => arguments.run().map(done),
    };
    match result {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

/// The parser, with the images that this program carries in its version if it is asked for: they
/// are expanded for that.
fn parser_with_long_version() -> Result<clap::Command> {
    let parser = parser();
    Ok(match std::env::args_os().any(|argument| argument == "--version") {
        true => parser.long_version(&*version::long()?.leak()),
        false => parser,
    })
}

fn failed(error: &anyhow::Error) -> ExitCode {
    crate::message!("oche: {error:#}");
    // 1 means that a check found something.
    ExitCode::from(2)
}
