//! The identification registers.

use core::sync::atomic::{AtomicU64, Ordering};

use oche_boot::bare::selftest::{Verdict, print_line};

use super::cpu_code::ID_REGISTERS;

/// The names of each group's registers, as far as a CPU of this decade may have them.
const NAMES: [[&str; 8]; 4] = [
    ["pfr0", "pfr1", "pfr2", "c4-3", "zfr0", "smfr0", "c4-6", "fpfr0"],
    ["dfr0", "dfr1", "dfr2", "c5-3", "afr0", "afr1", "c5-6", "c5-7"],
    ["isar0", "isar1", "isar2", "isar3", "c6-4", "c6-5", "c6-6", "c6-7"],
    ["mmfr0", "mmfr1", "mmfr2", "mmfr3", "mmfr4", "c7-5", "c7-6", "c7-7"],
];

/// Reports each register that is not zero, of those that the boot CPU has read of itself.
pub(super) fn report(registers: &[AtomicU64; ID_REGISTERS]) {
    for (name, register) in NAMES.iter().flatten().zip(registers) {
        let value = register.load(Ordering::Relaxed);
        if value != 0 {
            let name = alloc::format!("id.{name}");
            print_line(&name, format_args!("{value:#x}"), "ID_AA64", Verdict::Figure);
        }
    }
}
