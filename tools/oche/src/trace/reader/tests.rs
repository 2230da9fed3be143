//! Whole files read in order; damaged ones read as far as they go; nothing else is shown.

use super::*;
use crate::trace::filter::{EventFilter, KindSet, StreamChoice, Whom};
use crate::trace::format::{chunk, file_header};
use crate::trace::output::{write_json, write_text};
use crate::trace::summary::summarize;
use crate::trace::symbols::Symbols;
use oche_trace::directory::{DESCRIPTION_BYTES, DirectoryWriter, Layout, Machine};
use oche_trace::record::{Record, Stamp};
use oche_trace::words::{Text, Words};
use oche_types::addr::{Gfn, IovaPage};
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::{DartId, StreamId};
use oche_types::event::{Event, Place, Placement};
use proptest::prelude::*;
use std::cell::RefCell;

/// Two CPUs, three chunks each, 10 records a chunk, times interleaved.
const CHUNKS: u64 = 3;
const CHUNK: u64 = 10;
/// A name that wants escaping in JSON, and would break a line of text.
const DEVICE: &str = "nv\"m\\e\n\u{e9}";
const SHOWN: &str = "nv\"m\\e_\u{e9}";

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

fn directory() -> Vec<u64> {
    let words = Plain(RefCell::new(vec![0; DESCRIPTION_BYTES / 8]));
    let machine = Machine {
        board: Text::new("test board"),
        release: Text::new("0.1.0 (ceabe3a4f01d, build 3f2a9c1be0d4)"),
        counter_hz: 1000,
        start_ticks: 0,
        wall_clock_nanoseconds: None,
    };
    let mut writer = DirectoryWriter::begin(&words, Layout::new(2, 4096), &machine);
    writer.device(0x10, DartId::new(0).unwrap(), StreamId::new(2).unwrap(), DEVICE);
    writer.finish();
    words.0.into_inner()
}

fn record(cpu: u8, number: u64) -> Record {
    let at = Place {
        dart: DartId::new(0).unwrap(),
        stream: StreamId::new(2).unwrap(),
        iova: IovaPage(number as u32),
    };
    let (page, permission) = (Gfn(number as u32 + 7), Permission::READ_WRITE);
    let event = Event::Map { at, page, permission, placement: Placement::Migrated };
    let time = number * 2 + u64::from(cpu);
    Record::new(Stamp { time, sequence: number as u32, cpu, program_counter: 4 }, &event)
}

fn records_chunk(cpu: u8, first: u64, lost_before: u64) -> Vec<u8> {
    let records: Vec<u8> =
        (first..first + CHUNK).flat_map(|number| record(cpu, number).to_bytes()).collect();
    let (kind, cpu) = (ChunkKind::Records as u32, u32::from(cpu));
    chunk(ChunkHeader { kind, cpu, first, lost_before, ..ChunkHeader::default() }, &records)
}

fn found_chunk() -> Vec<u8> {
    let found = Found { unix_nanoseconds: 1, offset: 2, words: directory() };
    let kind = ChunkKind::Directory as u32;
    chunk(ChunkHeader { kind, ..ChunkHeader::default() }, &found.to_payload())
}

fn end_chunk() -> Vec<u8> {
    let end = End { unix_nanoseconds: 5, cpus: vec![(CHUNKS * CHUNK, 0); 2] };
    chunk(ChunkHeader { kind: ChunkKind::End as u32, ..ChunkHeader::default() }, &end.to_payload())
}

fn whole_file() -> Vec<u8> {
    let mut file = file_header(9).to_vec();
    file.extend(found_chunk());
    for place in 0..CHUNKS {
        for cpu in 0..2 {
            file.extend(records_chunk(cpu, place * CHUNK, 0));
        }
    }
    file.extend(end_chunk());
    file
}

fn originals() -> Vec<Record> {
    (0..CHUNKS * CHUNK).flat_map(|number| [record(0, number), record(1, number)]).collect()
}

/// Everything that a person can ask of a file.
fn read_in_every_way(bytes: Vec<u8>) -> Option<(TraceFile<Vec<u8>>, Vec<TraceItem>)> {
    let trace = TraceFile::from_source(bytes).ok()?;
    let items: Vec<TraceItem> = trace.events().collect();
    let mut shown = Shown(Vec::new());
    trace.events().show(&mut shown);
    assert_eq!(shown.0, items, "shown and handed over");
    summarize(&trace);
    write_text(&trace, &EventFilter::default(), &Symbols::default(), &mut Vec::new())
        .expect("a Vec takes all");
    write_json(&trace, &EventFilter::default(), &Symbols::default(), &mut Vec::new())
        .expect("a Vec takes all");
    Some((trace, items))
}

