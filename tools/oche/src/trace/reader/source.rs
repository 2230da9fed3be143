//! The source of a trace's bytes, and the index of a boot.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use oche_trace::record::RECORD_BYTES;

use super::super::description::TraceDescription;
use super::super::format::{ChunkHeader, End, Sample};

/// The source of a trace's bytes.
pub trait ByteSource {
    /// How many there are.
    ///
    /// # Errors
    ///
    /// Those of the file.
    fn length(&self) -> io::Result<u64>;

    /// Fills `into` with the bytes from `offset` on, all of which exist.
    ///
    /// # Errors
    ///
    /// Those of the file.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

impl ByteSource for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(into, offset)
    }
}

impl ByteSource for Vec<u8> {
    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = start.checked_add(into.len()).and_then(|end| self.get(start..end));
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// One boot of Oche.
#[derive(Debug)]
pub struct Session {
    /// The machine's description.
    pub description: TraceDescription,
    /// The counters as time went by; the last is the final one.
    pub samples: Vec<Sample>,
    /// The totals, if the recording came to its end.
    pub end: Option<End>,
    /// Where the payloads of its names are, in the order of the file; not read yet.
    pub(super) names: Vec<(u64, u64)>,
    /// Per CPU, its chunks of records in the order of the file.
    pub(super) cpus: Vec<Vec<RecordChunk>>,
}

/// A chunk of records, not read yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordChunk {
    pub(super) header: ChunkHeader,
    pub(super) payload_offset: u64,
    /// Bytes of the payload that are in the file: fewer than the header gives where the file was
    /// cut off.
    pub(super) bytes_present: u64,
}

impl Session {
    /// CPUs up to the highest that records are of.
    pub fn cpus(&self) -> usize {
        self.cpus.len()
    }

    /// Records that the file's chunks claim to hold, without reading them.
    pub fn records_claimed(&self) -> u64 {
        let chunks = self.cpus.iter().flatten();
        chunks.map(|chunk| chunk.bytes_present / RECORD_BYTES as u64).sum()
    }
}
