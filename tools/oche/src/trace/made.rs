//! Traces made up for tests, event by event; the views' step of `cargo xtask test` uses them as
//! well.

use std::cell::RefCell;

use oche_trace::directory::{DESCRIPTION_BYTES, DirectoryWriter, Layout, Machine};
use oche_trace::record::{Record, Stamp};
use oche_trace::words::{Text, Words};
use oche_types::addr::{Gfn, IovaPage};
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::{DartId, StreamId, StreamSet};
use oche_types::event::{Event, Place, Placement, WatchHow};

use super::format::{ChunkHeader, ChunkKind, End, Found, chunk, file_header};
use super::names::Names;
use super::reader::TraceFile;

/// Ticks a second of the made-up machine: a tick is a microsecond.
pub(crate) const HZ: u64 = 1_000_000;
/// The code that flushes in it.
pub(crate) const FLUSHER: u64 = 0xffff_8000_0800_0c74;

/// A trace in the making. Time goes on by 10 ticks an event.
#[derive(Debug)]
pub struct Made {
    directory: Vec<u64>,
    records: Vec<Vec<Record>>,
    pub(crate) now: u64,
    pub(crate) cpu: u8,
    /// The guest's code that the next events come from.
    pub(crate) code: u64,
    /// The guest's names, as they were learned.
    pub(crate) names: Vec<Names>,
    /// By CPU: records to lose before the next one.
    lost: Vec<(usize, u64)>,
}

/// The place of a page in stream `stream` of DART `dart`.
pub(crate) fn at(dart: usize, stream: usize, iova: u32) -> Place {
    Place {
        dart: DartId::new(dart).expect("a DART"),
        stream: StreamId::new(stream).expect("a stream"),
        iova: IovaPage(iova),
    }
}

impl Made {
    /// Two CPUs; an NVMe at DART 0 stream 1, an e1000e at stream 2, and an xHCI at stream 0 of DART
    /// 1.
    pub(crate) fn new() -> Self {
        let words = Plain(RefCell::new(vec![0; DESCRIPTION_BYTES / 8]));
        let machine = Machine {
            board: Text::new("made up"),
            release: Text::new("0.1.0 (ceabe3a4f01d, build 3f2a9c1be0d4)"),
            counter_hz: HZ,
            start_ticks: 0,
            wall_clock_nanoseconds: None,
        };
        let mut writer = DirectoryWriter::begin(&words, Layout::new(2, 4096), &machine);
        for (requester, dart, stream, name) in
            [(8, 0, 1, "nvme"), (16, 0, 2, "e1000e"), (24, 1, 0, "xhci"), (32, 1, 3, "blk")]
        {
            let (dart, stream) =
                (DartId::new(dart).expect("a DART"), StreamId::new(stream).expect("a stream"));
            writer.device(requester, dart, stream, name);
        }
        writer.finish();
        let directory = words.0.into_inner();
        let records = vec![Vec::new(); 2];
        Self {
            directory,
            records,
            now: 1000,
            cpu: 0,
            code: FLUSHER,
            names: Vec::new(),
            lost: Vec::new(),
        }
    }

    pub(crate) fn event(&mut self, event: Event) -> &mut Self {
        self.now += 10;
        let records = &mut self.records[usize::from(self.cpu)];
        let stamp = Stamp {
            time: self.now,
            sequence: records.len() as u32,
            cpu: self.cpu,
            program_counter: self.code,
        };
        records.push(Record::new(stamp, &event));
        self
    }

    /// Records of the current CPU are lost from here on until the next event.
    pub(crate) fn lose(&mut self, records: u64) -> &mut Self {
        self.lost.push((self.records[usize::from(self.cpu)].len(), records));
        self
    }

