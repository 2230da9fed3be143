//! Every form of load and store on trapped pages: registers and bytes must be as on other memory,
//! and a device must see each byte at once.
//!
//! Of four pages in a row the two in the middle are trapped; four pages like them are not mapped
//! for any device. Each form runs on both rows, inside a page and across each edge, and both must
//! be equal afterwards. A device reads every copy through its own IOVA, and writes through one.

use core::arch::asm;

use oche_guest_common::entry::MEMORY;
use oche_guest_common::exception::attempt;
use oche_guest_common::{CaseReport, Check, PAGE_BYTES as PAGE, Pages, check};

use super::code::{self, call_new};
use super::cpus::{HELPERS, with_helpers};
use super::edu::{Edu, MAX_BYTES, STREAM};
use super::forms::{FORMS, Form, FormRegisters, increment};
use super::mapping::{self, Rights};
use super::stage1::{UPPER, set_upper};

static TRAPPED: Pages<4> = Pages::new();
static PLAIN: Pages<4> = Pages::new();
/// The device's own buffer.
static BUFFER: Pages<1> = Pages::new();
/// IOVA pages of each trapped page, those of a page in different slots.
const IOVAS: [[usize; 2]; 2] = [[0x11, 0x16], [0x18, 0x1f]];
const BUFFER_IOVA: usize = 0x22;
/// Increments by each CPU.
const COUNTS: u32 = 200;

pub(super) fn run(report: &mut CaseReport) {
    let Some(edu) = Edu::find() else {
        return report.case(format_args!("trapped pages: the device"), Err("is not there"));
    };
    mapping::begin(STREAM);
    mapping::set(STREAM, BUFFER_IOVA, Some((BUFFER.address(), Rights::ReadWrite)));
    for (name, rights) in [("read", Rights::Read), ("written", Rights::ReadWrite)] {
        fill(rights as u64);
        map(Some(rights));
        for form in FORMS {
            report.case(format_args!("copies {name}: {}", form.name), everywhere(form));
        }
        for (page, iova) in (1..).zip(IOVAS).flat_map(|(page, all)| all.map(|iova| (page, iova))) {
            report.case(
                format_args!("copies {name}: the device sees all at IOVA page {iova:#x}"),
                device_sees(&edu, page, iova),
            );
        }
        if rights == Rights::ReadWrite {
            written_by_device(report, &edu);
        }
        report.case(format_args!("copies {name}: with PAN set"), with_pan());
        report.case(format_args!("copies {name}: four CPUs count"), count());
        report.case(format_args!("copies {name}: a walk"), walk());
        report.case(format_args!("copies {name}: a fetch"), fetch());
        map(None);
        report.case(format_args!("copies {name}: the pages are home"), same(0, 4 * PAGE));
    }
    mapping::end(STREAM);
}

fn written_by_device(report: &mut CaseReport, edu: &Edu) {
    for iova in IOVAS[0] {
        report.case(
            format_args!("a CPU sees at once what the device writes at IOVA page {iova:#x}"),
            cpu_sees(edu, iova),
        );
    }
    for form in FORMS {
        report.case(format_args!("after the device wrote: {}", form.name), everywhere(form));
    }
}

fn map(rights: Option<Rights>) {
    for (page, iovas) in IOVAS.into_iter().enumerate() {
        let address = TRAPPED.address() + (page as u64 + 1) * PAGE;
        for iova in iovas {
            mapping::set(STREAM, iova, rights.map(|rights| (address, rights)));
        }
    }
}

