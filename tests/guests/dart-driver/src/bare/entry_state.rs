//! The state in which the booting contract has the first CPU enter the kernel.

use core::arch::asm;

use oche_guest_common::{Check, check, cpu};

/// This CPU is at EL1.
pub(super) fn level_is_one() -> Check {
    check(cpu::exception_level() == 1, "the CPU is at another exception level")
}

/// Both timers are disabled, although the stub leaves them enabled.
pub(super) fn timers_are_off() -> Check {
    let (physical, virtual_one): (u64, u64);
    // SAFETY: reads two registers.
    unsafe {
        asm!("mrs {}, cntp_ctl_el0", "mrs {}, cntv_ctl_el0", out(reg) physical, out(reg) virtual_one,
            options(nomem, nostack))
    };
    check((physical | virtual_one) & 1 == 0, "a timer is enabled")
}
