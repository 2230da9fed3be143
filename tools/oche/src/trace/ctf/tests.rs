//! Streams read back byte by byte. What babeltrace2 makes of them is checked by `cargo xtask test`.

use super::*;
use crate::trace::event_fields::{CLASSES, FieldType};
use crate::trace::filter::KindSet;
use crate::trace::made::{Made, at, map, with_every_error};
use oche_types::addr::Gfn;
use oche_types::dart::entry::Permission;
use oche_types::event::{Event, WatchHow};
use tempfile::TempDir;

fn exported(made: &Made, filter: &EventFilter) -> (TempDir, CtfCounts) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("t");
    let counts = write_ctf(&made.open(), 0, filter, &Symbols::default(), &path).unwrap();
    (home, counts)
}

/// A packet's times, its counter of lost events, its number, and its events' bytes.
type PacketRead = ([u64; 2], u64, u64, Vec<u8>);

fn packets(home: &TempDir, cpu: usize) -> Vec<PacketRead> {
    let file = fs::read(home.path().join("t").join(format!("cpu{cpu}"))).unwrap();
    let (mut rest, mut packets) = (&*file, Vec::new());
    while !rest.is_empty() {
        assert_eq!(rest[..4], MAGIC.to_le_bytes());
        assert_eq!(rest[20..24], [0; 4]);
        let word =
            |place: usize| u64::from_le_bytes(rest[24 + 8 * place..][..8].try_into().unwrap());
        let bytes = (word(2) / 8) as usize;
        assert_eq!(
            (word(2), rest[72..76].to_vec()),
            (word(3), (cpu as u32).to_le_bytes().to_vec())
        );
        let events = rest[PACKET_BEGIN_BYTES..bytes].to_vec();
        packets.push(([word(0), word(1)], word(4), word(5), events));
        rest = &rest[bytes..];
    }
    packets
}

#[test]
fn an_event_is_its_header_its_context_and_its_fields() {
    let mut made = Made::new();
    made.event(map(at(0, 1, 0xfff00), 7, Permission::READ_ONLY));
    let (home, counts) = exported(&made, &EventFilter::default());
    let packets = packets(&home, 0);
    let time: u64 = 1_010_000;
    let mut expected = vec![4];
    expected.extend(time.to_le_bytes());
    expected.extend([0, 0, 1, 0]);
    expected.extend(b"nvme\0");
    expected.extend(crate::trace::made::FLUSHER.to_le_bytes());
    expected.extend([0]);
    expected.extend(0_u32.to_le_bytes());
    for number in [0xfff0_0000_u64, 0x7000, 4096] {
        expected.extend(number.to_le_bytes());
    }
    expected.extend(b"r-\0migrated\0");
    assert_eq!(packets, [([time, time], 0, 0, expected)]);
    assert_eq!((counts.events, counts.lost, counts.streams), (1, 0, 1));
    let files = fs::read_dir(home.path().join("t")).unwrap();
    let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(counts.bytes, bytes);
}

#[test]
fn a_loss_ends_a_packet_and_the_next_one_counts_it() {
    let mut made = Made::new();
    made.map(0, 1, 0x100, 7, Permission::READ_ONLY).lose(3).unmap(0, 1, 0x100, 7);
    let (home, counts) = exported(&made, &EventFilter::default());
    let packets = packets(&home, 0);
    let shape: Vec<(u64, u64)> = packets.iter().map(|packet| (packet.1, packet.2)).collect();
    assert_eq!((shape, counts.lost, counts.events), (vec![(0, 0), (3, 1)], 3, 10));
    assert!(packets[0].0[1] < packets[1].0[0]);
}

#[test]
fn a_loss_without_an_event_behind_it_is_counted_as_well() {
    let mut made = Made::new();
    made.map(0, 1, 0x100, 7, Permission::READ_ONLY).lose(3).unmap(0, 1, 0x100, 7);
    let first = EventFilter { until_ns: Some(1_040_000), ..EventFilter::default() };
    let (home, counts) = exported(&made, &first);
    let packets = packets(&home, 0);
    assert_eq!((counts.lost, packets.len(), packets[1].1), (3, 2, 3));
    assert_eq!((packets[1].3.len(), packets[1].0), (0, [packets[0].0[1]; 2]));
}

#[test]
fn a_long_stream_has_packets_of_bounded_size() {
    let made = with_every_error();
    let (home, counts) = exported(&made, &EventFilter::default());
    let packets = packets(&home, 0);
    assert!(packets.len() > 1 && counts.events > 1000);
    assert!(packets.iter().all(|packet| packet.3.len() < PACKET_BYTES + 1024));
    let flushes = EventFilter { kinds: KindSet::NONE.with(Kind::Flush), ..EventFilter::default() };
    assert!(exported(&made, &flushes).1.events < counts.events / 3);
}

#[test]
fn a_watched_value_is_bytes_behind_their_number() {
    let mut made = Made::new();
    let (page, how) = (Gfn(3), WatchHow::Exact);
    let watch = Event::Watch { at: at(0, 1, 7), offset: 8, page, bytes: 4, is_write: true, how };
    made.event(watch).event(Event::Data { words: [0x1122_3344, 0] });
    let (home, counts) = exported(&made, &EventFilter::default());
    assert_eq!(counts.events, 1);
    assert!(packets(&home, 0)[0].3.ends_with(&[4, 0, 0x44, 0x33, 0x22, 0x11]));
}

#[test]
fn the_description_has_an_event_for_each_kind_with_its_fields() {
    let (home, _) = exported(&Made::new(), &EventFilter::default());
    let text = fs::read_to_string(home.path().join("t").join(METADATA)).unwrap();
    for class in &CLASSES {
        let id = class.kind.map_or(0, Kind::number);
        let begin = format!("\tname = \"{}\";\n\tid = {id};\n", class.name);
        let of = text.split(&begin).nth(1).unwrap().split("\n};").next().unwrap();
        let numbers = class.fields.iter().filter(|(_, of)| *of == FieldType::Number);
        assert_eq!(of.matches("u64 _").count(), numbers.count(), "{}", class.name);
        assert!(class.fields.iter().all(|(name, _)| of.contains(&format!(" _{name}"))));
    }
    assert!(text.contains("board = \"made up\"") && text.contains("absolute = FALSE"));
}
