//! Follows the rings of a running guest and writes what they hold to a file, until stopped.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use oche_trace::directory::{Layout, Machine, description};
use oche_trace::record::{RECORD_BYTES, Record};
use oche_trace::ring::RingReader;
use oche_types::event::Kind;

use super::format::{ChunkHeader, ChunkKind, End, Found, MAX_PAYLOAD_BYTES, Sample};
use super::memory::TraceMemory;
use super::names::Names;
use output::{Output, now};

pub use names::NameWatch;
pub use output::{AroundFault, Keeping};

mod names;
mod output;

/// Time between two looks at the rings. A ring of 4 MiB a CPU overruns within it at 26 million
/// events a second.
const POLL: Duration = Duration::from_millis(5);
/// Time between two looks for a directory that is not there yet.
const SEARCH: Duration = Duration::from_millis(50);
/// Records of a CPU are written to the file when they are this many...
const CHUNK_RECORDS: usize = 8192;
/// ... or when this much time has passed, so that a file that is cut off lacks little.
const CHUNK_AGE: Duration = Duration::from_millis(200);
/// Time between two regular samples of the counters.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// A recording under way, in a thread of its own. Dropping it ends it.
#[derive(Debug)]
pub struct FileRecorder {
    orders: Option<Sender<Order>>,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<Result<Recording>>>,
}

/// The result of a recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// Boots of Oche that were seen; 0: the RAM file never held a trace directory.
    pub sessions: u64,
    /// Records in the file.
    pub records: u64,
    /// Records that the CPUs overwrote before they were read.
    pub lost: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Functions of the guest whose names are in the file.
    pub functions: u64,
    /// A fault ended it.
    pub has_fault: bool,
}

/// The progress of a recording, to be shown.
#[derive(Debug, Default)]
struct Progress {
    sessions: AtomicU64,
    records: AtomicU64,
    lost: AtomicU64,
    bytes: AtomicU64,
}

/// Writes what the boot before the present one left in the RAM file `ram` into `output`, which is
/// overwritten.
///
/// # Errors
///
/// Nothing was left, the RAM file cannot be read, or `output` cannot be written.
pub fn record_previous(ram: &Path, output: &Path) -> Result<Recording> {
    let file =
        File::open(ram).with_context(|| format!("opening the RAM file {}", ram.display()))?;
    let Some(memory) = TraceMemory::find_previous(&file)? else {
        bail!(
            "{}: nothing in it of a boot before (was Oche booted twice there, with as large rings?)",
            ram.display()
        );
    };
    let mut output = Output::create(output, Keeping::default())?;
    let mut session = Session::begin(&memory, &mut output)?;
    session.drain()?;
    let (records, lost) = session.end()?;
    Ok(Recording { sessions: 1, records, lost, bytes: output.bytes, ..Recording::default() })
}

/// A caller's request to the thread.
enum Order {
    /// Sample the counters, under this label.
    Mark(String),
}

impl FileRecorder {
    /// Begins to record into `output`, which is overwritten, from the RAM file `ram`. The file need
    /// not exist yet, nor hold a trace directory: the recorder waits for both until
    /// [`FileRecorder::finish`].
    ///
    /// # Errors
    ///
    /// `output` cannot be written.
    pub fn start(ram: &Path, output: &Path) -> Result<Self> {
        Self::start_keeping(ram, output, Keeping::default())
    }

    /// The same, of which it keeps what `keeping` says; it stops by itself where that says so
    /// (about: what is at hand is still written). For the path `-` it writes to standard output.
    ///
    /// # Errors
    ///
    /// `output` cannot be written.
    pub fn start_keeping(ram: &Path, output: &Path, keeping: Keeping) -> Result<Self> {
        let file = Output::create(output, keeping)?;
        let (orders, inbox) = mpsc::channel();
        let ram = ram.to_owned();
        let progress = Arc::new(Progress::default());
        let shared = Arc::clone(&progress);
        let thread = std::thread::Builder::new()
            .name("trace recorder".into())
            .spawn(move || record(&ram, file, &inbox, &shared))
            .context("starting the trace recorder")?;
        Ok(Self { orders: Some(orders), progress, thread: Some(thread) })
    }

    /// Puts a sample of the counters into the file, labelled: "disk written", "idle from here".
    pub fn mark(&self, label: &str) {
        if let Some(orders) = &self.orders {
            // A thread that has ended reports why in `finish`.
            let _ = orders.send(Order::Mark(label.to_owned()));
        }
    }

    /// Its progress so far.
    pub fn so_far(&self) -> Recording {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Progress { sessions, records, lost, bytes } = &*self.progress;
        Recording {
            sessions: of(sessions),
            records: of(records),
            lost: of(lost),
            bytes: of(bytes),
            ..Recording::default()
        }
    }

