//! The policy against a driver whose answers a test chooses.

use super::*;
use crate::device_tree::DartNode;
use alloc::string::ToString;
use oche_types::dart::registers::{PARAMS1, PARAMS2, STREAM_COMMAND, TCR};

/// A driver with one DART.
struct Driver {
    condition: Option<Condition>,
    outcome: Result<(), TakeoverFailed>,
    takeovers: u32,
}

const IDLE: Condition = Condition { is_locked: false, live: StreamSet(0), bypass: StreamSet(0) };
const LOCKED: Condition = Condition { is_locked: true, ..IDLE };
const LIVE: Condition = Condition { live: StreamSet(2), ..IDLE };
const BYPASS: Condition = Condition { bypass: StreamSet(1), ..IDLE };

impl Driver {
    fn with(condition: Option<Condition>) -> Self {
        Self { condition, outcome: Ok(()), takeovers: 0 }
    }
}

#[expect(unsafe_code, reason = "a model of the driver")]
// SAFETY: no device is behind it.
unsafe impl Takeover for Driver {
    fn condition(&self, _: DartId) -> Option<Condition> {
        self.condition
    }

    fn take_over(&mut self, _: DartId) -> Result<(), TakeoverFailed> {
        self.takeovers += 1;
        self.outcome
    }
}

fn dart() -> DartId {
    DartId::new(0).expect("a DART")
}

fn read(offset: u64) -> DartAccess {
    DartAccess { dart: dart(), offset, bytes: 4, write: None }
}

fn write(offset: u64) -> DartAccess {
    DartAccess { write: Some(1), ..read(offset) }
}

#[test]
fn an_idle_dart_is_passed_through_until_the_guest_reads_the_page_size() {
    for condition in [IDLE, BYPASS] {
        let mut driver = Driver::with(Some(condition));
        let mut ownership = Ownership::new(&driver, &DartChoice::all(1));
        assert_eq!(ownership.owner(&driver, dart()), Owner::Passthrough);
        for access in [read(PARAMS2), read(TCR), write(STREAM_COMMAND), write(PARAMS1)] {
            assert_eq!(ownership.route(&mut driver, &access), Route::Passthrough);
        }
        assert_eq!(driver.takeovers, 0);
        assert_eq!(ownership.route(&mut driver, &read(PARAMS1)), Route::Emulated);
        assert_eq!(ownership.owner(&driver, dart()), Owner::Emulated);
        for access in [read(PARAMS1), read(TCR), write(TCR), DartAccess { bytes: 8, ..read(2) }] {
            assert_eq!(ownership.route(&mut driver, &access), Route::Emulated);
        }
        assert_eq!(driver.takeovers, 1, "it is taken over once");
    }
}

#[test]
fn a_locked_dart_and_one_that_translates_stay_firmwares() {
    for condition in [LOCKED, LIVE] {
        let mut driver = Driver::with(Some(condition));
        let mut ownership = Ownership::new(&driver, &DartChoice::all(1));
        driver.condition = Some(IDLE);
        assert_eq!(ownership.owner(&driver, dart()), Owner::Firmware);
        assert_eq!(ownership.route(&mut driver, &read(PARAMS1)), Route::Passthrough);
        assert_eq!(driver.takeovers, 0);
    }
}

#[test]
fn a_dart_that_translates_by_the_time_of_the_question_stays_the_guests() {
    let mut driver = Driver::with(Some(IDLE));
    let mut ownership = Ownership::new(&driver, &DartChoice::all(1));
    driver.condition = Some(LIVE);
    assert_eq!(ownership.route(&mut driver, &read(PARAMS1)), Route::Passthrough);
    assert_eq!((driver.takeovers, ownership.owner(&driver, dart())), (0, Owner::Passthrough));
}

#[test]
fn a_dart_without_power_refuses_accesses_and_is_examined_again() {
    let mut driver = Driver::with(None);
    let mut ownership = Ownership::new(&driver, &DartChoice::all(1));
    for access in [read(PARAMS1), read(PARAMS2), write(TCR)] {
        assert_eq!(ownership.route(&mut driver, &access), Route::Refused);
    }
    driver.condition = Some(IDLE);
    assert_eq!(ownership.route(&mut driver, &read(PARAMS2)), Route::Passthrough);
    // What is known stays known: a later loss of power is the hardware's answer.
    driver.condition = None;
    assert_eq!(ownership.route(&mut driver, &read(PARAMS2)), Route::Passthrough);
}

