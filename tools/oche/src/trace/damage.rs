//! Files that are damaged, cut off, foreign or made of wild records, through every view: nothing
//! panics.
//!
//! `OCHE_INPUTS=1000000 cargo test --release -p oche --lib wild_files -- --nocapture` tries a
//! million.

use std::io::sink;

use oche_trace::record::RECORD_BYTES;
use oche_types::dart::entry::Permission;
use oche_types::event::Kind;

use super::check::{CheckOptions, check};
use super::ctf::write_ctf;
use super::filter::{CallerChoice, EventFilter, KindSet, StreamChoice};
use super::folded::{FoldedBy, write_folded};
use super::format::{CHUNK_HEADER_BYTES, ChunkHeader, checksum};
use super::leaks::{leaks, write_leaks};
use super::made::{FLUSHER, Made, at};
use super::maps::{maps, write_maps};
use super::numbers::Numbers;
use super::output::{write_json, write_text};
use super::pcapng::write_pcapng;
use super::perfetto::write_perfetto;
use super::reader::TraceFile;
use super::report::{ReportedFile, write_report};
use super::summary::{summarize, summarize_chosen, write_summary};
use super::symbols::Symbols;
use super::why::{Question, why, write_answer};

/// Inputs of an ordinary run.
const INPUTS: u64 = 3000;

fn small() -> Made {
    let mut made = Made::new();
    made.map(0, 1, 0x100, 7, Permission::READ_ONLY).attach(0, 1, Some(900)).unmap(0, 1, 0x100, 7);
    made.fault(0, 1, 0x10_0040, true, 4).map(1, 0, 0x100, 9, Permission::READ_WRITE);
    made.event(oche_types::event::Event::RedZone { at: at(0, 1, 0x101), offset: 8, bytes: 8 });
    made.attach(0, 1, None);
    made
}

/// The file with some bytes changed; or, as a chunk whose checksum is right, with wild
/// records in it.
fn damaged(file: &[u8], records_at: usize, numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = file.to_vec();
    match numbers.below(4) {
        0 => {
            let length = numbers.below(600);
            bytes.truncate(32 * numbers.below(2));
            bytes.extend((0..length).map(|_| numbers.next() as u8));
        }
        1 => bytes.truncate(numbers.below(file.len())),
        2 => {
            for _ in 0..1 + numbers.below(8) {
                let place = numbers.below(bytes.len());
                bytes[place] = numbers.next() as u8;
            }
        }
        _ => wild_records(&mut bytes, records_at, numbers),
    }
    bytes
}

fn wild_records(bytes: &mut [u8], records_at: usize, numbers: &mut Numbers) {
    let (before, payload) = bytes.split_at_mut(records_at + CHUNK_HEADER_BYTES);
    let head: &mut [u8; CHUNK_HEADER_BYTES] = before.last_chunk_mut().unwrap();
    let mut header = ChunkHeader::from_bytes(head).unwrap();
    let payload = &mut payload[..header.payload_bytes as usize];
    for record in payload.as_chunks_mut::<RECORD_BYTES>().0 {
        for _ in 0..numbers.below(4) {
            record[numbers.below(RECORD_BYTES)] = numbers.next() as u8;
        }
        // A kind that there is, most of the time.
        if numbers.below(8) > 0 {
            record[12] = 1 + numbers.below(20) as u8;
        }
    }
    header.checksum = checksum(&header, payload);
    head[0x18..0x20].copy_from_slice(&header.checksum.to_le_bytes());
}

