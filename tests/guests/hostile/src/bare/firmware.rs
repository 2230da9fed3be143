//! Calls to whoever is above: `SMC` and `HVC`.

use core::arch::asm;

macro_rules! call {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        pub(super) fn $name(arguments: [u64; 4]) -> i64 {
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
    /// `SMC #0`; x0 of the answer.
    monitor_call, "smc #0"
);
call!(
    /// `HVC #0`; x0 of the answer.
    hypervisor_call, "hvc #0"
);

/// PSCI SYSTEM_OFF.
pub(super) fn power_off() -> ! {
    monitor_call([0x8400_0008, 0, 0, 0]);
    loop {
        core::hint::spin_loop();
    }
}