struct Shown(Vec<TraceItem>);

impl Visitor for Shown {
    fn record(&mut self, record: &Record) {
        self.0.push(TraceItem::Record(*record));
    }

    fn other(&mut self, item: TraceItem) {
        self.0.push(item);
    }
}

fn records_of(items: &[TraceItem]) -> Vec<Record> {
    let records = items.iter().map(|item| match item {
        TraceItem::Record(record) => Some(*record),
        _ => None,
    });
    records.flatten().collect()
}

/// Records lost in the ring, and records that cannot be read.
fn missing_of(items: &[TraceItem]) -> (u64, u64) {
    let lost = items
        .iter()
        .map(|item| if let TraceItem::Lost { records, .. } = item { *records } else { 0 });
    let unreadable = items
        .iter()
        .map(|item| if let TraceItem::Unreadable { records, .. } = item { *records } else { 0 });
    (lost.sum(), unreadable.sum())
}

#[test]
fn a_whole_file_reads_back_in_the_order_of_time_without_a_warning() {
    let (trace, items) = read_in_every_way(whole_file()).unwrap();
    assert_eq!(trace.warnings, Vec::<String>::new());
    assert_eq!(trace.begun_unix_nanoseconds, 9);
    assert_eq!(items.first(), Some(&TraceItem::Session(0)));
    assert_eq!(records_of(&items), originals());
    assert_eq!(items.len(), originals().len() + 1);
    assert_eq!(trace.sessions[0].records_claimed(), 60);
}

#[test]
fn losses_in_the_ring_and_damage_in_the_file_are_distinguished_to_the_record() {
    let mut file = file_header(0).to_vec();
    file.extend(found_chunk());
    file.extend(records_chunk(0, 0, 0));
    // 10 to 19 were recorded and damaged, 20 to 24 were lost in the ring.
    let mut damaged = records_chunk(0, 10, 0);
    damaged[200] ^= 1;
    file.extend(damaged);
    file.extend(records_chunk(0, 25, 5));
    file.extend(end_chunk());
    let (_, items) = read_in_every_way(file).unwrap();
    assert_eq!(missing_of(&items), (5, 10));
    assert_eq!(records_of(&items).len(), 20);
    assert_eq!(items[11], TraceItem::Unreadable { cpu: 0, records: 10 });
    assert_eq!(items[12], TraceItem::Lost { cpu: 0, records: 5 });
}

#[test]
fn a_damaged_last_chunk_is_reported_too() {
    let mut file = file_header(0).to_vec();
    file.extend(found_chunk());
    let mut damaged = records_chunk(1, 0, 0);
    damaged[100] ^= 0x80;
    file.extend(damaged);
    let (_, items) = read_in_every_way(file).unwrap();
    assert_eq!(items, [TraceItem::Session(0), TraceItem::Unreadable { cpu: 1, records: 10 }]);
}

#[test]
fn a_file_cut_off_anywhere_is_read_up_to_there_with_a_warning() {
    let whole = whole_file();
    let first_chunk = FILE_HEADER_BYTES + found_chunk().len();
    let chunk_bytes = records_chunk(0, 0, 0).len();
    for length in 0..whole.len() {
        let Some((trace, items)) = read_in_every_way(whole[..length].to_vec()) else {
            assert!(length < FILE_HEADER_BYTES);
            continue;
        };
        let records = records_of(&items);
        let whole_chunks = length.saturating_sub(first_chunk) / chunk_bytes;
        let inside = length.saturating_sub(first_chunk) % chunk_bytes;
        let partial = inside.saturating_sub(CHUNK_HEADER_BYTES) / RECORD_BYTES;
        let expected = (whole_chunks * 10 + partial).min(60);
        assert_eq!(records.len(), expected, "cut at {length}");
        assert!(records.iter().all(|record| originals().contains(record)));
        assert!(!trace.warnings.is_empty(), "cut at {length} without a warning");
    }
}

