use anyhow::Result;

use super::{Counters, Figures, judge, sum};
use crate::measure::compare::cases::{Buffer, Direction, MapCase};

const CASE: MapCase = MapCase { buffer: Buffer::Reused, kib: 8, direction: Direction::ToDevice };

fn parse(cost: &str, counters: Option<Counters>) -> Result<Figures> {
    judge(cost, &CASE, counters.map(|counters| (counters, None))).map(|(figures, _)| figures)
}

#[test]
fn a_cost_is_divided_by_its_operations() {
    let counters =
        Counters { traps: 1812, tlb_broadcasts: 605, pages_mapped: 604, ..Counters::default() };
    let figures = parse("reused 2 1 37578 38252 79 5000 22343000 1208", Some(counters));
    let figures = figures.unwrap();
    assert_eq!((figures.map, figures.unmap), (37_578.0, 38_252.0));
    assert_eq!(figures.el2, Some(73_983.44));
    let events = (figures.traps, figures.trapped_accesses, figures.tlb_broadcasts);
    assert_eq!(events, (Some(6.0), Some(0.0), Some(2.0)));
}

#[test]
fn pages_that_were_not_mapped_are_an_error() {
    let with = |pages_mapped, refused| {
        let counters = Counters { pages_mapped, refused, ..Counters::default() };
        parse("reused 2 1 1001 2193 79 5000 22343000 1208", Some(counters))
    };
    assert!(with(604, 0).is_ok());
    let error = with(600, 4).unwrap_err().to_string();
    assert_eq!(error, "Oche mapped 600 of 604 pages, and refused 4");
    assert!(with(0, 0).is_err() && with(604, 1).is_err());
}

#[test]
fn a_kernel_without_a_hypervisor_has_no_figure_of_one() {
    let figures = parse("reused 2 1 1001 2193 79 27000000 0 26000", None).unwrap();
    assert_eq!((figures.el2, figures.traps), (None, None));
}

#[test]
fn another_case_or_an_empty_run_is_an_error() {
    for wrong in ["reused 2 0 1 2 3 4 5 8", "reused 2 1 1 2 3 4 5", "reused 2 1 0 0 3 4 5 8"] {
        assert!(parse(wrong, None).is_err(), "{wrong}");
    }
    assert!(parse("reused 2 1 1 2 3 4 5 0", None).is_err());
}

#[test]
fn traps_are_the_exits_of_all_kinds_and_a_missing_counter_is_an_error() {
    let named = |names: &[(&str, u64)]| {
        sum(names.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect())
    };
    let mut counters = vec![
        ("exits_dart_register", 6),
        ("exits_dart_register[0]", 6),
        ("exits_retry", 1),
        ("trapped_accesses", 3),
    ];
    let error = named(&counters).unwrap_err().to_string();
    assert_eq!(error, "Oche has no counter tlb_broadcasts");
    counters.extend([("tlb_broadcasts", 2), ("maps", 5), ("refused", 1)]);
    let expected =
        Counters { traps: 7, trapped_accesses: 3, tlb_broadcasts: 2, pages_mapped: 5, refused: 1 };
    assert_eq!(named(&counters).unwrap(), expected);
}

#[test]
fn a_profile_of_other_instructions_than_the_guest_counted_is_an_error() {
    let with = |instructions| {
        let counters = Counters { pages_mapped: 2, ..Counters::default() };
        let counts = vec![1000, instructions].into();
        let cost = "reused 2 1 1001 2193 79 5000 4000 4";
        judge(cost, &CASE, Some((counters, Some(counts))))
    };
    let (_, counted) = with(3000).unwrap();
    let counted = counted.unwrap();
    assert_eq!((counted.case.as_str(), counted.operations), ("reused 8 KiB to-device", 1.0));
    assert_eq!(counted.counts.total(), 4000);
    assert!(with(2900).is_err());
}
