//! The self-test of an idle DART.

use oche_types::dart::registers::{CONFIG, STREAM_SELECT, TCR, TTBR};

use super::bench::{Bench, CONFIG_LOCK, OFF, tcr_of, ttbr_of};
use super::{dart, stream};
use crate::darts::recovery::IDLE_STREAM;
use crate::darts::{DartDriver, ROUNDS};
use crate::ownership::Takeover;

#[test]
fn an_idle_dart_is_tested_and_left_as_it_was() {
    let bench = Bench::of(1);
    let mut darts = DartDriver::new(bench.clone(), 1, true);
    bench.with(0, |model| model.file.insert(STREAM_SELECT, 0x5));
    let tested = darts.test_idle(dart(0)).expect("it is idle");
    assert_eq!((tested.ttbr_page, tested.tcr), (0x7fff_ffff, 0x80));
    assert_eq!(bench.file(0, tcr_of(stream(IDLE_STREAM))), 0);
    assert!(tested.invalidations.is_some_and(|ticks| ticks > 0));
    assert_eq!(bench.with(0, |model| model.flushed.clone()), [1 << IDLE_STREAM; ROUNDS as usize]);
    assert_eq!(bench.file(0, STREAM_SELECT), 0x5);
    assert_eq!(bench.file(0, ttbr_of(stream(IDLE_STREAM), 0)), 0);
    bench.with(0, |model| model.busy_reads = None);
    let tested = darts.test_idle(dart(0)).expect("it is still idle");
    assert_eq!(tested.invalidations, None, "and a command that never ends is given up");
}

/// The model panics at an access to what is off; the others would show in their registers.
#[test]
fn a_dart_that_is_not_idle_is_not_tested() {
    let bench = Bench::of(5);
    bench.with(0, |model| model.set_domain(OFF));
    bench.with(1, |model| model.file.insert(CONFIG, CONFIG_LOCK));
    bench.with(2, |model| model.file.insert(TCR, 0x80));
    bench.with(2, |model| model.file.insert(TTBR, 0x8080_1234));
    let last = tcr_of(stream(IDLE_STREAM));
    bench.with(3, |model| model.file.insert(last, 0x100));
    let mut darts = DartDriver::new(bench.clone(), 5, true);
    assert_eq!(darts.take_over(dart(4)), Ok(()));
    for index in 0..5 {
        assert_eq!(darts.test_idle(dart(index)), None, "DART {index}");
        if index < 4 {
            assert_eq!(bench.with(index, |model| model.flushed.len()), 0);
        }
    }
}
