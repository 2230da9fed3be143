//! Cache maintenance by address.
//!
//! On the M1 firmware sets HID4's "disable DC by MVA", so these may do nothing there; the fabric is
//! coherent and m1n1 cleans by set/way before it hands over (facts of m1n1 `src/chickens.c`,
//! `src/memory.c`).
#![expect(unsafe_code, reason = "cache maintenance")]

use core::arch::asm;

use oche_types::range::PhysRange;

use crate::stage2::Hardware as _;
use crate::stage2::maintenance::Maintenance as _;
use crate::tlb::Cpus;

/// Cleans and invalidates the data caches over `range` to the point of coherency, and waits.
///
/// # Order
///
/// Stores before are in memory on return, also for observers with their caches off.
pub fn clean_and_invalidate(range: PhysRange) {
    for_each_line(range, Cpus.data_line_bytes(), |line| {
        // SAFETY: the address is mapped (callers pass memory that EL2 maps), and the operation
        // keeps data.
        unsafe { asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags)) };
    });
    // SAFETY: a barrier changes nothing. SY: observers outside the inner shareable domain too.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Makes instructions that were written as data to `range` visible to the fetches of every CPU.
pub fn synchronize_instructions(range: PhysRange) {
    Cpus.synchronize_instructions(range);
}

fn for_each_line(range: PhysRange, line_bytes: u64, mut act: impl FnMut(u64)) {
    let mut line = range.start & !(line_bytes - 1);
    while line < range.end {
        act(line);
        line += line_bytes;
    }
}
