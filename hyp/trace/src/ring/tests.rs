//! A ring keeps the newest, counts the rest, and never shows half a record.

extern crate std;

use oche_types::addr::Gfn;
use oche_types::dart::stream::{DartId, StreamSet};
use oche_types::event::Kind;
use oche_types::selection::Selection;

use super::*;
use crate::directory::{DIRECTORY_BYTES, DirectoryWriter, Machine, counters};
use crate::record::RECORD_BYTES;
use crate::words::Text;
use crate::words::tests::Shared;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

const RECORDS: usize = 8;

fn rings(cpus: usize, records: usize) -> (Shared, Layout) {
    let layout = Layout::new(cpus, records * RECORD_BYTES);
    let words = Shared::new(layout.total_bytes());
    let machine = Machine {
        board: Text::new("test"),
        release: Text::new("0.1.0 (ceabe3a4f01d, build 3f2a9c1be0d4)"),
        counter_hz: 1_000_000_000,
        start_ticks: 0,
        wall_clock_nanoseconds: None,
    };
    DirectoryWriter::begin(&words, layout, &machine).finish();
    (words, layout)
}

/// An event all of whose words follow from `number`, so that a mixture of two records shows.
fn event(number: u64) -> Event {
    Event::Access {
        address: number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        is_write: number.is_multiple_of(2),
    }
}

fn write(writer: &mut RingWriter, words: &impl Words, number: u64) {
    writer.record(words, number, number << 2 & 0xffff_ffff_ffff, &event(number));
}

fn assert_whole(record: &Record, number: u64, cpu: usize) {
    assert_eq!(record.time(), number);
    assert_eq!(record.sequence(), number as u32);
    assert_eq!(usize::from(record.cpu()), cpu);
    assert_eq!(record.program_counter(), number << 2 & 0xffff_ffff_ffff);
    assert_eq!(record.event(), Some(event(number)));
}

#[test]
fn a_reader_sees_what_was_written_in_order_and_loses_nothing_while_it_keeps_up() {
    let (words, layout) = rings(2, RECORDS);
    let mut writer = RingWriter::new(layout, 1).unwrap();
    let mut reader = RingReader::new(layout, 1).unwrap();
    let mut other = RingReader::new(layout, 0).unwrap();
    let mut into = [Record::default(); RECORDS];
    for round in 0..100 {
        for index in 0..RECORDS as u64 {
            write(&mut writer, &words, round * RECORDS as u64 + index);
        }
        let batch = reader.read(&words, &mut into);
        assert_eq!(batch, Batch { first: round * RECORDS as u64, count: RECORDS, lost_before: 0 });
        for (number, record) in (batch.first..).zip(&into) {
            assert_whole(record, number, 1);
        }
    }
    assert_eq!(reader.lost(), 0);
    assert_eq!(other.read(&words, &mut into), Batch::default());
}

#[test]
fn what_was_overwritten_is_counted_to_the_record() {
    let (words, layout) = rings(1, RECORDS);
    let mut writer = RingWriter::new(layout, 0).unwrap();
    let mut reader = RingReader::new(layout, 0).unwrap();
    let mut into = [Record::default(); 3];
    for number in 0..RECORDS as u64 + 5 {
        write(&mut writer, &words, number);
    }
    assert_eq!(reader.read(&words, &mut into), Batch { first: 5, count: 3, lost_before: 5 });
    assert_whole(&into[0], 5, 0);
    for number in RECORDS as u64 + 5..40 {
        write(&mut writer, &words, number);
    }
    assert_eq!(reader.read(&words, &mut into), Batch { first: 32, count: 3, lost_before: 24 });
    assert_eq!((reader.lost(), reader.passed()), (29, 35));
}