#[test]
fn a_failed_takeover_leaves_the_dart_to_firmware_or_to_another_examination() {
    let mut driver = Driver::with(Some(IDLE));
    driver.outcome = Err(TakeoverFailed::TimedOut);
    let mut ownership = Ownership::new(&driver, &DartChoice::all(1));
    for _ in 0..2 {
        assert_eq!(ownership.route(&mut driver, &read(PARAMS1)), Route::Passthrough);
    }
    assert_eq!((driver.takeovers, ownership.owner(&driver, dart())), (1, Owner::Firmware));

    driver.outcome = Err(TakeoverFailed::PowerLost);
    let mut ownership = Ownership::new(&driver, &DartChoice::all(1));
    assert_eq!(ownership.route(&mut driver, &read(PARAMS1)), Route::Passthrough, "it has power");
    driver.outcome = Ok(());
    assert_eq!(ownership.route(&mut driver, &read(PARAMS1)), Route::Emulated);
}

#[test]
fn only_aligned_words_reach_the_hardware() {
    let mut driver = Driver::with(Some(IDLE));
    let mut ownership = Ownership::new(&driver, &DartChoice::all(1));
    for bytes in [1, 2, 8] {
        let access = DartAccess { bytes, ..read(PARAMS1) };
        assert_eq!(ownership.route(&mut driver, &access), Route::Refused, "{bytes} bytes");
    }
    assert_eq!(ownership.route(&mut driver, &read(TCR + 2)), Route::Refused);
    assert_eq!(driver.takeovers, 0);
}

/// Linux with pages of 4 KiB puts devices behind a DART of 16 KiB into bypass, if the DART can do
/// that.
#[test]
fn a_guest_that_was_given_the_hardwares_page_size_is_refused_bypass() {
    let driver = Driver::with(Some(LIVE));
    let mut ownership = Ownership::new(&driver, &DartChoice::all(1));
    assert_eq!(ownership.read_through(dart(), PARAMS2, 0x31), 0x31, "U-Boot reads nothing else");
    assert_eq!(ownership.read_through(dart(), PARAMS1, 0x0e00_0000), 0x0e00_0000);
    assert_eq!(ownership.read_through(dart(), PARAMS2, 0x31), 0x30);
    assert_eq!(ownership.read_through(dart(), TCR, 0x31), 0x31);
}

#[test]
fn a_condition_is_printed_in_words() {
    let printed = |is_locked, live, bypass| {
        Condition { is_locked, live: StreamSet(live), bypass: StreamSet(bypass) }.to_string()
    };
    assert_eq!(printed(false, 0, 0), "idle");
    assert_eq!(printed(true, 0, 0), "locked");
    assert_eq!(printed(true, 1, 0), "locked, live 0x1");
    assert_eq!(printed(false, 3, 4), "live 0x3, bypass 0x4");
    assert_eq!(printed(false, 0, 1), "bypass 0x1");
}

#[test]
fn a_dart_that_is_not_chosen_is_the_hardware_for_good_and_offers_no_bypass() {
    let mut driver = Driver::with(Some(IDLE));
    let choice = DartChoice::parse("none", &[DartNode::named("sio_dart", 0)], &mut |_| ());
    let mut ownership = Ownership::new(&driver, &choice);
    assert_eq!(ownership.read_through(dart(), PARAMS2, 1), 1, "a guest with 16K pages may use it");
    for access in [read(PARAMS1), write(STREAM_COMMAND), read(PARAMS1)] {
        assert_eq!(ownership.route(&mut driver, &access), Route::Passthrough);
    }
    assert_eq!(ownership.owner(&driver, dart()), Owner::NotChosen);
    assert_eq!(driver.takeovers, 0);
    let page_size = ownership.read_through(dart(), PARAMS1, 14 << 24 | 3);
    assert_eq!(page_size, 15 << 24 | 3, "larger than any guest's");
    assert_eq!(ownership.read_through(dart(), PARAMS2, 1), 0);
}
