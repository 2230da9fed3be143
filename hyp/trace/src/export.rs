//! The trace file made by Oche itself, piece by piece, for a reader inside the guest. Allocates in
//! [`Export::new`] alone.

use alloc::vec::Vec;

use crate::directory::{Layout, MAX_CPUS, Machine, counters, description, max_counters};
use crate::file::{
    ChunkHeader, ChunkKind, FILE_HEADER_BYTES, FOUND_BYTES, chunk_bytes, end_bytes, file_header,
    push_chunk, push_end, push_found, push_sample, sample_bytes,
};
use crate::record::{RECORD_BYTES, Record};
use crate::ring::RingReader;
use crate::words::Words;

/// Records in a chunk: with its header just less than a page, so that an event does not wait long
/// for others.
pub const CHUNK_RECORDS: usize = 126;

/// Bytes of heap that an export takes when it is made, as a buddy allocator rounds them, of any
/// layout.
pub const HEAP_BYTES: usize = (MAX_CPUS * size_of::<Cpu>()).next_power_of_two()
    + (CHUNK_RECORDS * size_of::<Record>()).next_power_of_two()
    + max_staged_bytes(MAX_CPUS).next_power_of_two();

/// The largest number of bytes that are staged at one time, of a trace of `cpus` CPUs.
const fn max_staged_bytes(cpus: usize) -> usize {
    let beginning = FILE_HEADER_BYTES + chunk_bytes(FOUND_BYTES);
    let records = chunk_bytes(CHUNK_RECORDS * RECORD_BYTES);
    // The last counters and the end are staged together.
    let end = chunk_bytes(sample_bytes(max_counters(cpus))) + chunk_bytes(end_bytes(cpus));
    let most = if beginning > records { beginning } else { records };
    if most > end { most } else { end }
}

/// A trace file on its way out, from the oldest record that the rings still hold.
#[derive(Debug)]
pub struct Export {
    layout: Layout,
    machine: Machine,
    cpus: Vec<Cpu>,
    /// The CPU whose records are taken next.
    next_cpu: usize,
    buffer: Vec<Record>,
    /// Bytes that were made, and how many of them went out.
    staged: Vec<u8>,
    sent: usize,
    newest_ticks: u64,
    sampled_ticks: u64,
    state: State,
    /// It is a session of a file that has begun already.
    is_continuation: bool,
    is_ending: bool,
}

#[derive(Debug)]
struct Cpu {
    reader: RingReader,
    lost_before: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The file's beginning is due.
    Begin,
    /// Records and samples as they come.
    Running,
    /// The end has been made.
    Over,
}

impl Export {
    /// A file that begins now, of the trace in `words`.
    pub fn new(words: &impl Words, layout: Layout) -> Self {
        let readers = (0..layout.cpus()).filter_map(|cpu| RingReader::new(layout, cpu));
        let mut cpus = Vec::with_capacity(layout.cpus());
        cpus.extend(readers.map(|reader| Cpu { reader, lost_before: 0 }));
        Self {
            layout,
            machine: Machine::read(words),
            cpus,
            next_cpu: 0,
            buffer: alloc::vec![Record::default(); CHUNK_RECORDS],
            staged: Vec::with_capacity(max_staged_bytes(layout.cpus())),
            sent: 0,
            newest_ticks: 0,
            sampled_ticks: 0,
            state: State::Begin,
            is_continuation: false,
            is_ending: false,
        }
    }

    /// Begins a new file, or one more session of a file that has begun, with all that the rings
    /// hold.
    pub fn begin(&mut self, is_continuation: bool) {
        self.cpus.iter_mut().for_each(|cpu| {
            cpu.reader.rewind();
            cpu.lost_before = 0;
        });
        self.staged.clear();
        (self.next_cpu, self.sent, self.newest_ticks, self.sampled_ticks) = (0, 0, 0, 0);
        (self.state, self.is_continuation, self.is_ending) = (State::Begin, is_continuation, false);
    }

    /// Records that the rings hold and that have not been taken, the ones that are lost included.
    pub fn waiting(&self, words: &impl Words) -> u64 {
        self.cpus
            .iter()
            .map(|cpu| cpu.reader.written(words).saturating_sub(cpu.reader.passed()))
            .sum()
    }

    /// Asks for the file's end behind what there is now.
    pub fn end(&mut self) {
        self.is_ending = true;
    }

    /// Whether every byte up to the end went out.
    pub fn is_over(&self) -> bool {
        self.state == State::Over && self.sent == self.staged.len()
    }

