//! Where a recording goes: one file or several in turn, standard output, or memory until a fault.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use oche_trace::record::RECORD_BYTES;

use super::super::format::{ChunkHeader, ChunkKind, chunk, file_header};

/// What is kept of a recording.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keeping {
    /// Stop when so many bytes are written.
    pub limit_bytes: Option<u64>,
    /// Begin another file when one has so many bytes, and keep so many files.
    pub rotate: Option<(u64, u32)>,
    /// Stop at a fault.
    pub until_fault: Option<AroundFault>,
}

/// What is kept around a fault.
#[derive(Clone, Copy, Debug)]
pub struct AroundFault {
    /// How long before it.
    pub before: Duration,
    /// How long after it.
    pub after: Duration,
}

/// The output being written. A file begins with the first chunk: until then what was there before
/// stays.
pub(super) struct Output {
    sink: Option<Sink>,
    /// `None`: standard output.
    path: Option<PathBuf>,
    /// Bytes of all files.
    pub(super) bytes: u64,
    /// Records in all files.
    pub(super) records: u64,
    bytes_in_file: u64,
    pub(super) keeping: Keeping,
    /// The file's number where there are several.
    number: u32,
    /// The description of the boot, which each file begins with.
    directory: Vec<u8>,
    /// The guest's names in this boot, which each file has.
    names: Vec<Vec<u8>>,
    /// CPUs of which the file has records.
    begun: BTreeSet<u32>,
    /// What comes before a CPU's first records is not in this file.
    is_continued: bool,
    /// Chunks that wait for a fault.
    held: Option<VecDeque<Held>>,
}

enum Sink {
    File(File),
    Standard(io::Stdout),
}

struct Held {
    since: Instant,
    kind: ChunkKind,
    header: ChunkHeader,
    payload: Vec<u8>,
}

impl Output {
    pub(super) fn create(path: &Path, keeping: Keeping) -> Result<Self> {
        let path = (path != Path::new("-")).then(|| path.to_owned());
        let held = keeping.until_fault.map(|_| VecDeque::new());
        let output = Self {
            sink: None,
            path,
            bytes: 0,
            records: 0,
            bytes_in_file: 0,
            keeping,
            number: 1,
            directory: Vec::new(),
            names: Vec::new(),
            begun: BTreeSet::new(),
            is_continued: false,
            held,
        };
        output.try_to_write()?;
        Ok(output)
    }

    /// A file that cannot be written is reported before the wait for a guest.
    fn try_to_write(&self) -> Result<()> {
        let Some(path) = self.file_path() else { return Ok(()) };
        let action = || format!("creating the trace {}", path.display());
        let is_new = !path.exists();
        let opened = File::options().write(true).create(true).truncate(false).open(&path);
        opened.with_context(action)?;
        if is_new {
            std::fs::remove_file(&path).with_context(action)?;
        }
        Ok(())
    }

    /// The file that is written: `boot.3.oche` is the third of `boot.oche`.
    fn file_path(&self) -> Option<PathBuf> {
        let path = self.path.as_ref()?;
        Some(if self.keeping.rotate.is_some() { numbered(path, self.number) } else { path.clone() })
    }

    /// Whether no more is to be written.
    pub(super) fn is_full(&self) -> bool {
        self.keeping.limit_bytes.is_some_and(|limit| self.bytes >= limit)
    }

    /// Whether another file is to begin.
    pub(super) fn must_rotate(&self) -> bool {
        self.keeping.rotate.is_some_and(|(bytes, _)| self.bytes_in_file >= bytes)
    }

    /// Begins another file, and removes the oldest if there are too many.
    pub(super) fn rotate(&mut self) -> Result<()> {
        self.sink = None;
        self.number += 1;
        (self.bytes_in_file, self.is_continued) = (0, true);
        self.begun.clear();
        if let (Some(path), Some((_, keep))) = (&self.path, self.keeping.rotate)
            && let Some(old) = self.number.checked_sub(keep).filter(|old| *old > 0)
        {
            let old = numbered(path, old);
            std::fs::remove_file(&old)
                .with_context(|| format!("removing the old trace {}", old.display()))?;
        }
        self.write_head()
    }

