//! For each detector a trace with its error, which it finds, and one like it without, on which all
//! are silent.

use super::finding::MAX_REPORTED;
use super::*;
use crate::trace::made::{Made, at, map, unmap};
use oche_types::addr::Gfn;
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::DartId;
use oche_types::event::{Placement, Refusal};
use std::collections::BTreeMap;

const NVME: (usize, usize) = (0, 1);
const RW: Permission = Permission::READ_WRITE;
const TO_DEVICE: Permission = Permission::READ_ONLY;
const FROM_DEVICE: Permission = Permission::WRITE_ONLY;

fn report(made: &Made) -> CheckReport {
    let options = CheckOptions { reports_hints: true, ..CheckOptions::default() };
    check(&made.open(), &Symbols::default(), &options).remove(0)
}

/// The findings without hints.
fn found(made: &Made) -> Vec<Detector> {
    let findings = report(made).findings.into_iter().map(|finding| finding.detector);
    findings.filter(|detector| !detector.is_hint()).collect()
}

/// What a correct driver leaves: rings for good, buffers in both directions mapped and unmapped on
/// two CPUs at a time.
fn clean() -> Made {
    let mut made = Made::new();
    let (dart, stream) = NVME;
    made.map(dart, stream, 0xfffff, 1, RW).attach(dart, stream, Some(900));
    made.map(1, 0, 0xfffff, 2, RW).attach(1, 0, Some(901));
    for round in 0..300_u32 {
        let iova = 0xffff0 + round % 3;
        made.cpu = (round % 2) as u8;
        let permission = if round % 2 == 0 { TO_DEVICE } else { FROM_DEVICE };
        made.map(dart, stream, iova, 100 + round, permission);
        made.unmap(dart, stream, iova, 100 + round);
    }
    made.cpu = 0;
    made
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let report = report(&clean());
    assert_eq!((report.errors(), report.findings), (0, Vec::new()));
    assert_eq!(report.totals, BTreeMap::new());
}

#[test]
fn use_after_unmap_is_found_with_who_unmapped() {
    let mut made = clean();
    made.map(0, 1, 0xfff00, 5, TO_DEVICE).unmap(0, 1, 0xfff00, 5).wait(150).fault(
        0,
        1,
        0xfff0_0040,
        false,
        4,
    );
    let report = report(&made);
    assert_eq!(report.findings.len(), 1);
    let finding = &report.findings[0];
    assert_eq!(finding.detector, Detector::UseAfterUnmap);
    assert_eq!((finding.device.as_str(), finding.iova.as_deref()), ("nvme", Some("0xfff00040")));
    assert!(
        finding
            .message
            .contains("refused a read at 0xfff00040: it was mapped to guest page 0x5000"),
        "{}",
        finding.message
    );
    assert!(finding.message.contains("the fault was seen 170 us later"), "{}", finding.message);
}

#[test]
fn a_finding_names_the_callers_that_mapped_and_unmapped() {
    let mut made = clean();
    let (dart, text) = (DartId::FIRST, made.code & !0xfff);
    let names = [(0, "dart_flush"), (0x400, "dma_map"), (0x800, "fill"), (0xc00, "drain")];
    let names = names.map(|(offset, name)| (text + offset, name.to_owned()));
    let symbols = Symbols::new(names.into(), 0);
    let chain = |made: &mut Made, driver: u64| {
        let near = |offset: u64| (text + offset).wrapping_sub(made.code) & 0xffff_ffff;
        let nearest = near(0x410) | near(driver) << 32;
        made.event(Event::CallChain { dart, frames: 2, is_cut: false, nearest });
    };
    chain(&mut made, 0x810);
    made.event(map(at(0, 1, 0xfff00), 5, TO_DEVICE));
    chain(&mut made, 0xc10);
    made.event(unmap(at(0, 1, 0xfff00), 5)).fault(0, 1, 0xfff0_0040, false, 4);
    let report = check(&made.open(), &symbols, &CheckOptions::default()).remove(0);
    let finding = &report.findings[0];
    let (mapped, unmapped) = finding.message.split_once("unmapped at").unwrap();
    assert!(mapped.contains("by fill+0xc on CPU 0"), "{}", finding.message);
    assert!(unmapped.contains("by drain+0xc on CPU 0"), "{}", finding.message);
    assert_eq!(finding.code.as_deref(), Some("drain+0xc"));
}

#[test]
fn a_write_into_the_red_zone_that_a_page_left_is_use_after_unmap() {
    let mut made = clean();
    made.map(0, 1, 0xfff01, 6, RW).map(0, 1, 0xfff00, 5, FROM_DEVICE).unmap(0, 1, 0xfff00, 5);
    made.event(Event::RedZone { at: at(0, 1, 0xfff00), offset: 16, bytes: 64 });
    assert_eq!(found(&made), [Detector::UseAfterUnmap]);
}

