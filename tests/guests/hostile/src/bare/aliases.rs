//! Pages with as many copies as there may be, which differ in every other byte: what the longest
//! exits look at.
//!
//! Four pages fill the slots of 64 granules, in another order than in memory, so that none is
//! mapped where it lies. A device changes some bytes of one copy and others of the next. Then each
//! kind of access comes that must see all of them.

use super::attacks::faults;
use super::edu::{Edu, MAX_BYTES, STREAM};
use super::forms::{FORMS, Form, Registers};
use super::guarded::call;
use super::mapping::{self, BUSY, COMMAND, INVALIDATE, Rights, SELECT};
use super::{Pages, Tally};

const PAGE: u64 = 4096;
const WORDS: usize = 512;
const SLOTS: usize = 4;
/// Aliases of a page that a device may write, and IOVA pages that read-only ones take: two tables
/// but for the buffer's.
const WRITTEN: usize = 64;
const READ: usize = 1020;
const BUFFER_IOVA: usize = 0x1ff;
/// What each word is at first, and the bytes of it that the device changes in one copy and in the
/// next.
const WORD: u64 = 0x1111_1111_1111_1111;
const ONE: u64 = 0x0000_00ff_0000_00ff;
const OTHER: u64 = 0x00ff_0000_00ff_0000;
/// Looks at the busy bit before a flush counts as one that never ends.
const PATIENCE: u32 = 100_000;

static PAGES: Pages<SLOTS> = Pages::new();
static BUFFER: Pages<1> = Pages::new();
static LEAVES: Pages<1> = Pages::new();

pub(super) fn run(tally: &mut Tally) {
    let Some(edu) = Edu::find() else {
        return tally.case(format_args!("aliases: the device"), Err("is not there"));
    };
    mapping::begin(STREAM);
    mapping::set(STREAM, BUFFER_IOVA, Some((BUFFER.address(), Rights::ReadWrite)));
    for word in 0..PAGES.words() {
        PAGES.set_word(word, WORD);
    }
    written(tally, &edu);
    read(tally, &edu);
    mapping::end(STREAM);
}

fn written(tally: &mut Tally, edu: &Edu) {
    tally.case(format_args!("aliases, written: a flush maps them"), map_written(true));
    mapping::set(STREAM, SLOTS * WRITTEN, Some((address(0), Rights::ReadWrite)));
    tally.case(format_args!("aliases, written: one more"), faults(edu, SLOTS * WRITTEN));
    mapping::set(STREAM, SLOTS * WRITTEN, None);
    let change = |tally: &mut Tally, round: u64, slots: usize| {
        tally.case(
            format_args!("aliases, written: the device, round {round}"),
            news(edu, round, slots),
        );
    };
    change(tally, 1, 1);
    let value = PAGES.word(word_of(0));
    tally.case(format_args!("aliases, written: a load"), is(value, changed(1)));
    for form in FORMS.iter().step_by(11) {
        tally.case(format_args!("aliases, written: {}", form.name), step(form, 0));
    }
    restore(0);
    change(tally, 2, 1);
    // mov x0, #42; ret
    PAGES.set_word(word_of(0), 0xd65f_03c0_d280_0540);
    tally.case(format_args!("aliases, written: a fetch"), call(address(0)));
    // The fetch has given its copies up: all are mapped anew.
    tally.case(format_args!("aliases, written: they go"), map_written(false));
    (0..SLOTS).for_each(restore);
    tally.case(format_args!("aliases, written: they come back"), map_written(true));
    change(tally, 3, SLOTS);
    // One copy of each page goes: the others are made equal.
    (0..SLOTS).for_each(|slot| mapping::set_raw(slot, 0));
    tally.case(format_args!("aliases, written: a flush unmaps a granule"), flush());
    let is_there = |slot| (0..WORDS).all(|word| PAGES.word(word_of(slot) + word) == changed(3));
    let result = (0..SLOTS).all(is_there).then_some(()).ok_or("bytes are lost");
    tally.case(format_args!("aliases, written: what the device wrote"), result);
    tally.case(format_args!("aliases, written: a flush unmaps them"), map_written(false));
}

