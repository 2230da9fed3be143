//! Pages with the maximum number of copies, which differ in every other byte: the longest exits.
//!
//! Four pages fill the slots of 32 granules, in another order than in memory, so that no granule
//! is direct, and four others fill those of 32 more. A device changes some bytes of one copy and
//! others of the next. Then each kind of access must see all changes.

use oche_guest_common::{CaseReport, Check, PAGE_BYTES, Pages, check};

use super::code::{FUNCTION, call_new};
use super::edu::{Edu, MAX_BYTES, STREAM};
use super::forms::{FORMS, Form, FormRegisters};
use super::mapping::{self, Rights, bounded_flush, leaf};

const WORDS: usize = 512;
const SLOTS: usize = 4;
/// Sets of four pages. Each takes a part of the leaf table.
const SETS: usize = 2;
/// Aliases of a page that a device may write, and IOVA pages that read-only ones take: two tables
/// but for the buffer's.
const WRITTEN: usize = 32;
const READ: usize = 1020;
const BUFFER_IOVA: usize = 0x1ff;
/// What each word is at first, and the bytes of it that the device changes in one copy and in the
/// next.
const WORD: u64 = 0x1111_1111_1111_1111;
const ONE: u64 = 0x0000_00ff_0000_00ff;
const OTHER: u64 = 0x00ff_0000_00ff_0000;

static PAGES: Pages<{ SETS * SLOTS }> = Pages::new();
static BUFFER: Pages<1> = Pages::new();
static LEAVES: Pages<1> = Pages::new();

pub(super) fn run(report: &mut CaseReport) {
    let Some(edu) = Edu::find() else {
        return report.case(format_args!("aliases: the device"), Err("is not there"));
    };
    mapping::begin(STREAM);
    mapping::set(STREAM, BUFFER_IOVA, Some((BUFFER.address(), Rights::ReadWrite)));
    for word in 0..PAGES.words() {
        PAGES.set_word(word, WORD);
    }
    written(report, &edu);
    both_sets(report, &edu);
    read(report, &edu);
    mapping::end(STREAM);
}

fn written(report: &mut CaseReport, edu: &Edu) {
    report.case(format_args!("aliases, written: a flush maps them"), map_written(1, true));
    mapping::set(STREAM, SLOTS * WRITTEN, Some((address(0), Rights::ReadWrite)));
    report.case(format_args!("aliases, written: one more"), edu.faults(SLOTS * WRITTEN));
    mapping::set(STREAM, SLOTS * WRITTEN, None);
    let change = |report: &mut CaseReport, round: u64, slots: usize| {
        report.case(
            format_args!("aliases, written: the device, round {round}"),
            change_copies(edu, round, 0, slots),
        );
    };
    change(report, 1, 1);
    let value = PAGES.word(word_of(0));
    report.case(format_args!("aliases, written: a load"), is(value, changed(1)));
    for form in FORMS.iter().step_by(11) {
        report.case(format_args!("aliases, written: {}", form.name), step(form, 0));
    }
    restore(0);
    change(report, 2, 1);
    PAGES.set_word(word_of(0), FUNCTION);
    report.case(format_args!("aliases, written: a fetch"), call_new(address(0)));
    // The fetch has ended the page's copies: map all again.
    report.case(format_args!("aliases, written: a flush unmaps all"), map_written(1, false));
    (0..SLOTS).for_each(restore);
    report.case(format_args!("aliases, written: a flush maps them again"), map_written(1, true));
    change(report, 3, SLOTS);
    // Unmap one copy of each page: the others are made equal.
    (0..SLOTS).for_each(|slot| mapping::set_raw(slot, 0));
    report.case(format_args!("aliases, written: a flush unmaps a granule"), bounded_flush(STREAM));
    let is_there = |slot| (0..WORDS).all(|word| PAGES.word(word_of(slot) + word) == changed(3));
    let result = check((0..SLOTS).all(is_there), "bytes are lost");
    report.case(format_args!("aliases, written: what the device wrote"), result);
    report.case(format_args!("aliases, written: a flush unmaps them"), map_written(1, false));
}

/// A flush that unmaps two granules: what the first costs is most of a slice, and the second costs
/// a slice.
fn both_sets(report: &mut CaseReport, edu: &Edu) {
    (0..SETS * SLOTS).for_each(restore);
    report.case(format_args!("aliases, both sets: a flush maps them"), map_written(SETS, true));
    let changes = [(0, SLOTS - 1), (1, SLOTS)];
    for (set, slots) in changes {
        report.case(
            format_args!("aliases, both sets: the device, set {set}"),
            change_copies(edu, 4, set, slots),
        );
    }
    for iova in (0..SETS).flat_map(|set| (0..SLOTS).map(move |slot| iova(set, 0, slot))) {
        mapping::set_raw(iova, 0);
    }
    report.case(format_args!("aliases, both sets: a flush unmaps two"), bounded_flush(STREAM));
    let is_there = |(set, slots)| {
        (0..slots).all(|slot| {
            let first = word_of(set * SLOTS + slot);
            (first..first + WORDS).all(|word| PAGES.word(word) == changed(4))
        })
    };
    let result = check(changes.into_iter().all(is_there), "bytes are lost");
    report.case(format_args!("aliases, both sets: what the device wrote"), result);
    report.case(format_args!("aliases, both sets: a flush unmaps them"), map_written(SETS, false));
}

