//! Cache maintenance by address.
//!
//! On the M1 firmware sets HID4's "disable DC by MVA", so these may do nothing there; the fabric is coherent
//! and m1n1 cleans by set/way before it hands over (facts of m1n1 `src/chickens.c`, `src/memory.c`).

use core::arch::asm;

use crate::bare::registers::CtrEl0;
use crate::range::PhysRange;

/// Cleans and invalidates the data caches over `range` to the point of coherency, and waits.
///
/// # Order
///
/// Stores before are in memory on return, also for observers with their caches off.
pub fn clean_and_invalidate(range: PhysRange) {
    for_each_line(range, data_line_bytes(), |line| {
        // SAFETY: the address is mapped (callers pass memory that EL2 maps), and the operation keeps data.
        unsafe { asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags)) };
    });
    // SAFETY: a barrier changes nothing. SY: observers outside the inner shareable domain too.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Makes instructions that were written as data to `range` visible to the fetches of every CPU.
///
/// Source: Arm ARM DDI 0487, "Synchronization and coherency issues between data and instruction accesses":
/// DC CVAU, DSB, IC, DSB. All of the instruction cache, because the guest fetches by other addresses.
pub fn synchronize_instructions(range: PhysRange) {
    for_each_line(range, data_line_bytes(), |line| {
        // SAFETY: as for `clean_and_invalidate`.
        unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack, preserves_flags)) };
    });
    // SAFETY: drops instruction cache lines of all CPUs, which are fetched again; barriers around it.
    unsafe { asm!("dsb ish", "ic ialluis", "dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// `CTR_EL0.DminLine`: log2 of the words in the smallest data cache line.
fn data_line_bytes() -> u64 {
    4 << (CtrEl0.read() >> 16 & 0xf)
}

fn for_each_line(range: PhysRange, line_bytes: u64, mut act: impl FnMut(u64)) {
    let mut line = range.start & !(line_bytes - 1);
    while line < range.end {
        act(line);
        line += line_bytes;
    }
}