    /// Fills `into` with the file's next bytes and returns how many there were: 0, nothing for now.
    /// `now` is `CNTPCT_EL0`. Makes at most one chunk for each that it can hold.
    pub fn fill(&mut self, words: &impl Words, now: u64, into: &mut [u8]) -> usize {
        let mut filled = 0;
        while let Some(room) = into.get_mut(filled..).filter(|room| !room.is_empty()) {
            if self.sent == self.staged.len() && !self.stage(words, now) {
                break;
            }
            let rest = self.staged.get(self.sent..).unwrap_or_default();
            for (to, from) in room.iter_mut().zip(rest) {
                *to = *from;
            }
            let count = room.len().min(rest.len());
            self.sent += count;
            filled += count;
        }
        filled
    }

    /// Makes what comes next; false: there is nothing.
    fn stage(&mut self, words: &impl Words, now: u64) -> bool {
        self.staged.clear();
        self.sent = 0;
        match self.state {
            State::Begin => {
                let time = self.wall_clock(now);
                if !self.is_continuation {
                    self.staged.extend_from_slice(&file_header(time));
                }
                push_chunk(&mut self.staged, header(ChunkKind::Directory), |payload| {
                    push_found(payload, time, 0, description(words));
                });
                self.state = State::Running;
                true
            }
            State::Running if !self.is_ending => {
                self.stage_records(words) || self.stage_sample(words, now)
            }
            State::Running => {
                if self.stage_records(words) {
                    return true;
                }
                self.sampled_ticks = 0;
                self.stage_sample(words, now);
                let time = self.wall_clock(now);
                let cpus = self.cpus.iter().map(|cpu| (cpu.reader.passed(), cpu.reader.lost()));
                push_chunk(&mut self.staged, header(ChunkKind::End), |payload| {
                    push_end(payload, time, cpus)
                });
                self.state = State::Over;
                true
            }
            State::Over => false,
        }
    }

    /// The next CPU's next records, if any CPU has some.
    fn stage_records(&mut self, words: &impl Words) -> bool {
        for _ in 0..self.cpus.len() {
            let number = self.next_cpu % self.cpus.len();
            self.next_cpu = number + 1;
            let Some(cpu) = self.cpus.get_mut(number) else { return false };
            let batch = cpu.reader.read(words, &mut self.buffer);
            cpu.lost_before += batch.lost_before;
            let records = self.buffer.get(..batch.count).unwrap_or_default();
            let Some(first) = records.first() else { continue };
            let header = ChunkHeader {
                cpu: number as u32,
                first: batch.first,
                lost_before: core::mem::take(&mut cpu.lost_before),
                first_time: first.time(),
                ..header(ChunkKind::Records)
            };
            self.newest_ticks = records.iter().map(Record::time).fold(self.newest_ticks, u64::max);
            push_chunk(&mut self.staged, header, |payload| {
                records.iter().for_each(|record| payload.extend_from_slice(&record.to_bytes()));
            });
            return true;
        }
        false
    }

    /// The counters, if a second has passed since the last time and something happened in it.
    fn stage_sample(&mut self, words: &impl Words, now: u64) -> bool {
        let is_due = now.saturating_sub(self.sampled_ticks) >= self.machine.counter_hz;
        if !is_due || self.newest_ticks <= self.sampled_ticks {
            return false;
        }
        self.sampled_ticks = now;
        let (time, newest) = (self.wall_clock(now), self.newest_ticks);
        let counters = counters(words, self.layout);
        push_chunk(&mut self.staged, header(ChunkKind::Sample), |payload| {
            push_sample(payload, time, newest, "", counters);
        });
        true
    }

    /// Nanoseconds since 1970 UTC, 0 if not known.
    fn wall_clock(&self, now: u64) -> u64 {
        let Some(start) = self.machine.wall_clock_nanoseconds else { return 0 };
        let since = u128::from(now.saturating_sub(self.machine.start_ticks)) * 1_000_000_000
            / u128::from(self.machine.counter_hz.max(1));
        start.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }
}

