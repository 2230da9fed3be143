//! Questions about made-up traces, and the answers to the word where the words matter.

use super::*;
use crate::trace::filter::{EventFilter, StreamChoice, Whom};
use crate::trace::leaks::leaks;
use crate::trace::made::{Made, at, map, unmap};
use crate::trace::maps::maps;
use oche_types::dart::entry::Permission;
use oche_types::event::Event;

const TO_DEVICE: Permission = Permission::READ_ONLY;
const FROM_DEVICE: Permission = Permission::WRITE_ONLY;

fn ask(made: &Made, iova: u64, at_ns: Option<u64>) -> Answer {
    let question = Question { iova, at_ns, ..Question::default() };
    why(&made.open(), 0, &question, &Symbols::default())
}

/// An NVMe's buffer, mapped at 1.04 ms and unmapped at 1.19 ms, and a read of it 500 us later.
fn late_read() -> Made {
    let mut made = Made::new();
    made.map(0, 1, 0xfffc3, 0x41234, TO_DEVICE).wait(100).unmap(0, 1, 0xfffc3, 0x41234).wait(500);
    made.fault(0, 1, 0xfffc_3040, false, 4);
    made
}

#[test]
fn a_late_read_is_explained_in_a_few_sentences() {
    let answer = ask(&late_read(), 0xfffc_3040, None);
    let device = &answer.devices[0];
    assert_eq!((device.device.as_str(), device.is_mapped, device.times_mapped), ("nvme", false, 1));
    assert_eq!(
        device.sentences,
        [
            "At 0.001710000 s the guest learned that nvme had been refused a read of 0xfffc3040 (code 0x4: no entry for \
             the page). It means use after unmap: the last mapping had ended 520 us before the fault was seen. The driver \
             unmapped the buffer, by 0xffff800008000c74 on CPU 0, before the device was done with it, or the device was \
             given the address too late.",
            "At 0.001710000 s, nothing was mapped at 0xfffc3040 of nvme. The last to own it was guest page 0x41234000, \
             mapped for the device to read from 0.001040000 s, by 0xffff800008000c74 on CPU 0, unmapped at 0.001190000 s, \
             by 0xffff800008000c74 on CPU 0.",
        ]
    );
    assert_eq!(device.history[0].until_ns, Some(1_190_000));
    assert_eq!(device.incidents[0].event, "io_page_fault");
}

#[test]
fn a_moment_before_the_fault_is_explained_as_it_was() {
    let answer = ask(&late_read(), 0xfffc_3040, Some(1_100_000));
    let device = &answer.devices[0];
    assert!(device.is_mapped);
    assert_eq!(
        device.sentences,
        [
            "At 0.001100000 s, 0xfffc3040 of nvme was guest address 0x41234040, mapped for the device to read (migrated) since \
          0.001040000 s, by 0xffff800008000c74 on CPU 0."
        ]
    );
}

#[test]
fn a_wrong_direction_and_a_wild_address_are_called_that() {
    let mut made = late_read();
    made.map(0, 1, 0xfff00, 9, TO_DEVICE).fault(0, 1, 0xfff0_0010, true, 8).fault(
        0,
        1,
        0xfff0_4010,
        true,
        4,
    );
    let wrong = ask(&made, 0xfff0_0010, None).devices.remove(0).sentences.remove(0);
    assert!(
        wrong
            .contains("It means wrong direction: the page was mapped for the device to read only."),
        "{wrong}"
    );
    let wild = ask(&made, 0xfff0_4000, None).devices.remove(0).sentences;
    assert!(wild[0].contains("a wild address"), "{wild:?}");
}