/// Maps the pages in all slots, or nothing there.
fn map_written(is_mapped: bool) -> Result<(), &'static str> {
    for iova in 0..SLOTS * WRITTEN {
        mapping::set_raw(iova, if is_mapped { entry(iova % SLOTS, Rights::ReadWrite) } else { 0 });
    }
    flush()
}

fn read(tally: &mut Tally, edu: &Edu) {
    mapping::set_first(1, LEAVES.address() | 1);
    let set = |iova: usize, entry: u64| match iova {
        BUFFER_IOVA => {}
        iova if iova < WORDS => mapping::set_raw(iova, entry),
        iova => LEAVES.set_word(iova - WORDS, entry),
    };
    (0..READ).for_each(|iova| set(iova, entry(0, Rights::Read)));
    tally.case(format_args!("aliases, read: a flush maps them"), flush());
    set(READ, entry(0, Rights::ReadWrite));
    let refused = flush().and_then(|()| faults(edu, READ));
    tally.case(format_args!("aliases, read: one that is written"), refused);
    set(READ, 0);
    PAGES.set_word(word_of(0) + 3, 0x77);
    let seen = edu
        .take((READ as u64 - 1) * PAGE, 32)
        .and_then(|()| edu.put(BUFFER_IOVA as u64 * PAGE, 32))
        .and_then(|()| is(BUFFER.word(3), 0x77));
    tally.case(format_args!("aliases, read: the device sees a store"), seen);
    for form in FORMS.iter().step_by(23) {
        tally.case(format_args!("aliases, read: {}", form.name), step(form, 0));
    }
    PAGES.set_word(word_of(0), 0xd65f_03c0_d280_0540);
    tally.case(format_args!("aliases, read: a fetch"), call(address(0)));
    (0..READ).for_each(|iova| set(iova, 0));
    tally.case(format_args!("aliases, read: a flush unmaps them"), flush());
    mapping::set_first(1, 0);
    mapping::flush(STREAM);
}

/// The page in slot `slot` of each granule.
fn address(slot: usize) -> u64 {
    PAGES.address() + (SLOTS - 1 - slot) as u64 * PAGE
}

/// The first word of that page.
fn word_of(slot: usize) -> usize {
    (SLOTS - 1 - slot) * WORDS
}

fn entry(slot: usize, rights: Rights) -> u64 {
    address(slot) | 3 | if rights == Rights::Read { 1 << 7 } else { 0 }
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

/// The device changes each word of two copies of the pages in the first `slots` slots.
fn news(edu: &Edu, round: u64, slots: usize) -> Result<(), &'static str> {
    for (granule, mask) in [(1, ONE), (2, OTHER)] {
        let value = WORD & !mask | pattern(round) & mask;
        (0..BUFFER.words()).for_each(|word| BUFFER.set_word(word, value));
        edu.take(BUFFER_IOVA as u64 * PAGE, MAX_BYTES)?;
        for (slot, offset) in
            (0..slots).flat_map(|slot| [0, MAX_BYTES].map(|offset| (slot, offset)))
        {
            edu.put((granule * SLOTS + slot) as u64 * PAGE + offset, MAX_BYTES)?;
        }
    }
    Ok(())
}

/// A flush that ends.
fn flush() -> Result<(), &'static str> {
    mapping::write(SELECT, 1 << STREAM);
    mapping::write(COMMAND, INVALIDATE);
    (0..PATIENCE)
        .any(|_| mapping::read(COMMAND) & BUSY == 0)
        .then_some(())
        .ok_or("the flush does not end")
}

/// Runs a form in the middle of the page: what it does there is seen to elsewhere, that it ends is
/// seen here.
fn step(form: &Form, slot: usize) -> Result<(), &'static str> {
    let before = PAGES.word(word_of(slot));
    let vectors = [[1, 2]; 4];
    let mut registers = Registers { vectors, general: [1, 2, 16, 4], base: address(slot) + 0x400 };
    (form.run)(&mut registers);
    is(PAGES.word(word_of(slot)), before)
}

fn is(value: u64, expected: u64) -> Result<(), &'static str> {
    (value == expected).then_some(()).ok_or("another value")
}