/// Maps the pages of the first `sets` sets in all their slots, or nothing there.
fn map_written(sets: usize, is_mapped: bool) -> Check {
    for iova in 0..iova(sets, 0, 0) {
        let page = iova / (SLOTS * WRITTEN) * SLOTS + iova % SLOTS;
        let entry = if is_mapped { leaf(address(page), Rights::ReadWrite) } else { 0 };
        mapping::set_raw(iova, entry);
    }
    bounded_flush(STREAM)
}

/// The IOVA page of a slot of a granule of a set's.
fn iova(set: usize, granule: usize, slot: usize) -> usize {
    (set * WRITTEN + granule) * SLOTS + slot
}

fn read(report: &mut CaseReport, edu: &Edu) {
    mapping::set_first(1, LEAVES.address() | 1);
    let set = |iova: usize, entry: u64| match iova {
        BUFFER_IOVA => {}
        iova if iova < WORDS => mapping::set_raw(iova, entry),
        iova => LEAVES.set_word(iova - WORDS, entry),
    };
    (0..READ).for_each(|iova| set(iova, leaf(address(0), Rights::Read)));
    report.case(format_args!("aliases, read: a flush maps them"), bounded_flush(STREAM));
    set(READ, leaf(address(0), Rights::ReadWrite));
    let refused = bounded_flush(STREAM).and_then(|()| edu.faults(READ));
    report.case(format_args!("aliases, read: one that is written"), refused);
    set(READ, 0);
    PAGES.set_word(word_of(0) + 3, 0x77);
    let seen = edu
        .take((READ as u64 - 1) * PAGE_BYTES, 32)
        .and_then(|()| edu.put(BUFFER_IOVA as u64 * PAGE_BYTES, 32))
        .and_then(|()| is(BUFFER.word(3), 0x77));
    report.case(format_args!("aliases, read: the device sees a store"), seen);
    for form in FORMS.iter().step_by(23) {
        report.case(format_args!("aliases, read: {}", form.name), step(form, 0));
    }
    PAGES.set_word(word_of(0), FUNCTION);
    report.case(format_args!("aliases, read: a fetch"), call_new(address(0)));
    (0..READ).for_each(|iova| set(iova, 0));
    report.case(format_args!("aliases, read: a flush unmaps them"), bounded_flush(STREAM));
    mapping::set_first(1, 0);
    mapping::flush(STREAM);
}

/// The page in slot `slot % SLOTS` of each granule of set `slot / SLOTS`.
fn address(slot: usize) -> u64 {
    PAGES.address() + (word_of(slot) / WORDS) as u64 * PAGE_BYTES
}

/// The first word of that page.
fn word_of(slot: usize) -> usize {
    (slot ^ (SLOTS - 1)) * WORDS
}

fn restore(slot: usize) {
    (0..WORDS).for_each(|word| PAGES.set_word(word_of(slot) + word, WORD));
}

/// What the device writes in `round`.
fn pattern(round: u64) -> u64 {
    round.wrapping_mul(0x2222_2222_2222_2222) ^ 0x5a5a_5a5a_5a5a_5a5a
}

/// A word after that.
fn changed(round: u64) -> u64 {
    WORD & !(ONE | OTHER) | pattern(round) & (ONE | OTHER)
}

/// The device changes each word of two copies of the pages in the first `slots` slots of `set`.
fn change_copies(edu: &Edu, round: u64, set: usize, slots: usize) -> Check {
    for (granule, mask) in [(1, ONE), (2, OTHER)] {
        let value = WORD & !mask | pattern(round) & mask;
        (0..BUFFER.words()).for_each(|word| BUFFER.set_word(word, value));
        edu.take(BUFFER_IOVA as u64 * PAGE_BYTES, MAX_BYTES)?;
        for (slot, offset) in
            (0..slots).flat_map(|slot| [0, MAX_BYTES].map(|offset| (slot, offset)))
        {
            edu.put(iova(set, granule, slot) as u64 * PAGE_BYTES + offset, MAX_BYTES)?;
        }
    }
    Ok(())
}

/// Runs a form in the middle of the page. Other cases check its effect; this one, that it ends.
fn step(form: &Form, slot: usize) -> Check {
    let before = PAGES.word(word_of(slot));
    let vectors = [[1, 2]; 4];
    let mut registers =
        FormRegisters { vectors, general: [1, 2, 16, 4], base: address(slot) + 0x400 };
    (form.run)(&mut registers);
    is(PAGES.word(word_of(slot)), before)
}

fn is(value: u64, expected: u64) -> Check {
    check(value == expected, "another value")
}
