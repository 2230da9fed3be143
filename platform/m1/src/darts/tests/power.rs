//! Power that the guest takes away and gives back, at any moment.

use alloc::string::ToString;
use oche_engine::host::{DomainId, InvalidateTimedOut, Iommu};
use oche_types::dart::registers::STREAMS_ENABLE;
use oche_types::dart::stream::Members;

use super::bench::{Bench, Change, DEVICE, GATED, HELD, OFF, ON, tcr_of, ttbr_of};
use super::{
    OTHER_ROOT, ROOT, TTBR_OF_OTHER_ROOT, TTBR_OF_ROOT, dart, read_page_size, stream, taken, used,
};
use crate::dart_choice::DartChoice;
use crate::darts::DartDriver;
use crate::darts::recovery::IDLE_STREAM;
use crate::ownership::{Owner, Ownership, Route};

/// The model panics if it is accessed while the driver knows that it does not answer.
#[test]
fn a_dart_that_is_off_is_not_accessed_and_is_programmed_when_it_is_on_again() {
    let bench = Bench::of(1);
    bench.with(0, |model| model.set_domain(OFF));
    let mut darts = DartDriver::new(bench.clone(), 1, true);
    let mut ownership = Ownership::new(&darts, &DartChoice::all(1));
    assert_eq!(ownership.owner(&darts, dart(0)), Owner::Unknown);
    bench.with(0, |model| model.set_domain(ON));
    assert_eq!(ownership.owner(&darts, dart(0)), Owner::Passthrough);
    assert_eq!(ownership.route(&mut darts, &read_page_size()), Route::Emulated);
    assert_eq!(darts.attach(dart(0), stream(1), DomainId(0), ROOT), Ok(()));

    // It loses its power and its state; meanwhile the engine goes on.
    bench.with(0, |model| model.set_domain(OFF));
    let mut members = Members::default();
    members.insert(dart(0), stream(1));
    assert_eq!(darts.invalidate(DomainId(0), &members), Ok(()));
    assert_eq!(darts.attach(dart(0), stream(2), DomainId(1), ROOT), Ok(()));
    assert_eq!(darts.next_fault(dart(0)), None);
    bench.with(0, |model| model.set_domain(ON));
    darts.restore(dart(0));
    for attached in [1, 2] {
        assert_eq!(bench.file(0, ttbr_of(stream(attached), 0)), 0x8081_0000);
        assert_eq!(bench.file(0, tcr_of(stream(attached))), 0x80);
    }
    assert_eq!(bench.file(0, tcr_of(stream(0))), 0x80, "and the others still fault");
}

/// The domain gates its clock by itself: registers and TLB stay, and an access wakes it.
#[test]
fn a_dart_whose_clock_is_gated_is_flushed_attached_and_blocked() {
    let (bench, mut darts, members) = used();
    bench.with(0, |model| model.set_domain(GATED));
    bench.store_entry(2);
    assert_eq!(darts.invalidate(DomainId(0), &members), Ok(()));
    assert_eq!(bench.device_reads(0), Some((TTBR_OF_ROOT, 2)), "a stale entry outlives its frame");
    bench.with(0, |model| model.set_domain(GATED));
    assert_eq!(darts.attach(dart(0), stream(DEVICE), DomainId(1), OTHER_ROOT), Ok(()));
    assert_eq!(bench.device_reads(0), Some((TTBR_OF_OTHER_ROOT, 2)), "an older root");
    bench.with(0, |model| model.set_domain(GATED));
    darts.block(dart(0), stream(DEVICE));
    assert_eq!(bench.device_reads(0), None, "a stream that is blocked");
}

#[test]
fn a_dart_that_lost_its_power_translates_nothing_until_it_is_restored() {
    for is_noticed in [false, true] {
        let (bench, mut darts, members) = used();
        let flushes = bench.whole_flushes(0);
        bench.with(0, |model| model.set_domain(OFF));
        bench.store_entry(2);
        if is_noticed {
            assert_eq!(darts.invalidate(DomainId(0), &members), Ok(()));
        }
        assert!(darts.is_confirmed());
        bench.with(0, |model| model.set_domain(ON));
        assert_eq!(bench.device_reads(0), None);
        darts.restore(dart(0));
        assert_eq!(bench.device_reads(0), Some((TTBR_OF_ROOT, 2)));
        assert_eq!(bench.whole_flushes(0), flushes + 1);
        darts.restore(dart(0));
        assert_eq!(bench.whole_flushes(0), flushes + 1, "once is enough");
    }
}