    /// The guest's flush of the stream, with what it brings.
    pub(crate) fn flush(&mut self, dart: usize, stream: usize, brings: &[Event]) -> &mut Self {
        let dart = DartId::new(dart).expect("a DART");
        self.event(Event::Register { dart, offset: 0x34, is_write: true, value: 1 << stream });
        self.event(Event::Register { dart, offset: 0x20, is_write: true, value: 1 << 20 });
        self.event(Event::Flush { dart, streams: StreamSet(1 << stream) });
        for event in brings {
            self.event(*event);
        }
        self.event(Event::FlushDone { dart, pages: brings.len() as u32, is_busy: false })
    }

    /// A map of one page, flushed.
    pub(crate) fn map(
        &mut self,
        dart: usize,
        stream: usize,
        iova: u32,
        page: u32,
        permission: Permission,
    ) -> &mut Self {
        self.flush(dart, stream, &[map(at(dart, stream, iova), page, permission)])
    }

    /// An unmap of one page, flushed.
    pub(crate) fn unmap(&mut self, dart: usize, stream: usize, iova: u32, page: u32) -> &mut Self {
        self.flush(dart, stream, &[unmap(at(dart, stream, iova), page)])
    }

    pub(crate) fn fault(
        &mut self,
        dart: usize,
        stream: usize,
        iova: u64,
        is_write: bool,
        code: u16,
    ) -> &mut Self {
        let (dart, stream) =
            (DartId::new(dart).expect("a DART"), StreamId::new(stream).expect("a stream"));
        self.event(Event::Fault { dart, stream, iova, code, is_write, is_hidden: false })
    }

    pub(crate) fn attach(&mut self, dart: usize, stream: usize, root: Option<u32>) -> &mut Self {
        let (dart, stream) =
            (DartId::new(dart).expect("a DART"), StreamId::new(stream).expect("a stream"));
        self.event(Event::Attach { dart, stream, root: root.map(Gfn) })
    }

    /// Lets time pass, in microseconds.
    pub(crate) fn wait(&mut self, microseconds: u64) -> &mut Self {
        self.now += microseconds;
        self
    }

    /// The file's bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let found = Found { unix_nanoseconds: 1, offset: 2, words: self.directory.clone() };
        let mut file = file_header(0).to_vec();
        let kind = |kind: ChunkKind| ChunkHeader { kind: kind as u32, ..ChunkHeader::default() };
        file.extend(chunk(kind(ChunkKind::Directory), &found.to_payload()));
        for names in &self.names {
            file.extend(chunk(kind(ChunkKind::Names), &names.to_payload()));
        }
        for (cpu, records) in self.records.iter().enumerate() {
            let mut first = 0;
            let mut missed = 0;
            let mut pieces = Vec::new();
            for (place, lost) in self.lost.iter().filter(|_| cpu == usize::from(self.cpu)) {
                pieces.push((&records[first..*place], *lost));
                first = *place;
            }
            pieces.push((&records[first..], 0));
            let mut number = 0;
            for (piece, lost) in pieces {
                let bytes: Vec<u8> = piece.iter().flat_map(|record| record.to_bytes()).collect();
                let header = ChunkHeader {
                    cpu: cpu as u32,
                    first: number + missed,
                    lost_before: missed,
                    ..kind(ChunkKind::Records)
                };
                if !bytes.is_empty() {
                    file.extend(chunk(header, &bytes));
                }
                number += piece.len() as u64 + missed;
                missed = lost;
            }
        }
        let end = End {
            unix_nanoseconds: 5,
            cpus: self.records.iter().map(|of| (of.len() as u64, 0)).collect(),
        };
        file.extend(chunk(kind(ChunkKind::End), &end.to_payload()));
        file
    }

    /// The trace, opened.
    ///
    /// # Panics
    ///
    /// The made bytes are no trace.
    #[must_use]
    pub fn open(&self) -> TraceFile<Vec<u8>> {
        TraceFile::from_source(self.bytes()).expect("it is a trace")
    }
}

/// A page mapped, migrated.
pub(crate) fn map(at: Place, page: u32, permission: Permission) -> Event {
    Event::Map { at, page: Gfn(page), permission, placement: Placement::Migrated }
}

