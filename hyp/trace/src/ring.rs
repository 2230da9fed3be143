//! One ring of records per CPU: the CPU writes without a lock and never waits, a reader may fall
//! behind and then knows exactly how much it missed.
//!
//! # For a platform
//!
//! At boot, once:
//! 1. `Layout::new(cpus, ring_bytes)`; reserve `layout.total_bytes()` of host memory at a multiple
//!    of [`ALIGNMENT`](crate::directory::ALIGNMENT), mapped Normal write-back cacheable at EL2, out
//!    of the guest's reach. Make one `&'static [AtomicU64]` of it, which is [`Words`].
//! 2. Fill the directory with `DirectoryWriter`.
//!
//! Then, per CPU, keep a [`RingWriter`], and the words that
//! [`cpu_counters`](crate::directory::cpu_counters) gives. In the trap handler take `ELR_EL2` as
//! the guest's program counter; the platform's `TraceSink::event` reads `CNTPCT_EL0` (after an
//! `ISB` if order against the guest's own reads matters; none is needed here) and calls
//! [`RingWriter::record`] on the ring of the CPU that it runs on. EL2 runs with interrupts masked,
//! so one ring has one writer at a time. A panic prints [`write_last_records`].
//!
//! # How it holds together
//!
//! Record `n` (from 0, per CPU) lives in place `n` modulo the ring's length, and carries `n` modulo
//! 2^32 in its word 1. The writer stores word 1 first, then words 0, 2 and 3, then the head, each
//! with release. The reader loads the head, then words 0, 2, 3, and word 1 last, each with acquire.
//! If any word that it saw was of a later record, then it sees that record's word 1 as well, and
//! the number is not `n`.

use core::fmt;

use oche_types::event::Event;

use crate::directory::{FILTERED_WORD, Layout, NO_SNAPSHOT_WORD};
use crate::filter::Filter;
use crate::record::{RECORD_WORDS, Record, SEQUENCE_WORD, Stamp};
use crate::text::{Clock, Line};
use crate::words::{GROUP, Words};

/// Words of a record that go before its number when it is read.
const OTHER_WORDS: [usize; RECORD_WORDS - 1] = [0, 2, 3];

/// Where one CPU's ring is.
#[derive(Clone, Copy, Debug)]
struct Ring {
    head_word: usize,
    first_word: usize,
    records: u64,
}

impl Ring {
    fn new(layout: Layout, cpu: usize) -> Option<Self> {
        let exists = cpu < layout.cpus() && layout.ring_records() != 0;
        let ring = Self {
            head_word: layout.head_word(cpu),
            first_word: layout.ring_word(cpu),
            records: layout.ring_records(),
        };
        if exists { Some(ring) } else { None }
    }

    /// The first word of record `number`. Wraps rather than checks: `Layout` has checked that it
    /// cannot.
    fn word(&self, number: u64) -> usize {
        self.first_word.wrapping_add((self.place(number) as usize).wrapping_mul(RECORD_WORDS))
    }

    /// The place of record `number` in the ring.
    fn place(&self, number: u64) -> u64 {
        number & self.records.wrapping_sub(1)
    }

    /// The oldest record still there when `written` have been.
    fn oldest(&self, written: u64) -> u64 {
        written.saturating_sub(self.records)
    }

    /// Record `number`, or `None` where the writer has begun to overwrite it.
    fn read(&self, words: &impl Words, number: u64) -> Option<Record> {
        let first = self.word(number);
        let mut record = Record::default();
        for word in OTHER_WORDS.into_iter().chain([SEQUENCE_WORD]) {
            record.0[word] = words.load(first + word);
        }
        if record.sequence() == number as u32 { Some(record) } else { None }
    }
}

/// The one writer of a CPU's ring. The newest records replace the oldest: a flight recorder.
#[derive(Debug)]
pub struct RingWriter {
    ring: Ring,
    cpu: u8,
    written: u64,
    filtered: u64,
}

impl RingWriter {
    /// The writer for `cpu`, or `None` where the layout has no such CPU or records no events. Make
    /// one per CPU and boot: the directory's head for it must be 0, as `DirectoryWriter` leaves it.
    pub fn new(layout: Layout, cpu: usize) -> Option<Self> {
        Some(Self { ring: Ring::new(layout, cpu)?, cpu: cpu as u8, written: 0, filtered: 0 })
    }

    /// Records `event`, which guest code at virtual address `program_counter` (0 for none) caused
    /// at `time` ticks of `CNTPCT_EL0`. Never waits. Inlined: callers know the kind of the event.
    #[inline(always)]
    pub fn record(&mut self, words: &impl Words, time: u64, program_counter: u64, event: &Event) {
        let stamp = Stamp { time, sequence: self.written as u32, cpu: self.cpu, program_counter };
        words.store_record(self.ring.word(self.written), &Record::new(stamp, event));
        self.written = self.written.wrapping_add(1);
        words.store(self.ring.head_word, self.written);
    }