#[test]
fn a_length_that_leads_out_of_the_file_is_damage_and_not_a_cut() {
    let mut file = whole_file();
    // The first chunk of records: its length, and a byte of its fourth record that no number speaks
    // for.
    let damaged = FILE_HEADER_BYTES + found_chunk().len();
    file[damaged + 0x12] = 1;
    file[damaged + CHUNK_HEADER_BYTES + 3 * RECORD_BYTES + 20] ^= 9;
    let (trace, items) = read_in_every_way(file).unwrap();
    let records = records_of(&items);
    assert_eq!(records.len(), 50, "{:?}", trace.warnings);
    assert!(records.iter().all(|record| originals().contains(record)));
    assert_eq!(missing_of(&items), (0, 10));
}

#[test]
fn a_cut_chunk_with_a_snapshot_of_a_chunk_in_it_keeps_the_records_before() {
    let mut file = file_header(0).to_vec();
    file.extend(found_chunk());
    let mut looks_like_a_chunk = record(0, 5).to_bytes();
    looks_like_a_chunk[16..24].copy_from_slice(&CHUNK_MAGIC);
    let mut records = records_chunk(0, 0, 0);
    records[CHUNK_HEADER_BYTES + 5 * RECORD_BYTES..][..RECORD_BYTES]
        .copy_from_slice(&looks_like_a_chunk);
    file.extend(&records[..records.len() - 1]);
    let (_, items) = read_in_every_way(file).unwrap();
    assert_eq!(records_of(&items).len(), 9);
}