fn header(kind: ChunkKind) -> ChunkHeader {
    ChunkHeader { kind: kind as u32, ..ChunkHeader::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::DirectoryWriter;
    use crate::file::{CHUNK_HEADER_BYTES, End, checksum};
    use crate::ring::RingWriter;
    use crate::words::Text;
    use crate::words::tests::Shared;
    use oche_types::addr::Gfn;
    use oche_types::event::Event;

    fn booted(records: usize) -> (Shared, Layout) {
        let layout = Layout::new(2, records * RECORD_BYTES);
        let words = Shared::new(layout.total_bytes());
        let machine = Machine {
            board: Text::new("test"),
            release: Text::new("0.1.0 (ceabe3a4f01d, build 3f2a9c1be0d4)"),
            counter_hz: 1000,
            start_ticks: 100,
            wall_clock_nanoseconds: Some(5_000_000_000),
        };
        DirectoryWriter::begin(&words, layout, &machine).finish();
        (words, layout)
    }

    fn event(number: u64) -> Event {
        Event::Table { page: Gfn(number as u32), is_unsync: false }
    }

    /// Kinds and payloads of the chunks in `file`, each checked.
    fn chunks(file: &[u8]) -> Vec<(ChunkHeader, Vec<u8>)> {
        let mut chunks = Vec::new();
        let mut rest = &file[FILE_HEADER_BYTES..];
        while let Some((head, behind)) = rest.split_first_chunk::<CHUNK_HEADER_BYTES>() {
            let header = ChunkHeader::from_bytes(head).expect("a chunk");
            let (payload, behind) = behind.split_at(header.payload_bytes as usize);
            assert_eq!(checksum(&header, payload), header.checksum);
            chunks.push((header, payload.to_vec()));
            rest = behind;
        }
        assert!(rest.is_empty());
        chunks
    }

    fn all(export: &mut Export, words: &Shared, piece: usize) -> Vec<u8> {
        let mut file = Vec::new();
        let mut buffer = alloc::vec![0; piece];
        loop {
            let count = export.fill(words, 9000, &mut buffer);
            if count == 0 {
                return file;
            }
            file.extend_from_slice(&buffer[..count]);
        }
    }

    #[test]
    fn the_file_has_every_record_and_an_end_whatever_the_pieces() {
        for piece in [1, 7, 4096, 100_000] {
            let (words, layout) = booted(1024);
            let mut writers = [0, 1].map(|cpu| RingWriter::new(layout, cpu).unwrap());
            for number in 0..700 {
                writers[(number % 2) as usize].record(&words, 100 + number, 4, &event(number));
            }
            let mut export = Export::new(&words, layout);
            assert_eq!(export.waiting(&words), 700);
            let mut file = all(&mut export, &words, piece);
            assert_eq!(export.waiting(&words), 0);
            writers[1].record(&words, 900, 4, &event(700));
            export.end();
            assert!(!export.is_over());
            file.extend(all(&mut export, &words, piece));
            assert!(export.is_over());

            let chunks = chunks(&file);
            let kinds: Vec<u32> = chunks.iter().map(|(header, _)| header.kind).collect();
            assert_eq!((kinds.first(), kinds.last()), (Some(&1), Some(&4)));
            let mut next = [0, 0];
            for (header, payload) in chunks.iter().filter(|(header, _)| header.kind == 2) {
                assert_eq!((header.first, header.lost_before), (next[header.cpu as usize], 0));
                next[header.cpu as usize] += payload.len() as u64 / 32;
            }
            assert_eq!(next, [350, 351]);
            let end = End::from_payload(&chunks.last().unwrap().1).unwrap();
            assert_eq!(end.cpus, [(350, 0), (351, 0)]);
            assert_eq!(end.unix_nanoseconds, 5_000_000_000 + 8_900_000_000);
        }
    }

    #[test]
    fn what_the_ring_overwrote_is_told_in_the_chunk_behind_it() {
        let (words, layout) = booted(64);
        let mut writer = RingWriter::new(layout, 0).unwrap();
        (0..100).for_each(|number| writer.record(&words, 100 + number, 4, &event(number)));
        let mut export = Export::new(&words, layout);
        let file = all(&mut export, &words, 4096);
        let chunks = chunks(&file);
        let (header, payload) = chunks.iter().find(|(header, _)| header.kind == 2).unwrap();
        assert_eq!((header.first, header.lost_before, payload.len()), (36, 36, 64 * 32));
    }

    #[test]
    fn nothing_new_makes_no_bytes_and_an_export_that_never_began_still_ends_well() {
        let (words, layout) = booted(64);
        let mut export = Export::new(&words, layout);
        export.end();
        let kinds: Vec<u32> =
            chunks(&all(&mut export, &words, 4096)).iter().map(|(header, _)| header.kind).collect();
        assert_eq!(kinds, [1, 4]);
        assert!(export.is_over() && all(&mut export, &words, 4096).is_empty());
    }
}