    /// Records `event` as [`Self::record`] does, and right behind it an [`Event::Data`] for each of
    /// the first `count` of `data`.
    #[inline(always)]
    pub fn record_with_data(
        &mut self,
        words: &impl Words,
        time: u64,
        program_counter: u64,
        event: &Event,
        data: &[[u64; 2]; GROUP - 1],
        count: usize,
    ) {
        let stamp = |number| Stamp {
            time,
            sequence: (self.written as u32).wrapping_add(number),
            cpu: self.cpu,
            program_counter,
        };
        let [second, third] = *data;
        let records = [
            Record::new(stamp(0), event),
            Record::new(stamp(1), &Event::Data { words: second }),
            Record::new(stamp(2), &Event::Data { words: third }),
        ];
        let next = self.written.wrapping_add(GROUP as u64);
        // All of them, where they do not go on at the ring's beginning.
        if count >= GROUP - 1 && self.ring.place(next) >= GROUP as u64 {
            words.store_records(self.ring.word(self.written), &records);
            self.written = next;
        } else {
            for record in records.iter().take(count + 1) {
                words.store_record(self.ring.word(self.written), record);
                self.written = self.written.wrapping_add(1);
            }
        }
        words.store(self.ring.head_word, self.written);
    }

    /// The same for an event that `filter` admits; another one is counted and left out. Returns
    /// whether it was admitted. Callers whose filter leaves nothing out take the short way,
    /// [`RingWriter::record`].
    #[cold]
    pub fn record_if(
        &mut self,
        filter: &Filter,
        words: &impl Words,
        time: u64,
        program_counter: u64,
        event: &Event,
    ) -> bool {
        let is_admitted = filter.admits(event);
        if is_admitted {
            self.record(words, time, program_counter, event);
        } else {
            self.filtered = self.filtered.wrapping_add(1);
            words.store(self.ring.head_word.wrapping_add(FILTERED_WORD), self.filtered);
        }
        is_admitted
    }

    /// Publishes how many pages were chosen for a snapshot on this CPU and left out.
    pub fn set_snapshots_left_out(&self, words: &impl Words, pages: u64) {
        words.store(self.ring.head_word.wrapping_add(NO_SNAPSHOT_WORD), pages);
    }
}

/// A reader of a CPU's ring. Any number of them may read at once, and the writer knows of none.
#[derive(Clone, Debug)]
pub struct RingReader {
    ring: Ring,
    next: u64,
    lost: u64,
}

/// What one [`RingReader::read`] brought: records without a gap between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Number of the first record (counted from 0 per CPU, all 64 bits).
    pub first: u64,
    /// Records that were stored into the caller's buffer.
    pub count: usize,
    /// Records lost right before the first.
    pub lost_before: u64,
}

impl RingReader {
    /// A reader of the ring of `cpu` from its oldest record on, or `None` where there is no ring.
    /// Records overwritten before the first read count as lost: a reader that is there from the
    /// start sees them all.
    pub fn new(layout: Layout, cpu: usize) -> Option<Self> {
        Some(Self { ring: Ring::new(layout, cpu)?, next: 0, lost: 0 })
    }

    /// Begins anew, as if just made.
    pub fn rewind(&mut self) {
        (self.next, self.lost) = (0, 0);
    }

    /// Records that were overwritten before this reader saw them.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Records that the CPU has written so far.
    pub fn written(&self, words: &impl Words) -> u64 {
        words.load(self.ring.head_word)
    }

    /// Records that this reader has passed: those read and those lost.
    pub fn passed(&self) -> u64 {
        self.next
    }

    /// Reads as many records as there are and `into` holds, up to the first gap. With `count` 0 the
    /// reader has caught up with the writer; `lost_before` may still count some that it missed.
    pub fn read(&mut self, words: &impl Words, into: &mut [Record]) -> Batch {
        let mut batch = Batch { first: self.next, ..Batch::default() };
        let mut written = words.load(self.ring.head_word);
        while batch.count < into.len() {
            if self.next >= written {
                break;
            }
            let oldest = self.ring.oldest(written);
            let record = if self.next < oldest { None } else { self.ring.read(words, self.next) };
            match (record, into.get_mut(batch.count)) {
                (Some(record), Some(to)) => {
                    *to = record;
                    self.next += 1;
                    batch.count += 1;
                }
                // A gap ends a batch; the next call finds it again and counts it.
                _ if batch.count > 0 => break,
                // Overwritten: in full, or the writer has just begun to. Ends, since `next` grows
                // towards the head that was loaded.
                _ => {
                    let next = oldest.max(self.next + 1);
                    batch.lost_before += next - self.next;
                    self.lost += next - self.next;
                    self.next = next;
                    batch.first = next;
                    written = words.load(self.ring.head_word);
                }
            }
        }
        batch
    }
}

/// Writes the newest `count` records of the ring of `cpu`, oldest first, a line each and each line
/// after `prefix`: for a panic. Needs no memory but the stack, and reads while other CPUs may still
/// write.
///
/// # Errors
///
/// Those of `out`.
pub fn write_last_records(
    words: &impl Words,
    layout: Layout,
    cpu: usize,
    count: u64,
    clock: Clock,
    prefix: &str,
    out: &mut impl fmt::Write,
) -> fmt::Result {
    let Some(ring) = Ring::new(layout, cpu) else { return Ok(()) };
    let written = words.load(ring.head_word);
    for number in written.saturating_sub(count).max(ring.oldest(written))..written {
        match ring.read(words, number) {
            Some(record) => writeln!(out, "{prefix}{}", Line::of(&record, clock, None))?,
            None => writeln!(out, "{prefix}(record {number} was overwritten)")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
