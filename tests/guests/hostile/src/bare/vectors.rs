//! The vector registers while Oche compares, copies and fills pages: they are the guest's.

use core::arch::asm;

use oche_guest_common::{CaseReport, Check, check};

use super::copied_page::{self, DATA};
use super::edu::STREAM;
use super::mapping::{self, Rights};

/// Words of the 32 registers of 128 bits.
const WORDS: usize = 64;

pub(super) fn run(report: &mut CaseReport) {
    mapping::begin(STREAM);
    report.case(format_args!("vector registers: a page migrates and goes home"), survive(migrate));
    report.case(format_args!("vector registers: a page with copies"), survive(copy));
    mapping::end(STREAM);
}

fn migrate() {
    mapping::set(STREAM, 0x21, Some((DATA.address(), Rights::ReadWrite)));
    mapping::set(STREAM, 0x21, None);
}

fn copy() {
    copied_page::map(Some(Rights::ReadWrite));
    DATA.set_word(7, DATA.word(8) + 1);
    copied_page::map(None);
}

/// Whether all bits of all vector registers stay as they are while Oche does `work`. Compiled code
/// of this guest uses none of them.
fn survive(work: fn()) -> Check {
    let before: [u64; WORDS] =
        core::array::from_fn(|word| 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(word as u64 + 1));
    let mut after = [0; WORDS];
    // SAFETY: loads all vector registers, which nothing else uses.
    unsafe {
        asm!(
            ".arch_extension simd",
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, \
                     21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
            "ldr q\\n, [{at}], #16",
            ".endr",
            ".arch_extension nosimd",
            at = inout(reg) before.as_ptr() => _,
            options(nostack, readonly)
        );
    }
    work();
    // SAFETY: stores all vector registers into an array of this function.
    unsafe {
        asm!(
            ".arch_extension simd",
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, \
                     21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
            "str q\\n, [{at}], #16",
            ".endr",
            ".arch_extension nosimd",
            at = inout(reg) after.as_mut_ptr() => _,
            options(nostack)
        );
    }
    check(before == after, "a vector register has changed")
}