#[test]
fn what_is_no_trace_or_a_later_one_is_named_in_one_line() {
    let mut later = whole_file();
    later[8] = 9;
    for (bytes, expected) in [
        (Vec::new(), "0 bytes"),
        (b"OCHEFILE".to_vec(), "8 bytes"),
        (vec![0x7f; 100], "does not begin with OCHEFILE"),
        (later, "version 9"),
    ] {
        let error = TraceFile::from_source(bytes).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn a_chunk_of_a_later_kind_is_left_out_and_the_rest_is_read() {
    let mut file = file_header(0).to_vec();
    file.extend(found_chunk());
    file.extend(chunk(ChunkHeader { kind: 77, ..ChunkHeader::default() }, b"something new"));
    file.extend(records_chunk(0, 0, 0));
    file.extend(end_chunk());
    let (trace, items) = read_in_every_way(file).unwrap();
    assert_eq!(records_of(&items).len(), 10);
    assert!(
        trace.warnings.iter().any(|warning| warning.contains("kind 77")),
        "{:?}",
        trace.warnings
    );
}

#[test]
fn two_boots_are_two_sessions_one_after_the_other() {
    let mut file = whole_file();
    file.extend(found_chunk());
    file.extend(records_chunk(0, 0, 0));
    file.extend(end_chunk());
    let (trace, items) = read_in_every_way(file).unwrap();
    assert_eq!(trace.sessions.len(), 2);
    assert_eq!(items.iter().position(|item| *item == TraceItem::Session(1)), Some(61));
    assert_eq!(items.len(), 72);
    let summaries = summarize(&trace);
    assert_eq!((summaries[0].events, summaries[1].events), (60, 10));
    assert_eq!(summaries[1].devices[SHOWN].maps, 10);
}

#[test]
fn a_filter_shows_what_it_was_asked_for() {
    let (trace, _) = read_in_every_way(whole_file()).unwrap();
    let lines = |filter: EventFilter| {
        let mut out = Vec::new();
        write_text(&trace, &filter, &Symbols::default(), &mut out).unwrap();
        String::from_utf8(out).unwrap().lines().filter(|line| !line.starts_with('#')).count()
    };
    assert_eq!(lines(EventFilter { cpu: Some(1), ..EventFilter::default() }), 30);
    let of = |whom| EventFilter { whom, ..EventFilter::default() };
    let stream = |stream| vec![StreamChoice { dart: None, stream: Some(stream) }];
    let device = Some("nv".into());
    assert_eq!(lines(of(Whom { streams: stream(2), device, ..Whom::default() })), 60);
    assert_eq!(lines(of(Whom { streams: stream(3), ..Whom::default() })), 0);
    assert_eq!(lines(of(Whom { dart: Some(1), ..Whom::default() })), 0);
    let unmaps = KindSet::NONE.with(oche_types::event::Kind::Unmap);
    assert_eq!(lines(EventFilter { kinds: unmaps, ..EventFilter::default() }), 0);
}

#[test]
fn json_agrees_with_the_text() {
    let (trace, _) = read_in_every_way(whole_file()).unwrap();
    let mut out = Vec::new();
    write_json(&trace, &EventFilter::default(), &Symbols::default(), &mut out).unwrap();
    let lines: Vec<serde_json::Value> = String::from_utf8(out)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 61);
    assert_eq!(lines[0]["board"], "test board");
    assert_eq!(lines[0]["release"], "0.1.0 (ceabe3a4f01d, build 3f2a9c1be0d4)");
    assert_eq!(lines[0]["devices"][0]["stream"], 2);
    let last = &lines[60];
    assert_eq!((last["event"].as_str(), last["device"].as_str()), (Some("map"), Some(SHOWN)));
    assert_eq!(last["iova"], "0x1d000");
    assert_eq!(last["time_ns"], 59_000_000);
    assert_eq!(last["perm"], "rw");
}

#[test]
fn devices_that_share_a_stream_are_all_named() {
    let words = Plain(RefCell::new(directory()));
    let machine = Machine::read(&words);
    let mut writer = DirectoryWriter::begin(&words, Layout::new(1, 0), &machine);
    let (dart, stream) = (DartId::new(0).unwrap(), StreamId::new(2).unwrap());
    writer.device(0x10, dart, stream, "00:02.0");
    writer.device(0x11, dart, stream, "00:02.1");
    writer.finish();
    let description = TraceDescription::read(&words.0.into_inner());
    assert_eq!(description.device(dart, stream), Some("00:02.0+00:02.1"));
    assert_eq!(description.device(dart, StreamId::new(3).unwrap()), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_reader_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        is_trace: bool,
    ) {
        let mut file = if is_trace { file_header(0).to_vec() } else { Vec::new() };
        file.extend(bytes);
        read_in_every_way(file);
    }

    #[test]
    fn a_damaged_file_shows_records_that_were_in_it_and_no_others(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut file = whole_file();
        // The description is damaged in the next test: with another clock or board the records are
        // the same.
        let start = FILE_HEADER_BYTES;
        for (place, value) in damage {
            let place = start + place.index(file.len() - start);
            file[place] = value;
        }
        let is_cut = cut.is_some();
        file.truncate(cut.map_or(file.len(), |cut| start + cut.index(file.len() - start)));
        if let Some((_, items)) = read_in_every_way(file) {
            for record in records_of(&items) {
                // A chunk that was cut off has no checksum, so there the number alone speaks for a
                // record.
                let number = |record: &Record| (record.sequence(), record.cpu());
                let is_original = originals().iter().any(|original| {
                    *original == record || is_cut && number(original) == number(&record)
                });
                prop_assert!(is_original);
            }
        }
    }

    #[test]
    fn a_wild_directory_or_chunk_with_a_right_checksum_is_harmless(
        words in proptest::collection::vec(any::<u64>(), DESCRIPTION_BYTES / 8),
        kind in 0_u32..6,
        cpu in 0_u32..40,
        first: u64,
        lost_before: u64,
        payload in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut file = file_header(0).to_vec();
        let found = Found { unix_nanoseconds: 1, offset: 2, words };
        file.extend(chunk(ChunkHeader { kind: 1, ..ChunkHeader::default() }, &found.to_payload()));
        let header = ChunkHeader { kind, cpu, first, lost_before, ..ChunkHeader::default() };
        file.extend(chunk(header, &payload));
        file.extend(chunk(ChunkHeader { cpu: cpu ^ 1, ..header }, &payload));
        file.extend(chunk(header, &payload));
        prop_assert!(read_in_every_way(file).is_some());
    }
}

#[test]
fn a_function_that_is_known_is_named_at_the_end_of_its_line() {
    let (trace, _) = read_in_every_way(whole_file()).unwrap();
    let symbols = Symbols::new(vec![(0, "reset_vector".into())], 0);
    let mut out = Vec::new();
    write_text(&trace, &EventFilter::default(), &symbols, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.lines().last().unwrap().ends_with(" seq=29 code=reset_vector+0x4"), "{text}");
}

#[test]
fn devices_have_the_drivers_that_the_traces_names_give_them() {
    use crate::trace::names::{DeviceName, Names};
    let mut made = crate::trace::made::Made::new();
    let device = DeviceName { name: "nvme".into(), driver: Some("nvme_pci".into()) };
    made.names = vec![
        Names { devices: vec![device], ..Names::default() },
        // As a guest shuts down it has no devices left.
        Names::default(),
    ];
    let trace = made.open();
    let at = crate::trace::made::at(0, 1, 0);
    let place = crate::trace::lifetime::StreamPlace::new(at.dart, at.stream);
    assert_eq!(trace.sessions[0].description.label_of(place), "nvme (nvme_pci)");
}
