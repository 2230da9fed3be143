//! The viewer's requirements: declared tracks, slices that nest, counters that add up.

use std::collections::BTreeMap;

use oche_types::dart::entry::Permission;
use oche_types::event::Event;
use prost::Message;

use super::schema::Trace;
use super::*;
use crate::trace::made::{Made, at, map};

fn packets(made: &Made) -> Vec<TracePacket> {
    let mut bytes = Vec::new();
    write_perfetto(&made.open(), 0, &EventFilter::default(), &Symbols::default(), &mut bytes)
        .unwrap();
    Trace::decode(&*bytes).unwrap().packet
}

fn busy() -> Made {
    let mut made = Made::new();
    made.map(0, 1, 0xfffff, 1, Permission::READ_WRITE).attach(0, 1, Some(900));
    for round in 0..500_u32 {
        made.cpu = (round % 2) as u8;
        made.map(0, 1, 0xff000 + round % 40, round + 5, Permission::READ_ONLY).wait(300);
        if round >= 20 {
            made.unmap(0, 1, 0xff000 + (round - 20) % 40, round - 15);
        }
    }
    made.fault(0, 1, 0x1000, true, 4);
    made
}

#[test]
fn every_event_is_on_a_declared_track_under_declared_parents() {
    let packets = packets(&busy());
    let mut declared = BTreeMap::new();
    for packet in &packets {
        assert_eq!(packet.trusted_packet_sequence_id, Some(1));
        if let Some(descriptor) = &packet.track_descriptor {
            assert!(descriptor.parent_uuid.is_none_or(|parent| declared.contains_key(&parent)));
            assert!(
                declared.insert(descriptor.uuid, descriptor.clone()).is_none(),
                "declared once"
            );
        }
        if let Some(event) = &packet.track_event {
            assert!(declared.contains_key(&event.track_uuid.unwrap()));
        }
    }
    let names: Vec<&str> =
        declared.values().filter_map(|descriptor| descriptor.name.as_deref()).collect();
    assert!(
        names.contains(&"stream 1: nvme")
            && names.contains(&"mappings")
            && names.contains(&"flushes a second")
    );
}

#[test]
fn mappings_overlap_and_the_slices_of_a_track_do_not() {
    let packets = packets(&busy());
    let mut open: BTreeMap<u64, u64> = BTreeMap::new();
    let (mut begun, mut most) = (0, 0);
    let mut events: Vec<(u64, &TrackEvent)> = packets
        .iter()
        .filter_map(|packet| Some((packet.timestamp?, packet.track_event.as_ref()?)))
        .collect();
    events.sort_by_key(|(time, _)| *time);
    for (_, event) in
        events.iter().filter(|(_, event)| event.track_uuid.unwrap() >> 56 == TrackKind::Row as u64)
    {
        let depth = open.entry(event.track_uuid.unwrap()).or_default();
        if event.r#type == Some(EventKind::SliceBegin as i32) {
            *depth += 1;
            begun += 1;
        } else {
            *depth -= 1;
        }
        assert!(*depth <= 1, "a row has one buffer at a time");
        most = most.max(open.values().sum());
    }
    assert_eq!((begun, most, open.len()), (501, 22, 22), "no more rows than buffers at once");
    assert_eq!(open.values().sum::<u64>(), 21, "what is still mapped has no end");
}

#[test]
fn counters_end_with_what_is_mapped_and_a_fault_is_an_instant() {
    let packets = packets(&busy());
    let events = || packets.iter().filter_map(|packet| packet.track_event.as_ref());
    let mapped = track(TrackKind::MappedBytes, 1, 0);
    let last = events().rfind(|event| event.track_uuid == Some(mapped)).unwrap();
    assert_eq!(last.counter_value, Some(21 * 4096));
    let fault =
        events().find(|event| event.name.as_deref() == Some("fault: write refused")).unwrap();
    assert!(fault.debug_annotations.contains(&Annotation::address("iova", 0x1000)));
}

#[test]
fn a_buffer_of_many_pages_is_one_slice() {
    let mut made = Made::new();
    let pages: Vec<Event> =
        (0..16).map(|page| map(at(0, 1, 0x100 + page), page, Permission::WRITE_ONLY)).collect();
    made.flush(0, 1, &pages);
    let names: Vec<String> = packets(&made)
        .iter()
        .filter_map(|packet| packet.track_event.as_ref()?.name.clone())
        .collect();
    assert_eq!(names, ["flush", "-w 64 KiB"]);
}