/// A page unmapped.
pub(crate) fn unmap(at: Place, page: u32) -> Event {
    Event::Unmap { at, page: Gfn(page) }
}

struct Plain(RefCell<Vec<u64>>);

impl Words for Plain {
    fn load(&self, index: usize) -> u64 {
        self.0.borrow().get(index).copied().unwrap_or(0)
    }

    fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.0.borrow_mut().get_mut(index) {
            *word = value;
        }
    }
}

/// A trace with an error of every kind in it, a snapshot of eight bytes, and what a correct driver
/// does around them.
#[must_use]
pub fn with_every_error() -> Made {
    let (to_device, from_device) = (Permission::READ_ONLY, Permission::WRITE_ONLY);
    let mut made = Made::new();
    made.map(0, 1, 0xfffff, 1, Permission::READ_WRITE).attach(0, 1, Some(900));
    made.map(1, 0, 0xffffe, 2, Permission::READ_WRITE).attach(1, 0, Some(901));
    // One that is never unmapped.
    made.map(0, 1, 0xffd00, 4, to_device);
    for round in 0..200_u32 {
        made.map(0, 1, 0xfff00 + round % 8, 100 + round, to_device).wait(400);
        made.unmap(0, 1, 0xfff00 + round % 8, 100 + round).wait(600);
    }
    // Use after unmap, wrong direction, a wild address.
    made.map(0, 1, 0xffe00, 5, to_device).unmap(0, 1, 0xffe00, 5).wait(150).fault(
        0,
        1,
        0xffe0_0040,
        false,
        4,
    );
    made.map(0, 1, 0xffe08, 6, to_device).fault(0, 1, 0xffe0_8010, true, 8).fault(
        0,
        2,
        0x1234_5678,
        false,
        2,
    );
    // An unmap without a flush, an entry overwritten.
    made.map(0, 1, 0xffe10, 7, to_device);
    made.flush(0, 1, &[unmap(at(0, 1, 0xffe10), 7), map(at(0, 1, 0xffe11), 8, to_device)]);
    made.map(0, 1, 0xffe10, 9, to_device).map(0, 1, 0xffe10, 10, to_device);
    // Red zone, coherent memory next to a buffer, a mapping refused.
    made.map(0, 1, 0xffe18, 11, from_device);
    made.event(Event::RedZone { at: at(0, 1, 0xffe19), offset: 0, bytes: 8 });
    made.map(0, 2, 0x100, 2, from_device);
    let reason = oche_types::event::Refusal::PoolExhausted;
    made.event(Event::Refused { at: at(0, 2, 0x200), page: Gfn(77), reason });
    let dart = DartId::new(1).expect("a DART");
    made.event(Event::InvalidateTimedOut { dart });
    let page = Gfn(11);
    made.event(Event::Snapshot { at: at(0, 1, 0xffe18), page, is_written: true, bytes: 8 });
    made.event(Event::Data { words: [u64::from_le_bytes(*b"Oche was"), 0] });
    // Pages left when the stream is cut off.
    made.attach(0, 1, None);
    made
}

/// A trace in which 12 events were lost, in two places, with events of values, callers and watched
/// bytes around them.
#[must_use]
pub fn with_losses() -> Made {
    let mut made = Made::new();
    made.map(0, 1, 0x100, 7, Permission::READ_ONLY).attach(0, 1, Some(900)).lose(10);
    let (page, how) = (Gfn(7), WatchHow::Exact);
    let watch =
        Event::Watch { at: at(0, 1, 0x100), offset: 8, page, bytes: 12, is_write: true, how };
    made.event(watch).event(Event::Data { words: [0x1122_3344_5566_7788, 0x99aa_bbcc] });
    let dart = DartId::FIRST;
    made.event(Event::Callers { dart, frames: 3, first: FLUSHER + 0x100 });
    made.event(Event::Data { words: [FLUSHER + 0x200, FLUSHER + 0x300] }).lose(2);
    made.attach(0, 1, None).unmap(0, 1, 0x100, 7);
    made
}
