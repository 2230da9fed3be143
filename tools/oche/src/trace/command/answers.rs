//! `oche trace why|maps|leaks|check`: questions, and their answers for people or scripts.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use super::super::check::{self, CheckReport, Detector};
use super::super::leaks::{leaks, write_leaks};
use super::super::maps::{Whom, maps, name_all, places, write_maps};
use super::super::reader::TraceFile;
use super::super::symbols::{SymbolOptions, Symbols};
use super::super::why::{Question, why, write_answer};
use super::super::words::{many, parse_seconds, seconds};
use super::files::open;
use crate::output::{Output, to_standard_output};
use oche_trace::text::Clock;

/// The trace, and which boot of it.
#[derive(Debug, Args)]
pub(super) struct Input {
    /// The trace file
    pub(super) file: PathBuf,
    /// Choose this boot of Oche where the trace has several [default: the last]
    #[arg(long, value_name = "NUMBER")]
    boot: Option<usize>,
}

impl Input {
    /// The trace, and the index of the session that is meant.
    pub(super) fn open(&self) -> Result<(TraceFile, usize)> {
        open_boot(&self.file, self.boot)
    }
}

/// The trace at `file`, and the index of boot number `boot` or the last.
pub(super) fn open_boot(file: &Path, boot: Option<usize>) -> Result<(TraceFile, usize)> {
    let trace = open(file)?;
    let boots = trace.sessions.len();
    let session = match boot {
        Some(boot) if (1..=boots).contains(&boot) => boot - 1,
        Some(boot) => {
            bail!("{} has no boot {boot}: it has {}", file.display(), many(boots as u64, "boot"))
        }
        None => boots.saturating_sub(1),
    };
    if boots > 1 && boot.is_none() {
        crate::message!("oche: boot {} of {boots}; --boot names another", session + 1);
    }
    Ok((trace, session))
}

/// Whom to ask about.
#[derive(Debug, Args)]
pub(super) struct WhomOptions {
    /// Restrict the answer to this DART, by number
    #[arg(long)]
    dart: Option<u8>,
    /// Restrict the answer to this stream, by number
    #[arg(long)]
    stream: Option<u8>,
    /// Restrict the answer to devices whose name contains this
    #[arg(long)]
    device: Option<String>,
}

impl WhomOptions {
    pub(super) fn whom(&self) -> Whom {
        Whom { dart: self.dart, stream: self.stream, device: self.device.clone() }
    }
}

