//! Attacks with translation tables: what they point to, when they change, and how often they are
//! flushed.
//!
//! After each, the device's own stream must still translate to the right bytes.

use core::sync::atomic::{AtomicU32, Ordering};

use oche_guest_common::{CaseReport, Check, PAGE_BYTES, Pages, Random, check};

use super::board::{DART, Hidden, SMMU, UART};
use super::cpus::{is_over, with_helpers};
use super::edu::{Edu, STREAM};
use super::mapping::{self, COMMAND, INVALIDATE, MAX_POLLS, Rights, SELECT};
use super::odd_accesses;

/// IOVA pages: of the buffers that must stay mapped, and of what is attacked.
const SOURCE: usize = 0x22;
const TARGET: usize = 0x2a;
const VICTIM: usize = 0x60;
/// A stream without a device.
const IDLE_STREAM: u64 = 9;
/// Polls before other CPUs count as lost.
const MAX_WAITS: u32 = 200_000_000;

static FROM: Pages<1> = Pages::new();
static TO: Pages<1> = Pages::new();
static ALIAS: Pages<1> = Pages::new();
static FLUSHES: AtomicU32 = AtomicU32::new(0);

pub(super) fn run(report: &mut CaseReport, hidden: Hidden) {
    let Some(edu) = Edu::find() else {
        return report.case(format_args!("attacks: the device"), Err("is not there"));
    };
    begin();
    report.case(format_args!("attacks: the device copies"), works(&edu, 1));
    for (index, place) in hidden.iter().chain([DART, UART, SMMU, 0, 0xf_ffff_f000]).enumerate() {
        pointers_to(report, &edu, place, 2 + index as u64);
    }
    itself(report, &edu);
    commands(report, &edu);
    odd_accesses::run(report, hidden);
    alias_storm(report, &edu);
    changing_tables(report, &edu);
    flooded(report, &edu);
    mapping::end(STREAM);
}

/// A page of Oche's, a device's registers, or nothing at all, as the target of DMA, as a leaf table
/// and as a first level.
fn pointers_to(report: &mut CaseReport, edu: &Edu, place: u64, seed: u64) {
    mapping::set(STREAM, VICTIM, Some((place, Rights::ReadWrite)));
    report.case(format_args!("an entry that points to {place:#x}"), edu.faults(VICTIM));
    mapping::set(STREAM, VICTIM, None);
    mapping::set_first(1, place | 1);
    mapping::flush(STREAM);
    report.case(format_args!("a leaf table at {place:#x}"), edu.faults(512));
    mapping::set_first(1, 0);
    mapping::root(STREAM, place >> 12);
    report.case(format_args!("a first level at {place:#x}"), edu.faults(SOURCE));
    begin();
    report.case(format_args!("after {place:#x} the device copies"), works(edu, seed));
}

/// Makes the tables that [`works`] needs.
fn begin() {
    mapping::begin(STREAM);
    mapping::set(STREAM, SOURCE, Some((FROM.address(), Rights::Read)));
    mapping::set(STREAM, TARGET, Some((TO.address(), Rights::ReadWrite)));
    mapping::clear_error();
}

/// The device must copy from one buffer to the other.
fn works(edu: &Edu, seed: u64) -> Check {
    for word in 0..16 {
        FROM.set_word(word, seed << 32 | word as u64);
        TO.set_word(word, 0);
    }
    edu.take(SOURCE as u64 * PAGE_BYTES, 128)?;
    edu.put(TARGET as u64 * PAGE_BYTES, 128)?;
    let is_same = (0..16).all(|word| TO.word(word) == seed << 32 | word as u64);
    check(is_same, "the device's stream translates to other bytes")
}

