//! `oche`: what a person runs to look at Oche at work.

use clap::{Parser, Subcommand};
use oche_tools::trace::command::TraceArguments;

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
}

fn main() -> std::process::ExitCode {
    let Command::Trace(arguments) = Arguments::parse().command;
    match arguments.run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("oche: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
