//! Stage 1: guest-physical addresses one to one, the first GiB as a device, the next seven as
//! memory.
//!
//! A second mapping of the first GiB at [`DEVICES_AS_MEMORY`] is memory, where unaligned accesses,
//! `DC ZVA` and fetches reach stage 2 instead of failing before. Cases put tables of their own into
//! TTBR1.

use core::arch::asm;

use oche_guest_common::entry::{DEVICE, ENTRIES, MEMORY};

/// Where the first GiB is memory for stage 1.
pub(super) const DEVICES_AS_MEMORY: u64 = 0x40_0000_0000;
/// Where devices from 256 GiB on are, which a high ECAM is among.
pub(super) const HIGH_DEVICES: u64 = DEVICES_AS_MEMORY + (1 << 30);
/// The lowest address that TTBR1 translates.
pub(super) const UPPER: u64 = 0xffff_ff80_0000_0000;

/// The first level.
pub(super) const TABLE: [u64; ENTRIES] = {
    let mut entries = [0; ENTRIES];
    entries[0] = DEVICE;
    let mut gib = 1;
    while gib < 8 {
        entries[gib] = (gib as u64) << 30 | MEMORY;
        gib += 1;
    }
    entries[(DEVICES_AS_MEMORY >> 30) as usize] = MEMORY;
    entries[(HIGH_DEVICES >> 30) as usize] = 256 << 30 | DEVICE;
    entries
};

/// Makes `table` the first level of TTBR1's half, on this CPU.
pub(super) fn set_upper(table: u64) {
    // SAFETY: nothing of this guest itself lives in TTBR1's half.
    unsafe {
        asm!("dsb ishst", "msr ttbr1_el1, {}", "isb", "tlbi vmalle1", "dsb nsh", "isb",
            in(reg) table, options(nostack))
    };
}
