//! A trace as lines: ftrace-like text, or JSON.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

use oche_trace::call_chain::callers;
use oche_trace::record::Record;
use oche_trace::text::{Fields, Line, describe, kind_name};
use oche_types::event::Kind;
use serde_json::{Value, json};

use super::callers::{ByCaller, Flushes};
use super::description::{TraceDescription, plain};
use super::filter::{Chooser, EventFilter};
use super::reader::{ByteSource, TraceFile, TraceItem};
use super::symbols::{NameCache, Symbols};
use super::values::{WithValues, number};

/// Writes `trace` as text, a line an event. Returns how many trapped accesses were left out
/// by default and not by choice.
///
/// # Errors
///
/// Those of `out`.
pub fn write_text<S: ByteSource>(
    trace: &TraceFile<S>,
    filter: &EventFilter,
    symbols: &Symbols,
    out: &mut impl Write,
) -> io::Result<u64> {
    write_events(trace, EventWriter::new(filter, symbols, false), out)
}

/// Whether callers are in `record`.
pub(super) fn is_chain(record: &Record) -> bool {
    matches!(record.kind(), Some(Kind::Callers | Kind::CallChain))
}

/// Return addresses for people, innermost first: `name+0x10<name+0x20`.
pub(super) fn chain(record: &Record, rest: &[u8], symbols: &Symbols) -> String {
    let addresses = callers(record, rest).unwrap_or_default();
    let names = addresses.into_iter().map(|address| symbols.name(address));
    let names: Vec<String> = names.map(|name| one_word(&name).into_owned()).collect();
    names.join("<")
}

/// A name as the value of a field, which has no spaces: `nvme_map_data+0x1c[nvme]`.
fn one_word(name: &str) -> Cow<'_, str> {
    match name.split_once(' ') {
        Some((place, module)) => Cow::Owned(format!("{place}{module}")),
        None => Cow::Borrowed(name),
    }
}

fn write_heading(description: &TraceDescription, out: &mut impl Write) -> io::Result<()> {
    let machine = &description.machine;
    writeln!(out, "# tracer: oche")?;
    if !description.release().is_empty() {
        writeln!(out, "# oche: {}", description.release())?;
    }
    writeln!(out, "# board: {}  clock: {} Hz", plain(machine.board.as_str()), machine.counter_hz)?;
    for dart in &description.darts {
        writeln!(
            out,
            "# dart {}: {} at {:#x}",
            dart.dart.index(),
            plain(dart.name.as_str()),
            dart.registers
        )?;
    }
    for device in &description.devices {
        let (dart, stream) = (device.dart.index(), device.stream.index());
        writeln!(
            out,
            "# device {}: dart {dart} stream {stream} id {:#06x}",
            plain(device.name.as_str()),
            device.requester
        )?;
    }
    writeln!(out, "#           TASK-PID   CPU#   |||||     TIMESTAMP  EVENT")
}

/// Writes `trace` as JSON, an object a line: `{"type":"event",...}`, `{"type":"lost",...}`,
/// `{"type":"session",...}`. Returns what [`write_text`] returns.
///
/// # Errors
///
/// Those of `out`.
pub fn write_json<S: ByteSource>(
    trace: &TraceFile<S>,
    filter: &EventFilter,
    symbols: &Symbols,
    out: &mut impl Write,
) -> io::Result<u64> {
    write_events(trace, EventWriter::new(filter, symbols, true), out)
}

fn write_events<S: ByteSource>(
    trace: &TraceFile<S>,
    mut writer: EventWriter<'_>,
    out: &mut impl Write,
) -> io::Result<u64> {
    let mut description = None;
    for (item, value) in WithValues::new(trace.events()) {
        match (item, description) {
            (TraceItem::Session(index), _) => {
                description = trace.sessions.get(index).map(|session| &session.description);
                if let Some(description) = description {
                    writer.begin(description, out)?;
                }
            }
            (TraceItem::Record(record), Some(description)) => {
                writer.record(&record, &value, description, out)?;
            }
            (gap, _) => writer.gap(gap, out)?,
        }
    }
    Ok(writer.accesses_left_out())
}

/// Writes events one after the other, as text or as JSON.
pub struct EventWriter<'a> {
    filter: &'a EventFilter,
    symbols: &'a Symbols,
    is_json: bool,
    chooser: Option<Chooser<'a>>,
    names: NameCache<'a>,
    by: ByCaller,
    flushes: Flushes<u64>,
    object: Object,
    /// Of the boots before.
    left_out: u64,
}

impl<'a> EventWriter<'a> {
    /// Writes what `filter` chooses.
    pub fn new(filter: &'a EventFilter, symbols: &'a Symbols, is_json: bool) -> Self {
        Self {
            filter,
            symbols,
            is_json,
            chooser: None,
            names: NameCache::new(symbols),
            by: ByCaller::new(symbols),
            flushes: Flushes::default(),
            object: Object(Vec::new()),
            left_out: 0,
        }
    }

    /// How many trapped accesses were left out by default and not by choice.
    pub fn accesses_left_out(&self) -> u64 {
        self.left_out + self.chooser.as_ref().map_or(0, |chooser| chooser.accesses_left_out)
    }