#[test]
fn the_same_page_mapped_elsewhere_and_the_granules_other_pages_are_named() {
    let mut made = Made::new();
    made.map(0, 1, 0xfffc0, 7, TO_DEVICE).map(0, 1, 0xfffc1, 8, FROM_DEVICE).map(
        0,
        2,
        0x80,
        7,
        FROM_DEVICE,
    );
    let answer = ask(&made, 0xfffc_0000, None);
    let device = &answer.devices[0];
    let overlap = &device.overlaps[0];
    assert_eq!(
        (overlap.device.as_str(), overlap.iova.as_str(), overlap.permission),
        ("e1000e", "0x80000", "-w")
    );
    assert!(
        device.sentences.iter().any(|sentence| sentence
            == "The same guest page was also mapped for e1000e at 0x80000 (-w).")
    );
    assert!(
        device
            .sentences
            .iter()
            .any(|sentence| sentence
                .starts_with("In the same 16K granule 0xfffc1000 (-w) is mapped"))
    );
}

fn of_stream(stream: u8) -> Whom {
    let streams = vec![StreamChoice { dart: None, stream: Some(stream) }];
    Whom { streams, ..Whom::default() }
}

#[test]
fn an_address_that_no_event_speaks_of_is_answered_with_what_is_near() {
    let mut made = Made::new();
    made.map(0, 1, 0x100, 7, TO_DEVICE).map(0, 1, 0x200, 8, TO_DEVICE);
    let question = Question { iova: 0x10_4000, whom: of_stream(1), ..Question::default() };
    let answer = why(&made.open(), 0, &question, &Symbols::default());
    assert!(answer.devices.is_empty());
    assert_eq!(
        answer.sentences[0],
        "No event speaks of 0x104000 for nvme (DART 0 stream 1): never mapped, never refused."
    );
    assert!(answer.sentences[1].contains("4 pages below, and 0x200000"), "{}", answer.sentences[1]);
    let unknown = Question { whom: of_stream(7), ..question };
    let answer = why(&made.open(), 0, &unknown, &Symbols::default());
    assert_eq!(
        answer.sentences,
        ["The trace knows no such device. It has: nvme (DART 0 stream 1)."]
    );
}

#[test]
fn an_address_beyond_32_bits_is_no_devices() {
    let made = late_read();
    for iova in [1 << 32, (1 << 44) - 1, 1 << 50, u64::MAX] {
        let sentence = format!("{iova:#x} is no address of a DART's device: they have 32 bits.");
        assert_eq!(ask(&made, iova, None).sentences, [sentence]);
    }
    assert!(!ask(&made, u64::from(u32::MAX), None).sentences[0].contains("32 bits"));
}

#[test]
fn who_was_refused_is_who_is_asked_about() {
    let mut made = late_read();
    made.map(0, 2, 0xfffc3, 9, TO_DEVICE);
    let answer = ask(&made, 0xfffc_3000, None);
    assert_eq!(answer.devices.len(), 1);
    assert_eq!(answer.devices[0].device, "nvme");
    assert_eq!(ask(&made, 0xfffc_3000, Some(1_100_000)).devices.len(), 2);
}

#[test]
fn a_mapping_from_before_the_trace_is_not_invented() {
    let mut made = Made::new();
    made.unmap(0, 1, 0x100, 7);
    let answer = ask(&made, 0x10_0000, None);
    assert_eq!(answer.devices[0].history[0].from_ns, None);
    assert!(answer.devices[0].sentences[0].contains("mapped before the trace began"));
}

#[test]
fn maps_shows_what_was_there_at_the_moment() {
    let mut made = Made::new();
    let pages: Vec<Event> =
        (0..3).map(|page| map(at(0, 1, 8 + page), 100 + page, TO_DEVICE)).collect();
    made.flush(0, 1, &pages);
    let then = made.now;
    made.flush(0, 1, &(0..3).map(|page| unmap(at(0, 1, 8 + page), 100 + page)).collect::<Vec<_>>());
    let trace = made.open();
    let shown = maps(&trace, 0, Some(then * 1000), &EventFilter::default(), &Symbols::default());
    assert_eq!((shown.pages, shown.devices[0].buffers.len()), (3, 1));
    assert_eq!(shown.devices[0].buffers[0].end, "0xb000");
    assert_eq!(maps(&trace, 0, None, &EventFilter::default(), &Symbols::default()).pages, 0);
    let whom = Whom { device: Some("e1000e".into()), ..Whom::default() };
    let other = EventFilter { whom, ..EventFilter::default() };
    assert_eq!(maps(&trace, 0, Some(then * 1000), &other, &Symbols::default()).pages, 0);
}

