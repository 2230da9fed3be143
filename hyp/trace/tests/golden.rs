//! What every event becomes, held against `golden.txt`: the record's bytes, the line of text, the
//! counters that it moves, and the filters that let it pass. A file that was written yesterday is
//! read tomorrow, so nothing here ever changes; a new event adds lines.

use std::fmt::Write as _;

use core::sync::atomic::AtomicU64;

use oche_trace::filter::Filter;
use oche_trace::record::{Record, Stamp};
use oche_trace::statistics::{LiveStatistics, Statistics};
use oche_trace::text::{Clock, Line};
use oche_types::addr::{Gfn, Hfn, HostGranule, IovaPage};
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::{DartId, MAX_DARTS, StreamId, StreamSet};
use oche_types::event::{Event, Kind, Place, Placement, Refusal, WatchHow};
use oche_types::selection::Selection;

const GOLDEN: &str = include_str!("golden.txt");

fn dart() -> DartId {
    DartId::new(3).expect("a DART")
}

fn stream() -> StreamId {
    StreamId::new(9).expect("a stream")
}

/// Every kind of event, with fields whose values name their places, and with the most that each
/// field can hold.
fn events() -> Vec<Event> {
    let mut events = Vec::new();
    for most in [false, true] {
        let word = |value: u32| if most { u32::MAX } else { value };
        let half = |value: u16| if most { u16::MAX } else { value };
        let long = |value: u64| if most { u64::MAX } else { value };
        let (dart, stream) = (dart(), stream());
        let at = Place { dart, stream, iova: IovaPage(if most { 0xf_ffff } else { 0xb_ff43 }) };
        let page = Gfn(word(0x4_6781));
        events.extend([
            Event::Register {
                dart,
                offset: half(0x0104),
                is_write: most,
                value: word(0x1234_5678),
            },
            Event::Flush { dart, streams: StreamSet(half(0x0210)) },
            Event::FlushDone { dart, pages: word(0x0102), is_busy: most },
            Event::Unmap { at, page },
            Event::Moved { page, to: Hfn(word(0x8_8123)) },
            Event::Moved { page, to: page.home() },
            Event::Fetched { page, from: Hfn(word(0x8_8123)) },
            Event::LiveMove { at, to: HostGranule(word(0x2_2048)), merged_bytes: word(0x1357) },
            Event::Merged { page, bytes: word(0x0246) },
            Event::RedZone { at, offset: if most { 0xfff } else { 0x123 }, bytes: half(0x0345) },
            Event::Fault {
                dart,
                stream,
                iova: long(0xbff4_3210),
                code: half(0x0004),
                is_write: most,
                is_hidden: !most,
            },
            Event::Table { page, is_unsync: most },
            Event::Attach { dart, stream, root: most.then_some(page) },
            Event::InvalidateTimedOut { dart },
            Event::Access { address: long(0x4678_1234), is_write: most },
            Event::Filter { generation: word(7), is_whole: most },
            Event::Snapshot { at, page, is_written: most, bytes: if most { 0x1fff } else { 256 } },
            Event::Callers {
                dart,
                frames: if most { 15 } else { 5 },
                first: long(0xffff_8000_0812_3450),
            },
            Event::Data { words: [long(0x0706_0504_0302_0100), long(0x0f0e_0d0c_0b0a_0908)] },
        ]);
        enumerated(&mut events, at, page, most);
    }
    // New events go to the end: what was there before stays where it is.
    events.extend([(6, false, 0xffff_fff0_0000_1234), (15, true, u64::MAX)].map(
        |(frames, is_cut, nearest)| Event::CallChain { dart: dart(), frames, is_cut, nearest },
    ));
    events
}

/// Adds the events of which a field is one of a few, with each of these.
fn enumerated(events: &mut Vec<Event>, at: Place, page: Gfn, most: bool) {
    for how in [WatchHow::Exact, WatchHow::Before, WatchHow::After, WatchHow::GivenUp] {
        let (offset, bytes) = if most { (0xfff, 127) } else { (0x128, 16) };
        events.push(Event::Watch { at, offset, page, bytes, is_write: most, how });
    }
    for permission in [Permission::READ_ONLY, Permission::WRITE_ONLY, Permission::READ_WRITE] {
        events.push(Event::Permission { at, page, permission });
        for placement in [Placement::Direct, Placement::Migrated, Placement::Bounce] {
            events.push(Event::Map { at, page, permission, placement });
        }
    }
    events.extend(
        [
            Refusal::PoolExhausted,
            Refusal::NotGuestMemory,
            Refusal::DeviceNotDirect,
            Refusal::SubPageWindow,
            Refusal::TooManyAliases,
            Refusal::TableNotGuestMemory,
            Refusal::TooManyTables,
            Refusal::TooManyDomains,
            Refusal::OutOfStage2Tables,
            Refusal::NotTrappable,
            Refusal::MixedPermission,
        ]
        .map(|reason| Event::Refused { at, page, reason }),
    );
}

