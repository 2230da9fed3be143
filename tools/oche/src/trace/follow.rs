//! Events as they happen: from a guest's RAM file, or from a trace as it is written.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use oche_trace::directory::{DESCRIPTION_BYTES, Layout, Machine};
use oche_trace::record::{RECORD_BYTES, Record};
use oche_trace::ring::RingReader;
use oche_trace::words::Words;

use super::control;
use super::description::TraceDescription;
use super::format::{ChunkKind, FILE_MAGIC, Found, Sample};
use super::memory::{TraceMemory, by_name};
use super::names::Names;
use super::stream::ChunkStream;

/// Records that are taken in one go, so that the screen answers in between.
const MAX_RECORDS: usize = 1 << 16;
/// Time between two looks for a directory that is not there yet.
const SEARCH: Duration = Duration::from_millis(200);

/// Receives events as they come.
pub trait Follower {
    /// A boot of Oche begins.
    fn begin(&mut self, description: TraceDescription);

    /// An event. Those of one CPU come in order.
    fn take(&mut self, record: &Record);

    /// So many records of `cpu` are lost before its next one.
    fn lose(&mut self, cpu: usize, records: u64);

    /// What the guest calls its code and devices. Several add up.
    fn learn(&mut self, _names: Names) {}

    /// The hypervisor's counters.
    fn count(&mut self, counters: Vec<(String, u64)>);
}

/// A source of events.
#[derive(Debug)]
pub enum LiveSource {
    /// A guest's RAM file.
    Ram(Box<Ram>),
    /// A trace file that may grow, a port, or standard input.
    Stream(Stream),
}

impl LiveSource {
    /// Opens `path`: a trace if it begins as one or is no regular file, a RAM file else; `-` is
    /// standard input.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stream(Stream::new(std::io::stdin(), None, true)));
        }
        let opening = || format!("opening {}", path.display());
        let mut file = match File::open(path) {
            Ok(file) => file,
            // A guest that is not there yet.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Self::Ram(Box::new(Ram::new(path))));
            }
            Err(error) => return Err(error).with_context(opening),
        };
        let kind = file.metadata().with_context(opening)?.file_type();
        if kind.is_dir() {
            anyhow::bail!(
                "{} is a directory, neither a trace nor a guest's memory",
                path.display()
            );
        }
        if !kind.is_file() {
            // A port: what is typed goes back to Oche through it.
            let both = File::options().read(true).write(true).open(path);
            let orders = both.as_ref().ok().and_then(|file| file.try_clone().ok());
            return Ok(Self::Stream(Stream::new(both.unwrap_or(file), orders, true)));
        }
        let mut magic = [0; FILE_MAGIC.len()];
        let is_trace = file.read_exact(&mut magic).is_ok() && magic == FILE_MAGIC;
        if is_trace {
            let file = File::open(path).with_context(opening)?;
            return Ok(Self::Stream(Stream::new(file, None, false)));
        }
        Ok(Self::Ram(Box::new(Ram::new(path))))
    }

    /// Gives what is new to `follower`. Returns whether there may be more right now.
    ///
    /// # Errors
    ///
    /// The source cannot be read, or is no trace.
    pub fn poll(&mut self, follower: &mut impl Follower) -> Result<bool> {
        match self {
            Self::Ram(ram) => ram.poll(follower),
            Self::Stream(stream) => stream.poll(follower),
        }
    }

    /// Orders a change of what is recorded, a line of `oche trace filter`.
    ///
    /// # Errors
    ///
    /// The source takes no orders, or the line makes no sense.
    pub fn order(&mut self, line: &str) -> Result<()> {
        match self {
            Self::Ram(ram) => control::change(&ram.path, &[line.to_owned()]).map(drop),
            Self::Stream(stream) => stream.order(line),
        }
    }

    /// The recording filter, where the source knows it: lines as of `oche trace filter`.
    pub fn recorded(&self) -> Option<String> {
        match self {
            Self::Ram(ram) => {
                let session = ram.session.as_ref()?;
                Some(control::describe(&oche_trace::control::Control::current(&session.memory)?))
            }
            Self::Stream(_) => None,
        }
    }

    /// Whether no more can come: the end of a pipe.
    pub fn has_ended(&self) -> bool {
        match self {
            Self::Ram(_) => false,
            Self::Stream(stream) => stream.is_over,
        }
    }

    /// Whether events come as they happen, so that time passes without them, too.
    pub fn is_running(&self) -> bool {
        match self {
            Self::Ram(ram) => ram.session.is_some(),
            Self::Stream(stream) => !stream.is_over,
        }
    }
}

/// A guest's RAM file.
#[derive(Debug)]
pub struct Ram {
    path: PathBuf,
    session: Option<Session>,
    searched: Option<Instant>,
}

#[derive(Debug)]
struct Session {
    memory: TraceMemory,
    machine: Machine,
    readers: Vec<RingReader>,
    buffer: Vec<Record>,
}