#[test]
fn a_red_zone_that_no_page_left_is_an_overrun_of_the_page_before() {
    let mut made = clean();
    made.map(0, 1, 0xfff00, 5, FROM_DEVICE);
    made.event(Event::RedZone { at: at(0, 1, 0xfff01), offset: 0, bytes: 8 });
    assert_eq!(found(&made), [Detector::RedZoneHit]);
    let message = report(&made).findings.remove(0).message;
    assert!(
        message.contains("8 bytes from 0xfff01000") && message.contains("overrun"),
        "{message}"
    );
    made.event(Event::RedZone { at: at(0, 1, 0xfff01), offset: 8, bytes: 1 });
    let message = report(&made).findings.remove(1).message;
    assert!(message.contains("wrote 1 byte from 0xfff01008"), "{message}");
}

#[test]
fn wrong_direction_and_use_after_unmap_are_distinguished() {
    let mut made = clean();
    made.map(0, 1, 0xfff00, 5, TO_DEVICE).fault(0, 1, 0xfff0_0000, true, 8);
    made.map(0, 1, 0xfff08, 6, FROM_DEVICE).fault(0, 1, 0xfff0_8000, false, 0x10);
    assert_eq!(found(&made), [Detector::WrongDirection; 2]);
}

#[test]
fn an_access_to_what_was_never_mapped_is_wild() {
    let mut made = clean();
    made.fault(0, 1, 0x1234_5678, true, 2).fault(0, 9, 0x10, true, 1).fault(
        0,
        1,
        u64::MAX,
        true,
        1,
    );
    assert_eq!(found(&made), [Detector::WildAccess; 3]);
}

#[test]
fn a_fault_of_a_stream_that_shares_tables_is_judged_by_them() {
    let mut made = Made::new();
    made.map(1, 0, 5, 70, TO_DEVICE).attach(1, 0, Some(900)).attach(1, 3, Some(900));
    made.fault(1, 3, 0x5000, true, 8);
    assert_eq!(found(&made), [Detector::WrongDirection]);
}

#[test]
fn an_unmap_that_is_never_flushed_is_found_when_its_address_is_used_again() {
    let mut made = clean();
    made.map(0, 1, 0xfff00, 5, TO_DEVICE);
    // The entry is cleared, and that comes to light in the flush of the next mapping.
    made.flush(0, 1, &[unmap(at(0, 1, 0xfff00), 5), map(at(0, 1, 0xfff01), 6, TO_DEVICE)]);
    made.map(0, 1, 0xfff00, 7, TO_DEVICE);
    assert_eq!(found(&made), [Detector::UnmappedWithoutFlush]);
}

#[test]
fn an_unmap_whose_flush_is_another_cpus_is_in_order() {
    let mut made = clean();
    made.map(0, 1, 0xfff00, 5, TO_DEVICE);
    made.flush(0, 1, &[unmap(at(0, 1, 0xfff00), 5), map(at(0, 1, 0xfff01), 6, TO_DEVICE)]);
    // The one who unmapped flushes now, and finds nothing left to do.
    made.cpu = 1;
    made.flush(0, 1, &[]);
    made.cpu = 0;
    made.map(0, 1, 0xfff00, 7, TO_DEVICE);
    assert_eq!(found(&made), []);
}

#[test]
fn an_entry_that_is_overwritten_is_a_double_map() {
    let mut made = clean();
    made.map(0, 1, 0xfff00, 5, TO_DEVICE);
    made.flush(0, 1, &[unmap(at(0, 1, 0xfff00), 5), map(at(0, 1, 0xfff00), 6, TO_DEVICE)]);
    assert_eq!(found(&made), [Detector::DoubleMap]);
    let mut made = clean();
    made.map(0, 1, 0xfff00, 5, TO_DEVICE).map(0, 1, 0xfff00, 6, TO_DEVICE);
    assert_eq!(found(&made), [Detector::DoubleMap]);
}

#[test]
fn an_access_that_lost_events_may_explain_is_not_reported() {
    let mut made = clean();
    made.map(0, 1, 0xfff00, 5, TO_DEVICE).lose(4).map(0, 1, 0xfff00, 6, TO_DEVICE);
    let report = report(&made);
    assert_eq!((report.errors(), report.missing), (0, 4));
}