/// Without the guest's access: another DART of the domain is flushed, or another stream attached.
#[test]
fn a_command_to_a_dart_that_lost_its_power_programs_all_of_it() {
    let (bench, mut darts, members) = used();
    bench.with(0, |model| model.set_domain(OFF));
    assert_eq!(darts.invalidate(DomainId(0), &members), Ok(()));
    bench.with(0, |model| model.set_domain(ON));
    bench.store_entry(2);
    assert_eq!(darts.invalidate(DomainId(0), &members), Ok(()));
    assert_eq!(bench.device_reads(0), Some((TTBR_OF_ROOT, 2)));
    assert_eq!(bench.file(0, STREAMS_ENABLE), 0xffff);
}

/// Its clock is held off: it keeps what it has cached, and does not answer.
#[test]
fn a_flush_that_a_dart_does_not_answer_is_not_done_and_made_up_for() {
    let (bench, mut darts, members) = used();
    bench.with(0, |model| model.set_domain(HELD));
    bench.store_entry(2);
    assert_eq!(darts.invalidate(DomainId(0), &members), Err(InvalidateTimedOut));
    // As the engine does: what may still be reached is cut off.
    darts.block(dart(0), stream(DEVICE));
    assert!(!darts.is_confirmed(), "its device may use what it has cached");
    bench.with(0, |model| model.set_domain(ON));
    darts.restore(dart(0));
    assert_eq!(bench.device_reads(0), None, "the stream was cut off");
    assert!(darts.is_confirmed());
    let before = bench.ticks.get();
    bench.with(0, |model| model.set_domain(HELD));
    assert_eq!(darts.invalidate(DomainId(0), &members), Err(InvalidateTimedOut));
    let waited = bench.ticks.get() - before;
    assert_eq!(darts.invalidate(DomainId(0), &members), Err(InvalidateTimedOut));
    assert!(bench.ticks.get() - before < 2 * waited, "it is waited for once");
}

/// After a flush that it did not answer. A device that is suspended may never be accessed again.
#[test]
fn dart_that_loses_its_power_holds_nothing_older() {
    for is_restored in [false, true] {
        let (bench, mut darts, members) = used();
        bench.with(0, |model| model.set_domain(HELD));
        assert_eq!(darts.invalidate(DomainId(0), &members), Err(InvalidateTimedOut));
        assert!(!darts.is_confirmed(), "its device may use what it has cached");
        bench.with(0, |model| model.set_domain(OFF));
        if is_restored {
            darts.restore(dart(0));
        }
        assert!(darts.is_confirmed(), "it has forgotten what it had cached");
        bench.with(0, |model| model.set_domain(ON));
        bench.store_entry(2);
        assert_eq!(bench.device_reads(0), None, "it translates nothing before it is programmed");
        assert!(darts.is_confirmed());
        darts.restore(dart(0));
        assert_eq!(bench.device_reads(0), Some((TTBR_OF_ROOT, 2)));
    }
}

/// The power goes, goes and comes, or the clock is held off, at each register access of each
/// command in turn.
#[test]
fn power_that_changes_within_a_command_leaves_nothing_older_in_use() {
    type Command = fn(&mut DartDriver<Bench>, &Members) -> Result<(), InvalidateTimedOut>;
    let commands: [(Command, Option<(u32, u64)>); 3] = [
        (|darts, members| darts.invalidate(DomainId(0), members), Some((TTBR_OF_ROOT, 2))),
        (
            |darts, _| darts.handle(dart(0)).set_root(stream(DEVICE), Some(OTHER_ROOT)),
            Some((TTBR_OF_OTHER_ROOT, 2)),
        ),
        (|darts, _| darts.handle(dart(0)).set_root(stream(DEVICE), None), None),
    ];
    let changes = [Change::Power(OFF), Change::Cycle, Change::Power(HELD), Change::BusError];
    for ((command, expected), change) in
        commands.into_iter().flat_map(|command| changes.map(|change| (command, change)))
    {
        for at in 0.. {
            let (bench, mut darts, members) = used();
            bench.with(0, |model| model.is_silent = at % 2 == 0);
            bench.store_entry(2);
            bench.with(0, |model| model.plan.set(Some((at, change))));
            let done = command(&mut darts, &members);
            let is_over = bench.with(0, |model| model.plan.take().is_some());
            bench.with(0, |model| model.set_domain(ON));
            let found = bench.device_reads(0);
            let name =
                format_args!("{change:?} at access {at}: {done:?}, then {found:?}").to_string();
            match done {
                Ok(()) => assert!(found.is_none() || found == expected, "{name}"),
                Err(InvalidateTimedOut) => assert_eq!(change, Change::Power(HELD), "{name}"),
            }
            darts.restore(dart(0));
            assert_eq!(bench.device_reads(0), expected, "{name}, after it was restored");
            if is_over {
                assert!(at > 5, "a command of {at} accesses");
                break;
            }
        }
    }
}

