//! `oche trace text --follow`: events as they come.

use std::io::{self, ErrorKind, Write};
use std::iter::Empty;
use std::path::Path;

use anyhow::{Context, Result};

use super::super::description::TraceDescription;
use super::super::filter::EventFilter;
use super::super::follow::LiveSource;
use super::super::ordered::{Ordered, Sink};
use super::super::output::EventWriter;
use super::super::reader::TraceItem;
use super::super::signals::Signals;
use super::super::symbols::Symbols;
use super::super::values::WithValues;

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
    let mut printer = Ordered::new(Printer::new(EventWriter::new(filter, symbols, is_json), out));
    match printer.follow(&mut source, || signals.is_caught())? {
        // The reader has gone.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            let _ = printer.sink.out.into_parts();
            Ok(0)
        }
        Err(error) => Err(error).context("writing to standard output"),
        Ok(()) => Ok(printer.sink.writer.accesses_left_out()),
    }
}

/// Prints events.
struct Printer<'a, W: Write> {
    writer: EventWriter<'a>,
    out: io::BufWriter<W>,
    description: Option<TraceDescription>,
    joined: WithValues<Empty<TraceItem>>,
}

impl<'a, W: Write> Printer<'a, W> {
    fn new(writer: EventWriter<'a>, out: io::BufWriter<W>) -> Self {
        Self { writer, out, description: None, joined: WithValues::new(std::iter::empty()) }
    }

    fn print(&mut self) -> io::Result<()> {
        let Some(description) = &self.description else { return Ok(()) };
        while let Some((item, value)) = self.joined.pop() {
            match item {
                TraceItem::Record(record) => {
                    self.writer.record(&record, &value, description, &mut self.out)?;
                }
                other => self.writer.gap(other, &mut self.out)?,
            }
        }
        Ok(())
    }
}

impl<W: Write> Sink for Printer<'_, W> {
    fn begin(&mut self, description: TraceDescription) -> io::Result<()> {
        self.writer.begin(&description, &mut self.out)?;
        self.description = Some(description);
        Ok(())
    }

    fn item(&mut self, item: TraceItem) -> io::Result<()> {
        self.joined.push(item);
        self.print()
    }

    fn flush(&mut self, is_all: bool) -> io::Result<()> {
        if is_all {
            self.joined.finish();
            self.print()?;
        }
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::follow::Follower;
    use crate::trace::made::{Made, with_every_error, with_losses};
    use crate::trace::output::write_text;

    /// What is printed of the made trace if its records come CPU by CPU, in pieces of `piece`.
    fn printed(made: &Made, piece: usize) -> String {
        let trace = made.open();
        let (filter, symbols) = (EventFilter::default(), Symbols::default());
        let writer = EventWriter::new(&filter, &symbols, false);
        let mut printer = Ordered::new(Printer::new(writer, io::BufWriter::new(Vec::new())));
        printer.begin(trace.sessions[0].description.clone());
        let mut records = Vec::new();
        trace.scan(0, |record| records.push(record));
        for piece in records.rchunks(piece) {
            piece.iter().for_each(|record| printer.take(record));
        }
        printer.flush_all();
        let out = printer.sink.out.into_inner().expect("flushed");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn events_that_come_out_of_order_are_printed_as_the_file_prints_them() {
        for made in [with_every_error(), with_losses()] {
            let mut text = Vec::new();
            let (filter, symbols) = (EventFilter::default(), Symbols::default());
            write_text(&made.open(), &filter, &symbols, &mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            let lines = |text: &str| {
                let is_event = |line: &&str| !line.contains("EVENTS]");
                text.lines().filter(is_event).map(str::to_owned).collect::<Vec<_>>()
            };
            for piece in [100_000, 64] {
                assert_eq!(lines(&printed(&made, piece)), lines(&text));
            }
        }
    }
}
