//! Every form of load and store on trapped pages: registers and bytes as on any other memory, and a
//! device that sees each byte at once.
//!
//! Four pages in a row, of which the two in the middle are guarded, and four like them that nobody
//! maps. Each form runs on both, inside a page and across each edge; then all must be equal. A
//! device looks at every copy through its own IOVA, and writes through one.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use super::edu::{Edu, MAX_BYTES, STREAM};
use super::exception::attempt;
use super::forms::{FORMS, Form, Registers, increment};
use super::mapping::{self, Rights};
use super::start::UPPER;
use super::{Pages, Tally, calls};

const PAGE: u64 = 4096;
static GUARDED: Pages<4> = Pages::new();
static PLAIN: Pages<4> = Pages::new();
/// What the device copies to and from.
static BUFFER: Pages<1> = Pages::new();
/// IOVA pages of each trapped page: no two of a page agree in their slot.
const IOVAS: [[usize; 2]; 2] = [[0x11, 0x16], [0x18, 0x1f]];
const BUFFER_IOVA: usize = 0x22;
/// Other CPUs that count along, and how far each counts.
const HELPERS: u64 = 3;
const COUNTS: u32 = 200;
static COUNTED: AtomicU32 = AtomicU32::new(0);

pub(super) fn run(tally: &mut Tally) {
    let Some(edu) = Edu::find() else {
        return tally.case(format_args!("guarded: the device"), Err("is not there"));
    };
    mapping::begin(STREAM);
    mapping::set(STREAM, BUFFER_IOVA, Some((BUFFER.address(), Rights::ReadWrite)));
    for (name, rights) in [("read", Rights::Read), ("written", Rights::ReadWrite)] {
        fill(rights as u64);
        map(Some(rights));
        for form in FORMS {
            tally.case(format_args!("copies {name}: {}", form.name), everywhere(form));
        }
        for (page, iovas) in IOVAS.into_iter().enumerate() {
            for iova in iovas {
                tally.case(
                    format_args!("copies {name}: the device sees all at IOVA page {iova:#x}"),
                    device_sees(&edu, page as u64 + 1, iova),
                );
            }
        }
        if rights == Rights::ReadWrite {
            for iova in IOVAS[0] {
                tally.case(
                    format_args!(
                        "a CPU sees at once what the device writes at IOVA page {iova:#x}"
                    ),
                    cpu_sees(&edu, iova),
                );
            }
            for form in FORMS {
                tally.case(format_args!("after the device wrote: {}", form.name), everywhere(form));
            }
        }
        tally.case(format_args!("copies {name}: with PAN set"), with_pan());
        tally.case(format_args!("copies {name}: four CPUs count"), count());
        tally.case(format_args!("copies {name}: a walk"), walk());
        tally.case(format_args!("copies {name}: a fetch"), fetch());
        map(None);
        tally.case(format_args!("copies {name}: the pages are home"), same(0, 4 * PAGE));
    }
    mapping::end(STREAM);
}

fn map(rights: Option<Rights>) {
    for (page, iovas) in IOVAS.into_iter().enumerate() {
        let address = GUARDED.address() + (page as u64 + 1) * PAGE;
        for iova in iovas {
            mapping::set(STREAM, iova, rights.map(|rights| (address, rights)));
        }
    }
}

/// Both rows get the same bytes, no two words alike.
fn fill(seed: u64) {
    for word in 0..GUARDED.words() {
        let value = (word as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed << 32;
        GUARDED.set_word(word, value);
        PLAIN.set_word(word, value);
    }
}

/// Runs a form inside each page and across each edge.
fn everywhere(form: &Form) -> Result<(), &'static str> {
    for base in [PAGE, 2 * PAGE, 2 * PAGE + 0x800] {
        once(form, base + 0x140)?;
        if form.is_any_address {
            once(form, base + 0x2c3)?;
        }
    }
    if form.is_any_address {
        for edge in [PAGE, 2 * PAGE, 3 * PAGE] {
            for before in [1, 4, 8, 12, 16, 33] {
                once(form, edge - before)?;
            }
            once(form, edge)?;
        }
    }
    Ok(())
}

fn once(form: &Form, offset: u64) -> Result<(), &'static str> {
    let word = PLAIN.word(offset as usize / 8);
    let start = |base| Registers {
        vectors: core::array::from_fn(|index| {
            [0x1111_2222_3333_4444 * (index as u64 + 1), !(index as u64)]
        }),
        general: [0x8765_4321_0fed_cba9, word, 16, 0x5555],
        base,
    };
    let mut plain = start(PLAIN.address() + offset);
    (form.run)(&mut plain);
    let mut guarded = start(GUARDED.address() + offset);
    (form.run)(&mut guarded);
    guarded.base = guarded.base.wrapping_sub(GUARDED.address()).wrapping_add(PLAIN.address());
    if guarded != plain {
        return Err("registers differ");
    }
    same(offset.saturating_sub(128) & !7, 256)
}

/// Whether both rows hold the same from `offset` on.
fn same(offset: u64, bytes: u64) -> Result<(), &'static str> {
    let words = offset as usize / 8..((offset + bytes) as usize / 8).min(PLAIN.words());
    for word in words {
        if GUARDED.word(word) != PLAIN.word(word) {
            return Err("bytes differ");
        }
    }
    Ok(())
}