#[test]
fn a_page_whose_unmap_may_be_lost_is_not_exposed() {
    for first in [RW, FROM_DEVICE] {
        let mut made = clean();
        made.map(0, 1, 0xfff00, 5, first).lose(4).map(1, 0, 0x100, 5, FROM_DEVICE);
        assert_eq!(found(&made), []);
        made.map(0, 1, 0xfff01, 5, FROM_DEVICE);
        assert_eq!(found(&made), [Detector::NeighboursExposed], "what came after the gap counts");
        // The unmap of what was mapped before the gap takes nothing from what came after it.
        let mut made = clean();
        made.map(0, 1, 0xfff00, 5, first)
            .lose(4)
            .map(1, 0, 0x100, 5, FROM_DEVICE)
            .unmap(0, 1, 0xfff00, 5);
        made.map(0, 1, 0xfff01, 5, FROM_DEVICE);
        assert_eq!(found(&made), [Detector::NeighboursExposed]);
    }
    let mut made = clean();
    made.lose(4).map(0, 1, 0x100, 901, FROM_DEVICE);
    assert_eq!(found(&made), [], "the root may be elsewhere");
}

#[test]
fn while_a_cpus_events_are_missing_those_of_others_raise_no_finding() {
    // The unmap is lost on CPU 0, whose next event comes after CPU 1 has used page and address
    // again.
    let mut made = clean();
    made.map(0, 1, 0xfff00, 5, FROM_DEVICE).lose(4);
    made.cpu = 1;
    made.map(0, 1, 0xfff00, 6, FROM_DEVICE).map(1, 0, 0x100, 5, FROM_DEVICE);
    made.cpu = 0;
    made.map(0, 1, 0xfff08, 7, FROM_DEVICE);
    let report = report(&made);
    assert_eq!((report.errors(), report.missing), (0, 4), "{:?}", report.findings);
}

#[test]
fn a_refused_access_that_lost_events_explain_is_reported_without_a_cause() {
    let mut mapped = clean();
    mapped.map(0, 1, 0xfff00, 5, TO_DEVICE).lose(4).fault(0, 1, 0xfff0_0000, true, 8);
    let mut gone = clean();
    gone.map(0, 1, 0xfff00, 5, TO_DEVICE).unmap(0, 1, 0xfff00, 5).lose(4).fault(
        0,
        1,
        0xfff0_0000,
        true,
        8,
    );
    for made in [mapped, gone] {
        assert_eq!(found(&made), [Detector::WildAccess]);
        let message = report(&made).findings.remove(0).message;
        assert!(
            message.contains("what was mapped there is not known, for events before "),
            "{message}"
        );
    }
    let mut made = clean();
    made.map(0, 1, 0xfff01, 6, FROM_DEVICE).unmap(0, 1, 0xfff01, 6).lose(4);
    made.event(Event::RedZone { at: at(0, 1, 0xfff01), offset: 16, bytes: 64 });
    assert_eq!(found(&made), [Detector::RedZoneHit]);
}

#[test]
fn an_access_that_filtered_events_may_explain_is_not_reported() {
    let mut made = clean();
    made.map(0, 1, 0xfff00, 5, TO_DEVICE).event(Event::Filter { generation: 2, is_whole: false });
    made.map(0, 1, 0xfff00, 6, TO_DEVICE);
    assert_eq!(found(&made), []);
}

#[test]
fn a_stream_that_is_cut_off_with_pages_mapped_is_found_once() {
    let mut made = clean();
    made.map(0, 1, 0xfff00, 5, TO_DEVICE).attach(0, 1, None).attach(0, 1, None);
    assert_eq!(found(&made), [Detector::LeftAtReset]);
    assert!(report(&made).findings[0].message.contains("cut off with 2 pages mapped"));
    let mut made = clean();
    made.attach(0, 1, None);
    assert!(report(&made).findings[0].message.contains("cut off with 1 page mapped"));
}

#[test]
fn other_tables_are_in_order_where_nothing_of_the_old_is_left() {
    let mut made = clean();
    made.unmap(0, 1, 0xfffff, 1);
    made.flush(0, 1, &[map(at(0, 1, 0xfff00), 6, RW)]);
    let brings = [map(at(0, 1, 0xfff01), 7, RW)];
    made.unmap(0, 1, 0xfff00, 6);
    let dart = DartId::new(0).unwrap();
    made.event(Event::Flush { dart, streams: oche_types::dart::stream::StreamSet(2) });
    made.event(brings[0]).attach(0, 1, Some(950));
    assert_eq!(found(&made), []);
    made.map(0, 1, 0xfff02, 8, RW).attach(0, 1, Some(960));
    assert_eq!(found(&made), [Detector::LeftAtReset]);
}

#[test]
fn a_stream_whose_partner_still_uses_the_tables_leaves_nothing() {
    let mut made = Made::new();
    made.map(1, 0, 5, 70, RW).attach(1, 0, Some(900)).attach(1, 3, Some(900)).attach(1, 3, None);
    assert_eq!(found(&made), []);
    made.attach(1, 0, None);
    assert_eq!(found(&made), [Detector::LeftAtReset]);
}