    /// Writes what each file of the boot begins with.
    fn write_head(&mut self) -> Result<()> {
        let (directory, names) = (self.directory.clone(), self.names.clone());
        self.write_chunk(ChunkKind::Directory, ChunkHeader::default(), &directory)?;
        for names in names {
            self.write_chunk(ChunkKind::Names, ChunkHeader::default(), &names)?;
        }
        Ok(())
    }

    /// Whether chunks wait for a fault.
    pub(super) fn is_waiting(&self) -> bool {
        self.held.is_some()
    }

    /// Writes what waits for a fault, and waits no more.
    pub(super) fn release(&mut self) -> Result<()> {
        let Some(held) = self.held.take() else { return Ok(()) };
        if !self.directory.is_empty() {
            self.write_head()?;
        }
        for Held { kind, header, payload, .. } in held {
            self.write_chunk(kind, header, &payload)?;
        }
        Ok(())
    }

    /// Writes a chunk, or keeps it while it waits for a fault.
    pub(super) fn chunk(
        &mut self,
        kind: ChunkKind,
        header: ChunkHeader,
        payload: &[u8],
    ) -> Result<()> {
        if kind == ChunkKind::Directory {
            self.directory = payload.to_vec();
            self.names.clear();
            self.begun.clear();
        }
        if kind == ChunkKind::Names {
            self.names.push(payload.to_vec());
            if self.is_waiting() {
                return Ok(());
            }
        }
        let Some((held, around)) = self.held.as_mut().zip(self.keeping.until_fault) else {
            return self.write_chunk(kind, header, payload);
        };
        if kind == ChunkKind::Directory {
            // Another boot: what the one before did does not explain a fault of this one.
            held.clear();
            self.is_continued = false;
            return Ok(());
        }
        held.push_back(Held { since: Instant::now(), kind, header, payload: payload.to_vec() });
        while held.front().is_some_and(|first| first.since.elapsed() > around.before) {
            held.pop_front();
            self.is_continued = true;
        }
        Ok(())
    }

    fn write_chunk(
        &mut self,
        kind: ChunkKind,
        mut header: ChunkHeader,
        payload: &[u8],
    ) -> Result<()> {
        header.kind = kind as u32;
        if kind == ChunkKind::Records {
            self.records += (payload.len() / RECORD_BYTES) as u64;
        }
        if kind == ChunkKind::Records && self.begun.insert(header.cpu) && self.is_continued {
            // What is not in the file is missing from it, wherever else it may be.
            header.lost_before = header.first;
        }
        self.write(&chunk(header, payload))
    }

    /// One write a chunk: a file that is cut off ends within the last one.
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let path = self.file_path();
        let name =
            path.as_ref().map_or("standard output".into(), |path| path.display().to_string());
        let action = || format!("writing the trace {name}");
        let is_new = self.sink.is_none();
        let sink = match (&mut self.sink, path) {
            (Some(sink), _) => sink,
            (none, Some(path)) => none.insert(Sink::File(File::create(path).with_context(action)?)),
            (none, None) => none.insert(Sink::Standard(io::stdout())),
        };
        let header = if is_new { file_header(now()).to_vec() } else { Vec::new() };
        match sink {
            Sink::File(file) => {
                file.write_all(&header)
                    .and_then(|()| file.write_all(bytes))
                    .with_context(action)?;
            }
            Sink::Standard(out) => {
                let mut out = out.lock();
                let written = out.write_all(&header).and_then(|()| out.write_all(bytes));
                written.and_then(|()| out.flush()).with_context(action)?;
            }
        }
        let written = (header.len() + bytes.len()) as u64;
        self.bytes += written;
        self.bytes_in_file += written;
        Ok(())
    }
}

/// `path` with `number` before its ending.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let ending = path.extension().map(|ending| ending.to_string_lossy().into_owned());
    path.with_extension(match ending {
        Some(ending) => format!("{number}.{ending}"),
        None => number.to_string(),
    })
}

/// Nanoseconds since 1970 UTC.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
