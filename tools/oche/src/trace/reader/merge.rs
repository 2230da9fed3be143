//! All CPUs' records in the order of time, and what is missing between them.

use std::collections::VecDeque;
use std::slice;

use oche_trace::record::{RECORD_BYTES, Record};

use super::super::format::{ChunkHeader, checksum};
use super::source::{ByteSource, RecordChunk, Session};

/// An element of a trace, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceItem {
    /// A boot of Oche begins: the session with this index.
    Session(usize),
    /// An event.
    Record(Record),
    /// Records of a CPU that were overwritten in the ring before the recorder came.
    Lost {
        /// The CPU.
        cpu: usize,
        /// How many.
        records: u64,
    },
    /// Records of a CPU that were recorded but cannot be read: the file is damaged there.
    Unreadable {
        /// The CPU.
        cpu: usize,
        /// How many.
        records: u64,
    },
}

/// Iterator over a trace. Ends quietly where the file can no longer be read; the records missing
/// then show as [`TraceItem::Unreadable`].
#[derive(Debug)]
pub struct Events<'a, S> {
    source: &'a S,
    sessions: slice::Iter<'a, Session>,
    begun: usize,
    cpus: Vec<CpuStream<'a>>,
    /// The CPU whose records come next, and until which time.
    current: usize,
    until: u64,
}

impl<'a, S: ByteSource> Events<'a, S> {
    pub(super) fn new(source: &'a S, sessions: &'a [Session]) -> Self {
        Self { source, sessions: sessions.iter(), begun: 0, cpus: Vec::new(), current: 0, until: 0 }
    }

    /// Finds the CPU with the earliest record, and how long it stays that.
    fn choose(&mut self) -> bool {
        let times = self
            .cpus
            .iter()
            .enumerate()
            .filter_map(|(cpu, stream)| Some((stream.next_time()?, cpu)));
        let mut earliest = None;
        let mut second = u64::MAX;
        for (time, cpu) in times {
            match earliest {
                Some((least, _)) if time >= least => second = second.min(time),
                Some((least, _)) => {
                    second = least;
                    earliest = Some((time, cpu));
                }
                None => earliest = Some((time, cpu)),
            }
        }
        let Some((_, cpu)) = earliest else { return false };
        (self.current, self.until) = (cpu, second);
        true
    }

    fn begin_session(&mut self) -> Option<TraceItem> {
        let session = self.sessions.next()?;
        let streams =
            session.cpus.iter().enumerate().map(|(cpu, chunks)| CpuStream::new(cpu, chunks));
        self.cpus = streams.collect();
        for stream in &mut self.cpus {
            stream.fill(self.source);
        }
        self.begun += 1;
        (self.current, self.until) = (0, 0);
        Some(TraceItem::Session(self.begun - 1))
    }
}

impl<S: ByteSource> Iterator for Events<'_, S> {
    type Item = TraceItem;

    fn next(&mut self) -> Option<TraceItem> {
        loop {
            if let Some(stream) = self.cpus.get_mut(self.current)
                && stream.next_time().is_some_and(|time| time <= self.until)
            {
                let item = stream.pop();
                if stream.next_time().is_none() {
                    stream.fill(self.source);
                }
                return item;
            }
            if !self.choose() {
                return self.begin_session();
            }
        }
    }
}

/// A visitor of a whole trace: it is shown what [`Events`] would return, which costs
/// half as much.
pub trait Visitor {
    /// An event.
    fn record(&mut self, record: &Record);

    /// The next item that is no event; never [`TraceItem::Record`].
    fn other(&mut self, item: TraceItem);

    /// The next records of `cpu` are missing. [`Visitor::other`] receives their number right before
    /// the one after them.
    fn gap_begins(&mut self, cpu: usize) {
        let _ = cpu;
    }
}