/// Tables that point to themselves and to each other, and one that is the target of DMA as well.
fn itself(report: &mut CaseReport, edu: &Edu) {
    let [first, leaves] = mapping::tables();
    mapping::set_first(2, first | 1);
    mapping::flush(STREAM);
    report.case(format_args!("a first level that is its own leaf table"), works(edu, 50));
    mapping::set_first(2, leaves | 1);
    mapping::flush(STREAM);
    report.case(format_args!("a leaf table that two entries point to"), works(edu, 51));
    mapping::set_first(2, 0);
    mapping::set(STREAM, VICTIM, Some((leaves, Rights::ReadWrite)));
    report.case(format_args!("a leaf table that maps itself"), works(edu, 52));
    // The device writes an entry of the table that maps it: another alias, which the next flush
    // finds.
    FROM.set_word(0, ALIAS.address() | 3);
    ALIAS.set_word(0, 0x5a5a);
    let written = edu
        .take(SOURCE as u64 * PAGE_BYTES, 8)
        .and_then(|()| edu.put(VICTIM as u64 * PAGE_BYTES + 8 * (VICTIM as u64 + 8), 8));
    mapping::flush(STREAM);
    let led = written
        .and_then(|()| edu.take((VICTIM as u64 + 8) * PAGE_BYTES, 8))
        .and_then(|()| edu.put(TARGET as u64 * PAGE_BYTES, 8))
        .and_then(
            |()| if TO.word(0) == 0x5a5a { Ok(()) } else { Err("it translates to another page") },
        );
    report.case(format_args!("an entry that the device wrote"), led);
    mapping::set_raw(VICTIM + 8, 0);
    mapping::set(STREAM, VICTIM, None);
    report.case(format_args!("after the tables that point to themselves"), works(edu, 53));
}

/// Commands to no stream, to all, to streams that do not exist, and unknown commands.
fn commands(report: &mut CaseReport, edu: &Edu) {
    for select in [0, 0xffff, u32::MAX, 1 << 16] {
        for command in [INVALIDATE, u32::MAX, 0, 1, 1 << 19 | 1 << 21] {
            mapping::write(SELECT, select);
            mapping::write(COMMAND, command);
            let is_done = (0..MAX_POLLS).any(|_| !mapping::is_busy());
            report.case(
                format_args!("command {command:#x} to streams {select:#x}"),
                check(is_done, "it stays busy"),
            );
        }
    }
    begin();
    report.case(format_args!("after the commands"), works(edu, 60));
}

/// One page at 384 IOVAs, mapped and unmapped again and again.
fn alias_storm(report: &mut CaseReport, edu: &Edu) {
    for round in 0..3 {
        let rights = if round == 1 { 3 } else { 3 | 1 << 7 };
        (128..512).for_each(|iova| mapping::set_raw(iova, ALIAS.address() | rights));
        mapping::flush(STREAM);
        ALIAS.set_word(7, round);
        (128..512).for_each(|iova| mapping::set_raw(iova, 0));
        mapping::flush(STREAM);
    }
    report.case(
        format_args!("one page at 384 IOVAs"),
        if ALIAS.word(7) == 2 { works(edu, 70) } else { Err("a store is lost") },
    );
}

/// Other CPUs write entries while Oche reads them.
fn changing_tables(report: &mut CaseReport, edu: &Edu) {
    let result = with_helpers(scribble, || {
        for _ in 0..200 {
            mapping::flush(STREAM);
        }
        Ok(())
    });
    report.case(format_args!("tables that change while they are read"), result);
    (128..512).for_each(|iova| mapping::set_raw(iova, 0));
    begin();
    report.case(format_args!("after the changing tables"), works(edu, 80));
}

/// Another CPU's part: entries of all kinds, except those that [`works`] needs.
fn scribble(number: u64) {
    let mut random = Random(number);
    while !is_over() {
        let value = random.next();
        let page = if value & 7 == 0 { value & 0xf_ffff_f000 } else { ALIAS.address() };
        let entry = if value & 8 == 0 { 0 } else { page | value >> 40 & 0x83 };
        mapping::set_raw(128 + (value >> 50) as usize % 384, entry);
    }
}

/// Other CPUs flush a stream without a device all the time. This one works without a trap and
/// flushes now and then: each of its flushes must end, and the others must make progress.
fn flooded(report: &mut CaseReport, edu: &Edu) {
    let result = with_helpers(flood, || {
        while FLUSHES.load(Ordering::SeqCst) == 0 {}
        for _ in 0..100 {
            for word in 0..20_000 {
                ALIAS.set_word(word % 512, word as u64);
            }
            mapping::bounded_flush(STREAM)?;
        }
        let before = FLUSHES.load(Ordering::SeqCst);
        let goes_on = (0..MAX_WAITS).any(|_| FLUSHES.load(Ordering::SeqCst) != before);
        check(goes_on, "the flood has stopped")
    });
    report.case(format_args!("a flood of flushes from other CPUs"), result);
    begin();
    report.case(format_args!("after the flood"), works(edu, 90));
}

/// Another CPU's part.
fn flood(_: u64) {
    while !is_over() {
        mapping::start_flush(IDLE_STREAM);
        FLUSHES.fetch_add(1, Ordering::SeqCst);
    }
}
