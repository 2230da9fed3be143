//! Reads a trace file: finds its chunks, checks them, and gives out all CPUs' records in the order
//! of time.
//!
//! Total: any bytes are answered with what could be read of them and with warnings about the rest.
//! Memory grows with the number of chunks and not with the number of records.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail};
use oche_trace::directory::{MAX_CPUS, VERSION};
use oche_trace::record::{RECORD_BYTES, Record};

use super::description::TraceDescription;
use super::format::{
    CHUNK_HEADER_BYTES, CHUNK_MAGIC, ChunkHeader, ChunkKind, End, FILE_HEADER_BYTES, FILE_MAGIC,
    FILE_VERSION, Found, MAX_PAYLOAD_BYTES, Sample, checksum, word,
};
use super::names::Names;

mod merge;
mod source;

pub use merge::{Events, TraceItem, Visitor};
use source::RecordChunk;
pub use source::{ByteSource, Session};

/// A trace file, indexed.
#[derive(Debug)]
pub struct TraceFile<S = File> {
    source: S,
    /// Nanoseconds since 1970 UTC when the recording began.
    pub begun_unix_nanoseconds: u64,
    /// The boots of Oche in it, oldest first.
    pub sessions: Vec<Session>,
    /// The file's faults, a line each.
    pub warnings: Vec<String>,
}

impl TraceFile {
    /// Opens the trace at `path`.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is no trace, or is one of a later version. Damage within is no
    /// error: see [`TraceFile::warnings`].
    pub fn open(path: &Path) -> Result<Self> {
        crate::destination::refuse_pipe(path)?;
        let file =
            File::open(path).with_context(|| format!("opening the trace {}", path.display()))?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            bail!("{} is a directory, not a trace", path.display());
        }
        Self::from_source(file).with_context(|| format!("reading the trace {}", path.display()))
    }
}

impl<S: ByteSource> TraceFile<S> {
    /// Indexes the trace in `source`.
    ///
    /// # Errors
    ///
    /// As for [`TraceFile::open`].
    pub fn from_source(source: S) -> Result<Self> {
        let length = source.length()?;
        let mut header = [0; FILE_HEADER_BYTES];
        if length < FILE_HEADER_BYTES as u64 {
            bail!(
                "not a trace: it has {length} bytes, and a trace has {FILE_HEADER_BYTES} at least"
            );
        }
        source.read_at(0, &mut header)?;
        if header.first_chunk() != Some(&FILE_MAGIC) {
            bail!("not a trace: it does not begin with OCHEFILE");
        }
        let version = word(&header, 8).unwrap_or(0) as u32;
        if version != FILE_VERSION {
            bail!("a trace of version {version}; this program reads version {FILE_VERSION}");
        }
        let begun_unix_nanoseconds = word(&header, 16).unwrap_or(0);
        let mut trace =
            Self { source, begun_unix_nanoseconds, sessions: Vec::new(), warnings: Vec::new() };
        trace.index(length)?;
        Ok(trace)
    }