impl<S: ByteSource> Events<'_, S> {
    /// Shows `visitor` all that is left.
    pub fn show(mut self, visitor: &mut impl Visitor) {
        loop {
            if let Some(stream) = self.cpus.get_mut(self.current) {
                while stream.next_time().is_some_and(|time| time <= self.until) {
                    match stream.gaps.pop_front() {
                        Some(gap) => visitor.other(gap),
                        None => stream.show_until(self.until, visitor),
                    }
                    if stream.next_time().is_none() {
                        stream.fill(self.source);
                        stream.show_gap(visitor);
                    }
                }
            }
            if !self.choose() {
                match self.begin_session() {
                    Some(session) => {
                        visitor.other(session);
                        self.cpus.iter().for_each(|stream| stream.show_gap(visitor));
                    }
                    None => return,
                }
            }
        }
    }
}

/// Shows `visit` every record of `session`, one CPU after the other: faster than in the order of
/// time.
pub(super) fn scan(source: &impl ByteSource, session: &Session, mut visit: impl FnMut(Record)) {
    for (cpu, chunks) in session.cpus.iter().enumerate() {
        CpuStream::new(cpu, chunks).drain(source, &mut visit);
    }
}

/// The first and the last time of `session`'s records, in ticks, as the sound chunks at the ends of
/// each CPU's have them.
pub(super) fn span(source: &impl ByteSource, session: &Session) -> Option<(u64, u64)> {
    let mut span: Option<(u64, u64)> = None;
    for (cpu, chunks) in session.cpus.iter().enumerate() {
        let mut stream = CpuStream::new(cpu, &[]);
        let first = chunks.iter().find(|chunk| stream.read(chunk, source).is_some());
        let last = chunks.iter().rfind(|chunk| stream.read(chunk, source).is_some());
        for chunk in first.into_iter().chain(last) {
            if stream.read(chunk, source).is_none() {
                continue;
            }
            for bytes in stream.payload.as_chunks::<RECORD_BYTES>().0 {
                let time = Record::from_bytes(bytes).time();
                let (first, last) = span.unwrap_or((time, time));
                span = Some((first.min(time), last.max(time)));
            }
        }
    }
    span
}

/// One CPU's records, a chunk at a time.
#[derive(Debug)]
struct CpuStream<'a> {
    cpu: usize,
    chunks: slice::Iter<'a, RecordChunk>,
    /// Payload of the chunk under way; records before `at` have been given out.
    payload: Vec<u8>,
    at: usize,
    /// Gaps to report before the next record.
    gaps: VecDeque<TraceItem>,
    /// Number of the record that would follow without a gap.
    expected: u64,
    /// Records in damaged chunks since the last sound one.
    damaged: u64,
}

impl<'a> CpuStream<'a> {
    fn new(cpu: usize, chunks: &'a [RecordChunk]) -> Self {
        let (payload, gaps) = (Vec::new(), VecDeque::new());
        Self { cpu, chunks: chunks.iter(), payload, at: 0, gaps, expected: 0, damaged: 0 }
    }

    /// Shows `visit` all records that are left, and nothing of what is missing between them.
    fn drain(&mut self, source: &impl ByteSource, visit: &mut impl FnMut(Record)) {
        loop {
            self.gaps.clear();
            let (records, _) =
                self.payload.get(self.at..).unwrap_or_default().as_chunks::<RECORD_BYTES>();
            for bytes in records {
                visit(Record::from_bytes(bytes));
            }
            self.at = self.payload.len();
            self.fill(source);
            if self.record().is_none() {
                return;
            }
        }
    }

    /// Shows `visitor` the records at hand up to the time `until`.
    #[inline]
    fn show_until(&mut self, until: u64, visitor: &mut impl Visitor) {
        let (records, _) =
            self.payload.get(self.at..).unwrap_or_default().as_chunks::<RECORD_BYTES>();
        for bytes in records {
            let record = Record::from_bytes(bytes);
            if record.time() > until {
                break;
            }
            visitor.record(&record);
            self.at += RECORD_BYTES;
        }
    }

