//! What only Apple's CPUs have: implementation-defined registers, touched where `MIDR_EL1` says Apple and nowhere else.

use crate::bare::registers::{MidrEl1, VmTimerFiqEnableEl2};

/// `MIDR_EL1.Implementer` of Apple.
const IMPLEMENTER: u64 = 0x61;
/// The guest's virtual (bit 0) and physical (bit 1) timers may raise FIQs. Source: m1n1 `src/cpu_regs.h`.
const BOTH_TIMERS: u64 = 3;

/// Whether this CPU is Apple's.
pub fn is_apple() -> bool {
    MidrEl1.read() >> 24 & 0xff == IMPLEMENTER
}

/// Lets the guest's timers reach it on this CPU.
///
/// Assumed, as no source shows it: with `HCR_EL2.FMO` = 0 the FIQ then goes straight to EL1. Without this
/// register set a kernel gets no ticks and hangs where it calibrates its delay.
pub fn configure() {
    if is_apple() {
        VmTimerFiqEnableEl2.write(BOTH_TIMERS);
    }
}
