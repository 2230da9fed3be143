//! The mappings at one moment: by device, as the buffers that the guest mapped.

use std::io::{self, Write};

use oche_trace::text::Clock;
use oche_types::addr::PAGE_BYTES;
use oche_types::event::Kind;
use schemars::JsonSchema;
use serde::Serialize;

use super::callers::by_caller;
use super::description::{TraceDescription, labelled};
use super::filter::{Chooser, EventFilter};
use super::lifetime::{Lifetimes, Mapping, StreamPlace};
use super::reader::{ByteSource, TraceFile, TraceItem};
use super::symbols::Symbols;
use super::words::{many, nanoseconds_between, seconds, size, span};

/// The answer to `oche trace maps`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Maps {
    /// The moment, in nanoseconds since Oche's start.
    pub at_ns: u64,
    /// Pages mapped then.
    pub pages: u64,
    /// Events missing before that moment: some of these may be gone, and others be there.
    pub missing: u64,
    /// The devices that had something mapped.
    pub devices: Vec<DeviceMaps>,
    #[serde(skip)]
    clock: Option<Clock>,
}

/// One device's mappings.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DeviceMaps {
    /// The device.
    pub device: String,
    /// The driver that the guest has bound to it, where the trace has that.
    pub driver: Option<String>,
    /// The DART's number.
    pub dart: usize,
    /// The stream's number.
    pub stream: usize,
    /// Other devices that reach the same, through the same tables.
    pub shared_with: Vec<String>,
    /// Pages mapped.
    pub pages: u64,
    /// Neighbouring pages that one flush brought, by IOVA.
    pub buffers: Vec<BufferRow>,
}

/// Neighbouring pages that one flush brought: a buffer as the guest mapped it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct BufferRow {
    /// Its first IOVA.
    pub iova: String,
    /// The first IOVA behind it.
    pub end: String,
    /// Its bytes, whole pages.
    pub bytes: u64,
    /// The first page's guest-physical address.
    pub gpa: String,
    /// `rw`, `r-` or `-w`.
    pub permission: &'static str,
    /// The first page's placement.
    pub placement: &'static str,
    /// When it was mapped, in nanoseconds since Oche's start.
    pub since_ns: u64,
    /// How long it had been mapped, in nanoseconds.
    pub age_ns: u64,
    /// The CPU that mapped it.
    pub cpu: u8,
    /// The guest's code that flushed.
    pub code: String,
}

/// Neighbouring pages that one flush brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedBuffer {
    /// The first page.
    pub first: Mapping,
    /// How many pages.
    pub pages: u32,
}

/// `mappings`, sorted by stream and IOVA, put together to buffers.
pub fn buffers(mappings: &[Mapping]) -> Vec<MappedBuffer> {
    let mut buffers: Vec<MappedBuffer> = Vec::new();
    let mut last: Option<Mapping> = None;
    for mapping in mappings {
        match (buffers.last_mut(), last) {
            (Some(buffer), Some(last)) if last.continues_with(mapping) => buffer.pages += 1,
            _ => buffers.push(MappedBuffer { first: *mapping, pages: 1 }),
        }
        last = Some(*mapping);
    }
    buffers
}

/// The mappings in `session` at `at_ns` nanoseconds since Oche's start; at the end where there
/// is none. Of these, `filter` chooses
/// which are listed.
pub fn maps<S: ByteSource>(
    trace: &TraceFile<S>,
    session: usize,
    at_ns: Option<u64>,
    filter: &EventFilter,
    symbols: &Symbols,
) -> Maps {
    let Some(description) = trace.sessions.get(session).map(|session| &session.description) else {
        return Maps { at_ns: 0, pages: 0, missing: 0, devices: Vec::new(), clock: None };
    };
    let clock = description.clock();
    let (mut lifetimes, mut missing, mut last) = (Lifetimes::default(), 0_u64, 0);
    for item in by_caller(trace.events_of(session), symbols) {
        match item {
            TraceItem::Record(record) => {
                if at_ns.is_some_and(|at| clock.nanoseconds(record.time()) > at) {
                    break;
                }
                last = record.time();
                lifetimes.apply(&record);
            }
            TraceItem::Lost { records, .. } | TraceItem::Unreadable { records, .. } => {
                missing = missing.saturating_add(records);
            }
            TraceItem::Session(_) => {}
        }
    }
    let at_ns = at_ns.unwrap_or(clock.nanoseconds(last));
    let mut mappings = lifetimes.sorted();
    let mut chooser = Chooser::new(filter, description, symbols);
    mappings.retain(|mapping| chooser.admits_mapping(mapping));
    let mut devices: Vec<DeviceMaps> = Vec::new();
    let mut owner = None;
    for buffer in buffers(&mappings) {
        let place = buffer.first.owner;
        if owner != Some(place) {
            owner = Some(place);
            devices.push(DeviceMaps {
                device: description.name_of(place),
                driver: description.driver_of(place).map(str::to_owned),
                dart: place.dart(),
                stream: place.stream(),
                shared_with: lifetimes
                    .partners(place)
                    .map(|other| description.name_of(other))
                    .collect(),
                pages: 0,
                buffers: Vec::new(),
            });
        }
        if let Some(device) = devices.last_mut() {
            device.pages += u64::from(buffer.pages);
            device.buffers.push(row(&buffer, clock, at_ns, symbols));
        }
    }
    Maps { at_ns, pages: mappings.len() as u64, missing, devices, clock: Some(clock) }
}