#[test]
fn a_record_that_is_being_overwritten_is_lost_and_not_shown() {
    let (words, layout) = rings(1, RECORDS);
    let mut writer = RingWriter::new(layout, 0).unwrap();
    let mut reader = RingReader::new(layout, 0).unwrap();
    for number in 0..RECORDS as u64 {
        write(&mut writer, &words, number);
    }
    // The writer has begun record 8 in the place of record 0: its number stands there, the head
    // does not.
    words.store(layout.ring_word(0) + SEQUENCE_WORD, RECORDS as u64);
    let mut into = [Record::default(); RECORDS];
    assert_eq!(
        reader.read(&words, &mut into),
        Batch { first: 1, count: RECORDS - 1, lost_before: 1 }
    );
}

#[test]
fn a_gap_in_the_middle_ends_a_batch_and_is_counted_by_the_next() {
    let (words, layout) = rings(1, RECORDS);
    let mut writer = RingWriter::new(layout, 0).unwrap();
    let mut reader = RingReader::new(layout, 0).unwrap();
    for number in 0..4 {
        write(&mut writer, &words, number);
    }
    words.store(layout.ring_word(0) + 2 * RECORD_WORDS + SEQUENCE_WORD, 77);
    let mut into = [Record::default(); RECORDS];
    assert_eq!(reader.read(&words, &mut into), Batch { first: 0, count: 2, lost_before: 0 });
    assert_eq!(reader.read(&words, &mut into), Batch { first: 3, count: 1, lost_before: 1 });
}

#[test]
fn a_head_that_makes_no_sense_ends_soon_and_shows_nothing_false() {
    for head in [1, 9, u64::from(u32::MAX), u64::MAX - 3, u64::MAX] {
        let (words, layout) = rings(1, RECORDS);
        words.store(layout.head_word(0), head);
        words.store(layout.ring_word(0) + SEQUENCE_WORD, 5);
        let mut reader = RingReader::new(layout, 0).unwrap();
        let mut into = [Record::default(); RECORDS];
        reader.read(&words, &mut into);
        reader.read(&words, &mut into);
        assert_eq!(reader.passed(), head);
    }
}

#[test]
fn without_room_for_records_there_is_no_ring() {
    let layout = Layout::new(1, RECORD_BYTES - 1);
    assert_eq!(layout.total_bytes(), DIRECTORY_BYTES);
    assert!(RingWriter::new(layout, 0).is_none());
    assert!(RingReader::new(layout, 0).is_none());
    assert!(RingReader::new(Layout::new(1, 64), 1).is_none());
}

#[test]
fn a_reader_that_races_the_writer_never_accepts_a_torn_record_and_counts_losses_exactly() {
    const WRITTEN: u64 = 3_000_000;
    let (words, layout) = rings(1, 64);
    let is_done = AtomicBool::new(false);
    let (seen, lost, gaps) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = RingWriter::new(layout, 0).unwrap();
            for number in 0..WRITTEN {
                write(&mut writer, &words, number);
                // Now and then the reader gets to catch up, so that both cases happen.
                if number.is_multiple_of(4096) {
                    std::thread::yield_now();
                }
            }
            is_done.store(true, Ordering::Release);
        });
        let mut reader = RingReader::new(layout, 0).unwrap();
        let mut into = vec![Record::default(); 16];
        let (mut seen, mut lost, mut next, mut gaps) = (0, 0, 0, 0);
        loop {
            let was_done = is_done.load(Ordering::Acquire);
            let batch = reader.read(&words, &mut into);
            assert_eq!(batch.first, next + batch.lost_before);
            for (number, record) in (batch.first..).zip(&into[..batch.count]) {
                assert_whole(record, number, 0);
            }
            next = batch.first + batch.count as u64;
            seen += batch.count as u64;
            lost += batch.lost_before;
            gaps += u64::from(batch.lost_before > 0);
            if was_done && batch.count == 0 {
                assert_eq!(reader.lost(), lost);
                return (seen, lost, gaps);
            }
        }
    });
    assert_eq!(seen + lost, WRITTEN);
    assert!(seen >= 64, "only {seen} records were read");
    assert!(gaps > 0, "the writer never overtook the reader, so the race was not tried");
}

