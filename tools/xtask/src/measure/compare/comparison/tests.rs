//! Tests of the figures' JSON, tables and bounds.

use super::{CaseFigures, Comparison, thousands};
use crate::measure::compare::run::Figures;

fn comparison(map: f64) -> Comparison {
    let native = Figures { map: 1000.0, unmap: 2000.0, ..Figures::default() };
    let oche = Figures {
        map,
        unmap: 40_000.0,
        el2: Some(60_000.25),
        traps: Some(6.0),
        trapped_accesses: Some(0.0),
        tlb_broadcasts: Some(3.0),
    };
    let case = CaseFigures {
        case: "reused 4 KiB to-device".into(),
        native: Some(native),
        oche: Some(oche),
        ..CaseFigures::default()
    };
    Comparison {
        kernel: "6.1".into(),
        compiler: "rustc 1".into(),
        qemu: "7.2".into(),
        cases: vec![case],
        accesses: Vec::new(),
        flushes: Vec::new(),
    }
}

#[test]
fn a_figure_may_grow_by_two_percent_and_no_more() {
    let recorded = comparison(20_000.0);
    let changes = comparison(20_380.0).compare(&recorded).unwrap();
    assert_eq!((changes.compared, changes.worse.len()), (6, 0));
    let changes = comparison(20_420.0).compare(&recorded).unwrap();
    assert_eq!(changes.worse, ["reused 4 KiB to-device, oche, map: 20000 -> 20420 (+2.1 %)"]);
    let changes = comparison(19_580.0).compare(&recorded).unwrap();
    assert_eq!((changes.worse.len(), changes.better.len()), (0, 1));
}

#[test]
fn an_event_that_never_happened_may_not_begin_to() {
    let (recorded, mut measured) = (comparison(1.0), comparison(1.0));
    let set = |measured: &mut Comparison, value| {
        let oche = measured.cases.first_mut().and_then(|case| case.oche.as_mut()).unwrap();
        oche.trapped_accesses = Some(value);
    };
    set(&mut measured, 0.01);
    assert!(measured.compare(&recorded).unwrap().worse.is_empty());
    set(&mut measured, 0.02);
    assert_eq!(measured.compare(&recorded).unwrap().worse.len(), 1);
}

#[test]
fn what_was_not_recorded_is_an_error_and_never_passes() {
    let mut recorded = comparison(1.0);
    recorded.cases.first_mut().unwrap().oche.as_mut().unwrap().el2 = None;
    let error = comparison(1.0).compare(&recorded).unwrap_err().to_string();
    assert_eq!(error, "el2 of reused 4 KiB to-device is not recorded");
    recorded.cases.first_mut().unwrap().oche = None;
    let error = comparison(1.0).compare(&recorded).unwrap_err().to_string();
    assert_eq!(error, "no figures of reused 4 KiB to-device are recorded for oche");
    recorded.cases.clear();
    assert!(comparison(1.0).compare(&recorded).is_err());
}

#[test]
fn what_is_recorded_and_was_not_measured_is_an_error() {
    let mut measured = comparison(1.0);
    measured.cases.first_mut().unwrap().oche.as_mut().unwrap().el2 = None;
    let error = measured.compare(&comparison(1.0)).unwrap_err().to_string();
    assert_eq!(error, "el2 of reused 4 KiB to-device is recorded and was not measured");
}

#[test]
fn the_json_is_read_as_it_was_written() {
    let written = comparison(27_903.0);
    let json = written.json().unwrap();
    assert_eq!(Comparison::parse(&json).unwrap(), written);
    assert!(json.contains("\"el2\": 60000.25") && !json.contains("callers"), "{json}");
    assert!(Comparison::parse("{}").is_err());
}

#[test]
fn another_kernel_or_compiler_is_named() {
    let recorded = comparison(1.0);
    let measured = Comparison { compiler: "rustc 2".into(), ..comparison(1.0) };
    assert!(recorded.circumstances(&recorded).is_empty());
    assert_eq!(
        measured.circumstances(&recorded),
        ["compiler: recorded with rustc 1, this is rustc 2"]
    );
}

#[test]
fn the_tables_have_ratios_and_leave_out_what_was_not_measured() {
    let mut comparison = comparison(27_500.0);
    assert!(
        comparison.table().ends_with(
            "| reused 4 KiB to-device | 1 000 / 2 000 | 27 500 / 40 000 | 27.5 / 20.0 | 60 000 | 6.00 | 0.00 | 3.00 |\n"
        ),
        "{}",
        comparison.table()
    );
    assert_eq!(comparison.trace_table().lines().count(), 2, "callers were not measured");
    let case = comparison.cases.first_mut().unwrap();
    case.untraced = Some(Figures { el2: Some(50_000.0), ..Figures::default() });
    case.without_callers = Some(Figures { el2: Some(59_500.25), ..Figures::default() });
    assert!(
        comparison
            .trace_table()
            .ends_with("| 50 000 | 59 500 (+19.0 %) | 60 000 (+20.0 %) | 250 |\n"),
        "{}",
        comparison.trace_table()
    );
    assert_eq!(thousands(1_234_567.0), "1 234 567");
}