    /// All records of all sessions. Within a session the CPUs are merged by time.
    pub fn events(&self) -> Events<'_, S> {
        Events::new(&self.source, &self.sessions)
    }

    /// Shows `visit` every record of the session with this index, one CPU after the other. Faster
    /// than [`TraceFile::events`] for those who look for a few.
    pub fn scan(&self, session: usize, visit: impl FnMut(Record)) {
        if let Some(session) = self.sessions.get(session) {
            merge::scan(&self.source, session, visit);
        }
    }

    /// The first and the last time of the session's records, in nanoseconds since Oche's start;
    /// `None` where it has none. Reads one sound chunk at each end of each CPU's.
    pub fn span_ns(&self, session: usize) -> Option<(u64, u64)> {
        let session = self.sessions.get(session)?;
        let clock = session.description.clock();
        let (first, last) = merge::span(&self.source, session)?;
        Some((clock.nanoseconds(first), clock.nanoseconds(last)))
    }

    /// All records of one session, in the order of time.
    pub fn events_of(&self, session: usize) -> Events<'_, S> {
        Events::new(
            &self.source,
            self.sessions.get(session).map(std::slice::from_ref).unwrap_or_default(),
        )
    }

    /// What the guest of the session calls its code and its devices, in the order in which it was
    /// learned.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or the names are damaged although their checksum is right.
    pub fn names(&self, session: usize) -> Result<Vec<Names>> {
        let places = self.sessions.get(session).map(|session| &*session.names).unwrap_or_default();
        let read = |(offset, bytes): &(u64, u64)| {
            Names::from_payload(&self.payload(*offset, *bytes)?).context("the guest's names")
        };
        places.iter().map(read).collect()
    }

    fn index(&mut self, length: u64) -> Result<()> {
        let mut at = FILE_HEADER_BYTES as u64;
        while at < length {
            let Some((header, end)) = self.chunk_at(at, length)? else {
                let Some(next) = self.next_chunk(at + 1, length)? else {
                    self.warnings.push(format!(
                        "the last {} bytes are no chunk: cut off or damaged",
                        length - at
                    ));
                    return Ok(());
                };
                self.warnings.push(format!(
                    "{} bytes at offset {at:#x} are damaged and left out",
                    next - at
                ));
                at = next;
                continue;
            };
            self.take(header, at + CHUNK_HEADER_BYTES as u64, length)?;
            at = end;
        }
        let is_whole = self.sessions.last().is_some_and(|session| session.end.is_some());
        if self.sessions.is_empty() {
            self.warnings
                .push("the trace is empty: no Oche was found while it was recorded".into());
        } else if !is_whole {
            self.warnings.push("the recording has no end: it was cut off, or still goes on".into());
        }
        Ok(())
    }

    /// The header of the chunk at `at` and where the chunk ends. `None`: none begins here, or what
    /// should follow it does not.
    fn chunk_at(&self, at: u64, length: u64) -> Result<Option<(ChunkHeader, u64)>> {
        let Some(header) = self.header_at(at, length)? else { return Ok(None) };
        let end = at + CHUNK_HEADER_BYTES as u64 + header.payload_bytes;
        if end > length {
            return Ok(if self.is_cut_off(&header, at, length)? {
                Some((header, end))
            } else {
                None
            });
        }
        let follows = end == length || self.begins_chunk(end, length)?;
        // With a damaged chunk behind it, this one may still be sound: its checksum decides.
        Ok(if follows || self.is_sound(&header, at)? { Some((header, end)) } else { None })
    }

    fn header_at(&self, at: u64, length: u64) -> Result<Option<ChunkHeader>> {
        let mut bytes = [0; CHUNK_HEADER_BYTES];
        if length - at < bytes.len() as u64 {
            return Ok(None);
        }
        self.source.read_at(at, &mut bytes)?;
        let header = ChunkHeader::from_bytes(&bytes);
        Ok(header.filter(|header| {
            header.payload_bytes <= MAX_PAYLOAD_BYTES && header.payload_bytes.is_multiple_of(8)
        }))
    }

    fn begins_chunk(&self, at: u64, length: u64) -> Result<bool> {
        let mut magic = [0; CHUNK_MAGIC.len()];
        let present = magic.len().min(usize::try_from(length - at).unwrap_or(usize::MAX));
        let (magic, _) = magic.split_at_mut(present);
        self.source.read_at(at, magic)?;
        Ok(CHUNK_MAGIC.starts_with(magic))
    }

    /// Whether it is the file's end that ended this chunk, and not a wrong length that put its end
    /// there: then no other chunk begins behind what is surely part of it. Records bear numbers;
    /// those in sequence are part of it, even if they are snapshots of bytes that look like a
    /// chunk.
    fn is_cut_off(&self, header: &ChunkHeader, at: u64, length: u64) -> Result<bool> {
        let start = at + CHUNK_HEADER_BYTES as u64;
        let mut own = 0;
        if header.kind == ChunkKind::Records as u32 {
            let payload = self.payload(start, length - start)?;
            own = (merge::numbered(&payload, header) * RECORD_BYTES) as u64;
        }
        Ok(self.next_chunk(start + own, length)?.is_none())
    }

    fn is_sound(&self, header: &ChunkHeader, at: u64) -> Result<bool> {
        let payload = self.payload(at + CHUNK_HEADER_BYTES as u64, header.payload_bytes)?;
        Ok(checksum(header, &payload) == header.checksum)
    }

    /// Reads `bytes` (at most [`MAX_PAYLOAD_BYTES`], and all in the file).
    fn payload(&self, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let mut payload = vec![0; usize::try_from(bytes).unwrap_or(0)];
        self.source.read_at(offset, &mut payload)?;
        Ok(payload)
    }

    /// The offset of the next chunk's magic, from `from` on.
    fn next_chunk(&self, from: u64, length: u64) -> Result<Option<u64>> {
        const WINDOW: u64 = 1 << 16;
        let mut at = from;
        while at + (CHUNK_MAGIC.len() as u64) <= length {
            let window = self.payload(at, WINDOW.min(length - at))?;
            if let Some(found) =
                window.windows(CHUNK_MAGIC.len()).position(|bytes| bytes == CHUNK_MAGIC)
            {
                return Ok(Some(at + found as u64));
            }
            at += window.len() as u64 - (CHUNK_MAGIC.len() as u64 - 1);
        }
        Ok(None)
    }

    /// Files the chunk away by its kind.
    fn take(&mut self, header: ChunkHeader, payload_offset: u64, length: u64) -> Result<()> {
        let present = header.payload_bytes.min(length - payload_offset);
        let is_cut_off = present < header.payload_bytes;
        let Some(kind) = ChunkKind::from_number(header.kind) else {
            self.warnings.push(format!(
                "a chunk of kind {}, from a later version, is left out",
                header.kind
            ));
            return Ok(());
        };
        if kind == ChunkKind::Records {
            self.take_records(RecordChunk { header, payload_offset, bytes_present: present });
            return Ok(());
        }
        let payload = self.payload(payload_offset, present)?;
        let is_sound = !is_cut_off && checksum(&header, &payload) == header.checksum;
        if is_sound
            && kind == ChunkKind::Names
            && let Some(session) = self.sessions.last_mut()
        {
            session.names.push((payload_offset, present));
            session.description.learn_drivers(Names::devices_in(&payload).bound());
        }
        if !is_sound || self.take_payload(kind, &payload).is_none() {
            let what = if is_cut_off { "cut off" } else { "damaged" };
            self.warnings.push(format!(
                "the {kind:?} chunk at offset {payload_offset:#x} is {what} and left out"
            ));
        }
        Ok(())
    }

    fn take_records(&mut self, chunk: RecordChunk) {
        let cpu = chunk.header.cpu as usize;
        let session = self.sessions.last_mut().filter(|_| cpu < MAX_CPUS);
        let Some(session) = session else {
            self.warnings.push(
                "records with no description before them, or of no possible CPU, are left out"
                    .into(),
            );
            return;
        };
        if session.cpus.len() <= cpu {
            session.cpus.resize_with(cpu + 1, Vec::new);
        }
        if let Some(chunks) = session.cpus.get_mut(cpu) {
            chunks.push(chunk);
        }
    }

    fn take_payload(&mut self, kind: ChunkKind, payload: &[u8]) -> Option<()> {
        match kind {
            ChunkKind::Directory => {
                let found = Found::from_payload(payload)?;
                let version = found.words.get(1).copied().unwrap_or(0) as u32;
                if version != VERSION {
                    self.warnings.push(format!(
                        "its records are of version {version}, not {VERSION}: they may be misread"
                    ));
                }
                self.sessions.push(Session {
                    description: TraceDescription::read(&found.words),
                    samples: Vec::new(),
                    end: None,
                    names: Vec::new(),
                    cpus: Vec::new(),
                });
            }
            ChunkKind::Sample => {
                self.sessions.last_mut()?.samples.push(Sample::from_payload(payload)?)
            }
            ChunkKind::End => self.sessions.last_mut()?.end = Some(End::from_payload(payload)?),
            // Their places alone are kept: of `take`.
            ChunkKind::Records | ChunkKind::Names => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests;
