//! The identification registers.

use core::arch::asm;

use oche_boot::bare::selftest::{Verdict, print_line};

/// Reads all registers of the identification space for AArch64: `S3_0_C0_C4_0` to `S3_0_C0_C7_7`.
/// Those that have no name yet read as zero. Source: Arm ARM DDI 0487, "System instruction class
/// encoding overview", ID registers.
macro_rules! identification_registers {
    ($($group:literal),*) => {
        [$(identification_registers!(@row $group, "0", "1", "2", "3", "4", "5", "6", "7")),*]
    };
    (@row $group:literal, $($number:literal),*) => {
        [$({
            let value: u64;
            // SAFETY: reading an identification register has no effect.
            unsafe {
                asm!(
                    concat!("mrs {}, S3_0_C0_C", $group, "_", $number),
                    out(reg) value,
                    options(nomem, nostack, preserves_flags)
                )
            };
            value
        }),*]
    };
}

/// The names of each group's registers, as far as a CPU of this decade may have them.
const NAMES: [[&str; 8]; 4] = [
    ["pfr0", "pfr1", "pfr2", "c4-3", "zfr0", "smfr0", "c4-6", "fpfr0"],
    ["dfr0", "dfr1", "dfr2", "c5-3", "afr0", "afr1", "c5-6", "c5-7"],
    ["isar0", "isar1", "isar2", "isar3", "c6-4", "c6-5", "c6-6", "c6-7"],
    ["mmfr0", "mmfr1", "mmfr2", "mmfr3", "mmfr4", "c7-5", "c7-6", "c7-7"],
];

/// Reports each register that is not zero.
pub(super) fn report() {
    let groups = identification_registers!("4", "5", "6", "7");
    for (names, values) in NAMES.iter().zip(groups) {
        for (name, value) in names.iter().zip(values).filter(|(_, value)| *value != 0) {
            let name = alloc::format!("id.{name}");
            print_line(&name, format_args!("{value:#x}"), "ID_AA64", Verdict::Figure);
        }
    }
}
