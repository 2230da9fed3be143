//! FIQ sources of Apple's CPUs: the guest's timers, IPIs, and performance counters.
#![expect(unsafe_code, reason = "registers that only Apple's CPUs have")]

use core::arch::asm;

use crate::fiq::{PendingFiqs, Timers};
use crate::registers::{
    HacrEl2, IpiSrEl1, Pmcr0El1, Upmcr0El1, UpmsrEl1, VmTimerFiqEnableEl2, synchronize_context,
};
use crate::syndrome::register_number;

/// The guest's virtual and physical timers may raise FIQs. Source: m1n1 `src/cpu_regs.h`.
const VIRTUAL_TIMER: u64 = 1 << 0;
const PHYSICAL_TIMER: u64 = 1 << 1;
/// `HACR_EL2`: accesses to the registers of IPIs trap, and those to the PMU's. Source: m1n1
/// `sysreg.py`.
const HACR_TRAP_CALLS: u64 = 1 << 16;
const HACR_TRAP_PMU: u64 = 1 << 57;
/// `IPI_SR_EL1`: an IPI is pending; write one to acknowledge. Source: m1n1 `src/cpu_regs.h`.
const IPI_PENDING: u64 = 1 << 0;
/// `UPMCR0_EL1`: what an overflow of the cluster's counters raises, 4 for a FIQ; `UPMSR_EL1`: one
/// is raised. Source: the same.
const UPMCR0_MODE: u64 = 7 << 16;
const UPMCR0_MODE_FIQ: u64 = 4 << 16;
const UPMSR_ACTIVE: u64 = 1 << 0;

/// Unmasks `timers` of the guest on this CPU and masks the others. Without these bits a kernel gets
/// no timer interrupts and hangs when it calibrates its delay loop.
///
/// Assumption, which no source confirms: with `HCR_EL2.FMO` = 0 the FIQ goes directly to EL1.
/// m1n1's hypervisor relies on its going to EL2 with FMO = 1, and on its being masked while its bit
/// is clear.
pub(super) fn open(timers: Timers) {
    let bit = |is_open: bool, bit: u64| if is_open { bit } else { 0 };
    VmTimerFiqEnableEl2.write(
        bit(timers.virtual_timer, VIRTUAL_TIMER) | bit(timers.physical_timer, PHYSICAL_TIMER),
    );
}

/// Traps the registers that EL2 must emulate: those of IPIs always, the PMU's while an overflow is
/// pending.
pub(super) fn trap(pending: &PendingFiqs) {
    HacrEl2.write(HACR_TRAP_CALLS | if pending.has_overflow() { HACR_TRAP_PMU } else { 0 });
}

/// Acknowledges IPIs and overflows in the hardware and records them as pending. Returns whether
/// there was any.
pub(super) fn take(pending: &mut PendingFiqs) -> bool {
    let mut took = false;
    if IpiSrEl1.read() & IPI_PENDING != 0 {
        // Acknowledge before recording: an IPI that arrives in between raises another FIQ.
        IpiSrEl1.write(IPI_PENDING);
        pending.ipi(0);
        took = true;
    }
    if let Some(quiet) = pending.take_overflow(Pmcr0El1.read()) {
        Pmcr0El1.write(quiet);
        took = true;
    }
    // No driver uses FIQs of the cluster's counters; Linux only masks them.
    let cluster = Upmcr0El1.read();
    if cluster & UPMCR0_MODE == UPMCR0_MODE_FIQ && UpmsrEl1.read() & UPMSR_ACTIVE != 0 {
        Upmcr0El1.write(cluster & !UPMCR0_MODE);
        took = true;
    }
    synchronize_context();
    took
}

const IPI_SR: u16 = register_number(3, 5, 15, 1, 1);
const PMCR0: u16 = register_number(3, 1, 15, 0, 0);

/// Handles the guest's access to a trapped register. Returns the value of a read (any value for a
/// write), or `None` if the register is not handled here.
pub(super) fn access(pending: &mut PendingFiqs, number: u16, write: Option<u64>) -> Option<u64> {
    Some(match (number, write) {
        (IPI_SR, None) => pending.first_ipi().map_or(0, |_| IPI_PENDING),
        (IPI_SR, Some(value)) => {
            if value & IPI_PENDING != 0 {
                pending.drop_ipi(0);
            }
            0
        }
        (PMCR0, None) => pending.pmcr0(Pmcr0El1.read()),
        (PMCR0, Some(value)) => {
            Pmcr0El1.write(pending.write_pmcr0(value));
            0
        }
        _ => return pass(number, write),
    })
}

macro_rules! passed {
    ($(($op1:literal, $crm:literal, $op2:literal))*) => {
        /// Carries out an access to a register that traps only because another one must.
        fn pass(number: u16, write: Option<u64>) -> Option<u64> {
            $(if number == register_number(3, $op1, 15, $crm, $op2) {
                let mut value = write.unwrap_or(0);
                if write.is_some() {
                    // SAFETY: the guest may write this register of Apple's, and does so without the
                    // trap. It affects IPIs or counters, not memory.
                    unsafe {
                        asm!(
                            concat!("msr S3_", $op1, "_C15_C", $crm, "_", $op2, ", {}"),
                            in(reg) value,
                            options(nostack, preserves_flags)
                        )
                    };
                } else {
                    // SAFETY: as above, read.
                    unsafe {
                        asm!(
                            concat!("mrs {}, S3_", $op1, "_C15_C", $crm, "_", $op2),
                            out(reg) value,
                            options(nostack, preserves_flags)
                        )
                    };
                }
                return Some(value);
            })*
            None
        }
    };
}

passed! {
    // IPI_RR_LOCAL, IPI_RR_GLOBAL, IPI_CR. Source: m1n1 `src/cpu_regs.h`.
    (5, 0, 0) (5, 0, 1) (5, 3, 1)
    // PMCR1 to PMCR4, PMESR0, PMESR1, PMSR, PMC0 to PMC9. Source: Linux
    // `arch/arm64/include/asm/apple_m1_pmu.h`.
    (1, 1, 0) (1, 2, 0) (1, 3, 0) (1, 4, 0) (1, 5, 0) (1, 6, 0) (1, 13, 0)
    (2, 0, 0) (2, 1, 0) (2, 2, 0) (2, 3, 0) (2, 4, 0) (2, 5, 0) (2, 6, 0) (2, 7, 0) (2, 9, 0)
    (2, 10, 0)
}
