//! Packets read back with the library's reader: order, items, snapshots put together. What
//! Wireshark makes of them is checked with tshark by `cargo xtask test`.

use super::*;
use crate::trace::made::{HZ, Made, at};
use oche_trace::layout::{Field, Word, fields};
use oche_types::addr::Gfn;
use oche_types::dart::entry::Permission;
use oche_types::event::{Placement, Refusal, WatchHow};
use pcap_file::pcapng::{Block, PcapNgReader};

type Packet = (u64, Vec<u8>, Vec<(u16, Vec<u8>)>);

fn packets(made: &Made) -> (Vec<String>, Vec<Packet>) {
    let mut bytes = Vec::new();
    write_pcapng(&made.open(), 0, &EventFilter::default(), &Symbols::default(), &mut bytes)
        .unwrap();
    let mut reader = PcapNgReader::new(&*bytes).unwrap();
    let (mut interfaces, mut packets) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(block) => {
                assert_eq!(block.linktype, DataLink::USER0);
                let name = block.options.iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                    _ => None,
                });
                interfaces.push(name.unwrap());
            }
            Block::EnhancedPacket(block) => {
                let (record, mut rest) = block.data.split_at(PACKET_HEADER_BYTES);
                let mut items = Vec::new();
                while let [kind_low, kind_high, low, high, after @ ..] = rest {
                    let length = usize::from(u16::from_le_bytes([*low, *high]));
                    items.push((
                        u16::from_le_bytes([*kind_low, *kind_high]),
                        after[..length].to_vec(),
                    ));
                    rest = &after[length..];
                }
                assert!(rest.is_empty());
                packets.push((block.timestamp.as_nanos() as u64, record.to_vec(), items));
            }
            other => panic!("{other:?}"),
        }
    }
    (interfaces, packets)
}

fn item_of(packet: &Packet, kind: PacketItem) -> Option<&[u8]> {
    packet.2.iter().find(|(number, _)| *number == kind as u16).map(|(_, bytes)| bytes.as_slice())
}

#[test]
fn an_event_is_a_packet_with_its_record_and_device_and_an_unmap_names_its_map() {
    let mut made = Made::new();
    made.map(0, 1, 0x100, 7, Permission::READ_ONLY).wait(500).unmap(0, 1, 0x100, 7);
    let (interfaces, packets) = packets(&made);
    assert_eq!((interfaces.as_slice(), packets.len()), (["dart0".to_owned()].as_slice(), 10));
    let map = &packets[3];
    assert_eq!(map.0, 1_040 * 1_000_000_000 / HZ);
    assert_eq!(Record::from_bytes(map.1.as_slice().try_into().unwrap()).kind(), Some(Kind::Map));
    assert_eq!(item_of(map, PacketItem::Device), Some(b"nvme".as_slice()));
    let mapped = item_of(&packets[8], PacketItem::Mapped).unwrap();
    assert_eq!(mapped, [4_u64.to_le_bytes(), 550_000_u64.to_le_bytes()].concat());
}

#[test]
fn a_snapshot_is_one_packet_with_its_bytes() {
    let mut made = Made::new();
    let snapshot =
        |bytes| Event::Snapshot { at: at(0, 1, 0x100), page: Gfn(7), is_written: false, bytes };
    made.event(snapshot(20));
    made.event(Event::Data {
        words: [u64::from_le_bytes(*b"abcdefgh"), u64::from_le_bytes(*b"ijklmnop")],
    });
    made.event(Event::Data { words: [u64::from_le_bytes(*b"qrst\0\0\0\0"), 0] });
    // The second one's bytes were lost.
    made.event(snapshot(32)).attach(0, 1, None).event(snapshot(16));
    let (_, packets) = packets(&made);
    let payloads: Vec<Option<&[u8]>> =
        packets.iter().map(|packet| item_of(packet, PacketItem::Payload)).collect();
    assert_eq!(payloads, [Some(b"abcdefghijklmnopqrst".as_slice()), Some(b""), None, Some(b"")]);
}

#[test]
fn the_dissector_knows_every_kind_and_item() {
    let dissector = crate::trace::wireshark::DISSECTOR;
    for kind in Kind::ALL {
        let row = format!("[{}] = \"{}\"", kind.number(), kind.name());
        assert!(dissector.contains(&row), "oche.lua lacks {row}");
        // Packets are not made of a record's further bytes, and a timeout has no field of its own.
        let describes = dissector.contains(&format!("\nfunction describe.{}(", kind.name()));
        let is_bare = matches!(kind, Kind::Data | Kind::InvalidateTimedOut);
        assert!(describes != is_bare, "oche.lua describes {}: {describes}", kind.name());
    }
    for (item, name) in [
        (PacketItem::Device, "DEVICE"),
        (PacketItem::Code, "CODE"),
        (PacketItem::Payload, "PAYLOAD"),
        (PacketItem::Mapped, "MAPPED"),
        (PacketItem::Time, "TIME"),
    ] {
        assert!(dissector.contains(&format!("ITEM_{name} = {}\n", item as u16)), "{name}");
    }
}

/// The tables of the dissector that follow from the table of events.
fn generated() -> String {
    let list = |name: &str, entries: &mut dyn Iterator<Item = (u8, &'static str)>| {
        let entries: String =
            entries.map(|(number, name)| format!("    [{number}] = \"{name}\",\n")).collect();
        format!("local {name} = {{\n{entries}}}\n")
    };
    let mut text = list("KINDS", &mut Kind::ALL.iter().map(|kind| (kind.number(), kind.name())));
    text += &list("PLACEMENTS", &mut Placement::ALL.iter().map(|it| (*it as u8, it.name())));
    text += &list("REASONS", &mut Refusal::ALL.iter().map(|it| (*it as u8, it.name())));
    text += &list("HOWS", &mut WatchHow::ALL.iter().map(|it| (*it as u8, it.name())));
    text += "local FIELDS = {\n";
    for kind in Kind::ALL {
        text += &format!("    {} = {{\n", kind.name());
        for Field { name, word, low, bits, .. } in fields(kind) {
            let word = if word == Word::Detail { "detail" } else { "payload" };
            text +=
                &format!("        {name} = {{ word = \"{word}\", low = {low}, bits = {bits} }},\n");
        }
        text += "    },\n";
    }
    text + "}\n"
}

/// With `OCHE_UPDATE` set, as `cargo xtask fix` does, the test first writes the part anew.
#[test]
fn the_dissector_has_every_field_where_it_is() {
    const BEGIN: &str = "-- Generated from the table of events; a test compares.\n";
    const END: &str = "-- End of the generated part.\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/trace/wireshark/oche.lua");
    let mut text = std::fs::read_to_string(path).expect("oche.lua");
    let part = |text: &str| {
        let (before, rest) = text.split_once(BEGIN).expect("oche.lua has a generated part");
        let (part, after) = rest.split_once(END).expect("the part ends");
        (before.to_owned(), part.to_owned(), after.to_owned())
    };
    let expected = generated();
    if std::env::var_os("OCHE_UPDATE").is_some() {
        let (before, _, after) = part(&text);
        text = format!("{before}{BEGIN}{expected}{END}{after}");
        std::fs::write(path, &text).expect("oche.lua can be written");
    }
    assert_eq!(part(&text).1, expected, "run `cargo xtask fix`: oche.lua should read");
}
