//! Measures how fast a trace is read and how much memory that takes:
//! `cargo test --release -p oche --lib throughput -- --ignored --nocapture --test-threads 1`.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use oche_trace::directory::DESCRIPTION_BYTES;
use oche_trace::record::{Record, Stamp};
use oche_types::addr::{Gfn, IovaPage};
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::{DartId, StreamId, StreamSet};
use oche_types::event::{Event, Place, Placement};

use super::check::{CheckOptions, check};
use super::filter::EventFilter;
use super::format::{ChunkHeader, ChunkKind, Found, chunk, file_header};
use super::leaks::leaks;
use super::output::{write_json, write_text};
use super::perfetto::write_perfetto;
use super::reader::{TraceFile, TraceItem, Visitor};
use super::report::{ReportedFile, write_report};
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
    write_trace(&mut file.reopen().unwrap(), EVENTS);
    let trace = TraceFile::open(file.path()).unwrap();
    let (symbols, everything) = (Symbols::default(), EventFilter::default());
    let measure = |what: &str, work: &dyn Fn() -> u64| {
        let begun = processor_seconds();
        let answer = work();
        let seconds = processor_seconds() - begun;
        println!("{what:<8} {:6.2} M events/s ({seconds:.2} s)", EVENTS as f64 / seconds / 1e6);
        answer
    };
    let read = measure("read", &|| trace.events().count() as u64);
    let shown = measure("show", &|| {
        let mut count = Count(0);
        trace.events().show(&mut count);
        count.0
    });
    let counted = measure("stats", &|| summarize(&trace)[0].events);
    let checked = measure("check", &|| check(&trace, &symbols, &CheckOptions::default())[0].events);
    measure("leaks", &|| leaks(&trace, 0, &everything, &symbols).pages);
    let question = Question { iova: 2 << 12, ..Question::default() };
    let asked = measure("why", &|| why(&trace, 0, &question, &symbols).devices.len() as u64);
    measure("perfetto", &|| lines(|out| write_perfetto(&trace, 0, &everything, &symbols, out)));
    let file = ReportedFile::default();
    measure("report", &|| lines(|out| write_report(&trace, 0, &file, &everything, &symbols, out)));
    assert_eq!((shown, checked, asked), (EVENTS, EVENTS, CPUS));
    let text =
        measure("text", &|| lines(|out| write_text(&trace, &everything, &symbols, out).map(drop)));
    let json =
        measure("json", &|| lines(|out| write_json(&trace, &everything, &symbols, out).map(drop)));
    assert_eq!((read, counted, text, json), (EVENTS + 1, EVENTS, EVENTS + 3, EVENTS + 1));
}

/// Each view in a process of its own, over a million events and over ten.
#[test]
#[ignore = "writes 350 MB and takes a while; for release builds"]
fn throughput_does_not_cost_memory() {
    for view in ["text", "stats", "check"] {
        let peaks = [EVENTS / 10, EVENTS].map(|events| {
            let file = tempfile::NamedTempFile::new().unwrap();
            write_trace(&mut file.reopen().unwrap(), events);
            let mut process = Command::new(std::env::current_exe().unwrap());
            process.args([
                "--exact",
                "trace::throughput::view_of_a_process",
                "--ignored",
                "--nocapture",
            ]);
            let ran = process.env(VIEW, view).env(TRACE, file.path()).output().unwrap();
            let text = String::from_utf8(ran.stdout).unwrap();
            let peak =
                text.lines().find_map(|line| line.strip_prefix("peak ")?.strip_suffix(" KiB"));
            peak.unwrap_or_else(|| panic!("{text}")).parse::<u64>().unwrap()
        });
        println!(
            "{view:<8} at most {} KiB for a million events, {} KiB for ten",
            peaks[0], peaks[1]
        );
        // What is kept by address follows the addresses seen, 512 KiB a stream at most for all 4
        // GiB of them.
        assert!(
            peaks[1] < peaks[0] + 512 * CPUS + 512,
            "{view} grows with the trace: {peaks:?} KiB"
        );
    }
}

const VIEW: &str = "OCHE_VIEW";
const TRACE: &str = "OCHE_TRACE";

/// Run by the test above, with what to do in the environment.
#[test]
#[ignore = "a process of another test"]
fn view_of_a_process() {
    let (Ok(view), Ok(trace)) = (std::env::var(VIEW), std::env::var(TRACE)) else { return };
    let trace = TraceFile::open(Path::new(&trace)).unwrap();
    let symbols = Symbols::default();
    match view.as_str() {
        "text" => {
            write_text(&trace, &EventFilter::default(), &symbols, &mut Lines(0)).map(drop).unwrap()
        }
        "stats" => drop(summarize(&trace)),
        _ => drop(check(&trace, &symbols, &CheckOptions::default())),
    }
    // Source: Linux Documentation/filesystems/proc.rst, VmHWM: peak resident set size.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("\npeak {}", peak.trim().replace("kB", "KiB"));
}

/// Seconds that this thread has had a core for: other work on the machine does not count.
fn processor_seconds() -> f64 {
    // Source: Linux Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat: nanoseconds on
    // the CPU come first.
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// Line breaks that `write` writes.
fn lines(write: impl FnOnce(&mut Lines) -> io::Result<()>) -> u64 {
    let mut lines = Lines(0);
    write(&mut lines).unwrap();
    lines.0
}

/// Counts records.
struct Count(u64);

impl Visitor for Count {
    fn record(&mut self, _: &Record) {
        self.0 += 1;
    }

    fn other(&mut self, _: TraceItem) {}
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

/// The events of a busy disk: register write, flush, map, unmap, over and over, on four CPUs.
fn write_trace(out: &mut File, events: u64) {
    let mut write = |bytes: &[u8]| out.write_all(bytes).unwrap();
    write(&file_header(0));
    let found = Found { unix_nanoseconds: 0, offset: 0, words: vec![0; DESCRIPTION_BYTES / 8] };
    write(&chunk(
        ChunkHeader { kind: ChunkKind::Directory as u32, ..ChunkHeader::default() },
        &found.to_payload(),
    ));
    let per_cpu = events / CPUS;
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
        2 => Event::Map {
            at,
            page,
            permission: Permission::READ_WRITE,
            placement: Placement::Migrated,
        },
        _ => Event::Unmap { at, page },
    };
    // Bursts of 16 events on a CPU, as traps come.
    let time = (number / 16 * CPUS + cpu) * 16 + number % 16;
    let program_counter = 0xffff_8000_0800_0000 + number % 4096 * 4;
    Record::new(
        Stamp { time: time * 3, sequence: number as u32, cpu: cpu as u8, program_counter },
        &event,
    )
}
