//! Attacks by way of the tables: what they name, when they change, and how often the DART is told.
//!
//! After each, the device's own stream works as before: its mapping leads to the bytes that it
//! should.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::access::DART;
use super::edu::{Edu, STREAM};
use super::exception::attempt;
use super::mapping::{self, BUSY, COMMAND, ERROR, INVALIDATE, Rights, SELECT};
use super::storm::Random;
use super::tree::HOLES;
use super::{Pages, Tally, calls};

const PAGE: u64 = 4096;
const UART: u64 = 0x0900_0000;
const SMMU: u64 = 0x0905_0000;
/// IOVA pages: of the buffers that must go on working, and of what is attacked.
const SOURCE: usize = 0x22;
const TARGET: usize = 0x2a;
const VICTIM: usize = 0x60;
/// A stream without a device.
const IDLE_STREAM: u64 = 9;
/// Looks at the busy bit in which a flush is done.
const MAX_POLLS: u32 = 100_000;
const HELPERS: u64 = 3;
/// Looks before other CPUs count as dead.
const PATIENCE: u32 = 200_000_000;

static FROM: Pages<1> = Pages::new();
static TO: Pages<1> = Pages::new();
static ALIAS: Pages<1> = Pages::new();
static FLUSHES: AtomicU32 = AtomicU32::new(0);
pub(super) static IS_OVER: AtomicBool = AtomicBool::new(false);

pub(super) fn run(tally: &mut Tally, holes: &[u64; HOLES]) {
    let Some(edu) = Edu::find() else {
        return tally.case(format_args!("attacks: the device"), Err("is not there"));
    };
    begin();
    tally.case(format_args!("attacks: the device copies"), works(&edu, 1));
    let holes = holes.iter().copied().filter(|hole| *hole != 0);
    let places = holes.clone().chain([DART, UART, SMMU, 0, 0xf_ffff_f000]);
    for (index, place) in places.clone().enumerate() {
        // A page of Oche's, a device's registers, or nothing at all, as the target of DMA.
        mapping::set(STREAM, VICTIM, Some((place, Rights::ReadWrite)));
        tally.case(format_args!("an entry that names {place:#x}"), faults(&edu, VICTIM));
        mapping::set(STREAM, VICTIM, None);
        // As a leaf table, and as the first level.
        mapping::set_first(1, place | 1);
        mapping::flush(STREAM);
        tally.case(format_args!("a leaf table at {place:#x}"), faults(&edu, 512));
        mapping::set_first(1, 0);
        mapping::root(STREAM, place >> 12);
        tally.case(format_args!("a first level at {place:#x}"), faults(&edu, SOURCE));
        begin();
        tally.case(
            format_args!("after {place:#x} the device copies"),
            works(&edu, 2 + index as u64),
        );
    }
    itself(tally, &edu);
    commands(tally, &edu);
    registers(tally);
    for hole in holes {
        for (name, access) in ODD {
            let exception = attempt(|| access(hole));
            // Stage 1 shows nothing to EL0, and says so first.
            let is_refused = exception
                .is_some_and(|one| one.is_external_abort() || name.starts_with("unprivileged"));
            let result = is_refused.then_some(()).ok_or("no external abort");
            tally.case(format_args!("oche {hole:#x}: {name}"), result);
        }
    }
    alias_storm(tally, &edu);
    changing_tables(tally, &edu);
    flooded(tally, &edu);
    mapping::end(STREAM);
}

/// The tables as they should be.
fn begin() {
    mapping::begin(STREAM);
    mapping::set(STREAM, SOURCE, Some((FROM.address(), Rights::Read)));
    mapping::set(STREAM, TARGET, Some((TO.address(), Rights::ReadWrite)));
    mapping::write(ERROR, u32::MAX);
}

/// The device copies what it should from one buffer to the other.
fn works(edu: &Edu, seed: u64) -> Result<(), &'static str> {
    for word in 0..16 {
        FROM.set_word(word, seed << 32 | word as u64);
        TO.set_word(word, 0);
    }
    edu.take(SOURCE as u64 * PAGE, 128)?;
    edu.put(TARGET as u64 * PAGE, 128)?;
    let is_same = (0..16).all(|word| TO.word(word) == seed << 32 | word as u64);
    is_same.then_some(()).ok_or("the device's stream does not go on")
}

/// The device's access at `iova` is refused, and the DART says so.
pub(super) fn faults(edu: &Edu, iova: usize) -> Result<(), &'static str> {
    mapping::write(ERROR, u32::MAX);
    edu.take(iova as u64 * PAGE, 64)?;
    let is_told = (0..MAX_POLLS).any(|_| mapping::read(ERROR) >> 31 != 0);
    mapping::write(ERROR, u32::MAX);
    is_told.then_some(()).ok_or("no fault")
}