    /// Whether the thread has ended by itself: the size limit, or an error that
    /// [`FileRecorder::finish`] reports it.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Reads what is left in the rings, ends the file and returns the totals. Call it after the
    /// guest has stopped and before the RAM file goes.
    ///
    /// # Errors
    ///
    /// The RAM file could not be read, its directory is damaged or of another version, or the file
    /// could not be written.
    pub fn finish(mut self) -> Result<Recording> {
        self.orders = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(recording)) => recording,
            Some(Err(_)) | None => Err(anyhow!("the trace recorder's thread panicked")),
        }
    }
}

impl Drop for FileRecorder {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread: sessions one after the other until the caller hangs up.
fn record(
    ram: &Path,
    mut output: Output,
    inbox: &Receiver<Order>,
    progress: &Progress,
) -> Result<Recording> {
    let mut recording = Recording::default();
    let mut is_last_look = false;
    while !is_last_look && !output.is_full() {
        is_last_look = matches!(inbox.recv_timeout(SEARCH), Err(RecvTimeoutError::Disconnected));
        let Ok(file) = File::open(ram) else { continue };
        let Some(memory) = TraceMemory::find(&file)? else { continue };
        let mut session = Session::begin(&memory, &mut output)?;
        session.names = NameWatch::start(&file, session.machine.board.as_str());
        recording.sessions += 1;
        is_last_look |= session.follow(inbox, recording, progress)?;
        recording.has_fault |= session.fault.is_some();
        recording.functions += session.keep_last_names()?;
        let (records, lost) = session.end()?;
        recording.records += records;
        recording.lost += lost;
    }
    if output.keeping.until_fault.is_some() {
        recording.records = output.records;
    }
    recording.bytes = output.bytes;
    Ok(recording)
}

/// One boot of Oche being recorded.
struct Session<'a> {
    memory: &'a TraceMemory,
    machine: Machine,
    output: &'a mut Output,
    cpus: Vec<CpuRecording>,
    buffer: Vec<Record>,
    newest_ticks: u64,
    records: u64,
    /// The looks for the guest's names, and how many functions of it have one.
    names: Option<NameWatch>,
    functions: u64,
    /// When a fault was seen, where one is waited for.
    fault: Option<Instant>,
}

/// One CPU's records on their way from the ring to the file.
struct CpuRecording {
    reader: RingReader,
    pending: Vec<u8>,
    header: ChunkHeader,
    since: Instant,
    lost_before: u64,
}

impl<'a> Session<'a> {
    fn begin(memory: &'a TraceMemory, output: &'a mut Output) -> Result<Self> {
        let words = description(memory).collect();
        let found = Found { unix_nanoseconds: now(), offset: memory.offset(), words };
        output.chunk(ChunkKind::Directory, ChunkHeader::default(), &found.to_payload())?;
        Ok(Self {
            memory,
            machine: Machine::read(&found.words.as_slice()),
            output,
            cpus: cpus_of(memory.layout()),
            buffer: vec![Record::default(); CHUNK_RECORDS],
            newest_ticks: 0,
            records: 0,
            names: None,
            functions: 0,
            fault: None,
        })
    }

