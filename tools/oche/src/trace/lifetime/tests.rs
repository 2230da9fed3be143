//! Mappings against a slow list of what was mapped; spaces that streams share; spaces that take
//! another's place.

use super::*;
use crate::trace::made::{Made, at, map, unmap};
use crate::trace::reader::TraceItem;
use oche_types::dart::stream::{DartId, StreamId};
use proptest::prelude::*;

fn follow(made: &Made) -> Lifetimes {
    let mut lifetimes = Lifetimes::default();
    for item in made.open().events() {
        if let TraceItem::Record(record) = item {
            lifetimes.apply(&record);
        }
    }
    lifetimes
}

fn place(dart: usize, stream: usize) -> StreamPlace {
    at(dart, stream, 0).into()
}

#[test]
fn a_mapping_lives_from_its_flush_to_the_one_that_takes_it() {
    let mut made = Made::new();
    made.map(0, 1, 0xffffc, 77, Permission::READ_ONLY);
    let lifetimes = follow(&made);
    let mapping = lifetimes.at(place(0, 1), IovaPage(0xffffc)).unwrap();
    assert_eq!((mapping.page, mapping.flush, mapping.since.time), (Gfn(77), 1, 1040));
    assert!(
        lifetimes.at(place(0, 2), IovaPage(0xffffc)).is_none(),
        "another stream reaches nothing"
    );
    made.unmap(0, 1, 0xffffc, 77);
    assert!(follow(&made).is_empty());
}

#[test]
fn streams_with_one_table_root_share_their_mappings() {
    let mut made = Made::new();
    // The first pages come before the event that shows whose tables they are in.
    made.flush(1, 0, &[map(at(1, 0, 5), 70, Permission::READ_WRITE)]).attach(1, 0, Some(900));
    made.attach(1, 1, Some(900)).map(1, 1, 6, 71, Permission::READ_WRITE).attach(0, 1, Some(901));
    let lifetimes = follow(&made);
    for stream in [0, 1] {
        assert_eq!(lifetimes.at(place(1, stream), IovaPage(5)).unwrap().page, Gfn(70));
        assert_eq!(lifetimes.at(place(1, stream), IovaPage(6)).unwrap().page, Gfn(71));
    }
    assert!(lifetimes.at(place(0, 1), IovaPage(5)).is_none());
    assert_eq!(lifetimes.partners(place(1, 0)).collect::<Vec<_>>(), [place(1, 1)]);
    // An unmap names whichever of them flushed.
    made.unmap(1, 1, 5, 70).attach(1, 1, None);
    let lifetimes = follow(&made);
    assert!(lifetimes.at(place(1, 0), IovaPage(5)).is_none());
    assert_eq!(lifetimes.at(place(1, 0), IovaPage(6)).unwrap().page, Gfn(71));
    assert!(lifetimes.at(place(1, 1), IovaPage(6)).is_none(), "it was cut off");
}

#[test]
fn what_takes_anothers_place_outlives_it() {
    let mut made = Made::new();
    made.map(0, 1, 5, 70, Permission::READ_WRITE).attach(0, 1, Some(900));
    // Another root: its pages come first, then the old ones go.
    let brings = [map(at(0, 1, 5), 80, Permission::READ_WRITE)];
    made.flush(0, 1, &brings).attach(0, 1, Some(901)).event(unmap(at(0, 1, 5), 70));
    let lifetimes = follow(&made);
    assert_eq!(lifetimes.len(), 1);
    assert_eq!(lifetimes.at(place(0, 1), IovaPage(5)).unwrap().page, Gfn(80));
}

#[test]
fn pages_of_one_flush_side_by_side_are_one_buffer() {
    let mut made = Made::new();
    let pages: Vec<Event> =
        (0..3).map(|page| map(at(0, 1, 8 + page), 100 - page, Permission::READ_ONLY)).collect();
    made.flush(0, 1, &pages).map(0, 1, 11, 50, Permission::READ_ONLY);
    let buffers = crate::trace::maps::buffers(&follow(&made).sorted());
    let sizes: Vec<(u32, u32)> =
        buffers.iter().map(|buffer| (buffer.first.iova.0, buffer.pages)).collect();
    assert_eq!(sizes, [(8, 3), (11, 1)]);
}

proptest! {
    #[test]
    fn the_model_agrees_with_a_list(
        steps in prop::collection::vec((0_usize..2, 0_usize..3, 0_u32..6, any::<bool>()), 0..200),
    ) {
        let mut made = Made::new();
        let mut list: Vec<(usize, usize, u32, u32)> = Vec::new();
        for (number, (dart, stream, iova, is_map)) in steps.into_iter().enumerate() {
            let of = |entry: &(usize, usize, u32, u32)| (entry.0, entry.1, entry.2);
            let known = list.iter().position(|entry| of(entry) == (dart, stream, iova));
            match (known, is_map) {
                (None, true) => {
                    made.map(dart, stream, iova, number as u32, Permission::READ_WRITE);
                    list.push((dart, stream, iova, number as u32));
                }
                (Some(index), false) => {
                    let (.., page) = list.remove(index);
                    made.unmap(dart, stream, iova, page);
                }
                _ => {}
            }
        }
        list.sort_unstable();
        let found: Vec<_> = follow(&made).sorted().iter().map(|mapping| {
            (mapping.owner.dart(), mapping.owner.stream(), mapping.iova.0, mapping.page.0)
        }).collect();
        prop_assert_eq!(found, list);
    }

    #[test]
    fn any_records_are_followed_without_a_panic(
        words in prop::collection::vec(any::<[u64; 4]>(), 0..200),
    ) {
        let mut lifetimes = Lifetimes::default();
        for mut words in words {
            // A kind that there is, most of the time, and few DARTs.
            let kept = words[1] & !(0xff << 32 | 0xf8 << 48 | 0xf0 << 56);
            words[1] = kept | (words[1] >> 32 & 0x1f) << 32;
            lifetimes.apply(&Record(words));
        }
        prop_assert!(lifetimes.len() <= 200);
    }
}

#[test]
fn every_stream_has_a_place_and_no_other() {
    assert_eq!(StreamPlace::from_index(PLACES), None);
    let last = StreamPlace::new(DartId::new(31).unwrap(), StreamId::new(15).unwrap());
    assert_eq!((last.index(), last.dart(), last.stream()), (PLACES - 1, 31, 15));
}