/// Tables that name themselves and each other, and one that is data and the target of DMA as well.
fn itself(tally: &mut Tally, edu: &Edu) {
    let [first, leaves] = mapping::tables();
    mapping::set_first(2, first | 1);
    mapping::flush(STREAM);
    tally.case(format_args!("a first level that is its own leaf table"), works(edu, 50));
    mapping::set_first(2, leaves | 1);
    mapping::flush(STREAM);
    tally.case(format_args!("a leaf table that is named twice"), works(edu, 51));
    mapping::set_first(2, 0);
    mapping::set(STREAM, VICTIM, Some((leaves, Rights::ReadWrite)));
    tally.case(format_args!("a leaf table that maps itself"), works(edu, 52));
    // The device writes an entry of the table that maps it: the other alias, which a flush then
    // finds.
    FROM.set_word(0, ALIAS.address() | 3);
    ALIAS.set_word(0, 0x5a5a);
    let written = edu
        .take(SOURCE as u64 * PAGE, 8)
        .and_then(|()| edu.put(VICTIM as u64 * PAGE + 8 * (VICTIM as u64 + 8), 8));
    mapping::flush(STREAM);
    let led = written
        .and_then(|()| edu.take((VICTIM as u64 + 8) * PAGE, 8))
        .and_then(|()| edu.put(TARGET as u64 * PAGE, 8))
        .and_then(|()| if TO.word(0) == 0x5a5a { Ok(()) } else { Err("it leads elsewhere") });
    tally.case(format_args!("an entry that the device wrote"), led);
    mapping::set_raw(VICTIM + 8, 0);
    mapping::set(STREAM, VICTIM, None);
    tally.case(format_args!("after the tables of themselves"), works(edu, 53));
}

/// Commands about no stream, about all, and about what nobody knows.
fn commands(tally: &mut Tally, edu: &Edu) {
    for select in [0, 0xffff, u32::MAX, 1 << 16] {
        for command in [INVALIDATE, u32::MAX, 0, 1, 1 << 19 | 1 << 21] {
            mapping::write(SELECT, select);
            mapping::write(COMMAND, command);
            let is_done = (0..MAX_POLLS).any(|_| mapping::read(COMMAND) & BUSY == 0);
            tally.case(
                format_args!("command {command:#x} to streams {select:#x}"),
                is_done.then_some(()).ok_or("busy without end"),
            );
        }
    }
    begin();
    tally.case(format_args!("after the commands"), works(edu, 60));
}

/// Every register, at widths that none has, unaligned by way of pairs, and what is beyond the last
/// DART.
fn registers(tally: &mut Tally) {
    let count = |offsets: core::iter::StepBy<core::ops::Range<u64>>,
                 access: fn(u64),
                 is_answered: bool| {
        offsets.filter(|offset| attempt(|| access(DART + offset)).is_none() == is_answered).count()
    };
    let words = count((0..0x4000).step_by(4), load_word, true);
    tally.case(
        format_args!("every register, 32-bit"),
        (words == 0x1000).then_some(()).ok_or("one aborts"),
    );
    for (name, access, step) in
        [("8-bit", load_byte as fn(u64), 1), ("16-bit", load_half, 2), ("64-bit", load_double, 8)]
    {
        let refused = count((0..0x4000).step_by(step), access, false);
        let is_right = refused == 0x4000 / step;
        tally.case(
            format_args!("every register, {name}"),
            is_right.then_some(()).ok_or("one is answered"),
        );
    }
    let beyond = attempt(|| load_word(DART + 64 * 0x4000 - 4))
        .is_some_and(|exception| exception.is_external_abort());
    tally.case(
        format_args!("beyond the last DART"),
        beyond.then_some(()).ok_or("no external abort"),
    );
}

/// One page at every IOVA of a table, again and again.
fn alias_storm(tally: &mut Tally, edu: &Edu) {
    for round in 0..3 {
        let rights = if round == 1 { 3 } else { 3 | 1 << 7 };
        (128..512).for_each(|iova| mapping::set_raw(iova, ALIAS.address() | rights));
        mapping::flush(STREAM);
        ALIAS.set_word(7, round);
        (128..512).for_each(|iova| mapping::set_raw(iova, 0));
        mapping::flush(STREAM);
    }
    tally.case(
        format_args!("one page at 384 IOVAs"),
        if ALIAS.word(7) == 2 { works(edu, 70) } else { Err("a store is lost") },
    );
}

/// Other CPUs write entries while they are looked at.
fn changing_tables(tally: &mut Tally, edu: &Edu) {
    let result = with_helpers(calls::SCRIBBLE, || {
        for _ in 0..200 {
            mapping::flush(STREAM);
        }
        Ok(())
    });
    tally.case(format_args!("tables that change while they are read"), result);
    (128..512).for_each(|iova| mapping::set_raw(iova, 0));
    begin();
    tally.case(format_args!("after the changing tables"), works(edu, 80));
}

