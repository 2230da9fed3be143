//! The simulated machine finds a broken contract of the engine's traits in random programs: each
//! injected fault is reported by the rule that it breaks.

use oche_differential::program::generate::{Kind, generate};
use oche_differential::program::{Mode, Program};
use oche_differential::run_program;
use oche_sim::setup::FaultInjection;

/// What the rules find in the first program that `injection` spoils.
fn found(injection: FaultInjection) -> String {
    let programs = (0..40).map(|seed| {
        let Program { mut setting, steps } = generate(seed, Kind::of(seed), Mode::Concurrent, 600);
        setting.injection = Some(injection);
        Program { setting, steps }
    });
    let mut differences = programs.filter_map(|program| run_program(&program).err());
    let is_ours = |what: &String| what.starts_with("broken contract");
    differences
        .find_map(|difference| Some(difference.what).filter(is_ours))
        .expect("it goes unseen")
}

#[test]
fn a_page_copied_before_its_break_is_complete_is_seen() {
    let found = found(FaultInjection::CopyBeforeBreak);
    assert!(found.contains("while CPUs may reach it"), "{found}");
}

#[test]
fn c3_a_frame_given_back_before_the_hardware_was_invalidated_is_seen() {
    let found = found(FaultInjection::SkipInvalidate);
    assert!(found.contains("was invalidated"), "{found}");
}

#[test]
fn entries_that_devices_may_not_see_yet_are_seen() {
    let found = found(FaultInjection::SkipPublish);
    assert!(found.contains("observers"), "{found}");
}

#[test]
fn a_table_named_before_its_entries_are_visible_is_seen() {
    let found = found(FaultInjection::SkipStoreBarrier);
    assert!(found.contains("observers"), "{found}");
}
