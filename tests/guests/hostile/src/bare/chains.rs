//! Chains of frame records that lie: Oche follows X29 at each flush by code in the half of the
//! address space that kernels have, and X29 and what it leads to are this guest's.
//!
//! Oche must go on, must not read what is no memory of this guest's, and must leave `PAR_EL1` as
//! it was. Reads of a device that nothing answers would end it.

use core::arch::asm;

use oche_guest_common::exception::attempt;
use oche_guest_common::{CaseReport, Check, PAGE_BYTES, Pages, Random, check};

use super::board::{DART, Hidden, SMMU, UART};
use super::cpus::{is_over, with_helpers};
use super::edu::STREAM;
use super::mapping::{self, COMMAND, INVALIDATE, Rights};
use super::stage1::{UPPER, set_upper};

/// Among the devices, and no device answers there.
const NOTHING: u64 = 0x0b00_0000;
/// IOVA pages in different granules.
const IOVAS: [usize; 2] = [0x11, 0x16];
/// Flushes while other CPUs change the records.
const ROUNDS: u32 = 500;
/// A value of `PAR_EL1` that no translation gives.
const PAR: u64 = 0x0123_4567_89ab_cdef;

static STACK: Pages<4> = Pages::new();

pub(super) fn run(report: &mut CaseReport, hidden: Hidden) {
    let table: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, ttbr0_el1", out(reg) table, options(nomem, nostack)) };
    set_upper(table);
    mapping::begin(STREAM);
    let stack = UPPER + STACK.address();
    for place in [0, 1, 8, u64::MAX, UPPER - 16, UPPER | 7 << 36, stack + 8, stack + PAGE_BYTES - 8]
    {
        report.case(format_args!("callers from X29 = {place:#x}"), follows(place));
    }
    let devices = [UART, DART, SMMU, NOTHING].into_iter();
    for place in devices.chain(hidden.iter()) {
        report.case(format_args!("callers at {place:#x}"), follows(UPPER + place));
        STACK.set_word(0, UPPER + place);
        STACK.set_word(1, stack);
        report.case(format_args!("callers that lead to {place:#x}"), follows(stack));
    }
    circles(report, stack);
    copies(report, stack);
    report.case(format_args!("callers that other CPUs change"), races(stack));
    mapping::end(STREAM);
}

/// Records that lead to themselves, and from page to page.
fn circles(report: &mut CaseReport, stack: u64) {
    let words = PAGE_BYTES as usize / 8;
    for pages in 1..=4 {
        for page in 0..pages {
            STACK.set_word(page * words, stack + ((page + 1) % pages) as u64 * PAGE_BYTES);
            STACK.set_word(page * words + 1, stack + page as u64);
        }
        report.case(format_args!("callers in a circle of {pages} pages"), follows(stack));
    }
}

/// Records on a page that has moved, and on one with two copies, which no CPU may read.
fn copies(report: &mut CaseReport, stack: u64) {
    for (count, name) in [(1, "moved"), (2, "trapped")] {
        for iova in IOVAS.into_iter().take(count) {
            mapping::set(STREAM, iova, Some((STACK.address(), Rights::ReadWrite)));
        }
        report.case(format_args!("callers on a page that is {name}"), follows(stack));
        for iova in IOVAS.into_iter().take(count) {
            mapping::set(STREAM, iova, None);
        }
    }
}

/// Others store records at random, while this CPU flushes.
fn races(stack: u64) -> Check {
    with_helpers(scribble, || {
        for _ in 0..ROUNDS {
            follows(stack)?;
        }
        Ok(())
    })
}

fn scribble(number: u64) {
    let mut random = Random(number);
    while !is_over() {
        let word = (random.next() % 4) as usize * 512;
        let page = random.next() % 4 * PAGE_BYTES;
        let to = match random.next() % 4 {
            0 => UPPER + NOTHING,
            1 => random.next(),
            _ => UPPER + STACK.address() + page,
        };
        STACK.set_word(word, to);
        STACK.set_word(word + 1, random.next());
    }
}

/// Flushes with X29 = `frame`, by an instruction in TTBR1's half.
fn follows(frame: u64) -> Check {
    let mut par = 0_u64;
    let exception = attempt(|| par = flush_from_above(frame));
    while mapping::is_busy() {}
    check(exception.is_none(), "an exception")?;
    check(par == PAR, "PAR_EL1 has changed")
}

/// Invalidates [`STREAM`], and gives `PAR_EL1` then.
fn flush_from_above(frame: u64) -> u64 {
    let mut par = PAR;
    mapping::select(STREAM);
    // SAFETY: the code goes on at the same bytes in the other half, and comes back; X29 is put
    // back, and the register is the DART's.
    unsafe {
        asm!(
            "str x29, [sp, #-16]!",
            "adr x9, 2f",
            "orr x9, x9, #{upper}",
            "msr par_el1, {par}",
            "mov x29, {frame}",
            "br x9",
            "2:",
            "str {command:w}, [{register}]",
            "adr x9, 3f",
            "and x9, x9, #{lower}",
            "br x9",
            "3:",
            "mrs {par}, par_el1",
            "ldr x29, [sp], #16",
            upper = const UPPER,
            lower = const !UPPER,
            command = in(reg) INVALIDATE,
            register = in(reg) DART + COMMAND,
            frame = in(reg) frame,
            par = inout(reg) par,
            out("x9") _,
        );
    }
    par
}
