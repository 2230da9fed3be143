//! Implementation-defined registers of Apple's CPUs. They are accessed only if `MIDR_EL1` reports
//! Apple.

use aarch64_cpu::registers::{MIDR_EL1, Readable};
use oche_types::range::PhysRange;

use crate::registers::{
    CtrrALwrEl1, CtrrAUprEl1, CtrrCtlEl1, Ehid4El1, Hid4El1, L2cErrorAddress, L2cErrorInformation,
    L2cErrorStatus, VmTimerFiqEnableEl2,
};

/// `MIDR_EL1.Implementer` of Apple.
const IMPLEMENTER: u64 = 0x61;
/// `MIDR_EL1.PartNum` of the M1's cores. Source: Linux `arch/arm64/include/asm/cputype.h`.
const E_CORE: u64 = 0x22;
const P_CORE: u64 = 0x23;
/// Whether this CPU is Apple's.
pub fn is_apple() -> bool {
    MIDR_EL1.read(MIDR_EL1::Implementer) == IMPLEMENTER
}

/// The values of Apple's own registers.
#[derive(Clone, Copy, Debug)]
pub struct AppleRegisters {
    /// `HID4_EL1`, or `EHID4_EL1` on an E core.
    pub cache_control: u64,
    /// `VM_TMR_FIQ_ENA_EL2`.
    pub timer_fiq: u64,
    /// `CTRR_A_LWR_EL1` and `CTRR_A_UPR_EL1`: memory that no block descriptor may overlap; zeros if
    /// there is none.
    pub ctrr: PhysRange,
    /// `CTRR_CTL_EL1`.
    pub ctrr_control: u64,
}

/// Reads Apple's own registers. Returns `None` on any CPU except the M1's two kinds of cores.
pub fn read_registers() -> Option<AppleRegisters> {
    let cache_control = match (is_apple(), MIDR_EL1.read(MIDR_EL1::PartNum)) {
        (true, E_CORE) => Ehid4El1.read(),
        (true, P_CORE) => Hid4El1.read(),
        _ => return None,
    };
    Some(AppleRegisters {
        cache_control,
        timer_fiq: VmTimerFiqEnableEl2.read(),
        ctrr: PhysRange { start: CtrrALwrEl1.read(), end: CtrrAUprEl1.read() },
        ctrr_control: CtrrCtlEl1.read(),
    })
}

/// Reads and clears `L2C_ERR_STS`, `ADR` and `INF`, in which a bus error is recorded. Returns
/// `None` if this CPU has no such registers.
///
/// Assumption, which no source confirms: the error of an access by this CPU is in its own cluster's
/// registers when the exception is taken. Only the log depends on it.
pub fn take_bus_error() -> Option<[u64; 3]> {
    let is_known = is_apple() && matches!(MIDR_EL1.read(MIDR_EL1::PartNum), E_CORE | P_CORE);
    if !is_known {
        return None;
    }
    let registers = [L2cErrorStatus.read(), L2cErrorAddress.read(), L2cErrorInformation.read()];
    L2cErrorStatus.write(registers[0]);
    Some(registers)
}