/// Another CPU's part: entries of all kinds, not those that [`works`] needs.
pub(super) fn scribble(number: u64) {
    let mut random = Random(number);
    while !IS_OVER.load(Ordering::SeqCst) {
        let value = random.next();
        let page = if value & 7 == 0 { value & 0xf_ffff_f000 } else { ALIAS.address() };
        let entry = if value & 8 == 0 { 0 } else { page | value >> 40 & 0x83 };
        mapping::set_raw(128 + (value >> 50) as usize % 384, entry);
    }
}

/// Other CPUs flush a stream without a device, without end. This one works without a trap, and
/// flushes now and then: each of its flushes ends within a bounded number of looks, and the others
/// go on meanwhile.
fn flooded(tally: &mut Tally, edu: &Edu) {
    let result = with_helpers(calls::FLOOD, || {
        while FLUSHES.load(Ordering::SeqCst) == 0 {}
        for _ in 0..100 {
            for word in 0..20_000 {
                ALIAS.set_word(word % 512, word as u64);
            }
            mapping::write(SELECT, 1 << STREAM);
            mapping::write(COMMAND, INVALIDATE);
            if (0..MAX_POLLS).all(|_| mapping::read(COMMAND) & BUSY != 0) {
                return Err("a flush does not end");
            }
        }
        let before = FLUSHES.load(Ordering::SeqCst);
        let goes_on = (0..PATIENCE).any(|_| FLUSHES.load(Ordering::SeqCst) != before);
        goes_on.then_some(()).ok_or("the flood stands still")
    });
    tally.case(format_args!("a flood of flushes from other CPUs"), result);
    begin();
    tally.case(format_args!("after the flood"), works(edu, 90));
}

/// Another CPU's part.
pub(super) fn flood() {
    while !IS_OVER.load(Ordering::SeqCst) {
        mapping::write(SELECT, 1 << IDLE_STREAM);
        mapping::write(COMMAND, INVALIDATE);
        FLUSHES.fetch_add(1, Ordering::SeqCst);
    }
}

/// Runs `work` while all other CPUs do `task`, until [`IS_OVER`].
pub(super) fn with_helpers(
    task: u32,
    work: impl FnOnce() -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    IS_OVER.store(false, Ordering::SeqCst);
    calls::TASK.store(task, Ordering::SeqCst);
    let started = (1..=HELPERS).filter(|cpu| calls::start(*cpu).is_ok()).count() as u64;
    let result = work();
    IS_OVER.store(true, Ordering::SeqCst);
    let ended = (1..=HELPERS).all(|cpu| calls::wait_until_off(cpu).is_ok());
    if started == HELPERS && ended { result } else { Err("a CPU did not come back") }
}

macro_rules! accesses {
    ($($name:ident: $($line:literal),+;)*) => {
        $(fn $name(address: u64) {
            // SAFETY: none: wild on purpose. The vectors step over the instruction that faults;
            // nothing compiled for this target uses the SIMD registers.
            unsafe {
                asm!($($line),+, inout("x9") address => _, inout("x10") 0u64 => _, inout("x11") 0u64 => _,
                    inout("x12") 0u64 => _, inout("x13") 0u64 => _, options(nostack))
            };
        })*
    };
}

accesses! {
    load_byte: "ldrb w10, [x9]";
    load_half: "ldrh w10, [x9]";
    load_word: "ldr w10, [x9]";
    load_double: "ldr x10, [x9]";
    load_acquire: "ldar x10, [x9]";
    store_release: "stlr x10, [x9]";
    load_unprivileged: "ldtr x10, [x9]";
    store_unprivileged: "sttr x10, [x9]";
    load_far_pair: "ldnp x10, x11, [x9]";
    store_far_pair: "stnp x10, x11, [x9]";
    swap: ".inst 0xf82a812b"; // SWP X10, X11, [X9]
    compare: ".inst 0xc8aa7d2b"; // CAS X10, X11, [X9]
    compare_pair: ".inst 0x482a7d2c"; // CASP X10, X11, X12, X13, [X9]
    load_four: ".inst 0x4c400120"; // LD4 {V0.16B-V3.16B}, [X9]
    store_four: ".inst 0x4c000120"; // ST4 {V0.16B-V3.16B}, [X9]
    load_lane: ".inst 0x0d400120"; // LD1 {V0.B}[0], [X9]
}

/// An access at an address, and its name.
type Odd = (&'static str, fn(u64));

/// Instructions that a stage-2 fault says little about.
const ODD: [Odd; 12] = [
    ("load-acquire", load_acquire),
    ("store-release", store_release),
    ("unprivileged load", load_unprivileged),
    ("unprivileged store", store_unprivileged),
    ("non-temporal load of a pair", load_far_pair),
    ("non-temporal store of a pair", store_far_pair),
    ("atomic swap", swap),
    ("compare and swap", compare),
    ("compare and swap of a pair", compare_pair),
    ("load of four vectors", load_four),
    ("store of four vectors", store_four),
    ("load of one lane", load_lane),
];
