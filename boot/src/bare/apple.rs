//! What only Apple's CPUs have: implementation-defined registers, touched where `MIDR_EL1` says Apple and nowhere else.

use crate::bare::registers::{Ehid4El1, Hid4El1, MidrEl1, VmTimerFiqEnableEl2};

/// `MIDR_EL1.Implementer` of Apple.
const IMPLEMENTER: u64 = 0x61;
/// `MIDR_EL1.PartNum` of the M1's cores. Source: Linux `arch/arm64/include/asm/cputype.h`.
const E_CORE: u64 = 0x22;
const P_CORE: u64 = 0x23;
/// The guest's virtual (bit 0) and physical (bit 1) timers may raise FIQs. Source: m1n1 `src/cpu_regs.h`.
const BOTH_TIMERS: u64 = 3;

/// Whether this CPU is Apple's.
pub fn is_apple() -> bool {
    MidrEl1.read() >> 24 & 0xff == IMPLEMENTER
}

/// What Apple's own registers say.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// `HID4_EL1`, or `EHID4_EL1` on an E core.
    pub cache_control: u64,
    /// `VM_TMR_FIQ_ENA_EL2`.
    pub timer_fiq: u64,
}

/// Reads Apple's own registers, where there are any. Of its CPUs only the M1's two are known.
pub fn look() -> Option<Found> {
    let cache_control = match (is_apple(), MidrEl1.read() >> 4 & 0xfff) {
        (true, E_CORE) => Ehid4El1.read(),
        (true, P_CORE) => Hid4El1.read(),
        _ => return None,
    };
    Some(Found { cache_control, timer_fiq: VmTimerFiqEnableEl2.read() })
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
