//! A trace in the Common Trace Format 1.8, which babeltrace2 and Trace Compass read: a folder with
//! a description in TSDL and a stream a CPU. <https://diamon.org/ctf/v1.8.3/>
//!
//! A stream is packets of some tens of KiB. A packet counts the events that its CPU lost up to its
//! end, so a loss ends a packet: readers then know between which events it lies. The kinds of
//! events are generated from the table of events; docs/trace.md describes what is the same for all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use oche_trace::call_chain::callers;
use oche_trace::record::Record;
use oche_trace::text::{Clock, Fields, describe_payload};
use oche_types::event::Kind;

use super::filter::{Chooser, EventFilter};
use super::reader::{ByteSource, Session, TraceFile, TraceItem};
use super::symbols::{NameCache, Symbols};
use super::values::WithValues;
use metadata::{Facts, METADATA, STREAM};

mod folder;
mod metadata;

/// Source: Common Trace Format 1.8.3, 5.2.
const MAGIC: u32 = 0xc1fc_1fc1;
/// Bytes of a packet's header and context.
const PACKET_BEGIN_BYTES: usize = 4 + 16 + 4 + 6 * 8 + 4;
/// A packet that has as many bytes is written.
const PACKET_BYTES: usize = 1 << 16;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CtfCounts {
    /// Events.
    pub events: u64,
    /// Events that were lost, or that damage made unreadable.
    pub lost: u64,
    /// CPUs with events or losses.
    pub streams: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Writes the events of `session` that `filter` admits into the folder `path`, which must be new,
/// empty, or an earlier export.
///
/// # Errors
///
/// `path` is something else, or cannot be written.
pub fn write_ctf<S: ByteSource>(
    trace: &TraceFile<S>,
    session: usize,
    filter: &EventFilter,
    symbols: &Symbols,
    path: &Path,
) -> Result<CtfCounts> {
    let of = trace.sessions.get(session).context("the trace is empty: there is no boot in it")?;
    let clock = of.description.clock();
    let facts = Facts {
        description: &of.description,
        boot: session + 1,
        recorded_unix_ns: trace.begun_unix_nanoseconds,
        start_unix_ns: super::summary::wall_clock(of, clock, clock.start_ticks),
    };
    folder::write_folder(path, |folder| {
        let mut writer = Writer {
            session: of,
            clock,
            chooser: Chooser::new(filter, &of.description, symbols),
            symbols,
            names: NameCache::new(symbols),
            uuid: facts.uuid(),
            folder: folder.to_owned(),
            streams: Vec::new(),
            counts: CtfCounts::default(),
        };
        for (item, value) in WithValues::new(trace.events_of(session)) {
            writer.item(item, &value)?;
        }
        let mut counts = writer.finish()?;
        let text = facts.tsdl();
        let place = folder.join(METADATA);
        fs::write(&place, &text).with_context(|| format!("writing {}", place.display()))?;
        counts.bytes += text.len() as u64;
        Ok(counts)
    })
}

struct Writer<'a> {
    session: &'a Session,
    clock: Clock,
    chooser: Chooser<'a>,
    symbols: &'a Symbols,
    names: NameCache<'a>,
    uuid: [u8; 16],
    folder: PathBuf,
    /// By CPU.
    streams: Vec<Option<Stream>>,
    counts: CtfCounts,
}