/// The streams that mapped something, got tables or were refused something, in order.
pub fn places<S: ByteSource>(trace: &TraceFile<S>, session: usize) -> Vec<StreamPlace> {
    let mut known: Vec<StreamPlace> = Vec::new();
    trace.scan(session, |record| {
        if let Some((dart, stream)) = record.dart().zip(record.stream()) {
            let place = StreamPlace::new(dart, stream);
            // One stream follows itself for thousands of events.
            if known.last() != Some(&place)
                && matches!(record.kind(), Some(Kind::Map | Kind::Attach | Kind::Fault))
            {
                known.retain(|other| *other != place);
                known.push(place);
            }
        }
    });
    known.sort();
    known
}

/// `nvme (DART 0 stream 1), ...`
pub fn name_all(places: &[StreamPlace], description: &TraceDescription) -> String {
    let names = places.iter().map(|place| {
        format!(
            "{} (DART {} stream {})",
            description.label_of(*place),
            place.dart(),
            place.stream()
        )
    });
    names.collect::<Vec<_>>().join(", ")
}

/// `buffer` for people.
pub fn row(buffer: &MappedBuffer, clock: Clock, at_ns: u64, symbols: &Symbols) -> BufferRow {
    let mapping = &buffer.first;
    let bytes = u64::from(buffer.pages) * PAGE_BYTES as u64;
    let since_ns = nanoseconds_between(clock, clock.start_ticks, mapping.since.time);
    BufferRow {
        iova: format!("{:#x}", mapping.iova.iova()),
        end: format!("{:#x}", mapping.iova.iova().saturating_add(bytes)),
        bytes,
        gpa: format!("{:#x}", mapping.page.address()),
        permission: permission_letters(mapping),
        placement: mapping.placement.name(),
        since_ns,
        age_ns: at_ns.saturating_sub(since_ns),
        cpu: mapping.since.cpu,
        code: symbols.name(mapping.since.program_counter),
    }
}

/// `rw`, `r-` or `-w`.
pub fn permission_letters(mapping: &Mapping) -> &'static str {
    match (mapping.permission.read, mapping.permission.write) {
        (true, true) => "rw",
        (true, false) => "r-",
        (false, true) => "-w",
        (false, false) => "--",
    }
}

/// Writes the answer for people.
///
/// # Errors
///
/// Those of `out`.
pub fn write_maps(maps: &Maps, out: &mut impl Write) -> io::Result<()> {
    let Some(clock) = maps.clock else { return writeln!(out, "the trace has no such boot") };
    let zero = Clock { counter_hz: 1_000_000_000, start_ticks: 0 };
    writeln!(
        out,
        "at {} s: {} mapped ({}) for {}",
        seconds(zero, maps.at_ns),
        many(maps.pages, "page"),
        size(maps.pages * PAGE_BYTES as u64),
        many(maps.devices.len() as u64, "device")
    )?;
    let _ = clock;
    if maps.missing > 0 {
        writeln!(
            out,
            "{} missing before: some of this may be out of date",
            many(maps.missing, "event")
        )?;
    }
    for device in &maps.devices {
        let label = labelled(&device.device, device.driver.as_deref());
        write!(out, "\n{label}  DART {} stream {}  ", device.dart, device.stream)?;
        write!(out, "{}, {}", many(device.pages, "page"), size(device.pages * PAGE_BYTES as u64))?;
        if !device.shared_with.is_empty() {
            write!(out, ", shared with {}", device.shared_with.join(", "))?;
        }
        writeln!(out)?;
        write_rows(&device.buffers, out)?;
    }
    Ok(())
}

/// Writes a table of buffers.
///
/// # Errors
///
/// Those of `out`.
pub fn write_rows(rows: &[BufferRow], out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "  {:<24} {:>9}  {:<4}{:<10}{:<13} {:>14} {:>8}  CPU, by",
        "IOVA", "size", "may", "placement", "guest page", "since", "age"
    )?;
    let zero = Clock { counter_hz: 1_000_000_000, start_ticks: 0 };
    for row in rows {
        writeln!(
            out,
            "  {:<24} {:>9}  {:<4}{:<10}{:<13} {:>14} {:>8}  {} {}",
            format!("{}-{}", row.iova, row.end),
            size(row.bytes),
            row.permission,
            row.placement,
            row.gpa,
            seconds(zero, row.since_ns),
            span(row.age_ns),
            row.cpu,
            row.code
        )?;
    }
    Ok(())
}
