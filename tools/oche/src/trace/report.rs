//! A trace as one page of HTML: pictures and tables, everything inside the file, nothing loaded
//! from anywhere.
//!
//! One pass; memory and page stay small however long the trace is: time has a fixed number of bins
//! that widen as it goes on, lists show the first or the most of their kind and how many there
//! are, and events are kept around a fixed number of findings.

use std::io::{self, Write};

use super::callers::ByCaller;
use super::check::{CheckOptions, Checker};
use super::filter::{Chooser, EventFilter};
use super::reader::{ByteSource, TraceFile};
use super::symbols::Symbols;
use collector::{ByCode, Collector};

pub use command::ReportedFile;

mod around;
mod bins;
mod burst;
mod collector;
mod command;
mod data;
mod incidents;
mod last;
mod sites;
mod streams;

/// The page; `@TITLE@`, `@STYLE@`, `@DATA@` and `@SCRIPT@` stand for what is put in.
const PAGE: &str = include_str!("report/page.html");
const STYLE: &str = include_str!("report/page.css");
/// The page's script: one scope, in this order.
const SCRIPT: [&str; 5] = [
    include_str!("report/page/elements.js"),
    include_str!("report/page/view.js"),
    include_str!("report/page/charts.js"),
    include_str!("report/page/lists.js"),
    include_str!("report/page/page.js"),
];

/// Writes the page about `session` of `trace`, which is in `file`: what `filter` chooses.
///
/// # Errors
///
/// Those of `out`.
pub fn write_report<S: ByteSource>(
    trace: &TraceFile<S>,
    session: usize,
    file: &ReportedFile,
    filter: &EventFilter,
    symbols: &Symbols,
    out: &mut impl Write,
) -> io::Result<()> {
    let Some(of) = trace.sessions.get(session) else { return Ok(()) };
    let options = CheckOptions { filter: filter.clone(), ..CheckOptions::default() };
    let chooser = Chooser::new(filter, &of.description, symbols);
    let checker = Checker::new(of, symbols, &options);
    let mut collector = Collector::new(&of.description, checker, chooser);
    let by = ByCaller::new(symbols);
    trace.events_of(session).show(&mut ByCode { collector: &mut collector, by });
    let clock = of.description.clock();
    let first = collector.first.unwrap_or(clock.start_ticks);
    let mut data = collector.finish(symbols, file);
    data.file.clone_from(&file.name);
    data.clock = file.clock.zero();
    data.boot = session + 1;
    data.boots = trace.sessions.len();
    data.first_unix_ns = super::summary::wall_clock(of, of.description.own_clock(), first);
    data.warnings = trace.warnings.clone();
    data.filter = filter.words();
    // "</script>" in a name must not end the script.
    let json = serde_json::to_string(&data)?.replace('<', "\\u003c");
    let title: String = data.file.chars().filter(|char| !"<>&\"".contains(*char)).collect();
    fill(
        PAGE,
        &[
            ("@TITLE@", &[&title]),
            ("@STYLE@", &[STYLE]),
            ("@DATA@", &[&json]),
            ("@SCRIPT@", &SCRIPT),
        ],
        out,
    )
}

/// Writes `page` with each mark, in their order, replaced.
fn fill(page: &str, marks: &[(&str, &[&str])], out: &mut impl Write) -> io::Result<()> {
    let mut rest = page;
    for (mark, parts) in marks {
        let (head, tail) = rest.split_once(mark).unwrap_or((rest, ""));
        out.write_all(head.as_bytes())?;
        parts.iter().try_for_each(|part| out.write_all(part.as_bytes()))?;
        rest = tail;
    }
    out.write_all(rest.as_bytes())
}

#[cfg(test)]
mod tests;