impl Writer<'_> {
    fn item(&mut self, item: TraceItem, value: &[u8]) -> Result<()> {
        match item {
            TraceItem::Record(record) if self.chooser.admits(&record, value) => {
                self.event(&record, value)?;
            }
            TraceItem::Lost { cpu, records } | TraceItem::Unreadable { cpu, records }
                if self.chooser.has_cpu(cpu) =>
            {
                self.counts.lost = self.counts.lost.saturating_add(records);
                let (at, uuid) = (self.stream(cpu)?, self.uuid);
                let Some(Some(stream)) = self.streams.get_mut(at) else { return Ok(()) };
                if stream.has_events() {
                    self.counts.bytes += stream.finish(uuid)?;
                }
                stream.discarded = stream.discarded.saturating_add(records);
                stream.is_loss_due = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn event(&mut self, record: &Record, value: &[u8]) -> Result<()> {
        let at = self.stream(usize::from(record.cpu()))?;
        let Some(Some(stream)) = self.streams.get_mut(at) else { return Ok(()) };
        let time = self.clock.nanoseconds(record.time());
        let device = self.session.description.device_of(record).unwrap_or_default();
        let code = self.names.get(record.program_counter()).unwrap_or_default();
        stream.event(record, time, device, code);
        stream.value(record, value, self.symbols);
        self.counts.events += 1;
        if stream.packet.0.len() >= PACKET_BYTES {
            self.counts.bytes += stream.finish(self.uuid)?;
        }
        Ok(())
    }

    /// The place of `cpu`'s stream, which begins with its first event or loss.
    fn stream(&mut self, cpu: usize) -> Result<usize> {
        if self.streams.len() <= cpu {
            self.streams.resize_with(cpu + 1, || None);
        }
        if let Some(place) = self.streams.get_mut(cpu)
            && place.is_none()
        {
            *place = Some(Stream::new(&self.folder, cpu)?);
            self.counts.streams += 1;
        }
        Ok(cpu)
    }

    fn finish(mut self) -> Result<CtfCounts> {
        for stream in self.streams.iter_mut().flatten() {
            // Where a loss is the last that is known of a CPU, a packet without events counts it.
            if stream.has_events() || stream.is_loss_due {
                self.counts.bytes += stream.finish(self.uuid)?;
            }
        }
        Ok(self.counts)
    }
}

/// A CPU's stream, and its packet in the making.
struct Stream {
    file: File,
    place: PathBuf,
    cpu: u32,
    packet: Packet,
    /// Times of the packet's first and of the newest event, in nanoseconds.
    begin: u64,
    now: u64,
    /// Events lost since the stream's begin; whether the file does not have the last of them yet.
    discarded: u64,
    is_loss_due: bool,
    packets: u64,
}

impl Stream {
    fn new(folder: &Path, cpu: usize) -> Result<Self> {
        let place = folder.join(format!("{STREAM}{cpu}"));
        let file = File::create(&place).with_context(|| format!("writing {}", place.display()))?;
        Ok(Self {
            file,
            place,
            cpu: cpu as u32,
            packet: Packet::new(),
            begin: 0,
            now: 0,
            discarded: 0,
            is_loss_due: false,
            packets: 0,
        })
    }

    fn has_events(&self) -> bool {
        self.packet.0.len() > PACKET_BEGIN_BYTES
    }

    /// Adds an event up to the end of its fields; in the order of the description.
    fn event(&mut self, record: &Record, time: u64, device: &str, code: &str) {
        // Time does not go back in a stream, whatever a damaged file says.
        self.now = self.now.max(time);
        if !self.has_events() {
            self.begin = self.now;
        }
        let signed = |number: Option<usize>| {
            number.and_then(|number| i16::try_from(number).ok()).unwrap_or(-1)
        };
        let packet = &mut self.packet;
        packet.push(&[record.kind().map_or(0, Kind::number)]);
        packet.push(&self.now.to_le_bytes());
        packet.push(&signed(record.dart().map(|dart| dart.index())).to_le_bytes());
        packet.push(&signed(record.stream().map(|stream| stream.index())).to_le_bytes());
        packet.text(device);
        packet.push(&record.program_counter().to_le_bytes());
        packet.text(code);
        packet.push(&record.sequence().to_le_bytes());
        describe_payload(record, packet);
    }

    /// Adds what the records behind an event hold.
    fn value(&mut self, record: &Record, value: &[u8], symbols: &Symbols) {
        let packet = &mut self.packet;
        match record.kind() {
            Some(Kind::Watch | Kind::RedZone) => packet.sequence(value, 1),
            Some(Kind::Callers | Kind::CallChain) => {
                let chain = callers(record, value).unwrap_or_default();
                let bytes: Vec<u8> = chain.into_iter().flat_map(u64::to_le_bytes).collect();
                packet.sequence(&bytes, 8);
                packet.text(&super::output::chain(record, value, symbols));
            }
            _ => {}
        }
    }

    /// Writes the packet and begins another; gives its bytes.
    fn finish(&mut self, uuid: [u8; 16]) -> Result<u64> {
        if !self.has_events() {
            self.begin = self.now;
        }
        let bits = (self.packet.0.len() as u64) * 8;
        let times = [self.begin, self.now];
        let context = [times[0], times[1], bits, bits, self.discarded, self.packets];
        let begin = MAGIC
            .to_le_bytes()
            .into_iter()
            .chain(uuid)
            .chain(0_u32.to_le_bytes())
            .chain(context.into_iter().flat_map(u64::to_le_bytes))
            .chain(self.cpu.to_le_bytes());
        for (to, from) in self.packet.0.iter_mut().zip(begin) {
            *to = from;
        }
        let written: io::Result<()> = self.file.write_all(&self.packet.0);
        written.with_context(|| format!("writing {}", self.place.display()))?;
        self.packets += 1;
        self.is_loss_due = false;
        self.packet.0.truncate(PACKET_BEGIN_BYTES);
        Ok(bits / 8)
    }
}

/// A packet in the making: room for its header and context, then events.
struct Packet(Vec<u8>);

impl Packet {
    fn new() -> Self {
        let mut bytes = Vec::with_capacity(PACKET_BYTES + 1024);
        bytes.resize(PACKET_BEGIN_BYTES, 0);
        Self(bytes)
    }

    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A string, up to the byte that would end it early.
    fn text(&mut self, text: &str) {
        let text = text.split('\0').next().unwrap_or_default();
        self.push(text.as_bytes());
        self.push(&[0]);
    }

    /// Elements of `size` bytes: how many, then they.
    fn sequence(&mut self, bytes: &[u8], size: usize) {
        let count = u16::try_from(bytes.len() / size).unwrap_or(u16::MAX);
        self.push(&count.to_le_bytes());
        self.push(bytes.get(..usize::from(count) * size).unwrap_or_default());
    }
}

impl Fields for Packet {
    fn hex(&mut self, _name: &str, value: u64, _digits: usize) {
        self.push(&value.to_le_bytes());
    }

    fn number(&mut self, _name: &str, value: u64) {
        self.push(&value.to_le_bytes());
    }

    fn word(&mut self, _name: &str, value: &str) {
        self.text(value);
    }

    fn range(&mut self, _name: &str, start: u64, _bytes: u64) {
        self.push(&start.to_le_bytes());
    }

    fn hex_or_none(&mut self, _name: &str, value: Option<u64>, _digits: usize) {
        self.push(&[u8::from(value.is_some())]);
        if let Some(value) = value {
            self.push(&value.to_le_bytes());
        }
    }

    fn bytes(&mut self, _name: &str, words: [u64; 2]) {
        words.into_iter().for_each(|word| self.push(&word.to_le_bytes()));
    }
}

#[cfg(test)]
mod tests;