#[test]
fn a_dart_that_answers_with_bus_errors_though_it_has_power_is_not_flushed() {
    let (bench, mut darts, members) = used();
    bench.with(0, |model| {
        model.plan.set(Some((0, Change::BusError)));
        model.is_plan_lasting = true;
    });
    bench.store_entry(2);
    assert_eq!(darts.invalidate(DomainId(0), &members), Err(InvalidateTimedOut));
    bench.with(0, |model| model.plan.set(None));
    darts.restore(dart(0));
    assert_eq!(bench.device_reads(0), Some((TTBR_OF_ROOT, 2)));
}

/// Whatever else a TCR reads back.
#[test]
fn restoring_compares_what_counts_and_no_more() {
    let (bench, mut darts, _) = used();
    bench.with(0, |model| model.tcr_extra = 0x1000);
    let flushes = bench.with(0, |model| model.flushed.len());
    let accesses = bench.with(0, |model| model.accesses);
    darts.restore(dart(0));
    assert_eq!(bench.with(0, |model| model.flushed.len()), flushes, "it was programmed again");
    assert_eq!(bench.with(0, |model| model.accesses) - accesses, 3);
    for (register, value) in [
        (tcr_of(stream(DEVICE)), 0),
        (tcr_of(stream(DEVICE)), 0x180),
        (ttbr_of(stream(DEVICE), 0), 0),
        (ttbr_of(stream(DEVICE), 0), TTBR_OF_OTHER_ROOT),
        (tcr_of(stream(IDLE_STREAM)), 0),
    ] {
        let flushes = bench.whole_flushes(0);
        bench.with(0, |model| model.file.insert(register, value));
        darts.restore(dart(0));
        assert_eq!(bench.whole_flushes(0), flushes + 1, "{register:#x} is {value:#x}");
        assert_eq!(bench.file(0, ttbr_of(stream(DEVICE), 0)), TTBR_OF_ROOT);
        assert_eq!(bench.file(0, tcr_of(stream(DEVICE))), 0x80);
    }
}

#[test]
fn restoring_a_dart_that_does_not_answer_accesses_nothing() {
    for domain in [OFF, HELD] {
        let (bench, mut darts, _) = used();
        bench.with(0, |model| model.set_domain(domain));
        let accesses = bench.with(0, |model| model.accesses);
        darts.restore(dart(0));
        assert_eq!(darts.next_fault(dart(0)), None);
        assert_eq!(bench.with(0, |model| model.accesses), accesses);
        bench.with(0, |model| model.set_domain(ON));
        darts.restore(dart(0));
        assert_eq!(bench.device_reads(0), Some((TTBR_OF_ROOT, 1)));
    }
}

#[test]
fn a_flush_that_one_dart_of_a_domain_does_not_answer_reaches_the_other() {
    let (bench, mut darts) = taken(2);
    let mut members = Members::default();
    members.insert(dart(0), stream(0));
    members.insert(dart(1), stream(1));
    bench.with(0, |model| model.set_domain(HELD));
    assert_eq!(darts.invalidate(DomainId(0), &members), Err(InvalidateTimedOut));
    assert_eq!(bench.with(1, |model| model.flushed.last().copied()), Some(2));
}

#[test]
fn a_domain_that_is_on_its_way_is_waited_for() {
    let (bench, mut darts, members) = used();
    bench.with(0, |model| model.set_domain(HELD));
    bench.with(0, |model| model.checks_until_on = Some(2));
    bench.store_entry(2);
    assert_eq!(darts.invalidate(DomainId(0), &members), Ok(()));
    assert_eq!(bench.device_reads(0), Some((TTBR_OF_ROOT, 2)));
}