    /// Reports to `visitor` a gap before the next record.
    fn show_gap(&self, visitor: &mut impl Visitor) {
        if !self.gaps.is_empty() {
            visitor.gap_begins(self.cpu);
        }
    }

    fn record(&self) -> Option<Record> {
        let bytes = self.payload.get(self.at..)?.first_chunk::<RECORD_BYTES>()?;
        Some(Record::from_bytes(bytes))
    }

    /// Time of the next item; gaps are as early as can be. `None`: nothing is left at hand.
    fn next_time(&self) -> Option<u64> {
        match self.record() {
            Some(record) => Some(record.time()),
            None if !self.gaps.is_empty() => Some(u64::MAX),
            None => None,
        }
    }

    fn pop(&mut self) -> Option<TraceItem> {
        if let Some(gap) = self.gaps.pop_front() {
            return Some(gap);
        }
        let record = self.record()?;
        self.at += RECORD_BYTES;
        Some(TraceItem::Record(record))
    }

    /// Takes the next chunks until there is something to give out.
    fn fill(&mut self, source: &impl ByteSource) {
        while self.next_time().is_none() {
            let Some(chunk) = self.chunks.next() else { return };
            let header = &chunk.header;
            let Some(records) = self.read(chunk, source) else {
                // Its header may be what is damaged. A sound chunk after it shows how much is
                // missing; where none comes, its size does.
                self.damaged =
                    self.damaged.saturating_add(chunk.bytes_present / RECORD_BYTES as u64);
                if self.chunks.as_slice().is_empty() {
                    self.gap(self.damaged, |cpu, records| TraceItem::Unreadable { cpu, records });
                }
                continue;
            };
            self.damaged = 0;
            let missing = header.first.saturating_sub(self.expected);
            let lost = header.lost_before.min(missing);
            self.gap(missing - lost, |cpu, records| TraceItem::Unreadable { cpu, records });
            self.gap(lost, |cpu, records| TraceItem::Lost { cpu, records });
            self.expected = header.first.saturating_add(records);
        }
    }

    fn gap(&mut self, records: u64, item: impl Fn(usize, u64) -> TraceItem) {
        if records > 0 {
            self.gaps.push_back(item(self.cpu, records));
        }
    }

    /// Reads the chunk and returns how many records it has, or `None` where it is damaged.
    fn read(&mut self, chunk: &RecordChunk, source: &impl ByteSource) -> Option<u64> {
        self.at = 0;
        // What it held before need not be cleared: all of it is overwritten, or left out.
        self.payload.resize(usize::try_from(chunk.bytes_present).unwrap_or(0), 0);
        let is_read = source.read_at(chunk.payload_offset, &mut self.payload).is_ok();
        let is_whole = chunk.bytes_present == chunk.header.payload_bytes;
        let sound = if !is_read {
            0
        } else if is_whole {
            let is_sound = checksum(&chunk.header, &self.payload) == chunk.header.checksum;
            if is_sound { self.payload.len() / RECORD_BYTES } else { 0 }
        } else {
            numbered(&self.payload, &chunk.header)
        };
        self.payload.truncate(sound * RECORD_BYTES);
        if sound > 0 { Some(sound as u64) } else { None }
    }
}

/// How many records in `payload` are those that `header` announces, by their numbers and CPU: no
/// checksum speaks for a chunk that was cut off, but its records' own numbers do.
pub(super) fn numbered(payload: &[u8], header: &ChunkHeader) -> usize {
    let (records, _) = payload.as_chunks::<RECORD_BYTES>();
    let is_numbered = |(place, bytes): &(usize, &[u8; RECORD_BYTES])| {
        let record = Record::from_bytes(bytes);
        record.sequence() == (header.first as u32).wrapping_add(*place as u32)
            && u32::from(record.cpu()) == header.cpu
    };
    records.iter().enumerate().take_while(is_numbered).count()
}