    /// Follows the rings. True: the caller has hung up, or there was a fault. False: Oche began
    /// anew or the file is full.
    fn follow(
        &mut self,
        inbox: &Receiver<Order>,
        before: Recording,
        progress: &Progress,
    ) -> Result<bool> {
        let mut sampled = Instant::now();
        loop {
            let order = inbox.recv_timeout(POLL);
            // Another boot has cleared the heads; what its own session records must not end up in
            // this one.
            if Layout::read(self.memory, self.memory.layout().total_bytes())
                != Ok(self.memory.layout())
                || Machine::read(self.memory) != self.machine
            {
                return Ok(false);
            }
            self.drain()?;
            let lost = self
                .cpus
                .iter()
                .fold(before.lost, |sum, cpu| sum.saturating_add(cpu.reader.lost()));
            progress.sessions.store(before.sessions, Ordering::Relaxed);
            progress.records.store(before.records + self.records, Ordering::Relaxed);
            progress.lost.store(lost, Ordering::Relaxed);
            progress.bytes.store(self.output.bytes, Ordering::Relaxed);
            match order {
                Ok(Order::Mark(label)) => self.sample(label)?,
                Err(RecvTimeoutError::Disconnected) => return Ok(true),
                Err(RecvTimeoutError::Timeout) if sampled.elapsed() >= SAMPLE_EVERY => {
                    self.sample(String::new())?;
                    sampled = Instant::now();
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let found: Vec<Names> = self.names.iter().flat_map(NameWatch::found).collect();
            self.keep_names(&found)?;
            if self.output.is_full() {
                return Ok(false);
            }
            if self.output.must_rotate() {
                self.end_file()?;
                self.output.rotate()?;
            }
            let after = self.output.keeping.until_fault.map(|around| around.after);
            if let (Some(fault), Some(after)) = (self.fault, after)
                && fault.elapsed() >= after
            {
                return Ok(true);
            }
        }
    }

    /// Takes what the rings hold. Bounded: a CPU that writes faster than we read gets one ring's
    /// worth a time.
    fn drain(&mut self) -> Result<()> {
        let rounds = 1 + self.memory.layout().ring_records() / CHUNK_RECORDS as u64;
        for (number, cpu) in self.cpus.iter_mut().enumerate() {
            for _ in 0..rounds {
                let batch = cpu.reader.read(self.memory, &mut self.buffer);
                cpu.lost_before += batch.lost_before;
                if batch.count == 0 {
                    break;
                }
                let records = self.buffer.get(..batch.count).unwrap_or_default();
                self.newest_ticks =
                    records.iter().map(Record::time).fold(self.newest_ticks, u64::max);
                let is_waiting = self.output.is_waiting() && self.fault.is_none();
                if is_waiting && records.iter().any(is_fault) {
                    self.fault = Some(Instant::now());
                }
                if cpu.lost_before > 0 {
                    cpu.flush(self.output)?;
                }
                if cpu.pending.is_empty() {
                    cpu.since = Instant::now();
                    cpu.header = ChunkHeader {
                        cpu: number as u32,
                        first: batch.first,
                        lost_before: std::mem::take(&mut cpu.lost_before),
                        first_time: records.first().map_or(0, Record::time),
                        ..ChunkHeader::default()
                    };
                }
                cpu.pending.extend(records.iter().flat_map(|record| record.to_bytes()));
                self.records += batch.count as u64;
                if cpu.pending.len() >= CHUNK_RECORDS * RECORD_BYTES {
                    cpu.flush(self.output)?;
                }
            }
            if cpu.since.elapsed() >= CHUNK_AGE {
                cpu.flush(self.output)?;
            }
        }
        if self.fault.is_some() {
            self.output.release()?;
        }
        Ok(())
    }

    fn sample(&mut self, label: String) -> Result<()> {
        let sample = Sample {
            unix_nanoseconds: now(),
            newest_ticks: self.newest_ticks,
            label,
            counters: self.memory.counters(),
        };
        self.output.chunk(ChunkKind::Sample, ChunkHeader::default(), &sample.to_payload())
    }

    fn keep_names(&mut self, found: &[Names]) -> Result<()> {
        for names in found {
            self.functions += names.functions.len() as u64;
            let mut payload = names.to_payload();
            if payload.len() as u64 > MAX_PAYLOAD_BYTES {
                let missing = vec!["the guest has more names than a trace keeps".to_owned()];
                payload = Names { missing, ..Names::default() }.to_payload();
            }
            self.output.chunk(ChunkKind::Names, ChunkHeader::default(), &payload)?;
        }
        Ok(())
    }

    /// Looks for names once more; returns how many functions have one.
    fn keep_last_names(&mut self) -> Result<u64> {
        let found = self.names.take().map(NameWatch::finish).unwrap_or_default();
        self.keep_names(&found)?;
        Ok(self.functions)
    }

    /// Writes what is pending, a last sample and the totals. Returns records written and records
    /// lost.
    fn end(mut self) -> Result<(u64, u64)> {
        self.output.release()?;
        self.end_file()?;
        let lost = self.cpus.iter().fold(0_u64, |sum, cpu| sum.saturating_add(cpu.reader.lost()));
        Ok((self.records, lost))
    }

    /// Ends the file that is being written, as if the recording ended.
    fn end_file(&mut self) -> Result<()> {
        for cpu in &mut self.cpus {
            cpu.flush(self.output)?;
        }
        self.sample(String::new())?;
        let cpus = self.cpus.iter().map(|cpu| (cpu.reader.passed(), cpu.reader.lost())).collect();
        let end = End { unix_nanoseconds: now(), cpus };
        self.output.chunk(ChunkKind::End, ChunkHeader::default(), &end.to_payload())
    }
}

/// Whether a device was refused something, or wrote where it should not.
fn is_fault(record: &Record) -> bool {
    matches!(record.kind(), Some(Kind::Fault | Kind::RedZone))
}

fn cpus_of(layout: Layout) -> Vec<CpuRecording> {
    let readers = (0..layout.cpus()).filter_map(|cpu| RingReader::new(layout, cpu));
    readers
        .map(|reader| CpuRecording {
            reader,
            pending: Vec::new(),
            header: ChunkHeader::default(),
            since: Instant::now(),
            lost_before: 0,
        })
        .collect()
}

impl CpuRecording {
    fn flush(&mut self, output: &mut Output) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        output.chunk(ChunkKind::Records, self.header, &self.pending)?;
        self.pending.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
