//! Every event, every number, any bytes.

use super::*;
use alloc::vec::Vec;
use oche_types::addr::{Gfn, Hfn, HostGranule, IovaPage};
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::StreamSet;
use oche_types::event::{Place, Placement, Refusal, WatchHow};

fn dart(index: usize) -> DartId {
    DartId::new(index).expect("below the number of DARTs")
}

fn stream(index: usize) -> StreamId {
    StreamId::new(index).expect("below the number of streams")
}

/// Each kind of event with its fields at `value`, cut to what the field can hold in a machine.
fn events(value: u32, flag: bool) -> Vec<Event> {
    let dart = dart(value as usize % 32);
    let stream = stream(value as usize % 16);
    let at = Place { dart, stream, iova: IovaPage(value) };
    let mut events = Vec::from([
        Event::Register { dart, offset: value as u16, is_write: flag, value },
        Event::Flush { dart, streams: StreamSet(value as u16) },
        Event::FlushDone { dart, pages: value, is_busy: flag },
        Event::Unmap { at, page: Gfn(!value) },
        Event::Permission {
            at,
            page: Gfn(value),
            permission: Permission { read: flag, write: value & 2 != 0 },
        },
        Event::Moved { page: Gfn(value), to: Hfn(!value) },
        Event::Fetched { page: Gfn(value), from: Hfn(!value) },
        Event::LiveMove { at, to: HostGranule(!value), merged_bytes: value % 16385 },
        Event::Merged { page: Gfn(value), bytes: !value },
        Event::RedZone { at, offset: value as u16, bytes: !value as u16 },
        Event::Fault {
            dart,
            stream,
            iova: u64::from(value) << 32 | u64::from(!value),
            code: value as u16 & 0xfff,
            is_write: flag,
            is_hidden: !flag,
        },
        Event::Table { page: Gfn(value), is_unsync: flag },
        Event::Attach { dart, stream, root: flag.then_some(Gfn(value)) },
        Event::InvalidateTimedOut { dart },
        Event::Filter { generation: value, is_whole: flag },
        Event::Snapshot { at, page: Gfn(!value), is_written: flag, bytes: value as u16 & 0xfff },
        Event::Access { address: u64::from(!value) << 32 | u64::from(value), is_write: flag },
    ]);
    events.push(Event::Callers {
        dart,
        frames: value as u8 & 0xf,
        first: u64::from(value) << 32 | 5,
    });
    events.push(Event::CallChain {
        dart,
        frames: value as u8 & 0xf,
        is_cut: flag,
        nearest: u64::from(value) << 32 | u64::from(!value),
    });
    for how in WatchHow::ALL {
        let at = Place { iova: IovaPage(value & 0xf_ffff), ..at };
        let (offset, bytes) = (value as u16 & 0xfff, value as u8 & 0x7f);
        events.push(Event::Watch { at, offset, page: Gfn(!value), bytes, is_write: flag, how });
    }
    for placement in Placement::ALL {
        for permission in [Permission::READ_ONLY, Permission::WRITE_ONLY, Permission::READ_WRITE] {
            events.push(Event::Map { at, page: Gfn(!value), permission, placement });
        }
    }
    events.extend(Refusal::ALL.map(|reason| Event::Refused { at, page: Gfn(!value), reason }));
    events
}

#[test]
fn every_event_survives_packing_at_every_boundary() {
    for value in
        [0, 1, 0x7fff, 0x8000, 0xffff, 0x1_0000, 0xf_ffff, 0x7fff_ffff, 0x8000_0000, u32::MAX]
    {
        for flag in [false, true] {
            for event in events(value, flag) {
                for program_counter in
                    [0, 4, 0x0000_ffff_ffff_fffc, 0xffff_0000_0000_0000, u64::MAX]
                {
                    let stamp =
                        Stamp { time: u64::MAX, sequence: !value, cpu: 0xff, program_counter };
                    let record = Record::new(stamp, &event);
                    assert_eq!(record.event(), Some(event));
                    assert_eq!(record.stamp(), stamp);
                    assert_eq!(Record::from_bytes(&record.to_bytes()), record);
                }
            }
        }
    }
}

