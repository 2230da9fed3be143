//! A recorder against a guest that the hypervisor's own code simulates.

use super::*;
use crate::trace::memory::tests::{Hypervisor, OFFSET, dart};
use crate::trace::reader::{TraceFile, TraceItem};
use crate::trace::summary::summarize;
use oche_trace::directory::store_statistics;
use oche_trace::statistics::Statistics;
use oche_types::addr::Gfn;
use oche_types::event::Event;

fn table(number: u64) -> Event {
    Event::Table { page: Gfn(number as u32), is_unsync: false }
}

fn numbers(trace: &TraceFile) -> Vec<u32> {
    let pages = trace.events().filter_map(|item| match item {
        TraceItem::Record(record) => match record.event() {
            Some(Event::Table { page, .. }) => Some(page.0),
            _ => None,
        },
        _ => None,
    });
    pages.collect()
}

#[test]
fn a_recording_that_begins_before_the_guest_and_ends_after_it_has_every_event() {
    let mut hypervisor = Hypervisor::new(2, 4096);
    let output = hypervisor.ram.with_extension("oche");
    let recorder = FileRecorder::start(&hypervisor.ram, &output).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    hypervisor.boot(1000);
    for number in 0..3000 {
        hypervisor.record((number % 2) as usize, 1000 + number, &table(number));
        if number % 1000 == 0 {
            std::thread::sleep(Duration::from_millis(60));
        }
    }
    store_statistics(
        &hypervisor,
        &Statistics { table_write_protects: 3000, ..Statistics::default() },
    );
    recorder.mark("all written");
    let recording = recorder.finish().unwrap();
    assert_eq!((recording.sessions, recording.records, recording.lost), (1, 3000, 0));
    assert_eq!(recording.bytes, std::fs::metadata(&output).unwrap().len());

    let trace = TraceFile::open(&output).unwrap();
    assert_eq!(trace.warnings, Vec::<String>::new());
    assert_eq!(numbers(&trace), (0..3000).collect::<Vec<u32>>());
    let session = &trace.sessions[0];
    assert_eq!(session.description.machine.board.as_str(), "qemu-virt");
    assert_eq!(
        session.description.device(dart(), oche_types::dart::stream::StreamId::new(1).unwrap()),
        Some("0000:00:01.0")
    );
    let labels: Vec<&str> = session.samples.iter().map(|sample| sample.label.as_str()).collect();
    assert!(labels.contains(&"all written"), "{labels:?}");
    let end = session.end.as_ref().expect("it ended well");
    assert_eq!(end.cpus, [(1500, 0), (1500, 0)]);
    let summary = &summarize(&trace)[0];
    assert!(
        summary.counters.contains(&("table_write_protects".into(), 3000)),
        "{:?}",
        summary.counters
    );
    assert_eq!((summary.events, summary.kinds["table"], summary.duration_ns), (3000, 3000, 2999));
    assert!(summary.first_unix_ns.is_some_and(|first| first >= trace.begun_unix_nanoseconds));
}

#[test]
fn what_the_ring_overwrote_is_in_the_file_as_a_number() {
    let mut hypervisor = Hypervisor::new(1, 64);
    hypervisor.boot(0);
    for number in 0..1000 {
        hypervisor.record(0, number, &table(number));
    }
    let output = hypervisor.ram.with_extension("oche");
    let recording = FileRecorder::start(&hypervisor.ram, &output).unwrap().finish().unwrap();
    assert_eq!((recording.records, recording.lost), (64, 936));
    let trace = TraceFile::open(&output).unwrap();
    assert_eq!(trace.events().nth(1), Some(TraceItem::Lost { cpu: 0, records: 936 }));
    assert_eq!(numbers(&trace), (936..1000).collect::<Vec<u32>>());
    let summary = &summarize(&trace)[0];
    assert_eq!((summary.events, summary.lost, summary.unreadable), (64, 936, 0));
}

