//! `oche trace why|maps|leaks|check`: questions, and their answers for people or scripts.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use super::super::check::{self, CheckOptions, CheckReport, Detector};
use super::super::clock::ClockOptions;
use super::super::description::labelled;
use super::super::filter::options::{ChoiceOptions, TimeOptions, WhomOptions, refuse_moment};
use super::super::filter::{EventFilter, Whom};
use super::super::leaks::{leaks, write_leaks};
use super::super::maps::{maps, name_all, places, write_maps};
use super::super::reader::TraceFile;
use super::super::symbols::{SymbolOptions, Symbols};
use super::super::why::{Question, why, write_answer};
use super::super::words::{many, parse_address, parse_seconds, seconds};
use super::files::open;
use crate::output::{Output, to_standard_output};
use oche_trace::text::Clock;

/// The trace, and which boot of it.
#[derive(Debug, Args)]
pub(super) struct Input {
    /// The trace file, or - for standard input
    pub(super) file: PathBuf,
    /// Choose this boot of Oche where the trace has several [default: the last]
    #[arg(long, value_name = "NUMBER")]
    pub(super) boot: Option<usize>,
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

/// The arguments of every question about a boot.
#[derive(Debug, Args)]
struct Asked {
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    symbols: SymbolOptions,
    #[command(flatten)]
    clock: ClockOptions,
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
    #[command(flatten)]
    whom: WhomOptions,
    #[command(flatten)]
    time: TimeOptions,
}

#[derive(Debug, Args)]
pub(super) struct MapsArguments {
    /// Answer for this moment, in seconds since Oche's start [default: the end]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    at: Option<u64>,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    choice: ChoiceOptions,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A mapping looks forgotten when many later ones of its device and direction came and went while it stayed. A ring's
buffers are used in turn, so an idle ring does not; coherent memory (rw) is meant to stay and is never suspected.")]
pub(super) struct LeaksArguments {
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    choice: ChoiceOptions,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Looks for: use-after-unmap, unmapped-without-flush, double-map, wrong-direction, left-at-reset, neighbours-exposed,
red-zone-hit, wild-access, refused, invalidate-timeout; with --hints also never-used and shared-page, which correct
drivers cause too. What each can see and what it cannot: docs/trace.md.

Ends with 0 if nothing was found, 1 if something was, 2 if the trace could not be read.")]
pub(super) struct CheckArguments {
    /// The trace file, or - for standard input
    file: PathBuf,
    /// Report hints too
    #[arg(long)]
    hints: bool,
    /// Report only what these detectors find, by name, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_detector)]
    kind: Vec<Detector>,
    #[command(flatten)]
    choice: ChoiceOptions,
    #[command(flatten)]
    symbols: SymbolOptions,
    #[command(flatten)]
    clock: ClockOptions,
    /// Print JSON: a list with an object for each boot of Oche in the trace
    #[arg(long)]
    json: bool,
}

impl WhyArguments {
    pub(super) fn run(&self) -> Result<()> {
        let asked = self.asked.open(self.at)?;
        let (from_ns, until_ns) = self.time.range(&asked.trace)?;
        let whom = self.whom.whom(&asked.trace)?;
        asked.refuse_idle(&whom)?;
        let question = Question { iova: self.iova, whom, at_ns: self.at, from_ns, until_ns };
        let answer = why(&asked.trace, asked.session, &question, &asked.symbols);
        show(&answer, self.asked.json, |out| write_answer(&answer, out))
    }
}

impl MapsArguments {
    pub(super) fn run(&self) -> Result<()> {
        let asked = self.asked.open(self.at)?;
        let filter = asked.filter(&self.choice)?;
        let answer = maps(&asked.trace, asked.session, self.at, &filter, &asked.symbols);
        show(&answer, self.asked.json, |out| write_maps(&answer, out))
    }
}

impl LeaksArguments {
    pub(super) fn run(&self) -> Result<()> {
        let asked = self.asked.open(None)?;
        let filter = asked.filter(&self.choice)?;
        let answer = leaks(&asked.trace, asked.session, &filter, &asked.symbols);
        show(&answer, self.asked.json, |out| write_leaks(&answer, out))
    }
}

/// A boot that is asked about.
struct Opened {
    trace: TraceFile,
    session: usize,
    symbols: Symbols,
}

impl Asked {
    /// Opens the trace, which must have the moment `at`.
    fn open(&self, at: Option<u64>) -> Result<Opened> {
        let (mut trace, session) = self.input.open()?;
        self.clock.apply(&mut trace)?;
        let symbols = self.symbols.load_for(&trace, Some(session))?;
        if let Some(at) = at {
            refuse_moment(&trace, session, "--at", at)?;
        }
        Ok(Opened { trace, session, symbols })
    }
}

impl Opened {
    fn filter(&self, choice: &ChoiceOptions) -> Result<EventFilter> {
        let filter = choice.filter(&self.trace, &self.symbols)?;
        self.refuse_idle(&filter.whom)?;
        Ok(filter)
    }

    /// Refuses devices that did nothing: an empty answer would look like a good one.
    fn refuse_idle(&self, whom: &Whom) -> Result<()> {
        let session = self.trace.sessions.get(self.session);
        if let Some(description) = session.map(|session| &session.description)
            && !whom.is_any()
        {
            let known = places(&self.trace, self.session);
            if !known.iter().any(|place| whom.admits(*place, description)) {
                bail!(
                    "no such device did anything in the trace; it has {}",
                    name_all(&known, description)
                );
            }
        }
        Ok(())
    }
}

impl CheckArguments {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let mut trace = open(&self.file)?;
        self.clock.apply(&mut trace)?;
        let symbols = self.symbols.load_for(&trace, None)?;
        let options = CheckOptions {
            reports_hints: self.hints,
            detectors: self.kind.clone(),
            filter: self.choice.filter(&trace, &symbols)?,
        };
        let reports = check::check(&trace, &symbols, &options);
        show(&reports, self.json, |out| write_reports(&reports, self.hints, out))?;
        let errors: u64 = reports.iter().map(CheckReport::errors).sum();
        Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

fn parse_detector(name: &str) -> Result<Detector, String> {
    Detector::ALL.into_iter().find(|detector| detector.name() == name).ok_or_else(|| {
        let names: Vec<&str> = Detector::ALL.into_iter().map(Detector::name).collect();
        format!("there is no such detector; there are {}", names.join(", "))
    })
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
            labelled(&finding.device, finding.driver.as_deref()),
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
    if report.left_out > 0 {
        writeln!(out, "{} not asked for", many(report.left_out, "other error"))?;
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
