//! Which DARTs are taken over, and what becomes of the others.

use oche_engine::host::{DomainId, Iommu};
use oche_types::dart::registers::{PARAMS2, STREAM_SELECT, STREAMS_ENABLE, TCR, TTBR, TTBRS};
use oche_types::dart::stream::{STREAMS, StreamSet};

use super::bench::{Bench, CONFIG_LOCK, Change, GATED, HELD, Model, OFF, ON, tcr_of, ttbr_of};
use super::{ROOT, dart, read_page_size, stream, taken};
use crate::dart_choice::DartChoice;
use crate::darts::DartDriver;
use crate::darts::hardware::BusError;
use crate::darts::recovery::IDLE_STREAM;
use crate::ownership::{Owner, Ownership, Route, Takeover, TakeoverFailed};
use oche_types::dart::registers::CONFIG;

#[test]
fn a_dart_that_is_taken_over_lets_no_stream_through() {
    let (bench, _) = taken(1);
    for index in 0..STREAMS {
        assert_eq!(bench.file(0, tcr_of(stream(index))), 0x80);
        assert_eq!(bench.file(0, ttbr_of(stream(index), 0)), 0);
    }
    assert_eq!(bench.file(0, STREAMS_ENABLE), 0xffff);
    assert_eq!(bench.with(0, |model| model.stale), 0, "and nothing older is used");
}

#[test]
fn a_dart_that_ends_no_command_stays_the_guests() {
    let bench = Bench::of(1);
    bench.with(0, |model| model.busy_reads = None);
    let mut darts = DartDriver::new(bench, 1, true);
    assert_eq!(darts.take_over(dart(0)), Err(TakeoverFailed::TimedOut));
    let mut ownership = Ownership::new(&darts, &DartChoice::all(1));
    assert_eq!(ownership.route(&mut darts, &read_page_size()), Route::Passthrough);
    assert_eq!(ownership.owner(&darts, dart(0)), Owner::Firmware);
}

#[test]
fn a_locked_dart_and_one_that_translates_are_left_alone() {
    for prepare in [
        |model: &mut Model| model.file.extend([(CONFIG, CONFIG_LOCK)]),
        |model: &mut Model| {
            model.file.extend([(TCR + 8, 0x80), (TTBR + 36, 0x8000_1234)]);
        },
    ] {
        let bench = Bench::of(1);
        bench.with(0, prepare);
        let before = bench.with(0, |model| model.file.clone());
        let mut darts = DartDriver::new(bench.clone(), 1, true);
        let mut ownership = Ownership::new(&darts, &DartChoice::all(1));
        assert_eq!(ownership.owner(&darts, dart(0)), Owner::Firmware);
        assert_eq!(ownership.route(&mut darts, &read_page_size()), Route::Passthrough);
        darts.restore(dart(0));
        assert_eq!(darts.attach(dart(0), stream(0), DomainId(0), ROOT), Ok(()));
        darts.block(dart(0), stream(0));
        assert_eq!(bench.with(0, |model| model.file.clone()), before);
    }
}

#[test]
fn bypass_alone_does_not_keep_a_dart_from_being_emulated() {
    let bench = Bench::of(1);
    bench.with(0, |model| model.file.insert(TCR, 0x1100));
    let mut darts = DartDriver::new(bench.clone(), 1, true);
    let condition = darts.condition(dart(0)).expect("it is on");
    assert_eq!((condition.bypass, condition.is_taken()), (StreamSet(1), false));
    assert_eq!(darts.take_over(dart(0)), Ok(()));
    assert_eq!(bench.file(0, TCR), 0x80);
}

#[test]
fn a_dart_that_loses_its_power_while_it_is_taken_over_is_looked_at_again() {
    let bench = Bench::of(1);
    let mut darts = DartDriver::new(bench.clone(), 1, true);
    let mut ownership = Ownership::new(&darts, &DartChoice::all(1));
    let context = 1 + STREAMS as u32 * (1 + TTBRS as u32);
    bench.with(0, |model| model.plan.set(Some((context + 20, Change::Power(OFF)))));
    assert_eq!(ownership.route(&mut darts, &read_page_size()), Route::Refused);
    assert_eq!(ownership.owner(&darts, dart(0)), Owner::Unknown);
    bench.with(0, |model| model.set_domain(ON));
    assert_eq!(ownership.owner(&darts, dart(0)), Owner::Passthrough);
    assert_eq!(ownership.route(&mut darts, &read_page_size()), Route::Emulated);
    assert_eq!(bench.file(0, tcr_of(stream(IDLE_STREAM))), 0x80);
}

#[test]
fn a_dart_that_the_guest_has_and_that_does_not_answer_gives_it_a_bus_error() {
    for domain in [OFF, HELD] {
        let bench = Bench::of(1);
        let mut darts = DartDriver::new(bench.clone(), 1, true);
        bench.with(0, |model| model.set_domain(domain));
        assert_eq!(darts.condition(dart(0)), None);
        assert_eq!(darts.condition(dart(0)), None, "not even when it is known not to answer");
        assert_eq!(darts.read(dart(0), PARAMS2), Err(BusError));
        assert_eq!(darts.write(dart(0), STREAM_SELECT, 1), Err(BusError));
        bench.with(0, |model| model.set_domain(GATED));
        assert_eq!(darts.write(dart(0), STREAM_SELECT, 1), Ok(()));
        assert_eq!(darts.read(dart(0), STREAM_SELECT), Ok(1));
    }
}