#[test]
fn data_survives_whole_and_has_no_program_counter() {
    for bytes in [[0; 2], [u64::MAX; 2], [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]] {
        let stamp = Stamp { time: 1, sequence: 2, cpu: 3, program_counter: u64::MAX };
        let record = Record::new(stamp, &Event::Data { words: bytes });
        assert_eq!(record.event(), Some(Event::Data { words: bytes }));
        assert_eq!((record.time(), record.sequence(), record.cpu()), (1, 2, 3));
        assert_eq!((record.program_counter(), record.dart(), record.stream()), (0, None, None));
    }
}

#[test]
fn every_kind_is_made_by_an_event_and_keeps_its_number() {
    let mut seen = [false; 25];
    for event in events(5, true).into_iter().chain([Event::Data { words: [5; 2] }]) {
        seen[usize::from(Record::new(Stamp::default(), &event).kind_number())] = true;
    }
    assert_eq!(seen, core::array::from_fn(|number| ![0, 10].contains(&number)));
    assert_eq!(
        (Kind::from_number(0), Kind::from_number(10), Kind::from_number(25)),
        (None, None, None)
    );
    for kind in Kind::ALL {
        assert!(seen[usize::from(kind.number())]);
        assert_eq!(Kind::from_number(kind.number()), Some(kind));
    }
}

#[test]
fn the_numbers_of_placements_and_refusals_are_their_places() {
    for (index, placement) in Placement::ALL.into_iter().enumerate() {
        assert_eq!(placement as usize, index);
    }
    for (index, reason) in Refusal::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, index);
    }
}

#[test]
fn the_words_of_a_map_are_as_documented() {
    let event = Event::Map {
        at: Place { dart: dart(3), stream: stream(9), iova: IovaPage(0xb_ff43) },
        page: Gfn(0x4_6781),
        permission: Permission::WRITE_ONLY,
        placement: Placement::Bounce,
    };
    let stamp =
        Stamp { time: 7, sequence: 0x0102_0304, cpu: 2, program_counter: 0xffff_8000_0812_3450 };
    let words = [
        7,
        0x0903_0204_0102_0304,
        0b1010 << 49 | 1 << 48 | 0x8000_0812_3450,
        0x000b_ff43_0004_6781,
    ];
    assert_eq!(Record::new(stamp, &event), Record(words));
}

#[test]
fn what_does_not_fit_is_cut_and_never_spills_into_a_neighbour() {
    let at = Place { dart: dart(1), stream: stream(1), iova: IovaPage(1) };
    let record = Record::new(
        Stamp { program_counter: 0x00ff_0000_0000_1000, ..Stamp::default() },
        &Event::LiveMove { at, to: HostGranule(1), merged_bytes: u32::MAX },
    );
    assert_eq!(record.program_counter(), 0x1000);
    assert_eq!(
        record.event(),
        Some(Event::LiveMove { at, to: HostGranule(1), merged_bytes: 0x7fff })
    );
}

#[test]
fn any_bytes_are_a_record_and_what_they_mean_survives_packing_again() {
    // A fixed xorshift walk: every run looks at the same million records.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut known = 0;
    for round in 0..1_000_000_u64 {
        let mut words = [next(), next(), next(), next()];
        if round.is_multiple_of(2) {
            // Near misses: a plausible kind, DART and stream, and everything else wild.
            words[1] &= 0x0f1f_ff1f_ffff_ffff;
        }
        let record = Record(words);
        assert_eq!(Record::from_bytes(&record.to_bytes()), record);
        if let Some(event) = record.event() {
            known += 1;
            let again = Record::new(record.stamp(), &event);
            assert_eq!(again.event(), Some(event));
            assert_eq!(again.stamp(), record.stamp());
        }
    }
    assert!(known > 100_000, "only {known} of the records meant something");
}