/// The arguments of every question about a boot.
#[derive(Debug, Args)]
struct Asked {
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    whom: WhomOptions,
    #[command(flatten)]
    symbols: SymbolOptions,
    /// Print JSON; docs/trace.md describes it
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  oche trace why boot.oche --iova 0xfffc3040             what became of it, by the end or at the last fault there
  oche trace why boot.oche --iova 0xfffc3040 --at 12.5   who owned it 12.5 s after Oche's start")]
pub(super) struct WhyArguments {
    /// The address, as the device uses it: hexadecimal, with or without 0x
    #[arg(long, value_parser = parse_address)]
    iova: u64,
    /// Answer for this moment, in seconds since Oche's start [default: the last fault, or the end]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    at: Option<u64>,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
pub(super) struct MapsArguments {
    /// Answer for this moment, in seconds since Oche's start [default: the end]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    at: Option<u64>,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A mapping looks forgotten when many later ones of its device and direction came and went while it stayed. A ring's
buffers are used in turn, so an idle ring does not; coherent memory (rw) is meant to stay and is never suspected.")]
pub(super) struct LeaksArguments {
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Looks for: use-after-unmap, unmapped-without-flush, double-map, wrong-direction, left-at-reset, neighbours-exposed,
red-zone-hit, wild-access, refused, invalidate-timeout; with --hints also never-used and shared-page, which correct
drivers cause too. What each can see and what it cannot: docs/trace.md.

Ends with 0 if nothing was found, 1 if something was, 2 if the trace could not be read.")]
pub(super) struct CheckArguments {
    /// The trace file
    file: PathBuf,
    /// Report hints too
    #[arg(long)]
    hints: bool,
    #[command(flatten)]
    symbols: SymbolOptions,
    /// Print JSON: a list with an object for each boot of Oche in the trace
    #[arg(long)]
    json: bool,
}

impl WhyArguments {
    pub(super) fn run(&self) -> Result<()> {
        let question =
            |whom: &Whom| Question { iova: self.iova, whom: whom.clone(), at_ns: self.at };
        self.asked.answer(
            |trace, session, whom, symbols| why(trace, session, &question(whom), symbols),
            write_answer,
        )
    }
}

impl MapsArguments {
    pub(super) fn run(&self) -> Result<()> {
        self.asked.answer(
            |trace, session, whom, symbols| maps(trace, session, self.at, whom, symbols),
            write_maps,
        )
    }
}

impl LeaksArguments {
    pub(super) fn run(&self) -> Result<()> {
        self.asked.answer(leaks, write_leaks)
    }
}

impl Asked {
    /// Finds the answer by `find` and shows it, to people by `write`.
    fn answer<T: Serialize>(
        &self,
        find: impl FnOnce(&TraceFile, usize, &Whom, &Symbols) -> T,
        write: impl FnOnce(&T, &mut Output) -> io::Result<()>,
    ) -> Result<()> {
        let symbols = self.symbols.load()?;
        let (trace, session) = self.input.open()?;
        let whom = self.whom.whom();
        if let Some(description) = trace.sessions.get(session).map(|session| &session.description)
            && !whom.is_any()
        {
            let known = places(&trace, session);
            if !known.iter().any(|place| whom.admits(*place, description)) {
                bail!(
                    "no such device did anything in the trace; it has {}",
                    name_all(&known, description)
                );
            }
        }
        let answer = find(&trace, session, &whom, &symbols);
        show(&answer, self.json, |out| write(&answer, out))
    }
}

impl CheckArguments {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let trace = open(&self.file)?;
        let reports = check::check(&trace, &self.symbols.load()?, self.hints);
        show(&reports, self.json, |out| write_reports(&reports, self.hints, out))?;
        let errors: u64 = reports.iter().map(CheckReport::errors).sum();
        Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

fn write_reports(
    reports: &[CheckReport],
    reports_hints: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    for (index, report) in reports.iter().enumerate() {
        if reports.len() > 1 {
            writeln!(out, "{}boot {}", if index > 0 { "\n" } else { "" }, index + 1)?;
        }
        write_report(report, reports_hints, out)?;
    }
    Ok(())
}

fn write_report(report: &CheckReport, reports_hints: bool, out: &mut impl Write) -> io::Result<()> {
    let zero = Clock { counter_hz: 1_000_000_000, start_ticks: 0 };
    for finding in &report.findings {
        writeln!(
            out,
            "{}: {} (DART {} stream {}) at {} s on CPU {}{}\n    {}{}",
            finding.detector.name(),
            finding.device,
            finding.dart,
            finding.stream,
            seconds(zero, finding.time_ns),
            finding.cpu,
            finding.code.as_ref().map_or(String::new(), |code| format!(", {code}")),
            finding.message,
            match finding.more {
                0 => String::new(),
                1 => " Another access to the same page followed.".into(),
                more => format!(" Another {more} accesses to the same page followed."),
            }
        )?;
    }
    let (errors, events) = (report.errors(), many(report.events, "event"));
    match errors {
        0 => writeln!(out, "nothing found in {events}")?,
        _ => {
            writeln!(out, "\n{} in {events}:", many(errors, "error"))?;
            for detector in Detector::ALL.into_iter().filter(|detector| !detector.is_hint()) {
                if let Some(count) = report.totals.get(detector.name()) {
                    writeln!(out, "  {:<24} {count}", detector.name())?;
                }
            }
        }
    }
    if report.missing > 0 {
        writeln!(out, "{} missing: an error may be among them", many(report.missing, "event"))?;
    }
    for detector in
        Detector::ALL.into_iter().filter(|detector| detector.is_hint() && !reports_hints)
    {
        if let Some(count) = report.totals.get(detector.name()) {
            writeln!(out, "hints: {count} of {} (--hints reports them)", detector.name())?;
        }
    }
    Ok(())
}

/// Shows an answer as JSON, or as `write` writes it.
fn show<T: Serialize>(
    answer: &T,
    is_json: bool,
    write: impl FnOnce(&mut Output) -> io::Result<()>,
) -> Result<()> {
    to_standard_output(|out| {
        if is_json {
            serde_json::to_writer_pretty(&mut *out, answer)?;
            return writeln!(out);
        }
        write(out)
    })
}

/// An address in hexadecimal, with or without 0x. One that can only be meant as decimal is refused.
pub(super) fn parse_address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let is_decimal = text.bytes().all(|digit| digit.is_ascii_digit());
    if is_decimal
        && let Ok(decimal) = text.parse::<u32>()
        && u32::from_str_radix(text, 16).is_err()
    {
        return Err(format!(
            "an address in hexadecimal, with or without 0x; for decimal {decimal} give {decimal:#x}"
        ));
    }
    u64::from_str_radix(digits, 16)
        .map_err(|_| "an address in hexadecimal, such as 0xfffc3040".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_hexadecimal() {
        assert_eq!(parse_address("0xfffc3040"), Ok(0xfffc_3040));
        assert_eq!(parse_address("fffc3040"), Ok(0xfffc_3040));
        assert!(parse_address("nvme").is_err());
        assert_eq!(parse_address("10000000"), Ok(0x1000_0000));
        assert_eq!(parse_address("0x4294959296"), Ok(0x42_9495_9296), "0x makes it hexadecimal");
        let decimal = parse_address("4294959296").expect_err("as hexadecimal it has 40 bits");
        assert_eq!(
            decimal,
            "an address in hexadecimal, with or without 0x; for decimal 4294959296 give 0xffffe0c0"
        );
        assert_eq!(parse_address("4294967296"), Ok(0x42_9496_7296), "too much either way");
    }
}