/// A CPU that records a million events in each of `seconds` simulated seconds, and a reader that
/// comes a thousand times a second and takes at most 700 then: everything is read or counted as
/// lost.
fn write_faster_than_the_reader(seconds: u64) -> (u64, u64) {
    let (words, layout) = rings(1, 32768);
    let mut writer = RingWriter::new(layout, 0).unwrap();
    let mut reader = RingReader::new(layout, 0).unwrap();
    let mut into = vec![Record::default(); 700];
    let (mut seen, mut lost, mut next) = (0, 0, 0);
    let mut take = |words: &Shared| {
        let batch = reader.read(words, &mut into);
        assert_eq!(batch.first, next + batch.lost_before);
        for (number, record) in (batch.first..).zip(&into[..batch.count]) {
            assert_whole(record, number, 0);
        }
        next = batch.first + batch.count as u64;
        seen += batch.count as u64;
        lost += batch.lost_before;
        batch.count
    };
    for millisecond in 0..seconds * 1000 {
        for event in 0..1000 {
            write(&mut writer, &words, millisecond * 1000 + event);
        }
        take(&words);
    }
    while take(&words) > 0 {}
    (seen, lost)
}

#[test]
fn every_loss_of_a_slow_reader_is_counted() {
    let (seen, lost) = write_faster_than_the_reader(1);
    assert_eq!(seen + lost, 1_000_000);
    assert!(lost > 100_000, "the reader is slow");
}

#[test]
#[ignore = "a minute of simulated time, for a release build"]
fn every_loss_of_a_minute_at_a_million_events_a_second_is_counted() {
    let (seen, lost) = write_faster_than_the_reader(60);
    assert_eq!(seen + lost, 60_000_000);
    std::println!("60000000 written, {seen} read, {lost} lost and counted, 0 not counted");
}

#[test]
fn what_a_filter_leaves_out_takes_no_number_and_is_counted() {
    let (words, layout) = rings(2, RECORDS);
    let mut writer = RingWriter::new(layout, 1).unwrap();
    let filter = Filter::new(1 << Kind::Access.number(), Selection::ALL);
    for number in 0..6 {
        writer.record_if(&filter, &words, number, 0, &event(number));
        writer.record_if(
            &filter,
            &words,
            number,
            0,
            &Event::Table { page: Gfn(1), is_unsync: true },
        );
    }
    let mut into = [Record::default(); RECORDS];
    let mut reader = RingReader::new(layout, 1).unwrap();
    assert_eq!(reader.read(&words, &mut into), Batch { first: 0, count: 6, lost_before: 0 });
    assert!(into[..6].iter().all(|record| record.kind() == Some(Kind::Access)));
    let left_out: Vec<(Option<usize>, u64)> = counters(&words, layout)
        .filter(|counter| counter.name.as_str() == "events_left_out")
        .map(|counter| (counter.cpu, counter.value))
        .collect();
    assert_eq!(left_out, [(Some(0), 0), (Some(1), 6)]);
}

#[test]
fn a_panic_shows_the_newest_records_oldest_first() {
    let (words, layout) = rings(1, RECORDS);
    let mut writer = RingWriter::new(layout, 0).unwrap();
    for streams in 0..12 {
        let event = Event::Flush { dart: DartId::new(2).unwrap(), streams: StreamSet(streams) };
        writer.record(&words, u64::from(streams) * 1000, 0xffff_8000_0000_1000, &event);
    }
    let mut out = String::new();
    let clock = Clock { counter_hz: 1_000_000_000, start_ticks: 0 };
    write_last_records(&words, layout, 0, 3, clock, "oche: ", &mut out).unwrap();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 3, "{out}");
    assert!(lines[0].starts_with("oche: ") && lines[0].contains("streams=0x0009"), "{out}");
    assert!(lines[2].contains("flush: ") && lines[2].contains("streams=0x000b"), "{out}");
    assert!(lines[2].contains("0.000011000"), "{out}");
}
