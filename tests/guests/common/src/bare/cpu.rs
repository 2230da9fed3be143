//! Which CPU this is, and at what exception level.

use core::arch::asm;

/// Most CPUs: as many as there are stacks.
pub const MAX_CPUS: usize = 16;

/// `MPIDR_EL1`.
#[must_use]
pub fn affinity() -> u64 {
    let affinity: u64;
    // SAFETY: reads a register.
    unsafe {
        asm!("mrs {}, mpidr_el1", out(reg) affinity, options(nomem, nostack, preserves_flags))
    };
    affinity
}

/// QEMU's number of this CPU.
#[must_use]
pub fn index() -> usize {
    affinity() as usize & 0xff
}

/// This CPU's exception level.
#[must_use]
pub fn exception_level() -> u64 {
    let level: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, CurrentEL", out(reg) level, options(nomem, nostack)) };
    level >> 2
}