/// Both rows get the same bytes, no two words alike.
fn fill(seed: u64) {
    for word in 0..TRAPPED.words() {
        let value = (word as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed << 32;
        TRAPPED.set_word(word, value);
        PLAIN.set_word(word, value);
    }
}

/// Runs a form inside each page and across each edge.
fn everywhere(form: &Form) -> Check {
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

fn once(form: &Form, offset: u64) -> Check {
    let word = PLAIN.word(offset as usize / 8);
    let start = |base| FormRegisters {
        vectors: core::array::from_fn(|index| {
            [0x1111_2222_3333_4444 * (index as u64 + 1), !(index as u64)]
        }),
        general: [0x8765_4321_0fed_cba9, word, 16, 0x5555],
        base,
    };
    let mut plain = start(PLAIN.address() + offset);
    (form.run)(&mut plain);
    let mut trapped = start(TRAPPED.address() + offset);
    (form.run)(&mut trapped);
    trapped.base = trapped.base.wrapping_sub(TRAPPED.address()).wrapping_add(PLAIN.address());
    if trapped != plain {
        return Err("registers differ");
    }
    same(offset.saturating_sub(128) & !7, 256)
}

/// Whether both rows hold the same from `offset` on.
fn same(offset: u64, bytes: u64) -> Check {
    let words = offset as usize / 8..((offset + bytes) as usize / 8).min(PLAIN.words());
    for word in words {
        if TRAPPED.word(word) != PLAIN.word(word) {
            return Err("bytes differ");
        }
    }
    Ok(())
}

/// The device copies the page at `iova` to the buffer: it must be as the plain page.
fn device_sees(edu: &Edu, page: u64, iova: usize) -> Check {
    for half in 0..PAGE / MAX_BYTES {
        let offset = half * MAX_BYTES;
        edu.take((iova as u64) * PAGE + offset, MAX_BYTES)?;
        edu.put(BUFFER_IOVA as u64 * PAGE + offset, MAX_BYTES)?;
    }
    let first = (page * PAGE / 8) as usize;
    let is_same = (0..BUFFER.words()).all(|word| BUFFER.word(word) == PLAIN.word(first + word));
    check(is_same, "the device sees other bytes")
}

/// The device writes the second half of the first trapped page, while this CPU writes and reads the
/// first half.
fn cpu_sees(edu: &Edu, iova: usize) -> Check {
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
        TRAPPED.set_word(word, value);
        if TRAPPED.word(word) != value {
            return Err("a store beside the device's write is lost");
        }
    }
    edu.wait()?;
    same(PAGE, PAGE)
}

/// Loads and stores with `PSTATE.PAN` set, which forbids EL0's pages only, and forms of two pages
/// among them.
fn with_pan() -> Check {
    // SAFETY: nothing here touches a page of EL0's.
    unsafe { asm!(".arch_extension pan", "msr pan, #1", options(nostack)) };
    let result = FORMS.iter().step_by(7).try_for_each(everywhere);
    // SAFETY: as it was.
    unsafe { asm!(".arch_extension pan", "msr pan, #0", options(nostack)) };
    result
}

/// Four CPUs add to one word, some with atomics, some with exclusives. No increment may be lost,
/// and every CPU must finish.
fn count() -> Check {
    let word = (PAGE + 0x400) as usize / 8;
    let expected = PLAIN.word(word).wrapping_add((HELPERS + 1) * u64::from(COUNTS));
    with_helpers(add, || {
        add(0);
        Ok(())
    })?;
    PLAIN.set_word(word, expected);
    check(TRAPPED.word(word) == expected, "counts are lost")
}

fn add(number: u64) {
    increment(TRAPPED.address() + PAGE + 0x400, COUNTS, number & 1 == 0);
}

/// The second trapped page becomes a first-level table of TTBR1's half, in which the first GiB of
/// RAM is mapped.
fn walk() -> Check {
    let entry = (2 * PAGE / 8) as usize + 1;
    let block = 0x4000_0000 | MEMORY;
    TRAPPED.set_word(entry, block);
    PLAIN.set_word(entry, block);
    let address = UPPER + PLAIN.address();
    let mut found = 0_u64;
    let exception = attempt(|| {
        set_upper(TRAPPED.address() + 2 * PAGE);
        // SAFETY: the address of a plain page in TTBR1's half.
        found = unsafe { (address as *const u64).read_volatile() };
    });
    check(exception.is_none(), "an exception")?;
    check(found == PLAIN.word(0), "it translates to another page")
}

/// The first trapped page gets a function.
fn fetch() -> Check {
    let word = (PAGE / 8) as usize;
    TRAPPED.set_word(word, code::FUNCTION);
    PLAIN.set_word(word, code::FUNCTION);
    call_new(TRAPPED.address() + PAGE)
}
