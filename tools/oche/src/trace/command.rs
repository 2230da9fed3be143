//! `oche trace ...`: its arguments and what they do.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use oche_types::event::Kind;

use super::clock::{ClockName, ClockOptions};
use super::control::FilterArguments;
use super::filter::KindSet;
use super::filter::options::EventOptions;
use super::live::LiveArguments;
use super::output::{write_json, write_text};
use super::summary::{summarize, summarize_chosen, write_summary};
use super::symbols::SymbolOptions;
use crate::output::to_standard_output;
use answers::{CheckArguments, LeaksArguments, MapsArguments, WhyArguments};
use exports::{CtfArguments, FoldedArguments, PcapngArguments, PerfettoArguments, ReportArguments};
use files::open;
use record::RecordArguments;
use symbols::SymbolsArguments;

mod answers;
mod exports;
mod files;
mod follow;
mod record;
mod symbols;

/// Record, read and sum up what devices did to memory.
#[derive(Debug, Args)]
pub struct TraceArguments {
    #[command(subcommand)]
    command: TraceCommand,
}

#[derive(Debug, Subcommand)]
enum TraceCommand {
    /// Print one line an event, in ftrace's manner
    Text(TextArguments),
    /// Count events by kind, CPU and device, losses, and the hypervisor's counters
    Stats(StatsArguments),
    /// Explain who owned an IOVA, what became of it, and why an access failed
    Why(WhyArguments),
    /// List what is mapped at one moment
    Maps(MapsArguments),
    /// List what is still mapped at the end, and mark what looks leaked
    Leaks(LeaksArguments),
    /// Find DMA errors
    Check(CheckArguments),
    /// Write one page of HTML with pictures of the trace
    Report(ReportArguments),
    /// Write a trace for Perfetto's viewer
    Perfetto(PerfettoArguments),
    /// Write what was mapped as folded stacks, for flame graphs
    Folded(FoldedArguments),
    /// Write a trace for Wireshark, or install Wireshark's profile for it
    Pcapng(PcapngArguments),
    /// Write a trace in the Common Trace Format, for babeltrace2 and Trace Compass
    Ctf(CtfArguments),
    /// Record a running guest's events from its RAM file
    Record(RecordArguments),
    /// Print the names of the guest's code that a trace has, or add some
    Symbols(SymbolsArguments),
    /// Watch a running guest's DMA on a screen of the terminal
    Live(LiveArguments),
    /// Choose what a running guest's trace records, while it runs
    Filter(FilterArguments),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  oche trace text boot.oche | grep ' map:'          every page that became reachable
  oche trace text boot.oche --kind io_page_fault    every access that was refused
  oche trace text boot.oche --device 00:01.0        all about one device
  oche trace text boot.oche --from 12.5 --to 12.6   a tenth of a second
  oche trace text boot.oche --json | jq .iova       for scripts
  oche trace text --follow target/run/guest.ram     as it happens, from a running guest

Each line: CPU, seconds since Oche's start, event, its fields, then dart, stream, device, pc (the guest's
code that caused it) and seq (the event's number on its CPU); with --symbols, code names the function. `CPU:2 [LOST 10 EVENTS]` marks a gap.
map, unmap and io_page_fault begin with the fields of Linux's events of these names.")]
struct TextArguments {
    /// The trace file, or - for standard input
    file: PathBuf,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    /// Print events as they come: from a trace that is being written, a running guest's RAM
    /// file, the port in the guest, or -; until a signal or the end of the pipe
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    events: EventOptions,
    #[command(flatten)]
    symbols: SymbolOptions,
    #[command(flatten)]
    clock: ClockOptions,
}

#[derive(Debug, Args)]
struct StatsArguments {
    /// The trace file, or - for standard input
    file: PathBuf,
    /// Print JSON: a list with an object for each boot of Oche in the trace
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    events: EventOptions,
    #[command(flatten)]
    symbols: SymbolOptions,
}

impl TraceArguments {
    /// Carries out the command.
    ///
    /// # Errors
    ///
    /// A file could not be read or written, or is no trace.
    pub fn run(&self) -> Result<ExitCode> {
        match &self.command {
            TraceCommand::Text(arguments) => arguments.run()?,
            TraceCommand::Stats(arguments) => arguments.run()?,
            TraceCommand::Why(arguments) => arguments.run()?,
            TraceCommand::Maps(arguments) => arguments.run()?,
            TraceCommand::Leaks(arguments) => arguments.run()?,
            TraceCommand::Check(arguments) => return arguments.run(),
            TraceCommand::Report(arguments) => arguments.run()?,
            TraceCommand::Perfetto(arguments) => arguments.run()?,
            TraceCommand::Folded(arguments) => arguments.run()?,
            TraceCommand::Pcapng(arguments) => arguments.run()?,
            TraceCommand::Ctf(arguments) => arguments.run()?,
            TraceCommand::Record(arguments) => return arguments.run(),
            TraceCommand::Symbols(arguments) => arguments.run()?,
            TraceCommand::Live(arguments) => arguments.run()?,
            TraceCommand::Filter(arguments) => arguments.run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl TextArguments {
    fn run(&self) -> Result<()> {
        let left_out = if self.follow {
            let symbols = self.symbols.load()?;
            if self.clock.clock != ClockName::Oche {
                bail!(
                    "--follow prints Oche's clock: what another one stands at is known of a trace that has ended"
                );
            }
            let filter = self.events.unchecked(&symbols, Some(Kind::Access))?;
            follow::follow(&self.file, &filter, &symbols, self.json)?
        } else {
            self.print()?
        };
        if left_out > 0 {
            crate::message!(
                "oche: trapped accesses left out: {left_out}; --all or --kind +access shows them"
            );
        }
        Ok(())
    }
}

impl TextArguments {
    /// Prints a trace that is whole; returns how many trapped accesses were left out by default.
    fn print(&self) -> Result<u64> {
        let mut trace = open(&self.file)?;
        self.clock.apply(&mut trace)?;
        let symbols = &self.symbols.load_for(&trace, None)?;
        let filter = self.events.filter(&trace, symbols, Some(Kind::Access))?;
        let mut left_out = 0;
        to_standard_output(|out| {
            left_out = if self.json {
                write_json(&trace, &filter, symbols, out)?
            } else {
                write_text(&trace, &filter, symbols, out)?
            };
            Ok(())
        })?;
        Ok(left_out)
    }
}

impl StatsArguments {
    fn run(&self) -> Result<()> {
        let trace = open(&self.file)?;
        let symbols = self.symbols.load_for(&trace, None)?;
        let filter = self.events.filter(&trace, &symbols, None)?;
        let summaries = match filter.is_any() && filter.kinds == KindSet::ALL {
            true => summarize(&trace),
            false => summarize_chosen(&trace, &filter, &symbols),
        };
        to_standard_output(|out| {
            if self.json {
                serde_json::to_writer_pretty(&mut *out, &summaries)?;
                return writeln!(out);
            }
            for (index, summary) in summaries.iter().enumerate() {
                if summaries.len() > 1 {
                    writeln!(out, "{}boot {}", if index > 0 { "\n" } else { "" }, index + 1)?;
                }
                write_summary(summary, out)?;
            }
            Ok(())
        })
    }
}
