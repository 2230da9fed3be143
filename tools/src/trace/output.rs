//! A trace as lines: ftrace-like text, or JSON.

use std::io::{self, Write};

use oche_hyp::trace::record::{Kind, Record};
use oche_hyp::trace::text::{Clock, Fields, Line, describe, kind_name};
use serde_json::{Map, Value, json};

use super::description::Description;
use super::reader::{Item, Source, TraceFile};

/// Which records are shown. What is not asked for is not looked at.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only these kinds, if there are any.
    pub kinds: Vec<Kind>,
    /// Only this DART.
    pub dart: Option<u8>,
    /// Only this stream.
    pub stream: Option<u8>,
    /// Only this CPU.
    pub cpu: Option<u8>,
    /// Only devices whose name contains this.
    pub device: Option<String>,
}

impl Filter {
    /// Whether `record` is to be shown.
    pub fn admits(&self, record: &Record, description: &Description) -> bool {
        (self.kinds.is_empty() || record.kind().is_some_and(|kind| self.kinds.contains(&kind)))
            && self.dart.is_none_or(|dart| record.dart().is_some_and(|of| of.index() == usize::from(dart)))
            && self
                .stream
                .is_none_or(|stream| record.stream().is_some_and(|of| of.index() == usize::from(stream)))
            && self.cpu.is_none_or(|cpu| record.cpu() == cpu)
            && self.device.as_ref().is_none_or(|wanted| {
                description.device_of(record).is_some_and(|name| name.contains(wanted.as_str()))
            })
    }
}

/// Writes `trace` as text, a line an event.
///
/// # Errors
///
/// Those of `out`.
pub fn write_text<S: Source>(trace: &TraceFile<S>, filter: &Filter, out: &mut impl Write) -> io::Result<()> {
    let mut description = None;
    for item in trace.events() {
        match (item, description) {
            (Item::Session(index), _) => {
                description = trace.sessions.get(index).map(|session| &session.description);
                if let Some(description) = description {
                    write_heading(description, out)?;
                }
            }
            (Item::Record(record), Some(description)) if filter.admits(&record, description) => {
                let line = Line::of(&record, description.clock(), description.device_of(&record));
                out.write_all(line.as_bytes())?;
                out.write_all(b"\n")?;
            }
            (Item::Record(_), _) => {}
            // As ftrace says it.
            (Item::Lost { cpu, records }, _) => writeln!(out, "CPU:{cpu} [LOST {records} EVENTS]")?,
            (Item::Unreadable { cpu, records }, _) => {
                writeln!(out, "CPU:{cpu} [UNREADABLE {records} EVENTS]")?
            }
        }
    }
    Ok(())
}

fn write_heading(description: &Description, out: &mut impl Write) -> io::Result<()> {
    let machine = &description.machine;
    writeln!(out, "# tracer: oche")?;
    writeln!(out, "# board: {}  clock: {} Hz", machine.board.as_str(), machine.counter_hz)?;
    for dart in &description.darts {
        writeln!(out, "# dart {}: {} at {:#x}", dart.dart.index(), dart.name.as_str(), dart.registers)?;
    }
    for device in &description.devices {
        let (dart, stream) = (device.dart.index(), device.stream.index());
        writeln!(
            out,
            "# device {}: dart {dart} stream {stream} id {:#06x}",
            device.name.as_str(),
            device.requester
        )?;
    }
    writeln!(out, "#           TASK-PID   CPU#   |||||     TIMESTAMP  EVENT")
}

/// Writes `trace` as JSON, an object a line: `{"type":"event",...}`, `{"type":"lost",...}`, `{"type":"session",...}`.
///
/// # Errors
///
/// Those of `out`.
pub fn write_json<S: Source>(trace: &TraceFile<S>, filter: &Filter, out: &mut impl Write) -> io::Result<()> {
    let mut description = None;
    for item in trace.events() {
        let value = match (item, description) {
            (Item::Session(index), _) => {
                description = trace.sessions.get(index).map(|session| &session.description);
                description.map(session_value)
            }
            (Item::Record(record), Some(description)) if filter.admits(&record, description) => {
                Some(record_value(&record, description.clock(), description.device_of(&record)))
            }
            (Item::Record(_), _) => None,
            (Item::Lost { cpu, records }, _) => Some(json!({"type": "lost", "cpu": cpu, "records": records})),
            (Item::Unreadable { cpu, records }, _) => {
                Some(json!({"type": "unreadable", "cpu": cpu, "records": records}))
            }
        };
        if let Some(value) = value {
            serde_json::to_writer(&mut *out, &value)?;
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}

/// What a session is about, as JSON.
pub fn session_value(description: &Description) -> Value {
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
        "counter_hz": machine.counter_hz,
        "darts": darts.collect::<Value>(),
        "devices": devices.collect::<Value>(),
    })
}

fn record_value(record: &Record, clock: Clock, device: Option<&str>) -> Value {
    let mut object = Object(Map::new());
    object.word("type", "event");
    object.number("time_ns", clock.nanoseconds(record.time()));
    object.number("ticks", record.time());
    object.number("cpu", u64::from(record.cpu()));
    object.word("event", kind_name(record));
    describe(record, device, &mut object);
    Value::Object(object.0)
}

/// Fields as a JSON object: addresses and bit patterns as text in hexadecimal, counts as numbers.
struct Object(Map<String, Value>);

impl Object {
    fn insert(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }
}

impl Fields for Object {
    fn hex(&mut self, name: &str, value: u64, _digits: usize) {
        self.insert(name, Value::String(format!("{value:#x}")));
    }

    fn number(&mut self, name: &str, value: u64) {
        self.insert(name, Value::from(value));
    }

    fn word(&mut self, name: &str, value: &str) {
        self.insert(name, Value::from(value));
    }

    fn range(&mut self, name: &str, start: u64, _bytes: u64) {
        self.hex(name, start, 0);
    }
}