#[test]
fn coherent_memory_next_to_a_buffer_is_exposed() {
    let mut made = clean();
    made.map(1, 0, 0x100, 1, FROM_DEVICE);
    assert_eq!(found(&made), [Detector::NeighboursExposed]);
    assert!(
        report(&made).findings[0]
            .message
            .contains("is coherent memory (read-write, as rings are) of nvme")
    );
}

#[test]
fn one_page_written_by_two_devices_and_a_table_that_one_may_write_are_exposed() {
    let mut made = clean();
    made.map(0, 1, 0x100, 50, FROM_DEVICE).map(0, 1, 0x101, 50, FROM_DEVICE);
    assert_eq!(found(&made), [], "one device's two buffers");
    made.map(1, 0, 0x102, 50, FROM_DEVICE);
    assert_eq!(found(&made), [Detector::NeighboursExposed]);
    let mut made = clean();
    made.map(0, 1, 0x100, 901, TO_DEVICE);
    assert_eq!(found(&made), []);
    made.map(0, 1, 0x101, 901, FROM_DEVICE);
    assert_eq!(found(&made), [Detector::NeighboursExposed]);
    let mut made = clean();
    made.unmap(1, 0, 0xfffff, 2).attach(1, 0, None).map(0, 1, 0x101, 901, FROM_DEVICE);
    assert_eq!(found(&made), [], "no table any more");
}

#[test]
fn a_buffer_that_no_byte_of_changed_is_a_hint() {
    let mut made = clean();
    let bounce = Event::Map {
        at: at(0, 1, 0x100),
        page: Gfn(50),
        permission: FROM_DEVICE,
        placement: Placement::Bounce,
    };
    made.flush(0, 1, &[bounce]);
    let mut used = clean();
    used.flush(0, 1, &[bounce])
        .event(Event::Merged { page: Gfn(50), bytes: 3 })
        .unmap(0, 1, 0x100, 50);
    made.unmap(0, 1, 0x100, 50);
    let hints = |made: &Made| report(made).totals.get("never-used").copied().unwrap_or(0);
    assert_eq!((hints(&made), hints(&used)), (1, 0));
    assert_eq!(report(&made).errors(), 0);
}

#[test]
fn refused_mappings_and_timeouts_are_reported_too() {
    let mut made = clean();
    made.event(Event::Refused {
        at: at(0, 1, 0x100),
        page: Gfn(9),
        reason: Refusal::PoolExhausted,
    });
    made.event(Event::InvalidateTimedOut { dart: DartId::new(1).unwrap() });
    assert_eq!(found(&made), [Detector::Refused, Detector::InvalidateTimeout]);
}

#[test]
fn a_flood_of_one_error_is_reported_in_part_and_counted_in_full() {
    let mut made = clean();
    for page in 0..100 {
        made.fault(0, 1, 0x1234_5678 + page * 0x1000, true, 2);
    }
    let report = report(&made);
    assert_eq!((report.findings.len() as u64, report.errors()), (MAX_REPORTED, 100));
}

#[test]
fn a_burst_of_accesses_to_one_page_is_reported_once() {
    let mut made = clean();
    made.map(0, 1, 0xfff00, 5, TO_DEVICE).unmap(0, 1, 0xfff00, 5);
    for word in 0..16 {
        made.fault(0, 1, 0xfff0_04c0 + 4 * word, false, 4);
    }
    made.fault(0, 1, 0x1234_5678, true, 2).fault(0, 2, 0xfff0_04c0, false, 4);
    let report = report(&made);
    let more: Vec<u64> = report.findings.iter().map(|finding| finding.more).collect();
    assert_eq!((more, report.errors()), (vec![15, 0, 0], 18));
}

#[test]
fn every_detector_has_its_own_name() {
    let names: std::collections::BTreeSet<&str> =
        Detector::ALL.into_iter().map(Detector::name).collect();
    assert_eq!(names.len(), Detector::ALL.len());
    for detector in Detector::ALL {
        assert_eq!(serde_json::to_value(detector).unwrap(), detector.name());
    }
}

#[test]
fn a_permission_that_changed_is_judged_by_as_it_is() {
    let mut made = clean();
    let to = |made: &mut Made, permission| {
        made.event(Event::Permission { at: at(0, 1, 0x100), page: Gfn(50), permission });
    };
    made.map(0, 1, 0x100, 50, FROM_DEVICE).map(1, 0, 0x101, 50, TO_DEVICE);
    assert_eq!(found(&made), []);
    to(&mut made, RW);
    assert_eq!(found(&made), [Detector::NeighboursExposed], "coherent now");
    to(&mut made, TO_DEVICE);
    made.fault(0, 1, 0x10_0000, true, 8).unmap(0, 1, 0x100, 50);
    assert_eq!(found(&made), [Detector::NeighboursExposed, Detector::WrongDirection]);
}
