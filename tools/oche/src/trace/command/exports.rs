//! `oche trace perfetto|pcapng|ctf|report|folded`: a trace as a file for other programs.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::destination::{beside, refuse_input, write_file};
use crate::output::to_standard_output;
use crate::shell::quoted_path;

use super::super::align::align;
use super::super::clock::ClockOptions;
use super::super::ctf::write_ctf;
use super::super::filter::options::{ChoiceOptions, EventOptions};
use super::super::folded::{FoldedBy, write_folded};
use super::super::ftrace::Ftrace;
use super::super::pcapng::write_pcapng;
use super::super::perfetto::{GuestTrace, write_merged};
use super::super::reader::TraceFile;
use super::super::report::{ReportedFile, write_report};
use super::super::symbols::SymbolOptions;
use super::super::wireshark::Folders;
use super::super::words::{many, size, span};
use super::answers::{Input, open_boot};
use super::files::is_standard;

#[derive(Debug, Args)]
#[command(after_help = "\
Open the file at https://ui.perfetto.dev (nothing leaves your machine) or in an installed viewer. A process a DART, a
track a stream: each mapped buffer is a slice from map to unmap, with its address, guest page and code; counters for
mapped bytes, placement and flushes a second; faults as instants. With --ftrace, the guest's CPUs and tasks.")]
pub(super) struct PerfettoArguments {
    #[command(flatten)]
    input: Input,
    /// Write this file, or standard output for - [default: the trace's name with
    /// .perfetto-trace for .oche]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    choice: ChoiceOptions,
    #[command(flatten)]
    symbols: SymbolOptions,
    /// Merge the guest's own trace, with iommu events in it: text of /sys/kernel/tracing/trace or
    /// `trace-cmd report`
    #[arg(long, value_name = "FILE")]
    ftrace: Option<PathBuf>,
    /// Take ftrace's clock to stand at this many seconds at Oche's start, instead of aligning it
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, requires = "ftrace")]
    clock_offset: Option<f64>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Once, to teach Wireshark and tshark what these packets are:
  oche trace pcapng --wireshark-profile
Then:
  oche trace pcapng boot.oche && wireshark -C Oche boot.pcapng
  tshark -r boot.pcapng -Y 'oche.event == \"io_page_fault\"' -T fields -e oche.device -e oche.iova
Live, from a guest that runs (docs/trace.md, \"Live capture in Wireshark\"):
  wireshark -C Oche -k -i oche                      # the first guest that is found
  tshark -C Oche -i oche -o extcap.oche.source:target/run/guest.ram")]
pub(super) struct PcapngArguments {
    /// The trace file, or - for standard input
    #[arg(required_unless_present = "wireshark_profile")]
    file: Option<PathBuf>,
    /// Choose this boot of Oche where the trace has several [default: the last]
    #[arg(long, value_name = "NUMBER")]
    boot: Option<usize>,
    /// Write this file, or standard output for - [default: the trace's name with .pcapng for .oche]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    events: EventOptions,
    #[command(flatten)]
    symbols: SymbolOptions,
    /// Install the dissector, the profile `Oche` and a link to this program for live capture: for
    /// you, or with =DIR in that home folder (then used with HOME=DIR). Wireshark 4.4 ignores a
    /// user's dissectors if root starts it
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true)]
    wireshark_profile: Option<Option<PathBuf>>,
}

