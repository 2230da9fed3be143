//! How fast a trace is read, measured: `cargo test --release -p oche-tools throughput -- --ignored --nocapture`.

use std::fs::File;
use std::io::{self, Write};
use std::time::Instant;

use oche_hyp::addr::{Gfn, IovaPage};
use oche_hyp::dart::entry::Permission;
use oche_hyp::dart::stream::{DartId, StreamId, StreamSet};
use oche_hyp::trace::directory::DESCRIPTION_BYTES;
use oche_hyp::trace::record::{Record, Stamp};
use oche_hyp::trace::{Event, Place, Placement};

use super::check::check;
use super::format::{ChunkHeader, ChunkKind, Found, chunk, file_header};
use super::leaks::leaks;
use super::maps::Whom;
use super::output::{Filter, write_json, write_text};
use super::perfetto::write_perfetto;
use super::reader::TraceFile;
use super::report::write_report;
use super::summary::summarize;
use super::symbols::Symbols;
use super::why::{Question, why};

const EVENTS: u64 = 10_000_000;
const CPUS: u64 = 4;
const CHUNK: u64 = 8192;

#[test]
#[ignore = "writes 320 MB and takes a while; for release builds"]
fn throughput_of_text_and_statistics() {
    let file = tempfile::NamedTempFile::new().unwrap();
    write_trace(&mut file.reopen().unwrap());
    let trace = TraceFile::open(file.path()).unwrap();
    let symbols = Symbols::default();
    let measure = |what: &str, work: &dyn Fn() -> u64| {
        let begun = Instant::now();
        let answer = work();
        let seconds = begun.elapsed().as_secs_f64();
        println!("{what:<8} {:6.2} M events/s ({seconds:.2} s)", EVENTS as f64 / seconds / 1e6);
        answer
    };
    let read = measure("read", &|| trace.events().count() as u64);
    let counted = measure("stats", &|| summarize(&trace)[0].events);
    let checked = measure("check", &|| check(&trace, &symbols, false)[0].events);
    measure("leaks", &|| leaks(&trace, 0, &Whom::default(), &symbols).pages);
    let question = Question { iova: 2 << 12, whom: Whom::default(), at_ns: None };
    let asked = measure("why", &|| why(&trace, 0, &question, &symbols).devices.len() as u64);
    measure("perfetto", &|| lines(|out| write_perfetto(&trace, 0, &symbols, out)));
    measure("report", &|| lines(|out| write_report(&trace, 0, "t", &symbols, out)));
    assert_eq!((checked, asked), (EVENTS, CPUS));
    let text = measure("text", &|| lines(|out| write_text(&trace, &Filter::default(), &symbols, out)));
    let json = measure("json", &|| lines(|out| write_json(&trace, &Filter::default(), &symbols, out)));
    assert_eq!((read, counted, text, json), (EVENTS + 1, EVENTS, EVENTS + 3, EVENTS + 1));
}

/// Line breaks that `write` writes.
fn lines(write: impl FnOnce(&mut Lines) -> io::Result<()>) -> u64 {
    let mut lines = Lines(0);
    write(&mut lines).unwrap();
    lines.0
}

/// Takes bytes as a pipe would, and counts the lines in them.
struct Lines(u64);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a busy disk leaves: register write, flush, map, unmap, over and over, on four CPUs.
fn write_trace(out: &mut File) {
    let mut write = |bytes: &[u8]| out.write_all(bytes).unwrap();
    write(&file_header(0));
    let found = Found { unix_nanoseconds: 0, offset: 0, words: vec![0; DESCRIPTION_BYTES / 8] };
    write(&chunk(
        ChunkHeader { kind: ChunkKind::Directory as u32, ..ChunkHeader::default() },
        &found.to_payload(),
    ));
    let per_cpu = EVENTS / CPUS;
    let mut first = 0;
    while first < per_cpu {
        let end = (first + CHUNK).min(per_cpu);
        for cpu in 0..CPUS {
            let records = (first..end).flat_map(|number| record(cpu, number).to_bytes());
            let header = ChunkHeader {
                kind: ChunkKind::Records as u32,
                cpu: cpu as u32,
                first,
                ..ChunkHeader::default()
            };
            write(&chunk(header, &records.collect::<Vec<u8>>()));
        }
        first = end;
    }
}

fn record(cpu: u64, number: u64) -> Record {
    let dart = DartId::new(0).unwrap();
    // A buffer is mapped, and the next event but one of its CPU takes it away again.
    let buffer = number / 4;
    let stream = StreamId::new(cpu as usize).unwrap();
    let at = Place { dart, stream, iova: IovaPage(((buffer * 4 + 2) & 0xf_ffff) as u32) };
    let page = Gfn(0x4_0000 + (buffer * 37 % 0x8_0000) as u32);
    let event = match number % 4 {
        0 => Event::Register { dart, offset: 0x20, is_write: true, value: 0x10_0000 },
        1 => Event::Flush { dart, streams: StreamSet(1 << cpu) },
        2 => Event::Map { at, page, permission: Permission::READ_WRITE, placement: Placement::Composed },
        _ => Event::Unmap { at, page },
    };
    // Bursts of 16 events on a CPU, as traps come.
    let time = (number / 16 * CPUS + cpu) * 16 + number % 16;
    let program_counter = 0xffff_8000_0800_0000 + number % 4096 * 4;
    Record::new(Stamp { time: time * 3, sequence: number as u32, cpu: cpu as u8, program_counter }, &event)
}
