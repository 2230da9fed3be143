//! `oche`: what a person runs to make an image of Oche and to look at Oche at work.

use clap::{Parser, Subcommand};
use oche::pack::command::{InspectArguments, PackArguments};
use oche::trace::command::TraceArguments;

/// See what every device behind a DART may reach, since when, and by which code.
#[derive(Debug, Parser)]
#[command(name = "oche", version, propagate_version = true)]
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
    /// Say what is inside a packed image
    Inspect(InspectArguments),
}

fn main() -> std::process::ExitCode {
    let done = |()| std::process::ExitCode::SUCCESS;
    let result = match Arguments::parse().command {
        Command::Trace(arguments) => arguments.run(),
        Command::Pack(arguments) => arguments.run().map(done),
        Command::Inspect(arguments) => arguments.run().map(done),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            oche::say!("oche: {error:#}");
            // 1 says that a check found something.
            std::process::ExitCode::from(2)
        }
    }
}
