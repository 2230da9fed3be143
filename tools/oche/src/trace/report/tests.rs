//! The page's data: figures that add up, hostile names, a size that does not grow. How it looks in
//! a browser is checked by `cargo xtask test`.

use super::incidents::MAX_FAULTS;
use super::*;
use crate::trace::made::{Made, at, map, with_every_error};
use oche_types::dart::entry::Permission;
use oche_types::event::Event;
use serde_json::Value;

fn page(made: &Made, name: &str) -> (String, Value) {
    let (filter, symbols, mut out) = (EventFilter::default(), Symbols::default(), Vec::new());
    let file = ReportedFile::new(name, []);
    write_report(&made.open(), 0, &file, &filter, &symbols, &mut out).unwrap();
    let page = String::from_utf8(out).unwrap();
    let (_, rest) = page.split_once("id=\"data\">").unwrap();
    let data = serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap();
    (page, data)
}

#[test]
fn the_figures_add_up() {
    let (_, data) = page(&with_every_error(), "a.oche");
    let nvme = &data["devices"][0];
    assert_eq!((nvme["name"].as_str(), nvme["faults"].as_u64()), (Some("nvme"), Some(2)));
    let made: u64 =
        nvme["made"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(Some(made), nvme["maps"].as_u64());
    assert_eq!(nvme["mapped"].as_array().unwrap().len() as u64, data["bins"].as_u64().unwrap());
    let first = &data["faults"][0];
    assert_eq!(first["before"].as_array().unwrap().len(), 2, "its map and its unmap");
    assert!(data["totals"]["use-after-unmap"].as_u64() == Some(1));
}

#[test]
fn a_burst_of_refused_accesses_is_reported_once() {
    let mut made = Made::new();
    made.map(0, 1, 0xfff00, 5, Permission::READ_ONLY).unmap(0, 1, 0xfff00, 5);
    for word in 0..16 {
        // Another device's accesses come between.
        made.fault(0, 1, 0xfff0_04c0 + 4 * word, false, 4).fault(0, 2, 0x1000, false, 4);
    }
    made.fault(0, 1, 0xfff0_0500, true, 4).fault(0, 1, 0xfff0_1000, true, 4).fault(
        0,
        1,
        0xfff0_1000,
        true,
        2,
    );
    made.map(0, 1, 0xfff01, 5, Permission::READ_ONLY).fault(0, 1, 0xfff0_1000, true, 2);
    let (_, data) = page(&made, "a.oche");
    let rows: Vec<(&str, &str, u64)> = data["faults"].as_array().unwrap().iter().map(row).collect();
    let wanted = [
        ("0xfff004c0", "0xfff004fc", 16),
        ("0x1000", "0x1000", 16),
        ("0xfff00500", "0xfff00500", 1),
        ("0xfff01000", "0xfff01000", 1),
        ("0xfff01000", "0xfff01000", 1),
        ("0xfff01000", "0xfff01000", 1),
    ];
    assert_eq!(rows, wanted, "another kind, page or code, and a mapping between, begin an entry");
    assert_eq!(
        (data["faults_told"].as_u64(), data["faults_in_all"].as_u64()),
        (Some(36), Some(36))
    );
}

fn row(fault: &Value) -> (&str, &str, u64) {
    let text = |name: &str| fault[name].as_str().unwrap();
    (text("iova"), text("last_iova"), fault["accesses"].as_u64().unwrap())
}

#[test]
fn the_first_refused_accesses_are_reported() {
    let mut made = Made::new();
    for page in 0..60 {
        made.fault(0, 1, page << 12, false, 4).fault(0, 1, page << 12, false, 4);
    }
    let (_, data) = page(&made, "a.oche");
    assert_eq!(data["faults"].as_array().unwrap().len(), MAX_FAULTS);
    assert_eq!(
        (data["faults_told"].as_u64(), data["faults_in_all"].as_u64()),
        (Some(100), Some(120))
    );
}

#[test]
fn records_that_continue_one_are_not_the_guests_code() {
    let mut made = Made::new();
    made.event(map(at(0, 1, 5), 5, Permission::READ_ONLY));
    for _ in 0..9 {
        made.event(Event::Data { words: [u64::MAX, 7] });
    }
    let (page, data) = page(&made, "a.oche");
    let sites = data["sites"].as_array().unwrap();
    assert_eq!(sites.len(), 1);
    assert_eq!(sites[0]["counts"], serde_json::json!([[0, 1, 0, 0, 0, 0]]), "one map");
    assert_eq!(data["sites_events"], 1);
    assert!(data["has_symbols"] == false && page.contains("data.has_symbols"));
}

#[test]
fn a_name_cannot_end_the_script_or_be_one() {
    let (page, data) = page(&with_every_error(), "</script><script>alert(1)</script>.oche");
    assert_eq!(page.matches("<script>").count(), 1);
    assert_eq!(data["file"], "script>.oche", "the name, and the path in commands");
    assert!(
        !page.contains("http://www.w3.org/1999") && !page.contains(" src="),
        "nothing is loaded"
    );
}

#[test]
fn a_long_trace_has_no_longer_a_page() {
    let size = |rounds: u32| {
        let mut made = Made::new();
        for round in 0..rounds {
            made.map(0, 1, round % 1000, round, Permission::READ_ONLY).wait(50_000);
            made.unmap(0, 1, round % 1000, round).fault(0, 1, u64::from(round) << 12, true, 4);
        }
        page(&made, "a").0.len()
    };
    let (short, long) = (size(2_000), size(20_000));
    assert!(long < short + short / 4 && long < 200_000, "{short} and {long} bytes");
}

#[test]
fn a_finding_names_its_event_those_around_it_and_a_command() {
    let (_, data) = page(&with_every_error(), "a.oche");
    let around = data["around"].as_array().unwrap();
    let times: Vec<u64> = around.iter().map(|event| event["time_ns"].as_u64().unwrap()).collect();
    assert!(times.is_sorted());
    let findings = data["findings"].as_array().unwrap();
    assert!(findings.len() > 8);
    for finding in findings {
        let own = finding["event"].as_u64().unwrap() as usize;
        assert_eq!(around[own]["time_ns"], finding["time_ns"]);
        let beside: Vec<u64> =
            finding["around"].as_array().unwrap().iter().map(|at| at.as_u64().unwrap()).collect();
        assert!(beside.contains(&(own as u64)) && beside.len() > 1);
    }
    let first = &findings[0];
    assert_eq!(
        first["command"],
        "oche trace why a.oche --iova 0xffe00040 --stream 0:1 --from 0.221210000 --to 0.221430000"
    );
    assert_eq!(around[first["event"].as_u64().unwrap() as usize]["kind"], "io_page_fault");
}

#[test]
fn events_around_findings_are_bounded() {
    let mut made = Made::new();
    for page in 0..400 {
        made.map(0, 1, page, page, Permission::READ_ONLY).fault(
            0,
            1,
            u64::from(page) << 12,
            true,
            8,
        );
    }
    let (page, data) = page(&made, "a");
    let around = data["around"].as_array().unwrap().len();
    assert!(around <= around::MAX_SUBJECTS * around::EVENTS_EACH, "{around}");
    assert!(page.len() < 300_000, "{} bytes", page.len());
}

#[test]
fn a_caller_or_a_cpu_chooses_in_every_part_of_the_page() {
    let of = |filter: EventFilter| {
        let (made, mut out) = (with_two_mappers(), Vec::new());
        let (symbols, file) = (Symbols::default(), ReportedFile::default());
        write_report(&made.open(), 0, &file, &filter, &symbols, &mut out).unwrap();
        let page = String::from_utf8(out).unwrap();
        let (_, rest) = page.split_once("id=\"data\">").unwrap();
        let data: Value = serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap();
        let device = &data["devices"][0];
        let number = |of: &Value| of.as_u64().unwrap();
        let flushes = data["flushes"].as_array().unwrap().iter();
        let flushes = flushes.flat_map(|row| row["flushes"].as_array().unwrap()).map(number).sum();
        [
            number(&data["chosen_events"]),
            number(&device["maps"]),
            number(&device["unmaps"]),
            flushes,
            number(&device["faults"]),
            data["findings"].as_array().unwrap().len() as u64,
            data["sites"].as_array().unwrap().len() as u64,
        ]
    };
    let caller = |address| EventFilter {
        caller: Some(crate::trace::filter::CallerChoice::Address(address)),
        ..EventFilter::default()
    };
    let cpu = |cpu| EventFilter { cpu: Some(cpu), ..EventFilter::default() };
    let all = of(EventFilter::default());
    let (first, other) = (of(caller(0x1000)), of(caller(0x2000)));
    assert_eq!(first[1..], [2, 1, 3, 1, 1, 2], "its pages, its flushes, the fault at its page");
    assert_eq!(other[1..], [1, 1, 2, 0, 0, 2]);
    assert_eq!((0..5).map(|of| first[of] + other[of]).collect::<Vec<_>>()[1..], all[1..5]);
    assert_eq!(of(cpu(0))[1..], first[1..]);
    assert_eq!(of(cpu(1))[1..], other[1..]);
}

/// A function on CPU 0 maps a page that the device then uses after the unmap; another on CPU 1
/// maps a page correctly.
fn with_two_mappers() -> Made {
    let mut made = Made::new();
    (made.cpu, made.code) = (0, 0x1000);
    made.map(0, 1, 0x10, 1, Permission::READ_ONLY).unmap(0, 1, 0x10, 1);
    (made.cpu, made.code) = (1, 0x2000);
    made.map(0, 1, 0x20, 2, Permission::READ_ONLY);
    made.unmap(0, 1, 0x20, 2);
    (made.cpu, made.code) = (0, 0);
    made.fault(0, 1, 0x10_000, false, 4);
    made.code = 0x1000;
    made.map(0, 1, 0x30, 1, Permission::READ_ONLY);
    made
}
