//! What a trace's events say of mappings and faults, from their JSON alone.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use oche::trace::TraceFile;
use oche::trace::description::TraceDescription;
use oche::trace::filter::EventFilter;
use oche::trace::lifetime::StreamPlace;
use oche::trace::output::write_json;
use oche::trace::reader::ByteSource;
use oche::trace::symbols::Symbols;
use oche::trace::words::parse_address;
use oche_types::addr::PAGE_BYTES;
use oche_types::dart::stream::{DartId, StreamId};
use serde_json::Value;

/// Bytes of a page.
pub(super) const PAGE: u64 = PAGE_BYTES as u64;

/// A DART and a stream.
pub(super) type Place = (u64, u64);

/// Mappings and faults.
pub(super) struct Events {
    description: TraceDescription,
    /// By place and IOVA of the page: its mappings, one after the other.
    pages: BTreeMap<(Place, u64), Vec<Mapped>>,
    /// In the order of time.
    pub(super) faults: Vec<Fault>,
}

/// A page, mapped.
pub(super) struct Mapped {
    pub(super) place: Place,
    pub(super) iova: u64,
    pub(super) may: String,
    pub(super) since_ns: u64,
    pub(super) code: String,
    /// Until when, and by which code.
    pub(super) until: Option<(u64, String)>,
}

/// A fault.
pub(super) struct Fault {
    pub(super) time_ns: u64,
    pub(super) place: Place,
    pub(super) iova: u64,
}

impl Events {
    /// Reads the only boot of `trace`.
    pub(super) fn read<S: ByteSource>(trace: &TraceFile<S>, symbols: &Symbols) -> Result<Self> {
        let mut json = Vec::new();
        write_json(trace, &EventFilter::default(), symbols, &mut json)?;
        let session = trace.sessions.first().context("the trace is empty")?;
        let description = session.description.clone();
        let mut events = Self { description, pages: BTreeMap::new(), faults: Vec::new() };
        for line in json.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let event: Value = serde_json::from_slice(line)?;
            events.take(&event).with_context(|| format!("the event {event}"))?;
        }
        Ok(events)
    }

    fn take(&mut self, event: &Value) -> Result<()> {
        let kind = event["event"].as_str().unwrap_or_default();
        if !["map", "unmap", "io_page_fault"].contains(&kind) {
            return Ok(());
        }
        let number = |name: &str| event[name].as_u64().with_context(|| format!("no {name}"));
        let text = |name: &str| event[name].as_str().with_context(|| format!("no {name}"));
        let (time_ns, place) = (number("time_ns")?, (number("dart")?, number("stream")?));
        let iova = address(text("iova")?)?;
        if kind == "io_page_fault" {
            self.faults.push(Fault { time_ns, place, iova });
            return Ok(());
        }
        let code = text("code_name").or_else(|_| text("pc"))?.to_owned();
        let mappings = self.pages.entry((place, iova)).or_default();
        // A map over another ends that one.
        if let Some(last) = mappings.last_mut().filter(|last| last.until.is_none()) {
            last.until = Some((time_ns, code.clone()));
        }
        if kind == "map" {
            let may = text("perm")?.to_owned();
            mappings.push(Mapped { place, iova, may, since_ns: time_ns, code, until: None });
        }
        Ok(())
    }

    /// All mappings, with the name of the device.
    pub(super) fn mappings(&self) -> impl Iterator<Item = (String, &Mapped)> {
        self.pages.values().flatten().map(|mapped| (self.device(mapped.place), mapped))
    }

    /// The name of the device at `place`, as views print it.
    pub(super) fn device(&self, (dart, stream): Place) -> String {
        let of = DartId::new(dart as usize).zip(StreamId::new(stream as usize));
        of.map_or_else(String::new, |(dart, stream)| {
            self.description.label_of(StreamPlace::new(dart, stream))
        })
    }

    /// How many later mappings of the same device and direction ended.
    pub(super) fn outlived(&self, mapped: &Mapped) -> u64 {
        let is_counted = |other: &&Mapped| {
            (other.place, &other.may) == (mapped.place, &mapped.may)
                && other.since_ns > mapped.since_ns
                && other.until.is_some()
        };
        self.pages.values().flatten().filter(is_counted).count() as u64
    }

    /// The last mapping at the address of `fault` that began before it.
    pub(super) fn last_before(&self, fault: &Fault) -> Option<&Mapped> {
        let mappings = self.pages.get(&(fault.place, fault.iova / PAGE * PAGE))?;
        mappings.iter().rev().find(|mapped| mapped.since_ns <= fault.time_ns)
    }
}

/// The address that `text` is.
pub(super) fn address(text: &str) -> Result<u64> {
    parse_address(text).map_err(|wanted| anyhow!("{text} is not {wanted}"))
}
