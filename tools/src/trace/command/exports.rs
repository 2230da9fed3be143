//! `oche trace perfetto|pcapng|report`: a trace as a file for other programs.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use super::super::pcapng::write_pcapng;
use super::super::perfetto::write_perfetto;
use super::super::report::write_report;
use super::super::symbols::SymbolOptions;
use super::super::wireshark::Folders;
use super::FilterOptions;
use super::answers::{Input, open_boot};

#[derive(Debug, Args)]
#[command(after_help = "\
Open the file at https://ui.perfetto.dev (nothing leaves your machine) or in an installed viewer. A process a DART, a
track a stream: each mapped buffer is a slice from map to unmap, with its address, guest page and code; counters for
mapped bytes, placement and flushes a second; faults as instants.")]
pub(super) struct PerfettoArguments {
    #[command(flatten)]
    input: Input,
    /// The file to write [default: the trace's name with .perfetto-trace]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    symbols: SymbolOptions,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Once, to teach Wireshark and tshark what these packets are:
  oche trace pcapng --wireshark-profile
Then:
  oche trace pcapng boot.oche && wireshark -C Oche boot.pcapng
  tshark -r boot.pcapng -Y 'oche.event == \"io_page_fault\"' -T fields -e oche.device -e oche.iova")]
pub(super) struct PcapngArguments {
    /// The trace file
    #[arg(required_unless_present = "wireshark_profile")]
    file: Option<PathBuf>,
    /// Which boot of Oche, where the trace has several [default: the last]
    #[arg(long, value_name = "NUMBER")]
    boot: Option<usize>,
    /// The file to write [default: the trace's name with .pcapng]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    filter: FilterOptions,
    #[command(flatten)]
    symbols: SymbolOptions,
    /// Install the dissector and the profile `Oche`: for you, or in DIR (then used with WIRESHARK_CONFIG_DIR=DIR)
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "")]
    wireshark_profile: Option<PathBuf>,
}

impl PcapngArguments {
    pub(super) fn run(&self) -> Result<()> {
        if let Some(folder) = &self.wireshark_profile {
            let folder = Some(folder.as_path()).filter(|folder| !folder.as_os_str().is_empty());
            for path in Folders::find(folder)?.install()? {
                eprintln!("{}", path.display());
            }
        }
        let Some(file) = &self.file else { return Ok(()) };
        let (trace, session) = open_boot(file, self.boot)?;
        let symbols = self.symbols.load()?;
        let path = self.output.clone().unwrap_or_else(|| file.with_extension("pcapng"));
        let filter = self.filter.filter(&trace)?;
        write_file(&path, |out| write_pcapng(&trace, session, &filter, &symbols, out))
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
One self-contained page: who mapped what over time, the IOVA space, lifetimes, the hottest code, faults with what happened
at their addresses before, and what `oche trace check` finds. Nothing is loaded from anywhere; it can be sent by mail.")]
pub(super) struct ReportArguments {
    #[command(flatten)]
    input: Input,
    /// The file to write [default: the trace's name with .html]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    symbols: SymbolOptions,
}

impl ReportArguments {
    pub(super) fn run(&self) -> Result<()> {
        let (trace, session) = self.input.open()?;
        let symbols = self.symbols.load()?;
        let path = self.output.clone().unwrap_or_else(|| self.input.file.with_extension("html"));
        let name = self.input.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        write_file(&path, |out| write_report(&trace, session, &name, &symbols, out))
    }
}

impl PerfettoArguments {
    pub(super) fn run(&self) -> Result<()> {
        let (trace, session) = self.input.open()?;
        let symbols = self.symbols.load()?;
        let path = self.output.clone().unwrap_or_else(|| self.input.file.with_extension("perfetto-trace"));
        write_file(&path, |out| write_perfetto(&trace, session, &symbols, out))
    }
}

/// Writes `path` by `write`, and says so.
pub(super) fn write_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<()> {
    let said = || format!("writing {}", path.display());
    let file = File::create(path).with_context(said)?;
    let mut out = BufWriter::with_capacity(1 << 16, file);
    write(&mut out).and_then(|()| out.flush()).with_context(said)?;
    let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    eprintln!("{}: {}", path.display(), super::super::words::size(bytes));
    Ok(())
}