#[test]
fn a_guest_that_boots_again_begins_a_second_session() {
    let mut hypervisor = Hypervisor::new(1, 64);
    let output = hypervisor.ram.with_extension("oche");
    hypervisor.boot(10);
    hypervisor.record(0, 11, &table(1));
    let recorder = FileRecorder::start(&hypervisor.ram, &output).unwrap();
    std::thread::sleep(Duration::from_millis(150));
    hypervisor.boot(20);
    hypervisor.record(0, 21, &table(2));
    std::thread::sleep(Duration::from_millis(150));
    let recording = recorder.finish().unwrap();
    assert_eq!((recording.sessions, recording.records, recording.lost), (2, 2, 0));
    let trace = TraceFile::open(&output).unwrap();
    assert_eq!(trace.sessions.len(), 2);
    assert_eq!(numbers(&trace), [1, 2]);
}

#[test]
fn without_oche_the_recording_reports_it_and_an_older_file_stays() {
    let hypervisor = Hypervisor::new(1, 64);
    let output = hypervisor.ram.with_extension("oche");
    let recording = FileRecorder::start(&hypervisor.ram, &output).unwrap().finish().unwrap();
    assert_eq!((recording.sessions, recording.records), (0, 0));
    assert!(!output.exists(), "an empty trace is left behind");
    std::fs::write(&output, "an older trace").unwrap();
    FileRecorder::start(&hypervisor.ram, &output).unwrap().finish().unwrap();
    assert_eq!(std::fs::read(&output).unwrap(), b"an older trace");
    assert!(
        FileRecorder::start(&hypervisor.ram, &output.join("nowhere")).is_err(),
        "reported at once"
    );
    let missing = hypervisor.ram.with_extension("missing");
    assert_eq!(FileRecorder::start(&missing, &output).unwrap().finish().unwrap().sessions, 0);
}

#[test]
fn a_recording_reports_its_progress() {
    let mut hypervisor = Hypervisor::new(1, 64);
    hypervisor.boot(0);
    (0..100).for_each(|number| hypervisor.record(0, number, &table(number)));
    let recorder =
        FileRecorder::start(&hypervisor.ram, &hypervisor.ram.with_extension("oche")).unwrap();
    for _ in 0..500 {
        if recorder.so_far().records > 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let so_far = recorder.so_far();
    assert_eq!((so_far.sessions, so_far.records, so_far.lost), (1, 64, 36));
    assert!(so_far.bytes > 0);
}

#[test]
fn a_dump_of_the_memory_of_a_machine_that_is_gone_still_gives_its_last_events() {
    let mut hypervisor = Hypervisor::new(1, 64);
    hypervisor.boot(0);
    (0..100).for_each(|number| hypervisor.record(0, number, &table(number)));
    let dump = hypervisor.ram.with_extension("dump");
    std::fs::copy(&hypervisor.ram, &dump).unwrap();
    std::fs::remove_file(&hypervisor.ram).unwrap();
    let output = dump.with_extension("oche");
    let recording = FileRecorder::start(&dump, &output).unwrap().finish().unwrap();
    assert_eq!((recording.sessions, recording.records, recording.lost), (1, 64, 36));
    assert_eq!(numbers(&TraceFile::open(&output).unwrap()), (36..100).collect::<Vec<u32>>());
}

#[test]
fn the_size_limit_ends_a_recording_with_a_file_that_is_whole() {
    let mut hypervisor = Hypervisor::new(1, 4096);
    hypervisor.boot(0);
    for number in 0..4096 {
        hypervisor.record(0, number, &table(number));
    }
    let output = hypervisor.ram.with_extension("oche");
    let keeping = Keeping { limit_bytes: Some(1000), ..Keeping::default() };
    let recorder = FileRecorder::start_keeping(&hypervisor.ram, &output, keeping).unwrap();
    for _ in 0..200 {
        if recorder.is_over() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(recorder.is_over());
    recorder.finish().unwrap();
    let trace = TraceFile::open(&output).unwrap();
    assert_eq!(trace.warnings, Vec::<String>::new());
}

#[test]
fn a_directory_of_another_version_is_an_error_and_not_a_wait_without_end() {
    use oche_trace::words::Words;
    let mut hypervisor = Hypervisor::new(1, 64);
    hypervisor.boot(0);
    hypervisor.store(1, 0x0001_0000_0000_0007);
    let output = hypervisor.ram.with_extension("oche");
    let error =
        FileRecorder::start(&hypervisor.ram, &output).unwrap().finish().unwrap_err().to_string();
    assert!(error.contains("version 7") && error.contains(&format!("{OFFSET:#x}")), "{error}");
}
