//! The watchdog, which is how a Mac resets itself. Armed only to reset at once, if a person asked
//! for it.
//!
//! Source: m1n1 `src/wdt.c`; Asahi documentation `hw/soc/wdt.md`; Linux
//! `drivers/watchdog/apple_wdt.c`.

use core::ptr;

use oche_types::range::PhysRange;

pub(super) const REGISTERS: PhysRange = PhysRange { start: 0x2_3d2b_0000, end: 0x2_3d2b_1000 };
/// Offsets of watchdog 1: count, the count at which it resets, control.
const COUNT: u64 = 0x10;
const ALARM: u64 = 0x14;
const CONTROL: u64 = 0x1c;
/// The time until the reset in ticks: about 40 ms at 24 MHz.
const ALARM_TICKS: u32 = 0x10_0000;
const RESET_ENABLE: u32 = 1 << 2;

/// Resets the machine some 40 ms from now.
pub(super) fn reset() {
    for (register, value) in [(ALARM, ALARM_TICKS), (COUNT, 0), (CONTROL, RESET_ENABLE)] {
        // SAFETY: `main` mapped the registers; they are 32 bits wide.
        unsafe { ptr::write_volatile((REGISTERS.start + register) as *mut u32, value) };
    }
}