#[test]
fn a_forgotten_buffer_is_suspected_and_an_idle_ring_is_not() {
    let mut made = Made::new();
    // A ring of 64 buffers, used in turn.
    for number in 0..640_u32 {
        if number >= 64 {
            made.unmap(0, 2, number - 64, number - 64 + 1000);
        }
        made.map(0, 2, number, number + 1000, FROM_DEVICE);
    }
    let clean = leaks(&made.open(), 0, &EventFilter::default(), &Symbols::default());
    assert_eq!((clean.pages, clean.suspect_pages), (64, 0));
    made.map(0, 1, 0x5000, 5, TO_DEVICE);
    for number in 0..200_u32 {
        made.map(0, 1, 0x6000 + number, 6, TO_DEVICE).unmap(0, 1, 0x6000 + number, 6);
    }
    let leaky = leaks(&made.open(), 0, &EventFilter::default(), &Symbols::default());
    assert_eq!((leaky.pages, leaky.suspect_pages), (65, 1));
    let suspect = &leaky.groups[0].suspects[0];
    assert_eq!((suspect.buffer.iova.as_str(), suspect.overtaken), ("0x5000000", 200));
}

#[test]
fn accesses_of_cpus_to_a_watched_page_are_reported_with_the_last_one() {
    use oche_types::addr::Gfn;
    use oche_types::event::WatchHow;
    let mut made = late_read();
    assert!(
        !ask(&made, 0xfffc_3040, None).devices[0]
            .sentences
            .iter()
            .any(|sentence| sentence.contains("watched"))
    );
    let access = |iova, offset, is_write, how| Event::Watch {
        at: at(0, 1, iova),
        offset,
        page: Gfn(0x41234),
        bytes: 8,
        is_write,
        how,
    };
    made.event(access(0xfffc3, 0x40, true, WatchHow::Before)).event(access(
        0xfffc3,
        0x40,
        true,
        WatchHow::After,
    ));
    made.event(access(0xfffc3, 0x48, false, WatchHow::Exact)).event(access(
        0xfffc4,
        0,
        true,
        WatchHow::Exact,
    ));
    let answer = ask(&made, 0xfffc_3040, None);
    let sentence = answer.devices[0].sentences.last().unwrap();
    assert!(
        sentence.contains(
            "loaded from it once and stored to it once; the last was a load of 8 bytes at 0xfffc3048"
        ),
        "{sentence}"
    );
    let (at, page, how) = (at(0, 1, 0xfffc3), Gfn(0x41234), WatchHow::Exact);
    made.event(Event::Watch { at, offset: 1, page, bytes: 1, is_write: true, how });
    let sentence = ask(&made, 0xfffc_3040, None).devices[0].sentences.pop().unwrap();
    assert!(sentence.contains("the last was a store of 1 byte at 0xfffc3001"), "{sentence}");
}

#[test]
fn a_permission_that_changed_is_part_of_the_story() {
    let mut made = Made::new();
    made.map(0, 1, 0xfffc3, 0x41234, FROM_DEVICE).wait(100);
    made.event(Event::Permission {
        at: at(0, 1, 0xfffc3),
        page: Gfn(0x41234),
        permission: TO_DEVICE,
    });
    made.fault(0, 1, 0xfffc_3010, true, 8);
    let answer = ask(&made, 0xfffc_3010, None);
    let device = &answer.devices[0];
    assert!(
        device.sentences[0]
            .contains("wrong direction: the page was mapped for the device to read only")
    );
    assert_eq!((device.history.len(), device.history[0].permission), (1, Some("r-")));
    assert_eq!(device.incidents[0].what, "the device may read the page from here on");
    made.unmap(0, 1, 0xfffc3, 0x41234);
    let before = ask(&made, 0xfffc_3010, Some(1_050_000));
    assert_eq!(before.devices[0].history[0].permission, Some("-w"), "as it was then");
    assert!(before.devices[0].history[0].until_ns.is_some());
}
