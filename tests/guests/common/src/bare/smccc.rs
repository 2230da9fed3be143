//! Calls to the exception levels above by `SMC` and `HVC`. Source: Arm DEN 0028 (SMCCC) and Arm
//! DEN 0022 (PSCI).

use core::arch::asm;

/// `PSCI_VERSION`.
pub const PSCI_VERSION: u64 = 0x8400_0000;
/// `CPU_OFF`.
pub const CPU_OFF: u64 = 0x8400_0002;
/// `CPU_ON` with 64-bit arguments.
pub const CPU_ON: u64 = 0xc400_0003;
/// `AFFINITY_INFO` with 64-bit arguments.
pub const AFFINITY_INFO: u64 = 0xc400_0004;
/// `SYSTEM_OFF`.
pub const SYSTEM_OFF: u64 = 0x8400_0008;
/// The first function of the vendor's hypervisor service.
pub const HYPERVISOR_SERVICE: u64 = 0x8600_0000;
/// The functions by which an Oche that was built with `panic-on-request` panics.
pub const PANIC_ON_REQUEST: u64 = HYPERVISOR_SERVICE + 0xf000;

macro_rules! call {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        pub fn $name(arguments: [u64; 4]) -> i64 {
            let [mut x0, x1, x2, x3] = arguments;
            // SAFETY: the calls that are answered keep x18 to x30 and memory (Arm DEN 0028).
            unsafe {
                asm!($instruction,
                    inout("x0") x0, inout("x1") x1 => _, inout("x2") x2 => _, inout("x3") x3 => _,
                    out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
                    out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _,
                    out("x16") _, out("x17") _, options(nostack))
            };
            x0 as i64
        }
    };
}

call!(
    /// `SMC #0` with x0 to x3; returns x0.
    smc, "smc #0"
);
call!(
    /// `HVC #0` with x0 to x3; returns x0.
    hvc, "hvc #0"
);

/// Calls `SYSTEM_OFF`, and waits for ever where nothing turns the machine off.
pub fn power_off() -> ! {
    smc([SYSTEM_OFF, 0, 0, 0]);
    halt()
}

/// Waits for ever.
pub fn halt() -> ! {
    loop {
        core::hint::spin_loop();
    }
}
