//! Code that CPUs make while they run.

use core::arch::asm;

use oche_guest_common::exception::attempt;
use oche_guest_common::{Check, check};

/// A function that returns [`RESULT`]: `mov x0, #42; ret`.
pub(super) const FUNCTION: u64 = 0xd65f_03c0_d280_0540;
const RESULT: u64 = 42;

/// Calls the function at `address`, which this CPU has stored, after the cache maintenance that new
/// instructions need.
pub(super) fn call_new(address: u64) -> Check {
    // SAFETY: keeps data; dropped instructions are fetched again.
    unsafe { asm!("dsb ish", "ic ialluis", "dsb ish", options(nostack)) };
    call(address)
}

/// Calls the function at `address`.
pub(super) fn call(address: u64) -> Check {
    let mut result = 0_u64;
    let exception = attempt(|| {
        // SAFETY: `FUNCTION` is stored there.
        unsafe {
            asm!("isb", "blr {}", in(reg) address, lateout("x0") result, clobber_abi("C"),
                options(nostack))
        };
    });
    check(exception.is_none(), "an exception")?;
    check(result == RESULT, "something else ran")
}

/// Makes instructions that were stored in the page at `address` visible to all fetches.
pub(super) fn synchronize_page(address: u64) {
    for line in (address..address + 4096).step_by(64) {
        // SAFETY: keeps data.
        unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack)) };
    }
    // SAFETY: dropped instructions are fetched again.
    unsafe { asm!("dsb ish", "ic ialluis", "dsb ish", "isb", options(nostack)) };
}

/// Makes the instruction that was stored at `address` visible to all fetches.
pub(super) fn synchronize_word(address: u64) {
    // SAFETY: as above.
    unsafe {
        asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", "dsb ish", "isb", in(reg) address,
            options(nostack))
    };
}