    /// A boot begins.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn begin(
        &mut self,
        description: &TraceDescription,
        out: &mut impl Write,
    ) -> io::Result<()> {
        self.left_out = self.accesses_left_out();
        self.flushes = Flushes::default();
        self.chooser = Some(Chooser::new(self.filter, description, self.symbols));
        if !self.is_json {
            return write_heading(description, out);
        }
        serde_json::to_writer(&mut *out, &session_value(description))?;
        out.write_all(b"\n")
    }

    /// Writes the event in `record`, if it is chosen, with the bytes of the records behind it.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    #[inline]
    pub fn record(
        &mut self,
        record: &Record,
        value: &[u8],
        description: &TraceDescription,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let code = self.code(record, value);
        if !self.chooser.as_mut().is_some_and(|chooser| chooser.admits(record, value)) {
            return Ok(());
        }
        if self.is_json {
            return self.object(record, value, code, description, out);
        }
        let line = Line::of(record, description.clock(), description.device_of(record));
        out.write_all(line.as_bytes())?;
        if is_chain(record) {
            write!(out, " chain={}", chain(record, value, self.symbols))?;
        } else if !value.is_empty() {
            write!(out, " value={}", number(value))?;
        }
        if let Some(name) = self.names.get(code) {
            out.write_all(b" code=")?;
            out.write_all(one_word(name).as_bytes())?;
        }
        out.write_all(b"\n")
    }

    /// The code that `record` is put down to: a caller of the flush that it belongs to, or the
    /// instruction that trapped.
    fn code(&mut self, record: &Record, value: &[u8]) -> u64 {
        if !is_chain(record) {
            return self.flushes.of(record).unwrap_or(record.program_counter());
        }
        let addresses = callers(record, value).unwrap_or_default();
        match self.by.choose(&addresses) {
            Some(caller) => self.flushes.begin(record, caller),
            None => self.flushes.lose(usize::from(record.cpu())),
        }
        record.program_counter()
    }

    fn object(
        &mut self,
        record: &Record,
        value: &[u8],
        code: u64,
        description: &TraceDescription,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let object = &mut self.object;
        object.begin("event");
        object.number("time_ns", description.clock().nanoseconds(record.time()));
        object.number("ticks", record.time());
        object.number("cpu", u64::from(record.cpu()));
        object.word("event", kind_name(record));
        describe(record, description.device_of(record), object);
        if is_chain(record) {
            object.word("chain", &chain(record, value, self.symbols));
        } else if !value.is_empty() {
            object.word("value", &number(value));
        }
        if let Some(name) = self.names.get(code) {
            object.word("code_name", name);
        }
        object.end(out)
    }

    /// Writes that records are missing, if `item` is about that and its CPU is chosen.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn gap(&mut self, item: TraceItem, out: &mut impl Write) -> io::Result<()> {
        let (name, cpu, records) = match item {
            TraceItem::Lost { cpu, records } => ("lost", cpu, records),
            TraceItem::Unreadable { cpu, records } => ("unreadable", cpu, records),
            TraceItem::Session(_) | TraceItem::Record(_) => return Ok(()),
        };
        self.flushes.lose(cpu);
        if self.chooser.as_ref().is_some_and(|chooser| !chooser.has_cpu(cpu)) {
            return Ok(());
        }
        if self.is_json {
            return self.object.gap(name, cpu, records, out);
        }
        // As ftrace writes it.
        writeln!(out, "CPU:{cpu} [{} {records} EVENTS]", name.to_uppercase())
    }
}

/// A session's description, as JSON.
pub fn session_value(description: &TraceDescription) -> Value {
    let machine = &description.machine;
    let darts = description.darts.iter().map(|dart| {
        json!({"dart": dart.dart.index(), "name": dart.name.as_str(), "registers": format!("{:#x}", dart.registers)})
    });
    let devices = description.devices.iter().map(|device| {
        json!({
            "name": device.name.as_str(),
            "dart": device.dart.index(),
            "stream": device.stream.index(),
            "requester": format!("{:#06x}", device.requester),
        })
    });
    json!({
        "type": "session",
        "board": machine.board.as_str(),
        "release": machine.release.as_str(),
        "counter_hz": machine.counter_hz,
        "darts": darts.collect::<Value>(),
        "devices": devices.collect::<Value>(),
    })
}

/// A JSON object being written: addresses and bit patterns as text in hexadecimal, counts as
/// numbers. Fields go straight to bytes; a tree of values would be five times slower.
struct Object(Vec<u8>);

impl Object {
    fn begin(&mut self, kind: &str) {
        self.0.clear();
        self.0.extend_from_slice(b"{\"type\":");
        self.text(kind);
    }

    fn end(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.0.extend_from_slice(b"}\n");
        out.write_all(&self.0)
    }

    fn gap(
        &mut self,
        kind: &str,
        cpu: usize,
        records: u64,
        out: &mut impl Write,
    ) -> io::Result<()> {
        self.begin(kind);
        self.number("cpu", cpu as u64);
        self.number("records", records);
        self.end(out)
    }

    fn name(&mut self, name: &str) {
        self.0.push(b',');
        self.text(name);
        self.0.push(b':');
    }

    /// A string with what JSON wants escaped escaped.
    fn text(&mut self, text: &str) {
        if text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\') {
            self.0.push(b'"');
            self.0.extend_from_slice(text.as_bytes());
            self.0.push(b'"');
        } else {
            self.0.extend_from_slice(Value::from(text).to_string().as_bytes());
        }
    }

    fn format(&mut self, arguments: fmt::Arguments<'_>) {
        // Writing to a Vec does not fail.
        let _ = self.0.write_fmt(arguments);
    }
}

impl Fields for Object {
    fn hex(&mut self, name: &str, value: u64, _digits: usize) {
        self.name(name);
        self.format(format_args!("\"{value:#x}\""));
    }

    fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        self.format(format_args!("{value}"));
    }

    fn word(&mut self, name: &str, value: &str) {
        self.name(name);
        self.text(value);
    }

    fn range(&mut self, name: &str, start: u64, _bytes: u64) {
        self.hex(name, start, 0);
    }
}

#[cfg(test)]
mod tests;