/// Everything, or a part of it that the trace may have.
fn any_filter(numbers: &mut Numbers) -> EventFilter {
    let mut filter = EventFilter::default();
    if numbers.below(2) == 0 {
        return filter;
    }
    let any = numbers.next();
    let has = |bit: u32| any >> bit & 1 != 0;
    if has(0) {
        filter.whom.device = Some("nvme".into());
    }
    if has(1) {
        filter.whom.streams = vec![StreamChoice { dart: Some(0), stream: None }];
    }
    if has(2) {
        let first = numbers.next() >> numbers.below(64);
        filter.iova = Some(first..=first.saturating_add(numbers.next() >> numbers.below(64)));
    }
    filter.cpu = Some(numbers.below(3) as u8).filter(|_| has(3));
    filter.from_ns = Some(numbers.next() >> numbers.below(64)).filter(|_| has(4));
    filter.until_ns = Some(numbers.next() >> numbers.below(64)).filter(|_| has(5));
    filter.caller = Some(CallerChoice::Address(FLUSHER)).filter(|_| has(6));
    filter.kinds = if has(7) { KindSet::ALL.without(Kind::Register) } else { KindSet::ALL };
    filter
}

/// One of the views, by `choice`; each costs more than reading does.
fn look(trace: &TraceFile<Vec<u8>>, choice: usize, numbers: &mut Numbers) {
    let symbols = Symbols::default();
    let at_ns =
        if numbers.below(2) == 0 { None } else { Some(numbers.next() >> numbers.below(64)) };
    let filter = any_filter(numbers);
    let done = match choice {
        0 => write_text(trace, &filter, &symbols, &mut sink()).map(drop),
        1 => write_json(trace, &filter, &symbols, &mut sink()).map(drop),
        2 => summarize(trace)
            .iter()
            .chain(&summarize_chosen(trace, &filter, &symbols))
            .try_for_each(|summary| write_summary(summary, &mut sink())),
        3 => {
            let iova =
                [0x10_0040, 0x10_1000, numbers.next() >> numbers.below(64)][numbers.below(3)];
            let EventFilter { whom, from_ns, until_ns, .. } = filter;
            let question = Question { iova, whom, at_ns, from_ns, until_ns };
            write_answer(&why(trace, 0, &question, &symbols), &mut sink())
        }
        4 => write_maps(&maps(trace, 0, at_ns, &filter, &symbols), &mut sink()),
        5 => write_leaks(&leaks(trace, 0, &filter, &symbols), &mut sink()).and_then(|()| {
            write_folded(trace, 0, FoldedBy::Lifetime, &filter, &symbols, &mut sink())
        }),
        6 => write_perfetto(trace, 0, &filter, &symbols, &mut sink()),
        7 => write_pcapng(trace, 0, &filter, &symbols, &mut sink()),
        8 => write_report(trace, 0, &ReportedFile::default(), &filter, &symbols, &mut sink()),
        9 => {
            let folder = tempfile::tempdir().expect("a folder");
            let written = write_ctf(trace, 0, &filter, &symbols, &folder.path().join("t"));
            assert_eq!(written.is_ok(), !trace.sessions.is_empty());
            Ok(())
        }
        _ => {
            let options = CheckOptions { reports_hints: true, filter, ..CheckOptions::default() };
            check(trace, &symbols, &options);
            Ok(())
        }
    };
    done.expect("a sink takes all");
}

#[test]
fn wild_files_are_answered_by_every_view_without_a_panic() {
    let inputs = std::env::var("OCHE_INPUTS").ok().map_or(INPUTS, |count| count.parse().unwrap());
    let file = small().bytes();
    let is_records = |at: &usize| {
        let head = file[*at..].first_chunk().and_then(ChunkHeader::from_bytes);
        head.is_some_and(|header| header.kind == 2)
    };
    let records_at = (0..file.len()).step_by(8).find(is_records).unwrap();
    let (mut refused, mut warned) = (0_u64, 0_u64);
    for input in 0..inputs {
        let mut numbers = Numbers(input);
        let bytes = damaged(&file, records_at, &mut numbers);
        match TraceFile::from_source(bytes) {
            Ok(trace) => {
                warned += u64::from(!trace.warnings.is_empty());
                look(&trace, (input % 11) as usize, &mut numbers);
            }
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().contains('\n'), "one line: {error}");
            }
        }
    }
    println!(
        "{inputs} inputs: {refused} refused in one line, {warned} read with a warning, no panic"
    );
    assert!(refused > inputs / 20 && warned > inputs / 4 && refused + warned < inputs);
}