/// The counters that `event` moves, and by how much.
fn counted(event: &Event) -> String {
    let words = [const { AtomicU64::new(0) }; Statistics::NAMES.len()];
    let statistics = LiveStatistics::new(&words);
    statistics.count(event);
    let moved =
        Statistics::NAMES.iter().zip(statistics.read().values()).filter(|(_, value)| *value != 0);
    moved.map(|(name, value)| format!(" {name}={value}")).collect()
}

/// Whether `event` passes filters for its kind alone, for all others, for some streams, and for
/// single bytes of IOVA space.
fn admitted(event: &Event) -> String {
    let kind = 1 << Kind::of(event).number();
    let mut filters = vec![Filter::new(kind, Selection::ALL), Filter::new(!kind, Selection::ALL)];
    for (dart, streams) in [(3, 1 << 9), (3, 1 << 4), (3, 1 << 15), (2, u16::MAX)] {
        let mut selection = Selection { streams: [StreamSet(0); MAX_DARTS], ..Selection::ALL };
        selection.streams[dart] = StreamSet(streams);
        filters.push(Filter::new(u64::MAX, selection));
    }
    for iova in [
        0xbff4_2fff,
        0xbff4_3000,
        0xbff4_3127,
        0xbff4_3128,
        0xbff4_3137,
        0xbff4_3138,
        0xbff4_3210,
        0xbff4_3211,
        0xbff4_3fff,
        0xbff4_4000,
        0xbff4_6fff,
        0xbff4_7000,
        0xffff_efff,
        0xffff_f000,
        0xffff_fffe,
        0xffff_ffff,
        0x1_0000_007d,
        0x1_0000_007e,
        0x1_0000_2fff,
        0x1_0000_3000,
        u64::MAX,
    ] {
        let selection = Selection { first: iova, last: iova, ..Selection::ALL };
        filters.push(Filter::new(u64::MAX, selection));
    }
    filters.iter().map(|filter| if filter.admits(event) { '1' } else { '0' }).collect()
}

fn lines() -> String {
    let clock = Clock { counter_hz: 24_000_000, start_ticks: 24_000_000 };
    let mut lines = String::new();
    for (number, event) in events().iter().enumerate() {
        let stamp = Stamp {
            time: 24_000_000 * 13 + 12_000_001,
            sequence: 0x0403_0201 + number as u32,
            cpu: 2,
            program_counter: 0xffff_8000_0812_3450,
        };
        let record = Record::new(stamp, event);
        let bytes: String = record.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let text = Line::of(&record, clock, Some("0000:00:01.0"));
        let _ = writeln!(lines, "{bytes} {}{}\n{text}", admitted(event), counted(event));
    }
    lines
}

#[test]
fn every_event_becomes_what_it_always_did() {
    let lines = lines();
    for (number, (now, before)) in lines.lines().zip(GOLDEN.lines()).enumerate() {
        assert_eq!(now, before, "line {} of golden.txt", number + 1);
    }
    assert_eq!(lines.lines().count(), GOLDEN.lines().count(), "all lines:\n{lines}");
}

#[test]
fn every_kind_has_a_line() {
    let events = events();
    for kind in Kind::ALL {
        assert!(events.iter().any(|event| Kind::of(event) == kind), "no {}", kind.name());
    }
}

#[test]
fn every_record_reads_back_as_its_event() {
    for event in events() {
        let again = Record::new(Stamp::default(), &event).event().expect("it is known");
        let cut = match event {
            // What a record cannot hold is cut, as its description says.
            Event::LiveMove { at, to, merged_bytes } => {
                Event::LiveMove { at, to, merged_bytes: merged_bytes.min(0x7fff) }
            }
            Event::Fault { dart, stream, iova, code, is_write, is_hidden } => {
                Event::Fault { dart, stream, iova, code: code & 0x1fff, is_write, is_hidden }
            }
            event => event,
        };
        assert_eq!(again, cut);
    }
}