impl Ram {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), session: None, searched: None }
    }

    fn poll(&mut self, follower: &mut impl Follower) -> Result<bool> {
        let is_over = self.session.as_ref().is_some_and(|session| !session.goes_on());
        if is_over {
            self.session = None;
        }
        if self.session.is_none() {
            if self.searched.is_some_and(|searched| searched.elapsed() < SEARCH) {
                return Ok(false);
            }
            self.searched = Some(Instant::now());
            // It may be gone with its guest, and come again with the next.
            let Ok(file) = File::open(&self.path) else { return Ok(false) };
            let Some(memory) = TraceMemory::find(&file)? else { return Ok(false) };
            let words: Vec<u64> =
                (0..DESCRIPTION_BYTES / 8).map(|index| memory.load(index)).collect();
            follower.begin(TraceDescription::read(&words));
            self.session = Some(Session::new(memory));
        }
        let Some(session) = &mut self.session else { return Ok(false) };
        Ok(session.drain(follower))
    }
}

impl Session {
    fn new(memory: TraceMemory) -> Self {
        let layout = memory.layout();
        Self {
            machine: Machine::read(&memory),
            readers: (0..layout.cpus()).filter_map(|cpu| RingReader::new(layout, cpu)).collect(),
            buffer: vec![Record::default(); MAX_RECORDS],
            memory,
        }
    }

    /// Whether it is still the same boot of Oche.
    fn goes_on(&self) -> bool {
        let layout = self.memory.layout();
        Layout::read(&self.memory, layout.total_bytes()) == Ok(layout)
            && Machine::read(&self.memory) == self.machine
    }

    fn drain(&mut self, follower: &mut impl Follower) -> bool {
        let mut has_more = false;
        let mut records = Vec::new();
        for (cpu, reader) in self.readers.iter_mut().enumerate() {
            let batch = reader.read(&self.memory, &mut self.buffer);
            follower.lose(cpu, batch.lost_before);
            has_more |= batch.count == MAX_RECORDS;
            records.extend_from_slice(self.buffer.get(..batch.count).unwrap_or_default());
        }
        // What one CPU maps another may unmap: in the order of time.
        records.sort_by_key(Record::time);
        records.iter().for_each(|record| follower.take(record));
        follower.count(by_name(&self.memory.counters()));
        has_more
    }
}

/// A trace as it is written.
#[derive(Debug)]
pub struct Stream {
    pieces: Receiver<std::io::Result<Vec<u8>>>,
    orders: Option<File>,
    chunks: ChunkStream,
    is_over: bool,
}

impl Stream {
    /// Reads `input` in a thread, for a port or a pipe makes its reader wait. At the end of a file
    /// it waits for more, at the end of a pipe (`ends`) it is over.
    fn new(mut input: impl Read + Send + 'static, orders: Option<File>, ends: bool) -> Self {
        // Few pieces: what is not taken waits where it comes from.
        let (sender, pieces) = mpsc::sync_channel(4);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            loop {
                let piece = match input.read(&mut buffer) {
                    Ok(0) if ends => return,
                    Ok(0) => {
                        std::thread::sleep(Duration::from_millis(50));
                        Ok(Vec::new())
                    }
                    Ok(count) => Ok(buffer.get(..count).unwrap_or_default().to_vec()),
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let is_error = piece.is_err();
                if sender.send(piece).is_err() || is_error {
                    return;
                }
            }
        });
        Self { pieces, orders, chunks: ChunkStream::default(), is_over: false }
    }

    fn poll(&mut self, follower: &mut impl Follower) -> Result<bool> {
        match self.pieces.try_recv() {
            Ok(piece) => self.chunks.feed(&piece.context("reading the trace")?),
            Err(TryRecvError::Empty) => return Ok(false),
            Err(TryRecvError::Disconnected) => {
                self.is_over = true;
                return Ok(false);
            }
        }
        while let Some((header, payload)) = self.chunks.next_chunk()? {
            match ChunkKind::from_number(header.kind) {
                Some(ChunkKind::Directory) => {
                    if let Some(found) = Found::from_payload(&payload) {
                        follower.begin(TraceDescription::read(&found.words));
                    }
                }
                Some(ChunkKind::Records) => {
                    follower.lose(header.cpu as usize, header.lost_before);
                    let records = payload.as_chunks::<RECORD_BYTES>().0;
                    records
                        .iter()
                        .map(Record::from_bytes)
                        .for_each(|record| follower.take(&record));
                }
                Some(ChunkKind::Sample) => {
                    if let Some(sample) = Sample::from_payload(&payload) {
                        follower.count(by_name(&sample.counters));
                    }
                }
                // Damaged names are as none.
                Some(ChunkKind::Names) => {
                    if let Ok(names) = Names::from_payload(&payload) {
                        follower.learn(names);
                    }
                }
                Some(ChunkKind::End) | None => {}
            }
        }
        Ok(true)
    }

    fn order(&mut self, line: &str) -> Result<()> {
        let orders = self.orders.as_mut().ok_or_else(|| anyhow!("a trace file takes no orders"))?;
        oche_trace::control::Control::default().apply(line).map_err(|error| anyhow!("{error}"))?;
        writeln!(orders, "{line}").context("sending the order")
    }
}
