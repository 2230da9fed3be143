//! `oche trace text --follow`: events as they come.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Write};
use std::iter::Empty;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use oche_trace::record::Record;

use super::super::description::TraceDescription;
use super::super::filter::EventFilter;
use super::super::follow::{Follower, LiveSource};
use super::super::output::EventWriter;
use super::super::reader::TraceItem;
use super::super::signals::Signals;
use super::super::symbols::Symbols;
use super::super::values::WithValues;

/// How long an event waits for earlier ones of other CPUs: a recorder writes a CPU's events every
/// 200 ms.
const HOLD: Duration = Duration::from_millis(400);
/// Time between two looks at the source.
const POLL: Duration = Duration::from_millis(50);

/// Prints the events of `path` as they come, until a signal, or until the end of a pipe.
///
/// # Errors
///
/// The source cannot be read, or is no trace, or standard output cannot be written.
pub(super) fn follow(
    path: &Path,
    filter: &EventFilter,
    symbols: &Symbols,
    is_json: bool,
) -> Result<u64> {
    let signals = Signals::catch()?;
    let mut source = LiveSource::open(path)?;
    let out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut printer = Printer::new(EventWriter::new(filter, symbols, is_json), out);
    loop {
        while source.poll(&mut printer)? && !signals.is_caught() && printer.failed.is_none() {
            printer.release(false);
        }
        let is_last = signals.is_caught() || source.has_ended();
        printer.release(is_last);
        match printer.failed.take() {
            // The reader has gone.
            Some(error) if error.kind() == ErrorKind::BrokenPipe => {
                let _ = printer.out.into_parts();
                return Ok(0);
            }
            Some(error) => return Err(error).context("writing to standard output"),
            None if is_last => return Ok(printer.writer.accesses_left_out()),
            None => std::thread::sleep(POLL),
        }
    }
}

/// Puts the events of all CPUs in order, and prints them.
struct Printer<'a, W: Write> {
    writer: EventWriter<'a>,
    out: io::BufWriter<W>,
    description: Option<TraceDescription>,
    /// By time and arrival: what waits for earlier events.
    held: BTreeMap<(u64, u64), TraceItem>,
    arrivals: u64,
    newest: u64,
    /// When which time was the newest.
    seen: VecDeque<(Instant, u64)>,
    /// By CPU: records lost before its next one.
    lost: BTreeMap<usize, u64>,
    joined: WithValues<Empty<TraceItem>>,
    failed: Option<io::Error>,
}

impl<'a, W: Write> Printer<'a, W> {
    fn new(writer: EventWriter<'a>, out: io::BufWriter<W>) -> Self {
        Self {
            writer,
            out,
            description: None,
            held: BTreeMap::new(),
            arrivals: 0,
            newest: 0,
            seen: VecDeque::new(),
            lost: BTreeMap::new(),
            joined: WithValues::new(std::iter::empty()),
            failed: None,
        }
    }

    fn hold(&mut self, time: u64, item: TraceItem) {
        self.arrivals += 1;
        self.held.insert((time, self.arrivals), item);
    }

    /// Prints what has waited long enough, or all.
    fn release(&mut self, is_all: bool) {
        let now = Instant::now();
        if self.seen.back().is_none_or(|(_, time)| *time != self.newest) {
            self.seen.push_back((now, self.newest));
        }
        let mut until = None;
        while self.seen.front().is_some_and(|(since, _)| now.duration_since(*since) >= HOLD) {
            until = self.seen.pop_front().map(|(_, time)| time).max(until);
        }
        let until = if is_all { Some(u64::MAX) } else { until };
        while let Some(first) = self.held.first_entry()
            && until.is_some_and(|until| first.key().0 <= until)
        {
            let item = first.remove();
            self.joined.push(item);
            self.print();
        }
        if is_all {
            self.joined.finish();
            self.print();
        }
        let flushed = self.out.flush();
        self.failed = self.failed.take().or(flushed.err());
    }

    fn print(&mut self) {
        let Some(description) = &self.description else { return };
        while let Some((item, value)) = self.joined.pop() {
            let written = match item {
                TraceItem::Record(record) => {
                    self.writer.record(&record, &value, description, &mut self.out)
                }
                other => self.writer.gap(other, &mut self.out),
            };
            self.failed = self.failed.take().or(written.err());
        }
    }
}

impl<W: Write> Follower for Printer<'_, W> {
    fn begin(&mut self, description: TraceDescription) {
        self.release(true);
        self.seen.clear();
        self.lost.clear();
        self.newest = 0;
        let written = self.writer.begin(&description, &mut self.out);
        self.failed = self.failed.take().or(written.err());
        self.description = Some(description);
    }

    fn take(&mut self, record: &Record) {
        self.newest = self.newest.max(record.time());
        let cpu = usize::from(record.cpu());
        if let Some(records) = self.lost.remove(&cpu) {
            self.hold(record.time(), TraceItem::Lost { cpu, records });
        }
        self.hold(record.time(), TraceItem::Record(*record));
    }

    fn lose(&mut self, cpu: usize, records: u64) {
        if records > 0 {
            let known = self.lost.entry(cpu).or_default();
            *known = known.saturating_add(records);
        }
    }

    fn count(&mut self, _: Vec<(String, u64)>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::made::with_every_error;
    use crate::trace::output::write_text;

    /// What is printed of the made trace if its records come CPU by CPU, in pieces of `piece`.
    fn printed(piece: usize) -> String {
        let trace = with_every_error().open();
        let (filter, symbols) = (EventFilter::default(), Symbols::default());
        let writer = EventWriter::new(&filter, &symbols, false);
        let mut printer = Printer::new(writer, io::BufWriter::new(Vec::new()));
        printer.begin(TraceDescription::clone(&trace.sessions[0].description));
        let mut records = Vec::new();
        trace.scan(0, |record| records.push(record));
        for piece in records.rchunks(piece) {
            piece.iter().for_each(|record| printer.take(record));
            printer.release(false);
        }
        printer.release(true);
        assert!(printer.failed.is_none());
        let out = printer.out.into_inner().expect("flushed");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn events_that_come_out_of_order_are_printed_as_the_file_prints_them() {
        let trace = with_every_error().open();
        let mut text = Vec::new();
        write_text(&trace, &EventFilter::default(), &Symbols::default(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for piece in [100_000, 64] {
            assert_eq!(printed(piece), text);
        }
    }

    #[test]
    fn nothing_is_printed_before_it_has_waited_and_losses_come_before_what_follows() {
        let trace = with_every_error().open();
        let (filter, symbols) = (EventFilter::default(), Symbols::default());
        let writer = EventWriter::new(&filter, &symbols, false);
        let mut printer = Printer::new(writer, io::BufWriter::new(Vec::new()));
        printer.begin(trace.sessions[0].description.clone());
        let mut records = Vec::new();
        trace.scan(0, |record| records.push(record));
        printer.take(&records[0]);
        printer.lose(0, 7);
        printer.take(&records[1]);
        printer.release(false);
        assert_eq!(printer.held.len(), 3);
        printer.release(true);
        let text = String::from_utf8(printer.out.into_inner().expect("flushed")).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!((lines.len(), lines[1]), (3, "CPU:0 [LOST 7 EVENTS]"));
    }
}