/// The device copies the page at `iova` to the buffer: it must be as the plain page.
fn device_sees(edu: &Edu, page: u64, iova: usize) -> Result<(), &'static str> {
    for half in 0..PAGE / MAX_BYTES {
        let offset = half * MAX_BYTES;
        edu.take((iova as u64) * PAGE + offset, MAX_BYTES)?;
        edu.put(BUFFER_IOVA as u64 * PAGE + offset, MAX_BYTES)?;
    }
    let first = (page * PAGE / 8) as usize;
    let is_same = (0..BUFFER.words()).all(|word| BUFFER.word(word) == PLAIN.word(first + word));
    is_same.then_some(()).ok_or("the device sees other bytes")
}

/// The device writes the second half of the first trapped page, while this CPU writes and reads the
/// first half.
fn cpu_sees(edu: &Edu, iova: usize) -> Result<(), &'static str> {
    let half = (MAX_BYTES / 8) as usize;
    let first = (PAGE / 8) as usize;
    for word in 0..half {
        let value = (iova as u64) << 48 | 0xdead_0000_0000 | word as u64;
        BUFFER.set_word(word, value);
        PLAIN.set_word(first + half + word, value);
    }
    edu.take(BUFFER_IOVA as u64 * PAGE, MAX_BYTES)?;
    edu.begin_put(iova as u64 * PAGE + MAX_BYTES, MAX_BYTES);
    for round in 0..64 {
        let word = first + round;
        let value = PLAIN.word(word).rotate_left(7);
        PLAIN.set_word(word, value);
        GUARDED.set_word(word, value);
        if GUARDED.word(word) != value {
            return Err("a store beside the device's write is lost");
        }
    }
    edu.wait()?;
    same(PAGE, PAGE)
}

/// Loads and stores with `PSTATE.PAN` set, which forbids EL0's pages only, and forms of two pages
/// among them.
fn with_pan() -> Result<(), &'static str> {
    // SAFETY: nothing here touches a page of EL0's.
    unsafe { asm!(".arch_extension pan", "msr pan, #1", options(nostack)) };
    let result = FORMS.iter().step_by(7).try_for_each(everywhere);
    // SAFETY: as it was.
    unsafe { asm!(".arch_extension pan", "msr pan, #0", options(nostack)) };
    result
}

/// Four CPUs add to one word, some with atomics, some with exclusives. None may be lost, and none
/// may starve.
fn count() -> Result<(), &'static str> {
    let word = (PAGE + 0x400) as usize / 8;
    let expected = PLAIN.word(word).wrapping_add((HELPERS + 1) * u64::from(COUNTS));
    COUNTED.store(0, Ordering::SeqCst);
    calls::TASK.store(calls::COUNT, Ordering::SeqCst);
    let started = (1..=HELPERS).filter(|cpu| calls::start(*cpu).is_ok()).count() as u64;
    add(0);
    let ended = (1..=HELPERS).all(|cpu| calls::wait_until_off(cpu).is_ok());
    if started != HELPERS || !ended || u64::from(COUNTED.load(Ordering::SeqCst)) != HELPERS {
        return Err("a CPU did not come back");
    }
    PLAIN.set_word(word, expected);
    (GUARDED.word(word) == expected).then_some(()).ok_or("counts are lost")
}

/// Another CPU's part.
pub(super) fn join(number: u64) {
    add(number);
    COUNTED.fetch_add(1, Ordering::SeqCst);
}

fn add(number: u64) {
    increment(GUARDED.address() + PAGE + 0x400, COUNTS, number & 1 == 0);
}

/// The second trapped page becomes a first-level table of TTBR1's half, in which the first GiB of
/// RAM is mapped.
fn walk() -> Result<(), &'static str> {
    let entry = (2 * PAGE / 8) as usize + 1;
    // A block at 1 GiB: valid, AF, inner shareable memory, as in `start`.
    let block = 0x4000_0000 | 1 | 1 << 10 | 3 << 8;
    GUARDED.set_word(entry, block);
    PLAIN.set_word(entry, block);
    let table = GUARDED.address() + 2 * PAGE;
    let address = UPPER + PLAIN.address();
    let mut found = 0_u64;
    let exception = attempt(|| {
        // SAFETY: nothing of this guest lives in TTBR1's half; the address is that of a plain page
        // there.
        unsafe {
            asm!("msr ttbr1_el1, {}", "isb", "tlbi vmalle1", "dsb nsh", "isb", in(reg) table, options(nostack))
        };
        // SAFETY: the same.
        found = unsafe { (address as *const u64).read_volatile() };
    });
    match exception {
        Some(_) => Err("an exception"),
        None if found == PLAIN.word(0) => Ok(()),
        None => Err("it led elsewhere"),
    }
}

/// The first trapped page gets a function.
fn fetch() -> Result<(), &'static str> {
    let word = (PAGE / 8) as usize;
    // mov x0, #42; ret
    let function = 0xd65f_03c0_d280_0540;
    GUARDED.set_word(word, function);
    PLAIN.set_word(word, function);
    call(GUARDED.address() + PAGE)
}

/// Calls the function at `at`, which gives 42.
pub(super) fn call(at: u64) -> Result<(), &'static str> {
    let mut result = 0_u64;
    let exception = attempt(|| {
        // SAFETY: the two instructions above, after the maintenance that new instructions need.
        unsafe {
            asm!("dsb ish", "ic ialluis", "dsb ish", "isb", "blr {}", in(reg) at, lateout("x0") result,
                clobber_abi("C"), options(nostack))
        };
    });
    match exception {
        Some(_) => Err("an exception"),
        None if result == 42 => Ok(()),
        None => Err("something else ran"),
    }
}