impl PcapngArguments {
    pub(super) fn run(&self) -> Result<()> {
        if let Some(folder) = &self.wireshark_profile {
            let program = std::env::current_exe().context("finding this program's file")?;
            for path in Folders::find(folder.as_deref())?.install(&program)? {
                crate::message!("{}", path.display());
            }
        }
        let Some(file) = &self.file else { return Ok(()) };
        let (trace, session) = open_boot(file, self.boot)?;
        let symbols = self.symbols.load_for(&trace, Some(session))?;
        let path = output(self.output.as_deref(), file, "pcapng", &self.symbols)?;
        let filter = self.events.filter(&trace, &symbols, None)?;
        export(&path, |mut out| write_pcapng(&trace, session, &filter, &symbols, &mut out))
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  oche trace ctf boot.oche && babeltrace2 boot.ctf
  oche trace ctf boot.oche -o /tmp/dma --kind map,unmap,io_page_fault
  babeltrace2 boot.ctf lttng-kernel-trace/       with another tracer's events, in one order of time

A folder with a description (metadata) and a stream a CPU (cpu0, ...), in the Common Trace Format 1.8: babeltrace2 and
Trace Compass read it. Lost events are each packet's discarded events. An earlier export is replaced, nothing else is.")]
pub(super) struct CtfArguments {
    #[command(flatten)]
    input: Input,
    /// Write this folder [default: the trace's name with .ctf for .oche]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    #[command(flatten)]
    events: EventOptions,
    #[command(flatten)]
    symbols: SymbolOptions,
}

impl CtfArguments {
    pub(super) fn run(&self) -> Result<()> {
        if self.output.as_deref().is_some_and(is_standard) {
            bail!("a CTF trace is a folder, not a stream: name one with --output");
        }
        let (trace, session) = self.input.open()?;
        let symbols = self.symbols.load_for(&trace, Some(session))?;
        let path = output(self.output.as_deref(), &self.input.file, "ctf", &self.symbols)?;
        let filter = self.events.filter(&trace, &symbols, None)?;
        let written = write_ctf(&trace, session, &filter, &symbols, &path)?;
        crate::message!(
            "{}: {} of {}, {} lost; {}",
            path.display(),
            many(written.events, "event"),
            many(written.streams, "CPU"),
            written.lost,
            size(written.bytes)
        );
        Ok(())
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
One self-contained page: what `oche trace check` finds and the events around it, mapped memory and the IOVA space over time,
lifetimes, events by code. It zooms in time and filters by device. Nothing is loaded from anywhere; it can be sent by mail.")]
pub(super) struct ReportArguments {
    #[command(flatten)]
    input: Input,
    /// Write this file, or standard output for - [default: the trace's name with .html for .oche]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    choice: ChoiceOptions,
    #[command(flatten)]
    symbols: SymbolOptions,
    #[command(flatten)]
    clock: ClockOptions,
}

impl ReportArguments {
    pub(super) fn run(&self) -> Result<()> {
        let (mut trace, session) = self.input.open()?;
        self.clock.apply(&mut trace)?;
        let symbols = self.symbols.load_for(&trace, Some(session))?;
        let filter = self.choice.filter(&trace, &symbols)?;
        let path = output(self.output.as_deref(), &self.input.file, "html", &self.symbols)?;
        let file = ReportedFile::new(&self.input.file.to_string_lossy(), self.why_options())
            .in_clock(self.clock.clock);
        export(&path, |mut out| write_report(&trace, session, &file, &filter, &symbols, &mut out))
    }
}

impl ReportArguments {
    /// The options of `oche trace why` that make it read what this report reads.
    fn why_options(&self) -> Vec<(&'static str, String)> {
        let path = |path: &PathBuf| quoted_path(&path.to_string_lossy());
        let boot = self.input.boot.map(|boot| ("--boot", boot.to_string()));
        let symbols = self.symbols.symbols.as_ref().map(|of| ("--symbols", path(of)));
        let vmlinux = self.symbols.vmlinux.as_ref().map(|of| ("--vmlinux", path(of)));
        let offset = self.symbols.kaslr_offset;
        let offset = (offset != 0).then(|| ("--kaslr-offset", format!("{offset:#x}")));
        let given = boot.into_iter().chain(symbols).chain(vmlinux).chain(offset);
        given.chain(self.clock.options()).collect()
    }
}

impl PerfettoArguments {
    pub(super) fn run(&self) -> Result<()> {
        let (trace, session) = self.input.open()?;
        let symbols = self.symbols.load_for(&trace, Some(session))?;
        let filter = self.choice.filter(&trace, &symbols)?;
        let path =
            output(self.output.as_deref(), &self.input.file, "perfetto-trace", &self.symbols)?;
        if let Some(ftrace) = &self.ftrace {
            refuse_input(&path, [ftrace.as_path()])?;
        }
        let ftrace = self.ftrace.as_deref().map(Ftrace::open).transpose()?;
        let guest =
            ftrace.as_ref().map(|ftrace| self.guest(ftrace, &trace, session)).transpose()?;
        export(&path, |mut out| {
            write_merged(&trace, session, &filter, &symbols, guest.as_ref(), &mut out)
        })
    }

    /// The guest's trace, with its clock aligned.
    fn guest<'a>(
        &self,
        ftrace: &'a Ftrace,
        trace: &TraceFile,
        session: usize,
    ) -> Result<GuestTrace<'a>> {
        let offset_ns = match self.clock_offset {
            Some(offset) => (offset * -1e9).round() as i64,
            None => {
                let found = align(ftrace, trace, session)?;
                crate::message!(
                    "oche: the guest's trace is aligned by {} pages, and up to {} too late",
                    found.pages,
                    span(found.slack_ns)
                );
                found.offset_ns
            }
        };
        Ok(GuestTrace { ftrace, offset_ns })
    }
}

/// Writes `path` by `write`, and reports its size.
fn export(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    if is_standard(path) {
        // As the views for people: a reader that has gone is no error.
        return to_standard_output(|out| write(out));
    }
    let bytes = write_file(path, |out| write(out))?;
    crate::message!("{}: {}", path.display(), size(bytes));
    Ok(())
}

/// The file to write: the one that was asked for, or one beside `file`. Never one that is read.
fn output(
    asked: Option<&Path>,
    file: &Path,
    extension: &str,
    symbols: &SymbolOptions,
) -> Result<PathBuf> {
    if asked.is_none() && is_standard(file) {
        bail!("name the file to write with --output, or - for standard output");
    }
    if asked.is_some_and(is_standard) && io::stdout().is_terminal() {
        bail!("this is nothing for a terminal: name a file with --output, or use a pipe");
    }
    let output = asked.map_or_else(|| beside(file, extension), Path::to_owned);
    refuse_input(&output, [file].into_iter().chain(symbols.files()))?;
    Ok(output)
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  oche trace folded boot.oche --symbols kallsyms | inferno-flamegraph > mapped.svg
  oche trace folded boot.oche --symbols kallsyms --by lifetime --device 00:01.0

A line a stack: device;outermost;...;innermost COUNT. It has the flush's callers where they are known, else the code that
flushed. What is still mapped at the end counts up to there.")]
pub(super) struct FoldedArguments {
    #[command(flatten)]
    input: Input,
    /// Count this
    #[arg(long, value_enum, default_value = "bytes")]
    by: FoldedBy,
    #[command(flatten)]
    choice: ChoiceOptions,
    #[command(flatten)]
    symbols: SymbolOptions,
}

impl FoldedArguments {
    pub(super) fn run(&self) -> Result<()> {
        let (trace, session) = self.input.open()?;
        let symbols = self.symbols.load_for(&trace, Some(session))?;
        let filter = self.choice.filter(&trace, &symbols)?;
        to_standard_output(|out| write_folded(&trace, session, self.by, &filter, &symbols, out))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        pcapng: PcapngArguments,
    }

    #[test]
    fn the_profile_is_installed_with_a_folder_and_without() {
        let parse = |words: &[&str]| {
            Line::try_parse_from([&["oche"], words].concat()).map(|line| line.pcapng)
        };
        let alone = parse(&["--wireshark-profile"]).unwrap();
        assert_eq!((alone.wireshark_profile, alone.file), (Some(None), None));
        let there = parse(&["--wireshark-profile=dir", "boot.oche"]).unwrap();
        assert_eq!(there.wireshark_profile, Some(Some("dir".into())));
        assert_eq!(
            parse(&["--wireshark-profile", "boot.oche"]).unwrap().file,
            Some("boot.oche".into())
        );
        assert!(parse(&[]).is_err());
    }
}
