//! Packets: put together in batches, each descriptor once, counters at a bounded rate.

use std::collections::BTreeSet;
use std::io::{self, Write};

use oche_trace::text::Clock;
use prost::Message;
use rustc_hash::{FxHashMap, FxHashSet};

use super::super::description::TraceDescription;
use super::super::filter::{Chooser, EventFilter};
use super::super::lifetime::{PLACES, StreamPlace};
use super::super::reader::Session;
use super::super::spans::{Lane, Spans};
use super::super::symbols::{NameCache, Symbols};
use super::schema::{Annotation, EventKind, Trace, TracePacket, TrackDescriptor, TrackEvent};

/// Shortest time between two values of one counter, in nanoseconds.
const COUNTER_STEP: u64 = 1_000_000;
/// Packets that are put together before they are written.
const BATCH: usize = 256;

/// Writes the packets of a trace.
pub(super) struct Writer<'a, W> {
    pub(super) description: &'a TraceDescription,
    pub(super) clock: Clock,
    pub(super) chooser: Chooser<'a>,
    names: NameCache<'a>,
    out: &'a mut W,
    batch: Trace,
    pub(super) spans: Spans,
    /// By buffer: its row among those of its stream.
    pub(super) rows: FxHashMap<Lane, u32>,
    pub(super) free_rows: FxHashMap<StreamPlace, BTreeSet<u32>>,
    pub(super) tracks: FxHashSet<u64>,
    pub(super) counters: FxHashMap<u64, Counter>,
    /// Bytes mapped by stream, then by placement of each.
    pub(super) mapped: Vec<[u64; 4]>,
    /// By DART: flushes since the moment.
    pub(super) flushes: FxHashMap<usize, (u64, u64)>,
    /// By CPU: whether a flush is under way.
    pub(super) syncing: FxHashSet<u8>,
    pub(super) now: u64,
}

/// A counter's value that is not written yet.
#[derive(Clone, Copy, Default)]
pub(super) struct Counter {
    pub(super) written_at: Option<u64>,
    pub(super) due: Option<(u64, i64)>,
}

impl<'a, W: Write> Writer<'a, W> {
    pub(super) fn new(
        session: &'a Session,
        filter: &'a EventFilter,
        symbols: &'a Symbols,
        out: &'a mut W,
    ) -> Self {
        Self {
            description: &session.description,
            clock: session.description.clock(),
            chooser: Chooser::new(filter, &session.description, symbols),
            names: NameCache::new(symbols),
            out,
            batch: Trace::default(),
            spans: Spans::default(),
            rows: FxHashMap::default(),
            free_rows: FxHashMap::default(),
            tracks: FxHashSet::default(),
            counters: FxHashMap::default(),
            mapped: vec![[0; 4]; PLACES],
            flushes: FxHashMap::default(),
            syncing: FxHashSet::default(),
            now: 0,
        }
    }

    pub(super) fn code(&mut self, program_counter: u64) -> String {
        match self.names.get(program_counter) {
            Some(name) => name.to_owned(),
            None => format!("{program_counter:#x}"),
        }
    }

    /// Whose mapping or incident it is. The tracks say so as well, but a query would have to join
    /// three tables to read it there.
    pub(super) fn place(&self, place: StreamPlace) -> Vec<Annotation> {
        vec![
            Annotation::text("device", self.description.label_of(place)),
            Annotation::number("dart", place.dart() as u64),
            Annotation::number("stream", place.stream() as u64),
        ]
    }

    pub(super) fn declare(&mut self, descriptor: TrackDescriptor) -> io::Result<()> {
        if !self.tracks.insert(descriptor.uuid) {
            return Ok(());
        }
        self.push(TracePacket { track_descriptor: Some(descriptor), ..TracePacket::default() })
    }

    /// Takes a counter's new value; of those within [`COUNTER_STEP`] the last is written.
    pub(super) fn counter(&mut self, track: u64, value: i64) -> io::Result<()> {
        let now = self.now;
        let counter = self.counters.entry(track).or_default();
        let is_far =
            counter.written_at.is_none_or(|written| now.saturating_sub(written) >= COUNTER_STEP);
        let due = counter.due.replace((now, value));
        if !is_far {
            return Ok(());
        }
        counter.written_at = Some(now);
        match due.filter(|(time, _)| *time < now) {
            Some((time, value)) => self.counter_event(track, time, value),
            None => Ok(()),
        }
    }

    pub(super) fn counter_event(&mut self, track: u64, time: u64, value: i64) -> io::Result<()> {
        let event =
            TrackEvent { counter_value: Some(value), ..TrackEvent::new(EventKind::Counter, track) };
        self.event(time, event)
    }

    pub(super) fn event(&mut self, time: u64, event: TrackEvent) -> io::Result<()> {
        self.push(TracePacket {
            timestamp: Some(time),
            track_event: Some(event),
            ..TracePacket::default()
        })
    }

    pub(super) fn push(&mut self, packet: TracePacket) -> io::Result<()> {
        self.batch.packet.push(TracePacket { trusted_packet_sequence_id: Some(1), ..packet });
        if self.batch.packet.len() >= BATCH { self.write_batch() } else { Ok(()) }
    }

    /// Traces can be concatenated, so a batch is a trace.
    fn write_batch(&mut self) -> io::Result<()> {
        self.out.write_all(&self.batch.encode_to_vec())?;
        self.batch.packet.clear();
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.write_batch()?;
        self.out.flush()
    }
}
